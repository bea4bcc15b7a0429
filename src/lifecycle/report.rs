//! The phase, the status and the conditions of a [`PodState`].

use super::container::{Container, Stage, Stale};
use super::machine::{PodState, Sandbox};
use super::restart::RestartAll;
use super::status::{
    Condition, ConditionStatus, ContainerState, ContainerStatus, Phase, PodIp, PodStatus, Running, Terminated, Time,
};
use super::teardown::{DEADLINE_EXCEEDED, DEADLINE_MESSAGE, EVICTED, TeardownCause};
use super::{ContainerKind, ContainerSpec, Now};

/// The condition of a pod whose new resources are not all in effect yet.
const RESIZING: &str = "PodResizeInProgress";

/// Bytes of the termination messages of a whole pod (pod-api.md §11).
const MESSAGES: usize = 12288;

/// The conditions that podshim decides about. Nobody else may set them.
pub const OWN_CONDITIONS: [&str; 8] = [
    "PodScheduled",
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
    "AllContainersRestarting",
    "DisruptionTarget",
    "PodResizeInProgress",
];

impl PodState {
    /// `.status` of the Pod as of the last step.
    pub fn status(&self) -> PodStatus {
        let of_list = |kinds: &[ContainerKind]| {
            let listed = self.each().filter(|(_, spec, _)| kinds.contains(&spec.kind));
            listed.map(|(index, spec, container)| self.container_status(index, spec, container)).collect()
        };
        let (reason, message) = match self.teardown.filter(|_| self.phase.is_terminal()).map(|teardown| teardown.cause)
        {
            Some(TeardownCause::DeadlineExceeded) => (DEADLINE_EXCEEDED, DEADLINE_MESSAGE),
            Some(TeardownCause::Evicted) => (EVICTED, self.evicted.as_deref().unwrap_or_default()),
            Some(TeardownCause::Asked | TeardownCause::Completed | TeardownCause::SandboxLost) | None => ("", ""),
        };
        PodStatus {
            phase: self.phase,
            conditions: self.conditions.clone(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            start_time: self.admitted.map(|admitted| Time::from(admitted.wall)),
            pod_ip: self.ips.first().cloned(),
            pod_ips: self.ips.iter().map(|ip| PodIp { ip: ip.clone() }).collect(),
            qos_class: None,
            init_container_statuses: of_list(&[ContainerKind::Init, ContainerKind::Sidecar]),
            container_statuses: of_list(&[ContainerKind::App]),
            ephemeral_container_statuses: of_list(&[ContainerKind::Ephemeral]),
        }
    }

    /// Whether the pod has failed whatever its containers exit with.
    fn has_failed_as_a_whole(&self) -> bool {
        let whole = [TeardownCause::DeadlineExceeded, TeardownCause::Evicted];
        self.teardown.is_some_and(|teardown| whole.contains(&teardown.cause))
    }

    /// The phase that follows from the containers. Its order is the kubelet's (`getPhase`): an earlier line wins. A pod whose
    /// fate is settled keeps its phase until its last container is gone.
    pub(super) fn current_phase(&self) -> Phase {
        let apps = || self.of_kind(ContainerKind::App).map(|(_, _, app)| app);
        if self.is_over() {
            let succeeded = !self.initialization_failed() && !self.has_failed_as_a_whole();
            return if succeeded && apps().all(Container::exited_zero) { Phase::Succeeded } else { Phase::Failed };
        }
        let inits_done = self.of_kind(ContainerKind::Init).all(|(_, _, init)| init.passed);
        // App containers that have not run yet: it is not their turn, or they cannot be started.
        if !inits_done || apps().any(Container::never_ran) { Phase::Pending } else { Phase::Running }
    }

    /// Brings the conditions up to date; only a change of `status` moves `lastTransitionTime`.
    pub(super) fn update_conditions(&mut self, now: Now) {
        if !self.is_resizing() {
            // As a kubelet has it: there while it lasts, and then gone.
            self.conditions.retain(|condition| condition.type_ != RESIZING);
        }
        for (type_, verdict) in self.verdicts() {
            let holds = verdict.holds();
            self.set_condition((type_.to_owned(), holds), verdict.words(), now);
        }
    }

    /// Sets a condition, with its reason and message.
    pub(super) fn set_condition(&mut self, (type_, holds): (String, bool), words: (String, String), now: Now) {
        let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
        let (reason, message) = words;
        match self.conditions.iter_mut().find(|c| c.type_ == type_) {
            Some(condition) => {
                if condition.status != status {
                    condition.last_transition_time = now.wall.into();
                }
                (condition.status, condition.reason, condition.message) = (status, reason, message);
            }
            None => {
                let last_transition_time = now.wall.into();
                self.conditions.push(Condition { type_, status, reason, message, last_transition_time });
            }
        }
    }

    fn verdicts(&self) -> Vec<(&'static str, Verdict)> {
        let sandbox = if self.sandbox == Sandbox::Ready { Verdict::Yes } else { Verdict::No };
        let containers_ready = self.containers_ready();
        let mut verdicts = vec![
            ("PodReadyToStartContainers", sandbox),
            ("Initialized", self.initialized()),
            ("Ready", self.gated(containers_ready.clone())),
            ("ContainersReady", containers_ready),
            ("PodScheduled", Verdict::Yes),
        ];
        match self.restart_all {
            RestartAll::Never => {}
            RestartAll::UnderWay => verdicts.push(("AllContainersRestarting", Verdict::Yes)),
            RestartAll::Past => verdicts.push(("AllContainersRestarting", Verdict::No)),
        }
        if self.is_resizing() {
            verdicts.push((RESIZING, Verdict::Yes));
        }
        verdicts
    }

    /// Whether a container still has to be started again for its new resources.
    fn is_resizing(&self) -> bool {
        self.containers.iter().any(|container| container.stale == Some(Stale::Resources) && container.is_alive())
    }

    fn initialized(&self) -> Verdict {
        if self.phase == Phase::Succeeded {
            return Verdict::YesBecause("PodCompleted");
        }
        // What the app containers have begun cannot be taken back by a sidecar that is restarted.
        if self.of_kind(ContainerKind::App).any(|(_, _, app)| !app.never_ran()) {
            return Verdict::Yes;
        }
        let is_incomplete = |index: usize, spec: &ContainerSpec, container: &Container| match spec.kind {
            ContainerKind::Init => !container.passed,
            ContainerKind::Sidecar => !self.is_started(index),
            ContainerKind::App | ContainerKind::Ephemeral => false,
        };
        self.names(is_incomplete).or("ContainersNotInitialized", "containers with incomplete status")
    }

    fn containers_ready(&self) -> Verdict {
        match self.phase {
            Phase::Succeeded => Verdict::NoBecause("PodCompleted", String::new()),
            Phase::Failed => Verdict::NoBecause("PodFailed", String::new()),
            _ => {
                let is_unready = |index: usize, spec: &ContainerSpec, _: &Container| {
                    matches!(spec.kind, ContainerKind::Sidecar | ContainerKind::App) && !self.is_ready(index)
                };
                self.names(is_unready).or("ContainersNotReady", "containers with unready status")
            }
        }
    }

    /// `Ready`: the containers are, and every readiness gate is open.
    fn gated(&self, containers_ready: Verdict) -> Verdict {
        let closed: Vec<String> = self
            .spec
            .readiness_gates
            .iter()
            .filter_map(|gate| match self.conditions.iter().find(|c| c.type_ == *gate) {
                None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
                Some(c) if c.status == ConditionStatus::True => None,
                Some(c) => {
                    Some(format!("the status of pod readiness gate {gate:?} is not \"True\", but {:?}", c.status))
                }
            })
            .collect();
        if !containers_ready.holds() || closed.is_empty() {
            return containers_ready;
        }
        Verdict::NoBecause("ReadinessGatesNotReady", closed.join(", "))
    }

    /// The names of the containers of which something holds.
    fn names(&self, holds: impl Fn(usize, &ContainerSpec, &Container) -> bool) -> Exceptions<'_> {
        let which = self.each().filter(|(index, spec, container)| holds(*index, spec, container));
        Exceptions(which.map(|(_, spec, _)| spec.name.as_str()).collect())
    }

