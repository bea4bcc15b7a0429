//! Tables of what an adjustment does to a spec.

use super::*;
use oci_spec::runtime::{LinuxBuilder, LinuxResourcesBuilder, MountBuilder, ProcessBuilder, SpecBuilder};
use serde_json::{Value, json};

fn spec() -> Spec {
    let mount = |path: &str| MountBuilder::default().destination(path).typ("tmpfs").source("tmpfs").build().unwrap();
    let memory: LinuxMemory = serde_json::from_value(json!({ "limit": 100, "swap": 100 })).unwrap();
    let process = ProcessBuilder::default().args(vec!["run".to_owned()]);
    let process = process.env(["A=1", "B=2", "A=3"].map(str::to_owned).to_vec()).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
    SpecBuilder::default()
        .process(process)
        .mounts(vec![mount("/proc"), mount("/dev"), mount("/dev/shm")])
        .linux(LinuxBuilder::default().resources(resources).rootfs_propagation("rslave").build().unwrap())
        .annotations([("old".to_owned(), "1".to_owned())])
        .build()
        .unwrap()
}

fn adjusted(adjustment: Value, executor: Executor) -> Result<Value> {
    let adjustment: Adjustment = serde_json::from_value(adjustment)?;
    // It is sent as a document.
    let sent: Adjustment = serde_json::from_str(&serde_json::to_string(&adjustment)?)?;
    assert_eq!(sent, adjustment);
    let mut spec = spec();
    apply(&adjustment, &mut spec, executor)?;
    Ok(serde_json::to_value(spec)?)
}

#[test]
fn nothing_wanted_changes_nothing() {
    let mut after = spec();
    apply(&Adjustment::default(), &mut after, Executor::Own).unwrap();
    // Not as JSON: sets of capabilities have no order.
    assert_eq!(after.process(), spec().process());
    assert_eq!(adjusted(json!({}), Executor::Own).unwrap()["mounts"], serde_json::to_value(spec()).unwrap()["mounts"]);
}

#[test]
fn each_part_of_the_spec_is_set_replaced_or_removed() {
    let bind = json!({ "destination": "/dev", "type": "", "source": "/srv", "options": ["bind", "ro"] });
    for (name, wanted, place, expected) in [
        ("annotation", json!({"annotations": {"old": null, "new": "2"}}), "/annotations", json!({"new": "2"})),
        ("variable set", json!({"env": [["A", "x=y"]]}), "/process/env", json!(["A=x=y", "B=2"])),
        ("variable removed", json!({"env": [["A", null]]}), "/process/env", json!(["B=2"])),
        (
            "variable added",
            json!({"env": [["C", ""], ["Z", null]]}),
            "/process/env",
            json!(["A=1", "B=2", "A=3", "C="]),
        ),
        ("arguments", json!({"args": ["other", "x"]}), "/process/args", json!(["other", "x"])),
        (
            "resource limit",
            json!({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]}),
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]),
        ),
        ("score", json!({"oomScoreAdj": -7}), "/process/oomScoreAdj", json!(-7)),
        ("mount removed", json!({"removedMounts": ["/dev/shm", "/no"]}), "/mounts/2", Value::Null),
        (
            "mount replaced",
            json!({"mounts": [bind]}),
            "/mounts/1",
            json!({"destination": "/dev", "type": "bind", "source": "/srv", "options": ["bind", "ro"]}),
        ),
        (
            "memory",
            json!({"resources": {"memory": {"limit": 50}}}),
            "/linux/resources/memory",
            json!({"limit": 50, "swap": 50}),
        ),
        ("shares", json!({"resources": {"cpu": {"shares": 5}}}), "/linux/resources/cpu/shares", json!(5)),
        ("memory stays", json!({"resources": {"cpu": {"shares": 5}}}), "/linux/resources/memory/limit", json!(100)),
        ("file", json!({"resources": {"unified": {"a": "b"}}}), "/linux/resources/unified", json!({"a": "b"})),
        (
            "seccomp",
            json!({"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}),
            "/linux/seccomp/defaultAction",
            json!("SCMP_ACT_ERRNO"),
        ),
    ] {
        let spec = adjusted(wanted, Executor::Own).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(spec.pointer(place).unwrap_or(&Value::Null), &expected, "{name}");
    }
}

#[test]
fn devices_are_added_with_a_rule_and_removed() {
    let device = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o444});
    for executor in [Executor::Own, Executor::Oci] {
        let spec = adjusted(json!({"devices": [device]}), executor).unwrap();
        assert_eq!(spec["linux"]["devices"], json!([device]));
        let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
        let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"});
        assert_eq!(rules.last(), Some(&rule), "{rules:?}");
        let spec = adjusted(json!({"removedDevices": ["/dev/x"]}), executor).unwrap();
        assert_eq!(spec["linux"]["devices"], json!([]));
    }
}

