//! Layers: a tree as a tar (image-spec 1.1, layer.md), the same bytes for the same tree wherever and whenever.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression as Level, GzBuilder};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::tree::{Kind, Node, Tree};

/// The longest name that fits a tar header; longer ones go into a PAX record.
const NAME_LEN: usize = 100;
/// The largest owner number that fits a tar header in octal.
const MAX_OCTAL_ID: u64 = 0o777_7777;

/// How a layer blob is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, with a header that names no file, time or system.
    #[default]
    Gzip,
}

/// A layer that has been written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// `sha256:…` of the blob as stored.
    pub digest: String,
    /// `sha256:…` of the uncompressed tar.
    pub diff_id: String,
    /// Length of the blob, in bytes.
    pub size: u64,
    /// How it is stored.
    pub compression: Compression,
}

/// Writes `tree` as a layer blob to `out`. No time in it is later than `latest` (seconds since 1970).
pub fn write(tree: &Tree, latest: u64, compression: Compression, out: impl Write) -> Result<Layer> {
    let mut blob = Hashing::new(out);
    let (diff_id, digest_and_size) = match compression {
        Compression::None => {
            write_tar(tree, latest, &mut blob)?;
            let (digest, size) = blob.finish();
            (digest.clone(), (digest, size))
        }
        Compression::Gzip => {
            // 255 is "unknown": the default is the system that this was compiled for.
            let gzip = GzBuilder::new().mtime(0).operating_system(255).write(&mut blob, Level::default());
            let mut plain = Hashing::new(gzip);
            write_tar(tree, latest, &mut plain)?;
            let (gzip, diff_id, _) = plain.into_parts();
            gzip.finish().context("writing a layer")?;
            (diff_id, blob.finish())
        }
    };
    let (digest, size) = digest_and_size;
    Ok(Layer { digest, diff_id, size, compression })
}

/// Writes `tree` as a tar: sorted, with numeric owners only, no time later than `latest` (seconds since 1970).
pub fn write_tar(tree: &Tree, latest: u64, out: impl Write) -> Result<()> {
    let mut builder = tar::Builder::new(out);
    for (path, node) in tree.ordered() {
        append(&mut builder, &Entry { path: &path, node: &node, latest })
            .with_context(|| format!("writing /{}", path.display()))?;
    }
    builder.into_inner().context("ending a tar")?.flush().context("ending a tar")
}

struct Entry<'a> {
    path: &'a Path,
    node: &'a Node,
    latest: u64,
}

fn append(builder: &mut tar::Builder<impl Write>, entry: &Entry<'_>) -> Result<()> {
    let node = entry.node;
    let mut header = Header::new_ustar();
    header.set_mode(node.mode);
    header.set_uid(node.uid);
    header.set_gid(node.gid);
    header.set_mtime(node.mtime.min(entry.latest));
    header.set_size(0);
    let mut name = entry.path.as_os_str().as_bytes().to_vec();
    let mut link = Vec::new();
    let mut content: (Box<dyn Read + '_>, u64) = (Box::new(io::empty()), 0);
    let entry_type = match &node.kind {
        Kind::Dir => {
            name.push(b'/');
            EntryType::Directory
        }
        Kind::File(bytes) => {
            content = bytes.open()?;
            EntryType::Regular
        }
        Kind::Symlink(target) => {
            link = target.as_os_str().as_bytes().to_vec();
            EntryType::Symlink
        }
        Kind::HardLink(target) => {
            link = target.as_os_str().as_bytes().to_vec();
            EntryType::Link
        }
        Kind::CharDevice { major, minor } => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            EntryType::Char
        }
        Kind::BlockDevice { major, minor } => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            EntryType::Block
        }
        Kind::Fifo => EntryType::Fifo,
    };
    header.set_entry_type(entry_type);
    header.set_size(content.1);

    // A hard link's attributes are those of the file that it names, which has its own entry.
    let xattrs = if entry_type == EntryType::Link { None } else { Some(&node.xattrs) };
    let mut pax = Vec::new();
    for (key, value) in [(&b"path"[..], &name), (b"linkpath", &link)] {
        if value.len() > NAME_LEN {
            pax_record(&mut pax, key, value);
        }
    }
    for (key, id) in [(&b"uid"[..], node.uid), (b"gid", node.gid)] {
        if id > MAX_OCTAL_ID {
            pax_record(&mut pax, key, id.to_string().as_bytes());
        }
    }
    for (key, value) in xattrs.into_iter().flatten() {
        pax_record(&mut pax, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
    }
    if !pax.is_empty() {
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        fill(&mut extended.as_old_mut().name, b"././@PaxHeader");
        extended.set_size(pax.len() as u64);
        extended.set_cksum();
        builder.append(&extended, pax.as_slice())?;
    }
    fill(&mut header.as_old_mut().name, &name);
    fill(&mut header.as_old_mut().linkname, &link);
    header.set_cksum();
    let (reader, len) = content;
    let mut counted = Counted { inner: reader.take(len), seen: 0 };
    builder.append(&header, &mut counted)?;
    anyhow::ensure!(counted.seen == len, "shrank from {len} to {} bytes while it was read", counted.seen);
    Ok(())
}

