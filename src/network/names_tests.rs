use super::*;
use crate::plan::network::{BridgeNetwork, ContainerPort, Protocol};
use serde_json::json;
use std::collections::BTreeMap;

/// A pod of namespace `ns`, ready, with the label `app` of this value.
fn pod(name: &str, app: &str, addresses: &[&str]) -> Member {
    Member {
        uid: name.into(),
        namespace: "ns".into(),
        name: name.into(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        hostname: name.into(),
        subdomain: None,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ports: vec![ContainerPort {
            name: Some("web".into()),
            container_port: 8080,
            protocol: Protocol::Tcp,
            host_port: None,
            host_ip: None,
        }],
        link: Some(format!("v{name}")),
        ready: true,
        terminating: false,
    }
}

fn service(name: &str, spec: serde_json::Value) -> Service {
    serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "ns" }, "spec": spec })).unwrap()
}

fn view(members: Vec<Member>, services: Vec<Service>) -> View {
    let namespaces = ["ns", "other"].map(|name| (name.to_owned(), BTreeMap::new()));
    View {
        network: BridgeNetwork {
            bridge: "podshim0".into(),
            pods: vec!["10.86.0.0/16".parse().unwrap(), "fd86::/64".parse().unwrap()],
            services: vec!["10.87.16.0/20".parse().unwrap(), "fd87::/108".parse().unwrap()],
        },
        members,
        services,
        policies: Vec::new(),
        namespaces: BTreeMap::from(namespaces),
    }
}

fn cluster() -> View {
    let of_set = |name: &str, addresses: &[&str]| Member {
        hostname: name.to_uppercase(),
        subdomain: Some("db".into()),
        ..pod(name, "db", addresses)
    };
    let members = vec![
        pod("web", "web", &["10.86.0.3", "fd86::3"]),
        pod("web-2", "web", &["10.86.0.4"]),
        Member { hostname: "named".into(), ..pod("other-name", "none", &["10.86.0.5"]) },
        Member { ready: false, ..pod("starting", "web", &["10.86.0.6"]) },
        Member { terminating: true, ..pod("ending", "web", &["10.86.0.7"]) },
        of_set("db-0", &["10.86.0.8", "fd86::8"]),
        of_set("db-1", &["10.86.0.9"]),
        Member { ready: false, ..of_set("db-2", &["10.86.0.10"]) },
        // Behind `db`, with a subdomain that is not its name.
        Member { ports: Vec::new(), subdomain: Some("else".into()), ..pod("stray", "db", &["10.86.0.11"]) },
        // Has the name of a Service that nobody is behind.
        pod("empty", "none", &["10.86.0.12"]),
        // Its name is another pod's host name.
        Member { hostname: String::new(), ..pod("named", "none", &["10.86.0.13"]) },
        Member { hostname: "a.b".into(), link: None, ..pod("c.d", "none", &["192.0.2.9"]) },
    ];
    let web = json!({ "clusterIP": "10.87.16.1", "clusterIPs": ["10.87.16.1", "fd87::1"], "selector": { "app": "web" },
        "ports": [{ "name": "http", "port": 80, "targetPort": "web" }, { "port": 53, "protocol": "UDP" }] });
    let db = json!({ "clusterIP": "None", "selector": { "app": "db" },
        "ports": [{ "name": "sql", "port": 5432 }, { "name": "web", "port": 80, "targetPort": "web" }] });
    let all = json!({ "clusterIP": "None", "selector": { "app": "db" }, "publishNotReadyAddresses": true,
        "ipFamilies": ["IPv4"] });
    let none = json!({ "clusterIP": "None", "selector": { "app": "nobody" }, "ports": [{ "name": "x", "port": 1 }] });
    let alias = |to: &str| json!({ "type": "ExternalName", "externalName": to });
    let services = vec![
        service("all", all),
        service("db", db),
        service("empty", none),
        service("front", web),
        service("out", alias("WWW.example.com.")),
        service("in", alias("front.ns.svc.cluster.local")),
        service("nowhere", alias("nobody.ns.svc.cluster.local")),
        service("round", alias("about.ns.svc.cluster.local")),
        service("about", alias("round.ns.svc.cluster.local")),
        service("fresh", json!({ "ports": [{ "port": 80 }] })),
    ];
    view(members, services)
}

