//! Pods with sidecars, rules, probes, hooks, deadlines and what joins or changes them later, under any sequence of events, also ones
//! that make no sense: what must always hold, holds.

use super::super::status::{ConditionStatus, ContainerStatus, OOM_KILLED, Phase, PodStatus};
use super::super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

mod choices;
mod clock;
mod dying;

use choices::{Choices, Drawn, Fast, pod};
use clock::Twin;

/// What the supervisor knows of a container.
#[derive(Debug, Clone, Default)]
struct Known {
    starting: bool,
    running: bool,
    signalled: bool,
    killed: bool,
    /// Its pre-stop hook was asked for, or it was signalled or killed.
    ends: bool,
    /// Its end began before the pod's: a probe or its post-start hook failed. It has a grace period of its own.
    ends_alone: bool,
    startup_succeeded: bool,
    instances: u32,
    /// Since all containers were restarted last: `status.started` was seen.
    was_started: bool,
}

struct World {
    pod: PodState,
    twin: Twin,
    now: u64,
    known: Vec<Known>,
    /// Tasks that are not answered, and whether their time was said to be over.
    tasks: BTreeMap<(usize, Task), bool>,
    creating: bool,
    sandbox: bool,
    /// The sandbox was lost; what is left of it is still there.
    lost: bool,
    destroying: bool,
    finished: bool,
    /// When the grace period of the pod's end is over.
    stop: Option<u64>,
    evicted: bool,
    steps: u64,
}

const PROBES: [Task; 3] = [Task::StartupProbe, Task::LivenessProbe, Task::ReadinessProbe];

impl World {
    fn new(spec: PodSpec) -> World {
        let known = vec![Known::default(); spec.containers.len()];
        let twin = Twin::new(spec.clone());
        let pod = PodState::new(spec, Now { boot: Duration::ZERO, wall: Duration::ZERO });
        let (tasks, stop) = (BTreeMap::new(), None);
        let (creating, sandbox, lost, destroying, finished) = (false, false, false, false, false);
        let (now, evicted, steps) = (0, false, 0);
        let mut world =
            World { pod, twin, now, known, tasks, creating, sandbox, lost, destroying, finished, stop, evicted, steps };
        world.step(Event::Begin);
        world
    }

    fn spec(&self, index: usize) -> &ContainerSpec {
        &self.pod.spec().containers[index]
    }

    fn kind(&self, index: usize) -> ContainerKind {
        self.spec(index).kind
    }

    fn is_alive(&self, index: usize) -> bool {
        self.known[index].starting || self.known[index].running
    }

    fn alive(&self) -> impl Iterator<Item = usize> {
        (0..self.known.len()).filter(|index| self.is_alive(*index))
    }

    fn step(&mut self, event: Event) {
        self.steps += 1;
        let before = self.pod.status().phase;
        let now = Duration::from_secs(self.now);
        let actions = self.pod.step(event.clone(), Now { boot: now, wall: now });
        assert_eq!(self.twin.step(event, now), actions);
        assert_eq!(self.twin.next_deadline(), self.pod.next_deadline());
        assert!(!self.finished || actions.is_empty(), "{actions:?} after Finished");
        if !self.pod.goes_on() {
            // It has begun to end by itself, or at its deadline; what comes later can only shorten that.
            self.stop.get_or_insert(self.now + self.pod.spec().grace.as_secs().max(1));
        }
        while self.known.len() < self.pod.spec().containers.len() {
            self.known.push(Known::default());
        }
        for action in actions {
            self.take(action);
        }
        self.check(before);
    }

