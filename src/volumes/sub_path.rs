//! `subPath`: a path inside a volume, which containers may be changing while it is resolved (CVE-2017-1002101,
//! CVE-2021-25741). The kernel resolves it (openat2 with RESOLVE_BENEATH and no symbolic links), and what is mounted is
//! the descriptor that came of it.

use crate::error::{Kind, failure};
use crate::sys::fs::{ResolveFlags, openat2};
use crate::sys::{Called, SysError};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat, mkdirat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

/// Opens `path` below the volume; missing directories are made with the volume root's mode. A symbolic link that leads out
/// of the volume is refused, one that stays inside is followed.
pub fn open_sub_path(volume: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    resolve(volume, Path::new(path)).with_context(|| format!("subPath {path:?}"))
}

fn open_below(volume: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, SysError> {
    openat2(volume, path, OFlag::O_PATH, 0, ResolveFlags::RESOLVE_BENEATH | ResolveFlags::RESOLVE_NO_MAGICLINKS)
}

fn resolve(volume: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    match open_below(volume, path) {
        Ok(fd) => return Ok(fd),
        Err(e) if e.errno() == Errno::ENOENT => {}
        Err(e) => return Err(explain(e)),
    }
    let mode = Mode::from_bits_truncate(fstat(volume).called("fstat", "volume")?.st_mode & 0o7777);
    let mut walked = std::path::PathBuf::new();
    let mut directory = volume.try_clone_to_owned().called("fcntl", "F_DUPFD_CLOEXEC")?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        walked.push(name);
        directory = match open_below(volume, &walked) {
            Ok(fd) => fd,
            Err(e) if e.errno() == Errno::ENOENT => {
                mkdirat(&directory, name, mode).called("mkdirat", walked.display()).map_err(explain)?;
                let flags = ResolveFlags::RESOLVE_BENEATH | ResolveFlags::RESOLVE_NO_SYMLINKS;
                let made = openat2(directory.as_fd(), Path::new(name), OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0, flags)?;
                // mkdir's mode passes through the umask.
                nix::sys::stat::fchmod(&made, mode).called("fchmod", walked.display())?;
                made
            }
            Err(e) => return Err(explain(e)),
        };
    }
    Ok(directory)
}

fn explain(error: SysError) -> anyhow::Error {
    let hint = match error.errno() {
        Errno::EXDEV => "it leads out of the volume",
        Errno::ELOOP => "it contains a link of /proc, or too many links",
        Errno::EEXIST => "it is a dangling symbolic link",
        Errno::ENOTDIR => "a part of it is a file",
        Errno::EROFS => "it is not in the volume, which is read-only",
        _ => return error.into(),
    };
    failure(Kind::Invalid, format!("{hint}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn s16_sub_paths_stay_in_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        let victim = dir.path().join("victim");
        for d in [&volume, &victim] {
            std::fs::create_dir(d).unwrap();
        }
        std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::create_dir(volume.join("real")).unwrap();
        std::fs::write(volume.join("file"), "").unwrap();
        symlink(&victim, volume.join("absolute")).unwrap();
        symlink("../victim", volume.join("relative")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        symlink("nowhere", volume.join("dangling")).unwrap();
        let root = std::fs::File::open(&volume).unwrap();
        let rows = [
            ("a directory", "real", true),
            ("a file", "file", true),
            ("a link inside", "inside", true),
            ("made", "new/deep", true),
            ("made through a link inside", "inside/new", true),
            ("an absolute link", "absolute", false),
            ("a relative link out", "relative", false),
            ("below an absolute link", "absolute/new", false),
            ("made through a relative link", "relative/new", false),
            ("a dangling link", "dangling", false),
            ("dot dot", "../victim", false),
            ("below a file", "file/new", false),
        ];
        for (name, path, fine) in rows {
            match open_sub_path(root.as_fd(), path) {
                Err(error) => assert!(!fine && kind_of(&error) == Some(Kind::Invalid), "{name}: {error:#}"),
                Ok(_) => assert!(fine, "{name}"),
            }
        }
        assert_eq!(std::fs::metadata(volume.join("new/deep")).unwrap().permissions().mode() & 0o7777, 0o777);
        assert!(std::fs::read_dir(&victim).unwrap().next().is_none(), "nothing was made outside");
    }
}
