//! Admitted Pod → [`PodPlan`]: the first front door. Pure.

use super::config::*;
use super::downward::Subject;
use super::{
    env, lifecycle, mounts, names, network, registry, resources, security, service_links, storage, variables, volume,
};
use crate::error::{Kind, failure};
use crate::manifest::{self, APPARMOR_ANNOTATION, AdmittedPod, amounts, references, sysctl};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the caller decides beside the manifest.
#[derive(Debug, Clone)]
pub struct Choices {
    /// The pod's uid.
    pub uid: String,
    /// Where its network namespace comes from, unless the manifest says hostNetwork.
    pub network: NetworkMode,
    /// podshim's own network, if the pod is on it or, with the host's network, takes part in its Services and names.
    pub bridge: Option<BridgeNetwork>,
    /// Where its cgroups go.
    pub cgroup_parent: String,
    /// `--resolv-conf`
    pub resolv_conf: Option<PathBuf>,
    /// The pod's log directory.
    pub log_directory: PathBuf,
    /// The host's memory in bytes, for oom_score_adj.
    pub host_memory: u64,
    /// What the host is, for the downward API.
    pub node: Node,
    /// Processes and threads that each container may have; `None` for no limit.
    pub pids_limit: Option<i64>,
    /// Whether containers may be swapped out.
    pub swap: SwapBehavior,
    /// `--pull`, which overrides every container's policy.
    pub pull: Option<PullPolicy>,
    /// What is decided about confinement.
    pub security: SecurityChoices,
    /// The Services that there are, with their cluster IPs.
    pub services: Vec<k8s::Service>,
}

/// The host as a node of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// `spec.nodeName`: the host's name.
    pub name: String,
    /// Its processors.
    pub cpus: u32,
    /// The size of the file system that podshim's data are on, in bytes.
    pub storage: u64,
}

