use super::*;
use std::path::PathBuf;
use std::time::Instant;

const UID: &str = "4f1c-a";

/// A host with plugins.
struct Fixture {
    temporary: tempfile::TempDir,
    network: CniNetwork,
    directory: NetworkDir,
}

/// One execution of a plugin: `ADD first`, its input and its environment.
struct Seen {
    call: String,
    input: Value,
    environment: Vec<String>,
}

impl Fixture {
    /// With a configuration and these plugins.
    fn new(config: &Value, plugins: &[&str]) -> Fixture {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        for name in ["net.d", "bin/log", "pods"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cni-plugin.sh");
        for plugin in plugins {
            std::os::unix::fs::symlink(&script, path("bin").join(plugin)).unwrap();
        }
        let network = CniNetwork { conf_dir: path("net.d"), bin_dirs: vec![path("none"), path("bin")] };
        let directory = NetworkDir(path("network"));
        let fixture = Fixture { temporary, network, directory };
        fixture.configure(config);
        fixture
    }

    /// `first` and `second`, each of which answers with an address.
    fn two(version: &str) -> Fixture {
        let fixture = Fixture::new(&config(version), &["first", "second"]);
        let result = |address: &str| {
            json!({ "cniVersion": version, "interfaces": [{ "name": "br0" }, { "name": "eth0", "sandbox": "/x" }],
                "ips": [{ "address": address, "interface": 1 }], "dns": { "search": ["a.example"] }, "own": true })
        };
        fixture.write("first.result", &result("10.0.0.1/24").to_string());
        fixture.write("second.result", &result("10.0.0.2/24").to_string());
        fixture
    }

    fn configure(&self, config: &Value) {
        std::fs::write(self.network.conf_dir.join("10-test.conflist"), config.to_string()).unwrap();
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.temporary.path().join("bin").join(name)
    }

    /// Says what a plugin does.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.bin(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.bin(name)).unwrap()
    }

    fn add(&self) -> Result<Attached> {
        self.add_pod(&sandbox_config(UID), DEADLINE)
    }

    fn add_pod(&self, config: &PodSandboxConfig, deadline: Duration) -> Result<Attached> {
        std::fs::create_dir_all(self.pods().join(&config.uid)).unwrap();
        let namespace = Path::new("/proc/self/ns/net");
        add_within(deadline, &self.network, &Sandbox { config, namespace, directory: &self.directory })
    }

    fn pods(&self) -> PathBuf {
        self.temporary.path().join("pods")
    }

    /// What plugins were called for since the last time.
    fn seen(&self) -> Vec<Seen> {
        let log = self.bin("log");
        let mut calls: Vec<PathBuf> = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
        calls.retain(|path| path.extension().is_some_and(|extension| extension == "call"));
        calls.sort();
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        let seen = calls.iter().map(|path| Seen {
            call: text(path).trim_end().to_owned(),
            input: serde_json::from_str(&text(&path.with_extension("in"))).unwrap(),
            environment: text(&path.with_extension("env"))
                .lines()
                .filter(|l| !l.is_empty())
                .map(str::to_owned)
                .collect(),
        });
        let seen = seen.collect();
        std::fs::remove_dir_all(&log).unwrap();
        std::fs::create_dir(&log).unwrap();
        seen
    }

    fn calls(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.call).collect()
    }

    /// A pod goes. Nobody is at it any more: a process that another test makes has this one's descriptors until it executes its
    /// program, and with them the turn.
    fn goes(&self, uid: &str) {
        std::fs::remove_dir(self.pods().join(uid)).unwrap();
        let cache = Cache::open(&self.directory, Access::Shared).unwrap();
        while cache.turn_now(uid).unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_cached(&self) -> bool {
        self.directory.cni().join(format!("{UID}.json")).exists()
    }
}

fn config(version: &str) -> Value {
    json!({ "cniVersion": version, "name": "testnet", "plugins": [
        { "type": "first", "bridge": "br0", "capabilities": { "portMappings": true } },
        { "type": "second", "capabilities": { "bandwidth": true, "portMappings": false } },
    ] })
}

