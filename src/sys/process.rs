//! Processes: clone3(2), pidfds, prctl(2), execve(2).

use super::pidfd;
use super::record::{self, call};
use super::{Called, SysError, SysResult, check};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::setpgid;
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A child process, held by its pidfd.
#[derive(Debug)]
pub struct Child {
    /// Its pid in the caller's pid namespace.
    pub pid: i32,
    /// Readable when it has exited; close-on-exec.
    pub pidfd: OwnedFd,
}

/// clone3(2) without sharing memory: returns `None` in the child.
///
/// `flags` are `CLONE_NEW*`; with `cgroup`, the child is born in that cgroup v2 directory (`CLONE_INTO_CGROUP`).
/// The caller must be single-threaded, as the child goes on with a copy of only the calling thread.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> SysResult<Option<Child>> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    let names = || {
        let into = if cgroup.is_some() { "|CLONE_INTO_CGROUP" } else { "" };
        format!("{{flags={}CLONE_PIDFD{into}}}", namespace_flags(flags))
    };
    let clone = || {
        // SAFETY: the arguments are a valid struct clone_args of the size passed. Without CLONE_VM the child has its own copy
        // of memory and, with a zero stack, goes on from here like after fork(2); the process is single-threaded.
        let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
        check(result, "clone3", namespace_names(flags))
    };
    let pid = call("clone3", names, clone)?;
    record::answer(|| of_clone(pid));
    match pid {
        0 => Ok(None),
        // SAFETY: on success the kernel stored a new descriptor in `pidfd`; nobody else owns it.
        pid => Ok(Some(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

/// What a clone answered; the new process has a copy of the record, and goes on with it.
fn of_clone(pid: libc::c_long) -> String {
    if pid == 0 { "in the new process".to_owned() } else { format!("pid {pid}") }
}

/// `CLONE_NEWNET|`, each with its bar.
fn namespace_flags(flags: u64) -> String {
    let names = namespace_names(flags);
    let names = names.trim_matches(['[', ']']).split('|').filter(|name| !name.is_empty());
    names.map(|name| format!("CLONE_{name}|")).collect()
}

fn namespace_names(flags: u64) -> String {
    let table = [
        (libc::CLONE_NEWNS, "NEWNS"),
        (libc::CLONE_NEWPID, "NEWPID"),
        (libc::CLONE_NEWNET, "NEWNET"),
        (libc::CLONE_NEWIPC, "NEWIPC"),
        (libc::CLONE_NEWUTS, "NEWUTS"),
        (libc::CLONE_NEWCGROUP, "NEWCGROUP"),
        (libc::CLONE_NEWUSER, "NEWUSER"),
    ];
    let names: Vec<_> = table.iter().filter(|(bit, _)| flags & *bit as u64 != 0).map(|(_, name)| *name).collect();
    format!("[{}]", names.join("|"))
}

/// clone3(2) with `CLONE_PARENT`: a sibling of the caller instead of a child, so that who waits for the caller waits for it
/// too. Returns `None` in the new process. `flags` are `CLONE_NEW*`; without CLONE_NEWPID it is born in the pid namespace that
/// the caller set for its children (setns(2)). The caller leads a process group of its own from now on, by which
/// [`try_wait_with_siblings`] finds the new process.
pub fn clone_sibling(flags: u64) -> SysResult<Option<Child>> {
    let lead = || setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0)).called("setpgid", "0");
    call("setpgid", || "0, 0".to_owned(), lead)?;
    let mut pidfd: RawFd = -1;
    let arguments = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64 | libc::CLONE_PARENT as u64,
        pidfd: &raw mut pidfd as u64,
        // The caller's own exit signal is inherited; the kernel refuses another one.
        exit_signal: 0,
        ..CloneArgs::default()
    };
    let clone = || {
        // SAFETY: as in `clone3`.
        let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
        check(result, "clone3", "[PARENT]")
    };
    let pid = call("clone3", || format!("{{flags={}CLONE_PIDFD|CLONE_PARENT}}", namespace_flags(flags)), clone)?;
    record::answer(|| of_clone(pid));
    match pid {
        0 => Ok(None),
        // SAFETY: on success the kernel stored a new descriptor in `pidfd`; nobody else owns it.
        pid => Ok(Some(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// exit(n)
    Exited(i32),
    /// Killed by this signal.
    Signaled(i32),
    /// It was not our child, and nobody has kept how it ended.
    Unknown,
}

impl Ended {
    /// The exit code as shells, runc and Kubernetes count it: 128 + signal for a killed process.
    pub fn code(self) -> i32 {
        match self {
            Ended::Exited(code) => code,
            Ended::Signaled(signal) => 128 + signal,
            // As a kubelet has it.
            Ended::Unknown => 137,
        }
    }
}

/// waitid(2) on a pidfd without blocking: `None` while the child runs. Of a process that is not our child, [`pidfd::fate`].
pub fn try_wait(fd: BorrowedFd<'_>) -> SysResult<Option<Ended>> {
    wait_or_look(fd, 0)
}

/// As [`try_wait`], but the child is not reaped: its pid stays its own.
pub fn look(fd: BorrowedFd<'_>) -> SysResult<Option<Ended>> {
    wait_or_look(fd, libc::WNOWAIT)
}

/// As [`try_wait`], of a child that leads the process group of its siblings ([`clone_sibling`]): with it they are killed and
/// reaped. It was killed before it could tell of them, and who joined a pid namespace keeps that from ending
/// (pid_namespaces(7)) until it is reaped.
pub fn try_wait_with_siblings(child: &Child) -> SysResult<Option<Ended>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    if look(child.pidfd.as_fd())?.is_none() {
        return Ok(None);
    }
    if !kill_siblings(child)? {
        return try_wait(child.pidfd.as_fd());
    }
    let group = group_of(child);
    let ended = try_wait(child.pidfd.as_fd())?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match waitpid(group, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    Ok(ended)
}

/// SIGKILL for the siblings whose process group a child leads that has ended. Whether there is such a group: it has come so far as to
/// make one. Once it was waited for there is none: its pid may be another one's.
pub fn kill_siblings(child: &Child) -> SysResult<bool> {
    let group = group_of(child);
    let kill = |()| nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL).called("kill", group);
    match require_unreaped(child.pidfd.as_fd()).and_then(kill) {
        Err(error) if error.errno() == Errno::ESRCH => Ok(false),
        other => other.map(|()| true),
    }
}

fn group_of(child: &Child) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(-child.pid)
}

fn wait_or_look(fd: BorrowedFd<'_>, how: libc::c_int) -> SysResult<Option<Ended>> {
    // Not nix's waitid: its status cannot hold a real-time signal, and would be an error after the child was reaped.
    // SAFETY: an all-zero siginfo_t is valid: plain integers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = fd.as_raw_fd() as libc::id_t;
    loop {
        // SAFETY: the kernel writes one siginfo_t, which lives during the call.
        let result = unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | libc::WNOHANG | how) };
        match check(result.into(), "waitid", "pidfd") {
            Err(e) if e.errno() == Errno::EINTR => {}
            Err(e) if e.errno() == Errno::ECHILD => return pidfd::fate(fd),
            other => {
                other?;
                break;
            }
        }
    }
    // SAFETY: waitid(2) fills in these fields of the union, or leaves the zeros when nothing has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match (pid, info.si_code) {
        (0, _) => None,
        (_, libc::CLD_EXITED) => Some(Ended::Exited(status)),
        _ => Some(Ended::Signaled(status)),
    })
}

