//! Limits: the writes to the files of cgroups.

use super::quote::quote;
use super::writer::Lines;
use crate::cgroups::{FileWrite, Need, writes};
use crate::host::HostFacts;
use anyhow::{Context, Result};
use oci_spec::runtime::LinuxResources;

/// Writes the limits of the pod's cgroup `name`, the pod's own if that is empty.
pub(super) fn limits(body: &mut Lines, name: &str, resources: &LinuxResources, facts: &HostFacts) -> Result<()> {
    for write in writes(&facts.cgroups, resources)? {
        let path = path(name, &write, facts)?;
        let value = quote(&write.value)?;
        match &write.need {
            Need::Required => body.line(format!("limit {path} {value}")),
            Need::IfPresent => body.line(format!("limit_if_there {path} {value}")),
            Need::Else(other) => {
                let (instead, its_value) = (self::path(name, other, facts)?, quote(&other.value)?);
                body.line(format!("if [ -e {path} ]; then limit {path} {value}; else limit {instead} {its_value}; fi"));
            }
        }
    }
    Ok(())
}

fn path(name: &str, write: &FileWrite, facts: &HostFacts) -> Result<String> {
    let hierarchy = match write.controller.as_str() {
        "cgroup" => facts.cgroups.unified(),
        controller => facts.cgroups.with_controller(controller),
    };
    let hierarchy = hierarchy.with_context(|| format!("no hierarchy has the controller {}", write.controller))?;
    let mount = quote(hierarchy.mount.as_os_str().as_encoded_bytes())?;
    let name = if name.is_empty() { String::new() } else { format!("{}/", quote(name)?) };
    Ok(format!("{mount}/\"$CGROUP\"/{name}{}", quote(&write.file)?))
}
