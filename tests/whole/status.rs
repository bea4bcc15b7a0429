//! pod-api.md §21 and §22: `.status`, by the names of the API.

use crate::harness::{Host, facts, ip, pod, shell, until, with};
use serde_json::{Value, json};

#[test]
fn the_status_of_a_pod_says_what_the_api_has_fields_for() {
    let Some(host) = Host::new(&["ip"]) else { return };
    let network = host.network("status");
    ip(&["-n", &network, "addr", "add", "192.0.2.7/32", "dev", "lo"]);
    ip(&["-n", &network, "addr", "add", "2001:db8::7/128", "dev", "lo", "nodad"]);
    let began = jiff::Timestamp::now();
    let time = |value: &Value| -> jiff::Timestamp {
        let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
        text.parse().unwrap_or_else(|e| panic!("{e}: {text}"))
    };
    let fails = shell("ends", "sleep 1; echo -n last words >/dev/termination-log; exit 3");
    let never = json!({ "exec": { "command": ["/facts", "exit", "1"] }, "periodSeconds": 1, "failureThreshold": 99 });
    let starts = with(facts("starts", &["sleep"]), json!({ "startupProbe": never }));
    let spec = json!({ "restartPolicy": "Never", "initContainers": [facts("before", &["exit", "0"])],
        "containers": [facts("runs", &["sleep"]), fails, starts] });
    host.ok(&["run", "-d", "--network", &format!("ns:/run/netns/{network}"), &host.manifest(&pod("status", spec))]);
    host.until_status(("status", "ends"), "its end", |status| status["state"]["terminated"].is_object());
    let status = host.inspect("status")["status"].clone();
    assert_eq!((&status["phase"], &status["qosClass"]), (&json!("Running"), &json!("BestEffort")));
    let second = jiff::SignedDuration::from_secs(1);
    let start = time(&status["startTime"]);
    assert!(start > began - second && start < jiff::Timestamp::now() + second, "{start}");
    for condition in status["conditions"].as_array().unwrap() {
        assert_eq!((&condition["lastProbeTime"], &condition["observedGeneration"]), (&Value::Null, &json!(1)));
        assert!(
            condition["type"].is_string() && time(&condition["lastTransitionTime"]) >= start - second,
            "{condition}"
        );
    }
    let ready = host.condition("status", "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ContainersNotReady")));
    assert_eq!(ready["message"], "containers with unready status: [ends starts]");
    // Its own addresses are those of its network, the host's those of the machine.
    assert_eq!(status["podIPs"], json!([{ "ip": "192.0.2.7" }, { "ip": "2001:db8::7" }]));
    assert_eq!(status["podIP"], "192.0.2.7");
    let of_host = status["hostIPs"].as_array().cloned().unwrap_or_default();
    assert_eq!(status["hostIP"], of_host.first().map_or(Value::Null, |first| first["ip"].clone()));
    let of = |name: &str| host.status("status", name);
    let named = |list: &str| -> Vec<String> {
        let all = status[list].as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (named("initContainerStatuses"), named("containerStatuses")),
        (vec!["before".into()], vec!["runs".into(), "ends".into(), "starts".into()])
    );
    for name in ["before", "runs", "ends", "starts"] {
        let one = of(name);
        assert!(one["image"].is_string() && one["imageID"].as_str().unwrap().contains("sha256:"), "{one}");
        assert!(!one["containerID"].as_str().unwrap().is_empty() && one["restartCount"] == 0, "{one}");
    }
    let runs = of("runs");
    assert_eq!((&runs["ready"], &runs["started"]), (&json!(true), &json!(true)));
    assert!(time(&runs["state"]["running"]["startedAt"]) >= start - second, "{runs}");
    let starts = of("starts");
    assert_eq!((&starts["ready"], &starts["started"]), (&json!(false), &json!(false)));
    let ended = of("ends");
    let end = &ended["state"]["terminated"];
    assert_eq!((&end["exitCode"], &end["reason"], &end["message"]), (&json!(3), &json!("Error"), &json!("last words")));
    assert!(time(&end["finishedAt"]).duration_since(time(&end["startedAt"])) >= second, "{end}");
    assert_eq!((&end["containerID"], &end["signal"]), (&ended["containerID"], &Value::Null), "CRI has no signal");
}

#[test]
fn the_status_says_who_a_container_is() {
    let Some(host) = Host::new(&[]) else { return };
    let context = json!({ "runAsUser": 1000, "runAsGroup": 2000 });
    let own = with(facts("own", &["sleep"]), json!({ "securityContext": context }));
    // root is a member of wheel, 10, in the image's /etc/group.
    let spec = json!({ "securityContext": { "supplementalGroups": [3000] }, "containers": [own, shell("image", "sleep 1000")] });
    host.start(&pod("who", spec));
    host.ok(&["debug", "who", "-c", "look", "--image", "localhost/facts", "--", "/facts", "sleep"]);
    for name in ["own", "image", "look"] {
        // What the kernel says of the process.
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid("who", name))).unwrap();
        let ids = |key: &str| -> Vec<i64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().map(|id| id.parse().unwrap()).collect()
        };
        let linux = host.status("who", name)["user"]["linux"].clone();
        assert_eq!((&linux["uid"], &linux["gid"]), (&json!(ids("Uid:")[0]), &json!(ids("Gid:")[0])), "{name}");
        let mut groups: Vec<i64> = serde_json::from_value(linux["supplementalGroups"].clone()).unwrap();
        groups.sort_unstable();
        assert_eq!(groups, ids("Groups:"), "{name}");
    }
    assert_eq!(host.status("who", "own")["user"]["linux"]["uid"], 1000);
}

