//! PortForward: each pair of a client's streams, one for bytes and one for an error, is a connection to a port of the sandbox
//! (k8s.io/cri-streaming, pkg/streaming/portforward).

use super::liveness::Liveness;
use super::pipe::{Input, Output};
use super::spdy::{self, Connection, MAX_PIECE, Status};
use super::websocket::{Channels, Codec, Tunnel};
use super::{Backend, PortForward, Timeouts};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::future::{join_all, try_join};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What the client has negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// SPDY/3.1: a pair of streams for each connection.
    Spdy,
    /// The same, tunnelled through a WebSocket.
    Tunnelled,
    /// A WebSocket with a pair of channels for each port of the request, and one connection to each.
    WebSocket(Codec),
}

/// `X-Stream-Protocol-Version`s of SPDY.
pub(super) const SPDY: [(&str, Protocol); 1] = [("portforward.k8s.io", Protocol::Spdy)];

/// `Sec-WebSocket-Protocol`s. The reference server lacks the first, which is the only one that client-go's dialer asks for.
pub(super) const WEB_SOCKET: [(&str, Protocol); 4] = [
    ("SPDY/3.1+portforward.k8s.io", Protocol::Tunnelled),
    ("v4.channel.k8s.io", Protocol::WebSocket(Codec::Raw { ends: false })),
    ("v4.base64.channel.k8s.io", Protocol::WebSocket(Codec::Base64)),
    ("", Protocol::WebSocket(Codec::Raw { ends: false })),
];

/// The most ports of one WebSocket: a channel's number is a byte, or a digit, and 255 is reserved.
pub(super) fn max_ports(codec: Codec) -> usize {
    match codec {
        Codec::Raw { .. } => 127,
        Codec::Base64 => 5,
    }
}

