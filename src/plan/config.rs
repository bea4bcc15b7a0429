//! The one waist: what both front doors (a Pod manifest, a CRI request) become. Field names are CRI's
//! (`runtime/v1/api.proto`: PodSandboxConfig, ContainerConfig), reduced to what podshim performs.

mod devices;
mod ids;
mod limits;
mod volumes;

pub use super::network::{Bandwidth, BridgeNetwork, CniNetwork, ContainerPort};
pub use super::security::*;
pub use crate::lifecycle::{
    ContainerKind, ContainerRestart, ExitCodeOperator, ProbeTiming, Resize, RestartAction, RestartPolicy, RestartRule,
};
pub use crate::manifest::Owner;
pub use crate::manifest::amounts::Amounts;
pub use devices::{DeviceKind, HostDevice};
pub use ids::IdRange;
pub use limits::{LinuxContainerResources, ResizePolicy, StorageLimit, StorageOf, SwapBehavior, Unnamed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
pub use volumes::{FilesMedium, FilesVolume, HostPathType, Programs, VolumeFile, VolumePlan, VolumeSource};

/// What an image's config says about how to run it (OCI image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `Entrypoint`
    pub entrypoint: Vec<String>,
    /// `Cmd`
    pub cmd: Vec<String>,
    /// `Env`, each `NAME=value`
    pub env: Vec<String>,
    /// `User`: `uid`, `name`, `uid:gid`, `name:group`; empty for root.
    pub user: String,
    /// `WorkingDir`; empty for `/`.
    pub working_dir: String,
    /// `StopSignal`: `SIGTERM`, `15`, …
    pub stop_signal: Option<String>,
    /// `Volumes`: paths.
    pub volumes: Vec<String>,
    /// `ExposedPorts`: `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// `Labels`
    pub labels: BTreeMap<String, String>,
}

/// An image ready to be run: its config and its unpacked layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The normalised reference.
    pub reference: String,
    /// `sha256:…` of the config.
    pub id: String,
    /// The manifest's digest.
    pub digest: String,
    /// How to run it.
    pub config: ImageConfig,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
}

/// CRI `NamespaceMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// One for the pod.
    Pod,
    /// One for each container.
    Container,
    /// The host's.
    Node,
}

/// Where the pod's network namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// A new one, with loopback only.
    None,
    /// A new one, on podshim's own network.
    Bridge,
    /// A new one, on the networks that CNI plugins make.
    Cni(CniNetwork),
    /// The host's.
    Host,
    /// An existing one, as `ip netns` pins it.
    Path(PathBuf),
}

/// CRI `NamespaceOption`, with the network's origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceOptions {
    /// The network.
    pub network: NetworkMode,
    /// `Pod` with shareProcessNamespace, `Node` with hostPID, else `Container`.
    pub pid: NamespaceMode,
    /// `Node` with hostIPC, else `Pod`.
    pub ipc: NamespaceMode,
    /// `Pod` with hostUsers: false, else `Node`.
    pub user: NamespaceMode,
}

/// How the inits of a pod that is explained go from step to step (`podshim run --explain`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// Without a stop.
    Through,
    /// Each waits before each step to be told to go on (`--step`).
    StepByStep,
}

