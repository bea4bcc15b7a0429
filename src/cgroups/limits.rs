//! What a cgroup may use, read back from the kernel.

use super::{Cgroup, read};
use crate::host::cgroup::Version;
use crate::sys::SysResult;
use nix::errno::Errno;
use std::path::PathBuf;

/// A limit as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limit {
    /// The most that may be used; `None` without a limit.
    pub value: Option<u64>,
    /// The files that say so, and what is in them.
    pub files: Vec<(PathBuf, String)>,
}

/// The limits of one cgroup; empty where a controller is missing. Those of cgroups above hold besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a CPU: v2 `cpu.max`, v1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    pub cpu: Limit,
    /// Bytes: v2 `memory.max`, v1 `memory.limit_in_bytes`.
    pub memory: Limit,
    /// Processes and threads: `pids.max`.
    pub pids: Limit,
}

impl Cgroup {
    /// What it may use now.
    ///
    /// # Errors
    /// If a file of a cgroup that exists cannot be read; one that does not exist has no limits.
    pub fn limits(&self) -> SysResult<Limits> {
        let of = |controller: &str, v1: &[&str], v2: &[&str]| -> SysResult<Limit> {
            let Some((hierarchy, dir)) = self.home(controller) else { return Ok(Limit::default()) };
            let names = if hierarchy.version == Version::V1 { v1 } else { v2 };
            let mut files = Vec::new();
            for path in names.iter().map(|name| dir.join(name)) {
                match read(&path) {
                    Ok(text) => files.push((path, text.trim().to_owned())),
                    Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENODEV) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(Limit { value: None, files })
        };
        let mut limits = Limits {
            cpu: of("cpu", &["cpu.cfs_quota_us", "cpu.cfs_period_us"], &["cpu.max"])?,
            memory: of("memory", &["memory.limit_in_bytes"], &["memory.max"])?,
            pids: of("pids", &["pids.max"], &["pids.max"])?,
        };
        limits.cpu.value = cpu(&limits.cpu.files);
        limits.memory.value = number(&limits.memory.files).filter(|bytes| *bytes < V1_UNLIMITED);
        limits.pids.value = number(&limits.pids.files);
        Ok(limits)
    }
}

/// v1 says "no limit" as the largest number of pages that fits (`PAGE_COUNTER_MAX`): with pages of 64 KiB still more than this.
const V1_UNLIMITED: u64 = 1 << 62;

fn number(files: &[(PathBuf, String)]) -> Option<u64> {
    files.first()?.1.parse().ok()
}

/// `QUOTA PERIOD` in one file or in two; `max` or -1 is no limit.
fn cpu(files: &[(PathBuf, String)]) -> Option<u64> {
    let mut words = files.iter().flat_map(|(_, text)| text.split_whitespace());
    let (quota, period): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    quota.saturating_mul(1000).checked_div(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas() {
        let files = |texts: &[&str]| texts.iter().map(|t| (PathBuf::new(), (*t).to_owned())).collect::<Vec<_>>();
        for (name, texts, expected) in [
            ("v2", &["50000 100000"][..], Some(500)),
            ("v2 without a limit", &["max 100000"], None),
            ("v1", &["150000", "100000"], Some(1500)),
            ("v1 without a limit", &["-1", "100000"], None),
            ("a period of nothing", &["1", "0"], None),
            ("no controller", &[], None),
        ] {
            assert_eq!(cpu(&files(texts)), expected, "{name}");
        }
        assert_eq!(number(&files(&["max"])), None);
        assert_eq!(number(&files(&["67108864"])), Some(64 << 20));
    }
}
