//! UpdateContainerResources: what is not set stays as it is.

use crate::control::Request;
use crate::cri::{Daemon, api, convert, sandboxes};
use crate::error::{Kind, failure};
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::UpdateContainerResourcesRequest,
) -> Result<api::UpdateContainerResourcesResponse> {
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    let linux = request.linux.as_ref().ok_or_else(|| failure(Kind::Invalid, "linux is missing"))?;
    let resources = convert::updated(&container.record.config.resources, linux)?;
    sandbox.ask(&Request::Resize { container: container.id().to_owned(), resources }, &[])?;
    Ok(api::UpdateContainerResourcesResponse {})
}
