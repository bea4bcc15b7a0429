//! One test per rule; the names begin with the section of pod-api.md that has it.

mod backoff;
mod changes;
mod deadline;
mod evicted;
mod hooks;
mod loss;
mod probes;
mod rules;
mod sidecars;
mod stop;

use super::status::{ConditionStatus, ContainerStatus, Phase, PodStatus, Time};
use super::*;
use RestartPolicy::{Always, Never, OnFailure};

/// The wall clock at boot time 0: 2024-01-01T00:00:00Z.
const EPOCH: u64 = 1_704_067_200;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A pod and its clock, with just enough of a supervisor.
struct Sim {
    pod: PodState,
    /// Seconds since boot.
    now: u64,
    /// What the last step asked for, without the events.
    asked: Vec<Action>,
    /// All events so far: `reason: message`.
    events: Vec<String>,
}

impl Sim {
    /// `names` such as `"init1 init2 | app1 app2"`; the sandbox is ready.
    fn new(policy: RestartPolicy, names: &str) -> Self {
        let mut sim = Sim::fresh(policy, names);
        sim.step(Event::Begin);
        assert_eq!(sim.asked, [Action::CreateSandbox]);
        sim.step(Event::SandboxReady { ips: vec!["10.0.0.2".into()] });
        sim
    }

    fn fresh(restart_policy: RestartPolicy, names: &str) -> Self {
        let (init, app) = names.split_once('|').unwrap_or(("", names));
        let of = |names: &str, kind| {
            let names: Vec<&str> = names.split_whitespace().collect();
            names.into_iter().map(move |n| ContainerSpec::new(n, kind, "img")).collect()
        };
        let containers: [Vec<ContainerSpec>; 2] = [of(init, ContainerKind::Init), of(app, ContainerKind::App)];
        Sim::admitted(pod_of(restart_policy, containers.concat()))
    }

    fn admitted(spec: PodSpec) -> Self {
        let pod = PodState::new(spec, Now { boot: secs(0), wall: secs(EPOCH) });
        Sim { pod, now: 0, asked: vec![], events: vec![] }
    }

    /// A pod of these containers; the sandbox is ready.
    fn of_containers(policy: RestartPolicy, containers: Vec<ContainerSpec>) -> Self {
        Sim::with_sandbox(pod_of(policy, containers))
    }

    fn with_sandbox(spec: PodSpec) -> Self {
        let mut sim = Sim::admitted(spec);
        sim.step(Event::Begin);
        sim.step(Event::SandboxReady { ips: vec!["10.0.0.2".into()] });
        sim
    }

    /// Answers a task.
    fn performed(&mut self, container: usize, task: Task, outcome: Outcome) -> &[Action] {
        self.step(Event::Performed { container, task, outcome })
    }

    /// The last event, `reason: message`.
    fn last_event(&self) -> &str {
        self.events.last().map_or("", String::as_str)
    }

    fn step(&mut self, event: Event) -> &[Action] {
        let now = Now { boot: secs(self.now), wall: secs(EPOCH + self.now) };
        self.asked.clear();
        for action in self.pod.step(event, now) {
            match action {
                Action::Emit(event) => self.events.push(format!("{}: {}", event.reason, event.message)),
                action => self.asked.push(action),
            }
        }
        &self.asked
    }

    fn at(&mut self, now: u64, event: Event) -> &[Action] {
        self.now = now;
        self.step(event)
    }

    fn created(&mut self, container: usize) -> &[Action] {
        let (container_id, image_id) = (format!("podshim://c{container}"), "sha256:i".to_owned());
        self.step(Event::Created { container, container_id, image_id })
    }

    fn started(&mut self, container: usize) -> &[Action] {
        self.created(container);
        self.step(Event::Started { container })
    }

    fn all_started(&mut self, containers: std::ops::Range<usize>) {
        for container in containers {
            self.started(container);
        }
    }

