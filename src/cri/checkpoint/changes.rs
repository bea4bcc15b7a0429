//! What a container has changed of its image: the upper directory of its overlay as a tar archive (`rootfs-diff.tar`), and the
//! list of what it has removed (`deleted.files`), as CRI-O and podman have them.
//!
//! The tree is the container's work, and processes that were executed in it are not stopped by a checkpoint: everything is opened
//! by descriptor and no link is followed, sizes are those of the header whatever a file does meanwhile, holes stay holes.

use super::Bounded;
use crate::image::tree::{OPAQUE, dir_flags, file_type, is_whiteout, stat_entry};
use crate::plan::config::IdRange;
use crate::sys::fs::{ResolveFlags, lgetxattrat, llistxattrat, names, open_regular};
use crate::sys::{Called, SysResult};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, major, minor};
use nix::unistd::{Whence, lseek};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, GnuExtSparseHeader, Header};

/// How deep directories may be: each is held open.
const MAX_DEPTH: usize = 512;
/// The attributes by which overlayfs finds content elsewhere, which there would have to be followed.
const ELSEWHERE: [&str; 2] = ["trusted.overlay.redirect", "trusted.overlay.metacopy"];

/// Where a container's file system comes from.
pub(super) struct Source<'a> {
    /// The upper directory.
    pub(super) upper: &'a Path,
    /// The image's layers, lowest first.
    pub(super) layers: &'a [PathBuf],
    /// The ids of the sandbox, if it has its own.
    pub(super) ids: Option<IdRange>,
}

/// Writes the archive; returns what was removed, as absolute paths in the container.
pub(super) fn write(source: &Source<'_>, archive: &mut Bounded<File>) -> Result<Vec<PathBuf>> {
    let open = |path: &Path| nix::fcntl::open(path, dir_flags(), Mode::empty()).called("open", path.display());
    let layers = source.layers.iter().map(|layer| open(layer)).collect::<SysResult<Vec<_>>>()?;
    let upper = open(source.upper)?;
    let builder = Builder::new(archive);
    let mut changes = Changes { builder, layers, ids: source.ids, links: HashMap::new(), removed: Vec::new() };
    changes.tree(upper)?;
    changes.builder.finish().context("writing rootfs-diff.tar")?;
    Ok(changes.removed)
}

/// What of the image is seen in a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    /// What the container has not removed.
    Shown,
    /// Nothing: the directory was removed and made again.
    Hidden,
}

struct Changes<'a> {
    builder: Builder<&'a mut Bounded<File>>,
    layers: Vec<OwnedFd>,
    ids: Option<IdRange>,
    /// Files with several names, by device and inode: the name that they were written by.
    links: HashMap<(u64, u64), PathBuf>,
    removed: Vec<PathBuf>,
}

/// An entry of a directory.
struct Entry<'a> {
    directory: BorrowedFd<'a>,
    name: &'a OsStr,
    stat: FileStat,
    path: &'a Path,
}

/// A directory that is being gone through.
struct Listed {
    fd: OwnedFd,
    names: std::vec::IntoIter<OsString>,
    below: Below,
    depth: usize,
}

