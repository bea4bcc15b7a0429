//! The mounts of a container, made by its init after pivot_root(2): no path of the host can be reached any more, sources
//! are descriptors, and targets are resolved inside the new root without following `/proc` links.

use super::attach::{Sharing, attach};
use super::init::{StepError, StepResult, duplicate};
use super::{NULL, is_device};
use crate::host::cgroup::{CgroupSetup, Version};
use crate::plan::config::{DeviceKind, HostDevice};
use crate::sys::fs::{MAX_LINKS, ResolveFlags, open_in_root, openat2};
use crate::sys::mount::{self, Depth, FsContext, Propagation, SetAttr, attr};
use crate::sys::{Called, SysError, SysResult, process, record};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::sys::statfs::{
    BPF_FS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, FsType, PROC_SUPER_MAGIC, SECURITYFS_MAGIC,
    SELINUX_MAGIC, SYSFS_MAGIC, TMPFS_MAGIC, TRACEFS_MAGIC, fstatfs,
};
use nix::unistd::{Gid, Uid, fchownat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

const DEVPTS_SUPER_MAGIC: FsType = FsType(0x1cd1);

/// A descriptor of the calling process' root directory.
pub(super) fn root() -> SysResult<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open("/", flags, Mode::empty()).called("open", "/")?;
    record::name(root.as_fd(), || "/".to_owned());
    Ok(root)
}

/// What a mount point must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TargetKind {
    Directory,
    File,
}

/// Opens the mount point `path`, making what is missing of it: directories with mode 0755, an empty file with 0644. A
/// dangling link is followed inside the root, and what it names is made: images have such links (/etc/resolv.conf to what
/// systemd would make).
fn target(path: &Path, kind: TargetKind) -> Result<OwnedFd, StepError> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match open_in_root(root()?.as_fd(), &path, OFlag::O_PATH, 0) {
            Ok(fd) => return Ok(fd),
            Err(e) if e.errno() == Errno::ENOENT => {}
            Err(e) if e.errno() == Errno::ELOOP => {
                let message = format!("{} leads through a link of /proc (or too many links)", path.display());
                return Err(StepError::refused(message));
            }
            Err(e) if e.errno() == Errno::ENOTDIR => return Err(StepError::refused(e.to_string())),
            Err(e) => return Err(e.into()),
        }
        match make(&path, kind)? {
            Made::There(fd) => return Ok(fd),
            Made::Link(on) => path = on,
        }
    }
    Err(StepError::refused(format!("{} leads through too many symbolic links", path.display())))
}

/// What [`make`] came to.
enum Made {
    /// The mount point.
    There(OwnedFd),
    /// A dangling link: the path with what the link says in its place.
    Link(PathBuf),
}

fn make(path: &Path, kind: TargetKind) -> Result<Made, StepError> {
    let top = root()?;
    let mut walked = PathBuf::from("/");
    let mut directory = root()?;
    let mut components = path.components();
    while let Some(component) = components.next() {
        let name = match component {
            Component::Normal(name) => name,
            // Resolved by the kernel, which knows where links have led.
            Component::ParentDir => OsStr::new(".."),
            _ => continue,
        };
        walked.push(name);
        let make_file = components.as_path().as_os_str().is_empty() && kind == TargetKind::File;
        // Resolved from the root each time, so that an absolute link in the image means what it says there.
        let opened = open_in_root(top.as_fd(), &walked, OFlag::O_PATH, 0);
        directory = match opened {
            Ok(fd) => fd,
            Err(e) if e.errno() == Errno::ENOENT => {
                let made = if make_file {
                    let shown = || format!("{}, {name:?}, S_IFREG|0644, 0", record::shown(directory.as_fd()));
                    record::call("mknodat", shown, || {
                        mknodat(&directory, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0)
                            .called("mknodat", walked.display())
                    })
                } else {
                    let shown = || format!("{}, {name:?}, 0755", record::shown(directory.as_fd()));
                    record::call("mkdirat", shown, || {
                        mkdirat(&directory, name, Mode::from_bits_truncate(0o755)).called("mkdirat", walked.display())
                    })
                };
                match made {
                    Err(e) if e.errno() == Errno::EEXIST => {
                        let text = nix::fcntl::readlinkat(&directory, name).called("readlinkat", walked.display())?;
                        walked.pop();
                        walked.push(text);
                        // One by one: a trailing slash would ask for a directory.
                        walked.extend(components);
                        return Ok(Made::Link(walked));
                    }
                    other => other?,
                }
                openat2(directory.as_fd(), Path::new(name), OFlag::O_PATH, 0, ResolveFlags::RESOLVE_NO_SYMLINKS)?
            }
            Err(e) => return Err(e.into()),
        };
    }
    Ok(Made::There(directory))
}

