use super::*;
use crate::lifecycle::StartFailure;

fn at(seconds: u64) -> Now {
    Now { boot: Duration::from_secs(seconds), wall: Duration::from_secs(1000 + seconds) }
}

fn exit(code: i32) -> Exit {
    Exit { code, signal: None, oom_killed: false, message: String::new() }
}

fn create(container: usize) -> Event {
    Event::Create { container, name: format!("c{container}") }
}

/// A sandbox that is ready at second 0.
fn ready() -> Commanded {
    let mut pod = Commanded::new();
    assert_eq!(pod.step(Event::Begin, at(0)), [Action::CreateSandbox]);
    assert_eq!(pod.step(Event::SandboxReady { ips: vec!["10.0.0.2".into()] }, at(0)), []);
    pod
}

/// With container 0 running.
fn running() -> Commanded {
    let mut pod = ready();
    pod.step(create(0), at(1));
    pod.step(Event::Held { container: 0 }, at(2));
    pod.step(Event::Run { container: 0 }, at(3));
    pod.step(Event::Started { container: 0 }, at(4));
    pod
}

fn report(pod: &Commanded) -> ContainerReport {
    pod.containers().next().unwrap().1
}

#[test]
fn a_container_comes_and_goes_as_it_is_told() {
    let mut pod = ready();
    assert_eq!(pod.step(create(0), at(1)), [Action::Start { container: 0, restart_count: 0 }]);
    assert_eq!(pod.step(Event::Held { container: 0 }, at(2)), []);
    assert_eq!(pod.stage(0), Some(Stage::Created));
    assert_eq!(pod.step(Event::Run { container: 0 }, at(3)), [Action::Run { container: 0 }]);
    assert_eq!(pod.step(Event::Run { container: 0 }, at(3)), [], "once");
    assert_eq!(pod.step(Event::Started { container: 0 }, at(4)), []);
    assert_eq!(pod.step(Event::Exited { container: 0, exit: exit(3) }, at(5)), [], "nobody starts it again");
    let seen = report(&pod);
    let times = [seen.created_at, seen.started_at, seen.finished_at].map(|at| at / 1_000_000_000);
    assert_eq!((seen.stage, times, seen.exit_code, &*seen.reason), (Stage::Exited, [1001, 1004, 1005], 3, "Error"));
    assert_eq!(pod.step(Event::Remove { container: 0 }, at(6)), [Action::Discard { container: 0 }]);
    assert_eq!((pod.stage(0), pod.vacancy()), (None, 0));
    assert_eq!(pod.step(Event::Remove { container: 0 }, at(6)), []);
}

#[test]
fn ends_are_told_apart() {
    let killed = Exit { code: 0, signal: Some(9), oom_killed: false, message: String::new() };
    let rows = [
        ("success", exit(0), (0, "Completed")),
        ("failure", exit(7), (7, "Error")),
        ("signal", killed.clone(), (137, "Error")),
        ("out of memory", Exit { oom_killed: true, ..killed }, (137, "OOMKilled")),
    ];
    for (name, exit, (code, reason)) in rows {
        let mut pod = running();
        pod.step(Event::Exited { container: 0, exit }, at(5));
        assert_eq!((report(&pod).exit_code, &*report(&pod).reason), (code, reason), "{name}");
    }
}

#[test]
fn what_cannot_be_made_is_told_to_who_starts_it() {
    let mut pod = ready();
    pod.step(create(0), at(1));
    let failed = Event::StartFailed { container: 0, failure: StartFailure::Create, message: "no".into() };
    assert_eq!(pod.step(failed, at(2)), []);
    assert_eq!((pod.start_error(0), report(&pod).exit_code), (Some("no"), 128));
    assert_eq!(pod.step(Event::Run { container: 0 }, at(3)), []);
    assert_eq!(pod.step(Event::Remove { container: 0 }, at(4)), [Action::Discard { container: 0 }]);
    assert_eq!(pod.containers().count(), 0);
}

#[test]
fn one_that_is_started_while_it_is_made_runs_when_it_is() {
    let mut pod = ready();
    pod.step(create(0), at(1));
    assert_eq!(pod.step(Event::Run { container: 0 }, at(1)), [Action::Run { container: 0 }]);
    assert_eq!(pod.step(Event::Run { container: 0 }, at(1)), [], "once");
    assert_eq!(pod.step(Event::Held { container: 0 }, at(2)), []);
    assert_eq!(pod.stage(0), Some(Stage::Starting), "who performs has told it to go on");
    assert_eq!(pod.step(Event::Started { container: 0 }, at(3)), []);
    assert_eq!(pod.stage(0), Some(Stage::Running));
}

