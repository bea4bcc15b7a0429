//! From YAML or JSON to pods that may run: reading, defaults, validation, and the field support table.
//!
//! In: texts. Out: [`Documents`], or [`Diagnostics`], which hold every fault of every text with its place, its field and
//! how to repair it. Nothing is created on the host, no image is looked at, and no field is ever silently ignored.
//!
//! The way of a text: `reindent` (nothing is indented at all) → `tree` (untyped, with positions) → `paste` (faults of
//! copying) → `shape` (lost indentation and dashes) → `typed` (Kubernetes' own types) → `validate::required` → `support`
//! (what this version does) → `defaults` → `validate`. Each step reports and goes on where it can. What several documents
//! must agree on (`documents::assemble`) is checked when all are read.

pub mod amounts;
mod apparmor;
mod cidr;
mod defaults;
mod diagnostics;
mod documents;
pub mod downward;
mod explain;
mod hints;
mod kind;
mod paste;
mod path;
pub mod quantity;
pub(crate) mod references;
mod reindent;
mod shape;
mod sources;
mod support;
mod syntax;
pub mod sysctl;
mod tree;
mod typed;
mod validate;

/// Which network a pod is given: `bridge`, `none` or `cni`.
pub(crate) const NETWORK_ANNOTATION: &str = "podshim.io/network";

pub(crate) use apparmor::{APPARMOR_ANNOTATION, apparmor_annotation};
pub(crate) use defaults::policy_by_tag;
pub use diagnostics::{Color, Diagnostics};
pub use documents::{
    ConfigMapData, CronJobs, Documents, Found, NetworkDocument, NetworkObject, Note, Objects, Owner, SecretData,
};
pub(crate) use documents::{ephemeral_claim, generated};
pub use explain::{Explanation, FieldLine, explain};
pub use sources::{Source, read_sources};
pub(crate) use syntax::{dns_label, relative_path};
/// Rules of fields that CRI has as well.
pub(crate) mod rules {
    pub(crate) use super::syntax::{
        absolute_path, no_nul, normal_path, one_line, relative_path, selinux_level, selinux_part, sysctl, word,
    };
}

use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A pod that passed every check: proof that it may be planned. Its fields hold their defaults.
#[derive(Debug, Clone)]
pub struct AdmittedPod {
    pod: Pod,
    source: String,
    notes: Vec<String>,
    written_policies: BTreeSet<String>,
    objects: Arc<Objects>,
    name: Name,
    owner: Option<Owner>,
    ephemeral: Option<Container>,
}

/// Where a pod's name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// From the manifest: the same each time.
    Given,
    /// Made up from `metadata.generateName`: another one each time.
    Generated,
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

    /// Gives a container another image, as `kubectl set image` does; false if the pod has no container of that name. Where no
    /// policy was written, it is that of the new tag.
    pub fn set_image(&mut self, container: &str, image: &str) -> bool {
        let spec = self.pod.spec.get_or_insert_default();
        let Some(found) = defaults::containers_mut(spec).find(|c| c.name == container) else { return false };
        found.image = Some(image.to_owned());
        if !self.written_policies.contains(container) {
            found.image_pull_policy = Some(policy_by_tag(image).to_owned());
        }
        true
    }

    /// What a user should know though it is no error: `spec.affinity has no effect on one host`.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the manifest itself sets `imagePullPolicy` for a container (by name), rather than getting the default.
    pub fn pull_policy_written(&self, container: &str) -> bool {
        self.written_policies.contains(container)
    }

    /// Whether the manifest itself sets `image.pullPolicy` for a volume (by name), rather than getting the default.
    pub fn volume_pull_policy_written(&self, volume: &str) -> bool {
        self.written_policies.contains(&of_volume(volume))
    }

    /// The ConfigMaps, Secrets and other objects that came with the pod.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The document that made it, if that is no Pod.
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    /// The ephemeral container that is to join the pod, with its defaults.
    pub fn ephemeral(&self) -> Option<&Container> {
        self.ephemeral.as_ref()
    }

    /// Whether the name is the manifest's own.
    pub fn name_comes_from(&self) -> Name {
        self.name
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

/// A volume among the names of containers, which hold no `/`.
fn of_volume(name: &str) -> String {
    format!("volumes/{name}")
}

/// Reads, defaults and checks all documents of all texts.
///
/// # Errors
/// All faults of all texts at once. Nothing is admitted if any text has a fault.
pub fn documents(sources: &[Source], cron_jobs: CronJobs) -> Result<Documents, Diagnostics> {
    documents::assemble(sources, cron_jobs)
}

/// The pod with an ephemeral container that is to join it: what `flags` say, and over that what a file says, which is checked
/// as a manifest is. The pod's notes are the file's then.
///
/// # Errors
/// All faults of the file at once.
pub fn join(pod: AdmittedPod, flags: Container, custom: Option<&Source>) -> Result<AdmittedPod, Diagnostics> {
    documents::join(pod, flags, custom)
}

/// A pod that was admitted before, from what was recorded of it then: the objects that it refers to, and itself. It is not held
/// against the support table again, and nothing of it is judged. `source` is the record's name.
///
/// # Errors
/// If it is not what was recorded.
pub fn readmit(documents: &[serde_json::Value], source: &str) -> Result<AdmittedPod, Diagnostics> {
    documents::readmit(documents, source)
}

/// The pods of [`documents`], without running a CronJob.
///
/// # Errors
/// As there.
pub fn admit(sources: &[Source]) -> Result<Vec<AdmittedPod>, Diagnostics> {
    documents(sources, CronJobs::Refused).map(|documents| documents.pods)
}

#[cfg(test)]
mod tests;
