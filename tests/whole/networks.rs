//! Pods on the bridge that are not like others, and pods on networks of CNI plugins.

use crate::harness::{Host, documents, facts, ip, pod, shell, until, with};
use crate::leaks;
use crate::network::{NEEDS, address, apply, client, connect, fetch, inside, resolve, server, service};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::net::TcpListener;

/// Two containers: one with a shell, one that tells facts.
fn two(name: &str, spec: serde_json::Value) -> serde_json::Value {
    let containers = json!([facts("facts", &["sleep"]), shell("box", "while :; do sleep 1; done")]);
    pod(name, with(json!({ "terminationGracePeriodSeconds": 0, "containers": containers }), spec))
}

#[test]
fn a_pod_with_the_hosts_network_has_the_names_it_asks_for_and_is_behind_services() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    ip(&["-n", &network, "link", "add", "uplink", "type", "veth", "peer", "name", "other"]);
    ip(&["-n", &network, "address", "add", "192.0.2.1/24", "dev", "uplink"]);
    ip(&["-n", &network, "link", "set", "uplink", "up"]);
    let hosted = |name: &str, policy: &str| {
        let mut pod = two(name, json!({ "hostNetwork": true, "dnsPolicy": policy }));
        pod["metadata"]["labels"] = json!({ "app": "hosted" });
        pod["spec"]["containers"][0] = facts("facts", &["listen", "9090", name]);
        host.start(&pod);
    };
    hosted("hosted", "ClusterFirstWithHostNet");
    host.start(&server("web", &json!({ "app": "web" })));
    // A pod has been started before the network is told so.
    let web = address(&host, "web");
    until("names", || (resolve(&host, "hosted", "web") == [web.clone()]).then_some(()));
    // With a pod's own port behind it, from a pod and from the host itself.
    apply(
        &host,
        "hosted.json",
        &[service("hosted", json!({ "selector": { "app": "hosted" }, "ports": [{ "port": 80, "targetPort": 9090 }] }))],
    );
    client(&host, "client");
    until("the endpoint", || (connect(&host, "client", ("hosted", "80")) == (0, "hosted".into())).then_some(()));
    // The network is there for its names alone, too.
    host.ok(&["rm", "-f", "web", "client"]);
    assert!(
        host.ok(&["exec", "-c", "box", "hosted", "--", "cat", "/etc/resolv.conf"]).contains("nameserver 10.86.0.2")
    );
    let answered =
        host.run(&["exec", "-c", "box", "hosted", "--", "nslookup", "-type=a", "hosted.default.svc.cluster.local."]);
    assert!(answered.out.contains("10.87.0."), "{answered:?}");
    host.ok(&["rm", "-f", "hosted"]);
    assert_eq!(leaks::on_network(&network), Vec::<String>::new());
    // Without such a policy it needs none, and makes none.
    hosted("plain", "ClusterFirst");
    assert_eq!(leaks::on_network(&network), Vec::<String>::new());
}

#[test]
fn another_sandbox_is_on_the_network_as_the_one_that_was_lost() {
    let Some(host) = Host::new(NEEDS) else { return };
    host.own_network();
    let mut lost = server("lost", &json!({}));
    lost["spec"]["shareProcessNamespace"] = json!(true);
    host.start(&lost);
    client(&host, "client");
    let before = address(&host, "lost");
    let pause = leaks::processes_in(&format!("{}/podshim/pod{}/_pause", host.cgroup_parent, host.uid("lost")));
    kill(Pid::from_raw(pause[0]), Signal::SIGKILL).unwrap();
    host.until_event("lost", "SandboxChanged", "");
    until("the pod", || (connect(&host, "client", (&before, "80")) == (0, "lost".into())).then_some(()));
    assert_eq!(address(&host, "lost"), before);
    until("names", || (resolve(&host, "client", "lost") == [before.clone()]).then_some(()));
}

#[test]
fn what_the_network_could_not_be_told_it_is_told_later() {
    let Some(host) = Host::new(NEEDS) else { return };
    host.own_network();
    let folder = host.folder("state-web");
    std::fs::write(host.path("state-web/ready"), "").unwrap();
    let mut web = server("web", &json!({ "app": "web" }));
    web["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": { "command": ["/facts", "wait-file", "/state/ready"] }, "periodSeconds": 1, "failureThreshold": 1 });
    web["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "state", "mountPath": "/state" }]);
    web["spec"]["volumes"] = json!([{ "name": "state", "hostPath": { "path": folder } }]);
    host.start(&web);
    let ports = json!([{ "port": 80, "targetPort": "web" }]);
    apply(&host, "web.json", &[service("web", json!({ "selector": { "app": "web" }, "ports": ports }))]);
    let endpoints = |words: &str| {
        until(words, || host.ok(&["get", "endpoints", "web"]).contains(words).then_some(()));
    };
    endpoints("1/1");
    // Nobody can take the network's lock for a while.
    let (lock, kept) = (host.path("state/network/lock"), host.path("lock-kept"));
    std::fs::rename(&lock, &kept).unwrap();
    std::fs::create_dir(&lock).unwrap();
    std::fs::remove_file(host.path("state-web/ready")).unwrap();
    host.until_condition("web", "Ready", "False");
    host.until_event("web", "NetworkError", "lock");
    std::fs::remove_dir(&lock).unwrap();
    std::fs::rename(&kept, &lock).unwrap();
    // Nothing of the pod changes any more.
    endpoints("0/1");
    let told = host.events("web", "NetworkError");
    assert_eq!((told.len(), &told[0]["count"]), (1, &json!(1)), "{told:?}");
}

