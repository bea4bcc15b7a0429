//! HTTP/2: a GET request, and gRPC's health check (`grpc.health.v1.Health/Check`) with its two messages encoded by hand.

use super::http::{Get, VERSION};
use super::perform::{Flow, answered};
use super::{MAX_OUTPUT, Said, go_duration, text};
use crate::lifecycle::Outcome;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The most bytes of header fields in an answer, as of HTTP/1.1.
const MAX_HEAD: u32 = 64 << 10;

/// Fields that HTTP/2 has no place for (RFC 9113 §8.2.2); Go leaves them out, too.
const LEFT_OUT: [&str; 5] = ["Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "Te"];

type Connected = SendRequest<Bytes>;

async fn connect<IO>(io: IO) -> Result<Connected, h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = h2::client::Builder::new()
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_streams(1)
        .enable_push(false)
        .handshake(io)
        .await?;
    // Its error is also that of the request.
    tokio::spawn(connection);
    sender.ready().await
}

/// Sends a request with a body, or none if it is empty.
async fn ask(sender: &mut Connected, request: Request<()>, body: Bytes) -> Result<Response<RecvStream>, h2::Error> {
    let (response, mut stream): (_, SendStream<Bytes>) = sender.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    response.await
}

/// Reads a body, or enough of it.
async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut kept = Vec::new();
    while kept.len() < MAX_OUTPUT {
        let Some(bytes) = body.data().await.transpose()? else { break };
        body.flow_control().release_capacity(bytes.len())?;
        kept.extend_from_slice(&bytes[..bytes.len().min(MAX_OUTPUT - kept.len())]);
    }
    Ok(kept)
}

/// A GET request over a connection that both sides know to be HTTP/2.
pub(super) async fn get<IO>(io: IO, get: &Get, said: &mut dyn FnMut(Said)) -> Flow
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let scheme = if get.tls { "https" } else { "http" };
    let Some(host) = get.host() else { return Flow::Break(get.failure("http2: invalid Host header")) };
    let mut request = Request::get(format!("{scheme}://{host}{}", get.target));
    for (name, value) in get.fields().filter(|(name, _)| !LEFT_OUT.contains(name)) {
        request = request.header(name, value);
    }
    let request = match request.body(()) {
        Ok(request) => request,
        Err(error) => return Flow::Break(get.failure(format_args!("http2: {error}"))),
    };
    let response = match connect(io).await {
        Ok(mut sender) => ask(&mut sender, request, Bytes::new()).await,
        Err(error) => Err(error),
    };
    let mut response = match response {
        Ok(response) => response,
        Err(error) => return Flow::Break(get.failure(format_args!("http2: {error}"))),
    };
    let status = response.status().as_u16();
    let location = response.headers().get(http::header::LOCATION).map(|value| value.as_bytes().to_vec());
    if let Some(flow) = answered(get, status, location.as_deref()) {
        return flow;
    }
    said(Said::Halfway);
    Flow::Break(match read(response.body_mut()).await {
        Ok(body) => get.verdict(status, &body),
        // It may hold what the server said at its end.
        Err(error) => Outcome::Error(text(format!("http2: {error}").as_bytes())),
    })
}

/// A health check.
pub(super) struct Check<'a> {
    pub(super) authority: &'a str,
    pub(super) service: &'a str,
    pub(super) tls: bool,
    pub(super) timeout: Duration,
}

/// Why a health check failed: a gRPC status code and its message.
struct Status {
    code: u32,
    message: String,
}

