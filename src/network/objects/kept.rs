//! What is kept, by kind and name.

use super::super::view::{self, NAMESPACES, POLICIES, SERVICES};
use crate::error::{Kind, failure};
use crate::manifest::NetworkObject;
use crate::paths::NetworkDir;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The kinds of objects that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// Service
    Service,
    /// NetworkPolicy
    NetworkPolicy,
    /// Namespace
    Namespace,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [ObjectKind; 3] = [ObjectKind::Service, ObjectKind::NetworkPolicy, ObjectKind::Namespace];

    /// `kind`
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Service => "Service",
            ObjectKind::NetworkPolicy => "NetworkPolicy",
            ObjectKind::Namespace => "Namespace",
        }
    }

    /// What a command line calls one.
    pub fn word(self) -> &'static str {
        match self {
            ObjectKind::Service => "service",
            ObjectKind::NetworkPolicy => "networkpolicy",
            ObjectKind::Namespace => "namespace",
        }
    }

    /// What kubectl's output calls it, with its API group.
    pub fn resource(self) -> &'static str {
        match self {
            ObjectKind::NetworkPolicy => "networkpolicy.networking.k8s.io",
            other => other.word(),
        }
    }

    /// What several are called, in paths too.
    pub fn plural(self) -> &'static str {
        match self {
            ObjectKind::Service => SERVICES,
            ObjectKind::NetworkPolicy => POLICIES,
            ObjectKind::Namespace => NAMESPACES,
        }
    }
}

/// Which object. Its text is the one of messages: `Service shop/web`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace; empty for a Namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// An object's.
    pub fn of(object: &NetworkObject) -> ObjectName {
        let kind = match object {
            NetworkObject::Service(_) => ObjectKind::Service,
            NetworkObject::Policy(_) => ObjectKind::NetworkPolicy,
            NetworkObject::Namespace(_) => ObjectKind::Namespace,
        };
        ObjectName { kind, namespace: object.namespace().to_owned(), name: object.name().to_owned() }
    }

    /// As a command line names it: `web`, outside of the namespace default `shop/web`.
    pub fn written(&self) -> String {
        match self.namespace.as_str() {
            "" | "default" => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }

    /// `shop/web`; of a Namespace its name.
    pub fn full(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }

    /// Its file. Neither part can contain `_` or `/` (DNS-1123).
    pub(super) fn path(&self, directory: &NetworkDir) -> PathBuf {
        let file = match self.kind {
            ObjectKind::Namespace => format!("{}.json", self.name),
            _ => format!("{}_{}.json", self.namespace, self.name),
        };
        directory.objects(self.kind.plural()).join(file)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.full())
    }
}

/// Everything that is kept at one moment.
#[derive(Debug, Clone, Default)]
pub struct Kept(BTreeMap<ObjectName, NetworkObject>);

impl Kept {
    /// Reads everything.
    pub fn read(directory: &NetworkDir) -> Result<Kept> {
        let mut objects = Vec::new();
        for service in super::services(directory)? {
            objects.push(NetworkObject::Service(Box::new(service)));
        }
        for policy in view::objects(directory, POLICIES)? {
            objects.push(NetworkObject::Policy(Box::new(policy)));
        }
        for namespace in view::objects(directory, NAMESPACES)? {
            objects.push(NetworkObject::Namespace(Box::new(namespace)));
        }
        Ok(Kept(objects.into_iter().map(|object| (ObjectName::of(&object), object)).collect()))
    }

    /// An object.
    pub fn get(&self, name: &ObjectName) -> Option<&NetworkObject> {
        self.0.get(name)
    }

    /// The objects of a kind, by namespace and name.
    pub fn of(&self, kind: ObjectKind) -> impl Iterator<Item = (&ObjectName, &NetworkObject)> {
        self.0.iter().filter(move |(name, _)| name.kind == kind)
    }

    /// The object that a user means, as with pods: `name` (in the namespace default, or the only one of that name), or
    /// `namespace/name`.
    ///
    /// # Errors
    /// Of kind `NotFound`, or `Invalid` if it could be several.
    pub fn find(&self, kind: ObjectKind, wanted: &str) -> Result<&ObjectName> {
        let all: Vec<&ObjectName> = self.of(kind).map(|(name, _)| name).collect();
        let names: Vec<(&str, &str)> = all.iter().map(|name| (name.namespace.as_str(), name.name.as_str())).collect();
        match meant(&names, wanted) {
            Meant::One(index) => Ok(all[index]),
            Meant::Nothing => Err(self.not_found(kind, wanted)),
            Meant::Several(message) => Err(failure(Kind::Invalid, message)),
        }
    }

    /// The error of an object that is not there.
    pub(super) fn not_found(&self, kind: ObjectKind, wanted: &str) -> anyhow::Error {
        let own = wanted.rsplit('/').next().unwrap_or(wanted);
        let near = self.of(kind).map(|(name, _)| (strsim::jaro_winkler(own, &name.name), name.full()));
        let near = near.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match near {
            Some((_, name)) => format!(": did you mean {name}?"),
            None if self.of(kind).next().is_none() => format!(": there are no {}", kind.plural()),
            None => format!(": `podshim get {}` lists them", kind.plural()),
        };
        failure(Kind::NotFound, format!("{} {wanted:?} not found{hint}", kind.word()))
    }
}

/// Which of several names, each with its namespace, a user means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// The one of this index.
    One(usize),
    /// None.
    Nothing,
    /// It could be several, as this message says.
    Several(String),
}

/// Finds the name that a user means, as pods are found by theirs: `name` (in the namespace default, or the only one of that
/// name), or `namespace/name`.
pub fn meant(names: &[(&str, &str)], wanted: &str) -> Meant {
    let is_meant = |(namespace, name): (&str, &str)| match wanted.split_once('/') {
        Some(full) => full == (namespace, name),
        None => name == wanted,
    };
    let mut found: Vec<usize> = (0..names.len()).filter(|index| is_meant(names[*index])).collect();
    if found.len() > 1
        && let Some(default) = found.iter().find(|index| names[**index].0 == "default")
    {
        found = vec![*default];
    }
    match &found[..] {
        [] => Meant::Nothing,
        [one] => Meant::One(*one),
        several => {
            let full = |index: &usize| format!("{}/{}", names[*index].0, names[*index].1);
            let all: Vec<String> = several.iter().map(full).collect();
            Meant::Several(format!("{wanted:?} could be any of {}: name the one", all.join(", ")))
        }
    }
}
