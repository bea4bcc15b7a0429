//! pod-api.md §7 and §8: postStart and preStop, each by exec, httpGet and sleep, against the clock and what processes saw.

use crate::harness::{Host, facts, pod, shell, until, with};
use crate::notes::{Notes, noting, now, time};
use serde_json::{Value, json};

fn noted(who: &str, what: &str) -> Value {
    let mut command = vec!["/facts"];
    command.extend(noting(&["note", what], who));
    json!({ "exec": { "command": command } })
}

fn hooked(container: Value, hook: &str, handler: Value) -> Value {
    let others = container.get("lifecycle").cloned().unwrap_or_else(|| json!({}));
    with(container, json!({ "lifecycle": with(others, json!({ hook: handler })) }))
}

/// A container that notes its signals and ends with 0 on TERM.
fn trap(name: &str) -> Value {
    facts(name, &noting(&["trap", "0"], name))
}

#[test]
fn post_start_keeps_the_next_container_waiting() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let get =
        json!({ "httpGet": { "port": 8080, "path": "/hello", "httpHeaders": [{ "name": "X-Hook", "value": "yes" }] } });
    let containers = json!([
        facts("web", &["http", "8080", "--log", "/notes/web"]),
        hooked(trap("sleeps"), "postStart", json!({ "sleep": { "seconds": 2 } })),
        hooked(trap("executes"), "postStart", noted("hook", "done")),
        hooked(trap("asks"), "postStart", get),
        trap("last"),
    ]);
    let mut run = host.live(&["run", "-d", &host.manifest(&notes.pod("start", json!({ "containers": containers })))]);
    notes.until_at("sleeps", "ready");
    // Its process runs, but the hook does not let it count as running.
    let waiting = &host.status("start", "executes")["state"]["waiting"];
    assert_eq!(waiting["reason"], "ContainerCreating", "{waiting}");
    assert_eq!(run.wait(), 0, "{}", run.err());
    notes.until_at("last", "ready");
    let at = |who: &str| notes.at(who, "ready");
    assert!(at("executes") - at("sleeps") >= 1.95, "{}", at("executes") - at("sleeps"));
    let done = notes.at("hook", "done");
    assert!(at("asks") > done, "the next container starts after the hook");
    let asked = notes.all("web");
    assert!(asked.len() == 1 && asked[0]["target"] == "/hello" && time(&asked[0]) < at("last"), "{asked:?}");
    let fields = asked[0]["headers"].to_string();
    assert!(fields.contains("kube-lifecycle/") && fields.contains(r#"["X-Hook","yes"]"#), "{fields}");
    host.until_condition("start", "Ready", "True");
}

#[test]
fn a_post_start_that_fails_ends_the_container_which_is_restarted() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let once = "[ -e /notes/second ] || { touch /notes/second; echo not yet >&2; exit 5; }";
    let script = "trap 'echo TERM >>/notes/signals; exit 0' TERM; touch /notes/up; while :; do sleep 0.1; done";
    let command = format!("until [ -e /notes/up ]; do sleep 0.05; done; {once}");
    let c = hooked(shell("c", script), "postStart", json!({ "exec": { "command": ["sh", "-c", command] } }));
    let mut run = host.live(&["run", "-d", &host.manifest(&notes.pod("fails", json!({ "containers": [c] })))]);
    until("the pod", || host.run(&["ps", "-q"]).out.contains("fails").then_some(()));
    let event = host.until_event("fails", "FailedPostStartHook", "");
    assert_eq!(event["type"], "Warning");
    let running = |status: &Value| status["restartCount"] == 1 && status["state"]["running"].is_object();
    let status = host.until_status(("fails", "c"), "running again", running);
    assert!(status["lastState"]["terminated"].is_object(), "{status}");
    assert_eq!(run.wait(), 0, "{}", run.err());
    assert_eq!(notes.text("signals"), "TERM\n", "it is ended as by a stop");
    host.until_event("fails", "Killing", "FailedPostStartHook");
}

