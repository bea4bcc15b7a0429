//! `Mount`.

use super::ContainerContext;
use super::fields::{At, short};
use crate::cri::api;
use crate::plan::config::{
    Access, BindOption, HostPathType, MountPropagation, Programs, PullPolicy, Submounts, VolumeMount, VolumePlan,
    VolumeSource,
};
use anyhow::Result;
use std::collections::BTreeMap;

/// Mounts of one container; a kubelet's pods have some ten.
const MAX_MOUNTS: usize = 4096;

/// What a container's mounts come to.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) volumes: Vec<VolumePlan>,
    pub(super) images: BTreeMap<String, String>,
}

/// A container's mounts in a sandbox with these namespaces.
pub(super) fn of(
    list: &[api::Mount],
    sandbox: &api::NamespaceOption,
    context: &ContainerContext,
    at: &At,
) -> Result<Mounts> {
    at.at_most(list.len(), MAX_MOUNTS)?;
    let mut all = Mounts::default();
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for (index, given) in list.iter().enumerate() {
        let at = at.index(index);
        ids(given, sandbox, &at)?;
        if given.selinux_relabel && context.lsms.selinux {
            return at
                .field("selinux_relabel")
                .refuse("podshim gives files no other labels, and this host has SELinux");
        }
        let volume = format!("{}/{index}", context.id);
        let mount = mount(given, &volume, &at)?;
        // A kubelet adds its own to those that a pod and its devices ask for: one at the same place would be on top.
        if let Some(hidden) = taken.insert(mount.container_path.clone(), volume.clone()) {
            all.mounts.retain(|mount| mount.volume != hidden);
            all.volumes.retain(|volume| volume.name != hidden);
            all.images.remove(&hidden);
        }
        let (source, sub_path) = source(given, context, &at)?;
        if let VolumeSource::Image { reference, .. } = &source {
            all.images.insert(volume.clone(), reference.clone());
        }
        all.volumes.push(VolumePlan { name: volume, source });
        all.mounts.push(VolumeMount { sub_path, ..mount });
    }
    Ok(all)
}

fn mount(given: &api::Mount, volume: &str, at: &At) -> Result<VolumeMount> {
    let propagation = match at.field("propagation").known(given.propagation)? {
        api::MountPropagation::PropagationPrivate => MountPropagation::None,
        api::MountPropagation::PropagationHostToContainer => MountPropagation::HostToContainer,
        api::MountPropagation::PropagationBidirectional => MountPropagation::Bidirectional,
    };
    let recursive = at.field("recursive_read_only");
    if given.recursive_read_only && !given.readonly {
        return recursive.refuse("it needs readonly");
    }
    if given.recursive_read_only && propagation != MountPropagation::None {
        return recursive.refuse("it needs the propagation PROPAGATION_PRIVATE");
    }
    let place = at.field("container_path");
    let container_path = place.absolute_path(&given.container_path)?;
    if container_path == "/" {
        return place.refuse("it is the root itself");
    }
    Ok(VolumeMount {
        volume: volume.to_owned(),
        sub_path: String::new(),
        sub_path_expr: None,
        container_path,
        access: if given.readonly { Access::ReadOnly } else { Access::ReadWrite },
        submounts: if given.recursive_read_only { Submounts::ReadOnly } else { Submounts::Unchanged },
        propagation,
        options: options(&given.mount_options, &at.field("mount_options"))?,
    })
}

fn options(list: &[String], at: &At) -> Result<Vec<BindOption>> {
    let all = [BindOption::NoExec, BindOption::NoDev, BindOption::NoSuid];
    let mut options = Vec::new();
    for (index, word) in list.iter().enumerate() {
        match all.into_iter().find(|option| option.word() == word) {
            Some(option) if options.contains(&option) => {}
            Some(option) => options.push(option),
            None => return at.index(index).refuse(format!("{} is none of noexec, nodev, nosuid", short(word))),
        }
    }
    Ok(options)
}

/// Where the content is, and the path below it.
fn source(given: &api::Mount, context: &ContainerContext, at: &At) -> Result<(VolumeSource, String)> {
    let (host, sub_path) = (at.field("host_path"), at.field("image_sub_path"));
    let Some(image) = &given.image else {
        if !given.image_sub_path.is_empty() {
            return sub_path.refuse("it is for an image only");
        }
        let path = host.absolute_path(&given.host_path)?.into();
        return Ok((VolumeSource::HostPath { path, kind: HostPathType::Unset }, String::new()));
    };
    if !given.host_path.is_empty() {
        return host.refuse("it goes with no image");
    }
    if !given.readonly {
        return at.field("readonly").refuse("an image is mounted read-only: it must be true");
    }
    let below = match given.image_sub_path.as_str() {
        "" => String::new(),
        path => sub_path.relative_path(path).map(|_| path.to_owned())?,
    };
    let reference = super::container::image_name(image, context, &at.field("image"))?;
    Ok((VolumeSource::Image { reference, pull_policy: PullPolicy::Never, programs: Programs::Allowed }, below))
}

/// In a sandbox with a user namespace every mount is id-mapped with that, and no mount is in another.
fn ids(given: &api::Mount, sandbox: &api::NamespaceOption, at: &At) -> Result<()> {
    let of_sandbox = sandbox.userns_options.clone().unwrap_or_default();
    for (name, own, users) in
        [("uidMappings", &given.uid_mappings, of_sandbox.uids), ("gidMappings", &given.gid_mappings, of_sandbox.gids)]
    {
        if *own != users {
            let what = match users.is_empty() {
                true => "the sandbox has no user namespace of its own, and a mount is mapped for no other",
                false => "every mount of a sandbox with a user namespace has the sandbox's mappings, and no others",
            };
            return at.field(name).refuse(what);
        }
    }
    Ok(())
}
