//! What the host's routes and addresses say.

use super::super::veth::Route;
use super::bridge::make_link;
use super::*;
use crate::plan::network::Subnet;
use netlink_packet_route::link::{InfoKind, LinkAttribute};

/// A link that is up, with an address.
fn uplink(host: &mut Socket, link: &str, address: (&str, u8), mtu: u32) -> u32 {
    let link = name(link);
    make_link(host, &link, InfoKind::Bridge);
    let index = host.index(&link).unwrap();
    host.set_link(&link, index, socket::LinkChange::of(vec![LinkAttribute::Mtu(mtu)])).unwrap();
    host.set_link(&link, index, socket::LinkChange::up()).unwrap();
    host.add_address(index, ip(address.0), address.1).unwrap();
    index
}

#[test]
fn the_mtu_is_that_of_the_default_route() {
    on_a_host(|host| {
        assert_eq!(host.uplink_mtu().unwrap(), 1500, "no route to the outside");
        let v4 = uplink(host, "eth7", ("192.0.2.7", 24), 1400);
        assert_eq!(host.uplink_mtu().unwrap(), 1500, "a link that is not the way out");
        host.add_route(v4, ip("192.0.2.7"), Route::Default(ip("192.0.2.1"))).unwrap();
        assert_eq!(host.uplink_mtu().unwrap(), 1400);
        let v6 = uplink(host, "eth8", ("2001:db8::7", 64), 1340);
        host.add_route(v6, ip("2001:db8::7"), Route::Default(ip("2001:db8::1"))).unwrap();
        assert_eq!(host.uplink_mtu().unwrap(), 1340, "the least of the families'");
    });
}

#[test]
fn subnets_that_the_host_has_already() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        let eth7 = uplink(host, "eth7", ("10.1.2.3", 8), 1500);
        host.add_route(eth7, ip("10.1.2.3"), Route::Default(ip("10.0.0.1"))).unwrap();
        uplink(host, "eth8", ("fd86::9", 128), 1500);
        ensure(host, &bridge);
        let subnets: Vec<Subnet> = ["10.86.0.0/16", "fd86::/64", "172.30.0.0/16"].map(|s| s.parse().unwrap()).into();
        let found: Vec<String> = host.overlaps(&subnets, &bridge).unwrap().iter().map(ToString::to_string).collect();
        let expected = [
            "10.86.0.0/16 overlaps the host's route 10.0.0.0/8 dev eth7",
            "fd86::/64 overlaps the host's route fd86::9/128 dev eth8",
            "fd86::/64 has the host's address fd86::9 dev eth8",
        ];
        assert_eq!(found, expected);
        let free: Subnet = "172.30.0.0/16".parse().unwrap();
        assert_eq!(host.overlaps(&[free], &bridge).unwrap(), []);
        let lo: Subnet = "127.0.0.0/8".parse().unwrap();
        let found = host.overlaps(&[lo], &bridge).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].to_string(), "127.0.0.0/8 has the host's address 127.0.0.1 dev lo");
        // For another bridge, this one's are the host's.
        let found = host.overlaps(&subnets[..1], &name("podshim1")).unwrap();
        assert!(
            found.iter().any(|o| o.to_string() == "10.86.0.0/16 overlaps the host's route 10.86.0.0/16 dev podshim0")
        );
    });
}
