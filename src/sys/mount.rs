//! The mount API on descriptors: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2),
//! pivot_root(2). Linux 5.12 has all of them.

use super::mountinfo;
use super::record::{self, call};
use super::{Called, SysError, SysResult, check};
use nix::errno::Errno;
use nix::sys::statfs::FsType;
use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `MOUNT_ATTR_*` of mount_setattr(2).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-ID bits and file capabilities are not honoured.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// Access times are updated only when older than modification times.
    pub const RELATIME: u64 = 0x0;
}

/// The file system of pinned namespaces (linux/magic.h).
pub const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// Mount propagation, as mount_setattr(2) takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    /// `MS_PRIVATE`
    Private,
    /// `MS_SLAVE`
    Slave,
    /// `MS_SHARED`
    Shared,
    /// `MS_UNBINDABLE`: private, and no part of a copy of the mount that it is on.
    Unbindable,
}

impl Propagation {
    fn flag(self) -> &'static str {
        match self {
            Propagation::Private => "MS_PRIVATE",
            Propagation::Slave => "MS_SLAVE",
            Propagation::Shared => "MS_SHARED",
            Propagation::Unbindable => "MS_UNBINDABLE",
        }
    }

    fn bits(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Whether a call takes in the mounts below the named one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Depth {
    /// Only the mount itself.
    Top,
    /// With everything mounted below it (`AT_RECURSIVE`).
    Recursive,
}

fn cstr(path: &Path, call: &str) -> SysResult<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| SysError::new(call, path.display(), Errno::EINVAL))
}

/// What a descriptor refers to, for error messages: the link of `/proc/self/fd/<n>`, which is read when it is shown.
pub fn fd_name(fd: BorrowedFd<'_>) -> impl fmt::Display {
    fmt::from_fn(move |f| match std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
        Ok(path) => write!(f, "{}", path.display()),
        Err(_) => write!(f, "fd {}", fd.as_raw_fd()),
    })
}

/// The name of the file system of a mount, attached or not; `None` if the kernel does not say.
pub fn file_system_name(mount: BorrowedFd<'_>) -> Option<String> {
    let status = nix::sys::statfs::fstatfs(mount).ok()?;
    let device = nix::sys::stat::fstat(mount).ok()?.st_dev;
    let number = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    // A detached mount is in no list, but another one of the same file system mostly is.
    let list = mountinfo::read().ok()?;
    let other = mountinfo::mounts(&list).find(|mount| mount.device == number);
    Some(
        other
            .map(|mount| mount.fs_type.into_owned())
            .unwrap_or_else(|| format!("file system {:#x}", status.filesystem_type().0)),
    )
}

/// A file system being configured: fsopen(2), then [`FsContext::set`], then [`FsContext::mount`].
pub struct FsContext {
    fd: OwnedFd,
    fstype: &'static str,
}

impl FsContext {
    /// fsopen(2). `ENODEV` means that the kernel does not have this file system.
    pub fn open(fstype: &'static str) -> SysResult<FsContext> {
        let name = CString::new(fstype).map_err(|_| SysError::new("fsopen", fstype, Errno::EINVAL))?;
        let fd = call(
            "fsopen",
            || format!("{fstype:?}, FSOPEN_CLOEXEC"),
            || {
                // SAFETY: `name` is a NUL-terminated string that outlives the call; the result is a new descriptor or -1.
                let fd = unsafe {
                    libc::syscall(libc::SYS_fsopen, name.as_ptr(), 1 /* FSOPEN_CLOEXEC */)
                };
                check(fd, "fsopen", fstype)
            },
        )?;
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        record::name(fd.as_fd(), || format!("new {fstype}"));
        Ok(FsContext { fd, fstype })
    }

