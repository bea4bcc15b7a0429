//! Resources: what a plugin sets of them, and one set of them over another.

use super::owners::{Owners, Thing};
use crate::cri::api::nri::{Field, LinuxCpu, LinuxMemory, LinuxResources};
use anyhow::Result;

/// Claims everything that is set.
pub(super) fn claim(owners: &mut Owners<'_>, given: &LinuxResources) -> Result<()> {
    let none = (LinuxMemory::default(), LinuxCpu::default());
    let memory = given.memory.as_ref().unwrap_or(&none.0);
    let cpu = given.cpu.as_ref().unwrap_or(&none.1);
    let set = [
        (memory.limit.is_some(), Field::MemLimit),
        (memory.reservation.is_some(), Field::MemReservation),
        (memory.swap.is_some(), Field::MemSwapLimit),
        (memory.kernel.is_some(), Field::MemKernelLimit),
        (memory.kernel_tcp.is_some(), Field::MemTcpLimit),
        (memory.swappiness.is_some(), Field::MemSwappiness),
        (memory.disable_oom_killer.is_some(), Field::MemDisableOomKiller),
        (memory.use_hierarchy.is_some(), Field::MemUseHierarchy),
        (cpu.shares.is_some(), Field::CpuShares),
        (cpu.quota.is_some(), Field::CpuQuota),
        (cpu.period.is_some(), Field::CpuPeriod),
        (cpu.realtime_runtime.is_some(), Field::CpuRealtimeRuntime),
        (cpu.realtime_period.is_some(), Field::CpuRealtimePeriod),
        (!cpu.cpus.is_empty(), Field::CpuSetCpUs),
        (!cpu.mems.is_empty(), Field::CpuSetMems),
        (given.blockio_class.is_some(), Field::BlockioClass),
        (given.rdt_class.is_some(), Field::RdtClass),
        (given.pids.is_some(), Field::PidsLimit),
    ];
    for (_, field) in set.into_iter().filter(|(is_set, _)| *is_set) {
        owners.claim(field)?;
    }
    for limit in &given.hugepage_limits {
        owners.claim(Thing::entry(Field::HugepageLimits, &limit.page_size))?;
    }
    for key in given.unified.keys() {
        owners.claim(Thing::entry(Field::CgroupsUnified, key))?;
    }
    Ok(())
}

/// Puts what is set in `given` over `target`. Device rules are added.
pub(super) fn overlay(target: &mut LinuxResources, given: &LinuxResources) {
    if let Some(given) = &given.memory {
        let memory = target.memory.get_or_insert_default();
        over(&mut memory.limit, &given.limit);
        over(&mut memory.reservation, &given.reservation);
        over(&mut memory.swap, &given.swap);
        over(&mut memory.kernel, &given.kernel);
        over(&mut memory.kernel_tcp, &given.kernel_tcp);
        over(&mut memory.swappiness, &given.swappiness);
        over(&mut memory.disable_oom_killer, &given.disable_oom_killer);
        over(&mut memory.use_hierarchy, &given.use_hierarchy);
    }
    if let Some(given) = &given.cpu {
        let cpu = target.cpu.get_or_insert_default();
        over(&mut cpu.shares, &given.shares);
        over(&mut cpu.quota, &given.quota);
        over(&mut cpu.period, &given.period);
        over(&mut cpu.realtime_runtime, &given.realtime_runtime);
        over(&mut cpu.realtime_period, &given.realtime_period);
        for (target, given) in [(&mut cpu.cpus, &given.cpus), (&mut cpu.mems, &given.mems)] {
            if !given.is_empty() {
                target.clone_from(given);
            }
        }
    }
    for limit in &given.hugepage_limits {
        target.hugepage_limits.retain(|old| old.page_size != limit.page_size);
        target.hugepage_limits.push(limit.clone());
    }
    target.devices.extend(given.devices.iter().cloned());
    target.unified.extend(given.unified.iter().map(|(key, value)| (key.clone(), value.clone())));
    over(&mut target.blockio_class, &given.blockio_class);
    over(&mut target.rdt_class, &given.rdt_class);
    over(&mut target.pids, &given.pids);
}

fn over<T: Clone>(target: &mut Option<T>, given: &Option<T>) {
    if given.is_some() {
        target.clone_from(given);
    }
}
