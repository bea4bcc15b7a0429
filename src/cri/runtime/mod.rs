//! RuntimeService: one file per RPC, each with `run(&daemon, request)`, but for those that are variants of one thing (`exec`, `stats`,
//! `streamed`, `metrics`); a method that is not in `service` answers `Unimplemented`.
//! Most of them block, on files and on supervisors, and are done off the event loop.

mod checkpoint_container;
mod checkpoint_pod;
mod container_status;
mod create_container;
mod exec;
mod exec_sync;
pub(in crate::cri) mod list_containers;
mod list_pod_sandbox;
mod metrics;
mod pod_sandbox_status;
mod remove_container;
mod remove_pod_sandbox;
mod reopen_container_log;
pub(super) mod run_pod_sandbox;
mod runtime_config;
mod service;
mod start_container;
mod stats;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod streamed;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod version;

pub(super) use container_status::status as container_status;
pub(super) use pod_sandbox_status::status as sandbox_status;
pub(super) use stats::Samples;
pub(super) use update_runtime_config::Told;

use anyhow::{Context, Result};

/// Nanoseconds since the epoch.
pub(super) fn now() -> Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("the clock is before 1970")?;
    i64::try_from(now.as_nanos()).context("the clock is after 2262")
}
