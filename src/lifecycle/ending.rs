//! How a container is ended (pod-api.md §8): its pre-stop hook, its turn among sidecars, its stop signal, SIGKILL.
//!
//! ```text
//!                       hook done or                  those before it        floor of 2 s
//!            hook       out of time                   gone, or out of time   or what is left
//!  Unasked --------> PreStop ------------> InLine ----------------> Signalled ----------> Killed
//!     |  \___________________________________^______________________^                       ^
//!     |                  no hook, no grace: on; only sidecars stand in line                 |
//!     +-- being started --> Cancelled ------------------------------------------------------+
//! ```

use super::container::{Container, Stage, Stale};
use super::machine::{PodState, Sandbox, Step};
use super::restart::RestartAll;
use super::{Action, ContainerKind, Hook, Outcome, Task};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A container always gets this long between its stop signal and SIGKILL.
pub(super) const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// What was done to end a container (or its start). Times are on the boot clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    /// Nothing.
    Unasked,
    /// Its start was cancelled.
    Cancelled { kill_at: Duration },
    /// Its pre-stop hook runs, a sleeping one until a time of its own.
    PreStop { deadline: Duration, until: Option<Duration> },
    /// A sidecar waits until those are gone that it serves.
    InLine { deadline: Duration },
    /// It has its stop signal.
    Signalled { kill_at: Duration },
    /// Killed; again only if somebody asks for that.
    Killed,
}

/// Why a container is being ended, for what follows from its exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Cause {
    /// The pod ends.
    Teardown,
    /// Its liveness or startup probe failed.
    Probe,
    /// Its post-start hook failed.
    PostStart,
    /// It is defined otherwise now.
    Redefined,
    /// All containers are restarted.
    RestartAll,
}

/// The end of one container.
pub(super) struct Kill {
    /// For the hook, the line and the signal together.
    pub(super) grace: Duration,
    pub(super) cause: Cause,
    /// Of the event.
    pub(super) message: String,
}

impl PodState {
    /// Begins to end a container that runs; one that is being ended already goes on as it was.
    pub(super) fn end_container(&mut self, index: usize, kill: Kill, step: &mut Step) {
        let container = &mut self.containers[index];
        if container.ending != Ending::Unasked || !container.is_running() {
            return;
        }
        container.cause = Some(kill.cause);
        step.tell(index, "Killing", kill.message);
        let deadline = step.now.boot + kill.grace;
        match self.spec.containers[index].pre_stop.filter(|_| !kill.grace.is_zero()) {
            Some(hook) => {
                let until = match hook {
                    Hook::Sleep(time) => Some(step.now.boot + time),
                    Hook::Perform => {
                        step.actions.push(Action::Perform { container: index, task: Task::PreStop });
                        None
                    }
                };
                container.ending = Ending::PreStop { deadline, until };
            }
            None => self.line_up(index, deadline, step),
        }
    }

    /// Containers that are defined otherwise than what runs: they are restarted whatever their policy.
    pub(super) fn end_stale(&mut self, step: &mut Step) {
        for index in 0..self.containers.len() {
            if let Some(stale) = self.containers[index].stale {
                let name = &self.spec.containers[index].name;
                let message = match stale {
                    Stale::Image => format!("Container {name} definition changed, will be restarted"),
                    Stale::Resources => format!("Container {name} resize requires restart"),
                };
                let grace = self.spec.grace;
                self.end_container(index, Kill { grace, cause: Cause::Redefined, message }, step);
            }
        }
    }

    pub(super) fn pre_stop_done(&mut self, index: usize, outcome: Outcome, step: &mut Step) {
        let Ending::PreStop { deadline, until: None } = self.containers[index].ending else { return };
        match outcome {
            Outcome::Success => {}
            Outcome::Warning(message) => step.warn(index, "LifecycleHTTPFallback", message),
            Outcome::Failure(message) | Outcome::Error(message) => {
                step.warn(index, "FailedPreStopHook", format!("PreStopHook failed: {message}"));
            }
        }
        self.line_up(index, deadline, step);
    }

    /// Begins what the pod's end asks for, and takes every container under way to its end one stage further if it is time.
    pub(super) fn advance_endings(&mut self, step: &mut Step) {
        for index in 0..self.containers.len() {
            if !self.containers[index].is_alive() {
                continue;
            }
            if self.containers[index].ending == Ending::Unasked {
                self.begin_ending(index, step);
            }
            self.advance_ending(index, step);
        }
    }

