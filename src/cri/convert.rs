//! TEMPORARY
use super::api;
use crate::control::ContainerRecord;
use crate::error::{Kind, failure};
use crate::lifecycle::{ContainerKind, ContainerRestart, RestartPolicy};
use crate::plan::config::*;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) struct SandboxContext {
    pub(super) id: String,
    pub(super) network: NetworkMode,
    pub(super) bridge: Option<BridgeNetwork>,
    pub(super) seccomp_root: PathBuf,
    pub(super) cgroup_parent: String,
}
pub(super) struct ContainerContext {
    pub(super) id: String,
}
pub(super) struct Converted {
    pub(super) config: ContainerConfig,
    pub(super) volumes: Vec<VolumePlan>,
    pub(super) images: BTreeMap<String, String>,
    pub(super) host_directories: Vec<PathBuf>,
}

pub(super) fn sandbox(c: &api::PodSandboxConfig, ctx: &SandboxContext) -> Result<PodPlan> {
    let m = c.metadata.clone().ok_or_else(|| failure(Kind::Invalid, "config.metadata is missing"))?;
    if m.name.is_empty() {
        return Err(failure(Kind::Invalid, "config.metadata.name is empty"));
    }
    let linux = c.linux.clone().unwrap_or_default();
    let sec = linux.security_context.clone().unwrap_or_default();
    let ns = sec.namespace_options.clone().unwrap_or_default();
    let mode = |n: i32| match n {
        0 => NamespaceMode::Pod,
        2 => NamespaceMode::Node,
        _ => NamespaceMode::Container,
    };
    let host_net = ns.network == api::NamespaceMode::Node as i32;
    let parent = linux.cgroup_parent.trim_matches('/').to_owned();
    let dns = c.dns_config.clone();
    Ok(PodPlan {
        sandbox: PodSandboxConfig {
            name: m.name.clone(),
            namespace: m.namespace.clone(),
            uid: ctx.id.clone(),
            hostname: if host_net {
                String::new()
            } else if c.hostname.is_empty() {
                m.name.chars().take(63).collect()
            } else {
                c.hostname.clone()
            },
            hosts_names: if host_net || c.hostname.is_empty() { vec![] } else { vec![c.hostname.clone()] },
            log_directory: c.log_directory.clone().into(),
            dns: match dns {
                None => Dns::default(),
                Some(d) => Dns {
                    base: if d.servers.is_empty() && d.searches.is_empty() && d.options.is_empty() {
                        DnsBase::HostFile
                    } else {
                        DnsBase::Empty
                    },
                    servers: d.servers,
                    searches: d.searches,
                    options: d.options,
                },
            },
            host_aliases: vec![],
            namespaces: NamespaceOptions {
                network: if host_net { NetworkMode::Host } else { ctx.network.clone() },
                pid: mode(ns.pid),
                ipc: mode(ns.ipc),
                user: NamespaceMode::Node,
            },
            network: if host_net { None } else { ctx.bridge.clone() },
            subdomain: None,
            ports: c
                .port_mappings
                .iter()
                .map(|p| ContainerPort {
                    name: None,
                    container_port: p.container_port as u16,
                    protocol: crate::plan::network::Protocol::Tcp,
                    host_port: (p.host_port > 0).then_some(p.host_port as u16),
                    host_ip: None,
                })
                .collect(),
            bandwidth: Bandwidth::default(),
            cgroup: CgroupPath {
                parent: if parent.is_empty() { ctx.cgroup_parent.clone() } else { parent },
                pod: ctx.id.clone(),
            },
            resources: LinuxContainerResources::default(),
            labels: c.labels.clone().into_iter().collect(),
            annotations: c.annotations.clone().into_iter().collect(),
            sysctls: linux.sysctls.iter().map(|(k, v)| KeyValue { key: k.clone(), value: v.clone() }).collect(),
            seccomp_root: ctx.seccomp_root.clone(),
            id_range: None,
        },
        volumes: vec![],
        fs_group: None,
        containers: vec![],
        restart_policy: RestartPolicy::Never,
        grace_seconds: 0,
        active_deadline_seconds: None,
        readiness_gates: vec![],
        qos_class: "BestEffort".into(),
        owner: None,
        logins: vec![],
        immutable: BTreeMap::new(),
        requests: Amounts::default(),
        swap: SwapBehavior::default(),
        storage_limits: vec![],
    })
}

