//! The bridge and its ports.
//!
//! A port gets nothing that other ports send to all, and is locked to one hardware address: the bridge learns nothing from what
//! comes in, so no pod can have frames sent to itself that are another's by using the other's hardware address.
//!
//! Frames that are for another port's hardware address are dropped by the packet filter (`rules::guard`), not by making ports
//! isolated. Where `net.bridge.bridge-nf-call-iptables` is 1, as docker and Kubernetes have it, a packet to a Service is given its
//! pod's address while it is still on the bridge, which then brings it straight to the pod's port: to an isolated one it would not.

use super::socket::{Call, LinkChange};
use super::sysctl::{self, Change};
use super::{LinkName, Mac, Socket};
use crate::plan::network::Family;
use crate::sys::SysResult;
use anyhow::{Context, Result, bail};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use nix::errno::Errno;
use std::net::IpAddr;

/// How often a bridge is looked for and made that others make and remove at the same time.
const ATTEMPTS: u32 = 4;

/// A bridge as it is to be.
#[derive(Debug, Clone, Copy)]
pub struct Bridge<'a> {
    /// Its name.
    pub name: &'a LinkName,
    /// Its addresses with the lengths of their subnets' prefixes: the pods' gateways.
    pub gateways: &'a [(IpAddr, u8)],
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
}

/// What came of [`Socket::ensure_bridge`].
#[derive(Debug)]
pub struct EnsuredBridge {
    /// The bridge's number.
    pub index: u32,
    /// Whether it was made now; else it was there.
    pub made: bool,
    /// The settings of the host, not of the bridge, that were changed.
    pub changes: Vec<Change>,
}

/// A pod's link as a port of the bridge.
#[derive(Debug, Clone, Copy)]
pub struct Port<'a> {
    /// The host's end of the pair.
    pub link: &'a LinkName,
    /// The bridge.
    pub bridge: &'a LinkName,
    /// The hardware address of the pod's end.
    pub mac: Mac,
}

impl Socket {
    /// Sees to it that a bridge is there, up, with these addresses and settings, and that the host passes on packets of their
    /// families. A bridge that is there keeps other addresses that it has. One that is made and then cannot be set up is removed.
    ///
    /// On the bridge `net.ipv4.conf.*.route_localnet` is 1, so that ports of 127.0.0.1 can lead to pods. Pods could then reach what
    /// listens on 127.0.0.1 only (CVE-2020-8558): the firewall has to drop that, and must be there before the first pod.
    pub fn ensure_bridge(&mut self, bridge: &Bridge<'_>) -> Result<EnsuredBridge> {
        let name = bridge.name;
        let families: Vec<Family> = bridge.gateways.iter().map(|(address, _)| Family::of(*address)).collect();
        // First: net.ipv4.ip_forward also resets settings of links.
        let changes = self.enable_forwarding(&families).context("letting the host pass on the pods' packets")?;
        let (index, made) = self.find_or_make(bridge)?;
        let done = self.set_up(bridge, index, &families).with_context(|| format!("setting up the bridge {name}"));
        if let Err(error) = done {
            if made && let Err(undo) = self.remove_link(name) {
                return Err(error.context(format!("{undo}, when undoing what had been done before this:")));
            }
            return Err(error);
        }
        Ok(EnsuredBridge { index, made, changes })
    }

    fn find_or_make(&mut self, bridge: &Bridge<'_>) -> Result<(u32, bool)> {
        let name = bridge.name;
        for _ in 0..ATTEMPTS {
            if let Some(link) = self.link(name)? {
                match link.kind.as_str() {
                    "bridge" => return Ok((link.index, false)),
                    "" => bail!("{name} cannot be the pods' bridge: the host has a link of that name that is none"),
                    kind => bail!("{name} cannot be the pods' bridge: the host has a {kind} of that name"),
                }
            }
            match self.make_bridge(bridge) {
                // Another was faster.
                Err(error) if error.errno() == Errno::EEXIST => continue,
                other => other.with_context(|| format!("making the bridge {name}"))?,
            }
            if let Some(link) = self.link(name)? {
                return Ok((link.index, true));
            }
        }
        bail!("the bridge {name} is made and removed all the time by another process")
    }

