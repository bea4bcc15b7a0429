//! All documents of one command together: what they refer to must be there, and names must be distinct.

use super::super::diagnostics::{self, Diagnostic, Diagnostics, Secrecy};
use super::super::kind::Kind;
use super::super::path::Path;
use super::super::tree::{Node, Span};
use super::super::{AdmittedPod, Source, validate};
use super::objects::{Object, Objects};
use super::read::{self, Text};
use super::{Content, CronJobs, Document, Documents, Found, MOST_PODS, NetworkDocument, Note, Pods};
use k8s_openapi::api::core::v1::{LocalObjectReference, Pod};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads, defaults and checks all documents of all texts.
pub(in super::super) fn assemble(sources: &[Source], cron_jobs: CronJobs) -> Result<Documents, Diagnostics> {
    let mut texts: Vec<Text> = sources.iter().map(|source| read::read(source, cron_jobs)).collect();
    let mut objects = Objects::default();
    let mut names = Names::new(sources);
    // Where one object could not be read, nobody knows what the others miss.
    let mut is_whole = true;
    for (index, text) in texts.iter_mut().enumerate() {
        is_whole &= text.report.list.is_empty();
        for document in &mut text.documents {
            names.check(index, document);
            is_whole &= document.kind.pod().is_some() || document.report.list.is_empty();
            for object in taken(&mut document.content) {
                // One of the same name is a fault already.
                let _ = objects.add(object);
            }
        }
    }
    if is_whole {
        for (source, text) in sources.iter().zip(&mut texts) {
            for document in &mut text.documents {
                references(document, &source.text, &objects);
            }
        }
    }
    faults(sources, &mut texts)?;
    Ok(admitted(sources, texts, Arc::new(objects)))
}

/// The objects that a document holds.
fn taken(content: &mut Content) -> Vec<Object> {
    match content {
        Content::Object(_) => match std::mem::replace(content, Content::Nothing) {
            Content::Object(object) => vec![object],
            _ => vec![],
        },
        Content::Pods(pods) => std::mem::take(&mut pods.objects),
        Content::Nothing | Content::Network(_) => vec![],
    }
}

/// Looks up what the pods of a document refer to.
fn references(document: &mut Document, text: &str, objects: &Objects) {
    let Content::Pods(pods) = &mut document.content else { return };
    for pod in &mut pods.pods {
        pull_secrets(pod, objects);
    }
    let at = Path::of(document.kind.pod().unwrap_or(""));
    let fields = at.0.iter().filter_map(|seg| if let super::super::path::Seg::Field(f) = seg { Some(f) } else { None });
    let Some(node) = fields.into_iter().try_fold(&document.node, |node, field| node.get(field)) else { return };
    // All pods of one template refer to the same objects.
    let Some(pod) = pods.pods.first() else { return };
    let notes = validate::references(pod, objects, (node, &at, text, &mut document.report));
    document.notes.extend(notes);
}

/// A pod without imagePullSecrets has its ServiceAccount's, as the API server would set them.
pub(super) fn pull_secrets(pod: &mut Pod, objects: &Objects) {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let Some(spec) = &mut pod.spec else { return };
    if spec.image_pull_secrets.as_ref().is_some_and(|list| !list.is_empty()) {
        return;
    }
    let name = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let Some(account) = objects.account(&namespace, name).filter(|a| !a.pull_secrets.is_empty()) else { return };
    let reference = |name: &String| LocalObjectReference { name: name.clone() };
    spec.image_pull_secrets = Some(account.pull_secrets.iter().map(reference).collect());
}

/// The names of pods and objects, and where each was found first.
struct Names<'s> {
    sources: &'s [Source],
    seen: BTreeMap<(&'static str, String, String), (usize, Span)>,
    pods: usize,
}

