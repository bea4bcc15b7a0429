//! The network that pods are given, and what a pod says about its own: plain values. Pure.

use super::config::NetworkMode;
use crate::error::{Kind, failure};
use crate::manifest::quantity;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// The domain of all names of pods and Services, a kubelet's `--cluster-domain`.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// The interface's name in a pod, as every CNI runtime has it.
pub const POD_INTERFACE: &str = "eth0";

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both, in the order in which a pod's addresses are listed.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The number of bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// A subnet in CIDR notation (RFC 4632), like `10.86.0.0/16`. The bits behind the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet of this prefix length, in bits, that the address is in; `None` if the family has no such prefix.
    pub fn of(address: IpAddr, prefix: u8) -> Option<Subnet> {
        let family = Family::of(address);
        let host_bits = u32::from(family.bits().checked_sub(prefix)?);
        let kept = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Subnet { address: from_number(number(address) & kept, family), prefix })
    }

    /// Its first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The family of its addresses.
    pub fn family(self) -> Family {
        Family::of(self.address)
    }

    /// How many addresses it has; `u128::MAX` for `::/0`, which has one more.
    pub fn size(self) -> u128 {
        1u128.checked_shl(u32::from(self.family().bits() - self.prefix)).unwrap_or(u128::MAX)
    }

    /// The address this far behind the first.
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        (offset < self.size()).then(|| from_number(number(self.address) + offset, self.family()))
    }

    /// Whether an address is in it.
    pub fn contains(self, address: IpAddr) -> bool {
        Subnet::of(address, self.prefix) == Some(self) && Family::of(address) == self.family()
    }

    /// Whether two subnets have addresses in common.
    pub fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_number(number: u128, family: Family) -> IpAddr {
    match family {
        // The upper bits are zero: they came of an IPv4 address, and no offset leaves its subnet.
        Family::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Subnet, String> {
        let parts = text.split_once('/').and_then(|(a, p)| Some((a.parse::<IpAddr>().ok()?, p.parse::<u8>().ok()?)));
        let (address, prefix) =
            parts.ok_or_else(|| format!("{text:?} is no subnet: it takes ADDRESS/PREFIX, like 10.86.0.0/16"))?;
        let subnet = Subnet::of(address, prefix)
            .ok_or_else(|| format!("{text}: a prefix has at most {} bits", Family::of(address).bits()))?;
        if subnet.address != address {
            return Err(format!("{text} has bits behind its prefix: is {subnet} meant?"));
        }
        Ok(subnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Subnet, String> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

/// The transport protocols that ports have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// As manifests write it; `None` for other words. Nothing written is TCP.
    pub fn parse(written: Option<&str>) -> Option<Protocol> {
        match written {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }

    /// Its number in an IP header (IANA).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The built-in network: a bridge that routes between its pods, each of which has addresses of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeNetwork {
    /// The bridge's name, at most 15 bytes.
    pub bridge: String,
    /// Where pods' addresses come from: one subnet, or one of each family, the first being the family of `status.podIP`.
    pub pods: Vec<Subnet>,
    /// Where cluster IPs of Services come from, likewise.
    pub services: Vec<Subnet>,
}

impl Default for BridgeNetwork {
    /// `podshim0`, with pods in 10.86.0.0/16 and Services in 10.87.0.0/16.
    fn default() -> Self {
        let pods = Subnet::of(Ipv4Addr::new(10, 86, 0, 0).into(), 16).expect("the prefix is one of the family's");
        BridgeNetwork {
            bridge: "podshim0".to_owned(),
            pods: vec![pods],
            services: vec![BridgeNetwork::default_services(Family::V4)],
        }
    }
}

impl BridgeNetwork {
    /// Where cluster IPs of Services come from unless somebody says otherwise.
    pub fn default_services(family: Family) -> Subnet {
        let (address, prefix) = match family {
            Family::V4 => (IpAddr::from(Ipv4Addr::new(10, 87, 0, 0)), 16),
            Family::V6 => (IpAddr::from(Ipv6Addr::new(0xfd86, 0x87, 0, 0, 0, 0, 0, 0)), 112),
        };
        Subnet::of(address, prefix).expect("the prefix is one of the family's")
    }

    /// The same network with these subnets of pods instead. Services keep theirs where they can: those must be of the same
    /// families as the pods', and have no address in common with them.
    pub fn with_pods(mut self, pods: Vec<Subnet>) -> BridgeNetwork {
        let of_family = |family| self.services.iter().find(|services| services.family() == family).copied();
        let services = pods
            .iter()
            .map(|subnet| subnet.family())
            .map(|family| of_family(family).unwrap_or(BridgeNetwork::default_services(family)));
        self.services = services.filter(|services| !pods.iter().any(|pods| pods.overlaps(*services))).collect();
        self.pods = pods;
        self
    }

    /// The bridge's own addresses, one per subnet: the first of each. They are the pods' gateways.
    pub fn gateways(&self) -> impl Iterator<Item = (IpAddr, Subnet)> {
        self.pods.iter().filter_map(|subnet| Some((subnet.nth(1)?, *subnet)))
    }

    /// The name server's addresses, one per subnet: the second of each.
    pub fn name_servers(&self) -> impl Iterator<Item = IpAddr> {
        self.pods.iter().filter_map(|subnet| subnet.nth(2))
    }

    /// The offset in a subnet of the first address that a pod may have.
    pub const FIRST_POD: u128 = 3;
    /// The fewest addresses that a subnet of pods may have: those that no pod has, one of a pod, and IPv4's broadcast address.
    pub const MIN_SIZE: u128 = BridgeNetwork::FIRST_POD + 2;
}

/// Networks that CNI plugins make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniNetwork {
    /// Where network configurations are; the first by name counts.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
}

/// One of `spec.containers[].ports[]` and those of init containers: CRI's `PortMapping`, with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// `name`, by which probes, Services and policies may refer to it.
    pub name: Option<String>,
    /// `containerPort`
    pub container_port: u16,
    /// `protocol`
    pub protocol: Protocol,
    /// `hostPort`: this port of the host leads to the container's.
    pub host_port: Option<u16>,
    /// `hostIP`: only on this address of the host.
    pub host_ip: Option<IpAddr>,
}

/// `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth`, in bits per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// To the pod.
    pub ingress: Option<u64>,
    /// From the pod.
    pub egress: Option<u64>,
}

/// The annotations of bandwidth, a CNI convention which a kubelet passes on.
pub const INGRESS_BANDWIDTH: &str = "kubernetes.io/ingress-bandwidth";
/// From the pod.
pub const EGRESS_BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";

/// The ports of all containers of a pod.
pub(super) fn ports(spec: &k8s::PodSpec) -> Result<Vec<ContainerPort>> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let of = |container: &'_ k8s::Container| -> Result<Vec<ContainerPort>> {
        container.ports.iter().flatten().map(port).collect::<Result<_>>().with_context(|| container.name.clone())
    };
    Ok(containers.map(of).collect::<Result<Vec<_>>>()?.concat())
}

