//! Unpacks one layer into an empty directory, in the form that overlayfs merges.
//!
//! Duty: apply a tar stream so that the merged layers look as if each changeset had been applied to one tree (image-spec
//! layer.md), and so that nothing outside the directory is ever touched. Every step works on a directory descriptor and one
//! name; links among the parents are expanded here, inside the layer's root, never by the kernel on a joined path.
//!
//! - Whiteouts become character devices 0:0 and opaque directories get `trusted.overlay.opaque=y`, but only where a layer
//!   below shows something: overlayfs lists such a device in a directory that only one layer has.
//! - A whiteout hides what is below, not what this same layer adds, in either order.
//! - A parent without an entry of its own gets the attributes it has below; a link below is followed, inside the root.
//! - `..` and absolute names are taken as below the root. The root itself stays 0755 root:root.
//! - `trusted.*`, `user.overlay.*` and `security.*` other than file capabilities are dropped: an image must not speak to
//!   overlayfs or to the host's security modules. A character device 0:0 as an entry is refused.

use super::directories::{Directories, DirectoryId, MAX_PATH, ROOT};
use super::entry::{Entries, Entry, EntryKind, Time};
use super::tree::{Below, Found, OPAQUE, dir_flags, file_type, is_whiteout, remove_tree, stat_entry};
use super::write_back::WriteBack;
use crate::sys::fs::{MAX_LINKS, ResolveFlags, lsetxattrat, open_in_root, openat2};
use crate::sys::{Called, SysError, SysResult};
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, futimens, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, fchownat, linkat, symlinkat};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How much one layer may hold before it is refused: protection against bombs, not a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the tar.
    pub entries: u64,
    /// Bytes of the tar, unpacked.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 5_000_000, bytes: 128 << 30 }
    }
}

/// How much is written at a time.
const BUFFER: usize = 128 << 10;
/// Below a directory, and through no link.
const INSIDE: ResolveFlags = ResolveFlags::RESOLVE_BENEATH.union(ResolveFlags::RESOLVE_NO_SYMLINKS);

/// Applies the tar stream to the empty directory `root`; the stream is read to its end. Must be root.
pub fn apply(tar: impl Read, root: OwnedFd, below: &Below, limits: Limits) -> Result<()> {
    let (directories, buffer) = (Directories::new(), vec![0; BUFFER]);
    let mut layer = Layer { root, below, parent: None, directories, hide_root: false, buffer };
    layer.own_root()?;
    let mut entries = Entries::new(tar);
    let mut count = 0;
    while let Some(entry) = entries.advance()? {
        count += 1;
        ensure!(count <= limits.entries, "more than {} entries", limits.entries);
        layer
            .entry(&entry, &mut entries.body())
            .with_context(|| format!("entry {:?}", entry.name.to_string_lossy()))?;
    }
    layer.finish()
}

struct Layer<'a> {
    root: OwnedFd,
    below: &'a Below,
    /// The parent of the last entry: entries of one directory follow each other, and depth costs nothing.
    parent: Option<Parent>,
    /// Those that this layer has.
    directories: Directories,
    hide_root: bool,
    /// For what files hold.
    buffer: Vec<u8>,
}

/// A directory in the layer.
struct Parent {
    /// The path by which it was asked for.
    asked: Vec<OsString>,
    /// What it is without links.
    id: DirectoryId,
    fd: OwnedFd,
}

