//! One text, document by document.

use super::super::diagnostics::{Diagnostic, Report, Secrecy};
use super::super::kind::Kind;
use super::super::path::Path;
use super::super::sources::MAX_BYTES;
use super::super::support::{self, Schema};
use super::super::tree::{self, Node, Span, Value};
use super::super::typed::{self, Values};
use super::super::{Name, Source, defaults, paste, reindent, shape, validate};
use super::header::header;
use super::{Content, CronJobs, Document, Pods, account, claim, data, policy, service, workload};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde::Deserialize;
use std::collections::BTreeSet;

/// A text's documents, what is wrong with it as a whole, and what of it is secret.
#[derive(Default)]
pub(super) struct Text {
    pub(super) documents: Vec<Document>,
    pub(super) report: Report,
    pub(super) secrecy: Secrecy,
}

impl Text {
    /// The documents of a text; none if it cannot be read, which is in the report then.
    pub(super) fn parse(&mut self, text: &str) -> Option<Vec<Node>> {
        if text.len() as u64 > MAX_BYTES {
            let message = format!("the text is larger than {} MiB", MAX_BYTES >> 20);
            self.report.add(Diagnostic::new(Span::default(), message));
            return None;
        }
        // Of a text that cannot be read, nobody knows which parts are secret.
        let secrecy = if paste::may_be_secret(text) { Secrecy::Hidden } else { Secrecy::Open };
        if let Some(diagnostics) = reindent::lost(text) {
            self.secrecy = secrecy;
            diagnostics.into_iter().for_each(|d| self.report.add(d));
            return None;
        }
        match tree::parse(text) {
            Ok(documents) => Some(documents),
            Err(fault) => {
                self.secrecy = secrecy;
                not_yaml(text, fault, &mut self.report);
                None
            }
        }
    }
}

/// Reads a text.
pub(super) fn read(source: &Source, cron_jobs: CronJobs) -> Text {
    let text = source.text.as_str();
    let mut out = Text::default();
    let Some(documents) = out.parse(text) else { return out };
    if documents.is_empty() {
        let fault = Diagnostic::new(Span::default(), "there is no manifest in this file");
        out.report.add(fault.help("a pod begins with\napiVersion: v1\nkind: Pod"));
        return out;
    }
    for node in documents {
        for item in flattened(node, &mut out.report) {
            let (node, at) = item;
            let reader = Reader { text, cron_jobs };
            let document = reader.document(node, at);
            out.secrecy.mask(document.1);
            out.documents.push(document.0);
        }
    }
    out
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

/// The documents of a List, each with its place; any other document is the only one.
fn flattened(node: Node, report: &mut Report) -> Vec<(Node, Path)> {
    if node.get("kind").and_then(Node::as_str) != Some(Kind::List.name()) {
        return vec![(node, Path::root())];
    }
    let before = report.list.len();
    header(&node, report);
    for (key, value) in node.entries() {
        let path = Path::of(&key.name);
        match (key.name.as_str(), &value.value) {
            ("apiVersion" | "kind" | "metadata", _) | ("items", Value::Seq(_) | Value::Null) => {}
            ("items", _) => {
                report.add(Diagnostic::new(value.at, format!("must be a list, found {}", value.kind())).path(&path));
            }
            _ => {
                let fields = "its fields are: apiVersion, kind, metadata, items";
                report.add(
                    Diagnostic::new(key.at, "unknown field").path(&path).label("not a field of List").help(fields),
                );
            }
        }
    }
    let empty = Node { value: Value::Null, at: node.at };
    let items = node.get("items").unwrap_or(&empty);
    let is_list = |item: &Node| item.get("kind").and_then(Node::as_str) == Some(Kind::List.name());
    for (i, item) in items.items().iter().enumerate().filter(|(_, item)| is_list(item)) {
        let at = validate::locate(item, &Path::of("kind"));
        let path = Path::of("items").index(i).field("kind");
        report.add(Diagnostic::new(at, "a List within a List is not read").path(&path));
    }
    if items.items().is_empty() && report.list.len() == before {
        let at = validate::locate(&node, &Path::of("items"));
        report.add(Diagnostic::new(at, "the List is empty").path(&Path::of("items")));
    }
    let items = items.items().iter().enumerate().filter(|(_, item)| !is_list(item));
    items.map(|(i, item)| (item.clone(), Path::of("items").index(i))).collect()
}

/// Reads documents of a text.
pub(super) struct Reader<'t> {
    pub(super) text: &'t str,
    pub(super) cron_jobs: CronJobs,
}