pub(super) fn container(
    c: &api::ContainerConfig,
    s: &api::PodSandboxConfig,
    ctx: &ContainerContext,
) -> Result<Converted> {
    let linux = c.linux.clone().unwrap_or_default();
    let sec = linux.security_context.clone().unwrap_or_default();
    let caps = sec.capabilities.clone().unwrap_or_default();
    let bare = |l: Vec<String>| {
        l.into_iter().map(|n| n.strip_prefix("CAP_").map(str::to_owned).unwrap_or(n)).collect::<Vec<_>>()
    };
    let escape = |l: &Vec<String>| (!l.is_empty()).then(|| l.iter().map(|a| a.replace('$', "$$")).collect::<Vec<_>>());
    let mut volumes = vec![];
    let mut mounts = vec![];
    let mut dirs = vec![];
    for (n, m) in c.mounts.iter().enumerate() {
        let name = format!("{}/{n}", ctx.id);
        if !Path::new(&m.host_path).exists() {
            dirs.push(m.host_path.clone().into());
        }
        volumes.push(VolumePlan {
            name: name.clone(),
            source: VolumeSource::HostPath { path: m.host_path.clone().into(), kind: HostPathType::Unset },
        });
        mounts.push(VolumeMount {
            volume: name,
            sub_path: String::new(),
            sub_path_expr: None,
            container_path: m.container_path.clone(),
            access: if m.readonly { Access::ReadOnly } else { Access::ReadWrite },
            submounts: if m.recursive_read_only { Submounts::ReadOnly } else { Submounts::Unchanged },
            propagation: match m.propagation {
                1 => MountPropagation::HostToContainer,
                2 => MountPropagation::Bidirectional,
                _ => MountPropagation::None,
            },
            options: vec![],
        });
    }
    let priv_ = sec.privileged;
    Ok(Converted {
        volumes,
        images: BTreeMap::new(),
        host_directories: dirs,
        config: ContainerConfig {
            name: ctx.id.clone(),
            kind: ContainerKind::App,
            image: c.image.clone().unwrap_or_default().image,
            pull_policy: PullPolicy::Never,
            command: escape(&c.command),
            args: escape(&c.args),
            working_dir: (!c.working_dir.is_empty()).then(|| c.working_dir.clone()),
            envs: c
                .envs
                .iter()
                .map(|e| EnvVar {
                    name: e.key.clone(),
                    value: EnvValue::Text(String::from_utf8_lossy(&e.value).into_owned()),
                })
                .collect(),
            mounts,
            resources: LinuxContainerResources::default(),
            resize: ResizePolicy::default(),
            security: SecurityContext {
                privileged: if priv_ { Privilege::Privileged } else { Privilege::Default },
                add_capabilities: bare(caps.add_capabilities),
                drop_capabilities: bare(caps.drop_capabilities),
                run_as_user: sec.run_as_user.map(|v| v.value as u32),
                run_as_group: sec.run_as_group.map(|v| v.value as u32),
                supplemental_groups: sec.supplemental_groups.iter().map(|g| *g as u32).collect(),
                rootfs: if sec.readonly_rootfs { Access::ReadOnly } else { Access::ReadWrite },
                escalation: if sec.no_new_privs { Escalation::Forbidden } else { Escalation::Allowed },
                seccomp: SeccompProfile::Unconfined,
                ..SecurityContext::default()
            },
            stdio: match (c.tty, c.stdin, c.stdin_once) {
                (true, _, _) => Stdio::Terminal,
                (_, true, true) => Stdio::StdinOnce,
                (_, true, false) => Stdio::Stdin,
                _ => Stdio::Null,
            },
            log: if c.log_path.is_empty() || s.log_directory.is_empty() {
                Log::Nowhere
            } else {
                Log::File(Path::new(&s.log_directory).join(&c.log_path))
            },
            termination_message_path: String::new(),
            termination_message_policy: TerminationMessagePolicy::File,
            restart: ContainerRestart::default(),
            lifecycle: Lifecycle::default(),
            target: None,
        },
    })
}
pub(super) fn resources_told(_: &LinuxContainerResources) -> api::ContainerResources {
    api::ContainerResources::default()
}
pub(super) fn updated(
    old: &LinuxContainerResources,
    _: &api::LinuxContainerResources,
) -> Result<LinuxContainerResources> {
    Ok(old.clone())
}
pub(super) fn stop_signal_told(_: &ContainerRecord) -> api::Signal {
    api::Signal::RuntimeDefault
}
pub(super) fn make_host_directory(p: &Path) -> Result<()> {
    Ok(std::fs::create_dir_all(p)?)
}
