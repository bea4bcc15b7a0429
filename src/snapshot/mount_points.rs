//! The layer below those of every image: the mount points that each container has and many images lack, made once. Else
//! each container's own directory would get them, and have to be rid of them again.

use crate::sys::{Called, SysResult, fs};
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const DIRECTORIES: [&str; 4] = ["dev", "etc", "proc", "sys"];
/// Whoever finds the last one finds all.
const FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Whether it has a file at a container's path, on which no directory can be mounted.
pub fn has_file_at(path: &str) -> bool {
    Path::new(path).strip_prefix("/").is_ok_and(|path| FILES.iter().any(|file| Path::new(file) == path))
}

/// `layers` (lowest first) above this one, which is at `path` and made there by whoever comes first; `None` if it cannot be made.
pub(super) fn below(layers: &[PathBuf], path: &Path) -> Option<Vec<PathBuf>> {
    let is_there = path.join(FILES[FILES.len() - 1]).exists() || make(path).is_ok();
    is_there.then(|| std::iter::once(path.to_owned()).chain(layers.iter().cloned()).collect())
}

/// Makes what is missing of it: somebody else may make it too, or have died meanwhile.
fn make(path: &Path) -> SysResult<()> {
    // Nobody on the host sees what is in there. A container has a root directory of its own.
    fs::make_directory(path, 0o700)?;
    DIRECTORIES.iter().try_for_each(|name| fs::make_directory(&path.join(name), 0o755))?;
    FILES.iter().try_for_each(|name| {
        let at = path.join(name);
        std::fs::write(&at, "").called("write", at.display())?;
        set_permissions(&at, Permissions::from_mode(0o644)).called("chmod", at.display())
    })
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
            assert_eq!(below(&layers, &path), Some([path.clone(), "/a".into(), "/b".into()].into()));
            for (name, mode) in [("", 0o40700), ("sys", 0o40755), ("etc", 0o40755), ("etc/hosts", 0o100_644)] {
                assert_eq!(path.join(name).metadata().unwrap().permissions().mode(), mode, "{name}");
            }
        }
    }

    #[test]
    fn it_has_files_where_nothing_but_files_is_mounted() {
        let rows =
            [("/etc/hosts", true), ("/etc/hosts/", true), ("/etc", false), ("etc/hosts", false), ("/proc", false)];
        for (path, expected) in rows {
            assert_eq!(has_file_at(path), expected, "{path}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(below(&[PathBuf::from("/a")], &file.path().join("below")), None);
    }
}
