//! The name server as a process, on a bridge in a network namespace that the test makes, asked by a pod on that bridge.
//!
//! Takes root. The program comes from `$PODSHIM_BIN` (default: cargo's).

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use podshim::network::dns;
use podshim::network::link::{Attachment, Bridge, LinkName, Mac, Port, Socket, veth_name};
use podshim::plan::network::BridgeNetwork;
use podshim::sys::net::{in_namespace, loopback_up};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);
const BRIDGE: &str = "testbridge";

/// A host of its own, with a bridge and a network's files. Its network is that of the thread that runs the test.
struct Host {
    files: tempfile::TempDir,
    network: BridgeNetwork,
}

fn on_a_host(test: impl FnOnce(&Host) + Send) {
    if !nix::unistd::geteuid().is_root() {
        let skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
        assert!(skip.split([',', ' ']).any(|w| w == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
        return;
    }
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        loopback_up().unwrap();
        let host = Host::new();
        test(&host);
    };
    if let Err(panic) = std::thread::scope(|scope| scope.spawn(run).join()) {
        std::panic::resume_unwind(panic);
    }
}

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Host {
    fn new() -> Host {
        let network = BridgeNetwork {
            bridge: BRIDGE.into(),
            pods: vec!["10.86.0.0/16".parse().unwrap(), "fd86::/64".parse().unwrap()],
            services: vec!["10.87.0.0/16".parse().unwrap()],
        };
        let gateways = [(ip("10.86.0.1"), 16), (ip("fd86::1"), 64)];
        let bridge = Bridge { name: &name(BRIDGE), gateways: &gateways, mtu: 1400 };
        Socket::open().unwrap().ensure_bridge(&bridge).unwrap();
        let host = Host { files: tempfile::tempdir().unwrap(), network };
        // As podshim has it: nobody comes through the state directory.
        let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(host.files.path(), 0o700);
        for directory in ["", "members", "services"] {
            std::fs::create_dir_all(host.path(directory)).unwrap();
            mode(&host.path(directory), 0o755);
        }
        host.put("network.json", &serde_json::to_value(&host.network).unwrap());
        host
    }

    fn path(&self, file: &str) -> PathBuf {
        self.files.path().join("network").join(file)
    }

    fn put(&self, file: &str, value: &Value) {
        let unfinished = self.path("unfinished");
        std::fs::write(&unfinished, serde_json::to_vec(value).unwrap()).unwrap();
        std::fs::rename(unfinished, self.path(file)).unwrap();
    }

    fn add_pod(&self, number: u32) {
        let addresses = [format!("10.86.{}.{}", number / 200, number % 200 + 3), format!("fd86::{:x}", number + 3)];
        let member = json!({ "uid": format!("{number:08}"), "namespace": "default", "name": format!("pod-{number}"),
            "labels": { "app": "web" }, "hostname": format!("pod-{number}"), "subdomain": "set", "addresses": addresses,
            "ports": [], "link": format!("v{number}"), "ready": true, "terminating": false });
        self.put(&format!("members/{number:08}.json"), &member);
    }

    fn add_service(&self, name: &str, spec: &Value) {
        let service = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec });
        self.put(&format!("services/default_{name}.json"), &service);
    }

    /// Starts the name server, the host's servers being in this resolv.conf.
    fn start(&self, resolv_conf: &str) -> Running {
        let own = self.files.path().join("resolv.conf");
        std::fs::write(&own, resolv_conf).unwrap();
        std::fs::set_permissions(&own, PermissionsExt::from_mode(0o644)).unwrap();
        let program = std::env::var("PODSHIM_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_podshim").into());
        // In a mount namespace of its own, which ends with it.
        let script = r#"mount --bind "$1" "$(realpath /etc/resolv.conf)" && exec "$2" name-server "$3""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(own).arg(program).arg(self.path(""));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        line.clear();
        assert_eq!(output.read_line(&mut line).unwrap(), 0, "nothing more, and its end at once");
        Running(child)
    }

    fn link(&self) -> LinkName {
        dns::link_name(&self.network)
    }
}

/// A name server's process.
struct Running(Child);

impl Running {
    fn status(&self, field: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{field} in {text}")).trim().to_owned()
    }

