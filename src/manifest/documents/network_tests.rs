use crate::manifest::{CronJobs, Documents, NetworkObject, Source, documents};
use serde_json::{Value, json};

fn read(text: &str) -> Documents {
    documents(&[Source { name: "net.yaml".into(), text: text.into() }], CronJobs::Refused)
        .unwrap_or_else(|e| panic!("{e}"))
}

/// The only document's value, and the notes on it.
fn one(text: &str) -> (Value, Vec<String>) {
    let read = read(text);
    let [document] = &read.network[..] else { panic!("{:?}", read.network) };
    let value = match &document.object {
        NetworkObject::Service(service) => serde_json::to_value(service),
        NetworkObject::Policy(policy) => serde_json::to_value(policy),
        NetworkObject::Namespace(namespace) => serde_json::to_value(namespace),
    };
    (value.unwrap(), read.notes.into_iter().map(|note| note.text).collect())
}

fn service(spec: &Value) -> (Value, Vec<String>) {
    let document = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": spec });
    let (value, notes) = one(&document.to_string());
    let said = |note: String| note.strip_prefix("Service default/web: ").unwrap_or_else(|| panic!("{note}")).to_owned();
    (value["spec"].clone(), notes.into_iter().map(said).collect())
}

#[test]
fn services_have_the_defaults_of_an_api_server() {
    let port = |value: Value| {
        let mut port = json!({ "port": 80, "protocol": "TCP", "targetPort": 80 });
        port.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        port
    };
    let spec = |value: Value| {
        let mut spec = json!({ "selector": { "app": "web" }, "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ports": [port(json!({}))] });
        spec.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        spec
    };
    let sticky = |seconds: i32| json!({ "clientIP": { "timeoutSeconds": seconds } });
    let rows = [
        ("nothing", json!({}), json!({})),
        (
            "empty texts are none",
            json!({ "type": "", "clusterIP": "", "sessionAffinity": "", "ipFamilyPolicy": "", "ipFamilies": [] }),
            json!({}),
        ),
        (
            "a named target",
            json!({ "ports": [{ "port": 80, "targetPort": "http" }] }),
            json!({ "ports": [port(json!({ "targetPort": "http" }))] }),
        ),
        ("no target", json!({ "ports": [{ "port": 80, "targetPort": 0, "name": "", "nodePort": 0 }] }), json!({})),
        (
            "clusterIP is the first of clusterIPs",
            json!({ "clusterIP": "FD87::00A" }),
            json!({ "clusterIP": "fd87::a", "clusterIPs": ["fd87::a"] }),
        ),
        ("headless", json!({ "clusterIP": "None" }), json!({ "clusterIP": "None", "clusterIPs": ["None"] })),
        (
            "sticky",
            json!({ "sessionAffinity": "ClientIP" }),
            json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": sticky(10800) }),
        ),
        (
            "as long as is wanted",
            json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": sticky(1) }),
            json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": sticky(1) }),
        ),
        (
            "a node port",
            json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080 }] }),
            json!({ "type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": [port(json!({ "nodePort": 30080 }))] }),
        ),
        (
            "external addresses",
            json!({ "externalIPs": ["2001:DB8::1"] }),
            json!({ "externalIPs": ["2001:db8::1"], "externalTrafficPolicy": "Cluster" }),
        ),
    ];
    for (name, written, expected) in rows {
        let mut document = json!({ "selector": { "app": "web" }, "ports": [{ "port": 80 }] });
        document.as_object_mut().unwrap().extend(written.as_object().unwrap().clone());
        assert_eq!(service(&document), (spec(expected), vec![]), "{name}");
    }
}

