//! From YAML or JSON to pods that may run: reading, defaults, validation, and the field support table.
//!
//! In: texts. Out: [`AdmittedPod`]s, or [`Diagnostics`], which hold every fault of every text with its place, its field and
//! how to repair it. Nothing is created on the host, no image is looked at, and no field is ever silently ignored.
//!
//! The way of a text: `reindent` (nothing is indented at all) → `tree` (untyped, with positions) → `paste` (faults of
//! copying) → `shape` (lost indentation and dashes) → `typed` (Kubernetes' own types) → `validate::required` → `support`
//! (what this version does) → `defaults` → `validate`. Each step reports and goes on where it can.

pub mod amounts;
mod apparmor;
mod defaults;
mod diagnostics;
mod explain;
mod hints;
mod paste;
mod path;
pub mod quantity;
mod reindent;
mod shape;
mod support;
mod syntax;
pub mod sysctl;
mod tree;
mod typed;
mod validate;

pub(crate) use apparmor::{APPARMOR_ANNOTATION, apparmor_annotation};
pub(crate) use defaults::policy_by_tag;
pub use diagnostics::{Color, Diagnostics};
pub use explain::{Explanation, FieldLine, explain};
pub(crate) use syntax::{dns_label, relative_path};

use anyhow::{Context, Result, bail};
use diagnostics::{Diagnostic, Report, quote};
use k8s_openapi::api::core::v1::Pod;
use path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path as FilePath, PathBuf};
use tree::{Node, Span, Value};

/// Largest text that is read, in bytes; the largest sensible manifest has some tens of KiB.
const MAX_BYTES: u64 = 8 << 20;
/// Largest sum of all texts, in bytes.
const MAX_TOTAL: u64 = 4 * MAX_BYTES;

/// A text and what to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The path as given, or `<stdin>`.
    pub name: String,
    /// The text, YAML or JSON, without a byte order mark.
    pub text: String,
}

/// Reads manifests: from a file, from the files `*.yaml`, `*.yml` and `*.json` of a directory (in the order of their names,
/// not from its subdirectories), or from standard input for `-`.
///
/// # Errors
/// A path cannot be read, is larger than 8 MiB, is not UTF-8, or a directory holds no manifest.
pub fn read_sources(paths: &[String]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut total = 0;
    for path in paths {
        if path == "-" {
            sources.push(read_text(std::io::stdin().lock(), "<stdin>")?);
        } else {
            let files = if FilePath::new(path).is_dir() { manifests_in(path)? } else { vec![PathBuf::from(path)] };
            for file in files {
                let name = file.display().to_string();
                let open = std::fs::File::open(&file).with_context(|| format!("reading the manifest {name}"))?;
                sources.push(read_text(open, &name)?);
            }
        }
        total += sources.last().map_or(0, |s: &Source| s.text.len() as u64);
        if total > MAX_TOTAL {
            bail!("reading the manifests: together more than {} MiB", MAX_TOTAL >> 20);
        }
    }
    Ok(sources)
}

fn manifests_in(directory: &str) -> Result<Vec<PathBuf>> {
    let context = || format!("reading the manifests in {directory}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let is_manifest =
            path.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "yaml" | "yml" | "json"));
        if is_manifest && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{directory} holds no *.yaml, *.yml or *.json");
    }
    files.sort();
    Ok(files)
}

fn read_text(reader: impl Read, name: &str) -> Result<Source> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("reading the manifest {name}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("the manifest {name} is larger than {} MiB", MAX_BYTES >> 20);
    }
    match String::from_utf8(bytes) {
        Ok(text) => {
            Ok(Source { name: name.to_owned(), text: text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned() })
        }
        Err(error) => {
            let (line, _) = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
            bail!("the manifest {name} is not UTF-8: line {line}")
        }
    }
}

fn line_of(bytes: &[u8], offset: usize) -> (usize, usize) {
    (bytes[..offset].iter().filter(|b| **b == b'\n').count() + 1, offset)
}

/// A pod that passed every check: proof that it may be planned. Its fields hold their defaults.
#[derive(Debug, Clone)]
pub struct AdmittedPod {
    pod: Pod,
    source: String,
    notes: Vec<String>,
    written_policies: BTreeSet<String>,
}

