//! §9 and §11: the deadline, and the size of termination messages.

use super::*;

fn spec(containers: Vec<ContainerSpec>) -> PodSpec {
    PodSpec { active_deadline: Some(secs(100)), ..pod_of(Always, containers) }
}

fn is_exceeded(sim: &Sim) {
    let status = sim.status();
    assert_eq!((status.phase, status.reason.as_str()), (Phase::Failed, "DeadlineExceeded"));
    assert_eq!(status.message, "Pod was active on the node longer than the specified deadline");
    let told = sim.events.iter().filter(|e| e.starts_with("DeadlineExceeded: Pod was active on the node")).count();
    assert_eq!(told, 1);
}

#[test]
fn s9_the_containers_are_ended_gracefully_and_the_pod_has_failed() {
    let mut sim = Sim::with_sandbox(spec(vec![app("a"), app("b")]));
    sim.started(0);
    sim.started(1);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (100, &[signal(0), signal(1)][..]));
    assert_eq!((sim.phase(), sim.status().reason.as_str()), (Phase::Running, ""), "until they are gone");
    assert_eq!(sim.pod.deletion_timestamp(), None, "nobody deleted it");
    assert_eq!((sim.exited(0, 0).len(), sim.tick()), (0, 30));
    assert_eq!(sim.asked, [kill(1)]);
    assert_eq!(sim.exited(1, 0), [Action::DestroySandbox], "nothing is restarted");
    is_exceeded(&sim);
    assert_eq!(pod_exit_code(&sim.status()), 1, "though all exited 0");
}

#[test]
fn s9_the_clock_begins_with_the_admission() {
    // While the sandbox is being made …
    let mut sim = Sim::admitted(spec(vec![app("a")]));
    sim.step(Event::Begin);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (100, &[][..]));
    assert_eq!(sim.step(Event::SandboxReady { ips: vec![] }), [Action::DestroySandbox]);
    is_exceeded(&sim);
    // … while it is waited for another try …
    let mut sim = Sim::admitted(spec(vec![app("a")]));
    sim.step(Event::Begin);
    sim.at(95, Event::SandboxFailed { message: String::new() });
    assert_eq!((sim.tick(), sim.asked.as_slice()), (5, &[Action::Finished][..]));
    is_exceeded(&sim);
    // … while an image is being pulled …
    let mut sim = Sim::with_sandbox(spec(vec![app("a")]));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (100, &[Action::CancelStart { container: 0 }][..]));
    sim.pull_failed(0, ImageFailure::Pull);
    is_exceeded(&sim);
    // … and while it is initialised.
    let mut sim = Sim::with_sandbox(spec(vec![init("i"), app("a")]));
    sim.started(0);
    assert_eq!((sim.tick(), sim.asked.as_slice()), (100, &[signal(0)][..]));
    assert_eq!(sim.exited(0, 143), [Action::DestroySandbox]);
    is_exceeded(&sim);
    assert_eq!(sim.waiting("a"), "PodInitializing: ");
}

#[test]
fn s9_a_pod_that_ends_before_has_nothing_to_fear() {
    let mut sim = Sim::with_sandbox(PodSpec { restart_policy: Never, ..spec(vec![sidecar("s"), app("a")]) });
    sim.started(0);
    sim.started(1);
    sim.now = 99;
    assert_eq!(sim.exited(1, 0), [signal(0)]);
    sim.at(101, Event::Tick);
    sim.exited(0, 0);
    assert_eq!((sim.phase(), sim.status().reason.as_str()), (Phase::Succeeded, ""));
}

#[test]
fn s9_a_stop_after_the_deadline_can_shorten_it() {
    let mut sim = Sim::with_sandbox(spec(vec![app("a")]));
    sim.started(0);
    sim.tick();
    sim.step(stop(Some(5)));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (5, &[kill(0)][..]));
    sim.exited(0, 137);
    is_exceeded(&sim);
}

#[test]
fn s9_the_deadline_can_be_changed() {
    let mut sim = Sim::with_sandbox(pod_of(Always, vec![app("a")]));
    sim.started(0);
    assert_eq!(sim.pod.next_deadline(), None);
    sim.now = 10;
    sim.step(Event::DeadlineChanged(Some(secs(15))));
    assert_eq!((sim.tick(), sim.asked.as_slice()), (5, &[signal(0)][..]), "it counts from the admission");
    let mut sim = Sim::with_sandbox(pod_of(Always, vec![app("a")]));
    sim.started(0);
    sim.now = 10;
    assert_eq!(sim.step(Event::DeadlineChanged(Some(secs(5)))), [signal(0)], "over already");
}

#[test]
fn s11_a_pods_messages_share_12288_bytes() {
    let long = "é".repeat(3000);
    for (count, each) in [(1, 6000), (3, 4096), (5, 2456)] {
        let mut sim = Sim::of_containers(Never, (0..count).map(|n| app(&format!("a{n}"))).collect());
        sim.all_started(0..count);
        sim.step(Event::Exited { container: 0, exit: Exit { message: long.clone(), ..exit(1) } });
        let message = sim.of("a0").state.terminated.unwrap().message;
        assert_eq!((message.len(), long.starts_with(&message)), (each, true), "{count}: the beginning is kept");
    }
}
