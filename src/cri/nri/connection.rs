//! One plugin's connection: calls of the plugin's services, and answers to its own calls, over one unix socket.
//!
//! A task owns the socket: it reads, hands responses to the calls that wait for them, and answers requests. Another writes, so
//! that a call that is given up leaves no half a message. Whatever the plugin does, the two hold a bounded amount of memory,
//! and nothing waits for it longer than its caller does.

use super::frame::{self, Kind, Message, Messages, PLUGIN_SERVICE, RUNTIME_SERVICE};
use anyhow::{Context, Result, bail, ensure};
use futures_util::future::BoxFuture;
use prost::Message as _;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Messages that wait to be written: at most this many, of 4 MiB each.
const WAITING: usize = 4;
/// Requests of a plugin that are being answered at a time.
const ANSWERING: usize = 4;

/// gRPC's codes (google.golang.org/grpc/codes), those that are told here.
pub(super) mod code {
    /// What was asked makes no sense.
    pub(in super::super) const INVALID_ARGUMENT: i32 = 3;
    /// It has been done.
    pub(in super::super) const ALREADY_EXISTS: i32 = 6;
    /// Too much at a time.
    pub(in super::super) const RESOURCE_EXHAUSTED: i32 = 8;
    /// Not in this state.
    pub(in super::super) const FAILED_PRECONDITION: i32 = 9;
    /// There is no such method.
    pub(in super::super) const UNIMPLEMENTED: i32 = 12;
    /// Something failed.
    pub(in super::super) const INTERNAL: i32 = 13;
}

/// `ttrpc.Request`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    timeout_nano: i64,
    #[prost(message, repeated, tag = "5")]
    metadata: Vec<KeyValue>,
}

/// `ttrpc.KeyValue`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// `ttrpc.Response`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

/// `google.rpc.Status`, without its details.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

