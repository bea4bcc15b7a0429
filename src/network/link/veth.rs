//! A pod's link: a veth(4) pair, one end on the bridge and the other in the pod's network namespace.

use super::socket::{Call, LinkChange};
use super::sysctl;
use super::{LinkName, Mac, Port, Socket};
use crate::plan::network::{Family, POD_INTERFACE, Subnet};
use crate::sys::SysResult;
use anyhow::{Context, Result};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What a pod is attached with.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    /// The host's end, and the hardware address of the pod's.
    pub port: Port<'a>,
    /// The pod's network namespace.
    pub namespace: BorrowedFd<'a>,
    /// The pod's addresses, one per family, each with its gateway.
    pub addresses: &'a [(IpAddr, IpAddr)],
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
}

impl Socket {
    /// Makes the pair, its pod's end being `eth0` there with the addresses, routes through the gateways, and up; loopback too.
    ///
    /// If anything fails the pair is removed again. Errors: EEXIST if there is a link of that name, or an `eth0` in the pod.
    pub fn attach_veth(&mut self, attachment: &Attachment<'_>) -> Result<()> {
        let link = attachment.port.link;
        self.make_pair(attachment).with_context(|| format!("making the pod's link {link}"))?;
        let Err(error) = self.set_up_pair(attachment) else { return Ok(()) };
        match self.remove_link(link) {
            Ok(()) => Err(error),
            Err(undo) => Err(error.context(format!("{undo}, when undoing what had been done before this:"))),
        }
    }

