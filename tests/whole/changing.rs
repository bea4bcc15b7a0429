//! What changes about pods that run: `podshim debug` and `podshim apply`.

use crate::harness::{Host, Live, facts, pod, shell, until, with};
use crate::leaks::cgroup_file;
use serde_json::{Value, json};

fn applied(host: &Host, value: &Value) -> String {
    host.ok(&["apply", &host.manifest(value)])
}

#[test]
fn debug_joins_a_pod_and_is_of_no_consequence_for_it() {
    let Some(host) = Host::new(&[]) else { return };
    let server = facts("web", &["listen", "8080", "hello"]);
    host.start(&pod("seen", json!({ "containers": [server, facts("other", &["sleep"])] })));
    let before = host.pid("seen", "web");
    until("its port", || host.ok(&["logs", "seen", "-c", "web"]).contains("listening").then_some(()));
    // It reaches the pod on localhost, and ends with its own code.
    let script = "nc 127.0.0.1 8080 </dev/null; hostname; exit 6";
    let output =
        host.run(&["debug", "seen", "-i", "-c", "look", "--image", "busybox", "--", "sh", "-c", script]).expect(6);
    assert_eq!(output.out, "hello\nseen\n");
    // Input is passed on, and ends.
    let mut command = host.command(&["debug", "seen", "-i", "--image", "busybox", "--", "cat"]);
    command.stdin(std::process::Stdio::piped());
    let mut cat = Live::start(command);
    let mut stdin = cat.stdin();
    std::io::Write::write_all(&mut stdin, b"round trip\n").unwrap();
    drop(stdin);
    assert_eq!((cat.wait(), cat.out().as_str()), (0, "round trip\n"));
    assert!(cat.err().contains("Defaulting debug container name to debugger-"), "{}", cat.err());
    // Without -i it goes on by itself, under the name that is printed.
    let name = host.ok(&[
        "debug",
        "seen",
        "--image",
        "busybox",
        "-c",
        "stays",
        "--env",
        "A=b",
        "--",
        "sh",
        "-c",
        "echo $A; sleep 1000",
    ]);
    assert_eq!(name, "stays\n");
    crate::harness::until("its log", || (host.run(&["logs", "seen", "-c", "stays"]).out == "b\n").then_some(()));
    host.run(&["exec", "seen", "-c", "stays", "--", "true"]).expect(0);
    let status = host.status("seen", "look");
    assert_eq!((&status["restartCount"], &status["state"]["terminated"]["exitCode"]), (&json!(0), &json!(6)));
    let shown = host.inspect("seen");
    let names: Vec<&str> =
        shown["spec"]["ephemeralContainers"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!((names.len(), names[0], names[2]), (3, "look", "stays"));
    assert_eq!(host.ps("seen"), ["2/2", "Running", "0"].map(str::to_owned));
    assert_eq!(host.pid("seen", "web"), before);
}

#[test]
fn a_debug_container_that_cannot_start_does_not_end_a_pod_in_the_foreground() {
    let Some(host) = Host::new(&[]) else { return };
    let mut run =
        host.live(&["run", &host.manifest(&pod("front", json!({ "containers": [facts("c", &["trap-term", "0"])] })))]);
    run.until_has("ready");
    host.run(&["debug", "front", "--image", "busybox", "-c", "bad", "--", "/no-such"]).expect(127);
    host.run(&["debug", "front", "-i", "--image", "busybox", "-c", "good", "--", "true"]).expect(0);
    assert_eq!(host.ps("front"), ["1/1", "Running", "0"].map(str::to_owned));
    run.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(run.wait(), 130, "{}", run.err());
}

#[test]
fn debug_sees_the_processes_of_its_target() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod("target", json!({ "containers": [facts("web", &["sleep"]), facts("other", &["sleep"])] })));
    let ps = "tr '\\0' ' ' </proc/1/cmdline; echo; ls /proc/1/root/";
    let look = |target: &[&str]| {
        let mut args = vec!["debug", "target", "-i", "--image", "busybox"];
        args.extend(target);
        args.extend(["--", "sh", "-c", ps]);
        host.run(&args).expect(0).out
    };
    assert!(look(&["--target", "web"]).starts_with("/facts sleep"));
    assert!(look(&[]).starts_with("sh -c"), "a pid namespace of its own");
    // Both are in the namespace that it says.
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    host.ok(&["debug", "target", "-c", "stays", "--image", "busybox", "--target", "web", "--", "sleep", "1000"]);
    assert_eq!(namespace(host.pid("target", "stays")), namespace(host.pid("target", "web")));
    assert_ne!(namespace(host.pid("target", "stays")), namespace(host.pid("target", "other")));
    let shown = host.inspect("target")["spec"]["ephemeralContainers"].clone();
    let stays = shown.as_array().unwrap().iter().find(|c| c["name"] == "stays").unwrap();
    assert_eq!(stays["targetContainerName"], "web");
}

#[test]
fn what_debug_cannot_do_is_said() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod("p", json!({ "containers": [facts("web", &["sleep"])] })));
    let debug = |args: &[&str]| host.run(&[&["debug", "p", "--image", "busybox"], args].concat());
    debug(&["-c", "web"]).expect(125).says(&["has a container named web already"]);
    debug(&["-c", "Web"]).expect(125).says(&["Web"]);
    debug(&["--target", "db"]).expect(125).says(&["\"db\"", "web"]);
    debug(&["-c", "gone", "--", "/no-such"]).expect(127).says(&["container gone", "/no-such"]);
    debug(&["-c", "not", "--", "/etc/passwd"]).expect(126).says(&["container not", "/etc/passwd"]);
    debug(&["-c", "gone-too", "-i", "--", "/no-such"]).expect(127).says(&["container gone-too", "/no-such"]);
    host.run(&["debug", "p", "--image", "localhost/none", "--pull", "never"]).expect(125).says(&["localhost/none"]);
    host.run(&["debug", "q"]).expect(125).says(&["not found"]);
    host.ok(&["stop", "-t", "0", "p"]);
    debug(&[]).expect(125).says(&["not running any more"]);
}

