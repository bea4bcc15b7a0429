//! Which pods a Service leads to. Pure.

use super::view::Member;
use crate::plan::network::{Family, Protocol};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::IpAddr;

/// A pod behind a Service, as an EndpointSlice's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint<'v> {
    /// The pod.
    pub member: &'v Member,
    /// Whether it gets new connections: it is ready and not being ended, or the Service says publishNotReadyAddresses.
    pub ready: bool,
}

/// Whether a Service has no cluster IP of its own: `clusterIP: None`.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// The `externalName` of a Service of that type.
pub fn external_name(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then_some(spec.external_name.as_deref()?)
}

/// The cluster IPs, one per family; none of a headless Service, of one of type ExternalName, and before they are chosen.
pub fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    match &spec.cluster_ips {
        Some(list) if !list.is_empty() => list.iter().filter_map(|text| text.parse().ok()).collect(),
        _ => spec.cluster_ip.iter().filter_map(|text| text.parse().ok()).collect(),
    }
}

/// The pods that a Service selects, in the order of the members; none without a selector.
pub fn endpoints<'v>(service: &Service, members: &'v [Member]) -> Vec<Endpoint<'v>> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { return Vec::new() };
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    let unready_too = spec.publish_not_ready_addresses == Some(true);
    members
        .iter()
        .filter(|member| member.namespace == namespace)
        .filter(|member| selector.iter().all(|(key, value)| member.labels.get(key) == Some(value)))
        .map(|member| Endpoint { member, ready: unready_too || (member.ready && !member.terminating) })
        .collect()
}

/// The pod's port that a Service's port leads to; `None` if the pod has no port of that name and protocol.
pub fn target_port(port: &ServicePort, member: &Member) -> Option<u16> {
    let own = u16::try_from(port.port).ok();
    match &port.target_port {
        None => own,
        Some(IntOrString::Int(0)) => own,
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) if name.is_empty() => own,
        Some(IntOrString::String(name)) => named_port(member, name, protocol(port)),
    }
}

/// A pod's port by its name.
pub fn named_port(member: &Member, name: &str, protocol: Protocol) -> Option<u16> {
    let is_meant =
        |port: &&crate::plan::network::ContainerPort| port.name.as_deref() == Some(name) && port.protocol == protocol;
    member.ports.iter().find(is_meant).map(|port| port.container_port)
}

/// The protocol of a Service's port. Validation admits no other words.
pub fn protocol(port: &ServicePort) -> Protocol {
    Protocol::parse(port.protocol.as_deref()).unwrap_or_default()
}

/// A pod's address of a family.
pub fn address(member: &Member, family: Family) -> Option<IpAddr> {
    member.addresses.iter().copied().find(|address| Family::of(*address) == family)
}
