//! The RuntimeService, one file per call. Each is a blocking function of the request; `service` has them done off the loop.

pub(super) mod create_container;
pub(super) mod container_status;
pub(super) mod exec;
pub(super) mod exec_sync;
pub(super) mod list_containers;
pub(super) mod list_pod_sandbox;
pub(super) mod pod_sandbox_status;
pub(super) mod remove_container;
pub(super) mod remove_pod_sandbox;
pub(super) mod reopen_container_log;
pub(super) mod run_pod_sandbox;
pub(super) mod runtime_config;
mod service;
pub(super) mod start_container;
pub(super) mod status;
pub(super) mod stop_container;
pub(super) mod stop_pod_sandbox;
pub(super) mod update_container_resources;
pub(super) mod update_pod_sandbox_resources;
pub(super) mod update_runtime_config;
pub(super) mod version;

pub(super) use service::Runtime;

use anyhow::{Context, Result};

/// Nanoseconds since the epoch.
pub(super) fn now() -> Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("the clock is before 1970")?;
    i64::try_from(now.as_nanos()).context("the clock is after 2262")
}
