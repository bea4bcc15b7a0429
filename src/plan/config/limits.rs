//! What a container and a pod may use: cgroup numbers, swap, disk space, and what a change of them takes.

use crate::lifecycle::Resize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whether containers may be swapped out, in a kubelet's words (`memorySwap.swapBehavior`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwapBehavior {
    /// Not at all.
    #[default]
    NoSwap,
    /// A container of a Burstable pod that requests less memory than its limit: its share of the host's swap.
    LimitedSwap {
        /// The host's swap in bytes.
        host_swap: u64,
    },
}

/// `resizePolicy`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResizePolicy {
    /// Of `cpu`.
    pub cpu: Resize,
    /// Of `memory`.
    pub memory: Resize,
}

/// What has a limit of disk space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageOf {
    /// An emptyDir on disk, by its name: `sizeLimit`.
    Volume(String),
    /// The pod: its containers' `limits.ephemeral-storage` together.
    Pod,
    /// A container's writable layer and logs: its `limits.ephemeral-storage`.
    Container(String),
}

/// A limit of disk space, which is looked at every ten seconds (pod-api.md §18, §20).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageLimit {
    /// Whose.
    pub of: StorageOf,
    /// Bytes.
    pub bytes: u64,
    /// As the manifest writes it.
    pub text: String,
}

/// CRI `LinuxContainerResources`; `None` leaves the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerResources {
    /// CPU shares, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// CPU time per period, in microseconds.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// `requests.memory` in bytes. The kernel is not told: a kubelet's MemoryQoS is off (pod-api.md §20).
    pub memory_request: Option<i64>,
    /// Bytes of swap beside the memory; -1 for no limit. A manifest's is of cgroup v2 only, there is none with v1.
    pub swap: i64,
    /// Bytes in huge pages, by the size of a page; of the sizes that are not named there are none.
    pub hugepages: BTreeMap<u64, i64>,
    /// Processes and threads.
    pub pids_limit: Option<i64>,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// The CPUs that it may run on, as cpuset(7) lists them; empty for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpuset_cpus: String,
    /// The memory nodes that it may use, likewise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpuset_mems: String,
    /// Files of cgroup v2 and what is written to them, after everything else.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
    /// What holds of the rest.
    #[serde(skip_serializing_if = "Unnamed::is_limited")]
    pub unnamed: Unnamed,
}

/// What holds of huge pages, swap and the end of a whole container that is out of memory, if nobody names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unnamed {
    /// As a kubelet has it: no huge pages, no swap, one killed process is the container's end (pod-api.md §20).
    #[default]
    Limited,
    /// As the kernel has it. A kubelet which asks through CRI names itself what it wants.
    Unlimited,
}

impl Unnamed {
    fn is_limited(&self) -> bool {
        *self == Unnamed::Limited
    }
}
