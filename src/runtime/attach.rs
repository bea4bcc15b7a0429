//! Attaching a mount where only this mount namespace sees it.
//!
//! What is mounted on a mount with `mountPropagation: Bidirectional` (`MS_SHARED`) is mounted on the host's as well, and stays there
//! when the container's mount namespace goes. That is for what the container mounts, not for what podshim mounts for it.

use super::init::{StepError, StepResult};
use crate::sys::fs::open_in_root;
use crate::sys::mount::{self, Depth, Propagation, SetAttr};
use crate::sys::mountinfo::{self, Mount};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Whether a mount that the container has so far may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// None is.
    No,
    /// One of them, or what is mounted below it.
    Possible,
}

/// move_mount(2). Where the target's mount is shared, it only receives meanwhile (`MS_SLAVE`), and becomes a member of its peer group
/// again afterwards (`MOVE_MOUNT_SET_GROUP`).
pub(super) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>, sharing: Sharing) -> StepResult {
    let shared = match sharing {
        Sharing::No => None,
        Sharing::Possible => shared_mount(target)?,
    };
    let Some(below) = shared else { return Ok(mount::attach(tree, target)?) };
    // A copy is a peer of what it is a copy of.
    let peer = mount::clone_tree(below.as_fd(), Depth::Top)?;
    let set = |propagation| {
        let change = SetAttr { set: 0, propagation: Some(propagation), depth: Depth::Top };
        mount::set_attributes(below.as_fd(), change)
    };
    set(Propagation::Slave)?;
    mount::attach(tree, target)?;
    // Only what is private may join others.
    set(Propagation::Private)?;
    mount::join_peers(below.as_fd(), peer.as_fd()).map_err(|error| match error.errno() {
        Errno::EINVAL => StepError::new(format!("{error}: below a volume with Bidirectional it takes Linux 5.15")),
        _ => error.into(),
    })
}

/// The root of the mount that a descriptor is on, if that is shared.
fn shared_mount(target: BorrowedFd<'_>) -> Result<Option<OwnedFd>, StepError> {
    let text = mountinfo::read()?;
    let unknown =
        || StepError::new(format!("{}: the mount of {} is not there", mountinfo::OWN, mount::fd_name(target)));
    let id = mount::mount_id(target).ok_or_else(unknown)?;
    let found: Mount<'_> = mountinfo::mounts(&text).find(|mount| mount.id == id).ok_or_else(unknown)?;
    if !found.is_shared() {
        return Ok(None);
    }
    let root = open_in_root(super::mounts::root()?.as_fd(), &found.point, OFlag::O_PATH, 0)?;
    // What is mounted at the same place since is another one.
    if mount::mount_id(root.as_fd()) != Some(id) {
        return Err(StepError::refused(format!("{} is covered by another mount", found.point.display())));
    }
    Ok(Some(root))
}
