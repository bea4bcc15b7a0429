//! The store's images as a kubelet sees them: one for each image ID, with all its names.

use super::Store;
use super::index::Entry;
use super::manifest::{ConfigFile, Manifest};
use super::reference::{Digest, Reference};
use crate::error::{Kind, failure};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};

/// An image with all its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The digest of its config.
    pub id: Digest,
    /// Its names with tags, in their order.
    pub tags: BTreeSet<Reference>,
    /// Its names with digests: `docker.io/library/busybox@sha256:…`, what each name resolved to.
    pub digests: BTreeSet<String>,
    /// Size of its blobs (packed layers and config) in bytes.
    pub size: u64,
    /// Whom it wants to be run as: `uid`, `name`, `uid:gid`, `name:group`; empty for root.
    pub user: String,
}

impl Known {
    fn new(manifest: &Manifest, file: ConfigFile) -> Known {
        Known {
            id: manifest.config.digest.clone(),
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            size: manifest.layers.iter().map(|layer| layer.size).sum::<u64>() + manifest.config.size,
            user: file.config.user,
        }
    }

    fn add(&mut self, entry: &Entry) {
        let Some(name) = &entry.name else { return };
        self.digests.insert(format!("{}@{}", name.name(), entry.resolved));
        if name.tag().is_some() {
            self.tags.insert(name.clone());
        }
    }
}

impl Store {
    /// Every image, by ID.
    pub fn known(&self) -> Result<Vec<Known>> {
        let _lock = self.lock_shared()?;
        let entries = self.entries()?;
        let ids = self.ids(&entries)?;
        let mut images: BTreeMap<Digest, Known> = BTreeMap::new();
        for entry in &entries {
            let (id, image) = &ids[&entry.manifest.digest];
            images.entry(id.clone()).or_insert_with(|| image.clone()).add(entry);
        }
        Ok(images.into_values().collect())
    }

    /// The image of this name or ID, if it is here.
    pub fn known_as(&self, text: &str) -> Result<Option<Known>> {
        let _lock = self.lock_shared()?;
        let Some(found) = self.find_locked(text)? else { return Ok(None) };
        let entries = self.entries()?;
        let ids = self.ids(&entries)?;
        let id = &found.manifest.config.digest;
        let mut image = ids.get(&found.entry.manifest.digest).map(|(_, image)| image.clone());
        for entry in entries.iter().filter(|entry| ids[&entry.manifest.digest].0 == *id) {
            if let Some(image) = &mut image {
                image.add(entry);
            }
        }
        Ok(image)
    }

    /// Removes the image of this name or ID with all its names; whether it was here. One whose ID is in what `in_use` finds
    /// stays, which is an error; it is asked when nobody else can change the store.
    pub fn remove_whole(&self, text: &str, in_use: impl FnOnce() -> Result<BTreeSet<String>>) -> Result<bool> {
        let session = self.session()?;
        let _lock = self.lock_exclusive()?;
        let Some(found) = self.find_locked(text)? else { return Ok(false) };
        let id = found.manifest.config.digest;
        if in_use()?.contains(&id.to_string()) {
            let message = format!("image {text} is used by a container; remove the container first");
            return Err(failure(Kind::NotReady, message));
        }
        let mut entries = self.entries()?;
        let ids = self.ids(&entries)?;
        entries.retain(|entry| ids[&entry.manifest.digest].0 != id);
        self.write_index(&session, &entries)?;
        self.collect(&session, &entries)?;
        Ok(true)
    }

    /// The image ID of each manifest, and the image without its names. Each manifest is read once, however many names it has.
    fn ids(&self, entries: &[Entry]) -> Result<BTreeMap<Digest, (Digest, Known)>> {
        let mut ids = BTreeMap::new();
        for entry in entries {
            if !ids.contains_key(&entry.manifest.digest) {
                let (manifest, file) = self.read_stored(&entry.manifest)?;
                let id = manifest.config.digest.clone();
                ids.insert(entry.manifest.digest.clone(), (id, Known::new(&manifest, file)));
            }
        }
        Ok(ids)
    }
}
