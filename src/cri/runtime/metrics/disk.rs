//! The file system that writable layers are on, and what devices are called.

use crate::cgroups::Device;
use crate::sys::{Called, SysResult, mountinfo};
use crate::volumes::usage::{self, Extent};
use nix::sys::stat::{major, minor, stat};
use nix::sys::statvfs::statvfs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file system, as statvfs(3) has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileSystem {
    /// What is mounted, as mountinfo names it: `/dev/vda1`, `tmpfs`.
    pub(super) device: String,
    /// All of it.
    pub(super) bytes: u64,
    /// Files that there can be.
    pub(super) inodes: u64,
    /// Of those, what nobody has.
    pub(super) free_inodes: u64,
}

impl FileSystem {
    /// Of a path.
    pub(super) fn of(path: &Path) -> SysResult<FileSystem> {
        let status = statvfs(path).called("statvfs", path.display())?;
        let device = stat(path).called("stat", path.display())?.st_dev;
        let mounts = mountinfo::read()?;
        let number = format!("{}:{}", major(device), minor(device));
        Ok(FileSystem {
            // A subvolume of btrfs has a number that no mount has.
            device: source(&mounts, &number).unwrap_or(number),
            bytes: status.blocks().saturating_mul(status.fragment_size()),
            inodes: status.files(),
            free_inodes: status.files_free(),
        })
    }
}

/// The source of the mount of a device number.
fn source(mounts: &[u8], number: &str) -> Option<String> {
    mountinfo::mounts(mounts).find(|mount| mount.device == number).map(|mount| mount.source.into_owned())
}

/// The bytes that each of these directories takes; `None` for what was not measured to its end in time.
pub(super) fn written(trees: Vec<PathBuf>, patience: Duration) -> SysResult<Vec<Option<u64>>> {
    let measured = usage::measure(&usage::Request { trees, patience })?;
    Ok(measured.iter().map(|usage| (usage.extent != Extent::OutOfTime).then_some(usage.bytes)).collect())
}

/// The name of a block device: `/dev/vda`, or its numbers if the kernel has none.
pub(super) fn device_name(device: &Device) -> String {
    let number = format!("{}:{}", device.major, device.minor);
    let uevent = std::fs::read_to_string(format!("/sys/dev/block/{number}/uevent")).unwrap_or_default();
    match uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")) {
        Some(name) => format!("/dev/{name}"),
        None => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_have_sources() {
        let mounts = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            23 22 0:21 / /tmp rw master:3 shared:2 - tmpfs none rw,size=1k\nnonsense\n";
        assert_eq!(source(mounts, "254:0").as_deref(), Some("/dev/vda"));
        assert_eq!(source(mounts, "0:21").as_deref(), Some("none"));
        assert_eq!(source(mounts, "0:2"), None);
    }

    #[test]
    fn the_file_system_of_a_directory() {
        let found = FileSystem::of(&std::env::temp_dir()).unwrap();
        assert!(found.bytes > 0 && found.free_inodes <= found.inodes && !found.device.is_empty(), "{found:?}");
        assert!(FileSystem::of(Path::new("/no/such/directory")).is_err());
        assert_eq!(device_name(&Device { major: 4095, minor: 7 }), "4095:7");
    }

    #[test]
    fn what_could_not_be_measured_has_no_number() {
        let tree = tempfile::tempdir().unwrap();
        for index in 0..2000 {
            std::fs::write(tree.path().join(index.to_string()), "x").unwrap();
        }
        let trees = vec![tree.path().to_owned(), PathBuf::from("/no/such/directory")];
        assert_eq!(written(trees.clone(), Duration::ZERO).unwrap(), [None, Some(0)]);
        assert!(written(trees, Duration::from_secs(60)).unwrap()[0] > Some(1000));
    }
}
