//! Waiting for pods, telling others of them, and reading what they are.

use crate::harness::{Host, facts, pod, until, with};
use serde_json::{Value, json};
use std::os::unix::net::UnixDatagram;

/// Ready once somebody made `/ready`.
fn slow(name: &str) -> Value {
    let probe = json!({ "exec": { "command": ["/facts", "read", "/ready"] }, "periodSeconds": 1 });
    with(facts(name, &["sleep"]), json!({ "readinessProbe": probe }))
}

fn make_ready(host: &Host, name: &str, container: &str) {
    until("the pod", || host.run(&["ps", "-q"]).out.contains(name).then_some(()));
    until("the container", || host.find_status(name, container).filter(|s| s["state"]["running"].is_object()));
    host.ok(&["exec", name, "-c", container, "--", "/facts", "write", "/ready", "yes"]);
}

#[test]
fn run_d_waits_for_ready_or_says_what_it_waited_for() {
    let Some(host) = Host::new(&[]) else { return };
    let manifest = host.manifest(&pod("slow", json!({ "containers": [slow("c"), facts("d", &["sleep"])] })));
    let output = host.run(&["run", "-d", "--wait=ready", "--timeout", "2s", &manifest]).expect(125);
    let output = output.says(&[
        "pod default/slow is not ready after the time given by --timeout: container c: runs, but is not ready",
    ]);
    assert!(!output.err.contains("container d"), "{}", output.err);
    assert!(host.run(&["ps", "-q"]).out.is_empty(), "it is taken back");
    let mut run = host.live(&["run", "-d", "--wait=ready", &manifest]);
    make_ready(&host, "slow", "c");
    assert_eq!(run.wait(), 0, "{}", run.err());
    assert_eq!(host.condition("slow", "Ready")["status"], "True");
    // A pod that has done its work is not waited for any more; one that failed is an error.
    let job = |name: &str, code: &str| {
        let never = json!({ "readinessProbe": { "exec": { "command": ["/facts", "exit", "1"] } } });
        let spec = json!({ "restartPolicy": "Never", "containers": [with(facts("c", &["exit", code]), never)] });
        host.manifest(&pod(name, spec))
    };
    host.run(&["run", "-d", "--wait=ready", &job("done", "0")]).expect(0);
    host.run(&["run", "-d", "--wait=ready", &job("broken", "3")])
        .expect(125)
        .says(&["pod default/broken failed, exit code 3"]);
    // One that somebody stops meanwhile has not failed by itself.
    host.ok(&["rm", "-f", "slow"]);
    let mut run = host.live(&["run", "-d", "--wait=ready", &manifest]);
    until("the pod", || host.run(&["ps"]).out.contains("1/2").then_some(()));
    host.ok(&["stop", "slow"]);
    assert_eq!(run.wait(), 125);
    assert!(run.err().contains("pod default/slow was stopped"), "{}", run.err());
    // And the end, with its code.
    host.run(&["run", "-d", "--wait=complete", &job("five", "5")]).expect(5);
    assert_eq!(host.inspect("five")["status"]["phase"], "Failed");
    host.run(&["run", "--wait=ready", &manifest]).expect(125).says(&["--wait and --timeout go with -d"]);
}

#[test]
fn wait_knows_conditions_phases_and_their_absence() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod("w", json!({ "containers": [slow("c")] })));
    host.ok(&["wait", "w", "--for=condition=Ready=false", "--timeout=30s"]);
    host.run(&["wait", "w", "--for=condition=Ready", "--timeout=0"]).expect(125).says(&["timed out"]);
    let mut wait = host.live(&["wait", "w", "--for=condition=ready", "--timeout=60s"]);
    make_ready(&host, "w", "c");
    assert_eq!(wait.wait(), 0, "{}", wait.err());
    host.ok(&["wait", "w", "--for=phase=Running"]);
}

#[test]
fn readiness_gates_wait_for_somebody() {
    let Some(host) = Host::new(&[]) else { return };
    let spec =
        json!({ "readinessGates": [{ "conditionType": "example.com/known" }], "containers": [facts("c", &["sleep"])] });
    host.start(&pod("gated", spec));
    let ready = host.until_condition("gated", "Ready", "False");
    assert_eq!(ready["reason"], "ReadinessGatesNotReady");
    host.ok(&["set-condition", "gated", "example.com/known=True", "--reason", "Seen", "--message", "by a test"]);
    host.until_condition("gated", "Ready", "True");
    let known = host.condition("gated", "example.com/known");
    assert_eq!((&known["reason"], &known["message"]), (&json!("Seen"), &json!("by a test")));
    host.ok(&["set-condition", "gated", "example.com/known=False"]);
    host.until_condition("gated", "Ready", "False");
    host.run(&["set-condition", "gated", "Ready=True"]).expect(2).says(&["podshim's own"]);
    host.run(&["set-condition", "gated", "other=True"]).expect(125).says(&["no readiness gate", "example.com/known"]);
}

