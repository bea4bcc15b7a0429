//! The documents of texts: which kind each is, what it says, and the pods that come of it.
//!
//! In: texts. Out: [`Documents`]. First each document is read by itself (`read`): objects become data, controllers become as
//! many pods as they ask for. Then what they refer to is looked up in all of them, whatever their order (`assemble`).

mod account;
mod assemble;
pub(super) mod claim;
mod data;
mod ephemeral;
mod header;
mod network;
mod objects;
mod policy;
mod read;
mod recorded;
mod selector;
mod service;
mod used;
mod workload;

pub(super) use assemble::assemble;
pub(crate) use claim::ephemeral_claim;
pub(super) use ephemeral::join;
pub use network::{NetworkDocument, NetworkObject};
pub use objects::{ConfigMapData, Objects, SecretData};
pub(crate) use read::generated;
pub(super) use recorded::readmit;

use super::AdmittedPod;
use super::diagnostics::Report;
use super::kind::Kind;
use super::path::Path;
use super::tree::Node;
use k8s_openapi::api::core::v1::Pod;
use objects::Object;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// More pods than this do not run on one host: a kubelet's `maxPods`.
const MOST_PODS: usize = 110;

/// What to do about a CronJob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CronJobs {
    /// Refuse it by name: nothing here starts pods by the clock.
    Refused,
    /// Run its Job once, now.
    Now,
}

/// What came of all documents of all texts.
#[derive(Debug, Clone)]
pub struct Documents {
    /// The pods, in the order of the texts; those of a controller in the order of their numbers.
    pub pods: Vec<AdmittedPod>,
    /// ConfigMaps, Secrets and other objects.
    pub objects: Arc<Objects>,
    /// Services, NetworkPolicies and Namespaces, in the order of the texts.
    pub network: Vec<NetworkDocument>,
    /// The documents that make pods; those that ask for none, too.
    pub owners: Vec<Owner>,
    /// What a user should know about documents that are no pods.
    pub notes: Vec<Note>,
    /// Each pod and object, in the order of the texts.
    pub found: Vec<Found>,
}

/// A document that makes pods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// `Deployment`, …
    pub kind: String,
    /// Its namespace, and its pods'.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a user should know though it is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where it was read: a path as given, or `<stdin>`.
    pub source: String,
    /// `Service default/web: spec.loadBalancerIP has no effect: …`
    pub text: String,
}

/// A pod or an object that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where: a path as given, or `<stdin>`.
    pub source: String,
    /// `pod default/app`, `ConfigMap default/settings`
    pub what: String,
}

/// One document, read by itself.
struct Document {
    node: Node,
    kind: Kind,
    /// Its place in a List; the document itself if that is no list.
    at: Path,
    report: Report,
    content: Content,
    notes: Vec<String>,
}

/// What a document comes to.
enum Content {
    /// It has faults.
    Nothing,
    Pods(Pods),
    Object(Object),
    Network(NetworkObject),
}

/// The pods that one document asks for, checked and with their defaults.
struct Pods {
    pods: Vec<Pod>,
    /// Objects that come with them: a StatefulSet's claims.
    objects: Vec<Object>,
    written_policies: BTreeSet<String>,
    name: super::Name,
    owner: Option<Owner>,
}

/// `namespace/name`, as objects are told apart.
type Id = (String, String);
