//! pod-api.md §6: each kind of probe, what its numbers mean, and what follows from its result. All probes come from podshim
//! itself: the image `facts` has nothing but one program.

use crate::harness::{Host, Live, facts, pod, shell, until, until_or, with};
use crate::notes::{Notes, now, time};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::process::Command;

/// A probe each second that one result decides.
fn probe(handler: Value) -> Value {
    with(handler, json!({ "periodSeconds": 1, "failureThreshold": 1 }))
}

fn http(port: u16, path: &str) -> Value {
    probe(json!({ "httpGet": { "port": port, "path": path } }))
}

fn server(name: &str, port: &str) -> Value {
    facts(name, &["http", port, "--log", "/notes/web", "--answer", "/notes/answer"])
}

/// The header fields of a request with this name, in any case.
fn headers<'a>(request: &'a Value, name: &str) -> Vec<&'a str> {
    let all = request["headers"].as_array().unwrap();
    let named = all.iter().filter(|h| h[0].as_str().unwrap().eq_ignore_ascii_case(name));
    named.filter_map(|h| h[1].as_str()).collect()
}

fn to(entries: &[Value], target: &str) -> Vec<Value> {
    entries.iter().filter(|e| e["target"] == target).cloned().collect()
}

fn ready(host: &Host, pod: &str, container: &str) -> Option<bool> {
    host.status(pod, container)["ready"].as_bool()
}

#[test]
fn http_header_fields_arrive_and_a_port_may_have_a_name() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let fields = json!([{ "name": "X-One", "value": "1" }, { "name": "X-One", "value": "2" },
        { "name": "Host", "value": "pod.example" }, { "name": "Accept", "value": "" }]);
    let named = json!({ "httpGet": { "port": "web", "path": "/named?x=1", "httpHeaders": fields } });
    let named = with(
        server("named", "8080"),
        json!({ "ports": [{ "name": "web", "containerPort": 8080 }], "readinessProbe": probe(named) }),
    );
    let plain =
        with(facts("plain", &["sleep"]), json!({ "readinessProbe": probe(json!({ "httpGet": { "port": 8080 } })) }));
    host.start(&notes.pod("http", json!({ "containers": [named, plain] })));
    host.until_condition("http", "Ready", "True");
    let entries = notes.all("web");
    let request = &to(&entries, "/named?x=1")[0];
    assert_eq!(request["method"], "GET");
    assert_eq!(headers(request, "X-One"), ["1", "2"]);
    assert_eq!(headers(request, "Host"), ["pod.example"]);
    assert_eq!(headers(request, "Accept"), [""; 0], "an empty Accept is none");
    let request = &to(&entries, "/")[0];
    assert_eq!(headers(request, "Accept"), ["*/*"]);
    assert_eq!(headers(request, "Connection"), ["close"]);
    let host_field = headers(request, "Host");
    assert!(host_field.len() == 1 && host_field[0].ends_with(":8080"), "{host_field:?}");
    let agent = headers(request, "User-Agent");
    assert!(agent.len() == 1 && agent[0].starts_with("kube-probe/"), "{agent:?}");
}

