//! The pods behind Services as Kubernetes' own objects: EndpointSlices, and the Endpoints of old. Pure.
//!
//! Source of the rules: pkg/controller/endpoint and staging/src/k8s.io/endpointslice.

use super::endpoints::{self, Endpoint};
use super::view::Member;
use crate::plan::network::{Family, Protocol};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as OldPort, EndpointSubset, Endpoints, ObjectReference, Service,
};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A port that a Service's pods are reached by: its name in the Service, its number in the pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetPort {
    /// The number.
    pub number: u16,
    /// The name.
    pub name: Option<String>,
    /// The protocol.
    pub protocol: Protocol,
    application: Option<String>,
}

/// Pods of a Service that are reached by the same ports.
#[derive(Debug, Clone)]
pub struct Group<'v> {
    /// The ports.
    pub ports: Vec<TargetPort>,
    /// The pods, each with its address.
    pub endpoints: Vec<(Endpoint<'v>, IpAddr)>,
}

/// The families of a Service's addresses, the first one first; before they are chosen, IPv4.
pub fn families(service: &Service) -> Vec<Family> {
    let words = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let families: Vec<Family> = words.map(|word| if word == "IPv6" { Family::V6 } else { Family::V4 }).collect();
    if families.is_empty() { vec![Family::V4] } else { families }
}

/// Whether a Service's pods are looked for: it has a selector, and is more than a name for another name.
pub fn has_endpoints(service: &Service) -> bool {
    let selects =
        |spec: &k8s_openapi::api::core::v1::ServiceSpec| spec.selector.as_ref().is_some_and(|s| !s.is_empty());
    endpoints::external_name(service).is_none() && service.spec.as_ref().is_some_and(selects)
}

/// A Service's pods with an address of a family, by the ports that they are reached by. A pod may lack a named port.
pub fn groups<'v>(service: &Service, members: &'v [Member], family: Family) -> Vec<Group<'v>> {
    if !has_endpoints(service) {
        return Vec::new();
    }
    let mut groups: BTreeMap<Vec<TargetPort>, Vec<(Endpoint<'v>, IpAddr)>> = BTreeMap::new();
    for endpoint in endpoints::endpoints(service, members) {
        let Some(address) = endpoints::address(endpoint.member, family) else { continue };
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let target = ports.filter_map(|port| {
            Some(TargetPort {
                number: endpoints::target_port(port, endpoint.member)?,
                name: port.name.clone(),
                protocol: endpoints::protocol(port),
                application: port.app_protocol.clone(),
            })
        });
        groups.entry(target.collect()).or_default().push((endpoint, address));
    }
    groups.into_iter().map(|(ports, endpoints)| Group { ports, endpoints }).collect()
}

fn metadata(service: &Service, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: service.metadata.namespace.clone(),
        labels: service.metadata.labels.clone(),
        creation_timestamp: service.metadata.creation_timestamp.clone(),
        ..ObjectMeta::default()
    }
}

fn reference(member: &Member) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        name: Some(member.name.clone()),
        namespace: Some(member.namespace.clone()),
        uid: Some(member.uid.clone()),
        ..ObjectReference::default()
    }
}

/// The host name by which an endpoint has a name of its own below the Service's.
fn hostname(service: &Service, member: &Member) -> Option<String> {
    let is_below = member.subdomain.is_some() && member.subdomain == service.metadata.name;
    Some(member.hostname.clone()).filter(|name| is_below && !name.is_empty())
}

/// An EndpointSlice, and the pods that it is made of.
#[derive(Debug, Clone)]
pub struct Slice<'v> {
    /// The object.
    pub object: EndpointSlice,
    /// The pods.
    pub group: Group<'v>,
}

