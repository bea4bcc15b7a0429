//! Whether mounts that are made later below a path of the host reach those who have it mounted (mount_namespaces(7)).

use crate::error::{Kind, failure};
use crate::plan::config::MountPropagation;
use crate::sys::{mount, mountinfo};
use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::AsFd;
use std::path::Path;

/// Checks that the mount which a path is on is shared (for `Bidirectional`), or shared or a slave (for `HostToContainer`), in this
/// process's mount namespace. What does not exist yet is where its nearest directory is.
///
/// # Errors
/// Of kind `Invalid`, in containerd's words: it is not.
pub fn check_propagation(path: &Path, wanted: MountPropagation) -> Result<()> {
    if wanted == MountPropagation::None {
        return Ok(());
    }
    let opened = path.ancestors().find_map(|there| open(there, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok());
    let opened = opened.with_context(|| format!("nothing of {} can be opened", path.display()))?;
    let (id, text) = (mount::mount_id(opened.as_fd()), mountinfo::read()?);
    let mount = mountinfo::mounts(&text).find(|mount| Some(mount.id) == id);
    let mount = mount.with_context(|| format!("the mount that {} is on is not in mountinfo", path.display()))?;
    let (is_so, word) = match wanted {
        MountPropagation::Bidirectional => (mount.is_shared(), "a shared mount"),
        _ => (mount.is_shared() || mount.is_slave(), "a shared or slave mount"),
    };
    if is_so {
        return Ok(());
    }
    let message = format!("path {:?} is mounted on {:?} but it is not {word}", path.display(), mount.point);
    Err(failure(Kind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_a_path_is_found_and_procfs_is_judged_by_its_own_line() {
        let text = mountinfo::read().unwrap();
        let proc = mountinfo::mounts(&text).filter(|mount| mount.point == Path::new("/proc")).last().unwrap();
        let is_shared = proc.is_shared();
        let path = Path::new("/proc/self/no/such/file");
        match check_propagation(path, MountPropagation::Bidirectional) {
            Ok(()) => assert!(is_shared),
            Err(error) => {
                assert!(!is_shared, "{error}");
                assert_eq!(
                    error.to_string(),
                    format!("path {path:?} is mounted on \"/proc\" but it is not a shared mount")
                );
            }
        }
        check_propagation(path, MountPropagation::None).unwrap();
    }
}
