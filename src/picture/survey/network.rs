//! What is in a pod's network namespace, and on the host's side of its veth pair: rtnetlink(7).

use super::super::model::{Link, Network, Peer};
use super::super::text::plain;
use super::NAME;
use crate::network::link::{self, LinkAddress, ListedRoute, Socket};
use crate::plan::config::NetworkMode;
use crate::store;
use crate::sys::{Called, SysResult};
use std::fs::File;
use std::os::fd::AsFd;

/// How many links, and addresses of each, and routes are shown. Who may (CAP_NET_ADMIN) can make as many as he likes.
const MOST: usize = 32;

/// What a pod has; what cannot be found out is told in `missing`.
pub(super) fn of(pod: &store::Pod, missing: &mut Vec<String>) -> Network {
    let mode = match &pod.record.plan.sandbox.namespaces.network {
        NetworkMode::None => "none",
        NetworkMode::Bridge => "bridge",
        NetworkMode::Cni(_) => "cni",
        NetworkMode::Host => "host",
        NetworkMode::Path(_) => "namespace",
    };
    let mut network = Network { mode: mode.to_owned(), ..Network::default() };
    let pin = pod.dirs.namespace("net");
    // There is none with the host's network, nor of a pod that is over.
    if mode == "host" || !pod.is_supervised() && !pin.exists() {
        return network;
    }
    let found = File::open(&pin).called("open", pin.display()).and_then(|pin| look(&pin));
    match found {
        Ok(found) => (network.links, network.routes) = found,
        // Removed in this moment, or a plain file: the pod is over.
        Err(_) if pod.report().is_ok_and(|report| report.is_some_and(|report| report.over)) => {}
        Err(error) => missing.push(format!("the pod's network: {error}")),
    }
    network
}

fn look(namespace: &File) -> SysResult<(Vec<Link>, Vec<String>)> {
    let mut inside = Socket::in_namespace(namespace.as_fd())?;
    let links = inside.links()?;
    let (addresses, routes) = (inside.link_addresses()?, inside.main_routes()?);
    let mut outside = Socket::open()?;
    let (host_links, host_addresses) = (outside.links()?, outside.link_addresses()?);
    let of_link = |all: &[LinkAddress], index: u32| -> Vec<String> {
        let own = all.iter().filter(|address| address.link == index).take(MOST);
        own.map(|own| format!("{}/{}", own.address, own.prefix)).collect()
    };
    let peer = |link: &link::Link| {
        let is_other_end = |other: &&link::Link| {
            other.kind == "veth" && Some(other.index) == link.peer && other.peer == Some(link.index)
        };
        let other = host_links.iter().find(is_other_end).filter(|_| link.kind == "veth")?;
        let bridge = other.master.and_then(|master| host_links.iter().find(|link| link.index == master));
        Some(Peer {
            name: plain(&other.name, NAME),
            bridge: bridge.map(|bridge| plain(&bridge.name, NAME)).unwrap_or_default(),
            addresses: bridge.map(|bridge| of_link(&host_addresses, bridge.index)).unwrap_or_default(),
        })
    };
    let shown = links.iter().take(MOST).map(|link| Link {
        name: plain(&link.name, NAME),
        kind: plain(&link.kind, NAME),
        up: link.up,
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: link.mtu,
        addresses: of_link(&addresses, link.index),
        peer: peer(link),
    });
    let name = |index: Option<u32>| {
        links.iter().find(|link| Some(link.index) == index).map(|link| plain(&link.name, NAME)).unwrap_or_default()
    };
    let shown_routes = routes.iter().take(MOST).map(|route| written(route, &name(route.link))).collect();
    Ok((shown.collect(), shown_routes))
}

/// As ip(8) writes it.
fn written(route: &ListedRoute, link: &str) -> String {
    let to = match route.to {
        None => "default".to_owned(),
        Some((address, prefix)) if prefix == if address.is_ipv4() { 32 } else { 128 } => address.to_string(),
        Some((address, prefix)) => format!("{address}/{prefix}"),
    };
    let via = route.via.map(|via| format!(" via {via}")).unwrap_or_default();
    format!("{to}{via} dev {link}")
}
