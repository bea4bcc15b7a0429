//! Admitted Pod → [`PodPlan`]: the first front door. Pure.

use super::config::*;
use super::{env, lifecycle, mounts, names, resources, security, storage};
use crate::error::{Kind, failure};
use crate::manifest::{self, APPARMOR_ANNOTATION, AdmittedPod, amounts, sysctl};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;
use std::path::PathBuf;

/// What the caller decides beside the manifest.
#[derive(Debug, Clone)]
pub struct Choices {
    /// The pod's uid.
    pub uid: String,
    /// Where its network namespace comes from, unless the manifest says hostNetwork.
    pub network: NetworkMode,
    /// Where its cgroups go.
    pub cgroup_parent: String,
    /// `--resolv-conf`
    pub resolv_conf: Option<PathBuf>,
    /// The pod's log directory.
    pub log_directory: PathBuf,
    /// The host's memory in bytes, for oom_score_adj.
    pub host_memory: u64,
    /// Processes and threads that each container may have; `None` for no limit.
    pub pids_limit: Option<i64>,
    /// Whether containers may be swapped out.
    pub swap: SwapBehavior,
    /// `--pull`, which overrides every container's policy.
    pub pull: Option<PullPolicy>,
    /// What is decided about confinement.
    pub security: SecurityChoices,
}

/// Plans a pod.
pub fn pod_plan(admitted: &AdmittedPod, choices: Choices) -> Result<PodPlan> {
    let pod = admitted.pod();
    let spec = pod.spec.as_ref().context("an admitted pod has a spec")?;
    let qos = resources::qos_class(spec)?;
    let of_pod = resources::OfPod { spec, qos, host_memory: choices.host_memory, swap: choices.swap };
    let mut volumes: Vec<VolumePlan> = spec.volumes.iter().flatten().map(|v| volume(v, spec)).collect::<Result<_>>()?;
    bound_memory(&mut volumes, of_pod)?;
    let init = spec.init_containers.iter().flatten().map(|c| (lifecycle::init_kind(c), c));
    let app = spec.containers.iter().map(|c| (ContainerKind::App, c));
    let containers = init
        .chain(app)
        .map(|(kind, container)| {
            let planned = Container { admitted, spec, container, of_pod, choices: &choices };
            planned.config(kind).with_context(|| format!("container {}", container.name))
        })
        .collect::<Result<_>>()?;
    Ok(PodPlan {
        volumes,
        containers,
        restart_policy: match spec.restart_policy.as_deref() {
            Some("OnFailure") => RestartPolicy::OnFailure,
            Some("Never") => RestartPolicy::Never,
            _ => RestartPolicy::Always,
        },
        // A negative value is 1 (pod-api.md, spec.terminationGracePeriodSeconds).
        grace_seconds: u64::try_from(spec.termination_grace_period_seconds.unwrap_or(30)).unwrap_or(1),
        active_deadline_seconds: spec.active_deadline_seconds.and_then(|seconds| u64::try_from(seconds).ok()),
        readiness_gates: spec.readiness_gates.iter().flatten().map(|gate| gate.condition_type.clone()).collect(),
        qos_class: qos.name().to_owned(),
        requests: amounts::pod_requests(spec)?,
        swap: choices.swap,
        storage_limits: storage::limits(spec)?,
        fs_group: security::fs_group(spec),
        sandbox: PodSandboxConfig { resources: resources::pod(of_pod)?, ..sandbox_config(pod, spec, choices)? },
    })
}

fn sandbox_config(pod: &k8s::Pod, spec: &k8s::PodSpec, choices: Choices) -> Result<PodSandboxConfig> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let network = if spec.host_network == Some(true) { NetworkMode::Host } else { choices.network };
    let node_or = |host: Option<bool>, otherwise| if host == Some(true) { NamespaceMode::Node } else { otherwise };
    let pid = if spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    let user = if spec.host_users == Some(false) { NamespaceMode::Pod } else { NamespaceMode::Node };
    if user == NamespaceMode::Pod && network != NetworkMode::None {
        // It belongs to another user namespace: the pod's root could not even mount a sysfs that shows it.
        let message = "spec.hostUsers: false needs a network namespace of the pod's own, not one given by --network";
        return Err(failure(Kind::Invalid, message));
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| "default".into());
    // The host's network comes with the host's UTS namespace, whose name is not the pod's to set.
    let own = if network == NetworkMode::Host { None } else { Some(names::names(spec, (&namespace, &name))?) };
    let (hostname, hosts_names) = own.map(|own| (own.kernel, own.hosts)).unwrap_or_default();
    Ok(PodSandboxConfig {
        sysctls: sysctls(spec, &network, &choices.security.unsafe_sysctls)?,
        seccomp_root: choices.security.seccomp_root,
        namespace,
        hostname,
        hosts_names,
        name,
        log_directory: choices.log_directory,
        dns: dns(spec, choices.resolv_conf),
        host_aliases: spec
            .host_aliases
            .iter()
            .flatten()
            .map(|a| HostAlias { ip: a.ip.clone(), hostnames: a.hostnames.clone().unwrap_or_default() })
            .collect(),
        namespaces: NamespaceOptions {
            network,
            pid: node_or(spec.host_pid, pid),
            ipc: node_or(spec.host_ipc, NamespaceMode::Pod),
            user,
        },
        id_range: None,
        cgroup: CgroupPath { parent: choices.cgroup_parent, pod: format!("pod{}", choices.uid) },
        resources: LinuxContainerResources::default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        uid: choices.uid,
    })
}

