//! Asks the kernel once and answers with plain facts.

mod capacity;
pub mod cgroup;
pub mod lsm;

pub use capacity::HugePages;

use crate::sys::{Called, SysResult, credentials};
use anyhow::Result;
use nix::sys::utsname::{UtsName, uname};
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
    /// CPUs that are online.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// Huge pages, by their size, smallest first.
    pub huge_pages: Vec<HugePages>,
    /// Capabilities that a container can have at most, bit n for capability n: the caller's bounding set.
    pub capabilities: u64,
    /// `/sys/devices/system/cpu/cpu<n>/thermal_throttle` of each CPU that has it.
    pub thermal_throttle: Vec<String>,
    /// Cgroup hierarchies.
    pub cgroups: cgroup::CgroupSetup,
    /// Security modules.
    pub lsms: lsm::Lsms,
}

/// What a container depends on that joins a pod which runs: less than a whole new pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// [`HostFacts::name`]
    pub name: String,
    /// [`HostFacts::cpus`]
    pub cpus: u32,
    /// [`HostFacts::memory`]
    pub memory: u64,
    /// [`HostFacts::swap`]
    pub swap: u64,
    /// [`HostFacts::lsms`]
    pub lsms: lsm::Lsms,
}

impl HostFacts {
    /// The part of them that one more container depends on.
    pub fn machine(&self) -> Machine {
        let HostFacts { cpus, memory, swap, lsms, .. } = *self;
        Machine { name: self.name.clone(), cpus, memory, swap, lsms }
    }
}

/// Asks for so much only.
pub fn machine() -> Result<Machine> {
    let name = names()?.nodename().to_string_lossy().into_owned();
    let (memory, swap) = capacity::memory()?;
    Ok(Machine { name, cpus: capacity::cpus()?, memory, swap, lsms: lsm::detect() })
}

fn names() -> SysResult<UtsName> {
    uname().called("uname", "")
}

/// Asks.
pub fn probe() -> Result<HostFacts> {
    let names = names()?;
    let Machine { name, cpus, memory, swap, lsms } = machine()?;
    Ok(HostFacts {
        kernel: names.release().to_string_lossy().into_owned(),
        architecture: names.machine().to_string_lossy().into_owned(),
        name,
        cpus,
        memory,
        swap,
        huge_pages: capacity::huge_pages()?,
        capabilities: credentials::bounding_capabilities(),
        thermal_throttle: thermal_throttle(),
        cgroups: cgroup::detect()?,
        lsms,
    })
}

/// The size of the file system that a path is on, in bytes.
pub fn storage(path: &Path) -> Result<u64> {
    let status = nix::sys::statvfs::statvfs(path).called("statvfs", path.display())?;
    Ok(status.blocks().saturating_mul(status.fragment_size()))
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

/// Whether a release like `6.18.44-generic` is at least `4.8`; `None` if that cannot be told.
pub fn is_at_least(kernel: &str, least: &str) -> Option<bool> {
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
        Some((parts.next()??, parts.next()??))
    };
    Some(numbers(kernel)? >= numbers(least)?)
}

/// A file that the kernel bumps at each boot, so that run state of before a reboot is told apart.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(path).called("read", path)?.trim().to_owned())
}

/// A random (version 4) UUID, RFC 9562.
pub fn uuid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(std::fs::read_to_string(path).called("read", path)?.trim().to_owned())
}
