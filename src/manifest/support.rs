//! The field support table: what this version does with each field of a Pod, and of the other kinds of documents.
//!
//! Every field that a manifest sets falls under a row. What is not done is refused by name, never ignored.

#[cfg(test)]
mod acceptance;
mod kinds;
#[cfg(test)]
mod readme;
mod rows;

use super::diagnostics::{Diagnostic, Report};
use super::kind::Kind;
use super::path::{Path, Seg};
use super::tree::{Node, Value};
use rows::ROWS;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::OnceLock;

/// What podshim does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It has its effect.
    Enforce,
    /// It has no effect on one host, which a note says.
    Accept,
    /// It needs what podshim does not have.
    Refuse,
    /// It cannot work anywhere, in Kubernetes neither.
    Forbid,
}

/// One field path.
#[derive(Debug)]
pub(super) struct Row {
    /// The path without indexes: `spec.containers[].image`.
    pub(super) path: &'static str,
    pub(super) class: Class,
    /// The API's default, if it is another than an empty value: setting it says nothing.
    pub(super) default: &'static str,
    /// Why it has no effect, or what it would need.
    pub(super) note: &'static str,
}

/// What a document of one kind may hold, and what this version does with it.
pub(super) struct Schema {
    kind: Kind,
    /// By path without indexes. The rows of a pod below `spec.template` have that before their own paths here.
    rows: BTreeMap<Cow<'static, str>, &'static Row>,
}

