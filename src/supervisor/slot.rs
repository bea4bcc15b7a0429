//! One container's place in its pod: the process that fills it, its output, its end.

use super::external::External;
use super::hand_off::{Heard, Stage, Watched};
use super::keep::{Remnant, Traces};
use super::pod::{StartFailed, Supervisor};
use super::poll::{Output, Source, Token};
use super::signals;
use super::timeline::{Outcome, Told};
use crate::cgroups::Cgroup;
use crate::control::RefusedKind;
use crate::lifecycle::{Event, Exit, StartFailure};
use crate::logs::{self, Stream};
use crate::plan::adjust::Adjustment;
use crate::plan::config::{NamespaceMode, TerminationMessagePolicy};
use crate::runtime::{Confinement, FailureKind};
use crate::sys::Called;
use crate::sys::process::{self, Ended};
use anyhow::Result;
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

/// A container's place: empty between two instances.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) instance: Option<Instance>,
    pub(super) pull: Option<super::pull::Pull>,
    pub(super) early: super::early::Early,
    pub(super) attached: Vec<Attached>,
    /// The start under way was given up: that it fails is no failure.
    pub(super) start_cancelled: bool,
    /// What is to be changed of its spec.
    pub(super) adjustment: Option<Adjustment>,
    /// What no other container of a commanded pod may have; empty if it has none.
    pub(super) identity: String,
    /// What kind of failure it was that it could not start, if nobody has taken the pod over since.
    pub(super) refused: Option<RefusedKind>,
}

impl Slot {
    /// Gives memory back that is of use only while something happens.
    pub(super) fn release(&mut self) {
        if let Some(log) = self.instance.as_mut().and_then(|instance| instance.log.as_mut()) {
            log.release();
        }
    }
}

/// A client that sees a container's output as it comes.
pub(super) struct Attached {
    pub(super) client: u64,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// One process that is or becomes a container.
pub(super) struct Instance {
    pub(super) process: Watched,
    pub(super) cgroup: Cgroup,
    pub(super) restart_count: u32,
    /// `None` if its output is kept nowhere, or not yet.
    pub(super) log: Option<logs::Writer>,
    /// When its log is tried again, which could not be opened when the pod was taken over.
    pub(super) log_again: Option<Instant>,
    /// What the supervisor reads of the container's output.
    pub(super) outputs: Vec<(Output, Token, OwnedFd)>,
    /// What `attach` writes the container's input to: a FIFO or the terminal's master.
    pub(super) input: Option<OwnedFd>,
    pub(super) id: String,
    /// If its steps are shown.
    pub(super) told: Option<Told>,
    /// If an OCI runtime of the host made it.
    pub(super) external: Option<External>,
    /// Of those that join it, once there was one.
    pub(super) confinement: Option<Confinement>,
}

/// How much of an ended container's output is still read: more than its FIFOs hold. Who else has got hold of one could
/// write to it for ever.
const LAST_READS: usize = 64;

/// How long it takes until a log is tried again that could not be opened.
const LOG_AGAIN: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn instance_id(&self, index: usize, restart_count: u32) -> String {
        let plan = &self.pod.record.plan;
        format!("{}-{}-{restart_count}", plan.sandbox.uid, plan.containers[index].name)
    }

    /// Init has something to say, or has become the container.
    pub(super) fn hand_off(&mut self, index: usize) -> Result<()> {
        let is_commanded = self.life.commanded().is_some();
        loop {
            let Some(instance) = &mut self.slots[index].instance else { return Ok(()) };
            match instance.process.hear(&mut self.poll, Source::Exit(index))? {
                Heard::Nothing => return Ok(()),
                Heard::Note(text) => self.note(index, text),
                Heard::Paused(step) => self.paused(index, step),
                Heard::Born => {
                    if let Some(told) = &mut instance.told {
                        told.born(instance.process.child.pid);
                    }
                }
                Heard::Terminal(Some(master)) => self.terminal_opened(index, master)?,
                Heard::Terminal(None) => {}
                Heard::Ready if is_commanded => {
                    instance.process.stage = Stage::Created;
                    self.take_down(index, Outcome::GoesOn);
                    self.held(index)?;
                }
                Heard::Ready => {
                    self.set_off(index)?;
                    self.take_down(index, Outcome::GoesOn);
                }
                Heard::Failed(message) => self.take_down(index, Outcome::Failed(&message)),
                Heard::Executed => {
                    self.take_down(index, Outcome::Executed);
                    self.queue.push_back(Event::Started { container: index });
                    // Who came with the container waits for its start.
                    let early: Vec<u64> = self.slots[index].attached.iter().map(|a| a.client).collect();
                    early.into_iter().try_for_each(|client| self.say_started(client, index))?;
                }
            }
        }
    }

