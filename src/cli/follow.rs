//! Watching a pod from outside: its supervisor says when the status file is new.

use super::terminal::Interrupts;
use crate::control::{Connection, Reply, Request};
use crate::error::{Kind, failure};
use crate::store::{Pod, Report};
use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A connection that tells of changes.
pub(super) struct Watch<'a> {
    pod: &'a Pod,
    connection: Connection,
}

/// What a wait came to.
pub(super) enum Waited<T> {
    /// What was waited for.
    Found(T),
    /// The supervisor is gone, and it did not come before.
    Gone,
    /// Time is up.
    TimedOut,
}

impl<'a> Watch<'a> {
    /// Connects. An error of kind `NotReady` if there is no supervisor.
    pub(super) fn open(pod: &'a Pod) -> Result<Watch<'a>> {
        Ok(Watch { pod, connection: Connection::open(&pod.dirs.socket(), &Request::Watch, &[])? })
    }

    /// Takes in one message; whether the supervisor is still there.
    pub(super) fn next(&self) -> Result<bool> {
        Ok(matches!(self.connection.reply()?, Some((Reply::Changed, _))))
    }

    /// Waits until `find` finds something in the pod's report.
    pub(super) fn until<T>(
        &self,
        timeout: Option<Duration>,
        find: impl FnMut(&Report) -> Result<Option<T>>,
    ) -> Result<Waited<T>> {
        self.wait(timeout, None, find)
    }

    /// The same; an interrupt is an error of kind `Interrupted`.
    pub(super) fn until_or_interrupted<T>(
        &self,
        timeout: Option<Duration>,
        interrupts: &Interrupts,
        find: impl FnMut(&Report) -> Result<Option<T>>,
    ) -> Result<Waited<T>> {
        self.wait(timeout, Some(interrupts), find)
    }

    fn wait<T>(
        &self,
        timeout: Option<Duration>,
        interrupts: Option<&Interrupts>,
        mut find: impl FnMut(&Report) -> Result<Option<T>>,
    ) -> Result<Waited<T>> {
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            let report = self.pod.report()?;
            if let Some(found) = report.as_ref().map(&mut find).transpose()?.flatten() {
                return Ok(Waited::Found(found));
            }
            if !self.readable_by(deadline, interrupts)? {
                return Ok(Waited::TimedOut);
            }
            if !self.next()? {
                let last = self.pod.report()?;
                return Ok(match last.as_ref().map(&mut find).transpose()?.flatten() {
                    Some(found) => Waited::Found(found),
                    None => Waited::Gone,
                });
            }
        }
    }

    fn readable_by(&self, deadline: Option<Instant>, interrupts: Option<&Interrupts>) -> Result<bool> {
        loop {
            if interrupts.map(Interrupts::next).transpose()?.flatten().is_some() {
                return Err(failure(Kind::Interrupted, "interrupted"));
            }
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    // Rounded up: a wait that ends early would spin.
                    PollTimeout::try_from(left.as_millis() as u64 + 1).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds = vec![PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            fds.extend(interrupts.map(|i| PollFd::new(i.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(0) if deadline.is_some_and(|at| at <= Instant::now()) => return Ok(false),
                Ok(0) => {}
                other => {
                    crate::sys::Called::called(other, "poll", "control socket")?;
                    if fds[0].any() == Some(true) {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Waits until the supervisor has ended; whether it has, in the given time.
    pub(super) fn until_gone(&self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            if !self.readable_by(deadline, None)? {
                return Ok(false);
            }
            if !self.next()? {
                return Ok(true);
            }
        }
    }
}

impl AsFd for Watch<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
