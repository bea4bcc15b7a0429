//! ListPodSandbox.

use crate::cri::sandboxes::{self, Sandbox, has_labels};
use crate::cri::{Daemon, api};
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::ListPodSandboxRequest,
) -> Result<api::ListPodSandboxResponse> {
    Ok(api::ListPodSandboxResponse { items: items(daemon, request.filter.as_ref())? })
}

/// What a filter lets through.
pub(in crate::cri) fn items(daemon: &Daemon, filter: Option<&api::PodSandboxFilter>) -> Result<Vec<api::PodSandbox>> {
    let mut all = sandboxes::list(&daemon.dirs)?;
    all.retain(|sandbox| !daemon.plugins.hides(sandbox.id()));
    Ok(all.iter().filter(|sandbox| filter.is_none_or(|filter| passes(sandbox, filter))).map(item).collect())
}

fn passes(sandbox: &Sandbox, filter: &api::PodSandboxFilter) -> bool {
    let state = filter.state.as_ref();
    (filter.id.is_empty() || sandbox.id().starts_with(&filter.id))
        && state.is_none_or(|wanted| wanted.state == sandbox.state() as i32)
        && has_labels(&sandbox.config.labels, &filter.label_selector)
}

fn item(sandbox: &Sandbox) -> api::PodSandbox {
    api::PodSandbox {
        id: sandbox.id().to_owned(),
        metadata: Some(sandbox.metadata()),
        state: sandbox.state() as i32,
        created_at: sandbox.asked.created_at,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.asked.handler.clone(),
    }
}
