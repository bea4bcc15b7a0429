//! A pod's volumes.

use super::draw::Node;
use super::list;
use crate::explain::{Planned, PlannedVolume};
use crate::plan::config::{Access, FilesMedium, FilesVolume, HostPathType, VolumePlan, VolumeSource};

pub(super) fn volumes(planned: &Planned) -> Option<Node> {
    let plan = &planned.plan;
    if plan.volumes.is_empty() {
        return None;
    }
    let group = plan.fs_group.map(|group| format!("; what is podshim's own belongs to group {}", group.gid));
    let nodes = plan.volumes.iter().zip(&planned.volumes).map(|(volume, place)| node(volume, place));
    Some(Node::new("volumes", format!("{}{}", plan.volumes.len(), group.unwrap_or_default())).with(nodes))
}

fn node(volume: &VolumePlan, place: &PlannedVolume) -> Node {
    let node = Node::new(&volume.name, what(&volume.source));
    let node = node.with([Node::new("on the host", place.path.display().to_string())]);
    match &volume.source {
        VolumeSource::Files(FilesVolume { files, .. }) => node.with(files.iter().map(|file| {
            let owner = if file.user == 0 { String::new() } else { format!(", of user {}", file.user) };
            Node::new(&file.path, format!("{} bytes, mode {:04o}{owner}", file.content.len(), file.mode))
        })),
        _ => node,
    }
}

fn what(source: &VolumeSource) -> String {
    let size = |size: &Option<u64>| size.map(|bytes| format!(", at most {bytes} bytes")).unwrap_or_default();
    match source {
        VolumeSource::HostPath { kind, .. } => format!("a path of the host (hostPath){}", condition(*kind)),
        VolumeSource::EmptyDir { mode } => {
            format!("a directory on disk, empty at first, that goes with the pod (emptyDir), mode {mode:04o}")
        }
        VolumeSource::Memory { size: bytes, mode } => format!(
            "files in memory (tmpfs), empty at first, gone with the pod (emptyDir), mode {mode:04o}{}",
            size(bytes)
        ),
        VolumeSource::HugePages { page_size, size: bytes, mode } => {
            format!("huge pages of {page_size} bytes (hugetlbfs), mode {mode:04o}{}", size(bytes))
        }
        VolumeSource::Files(files) => {
            let medium = match files.medium {
                FilesMedium::Memory => "in memory (tmpfs)",
                FilesMedium::Disk => "on disk",
            };
            format!("{} files that podshim writes, {medium}; containers can only read them", files.files.len())
        }
        VolumeSource::Claim { name, access } => {
            let access = if *access == Access::ReadOnly { ", read-only" } else { "" };
            format!("a directory that stays when the pod goes (persistentVolumeClaim {name}){access}")
        }
        VolumeSource::Ephemeral { claim } => format!("a directory that goes with the pod (ephemeral, claim {claim})"),
        VolumeSource::Image { reference, .. } => format!("the files of image {}, read-only", list([reference])),
    }
}

fn condition(kind: HostPathType) -> &'static str {
    match kind {
        HostPathType::Unset => "; it must exist",
        HostPathType::DirectoryOrCreate => "; a directory, made if it does not exist",
        HostPathType::Directory => "; it must be a directory",
        HostPathType::FileOrCreate => "; a file, made if it does not exist",
        HostPathType::File => "; it must be a file",
        HostPathType::Socket => "; it must be a socket",
        HostPathType::CharDevice => "; it must be a character device",
        HostPathType::BlockDevice => "; it must be a block device",
    }
}
