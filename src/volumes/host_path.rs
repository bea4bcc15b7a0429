//! `hostPath` with its seven types (pod-api.md §17).

use crate::error::{Kind, failure};
use crate::plan::config::HostPathType;
use crate::sys::{Called, SysResult};
use anyhow::Result;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::fs::FileType;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// A descriptor of a path; symbolic links are followed, as a kubelet's type check does.
pub(super) fn open_path(path: &Path) -> Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).called("open", path.display())?)
}

/// What a type wants, in words and as a check.
type Wanted = (&'static str, fn(&FileType) -> bool);

fn wanted(kind: HostPathType) -> Option<Wanted> {
    Some(match kind {
        HostPathType::Unset => return None,
        HostPathType::Directory | HostPathType::DirectoryOrCreate => ("directory", FileType::is_dir),
        HostPathType::File | HostPathType::FileOrCreate => ("file", FileType::is_file),
        HostPathType::Socket => ("socket", FileType::is_socket),
        HostPathType::CharDevice => ("character device", FileType::is_char_device),
        HostPathType::BlockDevice => ("block device", FileType::is_block_device),
    })
}

/// What is at `path`: `None` if nothing is.
fn file_type(path: &Path) -> Result<Option<FileType>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.file_type())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Ok(Err(e).called("stat", path.display())?),
    }
}

/// Checks that a path, wherever its links lead, is in none of podshim's own directories: in one are the sockets by which pods
/// are ruled, in the other the images and volumes of all. Logs are for everybody who collects them.
pub(super) fn check_not_own(path: &Path, own: [&Path; 2]) -> Result<()> {
    // What does not exist yet is where its nearest directory is.
    let real = path.ancestors().find_map(|existing| existing.canonicalize().ok());
    let is_own = |own: &&Path| {
        let own = own.canonicalize().unwrap_or_else(|_| own.to_path_buf());
        real.as_ref().is_some_and(|real| real.starts_with(&own))
    };
    match own.iter().find(|own| is_own(own)) {
        Some(own) => Err(failure(
            Kind::Invalid,
            format!("{} is in {}, which is podshim's own and no pod's", path.display(), own.display()),
        )),
        None => Ok(()),
    }
}

/// Checks the type; a path that `materialize` will make may be missing.
pub(super) fn check(path: &Path, kind: HostPathType) -> Result<()> {
    let invalid = |message: String| Err(failure(Kind::Invalid, message));
    match (file_type(path)?, wanted(kind)) {
        (Some(found), Some((name, is))) if !is(&found) => {
            invalid(format!("hostPath type check failed: {} is not a {name}", path.display()))
        }
        (Some(_), _) => Ok(()),
        (None, _) if kind == HostPathType::DirectoryOrCreate => Ok(()),
        (None, _) if kind == HostPathType::FileOrCreate => match path.parent().map(std::fs::metadata) {
            Some(Ok(parent)) if parent.is_dir() => Ok(()),
            _ => invalid(format!(
                "hostPath type check failed: the directory of {} does not exist, and type FileOrCreate does not make it",
                path.display()
            )),
        },
        (None, Some((name, _))) => invalid(format!(
            "hostPath type check failed: {} does not exist, and type {kind:?} wants a {name} there",
            path.display()
        )),
        (None, None) => invalid(format!(
            "hostPath {} does not exist: write `type: DirectoryOrCreate` below it to have the directory made",
            path.display()
        )),
    }
}

/// Makes what the type allows to be made, then checks the type.
pub(super) fn materialize(path: &Path, kind: HostPathType) -> Result<()> {
    if file_type(path)?.is_none() {
        match kind {
            HostPathType::DirectoryOrCreate => make_directory(path)?,
            HostPathType::FileOrCreate => make_file(path)?,
            _ => {}
        }
    }
    check(path, kind)
}

fn make_directory(path: &Path) -> SysResult<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).called("mkdir", path.display())
}

fn make_file(path: &Path) -> SysResult<()> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    match made {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.called("open", path.display()).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn s17_every_type_against_every_kind_of_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("dir")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("dir"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
        use HostPathType::*;
        let rows: &[(HostPathType, &str, bool)] = &[
            (Unset, "dir", true),
            (Unset, "file", true),
            (Unset, "missing", false),
            (Directory, "dir", true),
            (Directory, "link", true),
            (Directory, "file", false),
            (Directory, "missing", false),
            (Directory, "dangling", false),
            (DirectoryOrCreate, "dir", true),
            (DirectoryOrCreate, "new/deep", true),
            (DirectoryOrCreate, "file", false),
            (File, "file", true),
            (File, "dir", false),
            (File, "missing", false),
            (FileOrCreate, "file", true),
            (FileOrCreate, "newfile", true),
            (FileOrCreate, "nodir/newfile", false),
            (FileOrCreate, "dir", false),
            (Socket, "socket", true),
            (Socket, "file", false),
            (CharDevice, "file", false),
            (BlockDevice, "dir", false),
        ];
        for (kind, name, fine) in rows {
            let path = at(name);
            assert_eq!(check(&path, *kind).is_ok(), *fine, "check {kind:?} {name}");
            assert_eq!(materialize(&path, *kind).is_ok(), *fine, "{kind:?} {name}");
            assert_eq!(*fine, path.exists() && *fine, "{kind:?} {name} is there");
        }
        assert!(check(Path::new("/dev/null"), CharDevice).is_ok());
        assert!(!at("nodir").exists(), "parents of files are not made");
    }
}