impl Changes<'_> {
    /// Everything in the upper directory. Not by recursion: how deep it goes is the container's to say.
    fn tree(&mut self, upper: OwnedFd) -> Result<()> {
        let mut at: Vec<OsString> = Vec::new();
        let mut open = vec![self.listed(upper, &at, Below::Shown)?];
        while let Some(directory) = open.last_mut() {
            at.truncate(directory.depth);
            let Some(name) = directory.names.next() else {
                open.pop();
                continue;
            };
            // Removed meanwhile, by a process that is not stopped.
            let Some(stat) = stat_entry(directory.fd.as_fd(), &name)? else { continue };
            at.push(name.clone());
            let path: PathBuf = at.iter().collect();
            let below = directory.below;
            let entry = Entry { directory: directory.fd.as_fd(), name: &name, stat, path: &path };
            let within = || format!("/{} of the container", path.display());
            let Some((inner, opaque)) = self.entry(&entry).with_context(within)? else { continue };
            if at.len() > MAX_DEPTH {
                bail!("directories are more than {MAX_DEPTH} deep");
            }
            let below = if opaque { Below::Hidden } else { below };
            open.push(self.listed(inner, &at, below).with_context(within)?);
        }
        Ok(())
    }

    /// A directory whose path is `at`; what is hidden by it is removed.
    fn listed(&mut self, fd: OwnedFd, at: &[OsString], below: Below) -> Result<Listed> {
        let mut here = names(fd.as_fd())?;
        here.sort();
        if below == Below::Hidden {
            let path: PathBuf = at.iter().collect();
            let hidden = visible(&self.layers, at)?.into_iter().filter(|name| here.binary_search(name).is_err());
            self.removed.extend(hidden.map(|name| Path::new("/").join(&path).join(name)));
        }
        Ok(Listed { fd, names: here.into_iter(), below, depth: at.len() })
    }

    /// Writes an entry; a directory is returned, with whether it hides what is below it.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Option<(OwnedFd, bool)>> {
        let kind = file_type(&entry.stat);
        if is_whiteout(&entry.stat) {
            self.removed.push(Path::new("/").join(entry.path));
            return Ok(None);
        }
        if kind == SFlag::S_IFSOCK {
            // tar has none, and nobody listens there any more.
            return Ok(None);
        }
        let key = (entry.stat.st_dev, entry.stat.st_ino);
        if kind != SFlag::S_IFDIR && entry.stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&key) {
                let mut header = self.header(entry, EntryType::Link)?;
                self.builder.append_link(&mut header, entry.path, first)?;
                return Ok(None);
            }
            self.links.insert(key, entry.path.to_owned());
        }
        self.attributes(entry)?;
        match kind {
            SFlag::S_IFDIR => return self.subdirectory(entry),
            SFlag::S_IFREG => self.file(entry)?,
            SFlag::S_IFLNK => {
                let target = readlinkat(entry.directory, entry.name).called("readlinkat", entry.name.display())?;
                let mut header = self.header(entry, EntryType::Symlink)?;
                // As it is, and not made shorter, where there is room for it.
                match header.set_link_name_literal(target.as_bytes()) {
                    Ok(()) => self.builder.append_data(&mut header, entry.path, std::io::empty())?,
                    Err(_) => self.builder.append_link(&mut header, entry.path, target)?,
                }
            }
            SFlag::S_IFIFO => self.node(entry, EntryType::Fifo)?,
            SFlag::S_IFCHR => self.node(entry, EntryType::Char)?,
            SFlag::S_IFBLK => self.node(entry, EntryType::Block)?,
            other => bail!("a file of type {:#o}", other.bits()),
        }
        Ok(None)
    }

    fn subdirectory(&mut self, entry: &Entry<'_>) -> Result<Option<(OwnedFd, bool)>> {
        let opened = match openat(entry.directory, entry.name, dir_flags(), Mode::empty()) {
            // Replaced meanwhile, by a process that is not stopped.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
            other => other.called("openat", entry.name.display())?,
        };
        let mut header = self.header(entry, EntryType::Directory)?;
        self.builder.append_data(&mut header, entry.path, std::io::empty())?;
        let opaque = lgetxattrat(opened.as_fd(), OsStr::new("."), OsStr::new(OPAQUE))?;
        Ok(Some((opened, opaque.as_deref() == Some(b"y"))))
    }

    fn node(&mut self, entry: &Entry<'_>, kind: EntryType) -> Result<()> {
        let mut header = self.header(entry, kind)?;
        if kind != EntryType::Fifo {
            let number = |number: u64| u32::try_from(number).context("a device number");
            header.set_device_major(number(major(entry.stat.st_rdev))?)?;
            header.set_device_minor(number(minor(entry.stat.st_rdev))?)?;
        }
        Ok(self.builder.append_data(&mut header, entry.path, std::io::empty())?)
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<()> {
        let beneath = ResolveFlags::RESOLVE_BENEATH | ResolveFlags::RESOLVE_NO_SYMLINKS;
        // Replaced meanwhile by something else, by a process that is not stopped.
        let Some(mut file) = open_regular(entry.directory, Path::new(entry.name), beneath)? else { return Ok(()) };
        let size = file.metadata().called("fstat", entry.name.display())?.len();
        let stored = stored(&file, size)?;
        file.rewind().called("lseek", entry.name.display())?;
        if stored == [(0, size)] || size == 0 {
            let mut header = self.header(entry, EntryType::Regular)?;
            header.set_size(size);
            return Ok(self.builder.append_data(&mut header, entry.path, Exactly { file: &mut file, left: size })?);
        }
        self.sparse(entry, (file, size), stored)
    }

    /// A file with holes, as GNU tar writes it: what is stored, and where.
    fn sparse(&mut self, entry: &Entry<'_>, (mut file, size): (File, u64), mut stored: Vec<(u64, u64)>) -> Result<()> {
        // Says how long the file is.
        stored.push((size, 0));
        let mut header = self.header(entry, EntryType::GNUSparse)?;
        header.set_size(stored.iter().map(|(_, length)| length).sum());
        let gnu = header.as_gnu_mut().context("the header is GNU tar's")?;
        gnu.set_real_size(size);
        let (first, rest) = stored.split_at(stored.len().min(gnu.sparse.len()));
        for (place, (offset, length)) in gnu.sparse.iter_mut().zip(first) {
            place.set_offset(*offset);
            place.set_length(*length);
        }
        gnu.set_is_extended(!rest.is_empty());
        let mut more = Vec::new();
        let mut blocks = rest.chunks(GnuExtSparseHeader::new().sparse.len()).peekable();
        while let Some(chunk) = blocks.next() {
            let mut block = GnuExtSparseHeader::new();
            for (place, (offset, length)) in block.sparse_mut().iter_mut().zip(chunk) {
                place.set_offset(*offset);
                place.set_length(*length);
            }
            block.set_is_extended(blocks.peek().is_some());
            more.extend_from_slice(block.as_bytes());
        }
        // The blocks are whole, so that the padding is that of the data.
        let data = Segments { file: &mut file, segments: stored.into_iter(), left: 0 };
        Ok(self.builder.append_data(&mut header, entry.path, Cursor::new(more).chain(data))?)
    }

    fn header(&self, entry: &Entry<'_>, kind: EntryType) -> Result<Header> {
        let id = |id: u32| match self.ids {
            None => Some(id),
            Some(range) => range.in_pod(id),
        };
        let (uid, gid) = (id(entry.stat.st_uid), id(entry.stat.st_gid));
        let (uid, gid) = uid.zip(gid).context("its owner is none of the container's")?;
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(entry.stat.st_mode & 0o7777);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(u64::try_from(entry.stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        Ok(header)
    }

    /// Extended attributes, but for overlayfs' own.
    fn attributes(&mut self, entry: &Entry<'_>) -> Result<()> {
        let mut found = Vec::new();
        for name in llistxattrat(entry.directory, entry.name)? {
            if ELSEWHERE.iter().any(|other| name == *other) {
                bail!("overlayfs has its content elsewhere ({})", name.display());
            }
            let Some(key) = name.to_str().filter(|key| !key.starts_with("trusted.overlay.")) else { continue };
            if let Some(value) = lgetxattrat(entry.directory, entry.name, &name)? {
                found.push((format!("SCHILY.xattr.{key}"), value));
            }
        }
        let pairs = found.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        Ok(self.builder.append_pax_extensions(pairs)?)
    }
}

/// The names that are to be seen in a directory of an image.
fn visible(layers: &[OwnedFd], at: &[OsString]) -> Result<BTreeSet<OsString>> {
    let (mut decided, mut visible) = (BTreeSet::new(), BTreeSet::new());
    'layers: for layer in layers.iter().rev() {
        let mut directory = layer.try_clone().called("fcntl", "a layer")?;
        let mut hides = false;
        for name in at {
            match stat_entry(directory.as_fd(), name)? {
                None if hides => break 'layers,
                None => continue 'layers,
                Some(stat) if file_type(&stat) != SFlag::S_IFDIR => break 'layers,
                Some(_) => {}
            }
            directory =
                openat(&directory, name.as_os_str(), dir_flags(), Mode::empty()).called("openat", name.display())?;
            hides |= lgetxattrat(directory.as_fd(), OsStr::new("."), OsStr::new(OPAQUE))?.as_deref() == Some(b"y");
        }
        for name in names(directory.as_fd())? {
            let is_there = stat_entry(directory.as_fd(), &name)?.is_some_and(|stat| !is_whiteout(&stat));
            if decided.insert(name.clone()) && is_there {
                visible.insert(name);
            }
        }
        if hides {
            break;
        }
    }
    Ok(visible)
}

/// Where a file is not a hole: offsets and lengths. One that cannot tell has none.
fn stored(file: &File, size: u64) -> SysResult<Vec<(u64, u64)>> {
    let seek = |offset: u64, whence| {
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW).called("lseek", offset)?;
        match lseek(file, offset, whence) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            // Behind the last data.
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno).called("lseek", offset),
        }
    };
    let mut stored = Vec::new();
    let mut at = 0;
    while at < size {
        let Some(begin) = seek(at, Whence::SeekData)?.filter(|begin| *begin < size) else { break };
        let end = seek(begin, Whence::SeekHole)?.unwrap_or(size).min(size);
        // It was cut off meanwhile.
        if end <= begin {
            break;
        }
        stored.push((begin, end - begin));
        at = end;
    }
    Ok(stored)
}

/// So much of a file as its header says, with zeros for what is not there any more.
struct Exactly<'a> {
    file: &'a mut File,
    left: u64,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        let mut read = self.file.read(&mut buffer[..length])?;
        if read == 0 {
            buffer[..length].fill(0);
            read = length;
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// The stored parts of a file, one after the other.
struct Segments<'a> {
    file: &'a mut File,
    segments: std::vec::IntoIter<(u64, u64)>,
    left: u64,
}

impl Read for Segments<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            let Some((offset, length)) = self.segments.next() else { return Ok(0) };
            self.file.seek(SeekFrom::Start(offset))?;
            self.left = length;
        }
        let mut part = Exactly { file: self.file, left: self.left };
        let read = part.read(buffer)?;
        self.left = part.left;
        Ok(read)
    }
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
