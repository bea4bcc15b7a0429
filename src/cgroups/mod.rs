//! One cgroup per container below one per pod, in every hierarchy that matters, on v2, v1 and hybrid hosts.
//!
//! Input: a [`CgroupSetup`] and OCI [`LinuxResources`](oci_spec::runtime::LinuxResources). Output: directories
//! `<mount>/<parent>/podshim/<name>`, limits in them, processes put in, counted, frozen, killed, and directories gone again.
//! [`writes`] and [`device_program`] decide (pure); [`Cgroup`] performs. A [`Cgroup`] is only names: the same ones are derived
//! from the pod's uid at any time, so what a crash left behind is found without a record. It must not touch a directory
//! outside of `podshim`, except that v2 controllers are switched on (never off) in the directories above it, up to what systemd
//! delegated: above that they are systemd's.
//!
//! On v2 only leaves hold processes ("no internal process constraint", `cgroup-v2.rst`): a pod's own cgroup `pod<uid>`
//! never does; a pod's reaping init goes to a leaf like a container's.

mod counters;
#[cfg(test)]
mod counters_tests;
mod create;
mod delegated;
mod devices;
mod limits;
mod place;
mod processes;
mod remove;
mod stats;
#[cfg(test)]
mod tests;
mod writes;

pub use counters::{Counters, CpuTime, Device, HugePages, Io, Memory, Pressure, Pressures, Stalled, Throttling, Told};
pub use delegated::{make_room, of_spec, shared};
pub use devices::device_program;
pub use limits::{Limit, Limits};
pub use place::{Cgroup, parent};
pub use processes::View;
pub use stats::Stats;
pub use writes::{FileWrite, Need, cpu_weight, writes};

use crate::sys::{Called, SysResult, record};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The directory of podshim's own subtree in each hierarchy.
const SUBTREE: &str = "podshim";

/// The text of a file of a cgroup.
fn read(path: &Path) -> SysResult<String> {
    fs::read_to_string(path).called("read", path.display())
}

/// A file of a cgroup that values are written to. It is never made.
struct Writable {
    path: PathBuf,
    file: Option<fs::File>,
}

impl Writable {
    /// Nothing is done yet.
    fn at(path: &Path) -> Writable {
        Writable { path: path.to_owned(), file: None }
    }

    /// Writes a value in one write(2), as the kernel wants it.
    fn write(&mut self, value: &str) -> SysResult<()> {
        let path = self.path.display();
        let write = || {
            let mut file = match self.file.take() {
                Some(file) => file,
                None => fs::OpenOptions::new().write(true).open(&self.path).called("open", &path)?,
            };
            file.write_all(value.as_bytes()).called("write", format_args!("{value:?} to {path}"))?;
            self.file = Some(file);
            Ok(())
        };
        record::call("write", || format!("<{path}>, {value:?}, {}", value.len()), write)
    }
}

/// Writes one value to a file of a cgroup.
fn write(path: &Path, value: &str) -> SysResult<()> {
    Writable::at(path).write(value)
}

/// The number after a key in a flat-keyed file (`oom_kill 3`).
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
