//! What `fieldRef` and `resourceFieldRef` can name (pod-api.md §15).

use super::quantity;
use super::syntax;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A field of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldPath {
    /// `metadata.name`
    Name,
    /// `metadata.namespace`
    Namespace,
    /// `metadata.uid`
    Uid,
    /// `metadata.labels`, all of them
    Labels,
    /// `metadata.annotations`, all of them
    Annotations,
    /// `metadata.labels['KEY']`
    Label(String),
    /// `metadata.annotations['KEY']`
    Annotation(String),
    /// `spec.nodeName`
    NodeName,
    /// `spec.serviceAccountName`
    ServiceAccountName,
    /// `status.hostIP`
    HostIp,
    /// `status.hostIPs`
    HostIps,
    /// `status.podIP`
    PodIp,
    /// `status.podIPs`
    PodIps,
}

impl FieldPath {
    /// The paths that a variable can name, for a message.
    pub(super) const IN_ENV: [&str; 11] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.labels['KEY']",
        "metadata.annotations['KEY']",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    /// The paths that a file can name, for a message.
    pub(super) const IN_VOLUME: [&str; 7] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.labels",
        "metadata.annotations",
        "metadata.labels['KEY']",
        "metadata.annotations['KEY']",
    ];

    /// Reads a path; none if there is no such field, or its key is no key of a label or an annotation.
    pub fn parse(path: &str) -> Option<FieldPath> {
        Some(match path {
            "metadata.name" => FieldPath::Name,
            "metadata.namespace" => FieldPath::Namespace,
            "metadata.uid" => FieldPath::Uid,
            "metadata.labels" => FieldPath::Labels,
            "metadata.annotations" => FieldPath::Annotations,
            "spec.nodeName" => FieldPath::NodeName,
            "spec.serviceAccountName" => FieldPath::ServiceAccountName,
            "status.hostIP" => FieldPath::HostIp,
            "status.hostIPs" => FieldPath::HostIps,
            "status.podIP" => FieldPath::PodIp,
            "status.podIPs" => FieldPath::PodIps,
            _ => {
                let (map, key) = path.strip_suffix("']")?.split_once("['")?;
                syntax::qualified_key(key).ok()?;
                match map {
                    "metadata.labels" => FieldPath::Label(key.to_owned()),
                    "metadata.annotations" => FieldPath::Annotation(key.to_owned()),
                    _ => return None,
                }
            }
        })
    }

    /// Whether a variable can have it.
    pub(super) fn is_in_env(&self) -> bool {
        !matches!(self, FieldPath::Labels | FieldPath::Annotations)
    }

    /// Whether a file can have it.
    pub(super) fn is_in_volume(&self) -> bool {
        use FieldPath::{Annotation, Annotations, Label, Labels, Name, Namespace, Uid};
        matches!(self, Name | Namespace | Uid | Labels | Annotations | Label(_) | Annotation(_))
    }
}

/// Whether a limit or a request is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `limits`
    Limit,
    /// `requests`
    Request,
}

/// `limits.cpu` and the like: which amount, and the resource's name.
pub fn resource(text: &str) -> Option<(Bound, &str)> {
    let (bound, name) = text.split_once('.')?;
    let bound = match bound {
        "limits" => Bound::Limit,
        "requests" => Bound::Request,
        _ => return None,
    };
    let is_huge = name.strip_prefix("hugepages-").is_some_and(|size| !size.is_empty());
    (matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge).then_some((bound, name))
}

/// What an amount of a resource is divided by: thousandths of a cpu, or bytes.
///
/// # Errors
/// What may be written instead.
pub fn divisor(name: &str, written: Option<&Quantity>) -> Result<i64, &'static str> {
    let written = written.map_or("", |quantity| quantity.0.as_str());
    // What the API server writes for none.
    let written = if matches!(written, "" | "0") { "1" } else { written };
    if name == "cpu" {
        return match written {
            "1m" => Ok(1),
            "1" => Ok(1000),
            _ => Err("1 or 1m"),
        };
    }
    const UNITS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let bytes = UNITS.contains(&written).then(|| quantity::bytes(&Quantity(written.to_owned())).ok()).flatten();
    bytes.ok_or("1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi or 1Ei")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s15_field_paths() {
        for path in FieldPath::IN_ENV.into_iter().chain(FieldPath::IN_VOLUME) {
            let parsed = FieldPath::parse(path).unwrap();
            assert_eq!(parsed.is_in_env(), FieldPath::IN_ENV.contains(&path), "{path}");
            assert_eq!(parsed.is_in_volume(), FieldPath::IN_VOLUME.contains(&path), "{path}");
        }
        assert_eq!(FieldPath::parse("metadata.labels['a.b/c']"), Some(FieldPath::Label("a.b/c".into())));
        for path in ["", "metadata", "spec.hostname", "metadata.labels['']", "metadata.labels['a b']", "spec['a']"] {
            assert_eq!(FieldPath::parse(path), None, "{path}");
        }
    }

    #[test]
    fn s15_divisors() {
        let rows = [
            ("cpu", "", Some(1000)),
            ("cpu", "1m", Some(1)),
            ("cpu", "2", None),
            ("memory", "0", Some(1)),
            ("memory", "1Mi", Some(1 << 20)),
            ("memory", "1k", Some(1000)),
            ("memory", "1Ei", Some(1 << 60)),
            ("memory", "1m", None),
            ("hugepages-2Mi", "2Mi", None),
        ];
        for (name, written, expected) in rows {
            assert_eq!(divisor(name, Some(&Quantity(written.into()))).ok(), expected, "{name} {written}");
        }
        assert_eq!(resource("limits.hugepages-2Mi"), Some((Bound::Limit, "hugepages-2Mi")));
        for text in ["", "limits", "limits.", "limits.nvidia.com/gpu", "limit.cpu", "requests.hugepages-"] {
            assert_eq!(resource(text), None, "{text}");
        }
    }
}