/// What a name in a tar stands for.
enum Name<'a> {
    Root,
    Plain(&'a OsStr),
    /// Hide this name.
    Whiteout(&'a OsStr),
    /// Hide everything below the directory.
    Opaque,
    /// Bookkeeping of the old AUFS driver.
    Ignored,
}

impl Layer<'_> {
    fn own_root(&self) -> Result<()> {
        let here = OsStr::new(".");
        chown(self.root.as_fd(), here, (0, 0))?;
        Ok(chmod(self.root.as_fd(), here, 0o755)?)
    }

    fn entry(&mut self, entry: &Entry, body: &mut dyn Read) -> Result<()> {
        ensure!(
            entry.name.len() <= MAX_PATH,
            "its path has {} bytes: {}",
            entry.name.len(),
            Errno::ENAMETOOLONG.desc()
        );
        let path = components(&entry.name);
        let (name, parents) = match classify(&path)? {
            Name::Ignored => return Ok(()),
            Name::Root => {
                ensure!(entry.kind == EntryKind::Directory, "the root of a layer must be a directory");
                self.directories.set_time(ROOT, entry.mtime);
                return Ok(());
            }
            Name::Opaque => {
                let parent = self.parent(&path[..path.len() - 1])?;
                let result = self.hide_below(&parent);
                self.parent = Some(parent);
                return result;
            }
            Name::Whiteout(name) => {
                let parent = self.parent(&path[..path.len() - 1])?;
                let result = self.whiteout(&parent, name);
                self.parent = Some(parent);
                return result;
            }
            Name::Plain(name) => (name, &path[..path.len() - 1]),
        };
        let parent = self.parent(parents)?;
        let result = self.place(entry, body, Place { parent: &parent, name });
        // After a removal the remembered descriptor may be of a directory that is gone.
        if result? == Placed::Fresh {
            self.parent = Some(parent);
        }
        Ok(())
    }

    fn place(&mut self, entry: &Entry, body: &mut dyn Read, place: Place) -> Result<Placed> {
        self.directories.length(place.parent.id, place.name)?;
        let dir = place.parent.fd.as_fd();
        let old = stat_entry(dir, place.name)?;
        if entry.kind == EntryKind::HardLink {
            return self.hard_link(entry, place);
        }
        let old_type = old.as_ref().map(file_type);
        if entry.kind == EntryKind::Directory && old_type == Some(SFlag::S_IFDIR) {
            self.attributes(entry, &place)?;
            return Ok(Placed::Fresh);
        }
        let placed = if old.is_some() { Placed::Replaced } else { Placed::Fresh };
        if old.is_some() {
            remove_tree(dir, place.name)?;
        }
        match entry.kind {
            EntryKind::Directory => {
                mkdirat(dir, place.name, Mode::S_IRWXU).called("mkdirat", place.name.display())?;
                // What stood here before, be it a whiteout, hid the directory below.
                if old.is_some() {
                    self.set_opaque(dir, place.name)?;
                }
            }
            EntryKind::File => return self.file(entry, body, place).map(|()| placed),
            EntryKind::Symlink => {
                symlinkat(entry.link.as_os_str(), dir, place.name).called("symlinkat", place.name.display())?;
            }
            EntryKind::Character if entry.device == (0, 0) => {
                bail!("a character device 0:0 is overlayfs' mark of a deleted file")
            }
            EntryKind::Character | EntryKind::Block => {
                let kind = if entry.kind == EntryKind::Block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
                mknod(dir, place.name, (kind, makedev(entry.device.0, entry.device.1)))?;
            }
            EntryKind::Fifo => mknod(dir, place.name, (SFlag::S_IFIFO, 0))?,
            EntryKind::HardLink => {}
        }
        self.attributes(entry, &place)?;
        Ok(placed)
    }

    fn file(&mut self, entry: &Entry, body: &mut dyn Read, place: Place) -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(place.parent.fd.as_fd(), place.name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .called("openat", place.name.display())?;
        let written = self.copy(body, File::from(fd)).context("writing it")?;
        ensure!(written == entry.size, "the archive is truncated");
        self.attributes(entry, &place)
    }

    /// io::copy(), with fewer system calls.
    fn copy(&mut self, body: &mut dyn Read, file: File) -> io::Result<u64> {
        let mut out = WriteBack::new(file);
        loop {
            match body.read(&mut self.buffer) {
                Ok(0) => return Ok(out.finish()),
                Ok(count) => out.write_all(&self.buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// CVE-2021-32760: a hard link's own mode and owner are not applied, they could be those of a file elsewhere.
    fn hard_link(&mut self, entry: &Entry, place: Place) -> Result<Placed> {
        let path = components(&entry.link);
        let what = || format!("hard link to {:?}", entry.link.to_string_lossy());
        let Some((target, parents)) = path.split_last() else { bail!("{}: the root of the layer", what()) };
        let parents: PathBuf = parents.iter().collect();
        let parents = if parents.as_os_str().is_empty() { PathBuf::from(".") } else { parents };
        let target_dir =
            open_in_root(self.root.as_fd(), &parents, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).with_context(what)?;
        let Some(stat) = stat_entry(target_dir.as_fd(), target).with_context(what)? else {
            return Err(SysError::new("linkat", target.display(), Errno::ENOENT)).with_context(what);
        };
        ensure!(file_type(&stat) != SFlag::S_IFDIR, "{}: it is a directory", what());
        ensure!(!is_whiteout(&stat), "{}: it was deleted", what());
        let dir = place.parent.fd.as_fd();
        let old = stat_entry(dir, place.name)?;
        if let Some(old) = &old {
            ensure!((old.st_dev, old.st_ino) != (stat.st_dev, stat.st_ino), "{}: it is this entry itself", what());
            remove_tree(dir, place.name)?;
        }
        linkat(target_dir.as_fd(), target.as_os_str(), dir, place.name, LinkatFlags::empty())
            .called("linkat", place.name.display())
            .with_context(what)?;
        Ok(if old.is_some() { Placed::Replaced } else { Placed::Fresh })
    }

    /// Owner before mode: chown(2) clears set-id bits. Attributes after both: it clears file capabilities too.
    fn attributes(&mut self, entry: &Entry, place: &Place) -> Result<()> {
        let (dir, name) = (place.parent.fd.as_fd(), place.name);
        chown(dir, name, (entry.uid, entry.gid))?;
        if entry.kind != EntryKind::Symlink {
            chmod(dir, name, entry.mode)?;
        }
        for (key, value) in &entry.xattrs {
            set_xattr(place, key, value)?;
        }
        if entry.kind == EntryKind::Directory {
            let id = self.directories.enter(place.parent.id, name)?;
            self.directories.set_time(id, entry.mtime);
            return Ok(());
        }
        let time = timespec(entry.mtime);
        utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink).called("utimensat", name.display())?;
        Ok(())
    }

    fn whiteout(&mut self, parent: &Parent, name: &OsStr) -> Result<()> {
        if self.find_below(parent, name)?.is_none() {
            return Ok(());
        }
        match stat_entry(parent.fd.as_fd(), name)? {
            None => mknod(parent.fd.as_fd(), name, (SFlag::S_IFCHR, 0)),
            // This layer adds a directory of that name: it stays, what is below does not show through.
            Some(stat) if file_type(&stat) == SFlag::S_IFDIR => self.set_opaque(parent.fd.as_fd(), name),
            Some(_) => Ok(()),
        }
    }

    /// What the layers below show as `name` in a directory.
    fn find_below(&self, dir: &Parent, name: &OsStr) -> SysResult<Option<Found>> {
        if self.below.is_empty() {
            return Ok(None);
        }
        let mut path = self.directories.path(dir.id);
        path.push(name.to_owned());
        self.below.find(&path)
    }

    fn hide_below(&mut self, dir: &Parent) -> Result<()> {
        if dir.id == ROOT {
            // overlayfs does not look at the attribute on a layer's root.
            self.hide_root = true;
            return Ok(());
        }
        self.set_opaque(dir.fd.as_fd(), OsStr::new("."))
    }

    fn set_opaque(&self, dir: BorrowedFd, name: &OsStr) -> Result<()> {
        if self.below.is_empty() {
            return Ok(());
        }
        Ok(lsetxattrat(dir, name, OsStr::new(OPAQUE), b"y")?)
    }

    fn at_root(&self) -> Result<Parent> {
        Ok(Parent { asked: Vec::new(), id: ROOT, fd: clone(&self.root)? })
    }

    /// The directory at `path`, made with its parents where it is missing.
    fn parent(&mut self, path: &[OsString]) -> Result<Parent> {
        let known = match self.parent.take() {
            Some(known) if path.starts_with(&known.asked) => known,
            _ => self.at_root()?,
        };
        let names = &path[known.asked.len()..];
        if names.is_empty() {
            return Ok(known);
        }
        let rest: PathBuf = names.iter().collect();
        match open_if_there(known.fd.as_fd(), &rest, OFlag::O_PATH)? {
            Some(fd) => {
                let mut id = known.id;
                for name in names {
                    id = self.directories.enter(id, name)?;
                }
                Ok(Parent { asked: path.to_vec(), id, fd })
            }
            None => self.walk(path),
        }
    }

    /// As [`Self::parent`], component by component from the root: follows links inside the root and makes what is missing.
    fn walk(&mut self, path: &[OsString]) -> Result<Parent> {
        let mut todo: VecDeque<OsString> = path.iter().cloned().collect();
        let mut here = self.at_root()?;
        let (mut links, mut followed) = (0, 0);
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                self.ascend(&mut here)?;
                continue;
            }
            let Some(target) = self.descend(&mut here, &name)? else { continue };
            links += 1;
            ensure!(links <= MAX_LINKS, "parent {:?}: {}", name.to_string_lossy(), Errno::ELOOP.desc());
            // Each of them may have as many bytes, which would all be walked for each entry behind them.
            followed += target.len();
            ensure!(
                followed <= MAX_PATH,
                "parent {:?}: the links up to there have {followed} bytes: {}",
                name.to_string_lossy(),
                Errno::ENAMETOOLONG.desc()
            );
            if target.as_bytes().starts_with(b"/") {
                here = self.at_root()?;
            }
            for component in target.as_bytes().split(|&b| b == b'/').rev() {
                if !component.is_empty() && component != b"." {
                    todo.push_front(OsStr::from_bytes(component).to_owned());
                }
            }
        }
        here.asked = path.to_vec();
        Ok(here)
    }

    /// Goes up, never above the root. The way down to here had no links, and nobody else moves what is in the layer.
    fn ascend(&self, here: &mut Parent) -> Result<()> {
        if here.id != ROOT {
            here.fd = openat(here.fd.as_fd(), "..", dir_flags(), Mode::empty()).called("openat", "..")?;
            here.id = self.directories.above(here.id);
        }
        Ok(())
    }

    /// Enters `name`, or returns the target of the link that it is.
    fn descend(&mut self, here: &mut Parent, name: &OsStr) -> Result<Option<OsString>> {
        let dir = here.fd.as_fd();
        match stat_entry(dir, name)? {
            Some(stat) if file_type(&stat) == SFlag::S_IFDIR => {}
            Some(stat) if file_type(&stat) == SFlag::S_IFLNK => {
                return Ok(Some(readlinkat(dir, name).called("readlinkat", name.display())?));
            }
            Some(stat) if is_whiteout(&stat) => {
                remove_tree(dir, name)?;
                self.make_parent(here, name, None)?;
                self.set_opaque(here.fd.as_fd(), name)?;
            }
            Some(_) => return Err(SysError::new("openat", name.display(), Errno::ENOTDIR)).context("parent"),
            None => match self.find_below(here, name)? {
                Some(Found::Symlink(target)) => return Ok(Some(target)),
                found => self.make_parent(here, name, found)?,
            },
        }
        here.id = self.directories.enter(here.id, name)?;
        here.fd = openat(here.fd.as_fd(), name, dir_flags(), Mode::empty()).called("openat", name.display())?;
        Ok(None)
    }

    /// A directory that the tar does not mention, with the attributes it has below.
    fn make_parent(&mut self, here: &Parent, name: &OsStr, found: Option<Found>) -> Result<()> {
        let id = self.directories.enter(here.id, name)?;
        let dir = here.fd.as_fd();
        mkdirat(dir, name, Mode::S_IRWXU).called("mkdirat", name.display())?;
        let mut time = Time::default();
        let (owner, mode) = match found {
            Some(Found::Directory(stat)) => {
                time = Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec };
                ((stat.st_uid, stat.st_gid), stat.st_mode & 0o7777)
            }
            _ => ((0, 0), 0o755),
        };
        chown(dir, name, owner)?;
        chmod(dir, name, mode)?;
        self.directories.set_time(id, time);
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        if self.hide_root {
            for name in self.below.root_names()? {
                self.whiteout(&self.at_root()?, &name)?;
            }
        }
        self.set_times()
    }

    /// Directory times are set last. Whose directory is the same is opened from there: paths may be long.
    fn set_times(&self) -> Result<()> {
        let mut opened: Option<(DirectoryId, Option<OwnedFd>)> = None;
        for (id, time) in self.directories.times() {
            let above = self.directories.above(id);
            if opened.as_ref().is_none_or(|(known, _)| *known != above) {
                let path: PathBuf = [OsString::from(".")].into_iter().chain(self.directories.path(above)).collect();
                opened = Some((above, open_if_there(self.root.as_fd(), &path, OFlag::O_PATH)?));
            }
            let Some((_, Some(dir))) = &opened else { continue };
            let name = self.directories.name(id);
            let Some(fd) = open_if_there(dir.as_fd(), Path::new(name), OFlag::O_RDONLY)? else { continue };
            let time = timespec(time);
            futimens(fd.as_fd(), &time, &time).called("futimens", name.display())?;
        }
        Ok(())
    }
}

