//! A merged adjustment in NRI's messages → [`Adjustment`]. Pure. What podshim has no notion of at all is refused here, by name.

use crate::cri::api::nri;
use crate::plan::adjust::Adjustment;
use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime as oci;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// What of a key says that it is to be removed.
const REMOVED: char = '-';

/// The document for the supervisor.
///
/// # Errors
/// If something is wanted that podshim cannot do, or that is malformed; names it.
pub(super) fn adjustment(given: &nri::ContainerAdjustment) -> Result<Adjustment> {
    ensure!(given.cdi_devices.is_empty(), "podshim does not inject CDI devices");
    let none = nri::LinuxContainerAdjustment::default();
    let linux = given.linux.as_ref().unwrap_or(&none);
    ensure!(linux.rdt.is_none(), "podshim does not set RDT classes");
    let mut result = Adjustment {
        annotations: marked(&given.annotations, Clone::clone),
        args: given.args.clone(),
        hooks: given.hooks.as_ref().map(hooks).transpose()?,
        rlimits: given.rlimits.iter().map(rlimit).collect::<Result<_>>()?,
        resources: linux.resources.as_ref().map(resources).transpose()?,
        cgroups_path: Some(&linux.cgroups_path).filter(|path| !path.is_empty()).map(PathBuf::from),
        oom_score_adj: linux
            .oom_score_adj
            .map(|score| i32::try_from(score.value))
            .transpose()
            .context("oom_score_adj")?,
        io_priority: linux.io_priority.as_ref().map(io_priority).transpose()?.flatten(),
        scheduler: linux.scheduler.as_ref().map(scheduler).transpose()?.flatten(),
        seccomp: linux.seccomp_policy.as_ref().map(seccomp).transpose()?,
        sysctl: marked(&linux.sysctl, Clone::clone),
        memory_policy: linux.memory_policy.as_ref().map(memory_policy).transpose()?,
        ..Adjustment::default()
    };
    for (link, device) in marked(&linux.net_devices, |device| device.name.clone()) {
        let device = device.map(|name| read("network device", json!({ "name": name }))).transpose()?;
        result.net_devices.insert(link, device);
    }
    for mount in &given.mounts {
        match mount.destination.strip_prefix(REMOVED) {
            Some(destination) => drop(result.removed_mounts.insert(destination.into())),
            None => result.mounts.push(self::mount(mount)),
        }
    }
    for variable in &given.env {
        result.env.push(match variable.key.strip_prefix(REMOVED) {
            Some(name) => (name.to_owned(), None),
            None => (variable.key.clone(), Some(variable.value.clone())),
        });
    }
    for device in &linux.devices {
        match device.path.strip_prefix(REMOVED) {
            Some(path) => drop(result.removed_devices.insert(path.into())),
            None => result.devices.push(self::device(device)?),
        }
    }
    for namespace in &linux.namespaces {
        match namespace.r#type.strip_prefix(REMOVED) {
            Some(kind) => result.removed_namespaces.push(namespace_type(kind)?),
            None => result.namespaces.push(self::namespace(namespace)?),
        }
    }
    Ok(result)
}

/// Resources as the OCI specification has them.
///
/// # Errors
/// If they name a class, of which podshim has none, or are malformed.
pub fn resources(given: &nri::LinuxResources) -> Result<oci::LinuxResources> {
    for (class, what) in [(&given.blockio_class, "block I/O"), (&given.rdt_class, "RDT")] {
        if let Some(class) = class.as_ref().filter(|class| !class.value.is_empty()) {
            bail!("podshim has no {what} classes (wanted: {:?})", class.value);
        }
    }
    let mut result = oci::LinuxResources::default();
    result.set_memory(given.memory.as_ref().map(memory));
    result.set_cpu(given.cpu.as_ref().map(cpu));
    if let Some(pids) = given.pids {
        result.set_pids(Some(oci::LinuxPidsBuilder::default().limit(pids.limit).build()?));
    }
    let mut pages = Vec::new();
    for limit in &given.hugepage_limits {
        let bytes = i64::try_from(limit.limit).with_context(|| format!("hugepages of {}", limit.page_size))?;
        pages.push(oci::LinuxHugepageLimitBuilder::default().page_size(&limit.page_size).limit(bytes).build()?);
    }
    result.set_hugepage_limits(Some(pages).filter(|pages| !pages.is_empty()));
    let mut rules = Vec::new();
    for rule in &given.devices {
        let kind = if rule.r#type.is_empty() { oci::LinuxDeviceType::A } else { device_type(&rule.r#type)? };
        let mut made = oci::LinuxDeviceCgroupBuilder::default().allow(rule.allow).typ(kind).build()?;
        made.set_major(rule.major.map(|n| n.value)).set_minor(rule.minor.map(|n| n.value));
        made.set_access(Some(rule.access.clone()).filter(|access| !access.is_empty()));
        rules.push(made);
    }
    result.set_devices(Some(rules).filter(|rules| !rules.is_empty()));
    result.set_unified(Some(given.unified.clone()).filter(|unified| !unified.is_empty()));
    Ok(result)
}

