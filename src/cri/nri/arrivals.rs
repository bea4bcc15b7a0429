//! Where plugins come from: the socket on which they connect, and the directory of those that podshim starts.

use super::plugin::{Arrival, Identity, Launched, Process};
use super::{Plugins, Runtime};
use crate::sys::socket;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::stat::Mode;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// Connections that may be registering at a time; further ones wait in the socket's queue.
const REGISTERING: usize = 16;
/// Largest configuration of a plugin, in bytes: it is part of one message.
const MAX_CONFIGURATION: u64 = 1 << 20;
/// How long to wait when no descriptor is left for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The socket's file, removed with this value if it is still the same.
pub(super) struct Socket {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Removes the file, unless another daemon has made its own there.
    pub(super) fn remove(&self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            // Nothing else can be done about a directory that has become read-only.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The socket for plugins, which only root can reach: a plugin can change every container, so it is root.
pub(super) fn listen(path: &Path) -> Result<(Socket, UnixListener)> {
    let told = || format!("the socket for NRI plugins at {}", path.display());
    let dir = path.parent().context("it has no directory").with_context(told)?;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).with_context(|| format!("mkdir {}", dir.display())).with_context(told)?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => {
            ensure!(there.file_type().is_socket(), "{}: there is a file that is no socket", told());
            if StdStream::connect(path).is_ok() {
                bail!("{}: another runtime listens there", told());
            }
            std::fs::remove_file(path).with_context(|| format!("unlink {}", path.display())).with_context(told)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("lstat {}", path.display())).with_context(told),
    }
    let bound = socket::listen_stream(path, Mode::from_bits_truncate(0o600)).with_context(told)?;
    let listener = UnixListener::from_std(bound).with_context(told)?;
    let inode = std::fs::symlink_metadata(path).with_context(told)?.ino();
    Ok((Socket { path: path.to_owned(), inode }, listener))
}

/// Takes connections until it is over; each registers beside the others.
pub(super) async fn accept(plugins: Weak<Plugins>, mut over: watch::Receiver<bool>, listener: UnixListener) {
    let free = Arc::new(Semaphore::new(REGISTERING));
    loop {
        let next = async {
            let permit = Arc::clone(&free).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            _ = over.wait_for(|is_over| *is_over) => return,
        };
        let (Some(plugins), Ok(permit)) = (plugins.upgrade(), permit) else { return };
        match accepted {
            Ok((socket, _)) => drop(tokio::spawn(async move {
                plugins.admit(Arrival { socket, launched: None }).await;
                drop(permit);
            })),
            Err(error) => {
                plugins.runtime.note(format!("NRI: accept: {error}"));
                drop(plugins);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Starts every plugin in a directory; one that cannot be executed is noted.
pub(super) fn launch_all(dir: &Path, configs: &Path, runtime: &dyn Runtime) -> Result<Vec<Arrival>> {
    let told = || format!("the directory of NRI plugins {}", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(told)? {
        let path = entry.with_context(told)?.path();
        let metadata = std::fs::metadata(&path).with_context(|| format!("stat {}", path.display()))?;
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let identity = Identity::parse(name).with_context(told)?;
            found.push((identity, path));
        }
    }
    found.sort_by_key(|(identity, _)| identity.whole());
    let mut arrivals = Vec::new();
    for (identity, path) in found {
        let configuration = configuration(configs, &identity)?;
        match launch(identity, &path, configuration) {
            Ok(arrival) => arrivals.push(arrival),
            Err(error) => runtime.note(format!("NRI: {error:#}")),
        }
    }
    Ok(arrivals)
}

fn configuration(dir: &Path, identity: &Identity) -> Result<String> {
    for name in [identity.whole(), identity.name.clone()] {
        let path = dir.join(format!("{name}.conf"));
        let told = || format!("the plugin's configuration {}", path.display());
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(told),
        };
        let mut text = String::new();
        file.take(MAX_CONFIGURATION + 1).read_to_string(&mut text).with_context(told)?;
        ensure!(text.len() as u64 <= MAX_CONFIGURATION, "{} is longer than 1 MiB", told());
        return Ok(text);
    }
    Ok(String::new())
}

/// Starts a plugin with its connection as standard input: `NRI_PLUGIN_SOCKET` tells any plugin which descriptor it is.
fn launch(identity: Identity, path: &Path, configuration: String) -> Result<Arrival> {
    let told = || format!("starting the plugin {}", path.display());
    let (ours, theirs) = StdStream::pair().context("socketpair").with_context(told)?;
    ours.set_nonblocking(true).context("O_NONBLOCK").with_context(told)?;
    let socket = UnixStream::from_std(ours).with_context(told)?;
    let process = Command::new(path)
        .env_clear()
        .env("NRI_PLUGIN_NAME", &identity.name)
        .env("NRI_PLUGIN_IDX", &identity.index)
        .env("NRI_PLUGIN_SOCKET", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("execve {}", path.display()))
        .with_context(told)?;
    Ok(Arrival { socket, launched: Some(Launched { identity, configuration, process: Process(process) }) })
}
