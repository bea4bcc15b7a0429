//! The mount namespace that those of containers begin as copies of: nothing is mounted in it.
//!
//! A mount namespace that clone3(2) makes is a copy of its maker's. Of the host's it would have every mount of every pod there is, all
//! of which are copied, and then taken away again by pivot_root(2), for each container. So one is emptied once, and pinned for all pods
//! of a state directory. It goes with the last of them.

use crate::sys::mount::{self, Depth, FsContext, Propagation, SetAttr, attr};
use crate::sys::{Called, SysResult, process, record, socket};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::fstatfs;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// In the directory that is mounted for it.
const PIN: &str = "mnt";

/// It, if it is pinned in this directory.
pub fn find(directory: &Path) -> SysResult<Option<OwnedFd>> {
    let pin = directory.join(PIN);
    match super::open_namespace(&pin) {
        // Somebody was killed before it was pinned there.
        Ok(found) if fstatfs(&found).called("fstatfs", pin.display())?.filesystem_type() != mount::NSFS_MAGIC => {
            Ok(None)
        }
        Ok(found) => Ok(Some(found)),
        Err(error) if error.errno() == Errno::ENOENT => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes it, and pins it in this directory, in the place of what [`find`] does not take for it. The caller sees to it that nobody
/// else does so at the same time. Where the kernel takes no pin, or the disk is full, the next one makes another.
pub fn make(directory: &Path) -> Result<OwnedFd> {
    let made = remove(directory).map_err(Into::into).and_then(|()| emptied());
    let pinned = made.and_then(|namespace| match pin(&namespace, directory) {
        Err(error) if error.is_without_room() => Ok((false, namespace)),
        other => Ok((other?, namespace)),
    });
    if !matches!(pinned, Ok((true, _))) {
        // Best effort: the error that matters is the first one.
        let _ = remove(directory);
    }
    let (_, namespace) = pinned.context("making an empty mount namespace, for those of containers to begin with")?;
    Ok(namespace)
}

/// Takes the pin away, and so the namespace; one that is not there counts as done.
pub fn remove(directory: &Path) -> SysResult<()> {
    mount::detach(directory)?;
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.called("rmdir", directory.display()),
    }
}

/// Whether the kernel takes it.
fn pin(namespace: &OwnedFd, directory: &Path) -> SysResult<bool> {
    std::fs::create_dir(directory).called("mkdir", directory.display())?;
    // The pin of a mount namespace is refused where mounts propagate to others (propagate_one in fs/pnode.c), as they do from /run
    // under systemd. And no container may have it with a directory above, which the kernel refuses too (check_for_nsfs_mounts in
    // fs/namespace.c). So it has a mount of its own, which is private, and is not copied.
    let context = FsContext::open("tmpfs")?;
    context.set("mode", "700")?;
    context.set("nr_inodes", "2")?;
    let place = context.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
    let below = std::fs::File::open(directory).called("open", directory.display())?;
    mount::attach(place.as_fd(), below.as_fd())?;
    let alone = SetAttr { set: 0, propagation: Some(Propagation::Unbindable), depth: Depth::Top };
    mount::set_attributes(place.as_fd(), alone)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let file = openat(&place, PIN, flags, Mode::from_bits_truncate(0o400)).called("openat", PIN)?;
    let tree = mount::clone_tree(namespace.as_fd(), Depth::Top)?;
    match mount::attach(tree.as_fd(), file.as_fd()) {
        // It may be pinned in an older namespace only, by their numbers. Since Linux 6.18 each CPU has numbers of its own to give
        // (ns_tree_cookie in kernel/nstree.c), so that a younger one's may be lower.
        Err(error) if error.errno() == Errno::ELOOP => Ok(false),
        other => other.map(|()| true),
    }
}

/// Made by a child, which ends when it is held open.
fn emptied() -> Result<OwnedFd> {
    let (ours, theirs) = socket::pair()?;
    let Some(child) = process::clone3(0, None)? else {
        drop(ours);
        in_child(&theirs)
    };
    drop(theirs);
    let opened = (|| match socket::receive(ours.as_fd())? {
        socket::Received::Message(bytes, _) => {
            serde_json::from_slice::<SysResult<()>>(&bytes).context("the child's answer")??;
            Ok(super::open_namespace(format!("/proc/{}/ns/mnt", child.pid))?)
        }
        _ => bail!("the child ended without a word"),
    })();
    // It waits for nothing else.
    drop(ours);
    waitpid(Pid::from_raw(child.pid), None).called("waitpid", child.pid)?;
    opened
}

fn in_child(socket: &OwnedFd) -> ! {
    // Its copy of the parent's record.
    drop(record::take());
    let answer = serde_json::to_vec(&leave_mounts()).unwrap_or_default();
    let told = socket::send(socket.as_fd(), &answer, &[]);
    // The parent's end, too, ends us.
    let _ = told.and_then(|()| socket::receive(socket.as_fd()).map(drop));
    process::exit_now(0)
}

/// Gives the calling process a mount namespace of its own, in which nothing is mounted: its root is an empty directory that nobody can
/// write to.
pub(super) fn leave_mounts() -> SysResult<()> {
    process::unshare(super::NamespaceKind::Mount.flag(), "CLONE_NEWNS")?;
    let root = std::fs::File::open("/").called("open", "/")?;
    let private = SetAttr { set: 0, propagation: Some(Propagation::Private), depth: Depth::Recursive };
    mount::set_attributes(root.as_fd(), private)?;
    let context = FsContext::open("tmpfs")?;
    context.set("nr_inodes", "1")?;
    let empty = context.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
    mount::attach(empty.as_fd(), root.as_fd())?;
    nix::unistd::fchdir(&empty).called("fchdir", "an empty tmpfs")?;
    mount::pivot_to_cwd()
}
