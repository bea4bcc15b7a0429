//! UpdateContainerResources: what is not set stays as it is.

use crate::cri::nri::describe;
use crate::cri::{Daemon, api, convert, plugins, resize, sandboxes};
use crate::error::{Kind, failure};
use anyhow::{Context, Result};

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::UpdateContainerResourcesRequest,
) -> Result<api::UpdateContainerResourcesResponse> {
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    if request.windows.as_ref().is_some_and(|windows| *windows != api::WindowsContainerResources::default()) {
        return Err(failure(Kind::Invalid, "windows: this host runs Linux"));
    }
    let linux = request.linux.as_ref().ok_or_else(|| failure(Kind::Invalid, "linux is missing"))?;
    let mut linux = linux.clone();
    // Checked before plugins are asked.
    let wanted = convert::updated(&container.record.config.resources, &linux)?;
    convert::check_update(&linux, &wanted, &daemon.container_context(&sandbox.pod, container.id())?)?;
    let events = daemon.events();
    let mut effects = None;
    if daemon.plugins.nri.is_on() {
        let (pod, told) = (plugins::pod(&sandbox), plugins::told(&sandbox, &container)?);
        let updated = daemon.wait(events.update_container(&pod, &told, describe::asked_resources(&linux)));
        let updated = updated.context("what NRI plugins say to the resources")?;
        let score = linux.oom_score_adj;
        linux = plugins::asked(&updated.resources)?;
        linux.oom_score_adj = score;
        effects = Some(updated);
    }
    resize::resize(&daemon.dirs, container.id(), &linux)?;
    if let Some(updated) = effects {
        plugins::update_all(&daemon.dirs, &updated.updates);
        // It has them: nothing of what follows fails the request.
        plugins::evict_all(&daemon.dirs, &updated.evictions);
        if let Ok((sandbox, container)) = sandboxes::container(&daemon.dirs, container.id())
            && let Some(told) = plugins::noted(plugins::told(&sandbox, &container))
        {
            daemon.wait(events.post_update_container(&plugins::pod(&sandbox), &told));
        }
    }
    Ok(api::UpdateContainerResourcesResponse {})
}
