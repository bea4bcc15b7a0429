//! What a container's init does between clone3(2) and execve(2), as a list of plain values.
//!
//! [`container_steps`] makes the list from an OCI `Spec` alone; `init` performs it, an error names the step, and whoever
//! wants to show what a container is prints it. The order is the lesson, so it is written down once, here.

use super::{Confinement, devices};
use crate::plan::config::HostDevice;
use crate::plan::{capabilities, spec::DEVICES};
use crate::sys::credentials::CapabilityMasks;
use crate::sys::mount::{Propagation, attr};
use anyhow::{Context, Result, bail};
use oci_spec::runtime::{
    Capabilities, Linux, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Mount,
    PosixRlimitType, Process, Spec,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A namespace that is joined or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// net
    Network,
    /// ipc
    Ipc,
    /// uts
    Uts,
    /// pid
    Pid,
    /// mnt
    Mount,
    /// cgroup
    Cgroup,
    /// user
    User,
}

impl NamespaceKind {
    /// The name below `/proc/<pid>/ns/`.
    pub fn file(self) -> &'static str {
        match self {
            NamespaceKind::Network => "net",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Uts => "uts",
            NamespaceKind::Pid => "pid",
            NamespaceKind::Mount => "mnt",
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::User => "user",
        }
    }

    /// The runtime spec's name.
    pub fn of_spec(self) -> LinuxNamespaceType {
        match self {
            NamespaceKind::Network => LinuxNamespaceType::Network,
            NamespaceKind::Ipc => LinuxNamespaceType::Ipc,
            NamespaceKind::Uts => LinuxNamespaceType::Uts,
            NamespaceKind::Pid => LinuxNamespaceType::Pid,
            NamespaceKind::Mount => LinuxNamespaceType::Mount,
            NamespaceKind::Cgroup => LinuxNamespaceType::Cgroup,
            NamespaceKind::User => LinuxNamespaceType::User,
        }
    }

    /// The `CLONE_NEW*` flag.
    pub fn flag(self) -> nix::sched::CloneFlags {
        use nix::sched::CloneFlags;
        match self {
            NamespaceKind::Network => CloneFlags::CLONE_NEWNET,
            NamespaceKind::Ipc => CloneFlags::CLONE_NEWIPC,
            NamespaceKind::Uts => CloneFlags::CLONE_NEWUTS,
            NamespaceKind::Pid => CloneFlags::CLONE_NEWPID,
            NamespaceKind::Mount => CloneFlags::CLONE_NEWNS,
            NamespaceKind::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            NamespaceKind::User => CloneFlags::CLONE_NEWUSER,
        }
    }
}

