//! The server's process: from its socket to its end.

use super::api::image_service_server::ImageServiceServer;
use super::api::runtime_service_server::RuntimeServiceServer;
use super::config::Config;
use super::daemon::Daemon;
use super::image::Images;
use super::runtime::Runtime;
use super::streaming;
use super::streams::Streams;
use crate::error::{Kind, failure};
use crate::paths::Dirs;
use crate::store;
use crate::supervisor::remove;
use crate::sys::Called;
use anyhow::Result;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::Service;

/// The largest message, in bytes: a kubelet's and containerd's.
const MAX_MESSAGE: usize = 16 << 20;
/// How long calls that are under way may take after the server was asked to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where it listens unless told otherwise.
pub const SOCKET: &str = "/run/podshim/cri.sock";

/// Serves until it gets SIGTERM or SIGINT. `ready` is called when it can be asked.
pub fn serve(dirs: &Dirs, socket: &Path, config: Config, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    store::make_directories(dirs)?;
    remove::sweep(dirs)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().called("epoll_create1", "")?;
    let served = runtime.block_on(async {
        let streaming = streaming::Server::bind(&config.streaming())?;
        let daemon = Arc::new(Daemon::new(dirs.clone(), config, Arc::clone(&streaming))?);
        daemon.take_over().await?;
        let listener = listen(socket)?;
        ready()?;
        let behind = Arc::new(Streams::new(dirs.clone()));
        tokio::select! {
            served = accept(&listener, &daemon) => served,
            served = streaming.serve(behind) => served,
        }
    });
    // Threads that wait for a supervisor are not waited for.
    runtime.shutdown_background();
    let removed = std::fs::remove_file(socket).called("unlink", socket.display());
    served.and(removed.map_err(Into::into))
}

/// A socket for root and its group. One that nobody listens on any more is replaced.
fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(parent) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(parent);
        made.called("mkdir", parent.display())?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = format!("{} is in use: another server is there", path.display());
        return Err(failure(Kind::AlreadyExists, message));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).called("unlink", path.display())?,
        _ => {}
    }
    let listener = UnixListener::bind(path).called("bind", path.display())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).called("chmod", path.display())?;
    Ok(listener)
}

/// Takes connections until a signal comes, then lets calls end.
async fn accept(listener: &UnixListener, daemon: &Arc<Daemon>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).called("sigaction", "SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).called("sigaction", "SIGINT")?;
    let (stop, stopped) = tokio::sync::watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(daemon), stopped.clone()));
                }
                // No descriptor left (EMFILE): that passes.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(stop);
    let _ = tokio::time::timeout(PATIENCE, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// One client, over HTTP/2.
async fn connection(stream: UnixStream, daemon: Arc<Daemon>, mut stopped: tokio::sync::watch::Receiver<()>) {
    let runtime = RuntimeServiceServer::new(Runtime(Arc::clone(&daemon)))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let images = ImageServiceServer::new(Images(daemon))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    // By the service's name: the first part of the path.
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (mut runtime, mut images) = (runtime.clone(), images.clone());
        let request = request.map(Body::new);
        async move {
            let path = request.uri().path();
            if path.starts_with("/runtime.v1.RuntimeService/") {
                runtime.call(request).await
            } else if path.starts_with("/runtime.v1.ImageService/") {
                images.call(request).await
            } else {
                Ok(tonic::Status::unimplemented(format!("there is no {path}")).into_http())
            }
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // What goes wrong on a connection is its client's to see.
        _ = connection.as_mut() => return,
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
