//! What a supervisor leaves on disk for another one, which takes over if this one is killed.
//!
//! | file | content | written |
//! |---|---|---|
//! | `kept.json` | the machine, and what the supervisor itself has to remember | after each step, when its actions are performed; before that, if the pod is to end or is evicted |
//! | `containers/<name>/instance.json` | the process of the present instance | before it may execute its command, or as soon as it can be |
//! | `containers/<name>/process` | that process: its pidfd, mounted | likewise |
//!
//! A pidfd is a file in pidfs, and can be mounted since Linux 6.14. As long as it is, the kernel keeps how the process ended (since
//! 6.15), and no other process can be taken for it. On older kernels there is its pid and when it started; how it ended is known
//! only if somebody supervises it then, and kept before another container is started for that.
//!
//! What has to be done once and cannot be undone by its name is kept before it is answered; the rest is done again.

use super::hand_off::Stage;
use super::life::Life;
use super::pod::Supervisor;
use super::sandbox::AfterReaper;
use crate::host;
use crate::paths::PodDirs;
use crate::plan::config::LinuxContainerResources;
use crate::store::{self, FirstFailure};
use crate::sys::mount::{self, Depth};
use crate::sys::process::{self, Child};
use crate::sys::{Called, SysResult, fs, pidfd};
use anyhow::{Context, Result};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The format of `kept.json`; another one is refused by name.
const VERSION: u32 = 1;

/// A process, so that no other one is taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pid: i32,
    /// [`pidfd::identity`]
    identity: u64,
}

impl Process {
    pub(super) fn of(child: &Child) -> SysResult<Process> {
        Ok(Process { pid: child.pid, identity: pidfd::identity(child.pidfd.as_fd(), child.pid)? })
    }

    /// Opens it again, by where it is mounted or by its pid; `None` if it is gone without a trace.
    pub(super) fn open(self, pin: Option<&Path>) -> SysResult<Option<Child>> {
        let is_it = |child: Child| -> SysResult<Option<Child>> {
            match pidfd::identity(child.pidfd.as_fd(), self.pid) {
                Ok(identity) if identity == self.identity => Ok(Some(child)),
                Err(error) if error.errno() != Errno::ESRCH => Err(error),
                _ => Ok(None),
            }
        };
        if let Some(file) = pin.and_then(|pin| std::fs::File::open(pin).ok())
            && pidfd::is_in_pidfs(file.as_fd())?
            && let Some(child) = is_it(Child { pid: self.pid, pidfd: file.into() })?
        {
            return Ok(Some(child));
        }
        match process::open_pid(self.pid.unsigned_abs()) {
            Err(error) if error.errno() == Errno::ESRCH => Ok(None),
            other => is_it(Child { pid: self.pid, pidfd: other? }),
        }
    }
}

/// `instance.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) process: Process,
    pub(super) restart_count: u32,
    /// If its init ends before it is told to execute its command, nothing of the container has run.
    #[serde(default)]
    pub(super) word: Word,
}

/// Whether an init was told to execute its command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// Nothing yet, or a moment ago.
    Perhaps,
    #[default]
    Given,
}

/// `kept.json`
#[derive(Serialize, Deserialize)]
pub(super) struct Memory<L> {
    version: u32,
    pub(super) life: L,
    /// The pod's pid 1 (shareProcessNamespace).
    pub(super) reaper: Option<Process>,
    /// The sandbox is there, and nothing is being done about it.
    pub(super) is_settled: bool,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) pod_limits: LinuxContainerResources,
    pub(super) failure: Option<FirstFailure>,
    pub(super) deletion_grace_seconds: Option<i64>,
}

impl Memory<Life> {
    /// What was kept of a pod; `None` if its sandbox was never set up.
    pub(super) fn read(pod: &PodDirs) -> Result<Option<Memory<Life>>> {
        let memory: Option<Memory<Life>> = store::read_json(&pod.kept())?;
        if let Some(other) = memory.as_ref().map(|memory| memory.version).filter(|version| *version != VERSION) {
            anyhow::bail!("{} is of version {other}, this podshim reads version {VERSION}", pod.kept().display());
        }
        Ok(memory)
    }
}

