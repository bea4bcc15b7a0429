//! Containers that end: what is restarted, when, and in which words `ps` says it.

use crate::harness::{Host, facts, pod, until, with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[test]
fn init_that_fails_twice_is_retried_with_back_off() {
    let Some(host) = Host::new(&[]) else { return };
    let folder = host.folder("count");
    let script = "cut -d' ' -f1 /proc/uptime >>/count/times; [ $(wc -l </count/times) -ge 3 ]";
    let init = json!({ "name": "init", "image": "busybox:1.28", "command": ["sh", "-c", script],
        "volumeMounts": [{ "name": "count", "mountPath": "/count" }] });
    let spec = json!({ "initContainers": [init], "containers": [facts("app", &["sleep"])],
        "volumes": [{ "name": "count", "hostPath": { "path": folder, "type": "Directory" } }] });
    let mut run = host.live(&["run", "-d", &host.manifest(&pod("twice", spec))]);
    until("the pod", || host.run(&["ps", "-q"]).out.contains("twice").then_some(()));
    let row = host.until_ps("twice", "Init:CrashLoopBackOff");
    assert_eq!((row[0].as_str(), row[2].as_str()), ("0/1", "1"));
    let waiting = &host.status("twice", "init")["state"]["waiting"];
    let words = "back-off 10s restarting failed container=init pod=twice_default";
    assert!(waiting["message"].as_str().unwrap().starts_with(words), "{waiting}");
    assert_eq!(run.wait(), 0, "{}", run.err());
    let init = host.status("twice", "init");
    assert_eq!(init["restartCount"], 2, "{init}");
    assert_eq!(init["state"]["terminated"]["exitCode"], 0);
    assert_eq!(init["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(host.ps("twice"), ["1/1", "Running", "0"].map(str::to_owned));
    let text = std::fs::read_to_string(host.path("count/times")).unwrap();
    let times: Vec<f64> = text.lines().map(|l| l.parse().unwrap()).collect();
    assert!(times[1] - times[0] < 5.0, "the first retry is at once: {times:?}");
    assert!((9.9..16.0).contains(&(times[2] - times[1])), "the second one after 10 s: {times:?}");
}

#[test]
fn init_that_never_succeeds_keeps_the_pod_waiting() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = |policy: &str| {
        json!({ "restartPolicy": policy, "initContainers": [facts("init", &["exit", "3"])],
            "containers": [facts("app", &["sleep"])] })
    };
    // Without retries the pod has failed.
    let output = host.run(&["run", "--keep", &host.manifest(&pod("once", spec("Never")))]).expect(3);
    assert!(output.out.is_empty());
    assert_eq!(host.ps("once"), ["0/1", "Init:Error", "0"].map(str::to_owned));
    assert_eq!(host.inspect("once")["status"]["phase"], "Failed");
    // With them it stays Pending.
    let mut run = host.live(&["run", "-d", "--timeout", "3", &host.manifest(&pod("never", spec("Always")))]);
    until("the pod", || host.run(&["ps", "-q"]).out.contains("never").then_some(()));
    host.until_ps("never", "Init:CrashLoopBackOff");
    let pod = host.inspect("never");
    assert_eq!(pod["status"]["phase"], "Pending");
    let init = &pod["status"]["initContainerStatuses"][0];
    assert_eq!(init["lastState"]["terminated"]["exitCode"], 3, "{init}");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    // The time is over, and what was started is taken back.
    assert_eq!(run.wait(), 125);
    assert!(run.err().contains("--timeout"), "{}", run.err());
    assert!(!host.run(&["ps", "-q"]).out.contains("never"));
}

#[test]
fn killed_containers_are_restarted_while_the_others_go_on() {
    let Some(host) = Host::new(&[]) else { return };
    let containers = json!([facts("app", &["sleep"]), facts("sidecar", &["sleep"])]);
    host.start(&pod("killed", json!({ "containers": containers })));
    let before = (host.pid("killed", "app"), host.pid("killed", "sidecar"));
    kill(Pid::from_raw(before.0), Signal::SIGKILL).unwrap();
    let running_again = |name: &str, count: u32| {
        until("the restart", || {
            let status = host.status("killed", name);
            (status["restartCount"] == count && status["state"]["running"].is_object()).then_some(status)
        })
    };
    let status = running_again("app", 1);
    let last = &status["lastState"]["terminated"];
    assert_eq!((last["exitCode"].as_i64(), last["reason"].as_str()), (Some(137), Some("Error")), "{status}");
    assert!(last["startedAt"].is_string() && last["finishedAt"].is_string());
    assert_eq!(host.ps("killed"), ["2/2", "Running", "1"].map(str::to_owned));
    let between = (host.pid("killed", "app"), host.pid("killed", "sidecar"));
    assert!(between.0 != before.0 && between.1 == before.1, "{before:?} {between:?}");
    // The sidecar likewise.
    kill(Pid::from_raw(between.1), Signal::SIGKILL).unwrap();
    running_again("sidecar", 1);
    assert_eq!(host.pid("killed", "app"), between.0);
    assert_eq!(host.ps("killed"), ["2/2", "Running", "2"].map(str::to_owned));
    // Once more: now it has to wait.
    kill(Pid::from_raw(host.pid("killed", "sidecar")), Signal::SIGKILL).unwrap();
    let row = host.until_ps("killed", "CrashLoopBackOff");
    assert_eq!(row[0], "1/2");
    assert_eq!(host.inspect("killed")["status"]["phase"], "Running");
    let condition = host.inspect("killed")["status"]["conditions"].clone();
    let ready = condition.as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
    assert_eq!((ready["status"].as_str(), ready["reason"].as_str()), (Some("False"), Some("ContainersNotReady")));
    let events = host.ok(&["events", "killed"]);
    assert!(events.contains("BackOff") && events.contains("Back-off restarting failed container sidecar"), "{events}");
}

#[test]
fn restart_policies_end_pods_as_kubernetes_does() {
    let Some(host) = Host::new(&[]) else { return };
    // (name, policy, codes of the containers, exit code of `run`, STATUS, phase, restarts)
    let rows = [
        ("never-fails", "Never", &["7"][..], 7, "Error", "Failed"),
        ("never-succeeds", "Never", &["0"], 0, "Completed", "Succeeded"),
        ("never-one-fails", "Never", &["0", "9"], 9, "Error", "Failed"),
        ("onfailure-succeeds", "OnFailure", &["0", "0"], 0, "Completed", "Succeeded"),
    ];
    for (name, policy, codes, code, word, phase) in rows {
        let containers: Vec<_> =
            codes.iter().enumerate().map(|(i, code)| facts(&format!("c{i}"), &["exit", code])).collect();
        let spec = json!({ "restartPolicy": policy, "containers": containers });
        host.run(&["run", "--keep", &host.manifest(&pod(name, spec))]).expect(code);
        let row = host.ps(name);
        let failed_last = codes.len() == 2 && word == "Error";
        // kubectl shows the first container's word, by name.
        let expected = if failed_last { "Completed" } else { word };
        assert_eq!(row[1], expected, "{name}");
        assert_eq!(host.inspect(name)["status"]["phase"], phase, "{name}");
        assert_eq!(row[2], "0", "{name}");
        assert_eq!(host.ok(&["wait", name]).trim(), code.to_string(), "{name}");
    }
    host.ok(&["rm", "--all"]);
}

#[test]
fn on_failure_restarts_what_failed_and_leaves_what_is_done() {
    let Some(host) = Host::new(&[]) else { return };
    let script = "[ -e /mark/x ] || { touch /mark/x; exit 4; }";
    let flaky = json!({ "name": "flaky", "image": "busybox", "command": ["sh", "-c", script],
        "volumeMounts": [{ "name": "mark", "mountPath": "/mark" }] });
    let done = with(facts("done", &["exit", "0"]), json!({}));
    let spec = json!({ "restartPolicy": "OnFailure", "containers": [flaky, done],
        "volumes": [{ "name": "mark", "emptyDir": {} }] });
    host.run(&["run", "--keep", &host.manifest(&pod("flaky", spec))]).expect(0);
    let status = host.status("flaky", "flaky");
    assert_eq!(status["restartCount"], 1, "{status}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 4, "{status}");
    assert_eq!(host.status("flaky", "done")["restartCount"], 0);
    assert_eq!(host.inspect("flaky")["status"]["phase"], "Succeeded");
}
