//! Pure planning: an admitted Pod becomes CRI-shaped configs, and each container an OCI runtime `Spec`.
//!
//! Nothing here asks the kernel or touches a file: what is known of the host comes in as plain values. So a plan can be
//! printed, compared in a test and shown to a student.

pub mod adjust;
pub(crate) mod base64_bytes;
pub mod capabilities;
pub mod capacity;
pub mod change;
pub mod config;
mod downward;
pub mod env;
mod lifecycle;
pub mod mounts;
mod names;
pub mod network;
pub mod pod;
mod registry;
pub mod resources;
pub mod seccomp;
pub mod seccomp_profile;
pub mod security;
mod service_links;
pub mod spec;
mod storage;
mod variables;
mod volume;
