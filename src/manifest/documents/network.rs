//! Documents about the network, which are kept beside the pods.

use super::super::kind::Kind;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

/// A document about the network, and where it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkDocument {
    /// A path as given, or `<stdin>`.
    pub source: String,
    /// What it says.
    pub object: NetworkObject,
}

/// What a document says of the network: checked, with its defaults. Of `metadata` it has name, namespace, labels and
/// annotations. As JSON it has its apiVersion and kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum NetworkObject {
    /// A Service. Cluster IPs and node ports are there only as far as the document asks for some.
    Service(Box<Service>),
    /// A NetworkPolicy.
    Policy(Box<NetworkPolicy>),
    /// A Namespace.
    Namespace(Box<Namespace>),
}

impl NetworkObject {
    /// `kind`
    pub fn kind(&self) -> &'static str {
        match self {
            NetworkObject::Service(_) => Kind::Service.name(),
            NetworkObject::Policy(_) => Kind::NetworkPolicy.name(),
            NetworkObject::Namespace(_) => Kind::Namespace.name(),
        }
    }

    /// `metadata`
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            NetworkObject::Service(service) => &service.metadata,
            NetworkObject::Policy(policy) => &policy.metadata,
            NetworkObject::Namespace(namespace) => &namespace.metadata,
        }
    }

    /// `metadata`, to be changed.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            NetworkObject::Service(service) => &mut service.metadata,
            NetworkObject::Policy(policy) => &mut policy.metadata,
            NetworkObject::Namespace(namespace) => &mut namespace.metadata,
        }
    }

    /// `metadata.namespace`; empty for a Namespace.
    pub fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or("")
    }

    /// `metadata.name`
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or("")
    }
}

/// What is kept of a document's metadata: what its author wrote, without what a cluster filled in.
pub(super) fn kept(metadata: ObjectMeta, namespace: Option<String>) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name,
        namespace,
        labels: metadata.labels.filter(|labels| !labels.is_empty()),
        annotations: metadata.annotations.filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
