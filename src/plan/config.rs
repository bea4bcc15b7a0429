//! The one waist: what both front doors (a Pod manifest, a CRI request) become. Field names are CRI's
//! (`runtime/v1/api.proto`: PodSandboxConfig, ContainerConfig), reduced to what podshim performs.

pub use crate::lifecycle::{
    ContainerKind, ContainerRestart, ExitCodeOperator, ProbeTiming, RestartAction, RestartPolicy, RestartRule,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

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
}

/// CRI `PodSandboxConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxConfig {
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.uid`
    pub uid: String,
    /// The kernel's host name in the pod's UTS namespace; empty with the host's network.
    pub hostname: String,
    /// The pod's log directory.
    pub log_directory: PathBuf,
    /// What `/etc/resolv.conf` is to say; `None` copies the host's.
    pub dns: Dns,
    /// Lines for `/etc/hosts`.
    pub host_aliases: Vec<HostAlias>,
    /// Namespaces.
    pub namespaces: NamespaceOptions,
    /// The pod's cgroup below the hierarchy's root: `[<parent>/]podshim/pod<uid>`.
    pub cgroup: CgroupPath,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At each start of a container.
    Always,
    /// Always because nothing was written and the tag is `latest`: an image that was imported by hand is used as it is.
    AlwaysByDefault,
    /// Only when the image is not there.
    IfNotPresent,
    /// Never.
    Never,
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// Its name.
    pub key: String,
    /// Its value, already expanded.
    pub value: String,
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
    /// The absolute path in the container.
    pub container_path: String,
    /// ro or rw.
    pub access: Access,
    /// Propagation of mounts made below.
    pub propagation: MountPropagation,
}

/// CRI `LinuxContainerResources`; `None` leaves the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxContainerResources {
    /// CPU shares, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// CPU time per period, in microseconds.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// Processes and threads.
    pub pids_limit: Option<i64>,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
}

/// `securityContext.seccompProfile.type`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// `plan::seccomp::default_profile`
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
}

/// CRI `LinuxContainerSecurityContext`, merged from pod and container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// All capabilities, all devices, nothing masked, no seccomp filter.
    pub privileged: Privilege,
    /// Capability names without `CAP_`, or `ALL`.
    pub add_capabilities: Vec<String>,
    /// Capability names without `CAP_`, or `ALL`.
    pub drop_capabilities: Vec<String>,
    /// `runAsUser`
    pub run_as_user: Option<u32>,
    /// `runAsGroup`
    pub run_as_group: Option<u32>,
    /// `runAsNonRoot`: refuse to start as uid 0.
    pub root: RootUser,
    /// `supplementalGroups`
    pub supplemental_groups: Vec<u32>,
    /// Whether the root file system is writable.
    pub rootfs: Access,
    /// `allowPrivilegeEscalation: false` sets no_new_privs.
    pub escalation: Escalation,
    /// The seccomp profile.
    pub seccomp: SeccompProfile,
}

/// `securityContext.privileged`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privilege {
    /// Confined.
    #[default]
    Default,
    /// Not confined.
    Privileged,
}

/// `securityContext.runAsNonRoot`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootUser {
    /// uid 0 may run.
    #[default]
    Allowed,
    /// uid 0 is refused.
    Forbidden,
}

/// `securityContext.allowPrivilegeEscalation`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Escalation {
    /// set-user-ID programs work.
    #[default]
    Allowed,
    /// no_new_privs is set.
    Forbidden,
}

/// What a container's standard descriptors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// stdin is /dev/null; stdout and stderr are FIFOs.
    Null,
    /// stdin is a FIFO that `attach` writes to.
    Stdin,
    /// The same; it ends with the first `attach` that has it (the API's `stdinOnce`).
    StdinOnce,
    /// All three are one terminal.
    Terminal,
}

/// `terminationMessagePolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TerminationMessagePolicy {
    /// The file's last 4096 bytes.
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

/// CRI `ContainerConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// The container's name in the pod.
    pub name: String,
    /// Init or app.
    pub kind: ContainerKind,
    /// The image as the manifest writes it.
    pub image: String,
    /// When to pull it.
    pub pull_policy: PullPolicy,
    /// `command`, expanded; `None` for the image's ENTRYPOINT.
    pub command: Option<Vec<String>>,
    /// `args`, expanded; `None` for the image's CMD (if `command` is `None` too).
    pub args: Option<Vec<String>>,
    /// `workingDir`; `None` for the image's.
    pub working_dir: Option<String>,
    /// Environment, in order.
    pub envs: Vec<KeyValue>,
    /// Volume mounts, in order.
    pub mounts: Vec<VolumeMount>,
    /// Limits.
    pub resources: LinuxContainerResources,
    /// Confinement.
    pub security: SecurityContext,
    /// Standard descriptors.
    pub stdio: Stdio,
    /// Where the container writes its termination message.
    pub termination_message_path: String,
    /// What else may serve as one.
    pub termination_message_policy: TerminationMessagePolicy,
    /// Its own `restartPolicy` and rules.
    pub restart: ContainerRestart,
    /// Probes and hooks.
    pub lifecycle: Lifecycle,
    /// Of an ephemeral container: the container whose pid namespace it joins (CRI's `NamespaceMode` TARGET).
    pub target: Option<String>,
}

/// `hostPath.type`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathType {
    /// `""`: anything that exists.
    Unset,
    /// Made if missing, mode 0755.
    DirectoryOrCreate,
    /// Must exist.
    Directory,
    /// Made if missing, mode 0644; its parent must exist.
    FileOrCreate,
    /// Must exist.
    File,
    /// Must exist.
    Socket,
    /// Must exist.
    CharDevice,
    /// Must exist.
    BlockDevice,
}

/// Where a volume's content is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// A path of the host.
    HostPath {
        /// Absolute.
        path: PathBuf,
        /// What must be there.
        kind: HostPathType,
    },
    /// A directory on disk that lives with the pod.
    EmptyDir,
    /// A tmpfs that lives with the pod.
    Memory {
        /// Bytes; `None` for the kernel's default, half of the memory.
        size: Option<u64>,
    },
}

/// `spec.volumes[]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePlan {
    /// The volume's name.
    pub name: String,
    /// Its source.
    pub source: VolumeSource,
}

/// Everything that was decided about a pod without asking the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlan {
    /// The sandbox.
    pub sandbox: PodSandboxConfig,
    /// Its volumes.
    pub volumes: Vec<VolumePlan>,
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
}