/// As much of `value` as fits; the whole of a longer one is in a PAX record.
fn fill(field: &mut [u8], value: &[u8]) {
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value[..len]);
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself (POSIX pax, "pax Extended Header").
fn pax_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(format!("{len} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

struct Counted<R> {
    inner: R,
    seen: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.seen += got as u64;
        Ok(got)
    }
}

/// A writer that hashes and counts what passes.
pub struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    /// Passes on to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    /// The digest (`sha256:…`) and the length in bytes.
    pub fn finish(self) -> (String, u64) {
        let (_, digest, size) = self.into_parts();
        (digest, size)
    }

    fn into_parts(self) -> (W, String, u64) {
        (self.inner, format!("sha256:{}", hex(&self.hash.finalize())), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The digest of bytes: `sha256:…`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        for (name, value_len, expected) in
            [("one digit", 1, 6), ("two digits", 5, 11), ("below the edge", 93, 99), ("at the edge", 94, 101)]
        {
            let mut record = Vec::new();
            pax_record(&mut record, b"k", &vec![b'x'; value_len]);
            assert_eq!(record.len(), expected, "{name}");
            assert!(record.starts_with(format!("{expected} k=").as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_tree_survives_its_tar() {
        let mut tree = Tree::new();
        let long = "d/".repeat(80) + "file";
        let mut special = Node::file("content", 0o4755);
        (special.uid, special.gid, special.mtime) = (3_000_000, 7, 99);
        special.xattrs.insert(b"user.x".to_vec(), b"a\0\n=b".to_vec());
        tree.insert(&long, special).unwrap();
        tree.insert("same", Node::new(Kind::HardLink(long.clone().into()), 0o644)).unwrap();
        tree.insert("null", Node::new(Kind::CharDevice { major: 1, minor: 3 }, 0o666)).unwrap();
        tree.insert("disk", Node::new(Kind::BlockDevice { major: 259, minor: 70_000 }, 0o660)).unwrap();
        tree.insert("pipe", Node::new(Kind::Fifo, 0o600)).unwrap();
        tree.insert("link", Node::new(Kind::Symlink("../x//y/".into()), 0o777)).unwrap();
        tree.delete("gone").unwrap();

        let mut tar = Vec::new();
        write_tar(&tree, 50, &mut tar).unwrap();
        let read = source::from_tar(tar.as_slice()).unwrap();
        let mut again = Vec::new();
        write_tar(&read, 50, &mut again).unwrap();
        assert_eq!(digest(&tar), digest(&again));

        let node = read.get(&long).unwrap();
        let Kind::File(content) = &node.kind else { panic!("not a file") };
        assert_eq!(content.read().unwrap(), b"content");
        assert_eq!((node.mode, node.uid, node.gid, node.mtime), (0o4755, 3_000_000, 7, 50));
        assert_eq!(node.xattrs[&b"user.x"[..]], b"a\0\n=b");
        assert!(matches!(read.get("disk").unwrap().kind, Kind::BlockDevice { major: 259, minor: 70_000 }));
        assert!(matches!(&read.get("link").unwrap().kind, Kind::Symlink(t) if t == Path::new("../x//y/")));
        assert!(matches!(&read.get("same").unwrap().kind, Kind::HardLink(t) if t == Path::new(&long)));
        assert!(read.get(".wh.gone").is_some());
    }

    #[test]
    fn the_diff_id_is_of_the_plain_tar() {
        let mut tree = Tree::new();
        tree.insert("a", Node::file("a", 0o644)).unwrap();
        let (mut plain, mut gzip) = (Vec::new(), Vec::new());
        let a = write(&tree, 0, Compression::None, &mut plain).unwrap();
        let b = write(&tree, 0, Compression::Gzip, &mut gzip).unwrap();
        assert_eq!(a.digest, digest(&plain));
        assert_eq!((&a.diff_id, a.size), (&a.digest, plain.len() as u64));
        assert_eq!((&b.digest, &b.diff_id), (&digest(&gzip), &a.diff_id));
        assert_eq!(gzip[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    }
}