    /// Waits until it has ended.
    fn code(&mut self) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(since.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pod on the bridge.
struct Pod(OwnedFd);

impl Pod {
    fn attach() -> Pod {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            open("/proc/thread-self/ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
        };
        let namespace = std::thread::spawn(make).join().unwrap();
        let addresses = [(ip("10.86.9.9"), ip("10.86.0.1")), (ip("fd86::9:9"), ip("fd86::1"))];
        let port = Port { link: &veth_name("asks"), bridge: &name(BRIDGE), mac: Mac::of(&addresses[0].0) };
        let attachment = Attachment { port, namespace: namespace.as_fd(), addresses: &addresses, mtu: 1400 };
        Socket::open().unwrap().attach_veth(&attachment).unwrap();
        Pod(namespace)
    }

    /// A socket of the pod's, connected to the name server.
    fn socket(&self, server: &str) -> UdpSocket {
        let make = || {
            let socket = UdpSocket::bind(if server.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.connect((server, dns::PORT)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        in_namespace(self.0.as_fd(), make).unwrap()
    }

    /// The code of the answer, and the count of its records.
    fn ask(&self, name: &str, kind: u8) -> (u8, u8) {
        let socket = self.socket("10.86.0.2");
        exchange(&socket, &query(name, kind))
    }
}

fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, kind, 0, 1]);
    packet
}

fn exchange(socket: &UdpSocket, query: &[u8]) -> (u8, u8) {
    let mut answer = [0; 2048];
    socket.send(query).unwrap();
    let length = socket.recv(&mut answer).expect("an answer");
    assert!(length >= 12 && answer[..2] == query[..2]);
    (answer[3] & 0x0f, answer[7])
}

const A: u8 = 1;
const PTR: u8 = 12;
const AAAA: u8 = 28;

#[test]
fn a_pod_asks() {
    on_a_host(|host| {
        host.add_pod(0);
        host.add_service("mydb", &json!({ "clusterIP": "10.87.0.7", "ports": [{ "port": 80 }] }));
        let mut server = host.start("nameserver 127.0.0.1\n");
        let pod = Pod::attach();
        assert_eq!(pod.ask("mydb.default.svc.cluster.local", A), (0, 1));
        assert_eq!(pod.ask("7.0.87.10.in-addr.arpa", PTR), (0, 1));
        assert_eq!(pod.ask("pod-0.default.svc.cluster.local", AAAA), (0, 1));
        assert_eq!(exchange(&pod.socket("fd86::2"), &query("mydb.default.svc.cluster.local", A)), (0, 1), "by IPv6");
        assert_eq!(pod.ask("myservice.default.svc.cluster.local", A), (3, 0));
        host.add_service("myservice", &json!({ "clusterIP": "10.87.0.8", "ports": [{ "port": 80 }] }));
        let since = Instant::now();
        while pod.ask("myservice.default.svc.cluster.local", A) != (0, 1) {
            assert!(since.elapsed() < PATIENCE);
        }
        // The host's server is on the host's loopback, which the pod cannot reach. At first nobody is there.
        assert_eq!(pod.ask("www.example.com", A), (2, 0));
        let upstream = UdpSocket::bind("127.0.0.1:53").unwrap();
        let answers = std::thread::spawn(move || {
            let mut packet = [0; 512];
            let (length, from) = upstream.recv_from(&mut packet).unwrap();
            (packet[2], packet[3]) = (0x81, 0x80);
            upstream.send_to(&packet[..length], from).unwrap();
            from
        });
        assert_eq!(pod.ask("www.example.com", A), (0, 0));
        assert!(answers.join().unwrap().ip().is_loopback());
        // It has given everything up.
        let nobody = "65534\t65534\t65534\t65534";
        for (field, value) in [("Uid", nobody), ("Gid", nobody), ("Groups", ""), ("NoNewPrivs", "1"), ("Seccomp", "2")]
        {
            assert_eq!(server.status(field), value, "{field}");
        }
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(server.status(field), "0000000000000000", "{field}");
        }
        assert_eq!(server.status("Threads"), "1");
        // The last pod goes, and it goes too, with its link.
        std::fs::remove_file(host.path("members/00000000.json")).unwrap();
        assert_eq!(server.code(), Some(0));
        wait_for_no_link(host);
    });
}

fn wait_for_no_link(host: &Host) {
    let since = Instant::now();
    while Socket::open().unwrap().link(&host.link()).unwrap().is_some() {
        assert!(since.elapsed() < PATIENCE, "the kernel removes it with the namespace");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_ends_without_its_link() {
    on_a_host(|host| {
        host.add_pod(0);
        let mut server = host.start("");
        Socket::open().unwrap().remove_link(&host.link()).unwrap();
        assert_eq!(server.code(), Some(1), "its own is gone");
        let mut server = host.start("");
        Socket::open().unwrap().remove_link(&name(BRIDGE)).unwrap();
        assert_eq!(server.code(), Some(1), "the bridge is gone");
        wait_for_no_link(host);
    });
}

#[test]
fn it_is_killed_and_comes_back() {
    on_a_host(|host| {
        host.add_pod(0);
        let pod = Pod::attach();
        for _ in 0..3 {
            let mut server = host.start("");
            assert_eq!(pod.ask("pod-0.default.svc.cluster.local", A), (0, 1));
            kill(Pid::from_raw(server.0.id() as i32), Signal::SIGKILL).unwrap();
            // The link of the one before may still be there.
            assert_eq!(server.code(), None);
        }
    });
}

#[test]
fn what_it_takes() {
    on_a_host(|host| {
        for number in 0..200 {
            host.add_pod(number);
        }
        host.add_service(
            "set",
            &json!({ "clusterIP": "None", "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80 }] }),
        );
        let server = host.start("");
        let pod = Pod::attach();
        let socket = pod.socket("10.86.0.2");
        for name in [
            "pod-150.default.svc.cluster.local",
            "_http._tcp.set.default.svc.cluster.local",
            "nobody.default.svc.cluster.local",
        ] {
            let query = query(name, if name.starts_with('_') { 33 } else { A });
            let mut took: Vec<Duration> = (0..2000)
                .map(|_| {
                    let since = Instant::now();
                    exchange(&socket, &query);
                    since.elapsed()
                })
                .collect();
            took.sort();
            println!("{name}: median {:?}, 99 % {:?}", took[1000], took[1980]);
            assert!(took[1000] < Duration::from_millis(20), "{:?}", took[1000]);
        }
        // Each change is read anew.
        for number in 200..300 {
            host.add_pod(number);
            std::thread::sleep(Duration::from_millis(5));
        }
        let since = Instant::now();
        while pod.ask("pod-299.default.svc.cluster.local", A).0 != 0 {
            assert!(since.elapsed() < PATIENCE);
        }
        println!("the last change was seen within {:?}", since.elapsed());
        println!("resident: {}, of which its own: {}", server.status("VmRSS"), server.status("RssAnon"));
        let own: usize = server.status("RssAnon").trim_end_matches(" kB").parse().unwrap();
        assert!(own < 16 * 1024, "{own} KiB");
    });
}
