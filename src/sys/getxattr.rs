//! getxattr(2), for the marks which systemd leaves on delegated cgroups.

use super::{SysResult, check};
use nix::errno::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// getxattr(2) for short values: the first 255 bytes of an extended attribute, or nothing if there is none by that name.
///
/// # Errors
/// As the call's, except ENODATA and ENOTSUP, which mean that there is none.
pub fn short_xattr(path: &Path, name: &str) -> SysResult<Option<Vec<u8>>> {
    let target = || format!("{} {name}", path.display());
    let invalid = |_| super::SysError::new("getxattr", target(), Errno::EINVAL);
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(invalid)?;
    let c_name = CString::new(name).map_err(invalid)?;
    let mut value = vec![0u8; 255];
    // SAFETY: both strings end with NUL and outlive the call; the buffer is as long as told.
    let length = unsafe { libc::getxattr(c_path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match check(length as libc::c_long, "getxattr", target()) {
        Ok(length) => {
            value.truncate(usize::try_from(length).unwrap_or(0));
            Ok(Some(value))
        }
        Err(e) if matches!(e.errno(), Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// setxattr(2): puts up a mark as systemd does.
#[cfg(test)]
pub(crate) fn mark(path: &Path, name: &str, value: &[u8]) -> SysResult<()> {
    let c_path = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
    let c_name = CString::new(name).expect("a name without NUL");
    // SAFETY: both strings end with NUL and outlive the call, as does the value, which is as long as told.
    let result = unsafe { libc::setxattr(c_path.as_ptr(), c_name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(result.into(), "setxattr", path.display()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_is_not_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(short_xattr(dir.path(), "user.delegate"), Ok(None));
        let missing = short_xattr(&dir.path().join("missing"), "user.delegate").unwrap_err();
        assert_eq!(missing.errno(), Errno::ENOENT);
        assert_eq!(short_xattr(dir.path(), "a\0b").unwrap_err().errno(), Errno::EINVAL);
    }
}
