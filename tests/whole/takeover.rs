//! The supervisor is killed at any moment: the containers go on, and another one takes over.

use crate::harness::{Host, Live, Numbers, facts, pod, shell, until, until_or, with};
use crate::leaks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often the random loop kills, unless `PODSHIM_KILLS` says otherwise.
const KILLS: u32 = 60;

/// A pod's uid, without asking podshim, which would recover the pod.
fn uid(host: &Host, name: &str) -> String {
    host.state_of(name).file_name().unwrap().to_str().unwrap().to_owned()
}

/// All supervisors of a pod; the pod's pid 1 and inits are not.
fn supervisors(host: &Host, name: &str) -> Vec<i32> {
    supervisors_below(&host.state_of(name))
}

fn supervisors_below(state: &std::path::Path) -> Vec<i32> {
    leaks::supervisors(state).iter().map(|process| process.pid).collect()
}

/// The processes of a container.
fn processes(host: &Host, name: &str, container: &str) -> Vec<i32> {
    leaks::processes_in(&format!("{}/podshim/pod{}/{container}", host.cgroup_parent, uid(host, name)))
}

fn log(host: &Host, name: &str, container: &str) -> Vec<String> {
    let out = host.run(&["logs", name, container]).out;
    out.lines().map(str::to_owned).collect()
}

/// So many lines at least, each of them once and in their order.
fn assert_counted(lines: &[String], at_least: usize) {
    let numbers: Vec<usize> = lines.iter().map(|line| line.parse().unwrap_or(usize::MAX)).collect();
    assert!(numbers.len() >= at_least, "{} lines", numbers.len());
    assert!(numbers.iter().copied().eq(0..numbers.len()), "lines are lost, twice, or in another order: {numbers:?}");
}

/// It says how many it has written.
const COUNT: &str =
    "n=0; while [ ! -e /end ]; do echo $n; n=$((n+1)); sleep 0.01; done; echo $n >/dev/termination-log; exit 7";

fn counting(name: &str) -> Value {
    pod(name, json!({ "terminationGracePeriodSeconds": 2, "containers": [shell("c", COUNT)] }))
}

#[test]
fn a_container_goes_on_and_no_line_of_it_is_lost() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&counting("p"));
    let first = host.pid("p", "c");
    for round in 0..5 {
        let before = log(&host, "p", "c").len();
        until("lines", || (log(&host, "p", "c").len() > before + 10).then_some(()));
        host.kill_supervisor("p");
        // It writes meanwhile.
        std::thread::sleep(Duration::from_millis(100));
        if round == 0 {
            let shown = host.run(&["ps"]).expect(0);
            assert!(shown.out.contains("SupervisorGone") && shown.err.contains("another one"), "{shown:?}");
        } else {
            assert_eq!(host.ok(&["recover", "--all"]), "default/p\n");
        }
        assert_eq!((host.pid("p", "c"), host.ps("p")[1].as_str()), (first, "Running"));
        assert_eq!(host.ok(&["recover", "p"]), "", "there is nothing to be done");
    }
    assert_counted(&log(&host, "p", "c"), 60);
    assert_eq!(host.events("p", "TakenOver").len(), 1, "one event, counted");
    host.ok(&["exec", "p", "--", "touch", "/end"]);
    let status = host.until_status(("p", "c"), "the restart", |status| {
        status["restartCount"] == 1 && !status["state"]["running"].is_null()
    });
    let ended = &status["lastState"]["terminated"];
    assert_eq!(ended["exitCode"], 7, "{status}");
    let written: Vec<String> = host.ok(&["logs", "-p", "p"]).lines().map(str::to_owned).collect();
    assert_counted(&written, 60);
    assert_eq!(ended["message"], format!("{}\n", written.len()), "all that it wrote, to the last line");
    assert!(host.events("p", "OutputMayBeLost").is_empty(), "it always ran when another one took over");
    host.kill_supervisor("p");
    // Stopped as it was asked for, by another supervisor.
    assert_eq!(host.ok(&["stop", "p"]), "default/p\n");
    assert_eq!(host.status("p", "c")["restartCount"], 1);
    host.ok(&["rm", "p"]);
    host.assert_clean();
}

