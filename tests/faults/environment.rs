//! What podshim stands on gives way: disks are full, descriptors and memory run out, files of its state are not what they were.

use crate::disk::{COUNT, Disks};
use crate::harness::{self, Host, Live, Output, binary, facts, pod, shell, until};
use crate::leaks;
use crate::rig;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

/// A pod of one container that does nothing.
fn sleeper(name: &str) -> Value {
    pod(name, json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] }))
}

/// Whether a pod came to run; if not, the error is that of a disk without room, and says what could not be written.
#[track_caller]
fn has_started(output: &Output, on: &str, when: &str) -> bool {
    if output.code == 0 {
        return true;
    }
    assert_eq!(output.code, 125, "{when}: {output:?}");
    assert!(output.err.contains("No space left on device"), "{when}: {output:?}");
    // What a container's init makes is named as the container has it.
    let is_named = output.err.contains(on)
        || on == "root/pods" && output.err.contains("container c: ") && output.err.contains(" /");
    assert!(is_named, "{when}: which file? {output:?}");
    false
}

/// Each size of a disk that is too small for a pod, and the first few that are not.
#[test]
fn a_disk_of_any_size_has_a_whole_pod_or_none() {
    let Some(host) = Host::new(&[]) else { return };
    let manifest = host.manifest(&sleeper("p"));
    let mut tried = 0;
    for directory in ["state", "root/pods", "log"] {
        for (option, most) in [("size", 300), ("nr_inodes", 60)] {
            let disks = Disks::new(&host);
            disks.mount(directory, "size=1m");
            let (mut fine, mut n) = (0, 1);
            while fine < 3 {
                assert!(n < most, "{directory}: {option} {n} is too small");
                let of = if option == "size" { format!("size={}k", 4 * n) } else { format!("nr_inodes={n}") };
                disks.change(directory, &format!("size=1m,{of}"));
                let when = format!("{directory} {of}");
                let started = has_started(&disks.run(&["run", "-d", &manifest]), directory, &when);
                disks.assert_whole(&when);
                if started {
                    let code = disks.run(&["exec", "p", "--", "/facts", "exit", "7"]).code;
                    assert!(code == 7 || code == 125, "{when}: {code}");
                    fine += 1;
                }
                let removed = disks.run(&["rm", "-f", "p"]);
                assert_eq!(removed.code, 0, "{when}: {removed:?}");
                assert_eq!(disks.left(), [] as [String; 0], "{when}");
                host.assert_clean();
                tried += 1;
                n += 1;
            }
            eprintln!("{directory}: {option} from {n} on has room for a pod");
        }
    }
    eprintln!("{tried} disks tried");
}

