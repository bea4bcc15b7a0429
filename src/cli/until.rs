//! Waiting for pods that were just started: `run -d` and `apply`.

use super::bring_up::{Started, undo};
use super::follow::{Waited, Watch};
use super::notify;
use super::output;
use super::recover;
use super::terminal::Interrupts;
use super::wait::duration;
use crate::error::{Kind, failure, kind_of, say};
use crate::lifecycle::EventType;
use crate::lifecycle::status::{ContainerStatus, Phase, PodStatus};
use crate::store::{Pod, Report};
use crate::supervisor::events;
use anyhow::Result;
use clap::Args;
use std::time::{Duration, Instant};

/// How long to wait, and what for.
#[derive(Debug, Clone, Args)]
pub(super) struct UntilArgs {
    /// What to wait for: that the pods are running, ready, or complete [default: running]
    #[arg(long, value_name = "WHAT")]
    pub(super) wait: Option<WaitFor>,
    /// Give up after so long (30, 30s, 5m, 1h), and take back what was started
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

/// `--wait`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum WaitFor {
    /// Every container has been started
    Running,
    /// The condition Ready holds, or the pod has already succeeded
    Ready,
    /// The pod has ended; the exit code is its own
    Complete,
}

/// Waits for each pod, and tells its name. If one does not come to it, all of them are taken back. With `--wait=complete`, the
/// first exit code that is not 0.
pub(super) fn detached(started: Vec<Started>, args: &UntilArgs, interrupts: &Interrupts) -> Result<u8> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let goal = args.wait.unwrap_or(WaitFor::Running);
    let mut code = 0;
    for one in &started {
        match until(&one.pod, Goal { goal, deadline, warnings: Since::Beginning }, interrupts) {
            Ok(of_pod) if code == 0 => code = of_pod,
            Ok(_) => {}
            Err(error) => {
                undo(started);
                return Err(error);
            }
        }
    }
    if goal == WaitFor::Ready {
        // A unit of Type=notify goes on with the supervisor as its main process, when this command has ended.
        let main_process = match &started[..] {
            [one] => Some(one.supervising.pid()),
            _ => None,
        };
        notify::ready(main_process)?;
    }
    for one in started {
        output::line(one.pod.full_name())?;
    }
    Ok(code)
}

/// How often a pod is recovered whose supervisor is killed again and again.
const TRIES: usize = 10;

/// What is waited for, and until when.
#[derive(Clone, Copy)]
pub(super) struct Goal {
    pub(super) goal: WaitFor,
    pub(super) deadline: Option<Instant>,
    /// Which of the pod's warnings are told.
    pub(super) warnings: Since,
}

/// From when on a pod's warnings are of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// The pod's beginning.
    Beginning,
    /// Now: somebody was told of the others.
    Now,
}

/// Waits for one pod, telling of its warnings; the pod's exit code where its end is waited for, else 0.
pub(super) fn until(pod: &Pod, goal: Goal, interrupts: &Interrupts) -> Result<u8> {
    let mut told = Warnings::of(pod);
    if goal.warnings == Since::Now {
        told.tail.read()?;
    }
    let timeout = goal.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let mut look = |report: &Report| {
        told.print()?;
        if let Some(first) = &report.failure {
            return Err(failure(first.kind.into(), format!("pod {}: {}", pod.full_name(), first.message)));
        }
        Ok(is_reached(goal.goal, report).then_some(()))
    };
    let mut watch = || match (Watch::open(pod), pod.report()?) {
        (Ok(mut watch), _) => watch.until_or_interrupted(timeout, interrupts, &mut look),
        // It ended before it could be asked, as one of several may while the others are waited for.
        (Err(_), Some(report)) if report.over => Ok(look(&report)?.map_or(Waited::Gone, Waited::Found)),
        (Err(error), _) if kind_of(&error) != Some(Kind::NotReady) => Err(error),
        (Err(_), _) => Ok(Waited::Gone),
    };
    let mut waited = watch()?;
    for _ in 0..TRIES {
        if !matches!(waited, Waited::Gone) || !recover::is_recovered(pod)? {
            break;
        }
        waited = watch()?;
    }
    let report = pod.report()?;
    let code = report.as_ref().map_or(1, |report| pod.exit_code(&report.status));
    match waited {
        Waited::Found(()) if goal.goal == WaitFor::Complete => Ok(code),
        Waited::Found(()) => ended_before(pod, report, code).map_or(Ok(0), Err),
        Waited::Gone => Err(failure(Kind::NotReady, format!("the supervisor of pod {} is gone", pod.full_name()))),
        Waited::TimedOut => {
            let what = match goal.goal {
                WaitFor::Running => "does not run",
                WaitFor::Ready => "is not ready",
                WaitFor::Complete => "has not ended",
            };
            let why = report.map(|report| holdups(&report.status)).unwrap_or_default();
            let message = format!("pod {} {what} after the time given by --timeout{why}", pod.full_name());
            Err(failure(Kind::NotReady, message))
        }
    }
}

