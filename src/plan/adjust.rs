//! What others than the manifest want changed of a container's OCI [`Spec`]: a value that can be sent, and [`apply`]. Pure.
//!
//! The rules are those of `pkg/runtime-tools/generate` of github.com/containerd/nri, with two differences: nothing that the
//! executor would ignore is put into a spec, and what is set replaces what there was, also of resource limits.

use super::spec::DEVICES;
use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::{
    Hook, Hooks, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxIOPriority,
    LinuxMemory, LinuxMemoryPolicy, LinuxNamespace, LinuxNamespaceType, LinuxNetDevice, LinuxResources, LinuxSeccomp,
    Mount, PosixRlimit, Scheduler, Spec,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Changes of a spec. What can be removed has `None` for a value, or a list of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Adjustment {
    /// Annotations to set or to remove.
    pub annotations: BTreeMap<String, Option<String>>,
    /// Destinations of mounts to remove.
    pub removed_mounts: BTreeSet<PathBuf>,
    /// Mounts to add, or to put in the place of one with the same destination.
    pub mounts: Vec<Mount>,
    /// Variables to set or to remove, in order.
    pub env: Vec<(String, Option<String>)>,
    /// `process.args`; empty leaves them.
    pub args: Vec<String>,
    /// Hooks to add.
    pub hooks: Option<Hooks>,
    /// Limits to set, each in the place of the one of its type.
    pub rlimits: Vec<PosixRlimit>,
    /// Paths of devices to remove.
    pub removed_devices: BTreeSet<PathBuf>,
    /// Devices to add, with a rule that allows them.
    pub devices: Vec<LinuxDevice>,
    /// Resources to set.
    pub resources: Option<LinuxResources>,
    /// `linux.cgroupsPath`
    pub cgroups_path: Option<PathBuf>,
    /// `process.oomScoreAdj`
    pub oom_score_adj: Option<i32>,
    /// `process.ioPriority`
    pub io_priority: Option<LinuxIOPriority>,
    /// `process.scheduler`
    pub scheduler: Option<Scheduler>,
    /// `linux.seccomp`
    pub seccomp: Option<LinuxSeccomp>,
    /// Types of namespaces to remove.
    pub removed_namespaces: Vec<LinuxNamespaceType>,
    /// Namespaces to add, or to put in the place of one of the same type.
    pub namespaces: Vec<LinuxNamespace>,
    /// `linux.sysctl`: kernel parameters to set or to remove.
    pub sysctl: BTreeMap<String, Option<String>>,
    /// `linux.netDevices`: the host's links to move into the container, or not to.
    pub net_devices: BTreeMap<String, Option<LinuxNetDevice>>,
    /// `linux.memoryPolicy`
    pub memory_policy: Option<LinuxMemoryPolicy>,
}

/// Who makes a container of the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// podshim's own `runtime`, which performs less than the specification has.
    Own,
    /// An OCI runtime binary.
    Oci,
}

/// Largest limit of a score (proc_pid_oom_score_adj(5)).
const MAX_OOM_SCORE: i32 = 1000;

/// Applies an adjustment to a complete spec.
///
/// # Errors
/// If the executor cannot do what is wanted (names it), or what is wanted is malformed. The spec is unusable then.
pub fn apply(adjustment: &Adjustment, spec: &mut Spec, executor: Executor) -> Result<()> {
    if executor == Executor::Own {
        can_be_done(adjustment)?;
    }
    annotations(&adjustment.annotations, spec);
    process(adjustment, spec)?;
    if let Some(added) = &adjustment.hooks {
        hooks(added, spec);
    }
    mounts(adjustment, spec, executor)?;
    linux(adjustment, spec)
}

