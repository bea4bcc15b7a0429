//! What NRI plugins are told of the sandboxes and containers that there are, and what they may do to them.

use super::api;
use super::api::nri::{self as message, ContainerEviction, ContainerUpdate, LinuxResources};
use super::daemon::Daemon;
use super::nri::describe::{self, Known, Stage};
use super::nri::{Events, Nri, Runtime};
use super::resize;
use super::sandboxes::{self, Container, Sandbox};
use crate::control::{Connection, Reply, Request};
use crate::error::say;
use crate::lifecycle::commanded::Stage as Reached;
use crate::paths::Dirs;
use crate::store::{self, Pod};
use crate::sys::poll;
use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use oci_spec::runtime::Spec;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::spawn_blocking;

/// The plugins, with what only this process knows about them.
#[derive(Default)]
pub(super) struct Plugins {
    /// The plugins themselves.
    pub(super) nri: Nri,
    /// The sandboxes that a plugin is being asked about: nobody else sees them before it has answered.
    hidden: Mutex<HashSet<String>>,
    /// The containers whose end plugins were told of.
    stopped: tokio::sync::Mutex<HashSet<String>>,
    /// Who watches the containers of a sandbox.
    watches: Mutex<HashMap<String, Watch>>,
}

/// One of those who watch: no two are the same.
type Watch = Arc<()>;

/// How long after it failed a supervisor is watched again.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

impl Plugins {
    pub(super) fn new(nri: Nri) -> Plugins {
        Plugins { nri, ..Plugins::default() }
    }

    /// Whether a sandbox is still being asked about.
    pub(super) fn hides(&self, sandbox: &str) -> bool {
        self.hidden.lock().expect("no panic while it is held").contains(sandbox)
    }

    /// Until what is returned is dropped, the sandbox is not to be seen.
    pub(super) fn hide(&self, sandbox: &str) -> Hidden<'_> {
        if self.nri.is_on() {
            self.hidden.lock().expect("no panic while it is held").insert(sandbox.to_owned());
        }
        Hidden { plugins: self, sandbox: sandbox.to_owned() }
    }

    fn watches(&self) -> MutexGuard<'_, HashMap<String, Watch>> {
        self.watches.lock().expect("no panic while it is held")
    }

    /// Somebody else watches a sandbox from now on, whose supervisor may be another one: who did before ends.
    fn begin_watch(&self, sandbox: &str) -> Watch {
        let watch = Watch::default();
        self.watches().insert(sandbox.to_owned(), watch.clone());
        watch
    }

    fn is_watched_by(&self, sandbox: &str, watch: &Watch) -> bool {
        self.watches().get(sandbox).is_some_and(|now| Arc::ptr_eq(now, watch))
    }

    fn end_watch(&self, watch: &Watch) {
        self.watches().retain(|_, now| !Arc::ptr_eq(now, watch));
    }
}

/// A sandbox that is not to be seen.
pub(super) struct Hidden<'a> {
    plugins: &'a Plugins,
    sandbox: String,
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        self.plugins.hidden.lock().expect("no panic while it is held").remove(&self.sandbox);
    }
}

impl Daemon {
    /// Waits for something of the plugins; on a thread that may block.
    pub(super) fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.tokio.block_on(what)
    }

    /// The right to change what there is, and to tell plugins of it.
    pub(super) fn events(&self) -> Events {
        self.wait(self.plugins.nri.events())
    }

    /// Tells plugins, once, that a container has ended; not of one that has been removed since it was looked at.
    pub(super) async fn tell_stopped(&self, events: &Events, sandbox: &Sandbox, container: &Container) {
        let mut stopped = self.plugins.stopped.lock().await;
        let is_there = sandbox.pod.dirs.container_state(container.id()).exists();
        if container.report.started_at == 0 || !is_there || !stopped.insert(container.id().to_owned()) {
            return;
        }
        if let Some(told) = noted(told(sandbox, container)) {
            let (dirs, updates) = (self.dirs.clone(), events.stop_container(&pod(sandbox), &told).await);
            // On a thread that may wait. What fails is noted there.
            let _ = spawn_blocking(move || update_all(&dirs, &updates)).await;
        }
    }

    /// Forgets a container that has been removed.
    pub(super) async fn forget(&self, container: &str) {
        self.plugins.stopped.lock().await.remove(container);
    }

    /// Tells plugins, and who listens, of containers that end by themselves, for as long as the sandbox has a supervisor.
    pub(super) fn watch_containers(self: &Arc<Self>, sandbox: &Sandbox) {
        let (daemon, pod, id) = (self.clone(), sandbox.pod.clone(), sandbox.id().to_owned());
        let watch = self.plugins.begin_watch(&id);
        self.tokio.spawn(async move {
            while daemon.plugins.is_watched_by(&id, &watch) {
                // It fails without descriptors, say. What has ended meanwhile is seen by the next one, which looks at once.
                let _ = daemon.follow_containers((&pod, &id), &watch).await;
                // A supervisor that is gone has no containers that end.
                if !pod.is_supervised() {
                    break;
                }
                tokio::time::sleep(WATCH_AGAIN).await;
            }
            daemon.plugins.end_watch(&watch);
        });
    }

    /// Looks now and after each change, until the supervisor hangs up or somebody else does this.
    async fn follow_containers(self: &Arc<Self>, (pod, id): (&Pod, &str), watch: &Watch) -> Result<()> {
        let connection = Connection::open(&pod.dirs.socket(), &Request::Watch, &[])?;
        let ready = poll::readable(connection.as_fd())?;
        loop {
            let mut guard = ready.readable().await.context("epoll")?;
            let Some((Reply::Changed, _)) = connection.reply()? else { return Ok(()) };
            if !self.plugins.is_watched_by(id, watch) {
                return Ok(());
            }
            if self.plugins.nri.is_on() {
                self.look_for_ends(id).await?;
            }
            if self.container_events.are_wanted() {
                let id = id.to_owned();
                let look = move |daemon: &Arc<Daemon>| {
                    daemon.observe(&id);
                    Ok(())
                };
                self.blocking(look).await?;
            }
            if !poll::has_more(connection.as_fd())? {
                guard.clear_ready();
            }
        }
    }

    async fn look_for_ends(self: &Arc<Self>, id: &str) -> Result<()> {
        let wanted = id.to_owned();
        let (sandbox, containers) = self
            .blocking(move |daemon| {
                let sandbox = sandboxes::sandbox(&daemon.dirs, &wanted)?;
                let containers = sandbox.all_containers()?;
                Ok((sandbox, containers))
            })
            .await?;
        for container in containers.iter().filter(|container| container.report.stage == Reached::Exited) {
            let events = self.plugins.nri.events().await;
            self.tell_stopped(&events, &sandbox, container).await;
        }
        Ok(())
    }
}

