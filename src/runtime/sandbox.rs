//! The pod's namespaces: made by one short-lived child, pinned under the run directory so that they can be joined by name
//! (`ip netns`, nsenter(1)) and need no process to live.

use super::{NamespaceKind, empty, label, open_namespace};
use crate::cgroups::Cgroup;
use crate::manifest::sysctl::{self, SysctlNamespace};
use crate::network;
use crate::paths::PodDirs;
use crate::plan::config::{IdRange, KeyValue, NamespaceMode, NetworkMode, PodSandboxConfig};
use crate::sys::credentials::{self, CapabilityMasks};
use crate::sys::mount::{self, Depth};
use crate::sys::process::{self, Child};
use crate::sys::record::{self, Call};
use crate::sys::{Called, SysError, SysResult, net, socket};
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// The sandbox of a pod.
#[derive(Debug)]
pub struct Sandbox {
    /// Its namespaces; those of the host are not listed.
    pub namespaces: Vec<(NamespaceKind, OwnedFd)>,
    /// With shareProcessNamespace, pid 1 of the pod.
    pub reaper: Option<Child>,
    /// The addresses in its network namespace.
    pub addresses: Vec<IpAddr>,
}

/// The namespaces that a pod's containers share, in the order in which they are joined.
pub fn namespaces(config: &PodSandboxConfig) -> Vec<NamespaceKind> {
    let mut kinds = Vec::new();
    if config.namespaces.user == NamespaceMode::Pod {
        // It owns the others, and whoever joins them joins it first.
        kinds.push(NamespaceKind::User);
    }
    if config.namespaces.network != NetworkMode::Host {
        kinds.extend([NamespaceKind::Network, NamespaceKind::Uts]);
    }
    if config.namespaces.ipc == NamespaceMode::Pod {
        kinds.push(NamespaceKind::Ipc);
    }
    if config.namespaces.pid == NamespaceMode::Pod {
        kinds.push(NamespaceKind::Pid);
    }
    kinds
}

/// Where they are pinned, for the bundles of the pod's containers.
pub fn pins(config: &PodSandboxConfig, dirs: &PodDirs) -> Vec<(LinuxNamespaceType, PathBuf)> {
    namespaces(config).into_iter().map(|kind| (kind.of_spec(), dirs.namespace(kind.file()))).collect()
}

/// Makes the pod's namespaces and pins them. On an error, [`remove`] undoes what was done.
///
/// With shareProcessNamespace, pid 1 of the pod gets the cgroup `reaper`, so that whoever removes the pod finds it there
/// when the supervisor is gone.
pub fn create(config: &PodSandboxConfig, dirs: &PodDirs, reaper: &Cgroup) -> Result<Sandbox> {
    let kinds = namespaces(config);
    if kinds.is_empty() {
        // Nothing may ever be written for a pod that has no namespace of its own.
        ensure!(config.sysctls.is_empty(), "sysctls of a pod with the host's namespaces");
        return Ok(Sandbox { namespaces: Vec::new(), reaper: None, addresses: network::addresses()? });
    }
    let joined = match &config.namespaces.network {
        NetworkMode::Path(path) => {
            Some(open_namespace(path).with_context(|| format!("--network ns:{}", path.display()))?)
        }
        _ => None,
    };
    let new = |kind: &&NamespaceKind| **kind != NamespaceKind::Network || joined.is_none();
    let range = match config.namespaces.user {
        NamespaceMode::Pod => Some(config.id_range.context("no ids were reserved for the pod's user namespace")?),
        _ => None,
    };
    // Mounted here: in a user namespace of its own the child could not.
    let procfs = if config.sysctls.is_empty() { None } else { Some(label::procfs()?) };
    let flags = kinds.iter().filter(new).fold(0, |bits, kind| bits | kind.flag().bits() as u64);
    let (ours, theirs) = socket::pair()?;
    let (born_in, cgroups) = match config.namespaces.pid {
        NamespaceMode::Pod => {
            reaper.create(&LinuxResources::default())?;
            (reaper.unified_dir()?, reaper.join_files()?)
        }
        _ => (None, Vec::new()),
    };
    let cloned = process::clone3(flags, born_in.as_ref().map(AsFd::as_fd)).context("making the pod's namespaces")?;
    let Some(child) = cloned else {
        drop(ours);
        in_child(config, Given { network: joined, procfs, cgroups }, &theirs)
    };
    drop(theirs);
    let mapped = range.map_or(Ok(()), |range| map_ids(child.pid, range));
    let made = mapped
        .and_then(|()| Ok(socket::send(ours.as_fd(), GO_ON, &[])?))
        .and_then(|()| wait_until_made(&ours))
        .and_then(|addresses| Ok((pin_all(&kinds, child.pid, dirs)?, addresses)));
    match made {
        Ok((namespaces, addresses)) if config.namespaces.pid == NamespaceMode::Pod => {
            Ok(Sandbox { namespaces, reaper: Some(child), addresses })
        }
        other => {
            // Nothing but the pins is needed any more; a child that failed has ended already.
            process::send_signal(child.pidfd.as_fd(), libc::SIGKILL)?;
            waitpid(nix::unistd::Pid::from_raw(child.pid), None).called("waitpid", child.pid)?;
            let (namespaces, addresses) = other?;
            Ok(Sandbox { namespaces, reaper: None, addresses })
        }
    }
}

