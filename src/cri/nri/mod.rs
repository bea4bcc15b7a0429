//! NRI, the Node Resource Interface: plugins that are told of pods and containers, and that may change containers before they
//! are created (github.com/containerd/nri, protocol of v0.12.5).
//!
//! In: a socket on which plugins connect, or a directory of plugins to start. Out: their answers, merged. Off unless
//! configured. What a plugin wants and podshim cannot do is an error that names it, and a plugin that hangs, dies or talks
//! nonsense is disconnected: it never takes the daemon with it, nor holds up a request longer than its time limit.
//!
//! | file | content |
//! |---|---|
//! | [`frame`] | the multiplexer's frames and ttrpc's messages: pure |
//! | [`connection`] | calls and answers over one socket |
//! | [`plugin`] | registration, configuration, synchronisation, requests and what becomes of failures |
//! | [`arrivals`] | the socket, and the plugins that podshim starts |
//! | [`events`] | the interface of the RPCs: one method per event |
//! | [`merge`] | the answers of several plugins as one, with conflicts: pure |
//! | [`convert`] | a merged adjustment as [`crate::plan::adjust::Adjustment`]: pure |
//! | [`describe`] | pods and containers as NRI's messages: pure |

mod arrivals;
mod connection;
pub mod convert;
pub mod describe;
pub mod events;
mod frame;
mod merge;
mod plugin;

pub use events::{Adjusted, Events, Updated};

use crate::cri::api::nri::{Container, ContainerEviction, ContainerUpdate, PodSandbox};
use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use plugin::{Arrival, Plugin};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{Mutex, RwLock, watch};

/// What NRI asks of the runtime. All of it may be called at any time, also while an event is being told.
///
/// Nothing here may wait for [`Nri::events`]: a plugin that is being synchronised waits for these.
pub trait Runtime: Send + Sync {
    /// All pods and containers, for a plugin that has just registered. While it is asked and until the plugin has answered, no
    /// [`Events`] exists.
    fn list(&self) -> BoxFuture<'_, Result<(Vec<PodSandbox>, Vec<Container>)>>;

    /// Changes what running containers may use, without being asked to by a kubelet. Answers with those that could not be
    /// changed, except where `ignore_failure` is set.
    fn update(&self, updates: Vec<ContainerUpdate>) -> BoxFuture<'_, Vec<ContainerUpdate>>;

    /// Stops containers that a plugin wants evicted.
    fn evict(&self, evictions: Vec<ContainerEviction>) -> BoxFuture<'_, Result<()>>;

    /// A line for the log: plugins that come and go, and why.
    fn note(&self, line: String);
}

/// Time limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the connection to `RegisterPlugin`, and for the whole of `Synchronize`.
    ///
    /// (The reference gives `Synchronize` only the time of a request, and so loses plugins that look at many containers.)
    pub registration: Duration,
    /// For every other request.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { registration: Duration::from_secs(5), request: Duration::from_secs(2) }
    }
}

/// What NRI is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The socket on which plugins connect (`/var/run/nri/nri.sock` by custom); none if they may not.
    pub socket: Option<PathBuf>,
    /// A directory of plugins to start (`/opt/nri/plugins`), each called `10-name`.
    pub plugins: Option<PathBuf>,
    /// Where their configurations are (`/etc/nri/conf.d`): `10-name.conf`, or else `name.conf`.
    pub plugin_configs: PathBuf,
    /// Time limits.
    pub timeouts: Timeouts,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            socket: None,
            plugins: None,
            plugin_configs: "/etc/nri/conf.d".into(),
            timeouts: Timeouts::default(),
        }
    }
}

/// The plugins; cheap to clone.
#[derive(Clone, Default)]
pub struct Nri(Option<Arc<Plugins>>);

struct Plugins {
    runtime: Arc<dyn Runtime>,
    timeouts: Timeouts,
    /// In the order in which they are asked. Held while an event is told: plugins see one event after the other.
    list: Mutex<Vec<Plugin>>,
    /// Read by whoever changes what there is, written while a plugin is told what there is.
    quiet: Arc<RwLock<()>>,
    /// Set when it is over.
    over: watch::Sender<bool>,
    /// Removed in the end.
    socket: Option<arrivals::Socket>,
    /// Who waits to be admitted.
    waiting: Mutex<Option<Waiting>>,
}

/// Plugins that were started, and where others connect.
struct Waiting {
    launched: Vec<Arrival>,
    listener: Option<UnixListener>,
}

impl Nri {
    /// No plugins, ever; costs nothing.
    pub fn off() -> Nri {
        Nri(None)
    }

