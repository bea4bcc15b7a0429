//! `emptyDir`: a directory, or a tmpfs, that lives with the pod (pod-api.md §18).

use crate::sys::mount::{self, FsContext, attr};
use crate::sys::{Called, SysResult};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// A directory of this mode, whatever the umask.
pub(super) fn on_disk(path: &Path, mode: u32) -> SysResult<()> {
    std::fs::create_dir_all(path).called("mkdir", path.display())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).called("chmod", path.display())
}

/// A tmpfs of this mode and at most `size` bytes.
pub(super) fn in_memory(path: &Path, size: Option<u64>, mode: u32) -> SysResult<()> {
    on_disk(path, mode)?;
    let mut options = vec![("mode", format!("{mode:04o}"))];
    options.extend(size.map(|bytes| ("size", bytes.to_string())));
    tmpfs(path, &options)
}

const SHM_SIZE: u64 = 64 << 20;

/// The pod's shared memory.
pub(super) fn shm(path: &Path) -> SysResult<()> {
    on_disk(path, 0o1777)?;
    tmpfs(path, &[("mode", "1777".to_owned()), ("size", SHM_SIZE.to_string())])
}

fn tmpfs(path: &Path, options: &[(&str, String)]) -> SysResult<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    let context = FsContext::open("tmpfs")?;
    for (key, value) in options {
        context.set(key, value)?;
    }
    let mounted = context.mount(attr::NOSUID | attr::NODEV)?;
    let target = std::fs::File::open(path).called("open", path.display())?;
    mount::attach(mounted.as_fd(), target.as_fd())
}

/// Whether something is mounted at `path`: then its device differs from its parent's.
fn is_mounted(path: &Path) -> SysResult<bool> {
    let device = |p: &Path| std::fs::symlink_metadata(p).called("stat", p.display()).map(|m| m.dev());
    Ok(device(path)? != device(path.parent().unwrap_or(path))?)
}