/// The child that a pidfd refers to: its pid is the kernel's word (`Pid:` of `/proc/self/fdinfo`, pidfd_open(2)), and a process
/// that is no child of the caller is an error (`ECHILD`). The child is not reaped.
pub fn child_of(pidfd: OwnedFd) -> SysResult<Child> {
    // SAFETY: an all-zero siginfo_t is valid: plain integers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel writes one siginfo_t, which lives during the call.
    let result = unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, &raw mut info, flags) };
    check(result.into(), "waitid", "pidfd")?;
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).called("read", &path)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.map(|pid| Child { pid, pidfd }).ok_or_else(|| SysError::new("read", path, Errno::ESRCH))
}

/// pidfd_open(2) of a child of the caller. As long as it is not waited for, its pid is its own.
pub fn open_child(pid: u32) -> SysResult<Child> {
    child_of(open_pid(pid)?)
}

/// pidfd_open(2) of any process: the caller makes sure that it is the one that is meant.
pub fn open_pid(pid: u32) -> SysResult<OwnedFd> {
    // SAFETY: only integers are passed; the result is a new descriptor or -1.
    let raw = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }, "pidfd_open", pid)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// pidfd_send_signal(2); a process that has ended (`ESRCH`) counts as done. `signal` may be a real-time signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> SysResult<()> {
    // SAFETY: only integers and NULL are passed.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    match check(result, "pidfd_send_signal", format_args!("signal {signal}")) {
        Err(e) if e.errno() == Errno::ESRCH => Ok(()),
        other => other.map(drop),
    }
}

