//! A system call fails once, in the supervisor or in the init that becomes the container, while a container is being started
//! (`strace -e inject`). Either the pod is refused, with an error that names what failed; or it runs, and what its process is
//! confined by is what it is without the failure. Nothing hangs, panics, or stays.
//!
//! runc 1.3 hangs twice and leaves a process in the root of a hierarchy, crun 1.28 loses `nosymfollow` of its cgroup mounts, and leaves
//! 40 cgroups in 299 runs (the project's `faults.md` §1.5).

use crate::harness::{Host, Live, available, facts, pod, shell, until, until_or, with};
use crate::leaks;
use crate::rig::{Calls, Case, cases, is_long};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take.
const BOUND: Duration = Duration::from_secs(10);
/// After which it is not waited for.
const HANGS: Duration = Duration::from_secs(40);

/// The calls of a start, and what each may plausibly fail with.
const CALLS: &Calls = &[
    ("capset", &["EPERM"]),
    ("chdir", &["EACCES", "ENOENT"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("close_range", &["EINVAL"]),
    ("dup3", &["EMFILE", "EBUSY"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("epoll_pwait", &["EINTR"]),
    ("execve", &["EACCES", "ENOMEM", "ETXTBSY"]),
    ("fchdir", &["EACCES"]),
    ("fchown", &["EPERM"]),
    ("fcntl", &["EMFILE"]),
    ("fsconfig", &["EINVAL", "EBUSY"]),
    ("fsmount", &["EPERM", "ENOMEM"]),
    ("fsopen", &["ENODEV", "EPERM"]),
    ("fstat", &["EIO"]),
    ("getdents64", &["EIO"]),
    ("mkdir", &["ENOSPC", "EACCES"]),
    ("mkdirat", &["ENOSPC", "EROFS"]),
    ("mknodat", &["EPERM", "ENOSPC"]),
    ("mount_setattr", &["EPERM", "ENOSYS"]),
    ("move_mount", &["EINVAL", "ENOSPC"]),
    ("open", &["EMFILE", "EACCES", "EIO"]),
    ("open_tree", &["ENOMEM", "EPERM"]),
    ("openat", &["ENFILE", "EACCES"]),
    ("openat2", &["EMFILE", "EAGAIN", "ENOSYS"]),
    ("pidfd_send_signal", &["EPERM"]),
    ("pivot_root", &["EINVAL", "EBUSY"]),
    ("prctl", &["EINVAL", "EPERM"]),
    ("prlimit64", &["EPERM"]),
    ("read", &["EIO", "EINTR"]),
    ("readlink", &["EACCES"]),
    ("recvfrom", &["ECONNRESET", "EINTR", "ENOMEM"]),
    ("recvmsg", &["ECONNRESET", "EINTR", "ENOMEM"]),
    ("rename", &["ENOSPC", "EIO"]),
    ("rt_sigaction", &["EINVAL"]),
    ("rt_sigprocmask", &["EINVAL"]),
    ("seccomp", &["EINVAL", "ENOMEM", "ENOSYS"]),
    ("sendmsg", &["EPIPE", "ENOBUFS"]),
    ("setgid", &["EPERM"]),
    ("setgroups", &["EPERM"]),
    ("sethostname", &["EPERM"]),
    ("setresgid", &["EPERM"]),
    ("setresuid", &["EPERM", "EAGAIN"]),
    ("setsid", &["EPERM"]),
    ("setuid", &["EPERM", "EAGAIN"]),
    ("symlinkat", &["ENOSPC"]),
    ("umount2", &["EBUSY", "EPERM"]),
    ("unshare", &["EPERM", "ENOSPC"]),
    ("waitid", &["EINTR", "ECHILD"]),
    ("write", &["ENOSPC", "EIO", "EDQUOT"]),
];

/// Which of a process's calls of a kind fails.
fn turns() -> Vec<u32> {
    if is_long() { (1..=25).collect() } else { vec![1, 2, 4, 9] }
}

/// When the container is made of which the calls are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// When its start is asked for.
    InTurn,
    /// While the init container runs: its init waits for the start.
    Early,
}

/// A pod whose second container is started when it is told to, with all that confines a container.
fn confined(does: &str, made: Made) -> Value {
    let waits = shell("i", "mkdir /d/of-c; touch /d/began; while [ ! -e /d/go ]; do sleep 0.01; done");
    let volume = json!({ "name": "d", "mountPath": "/d" });
    let of_c = match made {
        // It could be another directory by then.
        Made::InTurn => json!({ "readOnly": true, "subPath": "of-c" }),
        Made::Early => json!({ "readOnly": true }),
    };
    let mount = |more: Value| json!([with(volume.clone(), more)]);
    let context = json!({ "runAsUser": 1000, "runAsGroup": 1000, "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" } });
    let confined = with(facts("c", &[does]), json!({ "securityContext": context, "volumeMounts": mount(of_c) }));
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "volumes": [{ "name": "d", "emptyDir": {} }],
        "initContainers": [with(waits, json!({ "volumeMounts": mount(json!({})) }))], "containers": [confined] });
    pod("p", spec)
}

