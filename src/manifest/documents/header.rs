//! What a document says that it is.

use super::super::diagnostics::{Diagnostic, Report, quote};
use super::super::hints;
use super::super::kind::Kind;
use super::super::path::Path;
use super::super::support;
use super::super::tree::{Key, Node, Value};

const BEGINNING: &str = "a pod begins with\napiVersion: v1\nkind: Pod";

/// Checks kind and apiVersion; none if it is not meant to be a document that podshim reads.
pub(super) fn header(document: &Node, report: &mut Report) -> Option<Kind> {
    let is_pods = |key: &Key| {
        let of_pod = ["apiVersion", "kind", "metadata", "spec", "status"];
        of_pod.iter().any(|f| f.eq_ignore_ascii_case(&key.name))
            || ["metadata", "spec"].iter().any(|block| support::knows(&format!("{block}.{}", key.name)))
    };
    if !document.entries().iter().any(|(key, _)| is_pods(key)) {
        let at = document.entries().first().map_or(document.at, |(key, _)| key.at);
        let diagnostic = Diagnostic::new(at, "not a Kubernetes manifest: it has neither apiVersion nor kind");
        let diagnostic = match document.get("services") {
            Some(_) => diagnostic.label("this looks like a compose file, which podshim does not read"),
            None => diagnostic,
        };
        report.add(diagnostic.help(BEGINNING));
        return None;
    }
    let kind = kind(document, report)?;
    api_version(document, kind, report);
    Some(kind)
}

/// The kind, a Pod if nothing is said; the nearest one if it is misspelt.
fn kind(document: &Node, report: &mut Report) -> Option<Kind> {
    let at = Path::of("kind");
    let Some(node) = document.get("kind").filter(|node| node.value != Value::Null) else { return Some(Kind::Pod) };
    let Some(written) = node.as_str() else {
        report.add(Diagnostic::new(node.at, format!("must be Pod, found {}", node.kind())).path(&at));
        return Some(Kind::Pod);
    };
    if let Some(kind) = Kind::of(written) {
        return Some(kind);
    }
    if hints::OTHER_KINDS.contains(&written) {
        let diagnostic = Diagnostic::new(node.at, format!("{written}: podshim does not do this")).path(&at);
        report.add(diagnostic.label("remove this document").help(format!("podshim reads {}", known())));
        return None;
    }
    let diagnostic = Diagnostic::new(node.at, format!("{} is not a kind that podshim knows", quote(written))).path(&at);
    let Some(near) = hints::nearest(written, Kind::ALL.iter().map(|kind| kind.name()).chain(hints::OTHER_KINDS)) else {
        report.add(diagnostic.help(format!("podshim reads {}", known())));
        return None;
    };
    report.add(diagnostic.label(format!("did you mean `{near}`?")));
    Kind::of(near)
}

fn known() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

fn api_version(document: &Node, kind: Kind, report: &mut Report) {
    let Some(node) = document.get("apiVersion").filter(|node| node.value != Value::Null) else { return };
    let wanted = kind.api_version();
    if node.as_str() == Some(wanted) {
        return;
    }
    let found = node.as_str().map_or_else(|| node.kind().to_owned(), quote);
    report.add(
        Diagnostic::new(node.at, format!("must be {wanted} for a {}, found {found}", kind.name()))
            .path(&Path::of("apiVersion"))
            .label(format!("write `{wanted}`")),
    );
}