#[test]
fn a_start_that_fails_leaves_an_exited_container() {
    let mut pod = ready();
    pod.step(create(0), at(1));
    pod.step(Event::Held { container: 0 }, at(2));
    pod.step(Event::Run { container: 0 }, at(3));
    let failure = StartFailure::Start { exit_code: 128 };
    assert_eq!(pod.step(Event::StartFailed { container: 0, failure, message: "no such file".into() }, at(4)), []);
    assert_eq!((pod.stage(0), report(&pod).exit_code), (Some(Stage::Exited), 128));
    assert_eq!(pod.start_error(0), Some("no such file"));
}

#[test]
fn stop_signals_and_then_kills() {
    let grace = |seconds| Event::End { container: 0, grace: Duration::from_secs(seconds) };
    let mut pod = running();
    assert_eq!(pod.step(grace(10), at(10)), [Action::Signal { container: 0 }]);
    assert_eq!(pod.next_deadline(), Some(Duration::from_secs(20)));
    assert_eq!(pod.step(grace(60), at(11)), [], "it cannot be made longer, nor signalled twice");
    assert_eq!(pod.next_deadline(), Some(Duration::from_secs(20)));
    assert_eq!(pod.step(grace(2), at(12)), []);
    assert_eq!(pod.next_deadline(), Some(Duration::from_secs(14)));
    assert_eq!(pod.step(Event::Tick, at(13)), []);
    assert_eq!(pod.step(Event::Tick, at(14)), [Action::Kill { container: 0 }]);
    assert_eq!((pod.step(Event::Tick, at(15)), pod.next_deadline()), (vec![], None), "once");
    assert_eq!(pod.step(grace(60), at(16)), [Action::Kill { container: 0 }], "that may have failed");
    assert_eq!((pod.step(Event::Tick, at(17)), pod.next_deadline()), (vec![], None));

    let mut pod = running();
    assert_eq!(pod.step(grace(0), at(10)), [Action::Kill { container: 0 }], "no time for a signal");

    let mut pod = ready();
    pod.step(create(0), at(1));
    pod.step(Event::Held { container: 0 }, at(2));
    assert_eq!(pod.step(grace(0), at(3)), [], "one that does not run has nothing to stop");
    assert_eq!(pod.step(Event::Remove { container: 0 }, at(3)), [Action::Kill { container: 0 }]);
    assert_eq!(pod.step(Event::Exited { container: 0, exit: exit(137) }, at(4)), [Action::Discard { container: 0 }]);
}

#[test]
fn whoever_takes_over_tells_it_again_to_end() {
    let mut pod = running();
    let end = Event::End { container: 0, grace: Duration::from_secs(5) };
    assert_eq!(pod.step(end, at(10)), [Action::Signal { container: 0 }]);
    assert_eq!(pod.resume(&[Found::Running], at(11)), [Action::Signal { container: 0 }]);
    assert_eq!(pod.step(Event::Tick, at(15)), [Action::Kill { container: 0 }], "at its time");
    assert_eq!(pod.resume(&[Found::Running], at(16)), [Action::Kill { container: 0 }]);
}

#[test]
fn the_sandbox_goes_after_its_containers() {
    let mut pod = running();
    assert_eq!(pod.step(Event::Kill, at(10)), [Action::Kill { container: 0 }]);
    assert!(!pod.goes_on());
    assert_eq!(pod.step(create(1), at(10)), [], "nothing new");
    assert_eq!(pod.step(Event::Exited { container: 0, exit: exit(137) }, at(11)), [Action::DestroySandbox]);
    assert_eq!(pod.step(Event::Kill, at(11)), []);
    assert_eq!(pod.step(Event::SandboxGone, at(12)), [Action::Finished]);
    assert_eq!(pod.status().phase, Phase::Failed);
    assert_eq!(report(&pod).stage, Stage::Exited, "still to be seen");
}

