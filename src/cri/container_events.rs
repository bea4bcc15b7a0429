//! GetContainerEvents: what becomes of sandboxes and containers, from the moment somebody asks (a kubelet's evented PLEG,
//! KEP-3386). A sandbox has the events of a container whose id is its own.
//!
//! Events are differences between what was told and what is seen on disk, looked at after each request that changes something
//! and whenever a supervisor says that something did. So they are in order, and none is told twice; what came and went between
//! two looks is told at the second one. Nothing is kept for somebody who asks later: he lists what there is.

use super::api::{self, ContainerEventType as Kind};
use super::daemon::{Daemon, Stream};
use super::runtime::{container_status, now, sandbox_status};
use super::sandboxes::{self, Container, Sandbox};
use crate::lifecycle::commanded::Stage;
use anyhow::Result;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};
use tonic::Status;

/// How many events a client may be behind.
const BACKLOG: usize = 1024;

/// The clients, and what they were told.
pub(super) struct ContainerEvents {
    clients: Sender<api::ContainerEventResponse>,
    told: Mutex<HashMap<String, Reached>>,
}

/// How far a container, or a sandbox, was told to have got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Created,
    Started,
    Stopped,
}

impl Default for ContainerEvents {
    fn default() -> Self {
        ContainerEvents { clients: Sender::new(BACKLOG), told: Mutex::default() }
    }
}

impl ContainerEvents {
    /// Whether anybody listens.
    pub(super) fn are_wanted(&self) -> bool {
        self.clients.receiver_count() > 0
    }

    fn told(&self) -> MutexGuard<'_, HashMap<String, Reached>> {
        self.told.lock().expect("no panic while it is held")
    }
}

/// GetContainerEvents
pub(super) async fn run(daemon: &Arc<Daemon>, _: api::GetEventsRequest) -> Result<Stream<api::ContainerEventResponse>> {
    let receiver = daemon.blocking(|daemon| subscribe(daemon)).await?;
    let next = |(mut receiver, daemon): (Receiver<_>, Arc<Daemon>)| async move {
        let event = tokio::select! {
            event = receiver.recv() => event,
            () = daemon.stop() => return None,
        };
        match event {
            Ok(event) => Some((Ok(event), (receiver, daemon))),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(missed)) => {
                let message = format!("{missed} events were not fetched in time: list what there is, and ask again");
                // Nobody sends to this one: it is closed.
                let (_, closed) = broadcast::channel(1);
                Some((Err(Status::resource_exhausted(message)), (closed, daemon)))
            }
        }
    };
    Ok(Box::pin(futures_util::stream::unfold((receiver, daemon.clone()), next)))
}

/// What there is now is known to who begins to listen.
fn subscribe(daemon: &Daemon) -> Result<Receiver<api::ContainerEventResponse>> {
    let mut told = daemon.container_events.told();
    if !daemon.container_events.are_wanted() {
        told.clear();
        for sandbox in sandboxes::list(&daemon.dirs)? {
            told.extend(seen(&sandbox, &sandbox.containers()?).into_iter().map(|(id, (reached, _))| (id, reached)));
        }
    }
    Ok(daemon.container_events.clients.subscribe())
}

/// How far each has got, and whether it ran at all; the sandbox is the first as long as it is ready, and else the last.
fn seen(sandbox: &Sandbox, containers: &[Container]) -> Vec<(String, (Reached, bool))> {
    let of = |container: &Container| {
        let ran = container.report.started_at > 0;
        let reached = match container.report.stage {
            Stage::Creating | Stage::Created | Stage::Starting => Reached::Created,
            Stage::Running => Reached::Started,
            Stage::Exited => Reached::Stopped,
        };
        (container.id().to_owned(), (reached, ran))
    };
    let mut all: Vec<_> = containers.iter().map(of).collect();
    match sandbox.is_ready() {
        true => all.insert(0, (sandbox.id().to_owned(), (Reached::Started, true))),
        false => all.push((sandbox.id().to_owned(), (Reached::Stopped, true))),
    }
    all
}

/// The events between two of these.
fn between(told: Option<Reached>, (reached, ran): (Reached, bool)) -> impl Iterator<Item = Kind> {
    let steps = [
        (Reached::Created, Kind::ContainerCreatedEvent),
        (Reached::Started, Kind::ContainerStartedEvent),
        (Reached::Stopped, Kind::ContainerStoppedEvent),
    ];
    let is_new = move |step: Reached| told.is_none_or(|told| told < step) && step <= reached;
    steps.into_iter().filter(move |(step, _)| is_new(*step) && (ran || *step != Reached::Started)).map(|(_, kind)| kind)
}

impl Daemon {
    /// Tells what has become of a sandbox and its containers, if anybody listens.
    pub(super) fn observe(&self, id: &str) {
        if !self.container_events.are_wanted() || self.plugins.hides(id) {
            return;
        }
        // What cannot be read is seen at the next look, or is gone; the request that was performed is done in any case.
        let Ok(sandbox) = sandboxes::sandbox(&self.dirs, id) else { return };
        let mut told = self.container_events.told();
        let Ok(containers) = sandbox.containers() else { return };
        let Ok(about) = About::of(&sandbox, &containers) else { return };
        for (id, now) in seen(&sandbox, &containers) {
            for kind in between(told.get(&id).copied(), now) {
                self.container_events.send(&about, &id, kind);
            }
            told.insert(id, now.0);
        }
    }

    /// Whether anybody was told of a container, or a sandbox: nobody else misses it.
    pub(super) fn is_told_of(&self, id: &str) -> bool {
        self.container_events.told().contains_key(id)
    }

    /// Tells that a container, or a sandbox, is gone; `last` is what was seen of it before.
    pub(super) fn removed(&self, last: &About, id: &str) {
        let Some(reached) = self.container_events.told().remove(id) else { return };
        if reached < Reached::Stopped {
            self.container_events.send(last, id, Kind::ContainerStoppedEvent);
        }
        self.container_events.send(last, id, Kind::ContainerDeletedEvent);
    }
}

/// What an event says of its sandbox.
pub(super) struct About {
    sandbox: api::PodSandboxStatus,
    containers: Vec<api::ContainerStatus>,
}

impl About {
    pub(super) fn of(sandbox: &Sandbox, containers: &[Container]) -> Result<About> {
        let statuses = containers.iter().map(|container| container_status(sandbox, container));
        Ok(About { sandbox: sandbox_status(sandbox), containers: statuses.collect::<Result<_>>()? })
    }
}

impl ContainerEvents {
    fn send(&self, about: &About, id: &str, kind: Kind) {
        // Nobody listens any more: then nobody misses it.
        let _ = self.clients.send(api::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: now().unwrap_or_default(),
            pod_sandbox_status: Some(about.sandbox.clone()),
            containers_statuses: about.containers.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_is_told_in_order_and_once() {
        use Kind::{
            ContainerCreatedEvent as Created, ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
        };
        for (told, now, expected) in [
            (None, (Reached::Created, false), &[Created][..]),
            (None, (Reached::Stopped, true), &[Created, Started, Stopped]),
            (None, (Reached::Stopped, false), &[Created, Stopped]),
            (Some(Reached::Created), (Reached::Started, true), &[Started]),
            (Some(Reached::Created), (Reached::Stopped, true), &[Started, Stopped]),
            (Some(Reached::Started), (Reached::Started, true), &[]),
            (Some(Reached::Stopped), (Reached::Stopped, true), &[]),
        ] {
            let found: Vec<_> = between(told, now).collect();
            assert_eq!(found, expected, "{told:?} {now:?}");
        }
    }
}
