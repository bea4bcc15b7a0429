//! criu as a process of its own, told by its protocol what to do.
//!
//! ```text
//!  daemon                         criu swrk                    container
//!    |-- Dump ------------------------>|
//!    |                                 |-- PTRACE_SEIZE, all ------>|  stopped
//!    |<- Notify query-ext-files -------|                               criu 4.0 and later
//!    |-- Notify ok ------------------->|-- memory, files, … ------->|
//!    |<- Notify post-dump -------------|                               images are written
//!    |-- Notify ok ------------------->|-- PTRACE_DETACH ---------->|  goes on
//!    |<- Dump success -----------------|
//! ```
//!
//! As long as a notification is not answered, the processes stay stopped. When the socket closes, because the daemon gives up or
//! dies, criu undoes what it has done to them and they go on.

use super::messages::{CGROUPS_IGNORED, Kind, NetworkLock, Options, Request, Response, Version};
use crate::error::{Kind as Failed, failure};
use crate::sys::{Called, process, socket};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use prost::Message;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The log that criu writes into its work directory.
pub(super) const LOG: &str = "dump.log";
/// What it says where it has no log yet.
const STDERR: &str = "criu.stderr";
/// criu's log level: what CRI-O and runc ask for.
const LOG_LEVEL: i32 = 4;
/// The largest file that is open but has no name any more, in bytes: it is copied into the images.
const GHOST_LIMIT: u32 = 128 << 20;
/// How long criu may take to undo what it has done, before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How long it may take to stop all processes, in seconds.
const SEIZE_SECONDS: u64 = 60;
/// The largest answer in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// How much of the end of its log is looked at, in bytes.
const LOG_END: u64 = 64 << 10;
/// How many of its lines are told.
const LOG_LINES: usize = 4;
/// Where programs of root are beside PATH.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A criu of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Criu {
    path: PathBuf,
}

/// What is dumped.
pub(super) struct Job {
    /// Its first process.
    pub(super) pid: i32,
    /// What of it belongs to somebody else, in criu's words (criu(8), `--external`).
    pub(super) external: Vec<Vec<u8>>,
    /// Where the images go.
    pub(super) images: PathBuf,
    /// Where the log and the statistics go.
    pub(super) work: PathBuf,
    /// Whether the container has a terminal.
    pub(super) has_terminal: bool,
}

/// How far a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All processes are stopped, nothing is dumped yet.
    Paused,
    /// Everything is dumped, the processes are still stopped.
    Captured,
    /// The processes go on.
    Over,
}