/// CRI `PodSandboxConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxConfig {
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.uid`; of a sandbox that was asked for through CRI, its id.
    pub uid: String,
    /// `metadata.uid` of such a sandbox's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The kernel's host name in the pod's UTS namespace; empty with the host's network.
    pub hostname: String,
    /// The pod's names in its /etc/hosts, the longest first; none with the host's network.
    pub hosts_names: Vec<String>,
    /// The pod's log directory.
    pub log_directory: PathBuf,
    /// What `/etc/resolv.conf` is to say; `None` copies the host's.
    pub dns: Dns,
    /// Lines for `/etc/hosts`.
    pub host_aliases: Vec<HostAlias>,
    /// Namespaces.
    pub namespaces: NamespaceOptions,
    /// The network whose Services and names are the pod's; `None` if that is none of podshim's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<BridgeNetwork>,
    /// `spec.subdomain`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subdomain: Option<String>,
    /// The ports of all its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// How much traffic it may have.
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// The pod's cgroup below the hierarchy's root: `[<parent>/]podshim/pod<uid>`.
    pub cgroup: CgroupPath,
    /// The limits of that cgroup, which hold for all containers together.
    #[serde(default)]
    pub resources: LinuxContainerResources,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Kernel parameters of the pod's own namespaces, by their dotted names, in the manifest's order.
    pub sysctls: Vec<KeyValue>,
    /// Where the files of Localhost seccomp profiles are.
    pub seccomp_root: PathBuf,
    /// The ids of its own user namespace; `None` without one, and before the pod is reserved.
    pub id_range: Option<IdRange>,
}

/// Where the pod's cgroups go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPath {
    /// Below each hierarchy's mount, without slashes around it; empty for the root. Chosen once, by `cgroups::parent`.
    pub parent: String,
    /// `pod<uid>`
    pub pod: String,
}

/// A pod's resolver settings, as written in the manifest; the host's file is read when the sandbox is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Whether the host's resolv.conf is the base (dnsPolicy Default and ClusterFirst) or nothing is (None).
    pub base: DnsBase,
    /// Appended name servers.
    pub servers: Vec<String>,
    /// Appended search domains.
    pub searches: Vec<String>,
    /// Options `name` or `name:value`, overriding the base's of the same name.
    pub options: Vec<String>,
}

/// What a pod's resolv.conf starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsBase {
    /// This file of the host, a kubelet's `--resolv-conf`.
    #[default]
    HostFile,
    /// This file instead of the host's /etc/resolv.conf.
    File(PathBuf),
    /// The network's own name server, with the search list of the pod's namespace before the host's: ClusterFirst.
    Cluster {
        /// One per family.
        servers: Vec<IpAddr>,
        /// The host's file, if not /etc/resolv.conf.
        host_file: Option<PathBuf>,
    },
    /// Nothing.
    Empty,
}

/// `spec.hostAliases[]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The address.
    pub ip: String,
    /// Its names.
    pub hostnames: Vec<String>,
}

/// When a registry is asked (pod-api.md §10).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At each start of a container.
    Always,
    /// Always because nothing was written and the tag is `latest`: an image that was imported by hand is used as it is.
    AlwaysByDefault,
    /// Only when the image is not there.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

/// CRI `KeyValue`: one environment variable as a process gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// Its name.
    pub key: String,
    /// Its value, already expanded.
    pub value: String,
}

/// One environment variable as it is planned; [`super::env::resolve`] makes a [`KeyValue`] of it when the container starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: EnvValue,
}

/// What a variable is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvValue {
    /// This text, with `$(NAME)` for the value of a variable before it.
    Template(String),
    /// This text as it is: from a ConfigMap, a Secret, a field of the pod.
    Text(String),
    /// `status.podIP`
    PodIp,
    /// `status.podIPs`, with commas between.
    PodIps,
    /// `status.hostIP`
    HostIp,
    /// `status.hostIPs`, with commas between.
    HostIps,
    /// `fileKeyRef`
    File(FileKey),
}

/// A variable of a file that another container wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileKey {
    /// The volume, an emptyDir.
    pub volume: String,
    /// Relative, without `..`.
    pub path: String,
    /// The variable's name in the file.
    pub key: String,
    /// Whether file and key must be there.
    pub presence: Presence,
}

/// `optional`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// Without it the container cannot start.
    Required,
    /// Without it there is no such variable.
    Optional,
}

/// CRI `MountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// rprivate
    None,
    /// rslave
    HostToContainer,
    /// rshared
    Bidirectional,
}

/// Whether the container may write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// rw
    #[default]
    ReadWrite,
    /// ro
    ReadOnly,
}

/// `volumeMounts[]`: a volume of the pod at a path of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume.
    pub volume: String,
    /// A path in the volume, relative, without `..`; empty for the whole volume.
    pub sub_path: String,
    /// `subPathExpr`, in the place of `sub_path`: `$(NAME)` stands for a variable, which must have a value when the container
    /// starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path_expr: Option<String>,
    /// The absolute path in the container.
    pub container_path: String,
    /// ro or rw.
    pub access: Access,
    /// `recursiveReadOnly`: whether what is mounted below is read-only too.
    pub submounts: Submounts,
    /// Propagation of mounts made below.
    pub propagation: MountPropagation,
    /// `bindMountOptions`
    pub options: Vec<BindOption>,
}

