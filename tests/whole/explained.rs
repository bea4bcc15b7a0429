//! `podshim run --explain` and `--step`, `podshim explain POD`: what is told is what was done.

use crate::harness::{Host, Live, facts, pod, shell, until, with};
use podshim::paths::PodDirs;
use podshim::runtime::Step;
use podshim::supervisor::timeline::{Act, Entry, Tail, What, Who};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

/// What is written of a pod's making.
fn timeline(host: &Host, pod: &str) -> Vec<Entry> {
    let uid = host.uid(pod);
    let dirs = PodDirs { state: host.path("state/pods").join(&uid), data: host.path("root/pods").join(&uid) };
    Tail::new(&dirs).read().unwrap()
}

/// The steps that a container's inits have performed: pid and step.
fn steps<'a>(entries: &'a [Entry], container: &str) -> Vec<(i32, &'a Step, &'a Entry)> {
    let of = |entry: &'a Entry| match (&entry.who, &entry.what) {
        (Who::Init { container: name, pid, .. }, What::Step(step)) if name == container => Some((*pid, step, entry)),
        _ => None,
    };
    entries.iter().filter_map(of).collect()
}

/// The process that does or waits for something, by the latest entry.
fn last_pid(host: &Host, pod: &str) -> i32 {
    let of = |entry: Entry| match entry.who {
        Who::Init { pid, .. } => Some(pid),
        Who::Supervisor => None,
    };
    timeline(host, pod).into_iter().filter_map(of).next_back().expect("an init")
}

/// The link of a namespace of a process.
fn namespace(pid: i32, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

fn once(name: &str, containers: Value, more: Value) -> Value {
    pod(
        name,
        with(json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers }), more),
    )
}