impl Schema {
    /// The schema of a kind, made when it is first asked for: a manifest needs one or two.
    pub(super) fn of(kind: Kind) -> &'static Schema {
        // One more than a document can name: an ephemeral container's.
        const KINDS: usize = Kind::ALL.len() + 1;
        static SCHEMAS: [OnceLock<Schema>; KINDS] = [const { OnceLock::new() }; KINDS];
        SCHEMAS[kind as usize].get_or_init(|| Schema::new(kind))
    }

    fn new(kind: Kind) -> Schema {
        let mut rows = Vec::new();
        let mut add = |row: &'static Row, (at, below): (&str, &'static str)| {
            let path = if at.is_empty() { Cow::Borrowed(below) } else { Cow::Owned(format!("{at}.{below}")) };
            rows.push((path, row));
        };
        let of_pod = |row: &&'static Row| row.path.starts_with("metadata") || row.path.starts_with("spec");
        match kind.pod() {
            Some("") => ROWS.iter().for_each(|row| add(row, ("", row.path))),
            pod => {
                if kind == Kind::EphemeralContainer {
                    let shared = |row: &'static Row| Some((row, row.path.strip_prefix(CONTAINERS)?));
                    let differs = |path: &str| kinds::EPHEMERAL.iter().any(|own| is_at_or_below(path, own.path));
                    let shared = ROWS.iter().filter_map(shared).filter(|(_, path)| !differs(path));
                    shared.for_each(|(row, path)| add(row, ("", path)));
                }
                kinds::rows(kind).for_each(|row| add(row, ("", row.path)));
                if let Some(at) = pod {
                    // A template's name is not the pods' name.
                    let own = |row: &&'static Row| {
                        of_pod(row)
                            && !matches!(row.path, "metadata.name" | "metadata.namespace" | "metadata.generateName")
                    };
                    let template = ROWS.iter().filter(own).chain(kinds::TEMPLATE);
                    template.for_each(|row| add(row, (at, row.path)));
                }
            }
        }
        // Sorted at once, which the tables nearly are.
        Schema { kind, rows: rows.into_iter().collect() }
    }

    /// The kind of the documents.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether there is this path (without indexes), as a field or above one. The root is `""`.
    pub(super) fn knows(&self, pattern: &str) -> bool {
        let pattern = self.canonical(pattern);
        pattern.is_empty()
            || self.rows.contains_key(&*pattern)
            || self.beginning(format!("{pattern}.")).next().is_some()
            || self.beginning(format!("{pattern}[]")).next().is_some()
    }

    /// Whether there are fields below a path (without indexes).
    pub(super) fn has_fields(&self, pattern: &str) -> bool {
        self.fields_of(pattern).next().is_some()
    }

    /// The names of the fields below a path (without indexes), one as often as there are rows below it.
    pub(super) fn fields_of(&self, pattern: &str) -> impl Iterator<Item = &str> {
        let start = if pattern.is_empty() { String::new() } else { format!("{}.", self.canonical(pattern)) };
        let length = start.len();
        // Keys of free maps are no fields.
        let paths = self.beginning(start).filter(|path| !path.contains('<') && !path.contains(".annotations."));
        paths.map(move |path| {
            let below = &path[length..];
            &below[..below.bytes().position(|b| matches!(b, b'.' | b'[')).unwrap_or(below.len())]
        })
    }

    /// The paths that begin with this text.
    fn beginning(&self, start: String) -> impl Iterator<Item = &str> {
        let from = (Bound::Included(start.as_str()), Bound::Unbounded);
        self.rows.range::<str, _>(from).map(|(path, _)| &**path).take_while(move |path| path.starts_with(&start))
    }

    /// The row of exactly this path, or of the list that it is.
    fn exact(&self, pattern: &str) -> Option<&'static Row> {
        self.rows.get(pattern).or_else(|| self.rows.get(format!("{pattern}[]").as_str())).copied()
    }

    /// The row of a path (without indexes), or of the nearest path above that stands for all below it.
    pub(super) fn row(&self, pattern: &str) -> Option<&'static Row> {
        let pattern = self.canonical(pattern);
        if let Some(row) = self.rows.get(&*pattern) {
            return Some(row);
        }
        let ends = pattern.match_indices(['.', '[']).map(|(i, _)| i).collect::<Vec<_>>();
        ends.into_iter().rev().find_map(|end| {
            let whole = self.exact(&pattern[..end]);
            whole.filter(|row| row.class != Class::Enforce || self.is_free_map(row.path))
        })
    }

    /// The rows below a path.
    #[cfg(test)]
    fn below(&self, pattern: &str) -> impl Iterator<Item = &'static Row> {
        self.rows.iter().filter(move |(path, _)| *path != pattern && is_at_or_below(path, pattern)).map(|(_, row)| *row)
    }

    /// A path (without indexes) in the terms of the rows: init containers have those of containers.
    pub(super) fn canonical<'p>(&self, pattern: &'p str) -> Cow<'p, str> {
        match self.in_pod(pattern).as_deref().and_then(|within| within.strip_prefix("spec.initContainers")) {
            Some(rest) => {
                let above = &pattern[..pattern.len() - rest.len() - "initContainers".len()];
                Cow::Owned(format!("{above}containers{rest}"))
            }
            None => Cow::Borrowed(pattern),
        }
    }

    /// Whether a path (without indexes) is a mapping with keys of the user's own choice.
    pub(super) fn is_free_map(&self, pattern: &str) -> bool {
        // In other documents a selector has fields.
        is_free_map(pattern) || self.kind == Kind::Service && pattern == "spec.selector"
    }

    /// A path within the pod that a document holds, or is a part of; none if it lies outside, or there is no pod.
    pub(super) fn in_pod<'p>(&self, pattern: &'p str) -> Option<Cow<'p, str>> {
        if self.kind == Kind::EphemeralContainer {
            return (!pattern.is_empty()).then(|| Cow::Owned(format!("{CONTAINERS}{pattern}")));
        }
        let within = match self.kind.pod()? {
            "" => pattern,
            at => match pattern.strip_prefix(at)? {
                "" => "",
                rest => rest.strip_prefix('.')?,
            },
        };
        Some(Cow::Borrowed(within))
    }
}

fn is_at_or_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// What the paths of a container's fields begin with.
const CONTAINERS: &str = "spec.containers[].";

/// Whether a path of any kind of document is a mapping with keys of the user's own choice.
fn is_free_map(pattern: &str) -> bool {
    let last = pattern.rsplit('.').next().unwrap_or("");
    matches!(last, "labels" | "annotations" | "nodeSelector" | "limits" | "requests" | "matchLabels")
        || matches!(pattern, "data" | "binaryData" | "stringData")
}

