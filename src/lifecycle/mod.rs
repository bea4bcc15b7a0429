//! The life of a pod as a pure machine: what has happened goes in, what is to be done comes out.
//!
//! Duty: init containers one after the other, app containers, restarts with their back-off, graceful stop, phase, conditions,
//! container states, events, all in the kubelet's words. In: an [`Event`] and the time ([`Now`]). Out: [`Action`]s, the next
//! deadline and a [`status::PodStatus`]. It knows no clock, no process and no file: the supervisor performs the actions,
//! reports what came of them as events, and sends [`Event::Tick`] when [`PodState::next_deadline`] has passed. Events which
//! do not fit the state (a late answer, an unknown container) change nothing.
//!
//! | file | content |
//! |---|---|
//! | `machine` | [`PodState`]: what happened is recorded, what follows from it is asked for |
//! | `start` | whose turn it is, starts, post-start hooks, pull back-offs |
//! | `restart` | restart policies and rules, one container's restart, all containers' restart |
//! | `ending` | how a container is ended: pre-stop hook, order of sidecars, stop signal, SIGKILL |
//! | `teardown` | why and until when the whole pod ends |
//! | `loss` | a sandbox that is lost, and the pod's new beginning in another one |
//! | `resume` | a pod whose supervisor died, in the hands of another one |
//! | `probe` | thresholds, gating by the startup probe, what failed probes lead to |
//! | `container` | one container: idle, starting, running, done, and what its status says meanwhile |
//! | [`commanded`] | a pod whose life a kubelet decides, through CRI |
//! | `backoff` | 10 s doubling to 300 s, forgotten after 600 s |
//! | `report` | the phase, the status and the conditions of a [`PodState`] |
//! | [`status`] | `.status` of a Pod as plain structs |
//! | [`display`] | the columns of `kubectl get pods` |

mod backoff;
pub mod commanded;
mod container;
pub mod display;
mod ending;
mod loss;
mod machine;
mod probe;
mod report;
mod restart;
mod resume;
mod start;
pub mod status;
mod teardown;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use machine::PodState;
pub use report::OWN_CONDITIONS;
pub use resume::Found;
pub use status::{PodStatus, exit_code_without, pod_exit_code};

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the machine must know of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
    /// `spec.readinessGates[].conditionType`.
    pub readiness_gates: Vec<String>,
    /// All containers: init containers and sidecars first, then app containers, each in the order of the manifest, then
    /// ephemeral containers in the order of their coming. Events and actions name a container by its index here.
    pub containers: Vec<ContainerSpec>,
}

/// What the machine must know of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// `name`.
    pub name: String,
    /// Which list of the manifest it is in.
    pub kind: ContainerKind,
    /// `image`, as the manifest has it; only for messages.
    pub image: String,
    /// What of its resources it has until it is started again; `None` if an older podshim has kept it, which did not know.
    #[serde(default)]
    pub fixed: Option<Fixed>,
    /// When it starts again.
    pub restart: ContainerRestart,
    /// Its probes.
    pub probes: Probes,
    /// `lifecycle.postStart`.
    pub post_start: Option<Hook>,
    /// `lifecycle.preStop`.
    pub pre_stop: Option<Hook>,
}

impl ContainerSpec {
    /// A container without probes, hooks and a restart policy of its own.
    pub fn new(name: &str, kind: ContainerKind, image: &str) -> Self {
        ContainerSpec {
            name: name.to_owned(),
            kind,
            image: image.to_owned(),
            fixed: None,
            restart: ContainerRestart::default(),
            probes: Probes::default(),
            post_start: None,
            pre_stop: None,
        }
    }
}

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerKind {
    /// `initContainers`: runs to its end before the next one starts.
    Init,
    /// `initContainers` with `restartPolicy: Always`: starts in its turn and goes on beside what follows.
    Sidecar,
    /// `containers`.
    #[default]
    App,
    /// `ephemeralContainers`: joins a running pod, never restarted, of no consequence for the pod.
    Ephemeral,
}

impl ContainerKind {
    /// Whether it is in the list `initContainers`.
    pub fn is_init_list(self) -> bool {
        matches!(self, ContainerKind::Init | ContainerKind::Sidecar)
    }
}

