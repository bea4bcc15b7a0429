//! Everything that the kernel counts of a cgroup, and what it was told of limits: what metrics are made from.
//!
//! A figure that the host's kernel or hierarchies do not have is `None`, or is not in its list. Files of v2 are described in
//! `cgroup-v2.rst`, those of v1 in `cgroup-v1/memory.rst`, `cgroup-v1/blkio-controller.rst`, `cgroup-v1/hugetlb.rst`.

use super::{Cgroup, keyed, read};
use crate::host::cgroup::Version;
use crate::sys::{Called, SysResult};
use anyhow::Context;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::Path;

/// What a cgroup, with those below it, has used since it was made, and uses now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// CPU time.
    pub cpu: Option<CpuTime>,
    /// How often and how long its quota held it up; zeros without a quota.
    pub throttling: Option<Throttling>,
    /// Memory.
    pub memory: Option<Memory>,
    /// By device.
    pub io: BTreeMap<Device, Io>,
    /// Bytes by the size of a page in the kernel's words (`2MB`).
    pub huge_pages: BTreeMap<String, HugePages>,
    /// Processes and threads now, `pids.current`.
    pub threads: Option<u64>,
    /// Processes and threads at most; `None` without a limit.
    pub max_threads: Option<u64>,
    /// How long its processes waited for what they need.
    pub pressure: Pressures,
    /// What it may use.
    pub told: Told,
}

/// Nanoseconds of CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// All of it.
    pub total: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

/// What `cpu.stat` says of the quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that have passed with something to do.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled: u64,
    /// Nanoseconds that were waited.
    pub nanoseconds: u64,
}

/// Bytes of memory, and how often something happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use, page cache included.
    pub current: u64,
    /// The most that ever was (v2: Linux 5.19).
    pub peak: Option<u64>,
    /// Page cache.
    pub cache: u64,
    /// Of no file.
    pub anonymous: u64,
    /// Of files, mapped.
    pub mapped: u64,
    /// The part of the page cache that goes first.
    pub inactive_file: u64,
    /// The kernel's, for its processes (v2: Linux 5.18).
    pub kernel: Option<u64>,
    /// Swapped out, where swap is counted.
    pub swap: Option<u64>,
    /// How often the limit was met.
    pub limit_hits: u64,
    /// Page faults: of itself, and with those of cgroups below it (which v2 does not tell apart).
    pub faults: (u64, u64),
    /// Those of them that took reading from disk.
    pub major_faults: (u64, u64),
}

impl Memory {
    /// What is in use without what goes first, as a kubelet reports it.
    pub fn working_set(&self) -> u64 {
        self.current.saturating_sub(self.inactive_file)
    }
}

/// A block device's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// major(3)
    pub major: u32,
    /// minor(3)
    pub minor: u32,
}

/// What was asked of a block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Io {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes discarded.
    pub discarded_bytes: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
}

/// Bytes in huge pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Now.
    pub current: u64,
    /// The most that ever was; v2 does not count it.
    pub peak: Option<u64>,
}

/// Pressure stall information (`accounting/psi.rst`); only the unified hierarchy has it, where the kernel counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    /// For a CPU.
    pub cpu: Option<Pressure>,
    /// For memory.
    pub memory: Option<Pressure>,
    /// For a device.
    pub io: Option<Pressure>,
}

/// How long processes waited.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one of them.
    pub some: Stalled,
    /// All of them.
    pub full: Stalled,
}

/// A line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stalled {
    /// Microseconds since it was made.
    pub total: u64,
    /// Per cent of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
}

/// What the kernel was told; a number that means "no limit" is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Microseconds of CPU time in a period.
    pub cpu_quota: Option<u64>,
    /// The period in microseconds.
    pub cpu_period: Option<u64>,
    /// v1's `cpu.shares`.
    pub cpu_shares: Option<u64>,
    /// v2's `cpu.weight`.
    pub cpu_weight: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// v1: memory and swap together; v2: swap alone.
    pub swap_limit: Option<u64>,
    /// v1 `memory.soft_limit_in_bytes`, v2 `memory.min`.
    pub memory_reservation: Option<u64>,
}

