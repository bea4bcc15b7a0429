//! Messages with descriptors over `SOCK_SEQPACKET` unix sockets: sendmsg(2), recvmsg(2), SCM_RIGHTS, SO_PEERCRED.

use super::{Called, SysError, SysResult, check};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen, recv, recvmsg, sendmsg, socket, socketpair,
};
use nix::sys::stat::{Mode, umask};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// The largest message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 4;

/// How long the sockets of a process that was killed may be open in a child of its, which has not executed a program of its own yet.
const INHERITED: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(20);

/// Makes a listening socket, where an error `is_in_use`: that is tried again for a moment, as nobody may listen there any more but
/// a child that is about to close it ([`INHERITED`]).
pub fn when_free<T, E>(is_in_use: impl Fn(&E) -> bool, mut listen: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + INHERITED;
    loop {
        match listen() {
            Err(error) if is_in_use(&error) && Instant::now() < deadline => std::thread::sleep(AGAIN),
            other => return other,
        }
    }
}

/// A connected pair, both close-on-exec.
pub fn pair() -> SysResult<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).called("socketpair", "seqpacket")
}

/// An address for a path of any length: below `/proc/self/fd/<directory>` where sun_path's 108 bytes do not suffice.
fn address(path: &Path) -> SysResult<(UnixAddr, Option<OwnedFd>)> {
    if let Ok(address) = UnixAddr::new(path) {
        return Ok((address, None));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(SysError::new("bind", path.display(), Errno::EINVAL));
    };
    let directory: OwnedFd = std::fs::File::open(parent).called("open", parent.display())?.into();
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok((UnixAddr::new(&short).called("bind", path.display())?, Some(directory)))
}

/// A listening socket at `path`, non-blocking, of mode 0600.
pub fn listen_at(path: &Path) -> SysResult<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).called("socket", "seqpacket")?;
    // Before bind(2), which makes the file with the socket's own mode: it is never there with another (unix(7)).
    let own = Mode::from_bits_truncate(0o600);
    nix::sys::stat::fchmod(&fd, own).called("fchmod", path.display())?;
    let (address, _directory) = address(path)?;
    bind(fd.as_raw_fd(), &address).called("bind", path.display())?;
    listen(&fd, Backlog::MAXALLOWABLE).called("listen", path.display())?;
    Ok(fd)
}

/// A listening stream socket at `path`, non-blocking, whose file is never there with another mode: in between anybody could connect.
/// Takes the process's umask(2) for a moment: for who begins, and makes no other files at the same time.
pub fn listen_stream(path: &Path, mode: Mode) -> SysResult<UnixListener> {
    // std has no errno for it.
    if path.as_os_str().len() >= size_of::<libc::sockaddr_un>() - size_of::<libc::sa_family_t>() {
        return Err(SysError::new("bind", path.display(), Errno::ENAMETOOLONG));
    }
    let before = umask(Mode::from_bits_truncate(0o777) - mode);
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.called("bind", path.display())?;
    listener.set_nonblocking(true).called("ioctl", path.display())?;
    Ok(listener)
}

/// Accepts one connection, non-blocking; `None` when there is none.
pub fn accept(listener: BorrowedFd<'_>) -> SysResult<Option<OwnedFd>> {
    match nix::sys::socket::accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => Ok(None),
        Err(errno) => Err(SysError::new("accept4", "control socket", errno)),
    }
}

/// A connection to the socket at `path`, blocking. `ECONNREFUSED` or `ENOENT`: nobody listens.
pub fn connect_to(path: &Path) -> SysResult<OwnedFd> {
    let fd =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).called("socket", "seqpacket")?;
    let (address, _directory) = address(path)?;
    connect(fd.as_raw_fd(), &address).called("connect", path.display())?;
    Ok(fd)
}

/// The user id of the process at the other end, as the kernel recorded it at connect(2).
pub fn peer_uid(fd: BorrowedFd<'_>) -> SysResult<u32> {
    nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials)
        .called("getsockopt SO_PEERCRED", "control socket")
        .map(|credentials| credentials.uid())
}

