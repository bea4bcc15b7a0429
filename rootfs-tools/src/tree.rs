//! What is in one layer: paths and what they are, in memory; contents stay where they are until they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::sys::Xattrs;

/// How many symlinks a lookup follows before it is a loop (the kernel's limit).
const MAX_SYMLINKS: usize = 40;

/// Where the bytes of a regular file come from.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes made here.
    Bytes(Arc<[u8]>),
    /// A file on this machine, read when the layer is written.
    File(PathBuf),
    /// A part of a tar.
    Slice {
        /// The tar, uncompressed.
        file: Arc<File>,
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
    },
}

impl Content {
    /// The bytes and how many there are.
    pub fn open(&self) -> Result<(Box<dyn Read + '_>, u64)> {
        match self {
            Content::Bytes(bytes) => Ok((Box::new(Cursor::new(bytes)), bytes.len() as u64)),
            Content::File(path) => {
                let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
                let len = file.metadata().with_context(|| format!("size of {}", path.display()))?.len();
                Ok((Box::new(file.take(len)), len))
            }
            Content::Slice { file, offset, len } => Ok((Box::new(Slice { file, next: *offset, left: *len }), *len)),
        }
    }

    /// All of it, in memory.
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open()?.0.read_to_end(&mut bytes).context("reading a file of a layer")?;
        Ok(bytes)
    }
}

/// Reads a part of a file without moving its offset, which others share.
struct Slice<'a> {
    file: &'a File,
    next: u64,
    left: u64,
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..want], self.next)?;
        self.next += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

/// What a path is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A folder.
    Dir,
    /// A regular file.
    File(Content),
    /// A symlink, with its text as it stands.
    Symlink(PathBuf),
    /// Another name of the file at this path of the same image.
    HardLink(PathBuf),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One path of a layer.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Last change of the content, seconds since 1970.
    pub mtime: u64,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl Node {
    /// A node of root's, at time 0, without attributes.
    pub fn new(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, uid: 0, gid: 0, mtime: 0, xattrs: Xattrs::new() }
    }

    /// A folder with mode 0755.
    pub fn dir() -> Self {
        Self::new(Kind::Dir, 0o755)
    }

    /// A regular file with these bytes.
    pub fn file(bytes: impl AsRef<[u8]>, mode: u32) -> Self {
        Self::new(Kind::File(Content::Bytes(bytes.as_ref().into())), mode)
    }
}

