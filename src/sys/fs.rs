//! Files by descriptor: path resolution that cannot leave a root, and extended attributes of any type of file.

use super::record::{self, call};
use super::{Called, SysError, SysResult, check};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow};
use nix::libc;
use nix::sys::stat::{Mode, SFlag};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use nix::fcntl::ResolveFlag as ResolveFlags;

/// How often a resolution is repeated which the kernel could not prove safe while another process renamed (EAGAIN).
const RESOLVE_ATTEMPTS: u32 = 128;

/// Makes a directory of podshim's own, with those above it, if it is not there yet; it has this mode, whatever the umask is.
pub fn make_directory(path: &Path, mode: u32) -> SysResult<()> {
    std::fs::create_dir_all(path).called("mkdir", path.display())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).called("chmod", path.display())
}

/// `openat2(2)` below `dir`, close-on-exec. `mode` counts only with `O_CREAT` or `O_TMPFILE`.
///
/// EAGAIN (a rename or mount raced a `..` under `RESOLVE_IN_ROOT`/`RESOLVE_BENEATH`) and EINTR are retried, 128 times at
/// most. Errors: ELOOP where `resolve` forbids a link, EXDEV where it forbids leaving `dir` or crossing a mount.
#[expect(clippy::too_many_arguments, reason = "openat2(2)'s own arguments")]
pub fn openat2(dir: BorrowedFd, path: &Path, flags: OFlag, mode: u32, resolve: ResolveFlags) -> SysResult<OwnedFd> {
    let how = || OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(Mode::from_bits_truncate(mode)).resolve(resolve);
    let shown = || {
        format!(
            "{}, {path:?}, {{flags={}, resolve={}}}",
            record::shown(dir),
            record::flags(flags),
            record::flags(resolve)
        )
    };
    let mut errno = Errno::EAGAIN;
    let opened = call("openat2", shown, || {
        for _ in 0..RESOLVE_ATTEMPTS {
            match nix::fcntl::openat2(dir, path, how()) {
                Ok(fd) => return Ok(fd),
                Err(e @ (Errno::EAGAIN | Errno::EINTR)) => errno = e,
                Err(e) => return Err(SysError::new("openat2", path.display(), e)),
            }
        }
        Err(SysError::new("openat2", path.display(), errno))
    })?;
    record::name(opened.as_fd(), || path.display().to_string());
    Ok(opened)
}

/// The names in a directory, without `.` and `..`: getdents64(2). (What libc reads directories with takes twice as many calls.)
pub fn names(dir: BorrowedFd) -> SysResult<Vec<OsString>> {
    /// Where a record has its length, and its name (struct linux_dirent64).
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let list = nix::fcntl::openat(dir, ".", flags, Mode::empty()).called("openat", ".")?;
    let mut records = [0_u8; 4096];
    let mut names = Vec::new();
    loop {
        // SAFETY: the kernel writes no more than so many bytes there.
        let count =
            unsafe { libc::syscall(libc::SYS_getdents64, list.as_raw_fd(), records.as_mut_ptr(), records.len()) };
        let count = match check(count, "getdents64", ".") {
            // It was removed meanwhile, so that nothing is in it any more.
            Err(error) if error.errno() == Errno::ENOENT => 0,
            other => usize::try_from(other?).unwrap_or(0),
        };
        let mut left = &records[..count];
        if left.is_empty() {
            return Ok(names);
        }
        while let Some(&[low, high]) = left.get(LENGTH..LENGTH + 2) {
            let (record, rest) = left.split_at(usize::from(u16::from_ne_bytes([low, high])).clamp(1, left.len()));
            let name = record.get(NAME..).and_then(|name| name.split(|byte| *byte == 0).next()).unwrap_or_default();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
            left = rest;
        }
    }
}

/// How many symbolic links the kernel follows in one path (MAXSYMLINKS, path_resolution(7)).
pub const MAX_LINKS: u32 = 40;

