//! The server is killed at any moment: containers go on, no line and no exit code is lost, and what it was doing can be taken up.

use super::super::harness::{Host, Numbers, until};
use super::super::leaks;
use super::client::{Cri, Kubelet, NOBODY, container, log, sandbox};
use super::rpcs::{self, Subject};
use nix::sched::{CloneFlags, setns};
use podshim::cri::api;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tonic::Status;

/// How often: each call of the API is hit several times.
const KILLS: usize = 200;
/// How often more, at most, for calls that were over too soon each time.
const MORE: usize = 100;

/// What a kubelet does until the server is killed.
struct Busy {
    kubelet: Kubelet,
    subject: Subject,
    /// The call that is to be hit, and who is told that it begins.
    target: (&'static str, Sender<()>),
    killed: Arc<AtomicBool>,
}

impl Busy {
    /// Makes all calls, again and again; which one the server's end has interrupted.
    fn run(self) -> Option<&'static str> {
        let mut interrupted = None;
        let mut call = |name: &'static str, make: &mut dyn FnMut() -> Result<(), Status>| {
            if name == self.target.0 {
                // Nobody listens any more at the second time.
                let _ = self.target.1.send(());
            }
            match make() {
                Err(status) if status.message().starts_with(NOBODY) => false,
                Err(_) if self.killed.load(Ordering::SeqCst) => {
                    interrupted = Some(name);
                    false
                }
                // A refusal is an answer too.
                _ => true,
            }
        };
        while rpcs::all(&self.kubelet, &self.subject, &mut call) {}
        interrupted
    }
}

/// The calls, and how long each takes.
fn rehearse(cri: &Cri<'_>, subject: &Subject) -> Vec<(&'static str, Duration)> {
    let mut all = Vec::new();
    rpcs::all(&Kubelet::new(cri.socket.clone()), subject, |name, make| {
        if name == rpcs::PULL {
            // It does not end by itself.
            all.push((name, Duration::from_millis(20)));
            return false;
        }
        let begin = Instant::now();
        make().unwrap_or_else(|status| panic!("{name}: {status}"));
        all.push((name, begin.elapsed()));
        true
    });
    all
}

/// A steady pod with two containers: one counts, one ends when it is told.
pub(super) struct Steady {
    pub(super) id: String,
    pub(super) counts: String,
    pub(super) ends: String,
}

impl Steady {
    pub(super) fn new(cri: &Cri<'_>) -> Steady {
        let config = sandbox(cri.host, "steady");
        let id = cri.sandbox(&config);
        let counts = cri.running((&id, &config), "counts", "n=0; while :; do echo $n; n=$((n+1)); sleep 0.01; done");
        let ends = cri.running((&id, &config), "ends", "while ! [ -e /end ]; do sleep 0.05; done; exit 42");
        Steady { id, counts, ends }
    }
}

