//! podshim's own network: a pod joins it, tells how it stands, leaves it; the bridge, the packet filter's rules and the name
//! server are there as long as anybody needs them.
//!
//! Everything but the pods' links is made again from the files below `<state>/network/` at each change, by whoever holds their
//! lock. So nobody has to remember what was done, and what somebody has deleted by hand comes back.

use super::lease;
use super::link::{Attachment, Bridge, Limit, LinkName, Mac, Port, Socket, ifb_name, veth_name};
use super::view::{self, Member, View};
use super::{Attached, Standing, dns, mend, name_server, nft, rules};
use crate::error::{Kind, failure};
use crate::paths::{Dirs, NetworkDir, PodDirs};
use crate::plan::config::{Bandwidth, BridgeNetwork, ContainerPort, DnsBase, NetworkMode, PodSandboxConfig};
use crate::plan::network::Subnet;
use crate::store::{self, Wait};
use crate::sys::Called;
use crate::sys::flock::Flock;
use anyhow::{Context, Result};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// The lock under which everything about the network is done.
pub(super) fn lock(directory: &NetworkDir) -> Result<Flock> {
    lease::make_directories(directory)?;
    store::lock(&directory.lock(), Wait::Yes)?.context("waiting for a lock ends with having it")
}

/// Puts a pod's sandbox on the network. One that has an address already keeps it. On an error nothing of it stays.
pub(super) fn join(
    dirs: &Dirs,
    sandbox: &PodSandboxConfig,
    network: &BridgeNetwork,
    pod: &PodDirs,
) -> Result<Attached> {
    let directory = dirs.network();
    let _lock = lock(&directory)?;
    let (members, notes) = lease::sweep(dirs)?;
    let joined = joining(dirs, (sandbox, network, pod), &members);
    if joined.is_err() {
        // The error that made us give up is the one to be told.
        let _ = leaving(dirs, &sandbox.uid);
    }
    let mut attached = joined?;
    attached.notes.extend(notes);
    Ok(attached)
}

/// Whether the bridge has to be there for a pod: to be on it, or for its names.
pub(super) fn is_needed_by(sandbox: &PodSandboxConfig) -> bool {
    sandbox.namespaces.network == NetworkMode::Bridge || matches!(sandbox.dns.base, DnsBase::Cluster { .. })
}

fn joining(
    dirs: &Dirs,
    (sandbox, network, pod): (&PodSandboxConfig, &BridgeNetwork, &PodDirs),
    members: &[Member],
) -> Result<Attached> {
    let directory = dirs.network();
    let has_link = sandbox.namespaces.network == NetworkMode::Bridge;
    let mut notes = Vec::new();
    if is_needed_by(sandbox) {
        let others = members.iter().filter(|member| member.uid != sandbox.uid).count();
        notes = raise(dirs, network, others)?;
    }
    let before = members.iter().find(|member| member.uid == sandbox.uid);
    let addresses = match before {
        Some(before) => before.addresses.clone(),
        None if has_link => lease::lease(&directory, network, members)?,
        None => super::addresses()?,
    };
    let member = member(sandbox, addresses.clone());
    lease::write(&directory.member(&sandbox.uid), &member)?;
    if member.link.is_some() {
        let path = pod.namespace("net");
        let namespace = File::open(&path).called("open", path.display())?;
        connect(&member, (network, sandbox.bandwidth), namespace.as_fd())?;
    }
    notes.extend(renew(dirs)?);
    Ok(Attached { addresses, notes })
}

/// Makes the pod's link, in the place of one that a lost sandbox had.
fn connect(
    member: &Member,
    (network, bandwidth): (&BridgeNetwork, Bandwidth),
    namespace: BorrowedFd<'_>,
) -> Result<()> {
    let mut socket = Socket::open()?;
    let (link, ifb) = (veth_name(&member.uid), ifb_name(&member.uid));
    socket.remove_link(&link)?;
    socket.remove_link(&ifb)?;
    let gateway = |address: IpAddr| network.gateways().find(|(_, subnet)| subnet.contains(address)).map(|(ip, _)| ip);
    let addresses: Vec<(IpAddr, IpAddr)> =
        member.addresses.iter().filter_map(|address| Some((*address, gateway(*address)?))).collect();
    let bridge = network.bridge.parse::<LinkName>().map_err(anyhow::Error::msg)?;
    let mtu = socket.uplink_mtu()?;
    let port = Port { link: &link, bridge: &bridge, mac: mac(member) };
    socket
        .attach_veth(&Attachment { port, namespace, addresses: &addresses, mtu })
        .context("connecting the pod to the bridge")?;
    if bandwidth != Bandwidth::default() {
        socket.limit(&Limit { link: &link, ifb: &ifb, bandwidth, mtu }).context("limiting the pod's bandwidth")?;
    }
    Ok(())
}

