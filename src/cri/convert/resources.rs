//! `LinuxContainerResources`.

use super::fields::{At, short};
use super::{ContainerContext, look};
use crate::cgroups;
use crate::cri::api;
use crate::manifest::rules;
use crate::plan::config::{LinuxContainerResources, Unnamed};
use crate::plan::spec;
use anyhow::Result;
use std::collections::BTreeMap;

/// What the kernel takes for a period, in microseconds (Documentation/scheduler/sched-bwc.rst).
const PERIODS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// The least time per period, likewise.
const MIN_QUOTA: i64 = 1_000;
/// The most CPU shares (MAX_SHARES of kernel/sched/sched.h).
const MAX_SHARES: i64 = 262_144;
/// The highest number in a list of CPUs or memory nodes that any machine could have.
const MAX_MEMBER: u32 = 65_535;
/// Files of cgroup v2 in one request; the kernel has fewer.
const MAX_UNIFIED: usize = 128;

/// What a container may use. What is not named is not limited; `path` is the field's.
///
/// # Errors
/// Of kind `Invalid`: a number that the kernel would not take, a malformed list.
pub fn resources(given: &api::LinuxContainerResources, path: &str) -> Result<LinuxContainerResources> {
    of(given, &At::of(path))
}

pub(super) fn of(given: &api::LinuxContainerResources, at: &At) -> Result<LinuxContainerResources> {
    let memory_limit = memory_limit(given.memory_limit_in_bytes, &at.field("memory_limit_in_bytes"))?;
    let at_score = at.field("oom_score_adj");
    Ok(LinuxContainerResources {
        cpu_shares: shares(given.cpu_shares, &at.field("cpu_shares"))?,
        cpu_quota: quota(given.cpu_quota, &at.field("cpu_quota"))?,
        cpu_period: period(given.cpu_period, &at.field("cpu_period"))?,
        memory_limit,
        memory_request: None,
        swap: swap(given.memory_swap_limit_in_bytes, memory_limit, &at.field("memory_swap_limit_in_bytes"))?,
        hugepages: hugepages(&given.hugepage_limits, &at.field("hugepage_limits"))?,
        pids_limit: None,
        oom_score_adj: match i32::try_from(given.oom_score_adj) {
            Ok(score) if (-1000..=1000).contains(&score) => score,
            _ => return at_score.refuse(format!("{} is not from -1000 to 1000", given.oom_score_adj)),
        },
        cpuset_cpus: members(&given.cpuset_cpus, &at.field("cpuset_cpus"))?,
        cpuset_mems: members(&given.cpuset_mems, &at.field("cpuset_mems"))?,
        unified: unified(given, &at.field("unified"))?,
        unnamed: Unnamed::Unlimited,
    })
}

fn shares(shares: i64, at: &At) -> Result<Option<u64>> {
    match shares {
        0 => Ok(None),
        // The kernel makes 2 of 1.
        1..=MAX_SHARES => Ok(Some(shares.max(2) as u64)),
        _ => at.refuse(format!("{shares} is not from 0 to {MAX_SHARES}")),
    }
}

fn quota(quota: i64, at: &At) -> Result<Option<i64>> {
    match quota {
        0 => Ok(None),
        -1 | MIN_QUOTA.. => Ok(Some(quota)),
        _ => at.refuse(format!("{quota} µs is less than {MIN_QUOTA}, and not -1 for no limit")),
    }
}

fn period(period: i64, at: &At) -> Result<Option<u64>> {
    match period {
        0 => Ok(None),
        _ if PERIODS.contains(&period) => Ok(u64::try_from(period).ok()),
        _ => at.refuse(format!("{period} µs is not from {} to {}", PERIODS.start(), PERIODS.end())),
    }
}

fn memory_limit(bytes: i64, at: &At) -> Result<Option<i64>> {
    match bytes {
        0 => Ok(None),
        -1 | 1.. => Ok(Some(bytes)),
        _ => at.refuse(format!("{bytes} bytes, and not -1 for no limit")),
    }
}

/// Swap beside the memory: the API's number is of both together. Without one, what has a limit of memory has no swap.
fn swap(both: i64, memory: Option<i64>, at: &At) -> Result<i64> {
    match (both, memory.filter(|limit| *limit > 0)) {
        (-1, _) | (0, None) => Ok(-1),
        (0, Some(_)) => Ok(0),
        (1.., Some(memory)) if both >= memory => Ok(both - memory),
        (1.., Some(memory)) => {
            at.refuse(format!("{both} bytes of memory and swap are less than the {memory} of memory"))
        }
        (1.., None) => at.refuse("swap can be limited only together with memory"),
        _ => at.refuse(format!("{both} bytes, and not -1 for no limit")),
    }
}

fn hugepages(list: &[api::HugepageLimit], at: &At) -> Result<BTreeMap<u64, i64>> {
    let mut limits = BTreeMap::new();
    at.at_most(list.len(), 64)?;
    for (index, limit) in list.iter().enumerate() {
        let at = at.index(index);
        let size = at.field("page_size");
        let Some(bytes) = page_size(&limit.page_size) else {
            return size.refuse(format!("{} is no size of pages such as 2MB or 1GB", short(&limit.page_size)));
        };
        let most = i64::try_from(limit.limit);
        let most = most.or_else(|_| at.field("limit").refuse(format!("{} bytes are too many", limit.limit)))?;
        if limits.insert(bytes, most).is_some() {
            return size.refuse(format!("{} comes twice", limit.page_size));
        }
    }
    Ok(limits)
}

