//! The control socket: watch, stop, exec, attach.

use super::exec::{Command, Purpose};
use super::hand_off::Stage;
use super::pod::{FAR, Supervisor, now};
use super::poll::{Source, Token};
use super::slot::Attached;
use crate::control::{self, HangUp, Input, OwnProcess, RefusedKind, Reply, Request};
use crate::error::{Kind, failure};
use crate::lifecycle::Event;
use crate::plan::config::Stdio;
use crate::runtime;
use crate::sys::flock::Flock;
use crate::sys::process::{Ended, TerminalSize};
use crate::sys::socket::{self, Received};
use crate::sys::{Called, SysError, SysResult};
use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::stat::{SFlag, fstat};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A connection.
pub(super) struct Client {
    socket: OwnedFd,
    token: Token,
    watches: bool,
    /// It stays until something ends: a command, a container, the pod.
    stays: bool,
}

/// The most connections at once.
const MAX_CLIENTS: usize = 512;

/// Of which so many may stay. The others are there for who wants to end something.
const MAX_STAYING: usize = 192;

/// How long nobody is accepted after nobody could be.
const DEAF: Duration = Duration::from_secs(1);

/// Whether it is an event that somebody connects.
#[derive(Clone, Copy)]
pub(super) enum Hearing {
    /// It is.
    Now(Token),
    /// It is again from then on, on the boot clock.
    From(Duration),
}

impl Hearing {
    /// When it is an event again.
    pub(super) fn again(self) -> Option<Duration> {
        match self {
            Hearing::Now(_) => None,
            Hearing::From(at) => Some(at),
        }
    }
}

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

/// The document that a request comes with, and what else.
fn documented(mut descriptors: Vec<OwnedFd>) -> Result<(OwnedFd, Vec<OwnedFd>)> {
    if descriptors.is_empty() {
        return Err(failure(Kind::Invalid, "the request comes without its document"));
    }
    Ok((descriptors.remove(0), descriptors))
}

/// Tells who has just connected why he is not served.
fn turn_away(connection: &OwnedFd, error: &SysError) {
    // What he has asked for is taken: with that unread, he would hear of a broken connection first.
    let _ = socket::receive(connection.as_fd());
    // He may ask again.
    let refused = Reply::Refused { kind: RefusedKind::NotReady, message: error.to_string() };
    let _ = control::reply(connection.as_fd(), &refused, &[]);
}

impl Supervisor {
    /// Somebody connects.
    pub(super) fn accept(&mut self) -> Result<()> {
        loop {
            match socket::accept(self.listener.as_fd()) {
                Ok(Some(connection)) => self.connected(connection)?,
                Ok(None) => return Ok(()),
                Err(error) if self.turns_away(&error) => return Ok(()),
                Err(error) => {
                    // Left waiting, he would wake us for ever.
                    self.hear_later()?;
                    return Err(error.into());
                }
            }
        }
    }

    /// Without descriptors the one who waits is turned away with the one that is kept for this. Whether that was possible: where the
    /// machine has none, somebody else may have got it.
    fn turns_away(&mut self, error: &SysError) -> bool {
        if !matches!(error.errno(), Errno::EMFILE | Errno::ENFILE) {
            return false;
        }
        self.spare = None;
        let accepted = socket::accept(self.listener.as_fd());
        let is_done = accepted.is_ok();
        if let Ok(Some(connection)) = accepted {
            turn_away(&connection, error);
        }
        self.spare = self.launcher.null().ok();
        is_done
    }

    /// The listener is not watched for a while.
    fn hear_later(&mut self) -> SysResult<()> {
        if let Hearing::Now(token) = self.hearing {
            self.poll.forget(token, self.listener.as_fd());
        }
        self.hearing = Hearing::From(now().boot + DEAF);
        self.arm_timer()
    }

    /// The listener is watched again, if it is time.
    pub(super) fn hear_again(&mut self) {
        if self.hearing.again().is_none_or(|at| at > now().boot) {
            return;
        }
        let watched = self.poll.watch(&self.listener, Source::Listener);
        self.hearing = watched.map_or_else(|_| Hearing::From(now().boot + DEAF), Hearing::Now);
    }

