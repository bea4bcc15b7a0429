//! RemoveContainer: killed if it runs, and nothing of it is left but its log, which is the kubelet's. Of a container that is gone
//! it is no error.

use super::stop_container::{self, PATIENCE};
use crate::control::Request;
use crate::cri::container_events::About;
use crate::cri::nri::Events;
use crate::cri::sandboxes::{self, Container, Sandbox};
use crate::cri::{Daemon, api, plugins};
use crate::error::{Kind, kind_of};
use crate::supervisor::remove;
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::RemoveContainerRequest,
) -> Result<api::RemoveContainerResponse> {
    let done = Ok(api::RemoveContainerResponse {});
    let (sandbox, container) = match sandboxes::any_container(&daemon.dirs, &request.container_id) {
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => return done,
        found => found?,
    };
    remove(daemon, (&sandbox, &container))?;
    // It is removed: nothing of what follows fails the request.
    if daemon.is_told_of(container.id())
        && let Ok(sandbox) = sandboxes::sandbox(&daemon.dirs, sandbox.id())
        && let Ok(last) = sandbox.containers().and_then(|containers| About::of(&sandbox, &containers))
    {
        daemon.removed(&last, container.id());
    }
    done
}

fn remove(daemon: &Daemon, (sandbox, container): (&Sandbox, &Container)) -> Result<()> {
    let events = daemon.events();
    if daemon.plugins.nri.is_on() {
        stop_container::end(daemon, (sandbox, container), 0)?;
        if let Ok((sandbox, container)) = sandboxes::any_container(&daemon.dirs, container.id()) {
            daemon.wait(tell(daemon, &events, (&sandbox, &container)));
        }
    }
    match sandbox.ask_if_supervised(&Request::Remove { container: container.id().to_owned() }, PATIENCE) {
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => {}
        Ok(false) => {
            remove::abandoned(&sandbox.pod, &daemon.facts.cgroups)?;
            remove::container_of_ended(&sandbox.pod, container.id())?;
        }
        other => other.map(drop)?,
    }
    daemon.wait(daemon.forget(container.id()));
    Ok(())
}

/// Tells plugins that a container has ended, if they do not know, and that it is about to be removed.
pub(in crate::cri) async fn tell(daemon: &Daemon, events: &Events, (sandbox, container): (&Sandbox, &Container)) {
    daemon.tell_stopped(events, sandbox, container).await;
    if let Some(told) = plugins::noted(plugins::told(sandbox, container)) {
        events.remove_container(&plugins::pod(sandbox), &told).await;
    }
}
