//! A system call fails once in each process of a pod's whole life: in the command, in the supervisor while it sets the pod up, in what
//! it forks for the network, in the name server, in the init, and at the end. The command succeeds, or says what failed; nothing
//! panics or hangs, and when the pod is removed nothing is left.

use crate::harness::{Host, Live, available, binary, pod, shell};
use crate::leaks;
use crate::rig::{Calls, Case, called, cases, is_long};
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a command may take whose call failed: a supervisor that is gone is waited for.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// What each call of a pod's life may plausibly fail with.
const CALLS: &Calls = &[
    ("accept4", &["EMFILE", "ENOMEM"]),
    ("bind", &["EADDRINUSE", "ENOMEM"]),
    ("capset", &["EPERM"]),
    ("chdir", &["EACCES"]),
    ("chmod", &["EPERM"]),
    ("chown", &["EPERM"]),
    ("clone", &["EAGAIN", "ENOMEM"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("close_range", &["EMFILE"]),
    ("connect", &["ECONNREFUSED", "EAGAIN"]),
    ("dup2", &["EBUSY"]),
    ("dup3", &["EBUSY"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("epoll_pwait", &["EINTR"]),
    ("epoll_wait", &["EINTR"]),
    ("eventfd2", &["EMFILE"]),
    ("execve", &["EACCES", "ENOMEM"]),
    ("fallocate", &["ENOSPC"]),
    ("fchdir", &["EACCES"]),
    ("fchmod", &["EPERM"]),
    ("fchown", &["EPERM"]),
    ("fcntl", &["EMFILE"]),
    ("flock", &["EINTR", "ENOLCK"]),
    ("fork", &["EAGAIN", "ENOMEM"]),
    ("fsconfig", &["EINVAL", "EBUSY"]),
    ("fsmount", &["EPERM", "ENOMEM"]),
    ("fsopen", &["ENODEV", "EPERM"]),
    ("fstat", &["EIO"]),
    ("fstatfs", &["EIO"]),
    ("ftruncate", &["EIO", "ENOSPC"]),
    ("getcwd", &["ENOENT"]),
    ("getdents64", &["EIO"]),
    ("getsockname", &["ENOBUFS"]),
    ("getsockopt", &["ENOBUFS"]),
    ("getxattr", &["EIO"]),
    ("inotify_add_watch", &["ENOSPC", "ENOMEM"]),
    ("inotify_init1", &["EMFILE"]),
    ("inotify_rm_watch", &["EINVAL"]),
    ("ioctl", &["EIO", "ENOTTY"]),
    ("keyctl", &["EDQUOT", "ENOSYS"]),
    ("kill", &["EPERM"]),
    ("link", &["EPERM", "ENOSPC"]),
    ("listen", &["EADDRINUSE"]),
    ("lseek", &["EIO"]),
    ("lstat", &["EIO"]),
    ("memfd_create", &["EMFILE", "ENOMEM"]),
    ("mkdir", &["ENOSPC", "EACCES", "EIO"]),
    ("mkdirat", &["ENOSPC", "EACCES"]),
    ("mknod", &["EPERM", "ENOSPC"]),
    ("mknodat", &["EPERM", "ENOSPC"]),
    ("mount_setattr", &["EPERM"]),
    ("move_mount", &["EINVAL", "ENOSPC"]),
    ("newfstatat", &["EACCES", "EIO"]),
    ("open", &["EMFILE", "EACCES", "EIO", "ENOSPC"]),
    ("open_tree", &["ENOMEM", "EPERM"]),
    ("openat", &["ENFILE", "EACCES"]),
    ("openat2", &["EMFILE", "EAGAIN"]),
    ("pidfd_open", &["EMFILE", "ENOMEM"]),
    ("pidfd_send_signal", &["EPERM"]),
    ("pipe2", &["EMFILE", "ENFILE"]),
    ("pivot_root", &["EINVAL"]),
    ("poll", &["EINTR", "ENOMEM"]),
    ("prctl", &["EPERM"]),
    ("pread64", &["EIO"]),
    ("prlimit64", &["EPERM"]),
    ("read", &["EIO", "EINTR"]),
    ("readlink", &["EACCES"]),
    ("readlinkat", &["EACCES"]),
    ("recvfrom", &["ECONNRESET", "ENOMEM", "EINTR"]),
    ("recvmsg", &["ECONNRESET", "ENOMEM", "EINTR"]),
    ("rename", &["ENOSPC", "EIO"]),
    ("renameat2", &["ENOSPC", "EINVAL"]),
    ("rmdir", &["EBUSY", "EIO"]),
    ("rt_sigprocmask", &["EINVAL"]),
    ("seccomp", &["ENOMEM"]),
    ("sendmsg", &["EPIPE", "ENOBUFS"]),
    ("sendto", &["ENOBUFS", "EPERM"]),
    ("setgroups", &["EPERM"]),
    ("sethostname", &["EPERM"]),
    ("setns", &["EPERM", "EINVAL"]),
    ("setresgid", &["EAGAIN"]),
    ("setresuid", &["EAGAIN"]),
    ("setsid", &["EPERM"]),
    ("setsockopt", &["ENOMEM"]),
    ("shutdown", &["ENOTCONN"]),
    ("signalfd4", &["EMFILE"]),
    ("socket", &["EMFILE", "EAFNOSUPPORT", "ENOBUFS"]),
    ("socketpair", &["EMFILE"]),
    ("stat", &["EACCES", "EIO"]),
    ("statfs", &["EIO"]),
    ("statx", &["EACCES", "EIO"]),
    ("symlink", &["ENOSPC", "EIO"]),
    ("symlinkat", &["ENOSPC"]),
    ("timerfd_create", &["EMFILE"]),
    ("timerfd_settime", &["EINVAL"]),
    ("umount2", &["EBUSY", "EPERM"]),
    ("unlink", &["EIO", "EROFS"]),
    ("unlinkat", &["EIO", "EROFS"]),
    ("unshare", &["EPERM", "ENOSPC"]),
    ("wait4", &["EINTR", "ECHILD"]),
    ("waitid", &["EINTR", "ECHILD"]),
    ("write", &["ENOSPC", "EIO", "EDQUOT"]),
];

/// Calls that do not fail, or that no program looks at the error of; and those by which memory comes, which `environment` has fail.
const OTHERS: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "clock_nanosleep",
    "close",
    "exit",
    "exit_group",
    "futex",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "nanosleep",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "umask",
    "uname",
];

/// PODSHIM_TEST_CALLS has names, apart by commas, of the calls that are tried.
fn tried() -> Vec<Case> {
    let turns: Vec<u32> = if is_long() { (1..=40).collect() } else { vec![1, 6] };
    let mut all = cases(CALLS, &turns);
    if let Ok(names) = std::env::var("PODSHIM_TEST_CALLS") {
        all.retain(|case| names.split(',').any(|name| name == case.call));
    }
    all
}

/// The exit code of the command, when it has ended; processes that it started may go on.
pub(crate) fn ended(trace: &str) -> Option<String> {
    let first = trace.split(' ').next()?;
    let ends = |line: &&str| line.starts_with(&format!("{first} ")) && line.contains(" +++");
    trace.lines().rfind(ends).map(str::to_owned)
}

/// What was seen of a pod's life.
struct Lived {
    /// How the command ended, in strace's words.
    end: String,
    out: String,
    err: String,
    trace: String,
    /// What was wrong with it.
    faults: Vec<String>,
}

/// Runs a pod to its end while calls fail, and removes it.
fn live(host: &Host, case: Option<&Case>) -> Lived {
    let mut faults = Vec::new();
    let trace = host.path("trace");
    let _ = std::fs::remove_file(&trace);
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "volumes": [{ "name": "d", "emptyDir": {} }, { "name": "m", "emptyDir": { "medium": "Memory" } }],
        "containers": [shell("c", "echo said; exit 3"), shell("d", "exit 0")] });
    let path = host.manifest(&pod("p", spec));
    let (podshim, options) = (binary(), case.map(Case::options).unwrap_or_default());
    let mut before = vec!["strace", "-f", "-o", trace.to_str().unwrap()];
    before.extend(options.iter().map(String::as_str));
    before.push(podshim.to_str().unwrap());
    let mut run = Live::start(host.command_by(&before, &["run", &path]));
    let traced = || std::fs::read_to_string(&trace).unwrap_or_default();
    if !comes(BOUND, || ended(&traced()).is_some()) {
        faults.push(format!("it hangs: {}", run.err()));
    }
    let end = ended(&traced()).unwrap_or_default();
    // It may have failed before it had something to remove, or have removed the name, and only that: that is for the next command.
    if std::fs::symlink_metadata(host.path("state/names/default_p")).is_ok() {
        let removed = host.run(&["rm", "-f", "p"]);
        faults.extend((removed.code != 0).then(|| format!("rm: {}", removed.err)));
    }
    host.ok(&["recover", "--all"]);
    let pid = run.pid();
    if !comes(BOUND, || leaks::has_ended(pid)) {
        faults.push("something that it started does not end".to_owned());
        run.signal(Signal::SIGKILL);
    }
    run.wait();
    Lived { end, out: run.out(), err: run.err(), trace: traced(), faults }
}

/// Whether something comes to be so in this time.
pub(crate) fn comes(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// What is wrong with what the command said and how it ended.
fn of_command(Lived { end, out, err, .. }: &Lived, case: &Case) -> Vec<String> {
    // The standard library's own, which asks its new child whether execve(2) failed, and there is nobody else to reset that; or that of
    // a program that is not static, which is only tested.
    if ["the CLOEXEC pipe failed", "loading shared libraries"].iter().any(|words| err.contains(words)) {
        return Vec::new();
    }
    // A connection that is lost is told as what that means: who is at its other end is gone.
    let is_lost = ["ECONNRESET", "EPIPE"].contains(&case.error);
    let is_told = match case.call {
        // Standard error may be what could not be written to.
        "write" if err.len() < "podshim: x".len() => true,
        // So may be the pipe by which a supervisor answers.
        "write" if err.contains("before the pod was set up") => true,
        _ if is_lost && ["ended without a", "its init ended", "/ns/"].iter().any(|words| err.contains(words)) => true,
        // What cannot be looked at is taken for what is not there (`Path::exists`), and that is told.
        "stat" | "lstat" | "statx" | "newfstatat" if err.contains("podshim: ") => true,
        // In a child that starts a program: the standard library again.
        "recvfrom" if err.contains("ended without an answer") => true,
        call => [call, case.error].iter().any(|word| err.contains(word)),
    };
    let mut faults = Vec::new();
    if err.contains("panicked") || err.contains("memory allocation") {
        faults.push(err.clone());
    }
    let code = end.split("exited with ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("none");
    match code {
        "3" if out.contains("said") => {}
        "0" | "none" => faults.push(format!("it ended with {end:?}: {out:?} {err}")),
        _ if is_told => {}
        _ => faults.push(format!("it ended with {code}, and does not say why: {out:?} {err}")),
    }
    faults
}

/// What is left of a pod that was removed.
fn left(host: &Host, network: &str) -> Vec<String> {
    let left = || {
        let mut left = [host.leaks(), leaks::on_network(network)].concat();
        left.retain(|thing| !thing.ends_with(network) && !thing.contains(&format!("/{network} ")));
        left
    };
    comes(Duration::from_secs(3), || left().is_empty());
    left()
}

#[test]
fn no_call_of_a_pods_life_is_left_out() {
    let Some(host) = Host::new(&["strace", "ip", "nft"]) else { return };
    host.own_network();
    let lived = live(&host, None);
    assert!(lived.faults.is_empty() && lived.out.contains("said"), "{:?} {}", lived.faults, lived.err);
    let mut left_out: BTreeSet<&str> = lived.trace.lines().filter_map(|line| Some(called(line)?.1)).collect();
    assert!(left_out.len() > 60, "{left_out:?}");
    left_out.retain(|call| !OTHERS.contains(call) && !CALLS.iter().any(|(known, _)| known == call));
    assert!(left_out.is_empty(), "give them errors in CALLS, or put them into OTHERS: {left_out:?}");
}

#[test]
fn each_call_of_a_pods_life_fails_once() {
    let cases = tried();
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let reached = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let Some(host) = Host::new(&["strace", "ip", "nft"]) else { return };
                let network = host.own_network();
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let lived = live(&host, Some(case));
                    reached.fetch_add(usize::from(lived.trace.contains("(INJECTED)")), Ordering::Relaxed);
                    let mut left = left(&host, &network);
                    if case.call == "rmdir" {
                        // What pods share stays as if another one were there. It goes with the next one.
                        left.retain(|thing| !(thing.starts_with("cgroup ") && thing.ends_with("/podshim")));
                    }
                    let left = (!left.is_empty()).then(|| format!("left: {left:#?}"));
                    let found: Vec<String> =
                        of_command(&lived, case).into_iter().chain(lived.faults).chain(left).collect();
                    // Told as they come: all of them take a quarter of an hour.
                    found.iter().for_each(|fault| eprintln!("{case}: {fault}"));
                    faults.lock().unwrap().extend(found.into_iter().map(|fault| format!("{case}: {fault}")));
                }
            });
        }
    });
    let (faults, reached) = (faults.into_inner().unwrap(), reached.into_inner());
    eprintln!("{reached} of {} failures came to pass", cases.len());
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    let least = if std::env::var_os("PODSHIM_TEST_CALLS").is_some() { 0 } else { 60 };
    assert!(reached > least || !available(&["root", "strace"]), "{reached}");
}