#[test]
fn a_lost_sandbox_waits_to_be_stopped() {
    let mut pod = running();
    assert_eq!(pod.step(Event::SandboxLost, at(5)), []);
    assert!(!pod.goes_on());
    assert_eq!(pod.step(Event::Exited { container: 0, exit: exit(137) }, at(5)), []);
    assert_eq!(pod.step(Event::Kill, at(6)), [Action::DestroySandbox]);
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = Event> {
        let container = 0..3usize;
        (container, 0..12u8, 0..20u64).prop_map(|(container, kind, number)| match kind {
            0 => create(container),
            1 => Event::Held { container },
            2 => Event::Run { container },
            3 => Event::Started { container },
            4 => Event::StartFailed { container, failure: StartFailure::Create, message: String::new() },
            5 | 6 => Event::Exited { container, exit: exit(number as i32) },
            7 => Event::End { container, grace: Duration::from_secs(number) },
            8 => Event::Remove { container },
            9 => Event::Tick,
            10 if number == 0 => Event::Kill,
            10 if number == 1 => Event::SandboxLost,
            _ => Event::SandboxReady { ips: Vec::new() },
        })
    }

    proptest! {
        /// Whatever comes in whatever order: a container is created only where there is none, a sandbox goes once and only
        /// when no container is alive, and after that nothing is asked for but that ended containers be discarded.
        #[test]
        fn nothing_is_done_out_of_turn(events in prop::collection::vec(any_event(), 0..60)) {
            let mut pod = ready();
            let mut destroyed = 0;
            for (second, event) in events.into_iter().enumerate() {
                let before: Vec<_> = (0..3).map(|index| pod.stage(index)).collect();
                for action in pod.step(event, at(second as u64)) {
                    match action {
                        Action::Start { container, .. } => {
                            prop_assert_eq!(before[container], None);
                            prop_assert_eq!(destroyed, 0);
                        }
                        Action::Run { container } => {
                            prop_assert!(matches!(before[container], Some(Stage::Creating | Stage::Created)));
                            prop_assert_eq!(pod.stage(container), Some(Stage::Starting));
                        }
                        Action::Discard { container } => prop_assert_eq!(pod.stage(container), None),
                        Action::Kill { container } => {
                            prop_assert!(pod.stage(container).is_some_and(|stage| stage != Stage::Exited));
                        }
                        Action::DestroySandbox => {
                            destroyed += 1;
                            prop_assert!(pod.containers().all(|(_, seen)| seen.stage == Stage::Exited));
                        }
                        _ => {}
                    }
                }
            }
            prop_assert!(destroyed <= 1);
        }
    }
}

#[test]
fn what_was_kept_goes_on_with_what_is_found() {
    let now = Now { boot: Duration::from_secs(100), wall: Duration::from_secs(1100) };
    let name = |index: usize| Event::Create { container: index, name: format!("c{index}") };
    let mut pod = Commanded::new();
    pod.step(Event::Begin, now);
    pod.step(Event::SandboxReady { ips: vec![] }, now);
    for index in 0..5 {
        pod.step(name(index), now);
    }
    for container in 1..5 {
        pod.step(Event::Held { container }, now);
    }
    for container in 2..5 {
        pod.step(Event::Run { container }, now);
    }
    for container in 3..5 {
        pod.step(Event::Started { container }, now);
    }
    // Being created, created, told to start and not done, running, ended.
    let text = serde_json::to_string(&pod).unwrap();
    let mut pod: Commanded = serde_json::from_str(&text).unwrap();
    let found = [Found::Nothing, Found::Nothing, Found::Running, Found::Running, Found::Ended];
    let actions = pod.resume(&found, now);
    let made = |container| Action::Start { container, restart_count: 0 };
    assert_eq!(actions, [made(0), made(1)]);
    assert_eq!(
        (0..5).map(|index| pod.stage(index).unwrap()).collect::<Vec<_>>(),
        [Stage::Creating, Stage::Creating, Stage::Running, Stage::Running, Stage::Running]
    );
    pod.step(Event::Vanished { container: 4 }, now);
    let (_, lost) = pod.containers().find(|(index, _)| *index == 4).unwrap();
    assert_eq!((lost.exit_code, &*lost.reason), (137, "ContainerStatusUnknown"));
    // A start that is asked for before its init waits again is not lost; that it waits changes nothing.
    assert_eq!(pod.step(Event::Run { container: 1 }, now), [Action::Run { container: 1 }]);
    pod.step(Event::Held { container: 1 }, now);
    assert_eq!(pod.stage(1), Some(Stage::Starting));
}