/// Serves one connection to its end.
pub(super) async fn serve<S, B>(
    (io, liveness): (S, Arc<Liveness>),
    (protocol, request): (Protocol, PortForward),
    timeouts: Timeouts,
    backend: Arc<B>,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Backend,
{
    let mut gone = pin!(liveness.gone());
    match protocol {
        Protocol::Spdy => {
            let connection = Connection::start(io, Arc::clone(&liveness))?;
            pairs(connection, (&request.sandbox_id, backend), timeouts, gone).await;
        }
        Protocol::Tunnelled => {
            let (inner, tunnel) = Tunnel::open(io, &liveness).await;
            let connection = Connection::start(inner, Arc::clone(&liveness))?;
            pairs(connection, (&request.sandbox_id, backend), timeouts, gone).await;
            tunnel.close().await;
        }
        Protocol::WebSocket(codec) => {
            let readable: Vec<bool> = request.ports.iter().flat_map(|_| [true, false]).collect();
            let mut channels = Channels::start(io, (codec, &readable), Arc::clone(&liveness)).await;
            let mut all = Vec::new();
            for (at, port) in request.ports.iter().enumerate() {
                let number = 2 * at as u8;
                let [data, error] = [number, number + 1].map(|number| Output::WebSocket(channels.output(number)));
                for output in [&data, &error] {
                    output.write(Bytes::copy_from_slice(&port.to_le_bytes())).await?;
                }
                let Some(input) = channels.input(number) else { bail!("channel {number} is not read") };
                let pair = Pair { port: *port, input, data, error };
                all.push(pair.forward(request.sandbox_id.clone(), Arc::clone(&backend)));
            }
            tokio::select! {
                _ = join_all(all) => channels.close().await,
                () = gone.as_mut() => {}
            }
        }
    }
    Ok(())
}

/// What waits for its other half.
struct Half {
    stream: spdy::Stream,
    port: u16,
    is_data: bool,
    until: Instant,
}

/// Pairs streams up and serves each pair, until the client is gone, and its connections with it.
async fn pairs<B: Backend>(
    mut connection: Connection,
    (sandbox, backend): (&str, Arc<B>),
    timeouts: Timeouts,
    mut gone: impl Future<Output = ()> + Unpin,
) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut served = JoinSet::new();
    loop {
        let expiry = halves.values().map(|half| half.until).min();
        let expired = async {
            match expiry {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            stream = connection.next() => stream,
            () = expired => {
                let now = Instant::now();
                for (id, half) in halves.extract_if(|_, half| half.until <= now) {
                    served.spawn(half.give_up(format!("(request={id}) timed out waiting for streams")));
                }
                continue;
            }
            Some(_) = served.join_next() => continue,
            () = &mut gone => return,
        };
        let Some(stream) = stream else { return };
        let Ok((id, half)) = Half::of(stream, timeouts).await else { continue };
        let Some(other) = halves.remove(&id) else {
            halves.insert(id, half);
            continue;
        };
        let kind = if half.is_data { "data" } else { "error" };
        match Pair::of(half, other) {
            Ok(pair) => drop(served.spawn(pair.forward(sandbox.to_owned(), Arc::clone(&backend)))),
            Err((half, other)) => {
                served.spawn(
                    half.give_up(format!("error processing stream for request {id}: {kind} stream already assigned")),
                );
                halves.insert(id, *other);
            }
        }
    }
}

impl Half {
    /// Takes a stream whose headers say what it is; any other is reset.
    async fn of(stream: spdy::Stream, timeouts: Timeouts) -> Result<(String, Half)> {
        let (port, kind) = (stream.headers.get("port"), stream.headers.get("streamtype"));
        let (port, is_data) = match (port.parse::<u16>(), kind) {
            (Ok(port @ 1..), "data") => (port, true),
            (Ok(port @ 1..), "error") => (port, false),
            _ => {
                stream.output.reset(Status::Cancel).await?;
                bail!("a stream that is none of a port's");
            }
        };
        stream.output.accept().await?;
        let id = match stream.headers.get("requestid") {
            // Old clients say none: their streams come one after the other, that for the error first.
            "" if is_data => stream.output.id().wrapping_sub(2).to_string(),
            "" => stream.output.id().to_string(),
            id => id.to_owned(),
        };
        Ok((id, Half { stream, port, is_data, until: Instant::now() + timeouts.creation }))
    }

    async fn give_up(self, why: String) {
        let output = &self.stream.output;
        // Who is gone needs no answer.
        if !self.is_data {
            let _ = output.write(why.into()).await;
            let _ = output.finish().await;
        }
        let _ = output.reset(Status::Cancel).await;
    }
}

/// One connection to a port.
struct Pair {
    port: u16,
    input: Input,
    data: Output,
    error: Output,
}

impl Pair {
    fn of(one: Half, other: Half) -> Result<Pair, (Box<Half>, Box<Half>)> {
        let (data, error) = match (one.is_data, other.is_data) {
            (true, false) => (one, other),
            (false, true) => (other, one),
            _ => return Err((Box::new(one), Box::new(other))),
        };
        Ok(Pair {
            port: data.port,
            input: data.stream.input,
            data: Output::Spdy(data.stream.output),
            error: Output::Spdy(error.stream.output),
        })
    }

    /// Connects, and passes on what either side says until both have said all.
    async fn forward<B: Backend>(self, sandbox: String, backend: Arc<B>) {
        let Pair { port, input, data, error } = self;
        let connected = tokio::select! {
            connected = backend.connect(&sandbox, port) => connected,
            () = over(&data) => return,
        };
        match connected {
            Ok(stream) => {
                let relayed = tokio::select! {
                    relayed = relay(stream, input, &data) => relayed,
                    () = over(&data) => Ok(()),
                };
                // That the pod has broken the connection off is said the same way. It is no error of forwarding: for one, Go's
                // client would close all connections.
                if relayed.is_err() {
                    reset(&data).await;
                }
            }
            Err(why) => {
                let text = format!("error forwarding port {port} to pod {sandbox}, uid : {why:#}");
                // Who is gone needs no answer.
                let _ = error.write(text.into()).await;
                reset(&data).await;
            }
        }
        let _ = data.finish().await;
        let _ = error.finish().await;
    }
}

/// Until the client has broken off; with a WebSocket that is the end of the connection.
async fn over(data: &Output) {
    match data {
        Output::Spdy(stream) => stream.over().await,
        Output::WebSocket(_) => std::future::pending().await,
    }
}

async fn reset(data: &Output) {
    if let Output::Spdy(stream) = data {
        let _ = stream.reset(Status::Cancel).await;
    }
}

async fn relay(mut port: TcpStream, input: Input, data: &Output) -> Result<()> {
    port.set_nodelay(true).context("setting TCP_NODELAY")?;
    let (from, to) = port.split();
    let relayed = try_join(to_port(input, to), from_port(from, data)).await;
    if relayed.is_err() {
        // Aborted, not ended: the pod must not take what it has for all there was.
        port.set_zero_linger().context("setting SO_LINGER")?;
    }
    relayed.map(drop)
}

async fn to_port(mut input: Input, mut to: WriteHalf<'_>) -> Result<()> {
    while let Some(bytes) = input.recv().await {
        to.write_all(&bytes).await.context("writing to the port")?;
    }
    match to.shutdown().await {
        // It is gone altogether, which the other direction tells.
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error).context("shutting down the connection"),
        _ => Ok(()),
    }
}

async fn from_port(mut from: ReadHalf<'_>, data: &Output) -> Result<()> {
    let mut buffer = vec![0; MAX_PIECE];
    loop {
        match from.read(&mut buffer).await.context("reading from the port")? {
            0 => return data.finish().await,
            count => data.write(Bytes::copy_from_slice(&buffer[..count])).await?,
        }
    }
}
