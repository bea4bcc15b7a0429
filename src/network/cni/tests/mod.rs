//! The protocol with plugins that note how they are called, and the plugins that Debian has.

mod protocol;
mod real;

use super::*;
use crate::plan::config::{CgroupPath, Dns, NamespaceMode, NamespaceOptions, NetworkMode};

/// A pod `default/web` without anything special.
pub(super) fn sandbox_config(uid: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        name: "web".into(),
        namespace: "default".into(),
        uid: uid.into(),
        pod_uid: None,
        hostname: "web".into(),
        hosts_names: vec!["web".into()],
        log_directory: "/nonexistent".into(),
        dns: Dns::default(),
        host_aliases: Vec::new(),
        namespaces: NamespaceOptions {
            network: NetworkMode::None,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
            user: NamespaceMode::Node,
        },
        network: None,
        subdomain: None,
        ports: Vec::new(),
        bandwidth: Default::default(),
        cgroup: CgroupPath { parent: String::new(), pod: format!("pod{uid}") },
        resources: Default::default(),
        labels: Default::default(),
        annotations: Default::default(),
        sysctls: Vec::new(),
        seccomp_root: "/nonexistent".into(),
        id_range: None,
    }
}
