//! Services. Source of the rules: ValidateService in pkg/apis/core/validation, SetDefaults_Service in pkg/apis/core/v1.
//!
//! Which addresses and node ports a Service gets is not decided here: see `network::objects`.

use super::super::cidr;
use super::super::diagnostics::quote;
use super::super::path::Path;
use super::super::syntax;
use super::super::validate::Checker;
use super::network::{NetworkObject, kept};
use super::policy;
use super::read::Subject;
use super::{Content, selector};
use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

const TYPES: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
/// Three hours (DefaultClientIPServiceAffinitySeconds).
const AFFINITY_SECONDS: i32 = 10800;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const ONLY_BALANCED: &str = "may only be used by a Service of type LoadBalancer";

/// A Service's type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
    /// None that there is, which is a fault already.
    Unknown,
}

impl Type {
    fn of(spec: &ServiceSpec) -> Type {
        match text(&spec.type_) {
            None | Some("ClusterIP") => Type::ClusterIp,
            Some("NodePort") => Type::NodePort,
            Some("LoadBalancer") => Type::LoadBalancer,
            Some("ExternalName") => Type::ExternalName,
            Some(_) => Type::Unknown,
        }
    }

    fn has_node_ports(self) -> bool {
        matches!(self, Type::NodePort | Type::LoadBalancer)
    }
}

/// Reads a Service.
pub(super) fn service(subject: &mut Subject<'_>) -> Content {
    let service: Service = subject.typed(vec![]);
    let mut spec = service.spec.unwrap_or_default();
    let root = Path::root();
    let mut c = subject.checker(&root);
    check(&mut c, &spec, &service.metadata);
    let (namespace, _) = c.named(&service.metadata, syntax::dns_label);
    notes_on(&spec, &service.metadata, subject.notes);
    defaults(&mut spec);
    let metadata = kept(service.metadata, Some(namespace));
    Content::Network(NetworkObject::Service(Box::new(Service { metadata, spec: Some(spec), status: None })))
}

/// A text that is not empty: in Go's API an empty one is none.
fn text(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn list<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or(&[])
}

fn is_headless(spec: &ServiceSpec) -> bool {
    text(&spec.cluster_ip).or_else(|| list(&spec.cluster_ips).first().map(String::as_str)) == Some("None")
}

fn is_sticky(spec: &ServiceSpec) -> bool {
    spec.session_affinity.as_deref() == Some("ClientIP")
}

fn check(c: &mut Checker<'_>, spec: &ServiceSpec, metadata: &ObjectMeta) {
    let at = Path::of("spec");
    let type_ = Type::of(spec);
    c.one_of(&at.field("type"), (text(&spec.type_), &TYPES));
    selector::labels(c, spec.selector.as_ref(), &at.field("selector"));
    if list(&spec.ports).is_empty() && type_ != Type::ExternalName && !is_headless(spec) {
        c.fault(&at.field("ports"), "a Service needs at least one port");
    }
    ports(c, spec, type_);
    match type_ {
        Type::ExternalName => external_name(c, spec),
        Type::ClusterIp | Type::NodePort | Type::LoadBalancer | Type::Unknown => addresses(c, spec, type_),
    }
    for (i, address) in list(&spec.external_ips).iter().enumerate() {
        c.grammar(&at.field("externalIPs").index(i), (address, cidr::reachable));
    }
    affinity(c, spec);
    traffic(c, spec, type_);
    balancer(c, spec, (type_, metadata));
}

fn ports(c: &mut Checker<'_>, spec: &ServiceSpec, type_: Type) {
    let ports = list(&spec.ports);
    let mut names: BTreeMap<&str, Path> = BTreeMap::new();
    let mut numbers: BTreeMap<(&str, i32), Path> = BTreeMap::new();
    let mut node_ports: BTreeMap<(&str, i32), Path> = BTreeMap::new();
    for (i, port) in ports.iter().enumerate() {
        let at = Path::of("spec.ports").index(i);
        one_port(c, port, (&at, type_));
        let protocol = text(&port.protocol).unwrap_or("TCP");
        let name = text(&port.name);
        if name.is_none() && ports.len() > 1 {
            c.fault(&at.field("name"), "required where a Service has several ports");
        }
        if let Some(name) = name {
            let path = at.field("name");
            c.name(&path, (name, syntax::dns_label));
            once(c, (&mut names, name), (path, || "is the name of another port of this Service".to_owned()));
        }
        let taken = || format!("{protocol} {} is another port of this Service already", port.port);
        once(c, (&mut numbers, (protocol, port.port)), (at.field("port"), taken));
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            let taken = || format!("{protocol} {number} is the node port of another port of this Service already");
            once(c, (&mut node_ports, (protocol, number)), (at.field("nodePort"), taken));
        }
    }
}

