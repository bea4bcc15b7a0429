//! CheckpointContainer

use crate::cri::{Daemon, api, checkpoint};
use anyhow::Result;
use std::time::Duration;

/// What is done; `client` is how long the client waits for the answer.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::CheckpointContainerRequest,
    client: Option<Duration>,
) -> Result<api::CheckpointContainerResponse> {
    checkpoint::container(daemon, request, client)?;
    Ok(api::CheckpointContainerResponse {})
}
