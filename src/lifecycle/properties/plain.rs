//! Plain pods under random, but legal, sequences of events, against a second, simpler telling of the rules.

use super::super::status::Phase;
use super::super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// What one random step does. Numbers pick among what is possible then.
#[derive(Debug, Clone)]
enum Op {
    /// Answers what was asked for, well or with one of the failures.
    Answer(usize),
    /// A running container exits.
    Exit {
        which: usize,
        code: i32,
        oom_killed: bool,
    },
    /// Time passes, to the next deadline.
    Deadline,
    /// Time passes, whatever is due.
    Wait(u64),
    Stop(Option<u64>),
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => prop_oneof![6 => Just(0usize), 4 => 1usize..8].prop_map(Op::Answer),
        6 => (0usize..8, prop_oneof![Just(0), Just(1), Just(137)], prop::bool::weighted(0.1))
            .prop_map(|(which, code, oom_killed)| Op::Exit { which, code, oom_killed }),
        8 => Just(Op::Deadline),
        2 => (0u64..900).prop_map(Op::Wait),
        1 => prop::option::of(0u64..100).prop_map(Op::Stop),
        1 => prop::bool::weighted(0.2).prop_map(|kill| if kill { Op::Kill } else { Op::Wait(1) }),
    ]
}

fn pod() -> impl Strategy<Value = PodSpec> {
    let policy = prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)];
    (policy, 0usize..4, 1usize..4, 0u64..60).prop_map(|(restart_policy, inits, apps, grace)| {
        let container = |index| {
            let kind = if index < inits { ContainerKind::Init } else { ContainerKind::App };
            ContainerSpec::new(&format!("c{index}"), kind, "img")
        };
        let containers = (0..inits + apps).map(container).collect();
        PodSpec { restart_policy, grace: Duration::from_secs(grace), containers, ..empty() }
    })
}

/// The rules' own view of a container: seconds since boot.
#[derive(Debug, Clone, Default)]
struct Model {
    starting: bool,
    running: bool,
    signalled: bool,
    killed: bool,
    instances: u32,
    /// Not to be started before; `None`: never again.
    due: Option<u64>,
    succeeded: bool,
    /// Pause and time of the last step.
    crash: Option<(u64, u64)>,
    /// When it ended, if the restart has not stepped the back-off yet.
    ended: Option<u64>,
    pull: Option<(u64, u64)>,
}

fn pause(entry: Option<(u64, u64)>, event: u64) -> u64 {
    entry.filter(|(_, at)| event - at <= 600).map_or(0, |(pause, _)| pause)
}

fn stepped(entry: Option<(u64, u64)>, event: u64, now: u64) -> Option<(u64, u64)> {
    Some(match pause(entry, event) {
        0 => (10, now),
        pause => ((2 * pause).min(300), now),
    })
}

struct World {
    spec: PodSpec,
    pod: PodState,
    now: u64,
    models: Vec<Model>,
    /// The sandbox is asked for, there, or to be destroyed.
    creating: bool,
    sandbox: bool,
    destroying: bool,
    finished: bool,
    /// When what lives is to be killed.
    stop: Option<u64>,
    /// The same without the floor of two seconds.
    grace_end: Option<u64>,
    sandbox_due: Option<u64>,
}

impl World {
    fn new(spec: PodSpec) -> Self {
        let model = Model { due: Some(0), ..Model::default() };
        let pod = PodState::new(spec.clone(), Now { boot: Duration::ZERO, wall: Duration::ZERO });
        let mut world = World {
            models: vec![model; spec.containers.len()],
            spec,
            pod,
            now: 0,
            creating: false,
            sandbox: false,
            destroying: false,
            finished: false,
            stop: None,
            grace_end: None,
            sandbox_due: None,
        };
        world.step(Event::Begin);
        world
    }

    fn is_init(&self, index: usize) -> bool {
        self.spec.containers[index].kind == ContainerKind::Init
    }

    /// The containers that may be started when they are due.
    fn turn(&self) -> Vec<usize> {
        let idle = |i: &usize| !self.models[*i].starting && !self.models[*i].running && self.models[*i].due.is_some();
        match (0..self.models.len()).find(|i| self.is_init(*i) && !self.models[*i].succeeded) {
            Some(init) => Some(init).into_iter().filter(idle).collect(),
            None => (0..self.models.len()).filter(|i| !self.is_init(*i)).filter(idle).collect(),
        }
    }