/// What became of a start.
enum Outcome {
    /// With this report.
    Runs(String),
    Refused(String),
    /// It took longer than anything may.
    Late(String),
}

/// Where the failure came to pass.
#[derive(PartialEq)]
enum Injected {
    /// The call is not made so often.
    Nowhere,
    InPodshim,
    /// Also in the program that the container runs: what that says is not to be compared.
    InProgram,
}

impl Injected {
    /// By what strace wrote of the call and of execve(2).
    fn of(trace: &str, supervisor: i32) -> Injected {
        let mut injected = Injected::Nowhere;
        let mut programs = Vec::new();
        for line in trace.lines() {
            let (pid, what) = line.split_once(' ').unwrap_or_default();
            let what = what.trim();
            if what.contains("(INJECTED)") && programs.contains(&pid) {
                return Injected::InProgram;
            } else if what.contains("(INJECTED)") || pid == supervisor.to_string() && what.contains("killed by SIGKILL")
            {
                injected = Injected::InPodshim;
            } else if what.contains("execve") && what.ends_with("= 0") {
                programs.push(pid);
            }
        }
        injected
    }
}

/// Starts the pod, with a failure if one is given.
fn start(host: &Host, (does, made): (&str, Made), case: Option<&Case>) -> (Outcome, Injected) {
    let begin = Instant::now();
    let mut run = host.live(&["run", "-d", &host.manifest(&confined(does, made))]);
    let names = host.path("state/names/default_p");
    let uid = until("the pod", || std::fs::read_link(&names).ok()).file_name().unwrap().to_str().unwrap().to_owned();
    let volume = host.path("root/pods").join(&uid).join("volumes/d");
    until("the init container", || volume.join("began").exists().then_some(()));
    if made == Made::Early {
        let group = format!("{}/podshim/pod{uid}/c", host.cgroup_parent);
        until("its init", || (!leaks::processes_in(&group).is_empty()).then_some(()));
    }
    let state = host.path("state/pods").join(&uid);
    let supervisor = leaks::supervisors(&state);
    let trace = host.path("trace");
    let mut tracer = case.map(|case| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-p", &supervisor[0].pid.to_string(), "-o"]).arg(&trace);
        strace.args(case.options());
        let live = Live::start(strace);
        until("strace", || live.err().contains("attached").then_some(()));
        live
    });
    std::fs::write(volume.join("go"), "").unwrap();
    // What fails before the container's process is there is tried again after ten seconds, as a kubelet does.
    let is_refused = || run.err().contains("container/c: Failed");
    while !is_refused() && !leaks::has_ended(run.pid()) {
        if begin.elapsed() > HANGS {
            run.signal(Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(15));
    }
    let (took, is_refused) = (begin.elapsed(), is_refused());
    if is_refused {
        host.ok(&["rm", "-f", "p"]);
    }
    let outcome = match run.wait() {
        0 if case.is_some_and(|case| case.error == "SIGKILL") => {
            until("the pod", || (host.ps("p")[..2] == ["1/1", "Running"].map(str::to_owned)).then_some(()));
            Outcome::Runs(String::new())
        }
        0 if !is_refused => {
            let said = || Some(host.run(&["logs", "p", "c"]).out).filter(|text| text.ends_with('\n'));
            let what = || case.map_or(String::new(), Case::to_string);
            let missing = || format!("the report after {}: {}", what(), host.ok(&["events", "p"]));
            Outcome::Runs(until_or(missing, said).replace(&uid, "UID"))
        }
        _ => Outcome::Refused(run.err()),
    };
    let outcome = if took < BOUND { outcome } else { Outcome::Late(format!("it took {took:?}: {}", run.err())) };
    host.ok(&["rm", "-f", "p"]);
    if let Some(tracer) = &mut tracer {
        tracer.wait();
    }
    let injected =
        case.map_or(Injected::Nowhere, |_| Injected::of(&std::fs::read_to_string(&trace).unwrap(), supervisor[0].pid));
    (outcome, injected)
}

