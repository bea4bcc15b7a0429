//! pod-api.md §12 and §15: a container's variables, of every source.

use crate::harness::{Host, documents, facts, object, pod, shell, until, with};
use serde_json::{Value, json};

fn settings() -> Value {
    object("ConfigMap", "settings", json!({ "data": { "COLOR": "blue", "SIZE": "3", "both": "map" } }))
}

fn login() -> Value {
    object(
        "Secret",
        "login",
        json!({ "data": { "user": "YWRtaW4=" }, "stringData": { "password": "hunter2$(COLOR)", "both": "secret" } }),
    )
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

fn amount(name: &str, resource: &str, divisor: &str) -> Value {
    json!({ "name": name, "valueFrom": { "resourceFieldRef": { "resource": resource, "divisor": divisor } } })
}

/// The variables of a running container's first process.
fn variables(host: &Host, pod: &str, container: &str) -> Vec<(String, String)> {
    let bytes = std::fs::read(format!("/proc/{}/environ", host.pid(pod, container))).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.split_terminator('\0').map(|v| v.split_once('=').unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
}

#[track_caller]
fn hold(found: &[(String, String)], expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let of_name: Vec<&str> = found.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect();
        assert_eq!(of_name, [*value], "{name} in {found:?}");
    }
}

#[test]
fn s12_config_maps_and_secrets_in_order_and_with_prefix() {
    let Some(host) = Host::new(&[]) else { return };
    let container = with(
        facts("c", &["sleep"]),
        json!({
            "envFrom": [
                { "configMapRef": { "name": "settings" } },
                { "secretRef": { "name": "login" } },
                { "prefix": "P_", "configMapRef": { "name": "settings" } },
                { "configMapRef": { "name": "none", "optional": true } },
                { "secretRef": { "name": "none", "optional": true } },
            ],
            "env": [
                { "name": "BEFORE", "value": "$(AFTER) $(COLOR) $$(COLOR)" },
                { "name": "COLOR", "value": "$(COLOR)-green" },
                { "name": "AFTER", "value": "$(COLOR) $(PATH)" },
                { "name": "KEY", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "SIZE" } } },
                { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "login", "key": "password" } } },
                { "name": "SIZE", "valueFrom": { "configMapKeyRef": { "name": "none", "key": "x", "optional": true } } },
            ],
        }),
    );
    let manifest = pod("sources", json!({ "containers": [container] }));
    host.ok(&["run", "-d", &documents(&host, "sources.json", &[manifest, login(), settings()])]);
    let found = variables(&host, "sources", "c");
    hold(
        &found,
        &[
            ("user", "admin"),
            ("both", "secret"),
            ("P_both", "map"),
            ("P_COLOR", "blue"),
            ("BEFORE", "$(AFTER) blue $(COLOR)"),
            ("COLOR", "blue-green"),
            // The image's own variables are not known to the manifest's.
            ("AFTER", "blue-green $(PATH)"),
            ("KEY", "3"),
            // A value from elsewhere is not expanded.
            ("PASSWORD", "hunter2$(COLOR)"),
            // What is left out leaves what was there.
            ("SIZE", "3"),
        ],
    );
    // Secrets are in no place that people look at.
    let logs = host.ok(&["logs", "sources"]);
    for shown in [host.ok(&["inspect", "sources"]), host.ok(&["events", "sources"]), logs] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn s15_a_pod_knows_itself() {
    let Some(host) = Host::new(&[]) else { return };
    let container = with(
        facts("c", &["sleep"]),
        json!({
            "resources": { "limits": { "cpu": "1500m", "memory": "100Mi" }, "requests": { "cpu": "100m" } },
            "env": [
                field("NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace"), field("UID", "metadata.uid"),
                field("LABEL", "metadata.labels['a.b/tier']"), field("NO_LABEL", "metadata.labels['none']"),
                field("ANNOTATION", "metadata.annotations['note']"), field("NODE", "spec.nodeName"),
                field("ACCOUNT", "spec.serviceAccountName"), field("IP", "status.podIP"), field("IPS", "status.podIPs"),
                field("HOST", "status.hostIP"), field("HOSTS", "status.hostIPs"),
                { "name": "URL", "value": "http://$(IP):80" },
                amount("CPUS", "limits.cpu", "1"), amount("MILLIS", "requests.cpu", "1m"),
                amount("MIB", "limits.memory", "1Mi"), amount("REQUEST", "requests.memory", "1k"),
                amount("DISK", "limits.ephemeral-storage", "1"),
            ],
        }),
    );
    let mut manifest = pod("self", json!({ "containers": [container] }));
    manifest["metadata"]["labels"] = json!({ "a.b/tier": "front" });
    manifest["metadata"]["annotations"] = json!({ "note": "two\nlines" });
    host.start(&manifest);
    let inspected = host.inspect("self");
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let found = variables(&host, "self", "c");
    let host_ips: Vec<&str> =
        inspected["status"]["hostIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str()).collect();
    hold(
        &found,
        &[
            ("NAME", "self"),
            ("NAMESPACE", "default"),
            ("UID", inspected["metadata"]["uid"].as_str().unwrap()),
            ("LABEL", "front"),
            ("NO_LABEL", ""),
            ("ANNOTATION", "two\nlines"),
            ("NODE", &name),
            ("ACCOUNT", "default"),
            // It has loopback only.
            ("IP", "127.0.0.1"),
            ("IPS", "127.0.0.1"),
            ("HOST", host_ips.first().copied().unwrap_or_default()),
            ("HOSTS", &host_ips.join(",")),
            ("URL", "http://127.0.0.1:80"),
            ("CPUS", "2"),
            ("MILLIS", "100"),
            ("MIB", "100"),
            ("REQUEST", "104858"),
        ],
    );
    let disk: u64 = found.iter().find(|(k, _)| k == "DISK").unwrap().1.parse().unwrap();
    assert!(disk > 1 << 20, "the file system's size: {disk}");
}

#[test]
fn s15_status_pod_ip_is_the_pods_address() {
    let Some(host) = Host::new(&["ip"]) else { return };
    let network = host.network("addressed");
    let ip = |args: &[&str]| {
        let output = std::process::Command::new("ip").args(["-n", &network]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    ip(&["addr", "add", "192.0.2.7/32", "dev", "lo"]);
    ip(&["addr", "add", "2001:db8::7/128", "dev", "lo", "nodad"]);
    let env = json!([field("IP", "status.podIP"), field("IPS", "status.podIPs")]);
    let container = with(shell("c", "sleep 1000; :"), json!({ "env": env, "args": ["$(IP)"] }));
    let path = host.manifest(&pod("addressed", json!({ "containers": [container] })));
    host.ok(&["run", "-d", "--network", &format!("ns:/run/netns/{network}"), &path]);
    hold(&variables(&host, "addressed", "c"), &[("IP", "192.0.2.7"), ("IPS", "192.0.2.7,2001:db8::7")]);
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", host.pid("addressed", "c"))).unwrap();
    assert!(line.ends_with("\u{0}192.0.2.7\u{0}"), "{line:?}");
    assert_eq!(host.inspect("addressed")["status"]["podIP"], "192.0.2.7");
}

fn from_file(name: &str, key: &str, optional: bool) -> Value {
    let wanted = json!({ "volumeName": "shared", "path": "sub/app.env", "key": key, "optional": optional });
    json!({ "name": name, "valueFrom": { "fileKeyRef": wanted } })
}

#[test]
fn s12_file_key_ref_reads_what_an_init_container_wrote() {
    let Some(host) = Host::new(&[]) else { return };
    let script = "mkdir /v/sub; printf \"# made\\n TOKEN='t o'\\nLINES='1\\n2' # two\\n\" > /v/sub/app.env";
    let init = with(shell("init", script), json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/v" }] }));
    let env = json!([
        from_file("TOKEN", "TOKEN", false), from_file("LINES", "LINES", false), from_file("NONE", "NONE", true),
        { "name": "TEXT", "value": "$(TOKEN)/$(NONE)" },
    ]);
    let spec = json!({
        "initContainers": [init], "volumes": [{ "name": "shared", "emptyDir": {} }],
        "containers": [with(facts("c", &["sleep"]), json!({ "env": env }))],
    });
    host.start(&pod("filed", spec));
    let found = variables(&host, "filed", "c");
    hold(&found, &[("TOKEN", "t o"), ("LINES", "1\n2"), ("TEXT", "t o/$(NONE)")]);
    assert!(found.iter().all(|(name, _)| name != "NONE"));
}

#[test]
fn s12_file_key_ref_of_a_hostile_file_reads_nothing_outside() {
    let Some(host) = Host::new(&[]) else { return };
    let secret = host.path("secret.env");
    std::fs::write(&secret, "TOKEN='hunter2'\n").unwrap();
    let rows = [
        ("link", format!("ln -s {} /v/sub/app.env", secret.display()), "does not exist"),
        ("fifo", "mkfifo /v/sub/app.env".to_owned(), "is no regular file"),
        ("large", "head -c 70000 /dev/zero > /v/sub/app.env".to_owned(), "more than 65536 bytes"),
        ("unquoted", "echo TOKEN=hunter2 > /v/sub/app.env".to_owned(), "line 1: a value must stand in single quotes"),
        ("lacking", "echo \"A='b'\" > /v/sub/app.env".to_owned(), "key \"TOKEN\" not found in file"),
    ];
    for (name, script, expected) in rows {
        let script = format!("mkdir /v/sub; {script}");
        let init = with(shell("init", &script), json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/v" }] }));
        let spec = json!({
            "initContainers": [init], "volumes": [{ "name": "shared", "emptyDir": {} }], "restartPolicy": "Never",
            "containers": [with(facts("c", &["env"]), json!({ "env": [from_file("TOKEN", "TOKEN", false)] }))],
        });
        let output = host.foreground(&pod(name, spec)).expect(125).says(&["container c", "app.env", expected]);
        assert!(!output.err.contains("hunter2") && !output.out.contains("hunter2"), "{name}: {output:?}");
    }
}

#[test]
fn s16_sub_path_expr_knows_variables_of_every_source() {
    let Some(host) = Host::new(&[]) else { return };
    let env = json!([
        { "name": "COLOR", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "COLOR" } } },
        field("NAME", "metadata.name"),
    ]);
    let mounts = json!([{ "name": "v", "mountPath": "/at", "subPathExpr": "$(NAME)/$(COLOR)" }]);
    let container = with(facts("c", &["sleep"]), json!({ "env": env, "volumeMounts": mounts }));
    let base = host.folder("base");
    let volumes = json!([{ "name": "v", "hostPath": { "path": base } }]);
    let manifest = pod("pathed", json!({ "containers": [container], "volumes": volumes }));
    host.ok(&["run", "-d", &documents(&host, "pathed.json", &[settings(), manifest])]);
    host.ok(&["exec", "pathed", "--", "/facts", "write", "/at/x", "y"]);
    assert_eq!(std::fs::read_to_string(format!("{base}/pathed/blue/x")).unwrap(), "y");
}

#[test]
fn apply_changes_variables_when_a_container_starts_again() {
    let Some(host) = Host::new(&[]) else { return };
    let env = json!([{ "name": "COLOR", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "COLOR" } } }]);
    let manifest = pod("changing", json!({ "containers": [with(facts("c", &["sleep"]), json!({ "env": env }))] }));
    let applied = |map: &Value| host.run(&["apply", &documents(&host, "c.json", &[map.clone(), manifest.clone()])]);
    let mut map = settings();
    assert_eq!(applied(&map).expect(0).out, "pod/changing created\n");
    assert_eq!(applied(&map).expect(0).out, "pod/changing unchanged\n");
    let before = host.pid("changing", "c");
    map["data"]["COLOR"] = json!("red");
    let output = applied(&map).expect(0).says(&["take effect when a container starts again: c"]);
    assert_eq!(output.out, "pod/changing configured\n");
    assert_eq!(host.pid("changing", "c"), before);
    hold(&variables(&host, "changing", "c"), &[("COLOR", "blue")]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), nix::sys::signal::Signal::SIGKILL).unwrap();
    host.until_status(("changing", "c"), "restarted", |s| s["restartCount"] == 1 && s["state"]["running"].is_object());
    until("the new variable", || {
        variables(&host, "changing", "c").iter().any(|(k, v)| k == "COLOR" && v == "red").then_some(())
    });
    assert_eq!(applied(&map).expect(0).out, "pod/changing unchanged\n");
}

#[test]
fn an_immutable_object_cannot_change() {
    let Some(host) = Host::new(&[]) else { return };
    let container = with(facts("c", &["sleep"]), json!({ "envFrom": [{ "secretRef": { "name": "login" } }] }));
    let manifest = pod("fixed", json!({ "containers": [container] }));
    let mut secret = with(login(), json!({ "immutable": true }));
    let applied =
        |secret: &Value| host.run(&["apply", &documents(&host, "c.json", &[secret.clone(), manifest.clone()])]);
    applied(&secret).expect(0);
    assert_eq!(applied(&secret).expect(0).out, "pod/fixed unchanged\n");
    secret["stringData"]["password"] = json!("hunter3");
    let refused = applied(&secret).expect(125).says(&["Secret/login", "is immutable"]);
    assert!(!refused.err.contains("hunter"), "{refused:?}");
}
