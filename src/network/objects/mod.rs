//! Services, NetworkPolicies and Namespaces as they are kept below `<state>/network/`, one file each: put there as an API
//! server would take them, with addresses and node ports chosen, and removed.
//!
//! Each change is made under the network's lock and as a whole: what goes wrong leaves everything as it was. What is in force
//! follows from what is kept, but not by itself: whoever has changed something here lets go of the lock, and then has the
//! host's rules made anew.

mod kept;
mod service;

pub use kept::{Kept, Meant, ObjectKind, ObjectName, meant};

use super::view::{self, Member};
use crate::error::{Kind, failure};
use crate::host;
use crate::manifest::{NetworkDocument, NetworkObject};
use crate::paths::NetworkDir;
use crate::plan::network::BridgeNetwork;
use crate::store::{self, Wait};
use crate::sys::Called;
use crate::sys::flock::Flock;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// What to do about an object that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Semantics {
    /// `run`: the same again is fine, another one of the same name is an error.
    Create,
    /// `apply`: it becomes as the document says.
    Apply,
}

/// What became of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It is new.
    Created,
    /// It was another one.
    Configured,
    /// It was so already.
    Unchanged,
}

/// One document that was put. Its text is `kubectl apply`'s: `service/web created`.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// Which.
    pub name: ObjectName,
    /// What became of it.
    pub done: Done,
    /// As it was before.
    before: Option<NetworkObject>,
    /// As it is now.
    now: NetworkObject,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match self.done {
            Done::Created => "created",
            Done::Configured => "configured",
            Done::Unchanged => "unchanged",
        };
        write!(f, "{}/{} {done}", self.name.kind.resource(), self.name.name)
    }
}

/// What to do about a name that nothing has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is an error.
    Refused,
    /// `--ignore-not-found`
    Ignored,
}

/// Puts documents, in their order, with what an API server fills in: uid, time, generation, cluster IPs out of the network's
/// subnets, node ports.
///
/// # Errors
/// Of kind `AlreadyExists`: there is another one of this name, and that is not to be changed. `Invalid`: an address or a port
/// that is asked for cannot be had, or a field cannot change. `NotReady`: no address or no port is left. Nothing was changed.
pub fn put(
    directory: &NetworkDir,
    network: &BridgeNetwork,
    documents: &[NetworkDocument],
    semantics: Semantics,
) -> Result<Vec<Changed>> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let _lock = lock(directory)?;
    let kept = Kept::read(directory)?;
    let members: Vec<Member> = view::read_all(&directory.members())?;
    let mut wanted: Vec<NetworkObject> = documents.iter().map(|document| document.object.clone()).collect();
    service::fill_in(&mut wanted, (&kept, &members), network)?;
    let changes: Vec<Changed> =
        wanted.into_iter().map(|object| change(object, &kept, semantics)).collect::<Result<_>>()?;
    perform(directory, &changes)?;
    Ok(changes)
}

/// Takes back what a command has put: what it created goes, what it configured is as it was. What somebody else has changed,
/// or made anew, since then stays.
pub fn take_back(directory: &NetworkDir, changes: &[Changed]) -> Result<()> {
    let _lock = lock(directory)?;
    let kept = Kept::read(directory)?;
    let is_as_put = |change: &&Changed| kept.get(&change.name) == Some(&change.now);
    let undone = changes.iter().filter(|change| change.done != Done::Unchanged).filter(is_as_put);
    undone.rev().try_for_each(|change| write(directory, &change.name, change.before.as_ref()))
}

/// Removes objects; those that were there.
///
/// # Errors
/// Of kind `NotFound`: nothing has one of the names. Nothing was removed.
pub fn delete(directory: &NetworkDir, names: &[ObjectName], missing: Missing) -> Result<Vec<ObjectName>> {
    // Where nothing is kept, no directory is made for that.
    let _lock = if directory.0.exists() { Some(lock(directory)?) } else { None };
    let kept = Kept::read(directory)?;
    let (there, gone): (Vec<&ObjectName>, Vec<&ObjectName>) = names.iter().partition(|name| kept.get(name).is_some());
    if let (Missing::Refused, Some(name)) = (missing, gone.first()) {
        return Err(kept.not_found(name.kind, &name.full()));
    }
    let mut removed: Vec<&ObjectName> = Vec::new();
    for name in there {
        if let Err(error) = write(directory, name, None) {
            let back = removed.iter().try_for_each(|name| write(directory, name, kept.get(name)));
            return Err(with_undo(error, back));
        }
        removed.push(name);
    }
    Ok(removed.into_iter().cloned().collect())
}