    /// Takes an action; it must be one that makes sense now.
    fn take(&mut self, action: Action) {
        match action {
            Action::CreateSandbox => {
                assert!(!self.creating && (self.lost || !self.sandbox) && self.stop.is_none());
                assert!(self.alive().next().is_none(), "something lives in the sandbox that was lost");
                (self.creating, self.sandbox, self.lost) = (true, false, false);
            }
            Action::Start { container, restart_count } => self.take_start(container, restart_count),
            Action::CancelStart { container } => assert!(self.known[container].starting),
            Action::Perform { container, task } => self.take_perform(container, task),
            Action::TimeOut { container, task } => {
                assert!(PROBES.contains(&task), "hooks have no time-out");
                assert_eq!(
                    self.tasks.insert((container, task), true),
                    Some(false),
                    "it does not run, or was told before"
                );
            }
            Action::Signal { container } => self.take_signal(container),
            Action::Kill { container } => {
                assert!(self.is_alive(container) && !self.known[container].killed);
                (self.known[container].killed, self.known[container].ends) = (true, true);
            }
            Action::DestroySandbox => {
                assert!(self.sandbox && !self.destroying && self.alive().next().is_none());
                self.destroying = true;
            }
            Action::Finished => {
                assert!(!self.sandbox && !self.creating && self.alive().next().is_none());
                self.finished = true;
            }
            Action::Run { .. } | Action::Discard { .. } => panic!("it is no commanded pod"),
            Action::Emit(PodEvent { container: None, .. }) => {}
            Action::Emit(PodEvent { container: Some(index), reason, .. }) => {
                self.known[index].ends_alone |= reason == "Killing" && self.stop.is_none();
            }
        }
    }

    fn take_start(&mut self, container: usize, restart_count: u32) {
        assert!(self.sandbox && !self.lost && !self.destroying, "start without a sandbox");
        assert!(self.stop.is_none(), "start after stop");
        assert!(self.known.iter().all(|known| !known.starting), "two starts at a time");
        assert!(self.tasks.keys().all(|(_, task)| *task != Task::PostStart), "a start is not complete before its hook");
        assert!(!self.is_alive(container));
        let kind = self.kind(container);
        let inits_run = self.alive().any(|other| self.kind(other) == ContainerKind::Init);
        assert!(kind != ContainerKind::Init || !inits_run, "two init containers at once");
        if kind != ContainerKind::Ephemeral {
            let before = (0..self.known.len()).filter(|other| self.kind(*other).is_init_list());
            for other in before.filter(|other| *other < container || kind == ContainerKind::App) {
                match self.kind(other) {
                    ContainerKind::Init => assert!(self.status_of(other).ready, "{other} is not done"),
                    // In this step perhaps.
                    _ => assert!(
                        self.known[other].was_started || self.status_of(other).started,
                        "sidecar {other} has not started"
                    ),
                }
            }
        }
        let known = &mut self.known[container];
        assert_eq!(restart_count, known.instances);
        *known =
            Known { starting: true, instances: known.instances, was_started: known.was_started, ..Known::default() };
    }

    fn take_perform(&mut self, container: usize, task: Task) {
        assert!(self.known[container].running, "{task:?} of what does not run");
        assert_eq!(self.tasks.insert((container, task), false), None, "{task:?} twice at a time");
        let known = &self.known[container];
        let spec = self.spec(container);
        match task {
            Task::LivenessProbe | Task::ReadinessProbe => {
                assert!(spec.probes.startup.is_none() || known.startup_succeeded, "{task:?} before it has started");
                assert!(task == Task::ReadinessProbe || (!known.ends && self.stop.is_none()), "liveness while it ends");
            }
            Task::StartupProbe => assert!(!known.ends && !known.startup_succeeded && self.stop.is_none()),
            Task::PostStart => assert_eq!(spec.post_start, Some(Hook::Perform)),
            Task::PreStop => {
                assert_eq!(spec.pre_stop, Some(Hook::Perform));
                assert!(!known.signalled && !known.killed, "pre-stop comes first");
                self.known[container].ends = true;
            }
        }
    }

    fn take_signal(&mut self, container: usize) {
        let known = &self.known[container];
        assert!(known.running && !known.signalled && !known.killed);
        let serves = |other: usize| {
            self.is_alive(other)
                && match self.kind(other) {
                    ContainerKind::App => true,
                    ContainerKind::Init | ContainerKind::Sidecar => other > container,
                    ContainerKind::Ephemeral => false,
                }
        };
        let waits = self.kind(container) == ContainerKind::Sidecar && !known.ends_alone;
        if waits && self.stop.is_some_and(|stop| self.now < stop) {
            assert!(!(0..self.known.len()).any(serves), "a sidecar is signalled before its turn");
        }
        (self.known[container].signalled, self.known[container].ends) = (true, true);
    }

