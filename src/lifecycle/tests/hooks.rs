//! §7 and §8: hooks, and what they take from the grace period.

use super::*;

fn hooked(name: &str, post_start: Option<Hook>, pre_stop: Option<Hook>) -> ContainerSpec {
    ContainerSpec { post_start, pre_stop, ..app(name) }
}

#[test]
fn s7_post_start_is_part_of_the_start() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", Some(Hook::Perform), None), app("b")]);
    assert_eq!(sim.started(0), [perform(0, Task::PostStart)], "b waits");
    assert_eq!(sim.pod.next_deadline(), None, "it has no time-out of its own");
    assert_eq!((sim.waiting("a"), sim.phase()), ("ContainerCreating: ".into(), Phase::Pending));
    assert!(!sim.of("a").started && !sim.of("a").ready);
    assert_eq!(sim.performed(0, Task::PostStart, Outcome::Success), [start(1, 0)]);
    assert!(sim.of("a").state.running.is_some() && sim.of("a").started);
    sim.started(1);
    assert_eq!(sim.phase(), Phase::Running);
}

#[test]
fn s7_a_sleeping_post_start_ends_by_itself() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", Some(Hook::Sleep(secs(3))), None), app("b")]);
    assert_eq!(sim.started(0), []);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (3, &[start(1, 0)][..]));
    let mut sim = Sim::of_containers(Always, vec![hooked("a", Some(Hook::Sleep(secs(0))), None), app("b")]);
    assert_eq!(sim.started(0), [start(1, 0)], "zero seconds are none");
}

#[test]
fn s7_a_failed_post_start_ends_the_container_which_is_restarted_by_its_policy() {
    for (policy, code, again) in [(Always, 0, true), (OnFailure, 143, true), (OnFailure, 0, false), (Never, 143, false)]
    {
        let mut sim = Sim::of_containers(policy, vec![hooked("a", Some(Hook::Perform), None), app("b")]);
        sim.started(0);
        let asked = sim.performed(0, Task::PostStart, Outcome::Failure("exit 1".into())).to_vec();
        assert_eq!(asked, [signal(0), start(1, 0)], "b's start goes on");
        assert_eq!(sim.waiting("a"), "PostStartHookError: exit 1");
        assert_eq!(sim.events[2], "FailedPostStartHook: PostStartHook failed: exit 1");
        assert!(sim.events[3].starts_with("Killing: FailedPostStartHook"), "{}", sim.events[3]);
        sim.started(1);
        let asked = sim.exited(0, code);
        if again {
            assert_eq!(asked, [start(0, 1)], "{policy:?} {code}");
            assert_eq!(sim.waiting("a"), "PostStartHookError: exit 1", "until it runs again");
            sim.started(0);
            sim.performed(0, Task::PostStart, failure());
            sim.exited(0, 1);
            assert!(sim.waiting("a").starts_with("CrashLoopBackOff: back-off 10s"), "{}", sim.waiting("a"));
        } else {
            assert_eq!(asked, [], "{policy:?} {code}");
            assert!(sim.of("a").state.terminated.is_some());
        }
    }
}

#[test]
fn s7_a_failed_post_start_runs_the_pre_stop_hook_too() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", Some(Hook::Perform), Some(Hook::Perform))]);
    sim.started(0);
    assert_eq!(sim.performed(0, Task::PostStart, failure()), [perform(0, Task::PreStop)]);
    assert_eq!(sim.performed(0, Task::PreStop, Outcome::Success), [signal(0)]);
}

#[test]
fn s7_pre_stop_comes_before_the_signal_and_counts_in_the_grace_period() {
    for (given, took, left) in [(30, 4, 26), (10, 9, 2), (3, 2, 2)] {
        let mut sim = Sim::of_containers(Always, vec![hooked("a", None, Some(Hook::Perform))]);
        sim.started(0);
        assert_eq!(sim.step(stop(Some(given))), [perform(0, Task::PreStop)]);
        assert_eq!(sim.last_event(), "Killing: Stopping container a");
        sim.now = took;
        assert_eq!(sim.performed(0, Task::PreStop, Outcome::Success), [signal(0)]);
        assert_eq!((sim.tick(), sim.asked.as_slice()), (left, &[kill(0)][..]), "{given} - {took}");
    }
}

#[test]
fn s7_parts_of_a_second_that_a_hook_took_are_given_back() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", None, Some(Hook::Perform))]);
    sim.started(0);
    sim.step(stop(Some(10)));
    let at = |millis: u64| {
        let boot = Duration::from_millis(millis);
        Now { boot, wall: secs(EPOCH) + boot }
    };
    let performed = Event::Performed { container: 0, task: Task::PreStop, outcome: Outcome::Success };
    assert_eq!(sim.pod.step(performed, at(1500)), [signal(0)]);
    assert_eq!(sim.pod.next_deadline(), Some(Duration::from_millis(10_500)), "10 s less one whole second");
}

