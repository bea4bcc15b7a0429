//! A request performed by a process of its own, which may do what an event loop must not: look names up, start a runtime, take
//! the memory that TLS takes. It has no clock: who started it ends it.

use super::http::{Answer, Get, NOT_TLS, Next, Step};
use super::{Ask, Place, Request, Said, errno_text, http2};
use crate::lifecycle::Outcome;
use anyhow::{Context as _, Result};
use nix::errno::Errno;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::net::{Ipv4Addr, ToSocketAddrs};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Performs a request to its end; [`Said::Halfway`] is told to `said` when it is. An error is this process's own.
pub fn perform(request: &Request, said: &mut dyn FnMut(Said)) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    Ok(runtime.block_on(async {
        match &request.ask {
            Ask::Tcp(place) => match dial(place).await {
                Ok(_) => Outcome::Success,
                Err(what) => Outcome::Failure(what),
            },
            Ask::Http(get) => http(get, said).await,
            Ask::Grpc { place, service, tls } => {
                let check = http2::Check { authority: &place.join(), service, tls: *tls, timeout: request.timeout };
                grpc(place, &check, said).await
            }
        }
    }))
}

/// A connection; Go's words if there is none.
async fn dial(place: &Place) -> Result<TcpStream, String> {
    // It may block: there is nothing else to do. tokio's own would take a thread, which this process may not have.
    let addresses = match place.address() {
        Some(address) => vec![address],
        None => {
            (place.host.as_str(), place.port).to_socket_addrs().map_err(|error| no_such_host(place, &error))?.collect()
        }
    };
    let mut last = format!("dial tcp: lookup {}: no such host", place.host);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("dial tcp {address}: connect: {}", io_text(&error)),
        }
    }
    Err(last)
}

fn no_such_host(place: &Place, error: &io::Error) -> String {
    let error = error.to_string();
    let why = match error.strip_prefix("failed to lookup address information: ").unwrap_or(&error) {
        // EAI_NONAME of glibc and of musl.
        "Name or service not known" | "Name does not resolve" => "no such host",
        other => other,
    };
    format!("dial tcp: lookup {}: {why}", place.host)
}

/// Go's words for an error of a system call.
fn io_text(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| errno_text(Errno::from_raw(number)))
}

/// A GET request and its redirects.
async fn http(get: &Get, said: &mut dyn FnMut(Said)) -> Outcome {
    let get = match follow(get.clone(), said).await {
        Ok(outcome) => return outcome,
        Err(get) => get,
    };
    if !get.is_hook() {
        return get.failure(NOT_TLS);
    }
    match follow(get.without_tls(), said).await {
        Ok(Outcome::Success | Outcome::Warning(_)) => {
            let host = &get.authority;
            Outcome::Warning(format!(
                "request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
            ))
        }
        // The first error is the one that tells what is wrong.
        _ => get.failure(NOT_TLS),
    }
}

/// The request that was answered without TLS, though sent with it.
type NotTls = Box<Get>;

async fn follow(get: Get, said: &mut dyn FnMut(Said)) -> Result<Outcome, NotTls> {
    let mut get = Box::new(get);
    loop {
        match send(&get, said).await? {
            ControlFlow::Continue(next) => get = next,
            ControlFlow::Break(outcome) => return Ok(outcome),
        }
    }
}

/// What a request leads to: the next one or the end.
pub(super) type Flow = ControlFlow<Outcome, Box<Get>>;

async fn send(get: &Get, said: &mut dyn FnMut(Said)) -> Result<Flow, NotTls> {
    if let Err(outcome) = get.check() {
        return Ok(Flow::Break(outcome));
    }
    let stream = match dial(&get.place).await {
        Ok(stream) => stream,
        Err(what) => return Ok(Flow::Break(get.failure(what))),
    };
    if !get.tls {
        return Ok(if get.http2 { http2::get(stream, get, said).await } else { http1(stream, get, said).await });
    }
    // A kubelet's transport offers both, too.
    match tls(stream, &get.place.host, &[b"h2", b"http/1.1"]).await {
        Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => Ok(http2::get(stream, get, said).await),
        Ok(stream) => Ok(http1(stream, get, said).await),
        Err(TlsError::NotTls) => Err(Box::new(get.clone())),
        Err(TlsError::Other(what)) => Ok(Flow::Break(get.failure(what))),
    }
}

