//! `PodSandboxConfig`.

use super::*;
use crate::plan::config::{CgroupPath, DnsBase, IdRange, KeyValue, NamespaceMode, Unnamed};
use crate::plan::network::Protocol;

fn mapping(host_id: u32, length: u32) -> Vec<api::IdMapping> {
    vec![api::IdMapping { host_id, container_id: 0, length }]
}

fn users(mode: api::NamespaceMode, uids: Vec<api::IdMapping>, gids: Vec<api::IdMapping>) -> Option<api::UserNamespace> {
    Some(api::UserNamespace { mode: mode as i32, uids, gids })
}

#[test]
fn the_least_that_is_asked_for() {
    let plan = planned_sandbox(|_| {}).unwrap();
    let config = &plan.sandbox;
    assert_eq!((config.uid.as_str(), config.name.as_str(), config.namespace.as_str()), (ID, "pod", "ns"));
    assert_eq!((config.hostname.as_str(), &config.hosts_names[..]), ("pod", &["pod".to_owned()][..]));
    assert_eq!(config.cgroup, CgroupPath { parent: "default".into(), pod: ID.into() });
    assert_eq!((&config.namespaces.network, config.namespaces.pid), (&NetworkMode::Bridge, NamespaceMode::Pod));
    assert!(config.network.is_some() && config.id_range.is_none());
    assert_eq!((&config.dns.base, config.resources.unnamed), (&DnsBase::HostFile, Unnamed::Unlimited));
    assert!(plan.containers.is_empty() && plan.volumes.is_empty());
}

