//! Golden plans: `tests/plans/<case>/pod.yaml` → the pod's plan and each container's OCI `Spec`, as JSON beside it.
//!
//! `PODSHIM_BLESS=1 cargo test --test plans` rewrites them; the difference is what to review. The seccomp profile is left
//! out: it is the same list everywhere and has tests of its own.

use oci_spec::runtime::LinuxNamespaceType;
use podshim::host::lsm::Lsms;
use podshim::manifest::{AdmittedPod, Source, admit};
use podshim::plan::config::{
    IdRange, ImageConfig, NamespaceMode, NetworkMode, PodPlan, SeccompProfile, SecurityChoices, SwapBehavior,
};
use podshim::plan::env::{self, Files, Late};
use podshim::plan::mounts;
use podshim::plan::pod::{Choices, Node, pod_plan};
use podshim::plan::seccomp_profile::Profile;
use podshim::plan::spec::{self, Bind, Resolved, User};
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
    let (pod_ips, host_ips) = (["10.0.0.2".to_owned()], ["192.0.2.1".to_owned()]);
    let late = Late { pod_ips: &pod_ips, host_ips: &host_ips, files: Files::Unknown };
    let variables = env::resolve(&config.envs, late).expect("variables");
    let binds: Vec<Bind> = mounts::expanded(&config.mounts, &variables)
        .expect("mounts")
        .iter()
        .map(|mount| Bind {
            source: Path::new("/volumes").join(&mount.volume).join(&mount.sub_path),
            destination: mount.container_path.clone(),
            access: mount.access,
            submounts: mount.submounts,
            propagation: mount.propagation,
            options: podshim::volumes::options(
                mount,
                plan.volumes.iter().find(|v| v.name == mount.volume).expect("its volume"),
                config.security.privileged,
            ),
        })
        .chain([Bind::file("/etc-files/hosts".into(), "/etc/hosts")])
        .collect();
    let user = User { uid: config.security.run_as_user.unwrap_or(0), gid: 0, groups: vec![7], home: "/".into() };
    let profile = match &config.security.seccomp {
        SeccompProfile::Localhost(_) => {
            Some(Profile::parse(r#"{"defaultAction": "SCMP_ACT_LOG"}"#).expect("a profile"))
        }
        _ => None,
    };
    let resolved = Resolved {
        user: &user,
        variables: &variables,
        rootfs: PathBuf::from("/rootfs"),
        cgroup: format!("/podshim/{}/{}", plan.sandbox.cgroup.pod, config.name),
        binds: &binds,
        pins: [(LinuxNamespaceType::User, "/pins/user"), (LinuxNamespaceType::Ipc, "/pins/ipc")]
            .into_iter()
            .filter(|(kind, _)| *kind != LinuxNamespaceType::User || plan.sandbox.id_range.is_some())
            .map(|(kind, path)| (kind, path.into()))
            .collect(),
        thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()],
        available_capabilities: (1 << 41) - 1,
        cgroups: spec::Cgroups { cpu_is_unified: true, memory_is_unified: true, page_sizes: vec![2 << 20] },
        localhost_seccomp: profile.as_ref(),
        kernel: "6.18.0",
        lsms: Lsms { apparmor: true, selinux: false },
    };
    let mut spec = spec::container(&plan.sandbox, config, &image(), resolved).expect("a spec");
    let linux = spec.linux_mut().as_mut().expect("linux");
    let default = SeccompProfile::RuntimeDefault;
    let filtered = linux.seccomp().is_some() && config.security.seccomp == default;
    if filtered {
        linux.set_seccomp(None);
    }
    let mut value = serde_json::to_value(&spec).expect("JSON");
    if filtered {
        value["linux"]["seccomp"] = json!("the default profile");
    }
    // Sets have no order of their own.
    if let Some(files) = value["linux"]["resources"]["unified"].as_object_mut() {
        files.sort_keys();
    }
    for set in ["bounding", "effective", "permitted"] {
        if let Some(list) = value["process"]["capabilities"][set].as_array_mut() {
            list.sort_by_key(|name| name.to_string());
        }
    }
    value
}

/// A pod's plan, and each of its containers' specs.
fn planned(pod: &AdmittedPod) -> Value {
    let choices = Choices {
        uid: "00000000-0000-4000-8000-000000000001".into(),
        network: NetworkMode::None,
        bridge: None,
        cgroup_parent: String::new(),
        resolv_conf: None,
        log_directory: "/var/log/podshim/pods/x".into(),
        host_memory: 8 << 30,
        node: Node { name: "node-1".into(), cpus: 4, storage: 100 << 30 },
        pids_limit: Some(2048),
        swap: SwapBehavior::NoSwap,
        pull: None,
        security: SecurityChoices::default(),
        services: Vec::new(),
    };
    let mut plan = pod_plan(pod, choices).expect("a plan");
    if plan.sandbox.namespaces.user == NamespaceMode::Pod {
        // As `store::reserve` leaves it.
        plan.sandbox.id_range = Some(IdRange::of(131_072));
    }
    let specs: Vec<Value> = (0..plan.containers.len()).map(|index| spec_of(&plan, index)).collect();
    json!({ "plan": plan, "specs": specs })
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
        let planned: Vec<Value> = pods.iter().map(planned).collect();
        let value = if let [one] = &planned[..] { one } else { &json!(planned) };
        let text = serde_json::to_string_pretty(value).expect("JSON") + "\n";
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
