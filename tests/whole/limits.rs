//! Limits of pods as a whole, of disk space, and what happens when they change.

use crate::harness::{Host, facts, pod, shell, until, with};
use crate::leaks::cgroup_file;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A file of a cgroup below the pod's: its name with cgroup v1, its name with v2. `below` is "" for the pod's own.
fn value(host: &Host, pod: &str, below: &str, names: [&str; 2]) -> String {
    let path = format!("{}/podshim/pod{}{below}", host.cgroup_parent, host.uid(pod));
    let found = names.iter().find_map(|name| cgroup_file(&path, name));
    found.unwrap_or_else(|| panic!("no {names:?} in {path}"))
}

const MEMORY: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];
const QUOTA: [&str; 2] = ["cpu.cfs_quota_us", "cpu.max"];
const SHARES: [&str; 2] = ["cpu.shares", "cpu.weight"];

/// A value of v1, or what v2 has for it.
fn is_one_of(found: &str, v1: &str, v2: &str) {
    assert!(found == v1 || found == v2, "{found} is neither {v1} nor {v2}");
}

fn limited(name: &str, resources: Value) -> Value {
    with(facts(name, &["sleep"]), json!({ "resources": resources }))
}

#[test]
fn a_pods_own_cgroup_has_the_sums_of_its_containers() {
    let Some(host) = Host::new(&[]) else { return };
    let one = json!({ "limits": { "memory": "64Mi", "cpu": "500m" }, "requests": { "cpu": "250m" } });
    let all = json!([limited("a", one.clone()), limited("b", one.clone())]);
    host.start(&pod("all", json!({ "containers": all })));
    assert_eq!(value(&host, "all", "", MEMORY), "134217728");
    is_one_of(&value(&host, "all", "", QUOTA), "100000", "100000 100000");
    // A pod's weight is twice that of half its request.
    is_one_of(&value(&host, "all", "", SHARES), "512", "20");
    host.start(&pod("some", json!({ "containers": [limited("a", one), facts("free", &["sleep"])] })));
    let memory = value(&host, "some", "", MEMORY);
    assert!(memory == "max" || memory.parse::<u64>().unwrap() > 1 << 60, "{memory}");
    is_one_of(&value(&host, "some", "", QUOTA), "-1", "max 100000");
}

#[test]
fn spec_resources_limits_the_pod_and_containers_without_limits() {
    let Some(host) = Host::new(&[]) else { return };
    let hungry = |name: &str, megabytes: &str| facts(name, &["alloc", megabytes]);
    let spec = json!({ "restartPolicy": "Never",
        "resources": { "limits": { "memory": "96Mi", "cpu": "1" }, "requests": { "memory": "96Mi", "cpu": "1" } },
        "containers": [limited("own", json!({ "limits": { "memory": "32Mi" } })), facts("free", &["sleep"])] });
    host.start(&pod("whole", spec));
    assert_eq!(value(&host, "whole", "", MEMORY), "100663296");
    assert_eq!(value(&host, "whole", "/own", MEMORY), "33554432");
    assert_eq!(value(&host, "whole", "/free", MEMORY), "100663296");
    is_one_of(&value(&host, "whole", "/free", QUOTA), "100000", "100000 100000");
    let status = host.inspect("whole")["status"].clone();
    assert_eq!(status["qosClass"], "Guaranteed");
    assert_eq!(status["resources"]["limits"]["memory"], "96Mi");
    assert_eq!(status["allocatedResources"]["cpu"], "1");
    // Two that are each below it, and together are not: the kernel ends one of them.
    let spec = json!({ "restartPolicy": "Never", "resources": { "limits": { "memory": "64Mi" } },
        "containers": [hungry("a", "45"), hungry("b", "45")] });
    let manifest = host.manifest(&pod("both", spec));
    host.ok(&["run", "-d", &manifest]);
    let reasons =
        || -> Vec<Value> { ["a", "b"].map(|c| host.status("both", c)["state"]["terminated"]["reason"].clone()).into() };
    until("an OOMKilled container", || reasons().contains(&json!("OOMKilled")).then_some(()));
}

fn writes(name: &str, path: &str, megabytes: u32) -> Value {
    shell(name, &format!("echo begins; dd if=/dev/zero of={path} bs=1M count={megabytes} 2>/dev/null; sleep 1000"))
}

