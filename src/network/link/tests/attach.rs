//! Pods on the bridge: what they reach and what they do not.

use super::super::socket::{Call, LinkChange};
use super::super::veth::Route;
use super::*;
use crate::sys::process;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use nix::errno::Errno;
use std::net::UdpSocket;

#[test]
fn pods_reach_the_host_and_each_other_through_it() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let (a, b) = (Pod::attached(host, &bridge, 3), Pod::attached(host, &bridge, 4));
        for (gateway, address) in [(V4_GATEWAY, b.v4), (V6_GATEWAY, b.v6)] {
            let on_host = listen(ip(gateway));
            a.inside(|| talk(&on_host, SOON)).unwrap_or_else(|e| panic!("pod to host, {gateway}: {e}"));
            let in_b = b.inside(|| listen(address));
            talk(&in_b, SOON).unwrap_or_else(|e| panic!("host to pod, {address}: {e}"));
            a.inside(|| talk(&in_b, SOON)).unwrap_or_else(|e| panic!("pod to pod, {address}: {e}"));
            let in_b_on_lo = b.inside(|| listen(ip("127.0.0.1")));
            b.inside(|| talk(&in_b_on_lo, SOON)).unwrap();
        }
        // That was the host's doing, not the bridge's.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let in_b = b.inside(|| listen(b.v4));
        assert!(a.inside(|| talk(&in_b, BRIEFLY)).is_err(), "pod to pod, not through the host");
    });
}

/// Nothing waits for duplicate address detection, which takes a second or more per address.
#[test]
fn ipv6_works_at_once() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        let start = std::time::Instant::now();
        ensure(host, &bridge);
        let (a, b) = (Pod::attached(host, &bridge, 3), Pod::attached(host, &bridge, 4));
        let in_b = b.inside(|| listen(b.v6));
        a.inside(|| talk(&in_b, SOON)).unwrap();
        assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    });
}

/// Makes a pod believe that another is on its link, and tries to connect there.
fn try_directly(from: &Pod, to: &Pod) -> std::io::Result<()> {
    let mut socket = from.socket();
    let eth0 = socket.index(&name("eth0")).unwrap();
    match socket.add_route(eth0, from.v4, Route::ToGateway(to.v4)) {
        Err(error) if error.errno() == Errno::EEXIST => {}
        other => other.unwrap(),
    }
    let listener = to.inside(|| listen(to.v4));
    from.inside(|| talk(&listener, BRIEFLY))
}

fn set_port(host: &mut Socket, pod: &Pod, setting: InfoBridgePort) {
    let data = InfoPortData::BridgePort(vec![setting]);
    let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(data)];
    let index = host.index(&pod.link).unwrap();
    host.set_link(&pod.link, index, LinkChange::of(vec![LinkAttribute::LinkInfo(info)])).unwrap();
}

#[test]
fn pods_do_not_reach_each_other_past_the_host() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let (a, b, c) =
            (Pod::attached(host, &bridge, 3), Pod::attached(host, &bridge, 4), Pod::attached(host, &bridge, 5));
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        assert!(try_directly(&a, &b).is_err(), "an ARP request of one pod reached another");
        // The same with a port that gets what others send to all does get there: the attempt is a real one.
        set_port(host, &c, InfoBridgePort::BroadcastFlood(true));
        c.socket().add_route(c.socket().index(&name("eth0")).unwrap(), c.v4, Route::ToGateway(a.v4)).unwrap();
        try_directly(&a, &c).unwrap();
    });
}

