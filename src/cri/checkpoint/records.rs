//! What an archive tells of its container, in the words of those that read it (checkpointctl, CRI-O, podman, containerd):
//! `config.dump`, `spec.dump`, `status.dump`.

use crate::cri::sandboxes::{Container, Sandbox};
use anyhow::{Context, Result};
use jiff::Timestamp;
use oci_spec::runtime::Spec;
use serde::Serialize;
use std::collections::HashMap;

/// What was not yet: Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// `config.dump`: checkpointctl's `metadata.ContainerConfig`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    id: &'a str,
    name: &'a str,
    rootfs_image: &'a str,
    rootfs_image_ref: &'a str,
    rootfs_image_name: &'a str,
    runtime: &'a str,
    created_time: String,
    checkpointed_time: String,
    restored_time: &'static str,
    restored: bool,
}

/// `status.dump`: checkpointctl's `metadata.ContainerdStatus`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status<'a> {
    created_at: i64,
    started_at: i64,
    finished_at: i64,
    exit_code: i32,
    pid: i32,
    reason: &'a str,
    message: &'a str,
}

/// `config.dump`
pub(super) fn config(sandbox: &Sandbox, container: &Container, now: Timestamp) -> Result<Vec<u8>> {
    let image = &container.record.image;
    let created = Timestamp::from_nanosecond(container.report.created_at.into()).context("when it was created")?;
    let runtime = if sandbox.asked.handler.is_empty() { "podshim" } else { &sandbox.asked.handler };
    json(&Config {
        id: container.id(),
        name: &container.metadata().name,
        rootfs_image: &image.digest,
        rootfs_image_ref: &image.id,
        rootfs_image_name: &image.reference,
        runtime,
        created_time: created.to_string(),
        checkpointed_time: now.to_string(),
        restored_time: NEVER,
        restored: false,
    })
}

/// `spec.dump`: the spec, with the annotations by which containerd's are told whose they are.
pub(super) fn spec(sandbox: &Sandbox, container: &Container, spec: &Spec) -> Result<Vec<u8>> {
    let (of, own) = (sandbox.metadata(), container.metadata());
    let told = [
        ("container-type", "container"),
        ("container-name", &own.name),
        ("image-name", &container.record.image.reference),
        ("sandbox-id", sandbox.id()),
        ("sandbox-name", &of.name),
        ("sandbox-namespace", &of.namespace),
        ("sandbox-uid", &of.uid),
    ];
    let mut annotations: HashMap<String, String> = spec.annotations().clone().unwrap_or_default();
    annotations.extend(told.map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned())));
    let mut spec = spec.clone();
    spec.set_annotations(Some(annotations));
    json(&spec)
}

/// `status.dump`
pub(super) fn status(container: &Container) -> Result<Vec<u8>> {
    let report = &container.report;
    json(&Status {
        created_at: report.created_at,
        started_at: report.started_at,
        finished_at: report.finished_at,
        exit_code: report.exit_code,
        pid: report.pid.unwrap_or(0),
        reason: &report.reason,
        message: &report.message,
    })
}

/// As a document.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).context("encoding a document")
}
