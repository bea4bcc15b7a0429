//! `podshim port-forward`: connections in a pod's network namespace, whatever its network.

use crate::harness::{Host, Live, PATIENCE, facts, pod, shell, until, with};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::Command;

/// A pod with loopback only: a web server that listens there, an echo, one that answers with a checksum of all it was
/// sent, and one on IPv6.
fn start(host: &Host) {
    let web = "mkdir /www; head -c 3000000 /dev/zero >/www/zeros; echo index >/www/index.html; \
               exec httpd -f -p 127.0.0.1:8080 -h /www";
    let containers = [
        with(shell("web", web), json!({ "ports": [{ "name": "http", "containerPort": 8080 }] })),
        shell("echo", "exec nc -ll -p 9000 -e cat"),
        shell("sum", "exec nc -ll -p 9001 -e sha256sum"),
        facts("six", &["listen", "9002", "six", "--bind", "::1"]),
    ];
    let manifest = host.manifest(&pod("web", json!({ "containers": containers })));
    host.ok(&["run", "-d", "--network", "none", &manifest]);
}

/// The command, once it listens: with the local port of each remote one.
fn forward(host: &Host, args: &[&str]) -> (Live, Vec<u16>) {
    forward_by(host.live(&[&["port-forward"], args].concat()), args.iter().filter(|a| a.starts_with(':')).count())
}

fn forward_by(live: Live, count: usize) -> (Live, Vec<u16>) {
    let lines = |text: &str| -> Vec<u16> {
        let of = |line: &str| line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok();
        text.lines().filter_map(of).collect()
    };
    let text = live.until("forwarded ports", |text| lines(text).len() >= count && text.ends_with('\n'));
    let ports = lines(&text);
    (live, ports)
}

fn connect(ip: impl Into<IpAddr>, port: u16) -> TcpStream {
    let stream = TcpStream::connect((ip.into(), port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Says something, says that this is all, and reads the answer.
fn try_ask(ip: impl Into<IpAddr>, port: u16, text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(ip, port);
    stream.write_all(text)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn ask(ip: impl Into<IpAddr>, port: u16, text: &[u8]) -> Vec<u8> {
    try_ask(ip, port, text).unwrap()
}

/// Waits until a server in the pod listens, which answers this so; before, connections to it are ended without an answer.
fn until_answered(port: u16, text: &[u8], fine: impl Fn(&[u8]) -> bool) {
    let answer = || try_ask(Ipv4Addr::LOCALHOST, port, text).ok();
    until("an answer", || answer().filter(|answer| fine(answer)));
}

/// The answer to a request, once the server listens.
fn get(ip: impl Into<IpAddr> + Copy, port: u16, path: &str) -> String {
    until(path, || {
        let mut stream = connect(ip, port);
        let mut answer = Vec::new();
        let asked = stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
        asked.and_then(|()| stream.read_to_end(&mut answer)).ok()?;
        Some(String::from_utf8(answer).unwrap()).filter(|answer| !answer.is_empty())
    })
}

/// Bytes that no two places have in common.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

#[test]
fn a_server_on_a_pods_loopback_is_reached() {
    let Some(host) = Host::new(&[]) else { return };
    start(&host);
    let (mut live, ports) = forward(&host, &["pod/web", "-n", "default", ":http", ":81", ":9002"]);
    let [web, closed, six] = ports[..] else { panic!("{ports:?}") };
    assert!(live.out().contains(&format!("Forwarding from 127.0.0.1:{web} -> 8080\n")), "{}", live.out());
    assert!(live.out().contains(&format!("Forwarding from [::1]:{web} -> 8080\n")), "{}", live.out());
    let answer = get(Ipv4Addr::LOCALHOST, web, "/");
    assert!(answer.contains(" 200 OK\r\n") && answer.ends_with("\r\n\r\nindex\n"), "{answer}");
    let answer = get(std::net::Ipv6Addr::LOCALHOST, web, "/zeros");
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), 3_000_000);
    live.until_has(&format!("Handling connection for {web}\n"));
    // Nobody listens there: that connection ends, and nothing else.
    let gone = connect(Ipv4Addr::LOCALHOST, closed).read(&mut [0; 8]);
    assert!(matches!(gone, Ok(0) | Err(_)), "{gone:?}");
    let said = format!(
        "podshim: an error occurred forwarding {closed} -> 81: connecting to port 81 in pod default/web: \
         127.0.0.1:81: Connection refused; [::1]:81: Connection refused\n"
    );
    until("the error", || live.err().contains(&said).then_some(()));
    until_answered(six, b"", |answer| answer == b"six\n");
    get(Ipv4Addr::LOCALHOST, web, "/");
    live.signal(Signal::SIGINT);
    assert_eq!(live.wait(), 0, "{}", live.err());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, web)).is_err());
}

