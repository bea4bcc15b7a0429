//! `podshim run --explain`: tells how pods are made while they are, on standard error; with `--step`, step by step.

use super::bring_up::Started;
use crate::control::{Connection, Request};
use crate::error::say;
use crate::explain::{Detail, Teller};
use crate::paths::PodDirs;
use crate::plan::config::Pace;
use crate::store::Pod;
use crate::supervisor::timeline::{Tail, What};
use crate::sys::Called;
use anyhow::{Context, Result};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::JoinHandle;

/// What to tell of the making of pods.
#[derive(Debug, Clone, Args)]
pub(super) struct ExplainRunArgs {
    /// Tell on standard error how the pods are made, step by step, and why; with `full`, each system call too
    #[arg(long, value_name = "DETAIL", num_args = 0..=1, require_equals = true, default_missing_value = "brief")]
    explain: Option<Detail>,
    /// Stop before each step of a container's start, to look around from another terminal: Enter goes on
    #[arg(long)]
    step: bool,
}

impl ExplainRunArgs {
    /// Whether and how the pods' making is written down.
    pub(super) fn pace(&self) -> Option<Pace> {
        match (self.step, self.explain) {
            (true, _) => Some(Pace::StepByStep),
            (false, Some(_)) => Some(Pace::Through),
            (false, None) => None,
        }
    }

    /// Begins to tell of pods that have just been started.
    pub(super) fn narrate(&self, started: &[Started]) -> Result<Option<Narrator>> {
        let Some(pace) = self.pace() else { return Ok(None) };
        let detail = self.explain.unwrap_or(Detail::Brief);
        let mut stories = Vec::new();
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).called("inotify_init1", "")?;
        for one in started {
            let path = one.pod.dirs.timeline();
            inotify.add_watch(&path, AddWatchFlags::IN_MODIFY).called("inotify_add_watch", path.display())?;
            let name = (started.len() > 1).then(|| one.pod.full_name());
            let teller = Teller::new(name, detail, &one.pod.dirs);
            stories.push(Story { pod: one.pod.dirs.clone(), tail: Tail::new(&one.pod.dirs), teller });
        }
        let (end, ends) = std::io::pipe().called("pipe", "")?;
        let mut telling = Telling { stories, inotify, end, pace };
        let thread = std::thread::Builder::new()
            .name("explain".into())
            .spawn(move || telling.run())
            .called("clone", "a thread that explains")?;
        Ok(Some(Narrator { thread, ends }))
    }
}

/// Tells of a pod that could not be set up, before it is removed.
pub(super) fn tell_failed(pod: &Pod) -> Result<()> {
    if pod.record.explain.is_none() {
        return Ok(());
    }
    let mut teller = Teller::new(None, Detail::Full, &pod.dirs);
    Tail::new(&pod.dirs).read()?.iter().for_each(|entry| say!("{}", teller.tell(entry).trim_end_matches('\n')));
    Ok(())
}

/// Somebody who tells.
pub(super) struct Narrator {
    thread: JoinHandle<Result<()>>,
    ends: PipeWriter,
}

impl Narrator {
    /// Tells what there is still to be told, and no more.
    pub(super) fn finish(self) -> Result<()> {
        drop(self.ends);
        match self.thread.join() {
            Ok(result) => result.context("explaining"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// One pod's making.
struct Story {
    pod: PodDirs,
    tail: Tail,
    teller: Teller,
}

struct Telling {
    stories: Vec<Story>,
    inotify: Inotify,
    end: PipeReader,
    pace: Pace,
}

/// What was waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    News,
    End,
}

impl Telling {
    fn run(&mut self) -> Result<()> {
        loop {
            self.tell()?;
            if self.wait(self.inotify.as_fd())? == Woken::End {
                return self.tell();
            }
            // Which file it was is of no interest.
            let _ = self.inotify.read_events();
        }
    }

    /// Tells what is new; where an init waits, it is asked for Enter first.
    fn tell(&mut self) -> Result<()> {
        for at in 0..self.stories.len() {
            for entry in self.stories[at].tail.read()? {
                let story = &mut self.stories[at];
                say!("{}", story.teller.tell(&entry).trim_end_matches('\n'));
                if matches!(entry.what, What::Pause(_)) {
                    self.pause()?;
                    // One that has been killed meanwhile has nothing to go on with.
                    let _ = Connection::open(&self.stories[at].pod.socket(), &Request::GoOn, &[])
                        .and_then(|connection| connection.reply());
                }
            }
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<()> {
        if self.pace == Pace::Through {
            return Ok(());
        }
        let stdin = std::io::stdin();
        loop {
            if self.wait(stdin.as_fd())? == Woken::End {
                return Ok(());
            }
            let mut byte = [0];
            match nix::unistd::read(stdin.as_fd(), &mut byte) {
                Ok(0) => {
                    say!("podshim: standard input has ended: the rest goes without a stop");
                    self.pace = Pace::Through;
                    return Ok(());
                }
                Ok(_) if byte == *b"\n" => return Ok(()),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno).called("read", "standard input").map_err(Into::into),
            }
        }
    }

    fn wait(&self, fd: BorrowedFd<'_>) -> Result<Woken> {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(self.end.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other.called("poll", "what is to be explained")?,
            };
            return Ok(if fds[1].any() == Some(true) { Woken::End } else { Woken::News });
        }
    }
}
