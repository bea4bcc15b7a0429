//! What a container or a pod may use, as the runtime-spec has it. Pure.

use super::{Cgroups, devices};
use crate::plan::config::{ContainerConfig, LinuxContainerResources, Unnamed};
use anyhow::{Context, Result};
use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
};
use std::collections::HashMap;

/// Of a container's resources, what can change while it runs.
pub fn adjustable(given: &LinuxContainerResources, cgroups: &Cgroups) -> Result<LinuxResources> {
    let mut cpu = cpu_quota(given);
    cpu.set_shares(given.cpu_shares);
    let list = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    cpu.set_cpus(list(&given.cpuset_cpus)).set_mems(list(&given.cpuset_mems));
    let mut result = LinuxResources::default();
    result.set_cpu(Some(cpu));
    let mut unified: HashMap<String, String> = HashMap::new();
    if let Some(limit) = given.memory_limit {
        // OCI's limit is of memory and swap together: one that equals that of memory means no swap, as a kubelet's NoSwap.
        let both = match (given.swap, given.unnamed) {
            (-1, _) => -1,
            (_, Unnamed::Limited) if !cgroups.memory_is_unified => limit,
            (swap, _) => limit.saturating_add(swap),
        };
        result.set_memory(Some(LinuxMemoryBuilder::default().limit(limit).swap(both).build()?));
    } else if cgroups.memory_is_unified && given.swap != -1 {
        unified.insert("memory.swap.max".to_owned(), given.swap.to_string());
    }
    unified.extend(given.unified.iter().map(|(file, value)| (file.clone(), value.clone())));
    result.set_unified(Some(unified).filter(|all| !all.is_empty()));
    if given.unnamed == Unnamed::Unlimited {
        // A manifest's cannot change (pod-api.md §20): they are written when the cgroup is made.
        result.set_hugepage_limits(hugepage_limits(given, cgroups)?);
    }
    Ok(result)
}

fn cpu_quota(given: &LinuxContainerResources) -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(given.cpu_quota).set_period(given.cpu_period);
    cpu
}

/// All of a container's resources.
pub(super) fn of(config: &ContainerConfig, cgroups: &Cgroups) -> Result<LinuxResources> {
    let given = &config.resources;
    let mut result = adjustable(given, cgroups)?;
    let rules = devices::rules(config.security.privileged, &config.devices).context("device rules")?;
    result.set_devices(Some(rules));
    if cgroups.memory_is_unified && given.unnamed == Unnamed::Limited {
        // One killed process is the whole container's end (pod-api.md §20).
        let mut unified = result.unified().clone().unwrap_or_default();
        unified.entry("memory.oom.group".to_owned()).or_insert_with(|| "1".to_owned());
        result.set_unified(Some(unified));
    }
    if let Some(limit) = given.pids_limit {
        result.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build()?));
    }
    result.set_hugepage_limits(hugepage_limits(given, cgroups)?);
    Ok(result)
}

/// Of the sizes that are not asked for there is nothing, unless what is not named is unlimited. That there is nothing of a size
/// cannot be written where no cgroup limits it.
fn hugepage_limits(given: &LinuxContainerResources, cgroups: &Cgroups) -> Result<Option<Vec<LinuxHugepageLimit>>> {
    let mut wanted = given.hugepages.clone();
    wanted.retain(|size, limit| *limit != 0 || cgroups.page_sizes.contains(size));
    if given.unnamed == Unnamed::Limited {
        for size in &cgroups.page_sizes {
            wanted.entry(*size).or_insert(0);
        }
    }
    let limits: Vec<_> = wanted
        .into_iter()
        .map(|(size, limit)| LinuxHugepageLimitBuilder::default().page_size(page_size_name(size)).limit(limit).build())
        .collect::<Result<_, _>>()?;
    Ok((!limits.is_empty()).then_some(limits))
}

/// A size of pages as the kernel names its files (`hugetlb.2MB.max`).
fn page_size_name(size: u64) -> String {
    match size {
        _ if size >= 1 << 30 => format!("{}GB", size >> 30),
        _ if size >= 1 << 20 => format!("{}MB", size >> 20),
        _ => format!("{}KB", size >> 10),
    }
}

/// The resources of a pod's own cgroup, which can all change while it runs.
pub fn pod_resources(given: &LinuxContainerResources, cgroups: &Cgroups) -> Result<LinuxResources> {
    let mut cpu = cpu_quota(given);
    let mut result = LinuxResources::default();
    match given.cpu_shares {
        // A kubelet writes the weight of a pod itself, by the older formula: twice the request is twice the time.
        Some(shares) if cgroups.cpu_is_unified => {
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
            result.set_unified(Some([("cpu.weight".to_owned(), weight.to_string())].into()));
        }
        shares => drop(cpu.set_shares(shares)),
    }
    result.set_cpu(Some(cpu));
    if let Some(limit) = given.memory_limit {
        // What each container may swap is its own cgroup's matter.
        result.set_memory(Some(LinuxMemoryBuilder::default().limit(limit).swap(-1i64).build()?));
    }
    result.set_hugepage_limits(hugepage_limits(given, cgroups)?);
    Ok(result)
}