#[test]
fn what_is_transferred_is_whole_in_both_directions_at_once() {
    let Some(host) = Host::new(&[]) else { return };
    start(&host);
    let (live, ports) = forward(&host, &["web", ":9000", ":9001"]);
    let [echo, sum] = ports[..] else { panic!("{ports:?}") };
    until_answered(echo, b"x", |answer| answer == b"x");
    let data = noise(16 << 20);
    let mut stream = connect(Ipv4Addr::LOCALHOST, echo);
    let mut writing = stream.try_clone().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        writing.write_all(&sent).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == data, "{} of {} bytes", received.len(), data.len());
    // The pod's end answers only after ours has said all.
    until_answered(sum, b"x", |answer| !answer.is_empty());
    let expected: String = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(ask(Ipv4Addr::LOCALHOST, sum, &data), format!("{expected}  -\n").as_bytes());
    // Many at once, each of which has its own answer. They come one after the other: busybox's nc lets two wait.
    let mut clients: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut client = connect(Ipv4Addr::LOCALHOST, echo);
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client
        })
        .collect();
    let mut exchange = |round: u32| {
        for (number, client) in clients.iter_mut().enumerate() {
            let text = format!("{round}-{number};").repeat(200);
            client.write_all(text.as_bytes()).unwrap();
            let mut answer = vec![0; text.len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(String::from_utf8(answer).unwrap(), text);
        }
    };
    (0..3).for_each(&mut exchange);
    // Of the time before the servers listened.
    assert!(live.err().lines().all(|line| line.contains(": connecting to port ")), "{}", live.err());
}

#[test]
fn a_connection_that_a_client_leaves_open_ends_with_the_command_and_the_command_with_the_pod() {
    let Some(host) = Host::new(&[]) else { return };
    start(&host);
    let (mut live, ports) = forward(&host, &["web", ":9000"]);
    until_answered(ports[0], b"x", |answer| answer == b"x");
    let mut stream = connect(Ipv4Addr::LOCALHOST, ports[0]);
    stream.write_all(b"y").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    host.ok(&["stop", "--time", "0", "web"]);
    assert_eq!(live.wait(), 125);
    assert!(live.err().contains("lost connection to pod default/web: it has ended (Failed)"), "{}", live.err());
    match stream.read(&mut [0; 8]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
    host.run(&["port-forward", "web", "80"]).expect(125).says(&["pod default/web is not running any more"]);
    host.ok(&["rm", "web"]);
    start(&host);
    let (mut live, _) = forward(&host, &["web", ":80"]);
    host.ok(&["rm", "-f", "web"]);
    assert_eq!(live.wait(), 125);
    assert!(live.err().contains("lost connection to pod default/web: it "), "{}", live.err());
}

#[test]
fn ports_that_are_taken_and_ports_that_are_none() {
    let Some(host) = Host::new(&[]) else { return };
    let ports = json!({ "ports": [{ "name": "dns", "containerPort": 53, "protocol": "UDP" }] });
    let manifest = pod("none", json!({ "containers": [with(facts("c", &["sleep"]), ports)] }));
    host.ok(&["run", "-d", "--network", "none", &host.manifest(&manifest)]);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let wanted = format!("{port}:80");
    let error = format!("unable to listen on port {port}: bind 127.0.0.1:{port}: Address already in use");
    host.run(&["port-forward", "none", &wanted]).expect(125).says(&[
        &error,
        "`:80` takes a port that is free",
        &format!("unable to listen on any of the requested ports: {port} -> 80"),
    ]);
    let (mut live, others) = forward(&host, &["none", &wanted, ":81", "--address", "127.0.0.1"]);
    until(&error, || live.err().contains(&error).then_some(()));
    assert_eq!((others.len(), live.out().lines().count()), (1, 1), "{}", live.out());
    live.signal(Signal::SIGTERM);
    assert_eq!(live.wait(), 0);
    for (args, said) in [
        (["none", "53"], "port 53 of pod default/none is of UDP: it cannot be forwarded, only TCP"),
        (["none", "dns"], "port \"dns\" of pod default/none is of UDP"),
        (["none", "http"], "pod default/none has no port of the name \"http\"; its names are: dns"),
        (["nobody", "80"], "pod \"nobody\" not found"),
        (["service/web", "80"], "Service default/web not found"),
    ] {
        host.run(&[&["port-forward"][..], &args].concat()).expect(125).says(&[said]);
    }
    host.run(&["port-forward", "none", "53/udp"]).expect(2).says(&["UDP cannot be forwarded, only TCP"]);
    host.run(&["port-forward", "none", "80", "--address", "a.example"]).expect(2).says(&["neither an address nor"]);
}

#[test]
fn a_pod_is_waited_for_until_it_runs() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "initContainers": [shell("wait", "until [ -e /go ]; do sleep 0.1; done")],
        "containers": [shell("echo", "exec nc -ll -p 9000 -e cat")] });
    let manifest = host.manifest(&pod("slow", spec));
    let mut run = host.live(&["run", "-d", "--network", "none", &manifest]);
    until("the pod", || host.run(&["ps", "-q"]).out.contains("slow").then_some(()));
    host.until_status(("slow", "wait"), "running", |status| status["state"]["running"].is_object());
    host.run(&["port-forward", "slow", ":9000", "--pod-running-timeout", "1s"])
        .expect(125)
        .says(&["pod default/slow does not run after the time given by --pod-running-timeout"]);
    let live = host.live(&["port-forward", "slow", ":9000"]);
    host.go("slow", "wait");
    let (_live, ports) = forward_by(live, 1);
    until_answered(ports[0], b"x", |answer| answer == b"x");
    assert_eq!(run.wait(), 0, "{}", run.err());
}