fn failing(code: u32, message: &str) -> String {
    format!("echo '{{\"code\":{code},\"msg\":\"{message}\",\"details\":\"some details\"}}'; exit 1")
}

#[track_caller]
fn has(error: &anyhow::Error, words: &[&str]) {
    let text = format!("{error:#}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[test]
fn a_chain_is_added_in_order_and_deleted_in_reverse() {
    let fixture = Fixture::two("1.0.0");
    let mut pod = sandbox_config(UID);
    pod.pod_uid = Some("uid-of-web".into());
    pod.bandwidth.ingress = Some(8_000_000);
    pod.ports = vec![
        serde_json::from_value(json!({ "name": null, "container_port": 80, "protocol": "TCP",
        "host_port": 8080, "host_ip": null }))
        .unwrap(),
    ];
    let attached = fixture.add_pod(&pod, DEADLINE).unwrap();
    assert_eq!(attached.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()], "the last result counts");
    assert_eq!(attached.dns.search, ["a.example"]);
    let seen = fixture.seen();
    assert_eq!(seen.iter().map(|s| s.call.as_str()).collect::<Vec<_>>(), ["ADD first", "ADD second"]);
    let path = std::env::var("PATH").unwrap();
    let bin = fixture.bin("").display().to_string();
    let arguments = format!(
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={UID};K8S_POD_UID=uid-of-web"
    );
    let directories =
        format!("CNI_PATH={}:{}", fixture.temporary.path().join("none").display(), bin.trim_end_matches('/'));
    let container = format!("CNI_CONTAINERID={UID}");
    let expected =
        [&arguments, "CNI_COMMAND=ADD", &container, "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net", &directories];
    assert_eq!(seen[0].environment[..6], expected);
    assert_eq!(seen[0].environment[6..], [format!("PATH={path}")], "nothing else");
    let mappings = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] });
    assert_eq!(
        seen[0].input,
        json!({ "type": "first", "bridge": "br0", "capabilities": { "portMappings": true }, "cniVersion": "1.0.0",
            "name": "testnet", "runtimeConfig": mappings })
    );
    let first: Value = serde_json::from_str(&fixture.read("first.result")).unwrap();
    assert_eq!(seen[1].input["prevResult"], first, "as it is, with what podshim does not know");
    let limit = json!({ "bandwidth": { "ingressRate": 8_000_000, "ingressBurst": 1_048_576 } });
    assert_eq!(seen[1].input["runtimeConfig"], limit, "only what it has a capability for");
    delete(&fixture.directory, UID).unwrap();
    let seen = fixture.seen();
    assert_eq!(seen.iter().map(|s| s.call.as_str()).collect::<Vec<_>>(), ["DEL second", "DEL first"]);
    let second: Value = serde_json::from_str(&fixture.read("second.result")).unwrap();
    assert!(seen.iter().all(|s| s.input["prevResult"] == second), "the last result, for each");
    assert_eq!(seen[1].input["runtimeConfig"], mappings);
    assert!(seen[0].environment.contains(&"CNI_NETNS=/proc/self/ns/net".to_owned()));
    delete(&fixture.directory, UID).unwrap();
    assert!(fixture.calls().is_empty() && !fixture.is_cached(), "nothing noted is done");
}

#[test]
fn a_failing_add_is_undone_wholly() {
    let fixture = Fixture::two("1.0.0");
    fixture.write("first.ADD", &failing(7, "no such bridge"));
    let error = fixture.add().unwrap_err();
    let path = fixture.bin("first").display().to_string();
    has(&error, &["network testnet (/", "10-test.conflist): CNI plugin first (", &path]);
    has(&error, &["ADD: no such bridge: some details (code 7: invalid network configuration)"]);
    assert_eq!(fixture.calls(), ["ADD first", "DEL second", "DEL first"], "also the one that was not called");
    assert!(!fixture.is_cached());
    // What cannot be undone is told, and noted for another try.
    fixture.write("second.DEL", &failing(123, "still busy"));
    let error = fixture.add().unwrap_err();
    has(
        &error,
        &["no such bridge", "undoing it failed too", "CNI plugin second", "still busy: some details (code 123)"],
    );
    assert_eq!(
        fixture.calls(),
        ["ADD first", "DEL second", "DEL first"],
        "the failure of one does not stop the others"
    );
    assert!(fixture.is_cached());
    std::fs::remove_file(fixture.bin("second.DEL")).unwrap();
    std::fs::remove_file(fixture.bin("first.ADD")).unwrap();
    fixture.add().unwrap();
    assert_eq!(fixture.calls(), ["DEL second", "DEL first", "ADD first", "ADD second"], "ADD does not follow ADD");
}

