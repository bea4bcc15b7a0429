//! Asks the kernel once and answers with plain facts.

pub mod cgroup;

use crate::sys::{Called, process};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What plans depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `uname -r`
    pub kernel: String,
    /// `uname -m`
    pub architecture: String,
    /// `uname -n`
    pub name: String,
    /// Processors that are online.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Capabilities that a container can have at most, bit n for capability n: the caller's bounding set.
    pub capabilities: u64,
    /// `/sys/devices/system/cpu/cpu<n>/thermal_throttle` of each CPU that has it.
    pub thermal_throttle: Vec<String>,
    /// Cgroup hierarchies.
    pub cgroups: cgroup::CgroupSetup,
}

/// Asks.
pub fn probe() -> Result<HostFacts> {
    let names = nix::sys::utsname::uname().called("uname", "")?;
    Ok(HostFacts {
        kernel: names.release().to_string_lossy().into_owned(),
        architecture: names.machine().to_string_lossy().into_owned(),
        name: names.nodename().to_string_lossy().into_owned(),
        cpus: cpus()?,
        memory: memory()?,
        capabilities: process::bounding_capabilities(),
        thermal_throttle: thermal_throttle(),
        cgroups: cgroup::detect()?,
    })
}

/// The size of the file system that a path is on, in bytes.
pub fn storage(path: &Path) -> Result<u64> {
    let status = nix::sys::statvfs::statvfs(path).called("statvfs", path.display())?;
    Ok(status.blocks().saturating_mul(status.fragment_size()))
}

fn cpus() -> Result<u32> {
    let path = "/sys/devices/system/cpu/online";
    let text = std::fs::read_to_string(path).called("read", path)?;
    count(text.trim()).with_context(|| format!("{path} has {text:?}"))
}

/// How many are in a list like `0-3,6` (cpuset(7), list format).
fn count(list: &str) -> Option<u32> {
    let mut total = 0u32;
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        total = total.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(total)
}

fn memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").called("read", "/proc/meminfo")?;
    let kibibytes =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.context("/proc/meminfo has no MemTotal")? * 1024)
}

fn thermal_throttle() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let mut paths: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("cpu"))
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .filter_map(|path| path.to_str().map(str::to_owned))
        .collect();
    paths.sort();
    paths
}

/// A file that the kernel bumps at each boot, so that run state of before a reboot is told apart.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(path).called("read", path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        for (list, expected) in [("0", Some(1)), ("0-3,6", Some(5)), ("", None), ("3-1", None), ("0-4294967295", None)]
        {
            assert_eq!(count(list), expected, "{list}");
        }
    }
}