/// Kills the server during a call, and starts another: how long it took until that answered, and what was interrupted.
fn kill_during(
    cri: &mut Cri<'_>,
    (target, after): (&'static str, Duration),
    subject: Subject,
    meanwhile: impl FnOnce(),
) -> (Duration, Option<&'static str>) {
    let (reached, begins) = channel();
    let killed = Arc::new(AtomicBool::new(false));
    let kubelet = Kubelet::new(cri.socket.clone());
    let busy = Busy { kubelet, subject, target: (target, reached), killed: killed.clone() };
    let busy = std::thread::spawn(|| busy.run());
    begins.recv_timeout(Duration::from_secs(60)).unwrap();
    std::thread::sleep(after);
    killed.store(true, Ordering::SeqCst);
    cri.kill();
    let interrupted = busy.join().unwrap();
    meanwhile();
    let begin = Instant::now();
    cri.restart();
    (begin.elapsed(), interrupted)
}

/// A registry in a network namespace that takes connections and never says anything.
fn stalling_registry(network: &str) -> TcpListener {
    let namespace = std::fs::File::open(format!("/run/netns/{network}")).unwrap();
    let listen = || {
        // This thread's own.
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind("127.0.0.1:0").unwrap()
    };
    std::thread::spawn(listen).join().unwrap()
}

#[test]
fn e7_the_server_can_be_killed_during_every_call() {
    let Some(host) = Host::new(&[]) else { return };
    let stalling = stalling_registry(&host.own_network());
    let stalling = format!("{}/stalling:1", stalling.local_addr().unwrap());
    let mut cri = Cri::start(&host, "");
    let steady = Steady::new(&cri);
    let subject = |name: &str| Subject {
        steady: (steady.id.clone(), steady.counts.clone()),
        config: sandbox(&host, name),
        stalling: stalling.clone(),
    };
    let first_pid = host_pid(&cri, &steady.counts);
    let calls = rehearse(&cri, &subject("rehearsal"));
    let seen = Seen::of(&cri, &steady);
    let mut missed: BTreeSet<&str> = calls.iter().map(|(name, _)| *name).collect();
    let (mut numbers, mut longest) = (Numbers(7), Duration::ZERO);
    let mut round = 0;
    while round < KILLS || (!missed.is_empty() && round < KILLS + MORE) {
        let (mut target, typical) = calls[round % calls.len()];
        if round >= KILLS {
            target = missed.first().unwrap();
        }
        let after = typical.mul_f64(numbers.below(1000) as f64 / 1000.0);
        let (took, interrupted) = kill_during(&mut cri, (target, after), subject(&format!("r{round}")), || {
            if round == KILLS / 2 {
                // It ends while nobody is there to see it.
                std::fs::write(format!("/proc/{}/root/end", host_pid_of(&host, "ends")), "").unwrap();
            }
        });
        longest = longest.max(took);
        if let Some(name) = interrupted {
            missed.remove(name);
        }
        check(&cri, &steady, &seen);
        for left in cri.sandboxes().into_iter().filter(|found| found.id != steady.id) {
            cri.stop_sandbox(&left.id).unwrap();
            cri.remove_sandbox(&left.id).unwrap();
        }
        assert_eq!(cri.sandboxes().len(), 1, "round {round}, {target}");
        round += 1;
    }
    eprintln!("{round} kills during {} calls; the server was back after {longest:?} at most", calls.len());
    assert!(missed.is_empty(), "never interrupted: {missed:?}");
    assert_eq!(host_pid(&cri, &steady.counts), first_pid, "it is the same process");
    nothing_is_lost(&host, &cri, &steady);
    cri.stop_sandbox(&steady.id).unwrap();
    cri.remove_sandbox(&steady.id).unwrap();
    let state = host.path("state/pods");
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0, "run state of a pod is left");
    cri.server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(cri.server.wait(), 0);
}

/// A server that is killed while it starts a supervisor leaves a child that has its sockets until it executes that.
#[test]
fn a_killed_servers_sockets_are_waited_for() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let path = host.path("cri.sock");
    let held = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let child = std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(300));
        drop(held);
    });
    let cri = Cri::start(&host, "");
    child.join().unwrap();
    assert!(cri.sandboxes().is_empty());
}

/// The exit code of the container that ended, and each line of the one that counts.
pub(super) fn nothing_is_lost(host: &Host, cri: &Cri<'_>, steady: &Steady) {
    let ended = cri.status(&steady.ends).unwrap();
    assert_eq!((ended.state, ended.exit_code), (api::ContainerState::ContainerExited as i32, 42), "{ended:?}");
    let lines = log(host, "steady", "counts");
    let numbers: Vec<u64> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 100 && numbers.iter().copied().eq(0..numbers.len() as u64), "lines are missing or twice");
}

/// What is told of the steady pod; its containers in the order of their fields.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    sandbox: api::PodSandboxStatus,
    containers: [api::ContainerStatus; 2],
}

impl Seen {
    pub(super) fn of(cri: &Cri<'_>, steady: &Steady) -> Seen {
        let sandbox = cri.sandbox_status(&steady.id).unwrap();
        Seen { sandbox, containers: [&steady.counts, &steady.ends].map(|id| cri.status(id).unwrap()) }
    }

