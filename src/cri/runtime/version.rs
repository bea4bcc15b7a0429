//! Version.

use crate::cri::{Daemon, api};
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(_: &Daemon, _: &api::VersionRequest) -> Result<api::VersionResponse> {
    Ok(api::VersionResponse {
        // Of the kubelet's own API, ever the same.
        version: "0.1.0".to_owned(),
        runtime_name: "podshim".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    })
}
