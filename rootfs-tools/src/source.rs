//! Where a tree comes from: a folder, or a tar (gzip or not, a file or stdin).

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, process};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;

use crate::sys::{self, Xattrs};
use crate::tree::{Content, Kind, Node, Tree, clean, path_of};

/// The tree of a folder or of a tar, whichever `path` is; `-` is a tar on stdin.
pub fn open(path: &Path) -> Result<Tree> {
    if path == Path::new("-") {
        return from_tar(io::stdin().lock()).context("reading the tar on stdin");
    }
    if fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.is_dir() {
        from_dir(path)
    } else {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        from_tar(file).with_context(|| format!("reading the tar {}", path.display()))
    }
}

/// What is in the folder `root`: files, folders, symlinks, hard links, devices, pipes, with owners, modes and extended
/// attributes. Sockets are left out: they mean nothing without the process that listens.
pub fn from_dir(root: &Path) -> Result<Tree> {
    let mut walk = Walk { root, tree: Tree::new(), first_names: HashMap::new() };
    walk.folder(Path::new(""))?;
    Ok(walk.tree)
}

struct Walk<'a> {
    root: &'a Path,
    tree: Tree,
    /// The name under which a file of several names was first seen.
    first_names: HashMap<(u64, u64), PathBuf>,
}

impl Walk<'_> {
    fn folder(&mut self, relative: &Path) -> Result<()> {
        let dir = self.root.join(relative);
        let entries = fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.with_context(|| format!("listing {}", dir.display()))?.file_name());
        }
        names.sort();
        for name in names {
            let path = relative.join(&name);
            let on_disk = dir.join(&name);
            let meta = fs::symlink_metadata(&on_disk).with_context(|| format!("reading {}", on_disk.display()))?;
            let Some(kind) = self.kind(&path, &meta)? else { continue };
            let xattrs = sys::xattrs(&on_disk).with_context(|| format!("attributes of {}", on_disk.display()))?;
            let is_dir = matches!(kind, Kind::Dir);
            self.tree.insert(
                &path,
                Node {
                    kind,
                    mode: meta.mode() & 0o7777,
                    uid: meta.uid().into(),
                    gid: meta.gid().into(),
                    mtime: u64::try_from(meta.mtime()).unwrap_or(0),
                    xattrs,
                },
            )?;
            if is_dir {
                self.folder(&path)?;
            }
        }
        Ok(())
    }

    fn kind(&mut self, path: &Path, meta: &Metadata) -> Result<Option<Kind>> {
        let on_disk = self.root.join(path);
        let file_type = meta.file_type();
        if !meta.is_dir() && meta.nlink() > 1 {
            let first = self.first_names.entry((meta.dev(), meta.ino())).or_insert_with(|| path.to_path_buf());
            if first != path {
                return Ok(Some(Kind::HardLink(first.clone())));
            }
        }
        let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
        Ok(Some(if meta.is_dir() {
            Kind::Dir
        } else if meta.is_file() {
            Kind::File(Content::File(on_disk))
        } else if meta.is_symlink() {
            Kind::Symlink(fs::read_link(&on_disk).with_context(|| format!("reading {}", on_disk.display()))?)
        } else if file_type.is_char_device() {
            Kind::CharDevice { major, minor }
        } else if file_type.is_block_device() {
            Kind::BlockDevice { major, minor }
        } else if file_type.is_fifo() {
            Kind::Fifo
        } else {
            return Ok(None);
        }))
    }
}

/// What is in a tar, gzip or not. Whiteouts in it are taken as they are.
///
/// The tar goes to an unlinked temporary file first, so that contents need not be in memory.
pub fn from_tar(mut reader: impl Read) -> Result<Tree> {
    let mut magic = [0; 2];
    let got = read_up_to(&mut reader, &mut magic)?;
    let whole = io::Cursor::new(magic).take(got as u64).chain(reader);
    let mut file = temporary_file()?;
    if magic == [0x1f, 0x8b] {
        io::copy(&mut MultiGzDecoder::new(whole), &mut file).context("unpacking gzip")?;
    } else {
        io::copy(&mut { whole }, &mut file).context("copying a tar")?;
    }
    file.rewind().context("reading a tar again")?;
    let shared = Arc::new(file.try_clone().context("reading a tar again")?);
    let mut tree = Tree::new();
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut extended = Extended::default();
    // Raw: the tar crate takes PAX records apart at newlines, of which the value of an attribute may have some.
    for entry in archive.entries().context("reading a tar")?.raw(true) {
        let mut entry = entry.context("reading a tar entry")?;
        let entry_type = entry.header().entry_type();
        if matches!(entry_type, tar::EntryType::XHeader | tar::EntryType::GNULongName | tar::EntryType::GNULongLink) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).context("reading a tar entry")?;
            extended.read(entry_type, &bytes)?;
            continue;
        }
        if entry_type == tar::EntryType::XGlobalHeader {
            continue;
        }
        let about = std::mem::take(&mut extended);
        let header = entry.header();
        let path = about.path.clone().unwrap_or_else(|| path_of(&header.path_bytes()));
        let content =
            Content::Slice { file: Arc::clone(&shared), offset: entry.raw_file_position(), len: header.entry_size()? };
        let node = node_of(header, content, about).with_context(|| format!("entry {}", path.display()))?;
        tree.insert(&path, node)?;
    }
    Ok(tree)
}