/// v1 says "no limit" as the largest number of pages that fits (`PAGE_COUNTER_MAX`): with pages of 64 KiB still more than this.
const UNLIMITED: u64 = 1 << 62;

impl Cgroup {
    /// All that is counted of it.
    ///
    /// # Errors
    /// If a file that every kernel has cannot be read, as when the cgroup does not exist.
    pub fn counters(&self) -> anyhow::Result<Counters> {
        self.count().with_context(|| format!("measure cgroup {}", self.path()))
    }

    fn count(&self) -> anyhow::Result<Counters> {
        let (threads, max_threads) = match self.home("pids") {
            Some((_, dir)) => (Some(number(&dir.join("pids.current"))?), limit(&dir.join("pids.max"))?),
            None => (None, None),
        };
        Ok(Counters {
            cpu: self.cpu_time()?,
            throttling: self.throttling()?,
            memory: self.memory()?,
            io: self.io()?,
            huge_pages: self.huge_pages()?,
            threads,
            max_threads,
            pressure: self.pressures()?,
            told: self.told()?,
        })
    }

    fn cpu_time(&self) -> anyhow::Result<Option<CpuTime>> {
        if let Some((_, dir)) = self.home("cpuacct") {
            let [total, user, system] =
                ["cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys"].map(|name| number(&dir.join(name)));
            return Ok(Some(CpuTime { total: total?, user: user?, system: system? }));
        }
        let Some(dir) = self.unified() else { return Ok(None) };
        let text = read(&dir.join("cpu.stat"))?;
        let of = |key: &str| keyed(&text, key).map(|micros| micros.saturating_mul(1000));
        let (Some(total), Some(user), Some(system)) = (of("usage_usec"), of("user_usec"), of("system_usec")) else {
            return Ok(None);
        };
        Ok(Some(CpuTime { total, user, system }))
    }

    fn throttling(&self) -> anyhow::Result<Option<Throttling>> {
        let Some((hierarchy, dir)) = self.home("cpu") else { return Ok(None) };
        let text = read(&dir.join("cpu.stat"))?;
        let nanoseconds = match hierarchy.version {
            Version::V1 => keyed(&text, "throttled_time"),
            Version::V2 => keyed(&text, "throttled_usec").map(|micros| micros.saturating_mul(1000)),
        };
        let (Some(periods), Some(throttled), Some(nanoseconds)) =
            (keyed(&text, "nr_periods"), keyed(&text, "nr_throttled"), nanoseconds)
        else {
            // Of a kernel without CFS_BANDWIDTH.
            return Ok(None);
        };
        Ok(Some(Throttling { periods, throttled, nanoseconds }))
    }

    fn memory(&self) -> anyhow::Result<Option<Memory>> {
        let Some((hierarchy, dir)) = self.home("memory") else { return Ok(None) };
        let text = read(&dir.join("memory.stat"))?;
        let of = |key: &str| keyed(&text, key);
        let or_0 = |key: &str| of(key).unwrap_or(0);
        let file = |name: &str| optional_number(&dir.join(name));
        let memory = match hierarchy.version {
            Version::V1 => Memory {
                current: number(&dir.join("memory.usage_in_bytes"))?,
                peak: file("memory.max_usage_in_bytes")?,
                cache: or_0("total_cache"),
                anonymous: or_0("total_rss"),
                mapped: or_0("total_mapped_file"),
                inactive_file: or_0("total_inactive_file"),
                kernel: file("memory.kmem.usage_in_bytes")?,
                swap: of("total_swap"),
                limit_hits: number(&dir.join("memory.failcnt"))?,
                faults: (or_0("pgfault"), or_0("total_pgfault")),
                major_faults: (or_0("pgmajfault"), or_0("total_pgmajfault")),
            },
            Version::V2 => {
                let events = match optional(&dir.join("memory.events.local"))? {
                    Some(events) => events,
                    None => read(&dir.join("memory.events"))?,
                };
                let (faults, major) = (or_0("pgfault"), or_0("pgmajfault"));
                Memory {
                    current: number(&dir.join("memory.current"))?,
                    peak: file("memory.peak")?,
                    cache: or_0("file"),
                    anonymous: or_0("anon"),
                    mapped: or_0("file_mapped"),
                    inactive_file: or_0("inactive_file"),
                    kernel: of("kernel"),
                    swap: file("memory.swap.current")?,
                    limit_hits: keyed(&events, "max").unwrap_or(0),
                    faults: (faults, faults),
                    major_faults: (major, major),
                }
            }
        };
        Ok(Some(memory))
    }