#[test]
fn a_sandbox_as_a_kubelet_asks_for_it() {
    let plan = planned_sandbox(|request| {
        request.hostname = "web-0".into();
        request.dns_config = Some(api::DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["ns.svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        });
        request.port_mappings = vec![
            api::PortMapping { protocol: 1, container_port: 53, host_port: 5353, host_ip: "0.0.0.0".into() },
            api::PortMapping { protocol: 0, container_port: 80, host_port: 0, host_ip: String::new() },
        ];
        request.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
        let linux = linux(request);
        linux.cgroup_parent = "/kubepods/burstable/poduid/".into();
        linux.sysctls = [("net/ipv4/tcp_syncookies", "0"), ("kernel.shmmax", "1000")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        linux.resources = Some(api::LinuxContainerResources { cpu_shares: 512, ..Default::default() });
        sandbox_namespaces(request).pid = api::NamespaceMode::Container as i32;
    })
    .unwrap();
    let config = plan.sandbox;
    assert_eq!((config.hostname.as_str(), config.cgroup.parent.as_str()), ("web-0", "kubepods/burstable/poduid"));
    assert_eq!((&config.dns.base, config.dns.servers.as_slice()), (&DnsBase::Empty, &["10.96.0.10".to_owned()][..]));
    let pair = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
    assert_eq!(config.sysctls, [pair("kernel.shmmax", "1000"), pair("net.ipv4.tcp_syncookies", "0")]);
    let ports: Vec<_> = config.ports.iter().map(|p| (p.protocol, p.container_port, p.host_port, p.host_ip)).collect();
    assert_eq!(ports, [(Protocol::Udp, 53, Some(5353), None), (Protocol::Tcp, 80, None, None)]);
    assert_eq!((config.bandwidth.ingress, config.namespaces.pid), (Some(10_000_000), NamespaceMode::Container));
}

#[test]
fn the_hosts_namespaces() {
    let config = planned_sandbox(|request| {
        request.hostname = "web".into();
        let options = sandbox_namespaces(request);
        (options.network, options.pid, options.ipc) = (2, 2, 2);
    })
    .unwrap()
    .sandbox;
    let namespaces = &config.namespaces;
    assert_eq!(
        (&namespaces.network, namespaces.pid, namespaces.ipc),
        (&NetworkMode::Host, NamespaceMode::Node, NamespaceMode::Node)
    );
    assert!(config.hostname.is_empty() && config.hosts_names.is_empty() && config.network.is_none());
}

#[test]
fn a_long_name_is_cut_to_a_host_name_between_characters() {
    let named = |name: &str| {
        planned_sandbox(|request| request.metadata.as_mut().unwrap().name = name.to_owned()).unwrap().sandbox.hostname
    };
    assert_eq!(named(&"a".repeat(253)), "a".repeat(64));
    assert_eq!(named(&format!("{}é", "a".repeat(63))), "a".repeat(63));
}

#[test]
fn user_namespaces() {
    use api::NamespaceMode::{Node, Pod};
    let of = |options: Option<api::UserNamespace>| {
        let plan = planned_sandbox(|request| sandbox_namespaces(request).userns_options = options)?;
        Ok::<_, anyhow::Error>((plan.sandbox.namespaces.user, plan.sandbox.id_range))
    };
    assert_eq!(of(None).unwrap(), (NamespaceMode::Node, None));
    assert_eq!(of(users(Node, vec![], vec![])).unwrap(), (NamespaceMode::Node, None));
    let range = |first, size| (NamespaceMode::Pod, Some(IdRange { first, size }));
    assert_eq!(of(users(Pod, mapping(131_072, 65_536), mapping(131_072, 65_536))).unwrap(), range(131_072, 65_536));
    assert_eq!(
        of(users(Pod, mapping(1000, 100_000), mapping(1000, 100_000))).unwrap(),
        range(1000, 100_000),
        "critest's"
    );
    let at = "config.linux.security_context.namespace_options.userns_options";
    let two = [mapping(1000, 65_536), mapping(200_000, 65_536)].concat();
    let one = || mapping(65_536, 65_536);
    let from_one = vec![api::IdMapping { host_id: 65_536, container_id: 1, length: 65_536 }];
    let rows = [
        ("two mappings", users(Pod, two.clone(), two), ".uids: there are 2 mappings"),
        ("none", users(Pod, vec![], vec![]), ".uids: there are 0 mappings"),
        ("no groups", users(Pod, one(), vec![]), ".gids: there are 0 mappings"),
        ("others for groups", users(Pod, one(), mapping(1 << 20, 65_536)), ": podshim maps users and groups alike"),
        ("without id 0", users(Pod, from_one.clone(), from_one), ".uids: it maps from container_id 1 on"),
        ("the host's root", users(Pod, mapping(0, 65_536), mapping(0, 65_536)), ".uids: host_id 0"),
        ("too few", users(Pod, mapping(1, 65_535), mapping(1, 65_535)), ".uids: length 65535"),
        ("beyond", users(Pod, mapping(u32::MAX - 5, 65_536), one()), ".uids: host_id 4294967290 and length 65536 go"),
        ("the host's, mapped", users(Node, one(), one()), ": the host's user namespace has no mappings"),
        ("a container's", users(api::NamespaceMode::Container, vec![], vec![]), ".mode: CONTAINER"),
        ("a target's", users(api::NamespaceMode::Target, vec![], vec![]), ".mode: TARGET"),
        ("unknown", Some(api::UserNamespace { mode: 9, ..Default::default() }), ".mode: 9 is not a value"),
    ];
    for (name, options, expected) in rows {
        assert_refused(name, of(options), &format!("{at}{expected}"));
    }
    let of_host: [fn(&mut api::NamespaceOption); 3] = [|o| o.network = 2, |o| o.ipc = 2, |o| o.pid = 2];
    for change in of_host {
        let result = planned_sandbox(|request| {
            let options = sandbox_namespaces(request);
            options.userns_options = users(Pod, one(), one());
            change(options);
        });
        assert_refused("one of the host's", result, &format!("{at}: a sandbox with a user namespace"));
    }
}

type Row = (&'static str, &'static str, fn(&mut api::PodSandboxConfig));

#[track_caller]
fn assert_all(rows: &[Row]) {
    for (name, expected, change) in rows {
        assert_refused(name, planned_sandbox(change), expected);
    }
}

#[test]
fn what_is_wrong_is_refused_by_its_field() {
    let rows: &[Row] = &[
        ("no metadata", "config.metadata: is missing", |r| r.metadata = None),
        ("no name", "config.metadata.name: is empty", |r| r.metadata.as_mut().unwrap().name.clear()),
        ("no uid", "config.metadata.uid: is empty", |r| r.metadata.as_mut().unwrap().uid.clear()),
        ("no namespace", "config.metadata.namespace: is empty", |r| r.metadata.as_mut().unwrap().namespace.clear()),
        ("a path", "config.metadata.name: \"../x\"", |r| r.metadata.as_mut().unwrap().name = "../x".into()),
        ("a line", "config.metadata.name: must not hold", |r| r.metadata.as_mut().unwrap().name = "a\nb".into()),
        ("windows", "config.windows: this host", |r| r.windows = Some(Default::default())),
        ("host name", "config.hostname: \"a b\"", |r| r.hostname = "a b".into()),
        ("long host name", "config.hostname: ", |r| r.hostname = "a".repeat(65)),
        ("relative logs", "config.log_directory: \"logs\" must be", |r| r.log_directory = "logs".into()),
        ("logs above", "config.log_directory: \"/var/../etc\"", |r| r.log_directory = "/var/../etc".into()),
        ("logs at the root", "config.log_directory: it is", |r| r.log_directory = "//./".into()),
        ("annotations", "config.annotations: they have 600001 bytes", |r| {
            r.annotations = [("a".to_owned(), "x".repeat(600_000))].into();
        }),
        ("labels", "config.labels: they have", |r| r.labels = [("x".repeat(600_000), String::new())].into()),
        ("bandwidth", "config.annotations: metadata.annotations[", |r| {
            r.annotations = [("kubernetes.io/egress-bandwidth".to_owned(), "fast".to_owned())].into();
        }),
    ];
    assert_all(rows);
}

#[test]
fn wrong_networks_are_refused() {
    let rows: &[Row] = &[
        ("dns line", "config.dns_config.servers[0]: must not", |r| {
            r.dns_config = Some(api::DnsConfig { servers: vec!["1.1.1.1\nx".into()], ..Default::default() });
        }),
        ("dns empty", "config.dns_config.options[0]: is empty", |r| {
            r.dns_config = Some(api::DnsConfig { options: vec![String::new()], ..Default::default() });
        }),
        ("port", "config.port_mappings[0].container_port: 65536", |r| {
            r.port_mappings = vec![api::PortMapping { container_port: 65_536, ..Default::default() }];
        }),
        ("no port", "config.port_mappings[0].container_port: 0", |r| {
            r.port_mappings = vec![api::PortMapping { host_port: 80, ..Default::default() }];
        }),
        ("host port", "config.port_mappings[0].host_port: -1", |r| {
            r.port_mappings = vec![api::PortMapping { container_port: 1, host_port: -1, ..Default::default() }];
        }),
        ("host ip", "config.port_mappings[0].host_ip: \"x\"", |r| {
            r.port_mappings = vec![api::PortMapping { container_port: 1, host_ip: "x".into(), ..Default::default() }];
        }),
        ("protocol", "config.port_mappings[0].protocol: 3 is not", |r| {
            r.port_mappings = vec![api::PortMapping { container_port: 1, protocol: 3, ..Default::default() }];
        }),
    ];
    assert_all(rows);
}

#[test]
fn wrong_cgroups_and_sysctls_are_refused() {
    let rows: &[Row] = &[
        ("slice", "config.linux.cgroup_parent: \"kubepods.slice\" is of systemd's driver", |r| {
            linux(r).cgroup_parent = "kubepods.slice".into();
        }),
        ("slices", "config.linux.cgroup_parent: \"a.slice:cri:x\" is of systemd's driver", |r| {
            linux(r).cgroup_parent = "a.slice:cri:x".into();
        }),
        ("cgroup above", "config.linux.cgroup_parent: \"a/../b\"", |r| linux(r).cgroup_parent = "/a/../b".into()),
        ("cgroup", "config.linux.cgroup_parent: \"a//b\"", |r| linux(r).cgroup_parent = "/a//b".into()),
        ("sysctl of the host", "config.linux.sysctls[\"vm.swappiness\"]: it is of no namespace", |r| {
            linux(r).sysctls = [("vm.swappiness".to_owned(), "1".to_owned())].into();
        }),
        ("sysctl path", "config.linux.sysctls[\"net.//.kernel\"]: must consist", |r| {
            linux(r).sysctls = [("net.//.kernel".to_owned(), "1".to_owned())].into();
        }),
        ("sysctl value", "config.linux.sysctls[\"net.ipv4.x\"]: must be one line", |r| {
            linux(r).sysctls = [("net.ipv4.x".to_owned(), "1\n2".to_owned())].into();
        }),
        ("sysctl twice", "config.linux.sysctls[", |r| {
            let both = ["net.ipv4.x", "net/ipv4/x"].map(|name| (name.to_owned(), "1".to_owned()));
            linux(r).sysctls = both.into();
        }),
        ("sysctl and host network", "config.linux.sysctls[\"net.ipv4.x\"]: it would change the host", |r| {
            linux(r).sysctls = [("net.ipv4.x".to_owned(), "1".to_owned())].into();
            sandbox_namespaces(r).network = 2;
        }),
        ("sysctl and host ipc", "config.linux.sysctls[\"kernel.shmall\"]: it would change the host", |r| {
            linux(r).sysctls = [("kernel.shmall".to_owned(), "1".to_owned())].into();
            sandbox_namespaces(r).ipc = 2;
        }),
        ("resources", "config.linux.resources.cpu_quota: 5 µs", |r| {
            linux(r).resources = Some(api::LinuxContainerResources { cpu_quota: 5, ..Default::default() });
        }),
        ("overhead", "config.linux.overhead.memory_limit_in_bytes: -2", |r| {
            linux(r).overhead = Some(api::LinuxContainerResources { memory_limit_in_bytes: -2, ..Default::default() });
        }),
    ];
    assert_all(rows);
}

#[test]
fn wrong_confinement_is_refused() {
    let rows: &[Row] = &[
        ("network", "config.linux.security_context.namespace_options.network: CONTAINER", |r| {
            sandbox_namespaces(r).network = 1;
        }),
        ("ipc", "config.linux.security_context.namespace_options.ipc: TARGET", |r| sandbox_namespaces(r).ipc = 3),
        ("pid", "config.linux.security_context.namespace_options.pid: the pid", |r| sandbox_namespaces(r).pid = 3),
        ("mode", "config.linux.security_context.namespace_options.pid: -7 is", |r| sandbox_namespaces(r).pid = -7),
        ("target", "config.linux.security_context.namespace_options.target_id: ", |r| {
            sandbox_namespaces(r).target_id = ID.into();
        }),
        ("group", "config.linux.security_context.run_as_group: it needs run_as_user", |r| {
            sandbox_security(r).run_as_group = Some(api::Int64Value { value: 1 });
        }),
        ("user", "config.linux.security_context.run_as_user: -1 is no id", |r| {
            sandbox_security(r).run_as_user = Some(api::Int64Value { value: -1 });
        }),
        ("seccomp", "config.linux.security_context.seccomp.localhost_ref: \"/a/../b\"", |r| {
            let profile = api::SecurityProfile { profile_type: 2, localhost_ref: "/a/../b".into() };
            sandbox_security(r).seccomp = Some(profile);
        }),
    ];
    assert_all(rows);
}
