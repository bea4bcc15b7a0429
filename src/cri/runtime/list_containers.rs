//! ListContainers.

use crate::cri::sandboxes::{self, Listed, has_labels};
use crate::cri::{Daemon, api, framing};
use anyhow::Result;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::ListContainersRequest,
) -> Result<api::ListContainersResponse> {
    let all = sandboxes::list_containers(&daemon.dirs)?;
    match wanted(request.filter.as_ref()) {
        Some(filter) => Ok(sandboxes::answer(&passing(&all.items, filter))),
        None => Ok(all.answer.clone()),
    }
}

/// The answer to whom asks for all, if nothing has changed since somebody did last: no thread has to be woken for it, and nothing is
/// encoded or copied. Both are gRPC's bodies; what is no request is for others to refuse.
pub(in crate::cri) fn at_once(daemon: &Daemon, request: &[u8]) -> Option<Bytes> {
    let request = api::ListContainersRequest::decode(framing::only_message(request)?).ok()?;
    match wanted(request.filter.as_ref()) {
        Some(_) => None,
        None => Some(sandboxes::containers_at_once(&daemon.dirs)?.body().clone()),
    }
}

/// What a filter lets through, newest first.
pub(in crate::cri) fn items(daemon: &Daemon, filter: Option<&api::ContainerFilter>) -> Result<Vec<Arc<Listed>>> {
    let all = sandboxes::list_containers(&daemon.dirs)?;
    Ok(wanted(filter).map_or_else(|| all.items.clone(), |filter| passing(&all.items, filter)))
}

/// `None` of one that lets all through: a kubelet's is empty.
fn wanted(filter: Option<&api::ContainerFilter>) -> Option<&api::ContainerFilter> {
    filter.filter(|filter| **filter != api::ContainerFilter::default())
}

fn passing(items: &[Arc<Listed>], filter: &api::ContainerFilter) -> Vec<Arc<Listed>> {
    items.iter().filter(|item| passes(&item.container, filter)).cloned().collect()
}

fn passes(container: &api::Container, filter: &api::ContainerFilter) -> bool {
    container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
        && container.id.starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state)
        && has_labels(&container.labels, &filter.label_selector)
}