#[test]
fn a_container_that_ends_unsupervised_has_its_exit_code() {
    let Some(host) = Host::new(&[]) else { return };
    let script = "while [ ! -e /go ]; do sleep 0.02; done; echo said > /dev/termination-log; exit 42";
    let spec = json!({ "restartPolicy": "Never", "containers": [shell("c", script), facts("other", &["sleep"])] });
    host.start(&pod("p", spec));
    let ends = Pid::from_raw(host.pid("p", "c"));
    host.kill_supervisor("p");
    std::fs::write(format!("/proc/{ends}/root/go"), "").unwrap();
    // It is in no cgroup a moment before it has ended.
    until("its end", || leaks::has_ended(ends.as_raw()).then_some(()));
    host.run(&["recover", "p"]).expect(0);
    let status = host.until_status(("p", "c"), "the end", |status| !status["state"]["terminated"].is_null());
    let ended = &status["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["message"]), (&json!(42), &json!("said\n")), "{status}");
    assert_eq!(host.status("p", "other")["state"]["running"].as_object().map(|o| o.len()), Some(1));
    let lost = host.events("p", "OutputMayBeLost");
    assert!(lost.len() == 1 && lost[0].to_string().contains("container/c"), "whoever reads the log is told: {lost:?}");
    host.ok(&["rm", "-f", "p"]);
    host.assert_clean();
}

#[test]
fn one_of_many_who_meet_it_takes_over() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&counting("p"));
    for _ in 0..3 {
        host.kill_supervisor("p");
        let mut all: Vec<_> = (0..20).map(|_| host.live(&["ps"])).collect();
        for one in &mut all {
            assert_eq!(one.wait(), 0, "{}", one.err());
        }
        assert_eq!(supervisors(&host, "p").len(), 1);
        let notes = all.iter().filter(|one| one.err().contains("another one has taken over")).count();
        assert_eq!(notes, 1);
    }
    host.ok(&["exec", "p", "--", "true"]);
    assert!(!processes(&host, "p", "c").is_empty());
}

#[test]
fn init_containers_go_on_where_they_were() {
    let Some(host) = Host::new(&[]) else { return };
    let init = |name: &str| {
        let script = format!("echo {name} >> /d/ran; while [ ! -e /d/{name} ]; do sleep 0.02; done");
        with(shell(name, &script), json!({ "volumeMounts": [{ "name": "d", "mountPath": "/d" }] }))
    };
    let app =
        with(shell("c", "cat /d/ran; sleep 1000"), json!({ "volumeMounts": [{ "name": "d", "mountPath": "/d" }] }));
    let spec = json!({ "terminationGracePeriodSeconds": 0, "volumes": [{ "name": "d", "emptyDir": {} }],
        "initContainers": [init("one"), init("two")], "containers": [app] });
    let mut run = host.live(&["run", "-d", &host.manifest(&pod("p", spec))]);
    until("the pod", || host.path("state/names/default_p").exists().then_some(()));
    for name in ["one", "two"] {
        let status = host.until_status(("p", name), "its start", |status| !status["state"]["running"].is_null());
        assert_eq!(status["restartCount"], 0);
        host.kill_supervisor("p");
        host.run(&["recover", "--all"]).expect(0);
        assert!(!processes(&host, "p", name).is_empty(), "{name} goes on");
        std::fs::write(host.path("root/pods").join(uid(&host, "p")).join("volumes/d").join(name), "").unwrap();
    }
    host.until_ps("p", "Running");
    until("the log", || (log(&host, "p", "c") == ["one", "two"]).then_some(()));
    assert_eq!(run.wait(), 0, "{}", run.err());
}

#[test]
fn a_back_off_is_not_forgotten() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod("p", json!({ "containers": [shell("c", "exit 3"), facts("other", &["sleep"])] })));
    host.until_status(("p", "c"), "the back-off", |status| status["state"]["waiting"]["reason"] == "CrashLoopBackOff");
    let begin = Instant::now();
    host.kill_supervisor("p");
    std::thread::sleep(Duration::from_secs(1));
    host.run(&["recover", "p"]).expect(0);
    let status = host.status("p", "c");
    let is_so = (&status["restartCount"], &status["state"]["waiting"]["reason"]);
    assert_eq!(is_so, (&json!(1), &json!("CrashLoopBackOff")), "{status}");
    host.until_status(("p", "c"), "the next start", |status| status["restartCount"] == 2);
    assert!(begin.elapsed() > Duration::from_secs(8), "{:?}", begin.elapsed());
    host.ok(&["rm", "-f", "p"]);
}

