//! The downward API: what a pod says about itself to its containers (pod-api.md §15). Pure.

use super::config::EnvValue;
use super::pod::Choices;
use crate::manifest::downward::{self, Bound, FieldPath};
use crate::manifest::quantity;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// What a pod's fields are taken from.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) pod: &'a k8s::Pod,
    pub(super) spec: &'a k8s::PodSpec,
    pub(super) choices: &'a Choices,
}

type Amounts = Option<BTreeMap<String, Quantity>>;

impl Subject<'_> {
    /// A field as a variable.
    pub(super) fn variable(&self, field: &k8s::ObjectFieldSelector) -> Result<EnvValue> {
        Ok(match parse(field)? {
            FieldPath::HostIp => EnvValue::HostIp,
            FieldPath::HostIps => EnvValue::HostIps,
            FieldPath::PodIp => EnvValue::PodIp,
            FieldPath::PodIps => EnvValue::PodIps,
            FieldPath::NodeName => EnvValue::Text(self.choices.node.name.clone()),
            FieldPath::ServiceAccountName => {
                let name = self.spec.service_account_name.as_deref().filter(|name| !name.is_empty());
                EnvValue::Text(name.unwrap_or("default").to_owned())
            }
            other => EnvValue::Text(self.text(&other)),
        })
    }

    /// A field as a file's content.
    pub(super) fn content(&self, field: &k8s::ObjectFieldSelector) -> Result<String> {
        Ok(self.text(&parse(field)?))
    }

    /// The text of what is known of a pod before it runs.
    fn text(&self, field: &FieldPath) -> String {
        let metadata = &self.pod.metadata;
        let value = |map: &Option<BTreeMap<String, String>>, key: &str| {
            map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
        };
        match field {
            FieldPath::Name => metadata.name.clone().unwrap_or_default(),
            FieldPath::Namespace => metadata.namespace.clone().unwrap_or_default(),
            FieldPath::Uid => self.choices.uid.clone(),
            FieldPath::Label(key) => value(&metadata.labels, key),
            FieldPath::Annotation(key) => value(&metadata.annotations, key),
            FieldPath::Labels => all(metadata.labels.as_ref()),
            FieldPath::Annotations => all(metadata.annotations.as_ref()),
            // Validation keeps these from files.
            FieldPath::NodeName
            | FieldPath::ServiceAccountName
            | FieldPath::HostIp
            | FieldPath::HostIps
            | FieldPath::PodIp
            | FieldPath::PodIps => String::new(),
        }
    }

    /// An amount of a resource, divided and rounded up; `own` is the container that asks.
    pub(super) fn amount(&self, wanted: &k8s::ResourceFieldSelector, own: Option<&k8s::Container>) -> Result<String> {
        let name = wanted.container_name.as_deref().filter(|name| !name.is_empty());
        let mut all = self.spec.init_containers.iter().flatten().chain(&self.spec.containers);
        let container = match name {
            Some(name) => all.find(|c| c.name == name).with_context(|| format!("there is no container {name}"))?,
            None => own.context("resourceFieldRef.containerName is missing")?,
        };
        let (bound, resource) =
            downward::resource(&wanted.resource).with_context(|| format!("resource {:?}", wanted.resource))?;
        let divisor = downward::divisor(resource, wanted.divisor.as_ref())
            .map_err(|known| anyhow::anyhow!("divisor is not {known}"))?;
        let amount = match bound {
            Bound::Limit => self.limit(container, resource)?,
            Bound::Request => self.request(container, resource)?,
        };
        Ok((i128::from(amount).max(0) + i128::from(divisor) - 1).div_euclid(i128::from(divisor)).to_string())
    }

    /// The container's limit, else the pod's, else what the host has.
    fn limit(&self, container: &k8s::Container, resource: &str) -> Result<i64> {
        let of_container = container.resources.as_ref().and_then(|r| in_units(&r.limits, resource).transpose());
        let of_pod = self.spec.resources.as_ref().and_then(|r| in_units(&r.limits, resource).transpose());
        if let Some(limit) = of_container.transpose()?.filter(|n| *n > 0).or(of_pod.transpose()?.filter(|n| *n > 0)) {
            return Ok(limit);
        }
        let node = &self.choices.node;
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Ok(match resource {
            "cpu" => i64::from(node.cpus) * 1000,
            "memory" => bytes(self.choices.host_memory),
            "ephemeral-storage" => bytes(node.storage),
            // Huge pages are never overcommitted: no limit is none.
            _ => 0,
        })
    }

    /// The container's request, which is its limit if only that is set.
    fn request(&self, container: &k8s::Container, resource: &str) -> Result<i64> {
        let Some(resources) = &container.resources else { return Ok(0) };
        let request = in_units(&resources.requests, resource)?;
        Ok(request.or(in_units(&resources.limits, resource)?).unwrap_or(0))
    }
}

fn parse(field: &k8s::ObjectFieldSelector) -> Result<FieldPath> {
    FieldPath::parse(&field.field_path).with_context(|| format!("fieldPath {:?}", field.field_path))
}

/// Thousandths of a cpu, or bytes.
fn in_units(amounts: &Amounts, resource: &str) -> Result<Option<i64>> {
    let convert = if resource == "cpu" { quantity::milli } else { quantity::bytes };
    let amount = amounts.as_ref().and_then(|amounts| amounts.get(resource));
    amount.map(convert).transpose().with_context(|| format!("resources: {resource}"))
}

/// A whole map: `key="value"` in the order of the keys, one a line, without a line end after the last.
fn all(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

/// A text as Go's `%q` prints it (strconv.Quote).
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            _ if is_printable(c) => out.push(c),
            '\0'..='\u{1f}' | '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            '\u{80}'..='\u{ffff}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            _ => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push('"');
    out
}

/// Letters, marks, numbers, punctuation, symbols and the ordinary blank: what Rust's own escaping leaves as it is. A
/// mark is escaped there only where it stands first.
fn is_printable(c: char) -> bool {
    let text = format!("a{c}");
    // A single quote is escaped there, too.
    c == '\'' || text.escape_debug().eq(text.chars())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s15_whole_maps_are_quoted_as_go_does() {
        let rows = [
            ("plain", "v1", "\"v1\""),
            ("quotes", "a\"b\\c", "\"a\\\"b\\\\c\""),
            ("single quotes stay", "it's", "\"it's\""),
            ("line ends", "a\nb\tc\r", "\"a\\nb\\tc\\r\""),
            ("bells", "\u{7}\u{8}\u{b}\u{c}", "\"\\a\\b\\v\\f\""),
            ("control", "\u{1b}\0\u{7f}", "\"\\x1b\\x00\\x7f\""),
            ("letters", "é世😀", "\"é世😀\""),
            ("a mark", "e\u{301}", "\"e\u{301}\""),
            ("odd blanks", "\u{a0}\u{2028}", "\"\\u00a0\\u2028\""),
            ("invisible", "\u{200b}\u{feff}\u{e0001}", "\"\\u200b\\ufeff\\U000e0001\""),
        ];
        for (name, text, expected) in rows {
            assert_eq!(quoted(text), expected, "{name}");
        }
        let map = [("b", "2"), ("a", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(all(Some(&map)), "a=\"1\"\nb=\"2\"");
        assert_eq!(all(None), "");
    }
}
