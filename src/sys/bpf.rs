//! bpf(2), as far as a device filter on a version 2 cgroup needs it.
//!
//! Numbers and layouts are those of `include/uapi/linux/bpf.h`, which are fixed. The program itself is made by
//! `cgroups::device_program`.

use super::{SysError, SysResult, check};
use nix::errno::Errno;
use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_ATTACH: c_int = 8;
const BPF_OBJ_GET_INFO_BY_FD: c_int = 15;
const BPF_PROG_QUERY: c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

/// One instruction, laid out as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfInsn {
    /// Operation, source and class.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four (on little endian machines).
    pub regs: u8,
    /// Jump distance or memory offset.
    pub off: i16,
    /// Immediate operand.
    pub imm: i32,
}

/// `union bpf_attr` as BPF_PROG_LOAD reads it.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `union bpf_attr` as BPF_PROG_ATTACH reads it.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// `union bpf_attr` as BPF_PROG_QUERY reads and writes it.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// `union bpf_attr` as BPF_OBJ_GET_INFO_BY_FD reads it.
#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The first fields of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgInfo {
    prog_type: u32,
    id: u32,
}

fn bpf<T>(command: c_int, attr: &mut T, target: &str) -> SysResult<libc::c_long> {
    let name = match command {
        BPF_PROG_LOAD => "bpf BPF_PROG_LOAD",
        BPF_PROG_ATTACH => "bpf BPF_PROG_ATTACH",
        BPF_PROG_QUERY => "bpf BPF_PROG_QUERY",
        _ => "bpf BPF_OBJ_GET_INFO_BY_FD",
    };
    // SAFETY: `attr` is a live `#[repr(C)]` value of exactly the size told; each caller keeps alive and sized as told what
    // the pointers in it point to, until the call is over.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    check(result, name, target)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// BPF_PROG_LOAD of a program of type BPF_PROG_TYPE_CGROUP_DEVICE (Linux 4.15).
///
/// # Errors
/// EPERM without CAP_BPF or CAP_SYS_ADMIN, EINVAL or EACCES if the verifier refuses it.
pub fn load_device_program(program: &[BpfInsn]) -> SysResult<OwnedFd> {
    let target = format!("device filter of {} instructions", program.len());
    let Ok(insn_cnt) = u32::try_from(program.len()) else {
        return Err(SysError::new("bpf BPF_PROG_LOAD", target, Errno::E2BIG));
    };
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttr::default()
    };
    attr.prog_name[..15].copy_from_slice(b"podshim_devices");
    let fd = bpf(BPF_PROG_LOAD, &mut attr, &target)?;
    // SAFETY: the call succeeded, so it returned a new descriptor that nobody else owns. It is close-on-exec by itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// BPF_PROG_ATTACH of a device program to a cgroup, beside those that are there: all must allow an access. It stays
/// attached when its descriptor is closed, as long as the cgroup lives.
///
/// # Errors
/// EPERM if an ancestor has one attached that does not allow others, EINVAL without CONFIG_CGROUP_BPF.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> SysResult<()> {
    let mut attr = AttachAttr {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &mut attr, "device filter to cgroup").map(drop)
}

/// BPF_PROG_QUERY: the ids of the device programs attached to a cgroup itself, at most 64.
///
/// # Errors
/// ENOSPC if there are more.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> SysResult<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    let mut attr = QueryAttr {
        target_fd: raw(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..QueryAttr::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr, "device filters of cgroup")?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// BPF_OBJ_GET_INFO_BY_FD: the id of a loaded program.
///
/// # Errors
/// As the call's.
pub fn program_id(program: BorrowedFd<'_>) -> SysResult<u32> {
    let mut info = ProgInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: raw(program),
        info_len: size_of::<ProgInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr, "device filter")?;
    Ok(info.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(size_of::<BpfInsn>(), 8);
        assert_eq!(size_of::<LoadAttr>(), 64);
        assert_eq!(std::mem::offset_of!(LoadAttr, log_buf), 32);
        assert_eq!(std::mem::offset_of!(LoadAttr, prog_name), 48);
        assert_eq!(std::mem::offset_of!(QueryAttr, prog_cnt), 24);
        assert_eq!(size_of::<InfoAttr>(), 16);
    }
}
