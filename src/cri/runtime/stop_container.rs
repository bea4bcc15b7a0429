//! StopContainer: the stop signal, and after the time-out SIGKILL. Repeated, or of a container that is gone, it is no error.

use crate::control::Request;
use crate::cri::sandboxes::{self, Container, Sandbox};
use crate::cri::{Daemon, api};
use crate::error::{Kind, failure, kind_of};
use crate::supervisor::remove;
use anyhow::Result;
use std::time::Duration;

/// How long a supervisor may be too busy to be asked.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What is done.
pub(in crate::cri) fn run(daemon: &Daemon, request: &api::StopContainerRequest) -> Result<api::StopContainerResponse> {
    let done = Ok(api::StopContainerResponse {});
    let less = |_| failure(Kind::Invalid, format!("timeout is {}: less than nothing", request.timeout));
    let grace_seconds = u64::try_from(request.timeout).map_err(less)?;
    let (sandbox, container) = match sandboxes::any_container(&daemon.dirs, &request.container_id) {
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => return done,
        found => found?,
    };
    end(daemon, (&sandbox, &container), grace_seconds)?;
    if daemon.plugins.nri.is_on() {
        // It is told how it ended.
        if let Ok((sandbox, container)) = sandboxes::any_container(&daemon.dirs, container.id()) {
            daemon.wait(daemon.tell_stopped(&daemon.events(), &sandbox, &container));
        }
    }
    daemon.observe(sandbox.id());
    done
}

/// Ends a container, and waits until it has ended.
pub(in crate::cri) fn end(
    daemon: &Daemon,
    (sandbox, container): (&Sandbox, &Container),
    grace_seconds: u64,
) -> Result<()> {
    let asked = Request::End { container: container.id().to_owned(), grace_seconds };
    match sandbox.ask_if_supervised(&asked, PATIENCE) {
        // It was removed in this moment.
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => Ok(()),
        Ok(false) => remove::abandoned(&sandbox.pod, &daemon.facts.cgroups).map(drop),
        other => other.map(drop),
    }
}
