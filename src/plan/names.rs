//! The names of a pod: the kernel's host name and those in /etc/hosts (pod-api.md §14). Pure.

use super::network::CLUSTER_DOMAIN;
use crate::error::{Kind, failure};
use anyhow::Result;
use k8s_openapi::api::core::v1 as k8s;

/// The longest host name that Linux has (`__NEW_UTS_LEN`), in bytes.
const MAX_KERNEL_NAME: usize = 64;

/// What a pod is called.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// In its UTS namespace.
    pub(super) kernel: String,
    /// In its /etc/hosts, the longest first.
    pub(super) hosts: Vec<String>,
}

/// The names of a pod `(namespace, name)`.
///
/// # Errors
/// Of kind `Invalid`: with setHostnameAsFQDN the name is longer than the kernel's.
pub(super) fn names(spec: &k8s::PodSpec, (namespace, name): (&str, &str)) -> Result<Names> {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    if let Some(wanted) = given(&spec.hostname_override) {
        let kernel = cut(&wanted);
        return Ok(Names { hosts: vec![kernel.clone()], kernel });
    }
    let short = cut(given(&spec.hostname).as_deref().unwrap_or(name));
    let Some(subdomain) = given(&spec.subdomain) else {
        return Ok(Names { hosts: vec![short.clone()], kernel: short });
    };
    let full = format!("{short}.{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}");
    let kernel = if spec.set_hostname_as_fqdn == Some(true) { full.clone() } else { short.clone() };
    if kernel.len() > MAX_KERNEL_NAME {
        let message = format!(
            "spec.setHostnameAsFQDN: the host name {full} has {} characters, {MAX_KERNEL_NAME} are possible",
            full.len()
        );
        return Err(failure(Kind::Invalid, message));
    }
    Ok(Names { hosts: vec![full, short], kernel })
}

/// Cut to 63 bytes (DNS' limit of a label) without a trailing `-` or `.`.
fn cut(wanted: &str) -> String {
    wanted[..wanted.floor_char_boundary(63)].trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_names() {
        let long = "a".repeat(62) + "-b";
        type Row<'a> = (&'a str, [&'a str; 3], bool, Result<(&'a str, &'a [&'a str]), usize>);
        let rows: &[Row<'_>] = &[
            ("the pod's name", ["", "", ""], false, Ok(("p", &["p"]))),
            ("hostname", ["h", "", ""], false, Ok(("h", &["h"]))),
            ("as FQDN without a subdomain", ["h", "", ""], true, Ok(("h", &["h"]))),
            ("subdomain", ["h", "s", ""], false, Ok(("h", &["h.s.ns.svc.cluster.local", "h"]))),
            ("as FQDN", ["", "s", ""], true, Ok(("p.s.ns.svc.cluster.local", &["p.s.ns.svc.cluster.local", "p"]))),
            ("override", ["h", "s", "o.example"], false, Ok(("o.example", &["o.example"]))),
            ("override of 64", ["", "", &long], false, Ok((&long[..62], &[&long[..62]]))),
            ("64 fit", [&"h".repeat(41), "s", ""], true, Ok((&("h".repeat(41) + ".s.ns.svc.cluster.local"), &[]))),
            ("65 do not", [&"h".repeat(42), "s", ""], true, Err(65)),
        ];
        for (name, [hostname, subdomain, wanted], as_fqdn, expected) in rows {
            let spec = k8s::PodSpec {
                hostname: Some((*hostname).to_owned()),
                subdomain: Some((*subdomain).to_owned()),
                hostname_override: Some((*wanted).to_owned()),
                set_hostname_as_fqdn: Some(*as_fqdn),
                ..Default::default()
            };
            match (names(&spec, ("ns", "p")), expected) {
                (Ok(found), Ok((kernel, hosts))) => {
                    assert_eq!(found.kernel, *kernel, "{name}");
                    assert!(hosts.is_empty() || found.hosts == *hosts, "{name}: {found:?}");
                }
                (Err(error), Err(length)) => {
                    assert!(error.to_string().contains(&format!("has {length} characters")), "{name}: {error}");
                }
                (result, _) => panic!("{name}: {result:?}"),
            }
        }
    }
}
