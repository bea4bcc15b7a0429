//! The pod's view of the network: its addresses, `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.
//!
//! The network namespace itself is made with the sandbox. In this version a pod has loopback only, the host's network, or a
//! namespace that somebody else set up.

pub mod endpoints;
mod etc;
pub mod objects;
pub mod slices;
pub mod view;

pub use etc::write_files;

use crate::sys::{Called, SysResult};
use nix::sys::socket::SockaddrStorage;
use std::net::IpAddr;

/// The addresses of the calling process's network namespace that others can reach it by: one per family, IPv4 first;
/// neither loopback nor link-local.
pub fn addresses() -> SysResult<Vec<IpAddr>> {
    let all: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .called("getifaddrs", "")?
        .filter_map(|interface| interface.address.and_then(ip))
        .filter(is_reachable)
        .collect();
    let first = |v4: bool| all.iter().find(move |ip| ip.is_ipv4() == v4).copied();
    Ok(first(true).into_iter().chain(first(false)).collect())
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

fn is_reachable(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !link_local
}
