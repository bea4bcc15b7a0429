//! Processes that are not ours to wait for, by their pidfds: which one it is, whether it still runs, how it ended.

use super::process::Ended;
use super::{Called, SysError, SysResult, check};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct pidfd_info` (linux/pidfd.h) in its first published size, which every later kernel takes.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

const PIDFD_INFO_PID: u64 = 1;
/// Since 6.15; answered once the process has been waited for.
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`, since 6.13.
const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xFF << 8) | 11;

/// The fields of `/proc/<pid>/stat` (proc_pid_stat(5)) that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    flags: u64,
    threads: i64,
    start_time: u64,
    /// As wait(2) has it; 0 for who may not know.
    exit_code: i32,
}

impl Stat {
    /// A first thread that has ended is a zombie as well while others of its process go on.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

/// `None` if there is no such process.
fn stat(pid: i32) -> SysResult<Option<Stat>> {
    let path = format!("/proc/{pid}/stat");
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        other => other.called("read", &path)?,
    };
    parse_stat(&text).map(Some).ok_or_else(|| SysError::new("read", path, Errno::EINVAL))
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name, in brackets, may hold anything; after it come state (3), … flags (9), … starttime (22), … exit_code (52).
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        state: field(3)?.chars().next()?,
        flags: field(9)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
        exit_code: field(52)?.parse().ok()?,
    })
}

/// Whether a descriptor is a pidfd of a kernel that has pidfs (since 6.9). What is opened at a path is one only if it was mounted there
/// (since 6.14), and may be any other file.
pub fn is_in_pidfs(descriptor: BorrowedFd<'_>) -> SysResult<bool> {
    // linux/magic.h
    const PID_FS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x5049_4446);
    let status = nix::sys::statfs::fstatfs(descriptor).called("fstatfs", "pidfd")?;
    Ok(status.filesystem_type() == PID_FS_MAGIC)
}

/// What tells the process of a pidfd from every other one of this boot: the number of its inode in pidfs (on 64-bit kernels never
/// used twice), without pidfs when it started, in clock ticks. `pid` is its pid, not waited for.
pub fn identity(pidfd: BorrowedFd<'_>, pid: i32) -> SysResult<u64> {
    if is_in_pidfs(pidfd)? {
        return nix::sys::stat::fstat(pidfd).called("fstat", "pidfd").map(|status| status.st_ino);
    }
    let started = stat(pid)?.map(|stat| stat.start_time);
    started.ok_or_else(|| SysError::new("read", format_args!("/proc/{pid}/stat"), Errno::ESRCH))
}

/// The pid of a pidfd's process; `None` if it has ended and was waited for.
fn pid_of(pidfd: BorrowedFd<'_>) -> SysResult<Option<i32>> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).called("read", &path)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    pid.map(|pid| (pid > 0).then_some(pid)).ok_or_else(|| SysError::new("read", path, Errno::EINVAL))
}

/// Whether a process that is not our child still runs (`None`), or how it ended: [`Ended::Unknown`] if the kernel has kept
/// nothing of that (before 6.15, or there was no pidfd of it when it was waited for).
pub fn fate(pidfd: BorrowedFd<'_>) -> SysResult<Option<Ended>> {
    // Whoever waits for it may do so between two looks, but only once.
    for _ in 0..2 {
        if let Some(ended) = told(pidfd)? {
            return Ok(Some(ended));
        }
        let Some(pid) = pid_of(pidfd)? else { continue };
        let seen = stat(pid)?;
        // Still its own pid: what was read in between was read of it.
        if pid_of(pidfd)? == Some(pid)
            && let Some(seen) = seen
        {
            return Ok(seen.has_ended().then(|| of_wait_status(seen.exit_code)));
        }
    }
    Ok(Some(told(pidfd)?.unwrap_or(Ended::Unknown)))
}

/// What the kernel has kept of a process that was waited for.
fn told(pidfd: BorrowedFd<'_>) -> SysResult<Option<Ended>> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_PID | PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel reads and writes one `pidfd_info` of the size that the request's number has, alive during the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    match check(result.into(), "ioctl PIDFD_GET_INFO", "pidfd") {
        // Not known to this kernel; or it has ended, and nothing is kept.
        Err(error) if matches!(error.errno(), Errno::ENOTTY | Errno::EINVAL | Errno::ESRCH) => Ok(None),
        Err(error) => Err(error),
        Ok(_) => Ok((info.mask & PIDFD_INFO_EXIT != 0).then(|| of_wait_status(info.exit_code))),
    }
}

