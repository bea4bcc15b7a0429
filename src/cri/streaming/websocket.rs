//! Kubernetes' channels over a WebSocket: each message begins with the number of its channel (k8s.io/streaming,
//! pkg/httpstream/wsstream); and SPDY tunnelled through one.

use super::liveness::{Liveness, WRITTEN};
use super::pipe::{Input, QUEUE};
use super::spdy::MAX_PIECE;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// The largest message: Go's library takes 32 MiB, its clients send 32 KiB at a time.
const MAX_MESSAGE: usize = 4 << 20;
/// In place of a channel's number: the channel after it has ended (v5.channel.k8s.io).
const CLOSE: u8 = 255;
/// How long a client may take to answer the end of a connection.
const FAREWELL: Duration = Duration::from_secs(5);

/// How channels are written in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// A byte, and bytes. The end of a channel may be sent with v5 only.
    Raw {
        /// Whether it may.
        ends: bool,
    },
    /// A digit, and base64.
    Base64,
}

/// The channels of one connection.
pub(super) struct Channels {
    inputs: Vec<Option<Input>>,
    messages: mpsc::Sender<Option<Message>>,
    codec: Codec,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

/// One channel to the client.
pub(super) struct Output {
    number: u8,
    codec: Codec,
    messages: mpsc::Sender<Option<Message>>,
}

/// A connection whose handshake is done.
async fn accepted<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(MAX_PIECE)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_PIECE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

impl Channels {
    /// Begins to read and write. `readable` says for each channel whether something is taken from it; the rest is dropped.
    pub(super) async fn start<S>(io: S, (codec, readable): (Codec, &[bool]), liveness: Arc<Liveness>) -> Channels
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (to, from) = accepted(io).await.split();
        let (messages, to_write) = mpsc::channel(QUEUE);
        let (mut senders, mut inputs) = (Vec::new(), Vec::new());
        for readable in readable {
            let (sender, input) = mpsc::channel(QUEUE);
            senders.push(readable.then_some(sender));
            inputs.push(readable.then_some(input));
        }
        let (writing, probes) = (Arc::clone(&liveness), messages.clone());
        let reader = tokio::spawn(async move {
            // What a client does wrong ends its connection; there is no one to tell.
            let _ = read(from, (codec, senders), (&liveness, &probes)).await;
            liveness.end();
        });
        let writer = tokio::spawn(async move {
            if write(to, to_write, &writing).await.is_err() {
                writing.end();
            }
        });
        Channels { inputs, messages, codec, reader, writer }
    }

    /// What the client sends on a channel; once, and only if the channel is one that is read.
    pub(super) fn input(&mut self, number: u8) -> Option<Input> {
        self.inputs.get_mut(usize::from(number)).and_then(Option::take)
    }

    /// A channel to the client.
    pub(super) fn output(&self, number: u8) -> Output {
        Output { number, codec: self.codec, messages: self.messages.clone() }
    }

    /// Ends the connection in order, and waits until the client has read it all, but not for long.
    pub(super) async fn close(mut self) {
        let farewell = async {
            if self.messages.send(None).await.is_ok() {
                let _ = (&mut self.writer).await;
            }
        };
        let _ = timeout(WRITTEN, farewell).await;
        let _ = timeout(FAREWELL, &mut self.reader).await;
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

impl Output {
    /// Sends bytes, when those before are on their way.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<()> {
        let message = match self.codec {
            Codec::Raw { .. } => {
                let mut message = BytesMut::with_capacity(bytes.len() + 1);
                message.extend_from_slice(&[self.number]);
                message.extend_from_slice(bytes);
                Message::Binary(message.freeze())
            }
            Codec::Base64 => {
                let mut text = String::from(char::from(b'0' + self.number));
                BASE64_STANDARD.encode_string(bytes, &mut text);
                Message::text(text)
            }
        };
        if self.messages.send(Some(message)).await.is_err() {
            bail!("the connection is gone");
        }
        Ok(())
    }
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut from: SplitStream<WebSocketStream<S>>,
    (codec, mut channels): (Codec, Vec<Option<mpsc::Sender<Bytes>>>),
    (liveness, probes): (&Liveness, &mpsc::Sender<Option<Message>>),
) -> Result<()> {
    // If there is no room for it, something else is on its way. It also is what client-go waits for in answer to its own pings,
    // which are not read either meanwhile (RFC 6455, 5.5.3: unsolicited).
    let probe = || drop(probes.try_send(Some(Message::Pong(Bytes::new()))));
    while let Some(message) = from.next().await {
        liveness.touch();
        let message = match message.context("reading a message")? {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            // The answer is tungstenite's, on its way to the end.
            Message::Close(_) => continue,
        };
        match take(codec, message)? {
            Taken::Nothing => {}
            Taken::End(number) => match channels.get_mut(usize::from(number)) {
                Some(channel) => *channel = None,
                None => bail!("the end of channel {number}, which there is not"),
            },
            Taken::Data(number, mut bytes) => {
                let Some(Some(channel)) = channels.get(usize::from(number)) else { continue };
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(MAX_PIECE));
                    liveness.deliver(channel, piece, probe).await?;
                }
            }
        }
    }
    Ok(())
}

