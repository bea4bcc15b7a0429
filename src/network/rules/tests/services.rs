//! Services and ports of the host, by whoever may use them.

use super::town::{HOST, OUTSIDE, SOON, Town};
use super::{document, host_port, labelled, member, port};
use crate::network::nft;
use crate::network::rules::{ruleset, tables};
use crate::network::view::Member;
use crate::plan::network::{ContainerPort, Protocol};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

/// A pod of the app `web` whose port `http` is this one.
fn web(name: &str, number: u16, http: u16) -> Member {
    let pod = labelled(member(name, number), &[("app", "web")]);
    Member { ports: vec![port("http", http)], ..pod }
}

/// A Service of the app `web` with port 80, of both families.
fn service(extra: serde_json::Value) -> Service {
    let mut spec = json!({
        "clusterIP": "10.87.0.10",
        "clusterIPs": ["10.87.0.10", "fd87::10"],
        "selector": {"app": "web"},
        "ports": [{"name": "web", "port": 80, "targetPort": "http", "nodePort": 30080}],
    });
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    document("web", spec)
}

#[test]
fn connections_go_to_all_ready_pods_in_turn() {
    for town in Town::each() {
        let mut town = town.with(vec![
            web("a", 3, 8001),
            web("b", 4, 8002),
            web("c", 5, 8003),
            Member { ready: false, ..web("unready", 6, 8004) },
            Member { terminating: true, ..web("ending", 7, 8005) },
            member("client", 9),
        ]);
        town.view.services.push(service(json!({})));
        town.apply();
        let _servers = [("a", 8001), ("b", 8002), ("c", 8003), ("unready", 8004), ("ending", 8005)]
            .map(|(name, port)| town.serve(name, port));
        let count = |n: usize, from: &str, address: &str| {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for _ in 0..n {
                *counts.entry(town.who(from, address)).or_default() += 1;
            }
            counts.into_iter().map(|(name, count)| format!("{name}:{count}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(count(999, "client", "10.87.0.10:80"), "a:333 b:333 c:333");
        for (from, address) in [
            ("client", "[fd87::10]:80"),
            ("client", "192.0.2.1:30080"),
            ("client", "10.86.0.1:30080"),
            ("host", "10.87.0.10:80"),
            ("host", "[fd87::10]:80"),
            ("host", "127.0.0.1:30080"),
            ("host", "192.0.2.1:30080"),
            ("host", "10.86.0.1:30080"),
            ("outside", "192.0.2.1:30080"),
            ("outside", "[2001:db8::1]:30080"),
        ] {
            assert_eq!(count(9, from, address), "a:3 b:3 c:3", "{from} by {address}");
        }
        // A pod that loses readiness gets no new connections.
        town.member("b").ready = false;
        town.apply();
        let who: Vec<String> = (0..8).map(|_| town.who("client", "10.87.0.10:80")).collect();
        assert!(who.iter().all(|name| ["a", "c"].contains(&name.as_str())), "{who:?}");
        // When nobody is ready those serve that are being ended.
        for name in ["a", "c"] {
            town.member(name).ready = false;
        }
        town.apply();
        assert_eq!(town.who("client", "10.87.0.10:80"), "ending");
    }
}

#[test]
fn servers_see_the_clients_own_address() {
    for town in Town::each() {
        let mut town = town.with(vec![web("a", 3, 8001), member("client", 9)]);
        town.view.services.push(service(json!({})));
        town.apply();
        let _server = town.serve("a", 8001);
        let _outside = town.serve("outside", 80);
        for (from, address, expected) in [
            ("client", "10.87.0.10:80", "a 10.86.0.9"),
            ("client", "[fd87::10]:80", "a fd86::9"),
            ("outside", "192.0.2.1:30080", "a 192.0.2.2"),
            ("host", "127.0.0.1:30080", "a 10.86.0.1"),
            // A pod that reaches itself: only so do its answers come back by the host.
            ("a", "10.87.0.10:80", "a 10.86.0.1"),
            ("a", "[fd87::10]:80", "a fd86::1"),
            // Who knows the host only sees the host only.
            ("client", "192.0.2.2:80", "outside 192.0.2.1"),
            ("client", "[2001:db8::2]:80", "outside 2001:db8::1"),
        ] {
            assert_eq!(town.ask(from, address).as_deref(), Ok(expected), "{from} by {address}");
        }
    }
}

#[test]
fn where_nobody_is_connections_are_refused_at_once() {
    for town in Town::each() {
        let mut town = town.with(vec![Member { ready: false, ..web("a", 3, 8001) }, member("client", 9)]);
        town.view.services.push(service(json!({"externalIPs": ["198.51.100.7"]})));
        town.apply();
        for (from, address) in [
            ("client", "10.87.0.10:80"),
            ("client", "[fd87::10]:80"),
            ("client", "198.51.100.7:80"),
            ("client", "192.0.2.1:30080"),
            ("host", "10.87.0.10:80"),
            ("host", "127.0.0.1:30080"),
            ("outside", "192.0.2.1:30080"),
            // A port that the Service has not, and an address that no Service has.
            ("client", "10.87.0.10:81"),
            ("client", "10.87.0.99:80"),
        ] {
            assert_eq!(town.ask(from, address), Err(ErrorKind::ConnectionRefused), "{from} by {address}");
        }
        assert_eq!(town.ask_by_udp("client", "10.87.0.10:53"), Err(ErrorKind::ConnectionRefused));
        // Others' ports are not ours to refuse.
        let _server = town.serve("host", 30081);
        assert_eq!(town.who("client", "192.0.2.1:30081"), "host");
        assert_eq!(town.who("outside", "192.0.2.1:30081"), "host");
    }
}

#[test]
fn a_client_stays_with_its_pod_also_when_others_come_and_go() {
    let Some(town) = Town::new() else { return };
    let mut town = town.with(vec![web("a", 3, 80), web("b", 4, 80), web("c", 5, 80), member("client", 9)]);
    let affinity = |seconds: i32| {
        service(json!({
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
        }))
    };
    town.view.services.push(affinity(60));
    town.apply();
    let mut servers: BTreeMap<&str, _> = ["a", "b", "c"].map(|name| (name, town.serve(name, 80))).into();
    let first = town.who("client", "10.87.0.10:80");
    let others: Vec<String> = (0..6).map(|_| town.who("client", "10.87.0.10:80")).collect();
    assert!(others.iter().all(|name| *name == first), "{first}, then {others:?}");
    assert_eq!(town.who("client", "[fd87::10]:80"), town.who("client", "[fd87::10]:80"));
    // The host is another client, and outside yet another: each is given a pod in turn.
    let three: std::collections::BTreeSet<String> =
        [("client", "10.87.0.10:80"), ("outside", "192.0.2.1:30080"), ("host", "10.87.0.10:80")]
            .map(|(from, address)| town.who(from, address))
            .into();
    assert_eq!(three.len(), 3);
    // Another pod comes, and one that is not the client's goes.
    town.add(web("d", 6, 80));
    let gone = ["a", "b", "c"].into_iter().find(|name| *name != first).unwrap();
    town.view.members.retain(|member| member.name != gone);
    for _ in 0..3 {
        town.apply();
        assert_eq!(town.who("client", "10.87.0.10:80"), first);
    }
    // Its own goes.
    town.member(&first).ready = false;
    town.apply();
    servers.remove(first.as_str());
    servers.insert("d", town.serve("d", 80));
    let second = town.who("client", "10.87.0.10:80");
    assert_ne!(second, first);
    assert_eq!(town.who("client", "10.87.0.10:80"), second);
    // After the time that is said it is a new client: with two pods left the turn gives it each of them soon.
    town.view.services = vec![affinity(1)];
    town.apply();
    let deadline = std::time::Instant::now() + SOON;
    while town.who("client", "10.87.0.10:80") == second {
        assert!(std::time::Instant::now() < deadline, "it stays for ever");
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
}

#[test]
fn ports_of_the_host_lead_to_pods() {
    for town in Town::each() {
        let udp = ContainerPort { protocol: Protocol::Udp, ..host_port(53, 5353, None) };
        let ports = vec![
            host_port(80, 8080, None),
            host_port(80, 8081, Some(HOST)),
            host_port(80, 8082, Some("127.0.0.1")),
            host_port(80, 8083, Some("2001:db8::1")),
            udp,
        ];
        let town = town.with(vec![Member { ports, ..member("a", 3) }, member("client", 9)]);
        let _server = town.serve("a", 80);
        let dns = town.at("a").run(|| UdpSocket::bind("[::]:53").unwrap());
        dns.set_read_timeout(Some(SOON)).unwrap();
        for (from, address) in [
            ("outside", "192.0.2.1:8080"),
            ("outside", "[2001:db8::1]:8080"),
            ("outside", "192.0.2.1:8081"),
            ("outside", "[2001:db8::1]:8083"),
            ("host", "127.0.0.1:8080"),
            ("host", "192.0.2.1:8080"),
            ("host", "192.0.2.1:8081"),
            ("host", "127.0.0.1:8082"),
            ("client", "192.0.2.1:8080"),
            ("client", "10.86.0.1:8080"),
            ("client", "[fd86::1]:8080"),
            ("client", "192.0.2.1:8081"),
            ("a", "192.0.2.1:8080"),
        ] {
            assert_eq!(town.who(from, address), "a", "{from} by {address}");
        }
        for (from, address) in [
            ("client", "10.86.0.1:8081"),
            ("host", "127.0.0.1:8081"),
            ("outside", "192.0.2.1:8082"),
            ("outside", "192.0.2.1:8083"),
            ("host", "[::1]:8080"),
        ] {
            assert_eq!(town.ask(from, address), Err(ErrorKind::ConnectionRefused), "{from} by {address}");
        }
        for (from, address) in [("outside", "192.0.2.1:5353"), ("host", "127.0.0.1:5353"), ("client", "10.86.0.1:5353")]
        {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (_, peer): (usize, SocketAddr) = dns.recv_from(&mut [0; 8]).unwrap();
                    dns.send_to(b"a", peer).unwrap();
                });
                assert_eq!(town.ask_by_udp(from, address).as_deref(), Ok("a"), "{from} by {address}");
            });
        }
    }
}

