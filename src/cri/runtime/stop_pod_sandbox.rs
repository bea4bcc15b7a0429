//! StopPodSandbox: every process is killed, and the sandbox's network given back. Repeated, or of a sandbox that is gone, it is no
//! error.

use super::stop_container;
use crate::control::Request;
use crate::cri::nri::Events;
use crate::cri::sandboxes::{self, Sandbox};
use crate::cri::{Daemon, api, plugins};
use crate::error::{Kind, kind_of};
use crate::network;
use crate::store::{self, Wait};
use crate::supervisor::remove;
use anyhow::{Context, Result};
use std::time::Duration;

/// How long a sandbox may take to be set up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::StopPodSandboxRequest,
) -> Result<api::StopPodSandboxResponse> {
    match sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id) {
        Ok(sandbox) => {
            stop(daemon, &sandbox, &daemon.events())?;
            daemon.observe(sandbox.id());
        }
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => {}
        Err(error) => return Err(error),
    }
    Ok(api::StopPodSandboxResponse {})
}

/// Stops a sandbox: its containers, then itself. Plugins are told in between, while the network is still there; they cannot keep it.
pub(in crate::cri) fn stop(daemon: &Daemon, sandbox: &Sandbox, events: &Events) -> Result<()> {
    if daemon.plugins.nri.is_on() && sandbox.is_up() {
        for container in sandbox.all_containers()? {
            stop_container::end(daemon, (sandbox, &container), 0)?;
            // They are told how it ended.
            if let Ok((sandbox, container)) = sandboxes::any_container(&daemon.dirs, container.id()) {
                daemon.wait(daemon.tell_stopped(events, &sandbox, &container));
            }
        }
        daemon.wait(events.stop_pod_sandbox(&plugins::pod(sandbox)));
    }
    end(daemon, sandbox)
}

/// Ends a sandbox, and waits until it has ended.
pub(in crate::cri) fn end(daemon: &Daemon, sandbox: &Sandbox) -> Result<()> {
    while sandbox.ask_if_supervised(&Request::Stop { grace_seconds: Some(0) }, PATIENCE)? {
        // Its supervisor holds this as long as it lives.
        drop(store::lock(&sandbox.pod.dirs.lock(), Wait::Yes)?);
    }
    remove::abandoned(&sandbox.pod, &daemon.facts.cgroups)?;
    // Its supervisor has done this, but does not wait for a plugin that could not: whoever asked for the end asks again.
    network::detach(&daemon.dirs, sandbox.id()).context("giving back the sandbox's network")?;
    Ok(())
}
