//! Requests of CRI as `plan`'s configs: the second front door. Pure, but for one file: what the host has at the paths that a
//! request names is looked at when everything else is well.
//!
//! A request is wrong, or asks for what podshim does not do, in one way: an error of kind `Invalid` whose text begins with the
//! field (`config.linux.security_context.run_as_user: …`). Nothing is silently ignored. Where the API's comments leave something
//! open, it is as with containerd.
//!
//! | file | content |
//! |---|---|
//! | [`sandbox`] | `PodSandboxConfig` |
//! | [`container`] | `ContainerConfig` |
//! | `fields` | where in a request an error is, and the rules of simple values |
//! | `namespaces` | `NamespaceOption`: of a sandbox, and of a container in it |
//! | `security` | `LinuxContainerSecurityContext` |
//! | `resources` | `LinuxContainerResources`, and back |
//! | `mounts` | `Mount` |
//! | `devices` | `Device` |
//! | `look` | what the host has at those paths |
//! | `told` | configs as the API tells them |

mod container;
mod devices;
mod fields;
mod look;
mod mounts;
mod namespaces;
mod resources;
mod sandbox;
mod security;
#[cfg(test)]
mod tests;
mod told;

pub use container::{container, planned};
pub use look::make_host_directory;
pub use resources::{check_update, resources, updated};
pub use sandbox::sandbox;
pub use told::{resources_told, stop_signal_told};

use crate::cri::config::Config;
use crate::host::cgroup::CgroupSetup;
use crate::host::lsm::Lsms;
use crate::plan::config::{BridgeNetwork, ContainerConfig, NetworkMode, VolumePlan};
use crate::plan::spec::Cgroups;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// What is decided about a sandbox beside the request.
#[derive(Debug, Clone)]
pub struct SandboxContext {
    /// Its id, 64 hexadecimal digits: the pod's uid in the plan.
    pub id: String,
    /// Where its network namespace comes from, unless the request says that it is the host's.
    pub network: NetworkMode,
    /// podshim's own network, if it is on that.
    pub bridge: Option<BridgeNetwork>,
    /// Where seccomp profiles are that are named by a relative path.
    pub seccomp_root: PathBuf,
    /// The parent of its cgroup if the request names none.
    pub cgroup_parent: String,
}

/// What is decided about a container beside the request.
#[derive(Debug, Clone)]
pub struct ContainerContext {
    /// Its id, 64 hexadecimal digits: the container's name in the plan.
    pub id: String,
    /// The host's security modules.
    pub lsms: Lsms,
    /// The host's cgroups.
    pub cgroups: CgroupSetup,
    /// What the numbers of the container's cgroup depend on.
    pub numbers: Cgroups,
    /// The ids of the sandbox's other containers.
    pub others: BTreeSet<String>,
    /// What has the handlers that an image may be for.
    pub handlers: Arc<Config>,
}

/// A container's request, converted.
#[derive(Debug, Clone)]
pub struct Converted {
    /// How it is made.
    pub config: ContainerConfig,
    /// A volume for each of its mounts, named `<container id>/<n>`.
    pub volumes: Vec<VolumePlan>,
    /// The images that are mounted, by the volume's name.
    pub images: BTreeMap<String, String>,
    /// Paths of mounts that the host does not have: directories are made of them.
    pub host_directories: Vec<PathBuf>,
}
