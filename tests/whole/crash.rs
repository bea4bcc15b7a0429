//! Ends at any moment: of the command, of the supervisor, of both.

use crate::harness::{Host, facts, pod, until};
use crate::leaks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

fn sleeper(name: &str) -> Value {
    let init = facts("init", &["exit", "0"]);
    let volumes = json!([{ "name": "m", "emptyDir": { "medium": "Memory" } }]);
    let mut container = facts("a", &["sleep"]);
    container["volumeMounts"] = json!([{ "name": "m", "mountPath": "/m" }]);
    let spec = json!({ "terminationGracePeriodSeconds": 2, "initContainers": [init], "volumes": volumes,
        "containers": [container, facts("b", &["sleep"])] });
    pod(name, spec)
}

#[test]
fn a_supervisor_that_is_killed_is_told_and_cleaned_up_after() {
    let Some(host) = Host::new(&[]) else { return };
    for clean_up in [&["rm", "-f", "orphan"][..], &["rm", "orphan"]] {
        host.start(&sleeper("orphan"));
        let container = host.pid("orphan", "a");
        let supervisor = host.supervisor("orphan");
        let mut follow = host.live(&["events", "-w", "orphan"]);
        follow.until_has("Started");
        leaks::kill(supervisor);
        assert_eq!(follow.wait(), 0);
        assert!(kill(Pid::from_raw(container), None).is_ok(), "containers outlive their supervisor");
        host.run(&["inspect", "orphan"]).expect(0).says(&["the supervisor of pod default/orphan is gone"]);
        // Whoever met it has seen to it.
        assert_eq!(host.ps("orphan")[1], "Running");
        host.kill_supervisor("orphan");
        host.run(&["run", "-d", &host.manifest(&sleeper("orphan"))]).expect(125).says(&["already exists"]);
        host.ok(clean_up);
        until("the container's end", || kill(Pid::from_raw(container), None).is_err().then_some(()));
        host.assert_clean();
    }
    // In the foreground its end is the command's.
    let mut run = host.live(&["run", &host.manifest(&sleeper("front"))]);
    until("the pod", || (host.run(&["ps"]).out.contains("2/2")).then_some(()));
    host.kill_supervisor("front");
    assert_ne!(run.wait(), 0, "{}", run.err());
    assert_eq!(host.ok(&["ps", "-q"]), "");
    host.assert_clean();
}

/// The time that a `run -d` takes, so that moments can be chosen within it.
fn usual(host: &Host) -> Duration {
    let before = Instant::now();
    host.start(&sleeper("usual"));
    let took = before.elapsed();
    host.ok(&["rm", "-f", "usual"]);
    took
}

/// Starts the command in a process group of its own, as a shell does, and signals all of it after a while, as a terminal does.
fn interrupted(host: &Host, args: &[&str], after: Duration, signal: Signal) -> (i32, String) {
    let mut command = host.command(args);
    command.process_group(0);
    let mut live = crate::harness::Live::start(command);
    std::thread::sleep(after);
    // It may be over by now.
    let _ = nix::sys::signal::killpg(Pid::from_raw(live.pid()), signal);
    let code = live.wait();
    (code, live.err())
}

#[test]
fn ctrl_c_at_any_moment_leaves_nothing() {
    let Some(host) = Host::new(&[]) else { return };
    let usual = usual(&host);
    let manifest = host.manifest(&sleeper("victim"));
    for step in 0..16 {
        // Moments from the very start to well after the pod runs.
        let after = usual * step / 12;
        for detach in [true, false] {
            let args = if detach { &["run", "-d", &manifest][..] } else { &["run", &manifest] };
            let (code, err) = interrupted(&host, args, after, Signal::SIGINT);
            let listed = host.ok(&["ps", "-q"]);
            if detach && code == 0 {
                // It had been done already.
                assert_eq!(listed, "default/victim\n", "{step}");
                host.ok(&["rm", "-f", "victim"]);
            } else {
                assert_eq!((code, listed.as_str()), (130, ""), "{step} detach={detach}: {err}");
            }
            let left = host.leaks();
            assert!(left.is_empty(), "step {step} detach={detach} exit code {code} {err}: {left:#?}");
        }
    }
    host.start(&sleeper("victim"));
    assert_eq!(host.ps("victim"), ["2/2", "Running", "0"].map(str::to_owned));
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_the_grace() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "terminationGracePeriodSeconds": 600, "containers": [facts("c", &["ignore-term"])] });
    let mut run = host.live(&["run", &host.manifest(&pod("stubborn", spec))]);
    run.until_has("c | ready\n");
    run.signal(Signal::SIGINT);
    until("Terminating", || (host.ps("stubborn")[1] == "Terminating").then_some(()));
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(), 130);
    host.assert_clean();
    // SIGTERM is a service manager's Ctrl-C.
    let mut run = host.live(&["run", &host.manifest(&sleeper("served"))]);
    until("the pod", || host.run(&["ps"]).out.contains("2/2").then_some(()));
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait(), 143);
    host.assert_clean();
}

