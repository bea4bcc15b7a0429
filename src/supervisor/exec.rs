//! Processes that are started in a running container: `podshim exec`, exec probes and hooks. One protocol serves both; they
//! differ in who hears of the end.

use super::create::check_ids;
use super::hand_off::{Heard, Stage, Watched};
use super::pod::Supervisor;
use super::poll::Source;
use crate::control::{HangUp, OwnProcess, Reply};
use crate::error::{Kind, failure};
use crate::lifecycle::Task;
use crate::plan::config::NamespaceMode;
use crate::runtime::{self, FailureKind, NamespaceKind, PidNamespace, Start, StepFailure};
use crate::sys::Called;
use crate::sys::process::{self, Child, Ended, TerminalSize};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::Process;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A process that was started for a container.
pub(super) struct Exec {
    container: usize,
    purpose: Purpose,
    process: Watched,
}

/// Who waits for its end.
pub(super) enum Purpose {
    /// A client.
    Client {
        /// Its connection.
        id: u64,
        /// The size of the terminal that it asked for.
        terminal: Option<TerminalSize>,
        /// The terminal; waits for execve(2) to succeed before it goes to the client.
        master: Option<OwnedFd>,
        /// What follows if the client goes away.
        hang_up: HangUp,
    },
    /// A probe or a hook.
    Task(Task),
    /// Nobody any more: the task, or who asked for it, is gone. It is only reaped.
    GivenUp(Option<Task>),
}

/// How such a process ended.
pub(super) enum End {
    /// It ran.
    Ended(Ended),
    /// It could not be started.
    Failed(StepFailure),
    /// It was killed before it was started.
    NotStarted,
}

/// A command for a container.
pub(super) struct Command {
    pub(super) container: usize,
    pub(super) arguments: Vec<String>,
    pub(super) own: OwnProcess,
    pub(super) stdio: [OwnedFd; 3],
    pub(super) purpose: Purpose,
}

impl Exec {
    /// A process that needs no hand-off: it runs already.
    pub(super) fn running(container: usize, task: Task, process: Watched) -> Exec {
        Exec { container, purpose: Purpose::Task(task), process }
    }

    /// SIGKILL.
    pub(super) fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    /// Its process.
    pub(super) fn pid(&self) -> i32 {
        self.process.child.pid
    }

    /// Nobody waits for it any more: it is killed.
    pub(super) fn give_up(&mut self) -> Result<()> {
        match self.purpose {
            Purpose::Task(task) => self.purpose = Purpose::GivenUp(Some(task)),
            Purpose::Client { .. } => self.purpose = Purpose::GivenUp(None),
            Purpose::GivenUp(_) => {}
        }
        self.kill()
    }

    fn is_given_up(&self) -> bool {
        matches!(self.purpose, Purpose::GivenUp(_))
    }

    /// Whether it is what is left of an earlier run of a container's task.
    pub(super) fn is_left_of(&self, container: usize, task: Task) -> bool {
        self.container == container && matches!(self.purpose, Purpose::GivenUp(t) if t == Some(task))
    }

    /// Whether it ends with its client's connection.
    pub(super) fn ends_with(&self, client: u64) -> bool {
        matches!(self.purpose, Purpose::Client { id, hang_up: HangUp::Kill, .. } if id == client)
    }
}