/// Plans a pod.
pub fn pod_plan(admitted: &AdmittedPod, choices: Choices) -> Result<PodPlan> {
    let pod = admitted.pod();
    let spec = pod.spec.as_ref().context("an admitted pod has a spec")?;
    let qos = resources::qos_class(spec)?;
    let of_pod = resources::OfPod { spec, qos, host_memory: choices.host_memory, swap: choices.swap };
    let subject = Subject { pod, spec, choices: &choices };
    let volumes = spec.volumes.iter().flatten().map(|v| volume::volume(v, admitted, subject));
    let mut volumes: Vec<VolumePlan> = volumes.collect::<Result<_>>()?;
    volume::bound_memory(&mut volumes, of_pod)?;
    let init = spec.init_containers.iter().flatten().map(|c| (lifecycle::init_kind(c), c));
    let app = spec.containers.iter().map(|c| (ContainerKind::App, c));
    let containers = init
        .chain(app)
        .map(|(kind, container)| {
            let planned = Container { admitted, spec, container, of_pod, choices: &choices, subject };
            planned.config(kind).with_context(|| format!("container {}", container.name))
        })
        .collect::<Result<_>>()?;
    Ok(PodPlan {
        volumes,
        containers,
        owner: admitted.owner().cloned(),
        logins: registry::logins(admitted),
        immutable: immutable(admitted, spec),
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
    let network = if spec.host_network == Some(true) { NetworkMode::Host } else { choices.network.clone() };
    let node_or = |host: Option<bool>, otherwise| if host == Some(true) { NamespaceMode::Node } else { otherwise };
    let pid = if spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    let user = if spec.host_users == Some(false) { NamespaceMode::Pod } else { NamespaceMode::Node };
    if user == NamespaceMode::Pod && matches!(network, NetworkMode::Host | NetworkMode::Path(_)) {
        // It belongs to another user namespace: the pod's root could not even mount a sysfs that shows it.
        let message = "spec.hostUsers: false needs a network namespace of the pod's own, not one given by --network";
        return Err(failure(Kind::Invalid, message));
    }
    let ports = network::ports(spec)?;
    network::check_host_ports(&ports, &network)?;
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
        dns: dns(spec, Resolver { host_file: choices.resolv_conf, network: &network, bridge: choices.bridge.as_ref() }),
        network: choices.bridge,
        subdomain: spec.subdomain.clone().filter(|text| !text.is_empty()),
        ports,
        bandwidth: network::bandwidth(pod.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new()), &network)?,
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
        pod_uid: None,
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

/// What there is to resolve names with.
struct Resolver<'a> {
    host_file: Option<PathBuf>,
    network: &'a NetworkMode,
    bridge: Option<&'a BridgeNetwork>,
}

fn dns(spec: &k8s::PodSpec, resolver: Resolver<'_>) -> Dns {
    let config = spec.dns_config.as_ref();
    let option = |o: &k8s::PodDNSConfigOption| match (&o.name, &o.value) {
        (Some(name), Some(value)) if !value.is_empty() => format!("{name}:{value}"),
        (name, _) => name.clone().unwrap_or_default(),
    };
    let policy = match spec.dns_policy.as_deref() {
        // With the host's network ClusterFirst is Default (pod-api.md §14).
        Some("ClusterFirst") | None if *resolver.network == NetworkMode::Host => "Default",
        Some("ClusterFirst" | "ClusterFirstWithHostNet") | None => "ClusterFirst",
        Some(other) => other,
    };
    Dns {
        base: match (policy, resolver.bridge, resolver.host_file) {
            ("None", ..) => DnsBase::Empty,
            ("ClusterFirst", Some(bridge), host_file) => {
                DnsBase::Cluster { servers: bridge.name_servers().collect(), host_file }
            }
            // Without a name service ClusterFirst and ClusterFirstWithHostNet are Default.
            (_, _, Some(file)) => DnsBase::File(file),
            _ => DnsBase::HostFile,
        },
        servers: config.and_then(|c| c.nameservers.clone()).unwrap_or_default(),
        searches: config.and_then(|c| c.searches.clone()).unwrap_or_default(),
        options: config.and_then(|c| c.options.as_ref()).into_iter().flatten().map(option).collect(),
    }
}

/// The immutable objects that a pod uses, and a digest of what they hold: another content would need another name.
fn immutable(admitted: &AdmittedPod, spec: &k8s::PodSpec) -> BTreeMap<String, String> {
    let (objects, namespace) = (admitted.objects(), admitted.namespace());
    let mut list = BTreeMap::new();
    for name in references::config_maps(spec) {
        if let Some(map) = objects.config_map(namespace, name).filter(|map| map.immutable) {
            let text = map.text.iter().map(|(key, value)| (key, value.as_bytes()));
            let all = text.chain(map.binary.iter().map(|(key, value)| (key, value.as_slice())));
            list.insert(format!("ConfigMap/{name}"), digest(all));
        }
    }
    for name in references::secrets(spec) {
        if let Some(secret) = objects.secret(namespace, name).filter(|secret| secret.immutable) {
            let all = secret.values.iter().map(|(key, value)| (key, value.as_slice()));
            list.insert(format!("Secret/{name}"), digest(all));
        }
    }
    list
}

/// SHA-256 over keys and values, each with its length before it.
fn digest<'a>(content: impl Iterator<Item = (&'a String, &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    for (key, value) in content {
        for part in [key.as_bytes(), value] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
    subject: Subject<'a>,
}

impl Container<'_> {
    fn config(&self, kind: ContainerKind) -> Result<ContainerConfig> {
        let container = self.container;
        // Before the container's own, which may refer to them, and go before them.
        let mut envs = service_variables(self.spec, &self.choices.services, self.admitted.namespace());
        envs.extend(variables::variables(container, self.subject, self.admitted.objects())?);
        // An empty list is the same as none: Go's nil and [] are one (pod-api.md §13).
        let words = |list: &Option<Vec<String>>| list.clone().filter(|l| !l.is_empty());
        let (command, args) = (words(&container.command), words(&container.args));
        let mounts = mounts::of(container)?;
        try_expansion(&envs, &[("command", &command), ("args", &args)], &mounts)?;
        Ok(ContainerConfig {
            name: container.name.clone(),
            kind,
            image: container.image.clone().unwrap_or_default(),
            pull_policy: self.pull_policy(),
            command,
            args,
            working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
            mounts,
            resources: self.resources()?,
            resize: resize_policy(container),
            security: security::merged(
                self.spec,
                container.security_context.clone().unwrap_or_default(),
                self.apparmor_annotation(),
            ),
            log: Log::OfInstance,
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
            devices: Vec::new(),
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

/// What containers know of Services, if the pod has `enableServiceLinks`.
fn service_variables(spec: &k8s::PodSpec, services: &[k8s::Service], namespace: &str) -> Vec<EnvVar> {
    let is_enabled = spec.enable_service_links != Some(false);
    if is_enabled { service_links::variables(services, namespace) } else { Vec::new() }
}

/// Expands a container's words with what is known by now, for the errors: nothing is made of a pod that cannot start.
fn try_expansion(
    envs: &[EnvVar],
    words: &[(&'static str, &Option<Vec<String>>)],
    mounts: &[VolumeMount],
) -> Result<()> {
    let known = env::resolve(envs, env::UNKNOWN)?;
    for (field, words) in words {
        env::expand_all(words.as_deref().unwrap_or(&[]), &known).context(*field)?;
    }
    mounts::expanded(mounts, &known)?;
    Ok(())
}

/// Plans the ephemeral container that is to join a pod which runs: `admitted` is the pod as it was recorded, with that
/// container; `plan` what became of it (with the ephemeral containers that it has already); `choices` are those of then.
///
/// # Errors
/// Of kind `Invalid`: its name is none, or taken; the target is no init or app container; a variable or an argument is too
/// long.
pub fn ephemeral(
    admitted: &AdmittedPod,
    plan: &PodPlan,
    (target, choices): (Option<String>, &Choices),
) -> Result<ContainerConfig> {
    let container = admitted.ephemeral().context("no container is to join the pod")?;
    check_ephemeral(plan, container, target.as_deref())?;
    let pod = admitted.pod();
    let spec = pod.spec.as_ref().context("an admitted pod has a spec")?;
    let qos = resources::qos_class(spec)?;
    let of_pod = resources::OfPod { spec, qos, host_memory: choices.host_memory, swap: choices.swap };
    let subject = Subject { pod, spec, choices };
    let config = Container { admitted, spec, container, of_pod, choices, subject }.config(ContainerKind::Ephemeral)?;
    Ok(ContainerConfig { target, ..config })
}

/// What the command line says of it.
fn check_ephemeral(plan: &PodPlan, container: &k8s::Container, target: Option<&str>) -> Result<()> {
    let name = &container.name;
    if let Err(rule) = manifest::dns_label(name) {
        return Err(failure(Kind::Invalid, format!("the name of an ephemeral container {rule}: {name:?}")));
    }
    if plan.containers.iter().any(|c| c.name == *name) {
        return Err(failure(Kind::Invalid, format!("the pod has a container named {name} already")));
    }
    for k8s::EnvVar { name, value, .. } in container.env.iter().flatten() {
        let is_name = !name.is_empty() && !name.contains(['=', '\0']);
        if !is_name || value.as_ref().is_some_and(|value| value.contains('\0')) {
            let message = format!("{name:?} is not the name of a variable, or its value holds a NUL");
            return Err(failure(Kind::Invalid, message));
        }
    }
    let Some(target) = target else { return Ok(()) };
    let possible: Vec<&str> =
        plan.containers.iter().filter(|c| c.kind != ContainerKind::Ephemeral).map(|c| c.name.as_str()).collect();
    if possible.contains(&target) {
        return Ok(());
    }
    let message = format!("the target {target:?} is no container of the pod; it has {}", possible.join(", "));
    Err(failure(Kind::Invalid, message))
}

#[cfg(test)]
#[path = "pod_tests.rs"]
pub(crate) mod tests;