/// A directory; `None` if there is none, or only through a link: a later entry may have put something else there.
fn open_if_there(dir: BorrowedFd, path: &Path, flags: OFlag) -> SysResult<Option<OwnedFd>> {
    match openat2(dir, path, flags | OFlag::O_DIRECTORY, 0, INSIDE) {
        Err(e) if matches!(e.errno(), Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => Ok(None),
        other => other.map(Some),
    }
}

/// Where an entry goes.
struct Place<'a> {
    parent: &'a Parent,
    name: &'a OsStr,
}

#[derive(PartialEq)]
enum Placed {
    Fresh,
    Replaced,
}

/// The components of a name, cleaned lexically: `.` and empty ones dropped, `..` never above the root.
fn components(name: &OsStr) -> Vec<OsString> {
    let mut path = Vec::new();
    for component in name.as_bytes().split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            _ => path.push(OsStr::from_bytes(component).to_owned()),
        }
    }
    path
}

/// image-spec layer.md, "Representing Changes"; `.wh..wh.*` other than the opaque mark is AUFS' own.
fn classify(path: &[OsString]) -> Result<Name<'_>> {
    let Some((last, parents)) = path.split_last() else { return Ok(Name::Root) };
    for parent in parents {
        if parent.as_bytes().starts_with(b".wh..wh.") {
            return Ok(Name::Ignored);
        }
        ensure!(!parent.as_bytes().starts_with(b".wh."), "a whiteout cannot have children");
    }
    let Some(hidden) = last.as_bytes().strip_prefix(b".wh.") else { return Ok(Name::Plain(last)) };
    match hidden {
        b".wh..opq" => Ok(Name::Opaque),
        b"" | b"." | b".." => bail!("invalid whiteout name"),
        _ if hidden.starts_with(b".wh.") => Ok(Name::Ignored),
        _ => Ok(Name::Whiteout(OsStr::from_bytes(hidden))),
    }
}

