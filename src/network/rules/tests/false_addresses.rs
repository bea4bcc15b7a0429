//! What pods send in others' names.

use super::town::Town;
use super::{document, member};
use crate::network::nft;
use crate::network::rules::tables;
use serde_json::json;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

/// Runs a Python program there; frames are made by hand only so.
fn python(town: &Town, at: &str, program: &str) {
    let output = town.at(at).run(|| Command::new("python3").args(["-c", program]).output().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the host knows of a neighbour: `10.86.0.4 lladdr 02:… REACHABLE`.
fn neighbour(town: &Town, address: &str) -> String {
    let arguments = ["neigh", "show", address, "dev", "podshim0"];
    let output = town.at("host").run(|| Command::new("ip").args(arguments).output().unwrap());
    String::from_utf8(output.stdout).unwrap()
}

/// The hardware address of a pod's link.
fn hardware_address(town: &Town, pod: &str) -> String {
    let show = ["-br", "link", "show", "dev", "eth0"];
    let shown = town.at(pod).run(|| Command::new("ip").args(show).output().unwrap().stdout);
    String::from_utf8(shown).unwrap().split_whitespace().nth(2).unwrap().to_owned()
}

fn without_rules(town: &Town) {
    town.host.run(|| nft::remove(&tables("podshim0"))).unwrap();
}

/// Whether a datagram from an address of the pod's choice gets to the host.
fn arrives(town: &Town, from: &str) -> bool {
    let to = if from.contains(':') { "[fd86::1]:7777" } else { "10.86.0.1:7777" };
    let to: SocketAddr = to.parse().unwrap();
    let receiver = town.at("host").run(|| UdpSocket::bind(to).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let sender = town.at("a").run(|| UdpSocket::bind((from, 0)).unwrap());
    sender.send_to(b"x", to).unwrap();
    receiver.recv(&mut [0; 8]).is_ok()
}

#[test]
fn a_pod_sends_from_its_own_addresses_only() {
    let Some(town) = Town::new() else { return };
    let town = town.with(vec![member("a", 3), member("b", 4)]);
    town.at("a")
        .ip("addr add 10.86.0.4/32 dev eth0\naddr add 10.86.0.99/32 dev eth0\naddr add fd86::4/128 dev eth0 nodad");
    // Answers go to others anyway, so what is looked at is what arrives.
    for setting in ["all", "podshim0"] {
        town.host.sysctl(&format!("net/ipv4/conf/{setting}/rp_filter"), "0");
    }
    let others = ["10.86.0.4", "10.86.0.99", "fd86::4"];
    for own in ["10.86.0.3", "fd86::3"] {
        assert!(arrives(&town, own), "{own}");
    }
    for other in others {
        assert!(!arrives(&town, other), "{other}");
    }
    without_rules(&town);
    for other in others {
        assert!(arrives(&town, other), "{other}: without rules it does, so the attempt is a real one");
    }
}

const FRAMES: &str = r#"
import fcntl, socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))

mac = fcntl.ioctl(s, 0x8927, struct.pack("256s", b"eth0"))[18:24]
def arp(sender):
    gateway = socket.inet_aton("10.86.0.1")
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + mac + socket.inet_aton(sender) + b"\xff" * 6 + gateway
    s.send(b"\xff" * 6 + mac + struct.pack("!H", 0x0806) + body)
def checksum(source, target, body):
    data = source + target + struct.pack("!IHBB", len(body), 0, 0, 58) + body
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def icmp6(source, kind, rest):
    source, target = socket.inet_pton(socket.AF_INET6, source), socket.inet_pton(socket.AF_INET6, "ff02::1")
    body = struct.pack("!BBH", kind, 0, 0) + rest
    body = struct.pack("!BBH", kind, 0, checksum(source, target, body)) + rest
    header = struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + source + target
    s.send(b"\x33\x33\0\0\0\x01" + mac + struct.pack("!H", 0x86dd) + header + body)
def advertise(source, target):
    options = struct.pack("!BB", 2, 1) + mac
    icmp6(source, 136, struct.pack("!I", 0x20000000) + socket.inet_pton(socket.AF_INET6, target) + options)
"#;

#[test]
fn a_pod_speaks_for_its_own_addresses_only() {
    let Some(town) = Town::new() else { return };
    let town = town.with(vec![member("a", 3), member("b", 4)]);
    // A second claim within a second of the first is not believed in any case.
    town.host.sysctl("net/ipv4/neigh/podshim0/locktime", "0");
    town.host.sysctl("net/ipv6/neigh/podshim0/locktime", "0");
    let b = |family: &str| {
        let address = if family == "4" { "10.86.0.4" } else { "fd86::4" };
        town.host.ip(&format!("neigh replace {address} lladdr 02:00:00:00:00:01 nud stale dev podshim0"));
        // A hardware address that a frame from `a` puts there replaces it.
        let claim = if family == "4" { "arp('10.86.0.4')" } else { "advertise('fd86::3', 'fd86::4')" };
        python(&town, "a", &format!("{FRAMES}\n{claim}"));
        // Whatever the host is to do with it it has done when it has answered another.
        assert!(arrives(&town, "10.86.0.3"));
        neighbour(&town, address).contains("02:00:00:00:00:01")
    };
    assert!(b("4") && b("6"), "what was known before is still known");
    without_rules(&town);
    assert!(!b("4") && !b("6"), "without rules the claim is believed, so the attempt is a real one");
}

#[test]
fn neighbour_discovery_works_by_link_local_addresses() {
    let Some(town) = Town::new() else { return };
    let town = town.with(vec![member("a", 3)]);
    let show = ["-6", "addr", "show", "dev", "podshim0", "scope", "link"];
    let shown = town.at("host").run(|| Command::new("ip").args(show).output().unwrap().stdout);
    let shown = String::from_utf8(shown).unwrap();
    let address = shown.split_whitespace().find(|word| word.starts_with("fe80")).unwrap().split('/').next().unwrap();
    let target = format!("{address}%eth0");
    let output = town.at("a").run(|| {
        let program = format!(
            "import socket\n\
             s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)\n\
             s.settimeout(5)\n\
             s.sendto(b'\\x80\\0\\0\\0\\0\\x01\\0\\x01', socket.getaddrinfo('{target}', 0)[0][4])\n\
             while s.recv(100)[0] != 129: pass\n"
        );
        Command::new("python3").args(["-c", &program]).output().unwrap()
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // But nothing else does: policies go by pods' own addresses.
    let server = town.at("host").run(|| UdpSocket::bind("[::]:7777").unwrap());
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let program = format!(
        "import socket\n\
         s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n\
         s.sendto(b'x', socket.getaddrinfo('{target}', 7777)[0][4])\n"
    );
    python(&town, "a", &program);
    assert!(server.recv(&mut [0; 8]).is_err());
    without_rules(&town);
    python(&town, "a", &program);
    assert!(server.recv(&mut [0; 8]).is_ok(), "without rules it arrives, so the attempt is a real one");
}

#[test]
fn what_listens_on_the_hosts_loopback_only_is_not_reached() {
    let Some(town) = Town::new() else { return };
    let town = town.with(vec![member("a", 3)]);
    // CVE-2020-8558, as its finder describes it: the pod sends the host a packet to 127.0.0.1.
    town.at("a").sysctl("net/ipv4/conf/eth0/route_localnet", "1");
    town.at("a").ip("route del local 127.0.0.1 dev lo table local
         route del local 127.0.0.0/8 dev lo table local
         route add 127.0.0.1 via 10.86.0.1 dev eth0 src 10.86.0.3");
    let to: SocketAddr = "127.0.0.1:7777".parse().unwrap();
    let receiver = town.at("host").run(|| UdpSocket::bind(to).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let send = || town.at("a").run(|| UdpSocket::bind("10.86.0.3:0").unwrap().send_to(b"x", to).unwrap());
    send();
    assert!(receiver.recv(&mut [0; 8]).is_err());
    without_rules(&town);
    send();
    assert!(receiver.recv(&mut [0; 8]).is_ok(), "without rules it arrives, so the attempt is a real one");
}

/// What is counted of a protocol in the host's `/proc/net/snmp6`.
fn counted(town: &Town, name: &str) -> u64 {
    let text = town.at("host").run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap());
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_pod_is_no_router_and_no_dhcp_server() {
    let Some(town) = Town::new() else { return };
    let town = town.with(vec![member("a", 3)]);
    town.at("a").sysctl("net/ipv4/ip_unprivileged_port_start", "0");
    let advertise = format!("{FRAMES}\nicmp6('fe80::1', 134, struct.pack('!BBHII', 64, 0, 1800, 0, 0))");
    let dhcp = |port: u16| {
        let receiver = town.at("host").run(|| UdpSocket::bind("10.86.0.1:68").unwrap());
        receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let sender = town.at("a").run(|| UdpSocket::bind(("10.86.0.3", port)).unwrap());
        sender.send_to(b"x", "10.86.0.1:68").unwrap();
        receiver.recv(&mut [0; 8]).is_ok()
    };
    let before = counted(&town, "Icmp6InRouterAdvertisements");
    python(&town, "a", &advertise);
    assert!(dhcp(66) && !dhcp(67));
    assert_eq!(counted(&town, "Icmp6InRouterAdvertisements"), before);
    without_rules(&town);
    python(&town, "a", &advertise);
    assert!(dhcp(67));
    assert_eq!(
        counted(&town, "Icmp6InRouterAdvertisements"),
        before + 1,
        "without rules it does, so the attempt is a real one"
    );
}

#[test]
fn pods_reach_each_other_by_the_host_only() {
    for town in Town::each() {
        let town = town.with(vec![member("a", 3), member("b", 4), member("client", 9)]);
        let _server = town.serve("b", 80);
        // `a` and `b` put each other's hardware addresses on their packets, and `a` asks the whole link for `client`.
        for (from, address, to) in [("a", "10.86.0.4", "b"), ("b", "10.86.0.3", "a")] {
            town.at(from).ip(&format!(
                "route add {address} dev eth0
                 neigh replace {address} lladdr {} nud permanent dev eth0",
                hardware_address(&town, to)
            ));
        }
        town.at("a").ip("route add 10.86.0.9 dev eth0");
        // Where frames are looked at as packets the policies hold there too, so it is let pass.
        let frames = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        let is_seen = town.host.run(|| std::fs::read_to_string(frames)).is_ok_and(|text| text.trim() == "1");
        assert_eq!(town.ask("a", "10.86.0.4:80").is_ok(), is_seen);
        assert!(town.ask("a", "10.86.0.9:80").is_err_and(|kind| kind != ErrorKind::ConnectionRefused));
        if !is_seen {
            without_rules(&town);
            assert!(town.ask("a", "10.86.0.4:80").is_ok(), "without rules it is, so the attempt is a real one");
        }
    }
}

#[test]
fn policies_hold_for_what_a_pod_sends_straight_to_another() {
    for town in Town::each() {
        let mut town = town.with(vec![member("a", 3), member("b", 4)]);
        let _server = town.serve("b", 80);
        assert_eq!(town.who("a", "10.86.0.4:80"), "b");
        town.view.policies = vec![document("none", json!({"podSelector": {"matchLabels": {"name": "b"}}}))];
        town.apply();
        town.at("a").ip(&format!(
            "route add 10.86.0.4 dev eth0\nneigh replace 10.86.0.4 lladdr {} nud permanent dev eth0",
            hardware_address(&town, "b")
        ));
        assert_eq!(town.ask("a", "10.86.0.4:80"), Err(ErrorKind::TimedOut));
    }
}
