//! What an exit leads to: restart policies and rules (pod-api.md §2 to §5).

use super::container::{Container, Ended, PostStart, Stage};
use super::ending::Cause;
use super::machine::{PodState, Sandbox, Step};
use super::status::{Terminated, Waiting};
use super::{ContainerKind, ContainerSpec, Exit, ExitCodeOperator, PodSpec, RestartAction, RestartPolicy, RestartRule};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The reason of a container that was ended, or is to be started again, with all the others.
const RESTARTING_ALL: &str = "RestartingAllContainers";

/// Whether all containers are being restarted (action `RestartAllContainers` of a rule).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RestartAll {
    /// Not so far.
    Never,
    /// Those that live are being ended; nothing is started meanwhile.
    UnderWay,
    /// It has been done at least once.
    Past,
}

/// What follows from an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The container has ended for good.
    Stays,
    /// It is started again.
    Again,
    /// All are.
    All,
}

impl RestartRule {
    fn matches(&self, exit_code: i32) -> bool {
        self.codes.contains(&exit_code) == (self.operator == ExitCodeOperator::In)
    }
}

impl ContainerSpec {
    /// The policy that holds for it.
    pub(super) fn policy(&self, pod: &PodSpec) -> RestartPolicy {
        match self.kind {
            ContainerKind::Sidecar => RestartPolicy::Always,
            ContainerKind::Ephemeral => RestartPolicy::Never,
            ContainerKind::Init | ContainerKind::App => self.restart.policy.unwrap_or(pod.restart_policy),
        }
    }
}

impl PodState {
    pub(super) fn record_exit(&mut self, index: usize, exit: Exit, step: &mut Step) {
        self.record_end(index, exit.into(), step);
    }

    /// It has ended, and nobody knows how.
    pub(super) fn record_loss(&mut self, index: usize, step: &mut Step) {
        self.record_end(index, Ended::unseen(), step);
    }

    fn record_end(&mut self, index: usize, how: Ended, step: &mut Step) {
        let container = &mut self.containers[index];
        // A failed hook is what the status keeps telling until the next instance runs.
        let meanwhile = container.waiting.take().filter(|_| container.post_start == PostStart::Failed);
        container.ended(how, step.now);
        self.restart_or_not(index, meanwhile, step);
    }

    /// Whether a container that a probe, or somebody who changed it, ends would be started again.
    pub(super) fn restarts_after_kill(&self, index: usize) -> bool {
        self.spec.containers[index].policy(&self.spec) != RestartPolicy::Never
    }

    /// Decides whether a container whose instance has just ended gets another one, and when. If at once, the status says
    /// `meanwhile`, or how the instance ended.
    pub(super) fn restart_or_not(&mut self, index: usize, meanwhile: Option<Waiting>, step: &mut Step) {
        let cause = self.containers[index].cause.take();
        if self.teardown.is_some() {
            return;
        }
        let is_counted = self.spec.containers[index].kind != ContainerKind::Ephemeral;
        if self.restart_all == RestartAll::UnderWay && is_counted {
            self.containers[index].waiting = Some(waiting(RESTARTING_ALL));
            return;
        }
        if self.sandbox == Sandbox::Lost {
            return self.ended_by_loss(index, meanwhile, step);
        }
        let verdict = match cause {
            // The rules are for exits of its own.
            Some(Cause::Probe) if self.restarts_after_kill(index) => Verdict::Again,
            Some(Cause::Probe) => Verdict::Stays,
            Some(Cause::Redefined) => Verdict::Again,
            Some(Cause::PostStart | Cause::Teardown | Cause::RestartAll) | None => self.verdict(index),
        };
        match verdict {
            Verdict::Stays => {}
            Verdict::Again => self.restart(index, meanwhile, step),
            Verdict::All => {
                self.restart_all = RestartAll::UnderWay;
                self.containers[index].waiting = Some(waiting(RESTARTING_ALL));
                for (other, spec) in self.containers.iter_mut().zip(&self.spec.containers) {
                    if spec.kind != ContainerKind::Ephemeral {
                        other.shorten_ending(step.now.boot, step.now.boot);
                    }
                }
            }
        }
    }

    fn verdict(&self, index: usize) -> Verdict {
        let (spec, container) = (&self.spec.containers[index], &self.containers[index]);
        let Some(last) = &container.last else { return Verdict::Stays };
        let failed = last.exit_code != 0 || (spec.kind == ContainerKind::Init && container.last_was_oom_killed());
        // An init container that has done its work is done, whatever its rules say of other exits.
        if spec.kind == ContainerKind::Init && !failed {
            return Verdict::Stays;
        }
        if let Some(rule) = spec.restart.rules.iter().find(|rule| rule.matches(last.exit_code)) {
            return match rule.action {
                RestartAction::Restart => Verdict::Again,
                RestartAction::RestartAllContainers => Verdict::All,
            };
        }
        match spec.policy(&self.spec) {
            RestartPolicy::Never => Verdict::Stays,
            RestartPolicy::OnFailure if !failed => Verdict::Stays,
            RestartPolicy::OnFailure | RestartPolicy::Always => Verdict::Again,
        }
    }

    pub(super) fn restart(&mut self, index: usize, meanwhile: Option<Waiting>, step: &mut Step) {
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

    /// When the last container has ended that was to end: all of them begin anew, the init sequence from its first, without a
    /// back-off. The sandbox, the volumes and the ephemeral containers stay.
    pub(super) fn finish_restart_all(&mut self, step: &mut Step) {
        let ends = |kind: ContainerKind| kind != ContainerKind::Ephemeral;
        let alive = self.each().any(|(_, spec, container)| ends(spec.kind) && container.is_alive());
        if self.restart_all != RestartAll::UnderWay || self.teardown.is_some() || alive {
            return;
        }
        self.restart_all = RestartAll::Past;
        let reason = self.first_waiting_reason();
        for (container, spec) in self.containers.iter_mut().zip(&self.spec.containers) {
            if ends(spec.kind) {
                container.removed(step.now);
                container.begin_anew(reason, step.now);
            }
        }
    }
}

impl Container {
    /// Its last instance was taken away to restart all containers.
    fn removed(&mut self, now: super::Now) {
        if self.instances > 0 {
            let ended = Terminated {
                exit_code: 137,
                signal: None,
                reason: RESTARTING_ALL.to_owned(),
                message: "The container was removed to restart all containers of the pod".to_owned(),
                started_at: self.last.as_ref().and_then(|last| last.started_at),
                finished_at: Some(now.wall.into()),
                container_id: self.container_id.clone(),
            };
            self.previous = self.last.replace(ended);
        }
    }

    /// What it was is over; only the counts and how its last instance ended stay.
    pub(super) fn begin_anew(&mut self, waiting_reason: &str, now: super::Now) {
        self.stage = Stage::Idle { due: now.boot };
        self.waiting = Some(waiting(waiting_reason));
        self.passed = false;
        self.failed_pull = None;
        self.forget_end();
        self.forget_crashes(now);
    }
}

fn waiting(reason: &str) -> Waiting {
    Waiting { reason: reason.to_owned(), message: String::new() }
}

/// Whole seconds as Go prints a `time.Duration`: `10s`, `1m20s`, `5m0s`.
fn go_duration(duration: Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}