/// An answer in one line: `outcome: records; +additional; zone; > elsewhere`, the cluster's domain cut off.
fn shown(answer: Option<Answer<'_>>) -> String {
    let Some(answer) = answer else { return "not ours".into() };
    let short = |name: &str| match name.strip_suffix(".cluster.local") {
        Some(rest) => format!("{rest}."),
        None => name.to_owned(),
    };
    let record = |record: &Record<'_>| {
        let data = match record.data {
            Data::Address(address) => address.to_string(),
            Data::Server { port, target } => format!("{}:{port}", short(target)),
            Data::Pointer(name) | Data::Alias(name) | Data::NameServer(name) => short(name),
            Data::Text(text) => format!("{text:?}"),
            Data::Start => "SOA".into(),
        };
        record.owner.map_or(data.clone(), |owner| format!("{}={data}", short(owner)))
    };
    let mut words: Vec<String> = answer.records.iter().map(record).collect();
    words.extend(answer.additional.iter().map(|r| format!("+{}", record(r))));
    words.extend(answer.zone.as_deref().map(|zone| format!("({zone})")));
    words.extend(answer.elsewhere.map(|name| format!(">{name}")));
    match answer.outcome {
        Outcome::Found => words.join(" "),
        other => format!("{other:?} {}", words.join(" ")).trim_end().to_owned(),
    }
}

fn ask(names: &Names, name: &str, kind: u16) -> String {
    let name = match name.strip_suffix('.') {
        Some(rest) => format!("{rest}.cluster.local"),
        None => name.to_owned(),
    };
    shown(names.answer(Question { name: &name, kind, class: CLASS_IN, asker: None }, 0))
}

/// What a table says, a name that ends with a dot being below the cluster's domain.
fn check(rows: &[(&str, u16, &str)]) {
    let names = Names::new(&cluster());
    for (name, kind, expected) in rows {
        assert_eq!(ask(&names, name, *kind), *expected, "{name} {kind}");
    }
}

const NO_DATA: &str = "(cluster.local)";
const NO_NAME: &str = "NoName (cluster.local)";

#[test]
fn addresses_of_services() {
    use kind::{A, AAAA, ANY};
    check(&[
        ("front.ns.svc.", A, "10.87.16.1"),
        ("front.ns.svc.", AAAA, "fd87::1"),
        ("front.other.svc.", A, NO_NAME),
        ("front.ns.", A, NO_NAME),
        // Headless: pods that are ready.
        ("db.ns.svc.", A, "10.86.0.8 10.86.0.9 10.86.0.11"),
        ("db.ns.svc.", AAAA, "fd86::8"),
        // All, and only IPv4.
        ("all.ns.svc.", A, "10.86.0.8 10.86.0.9 10.86.0.10 10.86.0.11"),
        ("all.ns.svc.", AAAA, NO_DATA),
        // Nobody is behind it, and the pod of that name is not meant.
        ("empty.ns.svc.", A, NO_NAME),
        // No cluster IP has been chosen yet.
        ("fresh.ns.svc.", A, NO_DATA),
        ("front.ns.svc.", kind::TXT, NO_DATA),
        (
            "front.ns.svc.",
            ANY,
            "10.87.16.1 fd87::1 front.ns.svc.:80 front.ns.svc.:53 +front.ns.svc.=10.87.16.1 +front.ns.svc.=fd87::1",
        ),
    ]);
}

#[test]
fn names_of_pods_behind_headless_services() {
    use kind::{A, AAAA};
    check(&[
        ("db-0.db.ns.svc.", A, "10.86.0.8"),
        ("db-0.db.ns.svc.", AAAA, "fd86::8"),
        ("db-2.db.ns.svc.", A, NO_NAME),
        ("10-86-0-8.db.ns.svc.", A, NO_NAME),
        // Its subdomain is not the Service's name: it is known by its address.
        ("stray.db.ns.svc.", A, NO_NAME),
        ("10-86-0-11.db.ns.svc.", A, "10.86.0.11"),
        ("10-86-0-10.all.ns.svc.", A, "10.86.0.10"),
        // No Service, no subdomain.
        ("stray.else.ns.svc.", A, NO_NAME),
        ("web.front.ns.svc.", A, NO_NAME),
    ]);
}

