//! A command is killed at any moment, as the OOM killer or a user does it. What it was about has happened, goes on, or has not
//! happened; and the next command puts away what is left.
//!
//! Moments are spread evenly over the time that the command takes here, and a little longer, and over the system calls that it makes:
//! there whatever it started is killed likewise, when it comes to its call of the kind. So is the supervisor that does what is asked
//! for. Peers' figures are in the project's `faults.md` §1.1 and §1.2: of 200 kills, `runc create` leaves the cgroups of 125
//! containers that its `delete -f` does not remove, `podman run` 55 network namespaces.

use crate::harness::{Host, Live, available, binary, facts, image_files, pod, shell, until, until_or};
use crate::leaks;
use crate::lives::{BOUND, comes, ended};
use crate::registry::{Debian, Sample};
use crate::rig::{Case, Content, calls, is_long};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

/// How often each command is killed.
fn kills() -> u32 {
    if is_long() { 200 } else { 30 }
}

/// Everything that a pod may have on the host: an init container, two containers, volumes, a place on the bridge, a host port.
fn everything(name: &str) -> Value {
    let with_volumes = |mut container: Value| {
        container["volumeMounts"] = json!([{ "name": "m", "mountPath": "/m" }, { "name": "d", "mountPath": "/d" }]);
        container
    };
    let mut server = with_volumes(facts("a", &["sleep"]));
    server["ports"] = json!([{ "containerPort": 80, "hostPort": 8080 }]);
    let spec = json!({ "terminationGracePeriodSeconds": 2, "initContainers": [with_volumes(facts("init", &["exit", "0"]))],
        "volumes": [{ "name": "m", "emptyDir": { "medium": "Memory" } }, { "name": "d", "emptyDir": {} }],
        "containers": [server, with_volumes(shell("b", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done"))] });
    pod(name, spec)
}

/// When a command is killed.
enum Moment {
    After(Duration),
    /// Before one of its calls.
    At(Case),
    /// Not the command, but the pod's supervisor, before a call that it makes for it.
    Supervisor(Case),
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::After(time) => write!(f, "kill after {time:?}"),
            Moment::At(case) => write!(f, "{case}"),
            Moment::Supervisor(case) => write!(f, "{case} of the supervisor"),
        }
    }
}

/// How long a command takes that is let alone.
fn usual(host: &Host, args: &[&str]) -> Duration {
    let begin = Instant::now();
    host.ok(args);
    begin.elapsed()
}

/// One of as many parts of that time as there are kills, and of a little more.
fn part(usual: Duration, nth: u32) -> Duration {
    usual * nth * 11 / (kills() * 10)
}

/// As many moments of its time as of its calls, and of those of the pod's supervisor. `prepare` makes that it can be said.
fn moments(host: &Host, args: &[&str], prepare: impl Fn()) -> Vec<Moment> {
    prepare();
    let usual = usual(host, args);
    let mut all: Vec<_> = (0..kills()).map(|nth| Moment::After(part(usual, nth))).collect();
    if !available(&["strace"]) {
        return all;
    }
    let spread = |calls: Vec<(String, u32)>, at: fn(Case) -> Moment| {
        (0..kills() as usize).map(move |nth| {
            let (call, nth) = calls[nth * calls.len() / kills() as usize].clone();
            // Each is told of to the end of the test.
            at(Case { call: call.leak(), error: "SIGKILL", nth })
        })
    };
    prepare();
    all.extend(spread(calls(&without_inits(&traced(host, args, &[]))), Moment::At));
    if ["exec", "stop", "rm"].contains(&args[0]) {
        prepare();
        all.extend(spread(calls(&beside_supervisor(host, args, &[])), Moment::Supervisor));
    }
    all
}

/// A trace without the processes that have become a container's: one that is killed at each start has the command wait for the next,
/// as a kubelet does. That they end in the middle is shown in `syscalls`.
fn without_inits(trace: &str) -> String {
    let becomes_one = |line: &&str| line.contains(" execve(\"/facts\"") || line.contains(" execve(\"/bin/sh\"");
    let inits: BTreeSet<&str> = trace.lines().filter(becomes_one).filter_map(|line| line.split(' ').next()).collect();
    let others = trace.lines().filter(|line| !inits.contains(line.split(' ').next().unwrap_or_default()));
    others.map(|line| format!("{line}\n")).collect()
}

/// Runs a command below strace(1) until it has ended: the trace.
fn traced(host: &Host, args: &[&str], options: &[String]) -> String {
    let (path, podshim) = (host.path("trace"), binary());
    let _ = std::fs::remove_file(&path);
    let mut strace = vec!["strace", "-f", "-I", "2", "-o", path.to_str().unwrap()];
    strace.extend(options.iter().map(String::as_str));
    strace.push(podshim.to_str().unwrap());
    let mut live = Live::start(host.command_by(&strace, args));
    let trace = || std::fs::read_to_string(&path).unwrap_or_default();
    assert!(comes(BOUND, || ended(&trace()).is_some()), "{args:?} {options:?} hangs: {}", live.err());
    // What it started goes on without being traced.
    live.signal(Signal::SIGTERM);
    live.wait();
    trace()
}

/// Runs a command while the supervisor of pod `p` is traced: the trace.
fn beside_supervisor(host: &Host, args: &[&str], options: &[String]) -> String {
    let (path, supervisor) = (host.path("trace"), host.supervisor("p").to_string());
    let _ = std::fs::remove_file(&path);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-I", "2", "-p", &supervisor, "-o"]).arg(&path).args(options);
    let mut tracer = Live::start(strace);
    until("strace", || tracer.err().contains("attached").then_some(()));
    host.live(args).wait();
    tracer.signal(Signal::SIGTERM);
    tracer.wait();
    std::fs::read_to_string(&path).unwrap_or_default()
}

/// Kills a command at a moment.
fn killed(host: &Host, args: &[&str], moment: &Moment) {
    match moment {
        Moment::After(time) => {
            let mut live = host.live(args);
            std::thread::sleep(*time);
            // It may have ended; nobody else has its pid, as it was not waited for.
            live.signal(Signal::SIGKILL);
            live.wait();
        }
        Moment::At(case) => drop(traced(host, args, &case.options())),
        Moment::Supervisor(case) => drop(beside_supervisor(host, args, &case.options())),
    }
}

/// A host with a network of its own: its name.
fn with_network() -> Option<(Host, String)> {
    let host = Host::new(&["ip", "nft"])?;
    let network = host.own_network();
    Some((host, network))
}

/// Waits until nothing is left: what was killed may have left somebody who is about to end.
#[track_caller]
fn assert_soon_clean((host, network): (&Host, &str), when: &Moment) {
    let deadline = Instant::now() + Duration::from_secs(5);
    // Half a reservation has no name yet: it is swept by whoever makes the next pod, or by this.
    host.ok(&["recover", "--all"]);
    loop {
        // The network namespace is the test's own.
        let mut left: Vec<String> = host.leaks().into_iter().filter(|line| !line.contains(network)).collect();
        left.extend(leaks::on_network(network));
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{when}: {left:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn run_killed_at_any_moment_is_done_or_can_be_undone() {
    let Some((host, network)) = with_network() else { return };
    let manifest = host.manifest(&everything("p"));
    let args = ["run", "-d", &manifest];
    let moments = moments(&host, &args, || drop(host.ok(&["rm", "-f", "p"])));
    host.ok(&["rm", "-f", "p"]);
    let mut ran = 0;
    for when in &moments {
        killed(&host, &args, when);
        let listed = host.ok(&["ps", "-q"]);
        // Its supervisor goes on without it; before it had one, nothing is begun.
        let again = host.run(&["run", "-d", &manifest]);
        if again.code == 0 {
            assert_eq!(host.ps("p")[..2], ["2/2", "Running"].map(str::to_owned));
        } else {
            assert_eq!(listed, "default/p\n", "{when}");
            again.expect(125).says(&["already exists"]);
            ran += u32::from(host.ps("p")[1] == "Running");
        }
        host.ok(&["rm", "-f", "p"]);
        assert_soon_clean((&host, &network), when);
    }
    eprintln!("run: {} kills; {ran} pods ran nevertheless", moments.len());
}

#[test]
fn rm_killed_at_any_moment_can_be_said_again() {
    let Some((host, network)) = with_network() else { return };
    let start = || host.start(&everything("p"));
    for when in &moments(&host, &["rm", "-f", "p"], start) {
        start();
        killed(&host, &["rm", "-f", "p"], when);
        // Half of it is no pod that is shown as if it ran.
        let shown = host.ok(&["ps"]);
        let runs = !leaks::processes(|p| p.cgroup.contains(&host.cgroup_parent)).is_empty();
        assert!(runs || !shown.contains("Running"), "{when}:\n{shown}");
        host.ok(&["rm", "-f", "p"]);
        assert_soon_clean((&host, &network), when);
    }
}

#[test]
fn stop_killed_at_any_moment_is_done_or_not() {
    let Some((host, _)) = with_network() else { return };
    let start = || {
        host.ok(&["rm", "-f", "p"]);
        host.start(&everything("p"));
        until("its handler", || (host.ok(&["logs", "p", "b"]) == "ready\n").then_some(()));
    };
    for when in &moments(&host, &["stop", "p"], start) {
        start();
        let begin = Instant::now();
        killed(&host, &["stop", "p"], when);
        // Asked for, it is done by the supervisor; else it is asked for now.
        host.ok(&["stop", "p"]);
        assert!(begin.elapsed() < Duration::from_secs(5), "{when}: {:?}", begin.elapsed());
        for container in ["a", "b"] {
            let status = host.status("p", container);
            let code = &status["state"]["terminated"]["exitCode"];
            assert_eq!(code, if container == "a" { 0 } else { 3 }, "{when}: {status}");
        }
        // Those whose supervisor was killed are for the host's first process to wait for.
        let left = || leaks::processes(|p| p.cgroup.contains(&host.cgroup_parent));
        until_or(|| format!("{when}: {:?}", left()), || left().is_empty().then_some(()));
    }
}

#[test]
fn exec_killed_at_any_moment_does_not_touch_the_container() {
    let Some((host, _)) = with_network() else { return };
    host.start(&everything("p"));
    let of_container = format!("{}/podshim/pod{}/b", host.cgroup_parent, host.uid("p"));
    let (first, all) = (host.pid("p", "b"), || leaks::processes_in(&of_container));
    let script = "echo begun; sleep 0.05; echo done";
    let args = ["exec", "-c", "b", "p", "--", "sh", "-c", script];
    let prepare = || drop(host.ok(&["recover", "p"]));
    for when in &moments(&host, &args, prepare) {
        prepare();
        killed(&host, &args, when);
    }
    // The container's own, and its `sleep`.
    until("the commands' ends", || (all().len() <= 2).then_some(()));
    assert_eq!((host.pid("p", "b"), host.status("p", "b")["restartCount"].as_u64()), (first, Some(0)));
    assert_eq!(host.ok(&args), "begun\ndone\n");
}

#[test]
fn import_killed_at_any_moment_leaves_no_half_image() {
    let Some(host) = Host::bare(&[]) else { return };
    let archive = image_files().join("busybox.oci.tar");
    assert_content_survives(&host, &["image", "import", archive.to_str().unwrap()]);
}

#[test]
fn pull_killed_at_any_moment_leaves_no_half_image() {
    let Some(host) = Host::bare(&["docker-registry"]) else { return };
    let registry = Debian::plain(host.path("registry"));
    registry.push("team/app", "v1", &Sample::new("pulled"));
    assert_content_survives(&host, &["image", "pull", &format!("127.0.0.1:{}/team/app:v1", registry.port)]);
    drop(registry);
    std::fs::remove_dir_all(host.path("registry")).unwrap();
}

/// Kills what takes in an image, and takes it in again: always the same content, and nothing beside it.
fn assert_content_survives(host: &Host, args: &[&str]) {
    let prune = || drop(host.ok(&["image", "prune", "-a"]));
    let moments = moments(host, args, prune);
    let whole = Content::below(&host.path("root"));
    assert!(whole.files() > 3, "{whole:?}");
    let (mut done, mut left) = (0, 0);
    for when in &moments {
        prune();
        killed(host, args, when);
        let listed = host.ok(&["image", "ls", "-q"]);
        let found = Content::below(&host.path("root"));
        // An image that is listed is whole.
        assert!(listed.is_empty() || found.has_all_of(&whole), "{when}: {found:?}\nwhole: {whole:?}");
        done += u32::from(!listed.is_empty());
        left += u32::from(listed.is_empty() && found.files() > 0);
        host.ok(args);
        assert_eq!(Content::below(&host.path("root")), whole, "{when}");
    }
    eprintln!("{}: {} kills, {done} too late, {left} left something for the next", args[1], moments.len());
}

#[test]
fn commands_and_supervisors_killed_together_leave_nothing() {
    let Some((host, network)) = with_network() else { return };
    let manifest = host.manifest(&everything("p"));
    let usual = usual(&host, &["run", "-d", &manifest]);
    host.ok(&["rm", "-f", "p"]);
    let state = host.path("state").to_str().unwrap().to_owned();
    let mut seen = [0, 0, 0];
    for nth in 0..kills() {
        let time = part(usual, nth);
        let mut run = host.live(&["run", "-d", &manifest]);
        std::thread::sleep(time);
        // All of podshim's own at once, as when the service that started it is killed; what runs in containers is not.
        let own = |p: &leaks::Process| p.cmdline.contains("supervise-pod") && p.cmdline.contains(&state);
        for process in leaks::processes(|p| own(p) && !p.cgroup.contains("/podshim/pod")) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        run.signal(Signal::SIGKILL);
        run.wait();
        // Half the time it is recovered before it goes: it runs, or has ended if nothing was there to go on with.
        if nth % 2 == 0 && !host.ok(&["ps", "-q"]).is_empty() {
            let settled = until("the pod", || {
                host.ok(&["recover", "--all"]);
                let table = host.ok(&["ps"]);
                let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
                match row[..] {
                    // A supervisor that was too young to be found has undone what nobody waits for any more.
                    [] => Some(0),
                    [_, _, _, status, ..] if status.ends_with("ContainerStatusUnknown") => Some(1),
                    [_, _, "2/2", "Running", ..] => Some(2),
                    _ => None,
                }
            });
            seen[settled] += 1;
        }
        host.ok(&["rm", "-f", "p"]);
        assert_soon_clean((&host, &network), &Moment::After(time));
    }
    let [undone, ended, ran] = seen;
    eprintln!("run and supervisor: {} kills; recovered: {ended} had ended, {ran} ran; {undone} were undone", kills());
}

/// The program that a terminal's end takes with it.
#[test]
fn a_shell_that_is_killed_takes_a_foreground_pod_down_or_leaves_it_to_be_removed() {
    let Some((host, network)) = with_network() else { return };
    let manifest = host.manifest(&everything("p"));
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGKILL] {
        let mut run = Live::start(host.command(&["run", &manifest]));
        until("the pod", || host.run(&["ps"]).out.contains("2/2").then_some(()));
        run.signal(signal);
        run.wait();
        if signal == Signal::SIGKILL {
            assert_eq!(host.ps("p")[1], "Running", "nobody was told to end it");
            host.ok(&["rm", "-f", "p"]);
        }
        assert_soon_clean((&host, &network), &Moment::After(Duration::ZERO));
    }
}
