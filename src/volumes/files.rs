//! Volumes of files that podshim makes: configMap, secret, downwardAPI, projected (pod-api.md §18).
//!
//! The layout is that of a kubelet's atomic writer, so that an application which follows a change there follows it here:
//!
//! ```text
//! ..2026_11_26_02_10_11.123456789/dir/file    the files
//! ..data -> ..2026_11_26_02_10_11.123456789   replaced by one rename(2)
//! dir -> ..data/dir                           what the application opens
//! ```
//!
//! Everything is done below descriptors and no symbolic link is followed: a privileged container may have changed what is there.

use super::{empty_dir, set_group};
use crate::image::tree::remove_tree;
use crate::plan::config::{Access, FilesMedium, FilesVolume, FsGroup, FsGroupChangePolicy, VolumeFile};
use crate::sys::fs::{self, ResolveFlags, names, open_regular, openat2};
use crate::sys::{Called, SysError, SysResult};
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, symlinkat, unlinkat};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The link to the directory of the files that count.
const DATA: &str = "..data";
/// Its successor, before it is renamed.
const NEW_DATA: &str = "..data_tmp";

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

const BELOW: ResolveFlags = ResolveFlags::RESOLVE_BENEATH.union(ResolveFlags::RESOLVE_NO_SYMLINKS);

/// Makes the volume's place and its files, or brings them up to date. New files are the group's from the beginning.
pub(super) fn materialize(path: &Path, volume: &FilesVolume, group: Option<FsGroup>) -> Result<()> {
    match volume.medium {
        FilesMedium::Memory => empty_dir::in_memory_for_files(path)?,
        FilesMedium::Disk => fs::make_directory(path, 0o755)?,
    }
    let root = openat(nix::fcntl::AT_FDCWD, path, DIRECTORY, Mode::empty()).called("open", path.display())?;
    write(root.as_fd(), &volume.files, group)
}

/// Makes the files in `root` be these, all at once. Nothing is changed if their paths and contents are so already.
fn write(root: BorrowedFd<'_>, files: &[VolumeFile], group: Option<FsGroup>) -> Result<()> {
    for file in files {
        check_path(&file.path)?;
    }
    let before = current(root)?;
    let is_same = match &before {
        Some(name) => holds(root, name, files)?,
        None => false,
    };
    if !is_same {
        let name = fresh(root)?;
        // Whoever waits for the switch (inotify(7)) opens the files at once: they are the group's before it (a kubelet's setPerms).
        if let Err(error) = fill(root, &name, files).and_then(|()| give(root, &name, group)) {
            // The error that matters is the first one.
            let _ = remove_tree(root, &name);
            return Err(error);
        }
        switch(root, &name)?;
    }
    link(root, files)?;
    // What was there before, and what an earlier write was killed over.
    let now = current(root)?;
    for name in names(root)? {
        if name.as_bytes().starts_with(b"..") && name != DATA && Some(&name) != now.as_ref() {
            remove_tree(root, &name)?;
        }
    }
    Ok(())
}

/// Planned paths are checked; here it is made sure of, since they lead the writing.
fn check_path(path: &str) -> Result<()> {
    let is_fine = !path.starts_with("..") && path.split('/').all(|name| !["", ".", ".."].contains(&name));
    ensure!(is_fine, "{path:?} is no path of a file in a volume");
    Ok(())
}

/// The directory that `..data` names, if there is one.
fn current(root: BorrowedFd<'_>) -> SysResult<Option<OsString>> {
    match readlinkat(root, DATA) {
        // Nothing else than an entry of `root` is ever taken for it.
        Ok(name) if name.as_bytes().starts_with(b"..2") && !name.as_bytes().contains(&b'/') => Ok(Some(name)),
        Ok(_) | Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno).called("readlinkat", DATA),
    }
}

fn below(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: u32) -> SysResult<OwnedFd> {
    openat2(root, path, flags, mode, BELOW)
}

