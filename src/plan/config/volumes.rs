//! What volumes are made of.

use super::{Access, PullPolicy};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
    EmptyDir {
        /// Its permission bits, `0o777` by default.
        mode: u32,
    },
    /// A tmpfs that lives with the pod.
    Memory {
        /// Bytes; `None` for the kernel's default, half of the memory.
        size: Option<u64>,
        /// Its permission bits, `0o777` by default.
        mode: u32,
    },
    /// Huge pages that live with the pod (hugetlbfs).
    HugePages {
        /// Bytes of a page.
        page_size: u64,
        /// Bytes; `None` for as much as the containers may have.
        size: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
    },
    /// Files made by podshim, which the containers can only read: configMap, secret, downwardAPI and projected volumes.
    Files(FilesVolume),
    /// A persistent directory of this host: a persistentVolumeClaim.
    Claim {
        /// The claim's name, in the pod's namespace.
        name: String,
        /// `persistentVolumeClaim.readOnly`
        access: Access,
    },
    /// A directory that lives with the pod and is not counted as its disk space: a generic ephemeral volume.
    Ephemeral {
        /// The claim's name, `<pod>-<volume>`, in the pod's namespace.
        claim: String,
    },
    /// An image's unpacked content, read-only.
    Image {
        /// The image as the manifest writes it.
        reference: String,
        /// When to pull it.
        pull_policy: PullPolicy,
        /// Whether its programs can be executed.
        #[serde(default, skip_serializing_if = "Programs::are_refused")]
        programs: Programs,
    },
}

/// Whether the programs of an image volume can be executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Programs {
    /// They cannot: an image volume of a manifest (KEP-4639).
    #[default]
    Refused,
    /// They can: a mount of CRI, whose options say it if not.
    Allowed,
}

impl Programs {
    fn are_refused(&self) -> bool {
        *self == Programs::Refused
    }
}

/// A volume whose content is known when the pod is planned (pod-api.md §18).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesVolume {
    /// A tmpfs (all but configMap) or a directory on disk.
    pub medium: FilesMedium,
    /// What is in it, no path twice.
    pub files: Vec<VolumeFile>,
}

/// Where the files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilesMedium {
    /// Memory: secret, downwardAPI, projected.
    Memory,
    /// The disk: configMap.
    Disk,
}

/// One file of a [`FilesVolume`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFile {
    /// Relative, without `..` and empty components.
    pub path: String,
    /// Permission bits, 0 to 0o777: the item's `mode`, else the volume's `defaultMode`.
    pub mode: u32,
    /// The owner's uid: the item's `user`, else the volume's `defaultUser`, else 0.
    pub user: u32,
    /// Its bytes, in base64 where a plan is written down.
    #[serde(with = "crate::plan::base64_bytes")]
    pub content: Vec<u8>,
}

/// `spec.volumes[]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePlan {
    /// The volume's name.
    pub name: String,
    /// Its source.
    pub source: VolumeSource,
}
