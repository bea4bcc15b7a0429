//! The security modules that the host has switched on: what can confine a container besides seccomp and capabilities.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// Which are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lsms {
    /// AppArmor.
    pub apparmor: bool,
    /// SELinux, enforcing or not.
    pub selinux: bool,
}

/// Asks as containerd does: a kernel with AppArmor whose profiles nobody can load (no securityfs, no apparmor_parser) is one
/// without it. SELinux is known by its file system.
pub(super) fn detect() -> Lsms {
    let parameter = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let is_on = parameter.is_ok_and(|text| text.starts_with('Y'));
    let profiles = Path::new("/sys/kernel/security/apparmor/profiles").exists();
    let parser = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"].iter().any(|path| Path::new(path).exists());
    Lsms { apparmor: is_on && profiles && parser, selinux: Path::new("/sys/fs/selinux/enforce").exists() }
}
