//! §6: when probes run, when their results count, what failed ones lead to.

use super::*;
use Task::{LivenessProbe, ReadinessProbe, StartupProbe};

fn probed(
    startup: Option<ProbeTiming>,
    liveness: Option<ProbeTiming>,
    readiness: Option<ProbeTiming>,
) -> ContainerSpec {
    ContainerSpec { probes: Probes { startup, liveness, readiness }, ..app("a") }
}

fn live(policy: RestartPolicy, timing: ProbeTiming) -> Sim {
    let mut sim = Sim::of_containers(policy, vec![probed(None, Some(timing), None)]);
    assert_eq!(sim.started(0), [perform(0, LivenessProbe)]);
    sim
}

/// Lets the probe fail so many times, once a second.
fn fail(sim: &mut Sim, task: Task, times: u32) {
    for _ in 0..times {
        if !sim.asked.contains(&perform(0, task)) {
            sim.tick();
            assert!(sim.asked.contains(&perform(0, task)), "{:?}", sim.asked);
        }
        sim.performed(0, task, failure());
    }
}

#[test]
fn s6_the_first_results_are_success_failure_and_unknown() {
    let mut sim = Sim::of_containers(Always, vec![probed(None, Some(every_second()), Some(every_second()))]);
    assert_eq!(sim.started(0), [perform(0, LivenessProbe), perform(0, ReadinessProbe)]);
    assert!(sim.of("a").started && !sim.of("a").ready);
    let mut sim = Sim::of_containers(Always, vec![probed(Some(every_second()), None, None)]);
    sim.started(0);
    assert!(!sim.of("a").started && !sim.of("a").ready);
    sim.performed(0, StartupProbe, Outcome::Success);
    assert!(sim.of("a").started && sim.of("a").ready, "without a readiness probe it is ready once started");
}

#[test]
fn s6_a_probe_runs_once_a_period_after_its_initial_delay() {
    let timing = ProbeTiming { initial_delay: secs(5), period: secs(3), ..every_second() };
    let mut sim = Sim::of_containers(Always, vec![probed(None, None, Some(timing))]);
    assert_eq!(sim.started(0), []);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (5, &[perform(0, ReadinessProbe)][..]));
    sim.performed(0, ReadinessProbe, Outcome::Success);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (3, &[perform(0, ReadinessProbe)][..]));
    sim.now += 1;
    sim.performed(0, ReadinessProbe, Outcome::Success);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (2, &[perform(0, ReadinessProbe)][..]), "from begin to begin");
}

#[test]
fn s6_a_probe_that_takes_longer_than_its_period_runs_again_at_once() {
    let timing = ProbeTiming { timeout: secs(10), ..every_second() };
    let mut sim = Sim::of_containers(Always, vec![probed(None, None, Some(timing))]);
    sim.started(0);
    sim.now = 4;
    assert_eq!(sim.performed(0, ReadinessProbe, Outcome::Success), [perform(0, ReadinessProbe)]);
    sim.performed(0, ReadinessProbe, Outcome::Success);
    assert_eq!(sim.tick(), 1, "and what was missed is not made up for");
}

#[test]
fn s6_a_probe_is_ended_when_its_time_is_over() {
    let timing = ProbeTiming { timeout: secs(2), ..every_second() };
    let mut sim = Sim::of_containers(Always, vec![probed(None, None, Some(timing))]);
    sim.started(0);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (2, &[Action::TimeOut { container: 0, task: ReadinessProbe }][..]));
    assert_eq!(sim.pod.next_deadline(), None, "once");
    assert_eq!(sim.performed(0, ReadinessProbe, failure()), [perform(0, ReadinessProbe)], "its answer is a failure");
}

#[test]
fn s6_thresholds_count_consecutive_results() {
    let timing = ProbeTiming { success_threshold: 2, failure_threshold: 3, ..every_second() };
    let mut sim = Sim::of_containers(Always, vec![probed(None, None, Some(timing))]);
    sim.started(0);
    let rows = [
        (true, false),
        (true, true),
        (false, true),
        (false, true),
        (true, true),
        (false, true),
        (false, true),
        (false, false),
        (true, false),
        (false, false),
        (true, false),
        (true, true),
    ];
    for (at, (success, ready)) in rows.into_iter().enumerate() {
        let outcome = if success { Outcome::Success } else { failure() };
        sim.performed(0, ReadinessProbe, outcome);
        assert_eq!(sim.of("a").ready, ready, "result {at}");
        sim.tick();
    }
    assert_eq!(sim.of("a").restart_count, 0, "readiness ends nothing");
    assert_eq!(sim.events.iter().filter(|e| *e == "Unhealthy: Readiness probe failed: no").count(), 6);
}

