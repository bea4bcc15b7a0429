//! overlayfs over id-mapped layers.
//!
//! overlayfs takes a layer by the mount that it is reached through, but before Linux 6.15 only by one that is attached in the
//! caller's mount namespace. So a child with a mount namespace of its own attaches them, makes the overlay, hands it over and
//! ends; the overlay keeps its layers, and the host never sees one of these mounts.

use super::{Owner, Upper, explain, mount_overlay};
use crate::sys::mount::{self, Depth, Propagation, SetAttr};
use crate::sys::{Called, SysError, SysResult, process, socket};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Mounts the overlay: detached, as without a user namespace.
pub(super) fn mount(layers: &[PathBuf], owner: Owner<'_>, upper: &Path, work: &Path) -> Result<OwnedFd> {
    let mapped: Vec<OwnedFd> = layers.iter().map(|layer| map(layer, owner)).collect::<Result<_>>()?;
    let (ours, theirs) = socket::pair()?;
    let child = process::clone3(libc::CLONE_NEWNS as u64, None).context("starting a process")?;
    let Some(child) = child else {
        drop(ours);
        let made = in_child(layers, &mapped, (upper, work));
        let sent = match &made {
            Ok(overlay) => socket::send(theirs.as_fd(), b"null", &[overlay.as_fd()]),
            Err(error) => socket::send(theirs.as_fd(), &serde_json::to_vec(error).unwrap_or_default(), &[]),
        };
        process::exit_now(if sent.is_ok() { 0 } else { 125 });
    };
    drop(theirs);
    let received = socket::receive(ours.as_fd());
    waitpid(nix::unistd::Pid::from_raw(child.pid), None).called("waitpid", child.pid)?;
    let socket::Received::Message(bytes, descriptors) = received? else {
        bail!("the process that mounts the layers ended without a word");
    };
    match descriptors.into_iter().next() {
        Some(overlay) => Ok(overlay),
        None => Err(explain(serde_json::from_slice(&bytes).context("the child's answer")?)),
    }
}

/// A detached, id-mapped mount of a layer.
fn map(layer: &Path, owner: Owner<'_>) -> Result<OwnedFd> {
    let tree = mount::clone_tree(super::directory(layer)?.as_fd(), Depth::Top)?;
    id_map(tree.as_fd(), owner, layer).map(|()| tree)
}

/// Maps the ids of a detached mount: in the container its files belong to the ids that they belong to on disk.
pub fn id_map(tree: BorrowedFd<'_>, owner: Owner<'_>, source: &Path) -> Result<()> {
    match mount::id_map(tree, owner.users) {
        Err(error) if error.errno() == Errno::EINVAL => {
            let error = SysError::new(&error.call, source.display(), Errno::EINVAL);
            let kind = mount::file_system_name(tree).unwrap_or_else(|| "its file system".to_owned());
            let since = if kind == "tmpfs" { " before Linux 6.3" } else { "" };
            let hint = format!(
                "{} is on {kind}, which has no id-mapped mounts{since}: hostUsers: false needs them",
                source.display()
            );
            Err(anyhow::Error::new(error).context(hint))
        }
        other => Ok(other?),
    }
}

fn in_child(layers: &[PathBuf], mapped: &[OwnedFd], (upper, work): (&Path, &Path)) -> SysResult<OwnedFd> {
    let root = std::fs::File::open("/").called("open", "/")?;
    let private = SetAttr { set: 0, propagation: Some(Propagation::Private), depth: Depth::Recursive };
    mount::set_attributes(root.as_fd(), private)?;
    for (layer, tree) in layers.iter().zip(mapped) {
        // Over itself: from here on its path leads through the mapped mount.
        mount::attach(tree.as_fd(), super::directory(layer)?.as_fd())?;
    }
    mount_overlay(layers, Upper::Writable { upper, work })
}
