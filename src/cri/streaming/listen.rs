//! Connections: accepted, bounded, with TLS if there is a certificate, and handed to HTTP.

use super::http::{self, Arrived};
use super::liveness::Liveness;
use super::strangers::{Stranger, Strangers};
use super::tokens::Tokens;
use super::{Backend, Request, Timeouts};
use crate::error::{Kind, failure};
use crate::sys::{Called, SysResult, socket};
use anyhow::{Context, Result, anyhow};
use futures_util::future::Abortable;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// The most connections at once that have shown no token; further ones take the places of the silent.
const MAX_STRANGERS: usize = 256;
/// The most connections at once that have.
const MAX_SESSIONS: usize = 1024;
/// The largest head of a request, in bytes; a client's has some hundred.
const MAX_HEAD: usize = 16 << 10;
/// How long a peer that does not answer may be taken for alive: asked after the first, every second, nine times.
const KEEP_ALIVE: (u32, u32) = (60, 15);

/// Where to listen, and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// An address of this host; port 0 takes a free one. Without TLS it is on loopback.
    pub address: SocketAddr,
    /// HTTPS in place of HTTP.
    pub tls: Option<Tls>,
    /// How long things may take.
    pub timeouts: Timeouts,
}

/// Files for TLS, in PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate, and those that lead to one that clients trust.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for Config {
    fn default() -> Config {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Config { address, tls: None, timeouts: Timeouts::default() }
    }
}

/// The server.
pub struct Server {
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    /// How URLs begin.
    base: String,
    tokens: Mutex<Tokens>,
    timeouts: Timeouts,
    strangers: Arc<Strangers>,
    sessions: Arc<Semaphore>,
}

impl Server {
    /// Listens; connections are taken by [`Server::serve`].
    pub fn bind(config: &Config) -> Result<Arc<Server>> {
        let ip = config.address.ip();
        if config.tls.is_none() && !ip.is_loopback() {
            let message = format!("streaming on {ip} takes TLS: whoever sees a URL on its way could run commands");
            return Err(failure(Kind::Invalid, message));
        }
        if ip.is_unspecified() {
            return Err(failure(Kind::Invalid, format!("streaming takes an address that URLs can name, not {ip}")));
        }
        let tls = config.tls.as_ref().map(Tls::acceptor).transpose()?;
        let is_in_use = |error: &std::io::Error| error.kind() == ErrorKind::AddrInUse;
        let bound = socket::when_free(is_in_use, || std::net::TcpListener::bind(config.address));
        let listener = bound.called("bind", config.address)?;
        // As many as the kernel lets wait: the 128 that std asks for come in one burst, and a client behind them sends its SYN again
        // a second later.
        listen(&listener, Backlog::MAXALLOWABLE).called("listen", config.address)?;
        listener.set_nonblocking(true).called("ioctl FIONBIO", "streaming listener")?;
        let address = listener.local_addr().called("getsockname", "streaming listener")?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        Ok(Arc::new(Server {
            listener,
            tls,
            base: format!("{scheme}://{address}"),
            tokens: Mutex::new(Tokens::new(config.timeouts.token)),
            timeouts: config.timeouts,
            strangers: Strangers::new(MAX_STRANGERS),
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
        }))
    }

    /// A URL for a request, which is checked. It is as good as the right to make the request: not to be logged.
    pub fn url(&self, request: Request) -> Result<String> {
        request.check()?;
        let verb = request.verb();
        let token = self.tokens.lock().expect("no panic while tokens are looked up").insert(request, Instant::now())?;
        Ok(format!("{}/{verb}/{token}", self.base))
    }

    /// What a path stands for; its token is worth nothing afterwards.
    pub(super) fn take(&self, path: &str) -> Option<Request> {
        let (verb, token) = path.strip_prefix('/')?.split_once('/')?;
        let request = self.tokens.lock().expect("no panic while tokens are looked up").take(token, Instant::now())?;
        (request.verb() == verb).then_some(request)
    }

    /// Takes connections, for as long as it is awaited; those that were taken go on by themselves.
    pub async fn serve<B: Backend>(self: Arc<Self>, backend: Arc<B>) -> Result<()> {
        let listener = self.listener.try_clone().called("fcntl", "F_DUPFD_CLOEXEC")?;
        let listener = TcpListener::from_std(listener).called("epoll_ctl", "streaming listener")?;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // A client that is gone again (ECONNABORTED), or no descriptor left (EMFILE), which passes.
                Err(_) => {
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (stranger, registration) = self.strangers.admit().await;
            let (server, backend) = (Arc::clone(&self), Arc::clone(&backend));
            tokio::spawn(async move {
                let served = Abortable::new(server.stranger((stream, &stranger), backend), registration);
                // A stranger's connection that goes wrong is nobody's concern.
                let _ = timeout(server.timeouts.request, served).await;
                // Its place is free when its connection is closed.
                drop(stranger);
            });
        }
    }

    /// Until the request is answered; an upgraded connection goes on by itself.
    async fn stranger<B: Backend>(
        self: &Arc<Self>,
        (stream, stranger): (TcpStream, &Stranger),
        backend: Arc<B>,
    ) -> Result<()> {
        prepare(&stream)?;
        let liveness = Arc::new(Liveness::of(&stream, self.timeouts)?);
        match &self.tls {
            None => self.http((stream, stranger), liveness, backend).await,
            Some(tls) => {
                let stream = tls.accept(stream).await.context("TLS handshake")?;
                self.http((stream, stranger), liveness, backend).await
            }
        }
    }

    async fn http<B: Backend>(
        self: &Arc<Self>,
        (io, stranger): (impl AsyncRead + AsyncWrite + Send + Unpin + 'static, &Stranger),
        liveness: Arc<Liveness>,
        backend: Arc<B>,
    ) -> Result<()> {
        let service = service_fn(|request| {
            if !stranger.asks() {
                // Before the token is used up: the client may try again.
                return std::future::ready(Err(anyhow!("its place was given to another when the request came")));
            }
            let session = Arc::clone(&self.sessions).try_acquire_owned().ok();
            let arrived = Arrived { server: Arc::clone(self), liveness: Arc::clone(&liveness), session };
            let response = http::answer(request, arrived, self.timeouts, &backend);
            std::future::ready(Ok(response))
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.timeouts.request)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        connection.await.context("HTTP")
    }
}

impl Tls {
    fn acceptor(&self) -> Result<TlsAcceptor> {
        let shown = self.certificate.display();
        let chain = CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.with_context(|| format!("certificate {shown} of the streaming server"))?;
        if chain.is_empty() {
            return Err(failure(Kind::Invalid, format!("{shown} holds no certificate")));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.with_context(|| format!("key {} of the streaming server", self.key.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choosing TLS versions")?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .with_context(|| format!("certificate {shown} and its key"))?;
        // An upgrade is of HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Keystrokes go at once, and a peer whose machine is gone is noticed.
fn prepare(stream: &TcpStream) -> SysResult<()> {
    stream.set_nodelay(true).called("setsockopt", "TCP_NODELAY")?;
    let (idle, every) = KEEP_ALIVE;
    setsockopt(stream, sockopt::KeepAlive, &true).called("setsockopt", "SO_KEEPALIVE")?;
    setsockopt(stream, sockopt::TcpKeepIdle, &idle).called("setsockopt", "TCP_KEEPIDLE")?;
    setsockopt(stream, sockopt::TcpKeepInterval, &every).called("setsockopt", "TCP_KEEPINTVL")
}
