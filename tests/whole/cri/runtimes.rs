//! OCI runtimes of the host, for a supervisor that is killed meanwhile.

use super::super::harness::{Host, until};
use super::super::leaks;
use super::client::{Cri, Kubelet, container, log, sandbox};
use super::kills::{host_pid, kill_supervisor, supervisors};
use podshim::cri::api;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;
use std::time::Duration;
use tonic::Status;

/// The path of an OCI runtime. crun refuses hosts where version 2 of cgroups has some controllers and version 1 the others: there it
/// runs where it does not see version 2.
pub(super) fn runtime(host: &Host, name: &str) -> String {
    let places = std::env::var_os("PATH").unwrap();
    let path = std::env::split_paths(&places).map(|place| place.join(name)).find(|path| path.exists()).unwrap();
    let unified = "/sys/fs/cgroup/unified";
    let is_hybrid =
        std::fs::read_to_string(format!("{unified}/cgroup.controllers")).is_ok_and(|all| !all.trim().is_empty());
    if name != "crun" || !is_hybrid {
        return path.display().to_string();
    }
    let without = format!("umount {unified} && exec {} \"$@\"", path.display());
    let script = format!("#!/bin/sh\nexec unshare -m --propagation slave sh -c '{without}' sh \"$@\"\n");
    std::fs::write(host.path("crun"), script).unwrap();
    std::fs::set_permissions(host.path("crun"), std::fs::Permissions::from_mode(0o755)).unwrap();
    host.path("crun").display().to_string()
}

/// What runs in a sandbox, but for its own pid 1.
pub(super) fn processes_of(sandbox: &str) -> Vec<leaks::Process> {
    leaks::processes(|p| p.cgroup.contains(sandbox) && !p.cgroup.contains("/_pause") && !leaks::has_ended(p.pid))
}

/// A runtime that waits before a verb as long as a file is there, and says that it does; a second one longer than the first.
fn slow_runtime(host: &Host, verb: &str) -> String {
    let (path, waits) = (host.path("slow-runtime"), host.path("waits"));
    let wait = "[ ! -e $w ] || late=0.3; touch $w; while [ -e $w.wait ]; do sleep 0.02; done; sleep ${late:-0}";
    let wait = format!("w={}; {wait}", waits.display());
    let script =
        format!("#!/bin/sh\ncase \"$*\" in *' {verb} '*) {wait};; esac\nexec {} \"$@\"\n", runtime(host, "runc"));
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("[runtime_handlers.slow]\npath = {:?}\n", path.display().to_string())
}

/// Kills the supervisor of a sandbox while the slow runtime works for it, which then goes on.
fn kill_while_it_waits(host: &Host, id: &str) {
    until("the runtime", || host.path("waits").exists().then_some(()));
    kill_supervisor(host, id);
    std::thread::sleep(Duration::from_millis(300));
    std::fs::remove_file(host.path("waits.wait")).unwrap();
}

/// Another kubelet's StartContainer, by which nobody else is held up.
fn start_aside(cri: &Cri<'_>, container: &str) -> JoinHandle<Result<(), Status>> {
    let (kubelet, wanted) = (Kubelet::new(cri.socket.clone()), container.to_owned());
    std::thread::spawn(move || kubelet.start_container(&wanted))
}

