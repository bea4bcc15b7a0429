//! Probes and hooks: what the machine asks to be done about a running container, with `probes` or in the container.
//!
//! Of a container at most one task of a kind is under way. A task is a socket in the loop ([`Attempt`]), or a process whose
//! output is read and whose end is its answer: a command in the container, or `podshim probe` for what would bring TLS, HTTP/2
//! or a name lookup into this process.

use super::exec::{Command, End, Exec, Purpose};
use super::hand_off::{Stage, Watched};
use super::pod::Supervisor;
use super::poll::{Source, Token};
use crate::control::{self, OwnProcess};
use crate::lifecycle::{Event, Outcome, Task};
use crate::plan::config::{Handler, Lifecycle, Probe};
use crate::probes::{
    self, Attempt, Begun, Interest, MAX_OUTPUT, MAX_SAID, Network, Origin, Progress, Request, Said, Use,
};
use crate::runtime::{FailureKind, NamespaceKind};
use crate::sys::process::{self, Ended};
use crate::sys::{Called, SysResult};
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

/// A task that is under way.
pub(super) enum Running {
    /// A socket.
    Attempt { attempt: Box<Attempt>, token: Token, interest: Interest },
    /// A process.
    Process(Box<Process>),
}

/// A process that performs a task.
pub(super) struct Process {
    /// Its number among the supervisor's execs.
    exec: u64,
    performs: Performs,
    output: Option<(Token, OwnedFd)>,
    said: Vec<u8>,
}

/// What such a process does.
enum Performs {
    /// A command of the manifest.
    Command(Vec<String>),
    /// A request.
    Request(Request),
}

impl Performs {
    /// How much of its output is kept.
    fn limit(&self) -> usize {
        match self {
            Performs::Command(_) => MAX_OUTPUT,
            Performs::Request(_) => MAX_SAID,
        }
    }
}

/// Bytes read at once.
const READ_SIZE: usize = 4 << 10;

/// How much of an ended process's output is still read: more than a pipe holds.
const LAST_READS: usize = 32;

/// How many processes of earlier runs of a task may still be ending: in a frozen cgroup none ends.
const MAX_LEFT: usize = 4;

impl Supervisor {
    /// Begins a task; its end is [`Event::Performed`].
    pub(super) fn perform_task(&mut self, container: usize, task: Task) -> Result<()> {
        self.drop_task(container, task);
        let is_running = matches!(&self.slots[container].instance, Some(instance) if matches!(instance.process.stage, Stage::Running));
        if !is_running {
            // Its end is an event of its own, which is on its way.
            return Ok(());
        }
        if let Err(error) = self.begin_task(container, task) {
            self.performed(container, task, Outcome::Error(format!("{error:#}")));
        }
        Ok(())
    }

    fn begin_task(&mut self, container: usize, task: Task) -> Result<()> {
        let lifecycle = &self.pod.record.plan.containers[container].lifecycle;
        let handler = handler(lifecycle, task).context("the container has no such probe or hook")?;
        let pod = self.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (purpose, timeout) = (purpose(task), timeout(lifecycle, task));
        if let Handler::Exec { command } = handler {
            let command = command.clone();
            return self.begin_command(container, task, command);
        }
        let request =
            Request::new(handler, Use { purpose, pod, timeout }).context("it is nothing that can be performed")?;
        if !request.is_plain() {
            return self.begin_process(container, task, request);
        }
        match Attempt::begin(request, network(&self.sandbox.namespaces))? {
            Begun::Done(outcome) => self.performed(container, task, outcome),
            Begun::Waiting(attempt) => {
                let interest = attempt.interest();
                let token = self.poll.watch_for(attempt.fd(), Source::Task(container, task), interest)?;
                let running = Running::Attempt { attempt, token, interest };
                self.tasks.insert((container, task), running);
            }
        }
        Ok(())
    }

    /// Executes a command in the container, as `podshim exec` does; its output and its errors are one.
    fn begin_command(&mut self, container: usize, task: Task, command: Vec<String>) -> Result<()> {
        let left = self.execs.values().filter(|exec| exec.is_left_of(container, task)).count();
        ensure!(left < MAX_LEFT, "{left} processes of earlier runs have not ended yet");
        let (ours, theirs) = output_pipe()?;
        let stdio = [self.launcher.null()?, crate::runtime::duplicate(theirs.as_fd())?, theirs];
        let purpose = Purpose::Task(task);
        let exec = self.launch_exec(Command {
            container,
            arguments: command.clone(),
            own: OwnProcess::default(),
            stdio,
            purpose,
        })?;
        self.watch_process(container, task, Started { exec, performs: Performs::Command(command), output: ours })
    }