/// What a read-only volume means for the mounts in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Submounts {
    /// They stay as they are.
    #[default]
    Unchanged,
    /// They become read-only too (`mount_setattr` with `AT_RECURSIVE`).
    ReadOnly,
}

/// `bindMountOptions[]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindOption {
    /// Nothing can be executed.
    NoExec,
    /// Device nodes cannot be opened.
    NoDev,
    /// Set-user-ID bits and file capabilities are not honoured.
    NoSuid,
}

impl BindOption {
    /// As mount(8) and the OCI runtime-spec write it.
    pub fn word(self) -> &'static str {
        match self {
            BindOption::NoExec => "noexec",
            BindOption::NoDev => "nodev",
            BindOption::NoSuid => "nosuid",
        }
    }
}

/// What a container's standard descriptors are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// stdin is /dev/null; stdout and stderr are FIFOs.
    #[default]
    Null,
    /// stdin is a FIFO that `attach` writes to.
    Stdin,
    /// The same; it ends with the first `attach` that has it (the API's `stdinOnce`).
    StdinOnce,
    /// All three are one terminal.
    Terminal,
}

/// `terminationMessagePolicy`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TerminationMessagePolicy {
    /// The file's last 4096 bytes.
    #[default]
    File,
    /// The log's last lines if the file is empty and the container failed.
    FallbackToLogsOnError,
}

/// What a probe or a hook does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handler {
    /// Executes a command in the container, without a shell.
    Exec {
        /// argv; a probe's is expanded already, a hook's is as written (pod-api.md §6, §7).
        command: Vec<String>,
    },
    /// Sends a GET request.
    HttpGet(HttpGet),
    /// Opens a connection and closes it.
    TcpSocket {
        /// The pod's own address if `None`.
        host: Option<String>,
        /// The port, resolved if the manifest names it.
        port: u16,
    },
    /// Asks `grpc.health.v1.Health/Check`, which must answer SERVING.
    Grpc {
        /// The port.
        port: u16,
        /// The service asked about; empty for the server as a whole.
        service: String,
        /// `mode: TLS`: encrypted, the certificate not verified.
        tls: bool,
    },
    /// Waits (hooks only).
    Sleep {
        /// How long.
        seconds: u64,
    },
}

/// `httpGet` of a probe or a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGet {
    /// `scheme: HTTPS`; the certificate is not verified.
    pub tls: bool,
    /// `protocol: HTTP2`: HTTP/2 without TLS from the first byte.
    pub http2: bool,
    /// The pod's own address if `None`.
    pub host: Option<String>,
    /// The port, resolved if the manifest names it.
    pub port: u16,
    /// The manifest's path, which may have a query: `probes` makes a request's target of it.
    pub path: String,
    /// Header fields, in the manifest's order.
    pub headers: Vec<(String, String)>,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What it does.
    pub handler: Handler,
    /// When, and how often.
    pub timing: ProbeTiming,
}

/// A container's probes and hooks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lifecycle {
    /// `startupProbe`
    pub startup: Option<Probe>,
    /// `livenessProbe`
    pub liveness: Option<Probe>,
    /// `readinessProbe`
    pub readiness: Option<Probe>,
    /// `lifecycle.postStart`
    pub post_start: Option<Handler>,
    /// `lifecycle.preStop`
    pub pre_stop: Option<Handler>,
    /// `lifecycle.stopSignal`, in the place of the image's.
    pub stop_signal: Option<String>,
}

/// Where a container's output is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Log {
    /// In podshim's own layout: a file per instance, rotated by its supervisor.
    #[default]
    OfInstance,
    /// In this file, which somebody else rotates (CRI's `log_path`).
    File(PathBuf),
    /// Nowhere.
    Nowhere,
}

