//! What a container's processes hold open, and may: by proc_pid_fd(5) and proc_pid_limits(5), as of this moment.

use crate::cgroups::Cgroup;
use crate::sys::{Called, SysError, SysResult};
use anyhow::Result;
use nix::errno::Errno;
use std::io;
use std::path::Path;
use std::time::Instant;

/// After how many descriptors the clock is looked at.
const DESCRIPTORS_PER_LOOK: u64 = 256;

/// A container's processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Processes {
    /// How many there are.
    pub(super) count: u64,
    /// What they hold open; `None` if it was too much to be counted in time.
    pub(super) open: Option<Open>,
    /// How many descriptors the first one may have (the soft limit).
    pub(super) max_files: Option<u64>,
}

/// Descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Open {
    /// All of them.
    pub(super) descriptors: u64,
    /// Of sockets.
    pub(super) sockets: u64,
}

impl Processes {
    /// Of a cgroup, and of its first process; `None` if there are none any more.
    pub(super) fn of(cgroup: &Cgroup, first: Option<i32>, deadline: Instant) -> Result<Option<Processes>> {
        let pids = cgroup.pids()?;
        let mut open = Some(Open::default());
        for pid in &pids {
            let Some(sum) = &mut open else { break };
            match count(Path::new(&format!("/proc/{pid}/fd")), deadline)? {
                Some(found) => {
                    sum.descriptors += found.descriptors;
                    sum.sockets += found.sockets;
                }
                None => open = None,
            }
        }
        let limits = first.map(|pid| std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default());
        let max_files = limits.as_deref().and_then(max_files);
        Ok((!pids.is_empty()).then_some(Processes { count: pids.len() as u64, open, max_files }))
    }
}

/// The descriptors of one process; none if it has ended. `None` if the time is over.
fn count(directory: &Path, deadline: Instant) -> SysResult<Option<Open>> {
    let mut open = Open::default();
    let Some(entries) = unless_gone(std::fs::read_dir(directory), "opendir", directory)? else { return Ok(Some(open)) };
    for entry in entries {
        let Some(entry) = unless_gone(entry, "readdir", directory)? else { break };
        if open.descriptors % DESCRIPTORS_PER_LOOK == 0 && Instant::now() >= deadline {
            return Ok(None);
        }
        // One that is closed by now was open.
        open.descriptors += 1;
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        open.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
    }
    Ok(Some(open))
}

/// `None` of a process that has ended.
fn unless_gone<T>(done: io::Result<T>, call: &'static str, directory: &Path) -> SysResult<Option<T>> {
    let is_gone = |error: &SysError| matches!(error.errno(), Errno::ENOENT | Errno::ESRCH);
    match done.called(call, directory.display()) {
        Err(error) if is_gone(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// `Max open files            1024                 524288               files`
fn max_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn own_descriptors() {
        let directory = format!("/proc/{}/fd", std::process::id());
        let soon = Instant::now() + Duration::from_secs(60);
        let sockets: Vec<_> = (0..50).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let found = count(Path::new(&directory), soon).unwrap().unwrap();
        assert!(found.sockets >= 50 && found.descriptors > found.sockets, "{found:?}");
        drop(sockets);
        assert_eq!(count(Path::new(&directory), Instant::now()).unwrap(), None, "no time");
        let gone = Path::new("/proc/4194305/fd");
        assert_eq!(count(gone, soon).unwrap(), Some(Open::default()), "one that has ended");
        assert!(count(Path::new("/proc/version"), soon).is_err());
    }

    #[test]
    fn limits() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max processes             unlimited            unlimited            processes\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(max_files(text), Some(1024));
        for (name, text) in [("no such line", "Limit\n"), ("no limit", "Max open files unlimited unlimited files")] {
            assert_eq!(max_files(text), None, "{name}");
        }
    }
}