impl Reader<'_> {
    /// A document, and the values of it that are secret.
    fn document(&self, mut node: Node, at: Path) -> (Document, Vec<Span>) {
        // Each document has a report of its own, so that faults of one do not silence checks of the next.
        let mut report = Report::default();
        let mut notes = vec![];
        let secret = data::secret_values(&node);
        let (kind, content) = match self.shaped(&mut node, &mut report) {
            Some(kind) => (kind, self.content(&node, kind, (&mut report, &mut notes))),
            None => (Kind::Pod, Content::Nothing),
        };
        (Document { node, kind, at, report, content, notes }, secret)
    }

    /// Puts a document into shape; none if it is not to be read any further.
    fn shaped(&self, node: &mut Node, report: &mut Report) -> Option<Kind> {
        if !matches!(node.value, Value::Map(_)) {
            let message = format!("a manifest must be a mapping of fields, found {}", node.kind());
            report.add(Diagnostic::new(node.at, message).help("a pod begins with\napiVersion: v1\nkind: Pod"));
            return None;
        }
        if self.is_badly_pasted(node, report) {
            return None;
        }
        let kind = header(node, report)?;
        self.repair(node, kind, report);
        Some(kind)
    }

    /// Whether copying damaged the keys, which is in the report then.
    pub(super) fn is_badly_pasted(&self, node: &Node, report: &mut Report) -> bool {
        let faults = if has_suspicious_key(node) { paste::faults(self.text) } else { vec![] };
        let is_bad = !faults.is_empty();
        faults.into_iter().for_each(|d| report.add(d));
        is_bad
    }

    /// Puts a document of a kind into the shape that was meant.
    pub(super) fn repair(&self, node: &mut Node, kind: Kind, report: &mut Report) {
        shape::repair(node, Schema::of(kind), (self.text, report));
        // A quotation mark may well belong to a value of the user's own.
        let is_data = |name: &str| matches!(kind, Kind::ConfigMap | Kind::Secret) && name != "metadata";
        for (key, value) in node.entries().iter().filter(|(key, _)| !is_data(&key.name)) {
            quotes(value, &Path::of("").field(&key.name), report);
        }
    }

    /// What a document of a kind says.
    pub(super) fn content(&self, node: &Node, kind: Kind, (report, notes): (&mut Report, &mut Vec<String>)) -> Content {
        let mut at = Subject { reader: self, node, kind, report, notes };
        let content = match kind {
            Kind::Pod => pod(&mut at),
            Kind::ConfigMap => data::config_map(&mut at),
            Kind::Secret => data::secret(&mut at),
            Kind::PersistentVolumeClaim => claim::claim(&mut at),
            Kind::Namespace => account::namespace(&mut at),
            Kind::ServiceAccount => account::account(&mut at),
            Kind::Service => service::service(&mut at),
            Kind::NetworkPolicy => policy::policy(&mut at),
            Kind::Deployment => workload::deployment(&mut at),
            Kind::ReplicaSet => workload::replica_set(&mut at),
            Kind::StatefulSet => workload::stateful_set(&mut at),
            Kind::DaemonSet => workload::daemon_set(&mut at),
            Kind::Job => workload::job(&mut at),
            Kind::CronJob => workload::cron_job(&mut at, self.cron_jobs),
            // It was flattened; this one was misspelt, which is a fault already. The last is no document (`ephemeral`).
            Kind::List | Kind::EphemeralContainer => Content::Nothing,
        };
        if report.list.is_empty() { content } else { Content::Nothing }
    }
}

/// The document at hand.
pub(super) struct Subject<'s> {
    pub(super) reader: &'s Reader<'s>,
    pub(super) node: &'s Node,
    pub(super) kind: Kind,
    pub(super) report: &'s mut Report,
    pub(super) notes: &'s mut Vec<String>,
}

impl<'s> Subject<'s> {
    /// Reads it as Kubernetes' own type, and holds it against the support table.
    pub(super) fn typed<T: for<'d> Deserialize<'d> + Default>(&mut self, ignored: Vec<*const Node>) -> T {
        let schema = Schema::of(self.kind);
        let read = self.unchecked(ignored);
        validate::required(self.node, schema, self.report);
        self.notes.extend(support::check(self.node, schema, self.report).0);
        read
    }

