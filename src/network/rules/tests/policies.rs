//! NetworkPolicies, by who reaches whom then.

use super::town::{HOST, OUTSIDE, Town};
use super::{document, labelled, member, port};
use crate::network::view::Member;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

fn of_namespace(namespace: &str, member: Member) -> Member {
    Member { namespace: namespace.to_owned(), ..member }
}

/// `web` and `db` with two ports each, `client`, and `other` of another namespace, whose label is `team: red`.
fn settled(mut town: Town) -> Town {
    let ports = || vec![port("http", 80), port("admin", 81)];
    town.view.namespaces = BTreeMap::from([
        ("default".to_owned(), labels(&[("kubernetes.io/metadata.name", "default")])),
        ("red".to_owned(), labels(&[("kubernetes.io/metadata.name", "red"), ("team", "red")])),
    ]);
    town.with(vec![
        Member { ports: ports(), ..labelled(member("web", 3), &[("app", "web")]) },
        Member { ports: ports(), ..labelled(member("db", 4), &[("app", "db")]) },
        labelled(member("client", 5), &[("app", "client")]),
        of_namespace("red", labelled(member("other", 6), &[("app", "client")])),
    ])
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn policy(name: &str, spec: serde_json::Value) -> NetworkPolicy {
    document(name, spec)
}

/// The address at the end of a way: of `client>web:80` by IPv4, of `client>web:80/6` by IPv6.
fn end_of(way: &str) -> (&str, String) {
    let numbers = BTreeMap::from([("web", 3), ("db", 4), ("client", 5), ("other", 6)]);
    let (from, to) = way.split_once('>').unwrap();
    let (to, port) = to.split_once(':').unwrap();
    let (port, v6) = port.strip_suffix("/6").map_or((port, false), |port| (port, true));
    let address = match (to, v6) {
        ("host", false) => format!("{HOST}:{port}"),
        ("host", true) => format!("[2001:db8::1]:{port}"),
        ("outside", false) => format!("{OUTSIDE}:{port}"),
        ("outside", true) => format!("[2001:db8::2]:{port}"),
        (pod, false) => format!("10.86.0.{}:{port}", numbers[pod]),
        (pod, true) => format!("[fd86::{}]:{port}", numbers[pod]),
    };
    (from, address)
}

/// Puts policies in place; of the ways, all of which are open before, those that are expected to be are then.
fn check(policies: Vec<NetworkPolicy>, ways: &[&str], expected: &[&str]) {
    let Some(mut town) = Town::new().map(settled) else { return };
    let _servers: Vec<_> =
        ["web", "db", "host", "outside"].iter().flat_map(|name| [80, 81].map(|port| town.serve(name, port))).collect();
    for (from, address) in ways.iter().map(|way| end_of(way)) {
        town.who(from, &address);
    }
    town.view.policies = policies;
    town.apply();
    for way in ways {
        let (from, address) = end_of(way);
        if expected.contains(way) {
            town.who(from, &address);
        } else {
            let answer = town.ask(from, &address);
            assert_eq!(answer, Err(ErrorKind::TimedOut), "{way}: {}", crate::network::rules::ruleset(&town.view));
        }
    }
}

#[test]
fn a_selected_pod_is_reached_by_nobody_but_the_host() {
    check(
        vec![policy("none", json!({"podSelector": {"matchLabels": {"app": "web"}}}))],
        &[
            "client>web:80",
            "client>web:80/6",
            "other>web:80",
            "host>web:80",
            "host>web:80/6",
            "client>db:80",
            "web>db:80",
            "web>outside:80",
        ],
        &["host>web:80", "host>web:80/6", "client>db:80", "web>db:80", "web>outside:80"],
    );
}

#[test]
fn pods_are_allowed_by_labels_and_namespaces() {
    let web = json!({"matchLabels": {"app": "web"}});
    let clients = json!({"matchLabels": {"app": "client"}});
    let red = json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["red"]}]});
    let db = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["db"]}]});
    let ways = ["client>web:80", "client>web:80/6", "db>web:80", "other>web:80", "other>web:80/6"];
    let from = |peers: serde_json::Value| policy("p", json!({"podSelector": web, "ingress": [{"from": peers}]}));
    check(vec![from(json!([{"podSelector": clients}]))], &ways, &["client>web:80", "client>web:80/6"]);
    check(vec![from(json!([{"namespaceSelector": red}]))], &ways, &["other>web:80", "other>web:80/6"]);
    check(vec![from(json!([{"namespaceSelector": red, "podSelector": db}]))], &ways, &[]);
    check(
        vec![from(json!([{"namespaceSelector": {}, "podSelector": clients}]))],
        &ways,
        &["client>web:80", "client>web:80/6", "other>web:80", "other>web:80/6"],
    );
    // Either, and two policies together.
    check(
        vec![from(json!([{"namespaceSelector": red}, {"podSelector": db}]))],
        &ways,
        &["db>web:80", "other>web:80", "other>web:80/6"],
    );
    let second = policy("q", json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": db}]}]}));
    check(
        vec![from(json!([{"podSelector": clients}])), second],
        &ways,
        &["client>web:80", "client>web:80/6", "db>web:80"],
    );
    let by_name = json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}});
    check(
        vec![from(json!([{"namespaceSelector": by_name}]))],
        &ways,
        &["client>web:80", "client>web:80/6", "db>web:80"],
    );
}