fn port(port: &k8s::ContainerPort) -> Result<ContainerPort> {
    let number = |number: i32| u16::try_from(number).with_context(|| format!("{number} is no port"));
    let host_ip = port.host_ip.as_deref().filter(|text| !text.is_empty());
    Ok(ContainerPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        container_port: number(port.container_port)?,
        protocol: Protocol::parse(port.protocol.as_deref()).context("unknown protocol")?,
        host_port: port.host_port.filter(|port| *port != 0).map(number).transpose()?,
        host_ip: host_ip.map(str::parse::<IpAddr>).transpose()?.filter(|ip| !ip.is_unspecified()),
    })
}

/// Whether ports of the host can lead to a pod of this network.
pub(crate) fn check_host_ports(ports: &[ContainerPort], network: &NetworkMode) -> Result<()> {
    let Some(port) = ports.iter().find_map(|port| port.host_port) else { return Ok(()) };
    let why = match network {
        NetworkMode::Bridge | NetworkMode::Cni(_) | NetworkMode::Host => return Ok(()),
        NetworkMode::None => "--network none has loopback only".to_owned(),
        NetworkMode::Path(path) => format!("--network ns:{} is somebody else's", path.display()),
    };
    let message = format!("hostPort {port} needs a network that the host reaches, and {why}: use --network bridge");
    Err(failure(Kind::Invalid, message))
}

/// What the pod's annotations say of its bandwidth.
pub(crate) fn bandwidth(annotations: &BTreeMap<String, String>, network: &NetworkMode) -> Result<Bandwidth> {
    let of = |key: &str| -> Result<Option<u64>> {
        let Some(text) = annotations.get(key) else { return Ok(None) };
        let bits =
            quantity::bytes(&Quantity(text.clone())).map_err(anyhow::Error::msg).and_then(|n| Ok(u64::try_from(n)?));
        bits.map(Some).with_context(|| format!("metadata.annotations[{key}]: {text:?}"))
    };
    let bandwidth = Bandwidth { ingress: of(INGRESS_BANDWIDTH)?, egress: of(EGRESS_BANDWIDTH)? };
    if bandwidth != Bandwidth::default() && !matches!(network, NetworkMode::Bridge | NetworkMode::Cni(_)) {
        let message = "the annotations of bandwidth limit a link of the pod's own: it has none with this --network";
        return Err(failure(Kind::Invalid, message));
    }
    Ok(bandwidth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_subnets_of_pods_keep_the_services_they_can() {
        let subnets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Subnet>>();
        for (pods, services) in [
            (&["10.1.0.0/24"][..], &["10.87.0.0/16"][..]),
            (&["10.1.0.0/24", "fd00::/64"], &["10.87.0.0/16", "fd86:87::/112"]),
            (&["fd00::/64"], &["fd86:87::/112"]),
            (&["10.87.3.0/24"], &[]),
        ] {
            let network = BridgeNetwork::default().with_pods(subnets(pods));
            assert_eq!(
                (&*network.bridge, network.pods, network.services),
                ("podshim0", subnets(pods), subnets(services))
            );
        }
    }

    #[test]
    fn subnets() {
        let small: Subnet = "10.86.0.0/29".parse().unwrap();
        assert_eq!((small.size(), small.nth(7)), (8, Some("10.86.0.7".parse().unwrap())));
        assert_eq!(small.nth(8), None, "no offset leaves the subnet");
        assert!(small.contains("10.86.0.7".parse().unwrap()) && !small.contains("10.86.0.8".parse().unwrap()));
        assert!(!small.contains("::1".parse().unwrap()));
        let wide: Subnet = "10.0.0.0/8".parse().unwrap();
        assert!(small.overlaps(wide) && wide.overlaps(small) && !small.overlaps("10.86.0.8/29".parse().unwrap()));
        let v6: Subnet = "fd86::/64".parse().unwrap();
        assert_eq!((v6.size(), v6.nth(2)), (1 << 64, Some("fd86::2".parse().unwrap())));
        assert!(!v6.overlaps("0.0.0.0/0".parse().unwrap()));
        assert_eq!("::/0".parse::<Subnet>().unwrap().size(), u128::MAX);
        for wrong in ["10.86.0.0", "10.86.0.1/16", "10.86.0.0/33", "fd86::/129", "x/8", ""] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
        assert_eq!(serde_json::to_string(&v6).unwrap(), "\"fd86::/64\"");
    }
}