/// The paths of one layer, relative to its root. The root itself is not among them.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    /// Without anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Puts `node` at `path`, in place of what was there; missing parents become folders of root's.
    pub fn insert(&mut self, path: impl AsRef<Path>, node: Node) -> Result<()> {
        let path = clean(path.as_ref())?;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        for parent in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            self.nodes.entry(parent.to_path_buf()).or_insert_with(Node::dir);
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Puts `node` at `path` unless something is there. Folders on the way that are symlinks in this tree are followed
    /// (`bin` → `usr/bin` of a merged-/usr Debian). Says the path that it came to.
    pub fn insert_missing(&mut self, path: impl AsRef<Path>, node: Node) -> Result<PathBuf> {
        let path = self.resolve_parent(path.as_ref())?;
        if !self.nodes.contains_key(&path) {
            self.insert(&path, node)?;
        }
        Ok(path)
    }

    /// The node at exactly this path.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Node> {
        self.nodes.get(path.as_ref())
    }

    /// Removes `path` and what is below it.
    pub fn remove(&mut self, path: impl AsRef<Path>) {
        self.remove_where(|p| p.starts_with(path.as_ref()));
    }

    /// Removes what is below `path`, not the folder itself.
    pub fn clear(&mut self, path: impl AsRef<Path>) {
        self.remove_where(|p| p != path.as_ref() && p.starts_with(path.as_ref()));
    }

    /// Removes the paths for which `unwanted` says so. A file that goes under one of its names stays under the others.
    pub fn remove_where(&mut self, unwanted: impl Fn(&Path) -> bool) {
        let mut heirs: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        let survivors: Vec<_> = self.nodes.keys().filter(|p| !unwanted(p)).cloned().collect();
        let mut kept = BTreeMap::new();
        for path in survivors {
            let mut node = self.nodes[&path].clone();
            if let Some(root) = self.link_root(&node)
                && unwanted(&root)
                && let Some(file) = self.nodes.get(&root)
            {
                match heirs.get(&root) {
                    Some(heir) => node.kind = Kind::HardLink(heir.clone()),
                    None => {
                        node = file.clone();
                        heirs.insert(root, path.clone());
                    }
                }
            } else if let Some(root) = self.link_root(&node) {
                node.kind = Kind::HardLink(root);
            }
            kept.insert(path, node);
        }
        self.nodes = kept;
    }

    /// Every path with its node, parents before children.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(p, n)| (p.as_path(), n))
    }

    /// A whiteout: `path` of the layers below is gone (image-spec 1.1, layer.md, "Whiteouts").
    pub fn delete(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = clean(path.as_ref())?;
        let Some(name) = path.file_name() else { bail!("the root of an image cannot be deleted") };
        let mut marker = OsString::from(".wh.");
        marker.push(name);
        self.insert(path.with_file_name(marker), Node::file("", 0o644))
    }

    /// An opaque whiteout: nothing below `dir` of the layers below is seen (layer.md, "Opaque Whiteout").
    pub fn opaque(&mut self, dir: impl AsRef<Path>) -> Result<()> {
        self.insert(clean(dir.as_ref())?.join(".wh..wh..opq"), Node::file("", 0o644))
    }

    /// The order in which a layer is written: sorted, parents before children, whiteouts before their siblings
    /// (layer.md recommends it), and of several names of one file the one written first is the file.
    pub fn ordered(&self) -> Vec<(PathBuf, Node)> {
        let mut order: Vec<_> = self.nodes.keys().map(|p| (sort_key(p), p.clone())).collect();
        order.sort();
        let mut first_name: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        let mut result = Vec::with_capacity(order.len());
        let linked: BTreeSet<PathBuf> = self.nodes.values().filter_map(|n| self.link_root(n)).collect();
        for (_, path) in order {
            let mut node = self.nodes[&path].clone();
            let root = self.link_root(&node).or_else(|| linked.contains(&path).then(|| path.clone()));
            if let Some(root) = root
                && let Some(file) = self.nodes.get(&root)
            {
                match first_name.get(&root) {
                    Some(first) => node.kind = Kind::HardLink(first.clone()),
                    None => {
                        node = file.clone();
                        first_name.insert(root, path.clone());
                    }
                }
            }
            result.push((path, node));
        }
        result
    }

    /// The path that holds the content of a hard link, through links to links. A target that is not in this tree (it
    /// may be in a layer below) is the end.
    fn link_root(&self, node: &Node) -> Option<PathBuf> {
        let Kind::HardLink(first) = &node.kind else { return None };
        let mut target = first;
        for _ in 0..MAX_SYMLINKS {
            match self.nodes.get(target).map(|n| &n.kind) {
                Some(Kind::HardLink(next)) => target = next,
                _ => break,
            }
        }
        Some(target.clone())
    }

    /// `path` with the symlinks among its parents followed inside this tree.
    fn resolve_parent(&self, path: &Path) -> Result<PathBuf> {
        let path = clean(path)?;
        let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?.to_os_string();
        let mut todo: Vec<OsString> = path.parent().into_iter().flat_map(reversed).collect();
        let (mut done, mut followed) = (PathBuf::new(), 0);
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            done.push(&part);
            if let Some(Node { kind: Kind::Symlink(target), .. }) = self.nodes.get(&done) {
                followed += 1;
                if followed > MAX_SYMLINKS {
                    bail!("{}: too many symlinks", path.display());
                }
                done.pop();
                if target.is_absolute() {
                    done.clear();
                }
                todo.extend(reversed(target));
            }
        }
        Ok(done.join(name))
    }
}

/// The names of a path, last first, without `/` and `.`.
fn reversed(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
    parts.map(|c| c.as_os_str().to_os_string()).collect()
}

