//! `emptyDir`: a directory, or a tmpfs, that lives with the pod (pod-api.md §18).

use crate::sys::mount::{self, FsContext, attr};
use crate::sys::{Called, SysResult};
use nix::errno::Errno;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// A directory of mode 0777.
pub(super) fn on_disk(path: &Path) -> SysResult<()> {
    directory(path, 0o777)
}

/// A directory of this mode, whatever the umask.
pub(super) fn directory(path: &Path, mode: u32) -> SysResult<()> {
    std::fs::create_dir_all(path).called("mkdir", path.display())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).called("chmod", path.display())
}

/// A directory of mode 0777 which keeps the mode that its users gave it.
pub(super) fn persistent(path: &Path) -> SysResult<()> {
    if path.is_dir() { Ok(()) } else { on_disk(path) }
}

/// A tmpfs for files that podshim makes, of mode 0755; never swapped out where the kernel can promise that (6.4).
pub(super) fn in_memory_for_files(path: &Path) -> SysResult<()> {
    directory(path, 0o755)?;
    let mode = ("mode", "0755".to_owned());
    match tmpfs(path, &[mode.clone(), ("noswap", String::new())]) {
        Err(error) if error.errno() == Errno::EINVAL => tmpfs(path, &[mode]),
        other => other,
    }
}

/// A tmpfs of mode 0777 and at most `size` bytes.
pub(super) fn in_memory(path: &Path, size: Option<u64>) -> SysResult<()> {
    on_disk(path)?;
    let mut options = vec![("mode", "0777".to_owned())];
    options.extend(size.map(|bytes| ("size", bytes.to_string())));
    tmpfs(path, &options)
}

/// A tmpfs of mode 0755 and at most `size` bytes and 1024 files.
pub(super) fn small(path: &Path, size: u64) -> SysResult<()> {
    directory(path, 0o755)?;
    tmpfs(path, &[("mode", "0755".to_owned()), ("size", size.to_string()), ("nr_inodes", "1024".to_owned())])
}

const SHM_SIZE: u64 = 64 << 20;

/// The pod's shared memory.
pub(super) fn shm(path: &Path) -> SysResult<()> {
    on_disk(path)?;
    tmpfs(path, &[("mode", "1777".to_owned()), ("size", SHM_SIZE.to_string())])
}

fn tmpfs(path: &Path, options: &[(&str, String)]) -> SysResult<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    let context = FsContext::open("tmpfs")?;
    for (key, value) in options {
        if value.is_empty() { context.flag(key)? } else { context.set(key, value)? }
    }
    let mounted = context.mount(attr::NOSUID | attr::NODEV)?;
    let target = std::fs::File::open(path).called("open", path.display())?;
    mount::attach(mounted.as_fd(), target.as_fd())
}

/// Whether something is mounted at `path`: then its device differs from its parent's.
pub(super) fn is_mounted(path: &Path) -> SysResult<bool> {
    let device = |p: &Path| std::fs::symlink_metadata(p).called("stat", p.display()).map(|m| m.dev());
    Ok(device(path)? != device(path.parent().unwrap_or(path))?)
}
