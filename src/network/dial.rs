//! Connections to a pod's own loopback, made from outside: what port-forwarding takes.

use crate::sys::net;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// How long the pod's end may take to be made: over loopback it is there or refused at once, unless a rule in the pod has
/// packets vanish.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to a port of the pod as a kubelet does: to its loopback, over IPv4, else over IPv6. `namespace` is the path of
/// its network namespace; `None` with the host's.
pub async fn dial(namespace: Option<&PathBuf>, port: u16) -> Result<TcpStream> {
    let mut errors = Vec::new();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(ip, port);
        let connecting = socket(namespace, address)?.connect(address);
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => errors.push(format!("{address}: {}", text(&error))),
            Err(_) => errors.push(format!("{address}: no answer in {} s", PATIENCE.as_secs())),
        }
    }
    bail!("{}", errors.join("; "))
}

/// Opened anew for each connection: a pod may be given another sandbox.
fn socket(namespace: Option<&PathBuf>, address: SocketAddr) -> Result<TcpSocket> {
    let namespace = namespace.map(crate::runtime::open_namespace).transpose().context("the pod's network namespace")?;
    let fd: OwnedFd = net::tcp_socket(address, namespace.as_ref().map(std::os::fd::AsFd::as_fd))?;
    Ok(TcpSocket::from_std_stream(fd.into()))
}

fn text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
