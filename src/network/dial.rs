//! A connection to a port of a pod, made in the pod's network namespace: for port forwarding.

use crate::sys::net;
use anyhow::{Result, bail};
use nix::errno::Errno;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// How long the pod's end may take to be made: over loopback it is there or refused at once, unless a rule in the pod has
/// packets vanish.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to a port of the pod as a kubelet does: to its loopback, over IPv4, else over IPv6. `namespace` is its network
/// namespace; `None` with the host's.
pub async fn dial(namespace: Option<BorrowedFd<'_>>, port: u16) -> Result<TcpStream> {
    let mut errors = Vec::new();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(ip, port);
        let socket = TcpSocket::from_std_stream(net::tcp_socket(address, namespace)?.into());
        let connecting = socket.connect(address);
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => errors.push(format!("{address}: {}", text(&error))),
            Err(_) => errors.push(format!("{address}: no answer in {} s", PATIENCE.as_secs())),
        }
    }
    bail!("{}", errors.join("; "))
}

fn text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