fn sysctls(spec: &k8s::PodSpec, network: &NetworkMode, unsafe_ones: &[String]) -> Result<Vec<KeyValue>> {
    let written = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let one = |(index, written): (usize, &k8s::Sysctl)| {
        let key = sysctl::dotted(&written.name);
        let place = || format!("spec.securityContext.sysctls[{index}]");
        sysctl::check(&key, unsafe_ones).with_context(place)?;
        // hostNetwork is refused by validation; the command line can ask for the host's network too.
        if *network == NetworkMode::Host && sysctl::namespace(&key) == Some(sysctl::SysctlNamespace::Network) {
            let message = format!("sysctl {key} would change the host: the pod uses the host's network");
            return Err(failure(Kind::Invalid, message).context(place()));
        }
        Ok(KeyValue { key, value: written.value.clone() })
    };
    written.enumerate().map(one).collect()
}

fn dns(spec: &k8s::PodSpec, resolv_conf: Option<PathBuf>) -> Dns {
    let config = spec.dns_config.as_ref();
    let option = |o: &k8s::PodDNSConfigOption| match (&o.name, &o.value) {
        (Some(name), Some(value)) if !value.is_empty() => format!("{name}:{value}"),
        (name, _) => name.clone().unwrap_or_default(),
    };
    Dns {
        // Without a cluster's name service ClusterFirst and ClusterFirstWithHostNet are Default (pod-api.md §14).
        base: match (spec.dns_policy.as_deref(), resolv_conf) {
            (Some("None"), _) => DnsBase::Empty,
            (_, Some(file)) => DnsBase::File(file),
            _ => DnsBase::HostFile,
        },
        servers: config.and_then(|c| c.nameservers.clone()).unwrap_or_default(),
        searches: config.and_then(|c| c.searches.clone()).unwrap_or_default(),
        options: config.and_then(|c| c.options.as_ref()).into_iter().flatten().map(option).collect(),
    }
}

fn volume(volume: &k8s::Volume, spec: &k8s::PodSpec) -> Result<VolumePlan> {
    let source = if let Some(host) = &volume.host_path {
        let kind = match host.type_.as_deref().unwrap_or("") {
            "" => HostPathType::Unset,
            "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
            "Directory" => HostPathType::Directory,
            "FileOrCreate" => HostPathType::FileOrCreate,
            "File" => HostPathType::File,
            "Socket" => HostPathType::Socket,
            "CharDevice" => HostPathType::CharDevice,
            "BlockDevice" => HostPathType::BlockDevice,
            other => anyhow::bail!("volume {}: hostPath.type {other:?}", volume.name),
        };
        VolumeSource::HostPath { path: PathBuf::from(&host.path), kind }
    } else {
        let empty = volume.empty_dir.clone().unwrap_or_default();
        let mode = empty.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o777);
        let size = empty.size_limit.as_ref().map(resources::bytes).transpose()?.filter(|b| *b > 0).map(|b| b as u64);
        match empty.medium.as_deref() {
            Some("Memory") => VolumeSource::Memory { size, mode },
            Some(medium) if medium.starts_with("HugePages") => {
                VolumeSource::HugePages { page_size: page_size(medium, spec)?, size, mode }
            }
            _ => VolumeSource::EmptyDir { mode },
        }
    };
    Ok(VolumePlan { name: volume.name.clone(), source })
}