/// Refuses everything of an adjustment that podshim's own executor would not perform.
fn can_be_done(adjustment: &Adjustment) -> Result<()> {
    let wanted = [
        (adjustment.hooks.is_some(), "OCI hooks"),
        (adjustment.removed_devices.iter().any(|path| is_everyones(path)), "devices that every container has"),
        (adjustment.cgroups_path.is_some(), "the cgroup's path"),
        (adjustment.io_priority.is_some(), "the I/O priority"),
        (adjustment.scheduler.is_some(), "the scheduler"),
        (adjustment.memory_policy.is_some(), "the memory policy"),
        (!adjustment.namespaces.is_empty() || !adjustment.removed_namespaces.is_empty(), "namespaces"),
        (!adjustment.sysctl.is_empty(), "sysctls of a container (a pod's are its sandbox's)"),
        (!adjustment.net_devices.is_empty(), "network devices"),
    ];
    let refused: Vec<&str> = wanted.into_iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, what)| what).collect();
    ensure!(refused.is_empty(), "podshim cannot adjust {}", refused.join(", "));
    for mount in adjustment.mounts.iter().filter(|mount| is_bind(mount)) {
        const WORDS: &[&str] = &[
            "bind", "rbind", "ro", "rro", "rw", "nosuid", "nodev", "noexec", "relatime", "rprivate", "rslave",
            "rshared",
        ];
        for option in mount.options().iter().flatten() {
            let is_known = WORDS.contains(&option.as_str());
            ensure!(is_known, "podshim cannot bind {} with {option:?}", mount.destination().display());
        }
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            bail!("podshim cannot map the ids of the mount at {}", mount.destination().display());
        }
    }
    Ok(())
}

/// Whether every container has this device.
fn is_everyones(device: &Path) -> bool {
    let name = device.strip_prefix("/dev").ok().and_then(Path::to_str);
    DEVICES.iter().any(|(own, ..)| name == Some(*own))
}

/// Whether a mount binds a path of the host.
pub fn is_bind(mount: &Mount) -> bool {
    let is_option = |option: &String| option == "bind" || option == "rbind";
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(is_option)
}

fn annotations(wanted: &BTreeMap<String, Option<String>>, spec: &mut Spec) {
    if wanted.is_empty() {
        return;
    }
    let mut all = spec.annotations().clone().unwrap_or_default();
    for (key, value) in wanted {
        drop(match value {
            Some(value) => all.insert(key.clone(), value.clone()),
            None => all.remove(key),
        });
    }
    spec.set_annotations(Some(all));
}

fn process(wanted: &Adjustment, spec: &mut Spec) -> Result<()> {
    let process = spec.process_mut().as_mut().context("the spec has no process")?;
    let mut env = process.env().clone().unwrap_or_default();
    for (name, value) in &wanted.env {
        ensure!(!name.is_empty() && !name.contains(['=', '\0']), "{name:?} is no name of a variable");
        ensure!(!value.as_ref().is_some_and(|v| v.contains('\0')), "the variable {name} contains a zero byte");
        let is_it = |entry: &String| entry.split('=').next() == Some(name);
        let place = env.iter().position(is_it).unwrap_or(env.len());
        env.retain(|entry| !is_it(entry));
        if let Some(value) = value {
            env.insert(place, format!("{name}={value}"));
        }
    }
    process.set_env(Some(env));
    if !wanted.args.is_empty() {
        ensure!(wanted.args.iter().all(|arg| !arg.contains('\0')), "an argument contains a zero byte");
        process.set_args(Some(wanted.args.clone()));
    }
    let mut limits = process.rlimits().clone().unwrap_or_default();
    for limit in &wanted.rlimits {
        ensure!(limit.soft() <= limit.hard(), "{}: the soft limit is above the hard one", limit.typ());
        limits.retain(|old| old.typ() != limit.typ());
        limits.push(*limit);
    }
    process.set_rlimits(Some(limits).filter(|limits| !limits.is_empty()));
    if let Some(score) = wanted.oom_score_adj {
        let is_score = (-MAX_OOM_SCORE..=MAX_OOM_SCORE).contains(&score);
        ensure!(is_score, "oomScoreAdj {score} is not within -1000 and 1000 (proc_pid_oom_score_adj(5))");
        process.set_oom_score_adj(Some(score));
    }
    if let Some(priority) = &wanted.io_priority {
        process.set_io_priority(Some(*priority));
    }
    if let Some(scheduler) = &wanted.scheduler {
        process.set_scheduler(Some(scheduler.clone()));
    }
    Ok(())
}