/// Reports the second of two equal values.
fn once<K: Ord>(
    c: &mut Checker<'_>,
    (seen, value): (&mut BTreeMap<K, Path>, K),
    (path, message): (Path, impl FnOnce() -> String),
) {
    match seen.get(&value) {
        Some(first) => c.twice(&path, (first, message())),
        None => {
            seen.insert(value, path);
        }
    }
}

fn one_port(c: &mut Checker<'_>, port: &ServicePort, (at, type_): (&Path, Type)) {
    c.between(&at.field("port"), (port.port.into(), 1, 65535));
    c.one_of(&at.field("protocol"), (text(&port.protocol), &["TCP", "UDP", "SCTP"]));
    let target = at.field("targetPort");
    match &port.target_port {
        // As good as none.
        None | Some(IntOrString::Int(0)) => {}
        Some(IntOrString::String(name)) if name.is_empty() => {}
        Some(IntOrString::Int(number)) => c.between(&target, ((*number).into(), 1, 65535)),
        Some(IntOrString::String(name)) => {
            let is_number = name.parse::<u16>().is_ok();
            if is_number {
                c.fault_with(&target, format!("{} is the name of no port", quote(name)), |d| {
                    d.help(format!("write the number without quotes: targetPort: {name}"))
                });
            } else {
                c.grammar(&target, (name, syntax::port_name));
            }
        }
    }
    if let Some(protocol) = &port.app_protocol {
        c.grammar(&at.field("appProtocol"), (protocol, syntax::qualified_key));
    }
    let node_port = at.field("nodePort");
    match port.node_port.filter(|number| *number != 0) {
        Some(_) if type_ == Type::ClusterIp => {
            c.fault(&node_port, "goes with the types NodePort and LoadBalancer, not with ClusterIP");
        }
        Some(number) if type_.has_node_ports() => c.between(&node_port, (number.into(), 30000, 32767)),
        _ => {}
    }
}

fn external_name(c: &mut Checker<'_>, spec: &ServiceSpec) {
    let at = Path::of("spec");
    let path = at.field("externalName");
    match text(&spec.external_name).map(|name| name.strip_suffix('.').unwrap_or(name)) {
        None | Some("") => c.fault(&path, "a Service of type ExternalName needs it"),
        Some(name) => c.grammar(&path, (name, syntax::dns_subdomain)),
    }
    let is_set = [
        ("clusterIP", text(&spec.cluster_ip).is_some()),
        ("clusterIPs", !list(&spec.cluster_ips).is_empty()),
        ("ipFamilies", !list(&spec.ip_families).is_empty()),
        ("ipFamilyPolicy", text(&spec.ip_family_policy).is_some()),
    ];
    for (field, _) in is_set.iter().filter(|(_, is_set)| *is_set) {
        c.fault(&at.field(field), "a Service of type ExternalName has no address");
    }
}

/// Cluster IPs and their families (validateServiceClusterIPsRelatedFields).
fn addresses(c: &mut Checker<'_>, spec: &ServiceSpec, type_: Type) {
    let at = Path::of("spec");
    let (one, many) = (at.field("clusterIP"), at.field("clusterIPs"));
    let first = text(&spec.cluster_ip);
    if type_.has_node_ports() && is_headless(spec) {
        let type_ = text(&spec.type_).unwrap_or("ClusterIP");
        let place = if first.is_some() { &one } else { &many };
        c.fault(place, format!("None goes with the type ClusterIP, not with {type_}"));
    }
    if let Some(address) = first.filter(|address| *address != "None") {
        c.grammar(&one, (address, |text| cidr::address(text).map(|_| ())));
    }
    let all = list(&spec.cluster_ips);
    match (first, all.first()) {
        (_, None) => {}
        (None, Some(_)) => c.fault(&many, "goes with a clusterIP, which is the first of them"),
        (Some(first), Some(other)) if first != other => {
            c.fault(&many.index(0), format!("must be the same as clusterIP, {}", quote(first)));
        }
        (Some("None"), _) if all.len() > 1 => c.fault(&many, "None must be the only one"),
        _ => {}
    }
    for (i, address) in all.iter().enumerate().skip(usize::from(first == Some("None"))) {
        c.grammar(&many.index(i), (address, |text| cidr::address(text).map(|_| ())));
    }
    let is_v4 = |text: &String| cidr::address(text).ok().map(|address| address.is_ipv4());
    match all {
        [_, _, _, ..] => c.fault(&many, "may hold at most two addresses"),
        [a, b] if is_v4(a).is_some() && is_v4(a) == is_v4(b) => {
            c.fault(&many.index(1), "is of the same family as the first: a Service has one address per family");
        }
        _ => {}
    }
    families(c, spec);
}