/// Whether the directory `name` holds exactly these files. A mode that differs is no difference, as with a kubelet.
fn holds(root: BorrowedFd<'_>, name: &OsStr, files: &[VolumeFile]) -> Result<bool> {
    let directory = match below(root, Path::new(name), DIRECTORY, 0) {
        Ok(directory) => directory,
        Err(_) => return Ok(false),
    };
    let mut wanted: BTreeSet<&Path> = BTreeSet::new();
    for file in files {
        let path = Path::new(&file.path);
        wanted.extend(path.ancestors().filter(|p| !p.as_os_str().is_empty()));
        let Ok(Some(opened)) = open_regular(directory.as_fd(), path, BELOW) else { return Ok(false) };
        let mut content = Vec::new();
        // One byte more shows that it is longer.
        let limit = file.content.len() as u64 + 1;
        let read = opened.take(limit).read_to_end(&mut content);
        if read.is_err() || content != file.content {
            return Ok(false);
        }
    }
    Ok(count(directory.as_fd(), wanted.len())? == Some(wanted.len()))
}

/// How many entries there are below a directory; `None` if there are more than `limit`.
fn count(directory: BorrowedFd<'_>, limit: usize) -> SysResult<Option<usize>> {
    let mut found = 0;
    let mut waiting = vec![directory.try_clone_to_owned().called("fcntl", "F_DUPFD_CLOEXEC")?];
    while let Some(directory) = waiting.pop() {
        for name in names(directory.as_fd())? {
            found += 1;
            if found > limit {
                return Ok(None);
            }
            match openat(&directory, name.as_os_str(), DIRECTORY, Mode::empty()) {
                Ok(inner) => waiting.push(inner),
                Err(Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(errno).called("openat", name.display()),
            }
        }
    }
    Ok(Some(found))
}

/// Makes a new directory `..<time>.<number>`.
fn fresh(root: BorrowedFd<'_>) -> Result<OsString> {
    let now = jiff::Timestamp::now();
    let time = now.strftime("..%Y_%m_%d_%H_%M_%S");
    // Two in one nanosecond: the next one is free.
    for offset in 0..100u32 {
        let name = OsString::from(format!("{time}.{:09}", now.subsec_nanosecond().unsigned_abs() + offset));
        match mkdirat(root, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                // mkdir's mode passes through the umask.
                let made = below(root, Path::new(&name), DIRECTORY, 0)?;
                fchmod(&made, Mode::from_bits_truncate(0o755)).called("fchmod", name.display())?;
                return Ok(name);
            }
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).called("mkdirat", name.display()).map_err(Into::into),
        }
    }
    Err(SysError::new("mkdirat", time, Errno::EEXIST).into())
}

fn fill(root: BorrowedFd<'_>, name: &OsStr, files: &[VolumeFile]) -> Result<()> {
    let directory = below(root, Path::new(name), DIRECTORY, 0)?;
    for file in files {
        put(directory.as_fd(), file).with_context(|| format!("file {}", file.path))?;
    }
    Ok(())
}

/// Gives the directory `name` and what is in it to the pod's group, whatever the change policy: that is for what outlives pods.
fn give(root: BorrowedFd<'_>, name: &OsStr, group: Option<FsGroup>) -> Result<()> {
    let Some(group) = group else { return Ok(()) };
    let always = FsGroup { policy: FsGroupChangePolicy::Always, ..group };
    let directory = below(root, Path::new(name), DIRECTORY, 0)?;
    Ok(set_group(directory.as_fd(), always, Access::ReadOnly)?)
}

fn put(directory: BorrowedFd<'_>, file: &VolumeFile) -> Result<()> {
    let path = Path::new(&file.path);
    let parents: Vec<&Path> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
    for parent in parents.into_iter().rev() {
        let above = match parent.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(above) => below(directory, above, DIRECTORY, 0)?,
            None => directory.try_clone_to_owned().called("fcntl", "F_DUPFD_CLOEXEC")?,
        };
        match mkdirat(&above, parent.file_name().unwrap_or_default(), Mode::from_bits_truncate(0o755)) {
            Err(Errno::EEXIST) => {}
            made => {
                made.called("mkdirat", parent.display())?;
                let made = below(directory, parent, DIRECTORY, 0)?;
                fchmod(&made, Mode::from_bits_truncate(0o755)).called("fchmod", parent.display())?;
            }
        }
    }
    let made = below(directory, path, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, 0o600)?;
    let mut made = std::fs::File::from(made);
    made.write_all(&file.content).called("write", path.display())?;
    fchown(&made, Some(Uid::from_raw(file.user)), Some(Gid::from_raw(0))).called("fchown", path.display())?;
    // After the owner: a change of owner takes bits away.
    Ok(fchmod(&made, Mode::from_bits_truncate(file.mode & 0o777)).called("fchmod", path.display())?)
}

