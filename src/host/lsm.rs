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

/// Asks as runc's and the kubelet's libraries do: AppArmor by its module's parameter, SELinux by its file system.
pub(super) fn detect() -> Lsms {
    let parameter = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    Lsms {
        apparmor: parameter.is_ok_and(|text| text.starts_with('Y')),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
    }
}
