//! Removal from the store: names, images, and what no image needs any more.

use super::index::Entry;
use super::reference::{Reference, image_id};
use super::session::Session;
use super::store::{Store, missing};
use crate::error::{Kind, failure};
use crate::sys::Called;
use anyhow::Result;
use std::collections::BTreeSet;
use std::fs;

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name went.
    Untagged(String),
    /// An image went, by its ID.
    Deleted(String),
}

impl Store {
    /// Takes a name away, or an image by its ID; the image goes with its last name. Images whose ID is in `in_use` stay.
    pub fn remove(&self, text: &str, in_use: &BTreeSet<String>) -> Result<Vec<Removed>> {
        let session = self.session()?;
        let stored = self.find(text)?.ok_or_else(|| missing(text))?;
        let _lock = self.lock_exclusive()?;
        let mut entries = self.entries()?;
        let digest = &stored.entry.manifest.digest;
        let id = stored.manifest.config.digest.to_string();
        let same: Vec<&Entry> = entries.iter().filter(|e| e.manifest.digest == *digest).collect();
        let by_id = image_id(text).is_some();
        let names: Vec<String> = same.iter().filter_map(|e| e.name.as_ref()).map(Reference::familiar).collect();
        if by_id && names.len() > 1 {
            let text = format!("image {text} has several names, remove them one by one: {}", names.join(", "));
            return Err(failure(Kind::NotReady, text));
        }
        let last = same.len() <= 1;
        if last && in_use.contains(&id) {
            return Err(failure(Kind::NotReady, format!("image {text} is used by a pod; remove the pod first")));
        }
        let name = stored.entry.name.clone();
        entries.retain(|e| e.manifest.digest != *digest || e.name != name);
        let mut removed: Vec<Removed> = name.iter().map(|n| Removed::Untagged(n.to_string())).collect();
        self.write_index(&session, &entries)?;
        if last {
            self.collect(&session, &entries)?;
            removed.push(Removed::Deleted(id));
        }
        Ok(removed)
    }

    /// Removes images without a name that are not in `in_use` (image IDs), and blobs and layers that no image needs.
    pub fn prune(&self, in_use: &BTreeSet<String>) -> Result<Vec<Removed>> {
        self.prune_where(in_use, |entry| entry.name.is_none())
    }

    /// As [`Self::prune`], and images with a name too.
    pub fn prune_unused(&self, in_use: &BTreeSet<String>) -> Result<Vec<Removed>> {
        self.prune_where(in_use, |_| true)
    }

    fn prune_where(&self, in_use: &BTreeSet<String>, candidate: fn(&Entry) -> bool) -> Result<Vec<Removed>> {
        let session = self.session()?;
        let _lock = self.lock_exclusive()?;
        let (mut kept, mut removed) = (Vec::new(), Vec::new());
        for entry in self.entries()? {
            let id = self.read_stored(&entry.manifest)?.0.config.digest.to_string();
            if in_use.contains(&id) || !candidate(&entry) {
                kept.push(entry);
                continue;
            }
            removed.extend(entry.name.iter().map(|n| Removed::Untagged(n.to_string())));
            if !removed.contains(&Removed::Deleted(id.clone())) {
                removed.push(Removed::Deleted(id));
            }
        }
        self.write_index(&session, &kept)?;
        self.collect(&session, &kept)?;
        Ok(removed)
    }

    /// Removes blobs and layers that no entry needs. They are renamed away first: half a layer is never seen.
    pub(super) fn collect(&self, session: &Session, entries: &[Entry]) -> Result<()> {
        let (mut blobs, mut layers) = (BTreeSet::new(), BTreeSet::new());
        for entry in entries {
            // If one cannot be read, what it needs is not known, so nothing goes.
            let (manifest, file) = self.read_stored(&entry.manifest)?;
            blobs.insert(entry.manifest.digest.hex().to_owned());
            blobs.extend(manifest.layers.iter().chain([&manifest.config]).map(|d| d.digest.hex().to_owned()));
            layers.extend(file.chain_ids().iter().map(|id| id.hex().to_owned()));
        }
        let places = [(self.dirs.images().join("blobs/sha256"), blobs, "b"), (self.dirs.layers(), layers, "l")];
        for (dir, needed, mark) in places {
            for entry in fs::read_dir(&dir).called("opendir", dir.display())? {
                let name = entry.called("readdir", dir.display())?.file_name();
                if name.to_str().is_some_and(|n| needed.contains(n)) {
                    continue;
                }
                let trash = session.trash().join(format!("{mark}{}", name.display()));
                fs::rename(dir.join(&name), &trash).called("rename", trash.display())?;
            }
        }
        Ok(())
    }
}
