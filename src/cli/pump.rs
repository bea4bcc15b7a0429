//! Bytes between the user's standard descriptors and a container's.
//!
//! A container never gets the user's own descriptors, which may be a terminal (TIOCSTI), a file or a directory of the host:
//! it gets pipes, and what goes through them is copied: outputs as they come, what may wait for a user by threads.

use super::terminal::{self, Interrupts};
use crate::control::{Connection, Reply};
use crate::error::{Kind, failure};
use crate::sys::{Called, SysResult, process};
use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

/// Pipes for a container, both ends.
pub(super) struct Streams {
    lent: Vec<OwnedFd>,
    stdin: Option<File>,
    outputs: [File; 2],
}

fn pipe() -> SysResult<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC).called("pipe2", "")
}

/// Whether the user's standard input is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    PassedOn,
    Empty,
}

impl Streams {
    /// stdout and stderr.
    pub(super) fn output() -> Result<Streams> {
        let ((out_ours, out_theirs), (err_ours, err_theirs)) = (pipe()?, pipe()?);
        Ok(Streams { lent: vec![out_theirs, err_theirs], stdin: None, outputs: [out_ours.into(), err_ours.into()] })
    }

    /// stdin, stdout and stderr; without input, the container's stdin is at its end.
    pub(super) fn all(input: Input) -> Result<Streams> {
        let (theirs, ours) = pipe()?;
        let mut streams = Streams::output()?;
        streams.lent.insert(0, theirs);
        streams.stdin = (input == Input::PassedOn).then(|| ours.into());
        Ok(streams)
    }

    /// What goes to the supervisor.
    pub(super) fn lent(&self) -> Vec<BorrowedFd<'_>> {
        self.lent.iter().map(AsFd::as_fd).collect()
    }
}

/// What one pipe says, on its way to a standard descriptor.
struct Flow<'a> {
    /// None at its end, or when nobody reads any more: whoever writes more is told so.
    from: Option<File>,
    to: BorrowedFd<'a>,
    /// What was read and not yet written.
    piece: Vec<u8>,
    /// It is at its end because nobody reads any more.
    is_unread: bool,
}

impl<'a> Flow<'a> {
    /// Bytes that are read at once.
    const PIECE: usize = 16 << 10;

    fn new(from: File, to: BorrowedFd<'a>) -> Flow<'a> {
        Flow { from: Some(from), ..Flow::none(to) }
    }

    /// One at its end.
    fn none(to: BorrowedFd<'a>) -> Flow<'a> {
        Flow { from: None, to, piece: Vec::new(), is_unread: false }
    }

    /// What it waits for; nothing at its end.
    fn awaited(&self) -> Option<PollFd<'_>> {
        match &self.from {
            _ if !self.piece.is_empty() => Some(PollFd::new(self.to, PollFlags::POLLOUT)),
            Some(from) => Some(PollFd::new(from.as_fd(), PollFlags::POLLIN)),
            None => None,
        }
    }

    /// Reads or writes, whichever it waited for, without waiting: one flow never holds the other up.
    fn go_on(&mut self) {
        let Some(from) = &mut self.from else { return };
        let reads = self.piece.is_empty();
        let done = if reads {
            self.piece.resize(Flow::PIECE, 0);
            let read = from.read(&mut self.piece);
            self.piece.truncate(*read.as_ref().unwrap_or(&0));
            read
        } else {
            // A pipe that poll(2) has called writable takes so much at once (pipe(7)).
            let part = &self.piece[..self.piece.len().min(libc::PIPE_BUF)];
            let written = nix::unistd::write(self.to, part).map_err(std::io::Error::from);
            self.piece.drain(..*written.as_ref().unwrap_or(&0));
            written
        };
        match done {
            Ok(1..) => {}
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            // EIO is a terminal's end: the last user of its other side is gone.
            Ok(0) | Err(_) => *self = Flow { is_unread: !reads, ..Flow::none(self.to) },
        }
    }
}

/// A thread; that there is no memory for one is an error like any other.
fn begin(work: impl FnOnce() + Send + 'static) -> SysResult<JoinHandle<()>> {
    std::thread::Builder::new().spawn(work).called("clone3", "thread")
}

/// Copies until either side is at its end; each piece goes on at once.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0u8; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if write_all(&mut to, &buffer[..count]).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// `write_all` that waits where the other side does not block (a terminal's master, a container's input).
fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    to.flush()
}

