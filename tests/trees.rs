//! The manifests under `tests/pods/`, as `podshim plan` shows them on a made-up host: recorded in `tests/trees/`.
//!
//! `PODSHIM_BLESS=1 cargo test --test trees` rewrites them; the difference is what to review.

use podshim::explain::{Given, planned, tree};
use podshim::host::HostFacts;
use podshim::host::cgroup::{CgroupSetup, Hierarchy, Mode, Version};
use podshim::host::lsm::Lsms;
use podshim::manifest::{AdmittedPod, CronJobs, Source, documents};
use podshim::paths::Dirs;
use podshim::plan::config::{BridgeNetwork, NetworkMode, SecurityChoices, SwapBehavior};
use podshim::plan::pod::{Choices, Node, pod_plan};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A host with cgroup v2 and AppArmor.
fn facts() -> HostFacts {
    let unified = Hierarchy {
        version: Version::V2,
        mount: "/sys/fs/cgroup".into(),
        controllers: ["cpu", "memory", "pids"].map(str::to_owned).into(),
        own: "/".into(),
        read_only: false,
    };
    HostFacts {
        kernel: "6.18.0".into(),
        architecture: "x86_64".into(),
        name: "node-1".into(),
        cpus: 4,
        memory: 8 << 30,
        swap: 0,
        huge_pages: Vec::new(),
        capabilities: (1 << 41) - 1,
        thermal_throttle: Vec::new(),
        cgroups: CgroupSetup { mode: Mode::V2, hierarchies: vec![unified] },
        lsms: Lsms { apparmor: true, selinux: false },
    }
}

fn tree_of(pod: &AdmittedPod) -> String {
    let (facts, dirs) = (facts(), Dirs::default());
    let uid = "00000000-0000-4000-8000-000000000000";
    let network = BridgeNetwork {
        bridge: "podshim0".into(),
        pods: vec!["10.86.0.0/16".parse().unwrap()],
        services: vec!["10.87.0.0/16".parse().unwrap()],
    };
    let choices = Choices {
        uid: uid.into(),
        network: NetworkMode::Bridge,
        bridge: Some(network),
        cgroup_parent: String::new(),
        resolv_conf: None,
        log_directory: dirs.pod_logs(pod.namespace(), pod.name(), uid),
        host_memory: facts.memory,
        node: Node { name: facts.name.clone(), cpus: facts.cpus, storage: 100 << 30 },
        pids_limit: Some(2048),
        swap: SwapBehavior::NoSwap,
        pull: None,
        security: SecurityChoices::default(),
        services: Vec::new(),
    };
    let plan = pod_plan(pod, choices).expect("a plan");
    let given = Given {
        dirs: &dirs,
        pod: &dirs.pod(uid),
        facts: &facts,
        images: &[],
        volume_images: &BTreeMap::new(),
        addresses: &["10.86.0.3".parse().unwrap()],
        host_addresses: &["192.0.2.1".parse().unwrap()],
    };
    let planned = planned(plan, given).expect("planned");
    anstream::adapter::strip_str(&tree::tree(&planned, &facts).expect("a tree")).to_string()
}

#[test]
fn trees_are_as_recorded() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let listed = std::fs::read_dir(tests.join("pods")).expect("tests/pods");
    let mut manifests: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    manifests.sort();
    let mut different = Vec::new();
    let mut seen = 0;
    for manifest in manifests {
        let text = std::fs::read_to_string(&manifest).expect("a manifest");
        let name = manifest.file_stem().expect("a name").display().to_string();
        let documents = documents(&[Source { name: name.clone(), text }], CronJobs::Refused);
        let trees: Vec<String> = documents.unwrap_or_else(|e| panic!("{e}")).pods.iter().map(tree_of).collect();
        seen += trees.len();
        let now = trees.join("\n");
        for line in now.lines().filter(|line| line.chars().count() > 100) {
            // Only a path or another word that cannot be broken.
            let words = line.trim_start_matches(['│', '├', '└', '─', ' ']).split(' ').count();
            assert!(words == 1, "{name}: too wide: {line}");
        }
        let golden = tests.join("trees").join(format!("{name}.txt"));
        if std::env::var_os("PODSHIM_BLESS").is_some() {
            std::fs::create_dir_all(tests.join("trees")).expect("making tests/trees");
            std::fs::write(&golden, &now).expect("writing");
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != now {
            let there = std::env::temp_dir().join(format!("{name}.txt"));
            std::fs::write(&there, &now).expect("writing");
            different.push(format!("diff {} {}", golden.display(), there.display()));
        }
    }
    assert!(seen >= 6, "the pods are gone");
    assert!(different.is_empty(), "trees changed; look with\n{}", different.join("\n"));
}
