//! The bridge, and the host's settings.

use super::*;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

/// A link of a kind that needs nothing else.
pub(super) fn make_link(host: &mut Socket, name: &LinkName, kind: InfoKind) {
    let mut message = LinkMessage::default();
    let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
    message.attributes = vec![LinkAttribute::IfName(name.to_string()), info];
    host.request(socket::Call::NEW_LINK, &message, name).unwrap();
}

#[test]
fn a_bridge_is_made_once_and_kept_as_it_should_be() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        let made = ensure(host, &bridge);
        assert!(made.made);
        let changes: Vec<String> = made.changes.iter().map(ToString::to_string).collect();
        let expected = ["net.ipv4.ip_forward: 0 before, 1 now", "net.ipv6.conf.all.forwarding: 0 before, 1 now"];
        assert_eq!(changes, expected);
        let link = host.link(&bridge).unwrap().unwrap();
        assert_eq!((link.index, link.kind.as_str(), link.up, link.mtu), (made.index, "bridge", true, 1500));
        assert_eq!(link.mac, Some(Mac::of(&bridge)));
        for (path, value) in [
            ("ipv4/conf/podshim0/route_localnet", "1"),
            ("ipv4/conf/podshim0/send_redirects", "0"),
            ("ipv6/conf/podshim0/accept_ra", "0"),
            ("ipv6/conf/podshim0/disable_ipv6", "0"),
        ] {
            assert_eq!(setting(path), value, "{path}");
        }
        // What somebody changed is put right; the address is the same as pods come and go.
        std::fs::write("/proc/sys/net/ipv6/conf/podshim0/accept_ra", "2").unwrap();
        let index = host.index(&bridge).unwrap();
        host.set_link(&bridge, index, socket::LinkChange::down()).unwrap();
        let _pod = Pod::attached(host, &bridge, 3);
        let gateways = [(ip(V4_GATEWAY), 16), (ip(V6_GATEWAY), 64)];
        let again = host.ensure_bridge(&Bridge { name: &bridge, gateways: &gateways, mtu: 1400 }).unwrap();
        assert_eq!((again.made, again.index, again.changes.len()), (false, made.index, 0));
        let link = host.link(&bridge).unwrap().unwrap();
        assert_eq!((link.mac, link.mtu, link.up), (Some(Mac::of(&bridge)), 1400, true));
        assert_eq!(setting("ipv6/conf/podshim0/accept_ra"), "0");
    });
}

#[test]
fn a_bridge_of_ipv4_only_has_no_ipv6() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        let gateways = [(ip(V4_GATEWAY), 16)];
        let made = host.ensure_bridge(&Bridge { name: &bridge, gateways: &gateways, mtu: 1500 }).unwrap();
        assert_eq!(made.changes.len(), 1, "{:?}", made.changes);
        assert_eq!(setting("ipv6/conf/all/forwarding"), "0");
        assert_eq!(setting("ipv6/conf/podshim0/disable_ipv6"), "1");
    });
}

#[test]
fn a_host_that_passes_on_ipv6_keeps_its_own_router() {
    on_a_host(|host| {
        let (uplink, bridge) = (name("up.link-0"), name("podshim0"));
        make_link(host, &uplink, InfoKind::Ifb);
        let accept = "/proc/sys/net/ipv6/conf/up.link-0/accept_ra";
        std::fs::write(accept, "1").unwrap();
        let made = ensure(host, &bridge);
        let changes: Vec<String> = made.changes.iter().map(ToString::to_string).collect();
        assert!(changes.contains(&"net.ipv6.conf.up/link-0.accept_ra: 1 before, 2 now".to_owned()), "{changes:?}");
        assert_eq!(setting("ipv6/conf/up.link-0/accept_ra"), "2");
        // A host that passes on IPv6 already has made up its mind about routers.
        std::fs::write(accept, "1").unwrap();
        assert!(ensure(host, &bridge).changes.is_empty());
        assert_eq!(setting("ipv6/conf/up.link-0/accept_ra"), "1");
    });
}

#[test]
fn a_name_that_is_taken() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let pod = Pod::attached(host, &bridge, 3);
        let before = host.links().unwrap();
        for (taken, kind) in [(&pod.link, "a veth of that name"), (&name("lo"), "a link of that name that is none")] {
            let error = host.ensure_bridge(&Bridge { name: taken, gateways: &[], mtu: 1500 }).unwrap_err();
            let error = format!("{error:#}");
            assert_eq!(error, format!("{taken} cannot be the pods' bridge: the host has {kind}"));
        }
        assert_eq!(host.links().unwrap(), before);
    });
}

#[test]
fn a_bridge_that_cannot_be_set_up_is_removed_unless_it_was_there() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        let wrong = [(ip("10.86.0.1"), 33)];
        let error = host.ensure_bridge(&Bridge { name: &bridge, gateways: &wrong, mtu: 1500 }).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.starts_with("setting up the bridge podshim0: RTM_NEWADDR 10.86.0.1/33"), "{error}");
        assert!(error.ends_with("Invalid argument (EINVAL)"), "{error}");
        assert_eq!(names(host), ["lo"]);
        ensure(host, &bridge);
        host.ensure_bridge(&Bridge { name: &bridge, gateways: &wrong, mtu: 1500 }).unwrap_err();
        assert_eq!(names(host), ["lo", "podshim0"]);
    });
}

#[test]
fn of_many_who_make_a_bridge_at_once_one_does() {
    on_a_host(|host| {
        for round in 0..4 {
            let bridge = name(&format!("podshim{round}"));
            let made = std::thread::scope(|scope| {
                let make = || ensure(&mut Socket::open().unwrap(), &bridge).made;
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).filter(|made| *made).count()
            });
            assert_eq!(made, 1);
            assert!(host.link(&bridge).unwrap().unwrap().up);
        }
    });
}

#[test]
fn a_list_longer_than_one_datagram() {
    on_a_host(|host| {
        for number in 0..60 {
            make_link(host, &name(&format!("link{number}")), InfoKind::Ifb);
        }
        let links = host.links().unwrap();
        assert_eq!(links.len(), 61);
        assert!(links.is_sorted_by_key(|link| link.index));
        assert!(links[1..].iter().all(|link| link.kind == "ifb" && !link.up && link.mtu == 1500 && link.mac.is_some()));
    });
}