fn exit_code(connection: &Connection) -> Result<u8> {
    match connection.reply()? {
        Some((Reply::Exited { code }, _)) => Ok(code.clamp(0, 255) as u8),
        _ => Err(failure(Kind::NotReady, "the pod's supervisor is gone; the command's exit code is unknown")),
    }
}

/// A command with pipes: its exit code, when everything that it wrote was passed on.
pub(super) fn piped(connection: &Connection, streams: Streams) -> Result<u8> {
    // The supervisor has its ends by now: without ours, the end of file is seen.
    drop(streams.lent);
    if let Some(stdin) = streams.stdin {
        // Not waited for: a read of the user's terminal ends when it likes.
        begin(move || copy(std::io::stdin(), stdin))?;
    }
    let [out, err] = streams.outputs;
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    pass_on(connection, [Flow::new(out, stdout.as_fd()), Flow::new(err, stderr.as_fd())], Unread::IsTold)
}

/// What follows for a command whose output nobody reads any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// The next write to its pipe says so.
    IsTold,
    /// Its terminal is hung up, by the end of this process: the master is here.
    HangsUp,
}

/// The exit code of who is killed by SIGPIPE.
const BROKEN_PIPE: u8 = 141;

/// Passes output on until the command has ended and all of it was written; its exit code.
fn pass_on(connection: &Connection, mut flows: [Flow<'_>; 2], unread: Unread) -> Result<u8> {
    let mut code = None;
    loop {
        if unread == Unread::HangsUp && flows.iter().any(|flow| flow.is_unread) {
            return Ok(code.unwrap_or(BROKEN_PIPE));
        }
        let reply = code.is_none().then(|| PollFd::new(connection.as_fd(), PollFlags::POLLIN));
        let awaited = [flows[0].awaited(), flows[1].awaited(), reply];
        let mut polled: Vec<PollFd<'_>> = awaited.iter().flatten().cloned().collect();
        if let (Some(code), true) = (code, polled.is_empty()) {
            return Ok(code);
        }
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled.called("poll", "a command's output")?,
        };
        let mut answers = polled.iter().map(|fd| fd.any() != Some(false));
        let ready = awaited.map(|awaited| awaited.is_some() && answers.next() == Some(true));
        for (flow, _) in flows.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            flow.go_on();
        }
        if ready[2] {
            code = Some(exit_code(connection)?);
        }
    }
}

/// A container's own output, with something to write its input to.
pub(super) fn attached(connection: Connection, streams: Streams, input: Option<OwnedFd>) -> Result<u8> {
    if let Some(input) = input {
        begin(move || copy(std::io::stdin(), File::from(input)))?;
    }
    piped(&connection, streams)
}

/// A command with a terminal: sizes and, in raw mode, input passed on; its exit code.
pub(super) fn terminal(connection: &Connection, master: OwnedFd, input: Input) -> Result<u8> {
    follow_size(master.as_fd())?;
    let raw = match input {
        Input::PassedOn => {
            let writer = File::from(master.try_clone().called("fcntl", "F_DUPFD_CLOEXEC")?);
            let raw = terminal::Raw::stdin().ok();
            begin(move || copy(std::io::stdin(), writer))?;
            raw
        }
        // Nothing is passed on: keys are this side's terminal's, ^C too.
        Input::Empty => None,
    };
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let flows = [Flow::new(File::from(master), stdout.as_fd()), Flow::none(stderr.as_fd())];
    let code = pass_on(connection, flows, Unread::HangsUp)?;
    drop(raw);
    Ok(code)
}

/// Gives a terminal the size of the user's own, now and whenever that changes. To be called before any thread is begun: they
/// must not get the signal.
pub(super) fn follow_size(master: BorrowedFd<'_>) -> SysResult<()> {
    let resizes = Interrupts::resizes()?;
    let sizes = master.try_clone_to_owned().called("fcntl", "F_DUPFD_CLOEXEC")?;
    let follow = move || {
        while process::set_terminal_size(sizes.as_fd(), terminal::size()).is_ok() {
            if poll(&mut [PollFd::new(resizes.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).is_err() {
                return;
            }
            while let Ok(Some(_)) = resizes.next() {}
        }
    };
    begin(follow).map(drop)
}