/// A Service's EndpointSlices: for each family one per set of ports, and an empty one where there are no pods.
pub fn slices<'v>(service: &Service, members: &'v [Member]) -> Vec<Slice<'v>> {
    if !has_endpoints(service) {
        return Vec::new();
    }
    let mut slices = Vec::new();
    for family in families(service) {
        let mut groups = groups(service, members, family);
        if groups.is_empty() {
            groups.push(Group { ports: Vec::new(), endpoints: Vec::new() });
        }
        let type_ = if family == Family::V4 { "IPv4" } else { "IPv6" };
        for (index, group) in groups.into_iter().enumerate() {
            let own = service.metadata.name.as_deref().unwrap_or_default();
            let number = if index == 0 { String::new() } else { format!("-{}", index + 1) };
            let mut metadata = metadata(service, format!("{own}-{}{number}", type_.to_lowercase()));
            let labels = metadata.labels.get_or_insert_default();
            labels.insert("kubernetes.io/service-name".to_owned(), own.to_owned());
            let object = EndpointSlice {
                metadata,
                address_type: type_.to_owned(),
                endpoints: Some(group.endpoints.iter().map(|(e, at)| slice_endpoint(service, e, *at)).collect()),
                ports: Some(group.ports.iter().map(slice_port).collect()),
            };
            slices.push(Slice { object, group });
        }
    }
    slices
}

fn slice_endpoint(service: &Service, endpoint: &Endpoint<'_>, address: IpAddr) -> SliceEndpoint {
    let member = endpoint.member;
    SliceEndpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(endpoint.ready),
            serving: Some(member.ready),
            terminating: Some(member.terminating),
        }),
        hostname: hostname(service, member),
        target_ref: Some(reference(member)),
        ..SliceEndpoint::default()
    }
}

fn slice_port(port: &TargetPort) -> EndpointPort {
    EndpointPort {
        app_protocol: port.application.clone(),
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.number.into()),
        protocol: Some(port.protocol.to_string()),
    }
}

/// A Service's Endpoints, of its first family; none of a Service that has none. Pods that are being ended are not among them.
pub fn object(service: &Service, members: &[Member]) -> Option<Endpoints> {
    if !has_endpoints(service) {
        return None;
    }
    let family = families(service)[0];
    let subset = |group: Group<'_>| {
        let (mut ready, mut not_ready) = (Vec::new(), Vec::new());
        for (endpoint, address) in &group.endpoints {
            let list = match (endpoint.ready, endpoint.member.terminating) {
                (true, _) => &mut ready,
                (false, true) => continue,
                (false, false) => &mut not_ready,
            };
            list.push(EndpointAddress {
                ip: address.to_string(),
                hostname: hostname(service, endpoint.member),
                target_ref: Some(reference(endpoint.member)),
                ..EndpointAddress::default()
            });
        }
        let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
        let ports: Vec<OldPort> = group.ports.into_iter().map(old_port).collect();
        EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: (!ports.is_empty()).then_some(ports),
        }
    };
    let subsets: Vec<EndpointSubset> = groups(service, members, family)
        .into_iter()
        .map(subset)
        .filter(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some())
        .collect();
    let name = service.metadata.name.clone().unwrap_or_default();
    Some(Endpoints { metadata: metadata(service, name), subsets: (!subsets.is_empty()).then_some(subsets) })
}

