//! Probes (pod-api.md §6): when they run, when their results count, what failed ones lead to.

use super::ending::{Cause, Ending, Kill};
use super::machine::{PodState, Step};
use super::{Action, Outcome, ProbeTiming, Probes, Task};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A probe that cannot find anything out is tried again at once, this often in all.
const MAX_TRIES: u8 = 3;

const PROBES: [Task; 3] = [Task::StartupProbe, Task::LivenessProbe, Task::ReadinessProbe];

/// The state of a container's three probes, of its present instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProbeStates {
    startup: ProbeState,
    liveness: ProbeState,
    readiness: ProbeState,
}

/// The state of one probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProbeState {
    /// The result that counts: thresholds were reached. None yet at first.
    verdict: Option<bool>,
    /// The last results, which were all the same, and how many.
    streak: (bool, u32),
    /// When it runs next, on the boot clock.
    due: Duration,
    /// It runs, and may until this time.
    running: Option<Duration>,
    /// Its time was found to be over; its answer is awaited.
    timed_out: bool,
    /// It does not run any more, for this instance of the container.
    held: bool,
    /// How often in a row it found nothing out.
    errors: u8,
}

impl ProbeStates {
    /// Those of an instance that was started at this time.
    pub(super) fn of_instance(probes: &Probes, started: Duration) -> ProbeStates {
        let first = |timing: &Option<ProbeTiming>| ProbeState {
            due: started + timing.as_ref().map_or(Duration::ZERO, |timing| timing.initial_delay),
            ..ProbeState::default()
        };
        ProbeStates {
            startup: first(&probes.startup),
            liveness: first(&probes.liveness),
            readiness: first(&probes.readiness),
        }
    }

    pub(super) fn startup_succeeded(&self) -> bool {
        self.startup.verdict == Some(true)
    }

    pub(super) fn readiness_succeeded(&self) -> bool {
        self.readiness.verdict == Some(true)
    }

    /// Nobody answers the runs that are under way any more: those probes run again.
    pub(super) fn forget_runs(&mut self, now: Duration) {
        for probe in [&mut self.startup, &mut self.liveness, &mut self.readiness] {
            if probe.running.take().is_some() {
                (probe.timed_out, probe.due) = (false, now);
            }
        }
    }

    fn of(&mut self, task: Task) -> &mut ProbeState {
        match task {
            Task::StartupProbe => &mut self.startup,
            Task::LivenessProbe => &mut self.liveness,
            _ => &mut self.readiness,
        }
    }

    fn get(&self, task: Task) -> &ProbeState {
        match task {
            Task::StartupProbe => &self.startup,
            Task::LivenessProbe => &self.liveness,
            _ => &self.readiness,
        }
    }
}

impl ProbeState {
    /// Takes a result in; the verdict if its threshold is reached.
    fn count(&mut self, success: bool, timing: &ProbeTiming) -> Option<bool> {
        let length = if self.streak.0 == success { self.streak.1.saturating_add(1) } else { 1 };
        self.streak = (success, length);
        let threshold = if success { timing.success_threshold } else { timing.failure_threshold };
        if length < threshold {
            return None;
        }
        self.verdict = Some(success);
        self.verdict
    }

    /// The next run, one period after the last one began; at once if that took longer.
    fn schedule(&mut self, timing: &ProbeTiming, now: Duration) {
        self.due = (self.due + timing.period).max(now);
        self.errors = 0;
    }
}

impl PodState {
    /// Whether a probe is to be run now and then. Liveness and readiness wait for the container to have started; only
    /// readiness is of interest once it is being ended.
    fn is_probed(&self, index: usize, task: Task) -> bool {
        let container = &self.containers[index];
        let stays = container.ending == Ending::Unasked && self.teardown.is_none();
        let in_its_time = match task {
            Task::StartupProbe => stays && !self.is_started(index),
            Task::LivenessProbe => stays && self.is_started(index),
            _ => self.is_started(index),
        };
        container.is_up() && in_its_time && !container.probes.get(task).held
    }