/// The Services that there are.
pub fn services(directory: &NetworkDir) -> Result<Vec<Service>> {
    view::objects(directory, view::SERVICES)
}

/// Makes the network's directory, and locks it. The state directory is there.
fn lock(directory: &NetworkDir) -> Result<Flock> {
    make(&directory.0)?;
    let lock = store::lock(&directory.lock(), Wait::Yes)?;
    lock.context("the network's lock was waited for")
}

/// A directory that the name server may read, whatever the umask is.
fn make(path: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        other => other.called("mkdir", path.display())?,
    }
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).called("chmod", path.display())?)
}

/// What a document comes to, beside what is kept.
fn change(mut object: NetworkObject, kept: &Kept, semantics: Semantics) -> Result<Changed> {
    let name = ObjectName::of(&object);
    let before = kept.get(&name).cloned();
    let metadata = object.metadata_mut();
    let done = match &before {
        None => {
            metadata.uid = Some(host::uuid()?);
            metadata.creation_timestamp = Some(Time(now()?));
            metadata.generation = Some(1);
            Done::Created
        }
        Some(before) => {
            let old = before.metadata();
            metadata.uid.clone_from(&old.uid);
            metadata.creation_timestamp.clone_from(&old.creation_timestamp);
            metadata.generation = old.generation;
            if object == *before {
                Done::Unchanged
            } else if semantics == Semantics::Create {
                return Err(differs(&name, before, &object));
            } else {
                object.metadata_mut().generation = Some(old.generation.unwrap_or(0) + 1);
                Done::Configured
            }
        }
    };
    Ok(Changed { name, done, before, now: object })
}

/// Now, in whole seconds as Kubernetes has times.
fn now() -> Result<k8s_openapi::jiff::Timestamp> {
    let now = k8s_openapi::jiff::Timestamp::now();
    k8s_openapi::jiff::Timestamp::from_second(now.as_second()).context("the clock is out of range")
}

/// The error of a name that another object has.
fn differs(name: &ObjectName, before: &NetworkObject, wanted: &NetworkObject) -> anyhow::Error {
    let words = format!("{} {}", name.kind.word(), name.written());
    let message = format!(
        "{name} exists already, and has another {}: `podshim apply` changes it, `podshim delete {words}` removes it",
        differences(before, wanted).join(", ")
    );
    failure(Kind::AlreadyExists, message)
}

/// The fields of metadata and spec in which two objects differ.
fn differences(one: &NetworkObject, other: &NetworkObject) -> Vec<String> {
    let value = |object| serde_json::to_value::<&NetworkObject>(object).unwrap_or_default();
    let (one, other) = (value(one), value(other));
    let mut fields = Vec::new();
    for part in ["metadata", "spec"] {
        let keys = |value: &Value| -> Vec<String> {
            value[part].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
        };
        let mut all: Vec<String> = keys(&one).into_iter().chain(keys(&other)).collect();
        all.sort();
        all.dedup();
        let differs = |key: &String| one[part].get(key) != other[part].get(key);
        fields.extend(all.into_iter().filter(differs).map(|key| format!("{part}.{key}")));
    }
    fields
}

/// Writes what changed; all of it or nothing.
fn perform(directory: &NetworkDir, changes: &[Changed]) -> Result<()> {
    let mut written: Vec<&Changed> = Vec::new();
    for change in changes.iter().filter(|change| change.done != Done::Unchanged) {
        if let Err(error) = write(directory, &change.name, Some(&change.now)) {
            let back = written.iter().try_for_each(|change| write(directory, &change.name, change.before.as_ref()));
            return Err(with_undo(error, back));
        }
        written.push(change);
    }
    Ok(())
}

fn with_undo(error: anyhow::Error, undone: Result<()>) -> anyhow::Error {
    match undone {
        Ok(()) => error,
        Err(left) => error.context(format!("and then what was done before could not be undone: {left:#}")),
    }
}

/// Writes an object's file, or removes it.
fn write(directory: &NetworkDir, name: &ObjectName, object: Option<&NetworkObject>) -> Result<()> {
    let path = name.path(directory);
    match object {
        Some(object) => {
            make(&directory.objects(name.kind.plural()))?;
            let text = serde_json::to_vec(object).with_context(|| format!("serializing {name}"))?;
            store::write_readable(&path, &text).with_context(|| format!("keeping {name}"))
        }
        None => Ok(store::remove_written(&path)?),
    }
}

#[cfg(test)]
mod tests;
