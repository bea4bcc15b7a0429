//! ConfigMaps and Secrets. Source of the rules: ValidateConfigMap and ValidateSecret in pkg/apis/core/validation.

use super::super::diagnostics::Diagnostic;
use super::super::kind::Kind;
use super::super::path::Path;
use super::super::syntax;
use super::super::tree::{Node, Span, Value};
use super::Content;
use super::objects::{ConfigMapData, Object, SecretData, What};
use super::read::Subject;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use std::collections::{BTreeMap, BTreeSet};

/// Largest sum of all values, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Where the values stand that a document of kind Secret holds: everything but what says that it is one.
pub(super) fn secret_values(node: &Node) -> Vec<Span> {
    let kind = node.get("kind").and_then(Node::as_str).unwrap_or("");
    let mut spans = vec![];
    if kind.eq_ignore_ascii_case(Kind::Secret.name()) {
        let is_plain = |name: &str| matches!(name, "apiVersion" | "kind" | "type" | "immutable");
        for (_, value) in node.entries().iter().filter(|(key, _)| !is_plain(&key.name)) {
            scalars(value, &mut spans);
        }
        let metadata = node.get("metadata");
        let shown = |field: &&str| metadata.and_then(|m| m.get(field)).map(|n| n.at);
        let shown: Vec<Span> = ["name", "namespace"].iter().filter_map(shown).collect();
        spans.retain(|span| !shown.contains(span));
    }
    spans
}

fn scalars(node: &Node, spans: &mut Vec<Span>) {
    match &node.value {
        Value::Map(entries) => entries.iter().for_each(|(_, value)| scalars(value, spans)),
        Value::Seq(items) => items.iter().for_each(|item| scalars(item, spans)),
        Value::Null => {}
        _ => spans.push(node.at),
    }
}

/// Reads a ConfigMap.
pub(super) fn config_map(subject: &mut Subject<'_>) -> Content {
    let (binary, ignored) = encoded(subject, "binaryData");
    let map: ConfigMap = subject.typed(ignored);
    let text = map.data.unwrap_or_default();
    keys(subject, "data", text.keys());
    keys(subject, "binaryData", binary.keys());
    let root = Path::root();
    let mut c = subject.checker(&root);
    for key in binary.keys().filter(|key| text.contains_key(*key)) {
        let path = Path::of("binaryData").field(key);
        c.key_fault(&path, "is a key of data too".to_owned(), |d| d);
    }
    size(&mut c, text.values().map(String::len).chain(binary.values().map(Vec::len)).sum());
    let (namespace, name) = c.named(&map.metadata, syntax::dns_subdomain);
    let immutable = map.immutable == Some(true);
    Content::Object(Object { namespace, name, what: What::ConfigMap(ConfigMapData { text, binary, immutable }) })
}

/// Reads a Secret.
pub(super) fn secret(subject: &mut Subject<'_>) -> Content {
    let (mut values, ignored) = encoded(subject, "data");
    let secret: Secret = subject.typed(ignored);
    keys(subject, "data", values.keys());
    let text = secret.string_data.unwrap_or_default();
    keys(subject, "stringData", text.keys());
    let in_text: BTreeSet<String> = text.keys().cloned().collect();
    values.extend(text.into_iter().map(|(key, value)| (key, value.into_bytes())));
    let type_ = secret.type_.filter(|t| !t.is_empty()).unwrap_or_else(|| "Opaque".to_owned());
    let root = Path::root();
    let mut c = subject.checker(&root);
    size(&mut c, values.values().map(Vec::len).sum());
    let annotations = secret.metadata.annotations.clone().unwrap_or_default();
    of_type(&mut c, &type_, (&values, &in_text, &annotations));
    let (namespace, name) = c.named(&secret.metadata, syntax::dns_subdomain);
    let immutable = secret.immutable == Some(true);
    Content::Object(Object { namespace, name, what: What::Secret(SecretData { type_, values, immutable }) })
}

type Checker<'c> = super::super::validate::Checker<'c>;