/// `..data` becomes a link to `name`, at once.
fn switch(root: BorrowedFd<'_>, name: &OsStr) -> SysResult<()> {
    remove_tree(root, OsStr::new(NEW_DATA))?;
    symlinkat(name, root, NEW_DATA).called("symlinkat", NEW_DATA)?;
    match renameat(root, NEW_DATA, root, DATA) {
        // A directory of that name, which podshim never makes.
        Err(Errno::EISDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {
            remove_tree(root, OsStr::new(DATA))?;
            renameat(root, NEW_DATA, root, DATA).called("renameat", DATA)
        }
        other => other.called("renameat", DATA),
    }
}

/// A link for each first component of a path; everything else that is not `..` something goes.
fn link(root: BorrowedFd<'_>, files: &[VolumeFile]) -> Result<()> {
    let first = |file: &VolumeFile| file.path.split('/').next().map(OsString::from);
    let wanted: BTreeSet<OsString> = files.iter().filter_map(first).collect();
    for name in &wanted {
        let target = Path::new(DATA).join(name);
        if readlinkat(root, name.as_os_str()).is_ok_and(|found| found == *target.as_os_str()) {
            continue;
        }
        remove_tree(root, name)?;
        symlinkat(&target, root, name.as_os_str()).called("symlinkat", name.display())?;
    }
    for name in names(root)? {
        if !name.as_bytes().starts_with(b"..") && !wanted.contains(&name) {
            match unlinkat(root, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(_) => remove_tree(root, &name)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn file(path: &str, content: &str) -> VolumeFile {
        // Whoever runs the test may give a file to himself.
        let user = nix::unistd::geteuid().as_raw();
        VolumeFile { path: path.into(), mode: 0o640, user, content: content.into() }
    }

    fn open(path: &Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    fn stamps(path: &Path) -> Vec<String> {
        let names = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("..2")).collect()
    }

    /// Giving a file to group 0 takes root.
    fn is_root() -> bool {
        let is_root = nix::unistd::geteuid().is_root();
        let skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
        assert!(is_root || skip.split([',', ' ']).any(|w| w == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
        is_root
    }

    #[test]
    fn s18_files_are_laid_out_as_by_a_kubelet() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = open(dir.path());
        write(root.as_fd(), &[file("a", "1"), file("d/e/f", "2"), file("d/g", "3")], None).unwrap();
        let at = |name: &str| dir.path().join(name);
        let stamp = stamps(dir.path());
        assert_eq!(stamp.len(), 1, "{stamp:?}");
        assert_eq!(stamp[0].len(), "..2026_11_26_02_10_11.123456789".len(), "{stamp:?}");
        assert_eq!(std::fs::read_link(at("..data")).unwrap(), Path::new(&stamp[0]));
        assert_eq!(std::fs::read_link(at("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(std::fs::read_link(at("d")).unwrap(), Path::new("..data/d"));
        assert_eq!(std::fs::read_to_string(at("d/e/f")).unwrap(), "2");
        assert_eq!(std::fs::metadata(at("a")).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(std::fs::metadata(at("d/e")).unwrap().permissions().mode() & 0o7777, 0o755);
        // The same again changes nothing, nor does another mode.
        let inode = std::fs::metadata(at("a")).unwrap().ino();
        let other_mode = VolumeFile { mode: 0o600, ..file("a", "1") };
        write(root.as_fd(), &[other_mode, file("d/e/f", "2"), file("d/g", "3")], None).unwrap();
        assert_eq!((stamps(dir.path()), std::fs::metadata(at("a")).unwrap().ino()), (stamp.clone(), inode));
        // What changed is another directory, and the old one is gone; who has the old file open still reads it.
        let mut held = std::fs::File::open(at("a")).unwrap();
        write(root.as_fd(), &[file("a", "one"), file("h", "4")], None).unwrap();
        assert_eq!(std::fs::read_to_string(at("a")).unwrap(), "one");
        assert!(!at("d").exists() && std::fs::symlink_metadata(at("d")).is_err());
        let now = stamps(dir.path());
        assert!(now.len() == 1 && now != stamp, "{now:?}");
        let mut old = String::new();
        held.read_to_string(&mut old).unwrap();
        assert_eq!(old, "1");
        // One file less, and none.
        write(root.as_fd(), &[file("a", "one")], None).unwrap();
        assert!(std::fs::symlink_metadata(at("h")).is_err());
        write(root.as_fd(), &[], None).unwrap();
        assert_eq!(names(root.as_fd()).unwrap().len(), 2, "..data and its directory");
    }

    #[test]
    fn s19_files_are_the_groups_before_they_are_seen() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = open(dir.path());
        // Whatever the policy says.
        let group = Some(FsGroup { gid: 4321, policy: FsGroupChangePolicy::OnRootMismatch });
        for content in ["1", "2"] {
            let secret = VolumeFile { mode: 0o400, ..file("d/secret", content) };
            write(root.as_fd(), &[secret], group).unwrap();
            for (name, mode) in [("..data/", 0o2755), ("..data/d", 0o2755), ("..data/d/secret", 0o440)] {
                let status = std::fs::metadata(dir.path().join(name)).unwrap();
                assert_eq!((status.gid(), status.mode() & 0o7777), (4321, mode), "{name} {content}");
            }
            let itself = std::fs::metadata(dir.path()).unwrap();
            assert_ne!(itself.gid(), 4321, "that is done by who made it");
        }
    }

    #[test]
    fn d4_what_somebody_planted_is_not_followed() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let victim = tempfile::tempdir().unwrap();
        std::fs::write(victim.path().join("file"), "untouched").unwrap();
        let root = open(dir.path());
        let at = |name: &str| dir.path().join(name);
        let files = [file("a", "1"), file("d/f", "2")];
        write(root.as_fd(), &files, None).unwrap();
        let planted: [(&str, &dyn Fn()); 6] = [
            ("data to the victim", &|| {
                std::fs::remove_file(at("..data")).unwrap();
                symlink(victim.path(), at("..data")).unwrap();
            }),
            ("a new data", &|| symlink(victim.path(), at("..data_tmp")).unwrap()),
            ("a file in the place of a link", &|| {
                std::fs::remove_file(at("a")).unwrap();
                symlink(victim.path().join("file"), at("a")).unwrap();
            }),
            ("a directory full of links", &|| {
                std::fs::create_dir(at("..2000")).unwrap();
                symlink(victim.path(), at("..2000/x")).unwrap();
            }),
            ("links in the files' directory", &|| {
                let inner = at("..data").canonicalize().unwrap();
                std::fs::remove_dir_all(inner.join("d")).unwrap();
                symlink(victim.path(), inner.join("d")).unwrap();
            }),
            ("a directory in the place of data", &|| {
                std::fs::remove_file(at("..data")).unwrap();
                std::fs::create_dir(at("..data")).unwrap();
                symlink(victim.path(), at("..data/x")).unwrap();
            }),
        ];
        for (name, plant) in planted {
            plant();
            write(root.as_fd(), &files, None).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert_eq!(std::fs::read_to_string(at("a")).unwrap(), "1", "{name}");
            assert_eq!(std::fs::read_to_string(at("d/f")).unwrap(), "2", "{name}");
            let left = names(root.as_fd()).unwrap();
            assert_eq!(left.len(), 4, "{name}: {left:?}");
            assert_eq!(std::fs::read_to_string(victim.path().join("file")).unwrap(), "untouched", "{name}");
            assert_eq!(std::fs::read_dir(victim.path()).unwrap().count(), 1, "{name}");
        }
        for path in ["", "..", "../x", "a/../b", "/a", "..x", "a/./b", "a//b"] {
            assert!(write(root.as_fd(), &[file(path, "")], None).is_err(), "{path:?}");
        }
    }
}
