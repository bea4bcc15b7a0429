//! The system calls of each ABI: their numbers by their names.

use oci_spec::runtime::Arch;

/// The calls of an architecture in the order of their names: to try one after the other took longer than all else that is
/// done for a filter.
macro_rules! by_name {
    ($call:ty) => {{
        const SORTED: [$call; <$call>::count()] = {
            let mut sorted = [<$call>::first(); <$call>::count()];
            let (mut number, mut count) = (0, 0);
            while count < sorted.len() {
                if let Some(call) = <$call>::new(number) {
                    let mut at = count;
                    while at > 0 && is_before(call.name(), sorted[at - 1].name()) {
                        sorted[at] = sorted[at - 1];
                        at -= 1;
                    }
                    sorted[at] = call;
                    count += 1;
                }
                number += 1;
            }
            sorted
        };
        |name: &str| SORTED.binary_search_by(|call| call.name().cmp(name)).ok().map(|at| SORTED[at] as u32)
    }};
}

/// What `<` is for strings, where a constant is made.
const fn is_before(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() {
        if one[at] != other[at] {
            return one[at] < other[at];
        }
        at += 1;
    }
    one.len() < other.len()
}

/// One kind of system call that this kernel may see.
pub(super) struct Abi {
    pub(super) arch: Arch,
    /// AUDIT_ARCH_*, as in `seccomp_data.arch`.
    pub(super) audit: u32,
    /// The number of the call whose number is 0.
    pub(super) base: u32,
    pub(super) width: Width,
    pub(super) number: fn(&str) -> Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Bits32,
    Bits64,
}

/// Bit 30 of a call number makes it an x32 call.
pub(super) const X32_BIT: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
pub(super) const ABIS: &[Abi] = &[
    Abi { arch: Arch::ScmpArchX86_64, audit: 0xc000_003e, base: 0, width: Width::Bits64, number: x86_64 },
    Abi { arch: Arch::ScmpArchX32, audit: 0xc000_003e, base: X32_BIT, width: Width::Bits32, number: x32 },
    Abi { arch: Arch::ScmpArchX86, audit: 0x4000_0003, base: 0, width: Width::Bits32, number: i386 },
];
#[cfg(target_arch = "aarch64")]
pub(super) const ABIS: &[Abi] = &[
    Abi { arch: Arch::ScmpArchAarch64, audit: 0xc000_00b7, base: 0, width: Width::Bits64, number: aarch64 },
    Abi { arch: Arch::ScmpArchArm, audit: 0x4000_0028, base: 0, width: Width::Bits32, number: arm },
];

#[cfg(target_arch = "x86_64")]
fn x86_64(name: &str) -> Option<u32> {
    by_name!(syscalls::x86_64::Sysno)(name)
}

#[cfg(target_arch = "x86_64")]
fn i386(name: &str) -> Option<u32> {
    by_name!(syscalls::x86::Sysno)(name)
}

/// x32 shares x86_64's numbers but for the calls whose structures hold pointers or longs, and lacks the obsolete ones
/// (arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
fn x32(name: &str) -> Option<u32> {
    const OWN: [&str; 36] = [
        "rt_sigaction",
        "rt_sigreturn",
        "ioctl",
        "readv",
        "writev",
        "recvfrom",
        "sendmsg",
        "recvmsg",
        "execve",
        "ptrace",
        "rt_sigpending",
        "rt_sigtimedwait",
        "rt_sigqueueinfo",
        "sigaltstack",
        "timer_create",
        "mq_notify",
        "kexec_load",
        "waitid",
        "set_robust_list",
        "get_robust_list",
        "vmsplice",
        "move_pages",
        "preadv",
        "pwritev",
        "rt_tgsigqueueinfo",
        "recvmmsg",
        "sendmmsg",
        "process_vm_readv",
        "process_vm_writev",
        "setsockopt",
        "getsockopt",
        "io_setup",
        "io_submit",
        "execveat",
        "preadv2",
        "pwritev2",
    ];
    const LACKS: [&str; 14] = [
        "uselib",
        "_sysctl",
        "create_module",
        "get_kernel_syms",
        "query_module",
        "nfsservctl",
        "set_thread_area",
        "get_thread_area",
        "epoll_ctl_old",
        "epoll_wait_old",
        "vserver",
        "uretprobe",
        "uprobe",
        "map_shadow_stack",
    ];
    match OWN.iter().position(|own| *own == name) {
        Some(index) => Some(512 + index as u32),
        None if LACKS.contains(&name) => None,
        None => x86_64(name),
    }
}

#[cfg(target_arch = "aarch64")]
fn aarch64(name: &str) -> Option<u32> {
    by_name!(syscalls::aarch64::Sysno)(name)
}

/// arm's own calls (arch/arm/include/uapi/asm/unistd.h) and libseccomp's two names for what the kernel calls otherwise.
#[cfg(target_arch = "aarch64")]
fn arm(name: &str) -> Option<u32> {
    match name {
        "breakpoint" => Some(0xf_0001),
        "cacheflush" => Some(0xf_0002),
        "usr26" => Some(0xf_0003),
        "usr32" => Some(0xf_0004),
        "set_tls" => Some(0xf_0005),
        "get_tls" => Some(0xf_0006),
        "sync_file_range2" | "arm_sync_file_range" => Some(341),
        _ => by_name!(syscalls::arm::Sysno)(name),
    }
}

/// Numbers from here up are an architecture's private ones and say nothing about how new a profile is.
pub(super) const PRIVATE_NUMBERS: u32 = 0xf_0000;

/// i386's multiplexers: the one that reaches a call, the mask of its first argument that counts, and the call's value there
/// (uapi/linux/net.h; ipc.h, which keeps a version in the upper half).
pub(super) fn multiplexed(name: &str) -> Option<(&'static str, u64, u64)> {
    const SOCKET: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    if let Some(index) = SOCKET.iter().position(|call| *call == name) {
        return Some(("socketcall", 0xffff_ffff, index as u64 + 1));
    }
    IPC.iter().find(|(call, _)| *call == name).map(|(_, value)| ("ipc", 0xffff, *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_call_is_found_by_its_name_and_nothing_else() {
        let mut count = 0;
        for number in 0..=600 {
            let found = syscalls::x86_64::Sysno::new(number);
            let of_i386 = syscalls::x86::Sysno::new(number);
            found.iter().for_each(|call| assert_eq!(x86_64(call.name()), Some(number as u32)));
            of_i386.iter().for_each(|call| assert_eq!(i386(call.name()), Some(number as u32)));
            count += usize::from(found.is_some()) + usize::from(of_i386.is_some());
        }
        assert_eq!(count, syscalls::x86_64::Sysno::count() + syscalls::x86::Sysno::count());
        for name in ["", "a", "rea", "read_", "zzz", "READ"] {
            assert_eq!((x86_64(name), i386(name)), (None, None), "{name}");
        }
    }
}