fn two(image: &str, memory: &str) -> Value {
    let limits = |container: Value, memory: &str| {
        with(container, json!({ "resources": { "limits": { "memory": memory, "cpu": "500m" } } }))
    };
    let changed = limits(with(shell("changed", "while :; do sleep 1; done"), json!({ "image": image })), "64Mi");
    let other = limits(facts("other", &["sleep"]), memory);
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "two", "labels": { "v": memory } },
        "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [changed, other] } })
}

#[test]
fn apply_changes_a_pod_in_place_where_a_kubelet_would() {
    let Some(host) = Host::new(&[]) else { return };
    assert_eq!(applied(&host, &two("busybox", "64Mi")), "pod/two created\n");
    assert_eq!(applied(&host, &two("busybox", "64Mi")), "pod/two unchanged\n");
    let (uid, pids) = (host.uid("two"), (host.pid("two", "changed"), host.pid("two", "other")));
    // Limits and labels: nothing is restarted.
    assert_eq!(applied(&host, &two("busybox", "96Mi")), "pod/two configured\n");
    assert_eq!((host.pid("two", "changed"), host.pid("two", "other")), pids);
    let below = format!("{}/podshim/pod{uid}/other", host.cgroup_parent);
    let limit = ["memory.limit_in_bytes", "memory.max"].iter().find_map(|file| cgroup_file(&below, file));
    assert_eq!(limit.as_deref(), Some("100663296"));
    let shown = host.inspect("two");
    assert_eq!((&shown["metadata"]["labels"]["v"], &shown["metadata"]["generation"]), (&json!("96Mi"), &json!(2)));
    assert_eq!(host.status("two", "other")["resources"]["limits"]["memory"], "96Mi");
    // An image: that container, whatever the restart policy.
    assert_eq!(applied(&host, &two("busybox:1.28", "96Mi")), "pod/two configured\n");
    let status = host.until_status(("two", "changed"), "running again", |s| {
        s["restartCount"] == 1 && s["state"]["running"].is_object()
    });
    assert_eq!(status["image"], "busybox:1.28");
    host.until_event("two", "Killing", "Container changed definition changed, will be restarted");
    assert_eq!((host.pid("two", "other"), host.uid("two")), (pids.1, uid.clone()));
    // Anything else: another pod.
    let mut other = two("busybox:1.28", "96Mi");
    other["spec"]["containers"][1]["env"] = json!([{ "name": "A", "value": "b" }]);
    let output = host.run(&["apply", &host.manifest(&other)]).expect(0);
    assert_eq!(output.out, "pod/two replaced\n");
    output.says(&["spec.containers[1].env cannot change while it runs"]);
    assert_ne!(host.uid("two"), uid);
    assert_eq!(host.run(&["ps", "-q"]).out.lines().count(), 1);
}

#[test]
fn a_limit_that_the_kernel_cannot_keep_changes_nothing() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = |memory: &str| {
        let hungry =
            with(facts("c", &["alloc", "40"]), json!({ "resources": { "limits": { "memory": memory, "cpu": "1" } } }));
        pod("full", json!({ "containers": [hungry] }))
    };
    applied(&host, &spec("128Mi"));
    crate::harness::until("the memory", || host.run(&["logs", "full"]).out.contains("allocated").then_some(()));
    let output = host.run(&["apply", &host.manifest(&spec("16Mi"))]).expect(125);
    output.says(&["changing pod default/full: nothing of it was changed", "bytes of memory are in use"]);
    assert_eq!(host.inspect("full")["spec"]["containers"][0]["resources"]["limits"]["memory"], "128Mi");
    assert_eq!(host.status("full", "c")["restartCount"], 0);
    assert_eq!(applied(&host, &spec("128Mi")), "pod/full unchanged\n");
}

#[test]
fn apply_repeats_what_failed_and_recovers_a_pod() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = |code: &str| {
        pod(
            "again",
            json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["exit", code])] }),
        )
    };
    let wait = |code: &str| host.run(&["apply", "--wait=complete", &host.manifest(&spec(code))]);
    // A command that does not exist leaves nothing behind …
    let broken = pod("again", json!({ "containers": [with(facts("c", &[]), json!({ "command": ["/no-such"] }))] }));
    host.run(&["apply", &host.manifest(&broken)]).expect(127);
    assert!(host.run(&["ps", "-q"]).out.is_empty());
    // … a pod that has ended is as it was applied, and another one takes its place.
    assert_eq!(wait("3").expect(3).out, "pod/again created\n");
    assert_eq!(wait("3").expect(0).out, "pod/again unchanged\n");
    assert_eq!(wait("0").expect(0).out, "pod/again replaced\n");
    // A pod whose supervisor was killed gets another one, and is as it was applied.
    let live = pod("half", json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] }));
    applied(&host, &live);
    let uid = host.uid("half");
    host.kill_supervisor("half");
    host.until_ps("half", "SupervisorGone");
    assert_eq!(applied(&host, &live), "pod/half unchanged\n");
    assert_eq!(host.uid("half"), uid);
    assert_eq!(host.ps("half"), ["1/1", "Running", "0"].map(str::to_owned));
}
