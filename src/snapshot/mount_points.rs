//! The layer below those of every image: the mount points that each container has and most images lack, made once. Else
//! each container's own directory would get them, and have to be rid of them again.

use crate::sys::{Called, SysResult};
use std::fs::{DirBuilder, File, Permissions, set_permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const DIRECTORIES: [&str; 4] = ["dev", "etc", "proc", "sys"];
/// Whoever finds the last one finds all.
const FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// The most layers of an image that get one more: kernels before Linux 6.8 have little room for their names, and no kernel takes
/// more than 500 (OVL_MAX_STACK in fs/overlayfs/params.h).
const MANY: usize = 60;

/// `layers` (lowest first) above the one of mount points, which is at `path` and made there by whoever comes first. Without it
/// where it cannot be made: what a container lacks is made in its own directory.
pub fn with_mount_points(layers: &[PathBuf], path: &Path) -> Vec<PathBuf> {
    let is_there = || path.join(FILES[FILES.len() - 1]).exists() || make(path).is_ok();
    let lowest = (layers.len() <= MANY && is_there()).then(|| path.to_owned());
    lowest.into_iter().chain(layers.iter().cloned()).collect()
}

/// Makes what is missing of it: somebody else may make it too, or have died meanwhile.
fn make(path: &Path) -> SysResult<()> {
    // Nobody on the host sees what is in there. A container has a root directory of its own.
    directory(path, 0o700)?;
    DIRECTORIES.iter().try_for_each(|name| directory(&path.join(name), 0o755))?;
    FILES.iter().try_for_each(|name| {
        let at = path.join(name);
        finish(File::create_new(&at).map(drop), "open", &at, 0o644)
    })
}

fn directory(at: &Path, mode: u32) -> SysResult<()> {
    finish(DirBuilder::new().mode(mode).create(at), "mkdir", at, mode)
}

/// It is there, and has its mode whatever the umask is.
fn finish(made: std::io::Result<()>, call: &str, at: &Path, mode: u32) -> SysResult<()> {
    match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        other => other.called(call, at.display())?,
    }
    set_permissions(at, Permissions::from_mode(mode)).called("chmod", at.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_whatever_somebody_has_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mount-points");
        std::fs::create_dir(&path).unwrap();
        std::fs::create_dir(path.join("etc")).unwrap();
        set_permissions(path.join("etc"), Permissions::from_mode(0o700)).unwrap();
        let layers = [PathBuf::from("/a"), PathBuf::from("/b")];
        for _ in 0..2 {
            assert_eq!(with_mount_points(&layers, &path), [path.clone(), "/a".into(), "/b".into()]);
            for (name, mode) in [("", 0o40700), ("sys", 0o40755), ("etc", 0o40755), ("etc/hosts", 0o100_644)] {
                assert_eq!(path.join(name).metadata().unwrap().permissions().mode(), mode, "{name}");
            }
        }
    }

    #[test]
    fn layers_go_without_it_where_it_has_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let layers = [PathBuf::from("/a")];
        assert_eq!(with_mount_points(&layers, &file.join("below")), layers);
        let many = vec![PathBuf::from("/a"); MANY + 1];
        assert_eq!(with_mount_points(&many, &dir.path().join("mount-points")), many);
        assert_eq!(with_mount_points(&many[1..], &dir.path().join("mount-points")).len(), MANY + 1);
    }
}
