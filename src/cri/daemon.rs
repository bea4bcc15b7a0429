//! What every RPC is given, and how it is answered.

use super::checkpoint::{self, Turns};
use super::config::{Config, WithoutCni};
use super::container_events::ContainerEvents;
use super::image::{LayerSizes, Pulls};
use super::plugins::Plugins;
use super::runtime::{Samples, Told, run_pod_sandbox};
use super::sandboxes::{self, Sandbox};
use super::{api, convert, status, streaming};
use crate::cgroups;
use crate::control::{Connection, Request as Asked};
use crate::error::{Kind, failure, say};
use crate::host::HostFacts;
use crate::image::Store;
use crate::network::{self, cni};
use crate::paths::Dirs;
use crate::plan::config::{BridgeNetwork, ImageSpec, NetworkMode};
use crate::store::{self, Pod};
use crate::supervisor::{self, Recovered, Supervising, remove};
use crate::sys::{Called, poll, process, socket};
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeSet;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{RwLock, watch};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status};

/// What the RPCs share. Nothing in it is lost when the process dies: state is on disk and with the supervisors.
pub(in crate::cri) struct Daemon {
    /// Where everything is.
    pub(in crate::cri) dirs: Dirs,
    /// `cri.toml`
    pub(in crate::cri) config: Arc<Config>,
    /// Those who are told what becomes of containers.
    pub(in crate::cri) container_events: ContainerEvents,
    /// What the host has.
    pub(in crate::cri) facts: HostFacts,
    /// Exec, attach and port-forward.
    pub(in crate::cri) streaming: Arc<streaming::Server>,
    /// NRI
    pub(in crate::cri) plugins: Plugins,
    /// For what goes on after the call that began it.
    pub(in crate::cri) tokio: tokio::runtime::Handle,
    /// What was seen last of the CPU time that containers use.
    pub(in crate::cri) samples: Samples,
    /// The pulls that run.
    pub(in crate::cri) pulls: Pulls,
    /// The checkpoints that are being made.
    pub(in crate::cri) checkpoints: Turns,
    /// What layers take of the disk, as far as it was measured.
    pub(in crate::cri) layer_sizes: LayerSizes,
    /// Read by each request that is being performed, until its end.
    at_work: Arc<RwLock<()>>,
    /// Becomes true when the daemon is to end: streams that have no end of their own end then.
    pub(in crate::cri) stopping: watch::Receiver<bool>,
}

/// What a daemon is made from.
pub(in crate::cri) struct Shared {
    pub(in crate::cri) facts: HostFacts,
    pub(in crate::cri) streaming: Arc<streaming::Server>,
    pub(in crate::cri) plugins: Plugins,
    pub(in crate::cri) tokio: tokio::runtime::Handle,
}

impl Daemon {
    pub(in crate::cri) fn new(
        (dirs, config): (Dirs, Config),
        shared: Shared,
        stopping: watch::Receiver<bool>,
    ) -> Daemon {
        let Shared { facts, streaming, plugins, tokio } = shared;
        let (pulls, checkpoints, layer_sizes, samples, at_work, container_events) = Default::default();
        Daemon {
            dirs,
            config: config.into(),
            container_events,
            facts,
            streaming,
            plugins,
            tokio,
            pulls,
            checkpoints,
            layer_sizes,
            samples,
            at_work,
            stopping,
        }
    }

    /// Resolves when nothing is being performed any more, also for clients that have hung up.
    pub(in crate::cri) async fn idle(&self) {
        drop(self.at_work.write().await);
    }

    /// Runs what blocks (files, locks, control sockets) on a thread of its own, to its end, whatever becomes of the caller.
    pub(in crate::cri) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Daemon>) -> Result<T> + Send + 'static,
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