impl Status {
    /// An error for the plugin.
    pub(super) fn new(code: i32, message: impl Into<String>) -> Status {
        Status { code, message: message.into() }
    }
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// The plugin answered that it failed, with gRPC's code.
    Refused(Status),
    /// It did not answer in time.
    TimedOut(Duration),
    /// The connection is closed.
    Closed(String),
    /// Its answer is not of the method's type.
    Nonsense(String),
    /// The request is too long to be sent.
    TooLong(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Refused(status) => write!(f, "{} (gRPC code {})", bounded(&status.message), status.code),
            CallError::TimedOut(limit) => write!(f, "no answer within {limit:?}"),
            CallError::Closed(why) => write!(f, "the connection is closed: {why}"),
            CallError::Nonsense(what) => write!(f, "the answer makes no sense: {what}"),
            CallError::TooLong(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for CallError {}

/// What a plugin says, for a message: not more than 1024 characters of it.
pub(super) fn bounded(text: &str) -> String {
    match text.char_indices().nth(1024) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What answers a plugin's requests: method and payload to payload.
pub(super) type Answers = Arc<dyn Fn(String, Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, Status>> + Send + Sync>;

/// A connection, which closes when it is dropped.
pub(super) struct Connection {
    service: &'static str,
    shared: Arc<Shared>,
}

/// The services at the two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Services {
    /// The plugin's, which is called.
    pub(super) plugin: &'static str,
    /// The runtime's, which answers.
    pub(super) runtime: &'static str,
}

struct Shared {
    outgoing: mpsc::Sender<Vec<u8>>,
    calls: Mutex<Calls>,
    next_stream: AtomicU32,
    /// Whether it is closed, or is to be.
    closed: watch::Sender<bool>,
}

#[derive(Default)]
struct Calls {
    waiting: HashMap<u32, oneshot::Sender<Response>>,
    /// Set when the connection is closed: why.
    closed: Option<String>,
}

impl Shared {
    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes a call off the list when its caller stops waiting.
struct Waiting<'a>(&'a Shared, u32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.calls().waiting.remove(&self.1);
    }
}

impl Connection {
    /// Starts to serve a connected socket. `answers` answers what the plugin asks of the runtime.
    pub(super) fn start(socket: UnixStream, services: Services, answers: Answers) -> Connection {
        let (outgoing, queue) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared {
            outgoing,
            calls: Mutex::default(),
            next_stream: AtomicU32::new(1),
            closed: watch::Sender::new(false),
        });
        let (read, write) = socket.into_split();
        let task = Arc::clone(&shared);
        let mut closing = shared.closed.subscribe();
        tokio::spawn(async move {
            let reader = Reader {
                shared: &task,
                service: services.runtime,
                answers,
                free: Arc::new(Semaphore::new(ANSWERING)),
                last_stream: 0,
            };
            let why = tokio::select! {
                result = reader.run(read) => match result {
                    Ok(()) => "the plugin has closed it".to_owned(),
                    Err(error) => format!("{error:#}"),
                },
                Err(error) = write_all(write, queue) => format!("{error:#}"),
                _ = closing.wait_for(|is_closed| *is_closed) => "podshim has closed it".to_owned(),
            };
            {
                let mut calls = task.calls();
                calls.closed = Some(why);
                calls.waiting.clear();
            }
            task.closed.send_replace(true);
        });
        Connection { service: services.plugin, shared }
    }

    /// Whether the connection is closed.
    pub(super) fn is_closed(&self) -> bool {
        *self.shared.closed.borrow()
    }

    /// Closes it; every call that waits fails.
    pub(super) fn close(&self) {
        self.shared.closed.send_replace(true);
    }

    /// Waits until it is closed.
    pub(super) async fn closed(&self) {
        // The sender is here.
        let _ = self.shared.closed.subscribe().wait_for(|is_closed| *is_closed).await;
    }

    /// Why the connection is closed.
    pub(super) fn why_closed(&self) -> String {
        self.shared.calls().closed.clone().unwrap_or_else(|| "podshim has closed it".to_owned())
    }

    /// Calls a method of the plugin and waits at most `limit` for its answer.
    pub(super) async fn call<Q, A>(&self, method: &str, question: &Q, limit: Duration) -> Result<A, CallError>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        let request = Request {
            service: self.service.to_owned(),
            method: method.to_owned(),
            payload: question.encode_to_vec(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
            metadata: Vec::new(),
        };
        let closed = || CallError::Closed(self.why_closed());
        if self.is_closed() {
            return Err(closed());
        }
        let stream = self.shared.next_stream.fetch_add(2, Ordering::Relaxed);
        let message =
            Message { stream, kind: Kind::Request, flags: frame::REMOTE_CLOSED, body: request.encode_to_vec() };
        let bytes =
            frame::frames(PLUGIN_SERVICE, &message).map_err(|e| CallError::TooLong(format!("{method}: {e:#}")))?;
        let (answer, answered) = oneshot::channel();
        {
            let mut calls = self.shared.calls();
            if calls.closed.is_some() {
                drop(calls);
                return Err(closed());
            }
            calls.waiting.insert(stream, answer);
        }
        let _waiting = Waiting(&self.shared, stream);
        let exchange = async {
            self.shared.outgoing.send(bytes).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())
        };
        let response = tokio::time::timeout(limit, exchange).await.map_err(|_| CallError::TimedOut(limit))??;
        match response.status {
            Some(status) if status.code != 0 => Err(CallError::Refused(status)),
            _ => A::decode(response.payload.as_slice()).map_err(|e| CallError::Nonsense(format!("{method}: {e}"))),
        }
    }
}

async fn write_all(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> Result<()> {
    while let Some(bytes) = queue.recv().await {
        socket.write_all(&bytes).await.context("writing to the plugin's socket")?;
    }
    Ok(())
}

struct Reader<'a> {
    shared: &'a Arc<Shared>,
    service: &'static str,
    answers: Answers,
    free: Arc<Semaphore>,
    last_stream: u32,
}

impl Reader<'_> {
    /// Reads until the end of the connection.
    async fn run(mut self, mut socket: OwnedReadHalf) -> Result<()> {
        let (mut responses, mut requests) = (Messages::default(), Messages::default());
        let mut piece = Vec::new();
        loop {
            let mut header = [0; frame::FRAME_HEADER];
            match socket.read(&mut header[..1]).await.context("reading from the plugin's socket")? {
                0 => return Ok(()),
                _ => socket.read_exact(&mut header[1..]).await.context("reading a frame's header")?,
            };
            let (connection, length) = frame::frame_header(header)?;
            // Only what has arrived is kept: a length alone takes no memory.
            piece.clear();
            let read = (&mut socket).take(length as u64).read_to_end(&mut piece).await;
            ensure!(read.context("reading a frame")? == length, "the connection ends within a frame of {length} bytes");
            if connection == PLUGIN_SERVICE {
                responses.push(&piece);
                while let Some(message) = responses.next()? {
                    self.response(message)?;
                }
            } else {
                requests.push(&piece);
                while let Some(message) = requests.next()? {
                    self.request(message).await?;
                }
            }
            piece.shrink_to(64 << 10);
        }
    }

