//! The user's terminal and the signals that come from it.

use crate::error::{Kind, failure};
use crate::sys::process::{TerminalSize, terminal_size};
use crate::sys::{Called, SysResult};
use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd};

/// SIGINT, SIGTERM and SIGHUP as something that can be polled.
pub(super) struct Interrupts {
    signals: SignalFd,
}

impl Interrupts {
    /// Catches them from now on.
    pub(super) fn catch() -> SysResult<Interrupts> {
        Interrupts::of(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
    }

    /// SIGWINCH.
    pub(super) fn resizes() -> SysResult<Interrupts> {
        Interrupts::of(&[Signal::SIGWINCH])
    }

    fn of(list: &[Signal]) -> SysResult<Interrupts> {
        let set: SigSet = list.iter().copied().collect();
        set.thread_block().called("sigprocmask", "terminal signals")?;
        let signals =
            SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).called("signalfd", "")?;
        Ok(Interrupts { signals })
    }

    /// The next one that came; its number.
    pub(super) fn next(&self) -> SysResult<Option<i32>> {
        let info = self.signals.read_signal().called("read", "signalfd")?;
        Ok(info.map(|info| info.ssi_signo as i32))
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

/// A terminal in raw mode, put back when dropped.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// Standard input, which must be a terminal.
    pub(super) fn stdin() -> SysResult<Raw> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).called("tcgetattr", "standard input")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).called("tcsetattr", "standard input")?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// Of `-it`.
///
/// # Errors
/// Of kind `Invalid`: standard input is no terminal.
pub(super) fn require_stdin() -> Result<()> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(failure(Kind::Invalid, "-t with -i takes a terminal as standard input: leave -t away"))
}

/// The size of the terminal at standard output or input; 24 × 80 if neither is one.
pub(super) fn size() -> TerminalSize {
    let stdout = std::io::stdout();
    let stdin = std::io::stdin();
    let fd = if stdout.is_terminal() { stdout.as_fd() } else { stdin.as_fd() };
    match terminal_size(fd) {
        Ok(size) if size.rows > 0 && size.columns > 0 => size,
        _ => TerminalSize { rows: 24, columns: 80 },
    }
}
