//! The control socket: watch, stop, exec, attach.

use super::pod::{FAR, Supervisor};
use super::poll::{Source, Token};
use super::slot::{Attached, Stage, reborn};
use crate::control::{self, RefusedKind, Reply, Request};
use crate::error::{Kind, failure, kind_of};
use crate::lifecycle::Event;
use crate::runtime::{self, FailureKind, FromInit, NamespaceKind, PidNamespace, Seen, StepFailure};
use crate::sys::Called;
use crate::sys::process::{self, Child, Ended, TerminalSize};
use crate::sys::socket::{self, Received};
use anyhow::{Context, Result, ensure};
use nix::sys::stat::{SFlag, fstat};
use oci_spec::runtime::Spec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A connection.
pub(super) struct Client {
    socket: OwnedFd,
    token: Token,
    watches: bool,
}

/// A process that was started in a container by a client.
pub(super) struct Exec {
    client: u64,
    child: Child,
    exit_token: Token,
    hand_off: Option<(Token, OwnedFd)>,
    stage: Stage,
    terminal: Option<TerminalSize>,
    /// Waits for execve(2) to succeed before it goes to the client.
    master: Option<OwnedFd>,
}

impl Exec {
    fn fail(&mut self, message: String) -> Result<()> {
        self.stage = Stage::Failed(StepFailure { step: "hand-off".into(), message, kind: FailureKind::Setup });
        self.kill()
    }

    /// SIGKILL.
    pub(super) fn kill(&self) -> Result<()> {
        Ok(process::send_signal(self.child.pidfd.as_fd(), libc::SIGKILL)?)
    }
}

/// The most connections at once.
const MAX_CLIENTS: usize = 256;

/// What a client sends along with a request: pipes, and nothing but pipes, since they become a container's.
fn check_pipes(descriptors: &[OwnedFd], wanted: usize) -> Result<()> {
    ensure!(
        descriptors.len() == wanted,
        "the request comes with {} descriptors instead of {wanted}",
        descriptors.len()
    );
    for fd in descriptors {
        let mode = fstat(fd).called("fstat", "a client's descriptor")?.st_mode;
        ensure!(mode & SFlag::S_IFMT.bits() == SFlag::S_IFIFO.bits(), "a descriptor of the request is not a pipe");
    }
    Ok(())
}

impl Supervisor {
    /// A new connection; of anybody but podshim's own user, it is closed at once.
    pub(super) fn connected(&mut self, connection: OwnedFd) -> Result<()> {
        let is_ours = socket::peer_uid(connection.as_fd())? == nix::unistd::geteuid().as_raw();
        if !is_ours || self.clients.len() >= MAX_CLIENTS {
            return Ok(());
        }
        let id = self.next_id;
        self.next_id += 1;
        let token = self.poll.watch(&connection, Source::Client(id))?;
        self.clients.insert(id, Client { socket: connection, token, watches: false });
        Ok(())
    }

