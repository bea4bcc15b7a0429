//! The default capability set, `capabilities.add` and `.drop` (pod-api.md §23).

use super::config::{Privilege, SecurityContext};
use crate::error::{Kind, failure};
use anyhow::Result;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use std::str::FromStr;

/// containerd's and Docker's base set.
const DEFAULT: &[Capability] = &[
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// The number of a capability, from linux/capability.h.
pub fn number(capability: Capability) -> Result<u32> {
    let name = capability.to_string();
    let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    let known =
        caps::Capability::from_str(&name).map_err(|_| failure(Kind::Invalid, format!("unknown capability {name}")))?;
    Ok(u32::from(known.index()))
}

/// The name of capability `number` without its `CAP_`; the number where nobody here knows it.
pub fn name(number: u32) -> String {
    let known = caps::all().into_iter().find(|capability| u32::from(capability.index()) == number);
    known.map_or_else(|| number.to_string(), |known| known.to_string().trim_start_matches("CAP_").to_owned())
}

/// Checks the name of a capability, without its `CAP_`.
///
/// # Errors
/// Of kind `Invalid`: there is none of this name.
pub fn check(name: &str) -> Result<()> {
    by_name(name).map(drop)
}

fn by_name(name: &str) -> Result<Capability> {
    Capability::from_str(&name.to_uppercase())
        .map_err(|_| failure(Kind::Invalid, format!("unknown capability {name:?}")))
}

/// Every capability that can be had.
fn all(available: u64) -> Capabilities {
    caps::all()
        .into_iter()
        .filter(|c| available & c.bitmask() != 0)
        .filter_map(|c| Capability::from_str(c.to_string().trim_start_matches("CAP_")).ok())
        .collect()
}

/// A container's capabilities: the base set, then drop, then add; `ALL` in either means all.
pub fn container(security: &SecurityContext, available: u64) -> Result<Capabilities> {
    if security.privileged == Privilege::Privileged {
        return Ok(all(available));
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: Capabilities = if security.add_capabilities.iter().any(is_all) {
        all(available)
    } else if security.drop_capabilities.iter().any(is_all) {
        Capabilities::new()
    } else {
        DEFAULT.iter().copied().collect()
    };
    for name in security.drop_capabilities.iter().filter(|n| !is_all(n)) {
        set.remove(&by_name(name)?);
    }
    for name in security.add_capabilities.iter().filter(|n| !is_all(n)) {
        set.insert(by_name(name)?);
    }
    Ok(set)
}

/// The five sets: inheritable and ambient stay empty (CVE-2022-24769).
pub fn sets(capabilities: &Capabilities) -> LinuxCapabilities {
    LinuxCapabilitiesBuilder::default()
        .bounding(capabilities.clone())
        .effective(capabilities.clone())
        .permitted(capabilities.clone())
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_its_kernel_number() {
        for capability in caps::all() {
            let name = capability.to_string();
            let ours = by_name(name.trim_start_matches("CAP_")).unwrap();
            assert_eq!(number(ours).unwrap(), u32::from(capability.index()), "{name}");
        }
    }
}