async fn http1<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO, get: &Get, said: &mut dyn FnMut(Said)) -> Flow {
    // Who does not want to read all of it may have answered: reading shows it, and the error if there is one.
    let _ = io.write_all(&get.bytes()).await;
    let _ = io.flush().await;
    let mut answer = Answer::default();
    let mut buffer = [0u8; 4096];
    loop {
        let was_halfway = answer.is_halfway();
        let step = match io.read(&mut buffer).await {
            Ok(0) => return Flow::Break(answer.end(get)),
            // Without close_notify the end is as good to us: the framing tells whether something is missing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Flow::Break(answer.end(get)),
            Ok(count) => answer.feed(get, &buffer[..count]),
            Err(error) => {
                let what = format!("read tcp {}: read: {}", get.place.join(), io_text(&error));
                return Flow::Break(if was_halfway { Outcome::Error(what) } else { get.failure(what) });
            }
        };
        match step {
            Step::More if answer.is_halfway() && !was_halfway => said(Said::Halfway),
            Step::More => {}
            Step::Again(next) => return Flow::Continue(next),
            Step::Done(outcome) => return Flow::Break(outcome),
        }
    }
}

/// The head of an answer in HTTP/2: as in HTTP/1.1.
pub(super) fn answered(get: &Get, status: u16, location: Option<&[u8]>) -> Option<Flow> {
    match get.answered(status, location) {
        Next::Read => None,
        Next::Again(next) => Some(Flow::Continue(next)),
        Next::Done(outcome) => Some(Flow::Break(outcome)),
    }
}

/// gRPC's back-off between attempts to connect (its doc/connection-backoff.md), without the jitter.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// As a kubelet's blocking dial, it goes on trying to connect until it is ended: a server that is a little late is in time.
async fn grpc(place: &Place, check: &http2::Check<'_>, said: &mut dyn FnMut(Said)) -> Outcome {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Ok(stream) = dial(place).await {
            if !check.tls {
                said(Said::Halfway);
                return http2::health(stream, check).await;
            }
            if let Ok(stream) = tls(stream, &place.host, &[b"h2"]).await {
                said(Said::Halfway);
                return http2::health(stream, check).await;
            }
        }
        tokio::time::sleep(pause).await;
        pause = pause.mul_f64(1.6).min(LONGEST_PAUSE);
    }
}

/// Why there is no TLS connection.
enum TlsError {
    /// The server answers in HTTP.
    NotTls,
    /// Go's words.
    Other(String),
}

async fn tls(stream: TcpStream, host: &str, protocols: &[&[u8]]) -> Result<TlsStream<Noting<TcpStream>>, TlsError> {
    let other = |error: &dyn std::fmt::Display| TlsError::Other(format!("tls: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| other(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // Go leaves the name out that TLS cannot hold (one with an underscore, an address with a zone), as it does any address.
    let name =
        ServerName::try_from(host.to_owned()).unwrap_or(ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, Noting { inner: stream, first: Vec::new() });
    match connecting.into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((_, noting)) if noting.first.starts_with(b"HTTP/") => Err(TlsError::NotTls),
        Err((error, noting)) => Err(match noting.first.first() {
            None if error.kind() == io::ErrorKind::UnexpectedEof => TlsError::Other("EOF".into()),
            // RFC 8446 §5.1: 21 is an alert, 22 a handshake.
            Some(kind) if ![21, 22].contains(kind) => {
                TlsError::Other("tls: first record does not look like a TLS handshake".into())
            }
            _ => other(&io_text(&error)),
        }),
    }
}

/// Notes the first bytes that are read: they tell what speaks there if it is not TLS.
struct Noting<IO> {
    inner: IO,
    first: Vec<u8>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Noting<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let missing = 5usize.saturating_sub(self.first.len());
        self.first.extend(buf.filled()[before..].iter().take(missing));
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Noting<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Accepts any certificate: a probe asks whether something answers, and trusts nothing that it says (pod-api.md §6).
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
