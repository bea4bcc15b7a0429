//! What each fuzz target does with its bytes, and what must hold. The ordinary tests replay the corpus with the same
//! functions (`tests/corpus.rs`).

use podshim::cri::streaming::spdy;
use podshim::cri::{api, convert};
use podshim::error::{Kind, kind_of};
use podshim::host::cgroup::{CgroupSetup, Hierarchy, Mode, Version};
use podshim::image::manifest::{parse_config, parse_document};
use podshim::image::tree::Below;
use podshim::image::unpack::{self, Limits};
use podshim::image::{Reference, parse_reference};
use podshim::logs;
use podshim::manifest::{self, Color, Source};
use podshim::network::dns::message::{MAX_UDP, Read, Transport, read};
use podshim::network::dns::{Next, at_once};
use podshim::network::names::Names;
use podshim::network::view::View;
use podshim::plan::config::{Log, NetworkMode};
use podshim::plan::seccomp_profile::Profile;
use podshim::plan::spec;
use podshim::runtime::seccomp;
use prost::Message as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::LazyLock;

/// A target: the name of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 11] = [
    ("manifest", manifest),
    ("reference", reference),
    ("image_document", image_document),
    ("unpack", unpack),
    ("log", log),
    ("control", control),
    ("probe", probe),
    ("dns", dns),
    ("seccomp_profile", seccomp_profile),
    ("spdy", spdy),
    ("cri_request", cri_request),
];

/// A manifest is admitted, or there is a fault to be shown.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match manifest::admit(&[Source { name: "fuzz.yaml".into(), text: text.into() }]) {
        Ok(_) => {}
        Err(faults) => {
            assert!(faults.count() > 0);
            assert!(!faults.render(Color::Plain).is_empty());
        }
    }
}

/// A reference that is understood is understood again in its full form, as the same.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(found) = parse_reference(text) {
        let again: Reference = found.to_string().parse().expect("its own form");
        assert_eq!(again, found);
        assert!(!found.to_string().contains(['\n', '\r', '\0', ' ']), "{found}");
    }
}

/// Manifests, indexes and configs of images.
pub fn image_document(data: &[u8]) {
    let _ = parse_document(data, None);
    for layers in 0..3 {
        if let Ok(config) = parse_config(data, layers) {
            assert_eq!(config.chain_ids().len(), layers);
        }
    }
}

/// A layer never changes anything but its own directory. Takes root.
pub fn unpack(data: &[u8]) {
    let scratch = tempfile::tempdir().expect("a directory");
    let (victim, root) = (scratch.path().join("victim"), scratch.path().join("root"));
    std::fs::create_dir(&victim).and_then(|()| std::fs::create_dir(&root)).expect("directories");
    std::fs::write(victim.join("file"), "untouched").expect("a file");
    let before = seen(scratch.path(), "root");
    let directory = std::fs::File::open(&root).expect("the root");
    let limits = Limits { entries: 1000, bytes: 1 << 20 };
    let _ = unpack::apply(data, directory.into(), &Below::default(), limits);
    assert_eq!(seen(scratch.path(), "root"), before, "something outside was changed");
    podshim::snapshot::remove_tree(&root).expect("it can be removed");
}

/// Everything below a directory, but for one entry: path, mode, owner, links, size, content.
fn seen(directory: &Path, but: &str) -> Vec<String> {
    let mut list = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        if entry.file_name() == but {
            continue;
        }
        let (path, is) = (entry.path(), entry.metadata().expect("an entry"));
        let content = if is.is_file() { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
        list.push(format!("{path:?} {:o} {} {} {} {content:?}", is.mode(), is.uid(), is.gid(), is.nlink()));
        if is.is_dir() {
            list.extend(seen(&path, but));
        }
    }
    list.sort();
    list
}

/// Whatever a log file holds, it is read to its end.
pub fn log(data: &[u8]) {
    let pod = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(pod.path().join("c")).expect("a directory");
    std::fs::write(pod.path().join("c/0.log"), data).expect("a file");
    for tail in [None, Some(3)] {
        let query = logs::Query { tail, ..logs::Query::default() };
        let source = logs::Source { pod_logs: pod.path(), container: "c", instance: logs::Instance::Newest };
        let Ok(reader) = logs::Reader::open(source, query) else { continue };
        let mut total = 0;
        for record in reader {
            let Ok(record) = record else { break };
            total += record.text(logs::Timestamps::Hidden).len();
        }
        // A line feed may come back for a line that had none.
        assert!(total <= data.len() + 1, "{total} bytes came of {}", data.len());
    }
    let _ = logs::last_lines(&pod.path().join("c/0.log"), 80, 2048);
}