    fn config(&self, command: u32, key: Option<&CStr>, value: Option<&CStr>) -> SysResult<()> {
        let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
        let quoted = |s: Option<&CStr>| s.map_or_else(|| "NULL".to_owned(), |s| format!("{:?}", s.to_string_lossy()));
        let command_name = match command {
            0 => "FSCONFIG_SET_FLAG",
            1 => "FSCONFIG_SET_STRING",
            _ => "FSCONFIG_CMD_CREATE",
        };
        let fd = &self.fd;
        let arguments =
            || format!("{}, {command_name}, {}, {}, 0", record::shown(fd.as_fd()), quoted(key), quoted(value));
        call("fsconfig", arguments, || {
            // SAFETY: key and value are NULL or NUL-terminated strings that outlive the call; the descriptor is open.
            let result =
                unsafe { libc::syscall(libc::SYS_fsconfig, fd.as_raw_fd(), command, pointer(key), pointer(value), 0) };
            // The errno first: reading the kernel's message may fail with another one.
            let errno = Errno::last();
            if result == -1 { Err(SysError::new("fsconfig", self.target(key, value), errno)) } else { Ok(()) }
        })
    }

    fn target(&self, key: Option<&CStr>, value: Option<&CStr>) -> String {
        let text = |s: Option<&CStr>| s.map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        // The kernel says more than an errno on the context's descriptor; see fsopen(2), "message retrieval".
        let mut buffer = [0u8; 256];
        let message = nix::unistd::read(&self.fd, &mut buffer)
            .ok()
            .map(|n| format!(" ({})", String::from_utf8_lossy(&buffer[..n]).trim_end()))
            .unwrap_or_default();
        format!("{} {}={}{message}", self.fstype, text(key), text(value))
    }

    /// `FSCONFIG_SET_STRING`: one option. Values over 255 bytes are refused by the kernel with `EINVAL`.
    pub fn set(&self, key: &str, value: impl AsRef<Path>) -> SysResult<()> {
        let key = CString::new(key).map_err(|_| SysError::new("fsconfig", key, Errno::EINVAL))?;
        let value = cstr(value.as_ref(), "fsconfig")?;
        self.config(1, Some(&key), Some(&value))
    }

    /// `FSCONFIG_SET_FLAG`: an option without a value.
    pub fn flag(&self, key: &str) -> SysResult<()> {
        let key = CString::new(key).map_err(|_| SysError::new("fsconfig", key, Errno::EINVAL))?;
        self.config(0, Some(&key), None)
    }

    /// `FSCONFIG_CMD_CREATE` and fsmount(2): a mount that is attached nowhere yet. `attributes` are `attr::*`.
    pub fn mount(&self, attributes: u64) -> SysResult<OwnedFd> {
        self.config(6, None, None)?;
        let arguments =
            || format!("{}, FSMOUNT_CLOEXEC, {}", record::shown(self.fd.as_fd()), attribute_names(attributes));
        let fd = call("fsmount", arguments, || {
            // SAFETY: only integers are passed; the result is a new descriptor or -1.
            let result = unsafe {
                libc::syscall(libc::SYS_fsmount, self.fd.as_raw_fd(), 1 /* FSMOUNT_CLOEXEC */, attributes)
            };
            check(result, "fsmount", self.fstype)
        })?;
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(made(unsafe { OwnedFd::from_raw_fd(fd as i32) }, self.fstype))
    }
}

/// Records which mount a call has made.
fn made(mount: OwnedFd, of: &str) -> OwnedFd {
    if record::is_on() {
        let name = match mount_id(mount.as_fd()) {
            Some(id) => format!("mount {id}"),
            None => "a mount".to_owned(),
        };
        record::answer(|| format!("{name}: {of}"));
        record::name(mount.as_fd(), || name);
    }
    mount
}

/// The id of the mount that a path leads to, as /proc/self/mountinfo has it (`STATX_MNT_ID`, Linux 5.8); `None` if to none, or if
/// the kernel does not say.
pub fn id_at(path: &Path) -> Option<u64> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
    mount_id(place.as_fd())
}

/// The id of the mount that a descriptor is on, as /proc/self/mountinfo has it (`STATX_MNT_ID`, Linux 5.8); `None` if the kernel does
/// not say.
pub fn mount_id(fd: BorrowedFd<'_>) -> Option<u64> {
    identity(fd).map(|identity| identity.mount)
}

/// What a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    mount: u64,
    device: (u32, u32),
    inode: u64,
}

/// `None` where the kernel does not say.
pub(super) type Identity = Option<FileIdentity>;

