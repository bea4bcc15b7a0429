//! §1: a sandbox that is lost.

use super::*;

const CHANGED: &str = "SandboxChanged: Pod sandbox changed, it will be killed and re-created.";

fn again() -> Event {
    Event::SandboxReady { ips: vec!["10.0.0.3".into()] }
}

/// `i0 s1 | a2 b3`, running.
fn running(policy: RestartPolicy) -> Sim {
    let mut sim = Sim::of_containers(policy, vec![init("i0"), sidecar("s1"), app("a2"), app("b3")]);
    sim.started(0);
    sim.exited(0, 0);
    sim.all_started(1..4);
    sim
}

fn killed(sim: &mut Sim, containers: std::ops::Range<usize>) {
    for container in containers {
        sim.exited(container, 137);
    }
}

#[test]
fn s1_a_lost_sandbox_is_made_again_and_the_init_containers_run_again() {
    let mut sim = running(Always);
    assert_eq!(sim.step(Event::SandboxLost), [kill(1), kill(2), kill(3)], "at once, in no order, without hooks");
    assert_eq!(sim.last_event(), CHANGED);
    assert_eq!(sim.condition("PodReadyToStartContainers"), "False");
    assert_eq!(sim.step(Event::SandboxLost), [], "once");
    assert_eq!((sim.exited(1, 137).len(), sim.exited(2, 137).len()), (0, 0), "nothing is started in it");
    assert_eq!(sim.exited(3, 137), [Action::CreateSandbox], "when nothing is left in it");
    assert_eq!((sim.phase(), sim.waiting("i0"), sim.waiting("s1")), {
        let waits = "PodInitializing: ".to_owned();
        (Phase::Pending, waits.clone(), waits)
    });
    assert_eq!(sim.terminated("a2"), "Error 137");
    assert_eq!(sim.step(again()), [start(0, 1)]);
    assert_eq!(sim.status().pod_ip.as_deref(), Some("10.0.0.3"));
    assert_eq!((sim.condition("PodReadyToStartContainers"), sim.condition("Initialized")), {
        ("True".to_owned(), "True".to_owned())
    });
    sim.started(0);
    assert_eq!(sim.exited(0, 0), [start(1, 1)]);
    assert_eq!(sim.started(1), [start(2, 1)]);
    assert_eq!(sim.started(2), [start(3, 1)]);
    sim.started(3);
    assert_eq!((sim.phase(), sim.condition("Ready")), (Phase::Running, "True".into()));
}

#[test]
fn s1_who_begins_anew_after_the_loss_and_who_has_ended_for_good() {
    // Whether it was running or had ended with 0 before; whether it starts again.
    for (policy, code_before, again_expected) in [
        (Always, None, true),
        (Always, Some(0), true),
        (OnFailure, None, true),
        (OnFailure, Some(0), false),
        (OnFailure, Some(1), true),
    ] {
        let mut sim = Sim::new(policy, "a b");
        sim.all_started(0..2);
        if let Some(code) = code_before {
            sim.exited(0, code);
            if sim.asked == [start(0, 1)] {
                // It waits for its turn in the sandbox that is lost.
                sim.start_failed(0, StartFailure::Create);
            }
        }
        sim.step(Event::SandboxLost);
        if code_before.is_none() {
            sim.exited(0, 137);
        }
        assert_eq!(sim.exited(1, 137), [Action::CreateSandbox]);
        sim.step(again());
        if code_before.is_some() && again_expected {
            // 10 s after the failed start.
            assert_eq!(sim.asked, [start(1, 1)]);
            sim.started(1);
            sim.tick();
        }
        let expected = if again_expected { start(0, 1) } else { start(1, 1) };
        assert_eq!(sim.asked, [expected], "{policy:?} {code_before:?}");
    }
}