/// A directory of the container's skeleton; a symbolic link anywhere on the way to it is refused, because what is mounted
/// there must be at that very place (runc's CVE-2019-19921, CVE-2023-27561).
fn skeleton(path: &Path) -> Result<OwnedFd, StepError> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let open = || {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        openat2(root()?.as_fd(), relative, flags, 0, ResolveFlags::RESOLVE_NO_SYMLINKS | ResolveFlags::RESOLVE_IN_ROOT)
    };
    match open() {
        Err(e) if e.errno() == Errno::ENOENT => {
            target(path, TargetKind::Directory)?;
            Ok(open()?)
        }
        Err(e) if e.errno() == Errno::ELOOP => {
            Err(StepError::refused(format!("{} or a part of it is a symbolic link in the image", path.display())))
        }
        Err(e) if e.errno() == Errno::ENOTDIR => {
            Err(StepError::refused(format!("{} is not a directory in the image", path.display())))
        }
        other => Ok(other?),
    }
}

fn static_kind(kind: &str) -> Result<&'static str, StepError> {
    ["proc", "tmpfs", "devpts", "mqueue", "sysfs"]
        .into_iter()
        .find(|known| *known == kind)
        .ok_or_else(|| StepError::refused(format!("file system {kind:?} is not supported")))
}

/// Attaches an instance of a file system at `path`.
pub(super) fn attach_file_system(mounted: BorrowedFd<'_>, path: &Path, sharing: Sharing) -> StepResult {
    attach(mounted, skeleton(path)?.as_fd(), sharing)
}

/// A new instance of a file system, attached nowhere.
pub(super) fn open_file_system(kind: &str, attributes: u64, options: &[String]) -> Result<OwnedFd, StepError> {
    let context = FsContext::open(static_kind(kind)?)?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => context.set(key, value)?,
            None => context.flag(option)?,
        }
    }
    Ok(context.mount(attributes)?)
}

/// The container's cgroups as it may see them: for each hierarchy there is a detached mount of it.
pub(super) fn cgroups(
    setup: &CgroupSetup,
    view: &[OwnedFd],
    (path, attributes): (&Path, u64),
    sharing: Sharing,
) -> StepResult {
    let own = SetAttr { set: attributes, propagation: Some(Propagation::Private), depth: Depth::Top };
    for tree in view {
        mount::set_attributes(tree.as_fd(), own)?;
    }
    if let ([only], [tree]) = (&setup.hierarchies[..], view)
        && only.version == Version::V2
    {
        return attach_file_system(tree.as_fd(), path, sharing);
    }
    let context = FsContext::open("tmpfs")?;
    context.set("mode", "755")?;
    let tmpfs = context.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
    attach_file_system(tmpfs.as_fd(), path, sharing)?;
    for (hierarchy, tree) in setup.hierarchies.iter().zip(view) {
        let Some(name) = hierarchy.mount.file_name() else { continue };
        mkdirat(&tmpfs, name, Mode::from_bits_truncate(0o755)).called("mkdirat", path.join(name).display())?;
        let at = openat2(tmpfs.as_fd(), Path::new(name), OFlag::O_PATH, 0, ResolveFlags::RESOLVE_NO_SYMLINKS)?;
        mount::attach(tree.as_fd(), at.as_fd())?;
        // cpu,cpuacct is found by either name, as on the host.
        let other_names =
            |c: &&String| hierarchy.version == Version::V1 && OsStr::new(c.as_str()) != name && !c.contains('=');
        for controller in hierarchy.controllers.iter().filter(other_names) {
            nix::unistd::symlinkat(name, &tmpfs, controller.as_str()).called("symlinkat", controller)?;
        }
    }
    let readonly = SetAttr { set: attributes & attr::RDONLY, propagation: None, depth: Depth::Top };
    Ok(mount::set_attributes(tmpfs.as_fd(), readonly)?)
}

/// Where and how a tree is attached.
pub(super) struct BindAt<'a> {
    pub(super) source: &'a Path,
    pub(super) target: &'a Path,
    /// Of the topmost mount.
    pub(super) attributes: u64,
    /// Of the mounts below it too.
    pub(super) recursive: u64,
    pub(super) propagation: Propagation,
    /// Of the mounts before it.
    pub(super) sharing: Sharing,
}