impl Daemon {
    /// What was left by a daemon, or a supervisor, that was killed: a sandbox whose supervisor has ended without it gets another
    /// one. All supervisors are watched from now on.
    pub(in crate::cri) async fn take_over(self: &Arc<Self>) -> Result<()> {
        let all = self.blocking(|daemon| sandboxes::list(&daemon.dirs)).await?;
        for sandbox in all {
            if sandbox.is_half_made() {
                let undone =
                    self.blocking(move |daemon| run_pod_sandbox::undo(daemon, sandbox.id(), &sandbox.pod)).await;
                if let Err(error) = undone {
                    say!("podshim cri: a sandbox that nobody has heard of stays: {error:#}");
                }
                continue;
            }
            self.sweep_checkpoints(&sandbox.pod);
            if sandbox.is_abandoned() {
                match self.recover(sandbox.pod.clone()).await {
                    Ok(true) => self.watch_containers(&sandbox),
                    Ok(false) => {}
                    // Others are served all the same. Whoever asks for this one tries again.
                    Err(error) => say!("podshim cri: a sandbox stays as it is for now: {error:#}"),
                }
            } else if sandbox.is_supervised() {
                self.watch_containers(&sandbox);
                self.watch(sandbox);
            }
        }
        Ok(())
    }

    /// Removes what is left of checkpoints. What cannot be removed goes with the sandbox.
    fn sweep_checkpoints(self: &Arc<Self>, pod: &Pod) {
        let (daemon, pod) = (self.clone(), pod.clone());
        self.tokio.spawn(async move {
            for _ in 0..SWEEPS {
                let pod = pod.clone();
                if daemon.blocking(move |daemon| checkpoint::sweep(&pod, &daemon.checkpoints)).await.is_ok() {
                    return;
                }
                tokio::time::sleep(BETWEEN_SWEEPS).await;
            }
        });
    }

    /// Sees a supervisor end that another daemon has started.
    fn watch(self: &Arc<Self>, sandbox: Sandbox) {
        let daemon = self.clone();
        self.tokio.spawn(async move {
            let pidfd = loop {
                match Connection::open(&sandbox.pod.dirs.socket(), &Asked::Watch, &[]) {
                    Ok(connection) => break socket::peer_pidfd(connection.as_fd()),
                    // It sets its sandbox up, and does not listen yet.
                    Err(_) if sandbox.pod.is_supervised() => tokio::time::sleep(SETTING_UP).await,
                    Err(_) => return daemon.supervisor_ended(sandbox.pod.clone()).await,
                }
            };
            let ended = async {
                poll::readable(pidfd?.as_fd())?.readable().await.called("epoll_wait", "a supervisor").map(drop)
            };
            if ended.await.is_err() {
                // It has ended already, and there is no pidfd of it (or no descriptor: then there may be one later).
                tokio::time::sleep(SETTING_UP).await;
            }
            daemon.supervisor_ended(sandbox.pod.clone()).await;
        });
    }

    /// Waits for the end of a supervisor that this daemon has started, and whose parent it is.
    pub(in crate::cri) fn reap(self: &Arc<Self>, supervising: Supervising, pod: Pod) {
        let daemon = self.clone();
        self.tokio.spawn(async move {
            let ended = async {
                let pidfd = process::open_pid(supervising.pid())?;
                poll::readable(pidfd.as_fd())?.readable().await.called("epoll_wait", "a supervisor").map(drop)
            };
            if ended.await.is_ok() {
                // It has ended: this does not block.
                let _ = supervising.wait();
                daemon.supervisor_ended(pod).await;
            }
        });
    }

    /// If it has ended without its sandbox, that gets another one.
    async fn supervisor_ended(self: &Arc<Self>, pod: Pod) {
        // What it has started may hold its lock for a moment.
        let begin = Instant::now();
        while pod.is_supervised() && begin.elapsed() < LETS_GO {
            tokio::time::sleep(SETTING_UP).await;
        }
        let id = pod.record.plan.sandbox.uid.clone();
        // What cannot be done now is tried again by whoever asks for something, whose error is seen.
        let is_supervised = self.recover(pod).await.unwrap_or(false);
        let look = move |daemon: &Arc<Daemon>| {
            daemon.observe(&id);
            sandboxes::sandbox(&daemon.dirs, &id)
        };
        if let Ok(sandbox) = self.blocking(look).await
            && is_supervised
        {
            self.watch_containers(&sandbox);
        }
    }

    /// Gives a sandbox another supervisor if it has lost its own; one that cannot be taken over ends. Whether it has one.
    fn recover(self: &Arc<Self>, pod: Pod) -> Pin<Box<dyn Future<Output = Result<bool>> + Send>> {
        let daemon = self.clone();
        Box::pin(async move {
            let found = pod.clone();
            match daemon.blocking(move |daemon| recover(daemon, &found)).await? {
                Some(supervising) => {
                    say!("podshim cri: sandbox {} has another supervisor", pod.record.plan.sandbox.uid);
                    daemon.reap(supervising, pod);
                }
                // Somebody else was quicker.
                None if pod.is_supervised() => {
                    let id = pod.record.plan.sandbox.uid.clone();
                    daemon.watch(daemon.blocking(move |daemon| sandboxes::sandbox(&daemon.dirs, &id)).await?);
                }
                None => return Ok(false),
            }
            Ok(true)
        })
    }