fn memory(given: &nri::LinuxMemory) -> oci::LinuxMemory {
    let mut memory = oci::LinuxMemory::default();
    // 0 is "not set" everywhere in CRI.
    memory.set_limit(given.limit.map(|n| n.value).filter(|limit| *limit != 0));
    memory.set_reservation(given.reservation.map(|n| n.value));
    memory.set_swap(given.swap.map(|n| n.value));
    memory.set_kernel(given.kernel.map(|n| n.value));
    memory.set_kernel_tcp(given.kernel_tcp.map(|n| n.value));
    memory.set_swappiness(given.swappiness.map(|n| n.value));
    memory.set_disable_oom_killer(given.disable_oom_killer.map(|n| n.value));
    memory.set_use_hierarchy(given.use_hierarchy.map(|n| n.value));
    memory
}

fn cpu(given: &nri::LinuxCpu) -> oci::LinuxCpu {
    let mut cpu = oci::LinuxCpu::default();
    cpu.set_shares(given.shares.map(|n| n.value));
    cpu.set_quota(given.quota.map(|n| n.value));
    cpu.set_period(given.period.map(|n| n.value));
    cpu.set_realtime_runtime(given.realtime_runtime.map(|n| n.value));
    cpu.set_realtime_period(given.realtime_period.map(|n| n.value));
    cpu.set_cpus(Some(given.cpus.clone()).filter(|list| !list.is_empty()));
    cpu.set_mems(Some(given.mems.clone()).filter(|list| !list.is_empty()));
    cpu
}

/// A map whose keys may be marked for removal.
fn marked<V, W>(given: &HashMap<String, V>, value: impl Fn(&V) -> W) -> BTreeMap<String, Option<W>> {
    let entry = |(key, old): (&String, &V)| match key.strip_prefix(REMOVED) {
        Some(key) => (key.to_owned(), None),
        None => (key.clone(), Some(value(old))),
    };
    given.iter().map(entry).collect()
}

/// A value in the words of the specification's JSON, which both sides use.
fn read<T: DeserializeOwned>(what: &str, value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).with_context(|| what.to_owned())
}

