//! A pod whose containers somebody else decides about: a kubelet, through CRI. Pure, like [`PodState`](super::PodState), and
//! performed by the same supervisor; what it does not do is to start, restart or end anything by itself.
//!
//! ```text
//!            Create          Held          Run            Started         Exited
//!  (nothing) ------> Creating ----> Created ----> Starting -----> Running -----> Exited --Remove--> (nothing)
//!                      | |            Run           ^ | StartFailed (StartError)   ^
//!                      | +--------------------------+ +--------------------------->|
//!                      +-----------------------------------------------------------+
//! ```
//!
//! Who asks for a container is answered before it is made: what cannot be made is told to who starts it.
//!
//! `End` and `Remove` kill what runs; the pod ends by [`Event::Stop`] or [`Event::Kill`], and its sandbox goes when no process is
//! left. The states are CRI's (`ContainerState`), with those in between.

use super::status::{self, ContainerStatus, Phase, PodIp, PodStatus, Running, Terminated, Time, Waiting};
use super::{Action, Event, Exit, Found, Now};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// The state of such a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commanded {
    sandbox: Sandbox,
    admitted: Option<Duration>,
    ips: Vec<String>,
    /// By index; `None` where there is none, or none any more.
    containers: Vec<Option<Container>>,
    /// Somebody has asked for the pod's end: until when.
    deletion: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Sandbox {
    NotAsked,
    Creating,
    Ready,
    /// It cannot be used any more; what is left of it goes with the pod's end.
    Lost,
    Destroying,
    Gone,
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its init performs the steps.
    Creating,
    /// Its init waits to be told to start: CRI's CONTAINER_CREATED.
    Created,
    /// It was told to, or is to be as soon as it waits.
    Starting,
    /// CONTAINER_RUNNING
    Running,
    /// CONTAINER_EXITED
    Exited,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Container {
    name: String,
    stage: Stage,
    created: Duration,
    started: Option<Duration>,
    end: Option<End>,
    ending: Option<Ending>,
    removal: Removal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Removal {
    No,
    /// As soon as it has no process.
    Asked,
}

/// It was asked to end: SIGKILL follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ending {
    /// On the boot clock.
    kill_at: Duration,
    is_killed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    at: Duration,
    exit_code: i32,
    reason: Cow<'static, str>,
    message: String,
}

/// What is known of a container, in CRI's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerReport {
    /// Its id.
    pub id: String,
    /// How far it has come.
    pub stage: Stage,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Likewise; 0 before it.
    #[serde(default)]
    pub started_at: i64,
    /// Likewise; 0 before it.
    #[serde(default)]
    pub finished_at: i64,
    /// 128 + n if signal n ended it.
    #[serde(default)]
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled` or `StartError`.
    #[serde(default)]
    pub reason: String,
    /// Why it could not start.
    #[serde(default)]
    pub message: String,
    /// Its first process, filled in by who knows it.
    #[serde(default)]
    pub pid: Option<i32>,
}

impl ContainerReport {
    /// Its supervisor has ended without it, and nobody knows how it ended: SIGKILL, at `now`, is what there was for it.
    pub fn lose(&mut self, now: Duration) {
        if self.stage != Stage::Exited {
            self.stage = Stage::Exited;
            self.finished_at = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
            (self.exit_code, self.pid) = (137, None);
            self.reason = UNKNOWN.to_owned();
            self.message = "its supervisor ended before it did".to_owned();
        }
    }
}

impl Container {
    fn new(name: String, now: Now) -> Container {
        Container {
            name,
            stage: Stage::Creating,
            created: now.wall,
            started: None,
            end: None,
            ending: None,
            removal: Removal::No,
        }
    }

    fn is_alive(&self) -> bool {
        self.stage != Stage::Exited
    }

    /// SIGKILL at that time, or at an earlier one that was asked for before; again if it was killed: that may have failed.
    fn end_by(&mut self, kill_at: Duration) {
        let kill_at = self.ending.map_or(kill_at, |before| before.kill_at.min(kill_at));
        self.ending = Some(Ending { kill_at, is_killed: false });
    }

    fn exited(&mut self, end: End) {
        self.stage = Stage::Exited;
        self.end = Some(end);
        self.ending = None;
    }

    fn report(&self) -> ContainerReport {
        let nanoseconds = |at: Duration| i64::try_from(at.as_nanos()).unwrap_or(i64::MAX);
        let end = self.end.as_ref();
        ContainerReport {
            id: self.name.clone(),
            stage: self.stage,
            created_at: nanoseconds(self.created),
            started_at: self.started.map_or(0, nanoseconds),
            finished_at: end.map_or(0, |end| nanoseconds(end.at)),
            exit_code: end.map_or(0, |end| end.exit_code),
            reason: end.map_or_else(String::new, |end| end.reason.to_string()),
            message: end.map_or_else(String::new, |end| end.message.clone()),
            pid: None,
        }
    }

    /// As a Pod's status has it.
    fn status(&self) -> ContainerStatus {
        let mut state = status::ContainerState::default();
        let started_at = self.started.map(Time::from);
        match (&self.end, started_at) {
            (Some(end), _) => {
                state.terminated = Some(Terminated {
                    exit_code: end.exit_code,
                    signal: None,
                    reason: end.reason.to_string(),
                    message: end.message.clone(),
                    started_at,
                    finished_at: Some(Time::from(end.at)),
                    container_id: self.name.clone(),
                });
            }
            (None, Some(started_at)) => state.running = Some(Running { started_at }),
            (None, None) => {
                state.waiting = Some(Waiting { reason: "ContainerCreating".to_owned(), message: String::new() });
            }
        }
        let is_running = state.running.is_some();
        ContainerStatus {
            name: self.name.clone(),
            state,
            last_state: status::ContainerState::default(),
            ready: is_running,
            restart_count: 0,
            image: String::new(),
            image_id: String::new(),
            container_id: self.name.clone(),
            started: is_running,
        }
    }
}

impl Default for Commanded {
    fn default() -> Self {
        Commanded::new()
    }
}

impl Commanded {
    /// Nothing happens before [`Event::Begin`].
    pub fn new() -> Commanded {
        Commanded {
            sandbox: Sandbox::NotAsked,
            admitted: None,
            ips: Vec::new(),
            containers: Vec::new(),
            deletion: None,
        }
    }

    /// Takes in what happened at `now`, and answers what is to be done, in this order.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        self.record(event, now, &mut actions);
        self.advance(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due, on the boot clock.
    pub fn next_deadline(&self) -> Option<Duration> {
        let endings = self.containers.iter().flatten().filter_map(|container| container.ending);
        endings.filter(|ending| !ending.is_killed).map(|ending| ending.kill_at).min()
    }

    /// Until when the pod must be over, once somebody has asked for that.
    pub fn deletion_timestamp(&self) -> Option<Time> {
        self.deletion.map(Time::from)
    }

    /// Whether containers can be created and started.
    pub fn goes_on(&self) -> bool {
        self.sandbox == Sandbox::Ready && self.deletion.is_none()
    }

    /// Whether the sandbox cannot be used any more, as the first process of its pid namespace has ended.
    pub fn has_lost_its_sandbox(&self) -> bool {
        self.sandbox == Sandbox::Lost
    }

    /// How far a container has come; `None` if there is none.
    pub fn stage(&self, container: usize) -> Option<Stage> {
        self.containers.get(container)?.as_ref().map(|container| container.stage)
    }

    /// Why a container that has ended could not start, if that is why.
    pub fn start_error(&self, container: usize) -> Option<&str> {
        let end = self.containers.get(container)?.as_ref()?.end.as_ref()?;
        (end.reason == START_ERROR).then_some(end.message.as_str())
    }

    /// All containers that there are.
    pub fn containers(&self) -> impl Iterator<Item = (usize, ContainerReport)> {
        let all = self.containers.iter().enumerate();
        all.filter_map(|(index, container)| Some((index, container.as_ref()?.report())))
    }

    /// An index for another container.
    pub fn vacancy(&self) -> usize {
        self.containers.iter().position(Option::is_none).unwrap_or(self.containers.len())
    }

    /// As a Pod's status has it: what `podshim ps` shows.
    pub fn status(&self) -> PodStatus {
        let containers = || self.containers.iter().flatten();
        let failed = containers().any(|c| c.end.as_ref().is_some_and(|end| end.exit_code != 0));
        PodStatus {
            phase: match self.sandbox {
                Sandbox::NotAsked | Sandbox::Creating => Phase::Pending,
                Sandbox::Ready | Sandbox::Lost | Sandbox::Destroying => Phase::Running,
                Sandbox::Gone if failed => Phase::Failed,
                Sandbox::Gone => Phase::Succeeded,
            },
            conditions: Vec::new(),
            reason: String::new(),
            message: String::new(),
            start_time: self.admitted.map(Time::from),
            pod_ip: self.ips.first().cloned(),
            pod_ips: self.ips.iter().map(|ip| PodIp { ip: ip.clone() }).collect(),
            qos_class: None,
            init_container_statuses: Vec::new(),
            container_statuses: containers().map(Container::status).collect(),
            ephemeral_container_statuses: Vec::new(),
        }
    }

    /// What was kept goes on in the hands of another supervisor, with what is found of each container. The actions are to be
    /// performed; then the ends follow of those that have ended, and [`Event::Tick`].
    ///
    /// One whose init has not executed its command is made again.
    pub fn resume(&mut self, found: &[Found], now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        for index in 0..self.containers.len() {
            let Some(container) = &mut self.containers[index] else { continue };
            let found = found.get(index).copied().unwrap_or(Found::Nothing);
            match (container.stage, found) {
                (Stage::Creating | Stage::Created | Stage::Starting, Found::Nothing) => {
                    container.stage = Stage::Creating;
                    actions.push(Action::Start { container: index, restart_count: 0 });
                }
                (Stage::Creating, Found::Held) => container.stage = Stage::Created,
                (Stage::Starting, Found::Held) => actions.push(Action::Run { container: index }),
                (Stage::Creating | Stage::Created | Stage::Starting, Found::Running) => {
                    container.stage = Stage::Running;
                    container.started = Some(now.wall);
                }
                _ => {}
            }
            // It may have been kept that it is to end, and not been done.
            match container.ending.filter(|_| container.is_alive()) {
                Some(ending) if ending.is_killed => actions.push(Action::Kill { container: index }),
                Some(_) => actions.push(Action::Signal { container: index }),
                None => {}
            }
        }
        match self.sandbox {
            Sandbox::Creating => actions.push(Action::CreateSandbox),
            Sandbox::Destroying => actions.push(Action::DestroySandbox),
            Sandbox::Gone => actions.push(Action::Finished),
            Sandbox::NotAsked | Sandbox::Ready | Sandbox::Lost => {}
        }
        actions
    }

    fn record(&mut self, event: Event, now: Now, actions: &mut Vec<Action>) {
        match event {
            Event::Begin if self.sandbox == Sandbox::NotAsked => {
                self.admitted = Some(now.wall);
                self.sandbox = Sandbox::Creating;
                actions.push(Action::CreateSandbox);
            }
            Event::SandboxReady { ips } if self.sandbox == Sandbox::Creating => {
                self.sandbox = Sandbox::Ready;
                self.ips = ips;
            }
            Event::SandboxFailed { .. } if self.sandbox == Sandbox::Creating => self.sandbox = Sandbox::Lost,
            Event::SandboxLost if self.sandbox == Sandbox::Ready => self.sandbox = Sandbox::Lost,
            Event::SandboxGone if self.sandbox == Sandbox::Destroying => {
                self.sandbox = Sandbox::Gone;
                actions.push(Action::Finished);
            }
            Event::Create { container, name } if self.goes_on() && self.stage(container).is_none() => {
                if self.containers.len() <= container {
                    self.containers.resize(container + 1, None);
                }
                self.containers[container] = Some(Container::new(name, now));
                actions.push(Action::Start { container, restart_count: 0 });
            }
            Event::Run { container }
                if self.goes_on() && matches!(self.stage(container), Some(Stage::Creating | Stage::Created)) =>
            {
                self.set_stage(container, Stage::Starting);
                actions.push(Action::Run { container });
            }
            Event::Stop { grace } => self.end_all(now, grace.unwrap_or(Duration::ZERO), actions),
            Event::Kill => self.end_all(now, Duration::ZERO, actions),
            other => self.record_container(other, now, actions),
        }
    }

    fn record_container(&mut self, event: Event, now: Now, actions: &mut Vec<Action>) {
        match event {
            Event::Held { container } if self.stage(container) == Some(Stage::Creating) => {
                self.set_stage(container, Stage::Created);
            }
            Event::Started { container } if self.stage(container) == Some(Stage::Starting) => {
                self.set_stage(container, Stage::Running);
                if let Some(Some(container)) = self.containers.get_mut(container) {
                    container.started = Some(now.wall);
                }
            }
            Event::StartFailed { container, message, .. }
                if matches!(self.stage(container), Some(Stage::Creating | Stage::Created | Stage::Starting)) =>
            {
                self.ended(container, End { at: now.wall, exit_code: 128, reason: START_ERROR.into(), message });
            }
            Event::Exited { container, exit } if self.is_alive(container) => {
                let (exit_code, reason) = (exit.exit_code(), reason(&exit).into());
                self.ended(container, End { at: now.wall, exit_code, reason, message: exit.message });
            }
            Event::Vanished { container } if self.is_alive(container) => {
                let (reason, message) = (UNKNOWN.into(), "it ended while its supervisor was gone".to_owned());
                self.ended(container, End { at: now.wall, exit_code: 137, reason, message });
            }
            // One that does not run yet has nothing to end.
            Event::End { container, grace }
                if matches!(self.stage(container), Some(Stage::Starting | Stage::Running)) =>
            {
                self.end(container, (now, grace), actions);
            }
            Event::Remove { container } => {
                if let Some(Some(found)) = self.containers.get_mut(container) {
                    found.removal = Removal::Asked;
                }
                self.end(container, (now, Duration::ZERO), actions);
            }
            // A tick, or an event that comes too late to matter.
            _ => {}
        }
    }

    fn set_stage(&mut self, container: usize, stage: Stage) {
        if let Some(Some(container)) = self.containers.get_mut(container) {
            container.stage = stage;
        }
    }

    fn is_alive(&self, container: usize) -> bool {
        self.containers.get(container).and_then(Option::as_ref).is_some_and(Container::is_alive)
    }

    fn ended(&mut self, container: usize, end: End) {
        if let Some(Some(container)) = self.containers.get_mut(container) {
            container.exited(end);
        }
    }

    /// The stop signal, if there is time for it; SIGKILL follows in [`Commanded::advance`].
    fn end(&mut self, index: usize, (now, grace): (Now, Duration), actions: &mut Vec<Action>) {
        let Some(Some(container)) = self.containers.get_mut(index) else { return };
        if !container.is_alive() {
            return;
        }
        if container.ending.is_none() && !grace.is_zero() {
            actions.push(Action::Signal { container: index });
        }
        container.end_by(now.boot.saturating_add(grace));
    }

    fn end_all(&mut self, now: Now, grace: Duration, actions: &mut Vec<Action>) {
        let until = now.wall.saturating_add(grace);
        self.deletion = Some(self.deletion.map_or(until, |earlier| earlier.min(until)));
        for index in 0..self.containers.len() {
            self.end(index, (now, grace), actions);
        }
    }

    fn advance(&mut self, now: Now, actions: &mut Vec<Action>) {
        for (index, container) in self.containers.iter_mut().enumerate() {
            let Some(found) = container else { continue };
            if let Some(ending) = found.ending.as_mut().filter(|e| !e.is_killed && e.kill_at <= now.boot) {
                ending.is_killed = true;
                actions.push(Action::Kill { container: index });
            }
            if found.removal == Removal::Asked && !found.is_alive() {
                *container = None;
                actions.push(Action::Discard { container: index });
            }
        }
        if self.deletion.is_none() || self.containers.iter().flatten().any(Container::is_alive) {
            return;
        }
        match self.sandbox {
            Sandbox::Ready | Sandbox::Lost => {
                self.sandbox = Sandbox::Destroying;
                actions.push(Action::DestroySandbox);
            }
            Sandbox::NotAsked => {
                self.sandbox = Sandbox::Gone;
                actions.push(Action::Finished);
            }
            Sandbox::Creating | Sandbox::Destroying | Sandbox::Gone => {}
        }
    }
}

const START_ERROR: &str = "StartError";

/// A container of which nobody knows how it ended.
const UNKNOWN: &str = "ContainerStatusUnknown";

fn reason(exit: &Exit) -> &'static str {
    match exit.exit_code() {
        _ if exit.oom_killed => status::OOM_KILLED,
        0 => "Completed",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests;
