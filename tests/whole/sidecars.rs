//! pod-api.md §3: init containers with `restartPolicy: Always`, their turn at the start and at the end.

use crate::harness::{Host, facts, until, with};
use crate::notes::{Notes, noting, now, time};
use serde_json::{Value, json};

fn sidecar(container: Value) -> Value {
    with(container, json!({ "restartPolicy": "Always" }))
}

/// Notes its signals; ends on TERM with this code, after `wait` milliseconds.
fn trap(name: &str, code: &str, wait: &str) -> Value {
    facts(name, &noting(&["trap", code, "--wait", wait], name))
}

/// An init container that notes that it ran.
fn init(name: &str) -> Value {
    facts(name, &noting(&["note", "ran"], name))
}

fn exec_note(who: &str, what: &str) -> Value {
    let mut command = vec!["/facts"];
    command.extend(noting(&["note", what], who));
    json!({ "exec": { "command": command } })
}

#[test]
fn sidecars_start_in_their_turn_and_a_startup_probe_holds_the_sequence() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let startup = json!({ "httpGet": { "port": 8080, "path": "/up" }, "periodSeconds": 1, "failureThreshold": 20 });
    let web = facts("web", &["http", "8080", "--log", "/notes/web", "--after", "2"]);
    let web =
        sidecar(with(web, json!({ "startupProbe": startup, "lifecycle": { "postStart": exec_note("hook", "ran") } })));
    let spec = json!({ "initContainers": [init("first"), web, init("between"), sidecar(trap("second", "0", "0")), init("late")],
        "containers": [trap("app", "0", "0")] });
    let mut run = host.live(&["run", "-d", &host.manifest(&notes.pod("order", spec))]);
    notes.until("web", "a first probe", |entries| !entries.is_empty());
    assert_eq!(notes.of_whom("between"), [""; 0], "not before the startup probe succeeded");
    let [ready, word, _] = host.ps("order");
    assert_eq!((ready.as_str(), word.as_str()), ("0/3", "Init:1/5"));
    assert_eq!(host.condition("order", "Initialized")["status"], "False");
    assert_eq!(run.wait(), 0, "{}", run.err());
    notes.until_at("app", "ready");
    let probes = notes.all("web");
    let up = time(probes.iter().find(|e| e["code"] == 200).unwrap());
    let order = [
        notes.at("first", "ran"),
        notes.at("hook", "ran"),
        time(&probes[0]),
        up,
        notes.at("between", "ran"),
        notes.at("second", "ready"),
        notes.at("late", "ran"),
        notes.at("app", "ready"),
    ];
    // The probe comes when postStart is done.
    assert!(order.windows(2).filter(|pair| pair[0] >= pair[1]).count() == 0, "{order:?}");
    host.until_condition("order", "Ready", "True");
    assert_eq!(host.ps("order"), ["3/3", "Running", "0"].map(str::to_owned));
    assert_eq!(host.condition("order", "Initialized")["status"], "True");
    let web = host.status("order", "web");
    assert_eq!((&web["started"], &web["ready"]), (&json!(true), &json!(true)), "{web}");
    let first = host.status("order", "first");
    assert_eq!((&first["started"], &first["ready"]), (&json!(false), &json!(true)), "{first}");
}

#[test]
fn a_sidecar_is_restarted_whatever_the_policy_while_others_are_prepared() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let script = "[ -e /notes/second ] && exec sleep 1000; touch /notes/second; exit 0";
    let falls = sidecar(crate::harness::shell("falls", script));
    let waits = facts("waits", &["wait-file", "/notes/go", "--for", "60"]);
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "initContainers": [falls, waits],
        "containers": [facts("app", &["exit", "0"])] });
    let mut run = host.live(&["run", "--keep", &host.manifest(&notes.pod("falls", spec))]);
    until("the pod", || host.run(&["ps", "-q"]).out.contains("falls").then_some(()));
    let running = |status: &Value| status["restartCount"] == 1 && status["state"]["running"].is_object();
    host.until_status(("falls", "falls"), "running again", running);
    let waiting = host.status("falls", "waits");
    assert!(waiting["state"]["running"].is_object() && waiting["restartCount"] == 0, "{waiting}");
    notes.set("go", "");
    assert_eq!(run.wait(), 0, "{}", run.err());
    assert_eq!(host.inspect("falls")["status"]["phase"], "Succeeded");
}

#[test]
fn sidecars_end_with_the_work_and_their_codes_do_not_count() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let work = facts("work", &["wait-file", "/notes/done"]);
    let deaf = facts("deaf", &noting(&["trap", "0", "--wait", "100000"], "deaf"));
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 2,
        "initContainers": [sidecar(deaf), sidecar(trap("seven", "7", "0"))], "containers": [work] });
    let mut run = host.live(&["run", "--keep", &host.manifest(&notes.pod("job", spec))]);
    notes.until_at("seven", "ready");
    notes.until_at("deaf", "ready");
    let done = now();
    notes.set("done", "");
    assert_eq!(run.wait(), 0, "{}", run.err());
    assert!(notes.at("seven", "got TERM") > done);
    let status = host.inspect("job")["status"].clone();
    assert_eq!(status["phase"], "Succeeded");
    let code = |name: &str| host.status("job", name)["state"]["terminated"]["exitCode"].clone();
    assert_eq!((code("seven"), code("deaf"), code("work")), (json!(7), json!(137), json!(0)));
    assert_eq!(host.status("job", "seven")["restartCount"], 0);
    assert_eq!(host.ps("job")[1], "Completed");
    // The work's code is the pod's, though the sidecars end well.
    let spec = json!({ "restartPolicy": "Never", "initContainers": [sidecar(trap("side", "0", "0"))],
        "containers": [facts("work", &["exit", "4"])] });
    host.run(&["run", "--keep", &host.manifest(&notes.pod("fails", spec))]).expect(4);
    assert_eq!(host.inspect("fails")["status"]["phase"], "Failed");
}