/// What a descriptor refers to (statx(2)).
pub(super) fn identity(fd: BorrowedFd<'_>) -> Identity {
    // SAFETY: an all-zero struct statx is valid: plain integers.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the empty path is a static NUL-terminated string, and `status` lives during the call.
    let result = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID | libc::STATX_INO,
            &raw mut status,
        )
    };
    let device = (status.stx_dev_major, status.stx_dev_minor);
    (result == 0 && status.stx_mask & libc::STATX_MNT_ID != 0).then_some(FileIdentity {
        mount: status.stx_mnt_id,
        device,
        inode: status.stx_ino,
    })
}

/// `attr::*` in the kernel's words.
fn attribute_names(attributes: u64) -> String {
    let table = [
        (attr::RDONLY, "MOUNT_ATTR_RDONLY"),
        (attr::NOSUID, "MOUNT_ATTR_NOSUID"),
        (attr::NODEV, "MOUNT_ATTR_NODEV"),
        (attr::NOEXEC, "MOUNT_ATTR_NOEXEC"),
        (ID_MAP, "MOUNT_ATTR_IDMAP"),
    ];
    let names: Vec<_> = table.iter().filter(|(bit, _)| attributes & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "0".to_owned() } else { names.join("|") }
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached bind mount of what `dir` (or `path` below it) refers to.
pub fn clone_tree(dir: BorrowedFd<'_>, depth: Depth) -> SysResult<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if depth == Depth::Recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    let arguments = || {
        let recursive = if depth == Depth::Recursive { "|AT_RECURSIVE" } else { "" };
        format!("{}, \"\", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH{recursive}", record::shown(dir))
    };
    let fd = call("open_tree", arguments, || {
        // SAFETY: the empty path is a static NUL-terminated string; the descriptor is open during the call.
        let result = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), c"".as_ptr(), flags) };
        if result == -1 { Err(SysError::new("open_tree", fd_name(dir), Errno::last())) } else { Ok(result) }
    })?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(made(unsafe { OwnedFd::from_raw_fd(fd as i32) }, "a copy, attached nowhere"))
}

/// The same, read-only: nothing can be written to what it shows, nor a mode or owner be changed (EROFS). A device can be read and
/// written all the same.
pub fn clone_read_only(dir: BorrowedFd<'_>, depth: Depth) -> SysResult<OwnedFd> {
    let tree = clone_tree(dir, depth)?;
    set_attributes(tree.as_fd(), SetAttr { set: attr::RDONLY, propagation: None, depth })?;
    Ok(tree)
}

/// move_mount(2): attaches a detached mount onto the very inode that `target` refers to; no path is walked.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> SysResult<()> {
    move_mount(mount, target, (0, ""))
}

/// move_mount(2) with `MOVE_MOUNT_SET_GROUP` (Linux 5.15): a private mount gets the propagation of `peer`, another one of the same
/// files. Both descriptors are of the mounts' roots.
pub fn join_peers(mount: BorrowedFd<'_>, peer: BorrowedFd<'_>) -> SysResult<()> {
    move_mount(peer, mount, (0x100, "|MOVE_MOUNT_SET_GROUP"))
}

/// With one more flag than those by which both are descriptors, and its name.
fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, (flag, name): (u32, &str)) -> SysResult<()> {
    const F_EMPTY_PATH: u32 = 0x4;
    const T_EMPTY_PATH: u32 = 0x40;
    let arguments = || {
        let flags = "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH";
        format!("{}, \"\", {}, \"\", {flags}{name}", record::shown(mount), record::shown(target))
    };
    call("move_mount", arguments, || {
        // SAFETY: both paths are static NUL-terminated strings; both descriptors are open during the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                mount.as_raw_fd(),
                c"".as_ptr(),
                target.as_raw_fd(),
                c"".as_ptr(),
                F_EMPTY_PATH | T_EMPTY_PATH | flag,
            )
        };
        check(result, "move_mount", fd_name(target)).map(drop)
    })
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// What mount_setattr(2) is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAttr {
    /// `attr::*` to set.
    pub set: u64,
    /// Propagation to set, if any.
    pub propagation: Option<Propagation>,
    /// Whether mounts below change too.
    pub depth: Depth,
}

