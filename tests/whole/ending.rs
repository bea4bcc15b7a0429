//! pod-api.md §4, §8, §9, §11, §22: what containers' ends lead to, and the pod's own.

use crate::harness::{Host, facts, pod, shell, until, with};
use crate::notes::{Notes, noting};
use serde_json::{Value, json};

fn rule(action: &str, operator: &str, codes: &[i32]) -> Value {
    json!({ "action": action, "exitCodes": { "operator": operator, "values": codes } })
}

#[test]
fn s9_a_pod_that_is_active_for_too_long_is_ended_and_has_failed() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "activeDeadlineSeconds": 2, "terminationGracePeriodSeconds": 5, "containers": [facts("c", &["trap-term", "0"])] });
    let output = host.run(&["run", "--keep", &host.manifest(&pod("late", spec))]);
    assert_eq!(output.code, 1, "no container failed: {}", output.err);
    let output = output.says(&["podshim: default/late pod/late: DeadlineExceeded: Pod was active on the node longer"]);
    assert!(output.out.contains("got TERM"), "gracefully: {}", output.out);
    let status = &host.inspect("late")["status"];
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")));
    assert_eq!(status["message"], "Pod was active on the node longer than the specified deadline");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0, "never restarted");
    assert_eq!(status.get("initContainerStatuses"), None, "not null");
    // kubectl's column is of the containers where they have something to say.
    assert_eq!(host.ps("late"), ["0/1", "Completed", "0"].map(str::to_owned));
    host.until_event("late", "DeadlineExceeded", "longer than the specified deadline");
    // The clock runs while the pod is initialised, too.
    let spec = json!({ "activeDeadlineSeconds": 1, "initContainers": [facts("i", &["trap-term", "9"])], "containers": [facts("c", &["sleep"])] });
    host.run(&["run", "--keep", &host.manifest(&pod("early", spec))]).expect(9);
    let status = &host.inspect("early")["status"];
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")));
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
}

#[test]
fn s4_a_containers_own_policy_and_rules() {
    let Some(host) = Host::new(&[]) else { return };
    let folder = host.folder("count");
    let volumes = json!([{ "name": "count", "hostPath": { "path": folder, "type": "Directory" } }]);
    let counted = |name: &str, script: &str, fields: Value| {
        let script = format!("echo >>/count/{name}; n=$(wc -l </count/{name}); {script}");
        let mounts = json!([{ "name": "count", "mountPath": "/count" }]);
        with(with(shell(name, &script), json!({ "volumeMounts": mounts })), fields)
    };
    // Under Never: one that a rule restarts once, one of policy OnFailure, and one that stays as it ended.
    let by_rule = counted(
        "rule",
        "[ $n -ge 2 ] && exit 4; exit 3",
        json!({ "restartPolicy": "Never", "restartPolicyRules": [rule("Restart", "In", &[3])] }),
    );
    let by_policy = counted("policy", "[ $n -ge 2 ] || exit 5", json!({ "restartPolicy": "OnFailure" }));
    let not_in = counted(
        "other",
        "exit 7",
        json!({ "restartPolicy": "Never", "restartPolicyRules": [rule("Restart", "NotIn", &[7])] }),
    );
    let spec = json!({ "restartPolicy": "Never", "volumes": volumes, "containers": [by_rule, by_policy, not_in] });
    host.run(&["run", "--keep", &host.manifest(&pod("rules", spec))]).expect(4);
    for (name, count, code) in [("rule", 1, 4), ("policy", 1, 0), ("other", 0, 7)] {
        let status = host.status("rules", name);
        let end = (&status["restartCount"], &status["state"]["terminated"]["exitCode"]);
        assert_eq!(end, (&json!(count), &json!(code)), "{name}: {status}");
    }
}

#[test]
fn s4_all_containers_can_be_restarted_by_a_rule() {
    let Some(host) = Host::new(&[]) else { return };
    let folder = host.folder("shared");
    let volumes = json!([{ "name": "shared", "hostPath": { "path": folder, "type": "Directory" } },
        { "name": "own", "emptyDir": {} }]);
    let mounts = json!([{ "name": "shared", "mountPath": "/shared" }, { "name": "own", "mountPath": "/own" }]);
    let mounted = |container: Value| with(container, json!({ "volumeMounts": mounts }));
    let init = mounted(shell("init", "echo init >>/shared/order; echo >>/own/runs"));
    let trigger =
        mounted(shell("trigger", "echo app >>/shared/order; [ $(wc -l </own/runs) -ge 2 ] || exit 42; sleep 1000"));
    let rules = json!({ "restartPolicy": "Never", "restartPolicyRules": [rule("RestartAllContainers", "In", &[42])] });
    let spec = json!({ "volumes": volumes, "initContainers": [init],
        "containers": [with(trigger, rules), mounted(facts("other", &["sleep"]))] });
    host.start(&pod("all", spec));
    let network = |host: &Host| std::fs::read_link(format!("/proc/{}/ns/net", host.pid("all", "other"))).unwrap();
    until("the second time", || {
        let order = std::fs::read_to_string(host.path("shared/order")).unwrap_or_default();
        (order == "init\napp\ninit\napp\n").then_some(())
    });
    host.until_condition("all", "Ready", "True");
    for name in ["init", "trigger", "other"] {
        let status = host.status("all", name);
        assert_eq!(status["restartCount"], 1, "{status}");
        let last = &status["lastState"]["terminated"];
        assert_eq!((&last["reason"], &last["exitCode"]), (&json!("RestartingAllContainers"), &json!(137)), "{status}");
    }
    assert_eq!(host.condition("all", "AllContainersRestarting")["status"], "False");
    // What was written to the pod's own volume is there, and the network is the pod's.
    let trigger = std::fs::read_link(format!("/proc/{}/ns/net", host.pid("all", "trigger"))).unwrap();
    assert_eq!(network(&host), trigger);
}

