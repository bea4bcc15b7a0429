//! What there is on the network: the pods, and the documents that are about them. Read from the files below
//! `<state>/network/`, which are written by whoever holds the network's lock; everything else in this room is made from it.

use crate::paths::NetworkDir;
use crate::plan::network::{BridgeNetwork, ContainerPort};
use crate::store::read_json;
use crate::sys::{Called, SysResult};
use anyhow::Result;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;

/// The directories of documents: what a kind is called in the plural.
pub const SERVICES: &str = "services";
/// NetworkPolicies.
pub const POLICIES: &str = "networkpolicies";
/// Namespaces.
pub const NAMESPACES: &str = "namespaces";

/// A pod on the network, or one on the host's own, which Services and names may mean too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// Its host name, which is a label of its names; empty if it has none of its own.
    pub hostname: String,
    /// `spec.subdomain`
    pub subdomain: Option<String>,
    /// Its addresses, the first being `status.podIP`.
    pub addresses: Vec<IpAddr>,
    /// The ports of all its containers.
    pub ports: Vec<ContainerPort>,
    /// Its link on the bridge, at the host's end; `None` with the host's network.
    pub link: Option<String>,
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// Whether it is being ended.
    pub terminating: bool,
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// The network.
    pub network: BridgeNetwork,
    /// The pods, by uid.
    pub members: Vec<Member>,
    /// The Services, with their cluster IPs and node ports filled in as an API server does, by namespace and name.
    pub services: Vec<Service>,
    /// The NetworkPolicies, likewise.
    pub policies: Vec<NetworkPolicy>,
    /// The labels of Namespaces. Each has `kubernetes.io/metadata.name`; one without a document has nothing else.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl View {
    /// Reads everything; `None` if there is no network.
    pub fn read(directory: &NetworkDir) -> Result<Option<View>> {
        let Some(network) = read_json::<BridgeNetwork>(&directory.config())? else { return Ok(None) };
        let members: Vec<Member> = read_all(&directory.members())?;
        let documents: Vec<k8s_openapi::api::core::v1::Namespace> = objects(directory, NAMESPACES)?;
        let mut namespaces: BTreeMap<String, BTreeMap<String, String>> = documents
            .into_iter()
            .map(|document| (document.metadata.name.unwrap_or_default(), document.metadata.labels.unwrap_or_default()))
            .collect();
        for member in &members {
            namespaces.entry(member.namespace.clone()).or_default();
        }
        for (name, labels) in &mut namespaces {
            labels.insert("kubernetes.io/metadata.name".into(), name.clone());
        }
        let services = objects(directory, SERVICES)?;
        let policies = objects(directory, POLICIES)?;
        Ok(Some(View { network, members, services, policies, namespaces }))
    }
}

/// The objects of a kind, which is given in the plural.
///
/// # Errors
/// None is left out: a policy that nobody can read would leave its pods open.
pub fn objects<T: DeserializeOwned>(directory: &NetworkDir, kind: &str) -> Result<Vec<T>> {
    read_all(&directory.objects(kind)).map_err(|error| with_remedy(error, kind))
}

fn with_remedy(error: anyhow::Error, kind: &str) -> anyhow::Error {
    error.context(format!(
        "not all {kind} can be read, so the host's rules stay as they are: put the damaged file right, or remove it and \
         `podshim apply` its document again"
    ))
}

/// Reads every `*.json` of a directory, in the order of [`names`].
pub fn read_all<T: DeserializeOwned>(directory: &Path) -> Result<Vec<T>> {
    let path = |name: &String| directory.join(format!("{name}.json"));
    // One that is gone meanwhile is no member any more.
    names(directory)?.iter().filter_map(|name| read_json(&path(name)).transpose()).collect()
}

/// What the `*.json` of a directory are called, without that, in order; none if there is no such directory.
pub fn names(directory: &Path) -> SysResult<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.called("opendir", directory.display())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.called("readdir", directory.display())?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
