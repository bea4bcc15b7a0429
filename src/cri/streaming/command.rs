//! Exec and Attach: the streams of one process carried to a client, and how it ended
//! (k8s.io/cri-streaming, pkg/streaming/remotecommand).
//!
//! A client that disappears has its process's standard input closed and its outputs too; a terminal's master is closed, by which
//! its foreground gets SIGHUP. The process is not killed otherwise: as with containerd and a kubelet, it ends when it reads the
//! end of its input, or writes to a pipe that nobody reads.

use super::liveness::Liveness;
use super::pipe::{self, Input, Output};
use super::spdy::{self, Connection, Status};
use super::websocket::{Channels, Codec};
use super::{Ends, Process, Streams, Timeouts};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Value, json};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Which of the two; it is in messages, and only a command has an exit code that is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// A command's own process.
    Exec,
    /// A container's process.
    Attach,
}

/// How a client is told how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// Before v4: a message if something is wrong, nothing otherwise.
    Text,
    /// Since v4: a `Status` of Kubernetes, as JSON.
    Json,
}

/// What the client has negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// SPDY/3.1, with streams of `channel.k8s.io` of this version.
    Spdy(u8),
    /// A WebSocket.
    WebSocket(Codec, Report),
}

/// `X-Stream-Protocol-Version`s of SPDY, best first.
pub(super) const SPDY: [(&str, Protocol); 4] = [
    ("v4.channel.k8s.io", Protocol::Spdy(4)),
    ("v3.channel.k8s.io", Protocol::Spdy(3)),
    ("v2.channel.k8s.io", Protocol::Spdy(2)),
    ("channel.k8s.io", Protocol::Spdy(1)),
];

/// `Sec-WebSocket-Protocol`s. The reference server lacks the first, which is the only one that client-go's executor asks for.
pub(super) const WEB_SOCKET: [(&str, Protocol); 6] = [
    ("v5.channel.k8s.io", Protocol::WebSocket(Codec::Raw { ends: true }, Report::Json)),
    ("v4.channel.k8s.io", Protocol::WebSocket(Codec::Raw { ends: false }, Report::Json)),
    ("v4.base64.channel.k8s.io", Protocol::WebSocket(Codec::Base64, Report::Json)),
    ("channel.k8s.io", Protocol::WebSocket(Codec::Raw { ends: false }, Report::Text)),
    ("base64.channel.k8s.io", Protocol::WebSocket(Codec::Base64, Report::Text)),
    ("", Protocol::WebSocket(Codec::Raw { ends: false }, Report::Text)),
];

/// The channels of a process.
struct Carried {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    sizes: Option<Input>,
}

/// The connection below them, and the channel that tells how it ended.
enum Carrier {
    Spdy(Connection, Report),
    WebSocket(Channels, Report),
}

