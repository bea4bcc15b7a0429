//! `RuntimeConfig`

use crate::cri::api::{CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigRequest, RuntimeConfigResponse};
use crate::cri::daemon::Daemon;
use anyhow::Result;
use std::sync::Arc;

/// The cgroup driver, which a kubelet then uses as well.
pub(in crate::cri) async fn run(daemon: &Arc<Daemon>, _: RuntimeConfigRequest) -> Result<RuntimeConfigResponse> {
    let driver = match daemon.config.cgroup_driver {
        crate::cri::config::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
    };
    Ok(RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) })
}
