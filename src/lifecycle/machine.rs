//! [`PodState`]: what has happened is recorded, and what follows from the state as a whole is asked for.
//!
//! A step first records its event, then looks at the whole state (`advance`), as a kubelet's sync does: no event needs to know
//! what else is under way.
//!
//! ```text
//!            Begin        SandboxReady                          all done, or torn down and nothing alive
//!  NotAsked ------> Creating ------> Ready  (containers live here)  ------> Destroying ------> Gone
//!                     |  ^ ^           |                            ------^       SandboxGone
//!       SandboxFailed v  | | none lives v SandboxLost              |
//!                   Failed +--------- Lost ------------------------+
//!                     10 s
//!
//!             turn and due       Created, Started            Exited
//!       Idle -----------> Starting ---------------> Running -------> Done
//!        ^                   | ImageFailed, StartFailed         | restart policy and rules
//!        +-------------------+----------------------------------+
//! ```

use super::container::{Container, RESYNC, Stage};
use super::restart::RestartAll;
use super::status::{Condition, Phase, Time};
use super::teardown::{Teardown, TeardownCause};
use super::{
    Action, ContainerKind, ContainerSpec, Event, EventType, Now, Outcome, PodEvent, PodSpec, ProbeTiming, Task,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A pod, from its admission to its end. It can be stored and read back, so that a new supervisor of a running pod knows the
/// back-offs of the old one; boot times in it are void after a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    pub(super) spec: PodSpec,
    /// In the order of `spec.containers`.
    pub(super) containers: Vec<Container>,
    pub(super) sandbox: Sandbox,
    pub(super) teardown: Option<Teardown>,
    pub(super) restart_all: RestartAll,
    /// Why the pod was evicted, if it was.
    pub(super) evicted: Option<String>,
    pub(super) phase: Phase,
    /// When the pod was admitted.
    pub(super) admitted: Option<Now>,
    pub(super) ips: Vec<String>,
    pub(super) conditions: Vec<Condition>,
}

/// The sandbox's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Sandbox {
    NotAsked,
    Creating,
    Failed {
        retry: Duration,
    },
    Ready,
    /// What lives in it is being killed.
    Lost,
    Destroying,
    Gone,
}

/// A step in the making.
pub(super) struct Step {
    pub(super) now: Now,
    pub(super) actions: Vec<Action>,
}

impl Step {
    pub(super) fn tell(&mut self, container: usize, reason: &str, message: String) {
        self.emit(EventType::Normal, Some(container), (reason, message));
    }

    pub(super) fn warn(&mut self, container: usize, reason: &str, message: String) {
        self.emit(EventType::Warning, Some(container), (reason, message));
    }

    pub(super) fn emit(&mut self, type_: EventType, container: Option<usize>, (reason, message): (&str, String)) {
        self.actions.push(Action::Emit(PodEvent { type_, reason: reason.to_owned(), message, container }));
    }
}

impl PodState {
    /// A pod that is not admitted yet: nothing happens before [`Event::Begin`].
    pub fn new(spec: PodSpec, now: Now) -> Self {
        let mut pod = PodState {
            containers: Vec::new(),
            spec,
            sandbox: Sandbox::NotAsked,
            teardown: None,
            restart_all: RestartAll::Never,
            evicted: None,
            phase: Phase::Pending,
            admitted: None,
            ips: Vec::new(),
            conditions: Vec::new(),
        };
        let reason = pod.first_waiting_reason();
        pod.containers = pod.spec.containers.iter().map(|_| Container::new(reason)).collect();
        pod.update_conditions(now);
        pod
    }