#[test]
fn what_is_transient_is_tried_again() {
    let fixture = Fixture::two("1.0.0");
    let once = format!("[ -e \"$here/tried\" ] || {{ touch \"$here/tried\"; {}; }}", failing(11, "no lease yet"));
    fixture.write("second.ADD", &once);
    fixture.add().unwrap();
    assert_eq!(
        fixture.calls(),
        ["ADD first", "ADD second", "DEL second", "DEL first", "ADD first", "ADD second"],
        "with a clean beginning"
    );
}

#[test]
fn del_goes_by_what_was_used_at_add() {
    let fixture = Fixture::two("0.4.0");
    fixture.add().unwrap();
    fixture.configure(&json!({ "cniVersion": "1.0.0", "name": "other", "plugins": [{ "type": "third" }] }));
    fixture.seen();
    delete(&fixture.directory, UID).unwrap();
    let seen = fixture.seen();
    assert_eq!(seen.iter().map(|s| s.call.as_str()).collect::<Vec<_>>(), ["DEL second", "DEL first"]);
    assert!(seen.iter().all(|s| s.input["cniVersion"] == "0.4.0" && s.input["name"] == "testnet"));
    let error = fixture.add().unwrap_err();
    has(&error, &["network other", "CNI plugin \"third\" not found", "/none, /", "/bin (--cni-bin-dir,"]);
    assert!(fixture.calls().is_empty() && !fixture.is_cached());
}

#[test]
fn old_versions_have_no_result_at_del_and_no_check() {
    let fixture = Fixture::two("0.3.1");
    fixture.add().unwrap();
    fixture.seen();
    assert_eq!(check(&fixture.directory, UID).unwrap(), Checked::TooOld);
    delete(&fixture.directory, UID).unwrap();
    assert!(fixture.seen().iter().all(|seen| seen.input.get("prevResult").is_none()));
    assert_eq!(check(&fixture.directory, UID).unwrap(), Checked::NotAttached);
    assert_eq!(check(&NetworkDir("/nonexistent".into()), UID).unwrap(), Checked::NotAttached);
}

#[test]
fn a_namespace_that_is_gone_is_not_named_at_del() {
    let fixture = Fixture::two("1.0.0");
    let pin = fixture.temporary.path().join("pin");
    std::fs::write(&pin, "").unwrap();
    let config = sandbox_config(UID);
    let sandbox = Sandbox { config: &config, namespace: &pin, directory: &fixture.directory };
    add(&fixture.network, &sandbox).unwrap();
    fixture.seen();
    delete(&fixture.directory, UID).unwrap();
    assert!(fixture.seen().iter().all(|seen| seen.environment.contains(&"CNI_NETNS=".to_owned())));
}

#[test]
fn check_asks_all_until_one_complains() {
    let fixture = Fixture::two("1.0.0");
    fixture.add().unwrap();
    fixture.seen();
    assert_eq!(check(&fixture.directory, UID).unwrap(), Checked::Fine);
    let seen = fixture.seen();
    assert_eq!(seen.iter().map(|s| s.call.as_str()).collect::<Vec<_>>(), ["CHECK first", "CHECK second"]);
    assert_eq!(seen[0].input["prevResult"]["ips"][0]["address"], "10.0.0.2/24");
    fixture.write("first.CHECK", &failing(100, "address is missing"));
    has(&check(&fixture.directory, UID).unwrap_err(), &["CNI plugin first", "CHECK: address is missing"]);
    delete(&fixture.directory, UID).unwrap();
    let mut disabled = config("1.0.0");
    disabled["disableCheck"] = true.into();
    fixture.configure(&disabled);
    fixture.add().unwrap();
    assert_eq!(check(&fixture.directory, UID).unwrap(), Checked::Disabled);
}

