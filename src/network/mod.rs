//! The pod's network: what it is given, and what others are told of it.
//!
//! | file | content |
//! |---|---|
//! | `view` | what there is on the network, read from files; everything else is made from it |
//! | `lease` | who is on it, and whose addresses are whose |
//! | `bridge` | podshim's own network: joined, told, left; there as long as it is needed |
//! | `mend` | files that are damaged, made anew from what is known of the pods |
//! | `link` | links, addresses, routes, bandwidth: rtnetlink(7) |
//! | `nft` | nftables, by nfnetlink |
//! | `rules` | pure: what the packet filter is to do |
//! | `endpoints`, `names` | pure: which pods a Service leads to; what a name means |
//! | `dns`, `name_server` | the name server: what it does, and its process seen from outside |
//! | `host_ports` | ports of the host |
//! | `dial` | connections to a pod's ports from outside |
//! | `cni` | networks that CNI plugins make |
//! | `etc` | the pod's `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname` |
//!
//! The network namespace itself is made with the sandbox. What is done here takes memory and time: a supervisor has a child
//! do it.

mod bridge;
pub mod cni;
pub mod dial;
pub mod dns;
pub mod endpoints;
mod etc;
#[cfg(test)]
pub(crate) mod ground;
mod host_ports;
mod lease;
pub mod link;
mod mend;
mod name_server;
pub mod names;
pub mod nft;
pub mod objects;
mod resolv;
pub mod rules;
pub mod selectors;
pub mod slices;
pub mod view;

pub use etc::{files, write_files};

use crate::paths::{Dirs, PodDirs};
use crate::plan::config::{BridgeNetwork, NetworkMode, PodSandboxConfig};
use crate::sys::{Called, SysResult};
use anyhow::Result;
use nix::sys::socket::SockaddrStorage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// A pod on its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Its addresses, the first being `status.podIP`.
    pub addresses: Vec<IpAddr>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// How a pod stands, which decides whether Services and names lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// Whether it is being ended.
    pub terminating: bool,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
}

/// Whether there is anything to be done about a pod's network: it is podshim's own, or one of CNI plugins, or, with the host's
/// network, the pod takes part in Services and names.
pub fn is_used(sandbox: &PodSandboxConfig) -> bool {
    sandbox.network.is_some() || matches!(sandbox.namespaces.network, NetworkMode::Cni(_))
}

/// Takes the pod's ports of the host, which are its as long as the sockets are open.
pub fn hold_host_ports(dirs: &Dirs, sandbox: &PodSandboxConfig) -> Result<Vec<OwnedFd>> {
    host_ports::hold(&dirs.network(), sandbox)
}

/// Puts a pod's sandbox, whose namespaces are pinned, on its network. On an error nothing of it stays.
pub fn attach(dirs: &Dirs, sandbox: &PodSandboxConfig, pod: &PodDirs) -> Result<Attached> {
    match (&sandbox.namespaces.network, &sandbox.network) {
        (_, Some(network)) => bridge::join(dirs, sandbox, network, pod),
        (NetworkMode::Cni(network), None) => {
            let (directory, namespace) = (dirs.network(), pod.namespace("net"));
            lease::make_directories(&directory)?;
            // What a lost sandbox had goes first.
            let mut notes: Vec<String> = cni::delete(&directory, &sandbox.uid)?.into_iter().collect();
            let sandbox = cni::Sandbox { config: sandbox, namespace: &namespace, directory: &directory };
            let attached = cni::add(network, &sandbox)?;
            // Who was killed left pods attached that are gone. That it cannot be made good now is no fault of this pod's.
            notes.extend(cni::sweep(&directory, &dirs.pods()).unwrap_or_else(|error| vec![format!("{error:#}")]));
            Ok(Attached { addresses: attached.addresses, notes })
        }
        _ => Ok(Attached::default()),
    }
}

/// Tells the network how a pod stands.
pub fn tell(dirs: &Dirs, sandbox: &PodSandboxConfig, standing: &Standing) -> Result<Attached> {
    let notes = bridge::tell(dirs, &sandbox.uid, standing)?;
    Ok(Attached { addresses: Vec::new(), notes })
}

/// Makes the network be as its files say, after a change of Services or policies.
pub fn sync(dirs: &Dirs) -> Result<Attached> {
    let directory = dirs.network();
    if !directory.config().exists() {
        return Ok(Attached::default());
    }
    let _lock = bridge::lock(&directory)?;
    Ok(Attached { addresses: Vec::new(), notes: bridge::renew(dirs)? })
}

/// podshim's own network, if there is one; what its damaged file does not tell the pods' records do.
pub fn there(dirs: &Dirs) -> Result<Option<BridgeNetwork>> {
    mend::network(dirs, None)
}

/// Brings the name server back, which has ended. One that ends again and again is started once a second.
pub fn revive(dirs: &Dirs) -> Result<Attached> {
    std::thread::sleep(name_server::pause(&dirs.network())?);
    sync(dirs)
}

/// The running name server; `None` if there is none.
pub fn name_server(dirs: &Dirs) -> Result<Option<OwnedFd>> {
    name_server::find(&dirs.network())
}

/// Takes a pod off its network. Works with any part missing, and any number of times.
pub fn detach(dirs: &Dirs, uid: &str) -> Result<Attached> {
    let mut notes: Vec<String> = cni::delete(&dirs.network(), uid)?.into_iter().collect();
    notes.extend(bridge::leave(dirs, uid)?);
    Ok(Attached { addresses: Vec::new(), notes })
}

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