#[test]
fn http_answers_from_200_to_399_are_success_and_redirects_stay_on_their_host() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    // (name, path, ready)
    let rows = [
        ("ok", "/code/200", true),
        ("low", "/code/199", false),
        ("last", "/code/399", true),
        ("bad", "/code/400", false),
        ("broken", "/code/503", false),
        ("to-here", "/to?/code/204", true),
        ("to-broken", "/to?/code/500", false),
        ("far-enough", "/hop/9", true),
        ("too-far", "/hop/20", false),
        // To another host nobody goes: it counts as success, with a warning.
        ("elsewhere", "/to?http://other.example/x", true),
    ];
    let probed =
        rows.map(|(name, path, _)| with(facts(name, &["sleep"]), json!({ "readinessProbe": http(8080, path) })));
    let containers: Vec<Value> = [server("server", "8080")].into_iter().chain(probed).collect();
    host.start(&notes.pod("codes", json!({ "containers": containers })));
    for (name, path, expected) in rows {
        if expected {
            host.until_status(("codes", name), "ready", |status| status["ready"] == true);
        } else {
            notes.until("web", path, |entries| to(entries, path).len() >= 3);
            assert_eq!(ready(&host, "codes", name), Some(false), "{name}");
        }
    }
    host.until_event("codes", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503");
    host.until_event("codes", "ProbeWarning", "Readiness probe warning");
    assert_eq!(host.condition("codes", "Ready")["status"], "False");
    let words = host.condition("codes", "Ready")["message"].to_string();
    assert!(words.contains("containers with unready status: [low bad broken to-broken too-far]"), "{words}");
    let status = host.inspect("codes")["status"].clone();
    assert!(status["containerStatuses"].as_array().unwrap().iter().all(|c| c["restartCount"] == 0), "{status}");
}

#[test]
fn https_is_probed_without_a_look_at_the_certificate() {
    let Some(host) = Host::new(&["ip", "openssl"]) else { return };
    let network = host.network("tls");
    let (key, certificate) = (host.path("key.pem"), host.path("certificate.pem"));
    let (key, certificate) = (key.to_str().unwrap(), certificate.to_str().unwrap());
    let make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=nobody.example"];
    let output = Command::new(make[0]).args(&make[1..]).args(["-keyout", key, "-out", certificate]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let serve = ["ip", "netns", "exec", &network, "openssl", "s_server", "-accept", "8443", "-key", key];
    let command = host.command_by(&[&serve[..], &["-cert", certificate, "-www"]].concat(), &[] as &[&str]);
    let server = Live::start(command);
    server.until_has("ACCEPT");
    let https = |port: u16| probe(json!({ "httpGet": { "port": port, "scheme": "HTTPS" } }));
    let plain = with(facts("plain", &["http", "8080"]), json!({ "readinessProbe": https(8080) }));
    let tls = with(facts("tls", &["sleep"]), json!({ "readinessProbe": https(8443) }));
    let manifest = host.manifest(&pod("tls", json!({ "containers": [tls, plain] })));
    host.ok(&["run", "-d", "--network", &format!("ns:/run/netns/{network}"), &manifest]);
    host.until_status(("tls", "tls"), "ready", |status| status["ready"] == true);
    // No TLS, no success.
    host.until_event("tls", "Unhealthy", "Readiness probe failed");
    assert_eq!(ready(&host, "tls", "plain"), Some(false));
    host.ok(&["rm", "-f", "tls"]);
}

#[test]
fn a_tcp_socket_is_ready_while_somebody_listens() {
    let Some(host) = Host::new(&[]) else { return };
    let named = json!({ "tcpSocket": { "port": "peer" } });
    let probed = with(
        facts("probed", &["sleep"]),
        json!({ "ports": [{ "name": "peer", "containerPort": 9000 }], "readinessProbe": probe(named) }),
    );
    let spec = json!({ "restartPolicy": "OnFailure", "containers": [probed, facts("listener", &["listen", "9000"])] });
    host.start(&pod("tcp", spec));
    host.until_status(("tcp", "probed"), "ready", |status| status["ready"] == true);
    kill(Pid::from_raw(host.pid("tcp", "listener")), Signal::SIGTERM).unwrap();
    host.until_status(("tcp", "probed"), "unready", |status| status["ready"] == false);
    host.until_event("tcp", "Unhealthy", "Readiness probe failed: dial tcp");
    assert_eq!(host.status("tcp", "probed")["restartCount"], 0);
}

#[test]
fn an_exec_probe_runs_in_the_container_and_its_output_is_told() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let exec = |command: Value| json!({ "readinessProbe": probe(json!({ "exec": { "command": command } })) });
    let env = json!({ "env": [{ "name": "WORD", "value": "yes" }] });
    let expanded = exec(json!(["test", "$(WORD)", "=", "yes"]));
    let inside = exec(json!(["sh", "-c", "[ $(cat /proc/1/comm) = sleep ] && [ $WORD = yes ]"]));
    let broken = exec(json!(["sh", "-c", "echo out of order >&2; exit 3"]));
    let noisy = exec(json!(["sh", "-c", "yes x | head -c 1000000; exit 1"]));
    let no_shell = exec(json!(["echo $WORD; exit 0"]));
    let sleeper =
        |name: &str, with_probe: &Value| with(with(shell(name, "exec sleep 1000"), with_probe.clone()), env.clone());
    let rows =
        [("expanded", &expanded), ("inside", &inside), ("broken", &broken), ("noisy", &noisy), ("no-shell", &no_shell)];
    let containers = rows.map(|(name, with_probe)| sleeper(name, with_probe));
    host.start(&notes.pod("exec", json!({ "containers": containers, "terminationGracePeriodSeconds": 1 })));
    for name in ["expanded", "inside"] {
        host.until_status(("exec", name), "ready", |status| status["ready"] == true);
    }
    host.until_event("exec", "Unhealthy", "Readiness probe failed: out of order");
    let noise = host.until_event("exec", "Unhealthy", "x\nx\nx");
    assert!(noise["message"].as_str().unwrap().len() <= (10 << 10) + 100, "at most 10 KiB are told");
    // What cannot be executed is no failure of the container: its readiness stays as it was.
    host.until_event("exec", "Unhealthy", "Readiness probe errored");
    for name in ["broken", "noisy", "no-shell"] {
        assert_eq!(ready(&host, "exec", name), Some(false), "{name}");
    }
}