    fn exited(&mut self, container: usize, code: i32) -> &[Action] {
        self.step(Event::Exited { container, exit: exit(code) })
    }

    fn start_failed(&mut self, container: usize, failure: StartFailure) -> &[Action] {
        self.step(Event::StartFailed { container, failure, message: "oh".into() })
    }

    fn pull_failed(&mut self, container: usize, failure: ImageFailure) -> &[Action] {
        self.step(Event::ImageFailed { container, failure, message: "no route".into() })
    }

    /// Waits for the next deadline; returns the seconds waited.
    fn tick(&mut self) -> u64 {
        let deadline = self.pod.next_deadline().expect("a deadline").as_secs();
        let waited = deadline - self.now;
        self.at(deadline, Event::Tick);
        waited
    }

    fn status(&self) -> PodStatus {
        self.pod.status()
    }

    fn phase(&self) -> Phase {
        self.status().phase
    }

    /// The status of a container, by name.
    fn of(&self, name: &str) -> ContainerStatus {
        let status = self.status();
        let all = status.init_container_statuses.into_iter().chain(status.container_statuses);
        let mut all = all.chain(status.ephemeral_container_statuses);
        all.find(|c| c.name == name).unwrap()
    }

    /// `state.waiting` as `reason: message`.
    fn waiting(&self, name: &str) -> String {
        self.of(name).state.waiting.map(|w| format!("{}: {}", w.reason, w.message)).unwrap_or_default()
    }

    /// `reason exitCode` of `state.terminated`.
    fn terminated(&self, name: &str) -> String {
        self.of(name).state.terminated.map(|t| format!("{} {}", t.reason, t.exit_code)).unwrap_or_default()
    }

    /// `True`, `True Reason` or `False Reason message`.
    fn condition(&self, type_: &str) -> String {
        let condition = self.status().conditions.into_iter().find(|c| c.type_ == type_).unwrap();
        format!("{:?} {} {}", condition.status, condition.reason, condition.message).trim_end().to_owned()
    }
}

fn pod_of(restart_policy: RestartPolicy, containers: Vec<ContainerSpec>) -> PodSpec {
    PodSpec {
        name: "p".into(),
        namespace: "ns".into(),
        uid: "u1".into(),
        restart_policy,
        grace: secs(30),
        active_deadline: None,
        readiness_gates: vec![],
        containers,
    }
}

fn init(name: &str) -> ContainerSpec {
    ContainerSpec::new(name, ContainerKind::Init, "img")
}

fn sidecar(name: &str) -> ContainerSpec {
    ContainerSpec::new(name, ContainerKind::Sidecar, "img")
}

fn app(name: &str) -> ContainerSpec {
    ContainerSpec::new(name, ContainerKind::App, "img")
}

/// The API's default numbers of a probe, with a period of 1 s.
fn every_second() -> ProbeTiming {
    ProbeTiming {
        initial_delay: secs(0),
        period: secs(1),
        timeout: secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        grace: None,
    }
}

fn failure() -> Outcome {
    Outcome::Failure("no".into())
}

fn perform(container: usize, task: Task) -> Action {
    Action::Perform { container, task }
}

fn signal(container: usize) -> Action {
    Action::Signal { container }
}

fn kill(container: usize) -> Action {
    Action::Kill { container }
}

fn stop(grace: Option<u64>) -> Event {
    Event::Stop { grace: grace.map(secs) }
}

fn exit(code: i32) -> Exit {
    Exit { code, signal: None, oom_killed: false, message: String::new() }
}

fn start(container: usize, restart_count: u32) -> Action {
    Action::Start { container, restart_count }
}

