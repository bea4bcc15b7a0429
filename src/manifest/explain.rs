//! What a field means, in the words of the Kubernetes API, and what podshim does with it, by the support table.

use super::hints::nearest;
use super::support::{self, Class};
use crate::embedded::{self, compressed};
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// A field explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// `spec.containers[].image`; empty for the pod itself.
    pub path: String,
    /// `string`, `[]Container`, …
    pub type_name: String,
    /// The API's description, in one paragraph or more.
    pub description: String,
    /// What podshim does with it.
    pub support: String,
    /// The fields below it.
    pub fields: Vec<FieldLine>,
}

/// One of the fields below a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldLine {
    /// Its name.
    pub name: String,
    /// Its type.
    pub type_name: String,
    /// Whether the API requires it.
    pub is_required: bool,
    /// What podshim does with it.
    pub support: String,
}

/// Explains `pod.spec.containers.livenessProbe`, with or without the first word; entries of lists are not counted.
///
/// # Errors
/// There is no such field; the nearest one is named.
pub fn explain(path: &str) -> Result<Explanation, String> {
    let schema = schema();
    let mut node = schema;
    let mut described = node;
    let mut pattern = String::new();
    let mut walked = "pod".to_owned();
    let parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
    let is_kind = |word: &&&str| ["pod", "pods", "po"].contains(&word.to_lowercase().as_str());
    for part in parts.iter().skip(usize::from(parts.first().filter(is_kind).is_some())) {
        let name = part.split('[').next().unwrap_or(part);
        let (inner, is_list) = element(node);
        if is_list {
            pattern.push_str("[]");
        }
        let Some(field) = property(inner, name) else {
            let names = properties(inner).map(|(name, _)| name.as_str());
            let hint = nearest(name, names).map_or(String::new(), |near| format!(": did you mean {near}?"));
            return Err(format!("{walked} has no field {name}{hint}"));
        };
        if !pattern.is_empty() {
            pattern.push('.');
        }
        pattern.push_str(name);
        walked = format!("{walked}.{name}");
        (node, described) = (field, field);
    }
    let (inner, is_list) = element(node);
    let below = if is_list { format!("{pattern}[]") } else { pattern.clone() };
    let required = required(inner);
    let fields = properties(inner)
        .map(|(name, field)| FieldLine {
            name: name.clone(),
            type_name: type_name(field),
            is_required: required.contains(&name.as_str()),
            support: support(&if below.is_empty() { name.clone() } else { format!("{below}.{name}") }),
        })
        .collect();
    let support = if pattern.is_empty() { String::new() } else { support(&pattern) };
    Ok(Explanation { type_name: type_name(node), description: description(described), support, fields, path: pattern })
}

/// The table's word for a path.
fn support(pattern: &str) -> String {
    let (schema, within) = support::place(pattern);
    let enforced = if within == pattern { "enforced" } else { "enforced, by `podshim debug`" };
    let row = schema.row(within).or_else(|| schema.row(&format!("{within}[]")));
    match row {
        Some(row) => {
            let what = match row.class {
                Class::Enforce => enforced,
                Class::Accept => "accepted, without effect",
                Class::Refuse | Class::Forbid => "refused",
            };
            if row.note.is_empty() { what.to_owned() } else { format!("{what}: {}", row.note) }
        }
        None if schema.knows(within) => "see its fields".to_owned(),
        None => "no row".to_owned(),
    }
}

/// Pod's JSON schema with all that it refers to. The tests make it from k8s-openapi's types: its generator is not to be in
/// the binary.
const SCHEMA: &[u8] = compressed!("pod.schema.json");

fn schema() -> &'static Value {
    static VALUE: OnceLock<Value> = OnceLock::new();
    VALUE.get_or_init(|| serde_json::from_str(&embedded::text(SCHEMA)).unwrap_or_default())
}

