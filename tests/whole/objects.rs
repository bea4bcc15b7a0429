//! Services, NetworkPolicies and Namespaces as `get` shows and `delete` removes them, and what pods learn of Services. What
//! is kept is put there as `run` and `apply` put it; that connections follow is shown elsewhere.

use crate::harness::{Host, documents, facts, object, pod, shell, with};
use podshim::manifest::{CronJobs, documents as read, read_sources};
use podshim::network::objects::{Semantics, put};
use podshim::paths::NetworkDir;
use podshim::plan::network::BridgeNetwork;
use serde_json::{Value, json};
use std::os::unix::fs::DirBuilderExt;

fn named(kind: &str, (namespace, name): (&str, &str), spec: Value) -> Value {
    let version = if kind == "NetworkPolicy" { "networking.k8s.io/v1" } else { "v1" };
    json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name, "namespace": namespace, "labels": { "of": name } }, "spec": spec })
}

fn web(namespace: &str, name: &str) -> Value {
    let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080 }]);
    named("Service", (namespace, name), json!({ "selector": { "app": name }, "ports": ports }))
}

/// Puts documents; the file that they are in.
fn keep(host: &Host, file: &str, list: &[Value]) -> String {
    let path = documents(host, file, list);
    let all = read(&read_sources(std::slice::from_ref(&path)).unwrap(), CronJobs::Refused).unwrap();
    let state = host.path("state");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state).unwrap();
    let network = BridgeNetwork {
        bridge: "podshim0".into(),
        pods: vec!["10.86.0.0/16".parse().unwrap()],
        services: vec!["10.87.0.0/16".parse().unwrap()],
    };
    put(&NetworkDir(state.join("network")), &network, &all.network, Semantics::Create).unwrap();
    path
}