/// A pod that ended instead of coming to run, or to be ready: it failed, or somebody stopped it.
fn ended_before(pod: &Pod, report: Option<Report>, code: u8) -> Option<anyhow::Error> {
    let report = report.filter(|report| report.status.phase.is_terminal())?;
    let what = match report.status.phase {
        _ if report.deletion.is_some() => "was stopped".to_owned(),
        Phase::Failed => format!("failed, exit code {code}"),
        _ => return None,
    };
    Some(failure(Kind::NotReady, format!("pod {} {what}", pod.full_name())))
}

fn is_reached(goal: WaitFor, report: &Report) -> bool {
    let status = &report.status;
    match goal {
        WaitFor::Running => status.phase != Phase::Pending,
        WaitFor::Ready => status.is_ready() || status.phase.is_terminal(),
        WaitFor::Complete => report.over,
    }
}

/// What a pod is waiting for, for a person: `: container web: CrashLoopBackOff (back-off 10s …); …`.
fn holdups(status: &PodStatus) -> String {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses);
    let mut list: Vec<String> = all.filter(|c| !c.ready).map(holdup).collect();
    let gates = status.conditions.iter().find(|c| c.type_ == "Ready" && c.reason == "ReadinessGatesNotReady");
    list.extend(gates.map(|gates| gates.message.clone()));
    if list.is_empty() { String::new() } else { format!(": {}", list.join("; ")) }
}

fn holdup(container: &ContainerStatus) -> String {
    let state = &container.state;
    let what = match (&state.waiting, &state.terminated) {
        (Some(waiting), _) if waiting.message.is_empty() => waiting.reason.clone(),
        (Some(waiting), _) => format!("{} ({})", waiting.reason, waiting.message),
        (None, Some(ended)) => format!("{}, exit code {}", ended.reason, ended.exit_code),
        (None, None) if container.started => "runs, but is not ready".to_owned(),
        (None, None) => "runs, but has not started up".to_owned(),
    };
    format!("container {}: {what}", container.name)
}

/// Events that a kubelet has as `Normal`, although everything in the pod ends for them.
fn tells_of_an_end(entry: &events::Entry) -> bool {
    ["DeadlineExceeded", "SandboxChanged"].contains(&entry.reason.as_str())
}

/// Tells of a pod's warnings as they come.
pub(super) struct Warnings<'a> {
    pod: &'a Pod,
    tail: events::Tail,
}

impl<'a> Warnings<'a> {
    /// From the pod's beginning on.
    pub(super) fn of(pod: &'a Pod) -> Warnings<'a> {
        Warnings { pod, tail: events::Tail::new(&pod.dirs) }
    }

    /// Prints the warnings that are new, on standard error.
    pub(super) fn print(&mut self) -> Result<()> {
        for entry in self.tail.read()?.iter().filter(|e| e.type_ == EventType::Warning || tells_of_an_end(e)) {
            say!(
                "podshim: {} {}: {}: {}",
                self.pod.full_name(),
                entry.object,
                entry.reason,
                output::one_line(&entry.message)
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_holds_a_pod_up_is_told_of_each_container() {
        let container = |name: &str, state: serde_json::Value, ready: bool| json!({ "name": name, "ready": ready, "restartCount": 0, "image": "i", "started": true, "state": state });
        let status: PodStatus = serde_json::from_value(json!({
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady",
                "message": "no such condition", "lastTransitionTime": "2026-11-25T00:00:00Z" }],
            "initContainerStatuses": [
                container("done", json!({ "terminated": { "exitCode": 0, "reason": "Completed" } }), true),
            ],
            "containerStatuses": [
                container("a", json!({ "running": { "startedAt": "2026-11-25T00:00:00Z" } }), false),
                container("b", json!({ "waiting": { "reason": "ErrImagePull", "message": "no route" } }), false),
                container("c", json!({ "terminated": { "exitCode": 3, "reason": "Error" } }), false),
                container("d", json!({ "waiting": { "reason": "PodInitializing" } }), false),
            ],
        }))
        .unwrap();
        assert_eq!(
            holdups(&status),
            ": container a: runs, but is not ready; container b: ErrImagePull (no route); \
             container c: Error, exit code 3; container d: PodInitializing; no such condition"
        );
        assert!(!status.is_ready());
    }
}