fn mount(given: &nri::Mount) -> oci::Mount {
    let mut mount = oci::Mount::default();
    mount.set_destination(PathBuf::from(&given.destination));
    mount.set_typ(Some(given.r#type.clone()).filter(|kind| !kind.is_empty()));
    mount.set_source(Some(&given.source).filter(|source| !source.is_empty()).map(PathBuf::from));
    mount.set_options(Some(given.options.clone()));
    mount
}

fn device_type(kind: &str) -> Result<oci::LinuxDeviceType> {
    read("type of a device", json!(kind))
}

fn device(given: &nri::LinuxDevice) -> Result<oci::LinuxDevice> {
    let told = || format!("the device {}", given.path);
    let kind = device_type(&given.r#type).with_context(told)?;
    let path = PathBuf::from(&given.path);
    let device = oci::LinuxDeviceBuilder::default().path(path).typ(kind).major(given.major).minor(given.minor);
    let mut device = device.build().with_context(told)?;
    device.set_file_mode(given.file_mode.map(|mode| mode.value));
    device.set_uid(given.uid.map(|id| id.value)).set_gid(given.gid.map(|id| id.value));
    Ok(device)
}

fn namespace_type(kind: &str) -> Result<oci::LinuxNamespaceType> {
    oci::LinuxNamespaceType::try_from(kind).with_context(|| format!("a namespace of type {kind:?}"))
}

fn namespace(given: &nri::LinuxNamespace) -> Result<oci::LinuxNamespace> {
    let mut namespace = oci::LinuxNamespaceBuilder::default().typ(namespace_type(&given.r#type)?).build()?;
    namespace.set_path(Some(&given.path).filter(|path| !path.is_empty()).map(PathBuf::from));
    Ok(namespace)
}

fn rlimit(given: &nri::PosixRlimit) -> Result<oci::PosixRlimit> {
    read("a resource limit", json!({ "type": given.r#type, "hard": given.hard, "soft": given.soft }))
}

fn hooks(given: &nri::Hooks) -> Result<oci::Hooks> {
    let list = |hooks: &[nri::Hook]| -> Vec<_> {
        let hook = |hook: &nri::Hook| {
            let timeout = hook.timeout.map(|timeout| timeout.value);
            json!({ "path": hook.path, "args": hook.args, "env": hook.env, "timeout": timeout })
        };
        hooks.iter().map(hook).collect()
    };
    let all = json!({
        "prestart": list(&given.prestart),
        "createRuntime": list(&given.create_runtime),
        "createContainer": list(&given.create_container),
        "startContainer": list(&given.start_container),
        "poststart": list(&given.poststart),
        "poststop": list(&given.poststop),
    });
    read("hooks", all)
}

/// None of class NONE, which takes a priority away that podshim never gives.
fn io_priority(given: &nri::LinuxIoPriority) -> Result<Option<oci::LinuxIOPriority>> {
    let class = nri::IoPrioClass::try_from(given.class).context("class of an I/O priority")?;
    if class == nri::IoPrioClass::IoprioClassNone {
        return Ok(None);
    }
    read("I/O priority", json!({ "class": class.as_str_name(), "priority": given.priority })).map(Some)
}

/// None of policy NONE, likewise.
fn scheduler(given: &nri::LinuxScheduler) -> Result<Option<oci::Scheduler>> {
    let policy = nri::LinuxSchedulerPolicy::try_from(given.policy).context("policy of a scheduler")?;
    if policy == nri::LinuxSchedulerPolicy::SchedNone {
        return Ok(None);
    }
    let flag = |flag: &i32| nri::LinuxSchedulerFlag::try_from(*flag).map(scheduler_flag);
    let mut result = oci::Scheduler::default();
    result.set_policy(read("policy of a scheduler", json!(policy.as_str_name()))?);
    result.set_nice(Some(given.nice)).set_priority(Some(given.priority));
    let flags = given.flags.iter().map(flag).collect::<Result<Vec<_>, _>>().context("flag of a scheduler")?;
    result.set_flags(Some(flags).filter(|flags| !flags.is_empty()));
    let set = |number: u64| Some(number).filter(|number| *number != 0);
    result.set_runtime(set(given.runtime)).set_deadline(set(given.deadline)).set_period(set(given.period));
    Ok(Some(result))
}

fn scheduler_flag(flag: nri::LinuxSchedulerFlag) -> oci::LinuxSchedulerFlag {
    use nri::LinuxSchedulerFlag as From;
    use oci::LinuxSchedulerFlag as To;
    match flag {
        From::SchedFlagResetOnFork => To::SchedResetOnFork,
        From::SchedFlagReclaim => To::SchedFlagReclaim,
        From::SchedFlagDlOverrun => To::SchedFlagDLOverrun,
        From::SchedFlagKeepPolicy => To::SchedFlagKeepPolicy,
        From::SchedFlagKeepParams => To::SchedFlagKeepParams,
        From::SchedFlagUtilClampMin => To::SchedFlagUtilClampMin,
        From::SchedFlagUtilClampMax => To::SchedFlagUtilClampMax,
    }
}

fn memory_policy(given: &nri::LinuxMemoryPolicy) -> Result<oci::LinuxMemoryPolicy> {
    let mode = nri::MpolMode::try_from(given.mode).context("mode of a memory policy")?;
    let flags = given.flags.iter().map(|flag| nri::MpolFlag::try_from(*flag).map(|flag| flag.as_str_name()));
    let flags = flags.collect::<Result<Vec<_>, _>>().context("flag of a memory policy")?;
    read("memory policy", json!({ "mode": mode.as_str_name(), "nodes": given.nodes, "flags": flags }))
}

fn seccomp(given: &nri::LinuxSeccomp) -> Result<oci::LinuxSeccomp> {
    let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let syscall = |syscall: &nri::LinuxSyscall| {
        let args: Vec<_> = syscall
            .args
            .iter()
            .map(|arg| json!({ "index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op }))
            .collect();
        let mut result = json!({ "names": syscall.names, "action": syscall.action });
        if let Some(errno) = syscall.errno_ret {
            result["errnoRet"] = json!(errno.value);
        }
        if !args.is_empty() {
            result["args"] = json!(args);
        }
        result
    };
    let mut policy: oci::LinuxSeccomp = read(
        "seccomp policy",
        json!({
            "defaultAction": given.default_action,
            "architectures": given.architectures,
            "flags": given.flags,
            "syscalls": given.syscalls.iter().map(syscall).collect::<Vec<_>>(),
        }),
    )?;
    policy.set_default_errno_ret(given.default_errno.map(|errno| errno.value));
    policy.set_flags(policy.flags().clone().filter(|flags| !flags.is_empty()));
    policy.set_listener_path(filled(&given.listener_path).map(PathBuf::from));
    policy.set_listener_metadata(filled(&given.listener_metadata));
    Ok(policy)
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