/// The size that `HugePages-<size>` names; of `HugePages` the only one that the pod requests.
fn page_size(medium: &str, spec: &k8s::PodSpec) -> Result<u64> {
    let named = medium.strip_prefix("HugePages-").map(|size| format!("{}{size}", amounts::HUGEPAGES));
    let page_size = match named {
        Some(resource) => amounts::page_size(&resource),
        None => amounts::pod_requests(spec)?.hugepages.keys().next().copied(),
    };
    page_size.with_context(|| format!("no size of pages is known for the medium {medium}"))
}

/// A volume in memory is no larger than what the pod may have, or the host has (pod-api.md §18).
fn bound_memory(volumes: &mut [VolumePlan], pod: resources::OfPod<'_>) -> Result<()> {
    let limit = amounts::pod_limits(pod.spec)?.memory.and_then(|bytes| u64::try_from(bytes).ok()).filter(|b| *b > 0);
    let most = limit.unwrap_or(u64::MAX).min(pod.host_memory);
    for volume in volumes {
        if let VolumeSource::Memory { size, .. } = &mut volume.source {
            *size = Some(size.unwrap_or(u64::MAX).min(most));
        }
    }
    Ok(())
}

fn resize_policy(container: &k8s::Container) -> ResizePolicy {
    let of = |resource: &str| {
        let policies = container.resize_policy.as_deref().unwrap_or(&[]);
        match policies.iter().find(|p| p.resource_name == resource).map(|p| p.restart_policy.as_str()) {
            Some("RestartContainer") => Resize::RestartContainer,
            _ => Resize::NotRequired,
        }
    };
    ResizePolicy { cpu: of("cpu"), memory: of("memory") }
}

/// One container on its way to its config.
struct Container<'a> {
    admitted: &'a AdmittedPod,
    spec: &'a k8s::PodSpec,
    container: &'a k8s::Container,
    of_pod: resources::OfPod<'a>,
    choices: &'a Choices,
}

impl Container<'_> {
    fn config(&self, kind: ContainerKind) -> Result<ContainerConfig> {
        let container = self.container;
        let written: Vec<_> =
            container.env.iter().flatten().map(|v| (v.name.clone(), v.value.clone().unwrap_or_default())).collect();
        let envs = env::environment(&written)?;
        // An empty list is the same as none: Go's nil and [] are one (pod-api.md §13).
        let expanded = |list: &Option<Vec<String>>| -> Result<Option<Vec<String>>> {
            let list = list.as_ref().filter(|l| !l.is_empty());
            list.map(|l| l.iter().map(|text| env::expand(text, &envs)).collect()).transpose()
        };
        Ok(ContainerConfig {
            name: container.name.clone(),
            kind,
            image: container.image.clone().unwrap_or_default(),
            pull_policy: self.pull_policy(),
            command: expanded(&container.command).context("command")?,
            args: expanded(&container.args).context("args")?,
            working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
            mounts: mounts::of(container, &envs)?,
            resources: self.resources()?,
            resize: resize_policy(container),
            security: security::merged(
                self.spec,
                container.security_context.clone().unwrap_or_default(),
                self.apparmor_annotation(),
            ),
            stdio: match (container.tty, container.stdin, container.stdin_once) {
                // A terminal does not end with the first who has it, as in every CRI runtime.
                (Some(true), ..) => Stdio::Terminal,
                (_, Some(true), Some(true)) => Stdio::StdinOnce,
                (_, Some(true), _) => Stdio::Stdin,
                _ => Stdio::Null,
            },
            termination_message_path: container
                .termination_message_path
                .clone()
                .unwrap_or_else(|| "/dev/termination-log".into()),
            termination_message_policy: match container.termination_message_policy.as_deref() {
                Some("FallbackToLogsOnError") => TerminationMessagePolicy::FallbackToLogsOnError,
                _ => TerminationMessagePolicy::File,
            },
            restart: lifecycle::restart(container),
            lifecycle: lifecycle::lifecycle(container)?,
            target: None,
            envs,
        })
    }

    fn resources(&self) -> Result<LinuxContainerResources> {
        let planned = resources::container(self.container, self.of_pod)?;
        Ok(LinuxContainerResources { pids_limit: self.choices.pids_limit, ..planned })
    }

    fn apparmor_annotation(&self) -> Option<&str> {
        let annotations = self.admitted.pod().metadata.annotations.as_ref()?;
        annotations.get(&format!("{APPARMOR_ANNOTATION}{}", self.container.name)).map(String::as_str)
    }

    fn pull_policy(&self) -> PullPolicy {
        if let Some(policy) = self.choices.pull {
            return policy;
        }
        match self.container.image_pull_policy.as_deref() {
            Some("Never") => PullPolicy::Never,
            Some("Always") if self.admitted.pull_policy_written(&self.container.name) => PullPolicy::Always,
            Some("Always") => PullPolicy::AlwaysByDefault,
            _ => PullPolicy::IfNotPresent,
        }
    }
}