/// A container's own `restartPolicy` and `restartPolicyRules`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRestart {
    /// The pod's if `None`.
    pub policy: Option<RestartPolicy>,
    /// The first one that matches the exit code decides before the policy does.
    pub rules: Vec<RestartRule>,
}

/// `restartPolicyRules[]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRule {
    /// `action`
    pub action: RestartAction,
    /// `exitCodes.operator`
    pub operator: ExitCodeOperator,
    /// `exitCodes.values`
    pub codes: Vec<i32>,
}

/// `restartPolicyRules[].action`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartAction {
    /// This container.
    Restart,
    /// All containers of the pod, from the first init container.
    RestartAllContainers,
}

/// `restartPolicyRules[].exitCodes.operator`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCodeOperator {
    /// The exit code is one of the values.
    In,
    /// It is none of them.
    NotIn,
}

/// What a change of a container's cpu or memory takes (`resizePolicy[].restartPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resize {
    /// Nothing.
    #[default]
    NotRequired,
    /// The container is started again.
    RestartContainer,
}

/// What a container has of cpu and memory, where another amount takes a restart; `None` where it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// Shares, quota and period.
    pub cpu: Option<(Option<u64>, Option<i64>, Option<u64>)>,
    /// Limit and request in bytes.
    pub memory: Option<(Option<i64>, Option<i64>)>,
}

/// A container's probes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// `startupProbe`
    pub startup: Option<ProbeTiming>,
    /// `livenessProbe`
    pub liveness: Option<ProbeTiming>,
    /// `readinessProbe`
    pub readiness: Option<ProbeTiming>,
}

/// The numbers of a probe, with the API's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeTiming {
    /// `initialDelaySeconds`, from the container's start.
    pub initial_delay: Duration,
    /// `periodSeconds`
    pub period: Duration,
    /// `timeoutSeconds`
    pub timeout: Duration,
    /// `successThreshold`
    pub success_threshold: u32,
    /// `failureThreshold`
    pub failure_threshold: u32,
    /// `terminationGracePeriodSeconds`: in the place of the pod's if this probe ends the container.
    pub grace: Option<Duration>,
}

/// A lifecycle hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// The supervisor runs it: [`Action::Perform`].
    Perform,
    /// `sleep`: time passes; the machine knows by itself when it is over.
    Sleep(Duration),
}

/// Something that is done about a running container, named as in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Task {
    /// `startupProbe`
    StartupProbe,
    /// `livenessProbe`
    LivenessProbe,
    /// `readinessProbe`
    ReadinessProbe,
    /// `lifecycle.postStart`
    PostStart,
    /// `lifecycle.preStop`
    PreStop,
}

/// What came of a [`Task`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is as it should be. A hook has done its work.
    Success,
    /// It counts as success, but a user should know (a redirect to another host).
    Warning(String),
    /// It is not as it should be: the probe's or hook's output.
    Failure(String),
    /// It could not be found out (the probe's command could not be executed).
    Error(String),
}

/// `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever the exit code. (An init container that succeeded is not run again.)
    Always,
    /// After an exit code other than 0.
    OnFailure,
    /// Never; a failed init container fails the pod.
    Never,
}

