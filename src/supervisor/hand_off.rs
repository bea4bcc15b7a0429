//! A process that performs steps, as its supervisor sees it: what it says until it has become the container, or the command in one.

use super::poll::{Poll, Source, Token};
use crate::runtime::{self, FailureKind, FromInit, Seen, Start, StepFailure};
use crate::sys::process::{self, Child, Ended};
use crate::sys::{Called, SysResult};
use anyhow::Result;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};

/// How far a process came.
pub(super) enum Stage {
    /// It performs the steps.
    Creating,
    /// It waits to be told to start (CRI's CONTAINER_CREATED).
    Created,
    /// It was told to start; end of file on the hand-off means that it did.
    Starting,
    /// execve(2) succeeded.
    Running,
    /// It said what failed, and is about to end.
    Failed(StepFailure),
}

/// A process whose end is an event of the loop, and what it says before it executes its command.
pub(super) struct Watched {
    pub(super) child: Child,
    pub(super) stage: Stage,
    start: Start,
    exit: Token,
    hand_off: Option<(Token, OwnedFd)>,
}

/// What it says.
pub(super) enum Heard {
    /// Nothing for now, or for good.
    Nothing,
    /// What it could not do, and went on without.
    Note(String),
    /// It waits before this step (`run --step`).
    Paused(usize),
    /// Another process performs the rest of the steps, and is the child now.
    Born,
    /// Its terminal.
    Terminal(Option<OwnedFd>),
    /// All steps are done but those that follow the word to start.
    Ready,
    /// Which step failed, and how.
    Failed(String),
    /// execve(2) succeeded.
    Executed,
}

impl Watched {
    /// `exit` is the event of its end, that of the hand-off what it says; who does not perform steps of ours has none.
    pub(super) fn new(
        poll: &mut Poll,
        stage: Stage,
        (child, exit): (Child, Source),
        hand_off: Option<(OwnedFd, Source)>,
    ) -> Result<Watched> {
        let hand_off = match hand_off {
            Some((socket, source)) => Some((poll.watch(&socket, source)?, socket)),
            None => None,
        };
        let exit = poll.watch(&child.pidfd, exit)?;
        Ok(Watched { child, stage, start: Start::WhenTold, exit, hand_off })
    }

    /// The same, of a process that was made to execute its command then; at once is only who is born in the place of another.
    pub(super) fn that_starts(self, start: Start) -> Watched {
        Watched { start, ..self }
    }

    /// The next thing that it says; `exit` is the event of its end.
    pub(super) fn hear(&mut self, poll: &mut Poll, exit: Source) -> Result<Heard> {
        let Some((_, socket)) = &self.hand_off else { return Ok(Heard::Nothing) };
        if matches!(self.stage, Stage::Failed(_)) {
            // Whatever else it says: it is about to end.
            self.hang_up(poll);
            return Ok(Heard::Nothing);
        }
        let seen = match runtime::receive(socket.as_fd()) {
            Ok(seen) => seen,
            Err(error) => return self.fail(error.to_string()).map(|()| Heard::Nothing),
        };
        Ok(match seen {
            Seen::Nothing => Heard::Nothing,
            Seen::Message(FromInit::Note { text }, _) => Heard::Note(text),
            Seen::Message(FromInit::Paused { step }, _) => Heard::Paused(step),
            Seen::Message(FromInit::Born, Some(pidfd)) => {
                let child = reborn(&self.child, pidfd)?;
                self.become_child(child, poll, exit)?;
                if self.start == Start::AtOnce {
                    self.stage = Stage::Starting;
                }
                Heard::Born
            }
            Seen::Message(FromInit::Born, None) => {
                self.fail("its process has no pidfd".into())?;
                Heard::Nothing
            }
            Seen::Message(FromInit::Terminal, sent) => Heard::Terminal(sent),
            Seen::Message(FromInit::Ready, _) => Heard::Ready,
            Seen::Message(FromInit::Failed(failure), _) => {
                let text = failure.to_string();
                self.stage = Stage::Failed(failure);
                Heard::Failed(text)
            }
            Seen::Closed => {
                self.hang_up(poll);
                match self.stage {
                    Stage::Starting => {
                        self.stage = Stage::Running;
                        Heard::Executed
                    }
                    // Without Ready before it, it died: its pidfd says how.
                    _ => Heard::Nothing,
                }
            }
        })
    }