#[test]
fn ports() {
    use kind::{A, SRV};
    let front = "+front.ns.svc.=10.87.16.1 +front.ns.svc.=fd87::1";
    let db = "db-0.db.ns.svc.:5432 db-1.db.ns.svc.:5432 10-86-0-11.db.ns.svc.:5432 +db-0.db.ns.svc.=10.86.0.8 \
              +db-0.db.ns.svc.=fd86::8 +db-1.db.ns.svc.=10.86.0.9 +10-86-0-11.db.ns.svc.=10.86.0.11";
    let web = "db-0.db.ns.svc.:8080 db-1.db.ns.svc.:8080 +db-0.db.ns.svc.=10.86.0.8 +db-0.db.ns.svc.=fd86::8 \
               +db-1.db.ns.svc.=10.86.0.9";
    check(&[
        ("_http._tcp.front.ns.svc.", SRV, &format!("front.ns.svc.:80 {front}")),
        ("_http._udp.front.ns.svc.", SRV, NO_NAME),
        ("_http._tcp.front.ns.svc.", A, NO_DATA),
        ("_tcp.front.ns.svc.", SRV, NO_DATA),
        ("front.ns.svc.", SRV, &format!("front.ns.svc.:80 front.ns.svc.:53 {front}")),
        ("_sql._tcp.db.ns.svc.", SRV, db),
        // The pods' own port; one has none of that name.
        ("_web._tcp.db.ns.svc.", SRV, web),
        ("all.ns.svc.", SRV, NO_DATA),
    ]);
}

#[test]
fn aliases() {
    use kind::{A, ANY, CNAME, SRV};
    check(&[
        ("out.ns.svc.", A, "www.example.com >www.example.com"),
        ("out.ns.svc.", SRV, "www.example.com >www.example.com"),
        ("out.ns.svc.", CNAME, "www.example.com"),
        ("out.ns.svc.", ANY, "www.example.com"),
        ("in.ns.svc.", A, "front.ns.svc. front.ns.svc.=10.87.16.1"),
        ("in.ns.svc.", kind::TXT, "front.ns.svc. (cluster.local)"),
        ("nowhere.ns.svc.", A, "NoName nobody.ns.svc. (cluster.local)"),
        ("round.ns.svc.", A, "Circle"),
    ]);
    let wrong =
        service("wrong", json!({ "type": "ExternalName", "externalName": format!("{}.example", "a".repeat(64)) }));
    let names = Names::new(&view(Vec::new(), vec![wrong]));
    assert_eq!(ask(&names, "wrong.ns.svc.", A), NO_NAME, "what cannot be written is no name");
}

#[test]
fn names_of_pods() {
    use kind::{A, AAAA};
    check(&[
        ("web.ns.svc.", A, "10.86.0.3"),
        ("web.ns.svc.", AAAA, "fd86::3"),
        ("web-2.ns.svc.", AAAA, NO_DATA),
        ("web.other.svc.", A, NO_NAME),
        ("other-name.ns.svc.", A, "10.86.0.5"),
        // A host name comes before a name.
        ("named.ns.svc.", A, "10.86.0.5"),
        ("starting.ns.svc.", A, NO_NAME),
        ("ending.ns.svc.", A, NO_NAME),
        ("db-2.ns.svc.", A, NO_NAME),
        ("a.b.ns.svc.", A, NO_NAME),
        ("c.d.ns.svc.", A, NO_NAME),
        // By address they are there from their beginning to their end.
        ("10-86-0-6.ns.pod.", A, "10.86.0.6"),
        ("10-86-0-7.ns.pod.", A, "10.86.0.7"),
        ("fd86--3.ns.pod.", AAAA, "fd86::3"),
        ("10-86-0-3.other.pod.", A, NO_NAME),
        ("10-86-9-9.ns.pod.", A, NO_NAME),
    ]);
}

#[test]
fn names_of_addresses() {
    use kind::{A, PTR};
    let nibbles = |text: &str, zeros: usize, net: &str| format!("{text}.{}{net}.ip6.arpa", "0.".repeat(zeros));
    let (pod, cluster_ip) = (nibbles("8", 27, "6.8.d.f"), nibbles("1", 27, "7.8.d.f"));
    let nobody = nibbles("9", 27, "6.8.d.f");
    check(&[
        ("1.16.87.10.in-addr.arpa", PTR, "front.ns.svc."),
        ("1.16.87.10.in-addr.arpa", A, "(16.87.10.in-addr.arpa)"),
        (&cluster_ip, PTR, "front.ns.svc."),
        // First the Services in front of it. (`all` has only IPv4.)
        ("8.0.86.10.in-addr.arpa", PTR, "10-86-0-8.all.ns.svc. db-0.db.ns.svc."),
        (&pod, PTR, "db-0.db.ns.svc."),
        ("3.0.86.10.in-addr.arpa", PTR, "web.ns.svc."),
        ("5.0.86.10.in-addr.arpa", PTR, "named.ns.svc."),
        ("6.0.86.10.in-addr.arpa", PTR, "10-86-0-6.ns.pod."),
        ("12.0.86.10.in-addr.arpa", PTR, "10-86-0-12.ns.pod."),
        ("2.0.86.10.in-addr.arpa", PTR, "ns.dns."),
        ("99.0.86.10.in-addr.arpa", PTR, "NoName (86.10.in-addr.arpa)"),
        (&nobody, PTR, "NoName (0.0.0.0.0.0.0.0.0.0.0.0.6.8.d.f.ip6.arpa)"),
        // Parts of addresses.
        ("0.86.10.in-addr.arpa", PTR, "(86.10.in-addr.arpa)"),
        ("86.10.in-addr.arpa", kind::SOA, "(86.10.in-addr.arpa)"),
        ("17.87.10.in-addr.arpa", PTR, "(17.87.10.in-addr.arpa)"),
        // Others' addresses.
        ("32.87.10.in-addr.arpa", PTR, "not ours"),
        ("87.10.in-addr.arpa", PTR, "not ours"),
        ("9.2.0.192.in-addr.arpa", PTR, "not ours"),
        ("in-addr.arpa", PTR, "not ours"),
        ("x.0.86.10.in-addr.arpa", PTR, "not ours"),
        ("03.0.86.10.in-addr.arpa", PTR, "not ours"),
        ("1.3.0.86.10.in-addr.arpa", PTR, "not ours"),
        ("my-in-addr.arpa", PTR, "not ours"),
    ]);
}