#[test]
fn numbers_are_the_kernels_and_the_story_is_kept() {
    let Some(host) = Host::new(&[]) else { return };
    let container =
        with(shell("app", "echo ready; exec sleep 1000"), json!({ "env": [{ "name": "KEY", "value": "s3cret" }] }));
    let spec = json!({
        "volumes": [{ "name": "data", "emptyDir": {} }],
        "initContainers": [facts("before", &["exit", "0"])],
        "containers": [with(container, json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }))],
    });
    let said = host.run(&["run", "-d", "--explain=full", &host.manifest(&pod("told", spec))]).expect(0);
    assert_eq!(said.out, "default/told\n");
    let entries = timeline(&host, "told");
    // What the supervisor made has the numbers that /proc has.
    let pid = host.pid("told", "app");
    let answer = |wanted: &dyn Fn(&Act) -> bool| {
        let found = entries.iter().find(|e| matches!(&e.what, What::Act(act) if wanted(act)));
        found.unwrap_or_else(|| panic!("{entries:#?}")).answer.clone()
    };
    let shared = answer(&|act| *act == Act::Namespaces);
    for kind in ["net", "ipc", "uts"] {
        assert!(shared.contains(&namespace(pid, kind)), "{kind} {} in {shared}", namespace(pid, kind));
    }
    let own = answer(&|act| *act == Act::Init { container: "app".into() });
    assert_eq!(own, format!("pid {pid}: {}", namespace(pid, "pid")));
    assert!(answer(&|act| *act == Act::Volume { name: "data".into() }).ends_with("/volumes/data"));
    let performed = steps(&entries, "app");
    for (wanted, kind) in [(Step::NewCgroupNamespace, "cgroup"), (Step::EmptyMountNamespace, "mnt")] {
        let own = performed.iter().find(|(_, step, _)| **step == wanted).unwrap().2;
        assert_eq!(own.calls.last().unwrap().answer, namespace(pid, kind));
    }
    // A mount that was made is in the container's list by its id.
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let is_proc = |step: &Step| matches!(step, Step::MountFileSystem { kind, .. } if kind == "proc");
    let proc = performed.iter().find(|(_, step, _)| is_proc(step)).unwrap().2;
    let made = proc.calls.iter().find(|call| call.call == "fsmount").unwrap();
    let id = made.answer.strip_prefix("mount ").and_then(|rest| rest.split(':').next()).unwrap();
    let line = mounts.lines().find(|line| line.contains(" /proc rw,nosuid")).unwrap();
    assert_eq!(line.split(' ').next(), Some(id), "{line}");
    // All of it, in order, to execve(2); told on standard error, and again later.
    assert!(performed.iter().all(|(by, _, entry)| *by == pid && entry.error.is_none()), "{performed:#?}");
    assert!(matches!(performed.last().unwrap().1, Step::Exec { .. }) && performed.last().unwrap().2.took > 0);
    assert!(entries.windows(2).all(|pair| pair[0].at <= pair[1].at || pair[0].who != pair[1].who), "not in order");
    let again = host.ok(&["explain", "told", "--detail", "full"]);
    let body = |text: &str| {
        text.lines()
            .filter(|l| !l.contains("who: what") && !l.starts_with("podshim: "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(body(&said.err), body(&again));
    assert!(again.contains("· pivot_root(\".\", \".\") = 0") && again.contains("before ("), "{again}");
    assert!(again.contains("The pod's network: its containers") && !again.contains("s3cret"), "{again}");
    let brief = host.ok(&["explain", "told", "--detail", "brief"]);
    assert!(!brief.contains("· ") && brief.contains("Pivot"), "{brief}");
    host.ok(&["rm", "-f", "told"]);
    host.assert_clean();
}

#[test]
fn what_was_not_written_down_or_failed_is_said() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod("silent", json!({ "containers": [facts("c", &["sleep"])] })));
    host.run(&["explain", "silent"]).expect(125).says(&[
        "was not run with --explain",
        "podshim run --explain",
        "podshim plan",
    ]);
    host.run(&["explain", "nobody"]).expect(125).says(&["\"nobody\" is neither a field", "nor a pod"]);
    host.run(&["explain", "pod.spec.nodeNam"]).expect(125).says(&["did you mean nodeName?"]);
    assert!(host.ok(&["explain", "spec.hostname"]).contains("FIELD: spec.hostname"));
    // What two pods share.
    let in_host = json!({ "hostNetwork": true, "containers": [facts("a", &["sleep"]), facts("b", &["sleep"])] });
    host.start(&pod("other", in_host));
    let text = host.ok(&["explain", "silent", "other"]);
    let of = |kind: &str, pod: &str, container: &str| namespace(host.pid(pod, container), kind);
    let (own, hosts) = (of("net", "silent", "c"), of("net", "other", "a"));
    assert!(text.contains(&format!("  {own:<20}  of silent/c\n")), "{text}");
    assert!(text.contains(&format!("  {hosts:<20}  shared by other/a, other/b, this host\n")), "{text}");
    let ipc = of("ipc", "other", "b");
    assert!(text.contains(&format!("  {ipc:<20}  shared by other/a, other/b\n")), "{text}");
    // A step that fails is the last of the story, with what the user is told.
    let missing = once("fails", json!([with(facts("c", &[]), json!({ "command": ["/no/such"] }))]), json!({}));
    let said = host.run(&["run", "-d", "--explain", &host.manifest(&missing)]).expect(127);
    assert!(
        said.err.contains("Exec: [\"/no/such\"]") && said.err.contains("FAILED: exec: \"/no/such\""),
        "{}",
        said.err
    );
    // So does what fails before any container is begun.
    let sysctls = json!([{ "name": "kernel.shm_rmid_forced", "value": "7" }]);
    let refused = json!({ "containers": [facts("c", &["sleep"])], "securityContext": { "sysctls": sysctls } });
    let said = host.run(&["run", "-d", "--explain", &host.manifest(&pod("off", refused))]).expect(125);
    said.says(&["make the pod's namespaces", "FAILED: making the pod's namespaces", "shm_rmid_forced", "EINVAL"]);
    // Several pods, and standard input for two things at once.
    let two = host.path("two.yaml");
    let text =
        ["x", "y"].map(|name| pod(name, json!({ "containers": [facts("c", &["sleep"])] })).to_string()).join("\n---\n");
    std::fs::write(&two, text).unwrap();
    let said = host.run(&["run", "-d", "--explain", two.to_str().unwrap()]).expect(0);
    assert!(said.err.contains("of pod default/x") && said.err.contains("of pod default/y"), "{}", said.err);
    host.run(&["run", "--step", "-"]).expect(125).says(&["--step reads Enter from standard input"]);
    host.run(&["run", "--explain=much", two.to_str().unwrap()]).expect(2).says(&["brief", "full"]);
    host.ok(&["rm", "-f", "--all"]);
    host.assert_clean();
}