/// Serves one connection to its end. `start` gives the process; it is asked for one when the client's channels are there.
pub(super) async fn serve<S, F>(
    (io, liveness): (S, Arc<Liveness>),
    (protocol, verb, streams): (Protocol, Verb, Streams),
    timeouts: Timeouts,
    start: F,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = Result<Process>>,
{
    let (carrier, carried, error) = match protocol {
        Protocol::Spdy(version) => {
            let mut connection = Connection::start(io, Arc::clone(&liveness))?;
            let gathered = timeout(timeouts.creation, gather(&mut connection, version, streams)).await;
            let (carried, error) = gathered.context("timed out waiting for client to create streams")??;
            let report = if version >= 4 { Report::Json } else { Report::Text };
            (Carrier::Spdy(connection, report), carried, error)
        }
        Protocol::WebSocket(codec, report) => {
            let readable = [streams.stdin, false, false, false, true];
            let mut channels = Channels::start(io, (codec, &readable), Arc::clone(&liveness)).await;
            let (carried, error) = channels_of(&mut channels, streams).await?;
            (Carrier::WebSocket(channels, report), carried, error)
        }
    };
    let mut gone = pin!(liveness.gone());
    let outcome = tokio::select! {
        started = start => match started {
            Ok(process) => converse(process, carried, (gone.as_mut(), timeouts)).await,
            Err(error) => Some(Err(error)),
        },
        () = gone.as_mut() => None,
    };
    let Some(outcome) = outcome else { return Ok(()) };
    tokio::select! {
        () = carrier.end(error, (verb, outcome)) => {}
        () = gone => {}
    }
    Ok(())
}

/// The streams that the client has to open, all of them.
async fn gather(connection: &mut Connection, version: u8, streams: Streams) -> Result<(Carried, Output)> {
    let with_sizes = streams.tty && version >= 3;
    let wanted = [
        ("error", true),
        ("stdin", streams.stdin),
        ("stdout", streams.stdout),
        ("stderr", streams.stderr),
        ("resize", with_sizes),
    ];
    let mut found: [Option<spdy::Stream>; 5] = Default::default();
    while wanted.iter().zip(&found).any(|((_, wanted), found)| *wanted && found.is_none()) {
        let stream = connection.next().await.context("the client is gone before it has opened its streams")?;
        let name = stream.headers.get("streamtype");
        match wanted.iter().position(|(wanted, _)| *wanted == name) {
            Some(at) if found[at].is_none() => {
                stream.output.accept().await?;
                found[at] = Some(stream);
            }
            _ => stream.output.reset(Status::ProtocolError).await?,
        }
    }
    // One that was not asked for is open, and stays without bytes.
    let found: Vec<_> = found.into_iter().zip(wanted).map(|(found, (_, wanted))| found.filter(|_| wanted)).collect();
    let Ok([Some(error), stdin, stdout, stderr, sizes]) = <[_; 5]>::try_from(found) else {
        bail!("the client has opened no error stream");
    };
    let output = |stream: spdy::Stream| Output::Spdy(stream.output);
    let carried = Carried {
        stdin: stdin.map(|stream| stream.input),
        stdout: stdout.map(output),
        stderr: stderr.map(output),
        sizes: sizes.map(|stream| stream.input),
    };
    Ok((carried, output(error)))
}

/// The channels by their numbers. The lowest that is written to says, empty, that the connection stands.
async fn channels_of(channels: &mut Channels, streams: Streams) -> Result<(Carried, Output)> {
    let output = |number, wanted: bool| wanted.then(|| Output::WebSocket(channels.output(number)));
    let (stdout, stderr) = (output(1, streams.stdout), output(2, streams.stderr));
    let error = Output::WebSocket(channels.output(3));
    stdout.as_ref().or(stderr.as_ref()).unwrap_or(&error).write(Bytes::new()).await?;
    let (stdin, sizes) = (channels.input(0), channels.input(4));
    Ok((Carried { stdin, stdout, stderr, sizes }, error))
}

/// Copies until the process has ended and its outputs are empty: its exit code. `None` if the client is gone before.
async fn converse(
    process: Process,
    carried: Carried,
    (gone, timeouts): (impl Future<Output = ()>, Timeouts),
) -> Option<Result<i32>> {
    let mut inputs = JoinSet::new();
    let outputs = match connect(process.ends, carried, &mut inputs) {
        Ok(outputs) => outputs,
        Err(error) => return Some(Err(error)),
    };
    let done = async { tokio::join!(process.exit, join_all(outputs)).0 };
    tokio::select! {
        code = done => Some(code),
        () = gone => {
            // What the client has sent is still its process's: it goes on as if the client had only ended its input.
            let rest = async { while inputs.join_next().await.is_some() {} };
            let _ = timeout(timeouts.grace, rest).await;
            None
        }
    }
}

/// Starts what copies to the process; what copies from it is to be waited for.
fn connect(ends: Ends, carried: Carried, inputs: &mut JoinSet<()>) -> Result<Vec<BoxFuture<'static, ()>>> {
    let Carried { mut stdin, stdout, stderr, mut sizes } = carried;
    let mut to_terminal = |master: &pipe::End| {
        if let Some(sizes) = sizes.take() {
            inputs.spawn(pipe::pump_sizes(sizes, Arc::clone(master)));
        }
        if let Some(stdin) = stdin.take() {
            inputs.spawn(pipe::pump_in(stdin, Arc::clone(master)));
        }
    };
    let outputs = match ends {
        Ends::Terminal(master) => {
            let master = pipe::end(master)?;
            to_terminal(&master);
            [(Some(master), stdout), (None, stderr)]
        }
        Ends::SharedTerminal { master, output } => {
            to_terminal(&pipe::end(master)?);
            [(Some(pipe::end(output)?), stdout), (None, stderr)]
        }
        Ends::Pipes { stdin: to, stdout: out, stderr: err } => {
            if let (Some(stdin), Some(to)) = (stdin, to) {
                inputs.spawn(pipe::pump_in(stdin, pipe::end(to)?));
            }
            [(out.map(pipe::end).transpose()?, stdout), (err.map(pipe::end).transpose()?, stderr)]
        }
    };
    let copy = |(from, to)| async move {
        match (from, to) {
            (Some(from), to) => pipe::pump_out(from, to).await,
            // The container has none: it is at its end. Who is gone is told by the connection.
            (None, Some(to)) => drop(Output::finish(&to).await),
            (None, None) => {}
        }
    };
    Ok(outputs.into_iter().map(|output| copy(output).boxed()).collect())
}

