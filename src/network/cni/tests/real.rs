//! Debian's `containernetworking-plugins`, in network namespaces of the test's own: one that stands for the host, where the
//! plugins are executed, and one for each pod.

use super::*;
use crate::plan::config::{Bandwidth, ContainerPort};
use crate::plan::network::Protocol;
use nix::sched::{CloneFlags, unshare};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Instant;

const PLUGINS: &str = "/usr/lib/cni";

/// Whether what the test needs is here; if not, that fails unless `PODSHIM_MAY_SKIP` names it.
fn available() -> bool {
    let may = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
    let program = |name: &str| std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|d| d.join(name).exists());
    let needs = [
        ("root", nix::unistd::geteuid().is_root()),
        ("cni-plugins", Path::new(PLUGINS).join("bridge").exists()),
        ("iptables", program("iptables")),
        ("ip", program("ip")),
    ];
    needs.into_iter().all(|(need, here)| {
        let skip = may.split(',').any(|word| word.trim() == need);
        assert!(here || skip, "needs {need} (or PODSHIM_MAY_SKIP={need})");
        here
    })
}

type Work = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which lives as long as the thread.
struct Namespace {
    path: PathBuf,
    work: Option<mpsc::Sender<Work>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Namespace {
    fn new() -> Namespace {
        let (work, todo) = mpsc::channel::<Work>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            crate::sys::net::loopback_up().unwrap();
            tell.send(PathBuf::from(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid())))
                .unwrap();
            todo.into_iter().for_each(|work| work());
        });
        let path = told.recv().unwrap();
        Namespace { path, work: Some(work), thread: Some(thread) }
    }

    /// Does something in the namespace.
    #[track_caller]
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.work.as_ref().unwrap().send(Box::new(move || tell.send(work()).unwrap())).unwrap();
        told.recv().expect("it failed in the namespace; see above")
    }

    fn command(&self, line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        self.run(move || {
            let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.work.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

struct Fixture {
    temporary: tempfile::TempDir,
    host: Namespace,
    network: CniNetwork,
    directory: NetworkDir,
}

impl Fixture {
    fn new() -> Fixture {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        std::fs::create_dir_all(path("net.d")).unwrap();
        std::fs::create_dir_all(path("pods")).unwrap();
        let config = json!({ "cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "real", "plugins": [
            { "type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
              "ipam": { "type": "host-local", "dataDir": path("ipam"), "routes": [{ "dst": "0.0.0.0/0" }],
                        "ranges": [[{ "subnet": "10.99.7.0/24" }]] } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            { "type": "firewall" },
            { "type": "tuning", "sysctl": { "net.core.somaxconn": "321" } },
        ] });
        std::fs::write(path("net.d/10-real.conflist"), config.to_string()).unwrap();
        let network = CniNetwork { conf_dir: path("net.d"), bin_dirs: vec![path("none"), PLUGINS.into()] };
        let directory = NetworkDir(path("network"));
        Fixture { temporary, host: Namespace::new(), network, directory }
    }

    fn add(&self, pod: &Namespace, config: PodSandboxConfig) -> Attached {
        std::fs::create_dir_all(self.temporary.path().join("pods").join(&config.uid)).unwrap();
        let (network, directory, namespace) = (self.network.clone(), self.directory.clone(), pod.path.clone());
        self.host.run(move || {
            let sandbox = Sandbox { config: &config, namespace: &namespace, directory: &directory };
            add(&network, &sandbox).map_err(|error| panic!("{error:#}")).unwrap()
        })
    }

    /// Does something about attachments where the plugins are executed.
    fn on_host<T: Send + 'static>(&self, work: impl FnOnce(&NetworkDir) -> T + Send + 'static) -> T {
        let directory = self.directory.clone();
        self.host.run(move || work(&directory))
    }

    /// The addresses that are taken.
    fn leases(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.temporary.path().join("ipam/real")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut leases: Vec<String> = names.filter(|name| name.parse::<Ipv4Addr>().is_ok()).collect();
        leases.sort();
        leases
    }
}

/// A server in a pod that answers each connection with what it sent, in capitals, and then with the peer's address.
fn serve(pod: &Namespace, port: u16) {
    let listener = pod.run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = Vec::new();
            stream.read_to_end(&mut text).unwrap();
            text.make_ascii_uppercase();
            text.truncate(20);
            text.extend_from_slice(format!(" to {}", stream.peer_addr().unwrap().ip()).as_bytes());
            stream.write_all(&text).unwrap();
        }
    });
}

/// What such a server answers.
fn ask(from: &Namespace, address: &str, text: Vec<u8>) -> String {
    let address = address.to_owned();
    from.run(move || {
        let timeout = Duration::from_secs(20);
        let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), timeout).unwrap();
        stream.set_read_timeout(Some(timeout)).unwrap();
        stream.write_all(&text).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}

