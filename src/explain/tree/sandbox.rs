//! What the containers of a pod share.

use super::draw::Node;
use super::limits::limits;
use super::list;
use crate::cgroups;
use crate::explain::Planned;
use crate::host::HostFacts;
use crate::plan::config::{Dns, DnsBase, NamespaceMode, NetworkMode, PodSandboxConfig};
use crate::plan::network::POD_INTERFACE;
use crate::plan::spec;
use crate::runtime::NamespaceKind;
use anyhow::Result;

pub(super) fn sandbox(planned: &Planned, facts: &HostFacts) -> Result<Node> {
    let config = &planned.plan.sandbox;
    let mut node = Node::new("sandbox", "what its containers share, made before them").with([namespaces(planned)]);
    if !config.hostname.is_empty() {
        node = node.with([Node::new("host name", &config.hostname)]);
    }
    node = node.with([network(planned)]);
    node = node.with(ports(config));
    node = node.with([Node::new("name servers", dns(&config.dns)).why(
        "The pod's /etc/resolv.conf, which programs read to find addresses of names; /etc/hosts has its own names.",
    )]);
    node = node.with([cgroup(config, facts)?]);
    node = node.with(config.sysctls.iter().map(|sysctl| {
        let text = format!("{} = {}", sysctl.key, sysctl.value);
        Node::new("sysctl", text).why("A setting of the kernel, in the pod's own namespaces alone.")
    }));
    if let Some(range) = config.id_range.filter(|_| config.namespaces.user == NamespaceMode::Pod) {
        let (first, last) = (range.first, range.first + (range.size - 1));
        let text = format!("0 to {} in the pod are {first} to {last} on the host", range.size - 1);
        node = node.with([Node::new("user ids", text).why("The numbers of the host are chosen when the pod is made.")]);
    }
    Ok(node)
}

fn namespaces(planned: &Planned) -> Node {
    let config = &planned.plan.sandbox;
    let isolates = |kind: &NamespaceKind| match kind {
        NamespaceKind::User => "users of the pod's own: root in there is nobody on the host",
        NamespaceKind::Network => "network devices, addresses, ports, routes and packet filters of the pod's own",
        NamespaceKind::Uts => "a host name of the pod's own",
        NamespaceKind::Ipc => "shared memory, semaphores and message queues of the pod's own",
        NamespaceKind::Pid => "process numbers of the pod's own: its containers see and can signal each other",
        NamespaceKind::Mount => "files and mounts",
        NamespaceKind::Cgroup => "a view of cgroups",
    };
    let joined = |kind: &NamespaceKind| match &config.namespaces.network {
        NetworkMode::Path(path) if *kind == NamespaceKind::Network => {
            Some(format!("not made, but that of {}", path.display()))
        }
        _ => None,
    };
    let made = planned.namespaces.iter().map(|kind| {
        let text = joined(kind).unwrap_or_else(|| isolates(kind).to_owned());
        Node::new(kind.file(), text)
    });
    let all = [
        (NamespaceKind::Network, config.namespaces.network == NetworkMode::Host),
        (NamespaceKind::Uts, config.namespaces.network == NetworkMode::Host),
        (NamespaceKind::Ipc, config.namespaces.ipc == NamespaceMode::Node),
        (NamespaceKind::Pid, config.namespaces.pid == NamespaceMode::Node),
    ];
    let hosts: Vec<&str> = all.iter().filter(|(_, is_host)| *is_host).map(|(kind, _)| kind.file()).collect();
    let text = match hosts.is_empty() {
        true => format!("{} for the pod", planned.namespaces.len()),
        false => format!("{} for the pod; the host's own: {}", planned.namespaces.len(), list(hosts)),
    };
    Node::new("namespaces", text).with(made)
}

fn network(planned: &Planned) -> Node {
    let config = &planned.plan.sandbox;
    let node = match &config.namespaces.network {
        NetworkMode::None => Node::new("network", "none but loopback (lo, 127.0.0.1)")
            .why("Containers of the pod meet on localhost; nobody else reaches them, and they reach nobody."),
        NetworkMode::Host => Node::new("network", "the host's own"),
        NetworkMode::Path(path) => Node::new("network", format!("that of the namespace {}", path.display())),
        NetworkMode::Cni(network) => {
            let text =
                format!("made by CNI plugins, as the first configuration in {} says", network.conf_dir.display());
            Node::new("network", text)
        }
        NetworkMode::Bridge => {
            let bridge = config.network.as_ref();
            let name = bridge.map_or("", |network| &network.bridge);
            let text = format!("{POD_INTERFACE} in the pod, joined to the bridge {name} on the host");
            let gateways = bridge.into_iter().flat_map(|network| network.gateways().map(|(address, _)| address));
            let subnets = bridge.into_iter().flat_map(|network| &network.pods);
            Node::new("network", text).why(
                "A pair of virtual devices (veth) is a cable: what goes in at one end comes out at the other. A bridge is a switch.",
            ).with([
                Node::new("address", format!("of {}, the first that is free: perhaps {}", list(subnets), list(&planned.addresses))),
                Node::new("default route", format!("by {}, the bridge's own address", list(gateways))),
            ])
        }
    };
    let limit =
        |way: &str, bits: Option<u64>| bits.map(|bits| Node::new(way, format!("at most {bits} bits per second")));
    node.with(limit("to the pod", config.bandwidth.ingress)).with(limit("from the pod", config.bandwidth.egress))
}

fn ports(config: &PodSandboxConfig) -> Option<Node> {
    let ports = config.ports.iter().map(|port| {
        let name = port.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        let host = port.host_port.map(|number| {
            let address = port.host_ip.map(|ip| format!(" of {ip}")).unwrap_or_default();
            format!("; port {number}{address} of the host leads here")
        });
        Node::new("", format!("{}/{}{name}{}", port.container_port, port.protocol, host.unwrap_or_default()))
    });
    let ports: Vec<Node> = ports.collect();
    (!ports.is_empty()).then(|| Node::new("ports", "").with(ports))
}

fn dns(dns: &Dns) -> String {
    let base = match &dns.base {
        DnsBase::HostFile => "the host's".to_owned(),
        DnsBase::File(path) => format!("those of {}", path.display()),
        DnsBase::Cluster { servers, .. } => format!("{}, podshim's own, which knows Services and pods", list(servers)),
        DnsBase::Empty => "none of the host's".to_owned(),
    };
    let more = |what: &str, items: &[String]| match items.is_empty() {
        true => String::new(),
        false => format!("; {what} {}", list(items)),
    };
    let servers = more("also", &dns.servers);
    format!("{base}{servers}{}{}", more("search domains", &dns.searches), more("options", &dns.options))
}

fn cgroup(config: &PodSandboxConfig, facts: &HostFacts) -> Result<Node> {
    let parent = &config.cgroup.parent;
    let path = if parent.is_empty() { String::new() } else { format!("/{parent}") };
    let of_spec = cgroups::of_spec(facts, parent)?;
    let limits = limits(&spec::pod_resources(&config.resources, &of_spec)?, facts)?;
    let node = Node::new("cgroup", format!("{path}/podshim/{}", config.cgroup.pod));
    Ok(node.why("What the kernel counts and limits together: all containers of the pod.").with(limits))
}