#[test]
fn ports_are_allowed_by_number_name_and_range() {
    let ways = ["client>web:80", "client>web:81", "client>web:81/6", "client>db:81"];
    let ports = |ports: serde_json::Value| policy("p", json!({"podSelector": {}, "ingress": [{"ports": ports}]}));
    check(vec![ports(json!([{"port": 80}]))], &ways, &["client>web:80"]);
    check(vec![ports(json!([{"port": "admin"}]))], &ways, &["client>web:81", "client>web:81/6", "client>db:81"]);
    check(vec![ports(json!([{"port": 70, "endPort": 80}]))], &ways, &["client>web:80"]);
    check(vec![ports(json!([{"protocol": "TCP"}]))], &ways, &ways);
    check(vec![ports(json!([{"protocol": "UDP"}, {"port": 81, "protocol": "UDP"}, {"port": "none"}]))], &ways, &[]);
}

#[test]
fn what_a_pod_sends_is_limited_likewise() {
    let ways = [
        "client>web:80",
        "client>web:81",
        "client>web:80/6",
        "client>db:80",
        "client>host:80",
        "client>host:80/6",
        "client>outside:80",
        "client>outside:80/6",
        "web>db:80",
    ];
    let to = |rules: serde_json::Value| {
        let client = json!({"matchLabels": {"app": "client"}});
        policy("p", json!({"podSelector": client, "policyTypes": ["Egress"], "egress": rules}))
    };
    let web = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    check(vec![to(json!([]))], &ways, &["web>db:80"]);
    check(
        vec![to(json!([{"to": [web], "ports": [{"port": "http"}]}]))],
        &ways,
        &["client>web:80", "client>web:80/6", "web>db:80"],
    );
    let blocks = json!([{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.86.0.4/32", "192.0.2.2/32"]}}]}]);
    check(vec![to(blocks)], &ways, &["client>web:80", "client>web:81", "client>host:80", "web>db:80"]);
    let outside = json!([{"to": [{"ipBlock": {"cidr": "2001:db8::/32"}}]}, {"to": [web], "ports": [{"port": 81}]}]);
    check(vec![to(outside)], &ways, &["client>web:81", "client>host:80/6", "client>outside:80/6", "web>db:80"]);
}

#[test]
fn both_ends_must_allow_a_connection() {
    let ways = ["client>web:80", "client>db:80", "db>web:80"];
    let out = policy(
        "out",
        json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"], "egress": [{}]}),
    );
    let none = policy("in", json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}));
    check(vec![out, none], &ways, &["client>db:80"]);
}

#[test]
fn policies_hold_behind_services_and_for_others() {
    for town in Town::each() {
        behind_services(settled(town));
    }
}

fn behind_services(mut town: Town) {
    let spec =
        json!({"clusterIP": "10.87.0.10", "selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": 30080}]});
    town.view.services.push(document("web", spec));
    let clients = json!([{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]);
    town.view.policies = vec![policy("p", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": clients}))];
    town.apply();
    let _server = town.serve("web", 80);
    assert_eq!(town.who("client", "10.87.0.10:80"), "web");
    assert_eq!(town.who("web", "10.87.0.10:80"), "web", "a pod reaches itself whatever policies say");
    assert_eq!(town.who("host", "127.0.0.1:30080"), "web");
    assert_eq!(town.ask("db", "10.87.0.10:80"), Err(ErrorKind::TimedOut));
    assert_eq!(town.ask("outside", "192.0.2.1:30080"), Err(ErrorKind::TimedOut));
    // By address, an outsider is allowed.
    let block = json!([{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]);
    town.view.policies = vec![policy("p", json!({"podSelector": {}, "ingress": block}))];
    town.apply();
    assert_eq!(town.who("outside", "192.0.2.1:30080"), "web");
}

#[test]
fn connections_that_were_there_go_on() {
    let Some(mut town) = Town::new().map(settled) else { return };
    let listener = town.at("web").run(|| TcpListener::bind("[::]:80").unwrap());
    let address: SocketAddr = "10.86.0.3:80".parse().unwrap();
    let mut client = town.at("client").run(|| TcpStream::connect(address).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    town.view.policies = vec![policy("none", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))];
    town.apply();
    assert_eq!(town.ask("client", "10.86.0.3:80"), Err(ErrorKind::TimedOut));
    client.set_read_timeout(Some(super::town::SOON)).unwrap();
    server.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn the_name_server_is_a_pod_of_kube_system() {
    let dns = json!([{
        "to": [{
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }],
        "ports": [{"port": 53, "protocol": "UDP"}, {"port": "dns-tcp"}],
    }]);
    let Some(town) = Town::new().map(settled) else { return };
    // It is on the bridge without being a member.
    let mut town = town;
    let mut server = member("dns", 2);
    server.labels.clear();
    town.add(server);
    town.view.members.retain(|member| member.name != "dns");
    town.view.policies = vec![policy("p", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": dns}))];
    town.apply();
    let _servers = [53, 80].map(|port| town.serve("dns", port));
    assert_eq!(town.who("client", "10.86.0.2:53"), "dns");
    assert_eq!(town.who("client", "[fd86::2]:53"), "dns");
    assert_eq!(town.ask("client", "10.86.0.2:80"), Err(ErrorKind::TimedOut));
    // Of another namespace, which no policy is about.
    assert_eq!(town.who("other", "10.86.0.2:80"), "dns");
}