#[test]
fn a_pod_that_exceeds_a_limit_of_disk_space_is_evicted() {
    let Some(host) = Host::new(&[]) else { return };
    let volume = |limit: &str| json!([{ "name": "v", "emptyDir": { "sizeLimit": limit } }]);
    let mounted = |container: Value| with(container, json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }));
    let storage = |container: Value, limit: &str| {
        with(container, json!({ "resources": { "limits": { "ephemeral-storage": limit } } }))
    };
    let one = |containers: Value| json!({ "terminationGracePeriodSeconds": 1000, "containers": containers });
    host.start(&pod(
        "volume",
        with(one(json!([mounted(writes("c", "/v/x", 20))])), json!({ "volumes": volume("10Mi") })),
    ));
    host.start(&pod(
        "layer",
        one(json!([storage(writes("c", "/x", 20), "10Mi"), storage(facts("other", &["sleep"]), "1Gi")])),
    ));
    let two = json!([
        storage(mounted(writes("a", "/v/x", 8)), "10Mi"),
        storage(writes("b", "/x", 8), "5000k"),
        writes("free", "/x", 8)
    ]);
    host.start(&pod("together", with(one(two), json!({ "volumes": volume("50Mi") }))));
    // As much as is allowed, also in files with several names, and elsewhere more than that.
    let fine = shell(
        "c",
        "dd if=/dev/zero of=/v/x bs=1M count=8 2>/dev/null; ln /v/x /v/y; ln /v/x /v/z; mkdir -p /v/d; \
         dd if=/dev/zero of=/x bs=1M count=20 2>/dev/null; ln -s /x /v/l; sleep 1000",
    );
    host.start(&pod("fine", with(one(json!([mounted(fine)])), json!({ "volumes": volume("10Mi") }))));
    let rows = [
        ("volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"10Mi\". "),
        ("layer", "Container c exceeded its local ephemeral storage limit \"10Mi\". "),
        ("together", "Pod ephemeral local storage usage exceeds the total limit of containers 15485760. "),
    ];
    for (name, message) in rows {
        let status = until(&format!("the end of {name}"), || {
            Some(host.inspect(name)["status"].clone()).filter(|status| status["phase"] == "Failed")
        });
        assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(message)), "{name}");
        assert_eq!(host.events(name, "Evicted")[0]["message"], message);
        assert_eq!(host.condition(name, "DisruptionTarget")["reason"], "TerminationByKubelet");
        assert_eq!(host.status(name, status["containerStatuses"][0]["name"].as_str().unwrap())["restartCount"], 0);
    }
    assert_eq!(host.ps("fine"), ["1/1", "Running", "0"].map(str::to_owned));
    assert_eq!(host.events("fine", "FailedToMeasure"), Vec::<Value>::new());
}

#[test]
fn a_container_is_restarted_for_its_resources_where_its_policy_says_so() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = |memory: &str, cpu: &str| {
        let policy = json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
        let resources = json!({ "limits": { "memory": memory, "cpu": cpu } });
        let changed = with(facts("c", &["alloc", "30"]), json!({ "resources": resources, "resizePolicy": policy }));
        let other = limited("other", json!({ "limits": { "memory": "32Mi", "cpu": "500m" } }));
        pod("resized", json!({ "terminationGracePeriodSeconds": 1, "containers": [changed, other] }))
    };
    let apply = |memory: &str, cpu: &str| host.ok(&["apply", &host.manifest(&spec(memory, cpu))]);
    apply("96Mi", "1");
    let (pid, other) = (host.pid("resized", "c"), host.pid("resized", "other"));
    is_one_of(&value(&host, "resized", "", QUOTA), "150000", "150000 100000");
    // More and less cpu: in place, the pod's own with it.
    for (cpu, quota, of_pod) in [("1500m", "150000", "200000"), ("500m", "50000", "100000")] {
        assert_eq!(apply("96Mi", cpu), "pod/resized configured\n");
        is_one_of(&value(&host, "resized", "/c", QUOTA), quota, &format!("{quota} 100000"));
        is_one_of(&value(&host, "resized", "", QUOTA), of_pod, &format!("{of_pod} 100000"));
        assert_eq!(host.pid("resized", "c"), pid);
    }
    // Memory: another instance, though there is less of it than is in use and less cpu at the same time.
    assert_eq!(apply("64Mi", "250m"), "pod/resized configured\n");
    host.until_event("resized", "Killing", "Container c resize requires restart");
    host.until_status(("resized", "c"), "running again", |s| {
        s["restartCount"] == 1 && s["state"]["running"].is_object()
    });
    assert_eq!(value(&host, "resized", "/c", MEMORY), "67108864");
    assert_eq!(value(&host, "resized", "", MEMORY), "100663296");
    is_one_of(&value(&host, "resized", "", QUOTA), "75000", "75000 100000");
    assert_eq!((host.pid("resized", "other"), host.condition("resized", "PodResizeInProgress")), (other, Value::Null));
    assert_eq!(host.status("resized", "c")["resources"]["limits"]["memory"], "64Mi");
}

