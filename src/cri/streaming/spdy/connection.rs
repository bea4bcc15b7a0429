//! The streams of one connection. One task reads frames and hands their bytes out, one writes; both queues are short, so that
//! who does not read is not written to: a stream whose bytes nobody takes stops its whole connection, as it does with Go's
//! library, since there is no flow control that could stop a stream alone.

use super::frame::{Encoder, Frame, MAX_PIECE, Reader, Status};
use super::headers::Headers;
use crate::cri::streaming::liveness::{Liveness, WRITTEN};
use crate::cri::streaming::pipe::{Input, QUEUE};
use anyhow::{Result, bail};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The most streams at once; further ones are refused. Each may hold [`QUEUE`] pieces.
const MAX_STREAMS: usize = 512;
/// How long a client may take to read the last frames, and then to close the connection.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection to a client.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    opened: mpsc::Receiver<Stream>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

/// A stream that the client has opened; it waits for [`Output::accept`] or [`Output::reset`].
pub(crate) struct Stream {
    /// What it is for.
    pub(crate) headers: Headers,
    /// What the client sends.
    pub(crate) input: Input,
    /// What is sent to it.
    pub(crate) output: Output,
}

/// The direction to the client of one stream.
pub(crate) struct Output {
    id: u32,
    shared: Arc<Shared>,
    over: watch::Receiver<bool>,
}

/// What both tasks and all streams know.
struct Shared {
    streams: Mutex<HashMap<u32, Entry>>,
    /// What is to be written; `None` is the end of the connection.
    frames: mpsc::Sender<Option<Frame>>,
    /// The newest stream.
    newest: AtomicU32,
    liveness: Arc<Liveness>,
}

/// A stream that is not closed both ways.
struct Entry {
    /// Where its bytes go; `None` once the client has sent all.
    input: Option<mpsc::Sender<Bytes>>,
    /// Whether something may be sent.
    sending: bool,
    /// Set when it is reset, or the connection is gone.
    over: watch::Sender<bool>,
}

impl Connection {
    /// Begins to read and write.
    pub(crate) fn start(
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        liveness: Arc<Liveness>,
    ) -> Result<Connection> {
        let (from, to) = tokio::io::split(io);
        let (frames, to_write) = mpsc::channel(QUEUE);
        let (open, opened) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared { streams: Mutex::default(), frames, newest: AtomicU32::new(0), liveness });
        let reader = Reader::new(BufReader::with_capacity(MAX_PIECE, from));
        let encoder = Encoder::new()?;
        let (reading, writing) = (Arc::clone(&shared), Arc::clone(&shared));
        let reader = tokio::spawn(async move {
            // What a client does wrong ends its connection and is nobody else's concern; there is no one to tell.
            let _ = reading.read(reader, open).await;
            reading.end();
        });
        let writer = tokio::spawn(async move {
            if write(to, to_write, (encoder, &writing.liveness)).await.is_err() {
                writing.end();
            }
        });
        Ok(Connection { shared, opened, reader, writer })
    }

    /// The next stream that the client opens; `None` when it is gone.
    pub(crate) async fn next(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Says farewell, and waits until the client has read it, but not for long.
    pub(crate) async fn close(mut self) {
        self.opened.close();
        let rest: Vec<u32> = self.shared.lock().drain().map(|(id, _)| id).collect();
        let resets = rest.iter().map(|id| Frame::Reset { stream: *id, status: Status::Cancel as u32 });
        let last = [Some(Frame::GoAway { last_good: self.shared.newest.load(Ordering::Relaxed) }), None];
        let farewell = async {
            for frame in resets.map(Some).chain(last) {
                if self.shared.frames.send(frame).await.is_err() {
                    return;
                }
            }
            let _ = (&mut self.writer).await;
        };
        let _ = timeout(WRITTEN, farewell).await;
        // To close with something unread would have the kernel throw away what the client has not read yet (RFC 1122, 4.2.2.13).
        let _ = timeout(FAREWELL, &mut self.reader).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
        self.shared.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.streams.lock().expect("no panic while streams are looked up")
    }

    /// The connection is gone, and each stream with it.
    fn end(&self) {
        self.liveness.end();
        for (_, entry) in self.lock().drain() {
            entry.over.send_replace(true);
        }
    }

    async fn read(
        self: &Arc<Self>,
        mut reader: Reader<impl AsyncRead + Unpin>,
        open: mpsc::Sender<Stream>,
    ) -> Result<()> {
        while let Some(frame) = reader.next().await? {
            self.liveness.touch();
            match frame {
                Frame::SynStream { stream, fin, unidirectional, headers } => {
                    // Ids are odd and grow (SPDY/3, 2.3.2).
                    let newest = self.newest.fetch_max(stream, Ordering::Relaxed);
                    let status = if stream % 2 == 0 || stream <= newest {
                        Some(Status::ProtocolError)
                    } else if self.lock().len() >= MAX_STREAMS {
                        Some(Status::Refused)
                    } else {
                        None
                    };
                    match status {
                        Some(status) => self.send(Frame::Reset { stream, status: status as u32 }).await?,
                        None => self.open(&open, (stream, headers), [!fin, !unidirectional]).await?,
                    }
                }
                Frame::Data { stream, fin, bytes } => {
                    let input = self.lock().get(&stream).and_then(|entry| entry.input.clone());
                    if let Some(input) = input
                        && !bytes.is_empty()
                    {
                        // If there is no room for it, something else is on its way.
                        let probe = || drop(self.frames.try_send(Some(Frame::Other)));
                        self.liveness.deliver(&input, bytes, probe).await?;
                    }
                    if fin {
                        self.finished(stream, |entry| entry.input = None);
                    }
                }
                Frame::Headers { stream, fin: true } => self.finished(stream, |entry| entry.input = None),
                Frame::Reset { stream, .. } => {
                    if let Some(entry) = self.lock().remove(&stream) {
                        entry.over.send_replace(true);
                    }
                }
                Frame::Ping { id } if id % 2 == 1 => self.send(Frame::Ping { id }).await?,
                Frame::GoAway { .. } => return Ok(()),
                Frame::Ping { .. } | Frame::SynReply { .. } | Frame::Headers { .. } | Frame::Other => {}
            }
        }
        Ok(())
    }

    async fn open(
        self: &Arc<Self>,
        open: &mpsc::Sender<Stream>,
        (id, headers): (u32, Headers),
        [receiving, sending]: [bool; 2],
    ) -> Result<()> {
        let (input, receiver) = mpsc::channel(QUEUE);
        let (over, watched) = watch::channel(false);
        let entry = Entry { input: receiving.then_some(input), sending, over };
        self.lock().insert(id, entry);
        let output = Output { id, shared: Arc::clone(self), over: watched };
        if open.send(Stream { headers, input: receiver, output }).await.is_err() {
            self.lock().remove(&id);
            self.send(Frame::Reset { stream: id, status: Status::Refused as u32 }).await?;
        }
        Ok(())
    }

    /// One direction of a stream has ended; it is forgotten when both have.
    fn finished(&self, id: u32, end: impl FnOnce(&mut Entry)) {
        let mut streams = self.lock();
        if let Some(entry) = streams.get_mut(&id) {
            end(entry);
            if entry.input.is_none() && !entry.sending {
                streams.remove(&id);
            }
        }
    }

    async fn send(&self, frame: Frame) -> Result<()> {
        if self.frames.send(Some(frame)).await.is_err() {
            bail!("the connection is gone");
        }
        Ok(())
    }
}

