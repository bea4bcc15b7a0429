//! Wrong and hostile requests: the right gRPC code, a message that names the field, and nothing made.

use super::super::harness::{Host, until_or};
use super::client::{Cri, Kubelet, container, sandbox};
use podshim::cri::api;
use std::path::Path;
use tonic::Code;

type Change<T> = fn(&mut T);
/// What is wrong, the field that is named, and how it comes to be wrong.
type Row = (&'static str, &'static str, Box<dyn Fn(&mut api::ContainerConfig)>);

#[test]
fn e7_wrong_sandboxes_are_refused_by_field() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let rows: &[(&str, &str, Change<api::PodSandboxConfig>)] = &[
        ("no metadata", "metadata", |c| c.metadata = None),
        ("no name", "metadata.name", |c| c.metadata.as_mut().unwrap().name.clear()),
        ("a name with a slash", "metadata.name", |c| c.metadata.as_mut().unwrap().name = "../../x".into()),
        ("a NUL", "metadata.name", |c| c.metadata.as_mut().unwrap().name = "a\0b".into()),
        ("a relative log directory", "log_directory", |c| c.log_directory = "logs".into()),
        ("a log directory that leads up", "log_directory", |c| c.log_directory = "/var/log/../../etc".into()),
        ("a systemd slice", "cgroup_parent", |c| c.linux.as_mut().unwrap().cgroup_parent = "a.slice:b:c".into()),
        ("a cgroup that leads up", "cgroup_parent", |c| c.linux.as_mut().unwrap().cgroup_parent = "/../x".into()),
        ("a host name too long", "hostname", |c| c.hostname = "h".repeat(300)),
        ("an unknown sysctl's path", "sysctls", |c| {
            c.linux.as_mut().unwrap().sysctls = [("kernel/../../x".to_owned(), "1".to_owned())].into();
        }),
        ("a port that is none", "port_mappings", |c| {
            c.port_mappings = vec![api::PortMapping { container_port: 70000, host_port: 1, ..Default::default() }];
        }),
    ];
    for (name, field, change) in rows {
        let mut config = sandbox(&host, "p");
        change(&mut config);
        let error = cri.run_sandbox(&config).expect_err(name);
        assert_eq!(error.code(), Code::InvalidArgument, "{name}: {error}");
        assert!(error.message().contains(field), "{name}: {error}");
    }
    assert!(cri.sandboxes().is_empty());
    let request = api::RunPodSandboxRequest { config: None, runtime_handler: String::new() };
    assert_eq!(
        cri.call(|mut c| async move { c.run_pod_sandbox(request).await }).unwrap_err().code(),
        Code::InvalidArgument
    );
    let request =
        api::RunPodSandboxRequest { config: Some(sandbox(&host, "p")), runtime_handler: "no-such-handler".to_owned() };
    let error = cri.call(|mut c| async move { c.run_pod_sandbox(request).await }).unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().contains("no-such-handler"), "{error}");
}