#[test]
fn a_service_manager_is_told_when_the_pods_are_ready() {
    let Some(host) = Host::new(&[]) else { return };
    let socket = host.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut text = [0; 512];
        let length = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let manifest = host.manifest(&pod("told", json!({ "containers": [slow("c")] })));
    let notified = |args: &[&str]| {
        let mut command = host.command(args);
        command.env("NOTIFY_SOCKET", &socket);
        crate::harness::Live::start(command)
    };
    let mut run = notified(&["run", &manifest]);
    make_ready(&host, "told", "c");
    assert!(heard().starts_with("READY=1\n"));
    // Neither the supervisor nor a container has the socket's name.
    for pid in [host.pid("told", "c"), host.supervisor("told")] {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"));
    }
    run.signal(nix::sys::signal::Signal::SIGINT);
    assert!(heard().starts_with("STOPPING=1\n"));
    assert_eq!(run.wait(), 130, "{}", run.err());
    // Detached, the supervisor is the service's main process from then on.
    let mut run = notified(&["run", "-d", "--wait=ready", &manifest]);
    make_ready(&host, "told", "c");
    let text = heard();
    assert_eq!(run.wait(), 0, "{}", run.err());
    assert!(text.contains(&format!("MAINPID={}\n", host.supervisor("told"))), "{text}");
}

#[test]
fn events_are_watched_counted_and_bounded() {
    let Some(host) = Host::new(&[]) else { return };
    let probe = json!({ "exec": { "command": ["/facts", "exit", "1"] }, "periodSeconds": 1 });
    let restless = with(facts("c", &["sleep"]), json!({ "readinessProbe": probe }));
    let watch = host.live(&["events", "-w"]);
    host.start(&pod("restless", json!({ "containers": [restless] })));
    watch.until_has("Unhealthy");
    watch.until("it again", |text| text.matches("Unhealthy").count() >= 3);
    watch.until_has("Started");
    watch.signal(nix::sys::signal::Signal::SIGTERM);
    let unhealthy = host.events("restless", "Unhealthy");
    assert_eq!(unhealthy.len(), 1, "{unhealthy:#?}");
    assert!(unhealthy[0]["count"].as_u64() >= Some(3), "{unhealthy:#?}");
    assert_eq!(unhealthy[0]["type"], "Warning");
    let mut of_one = host.live(&["events", "-w", "restless"]);
    of_one.until_has("Unhealthy");
    host.ok(&["rm", "-f", "restless"]);
    assert_eq!(of_one.wait(), 0, "it ends with its pod: {}", of_one.err());
}

#[test]
fn inspect_gives_a_pod_that_kubernetes_types_read() {
    let Some(host) = Host::new(&[]) else { return };
    let limited =
        json!({ "resources": { "limits": { "cpu": "500m", "memory": "64Mi" }, "requests": { "cpu": "100m" } } });
    let side = with(facts("side", &["sleep"]), json!({ "restartPolicy": "Always" }));
    host.start(&pod(
        "read",
        json!({ "initContainers": [side], "containers": [with(facts("c", &["sleep"]), limited)] }),
    ));
    host.until_condition("read", "Ready", "True");
    let text = host.ok(&["inspect", "read", "-o", "json"]);
    let read: k8s_openapi::api::core::v1::Pod = serde_json::from_str(&text).unwrap();
    // What the types do not know would be lost on the way back.
    let mut lost = Vec::new();
    differences("", &serde_json::from_str(&text).unwrap(), &serde_json::to_value(&read).unwrap(), &mut lost);
    assert!(lost.is_empty(), "{lost:#?}");
    let (metadata, status) = (read.metadata, read.status.unwrap());
    assert_eq!((metadata.generation, status.observed_generation), (Some(1), Some(1)));
    assert!(metadata.uid.is_some() && metadata.creation_timestamp.is_some() && status.start_time.is_some());
    assert_eq!((status.phase.as_deref(), status.qos_class.as_deref()), (Some("Running"), Some("Burstable")));
    let types: Vec<String> = status.conditions.unwrap().into_iter().map(|c| c.type_).collect();
    assert_eq!(types, ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]);
    let container = &status.container_statuses.unwrap()[0];
    assert!(container.ready && container.started == Some(true) && container.container_id.is_some());
    assert_eq!(container.allocated_resources.as_ref().unwrap()["cpu"].0, "100m");
    assert_eq!(container.resources.as_ref().unwrap().limits.as_ref().unwrap()["memory"].0, "64Mi");
    assert!(status.init_container_statuses.unwrap()[0].state.as_ref().unwrap().running.is_some());
}

/// What `before` has and `after` has not, or otherwise.
fn differences(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                match after.get(key) {
                    Some(other) => differences(&format!("{path}.{key}"), value, other, found),
                    None if value.is_null() || *value == json!({}) || *value == json!([]) || *value == json!("") => {}
                    None => found.push(format!("{path}.{key}: {value}")),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (value, other)) in before.iter().zip(after).enumerate() {
                differences(&format!("{path}[{index}]"), value, other, found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("{path}: {before} became {after}")),
    }
}
