//! Who decides about the pod's containers: its manifest, or a kubelet.

use super::pod::{machine_spec, now};
use crate::lifecycle::commanded::{Commanded, Stage};
use crate::lifecycle::status::Time;
use crate::lifecycle::{Action, Event, Now, PodState, PodStatus};
use crate::store::Pod;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The machine of one pod.
#[derive(Serialize, Deserialize)]
pub(super) enum Life {
    /// A manifest's pod lives by the kubelet's rules, which are in the machine.
    Own(Box<PodState>),
    /// A sandbox of CRI does as it is told.
    Commanded(Commanded),
}

impl Life {
    /// Of a pod of which nothing has happened yet.
    pub(super) fn begin(pod: &Pod) -> Life {
        match pod.record.commanded {
            Some(_) => Life::Commanded(Commanded::new()),
            None => Life::Own(Box::new(PodState::new(machine_spec(pod), now()))),
        }
    }

    pub(super) fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        match self {
            Life::Own(state) => state.step(event, now),
            Life::Commanded(state) => state.step(event, now),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        match self {
            Life::Own(state) => state.next_deadline(),
            Life::Commanded(state) => state.next_deadline(),
        }
    }

    pub(super) fn deletion_timestamp(&self) -> Option<Time> {
        match self {
            Life::Own(state) => state.deletion_timestamp(),
            Life::Commanded(state) => state.deletion_timestamp(),
        }
    }

    pub(super) fn goes_on(&self) -> bool {
        match self {
            Life::Own(state) => state.goes_on(),
            Life::Commanded(state) => state.goes_on(),
        }
    }

    pub(super) fn status(&self) -> PodStatus {
        match self {
            Life::Own(state) => state.status(),
            Life::Commanded(state) => state.status(),
        }
    }

    /// The restart count of the instance of a container that has a process, or may have.
    pub(super) fn present_instance(&self, container: usize) -> Option<u32> {
        match self {
            Life::Own(state) => state.present_instance(container),
            Life::Commanded(state) => (state.stage(container)? != Stage::Exited).then_some(0),
        }
    }

    /// Whether what runs of a container is not what the pod says any more.
    pub(super) fn is_stale(&self, container: usize) -> bool {
        match self {
            Life::Own(state) => state.is_stale(container),
            Life::Commanded(_) => false,
        }
    }

    /// If a kubelet decides.
    pub(super) fn commanded(&self) -> Option<&Commanded> {
        match self {
            Life::Own(_) => None,
            Life::Commanded(state) => Some(state),
        }
    }
}