impl Supervisor {
    /// Starts a command in a container that runs; its end is an event of the loop.
    pub(super) fn launch_exec(&mut self, what: Command) -> Result<u64> {
        self.read_confinement(what.container)?;
        let instance = self.slots[what.container].instance.as_ref().context("the container is not running")?;
        let confinement = instance.confinement.as_ref().context("the container's spec was not read")?;
        let with_terminal = matches!(what.purpose, Purpose::Client { terminal: Some(_), .. });
        let mut process = confinement.process.clone();
        self.make_own(&mut process, what.container, what.own)?;
        process.set_args(Some(what.arguments)).set_terminal(Some(with_terminal));
        let steps = runtime::exec_steps(&process, confinement)?;
        let users = self.pod.record.plan.sandbox.namespaces.user;
        let mut namespaces = open_namespaces(&instance.process.child, users)?;
        let pid = namespaces.iter().position(|(kind, _)| *kind == NamespaceKind::Pid).map(|at| namespaces.remove(at).1);
        // The size of a terminal is set before.
        let start = if with_terminal { Start::WhenTold } else { Start::AtOnce };
        let starting = self.launcher.launch(runtime::Request {
            steps: &steps,
            rootfs: None,
            binds: Vec::new(),
            namespaces,
            pid_namespace: pid.as_ref().map_or(PidNamespace::Inherit, |fd| PidNamespace::Join(fd.as_fd())),
            cgroup: &instance.cgroup,
            stdio: what.stdio,
            filter: confinement.filter.clone(),
            showing: None,
            start,
        })?;
        let id = self.next_id;
        self.next_id += 1;
        let hand_off = Some((starting.sync, Source::ExecHandOff(id)));
        let child = (starting.child, Source::ExecExit(id));
        let process = Watched::new(&mut self.poll, Stage::Creating, child, hand_off)?.that_starts(start);
        self.execs.insert(id, Exec { container: what.container, purpose: what.purpose, process });
        Ok(id)
    }

    /// The spec of an instance never changes: it is read for the first command.
    fn read_confinement(&mut self, container: usize) -> Result<()> {
        let name = &self.pod.record.plan.containers[container].name;
        let path = self.pod.dirs.container_state(name).join("config.json");
        let Some(instance) = self.slots[container].instance.as_mut().filter(|i| i.confinement.is_none()) else {
            return Ok(());
        };
        let spec = crate::store::read_json(&path)?.with_context(|| format!("{} is missing", path.display()))?;
        instance.confinement = Some(self.launcher.confinement(spec)?);
        Ok(())
    }

