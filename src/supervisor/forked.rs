//! A child of the supervisor's own, for what takes time or memory: it does one thing and answers in one message, while the event
//! loop goes on.

use super::hand_off;
use crate::sys::{Called, poll, process, socket};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A child that works.
pub(super) struct Forked<T> {
    child: process::Child,
    socket: OwnedFd,
    purpose: &'static str,
    answer: PhantomData<T>,
}

/// Becomes readable when the child has answered, or ended.
impl<T> AsFd for Forked<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<T: Serialize + DeserializeOwned> Forked<T> {
    /// Forks a child; `purpose` is what for, in errors. Nothing of the supervisor's may be touched by `work`, and nothing of it is
    /// held open: not its sockets, not its containers' output.
    pub(super) fn begin(purpose: &'static str, work: impl FnOnce() -> Result<T>) -> Result<Forked<T>> {
        let (ours, theirs) = socket::pair()?;
        match process::clone3(0, None).with_context(|| format!("forking {purpose}"))? {
            Some(child) => {
                // Its work is what is waited for: where it is to run on this CPU, it goes first.
                std::thread::yield_now();
                Ok(Forked { child, socket: ours, purpose, answer: PhantomData })
            }
            None => {
                drop(ours);
                answer(&theirs, work)
            }
        }
    }

    /// Waits until it has answered or ended, but not longer.
    pub(super) fn answers_within(&self, patience: Duration) -> bool {
        poll::has_more_within(self.socket.as_fd(), patience).unwrap_or(false)
    }

    /// Nothing becomes of it.
    pub(super) fn end(self) {
        // It has ended already if this fails.
        let _ = hand_off::end(&self.child);
    }

    /// Waits for the answer, or the error that the work came to.
    pub(super) fn wait(self) -> Result<T> {
        let received = socket::receive(self.socket.as_fd());
        let pid = nix::unistd::Pid::from_raw(self.child.pid);
        nix::sys::wait::waitpid(pid, None).called("waitpid", self.child.pid)?;
        match received? {
            socket::Received::Message(bytes, _) => {
                let answer: Result<T, String> = serde_json::from_slice(&bytes)
                    .with_context(|| format!("the answer of a child {}", self.purpose))?;
                answer.map_err(|message| anyhow::anyhow!("{message}"))
            }
            _ => bail!("a child {} ended without an answer", self.purpose),
        }
    }
}

/// What the child does.
fn answer<T: Serialize>(socket: &OwnedFd, work: impl FnOnce() -> Result<T>) -> ! {
    let run = || -> Result<T> {
        let [stdin, stdout, stderr] = [0, 1, 2].map(process::standard);
        process::close_all_but(&[stdin, stdout, stderr, socket.as_fd()])?;
        process::reset_signals()?;
        work()
    };
    let answer = run().map_err(|error| format!("{error:#}"));
    let text = serde_json::to_vec(&answer).unwrap_or_default();
    let code = i32::from(socket::send(socket.as_fd(), &text, &[]).is_err());
    process::exit_now(code)
}
