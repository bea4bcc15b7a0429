//! OCI operations: a `Spec` and open descriptors become a running process.
//!
//! In: a [`Spec`], descriptors of everything it mounts or joins. Out: a [`Starting`] child whose hand-off the caller watches.
//! The caller must be single-threaded; nothing here blocks or waits, and nothing here decides when a container runs.

pub mod apparmor;
mod attach;
mod devices;
pub mod empty;
mod handshake;
mod init;
mod label;
mod locked;
mod mounts;
pub mod sandbox;
pub mod seccomp;
mod step;
pub mod user;

pub use handshake::receive;
pub use handshake::{FailureKind, FromInit, Performed, Seen, StepFailure};
pub use init::{Handles, Showing, UNTOLD, duplicate};
pub use locked::lock;
pub use step::{NamespaceKind, Step, container_steps, exec_steps};

use crate::cgroups::{Cgroup, View};
use crate::host::cgroup::CgroupSetup;
use crate::plan::spec::DEVICES;
use crate::sys::fs::proc_fd_path;
use crate::sys::mount::{self, Depth};
use crate::sys::{Called, SysResult, process, socket};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use oci_spec::runtime::{Process, Spec};
use seccomp::{Filter, Filters};
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use step::UserNamespace;

/// Which pid namespace a child is born in.
pub enum PidNamespace<'a> {
    /// A new one, whose first process it is.
    New,
    /// An existing one, which the child's `EnterPidNamespace` joins.
    Join(BorrowedFd<'a>),
    /// The caller's.
    Inherit,
}

/// When a child executes its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// When it is told to ([`start`]), after it said that it is ready.
    WhenTold,
    /// As soon as its steps are done.
    AtOnce,
}

/// What a child takes along.
pub struct Request<'a> {
    /// The steps it performs.
    pub steps: &'a [Step],
    /// The root file system; `None` in `exec`.
    pub rootfs: Option<OwnedFd>,
    /// Detached mounts in the order of the bind steps.
    pub binds: Vec<OwnedFd>,
    /// Namespaces that it joins.
    pub namespaces: Vec<(NamespaceKind, OwnedFd)>,
    /// Its pid namespace.
    pub pid_namespace: PidNamespace<'a>,
    /// Its cgroup.
    pub cgroup: &'a Cgroup,
    /// Its standard descriptors.
    pub stdio: [OwnedFd; 3],
    /// The filter of a `Seccomp` step without profile.
    pub filter: Option<Rc<Filter>>,
    /// If its steps are to be shown.
    pub showing: Option<Showing>,
    /// When it executes its command.
    pub start: Start,
}

/// What every process of a container has of its spec, for those that join it: read once, and the rules of the filter, which are
/// most of it, are compiled.
pub struct Confinement {
    /// The container's own process.
    pub process: Process,
    /// Its filter, for [`Request::filter`].
    pub filter: Option<Rc<Filter>>,
    users: UserNamespace,
}

/// What the calling process keeps to start children: opened and compiled once.
pub struct Launcher {
    /// The host's /dev/null, O_PATH.
    host_null: OwnedFd,
    null: OwnedFd,
    empty: OwnedFd,
    cgroup_setup: CgroupSetup,
    filters: RefCell<Filters>,
}

/// A child that performs its steps.
#[derive(Debug)]
pub struct Starting {
    /// The child.
    pub child: process::Child,
    /// The hand-off, non-blocking.
    pub sync: OwnedFd,
}

impl Launcher {
    /// Opens /dev/null, verified to be that device. `empty` is the mount namespace of [`empty`].
    pub fn new(cgroup_setup: CgroupSetup, empty: OwnedFd) -> Result<Launcher> {
        let host_null = find_null()?;
        let null = open_null(host_null.as_fd())?;
        Ok(Launcher { host_null, null, empty, cgroup_setup, filters: RefCell::default() })
    }

    /// A copy of a descriptor of /dev/null, by which nobody can change the device's mode or owner.
    pub fn null(&self) -> SysResult<OwnedFd> {
        duplicate(self.null.as_fd())
    }

    /// What processes that join the container of a spec are confined by.
    pub fn confinement(&self, spec: Spec) -> Result<Confinement> {
        let linux = spec.linux().as_ref().context("the spec has no linux section")?;
        let filter = linux.seccomp().as_ref().map(|profile| self.filters.borrow_mut().of(profile)).transpose()?;
        let users = UserNamespace::of(linux);
        let process = spec.process().clone().context("the spec has no process")?;
        Ok(Confinement { process, users, filter })
    }

