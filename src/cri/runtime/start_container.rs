//! StartContainer: the container's command has been executed.

use crate::control::Request;
use crate::cri::{Daemon, api, sandboxes};
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::StartContainerRequest,
) -> Result<api::StartContainerResponse> {
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    sandbox.ask(&Request::Start { container: container.id().to_owned() }, &[])?;
    Ok(api::StartContainerResponse {})
}
