//! Volumes: one file per type, and safe sub-paths.
//!
//! In: a [`VolumePlan`]. Out: a descriptor of the volume's root. Nothing here mounts into a container: descriptors are handed
//! to its init.

mod empty_dir;
mod host_path;
mod ownership;
mod sub_path;

pub use ownership::set_group;
pub use sub_path::open_sub_path;

use crate::paths::PodDirs;
use crate::plan::config::{Access, FsGroup, FsGroupChangePolicy, VolumePlan, VolumeSource};
use crate::sys::SysResult;
use anyhow::{Context, Result};
use std::os::fd::{AsFd, OwnedFd};

/// Checks, without making anything, that a volume can be set up: a missing or wrong host path is found before the pod
/// begins.
pub fn check(volume: &VolumePlan) -> Result<()> {
    match &volume.source {
        VolumeSource::HostPath { path, kind } => {
            host_path::check(path, *kind).with_context(|| format!("volume {}", volume.name))
        }
        _ => Ok(()),
    }
}

/// Sets a volume up, for the pod's `fsGroup` if it has one. Doing it again changes nothing.
pub fn materialize(volume: &VolumePlan, dirs: &PodDirs, group: Option<FsGroup>) -> Result<()> {
    let path = dirs.volume(&volume.name);
    let made = match &volume.source {
        VolumeSource::HostPath { path, kind } => host_path::materialize(path, *kind),
        VolumeSource::EmptyDir { mode } => {
            empty_dir::on_disk(&path, *mode).map_err(Into::into).and_then(|()| give(&path, group))
        }
        VolumeSource::Memory { size, mode } => {
            empty_dir::in_memory(&path, *size, *mode).map_err(Into::into).and_then(|()| give(&path, group))
        }
        VolumeSource::Files(_) | VolumeSource::Claim { .. } | VolumeSource::Image { .. } => {
            Err(anyhow::anyhow!("helper V builds this"))
        }
    };
    made.with_context(|| format!("volume {}", volume.name))
}

/// Gives a volume that lives with the pod to the pod's group. Its change policy is for volumes that outlive pods.
fn give(path: &std::path::Path, group: Option<FsGroup>) -> Result<()> {
    let Some(group) = group else { return Ok(()) };
    let root = host_path::open_path(path)?;
    let group = FsGroup { policy: FsGroupChangePolicy::Always, ..group };
    Ok(set_group(root.as_fd(), group, Access::ReadWrite)?)
}

/// A descriptor (`O_PATH`) of a volume's root.
pub fn open(volume: &VolumePlan, dirs: &PodDirs) -> Result<OwnedFd> {
    let path = match &volume.source {
        VolumeSource::HostPath { path, .. } => path.clone(),
        _ => dirs.volume(&volume.name),
    };
    host_path::open_path(&path).with_context(|| format!("volume {}", volume.name))
}

/// The memory that the containers of a pod share as /dev/shm, 64 MiB as with every CRI runtime.
pub fn materialize_shm(dirs: &PodDirs) -> SysResult<()> {
    empty_dir::shm(&dirs.shm())
}
