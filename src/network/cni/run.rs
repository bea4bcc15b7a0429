//! Executes one plugin: its environment, its input, its output, its time (CNI specification 1.1, section 2).

use super::result::{Refusal, said};
use crate::error::{Kind, failure};
use crate::sys::process::{self, Child, Ended};
use crate::sys::{Called, SysError, SysResult};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The most bytes of standard output, which is a result or an error.
const MAX_OUTPUT: usize = 1 << 20;
/// The bytes of standard error that are kept, the last ones: it is for people.
const MAX_ERRORS: usize = 16 << 10;
/// Bytes read at once.
const READ_SIZE: usize = 16 << 10;

/// What a plugin is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Add => "ADD",
            Operation::Del => "DEL",
            Operation::Check => "CHECK",
            Operation::Gc => "GC",
            Operation::Status => "STATUS",
            Operation::Version => "VERSION",
        })
    }
}

/// Where plugins are, and how long one may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runner<'a> {
    /// Where they are looked for, in this order.
    pub(super) directories: &'a [PathBuf],
    /// After so long a plugin and what it started are killed.
    pub(super) deadline: Duration,
}

/// One execution.
pub(super) struct Call<'a> {
    /// The plugin's name.
    pub(super) plugin: &'a str,
    /// What it is asked for.
    pub(super) operation: Operation,
    /// Its parameters beside `CNI_COMMAND` and `CNI_PATH`.
    pub(super) parameters: &'a [(&'static str, String)],
    /// Its standard input.
    pub(super) input: &'a [u8],
}

impl Runner<'_> {
    /// The executable of a plugin.
    pub(super) fn find(&self, plugin: &str) -> Result<PathBuf> {
        let candidates = self.directories.iter().map(|directory| directory.join(plugin));
        if let Some(path) = candidates.into_iter().find(|path| path.is_file()) {
            return Ok(path);
        }
        let looked: Vec<String> = self.directories.iter().map(|directory| directory.display().to_string()).collect();
        let places = if looked.is_empty() { "nowhere".to_owned() } else { looked.join(", ") };
        let message = format!(
            "CNI plugin {plugin:?} not found: looked for a file of this name in {places} (--cni-bin-dir, or network.bin_dirs of podshim cri)"
        );
        Err(failure(Kind::NotFound, message))
    }

    /// Executes a plugin to its end; what it printed on standard output if it succeeded.
    pub(super) fn run(&self, call: &Call<'_>) -> Result<Vec<u8>> {
        let path = self.find(call.plugin)?;
        let output = self.execute(&path, call);
        output.with_context(|| format!("CNI plugin {} ({}): {}", call.plugin, path.display(), call.operation))
    }

    fn execute(&self, path: &Path, call: &Call<'_>) -> Result<Vec<u8>> {
        let (input, ours_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC).called("pipe2", "")?;
        let (ours_out, output) = nix::unistd::pipe2(OFlag::O_CLOEXEC).called("pipe2", "")?;
        let (ours_err, errors) = nix::unistd::pipe2(OFlag::O_CLOEXEC).called("pipe2", "")?;
        for ours in [&ours_in, &ours_out, &ours_err] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).called("fcntl", "pipe")?;
        }
        let mut command = Command::new(path);
        command.env_clear().envs(self.environment(call)).current_dir("/");
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(errors));
        // What it starts is in its group; and a terminal's Ctrl-C, which is for podshim, leaves it alone: it is asked to undo.
        process::in_new_session(&mut command);
        let spawned = command.spawn().called("execve", path.display())?;
        // The pipes' other ends are the plugin's alone.
        drop(command);
        let child = process::open_child(spawned.id())?;
        let mut talk = Talk {
            input: Some((ours_in, call.input)),
            output: Some(ours_out),
            errors: Some(ours_err),
            printed: Vec::new(),
            complained: Vec::new(),
        };
        let talked = talk.until_end(&child, self.deadline);
        if talked.is_err() {
            // It leads its session, so the group is its own as long as it has not been waited for.
            match killpg(Pid::from_raw(child.pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => Err(errno).called("killpg", child.pid)?,
            }
        }
        let ended = wait(&child)?;
        talked?;
        talk.answer(ended)
    }

    /// Nothing of podshim's own environment but PATH, by which plugins find tools like iptables.
    fn environment(&self, call: &Call<'_>) -> Vec<(&'static str, String)> {
        const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let own = std::env::var("PATH").ok().filter(|path| !path.is_empty());
        let directories: Vec<String> =
            self.directories.iter().map(|directory| directory.display().to_string()).collect();
        let mut all = vec![
            ("PATH", own.unwrap_or_else(|| USUAL.into())),
            ("CNI_COMMAND", call.operation.to_string()),
            ("CNI_PATH", directories.join(":")),
        ];
        all.extend(call.parameters.iter().cloned());
        all
    }
}