    /// Without what its end changes of the container that ends.
    fn without_end(&self) -> Seen {
        let [counts, ends] = self.containers.clone();
        let ends = api::ContainerStatus {
            state: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            ..ends
        };
        Seen { sandbox: self.sandbox.clone(), containers: [counts, ends] }
    }
}

/// The steady pod and its containers are as they were, each is there once, and nobody else's state is wrong.
pub(super) fn check(cri: &Cri<'_>, steady: &Steady, before: &Seen) {
    let seen = Seen::of(cri, steady);
    assert_eq!(seen.sandbox.state, api::PodSandboxState::SandboxReady as i32);
    assert!(seen.sandbox.network.as_ref().is_some_and(|network| !network.ip.is_empty()), "{seen:?}");
    assert_eq!(seen.containers[0].state, api::ContainerState::ContainerRunning as i32);
    assert_eq!(seen.without_end(), before.without_end());
    let all = cri.containers();
    let ids: BTreeSet<&String> = all.iter().map(|container| &container.id).collect();
    assert_eq!(ids.len(), all.len(), "a container is listed twice");
    for status in &seen.containers {
        let listed = all.iter().find(|container| container.id == status.id).expect("a container is lost");
        let told = (&listed.labels, listed.created_at, &listed.image_ref, &listed.metadata);
        assert_eq!(told, (&status.labels, status.created_at, &status.image_ref, &status.metadata));
    }
    for container in &all {
        let seen = cri.status(&container.id).unwrap();
        let is_same = seen.state == container.state;
        assert!(is_same || seen.state == api::ContainerState::ContainerExited as i32, "{seen:?}");
    }
}

pub(super) fn host_pid(cri: &Cri<'_>, id: &str) -> i64 {
    let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer = cri.call(|mut c| async move { c.container_status(request).await }).unwrap();
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    info["pid"].as_i64().unwrap()
}

/// The process of the steady container of this name, without asking the server.
pub(super) fn host_pid_of(host: &Host, name: &str) -> i64 {
    let pods = std::fs::read_dir(host.path("state/pods")).unwrap().flatten();
    let found = pods.into_iter().find_map(|pod| {
        let status: serde_json::Value =
            serde_json::from_slice(&std::fs::read(pod.path().join("status.json")).ok()?).ok()?;
        status["commanded"].as_array()?.iter().find_map(|container| {
            let id = container["id"].as_str()?;
            let record = std::fs::read_to_string(pod.path().join("containers").join(id).join("container.json")).ok()?;
            record.contains(&format!("/logs/steady/{name}/0.log")).then(|| container["pid"].as_i64())?
        })
    });
    found.unwrap()
}

/// The supervisors of a sandbox: what they start is not the first of its session, or in the sandbox's cgroups.
pub(super) fn supervisors(host: &Host, id: &str) -> Vec<i32> {
    let state = host.path("state/pods").join(id);
    let is_one = |p: &leaks::Process| {
        p.cmdline.contains("supervise-pod") && p.cmdline.contains(state.to_str().unwrap()) && !p.cgroup.contains(id)
    };
    leaks::processes(is_one).iter().map(|process| process.pid).filter(|pid| leaks::leads_session(*pid)).collect()
}

/// As [`leaks::kill_supervisor`], of a sandbox.
pub(super) fn kill_supervisor(host: &Host, id: &str) {
    let found = supervisors(host, id);
    assert_eq!(found.len(), 1, "supervisors");
    leaks::kill(found[0]);
}

/// Kills a sandbox's supervisor, and leaves what there is if that happens before the sandbox is set up.
pub(super) fn kill_early(host: &Host, id: &str) {
    kill_supervisor(host, id);
    for file in ["kept.json", "status.json"] {
        std::fs::remove_file(host.path("state/pods").join(id).join(file)).unwrap();
    }
}

