//! Container config → OCI runtime-spec [`Spec`]: the back door. Pure.
//!
//! The result is a complete `config.json`: another OCI runtime can run the bundle.

mod devices;
mod resources;

pub use devices::DEVICES;
pub use resources::{adjustable, pod_resources};

use super::config::*;
use super::seccomp_profile::Profile;
use super::{capabilities, env, seccomp};
use crate::error::{Kind, failure};
use crate::host::lsm::Lsms;
use anyhow::{Context, Result};
use oci_spec::runtime::*;
use std::path::{Path, PathBuf};

/// A container process's identity, with names resolved in the image's own files.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, without the primary.
    pub groups: Vec<u32>,
    /// The home directory, `/` if unknown.
    pub home: String,
}

/// A bind mount of a host path into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The path on the host, for the bundle; podshim itself mounts a descriptor.
    pub source: PathBuf,
    /// The absolute path in the container.
    pub destination: String,
    /// ro or rw.
    pub access: Access,
    /// Whether read-only holds for the mounts below too.
    pub submounts: Submounts,
    /// Propagation.
    pub propagation: MountPropagation,
    /// Further restrictions.
    pub options: Vec<BindOption>,
}

impl Bind {
    /// One of podshim's own files or directories, which a container may write.
    pub fn file(source: PathBuf, destination: &str) -> Bind {
        Bind {
            source,
            destination: destination.to_owned(),
            access: Access::ReadWrite,
            submounts: Submounts::Unchanged,
            propagation: MountPropagation::None,
            options: vec![BindOption::NoSuid, BindOption::NoDev],
        }
    }
}

/// The AppArmor profile of containers whose manifest names none.
pub const APPARMOR_DEFAULT: &str = "podshim-default";

/// What [`container`] needs beside the configs: what was resolved when the container was created.
#[derive(Debug, Clone)]
pub struct Resolved<'a> {
    /// The user.
    pub user: &'a User,
    /// The manifest's variables, by [`super::env::resolve`].
    pub variables: &'a [KeyValue],
    /// The bundle's rootfs directory.
    pub rootfs: PathBuf,
    /// The container's cgroup.
    pub cgroup: String,
    /// Files and volumes to mount, in mounting order.
    pub binds: &'a [Bind],
    /// Pins of the pod's namespaces.
    pub pins: Vec<(LinuxNamespaceType, PathBuf)>,
    /// The host's CPU directories with a thermal_throttle to be masked.
    pub thermal_throttle: Vec<String>,
    /// What `ALL` and `privileged` mean, bit n for capability n: what the caller itself can have.
    pub available_capabilities: u64,
    /// What cgroups the host has.
    pub cgroups: Cgroups,
    /// The seccomp profile of type Localhost, if the container has one.
    pub localhost_seccomp: Option<&'a Profile>,
    /// `uname -r`, which rules of a seccomp profile may depend on.
    pub kernel: &'a str,
    /// The host's security modules.
    pub lsms: Lsms,
}

/// What the numbers of a cgroup depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Whether cpu time is divided by cgroup v2.
    pub cpu_is_unified: bool,
    /// Whether memory is limited by cgroup v2, which has `memory.oom.group` and a limit of swap alone.
    pub memory_is_unified: bool,
    /// The sizes of huge pages that a cgroup can limit.
    pub page_sizes: Vec<u64>,
}

