//! What is behind the streaming server: commands and containers by way of their supervisors, ports by way of the sandbox's network
//! namespace.

use super::sandboxes::{self, Sandbox};
use super::streaming::{Attach, Backend, Ends, Exec, Process};
use crate::control::{Connection, HangUp, Input, OwnProcess, Reply, Request};
use crate::error::{Kind, failure};
use crate::network;
use crate::paths::Dirs;
use crate::plan::config::{NetworkMode, Stdio};
use crate::runtime;
use crate::sys::process::TerminalSize;
use crate::sys::{Called, SysResult, poll};
use anyhow::{Context, Result};
use futures_util::FutureExt;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

/// Until the client has said what its own is.
const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// Where the sandboxes are.
pub(super) struct Streams {
    dirs: Dirs,
}

impl Streams {
    /// Of the sandboxes of these directories.
    pub(super) fn new(dirs: Dirs) -> Streams {
        Streams { dirs }
    }
}

/// Something that a supervisor has started for us.
struct Started {
    connection: Connection,
    /// What came with the answer: a terminal, or an input.
    sent: Option<OwnedFd>,
}

/// Asks, and waits for it to be started.
fn start(sandbox: &Sandbox, request: &Request, lent: &[BorrowedFd<'_>]) -> Result<Started> {
    let connection = Connection::open(&sandbox.pod.dirs.socket(), request, lent)?;
    match connection.reply()? {
        Some((Reply::Started, descriptors)) => Ok(Started { connection, sent: descriptors.into_iter().next() }),
        _ => Err(failure(Kind::NotReady, "the container ended before it was started")),
    }
}

impl Started {
    /// With these ends, until the supervisor says that it has ended.
    fn process(self, ends: Ends) -> Process {
        let connection = self.connection;
        let exit = async move {
            // There is one more message to come, so that what is ready is not waited for.
            let _ready = poll::readable(connection.as_fd())?.readable().await.called("epoll_wait", "a supervisor")?;
            match connection.reply()? {
                Some((Reply::Exited { code }, _)) => Ok(code),
                _ => Err(failure(Kind::NotReady, "the sandbox ended")),
            }
        };
        Process { ends, exit: exit.boxed() }
    }
}

/// Ours and theirs.
fn output() -> SysResult<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC).called("pipe2", "")
}

fn exec(dirs: &Dirs, what: Exec) -> Result<Process> {
    let (sandbox, container) = sandboxes::container(dirs, &what.container_id)?;
    let request = |terminal| Request::Exec {
        container: container.id().to_owned(),
        command: what.command.clone(),
        terminal,
        own: OwnProcess::default(),
        hang_up: HangUp::GoOn,
    };
    if what.streams.tty {
        let mut started = start(&sandbox, &request(Some(SIZE)), &[])?;
        let master = started.sent.take().context("the supervisor sent no terminal")?;
        return Ok(started.process(Ends::Terminal(master)));
    }
    let ((stdin, ours), (stdout, theirs_out), (stderr, theirs_err)) = (output()?, output()?, output()?);
    let lent = [stdin.as_fd(), theirs_out.as_fd(), theirs_err.as_fd()];
    let started = start(&sandbox, &request(None), &lent)?;
    // Without an input from the client it is at its end.
    let stdin = what.streams.stdin.then_some(ours);
    Ok(started.process(Ends::Pipes { stdin, stdout: Some(stdout), stderr: Some(stderr) }))
}

fn attach(dirs: &Dirs, what: &Attach) -> Result<Process> {
    let (sandbox, container) = sandboxes::container(dirs, &what.container_id)?;
    let has_terminal = container.record.config.stdio == Stdio::Terminal;
    if has_terminal != what.streams.tty {
        let says = |yes: bool| if yes { "a terminal" } else { "no terminal" };
        let message =
            format!("the container has {}, the request is for {}", says(has_terminal), says(what.streams.tty));
        return Err(failure(Kind::Invalid, message));
    }
    let input = if what.streams.stdin || has_terminal { Input::Passed } else { Input::NotPassed };
    let ((stdout, theirs_out), (stderr, theirs_err)) = (output()?, output()?);
    let request = Request::Attach { container: container.id().to_owned(), input };
    let mut started = start(&sandbox, &request, &[theirs_out.as_fd(), theirs_err.as_fd()])?;
    let ends = match (has_terminal, started.sent.take()) {
        (true, Some(master)) => Ends::SharedTerminal { master, output: stdout },
        (_, stdin) => Ends::Pipes { stdin, stdout: Some(stdout), stderr: Some(stderr) },
    };
    Ok(started.process(ends))
}

/// Where to connect from; `None` with the host's network.
fn namespace(dirs: &Dirs, sandbox_id: &str) -> Result<Option<std::path::PathBuf>> {
    let sandbox = sandboxes::sandbox(dirs, sandbox_id)?;
    sandbox.require_ready()?;
    match sandbox.pod.record.plan.sandbox.namespaces.network {
        NetworkMode::Host => Ok(None),
        _ => Ok(Some(sandbox.pod.dirs.namespace("net"))),
    }
}

impl Backend for Streams {
    async fn exec(&self, request: &Exec) -> Result<Process> {
        let (dirs, request) = (self.dirs.clone(), request.clone());
        spawn_blocking(move || exec(&dirs, request)).await.context("starting a command")?
    }

    async fn attach(&self, request: &Attach) -> Result<Process> {
        let (dirs, request) = (self.dirs.clone(), request.clone());
        spawn_blocking(move || attach(&dirs, &request)).await.context("attaching")?
    }

    async fn connect(&self, sandbox_id: &str, port: u16) -> Result<TcpStream> {
        let (dirs, id) = (self.dirs.clone(), sandbox_id.to_owned());
        let namespace = spawn_blocking(move || namespace(&dirs, &id)).await.context("connecting")??;
        let namespace =
            namespace.map(runtime::open_namespace).transpose().context("the sandbox's network namespace")?;
        network::dial::dial(namespace.as_ref().map(AsFd::as_fd), port).await
    }
}
