//! What is written to cgroups, on this host.

use super::draw::Node;
use crate::cgroups::{self, FileWrite, Need};
use crate::host::HostFacts;
use anyhow::Result;
use oci_spec::runtime::LinuxResources;

/// The files of a cgroup that get a value. The rules about devices are left out: with cgroup v2 they are no files.
pub(super) fn limits(resources: &LinuxResources, facts: &HostFacts) -> Result<Vec<Node>> {
    let mut resources = resources.clone();
    resources.set_devices(None);
    Ok(cgroups::writes(&facts.cgroups, &resources)?.iter().map(node).collect())
}

fn node(write: &FileWrite) -> Node {
    let condition = match &write.need {
        Need::Required => String::new(),
        Need::IfPresent => " (if this kernel has the file)".to_owned(),
        Need::Else(other) => format!(" (or {} = {}, on kernels without)", other.file, other.value),
    };
    let meaning = meaning(&write.file);
    Node::new(format!("{} = {}{}{condition}", write.file, write.value, human(write)), meaning)
}

/// Bytes as somebody says them.
fn human(write: &FileWrite) -> String {
    let is_bytes = write.file.starts_with("memory.") || write.file.starts_with("hugetlb.");
    match write.value.parse::<u64>() {
        Ok(bytes) if is_bytes && (1 << 20..1 << 60).contains(&bytes) => match bytes {
            _ if bytes % (1 << 30) == 0 => format!(" ({} GiB)", bytes >> 30),
            _ if bytes % (1 << 20) == 0 => format!(" ({} MiB)", bytes >> 20),
            _ => format!(" (about {:.1} MiB)", bytes as f64 / f64::from(1 << 20)),
        },
        _ => String::new(),
    }
}

fn meaning(file: &str) -> &'static str {
    match file {
        "cpu.weight" | "cpu.shares" => "its part of the CPUs when others want them too",
        "cpu.max" => "microseconds of CPU time, in each period of so many microseconds",
        "cpu.cfs_quota_us" => "microseconds of CPU time in each period; -1 for no limit",
        "cpu.cfs_period_us" => "the period, in microseconds",
        "memory.max" | "memory.limit_in_bytes" => "bytes of memory; who needs more is killed",
        "memory.swap.max" => "bytes that may be swapped out to disk",
        "memory.memsw.limit_in_bytes" => "bytes of memory and swap together",
        "memory.oom.group" => "when memory is short, all its processes are killed, not one of them",
        "pids.max" => "processes and threads at a time",
        _ if file.starts_with("hugetlb.") => "bytes in huge pages of this size",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_for_people() {
        let write = |file: &str, value: &str| FileWrite {
            controller: "memory".into(),
            file: file.into(),
            value: value.into(),
            need: Need::Required,
        };
        for (file, value, expected) in [
            ("memory.max", "134217728", " (128 MiB)"),
            ("memory.max", "2147483648", " (2 GiB)"),
            ("memory.max", "1572864", " (about 1.5 MiB)"),
            ("memory.max", "max", ""),
            ("pids.max", "1073741824", ""),
        ] {
            assert_eq!(human(&write(file, value)), expected, "{value}");
        }
    }
}
