//! Every path that podshim writes on the host is built here.
//!
//! | what | where |
//! |---|---|
//! | run state, sockets, namespace pins, small file systems of the pod's own: /dev/shm, hosts, messages (gone after a reboot) | `<state>/pods/<uid>/` |
//! | `podshim cri`: its socket; what a kubelet told the node | `<state>/cri.sock`, `<state>/cri-told.json` |
//! | the network: who is on it, Services, policies | `<state>/network/` |
//! | names in use: one symlink per pod | `<state>/names/<namespace>_<name>` |
//! | images: OCI content by digest; unpacked layers by chain id | `<root>/images/`, `<root>/layers/` |
//! | the layer below those of every image: mount points | `<root>/mount-points/` |
//! | what persistentVolumeClaims hold, one directory per claim; stays when pods go | `<root>/claims/<namespace>_<claim>/` |
//! | pod data: volumes, writable layers | `<root>/pods/<uid>/` |
//! | a student's lesson at work: which one, `$LAB`, the lab's shells | `<state>/lab/<user id>/` |
//! | a student's progress through the lab | `<root>/lab/<user id>/` |
//! | logs, laid out as a kubelet's | `<log_dir>/<namespace>_<name>_<uid>/<container>/<n>.log` |

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The three directories below which podshim writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirs {
    /// Images and pod data; survives a reboot.
    pub root: PathBuf,
    /// Run state; on a tmpfs, gone after a reboot.
    pub state: PathBuf,
    /// Container logs.
    pub log_dir: PathBuf,
}

impl Default for Dirs {
    fn default() -> Self {
        Dirs { root: "/var/lib/podshim".into(), state: "/run/podshim".into(), log_dir: "/var/log/podshim/pods".into() }
    }
}

impl Dirs {
    /// The content store, an OCI image layout: `oci-layout`, `index.json`, `blobs/<algorithm>/<hex>`.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Unpacked layers, one directory per chain id.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// The layer below those of every image: the mount points that each container has.
    pub fn mount_points(&self) -> PathBuf {
        self.root.join("mount-points")
    }

    /// The data of all persistentVolumeClaims.
    pub fn claims(&self) -> PathBuf {
        self.root.join("claims")
    }

    /// What a persistentVolumeClaim holds. Neither part can contain `_` or `/` (DNS-1123).
    pub fn claim(&self, namespace: &str, name: &str) -> PathBuf {
        self.claims().join(format!("{namespace}_{name}"))
    }

    /// Half-written blobs and layers; swept at the next start by whoever holds the store's lock.
    pub fn image_tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The lock which orders writers of the image store.
    pub fn image_lock(&self) -> PathBuf {
        self.root.join("images.lock")
    }

    /// The lock which orders reservations of pod names.
    pub fn store_lock(&self) -> PathBuf {
        self.state.join("store.lock")
    }

    /// Where the mount namespace is pinned that those of containers begin as copies of.
    pub fn empty(&self) -> PathBuf {
        self.state.join("empty")
    }

    /// All pods' run state.
    pub fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// The names in use.
    pub fn names(&self) -> PathBuf {
        self.state.join("names")
    }

    /// The symlink that reserves a pod's name. Neither part can contain `_` or `/` (DNS-1123).
    pub fn name_link(&self, namespace: &str, name: &str) -> PathBuf {
        self.names().join(format!("{namespace}_{name}"))
    }

    /// The symlink that reserves the identity of a sandbox that was asked for through CRI, which may have any characters and
    /// be longer than a file's name.
    pub fn identity_link(&self, identity: &str) -> PathBuf {
        let digest: String = Sha256::digest(identity).iter().map(|byte| format!("{byte:02x}")).collect();
        self.names().join(format!("cri_{digest}"))
    }

    /// The socket of `podshim cri`, unless it is told another.
    pub fn cri_socket(&self) -> PathBuf {
        self.state.join("cri.sock")
    }

    /// What a kubelet told the node (`UpdateRuntimeConfig`).
    pub fn cri_told(&self) -> PathBuf {
        self.state.join("cri-told.json")
    }

    /// The lock which orders its changes.
    pub fn cri_told_lock(&self) -> PathBuf {
        self.state.join("cri-told.lock")
    }

