//! Pods and containers as NRI's messages. Pure.

use crate::cri::api;
use crate::cri::api::nri;
use oci_spec::runtime as oci;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is told of a sandbox.
#[derive(Debug, Clone, Default)]
pub struct Pod<'a> {
    /// The sandbox's id.
    pub id: &'a str,
    /// The pod's name.
    pub name: &'a str,
    /// The pod's uid.
    pub uid: &'a str,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// Labels of the sandbox's config.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the sandbox's config.
    pub annotations: BTreeMap<String, String>,
    /// The runtime handler, empty for podshim's own executor.
    pub runtime_handler: &'a str,
    /// `cgroup_parent` of the sandbox's config.
    pub cgroup_parent: &'a str,
    /// The sandbox's own cgroup.
    pub cgroups_path: &'a str,
    /// The pod's namespaces and where they are pinned.
    pub namespaces: Vec<(oci::LinuxNamespaceType, PathBuf)>,
    /// `linux.resources` of the sandbox's config.
    pub resources: Option<&'a api::LinuxContainerResources>,
    /// `linux.overhead` of the sandbox's config.
    pub overhead: Option<&'a api::LinuxContainerResources>,
    /// A process that is in its namespaces, 0 if there is none.
    pub pid: u32,
    /// Its addresses.
    pub ips: Vec<String>,
}

impl Pod<'_> {
    /// The message.
    pub fn message(&self) -> nri::PodSandbox {
        let namespace = |(kind, path): &(oci::LinuxNamespaceType, PathBuf)| nri::LinuxNamespace {
            r#type: namespace_name(*kind).to_owned(),
            path: path.display().to_string(),
        };
        nri::PodSandbox {
            id: self.id.to_owned(),
            name: self.name.to_owned(),
            uid: self.uid.to_owned(),
            namespace: self.namespace.to_owned(),
            labels: self.labels.clone().into_iter().collect(),
            annotations: self.annotations.clone().into_iter().collect(),
            runtime_handler: self.runtime_handler.to_owned(),
            linux: Some(nri::LinuxPodSandbox {
                pod_overhead: self.overhead.map(asked_resources),
                pod_resources: self.resources.map(asked_resources),
                cgroup_parent: self.cgroup_parent.to_owned(),
                cgroups_path: self.cgroups_path.to_owned(),
                namespaces: self.namespaces.iter().map(namespace).collect(),
                resources: None,
            }),
            pid: self.pid,
            ips: self.ips.clone(),
        }
    }
}

/// Where a container is in its life, with what is known only from there on. Times are in nanoseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stage {
    /// It is about to be created.
    #[default]
    Planned,
    /// It is created.
    Created {
        /// The pid of its init.
        pid: u32,
    },
    /// It runs.
    Running {
        /// The pid of its init.
        pid: u32,
        /// When it was started.
        started_at: i64,
    },
    /// It has ended.
    Stopped {
        /// When it was started, 0 if never.
        started_at: i64,
        /// When it ended.
        finished_at: i64,
        /// Its exit code.
        exit_code: i32,
        /// Why, in a word.
        reason: String,
        /// Why.
        message: String,
    },
}

/// What is told of a container.
#[derive(Debug, Clone, Default)]
pub struct Known<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its sandbox's id.
    pub pod_sandbox_id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Where it is in its life.
    pub stage: Stage,
    /// When it was created, in nanoseconds since 1970; 0 if it is not.
    pub created_at: i64,
    /// Labels of its config.
    pub labels: BTreeMap<String, String>,
    /// Annotations of its config.
    pub annotations: BTreeMap<String, String>,
    /// The image as it is named in its config, its manifest's digest, its config's digest.
    pub image: [&'a str; 3],
}

