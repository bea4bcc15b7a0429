//! podshim runs Kubernetes Pods on one Linux host, with nothing between the manifest and the kernel.
//!
//! The crate is one library of rooms in layers; imports point downward only (`tests/rooms.rs` holds this list against the
//! code). A pod's way through them: `manifest` reads and checks, `plan` decides (pure), `image` and `store` prepare,
//! `supervisor` performs what `lifecycle` (pure) asks, through `runtime`, `volumes`, `network`, `cgroups` and `logs`.

pub mod cgroups;
pub mod cli;
pub mod control;
pub mod cri;
mod embedded;
pub mod error;
pub mod explain;
pub mod host;
pub mod image;
pub mod lab;
pub mod lifecycle;
pub mod logs;
pub mod manifest;
pub mod network;
pub mod paths;
pub mod picture;
pub mod plan;
pub mod probes;
pub mod runtime;
pub mod snapshot;
pub mod store;
pub mod supervisor;
pub mod sys;
pub mod volumes;
