use super::*;
use crate::error::kind_of;
use crate::manifest::{CronJobs, Source, documents};
use crate::plan::network::{ContainerPort, Protocol};
use serde_json::json;
use std::os::unix::fs::MetadataExt;

struct Place {
    _tmp: tempfile::TempDir,
    dir: NetworkDir,
    network: BridgeNetwork,
}

fn network(services: &[&str]) -> BridgeNetwork {
    BridgeNetwork {
        bridge: "podshim0".into(),
        pods: vec!["10.86.0.0/16".parse().unwrap()],
        services: services.iter().map(|subnet| subnet.parse().unwrap()).collect(),
    }
}

fn state(services: &[&str]) -> Place {
    let tmp = tempfile::tempdir().unwrap();
    let dir = NetworkDir(tmp.path().join("network"));
    Place { _tmp: tmp, dir, network: network(services) }
}

fn read(documents_: &[Value]) -> Vec<NetworkDocument> {
    let text: Vec<String> = documents_.iter().map(Value::to_string).collect();
    let source = Source { name: "net.yaml".into(), text: text.join("\n---\n") };
    documents(&[source], CronJobs::Refused).unwrap_or_else(|e| panic!("{e}")).network
}

fn service(name: &str, spec: &Value) -> Value {
    let mut whole = json!({ "selector": { "app": name }, "ports": [{ "port": 80 }] });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": whole })
}

impl Place {
    fn put(&self, list: &[Value], semantics: Semantics) -> Result<Vec<String>> {
        let changed = put(&self.dir, &self.network, &read(list), semantics)?;
        Ok(changed.iter().map(Changed::to_string).collect())
    }

    fn apply(&self, list: &[Value]) -> Vec<String> {
        self.put(list, Semantics::Apply).unwrap_or_else(|e| panic!("{e:#}"))
    }

    fn refused(&self, list: &[Value], semantics: Semantics) -> (Option<Kind>, String) {
        let before = self.files();
        let error = self.put(list, semantics).unwrap_err();
        assert_eq!(self.files(), before, "nothing was changed");
        (kind_of(&error), format!("{error:#}"))
    }

    fn spec(&self, name: &str) -> Value {
        let path = self.dir.objects("services").join(format!("default_{name}.json"));
        let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        value["spec"].clone()
    }

    /// `clusterIPs`, `ipFamilies`, `ipFamilyPolicy`
    fn addresses(&self, name: &str) -> Value {
        let spec = self.spec(name);
        assert_eq!(spec["clusterIP"], spec["clusterIPs"][0]);
        json!([spec["clusterIPs"], spec["ipFamilies"], spec["ipFamilyPolicy"]])
    }

    fn node_ports(&self, name: &str) -> Vec<Option<i64>> {
        self.spec(name)["ports"].as_array().unwrap().iter().map(|port| port["nodePort"].as_i64()).collect()
    }

    /// All files with their texts.
    fn files(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for plural in ["services", "networkpolicies", "namespaces"] {
            for entry in std::fs::read_dir(self.dir.objects(plural)).into_iter().flatten().flatten() {
                let name = format!("{plural}/{}", entry.file_name().display());
                all.push((name, std::fs::read_to_string(entry.path()).unwrap()));
            }
        }
        all.sort();
        all
    }

    fn member(&self, host_port: u16, protocol: Protocol) {
        let port =
            ContainerPort { name: None, container_port: 80, protocol, host_port: Some(host_port), host_ip: None };
        let member = Member {
            uid: format!("u{host_port}"),
            namespace: "default".into(),
            name: "web".into(),
            labels: Default::default(),
            hostname: "web".into(),
            subdomain: None,
            addresses: vec![],
            ports: vec![port],
            link: None,
            ready: true,
            terminating: false,
        };
        std::fs::create_dir_all(self.dir.members()).unwrap();
        std::fs::write(self.dir.member(&member.uid), serde_json::to_vec(&member).unwrap()).unwrap();
    }
}