    fn begin_ending(&mut self, index: usize, step: &mut Step) {
        let now = step.now.boot;
        let counted = self.spec.containers[index].kind != ContainerKind::Ephemeral;
        let (deadline, cause) = match self.teardown {
            _ if self.sandbox == Sandbox::Lost => return self.kill_lost(index, step),
            Some(teardown) => (teardown.deadline, Cause::Teardown),
            None if self.restart_all == RestartAll::UnderWay && counted => (now, Cause::RestartAll),
            None => return,
        };
        let message = format!("Stopping container {}", self.spec.containers[index].name);
        let is_late = cause == Cause::Teardown && deadline <= now;
        match self.containers[index].stage {
            Stage::Running { .. } if is_late => {
                step.tell(index, "Killing", message);
                self.kill(index, step);
            }
            Stage::Running { .. } => {
                let grace = deadline.saturating_sub(now);
                self.end_container(index, Kill { grace, cause, message }, step);
            }
            Stage::Starting if is_late => self.kill(index, step),
            Stage::Starting => self.cancel(index, deadline.max(now + MINIMUM_GRACE), step),
            Stage::Idle { .. } | Stage::Done => {}
        }
    }

    fn advance_ending(&mut self, index: usize, step: &mut Step) {
        let now = step.now.boot;
        let is_lost = self.sandbox == Sandbox::Lost && self.containers[index].is_running();
        if is_lost || self.teardown.is_some_and(|teardown| teardown.at_once) {
            self.kill(index, step);
        }
        if let Ending::PreStop { deadline, until } = self.containers[index].ending {
            if deadline <= now && until.is_none() {
                let message = "PreStopHook failed: it did not end within the grace period".to_owned();
                step.warn(index, "FailedPreStopHook", message);
            }
            if deadline <= now || until.is_some_and(|until| until <= now) {
                self.line_up(index, deadline, step);
            }
        }
        if let Ending::InLine { deadline } = self.containers[index].ending
            && (deadline <= now || !self.must_wait(index))
        {
            self.signal(index, deadline, step);
        }
        if let Ending::Signalled { kill_at } | Ending::Cancelled { kill_at } = self.containers[index].ending
            && kill_at <= now
        {
            self.kill(index, step);
        }
    }

    /// After the hook: the signal, unless others must be gone before.
    fn line_up(&mut self, index: usize, deadline: Duration, step: &mut Step) {
        if self.must_wait(index) {
            self.containers[index].ending = Ending::InLine { deadline };
        } else {
            self.signal(index, deadline, step);
        }
    }

    /// At the pod's end a sidecar waits for all app containers, and for whatever began after it in the init sequence.
    fn must_wait(&self, index: usize) -> bool {
        let is_sidecar = self.spec.containers[index].kind == ContainerKind::Sidecar;
        let is_served = |(at, spec, container): (usize, &super::ContainerSpec, &Container)| {
            container.is_alive()
                && match spec.kind {
                    ContainerKind::App => true,
                    ContainerKind::Init | ContainerKind::Sidecar => at > index,
                    ContainerKind::Ephemeral => false,
                }
        };
        is_sidecar && self.teardown.is_some() && self.each().any(is_served)
    }

    /// What is left of the grace period goes to the signal, in whole seconds: the parts of seconds that were spent before
    /// are given back, as a kubelet does.
    fn signal(&mut self, index: usize, deadline: Duration, step: &mut Step) {
        let left = deadline.saturating_sub(step.now.boot);
        let whole = Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0));
        self.containers[index].ending = Ending::Signalled { kill_at: step.now.boot + whole.max(MINIMUM_GRACE) };
        step.actions.push(Action::Signal { container: index });
    }

    /// The image that is being pulled is not wanted any more: the start is given up, and begins anew with the other one.
    pub(super) fn cancel_uncreated(&mut self, index: usize, step: &mut Step) {
        let container = &self.containers[index];
        if container.stage == Stage::Starting && !container.is_created() && container.ending == Ending::Unasked {
            self.cancel(index, step.now.boot + MINIMUM_GRACE, step);
        }
    }

    /// Gives its start up.
    pub(super) fn cancel(&mut self, index: usize, kill_at: Duration, step: &mut Step) {
        self.containers[index].ending = Ending::Cancelled { kill_at };
        step.actions.push(Action::CancelStart { container: index });
    }

    pub(super) fn kill(&mut self, index: usize, step: &mut Step) {
        if self.containers[index].ending != Ending::Killed {
            self.containers[index].ending = Ending::Killed;
            step.actions.push(Action::Kill { container: index });
        }
    }
}

impl Container {
    /// An end under way can only be made shorter.
    pub(super) fn shorten_ending(&mut self, to: Duration, now: Duration) {
        match &mut self.ending {
            Ending::PreStop { deadline, .. } | Ending::InLine { deadline } => *deadline = to.min(*deadline),
            Ending::Signalled { kill_at } | Ending::Cancelled { kill_at } => {
                *kill_at = to.max(now + MINIMUM_GRACE).min(*kill_at);
            }
            Ending::Unasked | Ending::Killed => {}
        }
    }

    /// When its ending goes on by itself.
    pub(super) fn ending_deadline(&self) -> Option<Duration> {
        match self.ending {
            _ if !self.is_alive() => None,
            Ending::Unasked | Ending::Killed => None,
            Ending::PreStop { deadline, until } => Some(until.map_or(deadline, |until| until.min(deadline))),
            Ending::InLine { deadline } => Some(deadline),
            Ending::Signalled { kill_at } | Ending::Cancelled { kill_at } => Some(kill_at),
        }
    }
}