impl Criu {
    /// The one that is configured, or that is found; `Unsupported` if there is none.
    pub(super) fn find(configured: &Path) -> Result<Criu> {
        let missing = |what: String| failure(Failed::Unsupported, format!("checkpoints take criu, and {what}"));
        if !configured.as_os_str().is_empty() {
            return match configured.is_file() {
                true => Ok(Criu { path: configured.to_owned() }),
                false => Err(missing(format!("{} is not there", configured.display()))),
            };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places =
            std::env::split_paths(&path).filter(|place| place.is_absolute()).chain(SBIN.map(PathBuf::from));
        let found = places.find_map(|place| Some(place.join("criu")).filter(|path| path.is_file()));
        found.map(|path| Criu { path }).ok_or_else(|| missing("criu is not installed".to_owned()))
    }

    /// Its version: major, minor.
    fn version(&self, deadline: Instant) -> Result<Version> {
        let (child, talk) = self.spawn(Stdio::null(), deadline)?;
        let mut running = Running { child, has_ended: false };
        // One that ends at once may have done so before it is asked.
        let asked = talk.send(&Request { kind: Kind::Version.into(), ..Request::default() });
        let answer = asked.and_then(|()| talk.receive()).context("asking criu for its version")?;
        running.end(deadline)?;
        answer.version.with_context(|| format!("{} does not say its version", self.path.display()))
    }

    fn spawn(&self, stderr: Stdio, deadline: Instant) -> Result<(Child, Conversation)> {
        let (ours, theirs) = socket::pair()?;
        let mut command = Command::new(&self.path);
        // Its standard input is the socket.
        command.args(["swrk", "0"]).stdin(theirs).stdout(Stdio::null()).stderr(stderr).current_dir("/");
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        // As in `give_up`; and a Ctrl-C is for the daemon.
        process::in_own_session_past_size_limits(&mut command);
        let child = command.spawn().called("execve", self.path.display()).context("starting criu")?;
        Ok((child, Conversation { socket: ours, deadline, has_to_answer: false }))
    }

    /// `Unsupported` unless it tells when all processes are stopped.
    pub(super) fn must_pause(&self, deadline: Instant) -> Result<()> {
        let Version { major, minor } = self.version(deadline)?;
        match major >= 4 {
            true => Ok(()),
            false => {
                let text = format!("checkpoints of pods take criu 4.0 or later, and this is {major}.{minor}");
                Err(failure(Failed::Unsupported, text))
            }
        }
    }

    /// Begins a dump.
    pub(super) fn dump(&self, job: &Job, deadline: Instant) -> Result<Dump> {
        let version = self.version(deadline)?;
        let stderr = File::create(job.work.join(STDERR)).called("open", job.work.join(STDERR).display())?;
        let (child, talk) = self.spawn(stderr.into(), deadline)?;
        let directory = |path: &Path| File::open(path).called("open", path.display());
        let directories = [directory(&job.images)?, directory(&job.work)?];
        let dump = Dump { running: Running { child, has_ended: false }, talk, work: job.work.clone(), directories };
        dump.talk.send(&request(job, version, &dump)).map_err(|error| error.context(dump.complaint()))?;
        Ok(dump)
    }
}

fn request(job: &Job, version: Version, dump: &Dump) -> Request {
    let [images, work] = &dump.directories;
    let left = dump.talk.deadline.saturating_duration_since(Instant::now()).as_secs();
    let seconds = u32::try_from(left.clamp(1, SEIZE_SECONDS)).unwrap_or(1);
    let options = Options {
        images_dir_fd: images.as_raw_fd(),
        work_dir_fd: Some(work.as_raw_fd()),
        pid: Some(job.pid),
        leave_running: Some(true),
        ext_unix_sk: Some(true),
        tcp_established: Some(true),
        tcp_skip_in_flight: Some(true),
        shell_job: Some(job.has_terminal),
        orphan_pts_master: Some(true),
        file_locks: Some(true),
        log_level: Some(LOG_LEVEL),
        log_file: Some(LOG.to_owned()),
        notify_scripts: Some(true),
        // A restored container is put into cgroups of its own.
        manage_cgroups_mode: Some(CGROUPS_IGNORED),
        ghost_limit: Some(GHOST_LIMIT),
        external: job.external.clone(),
        timeout: Some(seconds),
        // A lock would be one of the whole sandbox's network, for its other containers too; it is for containers that do not
        // go on afterwards, whose connections must not be reset. Older ones know no other way.
        network_lock: (version.major >= 4).then_some(NetworkLock::Skip.into()),
    };
    Request { kind: Kind::Dump.into(), options: Some(options), notify_success: None }
}

/// A dump that is under way. Dropped before it is over, it is given up: the processes go on.
pub(super) struct Dump {
    running: Running,
    talk: Conversation,
    work: PathBuf,
    /// criu opens them by our descriptors, in /proc.
    directories: [File; 2],
}

impl Dump {
    /// Has it go on to where it tells of its progress next.
    pub(super) fn advance(&mut self) -> Result<Progress> {
        let progress = match self.talk.next() {
            Ok(Progress::Over) => self.running.end(Instant::now() + GRACE).map(|()| Progress::Over),
            other => other,
        };
        progress.map_err(|error| {
            self.give_up();
            error.context(self.complaint())
        })
    }

    /// Lets it go on, if it waits for that, without waiting for it: others are to go on at the same time.
    pub(super) fn resume(&mut self) -> Result<()> {
        self.talk.answer(Vec::new())
    }

    /// The same where it is [`Progress::Paused`], with more that belongs to others.
    pub(super) fn resume_with(&mut self, external: Vec<Vec<u8>>) -> Result<()> {
        self.talk.answer(external)
    }

    /// Has it undo what it has done.
    fn give_up(&mut self) {
        if self.running.has_ended {
            return;
        }
        // It is not killed: then connections would stay as it has made them, and code of its own would be in the processes. It
        // cannot write any more, and finds that it cannot go on. An error here means that it has ended.
        let _ = process::forbid_writing(self.running.child.id());
        let _ = shutdown(self.talk.socket.as_raw_fd(), Shutdown::Both);
        // One that does not end is killed; there is nothing more to be done about it.
        let _ = self.running.end(Instant::now() + GRACE);
    }

