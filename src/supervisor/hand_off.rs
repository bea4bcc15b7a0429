//! A process that performs steps, as its supervisor sees it: what it says until it has become the container, or the command in one.

use super::poll::{Poll, Source, Token};
use crate::runtime::{self, FailureKind, FromInit, Seen, Start, StepFailure};
use crate::sys::process::{self, Child, Ended};
use crate::sys::{Called, SysResult};
use anyhow::{Result, ensure};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a process that is killed may take to end.
pub(super) const ENDS: Duration = Duration::from_secs(2);

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
    /// `exit` is the event of its end, that of the hand-off what it says; who does not perform steps of ours has none. If they cannot be
    /// watched, nothing is left of the process: as long as one that has joined a pid namespace is not waited for, that does not end
    /// (pid_namespaces(7)).
    pub(super) fn new(
        poll: &mut Poll,
        stage: Stage,
        (child, exit): (Child, Source),
        hand_off: Option<(OwnedFd, Source)>,
    ) -> Result<Watched> {
        let (socket, says) = hand_off.unzip();
        let watched = poll.watch(&child.pidfd, exit).and_then(|exit| {
            let token = socket.as_ref().zip(says).map(|(socket, says)| poll.watch(socket, says)).transpose();
            if token.is_err() {
                poll.forget(exit, child.pidfd.as_fd());
            }
            Ok((exit, token?))
        });
        match watched {
            Ok((exit, token)) => {
                Ok(Watched { child, stage, start: Start::WhenTold, exit, hand_off: token.zip(socket) })
            }
            Err(error) => {
                // The error to be told is the first one.
                let _ = end_unwatched(&child, socket.as_ref());
                Err(error.into())
            }
        }
    }

    /// The same, of a process that was made to execute its command then; at once is only who is born in the place of another.
    pub(super) fn that_starts(self, start: Start) -> Watched {
        Watched { start, ..self }
    }

    /// The next thing that it says; `exit` is the event of its end.
    pub(super) fn hear(&mut self, poll: &mut Poll, exit: Source) -> Result<Heard> {
        let Some((_, socket)) = &self.hand_off else { return Ok(Heard::Nothing) };
        if matches!(self.stage, Stage::Failed(_)) {
            // Whatever else it says: it is about to end. So is who goes on in its place, if that was not heard before.
            let ended = end_born(socket.as_fd());
            self.hang_up(poll);
            return ended.map(|()| Heard::Nothing);
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
                // The message may be forged by who can trace such a process: the one before it is waited for only after SIGKILL.
                match self.become_child(process::child_of(pidfd)?, poll, exit) {
                    Ok(before) => {
                        process::send_signal(before.pidfd.as_fd(), libc::SIGKILL)?;
                        waitpid(Pid::from_raw(before.pid), None).called("waitpid", before.pid)?;
                    }
                    Err(error) => return self.fail(error.to_string()).map(|()| Heard::Nothing),
                }
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

    /// Another process goes on in its place: the one before it. One that cannot be watched is ended, and the end of the one before it
    /// is still an event.
    pub(super) fn become_child(&mut self, child: Child, poll: &mut Poll, exit: Source) -> SysResult<Child> {
        let watched = poll.watch(&child.pidfd, exit);
        if watched.is_err() {
            // The error to be told is the first one.
            let _ = end(&child);
        }
        let before = std::mem::replace(&mut self.exit, watched?);
        poll.forget(before, self.child.pidfd.as_fd());
        Ok(std::mem::replace(&mut self.child, child))
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

    /// Nothing of it is an event any more: it was waited for. Whoever goes on in its place, and was not heard of because of an error, ends.
    pub(super) fn forget(&mut self, poll: &mut Poll) {
        if let Some((_, socket)) = &self.hand_off {
            // The error to be told was an earlier one.
            let _ = end_born(socket.as_fd());
        }
        poll.forget(self.exit, self.child.pidfd.as_fd());
        self.hang_up(poll);
    }

    fn hang_up(&mut self, poll: &mut Poll) {
        if let Some((token, socket)) = self.hand_off.take() {
            poll.forget(token, socket.as_fd());
        }
    }
}

/// SIGKILL to a child of ours, and to the process group that it leads, and waits for them; `None` if it does not end in time.
pub(super) fn end(child: &Child) -> SysResult<Option<Ended>> {
    process::send_signal(child.pidfd.as_fd(), libc::SIGKILL)?;
    let deadline = Instant::now() + ENDS;
    loop {
        let ended = process::try_wait_with_siblings(child)?;
        if ended.is_some() || Instant::now() > deadline {
            return Ok(ended);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The same, of a process whose end is no event, and of whoever goes on in its place.
pub(super) fn end_unwatched(child: &Child, hand_off: Option<&OwnedFd>) -> Result<()> {
    let ended = end(child)?;
    hand_off.map_or(Ok(()), |socket| end_born(socket.as_fd()))?;
    ensure!(ended.is_some(), "process {} does not end", child.pid);
    Ok(())
}

/// Ends whoever was to go on in the place of a process that was killed: by then it may have left its process group, and said so before.
fn end_born(hand_off: BorrowedFd<'_>) -> Result<()> {
    while let Seen::Message(message, pidfd) = runtime::receive(hand_off)? {
        // One that was found in the group is no child any more; nor is who is named by a message that is forged.
        if let (FromInit::Born, Some(pidfd)) = (message, pidfd)
            && let Ok(born) = process::child_of(pidfd)
        {
            end(&born)?;
        }
    }
    Ok(())
}
