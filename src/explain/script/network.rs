//! The pod's network: a pair of interfaces, one end in the pod, the other on the host's bridge.

use super::pin;
use super::quote::quote;
use super::writer::Lines;
use crate::explain::planned::Planned;
use crate::network::link::{Mac, veth_name};
use crate::plan::config::{BridgeNetwork, NetworkMode};
use crate::plan::network::{Family, POD_INTERFACE, Subnet};
use crate::runtime::NamespaceKind;
use anyhow::Result;
use std::net::IpAddr;

/// The functions `network`, `inside_network`, `network_down`.
pub(super) fn network(script: &mut Lines, planned: &Planned) -> Result<()> {
    let sandbox = &planned.plan.sandbox;
    let bridge = sandbox.network.as_ref().filter(|_| sandbox.namespaces.network == NetworkMode::Bridge);
    let Some(network) = bridge else {
        let mut body = Lines::of_function();
        body.note(match sandbox.namespaces.network {
            NetworkMode::Host => "The host's own.",
            NetworkMode::Path(_) => "As whoever made the namespace has set it up.",
            _ => "Loopback only: nobody else is there.",
        });
        script.function("network", body);
        script.function("network_down", Lines::of_function());
        return Ok(());
    };
    let link = Link::of(planned, network)?;
    link.host_side(script)?;
    link.pod_side(script);
    link.down(script);
    Ok(())
}

/// A pod's place on a bridge.
struct Link<'a> {
    network: &'a BridgeNetwork,
    bridge: String,
    /// The host's end.
    link: String,
    link_mac: Mac,
    pod_mac: Mac,
    table: String,
    /// The pod's addresses, each with its gateway.
    addresses: Vec<(IpAddr, IpAddr)>,
}

