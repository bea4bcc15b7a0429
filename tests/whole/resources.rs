//! Limits, as the cgroup files of the host show them, and what happens at them.

use crate::harness::{FACTS, Host, facts, pod, with};
use crate::leaks::cgroup_file;
use serde_json::{Value, json};

fn limited(name: &str, args: &[&str], resources: Value) -> Value {
    with(facts(name, args), json!({ "resources": resources }))
}

/// A file of a container's cgroup: its name with cgroup v1, its name with v2.
fn value(host: &Host, pod: &str, container: &str, names: [&str; 2]) -> String {
    let below = format!("{}/podshim/pod{}/{container}", host.cgroup_parent, host.uid(pod));
    let found = names.iter().find_map(|name| cgroup_file(&below, name));
    found.unwrap_or_else(|| panic!("no {names:?} in {below}"))
}

#[test]
fn limits_are_in_the_cgroups() {
    let Some(host) = Host::new(&[]) else { return };
    let both =
        json!({ "limits": { "memory": "64Mi", "cpu": "500m" }, "requests": { "memory": "32Mi", "cpu": "250m" } });
    let containers = json!([limited("l", &["sleep"], both), facts("free", &["sleep"])]);
    host.start(&pod("limits", json!({ "containers": containers })));
    assert_eq!(value(&host, "limits", "l", ["memory.limit_in_bytes", "memory.max"]), "67108864");
    let quota = value(&host, "limits", "l", ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let shares = value(&host, "limits", "l", ["cpu.shares", "cpu.weight"]);
    // 250m of 1000m; the weight is what the kubelet's formula makes of 256 shares.
    assert!(shares == "256" || shares.parse::<u64>().is_ok_and(|w| w < 100), "{shares}");
    let free = value(&host, "limits", "free", ["memory.limit_in_bytes", "memory.max"]);
    assert!(free == "max" || free.parse::<u64>().unwrap() > 1 << 60, "{free}");
    // Inside, the container sees its own limit.
    let inside = host.report(
        "limits",
        "l",
        &["--file=/sys/fs/cgroup/memory/memory.limit_in_bytes", "--file=/sys/fs/cgroup/memory.max"],
    );
    let seen: Vec<&str> = inside["files"].as_object().unwrap().values().filter_map(Value::as_str).collect();
    assert_eq!(seen, ["67108864\n"], "{}", inside["files"]);
    // Changing it is not its business.
    host.run(&[
        "exec",
        "-c",
        "l",
        "limits",
        "--",
        "/facts",
        "write",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "-1",
    ])
    .expect(1);
}

#[test]
fn qos_classes_and_what_the_kernel_kills_first() {
    let Some(host) = Host::new(&[]) else { return };
    let same = json!({ "limits": { "memory": "64Mi", "cpu": "500m" } });
    host.start(&pod("guaranteed", json!({ "containers": [limited("c", &["sleep"], same)] })));
    host.start(&pod(
        "burstable",
        json!({ "containers": [limited("c", &["sleep"], json!({ "requests": { "memory": "64Mi" } }))] }),
    ));
    host.start(&pod("besteffort", json!({ "containers": [facts("c", &["sleep"])] })));
    for (name, class) in [("guaranteed", "Guaranteed"), ("burstable", "Burstable"), ("besteffort", "BestEffort")] {
        assert_eq!(host.inspect(name)["status"]["qosClass"], class);
    }
    let score = |name: &str| -> i32 {
        let path = format!("/proc/{}/oom_score_adj", host.pid(name, "c"));
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    };
    assert_eq!(score("besteffort"), 1000);
    let total: u64 =
        std::fs::read_to_string("/proc/meminfo").unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    let expected = 1000 - (1000 * (64 << 20)) / (total * 1024);
    assert_eq!(score("burstable"), i32::try_from(expected).unwrap().clamp(3, 999));
    // To be below its parent's takes CAP_SYS_RESOURCE; without it that is said.
    let said = host.ok(&["events", "guaranteed"]).contains("oom_score_adj stays as it is, -997 takes CAP_SYS_RESOURCE");
    assert!(score("guaranteed") == -997 || said);
}

#[test]
fn too_much_memory_is_told_as_oomkilled() {
    let Some(host) = Host::new(&[]) else { return };
    let limits = json!({ "limits": { "memory": "32Mi" } });
    let spec = json!({ "restartPolicy": "Never", "containers": [limited("hungry", &["alloc", "200"], limits.clone()), facts("other", &["sleep", "1"])] });
    host.run(&["run", "--keep", &host.manifest(&pod("oom", spec))]).expect(137);
    let ended = host.status("oom", "hungry")["state"]["terminated"].clone();
    assert_eq!((ended["exitCode"].as_i64(), ended["reason"].as_str()), (Some(137), Some("OOMKilled")), "{ended}");
    assert_eq!(host.status("oom", "other")["state"]["terminated"]["reason"], "Completed");
    // A Memory volume counts as the container's memory.
    let filler = json!({ "name": "filler", "image": "busybox", "command": ["sh", "-c", "dd if=/dev/zero of=/v/x bs=1M count=100"],
        "resources": limits, "volumeMounts": [{ "name": "v", "mountPath": "/v" }] });
    let spec = json!({ "restartPolicy": "Never", "containers": [filler], "volumes": [{ "name": "v", "emptyDir": { "medium": "Memory" } }] });
    let output = host.run(&["run", "--keep", &host.manifest(&pod("filled", spec))]);
    assert_ne!(output.code, 0, "{output:?}");
}

#[test]
fn images_and_manifests_agree_on_what_runs() {
    let Some(host) = Host::bare(&[]) else { return };
    let change = json!({ "Entrypoint": ["/facts", "entry"], "Cmd": ["cmd"], "User": "www-data:bin", "WorkingDir": "/made/for/it",
        "Env": ["PATH=/from-image:/", "BOTH=image", "IMAGE=yes"], "StopSignal": "SIGINT" });
    host.import(FACTS, "localhost/changed", &change);
    let run = |name: &str, container: Value| {
        host.seen(name, with(json!({ "name": "c", "image": "localhost/changed" }), container), json!({}))
    };
    let args = |seen: &Value| -> Vec<String> { serde_json::from_value(seen["args"].clone()).unwrap() };
    let seen = run("both", json!({}));
    assert_eq!(args(&seen), ["/facts", "entry", "cmd"]);
    assert_eq!((seen["uid"].as_i64(), seen["gid"].as_i64()), (Some(33), Some(2)));
    assert_eq!((&seen["cwd"], &seen["caps"]["effective"]), (&json!("/made/for/it"), &json!("0000000000000000")));
    assert_eq!(args(&run("args", json!({ "args": ["x", "y"] }))), ["/facts", "entry", "x", "y"]);
    assert_eq!(
        args(&run("command", json!({ "command": ["facts", "z"] }))),
        ["facts", "z"],
        "the image's Cmd is not used"
    );
    assert_eq!(args(&run("all", json!({ "command": ["/facts"], "args": ["a", "b"] }))), ["/facts", "a", "b"]);
    let env = json!([{ "name": "FIRST", "value": "1" }, { "name": "BOTH", "value": "manifest" }, { "name": "SECOND", "value": "$(FIRST)-$(NOPE)-$$(FIRST)" }]);
    let seen = run(
        "env",
        json!({ "env": env, "args": ["$(SECOND)", "$(IMAGE)"], "workingDir": "/elsewhere/new", "securityContext": { "runAsUser": 0 } }),
    );
    let has = |entry: &str| seen["env"].as_array().unwrap().contains(&json!(entry));
    for entry in
        ["FIRST=1", "BOTH=manifest", "IMAGE=yes", "SECOND=1-$(NOPE)-$(FIRST)", "PATH=/from-image:/", "HOSTNAME=env"]
    {
        assert!(has(entry), "{entry} in {}", seen["env"]);
    }
    assert!(!has("BOTH=image"));
    // The image's variables are not the manifest's, so $(IMAGE) stays.
    assert_eq!(args(&seen)[2..], ["1-$(NOPE)-$(FIRST)", "$(IMAGE)"]);
    assert_eq!((&seen["cwd"], &seen["uid"]), (&json!("/elsewhere/new"), &json!(0)));
    // The image's stop signal.
    let traps = json!({ "name": "c", "image": "localhost/changed", "command": ["/facts", "trap-term", "4"] });
    host.start(&pod("stops", json!({ "restartPolicy": "Never", "containers": [traps] })));
    host.live(&["logs", "-f", "stops"]).until_has("ready");
    host.ok(&["stop", "stops"]);
    assert!(host.ok(&["logs", "stops"]).contains("got INT"));
    assert_eq!(host.status("stops", "c")["state"]["terminated"]["exitCode"], 4);
}

#[test]
fn the_number_of_processes_is_limited() {
    let Some(host) = Host::new(&[]) else { return };
    let fork =
        |count: &str| pod("fork", json!({ "restartPolicy": "Never", "containers": [facts("c", &["fork", count])] }));
    let output = host.run(&["run", "--pids-limit", "10", &host.manifest(&fork("30"))]).expect(1);
    assert!(output.out.contains("forked 9 of 30"), "{output:?}");
    // Each container has its own, whatever the others do.
    let containers = json!([facts("full", &["fork", "30", "--hold"]), facts("other", &["sleep"])]);
    let manifest = host.manifest(&pod("pair", json!({ "containers": containers })));
    host.ok(&["run", "-d", "--pids-limit", "10", &manifest]);
    host.live(&["logs", "-f", "pair", "-c", "full"]).until_has("forked 9 of 30");
    assert_eq!(value(&host, "pair", "full", ["pids.max", "pids.max"]), "10");
    host.ok(&["exec", "-c", "other", "pair", "--", "/facts", "fork", "5"]);
    // A command of the user's can only be let in where joining is not counted (v1); it cannot fork either way.
    assert_ne!(host.run(&["exec", "-c", "full", "pair", "--", "/facts", "fork", "3"]).code, 0);
    host.ok(&["rm", "-f", "pair"]);
    assert!(host.run(&["run", &host.manifest(&fork("30"))]).expect(0).out.contains("forked 30"));
}