/// A pattern with the key of a free map brought to the table's terms.
fn keyed(parent: &str, key: &str) -> String {
    let resources = parent.ends_with(".limits") || parent.ends_with(".requests");
    if resources && key.starts_with("hugepages-") {
        return format!("{parent}.hugepages-<size>");
    }
    if resources && key.contains('/') {
        return format!(
            "{}.<extended>",
            parent.trim_end_matches("requests").trim_end_matches("limits").to_owned() + "limits"
        );
    }
    if parent.ends_with("metadata.annotations") {
        for (prefix, rest) in [
            ("container.apparmor.security.beta.kubernetes.io/", "<container>"),
            ("container.seccomp.security.alpha.kubernetes.io/", "<container>"),
            ("seccomp.security.alpha.kubernetes.io/", "<pod>"),
        ] {
            if key.starts_with(prefix) {
                return format!("{parent}.{prefix}{rest}");
            }
        }
    }
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// Where a path of a Pod (without indexes) has its row, and by which path: an ephemeral container is none of a manifest's.
pub(super) fn place(pattern: &str) -> (&'static Schema, &str) {
    match pattern.strip_prefix("spec.ephemeralContainers[].") {
        Some(within) => (Schema::of(Kind::EphemeralContainer), within),
        None => (Schema::of(Kind::Pod), pattern),
    }
}

/// Whether a Pod has this path (without indexes), as a field or above one. The root is `""`.
pub(super) fn knows(pattern: &str) -> bool {
    Schema::of(Kind::Pod).knows(pattern)
}

/// What the check of a document found besides faults.
#[derive(Debug, Default)]
pub(super) struct Notes(pub(super) Vec<String>);

/// Checks every field that a document sets against the table.
pub(super) fn check(document: &Node, schema: &'static Schema, report: &mut Report) -> Notes {
    let mut walk = Walk { schema, notes: Notes::default(), report };
    walk.node(document, &Path::root(), "");
    walk.notes
}

struct Walk<'r> {
    schema: &'static Schema,
    notes: Notes,
    report: &'r mut Report,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node, path: &Path, pattern: &str) {
        for (key, value) in node.entries() {
            let below = keyed(pattern, &key.name);
            self.field(&path.field(&key.name), &below, (key.at, value));
        }
        for (i, item) in node.items().iter().enumerate() {
            let below = format!("{pattern}[]");
            if self.stands_for_all(&below) {
                self.field(&path.index(i), &below, (item.at, item))
            } else {
                self.node(item, &path.index(i), &below)
            }
        }
    }

    fn stands_for_all(&self, pattern: &str) -> bool {
        self.schema.rows.get(&*self.schema.canonical(pattern)).is_some_and(|row| row.class != Class::Enforce)
    }

    fn field(&mut self, path: &Path, pattern: &str, (at, value): (super::tree::Span, &Node)) {
        let pattern = &*self.schema.canonical(pattern);
        let Some(row) = self.schema.exact(pattern) else {
            if self.schema.knows(pattern) {
                self.node(value, path, pattern);
            } else if !self.report.touches(path) && !self.is_below_free_map(path) && !value.is_empty() {
                // Nothing may pass unseen: a field of the API types that the table lacks is a fault of podshim.
                self.report.add(
                    Diagnostic::new(at, "unknown to podshim's support table")
                        .path(path)
                        .help("please report this as a bug of podshim"),
                );
            }
            return;
        };
        let unset = says_nothing(value, row);
        match row.class {
            Class::Enforce => self.node(value, path, pattern),
            _ if unset => {}
            Class::Accept if row.note.is_empty() => {}
            Class::Accept => self.notes.0.push(format!("{path} {}", row.note)),
            Class::Refuse => {
                self.report.add(Diagnostic::new(at, "not supported on one host").path(path).label(row.note));
            }
            Class::Forbid => self.report.add(Diagnostic::new(at, "not allowed").path(path).label(row.note)),
        }
    }

    fn is_below_free_map(&self, path: &Path) -> bool {
        let is_free = |seg: &Seg| matches!(seg, Seg::Field(name) if is_free_map(name));
        let above = path.0.split_last().map_or(&[][..], |(_, above)| above);
        above.iter().any(is_free) || self.schema.is_free_map(&Path(above.to_vec()).pattern())
    }
}