#[test]
fn e7_a_supervisor_that_is_killed_has_another_one_in_its_place() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let count = "n=0; while ! [ -e /end ]; do echo $n; n=$((n+1)); sleep 0.01; done; exit 42";
    let counts = cri.running((&id, &config), "counts", count);
    let waits = cri.create((&id, &config), &container("waits", "echo at last; sleep 1000")).unwrap();
    let pid = host_pid(&cri, &counts);
    for round in 0..10 {
        let before = supervisors(&host, &id);
        if round % 3 == 2 {
            // Both are: whoever comes first sees to it.
            cri.kill();
            kill_supervisor(&host, &id);
            std::thread::sleep(Duration::from_millis(50));
            cri.restart();
        } else {
            kill_supervisor(&host, &id);
        }
        until("another supervisor", || {
            let found = supervisors(&host, &id);
            (found.len() == 1 && found != before).then_some(())
        });
        until("the sandbox", || {
            let is_ready = api::PodSandboxState::SandboxReady as i32;
            (cri.sandbox_status(&id).ok()?.state == is_ready).then_some(())
        });
        let events = host.run(&["events"]).out;
        assert_eq!(host_pid(&cri, &counts), pid, "round {round}: it is the same process: {events}");
        let status = cri.status(&waits).unwrap();
        assert_eq!(status.state, api::ContainerState::ContainerCreated as i32, "round {round}: {status:?}");
    }
    until("the start", || cri.start_container(&waits).ok());
    until("its word", || (log(&host, "p", "waits") == ["at last"]).then_some(()));
    until("lines", || (log(&host, "p", "counts").len() > 50).then_some(()));
    std::fs::write(format!("/proc/{pid}/root/end"), "").unwrap();
    let status = cri.until_exited(&counts);
    assert_eq!((&*status.reason, status.exit_code), ("Error", 42));
    let lines = log(&host, "p", "counts");
    let numbers: Vec<usize> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.iter().zip(0..).find(|(number, expected)| *number != expected), None, "missing, or twice");
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
    cri.server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(cri.server.wait(), 0);
    // The killed supervisors' children are the host's pid 1's to reap.
    let is_process = |left: &String| left.starts_with("process");
    until("end of all processes", || (!host.leaks().iter().any(is_process)).then_some(()));
}

#[test]
fn a_sandbox_whose_supervisor_hangs_is_ended_by_another_one() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let made = cri.running((&id, &config), "c", "sleep 1000");
    let hangs = nix::unistd::Pid::from_raw(supervisors(&host, &id)[0]);
    nix::sys::signal::kill(hangs, nix::sys::signal::Signal::SIGSTOP).unwrap();
    // It holds up neither another server nor what others ask for.
    cri.kill();
    cri.restart();
    let other = cri.sandbox(&sandbox(&host, "other"));
    cri.remove_sandbox(&other).unwrap();
    assert_eq!(cri.status(&made).unwrap().state(), api::ContainerState::ContainerRunning);
    cri.stop_sandbox(&id).unwrap();
    assert_eq!(cri.status(&made).unwrap().exit_code, 137);
    cri.remove_sandbox(&id).unwrap();
    assert_eq!(std::fs::read_dir(host.path("state/pods")).unwrap().count(), 0);
}

#[test]
fn what_is_asked_while_a_sandbox_gets_another_supervisor_is_done() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let mut numbers = Numbers(4);
    for round in 0..15 {
        kill_supervisor(&host, &id);
        std::thread::sleep(Duration::from_millis(numbers.below(60)));
        let made = cri.create((&id, &config), &container(&format!("c{round}"), "sleep 1000"));
        cri.start_container(&made.unwrap()).unwrap();
    }
    cri.remove_sandbox(&id).unwrap();
}

