//! What the host has for pods, and whether a new one finds room (pod-api.md §20: admission against the host's capacity).

use super::bring_up::Host;
use crate::error::{Kind, failure};
use crate::manifest::amounts;
use crate::plan::capacity;
use crate::plan::config::{Amounts, PodPlan};
use crate::store;
use crate::sys::Called;
use anyhow::Result;

/// What the host has; nothing if nobody is to look.
#[derive(Debug, Clone, Default)]
pub(super) struct Capacity {
    has: Option<Amounts>,
    /// What the pods of this command request that are not made yet.
    promised: Amounts,
}

impl Capacity {
    /// Of this host: its CPUs and memory, the disk that holds writable layers, and its huge pages.
    pub(super) fn of(host: Host<'_>) -> Result<Capacity> {
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let root = &host.dirs.root;
        let disk = nix::sys::statvfs::statvfs(root).called("statvfs", root.display())?;
        let disk = disk.blocks().saturating_mul(disk.fragment_size());
        let pages = host.facts.huge_pages.iter();
        let has = Amounts {
            cpu: Some(i64::from(host.facts.cpus) * 1000),
            memory: Some(bytes(host.facts.memory)),
            ephemeral_storage: Some(bytes(disk)),
            hugepages: pages.map(|p| (p.page_size, bytes(p.page_size.saturating_mul(p.count)))).collect(),
        };
        Ok(Capacity { has: Some(has), promised: Amounts::default() })
    }

    /// What [`store::reserve`] holds a pod against.
    pub(super) fn has(&self) -> Option<&Amounts> {
        self.has.as_ref()
    }

    /// Checks that a pod finds room beside those that run and those that were checked before. `instead` is the uid of the pod
    /// whose place it takes.
    pub(super) fn check(&mut self, plan: &PodPlan, host: Host<'_>, instead: Option<&str>) -> Result<()> {
        check_huge_pages(plan, host)?;
        if let Some(has) = &self.has {
            let others = || Ok(store::requested(host.dirs, instead)?.plus(&self.promised));
            capacity::check(&plan.requests, others, has)?;
        }
        self.promised = self.promised.plus(&plan.requests);
        Ok(())
    }
}

/// Pages of a size that the kernel does not have, or that no cgroup could limit, cannot be given to anybody.
fn check_huge_pages(plan: &PodPlan, host: Host<'_>) -> Result<()> {
    let limits = plan.containers.iter().flat_map(|c| &c.resources.hugepages);
    let sizes = limits.chain(&plan.requests.hugepages).filter(|(_, bytes)| **bytes > 0).map(|(size, _)| *size);
    for size in sizes {
        let name = amounts::hugepages_name(size);
        let known = &host.facts.huge_pages;
        if known.iter().all(|pages| pages.page_size != size) {
            let names: Vec<String> = known.iter().map(|pages| amounts::hugepages_name(pages.page_size)).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(failure(Kind::Invalid, format!("this host's kernel has no {name} (it has {names})")));
        }
        if host.facts.cgroups.with_controller("hugetlb").is_none() {
            let message = format!(
                "{name} cannot be limited on this host: no cgroup hierarchy has the controller hugetlb (with cgroup v1: \
                 mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb)"
            );
            return Err(failure(Kind::Invalid, message));
        }
    }
    Ok(())
}