#[test]
fn s1_app_containers_start_in_order_each_after_the_other_ones_answer() {
    let mut sim = Sim::new(Always, "a b c");
    assert_eq!(sim.asked, [start(0, 0)]);
    assert_eq!(sim.pod.next_deadline(), None, "nothing is due while a start is under way");
    assert_eq!(sim.started(0), [start(1, 0)]);
    assert_eq!(sim.start_failed(1, StartFailure::Config), [start(2, 0)], "a failure does not stop the others");
    assert_eq!(sim.started(2), []);
    assert_eq!(sim.waiting("b"), "CreateContainerConfigError: oh");
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(1, 0)][..]));
}

#[test]
fn s1_the_next_one_is_known_while_it_waits_for_its_turn_only() {
    let mut sim = Sim::fresh(OnFailure, "i0 i1 | a2 b3");
    sim.step(Event::Begin);
    assert_eq!(sim.pod.comes_next(), None, "there is no sandbox");
    sim.step(Event::SandboxReady { ips: vec![] });
    assert_eq!(sim.pod.comes_next(), Some(1), "its start is under way");
    sim.started(0);
    assert_eq!(sim.pod.comes_next(), Some(1), "it runs to its end");
    assert_eq!(sim.exited(0, 1), [start(0, 1)], "at once");
    sim.started(0);
    sim.exited(0, 1);
    assert_eq!(sim.pod.comes_next(), None, "it waits for its back-off");
    sim.tick();
    sim.started(0);
    assert_eq!(sim.exited(0, 0), [start(1, 0)]);
    assert_eq!(sim.pod.comes_next(), Some(2));
    sim.started(1);
    assert_eq!(sim.exited(1, 0), [start(2, 0)]);
    assert_eq!(sim.pod.comes_next(), Some(3));
    assert_eq!(sim.started(2), [start(3, 0)]);
    assert_eq!(sim.pod.comes_next(), None, "nothing comes after the last one");
    let mut sim = Sim::new(Never, "i0 | a1");
    sim.step(stop(None));
    assert_eq!(sim.pod.comes_next(), None, "the pod ends");
}

#[test]
fn s1_a_sandbox_that_fails_is_tried_again_after_10s() {
    let mut sim = Sim::fresh(Never, "a");
    assert_eq!(sim.step(Event::Tick), [], "nothing before Begin");
    sim.step(Event::Begin);
    assert_eq!(sim.step(Event::SandboxFailed { message: "no bridge".into() }), []);
    assert_eq!(sim.events, ["FailedCreatePodSandBox: Failed to create pod sandbox: no bridge"]);
    assert_eq!((sim.phase(), sim.waiting("a")), (Phase::Pending, "ContainerCreating: ".into()));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[Action::CreateSandbox][..]));
    assert_eq!(sim.step(Event::SandboxReady { ips: vec![] }), [start(0, 0)]);
}

#[test]
fn s2_init_containers_run_one_after_the_other_then_the_apps() {
    let mut sim = Sim::new(Always, "i1 i2 | a b");
    assert_eq!(sim.asked, [start(0, 0)]);
    assert_eq!(sim.started(0), []);
    assert_eq!((sim.phase(), sim.waiting("a")), (Phase::Pending, "PodInitializing: ".into()));
    assert_eq!(sim.exited(0, 0), [start(1, 0)]);
    assert!(sim.of("i1").ready && !sim.of("i2").ready);
    sim.started(1);
    assert_eq!(sim.exited(1, 0), [start(2, 0)]);
    assert_eq!(sim.condition("Initialized"), "True");
    assert_eq!(sim.started(2), [start(3, 0)]);
    assert_eq!(sim.phase(), Phase::Pending, "b has not started yet");
    sim.started(3);
    assert_eq!(sim.phase(), Phase::Running);
    assert_eq!(sim.exited(2, 1), [start(2, 1)], "init containers are not run again");
}

