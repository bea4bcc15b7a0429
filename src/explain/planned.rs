//! A pod's plan, down to each container's OCI `Spec` and the steps of its init: what the supervisor would come to, without
//! making anything.

use crate::cgroups::{self, Cgroup};
use crate::host::HostFacts;
use crate::paths::{Dirs, PodDirs};
use crate::plan::config::Programs;
use crate::plan::config::{
    ContainerConfig, IdRange, ImageConfig, ImageSpec, KeyValue, NamespaceMode, PodPlan, SecurityContext, VolumePlan,
};
use crate::plan::env::{self, Files, Late};
use crate::plan::mounts;
use crate::plan::spec::{self, Bind, Resolved, User};
use crate::runtime::sandbox;
use crate::runtime::{self, NamespaceKind, Step, user};
use crate::snapshot;
use crate::volumes;
use anyhow::{Context, Result};
use oci_spec::runtime::Spec;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// Where everything would be.
    pub dirs: &'a Dirs,
    /// The pod's own directories.
    pub pod: &'a PodDirs,
    /// The host.
    pub facts: &'a HostFacts,
    /// The images of containers, in their order; `None` for those that nobody has looked at.
    pub images: &'a [Option<ImageSpec>],
    /// The images of volumes, by the volume's name, as far as they are known.
    pub volume_images: &'a BTreeMap<String, ImageSpec>,
    /// The pod's addresses; those that it would have.
    pub addresses: &'a [IpAddr],
    /// The host's.
    pub host_addresses: &'a [IpAddr],
}

/// What would be done for a pod.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// The pod's plan.
    pub plan: PodPlan,
    /// The namespaces that its containers share, in the order in which they are made.
    pub namespaces: Vec<NamespaceKind>,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Its own directories: of its data and of its run state.
    pub data: PathBuf,
    /// Gone after a reboot.
    pub state: PathBuf,
    /// Where its volumes would be on the host.
    pub volumes: Vec<PlannedVolume>,
    /// Its containers, in the plan's order.
    pub containers: Vec<PlannedContainer>,
}

/// Where a volume would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedVolume {
    /// Its name.
    pub name: String,
    /// On the host.
    pub path: PathBuf,
    /// The layers of an image's volume, lowest first; empty for other volumes, and if the image is not here.
    pub layers: Vec<PathBuf>,
}

/// What would be done for a container.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedContainer {
    /// Its name.
    pub name: String,
    /// Its image as the manifest writes it.
    pub reference: String,
    /// Its image, if that is here.
    pub image: Option<ImageSpec>,
    /// What is mounted into it beside its file systems, in mounting order.
    #[serde(skip)]
    pub binds: Vec<Bind>,
    /// Its OCI runtime spec.
    pub spec: Spec,
    /// What its init does, in this order.
    pub steps: Vec<Step>,
}

/// Plans a pod to the end.
///
/// # Errors
/// What the supervisor would find: a user that the image does not have, a profile that is not there, no command.
pub fn planned(mut plan: PodPlan, given: Given<'_>) -> Result<Planned> {
    if plan.sandbox.namespaces.user == NamespaceMode::Pod && plan.sandbox.id_range.is_none() {
        plan.sandbox.id_range = Some(EXAMPLE_IDS);
    }
    let one = |(index, config): (usize, &ContainerConfig)| {
        let image = given.images.get(index).cloned().flatten();
        container(&plan, config, image, given).with_context(|| format!("container {}", config.name))
    };
    let containers = plan.containers.iter().enumerate().map(one).collect::<Result<_>>()?;
    let namespaces = sandbox::namespaces(&plan.sandbox);
    let place = place(&plan, given);
    let volume = |volume: &VolumePlan| PlannedVolume {
        name: volume.name.clone(),
        path: place.of(volume),
        layers: given.volume_images.get(&volume.name).map(|image| image.layers.clone()).unwrap_or_default(),
    };
    let volumes = plan.volumes.iter().map(volume).collect();
    // A plan is for people to look at and to pass on; these are of no use there.
    plan.logins = Vec::new();
    let PodDirs { data, state } = given.pod.clone();
    Ok(Planned { namespaces, addresses: given.addresses.to_vec(), data, state, volumes, containers, plan })
}

fn place<'a>(plan: &'a PodPlan, given: Given<'a>) -> volumes::Place<'a> {
    volumes::Place {
        dirs: given.dirs,
        pod: given.pod,
        namespace: &plan.sandbox.namespace,
        images: given.volume_images,
        group: None,
    }
}

/// In the place of ids that are chosen when the pod is made.
const EXAMPLE_IDS: IdRange = IdRange { first: 0x7000_0000, size: IdRange::SIZE };

fn container(
    plan: &PodPlan,
    config: &ContainerConfig,
    image: Option<ImageSpec>,
    given: Given<'_>,
) -> Result<PlannedContainer> {
    let pod = given.pod;
    let variables = variables(config, given)?;
    let mounts = mounts::expanded(&config.mounts, &variables)?;
    let config = &ContainerConfig { mounts, ..config.clone() };
    let binds = volumes::binds(plan, config, place(plan, given), 0)?;
    let profile = runtime::seccomp::of_host(&plan.sandbox, &config.security)?;
    let image_config = match &image {
        Some(image) => image.config.clone(),
        // Seen to be no command: nobody knows it without the image.
        None => ImageConfig { entrypoint: vec![format!("<command of {}>", config.image)], ..ImageConfig::default() },
    };
    let resolved = Resolved {
        user: &user(image.as_ref(), &config.security)?,
        variables: &variables,
        rootfs: pod.container_state(&config.name).join("rootfs"),
        cgroup: Cgroup::at(
            &given.facts.cgroups,
            &plan.sandbox.cgroup.parent,
            &format!("{}/{}", plan.sandbox.cgroup.pod, config.name),
        )?
        .path(),
        binds: &binds,
        pins: sandbox::pins(&plan.sandbox, pod),
        thermal_throttle: given.facts.thermal_throttle.clone(),
        available_capabilities: given.facts.capabilities,
        cgroups: cgroups::of_spec(given.facts, &plan.sandbox.cgroup.parent)?,
        localhost_seccomp: profile.as_ref(),
        kernel: &given.facts.kernel,
        lsms: given.facts.lsms,
    };
    let spec = spec::container(&plan.sandbox, config, &image_config, resolved)?;
    let steps = runtime::container_steps(&spec)?;
    Ok(PlannedContainer { name: config.name.clone(), reference: config.image.clone(), image, binds, spec, steps })
}

/// The container's user: that of its image where it is known, else what the manifest says alone.
fn user(image: Option<&ImageSpec>, security: &SecurityContext) -> Result<User> {
    let Some(image) = image else {
        return Ok(User {
            uid: security.run_as_user.unwrap_or(0),
            gid: security.run_as_group.unwrap_or(0),
            groups: security.supplemental_groups.clone(),
            home: String::from("/"),
        });
    };
    let rootfs = snapshot::read_only(&image.layers, Programs::Refused)?;
    user::resolve(rootfs.as_fd(), &image.config.user, security)
}

/// The manifest's variables; what other containers are to write is not known.
fn variables(config: &ContainerConfig, given: Given<'_>) -> Result<Vec<KeyValue>> {
    let pod_ips: Vec<String> = given.addresses.iter().map(IpAddr::to_string).collect();
    let host_ips: Vec<String> = given.host_addresses.iter().map(IpAddr::to_string).collect();
    env::resolve(&config.envs, Late { pod_ips: &pod_ips, host_ips: &host_ips, files: Files::Unknown })
}