    /// A new connection; of anybody but podshim's own user, it is closed at once.
    fn connected(&mut self, connection: OwnedFd) -> Result<()> {
        let is_ours = socket::peer_uid(connection.as_fd())? == nix::unistd::geteuid().as_raw();
        if !is_ours || self.clients.len() >= MAX_CLIENTS {
            return Ok(());
        }
        let id = self.next_id;
        self.next_id += 1;
        let token = self.poll.watch(&connection, Source::Client(id))?;
        self.clients.insert(id, Client { socket: connection, token, watches: false, stays: false });
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
        // What others have asked for in this turn of the loop is known to the machine before anything is decided.
        self.settle()?;
        match request {
            Request::Watch => {
                self.stays(id)?;
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
                self.promised.push(id);
                Ok(())
            }
            Request::Exec { container, command, terminal, own, hang_up } => {
                self.stays(id)?;
                let (command, descriptors) = match command.is_empty() {
                    false => (command, descriptors),
                    true => {
                        let (document, others) = documented(descriptors)?;
                        (control::read_document(document)?, others)
                    }
                };
                check_pipes(&descriptors, if terminal.is_some() { 0 } else { 3 })?;
                self.exec(id, ExecIn { container: &container, command, terminal, own, hang_up, pipes: descriptors })
            }
            Request::Root { container } => {
                let root = self.root_of(self.running(&container)?)?;
                self.say(id, &Reply::Accepted, &[root.as_fd()]);
                Ok(())
            }
            Request::Attach { container, input } => {
                self.stays(id)?;
                self.attach(id, (&container, input), descriptors)
            }
            Request::SetCondition { type_, holds, reason, message } => {
                self.require_going_on()?;
                self.queue.push_back(Event::SetCondition { type_, holds, reason, message });
                self.promised.push(id);
                Ok(())
            }
            Request::Join => {
                let (document, pipes) = documented(descriptors)?;
                if !pipes.is_empty() {
                    check_pipes(&pipes, 2)?;
                }
                let index = self.join(control::read_document(document)?)?;
                self.say(id, &Reply::Accepted, &[]);
                self.show_output(id, index, pipes)
            }
            Request::GoOn => {
                self.go_on()?;
                self.say(id, &Reply::Accepted, &[]);
                Ok(())
            }
            Request::Create => {
                let (document, _) = documented(descriptors)?;
                self.create_container(id, control::read_document(document)?)
            }
            Request::Made { container } => self.await_made(id, &container),
            Request::Start { container } => self.start_container(id, &container),
            Request::End { container, grace_seconds } => self.end_container(id, &container, grace_seconds),
            Request::Remove { container } => self.remove_container(id, &container),
            Request::ReopenLog { container } => {
                self.reopen_log(&container)?;
                self.say(id, &Reply::Accepted, &[]);
                Ok(())
            }
            Request::Resize { container, resources } => {
                self.resize_container(&container, resources)?;
                self.say(id, &Reply::Accepted, &[]);
                Ok(())
            }
            Request::Update => {
                let (document, _) = documented(descriptors)?;
                self.update(control::read_document(document)?)?;
                self.say(id, &Reply::Accepted, &[]);
                Ok(())
            }
        }
    }

    /// A client is not answered at once. Of those there may not be more than leave room for others.
    fn stays(&mut self, id: u64) -> Result<()> {
        if self.clients.values().filter(|client| client.stays).count() >= MAX_STAYING {
            let message =
                format!("the pod has {MAX_STAYING} commands, attached and watching clients, and takes no more");
            return Err(failure(Kind::Exhausted, message));
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.stays = true;
        }
        Ok(())
    }

    /// Lets go of what others can have when the supervisor has ended, and tells those who are connected.
    pub(super) fn let_go(&mut self, lock: Flock) {
        // Nobody else gets a connection that is not answered.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        self.networking.release_host_ports();
        drop(lock);
        self.clients.clear();
    }

