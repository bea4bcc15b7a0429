//! What is known of pods, as plain data, and what follows from it: which namespace is whose.

use crate::lifecycle::status::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Survey {
    /// When.
    pub taken: Time,
    /// podshim's own surroundings.
    pub host: Host,
    /// The pods, oldest first or as they were asked for.
    pub pods: Vec<Pod>,
}

/// The host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// `v1`, `v2` or `hybrid`.
    pub cgroups: String,
    /// Of which namespaces podshim is.
    pub namespaces: Namespaces,
}

/// namespaces(7) by their kinds: inode numbers, by which the kernel tells them apart.
pub type Namespaces = BTreeMap<Kind, u64>;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// user_namespaces(7)
    User,
    /// network_namespaces(7)
    Net,
    /// uts_namespaces(7)
    Uts,
    /// ipc_namespaces(7)
    Ipc,
    /// pid_namespaces(7)
    Pid,
    /// mount_namespaces(7)
    Mnt,
    /// cgroup_namespaces(7)
    Cgroup,
    /// time_namespaces(7), Linux 5.6
    Time,
}

impl Kind {
    /// All of them, those that contain the others first.
    pub const ALL: [Kind; 8] =
        [Kind::User, Kind::Net, Kind::Uts, Kind::Ipc, Kind::Pid, Kind::Mnt, Kind::Cgroup, Kind::Time];

    /// Its file in `/proc/PID/ns`.
    pub fn file(self) -> &'static str {
        match self {
            Kind::User => "user",
            Kind::Net => "net",
            Kind::Uts => "uts",
            Kind::Ipc => "ipc",
            Kind::Pid => "pid",
            Kind::Mnt => "mnt",
            Kind::Cgroup => "cgroup",
            Kind::Time => "time",
        }
    }

    /// What people call it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Net => "network",
            Kind::Mnt => "mount",
            other => other.file(),
        }
    }
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `status.phase`; empty before the first report.
    pub phase: String,
    /// Whether its supervisor lives.
    pub supervisor: Supervisor,
    /// Guaranteed, Burstable or BestEffort.
    pub qos: String,
    /// The host name of its own; empty with the host's.
    pub hostname: String,
    /// The namespaces that are pinned for it.
    pub pins: Namespaces,
    /// With a user namespace of its own: the host's id of its root, and how many ids it has.
    pub ids: Option<(u32, u32)>,
    /// Its processes that are of no container: pid 1 of a shared process namespace.
    pub processes: Processes,
    /// In the order of the plan: init containers first.
    pub containers: Vec<Container>,
    /// Its network.
    pub network: Network,
    /// `spec.volumes[]`
    pub volumes: Vec<Volume>,
    /// Its cgroup, which holds those of the containers.
    pub cgroup: Cgroup,
    /// How it started.
    pub timeline: Vec<Span>,
    /// What was told of it, oldest first; the latest few.
    pub events: Vec<Event>,
    /// What could not be found out, and why.
    pub missing: Vec<String>,
}

/// A pod's supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Supervisor {
    /// It lives.
    Alive,
    /// The pod is over, and so is it.
    Over,
    /// It is gone although the pod is not over.
    Gone,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// `init`, `sidecar`, `app` or `ephemeral`.
    pub kind: String,
    /// What it is doing.
    pub state: State,
    /// `ready` of its status.
    pub ready: bool,
    /// How often it was started again.
    pub restart_count: u32,
    /// The image as the manifest names it.
    pub image: String,
    /// The layers of its image, lowest first.
    pub layers: Vec<Layer>,
    /// Where what it writes goes.
    pub writable: String,
    /// Its processes, oldest first.
    pub processes: Processes,
    /// Of which namespaces its first process is; none without one.
    pub namespaces: Namespaces,
    /// What is mounted for it; nothing without a process.
    pub mounts: Mounts,
    /// Its cgroup.
    pub cgroup: Cgroup,
}

/// `state` of a container's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum State {
    /// No process yet, or no process again.
    Waiting {
        /// What for, in one word.
        reason: String,
    },
    /// A process.
    Running,
    /// No process any more.
    Terminated {
        /// 128 + n if signal n ended it.
        exit_code: i32,
        /// In one word.
        reason: String,
    },
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// The name of its directory: the chain id.
    pub id: String,
    /// The directory on the host.
    pub path: String,
}

/// Processes, bounded in number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Processes {
    /// Those that are shown.
    pub shown: Vec<Process>,
    /// How many more there are.
    pub more: usize,
}

/// One process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its id on the host.
    pub pid: i32,
    /// Its id in its own pid namespace.
    pub inside: i32,
    /// The host's id of its parent; 0 if that is not to be seen.
    pub parent: i32,
    /// Its command line, bounded; of a process without one its name in brackets.
    pub command: String,
    /// Its user, as the host counts.
    pub uid: u32,
    /// Memory that it has in RAM, in bytes (`VmRSS`).
    pub resident: Option<u64>,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: i64,
    /// Of which namespaces it is.
    pub namespaces: Namespaces,
}

/// What a container's first process sees mounted (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mounts {
    /// Volumes of the pod.
    pub volumes: Vec<VolumeMount>,
    /// What is mounted at `/`.
    pub root: Option<Root>,
    /// Files that podshim makes for the pod: /etc/hosts and the like, and the shared /dev/shm.
    pub files: Vec<Mount>,
    /// File systems that the kernel makes up: proc, sysfs, …
    pub kernel: Vec<Mount>,
    /// How many paths are hidden behind something empty, or read-only, so that the container cannot get at the host.
    pub masks: usize,
    /// Whatever else.
    pub other: Vec<Mount>,
    /// How many more there are.
    pub more: usize,
}

