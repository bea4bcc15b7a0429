//! Directory trees by descriptor: removing one whose content is hostile, and looking things up in the layers below.

use crate::sys::fs::{allow_removal, lgetxattrat, names, openat2};
use crate::sys::{Called, SysResult};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The attribute by which overlayfs knows a directory that hides the one below it.
pub const OPAQUE: &str = "trusted.overlay.opaque";
/// How deep directories are held open while a tree is removed; deeper ones are first moved up.
const MAX_DEPTH: u32 = 100;

/// The flags with which a directory is opened only to name things in it.
pub fn dir_flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// `fstatat(2)` of an entry itself, `None` if there is none.
pub fn stat_entry(dir: BorrowedFd, name: &OsStr) -> SysResult<Option<FileStat>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(e).called("fstatat", name.display()),
    }
}

/// The file type bits of a stat.
pub fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Whether it is overlayfs' mark of a deleted name: a character device 0:0.
pub fn is_whiteout(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

/// Removes `name` from `dir` with everything below it; "already gone" is success.
///
/// Never follows a link nor enters what is mounted there (EXDEV, or EBUSY), holds a bounded number of descriptors whatever the depth, and takes time linear in the tree.
pub fn remove_tree(dir: BorrowedFd, name: &OsStr) -> SysResult<()> {
    match unlink(dir, name) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        // Of a read-only file system this is said before it is looked whether there is such a file.
        Err(Errno::EROFS) if stat_entry(dir, name)?.is_none() => return Ok(()),
        Err(e) => return Err(e).called("unlinkat", name.display()),
    }
    let Some(top) = open_dir_if_there(dir, name)? else { return Ok(()) };
    let mut moved = 0;
    // Directories that lay too deep turn up in `top` again, and are taken in the next round.
    while empty(top.as_fd(), top.as_fd(), Depth { level: 0, moved: &mut moved })? {}
    remove_dir(dir, name)
}

/// `unlinkat(2)`, also of an empty directory; EISDIR of one that is not. What a container made immutable or append-only (which takes
/// CAP_LINUX_IMMUTABLE) is not kept by that.
fn unlink(dir: BorrowedFd, name: &OsStr) -> nix::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        // Most are empty, and need no look into them.
        Err(Errno::EISDIR) => unlinkat(dir, name, UnlinkatFlags::RemoveDir).map_err(|_| Errno::EISDIR),
        // A directory without such a flag gives EISDIR.
        Err(Errno::EPERM) if release(dir, name).is_ok() => unlinkat(dir, name, UnlinkatFlags::NoRemoveDir),
        other => other,
    }
}

/// Takes the flags that forbid removal from a directory and from one of its entries.
fn release(dir: BorrowedFd, name: &OsStr) -> SysResult<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let open = |name: &OsStr| openat(dir, name, flags, Mode::empty()).called("openat", name.display());
    allow_removal(open(OsStr::new("."))?.as_fd())?;
    match stat_entry(dir, name)? {
        // Nothing else has such flags, and opening it might do something.
        Some(stat) if [SFlag::S_IFREG, SFlag::S_IFDIR].contains(&file_type(&stat)) => {
            allow_removal(open(name)?.as_fd())
        }
        _ => Ok(()),
    }
}

/// `None` if somebody else removed it meanwhile; EXDEV if something is mounted there.
fn open_dir_if_there(dir: BorrowedFd, name: &OsStr) -> SysResult<Option<OwnedFd>> {
    match openat2(dir, Path::new(name), dir_flags(), 0, ResolveFlag::RESOLVE_NO_XDEV) {
        Err(error) if error.errno() == Errno::ENOENT => Ok(None),
        other => other.map(Some),
    }
}

fn remove_dir(dir: BorrowedFd, name: &OsStr) -> SysResult<()> {
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => other.called("unlinkat", name.display()),
    }
}

struct Depth<'a> {
    level: u32,
    moved: &'a mut u64,
}

/// Empties a directory; true if something was moved up to `top` meanwhile.
fn empty(dir: BorrowedFd, top: BorrowedFd, depth: Depth) -> SysResult<bool> {
    let mut again = false;
    for name in names(dir)? {
        match unlink(dir, &name) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(e) => return Err(e).called("unlinkat", name.display()),
        }
        if depth.level >= MAX_DEPTH {
            *depth.moved += 1;
            let new = format!(".podshim-remove-{}", depth.moved);
            match renameat(dir, name.as_os_str(), top, new.as_str()) {
                Err(Errno::ENOENT) => {}
                other => other.called("renameat", name.display())?,
            }
            again = true;
            continue;
        }
        let Some(child) = open_dir_if_there(dir, &name)? else { continue };
        again |= empty(child.as_fd(), top, Depth { level: depth.level + 1, moved: &mut *depth.moved })?;
        remove_dir(dir, &name)?;
    }
    Ok(again)
}