/// The time of an event, on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// `CLOCK_BOOTTIME`: back-offs and deadlines are on this clock, so that setting the wall clock does not move them.
    pub boot: Duration,
    /// Time since the UNIX epoch: what a status shows.
    pub wall: Duration,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The pod is admitted: its life begins.
    Begin,
    /// Answer to [`Action::CreateSandbox`]: it is there.
    SandboxReady {
        /// The pod's addresses, at most one per family, the main one first; empty without a network.
        ips: Vec<String>,
    },
    /// Answer to [`Action::CreateSandbox`]: it could not be made, and nothing of it is left.
    SandboxFailed {
        /// Why.
        message: String,
    },
    /// The sandbox cannot be used any more (its pid 1 has ended, and the kernel kills what is left in it). Told before the
    /// exits that come of it.
    SandboxLost,
    /// Answer to [`Action::Start`]: there is no image to start from.
    ImageFailed {
        /// Index of the container.
        container: usize,
        /// What failed.
        failure: ImageFailure,
        /// Why.
        message: String,
    },
    /// First half of the answer to [`Action::Start`]: this instance of the container exists, its start follows.
    Created {
        /// Index of the container.
        container: usize,
        /// The instance's id, as the status shall show it (`podshim://<id>`).
        container_id: String,
        /// The image's id or digest, as the status shall show it.
        image_id: String,
    },
    /// Answer to [`Action::Start`]: `execve` succeeded.
    Started {
        /// Index of the container.
        container: usize,
    },
    /// Answer to [`Action::Start`]: it does not run.
    StartFailed {
        /// Index of the container.
        container: usize,
        /// How far it came.
        failure: StartFailure,
        /// Why.
        message: String,
    },
    /// Answer to [`Action::Perform`]. One that comes without having been asked for changes nothing.
    Performed {
        /// Index of the container.
        container: usize,
        /// What was to be done.
        task: Task,
        /// What came of it.
        outcome: Outcome,
    },
    /// Somebody outside sets a condition of the pod (one that is not podshim's own): what readiness gates wait for.
    SetCondition {
        /// `type`
        type_: String,
        /// `status`
        holds: bool,
        /// `reason`
        reason: String,
        /// `message`
        message: String,
    },
    /// An ephemeral container joins the pod: it gets the next index.
    Join(Box<ContainerSpec>),
    /// A container's image is another one now, in what is created from now on too: it is restarted whatever its restart policy,
    /// and a start under way that has created nothing begins anew.
    Redefined {
        /// Index of the container.
        container: usize,
        /// `image`
        image: String,
    },
    /// A container's resources are others now: what it crashed for may be over, so its back-off is forgotten.
    Resized {
        /// Index of the container.
        container: usize,
        /// Whether what runs has them, or has to be started again for them.
        resize: Resize,
        /// What they are, as far as they take that.
        fixed: Fixed,
    },
    /// The pod uses more of the host than it may: it has failed, and ends at once.
    Evicted {
        /// Why, in the kubelet's words.
        message: String,
    },
    /// `spec.activeDeadlineSeconds` is another one now.
    DeadlineChanged(Option<Duration>),
    /// A container's first process ended. Without [`Event::Started`] before it, it answers [`Action::Start`] too.
    Exited {
        /// Index of the container.
        container: usize,
        /// How.
        exit: Exit,
    },
    /// A container's first process has ended while nobody supervised it, and nobody knows how.
    Vanished {
        /// Index of the container.
        container: usize,
    },
    /// A deadline passed (see [`PodState::next_deadline`]); harmless at any other time.
    Tick,
    /// The user wants the pod to end. Repeated, it can only shorten the time that is left.
    Stop {
        /// Time between the stop signal and SIGKILL; the pod's own if `None`.
        grace: Option<Duration>,
    },
    /// The user wants the pod to end at once. Repeated, what still lives is killed again.
    Kill,
    /// Answer to [`Action::DestroySandbox`].
    SandboxGone,
    /// CRI's CreateContainer: a container of this name at a vacant index. Of [`commanded`] pods only, as all that follow.
    Create {
        /// Index of the container.
        container: usize,
        /// Its name.
        name: String,
    },
    /// Its init has done its steps and waits.
    Held {
        /// Index of the container.
        container: usize,
    },
    /// CRI's StartContainer.
    Run {
        /// Index of the container.
        container: usize,
    },
    /// CRI's StopContainer. Repeated, it can only shorten the time that is left; what was killed and still lives is killed again.
    End {
        /// Index of the container.
        container: usize,
        /// Time between the stop signal and SIGKILL.
        grace: Duration,
    },
    /// CRI's RemoveContainer: it is killed if it runs.
    Remove {
        /// Index of the container.
        container: usize,
    },
}

