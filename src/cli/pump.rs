//! Bytes between the user's standard descriptors and a container's.
//!
//! A container never gets the user's own descriptors, which may be a terminal (TIOCSTI), a file or a directory of the host:
//! it gets pipes, and threads copy.

use super::terminal::{self, Interrupts};
use crate::control::{Connection, Reply};
use crate::error::{Kind, failure};
use crate::sys::{Called, SysResult, process};
use anyhow::Result;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::fs::File;
use std::io::{Read, Write};
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

    /// Begins to copy; the supervisor has its ends by now, ours of them are closed so that end of file is seen.
    fn copy(self) -> SysResult<[JoinHandle<()>; 2]> {
        drop(self.lent);
        if let Some(stdin) = self.stdin {
            // Not waited for: a read of the user's terminal ends when it likes.
            begin(move || copy(std::io::stdin(), stdin))?;
        }
        let [out, err] = self.outputs;
        Ok([begin(move || copy(out, std::io::stdout()))?, begin(move || copy(err, std::io::stderr()))?])
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
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            // EIO: the last user of a terminal's other side is gone.
            Err(_) => return,
        }
    }
}

/// `write_all` that waits where the other side does not block (a terminal's master, a container's input).
fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(std::time::Duration::from_millis(5))
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
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

/// A command with pipes: its exit code.
pub(super) fn piped(connection: &Connection, streams: Streams) -> Result<u8> {
    let copies = streams.copy()?;
    let code = exit_code(connection)?;
    for one in copies {
        // Everything that it wrote is shown before we end; a panic of the copying thread was printed by it.
        let _ = one.join();
    }
    Ok(code)
}

/// A container's own output, with something to write its input to.
pub(super) fn attached(connection: Connection, streams: Streams, input: Option<OwnedFd>) -> Result<u8> {
    if let Some(input) = input {
        begin(move || copy(std::io::stdin(), File::from(input)))?;
    }
    piped(&connection, streams)
}

/// A command with a terminal: raw mode, sizes passed on, its exit code.
pub(super) fn terminal(connection: &Connection, master: OwnedFd) -> Result<u8> {
    let resizes = Interrupts::resizes()?;
    let raw = terminal::Raw::stdin().ok();
    let duplicate = || master.try_clone().called("fcntl", "F_DUPFD_CLOEXEC");
    let (reader, writer, sizes) = (File::from(duplicate()?), File::from(duplicate()?), duplicate()?);
    begin(move || copy(std::io::stdin(), writer))?;
    begin(move || {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        while poll(&mut [PollFd::new(resizes.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).is_ok() {
            while let Ok(Some(_)) = resizes.next() {}
            if process::set_terminal_size(sizes.as_fd(), terminal::size()).is_err() {
                return;
            }
        }
    })?;
    let output = begin(move || copy(reader, std::io::stdout()))?;
    drop(master);
    let code = exit_code(connection)?;
    let _ = output.join();
    drop(raw);
    Ok(code)
}
