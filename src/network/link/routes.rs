//! What the host's routes and addresses say: how large packets to the outside may be, and whether a subnet is free.

use super::socket::{Call, attributes, number};
use super::{LinkName, Socket};
use crate::plan::network::{Family, Subnet};
use crate::sys::SysResult;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use nix::errno::Errno;
use std::fmt;
use std::net::IpAddr;

/// Ethernet's MTU, where the host has no route to the outside.
const DEFAULT_MTU: u32 = 1500;

/// A prefix this short or shorter is a default route: VPNs have two of `/1` instead, to come before the other.
const DEFAULT_ROUTE_PREFIX: u8 = 1;

/// A route of the host to a subnet by a link.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    to: Subnet,
    table: u32,
    /// Less is preferred.
    metric: u32,
    /// The links that packets leave by: more than one with ECMP.
    links: Vec<u32>,
    /// `RTAX_MTU`, if the route has its own.
    mtu: Option<u32>,
}

/// What a subnet has in common with the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The subnet that was asked about.
    pub subnet: Subnet,
    /// What it overlaps.
    pub with: Taken,
    /// The link that this is of.
    pub link: String,
}

/// What of the host has addresses of a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A route to a subnet.
    Route(Subnet),
    /// An address of the host's own.
    Address(IpAddr),
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.with {
            Taken::Route(to) => write!(f, "{} overlaps the host's route {to} dev {}", self.subnet, self.link),
            Taken::Address(address) => write!(f, "{} has the host's address {address} dev {}", self.subnet, self.link),
        }
    }
}

impl Socket {
    /// The largest packet that reaches the outside in one piece, in bytes: the least of what the best default route of each
    /// family says (the route's own MTU or that of its link); 1500 if there is none.
    pub fn uplink_mtu(&mut self) -> SysResult<u32> {
        let links = self.links()?;
        let of_link = |index: &u32| links.iter().find(|link| link.index == *index).map(|link| link.mtu);
        let mut least = None;
        for family in Family::ALL {
            let routes = self.routes(family)?;
            let default = routes
                .iter()
                .filter(|route| route.to.prefix() == 0 && route.table == u32::from(RouteHeader::RT_TABLE_MAIN));
            let Some(best) = default.min_by_key(|route| route.metric) else { continue };
            least = best.links.iter().filter_map(of_link).chain(best.mtu).chain(least).min();
        }
        Ok(least.unwrap_or(DEFAULT_MTU))
    }

    /// What routes and addresses of the host have in common with the subnets, but for those of `bridge` itself. Default routes do
    /// not count, nor do blackholes: a subnet comes before them and takes nothing away.
    pub fn overlaps(&mut self, subnets: &[Subnet], bridge: &LinkName) -> SysResult<Vec<Overlap>> {
        let links = self.links()?;
        let own = links.iter().find(|link| link.name == bridge.as_str()).map(|link| link.index);
        let name = |index: u32| {
            links.iter().find(|link| link.index == index).map_or_else(|| format!("number {index}"), |l| l.name.clone())
        };
        let mut found = Vec::new();
        for family in Family::ALL {
            for route in self.routes(family)? {
                let Some(&link) = route.links.iter().find(|&&link| Some(link) != own) else { continue };
                if route.to.prefix() <= DEFAULT_ROUTE_PREFIX {
                    continue;
                }
                let overlapping = subnets.iter().filter(|subnet| subnet.overlaps(route.to));
                found.extend(overlapping.map(|&subnet| Overlap {
                    subnet,
                    with: Taken::Route(route.to),
                    link: name(link),
                }));
            }
        }
        for (address, link) in self.addresses()? {
            if Some(link) == own {
                continue;
            }
            let having = subnets.iter().filter(|subnet| subnet.contains(address));
            found.extend(having.map(|&subnet| Overlap { subnet, with: Taken::Address(address), link: name(link) }));
        }
        Ok(found)
    }

    /// Has packets to a subnet leave by a bridge, with the source that it has there: so the host reaches what nobody has, and
    /// the firewall leads elsewhere, even without a default route. One that is there already is fine.
    pub fn ensure_route(&mut self, bridge: &LinkName, subnet: Subnet, source: IpAddr) -> SysResult<()> {
        let index = self.index(bridge)?;
        match self.add_route(index, source, super::veth::Route::OnLink(subnet)) {
            Err(error) if error.errno() == Errno::EEXIST => Ok(()),
            other => other,
        }
    }

