//! The directory of a container's logs: its files' names, and opening them without trusting them.

use crate::sys::fs::{names, reopen_regular};
use crate::sys::{Called, SysError, SysResult};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The suffix of a rotated file: the local second of its rotation, and a counter for further ones in the same second (or
/// after the clock went back). Later is greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rotation {
    /// `YYYYMMDD-hhmmss`.
    pub(super) second: String,
    pub(super) counter: u32,
}

impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.counter {
            0 => f.write_str(&self.second),
            counter => write!(f, "{}.{counter:04}", self.second),
        }
    }
}

impl Rotation {
    fn parse(suffix: &str) -> Option<Self> {
        let (second, counter) = suffix.split_once('.').unwrap_or((suffix, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (day, time) = second.split_once('-')?;
        if day.len() != 8 || time.len() != 6 || ![day, time, counter].into_iter().all(digits) {
            return None;
        }
        Some(Rotation { second: second.to_owned(), counter: counter.parse().ok()? })
    }
}

pub(super) fn live_name(restart_count: u32) -> String {
    format!("{restart_count}.log")
}

pub(super) fn rotated_name(live: &str, rotation: &Rotation) -> String {
    format!("{live}.{rotation}")
}

/// The restart count and, if rotated, the rotation. None for anything else, such as a kubelet's `.gz` and `.tmp` files.
fn parse_name(name: &str) -> Option<(u32, Option<Rotation>)> {
    let (count, rest) = name.split_once(".log")?;
    if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let rotation = match rest.strip_prefix('.') {
        Some(suffix) => Some(Rotation::parse(suffix)?),
        None if rest.is_empty() => None,
        None => return None,
    };
    Some((count.parse().ok()?, rotation))
}

/// A directory; its path's last component may not be a symlink.
pub(super) fn open_dir(path: &Path) -> SysResult<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).called("open", path.display())
}

/// The container's directory in the pod's: really in it, by no symlink.
pub(super) fn open_container_dir(pod: impl AsFd, container: &str) -> SysResult<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(pod, container, how).called("openat2", container)
}

/// A log file with its identity. Refused unless it is a regular file, which with `O_CREAT` (and `O_EXCL`) it is: nothing else
/// is opened at all.
pub(super) fn open_file(dir: impl AsFd, name: &str, flags: OFlag) -> SysResult<(OwnedFd, FileStat)> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = if flags.contains(OFlag::O_CREAT | OFlag::O_EXCL) {
        openat(dir, name, flags, Mode::from_bits_truncate(0o640)).called("openat", name)?
    } else {
        let place = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let place = openat(dir, name, place, Mode::empty()).called("openat", name)?;
        // What is opened is a link of /proc.
        let file = reopen_regular(place.as_fd(), Path::new(name), flags & !OFlag::O_NOFOLLOW)?;
        let refused = || SysError::new("openat", format_args!("{name} (not a regular file)"), Errno::EINVAL);
        file.ok_or_else(refused)?.into()
    };
    let stat = fstat(&file).called("fstat", name)?;
    Ok((file, stat))
}

/// What tells files apart as long as one of them is open.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(stat: &FileStat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Which file a name stands for now; None if for none.
pub(super) fn identity_of(dir: impl AsFd, name: &str) -> SysResult<Option<Identity>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(identity(&stat))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(SysError::new("fstatat", name, errno)),
    }
}

/// The names of log files in a directory.
#[derive(Default)]
pub(super) struct Listing {
    /// Restart counts that have a file, ascending.
    pub(super) instances: Vec<u32>,
    rotated: Vec<(u32, Rotation)>,
}

impl Listing {
    pub(super) fn read(dir: impl AsFd) -> SysResult<Self> {
        let names = names(dir.as_fd()).map_err(|error| SysError { target: "a log directory".into(), ..error })?;
        let mut listing = Listing::default();
        for (count, rotation) in names.iter().filter_map(|name| parse_name(name.to_str()?)) {
            listing.instances.push(count);
            listing.rotated.extend(rotation.map(|rotation| (count, rotation)));
        }
        listing.instances.sort_unstable();
        listing.instances.dedup();
        listing.rotated.sort_unstable();
        Ok(listing)
    }

    /// An instance's rotated files, oldest first.
    pub(super) fn rotated(&self, restart_count: u32) -> impl Iterator<Item = &Rotation> {
        self.rotated.iter().filter(move |(count, _)| *count == restart_count).map(|(_, rotation)| rotation)
    }
}

/// Removes all files of one instance's log; none is fine.
pub fn remove_instance(pod_logs: &Path, container: &str, restart_count: u32) -> SysResult<()> {
    let dir = match open_dir(pod_logs).and_then(|pod| open_container_dir(pod, container)) {
        Err(error) if error.errno() == Errno::ENOENT => return Ok(()),
        other => other?,
    };
    let listing = Listing::read(&dir)?;
    let rotated = listing.rotated(restart_count).map(|rotation| rotated_name(&live_name(restart_count), rotation));
    for name in rotated.chain([live_name(restart_count)]) {
        match nix::unistd::unlinkat(&dir, name.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(SysError::new("unlinkat", name, errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_strictly() {
        let rotation = |second: &str, counter| Some(Rotation { second: second.to_owned(), counter });
        let rows = [
            ("0.log", Some((0, None))),
            ("12.log", Some((12, None))),
            ("1.log.20261122-175806", Some((1, rotation("20261122-175806", 0)))),
            ("1.log.20261122-175806.0007", Some((1, rotation("20261122-175806", 7)))),
            ("1.log.20261122-175806.gz", None),
            ("1.log.20261122-175806.tmp", None),
            ("1.log.old", None),
            ("1.logs", None),
            (".log", None),
            ("x.log", None),
            ("99999999999.log", None),
        ];
        for (name, expected) in rows {
            assert_eq!(parse_name(name), expected, "{name}");
            if let Some((count, Some(rotation))) = parse_name(name) {
                assert_eq!(rotated_name(&live_name(count), &rotation), name);
            }
        }
    }

    #[test]
    fn later_rotations_are_greater() {
        let order = ["20261122-175806", "20261122-175806.0001", "20261122-175806.0010", "20261122-175807"];
        let order = order.map(|suffix| Rotation::parse(suffix).unwrap());
        assert!(order.is_sorted());
        let (small, large) =
            (Rotation { counter: 9999, ..order[0].clone() }, Rotation { counter: 10_000, ..order[0].clone() });
        assert!(small < large);
    }
}