    fn alive(&self) -> usize {
        self.models.iter().filter(|m| m.starting || m.running).count()
    }

    fn step(&mut self, event: Event) {
        let before = self.pod.status().phase;
        let now = Duration::from_secs(self.now);
        let actions = self.pod.step(event, Now { boot: now, wall: now });
        assert!(!self.finished || actions.is_empty(), "{actions:?} after Finished");
        for action in actions {
            self.perform(action);
        }
        self.check(before);
    }

    /// Takes an action; it must be one that makes sense now.
    fn perform(&mut self, action: Action) {
        match action {
            Action::CreateSandbox => {
                assert!(!self.creating && !self.sandbox && self.stop.is_none());
                assert!(self.sandbox_due.take().is_none_or(|due| due <= self.now));
                self.creating = true;
            }
            Action::Start { container, restart_count } => {
                assert!(self.sandbox && !self.destroying, "start without a sandbox");
                assert!(self.stop.is_none(), "start after stop");
                assert!(self.models.iter().all(|m| !m.starting), "two starts at a time");
                assert!(self.turn().contains(&container), "not its turn");
                let init_runs = (0..self.models.len()).any(|i| self.is_init(i) && self.models[i].running);
                assert!(!init_runs, "an init container runs");
                let model = &mut self.models[container];
                assert!(model.due.unwrap() <= self.now, "before it is due");
                assert_eq!(restart_count, model.instances);
                if let Some(ended) = model.ended.take() {
                    model.crash = stepped(model.crash, ended, self.now);
                }
                model.starting = true;
                model.signalled = false;
                model.killed = false;
            }
            Action::CancelStart { container } => {
                let model = &self.models[container];
                assert!(model.starting && self.stop.is_some_and(|stop| stop > self.now));
            }
            Action::Signal { container } => {
                let model = &mut self.models[container];
                assert!(model.running && !model.signalled && self.stop.is_some_and(|stop| stop > self.now));
                model.signalled = true;
            }
            Action::Kill { container } => {
                let model = &mut self.models[container];
                assert!(model.running || model.starting);
                // Who comes up when the grace period is over is not given the floor of two seconds.
                let is_late = model.running && self.grace_end.is_some_and(|end| end <= self.now);
                assert!(!model.killed && (is_late || self.stop.is_some_and(|stop| stop <= self.now)));
                assert!(!is_late || !model.signalled || self.stop.is_some_and(|stop| stop <= self.now));
                model.killed = true;
            }
            Action::DestroySandbox => {
                assert!(self.sandbox && !self.destroying && self.alive() == 0);
                self.destroying = true;
            }
            Action::Finished => {
                assert!(!self.sandbox && !self.creating && self.alive() == 0);
                self.finished = true;
            }
            Action::Perform { .. } | Action::TimeOut { .. } => panic!("nobody has probes"),
            Action::Emit(_) => {}
            Action::Run { .. } | Action::Discard { .. } => panic!("it is no commanded pod"),
        }
    }

