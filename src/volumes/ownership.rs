//! `fsGroup`: a volume's files become a group's, which may write them (pod-api.md §19).
//!
//! The volume may hold anything that a container has put there, and another pod may be changing it: what is changed is
//! always a descriptor's own inode, no link is followed, no mount in the volume is entered, and the way back up is checked.

use crate::plan::config::{Access, FsGroup, FsGroupChangePolicy};
use crate::sys::fs::{ResolveFlags, names, openat2, proc_fd_path};
use crate::sys::{Called, SysError, SysResult};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::{Gid, fchownat};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const SET_GROUP_ID: u32 = 0o2000;

/// Gives everything in the volume `root` to the group: files get its read and write bits (`access` ReadOnly: read), and
/// directories its search and set-group-ID bits besides. Symbolic links change their group only.
///
/// With `OnRootMismatch` nothing is done if the volume's root directory is as it should be.
pub fn set_group(root: BorrowedFd<'_>, group: FsGroup, access: Access) -> SysResult<()> {
    let change = Change { gid: Gid::from_raw(group.gid), access };
    let status = fstat(root).called("fstat", "volume")?;
    if group.policy == FsGroupChangePolicy::OnRootMismatch && change.is_done(&status) {
        return Ok(());
    }
    change.one(root, &status)?;
    if kind(&status) == SFlag::S_IFDIR { change.below(root) } else { Ok(()) }
}

struct Change {
    gid: Gid,
    access: Access,
}

fn kind(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits())
}

/// A directory that is being gone over: what is still to be done in it, and which it is.
struct Level {
    names: Vec<OsString>,
    identity: (u64, u64),
}

impl Change {
    fn bits(&self, kind: SFlag) -> u32 {
        let bits = if self.access == Access::ReadOnly { 0o440 } else { 0o660 };
        if kind == SFlag::S_IFDIR { bits | 0o110 | SET_GROUP_ID } else { bits }
    }

    fn is_done(&self, root: &FileStat) -> bool {
        let wanted = self.bits(kind(root));
        root.st_gid == self.gid.as_raw() && root.st_mode & wanted == wanted
    }

    /// Changes the very file that an `O_PATH` descriptor refers to.
    fn one(&self, file: BorrowedFd<'_>, status: &FileStat) -> SysResult<()> {
        let name = crate::sys::mount::fd_name(file);
        let target = std::fmt::from_fn(|f| write!(f, "group {} of {name}", self.gid));
        fchownat(file, "", None, Some(self.gid), AtFlags::AT_EMPTY_PATH).called("fchownat", &target)?;
        if kind(status) == SFlag::S_IFLNK {
            return Ok(());
        }
        // The mode from before: chown(2) has taken set-user-ID and set-group-ID bits away.
        let mode = status.st_mode & 0o7777 | self.bits(kind(status));
        // The descriptor is of no link, so this changes what it refers to and nothing else.
        std::fs::set_permissions(proc_fd_path(file), std::fs::Permissions::from_mode(mode)).called("chmod", &target)
    }

    /// Everything below a directory, with one descriptor at a time however deep it is.
    fn below(&self, root: BorrowedFd<'_>) -> SysResult<()> {
        let mut directory = open_directory(root, Path::new("."))?;
        let mut levels = vec![level(&directory)?];
        while let Some(current) = levels.last_mut() {
            let Some(name) = current.names.pop() else {
                levels.pop();
                let Some(above) = levels.last() else { break };
                directory = open_directory(directory.as_fd(), Path::new(".."))?;
                let status = fstat(&directory).called("fstat", "..")?;
                if (status.st_dev, status.st_ino) != above.identity {
                    // It was moved meanwhile: the rest of the list is of another directory.
                    return Err(SysError::new("openat2", "a directory of the volume that was moved", Errno::EAGAIN));
                }
                continue;
            };
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
            let entry = match openat2(directory.as_fd(), Path::new(&name), flags, 0, WITHIN) {
                Ok(entry) => entry,
                // Gone meanwhile, or a mount: that is not of this volume.
                Err(e) if matches!(e.errno(), Errno::ENOENT | Errno::EXDEV) => continue,
                Err(e) => return Err(e),
            };
            let status = fstat(&entry).called("fstat", name.display())?;
            self.one(entry.as_fd(), &status)?;
            if kind(&status) == SFlag::S_IFDIR {
                directory = open_directory(entry.as_fd(), Path::new("."))?;
                levels.push(level(&directory)?);
            }
        }
        Ok(())
    }
}