/// The spec of one container.
pub fn container(
    sandbox: &PodSandboxConfig,
    config: &ContainerConfig,
    image: &ImageConfig,
    resolved: Resolved<'_>,
) -> Result<Spec> {
    let security = &config.security;
    let capabilities = capabilities::container(security, resolved.available_capabilities)?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(sandbox, security.privileged, &resolved))
        .cgroups_path(&resolved.cgroup)
        .resources(resources::of(config, &resolved.cgroups)?)
        .rootfs_propagation(rootfs_propagation(resolved.binds))
        .build()?;
    if let Some(range) = sandbox.id_range {
        linux.set_uid_mappings(Some(vec![mapping(range)?])).set_gid_mappings(Some(vec![mapping(range)?]));
    }
    let covered = covered_paths(security, &resolved.thermal_throttle);
    linux.set_masked_paths(Some(covered.masked)).set_readonly_paths(Some(covered.readonly));
    if !config.devices.is_empty() {
        linux.set_devices(Some(config.devices.iter().map(devices::node).collect::<Result<_>>()?));
    }
    linux.set_seccomp(match &security.seccomp {
        SeccompProfile::RuntimeDefault => Some(seccomp::default_profile(&capabilities)),
        SeccompProfile::Unconfined => None,
        SeccompProfile::Localhost(name) => Some(of_host(Path::new(name), &capabilities, &resolved)?),
        SeccompProfile::File(path) => Some(of_host(path, &capabilities, &resolved)?),
    });
    let mut process = process(sandbox, config, image, &resolved)?;
    process.set_apparmor_profile(apparmor(security, resolved.lsms)?);
    if resolved.lsms.selinux {
        process.set_selinux_label(security.selinux.as_ref().map(selinux_label));
    }
    process.set_capabilities(Some(capabilities::sets(&capabilities)));
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .root(RootBuilder::default().path(&resolved.rootfs).readonly(security.rootfs == Access::ReadOnly).build()?)
        .mounts(mounts(sandbox, config, resolved.binds)?)
        .process(process)
        .linux(linux)
        .build()?;
    // The host name belongs to the pod's UTS namespace, which exists already.
    spec.set_hostname(None);
    Ok(spec)
}

/// What a seccomp profile of the host's comes to.
fn of_host(name: &Path, capabilities: &Capabilities, resolved: &Resolved<'_>) -> Result<LinuxSeccomp> {
    let what = || format!("seccomp profile {}", name.display());
    let profile = resolved.localhost_seccomp.with_context(|| format!("{} was not read", what()))?;
    profile.rules(capabilities, resolved.kernel).with_context(what)
}

/// For other OCI runtimes, which cut propagation at the root: podshim's own executor sets it for each mount.
fn rootfs_propagation(binds: &[Bind]) -> &'static str {
    let is_shared = |bind: &Bind| bind.propagation == MountPropagation::Bidirectional;
    if binds.iter().any(is_shared) { "rshared" } else { "rslave" }
}

/// What is hidden and what cannot be written; nothing if the container is privileged.
fn covered_paths(security: &SecurityContext, thermal_throttle: &[String]) -> CoveredPaths {
    if security.privileged == Privilege::Privileged {
        return CoveredPaths::default();
    }
    if let Some(given) = &security.paths {
        return given.clone();
    }
    match security.proc_mount {
        ProcMount::Unmasked => CoveredPaths::default(),
        ProcMount::Default => {
            let masked = MASKED_PATHS.iter().map(ToString::to_string).chain(thermal_throttle.iter().cloned());
            CoveredPaths {
                masked: masked.collect(),
                readonly: READONLY_PATHS.iter().map(ToString::to_string).collect(),
            }
        }
    }
}

/// The profile that a container changes to at its execve(2).
///
/// # Errors
/// Of kind `Invalid`, in the kubelet's words: the manifest asks for AppArmor, and the host has none. A container is never
/// less confined than its manifest says.
pub fn apparmor(security: &SecurityContext, lsms: Lsms) -> Result<Option<String>> {
    match &security.apparmor {
        Some(AppArmorProfile::RuntimeDefault | AppArmorProfile::Localhost(_)) if !lsms.apparmor => {
            let message = "cannot enforce AppArmor: AppArmor is not enabled on the host; remove appArmorProfile, or set its type to Unconfined";
            Err(failure(Kind::Invalid, message))
        }
        Some(AppArmorProfile::Localhost(name)) => Ok(Some(name.clone())),
        Some(AppArmorProfile::Unconfined) => Ok(None),
        Some(AppArmorProfile::RuntimeDefault) | None => {
            let is_default = lsms.apparmor && security.privileged == Privilege::Default;
            Ok(is_default.then(|| APPARMOR_DEFAULT.to_owned()))
        }
    }
}

