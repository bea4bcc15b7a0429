//! A host with a bridge, pods on it as podshim puts them there, and somebody outside who knows the host only.

use super::{BRIDGE, empty_view, ip, member};
use crate::network::ground::Namespace;
use crate::network::link::{Attachment, Bridge, LinkName, Mac, Port, Socket};
use crate::network::nft;
use crate::network::rules::ruleset;
use crate::network::view::{Member, View};
use nix::sys::socket::{Shutdown, shutdown};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything takes that works.
pub(super) const SOON: Duration = Duration::from_secs(5);
/// Longer than what works takes, without waiting for it in vain for long.
pub(super) const BRIEFLY: Duration = Duration::from_millis(300);

/// The host's address outside, and the other's.
pub(super) const HOST: &str = "192.0.2.1";
pub(super) const OUTSIDE: &str = "192.0.2.2";

/// Whether the kernel has the chains of inet tables see frames on bridges (`net.bridge.bridge-nf-call-iptables`). It has on hosts
/// of docker and Kubernetes, and then things go another way; on a kernel without it both are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnBridges {
    Seen,
    NotSeen,
}

pub(super) struct Town {
    pub host: Namespace,
    pub outside: Namespace,
    pods: BTreeMap<String, Namespace>,
    pub view: View,
}

impl Town {
    /// One without pods; `None` only if this may be skipped.
    pub(super) fn new() -> Option<Town> {
        Town::with_frames(OnBridges::NotSeen)
    }

    /// One of either sort; none only if this may be skipped.
    pub(super) fn each() -> impl Iterator<Item = Town> {
        [OnBridges::NotSeen, OnBridges::Seen].into_iter().filter_map(Town::with_frames)
    }

    fn with_frames(frames: OnBridges) -> Option<Town> {
        let town =
            Town { host: Namespace::new()?, outside: Namespace::new()?, pods: BTreeMap::new(), view: empty_view() };
        for setting in ["iptables", "ip6tables"] {
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{setting}");
            let value = if frames == OnBridges::Seen { "1" } else { "0" };
            match town.host.run(|| std::fs::write(&path, value)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => other.unwrap(),
            }
        }
        town.host.ip(&format!(
            "link add up0 type veth peer name eth0 netns {}
             addr add {HOST}/24 dev up0
             addr add 2001:db8::1/64 dev up0 nodad
             link set up0 up
             route add default via {OUTSIDE}
             -6 route add default via 2001:db8::2",
            town.outside.path()
        ));
        // No way to pods but by the host's own address.
        town.outside.ip(&format!(
            "addr add {OUTSIDE}/24 dev eth0
             addr add 2001:db8::2/64 dev eth0 nodad
             link set eth0 up"
        ));
        let gateways: Vec<(IpAddr, u8)> =
            town.view.network.gateways().map(|(address, subnet)| (address, subnet.prefix())).collect();
        let bridge = Bridge { name: &BRIDGE.parse().unwrap(), gateways: &gateways, mtu: 1500 };
        town.host.run(|| Socket::open().unwrap().ensure_bridge(&bridge).unwrap());
        // A link that is up is so for IPv6 only when the kernel has told itself, which it does once a second.
        let deadline = Instant::now() + SOON;
        while town.ask("host", "[2001:db8::2]:9") != Err(ErrorKind::ConnectionRefused) {
            assert!(Instant::now() < deadline, "nobody is outside");
        }
        Some(town)
    }

    /// Adds pods, and puts the rules in place.
    pub(super) fn with(mut self, members: Vec<Member>) -> Town {
        for member in members {
            self.add(member);
        }
        self.apply();
        self
    }

    /// Adds a pod; the rules do not know it yet.
    pub(super) fn add(&mut self, member: Member) {
        if let Some(link) = &member.link {
            let namespace = Namespace::new().unwrap();
            let (link, bridge): (LinkName, LinkName) = (link.parse().unwrap(), BRIDGE.parse().unwrap());
            let gateway = |address: IpAddr| {
                let (gateway, _) = self.view.network.gateways().find(|(_, subnet)| subnet.contains(address)).unwrap();
                (address, gateway)
            };
            let addresses: Vec<(IpAddr, IpAddr)> = member.addresses.iter().map(|address| gateway(*address)).collect();
            let port = Port { link: &link, bridge: &bridge, mac: Mac::of(&member.addresses[0]) };
            let attachment = Attachment { port, namespace: namespace.fd(), addresses: &addresses, mtu: 1500 };
            self.host.run(|| Socket::open().unwrap().attach_veth(&attachment).unwrap());
            self.pods.insert(member.name.clone(), namespace);
        }
        self.view.members.push(member);
    }

    /// A pod with the host's network.
    pub(super) fn on_host(name: &str) -> Member {
        Member { link: None, addresses: vec![ip(HOST), ip("2001:db8::1")], ..member(name, 0) }
    }

    pub(super) fn apply(&self) {
        let ruleset = ruleset(&self.view);
        self.host.run(|| nft::apply(&ruleset)).unwrap_or_else(|error| panic!("{error}\n{ruleset}"));
    }

    /// Where a pod, `host` or `outside` is.
    pub(super) fn at(&self, name: &str) -> &Namespace {
        match name {
            "host" => &self.host,
            "outside" => &self.outside,
            pod => &self.pods[pod],
        }
    }

    /// A pod.
    pub(super) fn member(&mut self, name: &str) -> &mut Member {
        self.view.members.iter_mut().find(|member| member.name == name).unwrap()
    }

    /// Has somebody answer on a TCP port of all its addresses.
    pub(super) fn serve(&self, name: &str, port: u16) -> Server {
        let listener = self.at(name).run(|| TcpListener::bind(("::", port)).unwrap());
        Server::start(name, listener)
    }

    /// Connects, and says who answered and whom they saw: `web 10.86.0.3`.
    pub(super) fn ask(&self, from: &str, address: &str) -> Result<String, ErrorKind> {
        let address: SocketAddr = address.parse().unwrap();
        self.at(from).run(|| ask(address, BRIEFLY)).map_err(|error| error.kind())
    }

    /// Likewise, of what must be answered; the name only.
    pub(super) fn who(&self, from: &str, address: &str) -> String {
        let address: SocketAddr = address.parse().unwrap();
        let answer = self.at(from).run(|| ask(address, SOON));
        let answer = answer.unwrap_or_else(|error| panic!("{from} asks {address}: {error}\n{}", ruleset(&self.view)));
        answer.split(' ').next().unwrap().to_owned()
    }

    /// Sends a datagram, and returns the answer.
    pub(super) fn ask_by_udp(&self, from: &str, address: &str) -> Result<String, ErrorKind> {
        let address: SocketAddr = address.parse().unwrap();
        self.at(from).run(|| ask_by_udp(address)).map_err(|error| error.kind())
    }
}

fn ask(address: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_by_udp(address: SocketAddr) -> std::io::Result<String> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(BRIEFLY))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Somebody who answers on a port, until it is dropped.
pub(super) struct Server {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(name: &str, listener: TcpListener) -> Server {
        let (name, own) = (name.to_owned(), listener.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = own.accept() {
                // The client may have gone.
                let _ = write!(stream, "{name} {}", peer.ip().to_canonical());
            }
        });
        Server { listener, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // accept(2) returns EINVAL then.
        let _ = shutdown(self.listener.as_fd().as_raw_fd(), Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