    /// A client sent a request, or is gone.
    pub(super) fn client_ready(&mut self, id: u64) -> Result<()> {
        let Some(client) = self.clients.get(&id) else { return Ok(()) };
        match socket::receive(client.socket.as_fd()) {
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) | Err(_) => self.disconnect(id),
            Ok(Received::Message(bytes, descriptors)) => {
                let answered = match serde_json::from_slice(&bytes) {
                    Ok(request) => self.request(id, request, descriptors),
                    Err(_) => {
                        Err(failure(Kind::Invalid, "the request cannot be decoded (another version of podshim?)"))
                    }
                };
                if let Err(error) = answered {
                    self.refuse(id, &error);
                }
            }
        }
        Ok(())
    }

    fn request(&mut self, id: u64, request: Request, descriptors: Vec<OwnedFd>) -> Result<()> {
        match request {
            Request::Watch => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.watches = true;
                }
                self.say(id, &Reply::Changed, &[]);
                Ok(())
            }
            Request::Stop { grace_seconds } => {
                self.queue.push_back(match grace_seconds {
                    Some(0) => Event::Kill,
                    grace => Event::Stop { grace: grace.map(|s| Duration::from_secs(s).min(FAR)) },
                });
                self.say(id, &Reply::Accepted, &[]);
                Ok(())
            }
            Request::Exec { container, command, terminal } => {
                check_pipes(&descriptors, if terminal.is_some() { 0 } else { 3 })?;
                self.exec(id, ExecIn { container: &container, command, terminal, pipes: descriptors })
            }
            Request::Attach { container } => self.attach(id, &container, descriptors),
            Request::SetCondition { .. } | Request::Join { .. } | Request::Update { .. } => {
                Err(failure(Kind::Invalid, "not built yet"))
            }
        }
    }

    pub(super) fn disconnect(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id) {
            self.poll.forget(client.token, client.socket.as_fd());
        }
        for slot in &mut self.slots {
            slot.attached.retain(|attached| attached.client != id);
        }
    }

    /// Sends a reply; a client that does not take it is disconnected.
    fn say(&mut self, id: u64, reply: &Reply, descriptors: &[BorrowedFd<'_>]) {
        let Some(client) = self.clients.get(&id) else { return };
        if control::reply(client.socket.as_fd(), reply, descriptors).is_err() {
            self.disconnect(id);
        }
    }

    fn refuse(&mut self, id: u64, error: &anyhow::Error) {
        let kind = match kind_of(error) {
            Some(Kind::NotFound) => RefusedKind::NotFound,
            Some(Kind::NotReady) => RefusedKind::NotReady,
            Some(Kind::CommandNotFound) => RefusedKind::CommandNotFound,
            Some(Kind::CommandNotExecutable) => RefusedKind::CommandNotExecutable,
            _ => RefusedKind::Failed,
        };
        self.say(id, &Reply::Refused { kind, message: format!("{error:#}") }, &[]);
    }

    pub(super) fn tell_exit(&mut self, id: u64, ended: Ended) {
        self.say(id, &Reply::Exited { code: ended.code() }, &[]);
    }

    /// The status file is new. A watcher whose queue is full has one such message waiting already.
    pub(super) fn tell_watchers(&mut self) {
        for client in self.clients.values().filter(|c| c.watches) {
            let _ = control::reply(client.socket.as_fd(), &Reply::Changed, &[]);
        }
    }

    fn running(&self, container: &str) -> Result<usize> {
        let index = self.index_of(container)?;
        match &self.slots[index].instance {
            Some(instance) if matches!(instance.stage, Stage::Running) => Ok(index),
            _ => Err(failure(Kind::NotReady, format!("container {container} is not running"))),
        }
    }

    fn attach(&mut self, id: u64, container: &str, descriptors: Vec<OwnedFd>) -> Result<()> {
        let index = self.running(container)?;
        check_pipes(&descriptors, 2)?;
        let mut pipes = descriptors.into_iter();
        if let (Some(stdout), Some(stderr)) = (pipes.next(), pipes.next()) {
            for fd in [&stdout, &stderr] {
                // A client that does not read must not hold the pod up.
                nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
                    .called("fcntl", "pipe")?;
            }
            self.slots[index].attached.push(Attached { client: id, stdout, stderr });
        }
        let input = match self.slots[index].instance.as_ref().and_then(|i| i.input.as_ref()) {
            Some(input) => Some(runtime::duplicate(input.as_fd())?),
            None => None,
        };
        let lent: Vec<BorrowedFd<'_>> = input.iter().map(AsFd::as_fd).collect();
        self.say(id, &Reply::Started, &lent);
        Ok(())
    }

    fn exec(&mut self, client: u64, what: ExecIn<'_>) -> Result<()> {
        let index = self.running(what.container)?;
        let path = self.pod.dirs.container_state(what.container).join("config.json");
        let mut spec: Spec =
            crate::store::read_json(&path)?.with_context(|| format!("{} is missing", path.display()))?;
        if let Some(process) = spec.process_mut() {
            process.set_args(Some(what.command)).set_terminal(Some(what.terminal.is_some()));
        }
        let steps = runtime::exec_steps(&spec)?;
        let Some(instance) = &self.slots[index].instance else { return Ok(()) };
        let mut namespaces = open_namespaces(&instance.child)?;
        let pid = namespaces.iter().position(|(kind, _)| *kind == NamespaceKind::Pid).map(|at| namespaces.remove(at).1);
        let mut pipes = what.pipes.into_iter();
        let mut next = || pipes.next().map_or_else(|| self.launcher.null(), Ok);
        let stdio = [next()?, next()?, next()?];
        let starting = self.launcher.launch(runtime::Request {
            steps: &steps,
            rootfs: None,
            binds: Vec::new(),
            namespaces,
            pid_namespace: pid.as_ref().map_or(PidNamespace::Inherit, |fd| PidNamespace::Join(fd.as_fd())),
            cgroup: &instance.cgroup,
            stdio,
        })?;
        let id = self.next_id;
        self.next_id += 1;
        let exit_token = self.poll.watch(&starting.child.pidfd, Source::ExecExit(id))?;
        let hand_off = self.poll.watch(&starting.sync, Source::ExecHandOff(id))?;
        let exec = Exec {
            client,
            child: starting.child,
            exit_token,
            hand_off: Some((hand_off, starting.sync)),
            stage: Stage::Creating,
            terminal: what.terminal,
            master: None,
        };
        self.execs.insert(id, exec);
        Ok(())
    }

    pub(super) fn exec_hand_off(&mut self, id: u64) -> Result<()> {
        loop {
            let Some(exec) = self.execs.get_mut(&id) else { return Ok(()) };
            let Some((token, socket)) = &exec.hand_off else { return Ok(()) };
            let seen = match runtime::receive(socket.as_fd()) {
                Ok(seen) => seen,
                Err(error) => return exec.fail(error.to_string()),
            };
            match seen {
                Seen::Nothing => return Ok(()),
                Seen::Message(FromInit::Born, Some(pidfd)) => {
                    let child = process::child_of(pidfd)?;
                    self.poll.forget(exec.exit_token, exec.child.pidfd.as_fd());
                    exec.child = reborn(&exec.child, child)?;
                    exec.exit_token = self.poll.watch(&exec.child.pidfd, Source::ExecExit(id))?;
                }
                Seen::Message(FromInit::Born, None) => return exec.fail("its process has no pidfd".into()),
                // What a container cannot have was said when it started.
                Seen::Message(FromInit::Note { .. }, _) => {}
                Seen::Message(FromInit::Terminal, master) => exec.master = master,
                Seen::Message(FromInit::Ready, _) => {
                    // The container may end at any moment: then the pidfd says so.
                    let sized = match (&exec.master, exec.terminal) {
                        (Some(master), Some(size)) => process::set_terminal_size(master.as_fd(), size),
                        _ => Ok(()),
                    };
                    if sized.and_then(|()| runtime::start(socket.as_fd())).is_ok() {
                        exec.stage = Stage::Starting;
                    }
                }
                Seen::Message(FromInit::Failed(failure), _) => exec.stage = Stage::Failed(failure),
                Seen::Closed => {
                    self.poll.forget(*token, socket.as_fd());
                    exec.hand_off = None;
                    if matches!(exec.stage, Stage::Starting) {
                        exec.stage = Stage::Running;
                        let (client, master) = (exec.client, exec.master.take());
                        let lent: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
                        self.say(client, &Reply::Started, &lent);
                    }
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn exec_exited(&mut self, id: u64) -> Result<()> {
        self.exec_hand_off(id)?;
        let ended = match self.execs.get(&id) {
            Some(exec) => process::try_wait(exec.child.pidfd.as_fd())?,
            None => None,
        };
        let Some(ended) = ended else { return Ok(()) };
        let Some(exec) = self.execs.remove(&id) else { return Ok(()) };
        self.poll.forget(exec.exit_token, exec.child.pidfd.as_fd());
        if let Some((token, socket)) = &exec.hand_off {
            self.poll.forget(*token, socket.as_fd());
        }
        match &exec.stage {
            Stage::Failed(failed) => self.refuse(exec.client, &exec_error(failed)),
            Stage::Running => self.tell_exit(exec.client, ended),
            _ => {
                self.refuse(exec.client, &failure(Kind::NotReady, "the container ended before the command was started"))
            }
        }
        Ok(())
    }
}

/// A command for a container.
struct ExecIn<'a> {
    container: &'a str,
    command: Vec<String>,
    terminal: Option<TerminalSize>,
    pipes: Vec<OwnedFd>,
}

fn exec_error(failed: &StepFailure) -> anyhow::Error {
    let kind = match failed.kind {
        FailureKind::CommandNotFound => Kind::CommandNotFound,
        FailureKind::CommandNotExecutable => Kind::CommandNotExecutable,
        FailureKind::Setup => Kind::NotReady,
    };
    failure(kind, failed.to_string())
}

/// The namespaces of a running process, which is proven to be still that process after they were opened.
fn open_namespaces(child: &Child) -> Result<Vec<(NamespaceKind, OwnedFd)>> {
    use NamespaceKind::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let opened = [Network, Ipc, Uts, Cgroup, Pid, Mount]
        .into_iter()
        .map(|kind| Ok((kind, runtime::open_namespace(format!("/proc/{}/ns/{}", child.pid, kind.file()))?)))
        .collect::<Result<_>>();
    // A child that was not waited for keeps its pid, and nobody but us waits for it.
    process::send_signal(child.pidfd.as_fd(), 0)?;
    opened
}
