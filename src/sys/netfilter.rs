//! The socket of nfnetlink (netlink(7), `NETLINK_NETFILTER`).

use super::{Called, SysResult, check};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// A socket to netfilter in the calling thread's network namespace. An error repeats only the header of the message that it is
/// about (`NETLINK_CAP_ACK`), so answers stay short whatever is sent.
pub fn open() -> SysResult<OwnedFd> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
        .called("socket", "NETLINK_NETFILTER")?;
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int, which lives during the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_CAP_ACK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result.into(), "setsockopt", "NETLINK_CAP_ACK")?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).called("bind", "NETLINK_NETFILTER")?;
    Ok(fd)
}

/// Sends one datagram to the kernel, whatever its size: `SO_SNDBUFFORCE` first, if the socket would not take it.
pub fn send(fd: BorrowedFd<'_>, datagram: &[u8]) -> SysResult<()> {
    // What netlink_sendmsg() keeps of the buffer for itself, generously.
    let needed = datagram.len() + 4096;
    if setsockopt(&fd, sockopt::SndBufForce, &needed).is_err() {
        // Without CAP_NET_ADMIN in the first user namespace; net.core.wmem_max is the limit then, and sendto(2) tells.
        setsockopt(&fd, sockopt::SndBuf, &needed).called("setsockopt SO_SNDBUF", needed)?;
    }
    loop {
        match sendto(fd.as_raw_fd(), datagram, &NetlinkAddr::new(0, 0), MsgFlags::empty()) {
            Err(nix::errno::Errno::EINTR) => {}
            other => {
                return other.called("sendto", format_args!("NETLINK_NETFILTER, {} bytes", datagram.len())).map(drop);
            }
        }
    }
}

/// Whether to wait for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until there is one.
    ForOne,
    /// Not at all: the kernel answers before sendto(2) returns.
    No,
}

/// Receives one datagram; `None` when there is none and none is waited for. One that is over 256 KiB is `EMSGSIZE`.
pub fn receive(fd: BorrowedFd<'_>, wait: Wait) -> SysResult<Option<Vec<u8>>> {
    let mut bytes = vec![0u8; 256 * 1024];
    let flags = MsgFlags::MSG_TRUNC | if wait == Wait::No { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
    loop {
        match recv(fd.as_raw_fd(), &mut bytes, flags) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) if wait == Wait::No => return Ok(None),
            Ok(length) if length > bytes.len() => {
                return Err(super::SysError::new("recv", "NETLINK_NETFILTER", nix::errno::Errno::EMSGSIZE));
            }
            other => {
                bytes.truncate(other.called("recv", "NETLINK_NETFILTER")?);
                return Ok(Some(bytes));
            }
        }
    }
}
