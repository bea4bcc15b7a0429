//! The system calls of the `facts` program. It is a test helper: each is one small call with plain arguments.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, c_long, pid_t};

/// The four user ids, or group ids, that `getresuid(2)` tells of: real, effective, saved.
pub(super) fn ids() -> ([u32; 3], [u32; 3]) {
    let (mut users, mut groups) = ([0; 3], [0; 3]);
    let [real, effective, saved] = &mut users;
    // SAFETY: three writable numbers; the call cannot fail with valid addresses.
    unsafe { libc::getresuid(real, effective, saved) };
    let [real, effective, saved] = &mut groups;
    // SAFETY: as above.
    unsafe { libc::getresgid(real, effective, saved) };
    (users, groups)
}

/// The supplementary groups, in the kernel's order.
pub(super) fn groups() -> io::Result<Vec<u32>> {
    // SAFETY: a size of 0 asks for the number only.
    let count = check(unsafe { libc::getgroups(0, ptr::null_mut()) })?;
    let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the buffer holds `count` groups.
    check(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    Ok(groups)
}

/// The file mode creation mask.
pub(super) fn umask() -> u32 {
    // SAFETY: umask cannot fail; the old value is put back at once, and there is one thread.
    unsafe {
        let mask = libc::umask(0o77);
        libc::umask(mask);
        mask
    }
}

/// Parent's pid, session and process group.
pub(super) fn relations() -> (pid_t, pid_t, pid_t) {
    // SAFETY: these take no addresses.
    unsafe { (libc::getppid(), libc::getsid(0), libc::getpgrp()) }
}

/// Makes a System V segment (`shmget(2)`), which must be new, and writes to every page of it.
pub(super) fn fill_segment(key: c_int, size: usize) -> io::Result<()> {
    // SAFETY: only integers are passed.
    let id = check(unsafe { libc::shmget(key, size, libc::IPC_CREAT | libc::IPC_EXCL | 0o666) })?;
    // SAFETY: the kernel chooses the address, where nothing is mapped yet.
    let at = unsafe { libc::shmat(id, ptr::null(), 0) };
    if at.addr() == usize::MAX {
        return Err(io::Error::last_os_error());
    }
    for offset in (0..size).step_by(4096) {
        // SAFETY: the segment is mapped for writing and `size` bytes long; nobody else has a reference into it.
        unsafe { at.cast::<u8>().add(offset).write_volatile(1) };
    }
    // SAFETY: `at` is what shmat gave, and is not used any more.
    check(unsafe { libc::shmdt(at) }).map(drop)
}

/// Whether a descriptor is a terminal.
pub(super) fn is_terminal(fd: c_int) -> bool {
    // SAFETY: isatty takes any number.
    unsafe { libc::isatty(fd) == 1 }
}

/// `uname(2)`: node name, domain name, release.
pub(super) fn names() -> io::Result<[String; 3]> {
    let mut names = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the structure is writable and plain data.
    check(unsafe { libc::uname(names.as_mut_ptr()) })?;
    // SAFETY: zeroed, then filled by the kernel.
    let names = unsafe { names.assume_init() };
    let text = |field: &[libc::c_char]| {
        // SAFETY: the kernel ends each field with a zero.
        unsafe { CStr::from_ptr(field.as_ptr()) }.to_string_lossy().into_owned()
    };
    Ok([text(&names.nodename), text(&names.domainname), text(&names.release)])
}

/// `setxattr(2)`.
pub(super) fn set_xattr(path: &str, name: &str, value: &str) -> io::Result<()> {
    let (path, name) = (CString::new(path)?, CString::new(name)?);
    // SAFETY: both strings end with a zero; the value is as long as told.
    check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })?;
    Ok(())
}

/// A resource limit, soft and hard.
pub(super) fn rlimit(number: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // The type of the number differs between libcs; the kernel's is the same.
    let asked = c_long::from(number);
    // SAFETY: writes one rlimit (64-bit fields on all 64-bit systems).
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, asked, ptr::null::<libc::rlimit>(), &raw mut limit) };
    check_long(result)?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Interfaces with their flags and addresses: name, `IFF_*`, address if this entry has one.
pub(super) fn addresses() -> io::Result<Vec<(String, u32, Option<String>)>> {
    let mut list = ptr::null_mut();
    // SAFETY: gives a list that is freed below.
    check(unsafe { libc::getifaddrs(&raw mut list) })?;
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: an entry of the list that getifaddrs made; it ends with a null.
        let entry = unsafe { &*next };
        // SAFETY: the name is a C string of that list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        found.push((name, entry.ifa_flags, address(entry)));
        next = entry.ifa_next;
    }
    // SAFETY: the list is no longer used.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

fn address(entry: &libc::ifaddrs) -> Option<String> {
    if entry.ifa_addr.is_null() {
        return None;
    }
    // SAFETY: not null, so at least a family; the family says which structure it is. Read unaligned, as nothing
    // promises more than bytes.
    let (ip, ones) = unsafe {
        match i32::from((*entry.ifa_addr).sa_family) {
            libc::AF_INET => {
                let v4 = |at: *mut libc::sockaddr| at.cast::<libc::sockaddr_in>().read_unaligned().sin_addr.s_addr;
                let mask = if entry.ifa_netmask.is_null() { u32::MAX } else { v4(entry.ifa_netmask) };
                (Ipv4Addr::from(u32::from_be(v4(entry.ifa_addr))).to_string(), mask.count_ones())
            }
            libc::AF_INET6 => {
                let v6 = |at: *mut libc::sockaddr| at.cast::<libc::sockaddr_in6>().read_unaligned().sin6_addr.s6_addr;
                let mask = if entry.ifa_netmask.is_null() { [u8::MAX; 16] } else { v6(entry.ifa_netmask) };
                (Ipv6Addr::from(v6(entry.ifa_addr)).to_string(), u128::from_be_bytes(mask).count_ones())
            }
            _ => return None,
        }
    };
    Some(format!("{ip}/{ones}"))
}

