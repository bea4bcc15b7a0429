//! The few kinds of failure that a caller must tell apart, each with its exit code.
//!
//! Everywhere else errors are [`anyhow::Error`]: the innermost names the system call, its target and the errno (or the
//! file and what is wrong in it), each context says what it was for. A [`Failure`] somewhere in the chain gives the kind.

use std::fmt;
use std::io::Write as _;

/// What kind of failure an error is. A kind exists only where some caller acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The input is wrong: manifest, flag, image reference.
    Invalid,
    /// No such pod, container or image.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The object is there but not in a state that allows the request.
    NotReady,
    /// A command to execute does not exist (exit code 127, as in a shell).
    CommandNotFound,
    /// A command to execute exists but cannot be executed (exit code 126, as in a shell).
    CommandNotExecutable,
    /// It took longer than it was given.
    TimedOut,
    /// What is asked for is none of what can be done here.
    Unsupported,
    /// There is no room for it: of a size, a number, a disk.
    Exhausted,
    /// The caller lacks the privilege.
    Forbidden,
    /// A login is missing, or is not taken.
    Unauthenticated,
    /// The user ended it (Ctrl-C).
    Interrupted,
}

impl Kind {
    /// The process exit code, in podman's and the shell's numbers: 125 for podshim's own failures.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::CommandNotFound => 127,
            Kind::CommandNotExecutable => 126,
            Kind::Interrupted => 130,
            _ => 125,
        }
    }
}

/// A message with its kind; put into an [`anyhow::Error`] where a caller must be able to tell.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What a caller may act on.
    pub kind: Kind,
    /// What a person reads.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error of a kind.
pub fn failure(kind: Kind, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { kind, message: message.into() })
}

/// The kind of an error, if one in its chain has a kind.
pub fn kind_of(error: &anyhow::Error) -> Option<Kind> {
    error.chain().find_map(|e| e.downcast_ref::<Failure>()).map(|f| f.kind)
}

/// The exit code for an error: its kind's, else 125.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    kind_of(error).map_or(125, Kind::exit_code)
}

/// Says a line on standard error. Who cannot be told any more ends nobody, as `eprintln!` would: a terminal that was hung up (EIO), a
/// journal that was restarted (EPIPE), a full disk.
macro_rules! say {
    ($($words:tt)*) => { crate::error::say_line(format_args!($($words)*)) };
}
pub(crate) use say;

/// [`say!`]: the whole line by one write(2), for what others say at the same time must not come into its middle.
pub(crate) fn say_line(words: fmt::Arguments<'_>) {
    let _ = anstream::stderr().write_all(format!("{words}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_kind_is_found_below_contexts() {
        let error = Err::<(), _>(failure(Kind::CommandNotFound, "exec: \"x\": no such file"))
            .context("starting c")
            .unwrap_err();
        assert_eq!(kind_of(&error), Some(Kind::CommandNotFound));
        assert_eq!(exit_code(&error), 127);
        assert_eq!(exit_code(&anyhow::anyhow!("anything")), 125);
    }
}