/// As a process whose root directory it is resolves a path, and never through a `/proc` link.
pub const IN_ROOT: ResolveFlags = ResolveFlags::RESOLVE_IN_ROOT.union(ResolveFlags::RESOLVE_NO_MAGICLINKS);

/// Opens `path` as a process whose root directory is `root` would ([`IN_ROOT`]).
pub fn open_in_root(root: BorrowedFd, path: &Path, flags: OFlag, mode: u32) -> SysResult<OwnedFd> {
    openat2(root, path, flags, mode, IN_ROOT)
}

/// Opens `path` below `dir` for reading if it is a regular file; `None` if it is something else, which is not opened at all:
/// a FIFO would hold the caller up, and to open a device that a container made a node of is to do something to that device.
/// Where `resolve` allows links, the last component may be one.
pub fn open_regular(dir: BorrowedFd, path: &Path, resolve: ResolveFlags) -> SysResult<Option<File>> {
    let place = openat2(dir, path, OFlag::O_PATH, 0, resolve)?;
    reopen_regular(place.as_fd(), path, OFlag::O_RDONLY)
}

/// Opens what an `O_PATH` descriptor refers to, close-on-exec, if it is a regular file. `path` is for messages.
pub fn reopen_regular(place: BorrowedFd, path: &Path, flags: OFlag) -> SysResult<Option<File>> {
    let found = nix::sys::stat::fstat(place).called("fstat", path.display())?;
    if SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        return Ok(None);
    }
    // The link of /proc leads to this very inode, whatever its name is by now. Somebody's lease on it (fcntl(2)) would hold
    // the caller up: then it is EAGAIN.
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::open(&proc_fd_path(place), flags, Mode::empty());
    opened.called("open", path.display()).map(|fd| Some(File::from(fd)))
}

/// The path through which this process reaches `fd`, also an `O_PATH` one: `/proc/self/fd/<n>`.
pub fn proc_fd_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Takes the flags `i` and `a` of chattr(1) from a file or directory (`FS_IOC_SETFLAGS`), if it has them.
pub fn allow_removal(fd: BorrowedFd) -> SysResult<()> {
    // linux/fs.h
    const FS_IMMUTABLE_FL: libc::c_int = 0x10;
    const FS_APPEND_FL: libc::c_int = 0x20;
    let mut flags: libc::c_int = 0;
    // SAFETY: FS_IOC_GETFLAGS writes one int, whatever its number says of a long (ioctl_iflags(2)).
    let got = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut flags) };
    check(got.into(), "ioctl FS_IOC_GETFLAGS", "a file")?;
    let wanted = flags & !(FS_IMMUTABLE_FL | FS_APPEND_FL);
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: FS_IOC_SETFLAGS reads one int.
    let set = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_SETFLAGS as _, &raw const wanted) };
    check(set.into(), "ioctl FS_IOC_SETFLAGS", "a file").map(drop)
}

fn c_string(bytes: &[u8], call: &str) -> SysResult<CString> {
    CString::new(bytes).map_err(|_| SysError::new(call, String::from_utf8_lossy(bytes), Errno::EINVAL))
}

/// `fsetxattr(2)` on a descriptor opened for reading or writing (EBADF on `O_PATH`: use [`lsetxattrat`]).
pub fn fsetxattr(fd: BorrowedFd, attribute: &OsStr, value: &[u8]) -> SysResult<()> {
    let name = c_string(attribute.as_bytes(), "fsetxattr")?;
    // SAFETY: `name` is NUL-terminated and `value` is valid for `value.len()` bytes; the kernel only reads both.
    let result = unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(result.into(), "fsetxattr", attribute.display()).map(drop)
}