/// The message of a container whose spec is known: from its bundle, or as it is planned.
pub fn container(known: &Known<'_>, spec: &oci::Spec) -> nri::Container {
    let mut message = bare(known);
    if let Some(process) = spec.process() {
        message.args = process.args().clone().unwrap_or_default();
        message.env = process.env().clone().unwrap_or_default();
        let rlimit = |limit: &oci::PosixRlimit| nri::PosixRlimit {
            r#type: limit.typ().to_string(),
            hard: limit.hard(),
            soft: limit.soft(),
        };
        message.rlimits = process.rlimits().iter().flatten().map(rlimit).collect();
        let user = process.user();
        let additional_gids = user.additional_gids().clone().unwrap_or_default();
        message.user = Some(nri::User { uid: user.uid(), gid: user.gid(), additional_gids });
    }
    let mount = |mount: &oci::Mount| nri::Mount {
        destination: mount.destination().display().to_string(),
        r#type: mount.typ().clone().unwrap_or_default(),
        source: mount.source().as_ref().map(|source| source.display().to_string()).unwrap_or_default(),
        options: mount.options().clone().unwrap_or_default(),
    };
    message.mounts = spec.mounts().iter().flatten().map(mount).collect();
    if let Some(linux) = spec.linux() {
        let namespace = |namespace: &oci::LinuxNamespace| nri::LinuxNamespace {
            r#type: namespace_name(namespace.typ()).to_owned(),
            path: namespace.path().as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        };
        let score = spec.process().as_ref().and_then(oci::Process::oom_score_adj);
        message.linux = Some(nri::LinuxContainer {
            namespaces: linux.namespaces().iter().flatten().map(namespace).collect(),
            resources: linux.resources().as_ref().map(resources),
            oom_score_adj: score.map(|score| nri::OptionalInt { value: i64::from(score) }),
            cgroups_path: linux.cgroups_path().as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            sysctl: linux.sysctl().clone().unwrap_or_default(),
            ..nri::LinuxContainer::default()
        });
    }
    message
}

/// The message of a container that is about to be created, of which only the config is known.
pub fn planned(known: &Known<'_>, config: &api::ContainerConfig) -> nri::Container {
    let mut message = bare(known);
    message.args = config.command.iter().chain(&config.args).cloned().collect();
    // A message has text only; what a plugin does not set stays as it is, byte for byte.
    let variable = |v: &api::KeyValue| format!("{}={}", v.key, String::from_utf8_lossy(&v.value));
    message.env = config.envs.iter().map(variable).collect();
    let mount = |mount: &api::Mount| nri::Mount {
        destination: mount.container_path.clone(),
        r#type: "bind".to_owned(),
        source: mount.host_path.clone(),
        options: vec!["rbind".to_owned(), if mount.readonly { "ro" } else { "rw" }.to_owned()],
    };
    message.mounts = config.mounts.iter().map(mount).collect();
    let asked = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    message.linux = Some(nri::LinuxContainer {
        resources: asked.map(asked_resources),
        oom_score_adj: asked.map(|asked| nri::OptionalInt { value: asked.oom_score_adj }),
        ..nri::LinuxContainer::default()
    });
    message
}

fn bare(known: &Known<'_>) -> nri::Container {
    let [name, digest, config_digest] = known.image.map(str::to_owned);
    let mut message = nri::Container {
        id: known.id.to_owned(),
        pod_sandbox_id: known.pod_sandbox_id.to_owned(),
        name: known.name.to_owned(),
        labels: known.labels.clone().into_iter().collect(),
        annotations: known.annotations.clone().into_iter().collect(),
        created_at: known.created_at,
        image: Some(nri::Image { name, digest, config_digest }),
        ..nri::Container::default()
    };
    match &known.stage {
        Stage::Planned => message.set_state(nri::ContainerState::ContainerUnknown),
        Stage::Created { pid } => {
            message.set_state(nri::ContainerState::ContainerCreated);
            message.pid = *pid;
        }
        Stage::Running { pid, started_at } => {
            message.set_state(nri::ContainerState::ContainerRunning);
            (message.pid, message.started_at) = (*pid, *started_at);
        }
        Stage::Stopped { started_at, finished_at, exit_code, reason, message: why } => {
            message.set_state(nri::ContainerState::ContainerStopped);
            (message.started_at, message.finished_at) = (*started_at, *finished_at);
            message.exit_code = *exit_code;
            (message.status_reason, message.status_message) = (reason.clone(), why.clone());
        }
    }
    message
}

