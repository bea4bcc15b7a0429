//! Tries system calls that a default seccomp profile denies, and some that it must allow, each in a child of its own.
//!
//! The arguments are such that the call does nothing even where it is allowed: invalid numbers, paths that do not
//! exist, null addresses. So EPERM (or ENOSYS) means that a filter or a missing capability stopped it before its
//! arguments were looked at, and EFAULT, EINVAL, ENOENT or EBADF that nothing did.

use anyhow::{Context, Result};
use libc::c_long;
use serde_json::{Map, Value, json};

use super::sys;

const MISSING: &std::ffi::CStr = c"/nonexistent-facts";
const NEWUSER: c_long = libc::CLONE_NEWUSER as c_long;
/// The child's exit code for an errno that does not fit.
const UNKNOWN: i32 = 255;

struct Probe {
    name: &'static str,
    call: c_long,
    args: [c_long; 5],
}

/// Errno by name of each probe: `{"errno": 1, "name": "EPERM"}`, 0 and `"OK"` when the call succeeded, or
/// `{"signal": 31}` when it killed the child.
pub(super) fn all() -> Result<Value> {
    let mut results = Map::new();
    // struct clone_args (clone(2)): flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let clone_args: [u64; 8] = [NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    for probe in probes(clone_args.as_ptr() as c_long) {
        let pid = sys::spawn(|| attempt(&probe)).with_context(|| format!("fork for {}", probe.name))?;
        let status = sys::wait(pid).with_context(|| format!("waiting for {}", probe.name))?;
        let result = if libc::WIFEXITED(status) {
            let errno = libc::WEXITSTATUS(status);
            json!({ "errno": errno, "name": errno_name(errno) })
        } else {
            json!({ "signal": libc::WTERMSIG(status) })
        };
        results.insert(probe.name.to_string(), result);
    }
    Ok(Value::Object(results))
}

/// In the child (and, where the call is a clone, in its child too).
fn attempt(probe: &Probe) -> i32 {
    match sys::raw(probe.call, probe.args) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().filter(|e| *e < UNKNOWN).unwrap_or(UNKNOWN),
    }
}

/// `clone_args` is the address of a `struct clone_args`.
fn probes(clone_args: c_long) -> Vec<Probe> {
    let path = MISSING.as_ptr() as c_long;
    let none = c"none".as_ptr() as c_long;
    let tmpfs = c"tmpfs".as_ptr() as c_long;
    let sigchld = c_long::from(libc::SIGCHLD);
    let table: &[(&'static str, c_long, [c_long; 5])] = &[
        ("unshare_newuser", libc::SYS_unshare, [NEWUSER, 0, 0, 0, 0]),
        ("unshare_newns", libc::SYS_unshare, [libc::CLONE_NEWNS.into(), 0, 0, 0, 0]),
        ("clone_newuser", libc::SYS_clone, [NEWUSER | sigchld, 0, 0, 0, 0]),
        ("clone3_newuser", libc::SYS_clone3, [clone_args, 64, 0, 0, 0]),
        ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [none, path, tmpfs, 0, 0]),
        ("umount2", libc::SYS_umount2, [path, 0, 0, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [path, path, 0, 0, 0]),
        ("fsopen", libc::SYS_fsopen, [tmpfs, 0xffff, 0, 0, 0]),
        ("fsmount", libc::SYS_fsmount, [-1, 0, 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [-1, path, 0, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [-1, path, -1, path, 0]),
        ("mount_setattr", libc::SYS_mount_setattr, [-1, path, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [0, 0, 0, 0, 0]),
        ("request_key", libc::SYS_request_key, [0, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [-1, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, -1, -1, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0, 0, 0, 0, 0]),
        ("io_uring_enter", libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0]),
        ("io_uring_register", libc::SYS_io_uring_register, [-1, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0x7fff_0000, 0, 0, 0, 0]),
        ("socket_alg", libc::SYS_socket, [libc::AF_ALG.into(), libc::SOCK_SEQPACKET.into(), 0, 0, 0]),
        ("socket_vsock", libc::SYS_socket, [libc::AF_VSOCK.into(), libc::SOCK_STREAM.into(), 0, 0, 0]),
        ("socket_inet", libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]),
        ("name_to_handle_at", libc::SYS_name_to_handle_at, [-1, path, 0, 0, 0]),
        ("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
        // Flags that no kernel knows: refused before anything is loaded or unloaded.
        ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0xffff, 0]),
        ("kexec_file_load", libc::SYS_kexec_file_load, [-1, -1, 0, 0, 0xffff]),
        ("init_module", libc::SYS_init_module, [0, 0, 0, 0, 0]),
        ("finit_module", libc::SYS_finit_module, [-1, 0, 0, 0, 0]),
        ("delete_module", libc::SYS_delete_module, [path, libc::O_NONBLOCK.into(), 0, 0, 0]),
        ("swapon", libc::SYS_swapon, [path, 0, 0, 0, 0]),
        ("swapoff", libc::SYS_swapoff, [path, 0, 0, 0, 0]),
        ("acct", libc::SYS_acct, [path, 0, 0, 0, 0]),
        ("quotactl", libc::SYS_quotactl, [-1, path, 0, 0, 0]),
        ("clock_settime", libc::SYS_clock_settime, [-9999, 0, 0, 0, 0]),
        ("settimeofday", libc::SYS_settimeofday, [1, 0, 0, 0, 0]),
        ("syslog", libc::SYS_syslog, [-1, 0, 0, 0, 0]),
        ("sethostname", libc::SYS_sethostname, [0, -1, 0, 0, 0]),
        ("setdomainname", libc::SYS_setdomainname, [0, -1, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [path, 0, 0, 0, 0]),
        ("fanotify_init", libc::SYS_fanotify_init, [-1, 0, 0, 0, 0]),
        ("kcmp", libc::SYS_kcmp, [-1, -1, -1, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, -1, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [0, 0, 0, 0, 0]),
        ("move_pages", libc::SYS_move_pages, [-1, 0, 0, 0, 0]),
        ("mbind", libc::SYS_mbind, [1, 4096, -1, 0, 0]),
        ("ptrace_traceme", libc::SYS_ptrace, [0, 0, 0, 0, 0]),
        ("personality_query", libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0]),
        ("personality_no_randomize", libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0]),
        ("vmsplice", libc::SYS_vmsplice, [-1, 0, 0, 0, 0]),
        ("getpid", libc::SYS_getpid, [0, 0, 0, 0, 0]),
    ];
    let mut probes: Vec<_> = table.iter().map(|(name, call, args)| Probe { name, call: *call, args: *args }).collect();
    #[cfg(target_arch = "x86_64")]
    probes.extend([
        Probe { name: "iopl", call: libc::SYS_iopl, args: [99, 0, 0, 0, 0] },
        Probe { name: "ioperm", call: libc::SYS_ioperm, args: [-1, 0, 1, 0, 0] },
    ]);
    probes
}

/// The usual names; a number otherwise.
fn errno_name(errno: i32) -> String {
    let names = [
        (0, "OK"),
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EIO, "EIO"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::ENOTBLK, "ENOTBLK"),
        (libc::EBUSY, "EBUSY"),
        (libc::ENODEV, "ENODEV"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENOEXEC, "ENOEXEC"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EUSERS, "EUSERS"),
    ];
    names
        .iter()
        .find(|(number, _)| *number == errno)
        .map_or_else(|| format!("errno {errno}"), |(_, n)| (*n).to_string())
}
