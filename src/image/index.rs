//! The lines of the store's index: which manifests there are, and by what names.

use super::manifest::{Descriptor, Index, OCI_INDEX, Platform, strict};
use super::reference::{Digest, Reference};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// The annotation with an image's canonical name.
const NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that says how the image came by this name: `pull` or `import`.
const ORIGIN: &str = "podshim.origin";
/// The annotation with the digest that the tag resolved to, which for an image of several platforms is the index's.
const RESOLVED: &str = "podshim.resolved";
/// How an image came by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a registry.
    Pull,
    /// From an archive.
    Import,
}

/// One line of the index: a manifest, and a name if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The manifest.
    pub manifest: Descriptor,
    /// Its name; an image has as many entries as names, or one without.
    pub name: Option<Reference>,
    /// How it came by the name.
    pub origin: Origin,
    /// What the name resolved to: the manifest's own digest or an index's.
    pub resolved: Digest,
}

impl Entry {
    fn from_descriptor(descriptor: &Descriptor) -> Result<Entry> {
        let name = descriptor.annotation(NAME).map(Reference::from_str).transpose()?;
        let origin = if descriptor.annotation(ORIGIN) == Some("import") { Origin::Import } else { Origin::Pull };
        let resolved = descriptor.annotation(RESOLVED).map(Digest::from_str).transpose()?;
        let resolved = resolved.unwrap_or_else(|| descriptor.digest.clone());
        let manifest = Descriptor { annotations: None, platform: None, urls: None, ..descriptor.clone() };
        Ok(Entry { manifest, name, origin, resolved })
    }

    fn to_descriptor(&self) -> Descriptor {
        let mut notes = BTreeMap::new();
        if let Some(name) = &self.name {
            notes.insert(NAME.to_owned(), name.to_string());
        }
        let origin = if self.origin == Origin::Import { "import" } else { "pull" };
        notes.insert(ORIGIN.to_owned(), origin.to_owned());
        notes.insert(RESOLVED.to_owned(), self.resolved.to_string());
        Descriptor { annotations: Some(notes), platform: Some(Platform::host()), ..self.manifest.clone() }
    }
}

/// What a finished session adds to the index.
pub(super) struct Addition<'a> {
    pub(super) manifest: &'a Descriptor,
    pub(super) names: &'a [Reference],
    pub(super) origin: Origin,
    pub(super) resolved: Digest,
}

/// The entries with one more image; a name that it takes over leaves its former image nameless, as Docker does.
pub(super) fn with_addition(mut entries: Vec<Entry>, addition: &Addition) -> Vec<Entry> {
    let new = |name: Option<Reference>| Entry {
        manifest: addition.manifest.clone(),
        name,
        origin: addition.origin,
        resolved: addition.resolved.clone(),
    };
    let digest = &addition.manifest.digest;
    for name in addition.names {
        let Some(at) = entries.iter().position(|e| e.name.as_ref() == Some(name)) else {
            entries.push(new(Some(name.clone())));
            continue;
        };
        let old = std::mem::replace(&mut entries[at], new(Some(name.clone())));
        if old.manifest.digest != *digest && !entries.iter().any(|e| e.manifest.digest == old.manifest.digest) {
            entries.push(Entry { name: None, ..old });
        }
    }
    if addition.names.is_empty() && !entries.iter().any(|e| e.manifest.digest == *digest) {
        entries.push(new(None));
    }
    let named: BTreeSet<Digest> =
        entries.iter().filter(|e| e.name.is_some()).map(|e| e.manifest.digest.clone()).collect();
    entries.retain(|e| e.name.is_some() || !named.contains(&e.manifest.digest));
    entries
}

/// The lines of an `index.json`.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Entry>> {
    let index: Index = serde_json::from_value(strict(bytes)?)?;
    index.manifests.iter().map(Entry::from_descriptor).collect()
}

/// The `index.json` of these lines.
pub(super) fn serialize(entries: &[Entry]) -> Result<Vec<u8>> {
    let index = Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.to_owned()),
        manifests: entries.iter().map(Entry::to_descriptor).collect(),
    };
    Ok(serde_json::to_vec(&index)?)
}
