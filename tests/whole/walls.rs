//! What a container or a client does to get out, to look in, or to bring the supervisor down.

use crate::harness::{Host, facts, pod, shell, until};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

fn tracer(name: &str, script: &str) -> Value {
    let mut container = shell(name, script);
    container["securityContext"] = json!({ "capabilities": { "add": ["SYS_PTRACE"] } });
    container
}

fn assert_supervised(host: &Host, name: &str) {
    assert_eq!(host.ps(name)[1], "Running", "the supervisor is alive");
}

#[test]
fn the_first_process_of_a_shared_namespace_has_nothing_to_be_looked_at() {
    let Some(host) = Host::new(&[]) else { return };
    let containers = json!([tracer("a", "sleep 1000"), shell("b", "sleep 1000")]);
    let spec = json!({ "shareProcessNamespace": true, "terminationGracePeriodSeconds": 1, "containers": containers });
    host.start(&pod("shared", spec));
    let seen =
        host.ok(&["exec", "-c", "a", "shared", "--", "sh", "-c", "ls -A /proc/1/root/ /proc/1/fd | grep -v '^/'"]);
    assert_eq!(seen.trim(), "", "pid 1 has an empty root and no descriptors");
    let status = host.ok(&["exec", "-c", "a", "shared", "--", "grep", "^Cap", "/proc/1/status"]);
    assert!(status.lines().all(|line| line.ends_with("\t0000000000000000")), "{status}");
}

#[test]
fn a_process_that_enters_a_container_brings_nothing_of_the_host() {
    let Some(host) = Host::new(&[]) else { return };
    let canary = host.path("canary");
    std::fs::write(&canary, "the host's own").unwrap();
    // Whoever may trace looks at every process that appears, as fast as it can.
    let look = format!(
        "echo ready; while :; do for p in /proc/[0-9]*; do cat $p/root{0} $p/fd/[0-9]*/../../..{0} 2>/dev/null; done; done",
        canary.display()
    );
    for (shared, host_users) in [(false, true), (true, true), (false, false), (true, false)] {
        let containers = json!([tracer("spy", &look), shell("other", "sleep 1000")]);
        let spec = json!({
            "shareProcessNamespace": shared, "hostUsers": host_users, "terminationGracePeriodSeconds": 1,
            "containers": containers,
        });
        host.start(&pod("spied", spec));
        host.live(&["logs", "-f", "spied", "-c", "spy"]).until_has("ready");
        for _ in 0..25 {
            host.ok(&["exec", "-c", "spy", "spied", "--", "true"]);
        }
        let seen = host.ok(&["logs", "spied", "-c", "spy"]);
        assert_eq!(seen, "ready\n", "shareProcessNamespace: {shared}, hostUsers: {host_users}");
        host.ok(&["rm", "-f", "spied"]);
    }
}

#[test]
fn a_container_that_starts_anew_shows_its_siblings_nothing_of_the_host() {
    let Some(host) = Host::new(&[]) else { return };
    let canary = host.path("canary");
    std::fs::write(&canary, "the host's own").unwrap();
    let look = format!(
        "echo ready; while :; do for p in /proc/[0-9]*; do cat $p/root{0} $p/cwd/../../../../..{0} 2>/dev/null; done; done",
        canary.display()
    );
    for host_users in [true, false] {
        let containers = json!([tracer("spy", &look), shell("other", "exit 0")]);
        let spec = json!({
            "shareProcessNamespace": true, "hostUsers": host_users, "terminationGracePeriodSeconds": 1,
            "containers": containers,
        });
        host.start(&pod("spied", spec));
        host.live(&["logs", "-f", "spied", "-c", "spy"]).until_has("ready");
        // Debug containers start as often as they are asked for, without a back-off.
        for _ in 0..8 {
            let debug = ["debug", "spied", "--image", "busybox", "-i", "--target", "spy", "--", "true"];
            host.run(&debug).expect(0);
        }
        assert_eq!(host.ok(&["logs", "spied", "-c", "spy"]), "ready\n", "hostUsers: {host_users}");
        host.ok(&["rm", "-f", "spied"]);
    }
}