#[test]
fn pods_with_the_hosts_network_are_behind_services_too() {
    for town in Town::each() {
        let on_host = labelled(Town::on_host("h"), &[("app", "web")]);
        let mut town = town.with(vec![Member { ports: vec![port("http", 8001)], ..on_host }, member("client", 9)]);
        town.view.services.push(service(json!({})));
        town.apply();
        let _server = town.serve("host", 8001);
        for (from, address) in [
            ("client", "10.87.0.10:80"),
            ("client", "[fd87::10]:80"),
            ("client", "192.0.2.1:30080"),
            ("host", "10.87.0.10:80"),
            ("host", "[fd87::10]:80"),
            ("host", "127.0.0.1:30080"),
            ("outside", "192.0.2.1:30080"),
        ] {
            assert_eq!(town.who(from, address), "host", "{from} by {address}");
        }
    }
}

#[test]
fn external_addresses_and_load_balancers() {
    for town in Town::each() {
        let mut town = town.with(vec![web("a", 3, 80), member("client", 9)]);
        let mut balanced = service(json!({
            "type": "LoadBalancer",
            "externalIPs": ["198.51.100.7"],
            "loadBalancerSourceRanges": ["192.0.2.2/24", "2001:db8::/32"],
        }));
        balanced.status = serde_json::from_value(json!({
            "loadBalancer": {"ingress": [{"ip": "198.51.100.8"}, {"ip": "198.51.100.9", "ipMode": "Proxy"}]}
        }))
        .unwrap();
        town.view.services.push(balanced);
        town.apply();
        let _server = town.serve("a", 80);
        town.outside.ip(&format!("route add 198.51.100.0/24 via {HOST}\nroute add 203.0.113.0/24 dev lo"));
        town.outside.ip("addr add 203.0.113.1/32 dev lo");
        town.host.ip(&format!("route add 203.0.113.0/24 via {OUTSIDE}"));
        assert_eq!(town.who("outside", "198.51.100.7:80"), "a");
        assert_eq!(town.who("client", "198.51.100.7:80"), "a");
        assert_eq!(town.who("outside", "198.51.100.8:80"), "a", "its address is among those that are served");
        assert!(town.ask("client", "198.51.100.8:80").is_err(), "and a pod's is not");
        assert!(town.ask("outside", "198.51.100.9:80").is_err(), "what a proxy passes on comes to other addresses");
        assert_eq!(town.who("outside", "192.0.2.1:30080"), "a");
    }
}

