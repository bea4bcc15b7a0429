//! The socket, its connections, and their end.
//!
//! One thread serves all connections; what blocks is done on others (`Daemon::blocking`). Only the two services of CRI v1 are
//! there; whatever else is asked for is answered with `Unimplemented`.

use super::api::image_service_server::ImageServiceServer;
use super::api::runtime_service_server::RuntimeServiceServer;
use super::config::Config;
use super::daemon::{Daemon, Service, Shared};
use super::framing;
use super::nri::Nri;
use super::plugins::{self, Plugins};
use super::runtime::list_containers;
use super::streaming;
use super::streams::Streams;
use crate::error::{Kind, failure, kind_of, say};
use crate::host;
use crate::image::Store;
use crate::paths::Dirs;
use crate::store;
use crate::supervisor::remove;
use crate::sys::flock::{Flock, How};
use crate::sys::limit;
use crate::sys::{Called, socket};
use anyhow::{Context, Result};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use std::convert::Infallible;
use std::fs::{self, DirBuilder};
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::Service as _;

/// Calls that may be under way at once: each has a thread, also those that wait for a command or a grace period, and others must not
/// wait for those.
const MAX_THREADS: usize = 8192;

/// The largest message either way, as kubelets and containerd have it.
pub(super) const MAX_MESSAGE: usize = 16 << 20;
/// How many connections are served at a time. A kubelet has two; critest opens two for each spec, and closes none.
const MAX_CONNECTIONS: usize = 4096;
/// The fewest descriptors that it begins with: what it has open itself, and what its calls take, is far below that.
const MIN_FILES: u64 = 128;
/// How many requests of one connection are answered at a time.
const MAX_STREAMS: u32 = 1000;
/// How long requests may take to end once the daemon is told to.
const GRACE: Duration = Duration::from_secs(20);
/// How long clients may take to take leave.
const LEAVE: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be accepted (too many files are open).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the daemon is started with.
#[derive(Debug)]
pub struct Options {
    /// Where everything is.
    pub dirs: Dirs,
    /// `cri.toml`
    pub config: Config,
    /// The unix socket.
    pub socket: PathBuf,
}

/// The path of an endpoint: `unix:///run/podshim/cri.sock`, or the path alone.
pub fn parse_endpoint(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    match path.starts_with('/') && !path.ends_with('/') {
        true => Ok(path.into()),
        false => Err("it takes unix:// and an absolute path, like unix:///run/podshim/cri.sock".into()),
    }
}