#[test]
fn what_is_to_be_restarted_for_its_resources_keeps_what_it_has_until_then() {
    let Some(host) = Host::new(&[]) else { return };
    let apply = |memory: &str, cpu: &str| {
        let policy = json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
        let resources = json!({ "limits": { "memory": memory, "cpu": cpu } });
        let stays = with(facts("c", &["ignore-term"]), json!({ "resources": resources, "resizePolicy": policy }));
        let spec = json!({ "terminationGracePeriodSeconds": 1000, "containers": [stays] });
        host.ok(&["apply", &host.manifest(&pod("waits", spec))])
    };
    let assert_limits = |memory: &str, quota: &str| {
        for below in ["", "/c"] {
            assert_eq!(value(&host, "waits", below, MEMORY), memory, "{below:?}");
            is_one_of(&value(&host, "waits", below, QUOTA), quota, &format!("{quota} 100000"));
        }
    };
    apply("96Mi", "500m");
    apply("64Mi", "500m");
    host.until_event("waits", "Killing", "Container c resize requires restart");
    assert_eq!(apply("64Mi", "400m"), "pod/waits configured\n");
    assert_limits("100663296", "50000");
    kill(Pid::from_raw(host.pid("waits", "c")), Signal::SIGKILL).unwrap();
    host.until_status(("waits", "c"), "running again", |s| s["restartCount"] == 1 && s["state"]["running"].is_object());
    assert_limits("67108864", "40000");
}

#[test]
fn a_pod_that_the_host_has_no_room_for_is_refused_with_the_numbers() {
    let Some(host) = Host::new(&[]) else { return };
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let cpus: u32 = online
        .trim()
        .split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            last.parse::<u32>().unwrap() - first.parse::<u32>().unwrap() + 1
        })
        .sum();
    let requests = |name: &str, cpu: &str| {
        pod(name, json!({ "containers": [limited("c", json!({ "requests": { "cpu": cpu } }))] }))
    };
    let run = |value: &Value, more: &[&str]| host.run(&[&["run", "-d", &host.manifest(value)], more].concat());
    run(&requests("first", "500m"), &[]).expect(0);
    let all = cpus.to_string();
    let words = [
        "pod default/all: not enough cpu on this host (OutOfcpu)",
        &format!("the pod requests {all}, other pods 500m, the host has {all}"),
        "--no-capacity-check",
    ];
    run(&requests("all", &all), &[]).expect(125).says(&words);
    assert_eq!(host.ok(&["ps", "-q"]), "default/first\n");
    run(&requests("all", &all), &["--no-capacity-check"]).expect(0);
    // What requests nothing is welcome on a host that is full.
    run(&pod("free", json!({ "containers": [facts("c", &["sleep"])] })), &[]).expect(0);
    host.ok(&["rm", "-f", "all"]);
    // A pod that changes, or is replaced, does not stand in its own way …
    let most = format!("{}m", cpus * 1000 - 1);
    assert_eq!(host.ok(&["apply", &host.manifest(&requests("first", &most))]), "pod/first configured\n");
    let mut other = requests("first", &all);
    other["spec"]["hostname"] = json!("other");
    assert_eq!(host.ok(&["apply", &host.manifest(&other)]), "pod/first replaced\n");
    host.run(&["apply", &host.manifest(&requests("second", "1m"))]).expect(125).says(&["OutOfcpu"]);
    let more = (cpus + 1).to_string();
    let mut grown = requests("first", &more);
    grown["spec"]["hostname"] = json!("other");
    host.run(&["apply", &host.manifest(&grown)]).expect(125).says(&["OutOfcpu"]);
    assert_eq!(host.inspect("first")["spec"]["containers"][0]["resources"]["requests"]["cpu"], all);
    // … and one that has ended is not in the way of others.
    host.ok(&["stop", "-t", "0", "first"]);
    run(&requests("second", &all), &[]).expect(0);
    host.ok(&["rm", "-f", "second"]);
    // Pods of one command are counted together.
    let half = format!("{}m", cpus * 500 + 1);
    let together = host.path("together.yaml");
    let text = [requests("one", &half), requests("two", &half)].map(|pod| pod.to_string()).join("\n---\n");
    std::fs::write(&together, text).unwrap();
    host.run(&["run", "-d", together.to_str().unwrap()]).expect(125).says(&["pod default/two", "OutOfcpu"]);
    let memory = json!({ "requests": { "memory": "64Ti" } });
    run(&pod("m", json!({ "containers": [limited("c", memory)] })), &[]).expect(125).says(&["OutOfmemory", "64Ti"]);
    let disk = json!({ "requests": { "ephemeral-storage": "9000Ti" } });
    let refused = run(&pod("d", json!({ "containers": [limited("c", disk)] })), &[]).expect(125);
    refused.says(&["OutOfephemeral-storage"]);
    let pages = json!({ "limits": { "hugepages-16Ki": "16Ki", "memory": "64Mi" } });
    run(&pod("p", json!({ "containers": [limited("c", pages)] })), &[]).expect(125).says(&["no hugepages-16Ki"]);
}