/// What a client may send to a supervisor, and the other way round.
pub fn control(data: &[u8]) {
    let _ = serde_json::from_slice::<podshim::control::Request>(data);
    let _ = serde_json::from_slice::<podshim::control::Reply>(data);
    let _ = serde_json::from_slice::<podshim::store::Record>(data);
}

/// What a probe's process says.
pub fn probe(data: &[u8]) {
    let _ = podshim::probes::Said::last(data);
    assert!(podshim::probes::text(data).len() <= podshim::probes::MAX_OUTPUT);
}

/// A few pods, a headless Service, a Service, an alias.
static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let json = |value| serde_json::from_value(value).expect("a document");
    let member = |number: u8| {
        serde_json::from_value(serde_json::json!({ "uid": number.to_string(), "namespace": "n", "name": format!("p-{number}"),
            "labels": { "a": "b" }, "hostname": format!("h-{number}"), "subdomain": "s", "ports": [], "link": "v",
            "addresses": [format!("10.86.0.{number}"), format!("fd86::{number}")], "ready": true, "terminating": false }))
        .expect("a member")
    };
    let service = |name: &str, spec: serde_json::Value| {
        json(serde_json::json!({ "metadata": { "name": name, "namespace": "n" }, "spec": spec }))
    };
    let ports = serde_json::json!([{ "name": "x", "port": 80 }]);
    let services = vec![
        service("e", serde_json::json!({ "type": "ExternalName", "externalName": "example.com" })),
        service("s", serde_json::json!({ "clusterIP": "None", "selector": { "a": "b" }, "ports": ports })),
        service("c", serde_json::json!({ "clusterIP": "10.87.0.1", "ports": ports })),
    ];
    let network =
        serde_json::json!({ "bridge": "b", "pods": ["10.86.0.0/16", "fd86::/64"], "services": ["10.87.0.0/16"] });
    let network = serde_json::from_value(network).expect("a network");
    let (policies, namespaces) = (Vec::new(), Default::default());
    Names::new(&View { network, members: (3..40).map(member).collect(), services, policies, namespaces })
});

/// Whatever a pod sends to the name server, what comes back is an answer to it, and fits. The first byte says which way it came.
pub fn dns(data: &[u8]) {
    let Some((first, packet)) = data.split_first() else { return };
    let (transport, most) = match first & 1 {
        0 => (Transport::Udp, usize::from(MAX_UDP)),
        _ => (Transport::Tcp, usize::from(u16::MAX)),
    };
    if let Next::Send(answer) = at_once(&NAMES, (usize::from(*first), None), packet, transport) {
        assert!((12..=most).contains(&answer.len()), "{} bytes", answer.len());
        assert_eq!((&answer[..2], answer[2] & 0x80), (&packet[..2], 0x80));
    }
    // The same bytes as what another server says about an alias' target.
    let Read::Query(query) = read(ALIAS) else { panic!("it is a query") };
    let answer = NAMES.answer(query.asked(), 0).expect("it is ours");
    assert!(answer.elsewhere.is_some());
    assert!(query.answer(&answer, Some(packet), transport).len() <= most);
}

/// For the addresses of `e.n.svc.cluster.local`.
const ALIAS: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01e\x01n\x03svc\x07cluster\x05local\0\0\x01\0\x01";

/// Whatever a streaming client sends, its frames are read to the first that is wrong, and hold no more than was sent.
pub fn spdy(data: &[u8]) {
    let (frames, _) = spdy::read_all(data);
    let mut total = 0;
    for frame in frames {
        match frame {
            spdy::Frame::Data { stream, bytes, .. } => {
                assert!(stream != 0);
                total += bytes.len();
            }
            spdy::Frame::SynStream { stream, headers, .. } => {
                assert!(stream != 0 && stream >> 31 == 0);
                assert!(!headers.get("port").contains('\0'));
            }
            _ => {}
        }
    }
    assert!(total <= data.len(), "{total} bytes came of {}", data.len());
}

