//! What of a pod cannot be said in bundles.

use crate::error::{Kind, failure};
use crate::explain::Planned;
use crate::plan::config::{
    ContainerConfig, ContainerKind, EnvValue, NamespaceMode, NetworkMode, PodPlan, Privilege, VolumeSource,
};
use anyhow::Result;
use std::path::Path;

/// The directories beside the bundles.
const OWN: &[&str] = &["ns", "volumes", "etc", "shm", "termination", "layers", "containers"];

/// # Errors
/// The first thing that cannot be said, or is not here.
pub(super) fn refuse(planned: &Planned, to: &Path) -> Result<()> {
    let plan = &planned.plan;
    // They are separators in the options of overlayfs, and the script is text.
    if to.to_str().is_none_or(|path| path.contains([',', ':', '\\', '\n'])) {
        return refused(format!("--to {}: the path has a character that mount(8) does not take", to.display()));
    }
    for container in &planned.containers {
        if container.image.is_none() {
            return missing(&container.reference);
        }
    }
    for (volume, planned) in plan.volumes.iter().zip(&planned.volumes) {
        match &volume.source {
            VolumeSource::Image { reference, .. } if planned.layers.is_empty() => return missing(reference),
            VolumeSource::Claim { .. } => {
                return refused(format!(
                    "volume {}: what a persistentVolumeClaim holds is kept by podshim; write a hostPath",
                    volume.name
                ));
            }
            _ => {}
        }
    }
    of_sandbox(plan)?;
    plan.containers.iter().try_for_each(|container| of_container(container, &plan.sandbox.namespaces.network))
}

fn of_sandbox(plan: &PodPlan) -> Result<()> {
    let namespaces = &plan.sandbox.namespaces;
    if namespaces.user == NamespaceMode::Pod {
        return refused(
            "hostUsers: false: the user namespace must own the others, and podshim's supervisor makes them so",
        );
    }
    if namespaces.pid == NamespaceMode::Pod {
        return refused("shareProcessNamespace: the pod's pid 1 is a process of podshim's own");
    }
    if let Some(port) = plan.sandbox.ports.iter().find_map(|port| port.host_port) {
        return refused(format!("hostPort {port}: in a bundle there is no network that the host's port could lead to"));
    }
    // Otherwise the containers' own limits come to the same.
    let own = |config: &&ContainerConfig| matches!(config.kind, ContainerKind::App | ContainerKind::Sidecar);
    let together = |limit: fn(&ContainerConfig) -> Option<i64>| -> Option<i64> {
        plan.containers.iter().filter(own).map(limit).sum()
    };
    let pod = &plan.sandbox.resources;
    let less = |pod: Option<i64>, sum: Option<i64>| pod.is_some_and(|pod| pod > 0 && sum.is_none_or(|sum| pod < sum));
    if less(pod.memory_limit, together(|c| c.resources.memory_limit))
        || less(pod.cpu_quota, together(|c| c.resources.cpu_quota))
    {
        return refused("spec.resources: a bundle has limits of its one container only");
    }
    Ok(())
}

fn of_container(config: &ContainerConfig, network: &NetworkMode) -> Result<()> {
    let refused = |why: &str| refused(format!("container {}: {why}", config.name));
    if OWN.contains(&config.name.as_str()) {
        return refused("beside its bundle there is a directory of this name");
    }
    if config.security.privileged == Privilege::Privileged {
        return refused("securityContext.privileged: a bundle cannot say \"every device of the host\"");
    }
    for variable in &config.envs {
        match &variable.value {
            EnvValue::File(_) => {
                return refused(&format!(
                    "env {}: fileKeyRef is of a file that another container writes",
                    variable.name
                ));
            }
            EnvValue::PodIp | EnvValue::PodIps if !matches!(network, NetworkMode::Host | NetworkMode::None) => {
                return refused(&format!("env {}: in a bundle the pod has no address", variable.name));
            }
            _ => {}
        }
    }
    Ok(())
}

fn refused(why: impl AsRef<str>) -> Result<()> {
    Err(failure(Kind::Invalid, format!("this cannot be said in bundles: {}", why.as_ref())))
}

fn missing(image: &str) -> Result<()> {
    Err(failure(Kind::NotFound, format!("image {image} is not here: `podshim image pull {image}`")))
}