/// What a node refers to, or itself.
fn target(node: &'static Value) -> &'static Value {
    let reference = node.get("$ref").and_then(Value::as_str);
    reference.and_then(|r| schema().pointer(r.trim_start_matches('#'))).unwrap_or(node)
}

/// The type of a list's entries, or of the node itself.
fn element(node: &'static Value) -> (&'static Value, bool) {
    let node = target(node);
    match node.get("items") {
        Some(items) => (target(items), true),
        None => (node, false),
    }
}

fn properties(node: &'static Value) -> impl Iterator<Item = (&'static String, &'static Value)> {
    node.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn property(node: &'static Value, name: &str) -> Option<&'static Value> {
    node.get("properties")?.get(name)
}

fn required(node: &'static Value) -> Vec<&'static str> {
    node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn description(node: &'static Value) -> String {
    let text = |node: &'static Value| node.get("description").and_then(Value::as_str);
    text(node).or_else(|| text(target(node))).unwrap_or_default().to_owned()
}

/// kubectl's: `string`, `[]Container`, `map[string]Quantity`.
fn type_name(node: &'static Value) -> String {
    if let Some(items) = target(node).get("items") {
        return format!("[]{}", type_name(items));
    }
    if let Some(values) = target(node).get("additionalProperties").filter(|v| v.is_object()) {
        return format!("map[string]{}", type_name(values));
    }
    if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
        return reference.rsplit(['/', '.']).next().unwrap_or_default().to_owned();
    }
    if node.get("properties").is_some() {
        return node
            .get("title")
            .and_then(Value::as_str)
            .map_or("Pod", |t| t.rsplit('.').next().unwrap_or(t))
            .to_owned();
    }
    match node.get("type").and_then(Value::as_str).unwrap_or("Object") {
        "object" => "Object".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::schemars::SchemaGenerator;

    #[test]
    fn the_schema_is_that_of_the_types() {
        let value = SchemaGenerator::default().into_root_schema_for::<Pod>().to_value();
        let expected = serde_json::to_string(&value).unwrap() + "\n";
        if std::env::var_os("PODSHIM_BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manifest/explain/pod.schema.json");
            std::fs::write(path, &expected).unwrap();
        } else {
            assert!(
                embedded::text(SCHEMA) == expected,
                "PODSHIM_BLESS=1 rewrites src/manifest/explain/pod.schema.json"
            );
        }
    }

    #[test]
    fn fields_are_explained_from_the_api_and_the_table() {
        let probe = explain("pod.spec.containers.livenessProbe").unwrap();
        assert_eq!((&*probe.path, &*probe.type_name), ("spec.containers[].livenessProbe", "Probe"));
        assert!(probe.description.starts_with("Periodic probe of container liveness"), "{}", probe.description);
        let period = probe.fields.iter().find(|f| f.name == "periodSeconds").unwrap();
        assert_eq!((&*period.type_name, &*period.support, period.is_required), ("integer", "enforced", false));
        // Lists and maps, with or without the kind and indexes.
        for (path, type_name) in [
            ("spec.containers[0].ports", "[]ContainerPort"),
            ("pods.spec.initContainers.resources.limits", "map[string]Quantity"),
            ("pod.spec.volumes.emptyDir.sizeLimit", "Quantity"),
            ("pod.spec.containers.livenessProbe.httpGet.port", "IntOrString"),
            ("pod.spec.containers.command", "[]string"),
            ("pod.metadata.creationTimestamp", "Time"),
            ("pod", "Pod"),
            ("", "Pod"),
        ] {
            assert_eq!(explain(path).unwrap().type_name, type_name, "{path}");
        }
        let csi = explain("pod.spec.volumes.csi").unwrap();
        assert!(csi.support.starts_with("refused: needs a storage driver"), "{}", csi.support);
        for (path, word) in [
            ("pod.spec.ephemeralContainers", "refused: Kubernetes forbids it in a new pod"),
            ("pod.spec.ephemeralContainers.workingDir", "enforced, by `podshim debug`"),
            ("pod.spec.ephemeralContainers.envFrom.configMapRef.name", "enforced, by `podshim debug`"),
            ("pod.spec.ephemeralContainers.securityContext", "see its fields"),
            ("pod.spec.ephemeralContainers.resources.limits", "refused: an ephemeral container has no requests"),
            ("pod.spec.ephemeralContainers.volumeMounts.subPath", "refused: an ephemeral container mounts whole"),
        ] {
            let said = explain(path).unwrap().support;
            assert!(said.starts_with(word), "{path}: {said}");
        }
        assert!(explain("pod.spec.affinity").unwrap().support.starts_with("accepted, without effect"));
        assert_eq!(
            explain("pod.spec.contaners").unwrap_err(),
            "pod.spec has no field contaners: did you mean containers?"
        );
        assert_eq!(explain("pod.spec.hostname.x").unwrap_err(), "pod.spec.hostname has no field x");
    }

    #[test]
    fn every_field_of_a_pods_spec_has_a_word_of_its_support() {
        let mut waiting = vec!["pod.metadata".to_owned(), "pod.spec".to_owned()];
        let mut seen = 0;
        while let Some(path) = waiting.pop() {
            for field in explain(&path).unwrap().fields {
                assert_ne!(field.support, "no row", "{path}.{}", field.name);
                seen += 1;
                // Of what is refused or ignored as a whole the parts do not matter.
                if matches!(&*field.support, "enforced" | "see its fields") {
                    waiting.push(format!("{path}.{}", field.name));
                }
            }
        }
        assert!(seen > 300, "{seen}");
    }
}
