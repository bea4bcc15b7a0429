//! Several clients do whatever comes into their heads, to the same few pods at once, and somebody kills supervisors meanwhile; beside
//! them a pod that nobody touches, and one whose supervisor has a lot to do and is left alive. `PODSHIM_SOAK_SECONDS` says for how long (20; an hour in `scripts/faults.sh`), `PODSHIM_SEED` with
//! which numbers.

use crate::harness::{Host, Live, Numbers, facts, pod, shell, until, with};
use crate::leaks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How many clients there are, and how many names they fight for.
const CLIENTS: u64 = 4;
const NAMES: u64 = 5;
/// How much a supervisor may grow that lives as long as this, in KiB: pages that it first writes late.
const GROWTH: u64 = 64;

fn asked(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

/// What a client needs of the host: that itself stays with the thread of the test.
#[derive(Clone)]
struct Podshim {
    words: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    state: PathBuf,
    manifests: Vec<[String; 3]>,
}

impl Podshim {
    fn of(host: &Host) -> Podshim {
        let base = host.command(&[] as &[&str]);
        let words = [base.get_program()].into_iter().chain(base.get_args()).map(OsString::from).collect();
        let env = base.get_envs().map(|(key, value)| (key.to_owned(), value.map(OsString::from))).collect();
        let manifests = (0..NAMES).map(|n| {
            kinds(&format!("p{n}")).map(|(kind, pod)| {
                let path = host.path(&format!("p{n}-{kind}.json"));
                std::fs::write(&path, pod.to_string()).unwrap();
                path.to_str().unwrap().to_owned()
            })
        });
        Podshim { words, env, state: host.path("state"), manifests: manifests.collect() }
    }

    fn start(&self, args: &[&str]) -> Live {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(args).stdin(Stdio::null());
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        Live::start(command)
    }
}

/// Pods of a name: one that runs until it is stopped, one that ends by itself, one that falls over again and again.
fn kinds(name: &str) -> [(&'static str, Value); 3] {
    let spec = |extra: Value| {
        let volumes = json!([{ "name": "m", "emptyDir": { "medium": "Memory" } }, { "name": "d", "emptyDir": {} }]);
        with(json!({ "terminationGracePeriodSeconds": 1, "volumes": volumes }), extra)
    };
    let container =
        |script: &str| with(shell("c", script), json!({ "volumeMounts": [{ "name": "m", "mountPath": "/m" }] }));
    let probe = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    let runs = with(container("while :; do echo line; sleep 0.05; done"), json!({ "livenessProbe": probe }));
    [
        (
            "runs",
            pod(
                name,
                spec(json!({ "initContainers": [shell("i", "exit 0")], "containers": [runs, facts("s", &["sleep"])] })),
            ),
        ),
        ("ends", pod(name, spec(json!({ "restartPolicy": "Never", "containers": [container("sleep 0.2; exit 7")] })))),
        ("falls", pod(name, spec(json!({ "containers": [container("sleep 0.1; exit 1")] })))),
    ]
}

/// What was done how often, and how it ended.
type Tally = Mutex<BTreeMap<(String, i32), u64>>;

/// Does one thing after the other until time is up.
fn client(podshim: &Podshim, mut numbers: Numbers, until: Instant, tally: &Tally) {
    while Instant::now() < until {
        let nth = numbers.below(NAMES);
        let name = format!("p{nth}");
        let args: Vec<&str> = match numbers.below(15) {
            0..=3 => vec!["run", "-d", &podshim.manifests[nth as usize][numbers.below(3) as usize]],
            4 => vec!["exec", "-c", "c", &name, "--", "sh", "-c", "echo hello; sleep 0.05"],
            5 => vec!["logs", "--tail", "5", "-c", "c", &name],
            6 => vec!["ps"],
            7 => vec!["inspect", &name],
            8 => vec!["stop", &name],
            9 => vec!["rm", &name],
            10 => vec!["rm", "-f", &name],
            11 => vec!["exec", "-c", "c", "busy", "--", "sh", "-c", "echo hello; sleep 0.05"],
            12 => vec!["logs", "--tail", "5", "-c", "c", "busy"],
            13 => vec!["inspect", "busy"],
            _ => vec!["recover", "--all"],
        };
        let mut live = podshim.start(&args);
        let is_cut_off = numbers.below(10) == 0;
        if is_cut_off {
            std::thread::sleep(Duration::from_millis(numbers.below(40)));
            live.signal(Signal::SIGKILL);
        }
        let code = live.wait();
        if args[0] == "recover" && ![0, 137].contains(&code) {
            eprintln!("recover: {}", live.err());
        }
        assert!(!live.err().contains("panicked"), "{args:?}: {}", live.err());
        assert!([0, 1, 7, 125, 126, 130, 137, 143].contains(&code), "{args:?}: {code} {}", live.err());
        *tally.lock().unwrap().entry((args[0].to_owned(), if is_cut_off { -9 } else { code })).or_default() += 1;
    }
}

/// Kills a supervisor every now and then; never one of these.
fn killer(podshim: &Podshim, mut numbers: Numbers, until: Instant, spared: &[i32]) -> u64 {
    let mut killed = 0;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(numbers.below(600)));
        let mut found = leaks::supervisors(&podshim.state);
        found.retain(|process| !spared.contains(&process.pid));
        if let Some(victim) = found.get(numbers.below(found.len().max(1) as u64) as usize) {
            killed += u64::from(kill(Pid::from_raw(victim.pid), Signal::SIGKILL).is_ok());
        }
    }
    killed
}