    fn io(&self) -> anyhow::Result<BTreeMap<Device, Io>> {
        if let Some((_, dir)) = self.home("blkio") {
            let file = |name: &str| optional(&dir.join(name));
            let bytes = file("blkio.throttle.io_service_bytes_recursive")?.unwrap_or_default();
            let requests = file("blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
            return Ok(io_of_v1(&bytes, &requests));
        }
        match self.home("io") {
            Some((_, dir)) => Ok(io_of_v2(&optional(&dir.join("io.stat"))?.unwrap_or_default())),
            None => Ok(BTreeMap::new()),
        }
    }

    fn huge_pages(&self) -> anyhow::Result<BTreeMap<String, HugePages>> {
        let Some((hierarchy, dir)) = self.home("hugetlb") else { return Ok(BTreeMap::new()) };
        let suffix = match hierarchy.version {
            Version::V1 => ".usage_in_bytes",
            Version::V2 => ".current",
        };
        let mut pages = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).called("opendir", dir.display())? {
            let name = entry.called("readdir", dir.display())?.file_name();
            // `hugetlb.2MB.rsvd.current` is what was reserved.
            let size = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(suffix));
            let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
            let peak = optional_number(&dir.join(format!("hugetlb.{size}.max_usage_in_bytes")))?;
            pages.insert(size.to_owned(), HugePages { current: number(&dir.join(&name))?, peak });
        }
        Ok(pages)
    }

    /// How long its processes waited for what they need: of the unified hierarchy, also where v1 has the controllers.
    ///
    /// # Errors
    /// If a file that is there cannot be read.
    pub fn pressures(&self) -> SysResult<Pressures> {
        let Some(dir) = self.unified() else { return Ok(Pressures::default()) };
        let of = |file: &str| Ok(optional(&dir.join(file))?.as_deref().and_then(pressure));
        Ok(Pressures { cpu: of("cpu.pressure")?, memory: of("memory.pressure")?, io: of("io.pressure")? })
    }

    /// What it uses of swap and may use of it, in bytes: `None` where that is not counted. A limit of v1 is one of memory and swap
    /// together, of which its limit of memory is taken off.
    ///
    /// # Errors
    /// If a file that is there cannot be read.
    pub fn swap(&self) -> anyhow::Result<Option<(u64, Option<u64>)>> {
        let Some((hierarchy, dir)) = self.home("memory") else { return Ok(None) };
        match hierarchy.version {
            Version::V1 => {
                let Some(used) = keyed(&read(&dir.join("memory.stat"))?, "total_swap") else { return Ok(None) };
                let limits =
                    limit(&dir.join("memory.memsw.limit_in_bytes"))?.zip(limit(&dir.join("memory.limit_in_bytes"))?);
                Ok(Some((used, limits.map(|(both, memory)| both.saturating_sub(memory)))))
            }
            Version::V2 => match optional_number(&dir.join("memory.swap.current"))? {
                Some(used) => Ok(Some((used, limit(&dir.join("memory.swap.max"))?))),
                None => Ok(None),
            },
        }
    }

    fn told(&self) -> anyhow::Result<Told> {
        let mut told = Told::default();
        if let Some((hierarchy, dir)) = self.home("cpu") {
            match hierarchy.version {
                Version::V1 => {
                    told.cpu_quota = limit(&dir.join("cpu.cfs_quota_us"))?;
                    told.cpu_period = limit(&dir.join("cpu.cfs_period_us"))?;
                    told.cpu_shares = limit(&dir.join("cpu.shares"))?;
                }
                Version::V2 => {
                    let max = optional(&dir.join("cpu.max"))?.unwrap_or_default();
                    let mut words = max.split_whitespace().map(|word| word.parse().ok());
                    told.cpu_quota = words.next().flatten();
                    told.cpu_period = words.next().flatten();
                    told.cpu_weight = limit(&dir.join("cpu.weight"))?;
                }
            }
        }
        if let Some((hierarchy, dir)) = self.home("memory") {
            let [memory, swap, reservation] = match hierarchy.version {
                Version::V1 => ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes"],
                Version::V2 => ["memory.max", "memory.swap.max", "memory.min"],
            };
            told.memory_limit = limit(&dir.join(memory))?;
            told.swap_limit = limit(&dir.join(swap))?;
            told.memory_reservation = limit(&dir.join(reservation))?;
        }
        Ok(told)
    }
}