    pub(super) fn disconnect(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id) {
            self.poll.forget(client.token, client.socket.as_fd());
        }
        for slot in &mut self.slots {
            slot.attached.retain(|attached| attached.client != id);
        }
        for exec in self.execs.values_mut().filter(|exec| exec.ends_with(id)) {
            // It has ended already if this fails.
            let _ = exec.give_up();
        }
    }

    /// Sends a reply; a client that does not take it is disconnected.
    pub(super) fn say(&mut self, id: u64, reply: &Reply, descriptors: &[BorrowedFd<'_>]) {
        let Some(client) = self.clients.get(&id) else { return };
        if control::reply(client.socket.as_fd(), reply, descriptors).is_err() {
            self.disconnect(id);
        }
    }

    pub(super) fn refuse(&mut self, id: u64, error: &anyhow::Error) {
        let (kind, message) = (RefusedKind::of(error), format!("{error:#}"));
        self.say(id, &Reply::Refused { kind, message }, &[]);
    }

    pub(super) fn tell_exit(&mut self, id: u64, ended: Ended) {
        self.say(id, &Reply::Exited { code: ended.code() }, &[]);
    }

    /// The status file is new. A watcher whose queue is full has one such message waiting already; one that cannot be told is
    /// disconnected, and asks again, rather than wait for what was said already.
    pub(super) fn tell_watchers(&mut self) {
        let tell = |client: &Client| control::reply(client.socket.as_fd(), &Reply::Changed, &[]);
        let is_lost = |client: &Client| tell(client).is_err_and(|error| error.errno() != Errno::EAGAIN);
        let watchers = self.clients.iter().filter(|(_, client)| client.watches);
        let lost: Vec<u64> = watchers.filter(|(_, client)| is_lost(client)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.disconnect(id));
    }

    /// The index of a container that runs.
    fn running(&self, container: &str) -> Result<usize> {
        let index = self.index_of(container)?;
        match &self.slots[index].instance {
            Some(instance) if matches!(instance.process.stage, Stage::Running) => Ok(index),
            _ => Err(failure(Kind::NotReady, format!("container {container} is not running"))),
        }
    }

    fn attach(&mut self, id: u64, (container, input): (&str, Input), descriptors: Vec<OwnedFd>) -> Result<()> {
        let index = self.running(container)?;
        check_pipes(&descriptors, 2)?;
        self.show_output(id, index, descriptors)?;
        match input {
            Input::Passed => self.say_started(id, index),
            Input::NotPassed => {
                self.say(id, &Reply::Started, &[]);
                Ok(())
            }
        }
    }

    /// From now on the client sees the container's output, and hears of its end.
    fn show_output(&mut self, client: u64, index: usize, pipes: Vec<OwnedFd>) -> Result<()> {
        let mut pipes = pipes.into_iter();
        if let (Some(stdout), Some(stderr)) = (pipes.next(), pipes.next()) {
            for fd in [&stdout, &stderr] {
                // A client that does not read must not hold the pod up.
                nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
                    .called("fcntl", "pipe")?;
            }
            self.slots[index].attached.push(Attached { client, stdout, stderr });
        }
        Ok(())
    }

    /// Tells who is attached that the container runs, and gives him what its input can be written to.
    pub(super) fn say_started(&mut self, client: u64, index: usize) -> Result<()> {
        let once = self.pod.record.plan.containers[index].stdio == Stdio::StdinOnce;
        let input = match self.slots[index].instance.as_mut().map(|instance| &mut instance.input) {
            // The only writer from here on: the container's input ends when the client closes it.
            Some(input) if once => input.take(),
            Some(Some(input)) => Some(runtime::duplicate(input.as_fd())?),
            _ => None,
        };
        let lent: Vec<BorrowedFd<'_>> = input.iter().map(AsFd::as_fd).collect();
        self.say(client, &Reply::Started, &lent);
        Ok(())
    }

    /// `podshim exec`: the client hears [`Reply::Started`] and [`Reply::Exited`], or that it could not be.
    fn exec(&mut self, client: u64, what: ExecIn<'_>) -> Result<()> {
        let container = self.running(what.container)?;
        let mut pipes = what.pipes.into_iter();
        let mut next = || pipes.next().map_or_else(|| self.launcher.null(), Ok);
        let stdio = [next()?, next()?, next()?];
        let purpose = Purpose::Client { id: client, terminal: what.terminal, master: None, hang_up: what.hang_up };
        self.launch_exec(Command { container, arguments: what.command, own: what.own, stdio, purpose }).map(drop)
    }
}

/// A command for a container.
struct ExecIn<'a> {
    container: &'a str,
    command: Vec<String>,
    terminal: Option<TerminalSize>,
    own: OwnProcess,
    hang_up: HangUp,
    pipes: Vec<OwnedFd>,
}