#[test]
fn status_is_asked_before_the_first_add_only() {
    let fixture = Fixture::two("1.1.0");
    fixture.add().unwrap();
    assert_eq!(fixture.calls(), ["STATUS first", "STATUS second", "ADD first", "ADD second"]);
    fixture.add_pod(&sandbox_config("other"), DEADLINE).unwrap();
    assert_eq!(fixture.calls(), ["ADD first", "ADD second"]);
    assert_eq!(status(&fixture.network).unwrap(), "testnet");
    let seen = fixture.seen();
    assert_eq!(seen[0].environment.iter().filter(|v| v.starts_with("CNI_")).count(), 2, "CNI_COMMAND and CNI_PATH");
    fixture.write("second.STATUS", &failing(50, "daemon is not running"));
    let error = status(&fixture.network).unwrap_err();
    has(
        &error,
        &["CNI plugin second", "STATUS: daemon is not running: some details (code 50: the plugin is not available)"],
    );
    for uid in [UID, "other"] {
        delete(&fixture.directory, uid).unwrap();
    }
    fixture.seen();
    has(&fixture.add().unwrap_err(), &["daemon is not running"]);
    assert_eq!(fixture.calls(), ["STATUS first", "STATUS second"], "nothing was done that would have to be undone");
}

#[test]
fn pods_that_are_gone_are_swept_and_gc_names_those_that_are_there() {
    let fixture = Fixture::two("1.1.0");
    for uid in ["a", "b", "c"] {
        fixture.add_pod(&sandbox_config(uid), DEADLINE).unwrap();
    }
    fixture.seen();
    assert!(sweep(&fixture.directory, &fixture.pods()).unwrap().is_empty());
    fixture.goes("b");
    assert_eq!(sweep(&fixture.directory, &fixture.pods()).unwrap(), ["b"]);
    assert_eq!(fixture.calls(), ["DEL second", "DEL first"], "and nothing about others");
    fixture.goes("c");
    fixture.write("second.DEL", &failing(100, "cannot"));
    has(
        &gc(&fixture.directory, &fixture.pods()).unwrap_err(),
        &["pod c, which is gone", "CNI plugin second", "cannot"],
    );
    assert_eq!(fixture.calls(), ["DEL second", "DEL first", "GC first", "GC second"]);
    std::fs::remove_file(fixture.bin("second.DEL")).unwrap();
    assert_eq!(gc(&fixture.directory, &fixture.pods()).unwrap(), ["testnet"]);
    let seen = fixture.seen();
    assert_eq!(
        seen.iter().map(|s| s.call.as_str()).collect::<Vec<_>>(),
        ["DEL second", "DEL first", "GC first", "GC second"]
    );
    let valid = json!([{ "containerID": "a", "ifname": "eth0" }]);
    assert!(
        seen[2..]
            .iter()
            .all(|s| s.input["cni.dev/valid-attachments"] == valid && s.input["cni.dev/attachments"] == valid)
    );
    assert_eq!(seen[2].environment.iter().filter(|v| v.starts_with("CNI_")).count(), 2);
    // Forbidden, or older than GC: what is one's own is swept all the same.
    delete(&fixture.directory, "a").unwrap();
    let mut disabled = config("1.1.0");
    disabled["disableGC"] = true.into();
    for config in [disabled, config("1.0.0")] {
        fixture.configure(&config);
        fixture.add_pod(&sandbox_config("d"), DEADLINE).unwrap();
        fixture.goes("d");
        fixture.seen();
        assert!(gc(&fixture.directory, &fixture.pods()).unwrap().is_empty());
        assert_eq!(fixture.calls(), ["DEL second", "DEL first"]);
    }
}