/// Why there is no image; each with its waiting reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFailure {
    /// The pull failed: `ErrImagePull`, then `ImagePullBackOff`.
    Pull,
    /// The registry does not answer: `RegistryUnavailable`, then `ImagePullBackOff`.
    RegistryUnavailable,
    /// The image's signature is not as it must be: `SignatureValidationFailed`, then `ImagePullBackOff`.
    SignatureValidationFailed,
    /// It is not here and the pull policy is Never: `ErrImageNeverPull`.
    NeverPull,
    /// The reference cannot be parsed: `InvalidImageName`.
    InvalidName,
    /// The local store could not say whether it is here: `ImageInspectError`.
    Inspect,
}

/// How far the start of a container came before it failed; each with its waiting reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFailure {
    /// The container's configuration could not be made (a name not in the image's passwd …): `CreateContainerConfigError`.
    Config,
    /// The container could not be created (a mount source that is missing …): `CreateContainerError`.
    Create,
    /// It was created, but could not execute its command. Counts as an exit: terminated with reason `StartError`, and
    /// `RunContainerError` as waiting reason if it is tried again at once.
    Start {
        /// 128 as containerd reports it, or the shell's 127 (not found) and 126 (not executable).
        exit_code: i32,
    },
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; not looked at if a signal ended it.
    pub code: i32,
    /// The signal that ended it; reported as exit code 128 + n, as CRI has no field for it.
    pub signal: Option<i32>,
    /// Whether the container's cgroup counted an `oom_kill`.
    pub oom_killed: bool,
    /// The termination message; empty if there is none.
    pub message: String,
}

impl Exit {
    /// The exit code as a status shows it: 128 + n after signal n.
    pub fn exit_code(&self) -> i32 {
        self.signal.map_or(self.code, |signal| 128 + signal)
    }
}

/// What is to be done. Actions of one step are to be performed in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the sandbox; what is left of one that was lost goes first, but for the volumes. Answer: [`Event::SandboxReady`] or
    /// [`Event::SandboxFailed`].
    CreateSandbox,
    /// Pull the image if the policy says so, create the container and start it. Answer: [`Event::ImageFailed`],
    /// [`Event::StartFailed`], or [`Event::Created`] followed by [`Event::Started`] or [`Event::StartFailed`]. No other
    /// container is started before the answer.
    Start {
        /// Index of the container.
        container: usize,
        /// How many instances of it existed before: the number in the name of its log file.
        restart_count: u32,
    },
    /// Give up a start that is under way (kill the pull, undo the creation). It is answered as any start: with a failure, or
    /// with [`Event::Started`] if it was too late to give up.
    CancelStart {
        /// Index of the container.
        container: usize,
    },
    /// Run a probe or a hook. Answer: [`Event::Performed`]; none if the container ends before.
    Perform {
        /// Index of the container.
        container: usize,
        /// What is to be done.
        task: Task,
    },
    /// The time of a probe is over: end it. Answer: [`Event::Performed`] with the failure that its kind has for a time-out.
    TimeOut {
        /// Index of the container.
        container: usize,
        /// The probe.
        task: Task,
    },
    /// Send the container its stop signal.
    Signal {
        /// Index of the container.
        container: usize,
    },
    /// SIGKILL everything in the container's cgroup, also if its start has not been answered yet.
    Kill {
        /// Index of the container.
        container: usize,
    },
    /// Let the init that waits ([`Event::Held`]) execute its command. Answer: [`Event::Started`] or [`Event::StartFailed`].
    Run {
        /// Index of the container.
        container: usize,
    },
    /// Nothing of a container that has no process is wanted any more; its index is vacant.
    Discard {
        /// Index of the container.
        container: usize,
    },
    /// No container is left: undo the sandbox. Answer: [`Event::SandboxGone`].
    DestroySandbox,
    /// Tell whoever listens.
    Emit(PodEvent),
    /// The pod is over and its sandbox is gone; no action follows.
    Finished,
}

/// An entry of the pod's event list, in the kubelet's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodEvent {
    /// `type`.
    #[serde(rename = "type")]
    pub type_: EventType,
    /// `reason`.
    pub reason: String,
    /// `message`.
    pub message: String,
    /// The container that it is about, as an index into [`PodSpec::containers`]; `None` for the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<usize>,
}

/// `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    /// In the course of things.
    Normal,
    /// Something went wrong.
    Warning,
}
