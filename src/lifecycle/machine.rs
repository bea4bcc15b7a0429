//! [`PodState`]: which container's turn it is, whether it is restarted, how the pod ends.
//!
//! A step first records what happened, then asks the state as a whole what follows from it (`advance`), as a kubelet's sync
//! does: no event needs to know what else is under way.
//!
//! ```text
//!            Begin        SandboxReady                          all done, or stopped and nothing alive
//!  NotAsked ------> Creating ------> Ready  (containers live here)  ------> Destroying ------> Gone
//!                     |   ^                                                       SandboxGone
//!       SandboxFailed v   | 10 s
//!                     Failed
//!
//!             turn and due       Created, Started            Exited
//!       Idle -----------> Starting ---------------> Running -------> Done
//!        ^                   | ImageFailed, StartFailed         | restart policy
//!        +-------------------+----------------------------------+
//! ```

use super::container::{Container, Ended, Ending, RESYNC, Stage};
use super::status::{Condition, Phase, Terminated, Time, Waiting};
use super::{
    Action, ContainerKind, ContainerSpec, Event, EventType, ImageFailure, Now, PodEvent, PodSpec, RestartPolicy,
    StartFailure,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A container always gets this long between its stop signal and SIGKILL. The kubelet's other floor, 1 s for the pod, lies below
/// it and shows only where a hook uses up the grace period first.
const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// A pod, from its admission to its end. It can be stored and read back, so that a new supervisor of a running pod knows the
/// back-offs of the old one; boot times in it are void after a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    spec: PodSpec,
    /// In the order of `spec.containers`.
    containers: Vec<Container>,
    pub(super) sandbox: Sandbox,
    stop: Option<StopTime>,
    pub(super) phase: Phase,
    /// When the pod was admitted, on the wall clock.
    pub(super) admitted: Option<Duration>,
    pub(super) ips: Vec<String>,
    pub(super) conditions: Vec<Condition>,
}

/// The sandbox's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Sandbox {
    NotAsked,
    Creating,
    Failed { retry: Duration },
    Ready,
    Destroying,
    Gone,
}

/// When whatever still lives of a stopped pod is killed, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct StopTime {
    boot: Duration,
    wall: Duration,
}

/// A step in the making.
struct Step {
    now: Now,
    actions: Vec<Action>,
}

impl Step {
    fn tell(&mut self, container: usize, reason: &str, message: String) {
        self.emit(EventType::Normal, container, (reason, message));
    }

    fn warn(&mut self, container: usize, reason: &str, message: String) {
        self.emit(EventType::Warning, container, (reason, message));
    }

    fn emit(&mut self, type_: EventType, container: usize, (reason, message): (&str, String)) {
        let event = PodEvent { type_, reason: reason.to_owned(), message, container: Some(container) };
        self.actions.push(Action::Emit(event));
    }
}

impl PodState {
    /// A pod that is not admitted yet: nothing happens before [`Event::Begin`].
    pub fn new(spec: PodSpec, now: Now) -> Self {
        let has_init = spec.containers.iter().any(|c| c.kind == ContainerKind::Init);
        let waiting = if has_init { "PodInitializing" } else { "ContainerCreating" };
        let mut pod = PodState {
            containers: spec.containers.iter().map(|_| Container::new(waiting)).collect(),
            spec,
            sandbox: Sandbox::NotAsked,
            stop: None,
            phase: Phase::Pending,
            admitted: None,
            ips: Vec::new(),
            conditions: Vec::new(),
        };
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
        if let Some(stop) = self.stop {
            let unkilled = self.containers.iter().any(|c| c.is_alive() && c.ending < Ending::Killed);
            return unkilled.then_some(stop.boot);
        }
        match self.sandbox {
            Sandbox::Failed { retry } => Some(retry),
            Sandbox::Ready => {
                let shows = self.containers.iter().filter_map(|c| c.failed_pull.as_ref()).map(|pull| pull.shown_until);
                // While a start is under way nothing else is started; its answer is a step of its own.
                let starting = self.containers.iter().any(|c| c.stage == Stage::Starting);
                let dues = self.in_turn().into_iter().filter(|_| !starting).map(|(_, due)| due);
                shows.chain(dues).min()
            }
            _ => None,
        }
    }