fn hooks(wanted: &Hooks, spec: &mut Spec) {
    fn both(old: &Option<Vec<Hook>>, new: &Option<Vec<Hook>>) -> Option<Vec<Hook>> {
        let all: Vec<Hook> = old.iter().chain(new).flatten().cloned().collect();
        Some(all).filter(|all| !all.is_empty())
    }
    let mut all = spec.hooks().clone().unwrap_or_default();
    all.set_prestart(both(all.prestart(), wanted.prestart()));
    all.set_create_runtime(both(all.create_runtime(), wanted.create_runtime()));
    all.set_create_container(both(all.create_container(), wanted.create_container()));
    all.set_start_container(both(all.start_container(), wanted.start_container()));
    all.set_poststart(both(all.poststart(), wanted.poststart()));
    all.set_poststop(both(all.poststop(), wanted.poststop()));
    spec.set_hooks(Some(all));
}

/// A path that begins at the root and has no way up in it.
fn is_plain(path: &Path) -> bool {
    use std::path::Component::{Normal, RootDir};
    path.is_absolute() && path.components().all(|part| matches!(part, RootDir | Normal(_)))
}

fn mounts(wanted: &Adjustment, spec: &mut Spec, executor: Executor) -> Result<()> {
    if wanted.mounts.is_empty() && wanted.removed_mounts.is_empty() {
        return Ok(());
    }
    let mut all = spec.mounts().clone().unwrap_or_default();
    all.retain(|mount| !wanted.removed_mounts.contains(mount.destination()));
    for mount in &wanted.mounts {
        let destination = mount.destination();
        let told = || format!("the mount at {:?}", destination.display());
        ensure!(is_plain(destination) && destination != Path::new("/"), "{}: not an absolute path below /", told());
        let mut mount = mount.clone();
        if is_bind(&mount) {
            let is_source = mount.source().as_deref().is_some_and(is_plain);
            ensure!(is_source, "{}: its source is not an absolute path", told());
            // The specification ignores the type of a bind mount; podshim's steps go by it.
            mount.set_typ(Some("bind".to_owned()));
        }
        ensure!(mount.typ().as_deref().is_some_and(|kind| !kind.is_empty()), "{}: it has no type", told());
        all.retain(|old| old.destination() != destination);
        all.push(mount);
    }
    // Stable, as in `spec`: a mount below another comes after it.
    all.sort_by_key(|mount| mount.destination().components().count());
    if executor == Executor::Oci {
        // A runtime cuts all propagation at the root otherwise.
        let has = |word: &str| all.iter().flat_map(|m| m.options().iter().flatten()).any(|option| option == word);
        let linux = spec.linux_mut().as_mut().context("the spec has no linux section")?;
        if has("rshared") {
            linux.set_rootfs_propagation(Some("rshared".to_owned()));
        } else if has("rslave") && linux.rootfs_propagation().as_deref() != Some("rshared") {
            linux.set_rootfs_propagation(Some("rslave".to_owned()));
        }
    }
    spec.set_mounts(Some(all));
    Ok(())
}

fn linux(wanted: &Adjustment, spec: &mut Spec) -> Result<()> {
    let linux = spec.linux_mut().as_mut().context("the spec has no linux section")?;
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|device| !wanted.removed_devices.contains(device.path()));
    for device in &wanted.devices {
        ensure!(is_plain(device.path()), "the device {:?}: not an absolute path", device.path().display());
        devices.retain(|old| old.path() != device.path());
        devices.push(device.clone());
        let mut rules = resources.devices().clone().unwrap_or_default();
        rules.push(rule(device)?);
        resources.set_devices(Some(rules));
    }
    if !wanted.devices.is_empty() || !wanted.removed_devices.is_empty() {
        linux.set_devices(Some(devices));
    }
    if let Some(wanted) = &wanted.resources {
        overlay(&mut resources, wanted);
    }
    linux.set_resources(Some(resources));
    if let Some(path) = &wanted.cgroups_path {
        linux.set_cgroups_path(Some(path.clone()));
    }
    if let Some(seccomp) = &wanted.seccomp {
        linux.set_seccomp(Some(seccomp.clone()));
    }
    if let Some(policy) = &wanted.memory_policy {
        linux.set_memory_policy(Some(policy.clone()));
    }
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|old| !wanted.removed_namespaces.contains(&old.typ()));
    for namespace in &wanted.namespaces {
        namespaces.retain(|old| old.typ() != namespace.typ());
        namespaces.push(namespace.clone());
    }
    linux.set_namespaces(Some(namespaces));
    if !wanted.sysctl.is_empty() {
        let mut all = linux.sysctl().clone().unwrap_or_default();
        for (key, value) in &wanted.sysctl {
            drop(match value {
                Some(value) => all.insert(key.clone(), value.clone()),
                None => all.remove(key),
            });
        }
        linux.set_sysctl(Some(all));
    }
    if !wanted.net_devices.is_empty() {
        let mut all = linux.net_devices().clone().unwrap_or_default();
        for (link, device) in &wanted.net_devices {
            drop(match device {
                Some(device) => all.insert(link.clone(), device.clone()),
                None => all.remove(link),
            });
        }
        linux.set_net_devices(Some(all));
    }
    Ok(())
}