#[test]
fn e7_wrong_containers_are_refused_by_field() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let mount = |host_path: &str, container_path: &str| api::Mount {
        host_path: host_path.to_owned(),
        container_path: container_path.to_owned(),
        ..Default::default()
    };
    fn security(c: &mut api::ContainerConfig) -> &mut api::LinuxContainerSecurityContext {
        c.linux.get_or_insert_default().security_context.get_or_insert_default()
    }
    fn resources(c: &mut api::ContainerConfig) -> &mut api::LinuxContainerResources {
        c.linux.get_or_insert_default().resources.get_or_insert_default()
    }
    let relative = mount("relative", "/x");
    let up = mount("/tmp/../etc", "/x/../../y");
    let rows: Vec<Row> = vec![
        ("no metadata", "metadata", Box::new(|c| c.metadata = None)),
        ("no image", "image", Box::new(|c| c.image = None)),
        ("a log that leads up", "log_path", Box::new(|c| c.log_path = "../../../etc/cron.d/x".into())),
        ("an absolute log", "log_path", Box::new(|c| c.log_path = "/etc/passwd".into())),
        ("a mount without a source", "mounts", Box::new(move |c| c.mounts = vec![relative.clone()])),
        ("a mount that leads up", "mounts", Box::new(move |c| c.mounts = vec![up.clone()])),
        (
            "an unknown propagation",
            "propagation",
            Box::new(|c| {
                c.mounts = vec![api::Mount {
                    host_path: "/tmp".into(),
                    container_path: "/x".into(),
                    propagation: 77,
                    ..Default::default()
                }];
            }),
        ),
        (
            "an unknown capability",
            "capabilities",
            Box::new(|c| {
                security(c).capabilities =
                    Some(api::Capability { add_capabilities: vec!["CAP_NO_SUCH".into()], ..Default::default() });
            }),
        ),
        ("a negative user", "run_as_user", Box::new(|c| security(c).run_as_user = Some(api::Int64Value { value: -5 }))),
        (
            "a group without a user",
            "run_as_group",
            Box::new(|c| security(c).run_as_group = Some(api::Int64Value { value: 5 })),
        ),
        ("privileged in a sandbox that is not", "privileged", Box::new(|c| security(c).privileged = true)),
        (
            "another network than the sandbox's",
            "network",
            Box::new(|c| {
                let options = security(c).namespace_options.get_or_insert_default();
                options.network = api::NamespaceMode::Node as i32;
            }),
        ),
        ("absurd memory", "memory_limit", Box::new(|c| resources(c).memory_limit_in_bytes = i64::MIN)),
        ("an absurd score", "oom_score_adj", Box::new(|c| resources(c).oom_score_adj = 5000)),
        ("absurd CPUs", "cpuset_cpus", Box::new(|c| resources(c).cpuset_cpus = "0-99999999999".into())),
        ("a CDI device", "CDI", Box::new(|c| c.cdi_devices = vec![api::CdiDevice { name: "v.com/c=d".into() }])),
        (
            "a device that is none",
            "devices",
            Box::new(|c| {
                c.devices = vec![api::Device {
                    host_path: "/etc/passwd".into(),
                    container_path: "/dev/x".into(),
                    permissions: "rwm".into(),
                }];
            }),
        ),
        (
            "a variable without a name",
            "envs",
            Box::new(|c| {
                c.envs = vec![api::KeyValue { key: String::new(), value: "v".into() }];
            }),
        ),
        (
            "a variable with a NUL",
            "envs",
            Box::new(|c| {
                c.envs = vec![api::KeyValue { key: "A".into(), value: "a\0b".into() }];
            }),
        ),
    ];
    for (name, field, change) in &rows {
        let mut wrong = container("c", "true");
        change(&mut wrong);
        let error = cri.create((&id, &config), &wrong).expect_err(name);
        assert_eq!(error.code(), Code::InvalidArgument, "{name}: {error}");
        assert!(error.message().contains(field), "{name}: {error}");
    }
    assert!(cri.containers().is_empty());
    assert!(!host.path("logs/etc").exists());
    // More variables than execve(2) takes: its own error, and the container has ended.
    let mut huge = container("huge", "true");
    huge.envs = (0..40).map(|n| api::KeyValue { key: format!("V{n}"), value: "x".repeat(120_000).into() }).collect();
    let outcome = cri.create((&id, &config), &huge).and_then(|made| cri.start_container(&made));
    assert!(outcome.unwrap_err().message().contains("E2BIG"));
}

#[test]
fn e7_what_the_host_cannot_give_is_refused_and_told() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    // All that there is here has the first CPU alone.
    let parent = Path::new("/sys/fs/cgroup/cpuset").join(&host.cgroup_parent);
    std::fs::create_dir(&parent).unwrap();
    for file in ["cpuset.cpus", "cpuset.mems"] {
        std::fs::write(parent.join(file), "0").unwrap();
    }
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    host.folder("logs/p/directory");
    let limits = |cpuset_cpus: &str, memory_limit_in_bytes| {
        let cpuset_cpus = cpuset_cpus.to_owned();
        Some(api::LinuxContainerResources { cpuset_cpus, memory_limit_in_bytes, ..Default::default() })
    };
    let rows: [(_, _, Change<api::ContainerConfig>); 2] = [
        (Code::FailedPrecondition, "logs/p/directory: it is there, and is no regular file", |c| {
            c.log_path = "directory".into();
        }),
        (Code::InvalidArgument, "cpuset.cpus", |c| {
            c.linux.get_or_insert_default().resources.get_or_insert_default().cpuset_cpus = "1".into();
        }),
    ];
    for (code, part, change) in rows {
        let mut wrong = container("c", "true");
        change(&mut wrong);
        let error = cri.refused((&id, &config), &wrong);
        assert!(error.code() == code && error.message().contains(part), "{error}");
    }
    assert!(cri.containers().is_empty());
    let made = cri.create((&id, &config), &container("c", "sleep 1000")).unwrap();
    cri.start_container(&made).unwrap();
    for (code, part, linux) in [
        (Code::FailedPrecondition, "bytes of memory are in use", limits("", 4096)),
        (Code::InvalidArgument, "cpuset.cpus", limits("1", 0)),
    ] {
        let request = api::UpdateContainerResourcesRequest { container_id: made.clone(), linux, ..Default::default() };
        let error = cri.call(|mut c| async move { c.update_container_resources(request).await }).unwrap_err();
        assert!(error.code() == code && error.message().contains(part), "{error}");
    }
    // Whoever looks after the host reads the same in the journal.
    for (rpc, code) in [("StartContainer", "FailedPrecondition"), ("UpdateContainerResources", "InvalidArgument")] {
        let line = format!("podshim cri: {rpc} is answered with {code}: \"");
        until_or(|| format!("{line} in {}", cri.server.err()), || cri.server.err().contains(&line).then_some(()));
    }
}