/// One step. Descriptors that a step needs are in [`super::Handles`], in the order of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// prctl(PR_SET_PDEATHSIG): a half-made container does not outlive its supervisor.
    DieWithSupervisor,
    /// Writes itself into the container's cgroups, so that all that follows is accounted there.
    JoinCgroup,
    /// keyctl(KEYCTL_JOIN_SESSION_KEYRING): a new one, as that of whoever called podshim goes along with every fork(2), and
    /// what is in it with it. Keyrings belong to no namespace.
    NewSessionKeyring,
    /// `/proc/self/oom_score_adj`
    OomScoreAdj {
        /// -1000 to 1000.
        value: i32,
    },
    /// Writes the profile that execve(2) changes to: `/proc/thread-self/attr/apparmor/exec`, of a procfs of our own.
    ///
    /// It is kept across clone3(2), and nothing is executed before the container's own program; so it is written while
    /// everything is still the host's.
    AppArmor {
        /// The profile, which must be loaded.
        profile: String,
    },
    /// Writes the label that execve(2) changes to: `/proc/thread-self/attr/exec`, of a procfs of our own.
    SeLinux {
        /// `user:role:type:level`
        label: String,
    },
    /// setns(2) to the pod's (or, in `exec`, the container's) namespace.
    JoinNamespace {
        /// Which.
        kind: NamespaceKind,
    },
    /// setns(2) to a mount namespace in which nothing is mounted ([`super::empty`]), and unshare(CLONE_NEWNS), which copies it.
    EmptyMountNamespace,
    /// unshare(CLONE_NEWNS), in a user namespace that was joined: only so can its root mount anything. It begins with a copy of the
    /// host's mounts, as a procfs can be had only where one is to be seen.
    NewMountNamespace,
    /// clone3(CLONE_NEWPID) of the process that performs the rest, in a user namespace that was joined, which so owns the pid
    /// namespace.
    NewPidNamespace,
    /// fsopen(2), fsconfig(2), fsmount(2) of a file system whose `MountFileSystem` comes later. In a user namespace the kernel
    /// allows a procfs or sysfs only where another one is to be seen whole, as the host's is before pivot_root(2)
    /// (mount_too_revealing in fs/namespace.c).
    OpenFileSystem {
        /// proc, sysfs
        kind: String,
        /// `attr::*`
        attributes: u64,
        /// Options of the file system itself.
        options: Vec<String>,
    },
    /// unshare(CLONE_NEWCGROUP): the cgroup just joined becomes the root of what the container sees.
    NewCgroupNamespace,
    /// mount_setattr("/", slave, recursive): no mount made from here on reaches the host.
    StopPropagation,
    /// setns(2) to a pid namespace in which others live already, then clone3(2) of the process that performs the rest.
    ///
    /// Only now is it seen by them: with CAP_SYS_PTRACE they can look into it, so it must have nothing of the host left
    /// (root directory, descriptors).
    EnterPidNamespace,
    /// Attaches the root file system at the root of this mount namespace, pivot_root(2) into it, and detaches what was there.
    Pivot,
    /// fsopen(2), fsconfig(2), fsmount(2), move_mount(2): a new instance of a file system.
    MountFileSystem {
        /// proc, tmpfs, devpts, mqueue, sysfs
        kind: String,
        /// Where.
        target: PathBuf,
        /// `attr::*`
        attributes: u64,
        /// Options of the file system itself, `key` or `key=value`.
        options: Vec<String>,
    },
    /// The container's view of its cgroups: cgroup2, or with v1 a tmpfs with one mount per hierarchy.
    MountCgroups {
        /// Where.
        target: PathBuf,
        /// `attr::*`
        attributes: u64,
    },
    /// A detached mount of the host's `source`, opened before, is attached at `target`.
    Bind {
        /// For messages; the mount is of a descriptor.
        source: PathBuf,
        /// Where; made if missing.
        target: PathBuf,
        /// `attr::*`, of the topmost mount.
        attributes: u64,
        /// `attr::*`, of the mounts below it too.
        recursive: u64,
        /// Propagation of later mounts.
        propagation: Propagation,
    },
    /// mknod(2) of a character device below /dev.
    Device {
        /// Where.
        path: PathBuf,
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// mknod(2) and chown(2) of a device of the host's that the container was given.
    DeviceNode(HostDevice),
    /// The host's device, which was opened and verified before, is bound to a path below /dev: in a user namespace mknod(2) is
    /// not allowed.
    BindDevice {
        /// Where.
        path: PathBuf,
    },
    /// symlink(2)
    Symlink {
        /// What it says.
        target: String,
        /// Where.
        path: PathBuf,
    },
    /// mknod(2) of each of the host's devices (privileged containers).
    HostDevices,
    /// A pseudo-terminal of the container's own devpts; its master is sent up.
    Terminal,
    /// The terminal is bound to /dev/console.
    Console,
    /// Covers a path by an empty read-only one, verified to be of procfs or sysfs.
    Mask {
        /// Nothing happens if it does not exist.
        path: PathBuf,
    },
    /// Makes a path read-only, verified to be of procfs or sysfs.
    ReadonlyPath {
        /// Nothing happens if it does not exist.
        path: PathBuf,
    },
    /// The root file system becomes read-only; mounts on it keep their own access.
    ReadonlyRoot,
    /// setrlimit(2); a limit that the caller may not raise is clamped and reported.
    Rlimit {
        /// `RLIMIT_*`, as the OCI spec names it.
        kind: String,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    },
    /// mkdir(2) if missing, chdir(2), and a check that the result is inside.
    WorkingDirectory {
        /// Absolute.
        path: PathBuf,
    },
    /// setsid(2), standard descriptors, controlling terminal.
    Stdio,
    /// Tells the supervisor that the container is created, and waits for its start. From here on the end of file tells that the
    /// supervisor is gone, in the place of the parent-death signal.
    WaitForStart,
    /// prctl(PR_CAPBSET_DROP) of every other capability.
    BoundingSet {
        /// Bit n for capability n.
        keep: u64,
    },
    /// prctl(PR_SET_NO_NEW_PRIVS)
    NoNewPrivileges,
    /// seccomp(SECCOMP_SET_MODE_FILTER)
    Seccomp {
        /// The profile; none if its filter comes with the request ([`Confinement`]).
        profile: Option<Box<LinuxSeccomp>>,
    },
    /// umask(2), setgroups(2), setresgid(2), setresuid(2) with PR_SET_KEEPCAPS.
    User {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
        /// File mode creation mask.
        umask: u32,
    },
    /// capset(2), ambient set cleared.
    Capabilities {
        /// Bit n for capability n.
        masks: CapabilityMasks,
    },
    /// execve(2), with PATH searched inside the container; every descriptor above 2 is closed by it.
    Exec {
        /// argv
        arguments: Vec<String>,
        /// envp
        environment: Vec<String>,
    },
}

