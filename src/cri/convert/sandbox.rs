//! `PodSandboxConfig`.

use super::SandboxContext;
use super::container::name;
use super::fields::{At, short};
use super::{namespaces, resources, security};
use crate::cri::api;
use crate::lifecycle::RestartPolicy;
use crate::manifest::{rules, sysctl};
use crate::plan::config::{
    Amounts, CgroupPath, ContainerPort, Dns, DnsBase, KeyValue, LinuxContainerResources, NamespaceMode,
    NamespaceOptions, NetworkMode, PodPlan, PodSandboxConfig, SwapBehavior, Unnamed,
};
use crate::plan::network::{self, Protocol};
use anyhow::Result;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;

/// HOST_NAME_MAX (gethostname(2)).
const MAX_HOSTNAME: usize = 64;
/// Entries of each list of a resolv.conf, ports and sysctls.
const MAX_ENTRIES: usize = 4096;

/// A sandbox's plan, without containers. The numbers of `linux.resources` and `linux.overhead` are checked, not applied: a kubelet
/// has a cgroup of its own for the pod above the sandbox's, and changes that one's.
///
/// # Errors
/// Of kind `Invalid`, beginning with the field: the request is wrong, or asks for what podshim does not do.
pub fn sandbox(request: &api::PodSandboxConfig, context: &SandboxContext) -> Result<PodPlan> {
    let at = At::config();
    let at_metadata = at.field("metadata");
    let metadata = request.metadata.as_ref().ok_or_else(|| at_metadata.error("is missing"))?;
    for (field, text) in [("name", &metadata.name), ("namespace", &metadata.namespace), ("uid", &metadata.uid)] {
        name(text, &at_metadata.field(field))?;
    }
    if request.windows.is_some() {
        return at.field("windows").refuse("this host runs Linux");
    }
    at.field("labels").bounded(&request.labels)?;
    at.field("annotations").bounded(&request.annotations)?;
    let linux = request.linux.clone().unwrap_or_default();
    let at_linux = at.field("linux");
    for (field, given) in [("resources", &linux.resources), ("overhead", &linux.overhead)] {
        given.as_ref().map(|given| resources::of(given, &at_linux.field(field))).transpose()?;
    }
    let own = linux.security_context.unwrap_or_default();
    let at_security = at_linux.field("security_context");
    security::check_sandbox(&own, &at_security)?;
    let options = own.namespace_options.unwrap_or_default();
    let (namespaces, id_range) =
        namespaces::of_sandbox(&options, context.network.clone(), &at_security.field("namespace_options"))?;
    for key in [network::INGRESS_BANDWIDTH, network::EGRESS_BANDWIDTH] {
        if request.annotations.get(key).is_some_and(|text| text.len() > 64) {
            return at.field("annotations").key(key).refuse("it has more than 64 bytes");
        }
    }
    let annotations: BTreeMap<String, String> = request.annotations.clone().into_iter().collect();
    let hostname = hostname(&request.hostname, &metadata.name, &namespaces.network, &at.field("hostname"))?;
    Ok(plan(PodSandboxConfig {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: context.id.clone(),
        pod_uid: Some(metadata.uid.clone()),
        hosts_names: Some(hostname.clone()).filter(|name| !name.is_empty()).into_iter().collect(),
        hostname,
        log_directory: log_directory(&request.log_directory, &at.field("log_directory"))?,
        dns: dns(request.dns_config.as_ref(), &at.field("dns_config"))?,
        host_aliases: Vec::new(),
        network: context.bridge.clone().filter(|_| namespaces.network != NetworkMode::Host),
        subdomain: None,
        ports: ports(&request.port_mappings, &namespaces.network, &at.field("port_mappings"))?,
        bandwidth: at.field("annotations").wrap(network::bandwidth(&annotations, &namespaces.network))?,
        cgroup: CgroupPath {
            parent: cgroup_parent(&linux.cgroup_parent, &at_linux.field("cgroup_parent"))?
                .unwrap_or_else(|| context.cgroup_parent.clone()),
            pod: context.id.clone(),
        },
        resources: LinuxContainerResources { swap: -1, unnamed: Unnamed::Unlimited, ..Default::default() },
        labels: request.labels.clone().into_iter().collect(),
        annotations,
        sysctls: sysctls(&linux.sysctls, &namespaces, &at_linux.field("sysctls"))?,
        seccomp_root: context.seccomp_root.clone(),
        id_range,
        namespaces,
    }))
}

/// Everything else of a pod is a kubelet's own business.
fn plan(sandbox: PodSandboxConfig) -> PodPlan {
    PodPlan {
        sandbox,
        volumes: Vec::new(),
        fs_group: None,
        containers: Vec::new(),
        restart_policy: RestartPolicy::Never,
        grace_seconds: 0,
        active_deadline_seconds: None,
        readiness_gates: Vec::new(),
        qos_class: "BestEffort".to_owned(),
        owner: None,
        logins: Vec::new(),
        immutable: BTreeMap::new(),
        requests: Amounts::default(),
        swap: SwapBehavior::default(),
        storage_limits: Vec::new(),
    }
}

