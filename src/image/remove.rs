//! Removal from the store: names, images, and what no image needs any more.

use super::index::Entry;
use super::reference::{Digest, Reference, image_id};
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

/// Whether this entry goes, whose image ID is this.
type Goes<'a> = &'a dyn Fn(&Entry, &Digest) -> bool;

impl Store {
    /// Takes a name away, or an image by its ID; the image goes with its last name. Images whose ID (or manifest's digest, if that is
    /// damaged) is in `in_use` stay.
    pub fn remove(&self, text: &str, in_use: &BTreeSet<String>) -> Result<Vec<Removed>> {
        let session = self.session()?;
        let _lock = self.lock_exclusive()?;
        let found = self.find_entry(text)?.ok_or_else(|| missing(text))?;
        let mut entries = self.entries()?;
        let digest = &found.manifest.digest;
        let id = self.id(&found)?.to_string();
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
        entries.retain(|e| e.manifest.digest != *digest || e.name != found.name);
        let mut removed: Vec<Removed> = found.name.iter().map(|n| Removed::Untagged(n.to_string())).collect();
        self.write_index(&session, &entries)?;
        if last {
            self.collect(&session, &entries)?;
            removed.push(Removed::Deleted(id));
        }
        Ok(removed)
    }

    /// Removes images without a name, and damaged ones, that are not in `in_use`, and blobs and layers that no image needs.
    pub fn prune(&self, in_use: &BTreeSet<String>) -> Result<Vec<Removed>> {
        self.prune_where(in_use, &|entry, _| entry.name.is_none())
    }

    /// As [`Self::prune`], and images with a name too.
    pub fn prune_unused(&self, in_use: &BTreeSet<String>) -> Result<Vec<Removed>> {
        self.prune_where(in_use, &|_, _| true)
    }

    fn prune_where(&self, in_use: &BTreeSet<String>, goes: Goes) -> Result<Vec<Removed>> {
        let session = self.session()?;
        let _lock = self.lock_exclusive()?;
        self.remove_where(&session, in_use, goes)
    }

    /// Removes what goes and is not in use. A damaged image goes as well: it is in no list that somebody could remove it by, and
    /// as long as it stays so does what is garbage.
    pub(super) fn remove_where(
        &self,
        session: &Session,
        in_use: &BTreeSet<String>,
        goes: Goes,
    ) -> Result<Vec<Removed>> {
        let (mut kept, mut removed) = (Vec::new(), Vec::new());
        for entry in self.entries()? {
            let id = self.id(&entry)?;
            let goes = goes(&entry, &id) || self.whole(&entry)?.is_none();
            let id = id.to_string();
            if in_use.contains(&id) || !goes {
                kept.push(entry);
                continue;
            }
            removed.extend(entry.name.iter().map(|n| Removed::Untagged(n.to_string())));
            if !removed.contains(&Removed::Deleted(id.clone())) {
                removed.push(Removed::Deleted(id));
            }
        }
        self.write_index(session, &kept)?;
        self.collect(session, &kept)?;
        Ok(removed)
    }

    /// Removes blobs and layers that no entry needs. They are renamed away first: half a layer is never seen.
    pub(super) fn collect(&self, session: &Session, entries: &[Entry]) -> Result<()> {
        let (mut blobs, mut layers) = (BTreeSet::new(), BTreeSet::new());
        for entry in entries {
            // What a damaged one needs is not known, and a container may run on its layers: until it is whole or removed, nothing goes.
            let Some((manifest, file)) = self.whole(entry)? else { return Ok(()) };
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