    /// The pod's end is made where it belongs: it is never seen on the host.
    fn make_pair(&mut self, attachment: &Attachment<'_>) -> SysResult<()> {
        let Port { link, mac, .. } = attachment.port;
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(POD_INTERFACE.to_owned()),
            LinkAttribute::Mtu(attachment.mtu),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::NetNsFd(attachment.namespace.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(link.to_string()),
            LinkAttribute::Mtu(attachment.mtu),
            // udev gives one of its own to links that have a random one (MACAddressPolicy of systemd.link(5)).
            LinkAttribute::Address(Mac::of(link).0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let target = format_args!("{link} with {POD_INTERFACE} in the pod");
        self.request(Call::NEW_LINK, &message, target)
    }

    fn set_up_pair(&mut self, attachment: &Attachment<'_>) -> Result<()> {
        let Port { link, bridge, .. } = attachment.port;
        let index = self.index(link)?;
        self.set(&quiet(link)).with_context(|| format!("setting up {link}"))?;
        self.join(&attachment.port, index).with_context(|| format!("attaching {link} to the bridge {bridge}"))?;
        let mut pod = Socket::in_namespace(attachment.namespace).context("entering the pod's network")?;
        pod.set_up_inside(attachment).with_context(|| format!("setting up {POD_INTERFACE} in the pod"))?;
        // Nothing comes from the pod before its port has its settings.
        self.set_link(link, index, LinkChange::up()).with_context(|| format!("setting up {link}"))?;
        pod.await_operational(&LinkName::pod_interface()).context("waiting for the pod's link")?;
        self.await_port(&attachment.port)?;
        self.introduce(&mut pod, attachment).context("telling the host and the pod of each other's hardware address")
    }

    /// Tells the host and the pod of each other's hardware address, as if they had just asked: the first packet goes out at once,
    /// even if another pod had the address until now, or the host has asked for it in vain, or the kernel has yet to join the
    /// multicast group in which IPv6 asks (it does so in a work queue). Later they ask as usual.
    fn introduce(&mut self, pod: &mut Socket, attachment: &Attachment<'_>) -> SysResult<()> {
        let Some(bridge) = self.link(attachment.port.bridge)? else { return Ok(()) };
        let eth0 = pod.index(&LinkName::pod_interface())?;
        for &(address, gateway) in attachment.addresses {
            self.put_neighbour(bridge.index, address, attachment.port.mac)?;
            if let Some(mac) = bridge.mac {
                pod.put_neighbour(eth0, gateway, mac)?;
            }
        }
        Ok(())
    }

    /// In the pod's namespace.
    fn set_up_inside(&mut self, attachment: &Attachment<'_>) -> Result<()> {
        let (lo, eth0) = (LinkName::loopback(), LinkName::pod_interface());
        let loopback = self.index(&lo)?;
        self.set_link(&lo, loopback, LinkChange::up())?;
        // Without forwarding a redirect counts if either of `all` and the link's own setting is 1.
        self.set(&sysctl::of(Family::V4, "all", &[("accept_redirects", "0")]))?;
        self.set(&sysctl::of(Family::V4, eth0.as_str(), &[("accept_redirects", "0")]))?;
        let v6 = [("accept_ra", "0"), ("accept_redirects", "0"), ("accept_dad", "0")];
        for link in ["default", "all", eth0.as_str()] {
            self.set(&sysctl::of(Family::V6, link, &v6))?;
        }
        if attachment.addresses.iter().any(|(address, _)| address.is_ipv6()) {
            self.set(&sysctl::of(Family::V6, eth0.as_str(), &[("disable_ipv6", "0")]))?;
        }
        let index = self.index(&eth0)?;
        for &(address, _) in attachment.addresses {
            self.add_address(index, address, Family::of(address).bits())?;
        }
        self.set_link(&eth0, index, LinkChange::up())?;
        for &(address, gateway) in attachment.addresses {
            self.add_route(index, address, Route::ToGateway(gateway))?;
            self.add_route(index, address, Route::Default(gateway))?;
            self.await_address(address)?;
        }
        Ok(())
    }

    /// Adds an address, without looking for another that has it already (`IFA_F_NODAD`): addresses are leased.
    pub(super) fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> SysResult<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        if address.is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.request(Call::NEW_ADDRESS, &message, format_args!("{address}/{prefix}"))
    }

    /// Adds a route in the main table, packets that take it having `source`.
    pub(super) fn add_route(&mut self, index: u32, source: IpAddr, route: Route) -> SysResult<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(source);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Oif(index), RouteAttribute::PrefSource(RouteAddress::from(source))];
        let target = match route {
            Route::ToGateway(gateway) => {
                message.header.scope = RouteScope::Link;
                message.header.destination_prefix_length = Family::of(gateway).bits();
                message.attributes.push(RouteAttribute::Destination(RouteAddress::from(gateway)));
                gateway.to_string()
            }
            Route::OnLink(subnet) => {
                message.header.scope = RouteScope::Link;
                message.header.destination_prefix_length = subnet.prefix();
                message.attributes.push(RouteAttribute::Destination(RouteAddress::from(subnet.address())));
                subnet.to_string()
            }
            Route::Default(gateway) => {
                message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
                format!("default via {gateway}")
            }
        };
        self.request(Call::NEW_ROUTE, &message, target)
    }

    fn put_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> SysResult<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Reachable;
        let destination = match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes =
            vec![NeighbourAttribute::Destination(destination), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
        self.request(Call::PUT_NEIGHBOUR, &message, format_args!("{address} at {mac}"))
    }
}

/// A pod's two routes per family, and the host's to what the firewall leads elsewhere.
pub(super) enum Route {
    /// On the link, though nobody has such an address there.
    OnLink(Subnet),
    /// On the link: the pod's own subnet is its own address only.
    ToGateway(IpAddr),
    /// To everything else.
    Default(IpAddr),
}

/// The settings of a link on the host that has no address: no IPv6 of its own, and nothing taken from pods (attacks.md A21).
pub(super) fn quiet(link: &LinkName) -> Vec<sysctl::Setting<'_>> {
    // 1 is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h: no link-local address.
    sysctl::of(Family::V6, link.as_str(), &[("accept_ra", "0"), ("addr_gen_mode", "1")])
}

/// The family as rtnetlink has it.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
