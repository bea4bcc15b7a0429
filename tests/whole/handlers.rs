//! pod-api.md §6 and §7: what is true of every kind of probe and of both hooks, whichever handler and numbers they have.

use crate::harness::{Host, facts, until, with};
use crate::notes::{Notes, noting, now, time};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// A server in the host's own network, where the requests go that name a host: what each connection said.
struct Server {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers everything with this code, as long as the test runs.
    fn start(code: u16) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let into = Arc::clone(&heard);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = Vec::new();
                let mut buffer = [0; 1024];
                // Of TLS no more than the beginning: it is answered without.
                while !head.ends_with(b"\r\n\r\n") && head.first() != Some(&0x16) {
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => break,
                        Ok(n) => head.extend_from_slice(&buffer[..n]),
                    }
                }
                into.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                let answer = format!("HTTP/1.1 {code} Whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                // Who only wanted to connect has gone.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Server { port, heard }
    }

    #[track_caller]
    fn until_heard(&self, words: &str) {
        until(&format!("{words:?}"), || {
            self.heard.lock().unwrap().iter().any(|head| head.contains(words)).then_some(())
        });
    }
}

/// The field, and the word that events have for it.
const KINDS: [(&str, &str); 3] =
    [("livenessProbe", "Liveness"), ("readinessProbe", "Readiness"), ("startupProbe", "Startup")];

/// A container that sleeps, with a probe each second that one failure decides.
fn probed(name: &str, kind: &str, probe: Value) -> Value {
    let each_second = with(json!({ "periodSeconds": 1, "failureThreshold": 1 }), probe);
    let ports = json!([{ "name": "web", "containerPort": 8080 }]);
    with(facts(name, &["sleep"]), json!({ kind: each_second, "ports": ports }))
}

/// What the events say about one container's probes.
fn unhealthy(host: &Host, pod: &str, container: &str) -> String {
    let events = host.events(pod, "Unhealthy");
    let own = events.iter().filter(|event| event["object"] == format!("container/{container}").as_str());
    own.filter_map(|event| event["message"].as_str()).collect::<Vec<_>>().join("\n")
}

/// Waits until a container is as a probe of this kind leaves it that does not succeed.
#[track_caller]
fn until_failed(host: &Host, pod: &str, kind: &str, container: &str) {
    let again = |status: &Value| status["restartCount"].as_u64() >= Some(1);
    match kind {
        "readinessProbe" => {
            until("a failure", || unhealthy(host, pod, container).contains("probe failed").then_some(()));
            let status = host.status(pod, container);
            assert_eq!((&status["ready"], &status["restartCount"]), (&json!(false), &json!(0)), "{status}");
        }
        _ => drop(host.until_status((pod, container), "a restart", again)),
    }
}

/// Waits until a container is as a probe of this kind leaves it that succeeds.
#[track_caller]
fn until_succeeded(host: &Host, pod: &str, container: &str) {
    let fine = |status: &Value| status["ready"] == true && status["started"] == true;
    let status = host.until_status((pod, container), "ready", fine);
    assert_eq!(status["restartCount"], 0, "{status}");
}

