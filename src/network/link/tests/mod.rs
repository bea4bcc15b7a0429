//! Real links, as root, in network namespaces that each test makes: one that is the host's, and one per pod.

mod attach;
mod bandwidth;
mod bridge;
mod host;
mod monitor;

use super::*;
use crate::sys::net::in_namespace;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Longer than anything takes that works.
const SOON: Duration = Duration::from_secs(5);
/// Longer than what works takes, without waiting for it in vain for long.
const BRIEFLY: Duration = Duration::from_millis(300);

const V4_GATEWAY: &str = "10.86.0.1";
const V6_GATEWAY: &str = "fd86::1";

/// Runs a test in a network namespace of its own, which is the host's then: in a thread, as a test may run in the main one.
fn on_a_host(test: impl FnOnce(&mut Socket) + Send) {
    if !nix::unistd::geteuid().is_root() {
        let skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
        assert!(skip.split([',', ' ']).any(|w| w == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
        return;
    }
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let mut host = Socket::open().unwrap();
        let lo = name("lo");
        let loopback = host.index(&lo).unwrap();
        host.set_link(&lo, loopback, socket::LinkChange::up()).unwrap();
        // A new namespace has the initial one's settings.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        test(&mut host);
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An empty network namespace, which is there as long as the descriptor is.
fn new_namespace() -> OwnedFd {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        open("/proc/thread-self/ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

/// The bridge of the tests, of both families.
fn ensure(host: &mut Socket, bridge: &LinkName) -> EnsuredBridge {
    let gateways = [(ip(V4_GATEWAY), 16), (ip(V6_GATEWAY), 64)];
    host.ensure_bridge(&Bridge { name: bridge, gateways: &gateways, mtu: 1500 }).unwrap()
}

/// A pod that is attached to the tests' bridge.
struct Pod {
    link: LinkName,
    namespace: OwnedFd,
    v4: IpAddr,
    v6: IpAddr,
    mac: Mac,
}

impl Pod {
    /// A pod that is not attached yet. `number` is the end of its addresses.
    fn new(number: u8) -> Pod {
        let v4 = ip(&format!("10.86.0.{number}"));
        let (link, mac) = (veth_name(&number.to_string()), Mac::of(&v4));
        Pod { link, namespace: new_namespace(), v4, v6: ip(&format!("fd86::{number}")), mac }
    }

    fn attached(host: &mut Socket, bridge: &LinkName, number: u8) -> Pod {
        let pod = Pod::new(number);
        pod.attach(host, bridge).unwrap();
        pod
    }

    fn port<'a>(&'a self, bridge: &'a LinkName) -> Port<'a> {
        Port { link: &self.link, bridge, mac: self.mac }
    }

    fn attach(&self, host: &mut Socket, bridge: &LinkName) -> anyhow::Result<()> {
        let addresses = [(self.v4, ip(V4_GATEWAY)), (self.v6, ip(V6_GATEWAY))];
        let namespace = self.namespace.as_fd();
        host.attach_veth(&Attachment { port: self.port(bridge), namespace, addresses: &addresses, mtu: 1500 })
    }

    /// Does something in the pod's network.
    fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        in_namespace(self.namespace.as_fd(), work).unwrap()
    }

    fn socket(&self) -> Socket {
        Socket::in_namespace(self.namespace.as_fd()).unwrap()
    }

    /// What there is below `/proc/sys/net` in the pod.
    fn setting(&self, path: &str) -> String {
        self.inside(|| setting(path))
    }
}

/// A setting of the calling thread's namespace.
fn setting(path: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
}

/// Connects, and has a word come over the connection; from the calling thread's namespace to a listener anywhere.
fn talk(listener: &TcpListener, limit: Duration) -> std::io::Result<()> {
    let mut there = TcpStream::connect_timeout(&listener.local_addr().unwrap(), limit)?;
    let (mut here, _) = listener.accept()?;
    there.write_all(b"word")?;
    here.set_read_timeout(Some(SOON))?;
    let mut word = [0; 4];
    here.read_exact(&mut word)?;
    assert_eq!(&word, b"word");
    Ok(())
}

/// Listens in the calling thread's namespace.
fn listen(address: IpAddr) -> TcpListener {
    TcpListener::bind(SocketAddr::new(address, 0)).unwrap_or_else(|e| panic!("bind {address}: {e}"))
}

/// The names of the links that are there.
fn names(socket: &mut Socket) -> Vec<String> {
    socket.links().unwrap().into_iter().map(|link| link.name).collect()
}