fn old_port(port: TargetPort) -> OldPort {
    OldPort {
        app_protocol: port.application,
        name: port.name,
        port: port.number.into(),
        protocol: Some(port.protocol.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::network::ContainerPort;
    use serde_json::{Value, json};

    fn member(name: &str, addresses: &[&str], ready: bool) -> Member {
        let port = |name: &str, number, protocol| ContainerPort {
            name: Some(name.into()),
            container_port: number,
            protocol,
            host_port: None,
            host_ip: None,
        };
        Member {
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            name: name.into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            hostname: name.into(),
            subdomain: None,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ports: vec![port("http", 8080, Protocol::Tcp), port("dns", 5353, Protocol::Udp)],
            link: None,
            ready,
            terminating: false,
        }
    }

    fn service(spec: Value) -> Service {
        let mut whole = json!({ "type": "ClusterIP", "clusterIP": "10.87.0.1", "ipFamilies": ["IPv4"], "selector": { "app": "web" }, "ports": [{ "name": "web", "port": 80, "protocol": "TCP", "targetPort": "http" }] });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(
            json!({ "metadata": { "name": "web", "namespace": "default", "labels": { "a": "b" } }, "spec": whole }),
        )
        .unwrap()
    }

    fn members() -> Vec<Member> {
        let mut ending = member("c", &["10.86.0.5"], true);
        ending.terminating = true;
        let mut other = member("d", &["10.86.0.6"], true);
        other.labels.clear();
        vec![member("a", &["10.86.0.3", "fd86::3"], true), member("b", &["10.86.0.4"], false), ending, other]
    }

    #[test]
    fn slices_say_what_each_pod_is() {
        let members = members();
        let slices = slices(&service(json!({})), &members);
        assert_eq!(slices.len(), 1);
        let value = serde_json::to_value(&slices[0].object).unwrap();
        assert_eq!(value["metadata"]["name"], "web-ipv4");
        assert_eq!(value["metadata"]["labels"], json!({ "a": "b", "kubernetes.io/service-name": "web" }));
        assert_eq!(value["ports"], json!([{ "name": "web", "port": 8080, "protocol": "TCP" }]));
        let seen: Vec<Value> = value["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| {
                json!([
                    e["targetRef"]["name"],
                    e["addresses"][0],
                    e["conditions"]["ready"],
                    e["conditions"]["serving"],
                    e["conditions"]["terminating"]
                ])
            })
            .collect();
        let expected = [
            json!(["a", "10.86.0.3", true, true, false]),
            json!(["b", "10.86.0.4", false, false, false]),
            json!(["c", "10.86.0.5", false, true, true]),
        ];
        assert_eq!(seen, expected);
        assert_eq!(value["endpoints"][0]["targetRef"]["uid"], "uid-a");
    }

    #[test]
    fn there_is_a_slice_per_family_and_set_of_ports() {
        let mut members = members();
        members[1].ports.clear();
        let dual = service(json!({ "ipFamilies": ["IPv6", "IPv4"] }));
        let list: Vec<(String, String, usize)> = slices(&dual, &members)
            .into_iter()
            .map(|slice| (slice.object.metadata.name.unwrap(), slice.object.address_type, slice.group.endpoints.len()))
            .collect();
        let row = |name: &str, type_: &str, pods| (name.to_owned(), type_.to_owned(), pods);
        // b has no port named http: it is reached by none.
        assert_eq!(list, [row("web-ipv6", "IPv6", 1), row("web-ipv4", "IPv4", 1), row("web-ipv4-2", "IPv4", 2)]);
        let empty = slices(&service(json!({ "selector": { "app": "none" } })), &members);
        assert_eq!((empty.len(), empty[0].object.endpoints.as_ref().map(Vec::len)), (1, Some(0)));
        for without in [json!({ "selector": {} }), json!({ "type": "ExternalName", "externalName": "a.b" })] {
            let service = service(without);
            assert!(slices(&service, &members).is_empty() && object(&service, &members).is_none());
        }
    }

    #[test]
    fn endpoints_tell_the_ready_from_the_others() {
        let mut members = members();
        members[0].subdomain = Some("web".into());
        let addresses = |service: &Service| {
            let value = serde_json::to_value(object(service, &members).unwrap()).unwrap();
            let subset = &value["subsets"][0];
            let ips = |list: &Value| -> Vec<String> {
                list.as_array().into_iter().flatten().map(|a| a["ip"].as_str().unwrap().to_owned()).collect()
            };
            (ips(&subset["addresses"]), ips(&subset["notReadyAddresses"]), subset["addresses"][0]["hostname"].clone())
        };
        let (ready, not_ready, hostname) = addresses(&service(json!({})));
        assert_eq!((ready, not_ready, hostname), (vec!["10.86.0.3".into()], vec!["10.86.0.4".into()], json!("a")));
        let (ready, not_ready, _) = addresses(&service(json!({ "publishNotReadyAddresses": true })));
        assert_eq!((ready, not_ready), (vec!["10.86.0.3".into(), "10.86.0.4".into(), "10.86.0.5".into()], vec![]));
    }
}