/// Writes the maps of a child's user namespace: its ids, of users and of groups, are those of the range.
fn map_ids(pid: i32, range: IdRange) -> Result<()> {
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{file}");
        let line = format!("0 {} {}\n", range.first, range.size);
        let write = || std::fs::write(&path, &line).called("write", &path);
        let written = record::call("write", || format!("<{path}>, {line:?}"), write);
        written.context("mapping the ids of the pod's user namespace")?;
    }
    Ok(())
}

/// What the parent says when the child's ids are mapped.
const GO_ON: &[u8] = b"go on";

/// What the child takes along.
struct Given {
    /// The network namespace to join.
    network: Option<OwnedFd>,
    /// A procfs, if there are sysctls to be written.
    procfs: Option<OwnedFd>,
    /// `tasks` of the cgroups of version 1 to join.
    cgroups: Vec<OwnedFd>,
}

/// What the child says: the addresses it sees, or what failed; and its calls, if they are to be shown.
type Answer = (Made, Vec<Call>);
type Made = SysResult<Vec<IpAddr>>;

fn wait_until_made(socket: &OwnedFd) -> Result<Vec<IpAddr>> {
    match socket::receive(socket.as_fd())? {
        socket::Received::Message(bytes, _) => {
            let (made, calls): Answer = serde_json::from_slice(&bytes).context("the child's answer")?;
            record::append(calls);
            made.context("making the pod's namespaces")
        }
        _ => bail!("making the pod's namespaces: the child ended without a word"),
    }
}

/// In the child: host name, loopback; then it is the pod's pid 1 or waits to be ended.
fn in_child(config: &PodSandboxConfig, given: Given, socket: &OwnedFd) -> ! {
    // Its copy of the parent's record.
    drop(record::take());
    let made: Made = (|| {
        for file in &given.cgroups {
            nix::unistd::write(file, b"0").called("write", mount::fd_name(file.as_fd()))?;
        }
        match socket::receive(socket.as_fd())? {
            socket::Received::Message(bytes, _) if bytes == GO_ON => {}
            _ => return Err(SysError::new("recvmsg", "the supervisor is gone", Errno::ECONNRESET)),
        }
        if config.namespaces.user == NamespaceMode::Pod {
            credentials::become_user(0, 0, &[])?;
        }
        if let Some(network) = &given.network {
            let path = match &config.namespaces.network {
                NetworkMode::Path(path) => path.display().to_string(),
                _ => String::from("net"),
            };
            process::set_namespace(network.as_fd(), NamespaceKind::Network.flag(), &path)?;
        }
        if config.namespaces.network != NetworkMode::Host {
            let name = &config.hostname;
            let set = || nix::unistd::sethostname(name).called("sethostname", name);
            record::call("sethostname", || format!("{name:?}, {}", name.len()), set)?;
            net::loopback_up()?;
        }
        set_sysctls(config, given.procfs.as_ref())?;
        let addresses = network::addresses()?;
        if config.namespaces.pid == NamespaceMode::Pod {
            last_to_be_killed(SCORE)?;
            confine()?;
        }
        Ok(addresses)
    })();
    let answer = serde_json::to_vec(&(&made, record::take())).unwrap_or_default();
    if socket::send(socket.as_fd(), &answer, &[]).is_err() || made.is_err() {
        process::exit_now(125);
    }
    if config.namespaces.pid == NamespaceMode::Pod {
        reap();
    }
    // The parent ends us when everything is pinned; its own end does too. To fail meanwhile would take the namespaces from it.
    while socket::receive(socket.as_fd()).is_err() {}
    process::exit_now(0)
}

