//! §3: native sidecars.

use super::*;

/// A pod `i0 s1 i2 | a3`, nothing started but i0.
fn sim(policy: RestartPolicy) -> Sim {
    Sim::of_containers(policy, vec![init("i0"), sidecar("s1"), init("i2"), app("a3")])
}

/// The same, all started.
fn running(policy: RestartPolicy) -> Sim {
    let mut sim = sim(policy);
    sim.started(0);
    sim.exited(0, 0);
    sim.started(1);
    sim.started(2);
    sim.exited(2, 0);
    sim.started(3);
    sim
}

#[test]
fn s3_a_sidecar_starts_in_its_turn_and_lets_the_sequence_go_on() {
    let mut sim = sim(Always);
    assert_eq!(sim.asked, [start(0, 0)]);
    sim.started(0);
    assert_eq!(sim.exited(0, 0), [start(1, 0)]);
    assert_eq!(
        sim.condition("Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [s1 i2]"
    );
    assert_eq!(sim.started(1), [start(2, 0)], "started is enough, it need not end");
    assert_eq!(sim.condition("Initialized"), "False ContainersNotInitialized containers with incomplete status: [i2]");
    sim.started(2);
    assert_eq!(sim.exited(2, 0), [start(3, 0)]);
    assert_eq!(sim.condition("Initialized"), "True");
    sim.started(3);
    assert_eq!((sim.phase(), sim.condition("Ready")), (Phase::Running, "True".into()));
    assert!(sim.of("s1").started && sim.of("s1").ready && sim.of("s1").state.running.is_some());
}

#[test]
fn s3_a_startup_probe_holds_the_sequence_and_liveness_does_not() {
    let mut slow = sidecar("s");
    slow.probes.startup = Some(every_second());
    slow.probes.readiness = Some(every_second());
    let mut sim = Sim::of_containers(Always, vec![slow, app("a")]);
    assert_eq!(sim.started(0), [perform(0, Task::StartupProbe)]);
    assert!(!sim.of("s").started && sim.of("s").state.running.is_some());
    sim.performed(0, Task::StartupProbe, failure());
    sim.tick();
    assert_eq!(
        sim.performed(0, Task::StartupProbe, Outcome::Success),
        [start(1, 0), perform(0, Task::ReadinessProbe)],
        "readiness is asked at once, and does not gate"
    );
    sim.started(1);
    assert_eq!(sim.condition("Initialized"), "True");
    assert_eq!(sim.condition("Ready"), "False ContainersNotReady containers with unready status: [s]");
    sim.performed(0, Task::ReadinessProbe, Outcome::Success);
    assert_eq!(sim.condition("Ready"), "True");
}

#[test]
fn s3_a_sidecar_is_restarted_whatever_the_policy_and_its_code() {
    for policy in [Always, OnFailure, Never] {
        for code in [0, 1] {
            // While a later init container runs …
            let mut sim = sim(policy);
            sim.started(0);
            sim.exited(0, 0);
            sim.started(1);
            sim.started(2);
            assert_eq!(sim.exited(1, code), [start(1, 1)], "{policy:?} {code}");
            sim.started(1);
            assert_eq!(sim.exited(2, 0), [start(3, 0)], "{policy:?} {code}");
            // … and later, with the back-off of any container.
            sim.started(3);
            assert_eq!(sim.exited(1, code), [], "{policy:?} {code}");
            assert!(sim.waiting("s1").starts_with("CrashLoopBackOff: back-off 10s"), "{policy:?} {code}");
            assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(1, 2)][..]), "{policy:?} {code}");
            assert_eq!(sim.phase(), Phase::Running);
        }
    }
}

#[test]
fn s3_the_sequence_goes_on_although_a_sidecar_that_was_started_died() {
    let mut sim = sim(Always);
    sim.started(0);
    sim.exited(0, 0);
    sim.started(1);
    sim.started(2);
    sim.exited(1, 1);
    sim.started(1);
    sim.exited(1, 1);
    assert!(sim.waiting("s1").starts_with("CrashLoopBackOff"));
    assert_eq!(sim.exited(2, 0), [start(3, 0)]);
}

#[test]
fn s3_before_its_turn_a_sidecar_that_failed_keeps_the_sequence_waiting() {
    let mut sim = Sim::of_containers(Never, vec![sidecar("s"), app("a")]);
    assert_eq!(sim.start_failed(0, StartFailure::Start { exit_code: 128 }), [start(0, 1)]);
    assert_eq!(sim.start_failed(0, StartFailure::Create), [], "and not a's");
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(0, 1)][..]));
    assert_eq!(sim.phase(), Phase::Pending);
}

#[test]
fn s3_sidecars_end_with_the_work_and_their_codes_do_not_count() {
    for (app_code, phase) in [(0, Phase::Succeeded), (3, Phase::Failed)] {
        let mut sim = running(Never);
        assert_eq!(sim.exited(3, app_code), [signal(1)]);
        assert_eq!(sim.phase(), Phase::Running, "as long as something runs");
        assert_eq!(sim.pod.deletion_timestamp(), None, "nobody asked for its end");
        let killed = Exit { signal: Some(9), ..exit(0) };
        assert_eq!(sim.step(Event::Exited { container: 1, exit: killed }), [Action::DestroySandbox]);
        assert_eq!(sim.phase(), phase);
        assert_eq!(exit_code_without(&["s1"], &sim.status()), app_code as u8);
    }
}