#[test]
fn what_of_a_service_has_no_effect_is_noted() {
    const NO_BALANCER: &str = "has no effect: there is no load balancer";
    let rows = [
        (
            json!({ "type": "LoadBalancer", "selector": { "a": "b" }, "ports": [{ "port": 80, "appProtocol": "http" }], "loadBalancerIP": "192.0.2.1", "loadBalancerClass": "x/y", "loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000, "trafficDistribution": "PreferClose", "allocateLoadBalancerNodePorts": false }),
            vec![
                "spec.type: there is no load balancer: LoadBalancer is the same as NodePort".to_owned(),
                "spec.ports[0].appProtocol has no effect: nothing here reads what the pods say to each other"
                    .to_owned(),
                format!("spec.loadBalancerIP {NO_BALANCER}"),
                format!("spec.loadBalancerClass {NO_BALANCER}"),
                format!("spec.loadBalancerSourceRanges {NO_BALANCER}"),
                format!("spec.healthCheckNodePort {NO_BALANCER}"),
                "spec.trafficDistribution has no effect: all pods are on this host".to_owned(),
            ],
        ),
        (
            json!({ "type": "ExternalName", "externalName": "example.com.", "selector": { "a": "b" }, "ports": [{ "port": 80 }], "sessionAffinity": "ClientIP", "publishNotReadyAddresses": true }),
            ["ports", "selector", "sessionAffinity", "publishNotReadyAddresses"]
                .map(|field| {
                    format!("spec.{field} has no effect: a Service of type ExternalName is a name for another name")
                })
                .to_vec(),
        ),
        (
            json!({ "clusterIP": "None", "externalName": "a.b", "sessionAffinity": "ClientIP" }),
            vec![
                "spec.externalName has no effect: the type is not ExternalName".to_owned(),
                "spec.sessionAffinity has no effect: a Service without a cluster IP is only a name".to_owned(),
                "it has no selector, so it leads to no pods: podshim reads no Endpoints".to_owned(),
            ],
        ),
        (
            json!({ "selector": { "a": "b" }, "ports": [{ "port": 80 }], "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 5 } } }),
            vec!["spec.sessionAffinityConfig has no effect: sessionAffinity is None".to_owned()],
        ),
        (
            json!({ "clusterIP": "None", "selector": { "a": "b" }, "publishNotReadyAddresses": true, "internalTrafficPolicy": "Local" }),
            vec![],
        ),
    ];
    for (spec, mut expected) in rows {
        let (_, mut notes) = service(&spec);
        notes.sort();
        expected.sort();
        assert_eq!(notes, expected, "{spec}");
    }
}

#[test]
fn a_service_exported_from_a_cluster_is_read() {
    let (value, notes) = one(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  uid: 1-2\n  resourceVersion: \"7\"\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n  managedFields: [{anything: 1}]\n  labels: {tier: front}\n  annotations: {}\nspec:\n  clusterIP: 10.96.0.7\n  clusterIPs: [10.96.0.7]\n  internalTrafficPolicy: Cluster\n  ipFamilies: [IPv4]\n  ipFamilyPolicy: SingleStack\n  ports: [{port: 80, protocol: TCP, targetPort: 8080}]\n  selector: {app: web, app.kubernetes.io/name: x}\n  sessionAffinity: None\n  type: ClusterIP\nstatus: {loadBalancer: {}}\n",
    );
    assert_eq!(value["metadata"], json!({ "name": "web", "namespace": "shop", "labels": { "tier": "front" } }));
    assert_eq!(value["spec"]["selector"]["app.kubernetes.io/name"], "x");
    assert_eq!(value["spec"]["clusterIPs"], json!(["10.96.0.7"]));
    // Only its metadata.
    assert!(notes.iter().all(|note| note.starts_with("Service shop/web: metadata.")), "{notes:?}");
}

#[test]
fn policies_have_their_defaults_and_notes() {
    let policy = |spec: &str| {
        let (value, notes) = one(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
        ));
        (value["spec"].clone(), notes)
    };
    let (spec, notes) = policy("{}");
    assert_eq!(spec, json!({ "podSelector": {}, "policyTypes": ["Ingress"] }));
    assert!(notes.is_empty(), "{notes:?}");
    let (spec, notes) = policy(
        "{egress: [{ports: [{port: 53}, {port: dns, protocol: UDP}], to: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.1.2.0/24]}}]}]}",
    );
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    let ports = json!([{ "port": 53, "protocol": "TCP" }, { "port": "dns", "protocol": "UDP" }]);
    let block = json!({ "cidr": "10.0.0.0/8", "except": ["10.1.2.0/24"] });
    assert_eq!(spec["egress"], json!([{ "ports": ports, "to": [{ "ipBlock": block }] }]));
    assert_eq!(
        notes,
        [
            "NetworkPolicy default/p: spec.egress[0].to[0].ipBlock.cidr: 10.1.2.3/8 has bits behind its prefix, which do not count: it is 10.0.0.0/8"
        ]
    );
    let (spec, notes) = policy("{policyTypes: [Egress], ingress: [{}]}");
    assert_eq!(spec["policyTypes"], json!(["Egress"]));
    assert_eq!(notes, ["NetworkPolicy default/p: spec.ingress has no effect: policyTypes does not name Ingress"]);
}

#[test]
fn documents_of_the_network_come_in_their_order() {
    let read = read(
        "kind: Namespace\napiVersion: v1\nmetadata: {name: shop, namespace: x, labels: {team: a}}\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, namespace: shop}\nspec: {podSelector: {}}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: None, selector: {a: b}}\n",
    );
    let list: Vec<_> = read
        .network
        .iter()
        .map(|d| (d.source.as_str(), d.object.kind(), d.object.namespace(), d.object.name()))
        .collect();
    assert_eq!(
        list,
        [
            ("net.yaml", "Namespace", "", "shop"),
            ("net.yaml", "NetworkPolicy", "shop", "deny"),
            ("net.yaml", "Service", "default", "web")
        ]
    );
    assert_eq!(read.network[0].object.metadata().labels.as_ref().unwrap()["team"], "a");
    assert_eq!(read.notes[0].text, "Namespace shop: metadata.namespace has no effect: a Namespace is in none");
    let found: Vec<&str> = read.found.iter().map(|found| found.what.as_str()).collect();
    assert_eq!(found, ["Namespace shop", "NetworkPolicy shop/deny", "Service default/web"]);
}