    /// What must hold after every step.
    fn check(&self, before: Phase) {
        let status = self.pod.status();
        if before.is_terminal() {
            assert_eq!(status.phase, before, "a terminal phase is final");
        }
        let deadline = self.pod.next_deadline().map(|d| d.as_secs());
        assert!(deadline.is_none_or(|d| d > self.now), "a deadline that has passed: {deadline:?} at {}", self.now);
        if status.phase.is_terminal() {
            assert_eq!((self.alive(), deadline), (0, None));
            assert!(self.destroying || self.creating || self.finished);
            return;
        }
        if let Some(stop) = self.stop {
            assert!(self.alive() > 0, "stopped, dead, but not over");
            for model in &self.models {
                assert!(!model.running || model.signalled || model.killed, "not told to end");
                assert!(stop > self.now || model.killed || !(model.running || model.starting), "not killed");
            }
        } else if self.sandbox && self.models.iter().all(|m| !m.starting) {
            // Exactly when it is due, not only not before.
            let due = self.turn().into_iter().map(|i| self.models[i].due.unwrap()).min();
            assert!(due.is_none_or(|due| due > self.now && deadline.unwrap() <= due), "due {due:?}, not started");
        }
        let shown = status.init_container_statuses.iter().chain(&status.container_statuses);
        for (model, shown) in self.models.iter().zip(shown) {
            assert_eq!(shown.state.running.is_some(), model.running);
            assert_eq!(shown.restart_count, model.instances.saturating_sub(1));
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Answer(how) => self.answer(how),
            Op::Exit { which, code, oom_killed } => {
                let running: Vec<usize> = (0..self.models.len()).filter(|i| self.models[*i].running).collect();
                if let Some(container) = running.get(which % running.len().max(1)).copied() {
                    self.ended(container, code, oom_killed);
                    let exit = Exit { code, signal: None, oom_killed, message: String::new() };
                    self.step(Event::Exited { container, exit });
                }
            }
            Op::Deadline => {
                if let Some(deadline) = self.pod.next_deadline() {
                    self.now = deadline.as_secs();
                }
                self.step(Event::Tick);
            }
            Op::Wait(seconds) => {
                self.now += seconds;
                self.step(Event::Tick);
            }
            Op::Stop(grace) => self.stop(Event::Stop { grace: grace.map(Duration::from_secs) }),
            Op::Kill => self.stop(Event::Kill),
        }
    }

    fn stop(&mut self, event: Event) {
        let exact = match &event {
            Event::Stop { grace } => grace.unwrap_or(self.spec.grace).as_secs(),
            _ => 0,
        };
        let grace = if matches!(event, Event::Stop { .. }) { exact.max(2) } else { 0 };
        if event == Event::Kill {
            // Also what was killed before.
            self.models.iter_mut().for_each(|model| model.killed = false);
        }
        if !self.pod.status().phase.is_terminal() {
            self.stop = Some(self.stop.unwrap_or(u64::MAX).min(self.now + grace));
            self.grace_end = Some(self.grace_end.unwrap_or(u64::MAX).min(self.now + exact));
        }
        self.step(event);
    }

    /// Answers the one thing that is asked for, if any.
    fn answer(&mut self, how: usize) {
        let message = String::new();
        if self.creating {
            self.creating = false;
            self.sandbox = how != 1;
            if self.sandbox {
                self.step(Event::SandboxReady { ips: vec![] });
            } else {
                self.sandbox_due = Some(self.now + 10);
                self.step(Event::SandboxFailed { message });
            }
        } else if self.destroying && self.sandbox {
            self.sandbox = false;
            self.step(Event::SandboxGone);
        } else if let Some(container) = self.models.iter().position(|m| m.starting) {
            self.answer_start(container, how);
        }
    }

    fn answer_start(&mut self, container: usize, how: usize) {
        let message = String::new();
        let now = self.now;
        let model = &mut self.models[container];
        let event = match how {
            1 | 2 => {
                model.starting = false;
                let failure = if how == 1 { ImageFailure::Pull } else { ImageFailure::NeverPull };
                model.due = Some(now + 10);
                if how == 1 {
                    model.pull = stepped(model.pull, now, now);
                    model.due = model.pull.map(|(pause, _)| now + pause);
                }
                Event::ImageFailed { container, failure, message }
            }
            3 | 4 => {
                model.starting = false;
                model.due = Some(now + 10);
                let failure = if how == 3 { StartFailure::Config } else { StartFailure::Create };
                Event::StartFailed { container, failure, message }
            }
            5 => {
                self.ended(container, 128, false);
                Event::StartFailed { container, failure: StartFailure::Start { exit_code: 128 }, message }
            }
            _ => {
                model.instances += 1;
                self.step(Event::Created { container, container_id: "c".into(), image_id: "i".into() });
                let model = &mut self.models[container];
                (model.starting, model.running) = (false, true);
                // What was done to the start does not count for the process.
                (model.signalled, model.killed) = (false, false);
                Event::Started { container }
            }
        };
        self.step(event);
    }

    fn ended(&mut self, container: usize, code: i32, oom_killed: bool) {
        let (init, policy, now) = (self.is_init(container), self.spec.restart_policy, self.now);
        let model = &mut self.models[container];
        model.instances += u32::from(model.starting);
        (model.starting, model.running) = (false, false);
        model.ended = Some(now);
        let failed = code != 0 || (init && oom_killed);
        model.succeeded = !failed;
        let again = match policy {
            RestartPolicy::Always => failed || !init,
            RestartPolicy::OnFailure => failed,
            RestartPolicy::Never => false,
        };
        model.due = again.then(|| now + pause(model.crash, now));
    }