/// Proves that the pid which a pidfd was opened by is still that process's: it was not waited for. `ESRCH` otherwise.
pub fn require_unreaped(pidfd: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: only integers and NULL are passed; signal 0 is not sent.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    check(result, "pidfd_send_signal", "signal 0").map(drop)
}

pub(super) fn prctl(option: libc::c_int, value: libc::c_ulong, name: impl fmt::Display) -> SysResult<()> {
    let arguments = || match name.to_string() {
        name if name.contains(' ') => name.replace(' ', ", "),
        name => format!("{name}, {value}"),
    };
    call("prctl", arguments, || {
        // SAFETY: every option used in this room takes integers, but PR_SET_NAME, whose name lives during the call.
        let result = unsafe { libc::prctl(option, value, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong) };
        check(result.into(), "prctl", &name).map(drop)
    })
}

/// Whether orphans below a process become its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subreaper {
    /// They do.
    Yes,
    /// They become the children of somebody further up: the default.
    No,
}

/// `PR_SET_CHILD_SUBREAPER`: of orphans from now on.
pub fn set_subreaper(subreaper: Subreaper) -> SysResult<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, libc::c_ulong::from(subreaper == Subreaper::Yes), "PR_SET_CHILD_SUBREAPER")
}

/// `PR_SET_DUMPABLE` 0: nobody without CAP_SYS_PTRACE over the initial user namespace may look into this process or
/// reach its executable through `/proc/<pid>/exe`. execve(2) resets it.
pub fn set_not_dumpable() -> SysResult<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")
}

/// `PR_SET_PDEATHSIG`: `signal` when the parent ends, 0 for none.
pub fn set_parent_death_signal(signal: i32) -> SysResult<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, "PR_SET_PDEATHSIG")
}

/// setpriority(2): the caller runs when nobody else wants to.
pub fn be_nice() -> SysResult<()> {
    const LOWEST: libc::c_int = 19;
    // SAFETY: plain numbers; the call only changes the caller's own priority.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST) };
    check(result.into(), "setpriority", LOWEST).map(drop)
}

/// keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING` without a name: a new, empty keyring in the place of the one that was inherited.
pub fn new_session_keyring() -> SysResult<()> {
    let name = std::ptr::null::<libc::c_char>();
    call(
        "keyctl",
        || "KEYCTL_JOIN_SESSION_KEYRING, NULL".into(),
        || {
            // SAFETY: only an integer and a null pointer, which stands for no name, are passed.
            let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) };
            check(result, "keyctl", "JOIN_SESSION_KEYRING").map(drop)
        },
    )
}