#[test]
fn e7_a_container_that_is_stopped_while_its_supervisor_is_killed_takes_no_other_along() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let stays = cri.running((&id, &config), "stays", "sleep 1000");
    let pid = host_pid(&cri, &stays);
    for (round, how) in ["stop", "remove", "stop", "remove"].into_iter().enumerate() {
        let script = "trap 'echo told; sleep 1; exit 5' TERM; echo up; while :; do sleep 0.02; done";
        let name = format!("c{round}");
        let goes = cri.running((&id, &config), &name, script);
        until("its handler", || (!log(&host, "p", &name).is_empty()).then_some(()));
        let (kubelet, wanted) = (Kubelet::new(cri.socket.clone()), goes.clone());
        let asking = std::thread::spawn(move || match how {
            "stop" => kubelet.stop(&wanted, 30),
            _ => kubelet.stop(&wanted, 30).and_then(|()| kubelet.remove(&wanted)),
        });
        until("the signal", || (log(&host, "p", &name).len() == 2).then_some(()));
        kill_supervisor(&host, &id);
        asking.join().unwrap().unwrap();
        let status = cri.status(&goes);
        assert!(how == "remove" || status.as_ref().is_ok_and(|status| status.exit_code == 5), "{status:?}");
        assert_eq!(
            cri.sandbox_status(&id).unwrap().state(),
            api::PodSandboxState::SandboxReady,
            "{}",
            cri.server.err()
        );
        assert_eq!(cri.status(&stays).unwrap().state(), api::ContainerState::ContainerRunning);
        assert_eq!(host_pid(&cri, &stays), pid);
    }
    cri.remove_sandbox(&id).unwrap();
}

#[test]
fn a_sandbox_that_was_never_set_up_goes_with_the_server_that_was_to_make_it() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    for is_recovered in [false, true] {
        let id = cri.sandbox(&sandbox(&host, "p"));
        cri.kill();
        kill_early(&host, &id);
        if is_recovered {
            // As a server does that is killed while it takes it away: it has ended, and is still there.
            host.ok(&["recover", "--all"]);
        }
        cri.restart();
        assert!(cri.sandboxes().is_empty(), "nobody has heard of it; {is_recovered}");
        assert_eq!(std::fs::read_dir(host.path("state/pods")).unwrap().count(), 0);
    }
    let again = cri.sandbox(&sandbox(&host, "p"));
    cri.remove_sandbox(&again).unwrap();
}

#[test]
fn a_sandbox_that_was_put_on_the_network_in_part_leaves_nothing_there() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let [stays, goes] = ["stays", "goes"].map(|name| cri.sandbox(&sandbox(&host, name)));
    let members = host.path("state/network/members");
    // As one leaves it who is killed while he writes it.
    std::fs::rename(members.join(format!("{goes}.json")), members.join(format!("{goes}.json.tmp"))).unwrap();
    cri.stop_sandbox(&goes).unwrap();
    cri.remove_sandbox(&goes).unwrap();
    let left: Vec<_> = std::fs::read_dir(members).unwrap().flatten().map(|file| file.file_name()).collect();
    assert_eq!(left, [&*format!("{stays}.json")]);
    cri.remove_sandbox(&stays).unwrap();
}

#[test]
fn a_container_that_saw_its_supervisor_go_before_it_was_started_is_as_it_was_created() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    // An init that is told nothing ends with this code.
    let made = cri.running((&id, &config), "c", "trap 'exit 125' TERM; while :; do sleep 0.05; done");
    let pid = host_pid(&cri, &made) as i32;
    cri.kill();
    kill_supervisor(&host, &id);
    until("the container's end", || {
        // Until it has its trap it does not hear it.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        leaks::has_ended(pid).then_some(())
    });
    // As they are when the supervisor is killed before it says the word.
    let pod = host.path("state/pods").join(&id);
    let change = |file: std::path::PathBuf, from: &str, to: &str| {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(file, text.replace(from, to)).unwrap();
    };
    change(pod.join("containers").join(&made).join("instance.json"), "\"Given\"", "\"Perhaps\"");
    change(pod.join("kept.json"), "\"Running\"", "\"Starting\"");
    cri.restart();
    until("it", || (cri.status(&made).ok()?.state() == api::ContainerState::ContainerCreated).then_some(()));
    cri.start_container(&made).unwrap();
    assert_eq!(cri.status(&made).unwrap().state(), api::ContainerState::ContainerRunning);
    cri.remove_sandbox(&id).unwrap();
}
