//! What a process may do (credentials(7), capabilities(7)): capability sets, user and group ids, `no_new_privs`.

use super::process::prctl;
use super::record::call;
use super::{SysError, SysResult, check};
use nix::errno::Errno;

/// `PR_SET_NO_NEW_PRIVS`: execve(2) grants no privileges any more; cannot be undone.
pub fn set_no_new_privs() -> SysResult<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")
}

/// `PR_SET_KEEPCAPS`: permitted capabilities survive the next change of user id.
pub fn set_keep_capabilities() -> SysResult<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, "PR_SET_KEEPCAPS")
}

/// `PR_CAPBSET_DROP` of every capability but those of `keep` (bit n for capability n). The kernel is not believed about which it
/// knows: what it still has afterwards is an error.
pub fn limit_bounding_capabilities(keep: u64) -> SysResult<()> {
    for number in (0..64_u32).filter(|number| keep & (1 << number) == 0) {
        match prctl(libc::PR_CAPBSET_DROP, number.into(), format_args!("PR_CAPBSET_DROP {number}")) {
            // It does not know this one, nor those above it.
            Err(error) if error.errno() == Errno::EINVAL => break,
            other => other?,
        }
    }
    match bounding_capabilities() & !keep {
        0 => Ok(()),
        left => Err(SysError::new("prctl", format!("PR_CAPBSET_DROP: {left:#x} are still there"), Errno::EINVAL)),
    }
}

/// `PR_CAP_AMBIENT_CLEAR_ALL`.
pub fn clear_ambient_capabilities() -> SysResult<()> {
    const CLEAR_ALL: libc::c_ulong = 4;
    prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, "PR_CAP_AMBIENT CLEAR_ALL")
}

/// Capability sets as bit masks, bit n for capability number n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CapabilityMasks {
    /// Effective.
    pub effective: u64,
    /// Permitted.
    pub permitted: u64,
    /// Inheritable.
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// capset(2) of the calling thread, version 3.
pub fn set_capabilities(masks: CapabilityMasks) -> SysResult<()> {
    let header = CapHeader { version: 0x2008_0522, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (masks.effective >> shift) as u32,
        permitted: (masks.permitted >> shift) as u32,
        inheritable: (masks.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    let CapabilityMasks { effective, permitted, inheritable } = masks;
    let shown = || format!("effective={effective:#x}, permitted={permitted:#x}, inheritable={inheritable:#x}");
    call("capset", shown, || {
        // SAFETY: header and the two data elements are what version 3 of capset(2) reads; both live during the call.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
        check(result, "capset", format_args!("permitted {permitted:#x}")).map(drop)
    })
}

/// The capabilities in the caller's bounding set, bit n for capability n: what a child can be given at most.
pub fn bounding_capabilities() -> u64 {
    (0..64_u32)
        // SAFETY: only integers are passed; the call changes nothing.
        .map(|n| unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(n), 0, 0, 0) })
        // Above the last one that the kernel knows.
        .take_while(|is_there| *is_there >= 0)
        .enumerate()
        .fold(0, |bits, (n, is_there)| bits | u64::from(is_there == 1) << n)
}

/// setgroups, setresgid, setresuid(2) by raw calls: of the only thread, all ids at once.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> SysResult<()> {
    call(
        "setgroups",
        || format!("{}, {groups:?}", groups.len()),
        || {
            // SAFETY: `groups` is a valid array of the length passed, alive during the call.
            let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
            check(result, "setgroups", format_args!("{groups:?}"))
        },
    )?;
    call(
        "setresgid",
        || format!("{gid}, {gid}, {gid}"),
        || {
            // SAFETY: only integers are passed.
            check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }, "setresgid", gid)
        },
    )?;
    call(
        "setresuid",
        || format!("{uid}, {uid}, {uid}"),
        || {
            // SAFETY: only integers are passed.
            check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, "setresuid", uid).map(drop)
        },
    )
}