    /// clone3(2): the child performs the request's steps. In the parent, everything that it took along is closed again.
    pub fn launch(&self, request: Request<'_>) -> Result<Starting> {
        let (ours, theirs) = socket::pair()?;
        // Whatever may fail comes before there is a process, of which the caller would not hear.
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).called("fcntl", "hand-off")?;
        let mut flags = 0;
        let mut namespaces = request.namespaces;
        if request.steps.contains(&Step::EmptyMountNamespace) {
            namespaces.push((NamespaceKind::Mount, duplicate(self.empty.as_fd())?));
        }
        let enters = request.steps.contains(&Step::EnterPidNamespace);
        if matches!(request.pid_namespace, PidNamespace::Join(_)) && !enters {
            // It would be in the host's.
            bail!("a pid namespace to be joined was given, and no step enters it");
        }
        match request.pid_namespace {
            // In a user namespace of the pod's, which owns what is made in it, it is made by a step.
            PidNamespace::New if request.steps.contains(&Step::NewPidNamespace) => {}
            PidNamespace::New => flags |= libc::CLONE_NEWPID as u64,
            PidNamespace::Join(fd) => namespaces.push((NamespaceKind::Pid, duplicate(fd)?)),
            PidNamespace::Inherit => {}
        }
        // Only who makes a mount namespace has paths to be masked.
        let null = match &request.rootfs {
            Some(_) => Some(mount::clone_read_only(self.host_null.as_fd(), Depth::Top)?),
            None => None,
        };
        let devices = request.steps.iter().filter_map(|step| match step {
            Step::BindDevice { path } => Some(open_device(path)),
            _ => None,
        });
        let devices = devices.collect::<Result<_>>()?;
        let compiled = || {
            request.steps.iter().find_map(|step| match step {
                Step::Seccomp { profile: Some(profile) } => Some(self.filters.borrow_mut().of(profile)),
                _ => None,
            })
        };
        let filter = request.filter.map(Ok).or_else(compiled);
        let view = if request.steps.contains(&Step::NewCgroupNamespace) { View::Own } else { View::Whole };
        let shows_cgroups = request.steps.iter().any(|step| matches!(step, Step::MountCgroups { .. }));
        let cgroup_view = if shows_cgroups { request.cgroup.view(view)? } else { Vec::new() };
        let unified = request.cgroup.unified_dir()?;
        let handles = Handles {
            sync: theirs,
            rootfs: request.rootfs,
            binds: request.binds,
            namespaces,
            cgroups: request.cgroup.join_files()?,
            cgroup_view,
            stdio: request.stdio,
            null,
            devices,
            filter,
            cgroup_setup: self.cgroup_setup.clone(),
            start: request.start,
        };
        let cloned = process::clone3(flags, unified.as_ref().map(AsFd::as_fd));
        if matches!(cloned, Ok(None)) {
            drop(ours);
            init::run(request.steps, handles, request.showing);
        }
        let child = cloned.context("starting a process")?.context("clone3 returned no child")?;
        // Where it is to run on this CPU, it goes first.
        std::thread::yield_now();
        Ok(Starting { child, sync: ours })
    }
}

/// OCI `start`: a child that said that it is created goes on to execve(2). Whether it is there to hear it.
pub fn start(hand_off: BorrowedFd<'_>) -> SysResult<bool> {
    match socket::send(hand_off, handshake::START, &[]) {
        Err(error) if error.errno() == Errno::EPIPE => Ok(false),
        other => other.map(|()| true),
    }
}

/// A child that paused before a step performs it.
pub fn go_on(hand_off: BorrowedFd<'_>) -> SysResult<()> {
    socket::send(hand_off, handshake::GO_ON, &[])
}

/// Opens a namespace file.
pub fn open_namespace(path: impl AsRef<std::path::Path>) -> SysResult<OwnedFd> {
    let path = path.as_ref();
    open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).called("open", path.display())
}

/// /dev/null, proven to be character device 1:3: it is what masked files of a container show.
fn find_null() -> Result<OwnedFd> {
    let fd = open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).called("open", "/dev/null")?;
    assert_device(fd.as_fd(), "/dev/null", NULL)?;
    Ok(fd)
}

/// Opens it through a mount of its own: the inode belongs to root, and so to a container's.
fn open_null(host: BorrowedFd<'_>) -> Result<OwnedFd> {
    let view = mount::clone_read_only(host, Depth::Top)?;
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    Ok(open(&proc_fd_path(&view), flags, Mode::empty()).called("open", "/dev/null")?)
}

/// A detached mount of a device that every container has, proven to be that device.
fn open_device(path: &std::path::Path) -> Result<OwnedFd> {
    let known =
        DEVICES.iter().find(|(name, ..)| path.strip_prefix("/dev").is_ok_and(|below| below.as_os_str() == *name));
    let (_, major, minor) = known.with_context(|| format!("{} is no device of every container", path.display()))?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = open(path, flags, Mode::empty()).called("open", path.display())?;
    assert_device(fd.as_fd(), &path.to_string_lossy(), (u64::from(*major), u64::from(*minor)))?;
    Ok(mount::clone_tree(fd.as_fd(), Depth::Top)?)
}

fn assert_device(fd: BorrowedFd<'_>, path: &str, number: DeviceNumber) -> Result<()> {
    anyhow::ensure!(is_device(fd, number)?, "the host's {path} is not the device {}:{}", number.0, number.1);
    Ok(())
}

/// Major and minor.
type DeviceNumber = (u64, u64);

/// /dev/null
const NULL: DeviceNumber = (1, 3);

/// Whether it is the character device of this number.
fn is_device(fd: BorrowedFd<'_>, number: DeviceNumber) -> SysResult<bool> {
    let status = fstat(fd).called("fstat", mount::fd_name(fd))?;
    let file_type = SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits());
    Ok(file_type == SFlag::S_IFCHR && (major(status.st_rdev), minor(status.st_rdev)) == number)
}