/// Sorts whiteouts before their siblings.
fn sort_key(path: &Path) -> Vec<(bool, Vec<u8>)> {
    path.iter().map(|part| (!part.as_bytes().starts_with(b".wh."), part.as_bytes().to_vec())).collect()
}

/// A path relative to the image's root: without leading `/` or `.`; `..` is refused.
pub fn clean(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => bail!("{}: an image has no place for `..`", path.display()),
            _ => {}
        }
    }
    Ok(clean)
}

/// A path from raw bytes, as a tar holds them.
pub fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(tree: &Tree) -> Vec<String> {
        tree.ordered().iter().map(|(p, _)| p.display().to_string()).collect()
    }

    #[test]
    fn order_has_parents_first_and_whiteouts_before_siblings() {
        let mut tree = Tree::new();
        for path in ["b/+first", "b/z", "a.txt", "a/x"] {
            tree.insert(path, Node::file(path, 0o644)).unwrap();
        }
        tree.delete("/b/y").unwrap();
        tree.opaque("b").unwrap();
        assert_eq!(paths(&tree), ["a", "a/x", "a.txt", "b", "b/.wh..wh..opq", "b/.wh.y", "b/+first", "b/z"]);
        assert!(tree.delete("/").is_err());
        assert!(tree.insert("a/../../x", Node::dir()).is_err());
    }

    #[test]
    fn the_first_name_of_a_linked_file_is_the_file() {
        let mut tree = Tree::new();
        tree.insert("z", Node::file("content", 0o600)).unwrap();
        tree.insert("m", Node::new(Kind::HardLink("z".into()), 0o644)).unwrap();
        tree.insert("a", Node::new(Kind::HardLink("m".into()), 0o644)).unwrap();
        tree.insert("b", Node::new(Kind::HardLink("below".into()), 0o644)).unwrap();
        let ordered = tree.ordered();
        assert!(matches!(&ordered[0].1, Node { kind: Kind::File(_), mode: 0o600, .. }));
        for (index, name, target) in [(1, "b", "below"), (2, "m", "a"), (3, "z", "a")] {
            assert_eq!(ordered[index].0, Path::new(name));
            let Kind::HardLink(found) = &ordered[index].1.kind else { panic!("{name} is not a link") };
            assert_eq!(found, Path::new(target), "{name}");
        }
    }

    #[test]
    fn a_file_stays_under_the_names_that_stay() {
        let mut tree = Tree::new();
        tree.insert("x/file", Node::file("content", 0o640)).unwrap();
        for (name, target) in [("x/a", "x/file"), ("b", "x/a"), ("c", "x/file")] {
            tree.insert(name, Node::new(Kind::HardLink(target.into()), 0o644)).unwrap();
        }
        tree.remove("x");
        assert_eq!(paths(&tree), ["b", "c"]);
        assert!(matches!(tree.get("b").unwrap(), Node { kind: Kind::File(_), mode: 0o640, .. }));
        assert!(matches!(&tree.get("c").unwrap().kind, Kind::HardLink(t) if t == Path::new("b")));
        tree.insert("d/e", Node::dir()).unwrap();
        tree.clear("d");
        assert_eq!(paths(&tree), ["b", "c", "d"]);
    }

    #[test]
    fn missing_files_go_through_merged_folders() {
        let mut tree = Tree::new();
        tree.insert("bin", Node::new(Kind::Symlink("usr/bin".into()), 0o777)).unwrap();
        tree.insert("usr/bin/ls", Node::file("coreutils", 0o755)).unwrap();
        assert_eq!(tree.insert_missing("/bin/sh", Node::file("sh", 0o755)).unwrap(), Path::new("usr/bin/sh"));
        tree.insert_missing("bin/ls", Node::file("applet", 0o755)).unwrap();
        let Kind::File(content) = &tree.get("usr/bin/ls").unwrap().kind else { panic!("not a file") };
        assert_eq!(content.read().unwrap(), b"coreutils");
        tree.insert("loop", Node::new(Kind::Symlink("loop".into()), 0o777)).unwrap();
        assert!(tree.insert_missing("loop/x", Node::dir()).is_err());
    }
}
