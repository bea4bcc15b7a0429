//! StartContainer: the container's command has been executed.

use crate::control::Request;
use crate::cri::{Daemon, api, plugins, sandboxes};
use anyhow::{Context, Result};

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::StartContainerRequest,
) -> Result<api::StartContainerResponse> {
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    let events = daemon.events();
    let is_on = daemon.plugins.nri.is_on();
    if is_on && container.state() == api::ContainerState::ContainerCreated {
        sandbox.ask(&Request::Made { container: container.id().to_owned() }, &[])?;
        let (sandbox, container) = sandboxes::container(&daemon.dirs, container.id())?;
        // Of one that could not be made there is nothing to be told.
        if container.state() == api::ContainerState::ContainerCreated {
            let (pod, told) = (plugins::pod(&sandbox), plugins::told(&sandbox, &container)?);
            daemon.wait(events.start_container(&pod, &told)).context("what NRI plugins say to the start")?;
        }
    }
    sandbox.ask(&Request::Start { container: container.id().to_owned() }, &[])?;
    if is_on
        && let Ok((sandbox, container)) = sandboxes::container(&daemon.dirs, container.id())
        && let Some(told) = plugins::noted(plugins::told(&sandbox, &container))
    {
        daemon.wait(events.post_start_container(&plugins::pod(&sandbox), &told));
    }
    daemon.observe(sandbox.id());
    Ok(api::StartContainerResponse {})
}
