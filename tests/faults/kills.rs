//! A command is killed at any moment, as the OOM killer or a user does it: only its own process. What it was about has happened, goes
//! on, or has not happened; and the next command puts away what is left.
//!
//! Moments are spread evenly over the time that the command takes here, and a little longer. Peers' figures are in the project's
//! `faults.md` §1.1 and §1.2: of 200 kills, `runc create` leaves the cgroups of 125 containers that its `delete -f` does not remove,
//! `podman run` 55 network namespaces.

use crate::harness::{Host, Live, facts, image_files, pod, shell, until};
use crate::leaks;
use crate::registry::{Debian, Sample};
use crate::rig::{Content, is_long};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
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

/// How long a command takes that is let alone.
fn usual(host: &Host, args: &[&str]) -> Duration {
    let begin = Instant::now();
    host.ok(args);
    begin.elapsed()
}

/// Kills a command after a part of its usual time; its exit code.
fn killed(host: &Host, args: &[&str], usual: Duration, nth: u32) -> i32 {
    let mut live = host.live(args);
    std::thread::sleep(usual * nth * 11 / (kills() * 10));
    // It may have ended; nobody else has its pid, as it was not waited for.
    live.signal(Signal::SIGKILL);
    live.wait()
}

/// A host with a network of its own: its name.
fn with_network() -> Option<(Host, String)> {
    let host = Host::new(&["ip", "nft"])?;
    let network = host.own_network();
    Some((host, network))
}

/// Waits until nothing is left: what was killed may have left somebody who is about to end.
#[track_caller]
fn assert_soon_clean((host, network): (&Host, &str), nth: u32) {
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
        assert!(Instant::now() < deadline, "after kill {nth}: {left:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn run_killed_at_any_moment_is_done_or_can_be_undone() {
    let Some((host, network)) = with_network() else { return };
    let manifest = host.manifest(&everything("p"));
    let usual = usual(&host, &["run", "-d", &manifest]);
    host.ok(&["rm", "-f", "p"]);
    let mut ran = 0;
    for nth in 0..kills() {
        killed(&host, &["run", "-d", &manifest], usual, nth);
        let listed = host.ok(&["ps", "-q"]);
        // Its supervisor goes on without it; before it had one, nothing is begun.
        let again = host.run(&["run", "-d", &manifest]);
        if again.code == 0 {
            assert_eq!(host.ps("p")[..2], ["2/2", "Running"].map(str::to_owned));
        } else {
            assert_eq!(listed, "default/p\n", "kill {nth}");
            again.expect(125).says(&["already exists"]);
            ran += u32::from(host.ps("p")[1] == "Running");
        }
        host.ok(&["rm", "-f", "p"]);
        assert_soon_clean((&host, &network), nth);
    }
    eprintln!("run: {} kills; {ran} pods ran nevertheless", kills());
}

#[test]
fn rm_killed_at_any_moment_can_be_said_again() {
    let Some((host, network)) = with_network() else { return };
    let start = || host.start(&everything("p"));
    start();
    let usual = usual(&host, &["rm", "-f", "p"]);
    for nth in 0..kills() {
        start();
        killed(&host, &["rm", "-f", "p"], usual, nth);
        // Half of it is no pod that is shown as if it ran.
        let shown = host.ok(&["ps"]);
        let runs = !leaks::processes(|p| p.cgroup.contains(&host.cgroup_parent)).is_empty();
        assert!(runs || !shown.contains("Running"), "kill {nth}:\n{shown}");
        host.ok(&["rm", "-f", "p"]);
        assert_soon_clean((&host, &network), nth);
    }
}

#[test]
fn stop_killed_at_any_moment_is_done_or_not() {
    let Some((host, _)) = with_network() else { return };
    let start = || host.start(&everything("p"));
    start();
    let usual = usual(&host, &["stop", "p"]);
    for nth in 0..kills() {
        host.ok(&["rm", "-f", "p"]);
        start();
        until("its handler", || (host.ok(&["logs", "p", "b"]) == "ready\n").then_some(()));
        let begin = Instant::now();
        killed(&host, &["stop", "p"], usual, nth);
        // Asked for, it is done by the supervisor; else it is asked for now.
        host.ok(&["stop", "p"]);
        assert!(begin.elapsed() < Duration::from_secs(5), "kill {nth}: {:?}", begin.elapsed());
        for container in ["a", "b"] {
            let status = host.status("p", container);
            let code = &status["state"]["terminated"]["exitCode"];
            assert_eq!(code, if container == "a" { 0 } else { 3 }, "kill {nth}: {status}");
        }
        assert!(leaks::processes(|p| p.cgroup.contains(&host.cgroup_parent)).is_empty());
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
    let usual = usual(&host, &args);
    for nth in 0..kills() {
        killed(&host, &args, usual, nth);
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
    let usual = usual(host, args);
    let whole = Content::below(&host.path("root"));
    assert!(whole.files() > 3, "{whole:?}");
    let (mut done, mut left) = (0, 0);
    for nth in 0..kills() {
        host.ok(&["image", "prune", "-a"]);
        killed(host, args, usual, nth);
        let listed = host.ok(&["image", "ls", "-q"]);
        let found = Content::below(&host.path("root"));
        // An image that is listed is whole.
        assert!(listed.is_empty() || found.has_all_of(&whole), "kill {nth}: {found:?}\nwhole: {whole:?}");
        done += u32::from(!listed.is_empty());
        left += u32::from(listed.is_empty() && found.files() > 0);
        host.ok(args);
        assert_eq!(Content::below(&host.path("root")), whole, "kill {nth}");
    }
    eprintln!("{}: {} kills, {done} too late, {left} left something for the next", args[1], kills());
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
        let mut run = host.live(&["run", "-d", &manifest]);
        std::thread::sleep(usual * nth * 11 / (kills() * 10));
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
        assert_soon_clean((&host, &network), nth);
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
        assert_soon_clean((&host, &network), 0);
    }
}