#[test]
fn each_kind_of_probe_asks_by_each_handler() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let mut containers = vec![
        facts("web", &["http", "8080", "--log", "/notes/web"]),
        facts("health", &["grpc", "5000", "--log", "/notes/health"]),
    ];
    let mut servers = Vec::new();
    // The servers may not listen yet when the first probes come.
    let patient = |handler: Value| with(json!({ "failureThreshold": 30 }), handler);
    for (kind, word) in KINDS {
        let note: Vec<&str> = [&["/facts"][..], &noting(&["note", kind], "probe")].concat();
        let fields = json!([{ "name": "X-Kind", "value": kind }, { "name": "Accept", "value": "text/plain" }]);
        let get = json!({ "path": format!("/{kind}?a=b"), "port": "web", "scheme": "HTTP", "httpHeaders": fields });
        let handlers = [
            ("exec", json!({ "exec": { "command": note } }), json!({ "exec": { "command": ["/facts", "exit", "1"] } })),
            (
                "http",
                json!({ "httpGet": get }),
                json!({ "httpGet": { "path": format!("/code/500?{kind}"), "port": 8080 } }),
            ),
            ("tcp", json!({ "tcpSocket": { "port": "web" } }), json!({ "tcpSocket": { "port": 9 } })),
            (
                "grpc",
                json!({ "grpc": { "port": 5000, "service": "known" } }),
                json!({ "grpc": { "port": 5000, "service": format!("not.of.{kind}") } }),
            ),
            (
                "mode",
                json!({ "grpc": { "port": 5000, "mode": "Plaintext" } }),
                json!({ "grpc": { "port": 5000, "mode": "TLS" } }),
            ),
            (
                "h2c",
                json!({ "httpGet": { "port": 5000, "path": format!("/h2c/{kind}"), "protocol": "HTTP2" } }),
                json!({ "httpGet": { "port": 8080, "protocol": "HTTP2" } }),
            ),
        ];
        for (handler, good, bad) in handlers {
            let name = |end: &str| format!("{}-{handler}-{end}", word.to_lowercase());
            containers.push(probed(&name("good"), kind, patient(good)));
            containers.push(probed(&name("bad"), kind, bad));
        }
        let secret = json!({ "httpGet": { "port": 8080, "scheme": "HTTPS" } });
        containers.push(probed(&format!("{}-https-bad", word.to_lowercase()), kind, secret));
        let (http, tcp) = (Server::start(200), Server::start(200));
        let get = json!({ "httpGet": { "path": "/host", "port": http.port, "host": "127.0.0.1" } });
        containers.push(probed(&format!("{}-http-host", word.to_lowercase()), kind, patient(get)));
        let connect = json!({ "tcpSocket": { "port": tcp.port, "host": "127.0.0.1" } });
        containers.push(probed(&format!("{}-tcp-host", word.to_lowercase()), kind, patient(connect)));
        servers.push((http, tcp));
    }
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": containers });
    // Startup probes that fail keep `run -d` from its end no more than they keep the pod from running.
    host.start(&notes.pod("handlers", spec));
    for ((kind, word), (http, tcp)) in KINDS.into_iter().zip(&servers) {
        http.until_heard(&format!("GET /host HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n", http.port));
        tcp.until_heard("");
        let name = |handler: &str, end: &str| format!("{}-{handler}-{end}", word.to_lowercase());
        for handler in ["exec", "http", "tcp", "grpc", "mode", "h2c"] {
            until_succeeded(&host, "handlers", &name(handler, "good"));
        }
        for handler in ["http", "tcp"] {
            until_succeeded(&host, "handlers", &name(handler, "host"));
        }
        for (handler, words) in [
            ("exec", "failed"),
            ("http", "HTTP probe failed with statuscode: 500"),
            ("tcp", "dial tcp"),
            ("grpc", "failed"),
            ("mode", "failed"),
            ("h2c", "failed"),
            ("https", "failed"),
        ] {
            let container = name(handler, "bad");
            until_failed(&host, "handlers", kind, &container);
            let said = unhealthy(&host, "handlers", &container);
            assert!(said.contains(&format!("{word} probe failed")) && said.contains(words), "{container}: {said}");
        }
        notes.until_at("probe", kind);
        let target = format!("/{kind}?a=b");
        let requests = notes.until("web", &target, |all| all.iter().any(|e| e["target"] == target.as_str()));
        let request = requests.iter().find(|e| e["target"] == target.as_str()).unwrap();
        let fields = request["headers"].to_string().to_lowercase();
        let kind_field = format!(r#"["x-kind","{}"]"#, kind.to_lowercase());
        for field in [r#":8080"]"#, r#"["accept","text/plain"]"#, &kind_field] {
            assert!(fields.contains(field), "{field} in {fields}");
        }
        let asked = format!("not.of.{kind}");
        assert!(notes.all("health").iter().any(|e| e["service"] == asked.as_str()), "{asked}");
        let target = format!("/h2c/{kind}");
        notes
            .until("health", &target, |all| all.iter().any(|e| e["target"] == target.as_str() && e["method"] == "GET"));
    }
}