impl Output {
    /// The stream's id.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The stream is taken: SYN_REPLY.
    pub(crate) async fn accept(&self) -> Result<()> {
        self.shared.send(Frame::SynReply { stream: self.id }).await
    }

    /// Sends bytes, when those before are on their way.
    pub(crate) async fn write(&self, bytes: Bytes) -> Result<()> {
        if !self.may_send() {
            bail!("the stream is closed");
        }
        self.shared.send(Frame::Data { stream: self.id, fin: false, bytes }).await
    }

    /// Sends the end of this direction; once is enough.
    pub(crate) async fn finish(&self) -> Result<()> {
        if !self.may_send() {
            return Ok(());
        }
        self.shared.finished(self.id, |entry| entry.sending = false);
        self.shared.send(Frame::Data { stream: self.id, fin: true, bytes: Bytes::new() }).await
    }

    /// Ends both directions at once.
    pub(crate) async fn reset(&self, status: Status) -> Result<()> {
        let known = self.shared.lock().remove(&self.id);
        match known {
            Some(_) => self.shared.send(Frame::Reset { stream: self.id, status: status as u32 }).await,
            None => Ok(()),
        }
    }

    /// Until the client has reset the stream, or is gone.
    pub(crate) async fn over(&self) {
        let mut over = self.over.clone();
        // An error is a stream that is forgotten: both directions have ended in order.
        if over.wait_for(|over| *over).await.is_err() {
            std::future::pending().await
        }
    }

    fn may_send(&self) -> bool {
        self.shared.lock().get(&self.id).is_some_and(|entry| entry.sending)
    }
}

async fn write(
    mut to: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Option<Frame>>,
    (mut encoder, liveness): (Encoder, &Liveness),
) -> Result<()> {
    let mut buffer = Vec::with_capacity(MAX_PIECE + 64);
    while let Some(Some(frame)) = frames.recv().await {
        buffer.clear();
        encoder.encode(&frame, &mut buffer)?;
        to.write_all(&buffer).await?;
        to.flush().await?;
        if frame != Frame::Other {
            liveness.touch();
        }
    }
    to.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests;
