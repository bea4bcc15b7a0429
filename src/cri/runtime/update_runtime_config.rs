//! `UpdateRuntimeConfig`: the node's pod addresses, as a kubelet learns them.

use crate::cri::api::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};
use crate::cri::daemon::Daemon;
use crate::error::{Kind, failure};
use crate::plan::network::{BridgeNetwork, Subnet};
use crate::store;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a kubelet told, kept for the daemon's next start. Podshim's own bridge goes by it; CNI configurations have their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cri) struct Told {
    /// The subnets of pods: one, or one of each family. None at all: nothing was told.
    pub(in crate::cri) pod_cidr: Vec<Subnet>,
}

impl Told {
    /// What was told last.
    pub(in crate::cri) fn read(daemon: &Daemon) -> Result<Told> {
        Ok(store::read_json(&daemon.dirs.cri_told())?.unwrap_or_default())
    }
}

/// Keeps what is told. An empty CIDR means that there is none to tell, and changes nothing.
pub(in crate::cri) async fn run(
    daemon: &Arc<Daemon>,
    request: UpdateRuntimeConfigRequest,
) -> Result<UpdateRuntimeConfigResponse> {
    let network = request.runtime_config.and_then(|config| config.network_config);
    let pod_cidr = network.map(|network| network.pod_cidr).unwrap_or_default();
    if pod_cidr.is_empty() {
        return Ok(UpdateRuntimeConfigResponse {});
    }
    let told = Told { pod_cidr: parse(&pod_cidr)? };
    daemon
        .blocking(move |daemon| {
            let _turn = store::lock(&daemon.dirs.cri_told_lock(), store::Wait::Yes)?;
            if Told::read(daemon)? == told {
                return Ok(());
            }
            store::write_json(&daemon.dirs.cri_told(), &told)
        })
        .await?;
    Ok(UpdateRuntimeConfigResponse {})
}

/// `10.0.0.0/16`, or one of each family with a comma between them.
fn parse(text: &str) -> Result<Vec<Subnet>> {
    let invalid =
        |why: String| failure(Kind::Invalid, format!("runtime_config.network_config.pod_cidr {text:?}: {why}"));
    let parts = text.split(',').map(|part| part.trim().parse::<Subnet>().map_err(&invalid));
    let subnets: Vec<Subnet> = parts.collect::<Result<_>>()?;
    match subnets.as_slice() {
        [_] => {}
        [a, b] if a.address().is_ipv4() != b.address().is_ipv4() => {}
        _ => return Err(invalid("it takes one subnet, or one of IPv4 and one of IPv6".to_owned())),
    }
    match subnets.iter().find(|subnet| subnet.size() < BridgeNetwork::MIN_SIZE) {
        Some(small) => Err(invalid(format!(
            "{small} has {} addresses, at least {} are needed",
            small.size(),
            BridgeNetwork::MIN_SIZE
        ))),
        None => Ok(subnets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subnet_or_one_of_each_family() {
        for (text, expected) in [
            ("10.1.0.0/16", Some(&["10.1.0.0/16"][..])),
            ("10.1.0.0/16, fd00::/64", Some(&["10.1.0.0/16", "fd00::/64"])),
            ("10.1.0.0/16,10.2.0.0/16", None),
            ("10.1.0.0/16,fd00::/64,fd01::/64", None),
            ("10.1.0.0/33", None),
            ("10.1.0.0/30", None),
            ("10.1.0.0/29", Some(&["10.1.0.0/29"])),
            ("10.1.0.1/16", None),
            ("10.1.0.0/16,", None),
            ("/etc", None),
        ] {
            let found = parse(text).inspect_err(|error| {
                assert_eq!(crate::error::kind_of(error), Some(Kind::Invalid));
                assert!(error.to_string().contains("pod_cidr"), "{error}");
            });
            let expected = expected.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
            let found = found.ok().map(|list| list.iter().map(ToString::to_string).collect());
            assert_eq!(found, expected, "{text}");
        }
    }
}
