//! A container's standard descriptors: named FIFOs in its run state, a terminal, or nothing.

use super::poll::Output;
use crate::plan::config::{IdRange, Stdio};
use crate::plan::spec::User;
use crate::runtime;
use crate::sys::{Called, SysResult, fs, mount};
use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, mkfifo};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A container's standard descriptors, both sides.
pub(super) struct Pipes {
    theirs: Option<[OwnedFd; 3]>,
    pub(super) ours: Vec<(Output, OwnedFd)>,
    pub(super) input: Option<OwnedFd>,
}

impl Pipes {
    /// Named FIFOs, which the container's side keeps open for reading too: a write never gets EPIPE when the supervisor
    /// dies, and a new one finds them.
    pub(super) fn open(state: &Path, stdio: Stdio, launcher: &runtime::Launcher) -> Result<Pipes> {
        let null = || launcher.null();
        if stdio == Stdio::Terminal {
            return Ok(Pipes { theirs: Some([null()?, null()?, null()?]), ours: Vec::new(), input: None });
        }
        let (stdout, ours_out) = output_fifo(&state.join("stdout"))?;
        let (stderr, ours_err) = output_fifo(&state.join("stderr"))?;
        let (stdin, input) = match stdio {
            Stdio::Stdin | Stdio::StdinOnce => {
                let path = state.join("stdin");
                make_fifo(&path)?;
                // Without a writer that stays, the container would see end of file at once.
                let input = open_fifo(&path, OFlag::O_RDWR | OFlag::O_NONBLOCK)?;
                let theirs = match stdio {
                    // Its input goes on whoever supervises it: it is its own writer too.
                    Stdio::Stdin => theirs(&input, OFlag::O_RDWR)?,
                    _ => theirs(&input, OFlag::O_RDONLY)?,
                };
                (theirs, Some(input))
            }
            _ => (null()?, None),
        };
        Ok(Pipes {
            theirs: Some([stdin, stdout, stderr]),
            ours: vec![(Output::Stdout, ours_out), (Output::Stderr, ours_err)],
            input,
        })
    }

    /// The container's user may open its own output again, as /dev/stdout: the FIFOs are his.
    pub(super) fn give_to(&self, user: &User, range: Option<IdRange>) -> SysResult<()> {
        let on_host = |id: u32| range.map_or(Some(id), |range| range.on_host(id));
        for fd in self.theirs.iter().flatten() {
            let status = nix::sys::stat::fstat(fd).called("fstat", "standard descriptor")?;
            if status.st_mode & libc::S_IFMT == libc::S_IFIFO {
                let (uid, gid) = (on_host(user.uid).map(Uid::from_raw), on_host(user.gid).map(Gid::from_raw));
                nix::unistd::fchown(fd, uid, gid).called("fchown", mount::fd_name(fd.as_fd()))?;
            }
        }
        Ok(())
    }

    pub(super) fn take_theirs(&mut self) -> Result<[OwnedFd; 3]> {
        self.theirs.take().context("standard descriptors were taken already")
    }
}

/// A new one for each instance: whoever got hold of the old one has no part in the new.
fn make_fifo(path: &Path) -> SysResult<()> {
    fs::remove_file(path)?;
    mkfifo(path, Mode::from_bits_truncate(0o600)).called("mkfifo", path.display())
}

pub(super) fn open_fifo(path: &Path, flags: OFlag) -> SysResult<OwnedFd> {
    open(path, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()).called("open", path.display())
}

/// Of a FIFO that is open, the container's own descriptor. Not with `O_NOFOLLOW`, which stays with a descriptor for good: a
/// restored container is given its FIFOs by a link of /proc (criu opens them anew, with the flags that they had).
fn theirs(opened: &OwnedFd, flags: OFlag) -> SysResult<OwnedFd> {
    let path = fs::proc_fd_path(opened);
    open(&path, flags | OFlag::O_CLOEXEC, Mode::empty()).called("open", path.display())
}

/// The container's side of an output FIFO and the supervisor's.
fn output_fifo(path: &Path) -> SysResult<(OwnedFd, OwnedFd)> {
    make_fifo(path)?;
    let ours = open_fifo(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    Ok((theirs(&ours, OFlag::O_RDWR)?, ours))
}