/// The text of a file that not every kernel has: `psi=0` has pressure files that cannot be read.
fn optional(path: &Path) -> SysResult<Option<String>> {
    match read(path) {
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(None),
        other => other.map(Some),
    }
}

fn number(path: &Path) -> anyhow::Result<u64> {
    read(path)?.trim().parse().with_context(|| format!("{} is not a number", path.display()))
}

fn optional_number(path: &Path) -> anyhow::Result<Option<u64>> {
    let Some(text) = optional(path)? else { return Ok(None) };
    text.trim().parse().map(Some).with_context(|| format!("{} is not a number", path.display()))
}

/// A limit; `max`, -1 and the largest number of bytes are none.
fn limit(path: &Path) -> SysResult<Option<u64>> {
    let text = optional(path)?;
    Ok(text.and_then(|text| text.trim().parse().ok()).filter(|limit| *limit < UNLIMITED))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`, which a CPU has since Linux 5.13.
fn pressure(text: &str) -> Option<Pressure> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let average = |key: &str| value(key)?.parse().ok();
        let averages = [average("avg10")?, average("avg60")?, average("avg300")?];
        Some(Stalled { total: value("total")?.parse().ok()?, averages })
    };
    Some(Pressure { some: of("some")?, full: of("full").unwrap_or_default() })
}

fn device(text: &str) -> Option<Device> {
    let (major, minor) = text.split_once(':')?;
    Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Lines `8:0 Read 4096`; the last one is `Total` of all.
fn io_of_v1(bytes: &str, requests: &str) -> BTreeMap<Device, Io> {
    let mut all: BTreeMap<Device, Io> = BTreeMap::new();
    let mut fill = |text: &str, field: for<'a> fn(&'a mut Io, &str) -> Option<&'a mut u64>| {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (of, operation) = (words.next().and_then(device), words.next());
            let (Some(of), Some(operation), Some(value)) = (of, operation, words.next()) else { continue };
            if let (Some(into), Ok(value)) = (field(all.entry(of).or_default(), operation), value.parse()) {
                *into = value;
            }
        }
    };
    fill(bytes, |io, operation| match operation {
        "Read" => Some(&mut io.read_bytes),
        "Write" => Some(&mut io.written_bytes),
        "Discard" => Some(&mut io.discarded_bytes),
        _ => None,
    });
    fill(requests, |io, operation| match operation {
        "Read" => Some(&mut io.reads),
        "Write" => Some(&mut io.writes),
        _ => None,
    });
    all
}

/// Lines `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`; a device without figures is nothing.
fn io_of_v2(text: &str) -> BTreeMap<Device, Io> {
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(device)?;
        let mut io = Io::default();
        let mut is_counted = false;
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let into = match key {
                "rbytes" => &mut io.read_bytes,
                "wbytes" => &mut io.written_bytes,
                "dbytes" => &mut io.discarded_bytes,
                "rios" => &mut io.reads,
                "wios" => &mut io.writes,
                _ => continue,
            };
            *into = value.parse().ok()?;
            is_counted = true;
        }
        is_counted.then_some((device, io))
    };
    text.lines().filter_map(of).collect()
}