#[test]
fn a_probe_that_takes_too_long_has_failed_and_is_over() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let slow = with(
        shell("slow", "exec sleep 1000"),
        json!({ "readinessProbe": probe(json!({ "exec": { "command": ["sleep", "777"] } })) }),
    );
    let web = with(server("web", "8080"), json!({ "readinessProbe": http(8080, "/slow/3000") }));
    host.start(&notes.pod("slow", json!({ "terminationGracePeriodSeconds": 1, "containers": [slow, web] })));
    host.until_event("slow", "Unhealthy", "timed out");
    notes.until("web", "requests after the first", |entries| entries.len() >= 3);
    let events = host.events("slow", "Unhealthy");
    assert!(events.iter().any(|e| e["message"].as_str().unwrap().contains("deadline exceeded")), "{events:?}");
    assert_eq!((ready(&host, "slow", "slow"), ready(&host, "slow", "web")), (Some(false), Some(false)));
    // Not one `sleep 777` for each try; one that is killed may be there still when the next one is made.
    let below = format!("{}/podshim/pod{}/slow", host.cgroup_parent, host.uid("slow"));
    let all = || crate::leaks::processes_in(&below);
    until_or(|| format!("{:?}", all()), || (all().len() <= 2).then_some(()));
}

#[test]
fn grpc_asks_for_the_health_of_a_service() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let asked = |name: &str, grpc: Value| {
        with(facts(name, &["sleep"]), json!({ "readinessProbe": probe(json!({ "grpc": grpc })) }))
    };
    let containers = json!([
        facts("server", &["grpc", "5000", "--log", "/notes/health", "--answer", "/notes/answer"]),
        asked("whole", json!({ "port": 5000 })),
        asked("known", json!({ "port": 5000, "service": "known" })),
        asked("unknown", json!({ "port": 5000, "service": "no.such.Service" })),
        asked("silent", json!({ "port": 5001 })),
    ]);
    host.start(&notes.pod("grpc", json!({ "containers": containers })));
    for name in ["whole", "known"] {
        host.until_status(("grpc", name), "ready", |status| status["ready"] == true);
    }
    let entries = notes.until("health", "all services", |entries| {
        ["", "known", "no.such.Service"].iter().all(|service| entries.iter().any(|e| e["service"] == *service))
    });
    let request = &entries[0];
    assert_eq!((&request["method"], &request["target"]), (&json!("POST"), &json!("/grpc.health.v1.Health/Check")));
    assert!(headers(request, "content-type")[0].starts_with("application/grpc"), "{request}");
    assert_eq!(headers(request, "te"), ["trailers"]);
    assert!(headers(request, "user-agent")[0].starts_with("kube-probe/"), "{request}");
    notes.set("answer", "NOT_SERVING");
    for name in ["whole", "known"] {
        host.until_status(("grpc", name), "unready", |status| status["ready"] == false);
    }
    host.until_event("grpc", "Unhealthy", "NOT_SERVING");
    assert_eq!((ready(&host, "grpc", "unknown"), ready(&host, "grpc", "silent")), (Some(false), Some(false)));
    notes.set("answer", "SERVING");
    host.until_status(("grpc", "known"), "ready again", |status| status["ready"] == true);
}

