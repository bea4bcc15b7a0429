//! The rules of one network as text, compared with a file; `PODSHIM_BLESS=1` writes it anew.

use super::{document, empty_view, host_port, labelled, member, port};
use crate::network::rules::{ruleset, unique};
use crate::network::view::{Member, View};
use serde_json::json;
use std::path::Path;

/// A little of everything.
fn view() -> View {
    let mut view = empty_view();
    let web = |name: &str, number: u16| {
        let pod = labelled(member(name, number), &[("app", "web")]);
        Member { ports: vec![port("http", 8000 + number), host_port(443, 8443, None)], ..pod }
    };
    let db = Member { ports: vec![host_port(5432, 5432, Some("127.0.0.1"))], ..member("db", 5) };
    view.members = vec![web("a", 3), web("b", 4), db];
    let ports = json!([{"name": "web", "port": 80, "targetPort": "http", "nodePort": 30080}]);
    let web = json!({"clusterIP": "10.87.0.10", "clusterIPs": ["10.87.0.10", "fd87::10"], "selector": {"app": "web"}, "ports": ports});
    let db = json!({
        "clusterIP": "10.87.0.11",
        "selector": {"name": "db"},
        "ports": [{"port": 5432}],
        "sessionAffinity": "ClientIP",
    });
    let nobody = json!({
        "clusterIP": "10.87.0.12",
        "selector": {"name": "nobody"},
        "externalIPs": ["198.51.100.7"],
        "ports": [{"port": 80, "nodePort": 30081}],
    });
    let elsewhere = json!({"type": "ExternalName", "externalName": "example.com"});
    view.services = vec![
        document("web", web),
        document("db", db),
        document("nobody", nobody),
        document("elsewhere", elsewhere),
        document("headless", json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]})),
    ];
    let only_web = json!({
        "podSelector": {"matchLabels": {"name": "db"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 5432}]}],
        "egress": [{
            "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
            "ports": [{"port": "dns", "protocol": "UDP"}],
        }],
    });
    let block = json!({"cidr": "10.0.0.0/8", "except": ["10.86.0.0/16"]});
    let some =
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}, {"ports": [{"port": 1, "endPort": 9}]}]});
    view.policies = vec![document("only-web", only_web), document("some", some)];
    view
}

#[test]
fn the_rules_of_a_network() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/network/rules/tests/ruleset.nft");
    let text = ruleset(&view()).to_string();
    if std::env::var_os("PODSHIM_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(
        text == expected,
        "the rules are not those of {}; PODSHIM_BLESS=1 writes them there:\n{text}",
        path.display()
    );
}

#[test]
fn a_network_of_one_family_drops_the_other() {
    let mut view = view();
    view.network.pods.truncate(1);
    view.network.services.truncate(1);
    for member in &mut view.members {
        member.addresses.truncate(1);
    }
    let text = ruleset(&view).to_string();
    assert!(!text.contains("pods6") && !text.contains("fd86") && !text.contains("fd87"), "{text}");
    assert!(text.contains("ip6 saddr != fe80::/10 meta nfproto ipv6 drop"), "{text}");
}

#[test]
fn the_order_of_documents_makes_no_difference_to_names() {
    let text = |view: &View| {
        let text = ruleset(view).to_string();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut other = view();
    other.services.reverse();
    other.policies.reverse();
    let names = |lines: Vec<String>| {
        lines.into_iter().filter(|line| line.contains("set ") || line.contains("map ")).collect::<Vec<_>>()
    };
    assert_eq!(names(text(&view())), names(text(&other)));
}

#[test]
fn names_are_short_and_different() {
    let names = [
        unique("svc", "default/web:http", &["TCP", "4"]),
        unique("svc", "default/web:http", &["TCP", "6"]),
        unique("svc", "default/web", &[":http", "TCP", "4"]),
        unique("svc", &"x".repeat(300), &[]),
        unique("svc", "", &[]),
        unique("isolated", "default/Wéb", &["a", "b"]),
        unique("isolated", "default/Wéb", &["ab"]),
    ];
    for (n, name) in names.iter().enumerate() {
        assert!(name.len() <= 31, "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
        assert!(!names[..n].contains(name), "{name}");
    }
}