#[test]
fn a_stop_goes_on_to_its_end() {
    let Some(host) = Host::new(&[]) else { return };
    let hooked = with(
        shell("c", "trap 'echo TERM' TERM; while :; do sleep 0.1; done"),
        json!({ "lifecycle": { "preStop": { "exec": { "command": ["sh", "-c", "echo hook > /proc/1/fd/1"] } } } }),
    );
    host.start(&pod("p", json!({ "terminationGracePeriodSeconds": 4, "containers": [hooked] })));
    let begin = Instant::now();
    let mut stop = host.live(&["stop", "p"]);
    until("the signal", || log(&host, "p", "c").contains(&"TERM".to_owned()).then_some(()));
    host.kill_supervisor("p");
    // Who waits for it recovers it, and its time is not longer for that.
    assert_eq!(stop.wait(), 0, "{}", stop.err());
    let took = begin.elapsed().as_secs();
    assert!((3..9).contains(&took), "after {took} s: {}", stop.err());
    let ended = &host.status("p", "c")["state"]["terminated"];
    assert_eq!(ended["exitCode"], 137, "{ended}");
    assert_eq!(log(&host, "p", "c").iter().filter(|line| *line == "hook").count(), 1);
    host.ok(&["rm", "p"]);
    host.assert_clean();
}

/// Holds a process's file, whose path ends in the second word, until its standard input ends; says when it does.
const HOLD: &str = r#"
import ctypes, os, sys
pid = int(sys.argv[1])
pidfd = os.pidfd_open(pid)
links = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
for fd in [fd for fd, target in links.items() if target.endswith(sys.argv[2])]:
    assert ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, fd, 0) >= 0, os.strerror(ctypes.get_errno())  # pidfd_getfd(2)
    print("held", flush=True)
sys.stdin.read()
"#;

/// Kills the supervisor of pod `p`; its lock is held until the standard input of what is returned is closed.
fn kill_but_hold(host: &Host) -> Live {
    let mut command = std::process::Command::new("python3");
    command.args(["-c", HOLD, &supervisors(host, "p")[0].to_string(), "/lock"]).stdin(std::process::Stdio::piped());
    let holder = Live::start(command);
    holder.until_has("held");
    host.kill_supervisor("p");
    holder
}

/// What a supervisor has started may hold its lock for a moment after it was killed. Who saw it hang up takes it neither for one
/// that lives, nor for one that nobody can follow.
#[test]
fn a_lock_that_is_held_a_moment_longer_does_not_end_the_pod() {
    let Some(host) = Host::new(&[]) else { return };
    let stubborn = shell("c", "trap 'echo TERM' TERM; while :; do sleep 0.1; done");
    host.start(&pod("p", json!({ "terminationGracePeriodSeconds": 3, "containers": [stubborn] })));
    let mut wait = host.live(&["wait", "p"]);
    let mut held = kill_but_hold(&host);
    std::thread::sleep(Duration::from_millis(300));
    drop(held.stdin());
    until("another supervisor", || (supervisors(&host, "p").len() == 1).then_some(()));
    let mut stop = host.live(&["stop", "p"]);
    until("the signal", || log(&host, "p", "c").contains(&"TERM".to_owned()).then_some(()));
    let mut held = kill_but_hold(&host);
    std::thread::sleep(Duration::from_millis(300));
    drop(held.stdin());
    assert_eq!((stop.wait(), stop.err().contains("did not end it")), (0, false), "{}", stop.err());
    assert_eq!((wait.wait(), wait.out().as_str()), (0, "137\n"), "{}", wait.err());
    assert_eq!(host.events("p", "TakenOver").iter().map(|event| event["count"].as_u64().unwrap_or(1)).sum::<u64>(), 2);
    host.ok(&["rm", "p"]);
    host.assert_clean();
}