/// A value of a field that this version does not do.
pub(super) fn not_yet(at: super::tree::Span, path: &Path) -> Diagnostic {
    Diagnostic::new(
        at,
        concat!("not supported yet by podshim ", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR")),
    )
    .path(path)
}

/// Whether setting a field to this is the same as not setting it.
fn says_nothing(value: &Node, row: &Row) -> bool {
    if let Some(source) = row.path.strip_prefix("spec.volumes[].")
        && !source.contains(['.', '['])
    {
        // `configMap: {}` is no configMap yet, but an emptyDir it is not.
        return value.value == Value::Null;
    }
    match value.value {
        // Where the API's default is true, false is a request.
        Value::Bool(_) if !row.default.is_empty() => is_default(value, row.default),
        _ => value.is_empty() || is_default(value, row.default),
    }
}

fn is_default(value: &Node, default: &str) -> bool {
    match &value.value {
        Value::Str(text) => !default.is_empty() && text == default,
        Value::Bool(b) => default == b.to_string(),
        Value::Int(i) => default == i.to_string(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `path <tab> type <tab> class`, a row per leaf of the API's Pod type.
    const LEAVES: &str = include_str!("../../tests/data/pod-leaves.tsv");

    #[test]
    fn every_field_of_the_api_falls_under_a_row() {
        let leaves: Vec<Vec<&str>> = LEAVES.lines().skip(1).map(|l| l.split('\t').collect()).collect();
        assert!(leaves.len() > 900);
        for leaf in leaves {
            let path = leaf[0];
            let (schema, path) = place(path);
            let row = |path: &str| schema.row(path);
            let found = row(path).is_some() || row(&format!("{path}[]")).is_some() || schema.knows(path);
            assert!(found, "{path}");
            if leaf[2] == "REFUSE" {
                assert_ne!(row(path).map(|r| r.class), Some(Class::Enforce), "{path}");
            }
        }
    }

    #[test]
    fn rows_are_unique_and_lie_in_the_api() {
        assert_eq!(Schema::of(Kind::Pod).rows.len(), ROWS.len());
        for row in ROWS {
            let is_refused = matches!(row.class, Class::Refuse | Class::Forbid);
            assert!(!is_refused || !row.note.is_empty(), "{}", row.path);
        }
    }

    #[test]
    fn a_subtree_has_the_class_of_its_top() {
        let class = |p| Schema::of(Kind::Pod).row(p).map(|r| r.class);
        let of_ephemeral = |p| Schema::of(Kind::EphemeralContainer).row(p).map(|r| r.class);
        assert_eq!(class("spec.affinity.nodeAffinity"), Some(Class::Accept));
        assert_eq!(class("spec.initContainers[].image"), Some(Class::Enforce));
        for (kind, template) in [(Kind::Job, "spec.template"), (Kind::CronJob, "spec.jobTemplate.spec.template")] {
            let image = format!("{template}.spec.initContainers[].image");
            assert_eq!(Schema::of(kind).row(&image).map(|r| r.class), Some(Class::Enforce), "{image}");
            assert!(Schema::of(kind).fields_of(&format!("{template}.spec.initContainers[]")).any(|f| f == "image"));
        }
        assert_eq!(class("spec.volumes[].csi.driver.name"), Some(Class::Refuse));
        assert_eq!(class("spec.initContainers[].livenessProbe.exec.command[]"), Some(Class::Enforce));
        assert_eq!(class("spec.ephemeralContainers[].name"), Some(Class::Forbid));
        assert_eq!(of_ephemeral("securityContext.capabilities.add[]"), Some(Class::Enforce));
        assert_eq!(of_ephemeral("resources.limits.cpu"), Some(Class::Forbid));
        assert_eq!(of_ephemeral("volumeMounts[].subPath"), Some(Class::Forbid));
        assert_eq!(class("spec.volumes[].csi.driver"), Some(Class::Refuse));
        assert_eq!(class("metadata.labels.app"), Some(Class::Enforce));
        assert_eq!(class("spec.bogus"), None);
    }
}