/// `2MB` as the kernel writes it: a power of two.
fn page_size(text: &str) -> Option<u64> {
    let units = [("KB", 10), ("MB", 20), ("GB", 30)];
    let (digits, shift) = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    let is_number = !digits.is_empty() && digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_digit());
    let bytes = digits.parse::<u64>().ok().filter(|_| is_number)? << shift;
    bytes.is_power_of_two().then_some(bytes)
}

/// A list as cpuset(7) has it: `0-3,7`.
fn members(list: &str, at: &At) -> Result<String> {
    if list.len() > 4096 {
        return at.refuse(format!("it has {} bytes, at most 4096 can be written", list.len()));
    }
    let number = |text: &str| {
        let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u32>().ok().filter(|number| is_plain && *number <= MAX_MEMBER)
    };
    let is_range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
    };
    if list.is_empty() || list.split(',').all(is_range) {
        return Ok(list.to_owned());
    }
    at.refuse(format!("{} is no list of numbers such as 0-3,7 (cpuset(7))", short(list)))
}

/// Files of cgroup v2, which are written after what the other fields say.
fn unified(given: &api::LinuxContainerResources, at: &At) -> Result<BTreeMap<String, String>> {
    at.at_most(given.unified.len(), MAX_UNIFIED)?;
    for (file, value) in &given.unified {
        let at = at.key(file);
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let is_name = file.len() <= 255 && file.bytes().all(is_plain) && file.split('.').all(|part| !part.is_empty());
        if !is_name || !file.contains('.') {
            return at.refuse("it is no file of a cgroup");
        }
        if file.starts_with("cgroup.") && !matches!(file.as_str(), "cgroup.max.depth" | "cgroup.max.descendants") {
            return at.refuse("it is no resource");
        }
        // Nested-keyed files such as io.max take a line for each device.
        let lines = value.lines().map(rules::one_line);
        at.check(lines.collect::<Result<(), String>>())?;
        if value.trim().is_empty() || value.len() > 64 << 10 {
            return at.refuse("it is empty, or longer than 64 KiB");
        }
    }
    Ok(given.unified.clone().into_iter().collect())
}

/// A number that this host cannot limit is refused.
pub(super) fn check_host(wanted: &LinuxContainerResources, context: &ContainerContext, at: &At) -> Result<()> {
    let writes =
        spec::adjustable(wanted, &context.numbers).and_then(|resources| cgroups::writes(&context.cgroups, &resources));
    at.wrap(writes)?;
    let has_limit = |size: &u64| context.numbers.page_sizes.contains(size);
    match wanted.hugepages.iter().find(|(size, limit)| **limit != 0 && !has_limit(size)) {
        Some((size, _)) => at.field("hugepage_limits").refuse(format!("no cgroup here limits pages of {size} bytes")),
        None => Ok(()),
    }
}

/// Whether this host can limit what UpdateContainerResources comes to: `given` is what it names.
///
/// # Errors
/// As [`resources`].
pub fn check_update(
    given: &api::LinuxContainerResources,
    wanted: &LinuxContainerResources,
    context: &ContainerContext,
) -> Result<()> {
    let at = At::of("linux");
    check_host(wanted, context, &at)?;
    look::members([&given.cpuset_cpus, &given.cpuset_mems], &context.cgroups, &at)
}

/// A container's resources after UpdateContainerResources: what is not named stays as it is. So does `oom_score_adj`, as with
/// every runtime: a process that runs keeps its own, though a kubelet sends what a new container would have.
///
/// # Errors
/// As [`resources`].
pub fn updated(old: &LinuxContainerResources, given: &api::LinuxContainerResources) -> Result<LinuxContainerResources> {
    let at = At::of("linux");
    // Swap without memory is beside the memory that there is.
    let memory = match (given.memory_limit_in_bytes, given.memory_swap_limit_in_bytes) {
        (0, 1..) => old.memory_limit.unwrap_or(0),
        (memory, _) => memory,
    };
    let new = of(&api::LinuxContainerResources { memory_limit_in_bytes: memory, ..given.clone() }, &at)?;
    let names_swap = given.memory_limit_in_bytes != 0 || given.memory_swap_limit_in_bytes != 0;
    let list = |new: String, old: &String| if new.is_empty() { old.clone() } else { new };
    let mut hugepages = old.hugepages.clone();
    hugepages.extend(new.hugepages);
    let mut unified = old.unified.clone();
    unified.extend(new.unified);
    Ok(LinuxContainerResources {
        cpu_shares: new.cpu_shares.or(old.cpu_shares),
        cpu_quota: new.cpu_quota.or(old.cpu_quota),
        cpu_period: new.cpu_period.or(old.cpu_period),
        memory_limit: new.memory_limit.or(old.memory_limit),
        swap: if names_swap { new.swap } else { old.swap },
        hugepages,
        cpuset_cpus: list(new.cpuset_cpus, &old.cpuset_cpus),
        cpuset_mems: list(new.cpuset_mems, &old.cpuset_mems),
        unified,
        unnamed: new.unnamed,
        ..old.clone()
    })
}
