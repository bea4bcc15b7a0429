//! What the rules are, as text; and what they do, with real packets between network namespaces that each test makes.

mod false_addresses;
mod many;
mod policies;
mod services;
mod text;
mod town;

use crate::network::view::{Member, View};
use crate::plan::network::{BridgeNetwork, ContainerPort, Protocol};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The bridge of all these tests.
const BRIDGE: &str = "podshim0";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A network of both families with nothing on it.
fn empty_view() -> View {
    let subnets = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    let network = BridgeNetwork {
        bridge: BRIDGE.to_owned(),
        pods: subnets(["10.86.0.0/16", "fd86::/64"]),
        services: subnets(["10.87.0.0/16", "fd87::/112"]),
    };
    View { network, members: Vec::new(), services: Vec::new(), policies: Vec::new(), namespaces: BTreeMap::new() }
}

/// A ready pod of namespace `default` with the addresses of this number.
fn member(name: &str, number: u16) -> Member {
    Member {
        uid: format!("uid-{name}"),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::from([("name".to_owned(), name.to_owned())]),
        hostname: name.to_owned(),
        subdomain: None,
        addresses: vec![ip(&format!("10.86.{}.{}", number >> 8, number & 255)), ip(&format!("fd86::{number:x}"))],
        ports: Vec::new(),
        link: Some(format!("veth{number}")),
        ready: true,
        terminating: false,
    }
}

fn labelled(mut member: Member, labels: &[(&str, &str)]) -> Member {
    member.labels.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    member
}

fn port(name: &str, number: u16) -> ContainerPort {
    let name = (!name.is_empty()).then(|| name.to_owned());
    ContainerPort { name, container_port: number, protocol: Protocol::Tcp, host_port: None, host_ip: None }
}

fn host_port(number: u16, host_port: u16, host_ip: Option<&str>) -> ContainerPort {
    ContainerPort { host_port: Some(host_port), host_ip: host_ip.map(ip), ..port("", number) }
}

/// A document of a kind, of namespace `default`, with this spec.
fn document<T: serde::de::DeserializeOwned>(name: &str, spec: Json) -> T {
    serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}))
        .unwrap()
}
