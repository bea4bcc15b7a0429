//! `podshim probe`, what a supervisor runs to have a request performed that takes TLS, HTTP/2 or a name lookup: they stay out of
//! the supervisor's own memory. Hidden; the request is JSON on standard input, the answer one JSON line each on standard output.
//!
//! What it speaks with is hostile, and TLS and HTTP/2 are much code. So it first gives up all that it does not need for its one
//! request: root, capabilities, most system calls, memory. If that fails there is no request.

use super::confine;
use crate::lifecycle::Outcome;
use crate::probes::{self, Request, Said};
use crate::runtime;
use crate::sys::{Called, process};
use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::Resource;
use nix::unistd::getppid;
use oci_spec::runtime::LinuxSyscall;
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

/// What one request may take, in the units of getrlimit(2). An answer takes a few hundred kilobytes.
const LIMITS: [confine::Limit; 6] = [
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
    confine::give_up_privileges(&LIMITS)?;
    die_with(args.parent)?;
    confine::give_up_calls(rules(&request))?;
    Ok(request)
}

/// Without the supervisor nobody waits for the answer, and nobody ends what takes too long. After the change of user, which the
/// kernel takes as a reason to forget this (PR_SET_PDEATHSIG in prctl(2)).
fn die_with(parent: i32) -> Result<()> {
    process::set_parent_death_signal(libc::SIGKILL)?;
    // It may have ended before that.
    ensure!(getppid().as_raw() == parent, "process {parent}, which asked for this, has ended");
    Ok(())
}

/// Besides, to look a name up, with whatever the C library has for that: it reads the host's files, asks name servers and
/// local daemons, and may load modules.
const CALLS_TO_LOOK_UP: &str = "
    open openat stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat lseek pread64 getdents64
    mmap mprotect socket bind sendmmsg recvmmsg ioctl uname getuid geteuid getgid getegid";

/// Which system calls are allowed.
fn rules(request: &Request) -> Vec<LinuxSyscall> {
    let mut rules = vec![confine::allow(confine::CALLS)];
    if request.looks_up() {
        rules.push(confine::allow(CALLS_TO_LOOK_UP));
    } else {
        rules.extend(confine::internet_sockets());
        rules.push(confine::memory_without_code());
    }
    rules
}