#[test]
fn debians_plugins_make_a_network_and_take_it_away() {
    if !available() {
        return;
    }
    let fixture = Fixture::new();
    let pods = [Namespace::new(), Namespace::new()];
    let mut config = sandbox_config("one");
    config.ports = vec![ContainerPort {
        name: None,
        container_port: 80,
        protocol: Protocol::Tcp,
        host_port: Some(8080),
        host_ip: None,
    }];
    config.bandwidth = Bandwidth { ingress: Some(8_000_000), egress: Some(1_000_000_000) };
    let first = fixture.add(&pods[0], config);
    let mut config = sandbox_config("two");
    config.bandwidth.egress = Some(1_000_000_000);
    let second = fixture.add(&pods[1], config);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!((&first.addresses[..], &second.addresses[..]), (&[ip("10.99.7.2")][..], &[ip("10.99.7.3")][..]));
    assert_eq!(fixture.leases(), ["10.99.7.2", "10.99.7.3"]);

    serve(&pods[0], 80);
    assert_eq!(ask(&fixture.host, "10.99.7.2:80", b"host".to_vec()), "HOST to 10.99.7.1");
    assert_eq!(ask(&pods[1], "10.99.7.2:80", b"pod".to_vec()), "POD to 10.99.7.3");
    assert_eq!(ask(&fixture.host, "127.0.0.1:8080", b"port".to_vec()), "PORT to 10.99.7.1", "hostPort, from the host");
    assert_eq!(ask(&pods[1], "10.99.7.1:8080", b"port".to_vec()), "PORT to 10.99.7.1", "and from a pod, masqueraded");
    let somaxconn = || std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    assert_eq!(pods[0].run(somaxconn).trim(), "321");

    // 2 MB at 1 MB/s, the first 131 KB of which go at once: bits and bytes are told apart.
    let begin = Instant::now();
    ask(&fixture.host, "10.99.7.2:80", vec![b'x'; 2_000_000]);
    assert!(begin.elapsed() > Duration::from_millis(1400), "{:?}", begin.elapsed());
    let begin = Instant::now();
    serve(&pods[1], 80);
    ask(&fixture.host, "10.99.7.3:80", vec![b'x'; 2_000_000]);
    assert!(begin.elapsed() < Duration::from_millis(1400), "the other has no such limit: {:?}", begin.elapsed());

    // Not of the first: `portmap` up to 1.1.1 complains of rules for IPv6 that it has not made. (And
    // `bandwidth` crashes if there is no limit.)
    let checked = fixture.on_host(|directory| check(directory, "two"));
    assert_eq!(checked.map_err(|error| format!("{error:#}")), Ok(Checked::Fine));
    pods[1].command("ip address flush dev eth0");
    let error = fixture.on_host(|directory| check(directory, "two")).unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("network real (") && text.contains("CNI plugin bridge (/usr/lib/cni/bridge): CHECK: "),
        "{text}"
    );

    fixture.on_host(|directory| delete(directory, "one")).unwrap();
    assert_eq!(fixture.leases(), ["10.99.7.3"]);
    let rules = fixture.host.command("iptables -t nat -S");
    assert!(!rules.contains("8080") && rules.contains("id: \\\"two\\\""), "{rules}");
    let links = fixture.host.command("ip -o link");
    let count = |kind: &str| links.lines().filter(|line| line.contains(kind)).count();
    assert_eq!((count(": veth"), count(": bwp")), (1, 1), "those of the other: {links}");
    // The other pod's namespace is gone before it is asked for.
    drop(pods);
    std::fs::remove_dir(fixture.temporary.path().join("pods/two")).unwrap();
    let gone = fixture.temporary.path().join("pods");
    assert_eq!(fixture.on_host(move |directory| sweep(directory, &gone)).unwrap(), ["two"]);
    assert!(fixture.leases().is_empty());
}

#[test]
fn a_real_plugins_own_words_are_told() {
    if !available() {
        return;
    }
    let fixture = Fixture::new();
    // Four addresses: the network's, the gateway's, one pod's, and the broadcast address.
    let small = json!({ "cniVersion": "1.0.0", "name": "small", "plugins": [{ "type": "ptp", "ipam": { "type": "host-local",
        "subnet": "10.99.8.0/30", "dataDir": fixture.temporary.path().join("ipam") } }] });
    std::fs::write(fixture.network.conf_dir.join("00-small.conflist"), small.to_string()).unwrap();
    let attach = |uid: &str| {
        let pod = Namespace::new();
        let (network, directory, namespace) = (fixture.network.clone(), fixture.directory.clone(), pod.path.clone());
        let config = sandbox_config(uid);
        fixture.host.run(move || {
            let sandbox = Sandbox { config: &config, namespace: &namespace, directory: &directory };
            add(&network, &sandbox).map_err(|error| format!("{error:#}"))
        })
    };
    attach("a").unwrap();
    let error = attach("b").unwrap_err();
    let words =
        ["network small (", "CNI plugin ptp (/usr/lib/cni/ptp): ADD: ", "no IP addresses available in range set"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    assert!(!error.contains("undoing"), "{error}");
    assert!(!fixture.directory.cni().join("b.json").exists() && fixture.directory.cni().join("a.json").exists());
    fixture.on_host(|directory| delete(directory, "a")).unwrap();
}