fn size(c: &mut Checker<'_>, bytes: usize) {
    if bytes > MAX_BYTES {
        c.fault(&Path::of("data"), format!("{bytes} bytes of values are more than {MAX_BYTES} (1 MiB)"));
    }
}

/// A Secret's values, the keys of them that are in `stringData`, and its annotations.
type Holds<'a> = (&'a BTreeMap<String, Vec<u8>>, &'a BTreeSet<String>, &'a BTreeMap<String, String>);

/// What a Secret of a type must hold.
fn of_type(c: &mut Checker<'_>, type_: &str, (values, in_text, annotations): Holds<'_>) {
    let lacks =
        |keys: &[&str]| keys.iter().filter(|key| !values.contains_key(**key)).map(ToString::to_string).collect();
    let missing: Vec<String> = match type_ {
        "kubernetes.io/dockerconfigjson" => lacks(&[".dockerconfigjson"]),
        "kubernetes.io/dockercfg" => lacks(&[".dockercfg"]),
        "kubernetes.io/tls" => lacks(&["tls.crt", "tls.key"]),
        "kubernetes.io/ssh-auth" => lacks(&["ssh-privatekey"]),
        "kubernetes.io/basic-auth" if !values.contains_key("username") && !values.contains_key("password") => {
            vec!["username or password".to_owned()]
        }
        _ => vec![],
    };
    let at = Path::of("type");
    if !missing.is_empty() {
        c.fault(&at, format!("a Secret of type {type_} needs the key {}", missing.join(" and ")));
    }
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    if type_ == "kubernetes.io/service-account-token" && !annotations.contains_key(ACCOUNT) {
        c.fault(&at, format!("a Secret of type {type_} needs the annotation {ACCOUNT}"));
    }
    for key in [".dockerconfigjson", ".dockercfg"].into_iter().filter(|key| type_.ends_with(&key[1..])) {
        let Some(value) = values.get(key) else { continue };
        if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(value).is_err() {
            let field = if in_text.contains(key) { "stringData" } else { "data" };
            c.fault(&Path::of(field).field(key), "is not a JSON object");
        }
    }
}

/// The keys of a mapping of the user's own: file names.
fn keys<'k>(subject: &mut Subject<'_>, field: &str, keys: impl Iterator<Item = &'k String>) {
    let root = Path::root();
    let mut c = subject.checker(&root);
    for key in keys {
        c.key_grammar(&Path::of(field).field(key), (key, syntax::data_key));
    }
}

/// Values in base64, decoded; and the nodes that nobody else needs to look at.
fn encoded(subject: &mut Subject<'_>, field: &str) -> (BTreeMap<String, Vec<u8>>, Vec<*const Node>) {
    let (mut values, mut ignored) = (BTreeMap::new(), vec![]);
    let Some(node) = subject.node.get(field) else { return (values, ignored) };
    for (key, value) in node.entries() {
        let path = Path::of(field).field(&key.name);
        match &value.value {
            // What a Secret's empty value is in Go.
            Value::Null => {
                values.insert(key.name.clone(), vec![]);
            }
            Value::Str(text) => {
                // Go's decoder skips line ends, with which `base64` breaks its lines.
                let joined: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
                match STANDARD.decode(joined) {
                    Ok(bytes) => {
                        values.insert(key.name.clone(), bytes);
                    }
                    Err(_) => subject.report.add(not_base64(value.at, &path, subject.kind)),
                }
            }
            // That it is no text is the reader's to say.
            _ => continue,
        }
        ignored.push(std::ptr::from_ref(value));
    }
    (values, ignored)
}

fn not_base64(at: Span, path: &Path, kind: Kind) -> Diagnostic {
    let diagnostic = Diagnostic::new(at, "is not base64").path(path);
    if kind == Kind::Secret {
        diagnostic.help("write the value as it is below `stringData:`, or encode it: printf %s VALUE | base64 -w0")
    } else {
        diagnostic.help("write text below `data:`, or encode the value: base64 -w0 FILE")
    }
}
