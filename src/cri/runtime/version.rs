//! `Version`

use crate::cri::api::{VersionRequest, VersionResponse};
use crate::cri::daemon::Daemon;
use anyhow::Result;
use std::sync::Arc;

/// What serves, and which API. The request's own version is the client's (a kubelet's 0.1.0), and of no consequence.
pub(in crate::cri) async fn run(_: &Arc<Daemon>, _: VersionRequest) -> Result<VersionResponse> {
    Ok(VersionResponse {
        // The version of this message, as kubelets check it (kubelet's kubeRuntimeAPIVersion).
        version: "0.1.0".to_owned(),
        runtime_name: "podshim".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    })
}
