//! Trees from a static busybox: all its applets, and the few files that every small image has.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, str};

use anyhow::{Context, Result, bail, ensure};

use crate::tree::{Content, Kind, Node, Tree};

/// Debian's `busybox-static` puts it here.
pub const DEFAULT_BINARY: &str = "/bin/busybox";

/// How an applet's name leads to busybox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    /// All names are the same file, as in the official image.
    #[default]
    Hard,
    /// Symlinks to `/bin/busybox`.
    Symbolic,
}

/// A root file system of busybox alone.
pub fn tree(binary: &Path, links: Links) -> Result<Tree> {
    let mut tree = Tree::new();
    add_applets(&mut tree, binary, links)?;
    add_basics(&mut tree)?;
    Ok(tree)
}

/// Puts busybox at `/bin/busybox` and its applets at their places, where nothing is yet.
pub fn add_applets(tree: &mut Tree, binary: &Path, links: Links) -> Result<()> {
    ensure_static(binary)?;
    let file = tree.insert_missing("bin/busybox", Node::new(Kind::File(Content::File(binary.into())), 0o755))?;
    for applet in applets(binary)? {
        let node = match links {
            Links::Hard => Node::new(Kind::HardLink(file.clone()), 0o755),
            Links::Symbolic => Node::new(Kind::Symlink("/bin/busybox".into()), 0o777),
        };
        tree.insert_missing(applet, node)?;
    }
    Ok(())
}

/// The applets' paths below the root (`bin/sh`), as `busybox --list-full` says them.
pub fn applets(binary: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new(binary)
        .arg("--list-full")
        .output()
        .with_context(|| format!("running {} --list-full", binary.display()))?;
    ensure!(output.status.success(), "{} --list-full: {}", binary.display(), output.status);
    let text = str::from_utf8(&output.stdout).context("busybox --list-full is not text")?;
    let applets: Vec<_> = text.lines().filter(|l| !l.is_empty()).map(PathBuf::from).collect();
    ensure!(applets.len() > 1, "{}: this busybox has no applets", binary.display());
    Ok(applets)
}

/// Users, groups, `/tmp`, homes: what programs expect to find, where nothing is yet.
pub fn add_basics(tree: &mut Tree) -> Result<()> {
    let passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                  bin:x:2:2:bin:/bin:/bin/false\nsys:x:3:3:sys:/dev:/bin/false\n\
                  www-data:x:33:33:www-data:/var/www:/bin/false\noperator:x:37:37:Operator:/var:/bin/false\n\
                  nobody:x:65534:65534:nobody:/home:/bin/false\n";
    let group = "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\n\
                 wheel:x:10:root\nwww-data:x:33:\noperator:x:37:\nusers:x:100:\nnogroup:x:65534:\n";
    for (path, node) in [
        ("etc/passwd", Node::file(passwd, 0o644)),
        ("etc/group", Node::file(group, 0o644)),
        ("etc/nsswitch.conf", Node::file("passwd: files\ngroup: files\nhosts: files dns\n", 0o644)),
        ("root", Node::new(Kind::Dir, 0o700)),
        ("home", Node { uid: 65534, gid: 65534, ..Node::dir() }),
        ("tmp", Node::new(Kind::Dir, 0o1777)),
        ("var/tmp", Node::new(Kind::Dir, 0o1777)),
        ("var/www", Node { uid: 33, gid: 33, ..Node::dir() }),
    ] {
        tree.insert_missing(path, node)?;
    }
    Ok(())
}

/// A tree that holds one static program, at `/NAME`.
pub fn program(binary: &Path, name: &str) -> Result<Tree> {
    ensure_static(binary)?;
    ensure!(!name.contains('/') && !name.is_empty(), "{name:?}: a program's name is one word without /");
    let mut tree = Tree::new();
    tree.insert(name, Node::new(Kind::File(Content::File(binary.into())), 0o755))?;
    Ok(tree)
}

/// Fails unless `binary` is an ELF executable that needs no interpreter (no `PT_INTERP`, elf(5)): in an image without
/// a libc anything else ends in a misleading "no such file".
fn ensure_static(binary: &Path) -> Result<()> {
    const PT_INTERP: u32 = 3;
    let bytes = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    let mode = fs::metadata(binary).with_context(|| format!("reading {}", binary.display()))?.mode();
    ensure!(mode & 0o111 != 0, "{}: not executable", binary.display());
    if bytes.get(..5) != Some(b"\x7fELF\x02") {
        bail!("{}: not a 64-bit ELF program", binary.display());
    }
    let number = |at: usize, len: usize| -> Result<usize> {
        let field = bytes.get(at..at + len).with_context(|| format!("{}: ends too early", binary.display()))?;
        let mut wide = [0; 8];
        wide[..len].copy_from_slice(field);
        Ok(usize::try_from(u64::from_le_bytes(wide))?)
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        if number(table.saturating_add(index * size), 4)? == PT_INTERP as usize {
            bail!("{}: not linked statically: it needs an interpreter that the image does not have", binary.display());
        }
    }
    Ok(())
}