/// The hardware address of a pod's end: who knows that of an earlier pod of this address is still right.
fn mac(member: &Member) -> Mac {
    member.addresses.first().map_or(Mac::of(&member.uid), Mac::of)
}

pub(super) fn member(sandbox: &PodSandboxConfig, addresses: Vec<IpAddr>) -> Member {
    let has_link = sandbox.namespaces.network == NetworkMode::Bridge;
    // With the host's network a port is the host's own: nothing leads there.
    let port = |port: &ContainerPort| ContainerPort { host_port: port.host_port.filter(|_| has_link), ..port.clone() };
    Member {
        uid: sandbox.uid.clone(),
        namespace: sandbox.namespace.clone(),
        name: sandbox.name.clone(),
        labels: sandbox.labels.clone(),
        hostname: sandbox.hostname.split('.').next().unwrap_or_default().to_owned(),
        subdomain: sandbox.subdomain.clone(),
        addresses,
        ports: sandbox.ports.iter().map(port).collect(),
        link: has_link.then(|| veth_name(&sandbox.uid).to_string()),
        ready: false,
        terminating: false,
    }
}

/// Has the network there, as this pod wants it. Another one is not taken from under the pods that are on it.
fn raise(dirs: &Dirs, wanted: &BridgeNetwork, others: usize) -> Result<Vec<String>> {
    let directory = dirs.network();
    match mend::network(dirs, None)? {
        Some(there) if there == *wanted => return Ok(Vec::new()),
        Some(there) if others > 0 => {
            let message = format!(
                "the network of {} is there already, as {}, with {others} pods on it; this pod asks for {}: run it with the \
                 same options, or end those pods first, or give it another --state",
                directory.0.display(),
                describe(&there),
                describe(wanted)
            );
            return Err(failure(Kind::NotReady, message));
        }
        there => drop(lower(&directory, there)?),
    }
    let bridge = wanted.bridge.parse::<LinkName>().map_err(anyhow::Error::msg)?;
    let mut socket = Socket::open()?;
    let subnets: Vec<Subnet> = wanted.pods.iter().chain(&wanted.services).copied().collect();
    if let Some(overlap) = socket.overlaps(&subnets, &bridge)?.first() {
        let message = format!("{overlap}: choose other subnets with --pod-cidr and --service-cidr");
        return Err(failure(Kind::Invalid, message));
    }
    // Before the bridge: the kernel must never have one without rules for it (CVE-2020-8558).
    lease::write(&directory.config(), wanted)?;
    renew(dirs)
}

/// Has the bridge there, and on it the links of all members.
fn ensure_links(view: &View) -> Result<Vec<String>> {
    let mut socket = Socket::open()?;
    let name = view.network.bridge.parse::<LinkName>().map_err(anyhow::Error::msg)?;
    let gateways: Vec<(IpAddr, u8)> = view.network.gateways().map(|(ip, subnet)| (ip, subnet.prefix())).collect();
    let mtu = socket.uplink_mtu()?;
    let ensured = socket.ensure_bridge(&Bridge { name: &name, gateways: &gateways, mtu })?;
    for (gateway, pods) in view.network.gateways() {
        for services in view.network.services.iter().filter(|services| services.family() == pods.family()) {
            socket.ensure_route(&name, *services, gateway).context("having the host reach Services")?;
        }
    }
    let links = socket.links()?;
    for member in view.members.iter().filter(|member| member.link.is_some()) {
        let link = veth_name(&member.uid);
        // One that is not there is being made, or its pod has just ended.
        let is_away = |l: &super::link::Link| l.name == link.as_str() && l.master != Some(ensured.index);
        if links.iter().any(is_away) {
            socket.reattach(&Port { link: &link, bridge: &name, mac: mac(member) }).with_context(|| {
                format!("putting the link of pod {}/{} back on the bridge", member.namespace, member.name)
            })?;
        }
    }
    Ok(ensured.changes.iter().map(ToString::to_string).collect())
}