/// `lsetxattr(2)` on the entry `name` of the directory `dir`, of any type; a link itself, not what it points to.
///
/// `name` must be one component: the last component is never followed, and the directory is the descriptor's own.
pub fn lsetxattrat(dir: BorrowedFd, name: &OsStr, attribute: &OsStr, value: &[u8]) -> SysResult<()> {
    let path = entry_path(dir, name, "lsetxattr")?;
    let key = c_string(attribute.as_bytes(), "lsetxattr")?;
    // SAFETY: `path` and `key` are NUL-terminated, `value` is valid for its length; the kernel only reads them.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), key.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(result.into(), "lsetxattr", format_args!("{} of {}", attribute.display(), name.display())).map(drop)
}

/// `lgetxattr(2)` on the entry `name` of `dir`; `None` if it has no such attribute (ENODATA) or its file system has none
/// at all (EOPNOTSUPP). At most 64 KiB, the kernel's own limit (XATTR_SIZE_MAX).
pub fn lgetxattrat(dir: BorrowedFd, name: &OsStr, attribute: &OsStr) -> SysResult<Option<Vec<u8>>> {
    let path = entry_path(dir, name, "lgetxattr")?;
    let key = c_string(attribute.as_bytes(), "lgetxattr")?;
    let mut value = vec![0u8; 64 << 10];
    // SAFETY: `path` and `key` are NUL-terminated; the kernel writes at most `value.len()` bytes into `value`.
    let result = unsafe { libc::lgetxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match check(result as libc::c_long, "lgetxattr", format_args!("{} of {}", attribute.display(), name.display())) {
        Ok(length) => {
            value.truncate(length as usize);
            Ok(Some(value))
        }
        Err(e) if matches!(e.errno(), Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// `llistxattr(2)` on the entry `name` of `dir`: the names of its attributes; none if its file system has none at all.
pub fn llistxattrat(dir: BorrowedFd, name: &OsStr) -> SysResult<Vec<OsString>> {
    let path = entry_path(dir, name, "llistxattr")?;
    // The kernel's own limit (XATTR_LIST_MAX).
    let mut list = vec![0u8; 64 << 10];
    // SAFETY: `path` is NUL-terminated; the kernel writes at most `list.len()` bytes into `list`.
    let result = unsafe { libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    match check(result as libc::c_long, "llistxattr", name.display()) {
        Ok(length) => {
            let names = list[..length as usize].split(|byte| *byte == 0).filter(|name| !name.is_empty());
            Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
        }
        Err(e) if e.errno() == Errno::EOPNOTSUPP => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// `/proc/self/fd/<dir>/<name>`: the magic link leads to the directory that is open, whatever its path is by now.
fn entry_path(dir: BorrowedFd, name: &OsStr, call: &str) -> SysResult<CString> {
    if name.as_bytes().contains(&b'/') || name == ".." {
        return Err(SysError::new(call, name.display(), Errno::EINVAL));
    }
    c_string(proc_fd_path(dir).join(name).as_os_str().as_bytes(), call)
}

/// `renameat2(2)` with `RENAME_NOREPLACE`: EEXIST if `to` is there. (nix has it for glibc only.)
pub fn rename_new(from: &Path, to: &Path) -> SysResult<()> {
    const RENAME_NOREPLACE: libc::c_uint = 1;
    let (old, new) =
        (c_string(from.as_os_str().as_bytes(), "renameat2")?, c_string(to.as_os_str().as_bytes(), "renameat2")?);
    let here = libc::AT_FDCWD;
    // SAFETY: both paths are NUL-terminated and outlive the call; the kernel only reads them.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, here, old.as_ptr(), here, new.as_ptr(), RENAME_NOREPLACE) };
    check(result, "renameat2", to.display()).map(drop)
}

/// `syncfs(2)`: everything of the file system of `fd` is on its disk when this returns.
pub fn syncfs(fd: BorrowedFd) -> SysResult<()> {
    nix::unistd::syncfs(fd).called("syncfs", format_args!("descriptor {}", fd.as_raw_fd()))
}

/// `sync_file_range(2)`, `SYNC_FILE_RANGE_WRITE`: what was written of a file between these offsets, in bytes, starts on its way to
/// the disk, and a later [`syncfs`] waits for less. Nothing depends on it, so an error is none.
pub fn write_back(file: BorrowedFd, written: std::ops::Range<u64>) {
    let (Ok(from), Ok(length)) = (written.start.try_into(), (written.end - written.start).try_into()) else { return };
    // SAFETY: no memory is passed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Removes a file; that there is none is fine.
pub fn remove_file(path: &Path) -> SysResult<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.called("unlink", path.display()),
    }
}

/// How many bytes can be read at once from a pipe without waiting: ioctl(2), `FIONREAD`.
pub fn available(pipe: BorrowedFd<'_>) -> nix::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one int there.
    let done = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    nix::errno::Errno::result(done)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_names_are_read_whatever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        assert_eq!(names(root.as_fd()).unwrap(), [""; 0]);
        let mut expected: Vec<OsString> = (0..300).map(|i| format!("{i:0>255}").into()).collect();
        expected.extend(
            [OsStr::from_bytes(b"\xff\n "), OsStr::new("..."), OsStr::new("..a"), OsStr::new("x")].map(OsStr::to_owned),
        );
        expected.iter().for_each(|name| drop(File::create(dir.path().join(name)).unwrap()));
        expected.sort();
        for _ in 0..2 {
            let mut found = names(root.as_fd()).unwrap();
            found.sort();
            assert_eq!(found, expected);
        }
        let gone = dir.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let open = File::open(&gone).unwrap();
        std::fs::remove_dir(&gone).unwrap();
        assert_eq!(names(open.as_fd()).unwrap(), [""; 0]);
        assert_eq!(names(File::open(dir.path().join("x")).unwrap().as_fd()).unwrap_err().errno(), Errno::ENOTDIR);
    }

    #[test]
    fn absolute_links_and_dot_dot_stay_in_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/hosts"), "inside").unwrap();
        symlink("/etc", dir.path().join("abs")).unwrap();
        symlink("../../../../etc", dir.path().join("up")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        for path in ["abs/hosts", "up/hosts", "/etc/hosts", "../../etc/hosts"] {
            let fd = open_in_root(root.as_fd(), Path::new(path), OFlag::O_RDONLY, 0).unwrap();
            assert_eq!(std::io::read_to_string(std::fs::File::from(fd)).unwrap(), "inside", "{path}");
        }
        let error = openat2(root.as_fd(), Path::new("abs"), OFlag::O_PATH, 0, ResolveFlags::RESOLVE_NO_SYMLINKS);
        assert_eq!(error.unwrap_err().errno(), Errno::ELOOP);
    }

    #[test]
    fn attributes_are_of_one_entry_and_not_of_a_path() {
        let dir = tempfile::tempdir_in(".").unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        lsetxattrat(fd.as_fd(), OsStr::new("f"), OsStr::new("user.x"), b"1").unwrap();
        assert_eq!(lgetxattrat(fd.as_fd(), OsStr::new("f"), OsStr::new("user.x")).unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(lgetxattrat(fd.as_fd(), OsStr::new("f"), OsStr::new("user.y")).unwrap(), None);
        for name in ["../f", "..", "a/f"] {
            let error = lsetxattrat(fd.as_fd(), OsStr::new(name), OsStr::new("user.x"), b"1").unwrap_err();
            assert_eq!(error.errno(), Errno::EINVAL, "{name}");
        }
        let file = std::fs::File::open(dir.path().join("f")).unwrap();
        fsetxattr(file.as_fd(), OsStr::new("user.x"), b"2").unwrap();
        assert_eq!(lgetxattrat(fd.as_fd(), OsStr::new("f"), OsStr::new("user.x")).unwrap().as_deref(), Some(&b"2"[..]));
    }
}
