//! A made-up survey for tests: two pods, with names and command lines that try to be more than text.

use super::model::*;
use crate::lifecycle::status::Time;

/// A text that would do harm on a terminal and in a page. Never gets through `plain`, and must not have to.
pub(crate) const HOSTILE: &str = "sh -c '</text></svg><script>alert(1)</script>\"&amp;' ]]> --><b onload=x>";

fn namespaces(all: &[(Kind, u64)]) -> Namespaces {
    all.iter().copied().collect()
}

fn usage(used: u64, limit: Option<u64>, files: &[(&str, &str)]) -> Usage {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    Usage { used: Some(used), limit, files }
}

fn process((pid, inside, parent): (i32, i32, i32), command: &str, own: &Namespaces) -> Process {
    let started_ms = 1_764_100_000_150;
    let (command, namespaces) = (command.to_owned(), own.clone());
    Process { pid, inside, parent, command, uid: 65536, resident: Some(1 << 20), started_ms, namespaces }
}

/// The pod of [`survey`] that runs.
fn running() -> Pod {
    let shared = [(Kind::User, 900), (Kind::Net, 901), (Kind::Uts, 902), (Kind::Ipc, 903)];
    let of = |own: u64| {
        let own = [(Kind::Pid, own), (Kind::Mnt, own + 1), (Kind::Cgroup, own + 2), (Kind::Time, 18)];
        namespaces(&[&shared[..], &own].concat())
    };
    let mut app = container("app", "app", State::Running);
    app.namespaces = of(910);
    let mut unshared = of(910);
    unshared.insert(Kind::Mnt, 999);
    app.processes = Processes {
        shown: vec![
            process((4711, 1, 4000), "sh -c while :; do sleep 1; done", &of(910)),
            process((4712, 7, 4711), HOSTILE, &unshared),
        ],
        more: 3,
    };
    app.mounts = Mounts {
        volumes: vec![VolumeMount {
            volume: "data".into(),
            path: "/var/data".into(),
            read_only: true,
            fs_type: "ext4".into(),
        }],
        root: Some(Root { fs_type: "overlay".into(), lower: 2, read_only: false }),
        files: vec![Mount { path: "/etc/hosts".into(), fs_type: "ext4".into(), read_only: false }],
        kernel: vec![Mount { path: "/proc".into(), fs_type: "proc".into(), read_only: false }],
        masks: 12,
        ..Mounts::default()
    };
    app.cgroup = Cgroup {
        path: "/podshim/pod1234/app".into(),
        cpu: usage(120, Some(500), &[("/sys/fs/cgroup/podshim/pod1234/app/cpu.max", "50000 100000")]),
        memory: usage(48 << 20, Some(64 << 20), &[("/sys/fs/cgroup/podshim/pod1234/app/memory.max", "67108864")]),
        pids: usage(5, None, &[("/sys/fs/cgroup/podshim/pod1234/app/pids.max", "max")]),
    };
    let mut side = container("side", "sidecar", State::Running);
    side.namespaces = of(920);
    side.processes.shown = vec![process((4720, 1, 4000), "/facts sleep", &of(920))];
    side.mounts.volumes =
        vec![VolumeMount { volume: "data".into(), path: "/log".into(), read_only: false, fs_type: "ext4".into() }];
    let init = container("setup", "init", State::Terminated { exit_code: 0, reason: "Completed".into() });
    let span = |of: &str, what, from_ms, to_ms, rough| Span { of: of.into(), what, from_ms, to_ms, rough };
    let peer = Peer { name: "veth1234".into(), bridge: "podshim0".into(), addresses: vec!["10.86.0.1/24".into()] };
    let eth0 = Link {
        name: "eth0".into(),
        kind: "veth".into(),
        up: true,
        mac: "02:00:00:00:00:01".into(),
        mtu: 1500,
        addresses: vec!["10.86.0.2/32".into(), "fd00::2/128".into()],
        peer: Some(peer),
    };
    let lo = Link { name: "lo".into(), up: true, mtu: 65536, addresses: vec!["127.0.0.1/8".into()], ..Link::default() };
    Pod {
        pins: namespaces(&shared),
        ids: Some((65536, 65536)),
        containers: vec![init, app, side],
        network: Network {
            mode: "bridge".into(),
            links: vec![lo, eth0],
            routes: vec!["default via 10.86.0.1 dev eth0".into(), "10.86.0.1 dev eth0".into()],
        },
        volumes: vec![Volume {
            name: "data".into(),
            kind: "emptyDir".into(),
            source: "/var/lib/podshim/pods/1234/volumes/data".into(),
        }],
        timeline: vec![
            span("sandbox", Doing::Sandbox, 1_764_100_000_000, Some(1_764_100_000_040), false),
            span("setup", Doing::Run, 1_764_100_000_040, Some(1_764_100_000_100), true),
            span("app", Doing::Create, 1_764_100_000_110, Some(1_764_100_000_150), false),
            span("app", Doing::Run, 1_764_100_000_150, None, false),
        ],
        events: vec![Event {
            time: Time(1_764_100_000),
            warning: true,
            reason: "BackOff".into(),
            object: "container/app".into(),
            message: HOSTILE.into(),
            count: 3,
        }],
        ..pod("web", "Running")
    }
}

