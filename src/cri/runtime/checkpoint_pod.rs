//! CheckpointPod

use crate::cri::{Daemon, api, checkpoint};
use anyhow::Result;
use std::time::Duration;

/// What is done; `client` is how long the client waits for the answer.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::CheckpointPodRequest,
    client: Option<Duration>,
) -> Result<api::CheckpointPodResponse> {
    checkpoint::pod(daemon, request, client)?;
    Ok(api::CheckpointPodResponse {})
}