#[test]
fn a_pod_of_its_own_users_is_on_the_network_too() {
    let Some(host) = Host::new(NEEDS) else { return };
    host.own_network();
    host.start(&server("web", &json!({})));
    host.start(&two("users", json!({ "hostUsers": false })));
    until("web", || (connect(&host, "users", ("web", "80")) == (0, "web".into())).then_some(()));
    // Its root is nobody outside: what it does to its own links is its own business.
    let changed =
        host.run(&["exec", "-c", "box", "users", "--", "ip", "address", "add", "10.86.0.3/32", "dev", "eth0"]);
    assert_ne!(changed.code, 0, "the default capabilities are no network administrator's");
}

#[test]
fn a_services_end_is_that_of_the_run_in_the_foreground_that_brought_it() {
    let Some(host) = Host::new(NEEDS) else { return };
    host.own_network();
    let backend = server("web", &json!({ "app": "web" }));
    let both = documents(
        &host,
        "both.json",
        &[backend, service("svc", json!({ "selector": { "app": "web" }, "ports": [{ "port": 80 }] }))],
    );
    client(&host, "client");
    let mut run = host.live(&["run", &both]);
    until("the Service", || (connect(&host, "client", ("svc", "80")) == (0, "web".into())).then_some(()));
    // Variables of a Service that came with the pod.
    let envs = host.ok(&["exec", "-c", "box", "web", "--", "env"]);
    assert!(envs.contains("SVC_SERVICE_HOST=10.87.0.") && envs.contains("SVC_PORT_80_TCP_PORT=80"), "{envs}");
    run.signal(Signal::SIGINT);
    run.wait();
    assert_eq!(host.run(&["get", "services", "-o", "name"]).out, "");
    until("no name", || resolve(&host, "client", "svc").is_empty().then_some(()));
    // One that cannot start takes its Service along as well.
    let broken =
        pod("broken", json!({ "containers": [{ "name": "c", "image": "busybox:1.28", "command": ["/none"] }] }));
    let both = documents(
        &host,
        "broken.json",
        &[broken, service("svc", json!({ "selector": {}, "ports": [{ "port": 80 }] }))],
    );
    host.run(&["run", "-d", &both]).expect(127);
    assert_eq!(host.run(&["get", "services", "-o", "name"]).out, "");
}

#[test]
fn a_pod_whose_labels_change_is_behind_other_services() {
    let Some(host) = Host::new(NEEDS) else { return };
    host.own_network();
    let of = |app: &str| server("web", &json!({ "app": app }));
    let services =
        ["old", "new"].map(|app| service(app, json!({ "selector": { "app": app }, "ports": [{ "port": 80 }] })));
    host.ok(&["apply", &documents(&host, "services.json", &services)]);
    host.start(&of("old"));
    let behind = |service: &str| {
        host.ok(&["get", "endpoints", service]).lines().nth(1).unwrap().split_whitespace().nth(2).unwrap().to_owned()
    };
    until("the old one", || (behind("old") == "1/1").then_some(()));
    // Nothing else is about to happen to the pod.
    host.ok(&["apply", &host.manifest(&of("new"))]);
    until("the new one", || (behind("new") == "1/1" && behind("old") == "0/0").then_some(()));
}

#[test]
fn cni_plugins_attach_pods_and_let_go_of_them() {
    let Some(host) = Host::new(&[NEEDS, &["iptables"]].concat()) else { return };
    let network = host.own_network();
    let conf = host.folder("net.d");
    let plugins = json!([
        { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.99.0.0/24" }]], "dataDir": host.folder("leases"),
                    "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
        { "type": "tuning" },
    ]);
    let config = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": plugins });
    std::fs::write(host.path("net.d/10-net.conflist"), config.to_string()).unwrap();
    let run = |value: &serde_json::Value| {
        let path = host.manifest(value);
        host.run(&["run", "-d", "--network", "cni", "--cni-conf-dir", &conf, "--cni-bin-dir", "/usr/lib/cni", &path])
    };
    let mut web = server("web", &json!({}));
    web["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 8080 }]);
    run(&web).expect(0);
    run(&two("client", json!({}))).expect(0);
    let web = address(&host, "web");
    assert!(web.starts_with("10.99.0."), "{web}");
    assert_eq!(connect(&host, "client", (&web, "80")), (0, "web".into()));
    assert_eq!(fetch(&network, &format!("{web}:80")).as_deref(), Some("web"));
    assert_eq!(fetch(&network, "10.99.0.1:8080").as_deref(), Some("web"), "portmap");
    assert!(inside(&network, || TcpListener::bind("0.0.0.0:8080").is_err()), "the port is held");
    assert!(host.ok(&["cni", "status", "--cni-conf-dir", &conf, "--cni-bin-dir", "/usr/lib/cni"]).contains("ready"));
    // A plugin that fails fails the pod, and nothing stays of it.
    std::fs::write(
        host.path("net.d/00-first.conf"),
        json!({ "cniVersion": "1.0.0", "name": "no", "type": "none-such" }).to_string(),
    )
    .unwrap();
    run(&two("third", json!({}))).expect(125).says(&["none-such", "/usr/lib/cni"]);
    assert!(!host.ok(&["ps"]).contains("third"));
    // What was configured since then does not matter for those that are there.
    host.ok(&["rm", "-f", "web", "client"]);
    let left: Vec<_> = std::fs::read_dir(host.path("leases/net")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("10.99.0.")), "{left:?}");
    assert_eq!(leaks::on_network(&network), Vec::<String>::new());
    assert_eq!(fetch(&network, "10.99.0.1:8080"), None);
}