    /// Waits until an address of the namespace's own is taken for that. Of IPv6 it is not at once, even if no other is looked for
    /// that has it: the kernel adds the route to itself in a work queue (addrconf_dad_work), and refuses packets until then.
    pub(super) fn await_address(&mut self, address: IpAddr) -> SysResult<()> {
        let IpAddr::V6(v6) = address else { return Ok(()) };
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = Family::V6.bits();
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(v6)));
        self.look_until(|socket| match socket.ask(Call::GET_ROUTE, &message, address) {
            Err(error) if matches!(error.errno(), Errno::ENETUNREACH | Errno::EHOSTUNREACH) => Ok(false),
            other => Ok(other?.first().is_some_and(|reply| reply.payload.get(7) == Some(&libc::RTN_LOCAL))),
        })
    }

    /// The unicast routes of all tables but `local`, which says of each address what the list of addresses says.
    fn routes(&mut self, family: Family) -> SysResult<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let replies = self.dump(Call::ROUTES, &message)?;
        let routes = replies.iter().filter_map(|reply| Route::of(&reply.payload, family));
        Ok(routes.filter(|route| route.table != u32::from(libc::RT_TABLE_LOCAL)).collect())
    }

    /// The host's addresses, each with its link.
    fn addresses(&mut self) -> SysResult<Vec<(IpAddr, u32)>> {
        let replies = self.dump(Call::ADDRESSES, &AddressMessage::default())?;
        Ok(replies.iter().filter_map(|reply| address(&reply.payload)).collect())
    }
}

impl Route {
    /// struct rtmsg of rtnetlink(7): family, dst_len, src_len, tos, table, protocol, scope, type, flags; then RTA_*.
    fn of(payload: &[u8], family: Family) -> Option<Route> {
        let (head, rest) = payload.split_at_checked(12)?;
        let [_, prefix, _, _, table, _, _, kind, ..] = *head else { return None };
        if kind != libc::RTN_UNICAST {
            return None;
        }
        let none = match family {
            Family::V4 => IpAddr::from([0u8; 4]),
            Family::V6 => IpAddr::from([0u8; 16]),
        };
        let to = Subnet::of(none, prefix)?;
        let mut route = Route { to, table: table.into(), metric: 0, links: Vec::new(), mtu: None };
        for (kind, value) in attributes(rest) {
            match kind {
                libc::RTA_DST => route.to = Subnet::of(ip(value)?, prefix)?,
                libc::RTA_OIF => route.links.push(number(value)?),
                libc::RTA_PRIORITY => route.metric = number(value)?,
                libc::RTA_TABLE => route.table = number(value)?,
                libc::RTA_MULTIPATH => route.links.extend(next_hops(value)),
                libc::RTA_METRICS => {
                    // linux/rtnetlink.h
                    const RTAX_MTU: u16 = 2;
                    route.mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU).and_then(|(_, mtu)| number(mtu));
                }
                _ => {}
            }
        }
        Some(route)
    }
}

/// The links of struct rtnexthop (linux/rtnetlink.h): len (2 bytes), flags, hops, ifindex; each followed by attributes.
fn next_hops(mut bytes: &[u8]) -> Vec<u32> {
    let mut links = Vec::new();
    while let (Some(head), Some(link)) = (bytes.get(..2), bytes.get(4..).and_then(number)) {
        links.push(link);
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]])).max(8).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    links
}

/// struct ifaddrmsg of rtnetlink(7): family, prefixlen, flags, scope, index; then IFA_*. IFA_LOCAL is the host's own address
/// where both are there; IPv6 without a peer has IFA_ADDRESS only.
fn address(payload: &[u8]) -> Option<(IpAddr, u32)> {
    let (head, rest) = payload.split_at_checked(8)?;
    let of = |wanted: u16| attributes(rest).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| ip(value));
    Some((of(libc::IFA_LOCAL).or_else(|| of(libc::IFA_ADDRESS))?, number(&head[4..])?))
}

pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod readings {
    use super::*;

    /// A route as the kernel writes it: `default proto static nexthop dev 7 nexthop via 10.0.0.1 dev 9`, metric 5.
    #[test]
    fn a_route_with_two_next_hops() {
        let mut bytes = vec![2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
        bytes.extend([8, 0, 6, 0, 5, 0, 0, 0]);
        bytes.extend([28, 0, 9, 0]);
        bytes.extend([8, 0, 0, 0, 7, 0, 0, 0]);
        bytes.extend([16, 0, 0, 0, 9, 0, 0, 0, 8, 0, 5, 0, 10, 0, 0, 1]);
        let route = Route::of(&bytes, Family::V4).unwrap();
        assert_eq!((route.metric, route.links.as_slice(), route.table), (5, &[7, 9][..], 254));
        assert_eq!(route.to.to_string(), "0.0.0.0/0");
        for length in 0..bytes.len() {
            // Cut off anywhere it is no route or a shorter one; nothing panics.
            Route::of(&bytes[..length], Family::V4);
        }
    }
}
