//! The container whose turn comes next is made while another one holds the sequence up: nobody must see that.

use crate::harness::{Host, Live, facts, pod, shell, until, with};
use crate::leaks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Its init container runs until `/go` is there; its app prints its variable.
fn held_up(name: &str, app: Value) -> Value {
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "initContainers": [shell("wait", "until [ -e /go ]; do sleep 0.02; done")], "containers": [app] });
    pod(name, spec)
}

fn app() -> Value {
    with(shell("app", "echo it is $A; exec sleep 1000"), json!({ "env": [{ "name": "A", "value": "one" }] }))
}

/// Starts the pod; with the processes of its app once that is made.
fn start(host: &Host, value: &Value) -> (Live, Vec<i32>) {
    let name = value["metadata"]["name"].as_str().unwrap();
    let run = host.live(&["run", "-d", &host.manifest(value)]);
    until("the pod", || host.run(&["ps", "-q"]).out.contains(name).then_some(()));
    host.until_status((name, "wait"), "running", |status| status["state"]["running"].is_object());
    let made = until("what is made early", || Some(processes(host, name)).filter(|found| !found.is_empty()));
    (run, made)
}

fn processes(host: &Host, name: &str) -> Vec<i32> {
    leaks::processes_in(&format!("{}/podshim/pod{}/app", host.cgroup_parent, host.uid(name)))
}

fn until_printed(host: &Host, name: &str, line: &str) {
    until(line, || (host.run(&["logs", name, "-c", "app"]).out == format!("{line}\n")).then_some(()));
}

#[test]
fn nobody_sees_it_before_its_turn() {
    let Some(host) = Host::new(&[]) else { return };
    let (mut run, made) = start(&host, &held_up("p", app()));
    let [ready, word, _] = host.ps("p");
    assert_eq!((ready.as_str(), word.as_str()), ("0/1", "Init:0/1"));
    let status = host.status("p", "app");
    assert_eq!(status["state"]["waiting"]["reason"], "PodInitializing");
    assert!(status.get("containerID").is_none_or(|id| id == ""), "{status}");
    let events = host.ok(&["events", "p"]);
    assert!(!events.contains("container/app"), "{events}");
    host.run(&["exec", "-c", "app", "p", "--", "true"]).expect(125).says(&["container app is not running"]);
    let logs = host.run(&["logs", "p", "-c", "app"]);
    assert!(logs.code != 0 || logs.out.is_empty(), "{}", logs.out);
    let uid = host.uid("p");
    let log = host.path("log").join(format!("default_p_{uid}/app/0.log"));
    assert!(!log.exists(), "{}", log.display());
    host.go("p", "wait");
    until_printed(&host, "p", "it is one");
    assert_eq!(processes(&host, "p").first(), made.first(), "it is the one that waited");
    assert_eq!(run.wait(), 0, "{}", run.err());
    let reasons = |event: Value| (event["object"] == "container/app").then(|| event["reason"].clone());
    let events: Vec<Value> = serde_json::from_str(&host.ok(&["events", "p", "-o", "json"])).unwrap();
    let of_app: Vec<Value> = events.into_iter().filter_map(reasons).filter(|reason| reason != "Restricted").collect();
    assert_eq!(of_app, ["Pulled", "Created", "Started"]);
    host.ok(&["rm", "-f", "p"]);
    host.assert_clean();
}

#[test]
fn what_changes_meanwhile_is_what_it_becomes() {
    let Some(host) = Host::new(&[]) else { return };
    let limited = |memory: &str| held_up("p", with(app(), json!({ "resources": { "limits": { "memory": memory } } })));
    let (mut run, _) = start(&host, &limited("64Mi"));
    let mut apply = host.live(&["apply", &host.manifest(&limited("80Mi"))]);
    let changed = |pod: &Value| pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "80Mi";
    until("the change", || changed(&host.inspect("p")).then_some(()));
    host.go("p", "wait");
    until_printed(&host, "p", "it is one");
    let group = format!("{}/podshim/pod{}/app", host.cgroup_parent, host.uid("p"));
    let limit = ["memory.max", "memory.limit_in_bytes"].iter().find_map(|file| leaks::cgroup_file(&group, file));
    assert_eq!(limit.unwrap().trim(), (80 << 20).to_string());
    assert_eq!(apply.wait(), 0, "{}", apply.err());
    assert_eq!(run.wait(), 0, "{}", run.err());
    host.ok(&["rm", "-f", "p"]);
    host.assert_clean();
}

