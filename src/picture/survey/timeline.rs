//! How a pod started: from what was reported, which is to the second, and from what is known better: when files of the pod
//! were made, and when the kernel started a process.

use super::super::model::{Container, Doing, Event, Span, State};
use super::super::text::plain;
use super::NAME;
use crate::lifecycle::EventType;
use crate::lifecycle::status::{ConditionStatus, ContainerState, PodStatus, Time};
use crate::paths::log_file;
use crate::store;
use crate::supervisor::events as supervisor_events;
use anyhow::Result;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// When a file was made (statx(2) `btime`), in milliseconds since 1970.
fn made(path: &Path) -> Option<i64> {
    let since = std::fs::symlink_metadata(path).ok()?.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

fn ms(time: Time) -> i64 {
    time.0.saturating_mul(1000)
}

/// The pod's spans, in the order of their beginnings.
pub(super) fn spans(pod: &store::Pod, status: Option<&PodStatus>, containers: &[Container]) -> Vec<Span> {
    let first = made(&pod.dirs.owner()).unwrap_or_else(|| ms(pod.record.created));
    let mut known = Vec::new();
    for container in containers {
        let Some((layer, state)) = instance(pod, status, container, first) else { continue };
        known.push((container, layer, state));
    }
    known.sort_by_key(|(_, layer, _)| *layer);
    let mut spans = Vec::new();
    if let Some((_, layer, _)) = known.first() {
        let to = Some((*layer).max(first));
        spans.push(Span { of: "sandbox".into(), what: Doing::Sandbox, from_ms: first, to_ms: to, rough: false });
    }
    for (index, (container, layer, state)) in known.iter().enumerate() {
        let process = container.processes.shown.first().map(|process| process.started_ms);
        // An init container ends before the next one is made.
        let next = known.get(index + 1).map(|(_, layer, _)| *layer).filter(|_| container.kind == "init");
        spans.extend(of_container(container, *layer, state, (process, next)));
    }
    spans.extend(ready(status, first));
    spans
}

/// When the latest instance of a container was made, and its state; `None` before it is.
fn instance(
    pod: &store::Pod,
    status: Option<&PodStatus>,
    container: &Container,
    first: i64,
) -> Option<(i64, ContainerState)> {
    let status = status?;
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let found = all.into_iter().flatten().find(|found| found.name == container.name)?;
    let ended = found.state.terminated.as_ref().and_then(|ended| ended.started_at);
    let reported = found.state.running.as_ref().map(|running| running.started_at).or(ended)?;
    // Of a container that is done the layer is gone, and the log is still there.
    let log = log_file(&pod.record.plan.sandbox.log_directory, &container.name, found.restart_count);
    let layer = made(&pod.dirs.container_data(&container.name, found.restart_count)).or_else(|| made(&log));
    // What is known to the second only may seem to be before the pod was.
    Some((layer.unwrap_or_else(|| ms(reported)).max(first), found.state.clone()))
}

fn of_container(
    container: &Container,
    layer: i64,
    state: &ContainerState,
    (process, next): (Option<i64>, Option<i64>),
) -> Vec<Span> {
    let span = |what, from_ms, to_ms, rough| Span { of: container.name.clone(), what, from_ms, to_ms, rough };
    if let (State::Running, Some(running)) = (&container.state, &state.running) {
        // A process of an `exec` may be the oldest that is left, but not older than the container is said to be.
        let near = process.filter(|started| (started / 1000 - running.started_at.0).abs() <= 1);
        let from = near.unwrap_or_else(|| ms(running.started_at)).max(layer);
        return vec![
            span(Doing::Create, layer, Some(from), near.is_none()),
            span(Doing::Run, from, None, near.is_none()),
        ];
    }
    let Some(ended) = &state.terminated else { return Vec::new() };
    let from = ended.started_at.map_or(layer, ms).max(layer);
    // Cut to the second: it ended within the second that follows.
    let latest = ended.finished_at.map_or(from, |time| ms(time).saturating_add(999));
    let to = next.map_or(latest, |next| latest.min(next)).max(from);
    vec![span(Doing::Run, from, Some(to), true)]
}

/// How long it took until the pod was ready.
fn ready(status: Option<&PodStatus>, first: i64) -> Option<Span> {
    let ready = status?.conditions.iter().find(|c| c.type_ == "Ready" && c.status == ConditionStatus::True)?;
    let to = ms(ready.last_transition_time).saturating_add(999).max(first);
    Some(Span { of: "pod".into(), what: Doing::Ready, from_ms: first, to_ms: Some(to), rough: true })
}

/// The latest events.
pub(super) fn events(pod: &store::Pod, most: usize, message: usize) -> Result<Vec<Event>> {
    let all = supervisor_events::read(&pod.dirs)?;
    let latest = all.into_iter().rev().take(most).map(|entry| Event {
        time: entry.time,
        warning: entry.type_ == EventType::Warning,
        reason: plain(&entry.reason, NAME),
        object: plain(&entry.object, NAME),
        message: plain(&entry.message, message),
        count: entry.count,
    });
    let mut latest: Vec<Event> = latest.collect();
    latest.reverse();
    Ok(latest)
}