fn names(list: &[(&str, &str)]) -> Vec<ObjectName> {
    let kind = |word: &str| ObjectKind::ALL.into_iter().find(|kind| kind.word() == word).unwrap();
    let name = |(word, name): &(&str, &str)| {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        ObjectName { kind: kind(word), namespace: namespace.into(), name: name.into() }
    };
    list.iter().map(name).collect()
}

#[test]
fn run_creates_and_apply_changes() {
    let state = state(&["10.87.0.0/16"]);
    let policy = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "deny", "namespace": "shop" }, "spec": { "podSelector": {}, "ingress": [{ "ports": [{ "port": 80 }], "from": [] }] } });
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop", "labels": { "team": "a" } } });
    let all = [namespace.clone(), service("web", &json!({})), policy.clone()];
    let said = |done: &str| {
        ["namespace/shop", "service/web", "networkpolicy.networking.k8s.io/deny"].map(|name| format!("{name} {done}"))
    };
    assert_eq!(state.put(&all, Semantics::Create).unwrap(), said("created"));
    let files = state.files();
    let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["namespaces/shop.json", "networkpolicies/shop_deny.json", "services/default_web.json"]);
    assert_eq!(state.put(&all, Semantics::Create).unwrap(), said("unchanged"));
    assert_eq!(state.apply(&all), said("unchanged"));
    assert_eq!(state.files(), files);
    // What a View is read from.
    let text: Value = serde_json::from_str(&files[2].1).unwrap();
    assert_eq!((text["kind"].as_str(), text["metadata"]["generation"].as_i64()), (Some("Service"), Some(1)));
    assert_eq!(text["metadata"]["uid"].as_str().map(str::len), Some(36));
    assert!(text["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));

    let mut other = all.clone();
    other[0]["metadata"]["labels"] = json!({ "team": "b" });
    other[1]["spec"]["ports"][0]["targetPort"] = json!(8080);
    let (kind, message) = state.refused(&other[1..], Semantics::Create);
    assert_eq!(kind, Some(Kind::AlreadyExists));
    assert_eq!(
        message,
        "Service default/web exists already, and has another spec.ports: `podshim apply` changes it, `podshim delete service web` removes it"
    );
    let (_, message) = state.refused(&other[..1], Semantics::Create);
    assert!(message.contains("another metadata.labels") && message.contains("delete namespace shop"), "{message}");
    let done = state.apply(&other);
    assert_eq!(done[0], "namespace/shop configured");
    assert_eq!(done[1], "service/web configured");
    assert_eq!(done[2], "networkpolicy.networking.k8s.io/deny unchanged");
    let after: Value = serde_json::from_str(&state.files()[2].1).unwrap();
    assert_eq!(after["metadata"]["generation"], 2);
    assert_eq!(after["metadata"]["uid"], text["metadata"]["uid"]);
    assert_eq!(after["spec"]["clusterIP"], text["spec"]["clusterIP"]);
}

#[test]
fn the_name_server_can_read_what_is_kept() {
    let state = state(&["10.87.0.0/16"]);
    state.apply(&[service("web", &json!({}))]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    let services = state.dir.objects("services");
    let file = services.join("default_web.json");
    assert_eq!((mode(&state.dir.0), mode(&services), mode(&file)), (0o755, 0o755, 0o644));
}

#[test]
fn cluster_ips_are_the_least_free_ones_or_those_asked_for() {
    let state = state(&["10.87.0.0/29"]);
    // Who asks goes first, whatever the order.
    state.apply(&[service("a", &json!({})), service("b", &json!({ "clusterIP": "10.87.0.1" }))]);
    assert_eq!(state.addresses("a"), json!([["10.87.0.2"], ["IPv4"], "SingleStack"]));
    assert_eq!(state.addresses("b"), json!([["10.87.0.1"], ["IPv4"], "SingleStack"]));
    // It keeps what it has when the document says nothing of it.
    assert_eq!(state.apply(&[service("b", &json!({}))]), ["service/b unchanged"]);
    for (address, says) in [
        ("10.87.0.2", "Service default/c: spec.clusterIP: 10.87.0.2 is Service default/a's already"),
        ("10.96.0.1", "10.96.0.1 is no address for Services, which are in 10.87.0.0/29: without spec.clusterIP"),
        ("10.87.0.0", "10.87.0.0 is no address for Services"),
        ("10.87.0.7", "10.87.0.7 is no address for Services"),
        ("fd87::1", "spec.ipFamilies: the network has no IPv6 addresses for Services"),
    ] {
        let (kind, message) = state.refused(&[service("c", &json!({ "clusterIP": address }))], Semantics::Create);
        assert!(kind == Some(Kind::Invalid) && message.contains(says), "{message}");
    }
    let two = ["d", "e"].map(|name| service(name, &json!({ "clusterIP": "10.87.0.6" })));
    assert!(
        state
            .refused(&two, Semantics::Create)
            .1
            .contains("Service default/e: spec.clusterIP: 10.87.0.6 is Service default/d's")
    );
    // Six addresses: neither the first nor the last.
    state.apply(&["c", "d", "e", "f"].map(|name| service(name, &json!({}))));
    assert_eq!(state.addresses("f")[0], json!(["10.87.0.6"]));
    let (kind, message) = state.refused(&[service("g", &json!({}))], Semantics::Create);
    assert_eq!(
        (kind, message.as_str()),
        (Some(Kind::NotReady), "Service default/g: all addresses of 10.87.0.0/29 are taken by Services")
    );
    // What is free again is given again, also within one command.
    let gone = service("c", &json!({ "type": "ExternalName", "externalName": "example.com" }));
    state.apply(&[gone, service("g", &json!({}))]);
    assert_eq!(state.addresses("g")[0], json!(["10.87.0.3"]));
    assert_eq!(state.spec("c").get("clusterIP"), None);
}

#[test]
fn families_follow_the_policy() {
    let dual = state(&["10.87.0.0/16", "fd87::/112"]);
    let rows = [
        ("nothing", json!({}), json!([["10.87.0.1"], ["IPv4"], "SingleStack"])),
        ("the other family", json!({ "ipFamilies": ["IPv6"] }), json!([["fd87::1"], ["IPv6"], "SingleStack"])),
        (
            "prefer",
            json!({ "ipFamilyPolicy": "PreferDualStack" }),
            json!([["10.87.0.2", "fd87::2"], ["IPv4", "IPv6"], "PreferDualStack"]),
        ),
        (
            "both named",
            json!({ "ipFamilies": ["IPv6", "IPv4"] }),
            json!([["fd87::3", "10.87.0.3"], ["IPv6", "IPv4"], "RequireDualStack"]),
        ),
        (
            "one address asked for",
            json!({ "clusterIP": "fd87::99", "ipFamilyPolicy": "RequireDualStack" }),
            json!([["fd87::99", "10.87.0.4"], ["IPv6", "IPv4"], "RequireDualStack"]),
        ),
        (
            "both asked for",
            json!({ "clusterIP": "10.87.1.1", "clusterIPs": ["10.87.1.1", "fd87::98"] }),
            json!([["10.87.1.1", "fd87::98"], ["IPv4", "IPv6"], "RequireDualStack"]),
        ),
        (
            "headless",
            json!({ "clusterIP": "None", "ipFamilyPolicy": "PreferDualStack" }),
            json!([["None"], ["IPv4", "IPv6"], "PreferDualStack"]),
        ),
    ];
    for (index, (name, spec, expected)) in rows.iter().enumerate() {
        let own = format!("s{index}");
        dual.apply(&[service(&own, spec)]);
        assert_eq!(dual.addresses(&own), *expected, "{name}");
        assert_eq!(dual.apply(&[service(&own, spec)]), [format!("service/{own} unchanged")], "{name}");
    }
    let single = state(&["fd87::/112"]);
    single.apply(&[
        service("prefer", &json!({ "ipFamilyPolicy": "PreferDualStack" })),
        service("free", &json!({ "clusterIP": "None", "selector": {}, "ipFamilyPolicy": "RequireDualStack" })),
    ]);
    assert_eq!(single.addresses("prefer"), json!([["fd87::1"], ["IPv6"], "PreferDualStack"]));
    assert_eq!(single.addresses("free"), json!([["None"], ["IPv6", "IPv4"], "RequireDualStack"]));
    for (spec, says) in [
        (
            json!({ "ipFamilyPolicy": "RequireDualStack" }),
            "spec.ipFamilyPolicy is RequireDualStack, and the network has one family of addresses, IPv6",
        ),
        (json!({ "ipFamilies": ["IPv4"] }), "spec.ipFamilies: the network has no IPv4 addresses for Services"),
    ] {
        assert!(single.refused(&[service("x", &spec)], Semantics::Create).1.contains(says));
    }
}

#[test]
fn what_is_fixed_does_not_change() {
    let state = state(&["10.87.0.0/16", "fd87::/112"]);
    state.apply(&[
        service("a", &json!({ "clusterIP": "10.87.0.9" })),
        service("h", &json!({ "clusterIP": "None" })),
        service("l", &json!({ "type": "LoadBalancer", "loadBalancerClass": "x" })),
    ]);
    for (name, spec, says) in [
        (
            "a",
            json!({ "clusterIP": "10.87.0.8" }),
            "spec.clusterIP may not change once it is set, from 10.87.0.9 to 10.87.0.8",
        ),
        ("a", json!({ "clusterIP": "None" }), "from 10.87.0.9 to None"),
        ("a", json!({ "ipFamilies": ["IPv6"] }), "spec.ipFamilies may not change once it is set, from IPv4 to IPv6"),
        ("h", json!({ "clusterIP": "10.87.0.8" }), "from None to 10.87.0.8"),
        ("h", json!({ "type": "NodePort" }), "spec.type may not become NodePort"),
        (
            "l",
            json!({ "type": "LoadBalancer", "loadBalancerClass": "y" }),
            "spec.loadBalancerClass may not change once it is set, from x to y",
        ),
    ] {
        let (kind, message) = state.refused(&[service(name, &spec)], Semantics::Apply);
        assert!(kind == Some(Kind::Invalid) && message.contains(says), "{message}");
    }
    // A second family comes and goes; the first one stays.
    state.apply(&[service("a", &json!({ "ipFamilyPolicy": "PreferDualStack" }))]);
    assert_eq!(state.addresses("a"), json!([["10.87.0.9", "fd87::1"], ["IPv4", "IPv6"], "PreferDualStack"]));
    assert_eq!(state.apply(&[service("a", &json!({}))]), ["service/a unchanged"]);
    state.apply(&[service("a", &json!({ "ipFamilyPolicy": "SingleStack" }))]);
    assert_eq!(state.addresses("a"), json!([["10.87.0.9"], ["IPv4"], "SingleStack"]));
    state.apply(&[service("a", &json!({ "ipFamilies": ["IPv4", "IPv6"] }))]);
    assert_eq!(state.addresses("a"), json!([["10.87.0.9", "fd87::1"], ["IPv4", "IPv6"], "RequireDualStack"]));
    // Only another type lets go of the address.
    state.apply(&[service("a", &json!({ "type": "ExternalName", "externalName": "example.com" }))]);
    state.apply(&[service("a", &json!({ "clusterIP": "10.87.0.8" }))]);
    assert_eq!(state.addresses("a"), json!([["10.87.0.8"], ["IPv4"], "SingleStack"]));
}

#[test]
fn an_address_of_an_earlier_network_is_kept() {
    let mut state = state(&["10.87.0.0/16"]);
    state.apply(&[service("a", &json!({ "clusterIP": "10.87.0.9" }))]);
    state.network = network(&["10.99.0.0/16"]);
    assert_eq!(state.apply(&[service("a", &json!({}))]), ["service/a unchanged"]);
    assert_eq!(state.apply(&[service("a", &json!({ "clusterIP": "10.87.0.9" }))]), ["service/a unchanged"]);
    state.apply(&[service("b", &json!({}))]);
    assert_eq!(state.addresses("b")[0], json!(["10.99.0.1"]));
}

#[test]
fn node_ports_are_the_least_free_ones_or_those_asked_for() {
    let state = state(&["10.87.0.0/16"]);
    state.member(30001, Protocol::Tcp);
    state.member(30002, Protocol::Udp);
    let ports = |list: Value| json!({ "type": "NodePort", "ports": list });
    let named = |name: &str, port: i32, protocol: &str| json!({ "name": name, "port": port, "protocol": protocol });
    state.apply(&[
        service(
            "a",
            &ports(json!([
                named("x", 80, "TCP"),
                named("y", 81, "TCP"),
                named("dns", 53, "UDP"),
                named("dns-tcp", 53, "TCP")
            ])),
        ),
        service("b", &ports(json!([{ "port": 80, "nodePort": 30000 }]))),
    ]);
    assert_eq!(state.node_ports("b"), [Some(30000)]);
    // 30001 and 30002 are a pod's; both protocols of a port have one number.
    assert_eq!(state.node_ports("a"), [Some(30003), Some(30004), Some(30005), Some(30005)]);
    for (port, says) in [
        (30003, "Service default/c: spec.ports: the node port 30003 is Service default/a's already"),
        (30001, "Service default/c: spec.ports: the node port 30001 is the hostPort 30001/TCP of pod default/web"),
    ] {
        let wanted = service("c", &ports(json!([{ "port": 80, "nodePort": port }])));
        let (kind, message) = state.refused(&[wanted], Semantics::Create);
        assert_eq!((kind, message.as_str()), (Some(Kind::Invalid), says));
    }
    // The same ports keep theirs, in another order too; a port of its own gets another one.
    state.apply(&[service("a", &ports(json!([named("y", 81, "TCP"), named("z", 82, "TCP"), named("x", 80, "TCP")])))]);
    assert_eq!(state.node_ports("a"), [Some(30004), Some(30005), Some(30003)]);
    // A pod that came later does not take it away.
    state.member(30004, Protocol::Tcp);
    state.apply(&[service("a", &ports(json!([{ "port": 81, "nodePort": 30004 }])))]);
    assert_eq!(state.node_ports("a"), [Some(30004)]);
    state.apply(&[service("a", &json!({}))]);
    assert_eq!(state.node_ports("a"), [None]);
    let balanced = |allocate: bool, port: Value| json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": allocate, "ports": [port] });
    state.apply(&[
        service("l", &balanced(true, json!({ "port": 80 }))),
        service("m", &balanced(false, json!({ "port": 80 }))),
        service("n", &balanced(false, json!({ "port": 80, "nodePort": 30500 }))),
    ]);
    assert_eq!((state.node_ports("l"), state.node_ports("m")), (vec![Some(30003)], vec![None]));
    assert_eq!(state.node_ports("n"), [Some(30500)]);
    let (_, message) =
        state.refused(&[service("o", &ports(json!([{ "port": 80, "nodePort": 30500 }])))], Semantics::Create);
    assert!(message.contains("30500 is Service default/n's already"), "{message}");
}

#[test]
fn all_or_nothing() {
    let state = state(&["10.87.0.0/16"]);
    state.apply(&[service("a", &json!({}))]);
    let list = [service("b", &json!({})), service("a", &json!({ "sessionAffinity": "ClientIP" }))];
    state.refused(&list, Semantics::Create);
    // A directory in the place of the second file: the first one is as it was.
    let policies = state.dir.objects("networkpolicies");
    std::fs::create_dir_all(policies.join("default_p.json.tmp")).unwrap();
    let policy = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "p" }, "spec": {} });
    let list = [service("b", &json!({})), list[1].clone(), policy];
    let files = state.dir.objects("services");
    let before = std::fs::read(files.join("default_a.json")).unwrap();
    let error = state.put(&list, Semantics::Apply).unwrap_err();
    assert!(format!("{error:#}").contains("keeping NetworkPolicy default/p: open"), "{error:#}");
    assert_eq!(std::fs::read(files.join("default_a.json")).unwrap(), before);
    assert!(!files.join("default_b.json").exists());
}