    /// Takes in what happened at `now`, and answers what is to be done, in this order.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        let mut step = Step { now, actions: Vec::new() };
        self.record(event, &mut step);
        self.advance(&mut step);
        self.update_conditions(now);
        step.actions
    }

    /// When [`Event::Tick`] is due, on the boot clock; `None` if only another event can move the pod on.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.phase.is_terminal() {
            return None;
        }
        let whole = match (self.teardown, self.sandbox) {
            (None, Sandbox::Failed { retry }) => Some(retry),
            _ => None,
        };
        let containers = (0..self.containers.len())
            .flat_map(|index| [self.containers[index].next_deadline(), self.next_probe_deadline(index)]);
        let all = containers.chain([whole, self.active_deadline(), self.next_start()]);
        all.flatten().min()
    }

    /// The pod's `metadata.deletionTimestamp` once somebody has asked for its end: when its grace period is over.
    pub fn deletion_timestamp(&self) -> Option<Time> {
        self.teardown.and_then(|teardown| teardown.deletion).map(Time::from)
    }

    /// Whether the pod can still be changed: it has not ended, and nothing ends it.
    pub fn goes_on(&self) -> bool {
        !self.phase.is_terminal() && self.teardown.is_none()
    }

    /// Whether what runs of a container is not what the pod says any more: it is to be started again.
    pub fn is_stale(&self, container: usize) -> bool {
        self.containers.get(container).is_some_and(|container| container.stale.is_some() && container.is_alive())
    }

    /// The pod that this is the state of.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// The containers of a kind, with their indices, in order.
    pub(super) fn of_kind(&self, kind: ContainerKind) -> impl Iterator<Item = (usize, &ContainerSpec, &Container)> {
        self.each().filter(move |(_, spec, _)| spec.kind == kind)
    }

    /// All containers, with their indices, in order.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, &ContainerSpec, &Container)> {
        let all = self.spec.containers.iter().zip(&self.containers).enumerate();
        all.map(|(index, (spec, container))| (index, spec, container))
    }

    /// What a container waits for before anything was done for it.
    pub(super) fn first_waiting_reason(&self) -> &'static str {
        let has_init = self.spec.containers.iter().any(|c| c.kind.is_init_list());
        if has_init { "PodInitializing" } else { "ContainerCreating" }
    }

    /// The numbers of a probe.
    pub(super) fn timing(&self, index: usize, task: Task) -> Option<&ProbeTiming> {
        let probes = &self.spec.containers[index].probes;
        match task {
            Task::StartupProbe => probes.startup.as_ref(),
            Task::LivenessProbe => probes.liveness.as_ref(),
            Task::ReadinessProbe => probes.readiness.as_ref(),
            Task::PostStart | Task::PreStop => None,
        }
    }

    /// Whether a container has started in the sense of `status.started`: its process runs, its post-start hook is done, and its
    /// startup probe, if it has one, has succeeded.
    pub(super) fn is_started(&self, index: usize) -> bool {
        let container = &self.containers[index];
        container.is_up()
            && (self.spec.containers[index].probes.startup.is_none() || container.probes.startup_succeeded())
    }

    /// Whether a container can be used (`status.ready`); an init container, whether it is done.
    pub(super) fn is_ready(&self, index: usize) -> bool {
        let (spec, container) = (&self.spec.containers[index], &self.containers[index]);
        match spec.kind {
            ContainerKind::Init => container.succeeded(),
            // It has no probes, and nobody waits for it.
            ContainerKind::Ephemeral => false,
            ContainerKind::Sidecar | ContainerKind::App => {
                let probed = spec.probes.readiness.is_none() || container.probes.readiness_succeeded();
                self.is_started(index) && probed
            }
        }
    }

    // What happened.

    fn record(&mut self, event: Event, step: &mut Step) {
        match event {
            Event::Begin if self.sandbox == Sandbox::NotAsked && self.teardown.is_none() => {
                self.admitted = Some(step.now);
                self.sandbox = Sandbox::Creating;
                step.actions.push(Action::CreateSandbox);
            }
            Event::SandboxReady { ips } if self.sandbox == Sandbox::Creating => {
                self.sandbox = Sandbox::Ready;
                self.ips = ips;
            }
            Event::SandboxFailed { message } if self.sandbox == Sandbox::Creating => {
                self.sandbox = Sandbox::Failed { retry: step.now.boot + RESYNC };
                let message = format!("Failed to create pod sandbox: {message}");
                step.emit(EventType::Warning, None, ("FailedCreatePodSandBox", message));
            }
            Event::SandboxLost if self.sandbox == Sandbox::Ready => self.lose_sandbox(step),
            Event::SandboxGone if self.sandbox == Sandbox::Destroying => {
                self.sandbox = Sandbox::Gone;
                step.actions.push(Action::Finished);
            }
            Event::Stop { grace } => {
                self.tear_down(grace.unwrap_or(self.spec.grace), TeardownCause::Asked, step);
            }
            Event::Kill => self.kill_pod(step),
            Event::ImageFailed { container, .. }
            | Event::Created { container, .. }
            | Event::Started { container }
            | Event::StartFailed { container, .. }
                if self.containers.get(container).is_some_and(|c| c.stage == Stage::Starting) =>
            {
                self.record_start(event, step);
            }
            Event::Exited { container, exit } if self.containers.get(container).is_some_and(Container::is_alive) => {
                self.record_exit(container, exit, step);
            }
            Event::Vanished { container } if self.containers.get(container).is_some_and(Container::is_alive) => {
                self.record_loss(container, step);
            }
            Event::Performed { container, task, outcome }
                if self.containers.get(container).is_some_and(Container::is_running) =>
            {
                self.record_task(container, (task, outcome), step);
            }
            other => self.record_change(other, step),
        }
    }

    fn record_task(&mut self, index: usize, (task, outcome): (Task, Outcome), step: &mut Step) {
        match task {
            Task::PostStart => self.post_start_done(index, outcome, step),
            Task::PreStop => self.pre_stop_done(index, outcome, step),
            Task::StartupProbe | Task::LivenessProbe | Task::ReadinessProbe => {
                self.probed(index, (task, outcome), step);
            }
        }
    }

    /// What somebody outside changes about the pod. A pod that ends, or has ended, is not changed any more.
    fn record_change(&mut self, event: Event, step: &mut Step) {
        if !self.goes_on() {
            return;
        }
        match event {
            Event::SetCondition { type_, holds, reason, message } => {
                self.set_condition((type_, holds), (reason, message), step.now);
            }
            Event::Join(spec) if spec.kind == ContainerKind::Ephemeral => {
                self.spec.containers.push(*spec);
                self.containers.push(Container::new("ContainerCreating"));
            }
            Event::Redefined { container, image } if container < self.containers.len() => {
                self.spec.containers[container].image = image;
                let is_past = self.spec.containers[container].kind == ContainerKind::Init
                    && self.containers[container].succeeded();
                // An init container that has done its work is not run again for another image (pod-api.md §2).
                if !is_past {
                    self.containers[container].redefined(step.now);
                    self.cancel_uncreated(container, step);
                }
            }
            Event::Resized { container, resize, fixed } if container < self.containers.len() => {
                self.spec.containers[container].fixed = Some(fixed);
                self.containers[container].resized(resize, step.now);
            }
            Event::Evicted { message } => self.evict(message, step),
            Event::DeadlineChanged(deadline) => self.spec.active_deadline = deadline,
            // A tick, or an event that comes too late to matter.
            _ => {}
        }
    }

    // What follows from it.

    fn advance(&mut self, step: &mut Step) {
        if !self.phase.is_terminal() {
            self.end_sleeps(step);
            self.note_progress();
            self.finish_restart_all(step);
            self.end_pod_if_due(step);
            match (self.teardown, self.sandbox) {
                (Some(_), _) => self.retire_idle(),
                (None, Sandbox::Failed { retry }) if retry <= step.now.boot => {
                    self.sandbox = Sandbox::Creating;
                    step.actions.push(Action::CreateSandbox);
                }
                (None, Sandbox::Ready) if self.restart_all != RestartAll::UnderWay => {
                    self.end_stale(step);
                    self.start_next(step);
                    self.show_pull_back_offs(step);
                }
                (None, Sandbox::Lost) if self.is_replaceable() => {
                    self.sandbox = Sandbox::Creating;
                    step.actions.push(Action::CreateSandbox);
                }
                (None, _) => {}
            }
            self.advance_endings(step);
            self.advance_probes(step);
            self.phase = self.current_phase();
        }
        if self.phase.is_terminal() {
            self.end_sandbox(step);
        }
    }

    /// Remembers how far the init sequence has come: a sidecar that dies later does not take it back.
    fn note_progress(&mut self) {
        for index in 0..self.containers.len() {
            self.containers[index].passed |= match self.spec.containers[index].kind {
                ContainerKind::Init => self.containers[index].succeeded(),
                ContainerKind::Sidecar => self.is_started(index),
                ContainerKind::App | ContainerKind::Ephemeral => false,
            };
        }
    }

    /// The pod has ended: so must its sandbox.
    fn end_sandbox(&mut self, step: &mut Step) {
        match self.sandbox {
            Sandbox::Ready | Sandbox::Lost => {
                self.sandbox = Sandbox::Destroying;
                step.actions.push(Action::DestroySandbox);
            }
            Sandbox::NotAsked | Sandbox::Failed { .. } => {
                self.sandbox = Sandbox::Gone;
                step.actions.push(Action::Finished);
            }
            // Its creation or destruction is under way and will be answered; or it is gone.
            Sandbox::Creating | Sandbox::Destroying | Sandbox::Gone => {}
        }
    }
}
