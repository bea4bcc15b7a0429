//! What the host has at the paths that a request names.

use super::Converted;
use super::devices::Wanted;
use super::fields::At;
use crate::host::cgroup::{CgroupSetup, Version};
use crate::plan::config::{DeviceKind, HostDevice, MountPropagation, VolumeSource};
use crate::sys::{Called, SysResult};
use crate::volumes;
use anyhow::Result;
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, lstat, major, minor, stat};
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Devices below a directory, and how deep they are looked for.
const MAX_FOUND: usize = 16_384;
const MAX_DEPTH: usize = 16;

/// The host's paths of mounts that do not exist, of which directories are to be made, as containerd does. A mount whose later
/// mounts are to be passed on must be of a mount that does so.
pub(super) fn sources(converted: &Converted, at: &At) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    for (index, (volume, mount)) in converted.volumes.iter().zip(&converted.config.mounts).enumerate() {
        let VolumeSource::HostPath { path, .. } = &volume.source else { continue };
        let at = at.index(index);
        if !exists(path, &at.field("host_path"))? {
            missing.push(path.clone());
        }
        if mount.propagation != MountPropagation::None {
            at.field("propagation").wrap(volumes::check_propagation(path, mount.propagation))?;
        }
    }
    Ok(missing)
}

/// CPUs and memory nodes (cpuset(7)) that this host does not have: v1 takes what there is, v2 what there could be.
pub(super) fn members([cpus, mems]: [&str; 2], cgroups: &CgroupSetup, at: &At) -> Result<()> {
    let is_v2 = cgroups.with_controller("cpuset").is_some_and(|hierarchy| hierarchy.version == Version::V2);
    let (of_cpus, of_mems) = if is_v2 { ("possible", "possible") } else { ("online", "has_memory") };
    for (name, list, file) in
        [("cpuset_cpus", cpus, format!("cpu/{of_cpus}")), ("cpuset_mems", mems, format!("node/{of_mems}"))]
    {
        if list.is_empty() {
            continue;
        }
        let path = format!("/sys/devices/system/{file}");
        let there = match std::fs::read_to_string(&path) {
            // A kernel without NUMA has one node.
            Err(error) if error.kind() == ErrorKind::NotFound => "0".to_owned(),
            read => read.called("read", &path)?,
        };
        if let Some(number) = missing(list, &there) {
            return at.field(name).refuse(format!("{number} is not there: this host has {}", there.trim()));
        }
    }
    Ok(())
}

/// The first of these that is not among those.
fn missing(wanted: &str, there: &str) -> Option<u32> {
    let there: Vec<_> = ranges(there).collect();
    ranges(wanted).find_map(|mut range| range.find(|number| !there.iter().any(|range| range.contains(number))))
}

/// `0-3,7`
fn ranges(list: &str) -> impl Iterator<Item = RangeInclusive<u32>> {
    list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    })
}

/// Whether a path, wherever its links lead, exists.
fn exists(path: &Path, at: &At) -> Result<bool> {
    match stat(path) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) if lstat(path).is_ok() => {
            at.refuse(format!("{} is a symbolic link that leads nowhere", path.display()))
        }
        Err(Errno::ENOENT) => Ok(false),
        Err(errno @ (Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG)) => {
            at.refuse(format!("{}: {}", path.display(), errno.desc()))
        }
        Err(errno) => Ok(Err(errno).called("stat", path.display())?),
    }
}

/// Makes a directory, and those above it, for a mount.
///
/// # Errors
/// If it cannot be made.
pub fn make_host_directory(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    Ok(made.called("mkdir", path.display())?)
}

/// The devices: of a directory, all that are in it and below it, as containerd does.
pub(super) fn devices(wanted: &[Wanted], at: &At) -> Result<Vec<HostDevice>> {
    let mut found = Vec::new();
    for one in wanted {
        let at = at.index(one.index).field("host_path");
        let path = match one.host_path.canonicalize() {
            Ok(path) => path,
            Err(error) => return at.refuse(format!("{}: {error}", one.host_path.display())),
        };
        let status = stat(&path).called("stat", path.display())?;
        if kind_of(&status) == SFlag::S_IFDIR {
            walk(&path, one, (&mut found, 0), &at)?;
            continue;
        }
        match device(&status, &one.path, &one.access) {
            Some(device) => found.push(device),
            None => return at.refuse(format!("{} is no device", path.display())),
        }
    }
    Ok(found)
}

fn kind_of(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits())
}

/// `None` if it is no device.
fn device(status: &FileStat, path: &Path, access: &str) -> Option<HostDevice> {
    let kind = match kind_of(status) {
        SFlag::S_IFBLK => DeviceKind::Block,
        SFlag::S_IFCHR => DeviceKind::Character,
        _ => return None,
    };
    Some(HostDevice {
        path: path.to_owned(),
        kind,
        major: u32::try_from(major(status.st_rdev)).ok()?,
        minor: u32::try_from(minor(status.st_rdev)).ok()?,
        mode: status.st_mode & 0o777,
        uid: status.st_uid,
        gid: status.st_gid,
        access: access.to_owned(),
    })
}

/// Directories of a /dev that hold no devices to be given away, and files (containerd's getDevices).
const NOT_DEVICES: [&str; 8] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];

fn walk(directory: &Path, one: &Wanted, (found, depth): (&mut Vec<HostDevice>, usize), at: &At) -> Result<()> {
    if depth == MAX_DEPTH {
        return at.refuse(format!("{} is more than {MAX_DEPTH} directories deep", directory.display()));
    }
    for entry in entries(directory)? {
        if NOT_DEVICES.iter().any(|name| entry.file_name().is_some_and(|entry| entry == *name)) {
            continue;
        }
        // A device may go while the list is read.
        let Ok(status) = lstat(&entry) else { continue };
        let name = entry.file_name().unwrap_or_default();
        if kind_of(&status) == SFlag::S_IFDIR {
            let below = Wanted { path: one.path.join(name), ..one.clone() };
            walk(&entry, &below, (found, depth + 1), at)?;
        } else {
            found.extend(device(&status, &one.path.join(name), &one.access));
        }
        if found.len() > MAX_FOUND {
            return at.refuse(format!("there are more than {MAX_FOUND} devices"));
        }
    }
    Ok(())
}

/// What is in a directory, by its names.
fn entries(directory: &Path) -> SysResult<Vec<PathBuf>> {
    let list = std::fs::read_dir(directory).called("opendir", directory.display())?;
    let mut entries: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_not_there() {
        for (wanted, there, expected) in [
            ("0", "0\n", None),
            ("0-1,3", "0-3\n", None),
            ("1-2", "0-1,3\n", Some(2)),
            ("0,63", "0-1\n", Some(63)),
            ("0-65535,0-65535", "0-65535", None),
            ("0", "\n", Some(0)),
        ] {
            assert_eq!(missing(wanted, there), expected, "{wanted} of {there:?}");
        }
    }
}
