//! RemoveContainer: killed if it runs, and nothing of it is left but its log, which is the kubelet's. Of a container that is gone
//! it is no error.

use crate::control::Request;
use crate::cri::{Daemon, api, sandboxes};
use crate::error::{Kind, kind_of};
use crate::supervisor::remove;
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::RemoveContainerRequest,
) -> Result<api::RemoveContainerResponse> {
    let done = Ok(api::RemoveContainerResponse {});
    let (sandbox, container) = match sandboxes::container(&daemon.dirs, &request.container_id) {
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => return done,
        found => found?,
    };
    if sandbox.is_supervised() {
        match sandbox.ask(&Request::Remove { container: container.id().to_owned() }, &[]) {
            Err(error) if kind_of(&error) == Some(Kind::NotFound) => return done,
            // The sandbox ended in this moment.
            Err(error) if kind_of(&error) == Some(Kind::NotReady) => {}
            other => return other.and(done),
        }
    }
    remove::abandoned(&sandbox.pod, &daemon.facts.cgroups)?;
    remove::container_of_ended(&sandbox.pod, container.id())?;
    done
}
