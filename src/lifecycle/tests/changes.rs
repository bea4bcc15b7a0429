//! What changes about a pod that runs: readiness gates (§21), ephemeral containers, `podshim apply`.

use super::*;

fn ephemeral(name: &str) -> Event {
    Event::Join(Box::new(ContainerSpec::new(name, ContainerKind::Ephemeral, "img")))
}

fn condition(type_: &str, holds: bool) -> Event {
    Event::SetCondition { type_: type_.into(), holds, reason: "R".into(), message: "m".into() }
}

#[test]
fn s21_ready_waits_for_the_readiness_gates() {
    let gates = vec!["example.com/a".to_owned(), "example.com/b".to_owned()];
    let mut sim = Sim::with_sandbox(PodSpec { readiness_gates: gates, ..pod_of(Always, vec![app("a")]) });
    assert_eq!(sim.condition("Ready"), "False ContainersNotReady containers with unready status: [a]");
    sim.started(0);
    assert_eq!(sim.condition("ContainersReady"), "True");
    assert_eq!(
        sim.condition("Ready"),
        "False ReadinessGatesNotReady corresponding condition of pod readiness gate \"example.com/a\" does not exist., \
         corresponding condition of pod readiness gate \"example.com/b\" does not exist."
    );
    sim.step(condition("example.com/a", true));
    sim.step(condition("example.com/b", false));
    assert_eq!(
        sim.condition("Ready"),
        "False ReadinessGatesNotReady the status of pod readiness gate \"example.com/b\" is not \"True\", but False"
    );
    sim.now = 7;
    sim.step(condition("example.com/b", true));
    assert_eq!((sim.condition("Ready"), sim.condition("example.com/b")), ("True".into(), "True R m".into()));
    let ready = sim.status().conditions.into_iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.last_transition_time, Time((EPOCH + 7) as i64));
    sim.exited(0, 1);
    assert_eq!(sim.condition("Ready"), "False ContainersNotReady containers with unready status: [a]");
}

#[test]
fn an_ephemeral_container_joins_at_once_and_is_of_no_consequence() {
    for policy in [Always, Never] {
        let mut sim = Sim::of_containers(policy, vec![init("i"), app("a")]);
        sim.started(0);
        assert_eq!(sim.step(ephemeral("e")), [start(2, 0)], "also while the pod is initialised");
        assert_eq!(sim.waiting("e"), "ContainerCreating: ");
        sim.started(2);
        assert!(sim.of("e").state.running.is_some());
        assert_eq!(sim.exited(0, 0), [start(1, 0)]);
        sim.started(1);
        assert_eq!(sim.condition("Ready"), "True", "{policy:?}");
        assert_eq!(sim.exited(2, 3), [], "never restarted");
        assert_eq!((sim.terminated("e"), sim.phase()), ("Error 3".into(), Phase::Running));
    }
}

#[test]
fn an_ephemeral_container_ends_with_its_pod() {
    let mut sim = Sim::of_containers(Never, vec![app("a")]);
    sim.started(0);
    sim.step(ephemeral("e"));
    sim.started(1);
    assert_eq!(sim.exited(0, 0), [signal(1)]);
    assert_eq!(sim.exited(1, 1), [Action::DestroySandbox]);
    assert_eq!((sim.phase(), pod_exit_code(&sim.status())), (Phase::Succeeded, 0));

    let mut sim = Sim::of_containers(Always, vec![sidecar("s"), app("a")]);
    sim.all_started(0..2);
    sim.step(ephemeral("e"));
    sim.started(2);
    assert_eq!(sim.step(stop(None)), [signal(1), signal(2)]);
    assert_eq!(sim.exited(1, 0), [signal(0)], "a sidecar does not serve it");
}

#[test]
fn nothing_joins_a_pod_that_ends() {
    let mut sim = Sim::of_containers(Always, vec![app("a")]);
    sim.started(0);
    sim.step(stop(None));
    assert!(!sim.pod.goes_on());
    assert_eq!(sim.step(ephemeral("e")), []);
    assert_eq!(sim.pod.spec().containers.len(), 1);
    assert_eq!(sim.step(condition("x", true)), []);
    assert!(sim.status().conditions.iter().all(|c| c.type_ != "x"));
}

#[test]
fn only_ephemeral_containers_join() {
    let mut sim = Sim::of_containers(Always, vec![app("a")]);
    sim.started(0);
    assert_eq!(sim.step(Event::Join(Box::new(app("b")))), []);
    assert_eq!(sim.pod.spec().containers.len(), 1);
}