/// Writes the pod's kernel parameters, in its namespaces, which the caller is in: each by one write(2) to a file of a procfs
/// that is attached nowhere (CVE-2022-0811, CVE-2025-52881).
fn set_sysctls(config: &PodSandboxConfig, procfs: Option<&OwnedFd>) -> SysResult<()> {
    let Some(procfs) = procfs else { return Ok(()) };
    for KeyValue { key, value } in &config.sysctls {
        let is_own = match sysctl::namespace(key) {
            Some(SysctlNamespace::Network) => config.namespaces.network != NetworkMode::Host,
            Some(SysctlNamespace::Ipc) => config.namespaces.ipc == NamespaceMode::Pod,
            None => false,
        };
        if !is_own {
            // Validation and plan refuse it; this is the last place before the host itself would change.
            return Err(SysError::new("write", format_args!("sysctl {key} of the host"), Errno::EPERM));
        }
        label::write(procfs, &format!("sys/{}", sysctl::path(key)), value)?;
    }
    Ok(())
}

/// What a kubelet gives its pause containers: a pod short of memory loses a container rather than all of them.
const SCORE: i32 = -998;

/// Sets what the calling process loses by when memory is short (`/proc/self/oom_score_adj`), as far as it may.
pub fn last_to_be_killed(score: i32) -> SysResult<()> {
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()).called("write", "/proc/self/oom_score_adj") {
        // Lowering takes CAP_SYS_RESOURCE; containerd goes on as well (restrict_oom_score_adj).
        Err(error) if matches!(error.errno(), Errno::EACCES | Errno::EPERM) => Ok(()),
        other => other,
    }
}

/// Takes everything from pid 1 of a pod that the pod's containers could reach through it: with CAP_SYS_PTRACE, which a
/// manifest may give them, `/proc/1/root` is theirs. Its root becomes an empty read-only tmpfs, and it can do nothing.
fn confine() -> SysResult<()> {
    empty::leave_mounts()?;
    credentials::limit_bounding_capabilities(0)?;
    credentials::set_capabilities(CapabilityMasks { effective: 0, permitted: 0, inheritable: 0 })?;
    credentials::set_no_new_privs()
}

/// Pid 1 of a pod with shareProcessNamespace: ends never, and reaps what its containers leave behind.
fn reap() -> ! {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    // No descriptor of the supervisor stays open in a process that containers can see.
    let ready = process::set_name("podshim-pause")
        .and_then(|()| signals.thread_block().called("sigprocmask", "SIGCHLD"))
        .and_then(|()| process::close_inherited(0));
    if ready.is_err() {
        process::exit_now(125);
    }
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        let _ = signals.wait();
    }
}

fn pin_all(kinds: &[NamespaceKind], pid: i32, dirs: &PodDirs) -> Result<Vec<(NamespaceKind, OwnedFd)>> {
    kinds
        .iter()
        .map(|kind| {
            let fd = open_namespace(format!("/proc/{pid}/ns/{}", kind.file()))?;
            let pin = dirs.namespace(kind.file());
            if let Some(parent) = pin.parent() {
                std::fs::create_dir_all(parent).called("mkdir", parent.display())?;
            }
            let file = std::fs::File::create(&pin).called("open", pin.display())?;
            let tree = mount::clone_tree(fd.as_fd(), Depth::Top)?;
            mount::attach(tree.as_fd(), file.as_fd()).context("pinning a namespace")?;
            Ok((*kind, fd))
        })
        .collect()
}

/// The namespaces of a sandbox that was made, by their pins.
pub fn reopen(config: &PodSandboxConfig, dirs: &PodDirs) -> Result<Vec<(NamespaceKind, OwnedFd)>> {
    let open = |kind: NamespaceKind| Ok((kind, open_namespace(dirs.namespace(kind.file()))?));
    namespaces(config).into_iter().map(open).collect()
}

/// Takes the pins away; ones that were never made count as done.
pub fn remove(dirs: &PodDirs) -> SysResult<()> {
    for kind in
        [NamespaceKind::User, NamespaceKind::Network, NamespaceKind::Uts, NamespaceKind::Ipc, NamespaceKind::Pid]
    {
        mount::detach(&dirs.namespace(kind.file()))?;
    }
    Ok(())
}
