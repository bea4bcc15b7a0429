//! StopContainer: the stop signal, and after the time-out SIGKILL. Repeated, or of a container that is gone, it is no error.

use crate::control::Request;
use crate::cri::{Daemon, api, sandboxes};
use crate::error::{Kind, kind_of};
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(daemon: &Daemon, request: &api::StopContainerRequest) -> Result<api::StopContainerResponse> {
    let done = Ok(api::StopContainerResponse {});
    let (sandbox, container) = match sandboxes::container(&daemon.dirs, &request.container_id) {
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => return done,
        found => found?,
    };
    if !sandbox.is_supervised() {
        crate::supervisor::remove::abandoned(&sandbox.pod, &daemon.facts.cgroups)?;
        return done;
    }
    let grace_seconds = u64::try_from(request.timeout).unwrap_or(0);
    match sandbox.ask(&Request::End { container: container.id().to_owned(), grace_seconds }, &[]) {
        // It was removed, or its sandbox ended, in this moment.
        Err(error) if matches!(kind_of(&error), Some(Kind::NotFound | Kind::NotReady)) => done,
        other => other.and(done),
    }
}