/// A volume where a container sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// The volume's name.
    pub volume: String,
    /// Where.
    pub path: String,
    /// Whether the kernel lets nobody write there.
    pub read_only: bool,
    /// What file system it is.
    pub fs_type: String,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where.
    pub path: String,
    /// What file system it is.
    pub fs_type: String,
    /// Whether the kernel lets nobody write there.
    pub read_only: bool,
}

/// The root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// `overlay`
    pub fs_type: String,
    /// How many lower layers the kernel names; 0 if it names none.
    pub lower: usize,
    /// Whether the kernel lets nobody write there.
    pub read_only: bool,
}

/// What a pod has of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// `bridge`, `none`, `cni`, `host` or `namespace`: where its namespace comes from.
    pub mode: String,
    /// The links in its namespace; none with the host's.
    pub links: Vec<Link>,
    /// Its routes, as ip(8) writes them.
    pub routes: Vec<String>,
}

/// A link in a pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Its name: `lo`, `eth0`.
    pub name: String,
    /// `veth`; empty for loopback.
    pub kind: String,
    /// Whether it is up.
    pub up: bool,
    /// Its hardware address.
    pub mac: String,
    /// In bytes.
    pub mtu: u32,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// The other end of a veth pair, if that is on the host.
    pub peer: Option<Peer>,
}

/// The host's end of a veth pair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// The bridge that it is a port of; empty if none.
    pub bridge: String,
    /// The bridge's addresses with prefix lengths.
    pub addresses: Vec<String>,
}

/// `spec.volumes[]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// `emptyDir`, `hostPath`, …
    pub kind: String,
    /// Where its content is on the host, or what it is.
    pub source: String,
}

/// A cgroup: what may be used, and what is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    /// Below each hierarchy's mount; empty if it does not exist.
    pub path: String,
    /// Thousandths of a CPU.
    pub cpu: Usage,
    /// Bytes.
    pub memory: Usage,
    /// Processes and threads.
    pub pids: Usage,
}

/// One thing that a cgroup counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// What is used; `None` where the kernel does not count it.
    pub used: Option<u64>,
    /// The most that may be; `None` without a limit.
    pub limit: Option<u64>,
    /// The files that say the limit, and what is in them.
    pub files: Vec<(String, String)>,
}

/// A part of the start-up, or of what followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// Of what: `sandbox`, or a container's name.
    pub of: String,
    /// What it was about.
    pub what: Doing,
    /// When it began, in milliseconds since 1970.
    pub from_ms: i64,
    /// When it ended; `None` if it goes on.
    pub to_ms: Option<i64>,
    /// Whether an end is known to the second only.
    pub rough: bool,
}

/// What a [`Span`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Doing {
    /// The pod's namespaces, network and files were made.
    Sandbox,
    /// A container was made: its root file system, its namespaces.
    Create,
    /// A container ran.
    Run,
    /// From the first to the moment when the pod was ready.
    Ready,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub time: Time,
    /// Whether it is a warning.
    pub warning: bool,
    /// The kubelet's reason.
    pub reason: String,
    /// `pod/NAME` or `container/NAME`.
    pub object: String,
    /// What happened.
    pub message: String,
    /// How often.
    pub count: u64,
}

/// Whose a namespace is that a container is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// The host's.
    Host,
    /// The pod's, with these other containers of it in it.
    Pod(Vec<String>),
    /// Another container's too, without being the pod's.
    Shared(Vec<String>),
    /// Nobody else's.
    Own,
}

impl Pod {
    /// `namespace/name`
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whose a container's namespace of a kind is; `None` if the container has no process.
    pub fn whose(&self, host: &Host, container: &Container, kind: Kind) -> Option<Whose> {
        let inode = container.namespaces.get(&kind)?;
        if host.namespaces.get(&kind) == Some(inode) {
            return Some(Whose::Host);
        }
        let has = |other: &&Container| other.name != container.name && other.namespaces.get(&kind) == Some(inode);
        let others: Vec<String> = self.containers.iter().filter(has).map(|other| other.name.clone()).collect();
        Some(match (self.pins.get(&kind) == Some(inode), others.is_empty()) {
            (true, _) => Whose::Pod(others),
            (false, true) => Whose::Own,
            (false, false) => Whose::Shared(others),
        })
    }

    /// The containers that are in a namespace.
    pub fn members(&self, kind: Kind, inode: u64) -> Vec<&str> {
        let is_in = |c: &&Container| c.namespaces.get(&kind) == Some(&inode);
        self.containers.iter().filter(is_in).map(|c| c.name.as_str()).collect()
    }

    /// A user's id as the pod itself counts, where that differs from the host's.
    pub fn uid_inside(&self, uid: u32) -> Option<u32> {
        let (first, count) = self.ids?;
        uid.checked_sub(first).filter(|inside| *inside < count)
    }

    /// The one address that others use, without its prefix length.
    pub fn address(&self) -> Option<IpAddr> {
        let mut all = self.network.links.iter().filter(|link| link.name != "lo").flat_map(|link| &link.addresses);
        all.find_map(|address| address.split('/').next()?.parse().ok())
    }
}

impl State {
    /// As a few words.
    pub fn words(&self) -> String {
        match self {
            State::Waiting { reason } if reason.is_empty() => "waiting".to_owned(),
            State::Waiting { reason } => format!("waiting: {reason}"),
            State::Running => "running".to_owned(),
            State::Terminated { exit_code, reason } if reason.is_empty() => format!("ended, exit code {exit_code}"),
            State::Terminated { exit_code, reason } => format!("ended: {reason}, exit code {exit_code}"),
        }
    }
}