    /// The pod's `metadata.deletionTimestamp` once it is being stopped: when its grace period is over.
    pub fn deletion_timestamp(&self) -> Option<Time> {
        self.stop.map(|stop| stop.wall.into())
    }

    /// The pod that this is the state of.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// The containers of a kind, with their indices, in order.
    pub(super) fn of_kind(&self, kind: ContainerKind) -> impl Iterator<Item = (usize, &ContainerSpec, &Container)> {
        let all = self.spec.containers.iter().zip(&self.containers).enumerate();
        all.map(|(index, (spec, container))| (index, spec, container)).filter(move |(_, spec, _)| spec.kind == kind)
    }

    // What happened.

    fn record(&mut self, event: Event, step: &mut Step) {
        match event {
            Event::Begin if self.sandbox == Sandbox::NotAsked && self.stop.is_none() => {
                self.admitted = Some(step.now.wall);
                self.sandbox = Sandbox::Creating;
                step.actions.push(Action::CreateSandbox);
            }
            Event::SandboxReady { ips } if self.sandbox == Sandbox::Creating => {
                self.sandbox = Sandbox::Ready;
                self.ips = ips;
            }
            Event::SandboxFailed { message } if self.sandbox == Sandbox::Creating => {
                self.sandbox = Sandbox::Failed { retry: step.now.boot + RESYNC };
                step.actions.push(Action::Emit(PodEvent {
                    type_: EventType::Warning,
                    reason: "FailedCreatePodSandBox".to_owned(),
                    message: format!("Failed to create pod sandbox: {message}"),
                    container: None,
                }));
            }
            Event::SandboxGone if self.sandbox == Sandbox::Destroying => {
                self.sandbox = Sandbox::Gone;
                step.actions.push(Action::Finished);
            }
            Event::Stop { grace } => self.stop_within(grace.unwrap_or(self.spec.grace).max(MINIMUM_GRACE), step.now),
            Event::Kill => self.stop_within(Duration::ZERO, step.now),
            Event::ImageFailed { container, .. }
            | Event::Created { container, .. }
            | Event::Started { container }
            | Event::StartFailed { container, .. }
                if self.containers.get(container).is_some_and(|c| c.stage == Stage::Starting) =>
            {
                self.record_start(event, step);
            }
            Event::Exited { container, exit } if self.containers.get(container).is_some_and(Container::is_alive) => {
                self.containers[container].ended(exit.into(), step.now);
                self.restart_or_not(container, None, step);
            }
            // A tick, or an event that comes too late to matter.
            _ => {}
        }
    }

    /// Records an answer to [`Action::Start`], of a container that is being started.
    fn record_start(&mut self, event: Event, step: &mut Step) {
        match event {
            Event::ImageFailed { container, failure, message } => {
                for (reason, message) in image_events(failure, &self.spec.containers[container].image, &message) {
                    step.warn(container, reason, message);
                }
                self.containers[container].image_failed(failure, message, step.now);
            }
            Event::Created { container, container_id, image_id } => {
                self.containers[container].created(container_id, image_id);
                step.tell(container, "Created", "Container created".to_owned());
            }
            Event::Started { container } => {
                self.containers[container].started(step.now);
                step.tell(container, "Started", "Container started".to_owned());
            }
            Event::StartFailed { container, failure, message } => {
                step.warn(container, "Failed", format!("Error: {message}"));
                let waiting = Waiting { reason: failure.reason().to_owned(), message: message.clone() };
                if let StartFailure::Start { exit_code } = failure {
                    let how = Ended { exit_code, reason: "StartError", message };
                    self.containers[container].ended(how, step.now);
                    self.restart_or_not(container, Some(waiting), step);
                } else {
                    // Without an instance there is nothing that a restart policy or a back-off could refer to: it is tried
                    // again at each sync, also under Never.
                    self.containers[container].not_created(waiting, step.now.boot + RESYNC);
                }
            }
            _ => {}
        }
    }

