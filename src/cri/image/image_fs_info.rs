//! `ImageFsInfo`: what images take of the disk, and what containers have written.

use crate::control;
use crate::cri::api::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value};
use crate::cri::daemon::Daemon;
use crate::paths::PodDirs;
use crate::sys::Called;
use crate::volumes::usage::{Extent, Request, Usage};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How long measuring may take; then what was found counts, and layers that were not measured to their end are the next time.
const PATIENCE: Duration = Duration::from_secs(20);

/// What unpacked layers take, which never changes.
#[derive(Default)]
pub(in crate::cri) struct LayerSizes(Mutex<BTreeMap<PathBuf, Usage>>);

/// Both file systems are the one of the root directory.
pub(in crate::cri) async fn run(daemon: &Arc<Daemon>, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse> {
    daemon.blocking(|daemon| info(daemon)).await
}

fn info(daemon: &Daemon) -> Result<ImageFsInfoResponse> {
    let dirs = &daemon.dirs;
    let written = writable_layers(daemon)?;
    let layers = entries(&dirs.layers())?;
    // One at a time: what two would measure at once is then measured once.
    let mut sizes = daemon.layer_sizes.0.lock().unwrap_or_else(PoisonError::into_inner);
    sizes.retain(|layer, _| layers.contains(layer));
    let unknown: Vec<PathBuf> = layers.iter().filter(|layer| !sizes.contains_key(*layer)).cloned().collect();
    // Whoever has put it on another disk may have left a link.
    let images = dirs.images();
    let mut trees = vec![images.canonicalize().unwrap_or(images)];
    trees.extend(written.iter().cloned());
    trees.extend(unknown.iter().cloned());
    let measured = measure(trees)?;
    let (blobs, rest) = measured.split_first().context("nothing was measured")?;
    let (written, fresh) = rest.split_at(written.len());
    let mut images = vec![*blobs];
    images.extend(sizes.values());
    images.extend(fresh);
    let whole = unknown.into_iter().zip(fresh).filter(|(_, usage)| usage.extent != Extent::OutOfTime);
    sizes.extend(whole.map(|(layer, usage)| (layer, *usage)));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let timestamp = i64::try_from(now.as_nanos()).context("the clock is after 2262")?;
    let message = |usages: &[Usage]| FilesystemUsage {
        timestamp,
        fs_id: Some(FilesystemIdentifier { mountpoint: dirs.root.display().to_string() }),
        used_bytes: Some(UInt64Value { value: usages.iter().map(|usage| usage.bytes).sum() }),
        inodes_used: Some(UInt64Value { value: usages.iter().map(|usage| usage.inodes).sum() }),
    };
    Ok(ImageFsInfoResponse { image_filesystems: vec![message(&images)], container_filesystems: vec![message(written)] })
}

/// The writable layers of all containers.
fn writable_layers(daemon: &Daemon) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for pod in entries(&daemon.dirs.pods_data())? {
        let dirs = PodDirs { state: PathBuf::new(), data: pod };
        all.extend(entries(&dirs.layers())?);
    }
    Ok(all)
}

/// What is in a directory, if it is there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let list = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.called("opendir", directory.display())?,
    };
    list.map(|entry| Ok(entry.called("readdir", directory.display())?.path())).collect()
}

/// Measures in a process of its own, which may hold more descriptors than this one's containers are to inherit.
fn measure(trees: Vec<PathBuf>) -> Result<Vec<Usage>> {
    let count = trees.len();
    let input = control::document("disk-usage", &Request { trees, patience: PATIENCE })?;
    let output = Command::new("/proc/self/exe")
        .arg0("podshim")
        .arg("disk-usage")
        .env_clear()
        .stdin(input)
        .output()
        .called("execve", "podshim disk-usage")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "podshim disk-usage ended with {}: {}", output.status, said.trim());
    let usages: Vec<Usage> = serde_json::from_slice(&output.stdout).context("decoding what was measured")?;
    ensure!(usages.len() == count, "{} of {count} directories were measured", usages.len());
    Ok(usages)
}
