//! RemovePodSandbox: the sandbox is stopped if it is not, and nothing is left of it and its containers but their logs. Of a
//! sandbox that is gone it is no error.

use super::stop_pod_sandbox::stop;
use crate::cri::{Daemon, api, sandboxes};
use crate::error::{Kind, kind_of};
use crate::supervisor::remove;
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::RemovePodSandboxRequest,
) -> Result<api::RemovePodSandboxResponse> {
    match sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id) {
        Ok(sandbox) => {
            stop(daemon, &sandbox)?;
            remove::pod(&sandbox.pod, &daemon.facts.cgroups)?;
        }
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => {}
        Err(error) => return Err(error),
    }
    Ok(api::RemovePodSandboxResponse {})
}