/// What is asked of this process by plugins.
pub(super) struct Asked {
    /// Where the sandboxes are.
    pub(super) dirs: Dirs,
}

impl Runtime for Asked {
    fn list(&self) -> BoxFuture<'_, Result<(Vec<message::PodSandbox>, Vec<message::Container>)>> {
        let dirs = self.dirs.clone();
        let list = move || -> Result<_> {
            let (mut pods, mut containers) = (Vec::new(), Vec::new());
            let told = |sandbox: &&Sandbox| sandbox.is_ready() && !sandbox.is_undecided();
            for sandbox in sandboxes::list(&dirs)?.iter().filter(told) {
                pods.push(pod(sandbox));
                for container in &sandbox.all_containers()? {
                    containers.push(self::told(sandbox, container)?);
                }
            }
            Ok((pods, containers))
        };
        async move { spawn_blocking(list).await.context("listing for a plugin")? }.boxed()
    }

    fn update(&self, updates: Vec<ContainerUpdate>) -> BoxFuture<'_, Vec<ContainerUpdate>> {
        let dirs = self.dirs.clone();
        async move { spawn_blocking(move || update_all(&dirs, &updates)).await.unwrap_or_default() }.boxed()
    }

    fn evict(&self, evictions: Vec<ContainerEviction>) -> BoxFuture<'_, Result<()>> {
        let dirs = self.dirs.clone();
        let evict = move || evictions.iter().try_for_each(|eviction| evict(&dirs, eviction));
        async move { spawn_blocking(evict).await.context("evicting for a plugin")? }.boxed()
    }

    fn note(&self, line: String) {
        say!("podshim: {line}");
    }
}

/// Notes why plugins cannot be told of something, where that changes nothing.
pub(super) fn noted<T>(what: Result<T>) -> Option<T> {
    what.inspect_err(|error| say!("podshim cri: NRI plugins are not told: {error:#}")).ok()
}

/// Stops a container that a plugin wants stopped.
fn evict(dirs: &Dirs, eviction: &ContainerEviction) -> Result<()> {
    let (sandbox, container) = sandboxes::any_container(dirs, &eviction.container_id)?;
    sandbox.ask(&Request::End { container: container.id().to_owned(), grace_seconds: 0 }, &[])
}

/// Stops containers that plugins want stopped, each whatever becomes of the others; what fails is noted.
pub(super) fn evict_all(dirs: &Dirs, evictions: &[ContainerEviction]) {
    for eviction in evictions {
        if let Err(error) = evict(dirs, eviction) {
            say!("podshim cri: NRI: evicting container {:.64}: {error:#}", eviction.container_id);
        }
    }
}

/// Changes what containers may use; those that could not be changed, but for those where that does not matter.
pub(super) fn update_all(dirs: &Dirs, updates: &[ContainerUpdate]) -> Vec<ContainerUpdate> {
    let failed = updates.iter().filter(|wanted| {
        update(dirs, wanted).is_err_and(|error| {
            say!("podshim: NRI: updating container {:.64}: {error:#}", wanted.container_id);
            !wanted.ignore_failure
        })
    });
    failed.cloned().collect()
}