#[test]
fn s1_a_pod_that_is_never_restarted_ends_with_its_sandbox() {
    let mut sim = running(Never);
    assert_eq!(sim.step(Event::SandboxLost), [kill(1), kill(2), kill(3)]);
    assert_eq!(sim.last_event(), "SandboxChanged: Pod sandbox changed, it will be killed.");
    sim.exited(1, 137);
    sim.exited(2, 137);
    assert_eq!(sim.exited(3, 137), [Action::DestroySandbox]);
    assert_eq!((sim.phase(), pod_exit_code(&sim.status())), (Phase::Failed, 137));
    assert_eq!(sim.step(Event::SandboxGone), [Action::Finished]);
    // Nothing of it was ever created: nothing is run twice.
    let mut sim = Sim::new(Never, "a");
    sim.pull_failed(0, ImageFailure::Pull);
    assert_eq!(sim.step(Event::SandboxLost), [Action::CreateSandbox]);
    assert_eq!(sim.last_event(), CHANGED);
}

#[test]
fn s1_containers_that_may_not_be_restarted_have_ended() {
    let never = ContainerRestart { policy: Some(Never), rules: vec![] };
    let mut sim = Sim::of_containers(Always, vec![ContainerSpec { restart: never, ..app("a") }, app("b")]);
    sim.all_started(0..2);
    sim.step(Event::SandboxLost);
    sim.exited(0, 137);
    assert_eq!(sim.exited(1, 137), [Action::CreateSandbox]);
    assert_eq!(sim.step(again()), [start(1, 1)]);
    assert_eq!(sim.terminated("a"), "Error 137");
}

#[test]
fn s1_a_start_under_way_is_given_up_and_tried_again_at_once() {
    let mut sim = Sim::new(Always, "i | a");
    for answer in [
        Event::StartFailed { container: 0, failure: StartFailure::Create, message: String::new() },
        Event::ImageFailed { container: 0, failure: ImageFailure::Pull, message: String::new() },
    ] {
        assert_eq!(sim.step(Event::SandboxLost), [Action::CancelStart { container: 0 }]);
        let told = sim.events.len();
        assert_eq!(sim.step(answer), [Action::CreateSandbox]);
        assert_eq!(sim.events.len(), told, "that it failed was wanted");
        assert_eq!(sim.step(again()), [start(0, 0)]);
    }
    // It was too late to give it up.
    assert_eq!(sim.step(Event::SandboxLost), [Action::CancelStart { container: 0 }]);
    assert_eq!(sim.started(0), [kill(0)]);
    assert_eq!(sim.exited(0, 137), [Action::CreateSandbox]);
    assert_eq!(sim.step(again()), [start(0, 1)], "an init container that was lost has not failed");
}

/// Found by the property test: the restart of a sidecar was given up, and the sequence went on without it.
#[test]
fn s1_a_sidecar_whose_start_was_given_up_is_waited_for_again() {
    let mut sim = Sim::of_containers(Always, vec![sidecar("s"), app("a")]);
    sim.all_started(0..2);
    assert_eq!(sim.exited(0, 1), [start(0, 1)]);
    sim.step(Event::SandboxLost);
    sim.exited(1, 137);
    assert_eq!(sim.start_failed(0, StartFailure::Create), [Action::CreateSandbox]);
    assert_eq!(sim.step(again()), [start(0, 1)]);
    assert_eq!(sim.pull_failed(0, ImageFailure::Pull), [], "a waits for s");
    sim.tick();
    assert_eq!(sim.started(0), [start(1, 1)]);
}

#[test]
fn s5_the_loss_of_a_sandbox_counts_in_the_back_off_of_app_containers() {
    let mut sim = Sim::new(Always, "i | a");
    for (count, waited) in [(1, 0), (2, 0), (3, 10), (4, 20)] {
        sim.started(0);
        sim.exited(0, 0);
        if waited > 0 {
            assert_eq!(sim.tick(), waited);
        }
        assert_eq!(sim.asked, [start(1, count - 1)]);
        sim.started(1);
        sim.step(Event::SandboxLost);
        assert_eq!(sim.exited(1, 137), [Action::CreateSandbox]);
        assert_eq!(sim.step(again()), [start(0, count)], "init containers are run at once");
    }
}