    /// What is kept of the network: who is on it, Services, policies.
    pub fn network(&self) -> NetworkDir {
        NetworkDir(self.state.join("network"))
    }

    /// The lab of one user.
    pub fn lab(&self, user: u32) -> LabDirs {
        let below = |dir: &Path| dir.join("lab").join(user.to_string());
        LabDirs { state: below(&self.state), data: below(&self.root) }
    }

    /// One pod's directories.
    pub fn pod(&self, uid: &str) -> PodDirs {
        PodDirs { state: self.pods().join(uid), data: self.pods_data().join(uid) }
    }

    /// All pods' data.
    pub fn pods_data(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// One pod's log directory, named as a kubelet names it.
    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}

/// The files of the network, which its name server reads as nobody: they are 0644 in directories 0755, below a state
/// directory that is 0700.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkDir(pub PathBuf);

impl NetworkDir {
    /// The lock which orders everything that is done about the network.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// What the network is like, as long as it is there.
    pub fn config(&self) -> PathBuf {
        self.0.join("network.json")
    }

    /// The pods on the network: `<uid>.json`.
    pub fn members(&self) -> PathBuf {
        self.0.join("members")
    }

    /// One pod's file. Its addresses are its own as long as the file is there.
    pub fn member(&self, uid: &str) -> PathBuf {
        self.members().join(format!("{uid}.json"))
    }

    /// The Services, the NetworkPolicies, the Namespaces: `<namespace>_<name>.json`, of a Namespace `<name>.json`.
    pub fn objects(&self, plural: &str) -> PathBuf {
        self.0.join(plural)
    }

    /// Which process the name server is.
    pub fn name_server(&self) -> PathBuf {
        self.0.join("name-server.json")
    }

    /// The lock of whoever executes CNI plugins for a pod: each pod has a byte of it.
    pub fn cni_lock(&self) -> PathBuf {
        self.0.join("cni.lock")
    }

    /// What CNI plugins answered: `<uid>.json`.
    pub fn cni(&self) -> PathBuf {
        self.0.join("cni")
    }
}

/// The directories of one user's lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabDirs {
    /// `<state>/lab/<user id>`: there while a lesson is begun or a shell of the lab is open.
    pub state: PathBuf,
    /// `<root>/lab/<user id>`: stays.
    pub data: PathBuf,
}

impl LabDirs {
    /// Which lesson is begun.
    pub fn session(&self) -> PathBuf {
        self.state.join("session.json")
    }

    /// `$LAB`, where the student works: a tmpfs of its own.
    pub fn work(&self) -> PathBuf {
        self.state.join("work")
    }

    /// The shells of the lab: `<pid>`, which holds when the process started.
    pub fn shells(&self) -> PathBuf {
        self.state.join("shells")
    }

    /// What was begun, predicted and passed.
    pub fn progress(&self) -> PathBuf {
        self.data.join("progress.json")
    }

    /// Held by whoever changes anything of this user's lab.
    pub fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }
}

/// The directories of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDirs {
    /// `<state>/pods/<uid>`.
    pub state: PathBuf,
    /// `<root>/pods/<uid>`.
    pub data: PathBuf,
}

impl PodDirs {
    /// What was planned: the record that the supervisor works from.
    pub fn record(&self) -> PathBuf {
        self.state.join("record.json")
    }

    /// The admitted manifest with its defaults, as JSON.
    pub fn manifest(&self) -> PathBuf {
        self.state.join("pod.json")
    }

    /// The ConfigMaps and Secrets that the manifest refers to, as a JSON list of documents.
    pub fn objects(&self) -> PathBuf {
        self.state.join("objects.json")
    }

    /// Held (flock) by the pod's supervisor as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// Held (flock) by whoever starts a supervisor for the pod: who makes it, and who finds that its supervisor was killed.
    pub fn starting_lock(&self) -> PathBuf {
        self.state.join("starting.lock")
    }

    /// The supervisor's control socket.
    pub fn socket(&self) -> PathBuf {
        self.state.join("control.sock")
    }

    /// The pod's status as last observed by its supervisor.
    pub fn status(&self) -> PathBuf {
        self.state.join("status.json")
    }