fn container(name: &str, kind: &str, state: State) -> Container {
    let layer = |id: &str| Layer { id: id.into(), path: format!("/var/lib/podshim/layers/{id}") };
    Container {
        name: name.into(),
        kind: kind.into(),
        ready: state == State::Running,
        state,
        restart_count: 0,
        image: "busybox:1.28".into(),
        layers: vec![layer("aaaa"), layer("bbbb")],
        writable: format!("/var/lib/podshim/pods/1234/containers/{name}/0"),
        processes: Processes::default(),
        namespaces: Namespaces::new(),
        mounts: Mounts::default(),
        cgroup: Cgroup::default(),
    }
}

fn pod(name: &str, phase: &str) -> Pod {
    Pod {
        namespace: "default".into(),
        name: name.into(),
        uid: "1234".into(),
        phase: phase.into(),
        supervisor: Supervisor::Alive,
        qos: "Burstable".into(),
        hostname: name.into(),
        pins: Namespaces::new(),
        ids: None,
        processes: Processes::default(),
        containers: Vec::new(),
        network: Network { mode: "host".into(), ..Network::default() },
        volumes: Vec::new(),
        cgroup: Cgroup::default(),
        timeline: Vec::new(),
        events: Vec::new(),
        missing: Vec::new(),
    }
}

/// A pod with a user namespace of its own on the bridge, one with the host's network that is over, one whose supervisor is gone
/// and whose processes share the pod's pid namespace.
pub(crate) fn survey() -> Survey {
    let hosts = namespaces(&[
        (Kind::User, 11),
        (Kind::Net, 12),
        (Kind::Uts, 13),
        (Kind::Ipc, 14),
        (Kind::Pid, 15),
        (Kind::Mnt, 16),
        (Kind::Cgroup, 17),
        (Kind::Time, 18),
    ]);
    let mut over = pod("over", "Failed");
    over.supervisor = Supervisor::Over;
    over.containers = vec![container("main", "app", State::Terminated { exit_code: 3, reason: "Error".into() })];
    let mut lost = pod("lost", "Running");
    lost.supervisor = Supervisor::Gone;
    lost.pins = namespaces(&[(Kind::Ipc, 950), (Kind::Pid, 951)]);
    let in_pod = namespaces(&[
        (Kind::User, 11),
        (Kind::Net, 12),
        (Kind::Uts, 13),
        (Kind::Ipc, 950),
        (Kind::Pid, 951),
        (Kind::Mnt, 952),
        (Kind::Cgroup, 953),
    ]);
    let mut main = container("main", "app", State::Running);
    main.processes.shown = vec![process((5001, 8, 5000), "/facts sleep", &in_pod)];
    main.namespaces = in_pod.clone();
    lost.containers = vec![main];
    lost.processes.shown = vec![Process { uid: 0, ..process((5000, 1, 1), "[podshim]", &in_pod) }];
    lost.missing = vec!["the pod's network: open /run/x: ENOENT".into()];
    let name = "teacher".to_owned();
    Survey {
        taken: Time(1_764_100_003),
        host: Host { name, kernel: "6.1.0".into(), cgroups: "v2".into(), namespaces: hosts },
        pods: vec![running(), over, lost],
    }
}
