//! Networks of a size that nobody has: the kernel takes them at once.

use super::{document, empty_view, labelled, member, port};
use crate::network::ground::Namespace;
use crate::network::nft;
use crate::network::rules::ruleset;
use crate::network::view::{Member, View};
use serde_json::json;
use std::time::{Duration, Instant};

fn view(pods: u16, affinity: &str) -> View {
    let mut view = empty_view();
    let pod =
        |n: u16| labelled(Member { ports: vec![port("http", 80)], ..member(&format!("p{n}"), n) }, &[("app", "web")]);
    view.members = (3..3 + pods).map(pod).collect();
    let spec = json!({
        "clusterIP": "10.87.0.10",
        "clusterIPs": ["10.87.0.10", "fd87::10"],
        "selector": {"app": "web"},
        "sessionAffinity": affinity,
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    view.services.push(document("web", spec));
    let everybody = json!([{"from": [{"podSelector": {}}], "ports": [{"port": "http"}]}]);
    let out = json!([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}, {"to": [{"namespaceSelector": {}}]}]);
    for n in 0..10 {
        let types = json!(["Ingress", "Egress"]);
        let spec = json!({"podSelector": {}, "policyTypes": types, "ingress": everybody, "egress": out});
        view.policies.push(document(&format!("p{n}"), spec));
    }
    view
}

#[test]
fn two_thousand_pods_behind_a_service() {
    for affinity in ["None", "ClientIP"] {
        let Some(host) = Namespace::new() else { return };
        let mut view = view(2000, affinity);
        let mut begin = Instant::now();
        let mut lap = |what: &str| {
            let took = begin.elapsed();
            eprintln!("affinity {affinity}: {what}: {took:?}");
            assert!(took < Duration::from_secs(30), "{what}: {took:?}");
            begin = Instant::now();
        };
        let first = ruleset(&view);
        lap("making the rules");
        host.run(|| nft::apply(&first)).unwrap();
        lap("putting them in place");
        // Half of them go: what the others' clients are known by stays.
        view.members.truncate(1000);
        let second = ruleset(&view);
        lap("making them for half the pods");
        host.run(|| nft::apply(&second)).unwrap();
        lap("putting those in place");
    }
}