/// Seconds since the machine's start, as in /proc/uptime, but exact: the same for all processes of the machine.
pub(super) fn uptime() -> io::Result<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    check(unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) })?;
    let time =
        std::time::Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Ok(time.as_secs_f64())
}

/// Ignores TERM from now on.
pub(super) fn ignore_term() {
    // SAFETY: SIG_IGN is a valid action; no handler runs.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
}

/// Waits for any signal, for ever.
pub(super) fn pause() -> ! {
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

/// Starts a child that runs `child` and ends with its code: the child's pid.
pub(super) fn spawn(child: impl FnOnce() -> c_int) -> io::Result<pid_t> {
    // SAFETY: this program has one thread, so the child may do anything; it ends by _exit.
    match unsafe { libc::fork() } {
        0 => {
            let code = child();
            // SAFETY: ends the child without running what the parent registered.
            unsafe { libc::_exit(code) }
        }
        pid => check(pid),
    }
}

/// Waits for a child: the raw status.
pub(super) fn wait(pid: pid_t) -> io::Result<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: writes one number.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|_| status),
        }
    }
}

/// Kills a child of this process.
pub(super) fn kill(pid: pid_t) {
    // SAFETY: takes numbers; the child is not reaped yet, so the pid is still its own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Exchanges what two names name, at once (`renameat2(2)`).
pub(super) fn exchange(a: &str, b: &str) -> io::Result<()> {
    let (a, b) = (CString::new(a)?, CString::new(b)?);
    // The system call itself: musl has no wrapper.
    let flags = c_long::from(libc::RENAME_EXCHANGE);
    let at = c_long::from(libc::AT_FDCWD);
    // SAFETY: both names are C strings that outlive the call.
    check_long(unsafe { libc::syscall(libc::SYS_renameat2, at, a.as_ptr(), at, b.as_ptr(), flags) }).map(drop)
}

/// Makes a file or directory immutable (`FS_IOC_SETFLAGS`, ioctl_iflags(2)).
pub(super) fn make_immutable(file: &std::fs::File) -> io::Result<()> {
    let mut flags: c_int = 0;
    // SAFETY: writes one int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut flags) })?;
    // linux/fs.h: FS_IMMUTABLE_FL
    flags |= 0x10;
    // SAFETY: reads one int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS as _, &raw const flags) }).map(drop)
}

/// Sends one message over a new `SOCK_SEQPACKET` socket: the answer, of no bytes if there is none.
pub(super) fn ask(path: &str, message: &[u8]) -> io::Result<Vec<u8>> {
    // SAFETY: only integers are passed.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the structure is plain data.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(1);
    if path.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from.cast_signed();
    }
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).unwrap_or(0);
    // SAFETY: the address is a valid sockaddr_un of the size passed.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
    // SAFETY: the message has the length passed; MSG_NOSIGNAL makes an error of a peer that is gone.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0; 1 << 16];
    // SAFETY: the buffer is writable and of the length passed.
    let got = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    answer.truncate(got);
    Ok(answer)
}

/// A lease for reading; the signal that asks for it back is ignored.
pub(super) fn take_lease(file: &std::fs::File) -> io::Result<()> {
    // SAFETY: SIG_IGN is no function, and the call changes only this process.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    // SAFETY: only integers are passed; the descriptor is open.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) }).map(drop)
}

/// A new session keyring (`keyctl(2)`) with one key of type "user" in it.
pub(super) fn new_session_with_key(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    let none = ptr::null::<libc::c_char>();
    // SAFETY: a null pointer stands for no name.
    check_long(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, none) })?;
    let (kind, content, ring) = (c"user".as_ptr(), b"secret", libc::KEY_SPEC_SESSION_KEYRING);
    // SAFETY: type and name are NUL-terminated, the content has the length passed; all outlive the call.
    check_long(unsafe { libc::syscall(libc::SYS_add_key, kind, name.as_ptr(), content.as_ptr(), content.len(), ring) })
        .map(drop)
}

/// The number of the session keyring, which is not made if there is none, and the number of a key in it.
pub(super) fn session_key(name: &str) -> io::Result<(c_long, io::Result<c_long>)> {
    let name = CString::new(name)?;
    let ring = libc::KEY_SPEC_SESSION_KEYRING;
    // SAFETY: only integers are passed.
    let number = check_long(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_GET_KEYRING_ID, ring, 0) })?;
    // SAFETY: type and name are NUL-terminated and outlive the call; the key is linked nowhere.
    let found = check_long(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SEARCH, ring, c"user".as_ptr(), name.as_ptr(), 0)
    });
    Ok((number, found))
}

/// A raw system call: its result or the errno.
pub(super) fn raw(number: c_long, args: [c_long; 5]) -> io::Result<c_long> {
    let [a, b, c, d, e] = args;
    // SAFETY: `probe` calls this in a child made for one call, and `spy` for calls that change only this process, with addresses that are null, bogus on purpose
    // (the kernel answers EFAULT) or those of buffers that outlive the call.
    check_long(unsafe { libc::syscall(number, a, b, c, d, e) })
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
