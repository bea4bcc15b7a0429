//! Trees from a Debian mirror, by mmdebstrap, cleaned of what differs from run to run or belongs to this machine.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::busybox::{self, Links};
use crate::source;
use crate::tree::{Kind, Node, Tree};

/// What to install and what to leave out.
#[derive(Debug, Clone)]
pub struct Debian {
    /// Packages, with what they depend on.
    pub include: Vec<String>,
    /// mmdebstrap's variant; `extract` runs no maintainer script and is the smallest.
    pub variant: String,
    /// The release's name.
    pub suite: String,
    /// Whether manuals, documentation and translations stay.
    pub docs: Docs,
    /// Paths to leave out besides; one that ends in `*` stands for all that begin so.
    pub exclude: Vec<PathBuf>,
    /// A static busybox that stands in for what is missing (a shell, for a start).
    pub applets: Option<PathBuf>,
    /// Seconds since 1970 for everything that is dated.
    pub epoch: u64,
}

/// Whether documentation stays in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Docs {
    /// All of it.
    Keep,
    /// None.
    Drop,
}

/// Where documentation and translations are.
const DOCS: &[&str] = &[
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/i18n",
    "usr/share/lintian",
    "usr/share/linda",
    "usr/share/bug",
    "usr/share/bash-completion",
];

/// What differs from run to run, or tells of the machine that ran mmdebstrap (its mirrors, its name).
const REMOVED: &[&str] = &[
    "etc/machine-id",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/apt/sources.list",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/.pwd.lock",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/systemd/random-seed",
];

/// Folders that stay, empty.
const EMPTIED: &[&str] = &[
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "var/tmp",
    "var/log",
    "var/cache",
    "var/lib/apt/lists",
    "etc/apt/sources.list.d",
];

/// Runs mmdebstrap, with this machine's own package sources, and gives the cleaned tree.
pub fn tree(debian: &Debian) -> Result<Tree> {
    let mut command = Command::new("mmdebstrap");
    command
        .args([format!("--variant={}", debian.variant), format!("--include={}", debian.include.join(","))])
        .args(["--format=tar", "--quiet", "--aptopt=APT::Install-Recommends \"false\""])
        .args([debian.suite.as_str(), "-"])
        .env("SOURCE_DATE_EPOCH", debian.epoch.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if debian.docs == Docs::Drop {
        command.args(DOCS.iter().map(|path| format!("--dpkgopt=path-exclude=/{path}/*")));
    }
    let mut child = command.spawn().context("starting mmdebstrap (Debian package mmdebstrap)")?;
    let stdout = child.stdout.take().context("mmdebstrap without stdout")?;
    let read = source::from_tar(stdout);
    let status = child.wait().context("waiting for mmdebstrap")?;
    // mmdebstrap's own failure is the cause; the tar that ends early only follows from it.
    ensure!(status.success(), "mmdebstrap for {}: {status}", debian.include.join(", "));
    let mut tree = read.context("reading mmdebstrap's tar")?;
    clean(&mut tree, debian)?;
    Ok(tree)
}

/// Takes out what must not be in an image, and puts in what maintainer scripts would have made.
fn clean(tree: &mut Tree, debian: &Debian) -> Result<()> {
    let docs = if debian.docs == Docs::Drop { DOCS } else { &[] };
    for path in docs.iter().chain(REMOVED) {
        tree.remove(path);
    }
    for pattern in &debian.exclude {
        let path = crate::tree::clean(pattern)?;
        match path.as_os_str().as_bytes().strip_suffix(b"*") {
            None => tree.remove(path),
            Some(beginning) => tree.remove_where(|p| p.as_os_str().as_bytes().starts_with(beginning)),
        }
    }
    for path in EMPTIED {
        tree.clear(path);
        tree.insert_missing(path, Node::dir())?;
    }
    for path in ["tmp", "var/tmp"] {
        tree.insert(path, Node::new(Kind::Dir, 0o1777))?;
    }
    add_certificates(tree)?;
    if let Some(binary) = &debian.applets {
        busybox::add_applets(tree, binary, Links::Symbolic)?;
        busybox::add_basics(tree)?;
    }
    Ok(())
}

/// The bundle that `update-ca-certificates` makes, when the package is there but no script ran.
fn add_certificates(tree: &mut Tree) -> Result<()> {
    let bundle_path = "etc/ssl/certs/ca-certificates.crt";
    if tree.get(bundle_path).is_some() {
        return Ok(());
    }
    let mut bundle = Vec::new();
    for (path, node) in tree.iter() {
        if let Kind::File(content) = &node.kind
            && path.starts_with("usr/share/ca-certificates")
            && path.extension().is_some_and(|e| e == "crt")
        {
            bundle.extend_from_slice(&content.read()?);
        }
    }
    if !bundle.is_empty() {
        tree.insert(bundle_path, Node::file(bundle, 0o644))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_differs_or_tells_of_the_machine_is_taken_out() {
        let mut tree = Tree::new();
        for path in [
            "etc/apt/sources.list",
            "etc/apt/sources.list.d/extra.list",
            "etc/hostname",
            "dev/null",
            "var/log/apt/history.log",
            "usr/share/doc/git/copyright",
            "usr/bin/perl",
            "usr/bin/perl5.36.0",
            "usr/bin/git",
        ] {
            tree.insert(path, Node::file(path, 0o644)).unwrap();
        }
        for name in ["b", "a"] {
            let path = format!("usr/share/ca-certificates/mozilla/{name}.crt");
            tree.insert(path, Node::file(format!("{name}\n"), 0o644)).unwrap();
        }
        let debian = Debian {
            include: vec![],
            variant: "extract".into(),
            suite: "any".into(),
            docs: Docs::Drop,
            exclude: vec!["/usr/bin/perl*".into()],
            applets: None,
            epoch: 0,
        };
        clean(&mut tree, &debian).unwrap();
        let left: Vec<_> = tree.iter().filter(|(_, n)| matches!(n.kind, Kind::File(_))).map(|(p, _)| p).collect();
        let certificates = "usr/share/ca-certificates/mozilla";
        let expected = [
            "etc/ssl/certs/ca-certificates.crt".to_string(),
            "usr/bin/git".to_string(),
            format!("{certificates}/a.crt"),
            format!("{certificates}/b.crt"),
        ];
        assert_eq!(left, expected.iter().map(Path::new).collect::<Vec<_>>());
        let Kind::File(bundle) = &tree.get("etc/ssl/certs/ca-certificates.crt").unwrap().kind else { panic!() };
        assert_eq!(bundle.read().unwrap(), b"a\nb\n");
        assert_eq!(tree.get("tmp").unwrap().mode, 0o1777);
    }
}
