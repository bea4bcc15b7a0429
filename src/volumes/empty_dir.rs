//! `emptyDir`: a directory, or a tmpfs, that lives with the pod (pod-api.md §18).

use crate::sys::mount::{self, FsContext, attr};
use crate::sys::{Called, SysResult, fs};
use nix::errno::Errno;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A directory of mode 0777 which keeps the mode that its users gave it.
pub(super) fn persistent(path: &Path) -> SysResult<()> {
    if path.is_dir() { Ok(()) } else { fs::make_directory(path, 0o777) }
}

/// A tmpfs for files that podshim makes, of mode 0755; never swapped out where the kernel can promise that (6.4).
pub(super) fn in_memory_for_files(path: &Path) -> SysResult<()> {
    fs::make_directory(path, 0o755)?;
    let mode = ("mode", "0755".to_owned());
    match file_system("tmpfs", path, &[mode.clone(), ("noswap", String::new())]) {
        Err(error) if error.errno() == Errno::EINVAL => file_system("tmpfs", path, &[mode]),
        other => other,
    }
}

/// A tmpfs of this mode and at most `size` bytes.
pub(super) fn in_memory(path: &Path, size: Option<u64>, mode: u32) -> SysResult<()> {
    fs::make_directory(path, mode)?;
    let mut options = vec![("mode", format!("{mode:04o}"))];
    options.extend(size.map(|bytes| ("size", bytes.to_string())));
    file_system("tmpfs", path, &options)
}

/// A hugetlbfs of this mode and at most `size` bytes, in pages of `page_size` bytes.
pub(super) fn huge_pages(path: &Path, page_size: u64, (size, mode): (Option<u64>, u32)) -> SysResult<()> {
    fs::make_directory(path, mode)?;
    let mut options = vec![("pagesize", page_size.to_string()), ("mode", format!("{mode:04o}"))];
    options.extend(size.map(|bytes| ("size", bytes.to_string())));
    file_system("hugetlbfs", path, &options)
}

/// A tmpfs of mode 0755 and at most `size` bytes and 1024 files.
pub(super) fn small(path: &Path, size: u64) -> SysResult<()> {
    fs::make_directory(path, 0o755)?;
    file_system(
        "tmpfs",
        path,
        &[("mode", "0755".to_owned()), ("size", size.to_string()), ("nr_inodes", "1024".to_owned())],
    )
}

const SHM_SIZE: u64 = 64 << 20;

/// The pod's shared memory.
pub(super) fn shm(path: &Path) -> SysResult<()> {
    fs::make_directory(path, 0o1777)?;
    file_system("tmpfs", path, &[("mode", "1777".to_owned()), ("size", SHM_SIZE.to_string())])
}

fn file_system(kind: &'static str, path: &Path, options: &[(&str, String)]) -> SysResult<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    let context = FsContext::open(kind)?;
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