    fn container_status(&self, index: usize, spec: &ContainerSpec, container: &Container) -> ContainerStatus {
        let ended = |ended: &Option<Terminated>| {
            let terminated = ended.clone().map(|ended| shortened(ended, MESSAGES / self.containers.len()));
            ContainerState { terminated, ..ContainerState::default() }
        };
        let (state, last_state) = match (container.stage, &container.waiting) {
            (Stage::Running { since, .. }, _) if container.is_up() => {
                let running = Some(Running { started_at: since.into() });
                (ContainerState { running, ..ContainerState::default() }, ended(&container.last))
            }
            (_, Some(waiting)) => {
                (ContainerState { waiting: Some(waiting.clone()), ..ContainerState::default() }, ended(&container.last))
            }
            (_, None) => (ended(&container.last), ended(&container.previous)),
        };
        ContainerStatus {
            name: spec.name.clone(),
            state,
            last_state,
            ready: self.is_ready(index),
            restart_count: container.instances.saturating_sub(1),
            image: spec.image.clone(),
            image_id: container.image_id.clone(),
            container_id: container.container_id.clone(),
            started: self.is_started(index),
        }
    }
}

/// A status may hold so many bytes of termination messages; the beginning of a longer one is kept.
fn shortened(mut ended: Terminated, bytes: usize) -> Terminated {
    ended.message.truncate(ended.message.floor_char_boundary(bytes));
    ended
}

/// The names of the containers that keep a condition from holding.
struct Exceptions<'a>(Vec<&'a str>);

impl Exceptions<'_> {
    fn or(self, reason: &'static str, what: &str) -> Verdict {
        if self.0.is_empty() {
            return Verdict::Yes;
        }
        // Go's %s of a []string.
        Verdict::NoBecause(reason, format!("{what}: [{}]", self.0.join(" ")))
    }
}

/// Whether a condition holds, and the words for it.
#[derive(Clone)]
enum Verdict {
    Yes,
    YesBecause(&'static str),
    No,
    NoBecause(&'static str, String),
}

impl Verdict {
    fn holds(&self) -> bool {
        matches!(self, Verdict::Yes | Verdict::YesBecause(_))
    }

    /// Reason and message.
    fn words(self) -> (String, String) {
        match self {
            Verdict::Yes | Verdict::No => (String::new(), String::new()),
            Verdict::YesBecause(reason) => (reason.to_owned(), String::new()),
            Verdict::NoBecause(reason, message) => (reason.to_owned(), message),
        }
    }
}
