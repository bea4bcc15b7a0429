//! The event loop's epoll(7): descriptors, each with what it is for.

use crate::lifecycle::Task;
use crate::probes::Interest;
use crate::sys::{Called, SysResult, heap, memory};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Standard output or standard error of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
    /// Both, of a terminal.
    Terminal,
}

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Timer,
    Listener,
    /// A client's connection.
    Client(u64),
    /// The hand-off of a container that starts.
    HandOff(usize),
    /// A container's pidfd.
    Exit(usize),
    /// The socket where a container's OCI runtime sends its terminal.
    Console(usize),
    /// The pidfd of the OCI runtime that starts a container.
    ExternalStart(usize),
    /// A container's output.
    Output(usize, Output),
    /// The answer of a pull.
    Pull(usize),
    /// The hand-off of an exec.
    ExecHandOff(u64),
    /// An exec's pidfd.
    ExecExit(u64),
    /// The socket of a probe or hook, or the output of its process.
    Task(usize, Task),
    /// The pidfd of the pod's pid 1.
    Reaper,
    /// The answer of the child that does something about the network.
    Network,
    /// The name server's pidfd.
    NameServer,
    /// The answer of the child that removes what is discarded.
    Discarding,
    /// The timer of what measures disk space.
    Storage,
    /// The answer of what measures it.
    StorageAnswer,
}

/// A registration; numbers are never used twice, so an event that was already fetched for a source that is gone is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u64);

/// After so long without an event, in milliseconds, there may be none for hours: memory is given back.
const CALM: u16 = 500;

fn flags(interest: Interest) -> EpollFlags {
    match interest {
        Interest::Read => EpollFlags::EPOLLIN,
        Interest::Write => EpollFlags::EPOLLOUT,
    }
}

pub(super) struct Poll {
    epoll: Epoll,
    sources: BTreeMap<u64, Source>,
    next: u64,
}

impl Poll {
    pub(super) fn new() -> SysResult<Poll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).called("epoll_create1", "")?;
        Ok(Poll { epoll, sources: BTreeMap::new(), next: 0 })
    }

    /// Watches a descriptor for input until [`Poll::forget`].
    pub(super) fn watch(&mut self, fd: impl AsFd, source: Source) -> SysResult<Token> {
        self.watch_for(fd, source, Interest::Read)
    }

    /// Watches a descriptor for input or for room for output until [`Poll::forget`].
    pub(super) fn watch_for(&mut self, fd: impl AsFd, source: Source, interest: Interest) -> SysResult<Token> {
        let token = self.next;
        self.next += 1;
        self.epoll.add(fd, EpollEvent::new(flags(interest), token)).called("epoll_ctl", format_args!("{source:?}"))?;
        self.sources.insert(token, source);
        Ok(Token(token))
    }

    /// Watches a descriptor that is watched already for something else.
    pub(super) fn change(&self, token: Token, fd: impl AsFd, interest: Interest) -> SysResult<()> {
        self.epoll
            .modify(fd, &mut EpollEvent::new(flags(interest), token.0))
            .called("epoll_ctl", format_args!("{:?}", self.sources.get(&token.0)))
    }

    /// Stops watching, before the descriptor is closed: a child that has not reached execve(2) holds a copy of it, which
    /// would keep the registration alive.
    pub(super) fn forget(&mut self, token: Token, fd: BorrowedFd<'_>) {
        self.sources.remove(&token.0);
        // Only fails for a descriptor that is not registered, which is what is wanted.
        let _ = self.epoll.delete(fd);
    }

    /// Waits for events, at most eight at once, with `patience` not longer than that. Before a long wait memory is given back, the
    /// stack's, the heap's and what `release` knows of.
    pub(super) fn wait(&self, patience: Option<Duration>, mut release: impl FnMut()) -> SysResult<Vec<Source>> {
        let mut events = [EpollEvent::empty(); 8];
        // Not a little too early: somebody looks at a clock then.
        let patience = patience.map(|patience| u16::try_from(patience.as_millis() + 1).unwrap_or(u16::MAX));
        let mut timeout = EpollTimeout::from(patience.unwrap_or(CALM));
        loop {
            match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => {}
                Ok(0) if patience.is_some() => return Ok(Vec::new()),
                Ok(0) => {
                    release();
                    memory::release_stack();
                    heap::release();
                    timeout = EpollTimeout::NONE;
                }
                other => {
                    let count = other.called("epoll_wait", "")?;
                    return Ok(events[..count].iter().filter_map(|e| self.sources.get(&e.data()).copied()).collect());
                }
            }
        }
    }
}
