//! What is left on the host of a test, found by its names: mounts, processes, cgroups, network namespaces, files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What is the test's own.
pub(crate) struct Own<'a> {
    /// Its directory.
    pub(crate) dir: &'a Path,
    /// The name of its directory and of its cgroup parent, and the start of its network namespaces'.
    pub(crate) token: &'a str,
}

/// A process as /proc shows it.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) cmdline: String,
    pub(crate) cgroup: String,
    environ: String,
}

fn text(path: PathBuf) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " ")).unwrap_or_default()
}

/// The processes that `wanted` accepts.
pub(crate) fn processes(wanted: impl Fn(&Process) -> bool) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let at = |file: &str| text(entry.path().join(file));
        let process = Process { pid, cmdline: at("cmdline"), cgroup: at("cgroup"), environ: at("environ") };
        if wanted(&process) {
            found.push(process);
        }
    }
    found
}

impl Process {
    /// The variables that it was started with.
    #[allow(dead_code, reason = "not every crate of tests that has this file looks at them")]
    pub(crate) fn environ(&self) -> &str {
        &self.environ
    }
}

/// The fields of a process's stat after its name (proc_pid_stat(5)): none when it is gone.
fn stat(pid: i32) -> Vec<String> {
    let stat = text(format!("/proc/{pid}/stat").into());
    stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Whether a process has ended and waits for the machine's init to take note, or is gone by now: nobody's business here.
pub(crate) fn has_ended(pid: i32) -> bool {
    stat(pid).first().is_none_or(|state| ["Z", "X"].contains(&state.as_str()))
}

/// Whether a process has ended or is on its way there: no cgroup counts it any more, and nothing holds it up.
pub(crate) fn is_ending(pid: i32) -> bool {
    /// `include/linux/sched.h`
    const PF_EXITING: u32 = 4;
    has_ended(pid) || stat(pid).get(6).is_none_or(|flags| flags.parse::<u32>().unwrap() & PF_EXITING != 0)
}

/// The supervisors of the pods whose state is below this directory, or of one pod: not its pid 1, inits and other children.
#[allow(dead_code, reason = "not every crate of tests that has this file kills them")]
pub(crate) fn supervisors(state: &Path) -> Vec<Process> {
    let mut found = processes(|p| {
        p.cmdline.contains("supervise-pod")
            && p.cmdline.contains(state.to_str().unwrap())
            && !p.cgroup.contains("/podshim/pod")
    });
    found.retain(|process| leads_session(process.pid));
    found
}

/// Kills the supervisor of the pod whose state this is, and waits for its end: as long as it dies it has its sockets, and what is
/// asked of it then is not answered.
#[allow(dead_code, reason = "not every crate of tests that has this file kills them")]
#[track_caller]
pub(crate) fn kill_supervisor(state: &Path) {
    let found = supervisors(state);
    assert_eq!(found.len(), 1, "supervisors: {found:?}");
    kill(found[0].pid);
}

/// SIGKILL, and waits for the process's end.
#[allow(dead_code, reason = "not every crate of tests that has this file kills")]
pub(crate) fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    crate::harness::until("its end", || has_ended(pid).then_some(()));
}

/// A process's children, dead ones too; none if it is gone.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// Whether a process is the first of its session, as a supervisor is.
pub(crate) fn leads_session(pid: i32) -> bool {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::unistd::getsid(Some(pid)) == Ok(pid)
}

fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    mounts.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// The processes of a cgroup, oldest first: the numbers of pids begin again. One that is gone by now is none of them.
pub(crate) fn processes_in(below: &str) -> Vec<i32> {
    let pids: BTreeSet<i32> = hierarchies()
        .iter()
        .filter_map(|mount| std::fs::read_to_string(mount.join(below).join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<i32>>())
        .collect();
    // proc_pid_stat(5): `starttime`, the 22nd field.
    let started = |pid: i32| stat(pid).get(19)?.parse::<u64>().ok();
    let mut found: Vec<(u64, i32)> = pids.into_iter().filter_map(|pid| Some((started(pid)?, pid))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, pid)| pid).collect()
}

/// A file of a cgroup, in whichever hierarchy has it.
pub(crate) fn cgroup_file(below: &str, file: &str) -> Option<String> {
    let read = |mount: &PathBuf| std::fs::read_to_string(mount.join(below).join(file)).ok();
    hierarchies().iter().find_map(read).map(|text| text.trim().to_owned())
}