/// A pod with `NET_ADMIN` takes the hardware address of another, for the bridge to send it the other's frames.
#[test]
fn a_pod_cannot_take_anothers_hardware_address() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let (a, b) = (Pod::attached(host, &bridge, 3), Pod::attached(host, &bridge, 4));
        let on_host = UdpSocket::bind((V4_GATEWAY, 0)).unwrap();
        on_host.set_read_timeout(Some(BRIEFLY)).unwrap();
        let from_b = b.inside(|| UdpSocket::bind((b.v4, 0)).unwrap());
        let arrives = || {
            from_b.send_to(b"x", on_host.local_addr().unwrap()).unwrap();
            on_host.recv(&mut [0]).is_ok()
        };
        assert!(arrives());
        let mut socket = b.socket();
        let eth0 = socket.index(&name("eth0")).unwrap();
        let address = LinkAttribute::Address(a.mac.0.to_vec());
        socket.set_link(&name("eth0"), eth0, LinkChange::of(vec![address])).unwrap();
        // No answer would come back to that address, so the host's is known beforehand.
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Inet;
        entry.header.ifindex = eth0;
        entry.header.state = NeighbourState::Permanent;
        entry.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(V4_GATEWAY.parse().unwrap())),
            NeighbourAttribute::LinkLayerAddress(Mac::of(&bridge).0.to_vec()),
        ];
        socket.request(Call::PUT_NEIGHBOUR, &entry, "the gateway").unwrap();
        assert!(!arrives(), "a frame from another's hardware address came through");
        let in_a = a.inside(|| listen(a.v4));
        talk(&in_a, SOON).unwrap();
        // That was the lock's doing; and even without it the bridge learns nothing.
        set_port(host, &b, InfoBridgePort::Locked(false));
        assert!(arrives());
        talk(&in_a, SOON).unwrap();
        // With neither, the frames for the one do go to the other.
        set_port(host, &b, InfoBridgePort::Learning(true));
        assert!(arrives());
        assert!(talk(&in_a, BRIEFLY).is_err());
    });
}

/// The address of a pod that is gone is given to another at once: the host does not go on looking for the former.
#[test]
fn an_address_is_the_next_pods_at_once() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let first = Pod::attached(host, &bridge, 3);
        let listener = first.inside(|| listen(first.v4));
        talk(&listener, SOON).unwrap();
        host.remove_link(&first.link).unwrap();
        let second = Pod { mac: Mac::of(&"another"), ..Pod::new(3) };
        second.attach(host, &bridge).unwrap();
        let listener = second.inside(|| listen(second.v4));
        talk(&listener, Duration::from_millis(900)).unwrap();
    });
}

#[test]
fn settings_of_both_ends() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let pod = Pod::new(3);
        // What an image or another runtime may have left on, or the kernel has on by default.
        pod.inside(|| std::fs::write("/proc/sys/net/ipv4/conf/all/accept_redirects", "1")).unwrap();
        pod.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")).unwrap();
        pod.attach(host, &bridge).unwrap();
        for (path, value) in [
            ("ipv6/conf/eth0/accept_ra", "0"),
            ("ipv6/conf/eth0/accept_redirects", "0"),
            ("ipv6/conf/eth0/disable_ipv6", "0"),
            ("ipv4/conf/eth0/accept_redirects", "0"),
            ("ipv4/conf/all/accept_redirects", "0"),
        ] {
            assert_eq!(pod.setting(path), value, "in the pod: {path}");
        }
        assert_eq!(setting(&format!("ipv6/conf/{}/accept_ra", pod.link)), "0", "attacks.md A21");
        let link = host.link(&pod.link).unwrap().unwrap();
        let on = host.link(&bridge).unwrap().unwrap();
        assert_eq!((link.master, link.up, link.mtu, link.kind.as_str()), (Some(on.index), true, 1500, "veth"));
        assert!(link.operational && on.operational);
        let eth0 = pod.socket().link(&name("eth0")).unwrap().unwrap();
        assert_eq!((eth0.mac, eth0.mtu, eth0.up, eth0.operational), (Some(pod.mac), 1500, true, true));
        // The port has no address, so nothing of the host listens there.
        let on_port = nix::ifaddrs::getifaddrs().unwrap().filter(|i| i.interface_name == pod.link.as_str());
        let families: Vec<_> = on_port.filter_map(|i| i.address?.as_sockaddr_in6().copied()).collect();
        assert!(families.is_empty(), "{families:?}");
    });
}