    /// Decides whether a container whose instance has just ended gets another one, and when. If at once, the status says
    /// `meanwhile`, or how the instance ended.
    fn restart_or_not(&mut self, index: usize, meanwhile: Option<Waiting>, step: &mut Step) {
        if self.stop.is_some() || !self.restarts(index) {
            return;
        }
        let pause = self.containers[index].crash_pause(step.now);
        let container = &mut self.containers[index];
        container.stage = Stage::Idle { due: step.now.boot + pause };
        container.waiting = meanwhile;
        if !pause.is_zero() {
            let PodSpec { name: pod, namespace, uid, containers, .. } = &self.spec;
            let name = &containers[index].name;
            let pause = go_duration(pause);
            let message = format!("back-off {pause} restarting failed container={name} pod={pod}_{namespace}({uid})");
            container.waiting = Some(Waiting { reason: "CrashLoopBackOff".to_owned(), message });
            let message = format!("Back-off restarting failed container {name} in pod {pod}_{namespace}({uid})");
            step.warn(index, "BackOff", message);
        }
    }

    /// Whether a container is started again after its last instance ended as it did.
    fn restarts(&self, index: usize) -> bool {
        let container = &self.containers[index];
        match (self.spec.restart_policy, self.spec.containers[index].kind) {
            (RestartPolicy::Never, _) => false,
            (RestartPolicy::Always, ContainerKind::App) => true,
            (RestartPolicy::OnFailure, ContainerKind::App) => container.last_failed(),
            (_, ContainerKind::Init) => container.last_failed() || container.last_was_oom_killed(),
            (_, ContainerKind::Sidecar) => true,
            (_, ContainerKind::Ephemeral) => false,
        }
    }

    /// The pod is to be dead after `grace`; a stop under way can only be shortened.
    fn stop_within(&mut self, grace: Duration, now: Now) {
        let asked = StopTime { boot: now.boot + grace, wall: now.wall + grace };
        if !self.phase.is_terminal() && self.stop.is_none_or(|stop| asked.boot < stop.boot) {
            self.stop = Some(asked);
        }
    }

    // What follows from it.

    fn advance(&mut self, step: &mut Step) {
        if !self.phase.is_terminal() {
            match (self.stop, self.sandbox) {
                (Some(stop), _) => self.end_containers(stop, step),
                (None, Sandbox::Failed { retry }) if retry <= step.now.boot => {
                    self.sandbox = Sandbox::Creating;
                    step.actions.push(Action::CreateSandbox);
                }
                (None, Sandbox::Ready) => {
                    self.start_next(step);
                    self.show_pull_back_offs(step);
                }
                (None, _) => {}
            }
            self.phase = self.current_phase();
        }
        if self.phase.is_terminal() {
            self.end_sandbox(step);
        }
    }

    /// Starts the next container whose turn it is. One at a time and in order, app containers too, as a kubelet does: the start
    /// of one is complete (later: with its postStart hook) before the next one's begins.
    fn start_next(&mut self, step: &mut Step) {
        if self.containers.iter().any(|c| c.stage == Stage::Starting) {
            return;
        }
        if let Some((index, _)) = self.in_turn().into_iter().find(|(_, due)| *due <= step.now.boot) {
            let container = &mut self.containers[index];
            container.start(step.now);
            step.actions.push(Action::Start { container: index, restart_count: container.instances });
        }
    }

    /// The containers that may be started now or later, without waiting for any other one's end: index and boot time.
    fn in_turn(&self) -> Vec<(usize, Duration)> {
        let idle = |(index, _, container): (usize, &ContainerSpec, &Container)| match container.stage {
            Stage::Idle { due } => Some((index, due)),
            _ => None,
        };
        match self.of_kind(ContainerKind::Init).find(|(_, _, init)| !init.succeeded()) {
            Some(init) => idle(init).into_iter().collect(),
            None => self.of_kind(ContainerKind::App).filter_map(idle).collect(),
        }
    }

