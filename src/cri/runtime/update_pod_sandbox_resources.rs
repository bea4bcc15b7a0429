//! UpdatePodSandboxResources. What all containers of the pod may have together is the kubelet's own business, who has a cgroup for
//! it above the sandbox's: here it is only kept, for NRI plugins and whoever asks.

use crate::cri::nri::describe;
use crate::cri::sandboxes::{self, Sandbox};
use crate::cri::{Daemon, api, convert, plugins};
use crate::store::{self, Wait};
use anyhow::{Context, Result};
use prost::Message as _;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::UpdatePodSandboxResourcesRequest,
) -> Result<api::UpdatePodSandboxResourcesResponse> {
    let sandbox = ready(daemon, &request.pod_sandbox_id)?;
    // As RunPodSandbox does, and before plugins are asked.
    for (field, given) in [("resources", &request.resources), ("overhead", &request.overhead)] {
        given.as_ref().map(|given| convert::resources(given, field)).transpose()?;
    }
    let events = daemon.events();
    let resources = |asked: &Option<api::LinuxContainerResources>| asked.as_ref().map(describe::asked_resources);
    let (overhead, wanted) = (resources(&request.overhead), resources(&request.resources));
    daemon.wait(events.update_pod_sandbox(&plugins::pod(&sandbox), overhead, wanted))?;
    keep(daemon, request)?;
    daemon.wait(events.post_update_pod_sandbox(&plugins::pod(&sandbox)));
    Ok(api::UpdatePodSandboxResourcesResponse {})
}

fn ready(daemon: &Daemon, id: &str) -> Result<Sandbox> {
    let sandbox = sandboxes::sandbox(&daemon.dirs, id)?;
    sandbox.require_ready().map(|()| sandbox)
}

fn keep(daemon: &Daemon, request: &api::UpdatePodSandboxResourcesRequest) -> Result<()> {
    let _lock = store::lock(&daemon.dirs.store_lock(), Wait::Yes)?;
    let sandbox = ready(daemon, &request.pod_sandbox_id)?;
    let mut config = sandbox.config.clone();
    let linux = config.linux.get_or_insert_default();
    if request.resources.is_some() {
        linux.resources.clone_from(&request.resources);
    }
    if request.overhead.is_some() {
        linux.overhead.clone_from(&request.overhead);
    }
    let mut record = sandbox.pod.record.clone();
    record.commanded.as_mut().context("it is no sandbox of CRI")?.request = config.encode_to_vec();
    store::write_json(&sandbox.pod.dirs.record(), &record)
}