#[test]
fn s6_liveness_and_readiness_wait_for_the_startup_probe() {
    let slow = ProbeTiming { initial_delay: secs(4), ..every_second() };
    let mut sim = Sim::of_containers(Always, vec![probed(Some(every_second()), Some(every_second()), Some(slow))]);
    assert_eq!(sim.started(0), [perform(0, StartupProbe)]);
    fail(&mut sim, StartupProbe, 2);
    sim.tick();
    assert_eq!(sim.asked, [perform(0, StartupProbe)]);
    assert_eq!(sim.performed(0, StartupProbe, Outcome::Success), [perform(0, LivenessProbe)]);
    sim.performed(0, LivenessProbe, Outcome::Success);
    assert_eq!((sim.tick(), sim.now), (1, 3));
    sim.performed(0, LivenessProbe, Outcome::Success);
    sim.tick();
    assert_eq!((sim.now, sim.asked.as_slice()), (4, &[perform(0, LivenessProbe), perform(0, ReadinessProbe)][..]));
    assert!(!sim.asked.contains(&perform(0, StartupProbe)), "it has done its work for this instance");
}

#[test]
fn s6_a_failed_startup_ends_the_container_and_the_next_instance_begins_anew() {
    let timing = ProbeTiming { grace: Some(secs(3)), failure_threshold: 2, ..every_second() };
    let mut sim = Sim::of_containers(Always, vec![probed(Some(timing), None, None)]);
    sim.started(0);
    fail(&mut sim, StartupProbe, 2);
    assert_eq!(sim.asked, [signal(0)]);
    assert_eq!(sim.last_event(), "Killing: Container a failed startup probe, will be restarted");
    assert_eq!((sim.tick(), sim.asked.as_slice()), (3, &[kill(0)][..]), "the probe's own grace");
    assert_eq!(sim.exited(0, 137), [start(0, 1)]);
    assert_eq!(sim.started(0), [perform(0, StartupProbe)]);
    sim.performed(0, StartupProbe, failure());
    assert_eq!(sim.asked, [], "one failure is one");
}

#[test]
fn s6_a_failed_liveness_probe_ends_the_container() {
    for (policy, code, again) in
        [(Always, 143, true), (OnFailure, 143, true), (OnFailure, 0, true), (Never, 143, false), (Never, 0, false)]
    {
        let mut sim = live(policy, every_second());
        fail(&mut sim, LivenessProbe, 2);
        assert_eq!(sim.asked, []);
        fail(&mut sim, LivenessProbe, 1);
        assert_eq!(sim.asked, [signal(0)]);
        let will = if again { ", will be restarted" } else { "" };
        assert_eq!(sim.last_event(), format!("Killing: Container a failed liveness probe{will}"));
        assert_eq!(sim.pod.next_deadline(), Some(secs(2 + 30)), "the pod's grace, and no probe meanwhile");
        assert_eq!(sim.of("a").restart_count, 0);
        let expected = if again { start(0, 1) } else { Action::DestroySandbox };
        assert_eq!(sim.exited(0, code), [expected], "{policy:?} {code}");
        if !again {
            let phase = if code == 0 { Phase::Succeeded } else { Phase::Failed };
            assert_eq!(sim.phase(), phase, "{policy:?} {code}");
        }
    }
}

#[test]
fn s6_restarts_after_failed_probes_are_backed_off() {
    let timing = ProbeTiming { failure_threshold: 1, ..every_second() };
    let mut sim = live(Always, timing);
    sim.performed(0, LivenessProbe, failure());
    sim.exited(0, 0);
    sim.started(0);
    sim.performed(0, LivenessProbe, failure());
    assert_eq!(sim.exited(0, 0), []);
    assert!(sim.waiting("a").starts_with("CrashLoopBackOff: back-off 10s"));
}

