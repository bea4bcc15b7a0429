//! Pods on the bridge: what they reach, who reaches them, and what is left. Everything happens in network namespaces of the
//! test's own: one is this host's network, another one a pretended outside.

use crate::harness::{Host, facts, ip, object, pod, shell, until, with};
use crate::leaks;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) const NEEDS: &[&str] = &["ip", "nft"];

/// Does something in a network namespace.
pub(crate) fn inside<T: Send + 'static>(network: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let path = format!("/run/netns/{network}");
    let thread = std::thread::spawn(move || {
        setns(std::fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// What a TCP server says to who connects from a network namespace; `None` without a connection.
pub(crate) fn fetch(network: &str, address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    inside(network, move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned())
    })
}

/// A pod that says its name to whoever connects to port 80.
pub(crate) fn server(name: &str, labels: &Value) -> Value {
    let container =
        with(facts("server", &["listen", "80", name]), json!({ "ports": [{ "name": "web", "containerPort": 80 }] }));
    let beside = shell("box", "while :; do sleep 1; done");
    let mut pod = pod(name, json!({ "terminationGracePeriodSeconds": 0, "containers": [container, beside] }));
    pod["metadata"]["labels"] = labels.clone();
    pod
}

/// A pod to look around from.
pub(crate) fn client(host: &Host, name: &str) {
    let mut pod = pod(
        name,
        json!({ "terminationGracePeriodSeconds": 0, "containers": [
        facts("facts", &["sleep"]), shell("box", "while :; do sleep 1; done")
    ] }),
    );
    pod["metadata"]["labels"] = json!({ "role": name });
    host.start(&pod);
}

/// What a pod's client gets from a server: the exit code and what it printed. Who is not answered gives up after seconds.
pub(crate) fn connect(host: &Host, from: &str, to: (&str, &str)) -> (i32, String) {
    connect_from(host, (from, "box"), to)
}

fn connect_from(host: &Host, (from, container): (&str, &str), (address, port): (&str, &str)) -> (i32, String) {
    let output = host.run(&["exec", "-c", container, from, "--", "timeout", "4", "nc", address, port]);
    (output.code.min(1), output.out.trim().to_owned())
}

/// The addresses of a name, as a pod's own resolver finds them.
pub(crate) fn resolve(host: &Host, from: &str, name: &str) -> Vec<String> {
    let output = host.run(&["exec", "-c", "box", from, "--", "nslookup", name]);
    if output.code != 0 {
        return Vec::new();
    }
    // Behind those of the server itself.
    let answer = output.out.split_once("Name:").map_or("", |(_, answer)| answer);
    answer.lines().filter_map(|line| line.strip_prefix("Address: ")).map(|text| text.trim().to_owned()).collect()
}

/// The cluster IP of a Service.
fn cluster_ip(host: &Host, name: &str) -> String {
    let service: Value = serde_json::from_str(&host.ok(&["get", "service", name, "-o", "json"])).unwrap();
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

pub(crate) fn address(host: &Host, pod: &str) -> String {
    host.inspect(pod)["status"]["podIP"].as_str().unwrap().to_owned()
}

/// A network behind this host's: its gateway is the host. Its name, the host's address there, and its own.
fn outside(host: &Host, network: &str) -> (String, String, String) {
    let outside = host.network("outside");
    ip(&["-n", network, "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", &outside]);
    for (at, link, address) in [(network, "uplink", "192.0.2.1/24"), (outside.as_str(), "eth0", "192.0.2.2/24")] {
        ip(&["-n", at, "address", "add", address, "dev", link]);
        ip(&["-n", at, "link", "set", link, "up"]);
    }
    ip(&["-n", network, "route", "add", "default", "via", "192.0.2.2"]);
    (outside, "192.0.2.1".into(), "192.0.2.2".into())
}

pub(crate) fn service(name: &str, spec: Value) -> Value {
    object("Service", name, json!({ "spec": spec }))
}

pub(crate) fn apply(host: &Host, file: &str, documents: &[Value]) -> String {
    let path = crate::harness::documents(host, file, documents);
    host.ok(&["apply", &path])
}

#[test]
fn pods_reach_each_other_the_host_and_the_outside() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    let (outside, own, beyond) = outside(&host, &network);
    host.start(&server("one", &json!({})));
    host.start(&server("two", &json!({})));
    client(&host, "client");
    let (one, two) = (address(&host, "one"), address(&host, "two"));
    assert_ne!(one, two);
    assert!(one.starts_with("10.86.0.") && two.starts_with("10.86.0."), "{one} {two}");
    // Pod to pod, host to pod; nobody outside.
    assert_eq!(connect(&host, "client", (&one, "80")), (0, "one".into()));
    assert_eq!(connect(&host, "client", (&two, "80")), (0, "two".into()));
    assert_eq!(fetch(&network, &format!("{one}:80")).as_deref(), Some("one"));
    // Pod to the host, by the gateway and by the host's own address.
    let listener = inside(&network, || TcpListener::bind("0.0.0.0:9000").unwrap());
    let answering = std::thread::spawn(move || {
        let mut peers = Vec::new();
        for _ in 0..2 {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b"the host\n").unwrap();
            peers.push(peer.ip().to_string());
        }
        peers
    });
    assert_eq!(connect(&host, "client", ("10.86.0.1", "9000")), (0, "the host".into()));
    assert_eq!(connect(&host, "client", (&own, "9000")), (0, "the host".into()));
    assert_eq!(answering.join().unwrap(), vec![address(&host, "client"); 2], "the host sees the pod's own address");
    // Pod to the outside: there it comes from the host's address.
    let listener = inside(&outside, || TcpListener::bind("0.0.0.0:9000").unwrap());
    let answering = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"outside\n").unwrap();
        peer.ip().to_string()
    });
    assert_eq!(connect(&host, "client", (&beyond, "9000")), (0, "outside".into()));
    assert_eq!(answering.join().unwrap(), own);
    // What the pod knows of itself.
    let hosts = host.ok(&["exec", "-c", "box", "client", "--", "cat", "/etc/hosts", "/etc/resolv.conf"]);
    let own = address(&host, "client");
    assert!(hosts.contains(&format!("{own}\tclient\n")), "{hosts}");
    assert!(hosts.contains("nameserver 10.86.0.2\nsearch default.svc.cluster.local svc.cluster.local cluster.local"));
    assert!(hosts.contains("options ndots:5\n"), "{hosts}");
    // A pod's link has the uplink's size, and nothing of the pod's is a router's.
    let links = host.ok(&["exec", "-c", "box", "client", "--", "ip", "-o", "address"]);
    assert!(links.contains(&format!("inet {own}/32")), "{links}");
    for sysctl in ["net/ipv6/conf/eth0/accept_ra", "net/ipv4/conf/eth0/accept_redirects"] {
        let value = host.ok(&["exec", "-c", "box", "client", "--", "cat", &format!("/proc/sys/{sysctl}")]);
        assert_eq!(value.trim(), "0", "{sysctl}");
    }
    host.ok(&["rm", "-f", "one", "two", "client"]);
    assert_eq!(leaks::on_network(&network), Vec::<String>::new(), "with the last pod everything goes");
}