#[test]
fn a_pod_with_a_user_namespace_of_its_own() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let (read, write) = nix::unistd::pipe().unwrap();
        let flags = (libc::CLONE_NEWUSER | libc::CLONE_NEWNET) as u64;
        let Some(child) = process::clone3(flags, None).unwrap() else {
            drop(write);
            let _ = nix::unistd::read(&read, &mut [0]);
            process::exit_now(0);
        };
        let path = format!("/proc/{}/ns/net", child.pid);
        let namespace = open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let pod = Pod { namespace, ..Pod::new(3) };
        let attached = pod.attach(host, &bridge);
        drop(write);
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.pid), None).unwrap();
        attached.unwrap();
        let listener = pod.inside(|| listen(pod.v4));
        talk(&listener, SOON).unwrap();
        assert_eq!(pod.setting("ipv6/conf/eth0/accept_ra"), "0");
    });
}

#[test]
fn what_fails_leaves_nothing() {
    on_a_host(|host| {
        let (bridge, other) = (name("podshim0"), name("podshim1"));
        let pod = Pod::new(3);
        let error = format!("{:#}", pod.attach(host, &bridge).unwrap_err());
        assert!(error.contains("to the bridge podshim0: RTM_GETLINK podshim0: No such device (ENODEV)"), "{error}");
        assert_eq!(names(host), ["lo"]);
        ensure(host, &bridge);
        ensure(host, &other);
        // Late, in the pod: the same address twice.
        let twice = [(pod.v4, ip(V4_GATEWAY)), (pod.v4, ip(V4_GATEWAY))];
        let namespace = pod.namespace.as_fd();
        let attachment = Attachment { port: pod.port(&bridge), namespace, addresses: &twice, mtu: 1500 };
        let error = format!("{:#}", host.attach_veth(&attachment).unwrap_err());
        assert!(error.starts_with("setting up eth0 in the pod: RTM_NEWADDR 10.86.0.3/32"), "{error}");
        assert!(error.contains("(EEXIST)"), "{error}");
        assert_eq!(names(host), ["lo", "podshim0", "podshim1"]);
        assert_eq!(names(&mut pod.socket()), ["lo"]);
        // What is in the way is somebody's, and stays.
        pod.attach(host, &bridge).unwrap();
        let error = format!("{:#}", pod.attach(host, &bridge).unwrap_err());
        assert!(error.contains(&format!("RTM_NEWLINK {} with eth0 in the pod", pod.link)), "{error}");
        let second = Pod { namespace: pod.namespace.try_clone().unwrap(), ..Pod::new(4) };
        let error = format!("{:#}", second.attach(host, &other).unwrap_err());
        assert!(error.contains("(EEXIST)"), "{error}");
        assert_eq!(names(host), ["lo", "podshim0", "podshim1", pod.link.as_str()]);
        let listener = pod.inside(|| listen(pod.v4));
        host.remove_link(&other).unwrap();
        talk(&listener, SOON).unwrap();
    });
}

#[test]
fn removing_takes_both_ends_and_may_be_repeated() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let pod = Pod::attached(host, &bridge, 3);
        host.remove_link(&pod.link).unwrap();
        assert_eq!(names(&mut pod.socket()), ["lo"]);
        host.remove_link(&pod.link).unwrap();
        host.remove_link(&bridge).unwrap();
        assert_eq!(names(host), ["lo"]);
        assert!(host.link(&bridge).unwrap().is_none());
    });
}

#[test]
fn pods_are_attached_again_after_the_bridge_was_removed() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let (a, b) = (Pod::attached(host, &bridge, 3), Pod::attached(host, &bridge, 4));
        let in_b = b.inside(|| listen(b.v4));
        a.inside(|| talk(&in_b, SOON)).unwrap();
        host.remove_link(&bridge).unwrap();
        assert_eq!(host.link(&a.link).unwrap().unwrap().master, None, "the pods' links stay");
        assert!(host.reattach(&a.port(&bridge)).is_err(), "no bridge");
        ensure(host, &bridge);
        for pod in [&a, &b] {
            host.reattach(&pod.port(&bridge)).unwrap();
        }
        a.inside(|| talk(&in_b, SOON)).unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        assert!(try_directly(&a, &b).is_err(), "the ports are isolated as before");
    });
}
