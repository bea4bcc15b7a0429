//! A container's root file system: overlayfs over the image's layers, with an upper directory per instance.
//!
//! The result is a detached mount: the container's init attaches it in its own mount namespace, so the host never sees it
//! and nothing has to be unmounted.

mod mapped;
mod mount_points;

pub use mapped::id_map;
pub use mount_points::has_file_at;

use crate::image;
use crate::plan::config::Programs;
use crate::sys::mount::{self, Depth, FsContext, SetAttr, attr};
use crate::sys::{Called, SysError, SysResult};
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The ids of a container with a user namespace of its own.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// The user namespace, whose maps are written.
    pub users: BorrowedFd<'a>,
    /// The host's id of its root.
    pub root: u32,
}

/// Mounts `layers` (lowest first) below the writable directory `data`, which is made. Errors undo that. What mount points they
/// lack is in one more layer below them, at `mount_points`, if that may and can be: else the container's init makes them.
///
/// For an `owner`, what belongs to an id in the layers belongs to the id that it is mapped to. What the container writes is
/// kept by its ids on the host: overlayfs makes its work files as the host's root, which has no id in the container.
pub fn prepare(
    layers: &[PathBuf],
    mount_points: Option<&Path>,
    data: &Path,
    owner: Option<Owner<'_>>,
) -> Result<OwnedFd> {
    ensure!(!layers.is_empty(), "the image has no layers");
    let (upper, work) = (data.join("upper"), data.join("work"));
    for dir in [&upper, &work] {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).called("mkdir", dir.display())?;
    }
    // The upper directory's mode is that of the container's root directory.
    std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o755)).called("chmod", upper.display())?;
    if let Some(owner) = owner {
        std::os::unix::fs::chown(&upper, Some(owner.root), Some(owner.root)).called("chown", upper.display())?;
    }
    let mount = |layers: &[PathBuf]| match owner {
        None => mount_overlay(layers, Upper::Writable { upper: &upper, work: &work }).map_err(explain),
        Some(owner) => mapped::mount(layers, owner, &upper, &work),
    };
    let mounted = match mount_points.and_then(|path| mount_points::below(layers, path)) {
        // It may be one too many, or on a file system that can do less than theirs.
        Some(all) => mount(&all).or_else(|_| mount(layers)),
        None => mount(layers),
    };
    mounted
        .and_then(|root| Ok(writable(root, &work)?))
        .with_context(|| format!("mounting the root file system of {} layers and {}", layers.len(), upper.display()))
}

/// Refuses a mount that is read-only: where overlayfs cannot make what it needs for writing, for want of room as a rule, it says so in
/// the kernel's log alone, and goes on without (ovl_get_workdir in fs/overlayfs/super.c).
fn writable(root: OwnedFd, work: &Path) -> SysResult<OwnedFd> {
    if !fstatvfs(&root).called("fstatvfs", "overlay")?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(root);
    }
    // As overlayfs names it.
    let needed = work.join("work");
    std::fs::create_dir(&needed).called("mkdir", needed.display())?;
    Err(SysError::new("mkdir", needed.display(), Errno::EROFS))
}

/// A detached read-only mount of `layers` (lowest first), of which no device can be opened.
pub fn read_only(layers: &[PathBuf], programs: Programs) -> Result<OwnedFd> {
    let attributes = attr::RDONLY
        | attr::NOSUID
        | attr::NODEV
        | match programs {
            Programs::Refused => attr::NOEXEC,
            Programs::Allowed => 0,
        };
    let mounted = match layers {
        [] => anyhow::bail!("the image has no layers"),
        // overlayfs takes at least two where there is no upper directory.
        [only] => {
            let tree = mount::clone_tree(directory(only)?.as_fd(), Depth::Top)?;
            mount::set_attributes(tree.as_fd(), SetAttr { set: attributes, propagation: None, depth: Depth::Top })?;
            Ok(tree)
        }
        several => mount_overlay(several, Upper::None(attributes)).map_err(explain),
    };
    mounted.with_context(|| format!("mounting {} layers", layers.len()))
}