#[test]
fn a_pod_that_ends_says_since_when_and_how_long_it_may_take() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "terminationGracePeriodSeconds": 600, "containers": [facts("c", &["ignore-term"])] });
    host.start(&pod("ends", spec));
    host.live(&["logs", "-f", "ends"]).until_has("ready");
    let metadata = host.inspect("ends")["metadata"].clone();
    assert_eq!((&metadata["deletionTimestamp"], &metadata["deletionGracePeriodSeconds"]), (&Value::Null, &Value::Null));
    let before = jiff::Timestamp::now();
    let mut stop = host.live(&["stop", "-t", "300", "ends"]);
    let metadata = until("deletionTimestamp", || {
        Some(host.inspect("ends")["metadata"].clone()).filter(|metadata| metadata["deletionTimestamp"].is_string())
    });
    assert_eq!(metadata["deletionGracePeriodSeconds"], 300, "what was asked for, not the manifest's");
    let deletion: jiff::Timestamp = metadata["deletionTimestamp"].as_str().unwrap().parse().unwrap();
    // As with the API server: when it is to be over.
    let from_now = deletion.duration_since(before).as_secs_f64();
    assert!((0.0..=310.0).contains(&(from_now + 1.0)), "{deletion} {before}");
    host.ok(&["stop", "-t", "1", "ends"]);
    assert_eq!(stop.wait(), 0, "{}", stop.err());
}

#[test]
fn the_status_says_what_became_of_mounts_and_stop_signals() {
    let Some(host) = Host::new(&[]) else { return };
    let labels = json!({ "of": host.cgroup_parent });
    host.import("localhost/facts", "localhost/stops", &json!({ "StopSignal": "2", "Labels": labels }));
    let volumes = json!([{ "name": "v", "emptyDir": {} },
        { "name": "tools", "image": { "reference": "localhost/stops", "pullPolicy": "Never" } }]);
    let mounts = json!([
        { "name": "v", "mountPath": "/rw" },
        { "name": "v", "mountPath": "/ro", "readOnly": true },
        { "name": "v", "mountPath": "/rro", "readOnly": true, "recursiveReadOnly": "IfPossible" },
        { "name": "v", "mountPath": "/off", "readOnly": true, "recursiveReadOnly": "Disabled" },
        { "name": "tools", "mountPath": "/tools" },
    ]);
    let shown = |image: serde_json::Value| {
        json!([
            { "name": "v", "mountPath": "/rw" },
            { "name": "v", "mountPath": "/ro", "readOnly": true, "recursiveReadOnly": "Disabled" },
            { "name": "v", "mountPath": "/rro", "readOnly": true, "recursiveReadOnly": "Enabled" },
            { "name": "v", "mountPath": "/off", "readOnly": true, "recursiveReadOnly": "Disabled" },
            with(json!({ "name": "tools", "mountPath": "/tools" }), image),
        ])
    };
    let mounted = |container: Value| with(container, json!({ "volumeMounts": mounts }));
    let own = with(facts("own", &["sleep"]), json!({ "lifecycle": { "stopSignal": "SIGUSR1" } }));
    let of_image = with(facts("image", &["sleep"]), json!({ "image": "localhost/stops", "imagePullPolicy": "Never" }));
    let spec = json!({ "os": { "name": "linux" }, "volumes": volumes,
        "initContainers": [mounted(shell("before", "until [ -e /rw/go ]; do sleep 0.1; done"))],
        "containers": [mounted(own), of_image, facts("none", &["sleep"])] });
    let mut run = host.live(&["run", "-d", &host.manifest(&pod("mounts", spec))]);
    until("the pod", || host.run(&["ps", "-q"]).out.contains("mounts").then_some(()));
    until("the init container", || host.find_status("mounts", "before").filter(|s| s["state"]["running"].is_object()));
    // Before there is a container, what the manifest says.
    let waiting = host.status("mounts", "own");
    assert_eq!((&waiting["volumeMounts"], &waiting["stopSignal"]), (&shown(json!({})), &Value::Null), "{waiting}");
    host.ok(&["exec", "-c", "before", "mounts", "--", "touch", "/rw/go"]);
    assert_eq!(run.wait(), 0, "{}", run.err());
    host.ok(&["debug", "mounts", "-c", "look", "--image", "localhost/facts", "--", "/facts", "sleep"]);
    let with_id = json!({ "volumeStatus": { "image": { "imageRef": host.status("mounts", "image")["imageID"] } } });
    for name in ["before", "own"] {
        assert_eq!(host.status("mounts", name)["volumeMounts"], shown(with_id.clone()), "{name}");
    }
    assert_eq!(host.status("mounts", "none")["volumeMounts"], Value::Null);
    let signals =
        [("before", "SIGTERM"), ("own", "SIGUSR1"), ("image", "SIGINT"), ("none", "SIGTERM"), ("look", "SIGTERM")];
    for (name, signal) in signals {
        assert_eq!(host.status("mounts", name)["stopSignal"], signal, "{name}");
    }
}
