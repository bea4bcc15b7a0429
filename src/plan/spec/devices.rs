//! The devices of a container: which it has, and which it may open and make. Pure.

use crate::plan::config::{DeviceKind, HostDevice, Privilege};
use anyhow::Result;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

/// A device of every container: path below /dev, minor number (all are of major 1 or 5).
pub const DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Which devices a container may open and make.
pub(super) fn rules(privileged: Privilege, own: &[HostDevice]) -> Result<Vec<LinuxDeviceCgroup>> {
    let rule = |allow, kind, numbers: (Option<i64>, Option<i64>), access: &str| {
        let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access).build()?;
        rule.set_major(numbers.0).set_minor(numbers.1);
        anyhow::Ok(rule)
    };
    let any = (None, None);
    if privileged == Privilege::Privileged {
        return Ok(vec![rule(true, LinuxDeviceType::A, any, "rwm")?]);
    }
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, any, "rwm")?,
        // Making a node harms nobody; opening it is what is refused.
        rule(true, LinuxDeviceType::C, any, "m")?,
        rule(true, LinuxDeviceType::B, any, "m")?,
    ];
    for (_, major, minor) in DEVICES {
        rules.push(rule(true, LinuxDeviceType::C, (Some(i64::from(*major)), Some(i64::from(*minor))), "rwm")?);
    }
    // Terminals: /dev/ptmx and /dev/pts/*.
    rules.push(rule(true, LinuxDeviceType::C, (Some(5), Some(2)), "rwm")?);
    rules.push(rule(true, LinuxDeviceType::C, (Some(136), None), "rwm")?);
    for device in own {
        let numbers = (Some(i64::from(device.major)), Some(i64::from(device.minor)));
        rules.push(rule(true, kind(device), numbers, &device.access)?);
    }
    Ok(rules)
}

fn kind(device: &HostDevice) -> LinuxDeviceType {
    match device.kind {
        DeviceKind::Block => LinuxDeviceType::B,
        DeviceKind::Character => LinuxDeviceType::C,
    }
}

/// The node of a device of the host's.
pub(super) fn node(device: &HostDevice) -> Result<LinuxDevice> {
    Ok(LinuxDeviceBuilder::default()
        .path(&device.path)
        .typ(kind(device))
        .major(device.major)
        .minor(device.minor)
        .file_mode(device.mode)
        .uid(device.uid)
        .gid(device.gid)
        .build()?)
}