/// The option of ip(8) for a family.
fn option(address: IpAddr) -> &'static str {
    match Family::of(address) {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

impl<'a> Link<'a> {
    fn of(planned: &Planned, network: &'a BridgeNetwork) -> Result<Link<'a>> {
        let sandbox = &planned.plan.sandbox;
        let name = veth_name(&format!("by hand {}/{}", sandbox.namespace, sandbox.name));
        let gateway =
            |address: IpAddr| network.gateways().find(|(_, subnet)| subnet.contains(address)).map(|(ip, _)| ip);
        Ok(Link {
            network,
            bridge: quote(&network.bridge)?,
            link_mac: Mac::of(&name),
            table: format!("podshim-by-hand-{name}"),
            link: name.to_string(),
            pod_mac: planned.addresses.first().map_or(Mac::of(&sandbox.uid), Mac::of),
            addresses: planned.addresses.iter().filter_map(|ip| Some((*ip, gateway(*ip)?))).collect(),
        })
    }

    fn families(&self) -> Vec<Family> {
        self.network.pods.iter().map(|subnet| subnet.family()).collect()
    }

    fn host_side(&self, script: &mut Lines) -> Result<()> {
        let Link { bridge, link, .. } = self;
        let mut body = Lines::of_function();
        body.line("local mtu uplink file");
        body.note(
            "What podshim does more, for all of its pods together: an address that no other pod has (here it is the network's \
             first, so let no other pod be on it), Services, network policies, names, ports of the host, and rules that keep \
             pods from using each other's addresses.",
        );
        body.note("A packet should not be larger than what leaves the host in one piece.");
        body.line("mtu=1500");
        body.line("uplink=$(ip -oneline route show default | sed --quiet '1s/.* dev \\([^ ]*\\).*/\\1/p')");
        body.line(
            "[ -z \"$uplink\" ] || mtu=$(ip -oneline link show dev \"$uplink\" | sed 's/.* mtu \\([0-9]*\\).*/\\1/')",
        );
        for family in self.families() {
            let file = match family {
                Family::V4 => "/proc/sys/net/ipv4/ip_forward",
                Family::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
            };
            let name = if family == Family::V4 { "forward4" } else { "forward6" };
            if family == Family::V6 {
                body.note(
                    "A host that passes on IPv6 packets takes no more advice about routes from its own router, unless this says 2.",
                );
                body.line("for file in /proc/sys/net/ipv6/conf/*/accept_ra; do");
                body.line("    [ \"$(cat \"$file\")\" = 1 ] || continue");
                body.line("    printf '%s\\n' \"$file\" >>\"$POD/accept_ra\"");
                body.line("    printf 2 >\"$file\"");
                body.line("done");
            }
            body.note("The host passes on packets from one interface to another: it is the pods' router. `down` puts back what was there.");
            body.line(format!("cat {file} >\"$POD/{name}\""));
            body.line(format!("printf 1 >{file}"));
        }
        self.make_bridge(&mut body);
        body.note(
            "A pair of interfaces is like a cable: what goes in at one end comes out at the other. One end is made in the \
             pod's network namespace, as eth0; the other is on the host.",
        );
        body.line(format!("ip link add {link} mtu \"$mtu\" address {} type veth \\", self.link_mac));
        body.line(format!(
            "    peer name {POD_INTERFACE} mtu \"$mtu\" address {} netns {}",
            self.pod_mac,
            pin(NamespaceKind::Network)
        ));
        body.line(format!("ip link set {link} addrgenmode none"));
        body.line(format!("set_ipv6 {link} accept_ra=0"));
        body.note(
            "The host's end is a port of the bridge. The bridge learns nothing from what the pod sends, and takes packets from \
             the pod's own hardware address only: no pod can pretend to be another one.",
        );
        body.line(format!("ip link set {link} master {bridge}"));
        body.line(format!(
            "bridge link set dev {link} learning off flood off mcast_flood off bcast_flood off hairpin on locked on"
        ));
        body.line(format!("bridge fdb replace {} dev {link} master static", self.pod_mac));
        body.end_note();
        body.line(format!("nsenter --net={} -- bash \"$SELF\" inside_network", pin(NamespaceKind::Network)));
        body.line(format!("ip link set {link} up"));
        self.masquerade(&mut body)?;
        script.function("network", body);
        Ok(())
    }

    fn make_bridge(&self, body: &mut Lines) {
        let bridge = &self.bridge;
        let has_v6 = self.families().contains(&Family::V6);
        body.note(
            "The bridge: a switch in the kernel, to which each pod has a cable. It has the pods' gateway address, by which \
             they reach everything else.",
        );
        body.line(format!("if ! ip link show dev {bridge} >/dev/null 2>&1; then"));
        body.line("    : >\"$POD/made-bridge\"");
        body.line(format!(
            "    ip link add {bridge} mtu \"$mtu\" address {} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            Mac::of(&self.network.bridge)
        ));
        let v6_off = if has_v6 { "" } else { " disable_ipv6=1" };
        body.line("    # Nor does the bridge take advice from pods.");
        body.line(format!("    set_ipv6 {bridge} accept_ra=0 accept_redirects=0 accept_dad=0{v6_off}"));
        body.line(format!("    printf 0 >/proc/sys/net/ipv4/conf/{bridge}/send_redirects"));
        body.line(format!("    printf 0 >/proc/sys/net/ipv4/conf/{bridge}/accept_redirects"));
        body.line("fi");
        for (gateway, subnet) in self.network.gateways() {
            let nodad = if gateway.is_ipv6() { " nodad" } else { "" };
            body.line(format!(
                "ip {} address replace {gateway}/{} dev {bridge}{nodad}",
                option(gateway),
                subnet.prefix()
            ));
        }
        body.line(format!("ip link set {bridge} up"));
    }

    /// As podshim does it: for what leaves the pods' network.
    fn masquerade(&self, body: &mut Lines) -> Result<()> {
        let (table, bridge) = (&self.table, &self.bridge);
        body.note(
            "Nobody outside knows the way to the pod's address. What it sends there gets the host's address, and the kernel \
             brings the answers back to the pod (masquerading).",
        );
        body.line(format!("nft add table inet {table}"));
        body.line(format!("nft add chain inet {table} postrouting '{{ type nat hook postrouting priority srcnat; }}'"));
        for (address, _) in &self.addresses {
            let (family, multicast): (&str, Subnet) = match Family::of(*address) {
                Family::V4 => ("ip", "224.0.0.0/4".parse().map_err(anyhow::Error::msg)?),
                Family::V6 => ("ip6", "ff00::/8".parse().map_err(anyhow::Error::msg)?),
            };
            body.line(format!(
                "nft add rule inet {table} postrouting {family} saddr {address} {family} daddr != {multicast} \
                 oifname != {bridge} masquerade fully-random"
            ));
        }
        Ok(())
    }

    /// As `network::link::veth` does it.
    fn pod_side(&self, script: &mut Lines) {
        let mut body = Lines::of_function();
        body.note("The pod takes no advice about routes from what is sent to it.");
        for name in ["all", POD_INTERFACE] {
            body.line(format!("printf 0 >/proc/sys/net/ipv4/conf/{name}/accept_redirects"));
        }
        for name in ["default", "all", POD_INTERFACE] {
            body.line(format!("set_ipv6 {name} accept_ra=0 accept_redirects=0 accept_dad=0"));
        }
        body.note(
            "The pod's addresses. The prefix is that of one address, as nothing else is on the cable: all packets, to other \
             pods too, go to the gateway, the bridge's own address.",
        );
        for (address, _) in &self.addresses {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            let bits = Family::of(*address).bits();
            body.line(format!("ip {} address add {address}/{bits} dev {POD_INTERFACE}{nodad}", option(*address)));
        }
        body.line(format!("ip link set {POD_INTERFACE} up"));
        for (address, gateway) in &self.addresses {
            let ip = format!("ip {} route add", option(*address));
            body.line(format!("{ip} {gateway} dev {POD_INTERFACE} proto static scope link src {address}"));
            body.line(format!("{ip} default via {gateway} dev {POD_INTERFACE} proto static src {address}"));
        }
        script.function("inside_network", body);
    }

    fn down(&self, script: &mut Lines) {
        let Link { bridge, link, table, .. } = self;
        let mut body = Lines::of_function();
        body.line("local result=0 file");
        body.note("With one end of the pair the other one goes, too.");
        body.line(format!("! ip link show dev {link} >/dev/null 2>&1 || ip link delete {link} || result=1"));
        body.line(format!(
            "! nft list table inet {table} >/dev/null 2>&1 || nft delete table inet {table} || result=1"
        ));
        body.note(
            "Others may have come to use the bridge: then it stays, and the host goes on passing on their packets.",
        );
        body.line("if [ -e \"$POD/made-bridge\" ]; then");
        body.line(format!(
            "    if [ -n \"$(ip -oneline link show master {bridge} 2>/dev/null)\" ]; then return \"$result\"; fi"
        ));
        body.line(format!("    ! ip link show dev {bridge} >/dev/null 2>&1 || ip link delete {bridge} || result=1"));
        for family in self.families() {
            let (file, name) = match family {
                Family::V4 => ("/proc/sys/net/ipv4/ip_forward", "forward4"),
                Family::V6 => ("/proc/sys/net/ipv6/conf/all/forwarding", "forward6"),
            };
            body.line(format!("    [ ! -s \"$POD/{name}\" ] || cat \"$POD/{name}\" >{file} || result=1"));
        }
        if self.families().contains(&Family::V6) {
            body.line("    if [ -e \"$POD/accept_ra\" ]; then");
            body.line("        while read -r file; do printf 1 >\"$file\" || result=1; done <\"$POD/accept_ra\"");
            body.line("    fi");
        }
        body.line("fi");
        body.line("return \"$result\"");
        script.function("network_down", body);
    }
}