/// Waits for a process that has ended, or is about to, as it was killed.
fn wait(child: &Child) -> SysResult<Ended> {
    loop {
        if let Some(ended) = process::try_wait(child.pidfd.as_fd())? {
            return Ok(ended);
        }
        let mut fds = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(SysError::new("poll", "pidfd", errno)),
        }
    }
}

/// What is said to and by a plugin.
struct Talk<'a> {
    /// What it has not read yet.
    input: Option<(OwnedFd, &'a [u8])>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
    printed: Vec<u8>,
    complained: Vec<u8>,
}

impl Talk<'_> {
    /// Talks until the plugin has ended. What it started may live on, with its pipes: nobody waits for that.
    fn until_end(&mut self, child: &Child, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let complained = self.complaint();
                bail!("it did not end in {} s, and was killed{complained}", deadline.as_secs_f64());
            }
            // Rounded up: a wait that ends early would spin.
            let timeout = PollTimeout::try_from(left.as_millis() as u64 + 1).unwrap_or(PollTimeout::MAX);
            let mut fds = vec![PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.input.iter().map(|(fd, _)| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
            let outputs = [&self.output, &self.errors];
            fds.extend(outputs.into_iter().flatten().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => Err(errno).called("poll", "plugin")?,
            }
            let has_ended = fds[0].any() == Some(true);
            self.write();
            // After the end, for what is in the pipes still: no more than they hold, as somebody may go on writing.
            for _ in 0..if has_ended { (1 << 20) / READ_SIZE } else { 1 } {
                let more = self.read()?;
                if !more {
                    break;
                }
            }
            if has_ended {
                return Ok(());
            }
        }
    }

    fn write(&mut self) {
        let Some((fd, rest)) = &mut self.input else { return };
        match nix::unistd::write(&*fd, rest) {
            Ok(count) => *rest = &rest[count..],
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // It closed its input: what it does without is its own affair.
            Err(_) => *rest = &[],
        }
        if rest.is_empty() {
            self.input = None;
        }
    }

    /// Reads once from each pipe; whether there was anything.
    fn read(&mut self) -> Result<bool> {
        let mut buffer = [0; READ_SIZE];
        let printed = read_once(&mut self.output, &mut buffer)?;
        if self.printed.len() + printed > MAX_OUTPUT {
            bail!("it printed more than {MAX_OUTPUT} bytes, and was killed: {}", said(&buffer[..printed.min(200)]));
        }
        self.printed.extend_from_slice(&buffer[..printed]);
        let complained = read_once(&mut self.errors, &mut buffer)?;
        self.complained.extend_from_slice(&buffer[..complained]);
        let over = self.complained.len().saturating_sub(MAX_ERRORS);
        self.complained.drain(..over);
        Ok(printed + complained > 0)
    }

    fn complaint(&self) -> String {
        if self.complained.trim_ascii().is_empty() {
            return String::new();
        }
        format!("; on standard error it said: {}", said(&self.complained))
    }

    fn answer(self, ended: Ended) -> Result<Vec<u8>> {
        if ended == Ended::Exited(0) {
            return Ok(self.printed);
        }
        if let Some(refusal) = Refusal::parse(&self.printed) {
            return Err(anyhow::Error::new(refusal));
        }
        let how = match ended {
            Ended::Exited(code) => format!("exit code {code}"),
            Ended::Signaled(signal) => format!("killed by signal {signal}"),
            Ended::Unknown => "nobody knows how".to_owned(),
        };
        let printed = if self.printed.trim_ascii().is_empty() {
            String::new()
        } else {
            format!("; it printed: {}", said(&self.printed))
        };
        bail!("{how} without an error as the specification has it{printed}{}", self.complaint());
    }
}

/// Reads what is there; forgets a pipe at its end.
fn read_once(pipe: &mut Option<OwnedFd>, buffer: &mut [u8]) -> SysResult<usize> {
    let Some(fd) = pipe else { return Ok(0) };
    let fd: BorrowedFd<'_> = fd.as_fd();
    match nix::unistd::read(fd, buffer) {
        Ok(0) => {
            *pipe = None;
            Ok(0)
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
        other => other.called("read", "plugin's output"),
    }
}
