//! UpdateRuntimeConfig: the range of pods' addresses, which with CNI is the business of its configuration. As with containerd it
//! changes nothing then; what is no range is refused.

use crate::cri::{Daemon, api};
use crate::error::{Kind, failure};
use crate::plan::network::Subnet;
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    _: &Daemon,
    request: &api::UpdateRuntimeConfigRequest,
) -> Result<api::UpdateRuntimeConfigResponse> {
    let network = request.runtime_config.as_ref().and_then(|config| config.network_config.as_ref());
    let ranges = network.map(|network| network.pod_cidr.as_str()).unwrap_or_default();
    for range in ranges.split(',').filter(|range| !range.is_empty()) {
        range.parse::<Subnet>().map_err(|error| {
            failure(Kind::Invalid, format!("runtime_config.network_config.pod_cidr: {range:?}: {error}"))
        })?;
    }
    Ok(api::UpdateRuntimeConfigResponse {})
}