/// Every kind of a container's start: with a new pid namespace, into one, and in a user namespace.
#[test]
fn steps_are_what_strace_sees() {
    let Some(host) = Host::new(&["strace"]) else { return };
    let hardened = json!({
        "runAsUser": 1000, "runAsGroup": 1000, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] }, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let two = json!([
        facts("plain", &["exit", "0"]),
        with(facts("hard", &["exit", "0"]), json!({ "securityContext": hardened }))
    ]);
    for (name, more) in [
        ("own", json!({ "initContainers": [facts("first", &["exit", "0"])] })),
        ("shared", json!({ "shareProcessNamespace": true })),
        ("mapped", json!({ "hostUsers": false })),
    ] {
        let file = host.path(&format!("{name}.strace"));
        let trace = format!("trace={}", TRACED.join(","));
        let before = ["strace", "-f", "-qq", "-o", file.to_str().unwrap(), "-e", &trace, "-e", "signal=none"];
        let podshim = host.command::<&str>(&[]).get_program().to_owned();
        let mut words: Vec<std::ffi::OsString> = before.iter().map(Into::into).collect();
        words.push(podshim);
        let manifest = host.manifest(&once(name, two.clone(), more.clone()));
        let output = host.finish(host.command_by(&words, &["run", "--keep", "--explain=full", &manifest]));
        output.clone().expect(0);
        let entries = timeline(&host, name);
        let trace = std::fs::read_to_string(&file).unwrap();
        let mut containers = vec!["plain", "hard"];
        containers.extend(more.get("initContainers").map(|_| "first"));
        for container in containers {
            let performed = steps(&entries, container);
            assert!(performed.len() > 30, "{name}/{container}: {performed:#?}");
            let mut pids: Vec<i32> = performed.iter().map(|(pid, ..)| *pid).collect();
            pids.dedup();
            assert_eq!(pids.len(), if name == "own" { 1 } else { 2 }, "{name}/{container}");
            let told: Vec<String> = performed
                .iter()
                .flat_map(|(.., entry)| &entry.calls)
                .filter(|call| TRACED.contains(&call.call.as_str()))
                .map(|call| short(&call.call, &call.arguments, call.errno.as_deref()))
                .collect();
            let seen: Vec<String> = pids.iter().flat_map(|pid| traced(&trace, *pid)).collect();
            assert_eq!(told, seen, "{name}/{container}: told (left), seen by strace (right)");
        }
        host.ok(&["rm", "-f", name]);
    }
    host.assert_clean();
}

/// The calls that make namespaces, mounts and credentials.
const TRACED: [&str; 22] = [
    "unshare",
    "setns",
    "clone3",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "pivot_root",
    "umount2",
    "setgroups",
    "setresgid",
    "setresuid",
    "capset",
    "seccomp",
    "prctl",
    "keyctl",
    "setsid",
    "execve",
    "sethostname",
    "mount",
];

/// A call by its name, and what can be compared of it: a prctl's option, a new file system's name, the errno.
fn short(call: &str, arguments: &str, errno: Option<&str>) -> String {
    let first = match call {
        "prctl" | "fsopen" => arguments.split([',', ')']).next().unwrap_or_default().trim(),
        _ => "",
    };
    format!("{call} {first} {}", errno.unwrap_or_default())
}

/// What strace saw of a process, from its first traced call to its execve(2).
fn traced(trace: &str, pid: i32) -> Vec<String> {
    let mut calls = Vec::new();
    for line in trace.lines() {
        // `4711  setns(3, CLONE_NEWNET) = 0`, or in two halves where another process comes between.
        let Some((by, rest)) = line.trim_start().split_once(' ') else { continue };
        let rest = rest.trim_start();
        if by != pid.to_string() || rest.starts_with("+++") {
            continue;
        }
        let errno = rest.rsplit_once(" = -1 ").and_then(|(_, rest)| rest.split(' ').next());
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let _: &str = resumed;
            if let (Some(errno), Some(last)) = (errno, calls.last_mut()) {
                let last: &mut String = last;
                last.push_str(errno);
            }
            continue;
        }
        let Some((call, arguments)) = rest.split_once('(') else { continue };
        // What is only asked for makes nothing; and nobody asks with PR_SET_NAME what a container is.
        if call == "prctl" && arguments.starts_with("PR_CAPBSET_READ") {
            continue;
        }
        calls.push(short(call, arguments, errno));
        if call == "execve" {
            break;
        }
    }
    calls
}

/// A filter that lets the container send nothing does not keep its init's steps from being told.
#[test]
fn a_filter_does_not_hide_what_comes_after_it() {
    let Some(host) = Host::new(&[]) else { return };
    let root = host.folder("profiles");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["sendmsg", "sendto", "write", "clock_gettime", "socket"], "action": "SCMP_ACT_ERRNO" }],
    });
    std::fs::write(format!("{root}/mute.json"), profile.to_string()).unwrap();
    let seccomp = json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": "mute.json" } });
    let spec =
        once("mute", json!([with(facts("c", &["exit", "0"]), json!({ "securityContext": seccomp }))]), json!({}));
    let args = ["run", "--keep", "--explain", "--seccomp-profile-root", &root, &host.manifest(&spec)];
    host.run(&args).expect(0);
    let entries = timeline(&host, "mute");
    let names: Vec<String> = steps(&entries, "c").iter().map(|(_, step, _)| step.name()).collect();
    let at = |name: &str| names.iter().position(|n| n == name).unwrap_or_else(|| panic!("{names:?}"));
    assert!(at("Seccomp") < at("User") && at("User") < at("Exec"), "{names:?}");
    host.ok(&["rm", "-f", "mute"]);
    host.assert_clean();
}