/// The kernel's host name in the sandbox's UTS namespace: without one it is the pod's name, as much of it as there is room for.
fn hostname(given: &str, pod: &str, network: &NetworkMode, at: &At) -> Result<String> {
    if *network == NetworkMode::Host {
        // The host's network comes with the host's UTS namespace, whose name is not the pod's to set.
        return Ok(String::new());
    }
    if given.is_empty() {
        let fits = |(index, c): &(usize, char)| index + c.len_utf8() <= MAX_HOSTNAME;
        return Ok(pod.char_indices().take_while(fits).map(|(_, c)| c).collect());
    }
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if given.len() > MAX_HOSTNAME || !given.bytes().all(is_plain) {
        let rule = "is not of letters, digits, `.`, `-` and `_`, or has more than 64 characters";
        return at.refuse(format!("{} {rule}", short(given)));
    }
    Ok(given.to_owned())
}

/// Where containers' logs go; empty if they go nowhere.
fn log_directory(path: &str, at: &At) -> Result<PathBuf> {
    if path.is_empty() {
        return Ok(PathBuf::new());
    }
    match at.absolute_path(path)?.as_str() {
        "/" => at.refuse("it is the root itself"),
        plain => Ok(plain.into()),
    }
}

/// Without a config, or with one that says nothing, the host's resolver, else what it says and nothing more, as with containerd.
fn dns(given: Option<&api::DnsConfig>, at: &At) -> Result<Dns> {
    let Some(given) = given.filter(|given| **given != api::DnsConfig::default()) else { return Ok(Dns::default()) };
    for (name, list) in [("servers", &given.servers), ("searches", &given.searches), ("options", &given.options)] {
        let at = at.field(name);
        at.at_most(list.len(), MAX_ENTRIES)?;
        for (index, word) in list.iter().enumerate() {
            let at = at.index(index);
            if word.is_empty() || word.len() > 255 {
                return at.refuse("is empty, or has more than 255 bytes");
            }
            at.check(rules::word(word))?;
        }
    }
    Ok(Dns {
        base: DnsBase::Empty,
        servers: given.servers.clone(),
        searches: given.searches.clone(),
        options: given.options.clone(),
    })
}

/// Ports of the host that lead to the sandbox, and ports that are only told.
fn ports(list: &[api::PortMapping], network: &NetworkMode, at: &At) -> Result<Vec<ContainerPort>> {
    at.at_most(list.len(), MAX_ENTRIES)?;
    let ports: Vec<ContainerPort> =
        list.iter().enumerate().map(|(index, mapping)| port(mapping, &at.index(index))).collect::<Result<_>>()?;
    at.wrap(network::check_host_ports(&ports, network))?;
    Ok(ports)
}

fn port(mapping: &api::PortMapping, at: &At) -> Result<ContainerPort> {
    let number = |name: &str, number: i32| match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(number),
        _ => at.field(name).refuse(format!("{number} is no port: ports are from 1 to 65535")),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => match text.parse::<IpAddr>() {
            Ok(ip) => Some(ip).filter(|ip| !ip.is_unspecified()),
            Err(_) => return at.field("host_ip").refuse(format!("{} is no address", short(text))),
        },
    };
    Ok(ContainerPort {
        name: None,
        container_port: number("container_port", mapping.container_port)?,
        protocol: match at.field("protocol").known(mapping.protocol)? {
            api::Protocol::Tcp => Protocol::Tcp,
            api::Protocol::Udp => Protocol::Udp,
            api::Protocol::Sctp => Protocol::Sctp,
        },
        host_port: match mapping.host_port {
            0 => None,
            other => Some(number("host_port", other)?),
        },
        host_ip,
    })
}

/// The cgroup above the sandbox's, without slashes around it; `None` if none is given.
fn cgroup_parent(path: &str, at: &At) -> Result<Option<String>> {
    let bare = path.trim_matches('/');
    if bare.is_empty() {
        return Ok(None);
    }
    if bare.contains(':') || bare.split('/').any(|part| part.ends_with(".slice")) {
        let what =
            "is of systemd's driver, and podshim makes cgroups itself: the kubelet's cgroupDriver must be cgroupfs";
        return at.refuse(format!("{} {what}", short(path)));
    }
    at.relative_path(bare)?;
    Ok(Some(bare.to_owned()))
}

/// Kernel parameters of the sandbox's own namespaces, by their dotted names, in the order of these. Which of them a pod may set is
/// for the kubelet to say (`allowedUnsafeSysctls`); that none changes the host is for us.
fn sysctls(given: &HashMap<String, String>, namespaces: &NamespaceOptions, at: &At) -> Result<Vec<KeyValue>> {
    at.at_most(given.len(), MAX_ENTRIES)?;
    let mut sorted: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in given {
        let at = at.key(name);
        at.check(rules::sysctl(name))?;
        at.check(rules::one_line(value))?;
        let key = sysctl::dotted(name);
        let is_of_host = match sysctl::namespace(&key) {
            Some(sysctl::SysctlNamespace::Network) => namespaces.network == NetworkMode::Host,
            Some(sysctl::SysctlNamespace::Ipc) => namespaces.ipc == NamespaceMode::Node,
            None => return at.refuse("it is of no namespace: it would change the whole host"),
        };
        if is_of_host {
            return at.refuse("it would change the host, whose namespace the sandbox is in");
        }
        if sorted.insert(key, value.clone()).is_some() {
            return at.refuse("it is set twice, with dots and with slashes");
        }
    }
    Ok(sorted.into_iter().map(|(key, value)| KeyValue { key, value }).collect())
}
