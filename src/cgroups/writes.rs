//! Resources as a list of file writes: pure, for v1, v2 and both.

use super::devices::DeviceList;
use crate::host::cgroup::{CgroupSetup, Hierarchy, Version};
use anyhow::{Context, bail, ensure};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources};
use std::fmt::Display;

/// One write to a file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWrite {
    /// The controller (as [`Hierarchy::controllers`] names it) that tells the hierarchy; `cgroup` for the core of v2.
    pub controller: String,
    /// The file in the cgroup's directory.
    pub file: String,
    /// The value, without a newline.
    pub value: String,
    /// What if this kernel has no such file.
    pub need: Need,
}

/// What to do about a file that the kernel does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// It is an error.
    Required,
    /// Nothing: without the file there is nothing to limit.
    IfPresent,
    /// This write takes its place.
    Else(Box<FileWrite>),
}

/// `cpu.shares` (v1) as `cpu.weight` (v2), by the formula of 2025 (runc 1.3.2, crun 1.23): 2 → 1, 1024 → 100,
/// 262144 → 10000, on a curve between them. 0 means unset.
pub fn cpu_weight(shares: u64) -> Option<u64> {
    match shares {
        0 => None,
        1..=2 => Some(1),
        262_144.. => Some(10_000),
        _ => {
            let l = (shares as f64).log2();
            let weight = 10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0);
            // 1024 must give 100, not 101, whatever the last bit of this libm's powf is.
            Some((weight - 1e-9).ceil() as u64)
        }
    }
}

/// `blkio.weight` (v1, 10 to 1000) as `io.weight` (v2, 1 to 10000), linear as in runc and crun.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.clamp(10, 1000) - 10) * 9999 / 990
}

/// What to write so that `resources` hold in a new cgroup, in the order of writing. Device rules become writes in v1; in v2
/// they are no files but a program, see [`device_program`](super::device_program).
///
/// # Errors
/// If a resource has no controller on this host (names both), cannot be expressed in its version, or is malformed.
/// Nothing is left out in silence.
pub fn writes(setup: &CgroupSetup, resources: &LinuxResources) -> anyhow::Result<Vec<FileWrite>> {
    let mut out = Out { setup, writes: Vec::new() };
    ensure!(resources.network().is_none(), "cgroup resources: network (net_cls, net_prio) is not supported");
    ensure!(resources.rdma().as_ref().is_none_or(|r| r.is_empty()), "cgroup resources: rdma is not supported");
    if let Some(cpu) = resources.cpu() {
        out.cpu(cpu)?;
        out.cpuset(cpu)?;
    }
    if let Some(memory) = resources.memory() {
        out.memory(memory)?;
    }
    if let Some(pids) = resources.pids() {
        out.pids(*pids)?;
    }
    if let Some(block_io) = resources.block_io() {
        out.block_io(block_io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        out.hugepages(limit)?;
    }
    if let Some(rules) = resources.devices().as_ref().filter(|r| !r.is_empty()) {
        match setup.with_controller("devices") {
            Some(_) => DeviceList::read(rules)?
                .writes()
                .into_iter()
                .for_each(|(file, value)| out.push(file, value, Need::Required)),
            None if setup.unified().is_some() => drop(super::device_program(rules)?),
            None => bail!("device rules cannot be applied: {}", no_controller(setup, "devices")),
        }
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        out.unified(file, value)?;
    }
    Ok(out.writes)
}

/// Says which controller is missing and where it was looked for.
fn no_controller(setup: &CgroupSetup, controller: &str) -> String {
    let known: Vec<String> = setup.hierarchies.iter().map(describe).collect();
    format!("no cgroup hierarchy has the controller {controller} (mounted: {})", known.join("; "))
}

/// A hierarchy for messages: `unified at /sys/fs/cgroup with cpu, memory`.
pub(super) fn describe(hierarchy: &Hierarchy) -> String {
    let with = if hierarchy.version == Version::V2 {
        format!(
            " with {}",
            if hierarchy.controllers.is_empty() { "none".to_owned() } else { hierarchy.controllers.join(", ") }
        )
    } else {
        String::new()
    };
    format!("{} at {}{with}", hierarchy.label(), hierarchy.mount.display())
}

/// `max` or a number, as v2 files take it: negative means no limit.
fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// -1 or a number, as v1 files take it.
fn or_minus_one(value: i64) -> String {
    value.max(-1).to_string()
}

/// Every file is named after its controller.
fn file_write(file: &str, value: impl Display, need: Need) -> FileWrite {
    let controller = file.split_once('.').map_or(file, |(controller, _)| controller);
    FileWrite { controller: controller.to_owned(), file: file.to_owned(), value: value.to_string(), need }
}

/// The list under construction.
struct Out<'a> {
    setup: &'a CgroupSetup,
    writes: Vec<FileWrite>,
}