/// What PAX and GNU records say of the entry that follows them.
#[derive(Default)]
struct Extended {
    path: Option<PathBuf>,
    link: Option<PathBuf>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
    xattrs: Xattrs,
}

impl Extended {
    fn read(&mut self, entry_type: tar::EntryType, bytes: &[u8]) -> Result<()> {
        let name = || path_of(bytes.strip_suffix(b"\0").unwrap_or(bytes));
        match entry_type {
            tar::EntryType::GNULongName => self.path = Some(name()),
            tar::EntryType::GNULongLink => self.link = Some(name()),
            _ => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let (key, value, next) = pax_record(rest).context("malformed PAX record")?;
                    self.set(key, value)?;
                    rest = next;
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // Times have a fraction, which is dropped; those before 1970 are taken as 1970.
        let number = || -> Option<u64> { str::from_utf8(value).ok()?.split('.').next()?.parse().ok() };
        match key {
            b"path" => self.path = Some(path_of(value)),
            b"linkpath" => self.link = Some(path_of(value)),
            b"uid" => self.uid = number(),
            b"gid" => self.gid = number(),
            b"mtime" => self.mtime = Some(number().unwrap_or(0)),
            b"size" => bail!("a file that needs a PAX record for its size (8 GiB and more) is not supported"),
            _ if key.starts_with(b"GNU.sparse.") => bail!("sparse files are not supported: pack without --sparse"),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// Key, value, and what follows, of `LENGTH KEY=VALUE\n`, where the length counts the whole record.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|b| *b == b' ')?;
    let len: usize = str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[len..]))
}

/// The node of one tar entry.
fn node_of(header: &tar::Header, content: Content, about: Extended) -> Result<Node> {
    let device = |value: io::Result<Option<u32>>| -> Result<u32> { value?.context("a device without number") };
    let link = || -> Result<PathBuf> {
        let in_header = || header.link_name_bytes().map(|bytes| path_of(&bytes));
        about.link.clone().or_else(in_header).context("a link without target")
    };
    let kind = match header.entry_type() {
        tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File(content),
        tar::EntryType::Directory => Kind::Dir,
        tar::EntryType::Symlink => Kind::Symlink(link()?),
        tar::EntryType::Link => Kind::HardLink(clean(&link()?)?),
        tar::EntryType::Char => {
            Kind::CharDevice { major: device(header.device_major())?, minor: device(header.device_minor())? }
        }
        tar::EntryType::Block => {
            Kind::BlockDevice { major: device(header.device_major())?, minor: device(header.device_minor())? }
        }
        tar::EntryType::Fifo => Kind::Fifo,
        other => bail!("tar entry type {other:?} is not supported"),
    };
    let mut node = Node::new(kind, header.mode()? & 0o7777);
    node.uid = about.uid.map_or_else(|| header.uid(), Ok)?;
    node.gid = about.gid.map_or_else(|| header.gid(), Ok)?;
    node.mtime = about.mtime.map_or_else(|| header.mtime(), Ok)?;
    node.xattrs = about.xattrs;
    Ok(node)
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]).context("reading a tar")? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}

/// A file without a name in the temporary folder.
fn temporary_file() -> Result<File> {
    for attempt in 0_u32.. {
        let path = env::temp_dir().join(format!("rootfs-tools.{}.{attempt}", process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("creating {}", path.display())),
            Ok(file) => {
                fs::remove_file(&path).with_context(|| format!("unlinking {}", path.display()))?;
                return Ok(file);
            }
        }
    }
    unreachable!("an open range does not end")
}