/// What confines the process that made the report, without what is another one each time.
fn posture(report: &str) -> Value {
    let report: Value = serde_json::from_str(report).unwrap();
    let same = [
        "uid",
        "euid",
        "suid",
        "gid",
        "egid",
        "sgid",
        "groups",
        "umask",
        "cwd",
        "env",
        "hostname",
        "caps",
        "no_new_privs",
        "seccomp",
        "seccomp_filters",
        "signals",
        "rlimits",
        "fds",
        "cgroup",
        "uid_map",
        "gid_map",
        "net",
        "oom_score_adj",
        "sid",
    ];
    let mut posture: Value = same.iter().map(|key| ((*key).to_owned(), report[key].clone())).collect();
    let own = |kind: &str| {
        let text = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        text.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).to_owned()
    };
    let kinds = report["namespaces"].as_object().unwrap();
    posture["namespaces"] =
        kinds.iter().map(|(kind, id)| (kind.clone(), json!(id.as_u64() == own(kind).parse().ok()))).collect();
    let mounts = report["mounts"].as_array().unwrap().iter().map(|mount| {
        let options = if mount["fstype"] == "overlay" { &Value::Null } else { &mount["super_options"] };
        json!([mount["target"], mount["fstype"], mount["options"], mount["propagation"], options, mount["root"]])
    });
    posture["mounts"] = mounts.collect();
    let devices = report["dev"].as_object().unwrap();
    posture["dev"] = devices
        .iter()
        .map(|(name, dev)| (name.clone(), json!([dev["type"], dev["mode"], dev["uid"], dev["gid"]])))
        .collect();
    posture
}

fn differences(baseline: &Value, posture: &Value) -> Vec<String> {
    let each = baseline.as_object().unwrap().iter().filter(|(key, value)| posture[key.as_str()] != **value);
    each.map(|(key, value)| format!("it runs with {key} {}\nin the place of {value}", posture[key.as_str()])).collect()
}

/// Whether an error says what failed: by the errno, which follows its call and what that was about, or in words where a user knows
/// those better, or which process is gone.
fn is_explained(said: &str, case: &Case) -> bool {
    let words = match case.error {
        // By whoever sees it, at whatever it was about then.
        "SIGKILL" => "",
        "EACCES" => "permission denied",
        // The supervisor may be told first that the layer of the init container is removed, and the init does not hear of it.
        "ECONNRESET" if said.contains("ended without an answer") => "exit code 125",
        "ECONNRESET" | "EPIPE" => "its init ended",
        error => error,
    };
    [case.error, words].iter().any(|what| said.contains(what))
}

