//! Finding and taking away what a lesson and its student have left: pods, processes, mounts, network namespaces, cgroups.
//!
//! A process is the lab's if its environment, its cgroup, its network namespace, its root directory or its program says so,
//! or if its parent is. Shells of the lab, and what asks for this, go on.

use crate::cgroups::Cgroup;
use crate::store::{self, Wait};
use crate::sys::flock::Flock;
use crate::sys::{Called, mount, mountinfo, process};
use anyhow::{Context, Result};
use nix::sys::stat::stat;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long it may take until killed processes are gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where ip(8) keeps names of network namespaces.
const NETNS: &str = "/run/netns";

/// What the lab of one user is known by.
#[derive(Debug)]
pub(super) struct Marks<'a> {
    /// The name: the variable `PODSHIM_LAB`, and the first part of the names of network namespaces.
    pub(super) token: &'a str,
    /// Below these everything is the lab's.
    pub(super) cgroups: &'a [Cgroup],
    /// `$LAB`
    pub(super) work: &'a Path,
    /// The lab's shells: files named by process ids that hold start times.
    pub(super) shells: &'a Path,
}

/// A process as /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    /// Clock ticks since the boot: with the pid, which process it is.
    started: u64,
    is_zombie: bool,
}

impl Process {
    /// `/proc/<pid>/stat` (proc_pid_stat(5)): the name, in brackets, may hold anything.
    fn read(pid: u32) -> Option<Process> {
        let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text);
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        Some(Process {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
            is_zombie: matches!(fields[0], "Z" | "X"),
        })
    }
}

/// When a process started, in the kernel's own count; `None` if it is gone.
pub(super) fn started(pid: u32) -> Option<u64> {
    Process::read(pid).filter(|process| !process.is_zombie).map(|process| process.started)
}

impl Marks<'_> {
    /// Ends the lab's processes, and waits until they are gone.
    ///
    /// # Errors
    /// One cannot be killed, or stays.
    pub(super) fn end_processes(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (all, protected) = self.all()?;
            let found: Vec<&Process> =
                self.lab_processes(&all).into_iter().filter(|p| !protected.contains(&p.pid)).collect();
            if found.is_empty() {
                return Ok(());
            }
            for cgroup in self.cgroups {
                // What is frozen dies only when it is thawed.
                if cgroup.dirs().iter().any(|dir| dir.is_dir()) {
                    cgroup.thaw()?;
                }
            }
            for process in &found {
                if let Some(handle) = hold(process)? {
                    process::send_signal(handle.as_fd(), nix::sys::signal::Signal::SIGKILL as i32)?;
                }
            }
            if Instant::now() >= deadline {
                let pids: Vec<String> = found.iter().map(|process| process.pid.to_string()).collect();
                anyhow::bail!("processes of the lab do not end: {}", pids.join(", "));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// All processes, and those that must go on.
    fn all(&self) -> Result<(BTreeMap<u32, Process>, BTreeSet<u32>)> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").called("opendir", "/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(process) = pid.and_then(Process::read).filter(|process| !process.is_zombie) {
                all.insert(process.pid, process);
            }
        }
        let mut protected: BTreeSet<u32> = self.open_shells().into_iter().collect();
        let mut next = std::process::id();
        while next != 0 && protected.insert(next) {
            next = all.get(&next).map_or(0, |process| process.parent);
        }
        Ok((all, protected))
    }

    /// The lab's shells that are open; files of others are removed.
    pub(super) fn open_shells(&self) -> Vec<u32> {
        let mut open = Vec::new();
        for entry in std::fs::read_dir(self.shells).into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let noted = std::fs::read_to_string(entry.path()).ok().and_then(|text| text.trim().parse::<u64>().ok());
            match pid.filter(|pid| noted.is_some() && started(*pid) == noted) {
                Some(pid) => open.push(pid),
                None => drop(std::fs::remove_file(entry.path())),
            }
        }
        open
    }

    /// The lab's own of all processes.
    fn lab_processes<'p>(&self, all: &'p BTreeMap<u32, Process>) -> Vec<&'p Process> {
        let device = is_mount(self.work).then(|| stat(self.work).ok()).flatten().map(|found| found.st_dev);
        let networks: BTreeSet<(u64, u64)> =
            self.networks().iter().filter_map(|path| stat(path).ok()).map(|s| (s.st_dev, s.st_ino)).collect();
        let paths: Vec<String> = self.cgroups.iter().map(Cgroup::path).collect();
        let is_marked = |process: &&Process| {
            let at = |file: &str| PathBuf::from(format!("/proc/{}/{file}", process.pid));
            let on_device = |file: &str| device.is_some() && stat(&at(file)).ok().map(|s| s.st_dev) == device;
            let variable = format!("PODSHIM_LAB={}", self.token);
            let environ = std::fs::read(at("environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
                || std::fs::read_to_string(at("cgroup")).is_ok_and(|text| text.lines().any(|l| is_in(l, &paths)))
                || stat(&at("ns/net")).is_ok_and(|s| networks.contains(&(s.st_dev, s.st_ino)))
                || on_device("root")
                || on_device("exe")
        };
        let mut found: BTreeSet<u32> = all.values().filter(is_marked).map(|process| process.pid).collect();
        found.extend(self.open_shells());
        loop {
            let before = found.len();
            let children = all.values().filter(|process| found.contains(&process.parent));
            let children: Vec<u32> = children.map(|process| process.pid).collect();
            found.extend(children);
            if found.len() == before {
                return found.iter().filter_map(|pid| all.get(pid)).collect();
            }
        }
    }

    /// The names of the lab's network namespaces: the token, or what begins with the token and a dash.
    fn networks(&self) -> Vec<PathBuf> {
        let is_own = |name: &str| name.strip_prefix(self.token).is_some_and(|r| r.is_empty() || r.starts_with('-'));
        let entries = std::fs::read_dir(NETNS).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_own)).map(|entry| entry.path()).collect()
    }

    /// Takes away the names of network namespaces, which go with their last process.
    pub(super) fn remove_networks(&self) -> Result<()> {
        for path in self.networks() {
            mount::detach(&path)?;
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.called("unlink", path.display())?,
            }
        }
        Ok(())
    }

    /// Takes away what is mounted at `$LAB` and below it, the deepest first.
    pub(super) fn unmount(&self) -> Result<()> {
        mountinfo::points_below(self.work)?.iter().try_for_each(|point| Ok(mount::detach(point)?))
    }

    /// Removes the lab's cgroups but for those that open shells are in; these shells are put where they were not of the lab's
    /// making if they moved themselves.
    pub(super) fn remove_cgroups(&self) -> Result<()> {
        let Some((shells, lessons)) = self.cgroups.split_last() else { return Ok(()) };
        let (_, protected) = self.all()?;
        for cgroup in lessons {
            for pid in cgroup.pids()?.iter().filter(|pid| protected.contains(&pid.as_raw().cast_unsigned())) {
                for (dir, home) in cgroup.dirs().iter().zip(shells.dirs()) {
                    let mine = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                    if mine.lines().any(|line| is_in(line, &[cgroup.path()])) && dir.is_dir() && home.is_dir() {
                        let file = home.join("cgroup.procs");
                        std::fs::write(&file, pid.to_string()).called("write", file.display())?;
                    }
                }
            }
            cgroup.remove(Duration::from_secs(2))?;
        }
        if shells.is_empty()? { shells.remove(Duration::from_secs(2)) } else { Ok(()) }
    }

    /// Whether a pod is of the Kubernetes namespace that is named as the lab is, or of an image that is.
    fn is_own(&self, record: &store::Record) -> bool {
        let image = format!("localhost/{}", self.token);
        let is_lab_image = |reference: &str| {
            reference.strip_prefix(&image).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
        };
        record.plan.sandbox.namespace == self.token || record.images.iter().any(|i| is_lab_image(&i.reference))
    }

    /// Removes the pods of the lab.
    pub(super) fn remove_pods(&self, dirs: &crate::paths::Dirs) -> Result<()> {
        let (pods, _) = store::list(dirs)?;
        for pod in pods.iter().filter(|pod| self.is_own(&pod.record)) {
            let mut command = std::process::Command::new("/proc/self/exe");
            command.arg("--root").arg(&dirs.root).arg("--state").arg(&dirs.state).arg("--log-dir").arg(&dirs.log_dir);
            command.args(["rm", "-f", &pod.full_name()]);
            let done = super::bash::run(command, Duration::from_secs(60))?;
            anyhow::ensure!(done.code == Some(0), "remove pod {}: {}", pod.full_name(), done.said.trim());
        }
        Ok(())
    }
}

