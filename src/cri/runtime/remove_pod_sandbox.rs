//! RemovePodSandbox: the sandbox is stopped if it is not, and nothing is left of it and its containers but their logs. Of a
//! sandbox that is gone it is no error.

use super::remove_container;
use super::stop_pod_sandbox::stop;
use crate::cri::container_events::About;
use crate::cri::sandboxes::{self, Container};
use crate::cri::{Daemon, api, plugins};
use crate::error::{Kind, kind_of};
use crate::supervisor::remove;
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::RemovePodSandboxRequest,
) -> Result<api::RemovePodSandboxResponse> {
    let done = Ok(api::RemovePodSandboxResponse {});
    let sandbox = match sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id) {
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => return done,
        found => found?,
    };
    let events = daemon.events();
    stop(daemon, &sandbox, &events)?;
    // As it is now that it has ended; somebody else may have removed it.
    let sandbox = match sandboxes::sandbox(&daemon.dirs, sandbox.id()) {
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => return done,
        found => found?,
    };
    let containers = sandbox.all_containers()?;
    if daemon.plugins.nri.is_on() {
        for container in &containers {
            daemon.wait(remove_container::tell(daemon, &events, (&sandbox, container)));
        }
        daemon.wait(events.remove_pod_sandbox(&plugins::pod(&sandbox)));
    }
    daemon.observe(sandbox.id());
    let last = About::of(&sandbox, &sandbox.containers()?)?;
    remove::pod(&sandbox.pod, || Ok(daemon.facts.cgroups.clone()))?;
    for container in &containers {
        daemon.wait(daemon.forget(container.id()));
    }
    for id in containers.iter().map(Container::id).chain([sandbox.id()]) {
        daemon.removed(&last, id);
    }
    done
}
