//! What the store has by a name or an ID. An image whose manifest or config is damaged is none: it is in nobody's way, whoever asks
//! for it is told, and it can be removed by its name, pulled again or imported again.

use super::index::Entry;
use super::manifest::{ConfigFile, MAX_DOCUMENT, Manifest, parse_config};
use super::reference::{Digest, Reference, image_id};
use super::session::{blob_file, read_verified};
use super::store::{Store, as_manifest};
use crate::error::{Kind, failure};
use crate::sys::SysError;
use anyhow::{Context, Result, ensure};

/// What a name or an ID was found to be.
pub(super) struct Stored {
    pub(super) entry: Entry,
    pub(super) manifest: Manifest,
    pub(super) file: ConfigFile,
}

impl Store {
    pub(super) fn find(&self, text: &str) -> Result<Option<Stored>> {
        let _lock = self.lock_shared()?;
        self.find_locked(text)
    }

    pub(super) fn find_locked(&self, text: &str) -> Result<Option<Stored>> {
        let Some(entry) = self.find_entry(text)? else { return Ok(None) };
        let (manifest, file) = self.read_stored(&entry)?;
        Ok(Some(Stored { entry, manifest, file }))
    }

    /// The entry of a name or an ID, damaged or not.
    pub(super) fn find_entry(&self, text: &str) -> Result<Option<Entry>> {
        let entries = self.entries()?;
        if let Some(prefix) = image_id(text) {
            let mut found: Option<(Digest, &Entry)> = None;
            for entry in &entries {
                let id = self.id(entry)?;
                if !id.hex().starts_with(prefix) {
                    continue;
                }
                if found.as_ref().is_some_and(|(other, _)| *other != id) {
                    return Err(failure(Kind::Invalid, format!("{text} is the beginning of several image IDs")));
                }
                found.get_or_insert((id, entry));
            }
            if found.is_some() || text.len() >= 64 {
                return Ok(found.map(|(_, entry)| entry.clone()));
            }
        }
        let reference = super::parse_reference(text)?;
        let pinned = |e: &&Entry| {
            let same_repository = e.name.as_ref().is_some_and(|n| n.name() == reference.name());
            same_repository && reference.digest().is_some_and(|d| e.resolved == *d || e.manifest.digest == *d)
        };
        let named = entries.iter().find(|e| e.name.as_ref() == Some(&reference));
        Ok(named.or_else(|| entries.iter().find(pinned)).cloned())
    }

    /// The image ID of an entry. If its manifest is damaged, nobody knows it, and the digest of that stands for it.
    pub(super) fn id(&self, entry: &Entry) -> Result<Digest> {
        let manifest = unless_damaged(self.read_manifest(entry))?;
        Ok(manifest.map_or_else(|| entry.manifest.digest.clone(), |manifest| manifest.config.digest))
    }

    /// What an entry stands for; none if it is damaged.
    pub(super) fn whole(&self, entry: &Entry) -> Result<Option<(Manifest, ConfigFile)>> {
        unless_damaged(self.read_stored(entry))
    }

    /// What an entry stands for; the error names it.
    pub(super) fn read_stored(&self, entry: &Entry) -> Result<(Manifest, ConfigFile)> {
        let read = || -> Result<_> {
            let manifest = self.read_manifest(entry)?;
            let config = self.read_blob(&manifest.config.digest)?;
            let file = parse_config(&config, manifest.layers.len()).context("image config")?;
            Ok((manifest, file))
        };
        read().with_context(|| {
            let name = entry.name.as_ref().map_or_else(|| entry.manifest.digest.to_string(), Reference::familiar);
            format!("image {name} cannot be used (pull or import it again, or remove it)")
        })
    }

    fn read_manifest(&self, entry: &Entry) -> Result<Manifest> {
        let descriptor = &entry.manifest;
        ensure!(descriptor.size <= MAX_DOCUMENT, "manifest {} is too large", descriptor.digest);
        as_manifest(&self.read_blob(&descriptor.digest)?, descriptor)
    }

    pub(super) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        read_verified(&blob_file(&self.dirs, digest), digest)
    }
}

/// What cannot be read just now is an error: whoever misses an image fetches it again.
fn unless_damaged<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if !error.downcast_ref().is_some_and(SysError::is_without_means) => Ok(None),
        other => other.map(Some),
    }
}