/// A pidfd of the process at the other end, as the kernel recorded it at connect(2) or listen(2) (`SO_PEERPIDFD`, Linux 6.5;
/// before that, of the recorded pid).
pub fn peer_pidfd(fd: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut pidfd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `pidfd`; both live during the call.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut pidfd).cast(), &raw mut length)
    };
    let raw = match check(result.into(), "getsockopt SO_PEERPIDFD", "control socket") {
        Ok(_) => libc::c_long::from(pidfd),
        Err(_) => {
            let peer = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials)
                .called("getsockopt SO_PEERCRED", "control socket")?;
            // SAFETY: only integers are passed; the result is a new descriptor or -1.
            check(unsafe { libc::syscall(libc::SYS_pidfd_open, peer.pid(), 0) }, "pidfd_open", peer.pid())?
        }
    };
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// Sends one message. `EAGAIN` on a non-blocking socket whose peer does not read; `EPIPE` when the peer is gone.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> SysResult<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    loop {
        match sendmsg::<UnixAddr>(fd.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return other.called("sendmsg", "socket").map(drop),
        }
    }
}

/// One received message.
#[derive(Debug)]
pub enum Received {
    /// Its bytes and descriptors (close-on-exec).
    Message(Vec<u8>, Vec<OwnedFd>),
    /// The peer has closed its end.
    Closed,
    /// Nothing there yet (non-blocking sockets).
    Nothing,
}

/// Receives one message. A message over [`MAX_MESSAGE`] bytes is an error (`EMSGSIZE`).
pub fn receive(fd: BorrowedFd<'_>) -> SysResult<Received> {
    // Most are short: memory for the longest would be mapped and unmapped for each.
    let length = loop {
        match recv(fd.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(Received::Nothing),
            Err(Errno::ECONNRESET) => return Ok(Received::Closed),
            other => break other.called("recv", "socket")?,
        }
    };
    let mut bytes = vec![0u8; length.min(MAX_MESSAGE)];
    let mut control = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let (length, flags, descriptors) = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match recvmsg::<UnixAddr>(fd.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => return Ok(Received::Nothing),
            Err(Errno::ECONNRESET) => return Ok(Received::Closed),
            Err(errno) => return Err(SysError::new("recvmsg", "socket", errno)),
            Ok(message) => {
                let mut descriptors = Vec::new();
                for part in message.cmsgs().called("recvmsg", "socket")? {
                    if let ControlMessageOwned::ScmRights(list) = part {
                        // SAFETY: the kernel installed these descriptors for us by this call; nobody else owns them.
                        descriptors.extend(list.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                break (message.bytes, message.flags, descriptors);
            }
        }
    };
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(SysError::new("recvmsg", "socket", Errno::EMSGSIZE));
    }
    if length == 0 {
        return Ok(Received::Closed);
    }
    bytes.truncate(length);
    Ok(Received::Message(bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_socket_that_a_child_still_has_is_waited_for_and_not_one_that_is_served() {
        use std::net::{SocketAddr, TcpListener};
        let listen = |address: SocketAddr| {
            let is_in_use = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
            when_free(is_in_use, || TcpListener::bind(address))
        };
        let served = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = served.local_addr().unwrap();
        let begin = Instant::now();
        assert_eq!(listen(address).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        assert!(begin.elapsed() >= INHERITED);
        let child = std::thread::spawn(move || {
            std::thread::sleep(5 * AGAIN);
            drop(served);
        });
        assert_eq!(listen(address).unwrap().local_addr().unwrap(), address);
        child.join().unwrap();
    }

    #[test]
    fn messages_keep_their_bounds_and_carry_descriptors() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"one", &[]).unwrap();
        send(a.as_fd(), b"two", &[a.as_fd(), b.as_fd()]).unwrap();
        drop(a);
        let Received::Message(bytes, descriptors) = receive(b.as_fd()).unwrap() else { panic!() };
        assert_eq!((&bytes[..], descriptors.len()), (&b"one"[..], 0));
        let Received::Message(bytes, descriptors) = receive(b.as_fd()).unwrap() else { panic!() };
        assert_eq!((&bytes[..], descriptors.len()), (&b"two"[..], 2));
        drop(descriptors);
        assert!(matches!(receive(b.as_fd()).unwrap(), Received::Closed));
    }

    #[test]
    fn a_socket_path_may_be_longer_than_sun_path() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let listener = listen_at(&deep.join("s")).unwrap();
        assert!(accept(listener.as_fd()).unwrap().is_none());
        let _client = connect_to(&deep.join("s")).unwrap();
        let server = accept(listener.as_fd()).unwrap().unwrap();
        assert_eq!(peer_uid(server.as_fd()).unwrap(), nix::unistd::geteuid().as_raw());
    }
}
