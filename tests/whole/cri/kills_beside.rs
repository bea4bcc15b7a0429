//! The server, supervisors, and what works for them are killed where others take part in a pod's life: CNI plugins, NRI plugins,
//! OCI runtimes of the host.

use super::super::harness::{Host, Live, Numbers};
use super::super::leaks;
use super::client::{Cri, Kubelet, sandbox};
use super::kills::{Steady, nothing_is_lost};
use super::lives::{Rounds, Scene, Victim};
use super::plugins::{plugin, with_nri};
use super::runtimes::runtime;
use podshim::cri::api;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// The addresses that host-local has given away.
fn leases(host: &Host) -> Vec<String> {
    let files = std::fs::read_dir(host.path("leases/net")).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("10.98.")).map(|name| format!("lease {name}")).collect()
}

#[test]
fn with_cni_plugins_nothing_is_left_of_what_was_killed() {
    let Some(host) = Host::new(&["ip", "nft"]) else { return };
    let network = host.own_network();
    // No masquerading: a bridge plugin that is killed between the link's removal and that of the rules never finds these again.
    let plugins = json!([
        { "type": "bridge", "bridge": "cni0", "isGateway": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.98.0.0/24" }]], "dataDir": host.folder("leases"),
                    "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "tuning" },
    ]);
    let config = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": plugins });
    let conf = host.folder("net.d");
    std::fs::write(host.path("net.d/10-net.conflist"), config.to_string()).unwrap();
    let mut cri = Cri::start(&host, &format!("[network]\nconf_dir = {conf:?}\nbin_dirs = [\"/usr/lib/cni\"]\n"));
    let look = || [leases(&host), leaks::on_network(&network)].concat();
    let scene = Scene { host: &host, steady: Steady::new(&cri), look: &look };
    assert_eq!(leases(&host).len(), 1, "the steady pod's");
    let victims = [Victim::Server, Victim::Helper, Victim::Supervisor];
    let rounds = Rounds { scene, victims: &victims, count: count(42), seed: seed(1) };
    let outcome = rounds.run(&mut cri, |_, _| {});
    eprintln!("{outcome:?}");
    nothing_is_lost(&host, &cri, &rounds.scene.steady);
    cri.stop_sandbox(&rounds.scene.steady.id).unwrap();
    cri.remove_sandbox(&rounds.scene.steady.id).unwrap();
    assert_eq!(leases(&host), Vec::<String>::new());
}

/// The numbers of a test begin with its own, or with what PODSHIM_TEST_SEED says.
pub(super) fn seed(own: u64) -> u64 {
    number("PODSHIM_TEST_SEED").unwrap_or(own)
}

/// How many processes are killed, or as many as PODSHIM_TEST_KILLS says.
fn count(own: usize) -> usize {
    number("PODSHIM_TEST_KILLS").map_or(own, |number| number as usize)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Rounds of pods whose containers this runtime makes.
fn with_runtime(name: &str) {
    let Some(host) = Host::new(&["ip", "nft", name]) else { return };
    let network = host.own_network();
    let path = runtime(&host, name);
    let mut cri = Cri::start(&host, &format!("[runtime_handlers.{name}]\npath = {path:?}\n")).by(name);
    let look = || leaks::on_network(&network);
    let scene = Scene { host: &host, steady: Steady::new(&cri), look: &look };
    let victims = [Victim::Server, Victim::Supervisor, Victim::Helper];
    let rounds = Rounds { scene, victims: &victims, count: count(42), seed: seed(2) };
    let outcome = rounds.run(&mut cri, |_, _| {});
    eprintln!("{outcome:?}");
    nothing_is_lost(&host, &cri, &rounds.scene.steady);
    cri.stop_sandbox(&rounds.scene.steady.id).unwrap();
    cri.remove_sandbox(&rounds.scene.steady.id).unwrap();
}

#[test]
fn with_crun_nothing_is_left_of_what_was_killed() {
    with_runtime("crun");
}

#[test]
fn with_runc_nothing_is_left_of_what_was_killed() {
    with_runtime("runc");
}

/// A plugin that comes back each time the server does, and what it knows.
struct Agent {
    script: Value,
    live: Live,
    /// How many of its lines have been looked at.
    seen: usize,
    /// The pods and containers that it, or one before it, was told of, but for those that it refused.
    known: BTreeSet<String>,
}

impl Agent {
    fn new(script: Value) -> Agent {
        Agent { live: plugin(&script), script, seen: 0, known: BTreeSet::new() }
    }

    /// Each event is about what it knows.
    fn check(&mut self, round: &str) {
        let out = self.live.out();
        let lines: Vec<Value> = out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        for said in &lines[self.seen..] {
            let id = |field: &str| said[field].as_str().unwrap_or_default().to_owned();
            let is_new = match &*id("event") {
                "RunPodSandbox" if id("name").starts_with("refused") => continue,
                "RunPodSandbox" => self.known.insert(id("pod")),
                "CreateContainer" => self.known.contains(&id("pod")) && self.known.insert(id("container")),
                _ => true,
            };
            let all_known =
                ["pod", "container"].iter().all(|field| said[*field].is_null() || self.known.contains(&id(field)));
            assert!(is_new && all_known, "{round}: it has never heard of that: {said}");
        }
        self.seen = lines.len();
    }

    /// Another one after the server's end, which is told what there is, and no more.
    fn come_back(&mut self, cri: &Cri<'_>, round: &str) {
        let before = Listed::by(cri);
        self.live.wait();
        self.check(round);
        self.live = plugin(&self.script);
        self.seen = 0;
        // A container may come meanwhile that the server had asked for.
        let after = Listed::by(cri);
        assert!(after.all.is_subset(&self.known), "{round}: {:?} are not known: {:?}", after.all, self.known);
        let out = self.live.out();
        let said = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let told = said.into_iter().find(|said| said["event"] == "Synchronize").unwrap();
        let told: BTreeSet<String> = serde_json::from_value(told["ids"].clone()).unwrap();
        let is_right = before.ready.is_subset(&told) && told.is_subset(&after.ready);
        assert!(is_right, "{round}: {told:?} of {:?} and {:?}", before.ready, after.ready);
        // One that comes later still was told to the plugin before.
        self.known.extend(after.all);
    }
}

/// The ids of sandboxes and containers.
struct Listed {
    all: BTreeSet<String>,
    /// Of sandboxes that are ready, and of their containers.
    ready: BTreeSet<String>,
}

impl Listed {
    fn by(cri: &Cri<'_>) -> Listed {
        let (mut all, mut ready) = (BTreeSet::new(), BTreeSet::new());
        for sandbox in cri.sandboxes() {
            if sandbox.state() == api::PodSandboxState::SandboxReady {
                ready.insert(sandbox.id.clone());
            }
            all.insert(sandbox.id);
        }
        for container in cri.containers() {
            if ready.contains(&container.pod_sandbox_id) {
                ready.insert(container.id.clone());
            }
            all.insert(container.id);
        }
        Listed { all, ready }
    }
}

#[test]
fn with_nri_plugins_nothing_is_left_and_each_event_is_of_something_known() {
    let Some(host) = Host::new(&["go", "ip", "nft"]) else { return };
    let network = host.own_network();
    let socket = host.path("nri.sock");
    let mut cri = Cri::start(&host, &with_nri(&socket));
    let events =
        ["RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "StopPodSandbox"];
    let delay: serde_json::Map<String, Value> = events.map(|event| (event.to_owned(), json!(10))).into_iter().collect();
    let script = json!({ "socket": socket, "index": "10", "name": "agent", "refuse": "refused", "delay": delay });
    let mut agent = Agent::new(script);
    let look = || leaks::on_network(&network);
    let scene = Scene { host: &host, steady: Steady::new(&cri), look: &look };
    let seed = seed(3);
    let rounds =
        Rounds { scene, victims: &[Victim::Server, Victim::Server, Victim::Supervisor], count: count(42), seed };
    let mut server = cri.server.pid();
    let outcome = rounds.run(&mut cri, |cri, round| {
        // Its plugin ends with it, but perhaps a moment later.
        let before = std::mem::replace(&mut server, cri.server.pid());
        if before != server {
            agent.come_back(cri, round);
        }
        agent.check(round);
    });
    eprintln!("{outcome:?}");
    let mut numbers = Numbers(seed);
    for number in 0..8 {
        let round = format!("refusal {number} of seed {seed}");
        let config = sandbox(&host, &format!("refused{number}"));
        let (kubelet, wanted) = (Kubelet::new(cri.socket.clone()), config.clone());
        let asking = std::thread::spawn(move || kubelet.run_sandbox(&wanted));
        std::thread::sleep(Duration::from_millis(numbers.below(150)));
        cri.kill();
        asking.join().unwrap().unwrap_err();
        cri.restart();
        agent.come_back(&cri, &round);
        cri.run_sandbox(&config).unwrap_err();
        assert_eq!(cri.sandboxes().len(), 1, "{round}");
        agent.check(&round);
    }
    nothing_is_lost(&host, &cri, &rounds.scene.steady);
    cri.stop_sandbox(&rounds.scene.steady.id).unwrap();
    cri.remove_sandbox(&rounds.scene.steady.id).unwrap();
    agent.check("the end");
}