    /// The last errors in its log.
    fn complaint(&self) -> String {
        let end = |name: &str| read_end(&self.work.join(name)).unwrap_or_default();
        let (log, stderr) = (end(LOG), end(STDERR));
        let text = if log.trim().is_empty() { stderr } else { log };
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let errors: Vec<&str> = lines.iter().copied().filter(|line| line.contains("Error")).collect();
        let told = if errors.is_empty() { lines } else { errors };
        let told: Vec<String> =
            told[told.len().saturating_sub(LOG_LINES)..].iter().map(|line| printable(line)).collect();
        match told.is_empty() {
            true => "criu's log is empty".to_owned(),
            false => format!("criu's log ends with {}", told.join(" / ")),
        }
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Names in it are the container's.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn read_end(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_END)))?;
    let mut bytes = Vec::new();
    file.take(LOG_END).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The process.
struct Running {
    child: Child,
    has_ended: bool,
}

impl Running {
    /// Waits for its end, and kills it if that does not come in time.
    fn end(&mut self, deadline: Instant) -> Result<()> {
        let pidfd = process::open_pid(self.child.id())?;
        let in_time = readable(pidfd.as_fd(), deadline).called("poll", "criu")?;
        if !in_time {
            self.child.kill().called("kill", "criu")?;
        }
        self.child.wait().called("waitpid", "criu")?;
        self.has_ended = true;
        match in_time {
            true => Ok(()),
            false => bail!("criu did not end in time, and was killed"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            // An error here means that it has ended.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether a descriptor becomes readable before the deadline.
fn readable(fd: std::os::fd::BorrowedFd<'_>, deadline: Instant) -> nix::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}

/// Messages with criu.
struct Conversation {
    socket: OwnedFd,
    deadline: Instant,
    /// Whether criu waits for the answer to a notification.
    has_to_answer: bool,
}

impl Conversation {
    fn send(&self, request: &Request) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), &request.encode_to_vec(), MsgFlags::MSG_NOSIGNAL);
        sent.called("send", "criu").map(drop).map_err(Into::into)
    }

    fn receive(&self) -> Result<Response> {
        if !readable(self.socket.as_fd(), self.deadline).called("poll", "criu")? {
            return Err(failure(Failed::TimedOut, "it was not done in the time that was given"));
        }
        let mut buffer = vec![0u8; MAX_ANSWER];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC).called("recv", "criu")? {
            0 => bail!("criu ended without an answer"),
            length if length > buffer.len() => bail!("an answer of criu's is longer than {MAX_ANSWER} bytes"),
            length => Response::decode(&buffer[..length]).context("criu's answer"),
        }
    }

    fn answer(&mut self, external: Vec<Vec<u8>>) -> Result<()> {
        if !std::mem::take(&mut self.has_to_answer) {
            return Ok(());
        }
        let options = (!external.is_empty()).then(|| Options { images_dir_fd: -1, external, ..Options::default() });
        self.send(&Request { kind: Kind::Notify.into(), options, notify_success: Some(true) })
    }

    fn next(&mut self) -> Result<Progress> {
        loop {
            self.answer(Vec::new())?;
            let answer = self.receive()?;
            match answer.kind() {
                Kind::Notify => {
                    self.has_to_answer = true;
                    match answer.notify.as_ref().and_then(|notify| notify.script.as_deref()) {
                        Some("query-ext-files") => return Ok(Progress::Paused),
                        Some("post-dump") => return Ok(Progress::Captured),
                        // What it does on the way.
                        _ => {}
                    }
                }
                Kind::Dump if answer.success => return Ok(Progress::Over),
                Kind::Dump | Kind::Empty | Kind::Version => return Err(refusal(&answer)),
            }
        }
    }
}

/// Why it did not do it is in its log: what it says of it in its answer is the first error of many.
fn refusal(answer: &Response) -> anyhow::Error {
    let errno = answer.errno.filter(|errno| *errno != 0).map(|errno| Errno::from_raw(errno).desc());
    match errno {
        Some(errno) => anyhow::anyhow!("criu could not dump the container: {errno}"),
        None => anyhow::anyhow!("criu could not dump the container"),
    }
}

#[cfg(test)]
#[path = "criu_tests.rs"]
mod tests;