#[test]
fn two_services_that_claim_the_same_do_no_harm() {
    let Some(town) = Town::new() else { return };
    let mut town = town.with(vec![web("a", 3, 80), labelled(member("b", 4), &[("app", "other")])]);
    town.view.services.push(service(json!({})));
    let mut second = service(json!({"selector": {"app": "other"}}));
    second.metadata.name = Some("second".to_owned());
    town.view.services.push(second);
    town.view.members[1].ports = vec![port("http", 80), host_port(80, 8080, None)];
    town.view.members[0].ports.push(host_port(80, 8080, None));
    town.apply();
    let _servers = ["a", "b"].map(|name| town.serve(name, 80));
    assert_eq!(town.who("outside", "192.0.2.1:8080"), "a", "the first has it");
    assert_eq!(town.who("outside", "192.0.2.1:30080"), "a");
}

#[test]
fn nothing_is_left_when_the_tables_are_removed() {
    let Some(town) = Town::new() else { return };
    let mut town = town.with(vec![web("a", 3, 80), member("client", 9)]);
    town.view.services.push(service(json!({})));
    town.apply();
    assert_eq!(tables("podshim0").map(|(_, name)| name), ["podshim_podshim0", "podshim_podshim0"]);
    assert_eq!(ruleset(&town.view).tables.len(), 2);
    for _ in 0..2 {
        town.host.run(|| nft::remove(&tables("podshim0"))).unwrap();
    }
    let _server = town.serve("a", 80);
    assert_eq!(town.ask("client", "10.86.0.3:80").as_deref(), Ok("a 10.86.0.9"));
    assert!(town.ask("outside", "192.0.2.1:30080").is_err());
}
