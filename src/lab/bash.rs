//! Running a script of a lesson: bounded in time and in what it may say.

use crate::embedded::{self, compressed};
use crate::sys::{Called, process};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Functions that every script may use.
pub(super) fn library() -> String {
    embedded::text(compressed!("lib.sh"))
}

/// More is read from a script, and dropped.
const MOST_BYTES: usize = 32 << 10;
/// The exit code by which a check says that its last line is the hint: `hint` of lib.sh.
pub(super) const HINT: i32 = 90;

/// A script and what it finds.
#[derive(Debug)]
pub(super) struct Script<'a> {
    /// bash.
    pub(super) text: &'a str,
    /// Further variables.
    pub(super) env: &'a [(String, String)],
    /// It is killed after so long.
    pub(super) patience: Duration,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// As a shell has it; `None` if the time was over.
    pub(super) code: Option<i32>,
    /// The first bytes of what it said, on standard output and standard error.
    pub(super) said: String,
}

impl Script<'_> {
    /// Runs it to its end. Processes that it leaves in the background go on.
    pub(super) fn run(&self) -> Result<Outcome> {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("{}\n{}", library(), self.text)).arg("lab");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        // What tools print is looked at.
        command.env("LC_ALL", "C");
        run(command, self.patience)
    }
}

/// Runs a command to its end, or kills it when the time is over.
pub(super) fn run(mut command: Command, patience: Duration) -> Result<Outcome> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (mut reader, writer) = std::io::pipe().called("pipe", &program)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().called("dup", "pipe")?).stderr(writer);
    // A process group of its own, which can be killed as one, and no terminal that it could ask.
    process::in_new_session(&mut command);
    let mut child = command.spawn().called("execve", &program).context("run a script of the lab")?;
    // The command holds the writing ends.
    drop(command);
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).called("fcntl", "pipe")?;
    let result = follow(&mut child, &mut reader, Instant::now() + patience);
    if !matches!(result, Ok(Outcome { code: Some(_), .. })) {
        // Not waited for yet, so the number is still its own.
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        let _ = child.wait();
    }
    result
}

/// Reads what it says until it ends. What it left running may hold the pipe open: that is not waited for.
fn follow(child: &mut Child, reader: &mut PipeReader, deadline: Instant) -> Result<Outcome> {
    let handle = process::open_child(child.id())?;
    let mut said = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Outcome { code: None, said: String::from_utf8_lossy(&said).into_owned() });
        }
        let mut fds = vec![PollFd::new(handle.pidfd.as_fd(), PollFlags::POLLIN)];
        if open {
            fds.push(PollFd::new(reader.as_fd(), PollFlags::POLLIN));
        }
        let limit = PollTimeout::from(u16::try_from(left.as_millis().max(1)).unwrap_or(u16::MAX));
        match poll(&mut fds, limit) {
            Err(Errno::EINTR) => continue,
            other => other.called("poll", "script")?,
        };
        let ended = fds[0].revents().is_some_and(|events| !events.is_empty());
        open = open && drain(reader, &mut said)?;
        if ended {
            let status = child.wait().called("wait4", child.id())?;
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            return Ok(Outcome { code: Some(code), said: String::from_utf8_lossy(&said).into_owned() });
        }
    }
}

/// Takes what is in the pipe now, at most a few times its size; false when it is closed.
fn drain(reader: &mut PipeReader, said: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 8 << 10];
    for _ in 0..64 {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => said.extend_from_slice(&buffer[..count.min(MOST_BYTES - said.len().min(MOST_BYTES))]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => Err(e).called("read", "pipe")?,
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str, patience: u64) -> Outcome {
        Script { text, env: &[("WHO".to_owned(), "me".to_owned())], patience: Duration::from_millis(patience) }
            .run()
            .unwrap()
    }

    #[test]
    fn a_script_ends_and_is_heard() {
        let done = outcome("echo $WHO; echo err >&2; exit 3", 20_000);
        assert_eq!(done, Outcome { code: Some(3), said: "me\nerr\n".to_owned() });
        assert_eq!(outcome("kill -9 $$", 20_000).code, Some(137));
        assert_eq!(outcome("hint \"it is $WHO\"", 20_000), Outcome { code: Some(HINT), said: "it is me\n".to_owned() });
    }

    #[test]
    fn a_script_that_hangs_or_shouts_is_bounded() {
        let begin = Instant::now();
        assert_eq!(outcome("echo first; sleep 1000", 400).code, None);
        assert!(begin.elapsed() < Duration::from_secs(20));
        let shout = outcome("head -c 3000000 /dev/zero | tr '\\0' x", 20_000);
        assert_eq!((shout.code, shout.said.len()), (Some(0), MOST_BYTES));
    }

    #[test]
    fn what_it_leaves_in_the_background_is_not_waited_for() {
        let begin = Instant::now();
        let done = outcome("sleep 30 & echo $!", 20_000);
        assert!(begin.elapsed() < Duration::from_secs(15));
        let pid: i32 = done.said.trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
}