#[test]
fn s8_the_stop_signal_of_the_manifest_goes_before_the_images() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    host.import("localhost/facts", "localhost/quits", &json!({ "StopSignal": "SIGQUIT" }));
    let of_image = with(
        facts("image", &noting(&["trap", "0", "--signal", "QUIT"], "image")),
        json!({ "image": "localhost/quits" }),
    );
    let own = with(
        facts("own", &noting(&["trap", "0", "--signal", "USR1"], "own")),
        json!({ "image": "localhost/quits", "lifecycle": { "stopSignal": "SIGUSR1" } }),
    );
    let spec = json!({ "os": { "name": "linux" }, "terminationGracePeriodSeconds": 20, "containers": [of_image, own] });
    host.start(&notes.pod("signals", spec));
    notes.until_at("image", "ready");
    notes.until_at("own", "ready");
    host.ok(&["stop", "signals"]);
    for name in ["image", "own"] {
        assert_eq!(host.status("signals", name)["state"]["terminated"]["exitCode"], 0, "{name}");
    }
}

#[test]
fn s8_a_stop_under_way_can_be_shortened_and_not_lengthened() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod(
        "stubborn",
        json!({ "terminationGracePeriodSeconds": 600, "containers": [facts("c", &["ignore-term"])] }),
    ));
    let mut first = host.live(&["stop", "stubborn"]);
    host.until_ps("stubborn", "Terminating");
    let begin = std::time::Instant::now();
    let mut longer = host.live(&["stop", "-t", "1000", "stubborn"]);
    host.ok(&["stop", "-t", "1", "stubborn"]);
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
    assert_eq!((first.wait(), longer.wait()), (0, 0));
    assert_eq!(host.status("stubborn", "c")["state"]["terminated"]["exitCode"], 137);
}

#[test]
fn s22_oom_is_of_exactly_the_container_that_met_it() {
    let Some(host) = Host::new(&[]) else { return };
    let limit = |container: Value| with(container, json!({ "resources": { "limits": { "memory": "32Mi" } } }));
    // A killed child counts, though the first process ends as it likes.
    let spec = json!({ "restartPolicy": "Never", "containers": [limit(facts("child", &["alloc-child", "100", "3"])),
        limit(facts("other", &["exit", "137"])), facts("free", &["alloc-child", "64", "0"])] });
    let output = host.run(&["run", "--keep", &host.manifest(&pod("oom", spec))]);
    assert!(matches!(output.code, 3 | 137), "{}: {}", output.code, output.err);
    let ended = |name: &str| host.status("oom", name)["state"]["terminated"]["reason"].clone();
    assert_eq!(
        (ended("child"), ended("other"), ended("free")),
        (json!("OOMKilled"), json!("Error"), json!("Completed"))
    );
    assert_eq!(host.ps("oom")[1], "OOMKilled");
}

#[test]
fn the_exit_code_of_a_job_is_its_failed_containers_and_never_its_sidecars() {
    let Some(host) = Host::new(&[]) else { return };
    let sidecar = |args: &[&str]| with(facts("side", args), json!({ "restartPolicy": "Always" }));
    let spec = |policy: &str, code: &str| {
        json!({ "restartPolicy": policy, "terminationGracePeriodSeconds": 2,
            "initContainers": [sidecar(&["ignore-term"])], "containers": [facts("job", &["exit", code])] })
    };
    host.run(&["run", &host.manifest(&pod("good", spec("OnFailure", "0")))]).expect(0);
    host.run(&["run", &host.manifest(&pod("bad", spec("Never", "9")))]).expect(9);
    assert!(host.run(&["ps", "-q"]).out.is_empty());
}

#[test]
fn of_a_pod_that_has_ended_no_layer_is_kept() {
    let Some(host) = Host::new(&[]) else { return };
    let writes = |name: &str, then: &str| shell(name, &format!("mkdir /d; echo >/d/file; {then}"));
    let of = |then: &str| {
        json!({ "restartPolicy": "Never", "initContainers": [writes("i", "true")],
            "containers": [writes("a", then), facts("b", &["exit", "0"])] })
    };
    host.start(&pod("stopped", of("exec sleep 1000")));
    host.ok(&["stop", "-t", "0", "stopped"]);
    // One that ends by itself.
    host.run(&["run", "--keep", &host.manifest(&pod("over", of("true")))]).expect(0);
    for name in ["stopped", "over"] {
        let data = host.path("root/pods").join(host.uid(name));
        let names = || std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        until("its layers to be gone", || (names() == ["state"]).then_some(()));
        assert_eq!(host.status(name, "b")["state"]["terminated"]["exitCode"], 0, "{name}");
        assert_eq!(host.run(&["logs", name, "-c", "a"]).expect(0).out, "", "{name}");
    }
}
