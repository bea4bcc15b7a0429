//! What was done to make a pod, as it happens: one JSON object a line, in the pod's state directory, for pods that were run
//! with `--explain`.
//!
//! Two kinds of processes write here: the supervisor its own acts, and each container's init its steps, by memory that it
//! shares with the supervisor. What comes of an init is not trusted, only shown.

use super::pod::Supervisor;
use crate::error::{Kind, failure};
use crate::paths::PodDirs;
use crate::plan::config::Pace;
use crate::runtime::{NamespaceKind, Performed, Showing, Step};
use crate::store::Pod;
use crate::sys::Called;
use crate::sys::memory::Shared;
use crate::sys::record::{self, Call};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::rc::Rc;

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it began, in nanoseconds of CLOCK_BOOTTIME.
    pub at: u64,
    /// Nanoseconds that it took.
    pub took: u64,
    /// Whose doing it was.
    pub who: Who,
    /// What was done.
    pub what: What,
    /// The system calls that it took, as far as they make something of a container.
    pub calls: Vec<Call>,
    /// What the kernel made: namespaces by their numbers, addresses, processes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who does something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// The pod's supervisor.
    Supervisor,
    /// The process that becomes a container.
    Init {
        /// The container.
        container: String,
        /// Which of its instances, from 0 on.
        restart_count: u32,
        /// Its pid, as the host sees it.
        pid: i32,
    },
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The supervisor prepares something.
    Act(Act),
    /// Init performs a step.
    Step(Step),
    /// Init waits before a step to be told to go on.
    Pause(Step),
    /// Nothing more is recorded: there is no room.
    Full,
}

/// What a supervisor does for a pod, beside waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// A volume is set up.
    Volume {
        /// Its name in the manifest.
        name: String,
    },
    /// /dev/shm, and the place of /etc/hosts, /etc/resolv.conf and /etc/hostname.
    OwnFiles,
    /// The cgroup of the pod.
    PodCgroup,
    /// The pod's namespaces.
    Namespaces,
    /// The pod is put on its network.
    Network,
    /// A container's root file system, of its image's layers and a writable one.
    RootFileSystem {
        /// The container.
        container: String,
    },
    /// What is to be mounted into a container is opened.
    Sources {
        /// The container.
        container: String,
    },
    /// The cgroup of a container.
    Cgroup {
        /// The container.
        container: String,
    },
    /// The process that becomes a container.
    Init {
        /// The container.
        container: String,
    },
}

/// The largest file, in bytes.
const MAX_BYTES: usize = 8 << 20;
/// Room for what one init tells, in bytes.
const MAX_OF_INIT: usize = 4 << 20;

/// Where a pod's making is written down, if it is.
#[derive(Clone)]
pub(super) struct Timeline(Option<Rc<RefCell<Open>>>);

struct Open {
    file: File,
    path: PathBuf,
    pace: Pace,
    room: usize,
}

impl Timeline {
    /// That of a pod; nothing is written where nobody asked for it.
    pub(super) fn of(pod: &Pod) -> Result<Timeline> {
        let Some(pace) = pod.record.explain else { return Ok(Timeline(None)) };
        let path = pod.dirs.timeline();
        let open = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = open.called("open", path.display())?;
        Ok(Timeline(Some(Rc::new(RefCell::new(Open { file, path, pace, room: MAX_BYTES })))))
    }

    /// Whether it is written down.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Does something of the supervisor's, and writes it down; `answer` is what it came to.
    pub(super) fn act<T>(
        &self,
        act: impl FnOnce() -> Act,
        answer: impl FnOnce(&T) -> String,
        perform: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if self.0.is_none() {
            return perform();
        }
        let at = record::now();
        record::begin();
        let result = perform();
        let (took, calls) = (record::now().saturating_sub(at), record::end());
        self.write(&Entry {
            at,
            took,
            who: Who::Supervisor,
            what: What::Act(act()),
            calls,
            answer: result.as_ref().map(answer).unwrap_or_default(),
            error: result.as_ref().err().map(|error| format!("{error:#}")),
        });
        result
    }

    /// How a new container's init is to show its steps.
    pub(super) fn showing(&self) -> Result<Option<Showing>> {
        let Some(open) = &self.0 else { return Ok(None) };
        let open = open.borrow();
        if open.room == 0 {
            return Ok(None);
        }
        Ok(Some(Showing { record: Rc::new(Shared::new(MAX_OF_INIT)?), pace: open.pace }))
    }

    /// A pod's making is no reason for a pod to fail: what cannot be written is not recorded, and the file says so.
    fn write(&self, entry: &Entry) {
        let Some(open) = &self.0 else { return };
        let open = &mut *open.borrow_mut();
        let Ok(mut line) = serde_json::to_vec(entry) else { return };
        line.push(b'\n');
        if open.room == 0 {
            return;
        }
        let fits = line.len() <= open.room;
        if !fits {
            let full =
                Entry { what: What::Full, calls: Vec::new(), answer: String::new(), error: None, ..entry.clone() };
            line = serde_json::to_vec(&full).unwrap_or_default();
            line.push(b'\n');
        }
        let written = open.file.write_all(&line).called("write", open.path.display());
        open.room = if fits && written.is_ok() { open.room - line.len() } else { 0 };
    }
}

