//! ListContainers.

use crate::cri::sandboxes::{self, Container, has_labels};
use crate::cri::{Daemon, api};
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::ListContainersRequest,
) -> Result<api::ListContainersResponse> {
    Ok(api::ListContainersResponse { containers: items(daemon, request.filter.as_ref())? })
}

/// What a filter lets through, newest first.
pub(in crate::cri) fn items(daemon: &Daemon, filter: Option<&api::ContainerFilter>) -> Result<Vec<api::Container>> {
    let all = sandboxes::list_containers(&daemon.dirs)?;
    let all = all.iter().map(|(made, container)| (&*made.pod.record.plan.sandbox.uid, container));
    let wanted = all.filter(|(sandbox, container)| filter.is_none_or(|filter| passes(sandbox, container, filter)));
    let mut items: Vec<api::Container> = wanted.map(|(sandbox, container)| item(sandbox, container)).collect();
    items.sort_by_key(|container: &api::Container| std::cmp::Reverse(container.created_at));
    Ok(items)
}

fn passes(sandbox: &str, container: &Container, filter: &api::ContainerFilter) -> bool {
    let state = filter.state.as_ref();
    sandbox.starts_with(&filter.pod_sandbox_id)
        && (filter.id.is_empty() || container.id().starts_with(&filter.id))
        && state.is_none_or(|wanted| wanted.state == container.state() as i32)
        && has_labels(&container.config.labels, &filter.label_selector)
}

fn item(sandbox: &str, container: &Container) -> api::Container {
    api::Container {
        id: container.id().to_owned(),
        pod_sandbox_id: sandbox.to_owned(),
        metadata: Some(container.metadata()),
        image: Some(container.image()),
        image_ref: container.image_ref(),
        state: container.state() as i32,
        created_at: container.report.created_at,
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        image_id: container.record.image.id.clone(),
    }
}
