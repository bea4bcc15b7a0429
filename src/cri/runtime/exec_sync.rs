//! ExecSync: a command in a container, its output, its exit code.

use crate::control::{Connection, HangUp, OwnProcess, Reply, Request};
use crate::cri::server::MAX_MESSAGE;
use crate::cri::{Daemon, api, sandboxes};
use crate::error::{Kind, failure};
use crate::sys::Called;
use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// The most output that is kept, in bytes; what follows is read and dropped, which the API asks for. It names 16 MiB of each stream,
/// but no client takes an answer of more than that (gRPC's `MaxCallRecvMsgSize` as kubelets and crictl set it).
const MAX_OUTPUT: usize = MAX_MESSAGE - (4 << 10);

/// What is done. The command is killed if `client` hangs up before it has ended.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::ExecSyncRequest,
    client: &Client,
) -> Result<api::ExecSyncResponse> {
    if request.cmd.is_empty() {
        return Err(failure(Kind::Invalid, "cmd is empty"));
    }
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    let deadline = match u64::try_from(request.timeout) {
        Ok(seconds) if seconds > 0 => Instant::now().checked_add(Duration::from_secs(seconds)),
        Ok(_) => None,
        Err(_) => return Err(failure(Kind::Invalid, format!("timeout is {}: less than nothing", request.timeout))),
    };
    let pipe = || pipe2(OFlag::O_CLOEXEC).called("pipe2", "");
    let ((stdin, _), (stdout, theirs_out), (stderr, theirs_err)) = (pipe()?, pipe()?, pipe()?);
    let asked = Request::Exec {
        container: container.id().to_owned(),
        command: request.cmd.clone(),
        terminal: None,
        own: OwnProcess::default(),
        hang_up: HangUp::Kill,
    };
    let theirs = [stdin.as_fd(), theirs_out.as_fd(), theirs_err.as_fd()];
    let connection = Connection::open(&sandbox.pod.dirs.socket(), &asked, &theirs)?;
    drop((stdin, theirs_out, theirs_err));
    let mut outputs = [Output::new(stdout)?, Output::new(stderr)?];
    let exit_code = follow((&connection, client), &mut outputs, deadline)?;
    let [stdout, stderr] = outputs.map(|output| output.kept);
    Ok(api::ExecSyncResponse { stdout, stderr, exit_code })
}

/// Whoever asked. Its other end is dropped when it hangs up.
pub(in crate::cri) struct Client(OwnedFd);

impl Client {
    /// It, and what it holds as long as it waits.
    pub(in crate::cri) fn new() -> Result<(Client, OwnedFd)> {
        let (ours, held) = pipe2(OFlag::O_CLOEXEC).called("pipe2", "")?;
        Ok((Client(ours), held))
    }
}

struct Output {
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
}

impl Output {
    fn new(pipe: OwnedFd) -> Result<Output> {
        nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).called("fcntl", "pipe")?;
        Ok(Output { pipe: Some(pipe), kept: Vec::new() })
    }

    /// What is there by now, of which `room` bytes are kept.
    fn read(&mut self, room: &mut usize) -> Result<()> {
        let mut buffer = [0u8; 32 << 10];
        while let Some(pipe) = &self.pipe {
            match nix::unistd::read(pipe, &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    let kept = count.min(*room);
                    self.kept.extend_from_slice(&buffer[..kept]);
                    *room -= kept;
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).called("read", "the command's output").map_err(Into::into),
            }
        }
        Ok(())
    }
}

/// Reads until the command has ended. Others that hold its output by then are not waited for. When the connection is dropped
/// before that, the supervisor kills the command.
fn follow(
    (connection, client): (&Connection, &Client),
    outputs: &mut [Output; 2],
    deadline: Option<Instant>,
) -> Result<i32> {
    let mut room = MAX_OUTPUT;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(failure(Kind::TimedOut, "the command has not ended in time, and was killed"));
        }
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        fds.push(PollFd::new(client.0.as_fd(), PollFlags::empty()));
        fds.extend(outputs.iter().flat_map(|o| &o.pipe).map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).called("poll", "a command").map_err(Into::into),
        }
        let is_told = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let (has_answer, has_hung_up) = (is_told(&fds[0]), is_told(&fds[1]));
        if has_hung_up && !has_answer {
            return Err(failure(Kind::Interrupted, "the client has hung up: the command was killed"));
        }
        let answer = if has_answer { Some(connection.reply()?) } else { None };
        outputs.iter_mut().try_for_each(|output| output.read(&mut room))?;
        match answer {
            Some(Some((Reply::Exited { code }, _))) => return Ok(code),
            Some(None) => return Err(failure(Kind::NotReady, "the container's sandbox ended")),
            Some(Some(_)) | None => {}
        }
    }
}
