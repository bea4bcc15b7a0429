//! Container config → OCI runtime-spec [`Spec`]: the back door. Pure.
//!
//! The result is a complete `config.json`: another OCI runtime can run the bundle.

use super::config::*;
use super::{capabilities, seccomp};
use crate::error::{Kind, failure};
use anyhow::{Context, Result};
use oci_spec::runtime::*;
use std::path::{Path, PathBuf};

/// A container process's identity, with names resolved in the image's own files.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Propagation.
    pub propagation: MountPropagation,
    /// What set-user-ID programs and device nodes in it are.
    pub special: Special,
}

/// Whether set-user-ID programs and device nodes of a mount are what they seem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// As on the host: what the host itself put there, or may rely on.
    Honoured,
    /// Nothing special (nosuid, nodev), but in a privileged container: what the pod's own containers write.
    Ignored,
}

/// What [`container`] needs beside the configs: what was resolved when the container was created.
#[derive(Debug, Clone)]
pub struct Resolved<'a> {
    /// The user.
    pub user: &'a User,
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
    /// Whether memory is limited by cgroup v2, which has `memory.oom.group`.
    pub memory_is_unified: bool,
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
        .resources(resources(config, &resolved)?)
        .rootfs_propagation("rslave")
        .build()?;
    if security.privileged == Privilege::Default {
        let mut masked: Vec<String> = MASKED_PATHS.iter().map(ToString::to_string).collect();
        masked.extend(resolved.thermal_throttle.iter().cloned());
        linux.set_masked_paths(Some(masked));
        linux.set_readonly_paths(Some(READONLY_PATHS.iter().map(ToString::to_string).collect()));
    } else {
        linux.set_masked_paths(Some(Vec::new())).set_readonly_paths(Some(Vec::new()));
    }
    linux.set_seccomp(match security.seccomp {
        SeccompProfile::RuntimeDefault => Some(seccomp::default_profile(&capabilities)),
        SeccompProfile::Unconfined => None,
    });
    let mut process = process(sandbox, config, image, resolved.user)?;
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

fn namespaces(sandbox: &PodSandboxConfig, privileged: Privilege, resolved: &Resolved<'_>) -> Vec<LinuxNamespace> {
    let namespace = |kind, path: Option<&Path>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path.map(Path::to_owned));
        namespace
    };
    let mut list = vec![namespace(LinuxNamespaceType::Mount, None)];
    if privileged == Privilege::Default {
        // A privileged container sees and manages the host's cgroups (pod-api.md §23).
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
pub fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    // ENTRYPOINT [""] is none.
    let entrypoint = if image.entrypoint == [""] { &[][..] } else { &image.entrypoint[..] };
    let (command, args) = match (&config.command, &config.args) {
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
fn environment(sandbox: &PodSandboxConfig, config: &ContainerConfig, image: &ImageConfig, user: &User) -> Vec<String> {
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
    for pair in &config.envs {
        set(&pair.key, &pair.value, true);
    }
    set("HOME", &user.home, false);
    list.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn process(sandbox: &PodSandboxConfig, config: &ContainerConfig, image: &ImageConfig, user: &User) -> Result<Process> {
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
        .args(arguments(config, image)?)
        .env(environment(sandbox, config, image, user))
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
/// them. A volume at the path of a default mount takes its place.
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
    list.retain(|mount| binds.iter().all(|bind| mount.destination() != Path::new(&bind.destination)));
    for bind in binds {
        let propagation = match bind.propagation {
            MountPropagation::None => "rprivate",
            MountPropagation::HostToContainer => "rslave",
            MountPropagation::Bidirectional => "rshared",
        };
        let access = if bind.access == Access::ReadOnly { "ro" } else { "rw" };
        let mut words = vec!["rbind", propagation, access];
        if bind.special == Special::Ignored && !privileged {
            words.extend(["nosuid", "nodev"]);
        }
        list.push(
            MountBuilder::default()
                .destination(&bind.destination)
                .typ("bind")
                .source(&bind.source)
                .options(options(&words))
                .build()?,
        );
    }
    // Stable: equally deep mounts keep their order.
    list.sort_by_key(|mount| mount.destination().components().count());
    Ok(list)
}

/// A device of every container: path below /dev, minor number (all are of major 1 or 5).
pub const DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

fn device_rules(privileged: Privilege) -> Result<Vec<LinuxDeviceCgroup>> {
    let rule = |allow, kind, numbers: (Option<i64>, Option<i64>), access: &str| {
        let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access).build()?;
        rule.set_major(numbers.0).set_minor(numbers.1);
        anyhow::Ok(rule)
    };
    let any = (None, None);
    if privileged == Privilege::Privileged {
        return Ok(vec![rule(true, LinuxDeviceType::A, any, "rwm")?]);
    }
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, any, "rwm")?,
        // Making a node harms nobody; opening it is what is refused.
        rule(true, LinuxDeviceType::C, any, "m")?,
        rule(true, LinuxDeviceType::B, any, "m")?,
    ];
    for (_, major, minor) in DEVICES {
        rules.push(rule(true, LinuxDeviceType::C, (Some(i64::from(*major)), Some(i64::from(*minor))), "rwm")?);
    }
    // Terminals: /dev/ptmx and /dev/pts/*.
    rules.push(rule(true, LinuxDeviceType::C, (Some(5), Some(2)), "rwm")?);
    rules.push(rule(true, LinuxDeviceType::C, (Some(136), None), "rwm")?);
    Ok(rules)
}

/// Of a container's resources, what can change while it runs: cpu and memory.
pub fn adjustable(given: &LinuxContainerResources) -> Result<LinuxResources> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(given.cpu_shares).set_quota(given.cpu_quota).set_period(given.cpu_period);
    let mut result = LinuxResources::default();
    result.set_cpu(Some(cpu));
    if let Some(limit) = given.memory_limit {
        // A limit on memory and swap together that equals the one on memory: no swap, as a kubelet's NoSwap.
        result.set_memory(Some(LinuxMemoryBuilder::default().limit(limit).swap(limit).build()?));
    }
    Ok(result)
}

fn resources(config: &ContainerConfig, resolved: &Resolved<'_>) -> Result<LinuxResources> {
    let mut result = adjustable(&config.resources)?;
    result.set_devices(Some(device_rules(config.security.privileged).context("device rules")?));
    if config.resources.memory_limit.is_some() && resolved.memory_is_unified {
        // One killed process is the whole container's end (pod-api.md §20).
        result.set_unified(Some([("memory.oom.group".to_owned(), "1".to_owned())].into()));
    }
    if let Some(limit) = config.resources.pids_limit {
        result.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build()?));
    }
    Ok(result)
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