/// Who comes while the lock is still held waits until it is not, and then for another supervisor.
#[test]
fn who_comes_while_the_lock_is_held_a_moment_longer_is_served() {
    let Some(host) = Host::new(&[]) else { return };
    let polite = shell("c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    host.start(&pod("p", json!({ "terminationGracePeriodSeconds": 5, "containers": [polite] })));
    let verbs: [&[&str]; 6] = [
        &["exec", "p", "--", "true"],
        &["exec", "-u", "root", "p", "--", "true"],
        &["wait", "--for", "condition=Ready", "p"],
        &["port-forward", "p", "18080:80"],
        &["logs", "-f", "p"],
        &["stop", "p"],
    ];
    for args in verbs {
        until("the container", || (log(&host, "p", "c") == ["ready"]).then_some(()));
        let mut held = kill_but_hold(&host);
        let mut live = host.live(args);
        std::thread::sleep(Duration::from_millis(200));
        drop(held.stdin());
        until_or(
            || format!("{args:?}: {}", live.err()),
            || (supervisors(&host, "p").len() == 1 || args[0] == "stop").then_some(()),
        );
        if ["port-forward", "logs"].contains(&args[0]) {
            live.until_has(if args[0] == "logs" { "ready" } else { "Forwarding" });
            live.signal(Signal::SIGINT);
            live.wait();
        } else {
            assert_eq!(live.wait(), 0, "{args:?}: {}", live.err());
        }
    }
    assert_eq!(host.status("p", "c")["state"]["terminated"]["exitCode"], 3);
    host.ok(&["rm", "p"]);
    host.assert_clean();
}

#[test]
fn probes_go_on() {
    let Some(host) = Host::new(&[]) else { return };
    let probe = json!({ "exec": { "command": ["test", "-e", "/ready"] }, "periodSeconds": 1, "failureThreshold": 1 });
    let probed = with(shell("c", "touch /ready; sleep 1000"), json!({ "readinessProbe": probe }));
    host.start(&pod("p", json!({ "terminationGracePeriodSeconds": 0, "containers": [probed] })));
    host.until_condition("p", "Ready", "True");
    host.kill_supervisor("p");
    host.run(&["recover", "p"]).expect(0);
    assert_eq!(host.condition("p", "Ready")["status"], "True", "what was known is not forgotten");
    host.ok(&["exec", "p", "--", "rm", "/ready"]);
    host.until_condition("p", "Ready", "False");
    host.ok(&["exec", "p", "--", "touch", "/ready"]);
    host.until_condition("p", "Ready", "True");
}

#[test]
fn the_pods_own_pid_1_is_supervised_again() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "shareProcessNamespace": true, "terminationGracePeriodSeconds": 1,
        "containers": [shell("c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")] });
    host.start(&pod("p", spec));
    let first = host.pid("p", "c");
    host.kill_supervisor("p");
    host.run(&["recover", "p"]).expect(0);
    host.ok(&["exec", "p", "--", "true"]);
    assert_eq!(host.pid("p", "c"), first);
    // It ends while nobody sees it, and everything in the pod with it: the pod begins anew.
    let own = leaks::processes_in(&format!("{}/podshim/pod{}/_pause", host.cgroup_parent, uid(&host, "p")));
    host.kill_supervisor("p");
    kill(Pid::from_raw(own[0]), Signal::SIGKILL).unwrap();
    until("its end", || processes(&host, "p", "c").is_empty().then_some(()));
    host.run(&["recover", "p"]).expect(0);
    host.until_status(("p", "c"), "another instance", |status| {
        status["restartCount"] == 1 && !status["state"]["running"].is_null()
    });
    assert_eq!(host.events("p", "SandboxChanged").len(), 1);
    host.ok(&["rm", "p"]);
    host.assert_clean();
}

/// Which process a container is cannot be written down as it starts: that is done as soon as it can be.
#[test]
fn a_container_that_could_not_be_kept_is_kept_later() {
    let Some(host) = Host::new(&[]) else { return };
    let waits = shell("i", "while [ ! -e /go ]; do sleep 0.02; done");
    let spec = json!({ "terminationGracePeriodSeconds": 0, "initContainers": [waits],
        "containers": [facts("c", &["sleep"])] });
    let mut run = host.live(&["run", "-d", &host.manifest(&pod("p", spec))]);
    until("the pod", || host.path("state/names/default_p").exists().then_some(()));
    host.until_status(("p", "i"), "its start", |status| !status["state"]["running"].is_null());
    let state = host.state_of("p").join("containers/c");
    // No file can be written there.
    let in_the_way = state.join("instance.json.tmp");
    std::fs::create_dir_all(&in_the_way).unwrap();
    std::fs::write(format!("/proc/{}/root/go", host.pid("p", "i")), "").unwrap();
    assert_eq!(run.wait(), 0, "{}", run.err());
    host.until_event("p", "SupervisorError", "keeping a container's process for another supervisor: open ");
    std::fs::remove_dir(&in_the_way).unwrap();
    until("its file", || state.join("instance.json").exists().then_some(()));
    let first = host.pid("p", "c");
    host.kill_supervisor("p");
    host.run(&["recover", "p"]).expect(0);
    assert_eq!((host.pid("p", "c"), &host.status("p", "c")["restartCount"]), (first, &json!(0)));
    host.ok(&["rm", "-f", "p"]);
    host.assert_clean();
}

