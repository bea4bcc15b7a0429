//! Files that containers wrote and podshim reads: variables by `fileKeyRef`.

use crate::error::{Kind, failure};
use crate::sys::Called;
use crate::sys::fs::{IN_ROOT, open_regular};
use anyhow::{Context, Result};
use nix::errno::Errno;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// The text of a file of a volume; none if it does not exist. Links are resolved by the kernel as if the volume were the
/// whole file system, so none leads out of it.
///
/// # Errors
/// It is no regular file (nothing else is opened at all), has more than `most` bytes, or is no text.
pub fn read_text(volume: BorrowedFd<'_>, path: &str, most: u64) -> Result<Option<String>> {
    let invalid = |what: String| failure(Kind::Invalid, what);
    let opened = match open_regular(volume, Path::new(path), IN_ROOT) {
        Ok(Some(file)) => file,
        Ok(None) => return Err(invalid(format!("{path:?} is no regular file"))),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("file {path:?}")),
    };
    let mut bytes = Vec::new();
    opened.take(most + 1).read_to_end(&mut bytes).called("read", path)?;
    if bytes.len() as u64 > most {
        return Err(invalid(format!("{path:?} has more than {most} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| invalid(format!("{path:?} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn s12_files_are_read_within_their_volume_only() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        std::fs::write(volume.join("sub/file"), "inside").unwrap();
        std::fs::write(volume.join("long"), "x".repeat(11)).unwrap();
        std::fs::write(volume.join("binary"), [0xff]).unwrap();
        symlink("../../secret", volume.join("out")).unwrap();
        symlink(dir.path().join("secret"), volume.join("absolute")).unwrap();
        symlink("/sub/file", volume.join("in")).unwrap();
        symlink("/proc/self/exe", volume.join("magic")).unwrap();
        nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let root = File::open(&volume).unwrap();
        let read = |path: &str| read_text(root.as_fd(), path, 10).map_err(|error| format!("{error:#}"));
        assert_eq!(read("sub/file").unwrap().as_deref(), Some("inside"));
        assert_eq!(read("in").unwrap().as_deref(), Some("inside"));
        for path in ["none", "none/file", "sub/file/below", "out", "absolute", "magic", "../secret"] {
            assert_eq!(read(path), Ok(None), "{path}");
        }
        for (path, expected) in [
            ("long", "more than 10 bytes"),
            ("binary", "is not UTF-8"),
            ("sub", "is no regular file"),
            ("fifo", "is no regular file"),
        ] {
            assert!(read(path).unwrap_err().contains(expected), "{path}");
        }
    }
}