#[test]
fn a_hook_whose_request_is_answered_with_an_error_has_failed() {
    let Some(host) = Host::new(&[]) else { return };
    let get = |path: &str| json!({ "httpGet": { "port": 8080, "path": path } });
    // It answers before the others start, and until they have ended.
    let probe = json!({ "tcpSocket": { "port": 8080 }, "periodSeconds": 1 });
    let web = with(facts("web", &["http", "8080"]), json!({ "restartPolicy": "Always", "startupProbe": probe }));
    let containers = json!([
        hooked(hooked(facts("fine", &["sleep"]), "postStart", get("/code/204")), "preStop", get("/code/503")),
        hooked(facts("not", &["sleep"]), "postStart", get("/code/404")),
    ]);
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "initContainers": [web],
        "containers": containers });
    host.start(&pod("asked", spec));
    let event = host.until_event("asked", "FailedPostStartHook", "HTTP hook failed with statuscode: 404");
    assert_eq!(event["object"], "container/not");
    host.until_status(("asked", "not"), "ended", |status| status["state"]["terminated"].is_object());
    assert!(host.status("asked", "fine")["state"]["running"].is_object());
    host.ok(&["stop", "asked"]);
    let event = host.until_event("asked", "FailedPreStopHook", "HTTP hook failed with statuscode: 503");
    assert_eq!(event["object"], "container/fine");
}

#[test]
fn a_post_start_that_goes_on_failing_is_backed_off() {
    let Some(host) = Host::new(&[]) else { return };
    let broken = hooked(facts("c", &["sleep"]), "postStart", json!({ "exec": { "command": ["/facts", "exit", "3"] } }));
    let manifest = host.manifest(&pod("broken", json!({ "containers": [broken] })));
    let mut run = host.live(&["run", "-d", "--timeout", "30", &manifest]);
    until("the pod", || host.run(&["ps", "-q"]).out.contains("broken").then_some(()));
    host.until_status(("broken", "c"), "one restart", |status| status["restartCount"] == 1);
    let waiting = host.until_status(("broken", "c"), "waiting", |status| {
        let waiting = &status["state"]["waiting"];
        waiting["reason"] == "CrashLoopBackOff" || waiting["reason"] == "PostStartHookError"
    });
    let message = waiting["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("back-off 10s") || message.contains("exit"), "{waiting}");
    assert!(host.events("broken", "FailedPostStartHook").iter().all(|e| e["message"].to_string().contains("exit")));
    // It has been started, and is to be restarted: the pod counts as running, as one in any crash loop (§21).
    assert_eq!(run.wait(), 0, "{}", run.err());
}

#[test]
fn pre_stop_comes_before_the_stop_signal() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let web = facts("web", &["http", "8080", "--log", "/notes/web"]);
    let containers = json!([
        hooked(trap("executes"), "preStop", noted("hook", "done")),
        hooked(web, "preStop", json!({ "httpGet": { "port": 8080, "path": "/bye" } })),
        hooked(trap("sleeps"), "preStop", json!({ "sleep": { "seconds": 2 } })),
        trap("plain"),
    ]);
    host.start(&notes.pod("stop", json!({ "restartPolicy": "Never", "containers": containers })));
    for name in ["executes", "sleeps", "plain"] {
        notes.until_at(name, "ready");
    }
    until("its port", || host.ok(&["logs", "stop", "-c", "web"]).contains("listening").then_some(()));
    let before = now();
    host.ok(&["stop", "stop"]);
    let got = |who: &str| notes.at(who, "got TERM");
    assert!(notes.at("hook", "done") < got("executes"));
    assert!(got("sleeps") - before >= 1.95 && got("sleeps") - before < 4.0, "{}", got("sleeps") - before);
    // All at the same time: the one without a hook does not wait for those that have one.
    assert!(got("plain") < got("sleeps") - 1.0, "{} {}", got("plain"), got("sleeps"));
    let asked = notes.all("web");
    assert!(
        asked.len() == 1 && asked[0]["target"] == "/bye" && asked[0]["headers"].to_string().contains("kube-lifecycle/")
    );
    assert_eq!(host.status("stop", "web")["state"]["terminated"]["exitCode"], 0, "the server answered, then got TERM");
    assert_eq!(host.inspect("stop")["status"]["phase"], "Succeeded");
}

