//! What the host has to give: CPUs, memory, swap, huge pages.

use crate::sys::{Called, SysResult};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HugePages {
    /// Bytes of a page.
    pub page_size: u64,
    /// How many of them the host has set aside, used or not.
    pub count: u64,
}

/// `MemTotal` and `SwapTotal` of /proc/meminfo, in bytes.
pub(super) fn memory() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").called("read", "/proc/meminfo")?;
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok::<_, anyhow::Error>(kibibytes.with_context(|| format!("/proc/meminfo has no {key}"))? * 1024)
    };
    // A kernel without swap has no such line.
    Ok((bytes("MemTotal")?, bytes("SwapTotal").unwrap_or(0)))
}

/// How many CPUs are online, whatever the caller itself may use of them.
pub(super) fn cpus() -> Result<u32> {
    const PATH: &str = "/sys/devices/system/cpu/online";
    let text = std::fs::read_to_string(PATH).called("read", PATH)?;
    count(text.trim()).with_context(|| format!("{PATH} holds {text:?}"))
}

/// The members of a list such as `0-3,7`.
fn count(list: &str) -> Option<u32> {
    list.split(',').try_fold(0u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// The sizes that the kernel has, smallest first.
pub(super) fn huge_pages() -> SysResult<Vec<HugePages>> {
    let directory = Path::new("/sys/kernel/mm/hugepages");
    let mut found = Vec::new();
    // A kernel without huge pages has no such directory.
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size =
            name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")).and_then(|n| n.parse::<u64>().ok());
        let Some(kibibytes) = size else { continue };
        let path = entry.path().join("nr_hugepages");
        let text = std::fs::read_to_string(&path).called("read", path.display())?;
        let count = text.trim().parse().unwrap_or(0);
        found.push(HugePages { page_size: kibibytes.saturating_mul(1024), count });
    }
    found.sort_by_key(|pages| pages.page_size);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        for (list, expected) in
            [("0", Some(1)), ("0-3", Some(4)), ("0-1,4,6-7", Some(5)), ("", None), ("3-1", None), ("x", None)]
        {
            assert_eq!(count(list), expected, "{list}");
        }
    }

    #[test]
    fn this_host_has_something() {
        assert!(memory().unwrap().0 > 16 << 20 && cpus().unwrap() > 0);
        assert!(huge_pages().unwrap().is_sorted_by_key(|pages| pages.page_size));
    }
}