/// `PR_SET_NAME`: the name that `ps` and `/proc/<pid>/comm` show, at most 15 bytes.
pub fn set_name(name: &str) -> SysResult<()> {
    let name = CString::new(name).map_err(|_| SysError::new("prctl", "PR_SET_NAME", Errno::EINVAL))?;
    prctl(libc::PR_SET_NAME, name.as_ptr() as libc::c_ulong, "PR_SET_NAME")
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC` from `first` on: no descriptor above crosses execve(2).
pub fn close_on_exec_from(first: RawFd) -> SysResult<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: only integers are passed; descriptors stay open until execve(2).
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check(result, "close_range", format_args!("from {first}")).map(drop)
}

/// close_range(2): closes every descriptor from `first` on. For a process that has just started and owns none of them:
/// what it inherited beyond standard input, output and error is not its own.
pub fn close_inherited(first: RawFd) -> SysResult<()> {
    // SAFETY: called at process start, before anything here has opened a descriptor.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }, "close_range", first).map(drop)
}

/// close_range(2) around `kept`: closes every other descriptor. For a process that was cloned and takes only these along;
/// nothing that owned the others may run any more.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> SysResult<()> {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    let mut first = 0u32;
    for fd in kept.into_iter().map(Some).chain([None]) {
        let last = fd.map_or(u32::MAX, |fd| fd.wrapping_sub(1));
        if fd.is_none_or(|fd| fd > first) {
            // SAFETY: only integers are passed; the caller gives up what is closed.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }, "close_range", first)?;
        }
        first = fd.map_or(u32::MAX, |fd| fd + 1);
    }
    Ok(())
}

/// A standard descriptor (0, 1 or 2). That of std's standard input comes with a buffer, which a process that stays has for ever.
pub fn standard(number: RawFd) -> BorrowedFd<'static> {
    debug_assert!((0..3).contains(&number));
    // SAFETY: std sees to it that they are open when a program begins, and they are replaced at most.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// dup2(2) onto a standard descriptor (0, 1 or 2), which is not close-on-exec.
pub fn set_standard(fd: BorrowedFd<'_>, number: RawFd) -> SysResult<()> {
    debug_assert!((0..3).contains(&number));
    if fd.as_raw_fd() == number {
        // dup2 of a descriptor onto itself leaves close-on-exec set.
        return nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
            .called("fcntl", "F_SETFD")
            .map(drop);
    }
    call(
        "dup2",
        || format!("{}, {number}", record::shown(fd)),
        || {
            // SAFETY: only integers are passed; descriptors 0 to 2 are this process's own and owned by no Rust value.
            check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into(), "dup2", number).map(drop)
        },
    )
}

/// The `TIOCSCTTY` ioctl: `fd` becomes the controlling terminal of this session leader.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }.into(), "ioctl TIOCSCTTY", "terminal").map(drop)
}

/// The terminal's peer of a pseudo-terminal master, opened without any path (`TIOCGPTPEER`, Linux 4.13).
pub fn terminal_peer(master: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags as an integer and returns a new descriptor or -1.
    let fd = check(
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into(),
        "ioctl TIOCGPTPEER",
        "ptmx",
    )?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The `TIOCSPTLCK` ioctl with 0, unlockpt(3): the peer of a new pseudo-terminal may be opened.
pub fn unlock_terminal(master: BorrowedFd<'_>) -> SysResult<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int through the pointer, which lives during the call.
    check(
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) }.into(),
        "ioctl TIOCSPTLCK",
        "ptmx",
    )
    .map(drop)
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

/// The `TIOCGWINSZ` ioctl.
pub fn terminal_size(fd: BorrowedFd<'_>) -> SysResult<TerminalSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a valid struct winsize that lives during the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    check(result.into(), "ioctl TIOCGWINSZ", "terminal")?;
    Ok(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// The `TIOCSWINSZ` ioctl.
pub fn set_terminal_size(fd: BorrowedFd<'_>, size: TerminalSize) -> SysResult<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a valid struct winsize that lives during the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    check(result.into(), "ioctl TIOCSWINSZ", "terminal").map(drop)
}

/// All signals unblocked and at their default action, as a program expects to be started. Rust's runtime ignores SIGPIPE
/// and the supervisor blocks what it reads by signalfd(2); both would be inherited across execve(2).
pub fn reset_signals() -> SysResult<()> {
    // SIG_DFL, no flags, no restorer, an empty mask: the kernel's `struct sigaction` of all 64-bit architectures.
    let default = [0u64; 4];
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        // By the bare call: the C libraries refuse their internal signals 32 to 34, which their own posix_spawn(3), by which
        // the supervisor was started, leaves ignored.
        // SAFETY: rt_sigaction(2) reads 32 bytes; SIG_DFL is no Rust code, and no handler of ours runs in this child.
        let result = unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8_usize)
        };
        Errno::result(result).called("rt_sigaction", signal)?;
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).called("sigprocmask", "all")
}

/// Has a command begin with setsid(2), before its execve(2): from its first moment on it is out of reach of the caller's
/// terminal, whose Ctrl-C is for the caller.
pub fn in_new_session(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and execve the closure makes one async-signal-safe system call and allocates nothing.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(std::io::Error::from)) };
}

/// Has a command be killed when the thread ends that starts it (`PR_SET_PDEATHSIG`): one that has ended by then is not noticed.
pub fn ends_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let begin = || set_parent_death_signal(libc::SIGKILL).map_err(|error| std::io::Error::from(error.errno()));
    // SAFETY: between fork and execve the closure makes one async-signal-safe system call; it allocates nothing unless that fails.
    unsafe { command.pre_exec(begin) };
}

/// Has a command begin in a session of its own, and with SIGXFSZ ignored: a write past RLIMIT_FSIZE, which [`forbid_writing`] sets,
/// is an error to it and not its end.
pub fn in_own_session_past_size_limits(command: &mut std::process::Command) {
    use nix::sys::signal::{SigHandler, Signal, signal};
    use std::os::unix::process::CommandExt;
    let begin = || {
        // SAFETY: SIG_IGN is no code of ours.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
        nix::unistd::setsid()?;
        Ok(())
    };
    // SAFETY: between fork and execve the closure makes two async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(begin) };
}

/// prlimit(2) of a process' RLIMIT_FSIZE: from now on it can make no file longer, or write anything (EFBIG).
pub fn forbid_writing(pid: u32) -> SysResult<()> {
    // `struct rlimit64`: the soft limit, the hard limit.
    let nothing = [0u64; 2];
    // By the bare call: C libraries do not agree on the type of the second argument.
    // SAFETY: the kernel reads 16 bytes, which outlive the call, and writes none.
    let result = unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, libc::RLIMIT_FSIZE, nothing.as_ptr(), std::ptr::null_mut::<u64>())
    };
    Errno::result(result).called("prlimit FSIZE", pid).map(drop)
}

/// unshare(2): the caller leaves a namespace for a new one.
pub fn unshare(flag: nix::sched::CloneFlags, name: &str) -> SysResult<()> {
    call("unshare", || name.to_owned(), || nix::sched::unshare(flag).called("unshare", name))
}

/// setns(2): the caller joins a namespace. `name` is for messages.
pub fn set_namespace(namespace: BorrowedFd<'_>, flag: nix::sched::CloneFlags, name: &str) -> SysResult<()> {
    let shown = || {
        let inode = nix::sys::stat::fstat(namespace).map_or(0, |status| status.st_ino);
        format!("{}<{name}:[{inode}]>, {}", namespace.as_raw_fd(), record::flags(flag))
    };
    call("setns", shown, || nix::sched::setns(namespace, flag).called("setns", name))
}

/// setsid(2)
pub fn new_session() -> SysResult<()> {
    call("setsid", String::new, || nix::unistd::setsid().called("setsid", "").map(drop))
}

/// umask(2)
pub fn set_umask(mode: u32) {
    let perform = || {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mode));
        Ok(())
    };
    // It cannot fail.
    let _ = call("umask", || format!("{mode:#o}"), perform);
}

/// execve(2). Returns only on failure.
pub fn execve(path: &CString, arguments: &[CString], environment: &[CString]) -> SysError {
    let errno = nix::unistd::execve(path, arguments, environment).err().unwrap_or(Errno::EIO);
    SysError::new("execve", path.to_string_lossy(), errno)
}

/// _exit(2): ends a child made by [`clone3`] without running anything that belongs to its parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes an integer and does not return.
    unsafe { libc::_exit(code) }
}