    /// Starts the plugins that are to be started, and listens for others; must be called in a tokio runtime. Nobody is told
    /// anything before [`Nri::admit`].
    ///
    /// A plugin that does not start is noted; the others go on.
    ///
    /// # Errors
    /// If the socket cannot be made, or the directory of plugins cannot be read or holds a file that is no plugin's.
    pub async fn start(settings: &Settings, runtime: Arc<dyn Runtime>) -> Result<Nri> {
        if settings.socket.is_none() && settings.plugins.is_none() {
            return Ok(Nri::off());
        }
        let mut launched = Vec::new();
        if let Some(dir) = &settings.plugins {
            launched = arrivals::launch_all(dir, &settings.plugin_configs, runtime.as_ref())?;
        }
        let (socket, listener) = match &settings.socket {
            Some(path) => {
                let (socket, listener) = arrivals::listen(path)?;
                (Some(socket), Some(listener))
            }
            None => (None, None),
        };
        let plugins = Arc::new(Plugins {
            runtime,
            timeouts: settings.timeouts,
            list: Mutex::default(),
            quiet: Arc::default(),
            over: watch::Sender::new(false),
            socket,
            waiting: Mutex::new(Some(Waiting { launched, listener })),
        });
        Ok(Nri(Some(plugins)))
    }

    /// From now on plugins are told what there is: those that were started have been when this is over. [`Runtime::list`] must be
    /// able to answer.
    pub async fn admit(&self) {
        let Some(plugins) = &self.0 else { return };
        let Some(Waiting { launched, listener }) = plugins.waiting.lock().await.take() else { return };
        futures_util::future::join_all(launched.into_iter().map(|arrival| plugins.admit(arrival))).await;
        if let Some(listener) = listener {
            tokio::spawn(arrivals::accept(Arc::downgrade(plugins), plugins.over.subscribe(), listener));
        }
    }

    /// The right to change what there is and to tell of it. Take it before the first effect of an RPC, and keep it until the
    /// pod or container can be listed (or is gone): what a plugin is not told when it is synchronised, it is told by an event.
    ///
    /// Take it once per RPC: to take it twice may wait for a plugin that waits for the first. Do not keep it where the RPC waits
    /// for long (a grace period, a pull): a plugin that registers meanwhile waits for it, and further RPCs behind that.
    pub async fn events(&self) -> Events {
        Events::new(match &self.0 {
            Some(plugins) => Some((Arc::clone(plugins), Arc::clone(&plugins.quiet).read_owned().await)),
            None => None,
        })
    }

    /// Whether there can be plugins.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The plugins that are registered, in the order in which they are asked.
    pub async fn registered(&self) -> Vec<String> {
        let Some(plugins) = &self.0 else { return Vec::new() };
        let list = plugins.list.lock().await;
        list.iter().filter(|plugin| !plugin.is_closed()).map(|plugin| plugin.identity.whole()).collect()
    }

    /// Tells every plugin that it is over, and takes no more of them.
    pub async fn shut_down(&self) {
        let Some(plugins) = &self.0 else { return };
        plugins.over.send_replace(true);
        if let Some(socket) = &plugins.socket {
            socket.remove();
        }
        let list = std::mem::take(&mut *plugins.list.lock().await);
        futures_util::future::join_all(list.iter().map(Plugin::shut_down)).await;
    }
}

impl Plugins {
    /// Lets a plugin register, and tells it what there is.
    async fn admit(&self, arrival: Arrival) {
        if let Err(error) = self.try_admit(arrival).await {
            self.runtime.note(format!("NRI: {error:#}"));
        }
    }

    async fn try_admit(&self, arrival: Arrival) -> Result<()> {
        let plugin = Plugin::arrive(arrival, Arc::clone(&self.runtime), self.timeouts).await?;
        let whole = plugin.identity.whole();
        // A request that takes long holds it; others must not wait behind this plugin for longer than its time.
        let quiet = tokio::time::timeout(self.timeouts.registration, self.quiet.write())
            .await
            .with_context(|| format!("the plugin {whole}: requests in progress did not end within its time"))?;
        let (pods, containers) =
            self.runtime.list().await.with_context(|| format!("listing pods and containers for the plugin {whole}"))?;
        let updates = plugin.synchronize(&pods, &containers).await?;
        let mut list = self.list.lock().await;
        list.retain(|plugin| !plugin.is_closed());
        list.push(plugin);
        // Stable: of two with the same index the older is asked first.
        list.sort_by(|a, b| a.identity.index.cmp(&b.identity.index));
        drop(list);
        drop(quiet);
        self.runtime.note(format!(
            "NRI: the plugin {whole} is registered, and has seen {} pods and {} containers",
            pods.len(),
            containers.len()
        ));
        if !updates.is_empty() {
            for failed in self.runtime.update(updates).await {
                let id = connection::bounded(&failed.container_id);
                self.runtime.note(format!("NRI: the plugin {whole}: the container {id} could not be updated"));
            }
        }
        Ok(())
    }
}
