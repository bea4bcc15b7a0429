//! The default seccomp profile (`RuntimeDefault`), as data.
//!
//! Equal in effect to containerd's (`contrib/seccomp`, main of mid-2026): what is on the list is allowed, what is not gives
//! EPERM, what is newer than the list gives ENOSYS (that last part is the compiler's, `runtime::seccomp`, as it is runc's).
//! Two differences, both on purpose:
//!
//! * `socket` compares only the 32 bits of the address family that the kernel reads. containerd's ranges (`< 38`, `= 39`,
//!   `> 40`) compare 64, so that `socket(38 | 1 << 32, …)` passes as "greater than 40" and opens an AF_ALG socket.
//!   Families from 64 up (there are none: AF_MAX is 46 in Linux 6.18) give EPERM here, not EAFNOSUPPORT.
//! * `ptrace`, `process_vm_readv` and `process_vm_writev` are allowed without asking for Linux 4.8, below which podshim
//!   does not run.
//!
//! As in containerd, `socketcall` stays allowed for 32-bit programs: a filter cannot see behind its pointer, and Docker had
//! to take its refusal back because it broke 32-bit programs. AF_ALG by that way is for an LSM to refuse.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

/// Allowed whatever the container's capabilities are, with any arguments. Names of all architectures together: one that an
/// architecture does not have is skipped there.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area
    gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set
    io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr
    lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat lstat64 madvise membarrier memfd_create memfd_secret
    mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall map_shadow_stack mmap mmap2 mprotect mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev
    pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
    sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat
    shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair
    splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill
    time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64
    ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4
    waitid waitpid write writev
    ptrace process_vm_readv process_vm_writev";

/// Allowed in addition on this architecture.
const ALLOWED_HERE: &str = if cfg!(target_arch = "aarch64") {
    "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
} else {
    "arch_prctl modify_ldt"
};

/// Allowed in addition with a capability in the bounding set.
const ALLOWED_WITH: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// The values that personality(2) may be asked for: PER_LINUX, PER_LINUX32, UNAME26, both, and "only tell me".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Address families which socket(2) may be asked for, as (mask, value): all below 64 but AF_ALG (38: CVE-2026-31431) and
/// AF_VSOCK (40: reaches the hypervisor past every network namespace).
///
/// One rule each, because rules are alternatives. "not 38" and "not 40" as two conditions of one rule would be ORed (as
/// runc does with two conditions on one argument) and so allow both.
const FAMILIES: [(u64, u64); 8] = [
    (0xffff_ffe0, 0),  // 0..=31
    (0xffff_fffc, 32), // 32..=35
    (0xffff_fffe, 36), // 36, 37
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42), // 42, 43
    (0xffff_fffc, 44), // 44..=47
    (0xffff_fff0, 48), // 48..=63
];

/// The flags of clone(2) that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The default profile for a container whose bounding set is `caps`: see the module for how it relates to containerd's.
///
/// The default action is ERRNO with EPERM. `clone3`, whose flags a filter cannot see, gives ENOSYS without CAP_SYS_ADMIN, so
/// that libraries fall back to `clone`, whose flags it can.
pub fn default_profile(caps: &Capabilities) -> LinuxSeccomp {
    let mut rules = vec![allow(ALLOWED, None), allow(ALLOWED_HERE, None)];
    rules.extend(FAMILIES.map(|(mask, family)| allow("socket", Some(masked(mask, family)))));
    rules.extend(PERSONALITIES.map(|value| allow("personality", Some(equal(value)))));
    rules.extend(ALLOWED_WITH.iter().filter(|(cap, _)| caps.contains(cap)).map(|(_, names)| allow(names, None)));
    if !caps.contains(&Capability::SysAdmin) {
        rules.push(allow("clone", Some(masked(CLONE_NAMESPACES, 0))));
        let mut clone3 = LinuxSyscall::default();
        clone3.set_names(vec!["clone3".to_owned()]);
        clone3.set_action(LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(Some(libc::ENOSYS as u32));
        rules.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(libc::EPERM as u32));
    profile.set_architectures(Some(architectures()));
    profile.set_syscalls(Some(rules));
    profile
}

/// The native architecture and the 32-bit ones that its kernel can run.
fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    }
}

fn allow(names: &str, arg: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.split_ascii_whitespace().map(str::to_owned).collect());
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    rule.set_args(arg.map(|arg| vec![arg]));
    rule
}

/// The first argument equals `value`.
fn equal(value: u64) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(0_usize).value(value).op(LinuxSeccompOperator::ScmpCmpEq);
    arg.build().expect("every field has a default")
}

/// The first argument, ANDed with `mask`, equals `value`. (In OCI's words the mask is `value`, the value `valueTwo`.)
fn masked(mask: u64, value: u64) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(0_usize).value(mask).value_two(value);
    arg.op(LinuxSeccompOperator::ScmpCmpMaskedEq).build().expect("every field has a default")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &LinuxSeccomp) -> Vec<&str> {
        let rules = profile.syscalls().as_ref().unwrap();
        rules
            .iter()
            .filter(|r| r.action() == LinuxSeccompAction::ScmpActAllow)
            .flat_map(|r| r.names().iter().map(String::as_str))
            .collect()
    }

    #[test]
    fn a_capability_opens_its_calls_and_no_others() {
        let none = default_profile(&Capabilities::new());
        for (cap, calls) in ALLOWED_WITH {
            let with = default_profile(&Capabilities::from([*cap]));
            for call in calls.split_ascii_whitespace().filter(|c| *c != "clone") {
                assert!(!names(&none).contains(&call), "{call} without {cap}");
                assert!(names(&with).contains(&call), "{call} with {cap}");
            }
            let more = names(&with).into_iter().filter(|n| !names(&none).contains(n)).count();
            assert_eq!(more, calls.split_ascii_whitespace().filter(|c| *c != "clone").count(), "{cap}");
        }
    }

    #[test]
    fn the_must_block_set_is_not_allowed() {
        let profile = default_profile(&Capabilities::new());
        let blocked = "bpf perf_event_open keyctl add_key request_key kexec_load kexec_file_load init_module \
            finit_module delete_module open_by_handle_at io_uring_setup io_uring_enter io_uring_register userfaultfd \
            reboot swapon swapoff iopl ioperm acct quotactl settimeofday clock_settime lookup_dcookie move_pages kcmp \
            pidfd_getfd mount umount umount2 pivot_root fsopen fsmount fsconfig fspick move_mount mount_setattr \
            open_tree setns unshare clone3 chroot";
        for call in blocked.split_ascii_whitespace() {
            assert!(!names(&profile).contains(&call), "{call}");
        }
    }

    #[test]
    fn no_name_is_twice_on_the_list() {
        let mut list: Vec<_> = ALLOWED.split_ascii_whitespace().collect();
        let all = list.len();
        list.sort_unstable();
        list.dedup();
        assert_eq!(list.len(), all);
    }

    #[test]
    fn the_families_are_all_below_64_but_alg_and_vsock() {
        let allowed = |family: u64| FAMILIES.iter().any(|(mask, value)| family & mask == *value);
        for family in 0..1000 {
            assert_eq!(allowed(family), family < 64 && family != 38 && family != 40, "{family}");
        }
        assert!(!allowed(38 | 1 << 32) && allowed(2 | 1 << 32), "the kernel reads 32 bits");
    }
}