/// A profile of the host's is refused, or comes to a program that the kernel takes, whatever the container may do and
/// whichever kernel there is.
pub fn seccomp_profile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(profile) = Profile::parse(text) else { return };
    let capabilities = [r#"[]"#, r#"["CAP_SYS_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_SYS_PTRACE"]"#];
    for capabilities in capabilities.map(|list| serde_json::from_str(list).expect("capabilities")) {
        for kernel in ["4.8", "6.18.44-generic"] {
            let Ok(rules) = profile.rules(&capabilities, kernel) else { continue };
            let Ok(filter) = seccomp::compile(&rules) else { continue };
            assert!(filter.program.len() <= seccomp::MAX_INSTRUCTIONS);
            for (at, op) in filter.program.iter().enumerate() {
                check_instruction(op.code, op.k, ([op.jt, op.jf], filter.program.len() - at - 1));
            }
            assert_eq!(filter.program.last().map(|op| op.code), Some(RET), "what falls off the end");
        }
    }
}

/// BPF_RET | BPF_K
const RET: u16 = 0x06;

/// seccomp_check_filter() of kernel/seccomp.c, for the instructions that are used, and bpf_check_basics_ok() of net/core/filter.c:
/// jumps lead forward, into the program. `rest` is how many instructions follow.
fn check_instruction(code: u16, k: u32, (jumps, rest): ([u8; 2], usize)) {
    match code {
        // BPF_LD | BPF_W | BPF_ABS: a word of `struct seccomp_data`, which has 64 bytes.
        0x20 => assert!(k.is_multiple_of(4) && k < 64, "load at {k}"),
        // BPF_ALU | BPF_AND | BPF_K
        0x54 => {}
        // BPF_JMP | BPF_JA
        0x05 => assert!((k as usize) < rest, "a jump over {k} of {rest}"),
        // BPF_JMP | BPF_JEQ, BPF_JGT, BPF_JGE | BPF_K
        0x15 | 0x25 | 0x35 => {
            jumps.iter().for_each(|over| assert!(usize::from(*over) < rest, "a jump over {over} of {rest}"))
        }
        // The value's action is one that needs no listener.
        RET => assert!(k & 0x7fff_0000 != 0x7fc0_0000, "{k:#x}: SECCOMP_RET_USER_NOTIF"),
        other => panic!("instruction {other:#x}"),
    }
}

/// A host with cgroup v2.
fn container_context() -> convert::ContainerContext {
    let controllers = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"].map(str::to_owned).into();
    let (mount, version, own) = ("/sys/fs/cgroup".into(), Version::V2, "/".into());
    let unified = Hierarchy { mount, controllers, version, own, read_only: false };
    convert::ContainerContext {
        id: "0".repeat(64),
        lsms: Default::default(),
        cgroups: CgroupSetup { mode: Mode::V2, hierarchies: vec![unified] },
        numbers: spec::Cgroups { cpu_is_unified: true, memory_is_unified: true, page_sizes: vec![2 << 20] },
        others: Default::default(),
        handlers: Default::default(),
    }
}

/// Whatever a kubelet asks for, it is refused as wrong, or becomes a config that stays where it belongs.
pub fn cri_request(data: &[u8]) {
    let Ok(request) = api::CreateContainerRequest::decode(data) else { return };
    let refused = |error: anyhow::Error| assert_eq!(kind_of(&error), Some(Kind::Invalid), "{error:#}");
    let (sandbox, config) = (request.sandbox_config.unwrap_or_default(), request.config.unwrap_or_default());
    let context = convert::SandboxContext {
        id: "0".repeat(64),
        network: NetworkMode::Bridge,
        bridge: None,
        seccomp_root: "/profiles".into(),
        cgroup_parent: String::new(),
    };
    let plan = match convert::sandbox(&sandbox, &context) {
        Ok(plan) => plan.sandbox,
        Err(error) => return refused(error),
    };
    assert!(!format!("/{}/", plan.cgroup.parent).contains("/../"), "{:?}", plan.cgroup);
    assert!(!plan.hostname.contains(['\n', '/']) && plan.hostname.len() <= 64, "{:?}", plan.hostname);
    let converted = match convert::planned(&config, &sandbox, &container_context()) {
        Ok(converted) => converted,
        Err(error) => return refused(error),
    };
    if let Log::File(path) = &converted.config.log {
        let below = path.strip_prefix(&plan.log_directory).expect("a log is in the sandbox's directory");
        assert!(below.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{path:?}");
    }
    // What is held can be told, and asked for again.
    let held = &converted.config.resources;
    let told = convert::resources_told(held).linux.expect("numbers of Linux");
    assert_eq!(convert::updated(held, &told).expect("what was told"), *held);
}
