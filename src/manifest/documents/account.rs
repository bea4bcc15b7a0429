//! Namespaces and ServiceAccounts.

use super::super::path::Path;
use super::super::syntax;
use super::Content;
use super::network::{NetworkObject, kept};
use super::objects::{Account, Object, What};
use super::read::Subject;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};

/// Reads a Namespace: NetworkPolicies may choose it by its labels. One needs no making: a pod's namespace is part of its name.
pub(super) fn namespace(subject: &mut Subject<'_>) -> Content {
    let namespace: Namespace = subject.typed(vec![]);
    for key in namespace.metadata.labels.iter().flatten().map(|(key, _)| key) {
        if key.starts_with("pod-security.kubernetes.io/") {
            subject.notes.push(format!("metadata.labels[{key:?}] has no effect: pods are not held against a standard"));
        }
    }
    if namespace.metadata.namespace.as_ref().is_some_and(|of| !of.is_empty()) {
        subject.notes.push("metadata.namespace has no effect: a Namespace is in none".to_owned());
    }
    let root = Path::root();
    let mut c = subject.checker(&root);
    c.named(&namespace.metadata, syntax::dns_label);
    let kept = Namespace { metadata: kept(namespace.metadata, None), spec: None, status: None };
    Content::Network(NetworkObject::Namespace(Box::new(kept)))
}

/// Reads a ServiceAccount: pods that name it get its imagePullSecrets.
pub(super) fn account(subject: &mut Subject<'_>) -> Content {
    let account: ServiceAccount = subject.typed(vec![]);
    let root = Path::root();
    let mut c = subject.checker(&root);
    let pull_secrets = account.image_pull_secrets.unwrap_or_default().into_iter().map(|secret| secret.name).collect();
    let (namespace, name) = c.named(&account.metadata, syntax::dns_subdomain);
    Content::Object(Object { namespace, name, what: What::Account(Account { pull_secrets }) })
}
