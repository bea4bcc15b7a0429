//! The request on a connection: a URL that is good, and an upgrade to a protocol that both sides know
//! (k8s.io/streaming, pkg/httpstream).

use super::command::{self, Verb};
use super::forward;
use super::listen::Server;
use super::liveness::Liveness;
use super::{Backend, Request, Timeouts};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::{Method, Response, StatusCode, upgrade};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What SPDY's clients can speak, and what is spoken.
const SPDY_PROTOCOL: &str = "x-stream-protocol-version";
/// What could have been.
const SPDY_ACCEPTED: &str = "x-accepted-stream-protocol-versions";
/// The same of WebSockets.
const WEB_SOCKET_PROTOCOL: &str = "sec-websocket-protocol";

/// What there is besides the request.
pub(super) struct Arrived {
    pub(super) server: Arc<Server>,
    pub(super) liveness: Arc<Liveness>,
    /// The right to go on after the upgrade, if there are not too many.
    pub(super) session: Option<OwnedSemaphorePermit>,
}

type Answer = Response<Full<Bytes>>;

/// Answers a request; one whose URL is good goes on as what the URL stands for.
pub(super) fn answer<B: Backend>(
    mut request: hyper::Request<Incoming>,
    arrived: Arrived,
    timeouts: Timeouts,
    backend: &Arc<B>,
) -> Answer {
    let Some(session) = arrived.session else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many streaming connections");
    };
    if request.method() != Method::GET && request.method() != Method::POST {
        let mut refused = refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
        return refused;
    }
    // From here on the token is used up, whatever comes of it.
    let Some(wanted) = arrived.server.take(request.uri().path()) else {
        return refuse(StatusCode::NOT_FOUND, "404 page not found");
    };
    let (method, headers) = (request.method().clone(), request.headers());
    let negotiated = match &wanted {
        Request::Exec(_) | Request::Attach(_) => {
            negotiate((&method, headers), &command::SPDY, &command::WEB_SOCKET).map(|(p, a)| (Protocol::Command(p), a))
        }
        Request::PortForward(_) => {
            negotiate((&method, headers), &forward::SPDY, &forward::WEB_SOCKET).map(|(p, a)| (Protocol::Forward(p), a))
        }
    };
    let (protocol, answer) = match negotiated {
        Ok(negotiated) => negotiated,
        Err(refused) => return *refused,
    };
    if let (Request::PortForward(wanted), Protocol::Forward(forward::Protocol::WebSocket(codec))) = (&wanted, protocol)
        && !(1..=forward::max_ports(codec)).contains(&wanted.ports.len())
    {
        let message = format!("this protocol takes 1 to {} ports in the request", forward::max_ports(codec));
        return refuse(StatusCode::BAD_REQUEST, &message);
    }
    let (upgrade, backend, liveness) = (upgrade::on(&mut request), Arc::clone(backend), arrived.liveness);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // What goes wrong is told to the client, as far as it can be; a client that does wrong is nobody else's concern.
            let _ = go_on((TokioIo::new(upgraded), liveness), (wanted, protocol), timeouts, backend).await;
        }
        drop(session);
    });
    answer
}

/// What was negotiated.
#[derive(Clone, Copy)]
enum Protocol {
    Command(command::Protocol),
    Forward(forward::Protocol),
}

async fn go_on<B: Backend>(
    (io, liveness): (TokioIo<upgrade::Upgraded>, Arc<Liveness>),
    (wanted, protocol): (Request, Protocol),
    timeouts: Timeouts,
    backend: Arc<B>,
) -> anyhow::Result<()> {
    match (wanted, protocol) {
        (Request::Exec(exec), Protocol::Command(protocol)) => {
            let start = backend.exec(&exec);
            command::serve((io, liveness), (protocol, Verb::Exec, exec.streams), timeouts, start).await
        }
        (Request::Attach(attach), Protocol::Command(protocol)) => {
            let start = backend.attach(&attach);
            command::serve((io, liveness), (protocol, Verb::Attach, attach.streams), timeouts, start).await
        }
        (Request::PortForward(forward), Protocol::Forward(protocol)) => {
            forward::serve((io, liveness), (protocol, forward), timeouts, backend).await
        }
        _ => unreachable!("each request is negotiated with its own protocols"),
    }
}

/// A protocol by the client's preference, and the answer that says so; or the answer that there is none.
fn negotiate<P: Copy>(
    (method, headers): (&Method, &HeaderMap),
    spdy: &[(&'static str, P)],
    web_socket: &[(&'static str, P)],
) -> Result<(P, Answer), Box<Answer>> {
    let refuse = |status, why: &str| Err(Box::new(refuse(status, why)));
    let upgrade = list(headers, UPGRADE.as_str()).join(",").to_lowercase();
    if !list(headers, CONNECTION.as_str()).iter().any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return refuse(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request");
    }
    if upgrade == "websocket" {
        return negotiate_web_socket((method, headers), web_socket);
    }
    if !upgrade.contains("spdy/3.1") {
        return refuse(StatusCode::BAD_REQUEST, "unable to upgrade: neither SPDY/3.1 nor websocket");
    }
    let asked = list(headers, SPDY_PROTOCOL);
    if asked.is_empty() {
        return refuse(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: header X-Stream-Protocol-Version names no protocol",
        );
    }
    let Some((name, protocol)) = choose(&asked, spdy) else {
        let mut refused = self::refuse(StatusCode::FORBIDDEN, "unable to upgrade: unable to negotiate protocol");
        for (name, _) in spdy {
            refused.headers_mut().append(SPDY_ACCEPTED, HeaderValue::from_static(name));
        }
        return Err(Box::new(refused));
    };
    let mut answer = switch("SPDY/3.1");
    answer.headers_mut().insert(SPDY_PROTOCOL, HeaderValue::from_static(name));
    Ok((protocol, answer))
}

/// RFC 6455, 4.2.
fn negotiate_web_socket<P: Copy>(
    (method, headers): (&Method, &HeaderMap),
    known: &[(&'static str, P)],
) -> Result<(P, Answer), Box<Answer>> {
    let key = headers.get("sec-websocket-key").map_or(&b""[..], HeaderValue::as_bytes);
    let version = headers.get("sec-websocket-version").map_or(&b""[..], HeaderValue::as_bytes);
    // 16 bytes in base64.
    if method != Method::GET || version != b"13" || key.len() != 24 {
        let mut refused =
            refuse(StatusCode::BAD_REQUEST, "unable to upgrade: this is no WebSocket handshake of RFC 6455");
        refused.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("13"));
        return Err(Box::new(refused));
    }
    let mut asked = list(headers, WEB_SOCKET_PROTOCOL);
    if asked.is_empty() {
        asked.push("");
    }
    let Some((name, protocol)) = choose(&asked, known) else {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        let message = format!("requested protocols are not supported; supported are {}", names.join(", "));
        return Err(Box::new(refuse(StatusCode::FORBIDDEN, &message)));
    };
    let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64 is a header's value");
    let mut answer = switch("websocket");
    answer.headers_mut().insert("sec-websocket-accept", accept);
    if !name.is_empty() {
        answer.headers_mut().insert(WEB_SOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((protocol, answer))
}

/// The client's first choice among what is known.
fn choose<P: Copy>(asked: &[&str], known: &[(&'static str, P)]) -> Option<(&'static str, P)> {
    asked.iter().find_map(|asked| known.iter().find(|(name, _)| name == asked).copied())
}

/// The words of a header that may come several times, each with several words.
fn list<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

fn switch(to: &'static str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(to));
    answer
}

/// An answer after which the connection ends.
fn refuse(status: StatusCode, why: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{why}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