#[test]
fn an_oci_runtime_gets_what_podshims_executor_refuses_by_name() {
    for (named, wanted, place, expected) in [
        (
            "OCI hooks",
            json!({"hooks": {"createRuntime": [{"path": "/bin/hook"}]}}),
            "/hooks/createRuntime/0/path",
            json!("/bin/hook"),
        ),
        ("devices that every container has", json!({"removedDevices": ["/dev/null"]}), "/linux/devices", json!([])),
        ("cgroup's path", json!({"cgroupsPath": "/a/b"}), "/linux/cgroupsPath", json!("/a/b")),
        (
            "I/O priority",
            json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}),
            "/process/ioPriority/class",
            json!("IOPRIO_CLASS_IDLE"),
        ),
        (
            "scheduler",
            json!({"scheduler": {"policy": "SCHED_BATCH"}}),
            "/process/scheduler/policy",
            json!("SCHED_BATCH"),
        ),
        (
            "memory policy",
            json!({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}),
            "/linux/memoryPolicy/mode",
            json!("MPOL_BIND"),
        ),
        (
            "namespaces",
            json!({"removedNamespaces": ["pid"], "namespaces": [{"type": "uts", "path": "/x"}]}),
            "/linux/namespaces/0/path",
            Value::Null,
        ),
        (
            "sysctls",
            json!({"sysctl": {"net.core.somaxconn": "5"}}),
            "/linux/sysctl",
            json!({"net.core.somaxconn": "5"}),
        ),
        (
            "network devices",
            json!({"netDevices": {"eth9": {"name": "eth0"}}}),
            "/linux/netDevices/eth9/name",
            json!("eth0"),
        ),
    ] {
        let refused = format!("{:#}", adjusted(wanted.clone(), Executor::Own).unwrap_err());
        assert!(refused.contains("podshim cannot adjust") && refused.contains(named), "{named}: {refused}");
        let spec = adjusted(wanted, Executor::Oci).unwrap_or_else(|e| panic!("{named}: {e:#}"));
        if named == "namespaces" {
            let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
            assert!(namespaces.contains(&json!({"type": "uts", "path": "/x"})), "{namespaces:?}");
            assert!(namespaces.iter().all(|n| n["type"] != "pid"), "{namespaces:?}");
        } else {
            assert_eq!(spec.pointer(place), Some(&expected), "{named}");
        }
    }
}

#[test]
fn what_is_malformed_is_refused() {
    let mount = |destination: &str, source: &str, options: Value| json!({"mounts": [{"destination": destination, "type": "bind", "source": source, "options": options}]});
    for (wanted, told) in [
        (mount("/", "/srv", json!(["bind"])), "not an absolute path below /"),
        (mount("data", "/srv", json!(["bind"])), "not an absolute path below /"),
        (mount("/a/../..", "/srv", json!(["bind"])), "not an absolute path below /"),
        (mount("/a", "srv", json!(["bind"])), "source is not an absolute path"),
        (mount("/a", "/srv/../etc", json!(["bind"])), "source is not an absolute path"),
        (mount("/a", "/srv", json!(["bind", "noatime"])), "with \"noatime\""),
        (json!({"mounts": [{"destination": "/a"}]}), "no type"),
        (json!({"env": [["A=B", "c"]]}), "no name of a variable"),
        (json!({"env": [["", "c"]]}), "no name of a variable"),
        (json!({"env": [["A", "c\u{0}"]]}), "zero byte"),
        (json!({"args": ["c\u{0}"]}), "zero byte"),
        (json!({"rlimits": [{"type": "RLIMIT_CORE", "soft": 7, "hard": 6}]}), "above the hard one"),
        (json!({"oomScoreAdj": 1001}), "1001 is not within"),
        (json!({"colour": "red"}), "unknown field"),
    ] {
        let error = format!("{:#}", adjusted(wanted.clone(), Executor::Own).unwrap_err());
        assert!(error.contains(told), "{wanted}: {error}");
    }
}

#[test]
fn mounts_come_after_those_that_they_lie_in() {
    let wanted = json!({"mounts": [
        {"destination": "/dev/shm/deep", "type": "tmpfs"},
        {"destination": "/a", "type": "bind", "source": "/srv", "options": ["rbind", "rshared"]},
    ]});
    let destinations = |spec: &Value| -> Vec<String> {
        spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap().to_owned()).collect()
    };
    let own = adjusted(wanted.clone(), Executor::Own).unwrap();
    assert_eq!(destinations(&own), ["/proc", "/dev", "/a", "/dev/shm", "/dev/shm/deep"]);
    assert_eq!(own["linux"]["rootfsPropagation"], "rslave");
    assert_eq!(adjusted(wanted, Executor::Oci).unwrap()["linux"]["rootfsPropagation"], "rshared");
}
