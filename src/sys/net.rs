//! Network interfaces: the ioctls of netdevice(7).

use super::{Called, SysResult, check};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::AsRawFd;

/// Sets `IFF_UP` on the loopback interface of the calling process's network namespace.
pub fn loopback_up() -> SysResult<()> {
    let fd =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).called("socket", "AF_INET")?;
    // SAFETY: an all-zero struct ifreq is valid: a byte array and a union of plain integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, which lives during the call.
    check(
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into(),
        "ioctl SIOCSIFFLAGS",
        "lo",
    )
    .map(drop)
}