#[test]
fn of_several_versions_the_highest_that_all_plugins_know_is_used() {
    let fixture = Fixture::two("1.0.0");
    let mut several = config("0.3.1");
    several["cniVersions"] = json!(["0.4.0", "1.0.0", "1.1.0"]);
    several["plugins"][0]["ipam"] = json!({ "type": "ipam" });
    fixture.configure(&several);
    std::os::unix::fs::symlink(std::fs::read_link(fixture.bin("first")).unwrap(), fixture.bin("ipam")).unwrap();
    let knows = |list: &str| format!("echo '{{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[{list}]}}'; exit 0");
    fixture.write("second.VERSION", &knows(r#""0.1.0","0.4.0","1.0.0""#));
    fixture.add().unwrap();
    let seen = fixture.seen();
    let calls: Vec<&str> = seen.iter().map(|s| s.call.as_str()).collect();
    assert_eq!(calls, ["VERSION first", "VERSION ipam", "VERSION second", "ADD first", "ADD second"]);
    assert!(seen[3..].iter().all(|s| s.input["cniVersion"] == "1.0.0" && s.input.get("cniVersions").is_none()));
    fixture.write("ipam.VERSION", &knows(r#""0.1.0""#));
    has(&fixture.add().unwrap_err(), &["its versions are 0.3.1, 0.4.0, 1.0.0, 1.1.0, CNI plugin ipam knows "]);
    fixture.write("ipam.VERSION", "echo nonsense; exit 0");
    has(&fixture.add().unwrap_err(), &["CNI plugin ipam: VERSION: its answer \"nonsense\""]);
}

#[test]
fn a_plugin_that_hangs_is_killed_with_what_it_started() {
    let fixture = Fixture::two("1.0.0");
    fixture.write("second.ADD", "echo waiting >&2; sleep 1000 & echo $! >\"$here/sleeper\"; wait");
    let begin = Instant::now();
    let error = fixture.add_pod(&sandbox_config(UID), Duration::from_secs(1)).unwrap_err();
    has(
        &error,
        &["CNI plugin second", "ADD: it did not end in 1 s, and was killed; on standard error it said: waiting"],
    );
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert_eq!(fixture.calls(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
    let sleeper: i32 = fixture.read("sleeper").trim().parse().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
    let end = Instant::now() + Duration::from_secs(10);
    // A zombie is dead, too: whose child it has become may take its time.
    while !state().is_empty() && !state().contains(") Z ") {
        assert!(Instant::now() < end, "{}", state());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nobody_waits_for_what_a_plugin_leaves_behind() {
    let fixture = Fixture::two("1.0.0");
    fixture.write("first.ADD", "sleep 1000 & echo $! >\"$here/sleeper\"");
    let begin = Instant::now();
    let attached = fixture.add();
    let sleeper: i32 = fixture.read("sleeper").trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sleeper), nix::sys::signal::Signal::SIGKILL).unwrap();
    attached.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30), "its output is open still");
}

#[test]
fn input_that_is_not_read_and_output_that_is_too_much() {
    let fixture = Fixture::two("1.0.0");
    let mut big = config("1.0.0");
    big["plugins"][0]["padding"] = "x".repeat(300_000).into();
    fixture.configure(&big);
    fixture.add().unwrap();
    assert_eq!(fixture.seen()[0].input["padding"].as_str().map(str::len), Some(300_000));
    delete(&fixture.directory, UID).unwrap();
    // It answers without having read.
    fixture.write("first.early", "[ $CNI_COMMAND != ADD ] || { cat \"$here/first.result\"; exit 0; }");
    fixture.add().unwrap();
    delete(&fixture.directory, UID).unwrap();
    fixture.write("first.early", "[ $CNI_COMMAND != ADD ] || exec yes");
    has(&fixture.add().unwrap_err(), &["CNI plugin first", "it printed more than 1048576 bytes, and was killed: y"]);
    // Of complaints the last ones are kept.
    fixture.write(
        "first.early",
        "[ $CNI_COMMAND != ADD ] || { head -c 3000000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 3; }",
    );
    let error = fixture.add().unwrap_err();
    has(
        &error,
        &["ADD: exit code 3 without an error as the specification has it; on standard error it said: …xxx", "end"],
    );
    assert!(format!("{error:#}").len() < 4000);
}

#[test]
fn answers_that_are_none() {
    let fixture = Fixture::two("1.0.0");
    for (answer, said) in [
        (
            "echo nonsense; exit 0",
            "CNI plugin second: ADD: it printed no JSON (expected ident at line 1 column 2): nonsense",
        ),
        ("exit 0", "CNI plugin second: ADD: it printed no result"),
        ("echo '{\"cniVersion\":\"1.0.0\"}'; exit 0", "the result has no address of an interface in the pod"),
        (
            "echo sorry; echo why >&2; exit 9",
            "exit code 9 without an error as the specification has it; it printed: sorry; on standard error it said: why",
        ),
        ("kill -KILL $$", "killed by signal 9 without an error"),
    ] {
        fixture.write("second.ADD", answer);
        has(&fixture.add().unwrap_err(), &[said]);
        assert_eq!(fixture.calls(), ["ADD first", "ADD second", "DEL second", "DEL first"], "{answer}");
    }
    std::fs::remove_file(fixture.bin("second")).unwrap();
    std::fs::write(fixture.bin("second"), "no program").unwrap();
    has(&fixture.add().unwrap_err(), &["CNI plugin second", "execve", "Permission denied"]);
}

#[test]
fn a_pods_name_among_attachments_is_a_plain_one() {
    let fixture = Fixture::two("1.0.0");
    let error = fixture.add_pod(&sandbox_config("../x"), DEADLINE).unwrap_err();
    has(&error, &["uid \"../x\" is no container id"]);
    assert!(fixture.calls().is_empty());
}

#[test]
fn a_pod_that_is_still_being_attached_is_not_let_go_of_before_that_is_over() {
    let fixture = Fixture::two("1.0.0");
    fixture.write("first.ADD", "touch \"$here/begun\"; until [ -e \"$here/go\" ]; do sleep 0.01; done");
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| fixture.add());
        while !fixture.bin("begun").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Another pod does not wait for it, and leaves it alone.
        delete(&fixture.directory, "another").unwrap();
        std::fs::remove_dir_all(fixture.pods().join(UID)).unwrap();
        assert!(sweep(&fixture.directory, &fixture.pods()).unwrap().is_empty());
        let deleting = scope.spawn(|| delete(&fixture.directory, UID));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!deleting.is_finished());
        fixture.write("go", "");
        adding.join().unwrap().unwrap();
        deleting.join().unwrap().unwrap();
    });
    assert_eq!(fixture.calls(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
    assert!(!fixture.is_cached());
}

#[test]
fn what_was_noted_in_part_goes_too() {
    let fixture = Fixture::two("1.0.0");
    fixture.add().unwrap();
    let half = fixture.directory.cni().join("other.json.tmp");
    std::fs::write(&half, "{").unwrap();
    delete(&fixture.directory, "other").unwrap();
    assert!(!half.exists() && fixture.is_cached());
}

#[test]
fn what_was_noted_and_cannot_be_read_is_lost_for_its_own_pod_only() {
    let fixture = Fixture::two("1.1.0");
    fixture.add().unwrap();
    let noted = fixture.directory.cni().join(format!("{UID}.json"));
    for damaged in ["", "{", "[]", "{}", "{\"format\":1}", "{\"format\":2}"] {
        std::fs::write(&noted, damaged).unwrap();
        fixture.add_pod(&sandbox_config("other"), DEADLINE).unwrap();
        fixture.seen();
        has(&gc(&fixture.directory, &fixture.pods()).unwrap_err(), &[noted.to_str().unwrap()]);
        let lost = delete(&fixture.directory, UID).unwrap().unwrap();
        assert!(lost.contains(noted.to_str().unwrap()) && lost.ends_with(UID), "{damaged:?}: {lost}");
        assert!(fixture.calls().is_empty() && !fixture.is_cached(), "{damaged:?}");
    }
    // Of one that is gone as well.
    std::fs::write(&noted, "").unwrap();
    fixture.goes(UID);
    let swept = sweep(&fixture.directory, &fixture.pods()).unwrap();
    assert!(swept.len() == 1 && swept[0].contains("is damaged") && !fixture.is_cached(), "{swept:?}");
    fixture.add().unwrap();
}