fn families(c: &mut Checker<'_>, spec: &ServiceSpec) {
    let at = Path::of("spec");
    let path = at.field("ipFamilies");
    let families = list(&spec.ip_families);
    for (i, family) in families.iter().enumerate() {
        c.one_of(&path.index(i), (Some(family), &FAMILIES));
        if let Some(first) = families[..i].iter().position(|other| other == family) {
            c.twice(&path.index(i), (&path.index(first), format!("{family} is there already")));
        }
    }
    let policy = at.field("ipFamilyPolicy");
    c.one_of(&policy, (text(&spec.ip_family_policy), &["SingleStack", "PreferDualStack", "RequireDualStack"]));
    let addresses: Vec<&String> = list(&spec.cluster_ips).iter().filter(|address| *address != "None").collect();
    if text(&spec.ip_family_policy) == Some("SingleStack") && (families.len() > 1 || addresses.len() > 1) {
        let what = if families.len() > 1 { "ipFamilies" } else { "clusterIPs" };
        c.fault(&policy, format!("must be PreferDualStack or RequireDualStack where {what} has two entries"));
    }
    let first = text(&spec.cluster_ip).filter(|address| *address != "None");
    let of_first = first.filter(|_| addresses.is_empty()).map(|address| (at.field("clusterIP"), address));
    let of_all = addresses.iter().enumerate().map(|(i, address)| (at.field("clusterIPs").index(i), address.as_str()));
    for ((place, address), family) in of_first.into_iter().chain(of_all).zip(families) {
        let Ok(address) = cidr::address(address) else { continue };
        if FAMILIES.contains(&family.as_str()) && (family == "IPv4") != address.is_ipv4() {
            c.fault(&place, format!("must be an {family} address, as ipFamilies says"));
        }
    }
}

fn affinity(c: &mut Checker<'_>, spec: &ServiceSpec) {
    let at = Path::of("spec");
    c.one_of(&at.field("sessionAffinity"), (text(&spec.session_affinity), &["None", "ClientIP"]));
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if let Some(seconds) = config.and_then(|client| client.timeout_seconds) {
        let path = at.field("sessionAffinityConfig").field("clientIP").field("timeoutSeconds");
        c.between(&path, (seconds.into(), 1, 86400));
    }
}

fn traffic(c: &mut Checker<'_>, spec: &ServiceSpec, type_: Type) {
    let at = Path::of("spec");
    let external = at.field("externalTrafficPolicy");
    c.one_of(&external, (text(&spec.external_traffic_policy), &POLICIES));
    let is_external = type_.has_node_ports() || type_ == Type::ClusterIp && !list(&spec.external_ips).is_empty();
    if text(&spec.external_traffic_policy).is_some() && !is_external && type_ != Type::Unknown {
        c.fault(&external, "goes with the types NodePort and LoadBalancer, or with externalIPs");
    }
    c.one_of(&at.field("internalTrafficPolicy"), (spec.internal_traffic_policy.as_deref(), &POLICIES));
    let ways = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    c.one_of(&at.field("trafficDistribution"), (spec.traffic_distribution.as_deref(), &ways));
}

/// What only a load balancer has.
fn balancer(c: &mut Checker<'_>, spec: &ServiceSpec, (type_, metadata): (Type, &ObjectMeta)) {
    let at = Path::of("spec");
    let is_balanced = matches!(type_, Type::LoadBalancer | Type::Unknown);
    if spec.allocate_load_balancer_node_ports.is_some() && !is_balanced {
        c.fault(&at.field("allocateLoadBalancerNodePorts"), ONLY_BALANCED);
    }
    let class = at.field("loadBalancerClass");
    if let Some(name) = &spec.load_balancer_class {
        c.grammar(&class, (name, syntax::qualified_key));
        if !is_balanced {
            c.fault(&class, ONLY_BALANCED);
        }
    }
    let ranges = at.field("loadBalancerSourceRanges");
    for (i, range) in list(&spec.load_balancer_source_ranges).iter().enumerate() {
        policy::cidr(c, range.trim(), &ranges.index(i));
    }
    if !list(&spec.load_balancer_source_ranges).is_empty() && !is_balanced {
        c.fault(&ranges, ONLY_BALANCED);
    }
    if let Some(ranges) = metadata.annotations.as_ref().and_then(|annotations| annotations.get(SOURCE_RANGES)) {
        let path = Path::of("metadata.annotations").field(SOURCE_RANGES);
        if !is_balanced {
            c.fault(&path, ONLY_BALANCED);
        }
        for range in ranges.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            policy::cidr(c, range, &path);
        }
    }
    let health = at.field("healthCheckNodePort");
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        if type_ != Type::LoadBalancer || spec.external_traffic_policy.as_deref() != Some("Local") {
            c.fault(&health, "goes with the type LoadBalancer and externalTrafficPolicy Local");
        }
        c.between(&health, (port.into(), 1, 65535));
    }
}

