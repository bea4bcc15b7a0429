//! StopPodSandbox: every process is killed, and the sandbox's network given back. Repeated, or of a sandbox that is gone, it is no
//! error.

use crate::control::Request;
use crate::cri::sandboxes::{self, Sandbox};
use crate::cri::{Daemon, api};
use crate::error::{Kind, kind_of};
use crate::store::{self, Wait};
use crate::supervisor::remove;
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::StopPodSandboxRequest,
) -> Result<api::StopPodSandboxResponse> {
    match sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id) {
        Ok(sandbox) => stop(daemon, &sandbox)?,
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => {}
        Err(error) => return Err(error),
    }
    Ok(api::StopPodSandboxResponse {})
}

/// Ends a sandbox, and waits until it has ended.
pub(in crate::cri) fn stop(daemon: &Daemon, sandbox: &Sandbox) -> Result<()> {
    if sandbox.is_supervised() {
        match sandbox.ask(&Request::Stop { grace_seconds: Some(0) }, &[]) {
            // It ended in this moment.
            Err(error) if kind_of(&error) == Some(Kind::NotReady) => {}
            other => other?,
        }
        // Its supervisor holds this as long as it lives.
        drop(store::lock(&sandbox.pod.dirs.lock(), Wait::Yes)?);
    }
    remove::abandoned(&sandbox.pod, &daemon.facts.cgroups)
}