    fn status_of(&self, index: usize) -> ContainerStatus {
        let status = self.pod.status();
        let lists = [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        let name = &self.spec(index).name;
        lists.into_iter().flatten().find(|c| c.name == *name).unwrap()
    }

    /// What must hold after every step.
    fn check(&mut self, before: Phase) {
        let status = self.pod.status();
        assert!(!before.is_terminal() || status.phase == before, "a terminal phase is final");
        let deadline = self.pod.next_deadline();
        assert!(deadline.is_none_or(|d| d > Duration::from_secs(self.now)), "a deadline that has passed: {deadline:?}");
        let is_evicted = self.evicted && status.phase.is_terminal();
        assert_eq!((status.reason == "Evicted", status.message == "too much"), (is_evicted, is_evicted));
        assert!(!is_evicted || status.phase == Phase::Failed);
        if status.phase.is_terminal() {
            assert_eq!(status.phase, self.verdict(&status), "the phase is from the app containers' exit codes");
            assert!(self.alive().next().is_none() && deadline.is_none());
            assert!(self.destroying || self.creating || self.finished);
        } else if self.stop.is_some() {
            assert!(self.alive().next().is_some() || self.creating, "stopped, dead, but not over");
            assert!(deadline.is_some() || self.creating || self.alive().all(|index| self.known[index].killed));
        }
        if self.lost {
            assert!(self.alive().all(|index| self.known[index].starting || self.known[index].killed), "not killed");
        }
        let restarting =
            status.conditions.iter().any(|c| c.type_ == "AllContainersRestarting" && c.status == ConditionStatus::True);
        // In the order of the pod's containers.
        let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        for (known, shown) in self.known.iter_mut().zip(lists.into_iter().flatten()) {
            assert!(known.running || shown.state.running.is_none(), "{} is shown as running", shown.name);
            assert!(!shown.started || shown.state.running.is_some());
            assert_eq!(shown.restart_count, known.instances.saturating_sub(1), "{}", shown.name);
            known.was_started = (known.was_started || shown.started) && !restarting && !self.lost;
        }
    }

    /// What the phase of a pod that has ended must be: sidecars and ephemeral containers do not count.
    fn verdict(&self, status: &PodStatus) -> Phase {
        let ended = |c: &ContainerStatus| c.state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0);
        let inits = status.init_container_statuses.iter().enumerate();
        let mut failed =
            inits.filter(|(index, _)| self.kind(*index) == ContainerKind::Init).map(|(_, init)| init).any(|init| {
                init.state.terminated.as_ref().is_some_and(|ended| ended.exit_code != 0 || ended.reason == OOM_KILLED)
            });
        failed |= ["DeadlineExceeded", "Evicted"].contains(&status.reason.as_str());
        if !failed && status.container_statuses.iter().all(ended) { Phase::Succeeded } else { Phase::Failed }
    }

    /// A supervisor and a world that do as they like.
    fn act(&mut self, choices: &mut impl Choices) {
        match choices.below(40) {
            0..14 => self.answer(choices),
            14..22 => self.exit_one(choices),
            22..32 => {
                self.now = self.pod.next_deadline().map_or(self.now, |d| d.as_secs());
                self.step(Event::Tick);
            }
            32..34 => {
                self.now += choices.below(40);
                self.step(Event::Tick);
            }
            34 => self.step(Event::SetCondition {
                type_: "gate".into(),
                holds: choices.one_in(2),
                reason: String::new(),
                message: String::new(),
            }),
            35 => self.change(choices),
            36 if choices.one_in(4) => {
                let grace = choices.one_in(2).then(|| choices.below(50));
                self.stop(grace);
            }
            37 if choices.one_in(12) => self.kill_pod(),
            38 if choices.one_in(6) && self.sandbox && !self.lost && !self.destroying => {
                self.lost = true;
                self.step(Event::SandboxLost);
            }
            _ => self.disturb(choices),
        }
    }

