//! Volumes: one file per type, and safe sub-paths.
//!
//! In: a [`VolumePlan`]. Out: a descriptor of the volume's root. Nothing here mounts into a container: descriptors are handed
//! to its init.

mod empty_dir;
mod files;
mod host_path;
mod image;
mod sub_path;

pub use sub_path::open_sub_path;

use crate::paths::{Dirs, PodDirs};
use crate::plan::config::{Access, ImageSpec, VolumePlan, VolumeSource};
use crate::plan::spec::Special;
use crate::sys::SysResult;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where a pod's volumes are, and what they are made of.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Everything that outlives the pod.
    pub dirs: &'a Dirs,
    /// The pod's own directories.
    pub pod: &'a PodDirs,
    /// The pod's namespace, which its claims are in.
    pub namespace: &'a str,
    /// The images of volumes, by the volume's name.
    pub images: &'a BTreeMap<String, ImageSpec>,
}

impl Place<'_> {
    /// The volume's root.
    pub fn of(&self, volume: &VolumePlan) -> PathBuf {
        match &volume.source {
            VolumeSource::HostPath { path, .. } => path.clone(),
            VolumeSource::Claim { name, .. } => self.dirs.claim(self.namespace, name),
            VolumeSource::EmptyDir
            | VolumeSource::Memory { .. }
            | VolumeSource::Files(_)
            | VolumeSource::Image { .. } => self.pod.volume(&volume.name),
        }
    }
}

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

/// Sets a volume up. Doing it again changes nothing but the files of a [`VolumeSource::Files`], if they are others now.
pub fn materialize(volume: &VolumePlan, place: Place<'_>) -> Result<()> {
    let path = place.of(volume);
    let made = match &volume.source {
        VolumeSource::HostPath { path, kind } => host_path::materialize(path, *kind),
        VolumeSource::EmptyDir => empty_dir::on_disk(&path).map_err(Into::into),
        VolumeSource::Memory { size } => empty_dir::in_memory(&path, *size).map_err(Into::into),
        VolumeSource::Files(wanted) => files::materialize(&path, wanted),
        VolumeSource::Claim { .. } => empty_dir::persistent(&path).map_err(Into::into),
        VolumeSource::Image { reference, .. } => match place.images.get(&volume.name) {
            Some(spec) => image::materialize(&path, spec),
            None => Err(anyhow::anyhow!("image {reference} is not there")),
        },
    };
    made.with_context(|| format!("volume {}", volume.name))
}

/// A descriptor (`O_PATH`) of a volume's root.
pub fn open(volume: &VolumePlan, place: Place<'_>) -> Result<OwnedFd> {
    host_path::open_path(&place.of(volume)).with_context(|| format!("volume {}", volume.name))
}

/// What containers can do with a volume, whatever their mounts say.
pub fn access(volume: &VolumePlan) -> Access {
    match &volume.source {
        VolumeSource::Files(_) | VolumeSource::Image { .. } => Access::ReadOnly,
        VolumeSource::Claim { access, .. } => *access,
        VolumeSource::HostPath { .. } | VolumeSource::EmptyDir | VolumeSource::Memory { .. } => Access::ReadWrite,
    }
}

/// What set-user-ID programs and device nodes in a volume are: those of the host are the host's, those that a pod's
/// containers make there are nothing.
pub fn special(volume: &VolumePlan) -> Special {
    match &volume.source {
        VolumeSource::HostPath { .. } => Special::Honoured,
        VolumeSource::EmptyDir
        | VolumeSource::Memory { .. }
        | VolumeSource::Files(_)
        | VolumeSource::Claim { .. }
        | VolumeSource::Image { .. } => Special::Ignored,
    }
}

/// The memory that the containers of a pod share as /dev/shm, 64 MiB as with every CRI runtime.
pub fn materialize_shm(dirs: &PodDirs) -> SysResult<()> {
    empty_dir::shm(&dirs.shm())
}

/// The places of podshim's own files that containers write (`hosts`, `resolv.conf`, `hostname`, termination messages): each
/// a small tmpfs, so that a container cannot fill the host's disk through them (CVE-2020-8557). What it writes counts as
/// its own memory.
pub fn materialize_own_files(dirs: &PodDirs) -> SysResult<()> {
    empty_dir::small(&dirs.etc_files(), ETC_SIZE)?;
    empty_dir::small(&dirs.termination_messages(), TERMINATION_SIZE)
}

/// A host's own /etc/hosts, which a pod on its network starts with, may be long.
const ETC_SIZE: u64 = 16 << 20;
/// A message is 4096 bytes at most; a container may write more, and the last bytes count.
const TERMINATION_SIZE: u64 = 4 << 20;
