//! Devices of a spec (`linux.devices`), checked.

use crate::plan::config::{DeviceKind, HostDevice};
use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

/// What is made of it: its rules are in the spec's resources.
///
/// # Errors
/// It is no device that podshim makes a node of, or the container is in a user namespace, where mknod(2) is not allowed.
pub(super) fn read(device: &LinuxDevice, in_user_namespace: bool) -> Result<HostDevice> {
    let told = || format!("device {}", device.path().display());
    ensure!(!in_user_namespace, "{}: a container in a user namespace cannot be given devices", told());
    let number = |number: i64, bits: u32, what: &str| match u32::try_from(number) {
        Ok(number) if number < 1 << bits => Ok(number),
        _ => bail!("{what} number {number} is not below {}", 1u32 << bits),
    };
    let kind = match device.typ() {
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
        other => bail!("{}: nodes of type {} are not made", told(), other.as_str()),
    };
    Ok(HostDevice {
        path: device.path().clone(),
        kind,
        // dev_t of the kernel: 12 bits major, 20 bits minor.
        major: number(device.major(), 12, "major").with_context(told)?,
        minor: number(device.minor(), 20, "minor").with_context(told)?,
        mode: device.file_mode().unwrap_or(0o666),
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        access: String::new(),
    })
}