#[test]
fn s2_a_failed_init_container_is_retried_unless_never() {
    for (policy, oom, code, retried) in [
        (Always, false, 1, true),
        (OnFailure, false, 1, true),
        (Never, false, 1, false),
        (OnFailure, true, 0, true),
        (Never, true, 0, false),
    ] {
        let name = format!("{policy:?} oom={oom} code={code}");
        let mut sim = Sim::new(policy, "i | a");
        sim.started(0);
        let asked = sim.step(Event::Exited { container: 0, exit: Exit { oom_killed: oom, ..exit(code) } });
        if retried {
            assert_eq!(asked, [start(0, 1)], "{name}");
            assert_eq!(sim.phase(), Phase::Pending, "{name}");
        } else {
            assert_eq!(asked, [Action::DestroySandbox], "{name}");
            assert_eq!(sim.phase(), Phase::Failed, "{name}");
            assert_eq!(pod_exit_code(&sim.status()), if oom { 137 } else { 1 }, "{name}");
            assert_eq!(sim.waiting("a"), "PodInitializing: ", "{name}: it never ran");
        }
    }
}

#[test]
fn s4_restart_policy() {
    for (policy, code, restarted, phase) in [
        (Always, 0, true, Phase::Running),
        (Always, 1, true, Phase::Running),
        (OnFailure, 0, false, Phase::Succeeded),
        (OnFailure, 1, true, Phase::Running),
        (Never, 0, false, Phase::Succeeded),
        (Never, 1, false, Phase::Failed),
    ] {
        let mut sim = Sim::new(policy, "a");
        sim.started(0);
        let expected = if restarted { start(0, 1) } else { Action::DestroySandbox };
        assert_eq!(sim.exited(0, code), [expected], "{policy:?} {code}");
        assert_eq!(sim.phase(), phase, "{policy:?} {code}");
    }
}

#[test]
fn s4_the_pod_ends_when_its_last_container_does() {
    let mut sim = Sim::new(OnFailure, "a b");
    sim.started(0);
    sim.started(1);
    assert_eq!(sim.exited(0, 0), []);
    assert_eq!(
        (sim.phase(), sim.condition("Ready")),
        (Phase::Running, "False ContainersNotReady containers with unready status: [a]".into())
    );
    assert_eq!(sim.exited(1, 0), [Action::DestroySandbox]);
    assert_eq!(sim.step(Event::SandboxGone), [Action::Finished]);
    assert_eq!(sim.step(Event::SandboxGone), []);
    assert_eq!((sim.phase(), sim.pod.next_deadline()), (Phase::Succeeded, None));
}

#[test]
fn s11_the_termination_message_is_shown() {
    let mut sim = Sim::new(Never, "a");
    sim.started(0);
    sim.at(5, Event::Exited { container: 0, exit: Exit { message: "disk full".into(), ..exit(3) } });
    let ended = sim.of("a").state.terminated.unwrap();
    assert_eq!((ended.message.as_str(), ended.exit_code), ("disk full", 3));
    assert_eq!(ended.finished_at, Some(Time((EPOCH + 5) as i64)));
    assert_eq!(ended.container_id, "podshim://c0");
}

#[test]
fn s21_conditions() {
    let mut sim = Sim::fresh(OnFailure, "i | a");
    let all = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let has = |sim: &Sim| all.map(|type_| sim.condition(type_));
    let no_init = "False ContainersNotInitialized containers with incomplete status: [i]";
    let unready = "False ContainersNotReady containers with unready status: [a]";
    assert_eq!(has(&sim), ["False", no_init, unready, unready, "True"]);
    sim.step(Event::Begin);
    sim.at(1, Event::SandboxReady { ips: vec![] });
    assert_eq!(has(&sim), ["True", no_init, unready, unready, "True"]);
    sim.started(0);
    sim.now = 2;
    sim.exited(0, 0);
    assert_eq!(has(&sim), ["True", "True", unready, unready, "True"]);
    sim.now = 3;
    sim.started(1);
    assert_eq!(has(&sim), ["True", "True", "True", "True", "True"]);
    let since: Vec<u64> = sim.status().conditions.iter().map(|c| c.last_transition_time.0 as u64 - EPOCH).collect();
    assert_eq!(since, [1, 2, 3, 3, 0]);
    sim.now = 4;
    sim.exited(1, 0);
    let done = "False PodCompleted";
    assert_eq!(has(&sim), ["False", "True PodCompleted", done, done, "True"]);
    let initialized = &sim.status().conditions[1];
    assert_eq!(initialized.status, ConditionStatus::True);
    assert_eq!(initialized.last_transition_time, Time((EPOCH + 2) as i64), "another reason is no transition");
}