#[test]
fn sidecars_end_last_and_in_reverse_order() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let spec = json!({ "restartPolicy": "Never", "initContainers": [
            sidecar(trap("one", "0", "300")), init("plain"), sidecar(trap("two", "0", "600")), sidecar(trap("three", "0", "300"))],
        "containers": [trap("slow", "0", "900"), trap("quick", "0", "0")] });
    host.start(&notes.pod("reverse", spec));
    for name in ["one", "two", "three", "slow", "quick"] {
        notes.until_at(name, "ready");
    }
    let before = now();
    host.ok(&["stop", "reverse"]);
    let got = |who: &str| notes.at(who, "got TERM");
    let ends = |who: &str| notes.at(who, "ends");
    assert!(got("slow") - before < 1.0 && got("quick") - before < 1.0, "app containers at once, all together");
    let order = [ends("slow"), got("three"), ends("three"), got("two"), ends("two"), got("one")];
    assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "{order:?}");
    assert!(ends("quick") < got("three"));
    for name in ["one", "two", "three"] {
        assert_eq!(notes.of_whom(name), ["ready", "got TERM", "ends"], "{name}");
        assert_eq!(host.status("reverse", name)["state"]["terminated"]["exitCode"], 0, "{name}");
    }
}

#[test]
fn there_is_one_grace_period_for_all_and_then_two_seconds() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let deaf = |name: &str| trap(name, "0", "100000");
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 3,
        "initContainers": [sidecar(deaf("one")), sidecar(deaf("two"))], "containers": [deaf("app")] });
    host.start(&notes.pod("deaf", spec));
    for name in ["one", "two", "app"] {
        notes.until_at(name, "ready");
    }
    let before = now();
    host.ok(&["stop", "deaf"]);
    let took = now() - before;
    let got = |who: &str| notes.at(who, "got TERM") - before;
    assert!(got("app") < 1.0, "{}", got("app"));
    for name in ["one", "two"] {
        assert!((2.9..4.5).contains(&got(name)), "when the grace period is over: {name} {}", got(name));
    }
    // Not 3 s + 2 s + 2 s one after the other, and not three times the grace period.
    assert!((4.9..6.9).contains(&took), "{took}: {}", host.ok(&["events", "deaf"]));
}

#[test]
fn the_pre_stop_of_a_sidecar_does_not_wait_for_its_turn() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let side = with(trap("side", "0", "0"), json!({ "lifecycle": { "preStop": exec_note("hook", "ran") } }));
    let spec = json!({ "restartPolicy": "Never", "initContainers": [sidecar(side)], "containers": [trap("app", "0", "1500")] });
    host.start(&notes.pod("early", spec));
    notes.until_at("app", "ready");
    notes.until_at("side", "ready");
    host.ok(&["stop", "early"]);
    assert!(notes.at("hook", "ran") < notes.at("app", "ends") - 0.5);
    assert!(notes.at("app", "ends") < notes.at("side", "got TERM"));
}

#[test]
fn readiness_of_a_sidecar_is_the_pods() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    notes.set("answer", "503");
    let readiness = json!({ "httpGet": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 });
    let web = facts("web", &["http", "8080", "--log", "/notes/web", "--answer", "/notes/answer"]);
    let spec = json!({ "initContainers": [sidecar(with(web, json!({ "readinessProbe": readiness })))],
        "containers": [facts("app", &["sleep"])] });
    host.start(&notes.pod("counts", spec));
    notes.until("web", "a first probe", |entries| !entries.is_empty());
    assert_eq!(host.ps("counts"), ["1/2", "Running", "0"].map(str::to_owned), "it does not hold the sequence");
    let condition = host.condition("counts", "ContainersReady");
    assert_eq!(
        (&condition["status"], &condition["message"]),
        (&json!("False"), &json!("containers with unready status: [web]"))
    );
    notes.set("answer", "200");
    host.until_condition("counts", "Ready", "True");
    assert_eq!(host.ps("counts")[0], "2/2");
}

#[test]
fn a_sidecar_that_dies_while_the_pod_ends_stays_dead() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let app = trap("app", "0", "2000");
    let side = facts("side", &noting(&["trap", "3"], "side"));
    host.start(&notes.pod("dies", json!({ "initContainers": [sidecar(side)], "containers": [app] })));
    notes.until_at("side", "ready");
    notes.until_at("app", "ready");
    let pid = host.pid("dies", "side");
    let mut stop = host.live(&["stop", "dies"]);
    notes.until_at("app", "got TERM");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(stop.wait(), 0, "{}", stop.err());
    assert!(notes.at("side", "ends") < notes.at("app", "ends"));
    let side = host.status("dies", "side");
    assert_eq!((&side["restartCount"], &side["state"]["terminated"]["exitCode"]), (&json!(0), &json!(3)), "{side}");
}
