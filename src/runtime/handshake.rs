//! The hand-off between the supervisor and a container's init, over one `SOCK_SEQPACKET` pair.
//!
//! ```text
//!  supervisor                          init (becomes the container)
//!    |-- clone3(flags, cgroup fd) ------>|
//!    |<- Paused { step } ----------------|   only with `run --step`, before each step
//!    |-- GoOn -------------------------->|
//!    |<- Note { text } ------------------|   something was done differently, e.g. a limit clamped
//!    |<- Born + pidfd -------------------|   only into a pid namespace that others live in: from who goes on in its place
//!    |<- Terminal + master --------------|   only with a terminal
//!    |<- Ready --------------------------|   all steps but the last few are done      = OCI "created"
//!    |-- Start ------------------------->|   neither of the two for who starts at once
//!    |<- end of file --------------------|   close-on-exec: execve succeeded         = OCI "running"
//!    |<- Failed { step, message } -------|   instead of any of the above
//! ```

use crate::sys::record::Call;
use crate::sys::{SysError, SysResult, socket};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What kind of failure ended an init.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// A step before execve(2).
    Setup,
    /// The same, because of what was asked for: a mount onto what it does not fit, a link in the image where none may be.
    Refused,
    /// The command does not exist: exit code 127.
    CommandNotFound,
    /// The command cannot be executed: exit code 126.
    CommandNotExecutable,
}

/// A failed step: which, and the call, its target and the errno.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFailure {
    /// [`super::Step::name`]; empty for the command itself.
    pub step: String,
    /// The system call's error, or what was wrong.
    pub message: String,
    /// What kind.
    pub kind: FailureKind,
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FailureKind::Setup => write!(f, "{}: {}", self.step, self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for StepFailure {}

/// Init's messages.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// A step was done differently from what was asked.
    Note {
        /// What and why.
        text: String,
    },
    /// It waits for [`GO_ON`] before it performs this step.
    Paused {
        /// Its index in the list.
        step: usize,
    },
    /// Another process performs the rest of the steps, and says so itself; its pidfd comes with this message.
    Born,
    /// The master of the container's terminal comes with this message.
    Terminal,
    /// Created; waits for [`START`].
    Ready,
    /// Ended.
    Failed(StepFailure),
}

/// The supervisor's answer to [`FromInit::Ready`].
pub(super) const START: &[u8] = b"start";
/// The supervisor's answer to [`FromInit::Paused`].
pub(super) const GO_ON: &[u8] = b"go on";

/// A step that init has performed, or that failed: a line of JSON in the memory that it shares with the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Performed {
    /// Its index in the list.
    pub step: usize,
    /// Which process performed it: the first one, or the one that goes on in its place ([`FromInit::Born`]).
    pub process: usize,
    /// When it began, in nanoseconds of CLOCK_BOOTTIME.
    pub at: u64,
    /// Nanoseconds that it took.
    pub took: u64,
    /// The calls that it made.
    pub calls: Vec<Call>,
}

/// Sends one of init's messages.
pub(super) fn send(socket: BorrowedFd<'_>, message: &FromInit, descriptors: &[BorrowedFd<'_>]) -> SysResult<()> {
    let bytes = serde_json::to_vec(message).map_err(|_| SysError::new("sendmsg", "hand-off", Errno::EINVAL))?;
    socket::send(socket, &bytes, descriptors)
}

/// What the supervisor sees on the hand-off.
#[derive(Debug)]
pub enum Seen {
    /// A message, with its descriptor if it is [`FromInit::Terminal`] or [`FromInit::Born`].
    Message(FromInit, Option<OwnedFd>),
    /// The socket was closed by execve(2), or init is gone.
    Closed,
    /// Nothing yet.
    Nothing,
}

/// Receives init's next message.
pub fn receive(socket: BorrowedFd<'_>) -> SysResult<Seen> {
    Ok(match socket::receive(socket)? {
        socket::Received::Closed => Seen::Closed,
        socket::Received::Nothing => Seen::Nothing,
        socket::Received::Message(bytes, descriptors) => {
            let message =
                serde_json::from_slice(&bytes).map_err(|_| SysError::new("recvmsg", "hand-off", Errno::EBADMSG))?;
            Seen::Message(message, descriptors.into_iter().next())
        }
    })
}