    /// Room that is set aside for what the supervisor writes.
    pub fn reserve(&self) -> PathBuf {
        self.state.join("reserve")
    }

    /// What another supervisor needs to go on with the pod.
    pub fn kept(&self) -> PathBuf {
        self.state.join("kept.json")
    }

    /// Which process is the present instance of a container.
    pub fn instance(&self, container: &str) -> PathBuf {
        self.container_state(container).join("instance.json")
    }

    /// That process, as a pidfd that is mounted: what the kernel knows of its end stays.
    pub fn process(&self, container: &str) -> PathBuf {
        self.container_state(container).join("process")
    }

    /// There as long as NRI plugins may refuse a sandbox of CRI's.
    pub fn undecided(&self) -> PathBuf {
        self.state.join("undecided")
    }

    /// What a container has said and its log does not have yet.
    pub fn unlogged(&self, container: &str) -> PathBuf {
        self.container_state(container).join("unlogged")
    }

    /// The supervisor's own messages.
    pub fn supervisor_log(&self) -> PathBuf {
        self.state.join("supervisor.log")
    }

    /// A namespace pin: `net`, `ipc`, `uts` or `pid`.
    pub fn namespace(&self, kind: &str) -> PathBuf {
        self.state.join("ns").join(kind)
    }

    /// The run states of containers.
    pub fn containers(&self) -> PathBuf {
        self.state.join("containers")
    }

    /// The run state of one container: FIFOs of its output, `config.json` of its bundle.
    pub fn container_state(&self, container: &str) -> PathBuf {
        self.containers().join(container)
    }

    /// The writable layer of one instance of a container.
    pub fn container_data(&self, container: &str, restart_count: u32) -> PathBuf {
        self.container_layers(container).join(restart_count.to_string())
    }

    /// The writable layers of all instances of a container.
    pub fn container_layers(&self, container: &str) -> PathBuf {
        self.layers().join(container)
    }

    /// The writable layers of all containers, one directory for each.
    pub fn layers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// Writable layers that are being removed.
    pub fn discarded(&self) -> PathBuf {
        self.data.join("discarded")
    }

    /// What checkpoints are made of, as long as they are being made: one directory for each container.
    pub fn checkpoints(&self) -> PathBuf {
        self.data.join("checkpoints")
    }

    /// What was done to make the pod.
    pub fn timeline(&self) -> PathBuf {
        self.state.join("timeline")
    }

    /// The pod's events.
    pub fn events(&self) -> PathBuf {
        self.state.join("events.jsonl")
    }

    /// The memory that the pod's containers share as /dev/shm.
    pub fn shm(&self) -> PathBuf {
        self.state.join("shm")
    }

    /// What is mounted at the terminationMessagePath of one instance of a container.
    pub fn termination_message(&self, container: &str, restart_count: u32) -> PathBuf {
        self.termination_messages(container).join(restart_count.to_string())
    }

    /// A symlink in the pod's data to its run state: data whose pod is gone is told from that of another state directory.
    pub fn owner(&self) -> PathBuf {
        self.data.join("state")
    }

    /// Files which podshim writes for a pod's containers: `hosts`, `resolv.conf`, `hostname`.
    pub fn etc(&self, file: &str) -> PathBuf {
        self.etc_files().join(file)
    }

    /// The directory of the files that podshim writes for a pod's containers.
    pub fn etc_files(&self) -> PathBuf {
        self.state.join("etc")
    }

    /// The directory of a container's termination messages.
    pub fn termination_messages(&self, container: &str) -> PathBuf {
        self.termination().join(container)
    }

    /// The termination messages of all containers, a directory for each.
    pub fn termination(&self) -> PathBuf {
        self.state.join("termination")
    }

    /// A volume that lives with the pod.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    /// The volumes that live with the pod.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }
}

/// The log file of one instance of a container: `<pod logs>/<container>/<restart count>.log`.
pub fn log_file(pod_logs: &Path, container: &str, restart_count: u32) -> PathBuf {
    container_logs(pod_logs, container).join(format!("{restart_count}.log"))
}

/// The logs of all instances of a container.
pub fn container_logs(pod_logs: &Path, container: &str) -> PathBuf {
    pod_logs.join(container)
}