impl Out<'_> {
    fn push(&mut self, file: &str, value: impl Display, need: Need) {
        self.writes.push(file_write(file, value, need));
    }

    /// The version of the hierarchy that has the controller.
    fn version(&self, controller: &str, what: &str) -> anyhow::Result<Version> {
        // The one controller that changed its name.
        let found = self
            .setup
            .with_controller(controller)
            .or_else(|| self.setup.with_controller("io").filter(|_| controller == "blkio"));
        let found =
            found.with_context(|| format!("{what} cannot be applied: {}", no_controller(self.setup, controller)))?;
        Ok(found.version)
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> anyhow::Result<()> {
        let shares = cpu.shares().filter(|s| *s != 0);
        let realtime = cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some();
        let any = shares.is_some() || cpu.quota().is_some() || cpu.period().is_some();
        if !(any || realtime || cpu.burst().is_some() || cpu.idle().is_some()) {
            return Ok(());
        }
        match self.version("cpu", "cpu limits")? {
            Version::V1 => {
                if let Some(shares) = shares {
                    self.push("cpu.shares", shares.clamp(2, 262_144), Need::Required);
                }
                // The period first: a quota is checked against it.
                for (file, value) in [
                    ("cpu.rt_period_us", cpu.realtime_period().map(|v| v.to_string())),
                    ("cpu.rt_runtime_us", cpu.realtime_runtime().map(|v| v.to_string())),
                    ("cpu.cfs_period_us", cpu.period().filter(|p| *p != 0).map(|v| v.to_string())),
                    ("cpu.cfs_quota_us", cpu.quota().filter(|q| *q != 0).map(or_minus_one)),
                    ("cpu.cfs_burst_us", cpu.burst().map(|v| v.to_string())),
                ] {
                    if let Some(value) = value {
                        self.push(file, value, Need::Required);
                    }
                }
            }
            Version::V2 => {
                ensure!(!realtime, "realtime cpu limits cannot be applied: cgroup v2 has none");
                if let Some(weight) = shares.and_then(cpu_weight) {
                    self.push("cpu.weight", weight, Need::Required);
                }
                let (quota, period) = (cpu.quota().filter(|q| *q != 0), cpu.period().filter(|p| *p != 0));
                if quota.is_some() || period.is_some() {
                    let value = format!("{} {}", or_max(quota.unwrap_or(-1)), period.unwrap_or(100_000));
                    self.push("cpu.max", value, Need::Required);
                }
                if let Some(burst) = cpu.burst() {
                    self.push("cpu.max.burst", burst, Need::Required);
                }
            }
        }
        if let Some(idle) = cpu.idle() {
            self.push("cpu.idle", idle, Need::Required);
        }
        Ok(())
    }

    fn cpuset(&mut self, cpu: &LinuxCpu) -> anyhow::Result<()> {
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
                self.version("cpuset", file)?;
                let known = value.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-');
                ensure!(known, "{file}: {value:?} is not a list such as 0-3,7");
                self.push(file, value, Need::Required);
            }
        }
        Ok(())
    }

    #[allow(deprecated)] // `kernel` is asked for only to refuse it
    fn memory(&mut self, memory: &LinuxMemory) -> anyhow::Result<()> {
        let limit = memory.limit().filter(|l| *l != 0);
        let swap = memory.swap().filter(|s| *s != 0);
        ensure!(memory.kernel().is_none(), "a kernel memory limit cannot be applied: Linux 5.4 did away with it");
        let bounded = limit.filter(|l| *l > 0);
        if let Some(swap) = swap.filter(|s| *s > 0) {
            let limit = bounded.context("a limit of memory and swap needs a memory limit")?;
            ensure!(swap >= limit, "the limit of memory and swap ({swap}) is below that of memory ({limit})");
        }
        let version = || self.version("memory", "memory limits");
        let any = limit.is_some() || swap.is_some() || memory.reservation().is_some();
        let v1_only = memory.swappiness().is_some() || memory.kernel_tcp().is_some();
        let oom_off = memory.disable_oom_killer().unwrap_or(false);
        if !(any || v1_only || oom_off) {
            return Ok(());
        }
        // A limit of memory alone would only move the excess to swap, so swap is closed unless it is given. Kernels
        // without swap accounting lack the file; then only an explicit amount of swap is a promise that would be broken.
        let swap_need =
            || if swap.is_some_and(|s| s > 0 && Some(s) != bounded) { Need::Required } else { Need::IfPresent };
        match version()? {
            Version::V1 => {
                if let Some(limit) = limit {
                    self.push("memory.limit_in_bytes", or_minus_one(limit), Need::Required);
                }
                if let Some(both) = swap.or(limit) {
                    self.push("memory.memsw.limit_in_bytes", or_minus_one(both), swap_need());
                }
                if let Some(value) = memory.reservation() {
                    self.push("memory.soft_limit_in_bytes", or_minus_one(value), Need::Required);
                }
                if let Some(value) = memory.kernel_tcp() {
                    self.push("memory.kmem.tcp.limit_in_bytes", or_minus_one(value), Need::Required);
                }
                if let Some(value) = memory.swappiness() {
                    self.push("memory.swappiness", value, Need::Required);
                }
                if oom_off {
                    self.push("memory.oom_control", 1, Need::Required);
                }
            }
            Version::V2 => {
                ensure!(!v1_only, "memory swappiness and kernelTCP cannot be applied: cgroup v2 has neither");
                ensure!(!oom_off, "disableOOMKiller cannot be applied: cgroup v2 has no such switch");
                if let Some(limit) = limit {
                    self.push("memory.max", or_max(limit), Need::Required);
                }
                let swap_max = match (swap, bounded) {
                    // OCI's limit is of memory and swap together, v2's of swap alone.
                    (Some(both), Some(limit)) if both > 0 => Some(both - limit),
                    (Some(_), _) => Some(-1),
                    (None, Some(_)) => Some(0),
                    (None, None) => None,
                };
                if let Some(value) = swap_max {
                    self.push("memory.swap.max", or_max(value), swap_need());
                }
                if let Some(value) = memory.reservation() {
                    self.push("memory.low", or_max(value), Need::Required);
                }
            }
        }
        Ok(())
    }

    fn pids(&mut self, pids: LinuxPids) -> anyhow::Result<()> {
        self.version("pids", "a pids limit")?;
        let value = if pids.limit() <= 0 { "max".to_owned() } else { pids.limit().to_string() };
        self.push("pids.max", value, Need::Required);
        Ok(())
    }

    fn hugepages(&mut self, limit: &LinuxHugepageLimit) -> anyhow::Result<()> {
        let size = limit.page_size();
        let digits = size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB")).unwrap_or("");
        let well_formed = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        ensure!(well_formed, "hugepage limit: page size {size:?} is not a number and KB, MB or GB");
        // Reservation limits (Linux 5.7) stop a program at mmap instead of by SIGBUS at first touch.
        let (file, reserved, value) = match self.version("hugetlb", "a hugepage limit")? {
            Version::V1 => ("limit_in_bytes", "rsvd.limit_in_bytes", or_minus_one(limit.limit())),
            Version::V2 => ("max", "rsvd.max", or_max(limit.limit())),
        };
        self.push(&format!("hugetlb.{size}.{file}"), &value, Need::Required);
        self.push(&format!("hugetlb.{size}.{reserved}"), &value, Need::IfPresent);
        Ok(())
    }

    fn block_io(&mut self, io: &LinuxBlockIo) -> anyhow::Result<()> {
        if *io == LinuxBlockIo::default() {
            return Ok(());
        }
        let version = self.version("blkio", "block I/O limits")?;
        ensure!(io.leaf_weight().is_none(), "blockIO leafWeight cannot be applied: Linux 5.0 did away with it");
        if let Some(weight) = io.weight() {
            ensure!((10..=1000).contains(&weight), "blockIO weight {weight} is not between 10 and 1000");
            self.weight(version, "", weight);
        }
        for device in io.weight_device().iter().flatten() {
            let number = format!("{}:{}", device.major(), device.minor());
            ensure!(
                device.leaf_weight().is_none(),
                "blockIO leafWeight of {number} cannot be applied: Linux 5.0 did away with it"
            );
            let weight = device.weight().with_context(|| format!("blockIO weightDevice {number} has no weight"))?;
            ensure!((10..=1000).contains(&weight), "blockIO weight {weight} of {number} is not between 10 and 1000");
            self.weight(version, &format!("{number} "), weight);
        }
        for (devices, v1, v2) in [
            (io.throttle_read_bps_device(), "read_bps_device", "rbps"),
            (io.throttle_write_bps_device(), "write_bps_device", "wbps"),
            (io.throttle_read_iops_device(), "read_iops_device", "riops"),
            (io.throttle_write_iops_device(), "write_iops_device", "wiops"),
        ] {
            for device in devices.iter().flatten() {
                let (number, rate) = (format!("{}:{}", device.major(), device.minor()), device.rate());
                match version {
                    Version::V1 => {
                        self.push(&format!("blkio.throttle.{v1}"), format!("{number} {rate}"), Need::Required);
                    }
                    Version::V2 => self.push("io.max", format!("{number} {v2}={rate}"), Need::Required),
                }
            }
        }
        Ok(())
    }

    /// A weight for the scheduler that this kernel has: BFQ keeps v1's numbers.
    fn weight(&mut self, version: Version, device: &str, weight: u16) {
        let suffix = if device.is_empty() { "" } else { "_device" };
        let bfq = format!("{device}{weight}");
        let (file, instead) = match version {
            Version::V1 => {
                let cfq = file_write(&format!("blkio.weight{suffix}"), &bfq, Need::Required);
                (format!("blkio.bfq.weight{suffix}"), cfq)
            }
            Version::V2 => {
                let cost = format!("{device}{}", io_weight(weight));
                ("io.bfq.weight".to_owned(), file_write("io.weight", cost, Need::Required))
            }
        };
        self.push(&file, bfq, Need::Else(Box::new(instead)));
    }

    fn unified(&mut self, file: &str, value: &str) -> anyhow::Result<()> {
        let well_formed = file.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_' || b == b'-');
        let controller = file.split_once('.').filter(|(c, rest)| well_formed && !c.is_empty() && !rest.is_empty());
        let (controller, _) = controller.with_context(|| format!("unified: {file:?} is not a cgroup file's name"))?;
        if controller == "cgroup" {
            // The others (cgroup.procs, cgroup.kill, …) act on processes; they are no resources.
            let limit = matches!(file, "cgroup.max.depth" | "cgroup.max.descendants");
            ensure!(limit, "unified: {file} is not a resource");
            ensure!(self.setup.unified().is_some(), "unified: {file} cannot be applied: no v2 hierarchy is mounted");
        } else {
            let version = self.version(controller, &format!("unified: {file}"))?;
            let v2 = version == Version::V2;
            ensure!(v2, "unified: {file} cannot be applied: the controller {controller} is in use by cgroup v1");
        }
        // Nested-keyed files such as io.max take one line for each write.
        for line in value.lines().filter(|l| !l.is_empty()) {
            // A kernel without swap accounting keeps the promise of no swap as little as one with it breaks it.
            let is_no_swap = (file, line) == ("memory.swap.max", "0");
            self.push(file, line, if is_no_swap { Need::IfPresent } else { Need::Required });
        }
        Ok(())
    }
}

