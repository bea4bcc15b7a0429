//! `securityContext.sysctls`: which kernel parameters a pod may set in its own namespaces (pod-api.md §23). Pure.
//!
//! Only parameters that are of a namespace can be a pod's own, and only those known to be harmless to other pods are allowed
//! without being asked for (k8s.io/kubernetes/pkg/kubelet/sysctl).

use crate::error::{Kind, failure};
use anyhow::Result;

/// The namespace that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlNamespace {
    /// net
    Network,
    /// ipc
    Ipc,
}

/// The safe list.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// A name with dots between its parts, as sysctl(8) writes it. If its first separator is a slash, slashes separate and dots
/// belong to the parts, which trade places: `net/ipv4/conf/eth0.1/x` is `net.ipv4.conf.eth0/1.x`.
pub fn dotted(name: &str) -> String {
    if name.find(['.', '/']).is_none_or(|at| name.as_bytes()[at] != b'/') {
        return name.to_owned();
    }
    traded(name)
}

/// Dots for slashes and the other way round.
fn traded(name: &str) -> String {
    let trade = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    name.chars().map(trade).collect()
}

/// The path of a dotted name below /proc/sys.
pub fn path(dotted: &str) -> String {
    traded(dotted)
}

/// The namespace of a parameter, by its dotted name; `None` if it is the whole kernel's.
pub fn namespace(dotted: &str) -> Option<SysctlNamespace> {
    let is_ipc = dotted == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix));
    if dotted.starts_with("net.") {
        Some(SysctlNamespace::Network)
    } else if is_ipc {
        Some(SysctlNamespace::Ipc)
    } else {
        None
    }
}

/// Whether a parameter is on the safe list, or on the list of those allowed nevertheless.
fn is_allowed(dotted: &str, unsafe_ones: &[String]) -> bool {
    let matches = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => dotted.starts_with(&self::dotted(prefix)),
        None => dotted == self::dotted(pattern),
    };
    SAFE.contains(&dotted) || unsafe_ones.iter().any(matches)
}

/// Checks that a parameter may be set.
///
/// # Errors
/// Of kind `Invalid`: the kernel has it only once, or nobody allowed it.
pub fn check(dotted: &str, unsafe_ones: &[String]) -> Result<()> {
    let message = match namespace(dotted) {
        None => format!("sysctl {dotted} is of no namespace: it would change the whole host"),
        Some(_) if is_allowed(dotted, unsafe_ones) => return Ok(()),
        Some(_) => format!(
            "sysctl {dotted} is not on the safe list (SysctlForbidden): `--allowed-unsafe-sysctls {dotted}` allows it"
        ),
    };
    Err(failure(Kind::Invalid, message))
}

/// Checks a word of `--allowed-unsafe-sysctls`.
///
/// # Errors
/// What is wrong with it: it would allow what is not of a namespace.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let name = pattern.strip_suffix('*').unwrap_or(pattern);
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b));
    if !is_plain || namespace(&dotted(name)).is_none() {
        return Err("write a sysctl of a namespace (net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*)".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s23_names_are_compared_with_dots() {
        for (written, name, file) in [
            ("net.ipv4.ip_forward", "net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/rp_filter", "net.ipv4.conf.eth0/1.rp_filter", "net/ipv4/conf/eth0.1/rp_filter"),
            ("net.ipv4.conf.eth0/1.rp_filter", "net.ipv4.conf.eth0/1.rp_filter", "net/ipv4/conf/eth0.1/rp_filter"),
        ] {
            assert_eq!((dotted(written).as_str(), path(&dotted(written)).as_str()), (name, file), "{written}");
        }
    }

    #[test]
    fn s23_the_safe_list_and_what_is_allowed_besides() {
        let none: &[String] = &[];
        let some = ["kernel.msg*".to_owned(), "net/core/somaxconn".to_owned()];
        let rows = [
            ("kernel.shm_rmid_forced", none, true),
            ("net.ipv4.tcp_rmem", none, true),
            ("kernel.msgmax", none, false),
            ("kernel.msgmax", &some[..], true),
            ("net.core.somaxconn", &some[..], true),
            ("net.core.rmem_max", &some[..], false),
            ("kernel.core_pattern", &some[..], false),
            ("kernel.shm_rmid_forced_", none, false),
            ("vm.swappiness", &["vm.*".to_owned()][..], false),
        ];
        for (name, allowed, fine) in rows {
            assert_eq!(check(name, allowed).is_ok(), fine, "{name} with {allowed:?}");
        }
        let error = check("kernel.msgmax", none).unwrap_err().to_string();
        assert!(error.contains("--allowed-unsafe-sysctls kernel.msgmax"), "{error}");
    }

    #[test]
    fn what_is_not_of_a_namespace_cannot_be_allowed() {
        for (pattern, fine) in [
            ("net.*", true),
            ("kernel.shm*", true),
            ("kernel.sem", true),
            ("fs.mqueue.msg_max", true),
            ("kernel.*", false),
            ("*", false),
            ("", false),
            ("kernel.core_pattern", false),
            ("net.a b", false),
        ] {
            assert_eq!(check_pattern(pattern).is_ok(), fine, "{pattern:?}");
        }
    }
}
