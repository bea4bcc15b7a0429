//! The processes of a cgroup: let in, list, signal, freeze, kill.

use super::{Cgroup, keyed, read, write};
use crate::host::cgroup::{Hierarchy, Mode, Version};
use crate::sys::mount::{self, Depth};
use crate::sys::{Called, SysResult};
use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{self, Signal};
use nix::sys::stat::Mode as FileMode;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long freezing may take before a kill goes on without it: a process in D state never freezes.
const FREEZE_BEFORE_KILL: Duration = Duration::from_millis(100);

/// What a container is to see of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Its own cgroup and those below it: it has a cgroup namespace.
    Own,
    /// All of the host.
    Whole,
}

fn directory(path: &Path) -> SysResult<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, FileMode::empty()).called("open", path.display())
}

impl Cgroup {
    /// `tasks` of every hierarchy of version 1, opened for writing, close-on-exec: a child that is born in
    /// [`Cgroup::unified_dir`] and, while it has one thread, writes `0` to each is in. The container's init does so before it
    /// gives up its rights.
    ///
    /// Not `cgroup.procs`: a thread that moves itself alone takes no lock against forks (Linux 5.16, cgroup_procs_write_start),
    /// whose first taker waits about 10 ms until all processors have seen it.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub fn join_files(&self) -> anyhow::Result<Vec<OwnedFd>> {
        let open = |hierarchy: &Hierarchy| {
            let path = self.dir(hierarchy).join("tasks");
            open(&path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, FileMode::empty()).called("open", path.display())
        };
        let old = self.setup.hierarchies.iter().filter(|hierarchy| hierarchy.version == Version::V1);
        let files = old.map(open).collect::<SysResult<_>>();
        files.with_context(|| format!("enter cgroup {}", self.path()))
    }

    /// Its directory in the unified hierarchy, if that is mounted, as O_PATH descriptor for clone3(2) with CLONE_INTO_CGROUP
    /// (Linux 5.7), which puts a child in from its first instruction.
    ///
    /// # Errors
    /// If the directory cannot be opened.
    pub fn unified_dir(&self) -> anyhow::Result<Option<OwnedFd>> {
        let Some(dir) = self.unified() else { return Ok(None) };
        directory(&dir).map(Some).with_context(|| format!("enter cgroup {}", self.path()))
    }

    /// What a container sees of cgroups: a detached mount for each hierarchy, in their order, of its own directory or, with
    /// [`View::Whole`], of all there is. They are copies of the host's mounts: a file system of its own, for each hierarchy, is
    /// looked for among those of all other containers when it is made (kernfs_get_tree in fs/kernfs/mount.c), and with version 1
    /// the kernel goes through all cgroups of version 2 as well (cgroup1_get_tree in kernel/cgroup/cgroup-v1.c).
    ///
    /// # Errors
    /// If a directory cannot be opened, or its mount not be copied.
    pub fn view(&self, view: View) -> anyhow::Result<Vec<OwnedFd>> {
        let copy = |hierarchy: &Hierarchy| {
            let dir = match view {
                View::Own => self.dir(hierarchy),
                View::Whole => hierarchy.mount.clone(),
            };
            mount::clone_tree(directory(&dir)?.as_fd(), Depth::Top)
        };
        let copies = self.setup.hierarchies.iter().map(copy).collect::<SysResult<_>>();
        copies.with_context(|| format!("show a container the cgroup {}", self.path()))
    }

    /// The processes in it and in cgroups below it, in any hierarchy; none if it does not exist.
    ///
    /// # Errors
    /// If a directory that exists cannot be read.
    pub fn pids(&self) -> anyhow::Result<BTreeSet<Pid>> {
        let mut pids = BTreeSet::new();
        for dir in self.dirs().iter().flat_map(|d| tree(d)) {
            // A process of another pid namespace shows as 0, which kill(2) would take for the caller's process group.
            pids.extend(members(&dir)?.lines().filter_map(|l| l.parse().ok()).filter(|p| *p > 0).map(Pid::from_raw));
        }
        Ok(pids)
    }

    /// Whether no live process is in it or below it, in any hierarchy. True if it does not exist.
    ///
    /// # Errors
    /// As of [`Cgroup::pids`].
    pub fn is_empty(&self) -> anyhow::Result<bool> {
        let events = self.unified().and_then(|dir| read(&dir.join("cgroup.events")).ok());
        let populated = events.is_some_and(|text| keyed(&text, "populated") == Some(1));
        Ok(!populated && self.pids()?.is_empty())
    }

    /// Sends a signal to each process once. Those that are started meanwhile may miss it; to end all use
    /// [`Cgroup::kill`].
    ///
    /// # Errors
    /// If the processes cannot be listed or one may not be signalled; a process that is gone is none.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let me = Pid::this();
        for pid in self.pids()?.into_iter().filter(|pid| *pid != me) {
            match signal::kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                error => error.called("kill", format!("{pid} of cgroup {}", self.path()))?,
            }
        }
        Ok(())
    }

    /// Kills all processes, also frozen and stopped ones and those that fork meanwhile, and waits until they are gone, for
    /// at most `patience`. With no patience the signals are sent all the same. Gone already counts as done.
    ///
    /// v2, and hybrid for what it is worth: `cgroup.kill` (Linux 5.14). Else: freeze so that none can fork, SIGKILL to each
    /// in each hierarchy, thaw; again until none is left.
    ///
    /// Returns the processes still there, such as those in uninterruptible sleep: empty means done.
    ///
    /// # Errors
    /// If the kernel refuses something.
    pub fn kill(&self, patience: Duration) -> anyhow::Result<Vec<Pid>> {
        let deadline = Instant::now() + patience;
        // So it is when its first process was its only one.
        if self.is_empty()? {
            return Ok(Vec::new());
        }
        loop {
            self.kill_once().with_context(|| format!("kill the processes of cgroup {}", self.path()))?;
            if self.wait_empty(deadline.min(Instant::now() + Duration::from_millis(50)))? {
                return Ok(Vec::new());
            }
            if Instant::now() >= deadline {
                let me = Pid::this();
                return Ok(self.pids()?.into_iter().filter(|pid| *pid != me).collect());
            }
        }
    }

    fn kill_once(&self) -> anyhow::Result<()> {
        let killed = match self.unified().map(|dir| dir.join("cgroup.kill")) {
            Some(file) if file.exists() => gone_is_done(write(&file, "1")).map(|()| true)?,
            _ => false,
        };
        if killed && self.setup.mode == Mode::V2 {
            return Ok(());
        }
        if !killed {
            // So that none can fork while the list is read. One in uninterruptible sleep does not freeze: go on without.
            let _ = self.set_frozen(State::Frozen, FREEZE_BEFORE_KILL);
        }
        // What v1's freezer holds dies only when thawed, so that is done whatever happens before.
        let signalled = self.signal(Signal::SIGKILL);
        let thawed = self.set_frozen(State::Thawed, Duration::ZERO);
        signalled.and(thawed)
    }

    /// Waits until it holds no process, at most until `deadline`.
    pub(super) fn wait_empty(&self, deadline: Instant) -> anyhow::Result<bool> {
        loop {
            let events = self.unified().and_then(|dir| fs::File::open(dir.join("cgroup.events")).ok());
            let events = events.map(|mut file| {
                // poll(2) tells of changes since the last read of this open file.
                let _ = file.read_to_string(&mut String::new());
                file
            });
            if self.is_empty()? {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            // v1 tells nobody that a cgroup became empty, and v2 only of its own hierarchy: hence the short limit.
            pause(events.as_ref().map(AsFd::as_fd), (deadline - now).min(Duration::from_millis(5)));
        }
    }

    /// Stops all processes where they are (v1's freezer, or `cgroup.freeze`, Linux 5.2), until [`Cgroup::thaw`].
    ///
    /// # Errors
    /// If not all are frozen within `patience` (then it is still asked for), or there is no freezer.
    pub fn freeze(&self, patience: Duration) -> anyhow::Result<()> {
        self.set_frozen(State::Frozen, patience).with_context(|| format!("freeze cgroup {}", self.path()))
    }

    /// Lets frozen processes run again, also in cgroups below.
    ///
    /// # Errors
    /// If the kernel refuses it, or there is no freezer.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.set_frozen(State::Thawed, Duration::ZERO).with_context(|| format!("thaw cgroup {}", self.path()))
    }

    fn set_frozen(&self, state: State, patience: Duration) -> anyhow::Result<()> {
        if let Some((_, dir)) = self.home("freezer") {
            let word = if state == State::Frozen { "FROZEN" } else { "THAWED" };
            // Below, only thawing: what one below had frozen by itself must not stay so.
            let dirs = if state == State::Frozen { vec![dir.clone()] } else { tree(&dir) };
            for dir in &dirs {
                gone_is_done(write(&dir.join("freezer.state"), word))?;
            }
            let file = dir.join("freezer.state");
            return settle(patience, state, || Ok(read_if_there(&file)?.is_none_or(|text| text.trim() == word)));
        }
        let Some(dir) = self.unified() else {
            bail!("neither a v1 freezer nor a v2 hierarchy is mounted");
        };
        let dirs = if state == State::Frozen { vec![dir.clone()] } else { tree(&dir) };
        for dir in &dirs {
            gone_is_done(write(&dir.join("cgroup.freeze"), if state == State::Frozen { "1" } else { "0" }))?;
        }
        let file = dir.join("cgroup.events");
        settle(patience, state, || {
            Ok(read_if_there(&file)?
                .is_none_or(|text| keyed(&text, "frozen") == Some(u64::from(state == State::Frozen))))
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Frozen,
    Thawed,
}

/// Asks until the state is reached; thawing needs no proof.
fn settle(patience: Duration, state: State, reached: impl Fn() -> SysResult<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while state == State::Frozen && !reached()? {
        if Instant::now() >= deadline {
            bail!("not all processes were frozen within {patience:?}");
        }
        pause(None, Duration::from_millis(1));
    }
    Ok(())
}

/// Waits for a change of a `cgroup.events` file (if there is one), at most for `limit`.
pub(super) fn pause(events: Option<std::os::fd::BorrowedFd<'_>>, limit: Duration) {
    let mut fds: Vec<PollFd<'_>> = events.map(|fd| PollFd::new(fd, PollFlags::POLLPRI)).into_iter().collect();
    // At least a millisecond: rounding down would spin.
    let limit = u16::try_from(limit.as_millis().max(1)).unwrap_or(u16::MAX);
    // Interrupted early is as good as a change: the caller looks again.
    let _ = poll(&mut fds, PollTimeout::from(limit));
}

/// A directory and all below it, each before those it holds; none if it is gone.
pub(super) fn tree(dir: &Path) -> Vec<PathBuf> {
    // The name in its parent, and its own `.`: a directory below it has `..`, a link more (kernfs counts them).
    const LINKS_OF_A_LEAF: u64 = 2;
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while next < found.len() {
        if found[next].symlink_metadata().is_ok_and(|status| status.nlink() == LINKS_OF_A_LEAF) {
            next += 1;
            continue;
        }
        let below = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let below: Vec<_> = below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
        found.extend(below);
        next += 1;
    }
    found
}

/// `cgroup.procs`, or, for a threaded v2 cgroup, whose processes are listed above it, its threads.
fn members(dir: &Path) -> SysResult<String> {
    let text = match read(&dir.join("cgroup.procs")) {
        Err(e) if e.errno() == Errno::EOPNOTSUPP => read(&dir.join("cgroup.threads")),
        result => result,
    };
    match text {
        Err(e) if is_gone(e.errno()) => Ok(String::new()),
        result => result,
    }
}

fn is_gone(errno: Errno) -> bool {
    // ENODEV: the file was open while its cgroup was removed.
    matches!(errno, Errno::ENOENT | Errno::ENODEV)
}

fn gone_is_done(result: SysResult<()>) -> SysResult<()> {
    match result {
        Err(e) if is_gone(e.errno()) => Ok(()),
        result => result,
    }
}

fn read_if_there(file: &Path) -> SysResult<Option<String>> {
    match read(file) {
        Err(e) if is_gone(e.errno()) => Ok(None),
        result => result.map(Some),
    }
}
