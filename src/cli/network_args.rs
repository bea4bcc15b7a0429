//! Which network pods are given, as `run`, `apply` and `plan` are told.

use super::cni::CniPlaces;
use crate::error::{Kind, failure};
use crate::manifest::{AdmittedPod, NETWORK_ANNOTATION};
use crate::plan::config::{BridgeNetwork, NetworkMode};
use crate::plan::network::Subnet;
use anyhow::Result;
use clap::Args;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What `run`, `apply` and `plan` have in common.
#[derive(Debug, Args)]
pub(super) struct NetworkArgs {
    /// The pods' network: `bridge`, `none` (loopback only), `host`, `cni` (by CNI plugins) or `ns:PATH`, an existing
    /// namespace [default: the annotation podshim.io/network of each pod, else bridge]
    #[arg(long, value_name = "MODE", env = "PODSHIM_NETWORK", value_parser = mode)]
    network: Option<Mode>,
    /// The bridge's name [default: that of the network that is there, else podshim0]
    #[arg(long, value_name = "NAME", env = "PODSHIM_BRIDGE", value_parser = bridge_name)]
    bridge: Option<String>,
    /// Where the pods' addresses come from: one subnet, or one of IPv4 and one of IPv6 [default: those of the network that
    /// is there, else 10.86.0.0/16]
    #[arg(long, value_name = "CIDR", env = "PODSHIM_POD_CIDR", value_delimiter = ',')]
    pod_cidr: Vec<Subnet>,
    /// Where the Services' cluster IPs come from, likewise [default: those of the network that is there, else 10.87.0.0/16
    /// and fd86:87::/112, of the families that the pods have]
    #[arg(long, value_name = "CIDR", env = "PODSHIM_SERVICE_CIDR", value_delimiter = ',')]
    service_cidr: Vec<Subnet>,
    #[command(flatten)]
    cni: CniPlaces,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Bridge,
    None,
    Host,
    Cni,
    Path(PathBuf),
}

fn mode(text: &str) -> Result<Mode, String> {
    match text.split_once(':') {
        None if text == "bridge" => Ok(Mode::Bridge),
        None if text == "none" => Ok(Mode::None),
        None if text == "host" => Ok(Mode::Host),
        None if text == "cni" => Ok(Mode::Cni),
        Some(("ns", path)) if path.starts_with('/') => Ok(Mode::Path(path.into())),
        Some(("ns", _)) => Err("ns: takes an absolute path, like ns:/run/netns/NAME".into()),
        _ => Err("known are bridge, none, host, cni and ns:PATH".into()),
    }
}

/// A name that the kernel takes (`dev_valid_name`), and that is a file's in /proc/sys/net/ipv4/conf.
fn bridge_name(text: &str) -> Result<String, String> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.len() > 15 || !text.bytes().all(is_fine) || [".", "..", "all", "default"].contains(&text)
    {
        return Err("it takes at most 15 letters, digits and ._-".into());
    }
    Ok(text.to_owned())
}

impl NetworkArgs {
    /// The network of a pod.
    pub(super) fn mode_of(&self, pod: &AdmittedPod) -> Result<NetworkMode> {
        let annotations = pod.pod().metadata.annotations.as_ref();
        let written = annotations.and_then(|all| all.get(NETWORK_ANNOTATION));
        let annotated = written.map(|text| mode(text)).transpose().map_err(|e| failure(Kind::Invalid, e))?;
        let chosen = match (&self.network, annotated) {
            (Some(flag), Some(annotation)) if *flag != annotation => {
                let message = format!(
                    "pod {}: its annotation {NETWORK_ANNOTATION} is {:?}, --network says otherwise: take one away",
                    pod.name(),
                    written.map_or("", String::as_str)
                );
                return Err(failure(Kind::Invalid, message));
            }
            (Some(flag), _) => flag.clone(),
            (None, annotation) => annotation.unwrap_or(Mode::Bridge),
        };
        Ok(match chosen {
            Mode::Bridge => NetworkMode::Bridge,
            Mode::None => NetworkMode::None,
            Mode::Host => NetworkMode::Host,
            Mode::Path(path) => NetworkMode::Path(path),
            Mode::Cni => NetworkMode::Cni(self.cni.network()?),
        })
    }

    /// podshim's own network: the one that is there, unless another one is asked for.
    pub(super) fn bridge(&self, there: Option<BridgeNetwork>) -> Result<BridgeNetwork> {
        let (bridge, pods, services) = match there {
            Some(there) => (Some(there.bridge), Some(there.pods), Some(there.services)),
            None => (None, None, None),
        };
        let pods = Some(self.pod_cidr.clone()).filter(|given| !given.is_empty()).or(pods);
        let usual = BridgeNetwork::default();
        let pods = pods.unwrap_or(usual.pods);
        let is_of_pods = |services: &Vec<Subnet>| self.pod_cidr.is_empty() || same_families(services, &pods);
        let given = Some(self.service_cidr.clone()).filter(|given| !given.is_empty());
        let services = given.or(services.filter(is_of_pods));
        let network = BridgeNetwork {
            bridge: self.bridge.clone().or(bridge).unwrap_or(usual.bridge),
            services: services
                .unwrap_or_else(|| pods.iter().map(|pods| BridgeNetwork::default_services(pods.family())).collect()),
            pods,
        };
        check(&network)?;
        Ok(network)
    }
}

/// Whether the subnets can be of one network.
fn check(BridgeNetwork { pods, services, .. }: &BridgeNetwork) -> Result<()> {
    one_per_family("--pod-cidr", pods)?;
    one_per_family("--service-cidr", services)?;
    for subnet in pods {
        let room = BridgeNetwork::MIN_SIZE;
        if subnet.size() < room {
            let message = format!("--pod-cidr {subnet} has {} addresses, at least {room} are needed", subnet.size());
            return Err(failure(Kind::Invalid, message));
        }
        if let Some(both) = services.iter().find(|services| services.overlaps(*subnet)) {
            let message = format!("--pod-cidr {subnet} and --service-cidr {both} have addresses in common");
            return Err(failure(Kind::Invalid, message));
        }
    }
    if let Some(other) = services.iter().find(|s| pods.iter().all(|pods| pods.family() != s.family())) {
        let message = format!("--service-cidr {other}: --pod-cidr has no subnet of this family");
        return Err(failure(Kind::Invalid, message));
    }
    Ok(())
}

fn same_families(a: &[Subnet], b: &[Subnet]) -> bool {
    let families = |list: &[Subnet]| list.iter().map(|subnet| subnet.family()).collect::<BTreeSet<_>>();
    families(a) == families(b)
}

fn one_per_family(option: &str, subnets: &[Subnet]) -> Result<()> {
    match subnets {
        [_] => Ok(()),
        [a, b] if a.family() != b.family() => Ok(()),
        _ => Err(failure(Kind::Invalid, format!("{option} takes one subnet, or one of IPv4 and one of IPv6"))),
    }
}
