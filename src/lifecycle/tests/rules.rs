//! §4: container-level restart policies, rules, and `RestartAllContainers`.

use super::*;

fn rule(action: RestartAction, operator: ExitCodeOperator, codes: &[i32]) -> RestartRule {
    RestartRule { action, operator, codes: codes.to_vec() }
}

fn restarts(spec: ContainerSpec, policy: RestartPolicy, rules: Vec<RestartRule>) -> ContainerSpec {
    ContainerSpec { restart: ContainerRestart { policy: Some(policy), rules }, ..spec }
}

/// Restarts all containers after exit code 42.
fn all_after_42(spec: ContainerSpec) -> ContainerSpec {
    restarts(spec, Never, vec![rule(RestartAction::RestartAllContainers, ExitCodeOperator::In, &[42])])
}

#[test]
fn s4_the_containers_own_policy_goes_before_the_pods() {
    for (own, pod, code, again) in [
        (Always, Never, 0, true),
        (OnFailure, Never, 1, true),
        (OnFailure, Always, 0, false),
        (Never, Always, 1, false),
    ] {
        let mut sim = Sim::of_containers(pod, vec![restarts(app("a"), own, vec![]), app("b")]);
        sim.started(0);
        sim.started(1);
        let expected: &[Action] = if again { &[start(0, 1)] } else { &[] };
        assert_eq!(sim.exited(0, code), expected, "{own:?} over {pod:?}, {code}");
    }
}

#[test]
fn s2_an_init_containers_own_policy() {
    let mut sim = Sim::of_containers(Always, vec![restarts(init("i"), Never, vec![]), app("a")]);
    sim.started(0);
    assert_eq!(sim.exited(0, 1), [Action::DestroySandbox]);
    assert_eq!(sim.phase(), Phase::Failed);
    let mut sim = Sim::of_containers(Never, vec![restarts(init("i"), OnFailure, vec![]), app("a")]);
    sim.started(0);
    assert_eq!(sim.exited(0, 1), [start(0, 1)]);
}

#[test]
fn s4_the_first_rule_that_matches_decides() {
    use ExitCodeOperator::{In, NotIn};
    let again = |operator, codes: &[i32]| rule(RestartAction::Restart, operator, codes);
    let rows = [
        ("in", vec![again(In, &[1, 2])], 2, true),
        ("not among them", vec![again(In, &[1, 2])], 3, false),
        ("not in", vec![again(NotIn, &[0])], 3, true),
        ("not in, but it is", vec![again(NotIn, &[0, 3])], 3, false),
        ("the second one", vec![again(In, &[1]), again(In, &[3])], 3, true),
        ("zero, too", vec![again(In, &[0])], 0, true),
    ];
    for (name, rules, code, restarted) in rows {
        let mut sim = Sim::of_containers(Always, vec![restarts(app("a"), Never, rules), app("b")]);
        sim.started(0);
        sim.started(1);
        let expected: &[Action] = if restarted { &[start(0, 1)] } else { &[] };
        assert_eq!(sim.exited(0, code), expected, "{name}");
    }
}

#[test]
fn s4_restarts_by_a_rule_are_backed_off() {
    let rules = vec![rule(RestartAction::Restart, ExitCodeOperator::In, &[7])];
    let mut sim = Sim::of_containers(Never, vec![restarts(app("a"), Never, rules)]);
    sim.started(0);
    sim.exited(0, 7);
    sim.started(0);
    assert_eq!(sim.exited(0, 7), []);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(0, 2)][..]));
}

/// `i0 s1 | a2 b3`, running; a2 restarts all after 42.
fn running() -> Sim {
    let containers = vec![init("i0"), sidecar("s1"), all_after_42(app("a2")), app("b3")];
    let mut sim = Sim::of_containers(Always, containers);
    sim.started(0);
    sim.exited(0, 0);
    sim.all_started(1..4);
    sim
}

#[test]
fn s4_all_containers_are_ended_and_the_init_sequence_runs_again() {
    let mut sim = running();
    assert_eq!(sim.exited(2, 42), [signal(1), signal(3)], "all at once, sidecars too");
    assert_eq!(sim.condition("AllContainersRestarting"), "True");
    assert_eq!(sim.waiting("a2"), "RestartingAllContainers: ");
    assert_eq!((sim.tick(), sim.asked.as_slice()), (2, &[kill(1), kill(3)][..]), "a grace of 0 is two seconds");
    assert_eq!(sim.exited(1, 137), []);
    assert_eq!(sim.exited(3, 137), [start(0, 1)], "at once, from the first one");
    assert_eq!(sim.condition("AllContainersRestarting"), "False");
    assert_eq!((sim.phase(), sim.condition("Initialized")), (Phase::Pending, "True".into()));
    for name in ["i0", "s1", "a2", "b3"] {
        let last = sim.of(name).last_state.terminated.unwrap();
        assert_eq!((last.reason.as_str(), last.exit_code), ("RestartingAllContainers", 137), "{name}");
    }
    sim.started(0);
    assert_eq!(sim.exited(0, 0), [start(1, 1)]);
    assert_eq!(sim.started(1), [start(2, 1)]);
    assert_eq!(sim.started(2), [start(3, 1)]);
    sim.started(3);
    assert_eq!((sim.phase(), sim.condition("Ready")), (Phase::Running, "True".into()));
    assert!(["i0", "s1", "a2", "b3"].iter().all(|name| sim.of(name).restart_count == 1));
    assert!(sim.status().pod_ip.is_some());
}

