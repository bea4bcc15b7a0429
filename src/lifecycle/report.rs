//! The status and the conditions of a [`PodState`].

use super::container::{Container, Stage};
use super::machine::{PodState, Sandbox};
use super::status::{
    Condition, ConditionStatus, ContainerState, ContainerStatus, Phase, PodIp, PodStatus, Running, Time,
};
use super::{ContainerKind, ContainerSpec, Now};

impl PodState {
    /// `.status` of the Pod as of the last step.
    pub fn status(&self) -> PodStatus {
        let of_kind = |kind| self.of_kind(kind).map(|(_, spec, container)| container_status(spec, container)).collect();
        PodStatus {
            phase: self.phase,
            conditions: self.conditions.clone(),
            reason: String::new(),
            message: String::new(),
            start_time: self.admitted.map(Time::from),
            pod_ip: self.ips.first().cloned(),
            pod_ips: self.ips.iter().map(|ip| PodIp { ip: ip.clone() }).collect(),
            qos_class: None,
            init_container_statuses: of_kind(ContainerKind::Init),
            container_statuses: of_kind(ContainerKind::App),
            ephemeral_container_statuses: of_kind(ContainerKind::Ephemeral),
        }
    }

    /// Brings the conditions up to date; only a change of `status` moves `lastTransitionTime`.
    pub(super) fn update_conditions(&mut self, now: Now) {
        for (type_, verdict) in self.verdicts() {
            let status = if verdict.holds() { ConditionStatus::True } else { ConditionStatus::False };
            let (reason, message) = verdict.words();
            match self.conditions.iter_mut().find(|c| c.type_ == type_) {
                Some(condition) => {
                    if condition.status != status {
                        condition.last_transition_time = now.wall.into();
                    }
                    (condition.status, condition.reason, condition.message) = (status, reason, message);
                }
                None => self.conditions.push(Condition {
                    type_: type_.to_owned(),
                    status,
                    reason,
                    message,
                    last_transition_time: now.wall.into(),
                }),
            }
        }
    }

    fn verdicts(&self) -> [(&'static str, Verdict); 5] {
        let sandbox = if self.sandbox == Sandbox::Ready { Verdict::Yes } else { Verdict::No };
        let initialized = if self.phase == Phase::Succeeded {
            Verdict::YesBecause("PodCompleted")
        } else {
            self.all_of(ContainerKind::Init, Container::succeeded)
                .or("ContainersNotInitialized", "containers with incomplete status")
        };
        let ready = match self.phase {
            Phase::Succeeded => Verdict::NoBecause("PodCompleted", String::new()),
            Phase::Failed => Verdict::NoBecause("PodFailed", String::new()),
            _ => self
                .all_of(ContainerKind::App, Container::is_running)
                .or("ContainersNotReady", "containers with unready status"),
        };
        [
            ("PodReadyToStartContainers", sandbox),
            ("Initialized", initialized),
            ("Ready", ready.clone()),
            ("ContainersReady", ready),
            ("PodScheduled", Verdict::Yes),
        ]
    }

    /// The names of those of a kind for which `holds` does not.
    fn all_of(&self, kind: ContainerKind, holds: fn(&Container) -> bool) -> Exceptions<'_> {
        let lacking = self.of_kind(kind).filter(|(_, _, container)| !holds(container));
        Exceptions(lacking.map(|(_, spec, _)| spec.name.as_str()).collect())
    }
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

fn container_status(spec: &ContainerSpec, container: &Container) -> ContainerStatus {
    let ended = |ended: &Option<_>| ContainerState { terminated: ended.clone(), ..ContainerState::default() };
    let (state, last_state) = match (&container.stage, &container.waiting) {
        (Stage::Running { since }, _) => {
            let running = Some(Running { started_at: (*since).into() });
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
        ready: match spec.kind {
            ContainerKind::Init => container.succeeded(),
            ContainerKind::App | ContainerKind::Sidecar | ContainerKind::Ephemeral => container.is_running(),
        },
        restart_count: container.instances.saturating_sub(1),
        image: spec.image.clone(),
        image_id: container.image_id.clone(),
        container_id: container.container_id.clone(),
        started: container.is_running(),
    }
}
