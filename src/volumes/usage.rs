//! How much disk space a directory takes, whatever a container has put into it (pod-api.md §20: what du(1) counts).
//!
//! By descriptor from a root that is podshim's own: no link is followed, no mount is entered (but btrfs subvolumes, which are no
//! mounts, are). Time and depth are bounded. What is open and has no name any more is not seen, as by a kubelet.

use crate::image::tree::stat_entry;
use crate::sys::fs::{ResolveFlags, openat2};
use crate::sys::{Called, SysResult, limit};
use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is to be measured, for a process of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Directories; one that is not there takes nothing.
    pub trees: Vec<PathBuf>,
    /// How long all of them together may take.
    pub patience: Duration,
}

/// What a directory takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes: at least so many, if it was not measured to its end.
    pub bytes: u64,
    /// Inodes, likewise; a file with several names in it counts as many times.
    #[serde(default)]
    pub inodes: u64,
    /// How far it was measured.
    pub extent: Extent,
}

/// How far a directory was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Extent {
    /// To its end.
    Whole,
    /// Until the time was over.
    OutOfTime,
    /// It is deeper than any program makes directories, so that something could be hidden there.
    TooDeep,
}

/// Two descriptors are held for each level. A path of PATH_MAX bytes has at most 2047 levels, and nobody needs so many.
const MAX_DEPTH: usize = 1000;
/// What a name takes of the disk at least: an inode of ext4. Otherwise any number of empty files would take nothing.
const INODE: u64 = 256;
/// The unit of `st_blocks`, whatever the file system's blocks are (stat(2)).
const BLOCK: u64 = 512;
/// After how many names the clock is looked at.
const NAMES_PER_LOOK: u32 = 256;

/// Measures each of the trees. The caller's limit of descriptors is raised as far as it goes.
pub fn measure(request: &Request) -> SysResult<Vec<Usage>> {
    limit::raise_descriptors()?;
    let deadline = Instant::now() + request.patience;
    request.trees.iter().map(|tree| measure_tree(tree, deadline)).collect()
}

/// One directory that is being read.
struct Level {
    dir: OwnedFd,
    entries: OwningIter,
}

impl Level {
    fn new(dir: OwnedFd) -> SysResult<Level> {
        let copy = dir.try_clone().called("dup", "a directory")?;
        Ok(Level { entries: Dir::from_fd(copy).called("fdopendir", "a directory")?.into_iter(), dir })
    }
}

fn measure_tree(root: &Path, deadline: Instant) -> SysResult<Usage> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = match open(root, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(Usage { bytes: 0, inodes: 0, extent: Extent::Whole }),
        other => other.called("open", root.display())?,
    };
    let mut usage = Usage { bytes: 0, inodes: 0, extent: Extent::Whole };
    let mut levels = vec![Level::new(root)?];
    let mut names = 0u32;
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { break };
        let Some(entry) = level.entries.next() else {
            levels.pop();
            continue;
        };
        let entry = entry.called("getdents64", "a directory")?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        names = names.wrapping_add(1);
        if names.is_multiple_of(NAMES_PER_LOOK) && Instant::now() >= deadline {
            usage.extent = usage.extent.max(Extent::OutOfTime);
            break;
        }
        // Gone meanwhile.
        let Some(stat) = stat_entry(level.dir.as_fd(), name)? else { continue };
        usage.bytes = usage.bytes.saturating_add(size(&stat));
        usage.inodes = usage.inodes.saturating_add(1);
        if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFDIR {
            continue;
        }
        if depth >= MAX_DEPTH {
            usage.extent = Extent::TooDeep;
            continue;
        }
        match open_below(level.dir.as_fd(), name, flags).and_then(|dir| dir.map(Level::new).transpose()) {
            Ok(level) => levels.extend(level),
            // A low limit of descriptors is a low limit of depth.
            Err(e) if e.errno() == Errno::EMFILE => usage.extent = Extent::TooDeep,
            Err(e) => return Err(e),
        }
    }
    Ok(usage)
}

/// A file with several names takes its space once: each name a part of it.
fn size(stat: &FileStat) -> u64 {
    let is_directory = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR;
    let names = if is_directory { 1 } else { u64::from(stat.st_nlink as u32).max(1) };
    let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK);
    bytes.max(INODE) / names
}

/// `None` for what is gone, is no directory any more, or is another file system.
fn open_below(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlag) -> SysResult<Option<OwnedFd>> {
    let resolve = ResolveFlags::RESOLVE_BENEATH | ResolveFlags::RESOLVE_NO_XDEV | ResolveFlags::RESOLVE_NO_SYMLINKS;
    match openat2(dir, Path::new(name), flags, 0, resolve) {
        Err(e) if matches!(e.errno(), Errno::ENOENT | Errno::ENOTDIR | Errno::EXDEV | Errno::ELOOP) => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn whole(tree: &Path) -> Usage {
        let request = Request { trees: vec![tree.to_owned()], patience: Duration::from_secs(60) };
        measure(&request).unwrap()[0]
    }

    fn near(found: u64, expected: u64) {
        assert!((expected..expected + (64 << 10)).contains(&found), "{found} for {expected}");
    }

    #[test]
    fn files_are_counted_once_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![1; 4 << 20]).unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(whole(&at("missing")), Usage { bytes: 0, inodes: 0, extent: Extent::Whole });
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(at("a/b/file"), at("again")).unwrap();
        fs::hard_link(at("a/b/file"), at("a/third")).unwrap();
        // A file with a hole takes what is written.
        fs::File::create(at("sparse")).unwrap().set_len(1 << 40).unwrap();
        symlink(outside.path(), at("link")).unwrap();
        symlink(outside.path().join("large"), at("a/link")).unwrap();
        let found = whole(dir.path());
        assert_eq!(found.extent, Extent::Whole);
        near(found.bytes, 1 << 20);
        assert_eq!(measure_tree(&at("link"), Instant::now()).unwrap_err().errno(), Errno::ENOTDIR, "nor as the root");
    }

    #[test]
    fn empty_files_take_something() {
        let dir = tempfile::tempdir().unwrap();
        (0..1000).for_each(|n| drop(fs::File::create(dir.path().join(n.to_string())).unwrap()));
        let found = whole(dir.path());
        assert!(found.bytes >= 1000 * INODE);
        assert_eq!(found.inodes, 1000);
    }

    #[test]
    fn what_is_too_deep_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut at: OwnedFd = fs::File::open(dir.path()).unwrap().into();
        for _ in 0..MAX_DEPTH + 5 {
            nix::sys::stat::mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            at = nix::fcntl::openat(&at, "d", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(whole(dir.path()).extent, Extent::TooDeep);
        crate::snapshot::remove_tree(&dir.path().join("d")).unwrap();
    }

    #[test]
    fn what_takes_too_long_is_told() {
        let dir = tempfile::tempdir().unwrap();
        (0..2 * NAMES_PER_LOOK).for_each(|n| drop(fs::File::create(dir.path().join(n.to_string())).unwrap()));
        let found = measure_tree(dir.path(), Instant::now()).unwrap();
        assert_eq!(found.extent, Extent::OutOfTime);
        assert!(found.bytes >= u64::from(NAMES_PER_LOOK - 1) * INODE);
    }
}
