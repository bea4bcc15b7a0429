//! RuntimeConfig: podshim makes cgroups itself, which is what a kubelet calls the cgroupfs driver.

use crate::cri::{Daemon, api};
use anyhow::Result;

/// What is done.
pub(in crate::cri) fn run(_: &Daemon, _: &api::RuntimeConfigRequest) -> Result<api::RuntimeConfigResponse> {
    let linux = api::LinuxRuntimeConfiguration { cgroup_driver: api::CgroupDriver::Cgroupfs as i32 };
    Ok(api::RuntimeConfigResponse { linux: Some(linux) })
}