/// CRI `ContainerConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// The container's name in the pod.
    pub name: String,
    /// Init or app.
    pub kind: ContainerKind,
    /// The image as the manifest writes it.
    pub image: String,
    /// When to pull it.
    pub pull_policy: PullPolicy,
    /// `command`; `None` for the image's ENTRYPOINT. `$(NAME)` stands for a variable, `$$` for one `$`.
    pub command: Option<Vec<String>>,
    /// `args`, likewise; `None` for the image's CMD (if `command` is `None` too).
    pub args: Option<Vec<String>>,
    /// `workingDir`; `None` for the image's.
    pub working_dir: Option<String>,
    /// Environment, in order; of a name that comes twice the last one counts.
    pub envs: Vec<EnvVar>,
    /// Volume mounts, in order.
    pub mounts: Vec<VolumeMount>,
    /// Limits.
    pub resources: LinuxContainerResources,
    /// What a change of them takes.
    #[serde(default)]
    pub resize: ResizePolicy,
    /// Confinement.
    pub security: SecurityContext,
    /// Standard descriptors.
    pub stdio: Stdio,
    /// Where its output goes.
    #[serde(default, skip_serializing_if = "Log::is_of_instance")]
    pub log: Log,
    /// Where the container writes its termination message; empty if that is none of podshim's business (CRI).
    pub termination_message_path: String,
    /// What else may serve as one.
    pub termination_message_policy: TerminationMessagePolicy,
    /// Its own `restartPolicy` and rules.
    pub restart: ContainerRestart,
    /// Probes and hooks.
    pub lifecycle: Lifecycle,
    /// Of an ephemeral container: the container whose pid namespace it joins (CRI's `NamespaceMode` TARGET).
    pub target: Option<String>,
    /// Devices of the host that it may use besides those of every container (CRI).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<HostDevice>,
}

impl Log {
    fn is_of_instance(&self) -> bool {
        *self == Log::OfInstance
    }
}

impl PodPlan {
    /// Drops what is in its files: they are made, and their text, which may be long and secret, is of no more use.
    pub fn forget_contents(&mut self) {
        for volume in &mut self.volumes {
            if let VolumeSource::Files(files) = &mut volume.source {
                files.files = Vec::new();
            }
        }
    }

    /// Whether it has files whose text would be dropped so.
    pub fn has_contents(&self) -> bool {
        self.volumes.iter().any(|volume| matches!(volume.source, VolumeSource::Files(_)))
    }
}

/// Everything that was decided about a pod without asking the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlan {
    /// The sandbox.
    pub sandbox: PodSandboxConfig,
    /// Its volumes.
    pub volumes: Vec<VolumePlan>,
    /// `securityContext.fsGroup`
    pub fs_group: Option<FsGroup>,
    /// Its containers: init containers first, each kind in the manifest's order.
    pub containers: Vec<ContainerConfig>,
    /// When containers start again.
    pub restart_policy: RestartPolicy,
    /// `terminationGracePeriodSeconds`
    pub grace_seconds: u64,
    /// `activeDeadlineSeconds`
    pub active_deadline_seconds: Option<u64>,
    /// `readinessGates[].conditionType`
    pub readiness_gates: Vec<String>,
    /// BestEffort, Burstable or Guaranteed (pod-api.md §20).
    pub qos_class: String,
    /// The document that made the pod, if that was no Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// `imagePullSecrets`: logins to registries, in the order in which they are tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logins: Vec<Login>,
    /// The immutable ConfigMaps and Secrets that the pod uses, each as `ConfigMap/name`, and what they hold as a digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub immutable: BTreeMap<String, String>,
    /// What the pod as a whole requests of the host.
    #[serde(default)]
    pub requests: Amounts,
    /// Whether its containers may be swapped out. Chosen once.
    #[serde(default)]
    pub swap: SwapBehavior,
    /// Limits of disk space, in the order in which they are looked at.
    #[serde(default)]
    pub storage_limits: Vec<StorageLimit>,
}

/// One login of a `.dockerconfigjson`. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The registry as the Secret names it: `registry.example`, `https://registry.example/v1/`, `*.example/team`.
    pub server: String,
    /// `username`
    pub username: String,
    /// `password`
    pub password: String,
    /// `identitytoken`, an OAuth 2 refresh token, in the place of both.
    pub identity_token: Option<String>,
    /// A token that is sent as it is, in the place of all of them (a kubelet's `registry_token`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_token: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("server", &self.server).finish_non_exhaustive()
    }
}