#[test]
fn e7_unknown_ids_are_not_found() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    for id in ["0123456789abcdef", "../..", "a\0b", &"f".repeat(100_000)] {
        let code = |result: Result<(), tonic::Status>| result.unwrap_err().code();
        assert_eq!(code(cri.status(id).map(drop)), Code::NotFound, "{id:.20}");
        assert_eq!(code(cri.sandbox_status(id).map(drop)), Code::NotFound);
        assert_eq!(code(cri.start_container(id)), Code::NotFound);
        assert_eq!(code(cri.exec(id, &["true"], 1).map(drop)), Code::NotFound);
        assert_eq!(code(cri.create((id, &sandbox(&host, "p")), &container("c", "true")).map(drop)), Code::NotFound);
        // What is gone is as it should be.
        for done in [cri.stop(id, 1), cri.remove(id), cri.stop_sandbox(id), cri.remove_sandbox(id)] {
            done.unwrap();
        }
    }
}

#[test]
fn e7_only_root_may_ask() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let socket = std::fs::metadata(&cri.socket).unwrap();
    assert_eq!((socket.permissions().mode() & 0o007, socket.uid()), (0, 0), "nobody else may connect");
    // A second server does not take the place of one that is there.
    let listen = format!("unix://{}", cri.socket.display());
    let second = host.run(&["cri", "--listen", &listen]);
    assert_ne!(second.code, 0);
    assert!(second.err.contains("another process serves there"), "{}", second.err);
    cri.sandboxes();
}

/// `VmRSS` in KiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn f2_a_flood_of_requests_holds_nobody_up() {
    use std::io::Write;
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    // They begin, and never go on.
    let idle: Vec<_> = (0..500)
        .map(|_| {
            let mut stream = std::os::unix::net::UnixStream::connect(&cri.socket).unwrap();
            stream.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
            stream
        })
        .collect();
    let floods: Vec<_> = (0..10)
        .map(|_| {
            let kubelet = Kubelet::new(cri.socket.clone());
            std::thread::spawn(move || {
                kubelet.call(|client| async move {
                    let calls = (0..1000).map(|_| {
                        let mut client = client.clone();
                        async move { client.list_pod_sandbox(api::ListPodSandboxRequest::default()).await }
                    });
                    let answers = futures_util::future::join_all(calls).await;
                    Ok(tonic::Response::new(answers.into_iter().filter(Result::is_ok).count()))
                })
            })
        })
        .collect();
    let begin = std::time::Instant::now();
    cri.call(|mut c| async move { c.version(api::VersionRequest::default()).await }).unwrap();
    let took = begin.elapsed();
    let answered: usize = floods.into_iter().map(|flood| flood.join().unwrap().unwrap()).sum();
    let all = begin.elapsed();
    assert_eq!(answered, 10_000);
    // On a machine that has much else to do it all takes longer.
    assert!(took < std::time::Duration::from_secs(1).max(all / 2), "somebody else waited for {took:?} of {all:?}");
    let id = "x".repeat(17 << 20);
    let error = cri.status(&id).unwrap_err();
    assert!(matches!(error.code(), Code::OutOfRange | Code::ResourceExhausted), "{error}");
    let memory = resident(cri.server.pid());
    assert!(memory < 256 << 10, "{memory} KiB");
    drop(idle);
    cri.call(|mut c| async move { c.version(api::VersionRequest::default()).await }).unwrap();
}