impl Step {
    /// The step's name, for errors: `Mask /proc/keys`.
    pub fn name(&self) -> String {
        let debug = format!("{self:?}");
        let kind = debug.split([' ', '{', '(']).next().unwrap_or_default();
        if let Some(path) = self.path() {
            return format!("{kind} {}", path.display());
        }
        match self {
            Step::JoinNamespace { kind: namespace } => format!("{kind} {}", namespace.file()),
            Step::Rlimit { kind: resource, .. } => format!("{kind} {resource}"),
            _ => kind.to_owned(),
        }
    }

    /// What is made, covered or entered of the container's files.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Step::MountFileSystem { target: path, .. }
            | Step::MountCgroups { target: path, .. }
            | Step::Bind { target: path, .. }
            | Step::Device { path, .. }
            | Step::DeviceNode(HostDevice { path, .. })
            | Step::BindDevice { path }
            | Step::Symlink { path, .. }
            | Step::Mask { path }
            | Step::ReadonlyPath { path }
            | Step::WorkingDirectory { path } => Some(path),
            _ => None,
        }
    }
}

/// The steps of a container's init.
pub fn container_steps(spec: &Spec) -> Result<Vec<Step>> {
    let linux = spec.linux().as_ref().context("the spec has no linux section")?;
    let process = spec.process().as_ref().context("the spec has no process")?;
    let root = spec.root().as_ref().context("the spec has no root")?;
    let users = UserNamespace::of(linux);
    let mut steps = first_steps(process);
    steps.extend(match users {
        UserNamespace::Hosts => own_view(linux)?,
        UserNamespace::Pods => mapped_view(linux, spec.mounts().as_deref().unwrap_or_default())?,
    });
    for mount in spec.mounts().iter().flatten() {
        let step = mount_step(mount)?;
        // What somebody mounts there has its own devices, and is not written into.
        let is_new_dev = mount.destination() == Path::new("/dev") && !matches!(step, Step::Bind { .. });
        steps.push(step);
        if is_new_dev {
            steps.extend(device_steps(users, all_devices(linux)));
        }
    }
    // After the mounts, as they may be in one.
    for device in linux.devices().iter().flatten() {
        steps.push(Step::DeviceNode(devices::read(device, users == UserNamespace::Pods)?));
    }
    if process.terminal() == Some(true) {
        steps.extend([Step::Terminal, Step::Console]);
    }
    steps.extend(linux.masked_paths().iter().flatten().map(|path| Step::Mask { path: path.into() }));
    steps.extend(linux.readonly_paths().iter().flatten().map(|path| Step::ReadonlyPath { path: path.into() }));
    // Directories for mounts and the working directory are made before the root becomes read-only.
    steps.push(Step::WorkingDirectory { path: process.cwd().clone() });
    if root.readonly() == Some(true) {
        steps.push(Step::ReadonlyRoot);
    }
    steps.push(Step::Stdio);
    steps.push(Step::WaitForStart);
    let filter = linux.seccomp().as_ref().map(|profile| Step::Seccomp { profile: Some(Box::new(profile.clone())) });
    steps.extend(privilege_steps(process, filter)?);
    Ok(steps)
}

