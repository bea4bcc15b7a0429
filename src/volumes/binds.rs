//! What is mounted into a container beside its file systems. Pure.

use super::{Place, access, options};
use crate::plan::config::{Access, ContainerConfig, NamespaceMode, PodPlan};
use crate::plan::spec::Bind;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// podshim's own files and the volumes, in mounting order; a volume at the path of one of the files takes its place. The
/// config's mounts are [expanded](crate::plan::mounts::expanded) already.
pub fn binds(plan: &PodPlan, config: &ContainerConfig, place: Place<'_>, restart_count: u32) -> Result<Vec<Bind>> {
    let pod = place.pod;
    let shm = match plan.sandbox.namespaces.ipc {
        NamespaceMode::Node => PathBuf::from("/dev/shm"),
        NamespaceMode::Pod | NamespaceMode::Container => pod.shm(),
    };
    let mut binds: Vec<Bind> =
        ["hosts", "resolv.conf", "hostname"].map(|file| Bind::file(pod.etc(file), &format!("/etc/{file}"))).into();
    binds.push(Bind::file(shm, "/dev/shm"));
    if !config.termination_message_path.is_empty() {
        let message = pod.termination_message(&config.name, restart_count);
        binds.push(Bind::file(message, &config.termination_message_path));
    }
    binds.retain(|bind| config.mounts.iter().all(|m| m.container_path != bind.destination));
    for mount in &config.mounts {
        let found = plan.volumes.iter().find(|volume| volume.name == mount.volume);
        let volume = found.with_context(|| format!("the pod has no volume {}", mount.volume))?;
        let root = place.of(volume);
        binds.push(Bind {
            source: if mount.sub_path.is_empty() { root } else { root.join(&mount.sub_path) },
            destination: mount.container_path.clone(),
            access: match access(volume) {
                Access::ReadOnly => Access::ReadOnly,
                Access::ReadWrite => mount.access,
            },
            submounts: mount.submounts,
            propagation: mount.propagation,
            options: options(mount, volume, config.security.privileged),
        });
    }
    Ok(binds)
}