#[test]
fn s6_rules_are_not_for_containers_that_a_probe_ended() {
    let timing = ProbeTiming { failure_threshold: 1, ..every_second() };
    let mut a = probed(None, Some(timing), None);
    let rule = RestartRule { action: RestartAction::Restart, operator: ExitCodeOperator::In, codes: vec![143] };
    a.restart = ContainerRestart { policy: Some(Never), rules: vec![rule] };
    let mut sim = Sim::of_containers(Always, vec![a]);
    sim.started(0);
    sim.performed(0, LivenessProbe, failure());
    assert_eq!(sim.exited(0, 143), [Action::DestroySandbox]);
}

#[test]
fn s6_a_probe_without_an_answer_is_tried_three_times_and_then_ignored() {
    let mut sim = live(Always, ProbeTiming { failure_threshold: 1, ..every_second() });
    let error = || Outcome::Error("no such command".into());
    assert_eq!(sim.performed(0, LivenessProbe, error()), [perform(0, LivenessProbe)]);
    assert_eq!(sim.performed(0, LivenessProbe, error()), [perform(0, LivenessProbe)]);
    assert_eq!(sim.events.len(), 2, "it is told once");
    assert_eq!(sim.performed(0, LivenessProbe, error()), []);
    assert_eq!(sim.last_event(), "Unhealthy: Liveness probe errored and resulted in unknown state: no such command");
    assert!(sim.of("a").ready);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (1, &[perform(0, LivenessProbe)][..]));
}

#[test]
fn s6_a_warning_is_a_success_that_is_told() {
    let mut sim = Sim::of_containers(Always, vec![probed(None, None, Some(every_second()))]);
    sim.started(0);
    sim.performed(0, ReadinessProbe, Outcome::Warning("elsewhere".into()));
    assert_eq!(sim.last_event(), "ProbeWarning: Readiness probe warning: elsewhere");
    assert!(sim.of("a").ready);
}

#[test]
fn s6_while_the_pod_ends_only_readiness_is_probed() {
    let mut sim = Sim::of_containers(Always, vec![probed(None, Some(every_second()), Some(every_second()))]);
    sim.started(0);
    sim.performed(0, LivenessProbe, Outcome::Success);
    sim.performed(0, ReadinessProbe, Outcome::Success);
    sim.step(stop(None));
    assert!(sim.of("a").ready, "as long as it answers");
    sim.tick();
    assert_eq!(sim.asked, [perform(0, ReadinessProbe)]);
    for _ in 0..3 {
        sim.performed(0, ReadinessProbe, failure());
        sim.tick();
    }
    assert!(!sim.of("a").ready && sim.of("a").state.running.is_some());
}

#[test]
fn s6_the_result_of_a_liveness_probe_under_way_does_not_matter_any_more_when_the_pod_ends() {
    let mut sim = live(Always, ProbeTiming { failure_threshold: 1, ..every_second() });
    sim.step(stop(None));
    let events = sim.events.len();
    assert_eq!(sim.performed(0, LivenessProbe, failure()), []);
    assert_eq!(sim.events.len(), events);
}

#[test]
fn s6_nothing_is_probed_that_does_not_run() {
    let mut sim = live(Always, every_second());
    sim.exited(0, 1);
    assert_eq!(sim.performed(0, LivenessProbe, failure()), [], "an answer that was under way");
    assert_eq!(sim.started(0), [perform(0, LivenessProbe)]);
    sim.exited(0, 1);
    assert_eq!(sim.pod.next_deadline(), Some(secs(10)), "only the restart");
}

#[test]
fn s6_an_answer_that_nobody_asked_for_changes_nothing() {
    let mut sim = live(Always, ProbeTiming { failure_threshold: 1, ..every_second() });
    sim.performed(0, LivenessProbe, Outcome::Success);
    let before = sim.pod.clone();
    for task in [StartupProbe, LivenessProbe, ReadinessProbe, Task::PostStart, Task::PreStop] {
        assert_eq!(sim.performed(0, task, failure()), [], "{task:?}");
        assert_eq!(sim.pod, before, "{task:?}");
    }
}
