//! Whether a client is still there: a connection that says nothing for hours is given up, and one that has been closed by the
//! other end is noticed even while nothing more of it is read.

use super::Timeouts;
use crate::sys::{SysResult, poll};
use anyhow::{Result, bail};
use bytes::Bytes;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// How long what is written at the end of a connection may take to be written.
pub(crate) const WRITTEN: Duration = Duration::from_secs(10);

/// One connection.
pub(crate) struct Liveness {
    /// The connection's socket once more, only to be watched.
    socket: AsyncFd<OwnedFd>,
    timeouts: Timeouts,
    active: Mutex<Instant>,
    gone: watch::Sender<bool>,
}

impl Liveness {
    /// Of a connection that was accepted.
    pub(crate) fn of(stream: &TcpStream, timeouts: Timeouts) -> SysResult<Liveness> {
        let socket = poll::readable(stream.as_fd())?;
        Ok(Liveness { socket, timeouts, active: Mutex::new(Instant::now()), gone: watch::Sender::new(false) })
    }

    /// Something was read or written.
    pub(crate) fn touch(&self) {
        *self.active.lock().expect("no panic while the time is set") = Instant::now();
    }

    /// It is over.
    pub(crate) fn end(&self) {
        self.gone.send_replace(true);
    }

    /// Until it is over, or has been idle for too long.
    pub(crate) async fn gone(&self) {
        let mut gone = self.gone.subscribe();
        let idle = async {
            loop {
                let until = *self.active.lock().expect("no panic while the time is set") + self.timeouts.idle;
                if until <= Instant::now() {
                    return;
                }
                sleep_until(until).await;
            }
        };
        tokio::select! {
            // The sender is ours.
            _ = gone.wait_for(|gone| *gone) => {}
            () = idle => {}
        }
    }

    /// Hands on what a client has sent, when there is room for it. Nobody who takes it is no error; a client that has closed
    /// its connection meanwhile is one, after a while.
    ///
    /// As long as nothing is read, the end of what the client sends cannot be seen: its kernel keeps it until there is room for
    /// what comes before. `probe` sends the client something without meaning, which the kernel of one that is gone answers with
    /// RST (RFC 9293, 3.10.7.1).
    pub(crate) async fn deliver(&self, to: &mpsc::Sender<Bytes>, bytes: Bytes, probe: impl Fn()) -> Result<()> {
        let bytes = match to.try_send(bytes) {
            Err(mpsc::error::TrySendError::Full(bytes)) => bytes,
            _ => return Ok(()),
        };
        let probing = async {
            loop {
                sleep(self.timeouts.grace).await;
                probe();
            }
        };
        let closed = async {
            self.closed().await;
            sleep(self.timeouts.grace).await;
        };
        tokio::select! {
            _ = to.send(bytes) => Ok(()),
            () = probing => unreachable!("it has no end"),
            () = closed => bail!("the client has closed its connection, and nobody takes what it has sent"),
        }
    }

    /// Until the other end has closed the connection (EPOLLRDHUP, EPOLLHUP), whether all that it has sent is read or not.
    async fn closed(&self) {
        loop {
            let Ok(mut ready) = self.socket.ready(Interest::READABLE).await else {
                // The runtime ends.
                return std::future::pending().await;
            };
            if ready.ready().is_read_closed() {
                return;
            }
            ready.clear_ready();
        }
    }
}