    /// Begins the probes that are due, and ends those whose time is over.
    pub(super) fn advance_probes(&mut self, step: &mut Step) {
        let now = step.now.boot;
        for index in (0..self.containers.len()).filter(|index| !self.spec.containers[*index].probes.is_empty()) {
            for task in PROBES {
                let Some(timeout) = self.timing(index, task).map(|timing| timing.timeout) else { continue };
                let is_probed = self.is_probed(index, task);
                let runs = self.containers[index].is_running();
                let probe = self.containers[index].probes.of(task);
                match probe.running {
                    Some(until) if runs && until <= now && !probe.timed_out => {
                        probe.timed_out = true;
                        step.actions.push(Action::TimeOut { container: index, task });
                    }
                    None if is_probed && probe.due <= now => {
                        probe.running = Some(now + timeout);
                        probe.timed_out = false;
                        // What was missed, because nothing was to be probed, is not made up for.
                        probe.due = now;
                        step.actions.push(Action::Perform { container: index, task });
                    }
                    _ => {}
                }
            }
        }
    }

    /// When a probe of a container is to begin, or to be ended.
    pub(super) fn next_probe_deadline(&self, index: usize) -> Option<Duration> {
        let due = |task: Task| {
            self.timing(index, task)?;
            let probe = self.containers[index].probes.get(task);
            match probe.running {
                Some(until) => (self.containers[index].is_running() && !probe.timed_out).then_some(until),
                None => self.is_probed(index, task).then_some(probe.due),
            }
        };
        PROBES.into_iter().filter_map(due).min()
    }

    pub(super) fn probed(&mut self, index: usize, (task, outcome): (Task, Outcome), step: &mut Step) {
        let counts = self.is_probed(index, task);
        let Some(timing) = self.timing(index, task).cloned() else { return };
        let probe = self.containers[index].probes.of(task);
        if probe.running.take().is_none() || !counts {
            return;
        }
        let success = match outcome {
            Outcome::Success => true,
            Outcome::Warning(message) => {
                step.warn(index, "ProbeWarning", format!("{} probe warning: {message}", name(task)));
                true
            }
            Outcome::Failure(message) => {
                step.warn(index, "Unhealthy", format!("{} probe failed: {message}", name(task)));
                false
            }
            // Nothing is known: the state stays as it is.
            Outcome::Error(message) => {
                probe.errors += 1;
                if probe.errors < MAX_TRIES {
                    probe.due = step.now.boot;
                    return;
                }
                probe.schedule(&timing, step.now.boot);
                let message = format!("{} probe errored and resulted in unknown state: {message}", name(task));
                step.warn(index, "Unhealthy", message);
                return;
            }
        };
        probe.schedule(&timing, step.now.boot);
        match (task, probe.count(success, &timing)) {
            (Task::StartupProbe, Some(true)) => probe.held = true,
            (Task::StartupProbe | Task::LivenessProbe, Some(false)) => {
                probe.held = true;
                self.end_unhealthy(index, (task, timing.grace), step);
            }
            _ => {}
        }
    }

    fn end_unhealthy(&mut self, index: usize, (task, grace): (Task, Option<Duration>), step: &mut Step) {
        let again = if self.restarts_after_kill(index) { ", will be restarted" } else { "" };
        let message =
            format!("Container {} failed {} probe{again}", self.spec.containers[index].name, name(task).to_lowercase());
        let grace = grace.unwrap_or(self.spec.grace);
        self.end_container(index, Kill { grace, cause: Cause::Probe, message }, step);
    }
}

impl Probes {
    fn is_empty(&self) -> bool {
        self.startup.is_none() && self.liveness.is_none() && self.readiness.is_none()
    }
}

fn name(task: Task) -> &'static str {
    match task {
        Task::StartupProbe => "Startup",
        Task::LivenessProbe => "Liveness",
        _ => "Readiness",
    }
}