#[test]
fn the_domain_itself_and_what_is_not_ours() {
    use kind::{A, NS, SOA, TXT};
    check(&[
        ("dns-version.", TXT, "\"1.1.0\""),
        ("cluster.local", SOA, "SOA"),
        ("cluster.local", NS, "ns.dns. +ns.dns.=10.86.0.2 +ns.dns.=fd86::2"),
        ("cluster.local", A, NO_DATA),
        ("ns.dns.", A, "10.86.0.2"),
        ("svc.", A, NO_DATA),
        ("pod.", A, NO_DATA),
        ("other.svc.", A, NO_DATA),
        ("third.svc.", A, NO_NAME),
        ("?.ns.svc.", A, NO_NAME),
        (".", A, NO_NAME),
        ("web", A, "not ours"),
        ("", A, "not ours"),
        ("local", A, "not ours"),
        ("mycluster.local", A, "not ours"),
        ("web.ns.svc.cluster.local.example.com", A, "not ours"),
    ]);
    let names = Names::new(&cluster());
    for name in ["version.bind", "web.ns.svc.cluster.local"] {
        let answer = names.answer(Question { name, kind: TXT, class: 3, asker: None }, 0).unwrap();
        assert_eq!(answer.outcome, Outcome::Refused, "{name}");
    }
}

#[test]
fn several_addresses_take_turns() {
    let names = Names::new(&cluster());
    let first = |turn| {
        let question = Question { name: "db.ns.svc.cluster.local", kind: kind::A, class: CLASS_IN, asker: None };
        let answer = names.answer(question, turn).unwrap();
        assert_eq!(answer.records.len(), 3);
        answer.records[0].data.clone()
    };
    let firsts: HashSet<String> = (0..3).map(|turn| format!("{:?}", first(turn))).collect();
    assert_eq!(firsts.len(), 3, "{firsts:?}");
    assert_eq!(first(0), first(3));
    assert_eq!(first(usize::MAX), first(usize::MAX % 3));
}

#[test]
fn names_further_on_in_the_search_list_are_there_once_the_first_was_found() {
    let names = Names::new(&cluster());
    let ask = |asker: Option<&str>, name: &str| {
        let asker = asker.map(|text| text.parse().unwrap());
        let question = Question { name: &format!("{name}.cluster.local"), kind: kind::A, class: CLASS_IN, asker };
        names.answer(question, 0).unwrap().outcome
    };
    let pod = Some("10.86.0.4");
    for name in ["front.svc", "front", "web.svc", "web"] {
        assert_eq!(ask(pod, name), Outcome::Found, "{name}");
        assert_eq!(ask(Some("10.86.7.7"), name), Outcome::NoName, "{name}: nobody's address");
        assert_eq!(ask(None, name), Outcome::NoName, "{name}");
    }
    // The host, which a pod with the host's network asks as.
    assert_eq!(
        (ask(Some("10.86.0.1"), "front.svc"), ask(Some("10.86.0.1"), "nobody.svc")),
        (Outcome::Found, Outcome::NoName)
    );
    for name in ["nobody.svc", "nobody", "front.other.svc", "front.ns", "x.front.svc", "starting"] {
        assert_eq!(ask(pod, name), Outcome::NoName, "{name}");
    }
}