#[test]
fn s3_a_crash_looping_sidecar_does_not_keep_the_pod_from_completing() {
    let mut sim = running(OnFailure);
    sim.exited(1, 1);
    sim.started(1);
    sim.exited(1, 1);
    assert_eq!(sim.exited(3, 0), [Action::DestroySandbox]);
    assert_eq!(sim.phase(), Phase::Succeeded);
}

#[test]
fn s3_a_failed_init_container_ends_the_sidecars_before_it() {
    let mut sim = sim(Never);
    sim.started(0);
    sim.exited(0, 0);
    sim.started(1);
    sim.started(2);
    assert_eq!(sim.exited(2, 4), [signal(1)]);
    assert_eq!(sim.phase(), Phase::Pending);
    assert_eq!(sim.exited(1, 0), [Action::DestroySandbox]);
    assert_eq!((sim.phase(), exit_code_without(&["s1"], &sim.status())), (Phase::Failed, 4));
}

#[test]
fn s3_sidecars_end_last_and_in_reverse_order() {
    let containers = vec![sidecar("s0"), sidecar("s1"), app("a2"), app("a3")];
    let mut sim = Sim::of_containers(Always, containers);
    sim.all_started(0..4);
    assert_eq!(sim.step(stop(None)), [signal(2), signal(3)]);
    assert_eq!(sim.exited(2, 0), []);
    assert_eq!(sim.exited(3, 0), [signal(1)]);
    assert_eq!(sim.exited(1, 0), [signal(0)]);
    assert_eq!(sim.exited(0, 0), [Action::DestroySandbox]);
}

#[test]
fn s3_what_is_left_when_the_grace_period_is_over_gets_two_seconds() {
    let mut sim = Sim::of_containers(Always, vec![sidecar("s0"), sidecar("s1"), app("a2")]);
    sim.all_started(0..3);
    assert_eq!(sim.step(stop(Some(10))), [signal(2)]);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[signal(0), signal(1), kill(2)][..]));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (2, &[kill(0), kill(1)][..]));
}

#[test]
fn s3_the_one_grace_period_is_used_up_by_those_before() {
    let mut sim = Sim::of_containers(Always, vec![sidecar("s"), app("a")]);
    sim.all_started(0..2);
    sim.step(stop(Some(10)));
    sim.now = 7;
    assert_eq!(sim.exited(1, 0), [signal(0)]);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (3, &[kill(0)][..]));
}

#[test]
fn s3_a_sidecars_pre_stop_runs_at_once_and_only_its_signal_waits() {
    let mut s = sidecar("s");
    s.pre_stop = Some(Hook::Perform);
    let mut sim = Sim::of_containers(Always, vec![s, app("a")]);
    sim.all_started(0..2);
    assert_eq!(sim.step(stop(None)), [perform(0, Task::PreStop), signal(1)]);
    assert_eq!(sim.performed(0, Task::PreStop, Outcome::Success), []);
    assert_eq!(sim.exited(1, 0), [signal(0)]);
}

#[test]
fn s3_a_sidecar_that_dies_while_the_pod_ends_stays_dead() {
    let mut sim = running(Always);
    assert_eq!(sim.step(stop(None)), [signal(3)]);
    assert_eq!(sim.exited(1, 1), []);
    assert_eq!(sim.exited(3, 0), [Action::DestroySandbox]);
}

#[test]
fn s3_a_sidecar_waits_for_an_init_container_after_it() {
    let mut sim = sim(Always);
    sim.started(0);
    sim.exited(0, 0);
    sim.started(1);
    sim.started(2);
    assert_eq!(sim.step(stop(None)), [signal(2)]);
    assert_eq!(sim.exited(2, 143), [signal(1)]);
}

#[test]
fn s21_initialized_is_not_taken_back_once_app_containers_have_run() {
    let mut sim = running(Always);
    sim.exited(1, 1);
    assert_eq!(sim.condition("Initialized"), "True");
    assert_eq!(sim.condition("Ready"), "False ContainersNotReady containers with unready status: [s1]");
    assert_eq!(sim.phase(), Phase::Running);
}

/// Found by the property test, which took it for a signal before its turn.
#[test]
fn s3_a_sidecar_that_was_being_ended_for_itself_keeps_its_own_time() {
    let mut s = ContainerSpec { pre_stop: Some(Hook::Perform), ..sidecar("s") };
    s.probes.liveness = Some(ProbeTiming { failure_threshold: 1, grace: Some(secs(5)), ..every_second() });
    let mut sim = Sim::of_containers(Always, vec![s, app("a")]);
    sim.all_started(0..2);
    assert_eq!(sim.performed(0, Task::LivenessProbe, failure()), [perform(0, Task::PreStop)]);
    assert_eq!(sim.step(stop(None)), [signal(1)]);
    // The app goes on for long: not for as long does s, which would have been signalled without the stop, too.
    assert_eq!((sim.tick(), sim.asked.as_slice()), (5, &[signal(0)][..]));
}
