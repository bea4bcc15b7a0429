//! Golden plans: `tests/plans/<case>/pod.yaml` → the pod's plan and each container's OCI `Spec`, as JSON beside it.
//!
//! `PODSHIM_BLESS=1 cargo test --test plans` rewrites them; the difference is what to review. The seccomp profile is left
//! out: it is the same list everywhere and has tests of its own.

use oci_spec::runtime::LinuxNamespaceType;
use podshim::manifest::{Source, admit};
use podshim::plan::config::{Access, ImageConfig, MountPropagation, NetworkMode, PodPlan};
use podshim::plan::pod::{Choices, pod_plan};
use podshim::plan::spec::{self, Bind, Resolved, Special, User};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/entry".into()],
        cmd: vec!["default".into()],
        env: vec!["PATH=/bin".into(), "FROM=image".into()],
        ..ImageConfig::default()
    }
}

fn spec_of(plan: &PodPlan, index: usize) -> Value {
    let config = &plan.containers[index];
    let binds: Vec<Bind> = config
        .mounts
        .iter()
        .map(|mount| Bind {
            source: Path::new("/volumes").join(&mount.volume).join(&mount.sub_path),
            destination: mount.container_path.clone(),
            access: mount.access,
            propagation: mount.propagation,
            special: podshim::volumes::special(
                plan.volumes.iter().find(|v| v.name == mount.volume).expect("its volume"),
            ),
        })
        .chain([Bind {
            source: "/etc-files/hosts".into(),
            destination: "/etc/hosts".into(),
            access: Access::ReadWrite,
            propagation: MountPropagation::None,
            special: Special::Ignored,
        }])
        .collect();
    let user = User { uid: config.security.run_as_user.unwrap_or(0), gid: 0, groups: vec![7], home: "/".into() };
    let resolved = Resolved {
        user: &user,
        rootfs: PathBuf::from("/rootfs"),
        cgroup: format!("/podshim/{}/{}", plan.sandbox.cgroup.pod, config.name),
        binds: &binds,
        pins: vec![(LinuxNamespaceType::Ipc, "/pins/ipc".into())],
        thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()],
        available_capabilities: (1 << 41) - 1,
        memory_is_unified: true,
    };
    let mut spec = spec::container(&plan.sandbox, config, &image(), resolved).expect("a spec");
    let linux = spec.linux_mut().as_mut().expect("linux");
    let filtered = linux.seccomp().is_some();
    linux.set_seccomp(None);
    let mut value = serde_json::to_value(&spec).expect("JSON");
    value["linux"]["seccomp"] = json!(if filtered { "the default profile" } else { "none" });
    // Sets have no order of their own.
    for set in ["bounding", "effective", "permitted"] {
        if let Some(list) = value["process"]["capabilities"][set].as_array_mut() {
            list.sort_by_key(|name| name.to_string());
        }
    }
    value
}

#[test]
fn plans_are_as_recorded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root).expect("tests/plans").flatten().map(|e| e.path()).collect();
    cases.sort();
    assert!(cases.len() >= 4, "the cases are gone");
    let mut different = Vec::new();
    for case in cases {
        let text = std::fs::read_to_string(case.join("pod.yaml")).expect("pod.yaml");
        let pods = admit(&[Source { name: "pod.yaml".into(), text }]).unwrap_or_else(|e| panic!("{e}"));
        let choices = Choices {
            uid: "00000000-0000-4000-8000-000000000001".into(),
            network: NetworkMode::None,
            cgroup_parent: String::new(),
            resolv_conf: None,
            log_directory: "/var/log/podshim/pods/x".into(),
            host_memory: 8 << 30,
            pids_limit: Some(2048),
            pull: None,
        };
        let plan = pod_plan(&pods[0], choices).expect("a plan");
        let specs: Vec<Value> = (0..plan.containers.len()).map(|index| spec_of(&plan, index)).collect();
        let text = serde_json::to_string_pretty(&json!({ "plan": plan, "specs": specs })).expect("JSON") + "\n";
        let golden = case.join("plan.json");
        if std::env::var_os("PODSHIM_BLESS").is_some() {
            std::fs::write(&golden, &text).expect("writing");
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != text {
            let now = std::env::temp_dir().join(format!("{}.json", case.file_name().unwrap().display()));
            std::fs::write(&now, &text).expect("writing");
            different.push(format!("diff {} {}", golden.display(), now.display()));
        }
    }
    assert!(different.is_empty(), "plans changed; look with\n{}", different.join("\n"));
}
