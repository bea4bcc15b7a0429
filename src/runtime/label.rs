//! Confinement by AppArmor or SELinux: what the next execve(2) changes to is written to a file of procfs.
//!
//! The procfs is a mount of our own that is attached nowhere, so what is written to is the kernel's file and no other
//! (CVE-2019-16884, CVE-2025-52881).

use super::init::{StepError, StepResult};
use crate::sys::fs::{ResolveFlags, openat2};
use crate::sys::mount::{FsContext, attr};
use crate::sys::{Called, SysResult};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A procfs of our own, attached nowhere.
pub(super) fn procfs() -> SysResult<OwnedFd> {
    FsContext::open("proc")?.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)
}

/// Writes `value` to a file of a procfs of our own by one write(2); links but those of procfs to the caller are refused.
pub(super) fn write(procfs: &OwnedFd, path: &str, value: &str) -> SysResult<()> {
    let within = ResolveFlags::RESOLVE_BENEATH | ResolveFlags::RESOLVE_NO_XDEV | ResolveFlags::RESOLVE_NO_MAGICLINKS;
    let file = openat2(procfs.as_fd(), Path::new(path), OFlag::O_WRONLY, 0, within)?;
    let written =
        nix::unistd::write(&file, value.as_bytes()).called("write", format_args!("{value:?} to /proc/{path}"))?;
    if written == value.len() {
        return Ok(());
    }
    Err(crate::sys::SysError::new("write", format_args!("all of {value:?} to /proc/{path}"), Errno::EIO))
}

pub(super) fn apparmor(profile: &str) -> StepResult {
    let command = format!("exec {profile}");
    let procfs = procfs()?;
    // A directory of its own since Linux 5.8; before, and without other modules, the file is the only one there is.
    let written = match write(&procfs, "thread-self/attr/apparmor/exec", &command) {
        Err(e) if e.errno() == Errno::ENOENT && e.call == "openat2" => {
            write(&procfs, "thread-self/attr/exec", &command)
        }
        other => other,
    };
    match written {
        Err(e) if e.errno() == Errno::ENOENT && e.call == "write" => {
            Err(StepError::refused(format!("the AppArmor profile {profile:?} is not loaded on this host")))
        }
        other => Ok(other?),
    }
}

pub(super) fn selinux(label: &str) -> StepResult {
    match write(&procfs()?, "thread-self/attr/exec", label) {
        Err(e) if e.errno() == Errno::EINVAL => {
            Err(StepError::refused(format!("the host's SELinux policy does not know the label {label:?}")))
        }
        other => Ok(other?),
    }
}