#[test]
fn s7_a_hook_that_takes_too_long_leaves_two_seconds() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", None, Some(Hook::Perform))]);
    sim.started(0);
    sim.step(stop(Some(5)));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (5, &[signal(0)][..]));
    assert!(sim.last_event().starts_with("FailedPreStopHook: "), "{}", sim.last_event());
    assert_eq!(sim.performed(0, Task::PreStop, failure()), [], "its answer comes too late");
    assert_eq!((sim.tick(), sim.asked.as_slice()), (2, &[kill(0)][..]));
}

#[test]
fn s7_a_failed_pre_stop_is_told_and_the_end_goes_on() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", None, Some(Hook::Perform))]);
    sim.started(0);
    sim.step(stop(None));
    assert_eq!(sim.performed(0, Task::PreStop, Outcome::Error("not found".into())), [signal(0)]);
    assert_eq!(sim.last_event(), "FailedPreStopHook: PreStopHook failed: not found");
}

#[test]
fn s7_a_sleeping_pre_stop() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", None, Some(Hook::Sleep(secs(4))))]);
    sim.started(0);
    assert_eq!(sim.step(stop(None)), []);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (4, &[signal(0)][..]));
    assert_eq!(sim.tick(), 26);
    // A stop that leaves less than it sleeps cuts it short.
    let mut sim = Sim::of_containers(Always, vec![hooked("a", None, Some(Hook::Sleep(secs(4))))]);
    sim.started(0);
    sim.step(stop(Some(3)));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (3, &[signal(0)][..]));
}

#[test]
fn s7_pre_stop_is_not_run_when_the_container_ends_by_itself_or_is_killed() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", None, Some(Hook::Perform))]);
    sim.started(0);
    assert_eq!(sim.exited(0, 1), [start(0, 1)]);
    sim.started(0);
    assert_eq!(sim.step(Event::Kill), [kill(0)]);
}

#[test]
fn s7_a_container_that_ends_during_its_pre_stop_needs_no_signal() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", None, Some(Hook::Perform))]);
    sim.started(0);
    sim.step(stop(None));
    assert_eq!(sim.exited(0, 0), [Action::DestroySandbox]);
}

#[test]
fn s7_https_hooks_that_were_answered_in_http_are_told_of() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", Some(Hook::Perform), Some(Hook::Perform))]);
    sim.started(0);
    sim.performed(0, Task::PostStart, Outcome::Warning("in clear".into()));
    assert_eq!(sim.last_event(), "LifecycleHTTPFallback: in clear");
    assert!(sim.of("a").started);
    sim.step(stop(None));
    assert_eq!(sim.performed(0, Task::PreStop, Outcome::Warning("in clear".into())), [signal(0)]);
}

#[test]
fn s8_a_stop_finds_each_stage_of_an_end_and_shortens_it() {
    // In its hook …
    let mut sim = Sim::of_containers(Always, vec![hooked("a", None, Some(Hook::Perform))]);
    sim.started(0);
    sim.step(stop(Some(100)));
    assert_eq!(sim.at(1, stop(Some(5))), []);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (5, &[signal(0)][..]));
    // … in line …
    let mut sim = Sim::of_containers(Always, vec![sidecar("s"), app("a")]);
    sim.all_started(0..2);
    sim.step(stop(Some(100)));
    sim.at(1, stop(Some(5)));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (5, &[signal(0), kill(1)][..]));
    // … and with its signal, never below two seconds.
    let mut sim = Sim::of_containers(Always, vec![app("a")]);
    sim.started(0);
    sim.step(stop(Some(100)));
    sim.at(1, stop(Some(0)));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (2, &[kill(0)][..]));
}

#[test]
fn s8_kill_ends_each_stage_at_once() {
    let mut sim = Sim::of_containers(Always, vec![sidecar("s"), hooked("a", None, Some(Hook::Perform)), app("b")]);
    sim.all_started(0..3);
    assert_eq!(sim.step(stop(None)), [perform(1, Task::PreStop), signal(2)]);
    assert_eq!(sim.step(Event::Kill), [kill(0), kill(1), kill(2)]);
    assert_eq!(sim.pod.next_deadline(), None);
}

#[test]
fn s8_a_stop_during_post_start_ends_the_container() {
    let mut sim = Sim::of_containers(Always, vec![hooked("a", Some(Hook::Perform), Some(Hook::Perform)), app("b")]);
    sim.started(0);
    assert_eq!(sim.step(stop(None)), [perform(0, Task::PreStop)]);
    assert_eq!(sim.performed(0, Task::PreStop, Outcome::Success), [signal(0)]);
    assert_eq!(sim.exited(0, 143), [Action::DestroySandbox]);
}