#[test]
fn a_pod_with_the_hosts_network_is_forwarded_to_but_not_in_a_circle() {
    let Some(host) = Host::new(&["ip", "nsenter"]) else { return };
    // What stands for the host's network is the test's own.
    let enter = format!("--net=/run/netns/{}", host.network("host"));
    let command = |args: &[&str]| {
        let podshim = host.command(args);
        let inside = ["nsenter", &enter].map(std::ffi::OsString::from);
        let before: Vec<_> = inside.into_iter().chain([podshim.get_program().to_owned()]).collect();
        host.command_by(&before, args)
    };
    let spec = json!({ "hostNetwork": true, "containers": [shell("echo", "exec nc -ll -p 9000 -e cat")] });
    host.finish(command(&["run", "-d", &host.manifest(&pod("of-host", spec))])).expect(0);
    host.finish(command(&["port-forward", "of-host", "9001"]))
        .expect(125)
        .says(&["pod default/of-host has this host's network: its port 9001 is here without being forwarded"]);
    let (_live, ports) = forward_by(Live::start(command(&["port-forward", "of-host", ":9000"])), 1);
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; echo hello >&3; head -n 1 <&3", ports[0]);
    until("the echo", || {
        let output = Command::new("nsenter").args([&enter, "bash", "-c", &script]).output().unwrap();
        (output.stdout == b"hello\n").then_some(())
    });
}

#[test]
fn a_service_leads_to_one_of_its_pods_that_is_ready() {
    let Some(host) = Host::new(&[]) else { return };
    start(&host);
    let spec = json!({ "containers": [facts("c", &["sleep"])] });
    host.ok(&["run", "-d", "--network", "none", &host.manifest(&pod("other", spec))]);
    let write = |path: &str, value: &Value| {
        let path = host.path("state/network").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    };
    let ready = |name: &str, ready: bool| {
        let uid = host.uid(name);
        let member = json!({ "uid": uid, "namespace": "default", "name": name, "labels": { "app": "web" }, "hostname": name,
            "subdomain": null, "addresses": [], "link": null, "ready": ready, "terminating": false,
            "ports": [{ "name": "http", "container_port": 8080, "protocol": "TCP", "host_port": null, "host_ip": null }] });
        write(&format!("members/{uid}.json"), &member);
    };
    let service = json!({ "metadata": { "name": "front", "namespace": "default" }, "spec": { "selector": { "app": "web" },
        "clusterIP": "10.87.0.9", "ports": [{ "name": "web", "port": 80, "targetPort": "http" }] } });
    write("services/default_front.json", &service);
    ready("other", false);
    host.run(&["port-forward", "svc/front", ":web"])
        .expect(125)
        .says(&["Service default/front has no pod that is ready; not ready: other"]);
    ready("web", true);
    let (live, ports) = forward(&host, &["service/front", ":80"]);
    assert!(live.out().contains("-> 8080\n"), "{}", live.out());
    assert!(get(Ipv4Addr::LOCALHOST, ports[0], "/").ends_with("index\n"));
    host.run(&["port-forward", "svc/front", ":8080"])
        .expect(125)
        .says(&["Service default/front has no port 8080; it has 80"]);
}