/// Removes a directory with everything in it, however deep a container has made it; gone already counts as done.
pub fn remove_tree(path: &Path) -> SysResult<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(SysError::new("rmdir", path.display(), Errno::EINVAL));
    };
    match std::fs::File::open(parent) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => {
            let parent = other.called("open", parent.display())?;
            // What it says is below there, by its name alone.
            image::tree::remove_tree(parent.as_fd(), name).map_err(|error| SysError {
                target: match error.target == name.to_string_lossy() {
                    true => path.display().to_string(),
                    false => format!("{} in {}", error.target, path.display()),
                },
                ..error
            })
        }
    }
}

fn directory(path: &Path) -> SysResult<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).called("open", path.display())
}

/// What is above the layers.
#[derive(Clone, Copy)]
enum Upper<'a> {
    /// A writable directory.
    Writable { upper: &'a Path, work: &'a Path },
    /// Nothing; the mount has these `attr::*`.
    None(u64),
}

impl Upper<'_> {
    fn attributes(self) -> u64 {
        match self {
            Upper::Writable { .. } => attr::RELATIME,
            Upper::None(attributes) => attributes,
        }
    }
}

fn mount_overlay(layers: &[PathBuf], upper: Upper<'_>) -> SysResult<OwnedFd> {
    // overlayfs lists the topmost layer first.
    let lowers: Vec<OwnedFd> = layers.iter().rev().map(|layer| directory(layer)).collect::<SysResult<_>>()?;
    match mount_one_by_one(&lowers, upper) {
        // Before Linux 6.8 `lowerdir+` is unknown: 6.5 and later say so at once, older ones (which take any option and read
        // them all in the end) when the context is created. There is only one string then, of at most 255 bytes.
        Err(first) if first.errno() == Errno::EINVAL => match mount_by_string(&lowers, upper) {
            // So that was not the reason.
            Err(again) if again.errno() == Errno::EINVAL => Err(first),
            other => other,
        },
        other => other,
    }
}

fn mount_one_by_one(lowers: &[OwnedFd], upper: Upper<'_>) -> SysResult<OwnedFd> {
    let context = FsContext::open("overlay")?;
    context.set("source", "overlay")?;
    for fd in lowers {
        context.set("lowerdir+", format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    }
    if let Upper::Writable { upper, work } = upper {
        context.set("upperdir", upper)?;
        context.set("workdir", work)?;
    }
    context.mount(upper.attributes())
}

/// [`mount_one_by_one`] for kernels without `lowerdir+`: short names, relative to /proc/self/fd.
fn mount_by_string(lowers: &[OwnedFd], upper: Upper<'_>) -> SysResult<OwnedFd> {
    const MAX_OPTION: usize = 255;
    let names: Vec<String> = lowers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let list = names.join(":");
    if list.len() > MAX_OPTION {
        return Err(SysError::new(
            "fsconfig",
            format_args!("lowerdir: {} layers take Linux 6.8", lowers.len()),
            Errno::E2BIG,
        ));
    }
    let writable = match upper {
        Upper::Writable { upper, work } => Some((directory(upper)?, directory(work)?)),
        Upper::None(_) => None,
    };
    let context = FsContext::open("overlay")?;
    context.set("source", "overlay")?;
    let back = directory(Path::new("."))?;
    nix::unistd::chdir("/proc/self/fd").called("chdir", "/proc/self/fd")?;
    let mounted = (|| {
        context.set("lowerdir", &list)?;
        if let Some((upper, work)) = &writable {
            context.set("upperdir", upper.as_raw_fd().to_string())?;
            context.set("workdir", work.as_raw_fd().to_string())?;
        }
        context.mount(upper.attributes())
    })();
    nix::unistd::fchdir(&back).called("fchdir", "back")?;
    mounted
}

/// Some of overlayfs' errnos mislead.
fn explain(error: SysError) -> anyhow::Error {
    let hint = match error.errno() {
        Errno::ELOOP => Some("overlayfs: a layer is used as the upper directory too, or layers overlap"),
        Errno::ENODEV => Some("this kernel has no overlayfs: `modprobe overlay`"),
        Errno::EINVAL => Some(
            "overlayfs: the file system of podshim's data directory cannot hold an upper directory (is it an overlay itself? use --root on a disk)",
        ),
        _ => None,
    };
    match hint {
        Some(hint) => anyhow::Error::new(error).context(hint),
        None => error.into(),
    }
}
