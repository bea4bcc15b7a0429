//! Containers that take what they can get, next to quiet ones which must not notice.

use crate::harness::{Host, Live, pod, shell, until, with};
use crate::leaks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A line five times a second.
const QUIET: &str = "trap 'exit 0' TERM; while :; do echo x; sleep 0.2; done";

/// How long a container that writes five lines a second may be without one.
const NOTICED: Duration = Duration::from_secs(1);

/// Fails if a container of one of these pods is held up.
#[track_caller]
fn assert_unheld(host: &Host, pods: &[&str], what: &str) {
    let times = |pod: &str| -> Vec<jiff::Timestamp> {
        let text = host.ok(&["logs", pod, "-c", "quiet", "--timestamps"]);
        text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
    };
    let mut pauses = Vec::new();
    // The machine may have other things to do: it is looked at again then.
    for _ in 0..3 {
        let before: Vec<usize> = pods.iter().map(|pod| times(pod).len()).collect();
        std::thread::sleep(Duration::from_millis(1500));
        let longest = |(pod, before): (&&str, usize)| {
            let new = times(pod).split_off(before);
            new.windows(2).map(|two| two[1].duration_since(two[0]).unsigned_abs()).max().unwrap_or(Duration::MAX)
        };
        pauses = pods.iter().zip(before).map(longest).collect();
        if pauses.iter().all(|pause| *pause <= NOTICED) {
            return;
        }
    }
    panic!("{what}: {pods:?} were held up: {pauses:?}");
}

#[test]
fn the_quiet_do_not_notice_the_loud() {
    let Some(host) = Host::new(&[]) else { return };
    let quiet = shell("quiet", QUIET);
    host.start(&pod("other", json!({ "terminationGracePeriodSeconds": 1, "containers": [quiet] })));
    let limited = json!({ "resources": { "limits": { "memory": "32Mi" } } });
    let loud = [
        ("flood", "while :; do yes | head -c 30000000; done", json!({})),
        ("forks", "b() { sleep 1 | b & }; while :; do b 2>/dev/null; done", json!({})),
        ("deaf", "trap '' TERM HUP INT; while :; do sleep 0.1; done", json!({})),
        ("zombies", "while :; do (sh -c 'true & exec sleep 1000' &) ; sleep 0.05; done", json!({})),
        // What is killed for it is a child that comes again and again; with cgroup v2 the container.
        ("hunger", "while :; do (x=0123456789abcdef; while :; do x=$x$x; done); echo $?; done", limited),
    ];
    for (name, script, more) in loud {
        let containers = [with(shell("loud", script), more), shell("quiet", QUIET)];
        let manifest =
            host.manifest(&pod("p", json!({ "terminationGracePeriodSeconds": 1, "containers": containers })));
        host.run(&["run", "-d", "--pids-limit", "100", &manifest]).expect(0);
        until("its first lines", || host.run(&["logs", "p", "-c", "quiet"]).out.contains('x').then_some(()));
        assert_unheld(&host, &["p", "other"], name);
        if name == "hunger" {
            let is_killed = || {
                host.ok(&["logs", "p", "-c", "loud"]).contains("137")
                    || host.ok(&["inspect", "p"]).contains("OOMKilled")
            };
            until("it to be killed for its hunger", || is_killed().then_some(()));
        }
        host.run(&["exec", "-c", "quiet", "p", "--", "sh", "-c", "exit 7"]).expect(7);
        let before = Instant::now();
        host.ok(&["rm", "p"]);
        assert!(before.elapsed() < Duration::from_secs(10), "{name}: {:?}", before.elapsed());
    }
    host.ok(&["rm", "-f", "other"]);
    until("nothing to be left", || host.leaks().is_empty().then_some(()));
}

