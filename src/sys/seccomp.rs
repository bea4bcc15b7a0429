//! seccomp(2).

use super::record::call;
use super::{SysError, SysResult, check};
use nix::errno::Errno;

/// Puts `program` upon the calling thread for good: `seccomp(SECCOMP_SET_MODE_FILTER, flags, program)`, seccomp(2).
///
/// The caller holds CAP_SYS_ADMIN in its user namespace or has set no_new_privs. It allocates nothing unless it fails, so a
/// container's init may call it between clone and execve.
///
/// # Errors
/// EACCES without the privilege, EINVAL for a program that the kernel refuses (or longer than 65535 instructions) or an
/// unknown flag, ENOMEM; with SECCOMP_FILTER_FLAG_TSYNC ESRCH, whose target names the thread that could not follow.
pub fn load(program: &[libc::sock_filter], flags: u32) -> SysResult<()> {
    let target = "SECCOMP_SET_MODE_FILTER";
    let len = u16::try_from(program.len()).map_err(|_| SysError::new("seccomp", target, Errno::EINVAL))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let shown = || format!("SECCOMP_SET_MODE_FILTER, {flags:#x}, {{len={len}}}");
    let load = || {
        // SAFETY: the kernel copies `len` instructions from `filter`, which are `program`'s own and outlive the call; it does not
        // write to them, so the cast from const is not used.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags as libc::c_uint, &raw const program)
        };
        check(result, "seccomp", target)
    };
    match call("seccomp", shown, load)? {
        0 => Ok(()),
        thread => Err(SysError::new("seccomp", format_args!("{target}: thread {thread}"), Errno::ESRCH)),
    }
}
