//! The name server's process, seen from outside: started when somebody needs it, found again, ended. The caller holds the
//! network's lock.

use super::lease;
use crate::paths::NetworkDir;
use crate::plan::network::BridgeNetwork;
use crate::store;
use crate::sys::{Called, process};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The hidden verb that it is started with.
const VERB: &str = "name-server";
/// What it says when it answers on its sockets.
const READY: &str = "ready";
/// How long it may take to end, in milliseconds.
const PATIENCE: u16 = 2000;

/// Which process it is.
#[derive(Debug, Serialize, Deserialize)]
struct Process {
    pid: u32,
    /// When it was started, in clock ticks after boot (proc_pid_stat(5)): another process may have its pid by now.
    start_time: u64,
}

/// The running name server; `None` if there is none. One that a damaged file does not tell of ends by itself: with its link, which the
/// next one takes away, and so does the network's end.
pub(super) fn find(directory: &NetworkDir) -> Result<Option<OwnedFd>> {
    let Some(known) = store::read_sound::<Process>(&directory.name_server())? else { return Ok(None) };
    let pidfd = match process::open_pid(known.pid) {
        Err(error) if error.errno() == Errno::ESRCH => return Ok(None),
        other => other?,
    };
    // Looked at after the descriptor is there: from now on the pid cannot become another process's.
    let is_it = start_time(known.pid)? == Some(known.start_time);
    // One that has ended is nobody, though the machine's init may not have taken note of it yet.
    Ok(Some(pidfd).filter(|pidfd| is_it && matches!(ends_within(pidfd, 0), Ok(false))))
}

/// Waits for its end, so many milliseconds.
fn ends_within(pidfd: &OwnedFd, milliseconds: u16) -> Result<bool> {
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut polled, PollTimeout::from(milliseconds)).called("poll", "name server")? > 0)
}

/// Field 22 of proc_pid_stat(5); `None` if there is no such process.
fn start_time(pid: u32) -> Result<Option<u64>> {
    let path = format!("/proc/{pid}/stat");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        other => other.called("read", &path)?,
    };
    // The name, in parentheses, may hold anything; the fields behind it are counted from 3.
    let field = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(22 - 3));
    field.and_then(|field| field.parse().ok()).map(Some).with_context(|| format!("{path} is not as expected"))
}

/// How long to wait before it is started again: no more than one start a second.
pub(super) fn pause(directory: &NetworkDir) -> Result<Duration> {
    let started = match std::fs::metadata(directory.name_server()).and_then(|file| file.modified()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Duration::ZERO),
        other => other.called("stat", directory.name_server().display())?,
    };
    // A clock that was set back is no reason to wait.
    let age = started.elapsed().unwrap_or(Duration::from_secs(1));
    Ok(Duration::from_secs(1).saturating_sub(age))
}

/// Has it running.
pub(super) fn ensure(directory: &NetworkDir, network: &BridgeNetwork) -> Result<()> {
    if find(directory)?.is_some() {
        return Ok(());
    }
    start(directory).with_context(|| format!("starting the name server of {}", network.bridge))
}

fn start(directory: &NetworkDir) -> Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("podshim").arg(VERB).arg(&directory.0).current_dir("/").env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process::in_new_session(&mut command);
    let mut child = command.spawn().called("execve", "podshim name-server")?;
    let pid = child.id();
    let mut said = String::new();
    let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
        bail!("the name server has no output");
    };
    out.read_to_string(&mut said).called("read", "name server")?;
    if said.trim() != READY {
        let mut message = String::new();
        err.read_to_string(&mut message).called("read", "name server")?;
        let status = child.wait().called("waitpid", pid)?;
        bail!("it ended ({status}): {}", message.trim());
    }
    let start_time = start_time(pid)?.context("it ended at once")?;
    lease::write(&directory.name_server(), &Process { pid, start_time })
}

/// Ends it, if there is one; [`wait`] for it.
pub(super) fn kill(directory: &NetworkDir) -> Result<Option<OwnedFd>> {
    let found = find(directory)?;
    if let Some(pidfd) = &found {
        process::send_signal(pidfd.as_fd(), libc::SIGKILL)?;
    }
    Ok(found)
}

/// Waits until the one that was killed has ended; then there is none.
pub(super) fn wait(directory: &NetworkDir, killed: Option<OwnedFd>) -> Result<()> {
    if let Some(pidfd) = killed
        && !ends_within(&pidfd, PATIENCE)?
    {
        bail!("the name server does not end");
    }
    Ok(store::remove_written(&directory.name_server())?)
}