#[test]
fn a_host_port_leads_to_the_pod_and_is_nobody_elses() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    let (outside, own, _) = outside(&host, &network);
    let mut web = server("web", &json!({}));
    web["spec"]["containers"][0]["ports"] = json!([
        { "containerPort": 80, "hostPort": 8080 },
        { "containerPort": 80, "hostPort": 8081, "hostIP": "127.0.0.1" },
    ]);
    host.start(&web);
    let serves = |who: &str| (fetch(&network, "127.0.0.1:8080").as_deref() == Some(who)).then_some(());
    until("the server", || serves("web"));
    assert_eq!(fetch(&outside, &format!("{own}:8080")).as_deref(), Some("web"));
    assert_eq!(fetch(&network, &format!("{own}:8080")).as_deref(), Some("web"));
    assert_eq!(fetch(&network, "127.0.0.1:8080").as_deref(), Some("web"));
    assert_eq!(fetch(&network, "127.0.0.1:8081").as_deref(), Some("web"));
    assert_eq!(fetch(&outside, &format!("{own}:8081")), None, "hostIP is 127.0.0.1");
    client(&host, "client");
    assert_eq!(connect(&host, "client", (&own, "8080")), (0, "web".into()));
    // The same pod by its own host port: it must not see its own address as the peer's.
    assert_eq!(connect(&host, "web", (&own, "8080")), (0, "web".into()));
    // Another pod, another process.
    let mut other = server("other", &json!({}));
    other["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 8080 }]);
    host.foreground(&other).expect(125).says(&["hostPort 8080/TCP", "taken by pod default/web"]);
    assert!(inside(&network, || TcpListener::bind("0.0.0.0:8080").is_err()), "the port is held");
    let _held = inside(&network, || TcpListener::bind("0.0.0.0:8082").unwrap());
    other["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 8082 }]);
    host.foreground(&other).expect(125).says(&["hostPort 8082/TCP", "another process of this host"]);
    assert!(!host.ok(&["ps"]).contains("other"));
    host.ok(&["rm", "-f", "web"]);
    assert_eq!(fetch(&network, "127.0.0.1:8080"), None);
    host.start(&{
        other["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 8080, "protocol": "TCP" }]);
        other
    });
    until("the other server", || serves("other"));
}

#[test]
fn udp_ports_of_the_host_too() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    let server = with(
        facts("server", &["dns", "known.example=192.0.2.9", "--bind", "0.0.0.0:5353"]),
        json!({ "ports": [{ "containerPort": 5353, "hostPort": 5300, "protocol": "UDP" }] }),
    );
    host.start(&pod("dns", json!({ "containers": [server] })));
    let answered = inside(&network, || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        // known.example, A, IN
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05known\x07example\x00\x00\x01\x00\x01";
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            socket.send_to(query, "127.0.0.1:5300").unwrap();
            let mut buffer = [0; 512];
            if let Ok((length, _)) = socket.recv_from(&mut buffer) {
                return buffer[length - 4..length] == [192, 0, 2, 9];
            }
        }
        false
    });
    assert!(answered);
}