/// What the layers below show at a path.
pub enum Found {
    /// A directory, with its attributes.
    Directory(Box<FileStat>),
    /// A link and its target.
    Symlink(OsString),
    /// Anything else.
    Other,
}

/// The layers below the one that is being unpacked, lowest first; read as overlayfs would merge them.
#[derive(Default)]
pub struct Below {
    layers: Vec<OwnedFd>,
}

impl Below {
    /// Adds a layer on top of those there are.
    pub fn push(&mut self, layer: OwnedFd) {
        self.layers.push(layer);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// What is visible at `path`, whose parents are real directories (no link is followed).
    pub fn find(&self, path: &[OsString]) -> SysResult<Option<Found>> {
        for layer in self.layers.iter().rev() {
            match find_in(layer.as_fd(), path)? {
                Lookup::Found(found) => return Ok(Some(found)),
                Lookup::Hidden => return Ok(None),
                Lookup::Below => {}
            }
        }
        Ok(None)
    }

    /// The names visible in the root directory.
    pub fn root_names(&self) -> SysResult<BTreeSet<OsString>> {
        let (mut decided, mut visible) = (BTreeSet::new(), BTreeSet::new());
        for layer in self.layers.iter().rev() {
            for name in names(layer.as_fd())? {
                let whiteout = stat_entry(layer.as_fd(), &name)?.is_none_or(|s| is_whiteout(&s));
                if decided.insert(name.clone()) && !whiteout {
                    visible.insert(name);
                }
            }
        }
        Ok(visible)
    }
}

enum Lookup {
    Found(Found),
    /// This layer decides that nothing below is visible there.
    Hidden,
    /// This layer says nothing: ask the one below.
    Below,
}

fn find_in(layer: BorrowedFd, path: &[OsString]) -> SysResult<Lookup> {
    let mut dir: Option<OwnedFd> = None;
    let mut missing = Lookup::Below;
    for (i, name) in path.iter().enumerate() {
        let here = dir.as_ref().map_or(layer, |d| d.as_fd());
        let Some(stat) = stat_entry(here, name)? else { return Ok(missing) };
        let kind = file_type(&stat);
        let last = i + 1 == path.len();
        if is_whiteout(&stat) || (!last && kind != SFlag::S_IFDIR) {
            return Ok(Lookup::Hidden);
        }
        if last {
            return Ok(Lookup::Found(match kind {
                SFlag::S_IFDIR => Found::Directory(Box::new(stat)),
                SFlag::S_IFLNK => {
                    Found::Symlink(readlinkat(here, name.as_os_str()).called("readlinkat", name.display())?)
                }
                _ => Found::Other,
            }));
        }
        let next = openat(here, name.as_os_str(), dir_flags(), Mode::empty()).called("openat", name.display())?;
        if lgetxattrat(next.as_fd(), OsStr::new("."), OsStr::new(OPAQUE))?.as_deref() == Some(b"y") {
            missing = Lookup::Hidden;
        }
        dir = Some(next);
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_deep_tree_with_links_out_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("canary")).unwrap();
        std::fs::write(dir.path().join("canary/file"), "x").unwrap();
        let top = openat(nix::fcntl::AT_FDCWD, dir.path(), dir_flags(), Mode::empty()).unwrap();
        let mut at = top.try_clone().unwrap();
        for i in 0..2000 {
            nix::sys::stat::mkdirat(at.as_fd(), "d", Mode::S_IRWXU).unwrap();
            at = openat(at.as_fd(), "d", dir_flags(), Mode::empty()).unwrap();
            if i % 100 == 0 {
                nix::unistd::symlinkat(&dir.path().join("canary"), at.as_fd(), "link").unwrap();
            }
        }
        symlink("canary", dir.path().join("plain")).unwrap();
        remove_tree(top.as_fd(), OsStr::new("d")).unwrap();
        remove_tree(top.as_fd(), OsStr::new("plain")).unwrap();
        remove_tree(top.as_fd(), OsStr::new("absent")).unwrap();
        assert_eq!(names(top.as_fd()).unwrap(), ["canary"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("canary/file")).unwrap(), "x");
    }
}