    /// Has a process of podshim's own perform a request.
    fn begin_process(&mut self, container: usize, task: Task, request: Request) -> Result<()> {
        let (ours, theirs) = output_pipe()?;
        // Not by arguments, which are seen by everybody.
        let input = control::document("probe", &request)?;
        let mut command = std::process::Command::new("/proc/self/exe");
        command
            .arg0("podshim")
            .arg("probe")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .env_clear()
            .stdin(input)
            .stdout(theirs)
            .stderr(Stdio::null());
        if request.origin == Origin::Pod && network(&self.sandbox.namespaces).namespace.is_some() {
            command.arg("--namespace").arg(self.pod.dirs.namespace(NamespaceKind::Network.file()));
        }
        let mut spawned = command.spawn().called("execve", "podshim probe")?;
        let child = process::open_child(spawned.id()).inspect_err(|_| {
            // Nobody would see its end. The error to be told is the first one.
            let _ = spawned.kill();
            let _ = spawned.wait();
        })?;
        let exec = self.next_id;
        self.next_id += 1;
        let process = Watched::new(&mut self.poll, Stage::Running, (child, Source::ExecExit(exec)), None)?;
        self.execs.insert(exec, Exec::running(container, task, process));
        self.watch_process(container, task, Started { exec, performs: Performs::Request(request), output: ours })
    }

    fn watch_process(&mut self, container: usize, task: Task, started: Started) -> Result<()> {
        let Started { exec, performs, output } = started;
        let token = match self.poll.watch(&output, Source::Task(container, task)) {
            Ok(token) => token,
            Err(error) => {
                self.give_up_exec(exec);
                return Err(error.into());
            }
        };
        let process = Process { exec, performs, output: Some((token, output)), said: Vec::new() };
        self.tasks.insert((container, task), Running::Process(Box::new(process)));
        Ok(())
    }

    /// A task's socket is ready, or its process says something.
    pub(super) fn task_ready(&mut self, container: usize, task: Task) -> Result<()> {
        match self.tasks.get(&(container, task)) {
            Some(Running::Attempt { .. }) => self.attempt_ready(container, task),
            Some(Running::Process(_)) => {
                // One read a turn: a command that floods does not keep the others waiting.
                self.read_process(container, task);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn attempt_ready(&mut self, container: usize, task: Task) -> Result<()> {
        let Some(Running::Attempt { attempt, token, interest }) = self.tasks.get_mut(&(container, task)) else {
            return Ok(());
        };
        match attempt.ready(network(&self.sandbox.namespaces))? {
            Progress::Waiting => {
                if attempt.interest() != *interest {
                    *interest = attempt.interest();
                    self.poll.change(*token, attempt.fd(), *interest)?;
                }
            }
            Progress::Moved(old) => {
                self.poll.forget(*token, old.as_fd());
                *interest = attempt.interest();
                *token = self.poll.watch_for(attempt.fd(), Source::Task(container, task), *interest)?;
            }
            Progress::Elsewhere(request) => {
                self.drop_task(container, task);
                self.begin_process(container, task, request)?;
            }
            Progress::Done(outcome) => {
                self.drop_task(container, task);
                self.performed(container, task, outcome);
            }
        }
        Ok(())
    }

    /// Reads once; whether there may be more.
    fn read_process(&mut self, container: usize, task: Task) -> bool {
        let Some(Running::Process(process)) = self.tasks.get_mut(&(container, task)) else { return false };
        let Some((token, pipe)) = &process.output else { return false };
        let mut buffer = [0u8; READ_SIZE];
        match nix::unistd::read(pipe, &mut buffer) {
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            Ok(count) if count > 0 => {
                let room = process.performs.limit().saturating_sub(process.said.len());
                process.said.extend_from_slice(&buffer[..count.min(room)]);
                true
            }
            _ => {
                self.poll.forget(*token, pipe.as_fd());
                process.output = None;
                false
            }
        }
    }

    /// A task's process has ended.
    pub(super) fn task_process_ended(&mut self, container: usize, task: Task, end: &End) {
        for _ in 0..LAST_READS {
            if !self.read_process(container, task) {
                break;
            }
        }
        let Some(Running::Process(process)) = self.tasks.remove(&(container, task)) else { return };
        if let Some((token, pipe)) = &process.output {
            self.poll.forget(*token, pipe.as_fd());
        }
        let outcome = match &process.performs {
            Performs::Command(command) => command_outcome(task, command, end, &process.said),
            Performs::Request(_) => match (Said::last(&process.said), end) {
                (Some(Said::Done(outcome)), _) => outcome,
                (_, End::Ended(ended)) => Outcome::Error(format!("podshim probe ended ({ended:?}) without an answer")),
                _ => Outcome::Error("podshim probe could not be started".into()),
            },
        };
        self.performed(container, task, outcome);
    }

    /// Ends a probe whose time is over, and says so as its kind does.
    pub(super) fn time_out_task(&mut self, container: usize, task: Task) -> Result<()> {
        let lifecycle = &self.pod.record.plan.containers[container].lifecycle;
        let outcome = match self.tasks.get(&(container, task)) {
            // It was quicker: its answer is on its way.
            None => return Ok(()),
            Some(Running::Attempt { attempt, .. }) => attempt.timed_out(),
            Some(Running::Process(process)) => match &process.performs {
                Performs::Request(request) => request.timed_out(Said::last(&process.said) == Some(Said::Halfway)),
                Performs::Command(command) => {
                    let (command, timeout) = (command.join(" "), probes::go_duration(timeout(lifecycle, task)));
                    let what = format!("command timed out: {command:?} timed out after {timeout}");
                    Outcome::Failure(probes::text(what.as_bytes()))
                }
            },
        };
        self.drop_task(container, task);
        self.performed(container, task, outcome);
        Ok(())
    }

    /// An error about a task ends that task.
    pub(super) fn task_went_wrong(&mut self, container: usize, task: Task, error: &anyhow::Error) {
        self.drop_task(container, task);
        self.performed(container, task, Outcome::Error(format!("{error:#}")));
    }

    fn performed(&mut self, container: usize, task: Task, outcome: Outcome) {
        self.queue.push_back(Event::Performed { container, task, outcome });
    }

    /// Drops a container's tasks, without an answer.
    pub(super) fn drop_tasks(&mut self, container: usize) {
        let all = (container, Task::StartupProbe)..=(container, Task::PreStop);
        let tasks: Vec<Task> = self.tasks.range(all).map(|((_, task), _)| *task).collect();
        for task in tasks {
            self.drop_task(container, task);
        }
    }

    /// Drops a task, without an answer. Its process is killed; it is reaped when it has ended.
    fn drop_task(&mut self, container: usize, task: Task) {
        match self.tasks.remove(&(container, task)) {
            None => {}
            Some(Running::Attempt { attempt, token, .. }) => self.poll.forget(token, attempt.fd()),
            Some(Running::Process(process)) => {
                if let Some((token, pipe)) = &process.output {
                    self.poll.forget(*token, pipe.as_fd());
                }
                self.give_up_exec(process.exec);
            }
        }
    }

    fn give_up_exec(&mut self, id: u64) {
        if let Some(Err(error)) = self.execs.get_mut(&id).map(Exec::give_up) {
            self.warn("SupervisorError", format!("ending a probe or a hook: {error:#}"));
        }
    }
}

/// A process that was started for a task.
struct Started {
    exec: u64,
    performs: Performs,
    output: OwnedFd,
}

/// A pipe whose reading end does not block, both ends close-on-exec.
fn output_pipe() -> SysResult<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC).called("pipe2", "")?;
    nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).called("fcntl", "pipe")?;
    Ok((ours, theirs))
}

