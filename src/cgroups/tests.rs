//! Real cgroups, as root, in a directory of each test's own in every hierarchy. The same tests run on v1, hybrid and (in
//! the guest of `scripts/v2-guest.sh`) on v2.

use super::*;
use crate::error::{Kind, kind_of};
use crate::host::cgroup::{CgroupSetup, Mode, detect};
use crate::sys::getxattr;
use oci_spec::runtime::LinuxResources;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

/// A parent cgroup of a test's own, removed with all that is in it.
struct Ground {
    setup: CgroupSetup,
    parent: String,
}

impl Ground {
    /// None only if this may be skipped.
    fn new() -> Option<Ground> {
        if !nix::unistd::geteuid().is_root() {
            let skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
            assert!(skip.split([',', ' ']).any(|w| w == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = format!("podshim-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Some(Ground { setup: detect().unwrap(), parent })
    }

    fn cgroup(&self, name: &str) -> Cgroup {
        Cgroup::at(&self.setup, &self.parent, name).unwrap()
    }

    /// The same cgroup as a host sees it on which there is only v1, if this one has v1: killing has to do without
    /// `cgroup.kill` then.
    fn views(&self, name: &str) -> Vec<Cgroup> {
        let mut v1 = self.setup.clone();
        v1.mode = Mode::V1;
        v1.hierarchies.retain(|h| h.version == crate::host::cgroup::Version::V1);
        let v1 = (self.setup.mode == Mode::Hybrid).then(|| Cgroup::at(&v1, &self.parent, name).unwrap());
        [self.cgroup(name)].into_iter().chain(v1).collect()
    }

    /// The parent's directory in each hierarchy that is used.
    fn dirs(&self) -> Vec<PathBuf> {
        self.cgroup("pod").dirs().iter().map(|d| d.parent().unwrap().parent().unwrap().to_owned()).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for dir in self.dirs() {
            for dir in processes::tree(&dir).iter().rev() {
                let _ = fs::write(dir.join("freezer.state"), "THAWED");
                for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
                    let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                    assert!(pid.as_raw() > 0 && pid != nix::unistd::Pid::this());
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
                }
                let deadline = Instant::now() + SOON;
                while fs::remove_dir(dir).is_err() && dir.exists() && Instant::now() < deadline {
                    processes::pause(None, Duration::from_millis(2));
                }
            }
            if !std::thread::panicking() {
                assert!(!dir.exists(), "{} was left behind", dir.display());
            }
        }
    }
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// A shell that waits for a line, so that it can be put into a cgroup before it does anything.
fn shell(script: &str) -> Child {
    Command::new("/bin/sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Puts a process in, as a container's init would enter by itself.
fn enter(cgroup: &Cgroup, pid: u32) {
    for dir in cgroup.dirs() {
        fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

/// Runs a script in a cgroup, without waiting for its end.
fn start(cgroup: &Cgroup, script: &str) -> Child {
    let mut child = shell(script);
    enter(cgroup, child.id());
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    child
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        processes::pause(None, Duration::from_millis(5));
    }
}

fn show(cgroup: &Cgroup, controller: &str, v1: &str, v2: &str) -> String {
    let (hierarchy, dir) = cgroup.home(controller).unwrap();
    let v2_file = hierarchy.version == crate::host::cgroup::Version::V2;
    fs::read_to_string(dir.join(if v2_file { v2 } else { v1 })).unwrap().trim().to_owned()
}

#[test]
fn limits_are_what_the_kernel_shows_and_nothing_is_left() {
    let Some(ground) = Ground::new() else { return };
    let cgroup = ground.cgroup("pod1/app");
    let wanted = r#"{"cpu":{"shares":512,"quota":20000,"period":100000,"cpus":"0","mems":"0"},
        "memory":{"limit":67108864},"pids":{"limit":64}}"#;
    cgroup.create(&resources(wanted)).unwrap();
    assert_eq!(show(&cgroup, "pids", "pids.max", "pids.max"), "64");
    assert_eq!(show(&cgroup, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    let cpu = show(&cgroup, "cpu", "cpu.shares", "cpu.weight");
    assert!(cpu == "512" || cpu == "59", "{cpu}");
    let quota = show(&cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "20000" || quota == "20000 100000", "{quota}");
    assert_eq!(show(&cgroup, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");

    // What a process has before it enters is not charged; what it gets then is.
    let mut child = start(&cgroup, "x=$(head -c 1000000 /dev/zero | tr '\\000' x); while :; do :; done");
    wait_until("CPU time is counted", || cgroup.stats().unwrap().cpu_usage_usec > Some(1000));
    wait_until("memory is counted", || cgroup.stats().unwrap().memory_working_set > Some(1_000_000));
    wait_until("its helpers have ended", || cgroup.stats().unwrap().pids == Some(1));
    let stats = cgroup.stats().unwrap();
    assert!(stats.memory_current >= stats.memory_working_set, "{stats:?}");
    assert_eq!(cgroup.pids().unwrap().len(), 1);
    assert!(cgroup.remove(Duration::from_millis(20)).unwrap_err().to_string().contains(&child.id().to_string()));

    assert_eq!(cgroup.kill(SOON).unwrap(), []);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    cgroup.remove(SOON).unwrap();
    cgroup.remove(SOON).unwrap();
    assert_eq!(cgroup.kill(SOON).unwrap(), []);
    ground.cgroup("pod1").remove(SOON).unwrap();
    for dir in ground.dirs() {
        assert!(!dir.join(SUBTREE).exists(), "{}", dir.display());
    }
}

#[test]
fn a_fork_bomb_is_bounded_and_ends() {
    let Some(ground) = Ground::new() else { return };
    for cgroup in ground.views("pod1/bomb") {
        cgroup.create(&resources(r#"{"pids":{"limit":64}}"#)).unwrap();
        let mut child = start(&cgroup, "while :; do (while :; do sleep 100 & done) & done");
        wait_until("it reaches its limit", || cgroup.stats().unwrap().pids >= Some(60));
        assert!(cgroup.stats().unwrap().pids <= Some(64));
        let before = Instant::now();
        assert_eq!(cgroup.kill(SOON).unwrap(), []);
        cgroup.remove(SOON).unwrap();
        assert!(before.elapsed() < SOON);
        child.wait().unwrap();
    }
}

#[test]
fn a_living_fork_bomb_ends() {
    let Some(ground) = Ground::new() else { return };
    for cgroup in ground.views("pod1/bomb") {
        cgroup.create(&resources(r#"{"pids":{"limit":64}}"#)).unwrap();
        // Each of a few families starts a next generation and ends, for ever.
        let script = "i=0; while [ $i -lt 8 ]; do sh -c 'sh -c \"$0\" \"$0\" & wait' 'sh -c \"$0\" \"$0\" &' & i=$((i+1)); done; wait";
        let mut child = start(&cgroup, script);
        wait_until("it multiplies", || cgroup.pids().unwrap().len() >= 4);
        assert_eq!(cgroup.kill(SOON).unwrap(), []);
        cgroup.remove(SOON).unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn frozen_and_stopped_processes_are_killed() {
    let Some(ground) = Ground::new() else { return };
    for cgroup in ground.views("pod1/app") {
        frozen_or_stopped_is_killed(&cgroup, State::Frozen);
        frozen_or_stopped_is_killed(&cgroup, State::Stopped);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Frozen,
    Stopped,
}

fn frozen_or_stopped_is_killed(cgroup: &Cgroup, state: State) {
    cgroup.create(&LinuxResources::default()).unwrap();
    let mut child = start(cgroup, "trap '' TERM; echo; while :; do :; done");
    // Its line says that the trap is set.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    if state == State::Stopped {
        cgroup.signal(nix::sys::signal::SIGSTOP).unwrap();
    } else {
        cgroup.freeze(SOON).unwrap();
        let used = cgroup.stats().unwrap().cpu_usage_usec;
        processes::pause(None, Duration::from_millis(50));
        assert_eq!(cgroup.stats().unwrap().cpu_usage_usec, used, "a frozen process uses no time");
        cgroup.thaw().unwrap();
        wait_until("it runs again", || cgroup.stats().unwrap().cpu_usage_usec > used);
        cgroup.freeze(SOON).unwrap();
    }
    cgroup.signal(nix::sys::signal::SIGTERM).unwrap();
    assert!(!cgroup.is_empty().unwrap(), "{state:?}");
    assert_eq!(cgroup.kill(SOON).unwrap(), [], "{state:?}");
    assert_eq!(child.wait().unwrap().signal(), Some(9), "{state:?}");
    cgroup.remove(SOON).unwrap();
}

#[test]
fn a_memory_bomb_is_killed_and_counted() {
    let Some(ground) = Ground::new() else { return };
    let cgroup = ground.cgroup("pod1/hog");
    cgroup.create(&resources(r#"{"memory":{"limit":16777216}}"#)).unwrap();
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    let mut child = start(&cgroup, "x=$(head -c 100000000 /dev/zero | tr '\\000' x); echo survived ${#x}");
    child.wait().unwrap();
    wait_until("the kill is counted", || cgroup.oom_kills().unwrap() >= 1);
    let mut other = start(&cgroup, "exit 3");
    assert_eq!(other.wait().unwrap().code(), Some(3), "the cgroup serves on");
    cgroup.kill(SOON).unwrap();
    cgroup.remove(SOON).unwrap();
    assert!(cgroup.oom_kills().is_err());
}

#[test]
fn only_listed_devices_open() {
    let Some(ground) = Ground::new() else { return };
    let cgroup = ground.cgroup("pod1/devices");
    let rules = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","access":"m"},
        {"allow":true,"type":"c","major":1,"minor":3,"access":"rw"},
        {"allow":true,"type":"c","major":1,"minor":5,"access":"r"}]}"#;
    cgroup.create(&resources(rules)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    // null for reading and writing, zero for reading only, urandom not at all; any character device may be made.
    let script = format!(
        "try() {{ if \"$@\" 2>/dev/null; then echo yes; else echo no; fi; }}\n\
        try sh -c 'exec 3<>/dev/null'; try sh -c 'exec 3</dev/zero'; try sh -c 'exec 3<>/dev/zero'\n\
        try sh -c 'exec 3</dev/urandom'; try mknod {at}/c c 1 9; try mknod {at}/b b 7 0"
    );
    // The redirections of `try` itself open null for writing, which is allowed.
    let output = start(&cgroup, &script).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(said, "yes yes no no yes no", "{}", String::from_utf8_lossy(&output.stderr));
    // The rules are gone with the cgroup and do not add up.
    cgroup.create(&resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#)).unwrap();
    let status = start(&cgroup, "exec 3</dev/urandom").wait().unwrap();
    assert!(status.success());
}

#[test]
fn what_a_crash_left_is_replaced_but_never_a_live_one() {
    let Some(ground) = Ground::new() else { return };
    let cgroup = ground.cgroup("pod1/app");
    cgroup.create(&resources(r#"{"pids":{"limit":5}}"#)).unwrap();
    for dir in cgroup.dirs() {
        fs::create_dir_all(dir.join("nested/deeper")).unwrap();
    }
    cgroup.create(&LinuxResources::default()).unwrap();
    assert_eq!(show(&cgroup, "pids", "pids.max", "pids.max"), "max");
    assert!(cgroup.dirs().iter().all(|d| !d.join("nested").exists()));

    let nested = ground.cgroup("pod1/app/nested");
    nested.create(&LinuxResources::default()).unwrap();
    let mut child = start(&nested, "while :; do :; done");
    let error = cgroup.create(&LinuxResources::default()).unwrap_err();
    assert_eq!(kind_of(&error), Some(Kind::AlreadyExists), "{error:#}");
    // A later process finds it by name alone, and ends what is nested too.
    let found: Cgroup = serde_json::from_str(&serde_json::to_string(&cgroup).unwrap()).unwrap();
    assert_eq!(found.kill(SOON).unwrap(), []);
    child.wait().unwrap();
    found.remove(SOON).unwrap();
    assert!(cgroup.dirs().iter().all(|d| !d.exists()));
}

#[test]
fn a_failed_creation_says_why_and_leaves_nothing() {
    let Some(ground) = Ground::new() else { return };
    let mut bare = ground.setup.clone();
    bare.hierarchies.iter_mut().for_each(|h| h.controllers.retain(|c| c != "memory"));
    let mut read_only = ground.setup.clone();
    read_only.hierarchies[0].read_only = true;
    let memory = r#"{"memory":{"limit":16777216}}"#;
    let table = [
        ("no controller", &bare, memory, "no cgroup hierarchy has the controller memory"),
        ("read-only", &read_only, "{}", "is mounted read-only"),
        ("no such cpu", &ground.setup, r#"{"cpu":{"cpus":"4000"}}"#, "set cpuset.cpus to 4000"),
        ("bad quota", &ground.setup, r#"{"cpu":{"quota":1,"period":100000}}"#, "set cpu."),
        ("bad key", &ground.setup, r#"{"unified":{"memory.nonsense":"1"}}"#, "memory.nonsense"),
        ("bad device", &ground.setup, r#"{"devices":[{"allow":true,"type":"p"}]}"#, "device rule"),
    ];
    for (name, setup, json, expect) in table {
        let cgroup = Cgroup::at(setup, &ground.parent, "pod1/app").unwrap();
        let error = format!("{:#}", cgroup.create(&resources(json)).expect_err(name));
        assert!(error.contains(expect) && error.contains("create cgroup"), "{name}: {error}");
        assert!(ground.cgroup("pod1/app").dirs().iter().all(|d| !d.exists()), "{name}");
    }
}

#[test]
fn pods_come_and_go_beside_each_other() {
    let Some(ground) = Ground::new() else { return };
    std::thread::scope(|scope| {
        for pod in 0..4 {
            let ground = &ground;
            scope.spawn(move || {
                for round in 0..15 {
                    let app = ground.cgroup(&format!("pod{pod}/app"));
                    app.create(&resources(r#"{"pids":{"limit":9}}"#))
                        .unwrap_or_else(|e| panic!("{pod}/{round}: {e:#}"));
                    ground.cgroup(&format!("pod{pod}")).remove(SOON).unwrap();
                }
            });
        }
    });
    assert!(ground.dirs().iter().all(|d| !d.join(SUBTREE).exists()));
}

#[test]
fn a_child_can_be_born_in_the_unified_one_and_joins_the_others() {
    let Some(ground) = Ground::new() else { return };
    let cgroup = ground.cgroup("pod1/app");
    cgroup.create(&LinuxResources::default()).unwrap();
    let dir = cgroup.unified_dir().unwrap();
    assert_eq!(dir.is_some(), ground.setup.unified().is_some());
    if let Some(dir) = &dir {
        let shown = fs::read_link(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd())).unwrap();
        assert!(cgroup.dirs().contains(&shown), "{shown:?}");
    }
    let files = cgroup.join_files().unwrap();
    assert_eq!(files.len() + usize::from(dir.is_some()), cgroup.dirs().len());
}

#[test]
fn a_delegated_cgroup_becomes_the_parent() {
    let Some(ground) = Ground::new() else { return };
    let Some(unified) = ground.setup.unified() else { return };
    let above = unified.mount.join(&ground.parent);
    fs::create_dir_all(above.join("supervisor")).unwrap();
    let mut setup = ground.setup.clone();
    let own =
        if setup.mode == Mode::V2 { format!("/{}/supervisor", ground.parent) } else { format!("/{}", ground.parent) };
    setup.hierarchies.iter_mut().for_each(|h| h.own = own.clone());
    assert_eq!(parent(&setup, None).unwrap(), "");
    getxattr::mark(&above, "trusted.delegate", b"1").unwrap();
    assert_eq!(parent(&setup, None).unwrap(), ground.parent);
    assert_eq!(parent(&setup, Some("else/where")).unwrap(), "else/where");
}

#[test]
fn on_v2_a_parent_that_holds_processes_is_named_with_the_way_out() {
    let Some(ground) = Ground::new() else { return };
    if ground.setup.mode != Mode::V2 {
        return; // Only v2 has the rule.
    }
    let dir = ground.setup.unified().unwrap().mount.join(&ground.parent);
    fs::create_dir(&dir).unwrap();
    let mut child = shell("exit 0");
    fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
    let error = ground.cgroup("pod1/app").create(&resources(r#"{"pids":{"limit":9}}"#)).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("pids") && error.contains("move them to a child"), "{error}");
    assert_eq!(fs::read_to_string(dir.join("cgroup.type")).unwrap(), "domain\n", "the parent stays as it was");
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn on_v2_the_whole_group_goes_if_asked() {
    let Some(ground) = Ground::new() else { return };
    if ground.setup.mode != Mode::V2 {
        return; // Only v2 has memory.oom.group.
    }
    let cgroup = ground.cgroup("pod1/hog");
    let wanted = r#"{"memory":{"limit":16777216},"unified":{"memory.oom.group":"1"}}"#;
    cgroup.create(&resources(wanted)).unwrap();
    let script = "(x=$(head -c 100000000 /dev/zero | tr '\\000' x)) & wait; echo survived";
    let output = start(&cgroup, script).wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(cgroup.oom_kills().unwrap() >= 2);
}

#[test]
fn counters_are_the_kernels() {
    let Some(ground) = Ground::new() else { return };
    let cgroup = ground.cgroup("pod1/app");
    cgroup.create(&resources(r#"{"memory":{"limit":67108864},"pids":{"limit":64}}"#)).unwrap();
    let mut child = start(&cgroup, "x=$(head -c 1000000 /dev/zero | tr '\\000' x); while :; do :; done");
    let counters = || cgroup.counters().unwrap();
    wait_until("its helpers have ended", || counters().threads == Some(1) && counters().cpu.unwrap().user > 0);
    let (found, stats) = (counters(), cgroup.stats().unwrap());
    assert_eq!((found.max_threads, found.told.memory_limit), (Some(64), Some(64 << 20)));
    let cpu = found.cpu.unwrap();
    assert!(cpu.total > 0 && cpu.total / 1000 <= stats.cpu_usage_usec.unwrap(), "{cpu:?} {stats:?}");
    let memory = found.memory.unwrap();
    assert!(memory.anonymous > 500_000 && memory.faults.1 > 100 && memory.current <= 64 << 20, "{memory:?}");
    assert!(memory.peak >= Some(memory.anonymous), "{memory:?}");
    cgroup.swap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    cgroup.remove(SOON).unwrap();
    ground.cgroup("pod1").remove(SOON).unwrap();
    assert!(cgroup.counters().is_err());
}