    fn change(&mut self, choices: &mut impl Choices) {
        let container = choices.below(self.known.len() as u64) as usize;
        let event = match choices.below(5) {
            0 if self.known.len() < 8 => {
                let name = format!("e{}", self.known.len());
                Event::Join(Box::new(ContainerSpec::new(&name, ContainerKind::Ephemeral, "img")))
            }
            1 => Event::Redefined { container, image: format!("img{}", choices.below(9)) },
            2 => {
                let resize = choices.pick(&[Resize::NotRequired, Resize::RestartContainer]);
                Event::Resized { container, resize, fixed: Fixed::default() }
            }
            3 if choices.one_in(6) => return self.evict(),
            _ => Event::DeadlineChanged(choices.one_in(3).then(|| Duration::from_secs(self.now + choices.below(99)))),
        };
        self.step(event);
    }

    /// Events that nobody has reason to send.
    fn disturb(&mut self, choices: &mut impl Choices) {
        let container = choices.below(self.known.len() as u64 + 1) as usize;
        let is_alive = container < self.known.len() && self.is_alive(container);
        let is_starting = is_alive && self.known[container].starting;
        let message = String::new;
        let task = choices.pick(&[
            Task::StartupProbe,
            Task::LivenessProbe,
            Task::ReadinessProbe,
            Task::PostStart,
            Task::PreStop,
        ]);
        match choices.below(10) {
            9 => self.die(choices),
            0 => self.step(Event::Begin),
            1 if !self.creating => self.step(Event::SandboxReady { ips: vec![] }),
            2 if !self.creating => self.step(Event::SandboxFailed { message: message() }),
            3 if !is_starting => self.step(Event::Started { container }),
            4 if !is_starting => {
                self.step(Event::StartFailed { container, failure: StartFailure::Create, message: message() });
            }
            5 if !is_alive => {
                let exit = Exit { code: 1, signal: None, oom_killed: false, message: message() };
                self.step(Event::Exited { container, exit });
            }
            6 if !self.tasks.contains_key(&(container, task)) => {
                self.step(Event::Performed { container, task, outcome: Outcome::Failure(message()) });
            }
            7 if !self.destroying => self.step(Event::SandboxGone),
            8 if !self.sandbox || self.lost || self.destroying => self.step(Event::SandboxLost),
            _ => self.step(Event::Tick),
        }
    }

    fn stop(&mut self, grace: Option<u64>) {
        let given = grace.unwrap_or(self.pod.spec().grace.as_secs()).max(1);
        if !self.pod.status().phase.is_terminal() {
            self.stop = Some(self.stop.unwrap_or(u64::MAX).min(self.now + given));
        }
        self.step(Event::Stop { grace: grace.map(Duration::from_secs) });
    }

    /// The pod ends in failure, whatever happens afterwards; one that ends already is not evicted.
    fn evict(&mut self) {
        let going_on = self.pod.goes_on();
        if going_on {
            self.stop = Some(self.now + 1);
            self.evicted = true;
        }
        self.step(Event::Evicted { message: "too much".into() });
    }

    fn kill_pod(&mut self) {
        if !self.pod.status().phase.is_terminal() {
            self.stop = Some(self.now);
        }
        // Also what was killed before.
        self.known.iter_mut().for_each(|known| known.killed = false);
        self.step(Event::Kill);
        assert!(self.alive().all(|index| self.known[index].killed), "not killed");
    }

    fn exit_one(&mut self, choices: &mut impl Choices) {
        let running: Vec<usize> = (0..self.known.len()).filter(|index| self.known[*index].running).collect();
        if !running.is_empty() {
            let (container, code) = (choices.pick(&running), choices.below(3) as i32);
            let oom_killed = choices.one_in(10);
            self.exit(container, code, oom_killed);
        }
    }

    fn exit(&mut self, container: usize, code: i32, oom_killed: bool) {
        (self.known[container].starting, self.known[container].running) = (false, false);
        self.tasks.retain(|(of, _), _| *of != container);
        self.step(Event::Exited { container, exit: Exit { code, signal: None, oom_killed, message: String::new() } });
    }