/// A process label: what the manifest leaves out is as container-selinux has it for containers.
fn selinux_label(options: &SeLinuxOptions) -> String {
    let or = |given: &str, default: &str| if given.is_empty() { default.to_owned() } else { given.to_owned() };
    let (user, role) = (or(&options.user, "system_u"), or(&options.role, "system_r"));
    format!("{user}:{role}:{}:{}", or(&options.type_, "container_t"), or(&options.level, "s0"))
}

/// `[1]` of CVE-2025-31133's class: what /proc and /sys must not show (Kubernetes' default procMount, pod-api.md §23).
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn mapping(range: IdRange) -> Result<LinuxIdMapping> {
    Ok(LinuxIdMappingBuilder::default().container_id(0u32).host_id(range.first).size(range.size).build()?)
}

fn namespaces(sandbox: &PodSandboxConfig, privileged: Privilege, resolved: &Resolved<'_>) -> Vec<LinuxNamespace> {
    let namespace = |kind, path: Option<&Path>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path.map(Path::to_owned));
        namespace
    };
    let mut list = vec![namespace(LinuxNamespaceType::Mount, None)];
    if privileged == Privilege::Default || sandbox.id_range.is_some() {
        // A privileged container sees and manages the host's cgroups (pod-api.md §23), unless its root is not the host's.
        list.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    list.extend(resolved.pins.iter().map(|(kind, path)| namespace(*kind, Some(path))));
    let joins_pid = resolved.pins.iter().any(|(kind, _)| *kind == LinuxNamespaceType::Pid);
    if sandbox.namespaces.pid == NamespaceMode::Container && !joins_pid {
        list.push(namespace(LinuxNamespaceType::Pid, None));
    }
    list
}

/// command and args against ENTRYPOINT and CMD (pod-api.md §13).
pub fn arguments(config: &ContainerConfig, image: &ImageConfig, variables: &[KeyValue]) -> Result<Vec<String>> {
    let expanded = |words: &Option<Vec<String>>, field: &'static str| {
        words.as_ref().map(|words| env::expand_all(words, variables)).transpose().context(field)
    };
    // ENTRYPOINT [""] is none.
    let entrypoint = if image.entrypoint == [""] { &[][..] } else { &image.entrypoint[..] };
    let (command, args) = (expanded(&config.command, "command")?, expanded(&config.args, "args")?);
    let (command, args) = match (&command, &args) {
        (None, None) => (entrypoint, &image.cmd[..]),
        (None, Some(args)) => (entrypoint, &args[..]),
        (Some(command), args) => (&command[..], args.as_deref().unwrap_or_default()),
    };
    let list: Vec<String> = command.iter().chain(args).cloned().collect();
    match list.first() {
        Some(_) => Ok(list),
        None => Err(failure(
            Kind::CommandNotFound,
            "no command specified: the image has neither ENTRYPOINT nor CMD, and the manifest has no command",
        )),
    }
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image's variables, what a runtime adds, then the manifest's; each name once, the last value wins.
fn environment(
    sandbox: &PodSandboxConfig,
    config: &ContainerConfig,
    image: &ImageConfig,
    resolved: &Resolved<'_>,
) -> Vec<String> {
    let mut list: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, value: &str, replace: bool| match list.iter_mut().find(|(k, _)| k == key) {
        Some((_, old)) if replace => *old = value.to_owned(),
        Some(_) => {}
        None => list.push((key.to_owned(), value.to_owned())),
    };
    for variable in &image.env {
        let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(key, value, true);
    }
    set("PATH", DEFAULT_PATH, false);
    if !sandbox.hostname.is_empty() {
        set("HOSTNAME", &sandbox.hostname, true);
    }
    if config.stdio == Stdio::Terminal {
        set("TERM", "xterm", false);
    }
    for pair in resolved.variables {
        set(&pair.key, &pair.value, true);
    }
    set("HOME", &resolved.user.home, false);
    list.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn process(
    sandbox: &PodSandboxConfig,
    config: &ContainerConfig,
    image: &ImageConfig,
    resolved: &Resolved<'_>,
) -> Result<Process> {
    let user = resolved.user;
    let cwd = match config.working_dir.as_deref() {
        Some(dir) => dir,
        None if image.working_dir.is_empty() => "/",
        None => &image.working_dir,
    };
    anyhow::ensure!(cwd.starts_with('/'), "working directory {cwd:?} is not absolute");
    let mut identity = oci_spec::runtime::User::default();
    identity.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone())).set_umask(Some(0o022));
    let mut process = ProcessBuilder::default()
        .terminal(config.stdio == Stdio::Terminal)
        .user(identity)
        .args(arguments(config, image, resolved.variables)?)
        .env(environment(sandbox, config, image, resolved))
        .cwd(PathBuf::from(cwd))
        .no_new_privileges(config.security.escalation == Escalation::Forbidden)
        .oom_score_adj(config.resources.oom_score_adj)
        .build()?;
    // Independent of the limits of the shell that podshim was called from: systemd's defaults, as containerd 2 passes on.
    let files =
        PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(1024u64).hard(524_288u64).build()?;
    process.set_rlimits(Some(vec![files]));
    Ok(process)
}