    /// Tells it to execute its command.
    pub(super) fn start(&mut self) -> Result<()> {
        let Some((_, socket)) = &self.hand_off else { return Ok(()) };
        match runtime::start(socket.as_fd()) {
            Ok(true) => self.stage = Stage::Starting,
            // It was killed while it waited; its pidfd says so. If not, it is told nothing any more.
            Ok(false) => self.kill()?,
            Err(error) => self.fail(error.to_string())?,
        }
        Ok(())
    }

    /// If it waits before a step, it performs that. Whether it could be told.
    pub(super) fn go_on(&self) -> bool {
        self.hand_off.as_ref().is_some_and(|(_, socket)| runtime::go_on(socket.as_fd()).is_ok())
    }

    /// It is of no use any more, for this reason.
    pub(super) fn fail(&mut self, message: String) -> Result<()> {
        self.stage = Stage::Failed(StepFailure { step: "hand-off".into(), message, kind: FailureKind::Setup });
        self.kill()
    }

    /// SIGKILL.
    pub(super) fn kill(&self) -> Result<()> {
        Ok(process::send_signal(self.child.pidfd.as_fd(), libc::SIGKILL)?)
    }

    /// Another process goes on in its place.
    pub(super) fn become_child(&mut self, child: Child, poll: &mut Poll, exit: Source) -> Result<()> {
        // If it cannot be watched, the end of the one before it is still an event.
        let exit = poll.watch(&child.pidfd, exit)?;
        poll.forget(self.exit, self.child.pidfd.as_fd());
        (self.child, self.exit) = (child, exit);
        Ok(())
    }

    /// Its pid, if it has ended: all that it had to say is there to be heard, also by the process that it made to go on in its place.
    pub(super) fn over(&self) -> Result<Option<i32>> {
        let ended = process::look(self.child.pidfd.as_fd())?;
        if ended.is_some() && matches!(self.stage, Stage::Creating) {
            process::kill_siblings(&self.child)?;
        }
        Ok(ended.map(|_| self.child.pid))
    }

    /// Reaps it, if it has ended and is a process of podshim's own making; if it might still make the one that goes on in its place,
    /// with that.
    pub(super) fn try_wait(&self) -> SysResult<Option<Ended>> {
        match self.stage {
            Stage::Creating | Stage::Failed(_) => process::try_wait_with_siblings(&self.child),
            Stage::Created | Stage::Starting | Stage::Running => process::try_wait(self.child.pidfd.as_fd()),
        }
    }

    /// Nothing of it is an event any more.
    pub(super) fn forget(&mut self, poll: &mut Poll) {
        poll.forget(self.exit, self.child.pidfd.as_fd());
        self.hang_up(poll);
    }

    fn hang_up(&mut self, poll: &mut Poll) {
        if let Some((token, socket)) = self.hand_off.take() {
            poll.forget(token, socket.as_fd());
        }
    }
}

/// The process that performs the rest of the steps takes the place of the one that made it, which has nothing left to do. The message may be forged by who can trace such a process: it is waited for only after SIGKILL.
fn reborn(old: &Child, new: OwnedFd) -> Result<Child> {
    let new = process::child_of(new)?;
    process::send_signal(old.pidfd.as_fd(), libc::SIGKILL)?;
    waitpid(Pid::from_raw(old.pid), None).called("waitpid", old.pid)?;
    Ok(new)
}
