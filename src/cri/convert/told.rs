//! Configs as the API tells them.

use crate::control::ContainerRecord;
use crate::cri::api;
use crate::plan::config::LinuxContainerResources;
use crate::supervisor;

/// What a container may use.
pub fn resources_told(held: &LinuxContainerResources) -> api::ContainerResources {
    let unsigned = |number: Option<u64>| number.and_then(|n| i64::try_from(n).ok()).unwrap_or(0);
    let memory = held.memory_limit.unwrap_or(0);
    let linux = api::LinuxContainerResources {
        cpu_period: unsigned(held.cpu_period),
        cpu_quota: held.cpu_quota.unwrap_or(0),
        cpu_shares: unsigned(held.cpu_shares),
        memory_limit_in_bytes: memory,
        oom_score_adj: i64::from(held.oom_score_adj),
        cpuset_cpus: held.cpuset_cpus.clone(),
        cpuset_mems: held.cpuset_mems.clone(),
        hugepage_limits: held.hugepages.iter().map(|(size, limit)| hugepages(*size, *limit)).collect(),
        unified: held.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: match (memory, held.swap) {
            (0 | -1, _) => 0,
            (_, -1) => -1,
            (memory, swap) => memory.saturating_add(swap),
        },
    };
    api::ContainerResources { linux: Some(linux), windows: None }
}

fn hugepages(size: u64, limit: i64) -> api::HugepageLimit {
    let page_size = match size {
        _ if size >= 1 << 30 => format!("{}GB", size >> 30),
        _ if size >= 1 << 20 => format!("{}MB", size >> 20),
        _ => format!("{}KB", size >> 10),
    };
    api::HugepageLimit { page_size, limit: u64::try_from(limit).unwrap_or(0) }
}

/// By which signal it is asked to end: the request's, else the image's, else SIGTERM. A number that the API has no name for is
/// told as the runtime's default.
pub fn stop_signal_told(container: &ContainerRecord) -> api::Signal {
    let name = supervisor::stop_signal(&container.config, &container.image);
    api::Signal::from_str_name(&super::container::signal_of_name(&name)).unwrap_or(api::Signal::RuntimeDefault)
}
