//! How a process that reads what is hostile gives up first what it does not need for that: root, capabilities, most system
//! calls, memory. What fails is an error, and nothing is read.

use crate::runtime::seccomp;
use crate::sys::SysResult;
use crate::sys::credentials::{self, CapabilityMasks};
use crate::sys::limit;
use crate::sys::process;
use anyhow::{Context, Result};
use nix::sys::resource::Resource;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// The kernel's overflow uid and gid: `nobody`.
const NOBODY: u32 = 65534;

/// What a process may take of a resource, in the units of getrlimit(2), and the resource's name.
pub(super) type Limit = (Resource, u64, &'static str);

/// Nothing of root stays, and nothing can come back.
pub(super) fn give_up_privileges(limits: &[Limit]) -> Result<()> {
    become_nobody(limits).context("giving up privileges")
}

fn become_nobody(limits: &[Limit]) -> SysResult<()> {
    for &(resource, most, name) in limits {
        limit::set_at_most(resource, name, (most, most))?;
    }
    // While CAP_SETPCAP is there: the change of user ends it.
    credentials::limit_bounding_capabilities(0)?;
    credentials::become_user(NOBODY, NOBODY, &[])?;
    credentials::clear_ambient_capabilities()?;
    credentials::set_capabilities(CapabilityMasks { effective: 0, permitted: 0, inheritable: 0 })?;
    credentials::set_no_new_privs()?;
    // Other processes of this user, who is nobody's own, do not look into this one.
    process::set_not_dumpable()
}

/// Leaves the calls that the rules allow. Others give EPERM, those of other architectures the end.
pub(super) fn give_up_calls(rules: Vec<LinuxSyscall>) -> Result<()> {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(libc::EPERM as u32));
    profile.set_architectures(Some(Vec::new()));
    // Present, so that the mitigations of a filtered process stay on.
    profile.set_flags(Some(Vec::new()));
    profile.set_syscalls(Some(rules));
    let filter = seccomp::compile(&profile)?;
    crate::sys::seccomp::load(&filter.program, filter.flags).context("giving up system calls")
}

/// To speak over sockets, wait, and take memory.
pub(super) const CALLS: &str = "
    read readv write writev close fcntl connect getsockname getpeername getsockopt setsockopt sendto recvfrom sendmsg recvmsg
    shutdown socketpair pipe2 eventfd2 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll
    brk munmap mremap madvise futex getrandom sched_yield clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall getpid gettid exit exit_group";

/// These calls.
pub(super) fn allow(names: &str) -> LinuxSyscall {
    rule(names, None)
}

/// Sockets of IPv4 and IPv6.
pub(super) fn internet_sockets() -> [LinuxSyscall; 2] {
    [libc::AF_INET, libc::AF_INET6]
        .map(|family| rule("socket", Some(masked(0, u64::from(u32::MAX), family.cast_unsigned().into()))))
}

/// Memory, but no new code.
pub(super) fn memory_without_code() -> LinuxSyscall {
    rule("mmap mprotect", Some(masked(2, libc::PROT_EXEC.cast_unsigned().into(), 0)))
}

/// Files that are there, for reading.
pub(super) fn files_for_reading() -> [LinuxSyscall; 3] {
    let writes =
        libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | libc::O_TMPFILE & !libc::O_DIRECTORY;
    let none_of_these = |index| Some(masked(index, writes.cast_unsigned().into(), 0));
    [
        rule("open", none_of_these(1)),
        rule("openat", none_of_these(2)),
        allow("stat lstat fstat newfstatat statx lseek pread64 getdents64"),
    ]
}

fn rule(names: &str, arg: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.split_ascii_whitespace().map(str::to_owned).collect());
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    rule.set_args(arg.map(|arg| vec![arg]));
    rule
}

/// An argument, ANDed with `mask`, equals `value`. (In OCI's words the mask is `value`, the value `valueTwo`.)
fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(index).value(mask).value_two(value);
    arg.op(LinuxSeccompOperator::ScmpCmpMaskedEq).build().expect("every field has a default")
}