/// What is in a message.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Nothing,
    Data(u8, Bytes),
    End(u8),
}

fn take(codec: Codec, mut message: Bytes) -> Result<Taken> {
    if message.is_empty() {
        return Ok(Taken::Nothing);
    }
    let first = message.split_to(1)[0];
    Ok(match codec {
        Codec::Raw { ends: true } if first == CLOSE => match message[..] {
            [number] => Taken::End(number),
            _ => bail!("the end of {} channels in one message", message.len()),
        },
        Codec::Raw { .. } => Taken::Data(first, message),
        Codec::Base64 => {
            let number = first.checked_sub(b'0').context("a channel's number is no digit")?;
            Taken::Data(number, BASE64_STANDARD.decode(&message).context("a message is not base64")?.into())
        }
    })
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut to: SplitSink<WebSocketStream<S>, Message>,
    mut messages: mpsc::Receiver<Option<Message>>,
    liveness: &Liveness,
) -> Result<()> {
    while let Some(Some(message)) = messages.recv().await {
        let is_probe = message.is_pong();
        to.send(message).await?;
        if !is_probe {
            liveness.touch();
        }
    }
    to.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await?;
    Ok(())
}

/// A connection of bytes, each way in binary messages: SPDY tunnelled through a WebSocket.
pub(super) struct Tunnel(Vec<JoinHandle<()>>);

impl Tunnel {
    /// The bytes, and what is to be kept until they are not needed any more.
    pub(super) async fn open<S>(io: S, liveness: &Arc<Liveness>) -> (DuplexStream, Tunnel)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (to, from) = accepted(io).await.split();
        let (inner, outer) = tokio::io::duplex(MAX_PIECE);
        let (bytes_from, bytes_to) = tokio::io::split(outer);
        // The end of either direction is seen by who reads there; an error ends both.
        let reading = Arc::clone(liveness);
        let reader = tokio::spawn(async move {
            if tunnel_in(from, bytes_to).await.is_err() {
                reading.end();
            }
        });
        let writing = Arc::clone(liveness);
        let writer = tokio::spawn(async move {
            if tunnel_out(bytes_from, to).await.is_err() {
                writing.end();
            }
        });
        (inner, Tunnel(vec![reader, writer]))
    }

    /// Waits until what was written is sent, but not for long.
    pub(super) async fn close(mut self) {
        for (task, patience) in self.0.iter_mut().rev().zip([WRITTEN, FAREWELL]) {
            let _ = timeout(patience, task).await;
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn tunnel_in<S: AsyncRead + AsyncWrite + Unpin>(
    mut from: SplitStream<WebSocketStream<S>>,
    mut to: impl AsyncWrite + Unpin,
) -> Result<()> {
    while let Some(message) = from.next().await {
        match message.context("reading a message")? {
            // Who does not read any more is no reason to leave the client's answer to a close unread.
            Message::Binary(bytes) => drop(to.write_all(&bytes).await),
            Message::Text(_) => bail!("a text message in a tunnel"),
            _ => {}
        }
    }
    to.shutdown().await?;
    Ok(())
}

async fn tunnel_out<S: AsyncRead + AsyncWrite + Unpin>(
    mut from: impl AsyncRead + Unpin,
    mut to: SplitSink<WebSocketStream<S>, Message>,
) -> Result<()> {
    let mut buffer = vec![0; MAX_PIECE];
    loop {
        match from.read(&mut buffer).await? {
            0 => break,
            count => to.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await?,
        }
    }
    to.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_apart() {
        let (v4, v5) = (Codec::Raw { ends: false }, Codec::Raw { ends: true });
        let data = |number, bytes: &'static [u8]| Some(Taken::Data(number, Bytes::from_static(bytes)));
        let cases: [(Codec, &'static [u8], Option<Taken>); 11] = [
            (v4, b"", Some(Taken::Nothing)),
            (v4, b"\0hi", data(0, b"hi")),
            (v4, b"\x04", data(4, b"")),
            (v4, b"\xff\0", data(255, b"\0")),
            (v5, b"\xff\0", Some(Taken::End(0))),
            (v5, b"\xff", None),
            (v5, b"\xff\0\0", None),
            (Codec::Base64, b"0aGk=", data(0, b"hi")),
            (Codec::Base64, b"1", data(1, b"")),
            (Codec::Base64, b"0!", None),
            (Codec::Base64, b"\x01aGk=", None),
        ];
        for (codec, message, expected) in cases {
            assert_eq!(take(codec, Bytes::from_static(message)).ok(), expected, "{codec:?} {message:?}");
        }
    }
}
