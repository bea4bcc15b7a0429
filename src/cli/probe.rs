//! `podshim probe`, what a supervisor runs to have a request performed that takes TLS, HTTP/2 or a name lookup: they stay out of
//! the supervisor's own memory. Hidden; the request is JSON on standard input, the answer one JSON line each on standard output.
//!
//! What it speaks with is hostile, and TLS and HTTP/2 are much code. So it first gives up all that it does not need for its one
//! request: root, capabilities, most system calls, memory. If that fails there is no request.

use crate::lifecycle::Outcome;
use crate::probes::{self, Request, Said};
use crate::runtime::{self, seccomp};
use crate::sys::process::{self, CapabilityMasks};
use crate::sys::{Called, SysResult};
use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::getppid;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// The network namespace that the request goes out from
    #[arg(long, value_name = "FILE")]
    namespace: Option<PathBuf>,
    /// The process that waits for the answer
    #[arg(long, value_name = "PID")]
    parent: i32,
}

/// The kernel's overflow uid and gid: `nobody`.
const NOBODY: u32 = 65534;

/// What one request may take, in the units of getrlimit(2). An answer takes a few hundred kilobytes.
const LIMITS: [(Resource, u64, &str); 6] = [
    (Resource::RLIMIT_CORE, 0, "RLIMIT_CORE"),
    // No process and no thread besides this one.
    (Resource::RLIMIT_NPROC, 0, "RLIMIT_NPROC"),
    (Resource::RLIMIT_NOFILE, 32, "RLIMIT_NOFILE"),
    (Resource::RLIMIT_MEMLOCK, 0, "RLIMIT_MEMLOCK"),
    (Resource::RLIMIT_DATA, 64 << 20, "RLIMIT_DATA"),
    // Shared memory counts only here. A build with debug information is large itself.
    (Resource::RLIMIT_AS, 512 << 20, "RLIMIT_AS"),
];

pub(super) fn run(args: ProbeArgs) -> Result<()> {
    let mut say = |said: Said| {
        let line = serde_json::to_string(&said).unwrap_or_default();
        // Who does not listen any more has given the request up.
        let _ = writeln!(std::io::stdout(), "{line}");
    };
    // An error is an answer, too: the supervisor reads nothing else.
    let outcome = prepare(&args)
        .and_then(|request| probes::perform(&request, &mut say))
        .unwrap_or_else(|error| Outcome::Error(probes::text(format!("{error:#}").as_bytes())));
    say(Said::Done(outcome));
    Ok(())
}

/// All that is done before the first byte of somebody else's is read.
fn prepare(args: &ProbeArgs) -> Result<Request> {
    process::close_inherited(3)?;
    // Before there are threads, which would each keep their own.
    if let Some(path) = &args.namespace {
        setns(runtime::open_namespace(path)?, CloneFlags::CLONE_NEWNET).called("setns", path.display())?;
    }
    let request: Request = serde_json::from_reader(std::io::stdin()).context("reading a request")?;
    give_up_privileges().context("giving up privileges")?;
    die_with(args.parent)?;
    let filter = seccomp::compile(&profile(&request))?;
    crate::sys::seccomp::load(&filter.program, filter.flags).context("giving up system calls")?;
    Ok(request)
}

/// Nothing of root stays, and nothing can come back.
fn give_up_privileges() -> SysResult<()> {
    for (resource, limit, name) in LIMITS {
        setrlimit(resource, limit, limit).called("setrlimit", name)?;
    }
    // While CAP_SETPCAP is there: the change of user ends it.
    (0..=process::last_capability()).try_for_each(process::drop_bounding_capability)?;
    process::become_user(NOBODY, NOBODY, &[])?;
    process::clear_ambient_capabilities()?;
    process::set_capabilities(CapabilityMasks { effective: 0, permitted: 0, inheritable: 0 })?;
    process::set_no_new_privs()?;
    // Other processes of this user, who is nobody's own, do not look into this one.
    process::set_not_dumpable()
}

/// Without the supervisor nobody waits for the answer, and nobody ends what takes too long. After the change of user, which the
/// kernel takes as a reason to forget this (PR_SET_PDEATHSIG in prctl(2)).
fn die_with(parent: i32) -> Result<()> {
    process::set_parent_death_signal(libc::SIGKILL)?;
    // It may have ended before that.
    ensure!(getppid().as_raw() == parent, "process {parent}, which asked for this, has ended");
    Ok(())
}

/// To speak TCP, wait, and take memory.
const CALLS: &str = "
    read readv write writev close fcntl connect getsockname getpeername getsockopt setsockopt sendto recvfrom sendmsg recvmsg
    shutdown socketpair pipe2 eventfd2 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll
    brk munmap mremap madvise futex getrandom sched_yield clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall getpid gettid exit exit_group";

/// Besides, to look a name up, with whatever the C library has for that: it reads the host's files, asks name servers and
/// local daemons, and may load modules.
const CALLS_TO_LOOK_UP: &str = "
    open openat stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat lseek pread64 getdents64
    mmap mprotect socket bind sendmmsg recvmmsg ioctl uname getuid geteuid getgid getegid";

/// Which system calls are allowed; others give EPERM, those of other architectures the end.
fn profile(request: &Request) -> LinuxSeccomp {
    const PROT_EXEC: u64 = 4;
    let rules = match request.looks_up() {
        true => vec![allow(CALLS, None), allow(CALLS_TO_LOOK_UP, None)],
        false => vec![
            allow(CALLS, None),
            allow("socket", Some(masked(0, u64::from(u32::MAX), libc::AF_INET as u64))),
            allow("socket", Some(masked(0, u64::from(u32::MAX), libc::AF_INET6 as u64))),
            // No new code.
            allow("mmap mprotect", Some(masked(2, PROT_EXEC, 0))),
        ],
    };
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(libc::EPERM as u32));
    profile.set_architectures(Some(Vec::new()));
    // Present, so that the mitigations of a filtered process stay on.
    profile.set_flags(Some(Vec::new()));
    profile.set_syscalls(Some(rules));
    profile
}

fn allow(names: &str, arg: Option<LinuxSeccompArg>) -> LinuxSyscall {
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