/// What podman cannot do on a full disk is to stop a container, or to do anything else.
#[test]
fn a_pod_on_a_full_disk_runs_and_is_told_of_and_ends() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
        "containers": [shell("c", COUNT), shell("b", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.02; done")] });
    let manifest = host.manifest(&pod("p", spec));
    for directory in ["state", "root/pods", "log"] {
        for by in [&["stop", "p"][..], &["rm", "-f", "p"], &["rm", "p"]] {
            let disks = Disks::new(&host);
            disks.mount(directory, "size=1m");
            disks.run(&["run", "-d", &manifest]).expect(0);
            let log = || disks.run(&["logs", "p", "-c", "c"]).expect(0).out.lines().count();
            until("lines", || (log() > 3).then_some(()));
            until("b", || disks.run(&["logs", "p", "-c", "b"]).out.contains("ready").then_some(()));
            disks.fill(directory);
            let when = format!("{directory} is full, {by:?}");
            // What happens now is known although it cannot be kept beside what was known before.
            let told = disks.run(&["exec", "-c", "b", "p", "--", "kill", "-USR1", "1"]);
            // The first process of a pid namespace takes all others along, the one that told it among them.
            assert!([0, 137].contains(&told.code), "{when}: {told:?}");
            let status = until(&format!("{when}: the end of b"), || {
                let status: Value =
                    serde_json::from_str(&disks.run(&["inspect", "-o", "json", "p"]).expect(0).out).unwrap();
                let all = status["status"]["containerStatuses"].as_array().unwrap().clone();
                all.iter().find(|c| c["name"] == "b" && !c["state"]["terminated"].is_null()).cloned()
            });
            assert_eq!(status["state"]["terminated"]["exitCode"], 9, "{when}: {status}");
            disks.run(&["exec", "-c", "c", "p", "--", "sh", "-c", "exit 7"]).expect(7);
            assert!(disks.run(&["ps"]).expect(0).out.contains("1/2"), "{when}");
            assert!(log() > 3, "{when}");
            disks.assert_whole(&when);
            if by[0] == "stop" {
                // There is room again: the log goes on.
                disks.clear(directory);
                let before = log();
                until("more lines", || (log() > before + 3).then_some(()));
                disks.fill(directory);
            }
            disks.run(by).expect(0);
            if by[0] == "stop" {
                let text = disks.run(&["inspect", "-o", "json", "p"]).expect(0).out;
                let ended: Value = serde_json::from_str(&text).unwrap();
                let all = ended["status"]["containerStatuses"].as_array().unwrap();
                let codes: Vec<&Value> = all.iter().map(|c| &c["state"]["terminated"]["exitCode"]).collect();
                assert_eq!(codes, [3, 9], "{when}: {text}");
                disks.run(&["rm", "p"]).expect(0);
            }
            disks.clear(directory);
            assert_eq!(disks.left(), [] as [String; 0], "{when}");
            host.assert_clean();
        }
    }
}

/// A limit of a command's own, as prlimit(1) sets it.
fn limited(host: &Host, limit: &str, args: &[&str]) -> Tried {
    let binary = harness::binary();
    let limit = format!("--{limit}");
    try_command(host, host.command_by(&["prlimit", &limit, binary.to_str().unwrap()], args))
}

/// What became of a command that has not all that it needs.
struct Tried {
    output: Output,
    took: Duration,
}

fn try_command(host: &Host, command: Command) -> Tried {
    let before = Instant::now();
    let output = host.finish(command);
    Tried { output, took: before.elapsed() }
}

impl Tried {
    /// It has done it, or says that it could not, and soon. By how it ended itself, or was ended for want of memory.
    #[track_caller]
    fn assert_orderly(&self, when: &str, ends: &[i32]) -> bool {
        let Output { code, out, err } = &self.output;
        assert!(self.took < Duration::from_secs(10), "{when}: {:?}", self.took);
        // std's own way to say that a thread got no memory.
        let is_std = err.contains("failed to allocate an alternative stack");
        assert!(!err.contains("panicked") || is_std, "{when}: {err}");
        assert!(*code == 0 || ends.contains(code), "{when}: {code}\n{out}\n{err}");
        assert!(*code == 0 || *code > 128 || !err.trim().is_empty(), "{when}: {code} without a word");
        *code == 0
    }
}

/// Each number of descriptors from what a process must have to what podshim has enough with.
#[test]
fn without_descriptors_it_refuses_or_does_it() {
    let Some(host) = Host::new(&[]) else { return };
    let manifest = host.manifest(&sleeper("p"));
    host.start(&sleeper("other"));
    let mut enough = [None; 5];
    let mut tried = 0;
    for limit in 3..=64 {
        let nofile = format!("nofile={limit}");
        let verbs: [&[&str]; 5] = [
            &["run", "-d", &manifest],
            &["ps"],
            &["exec", "other", "--", "/facts", "exit", "0"],
            &["logs", "other"],
            &["rm", "-f", "p"],
        ];
        for (verb, enough) in verbs.iter().zip(&mut enough) {
            let when = format!("{nofile} {verb:?}");
            let has_done = limited(&host, &nofile, verb).assert_orderly(&when, &[125, 126, 127]);
            tried += 1;
            match has_done {
                true if enough.is_none() => *enough = Some(limit),
                // Fewer have been enough.
                false if enough.is_some_and(|least| limit > least + 1) => panic!("{when} fails"),
                _ => {}
            }
        }
        host.run(&["rm", "-f", "p"]).expect(0);
        assert_eq!(host.ok(&["ps", "-q"]), "default/other\n", "{nofile}");
    }
    host.ok(&["exec", "other", "--", "/facts", "exit", "0"]);
    host.ok(&["rm", "-f", "other"]);
    host.assert_clean();
    eprintln!("{tried} commands tried; run, ps, exec, logs, rm have enough with {enough:?} descriptors");
}

/// The machine has no descriptors for who connects: the supervisor tries it once a second, and he is heard when there are some.
#[test]
fn who_cannot_be_accepted_is_heard_later() {
    let Some(host) = Host::new(&["strace"]) else { return };
    host.start(&sleeper("p"));
    let trace = host.path("trace");
    let mut strace = Command::new("strace");
    strace.args(["-p", &host.supervisor("p").to_string(), "-o"]).arg(&trace);
    strace.args(["-e", "trace=accept4", "-e", "inject=accept4:error=ENFILE"]);
    let mut tracer = Live::start(strace);
    until("strace", || tracer.err().contains("attached").then_some(()));
    let mut exec = host.live(&["exec", "p", "--", "/facts", "exit", "7"]);
    let tries = || std::fs::read_to_string(&trace).unwrap_or_default().matches("(INJECTED)").count();
    until("a first try", || (tries() > 0).then_some(()));
    let begin = Instant::now();
    // Each is two calls: the second one with the descriptor that is kept for this.
    until("two more", || (tries() > 5).then_some(()));
    assert!(begin.elapsed() > Duration::from_secs(1), "{} tries in {:?}", tries(), begin.elapsed());
    tracer.signal(Signal::SIGTERM);
    tracer.wait();
    assert_eq!(exec.wait(), 7, "{}", exec.err());
    host.ok(&["rm", "-f", "p"]);
    host.assert_clean();
}

/// Memory by RLIMIT_AS and RLIMIT_DATA, in steps up to what is enough: a limit that the pod's supervisor inherits.
#[test]
fn without_memory_it_refuses_or_does_it() {
    let Some(host) = Host::new(&[]) else { return };
    let manifest = host.manifest(&sleeper("p"));
    let step = if rig::is_long() { 1 } else { 4 };
    for (kind, step, most) in [("data", 64 * step, 40_000), ("as", 1024 * step, 400_000)] {
        let (mut fine, mut kib, mut tried) = (0, 64, 0);
        while fine < 4 {
            assert!(kib < most, "{kind}: {kib} KiB are not enough");
            let limit = format!("{kind}={}", kib << 10);
            // SIGABRT, or SIGSEGV of a stack that cannot grow, are how a program ends that has no memory to say so.
            let run = limited(&host, &limit, &["run", "-d", &manifest]);
            fine += i32::from(run.assert_orderly(&limit, &[125, 126, 127, 134, 137, 139]));
            for args in [&["ps"][..], &["exec", "p", "--", "/facts", "exit", "0"], &["rm", "-f", "p"]] {
                limited(&host, &limit, args)
                    .assert_orderly(&format!("{limit} {args:?}"), &[125, 126, 127, 134, 137, 139]);
            }
            host.run(&["rm", "-f", "p"]).expect(0);
            until("nothing to be left", || host.leaks().is_empty().then_some(()));
            tried += 1;
            kib += if fine == 0 { step } else { step * 4 };
        }
        eprintln!("{kind}: {tried} limits tried; enough with about {} KiB", kib - 16 * step);
    }
}

/// Memory by a cgroup, whose out-of-memory killer ends the command, or the pod's supervisor, whoever comes to need more.
#[test]
fn killed_for_want_of_memory_it_leaves_what_can_be_removed() {
    let Some(host) = Host::new(&[]) else { return };
    let token = format!("{}-limited", host.cgroup_parent);
    let Some(group) = leaks::make_cgroup(&token, "memory.limit_in_bytes") else {
        eprintln!("skipped: no memory controller of cgroup v1");
        return;
    };
    let manifest = host.manifest(&sleeper("p"));
    let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", group.display());
    let mut smallest = None;
    for kib in [512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384, 32_768] {
        std::fs::write(group.join("memory.limit_in_bytes"), format!("{kib}K")).unwrap();
        let when = format!("{kib} KiB");
        let within = |args: &[&str]| {
            let binary = harness::binary();
            let before = ["sh", "-c", &enter, "sh", binary.to_str().unwrap()];
            try_command(&host, host.command_by(&before, args))
                .assert_orderly(&format!("{when} {args:?}"), &[125, 137, 134])
        };
        let has_started = within(&["run", "-d", &manifest]);
        within(&["ps"]);
        within(&["exec", "p", "--", "/facts", "exit", "0"]);
        // The killer may have ended the supervisor alone; without the limit another one takes over.
        host.run(&["recover", "--all"]).expect(0);
        if has_started {
            host.until_ps("p", "Running");
            smallest = smallest.or(Some(kib));
        }
        within(&["rm", "-f", "p"]);
        host.run(&["rm", "-f", "p"]).expect(0);
        until("nothing to be left", || host.leaks().is_empty().then_some(()));
    }
    std::fs::remove_dir(&group).unwrap();
    eprintln!("run -d with its supervisor: the smallest memory cgroup that is enough has {smallest:?} KiB");
    assert!(smallest.is_some());
}

/// A disk that is read-only: before a pod, and under one that runs.
#[test]
fn a_read_only_disk_is_named_and_what_is_on_it_can_be_removed_later() {
    let Some(host) = Host::new(&[]) else { return };
    let manifest = host.manifest(&sleeper("p"));
    for directory in ["state", "root/pods", "log"] {
        let disks = Disks::new(&host);
        disks.mount(directory, "size=2m");
        disks.run(&["ps"]).expect(0);
        disks.set_read_only(directory, true);
        disks.run(&["run", "-d", &manifest]).expect(125).says(&["Read-only file system", directory]);
        disks.run(&["ps"]).expect(0);
        disks.run(&["rm", "-f", "p"]).expect(0);
        assert_eq!(disks.left(), [] as [String; 0], "{directory}");
        host.assert_clean();
        disks.set_read_only(directory, false);
        disks.run(&["run", "-d", &manifest]).expect(0);
        disks.set_read_only(directory, true);
        assert!(disks.run(&["ps"]).expect(0).out.contains("Running"), "{directory}");
        disks.run(&["logs", "p"]).expect(0);
        disks.run(&["exec", "p", "--", "/facts", "exit", "7"]).expect(7);
        disks.run(&["rm", "-f", "p"]).expect(125).says(&["Read-only file system", directory]);
        disks.set_read_only(directory, false);
        disks.run(&["rm", "-f", "p"]).expect(0);
        assert_eq!(disks.left(), [] as [String; 0], "{directory}");
        host.assert_clean();
    }
}

/// Another supervisor cannot open the log that the old one could write: the container goes on, and its log when that can be opened.
#[test]
fn a_log_that_has_become_read_only_ends_no_container_of_a_killed_supervisor() {
    let Some(host) = Host::new(&[]) else { return };
    let spec =
        json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [shell("c", COUNT)] });
    let disks = Disks::new(&host);
    disks.mount("log", "size=2m");
    disks.run(&["run", "-d", &host.manifest(&pod("p", spec))]).expect(0);
    let log = || disks.run(&["logs", "p"]).expect(0).out.lines().count();
    until("lines", || (log() > 3).then_some(()));
    let state = host.state_of("p");
    let group = format!("{}/podshim/pod{}/c", host.cgroup_parent, state.file_name().unwrap().to_str().unwrap());
    // A shell, and mostly its child.
    let first = || leaks::processes_in(&group).first().copied();
    let before = first();
    disks.set_read_only("log", true);
    leaks::kill_supervisor(&state);
    disks.run(&["recover", "p"]).expect(0);
    let events = disks.run(&["events", "p"]).expect(0).out;
    assert!(events.contains("is not logged") && events.contains("Read-only file system"), "{events}");
    assert!(before.is_some() && first() == before, "{events}");
    disks.set_read_only("log", false);
    let lines = log();
    until("more lines", || (log() > lines).then_some(()));
    disks.run(&["stop", "p"]).expect(0);
    let ended: Value = serde_json::from_str(&disks.run(&["inspect", "-o", "json", "p"]).expect(0).out).unwrap();
    assert_eq!(ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3, "{ended}");
    disks.run(&["rm", "p"]).expect(0);
    assert_eq!(disks.left(), [] as [String; 0]);
    host.assert_clean();
}

