//! Mounts whose read-only and other attributes the root of a user namespace cannot take away again.
//!
//! With CAP_SYS_ADMIN in its user namespace a container may remount what was mounted there, and a read-only volume would be
//! writable: an image's layers, which other pods have too, or a directory of the host's. The kernel locks the attributes of
//! what is copied into a mount namespace of another user namespace (mount_namespaces(7), "Restrictions on mount
//! namespaces"), so everything a container mounts is copied so once before its init attaches it.

use super::step::{Step, mount_step};
use crate::sys::fs::{ResolveFlags, openat2};
use crate::sys::mount::{self, Depth, FsContext, Propagation, SetAttr};
use crate::sys::{Called, SysError, SysResult, process, socket};
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};
use nix::sys::wait::waitpid;
use oci_spec::runtime::Spec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The detached trees of the spec's bind mounts, in their order, with attributes that are locked for `users`. A tree whose
/// mounts are to reach the host (`rshared`, which takes a privileged container) stays as it is: a copy for another user
/// namespace sends nothing back.
pub fn lock(spec: &Spec, trees: Vec<OwnedFd>, users: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let binds = spec.mounts().iter().flatten().filter(|mount| mount.typ().as_deref() == Some("bind"));
    let steps = binds.map(mount_step).collect::<Result<Vec<_>>>()?;
    ensure!(steps.len() == trees.len(), "{} trees for {} bind mounts", trees.len(), steps.len());
    let mut wanted = Vec::new();
    for (index, (step, tree)) in steps.iter().zip(&trees).enumerate() {
        let Step::Bind { attributes, recursive, propagation, .. } = step else { bail!("{} is no bind", step.name()) };
        if *propagation != Propagation::Shared {
            set(tree.as_fd(), *recursive, Depth::Recursive)?;
            set(tree.as_fd(), *attributes, Depth::Top)?;
            wanted.push(index);
        }
    }
    copy(trees, &wanted, users).context("locking the attributes of mounts")
}

fn set(tree: BorrowedFd<'_>, attributes: u64, depth: Depth) -> SysResult<()> {
    mount::set_attributes(tree, SetAttr { set: attributes, propagation: None, depth })
}

/// The trees, those at the indices `wanted` being copies by a child that is where such copies are locked.
fn copy(mut trees: Vec<OwnedFd>, wanted: &[usize], users: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    if wanted.is_empty() {
        return Ok(trees);
    }
    let (ours, theirs) = socket::pair()?;
    let child = process::clone3(libc::CLONE_NEWNS as u64, None).context("starting a process")?;
    let Some(child) = child else {
        drop(ours);
        let originals: Vec<BorrowedFd<'_>> = wanted.iter().map(|index| trees[*index].as_fd()).collect();
        let sent = in_child(&originals, users, theirs.as_fd())
            .or_else(|error| socket::send(theirs.as_fd(), &serde_json::to_vec(&error).unwrap_or_default(), &[]));
        process::exit_now(if sent.is_ok() { 0 } else { 125 });
    };
    drop(theirs);
    let received = wanted.iter().try_for_each(|index| {
        let socket::Received::Message(bytes, descriptors) = socket::receive(ours.as_fd())? else {
            bail!("the process that copies them ended without a word");
        };
        match descriptors.into_iter().next() {
            Some(tree) => trees[*index] = tree,
            None => return Err(serde_json::from_slice::<SysError>(&bytes).context("the child's answer")?.into()),
        }
        Ok(())
    });
    // Its sends end, one way or the other, when nobody receives any more.
    drop(ours);
    waitpid(nix::unistd::Pid::from_raw(child.pid), None).called("waitpid", child.pid)?;
    received.map(|()| trees)
}

/// Attaches the trees in this mount namespace, which is the child's own, joins the user namespace, and has the kernel copy
/// them: the copies of the copies are sent, in order.
fn in_child(trees: &[BorrowedFd<'_>], users: BorrowedFd<'_>, to: BorrowedFd<'_>) -> SysResult<()> {
    let root = std::fs::File::open("/").called("open", "/")?;
    let private = SetAttr { set: 0, propagation: Some(Propagation::Private), depth: Depth::Recursive };
    mount::set_attributes(root.as_fd(), private)?;
    let places = FsContext::open("tmpfs")?.mount(0)?;
    mount::attach(places.as_fd(), root.as_fd())?;
    for (index, tree) in trees.iter().enumerate() {
        mount::attach(*tree, place(places.as_fd(), index, *tree)?.as_fd())?;
    }
    // No path leads to what lies over the root; the working directory goes along into the new namespace.
    nix::unistd::fchdir(&places).called("fchdir", "tmpfs")?;
    setns(users, CloneFlags::CLONE_NEWUSER).called("setns", "user")?;
    unshare(CloneFlags::CLONE_NEWNS).called("unshare", "CLONE_NEWNS")?;
    for index in 0..trees.len() {
        let path = PathBuf::from(format!("./{index}"));
        let there = nix::fcntl::open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let tree = mount::clone_tree(there.called("open", path.display())?.as_fd(), Depth::Recursive)?;
        socket::send(to, b"tree", &[tree.as_fd()])?;
    }
    Ok(())
}

/// A mount point for a tree: a directory or a file, as it is.
fn place(places: BorrowedFd<'_>, index: usize, tree: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let name = index.to_string();
    let mode = fstat(tree).called("fstat", &name)?.st_mode;
    if mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
        mkdirat(places, name.as_str(), Mode::S_IRWXU).called("mkdirat", &name)?;
    } else {
        mknodat(places, name.as_str(), SFlag::S_IFREG, Mode::S_IRUSR, 0).called("mknodat", &name)?;
    }
    openat2(places, Path::new(&name), OFlag::O_PATH, 0, ResolveFlags::RESOLVE_NO_SYMLINKS)
}
