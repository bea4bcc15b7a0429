//! The rules of the API server (and of podshim, where one host needs more) for the fields that are admitted.
//!
//! Each fault names its field. A field that the reader objected to already is left alone.

mod container;
mod env;
mod files;
mod lifecycle;
mod names;
mod network;
mod pod;
mod references;
mod required;
mod resources;
mod security;
mod volume;

pub(super) use references::{references, references_of_ephemeral};
pub(super) use required::required;

use super::diagnostics::{Diagnostic, Report, quote};
use super::hints;
use super::path::{Path, Seg};
use super::support;
use super::syntax::Rule;
use super::tree::{Node, Span, Value};
use k8s_openapi::api::core::v1::{Container, Pod};

/// Checks a defaulted pod; `document` is the part of a document that it was read from, and says where its fields stand.
pub(super) fn check(pod: &Pod, document: &Node, (at, text, report): (&Path, &str, &mut Report)) {
    report.begin_validation();
    let mut checker = Checker::new(document, at, (text, report));
    pod::check(&mut checker, pod);
}

/// Checks an ephemeral container with its defaults; `part` is what was written of it.
pub(super) fn check_ephemeral(container: &Container, pod: &Pod, (part, text, report): (&Node, &str, &mut Report)) {
    report.begin_validation();
    let root = Path::root();
    let mut checker = Checker::new(part, &root, (text, report));
    if let Some(spec) = &pod.spec {
        container::check(&mut checker, container, (spec, &root));
    }
}

pub(super) struct Checker<'c> {
    document: &'c Node,
    /// Where `document` stands in the whole one: the paths of faults begin there.
    at: &'c Path,
    text: &'c str,
    report: &'c mut Report,
    /// Names of volumes could not be read, so mounts cannot be held against them.
    volumes_unclear: bool,
}