impl AdmittedPod {
    /// The pod, with defaults filled in; `metadata.name`, `metadata.namespace` and `spec` are always set.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Where it was read from: a path as given, or `<stdin>`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What a user should know though it is no error: `spec.affinity has no effect on one host`.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the manifest itself sets `imagePullPolicy` for a container (by name), rather than getting the default.
    pub fn pull_policy_written(&self, container: &str) -> bool {
        self.written_policies.contains(container)
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Reads, defaults and checks all pods of all texts.
///
/// # Errors
/// All faults of all texts at once. No pod is admitted if any text has a fault.
pub fn admit(sources: &[Source]) -> Result<Vec<AdmittedPod>, Diagnostics> {
    let mut pods = Vec::new();
    let mut faults = Vec::new();
    let mut names: BTreeMap<(String, String), (usize, Span)> = BTreeMap::new();
    for (index, source) in sources.iter().enumerate() {
        let mut report = Report::default();
        for (document, pod) in admit_text(source, &mut report) {
            let name_at = validate::locate(&document, &Path::of("metadata.name"));
            match names.insert((pod.namespace().to_owned(), pod.name().to_owned()), (index, name_at)) {
                Some((other, first)) => report.add(twice(&pod, name_at, (&sources[other], index == other, first))),
                None => pods.push(pod),
            }
        }
        faults.extend(report.list.into_iter().map(|d| (index, d)));
    }
    if faults.is_empty() { Ok(pods) } else { Err(Diagnostics::new(sources, faults)) }
}

fn twice(pod: &AdmittedPod, at: Span, (source, is_same_file, first): (&Source, bool, Span)) -> Diagnostic {
    let message = format!("another pod is named {}/{} already", pod.namespace(), pod.name());
    let diagnostic = Diagnostic::new(at, message).path(&Path::of("metadata.name"));
    if is_same_file {
        diagnostic.remark(first, "the other one")
    } else {
        diagnostic.help(format!(
            "the other one is in {}, line {}",
            source.name,
            diagnostics::position(&source.text, first.start as usize).0
        ))
    }
}

fn admit_text(source: &Source, report: &mut Report) -> Vec<(Node, AdmittedPod)> {
    let text = source.text.as_str();
    if text.len() as u64 > MAX_BYTES {
        report.add(Diagnostic::new(Span::default(), format!("the text is larger than {} MiB", MAX_BYTES >> 20)));
        return vec![];
    }
    if let Some(diagnostics) = reindent::lost(text) {
        diagnostics.into_iter().for_each(|d| report.add(d));
        return vec![];
    }
    let documents = match tree::parse(text) {
        Ok(documents) => documents,
        Err(fault) => {
            not_yaml(text, fault, report);
            return vec![];
        }
    };
    if documents.is_empty() {
        report.add(
            Diagnostic::new(Span::default(), "there is no manifest in this file")
                .help("a pod begins with\napiVersion: v1\nkind: Pod"),
        );
    }
    let mut pods = vec![];
    for document in documents {
        // Each document has a report of its own, so that faults of one do not silence checks of the next.
        let mut own = Report::default();
        let pod = admit_document(document, source, &mut own);
        if own.list.is_empty() {
            pods.extend(pod);
        }
        own.list.into_iter().for_each(|d| report.add(d));
    }
    pods
}

fn not_yaml(text: &str, fault: tree::SyntaxFault, report: &mut Report) {
    if fault.is_budget {
        report.add(Diagnostic::new(fault.at, format!("not a manifest: {}", fault.message)));
        return;
    }
    let pasted = paste::faults(text);
    let explains = !pasted.is_empty();
    pasted.into_iter().for_each(|d| report.add(d));
    if !explains {
        let diagnostic =
            Diagnostic::new(fault.at, format!("not valid YAML: {}", fault.message)).label("reading stopped here");
        let help = paste::indentation_help(text, fault.at);
        report.add(help.into_iter().fold(diagnostic, Diagnostic::help));
    }
}

fn admit_document(mut document: Node, source: &Source, report: &mut Report) -> Option<(Node, AdmittedPod)> {
    let text = source.text.as_str();
    if !matches!(document.value, Value::Map(_)) {
        let message = format!("a manifest must be a mapping of fields, found {}", document.kind());
        report.add(Diagnostic::new(document.at, message).help("a pod begins with\napiVersion: v1\nkind: Pod"));
        return None;
    }
    if has_suspicious_key(&document) {
        let pasted = paste::faults(text);
        if !pasted.is_empty() {
            pasted.into_iter().for_each(|d| report.add(d));
            return None;
        }
    }
    if !header(&document, report) {
        return None;
    }
    shape::repair(&mut document, text, report);
    quotes(&document, &Path::root(), report);
    let mut pod = typed::read_pod(&document, text, (&mut *report, ignored(&document)));
    validate::required(&document, report);
    let mut notes = support::check(&document, report).0;
    let policy_of =
        |c: &k8s_openapi::api::core::v1::Container| c.image_pull_policy.as_deref().is_some_and(|p| !p.is_empty());
    let spec = pod.spec.get_or_insert_default();
    let written_policies = defaults::containers(spec).filter(|c| policy_of(c)).map(|c| c.name.clone()).collect();
    notes.extend(notes_on(spec));
    defaults::apply(&mut pod);
    validate::check(&pod, &document, (text, report));
    let source = source.name.clone();
    Some((document, AdmittedPod { pod, source, notes, written_policies }))
}

/// What values have no effect, or another one than they say.
fn notes_on(spec: &k8s_openapi::api::core::v1::PodSpec) -> Vec<String> {
    let mut notes = vec![];
    if spec.host_network == Some(true) && spec.hostname.as_deref().is_some_and(|h| !h.is_empty()) {
        notes.push("spec.hostname has no effect: with hostNetwork the pod has the host's name".to_owned());
    }
    if spec.termination_grace_period_seconds.is_some_and(|grace| grace < 0) {
        notes.push("spec.terminationGracePeriodSeconds is negative and counts as 1".to_owned());
    }
    notes
}

/// Nodes that a cluster filled in, or that are judged elsewhere.
fn ignored(document: &Node) -> Vec<*const Node> {
    let metadata = document.get("metadata");
    let of_cluster = ["managedFields", "creationTimestamp", "deletionTimestamp", "ownerReferences", "generation"];
    let metadata = of_cluster.iter().filter_map(|field| metadata?.get(field));
    let top = ["apiVersion", "kind", "status"].iter().filter_map(|field| document.get(field));
    metadata.chain(top).map(std::ptr::from_ref).collect()
}

fn has_suspicious_key(node: &Node) -> bool {
    node.entries().iter().any(|(key, value)| paste::is_suspicious(&key.name) || has_suspicious_key(value))
        || node.items().iter().any(has_suspicious_key)
}

/// Values that begin with a typographic quote were meant to be quoted.
fn quotes(node: &Node, path: &Path, report: &mut Report) {
    const QUOTES: [char; 8] =
        ['\u{201c}', '\u{201d}', '\u{201e}', '\u{201f}', '\u{2018}', '\u{2019}', '\u{201a}', '\u{201b}'];
    if node.as_str().is_some_and(|text| text.starts_with(QUOTES)) {
        let message = "a typographic quote is used, which YAML takes for part of the text";
        report.add(Diagnostic::new(node.at, message).path(path).help("use straight quotes: \" or '"));
    }
    for (key, value) in node.entries() {
        quotes(value, &path.field(&key.name), report);
    }
    for (i, item) in node.items().iter().enumerate() {
        quotes(item, &path.index(i), report);
    }
}

/// Checks kind and apiVersion; false if the document is not meant to be a pod.
fn header(document: &Node, report: &mut Report) -> bool {
    let at = |field: &str| Path::root().field(field);
    let is_pods = |key: &tree::Key| {
        let of_pod = hints::fields_of("").iter().any(|f| f.eq_ignore_ascii_case(&key.name));
        of_pod || ["metadata", "spec"].iter().any(|block| support::knows(&format!("{block}.{}", key.name)))
    };
    if !document.entries().iter().any(|(key, _)| is_pods(key)) {
        let at = document.entries().first().map_or(document.at, |(key, _)| key.at);
        let diagnostic = Diagnostic::new(at, "not a Kubernetes manifest: it has neither apiVersion nor kind");
        let diagnostic = match document.get("services") {
            Some(_) => diagnostic.label("this looks like a compose file, which podshim does not read"),
            None => diagnostic,
        };
        report.add(diagnostic.help("a pod begins with\napiVersion: v1\nkind: Pod"));
        return false;
    }
    let text_of = |field: &str| document.get(field).map(|n| (n, n.as_str().map(str::to_owned)));
    let kind = text_of("kind");
    if let Some((node, Some(kind))) = kind.as_ref().filter(|(_, k)| k.as_deref() != Some("Pod")) {
        let diagnostic = |message: String| Diagnostic::new(node.at, message).path(&at("kind"));
        if hints::OTHER_KINDS.contains(&kind.as_str()) {
            let message = format!(
                "{kind}: not supported yet by podshim {}",
                env!("CARGO_PKG_VERSION").rsplit_once('.').map_or("", |v| v.0)
            );
            report.add(diagnostic(message).help("write the pod itself: kind: Pod"));
            return false;
        }
        let Some(near) = hints::nearest(kind, hints::OTHER_KINDS.into_iter().chain(["Pod"])) else {
            report.add(
                diagnostic(format!("{} is not a kind that podshim knows", quote(kind)))
                    .help("podshim runs `kind: Pod`"),
            );
            return false;
        };
        report.add(
            diagnostic(format!("{} is not a kind that podshim knows", quote(kind)))
                .label(format!("did you mean `{near}`?")),
        );
        if near != "Pod" {
            return false;
        }
    } else if let Some((node, None)) = kind
        && node.value != Value::Null
    {
        report.add(Diagnostic::new(node.at, format!("must be Pod, found {}", node.kind())).path(&at("kind")));
    }
    if let Some((node, version)) = text_of("apiVersion")
        && node.value != Value::Null
        && version.as_deref() != Some("v1")
    {
        let found = version.map_or_else(|| node.kind().to_owned(), |v| quote(&v));
        report.add(
            Diagnostic::new(node.at, format!("must be v1 for a Pod, found {found}"))
                .path(&at("apiVersion"))
                .label("write `v1`"),
        );
    }
    true
}

#[cfg(test)]
mod tests;
