//! `cargo bench`: what the pure parts cost, in nanoseconds per operation: a manifest read and admitted, a pod planned, the steps of
//! a pod's life. Each is the least of several runs, as the others were disturbed.
//!
//! The first manifest of a process is a figure of its own: tables are made when they are first used, and a command reads one.

use podshim::lifecycle::{ContainerKind, ContainerSpec, Event, Now, PodSpec, PodState, RestartPolicy};
use podshim::manifest::{AdmittedPod, Source, admit};
use podshim::plan::config::{NetworkMode, SecurityChoices, SwapBehavior};
use podshim::plan::pod::{Choices, Node, pod_plan};
use std::hint::black_box;
use std::time::{Duration, Instant};

const SMALL: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: bench}
spec:
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  initContainers:
  - {name: init, image: busybox, command: [\"true\"]}
  containers:
  - {name: one, image: busybox, command: [sleep, \"1\"]}
  - {name: two, image: busybox, command: [sleep, \"1\"]}
";

fn source(text: &str) -> [Source; 1] {
    [Source { name: "pod.yaml".into(), text: text.into() }]
}

fn admitted(source: &[Source; 1]) -> Vec<AdmittedPod> {
    admit(source).unwrap_or_else(|faults| panic!("{faults}"))
}

fn choices() -> Choices {
    Choices {
        uid: "00000000-0000-4000-8000-000000000001".into(),
        network: NetworkMode::None,
        bridge: None,
        cgroup_parent: String::new(),
        resolv_conf: None,
        log_directory: "/var/log/podshim/pods/x".into(),
        host_memory: 8 << 30,
        node: Node { name: "node-1".into(), cpus: 4, storage: 100 << 30 },
        pids_limit: Some(2048),
        swap: SwapBehavior::NoSwap,
        pull: None,
        security: SecurityChoices::default(),
        services: Vec::new(),
    }
}

/// A pod's life from its beginning until two app containers run; how many steps it took.
fn life() -> u32 {
    let of = |name, kind| ContainerSpec::new(name, kind, "busybox");
    let spec = PodSpec {
        name: "bench".into(),
        namespace: "default".into(),
        uid: "u".into(),
        restart_policy: RestartPolicy::Always,
        grace: Duration::from_secs(30),
        active_deadline: None,
        readiness_gates: Vec::new(),
        containers: vec![of("one", ContainerKind::App), of("two", ContainerKind::App)],
    };
    let now = Now { boot: Duration::from_secs(1), wall: Duration::from_secs(1_800_000_000) };
    let mut pod = PodState::new(spec, now);
    let created = |container| {
        let (container_id, image_id) = ("podshim://c".into(), "sha256:i".into());
        [Event::Created { container, container_id, image_id }, Event::Started { container }]
    };
    let events = [Event::Begin, Event::SandboxReady { ips: vec!["10.0.0.2".into()] }];
    let events = events.into_iter().chain(created(0)).chain(created(1)).chain([Event::Tick]);
    let mut steps = 0;
    for event in events {
        black_box(pod.step(event, now));
        steps += 1;
    }
    steps
}

/// Prints nanoseconds per operation; one call of `work` does `operations` of them.
fn measure(name: &str, operations: u32, mut work: impl FnMut()) {
    let mut least = Duration::MAX;
    let whole = Instant::now();
    for run in 0.. {
        // Long enough for the clock, short enough not to be disturbed.
        let (begin, mut calls) = (Instant::now(), 0);
        while calls == 0 || begin.elapsed() < Duration::from_millis(20) {
            work();
            calls += 1;
        }
        least = least.min(begin.elapsed() / calls / operations);
        if run > 2 && whole.elapsed() > Duration::from_millis(500) {
            break;
        }
    }
    print(name, least);
}

fn print(name: &str, took: Duration) {
    println!("{name:60} {:>12} ns/op", took.as_nanos());
}

fn main() {
    let small = source(SMALL);
    let begin = Instant::now();
    let pod = admitted(&small);
    print("manifest of 1 init and 2 app containers: the first one", begin.elapsed());
    measure("manifest of 1 init and 2 app containers: a further one", 1, || {
        black_box(admitted(&small));
    });
    let large = source(include_str!("../pods/elastic-stack.yaml"));
    measure("tests/pods/elastic-stack.yaml", 1, || {
        black_box(admitted(&large));
    });
    measure("plan of the pod", 1, || {
        black_box(pod_plan(&pod[0], choices()).expect("a plan"));
    });
    measure("lifecycle: a step", life(), || {
        black_box(life());
    });
}
