//! CheckpointContainer

use crate::cri::{Daemon, api, checkpoint};
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::CheckpointContainerRequest,
) -> Result<api::CheckpointContainerResponse> {
    checkpoint::container(daemon, request)?;
    Ok(api::CheckpointContainerResponse {})
}
