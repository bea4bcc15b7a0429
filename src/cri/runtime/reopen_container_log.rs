//! ReopenContainerLog: somebody has renamed the log; the container's output goes to a new file of its name.

use crate::control::Request;
use crate::cri::{Daemon, api, sandboxes};
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::ReopenContainerLogRequest,
) -> Result<api::ReopenContainerLogResponse> {
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    sandbox.ask(&Request::ReopenLog { container: container.id().to_owned() }, &[])?;
    Ok(api::ReopenContainerLogResponse {})
}