#[test]
fn each_kind_of_probe_has_its_time_for_an_answer() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let mut containers = vec![facts("web", &["http", "8080", "--log", "/notes/web"])];
    let slow = |seconds: u32, failures: u32| json!({ "httpGet": { "port": 8080, "path": "/slow/1500" }, "timeoutSeconds": seconds, "failureThreshold": failures });
    for (kind, word) in KINDS {
        let word = word.to_lowercase();
        containers.push(probed(&format!("{word}-short"), kind, slow(1, 1)));
        // Before the server listens, a probe fails at once.
        containers.push(probed(&format!("{word}-long"), kind, slow(5, 30)));
    }
    host.start(&notes.pod("timeouts", json!({ "terminationGracePeriodSeconds": 1, "containers": containers })));
    for (kind, word) in KINDS {
        let word = word.to_lowercase();
        until_succeeded(&host, "timeouts", &format!("{word}-long"));
        let short = format!("{word}-short");
        until_failed(&host, "timeouts", kind, &short);
        until("the words", || unhealthy(&host, "timeouts", &short).contains("deadline exceeded").then_some(()));
    }
}

/// When a container noted `what`, for the n-th time.
fn nth(notes: &Notes, who: &str, what: &str, n: usize) -> Option<f64> {
    notes.all("log").iter().filter(|e| e["who"] == who && e["what"] == what).nth(n).map(time)
}

#[test]
fn each_kind_of_probe_has_its_delay_period_thresholds_and_grace() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let numbers = |path: &str| {
        json!({ "httpGet": { "port": 8080, "path": path }, "initialDelaySeconds": 2, "periodSeconds": 2,
            "failureThreshold": 2, "successThreshold": 1 })
    };
    let deaf = |name: &str| facts(name, &noting(&["trap", "0", "--wait", "100000"], name));
    let ends = |name: &str, kind: &str| {
        let probe = with(numbers(&format!("/code/503?{name}")), json!({ "terminationGracePeriodSeconds": 1 }));
        with(deaf(name), json!({ kind: probe }))
    };
    let twice = with(numbers("/ready"), json!({ "successThreshold": 2 }));
    let containers = json!([
        facts("web", &["http", "8080", "--log", "/notes/web", "--answer", "/notes/answer"]),
        ends("live", "livenessProbe"),
        ends("start", "startupProbe"),
        with(deaf("ready"), json!({ "readinessProbe": twice })),
    ]);
    host.start(&notes.pod("numbers", json!({ "terminationGracePeriodSeconds": 300, "containers": containers })));
    let of =
        |target: &str| -> Vec<f64> { notes.all("web").iter().filter(|e| e["target"] == target).map(time).collect() };
    for name in ["live", "start"] {
        let again = until("the second instance", || nth(&notes, name, "ready", 1));
        let (began, got) = (notes.at(name, "ready"), notes.at(name, "got TERM"));
        let asked: Vec<f64> = of(&format!("/code/503?{name}")).into_iter().filter(|at| *at < again).collect();
        assert_eq!(asked.len(), 2, "{name}: as many failures as its threshold says");
        // It is told of its start a little before it can note it.
        assert!((1.5..4.0).contains(&(asked[0] - began)), "{name}: the delay: {}", asked[0] - began);
        assert!((1.8..4.0).contains(&(asked[1] - asked[0])), "{name}: the period: {asked:?}");
        assert!((0.0..2.0).contains(&(got - asked[1])), "{name}: {}", got - asked[1]);
        // The probe's one second, which the floor makes two; not the pod's 300.
        assert!((1.8..6.0).contains(&(again - got)), "{name}: the grace: {}", again - got);
    }
    host.until_status(("numbers", "ready"), "ready", |status| status["ready"] == true);
    let asked = of("/ready");
    let began = notes.at("ready", "ready");
    assert!((1.5..4.0).contains(&(asked[0] - began)), "the delay: {}", asked[0] - began);
    assert!(
        asked.len() >= 2 && (1.8..4.0).contains(&(asked[1] - asked[0])),
        "two successes, a period apart: {asked:?}"
    );
    notes.set("answer", "503");
    host.until_status(("numbers", "ready"), "unready", |status| status["ready"] == false);
    let failed = notes.all("web").iter().filter(|e| e["target"] == "/ready" && e["code"] == 503).count();
    assert!(failed >= 2, "two failures in a row: {failed}");
    assert_eq!(host.status("numbers", "ready")["restartCount"], 0);
    // The containers that ignore TERM need not be waited for.
    host.ok(&["rm", "-f", "numbers"]);
}