/// The owner's third pod: unchanged, it waits for two names, and goes on when there are Services of these names.
#[test]
fn the_third_pod_waits_for_its_services() {
    let Some(host) = Host::new(NEEDS) else { return };
    host.own_network();
    let path = crate::harness::repository("pods/myapp-init-services.yaml");
    let mut run = host.live(&["run", "-d", path.to_str().unwrap()]);
    host_waits(&host, "myapp-pod", "Init:0/2");
    let backend = |name: &str| {
        let path = crate::harness::repository(&format!("pods/{name}.yaml"));
        assert!(host.ok(&["run", "-d", path.to_str().unwrap()]).contains(&format!("service/{name} created")));
    };
    backend("myservice");
    host_waits(&host, "myapp-pod", "Init:1/2");
    backend("mydb");
    assert_eq!(run.wait(), 0, "{}", run.err());
    host_waits(&host, "myapp-pod", "Running");
    client(&host, "client");
    let table = host.ok(&["get", "services"]);
    assert!(table.contains("myservice   ClusterIP   10.87.0."), "{table}");
    assert_eq!(resolve(&host, "client", "myservice"), [cluster_ip(&host, "myservice")]);
    let page = host.ok(&["exec", "-c", "box", "client", "--", "wget", "-qO-", "http://mydb/"]);
    assert_eq!(page, "mydb\n");
    // A name goes with its Service.
    host.ok(&["delete", "service", "myservice"]);
    host.ok(&["rm", "-f", "myservice"]);
    until("no name", || resolve(&host, "client", "myservice").is_empty().then_some(()));
    assert_eq!(resolve(&host, "client", "mydb"), [cluster_ip(&host, "mydb")]);
}

