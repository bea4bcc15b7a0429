//! Network interfaces: the ioctls of netdevice(7). Doing something in another network namespace. TCP sockets.

use super::record::call;
use super::{Called, SysResult, check};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, getpeername, getsockname, socket,
};
use nix::sys::stat::Mode;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

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
    let shown =
        || format!("{}<socket>, SIOCSIFFLAGS, {{ifr_name=\"lo\", ifr_flags=IFF_UP|IFF_RUNNING}}", fd.as_raw_fd());
    call("ioctl", shown, || {
        // SAFETY: SIOCSIFFLAGS reads a struct ifreq, which lives during the call.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
        check(result.into(), "ioctl SIOCSIFFLAGS", "lo").map(drop)
    })
}

/// Does something in another network namespace: the calling thread enters it, works and goes back (setns(2) is about one
/// thread). If it cannot go back the process is aborted, as whatever it did next would be done in a network that is not its own.
///
/// A socket belongs for good to the namespace it was made in, and `/proc/sys/net` shows the namespace of whoever looks. A
/// namespace of another user namespace below the caller's may be entered too (`CAP_SYS_ADMIN` reaches down).
pub fn in_namespace<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T) -> SysResult<T> {
    /// Goes back when it is dropped, so also if the work panics.
    struct Way(OwnedFd);
    impl Drop for Way {
        fn drop(&mut self) {
            if let Err(errno) = setns(&self.0, CloneFlags::CLONE_NEWNET) {
                let _ = writeln!(std::io::stderr(), "podshim: setns, back to its own network: {errno}");
                std::process::abort();
            }
        }
    }
    let path = "/proc/thread-self/ns/net";
    let own = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).called("open", path)?;
    setns(namespace, CloneFlags::CLONE_NEWNET).called("setns", "the pod's network")?;
    let back = Way(own);
    let done = work();
    drop(back);
    Ok(done)
}

/// A non-blocking TCP socket for connecting to `address`, made in `namespace` (see [`in_namespace`]) or in the caller's own.
pub fn tcp_socket(address: SocketAddr, namespace: Option<BorrowedFd<'_>>) -> SysResult<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let make = || socket(family, SockType::Stream, flags, None).called("socket", address);
    match namespace {
        None => make(),
        Some(namespace) => in_namespace(namespace, make)?,
    }
}

/// connect(2) of a non-blocking socket: `EINPROGRESS` while the connection is being made.
pub fn connect(socket: BorrowedFd<'_>, address: SocketAddr) -> nix::Result<()> {
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        // It goes on nevertheless.
        Err(Errno::EINTR) => Err(Errno::EINPROGRESS),
        other => other,
    }
}

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpEnd {
    /// getsockname(2)
    Own,
    /// getpeername(2)
    Peer,
}

/// The address of one end; `None` if there is none, as of a peer that is not connected (`ENOTCONN`).
pub fn address_of(socket: BorrowedFd<'_>, end: TcpEnd) -> Option<SocketAddr> {
    let address: SockaddrStorage = match end {
        TcpEnd::Own => getsockname(socket.as_raw_fd()).ok()?,
        TcpEnd::Peer => getpeername(socket.as_raw_fd()).ok()?,
    };
    match address.family()? {
        AddressFamily::Inet => address.as_sockaddr_in().map(|a| SocketAddr::from((a.ip(), a.port()))),
        AddressFamily::Inet6 => address.as_sockaddr_in6().map(|a| SocketAddr::from((a.ip(), a.port()))),
        _ => None,
    }
}