impl Names<'_> {
    fn new(sources: &[Source]) -> Names<'_> {
        Names { sources, seen: BTreeMap::new(), pods: 0 }
    }

    fn check(&mut self, index: usize, document: &mut Document) {
        let at = validate::locate(&document.node, &Path::of("metadata.name"));
        let ids: Vec<(&'static str, String, String)> = match &document.content {
            Content::Nothing => return,
            Content::Object(object) => vec![(document.kind.name(), object.namespace.clone(), object.name.clone())],
            Content::Network(object) => {
                vec![(document.kind.name(), object.namespace().to_owned(), object.name().to_owned())]
            }
            Content::Pods(pods) => pods.pods.iter().map(|pod| (Kind::Pod.name(), namespace(pod), name(pod))).collect(),
        };
        let mut is_faulty = false;
        for (kind, namespace, name) in ids {
            let shown = if kind == Kind::Pod.name() { "pod" } else { kind };
            let full = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
            match self.seen.insert((kind, namespace, name), (index, at)) {
                Some(first) if !is_faulty => {
                    document.report.add(self.twice((shown, &full), (index, at), first));
                    is_faulty = true;
                }
                _ => {}
            }
            self.pods += usize::from(kind == Kind::Pod.name());
        }
        if self.pods > MOST_PODS && !is_faulty {
            let message = format!(
                "with this document there are {} pods, more than {MOST_PODS}, the most that run on one host",
                self.pods
            );
            document.report.add(Diagnostic::new(at, message));
            is_faulty = true;
        }
        if is_faulty {
            document.content = Content::Nothing;
        }
    }

    fn twice(
        &self,
        (kind, name): (&str, &str),
        (index, at): (usize, Span),
        (first, span): (usize, Span),
    ) -> Diagnostic {
        let message = format!("another {kind} is named {name} already");
        let diagnostic = Diagnostic::new(at, message).path(&Path::of("metadata.name"));
        if first == index {
            return diagnostic.remark(span, "the other one");
        }
        let source = &self.sources[first];
        diagnostic.help(format!(
            "the other one is in {}, line {}",
            source.name,
            diagnostics::position(&source.text, span.start as usize).0
        ))
    }
}

fn namespace(pod: &Pod) -> String {
    pod.metadata.namespace.clone().unwrap_or_default()
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// All faults of all texts, if there are any.
fn faults(sources: &[Source], texts: &mut [Text]) -> Result<(), Diagnostics> {
    let mut list = vec![];
    let mut secrecy: Vec<Secrecy> = vec![];
    for (index, text) in texts.iter_mut().enumerate() {
        let of_text = std::mem::take(&mut text.report.list).into_iter();
        let of_documents = text.documents.iter_mut().flat_map(|document| {
            let at = document.at.clone();
            std::mem::take(&mut document.report.list).into_iter().map(move |d| d.below(&at))
        });
        list.extend(of_text.chain(of_documents).map(|d| (index, d)));
        secrecy.push(std::mem::take(&mut text.secrecy));
    }
    if list.is_empty() { Ok(()) } else { Err(Diagnostics::new(sources, secrecy, list)) }
}

fn admitted(sources: &[Source], texts: Vec<Text>, objects: Arc<Objects>) -> Documents {
    let mut out = Documents {
        pods: vec![],
        objects: objects.clone(),
        network: vec![],
        owners: vec![],
        notes: vec![],
        found: vec![],
    };
    for (source, text) in sources.iter().zip(texts) {
        for document in text.documents {
            let Document { node, kind, content, mut notes, .. } = document;
            let source = source.name.clone();
            let Pods { pods, written_policies, name: origin, owner, .. } = match content {
                Content::Pods(pods) => pods,
                content => {
                    other(&mut out, (source, kind, &node), (content, notes));
                    continue;
                }
            };
            out.owners.extend(owner.clone());
            if pods.is_empty() {
                out.notes.extend(notes.drain(..).map(|text| Note { source: source.clone(), text }));
            }
            for pod in pods {
                out.found
                    .push(Found { source: source.clone(), what: format!("pod {}/{}", namespace(&pod), name(&pod)) });
                out.pods.push(AdmittedPod {
                    pod,
                    source: source.clone(),
                    // Once is enough for all of them.
                    notes: std::mem::take(&mut notes),
                    written_policies: written_policies.clone(),
                    objects: objects.clone(),
                    name: origin,
                    owner: owner.clone(),
                    ephemeral: None,
                });
            }
        }
    }
    out
}

/// A document that makes no pods.
fn other(out: &mut Documents, (source, kind, node): (String, Kind, &Node), (content, notes): (Content, Vec<String>)) {
    let field = |field: &str| node.get("metadata").and_then(|m| m.get(field)).and_then(|n| n.as_str());
    let name = field("name").unwrap_or("");
    let what = match kind {
        Kind::Namespace => format!("{} {name}", kind.name()),
        _ => format!("{} {}/{name}", kind.name(), field("namespace").filter(|n| !n.is_empty()).unwrap_or("default")),
    };
    out.notes.extend(notes.into_iter().map(|n| Note { source: source.clone(), text: format!("{what}: {n}") }));
    if let Content::Network(object) = content {
        out.network.push(NetworkDocument { source: source.clone(), object });
    }
    out.found.push(Found { source, what });
}