fn redefined(container: usize) -> Event {
    Event::Redefined { container, image: "other".into() }
}

#[test]
fn s1_a_container_whose_image_changed_is_restarted_whatever_its_policy() {
    for policy in [Always, OnFailure, Never] {
        let mut a = app("a");
        a.pre_stop = Some(Hook::Perform);
        let mut sim = Sim::of_containers(policy, vec![a, app("b")]);
        sim.all_started(0..2);
        assert_eq!(sim.step(redefined(0)), [perform(0, Task::PreStop)], "{policy:?}");
        assert_eq!(sim.last_event(), "Killing: Container a definition changed, will be restarted");
        assert_eq!(sim.performed(0, Task::PreStop, Outcome::Success), [signal(0)]);
        assert_eq!(sim.exited(0, 0), [start(0, 1)], "{policy:?}");
        assert_eq!(sim.started(0), [], "{policy:?}: once");
        assert_eq!((sim.of("a").image.as_str(), sim.of("b").restart_count), ("other", 0));
    }
}

#[test]
fn s5_another_image_or_other_resources_forget_the_back_off() {
    for event in [redefined(0), resized(0, Resize::NotRequired)] {
        let mut sim = Sim::of_containers(Always, vec![app("a")]);
        sim.started(0);
        for _ in 0..3 {
            if sim.exited(0, 1).is_empty() {
                sim.tick();
            }
            sim.started(0);
        }
        sim.exited(0, 1);
        assert!(sim.waiting("a").contains("back-off 40s"));
        assert_eq!(sim.step(event.clone()), [start(0, 4)], "{event:?}");
        sim.started(0);
        sim.exited(0, 1);
        assert!(sim.waiting("a").contains("back-off 10s"), "{event:?}: {}", sim.waiting("a"));
    }
}

#[test]
fn s10_another_image_is_pulled_at_once() {
    let mut sim = Sim::of_containers(Always, vec![app("a")]);
    sim.pull_failed(0, ImageFailure::Pull);
    assert_eq!(sim.step(redefined(0)), [start(0, 0)]);
    sim.pull_failed(0, ImageFailure::Pull);
    assert!(sim.events.last().unwrap().contains("ErrImagePull"));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (10, &[start(0, 0)][..]), "the first pause again");
}

#[test]
fn an_image_that_changes_during_a_start_is_started_next() {
    let mut sim = Sim::of_containers(Never, vec![app("a")]);
    sim.created(0);
    assert_eq!(sim.step(redefined(0)), []);
    assert_eq!(sim.started(0), [signal(0)], "what was created is of the old one");
    assert_eq!(sim.exited(0, 143), [start(0, 1)]);
    // The old one is being pulled.
    assert_eq!(sim.step(redefined(0)), [Action::CancelStart { container: 0 }]);
    let told = sim.events.len();
    assert_eq!(sim.step(redefined(0)), [], "once");
    assert_eq!(sim.pull_failed(0, ImageFailure::Pull), [start(0, 1)], "at once");
    assert_eq!(sim.events.len(), told, "that it failed was wanted");
    assert_eq!(sim.started(0), [], "what was created is of the new one");
}

#[test]
fn s2_an_init_container_that_has_done_its_work_is_not_run_again_for_another_image() {
    let mut sim = Sim::of_containers(Always, vec![init("i"), app("a")]);
    sim.started(0);
    sim.exited(0, 0);
    sim.started(1);
    assert_eq!(sim.step(redefined(0)), []);
    assert_eq!(sim.of("i").image, "other");
    assert_eq!(sim.exited(1, 1), [start(1, 1)]);
}

#[test]
fn changes_of_containers_that_are_not_there_change_nothing() {
    let mut sim = Sim::of_containers(Always, vec![app("a")]);
    sim.started(0);
    let before = sim.pod.clone();
    for event in [redefined(1), resized(1, Resize::RestartContainer)] {
        assert_eq!(sim.step(event), []);
        assert_eq!(sim.pod, before);
    }
}