    /// The image of a container, which is to be here.
    pub(in crate::cri) fn image(&self, name: &str) -> Result<ImageSpec> {
        let found = Store::look(&self.dirs, name)?;
        let image =
            found.ok_or_else(|| failure(Kind::NotFound, format!("image {name:?} is not here: pull it first")))?;
        Ok(ImageSpec {
            reference: image.reference,
            id: image.id,
            digest: image.digest,
            config: image.config,
            layers: image.layers,
        })
    }

    /// What a sandbox that does not have the host's network is given, and podshim's own network if that is it.
    fn network(&self) -> Result<(NetworkMode, Option<BridgeNetwork>)> {
        let network = self.config.network.cni();
        if self.config.network.without_cni == WithoutCni::Wait || cni::is_configured(&network)? {
            return Ok((NetworkMode::Cni(network), None));
        }
        let there = network::there(&self.dirs)?.unwrap_or_default();
        let told = Told::read(self)?.pod_cidr;
        let bridge = if told.is_empty() || told == there.pods { there } else { there.with_pods(told) };
        Ok((NetworkMode::Bridge, Some(bridge)))
    }

    pub(in crate::cri) fn sandbox_context(
        &self,
        id: &str,
        _: &api::PodSandboxConfig,
    ) -> Result<convert::SandboxContext> {
        let (network, bridge) = self.network()?;
        let seccomp_root = self.config.seccomp_profile_root.0.clone();
        Ok(convert::SandboxContext { id: id.to_owned(), bridge, network, seccomp_root, cgroup_parent: String::new() })
    }

    pub(in crate::cri) fn container_context(&self, pod: &Pod, id: &str) -> Result<convert::ContainerContext> {
        Ok(convert::ContainerContext {
            id: id.to_owned(),
            lsms: self.facts.lsms,
            cgroups: self.facts.cgroups.clone(),
            numbers: cgroups::of_spec(&self.facts, &pod.record.plan.sandbox.cgroup.parent)?,
            others: others(pod)?,
            handlers: self.config.clone(),
        })
    }
}

/// The ids of a sandbox's containers, but for those that are being made or removed.
fn others(pod: &Pod) -> Result<BTreeSet<String>> {
    let mut ids = store::container_ids(pod)?;
    ids.retain(|id| store::container_record(&pod.dirs, id).exists());
    Ok(ids.into_iter().collect())
}

/// How often, and after how long each time, it is tried to remove what is left of checkpoints: a criu that was left may write for as
/// long as it takes it to read a container's memory.
const SWEEPS: u32 = 600;
const BETWEEN_SWEEPS: Duration = Duration::from_secs(1);

/// Another supervisor of a sandbox that has lost its own. One that cannot be taken over ends.
fn recover(daemon: &Daemon, pod: &Pod) -> Result<Option<Supervising>> {
    match supervisor::recover(pod) {
        Ok(Recovered::TakenOver(supervising)) => Ok(Some(supervising)),
        Ok(Recovered::Unneeded | Recovered::Unsettled | Recovered::Ended(_)) => Ok(None),
        Err(error) => {
            say!("podshim cri: a sandbox ends, as it cannot be taken over: {error:#}");
            remove::abandoned(pod, &daemon.facts.cgroups).map(|_| None)
        }
    }
}

/// How long what a killed supervisor has started may hold its lock.
const LETS_GO: Duration = Duration::from_secs(2);

/// How often it is looked whether a supervisor listens.
const SETTING_UP: Duration = Duration::from_millis(10);

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

/// The same of an RPC that blocks: `call(&daemon, &request)`.
macro_rules! block {
    ($service:expr, $request:expr, $call:path) => {
        $service
            .perform($request, |daemon, request| {
                Box::pin(async move { daemon.blocking(move |daemon| $call(daemon, &request)).await })
            })
            .await
    };
}
pub(in crate::cri) use block;