fn host_waits(host: &Host, pod: &str, status: &str) {
    until(&format!("{pod}: {status}"), || {
        let table = host.run(&["ps"]).out;
        table.lines().find(|l| l.split_whitespace().nth(1) == Some(pod))?.contains(status).then_some(())
    });
}

#[test]
fn a_service_balances_over_its_ready_pods_and_no_others() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    let names = ["a", "b", "c", "d"];
    for name in names {
        let mut pod = server(name, &json!({ "app": "web" }));
        let probe = json!({ "exec": { "command": ["/facts", "wait-file", "/state/ready"] }, "periodSeconds": 1, "failureThreshold": 1 });
        pod["spec"]["containers"][0]["readinessProbe"] = probe;
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "state", "mountPath": "/state" }]);
        let folder = host.folder(&format!("state-{name}"));
        std::fs::write(format!("{folder}/ready"), "").unwrap();
        pod["spec"]["volumes"] = json!([{ "name": "state", "hostPath": { "path": folder } }]);
        host.start(&pod);
    }
    apply(
        &host,
        "web.json",
        &[service(
            "web",
            json!({
                "selector": { "app": "web" }, "type": "NodePort",
                "ports": [{ "port": 8080, "targetPort": "web", "nodePort": 30080 }],
            }),
        )],
    );
    for name in names {
        host.until_condition(name, "Ready", "True");
    }
    let cluster_ip = cluster_ip(&host, "web");
    let asked = |count: usize, address: String| -> BTreeMap<String, usize> {
        let address: SocketAddr = address.parse().unwrap();
        inside(&network, move || {
            let mut counts = BTreeMap::new();
            for _ in 0..count {
                let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                *counts.entry(text.trim().to_owned()).or_default() += 1;
            }
            counts
        })
    };
    until("all four endpoints", || (asked(8, format!("{cluster_ip}:8080")).len() == 4).then_some(()));
    let counts = asked(1000, format!("{cluster_ip}:8080"));
    assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), names);
    assert!(counts.values().all(|count| (238..=262).contains(count)), "within 5 %: {counts:?}");
    assert_eq!(asked(40, "127.0.0.1:30080".into()).len(), 4, "the node port, from the host");
    // One loses readiness: no new connection goes there.
    std::fs::remove_file(host.path("state-b/ready")).unwrap();
    host.until_condition("b", "Ready", "False");
    until("three endpoints", || (!asked(8, format!("{cluster_ip}:8080")).contains_key("b")).then_some(()));
    let counts = asked(300, format!("{cluster_ip}:8080"));
    assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "c", "d"]);
    let endpoints = host.ok(&["get", "endpoints", "web"]);
    assert!(endpoints.contains("3/4"), "{endpoints}");
    // None is left: refused at once, not a connection that hangs.
    for name in ["a", "c", "d"] {
        host.ok(&["rm", "-f", name]);
    }
    let refused = inside(&network, {
        let address: SocketAddr = format!("{cluster_ip}:8080").parse().unwrap();
        move || TcpStream::connect_timeout(&address, Duration::from_secs(3)).unwrap_err().kind()
    });
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn policies_allow_and_deny() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    host.start(&server("web", &json!({ "app": "web" })));
    host.start(&server("other", &json!({ "app": "other" })));
    client(&host, "friend");
    client(&host, "stranger");
    let (web, other) = (address(&host, "web"), address(&host, "other"));
    assert_eq!(connect(&host, "stranger", (&web, "80")).0, 0);
    let policy = |spec: Value| {
        let mut policy = object("NetworkPolicy", "rule", json!({ "spec": spec }));
        policy["apiVersion"] = json!("networking.k8s.io/v1");
        apply(&host, "policy.json", &[policy])
    };
    policy(json!({ "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"], "ingress": [
        { "from": [{ "podSelector": { "matchLabels": { "role": "friend" } } }], "ports": [{ "port": "web" }] }
    ] }));
    assert_eq!(connect(&host, "friend", (&web, "80")), (0, "web".into()));
    assert_eq!(connect(&host, "stranger", (&web, "80")).0, 1, "not selected by the policy's peers");
    assert_eq!(connect(&host, "stranger", (&other, "80")).0, 0, "another pod is not isolated");
    assert_eq!(fetch(&network, &format!("{web}:80")).as_deref(), Some("web"), "the host may");
    // What a pod may reach: names still, one pod, nothing else.
    policy(json!({ "podSelector": { "matchLabels": { "role": "stranger" } }, "policyTypes": ["Egress"], "egress": [
        { "to": [{ "podSelector": { "matchLabels": { "app": "web" } } }] },
        { "to": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } } }],
          "ports": [{ "port": 53, "protocol": "UDP" }] },
    ] }));
    assert_eq!(connect(&host, "stranger", (&web, "80")), (0, "web".into()));
    assert_eq!(connect(&host, "stranger", (&other, "80")).0, 1);
    assert_eq!(resolve(&host, "stranger", "web"), std::slice::from_ref(&web));
    let _listener = inside(&network, || TcpListener::bind("0.0.0.0:9000").unwrap());
    assert_eq!(connect(&host, "stranger", ("10.86.0.1", "9000")).0, 1, "the host is outside the policy too");
    host.ok(&["delete", "networkpolicy", "rule"]);
    assert_eq!(connect(&host, "stranger", (&other, "80")).0, 0);
}

