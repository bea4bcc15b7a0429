//! §8: how a pod is stopped.

use super::*;

#[test]
fn s8_grace_has_a_floor_of_2s() {
    for (given, granted, waited) in
        [(None, 30, 30), (Some(60), 60, 60), (Some(2), 2, 2), (Some(1), 1, 2), (Some(0), 1, 2)]
    {
        let mut sim = Sim::new(Always, "a b");
        sim.started(0);
        sim.started(1);
        let signals = [Action::Signal { container: 0 }, Action::Signal { container: 1 }];
        assert_eq!(sim.at(100, stop(given)), signals, "{given:?}");
        assert_eq!(sim.pod.deletion_timestamp().unwrap(), Time((EPOCH + 100 + granted) as i64), "{given:?}");
        assert_eq!(sim.events.last().unwrap(), "Killing: Stopping container b");
        assert_eq!(sim.exited(0, 143), [], "{given:?}");
        assert_eq!((sim.tick(), sim.asked.as_slice()), (waited, &[Action::Kill { container: 1 }][..]), "{given:?}");
        assert_eq!(sim.pod.next_deadline(), None, "{given:?}: killed once");
        assert_eq!(sim.step(Event::Tick), [], "{given:?}");
        let exit = Exit { signal: Some(9), ..exit(0) };
        assert_eq!(sim.step(Event::Exited { container: 1, exit }), [Action::DestroySandbox], "{given:?}");
        assert_eq!((sim.terminated("a"), sim.terminated("b")), ("Error 143".into(), "Error 137".into()));
        assert_eq!((sim.phase(), pod_exit_code(&sim.status())), (Phase::Failed, 143));
        assert_eq!(sim.step(Event::SandboxGone), [Action::Finished]);
    }
}

#[test]
fn s8_a_repeated_stop_can_only_shorten() {
    let mut sim = Sim::new(Always, "a");
    sim.started(0);
    sim.step(stop(None));
    assert_eq!(sim.at(1, stop(Some(500))), [], "not signalled again");
    assert_eq!(sim.pod.next_deadline(), Some(secs(30)));
    assert_eq!(sim.at(2, stop(Some(5))), []);
    assert_eq!(sim.pod.next_deadline(), Some(secs(7)));
    assert_eq!(sim.at(3, Event::Kill), [Action::Kill { container: 0 }]);
}

#[test]
fn s8_who_is_killed_again_is_who_still_lives() {
    let mut sim = Sim::new(Always, "a b");
    sim.all_started(0..2);
    sim.step(stop(None));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (30, &[kill(0), kill(1)][..]));
    sim.exited(0, 137);
    assert_eq!(sim.step(stop(Some(0))), [], "it was killed");
    assert_eq!(sim.step(Event::Kill), [kill(1)], "that may have failed");
    assert_eq!(sim.step(Event::Tick), []);
    assert_eq!(sim.exited(1, 137), [Action::DestroySandbox]);
    assert_eq!(sim.step(Event::Kill), []);
}

#[test]
fn s8_kill_skips_the_signal() {
    let mut sim = Sim::new(Always, "a");
    sim.started(0);
    assert_eq!(sim.step(Event::Kill), [Action::Kill { container: 0 }]);
    assert_eq!(sim.exited(0, 137), [Action::DestroySandbox], "nothing is restarted");
}

#[test]
fn s8_a_start_under_way_is_cancelled_or_signalled_once_it_runs() {
    let mut sim = Sim::new(Always, "a b");
    assert_eq!(sim.step(stop(None)), [Action::CancelStart { container: 0 }]);
    assert_eq!(sim.started(0), [Action::Signal { container: 0 }], "too late to cancel; b is not started");
    sim.exited(0, 0);
    assert_eq!((sim.phase(), sim.terminated("b")), (Phase::Failed, "ContainerStatusUnknown 137".into()));

    let mut sim = Sim::new(Always, "a");
    sim.step(stop(None));
    assert_eq!(sim.start_failed(0, StartFailure::Create), [Action::DestroySandbox]);

    let mut sim = Sim::new(Always, "a");
    sim.step(stop(None));
    assert_eq!(sim.pull_failed(0, ImageFailure::Pull), [Action::DestroySandbox]);
    assert_eq!(sim.events, Vec::<String>::new(), "that it failed was wanted");

    let mut sim = Sim::new(Always, "a");
    sim.step(stop(None));
    sim.tick();
    assert_eq!(sim.asked, [Action::Kill { container: 0 }], "its start hangs");
    assert_eq!(sim.started(0), [Action::Kill { container: 0 }]);
    assert_eq!(sim.exited(0, 137), [Action::DestroySandbox]);
}

#[test]
fn s8_an_init_container_is_stopped_likewise() {
    let mut sim = Sim::new(Always, "i1 i2 | a");
    sim.started(0);
    assert_eq!(sim.step(stop(None)), [Action::Signal { container: 0 }]);
    assert_eq!(sim.exited(0, 0), [Action::DestroySandbox], "the sequence does not go on");
    assert_eq!((sim.phase(), sim.waiting("a")), (Phase::Failed, "PodInitializing: ".into()));
    assert_eq!(pod_exit_code(&sim.status()), 1, "no container failed");
}

#[test]
fn s8_the_final_phase_is_from_the_exit_codes() {
    for (name, codes, phase) in [
        ("all handled the signal", [0, 0], Phase::Succeeded),
        ("one did not", [0, 143], Phase::Failed),
        ("the other did not", [143, 0], Phase::Failed),
    ] {
        let mut sim = Sim::new(Always, "a b");
        sim.started(0);
        sim.started(1);
        sim.step(stop(None));
        sim.exited(0, codes[0]);
        assert_eq!((name, sim.phase()), (name, Phase::Running));
        sim.exited(1, codes[1]);
        assert_eq!((name, sim.phase()), (name, phase));
    }
}

#[test]
fn s8_stop_during_a_crash_loop_shows_how_the_container_ended() {
    let mut sim = Sim::new(Always, "a");
    sim.started(0);
    sim.exited(0, 3);
    sim.started(0);
    sim.exited(0, 4);
    assert_eq!(sim.step(stop(None)), [Action::DestroySandbox]);
    assert_eq!((sim.phase(), sim.terminated("a")), (Phase::Failed, "Error 4".into()));
    assert_eq!(sim.of("a").last_state.terminated.unwrap().exit_code, 3);
}

#[test]
fn s8_no_back_off_is_announced_for_a_container_that_ends_by_the_stop() {
    let mut sim = Sim::new(Always, "a");
    sim.started(0);
    sim.exited(0, 1);
    sim.started(0);
    sim.step(stop(None));
    assert_eq!(sim.exited(0, 143), [Action::DestroySandbox]);
    assert_eq!(sim.events.last().unwrap(), "Killing: Stopping container a");
}

#[test]
fn s8_stop_before_there_is_a_sandbox() {
    let mut sim = Sim::fresh(Always, "a");
    assert_eq!(sim.step(stop(None)), [Action::Finished], "before Begin");
    assert_eq!(sim.step(Event::Begin), []);

    let mut sim = Sim::fresh(Always, "a");
    sim.step(Event::Begin);
    assert_eq!(sim.step(stop(None)), [], "its creation is under way");
    assert_eq!(sim.step(Event::SandboxReady { ips: vec![] }), [Action::DestroySandbox]);

    let mut sim = Sim::fresh(Always, "a");
    sim.step(Event::Begin);
    sim.step(stop(None));
    assert_eq!(sim.step(Event::SandboxFailed { message: String::new() }), [Action::Finished]);
}