#[test]
fn an_http_hook_asks_what_and_where_it_is_told() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let server = Server::start(200);
    let hooked = |name: &str, place: Value, port: u16| {
        let at = |hook: &str| {
            let path = format!("/code/200?{name}-{hook}");
            let fields = json!([{ "name": "X-Hook", "value": path }]);
            json!({ "httpGet": with(place.clone(), json!({ "path": path, "port": "web", "httpHeaders": fields })) })
        };
        let hooks = json!({ "postStart": at("start"), "preStop": at("stop") });
        let ports = json!([{ "name": "web", "containerPort": port }]);
        with(facts(name, &noting(&["trap", "0"], name)), json!({ "lifecycle": hooks, "ports": ports }))
    };
    let web = facts("web", &["http", "8080", "--log", "/notes/web"]);
    let health = facts("health", &["grpc", "5000", "--log", "/notes/health"]);
    // A server that is asked to end would not answer the others' last requests: these are sidecars, which end last.
    let sidecar = |container: Value, port: u16| {
        let probe = json!({ "tcpSocket": { "port": port }, "periodSeconds": 1, "failureThreshold": 30 });
        with(container, json!({ "restartPolicy": "Always", "startupProbe": probe }))
    };
    let (web, health) = (sidecar(web, 8080), sidecar(health, 5000));
    let spec = json!({ "restartPolicy": "Never", "initContainers": [web, health], "containers": [
        hooked("plain", json!({ "scheme": "HTTP" }), 8080),
        hooked("tls", json!({ "scheme": "HTTPS", "host": "127.0.0.1" }), server.port),
        hooked("h2c", json!({ "protocol": "HTTP2" }), 5000),
    ] });
    host.start(&notes.pod("asks", spec));
    for name in ["plain", "tls", "h2c"] {
        notes.until_at(name, "ready");
    }
    let before = now();
    host.ok(&["stop", "asks"]);
    assert!(now() - before < 10.0, "{}", now() - before);
    // Where nobody speaks TLS a hook is asked once more without it.
    for hook in ["start", "stop"] {
        let find = |file: &str, path: String| {
            let own = format!(r#""{path}"]"#);
            let mut all = notes.all(file).into_iter().map(|e| e["headers"].to_string());
            all.find(|fields| fields.contains(&own)).unwrap_or_else(|| panic!("no {path}: {}", notes.text(file)))
        };
        let fields = find("web", format!("/code/200?plain-{hook}"));
        for words in [r#":8080"]"#, "X-Hook", "kube-lifecycle/"] {
            assert!(fields.contains(words), "{words} in {fields}");
        }
        assert!(notes.all("web").iter().any(|e| e["target"] == format!("/code/200?plain-{hook}").as_str()));
        find("health", format!("/code/200?h2c-{hook}"));
        server.until_heard(&format!("GET /code/200?tls-{hook} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n", server.port));
        server.until_heard(&format!("X-Hook: /code/200?tls-{hook}\r\n"));
    }
    let hello = |heard: &String| heard.starts_with('\u{16}');
    assert_eq!(server.heard.lock().unwrap().iter().filter(|heard| hello(heard)).count(), 2, "TLS was tried first");
    for name in ["plain", "tls", "h2c"] {
        assert_eq!(notes.of_whom(name), ["ready", "got TERM", "ends"], "{name}");
        assert_eq!(host.status("asks", name)["restartCount"], 0, "{name}");
    }
    for reason in ["FailedPostStartHook", "FailedPreStopHook"] {
        assert_eq!(host.events("asks", reason), Vec::<Value>::new());
    }
}

#[test]
fn a_sidecars_ports_have_names() {
    let Some(host) = Host::new(&[]) else { return };
    let notes = Notes::of(&host);
    let web = facts("web", &["http", "8080", "--log", "/notes/web"]);
    let startup = json!({ "httpGet": { "path": "/started", "port": "admin" }, "periodSeconds": 1 });
    let ports = json!([{ "name": "admin", "containerPort": 8080, "protocol": "TCP" }]);
    let web = with(web, json!({ "restartPolicy": "Always", "ports": ports, "startupProbe": startup }));
    host.start(&notes.pod("named", json!({ "initContainers": [web], "containers": [facts("c", &["sleep"])] })));
    host.until_condition("named", "Ready", "True");
    assert!(notes.all("web").iter().any(|e| e["target"] == "/started"), "the port that is named admin was asked");
}