/// An ephemeral container as `podshim debug` asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ephemeral {
    /// `name`
    pub name: String,
    /// `image`
    pub image: String,
    /// When to pull it.
    pub pull: PullPolicy,
    /// `command`; `None` for the image's ENTRYPOINT.
    pub command: Option<Vec<String>>,
    /// `args`; `None` for the image's CMD.
    pub args: Option<Vec<String>>,
    /// `workingDir`; `None` for the image's.
    pub working_dir: Option<String>,
    /// `env`: names and literal values.
    pub env: Vec<(String, String)>,
    /// `stdin` and `tty`
    pub stdio: Stdio,
    /// `targetContainerName`
    pub target: Option<String>,
    /// `securityContext`, over the pod's.
    pub security: k8s::SecurityContext,
}

/// Plans an ephemeral container for a pod that runs: `manifest` is the pod as it was admitted, `plan` what became of it
/// (with the ephemeral containers that it has already).
///
/// It is confined as the pod's own containers are, and has neither volumes nor resources (pod-api.md, ephemeralContainers).
///
/// # Errors
/// Of kind `Invalid`: the name is none, or taken; the target is no init or app container; a variable or an argument is too
/// long.
pub fn ephemeral(manifest: &k8s::Pod, plan: &PodPlan, wanted: Ephemeral) -> Result<ContainerConfig> {
    let spec = manifest.spec.as_ref().context("an admitted pod has a spec")?;
    check_ephemeral(plan, &wanted)?;
    let envs = env::environment(&wanted.env)?;
    let expanded = |list: Option<Vec<String>>| -> Result<Option<Vec<String>>> {
        let list = list.filter(|l| !l.is_empty());
        list.map(|l| l.iter().map(|text| env::expand(text, &envs)).collect()).transpose()
    };
    // It requests nothing, so it is what the kernel kills first, however large the host.
    let qos = resources::qos_class(spec)?;
    let of_pod = resources::OfPod { spec, qos, host_memory: u64::MAX, swap: SwapBehavior::NoSwap };
    let mut resources = resources::container(&k8s::Container::default(), of_pod)?;
    resources.pids_limit = plan.containers.first().and_then(|c| c.resources.pids_limit);
    Ok(ContainerConfig {
        name: wanted.name,
        kind: ContainerKind::Ephemeral,
        image: wanted.image,
        pull_policy: wanted.pull,
        command: expanded(wanted.command).context("command")?,
        args: expanded(wanted.args).context("args")?,
        working_dir: wanted.working_dir.filter(|dir| !dir.is_empty()),
        mounts: Vec::new(),
        resources,
        resize: ResizePolicy::default(),
        security: security::merged(spec, wanted.security, None),
        stdio: wanted.stdio,
        termination_message_path: "/dev/termination-log".into(),
        termination_message_policy: TerminationMessagePolicy::File,
        restart: ContainerRestart::default(),
        lifecycle: Lifecycle::default(),
        target: wanted.target,
        envs,
    })
}

fn check_ephemeral(plan: &PodPlan, wanted: &Ephemeral) -> Result<()> {
    let name = &wanted.name;
    if let Err(rule) = manifest::dns_label(name) {
        return Err(failure(Kind::Invalid, format!("the name of an ephemeral container {rule}: {name:?}")));
    }
    if plan.containers.iter().any(|c| c.name == *name) {
        return Err(failure(Kind::Invalid, format!("the pod has a container named {name} already")));
    }
    for (key, value) in &wanted.env {
        let is_name = !key.is_empty() && !key.contains(['=', '\0']);
        if !is_name || value.contains('\0') {
            return Err(failure(
                Kind::Invalid,
                format!("{key:?} is not the name of a variable, or its value holds a NUL"),
            ));
        }
    }
    let Some(target) = &wanted.target else { return Ok(()) };
    let possible: Vec<&str> =
        plan.containers.iter().filter(|c| c.kind != ContainerKind::Ephemeral).map(|c| c.name.as_str()).collect();
    if possible.contains(&target.as_str()) {
        return Ok(());
    }
    let message = format!("the target {target:?} is no container of the pod; it has {}", possible.join(", "));
    Err(failure(Kind::Invalid, message))
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