/// Makes the test's own cgroup parent in the hierarchy that has this file below its root: its path.
#[allow(dead_code, reason = "not every crate of tests that has this file limits cgroups")]
pub(crate) fn make_cgroup(token: &str, file: &str) -> Option<PathBuf> {
    hierarchies().into_iter().map(|mount| mount.join(token)).find(|parent| {
        let was_there = parent.exists();
        let is_it = std::fs::create_dir_all(parent).is_ok() && parent.join(file).exists();
        if !is_it && !was_there {
            let _ = std::fs::remove_dir(parent);
        }
        is_it
    })
}

fn tree(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            tree(&entry.path(), into);
        }
        into.push(entry.path());
    }
}

/// Removes the test's own cgroup parent, which it named and podshim made.
pub(crate) fn remove_cgroups(token: &str) {
    for mount in hierarchies() {
        let _ = std::fs::remove_dir(mount.join(token));
    }
}

/// Everything that carries the test's names.
pub(crate) fn find(own: &Own<'_>) -> Vec<String> {
    let mut left = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(mounts.lines().filter(|l| l.contains(own.token)).map(|l| format!("mount {l}")));
    let me = std::process::id() as i32;
    let ours = |p: &Process| [&p.cmdline, &p.cgroup, &p.environ].iter().any(|text| text.contains(own.token));
    left.extend(
        processes(|p| p.pid != me && ours(p) && !is_ending(p.pid))
            .iter()
            .map(|p| format!("process {} {}", p.pid, p.cmdline)),
    );
    for mount in hierarchies() {
        let mut below = Vec::new();
        tree(&mount.join(own.token), &mut below);
        left.extend(below.iter().filter(|p| p.is_dir()).map(|p| format!("cgroup {}", p.display())));
    }
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(own.token) {
            left.push(format!("network namespace {}", entry.path().display()));
        }
    }
    for folder in
        ["state/pods", "state/names", "state/network/members", "state/network/cni", "root/pods", "root/tmp", "log"]
    {
        let mut below = Vec::new();
        tree(&own.dir.join(folder), &mut below);
        left.extend(below.iter().map(|p| format!("file {}", p.display())));
    }
    left
}

/// What podshim has left in a network namespace: links by its names, and tables of the packet filter.
pub(crate) fn on_network(name: &str) -> Vec<String> {
    let output = |command: &str, args: &[&str]| {
        let entry = format!("--net=/run/netns/{name}");
        let done = std::process::Command::new("nsenter").arg(entry).arg(command).args(args).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let links = output("ip", &["-o", "link", "show"]);
    let links = links
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .filter(|l| ["veth", "ifb", "podshim"].iter().any(|p| l.starts_with(p)));
    let mut left: Vec<String> = links.map(|link| format!("link {link}")).collect();
    let tables = output("nft", &["list", "tables"]);
    left.extend(tables.lines().filter(|line| line.contains("podshim")).map(|line| format!("packet filter {line}")));
    left
}

#[test]
fn the_leak_check_finds_each_kind_of_thing() {
    use crate::harness::{Host, Live, until};
    let Some(host) = Host::bare(&["ip"]) else { return };
    host.assert_clean();
    let mounted = std::path::PathBuf::from(host.folder("mounted"));
    nix::mount::mount(Some("x"), &mounted, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    host.network("left");
    let hierarchy = hierarchies().remove(0);
    let group = hierarchy.join(&host.cgroup_parent).join("left");
    std::fs::create_dir_all(&group).unwrap();
    host.folder("state/pods/left");
    let sleeper = Live::start(host.command_by(&["sleep", "1000"], &[] as &[&str]));
    // Until it has executed sleep(1), it is this very program.
    until("the process", || host.leaks().iter().any(|l| l.starts_with("process ")).then_some(()));
    let left = host.leaks();
    std::fs::remove_dir(&group).unwrap();
    nix::mount::umount(&mounted).unwrap();
    drop(sleeper);
    std::fs::remove_dir_all(host.path("state/pods/left")).unwrap();
    for kind in ["mount ", "process ", "cgroup ", "network namespace ", "file "] {
        assert!(left.iter().any(|l| l.starts_with(kind)), "{kind}: {left:#?}");
    }
}
