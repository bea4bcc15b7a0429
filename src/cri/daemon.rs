//! What every call works with.

use super::api;
use super::config::Config;
use super::sandboxes;
use super::streaming;
use crate::error::{Kind, failure};
use crate::host::{self, HostFacts};
use crate::image;
use crate::paths::Dirs;
use crate::plan::config::{BridgeNetwork, ImageSpec, NetworkMode};
use crate::store::{self, Pod};
use crate::supervisor::{Supervising, remove};
use crate::sys::{Called, poll, process};
use anyhow::{Context, Result};
use std::os::fd::AsFd;
use std::sync::Arc;

/// The server's own: nothing of it is state.
pub(super) struct Daemon {
    /// Where everything is.
    pub(super) dirs: Dirs,
    /// What the host has.
    pub(super) facts: HostFacts,
    /// As it was read.
    pub(super) config: Config,
    /// Exec, attach and port-forward.
    pub(super) streaming: Arc<streaming::Server>,
    /// For what calls begin that goes on after them.
    tokio: tokio::runtime::Handle,
}

impl Daemon {
    /// To be called in a tokio runtime.
    pub(super) fn new(dirs: Dirs, config: Config, streaming: Arc<streaming::Server>) -> Result<Daemon> {
        Ok(Daemon { dirs, facts: host::probe()?, config, streaming, tokio: tokio::runtime::Handle::current() })
    }

    /// What was left by a server, or a supervisor, that was killed: a sandbox whose supervisor never came to be is as if it had not
    /// been asked for, one whose supervisor has ended without it has ended too.
    pub(super) async fn take_over(self: &Arc<Self>) -> Result<()> {
        let daemon = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || -> Result<()> {
            for sandbox in sandboxes::list(&daemon.dirs)?.iter().filter(|sandbox| sandbox.is_abandoned()) {
                remove::abandoned(&sandbox.pod, &daemon.facts.cgroups)?;
            }
            Ok(())
        });
        done.await.context("taking over")?
    }

    /// Waits for a supervisor's end, whenever that is: it is this process's child as long as that lives.
    pub(super) fn reap(&self, supervising: Supervising) {
        self.tokio.spawn(async move {
            let waited = async {
                let pidfd = process::open_pid(supervising.pid())?;
                let _ended = poll::readable(pidfd.as_fd())?.readable().await.called("epoll_wait", "a supervisor")?;
                supervising.wait()
            };
            // A child that cannot be waited for is a zombie until this process ends: no harm.
            let _: Result<()> = waited.await;
        });
    }

    /// The image of a container, which is to be here.
    pub(super) fn image(&self, name: &str) -> Result<ImageSpec> {
        super::image::find(&self.dirs, name)?
            .ok_or_else(|| failure(Kind::NotFound, format!("image {name:?} is not here: it has to be pulled before")))
    }

    /// podshim's own network, if that is what a sandbox is given.
    pub(super) fn bridge(&self, mode: &NetworkMode) -> Result<Option<BridgeNetwork>> {
        if *mode != NetworkMode::Bridge {
            return Ok(None);
        }
        let there: Option<BridgeNetwork> = store::read_json(&self.dirs.network().config())?;
        Ok(Some(there.unwrap_or_default()))
    }
}

impl Daemon {
    pub(super) fn sandbox_context(&self, id: &str, _: &api::PodSandboxConfig) -> Result<super::convert::SandboxContext> {
        let network = self.config.network_mode();
        Ok(super::convert::SandboxContext { id: id.to_owned(), bridge: self.bridge(&network)?, network, seccomp_root: self.config.seccomp.profile_root.clone(), cgroup_parent: String::new() })
    }
    pub(super) fn container_context(&self, _: &Pod, id: &str) -> Result<super::convert::ContainerContext> {
        Ok(super::convert::ContainerContext { id: id.to_owned() })
    }
}
