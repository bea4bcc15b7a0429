//! Bytes between a client's channels and descriptors of a process.

use super::spdy;
use super::websocket;
use crate::sys::process::{self, TerminalSize};
use crate::sys::{Called, SysResult, poll};
use anyhow::Result;
use bytes::Bytes;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Deserialize;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Pieces on their way in one direction of a stream.
pub(super) const QUEUE: usize = 4;
/// The most bytes of a terminal's size that are not complete.
const MAX_SIZE: usize = 1024;

/// What a client sends on one channel, until it ends that channel or is gone.
pub(super) type Input = mpsc::Receiver<Bytes>;

/// What is sent to a client on one channel.
pub(super) enum Output {
    /// A stream of SPDY.
    Spdy(spdy::Output),
    /// A channel of a WebSocket.
    WebSocket(websocket::Output),
}

impl Output {
    /// Sends bytes, when those before are on their way.
    pub(super) async fn write(&self, bytes: Bytes) -> Result<()> {
        match self {
            Output::Spdy(stream) => stream.write(bytes).await,
            Output::WebSocket(channel) => channel.write(&bytes).await,
        }
    }

    /// Nothing more comes. Channels of a WebSocket end with their connection only.
    pub(super) async fn finish(&self) -> Result<()> {
        match self {
            Output::Spdy(stream) => stream.finish().await,
            Output::WebSocket(_) => Ok(()),
        }
    }
}

/// A pipe's end or a terminal's master, without blocking.
pub(super) type End = Arc<AsyncFd<OwnedFd>>;

/// Has the runtime wait for a descriptor. `O_NONBLOCK` is a property of the open file, so that other holders have it too.
pub(super) fn end(fd: OwnedFd) -> SysResult<End> {
    let flags = fcntl(&fd, FcntlArg::F_GETFL).called("fcntl", "F_GETFL")?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(&fd, FcntlArg::F_SETFL(flags)).called("fcntl", "F_SETFL")?;
    Ok(Arc::new(poll::both_ways(fd)?))
}

/// From a process to its client until it has no more, or nobody takes it. Without a client it is read and dropped: a process
/// must not wait for a reader that nobody has asked for.
pub(super) async fn pump_out(from: End, to: Option<Output>) {
    let mut buffer = vec![0; spdy::MAX_PIECE];
    loop {
        let read = from.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd.as_fd(), &mut buffer)?)).await;
        match (read, &to) {
            (Ok(0), _) => break,
            (Ok(count), Some(to)) => {
                if to.write(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                    return;
                }
            }
            (Ok(_), None) => {}
            (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
            // EIO: the last user of a terminal's other side is gone.
            (Err(_), _) => break,
        }
    }
    if let Some(to) = to {
        // The client may be gone, which its connection tells.
        let _ = to.finish().await;
    }
}

/// From a client to its process until it has sent all, or the process takes no more.
pub(super) async fn pump_in(mut from: Input, to: End) {
    while let Some(bytes) = from.recv().await {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match to.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, rest)?)).await {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// As clients say it: JSON, one after the other.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Size {
    #[serde(rename = "Width", alias = "width", default)]
    columns: u16,
    #[serde(rename = "Height", alias = "height", default)]
    rows: u16,
}

/// A client's window to its terminal.
pub(super) async fn pump_sizes(mut from: Input, terminal: End) {
    let mut text = Vec::new();
    while let Some(bytes) = from.recv().await {
        text.extend_from_slice(&bytes);
        let Some(sizes) = take_sizes(&mut text) else { return };
        if let Some(Size { columns, rows }) = sizes.into_iter().next_back()
            && process::set_terminal_size(terminal.get_ref().as_fd(), TerminalSize { rows, columns }).is_err()
        {
            return;
        }
    }
}

/// The complete sizes at the beginning of `text`, which are taken from it; `None` if there is anything else.
fn take_sizes(text: &mut Vec<u8>) -> Option<Vec<Size>> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let mut sizes = Vec::new();
    let mut complete = 0;
    loop {
        match values.next() {
            None => complete = text.len(),
            Some(Ok(size)) => {
                sizes.push(size);
                complete = values.byte_offset();
                continue;
            }
            Some(Err(error)) if error.is_eof() => {}
            Some(Err(_)) => return None,
        }
        text.drain(..complete);
        return (text.len() <= MAX_SIZE).then_some(sizes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_come() {
        let size = |columns, rows| Size { columns, rows };
        let mut text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":1,\"He".to_vec();
        assert_eq!(take_sizes(&mut text), Some(vec![size(80, 24)]));
        text.extend(b"ight\":2}{\"width\":3}\n");
        assert_eq!(take_sizes(&mut text), Some(vec![size(1, 2), size(3, 0)]));
        assert!(text.is_empty());
        for wrong in ["x", "{\"Width\":-1}", "{\"Width\":70000}", "\"80x24\""] {
            assert_eq!(take_sizes(&mut wrong.into()), None, "{wrong}");
        }
        assert_eq!(take_sizes(&mut format!("{{\"Width\":{}", " ".repeat(2000)).into_bytes()), None, "without end");
    }
}