#[test]
fn s1_a_sandbox_that_cannot_be_made_again_is_tried_every_10s() {
    let mut sim = running(Always);
    sim.step(Event::SandboxLost);
    killed(&mut sim, 1..4);
    sim.step(Event::SandboxFailed { message: "no".into() });
    assert_eq!(sim.last_event(), "FailedCreatePodSandBox: Failed to create pod sandbox: no");
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[Action::CreateSandbox][..]));
    assert_eq!(sim.step(again()), [start(0, 1)]);
}

#[test]
fn s8_a_stop_and_a_loss() {
    // The loss comes into the stop.
    let mut sim = running(Always);
    sim.step(stop(None));
    assert_eq!(sim.asked, [signal(2), signal(3)]);
    assert_eq!(sim.step(Event::SandboxLost), [kill(1), kill(2), kill(3)]);
    assert_ne!(sim.last_event(), CHANGED);
    killed(&mut sim, 1..4);
    assert_eq!((sim.asked.as_slice(), sim.phase()), (&[Action::DestroySandbox][..], Phase::Failed));
    // The stop comes into the loss.
    let mut sim = running(Always);
    sim.step(Event::SandboxLost);
    assert_eq!(sim.step(stop(None)), []);
    killed(&mut sim, 1..4);
    assert_eq!((sim.asked.as_slice(), sim.phase()), (&[Action::DestroySandbox][..], Phase::Failed));
    assert_eq!(sim.step(Event::SandboxGone), [Action::Finished]);
    // The stop comes while it is made again.
    let mut sim = running(Always);
    sim.step(Event::SandboxLost);
    killed(&mut sim, 1..4);
    assert_eq!((sim.step(stop(None)).len(), sim.phase()), (0, Phase::Failed));
    assert_eq!(sim.step(again()), [Action::DestroySandbox]);
}

#[test]
fn s1_hooks_probes_and_what_joined_end_with_the_sandbox() {
    let hooked = ContainerSpec { post_start: Some(Hook::Perform), pre_stop: Some(Hook::Perform), ..app("a") };
    let mut sim = Sim::of_containers(Always, vec![app("b"), hooked]);
    sim.step(Event::Join(Box::new(ContainerSpec::new("e", ContainerKind::Ephemeral, "img"))));
    sim.started(0);
    assert_eq!(sim.asked, [start(2, 0)]);
    sim.started(2);
    sim.started(1);
    assert_eq!(sim.step(Event::SandboxLost), [kill(0), kill(1), kill(2)]);
    assert_eq!(sim.performed(1, Task::PostStart, failure()), []);
    // Who joins now waits for the new one.
    sim.step(Event::Join(Box::new(ContainerSpec::new("f", ContainerKind::Ephemeral, "img"))));
    assert_eq!((sim.exited(0, 137).len(), sim.exited(1, 137).len()), (0, 0));
    assert_eq!(sim.exited(2, 137), [Action::CreateSandbox], "not before");
    assert_eq!(sim.step(again()), [start(3, 0)]);
    assert_eq!(sim.started(3), [start(0, 1)]);
    assert_eq!(sim.terminated("e"), "Error 137", "an ephemeral container is never restarted");
}

#[test]
fn s4_a_restart_of_all_goes_on_through_a_loss() {
    let rule =
        RestartRule { action: RestartAction::RestartAllContainers, operator: ExitCodeOperator::In, codes: vec![42] };
    let restart = ContainerRestart { policy: Some(Never), rules: vec![rule] };
    let mut sim = Sim::of_containers(Always, vec![init("i"), ContainerSpec { restart, ..app("a") }, app("b")]);
    sim.started(0);
    sim.exited(0, 0);
    sim.all_started(1..3);
    assert_eq!(sim.exited(1, 42), [signal(2)]);
    assert_eq!(sim.step(Event::SandboxLost), [kill(2)]);
    assert_eq!(sim.exited(2, 137), [Action::CreateSandbox]);
    assert_eq!(sim.step(again()), [start(0, 1)]);
}