/// Serves until SIGTERM or SIGINT: then requests that run come to their end, and the socket goes. Containers go on. `ready` is
/// called once requests are taken.
pub fn serve(options: Options, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let Options { dirs, config, socket } = options;
    let files = take_files()?;
    store::make_directories(&dirs)?;
    remove::sweep(&dirs)?;
    // Pulls that an earlier server was killed in are cleared away.
    let images = Store::open(&dirs)?.list();
    // A damaged one is said once. To a kubelet it is not here: it pulls it again, or does not need it.
    for error in images.map_or_else(|error| vec![error], |(_, damaged)| damaged) {
        say!("podshim cri: {error:#}");
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(MAX_THREADS).build().context("starting tokio")?;
    let served = runtime.block_on(async {
        // Before the socket is there: who sees it may send a signal.
        let signals = Signals::watch()?;
        let listener = Listener::bind(&socket)?;
        let (stop, stopping) = watch::channel(false);
        let streaming = streaming::Server::bind(&config.streaming.settings())?;
        let tokio = tokio::runtime::Handle::current();
        let nri = Nri::start(&config.nri.settings(), Arc::new(plugins::Asked { dirs: dirs.clone() })).await?;
        let (facts, plugins) = (host::probe()?, Plugins::new(nri));
        let streams = streaming.clone();
        let shared = Shared { facts, streaming: streams, plugins, tokio };
        let daemon = Arc::new(Daemon::new((dirs, config), shared, stopping));
        daemon.take_over().await?;
        // They are told what there is, and nothing of what was left.
        daemon.plugins.nri.admit().await;
        let behind = Arc::new(Streams::new(daemon.dirs.clone()));
        tokio::spawn(streaming.serve(behind));
        say!("podshim cri: listening on unix://{}", socket.display());
        ready()?;
        let mut connections = accept(&listener, &daemon, signals, most_connections(files)).await;
        stop.send_replace(true);
        daemon.plugins.nri.shut_down().await;
        // No new ones: a client sees that nobody is there.
        drop(listener);
        let ended = tokio::time::timeout(GRACE, daemon.idle()).await;
        // Answers go out, but a client that does not take leave is not waited for.
        let _ = tokio::time::timeout(LEAVE, async { while connections.join_next().await.is_some() {} }).await;
        connections.abort_all();
        ended.map_err(|_| {
            let text = format!("requests did not end within {} s of the signal, and were given up", GRACE.as_secs());
            failure(Kind::Interrupted, text)
        })
    });
    // Threads that still work on something must not keep the process: what they do is made to be cut off anywhere.
    runtime.shutdown_background();
    served
}

/// As many descriptors as the host lets it have: their number.
fn take_files() -> Result<u64> {
    let hard = limit::raise_descriptors()?;
    if hard < MIN_FILES {
        let text = format!("RLIMIT_NOFILE: the server may have {hard} descriptors, and takes at least {MIN_FILES}");
        return Err(failure(Kind::Exhausted, text));
    }
    Ok(hard)
}

/// Half of the descriptors are for calls: clients that do nothing must not keep others from being answered.
fn most_connections(files: u64) -> usize {
    usize::try_from(files / 2).map_or(MAX_CONNECTIONS, |half| half.min(MAX_CONNECTIONS))
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn watch() -> Result<Signals> {
        let watch = |kind: SignalKind, name: &str| signal(kind).called("sigaction", name);
        Ok(Signals {
            terminate: watch(SignalKind::terminate(), "SIGTERM")?,
            interrupt: watch(SignalKind::interrupt(), "SIGINT")?,
        })
    }

    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Takes connections until a signal comes; returns those that are still served.
async fn accept(listener: &Listener, daemon: &Arc<Daemon>, mut signals: Signals, most: usize) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = signals.come() => return connections,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.inner.accept() => match accepted {
                Ok((stream, _)) => {
                    while connections.try_join_next().is_some() {}
                    // One too many is closed: its client is told, and does not wait for who may never leave.
                    if connections.len() < most {
                        connections.spawn(serve_connection(stream, daemon.clone()));
                    }
                }
                // The client is gone already, or files are short: either way the next one may fare better.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// One client's connection, to its end. What goes wrong with it is the client's to notice.
async fn serve_connection(stream: UnixStream, daemon: Arc<Daemon>) {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), Mux::new(&daemon)));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = daemon.stop() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Which service a request is for.
struct Mux {
    daemon: Arc<Daemon>,
    runtime: RuntimeServiceServer<Service>,
    image: ImageServiceServer<Service>,
}

impl Mux {
    fn new(daemon: &Arc<Daemon>) -> Mux {
        let service = Service(daemon.clone());
        Mux {
            daemon: daemon.clone(),
            runtime: RuntimeServiceServer::new(service.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            image: ImageServiceServer::new(service)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        }
    }

    /// ListContainers, which kubelets call the most: an answer that is ready does not pass through tonic, which would copy it.
    fn list(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static {
        let (daemon, mut runtime) = (self.daemon.clone(), self.runtime.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = match Limited::new(body, MAX_MESSAGE).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => {
                    return Ok(tonic::Status::out_of_range(format!("reading the request: {error}")).into_http());
                }
            };
            match list_containers::at_once(&daemon, &body) {
                Some(answer) if answer.len() <= MAX_MESSAGE => Ok(framing::response(answer)),
                _ => runtime.call(Request::from_parts(head, Body::new(Full::new(body)))).await,
            }
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Mux {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        match request.uri().path().split('/').nth(1) {
            Some("runtime.v1.RuntimeService") if rpc == "ListContainers" => told(self.list(request), rpc),
            Some("runtime.v1.RuntimeService") => told(self.runtime.clone().call(request.map(Body::new)), rpc),
            Some("runtime.v1.ImageService") => told(self.image.clone().call(request), rpc),
            other => {
                let status = tonic::Status::unimplemented(format!("unknown service {}", other.unwrap_or("")));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

/// An RPC's answer. One that is an error is told here too, for who looks into the journal for what a kubelet was refused.
fn told(
    answer: impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    rpc: String,
) -> <Mux as hyper::service::Service<Request<Incoming>>>::Future {
    Box::pin(async move {
        let Ok(response) = answer.await;
        if let Some(status) = tonic::Status::from_header_map(response.headers())
            && status.code() != tonic::Code::Ok
        {
            // What clients write does not become a line of its own, or a terminal's command.
            let rpc = rpc.escape_debug();
            say!("podshim cri: {rpc} is answered with {:?}: {:?}", status.code(), status.message());
        }
        Ok(response)
    })
}

/// A bound socket, which goes when this is dropped.
struct Listener {
    inner: UnixListener,
    path: PathBuf,
    /// Device and inode: a socket that somebody else put there meanwhile is not removed.
    identity: (u64, u64),
}

impl Listener {
    /// Binds with mode 0660. A socket that nobody listens on is replaced; one that is in use is an error.
    fn bind(path: &Path) -> Result<Listener> {
        let listening = || format!("listening on {}", path.display());
        let directory = path.parent().context("a socket needs a directory").with_context(listening)?;
        // Others may pass through to what they may use, nobody may look.
        let made = DirBuilder::new().recursive(true).mode(0o711).create(directory);
        made.called("mkdir", directory.display()).with_context(listening)?;
        // Two daemons that start at the same time must not take each other's socket for a stale one.
        let _turn = Flock::open(directory, How::Exclusive).with_context(listening)?;
        remove_stale(path).with_context(listening)?;
        let bound = socket::listen_stream(path, Mode::from_bits_truncate(0o660)).with_context(listening)?;
        let inner = UnixListener::from_std(bound).called("epoll_ctl", path.display()).with_context(listening)?;
        let found = fs::symlink_metadata(path).called("lstat", path.display()).with_context(listening)?;
        Ok(Listener { inner, path: path.to_owned(), identity: (found.dev(), found.ino()) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            // One that cannot be removed is stale, and replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn remove_stale(path: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.called("lstat", path.display())?,
    };
    if !found.file_type().is_socket() {
        return Err(failure(Kind::AlreadyExists, format!("{} is there and is no socket", path.display())));
    }
    let is_served = |error: &anyhow::Error| kind_of(error) == Some(Kind::AlreadyExists);
    socket::when_free(is_served, || match StdUnixStream::connect(path) {
        Ok(_) => Err(failure(Kind::AlreadyExists, "another process serves there".to_owned())),
        Err(e) if e.raw_os_error() == Some(Errno::ECONNREFUSED as i32) => Ok(()),
        Err(e) => Err(e).called("connect", path.display()).map_err(Into::into),
    })?;
    Ok(fs::remove_file(path).called("unlink", path.display())?)
}