/// What allows a device to be used: to read and to write it as its mode says, all of it if it says nothing.
fn rule(device: &LinuxDevice) -> Result<LinuxDeviceCgroup> {
    let allows = |bits: u32| device.file_mode().is_none_or(|mode| mode & bits != 0);
    let mut access = String::new();
    for (bits, letter) in [(0o444, 'r'), (0o222, 'w')] {
        if allows(bits) {
            access.push(letter);
        }
    }
    if device.typ() == LinuxDeviceType::B {
        access.push('m');
    }
    let rule = LinuxDeviceCgroupBuilder::default().allow(true).typ(device.typ()).access(access);
    Ok(rule.major(device.major()).minor(device.minor()).build()?)
}

/// Puts what is set in `wanted` over `target`; device rules are added.
pub fn overlay(target: &mut LinuxResources, wanted: &LinuxResources) {
    if let Some(wanted) = wanted.cpu() {
        target.set_cpu(Some(cpu(target.cpu().clone().unwrap_or_default(), wanted)));
    }
    if let Some(wanted) = wanted.memory() {
        target.set_memory(Some(memory(target.memory().unwrap_or_default(), wanted)));
    }
    if let Some(pids) = wanted.pids() {
        target.set_pids(Some(*pids));
    }
    if let Some(block_io) = wanted.block_io() {
        target.set_block_io(Some(block_io.clone()));
    }
    let mut pages = target.hugepage_limits().clone().unwrap_or_default();
    for limit in wanted.hugepage_limits().iter().flatten() {
        pages.retain(|old| old.page_size() != limit.page_size());
        pages.push(limit.clone());
    }
    target.set_hugepage_limits(Some(pages).filter(|pages| !pages.is_empty()));
    let rules: Vec<_> = target.devices().iter().chain(wanted.devices()).flatten().cloned().collect();
    target.set_devices(Some(rules).filter(|rules| !rules.is_empty()));
    if let Some(wanted) = wanted.unified() {
        let mut all = target.unified().clone().unwrap_or_default();
        all.extend(wanted.iter().map(|(key, value)| (key.clone(), value.clone())));
        target.set_unified(Some(all));
    }
}

fn cpu(mut target: LinuxCpu, wanted: &LinuxCpu) -> LinuxCpu {
    target.set_shares(wanted.shares().or(target.shares()));
    target.set_quota(wanted.quota().or(target.quota()));
    target.set_period(wanted.period().or(target.period()));
    target.set_realtime_runtime(wanted.realtime_runtime().or(target.realtime_runtime()));
    target.set_realtime_period(wanted.realtime_period().or(target.realtime_period()));
    target.set_cpus(wanted.cpus().clone().or(target.cpus().clone()));
    target.set_mems(wanted.mems().clone().or(target.mems().clone()));
    target
}

fn memory(mut target: LinuxMemory, wanted: &LinuxMemory) -> LinuxMemory {
    target.set_limit(wanted.limit().or(target.limit()));
    target.set_reservation(wanted.reservation().or(target.reservation()));
    // A limit of memory alone leaves no swap, as the specification's limit is of both together.
    target.set_swap(wanted.swap().or(wanted.limit()).or(target.swap()));
    target.set_kernel(wanted.kernel().or(target.kernel()));
    target.set_kernel_tcp(wanted.kernel_tcp().or(target.kernel_tcp()));
    target.set_swappiness(wanted.swappiness().or(target.swappiness()));
    target.set_disable_oom_killer(wanted.disable_oom_killer().or(target.disable_oom_killer()));
    target.set_use_hierarchy(wanted.use_hierarchy().or(target.use_hierarchy()));
    target
}

#[cfg(test)]
#[path = "adjust_tests.rs"]
mod tests;