    /// A failed pull is shown for as long as a kubelet takes to look again; from then on the status says that it is waiting.
    fn show_pull_back_offs(&mut self, step: &mut Step) {
        for (index, container) in self.containers.iter_mut().enumerate() {
            let Some(pull) = container.failed_pull.take_if(|pull| pull.shown_until <= step.now.boot) else { continue };
            let back_off = format!("Back-off pulling image {:?}", self.spec.containers[index].image);
            let message = format!("{back_off}: {}", pull.cause);
            container.waiting = Some(Waiting { reason: "ImagePullBackOff".to_owned(), message });
            step.tell(index, "BackOff", back_off);
            step.warn(index, "Failed", "Error: ImagePullBackOff".to_owned());
        }
    }

    /// Signals what runs, kills it when its time is over, and lets nothing start any more.
    fn end_containers(&mut self, stop: StopTime, step: &mut Step) {
        let over = stop.boot <= step.now.boot;
        for (index, container) in self.containers.iter_mut().enumerate() {
            let running = match container.stage {
                Stage::Idle { .. } => {
                    container.retire();
                    continue;
                }
                Stage::Done => continue,
                Stage::Starting => false,
                Stage::Running { .. } => true,
            };
            let asked = container.ending;
            if running && asked == Ending::Unasked {
                let message = format!("Stopping container {}", self.spec.containers[index].name);
                step.tell(index, "Killing", message);
            }
            container.ending = if over { Ending::Killed } else { Ending::Asked };
            match (asked, over) {
                (Ending::Unasked | Ending::Asked, true) => step.actions.push(Action::Kill { container: index }),
                (Ending::Unasked, false) if running => step.actions.push(Action::Signal { container: index }),
                (Ending::Unasked, false) => step.actions.push(Action::CancelStart { container: index }),
                (Ending::Asked, false) | (Ending::Killed, _) => {}
            }
        }
        if self.containers.iter().all(|c| c.stage == Stage::Done) {
            self.write_off_missing();
        }
    }

    /// A pod that ended after its initialisation must show an end for each app container, as a kubelet's does.
    fn write_off_missing(&mut self) {
        if self.of_kind(ContainerKind::Init).any(|(_, _, init)| !init.succeeded()) {
            return;
        }
        for (container, spec) in self.containers.iter_mut().zip(&self.spec.containers) {
            if spec.kind == ContainerKind::App && container.last.is_none() {
                container.waiting = None;
                container.last = Some(Terminated {
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
    }

    /// The phase that follows from the containers. Its order is the kubelet's (`getPhase`): an earlier line wins.
    fn current_phase(&self) -> Phase {
        let inits = || self.of_kind(ContainerKind::Init).map(|(_, _, init)| init);
        let apps = || self.of_kind(ContainerKind::App).map(|(_, _, app)| app);
        let verdict = || if apps().all(Container::exited_zero) { Phase::Succeeded } else { Phase::Failed };
        let over = self.containers.iter().all(|c| c.stage == Stage::Done);
        if inits().any(|init| init.stage == Stage::Done && init.last.is_some() && !init.succeeded()) {
            return Phase::Failed;
        }
        if self.stop.is_some() && over {
            return verdict();
        }
        if !inits().all(Container::succeeded) || apps().any(Container::never_ran) {
            return Phase::Pending;
        }
        if over { verdict() } else { Phase::Running }
    }

    /// The pod has ended: so must its sandbox.
    fn end_sandbox(&mut self, step: &mut Step) {
        match self.sandbox {
            Sandbox::Ready => {
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

/// The warnings for a missing image: reason and message.
fn image_events(failure: ImageFailure, image: &str, message: &str) -> [(&'static str, String); 2] {
    let (reason, text) = match failure {
        ImageFailure::NeverPull => ("ErrImageNeverPull", message.to_owned()),
        ImageFailure::InvalidName | ImageFailure::Inspect => ("InspectFailed", message.to_owned()),
        _ => ("Failed", format!("Failed to pull image {image:?}: {message}")),
    };
    [(reason, text), ("Failed", format!("Error: {}", failure.reason()))]
}

/// Whole seconds as Go prints a `time.Duration`: `10s`, `1m20s`, `5m0s`.
fn go_duration(duration: Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}
