//! The RPCs that answer a list as a stream (StreamPodSandboxes, StreamContainers, StreamContainerStats, StreamPodSandboxStats,
//! StreamPodSandboxMetrics): the items as they were when they were asked for, in messages that no limit of size can break.

use super::{list_containers, list_pod_sandbox, metrics, stats};
use crate::cri::daemon::Stream;
use crate::cri::{Daemon, api};
use anyhow::Result;
use futures_util::stream;

/// How many items one message has.
const CHUNK: usize = 100;
/// How many sandboxes' metrics one message has: each container has a hundred values.
const METRICS_CHUNK: usize = 5;

/// Messages of a list.
fn messages<I: Clone + Send + 'static, M: Send + 'static>(items: &[I], message: fn(Vec<I>) -> M) -> Stream<M> {
    chunked(items, CHUNK, message)
}

fn chunked<I: Clone + Send + 'static, M: Send + 'static>(
    items: &[I],
    size: usize,
    message: fn(Vec<I>) -> M,
) -> Stream<M> {
    let messages: Vec<_> = items.chunks(size).map(|chunk| Ok(message(chunk.to_vec()))).collect();
    Box::pin(stream::iter(messages))
}

/// StreamPodSandboxes
pub(in crate::cri) fn pod_sandboxes(
    daemon: &Daemon,
    request: &api::StreamPodSandboxesRequest,
) -> Result<Stream<api::StreamPodSandboxesResponse>> {
    let items = list_pod_sandbox::items(daemon, request.filter.as_ref())?;
    Ok(messages(&items, |pod_sandboxes| api::StreamPodSandboxesResponse { pod_sandboxes }))
}

/// StreamContainers
pub(in crate::cri) fn containers(
    daemon: &Daemon,
    request: &api::StreamContainersRequest,
) -> Result<Stream<api::StreamContainersResponse>> {
    let items = list_containers::items(daemon, request.filter.as_ref())?;
    Ok(messages(&items, |items| {
        let containers = items.iter().map(|item| item.container.clone()).collect();
        api::StreamContainersResponse { containers }
    }))
}

/// StreamContainerStats
pub(in crate::cri) fn container_stats(
    daemon: &Daemon,
    request: &api::StreamContainerStatsRequest,
) -> Result<Stream<api::StreamContainerStatsResponse>> {
    let asked = api::ListContainerStatsRequest { filter: request.filter.clone() };
    let items = stats::list_containers(daemon, &asked)?.stats;
    Ok(messages(&items, |container_stats| api::StreamContainerStatsResponse { container_stats }))
}

/// StreamPodSandboxStats
pub(in crate::cri) fn pod_sandbox_stats(
    daemon: &Daemon,
    request: &api::StreamPodSandboxStatsRequest,
) -> Result<Stream<api::StreamPodSandboxStatsResponse>> {
    let asked = api::ListPodSandboxStatsRequest { filter: request.filter.clone() };
    let items = stats::list_sandboxes(daemon, &asked)?.stats;
    Ok(messages(&items, |pod_sandbox_stats| api::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
}

/// StreamPodSandboxMetrics
pub(in crate::cri) fn pod_sandbox_metrics(
    daemon: &Daemon,
    _: &api::StreamPodSandboxMetricsRequest,
) -> Result<Stream<api::StreamPodSandboxMetricsResponse>> {
    let items = metrics::items(daemon)?;
    let message = |pod_sandbox_metrics| api::StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
    Ok(chunked(&items, METRICS_CHUNK, message))
}