/// In the place of /proc and /sys nothing but a procfs or a sysfs (a hostPath's) is mounted: masks, and programs which take
/// their content for the kernel's word, depend on it (CVE-2019-16884, CVE-2023-28642).
fn assert_kernels_own(tree: BorrowedFd<'_>, target: &Path) -> StepResult {
    for (place, wanted, name) in [("/proc", PROC_SUPER_MAGIC, "procfs"), ("/sys", SYSFS_MAGIC, "sysfs")] {
        if target == Path::new(place) && fstatfs(tree).called("fstatfs", place)?.filesystem_type() != wanted {
            return Err(StepError::refused(format!("in the place of {place} nothing but a {name} may be mounted")));
        }
    }
    Ok(())
}

/// File systems with nothing in them but what the kernel says (linux/magic.h), which a host has below /sys.
const KERNELS_OWN: [FsType; 11] = [
    SYSFS_MAGIC,
    BPF_FS_MAGIC,
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
    DEBUGFS_MAGIC,
    TRACEFS_MAGIC,
    SECURITYFS_MAGIC,
    SELINUX_MAGIC,
    FsType(0x6265_6570), // configfs
    FsType(0x6165_676c), // pstore
    FsType(0xde5e_81e4), // efivarfs
];

/// The inode of a sysfs' root (linux/kernfs.h).
const SYSFS_ROOT: u64 = 1;

/// Nothing is mounted below /proc, by whichever name it is reached, and below /sys nothing but what the kernel itself says there
/// (CVE-2025-52881): network plugins have the host's /sys/fs/bpf.
fn assert_nothing_forged(tree: BorrowedFd<'_>, at: &BindAt<'_>, target: BorrowedFd<'_>) -> StepResult {
    let magic = |fd, path: &Path| Ok::<_, SysError>(fstatfs(fd).called("fstatfs", path.display())?.filesystem_type());
    let (place, what) = match magic(target, at.target)? {
        PROC_SUPER_MAGIC => ("procfs", "nothing may be mounted"),
        SYSFS_MAGIC => ("sysfs", "nothing may be mounted but the kernel's own file systems"),
        _ => return Ok(()),
    };
    let source = magic(tree, at.source)?;
    // Where each cgroup hierarchy of version 1 is mounted, they are so in a tmpfs of the host's.
    let is_cgroups = source == TMPFS_MAGIC && at.source == Path::new("/sys/fs/cgroup") && at.source == at.target;
    // Its root is /sys itself, by another name.
    let is_below = nix::sys::stat::fstat(target).called("fstat", at.target.display())?.st_ino != SYSFS_ROOT;
    match place == "sysfs" && is_below && (is_cgroups || KERNELS_OWN.contains(&source)) {
        true => Ok(()),
        false => Err(StepError::refused(format!("{} is in {place}, where {what}", at.target.display()))),
    }
}

/// Attaches a detached tree.
pub(super) fn bind(tree: BorrowedFd<'_>, at: BindAt<'_>) -> StepResult {
    assert_kernels_own(tree, at.target)?;
    let source_kind = match file_type(tree)? {
        SFlag::S_IFDIR => TargetKind::Directory,
        _ => TargetKind::File,
    };
    let target = target(at.target, source_kind)?;
    assert_nothing_forged(tree, &at, target.as_fd())?;
    let target_kind =
        if file_type(target.as_fd())? == SFlag::S_IFDIR { TargetKind::Directory } else { TargetKind::File };
    if source_kind != target_kind {
        let word = |kind| if kind == TargetKind::Directory { "a directory" } else { "not a directory" };
        return Err(StepError::refused(format!(
            "{} is {} but {} in the container is {}",
            at.source.display(),
            word(source_kind),
            at.target.display(),
            word(target_kind)
        )));
    }
    let all = SetAttr { set: at.recursive, propagation: Some(at.propagation), depth: Depth::Recursive };
    mount::set_attributes(tree, all)?;
    // readOnly means the top mount only (pod-api.md §16); recursiveReadOnly is what holds below it.
    mount::set_attributes(tree, SetAttr { set: at.attributes, propagation: None, depth: Depth::Top })?;
    attach(tree, target.as_fd(), at.sharing)
}

fn file_type(fd: BorrowedFd<'_>) -> SysResult<SFlag> {
    let status = nix::sys::stat::fstat(fd).called("fstat", mount::fd_name(fd))?;
    Ok(SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()))
}