    /// The answer to a call, which may have stopped waiting.
    fn response(&self, message: Message) -> Result<()> {
        ensure!(message.kind == Kind::Response, "a request came where the plugin's answers come");
        let asked = message.stream % 2 == 1 && message.stream < self.shared.next_stream.load(Ordering::Relaxed);
        ensure!(asked, "an answer to the call {}, which was not made", message.stream);
        let response = Response::decode(message.body.as_slice()).context("a response that is none")?;
        if let Some(call) = self.shared.calls().waiting.remove(&message.stream) {
            // The caller may have given up just now.
            let _ = call.send(response);
        }
        Ok(())
    }

    /// A call of the plugin's, answered beside the reading: while it is, the plugin may have to answer to us.
    async fn request(&mut self, message: Message) -> Result<()> {
        ensure!(message.kind == Kind::Request, "an answer came where the plugin's requests come");
        ensure!(message.stream % 2 == 1, "the stream {} of a request is not odd", message.stream);
        ensure!(message.stream > self.last_stream, "the stream {} is used again", message.stream);
        self.last_stream = message.stream;
        let request = Request::decode(message.body.as_slice()).context("a request that is none")?;
        if message.flags & frame::REMOTE_OPEN != 0 {
            bail!("{} is called as a stream, which NRI has none of", bounded(&request.method));
        }
        let stream = message.stream;
        if request.service != self.service {
            let what = format!("unknown service {:?}", bounded(&request.service));
            return self.answer(stream, Err(Status::new(code::UNIMPLEMENTED, what))).await;
        }
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            let status = Status::new(code::RESOURCE_EXHAUSTED, format!("{ANSWERING} requests are being answered"));
            return self.answer(stream, Err(status)).await;
        };
        let (answers, shared) = (Arc::clone(&self.answers), Arc::clone(self.shared));
        tokio::spawn(async move {
            let answer = answers(request.method, request.payload).await;
            if let Ok(bytes) = answer_frames(stream, answer) {
                // Nobody hears it on a closed connection.
                let _ = shared.outgoing.send(bytes).await;
            }
            drop(permit);
        });
        Ok(())
    }

    async fn answer(&self, stream: u32, answer: Result<Vec<u8>, Status>) -> Result<()> {
        self.shared.outgoing.send(answer_frames(stream, answer)?).await.context("the connection is closed")
    }
}

fn answer_frames(stream: u32, answer: Result<Vec<u8>, Status>) -> Result<Vec<u8>> {
    let response = match answer {
        Ok(payload) => Response { status: None, payload },
        Err(status) => Response { status: Some(status), payload: Vec::new() },
    };
    let message =
        |response: &Response| Message { stream, kind: Kind::Response, flags: 0, body: response.encode_to_vec() };
    frame::frames(RUNTIME_SERVICE, &message(&response)).or_else(|error| {
        let status = Some(Status::new(code::RESOURCE_EXHAUSTED, format!("{error:#}")));
        frame::frames(RUNTIME_SERVICE, &message(&Response { status, payload: Vec::new() }))
    })
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
