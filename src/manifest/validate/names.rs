//! Rules for the metadata that documents of all kinds have.

use super::super::path::Path;
use super::super::syntax::{self, Rule};
use super::Checker;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const MAX_ANNOTATIONS: usize = 256 * 1024;

impl Checker<'_> {
    /// Checks the metadata of a document that is no Pod; its namespace and its name.
    pub(in super::super) fn named(&mut self, metadata: &ObjectMeta, rule: Rule) -> (String, String) {
        let at = Path::of("metadata");
        let name = metadata.name.clone().unwrap_or_default();
        let namespace = metadata.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
        self.name(&at.field("name"), (&name, rule));
        self.name(&at.field("namespace"), (&namespace, syntax::dns_label));
        self.labels(metadata, &at);
        (namespace, name)
    }

    /// Checks labels and annotations.
    pub(super) fn labels(&mut self, metadata: &ObjectMeta, at: &Path) {
        for (key, value) in metadata.labels.iter().flatten() {
            let path = at.field("labels").field(key);
            self.key_grammar(&path, (key, syntax::qualified_key));
            self.grammar(&path, (value, syntax::label_value));
        }
        let mut size = 0;
        for (key, value) in metadata.annotations.iter().flatten() {
            self.key_grammar(&at.field("annotations").field(key), (key, syntax::qualified_key));
            size += key.len() + value.len();
        }
        if size > MAX_ANNOTATIONS {
            let message = format!("{size} bytes of annotations are more than {MAX_ANNOTATIONS}");
            self.fault(&at.field("annotations"), message);
        }
    }
}