    fn make_bridge(&mut self, bridge: &Bridge<'_>) -> SysResult<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(bridge.name.to_string()),
            LinkAttribute::Mtu(bridge.mtu),
            // Without one of its own it has the least of its ports' addresses, which changes as they come and go.
            LinkAttribute::Address(Mac::of(bridge.name).0.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.request(Call::NEW_LINK, &message, bridge.name)
    }

    fn set_up(&mut self, bridge: &Bridge<'_>, index: u32, families: &[Family]) -> SysResult<()> {
        let name = bridge.name;
        let v6_off = if families.contains(&Family::V6) { "0" } else { "1" };
        self.set(&sysctl::of(
            Family::V6,
            name.as_str(),
            &[
                // A pod may send routers' advertisements (CVE-2020-13401, attacks.md A21).
                ("accept_ra", "0"),
                ("accept_redirects", "0"),
                // The link-local address is of a hardware address that nobody else has.
                ("accept_dad", "0"),
                ("disable_ipv6", v6_off),
            ],
        ))?;
        if families.contains(&Family::V6) {
            self.set(&sysctl::of(Family::V6, name.as_str(), &[("forwarding", "1")]))?;
        }
        let v4 = [
            ("forwarding", "1"),
            // What is sent to 127.0.0.1 and a pod's hostPort leaves through the bridge with that address.
            ("route_localnet", "1"),
            // Pods reach each other through the host only, so a shorter way is none.
            ("send_redirects", "0"),
            ("accept_redirects", "0"),
        ];
        self.set(&sysctl::of(Family::V4, name.as_str(), &v4))?;
        self.set_link(name, index, bridge_settings(bridge.mtu))?;
        for &(address, prefix) in bridge.gateways {
            match self.add_address(index, address, prefix) {
                Err(error) if error.errno() == Errno::EEXIST => {}
                other => other?,
            }
        }
        self.set_link(name, index, LinkChange::up())?;
        bridge.gateways.iter().try_for_each(|(address, _)| self.await_address(*address))
    }

    /// Makes a pod's link a port of the bridge again, after the bridge was removed and made anew.
    pub fn reattach(&mut self, port: &Port<'_>) -> Result<()> {
        let what = || format!("attaching {} to the bridge {}", port.link, port.bridge);
        let index = self.index(port.link).with_context(what)?;
        self.set_link(port.link, index, LinkChange::down()).with_context(what)?;
        self.join(port, index).with_context(what)?;
        self.set_link(port.link, index, LinkChange::up()).with_context(what)?;
        self.await_port(port)
    }

    /// Waits until the bridge takes frames from a port that is up: it forwards for one that is operational, and is operational
    /// itself with the first that it forwards for.
    pub(super) fn await_port(&mut self, port: &Port<'_>) -> Result<()> {
        for link in [port.link, port.bridge] {
            self.await_operational(link).with_context(|| format!("waiting for {link}"))?;
        }
        Ok(())
    }

    /// Makes a link that is down a port: it may not be up before it has its settings.
    pub(super) fn join(&mut self, port: &Port<'_>, index: u32) -> SysResult<()> {
        let bridge = self.index(port.bridge)?;
        self.set_link(port.link, index, LinkChange::of(vec![LinkAttribute::Controller(bridge)]))?;
        // A message of its own: the kernel asks the link's master of before it (rtnl_newlink).
        self.set_link(port.link, index, port_settings())?;
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Bridge;
        entry.header.ifindex = index;
        entry.header.state = NeighbourState::Noarp;
        entry.header.flags = NeighbourFlags::Controller;
        entry.attributes = vec![NeighbourAttribute::LinkLayerAddress(port.mac.0.to_vec())];
        let target = format_args!("{} on {}", port.mac, port.link);
        self.request(Call::PUT_NEIGHBOUR, &entry, target)
    }
}

/// IFLA_BR_* of linux/if_link.h.
fn bridge_settings(mtu: u32) -> LinkChange {
    let settings = InfoData::Bridge(vec![
        InfoBridge::StpState(BridgeStpState::Disabled),
        // Ports forward at once.
        InfoBridge::ForwardDelay(0),
        // Else a pod that plays the querier decides who gets the host's neighbour solicitations.
        InfoBridge::MulticastSnooping(false),
    ]);
    let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(settings)];
    LinkChange::of(vec![LinkAttribute::Mtu(mtu), LinkAttribute::LinkInfo(info)])
}

/// IFLA_BRPORT_* of linux/if_link.h.
fn port_settings() -> LinkChange {
    LinkChange::of(vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::Learning(false),
            // What ports send; what the host itself sends to all gets to all.
            InfoBridgePort::UnicastFlood(false),
            InfoBridgePort::MulticastFlood(false),
            InfoBridgePort::BroadcastFlood(false),
            // A pod that reaches itself by a Service, with what is said above, does so by its own port.
            InfoBridgePort::HairpinMode(true),
            // Frames from another hardware address are dropped (since Linux 5.16; older ones learn nothing from them at least).
            InfoBridgePort::Locked(true),
        ])),
    ])])
}