    /// From here on all goes well and every container exits 0: the pod must come to its end.
    fn run_out(&mut self) {
        if self.spec.restart_policy == RestartPolicy::Always {
            self.stop(Event::Stop { grace: None });
        }
        for _ in 0..200 {
            self.answer(0);
            self.apply(Op::Exit { which: 0, code: 0, oom_killed: false });
            if self.finished {
                break;
            }
            self.apply(Op::Deadline);
        }
        assert!(self.finished, "{:#?}", self.pod);
        let status = self.pod.status();
        assert!(status.phase.is_terminal());
        assert_eq!(pod_exit_code(&status) == 0, status.phase == Phase::Succeeded);
    }
}

fn empty() -> PodSpec {
    PodSpec {
        name: "p".into(),
        namespace: "ns".into(),
        uid: "u".into(),
        restart_policy: RestartPolicy::Always,
        grace: Duration::ZERO,
        active_deadline: None,
        readiness_gates: vec![],
        containers: vec![],
    }
}

fn at(seconds: u64) -> Now {
    Now { boot: Duration::from_secs(seconds), wall: Duration::from_secs(seconds) }
}

proptest! {
    // About 2 s without optimisation. There is no file of past failures: a failure belongs into `tests` as a case of its own.
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pod_keeps_the_rules_and_comes_to_its_end(spec in pod(), ops in vec(op(), 0..120)) {
        let mut world = World::new(spec);
        for op in ops {
            world.apply(op);
        }
        world.run_out();
    }

    /// A container that goes on ending, after lives of any length.
    #[test]
    fn a_crash_loop_waits_exactly_0_10_20_40_80_160_300(
        kind in prop_oneof![Just(ContainerKind::Init), Just(ContainerKind::Sidecar), Just(ContainerKind::App)],
        lives in vec((prop_oneof![9 => 0u64..100, 1 => 500u64..800], any::<bool>()), 1..40),
    ) {
        let app = ContainerSpec::new("other", ContainerKind::App, "img");
        let spec = PodSpec { containers: vec![ContainerSpec::new("c", kind, "img"), app], ..empty() };
        let mut pod = PodState::new(spec, at(0));
        pod.step(Event::Begin, at(0));
        pod.step(Event::SandboxReady { ips: vec![] }, at(0));
        let start = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Start { container: 0, .. }));
        // The restarts so far that count; the last one's time.
        let (mut now, mut steps, mut stepped) = (0, 0, 0);
        for (life, fails) in lives {
            for container in 0..2 {
                // Of the other one only the first start is waited for.
                pod.step(Event::Created { container, container_id: "c".into(), image_id: "i".into() }, at(now));
                pod.step(Event::Started { container }, at(now));
            }
            now += life;
            if now - stepped > 600 {
                steps = 0;
            }
            // An init container that has done its work would not come again.
            let code = i32::from(fails || kind == ContainerKind::Init);
            let exit = Exit { code, signal: None, oom_killed: false, message: String::new() };
            let mut actions = pod.step(Event::Exited { container: 0, exit }, at(now));
            let expected = [0, 10, 20, 40, 80, 160, 300][steps.min(6)];
            if expected > 0 {
                prop_assert!(!start(&actions), "before its time");
                prop_assert_eq!(pod.next_deadline(), Some(at(now + expected).boot));
                actions = pod.step(Event::Tick, at(now + expected - 1));
                prop_assert!(!start(&actions), "before its time");
                actions = pod.step(Event::Tick, at(now + expected));
            }
            prop_assert!(start(&actions), "after {} restarts", steps);
            now += expected;
            (steps, stepped) = (steps + 1, now);
        }
    }

    #[test]
    fn a_stored_pod_is_the_same_pod(spec in pod(), ops in vec(op(), 0..20)) {
        let mut world = World::new(spec);
        for op in ops {
            world.apply(op);
        }
        let stored = serde_json::to_string(&world.pod).unwrap();
        prop_assert_eq!(serde_json::from_str::<PodState>(&stored).unwrap(), world.pod);
    }
}