#[test]
fn s4_restarting_all_runs_no_pre_stop_hook_and_cuts_short_what_is_under_way() {
    let hooked = |name| ContainerSpec { pre_stop: Some(Hook::Perform), ..app(name) };
    let mut unhealthy = hooked("c");
    unhealthy.probes.liveness = Some(ProbeTiming { failure_threshold: 1, ..every_second() });
    let mut sim = Sim::of_containers(Always, vec![all_after_42(app("a")), hooked("b"), unhealthy]);
    sim.all_started(0..3);
    // The hook of one runs already.
    sim.performed(2, Task::LivenessProbe, failure());
    assert_eq!(sim.asked, [perform(2, Task::PreStop)]);
    assert_eq!(sim.exited(0, 42), [signal(1), signal(2)]);
    assert_eq!(sim.tick(), 2);
}

#[test]
fn s4_a_start_under_way_is_cancelled_and_what_waits_is_not_waited_for() {
    let mut sim = Sim::of_containers(Always, vec![all_after_42(app("a")), app("b"), app("c")]);
    sim.started(0);
    sim.started(1);
    sim.started(2);
    sim.exited(1, 1);
    sim.started(1);
    sim.exited(1, 1);
    assert!(sim.waiting("b").starts_with("CrashLoopBackOff"));
    sim.exited(2, 1);
    assert_eq!(sim.asked, [start(2, 1)]);
    assert_eq!(sim.exited(0, 42), [Action::CancelStart { container: 2 }]);
    let told = sim.events.len();
    assert_eq!(sim.start_failed(2, StartFailure::Create), [start(0, 1)], "and c's start is not tried again");
    assert_eq!(sim.events.len(), told, "that it failed was wanted");
    assert_eq!(sim.started(0), [start(1, 2)], "b's back-off is forgotten");
}

#[test]
fn s4_a_start_that_is_too_late_to_cancel_is_ended() {
    let mut sim = Sim::of_containers(Always, vec![all_after_42(app("a")), app("b")]);
    sim.started(0);
    assert_eq!(sim.exited(0, 42), [Action::CancelStart { container: 1 }]);
    assert_eq!(sim.started(1), [signal(1)]);
    assert_eq!(sim.exited(1, 143), [start(0, 1)]);
}

#[test]
fn s4_init_containers_and_sidecars_can_restart_all_too() {
    let mut sim = Sim::of_containers(Always, vec![init("i"), all_after_42(init("j")), app("a")]);
    sim.started(0);
    sim.exited(0, 0);
    sim.started(1);
    assert_eq!(sim.exited(1, 42), [start(0, 1)]);
    let s = ContainerSpec { kind: ContainerKind::Sidecar, ..all_after_42(app("s")) };
    let mut sim = Sim::of_containers(Always, vec![init("i"), s, app("a")]);
    sim.started(0);
    sim.exited(0, 0);
    sim.started(1);
    sim.started(2);
    assert_eq!(sim.exited(1, 1), [start(1, 1)], "another code is a restart like any other");
    sim.started(1);
    assert_eq!(sim.exited(1, 42), [signal(2)]);
    assert_eq!(sim.exited(2, 0), [start(0, 1)]);
}

#[test]
fn s4_restarting_all_is_never_backed_off() {
    let mut sim = Sim::of_containers(Never, vec![all_after_42(app("a"))]);
    sim.started(0);
    for count in 1..10 {
        assert_eq!(sim.exited(0, 42), [start(0, count)]);
        sim.started(0);
    }
    assert_eq!(sim.exited(0, 1), [Action::DestroySandbox], "and the rule is for its codes only");
}

#[test]
fn s4_the_pods_end_goes_before_a_restart_of_all() {
    let mut sim = running();
    sim.exited(2, 42);
    assert_eq!(sim.step(stop(Some(30))), []);
    assert_eq!(sim.condition("AllContainersRestarting"), "False");
    assert_eq!(sim.terminated("a2"), "Error 42", "it waits for nothing any more");
    sim.exited(1, 0);
    assert_eq!(sim.exited(3, 0), [Action::DestroySandbox]);
    assert_eq!((sim.phase(), pod_exit_code(&sim.status())), (Phase::Failed, 42));
    let mut sim = running();
    sim.step(stop(None));
    assert_eq!(sim.exited(2, 42), [], "nothing is restarted any more");
}

#[test]
fn s4_ephemeral_containers_are_not_restarted_with_all() {
    let mut sim = running();
    sim.step(Event::Join(Box::new(ContainerSpec::new("e4", ContainerKind::Ephemeral, "img"))));
    sim.started(4);
    assert_eq!(sim.exited(2, 42), [signal(1), signal(3)]);
    sim.exited(1, 0);
    assert_eq!(sim.exited(3, 0), [start(0, 1)]);
    assert!(sim.of("e4").state.running.is_some());
}