fn update(dirs: &Dirs, wanted: &ContainerUpdate) -> Result<()> {
    let Some(resources) = wanted.linux.as_ref().and_then(|linux| linux.resources.as_ref()) else { return Ok(()) };
    // It may be named by the beginning of its id.
    let (_, container) = sandboxes::container(dirs, &wanted.container_id)?;
    resize::resize(dirs, container.id(), &asked(resources)?)
}

/// What a plugin wants of resources, in CRI's terms. What those have no word for is refused.
pub(super) fn asked(wanted: &LinuxResources) -> Result<api::LinuxContainerResources> {
    let memory = wanted.memory.unwrap_or_default();
    let cpu = wanted.cpu.clone().unwrap_or_default();
    let refused = [
        (memory.reservation.is_some(), "memory reservation"),
        (memory.kernel.is_some() || memory.kernel_tcp.is_some(), "kernel memory"),
        (memory.swappiness.is_some(), "swappiness"),
        (memory.disable_oom_killer.is_some(), "the OOM killer"),
        (cpu.realtime_runtime.is_some() || cpu.realtime_period.is_some(), "real-time scheduling"),
        (wanted.blockio_class.is_some(), "block I/O classes"),
        (wanted.rdt_class.is_some(), "RDT classes"),
        (!wanted.devices.is_empty(), "devices"),
        (wanted.pids.is_some(), "the number of processes"),
    ];
    if let Some((_, what)) = refused.into_iter().find(|(is_wanted, _)| *is_wanted) {
        bail!("podshim cannot change {what} of a container that is there");
    }
    Ok(api::LinuxContainerResources {
        cpu_period: cpu.period.map_or(0, |n| i64::try_from(n.value).unwrap_or(i64::MAX)),
        cpu_quota: cpu.quota.map_or(0, |n| n.value),
        cpu_shares: cpu.shares.map_or(0, |n| i64::try_from(n.value).unwrap_or(i64::MAX)),
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        memory_limit_in_bytes: memory.limit.map_or(0, |n| n.value),
        memory_swap_limit_in_bytes: memory.swap.map_or(0, |n| n.value),
        hugepage_limits: wanted
            .hugepage_limits
            .iter()
            .map(|limit| api::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: wanted.unified.clone(),
        ..api::LinuxContainerResources::default()
    })
}

/// A sandbox as plugins are told of it.
pub(super) fn pod(sandbox: &Sandbox) -> message::PodSandbox {
    let metadata = sandbox.metadata();
    let linux = sandbox.config.linux.as_ref();
    let plan = &sandbox.pod.record.plan.sandbox;
    let namespaces = crate::runtime::sandbox::pins(plan, &sandbox.pod.dirs);
    let known = describe::Pod {
        id: sandbox.id(),
        name: &metadata.name,
        uid: &metadata.uid,
        namespace: &metadata.namespace,
        labels: sandbox.config.labels.clone().into_iter().collect(),
        annotations: sandbox.config.annotations.clone().into_iter().collect(),
        runtime_handler: &sandbox.asked.handler,
        cgroup_parent: linux.map_or("", |linux| &linux.cgroup_parent),
        cgroups_path: &format!("/{}/podshim/{}", plan.cgroup.parent, plan.cgroup.pod),
        namespaces,
        resources: linux.and_then(|linux| linux.resources.as_ref()),
        overhead: linux.and_then(|linux| linux.overhead.as_ref()),
        pid: 0,
        ips: sandbox.addresses(),
    };
    known.message()
}

/// A container as plugins are told of it.
pub(super) fn told(sandbox: &Sandbox, container: &Container) -> Result<message::Container> {
    let bundle = sandbox.pod.dirs.container_state(container.id()).join("config.json");
    let metadata = container.metadata();
    let image = &container.record.image;
    let report = &container.report;
    let pid = report.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    let known = Known {
        id: container.id(),
        pod_sandbox_id: sandbox.id(),
        name: &metadata.name,
        stage: match report.stage {
            Reached::Creating => Stage::Planned,
            Reached::Created | Reached::Starting => Stage::Created { pid },
            Reached::Running => Stage::Running { pid, started_at: report.started_at },
            Reached::Exited => Stage::Stopped {
                started_at: report.started_at,
                finished_at: report.finished_at,
                exit_code: report.exit_code,
                reason: report.reason.clone(),
                message: report.message.clone(),
            },
        },
        created_at: report.created_at,
        labels: container.config.labels.clone().into_iter().collect(),
        annotations: container.config.annotations.clone().into_iter().collect(),
        image: [&image.reference, &image.digest, &image.id],
    };
    Ok(match store::read_json::<Spec>(&bundle)? {
        Some(spec) => describe::container(&known, &spec),
        None => describe::planned(&known, &container.config),
    })
}

/// A container that is about to be created.
pub(super) fn planned(sandbox: &Sandbox, id: &str, config: &api::ContainerConfig) -> message::Container {
    let metadata = config.metadata.clone().unwrap_or_default();
    let image = config.image.as_ref().map_or("", |image| &image.image);
    let known = Known {
        id,
        pod_sandbox_id: sandbox.id(),
        name: &metadata.name,
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        image: [image, "", ""],
        ..Known::default()
    };
    describe::planned(&known, config)
}