impl Carrier {
    /// Tells how it ended, and ends the connection.
    async fn end(self, error: Output, (verb, outcome): (Verb, Result<i32>)) {
        let (Carrier::Spdy(_, report) | Carrier::WebSocket(_, report)) = &self;
        // A client that does not hear it is gone, or will be: the connection ends all the same.
        if let Some(text) = report.of(verb, outcome) {
            let _ = error.write(text.into()).await;
        }
        let _ = error.finish().await;
        match self {
            Carrier::Spdy(connection, _) => connection.close().await,
            Carrier::WebSocket(channels, _) => channels.close().await,
        }
    }
}

impl Report {
    fn of(self, verb: Verb, outcome: Result<i32>) -> Option<String> {
        let status = status(verb, outcome);
        match self {
            Report::Json => Some(status.to_string()),
            Report::Text => status["message"].as_str().map(str::to_owned),
        }
    }
}

/// `Status` of meta/v1, as far as a client reads it.
fn status(verb: Verb, outcome: Result<i32>) -> Value {
    match (verb, outcome) {
        (Verb::Exec, Ok(0)) | (Verb::Attach, Ok(_)) => json!({ "status": "Success" }),
        (Verb::Exec, Ok(code)) => json!({
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        (verb, Err(error)) => {
            let what = match verb {
                Verb::Exec => "error executing command in container",
                Verb::Attach => "error attaching to container",
            };
            json!({
                "status": "Failure",
                "message": format!("Internal error occurred: {what}: {error:#}"),
                "reason": "InternalError",
                "code": 500,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn an_end_is_told_as_the_protocol_has_it() {
        let of = |report: Report, verb, outcome| report.of(verb, outcome);
        assert_eq!(of(Report::Json, Verb::Exec, Ok(0)).unwrap(), r#"{"status":"Success"}"#);
        assert_eq!(of(Report::Text, Verb::Exec, Ok(0)), None);
        assert_eq!(of(Report::Json, Verb::Attach, Ok(3)).unwrap(), r#"{"status":"Success"}"#);
        let expected = concat!(
            r#"{"status":"Failure","message":"command terminated with non-zero exit code: exit status 3","#,
            r#""reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        );
        assert_eq!(of(Report::Json, Verb::Exec, Ok(3)).unwrap(), expected);
        assert!(of(Report::Text, Verb::Exec, Ok(3)).unwrap().ends_with("exit status 3"));
        let failed = || Err(anyhow!("no such file").context("starting x"));
        let text = of(Report::Text, Verb::Attach, failed()).unwrap();
        assert_eq!(text, "Internal error occurred: error attaching to container: starting x: no such file");
        assert!(of(Report::Json, Verb::Exec, failed()).unwrap().contains(r#""reason":"InternalError","code":500"#));
    }
}