/// The directory that holds `path`, and its last name.
fn parent(path: &Path) -> Result<(OwnedFd, &OsStr), StepError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(StepError::refused(format!("{} has no parent", path.display())));
    };
    Ok((skeleton(parent)?, name))
}

/// A character device, mode 0666.
pub(super) fn device(path: &Path, major: u32, minor: u32) -> StepResult {
    let (directory, name) = parent(path)?;
    let wanted = makedev(major.into(), minor.into());
    let shown = || format!("{}, {name:?}, S_IFCHR|0666, makedev({major}, {minor})", record::shown(directory.as_fd()));
    let made = record::call("mknodat", shown, || {
        mknodat(&directory, name, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), wanted)
            .called("mknodat", path.display())
    });
    match made {
        // A volume mounted at /dev may hold it already: only the very device is accepted, never what a link leads to.
        Err(error) if error.errno() == Errno::EEXIST => {
            let there = nix::sys::stat::fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .called("fstatat", path.display())?;
            let kind = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
            if kind != SFlag::S_IFCHR || there.st_rdev != wanted {
                return Err(StepError::refused(format!(
                    "{} is there already, and not the device {major}:{minor}",
                    path.display()
                )));
            }
        }
        other => other?,
    }
    Ok(())
}

/// A device of the host's that the container was given, with the owner and the mode that it has there. What is at its path
/// already must be the very device.
pub(super) fn device_node(device: &HostDevice) -> StepResult {
    let path = &device.path;
    if let Some(above) = path.parent() {
        target(above, TargetKind::Directory)?;
    }
    let (directory, name) = parent(path)?;
    let kind = match device.kind {
        DeviceKind::Block => SFlag::S_IFBLK,
        DeviceKind::Character => SFlag::S_IFCHR,
    };
    let wanted = makedev(device.major.into(), device.minor.into());
    let mode = Mode::from_bits_truncate(device.mode & 0o777);
    match mknodat(&directory, name, kind, mode, wanted).called("mknodat", path.display()) {
        Err(error) if error.errno() == Errno::EEXIST => {
            let there = nix::sys::stat::fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .called("fstatat", path.display())?;
            let found = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
            if found != kind || there.st_rdev != wanted {
                let (major, minor) = (device.major, device.minor);
                let message = format!("{} is there already, and not the device {major}:{minor}", path.display());
                return Err(StepError::refused(message));
            }
            return Ok(());
        }
        other => other?,
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    Ok(fchownat(&directory, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        .called("fchownat", path.display())?)
}

/// The container's own /dev/null, if it has one, above the standard descriptors; whatever else is there is not opened.
pub(super) fn own_null() -> SysResult<Option<OwnedFd>> {
    let root = root()?;
    let open = |flags| openat2(root.as_fd(), Path::new("dev/null"), flags, 0, ResolveFlags::RESOLVE_NO_SYMLINKS);
    match open(OFlag::O_PATH) {
        Ok(found) if is_device(found.as_fd(), NULL)? => {}
        _ => return Ok(None),
    }
    // In a volume it may not be for opening (nodev), or have been replaced meanwhile.
    match open(OFlag::O_RDWR | OFlag::O_NOCTTY) {
        // No standard descriptor is open yet, and this one is to stay none.
        Ok(null) if is_device(null.as_fd(), NULL)? => duplicate(null.as_fd()).map(Some),
        _ => Ok(None),
    }
}

/// A device of the host's at `path`, which is an empty file that was made for it. Something else there already, in a volume
/// mounted at /dev, is refused.
pub(super) fn bind_device(device: BorrowedFd<'_>, path: &Path, sharing: Sharing) -> StepResult {
    let (directory, name) = parent(path)?;
    mknodat(&directory, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o666), 0).called("mknodat", path.display())?;
    let flags = ResolveFlags::RESOLVE_NO_SYMLINKS | ResolveFlags::RESOLVE_BENEATH;
    let target = openat2(directory.as_fd(), Path::new(name), OFlag::O_PATH, 0, flags)?;
    attach(device, target.as_fd(), sharing)
}

/// A symbolic link; one that is there already and says the same is fine.
pub(super) fn symlink(text: &str, path: &Path) -> StepResult {
    let (directory, name) = parent(path)?;
    let shown = || format!("{text:?}, {}, {name:?}", record::shown(directory.as_fd()));
    let made = record::call("symlinkat", shown, || {
        nix::unistd::symlinkat(text, &directory, name).called("symlinkat", path.display())
    });
    match made {
        Err(error) if error.errno() == Errno::EEXIST => {
            let there = nix::fcntl::readlinkat(&directory, name).called("readlinkat", path.display())?;
            if there != OsStr::new(text) {
                return Err(StepError::refused(format!(
                    "{} is there already, and not a link to {text}",
                    path.display()
                )));
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Privileged containers have all of the host's devices: sysfs, which shows them, is a namespace-free view of the kernel's
/// list, so no path of the host is needed.
pub(super) fn host_devices() -> StepResult {
    let context = FsContext::open("sysfs")?;
    let sysfs = context.mount(attr::RDONLY)?;
    for (list, kind) in [("dev/char", SFlag::S_IFCHR), ("dev/block", SFlag::S_IFBLK)] {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let directory = openat2(sysfs.as_fd(), Path::new(list), flags, 0, ResolveFlags::RESOLVE_NO_MAGICLINKS)?;
        let mut entries = nix::dir::Dir::from_fd(directory).called("fdopendir", list)?;
        let numbers: Vec<String> =
            entries.iter().flatten().filter_map(|e| e.file_name().to_str().ok().map(str::to_owned)).collect();
        for number in numbers.iter().filter(|n| n.contains(':')) {
            host_device(sysfs.as_fd(), &format!("{list}/{number}"), kind)?;
        }
    }
    Ok(())
}

fn host_device(sysfs: BorrowedFd<'_>, entry: &str, kind: SFlag) -> StepResult {
    let uevent = Path::new(entry).join("uevent");
    let opened = openat2(sysfs, &uevent, OFlag::O_RDONLY, 0, ResolveFlags::RESOLVE_BENEATH);
    // A device may go while the list is read.
    let Ok(file) = opened else { return Ok(()) };
    let text = std::io::read_to_string(std::fs::File::from(file)).called("read", uevent.display())?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let (Some(name), Some(major), Some(minor)) = (value("DEVNAME"), value("MAJOR"), value("MINOR")) else {
        return Ok(());
    };
    let (Ok(major), Ok(minor)) = (major.parse::<u64>(), minor.parse::<u64>()) else { return Ok(()) };
    // Terminals and what the runtime has made itself stay the container's own.
    if name.contains("..") || name == "console" || name == "ptmx" || name.starts_with("pts/") {
        return Ok(());
    }
    let path = Path::new("/dev").join(name);
    if let Some(directory) = path.parent() {
        target(directory, TargetKind::Directory)?;
    }
    let (directory, name) = parent(&path)?;
    match mknodat(&directory, name, kind, Mode::from_bits_truncate(0o660), makedev(major, minor)) {
        Err(Errno::EEXIST) => Ok(()),
        other => Ok(other.called("mknodat", path.display())?),
    }
}

/// A new pseudo-terminal of the container's own devpts: master and peer, neither opened by a name that the container or
/// a sibling could have planted (CVE-2025-52565).
pub(super) fn open_terminal() -> Result<(OwnedFd, OwnedFd), StepError> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let path = Path::new("dev/pts/ptmx");
    let master =
        openat2(root()?.as_fd(), path, flags, 0, ResolveFlags::RESOLVE_NO_SYMLINKS | ResolveFlags::RESOLVE_IN_ROOT)?;
    if fstatfs(&master).called("fstatfs", "/dev/pts/ptmx")?.filesystem_type() != DEVPTS_SUPER_MAGIC {
        return Err(StepError::refused("/dev/pts/ptmx is not of a devpts"));
    }
    process::unlock_terminal(master.as_fd())?;
    let peer = process::terminal_peer(master.as_fd())?;
    Ok((master, peer))
}

/// After setns(2) to a container's mount namespace: its root must be the container's overlay. It is not if podshim runs in a
/// chroot(2), where pivot_root(2) cannot change the namespace's own root; then a command would run in the host's.
pub(super) fn assert_own_root() -> StepResult {
    const OVERLAYFS_SUPER_MAGIC: FsType = FsType(0x794c_7630);
    if fstatfs(root()?).called("fstatfs", "/")?.filesystem_type() == OVERLAYFS_SUPER_MAGIC {
        return Ok(());
    }
    Err(StepError::refused("the namespace's root is not the container's: does podshim run in a chroot?"))
}

/// Binds the terminal to /dev/console.
pub(super) fn console(terminal: BorrowedFd<'_>, sharing: Sharing) -> StepResult {
    let tree = mount::clone_tree(terminal, Depth::Top)?;
    let target = target(Path::new("/dev/console"), TargetKind::File)?;
    attach(tree.as_fd(), target.as_fd(), sharing)
}

/// Opens a path of procfs or sysfs and verifies that it is one; `None` if it does not exist.
fn kernel_path(path: &Path) -> Result<Option<OwnedFd>, StepError> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let flags = ResolveFlags::RESOLVE_NO_SYMLINKS | ResolveFlags::RESOLVE_IN_ROOT;
    let fd = match openat2(root()?.as_fd(), relative, OFlag::O_PATH, 0, flags) {
        Ok(fd) => fd,
        Err(e) if matches!(e.errno(), Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let magic = fstatfs(&fd).called("fstatfs", path.display())?.filesystem_type();
    if magic != PROC_SUPER_MAGIC && magic != SYSFS_MAGIC {
        return Err(StepError::refused(format!("{} is neither of procfs nor of sysfs", path.display())));
    }
    Ok(Some(fd))
}

/// Opens a path that is to be covered. In /proc and /sys it must be the kernel's own; elsewhere (CRI) it is what the container
/// itself finds there: the cover takes something away from it, whatever that is.
fn covered_path(path: &Path) -> Result<Option<OwnedFd>, StepError> {
    if path.starts_with("/proc") || path.starts_with("/sys") {
        return kernel_path(path);
    }
    match open_in_root(root()?.as_fd(), path, OFlag::O_PATH, 0) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.errno(), Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What masked paths show: files the host's /dev/null, never the container's own (CVE-2025-31133); directories an empty
/// tmpfs.
pub(super) struct Covers {
    file: Cover,
    directory: Option<Cover>,
}

/// A detached mount, which can be attached once. From then on it is in this mount namespace, and so can be cloned, which
/// the kernel refuses for a mount that is in none (before Linux 6.15).
struct Cover {
    mount: OwnedFd,
    is_attached: bool,
}

impl Cover {
    fn attach(&mut self, target: BorrowedFd<'_>, sharing: Sharing) -> StepResult {
        if self.is_attached {
            return attach(mount::clone_tree(self.mount.as_fd(), Depth::Top)?.as_fd(), target, sharing);
        }
        self.is_attached = true;
        attach(self.mount.as_fd(), target, sharing)
    }
}

impl Covers {
    /// `null` is a detached mount of the host's /dev/null.
    pub(super) fn new(null: OwnedFd) -> Covers {
        Covers { file: Cover { mount: null, is_attached: false }, directory: None }
    }

    /// The descriptor that it was made of.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.mount.as_fd()
    }

    fn directory(&mut self) -> SysResult<&mut Cover> {
        let cover = match self.directory.take() {
            Some(cover) => cover,
            None => {
                let context = FsContext::open("tmpfs")?;
                context.set("nr_inodes", "1")?;
                let mount = context.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
                Cover { mount, is_attached: false }
            }
        };
        Ok(self.directory.insert(cover))
    }

    /// Covers a path.
    pub(super) fn mask(&mut self, path: &Path, sharing: Sharing) -> StepResult {
        let Some(target) = covered_path(path)? else { return Ok(()) };
        let is_directory = file_type(target.as_fd())? == SFlag::S_IFDIR;
        let cover = if is_directory { self.directory()? } else { &mut self.file };
        cover.attach(target.as_fd(), sharing)
    }
}

/// Makes a path read-only by mounting it onto itself.
pub(super) fn readonly_path(path: &Path, sharing: Sharing) -> StepResult {
    let Some(target) = covered_path(path)? else { return Ok(()) };
    let tree = mount::clone_read_only(target.as_fd(), Depth::Recursive)?;
    attach(tree.as_fd(), target.as_fd(), sharing)
}

/// Makes the root mount read-only.
pub(super) fn readonly_root() -> StepResult {
    Ok(mount::set_attributes(root()?.as_fd(), SetAttr { set: attr::RDONLY, propagation: None, depth: Depth::Top })?)
}

/// Goes to the working directory, making it if missing, and proves that it is inside (CVE-2024-21626).
pub(super) fn working_directory(path: &Path) -> StepResult {
    let directory = target(path, TargetKind::Directory)?;
    nix::unistd::fchdir(&directory).called("fchdir", path.display()).map_err(|error| match error.errno() {
        Errno::ENOTDIR => StepError::refused(error.to_string()),
        _ => error.into(),
    })?;
    let cwd = nix::unistd::getcwd().called("getcwd", path.display())?;
    if !cwd.is_absolute() {
        return Err(StepError::refused(format!("working directory {} is outside the container", path.display())));
    }
    Ok(())
}
