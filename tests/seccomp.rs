//! The default seccomp profile in a real process: compiled, loaded, and the errno of each call.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use podshim::sys::seccomp::load;

struct Row {
    name: &'static str,
    call: libc::c_long,
    args: [u64; 3],
    errno: i32,
}

fn row(name: &'static str, call: libc::c_long, args: [u64; 3], errno: i32) -> Row {
    Row { name, call, args, errno }
}

/// Loads `program` in a child, makes the calls of `rows` there, and gives the errno of each.
fn errnos_under(program: &[libc::sock_filter], rows: &[Row]) -> Vec<i32> {
    let mut pipe = [0; 2];
    // SAFETY: pipe() writes two descriptors into the array.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: the child makes only system calls, allocates nothing and ends by _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: plain system calls; those of `rows` take no pointers but null, and their failure is the point.
            unsafe {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                if load(program, 0).is_err() {
                    libc::_exit(1);
                }
                for row in rows {
                    let [a, b, c] = row.args;
                    let errno = match libc::syscall(row.call, a, b, c, 0_u64, 0_u64) {
                        -1 => *libc::__errno_location(),
                        _ => 0,
                    };
                    libc::write(pipe[1], (&raw const errno).cast(), 4);
                }
                libc::_exit(0);
            }
        }
        ForkResult::Parent { child } => {
            // SAFETY: closes and reads this function's own descriptors; the buffer is 4 bytes long.
            unsafe { libc::close(pipe[1]) };
            let mut errnos = Vec::new();
            loop {
                let mut errno = [0_u8; 4];
                // SAFETY: as above.
                if unsafe { libc::read(pipe[0], errno.as_mut_ptr().cast(), 4) } != 4 {
                    break;
                }
                errnos.push(i32::from_ne_bytes(errno));
            }
            // SAFETY: as above.
            unsafe { libc::close(pipe[0]) };
            assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))), "the child loads the filter");
            errnos
        }
    }
}

#[test]
fn the_default_profile_denies_by_errno() {
    let profile = podshim::plan::seccomp::default_profile(&Default::default());
    let filter = podshim::runtime::seccomp::compile(&profile).unwrap();
    let new_user = libc::CLONE_NEWUSER as u64;
    let (alg, vsock) = (libc::AF_ALG as u64, libc::AF_VSOCK as u64);
    let rows = [
        row("unshare", libc::SYS_unshare, [new_user, 0, 0], libc::EPERM),
        row("setns", libc::SYS_setns, [0, 0, 0], libc::EPERM),
        row("mount", libc::SYS_mount, [0, 0, 0], libc::EPERM),
        row("umount2", libc::SYS_umount2, [0, 0, 0], libc::EPERM),
        row("keyctl", libc::SYS_keyctl, [0, 0, 0], libc::EPERM),
        row("bpf", libc::SYS_bpf, [0, 0, 0], libc::EPERM),
        row("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0], libc::EPERM),
        row("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0], libc::EPERM),
        row("open_by_handle_at", libc::SYS_open_by_handle_at, [0, 0, 0], libc::EPERM),
        row("clone with a namespace", libc::SYS_clone, [new_user | 17, 0, 0], libc::EPERM),
        row("clone3", libc::SYS_clone3, [0, 0, 0], libc::ENOSYS),
        row("AF_ALG", libc::SYS_socket, [alg, 5, 0], libc::EPERM),
        row("AF_ALG, above 32 bits", libc::SYS_socket, [alg | 1 << 32, 5, 0], libc::EPERM),
        row("AF_VSOCK", libc::SYS_socket, [vsock, 1, 0], libc::EPERM),
        row("AF_UNIX", libc::SYS_socket, [1, 1, 0], 0),
        row("personality, to ask", libc::SYS_personality, [0xffff_ffff, 0, 0], 0),
        row("personality, no randomization", libc::SYS_personality, [0x004_0000, 0, 0], libc::EPERM),
        row("getpid", libc::SYS_getpid, [0, 0, 0], 0),
        row("a call of the future", 4000, [0, 0, 0], libc::ENOSYS),
    ];
    let errnos = errnos_under(&filter.program, &rows);
    assert_eq!(errnos.len(), rows.len());
    for (row, errno) in rows.iter().zip(errnos) {
        assert_eq!(Errno::from_raw(errno), Errno::from_raw(row.errno), "{}", row.name);
    }
}

#[test]
fn a_program_that_the_kernel_refuses_is_einval() {
    let error = load(&[], 0).unwrap_err();
    assert_eq!((error.call.as_str(), error.errno()), ("seccomp", Errno::EINVAL));
    let error = load(&vec![libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 }; 70_000], 0).unwrap_err();
    assert_eq!(error.errno(), Errno::EINVAL);
}
