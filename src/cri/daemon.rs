//! What every RPC is given, and how it is answered.

use super::config::Config;
use super::image::{LayerSizes, Pulls};
use super::status;
use crate::paths::Dirs;
use anyhow::{Context, Result, anyhow};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{RwLock, watch};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status};

/// What the RPCs share. Nothing in it is lost when the process dies: state is on disk and with the supervisors.
pub(in crate::cri) struct Daemon {
    /// Where everything is.
    pub(in crate::cri) dirs: Dirs,
    /// `cri.toml`
    pub(in crate::cri) config: Config,
    /// The pulls that run.
    pub(in crate::cri) pulls: Pulls,
    /// What layers take of the disk, as far as it was measured.
    pub(in crate::cri) layer_sizes: LayerSizes,
    /// Read by each request that is being performed, until its end.
    at_work: Arc<RwLock<()>>,
    /// Becomes true when the daemon is to end: streams that have no end of their own end then.
    pub(in crate::cri) stopping: watch::Receiver<bool>,
}

impl Daemon {
    pub(in crate::cri) fn new(dirs: Dirs, config: Config, stopping: watch::Receiver<bool>) -> Daemon {
        let (pulls, layer_sizes, at_work) = Default::default();
        Daemon { dirs, config, pulls, layer_sizes, at_work, stopping }
    }

    /// Resolves when nothing is being performed any more, also for clients that have hung up.
    pub(in crate::cri) async fn idle(&self) {
        drop(self.at_work.write().await);
    }

    /// Runs what blocks (files, locks, control sockets) on a thread of its own, to its end, whatever becomes of the caller.
    pub(in crate::cri) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Daemon) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let daemon = self.clone();
        spawn_blocking(move || work(&daemon)).await.context("a thread of the daemon's ended early")?
    }

    /// Resolves when the daemon is to end.
    pub(in crate::cri) async fn stop(&self) {
        let mut stopping = self.stopping.clone();
        // An error says that the sender is gone, and with it the server.
        let _ = stopping.wait_for(|stop| *stop).await;
    }
}

/// Both services: each method calls its RPC's file.
#[derive(Clone)]
pub(in crate::cri) struct Service(pub(in crate::cri) Arc<Daemon>);

/// What an RPC's file answers.
pub(in crate::cri) type Answer<T> = Result<Response<T>, Status>;

/// Answers of an RPC whose answers are a stream.
pub(in crate::cri) type Stream<T> = tonic::codegen::BoxStream<T>;

/// A future of an RPC.
type Pending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

impl Service {
    /// Performs an RPC to its end even if the client hangs up: half a sandbox is nobody's wish.
    pub(in crate::cri) async fn perform<Q, A: Send + 'static>(
        &self,
        request: Request<Q>,
        rpc: impl FnOnce(Arc<Daemon>, Q) -> Pending<A>,
    ) -> Answer<A> {
        let at_work = self.0.at_work.clone().read_owned().await;
        let rpc = rpc(self.0.clone(), request.into_inner());
        let task = tokio::spawn(async move {
            let _at_work = at_work;
            rpc.await
        });
        let done = task.await.unwrap_or_else(|e| Err(anyhow!("the request was not performed to its end: {e}")));
        answer(done)
    }
}

/// The answer, or the error's status.
pub(in crate::cri) fn answer<A>(done: Result<A>) -> Answer<A> {
    done.map(Response::new).map_err(|error| status::of(&error))
}

/// `perform!(self, request, room)`: the answer of `room::run(&daemon, request)`.
macro_rules! perform {
    ($service:expr, $request:expr, $($rpc:ident)::+) => {
        $service
            .perform($request, |daemon, request| Box::pin(async move { $($rpc)::+::run(&daemon, request).await }))
            .await
    };
}
pub(in crate::cri) use perform;
