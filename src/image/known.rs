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
        Ok(self.known_locked()?.into_values().collect())
    }

    /// The image of this name or ID, if it is here and not damaged. A name that cannot be one is an error.
    pub fn known_as(&self, text: &str) -> Result<Option<Known>> {
        let _lock = self.lock_shared()?;
        let Some(entry) = self.find_entry(text)? else { return Ok(None) };
        Ok(self.known_locked()?.remove(&self.id(&entry)?))
    }

    /// Removes the image of this name or ID with all its names, and what is damaged; whether it was here. One whose ID is in what
    /// `in_use` finds stays, which is an error; it is asked when nobody else can change the store.
    pub fn remove_whole(&self, text: &str, in_use: impl FnOnce() -> Result<BTreeSet<String>>) -> Result<bool> {
        let session = self.session()?;
        let _lock = self.lock_exclusive()?;
        let Some(entry) = self.find_entry(text)? else { return Ok(false) };
        let (id, in_use) = (self.id(&entry)?, in_use()?);
        if in_use.contains(&id.to_string()) {
            let message = format!("image {text} is used by a container; remove the container first");
            return Err(failure(Kind::NotReady, message));
        }
        self.remove_where(&session, &in_use, &|_, other| *other == id)?;
        Ok(true)
    }

    /// The images by their IDs. Each manifest is read once, however many names it has.
    fn known_locked(&self) -> Result<BTreeMap<Digest, Known>> {
        let (mut ids, mut images) = (BTreeMap::new(), BTreeMap::new());
        for entry in self.entries()? {
            let digest = &entry.manifest.digest;
            if !ids.contains_key(digest) {
                let Some((manifest, file)) = self.whole(&entry)? else { continue };
                let id = manifest.config.digest.clone();
                ids.insert(digest.clone(), id.clone());
                images.entry(id).or_insert_with(|| Known::new(&manifest, file));
            }
            if let Some(image) = images.get_mut(&ids[digest]) {
                image.add(&entry);
            }
        }
        Ok(images)
    }
}