const DEADLINE_EXCEEDED: u32 = 4;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// Asks a server for its health, in the words of a kubelet's pkg/probe/grpc.
pub(super) async fn health<IO>(io: IO, check: &Check<'_>) -> Outcome
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |what: String| Outcome::Failure(text(what.as_bytes()));
    match call(io, check).await {
        Ok(1) => Outcome::Success,
        Ok(state) => failed(format!("service unhealthy (responded with {:?})", state_name(state))),
        Err(Status { code: UNIMPLEMENTED, message }) => failed(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        Err(Status { code: DEADLINE_EXCEEDED, .. }) => {
            failed(format!("timeout: health rpc did not complete within {}", go_duration(check.timeout)))
        }
        Err(Status { code, message }) => {
            failed(format!("error: health rpc probe failed: rpc error: code = {} desc = {message}", code_name(code)))
        }
    }
}

async fn call<IO>(io: IO, check: &Check<'_>) -> Result<u64, Status>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let unavailable =
        |error: h2::Error| Status { code: UNAVAILABLE, message: format!("connection error: desc = \"{error}\"") };
    let internal = |message: String| Status { code: INTERNAL, message };
    let scheme = if check.tls { "https" } else { "http" };
    let mut request = Request::post(format!("{scheme}://{}/grpc.health.v1.Health/Check", check.authority))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", format!("kube-probe/{VERSION}"));
    if !check.timeout.is_zero() {
        request = request.header("grpc-timeout", format!("{}S", check.timeout.as_secs().min(99_999_999)));
    }
    let request = request.body(()).map_err(|error| internal(error.to_string()))?;
    let mut sender = connect(io).await.map_err(unavailable)?;
    let mut response = ask(&mut sender, request, frame(check.service)).await.map_err(unavailable)?;
    let head = response.headers().clone();
    if let Some(status) = unexpected(response.status().as_u16(), &head) {
        return Err(status);
    }
    // An answer of nothing but trailers comes as one head.
    if let Some(status) = status_of(&head) {
        return status.and_then(|()| no_message());
    }
    let body = read(response.body_mut()).await.map_err(unavailable)?;
    if body.len() >= MAX_OUTPUT {
        let message = format!("grpc: received message larger than max ({} vs. {MAX_OUTPUT})", body.len());
        return Err(Status { code: 8, message });
    }
    match response.body_mut().trailers().await.map_err(unavailable)?.as_ref().and_then(status_of) {
        None => return Err(internal("server closed the stream without sending trailers".into())),
        Some(status) => status?,
    }
    if body.is_empty() {
        return no_message();
    }
    let [compressed, a, b, c, d, message @ ..] = &body[..] else { return Err(internal("unexpected EOF".into())) };
    if *compressed != 0 {
        return Err(internal("grpc: compressed flag set with identity or empty encoding".into()));
    }
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    let message = message.get(..length).ok_or_else(|| internal("unexpected EOF".into()))?;
    serving_status(message)
        .ok_or_else(|| internal("grpc: failed to unmarshal the received message: proto: cannot parse".into()))
}

fn no_message<T>() -> Result<T, Status> {
    let message = "cardinality violation: received no response message from non-server-streaming RPC".into();
    Err(Status { code: INTERNAL, message })
}

/// What a server that does not speak gRPC comes to, in grpc-go's words.
fn unexpected(status: u16, head: &HeaderMap) -> Option<Status> {
    let kind = head.get("content-type").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let is_grpc = kind.as_deref().is_some_and(|kind| {
        kind.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
    });
    if status == 200 && is_grpc {
        return None;
    }
    let code = match status {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => 2,
    };
    let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default();
    let mut message = format!("unexpected HTTP status code received from server: {status} ({reason})");
    match kind {
        _ if is_grpc => {}
        Some(kind) => message.push_str(&format!("; transport: received unexpected content-type {kind:?}")),
        None => message.push_str("; malformed header: missing HTTP content-type"),
    }
    Some(Status { code, message })
}

/// `grpc-status` and `grpc-message`, if they are there.
fn status_of(fields: &HeaderMap) -> Option<Result<(), Status>> {
    let code = fields.get("grpc-status")?;
    let message = fields.get("grpc-message").map(|value| decode(value.as_bytes())).unwrap_or_default();
    Some(match code.to_str().ok().and_then(|code| code.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => Err(Status { code, message }),
        None => Err(Status { code: INTERNAL, message: format!("malformed grpc-status {code:?}") }),
    })
}

/// Percent-decoding, as of `grpc-message`; what is no escape stays.
fn decode(bytes: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        let escape = after.get(..2).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        // Not from_str_radix alone: it takes a sign.
        let escape = escape.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => (decoded.push(value), rest = &after[2..]).1,
            None => (decoded.push(*byte), rest = after).1,
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// `HealthCheckRequest { string service = 1; }` as one gRPC message.
fn frame(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// `HealthCheckResponse { ServingStatus status = 1; }`; other fields are passed over.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn state_name(state: u64) -> String {
    match state {
        0 => "UNKNOWN".into(),
        1 => "SERVING".into(),
        2 => "NOT_SERVING".into(),
        3 => "SERVICE_UNKNOWN".into(),
        other => other.to_string(),
    }
}

fn code_name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(code as usize).map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_as_protobuf_does() {
        assert_eq!(frame("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(frame("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(frame(&"x".repeat(300))[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        let rows: [(&[u8], Option<u64>); 8] = [
            (&[], Some(0)),
            (&[8, 1], Some(1)),
            (&[8, 0x82, 0x00], Some(2)),
            (&[0x12, 1, 9, 8, 1], Some(1)),
            (&[0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1], Some(1)),
            (&[8], None),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], None),
            (&[0x0b], None),
        ];
        for (bytes, status) in rows {
            assert_eq!(serving_status(bytes), status, "{bytes:?}");
        }
    }

    #[test]
    fn grpc_messages_are_decoded() {
        for (bytes, decoded) in [("a%20b%", "a b%"), ("%zz%+1", "%zz%+1"), ("%e2%82%ac", "€"), ("%ff", "\u{fffd}")] {
            assert_eq!(decode(bytes.as_bytes()), decoded);
        }
        assert_eq!((code_name(14), code_name(17)), ("Unavailable".into(), "Code(17)".into()));
    }
}