/// Whoever does not read what he has asked for is in nobody's way but his own.
#[test]
fn output_that_nobody_reads_holds_nobody_up() {
    let Some(host) = Host::new(&[]) else { return };
    let containers = [shell("flood", "while :; do yes | head -c 3000000; sleep 0.05; done"), shell("quiet", QUIET)];
    let manifest = host.manifest(&pod("p", json!({ "terminationGracePeriodSeconds": 1, "containers": containers })));
    let mut run = host.command(&["run", &manifest]);
    // Pipes that are never read.
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the pod", || host.run(&["logs", "p", "-c", "quiet"]).out.contains('x').then_some(()));
    let mut follows = host.command(&["logs", "-f", "-c", "flood", "p"]);
    let mut follows = follows.stdout(Stdio::piped()).spawn().unwrap();
    let mut attach = host.command(&["attach", "-c", "flood", "p"]);
    let mut attach = attach.stdout(Stdio::piped()).spawn().unwrap();
    let mut exec = host.command(&["exec", "-c", "quiet", "p", "--", "yes"]);
    let mut exec = exec.stdout(Stdio::piped()).spawn().unwrap();
    assert_unheld(&host, &["p"], "nobody reads");
    let mut stop = Live::start(host.command(&["stop", "p"]));
    assert_eq!(stop.wait(), 0, "{}", stop.err());
    for one in [&mut follows, &mut attach, &mut exec, &mut run] {
        let _ = one.kill();
        one.wait().unwrap();
    }
    host.ok(&["rm", "-f", "p"]);
    until("nothing to be left", || host.leaks().is_empty().then_some(()));
}

/// The child of a pod's supervisor that removes what lies aside: it is there for a moment only.
fn remover(supervisor: i32) -> Option<Pid> {
    let at_it = |pid: i32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut open = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        open.any(|path| path.components().any(|part| part.as_os_str() == "discarded"))
    };
    leaks::children(supervisor).into_iter().find(|pid| at_it(*pid)).map(Pid::from_raw)
}

/// A pod of which one container has written a lot and ended, and the disk takes its time: what removes its layer is stopped.
fn slow_to_remove(host: &Host) -> Pid {
    let files = "awk 'BEGIN { for (i = 0; i < 20000; i++) { f = \"/d/\" i; print i > f; close(f) } }'";
    let script = format!("mkdir /d; {files}; while [ ! -e /go ]; do sleep 0.1; done; exit 3");
    let containers = [shell("writer", &script), shell("quiet", QUIET)];
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers });
    host.start(&pod("p", spec));
    let supervisor = host.supervisor("p");
    host.go("p", "writer");
    let slow = until("what removes the layer", || remover(supervisor));
    kill(slow, Signal::SIGSTOP).unwrap();
    slow
}

#[track_caller]
fn assert_ends(remover: Pid) {
    kill(remover, Signal::SIGCONT).unwrap();
    until("the end of what removed the layer", || leaks::has_ended(remover.as_raw()).then_some(()));
}

#[test]
fn a_layer_that_takes_long_to_be_removed_holds_nobody_up() {
    let Some(host) = Host::new(&[]) else { return };
    let slow = slow_to_remove(&host);
    assert_eq!(host.status("p", "writer")["state"]["terminated"]["exitCode"], 3);
    assert_unheld(&host, &["p"], "a layer is being removed");
    host.run(&["exec", "-c", "quiet", "p", "--", "sh", "-c", "exit 7"]).expect(7);
    // Nor whoever ends the pod.
    let before = Instant::now();
    assert_eq!(host.run(&["stop", "p"]).expect(0).err, "");
    host.run(&["rm", "p"]).expect(0);
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert_ends(slow);
    until("nothing to be left", || host.leaks().is_empty().then_some(()));
}

#[test]
fn a_layer_that_was_being_removed_when_the_supervisor_died_is_removed_by_the_next() {
    let Some(host) = Host::new(&[]) else { return };
    let slow = slow_to_remove(&host);
    let aside = host.path("root/pods").join(host.uid("p")).join("discarded");
    let lies_there = || std::fs::read_dir(&aside).unwrap().count();
    assert_eq!(lies_there(), 1);
    host.kill_supervisor("p");
    host.run(&["exec", "-c", "quiet", "p", "--", "sh", "-c", "exit 7"]).expect(7);
    until("the layer to be gone", || (lies_there() == 0).then_some(()));
    assert_ends(slow);
    host.ok(&["rm", "p"]);
    until("nothing to be left", || host.leaks().is_empty().then_some(()));
}