#[test]
fn a_command_takes_back_what_it_did_and_nothing_else() {
    let state = state(&["10.87.0.0/16"]);
    state.apply(&[service("a", &json!({})), service("same", &json!({}))]);
    let before = state.files();
    let sticky = json!({ "sessionAffinity": "ClientIP" });
    let list = read(&[service("a", &sticky), service("b", &json!({})), service("same", &json!({}))]);
    let changes = put(&state.dir, &state.network, &list, Semantics::Apply).unwrap();
    take_back(&state.dir, &changes).unwrap();
    assert_eq!(state.files(), before);
    // What came after it stays.
    let changes = put(&state.dir, &state.network, &list, Semantics::Apply).unwrap();
    state.apply(&[service("b", &sticky)]);
    let b = state.spec("b");
    take_back(&state.dir, &changes).unwrap();
    assert_eq!((state.files().len(), state.spec("b")), (3, b));
    assert_eq!(state.spec("a")["sessionAffinity"], "None");
}

#[test]
fn objects_are_deleted_by_name() {
    let state = state(&["10.87.0.0/16"]);
    let none = names(&[("service", "default/web")]);
    assert_eq!(delete(&state.dir, &none, Missing::Ignored).unwrap(), []);
    let error = delete(&state.dir, &none, Missing::Refused).unwrap_err();
    assert_eq!(kind_of(&error), Some(Kind::NotFound));
    assert_eq!(format!("{error:#}"), "service \"default/web\" not found: there are no services");
    assert!(!state.dir.0.exists(), "nothing is made for that");
    state.apply(&[service("web", &json!({})), service("db", &json!({}))]);
    let all = names(&[("service", "default/web"), ("service", "default/webb")]);
    let error = delete(&state.dir, &all, Missing::Refused).unwrap_err();
    assert!(format!("{error:#}").ends_with("did you mean default/web?"), "{error:#}");
    assert_eq!(state.files().len(), 2, "all or nothing");
    assert_eq!(delete(&state.dir, &all, Missing::Ignored).unwrap(), all[..1]);
    assert_eq!(state.files().len(), 1);
}