#[test]
fn readiness_turns_with_its_thresholds_and_restarts_nothing() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    notes.set("answer", "503");
    let thresholds =
        json!({ "httpGet": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 3, "successThreshold": 2 });
    let web = with(server("web", "8080"), json!({ "readinessProbe": thresholds }));
    host.start(&notes.pod("turns", json!({ "containers": [web, facts("other", &["sleep"])] })));
    notes.until("web", "the first answer", |entries| !entries.is_empty());
    assert_eq!(host.ps("turns"), ["1/2", "Running", "0"].map(str::to_owned));
    assert_eq!(host.inspect("turns")["status"]["phase"], "Running");
    let answered = |code: u16| notes.all("web").iter().filter(|e| e["code"] == code).count();
    notes.set("answer", "200");
    host.until_condition("turns", "Ready", "True");
    assert!(answered(200) >= 2, "two successes in a row");
    assert_eq!(host.ps("turns"), ["2/2", "Running", "0"].map(str::to_owned));
    let before = answered(503);
    notes.set("answer", "503");
    let condition = host.until_condition("turns", "Ready", "False");
    assert!(answered(503) >= before + 3, "three failures in a row");
    assert_eq!(condition["reason"], "ContainersNotReady");
    assert_eq!(condition["message"], "containers with unready status: [web]");
    assert_eq!(host.condition("turns", "ContainersReady")["status"], "False");
    assert_eq!(host.ps("turns"), ["1/2", "Running", "0"].map(str::to_owned));
    notes.set("answer", "200");
    host.until_condition("turns", "Ready", "True");
    assert_eq!(host.events("turns", "Killing"), Vec::<Value>::new());
    let times: Vec<f64> = notes.all("web").iter().map(time).collect();
    let apart: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // One may come early: an update of the status asks for readiness too.
    assert!(apart.iter().filter(|a| **a < 0.5).count() <= apart.len() / 2, "{apart:?}");
}

#[test]
fn startup_gates_the_other_probes() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let web = facts("web", &["http", "8080", "--log", "/notes/web", "--after", "3"]);
    // While it starts up, all answers are 503: one look of the liveness probe would end it.
    let startup = with(http(8080, "/startup"), json!({ "failureThreshold": 10 }));
    let probes = json!({ "startupProbe": startup, "livenessProbe": http(8080, "/live"), "readinessProbe": http(8080, "/ready") });
    host.start(&notes.pod("gated", json!({ "containers": [with(web, probes)] })));
    let early = host.status("gated", "web");
    assert_eq!((&early["started"], &early["ready"]), (&json!(false), &json!(false)), "{early}");
    host.until_condition("gated", "Ready", "True");
    let status = host.status("gated", "web");
    assert_eq!((&status["started"], &status["restartCount"]), (&json!(true), &json!(0)), "{status}");
    let entries = notes.until("web", "liveness", |entries| to(entries, "/live").len() >= 2);
    let seen: Vec<(&str, u64)> =
        entries.iter().map(|e| (e["target"].as_str().unwrap(), e["code"].as_u64().unwrap())).collect();
    let first = [("/startup", 503), ("/startup", 503), ("/startup", 503), ("/startup", 200)];
    assert_eq!(seen[..4], first);
    assert!(seen[4..].iter().all(|(target, code)| *target != "/startup" && *code == 200), "{seen:?}");
}

