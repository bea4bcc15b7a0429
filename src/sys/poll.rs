//! Descriptors in tokio's event loop: epoll(7).

use super::{Called, SysResult};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells when there is something to read from a non-blocking descriptor, which stays with the caller to be read from: it is about
/// a duplicate. To be called in a tokio runtime.
pub fn readable(descriptor: BorrowedFd<'_>) -> SysResult<AsyncFd<OwnedFd>> {
    register(descriptor.try_clone_to_owned().called("fcntl", "F_DUPFD_CLOEXEC")?, Interest::READABLE)
}

/// Tells when there is something to read from a non-blocking descriptor, and when there is room to write to it. To be called in a
/// tokio runtime.
pub fn both_ways(descriptor: OwnedFd) -> SysResult<AsyncFd<OwnedFd>> {
    register(descriptor, Interest::READABLE | Interest::WRITABLE)
}

fn register(own: OwnedFd, interest: Interest) -> SysResult<AsyncFd<OwnedFd>> {
    // SAFETY: the runtime is to be given a descriptor which stays open and the same as long as it has it; it owns this one.
    let registered = unsafe { AsyncFd::register_with_interest(own, interest) };
    registered.map_err(std::io::Error::from).called("epoll_ctl", "EPOLL_CTL_ADD")
}

/// Whether there is something to read now: poll(2) without waiting.
pub fn has_more(descriptor: BorrowedFd<'_>) -> SysResult<bool> {
    has_more_within(descriptor, Duration::ZERO)
}

/// Waits until there is something to read, but not longer: poll(2). A signal ends that, too.
pub fn has_more_within(descriptor: BorrowedFd<'_>, patience: Duration) -> SysResult<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(descriptor, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut fds, timeout).called("poll", "")? > 0)
}
