//! ContainerStatus.

use crate::cri::sandboxes::{self, Container, Sandbox};
use crate::cri::{Daemon, api, convert};
use crate::plan::config::Log;
use crate::store;
use anyhow::Result;
use oci_spec::runtime::Spec;
use std::collections::HashMap;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::ContainerStatusRequest,
) -> Result<api::ContainerStatusResponse> {
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    Ok(api::ContainerStatusResponse {
        status: Some(status(&sandbox, &container)?),
        info: if request.verbose { info(&sandbox, &container)? } else { HashMap::new() },
    })
}

/// As the API has it.
pub(in crate::cri) fn status(sandbox: &Sandbox, container: &Container) -> Result<api::ContainerStatus> {
    let report = &container.report;
    let spec = bundle(sandbox, container)?;
    let log_path = match &container.record.config.log {
        Log::File(path) => path.display().to_string(),
        Log::OfInstance | Log::Nowhere => String::new(),
    };
    Ok(api::ContainerStatus {
        id: container.id().to_owned(),
        metadata: Some(container.metadata()),
        state: container.state() as i32,
        created_at: report.created_at,
        started_at: report.started_at,
        finished_at: report.finished_at,
        exit_code: report.exit_code,
        image: Some(container.image()),
        image_ref: container.image_ref(),
        reason: report.reason.clone(),
        message: report.message.clone(),
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        mounts: container
            .config
            .mounts
            .iter()
            .enumerate()
            .map(|(index, mount)| told(container, index, mount))
            .collect(),
        log_path,
        resources: Some(convert::resources_told(&container.record.config.resources)),
        image_id: container.record.image.id.clone(),
        user: spec.as_ref().and_then(user),
        stop_signal: convert::stop_signal_told(&container.record) as i32,
    })
}

/// A mount as it was asked for; of an image, with the id of what is mounted.
fn told(container: &Container, index: usize, mount: &api::Mount) -> api::Mount {
    let mut mount = mount.clone();
    let found = container.record.volume_images.get(&format!("{}/{index}", container.id()));
    if let (Some(image), Some(found)) = (&mut mount.image, found) {
        image.image_ref = found.id.clone();
    }
    mount
}

/// Its bundle's config; `None` if it is being made or removed, or damaged.
fn bundle(sandbox: &Sandbox, container: &Container) -> Result<Option<Spec>> {
    let path = sandbox.pod.dirs.container_state(container.id()).join("config.json");
    sandboxes::if_whole(store::read_json(&path))
}

fn user(spec: &Spec) -> Option<api::ContainerUser> {
    let user = spec.process().as_ref()?.user();
    let groups = user.additional_gids().iter().flatten();
    let linux = api::LinuxContainerUser {
        uid: i64::from(user.uid()),
        gid: i64::from(user.gid()),
        supplemental_groups: groups.map(|gid| i64::from(*gid)).collect(),
    };
    Some(api::ContainerUser { linux: Some(linux) })
}

/// What containerd's has, too: the pid, and the OCI config.
fn info(sandbox: &Sandbox, container: &Container) -> Result<HashMap<String, String>> {
    let info = serde_json::json!({
        "sandboxID": sandbox.id(),
        "pid": container.report.pid.unwrap_or(0),
        "bundle": sandbox.pod.dirs.container_state(container.id()),
        "runtimeSpec": bundle(sandbox, container)?,
    });
    Ok([("info".to_owned(), info.to_string())].into())
}