/// As the OCI specification spells it in JSON.
fn namespace_name(kind: oci::LinuxNamespaceType) -> &'static str {
    match kind {
        oci::LinuxNamespaceType::Mount => "mount",
        oci::LinuxNamespaceType::Cgroup => "cgroup",
        oci::LinuxNamespaceType::Uts => "uts",
        oci::LinuxNamespaceType::Ipc => "ipc",
        oci::LinuxNamespaceType::User => "user",
        oci::LinuxNamespaceType::Pid => "pid",
        oci::LinuxNamespaceType::Network => "network",
        oci::LinuxNamespaceType::Time => "time",
    }
}

fn signed(value: i64) -> nri::OptionalInt64 {
    nri::OptionalInt64 { value }
}

fn unsigned(value: u64) -> nri::OptionalUInt64 {
    nri::OptionalUInt64 { value }
}

fn truth(value: bool) -> nri::OptionalBool {
    nri::OptionalBool { value }
}

/// Resources of a spec.
pub fn resources(given: &oci::LinuxResources) -> nri::LinuxResources {
    let memory = |memory: &oci::LinuxMemory| nri::LinuxMemory {
        limit: memory.limit().map(signed),
        reservation: memory.reservation().map(signed),
        swap: memory.swap().map(signed),
        kernel: memory.kernel().map(signed),
        kernel_tcp: memory.kernel_tcp().map(signed),
        swappiness: memory.swappiness().map(unsigned),
        disable_oom_killer: memory.disable_oom_killer().map(truth),
        use_hierarchy: memory.use_hierarchy().map(truth),
    };
    let cpu = |cpu: &oci::LinuxCpu| nri::LinuxCpu {
        shares: cpu.shares().map(unsigned),
        quota: cpu.quota().map(signed),
        period: cpu.period().map(unsigned),
        realtime_runtime: cpu.realtime_runtime().map(signed),
        realtime_period: cpu.realtime_period().map(unsigned),
        cpus: cpu.cpus().clone().unwrap_or_default(),
        mems: cpu.mems().clone().unwrap_or_default(),
    };
    let pages = |limit: &oci::LinuxHugepageLimit| nri::HugepageLimit {
        page_size: limit.page_size().clone(),
        limit: u64::try_from(limit.limit()).unwrap_or(u64::MAX),
    };
    let rule = |rule: &oci::LinuxDeviceCgroup| nri::LinuxDeviceCgroup {
        allow: rule.allow(),
        r#type: rule.typ().map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        major: rule.major().map(signed),
        minor: rule.minor().map(signed),
        access: rule.access().clone().unwrap_or_default(),
    };
    nri::LinuxResources {
        memory: given.memory().as_ref().map(memory),
        cpu: given.cpu().as_ref().map(cpu),
        hugepage_limits: given.hugepage_limits().iter().flatten().map(pages).collect(),
        unified: given.unified().clone().unwrap_or_default(),
        devices: given.devices().iter().flatten().map(rule).collect(),
        pids: given.pids().as_ref().map(|pids| nri::LinuxPids { limit: pids.limit() }),
        ..nri::LinuxResources::default()
    }
}

/// Resources as a kubelet asks for them; 0 is "not set" there.
pub fn asked_resources(asked: &api::LinuxContainerResources) -> nri::LinuxResources {
    let set = |value: i64| Some(value).filter(|value| *value != 0);
    let natural = |value: i64| set(value).and_then(|value| u64::try_from(value).ok()).map(unsigned);
    nri::LinuxResources {
        memory: Some(nri::LinuxMemory {
            limit: set(asked.memory_limit_in_bytes).map(signed),
            swap: set(asked.memory_swap_limit_in_bytes).map(signed),
            ..nri::LinuxMemory::default()
        }),
        cpu: Some(nri::LinuxCpu {
            shares: natural(asked.cpu_shares),
            quota: set(asked.cpu_quota).map(signed),
            period: natural(asked.cpu_period),
            cpus: asked.cpuset_cpus.clone(),
            mems: asked.cpuset_mems.clone(),
            ..nri::LinuxCpu::default()
        }),
        hugepage_limits: asked
            .hugepage_limits
            .iter()
            .map(|limit| nri::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: asked.unified.clone(),
        ..nri::LinuxResources::default()
    }
}

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;