/// What has no effect because of what else the Service says.
fn notes_on(spec: &ServiceSpec, metadata: &ObjectMeta, notes: &mut Vec<String>) {
    let type_ = Type::of(spec);
    let has_selector = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    if type_ == Type::LoadBalancer {
        notes.push("spec.type: there is no load balancer: LoadBalancer is the same as NodePort".to_owned());
    }
    if metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(SOURCE_RANGES)) {
        notes.push(format!("metadata.annotations[{SOURCE_RANGES:?}] has no effect: there is no load balancer"));
    }
    if text(&spec.external_name).is_some() && type_ != Type::ExternalName {
        notes.push("spec.externalName has no effect: the type is not ExternalName".to_owned());
    }
    if spec.session_affinity_config.is_some() && !is_sticky(spec) {
        notes.push("spec.sessionAffinityConfig has no effect: sessionAffinity is None".to_owned());
    }
    let unused = |field: &str, why: &str| format!("spec.{field} has no effect: {why}");
    if type_ == Type::ExternalName {
        const WHY: &str = "a Service of type ExternalName is a name for another name";
        let set = [
            ("ports", !list(&spec.ports).is_empty()),
            ("selector", has_selector),
            ("externalIPs", !list(&spec.external_ips).is_empty()),
            ("sessionAffinity", is_sticky(spec)),
            ("internalTrafficPolicy", spec.internal_traffic_policy.is_some()),
            ("publishNotReadyAddresses", spec.publish_not_ready_addresses == Some(true)),
        ];
        notes.extend(set.iter().filter(|(_, is_set)| *is_set).map(|(field, _)| unused(field, WHY)));
        return;
    }
    if is_headless(spec) {
        const WHY: &str = "a Service without a cluster IP is only a name";
        let set = [("externalIPs", !list(&spec.external_ips).is_empty()), ("sessionAffinity", is_sticky(spec))];
        notes.extend(set.iter().filter(|(_, is_set)| *is_set).map(|(field, _)| unused(field, WHY)));
    }
    if !has_selector {
        notes.push("it has no selector, so it leads to no pods: podshim reads no Endpoints".to_owned());
    }
}

/// What the API server fills in without looking at anything else. Addresses are written in their shortest form.
fn defaults(spec: &mut ServiceSpec) {
    let type_ = Type::of(spec);
    let is_sticky = is_sticky(spec);
    let or = |field: &mut Option<String>, default: &str| {
        if text(field).is_none() {
            *field = Some(default.to_owned());
        }
    };
    or(&mut spec.type_, "ClusterIP");
    or(&mut spec.session_affinity, "None");
    let timeout = spec.session_affinity_config.take().and_then(|config| config.client_ip?.timeout_seconds);
    if is_sticky {
        let client = ClientIPConfig { timeout_seconds: Some(timeout.unwrap_or(AFFINITY_SECONDS)) };
        spec.session_affinity_config = Some(SessionAffinityConfig { client_ip: Some(client) });
    }
    for port in spec.ports.iter_mut().flatten() {
        or(&mut port.protocol, "TCP");
        port.name = port.name.take().filter(|name| !name.is_empty());
        port.node_port = port.node_port.filter(|number| *number != 0);
        let is_set = match &port.target_port {
            None | Some(IntOrString::Int(0)) => false,
            Some(IntOrString::Int(_)) => true,
            Some(IntOrString::String(name)) => !name.is_empty(),
        };
        if !is_set {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if type_ == Type::LoadBalancer {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    if type_.has_node_ports() || type_ == Type::ClusterIp && !list(&spec.external_ips).is_empty() {
        or(&mut spec.external_traffic_policy, "Cluster");
    } else {
        spec.external_traffic_policy = None;
    }
    if type_ != Type::ExternalName {
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    spec.cluster_ip = text(&spec.cluster_ip).map(shortest);
    // clusterIP is the first of clusterIPs (NormalizeClusterIPs).
    spec.cluster_ips = match list(&spec.cluster_ips) {
        [] => spec.cluster_ip.clone().map(|first| vec![first]),
        several => Some(several.iter().map(|address| shortest(address)).collect()),
    };
    spec.external_ips = spec.external_ips.take().filter(|all| !all.is_empty());
    for address in spec.external_ips.iter_mut().flatten() {
        *address = shortest(address);
    }
    spec.ip_families = spec.ip_families.take().filter(|families| !families.is_empty());
    spec.ip_family_policy = spec.ip_family_policy.take().filter(|policy| !policy.is_empty());
    spec.selector = spec.selector.take().filter(|selector| !selector.is_empty());
}

/// An address in its shortest form; other texts as they are.
fn shortest(address: &str) -> String {
    cidr::address(address).map_or_else(|_| address.to_owned(), |address| address.to_string())
}
