//! The content store: an OCI image layout on disk, and the unpacked layers beside it.
//!
//! | what | where | how it changes |
//! |---|---|---|
//! | which images there are, by what names | `images/index.json` | replaced atomically, under the exclusive lock |
//! | manifests, configs, packed layers | `images/blobs/sha256/<hex>` | renamed into place when complete, verified and synced |
//! | unpacked layers | `layers/<chain id>` | likewise |
//! | work in progress | `tmp/<pid>-<n>/`, see [`super::session`] | removed by its owner, or by whoever opens the store next |
//!
//! Locks are flock(2) on `images.lock`: shared to read the index and what it names, exclusive to change it; neither is held
//! during a download or while unpacking. What a pull relied on and did not write is looked at again when it commits.

use super::find::Stored;
use super::index::{self, Addition, Entry, Origin, with_addition};
use super::manifest::{ConfigFile, Descriptor, Document, Manifest, Platform, parse_config, parse_document};
use super::progress::Shared;
use super::reference::{Digest, Reference, image_id};
use super::session::{Session, Stop, Work, make_private_dir, remove_path};
use super::{
    Event, Image, ImageFailure, ImageFailureKind, Progress, PullPolicy, Quiet, ahead, archive, registry, unpack,
};
use crate::error::{Kind, failure, kind_of};
use crate::paths::Dirs;
use crate::plan::config::Login;
use crate::sys::Called;
use crate::sys::fs::rename_new;
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;

/// How often a pull starts again because somebody removed what it relied on.
const COMMIT_ATTEMPTS: u32 = 3;

/// An image as `podshim image ls` shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name, unless it lost it.
    pub name: Option<Reference>,
    /// `sha256:…` of the config.
    pub id: Digest,
    /// `sha256:…` of the manifest.
    pub digest: Digest,
    /// What the name resolved to.
    pub resolved: Digest,
    /// When it was built, RFC 3339, as it says.
    pub created: Option<String>,
    /// Size of its blobs in bytes.
    pub size: u64,
}

/// The store. Opening it needs no lock that another process holds for long.
#[derive(Debug)]
pub struct Store {
    pub(super) dirs: Dirs,
    limits: unpack::Limits,
    registries: Option<registry::Settings>,
    logins: Vec<Login>,
    stop: Stop,
}

