//! ListContainers.

use crate::cri::sandboxes::{self, Listed, has_labels};
use crate::cri::{Daemon, api};
use anyhow::Result;
use std::sync::Arc;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::ListContainersRequest,
) -> Result<api::ListContainersResponse> {
    let items = items(daemon, request.filter.as_ref())?;
    Ok(api::ListContainersResponse { containers: items.iter().map(|item| item.encoded.clone()).collect() })
}

/// What a filter lets through, newest first.
pub(in crate::cri) fn items(daemon: &Daemon, filter: Option<&api::ContainerFilter>) -> Result<Vec<Arc<Listed>>> {
    let mut items = sandboxes::list_containers(&daemon.dirs)?;
    items.retain(|item| filter.is_none_or(|filter| passes(&item.container, filter)));
    items.sort_by_key(|item| std::cmp::Reverse(item.container.created_at));
    Ok(items)
}

fn passes(container: &api::Container, filter: &api::ContainerFilter) -> bool {
    container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
        && container.id.starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state)
        && has_labels(&container.labels, &filter.label_selector)
}
