//! The streaming server: what Exec, Attach and PortForward answer is a URL, and behind it the bytes go, past gRPC.
//!
//! A URL is good once and for a minute, and its token is all that a client has to show: the server listens on loopback, or has
//! TLS. A client speaks SPDY/3.1 (kubelets, crictl) or WebSocket (v5.channel.k8s.io and older; SPDY tunnelled for ports).
//! Everything that it sends is bounded in size, number and time, and read only as fast as it is taken.
//!
//! | file | content |
//! |---|---|
//! | `tokens` | what URLs stand for |
//! | `listen` | connections and TLS |
//! | `strangers` | bounds on those that have shown no token |
//! | `http` | the request that is upgraded: routes, protocols |
//! | `command` | Exec and Attach |
//! | `forward` | PortForward |
//! | `pipe` | bytes between channels and a process's descriptors |
//! | `liveness` | idle and closed connections |
//! | [`spdy`] | SPDY/3.1 |
//! | `websocket` | channels over a WebSocket |

mod command;
mod forward;
mod http;
mod listen;
mod liveness;
mod pipe;
pub mod spdy;
mod strangers;
mod tokens;
mod websocket;

pub use listen::{Config, Server, Tls};

use crate::error::{Kind, failure};
use anyhow::Result;
use futures_util::future::BoxFuture;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::net::TcpStream;

/// What a URL stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a command in a container.
    Exec(Exec),
    /// Connect to a container's own streams.
    Attach(Attach),
    /// Connect to ports of a sandbox.
    PortForward(PortForward),
}

/// A command in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The container.
    pub container_id: String,
    /// argv
    pub command: Vec<String>,
    /// Which streams it has.
    pub streams: Streams,
}

/// A container's own streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The container.
    pub container_id: String,
    /// Which of them.
    pub streams: Streams,
}

/// Ports of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// The sandbox.
    pub sandbox_id: String,
    /// Which ports: looked at with the old WebSocket protocols only. With the others the client says them as it goes.
    pub ports: Vec<u16>,
}

/// The streams of a process that a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; not with a terminal, which has one output.
    pub stderr: bool,
    /// It has a terminal.
    pub tty: bool,
}

/// A process whose streams are carried to a client. Dropping it is what happens when the client is gone.
pub struct Process {
    /// Where its bytes are.
    pub ends: Ends,
    /// Its exit code when it has ended (128 and the signal's number if one killed it).
    pub exit: BoxFuture<'static, Result<i32>>,
}

/// This side's ends: pipes, sockets or a terminal's master, of which none is shared with anyone who expects it to block.
pub enum Ends {
    /// Each that there is. An output that the client has not asked for is read and dropped.
    Pipes {
        /// To write to; closed when the client ends its input, or is gone.
        stdin: Option<OwnedFd>,
        /// To read from.
        stdout: Option<OwnedFd>,
        /// To read from.
        stderr: Option<OwnedFd>,
    },
    /// A terminal's master, which the client's window gives its size to.
    Terminal(OwnedFd),
    /// A terminal that somebody else reads, who passes on what it says.
    SharedTerminal {
        /// Its master: to write to, and to give a size to.
        master: OwnedFd,
        /// To read from.
        output: OwnedFd,
    },
}

/// What does the work.
pub trait Backend: Send + Sync + 'static {
    /// Starts a command. It runs on when what is returned is dropped.
    fn exec(&self, request: &Exec) -> impl Future<Output = Result<Process>> + Send;
    /// Connects to a container's own streams; [`Process::exit`] is when it ends.
    fn attach(&self, request: &Attach) -> impl Future<Output = Result<Process>> + Send;
    /// Connects to a port on a sandbox's loopback.
    fn connect(&self, sandbox_id: &str, port: u16) -> impl Future<Output = Result<TcpStream>> + Send;
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection on which nothing is said; the reference server's four hours.
    pub idle: Duration,
    /// A client to open its streams; the reference server's 30 s.
    pub creation: Duration,
    /// A URL to be asked for; the reference server's minute.
    pub token: Duration,
    /// A connection to show a token, TLS included.
    pub request: Duration,
    /// What a client has sent before it closed its connection, to be taken.
    pub grace: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            idle: Duration::from_secs(4 * 60 * 60),
            creation: Duration::from_secs(30),
            token: Duration::from_secs(60),
            request: Duration::from_secs(10),
            grace: Duration::from_secs(10),
        }
    }
}

impl Request {
    /// The first part of a URL's path.
    fn verb(&self) -> &'static str {
        match self {
            Request::Exec(_) => "exec",
            Request::Attach(_) => "attach",
            Request::PortForward(_) => "portforward",
        }
    }

    /// Refuses what the reference server refuses, in its words.
    fn check(&self) -> Result<()> {
        let refused = |why: &str| Err(failure(Kind::Invalid, why));
        let (id, streams) = match self {
            Request::Exec(exec) => (&exec.container_id, exec.streams),
            Request::Attach(attach) => (&attach.container_id, attach.streams),
            Request::PortForward(forward) if forward.sandbox_id.is_empty() => {
                return refused("missing required pod_sandbox_id");
            }
            Request::PortForward(forward) if forward.ports.contains(&0) => {
                return refused("port 0 cannot be forwarded");
            }
            Request::PortForward(_) => return Ok(()),
        };
        if id.is_empty() {
            return refused("missing required container_id");
        }
        if streams.tty && streams.stderr {
            return refused("tty and stderr cannot both be true");
        }
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return refused("one of stdin, stdout, or stderr must be set");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked_before_there_is_a_url() {
        let with = |container_id: &str, stdin, stderr, tty| {
            let streams = Streams { stdin, stderr, tty, stdout: false };
            Request::Attach(Attach { container_id: container_id.into(), streams }).check()
        };
        let forward = |id: &str, ports| Request::PortForward(PortForward { sandbox_id: id.into(), ports }).check();
        with("c", true, false, true).unwrap();
        with("c", false, true, false).unwrap();
        forward("s", vec![]).unwrap();
        let refused = [
            with("", true, false, false),
            with("c", true, true, true),
            with("c", false, false, true),
            forward("", vec![80]),
            forward("s", vec![80, 0]),
        ];
        for (number, refused) in refused.into_iter().enumerate() {
            assert_eq!(crate::error::kind_of(&refused.unwrap_err()), Some(Kind::Invalid), "{number}");
        }
    }
}