    /// Changes the container's process to one with these things of its own. What is more is not to be had: capabilities,
    /// seccomp and the rest stay the container's.
    fn make_own(&self, process: &mut Process, container: usize, own: OwnProcess) -> Result<()> {
        let mut envs = process.env().clone().unwrap_or_default();
        if let Some(user) = own.user {
            check_ids(&user, self.pod.record.plan.sandbox.id_range)?;
            let mut identity = process.user().clone();
            identity.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups));
            process.set_user(identity);
            let is_home = |variable: &&String| variable.starts_with("HOME=");
            let image = &self.pod.record.images[container].config;
            let of_manifest = &self.pod.record.plan.containers[container].envs;
            // Nobody asked for the one it has: it is that of the container's user.
            if !image.env.iter().any(|variable| is_home(&variable)) && !of_manifest.iter().any(|e| e.name == "HOME") {
                set_variable(&mut envs, format!("HOME={}", user.home));
            }
        }
        own.envs.into_iter().for_each(|variable| set_variable(&mut envs, variable));
        process.set_env(Some(envs));
        if let Some(path) = own.working_dir {
            process.set_cwd(path.into());
        }
        Ok(())
    }

    /// The root directory of a container that runs, `O_PATH`: nothing of it is looked at.
    pub(super) fn root_of(&self, container: usize) -> Result<OwnedFd> {
        let instance = self.slots[container].instance.as_ref().context("the container is not running")?;
        let path = format!("/proc/{}/root", instance.process.child.pid);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path.as_str(), flags, Mode::empty()).called("open", path)?;
        // It had this pid all the time: it was not waited for.
        process::require_unreaped(instance.process.child.pidfd.as_fd())?;
        Ok(root)
    }

    pub(super) fn exec_hand_off(&mut self, id: u64) -> Result<()> {
        loop {
            let Some(exec) = self.execs.get_mut(&id) else { return Ok(()) };
            match exec.process.hear(&mut self.poll, Source::ExecExit(id))? {
                Heard::Nothing => return Ok(()),
                Heard::Born if exec.is_given_up() => exec.kill()?,
                // What a container cannot have was said when it started.
                Heard::Born | Heard::Note(_) | Heard::Paused(_) | Heard::Failed(_) => {}
                Heard::Terminal(sent) => {
                    if let Purpose::Client { master, .. } = &mut exec.purpose {
                        *master = sent;
                    }
                }
                Heard::Ready if exec.is_given_up() => {}
                Heard::Ready => {
                    // The container may end at any moment: then the pidfd says so.
                    let sized = match &exec.purpose {
                        Purpose::Client { master: Some(master), terminal: Some(size), .. } => {
                            process::set_terminal_size(master.as_fd(), *size)
                        }
                        _ => Ok(()),
                    };
                    match sized {
                        Ok(()) => exec.process.start()?,
                        Err(error) => exec.process.fail(error.to_string())?,
                    }
                }
                Heard::Executed => {
                    if let Purpose::Client { id, master, .. } = &mut exec.purpose {
                        let (client, master) = (*id, master.take());
                        let lent: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
                        self.say(client, &Reply::Started, &lent);
                    }
                }
            }
        }
    }

    pub(super) fn exec_exited(&mut self, id: u64) -> Result<()> {
        let Some(exec) = self.execs.get(&id) else { return Ok(()) };
        let Some(gone) = exec.process.over()? else { return Ok(()) };
        self.exec_hand_off(id)?;
        let ended = match self.execs.get(&id) {
            Some(exec) if exec.pid() == gone => exec.process.try_wait()?,
            _ => None,
        };
        let Some(ended) = ended else { return Ok(()) };
        let Some(mut exec) = self.execs.remove(&id) else { return Ok(()) };
        exec.process.forget(&mut self.poll);
        let end = match exec.process.stage {
            Stage::Failed(failed) => End::Failed(failed),
            Stage::Running => End::Ended(ended),
            Stage::Creating | Stage::Created | Stage::Starting => End::NotStarted,
        };
        match exec.purpose {
            Purpose::Client { id, .. } => self.client_exec_ended(id, &end),
            Purpose::Task(task) => self.task_process_ended(exec.container, task, &end),
            Purpose::GivenUp(_) => {}
        }
        Ok(())
    }

    fn client_exec_ended(&mut self, client: u64, end: &End) {
        match end {
            End::Ended(ended) => self.tell_exit(client, *ended),
            End::Failed(failed) => self.refuse(client, &exec_error(failed)),
            End::NotStarted => {
                self.refuse(client, &failure(Kind::NotReady, "the container ended before the command was started"));
            }
        }
    }
}

fn set_variable(envs: &mut Vec<String>, variable: String) {
    let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    match envs.iter_mut().find(|old| name(old) == name(&variable)) {
        Some(old) => *old = variable,
        None => envs.push(variable),
    }
}

fn exec_error(failed: &StepFailure) -> anyhow::Error {
    let kind = match failed.kind {
        FailureKind::CommandNotFound => Kind::CommandNotFound,
        FailureKind::CommandNotExecutable => Kind::CommandNotExecutable,
        FailureKind::Setup | FailureKind::Refused => Kind::NotReady,
    };
    failure(kind, failed.to_string())
}

/// The namespaces of a running process, which is proven to be still that process after they were opened.
fn open_namespaces(child: &Child, users: NamespaceMode) -> Result<Vec<(NamespaceKind, OwnedFd)>> {
    use NamespaceKind::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    // The host's own cannot be joined again (user_namespaces(7)).
    let own = (users == NamespaceMode::Pod).then_some(User);
    let opened = [Network, Ipc, Uts, Cgroup, Pid, Mount]
        .into_iter()
        .chain(own)
        .map(|kind| match runtime::open_namespace(format!("/proc/{}/ns/{}", child.pid, kind.file())) {
            // It has left them: it is about to end.
            Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ESRCH) => {
                Err(failure(Kind::NotReady, "the container has ended"))
            }
            other => Ok((kind, other?)),
        })
        .collect::<Result<_>>();
    // It had this pid all the time: it was not waited for.
    process::require_unreaped(child.pidfd.as_fd())?;
    opened
}