    /// Tells the init that waits to execute its command.
    pub(super) fn set_off(&mut self, index: usize) -> Result<()> {
        self.keep_instance(index);
        let Some(instance) = &mut self.slots[index].instance else { return Ok(()) };
        instance.process.start()?;
        if matches!(instance.process.stage, Stage::Starting) {
            self.keep_instance(index);
        }
        Ok(())
    }

    pub(super) fn terminal_opened(&mut self, index: usize, master: OwnedFd) -> Result<()> {
        nix::fcntl::fcntl(
            &master,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NONBLOCK),
        )
        .called("fcntl", "terminal")?;
        let Some(instance) = &mut self.slots[index].instance else { return Ok(()) };
        instance.input = Some(crate::runtime::duplicate(master.as_fd())?);
        let token = self.poll.watch(&master, Source::Output(index, Output::Terminal))?;
        instance.outputs.push((Output::Terminal, token, master));
        Ok(())
    }

    /// Some output can be read.
    pub(super) fn output_ready(&mut self, index: usize, output: Output) -> Result<()> {
        self.open_log_again(index);
        // One read a turn: a container that floods does not keep the others waiting.
        self.read_output(index, output);
        Ok(())
    }

    /// If its log could not be opened when the pod was taken over. What the old supervisor had left for it is given up: between that and
    /// what comes now something is missing.
    fn open_log_again(&mut self, index: usize) {
        let Some(instance) = &self.slots[index].instance else { return };
        if instance.log_again.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let opened = self.open_output_log(index, instance.restart_count);
        let Some(instance) = &mut self.slots[index].instance else { return };
        match opened {
            Ok(log) => (instance.log, instance.log_again) = (log, None),
            // It was told of.
            Err(_) => instance.log_again = Some(Instant::now() + LOG_AGAIN),
        }
    }

    /// Reads once; whether there may be more.
    fn read_output(&mut self, index: usize, output: Output) -> bool {
        let slot = &mut self.slots[index];
        let Some(instance) = &mut slot.instance else { return false };
        let Some(at) = instance.outputs.iter().position(|(which, ..)| *which == output) else { return false };
        let stream = if output == Output::Stderr { Stream::Stderr } else { Stream::Stdout };
        let from = instance.outputs[at].2.as_fd();
        let also = |bytes: &[u8]| pass_on(&mut slot.attached, output, bytes);
        let copied = match &mut instance.log {
            Some(log) => log.copy(stream, from, also),
            None => read_once(from, also).map(|count| (count, logs::Outcome::default())),
        };
        let mut log_trouble = None;
        let more = match copied {
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            Ok((count, outcome)) if count > 0 => {
                log_trouble = outcome.trouble.map(|error| format!("{} log records are lost: {error}", outcome.lost));
                true
            }
            // End of file, or EIO of a terminal whose last user is gone.
            _ => {
                let (_, token, fd) = instance.outputs.remove(at);
                self.poll.forget(token, fd.as_fd());
                if let Some(log) = &mut instance.log {
                    log.end(stream, jiff::Timestamp::now());
                }
                false
            }
        };
        if let Some(message) = log_trouble {
            self.note(index, message);
        }
        more
    }

    /// A container's first process has ended.
    pub(super) fn exited(&mut self, index: usize) -> Result<()> {
        let Some(instance) = &self.slots[index].instance else { return Ok(()) };
        let Some(gone) = instance.process.over()? else { return Ok(()) };
        // What it said last, before it is said that it ended; also that another process goes on in its place.
        self.hand_off(index)?;
        let ended = match &self.slots[index].instance {
            Some(instance) if instance.process.child.pid == gone => match instance.external {
                None => instance.process.try_wait()?,
                Some(_) => process::try_wait(instance.process.child.pidfd.as_fd())?,
            },
            _ => None,
        };
        let Some(ended) = ended else { return Ok(()) };
        if self.external_created(index, ended)? {
            return Ok(());
        }
        self.finish_start(index);
        self.look_at_reaper();
        let is_over = |instance: &&Instance| instance.external.is_none() && self.has_own_pids(index);
        if let Some(instance) = self.slots[index].instance.as_ref().filter(|instance| !is_over(instance)) {
            // Its other processes end with it.
            if let Err(error) = instance.cgroup.kill(Duration::from_secs(2)) {
                self.warn("KillContainerError", format!("{error:#}"));
            }
        }
        for output in [Output::Stdout, Output::Stderr, Output::Terminal] {
            for _ in 0..LAST_READS {
                if !self.read_output(index, output) {
                    break;
                }
            }
        }
        let Some(instance) = self.slots[index].instance.take() else { return Ok(()) };
        self.last_words(index, &instance, ended);
        self.clear(index, instance)?;
        for attached in std::mem::take(&mut self.slots[index].attached) {
            self.tell_exit(attached.client, ended);
        }
        Ok(())
    }

    /// Whether the kernel has ended all of a container's processes when its first has ended (pid_namespaces(7)).
    fn has_own_pids(&self, index: usize) -> bool {
        let plan = &self.pod.record.plan;
        plan.sandbox.namespaces.pid == NamespaceMode::Container && plan.containers[index].target.is_none()
    }

    /// Tells the machine how an instance ended.
    fn last_words(&mut self, index: usize, instance: &Instance, ended: Ended) {
        let count = instance.restart_count;
        match &instance.process.stage {
            Stage::Failed(failed) => {
                // 128 is what containerd reports (reason StartError).
                let start = StartFailure::Start { exit_code: 128 };
                let (failure, kind) = match failed.kind {
                    FailureKind::Setup => (StartFailure::Create, RefusedKind::Failed),
                    FailureKind::Refused => (StartFailure::Create, RefusedKind::Invalid),
                    FailureKind::CommandNotFound => (start, RefusedKind::CommandNotFound),
                    FailureKind::CommandNotExecutable => (start, RefusedKind::CommandNotExecutable),
                };
                self.start_failed(index, count, StartFailed { failure, kind, message: failed.to_string() });
            }
            Stage::Creating => {
                let message = format!("its init ended ({ended:?}) before the container was created");
                let kind = RefusedKind::Failed;
                self.start_failed(index, count, StartFailed { failure: StartFailure::Create, kind, message });
            }
            Stage::Created | Stage::Starting | Stage::Running => {
                let oom_killed = instance.cgroup.oom_kills().unwrap_or(0) > 0;
                let (code, signal) = match ended {
                    Ended::Exited(code) => (code, None),
                    Ended::Signaled(signal) => (128 + signal, Some(signal)),
                    Ended::Unknown => return self.queue.push_back(Event::Vanished { container: index }),
                };
                let message = self.termination_message(index, instance, code);
                let exit = Exit { code, signal, oom_killed, message };
                self.queue.push_back(Event::Exited { container: index, exit });
            }
        }
    }

    /// pod-api.md §11: the file's last 4096 bytes, or the log's last lines.
    fn termination_message(&self, index: usize, instance: &Instance, code: i32) -> String {
        const MAX_FILE: u64 = 4096;
        let config = &self.pod.record.plan.containers[index];
        if config.termination_message_path.is_empty() {
            return String::new();
        }
        let path = self.pod.dirs.termination_message(&config.name, instance.restart_count);
        let mut bytes = Vec::new();
        // Whoever has a lease on it (fcntl(2)) is not waited for.
        let open = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        if let Ok(file) = open
            && let Ok(metadata) = file.metadata()
        {
            bytes.resize(metadata.len().min(MAX_FILE) as usize, 0);
            if file.read_exact_at(&mut bytes, metadata.len().saturating_sub(MAX_FILE)).is_err() {
                bytes.clear();
            }
        }
        let fall_back = config.termination_message_policy == TerminationMessagePolicy::FallbackToLogsOnError;
        if bytes.is_empty() && code != 0 && fall_back {
            let log = crate::paths::log_file(
                &self.pod.record.plan.sandbox.log_directory,
                &config.name,
                instance.restart_count,
            );
            return logs::last_lines(&log, 80, 2048).unwrap_or_default();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Takes away what an instance had.
    pub(super) fn clear(&mut self, index: usize, mut instance: Instance) -> Result<()> {
        if let Some(log) = &mut instance.log {
            log.end_all(jiff::Timestamp::now());
        }
        self.unkept.remove(&index);
        instance.process.forget(&mut self.poll);
        for (_, token, fd) in &instance.outputs {
            self.poll.forget(*token, fd.as_fd());
        }
        self.drop_tasks(index);
        if let Some(external) = instance.external.take() {
            self.clear_external(external)?;
        }
        let name = self.pod.record.plan.containers[index].name.clone();
        let layer = self.pod.dirs.container_data(&name, instance.restart_count);
        if self.has_own_pids(index) && self.ends() {
            self.discard_with_pod(instance.cgroup);
        } else if let Err(error) = instance.cgroup.end(Duration::from_secs(2)) {
            self.warn("KillContainerError", format!("container {name}: {error:#}"));
        }
        // A large layer takes a while: not before it is told that the container ended.
        let traces = Traces::of(&self.pod.dirs, &name);
        self.discard_later(Remnant { container: index, layer, traces });
        Ok(())
    }

    /// `lifecycle.stopSignal`, else the image's stop signal, else SIGTERM, to the container's first process (pod-api.md §8).
    pub(super) fn signal_container(&mut self, index: usize) -> Result<()> {
        let (container, image) = (&self.pod.record.plan.containers[index], &self.pod.record.images[index]);
        let signal = signals::effective(container, image);
        if let Some(text) = signals::wanted(container, image).filter(|text| signals::number(text).is_none()) {
            let text = format!("its stop signal {text:?} is no signal: it gets SIGTERM");
            self.note(index, text);
        }
        match &self.slots[index].instance {
            Some(instance) => Ok(process::send_signal(instance.process.child.pidfd.as_fd(), signal)?),
            None => Ok(()),
        }
    }

    /// SIGKILL to the first process, which ends every other one of its pid namespace; its end kills what is left. Without a process
    /// its image may be pulled: that is given up.
    pub(super) fn kill_container(&mut self, index: usize) -> Result<()> {
        let Some(instance) = &self.slots[index].instance else {
            self.cancel_pull(index);
            return Ok(());
        };
        instance.process.kill()?;
        // A frozen container takes no signal: this thaws it.
        instance.cgroup.kill(Duration::ZERO).map(drop)
    }

    /// Gives up a start that is under way; the pull's or the child's end answers it.
    pub(super) fn cancel_start(&mut self, index: usize) -> Result<()> {
        self.slots[index].start_cancelled = true;
        self.kill_container(index)
    }

    fn cancel_pull(&mut self, index: usize) {
        if let Some(pull) = &mut self.slots[index].pull {
            pull.cancel();
        }
    }
}

fn read_once(from: BorrowedFd<'_>, to: impl FnOnce(&[u8])) -> nix::Result<usize> {
    let mut buffer = [0u8; logs::MAX_RECORD];
    let count = nix::unistd::read(from, &mut buffer)?;
    to(&buffer[..count]);
    Ok(count)
}

/// Gives output to whoever is attached. A client that does not read misses what does not fit its pipe; one that is gone is
/// left out.
fn pass_on(attached: &mut Vec<Attached>, output: Output, bytes: &[u8]) {
    attached.retain(|client| {
        let to = if output == Output::Stderr { &client.stderr } else { &client.stdout };
        !matches!(nix::unistd::write(to, bytes), Err(Errno::EPIPE))
    });
}