#[test]
fn s21_conditions_of_a_failed_pod() {
    let mut sim = Sim::new(Never, "a");
    sim.started(0);
    sim.exited(0, 1);
    assert_eq!(
        (sim.condition("Ready"), sim.condition("ContainersReady")),
        ("False PodFailed".into(), "False PodFailed".into())
    );
}

#[test]
fn s22_reasons_of_a_terminated_container() {
    for (how, reason, code) in [
        (exit(0), "Completed", 0),
        (exit(1), "Error", 1),
        (Exit { signal: Some(15), ..exit(0) }, "Error", 143),
        (Exit { signal: Some(9), oom_killed: true, ..exit(0) }, "OOMKilled", 137),
        (Exit { oom_killed: true, ..exit(0) }, "OOMKilled", 0),
    ] {
        let mut sim = Sim::new(Never, "a");
        sim.started(0);
        sim.step(Event::Exited { container: 0, exit: how });
        assert_eq!(sim.terminated("a"), format!("{reason} {code}"));
        assert_eq!(pod_exit_code(&sim.status()), code as u8);
    }
}

#[test]
fn s22_a_command_that_cannot_be_executed() {
    let failure = StartFailure::Start { exit_code: 128 };
    let mut sim = Sim::new(Always, "a");
    assert_eq!(sim.start_failed(0, failure), [start(0, 1)]);
    assert_eq!(sim.waiting("a"), "RunContainerError: oh");
    assert_eq!(sim.events, ["Failed: Error: oh"]);
    let last = sim.of("a").last_state.terminated.unwrap();
    assert_eq!((last.reason.as_str(), last.exit_code, last.message.as_str()), ("StartError", 128, "oh"));
    assert_eq!((last.started_at, last.finished_at), (None, Some(Time(EPOCH as i64))));
    assert_eq!(sim.start_failed(0, failure), []);
    assert!(sim.waiting("a").starts_with("CrashLoopBackOff: back-off 10s"));
    assert_eq!((sim.tick(), sim.phase()), (10, Phase::Running));

    let mut sim = Sim::new(Never, "a");
    assert_eq!(sim.start_failed(0, failure), [Action::DestroySandbox]);
    assert_eq!((sim.terminated("a"), sim.phase()), ("StartError 128".into(), Phase::Failed));
    assert_eq!(pod_exit_code(&sim.status()), 128);
}

#[test]
fn s22_a_container_that_cannot_be_created_is_tried_every_10s_even_under_never() {
    for (failure, reason) in
        [(StartFailure::Config, "CreateContainerConfigError"), (StartFailure::Create, "CreateContainerError")]
    {
        let mut sim = Sim::new(Never, "a");
        for _ in 0..3 {
            assert_eq!(sim.start_failed(0, failure), []);
            assert_eq!((sim.waiting("a"), sim.phase()), (format!("{reason}: oh"), Phase::Pending));
            assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(0, 0)][..]), "no instance: no restart");
        }
    }
}

#[test]
fn the_events_of_a_start_name_their_container() {
    let mut sim = Sim::new(Never, "a b");
    let now = Now { boot: secs(0), wall: secs(EPOCH) };
    sim.started(0);
    let created = Event::Created { container: 1, container_id: "x".into(), image_id: "y".into() };
    let event = PodEvent {
        type_: EventType::Normal,
        reason: "Created".into(),
        message: "Container created".into(),
        container: Some(1),
    };
    assert_eq!(sim.pod.step(created, now), [Action::Emit(event)]);
    assert_eq!(sim.events, ["Created: Container created", "Started: Container started"]);
}

