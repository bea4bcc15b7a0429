//! System calls: the only room with `unsafe`.
//!
//! One function per call that nix lacks or has in an inconvenient form; each returns a [`SysError`] that names the call,
//! its target and the errno. Nothing here decides anything.
#![allow(unsafe_code)]

pub mod bpf;
pub mod credentials;
pub mod flock;
pub mod fs;
pub mod getxattr;
pub mod heap;
pub mod limit;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod net;
pub mod netfilter;
pub mod pidfd;
pub mod poll;
pub mod process;
pub mod record;
pub mod seccomp;
mod shelf;
pub mod socket;
#[cfg(target_arch = "x86_64")]
pub mod string;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A failed system call: `mount_setattr /proc: EINVAL: Invalid argument`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct SysError {
    /// The call as its man page names it.
    pub call: String,
    /// What it was called on.
    pub target: String,
    /// The errno.
    pub errno: i32,
}

impl SysError {
    /// An error of `call` on `target`.
    pub fn new(call: &str, target: impl fmt::Display, errno: Errno) -> Self {
        SysError { call: call.to_owned(), target: target.to_string(), errno: errno as i32 }
    }

    /// The errno as nix's enum.
    pub fn errno(&self) -> Errno {
        Errno::from_raw(self.errno)
    }

    /// Whether a file system is full, or what its user may have of it.
    pub fn is_without_room(&self) -> bool {
        matches!(self.errno(), Errno::ENOSPC | Errno::EDQUOT)
    }

    /// Whether descriptors or memory have run out, of the process or of the machine: it may be done in a moment.
    pub fn is_without_means(&self) -> bool {
        matches!(self.errno(), Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = self.errno();
        write!(f, "{} {}: {}", self.call, self.target, errno.desc())?;
        write!(f, " ({errno:?})")
    }
}

impl std::error::Error for SysError {}

/// A system call's result.
pub type SysResult<T> = Result<T, SysError>;

/// Names the call and its target on a nix result.
pub trait Called<T> {
    /// Turns the errno into a [`SysError`].
    fn called(self, call: &str, target: impl fmt::Display) -> SysResult<T>;
}

impl<T> Called<T> for nix::Result<T> {
    fn called(self, call: &str, target: impl fmt::Display) -> SysResult<T> {
        self.map_err(|errno| SysError::new(call, target, errno))
    }
}

impl<T> Called<T> for std::io::Result<T> {
    fn called(self, call: &str, target: impl fmt::Display) -> SysResult<T> {
        self.map_err(|e| SysError::new(call, target, Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))))
    }
}

/// The result of a raw system call: -1 means errno.
pub(crate) fn check(result: libc::c_long, call: &str, target: impl fmt::Display) -> SysResult<libc::c_long> {
    if result == -1 { Err(SysError::new(call, target, Errno::last())) } else { Ok(result) }
}