#[test]
fn names_are_found_as_those_of_pods_are() {
    let state = state(&["10.87.0.0/16"]);
    let in_namespace = |namespace: &str, name: &str| {
        let mut document = service(name, &json!({}));
        document["metadata"]["namespace"] = json!(namespace);
        document
    };
    state.apply(&[
        in_namespace("default", "web"),
        in_namespace("shop", "web"),
        in_namespace("shop", "db"),
        in_namespace("a", "x"),
        in_namespace("b", "x"),
    ]);
    let kept = Kept::read(&state.dir).unwrap();
    let found = |wanted: &str| match kept.find(ObjectKind::Service, wanted) {
        Ok(name) => name.full(),
        Err(error) => format!("{error:#}"),
    };
    for (wanted, expected) in [
        ("web", "default/web"),
        ("shop/web", "shop/web"),
        ("db", "shop/db"),
        ("x", "\"x\" could be any of a/x, b/x: name the one"),
        ("default/db", "service \"default/db\" not found: did you mean shop/db?"),
        ("none", "service \"none\" not found: `podshim get services` lists them"),
    ] {
        assert_eq!(found(wanted), expected, "{wanted}");
    }
    assert_eq!(kept.of(ObjectKind::Service).count(), 5);
    assert_eq!(
        format!("{:#}", kept.find(ObjectKind::Namespace, "shop").unwrap_err()),
        "namespace \"shop\" not found: there are no namespaces"
    );
}
