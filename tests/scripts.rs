//! `podshim plan -o sh` on a made-up host: two scripts as recorded in `tests/scripts/`, and shellcheck's opinion of those of
//! every manifest that the tests have. That they work is `tests/whole/by_hand.rs`.
//!
//! `PODSHIM_BLESS=1 cargo test --test scripts` rewrites them; the difference is what to review.

#[path = "support/available.rs"]
mod available;

use available::available;
use podshim::explain::script::{Ground, script};
use podshim::explain::{Given, planned};
use podshim::host::HostFacts;
use podshim::host::cgroup::{CgroupSetup, Hierarchy, Mode, Version};
use podshim::host::lsm::Lsms;
use podshim::manifest::{AdmittedPod, CronJobs, Source, documents};
use podshim::paths::Dirs;
use podshim::plan::config::{BridgeNetwork, ImageSpec, NetworkMode, SecurityChoices, SwapBehavior};
use podshim::plan::pod::{Choices, Node, pod_plan};
use podshim::plan::spec::Cgroups;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the made-up host has of cgroups.
#[derive(Clone, Copy)]
enum World {
    V1,
    V2,
}

fn facts(world: World) -> HostFacts {
    let hierarchy = |mount: PathBuf, controllers: &str, (version, own): (Version, &str)| Hierarchy {
        mount,
        controllers: controllers.split(',').map(str::to_owned).collect(),
        version,
        own: own.to_owned(),
        read_only: false,
    };
    let cgroups = match world {
        World::V1 => {
            let sets = ["memory", "cpu,cpuacct", "cpuset", "devices", "pids", "hugetlb"].iter();
            let one = |set: &&str| hierarchy(format!("/sys/fs/cgroup/{set}").into(), set, (Version::V1, ""));
            CgroupSetup { mode: Mode::V1, hierarchies: sets.map(one).collect() }
        }
        World::V2 => {
            let controllers = "cpuset,cpu,io,memory,pids,hugetlb";
            let unified = hierarchy("/sys/fs/cgroup".into(), controllers, (Version::V2, "/"));
            CgroupSetup { mode: Mode::V2, hierarchies: vec![unified] }
        }
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
        cgroups,
        lsms: Lsms { apparmor: true, selinux: false },
    }
}

/// The script of a pod, its images being made up, too.
fn script_of(pod: &AdmittedPod, world: World) -> anyhow::Result<String> {
    let (facts, dirs) = (facts(world), Dirs::default());
    let uid = "00000000-0000-4000-8000-000000000000";
    let network = BridgeNetwork {
        bridge: "podshim0".into(),
        pods: vec!["10.86.0.0/16".parse().unwrap(), "fd86::/64".parse().unwrap()],
        services: vec!["10.87.0.0/16".parse().unwrap(), "fd87::/112".parse().unwrap()],
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
    let plan = pod_plan(pod, choices)?;
    let given = Given {
        dirs: &dirs,
        pod: &dirs.pod(uid),
        facts: &facts,
        images: &[],
        volume_images: &BTreeMap::new(),
        addresses: &["10.86.0.3".parse()?, "fd86::3".parse()?],
        host_addresses: &["192.0.2.1".parse()?],
    };
    let mut planned = planned(plan, given)?;
    let layers = ["/var/lib/podshim/layers/1", "/var/lib/podshim/layers/2"].map(PathBuf::from).to_vec();
    for container in &mut planned.containers {
        container.image = Some(ImageSpec { layers: layers.clone(), ..ImageSpec::default() });
    }
    let of_volume = |name: &str| (name.to_owned(), ImageSpec { layers: layers.clone(), ..ImageSpec::default() });
    let volume_images = planned.volumes.iter().map(|volume| of_volume(&volume.name)).collect();
    let is_v2 = matches!(world, World::V2);
    let cgroups = Cgroups { cpu_is_unified: is_v2, memory_is_unified: is_v2, page_sizes: Vec::new() };
    let etc = [("hosts", "127.0.0.1\tlocalhost\n"), ("resolv.conf", "nameserver 10.86.0.2\n"), ("hostname", "x\n")]
        .map(|(name, text)| (name, text.to_owned()));
    script(&planned, Ground { facts: &facts, cgroups: &cgroups, etc: &etc, volume_images: &volume_images })
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn pods(manifest: &Path) -> Vec<AdmittedPod> {
    let text = std::fs::read_to_string(manifest).unwrap_or_else(|e| panic!("{}: {e}", manifest.display()));
    let source = Source { name: manifest.display().to_string(), text };
    documents(&[source], CronJobs::Refused).unwrap_or_else(|e| panic!("{e}")).pods
}

#[test]
fn two_scripts_are_as_recorded() {
    let mut different = Vec::new();
    for (name, manifest, world) in
        [("elastic-stack", "pods/elastic-stack.yaml", World::V2), ("hardened", "plans/hardened/pod.yaml", World::V1)]
    {
        let now = script_of(&pods(&tests().join(manifest))[0], world).unwrap();
        let golden = tests().join("scripts").join(format!("{name}.sh"));
        if std::env::var_os("PODSHIM_BLESS").is_some() {
            std::fs::create_dir_all(tests().join("scripts")).unwrap();
            std::fs::write(&golden, &now).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != now {
            let there = std::env::temp_dir().join(format!("{name}.sh"));
            std::fs::write(&there, &now).unwrap();
            different.push(format!("diff {} {}", golden.display(), there.display()));
        }
    }
    assert!(different.is_empty(), "scripts changed; look with\n{}", different.join("\n"));
}

fn shellcheck(script: &str) -> Result<(), String> {
    let mut command = Command::new("shellcheck");
    let mut child = command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
}

/// What no script is made of; the last one is a file that this machine does not have.
const REFUSED: &[&str] = &["hostUsers: false", "tty: true", "fileKeyRef", "/var/lib/kubelet/seccomp"];

#[test]
fn shellcheck_finds_nothing_in_the_script_of_any_manifest() {
    if !available(&["shellcheck"]) {
        return;
    }
    let below = |folder: &str| std::fs::read_dir(tests().join(folder)).unwrap().flatten().map(|entry| entry.path());
    let cases = below("plans").map(|case| (case.join("pod.yaml"), World::V1)).filter(|(path, _)| path.exists());
    let (mut made, mut faults) = (0, Vec::new());
    for (manifest, world) in cases.chain(below("pods").map(|path| (path, World::V2))) {
        for pod in pods(&manifest) {
            match script_of(&pod, world) {
                Ok(script) => {
                    made += 1;
                    faults.extend(shellcheck(&script).err().map(|fault| format!("{}:{fault}", manifest.display())));
                    // Nothing that a terminal obeys.
                    assert!(script.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()));
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    assert!(REFUSED.iter().any(|part| text.contains(part)), "{}: {text}", manifest.display());
                }
            }
        }
    }
    assert!(made >= 12, "only {made} scripts were looked at");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
