//! What objects say that pods refer to.

use super::Id;
use std::collections::BTreeMap;
use std::fmt;

/// The objects of one command, by namespace and name.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    config_maps: BTreeMap<Id, ConfigMapData>,
    secrets: BTreeMap<Id, SecretData>,
    claims: BTreeMap<Id, ()>,
    accounts: BTreeMap<Id, Account>,
}

/// A ConfigMap's content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigMapData {
    /// `data`
    pub text: BTreeMap<String, String>,
    /// `binaryData`
    pub binary: BTreeMap<String, Vec<u8>>,
    /// `immutable: true`
    pub immutable: bool,
}

/// A Secret's content. Its values are never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretData {
    /// `type`
    pub type_: String,
    /// `data`, with `stringData` over it.
    pub values: BTreeMap<String, Vec<u8>>,
    /// `immutable: true`
    pub immutable: bool,
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretData").field("type_", &self.type_).field("keys", &self.values.keys()).finish()
    }
}

/// A ServiceAccount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// `imagePullSecrets[].name`
    pub(super) pull_secrets: Vec<String>,
}

/// One object.
pub(super) struct Object {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) what: What,
}

/// What an object is.
pub(super) enum What {
    ConfigMap(ConfigMapData),
    Secret(SecretData),
    Claim,
    Account(Account),
}

/// An object of that kind and name is there already.
pub(super) struct Taken;

impl Objects {
    /// A ConfigMap.
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<&ConfigMapData> {
        self.config_maps.get(&id(namespace, name))
    }

    /// A Secret.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<&SecretData> {
        self.secrets.get(&id(namespace, name))
    }

    /// Whether there is a PersistentVolumeClaim of this name.
    pub fn has_claim(&self, namespace: &str, name: &str) -> bool {
        self.claims.contains_key(&id(namespace, name))
    }

    /// The names of the ConfigMaps of a namespace.
    pub(in super::super) fn config_maps(&self, namespace: &str) -> Vec<&str> {
        names(&self.config_maps, namespace)
    }

    /// The names of the Secrets of a namespace.
    pub(in super::super) fn secrets(&self, namespace: &str) -> Vec<&str> {
        names(&self.secrets, namespace)
    }

    pub(super) fn account(&self, namespace: &str, name: &str) -> Option<&Account> {
        self.accounts.get(&id(namespace, name))
    }

    pub(super) fn add(&mut self, object: Object) -> Result<(), Taken> {
        let id = (object.namespace, object.name);
        match object.what {
            What::ConfigMap(data) => put(&mut self.config_maps, id, data),
            What::Secret(data) => put(&mut self.secrets, id, data),
            What::Claim => put(&mut self.claims, id, ()),
            What::Account(account) => put(&mut self.accounts, id, account),
        }
    }
}

fn id(namespace: &str, name: &str) -> Id {
    (namespace.to_owned(), name.to_owned())
}

fn names<'o, T>(map: &'o BTreeMap<Id, T>, namespace: &str) -> Vec<&'o str> {
    map.keys().filter(|(of, _)| of == namespace).map(|(_, name)| name.as_str()).collect()
}

fn put<T>(map: &mut BTreeMap<Id, T>, id: Id, value: T) -> Result<(), Taken> {
    if map.contains_key(&id) {
        return Err(Taken);
    }
    map.insert(id, value);
    Ok(())
}