#[test]
fn stats_and_top_show_what_containers_use() {
    let Some(host) = Host::new(&[]) else { return };
    let busy = with(
        shell("busy", "while :; do :; done"),
        json!({ "resources": { "limits": { "cpu": "200m" }, "requests": { "cpu": "50m" } } }),
    );
    let full = with(facts("full", &["alloc", "40"]), json!({ "resources": { "limits": { "memory": "128Mi" } } }));
    host.start(&pod("used", json!({ "containers": [busy, full, facts("idle", &["sleep"])] })));
    host.start(&pod("other", json!({ "containers": [facts("idle", &["sleep"])] })));
    host.live(&["logs", "-f", "used", "-c", "full"]).until_has("allocated");
    let text = host.ok(&["stats", "--no-stream", "-i", "2s", "-o", "json", "used"]);
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let of = |name: &str| all.iter().find(|one| one["container"] == name).unwrap();
    assert_eq!(all.len(), 3, "{text}");
    let cpu = of("busy")["cpuMillicores"].as_u64().unwrap();
    assert!((50..=260).contains(&cpu), "{text}");
    assert!(of("idle")["cpuMillicores"].as_u64().unwrap() < 50, "{text}");
    let memory = of("full")["memoryBytes"].as_u64().unwrap();
    assert!((40 << 20..128 << 20).contains(&memory), "{text}");
    assert_eq!(of("full")["memoryLimitBytes"], 128 << 20);
    assert_eq!((&of("idle")["memoryLimitBytes"], &of("idle")["pids"]), (&Value::Null, &json!(1)));
    let table = host.ok(&["stats", "--no-stream", "-i", "50ms"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAMESPACE", "POD", "CONTAINER", "CPU(cores)", "MEMORY(bytes)", "LIMIT", "MEM%", "PIDS"]);
    assert_eq!((rows.len(), &rows[1][..3]), (5, &["default", "other", "idle"][..]), "{table}");
    assert_eq!(rows[3][5], "128Mi", "{table}");
    // Again and again, until nobody wants it any more.
    let live = host.live(&["stats", "-i", "50ms", "-o", "json", "other"]);
    live.until("three samples", |out| out.lines().count() >= 3);
    let top = host.ok(&["top", "pod", "-i", "50ms", "--sort-by", "memory"]);
    let rows: Vec<Vec<&str>> = top.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((&rows[0][..], rows.len()), (&["NAMESPACE", "NAME", "CPU(cores)", "MEMORY(bytes)"][..], 3));
    assert_eq!(rows[1][1], "used", "{top}");
    let top = host.ok(&["top", "-i", "50ms", "--containers", "other"]);
    assert!(
        top.starts_with("NAMESPACE   POD     NAME   CPU(cores)   MEMORY(bytes)\ndefault     other   idle   "),
        "{top}"
    );
    host.run(&["top", "no-such"]).expect(125).says(&["not found"]);
    host.ok(&["stop", "-t", "0", "other"]);
    assert_eq!(host.run(&["top", "-i", "50ms", "other"]).expect(0).out, "");
}