#[test]
fn s20_a_container_is_restarted_for_its_resources_where_its_policy_says_so() {
    for policy in [Always, OnFailure] {
        let mut sim = Sim::of_containers(policy, vec![app("a"), app("b")]);
        sim.all_started(0..2);
        assert_eq!(sim.step(resized(0, Resize::NotRequired)), [], "{policy:?}");
        assert_eq!(sim.step(resized(0, Resize::RestartContainer)), [signal(0)], "{policy:?}");
        assert_eq!(sim.last_event(), "Killing: Container a resize requires restart");
        assert_eq!(sim.condition("PodResizeInProgress"), "True");
        assert_eq!([0, 1, 2].map(|index| sim.pod.is_stale(index)), [true, false, false]);
        assert_eq!(sim.exited(0, 0), [start(0, 1)], "{policy:?}: whatever it exits with");
        sim.started(0);
        assert!(sim.status().conditions.iter().all(|c| c.type_ != "PodResizeInProgress") && !sim.pod.is_stale(0));
        assert_eq!((sim.of("a").restart_count, sim.of("b").restart_count), (1, 0));
    }
    // One that does not run gets them when it starts.
    let mut sim = Sim::of_containers(Always, vec![app("a")]);
    sim.started(0);
    sim.exited(0, 1);
    sim.started(0);
    sim.exited(0, 1);
    assert_eq!(sim.step(resized(0, Resize::RestartContainer)), [start(0, 2)]);
    assert_eq!(sim.step(resized(0, Resize::RestartContainer)), [], "nothing is created yet");
    assert_eq!(sim.started(0), [], "once");
    // Of what is new in both, the image is told.
    let resize_restart = || resized(0, Resize::RestartContainer);
    for events in [[redefined(0), resize_restart()], [resize_restart(), redefined(0)]] {
        let mut sim = Sim::of_containers(Always, vec![app("a")]);
        let [first, second] = events;
        sim.created(0);
        sim.step(first);
        sim.step(second);
        assert_eq!(sim.started(0), [signal(0)]);
        assert_eq!(sim.last_event(), "Killing: Container a definition changed, will be restarted");
    }
}

/// So many bytes of memory, of which another number takes a restart.
fn fixed(bytes: i64) -> Fixed {
    Fixed { memory: Some((Some(bytes), None)), ..Fixed::default() }
}

fn resized(container: usize, resize: Resize) -> Event {
    Event::Resized { container, resize, fixed: fixed(2) }
}

/// What a running pod does when another supervisor takes it over, by whose record its container is as given.
fn taken_over(sim: &mut Sim, kept: serde_json::Value, container: ContainerSpec) -> Vec<Action> {
    let now = Now { boot: secs(sim.now), wall: secs(EPOCH + sim.now) };
    let kept: PodState = serde_json::from_value(kept).unwrap();
    let (pod, actions) = kept.resume(pod_of(Always, vec![container]), &[Found::Running], now);
    assert!(actions.is_empty(), "{actions:?}");
    sim.pod = pod;
    sim.step(Event::Tick).to_vec()
}

#[test]
fn s20_a_resize_that_its_supervisor_died_over_is_found_in_the_record() {
    let of = |bytes: i64| ContainerSpec { fixed: Some(fixed(bytes)), ..app("a") };
    let running = || {
        let mut sim = Sim::of_containers(Always, vec![of(1)]);
        sim.started(0);
        sim
    };
    let kept = |sim: &Sim| serde_json::to_value(&sim.pod).unwrap();
    let mut sim = running();
    let before = kept(&sim);
    assert_eq!(taken_over(&mut sim, before, of(1)), [], "nothing was changed");
    let before = kept(&sim);
    assert_eq!(taken_over(&mut sim, before, of(2)), [signal(0)]);
    assert_eq!(sim.last_event(), "Killing: Container a resize requires restart");
    assert_eq!(sim.exited(0, 0), [start(0, 1)]);
    sim.started(0);
    let before = kept(&sim);
    assert_eq!(taken_over(&mut sim, before, of(2)), [], "once");
    // Told to the machine, it is no news to the next one.
    let mut sim = running();
    assert_eq!(sim.step(resized(0, Resize::RestartContainer)), [signal(0)]);
    sim.exited(0, 0);
    sim.started(0);
    let before = kept(&sim);
    assert_eq!(taken_over(&mut sim, before, of(2)), []);
    // An older podshim has not kept what it was: nothing is restarted on a suspicion.
    let mut sim = running();
    let mut before = kept(&sim);
    assert!(before["spec"]["containers"][0].as_object_mut().unwrap().remove("fixed").is_some());
    assert_eq!(taken_over(&mut sim, before, of(2)), []);
    // Another image is the more to be told.
    let mut sim = running();
    let before = kept(&sim);
    assert_eq!(taken_over(&mut sim, before, ContainerSpec { image: "other".into(), ..of(2) }), [signal(0)]);
    assert_eq!(sim.last_event(), "Killing: Container a definition changed, will be restarted");
}