#[test]
fn a_failed_startup_restarts_within_the_grace_of_the_probe() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let startup = json!({ "tcpSocket": { "port": 9 }, "periodSeconds": 1, "failureThreshold": 2, "terminationGracePeriodSeconds": 1 });
    let deaf = facts("deaf", &["trap", "0", "--wait", "100000", "--log", "/notes/log", "--as", "deaf"]);
    let spec =
        json!({ "terminationGracePeriodSeconds": 300, "containers": [with(deaf, json!({ "startupProbe": startup }))] });
    host.start(&notes.pod("startup", spec));
    let again = |status: &Value| status["restartCount"] == 1 && status["state"]["running"].is_object();
    let status = host.until_status(("startup", "deaf"), "a restart", again);
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137, "{status}");
    host.until_event("startup", "Unhealthy", "Startup probe failed: dial tcp");
    host.until_event("startup", "Killing", "Container deaf failed startup probe, will be restarted");
    let (ready, got) = (notes.at("deaf", "ready"), notes.at("deaf", "got TERM"));
    assert!(got - ready >= 0.9, "two failures take a second: {}", got - ready);
    notes.until("log", "the second instance", |all| all.iter().filter(|e| e["what"] == "ready").count() == 2);
    let again = notes.all("log").iter().rev().find(|e| e["what"] == "ready").map(time).unwrap();
    // The probe's one second, which the floor makes two; not the pod's 300.
    assert!((1.9..6.0).contains(&(again - got)), "{}", again - got);
}

#[test]
fn a_failed_liveness_probe_restarts_that_container_only() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    // The second instance is not probed before the answer is another one again.
    let liveness = with(http(8080, "/live"), json!({ "failureThreshold": 2, "initialDelaySeconds": 3 }));
    let web = with(server("web", "8080"), json!({ "livenessProbe": liveness }));
    host.start(&notes.pod("live", json!({ "containers": [web, facts("other", &["sleep"])] })));
    host.until_condition("live", "Ready", "True");
    notes.until("web", "two successes", |entries| entries.len() >= 2);
    let other = host.pid("live", "other");
    notes.set("answer", "503");
    host.until_event("live", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 503");
    host.until_event("live", "Killing", "Container web failed liveness probe, will be restarted");
    notes.unset("answer");
    let running = |status: &Value| status["restartCount"] == 1 && status["state"]["running"].is_object();
    host.until_status(("live", "web"), "running again", running);
    let entries =
        notes.until("web", "probes of the second instance", |all| all.last().is_some_and(|e| e["code"] == 200));
    assert_eq!(
        entries.iter().filter(|e| e["code"] == 503).count(),
        2,
        "the worker holds after its verdict: {entries:#?}"
    );
    assert_eq!(host.pid("live", "other"), other);
    assert_eq!(host.status("live", "other")["restartCount"], 0);
    assert_eq!(host.ps("live"), ["2/2", "Running", "1"].map(str::to_owned));
}

#[test]
fn under_never_a_failed_liveness_probe_is_the_end() {
    let Some(host) = Host::new(&[]) else { return };
    // By then it does what it is to do at TERM.
    let delay = json!({ "initialDelaySeconds": 1 });
    let liveness = with(probe(json!({ "exec": { "command": ["/facts", "exit", "1"] } })), delay);
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
        "containers": [with(facts("c", &["trap", "143"]), json!({ "livenessProbe": liveness }))] });
    host.run(&["run", "--keep", &host.manifest(&pod("end", spec))]).expect(143);
    let status = host.inspect("end")["status"].clone();
    assert_eq!((&status["phase"], &status["containerStatuses"][0]["restartCount"]), (&json!("Failed"), &json!(0)));
    let killing = host.events("end", "Killing");
    assert_eq!(killing[0]["message"], "Container c failed liveness probe", "nothing is said of a restart");
}

