use super::*;
use serde_json::Value;

fn number(value: i64) -> Option<nri::OptionalInt64> {
    Some(nri::OptionalInt64 { value })
}

#[test]
fn everything_of_a_message_has_its_place_in_the_document() {
    let given = nri::ContainerAdjustment {
        annotations: [("a".to_owned(), "1".to_owned()), ("-b".to_owned(), String::new())].into(),
        mounts: vec![
            nri::Mount { destination: "-/x".into(), ..Default::default() },
            nri::Mount { destination: "/y".into(), r#type: "tmpfs".into(), ..Default::default() },
        ],
        env: vec![
            nri::KeyValue { key: "A".into(), value: "1".into() },
            nri::KeyValue { key: "-B".into(), value: String::new() },
        ],
        hooks: Some(nri::Hooks {
            poststop: vec![nri::Hook {
                path: "/h".into(),
                timeout: Some(nri::OptionalInt { value: 5 }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        rlimits: vec![nri::PosixRlimit { r#type: "RLIMIT_CORE".into(), hard: 2, soft: 1 }],
        args: vec!["run".into()],
        cdi_devices: Vec::new(),
        linux: Some(nri::LinuxContainerAdjustment {
            devices: vec![
                nri::LinuxDevice { path: "-/dev/x".into(), ..Default::default() },
                nri::LinuxDevice {
                    path: "/dev/y".into(),
                    r#type: "b".into(),
                    major: 8,
                    minor: 1,
                    ..Default::default()
                },
            ],
            resources: Some(nri::LinuxResources {
                memory: Some(nri::LinuxMemory { limit: number(9), ..Default::default() }),
                cpu: Some(nri::LinuxCpu { quota: number(8), cpus: "0-1".into(), ..Default::default() }),
                pids: Some(nri::LinuxPids { limit: 7 }),
                hugepage_limits: vec![nri::HugepageLimit { page_size: "2MB".into(), limit: 6 }],
                devices: vec![nri::LinuxDeviceCgroup {
                    allow: true,
                    r#type: "c".into(),
                    access: "rw".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            cgroups_path: "/cg".into(),
            oom_score_adj: Some(nri::OptionalInt { value: -5 }),
            io_priority: Some(nri::LinuxIoPriority { class: 3, priority: 1 }),
            seccomp_policy: Some(nri::LinuxSeccomp {
                default_action: "SCMP_ACT_ERRNO".into(),
                architectures: vec!["SCMP_ARCH_X86_64".into()],
                syscalls: vec![nri::LinuxSyscall {
                    names: vec!["read".into()],
                    action: "SCMP_ACT_ALLOW".into(),
                    args: vec![nri::LinuxSeccompArg { index: 1, value: 2, value_two: 3, op: "SCMP_CMP_EQ".into() }],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            namespaces: vec![
                nri::LinuxNamespace { r#type: "-pid".into(), path: String::new() },
                nri::LinuxNamespace { r#type: "network".into(), path: "/n".into() },
            ],
            sysctl: [("s".to_owned(), "1".to_owned())].into(),
            net_devices: [("e".to_owned(), nri::LinuxNetDevice { name: "f".into() })].into(),
            scheduler: Some(nri::LinuxScheduler { policy: 4, flags: vec![0, 1], nice: 3, ..Default::default() }),
            rdt: None,
            memory_policy: Some(nri::LinuxMemoryPolicy { mode: 2, nodes: "0".into(), flags: vec![0] }),
        }),
    };
    let made: Value = serde_json::to_value(adjustment(&given).unwrap()).unwrap();
    for (place, expected) in [
        ("/annotations", json!({"a": "1", "b": null})),
        ("/removedMounts", json!(["/x"])),
        ("/mounts/0/destination", json!("/y")),
        ("/env", json!([["A", "1"], ["B", null]])),
        ("/hooks/poststop/0/timeout", json!(5)),
        ("/rlimits/0", json!({"type": "RLIMIT_CORE", "hard": 2, "soft": 1})),
        ("/args", json!(["run"])),
        ("/removedDevices", json!(["/dev/x"])),
        ("/devices/0/type", json!("b")),
        ("/resources/memory/limit", json!(9)),
        ("/resources/cpu/cpus", json!("0-1")),
        ("/resources/pids/limit", json!(7)),
        ("/resources/hugepageLimits/0/limit", json!(6)),
        ("/resources/devices/0/access", json!("rw")),
        ("/cgroupsPath", json!("/cg")),
        ("/oomScoreAdj", json!(-5)),
        ("/ioPriority/class", json!("IOPRIO_CLASS_IDLE")),
        ("/seccomp/syscalls/0/args/0/valueTwo", json!(3)),
        ("/removedNamespaces", json!(["pid"])),
        ("/namespaces/0/path", json!("/n")),
        ("/sysctl", json!({"s": "1"})),
        ("/netDevices/e/name", json!("f")),
        ("/scheduler/policy", json!("SCHED_BATCH")),
        ("/memoryPolicy/mode", json!("MPOL_BIND")),
    ] {
        assert_eq!(made.pointer(place), Some(&expected), "{place} of {made:#}");
    }
    // Every field of the document is one that the message can fill.
    for (field, value) in made.as_object().unwrap() {
        assert!(!value.is_null() && *value != json!([]) && *value != json!({}), "{field} is empty");
    }
}

#[test]
fn what_podshim_has_no_notion_of_or_is_malformed_is_named() {
    let linux =
        |linux: nri::LinuxContainerAdjustment| nri::ContainerAdjustment { linux: Some(linux), ..Default::default() };
    let class = Some(nri::OptionalString { value: "gold".into() });
    let limits = |resources| linux(nri::LinuxContainerAdjustment { resources: Some(resources), ..Default::default() });
    for (given, told) in [
        (
            nri::ContainerAdjustment {
                cdi_devices: vec![nri::CdiDevice { name: "v/c=d".into() }],
                ..Default::default()
            },
            "CDI devices",
        ),
        (linux(nri::LinuxContainerAdjustment { rdt: Some(Default::default()), ..Default::default() }), "RDT"),
        (limits(nri::LinuxResources { blockio_class: class.clone(), ..Default::default() }), "no block I/O classes"),
        (limits(nri::LinuxResources { rdt_class: class, ..Default::default() }), "no RDT classes"),
        (
            linux(nri::LinuxContainerAdjustment {
                namespaces: vec![nri::LinuxNamespace { r#type: "colour".into(), path: String::new() }],
                ..Default::default()
            }),
            "colour",
        ),
        (
            linux(nri::LinuxContainerAdjustment {
                oom_score_adj: Some(nri::OptionalInt { value: i64::MAX }),
                ..Default::default()
            }),
            "oom_score_adj",
        ),
        (
            linux(nri::LinuxContainerAdjustment {
                io_priority: Some(nri::LinuxIoPriority { class: 9, priority: 0 }),
                ..Default::default()
            }),
            "class of an I/O priority",
        ),
        (
            nri::ContainerAdjustment {
                rlimits: vec![nri::PosixRlimit { r#type: "RLIMIT_COLOUR".into(), hard: 0, soft: 0 }],
                ..Default::default()
            },
            "a resource limit",
        ),
        (
            linux(nri::LinuxContainerAdjustment {
                seccomp_policy: Some(nri::LinuxSeccomp { default_action: "ALLOW".into(), ..Default::default() }),
                ..Default::default()
            }),
            "seccomp policy",
        ),
    ] {
        let error = format!("{:#}", adjustment(&given).unwrap_err());
        assert!(error.contains(told), "{told}: {error}");
    }
}