/// Whose the ids of a container's processes are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UserNamespace {
    /// They are the host's.
    Hosts,
    /// The pod has a user namespace of its own, which owns its other namespaces.
    Pods,
}

impl UserNamespace {
    pub(super) fn of(linux: &Linux) -> UserNamespace {
        let is_user = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::User && n.path().is_some();
        if linux.namespaces().iter().flatten().any(is_user) { UserNamespace::Pods } else { UserNamespace::Hosts }
    }
}

/// From the host's view to the container's root: the pid namespace is often new from clone3(2) on.
fn own_view(linux: &Linux) -> Result<Vec<Step>> {
    let mut steps = joined(linux)?;
    steps.push(Step::EmptyMountNamespace);
    steps.push(Step::Pivot);
    if joins_pid(linux) {
        // After the host's files are out of reach.
        steps.extend([Step::EnterPidNamespace, Step::DieWithSupervisor]);
    }
    Ok(steps)
}

/// The same in a user namespace: every namespace that is new is made in it, so that it owns them. Whoever lives in the pid
/// namespace already cannot look into a process that comes from outside and is not dumpable (ptrace(2), "Ptrace access mode
/// checking"), so it is entered before pivot_root(2): a procfs is of the pid namespace of who makes it.
fn mapped_view(linux: &Linux, mounts: &[Mount]) -> Result<Vec<Step>> {
    let mut steps = vec![Step::JoinNamespace { kind: NamespaceKind::User }];
    steps.extend(joined(linux)?);
    steps.push(Step::NewMountNamespace);
    steps.push(if joins_pid(linux) { Step::EnterPidNamespace } else { Step::NewPidNamespace });
    // A change of ids and a new process both take the signal away.
    steps.push(Step::DieWithSupervisor);
    steps.push(Step::StopPropagation);
    for mount in mounts {
        if let Step::MountFileSystem { kind, attributes, options, .. } = mount_step(mount)?
            && matches!(kind.as_str(), "proc" | "sysfs")
        {
            steps.push(Step::OpenFileSystem { kind, attributes, options });
        }
    }
    steps.push(Step::Pivot);
    Ok(steps)
}

/// The namespaces of the pod that a container joins, and a cgroup namespace if it has one.
fn joined(linux: &Linux) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for namespace in linux.namespaces().iter().flatten().filter(|n| n.path().is_some()) {
        match namespace.typ() {
            LinuxNamespaceType::Network => steps.push(Step::JoinNamespace { kind: NamespaceKind::Network }),
            LinuxNamespaceType::Ipc => steps.push(Step::JoinNamespace { kind: NamespaceKind::Ipc }),
            LinuxNamespaceType::Uts => steps.push(Step::JoinNamespace { kind: NamespaceKind::Uts }),
            // They have their own places in the order.
            LinuxNamespaceType::Pid | LinuxNamespaceType::User => {}
            other => bail!("joining a namespace of type {other:?} is not supported"),
        }
    }
    let is_cgroup = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::Cgroup && n.path().is_none();
    if linux.namespaces().iter().flatten().any(is_cgroup) {
        // After joining the cgroup, never at clone3: the namespace's root is the cgroup its maker is in.
        steps.push(Step::NewCgroupNamespace);
    }
    Ok(steps)
}

fn joins_pid(linux: &Linux) -> bool {
    let is_shared = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::Pid && n.path().is_some();
    linux.namespaces().iter().flatten().any(is_shared)
}

/// Whether the container may use every device of the host; then it sees them all.
fn all_devices(linux: &Linux) -> bool {
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_ref());
    let is_any = |rule: &LinuxDeviceCgroup| {
        let kind = rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A);
        rule.allow() && kind && rule.major().is_none() && rule.access().as_deref() == Some("rwm")
    };
    rules.is_some_and(|rules| rules.iter().any(is_any))
}