/// A runtime that creates a container slowly while a file is there: it has read what it needs, and comes to its cgroup in the end.
fn slow_maker(host: &Host) -> String {
    let (path, waits) = (host.path("slow-runtime"), host.path("waits"));
    let script = r#"#!/bin/sh
case "$*" in
*' create '*) [ ! -e "$w.wait" ] || {
    for bundle; do case $bundle in */containers/*) break ;; esac; done
    group=$(sed -n 's/.*"cgroupsPath": *"\([^"]*\)".*/\1/p' "${bundle%/oci*}/config.json")
    touch "$w"
    while [ -e "$w.wait" ]; do sleep 0.02; done
    sleep 1000 </dev/null >/dev/null 2>&1 &
    for mount in /sys/fs/cgroup /sys/fs/cgroup/*; do
        [ -e "$mount/cgroup.procs" ] && mkdir -p "$mount/$group" && echo $! >"$mount/$group/cgroup.procs"
    done 2>/dev/null
    exit 0
} ;;
esac
"#;
    let script = script.replace("$w", waits.to_str().unwrap());
    std::fs::write(&path, format!("{script}exec {} \"$@\"\n", runtime(host, "runc"))).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("[runtime_handlers.slow]\npath = {:?}\n", path.display().to_string())
}

#[test]
fn nothing_is_left_of_what_a_runtime_makes_for_a_supervisor_that_is_killed() {
    let Some(host) = Host::new(&["ip", "nft", "runc"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, &slow_maker(&host)).by("slow");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let runs = cri.running((&id, &config), "runs", "sleep 1000");
    let pid = host_pid(&cri, &runs);
    std::fs::write(host.path("waits.wait"), "").unwrap();
    let (kubelet, wanted) = (Kubelet::new(cri.socket.clone()), (id.clone(), config.clone()));
    let asking = std::thread::spawn(move || kubelet.create((&wanted.0, &wanted.1), &container("c", "sleep 1000")));
    kill_while_it_waits(&host, &id);
    // It was answered before: another supervisor makes it again.
    let again = asking.join().unwrap().unwrap();
    cri.start_container(&again).unwrap();
    assert_eq!(cri.status(&runs).unwrap().state(), api::ContainerState::ContainerRunning, "{}", cri.server.err());
    assert_eq!(host_pid(&cri, &runs), pid);
    let mut there = processes_of(&id);
    there.retain(|p| ![&runs, &again].iter().any(|id| p.cgroup.contains(*id)));
    assert!(there.is_empty(), "of one that nobody heard of: {there:?}");
    cri.remove_sandbox(&id).unwrap();
}

/// As one is that was killed before it could write down what it had begun.
#[test]
fn a_container_that_no_supervisor_knows_of_is_taken_away() {
    let Some(host) = Host::new(&["ip", "nft", "runc"]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, &slow_runtime(&host, "none")).by("slow");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let runs = cri.running((&id, &config), "runs", "sleep 1000");
    let made = cri.create((&id, &config), &container("c", "sleep 1000")).unwrap();
    cri.kill();
    kill_supervisor(&host, &id);
    let kept = host.path("state/pods").join(&id).join("kept.json");
    let mut memory: Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    let containers = memory["life"]["Commanded"]["containers"].as_array_mut().unwrap();
    containers.iter_mut().filter(|found| found["name"] == made.as_str()).for_each(|found| *found = Value::Null);
    std::fs::write(&kept, memory.to_string()).unwrap();
    // Of another one there is not even the record, or not any more.
    let half = std::path::PathBuf::from(host.folder(&format!("state/pods/{id}/containers/half")));
    cri.restart();
    assert_eq!(cri.status(&runs).unwrap().state(), api::ContainerState::ContainerRunning, "{}", cri.server.err());
    assert!(cri.status(&made).is_err());
    let there = processes_of(&id);
    assert!(there.iter().all(|p| p.cgroup.contains(&runs)), "{there:?}");
    assert!(!host.path("root/pods").join(&id).join("containers").join(&made).exists());
    assert!(!half.exists());
    cri.running((&id, &config), "c", "sleep 1000");
    cri.remove_sandbox(&id).unwrap();
}

#[test]
fn a_container_is_started_once_if_the_supervisor_is_killed_while_a_runtime_starts_it() {
    let Some(host) = Host::new(&["ip", "nft", "runc"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, &slow_runtime(&host, "start")).by("slow");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let made = cri.create((&id, &config), &container("c", "echo once; sleep 1000")).unwrap();
    std::fs::write(host.path("waits.wait"), "").unwrap();
    let asking = start_aside(&cri, &made);
    kill_while_it_waits(&host, &id);
    asking.join().unwrap().unwrap_err();
    let is_running = |status: &api::ContainerStatus| status.state() == api::ContainerState::ContainerRunning;
    until("the start", || cri.status(&made).ok().filter(is_running));
    until("its word", || (!log(&host, "p", "c").is_empty()).then_some(()));
    // Time for a second start to fail.
    std::thread::sleep(Duration::from_millis(600));
    let status = cri.status(&made).unwrap();
    assert!(is_running(&status), "{status:?}");
    assert_eq!(log(&host, "p", "c"), ["once"]);
    cri.remove_sandbox(&id).unwrap();
}

#[test]
fn a_start_that_a_server_has_not_lived_to_see_is_waited_for_by_the_next() {
    let Some(host) = Host::new(&["ip", "nft", "runc"]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, &slow_runtime(&host, "start")).by("slow");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let made = cri.create((&id, &config), &container("c", "echo once; sleep 1000")).unwrap();
    std::fs::write(host.path("waits.wait"), "").unwrap();
    let asking = start_aside(&cri, &made);
    until("the runtime", || host.path("waits").exists().then_some(()));
    cri.kill();
    asking.join().unwrap().unwrap_err();
    cri.restart();
    let asking = start_aside(&cri, &made);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!asking.is_finished(), "before it has started");
    std::fs::remove_file(host.path("waits.wait")).unwrap();
    asking.join().unwrap().unwrap();
    assert_eq!(cri.status(&made).unwrap().state(), api::ContainerState::ContainerRunning);
    until("its word", || (log(&host, "p", "c") == ["once"]).then_some(()));
    let again = cri.start_container(&made).unwrap_err();
    assert!(again.message().contains("it is Running, not Created"), "{again}");
    cri.remove_sandbox(&id).unwrap();
}

/// What starts a container may end after that, or not at all.
#[test]
fn a_container_was_started_that_ends_before_what_starts_it() {
    let Some(host) = Host::new(&["ip", "nft", "runc"]) else { return };
    host.own_network();
    let (path, lag) = (host.path("late-runtime"), host.path("lag"));
    let script = r#"#!/bin/sh
case "$*" in *' start '*) $runc "$@" || exit; exec sleep $(cat "$lag") ;; esac
exec $runc "$@"
"#;
    let script = script.replace("$lag", lag.to_str().unwrap()).replace("$runc", &runtime(&host, "runc"));
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!("[runtime_handlers.late]\npath = {:?}\n", path.display().to_string());
    let cri = Cri::start(&host, &config).by("late");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let supervisor = supervisors(&host, &id)[0];
    let before = leaks::children(supervisor);
    for (name, seconds) in [("late", "0.5"), ("hangs", "1000")] {
        std::fs::write(&lag, seconds).unwrap();
        let made = cri.running((&id, &config), name, "exit 3");
        let ended = cri.until_exited(&made);
        assert_eq!((ended.exit_code, &*ended.reason), (3, "Error"), "{name}: {ended:?}");
        assert!(ended.started_at > 0 && ended.started_at <= ended.finished_at, "{name}: {ended:?}");
        // Neither what started it nor what is left of that.
        until("nothing to be left", || (leaks::children(supervisor) == before).then_some(()));
    }
    cri.remove_sandbox(&id).unwrap();
}

/// How many descriptors a process may have from now on, as prlimit(1) sets it.
fn limit_files(pid: i32, soft: u64) {
    let words = [format!("--pid={pid}"), format!("--nofile={soft}:")];
    let done = std::process::Command::new("prlimit").args(words).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_start_that_cannot_be_begun_is_answered() {
    let Some(host) = Host::new(&["ip", "nft", "runc"]) else { return };
    host.own_network();
    let config = format!("[runtime_handlers.plain]\npath = {:?}\n", runtime(&host, "runc"));
    let cri = Cri::start(&host, &config).by("plain");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let made = cri.create((&id, &config), &container("c", "sleep 1000")).unwrap();
    let supervisor = supervisors(&host, &id)[0];
    let is_held = || -> Option<bool> {
        let status = std::fs::read(host.path("state/pods").join(&id).join("status.json")).ok()?;
        let status: Value = serde_json::from_slice(&status).ok()?;
        Some(status["commanded"][0]["stage"] == "Created")
    };
    until("the container", || is_held().filter(|is_held| *is_held));
    let limits = std::fs::read_to_string(format!("/proc/{supervisor}/limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let before = files.split_whitespace().nth(3).unwrap().parse().unwrap();
    let is_free = |number: &u64| std::fs::symlink_metadata(format!("/proc/{supervisor}/fd/{number}")).is_err();
    // One for who asks, and one that is not enough.
    limit_files(supervisor, (0..).find(is_free).unwrap() + 2);
    let error = cri.start_container(&made).unwrap_err();
    assert!(error.message().contains("EMFILE"), "{error}");
    limit_files(supervisor, before);
    let ended = cri.until_exited(&made);
    assert_eq!((ended.exit_code, &*ended.reason), (128, "StartError"), "{ended:?}");
    cri.remove(&made).unwrap();
    cri.running((&id, &config), "again", "sleep 1000");
    cri.remove_sandbox(&id).unwrap();
}

/// Who made the runtime's processes is killed: somebody else has to wait for those, or the pod's pid 1 does not end.
#[test]
fn a_sandbox_ends_though_the_maker_of_a_container_was_killed() {
    let Some(host) = Host::new(&["ip", "nft"]) else { return };
    host.own_network();
    let (path, maker) = (host.path("hanging-runtime"), host.path("maker"));
    let script = r#"#!/bin/sh
while [ "$1" != --bundle ]; do shift; done
nsenter --pid="$2/../../ns/pid" sleep 1000 </dev/null >/dev/null 2>&1 &
until [ -n "$(cat /proc/$!/task/$!/children)" ]; do sleep 0.01; done
kill -9 $!
wait
echo $PPID >"$maker"
while :; do sleep 0.05; done
"#;
    std::fs::write(&path, script.replace("$maker", maker.to_str().unwrap())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!("[runtime_handlers.hanging]\npath = {:?}\n", path.display().to_string());
    let cri = Cri::start(&host, &config).by("hanging");
    let mut config = sandbox(&host, "p");
    let options = api::NamespaceOption { pid: api::NamespaceMode::Pod.into(), ..Default::default() };
    config.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options =
        Some(options.clone());
    let id = cri.sandbox(&config);
    let mut wanted = container("c", "true");
    wanted.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options = Some(options);
    let (kubelet, of) = (Kubelet::new(cri.socket.clone()), id.clone());
    let asking = std::thread::spawn(move || {
        let made = kubelet.create((&of, &config), &wanted).unwrap();
        kubelet.start_container(&made)
    });
    let pid = until("the runtime", || std::fs::read_to_string(&maker).ok()?.trim().parse().ok());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let error = asking.join().unwrap().unwrap_err();
    assert!(error.message().contains("hanging-runtime ended with 137"), "{error}");
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
}

/// A runtime that says it has made a container, with a pid file that leads to none.
#[test]
fn a_runtime_that_makes_nothing_is_found_out() {
    let Some(host) = Host::new(&["ip", "nft"]) else { return };
    host.own_network();
    let (path, says) = (host.path("idle-runtime"), host.path("says"));
    let script = r#"#!/bin/sh
while [ "$1" != --pid-file ]; do shift; done
[ ! -e "$says" ] || cat "$says" >"$2"
"#;
    std::fs::write(&path, script.replace("$says", says.to_str().unwrap())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!("[runtime_handlers.idle]\npath = {:?}\n", path.display().to_string());
    let cri = Cri::start(&host, &config).by("idle");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    // None; empty; no number; nobody's child of the supervisor.
    for text in [None, Some(""), Some("x"), Some("1")] {
        if let Some(text) = text {
            std::fs::write(&says, text).unwrap();
        }
        let error = cri.refused((&id, &config), &container("c", "sleep 1000"));
        assert!(error.message().contains("oci.pid"), "{text:?}: {error}");
    }
    assert_eq!(cri.sandbox_status(&id).unwrap().state, api::PodSandboxState::SandboxReady as i32);
    cri.remove_sandbox(&id).unwrap();
}
