//! The columns of what is no pod, after kubectl's own (pkg/printers/internalversion/printers.go). Pure.

use super::labels;
use crate::lifecycle::display;
use crate::lifecycle::status::Time;
use crate::network::slices::{self, Group, Slice};
use crate::network::view::Member;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::net::IpAddr;

const NONE: &str = "<none>";
/// So many endpoints are shown.
const MOST: usize = 3;

/// The cells of a row behind its name, and those that only `-o wide` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cells {
    pub(super) plain: Vec<String>,
    pub(super) wide: Vec<String>,
}

pub(super) const SERVICES: (&[&str], &[&str]) =
    (&["TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"], &["SELECTOR"]);
pub(super) const ENDPOINTS: (&[&str], &[&str]) = (&["READY", "ENDPOINTS", "AGE"], &["PODS"]);
pub(super) const SLICES: (&[&str], &[&str]) = (&["ADDRESSTYPE", "PORTS", "READY", "ENDPOINTS", "AGE"], &["PODS"]);
pub(super) const POLICIES: (&[&str], &[&str]) = (&["POD-SELECTOR", "AGE"], &["POLICY-TYPES"]);
pub(super) const NAMESPACES: (&[&str], &[&str]) = (&["STATUS", "AGE"], &["LABELS"]);

/// `<unknown>` for what nobody made.
fn age(metadata: &ObjectMeta, now: Time) -> String {
    let created = metadata.creation_timestamp.as_ref();
    created.map_or("<unknown>".to_owned(), |time| display::age(Time(time.0.as_second()), now))
}

fn joined(list: Vec<String>) -> String {
    if list.is_empty() { NONE.to_owned() } else { list.join(",") }
}

pub(super) fn service(service: &Service, now: Time) -> Cells {
    let none = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    let cluster_ip = spec.cluster_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or(NONE);
    let external_ips = spec.external_ips.clone().unwrap_or_default();
    let external = match type_ {
        "ExternalName" => spec.external_name.clone().unwrap_or_default(),
        // There is no load balancer that would give it an address.
        "LoadBalancer" if external_ips.is_empty() => "<pending>".to_owned(),
        _ => joined(external_ips),
    };
    let port = |port: &ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.node_port {
            Some(node_port) if node_port > 0 => format!("{}:{node_port}/{protocol}", port.port),
            _ => format!("{}/{protocol}", port.port),
        }
    };
    let ports = joined(spec.ports.iter().flatten().map(port).collect());
    Cells {
        plain: vec![type_.to_owned(), cluster_ip.to_owned(), external, ports, age(&service.metadata, now)],
        wide: vec![labels::formatted(spec.selector.as_ref())],
    }
}

/// `address:port`, as Go's `net.JoinHostPort` has it.
fn with_port(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(v4) => format!("{v4}:{port}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}"),
    }
}

/// The first few, and how many there are besides.
fn few(all: Vec<String>) -> String {
    let more = all.len().saturating_sub(MOST);
    let shown = joined(all.into_iter().take(MOST).collect());
    if more == 0 { shown } else { format!("{shown} + {more} more...") }
}