impl<'c> Checker<'c> {
    pub(super) fn new(document: &'c Node, at: &'c Path, (text, report): (&'c str, &'c mut Report)) -> Checker<'c> {
        let volumes = at.join(&Path::of("spec.volumes"));
        let is_about_names = |p: &Path| {
            p.is_prefix_of(&volumes)
                || volumes.is_prefix_of(p) && p.0.len() > volumes.0.len() + 1 && p.last_field() == "name"
        };
        let faults = report.list.iter().filter(|d| !d.is_repaired);
        let volumes_unclear = faults.filter_map(|d| d.path.as_ref()).any(|p| !p.0.is_empty() && is_about_names(p));
        Checker { document, at, text, report, volumes_unclear }
    }

    /// Whether a fault at, above or below this field is known already.
    fn touches(&self, path: &Path) -> bool {
        self.report.touches(&self.at.join(path))
    }

    /// A fault at a field, unless one is known there already.
    pub(super) fn fault(&mut self, path: &Path, message: impl Into<String>) {
        self.fault_with(path, message.into(), |d| d);
    }

    pub(super) fn fault_with(&mut self, path: &Path, message: String, explain: impl FnOnce(Diagnostic) -> Diagnostic) {
        let at = locate(self.document, path);
        self.fault_at((path, at), message, explain);
    }

    /// A fault of a key of the user's own.
    pub(super) fn key_fault(&mut self, path: &Path, message: String, explain: impl FnOnce(Diagnostic) -> Diagnostic) {
        let at = locate_key(self.document, path).unwrap_or_else(|| locate(self.document, path));
        self.fault_at((path, at), message, explain);
    }

    fn fault_at(&mut self, (path, at): (&Path, Span), message: String, explain: impl FnOnce(Diagnostic) -> Diagnostic) {
        if self.touches(path) {
            return;
        }
        let mut diagnostic = Diagnostic::new(at, message).path(&self.at.join(path));
        let span = at.of(self.text).trim_end();
        if span.contains('\n') && !span.starts_with(['"', '\'', '|', '>']) {
            diagnostic = diagnostic.help("the value goes on over several lines: a colon may be missing in one of them, or its indentation is wrong");
        }
        self.report.add(explain(diagnostic));
    }

    /// A value that this version does not do.
    pub(super) fn not_yet(&mut self, path: &Path, help: &str) {
        if !self.touches(path) {
            self.report.add(support::not_yet(locate(self.document, path), &self.at.join(path)).help(help));
        }
    }

    /// A value that breaks a grammar.
    pub(super) fn grammar(&mut self, path: &Path, (value, check): (&str, Rule)) {
        if let Err(rule) = check(value) {
            self.fault(path, format!("{} {rule}", quote(value)));
        }
    }

    /// A key of the user's own that breaks a grammar.
    pub(super) fn key_grammar(&mut self, path: &Path, (key, check): (&str, Rule)) {
        if let Err(rule) = check(key) {
            self.key_fault(path, format!("{} {rule}", quote(key)), |d| d);
        }
    }

    /// A name that breaks a grammar, with the nearest name that does not.
    pub(super) fn name(&mut self, path: &Path, (value, check): (&str, Rule)) {
        if let Err(rule) = check(value) {
            let near = super::syntax::as_label(value).filter(|near| near != value);
            let near = near.map(|near| format!("for example `{near}`"));
            self.fault_with(path, format!("{} {rule}", quote(value)), |d| near.into_iter().fold(d, Diagnostic::label));
        }
    }

    /// One of a few words.
    pub(super) fn one_of(&mut self, path: &Path, (value, words): (Option<&str>, &[&'static str])) {
        let Some(value) = value.filter(|v| !words.contains(v)) else { return };
        let near = hints::nearest(value, words.iter().copied().filter(|w| !w.is_empty()));
        let shown: Vec<&str> = words.iter().map(|w| if w.is_empty() { "\"\"" } else { w }).collect();
        self.fault_with(path, format!("{} is none of {}", quote(value), shown.join(", ")), |d| match near {
            Some(near) => d.label(format!("did you mean `{near}`?")),
            None => d,
        });
    }

    /// Exactly one of several sources is to be set.
    fn one_source(&mut self, path: &Path, sources: &[(&str, bool)]) {
        let set: Vec<&str> = sources.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect();
        match set.as_slice() {
            [_] => {}
            [] => {
                let names: Vec<&str> = sources.iter().map(|(name, _)| *name).collect();
                self.fault(path, format!("names no source: one of {} is needed", names.join(", ")));
            }
            several => self.fault(path, format!("has one source, found {}: {}", several.len(), several.join(", "))),
        }
    }

    /// A number between bounds.
    pub(super) fn between(&mut self, path: &Path, (value, min, max): (i64, i64, i64)) {
        if !(min..=max).contains(&value) {
            self.fault(path, format!("{value} is not between {min} and {max}"));
        }
    }

    /// The first of two equal values is remarked at the second.
    pub(super) fn twice(&mut self, path: &Path, (first, message): (&Path, String)) {
        let at = locate(self.document, first);
        self.fault_with(path, message, |d| d.remark(at, "first used here"));
    }
}

/// Where a field stands: its value if that is a scalar, else its key, else what is nearest above.
pub(super) fn locate(document: &Node, path: &Path) -> Span {
    let first_key = |node: &Node| node.entries().first().map_or(node.at, |(key, _)| key.at);
    let mut node = document;
    let mut at = first_key(document);
    for seg in &path.0 {
        let below = match seg {
            Seg::Field(name) => match node.entry(name) {
                Some((key, value)) => {
                    at = match value.value {
                        Value::Null | Value::Seq(_) | Value::Map(_) => key.at,
                        _ => value.at,
                    };
                    value
                }
                None => break,
            },
            Seg::Index(index) => match node.items().get(*index) {
                Some(item) => {
                    at = first_key(item);
                    item
                }
                None => break,
            },
        };
        node = below;
    }
    at
}

/// Where the key of a field stands.
fn locate_key(document: &Node, path: &Path) -> Option<Span> {
    let (Seg::Field(last), above) = path.0.split_last()? else { return None };
    let mut node = document;
    for seg in above {
        node = match seg {
            Seg::Field(name) => node.get(name)?,
            Seg::Index(index) => node.items().get(*index)?,
        };
    }
    node.entry(last).map(|(key, _)| key.at)
}