/// Nothing of podshim's is in /tmp: it may be read-only and noexec, as the whole root file system may be.
#[test]
fn neither_tmp_nor_a_writable_root_is_needed() {
    let Some(host) = Host::new(&[]) else { return };
    let disks = Disks::new(&host);
    // What the test itself has there stays as it is.
    let kept = [host.path(""), harness::binary().parent().unwrap().to_owned(), env!("CARGO_TARGET_TMPDIR").into()];
    let kept: Vec<String> = kept.iter().map(|path| format!("mount --bind {0} {0}", path.display())).collect();
    let script = format!(
        "set -e; mount --bind /tmp /tmp; {}; mount -o remount,bind,ro,noexec,nosuid /tmp; mount -o remount,bind,ro /; \
         ! touch /tmp/x 2>/dev/null; ! touch /x 2>/dev/null",
        kept.join("; ")
    );
    disks.ok(&["sh", "-c", &script]);
    disks.run(&["run", "-d", &host.manifest(&sleeper("p"))]).expect(0);
    disks.run(&["exec", "p", "--", "/facts", "exit", "7"]).expect(7);
    assert!(disks.run(&["ps"]).expect(0).out.contains("Running"));
    disks.run(&["rm", "-f", "p"]).expect(0);
    host.assert_clean();
}