fn clone(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().context("duplicating a descriptor of the layer")
}

fn timespec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds, time.nanoseconds)
}

fn mknod(dir: BorrowedFd, name: &OsStr, node: (SFlag, u64)) -> Result<()> {
    let mode = Mode::empty();
    Ok(mknodat(dir, name, node.0, mode, node.1).called("mknodat", name.display())?)
}

fn chown(dir: BorrowedFd, name: &OsStr, owner: (u32, u32)) -> SysResult<()> {
    let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
    fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).called("fchownat", name.display())
}

/// Only on what was just made and is no link: nobody else can reach the directory (0700 above it).
fn chmod(dir: BorrowedFd, name: &OsStr, mode: u32) -> SysResult<()> {
    let mode = Mode::from_bits_truncate(mode);
    fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink).called("fchmodat", name.display())
}

fn set_xattr(place: &Place, key: &OsStr, value: &[u8]) -> Result<()> {
    let name = key.as_bytes();
    let dropped = name.starts_with(b"trusted.")
        || name.starts_with(b"user.overlay.")
        || (name.starts_with(b"security.") && name != b"security.capability");
    if dropped {
        return Ok(());
    }
    let known = ["user.", "security.", "system.posix_acl_"].iter().any(|prefix| name.starts_with(prefix.as_bytes()));
    ensure!(known, "extended attribute {:?} is of no known kind", key.to_string_lossy());
    match lsetxattrat(place.parent.fd.as_fd(), place.name, key, value) {
        // A file system without user attributes loses notes, not protections.
        Err(e) if e.errno() == Errno::EOPNOTSUPP && name.starts_with(b"user.") => Ok(()),
        result => Ok(result?),
    }
}
