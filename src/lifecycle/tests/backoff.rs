//! pod-api.md §5 and §10: back-off of restarts and of pulls.

use super::*;

#[test]
fn s5_back_off_is_0_10_20_40_80_160_300_300() {
    for code in [0, 1] {
        let mut sim = Sim::new(Always, "a");
        sim.started(0);
        let mut seen = Vec::new();
        for count in 1..=8 {
            sim.now += 3;
            let mut waited = 0;
            if sim.exited(0, code).is_empty() {
                assert_eq!(sim.of("a").restart_count, count - 1);
                waited = sim.tick();
            }
            assert_eq!(sim.asked, [start(0, count)]);
            seen.push(waited);
            sim.started(0);
            assert_eq!(sim.of("a").restart_count, count);
        }
        assert_eq!(seen, [0, 10, 20, 40, 80, 160, 300, 300], "exit code {code}");
    }
}

#[test]
fn s5_init_containers_back_off_too() {
    let mut sim = Sim::new(OnFailure, "i | a");
    sim.started(0);
    sim.exited(0, 1);
    sim.started(0);
    sim.exited(0, 1);
    assert_eq!(sim.waiting("i"), "CrashLoopBackOff: back-off 10s restarting failed container=i pod=p_ns(u1)");
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(0, 2)][..]));
}

#[test]
fn s5_back_off_is_forgotten_600s_after_its_last_step() {
    for (lived, waited) in [(600, 40), (601, 0)] {
        let mut sim = Sim::new(Always, "a");
        sim.started(0);
        for _ in 0..3 {
            if sim.exited(0, 1).is_empty() {
                sim.tick();
            }
            sim.started(0);
        }
        // Steps so far: 10, 20, 40; the last one was taken now.
        sim.now += lived;
        if waited == 0 {
            assert_eq!(sim.exited(0, 1), [start(0, 4)]);
            sim.started(0);
            sim.exited(0, 1);
            assert_eq!(sim.tick(), 10, "and it begins anew");
        } else {
            sim.exited(0, 1);
            assert_eq!(sim.tick(), waited);
        }
    }
}

#[test]
fn s5_words_of_a_crash_loop() {
    let mut sim = Sim::new(Always, "a b");
    sim.started(0);
    sim.started(1);
    sim.exited(0, 7);
    assert_eq!(sim.terminated("a"), "Error 7", "restarted at once: there is nothing to wait for");
    sim.started(0);
    for _ in 0..4 {
        sim.exited(0, 7);
        sim.tick();
        assert!(sim.waiting("a").starts_with("CrashLoopBackOff"), "while it is being started");
        sim.started(0);
    }
    sim.exited(0, 0);
    assert_eq!(sim.waiting("a"), "CrashLoopBackOff: back-off 2m40s restarting failed container=a pod=p_ns(u1)");
    assert_eq!(sim.events.last().unwrap(), "BackOff: Back-off restarting failed container a in pod p_ns(u1)");
    assert_eq!(sim.of("a").last_state.terminated.unwrap().reason, "Completed");
    assert_eq!(
        (sim.phase(), sim.condition("ContainersReady")),
        (Phase::Running, "False ContainersNotReady containers with unready status: [a]".into())
    );
}

#[test]
fn s5_containers_back_off_each_on_its_own() {
    let mut sim = Sim::new(Always, "a b");
    sim.started(0);
    sim.started(1);
    sim.exited(0, 1);
    sim.started(0);
    sim.exited(0, 1);
    assert_eq!(sim.exited(1, 1), [start(1, 1)]);
    assert_eq!(sim.pod.next_deadline(), None, "a is due in 10 s, but not before b's start is answered");
    sim.now += 12;
    assert_eq!(sim.started(1), [start(0, 2)]);
}

#[test]
fn s10_a_failed_pull_backs_off_10_20_40() {
    let mut sim = Sim::new(Never, "a");
    sim.pull_failed(0, ImageFailure::Pull);
    assert_eq!(sim.waiting("a"), "ErrImagePull: no route");
    assert_eq!(sim.events, ["Failed: Failed to pull image \"img\": no route", "Failed: Error: ErrImagePull"]);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(0, 0)][..]));
    assert_eq!((sim.waiting("a"), sim.events.len()), ("ErrImagePull: no route".into(), 2), "it did not wait for this");
    sim.events.clear();
    sim.pull_failed(0, ImageFailure::Pull);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[][..]), "only the status changes");
    assert_eq!(sim.waiting("a"), "ImagePullBackOff: Back-off pulling image \"img\": ErrImagePull: no route");
    assert_eq!(sim.events[2..], ["BackOff: Back-off pulling image \"img\"", "Failed: Error: ImagePullBackOff"]);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(0, 0)][..]));
    sim.pull_failed(0, ImageFailure::RegistryUnavailable);
    assert_eq!((sim.tick() + sim.tick(), sim.asked.as_slice()), (40, &[start(0, 0)][..]));
    assert_eq!(sim.phase(), Phase::Pending);
    sim.started(0);
    assert_eq!(sim.of("a").restart_count, 0, "pulls are not restarts");
}

#[test]
fn s10_pull_back_off_ends_at_300s_and_is_forgotten_after_600s() {
    let mut sim = Sim::new(Never, "a");
    let mut waits = Vec::new();
    for _ in 0..7 {
        sim.pull_failed(0, ImageFailure::Pull);
        let mut waited = 0;
        while sim.asked.is_empty() {
            waited += sim.tick();
        }
        waits.push(waited);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    // The last step was 300 s ago; this start hangs for a while.
    sim.now += 301;
    sim.pull_failed(0, ImageFailure::Pull);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(0, 0)][..]));
}

#[test]
fn s10_local_image_failures_are_looked_at_again_every_10s() {
    for (failure, reason, event) in [
        (ImageFailure::NeverPull, "ErrImageNeverPull", "ErrImageNeverPull: no route"),
        (ImageFailure::InvalidName, "InvalidImageName", "InspectFailed: no route"),
        (ImageFailure::Inspect, "ImageInspectError", "InspectFailed: no route"),
    ] {
        let mut sim = Sim::new(Never, "a");
        for _ in 0..3 {
            sim.pull_failed(0, failure);
            assert_eq!(sim.waiting("a"), format!("{reason}: no route"));
            assert_eq!(sim.events[..2], [event.to_owned(), format!("Failed: Error: {reason}")]);
            assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(0, 0)][..]), "{reason}");
        }
    }
}

#[test]
fn s10_a_pull_that_fails_on_a_restart_keeps_the_last_state() {
    let mut sim = Sim::new(Always, "a");
    sim.started(0);
    sim.exited(0, 5);
    sim.pull_failed(0, ImageFailure::Pull);
    assert_eq!((sim.waiting("a"), sim.phase()), ("ErrImagePull: no route".into(), Phase::Running));
    assert_eq!(sim.of("a").last_state.terminated.unwrap().exit_code, 5);
    sim.tick();
    assert_eq!(sim.asked, [start(0, 1)]);
}
