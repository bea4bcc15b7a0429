//! What a cgroup used, and how often the kernel killed in it.

use super::{Cgroup, keyed, read};
use crate::host::cgroup::Version;
use anyhow::Context;
use serde::{Deserialize, Serialize};

/// What a cgroup uses; a figure is missing where its controller is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time used since it was made, in microseconds.
    pub cpu_usage_usec: Option<u64>,
    /// Memory in use, page cache included, in bytes.
    pub memory_current: Option<u64>,
    /// Memory in use without the inactive part of the page cache, in bytes, as a kubelet reports it.
    pub memory_working_set: Option<u64>,
    /// Memory that is not of files, in bytes.
    #[serde(default)]
    pub memory_anonymous: Option<u64>,
    /// Page faults since it was made, and those of them that took reading from disk.
    #[serde(default)]
    pub page_faults: Option<(u64, u64)>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Cgroup {
    /// How many processes of it the kernel's out-of-memory killer has ended since it was made: v2 `oom_kill` of
    /// `memory.events.local` (Linux 5.2; before, of `memory.events`), v1 of `memory.oom_control` (Linux 4.13). Those of
    /// cgroups below do not count. 0 if no hierarchy counts memory.
    ///
    /// # Errors
    /// If the file cannot be read, as when the cgroup does not exist.
    pub fn oom_kills(&self) -> anyhow::Result<u64> {
        let Some((hierarchy, dir)) = self.home("memory") else {
            return Ok(0);
        };
        let local = dir.join("memory.events.local");
        let path = match hierarchy.version {
            Version::V1 => dir.join("memory.oom_control"),
            Version::V2 if local.exists() => local,
            Version::V2 => dir.join("memory.events"),
        };
        let text = read(&path).with_context(|| format!("count out-of-memory kills of cgroup {}", self.path()))?;
        keyed(&text, "oom_kill").with_context(|| format!("{} has no line oom_kill", path.display()))
    }

    /// What it uses now.
    ///
    /// # Errors
    /// If a file cannot be read, as when the cgroup does not exist.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        self.read_stats().with_context(|| format!("measure cgroup {}", self.path()))
    }

    fn read_stats(&self) -> anyhow::Result<Stats> {
        let number = |path: std::path::PathBuf| -> anyhow::Result<u64> {
            read(&path)?.trim().parse().with_context(|| format!("{} is not a number", path.display()))
        };
        let mut stats = Stats::default();
        if let Some((_, dir)) = self.home("cpuacct") {
            stats.cpu_usage_usec = Some(number(dir.join("cpuacct.usage"))? / 1000);
        } else if let Some(dir) = self.unified() {
            stats.cpu_usage_usec = keyed(&read(&dir.join("cpu.stat"))?, "usage_usec");
        }
        if let Some((hierarchy, dir)) = self.home("memory") {
            let (current, prefix, anonymous) = match hierarchy.version {
                Version::V1 => ("memory.usage_in_bytes", "total_", "total_rss"),
                Version::V2 => ("memory.current", "", "anon"),
            };
            let current = number(dir.join(current))?;
            let text = read(&dir.join("memory.stat"))?;
            let of = |name: &str| keyed(&text, &format!("{prefix}{name}"));
            let inactive = of("inactive_file").unwrap_or(0);
            stats.memory_anonymous = keyed(&text, anonymous);
            stats.page_faults = of("pgfault").zip(of("pgmajfault"));
            stats.memory_current = Some(current);
            stats.memory_working_set = Some(current.saturating_sub(inactive));
        }
        if let Some((_, dir)) = self.home("pids") {
            stats.pids = Some(number(dir.join("pids.current"))?);
        }
        Ok(stats)
    }
}