/// What a supervisor has: open files, and KiB of memory that nobody shares.
fn size_of(pid: i32) -> (usize, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let dirty = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    (files, dirty.trim().trim_end_matches(" kB").parse().unwrap())
}

/// A pod that clients execute commands in, and ask for its logs, with probes and a container that falls over again and again.
fn busy() -> Value {
    let probe = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    let runs = with(shell("c", "while :; do echo line; sleep 0.05; done"), json!({ "livenessProbe": probe }));
    pod(
        "busy",
        json!({ "terminationGracePeriodSeconds": 0, "containers": [runs, shell("falls", "sleep 0.1; exit 1")] }),
    )
}

/// How many of the numbers that it counts the quiet pod has said; none is missing.
fn said(host: &Host) -> usize {
    let text = host.ok(&["logs", "quiet", "c"]);
    let lines: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.iter().copied().eq(0..lines.len()), "lines are missing: {lines:?}");
    lines.len()
}

#[test]
fn clients_that_do_anything_at_once_leave_nothing_and_disturb_nobody() {
    let Some(host) = Host::new(&["ip", "nft"]) else { return };
    host.own_network();
    let count = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.2; done";
    host.start(&pod(
        "quiet",
        json!({ "terminationGracePeriodSeconds": 0, "containers": [shell("c", count), facts("s", &["sleep"])] }),
    ));
    let (uid, first) = (host.uid("quiet"), host.pid("quiet", "c"));
    until("its lines", || (said(&host) > 5).then_some(()));
    host.start(&busy());
    let spared = ["quiet", "busy"].map(|name| host.supervisor(name));
    let mut before = spared.map(size_of);
    let (seconds, seed) = (asked("PODSHIM_SOAK_SECONDS", 20), asked("PODSHIM_SEED", 1));
    let end = Instant::now() + Duration::from_secs(seconds);
    let (podshim, tally) = (Podshim::of(&host), Tally::default());
    let killed = std::thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|n| {
            let (podshim, tally) = (&podshim, &tally);
            scope.spawn(move || client(podshim, Numbers(seed * 1000 + n), end, tally))
        });
        let clients: Vec<_> = clients.collect();
        let killer = scope.spawn(|| killer(&podshim, Numbers(seed * 1000 + 99), end, &spared));
        // By then the busy one has done all that it does once.
        let warm = Instant::now() + Duration::from_secs(seconds / 4);
        // What cannot go on is told now rather than in an hour.
        while Instant::now() < end && clients.iter().all(|client| !client.is_finished()) {
            let lines = said(&host);
            until("the quiet pod's next line", || (said(&host) > lines).then_some(()));
            std::thread::sleep(Duration::from_secs(1));
            if Instant::now() < warm {
                before[1] = size_of(spared[1]);
            }
        }
        clients.into_iter().for_each(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        killer.join().unwrap()
    });
    let done: u64 = tally.lock().unwrap().values().sum();
    eprintln!(
        "soak: seed {seed}, {seconds} s, {done} commands, {killed} supervisors killed: {:?}",
        tally.lock().unwrap()
    );
    // Whatever was left in the middle is put right, and nothing claims to run that does not.
    host.ok(&["recover", "--all"]);
    until("pods that are seen to", || {
        host.ok(&["recover", "--all"]);
        (!host.ok(&["ps"]).contains("SupervisorGone")).then_some(())
    });
    // Not the lowest: pids begin anew one day.
    let processes = leaks::processes_in(&format!("{}/podshim/pod{uid}/c", host.cgroup_parent));
    assert!(processes.contains(&first), "{processes:?} without {first}");
    assert_eq!(["quiet", "busy"].map(|name| host.supervisor(name)), spared);
    let after = spared.map(size_of);
    eprintln!("supervisors of the quiet pod and of the busy one: {before:?} (files, KiB) before, {after:?} after");
    // A command of a client's that was killed may be going on.
    let most = [before[0].0, before[1].0 + CLIENTS as usize * 4];
    for ((before, after), most) in before.iter().zip(&after).zip(most) {
        assert!(after.0 <= most && after.1 <= before.1 + GROWTH, "{before:?} became {after:?}");
    }
    host.ok(&["rm", "-f", "busy"]);
    for name in (0..NAMES).map(|n| format!("p{n}")) {
        host.ok(&["rm", "-f", &name]);
    }
    let left: Vec<String> =
        host.leaks().into_iter().filter(|line| line.contains("podshim/pod") && !line.contains(&uid)).collect();
    assert!(left.is_empty(), "{left:#?}");
    assert!(done > seconds * 5 && killed > 0, "{done} commands, {killed} kills");
}