/// The steps of a process that joins a running container (`exec`): the same confinement, no new file systems.
pub fn exec_steps(process: &Process, confinement: &Confinement) -> Result<Vec<Step>> {
    let mut steps = first_steps(process);
    if confinement.users == UserNamespace::Pods {
        // First, so that nothing that follows is done with more rights than the pod has.
        steps.extend([Step::JoinNamespace { kind: NamespaceKind::User }, Step::DieWithSupervisor]);
    }
    // The mount namespace last: until then /proc is the supervisor's.
    for kind in
        [NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Cgroup, NamespaceKind::Mount]
    {
        steps.push(Step::JoinNamespace { kind });
    }
    steps.extend([Step::EnterPidNamespace, Step::DieWithSupervisor]);
    if process.terminal() == Some(true) {
        steps.push(Step::Terminal);
    }
    steps.push(Step::WorkingDirectory { path: process.cwd().clone() });
    steps.push(Step::Stdio);
    steps.push(Step::WaitForStart);
    steps.extend(privilege_steps(process, confinement.filter.as_ref().map(|_| Step::Seccomp { profile: None }))?);
    Ok(steps)
}

/// What every process of a container begins with, while it is one of the host's.
fn first_steps(process: &Process) -> Vec<Step> {
    let mut steps = vec![Step::DieWithSupervisor, Step::JoinCgroup, Step::NewSessionKeyring];
    steps.extend(process.oom_score_adj().map(|value| Step::OomScoreAdj { value }));
    steps.extend(process.apparmor_profile().clone().map(|profile| Step::AppArmor { profile }));
    steps.extend(process.selinux_label().clone().map(|label| Step::SeLinux { label }));
    // A hard limit is raised by the host's CAP_SYS_RESOURCE, not by that of a user namespace.
    steps.extend(rlimits(process));
    steps
}

fn rlimits(process: &Process) -> impl Iterator<Item = Step> + '_ {
    process.rlimits().iter().flatten().map(|limit| Step::Rlimit {
        kind: rlimit_name(limit.typ()),
        soft: limit.soft(),
        hard: limit.hard(),
    })
}

fn rlimit_name(kind: PosixRlimitType) -> String {
    kind.to_string()
}

/// The steps that give up privileges, ending in execve(2).
fn privilege_steps(process: &Process, mut filter: Option<Step>) -> Result<Vec<Step>> {
    let capabilities = process.capabilities().as_ref().context("the spec's process has no capabilities")?;
    let masks = CapabilityMasks {
        effective: mask(capabilities.effective())?,
        permitted: mask(capabilities.permitted())?,
        inheritable: mask(capabilities.inheritable())?,
    };
    let user = process.user();
    let no_new_privileges = process.no_new_privileges() == Some(true);
    let mut steps = vec![Step::BoundingSet { keep: mask(capabilities.bounding())? }];
    if no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    } else {
        // Without no_new_privs a filter takes CAP_SYS_ADMIN, which the next steps give up.
        steps.extend(filter.take());
    }
    steps.push(Step::User {
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(0o022),
    });
    steps.push(Step::Capabilities { masks });
    steps.extend(filter);
    steps.push(Step::Exec {
        arguments: process.args().clone().unwrap_or_default(),
        environment: process.env().clone().unwrap_or_default(),
    });
    Ok(steps)
}

fn mask(set: &Option<Capabilities>) -> Result<u64> {
    set.iter().flatten().try_fold(0, |bits, capability| Ok(bits | 1 << capabilities::number(*capability)?))
}

/// The step of one mount of the spec.
pub(super) fn mount_step(mount: &Mount) -> Result<Step> {
    let target = mount.destination().clone();
    let given: Vec<&str> = mount.options().iter().flatten().map(String::as_str).collect();
    let (mut attributes, mut recursive) = (attr::RELATIME, 0);
    let mut options = Vec::new();
    let mut propagation = Propagation::Private;
    for option in given {
        match option {
            "ro" => attributes |= attr::RDONLY,
            "rro" => recursive |= attr::RDONLY,
            "nosuid" => attributes |= attr::NOSUID,
            "nodev" => attributes |= attr::NODEV,
            "noexec" => attributes |= attr::NOEXEC,
            "rprivate" => propagation = Propagation::Private,
            "rslave" => propagation = Propagation::Slave,
            "rshared" => propagation = Propagation::Shared,
            // The tree that the supervisor hands over is mapped already.
            "idmap" => {}
            "rw" | "relatime" | "bind" | "rbind" => {}
            "strictatime" => {}
            other => options.push(other.to_owned()),
        }
    }
    Ok(match mount.typ().as_deref() {
        Some("bind") => {
            let source = mount.source().clone().context("a bind mount has no source")?;
            Step::Bind { source, target, attributes, recursive, propagation }
        }
        Some("cgroup") => Step::MountCgroups { target, attributes },
        Some(kind) => Step::MountFileSystem { kind: kind.to_owned(), target, attributes, options },
        None => bail!("the mount at {} has no type", target.display()),
    })
}