#[test]
fn it_goes_with_its_pod_and_with_the_supervisor() {
    let Some(host) = Host::new(&[]) else { return };
    // Who takes over makes it again.
    let (mut run, made) = start(&host, &held_up("p", app()));
    host.kill_supervisor("p");
    until("its end", || made.iter().all(|pid| leaks::has_ended(*pid)).then_some(()));
    host.ok(&["recover", "p"]);
    until("another one", || processes(&host, "p").first().filter(|pid| !made.contains(pid)).copied());
    host.go("p", "wait");
    until_printed(&host, "p", "it is one");
    run.wait();
    host.ok(&["rm", "-f", "p"]);
    // Stopped, removed, or ended by its init container.
    for by in [&["stop", "p"][..], &["rm", "-f", "p"], &[]] {
        let (mut run, made) = start(&host, &held_up("p", app()));
        match by {
            [] => kill(Pid::from_raw(host.pid("p", "wait")), Signal::SIGKILL).unwrap(),
            by => drop(host.ok(by)),
        }
        assert_ne!(run.wait(), 0, "{by:?}");
        until("its end", || made.iter().all(|pid| leaks::has_ended(*pid)).then_some(()));
        host.run(&["rm", "-f", "p"]);
        host.assert_clean();
    }
}

#[test]
fn one_that_cannot_be_made_or_that_dies_is_told_of_in_its_turn() {
    let Some(host) = Host::new(&[]) else { return };
    let broken = with(facts("app", &[]), json!({ "command": ["/none"] }));
    let (mut run, _) = start(&host, &held_up("p", broken));
    assert_eq!(host.status("p", "app")["state"]["waiting"]["reason"], "PodInitializing");
    host.go("p", "wait");
    assert_eq!(run.wait(), 127, "{}", run.err());
    assert!(run.err().contains("/none"), "{}", run.err());
    host.run(&["rm", "-f", "p"]);
    // Somebody killed it while it waited.
    let (mut run, made) = start(&host, &held_up("p", app()));
    made.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap());
    host.go("p", "wait");
    until_printed(&host, "p", "it is one");
    assert_eq!(run.wait(), 0, "{}", run.err());
    host.ok(&["rm", "-f", "p"]);
    host.assert_clean();
}

#[test]
fn what_it_finds_in_a_volume_is_what_was_made_there() {
    let Some(host) = Host::new(&[]) else { return };
    // Each would be made by podshim where it is missing.
    for (inside, more) in [
        ("src", json!({ "workingDir": "/v/src" })),
        (
            "src",
            json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }, { "name": "w", "mountPath": "/v/src" }] }),
        ),
        ("message", json!({ "terminationMessagePath": "/v/message" })),
    ] {
        let on = json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] });
        let app = with(with(shell("app", "ls /v; exec sleep 1000"), on.clone()), more.clone());
        let mut value = held_up("p", app);
        value["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }, { "name": "w", "emptyDir": {} }]);
        let init = "until [ -e /go ]; do sleep 0.02; done; ls -A /v | grep . && exit 3; mkdir /v/mine";
        value["spec"]["initContainers"] = json!([with(shell("wait", init), on)]);
        let mut run = host.live(&["run", "-d", &host.manifest(&value)]);
        until("the pod", || host.run(&["ps", "-q"]).out.contains('p').then_some(()));
        host.until_status(("p", "wait"), "running", |status| status["state"]["running"].is_object());
        // Time for what must not be.
        std::thread::sleep(std::time::Duration::from_millis(300));
        host.go("p", "wait");
        until_printed(&host, "p", &format!("{}\n{}", "mine".min(inside), "mine".max(inside)));
        assert_eq!(run.wait(), 0, "{more}: {}", run.err());
        host.ok(&["rm", "-f", "p"]);
    }
    host.assert_clean();
}

#[test]
fn nothing_is_left_of_it_if_it_can_have_no_log() {
    let Some(host) = Host::new(&[]) else { return };
    let (run, made) = start(&host, &held_up("p", app()));
    let log = host.path("log").join(format!("default_p_{}/app", host.uid("p")));
    std::fs::write(&log, "in the way").unwrap();
    // It would remove the pod.
    run.signal(Signal::SIGKILL);
    host.go("p", "wait");
    let is_told =
        |status: &Value| status["state"]["waiting"]["message"].as_str().is_some_and(|m| m.contains("ENOTDIR"));
    host.until_status(("p", "app"), "without a log", is_told);
    let left: Vec<&i32> = made.iter().filter(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()).collect();
    assert!(left.is_empty(), "not even dead ones: {left:?} of {made:?}");
    host.ok(&["rm", "-f", "p"]);
    host.assert_clean();
}
