//! The RuntimeService, one file per call. Each is a blocking function of the request; `service` has them done off the loop.

pub(super) mod list_pod_sandbox;
pub(super) mod remove_pod_sandbox;
pub(super) mod stop_pod_sandbox;

use anyhow::{Context, Result};

/// Nanoseconds since the epoch.
pub(super) fn now() -> Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("the clock is before 1970")?;
    i64::try_from(now.as_nanos()).context("the clock is after 2262")
}