/// Tries them all, by two hosts; how many did no harm, had the start refused, and did not come to pass.
fn try_all(cases: &[Case], made: Made) -> [u32; 3] {
    let next = AtomicUsize::new(0);
    let tally = Mutex::new([0; 3]);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let Some(host) = Host::new(&["strace"]) else { return };
                let (Outcome::Runs(report), _) = start(&host, ("report", made), None) else {
                    panic!("it does not run at all")
                };
                let baseline = posture(&report);
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // What a container says that ends before its supervisor is replaced is lost.
                    let does = if case.error == "SIGKILL" { "sleep" } else { "report" };
                    let (outcome, injected) = start(&host, (does, made), Some(case));
                    let fault = |what: String| faults.lock().unwrap().push(format!("{case}: {what}"));
                    match &outcome {
                        Outcome::Runs(report) if injected == Injected::InProgram || report.is_empty() => {}
                        Outcome::Runs(report) => differences(&baseline, &posture(report)).into_iter().for_each(fault),
                        Outcome::Refused(said) if said.contains("panicked") || !is_explained(said, case) => {
                            fault(said.clone())
                        }
                        Outcome::Refused(_) => {}
                        Outcome::Late(said) => fault(said.clone()),
                    }
                    let left = host.leaks();
                    if !left.is_empty() {
                        fault(format!("left: {left:#?}"));
                    }
                    let kind = if injected != Injected::InPodshim {
                        2
                    } else {
                        usize::from(matches!(outcome, Outcome::Refused(_)))
                    };
                    tally.lock().unwrap()[kind] += 1;
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    tally.into_inner().unwrap()
}

#[test]
fn each_call_of_a_start_fails_once() {
    let [ran, refused, unreached] = try_all(&cases(CALLS, &turns()), Made::InTurn);
    eprintln!("{ran} failures did no harm, {refused} starts were refused, {unreached} calls were not made so often");
    assert!(ran + refused > 50 || !available(&["root", "strace"]), "{ran} + {refused}");
}

/// The supervisor is killed at each of its calls in turn: another one takes over, and begins the container anew.
#[test]
fn each_call_of_a_start_is_a_supervisors_last() {
    const CALLS: [&str; 16] = [
        "clone3",
        "mkdir",
        "open",
        "write",
        "rename",
        "mount_setattr",
        "fsmount",
        "move_mount",
        "openat2",
        "sendmsg",
        "recvmsg",
        "epoll_ctl",
        "close",
        "fcntl",
        "readlink",
        "unlink",
    ];
    let turns: Vec<u32> = if is_long() { (1..=60).collect() } else { vec![1, 3, 8] };
    let of = |call: &'static str| turns.iter().map(move |nth| Case { call, error: "SIGKILL", nth: *nth });
    let cases: Vec<Case> = CALLS.into_iter().flat_map(of).collect();
    let [ran, refused, unreached] = try_all(&cases, Made::InTurn);
    eprintln!(
        "{} kills: {ran} pods ran nevertheless, {refused} did not; {unreached} calls were not made so often",
        ran + refused
    );
    assert!(ran > 10 || !available(&["root", "strace"]), "{ran}, {refused}");
}

/// The start of a container whose init waits for it already: what the supervisor still does for it fails once, or is its last.
#[test]
fn each_call_of_a_start_fails_once_after_its_init_was_made() {
    const CALLS: [(&str, &str); 9] = [
        ("sendmsg", "ENOBUFS"),
        ("sendmsg", "EPIPE"),
        ("recvmsg", "ENOMEM"),
        ("epoll_ctl", "ENOSPC"),
        ("open", "EMFILE"),
        ("rename", "ENOSPC"),
        ("sendmsg", "SIGKILL"),
        ("rename", "SIGKILL"),
        ("epoll_ctl", "SIGKILL"),
    ];
    let turns: Vec<u32> = if is_long() { (1..=30).collect() } else { vec![1, 2, 3] };
    let of = |(call, error): (&'static str, &'static str)| turns.iter().map(move |nth| Case { call, error, nth: *nth });
    let cases: Vec<Case> = CALLS.into_iter().flat_map(of).collect();
    let [ran, refused, unreached] = try_all(&cases, Made::Early);
    eprintln!("{ran} failures did no harm, {refused} starts were refused, {unreached} calls were not made so often");
    assert!(ran + refused > 10 || !available(&["root", "strace"]), "{ran} + {refused}");
}

/// Children of a process, each with its process group.
fn children(pid: i32) -> Vec<(i32, i32)> {
    let group = |child: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(2)?.parse().ok()
    };
    leaks::children(pid).into_iter().filter_map(|child| Some((child, group(child)?))).collect()
}