fn describe(network: &BridgeNetwork) -> String {
    let list = |subnets: &[Subnet]| -> String { subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",") };
    format!("--bridge {} --pod-cidr {} --service-cidr {}", network.bridge, list(&network.pods), list(&network.services))
}

/// Makes everything be as the files say: bridge, links on it, packet filter, name server. What the user should know comes back.
pub(super) fn renew(dirs: &Dirs) -> Result<Vec<String>> {
    let (view, mut notes) = mend::read(dirs, View::read)?;
    let Some(view) = view else { return Ok(notes) };
    nft::apply(&rules::ruleset(&view))?;
    notes.extend(ensure_links(&view)?);
    notes.extend(nft::permit_forwarding(&view.network.bridge)?.map(|hindrance| hindrance.to_string()));
    name_server::ensure(&dirs.network(), &view.network)?;
    Ok(notes)
}

/// Says how a pod stands, and makes the rest follow.
pub(super) fn tell(dirs: &Dirs, uid: &str, standing: &Standing) -> Result<Vec<String>> {
    let directory = dirs.network();
    let _lock = lock(&directory)?;
    let path = directory.member(uid);
    let (member, mut notes) = mend::read(dirs, |_| store::read_json::<Member>(&path))?;
    let Some(mut member) = member else { return Ok(notes) };
    member.ready = standing.ready;
    member.terminating = standing.terminating;
    member.labels = standing.labels.clone();
    lease::write(&path, &member)?;
    notes.extend(renew(dirs)?);
    Ok(notes)
}

/// Takes a pod off the network. Works with any part missing or damaged, and any number of times. What the user should know comes back.
pub(super) fn leave(dirs: &Dirs, uid: &str) -> Result<Vec<String>> {
    let directory = dirs.network();
    // Killed while it joined, a pod may have raised the network and be no member of it yet.
    let is_for_nobody =
        || -> Result<bool> { Ok(directory.config().exists() && view::names(&directory.members())?.is_empty()) };
    if !store::is_begun(&directory.member(uid)) && !is_for_nobody()? {
        return Ok(Vec::new());
    }
    let _lock = lock(&directory)?;
    leaving(dirs, uid)
}

fn leaving(dirs: &Dirs, uid: &str) -> Result<Vec<String>> {
    let directory = dirs.network();
    let mut socket = Socket::open()?;
    // An address is free again only when its link is gone.
    for link in [veth_name(uid), ifb_name(uid)] {
        socket.remove_link(&link).context("removing the pod's link")?;
    }
    // Before the pod is none of those any more that know it.
    let network = mend::network(dirs, Some(uid));
    store::remove_written(&directory.member(uid))?;
    let is_last = lease::uids(dirs)?.is_empty();
    let done = if is_last { network.and_then(|network| lower(&directory, network)) } else { renew(dirs) };
    match done {
        // It is in the way of those who stay or come next, until it is put right; not of who goes.
        Err(error) if store::is_damaged(&error) => {
            if is_last {
                store::remove_written(&directory.config())?;
            }
            Ok(vec![format!("{error:#}")])
        }
        other => other,
    }
}

fn remove_link(name: &LinkName) -> Result<()> {
    Ok(Socket::open()?.remove_link(name)?)
}

/// Takes the network away, if there is one. Services and policies stay: they are no pods.
fn lower(directory: &NetworkDir, network: Option<BridgeNetwork>) -> Result<Vec<String>> {
    let Some(network) = network else { return Ok(Vec::new()) };
    let name_server = name_server::kill(directory);
    // The rules last: without them nothing of the bridge may be there.
    let attempts: [Result<()>; 5] = [
        network.bridge.parse().map_err(anyhow::Error::msg).and_then(|bridge| remove_link(&bridge)),
        // It has ended by now, as a rule; its link goes with its network namespace, but some time after it.
        name_server.and_then(|killed| name_server::wait(directory, killed)),
        remove_link(&dns::link_name(&network)),
        nft::forbid_forwarding(&network.bridge).map_err(Into::into),
        nft::remove(&rules::tables(&network.bridge)).map_err(Into::into),
    ];
    attempts.into_iter().collect::<Result<Vec<()>>>()?;
    store::remove_written(&directory.config())?;
    Ok(Vec::new())
}
