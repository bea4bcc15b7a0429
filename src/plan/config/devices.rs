//! Devices of the host that a container was given.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A device of the host in a container: CRI `Device`, with what was found at its `host_path`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDevice {
    /// The absolute path in the container.
    pub path: PathBuf,
    /// Block or character.
    pub kind: DeviceKind,
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// Permission bits of the host's node.
    pub mode: u32,
    /// Owner of the host's node.
    pub uid: u32,
    /// Group of the host's node.
    pub gid: u32,
    /// Some of `r`, `w`, `m`.
    pub access: String,
}

/// What kind of device a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// `S_IFBLK`
    Block,
    /// `S_IFCHR`
    Character,
}