fn options(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn file_system(destination: &str, kind: &str, list: &[&str]) -> Result<Mount> {
    Ok(MountBuilder::default().destination(destination).typ(kind).source(kind).options(options(list)).build()?)
}

/// The mounts in the order in which they are made: a mount below another one comes after it, however the manifest lists
/// them. A volume at the path of a default mount takes its place; one at /dev that of all in it, as with containerd.
fn mounts(sandbox: &PodSandboxConfig, config: &ContainerConfig, binds: &[Bind]) -> Result<Vec<Mount>> {
    let privileged = config.security.privileged == Privilege::Privileged;
    let sys_access = if privileged { "rw" } else { "ro" };
    let mqueue = if sandbox.namespaces.ipc == NamespaceMode::Node { None } else { Some("mqueue") };
    let mut list = vec![
        file_system("/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        file_system("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        file_system("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"])?,
        file_system("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys_access])?,
        file_system("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys_access])?,
    ];
    if let Some(kind) = mqueue {
        list.push(file_system("/dev/mqueue", kind, &["nosuid", "noexec", "nodev"])?);
    }
    list.retain(|mount| {
        let is_taken = |bind: &Bind| match Path::new(&bind.destination) {
            dev if dev == Path::new("/dev") => mount.destination().starts_with(dev),
            place => mount.destination() == place,
        };
        !binds.iter().any(is_taken)
    });
    for bind in binds {
        let propagation = match bind.propagation {
            MountPropagation::None => "rprivate",
            MountPropagation::HostToContainer => "rslave",
            MountPropagation::Bidirectional => "rshared",
        };
        let access = match (bind.access, bind.submounts) {
            (Access::ReadOnly, Submounts::ReadOnly) => "rro",
            (Access::ReadOnly, Submounts::Unchanged) => "ro",
            (Access::ReadWrite, _) => "rw",
        };
        let mut words = options(&["rbind", propagation, access]);
        words.extend(bind.options.iter().map(|option| option.word().to_owned()));
        let mut mount =
            MountBuilder::default().destination(&bind.destination).typ("bind").source(&bind.source).build()?;
        if let Some(range) = sandbox.id_range {
            words.push("idmap".to_owned());
            mount.set_uid_mappings(Some(vec![mapping(range)?])).set_gid_mappings(Some(vec![mapping(range)?]));
        }
        mount.set_options(Some(words));
        list.push(mount);
    }
    // Stable: equally deep mounts keep their order.
    list.sort_by_key(|mount| mount.destination().components().count());
    Ok(list)
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