    /// Reads it as Kubernetes' own type.
    pub(super) fn unchecked<T: for<'d> Deserialize<'d> + Default>(&mut self, ignored: Vec<*const Node>) -> T {
        let values = if self.kind == Kind::Secret { Values::Secret } else { Values::Shown };
        let ignored = self.of_cluster().into_iter().chain(ignored).collect();
        typed::read(self.node, (self.reader.text, values), (&mut *self.report, ignored))
    }

    /// Nodes that a cluster filled in, or that are judged elsewhere.
    fn of_cluster(&self) -> Vec<*const Node> {
        let fields = ["managedFields", "creationTimestamp", "deletionTimestamp", "ownerReferences", "generation"];
        let template = self.kind.pod().map(|at| self.below(at).and_then(|t| t.get("metadata")));
        let metadata = [self.node.get("metadata"), template.flatten()];
        let of_metadata = metadata.into_iter().flatten().flat_map(|m| fields.iter().filter_map(|field| m.get(field)));
        let top = if self.kind == Kind::EphemeralContainer { &[][..] } else { &["apiVersion", "kind", "status"] };
        let top = top.iter().filter_map(|field| self.node.get(field));
        of_metadata.chain(top).map(std::ptr::from_ref).collect()
    }

    /// What stands at a path without lists.
    pub(super) fn below(&self, path: &str) -> Option<&'s Node> {
        path.split('.').filter(|field| !field.is_empty()).try_fold(self.node, |node, field| node.get(field))
    }

    /// What checks the document's own fields.
    pub(super) fn checker<'c>(&'c mut self, root: &'c Path) -> validate::Checker<'c> {
        self.report.begin_validation();
        validate::Checker::new(self.node, root, (self.reader.text, self.report))
    }
}

fn pod(subject: &mut Subject<'_>) -> Content {
    let mut pod: Pod = subject.typed(vec![]);
    let name = match pod.metadata.name.as_deref() {
        None | Some("") => Name::Generated,
        Some(_) => Name::Given,
    };
    let prefix = pod.metadata.generate_name.take().unwrap_or_default();
    let written_policies = settle(&mut pod, subject.notes);
    if name == Name::Generated && !prefix.is_empty() {
        pod.metadata.name = Some(generated(&prefix));
    }
    validate::check(&pod, subject.node, (&Path::root(), subject.reader.text, subject.report));
    Content::Pods(Pods { pods: vec![pod], objects: vec![], written_policies, name, owner: None })
}

/// `prefix`, cut so that the name is no longer than 63 characters, and five random ones (SimpleNameGenerator in
/// k8s.io/apiserver/pkg/storage/names).
pub(crate) fn generated(prefix: &str) -> String {
    use std::hash::{BuildHasher, Hasher};
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const LENGTH: usize = 5;
    let cut = (0..=prefix.len().min(63 - LENGTH)).rev().find(|i| prefix.is_char_boundary(*i)).unwrap_or(0);
    // Seeded by the kernel's random numbers.
    let mut random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let mut name = prefix[..cut].to_owned();
    for _ in 0..LENGTH {
        name.push(char::from(LETTERS[(random % LETTERS.len() as u64) as usize]));
        random /= LETTERS.len() as u64;
    }
    name
}

/// Fills in a pod's defaults; says which pull policies were written, and notes what its values mean.
pub(super) fn settle(pod: &mut Pod, notes: &mut Vec<String>) -> BTreeSet<String> {
    let spec = pod.spec.get_or_insert_default();
    let is_written = |policy: Option<&str>| policy.is_some_and(|p| !p.is_empty());
    let of_container = |c: &&Container| is_written(c.image_pull_policy.as_deref());
    let mut written: BTreeSet<String> =
        defaults::containers(spec).filter(of_container).map(|c| c.name.clone()).collect();
    let images = spec.volumes.iter().flatten().filter_map(|v| Some((v, v.image.as_ref()?)));
    let images = images.filter(|(_, image)| is_written(image.pull_policy.as_deref()));
    written.extend(images.map(|(volume, _)| super::super::of_volume(&volume.name)));
    notes.extend(notes_on(spec));
    defaults::apply(pod);
    written
}

/// What values have no effect, or another one than they say.
fn notes_on(spec: &PodSpec) -> Vec<String> {
    let mut notes = vec![];
    if spec.host_network == Some(true) && spec.hostname.as_deref().is_some_and(|h| !h.is_empty()) {
        notes.push("spec.hostname has no effect: with hostNetwork the pod has the host's name".to_owned());
    }
    if spec.termination_grace_period_seconds.is_some_and(|grace| grace < 0) {
        notes.push("spec.terminationGracePeriodSeconds is negative and counts as 1".to_owned());
    }
    notes
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