#[test]
fn ends_and_messages_of_any_kind_do_not_end_the_supervisor() {
    let Some(host) = Host::new(&[]) else { return };
    let polite = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("c", polite)] });
    host.start(&pod("p", spec));
    host.run(&["exec", "p", "--", "sh", "-c", "kill -34 $$"]).expect(128 + 34);
    assert_supervised(&host, "p");
    let long = format!("/{}", "A".repeat(40_000));
    host.run(&["exec", "p", "--", &long]).expect(127);
    assert_supervised(&host, "p");
    host.ok(&["stop", "-t", "18446744073709551615", "p"]);
    let spec = json!({ "restartPolicy": "Never", "containers": [
        { "name": "c", "image": "busybox:1.28", "command": [long] } ] });
    host.foreground(&pod("q", spec)).expect(127);
}

#[test]
fn a_command_that_runs_on_does_not_hold_up_the_end_of_a_shared_namespace() {
    let Some(host) = Host::new(&[]) else { return };
    let containers = json!([shell("a", "sleep 1000"), shell("b", "sleep 1000")]);
    let spec = json!({ "shareProcessNamespace": true, "terminationGracePeriodSeconds": 1, "containers": containers });
    host.start(&pod("shared", spec));
    let mut exec = host.live(&["exec", "-c", "b", "shared", "--", "sh", "-c", "echo runs; exec sleep 1000"]);
    exec.until_has("runs");
    let before = Instant::now();
    host.ok(&["stop", "shared"]);
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
    assert_eq!(exec.wait(), 137);
}

#[test]
fn a_sibling_that_writes_into_ones_output_does_not_keep_it_from_ending() {
    let Some(host) = Host::new(&[]) else { return };
    // In a shared namespace `a` is process 2.
    let containers = json!([shell("a", "sleep 2"), shell("b", "sleep 0.5; exec yes forged > /proc/2/fd/1")]);
    let spec = json!({ "shareProcessNamespace": true, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": containers });
    host.start(&pod("forged", spec));
    until("a's end", || {
        let ended = host.status("forged", "a")["state"]["terminated"]["exitCode"].as_i64();
        ended.map(|code| assert_eq!(code, 0))
    });
    let before = Instant::now();
    host.ok(&["rm", "-f", "forged"]);
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
}

#[test]
fn many_who_connect_and_say_nothing_are_turned_away() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] });
    host.start(&pod("busy", spec));
    let socket = host.path("state").join("pods").join(host.uid("busy")).join("control.sock");
    let silent: Vec<OwnedFd> = (0..600).filter_map(|_| podshim::sys::socket::connect_to(&socket).ok()).collect();
    assert!(silent.len() > 256);
    assert_supervised(&host, "busy");
    drop(silent);
    until("an answer", || (host.run(&["exec", "busy", "--", "/facts", "exit", "3"]).code == 3).then_some(()));
}

#[test]
fn a_deep_tree_in_a_container_is_removed_with_it() {
    let Some(host) = Host::new(&[]) else { return };
    let dig = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; echo dug";
    let spec = json!({ "restartPolicy": "Never", "containers": [shell("c", dig)] });
    assert!(host.foreground(&pod("deep", spec)).expect(0).out.contains("dug"));
    host.assert_clean();
}

#[test]
fn a_supervisor_that_dies_under_a_foreground_run_is_told() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("c", "echo up; sleep 1000")] });
    let mut run = host.live(&["run", &host.manifest(&pod("orphan", spec))]);
    run.until_has("up");
    host.kill_supervisor("orphan");
    assert_eq!(run.wait(), 125);
    assert!(run.err().contains("ended unexpectedly"), "{}", run.err());
    host.assert_clean();
}

#[test]
fn check_answers_with_0_or_1() {
    let Some(host) = Host::bare(&[]) else { return };
    for wrong in ["/nosuch.yaml", "/dev/null", "/"] {
        host.run(&["check", wrong]).expect(1);
    }
}