#[test]
fn the_initial_delay_counts_from_the_start() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let delayed = with(http(8080, "/delayed"), json!({ "initialDelaySeconds": 3 }));
    let at_once = http(8080, "/at-once");
    let web = with(server("web", "8080"), json!({ "readinessProbe": at_once, "livenessProbe": delayed }));
    let before = now();
    host.start(&notes.pod("delay", json!({ "containers": [web] })));
    let entries = notes.until("web", "the delayed probe", |entries| !to(entries, "/delayed").is_empty());
    let first = |target: &str| time(&to(&entries, target)[0]) - before;
    assert!(first("/delayed") >= 3.0 && first("/delayed") < 8.0, "{}", first("/delayed"));
    assert!(first("/at-once") < 2.5, "the first one comes right after the start: {}", first("/at-once"));
}

#[test]
fn while_the_pod_ends_only_readiness_is_probed() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let hook = json!({ "preStop": { "sleep": { "seconds": 4 } } });
    // The first probe may come before the server listens.
    let live = with(http(8080, "/live"), json!({ "failureThreshold": 3 }));
    let web = with(
        server("web", "8080"),
        json!({ "livenessProbe": live, "readinessProbe": http(8080, "/ready"), "lifecycle": hook }),
    );
    host.start(&notes.pod("ends", json!({ "terminationGracePeriodSeconds": 10, "containers": [web] })));
    host.until_condition("ends", "Ready", "True");
    notes.until("web", "both", |all| !to(all, "/live").is_empty() && !to(all, "/ready").is_empty());
    let mut stop = host.live(&["stop", "ends"]);
    host.until_ps("ends", "Terminating");
    let stopped = now();
    assert_eq!(stop.wait(), 0, "{}", stop.err());
    let entries = notes.all("web");
    let after = |target: &str| to(&entries, target).iter().filter(|e| time(e) > stopped).count();
    assert!(after("/ready") >= 2, "{entries:#?}");
    // One may have been under way.
    assert!(after("/live") <= 1 && to(&entries, "/live").iter().all(|e| time(e) < stopped + 0.5), "{entries:#?}");
}

#[test]
fn what_a_probe_cannot_find_out_ends_nothing() {
    let Some(host) = Host::new(&[]) else { return };
    let liveness = probe(json!({ "exec": { "command": ["/no-such-program"] } }));
    host.start(&pod(
        "unclear",
        json!({ "containers": [with(facts("c", &["sleep"]), json!({ "livenessProbe": liveness }))] }),
    ));
    host.until_event("unclear", "Unhealthy", "Liveness probe errored");
    let tries = || -> u64 {
        let events = host.events("unclear", "Unhealthy");
        events.iter().map(|e| e["count"].as_u64().unwrap_or(1)).sum()
    };
    until("it is tried again", || (tries() >= 3).then_some(()));
    let status = host.status("unclear", "c");
    assert_eq!((&status["restartCount"], &status["ready"]), (&json!(0), &json!(true)), "{status}");
}