/// The pod's network namespace; none with hostNetwork.
fn network(namespaces: &[(NamespaceKind, OwnedFd)]) -> Network<'_> {
    let namespace = namespaces.iter().find(|(kind, _)| *kind == NamespaceKind::Network);
    Network { namespace: namespace.map(|(_, fd)| fd.as_fd()) }
}

fn probe(lifecycle: &Lifecycle, task: Task) -> Option<&Probe> {
    match task {
        Task::StartupProbe => lifecycle.startup.as_ref(),
        Task::LivenessProbe => lifecycle.liveness.as_ref(),
        Task::ReadinessProbe => lifecycle.readiness.as_ref(),
        Task::PostStart | Task::PreStop => None,
    }
}

fn handler(lifecycle: &Lifecycle, task: Task) -> Option<&Handler> {
    match task {
        Task::PostStart => lifecycle.post_start.as_ref(),
        Task::PreStop => lifecycle.pre_stop.as_ref(),
        _ => probe(lifecycle, task).map(|probe| &probe.handler),
    }
}

/// Zero for a hook.
fn timeout(lifecycle: &Lifecycle, task: Task) -> Duration {
    probe(lifecycle, task).map_or(Duration::ZERO, |probe| probe.timing.timeout)
}

fn purpose(task: Task) -> probes::Purpose {
    match task {
        Task::PostStart | Task::PreStop => probes::Purpose::Hook,
        _ => probes::Purpose::Probe,
    }
}

/// What a command came to: a probe's failure is its output, as a kubelet reports it; a hook's says which command it was.
fn command_outcome(task: Task, command: &[String], end: &End, output: &[u8]) -> Outcome {
    let is_hook = purpose(task) == probes::Purpose::Hook;
    let error = |what: String| if is_hook { Outcome::Failure(what) } else { Outcome::Error(what) };
    match end {
        End::Ended(Ended::Exited(0)) => Outcome::Success,
        End::Ended(ended) if is_hook => {
            let (command, output) = (command.join(" "), String::from_utf8_lossy(output));
            let what = format!("command '{command}' exited with {}: {output}", ended.code());
            Outcome::Failure(probes::text(what.as_bytes()))
        }
        End::Ended(_) => Outcome::Failure(probes::text(output)),
        End::Failed(failed) if failed.kind == FailureKind::Setup => {
            error(format!("failed to exec in container: {failed}"))
        }
        End::Failed(failed) => error(failed.to_string()),
        End::NotStarted => error("the container ended before the command was started".into()),
    }
}
