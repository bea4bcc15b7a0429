//! Watching a pod from outside: its supervisor says when the status file is new.

use super::ps::now;
use super::terminal::Interrupts;
use crate::control::{Connection, Reply, Request};
use crate::error::{Kind, failure, kind_of};
use crate::store::{Pod, Report};
use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A connection that tells whether the supervisor is there, and of changes if that is what it was asked for.
pub(super) struct Watch<'a> {
    pod: &'a Pod,
    pub(super) connection: Connection,
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

/// How long a supervisor that has the pod's lock may take until it listens.
pub(super) const LISTENS: Duration = Duration::from_secs(10);
/// How long one may take until it has the lock.
const STARTS: Duration = Duration::from_secs(2);

/// Whether a pod to whose supervisor there is no connection is about to have one.
fn is_to_come(pod: &Pod, waited: Duration) -> Result<bool> {
    let report = pod.report()?;
    if report.as_ref().is_some_and(|report| report.over) {
        return Ok(false);
    }
    if pod.is_supervised() {
        return Ok(waited < LISTENS);
    }
    let age = now().0.saturating_sub(pod.record.created.0);
    Ok(report.is_none() && waited < STARTS && age <= STARTS.as_secs() as i64)
}

impl<'a> Watch<'a> {
    /// Connects. An error of kind `NotReady` if there is no supervisor; one that has just been started is waited for.
    pub(super) fn open(pod: &'a Pod) -> Result<Watch<'a>> {
        Watch::asking(pod, &Request::Watch)
    }

    /// The same, of one who asks for something else and waits for the supervisor's end.
    pub(super) fn asking(pod: &'a Pod, request: &Request) -> Result<Watch<'a>> {
        let begin = Instant::now();
        loop {
            match Connection::open(&pod.dirs.socket(), request, &[]) {
                Err(error) if kind_of(&error) == Some(Kind::NotReady) && is_to_come(pod, begin.elapsed())? => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => return Ok(Watch { pod, connection: other? }),
            }
        }
    }

    /// Takes in one message; whether the supervisor is still there.
    pub(super) fn next(&self) -> Result<bool> {
        Ok(matches!(self.connection.reply()?, Some((Reply::Changed, _))))
    }

    /// The same; one that could not tell of a change has hung up, and is asked again.
    pub(super) fn goes_on(&mut self) -> Result<bool> {
        if self.next()? {
            return Ok(true);
        }
        match Watch::open(self.pod) {
            Err(error) if kind_of(&error) == Some(Kind::NotReady) => Ok(false),
            again => {
                *self = again?;
                Ok(true)
            }
        }
    }

    /// Waits until `find` finds something in the pod's report.
    pub(super) fn until<T>(
        &mut self,
        timeout: Option<Duration>,
        find: impl FnMut(&Report) -> Result<Option<T>>,
    ) -> Result<Waited<T>> {
        self.wait(timeout, None, find)
    }

    /// The same; an interrupt is an error of kind `Interrupted`.
    pub(super) fn until_or_interrupted<T>(
        &mut self,
        timeout: Option<Duration>,
        interrupts: &Interrupts,
        find: impl FnMut(&Report) -> Result<Option<T>>,
    ) -> Result<Waited<T>> {
        self.wait(timeout, Some(interrupts), find)
    }

    fn wait<T>(
        &mut self,
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
            if !self.goes_on()? {
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
            if self.connection.reply()?.is_none() {
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
