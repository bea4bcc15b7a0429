//! §20 and §22: a pod that uses more of the host than it may.

use super::*;

fn evicted() -> Event {
    Event::Evicted { message: "Container a exceeded its local ephemeral storage limit \"1Mi\". ".into() }
}

fn is_evicted(sim: &Sim) {
    let status = sim.status();
    assert_eq!((status.phase, status.reason.as_str()), (Phase::Failed, "Evicted"));
    assert_eq!(status.message, "Container a exceeded its local ephemeral storage limit \"1Mi\". ");
    let told = sim.events.iter().filter(|e| e.starts_with("Evicted: Container a exceeded its local")).count();
    assert_eq!(told, 1);
    let disrupted = sim.condition("DisruptionTarget");
    assert!(disrupted.starts_with("True TerminationByKubelet Container a exceeded"), "{disrupted}");
}

#[test]
fn s20_an_evicted_pod_ends_at_once_and_has_failed() {
    for policy in [Always, OnFailure, Never] {
        let mut sim = Sim::of_containers(policy, vec![app("a"), app("b")]);
        sim.all_started(0..2);
        assert_eq!(sim.step(evicted()), [signal(0), signal(1)], "{policy:?}");
        assert_eq!((sim.phase(), sim.status().reason.as_str()), (Phase::Running, ""), "until they are gone");
        assert_eq!(sim.pod.deletion_timestamp(), None, "nobody deleted it");
        assert!(!sim.pod.goes_on());
        assert_eq!(sim.exited(0, 0), [], "nothing is restarted");
        assert_eq!((sim.tick(), sim.asked.as_slice()), (2, &[kill(1)][..]), "the least there is after a signal");
        assert_eq!(sim.exited(1, 137), [Action::DestroySandbox]);
        is_evicted(&sim);
    }
    let mut sim = Sim::of_containers(Always, vec![app("a")]);
    sim.started(0);
    sim.step(evicted());
    sim.exited(0, 0);
    is_evicted(&sim);
    assert_eq!(pod_exit_code(&sim.status()), 1, "though all exited 0");
}

#[test]
fn s20_a_pre_stop_hook_has_a_second() {
    let mut a = app("a");
    a.pre_stop = Some(Hook::Perform);
    let mut sim = Sim::of_containers(Always, vec![a]);
    sim.started(0);
    assert_eq!(sim.step(evicted()), [perform(0, Task::PreStop)]);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (1, &[signal(0)][..]));
}

#[test]
fn s20_also_while_it_is_initialised() {
    let mut sim = Sim::of_containers(Always, vec![init("i"), app("a")]);
    sim.started(0);
    assert_eq!(sim.step(evicted()), [signal(0)]);
    assert_eq!(sim.exited(0, 143), [Action::DestroySandbox]);
    is_evicted(&sim);
    assert_eq!(sim.waiting("a"), "PodInitializing: ");
}

#[test]
fn a_pod_that_ends_already_is_not_evicted() {
    let mut sim = Sim::of_containers(Always, vec![app("a")]);
    sim.started(0);
    sim.step(stop(None));
    let before = sim.pod.clone();
    assert_eq!(sim.step(evicted()), []);
    assert_eq!(sim.pod, before);
    sim.exited(0, 0);
    assert_eq!((sim.phase(), sim.status().reason.as_str()), (Phase::Succeeded, ""));
    assert_eq!(sim.step(evicted()), []);
    assert_eq!(sim.phase(), Phase::Succeeded);
}

#[test]
fn a_stop_cannot_make_an_evicted_pod_succeed() {
    let mut sim = Sim::of_containers(Always, vec![app("a")]);
    sim.started(0);
    sim.step(evicted());
    sim.step(stop(Some(100)));
    sim.exited(0, 0);
    is_evicted(&sim);
}