/// Presses Enter as often as it is asked to, looking around in between.
#[test]
fn step_by_step_one_can_look_around() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = once("paused", json!([shell("app", "echo it runs; sleep 1000")]), json!({}));
    let mut command = host.command(&["run", "-d", "--step", &host.manifest(&spec)]);
    command.stdin(Stdio::piped());
    let mut live = Live::start(command);
    let mut keys = live.stdin();
    // The text is wrapped.
    let words = |live: &Live| live.err().split_whitespace().collect::<Vec<_>>().join(" ");
    let asked = |live: &Live| words(live).matches("Enter goes on").count();
    let next = |live: &Live| {
        let text = words(live);
        let at = text.rfind("next is ").unwrap_or_else(|| panic!("{text}"));
        text[at + "next is ".len()..].to_owned()
    };
    let mut presses = 0;
    let mut looked = 0;
    loop {
        until("the next question", || (asked(&live) > presses).then_some(()));
        let pid = last_pid(&host, "paused");
        let root = || std::fs::read_link(format!("/proc/{pid}/root")).unwrap();
        let inside = std::fs::exists(format!("/proc/{pid}/root/bin/busybox")).unwrap_or(false);
        match next(&live) {
            // It is still one of the host's processes.
            question if question.starts_with("EmptyMountNamespace") => {
                assert!(std::fs::exists(format!("/proc/{pid}/root{}", host.path("state").display())).unwrap());
                assert_eq!(namespace(pid, "mnt"), namespace(std::process::id() as i32, "mnt"));
                looked += 1;
            }
            // It has nothing at all.
            question if question.starts_with("Pivot") => {
                assert_ne!(namespace(pid, "mnt"), namespace(std::process::id() as i32, "mnt"));
                assert_eq!(std::fs::read_dir(format!("/proc/{pid}/root/")).unwrap().count(), 0, "{:?}", root());
                assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap().lines().count(), 1);
                looked += 1;
            }
            // The host's files are out of reach, and no procfs is there yet.
            question if question.starts_with("MountFileSystem /proc") => {
                assert!(
                    inside && !std::fs::exists(format!("/proc/{pid}/root{}", host.path("state").display())).unwrap()
                );
                assert!(!std::fs::exists(format!("/proc/{pid}/root/proc/self")).unwrap(), "{:?}", root());
                looked += 1;
            }
            question if question.starts_with("NewPriv") || question.starts_with("BoundingSet") => {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                assert!(status.contains("Seccomp:\t0"), "{status}");
                looked += 1;
            }
            question if question.starts_with("Exec") => {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                assert!(status.contains("Seccomp:\t2") && status.contains("Name:\tpodshim"), "{status}");
                looked += 1;
                writeln!(keys).unwrap();
                break;
            }
            _ => {}
        }
        presses += 1;
        writeln!(keys).unwrap();
    }
    assert_eq!(live.wait(), 0, "{}", live.err());
    assert_eq!(looked, 5, "{}", live.err());
    let performed = timeline(&host, "paused");
    assert_eq!(steps(&performed, "app").len(), presses + 1);
    host.ok(&["rm", "-f", "paused"]);

    // Whoever stops pressing has the rest without a stop; an interrupt takes the pod back.
    let mut command = host.command(&["run", "-d", "--step", "--explain=full", &host.manifest(&spec)]);
    command.stdin(Stdio::piped());
    let mut live = Live::start(command);
    writeln!(live.stdin(), "\n").unwrap();
    assert_eq!(live.wait(), 0);
    assert!(live.err().contains("standard input has ended: the rest goes without a stop"), "{}", live.err());
    host.ok(&["rm", "-f", "paused"]);
    let mut command = host.command(&["run", "--step", &host.manifest(&spec)]);
    command.stdin(Stdio::piped());
    let mut live = Live::start(command);
    let keys = live.stdin();
    until("the first question", || (asked(&live) > 0).then_some(()));
    live.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(live.wait(), 130, "{}", live.err());
    drop(keys);
    assert_eq!(host.ok(&["ps", "-q"]), "");
    host.assert_clean();
}
