//! Volumes: one file per type, and safe sub-paths.
//!
//! In: a [`VolumePlan`]. Out: a descriptor of the volume's root. Nothing here mounts into a container: descriptors are handed
//! to its init.

mod binds;
mod empty_dir;
mod files;
mod host_path;
mod image;
mod ownership;
mod propagation;
mod read;
mod sub_path;
pub mod usage;

pub use binds::binds;
pub use ownership::set_group;
pub use propagation::check_propagation;
pub use read::read_text;
pub use sub_path::open_sub_path;

use crate::error::{Kind, failure};
use crate::paths::{Dirs, PodDirs};
use crate::plan::config::{
    Access, BindOption, FsGroup, FsGroupChangePolicy, ImageSpec, Privilege, VolumeMount, VolumePlan, VolumeSource,
};
use crate::sys::{SysResult, fs};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
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
    /// `fsGroup`
    pub group: Option<FsGroup>,
}

impl Place<'_> {
    /// The volume's root.
    pub fn of(&self, volume: &VolumePlan) -> PathBuf {
        match &volume.source {
            VolumeSource::HostPath { path, .. } => path.clone(),
            VolumeSource::Claim { name, .. } => self.dirs.claim(self.namespace, name),
            VolumeSource::EmptyDir { .. }
            | VolumeSource::Ephemeral { .. }
            | VolumeSource::Memory { .. }
            | VolumeSource::HugePages { .. }
            | VolumeSource::Files(_)
            | VolumeSource::Image { .. } => self.pod.volume(&volume.name),
        }
    }
}

/// Checks, without making anything, that a volume of a pod in this namespace can be set up: a missing or wrong host path, or
/// a claim of somebody else's, is found before the pod begins.
pub fn check(volume: &VolumePlan, dirs: &Dirs, namespace: &str) -> Result<()> {
    let checked = match &volume.source {
        VolumeSource::HostPath { path, kind } => {
            host_path::check_not_own(path, [&dirs.state, &dirs.root]).and_then(|()| host_path::check(path, *kind))
        }
        // As the kubelet has it: a claim of that name which was not made for the pod is not taken for its own.
        VolumeSource::Ephemeral { claim } if dirs.claim(namespace, claim).exists() => Err(failure(
            Kind::AlreadyExists,
            format!(
                "persistentVolumeClaim {namespace}/{claim} exists and was not made for this pod: see `podshim volume ls`"
            ),
        )),
        _ => Ok(()),
    };
    checked.with_context(|| format!("volume {}", volume.name))
}

/// Sets a volume up, for the pod's `fsGroup` if it has one. Doing it again changes nothing but the files of a
/// [`VolumeSource::Files`], if they are others now.
pub fn materialize(volume: &VolumePlan, place: Place<'_>) -> Result<()> {
    make(volume, place).and_then(|()| give(volume, place)).with_context(|| format!("volume {}", volume.name))
}

fn make(volume: &VolumePlan, place: Place<'_>) -> Result<()> {
    let path = place.of(volume);
    match &volume.source {
        VolumeSource::HostPath { path, kind } => host_path::materialize(path, *kind),
        VolumeSource::EmptyDir { mode } => Ok(fs::make_directory(&path, *mode)?),
        VolumeSource::Memory { size, mode } => Ok(empty_dir::in_memory(&path, *size, *mode)?),
        VolumeSource::HugePages { page_size, size, mode } => {
            Ok(empty_dir::huge_pages(&path, *page_size, (*size, *mode))?)
        }
        VolumeSource::Files(wanted) => files::materialize(&path, wanted, place.group),
        VolumeSource::Claim { .. } | VolumeSource::Ephemeral { .. } => Ok(empty_dir::persistent(&path)?),
        VolumeSource::Image { reference, programs, .. } => {
            let image = place.images.get(&volume.name).with_context(|| format!("image {reference} is not there"))?;
            image::materialize(&path, image, *programs)
        }
    }
}

/// Gives a volume to the pod's group (pod-api.md §19: not what is of the host or of an image). The change policy is for
/// volumes that outlive pods.
fn give(volume: &VolumePlan, place: Place<'_>) -> Result<()> {
    let Some(group) = place.group else { return Ok(()) };
    let always = FsGroup { policy: FsGroupChangePolicy::Always, ..group };
    let (group, access) = match &volume.source {
        VolumeSource::HostPath { .. } | VolumeSource::Image { .. } => return Ok(()),
        VolumeSource::Claim { access, .. } => (group, *access),
        VolumeSource::Ephemeral { .. } => (group, Access::ReadWrite),
        VolumeSource::Files(_) => (always, Access::ReadOnly),
        VolumeSource::EmptyDir { .. } | VolumeSource::Memory { .. } | VolumeSource::HugePages { .. } => {
            (always, Access::ReadWrite)
        }
    };
    Ok(set_group(host_path::open_path(&place.of(volume))?.as_fd(), group, access)?)
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
        VolumeSource::HostPath { .. }
        | VolumeSource::EmptyDir { .. }
        | VolumeSource::Ephemeral { .. }
        | VolumeSource::Memory { .. }
        | VolumeSource::HugePages { .. } => Access::ReadWrite,
    }
}

/// The options of a mount of a volume: those that are asked for, and `nosuid,nodev` where only the pod's own containers
/// write, or podshim, unless the container is privileged. What is the host's own stays as the host has it.
pub fn options(mount: &VolumeMount, volume: &VolumePlan, privileged: Privilege) -> Vec<BindOption> {
    let is_of_host = matches!(volume.source, VolumeSource::HostPath { .. });
    let own = match privileged {
        Privilege::Default if !is_of_host => &[BindOption::NoSuid, BindOption::NoDev][..],
        _ => &[],
    };
    let mut options = mount.options.clone();
    options.extend(own.iter().filter(|option| !mount.options.contains(option)));
    options
}

/// The memory that the containers of a pod share as /dev/shm, 64 MiB as with every CRI runtime.
pub fn materialize_shm(dirs: &PodDirs) -> SysResult<()> {
    empty_dir::shm(&dirs.shm())
}

/// The place of podshim's own files that containers write (`hosts`, `resolv.conf`, `hostname`): a small tmpfs, so that a
/// container cannot fill the host's disk through them (CVE-2020-8557). What it writes counts as its own memory.
pub fn materialize_own_files(dirs: &PodDirs) -> SysResult<()> {
    empty_dir::small(&dirs.etc_files(), ETC_SIZE)
}

/// The place of a container's termination messages: a small tmpfs too, and one of its own, so that a container that fills it
/// leaves the messages of the others alone.
pub fn materialize_termination_messages(dirs: &PodDirs, container: &str) -> SysResult<()> {
    empty_dir::small(&dirs.termination_messages(container), TERMINATION_SIZE)
}

/// A host's own /etc/hosts, which a pod on its network starts with, may be long.
const ETC_SIZE: u64 = 16 << 20;
/// A message is 4096 bytes at most; a container may write more, and the last bytes count.
const TERMINATION_SIZE: u64 = 1 << 20;
