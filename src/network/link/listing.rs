//! The addresses and routes of a network namespace, for people to see.

use super::Socket;
use super::routes::ip;
use super::socket::{Call, attributes, number};
use crate::plan::network::Family;
use crate::sys::SysResult;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::RouteMessage;
use std::net::IpAddr;

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddress {
    /// The link's number.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix in bits.
    pub prefix: u8,
}

/// A unicast route of the table `main`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedRoute {
    /// Where to, with the prefix's length in bits; `None` for the default route.
    pub to: Option<(IpAddr, u8)>,
    /// The next hop, if there is one.
    pub via: Option<IpAddr>,
    /// The number of the link that it leaves by.
    pub link: Option<u32>,
}

impl Socket {
    /// All addresses.
    pub fn link_addresses(&mut self) -> SysResult<Vec<LinkAddress>> {
        let replies = self.dump(Call::ADDRESSES, &AddressMessage::default())?;
        Ok(replies.iter().filter_map(|reply| address(&reply.payload)).collect())
    }

    /// The routes of the table `main`, those of IPv4 first.
    pub fn main_routes(&mut self) -> SysResult<Vec<ListedRoute>> {
        let mut all = Vec::new();
        for family in Family::ALL {
            let mut message = RouteMessage::default();
            message.header.address_family = match family {
                Family::V4 => AddressFamily::Inet,
                Family::V6 => AddressFamily::Inet6,
            };
            let replies = self.dump(Call::ROUTES, &message)?;
            all.extend(replies.iter().filter_map(|reply| route(&reply.payload)));
        }
        Ok(all)
    }
}

/// struct ifaddrmsg of rtnetlink(7): family, prefixlen, flags, scope, index; then IFA_*.
fn address(payload: &[u8]) -> Option<LinkAddress> {
    let (head, rest) = payload.split_at_checked(8)?;
    let of = |wanted: u16| attributes(rest).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| ip(value));
    let address = of(libc::IFA_LOCAL).or_else(|| of(libc::IFA_ADDRESS))?;
    Some(LinkAddress { link: number(&head[4..])?, address, prefix: head[1] })
}

/// struct rtmsg of rtnetlink(7): family, dst_len, src_len, tos, table, protocol, scope, type, flags; then RTA_*.
fn route(payload: &[u8]) -> Option<ListedRoute> {
    let (head, rest) = payload.split_at_checked(12)?;
    let [_, prefix, _, _, table, _, _, kind, ..] = *head else { return None };
    if kind != libc::RTN_UNICAST || table != libc::RT_TABLE_MAIN {
        return None;
    }
    let mut route = ListedRoute { to: None, via: None, link: None };
    for (kind, value) in attributes(rest) {
        match kind {
            libc::RTA_DST => route.to = ip(value).map(|to| (to, prefix)),
            libc::RTA_GATEWAY => route.via = ip(value),
            libc::RTA_OIF => route.link = number(value),
            _ => {}
        }
    }
    Some(route)
}