/// mount_setattr(2) on the mount that `mount` refers to.
pub fn set_attributes(mount: BorrowedFd<'_>, change: SetAttr) -> SysResult<()> {
    let attributes = MountAttr {
        attr_set: change.set,
        attr_clr: 0,
        propagation: change.propagation.map_or(0, Propagation::bits),
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if change.depth == Depth::Recursive { libc::AT_RECURSIVE } else { 0 };
    set_attr(mount, &attributes, flags)
}

/// mount_setattr(2) with `MOUNT_ATTR_IDMAP` (Linux 5.12): through this mount, files belong to the ids that `userns` maps
/// their owners to. The mount must be attached nowhere yet. EINVAL: its file system cannot do this.
pub fn id_map(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> SysResult<()> {
    let userns_fd = userns.as_raw_fd() as u64;
    let attributes = MountAttr { attr_set: ID_MAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attr(mount, &attributes, libc::AT_EMPTY_PATH)
}

/// `MOUNT_ATTR_IDMAP`
const ID_MAP: u64 = 0x0010_0000;

fn set_attr(mount: BorrowedFd<'_>, attributes: &MountAttr, flags: i32) -> SysResult<()> {
    let arguments = || {
        let recursive = if flags & libc::AT_RECURSIVE != 0 { "|AT_RECURSIVE" } else { "" };
        let all = [Propagation::Private, Propagation::Slave, Propagation::Shared];
        let propagation = all.into_iter().find(|p| p.bits() == attributes.propagation).map_or("0", Propagation::flag);
        let set = attribute_names(attributes.attr_set);
        format!("{}, \"\", AT_EMPTY_PATH{recursive}, {{set={set}, propagation={propagation}}}", record::shown(mount))
    };
    call("mount_setattr", arguments, || {
        // SAFETY: `attributes` is a valid struct mount_attr of the size passed, alive during the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                flags,
                std::ptr::from_ref(attributes),
                size_of::<MountAttr>(),
            )
        };
        check(result, "mount_setattr", fd_name(mount)).map(drop)
    })
}

/// pivot_root(".", ".") and umount2(".", MNT_DETACH): the current directory, which must be a mount, becomes the root,
/// and the old root is gone. See pivot_root(2), "pivot_root(".", ".")".
pub fn pivot_to_cwd() -> SysResult<()> {
    let dots = || "\".\", \".\"".to_owned();
    call("pivot_root", dots, || nix::unistd::pivot_root(".", ".").called("pivot_root", "."))?;
    // The old root is now stacked on "."; it must not propagate its unmounting, hence slave before this call.
    let detach = || nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).called("umount2", "old root");
    call("umount2", || "\".\", MNT_DETACH".into(), detach)?;
    call("chdir", || "\"/\"".into(), || nix::unistd::chdir("/").called("chdir", "/"))
}

/// umount2(2) with `MNT_DETACH | UMOUNT_NOFOLLOW`; a path that is no mount (`EINVAL`) or is gone counts as done.
pub fn detach(path: &Path) -> SysResult<()> {
    use nix::mount::MntFlags;
    match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EINVAL | Errno::ENOENT) | Ok(()) => Ok(()),
        Err(errno) => Err(SysError::new("umount2", path.display(), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_option_has_the_kernels_errno_and_message() {
        if !nix::unistd::geteuid().is_root() {
            let skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
            assert!(skip.split([',', ' ']).any(|w| w == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
            return;
        }
        let context = FsContext::open("tmpfs").unwrap();
        let error = context.set("nonsense", "1").unwrap_err();
        assert_eq!(error.errno(), Errno::EINVAL, "{error}");
        assert!(error.target.starts_with("tmpfs nonsense=1 (e tmpfs: Unknown parameter"), "{error}");
        // Here the kernel has no message (reading it is ENODATA).
        let mounted = context.mount(0).unwrap();
        assert_eq!(context.mount(0).unwrap_err().errno(), Errno::EBUSY, "created already");
        drop(mounted);
    }
}