#[test]
fn pre_stop_takes_its_time_from_the_grace_period() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let deaf = facts("deaf", &noting(&["trap", "0", "--wait", "100000"], "deaf"));
    let takes_two = json!({ "exec": { "command": ["/facts", "sleep", "2"] } });
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [hooked(deaf, "preStop", takes_two)] });
    host.start(&notes.pod("counted", spec));
    notes.until_at("deaf", "ready");
    let before = now();
    host.ok(&["stop", "counted"]);
    let took = now() - before;
    let got = notes.at("deaf", "got TERM") - before;
    assert!((1.95..4.0).contains(&got), "TERM after the hook: {got}");
    assert!((4.9..6.9).contains(&took), "both within the five seconds: {took}");
    assert_eq!(host.status("counted", "deaf")["state"]["terminated"]["exitCode"], 137);
}

#[test]
fn a_pre_stop_that_takes_too_long_leaves_two_seconds() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let deaf = facts("deaf", &noting(&["trap", "0", "--wait", "100000"], "deaf"));
    let endless = json!({ "exec": { "command": ["/facts", "sleep", "100"] } });
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [hooked(deaf, "preStop", endless)] });
    host.start(&notes.pod("long", spec));
    notes.until_at("deaf", "ready");
    let before = now();
    host.ok(&["stop", "long"]);
    let took = now() - before;
    let got = notes.at("deaf", "got TERM") - before;
    assert!((1.95..3.5).contains(&got), "TERM when the grace period is over: {got}");
    assert!((3.9..6.0).contains(&took), "and KILL two seconds later: {took}");
    host.until_event("long", "FailedPreStopHook", "");
}

#[test]
fn pre_stop_is_for_those_that_are_ended() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let by_itself = hooked(facts("c", &["sleep", "1"]), "preStop", noted("hook", "ran"));
    let spec = json!({ "restartPolicy": "Never", "containers": [by_itself] });
    host.run(&["run", &host.manifest(&notes.pod("itself", spec))]).expect(0);
    assert_eq!(notes.text("log"), "", "nobody ended it");
    // No time, no hook.
    host.start(&notes.pod("hard", json!({ "containers": [hooked(trap("c"), "preStop", noted("hook", "ran"))] })));
    notes.until_at("c", "ready");
    host.ok(&["rm", "-f", "hard"]);
    assert_eq!(notes.of_whom("hook"), [""; 0]);
    // A probe that ends it is somebody; it is to be ready for that.
    let fails = json!({ "command": ["/facts", "exit", "1"] });
    let probe = json!({ "exec": fails, "initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 1 });
    let probed = with(hooked(trap("probed"), "preStop", noted("hook", "ran")), json!({ "livenessProbe": probe }));
    host.run(&[
        "run",
        &host.manifest(&notes.pod("probe", json!({ "restartPolicy": "Never", "containers": [probed] }))),
    ]);
    assert_eq!(notes.of_whom("probed"), ["ready", "got TERM", "ends"]);
    assert!(notes.at("hook", "ran") < notes.at("probed", "got TERM"));
}

#[test]
fn a_pre_stop_that_fails_is_told_and_the_end_goes_on() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let containers = json!([
        hooked(trap("fails"), "preStop", json!({ "exec": { "command": ["/facts", "exit", "7"] } })),
        hooked(trap("missing"), "preStop", json!({ "exec": { "command": ["/no-such-program"] } })),
        hooked(trap("nobody"), "preStop", json!({ "httpGet": { "port": 9 } })),
    ]);
    host.start(&notes.pod("told", json!({ "restartPolicy": "Never", "containers": containers })));
    for name in ["fails", "missing", "nobody"] {
        notes.until_at(name, "ready");
    }
    let before = now();
    host.ok(&["stop", "told"]);
    assert!(now() - before < 5.0, "{}", now() - before);
    for name in ["fails", "missing", "nobody"] {
        assert_eq!(notes.of_whom(name), ["ready", "got TERM", "ends"], "{name}");
    }
    let failed = host.events("told", "FailedPreStopHook");
    assert_eq!(failed.len(), 3, "{failed:#?}");
    assert!(failed.iter().all(|e| e["type"] == "Warning"));
    assert_eq!(host.inspect("told")["status"]["phase"], "Succeeded");
}