    /// Answers one of the things that are asked for, if any.
    fn answer(&mut self, choices: &mut impl Choices) {
        let starting = self.known.iter().position(|known| known.starting);
        let task = if self.tasks.is_empty() {
            None
        } else {
            self.tasks.keys().nth(choices.below(self.tasks.len() as u64) as usize).copied()
        };
        if self.creating {
            self.creating = false;
            self.sandbox = !choices.one_in(6);
            let event = match self.sandbox {
                true => Event::SandboxReady { ips: vec![] },
                false => Event::SandboxFailed { message: String::new() },
            };
            self.step(event);
        } else if self.destroying && self.sandbox {
            self.sandbox = false;
            self.step(Event::SandboxGone);
        } else if let Some(container) = starting.filter(|_| task.is_none() || choices.one_in(2)) {
            let how = choices.below(12);
            self.answer_start(container, how);
        } else if let Some((container, task)) = task {
            let outcome = match choices.below(8) {
                0..4 => Outcome::Success,
                4 => Outcome::Warning(String::new()),
                5 | 6 => Outcome::Failure(String::new()),
                _ => Outcome::Error(String::new()),
            };
            self.perform((container, task), outcome);
        }
    }

    fn perform(&mut self, (container, task): (usize, Task), outcome: Outcome) {
        self.tasks.remove(&(container, task));
        if task == Task::StartupProbe && matches!(outcome, Outcome::Success | Outcome::Warning(_)) {
            self.known[container].startup_succeeded = true;
        }
        self.step(Event::Performed { container, task, outcome });
    }

    fn answer_start(&mut self, container: usize, how: u64) {
        let message = String::new();
        let known = &mut self.known[container];
        let event = match how {
            0 => {
                known.starting = false;
                Event::ImageFailed { container, failure: ImageFailure::Pull, message }
            }
            1 => {
                known.starting = false;
                Event::StartFailed { container, failure: StartFailure::Config, message }
            }
            2 => {
                known.starting = false;
                known.instances += 1;
                Event::StartFailed { container, failure: StartFailure::Start { exit_code: 128 }, message }
            }
            _ => {
                known.instances += 1;
                self.step(Event::Created { container, container_id: "c".into(), image_id: "i".into() });
                let known = &mut self.known[container];
                (known.starting, known.running) = (false, true);
                // What was done to the start does not count for the process.
                (known.signalled, known.killed, known.ends) = (false, false, false);
                Event::Started { container }
            }
        };
        self.step(event);
    }

    /// From here on everything that is told to end ends, and nothing else is answered, no probe and no hook but post-start:
    /// the pod must come to its end.
    fn run_out(&mut self) {
        let is_never = |spec: &ContainerSpec| {
            let policy = spec.restart.policy.unwrap_or(self.pod.spec().restart_policy);
            policy == RestartPolicy::Never && spec.restart.rules.is_empty()
        };
        let ends_by_itself =
            self.pod.spec().containers.iter().filter(|c| c.kind != ContainerKind::Sidecar).all(is_never);
        if !ends_by_itself {
            self.stop(None);
        }
        for _ in 0..2000 {
            let told: Vec<usize> = self.alive().filter(|index| self.has_to_end(*index, ends_by_itself)).collect();
            if self.finished {
                return;
            } else if self.creating {
                self.creating = false;
                self.sandbox = true;
                self.step(Event::SandboxReady { ips: vec![] });
            } else if self.destroying {
                (self.destroying, self.sandbox) = (false, false);
                self.step(Event::SandboxGone);
            } else if let Some(container) = self.known.iter().position(|known| known.starting) {
                self.answer_start(container, 11);
            } else if let Some(container) = told.first() {
                self.exit(*container, 0, false);
            } else if let Some(task) = self.tasks.keys().find(|(_, task)| *task == Task::PostStart).copied() {
                self.perform(task, Outcome::Success);
            } else if let Some(task) = self.tasks.iter().find_map(|(task, over)| over.then_some(*task)) {
                // What nobody answered in its time, the time-out answers.
                let outcome = match task.1 {
                    Task::StartupProbe => Outcome::Success,
                    _ => Outcome::Failure(String::new()),
                };
                self.perform(task, outcome);
            } else if let Some(deadline) = self.pod.next_deadline() {
                self.now = deadline.as_secs();
                self.step(Event::Tick);
            } else {
                panic!("nothing goes on: {:#?}", self.pod);
            }
        }
        panic!("no end: {:#?}", self.pod);
    }

