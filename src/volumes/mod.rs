//! Volumes: one file per type, and safe sub-paths.
//!
//! In: a [`VolumePlan`]. Out: a descriptor of the volume's root. Nothing here mounts into a container: descriptors are handed
//! to its init.

mod empty_dir;
mod host_path;
mod sub_path;
pub mod usage;

pub use sub_path::open_sub_path;

use crate::paths::PodDirs;
use crate::plan::config::{VolumePlan, VolumeSource};
use crate::sys::SysResult;
use anyhow::{Context, Result};
use std::os::fd::OwnedFd;

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

/// Sets a volume up. Doing it again changes nothing.
pub fn materialize(volume: &VolumePlan, dirs: &PodDirs) -> Result<()> {
    let made = match &volume.source {
        VolumeSource::HostPath { path, kind } => host_path::materialize(path, *kind),
        VolumeSource::EmptyDir => empty_dir::on_disk(&dirs.volume(&volume.name)).map_err(Into::into),
        VolumeSource::Memory { size } => empty_dir::in_memory(&dirs.volume(&volume.name), *size).map_err(Into::into),
        VolumeSource::HugePages { page_size, size } => {
            empty_dir::huge_pages(&dirs.volume(&volume.name), *page_size, *size).map_err(Into::into)
        }
        VolumeSource::Files(_) | VolumeSource::Claim { .. } | VolumeSource::Image { .. } => {
            Err(anyhow::anyhow!("helper V builds this"))
        }
    };
    made.with_context(|| format!("volume {}", volume.name))
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
