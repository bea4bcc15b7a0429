//! A request over a non-blocking socket, for an event loop: TCP and HTTP/1.1 without TLS, to an IP address.

use super::http::{Answer, Get, Step};
use super::{Ask, Origin, Request, errno_text};
use crate::lifecycle::Outcome;
use crate::sys::net::TcpEnd;
use crate::sys::{Called, SysError, SysResult, net};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send, sockopt};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Input.
    Read,
    /// Room for output; of a connection that is being made, its end.
    Write,
}

/// Where requests of [`Origin::Pod`] go out.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    /// The pod's network namespace; `None` for the caller's own (hostNetwork).
    pub namespace: Option<BorrowedFd<'a>>,
}

/// A request that is under way.
#[derive(Debug)]
pub struct Attempt {
    request: Request,
    address: SocketAddr,
    socket: OwnedFd,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    /// What is still to be sent.
    Sending(Vec<u8>),
    Receiving(Answer),
}

/// What [`Attempt::begin`] comes to.
#[derive(Debug)]
pub enum Begun {
    /// The socket is to be watched.
    Waiting(Box<Attempt>),
    /// It is over already.
    Done(Outcome),
}

/// What [`Attempt::ready`] comes to.
#[derive(Debug)]
pub enum Progress {
    /// The socket is to be watched for [`Attempt::interest`].
    Waiting,
    /// A redirect: there is a new socket, and this is the old one, still open, so that its registration can be taken away.
    Moved(OwnedFd),
    /// A redirect to what an attempt cannot perform: it goes on in a process of its own.
    Elsewhere(Request),
    /// The end.
    Done(Outcome),
}

/// Bytes read at once.
const READ_SIZE: usize = 4 << 10;

impl Attempt {
    /// Begins to connect. An error is the caller's own (no descriptors left …), not that of who is asked.
    pub fn begin(request: Request, network: Network<'_>) -> SysResult<Begun> {
        let address = match &request.ask {
            Ask::Tcp(place) => place.address(),
            Ask::Http(get) => match get.check() {
                Ok(()) => get.plain_address(),
                Err(outcome) => return Ok(Begun::Done(outcome)),
            },
            Ask::Grpc { .. } => None,
        };
        let Some(address) = address else {
            return Err(SysError::new("connect", "a name, or with TLS", Errno::EAFNOSUPPORT));
        };
        let namespace = network.namespace.filter(|_| request.origin == Origin::Pod);
        let socket = net::tcp_socket(address, namespace)?;
        match net::connect(socket.as_fd(), address) {
            // The sandbox of a test may connect at once; the loop sees it as writable at once, too.
            Ok(()) | Err(Errno::EINPROGRESS) => {
                Ok(Begun::Waiting(Box::new(Attempt { request, address, socket, stage: Stage::Connecting })))
            }
            Err(errno) => Ok(Begun::Done(refused(&request, address, errno))),
        }
    }

    /// The socket.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What it is to be watched for.
    pub fn interest(&self) -> Interest {
        match self.stage {
            Stage::Connecting | Stage::Sending(_) => Interest::Write,
            Stage::Receiving(_) => Interest::Read,
        }
    }

    /// What it comes to when its time is over.
    pub fn timed_out(&self) -> Outcome {
        self.request.timed_out(matches!(&self.stage, Stage::Receiving(answer) if answer.is_halfway()))
    }

    /// Does what can be done now. Never blocks; harmless when the socket is not ready.
    pub fn ready(&mut self, network: Network<'_>) -> SysResult<Progress> {
        if matches!(self.stage, Stage::Connecting) {
            match self.connected()? {
                None => return Ok(Progress::Waiting),
                Some(Ok(())) => {}
                Some(Err(errno)) => return Ok(Progress::Done(refused(&self.request, self.address, errno))),
            }
            let Ask::Http(get) = &self.request.ask else { return Ok(Progress::Done(Outcome::Success)) };
            self.stage = Stage::Sending(get.bytes());
        }
        let Ask::Http(get) = &self.request.ask else { return Ok(Progress::Done(Outcome::Success)) };
        if let Stage::Sending(bytes) = &mut self.stage {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Progress::Waiting),
                Ok(count) if count < bytes.len() => {
                    bytes.drain(..count);
                    return Ok(Progress::Waiting);
                }
                // Who does not want to read all of it may have answered: reading shows it, and the error if there is one.
                Ok(_) | Err(_) => self.stage = Stage::Receiving(Answer::default()),
            }
        }
        let Stage::Receiving(answer) = &mut self.stage else { return Ok(Progress::Waiting) };
        // One read a turn: who floods does not keep others waiting.
        let mut buffer = [0u8; READ_SIZE];
        let step = match nix::unistd::read(&self.socket, &mut buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => Step::More,
            Ok(0) => Step::Done(answer.end(get)),
            Ok(count) => answer.feed(get, &buffer[..count]),
            Err(errno) => {
                let what = format!("read tcp {}: read: {}", ends(self.socket.as_fd(), self.address), errno_text(errno));
                Step::Done(if answer.is_halfway() { Outcome::Error(what) } else { get.failure(what) })
            }
        };
        match step {
            Step::More => Ok(Progress::Waiting),
            Step::Done(outcome) => Ok(Progress::Done(outcome)),
            Step::Again(next) => self.follow(*next, network),
        }
    }

    /// `None` while it is being made.
    fn connected(&self) -> SysResult<Option<Result<(), Errno>>> {
        let error = nix::sys::socket::getsockopt(&self.socket, sockopt::SocketError)
            .called("getsockopt SO_ERROR", self.address)?;
        if error != 0 {
            return Ok(Some(Err(Errno::from_raw(error))));
        }
        // Without an error it is connected or still being connected.
        Ok(net::address_of(self.socket.as_fd(), TcpEnd::Peer).map(|_| Ok(())))
    }

    fn follow(&mut self, next: Get, network: Network<'_>) -> SysResult<Progress> {
        let request = Request { ask: Ask::Http(next), ..self.request.clone() };
        if !request.is_plain() {
            return Ok(Progress::Elsewhere(request));
        }
        match Attempt::begin(request, network)? {
            Begun::Done(outcome) => Ok(Progress::Done(outcome)),
            Begun::Waiting(next) => Ok(Progress::Moved(std::mem::replace(self, *next).socket)),
        }
    }
}

/// `10.0.0.1:40000->10.0.0.2:80`
fn ends(socket: BorrowedFd<'_>, peer: SocketAddr) -> String {
    let own = net::address_of(socket, TcpEnd::Own).map_or_else(String::new, |own| own.to_string());
    format!("{own}->{peer}")
}

/// Go's words for a connection that could not be made.
fn refused(request: &Request, address: SocketAddr, errno: Errno) -> Outcome {
    let what = format!("dial tcp {address}: connect: {}", errno_text(errno));
    match &request.ask {
        Ask::Http(get) => get.failure(what),
        _ => Outcome::Failure(what),
    }
}