/// Held as long as the lock is.
pub(super) struct Lock(#[allow(dead_code)] File);

impl Store {
    /// Opens the store, making its directories (mode 0700) where they are missing, and removes what dead processes left.
    ///
    /// `PODSHIM_MAX_LAYER_BYTES` limits what one layer may unpack to (default 128 GiB).
    pub fn open(dirs: &Dirs) -> Result<Store> {
        let mut limits = unpack::Limits::default();
        if let Some(text) = std::env::var_os("PODSHIM_MAX_LAYER_BYTES") {
            let bytes = text.to_str().and_then(|t| t.parse().ok());
            limits.bytes =
                bytes.with_context(|| format!("PODSHIM_MAX_LAYER_BYTES={text:?} is not a number of bytes"))?;
        }
        let mut dirs = dirs.clone();
        // The paths of layers are used by processes with other working directories.
        dirs.root = std::path::absolute(&dirs.root).called("getcwd", dirs.root.display())?;
        let store = Store { dirs, limits, registries: None, logins: Vec::new(), stop: Stop::Signal };
        let dirs = &store.dirs;
        let prepare = || -> Result<()> {
            // Others may pass through, nobody may look: containers' own files lie below.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&dirs.root)
                .called("mkdir", dirs.root.display())?;
            for dir in [dirs.image_tmp(), dirs.layers(), dirs.images(), dirs.images().join("blobs/sha256")] {
                make_private_dir(&dir)?;
            }
            store.sweep()
        };
        prepare().with_context(|| format!("opening the image store in {}", dirs.root.display()))?;
        Ok(store)
    }

    /// Uses these settings instead of those of the host (tests, the CRI server).
    pub fn with_registries(mut self, settings: registry::Settings) -> Store {
        self.registries = Some(settings);
        self
    }

    /// Tries these logins before those of the host.
    pub fn with_logins(mut self, logins: &[Login]) -> Store {
        self.logins = logins.to_vec();
        self
    }

    /// Stops work for this reason instead of SIGINT and SIGTERM.
    pub fn with_stop(mut self, stop: Stop) -> Store {
        self.stop = stop;
        self
    }

    /// Uses these limits on unpacking.
    pub fn with_limits(mut self, limits: unpack::Limits) -> Store {
        self.limits = limits;
        self
    }

    /// The image of this name, from here or from its registry as the policy says. Errors have an [`ImageFailure`].
    pub fn ensure(&self, reference: &Reference, policy: PullPolicy, progress: &mut dyn Progress) -> Result<Image> {
        let name = reference.to_string();
        let look = || -> Result<_> {
            let _lock = self.lock_shared()?;
            Ok(self.find_entry(&name)?.map(|entry| (self.read_stored(&entry), entry)))
        };
        let local = look().map_err(|e| self.cannot_read(reference, e))?;
        let use_local = match (policy, &local) {
            (PullPolicy::Never, None) => {
                let text =
                    format!("Container image {:?} is not present with pull policy of Never", reference.familiar());
                return Err(ImageFailure::plain(ImageFailureKind::NeverPull, text));
            }
            (PullPolicy::Never | PullPolicy::IfNotPresent, Some(_)) => true,
            (PullPolicy::AlwaysByDefault, Some((_, entry))) => entry.origin == Origin::Import,
            _ => false,
        };
        match local {
            // A damaged one is as good as none, unless it was imported: what a registry has by its name may be another.
            Some((Err(_), entry)) if policy == PullPolicy::IfNotPresent && entry.origin == Origin::Pull => {
                self.pull(reference, progress)
            }
            Some((read, entry)) if use_local => read
                .and_then(|(manifest, file)| self.ready(Stored { entry, manifest, file }, progress, name))
                .map_err(|e| self.cannot_read(reference, e)),
            _ => self.pull(reference, progress),
        }
    }

    fn cannot_read(&self, reference: &Reference, error: anyhow::Error) -> anyhow::Error {
        if kind_of(&error) == Some(Kind::Interrupted) {
            return error;
        }
        ImageFailure::caused(ImageFailureKind::Inspect, format!("reading image {}", reference.familiar()), error)
    }

    /// The image of this name or ID (`sha256:…`, or 12 hex digits and more that only one image has), which must be here.
    /// Layers that are not unpacked are.
    pub fn resolve(&self, text: &str) -> Result<Image> {
        let stored = self.find(text)?.ok_or_else(|| missing(text))?;
        let name = stored.entry.name.as_ref().map(Reference::to_string).unwrap_or_default();
        let name = if image_id(text).is_some() { name } else { super::parse_reference(text)?.to_string() };
        self.ready(stored, &mut Quiet, name)
    }

    /// A store to look for what is here: nothing of it is made or cleared away.
    pub fn reading(dirs: &Dirs) -> Store {
        let limits = unpack::Limits::default();
        Store { dirs: dirs.clone(), limits, registries: None, logins: Vec::new(), stop: Stop::Signal }
    }

    /// The image of this name or ID if it is here with its layers unpacked: nothing is made or changed for it.
    pub fn look(dirs: &Dirs, text: &str) -> Result<Option<Image>> {
        let store = Store::reading(dirs);
        let path = dirs.image_lock();
        let lock = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            other => Some(other.called("open", path.display())?),
        };
        if let Some(file) = &lock {
            file.lock_shared().called("flock", path.display())?;
        }
        let Some(Stored { entry, manifest, file }) = store.find_locked(text)? else { return Ok(None) };
        if !store.layer_paths(&file).iter().all(|path| path.is_dir()) {
            return Ok(None);
        }
        let name = super::parse_reference(text).map_or_else(|_| text.to_owned(), |name| name.to_string());
        Ok(Some(store.image(&entry.manifest, (manifest, file), name)))
    }

    /// Fetches what is missing of the image from its registry, whatever is here.
    pub fn pull(&self, reference: &Reference, progress: &mut dyn Progress) -> Result<Image> {
        let result = self.pull_once_complete(reference, progress);
        progress.report(Event::Finished);
        result.map_err(|error| {
            if kind_of(&error) == Some(Kind::Interrupted) {
                return error;
            }
            let kind = match error.chain().any(|e| e.is::<registry::Unavailable>()) {
                true => ImageFailureKind::RegistryUnavailable,
                false => ImageFailureKind::Pull,
            };
            ImageFailure::caused(kind, format!("pulling image {}", reference.familiar()), error)
        })
    }

    fn pull_once_complete(&self, reference: &Reference, progress: &mut dyn Progress) -> Result<Image> {
        let mut settings = match &self.registries {
            Some(settings) => settings.clone(),
            None => registry::Settings::from_host()?,
        };
        settings.auth = settings.auth.after(self.logins.clone());
        progress.report(Event::Pulling(reference));
        for _ in 0..COMMIT_ATTEMPTS {
            let session = self.session()?;
            let work = Work { progress: &Shared::new(&mut *progress), limits: self.limits };
            let (pulled, failed) = std::thread::scope(|scope| -> Result<_> {
                let (arrived, arrivals) = mpsc::channel();
                let unpack = || ahead::run(&session, arrivals, &work);
                // Without a thread nothing is done ahead.
                let thread = std::thread::Builder::new().spawn_scoped(scope, unpack).ok();
                let pull = registry::Pull { settings: &settings, progress: work.progress, arrived };
                let pulled = registry::pull(&session, reference, pull).inspect_err(|_| session.give_up());
                let unpacked = thread.and_then(|thread| thread.join().ok());
                Ok((pulled?, unpacked.and_then(Result::err)))
            })?;
            let (manifest, file) = self.load(&session, &pulled.manifest)?;
            if let Some(failed) = failed.filter(|failed| failed.config == manifest.config.digest) {
                return Err(failed.error);
            }
            session.unpack(&manifest, &file, &work)?;
            let addition = Addition {
                manifest: &pulled.manifest,
                names: std::slice::from_ref(reference),
                origin: Origin::Pull,
                resolved: pulled.resolved,
            };
            if self.commit(&session, &[addition])? {
                return Ok(self.image(&pulled.manifest, (manifest, file), reference.to_string()));
            }
        }
        bail!("other processes keep removing its layers")
    }

    /// Takes the images of an archive in; returns what each is called. Nothing is left of an archive that is broken.
    pub fn import(&self, source: archive::Source, options: archive::Import) -> Result<Vec<(Vec<Reference>, Image)>> {
        let archive::Import { name, progress } = options;
        let session = self.session()?;
        let found = archive::read(&session, source)?;
        ensure!(!found.is_empty(), "the archive has no image for {}", Platform::host());
        ensure!(name.is_none() || found.len() == 1, "the archive has {} images, --name can name only one", found.len());
        let mut images = Vec::new();
        let mut named: BTreeMap<Reference, &Digest> = BTreeMap::new();
        for image in &found {
            let names = name.clone().map_or_else(|| image.names.clone(), |n| vec![n]);
            for name in &names {
                let before = named.insert(name.clone(), &image.manifest.digest);
                ensure!(
                    before.is_none_or(|d| *d == image.manifest.digest),
                    "the archive calls two images {}",
                    name.familiar()
                );
            }
            let (manifest, file) = self.load(&session, &image.manifest)?;
            let work = Work { progress: &Shared::new(&mut *progress), limits: self.limits };
            session.unpack(&manifest, &file, &work)?;
            images.push((&image.manifest, names, manifest, file));
        }
        let additions: Vec<Addition> = images
            .iter()
            .map(|(descriptor, names, ..)| Addition {
                manifest: descriptor,
                names,
                origin: Origin::Import,
                resolved: descriptor.digest.clone(),
            })
            .collect();
        ensure!(self.commit(&session, &additions)?, "another process removed a layer meanwhile; try again");
        Ok(images
            .into_iter()
            .map(|(descriptor, names, manifest, file)| {
                let name = names.first().map(Reference::to_string).unwrap_or_default();
                let image = self.image(descriptor, (manifest, file), name);
                (names, image)
            })
            .collect())
    }

    /// Writes the images of these names or IDs as one archive.
    pub fn export(&self, names: &[String], format: archive::Format, out: &mut dyn Write) -> Result<()> {
        let session = self.session()?;
        let mut images = Vec::new();
        for text in names {
            let stored = self.find(text)?.ok_or_else(|| missing(text))?;
            let asked = if image_id(text).is_some() { None } else { Some(super::parse_reference(text)?) };
            let name = asked.or(stored.entry.name);
            images.push(archive::Exported { descriptor: stored.entry.manifest, name, manifest: stored.manifest });
        }
        archive::write(&session, &images, archive::Output { format, out })
    }

    /// Every image, by name, those without one last; and what is wrong with each that is damaged, which is none.
    pub fn list(&self) -> Result<(Vec<Listed>, Vec<anyhow::Error>)> {
        let _lock = self.lock_shared()?;
        let (mut list, mut damaged) = (Vec::new(), Vec::new());
        for entry in self.entries()? {
            let (manifest, file) = match self.read_stored(&entry) {
                Ok(read) => read,
                Err(error) => {
                    damaged.push(error);
                    continue;
                }
            };
            list.push(Listed {
                name: entry.name,
                id: manifest.config.digest.clone(),
                digest: entry.manifest.digest,
                resolved: entry.resolved,
                created: file.created,
                size: manifest.layers.iter().map(|l| l.size).sum::<u64>() + manifest.config.size,
            });
        }
        list.sort_by_key(|l| (l.name.is_none(), l.name.as_ref().map(Reference::familiar)));
        Ok((list, damaged))
    }

    /// What is known of an image, in the words of `docker image inspect`.
    pub fn inspect(&self, text: &str) -> Result<serde_json::Value> {
        let stored = self.find(text)?.ok_or_else(|| missing(text))?;
        let _lock = self.lock_shared()?;
        let id = &stored.manifest.config.digest;
        let same = self.entries()?.into_iter().filter(|e| e.manifest.digest == stored.entry.manifest.digest);
        let (mut tags, mut digests) = (Vec::new(), BTreeSet::new());
        for entry in same {
            let Some(name) = entry.name else { continue };
            digests.insert(format!("{}@{}", name.familiar_name(), entry.resolved));
            if name.tag().is_some() {
                tags.push(name.familiar());
            }
        }
        let config: serde_json::Value = serde_json::from_slice(&self.read_blob(id)?)?;
        let layers: Vec<String> = self.layer_paths(&stored.file).iter().map(|p| p.display().to_string()).collect();
        let size = stored.manifest.layers.iter().map(|l| l.size).sum::<u64>() + stored.manifest.config.size;
        Ok(serde_json::json!({
            "Id": id, "RepoTags": tags, "RepoDigests": digests, "Digest": stored.entry.manifest.digest,
            "Created": config["created"], "Architecture": config["architecture"], "Os": config["os"], "Size": size,
            "Config": config["config"], "RootFS": {"Type": "layers", "Layers": stored.file.diff_ids},
            "GraphDriver": {"Name": "overlay", "Data": {"Layers": layers}},
        }))
    }

    // Below: how it is done.

    pub(super) fn session(&self) -> Result<Session<'_>> {
        let _lock = self.lock_shared()?;
        Session::create(&self.dirs, &self.stop)
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.dirs.image_lock();
        Ok(File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // Whoever could open it could hold it, and nothing would be pulled any more.
            .mode(0o600)
            .open(&path)
            .called("open", path.display())?)
    }

    pub(super) fn lock_shared(&self) -> Result<Lock> {
        let file = self.lock_file()?;
        file.lock_shared().called("flock", self.dirs.image_lock().display())?;
        Ok(Lock(file))
    }

    pub(super) fn lock_exclusive(&self) -> Result<Lock> {
        let file = self.lock_file()?;
        file.lock().called("flock", self.dirs.image_lock().display())?;
        Ok(Lock(file))
    }

    /// Removes sessions whose process is dead; what a process left that died while it committed is garbage as well.
    /// If somebody works on the store, he swept it himself.
    fn sweep(&self) -> Result<()> {
        let file = self.lock_file()?;
        if file.try_lock().is_err() {
            return Ok(());
        }
        let layout = self.dirs.images().join("oci-layout");
        let mut dead = Vec::new();
        let tmp = self.dirs.image_tmp();
        for entry in fs::read_dir(&tmp).called("opendir", tmp.display())? {
            let name = entry.called("readdir", tmp.display())?.file_name();
            // A name that vanished or is no directory is nobody's.
            let locked = File::open(tmp.join(&name)).is_ok_and(|f| f.try_lock().is_err());
            if !locked {
                dead.push(name);
            }
        }
        if !dead.is_empty() || !layout.exists() {
            let session = Session::create(&self.dirs, &self.stop)?;
            if !layout.exists() {
                self.replace(&session, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            }
            self.collect(&session, &self.entries()?)?;
        }
        for name in dead {
            remove_path(&tmp, &name)?;
        }
        Ok(())
    }

    pub(super) fn entries(&self) -> Result<Vec<Entry>> {
        let path = self.dirs.images().join("index.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).called("read", path.display()).map_err(Into::into),
        };
        index::parse(&bytes).with_context(|| format!("{} is damaged", path.display()))
    }

    pub(super) fn write_index(&self, session: &Session, entries: &[Entry]) -> Result<()> {
        self.replace(session, "index.json", &index::serialize(entries)?)
    }

    /// tmp → fsync → rename → fsync(dir): after a crash there is the old file or the new one.
    fn replace(&self, session: &Session, name: &str, bytes: &[u8]) -> Result<()> {
        let (part, path) = (session.dir().join(name), self.dirs.images().join(name));
        let mut file = File::create(&part).called("open", part.display())?;
        file.write_all(bytes).called("write", part.display())?;
        file.sync_all().called("fsync", part.display())?;
        fs::rename(&part, &path).called("rename", path.display())?;
        sync_dir(&self.dirs.images())
    }

    fn load(&self, session: &Session, descriptor: &Descriptor) -> Result<(Manifest, ConfigFile)> {
        let manifest = as_manifest(&session.read(descriptor)?, descriptor)?;
        let file = parse_config(&session.read(&manifest.config)?, manifest.layers.len()).context("image config")?;
        Ok((manifest, file))
    }

    fn layer_paths(&self, file: &ConfigFile) -> Vec<std::path::PathBuf> {
        file.chain_ids().iter().map(|id| self.dirs.layers().join(id.hex())).collect()
    }

    fn image(&self, descriptor: &Descriptor, (manifest, file): (Manifest, ConfigFile), reference: String) -> Image {
        let layers = self.layer_paths(&file);
        Image { reference, layers, ..Image::assemble(&manifest, file, &descriptor.digest) }
    }

    /// Unpacks what is missing of an image that is here.
    fn ready(&self, stored: Stored, progress: &mut dyn Progress, reference: String) -> Result<Image> {
        let Stored { entry, manifest, file } = stored;
        if !self.layer_paths(&file).iter().all(|p| p.is_dir()) {
            let session = self.session()?;
            session.unpack(&manifest, &file, &Work { progress: &Shared::new(progress), limits: self.limits })?;
            session.sync()?;
            let _lock = self.lock_exclusive()?;
            self.publish(&session)?;
        }
        Ok(self.image(&entry.manifest, (manifest, file), reference))
    }

    /// Makes a session's work count. False if what it relied on has gone: then it has to be done again.
    fn commit(&self, session: &Session, additions: &[Addition]) -> Result<bool> {
        session.sync()?;
        session.check_interrupt()?;
        let _lock = self.lock_exclusive()?;
        for addition in additions {
            // Read through the session: a blob or layer counts whether it is staged or stored.
            let Ok((manifest, file)) = self.load(session, addition.manifest) else { return Ok(false) };
            let blobs = manifest.layers.iter().all(|l| session.blob_path(l).is_some());
            let stored = |id: &Digest| {
                self.dirs.layers().join(id.hex()).is_dir() || session.staged_layers().join(id.hex()).is_dir()
            };
            if !blobs || !file.chain_ids().iter().all(stored) {
                return Ok(false);
            }
        }
        let moved = self.publish(session)?;
        let before = self.entries()?;
        let after = additions.iter().fold(before.clone(), with_addition);
        if moved || before != after {
            self.write_index(session, &after)?;
        }
        Ok(true)
    }

    /// Renames staged blobs and layers to where they count; whether there were any.
    fn publish(&self, session: &Session) -> Result<bool> {
        let blobs = self.dirs.images().join("blobs/sha256");
        let mut moved = false;
        for (from, to) in [(session.staged_blobs(), blobs), (session.staged_layers(), self.dirs.layers())] {
            let mut some = false;
            for entry in fs::read_dir(&from).called("opendir", from.display())? {
                let name = entry.called("readdir", from.display())?.file_name();
                let target = to.join(&name);
                match rename_new(&from.join(&name), &target).map_err(|error| (error.errno(), error)) {
                    Ok(()) => some = true,
                    // Another process was faster with the same content; but a blob that is damaged is no content.
                    Err((Errno::EEXIST, _)) if from == session.staged_blobs() => {
                        fs::rename(from.join(&name), &target).called("rename", target.display())?;
                        some = true;
                    }
                    Err((Errno::EEXIST, _)) => {}
                    Err((_, error)) => return Err(error.into()),
                }
            }
            if some {
                sync_dir(&to)?;
                moved = true;
            }
        }
        Ok(moved)
    }
}

pub(super) fn as_manifest(bytes: &[u8], descriptor: &Descriptor) -> Result<Manifest> {
    match parse_document(bytes, Some(&descriptor.media_type))
        .with_context(|| format!("manifest {}", descriptor.digest))?
    {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => bail!("{} is an index, not a manifest", descriptor.digest),
    }
}

pub(super) fn missing(text: &str) -> anyhow::Error {
    failure(Kind::NotFound, format!("no such image: {text}"))
}

fn sync_dir(dir: &Path) -> Result<()> {
    let opened = File::open(dir).called("open", dir.display())?;
    Ok(opened.sync_all().called("fsync", dir.display())?)
}
