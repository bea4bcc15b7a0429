//! Sockets that listen on this host.

use super::ports::Forward;
use crate::sys::{Called, SysError, SysResult};
use anyhow::{Result, anyhow};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::{TcpListener, TcpSocket};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How many free ports of one address are tried for the others.
const TRIES: usize = 16;

/// One of `--address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    /// 127.0.0.1 and ::1, as far as this host has them.
    Localhost,
    /// This one.
    Ip(IpAddr),
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Address, String> {
        match text {
            "localhost" => Ok(Address::Localhost),
            _ => text.parse().map(Address::Ip).map_err(|_| format!("{text:?} is neither an address nor localhost")),
        }
    }
}

/// Every address once; whether it may be one that this host does not have.
fn all(addresses: &[Address]) -> Vec<(IpAddr, Presence)> {
    let mut list: Vec<(IpAddr, Presence)> = Vec::new();
    for address in addresses {
        let of_it = match address {
            Address::Localhost => {
                vec![(Ipv4Addr::LOCALHOST.into(), Presence::Optional), (Ipv6Addr::LOCALHOST.into(), Presence::Optional)]
            }
            Address::Ip(ip) => vec![(*ip, Presence::Required)],
        };
        for (ip, presence) in of_it {
            match list.iter_mut().find(|(known, _)| *known == ip) {
                Some((_, Presence::Required)) => {}
                Some((_, known)) => *known = presence,
                None => list.push((ip, presence)),
            }
        }
    }
    list
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

/// Listens on a port of all the addresses, or on none.
pub(super) fn listen(addresses: &[Address], forward: Forward) -> Result<Vec<TcpListener>> {
    let addresses = all(addresses);
    let mut tries = if forward.local == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        match listen_once(&addresses, forward.local) {
            // Free on one address and not on another.
            Err(error) if error.errno() == Errno::EADDRINUSE && tries > 0 => {}
            Err(error) if error.errno() == Errno::EADDRINUSE => {
                let remote = forward.remote;
                return Err(anyhow!("{error}: another program has it; `:{remote}` takes a port that is free"));
            }
            other => return Ok(other?),
        }
    }
}

fn listen_once(addresses: &[(IpAddr, Presence)], port: u16) -> SysResult<Vec<TcpListener>> {
    let mut port = port;
    let mut listeners = Vec::new();
    let mut absent = None;
    for (ip, presence) in addresses {
        match listen_at(SocketAddr::new(*ip, port)) {
            Ok((listener, address)) => {
                port = address.port();
                listeners.push(listener);
            }
            Err(error) if *presence == Presence::Optional && is_absent(&error) => absent = Some(error),
            Err(error) => return Err(error),
        }
    }
    match absent {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

/// Whether this host has no such address at all.
fn is_absent(error: &SysError) -> bool {
    matches!(error.errno(), Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT)
}

fn listen_at(address: SocketAddr) -> SysResult<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.called("socket", address)?;
    // A port whose last connections are in TIME_WAIT is free.
    socket.set_reuseaddr(true).called("setsockopt SO_REUSEADDR", address)?;
    if address.is_ipv6() {
        // `::` is not 0.0.0.0 too.
        setsockopt(&socket, sockopt::Ipv6V6Only, &true).called("setsockopt IPV6_V6ONLY", address)?;
    }
    socket.bind(address).called("bind", address)?;
    let listener = socket.listen(BACKLOG).called("listen", address)?;
    let address = listener.local_addr().called("getsockname", address)?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_runtime<T>(work: impl FnOnce() -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work() })
    }

    #[test]
    fn addresses_are_listened_on_once() {
        let parse = |text: &str| text.split(',').map(|word| Address::parse(word).unwrap()).collect::<Vec<_>>();
        let of = |text: &str| all(&parse(text)).iter().map(|(ip, _)| ip.to_string()).collect::<Vec<_>>();
        assert_eq!(of("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(of("127.0.0.1,localhost,10.0.0.1,127.0.0.1"), ["127.0.0.1", "::1", "10.0.0.1"]);
        let required = |text: &str| all(&parse(text))[0].1 == Presence::Required;
        assert!(required("127.0.0.1,localhost") && required("localhost,127.0.0.1") && !required("localhost"));
        assert!(Address::parse("example.org").is_err());
    }

    #[test]
    fn a_free_port_is_one_of_all_addresses_and_one_that_is_taken_is_named() {
        in_runtime(|| {
            let both = [Address::Ip("127.0.0.1".parse().unwrap()), Address::Ip("127.0.0.2".parse().unwrap())];
            let any = Forward { local: 0, remote: 80 };
            let listeners = listen(&both, any).unwrap();
            let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
            assert!(ports.len() == 2 && ports[0] == ports[1] && ports[0] > 0, "{ports:?}");
            let error = listen(&both[1..], Forward { local: ports[0], remote: 80 }).unwrap_err().to_string();
            assert!(error.starts_with(&format!("bind 127.0.0.2:{}: Address already in use", ports[0])), "{error}");
            assert!(error.ends_with("`:80` takes a port that is free"), "{error}");
            // An address of nobody: an error if it was asked for by itself.
            let error = listen(&[Address::Ip("192.0.2.1".parse().unwrap())], any).unwrap_err().to_string();
            assert!(error.starts_with("bind 192.0.2.1:0: "), "{error}");
        });
    }
}