/// Whether what a file shows after a write is what was written, as the kernel rounds and words it. What cannot be compared
/// (a number with a unit) counts as read back.
pub(super) fn reads_back(write: &FileWrite, shown: &str) -> bool {
    let (value, shown) = (write.value.trim(), shown.trim());
    if value == shown || value.starts_with('-') {
        // v1 shows "no limit" as the largest number of pages.
        return true;
    }
    if matches!(write.file.as_str(), "cpuset.cpus" | "cpuset.mems") {
        return members(value).is_some_and(|wanted| members(shown) == Some(wanted));
    }
    if let Ok(wanted) = value.parse::<u64>() {
        // Sizes are kept in pages, rounded down.
        let granule = if write.file.starts_with("hugetlb") { 1 << 30 } else { 1 << 16 };
        return match shown.parse::<u64>() {
            Ok(held) => held <= wanted && (held == wanted || (wanted - held < granule && wanted >= 4096)),
            Err(_) if shown == "max" => wanted >= 1 << 60,
            Err(_) => has_words(value, shown),
        };
    }
    let plain = |word: &str| word == "max" || word.contains([':', '=']) || word.bytes().all(|b| b.is_ascii_digit());
    !value.split_whitespace().all(plain) || has_words(value, shown)
}

/// Whether one line of `shown` has all words of `value`.
fn has_words(value: &str, shown: &str) -> bool {
    shown.lines().any(|line| value.split_whitespace().all(|word| line.split_whitespace().any(|w| w == word)))
}

/// The numbers of a list such as `0-3,7`; None if it is malformed or longer than any machine.
fn members(list: &str) -> Option<std::collections::BTreeSet<u32>> {
    let mut members = std::collections::BTreeSet::new();
    for range in list.split(',').filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last > 65_536 {
            return None;
        }
        members.extend(first..=last);
    }
    Some(members)
}

#[cfg(test)]
#[path = "writes_tests.rs"]
mod tests;