fn of_wait_status(status: i32) -> Ended {
    match status & 0x7f {
        0 => Ended::Exited((status >> 8) & 0xff),
        signal => Ended::Signaled(signal),
    }
}

/// poll(2) until a process has ended.
pub fn wait(pidfd: BorrowedFd<'_>) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut end = [PollFd::new(pidfd, PollFlags::POLLIN)];
    while matches!(poll(&mut end, PollTimeout::NONE), Err(Errno::EINTR)) {}
}

/// Whether a process executes something else than the process that forked it does (`PF_FORKNOEXEC` of linux/sched.h is not
/// set); `None` if it has ended.
pub fn has_executed(pidfd: BorrowedFd<'_>) -> SysResult<Option<bool>> {
    const PF_FORKNOEXEC: u64 = 0x40;
    let Some(pid) = pid_of(pidfd)? else { return Ok(None) };
    let seen = stat(pid)?.filter(|seen| !seen.has_ended());
    if pid_of(pidfd)? != Some(pid) {
        return Ok(None);
    }
    Ok(seen.map(|seen| seen.flags & PF_FORKNOEXEC == 0))
}

/// Whether a process has begun to exit (`PF_EXITING`), or has ended. A pid 1 of a namespace is in that state until all other
/// processes of the namespace are gone.
pub fn is_exiting(pidfd: BorrowedFd<'_>) -> SysResult<bool> {
    const PF_EXITING: u64 = 0x4;
    let Some(pid) = pid_of(pidfd)? else { return Ok(true) };
    let seen = stat(pid)?;
    if pid_of(pidfd)? != Some(pid) {
        return Ok(true);
    }
    Ok(seen.is_none_or(|seen| seen.flags & PF_EXITING != 0))
}

#[cfg(test)]
mod tests {
    use super::super::process;
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_is_no_pidfd() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_in_pidfs(file.as_fd()).unwrap());
        let directory = std::fs::File::open("/proc/self").unwrap();
        assert!(!is_in_pidfs(directory.as_fd()).unwrap());
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_name_is() {
        let rest = "S 1 2 3 0 -1 4194624 5 0 0 0 1 1 0 0 20 0 1 0 777 100 10 18446744073709551615 \
                    1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 1 1 1 1 1 1 1 256";
        let text = format!("12 (a) R (b) {rest}\n");
        let seen = parse_stat(&text).unwrap();
        assert_eq!(seen, Stat { state: 'S', flags: 4_194_624, threads: 1, start_time: 777, exit_code: 256 });
        assert_eq!(parse_stat("12 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn wait_statuses_are_read() {
        assert_eq!(of_wait_status(7 << 8), Ended::Exited(7));
        assert_eq!(of_wait_status(9), Ended::Signaled(9));
        // With a core dump.
        assert_eq!(of_wait_status(11 | 0x80), Ended::Signaled(11));
    }

    #[test]
    fn a_process_is_known_by_its_pidfd_before_and_after_its_end() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pidfd = process::open_pid(child.id()).unwrap();
        let other = process::open_pid(std::process::id()).unwrap();
        let pid = child.id() as i32;
        let own = identity(pidfd.as_fd(), pid).unwrap();
        assert_eq!(own, identity(process::open_pid(child.id()).unwrap().as_fd(), pid).unwrap());
        assert_ne!(own, identity(other.as_fd(), std::process::id() as i32).unwrap());
        assert_eq!(fate(pidfd.as_fd()).unwrap(), None);
        assert_eq!(has_executed(pidfd.as_fd()).unwrap(), Some(true));
        process::send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        while fate(pidfd.as_fd()).unwrap().is_none() {
            std::thread::yield_now();
        }
        // Not waited for, and then waited for by somebody else.
        assert_eq!(fate(pidfd.as_fd()).unwrap(), Some(Ended::Signaled(9)));
        assert_eq!(has_executed(pidfd.as_fd()).unwrap(), None);
        child.wait().unwrap();
        let after = fate(pidfd.as_fd()).unwrap().unwrap();
        assert!([Ended::Signaled(9), Ended::Unknown].contains(&after), "{after:?}");
        assert_eq!(process::try_wait(pidfd.as_fd()).unwrap(), Some(after), "no child of ours any more");
    }
}