#[test]
fn damaged_files_are_one_pods_trouble_and_no_foreign_process_is_touched() {
    let Some(host) = Host::new(&[]) else { return };
    for name in ["torn", "half", "stranger", "fine"] {
        host.start(&counting(name));
    }
    for name in ["torn", "half", "stranger", "fine"] {
        host.kill_supervisor(name);
    }
    let state = |name: &str| host.state_of(name);
    // A record that was half written; one that names a process of somebody else, whose pid is used again.
    std::fs::write(state("half").join("containers/c/instance.json"), "{\"process\":{\"pi").unwrap();
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let instance = state("stranger").join("containers/c");
    nix::mount::umount2(&instance.join("process"), nix::mount::MntFlags::MNT_DETACH).unwrap();
    let mut record: Value = serde_json::from_slice(&std::fs::read(instance.join("instance.json")).unwrap()).unwrap();
    record["process"]["pid"] = json!(stranger.id());
    std::fs::write(instance.join("instance.json"), record.to_string()).unwrap();
    let kept = std::fs::read(state("torn").join("kept.json")).unwrap();
    std::fs::write(state("torn").join("kept.json"), &kept[..kept.len() / 2]).unwrap();
    let recovered = host.run(&["recover", "--all"]).expect(125).says(&["default/torn", "is damaged"]);
    assert_eq!(recovered.out.lines().count(), 3, "{}", recovered.out);
    assert_eq!(
        (host.ps("fine"), host.ps("torn")[1].as_str()),
        (["1/1", "Running", "0"].map(str::to_owned), "SupervisorGone")
    );
    for name in ["half", "stranger"] {
        // What could be a process of the container is killed, and the container started again as it is to be.
        let status = host.until_status((name, "c"), "the restart", |status| {
            status["restartCount"] == 1 && !status["state"]["running"].is_null()
        });
        let last = &status["lastState"]["terminated"];
        assert_eq!((&last["exitCode"], &last["reason"]), (&json!(137), &json!("ContainerStatusUnknown")), "{status}");
        // A shell, and mostly its child.
        let count = |name: &str| processes(&host, name, "c").len();
        until("as many processes as in the other", || (count(name) == count("fine")).then_some(()));
    }
    assert!(stranger.try_wait().unwrap().is_none(), "a process that was never the pod's was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    // Nobody can go on with it, but it can be ended, and is not shown as if it ran.
    host.run(&["stop", "torn"]).expect(0).says(&["is damaged"]);
    assert!(processes(&host, "torn", "c").is_empty());
    assert_eq!(host.ps("torn")[..2], ["0/1", "ContainerStatusUnknown"].map(str::to_owned));
    host.ok(&["rm", "torn"]);
    host.ok(&["rm", "-f", "--all"]);
    host.assert_clean();
}

#[test]
fn a_supervisor_that_does_nothing_is_killed_by_force_and_its_pod_is_over() {
    let Some(host) = Host::new(&[]) else { return };
    for name in ["p", "alone"] {
        host.start(&counting(name));
        kill(Pid::from_raw(host.supervisor(name)), Signal::SIGSTOP).unwrap();
    }
    let mut waits = host.live(&["stop", "p"]);
    std::thread::sleep(Duration::from_secs(1));
    host.run(&["stop", "-t", "0", "p", "alone"]).expect(0).says(&["did not end it"]);
    // Who does not force it waits for it, and is told so.
    assert_eq!(waits.wait(), 0, "{}", waits.err());
    assert!(waits.err().contains("`podshim rm -f default/p`"), "{}", waits.err());
    // Whoever comes next does not begin it anew.
    host.run(&["recover", "--all"]).expect(0);
    for name in ["p", "alone"] {
        assert!(processes(&host, name, "c").is_empty());
        assert_eq!(host.status(name, "c")["state"]["terminated"]["exitCode"], 137, "{name}");
    }
    assert_eq!(host.ps("alone")[..2], ["0/1", "ContainerStatusUnknown"].map(str::to_owned));
    // Who waits may be quicker to have another supervisor, which sees how the container ended.
    let [ready, status, _] = host.ps("p");
    assert!(ready == "0/1" && ["ContainerStatusUnknown", "Error"].contains(&&*status), "{ready} {status}");
    host.ok(&["rm", "p", "alone"]);
    host.assert_clean();
}

#[test]
fn a_terminal_that_is_lost_is_told_and_input_that_is_not_goes_on() {
    let Some(host) = Host::new(&[]) else { return };
    let terminal = with(shell("t", "cat"), json!({ "stdin": true, "tty": true }));
    let reads = with(shell("i", "while read line; do echo got $line; done; echo end"), json!({ "stdin": true }));
    host.start(&pod("p", json!({ "terminationGracePeriodSeconds": 0, "containers": [terminal, reads] })));
    host.kill_supervisor("p");
    host.run(&["recover", "p"]).expect(0);
    host.until_event("p", "TerminalLost", "hung up");
    host.until_status(("p", "t"), "the hang-up", |status| status["restartCount"] == 1);
    let mut attach = host.command(&["attach", "-c", "i", "-i", "p"]);
    attach.stdin(std::process::Stdio::piped());
    let mut attach = Live::start(attach);
    let mut input = attach.stdin();
    std::io::Write::write_all(&mut input, b"one\n").unwrap();
    until("its answer", || (log(&host, "p", "i") == ["got one"]).then_some(()));
    drop(input);
    attach.signal(Signal::SIGTERM);
    attach.wait();
    host.ok(&["rm", "-f", "p"]);
    host.assert_clean();
}

#[test]
fn it_can_be_killed_at_any_moment() {
    let Some(host) = Host::new(&[]) else { return };
    let kills = std::env::var("PODSHIM_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let mut numbers = Numbers(5);
    let spec = json!({ "terminationGracePeriodSeconds": 1,
        "initContainers": [shell("i", "exit 0"), with(facts("s", &["sleep"]), json!({ "restartPolicy": "Always" }))],
        "containers": [shell("c", COUNT), facts("b", &["sleep"])] });
    let manifest = host.manifest(&pod("p", spec));
    let (mut made, mut done) = (0, 0);
    let state = host.path("state/pods");
    while done < kills {
        let mut run = host.live(&["run", "-d", &manifest]);
        // Sometimes while it is being made, sometimes later, some of them twice.
        for _ in 0..=numbers.below(2) {
            std::thread::sleep(Duration::from_millis(numbers.below(60)));
            for supervisor in supervisors_below(&state) {
                let _ = kill(Pid::from_raw(supervisor), Signal::SIGKILL);
                done += 1;
            }
            host.run(&["recover", "--all"]).expect(0);
        }
        let code = run.wait();
        let listed = host.ok(&["ps", "-q"]);
        if listed.is_empty() {
            assert_ne!(code, 0, "it was said to run");
        } else {
            made += 1;
            host.run(&["recover", "--all"]).expect(0);
            let came_to = || format!("the pod: {:?}\n{}", host.inspect("p")["status"], host.ok(&["events", "p"]));
            until_or(came_to, || (host.ps("p")[..2] == ["3/3", "Running"].map(str::to_owned)).then_some(()));
            assert_eq!(supervisors(&host, "p").len(), 1);
            for container in ["s", "b"] {
                assert_eq!(processes(&host, "p", container).len(), 1, "{container}");
            }
            assert_eq!(host.status("p", "i")["restartCount"], 0);
            until("lines", || (log(&host, "p", "c").len() > 3).then_some(()));
            assert_counted(&log(&host, "p", "c"), 3);
            let runs = || (host.pid("p", "c"), host.status("p", "c")["restartCount"].clone());
            let before = runs();
            host.kill_supervisor("p");
            done += 1;
            host.run(&["recover", "--all"]).expect(0);
            assert_eq!(runs(), before, "it goes on");
            let by = [&["rm", "-f", "p"][..], &["rm", "p"]][numbers.below(2) as usize];
            let mut removal = host.live(by);
            if numbers.below(2) == 0 {
                std::thread::sleep(Duration::from_millis(numbers.below(30)));
                for supervisor in supervisors_below(&state) {
                    let _ = kill(Pid::from_raw(supervisor), Signal::SIGKILL);
                    done += 1;
                }
            }
            assert_eq!(removal.wait(), 0, "{}", removal.err());
        }
        assert_eq!(host.ok(&["ps", "-q"]), "");
        until("nothing to be left", || host.leaks().is_empty().then_some(()));
    }
    assert!(made > 3, "only {made} pods were made");
    host.assert_clean();
}