#[test]
fn events_that_do_not_fit_change_nothing() {
    let mut sim = Sim::new(Always, "a b");
    sim.started(0);
    sim.started(1);
    let before = sim.pod.clone();
    for event in [
        Event::Begin,
        Event::Tick,
        Event::SandboxReady { ips: vec![] },
        Event::SandboxFailed { message: String::new() },
        Event::SandboxGone,
        Event::Started { container: 0 },
        Event::StartFailed { container: 0, failure: StartFailure::Create, message: String::new() },
        Event::ImageFailed { container: 1, failure: ImageFailure::Pull, message: String::new() },
        Event::Exited { container: 2, exit: exit(0) },
        Event::Started { container: 9 },
    ] {
        assert_eq!(sim.step(event.clone()), [], "{event:?}");
        assert_eq!(sim.pod, before, "{event:?}");
    }
}

#[test]
fn the_status_is_kubernetes_json() {
    let mut sim = Sim::new(Always, "i | a");
    sim.started(0);
    sim.now = 1;
    sim.exited(0, 0);
    sim.started(1);
    let mut json = serde_json::to_value(sim.status()).unwrap();
    assert_eq!(
        json["conditions"].as_array_mut().map(std::mem::take).unwrap()[1],
        serde_json::json!({
            "type": "Initialized", "status": "True", "lastTransitionTime": "2024-01-01T00:00:01Z"
        })
    );
    let expected = serde_json::json!({
        "phase": "Running", "conditions": [], "startTime": "2024-01-01T00:00:00Z",
        "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}],
        "initContainerStatuses": [{
            "name": "i", "ready": true, "restartCount": 0, "started": false, "lastState": {},
            "image": "img", "imageID": "sha256:i", "containerID": "podshim://c0",
            "state": {"terminated": {
                "exitCode": 0, "reason": "Completed", "containerID": "podshim://c0",
                "startedAt": "2024-01-01T00:00:00Z", "finishedAt": "2024-01-01T00:00:01Z",
            }},
        }],
        "containerStatuses": [{
            "name": "a", "ready": true, "restartCount": 0, "started": true, "lastState": {},
            "image": "img", "imageID": "sha256:i", "containerID": "podshim://c1",
            "state": {"running": {"startedAt": "2024-01-01T00:00:01Z"}},
        }],
    });
    assert_eq!(json, expected);
    let status: PodStatus = serde_json::from_value(serde_json::to_value(sim.status()).unwrap()).unwrap();
    assert_eq!(status, sim.status());
    assert!(serde_json::from_value::<Time>("yesterday".into()).is_err());
}

#[test]
fn a_pod_can_be_stored_and_goes_on_where_it_was() {
    let mut sim = Sim::new(Always, "a");
    sim.started(0);
    sim.exited(0, 1);
    sim.started(0);
    sim.exited(0, 1);
    let stored = serde_json::to_string(&sim.pod).unwrap();
    assert_eq!(serde_json::from_str::<PodState>(&stored).unwrap(), sim.pod);
}

#[test]
fn the_exit_code_is_the_first_failed_containers() {
    for (names, codes, expected) in [
        ("a b", vec![0, 0], 0),
        ("b a", vec![3, 4], 3),
        ("a b", vec![0, 4], 4),
        ("a", vec![300], 255),
        ("i | a", vec![7], 7),
        ("i | a", vec![0, 8], 8),
    ] {
        let mut sim = Sim::new(Never, names);
        for (index, code) in codes.iter().enumerate() {
            sim.started(index);
            if names.contains('|') {
                sim.exited(index, *code);
            }
        }
        for (index, code) in codes.iter().enumerate() {
            sim.exited(index, *code);
        }
        assert_eq!(pod_exit_code(&sim.status()), expected, "{names} {codes:?}");
    }
}