/// The lines of a file of `/proc/<pid>` as words.
fn proc_lines(pid: i32, file: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// The process of podshim's own that performs a probe for this supervisor, once it has given up its privileges.
fn prober(supervisor: i32) -> i32 {
    let words = format!("podshim probe --parent {supervisor} ");
    until("podshim probe", || {
        let found = crate::leaks::processes(|process| process.cmdline.starts_with(&words));
        found
            .iter()
            .map(|process| process.pid)
            .find(|pid| proc_lines(*pid, "status").iter().any(|l| *l == ["Seccomp:", "2"]))
    })
}

#[test]
fn what_speaks_tls_with_a_container_has_nothing_of_root_and_ends_with_its_supervisor() {
    let Some(host) = Host::new(&[]) else { return };
    // It takes one connection and never answers.
    let silent = shell("silent", "exec nc -l -p 9000 -e sleep 1000");
    let https = json!({ "httpGet": { "port": 9000, "scheme": "HTTPS" }, "timeoutSeconds": 60, "periodSeconds": 1 });
    host.start(&pod("silent", json!({ "containers": [with(silent, json!({ "readinessProbe": https }))] })));
    let supervisor = host.supervisor("silent");
    let pid = prober(supervisor);
    let status = proc_lines(pid, "status");
    let value = |name: &str| {
        status.iter().find(|l| l[0] == format!("{name}:")).unwrap_or_else(|| panic!("{status:?}"))[1..].to_vec()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(value(set), ["0000000000000000"], "{set}");
    }
    let nobody = vec!["65534".to_owned(); 4];
    assert_eq!((value("Uid"), value("Gid"), value("Groups")), (nobody.clone(), nobody, vec![]));
    assert_eq!(
        (value("NoNewPrivs"), value("Threads"), value("PPid")),
        (vec!["1".to_owned()], vec!["1".into()], vec![supervisor.to_string()])
    );
    let limits = proc_lines(pid, "limits");
    for (name, limit) in [
        ("core file size", 0),
        ("processes", 0),
        ("open files", 32),
        ("data size", 64 << 20),
        ("address space", 512 << 20),
    ] {
        let words: Vec<&str> = name.split(' ').collect();
        let line = limits
            .iter()
            .find(|line| line[1..].iter().zip(&words).all(|(a, b)| a == b))
            .unwrap_or_else(|| panic!("{limits:?}"));
        let values = &line[1 + words.len()..][..2];
        assert!(values.iter().all(|value| *value == limit.to_string()), "{line:?}");
    }
    // In the pod's network, and with nothing of the supervisor's open but its end of a pipe.
    let network = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(network(pid), network(host.pid("silent", "silent")));
    let open: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|path| path.display().to_string())
        .collect();
    let own = |name: &String| {
        ["/memfd:probe", "pipe:", "socket:", "anon_inode:", "/dev/null"].iter().any(|own| name.starts_with(own))
    };
    assert!(open.iter().all(own), "{open:?}");
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    until("the end of podshim probe", || proc_lines(pid, "cmdline").is_empty().then_some(()));
}

#[test]
fn a_probe_that_cannot_give_up_its_privileges_sends_nothing() {
    let Some(host) = Host::bare(&["setpriv"]) else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let file = |host_name: &str| {
        let ask = json!({ "Tcp": { "host": host_name, "port": port } });
        let request = json!({ "origin": "Host", "timeout": { "secs": 1, "nanos": 0 }, "ask": ask });
        let path = host.path(&format!("{host_name}.json"));
        std::fs::write(&path, request.to_string()).unwrap();
        path
    };
    let (address, name) = (file("127.0.0.1"), file("localhost"));
    let own = std::process::id().to_string();
    let probe = |request: &std::path::Path, before: &[&str], parent: &str| {
        let mut command = host.command_by(before, &["probe", "--parent", parent]);
        command.stdin(std::fs::File::open(request).unwrap());
        host.finish(command).expect(0).out
    };
    let podshim = host.command(&[] as &[&str]).get_program().to_str().unwrap().to_owned();
    for capability in ["setgid", "setuid", "setpcap"] {
        let said = probe(&address, &["setpriv", "--bounding-set", &format!("-{capability}"), &podshim], &own);
        assert!(said.starts_with("{\"Done\":{\"Error\":\"giving up privileges: "), "{capability}: {said}");
        assert!(said.contains("EPERM"), "{capability}: {said}");
    }
    let said = probe(&address, &[&podshim], "1");
    assert_eq!(said, "{\"Done\":{\"Error\":\"process 1, which asked for this, has ended\"}}\n");
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // Without privileges both can be done, connecting and looking up.
    for request in [&address, &name] {
        assert_eq!(probe(request, &[&podshim], &own), "{\"Done\":\"Success\"}\n");
        assert!(listener.accept().is_ok());
    }
}
