//! Ports of the host that lead to pods. The packets go by nftables; a socket that nobody listens on keeps each port from other
//! processes, and tells whether it is free.

use super::view::{self, Member};
use crate::error::{Kind, failure};
use crate::paths::NetworkDir;
use crate::plan::config::{ContainerPort, NetworkMode, PodSandboxConfig};
use crate::plan::network::Protocol;
use crate::sys::{Called, SysResult};
use anyhow::Result;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// Takes the pod's ports of the host, in the calling process's network namespace; they are the pod's as long as the sockets are
/// there. With the host's network the containers take them themselves.
pub(super) fn hold(directory: &NetworkDir, sandbox: &PodSandboxConfig) -> Result<Vec<OwnedFd>> {
    if sandbox.namespaces.network == NetworkMode::Host {
        return Ok(Vec::new());
    }
    let mut held = Vec::new();
    for port in &sandbox.ports {
        let Some(number) = port.host_port else { continue };
        match hold_one(port, number) {
            Ok(socket) => held.push(socket),
            // A kernel without SCTP sockets has no process that the port could be kept from.
            Err(error) if port.protocol == Protocol::Sctp && error.errno() == Errno::EPROTONOSUPPORT => {}
            Err(error) if error.errno() == Errno::EADDRINUSE => {
                return Err(failure(Kind::NotReady, taken(directory, port, number)));
            }
            Err(error) => return Err(anyhow::Error::new(error).context(format!("hostPort {number}/{}", port.protocol))),
        }
    }
    Ok(held)
}

fn hold_one(port: &ContainerPort, number: u16) -> SysResult<OwnedFd> {
    match port.host_ip {
        Some(ip) => bound(SocketAddr::new(ip, number), port.protocol),
        // Of both families; a host without IPv6 has only the one.
        None => match bound(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), number), port.protocol) {
            Err(error) if [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL].contains(&error.errno()) => {
                bound(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), number), port.protocol)
            }
            other => other,
        },
    }
}

fn bound(address: SocketAddr, protocol: Protocol) -> SysResult<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let target = format!("{address}/{protocol}");
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, number).called("socket", &target)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &!address.ip().is_unspecified())
            .called("setsockopt IPV6_V6ONLY", &target)?;
    }
    // Connections of an earlier owner which are only waiting for their end (TIME_WAIT) are not in the way …
    setsockopt(&fd, sockopt::ReuseAddr, &true).called("setsockopt SO_REUSEADDR", &target)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).called("bind", &target)?;
    // … but nobody else gets the port now: that would take the option at both sockets.
    setsockopt(&fd, sockopt::ReuseAddr, &false).called("setsockopt SO_REUSEADDR", &target)?;
    Ok(fd)
}

fn taken(directory: &NetworkDir, port: &ContainerPort, number: u16) -> String {
    let members: Vec<Member> = view::read_all(&directory.members()).unwrap_or_default();
    let has_it = |member: &&Member| {
        member.link.is_some() && member.ports.iter().any(|p| p.host_port == Some(number) && p.protocol == port.protocol)
    };
    let by = match members.iter().find(has_it) {
        Some(member) => format!("pod {}/{}", member.namespace, member.name),
        None => "another process of this host".to_owned(),
    };
    let ip = port.host_ip.map_or_else(String::new, |ip: IpAddr| format!(" of {ip}"));
    format!("hostPort {number}/{}{ip} is taken by {by}: choose another one, or end that first", port.protocol)
}
