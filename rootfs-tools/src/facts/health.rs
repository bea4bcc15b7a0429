//! A gRPC health server for tests of probes: `grpc.health.v1.Health/Check` over HTTP/2 without TLS.

use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::journal::{Answers, Journal};
use super::print;
use crate::sys::Signals;

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// `grpc.health.v1.HealthCheckResponse.ServingStatus`, by its numbers.
const STATUSES: [&str; 3] = ["UNKNOWN", "SERVING", "NOT_SERVING"];
const NOT_FOUND: u8 = 5;
const UNIMPLEMENTED: u8 = 12;

struct Server {
    answers: Answers,
    journal: Journal,
}

/// Answers until TERM.
pub(super) fn serve(port: u16, answers: Answers, journal: Journal) -> Result<u8> {
    let signals = Signals::termination()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("starting tokio")?;
    let listener =
        runtime.block_on(TcpListener::bind(("0.0.0.0", port))).with_context(|| format!("listening on port {port}"))?;
    print(&format!("listening on {}\n", listener.local_addr().context("listening")?))?;
    let server = Arc::new(Server { answers, journal });
    thread::spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            // A client that goes away, or speaks nonsense, is no failure of the server.
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(connection(stream, Arc::clone(&server)));
            }
        });
    });
    signals.wait()?;
    Ok(0)
}

async fn connection(stream: TcpStream, server: Arc<Server>) -> Result<()> {
    let mut connection = server::handshake(stream).await.context("HTTP/2")?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.context("HTTP/2")?;
        tokio::task::spawn_local(check(request, respond, Arc::clone(&server)));
    }
    Ok(())
}

async fn check(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, server: Arc<Server>) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let mut message = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.context("reading a request")?;
        body.flow_control().release_capacity(chunk.len()).context("reading a request")?;
        message.extend_from_slice(&chunk);
    }
    let service = service_of(&message);
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    let (status, code) = decide(head.uri.path(), service.as_deref(), &server.answers);
    server.journal.write(json!({ "method": head.method.as_str(), "target": head.uri.path(), "headers": headers,
        "service": service, "status": status, "grpc-status": code }))?;
    let response = Response::builder().status(200).header("content-type", "application/grpc").body(())?;
    let mut send = respond.send_response(response, false).context("answering")?;
    if let Some(number) = status.and_then(|status| STATUSES.iter().position(|s| *s == status)) {
        // Not compressed, two bytes: field 1, a varint.
        let number = u8::try_from(number).unwrap_or(0);
        send.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, number]), false).context("answering")?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    send.send_trailers(trailers).context("answering")
}

/// The status and the gRPC code.
fn decide(path: &str, service: Option<&str>, answers: &Answers) -> (Option<&'static str>, u8) {
    match (path, service) {
        (CHECK, Some("" | "known")) => {
            let word = answers.next("NOT_SERVING");
            (Some(STATUSES.iter().find(|s| **s == word).copied().unwrap_or("SERVING")), 0)
        }
        (CHECK, _) => (None, NOT_FOUND),
        _ => (None, UNIMPLEMENTED),
    }
}

/// `HealthCheckRequest.service` (field 1, a string) of a message with gRPC's prefix of five bytes.
fn service_of(message: &[u8]) -> Option<String> {
    let (prefix, message) = message.split_at_checked(5)?;
    let len = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    if prefix[0] != 0 || usize::try_from(len).ok()? != message.len() {
        return None;
    }
    match message {
        [] => Some(String::new()),
        [0x0a, len, name @ ..] if usize::from(*len) == name.len() && *len < 0x80 => {
            Some(String::from_utf8_lossy(name).into_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_asked_for_by_service() {
        assert_eq!(service_of(&[0, 0, 0, 0, 0]).as_deref(), Some(""));
        assert_eq!(service_of(b"\0\0\0\0\x07\x0a\x05known").as_deref(), Some("known"));
        assert_eq!(service_of(b"\0\0\0\0\x08\x0a\x05known"), None, "another length");
        let answers = Answers::new(None, 1);
        for (path, service, expected) in [
            (CHECK, Some(""), (Some("NOT_SERVING"), 0)),
            (CHECK, Some("known"), (Some("SERVING"), 0)),
            (CHECK, Some("other"), (None, NOT_FOUND)),
            ("/grpc.health.v1.Health/Watch", Some(""), (None, UNIMPLEMENTED)),
        ] {
            assert_eq!(decide(path, service, &answers), expected, "{path} {service:?}");
        }
    }
}