/// How many pods get new connections, of how many that are chosen.
fn ready(groups: &[Group<'_>]) -> String {
    let all = || groups.iter().flat_map(|group| &group.endpoints);
    format!("{}/{}", all().filter(|(endpoint, _)| endpoint.ready).count(), all().count())
}

/// Each pod with what it is.
fn pods(groups: &[Group<'_>]) -> String {
    let all = groups.iter().flat_map(|group| &group.endpoints).map(|(endpoint, _)| {
        let what = match (endpoint.ready, endpoint.member.terminating) {
            (_, true) => "terminating",
            (true, false) => "ready",
            (false, false) => "not ready",
        };
        format!("{} ({what})", endpoint.member.name)
    });
    let all: Vec<String> = all.collect();
    if all.is_empty() { NONE.to_owned() } else { all.join(", ") }
}

/// A Service's Endpoints, of its first family: the addresses that get new connections.
pub(super) fn endpoints(service: &Service, members: &[Member], now: Time) -> Cells {
    let groups = slices::groups(service, members, slices::families(service)[0]);
    let mut shown = Vec::new();
    for group in &groups {
        let ready = || group.endpoints.iter().filter(|(endpoint, _)| endpoint.ready).map(|(_, address)| *address);
        if group.ports.is_empty() {
            shown.extend(ready().map(|address| address.to_string()));
        }
        for port in &group.ports {
            shown.extend(ready().map(|address| with_port(address, port.number)));
        }
    }
    Cells { plain: vec![ready(&groups), few(shown), age(&service.metadata, now)], wide: vec![pods(&groups)] }
}

/// One of a Service's EndpointSlices: all addresses, whether they get new connections or not.
pub(super) fn slice(slice: &Slice<'_>, now: Time) -> Cells {
    let groups = std::slice::from_ref(&slice.group);
    let shown = |all: Vec<String>| if all.is_empty() { "<unset>".to_owned() } else { few(all) };
    let ports = slice.group.ports.iter().map(|port| port.number.to_string()).collect();
    let addresses = slice.group.endpoints.iter().map(|(_, address)| address.to_string()).collect();
    let type_ = slice.object.address_type.clone();
    let age = age(&slice.object.metadata, now);
    Cells { plain: vec![type_, shown(ports), ready(groups), shown(addresses), age], wide: vec![pods(groups)] }
}

pub(super) fn policy(policy: &NetworkPolicy, now: Time) -> Cells {
    let spec = policy.spec.as_ref();
    let selector = spec.and_then(|spec| spec.pod_selector.as_ref());
    let types = spec.and_then(|spec| spec.policy_types.clone()).unwrap_or_default();
    Cells { plain: vec![labels::formatted_selector(selector), age(&policy.metadata, now)], wide: vec![joined(types)] }
}

pub(super) fn namespace(metadata: &ObjectMeta, now: Time) -> Cells {
    Cells {
        plain: vec!["Active".to_owned(), age(metadata, now)],
        wide: vec![labels::formatted(metadata.labels.as_ref())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: Time = Time(1_000_000);

    fn of(spec: Value) -> Service {
        let created = Time(NOW.0 - 90).to_string();
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "creationTimestamp": created }, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn services_have_kubectls_columns() {
        let port = json!({ "port": 80, "protocol": "TCP" });
        let node = json!({ "port": 53, "protocol": "UDP", "nodePort": 30053 });
        let rows = [
            (
                json!({ "type": "ClusterIP", "clusterIP": "10.87.0.1", "clusterIPs": ["10.87.0.1", "fd87::1"], "ports": [port], "selector": { "app": "web", "b": "c" } }),
                ["ClusterIP", "10.87.0.1", "<none>", "80/TCP", "90s", "app=web,b=c"],
            ),
            (
                json!({ "type": "ClusterIP", "clusterIP": "None" }),
                ["ClusterIP", "None", "<none>", "<none>", "90s", "<none>"],
            ),
            (
                json!({ "type": "NodePort", "clusterIP": "10.87.0.1", "externalIPs": ["192.0.2.1", "192.0.2.2"], "ports": [port, node] }),
                ["NodePort", "10.87.0.1", "192.0.2.1,192.0.2.2", "80/TCP,53:30053/UDP", "90s", "<none>"],
            ),
            (
                json!({ "type": "LoadBalancer", "clusterIP": "fd87::1", "ports": [node] }),
                ["LoadBalancer", "fd87::1", "<pending>", "53:30053/UDP", "90s", "<none>"],
            ),
            (
                json!({ "type": "ExternalName", "externalName": "example.com" }),
                ["ExternalName", "<none>", "example.com", "<none>", "90s", "<none>"],
            ),
        ];
        for (spec, expected) in rows {
            let Cells { plain, wide } = service(&of(spec.clone()), NOW);
            assert_eq!([plain, wide].concat(), expected, "{spec}");
        }
    }

    fn member(name: &str, address: &str, (ready, terminating): (bool, bool)) -> Member {
        serde_json::from_value(json!({
            "uid": name, "namespace": "default", "name": name, "labels": { "app": "web" }, "hostname": name, "subdomain": null,
            "addresses": [address], "ports": [], "link": null, "ready": ready, "terminating": terminating,
        }))
        .unwrap()
    }

    #[test]
    fn endpoints_are_shown_with_their_readiness() {
        let spec = json!({ "clusterIP": "10.87.0.1", "ipFamilies": ["IPv4"], "selector": { "app": "web" }, "ports": [{ "name": "a", "port": 80 }, { "name": "b", "port": 81 }] });
        let web = of(spec);
        let members = [
            member("a", "10.86.0.3", (true, false)),
            member("b", "10.86.0.4", (false, false)),
            member("c", "10.86.0.5", (true, true)),
            member("d", "10.86.0.6", (true, false)),
        ];
        let Cells { plain, wide } = endpoints(&web, &members, NOW);
        assert_eq!(plain, ["2/4", "10.86.0.3:80,10.86.0.6:80,10.86.0.3:81 + 1 more...", "90s"]);
        assert_eq!(wide, ["a (ready), b (not ready), c (terminating), d (ready)"]);
        let slices = slices::slices(&web, &members);
        let Cells { plain, wide: pods } = slice(&slices[0], NOW);
        assert_eq!(plain, ["IPv4", "80,81", "2/4", "10.86.0.3,10.86.0.4,10.86.0.5 + 1 more...", "90s"]);
        assert_eq!(pods, wide);
        assert_eq!(endpoints(&web, &[], NOW).plain, ["0/0", "<none>", "90s"]);
        let none = slices::slices(&web, &[]);
        assert_eq!(slice(&none[0], NOW).plain, ["IPv4", "<unset>", "0/0", "<unset>", "90s"]);
        let v6 = of(json!({ "clusterIP": "None", "ipFamilies": ["IPv6"], "selector": { "app": "web" } }));
        let members = [member("a", "fd86::3", (true, false))];
        assert_eq!(endpoints(&v6, &members, NOW).plain, ["1/1", "fd86::3", "90s"]);
    }

    #[test]
    fn policies_and_namespaces_have_kubectls_columns() {
        let deny: NetworkPolicy = serde_json::from_value(json!({ "metadata": { "name": "deny" }, "spec": { "podSelector": {}, "policyTypes": ["Ingress", "Egress"] } })).unwrap();
        let cells = policy(&deny, NOW);
        assert_eq!(
            (cells.plain, cells.wide),
            (vec!["<none>".into(), "<unknown>".into()], vec!["Ingress,Egress".into()])
        );
        let metadata: ObjectMeta =
            serde_json::from_value(json!({ "name": "shop", "labels": { "team": "a" } })).unwrap();
        assert_eq!(namespace(&metadata, NOW).plain, ["Active", "<unknown>"]);
        assert_eq!(namespace(&metadata, NOW).wide, ["team=a"]);
    }
}