/// The process that joins the pid namespace of others, or who makes it, is killed before that is told. The namespace's pid 1 would wait
/// for it for ever, or whoever asked for it would.
#[test]
fn a_process_that_nobody_was_told_of_keeps_no_namespace() {
    let Some(host) = Host::new(&["strace"]) else { return };
    let spec = json!({ "shareProcessNamespace": true, "terminationGracePeriodSeconds": 0, "containers": [facts("c", &["sleep"])] });
    for (is_exec, is_maker) in [(true, true), (true, false), (false, true), (false, false)] {
        host.start(&pod("p", spec.clone()));
        let supervisor = leaks::supervisors(&host.state_of("p"))[0].pid;
        let mut strace = Command::new("strace");
        strace.args(["-f", "-p", &supervisor.to_string(), "-o", "/dev/null", "-e", "trace=sendmsg"]);
        strace.args(["-e", "inject=sendmsg:delay_enter=1000000"]);
        let mut tracer = Live::start(strace);
        until("strace", || tracer.err().contains("attached").then_some(()));
        let before = children(supervisor);
        let exec = is_exec.then(|| host.live(&["exec", "p", "--", "/facts", "exit", "0"]));
        if !is_exec {
            // It is started again.
            signal(host.pid("p", "c"), Signal::SIGKILL);
        }
        let (maker, made) = until("a process and the one that it made", || {
            let new: Vec<_> = children(supervisor).into_iter().filter(|child| !before.contains(child)).collect();
            let (maker, _) = *new.iter().find(|(pid, group)| pid == group)?;
            let (made, _) = *new.iter().find(|(pid, group)| *pid != maker && *group == maker)?;
            Some((maker, made))
        });
        signal(if is_maker { maker } else { made }, Signal::SIGKILL);
        until("both to be reaped", || {
            let left = children(supervisor);
            (!left.iter().any(|(pid, _)| [maker, made].contains(pid))).then_some(())
        });
        if let Some(mut exec) = exec {
            assert_eq!(exec.wait(), 125, "{}", exec.err());
        }
        tracer.signal(Signal::SIGTERM);
        tracer.wait();
        host.ok(&["stop", "p"]);
        host.ok(&["rm", "p"]);
        host.assert_clean();
    }
}

/// The supervisor cannot see, or not hear, a process that joins the pid namespace of others: it ends, and is waited for. The namespace's
/// pid 1 would wait for it for ever.
#[test]
fn a_process_that_cannot_be_watched_keeps_no_namespace() {
    const CALLS: &Calls = &[("epoll_ctl", &["ENOSPC"]), ("recvmsg", &["ENOMEM"])];
    let Some(host) = Host::new(&["strace"]) else { return };
    let turns: Vec<u32> = (1..=if is_long() { 16 } else { 7 }).collect();
    let exec = ["exec", "p", "--", "true"];
    let debug = ["debug", "p", "-i", "--image", "busybox", "--target", "c", "--", "true"];
    let mut failures = 0;
    for is_shared in [false, true] {
        let spec = json!({ "shareProcessNamespace": is_shared, "terminationGracePeriodSeconds": 0,
            "containers": [shell("c", "sleep 1000")] });
        host.start(&pod("p", spec));
        let (supervisor, trace) = (host.supervisor("p"), host.path("trace"));
        let before = children(supervisor);
        let tried = cases(CALLS, &turns);
        for (case, command) in tried.iter().flat_map(|case| [(case, &exec[..]), (case, &debug[..])]) {
            let mut strace = Command::new("strace");
            strace.args(["-p", &supervisor.to_string(), "-o"]).arg(&trace).args(case.options());
            let mut tracer = Live::start(strace);
            until("strace", || tracer.err().contains("attached").then_some(()));
            let output = host.run(command);
            let what = || format!("the end of {:?} after {case}: {command:?}: {output:?}", children(supervisor));
            until_or(what, || (children(supervisor) == before).then_some(()));
            tracer.signal(Signal::SIGTERM);
            tracer.wait();
            failures += usize::from(std::fs::read_to_string(&trace).unwrap().contains("(INJECTED)"));
        }
        let begin = Instant::now();
        host.ok(&["stop", "p"]);
        assert!(begin.elapsed() < BOUND, "{:?}", begin.elapsed());
        host.ok(&["rm", "p"]);
        host.assert_clean();
    }
    eprintln!("{failures} failures came to pass");
    assert!(failures > 20, "{failures}");
}

fn signal(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}