#[test]
fn a_command_killed_at_any_moment_can_be_cleaned_up_after() {
    let Some(host) = Host::new(&[]) else { return };
    let usual = usual(&host);
    let manifest = host.manifest(&sleeper("victim"));
    for step in 0..12 {
        interrupted(&host, &["run", "-d", &manifest], usual * step / 10, Signal::SIGKILL);
        let listed = host.ok(&["ps", "-q"]);
        assert!(["", "default/victim\n"].contains(&listed.as_str()), "{listed}");
        // What was made can be removed by its name, whichever part of it there is; then the name is free again.
        host.run(&["rm", "-f", "victim"]).expect(0);
        host.run(&["run", "-d", &manifest]).expect(0);
        host.ok(&["rm", "-f", "victim"]);
        let left = host.leaks();
        assert!(left.is_empty(), "step {step}: {left:#?}");
    }
}

#[test]
fn half_a_reservation_is_swept_by_the_next_run() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&sleeper("other"));
    // Killed after the directory was made; after the record was written; after the name was removed.
    for (n, record) in [(1, None), (2, Some("{}")), (3, Some("{\"version\": 1}"))] {
        let directory = host.path("state/pods").join(format!("00000000-0000-4000-8000-00000000000{n}"));
        std::fs::create_dir(&directory).unwrap();
        if let Some(text) = record {
            std::fs::write(directory.join("record.json"), text).unwrap();
        }
    }
    std::os::unix::fs::symlink("../pods/gone", host.path("state/names/default_victim")).unwrap();
    host.start(&sleeper("victim"));
    assert_eq!(host.ok(&["ps", "-q"]), "default/other\ndefault/victim\n");
    assert_eq!(host.ps("other")[1], "Running");
    host.ok(&["rm", "-f", "--all"]);
    host.assert_clean();
}

#[test]
fn another_state_directory_does_not_sweep_the_data_of_this_one() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&sleeper("mine"));
    host.ok(&["exec", "mine", "--", "/facts", "write", "/kept", "x"]);
    let elsewhere = host.folder("elsewhere");
    let other =
        host.manifest(&pod("other", json!({ "restartPolicy": "Never", "containers": [facts("c", &["exit", "0"])] })));
    host.run(&["--state", &elsewhere, "run", &other]).expect(0);
    let data = host.path("root/pods").join(host.uid("mine"));
    assert!(data.join("containers/a/0/upper/kept").exists(), "{}", data.display());
    host.run(&["exec", "mine", "--", "/facts", "read", "/kept"]).expect(0);
    // What nobody's state knows is swept.
    let lost = host.path("root/pods/00000000-0000-4000-8000-000000000001");
    std::fs::create_dir(&lost).unwrap();
    std::os::unix::fs::symlink(host.path("state/pods/gone"), lost.join("state")).unwrap();
    host.run(&["run", &other]).expect(0);
    assert!(!lost.exists() && data.exists());
}

#[test]
fn removing_and_executing_at_once_is_orderly() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&sleeper("busy"));
    let mut execs: Vec<_> = (0..4).map(|_| host.live(&["exec", "busy", "--", "/facts", "sleep"])).collect();
    let pids =
        |host: &Host| crate::leaks::processes_in(&format!("{}/podshim/pod{}/a", host.cgroup_parent, host.uid("busy")));
    until("the commands", || (pids(&host).len() == 5).then_some(()));
    let mut removals: Vec<_> = (0..3).map(|_| host.live(&["rm", "-f", "busy"])).collect();
    for removal in &mut removals {
        assert_eq!(removal.wait(), 0, "{}", removal.err());
    }
    for exec in &mut execs {
        let code = exec.wait();
        assert!(code == 137 || code == 125, "{code} {}", exec.err());
    }
    host.assert_clean();
}