/// What is on disk of an instance that has ended.
pub(super) struct Remnant {
    /// The index of its container.
    pub(super) container: usize,
    /// Its writable layer.
    pub(super) layer: PathBuf,
    /// Its process, of the instance that ended last.
    pub(super) traces: Traces,
}

/// Where an instance's process is kept.
pub(super) struct Traces {
    process: PathBuf,
    instance: PathBuf,
}

impl Traces {
    pub(super) fn of(pod: &PodDirs, container: &str) -> Traces {
        Traces { process: pod.process(container), instance: pod.instance(container) }
    }

    pub(super) fn remove(&self) -> SysResult<()> {
        fs::remove_file(&self.instance)?;
        mount::detach(&self.process)?;
        fs::remove_file(&self.process)
    }
}

/// Mounts a pidfd at a path that is not there yet. Kernels before 6.14 refuse that, which is no error.
fn pin(child: &Child, path: &Path) -> SysResult<()> {
    let make = || std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = match make() {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            mount::detach(path)?;
            fs::remove_file(path)?;
            make()
        }
        other => other,
    };
    let file = file.called("open", path.display())?;
    match mount::clone_tree(child.pidfd.as_fd(), Depth::Top) {
        Err(error) if error.errno() == Errno::EINVAL => Ok(()),
        other => mount::attach(other?.as_fd(), file.as_fd()),
    }
}

impl Supervisor {
    /// Whether the kernel tells how a container ended as long as its process is mounted.
    pub(super) fn kernel_keeps_exits(&self) -> bool {
        host::is_at_least(&self.facts.kernel, "6.15").unwrap_or(false)
    }

    /// Writes down what another supervisor needs.
    pub(super) fn keep(&self) -> Result<()> {
        let reaper = self.sandbox.reaper.as_ref().map(Process::of).transpose();
        let memory = Memory {
            version: VERSION,
            life: &self.life,
            // It is about to be waited for if it cannot be looked at.
            reaper: reaper.unwrap_or(None),
            is_settled: self.after_reaper == AfterReaper::Tell && !self.networking.is_attaching(),
            addresses: self.addresses.clone(),
            pod_limits: self.pod_limits.clone(),
            failure: self.failure.clone(),
            deletion_grace_seconds: self.deletion_grace_seconds,
        };
        self.reserve.replace(&self.pod.dirs.kept(), &memory).context("keeping the pod's state for another supervisor")
    }

    /// Writes down which process a container's instance is, before it is told to execute its command: whatever has executed is
    /// found by whoever takes over. What cannot be written is tried again whenever the rest is, and told then.
    pub(super) fn keep_instance(&mut self, index: usize) {
        match self.write_instance(index) {
            Ok(()) => self.unkept.remove(&index),
            Err(_) => self.unkept.insert(index),
        };
    }

    /// Writes down which processes those instances are that could not be kept so far.
    pub(super) fn keep_unkept(&mut self) -> Result<()> {
        let mut kept = Ok(());
        for index in self.unkept.clone() {
            match self.write_instance(index) {
                Ok(()) => {
                    self.unkept.remove(&index);
                }
                Err(error) => kept = Err(error),
            }
        }
        kept.context("keeping a container's process for another supervisor")
    }

    fn write_instance(&self, index: usize) -> Result<()> {
        let Some(instance) = &self.slots[index].instance else { return Ok(()) };
        let is_external = instance.external.is_some();
        let is_told = matches!(instance.process.stage, Stage::Starting | Stage::Running);
        // The init that an OCI runtime has made waits by itself, and may be told by anybody.
        let word = if is_told || is_external { Word::Given } else { Word::Perhaps };
        let name = &self.pod.record.plan.containers[index].name;
        let is_pinned = word == Word::Given && !is_external && !self.unkept.contains(&index);
        let pinned = if is_pinned { Ok(()) } else { pin(&instance.process.child, &self.pod.dirs.process(name)) };
        let kept = Kept { process: Process::of(&instance.process.child)?, restart_count: instance.restart_count, word };
        self.reserve.replace(&self.pod.dirs.instance(name), &kept)?;
        Ok(pinned?)
    }
}
