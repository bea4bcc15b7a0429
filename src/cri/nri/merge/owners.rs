//! Which plugin has set what: two that set the same thing are in conflict, unless the second removes the first's.

use crate::cri::api::nri::{Field, FieldOwners, OwningPlugins};
use anyhow::{Result, bail};

/// A thing that a plugin can set: a field, or one entry of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    field: Field,
    entry: Option<String>,
}

impl From<Field> for Thing {
    fn from(field: Field) -> Thing {
        Thing { field, entry: None }
    }
}

impl Thing {
    /// An entry of a list or a map.
    pub(super) fn entry(field: Field, entry: &str) -> Thing {
        Thing { field, entry: Some(entry.to_owned()) }
    }
}

/// A mark of removal: on a key in an adjustment, and on the name of an owner that has removed what others set.
pub(super) const REMOVED: &str = "-";

/// The owners of one container's fields. They are NRI's own message, as validating plugins are told them.
pub(super) struct Owners<'a> {
    owners: &'a mut FieldOwners,
    plugin: &'a str,
}

impl<'a> Owners<'a> {
    /// Those of a container, for what a plugin does.
    pub(super) fn of(all: &'a mut OwningPlugins, container: &str, plugin: &'a str) -> Owners<'a> {
        Owners { owners: all.owners.entry(container.to_owned()).or_default(), plugin }
    }

    fn place(&mut self, thing: &Thing) -> Option<&mut String> {
        match &thing.entry {
            Some(entry) => self.owners.compound.get_mut(&thing.field.into())?.owners.get_mut(entry),
            None => self.owners.simple.get_mut(&thing.field.into()),
        }
    }

    fn set(&mut self, thing: &Thing, owner: String) {
        let field = thing.field.into();
        drop(match &thing.entry {
            Some(entry) => self.owners.compound.entry(field).or_default().owners.insert(entry.clone(), owner),
            None => self.owners.simple.insert(field, owner),
        });
    }

    /// The plugin sets a thing.
    ///
    /// # Errors
    /// If another has, or has removed it: then it is that plugin's to say.
    pub(super) fn claim(&mut self, thing: impl Into<Thing>) -> Result<()> {
        let thing = thing.into();
        let plugin = self.plugin;
        if let Some(owner) = self.place(&thing) {
            let is_own_removal = owner.strip_prefix(REMOVED) == Some(plugin);
            if !is_own_removal {
                let other = owner.strip_prefix(REMOVED).unwrap_or(owner);
                let entry = thing.entry.iter().map(|entry| format!(" {entry:?}")).collect::<String>();
                bail!("the NRI plugins {other} and {plugin} both set {}{entry}", thing.field.as_str_name());
            }
        }
        self.set(&thing, plugin.to_owned());
        Ok(())
    }

    /// The plugin removes a thing, whoever has set it.
    pub(super) fn clear(&mut self, thing: impl Into<Thing>) {
        self.set(&thing.into(), format!("{REMOVED}{}", self.plugin));
    }

    /// The plugin adds to a thing that any number of them may add to.
    pub(super) fn join(&mut self, field: Field) {
        let thing = Thing::from(field);
        let plugin = self.plugin;
        let owner = match self.place(&thing) {
            Some(others) => format!("{others},{plugin}"),
            None => plugin.to_owned(),
        };
        self.set(&thing, owner);
    }
}