/// Whether a line of `/proc/<pid>/cgroup` is of one of these cgroups or of one below. Also where the reader is in a cgroup
/// namespace whose root is above them.
fn is_in(line: &str, paths: &[String]) -> bool {
    let path = line.splitn(3, ':').nth(2).unwrap_or_default();
    // A process that is about to end may be in one that is removed already.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    paths.iter().any(|own| path.strip_prefix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// A handle on the very process that was found; `None` if it is gone.
fn hold(found: &Process) -> Result<Option<OwnedFd>> {
    let handle = match process::open_pid(found.pid) {
        Err(e) if e.errno() == nix::errno::Errno::ESRCH => return Ok(None),
        other => other.context("end a process of the lab")?,
    };
    // Read after it is held: a number that was given to another process since has another start time.
    Ok((started(found.pid) == Some(found.started)).then_some(handle))
}

/// Whether something is mounted at a path.
pub(super) fn is_mount(path: &Path) -> bool {
    let device = |path: &Path| stat(path).ok().map(|found| found.st_dev);
    path.parent().is_some_and(|parent| device(path).is_some() && device(path) != device(parent))
}

/// The lock of one user's lab.
pub(super) fn lock(path: &Path) -> Result<Flock> {
    store::lock(path, Wait::Yes)?.context("the lab is locked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_told_by_whole_names() {
        let own = ["/podshim/lab0".to_owned()];
        for (line, is) in [
            ("4:memory:/podshim/lab0", true),
            ("0::/podshim/lab0/a:b", true),
            ("0::/podshim/lab0 (deleted)", true),
            ("0::/podshim/lab01", false),
            ("0::/", false),
            ("malformed", false),
        ] {
            assert_eq!(is_in(line, &own), is, "{line}");
        }
    }

    #[test]
    fn a_process_is_told_by_its_start() {
        let me = Process::read(std::process::id()).unwrap();
        assert_eq!(started(me.pid), Some(me.started));
        assert!(hold(&me).unwrap().is_some());
        assert!(hold(&Process { started: me.started + 1, ..me }).unwrap().is_none());
    }
}