/// What init has told by now.
pub(super) struct Told {
    pub(super) record: Rc<Shared>,
    pub(super) steps: Vec<Step>,
    /// The processes that perform them, one after the other.
    pids: Vec<i32>,
    read: usize,
    /// An execve(2) that was announced; whether it succeeds is seen by the end of the hand-off.
    last: Option<Performed>,
}

impl Told {
    pub(super) fn new(record: Rc<Shared>, steps: Vec<Step>, pid: i32) -> Told {
        Told { record, steps, pids: vec![pid], read: 0, last: None }
    }

    /// Another process goes on.
    pub(super) fn born(&mut self, pid: i32) {
        self.pids.push(pid);
    }

    /// The steps that are done since the last time. Lines of an init that somebody traces may be anything.
    fn news(&mut self) -> Vec<Performed> {
        let bytes = self.record.since(self.read);
        // Whole lines only.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.read += end;
        bytes[..end].split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

/// How init came to its end, as far as its steps go.
pub(super) enum Outcome<'a> {
    /// It goes on.
    GoesOn,
    /// execve(2) succeeded.
    Executed,
    /// A step failed.
    Failed(&'a str),
}

impl Supervisor {
    /// Writes down what the init of a container has done since the last time.
    pub(super) fn take_down(&mut self, index: usize, outcome: Outcome<'_>) {
        let name = &self.pod.record.plan.containers[index].name;
        let Some(instance) = &mut self.slots[index].instance else { return };
        let restart_count = instance.restart_count;
        let Some(told) = &mut instance.told else { return };
        let news = told.news();
        let mut done: Vec<Performed> = told.last.take().into_iter().chain(news).collect();
        let is_last = |performed: &Performed| performed.step + 1 == told.steps.len();
        if matches!(outcome, Outcome::GoesOn) && done.last().is_some_and(is_last) {
            told.last = done.pop();
        }
        let count = done.len();
        for (position, mut performed) in done.into_iter().enumerate() {
            let Some(step) = told.steps.get(performed.step) else { continue };
            let mut error = None;
            if position + 1 == count {
                match outcome {
                    Outcome::Executed => performed.took = record::now().saturating_sub(performed.at),
                    Outcome::Failed(message) => error = Some(message.to_owned()),
                    Outcome::GoesOn => {}
                }
            }
            let what = What::Step(step.clone());
            let Performed { process, at, took, calls, .. } = performed;
            let Some(pid) = told.pids.get(process).copied() else { continue };
            let who = Who::Init { container: name.clone(), restart_count, pid };
            self.timeline.write(&Entry { at, took, who, what, calls, answer: String::new(), error });
        }
        if !matches!(outcome, Outcome::GoesOn) {
            // The memory that it shared goes.
            instance.told = None;
        }
    }

    /// An init waits before a step.
    pub(super) fn paused(&mut self, index: usize, step: usize) {
        self.take_down(index, Outcome::GoesOn);
        let name = &self.pod.record.plan.containers[index].name;
        let Some(instance) = &self.slots[index].instance else { return };
        let Some(step) = instance.told.as_ref().and_then(|told| told.steps.get(step)) else { return };
        let pid = instance.process.child.pid;
        let who = Who::Init { container: name.clone(), restart_count: instance.restart_count, pid };
        let what = What::Pause(step.clone());
        let entry =
            Entry { at: record::now(), took: 0, who, what, calls: Vec::new(), answer: String::new(), error: None };
        self.timeline.write(&entry);
        self.paused.push_back(index);
    }

    /// The init that has waited longest goes on (`run --step`).
    pub(super) fn go_on(&mut self) -> Result<()> {
        while let Some(index) = self.paused.pop_front() {
            // One that was killed while it waited has nothing to go on with.
            if self.slots[index].instance.as_ref().is_some_and(|instance| instance.process.go_on()) {
                return Ok(());
            }
        }
        Err(failure(Kind::NotReady, "no container of the pod waits between two steps"))
    }
}

/// Namespaces as their links in /proc name them.
pub(super) fn numbers<'a>(namespaces: impl IntoIterator<Item = (NamespaceKind, BorrowedFd<'a>)>) -> String {
    let number = |(kind, fd): (NamespaceKind, BorrowedFd<'_>)| {
        let inode = nix::sys::stat::fstat(fd).map_or(0, |status| status.st_ino);
        format!("{}:[{inode}]", kind.file())
    };
    namespaces.into_iter().map(number).collect::<Vec<_>>().join(" ")
}

/// The number of a new process, and of the pid namespace that was made with it, as /proc has that. Its other namespaces are its own
/// to make and to join, which its steps tell.
pub(super) fn born(pid: i32) -> String {
    let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    match link(&pid.to_string()).filter(|number| Some(number) != link("self").as_ref()) {
        Some(number) => format!("pid {pid}: {}", number.display()),
        None => format!("pid {pid}"),
    }
}

/// What is written of a pod's making.
pub struct Tail {
    path: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
}

impl Tail {
    /// From its beginning on.
    pub fn new(pod: &PodDirs) -> Tail {
        Tail { path: pod.timeline(), file: None, rest: Vec::new() }
    }

    /// The entries that are new.
    pub fn read(&mut self) -> Result<Vec<Entry>> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                other => Some(other.called("open", self.path.display())?),
            };
        }
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        file.read_to_end(&mut self.rest).called("read", self.path.display())?;
        // One that is being written is read when it is whole.
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..end).collect();
        Ok(lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}