/// Devices and links in /dev, as the runtime-spec lists them (config-linux.md, "Default Devices").
fn device_steps(users: UserNamespace, all: bool) -> Vec<Step> {
    let path = |name: &str| Path::new("/dev").join(name);
    let mut steps: Vec<Step> = DEVICES
        .iter()
        .map(|(name, major, minor)| match users {
            UserNamespace::Hosts => Step::Device { path: path(name), major: *major, minor: *minor },
            UserNamespace::Pods => Step::BindDevice { path: path(name) },
        })
        .collect();
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    steps.extend(links.map(|(target, name)| Step::Symlink { target: target.to_owned(), path: path(name) }));
    // Those of the host's root are of no use to another root, which may not even make their nodes.
    if all && users == UserNamespace::Hosts {
        steps.push(Step::HostDevices);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxCapabilitiesBuilder, MountBuilder};

    /// A container's steps by their kinds, with these namespaces to join.
    fn kinds(joined: &[LinuxNamespaceType]) -> Vec<String> {
        let mut spec = Spec::default();
        let namespaces = joined.iter().map(|kind| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(*kind).set_path(Some("/pin".into()));
            namespace
        });
        spec.linux_mut().as_mut().unwrap().set_namespaces(Some(namespaces.collect()));
        let process = spec.process_mut().as_mut().unwrap();
        process.set_capabilities(Some(LinuxCapabilitiesBuilder::default().build().unwrap()));
        let proc = MountBuilder::default().destination("/proc").typ("proc").source("proc").build().unwrap();
        let dev = MountBuilder::default().destination("/dev").typ("tmpfs").source("tmpfs").build().unwrap();
        spec.set_mounts(Some(vec![proc, dev]));
        let steps = container_steps(&spec).unwrap();
        steps.iter().map(|step| step.name().split(' ').next().unwrap().to_owned()).collect()
    }

    /// Each word comes before the next one.
    fn assert_order(kinds: &[String], order: &[&str]) {
        let places: Vec<Option<usize>> = order.iter().map(|word| kinds.iter().position(|kind| kind == word)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{order:?} in {kinds:?}");
    }

    #[test]
    fn s24_in_a_user_namespace_everything_is_made_after_it_was_joined() {
        use LinuxNamespaceType::{Ipc, Network, Pid, User, Uts};
        let own = kinds(&[User, Network, Ipc, Uts]);
        let rights_of_the_host = ["JoinCgroup", "Rlimit", "JoinNamespace"];
        assert_order(&own, &rights_of_the_host);
        let order =
            ["JoinNamespace", "NewMountNamespace", "NewPidNamespace", "OpenFileSystem", "Pivot", "MountFileSystem"];
        assert_order(&own, &order);
        assert!(!own.contains(&"Device".to_owned()) && own.contains(&"BindDevice".to_owned()), "{own:?}");
        let shared = kinds(&[User, Network, Ipc, Uts, Pid]);
        assert_order(&shared, &["NewMountNamespace", "EnterPidNamespace", "OpenFileSystem", "Pivot"]);
        // A change of ids takes the parent-death signal away: it is asked for again.
        assert_eq!(own.iter().filter(|kind| *kind == "DieWithSupervisor").count(), 2);
        let plain = kinds(&[Network, Ipc, Uts, Pid]);
        assert_order(&plain, &["EmptyMountNamespace", "Pivot", "EnterPidNamespace", "MountFileSystem"]);
        let mapped = ["NewMountNamespace", "StopPropagation", "OpenFileSystem", "BindDevice"];
        assert!(!plain.iter().any(|kind| mapped.contains(&kind.as_str())), "{plain:?}");
    }
}
