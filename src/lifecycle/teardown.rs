//! Why and until when the whole pod ends (pod-api.md §3, §8, §9).

use super::container::{Container, Stage};
use super::ending::Ending;
use super::machine::{PodState, Step};
use super::restart::RestartAll;
use super::status::Terminated;
use super::{Action, ContainerKind, EventType};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The least time that a pod gets to end, its pre-stop hooks included.
const MINIMUM_GRACE: Duration = Duration::from_secs(1);

/// `status.reason` of a pod that was ended by `spec.activeDeadlineSeconds`.
pub(super) const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// `status.message` of such a pod.
pub(super) const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// `status.reason` of a pod that used more of the host than it may.
pub(super) const EVICTED: &str = "Evicted";

/// The pod is ending: nothing is started any more, and what lives is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Teardown {
    /// When the grace period is over, on the boot clock.
    pub(super) deadline: Duration,
    /// Without a signal, whatever is under way.
    pub(super) at_once: bool,
    /// When the grace period is over, on the wall clock; only if somebody asked for the pod's end.
    pub(super) deletion: Option<Duration>,
    pub(super) cause: TeardownCause,
}

/// Why a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TeardownCause {
    /// Its app containers have ended for good, or an init container has failed for good.
    Completed,
    /// Its sandbox was lost, and it may not be made again.
    SandboxLost,
    /// Somebody asked for it.
    Asked,
    /// It was active for longer than it may.
    DeadlineExceeded,
    /// It used more of the host than it may.
    Evicted,
}

impl PodState {
    /// The pod is to be dead after `grace`; what is under way can only be shortened.
    pub(super) fn tear_down(&mut self, grace: Duration, cause: TeardownCause, step: &Step) {
        if self.phase.is_terminal() {
            return;
        }
        let grace = grace.max(MINIMUM_GRACE);
        let deadline = step.now.boot + grace;
        let deletion = (cause == TeardownCause::Asked).then_some(step.now.wall + grace);
        self.teardown = Some(match self.teardown {
            None => Teardown { deadline, at_once: false, deletion, cause },
            Some(before) => Teardown {
                deadline: before.deadline.min(deadline),
                at_once: before.at_once,
                deletion: [before.deletion, deletion].into_iter().flatten().min(),
                // A deadline that was exceeded stays so; a pod that was about to complete has been stopped.
                cause: before.cause.max_of(cause),
            },
        });
        if self.restart_all == RestartAll::UnderWay {
            self.restart_all = RestartAll::Past;
            // What has ended for it waits no longer: it has ended.
            for container in self.containers.iter_mut().filter(|c| c.stage == Stage::Done && c.last.is_some()) {
                container.waiting = None;
            }
        }
        for container in self.containers.iter_mut().filter(|c| c.is_alive()) {
            container.shorten_ending(deadline, step.now.boot);
        }
    }

    /// Everything is killed without a signal; what was killed before and lives is killed again: the first time may have failed.
    pub(super) fn kill_pod(&mut self, step: &mut Step) {
        self.tear_down(Duration::ZERO, TeardownCause::Asked, step);
        if let Some(teardown) = &mut self.teardown {
            *teardown = Teardown {
                deadline: step.now.boot.min(teardown.deadline),
                at_once: true,
                deletion: teardown.deletion.map(|deletion| deletion.min(step.now.wall)),
                cause: teardown.cause,
            };
        }
        let survivors =
            self.each().filter(|(.., container)| container.is_alive() && container.ending == Ending::Killed);
        step.actions.extend(survivors.map(|(container, ..)| Action::Kill { container }));
    }

    /// The pod has used more than it may: it gets the least time there is, and has failed whatever its containers exit with
    /// (pod-api.md §20, §22).
    pub(super) fn evict(&mut self, message: String, step: &mut Step) {
        step.emit(EventType::Warning, None, (EVICTED, message.clone()));
        let words = ("TerminationByKubelet".to_owned(), message.clone());
        self.set_condition(("DisruptionTarget".to_owned(), true), words, step.now);
        self.evicted = Some(message);
        self.tear_down(Duration::ZERO, TeardownCause::Evicted, step);
    }

    /// When `spec.activeDeadlineSeconds` is over, counted from the admission: pulls and init containers are in it.
    pub(super) fn active_deadline(&self) -> Option<Duration> {
        match (self.teardown, self.admitted, self.spec.active_deadline) {
            (None, Some(admitted), Some(allowed)) => Some(admitted.boot + allowed),
            _ => None,
        }
    }

    /// The pod ends by itself: its time is over, its app containers have ended for good, or its initialisation has failed.
    pub(super) fn end_pod_if_due(&mut self, step: &mut Step) {
        if self.active_deadline().is_some_and(|deadline| deadline <= step.now.boot) {
            step.emit(EventType::Normal, None, (DEADLINE_EXCEEDED, DEADLINE_MESSAGE.to_owned()));
            self.tear_down(self.spec.grace, TeardownCause::DeadlineExceeded, step);
        }
        let apps_ended = self.of_kind(ContainerKind::App).all(|(_, _, app)| app.stage == Stage::Done);
        let is_done = self.initialization_failed() || apps_ended;
        if self.teardown.is_none() && self.restart_all != RestartAll::UnderWay && is_done {
            self.tear_down(self.spec.grace, TeardownCause::Completed, step);
        }
    }

    /// Whether an init container has failed for good.
    pub(super) fn initialization_failed(&self) -> bool {
        self.of_kind(ContainerKind::Init).any(|(_, _, init)| init.has_failed())
    }

    /// Nothing is started any more.
    pub(super) fn retire_idle(&mut self) {
        for container in &mut self.containers {
            if matches!(container.stage, Stage::Idle { .. }) {
                container.retire();
            }
        }
        if self.is_over() {
            self.write_off_missing();
        }
    }

    /// Whether no container lives, and none will.
    pub(super) fn is_over(&self) -> bool {
        self.containers.iter().all(|c| c.stage == Stage::Done)
    }

    /// A pod that ended after its initialisation must show an end for each app container, as a kubelet's does.
    fn write_off_missing(&mut self) {
        if self.of_kind(ContainerKind::Init).any(|(_, _, init)| !init.succeeded()) {
            return;
        }
        for (container, spec) in self.containers.iter_mut().zip(&self.spec.containers) {
            if spec.kind == ContainerKind::App && container.last.is_none() {
                container.write_off();
            }
        }
    }
}

impl TeardownCause {
    fn max_of(self, other: TeardownCause) -> TeardownCause {
        use TeardownCause::{Asked, Completed, DeadlineExceeded, Evicted, SandboxLost};
        match (self, other) {
            (DeadlineExceeded | Evicted, _) => self,
            (Asked, _) | (Completed | SandboxLost, Asked) => Asked,
            (Completed | SandboxLost, other) => other,
        }
    }
}

impl Container {
    fn write_off(&mut self) {
        self.waiting = None;
        self.last = Some(Terminated {
            exit_code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "The container could not be located when the pod was terminated".to_owned(),
            started_at: None,
            finished_at: None,
            container_id: String::new(),
        });
    }
}