/// Standard output on a full disk is an error, which is told; standard error that takes nothing is not: there is nobody to tell.
#[test]
fn what_cannot_be_said_ends_nobody() {
    let Some(host) = Host::new(&[]) else { return };
    let podshim = binary();
    let said = |where_to: &str, args: &[&str]| {
        let script = format!("exec \"$0\" \"$@\" {where_to}");
        host.finish(host.command_by(&["sh", "-c", &script, podshim.to_str().unwrap()], args))
    };
    let of = |name: &str, script: &str| {
        let spec =
            json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [shell("c", script)] });
        host.manifest(&pod(name, spec))
    };
    said("2>/dev/full", &["run", "-d", &of("unheard", "echo heard; sleep 1000")]).expect(0);
    said("2>/dev/full", &["run", &of("ends", "exit 3")]).expect(3);
    until("its word", || (host.ok(&["logs", "unheard"]) == "heard\n").then_some(()));
    said("2>/dev/full", &["stop", "nosuch"]).expect(host.run(&["stop", "nosuch"]).code);
    for args in [&["ps"][..], &["version"], &["inspect", "unheard"], &["image", "ls"], &["logs", "unheard"]] {
        let told = said(">/dev/full", args).expect(125);
        assert!(told.err.contains("(ENOSPC)") && !told.err.contains("panicked"), "{args:?}: {told:?}");
    }
    // It runs: what it is called could not be said.
    said(">/dev/full", &["run", "-d", &of("unnamed", "sleep 1000")])
        .expect(125)
        .says(&["write standard output", "ENOSPC"]);
    assert_eq!(host.ps("unnamed")[1], "Running");
    host.ok(&["rm", "-f", "unheard", "unnamed"]);
    host.assert_clean();
}