#[test]
fn annotations_limit_the_bandwidth() {
    let Some(host) = Host::new(&[NEEDS, &["tc"]].concat()) else { return };
    let network = host.own_network();
    let mut limited = server("limited", &json!({}));
    limited["metadata"]["annotations"] =
        json!({ "kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "4M" });
    host.start(&limited);
    let rates = host.finish(host.beside(&["tc", "qdisc", "show"])).expect(0).out;
    let rate = |link: &str, rate: &str| rates.lines().any(|l| l.contains(&format!("dev {link}")) && l.contains(rate));
    assert!(rate("veth", "rate 8Mbit") && rate("ifb", "rate 4Mbit"), "{rates}");
    let path = host.manifest(&{
        limited["metadata"]["name"] = json!("other");
        limited
    });
    host.run(&["run", "-d", "--network", "none", &path]).expect(125).says(&["bandwidth", "--network"]);
    host.ok(&["rm", "-f", "limited"]);
    assert_eq!(leaks::on_network(&network), Vec::<String>::new());
}

#[test]
fn both_families() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    let cidrs = ["--pod-cidr", "10.99.0.0/24,fd99::/64", "--service-cidr", "10.98.0.0/24,fd98::/112"];
    let run = |value: &Value| {
        let path = host.manifest(value);
        host.ok(&[&["run", "-d"], &cidrs[..], &[&path]].concat());
    };
    let mut web = server("web", &json!({ "app": "web" }));
    web["spec"]["containers"][0]["args"] = json!(["listen", "80", "web", "--bind", "::"]);
    run(&web);
    run(&pod(
        "client",
        json!({ "containers": [facts("facts", &["sleep"]), shell("box", "while :; do sleep 1; done")] }),
    ));
    let ips: Vec<String> = host.inspect("web")["status"]["podIPs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ip| ip["ip"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ips.len(), 2, "{ips:?}");
    assert!(ips[0].starts_with("10.99.0.") && ips[1].starts_with("fd99::"), "{ips:?}");
    for address in &ips {
        assert_eq!(connect(&host, "client", (address, "80")), (0, "web".into()), "{address}");
    }
    assert_eq!(fetch(&network, &format!("[{}]:80", ips[1])).as_deref(), Some("web"));
    let spec = json!({ "selector": { "app": "web" }, "ipFamilyPolicy": "RequireDualStack", "ports": [{ "port": 80 }] });
    let path = crate::harness::documents(&host, "svc.json", &[service("svc", spec)]);
    host.ok(&[&["apply"], &cidrs[..], &[&path]].concat());
    let found = until("both addresses", || {
        let found: BTreeSet<String> = resolve(&host, "client", "svc").into_iter().collect();
        let has = |prefix| found.iter().any(|address| address.starts_with(prefix));
        (has("10.98.0.") && has("fd98::")).then_some(found)
    });
    for address in found {
        assert_eq!(connect(&host, "client", (&address, "80")), (0, "web".into()), "{address}");
    }
    // Other subnets are not taken from under the pods that are there.
    let another = host.manifest(&pod("another", json!({ "containers": [facts("facts", &["sleep"])] })));
    host.run(&["run", "-d", "--pod-cidr", "10.97.0.0/24", &another])
        .expect(125)
        .says(&["--pod-cidr 10.99.0.0/24,fd99::/64", "2 pods on it"]);
    // Who does not say is on the one that is there.
    host.ok(&["run", "-d", &another]);
    assert!(address(&host, "another").starts_with("10.99.0."));
}

#[test]
fn bad_networks_are_refused() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    ip(&["-n", &network, "link", "add", "taken", "type", "veth", "peer", "name", "other"]);
    ip(&["-n", &network, "address", "add", "10.86.7.1/24", "dev", "taken"]);
    ip(&["-n", &network, "link", "set", "taken", "up"]);
    let path = host.manifest(&pod("app", json!({ "containers": [facts("facts", &["sleep"])] })));
    host.run(&["run", "-d", &path]).expect(125).says(&["10.86.0.0/16 overlaps", "10.86.7.0/24", "--pod-cidr"]);
    host.run(&["run", "-d", "--bridge", "taken", "--pod-cidr", "10.99.0.0/24", &path])
        .expect(125)
        .says(&["taken", "bridge"]);
    let wrong = |args: &[&str], words: &[&str]| {
        let code = host.run(&[&["run", "-d"], args, &[&path]].concat()).says(words).code;
        assert_ne!(code, 0, "{args:?}");
    };
    wrong(&["--pod-cidr", "10.99.0.1/24"], &["10.99.0.0/24"]);
    wrong(&["--pod-cidr", "10.99.0.0/31"], &["10.99.0.0/31", "addresses"]);
    wrong(&["--pod-cidr", "10.99.0.0/24,10.98.0.0/24"], &["--pod-cidr", "one of IPv4 and one of IPv6"]);
    wrong(&["--pod-cidr", "10.99.0.0/24", "--service-cidr", "10.99.0.128/25"], &["in common"]);
    wrong(&["--pod-cidr", "10.99.0.0/24", "--service-cidr", "fd00::/112"], &["family"]);
    wrong(&["--bridge", "a-name-that-is-too-long"], &["15"]);
    wrong(&["--network", "bridged"], &["bridge, none, host, cni"]);
    let mut annotated = pod("annotated", json!({ "containers": [facts("facts", &["sleep"])] }));
    annotated["metadata"]["annotations"] = json!({ "podshim.io/network": "none" });
    let path = host.manifest(&annotated);
    host.run(&["run", "-d", "--network", "bridge", &path]).expect(125).says(&["podshim.io/network", "--network"]);
    host.ok(&["run", "-d", &path]);
    assert_eq!(host.inspect("annotated")["status"]["podIP"], Value::Null, "none has loopback only");
    annotated["metadata"]["name"] = json!("port");
    annotated["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 1, "hostPort": 1 }]);
    host.foreground(&annotated).expect(125).says(&["hostPort 1", "loopback only"]);
    assert_eq!(leaks::on_network(&network), Vec::<String>::new());
}

#[test]
fn no_address_is_left() {
    let Some(host) = Host::new(NEEDS) else { return };
    host.own_network();
    let start = |name: &str| {
        let path = host.manifest(&pod(name, json!({ "containers": [facts("facts", &["sleep"])] })));
        host.run(&["run", "-d", "--pod-cidr", "10.99.0.0/29", &path])
    };
    for name in ["a", "b", "c", "d"] {
        start(name).expect(0);
    }
    start("e").expect(125).says(&["all 4 addresses of 10.99.0.0/29 are in use"]);
    assert!(!host.ok(&["ps"]).contains("e "));
    let freed = address(&host, "b");
    host.ok(&["rm", "-f", "b"]);
    start("e").expect(0);
    assert_eq!(address(&host, "e"), freed);
}

#[test]
fn the_network_comes_back() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    host.start(&server("web", &json!({ "app": "web" })));
    client(&host, "client");
    let web = address(&host, "web");
    let server = || -> i32 {
        let text = std::fs::read_to_string(host.path("state/network/name-server.json")).unwrap_or_default();
        serde_json::from_str::<Value>(&text).ok().and_then(|v| v["pid"].as_i64()).unwrap_or(0) as i32
    };
    // The name server is killed: another one takes its place, and nothing else is disturbed.
    let first = server();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    assert_eq!(connect(&host, "client", (&web, "80")).0, 0);
    until("another name server", || {
        (server() != first && resolve(&host, "client", "web") == [web.clone()]).then_some(())
    });
    // The bridge is deleted by hand.
    ip(&["-n", &network, "link", "delete", "podshim0"]);
    until("the bridge", || (connect(&host, "client", (&web, "80")) == (0, "web".into())).then_some(()));
    until("names", || (resolve(&host, "client", "web") == [web.clone()]).then_some(()));
    // The rules are deleted by hand: they are there again with the next change.
    let mut nft = host.beside(&["nft", "delete", "table", "inet", "podshim_podshim0"]);
    assert!(nft.status().unwrap().success());
    client(&host, "third");
    let tables = host.finish(host.beside(&["nft", "list", "tables"])).out;
    assert!(tables.contains("table inet podshim_podshim0"), "{tables}");
    // A supervisor is killed: who removes the pod removes its link and its address.
    host.kill_supervisor("third");
    host.ok(&["rm", "-f", "third"]);
    let left = leaks::on_network(&network).iter().filter(|l| l.contains("veth")).count();
    assert_eq!(left, 3, "two pods and the name server");
}

#[test]
fn two_hundred_pods_at_once() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    const PODS: usize = 200;
    let paths: Vec<String> = (0..PODS)
        .map(|n| {
            host.manifest(&pod(
                &format!("p{n}"),
                json!({ "terminationGracePeriodSeconds": 0, "containers": [facts("facts", &["sleep"])] }),
            ))
        })
        .collect();
    let mut commands: Vec<Command> =
        paths.iter().map(|path| host.command(&["run", "-d", "--no-capacity-check", path])).collect();
    for chunk in commands.chunks_mut(20) {
        let children: Vec<_> =
            chunk.iter_mut().map(|c| c.stderr(std::process::Stdio::piped()).spawn().unwrap()).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let all: Value = serde_json::from_str(&host.ok(&["ps", "-o", "json"])).unwrap();
    let items = all["items"].as_array().unwrap();
    let addresses: BTreeSet<&str> = items.iter().map(|p| p["status"]["podIP"].as_str().unwrap()).collect();
    assert_eq!((items.len(), addresses.len()), (PODS, PODS), "no address is leased twice");
    let first = address(&host, "p0");
    let parsed: IpAddr = first.parse().unwrap();
    assert!(parsed.is_ipv4());
    host.ok(&["rm", "-f", "--all"]);
    assert_eq!(leaks::on_network(&network), Vec::<String>::new());
}