fn words(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn json_of(host: &Host, args: &[&str]) -> Value {
    serde_json::from_str(&host.ok(args)).unwrap()
}

#[test]
fn get_shows_what_is_kept() {
    let Some(host) = Host::bare(&[]) else { return };
    for (words, says) in
        [("svc", "No services found.\n"), ("ep", "No endpoints found.\n"), ("ns", "No namespaces found.\n")]
    {
        assert_eq!(host.run(&["get", words]).expect(0).err, says);
    }
    let policy = named("NetworkPolicy", ("shop", "deny"), json!({ "podSelector": { "matchLabels": { "app": "db" } } }));
    let namespace = object("Namespace", "shop", json!({}));
    keep(&host, "net.json", &[namespace, web("default", "web"), web("shop", "web"), web("shop", "db"), policy]);
    let member = |name: &str, ready: bool| {
        let value = json!({
            "uid": name, "namespace": "default", "name": name, "labels": { "app": "web" }, "hostname": name, "subdomain": null,
            "addresses": [format!("10.86.0.{}", 3 + name.len())], "ports": [], "link": null, "ready": ready, "terminating": false,
        });
        let members = host.folder("state/network/members");
        std::fs::write(format!("{members}/{name}.json"), value.to_string()).unwrap();
    };
    member("a", true);
    member("bb", false);

    let table = host.ok(&["get", "services"]);
    let rows = words(&table);
    assert_eq!(rows[0], ["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    assert_eq!(rows[1][..6], ["default", "web", "ClusterIP", "10.87.0.1", "<none>", "80/TCP"]);
    assert_eq!(rows.len(), 4);
    assert!(host.ok(&["get", "svc", "-o", "wide"]).lines().next().unwrap().ends_with("   SELECTOR"));
    let table = host.ok(&["get", "endpoints", "web", "-o", "wide"]);
    let rows = words(&table);
    assert_eq!(rows[0], ["NAMESPACE", "NAME", "READY", "ENDPOINTS", "AGE", "PODS"]);
    assert_eq!(rows[1][..4], ["default", "web", "1/2", "10.86.0.4:8080"]);
    assert_eq!(rows[1][5..].join(" "), "a (ready), bb (not ready)");
    let table = host.ok(&["get", "endpointslices", "-n", "default"]);
    assert_eq!(words(&table)[1][..6], ["default", "web-ipv4", "IPv4", "8080", "1/2", "10.86.0.4,10.86.0.5"]);
    let table = host.ok(&["get", "netpol"]);
    assert_eq!(words(&table)[1][..3], ["shop", "deny", "app=db"]);
    let table = host.ok(&["get", "ns"]);
    assert_eq!(
        words(&table).iter().map(|row| row[..2].join(" ")).collect::<Vec<_>>(),
        ["NAME STATUS", "default Active", "shop Active"]
    );

    assert_eq!(host.ok(&["get", "svc", "-o", "name"]), "service/web\nservice/shop/db\nservice/shop/web\n");
    assert_eq!(host.ok(&["get", "svc", "-q", "-n", "shop"]), "service/shop/db\nservice/shop/web\n");
    assert_eq!(host.ok(&["get", "svc", "-q", "-l", "of in (db)"]), "service/shop/db\n");
    assert_eq!(
        host.ok(&["get", "svc/shop/web", "netpol/deny", "-q"]),
        "service/shop/web\nnetworkpolicy.networking.k8s.io/shop/deny\n"
    );
    let one = json_of(&host, &["get", "svc", "web", "-o", "json"]);
    assert_eq!((&one["kind"], &one["spec"]["clusterIP"]), (&json!("Service"), &json!("10.87.0.1")));
    let all = json_of(&host, &["get", "svc,ep", "-n", "shop", "-o", "json"]);
    let kinds: Vec<&str> = all["items"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Service", "Service", "Endpoints", "Endpoints"]);
    let ep = json_of(&host, &["get", "ep", "web", "-o", "json"]);
    assert_eq!(ep["subsets"][0]["notReadyAddresses"][0]["targetRef"]["name"], "bb");
    let labels = json_of(&host, &["get", "ns", "default", "-o", "json"])["metadata"]["labels"].clone();
    assert_eq!(labels, json!({ "kubernetes.io/metadata.name": "default" }));

    host.run(&["get", "svc", "wob"]).expect(125).says(&["service \"wob\" not found"]);
    host.run(&["get", "web"]).expect(125).says(&["\"web\" is no type of pods, services", "`podshim get pods web`"]);
    host.run(&["get", "svc", "-l", "a b"]).expect(2).says(&["is no part of a label"]);
    let both = host.ok(&["get", "svc,ns"]);
    assert!(both.contains("\n\nNAME "), "{both}");
    // Nobody's pods.
    std::fs::remove_dir_all(host.path("state/network/members")).unwrap();
}

#[test]
fn pods_are_got_as_by_ps() {
    let Some(host) = Host::new(&[]) else { return };
    let labelled = |name: &str| {
        let metadata = json!({ "name": name, "labels": { "app": name } });
        with(
            pod(name, json!({ "containers": [facts("c", &["sleep"])], "terminationGracePeriodSeconds": 0 })),
            json!({ "metadata": metadata }),
        )
    };
    host.start(&labelled("one"));
    host.start(&labelled("two"));
    let head = |args: &[&str]| host.ok(args).lines().next().unwrap().to_owned();
    for args in [&["get"][..], &["get", "pods"], &["get", "po", "one"], &["get", "pod/one"]] {
        assert_eq!(head(args), head(&["ps"]), "{args:?}");
    }
    assert_eq!(host.ok(&["get", "pods", "two", "-q"]), "default/two\n");
    assert_eq!(host.ok(&["get", "-l", "app!=two", "-q"]), "default/one\n");
    assert_eq!(host.ok(&["ps", "-l", "app=two", "-q"]), "default/two\n");
    assert_eq!(json_of(&host, &["get", "pod", "one", "-o", "json"])["metadata"]["name"], "one");
    assert_eq!(json_of(&host, &["get", "pods", "-o", "json"])["items"].as_array().map(Vec::len), Some(2));

    host.run(&["delete", "one"]).expect(125).says(&["`podshim rm one`", "`podshim delete pod one`"]);
    host.run(&["delete", "pods"]).expect(125).says(&["takes names, --all or -l LABELS"]);
    host.run(&["delete"]).expect(2);
    assert_eq!(host.ok(&["delete", "pod", "one"]), "pod \"one\" deleted from default namespace\n");
    host.run(&["delete", "pod/one"]).expect(125).says(&["pod \"one\" not found"]);
    assert_eq!(host.ok(&["delete", "pod/one", "--ignore-not-found"]), "");
    assert_eq!(host.ok(&["delete", "pods", "-l", "app in (one,two)"]), "pod \"two\" deleted from default namespace\n");
    assert_eq!(host.run(&["ps"]).err, "No pods found.\n");
}

#[test]
fn delete_removes_what_is_kept() {
    let Some(host) = Host::bare(&[]) else { return };
    let policy = named("NetworkPolicy", ("shop", "deny"), json!({}));
    let namespace = object("Namespace", "shop", json!({}));
    keep(&host, "net.json", &[namespace, web("default", "web"), web("shop", "web"), web("shop", "db"), policy]);
    // One that is missing does not keep the others.
    let output = host.run(&["delete", "svc", "web", "none"]).expect(125).says(&["service \"none\" not found"]);
    assert_eq!(output.out, "service \"web\" deleted from default namespace\n");
    host.run(&["delete", "endpoints", "db"]).expect(125).says(&["follow from Services"]);
    host.run(&["delete", "svc", "db", "--all"]).expect(125).says(&["names go neither"]);
    let output = host.run(&["delete", "ns", "shop"]).expect(0);
    assert_eq!(output.out, "namespace \"shop\" deleted\n");
    output.says(&[
        "the services and networkpolicies in namespace shop stay",
        "`podshim delete services,networkpolicies --all -n shop`",
    ]);
    let said = host.ok(&["delete", "services,networkpolicies", "--all", "-n", "shop"]);
    assert_eq!(
        said,
        "service \"db\" deleted from shop namespace\nservice \"web\" deleted from shop namespace\nnetworkpolicy.networking.k8s.io \"deny\" deleted from shop namespace\n"
    );
    assert_eq!(host.run(&["get", "svc,netpol,ns"]).expect(0).out.trim(), "");
}

#[test]
fn delete_removes_what_manifests_name() {
    let Some(host) = Host::new(&[]) else { return };
    let sleep = || with(facts("c", &["sleep"]), json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }));
    let volumes = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]);
    let spec = json!({ "terminationGracePeriodSeconds": 0, "containers": [sleep()], "volumes": volumes });
    let claim = object(
        "PersistentVolumeClaim",
        "data",
        json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }),
    );
    let deployment = |replicas: u32| {
        let template = json!({ "metadata": { "labels": { "app": "web" } }, "spec": spec });
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } }, "template": template } })
    };
    let all = |replicas: u32| [claim.clone(), deployment(replicas), web("default", "web"), pod("own", spec.clone())];
    let path = keep(&host, "all.json", &all(2));
    host.run(&["run", "-d", &path]).expect(0);
    host.start(&pod("other", spec.clone()));
    // Asks for fewer pods than it made: all of them are its own.
    let fewer = documents(&host, "fewer.json", &all(1));
    let output = host.run(&["delete", "-f", &fewer]).expect(0);
    let mut lines: Vec<&str> = output.out.lines().collect();
    lines[..3].sort_unstable();
    let pods = ["own", "web-0", "web-1"].map(|name| format!("pod {name:?} deleted from default namespace"));
    assert_eq!(lines[..3], pods);
    assert_eq!(lines[3..], ["service \"web\" deleted from default namespace"]);
    output.says(&["what PersistentVolumeClaim default/data holds stays: `podshim volume rm default/data` removes it"]);
    assert_eq!(host.ok(&["ps", "-q"]), "default/other\n");
    let again = host.run(&["delete", "-f", &fewer]).expect(125);
    again.says(&[
        "Deployment default/web: there are no pods of it",
        "pod \"default/own\" not found",
        "service \"default/web\" not found",
    ]);
    assert_eq!(host.ok(&["delete", "-f", &fewer, "--ignore-not-found"]), "");
    let broken = documents(
        &host,
        "broken.json",
        &[json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "x" } })],
    );
    host.run(&["delete", "-f", &broken]).expect(125).says(&["spec: required, but missing", "nothing was deleted"]);
    host.ok(&["rm", "-f", "other"]);
    host.ok(&["volume", "rm", "data"]);
}

#[test]
fn spec_enable_service_links_gives_pods_the_services_as_variables() {
    let Some(host) = Host::new(&[]) else { return };
    keep(&host, "net.json", &[web("default", "my-db"), web("shop", "other")]);
    let script = "echo $URL; echo $MY_DB_PORT_80_TCP_ADDR; env | grep -c OTHER_";
    let container = with(
        shell("c", script),
        json!({ "env": [{ "name": "URL", "value": "http://$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT_HTTP)" }] }),
    );
    let spec =
        |links: bool| json!({ "restartPolicy": "Never", "containers": [container], "enableServiceLinks": links });
    let lines = |name: &str, links: bool| -> Vec<String> {
        let out = host.run(&["run", &host.manifest(&pod(name, spec(links)))]).out;
        out.lines().map(|line| line.split_once("| ").map_or(line, |(_, text)| text).to_owned()).collect()
    };
    assert_eq!(lines("with", true), ["http://10.87.0.1:80", "10.87.0.1", "0"]);
    assert_eq!(lines("without", false), ["http://$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT_HTTP)", "", "0"]);
}