const WITHIN: ResolveFlags = ResolveFlags::RESOLVE_NO_SYMLINKS.union(ResolveFlags::RESOLVE_NO_XDEV);

fn open_directory(at: BorrowedFd<'_>, name: &Path) -> SysResult<OwnedFd> {
    openat2(at, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0, WITHIN)
}

fn level(directory: &OwnedFd) -> SysResult<Level> {
    let status = fstat(directory).called("fstat", "a directory of the volume")?;
    let names =
        names(directory.as_fd()).map_err(|error| SysError { target: "a directory of the volume".into(), ..error })?;
    Ok(Level { names, identity: (status.st_dev, status.st_ino) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::config::FsGroupChangePolicy::{Always, OnRootMismatch};
    use nix::sys::stat::Mode;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn may_skip() -> bool {
        if nix::unistd::geteuid().is_root() {
            return false;
        }
        let skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
        assert!(skip.split([',', ' ']).any(|w| w == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
        true
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn s19_files_directories_and_links() {
        if may_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (volume, victim) = (dir.path().join("volume"), dir.path().join("victim"));
        std::fs::create_dir_all(volume.join("deep/er")).unwrap();
        std::fs::write(volume.join("deep/er/file"), "").unwrap();
        std::fs::write(volume.join("program"), "").unwrap();
        std::fs::write(&victim, "").unwrap();
        symlink(&victim, volume.join("link")).unwrap();
        nix::unistd::mkfifo(&volume.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        for (name, mode) in [("deep", 0o700), ("deep/er", 0o755), ("deep/er/file", 0o600), ("program", 0o4755)] {
            set(&volume.join(name), mode);
        }
        set(&victim, 0o600);
        set(&volume, 0o777);
        let root = std::fs::File::open(&volume).unwrap();
        set_group(root.as_fd(), FsGroup { gid: 4321, policy: Always }, Access::ReadWrite).unwrap();
        for (name, expected) in [
            ("", 0o2777),
            ("deep", 0o2770),
            ("deep/er", 0o2775),
            ("deep/er/file", 0o660),
            ("program", 0o4775),
            ("fifo", 0o660),
        ] {
            let path = volume.join(name);
            assert_eq!(mode(&path), expected, "{name}: {:o}", mode(&path));
            assert_eq!(std::fs::symlink_metadata(&path).unwrap().gid(), 4321, "{name}");
        }
        assert_eq!(std::fs::symlink_metadata(volume.join("link")).unwrap().gid(), 4321);
        let outside = std::fs::metadata(&victim).unwrap();
        assert_eq!((outside.gid(), mode(&victim)), (nix::unistd::getegid().as_raw(), 0o600), "no link is followed");
        set_group(root.as_fd(), FsGroup { gid: 5, policy: Always }, Access::ReadOnly).unwrap();
        assert_eq!(std::fs::metadata(volume.join("deep/er/file")).unwrap().gid(), 5);
    }

    #[test]
    fn s19_on_root_mismatch_looks_at_the_root_only() {
        if may_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let gid = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().gid();
        let group = |gid| FsGroup { gid, policy: OnRootMismatch };
        set_group(root.as_fd(), group(77), Access::ReadWrite).unwrap();
        assert_eq!((gid(""), gid("file")), (77, 77), "the root did not match");
        std::os::unix::fs::chown(dir.path().join("file"), None, Some(3)).unwrap();
        set_group(root.as_fd(), group(77), Access::ReadWrite).unwrap();
        assert_eq!(gid("file"), 3, "the root matches: nothing is gone over");
        set(dir.path(), 0o770);
        set_group(root.as_fd(), group(77), Access::ReadWrite).unwrap();
        assert_eq!(gid("file"), 77, "without its set-group-ID bit the root does not match");
    }

    #[test]
    fn s19_a_very_deep_volume_takes_few_descriptors() {
        if may_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut at: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&at, "d", Mode::from_bits_truncate(0o700)).unwrap();
            at = open_directory(at.as_fd(), Path::new("d")).unwrap();
        }
        let root = std::fs::File::open(dir.path()).unwrap();
        set_group(root.as_fd(), FsGroup { gid: 9, policy: Always }, Access::ReadWrite).unwrap();
        assert_eq!(fstat(&at).unwrap().st_gid, 9);
        drop(at);
        crate::snapshot::remove_tree(&dir.keep()).unwrap();
    }
}