    fn has_to_end(&self, index: usize, all_end: bool) -> bool {
        let known = &self.known[index];
        let by_itself = all_end && !matches!(self.kind(index), ContainerKind::Sidecar | ContainerKind::Ephemeral);
        let under_way = self.tasks.contains_key(&(index, Task::PostStart));
        known.running && !under_way && (by_itself || known.signalled || known.killed)
    }
}

/// A pod, some hundred steps, and its end; how many steps it took.
fn live(choices: &mut impl Choices, actions: u64) -> u64 {
    let mut world = World::new(pod(choices));
    for _ in 0..actions {
        world.act(choices);
    }
    let stored = serde_json::to_string(&world.pod).unwrap();
    assert_eq!(serde_json::from_str::<PodState>(&stored).unwrap(), world.pod, "a stored pod is the same pod");
    world.run_out();
    let status = world.pod.status();
    let sidecars: BTreeSet<&str> = {
        let all = world.pod.spec().containers.iter();
        all.filter(|c| c.kind == ContainerKind::Sidecar).map(|c| c.name.as_str()).collect()
    };
    let sidecars: Vec<&str> = sidecars.into_iter().collect();
    assert!(status.phase.is_terminal());
    assert_eq!(exit_code_without(&sidecars, &status) == 0, status.phase == Phase::Succeeded);
    world.steps
}

proptest! {
    // There is no file of past failures: a failure belongs into `tests` as a case of its own.
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pod_keeps_what_must_hold(drawn in prop::collection::vec(any::<u32>(), 50..900)) {
        live(&mut Drawn(drawn.iter()), drawn.len() as u64 / 4);
    }
}

/// The last thing that happens before the pod is left to itself: a probe's time is over, and whoever runs it owes the answer.
#[test]
fn a_probe_that_is_over_is_answered_though_nothing_else_is_due() {
    let mut sidecar = ContainerSpec::new("c0", ContainerKind::Sidecar, "img");
    let (second, initial_delay) = (Duration::from_secs(1), Duration::ZERO);
    let (success_threshold, failure_threshold, grace) = (1, 2, None);
    let probe =
        ProbeTiming { initial_delay, period: second, timeout: second, success_threshold, failure_threshold, grace };
    sidecar.probes.startup = Some(probe);
    let mut spec = pod(&mut Fast(1));
    spec.restart_policy = RestartPolicy::Never;
    (spec.active_deadline, spec.readiness_gates) = (None, vec![]);
    spec.containers = vec![sidecar, ContainerSpec::new("c1", ContainerKind::App, "img")];
    let mut world = World::new(spec);
    world.creating = false;
    world.sandbox = true;
    world.step(Event::SandboxReady { ips: vec![] });
    world.answer_start(0, 11);
    world.now += 1;
    world.step(Event::Tick);
    assert_eq!(world.tasks, BTreeMap::from([((0, Task::StartupProbe), true)]));
    assert_eq!(world.pod.next_deadline(), None);
    world.run_out();
    assert_eq!(world.pod.status().phase, Phase::Succeeded);
}

/// A failure names the seed of its pod, with which [`live`] tells the same again.
#[test]
fn a_million_steps_keep_what_must_hold() {
    let run = |first: u64| {
        let mut steps = 0;
        let mut seed = first;
        while steps < 500_000 {
            seed += 2;
            let lived = std::panic::catch_unwind(|| live(&mut Fast(seed), 150));
            steps += lived.unwrap_or_else(|_| panic!("the pod of seed {seed}"));
        }
        steps
    };
    let other = std::thread::spawn(move || run(1));
    let steps = run(2) + other.join().unwrap();
    assert!(steps >= 1_000_000, "{steps}");
}
