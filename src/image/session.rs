//! Work in progress on the image store: everything a pull or an import writes stays in a directory of its own under
//! [`Dirs::image_tmp`] until it is complete and verified, so that a kill at any moment leaves nothing else behind.
//!
//! The directory is locked (flock) as long as its process lives; who finds one that is not removes it.

use super::manifest::{Compression, ConfigFile, Descriptor, MAX_DOCUMENT, Manifest};
use super::progress::Shared;
use super::reference::Digest;
use super::tree::{Below, dir_flags, remove_tree};
use super::unpack::Limits;
use super::write_back::WriteBack;
use super::{Event, layer};
use crate::error::{Kind, failure};
use crate::paths::Dirs;
use crate::sys::fs::syncfs;
use crate::sys::{Called, SysResult};
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{AT_FDCWD, openat};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use sha2::{Digest as _, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Makes distinct the directories of one process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// What ends work early.
#[derive(Debug, Clone, Default)]
pub enum Stop {
    /// SIGINT and SIGTERM, which are not fatal to the thread meanwhile.
    #[default]
    Signal,
    /// This flag, once it is true: for a process that takes signals elsewhere.
    Flag(Arc<AtomicBool>),
}

/// A directory for work in progress, removed on drop. While it exists its [`Stop`] ends the work with an error of kind
/// `Interrupted`, after which nothing is left.
pub struct Session<'a> {
    dirs: &'a Dirs,
    dir: PathBuf,
    name: OsString,
    /// `dir`. Holds the lock, which says that the owner lives; syncfs(2) tells by it of each error since it was opened.
    lock: File,
    interrupt: Interrupt,
    /// It is of no use any more that layers are unpacked.
    given_up: AtomicBool,
}

impl<'a> Session<'a> {
    /// Makes the directory. The caller holds the store's lock, so that nobody sweeps it before it is locked.
    pub(super) fn create(dirs: &'a Dirs, stop: &Stop) -> Result<Session<'a>> {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = OsString::from(format!("{}-{number}", std::process::id()));
        let dir = dirs.image_tmp().join(&name);
        // One left by a dead process of the same pid.
        if dir.exists() {
            remove_path(&dirs.image_tmp(), &name)?;
        }
        make_private_dir(&dir)?;
        let lock = File::open(&dir).called("open", dir.display())?;
        lock.try_lock().map_err(|e| anyhow::anyhow!("flock {}: {e}", dir.display()))?;
        let session =
            Session { dirs, dir, name, lock, interrupt: Interrupt::watch(stop)?, given_up: AtomicBool::new(false) };
        for part in ["blobs", "layers", "trash"] {
            make_private_dir(&session.dir.join(part))?;
        }
        Ok(session)
    }

    /// An error of kind `Interrupted` once the work is to stop.
    pub fn check_interrupt(&self) -> Result<()> {
        match self.interrupt.seen()? {
            true => Err(failure(Kind::Interrupted, "interrupted")),
            false => Ok(()),
        }
    }

    /// Ends what unpacks layers.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// The directory itself, for files that are neither blobs nor layers.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn staged_blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    pub(super) fn staged_layers(&self) -> PathBuf {
        self.dir.join("layers")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.dir.join("trash")
    }

    /// Starts a blob that must turn out as described.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<BlobWriter> {
        let (digest, size) = (descriptor.digest.clone(), descriptor.size);
        let part = self.dir.join(format!("{}.part", digest.hex()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&part);
        let file = file.called("open", part.display())?;
        let done = self.staged_blobs().join(digest.hex());
        Ok(BlobWriter { file: WriteBack::new(file), part, done, digest, size, hash: Sha256::new() })
    }

    /// Stages a small blob whole.
    pub fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let descriptor = Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
        if self.read(&descriptor).is_err() {
            let mut writer = self.blob(&descriptor)?;
            writer.write(bytes)?;
            writer.finish()?;
        }
        Ok(descriptor)
    }

    /// Where a blob of this digest and size lies: staged here or in the store.
    pub fn blob_path(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        let staged = self.staged_blobs().join(descriptor.digest.hex());
        let stored = blob_file(self.dirs, &descriptor.digest);
        [staged, stored].into_iter().find(|p| fs::metadata(p).is_ok_and(|m| m.is_file() && m.len() == descriptor.size))
    }

    /// Whether a blob need not be fetched. A small one is read for it: a stored one may be damaged. Of a layer, whoever unpacks it
    /// finds that out.
    pub(super) fn has(&self, descriptor: &Descriptor) -> bool {
        match Compression::of_media_type(&descriptor.media_type) {
            Ok(_) => self.blob_path(descriptor).is_some(),
            Err(_) => self.read(descriptor).is_ok(),
        }
    }

    /// A small blob's bytes, verified.
    pub fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let path = self.blob_path(descriptor).with_context(|| format!("blob {} is not here", descriptor.digest))?;
        read_verified(&path, &descriptor.digest)
    }

    /// Unpacks each layer that is not unpacked yet, lowest first.
    pub fn unpack(&self, manifest: &Manifest, file: &ConfigFile, work: &Work) -> Result<()> {
        let mut unpacked = Unpacked::none(file);
        while unpacked.below.len() < manifest.layers.len() {
            self.unpack_next((manifest, file), &mut unpacked, work)?;
        }
        Ok(())
    }

    /// Everything that is staged is on the disk when this returns, which is to be before any of it is renamed to where it counts:
    /// after a power cut it must be whole or absent.
    pub(super) fn sync(&self) -> Result<()> {
        for staged in [self.staged_blobs(), self.staged_layers()] {
            if fs::read_dir(&staged).called("opendir", staged.display())?.next().is_some() {
                return Ok(syncfs(self.lock.as_fd())?);
            }
        }
        Ok(())
    }

    /// Whether there is another layer and it is here, unpacked or not.
    pub(super) fn has_next(&self, manifest: &Manifest, unpacked: &Unpacked) -> bool {
        let i = unpacked.below.len();
        manifest.layers.get(i).is_some_and(|layer| {
            self.blob_path(layer).is_some() || self.dirs.layers().join(unpacked.chain_ids[i].hex()).is_dir()
        })
    }

    /// Unpacks the next layer unless that has been done.
    pub(super) fn unpack_next(
        &self,
        (manifest, file): (&Manifest, &ConfigFile),
        unpacked: &mut Unpacked,
        work: &Work,
    ) -> Result<()> {
        let i = unpacked.below.len();
        let (descriptor, chain_id) = (&manifest.layers[i], &unpacked.chain_ids[i]);
        let stored = self.dirs.layers().join(chain_id.hex());
        if stored.is_dir() {
            unpacked.below.push(open_dir(&stored)?);
            return Ok(());
        }
        let staged = self.staged_layers().join(chain_id.hex());
        if !staged.is_dir() {
            work.progress.report(Event::Unpacking(&descriptor.digest));
            make_private_dir(&staged)?;
            let (below, diff_id) = (&unpacked.below, &file.diff_ids[i]);
            let target = layer::Target { root: open_dir(&staged)?, below, diff_id, limits: work.limits };
            if let Err(error) = self.unpack_one(descriptor, target) {
                // Nobody is to take it for a layer.
                remove_path(&self.staged_layers(), OsStr::new(chain_id.hex()))?;
                return Err(error.context(format!("unpacking layer {}", descriptor.digest)));
            }
        }
        unpacked.below.push(open_dir(&staged)?);
        Ok(())
    }

    fn unpack_one(&self, descriptor: &Descriptor, target: layer::Target) -> Result<()> {
        let path = self.blob_path(descriptor).context("it is not here")?;
        let blob = File::open(&path).called("open", path.display())?;
        let label = Compression::of_media_type(&descriptor.media_type)?;
        let Err(error) = layer::unpack(Interruptible { inner: blob, session: self }, label, target) else {
            return Ok(());
        };
        self.check_interrupt()?;
        // A blob that rotted on disk is not the image's fault, and fetching it again helps.
        if path.starts_with(self.dirs.images()) && hash_file(&path)? != descriptor.digest {
            fs::remove_file(&path).called("unlink", path.display())?;
            bail!("{} was damaged on disk and has been removed; pull or import the image again", path.display());
        }
        Err(error)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is swept when the store is opened next.
        let _ = remove_path(&self.dirs.image_tmp(), &self.name);
    }
}

/// The lowest layers of an image, which are unpacked.
pub(super) struct Unpacked {
    /// Of all layers.
    chain_ids: Vec<Digest>,
    below: Below,
}

impl Unpacked {
    pub(super) fn none(file: &ConfigFile) -> Unpacked {
        Unpacked { chain_ids: file.chain_ids(), below: Below::default() }
    }
}

/// What unpacking needs besides the image.
pub struct Work<'a, 'p> {
    /// Told of each layer.
    pub progress: &'a Shared<'p>,
    /// When a layer is too large.
    pub limits: Limits,
}

/// A blob being written: hashed as it comes, never longer than described.
pub struct BlobWriter {
    file: WriteBack,
    part: PathBuf,
    done: PathBuf,
    digest: Digest,
    size: u64,
    hash: Sha256,
}

impl BlobWriter {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.file.written()
    }

    /// Appends; refuses more bytes than were described.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        ensure!(
            bytes.len() as u64 <= self.size - self.written(),
            "blob {} is longer than the {} bytes that its descriptor says",
            self.digest,
            self.size
        );
        self.file.write_all(bytes).called("write", self.part.display())?;
        self.hash.update(bytes);
        Ok(())
    }

    /// Starts again from nothing.
    pub fn restart(&mut self) -> Result<()> {
        self.file.restart().called("ftruncate", self.part.display())?;
        self.hash = Sha256::new();
        Ok(())
    }

    /// Verifies size and digest, and stages the blob. It is on the disk after [`Session::sync`].
    pub fn finish(self) -> Result<()> {
        let written = self.file.finish();
        ensure!(written == self.size, "blob {} has {written} bytes, its descriptor says {}", self.digest, self.size);
        let found = Digest::from_hash(&self.hash.finalize());
        ensure!(found == self.digest, "the content of blob {} has digest {found}", self.digest);
        Ok(fs::rename(&self.part, &self.done).called("rename", self.done.display())?)
    }
}

/// Ends a long read when the user does.
struct Interruptible<'s, R> {
    inner: R,
    session: &'s Session<'s>,
}

impl<R: Read> Read for Interruptible<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.session.check_interrupt().map_err(io::Error::other)?;
        if self.session.given_up.load(Ordering::Relaxed) {
            return Err(io::Error::other("given up"));
        }
        self.inner.read(buffer)
    }
}

/// A [`Stop`] at work.
enum Interrupt {
    Signal(Signals),
    Flag(Arc<AtomicBool>),
}

impl Interrupt {
    fn watch(stop: &Stop) -> Result<Interrupt> {
        Ok(match stop {
            Stop::Signal => Interrupt::Signal(Signals::watch()?),
            Stop::Flag(flag) => Interrupt::Flag(flag.clone()),
        })
    }

    fn seen(&self) -> Result<bool> {
        match self {
            Interrupt::Signal(signals) => signals.seen(),
            Interrupt::Flag(flag) => Ok(flag.load(Ordering::Relaxed)),
        }
    }
}

/// SIGINT and SIGTERM as something to look at instead of something that kills.
struct Signals {
    signals: SignalFd,
    before: SigSet,
    seen: AtomicBool,
}

impl Signals {
    fn watch() -> Result<Signals> {
        let mask: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .called("signalfd", "SIGINT, SIGTERM")?;
        let before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK).called("pthread_sigmask", "SIGINT, SIGTERM")?;
        Ok(Signals { signals, before, seen: AtomicBool::new(false) })
    }

    fn seen(&self) -> Result<bool> {
        if !self.seen.load(Ordering::Relaxed) && self.signals.read_signal().called("read", "signalfd")?.is_some() {
            self.seen.store(true, Ordering::Relaxed);
        }
        Ok(self.seen.load(Ordering::Relaxed))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // The mask was read from this thread: setting it again cannot fail.
        let _ = self.before.thread_set_mask();
    }
}

/// Where the store keeps a blob.
pub(super) fn blob_file(dirs: &Dirs, digest: &Digest) -> PathBuf {
    dirs.images().join("blobs/sha256").join(digest.hex())
}

/// A small file's bytes, if they have this digest.
pub(super) fn read_verified(path: &Path, digest: &Digest) -> Result<Vec<u8>> {
    let file = File::open(path).called("open", path.display())?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).called("read", path.display())?;
    ensure!(bytes.len() as u64 <= MAX_DOCUMENT, "{} has more than {MAX_DOCUMENT} bytes", path.display());
    ensure!(Digest::of(&bytes) == *digest, "{} is damaged: its content has another digest", path.display());
    Ok(bytes)
}

fn hash_file(path: &Path) -> Result<Digest> {
    let mut file = File::open(path).called("open", path.display())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let n = file.read(&mut buffer).called("read", path.display())?;
        if n == 0 {
            return Ok(Digest::from_hash(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// `mkdir -p` with mode 0700 for what is made.
pub(super) fn make_private_dir(path: &Path) -> SysResult<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).called("mkdir", path.display())
}

/// Opens a directory of podshim's own to name things in it.
pub(super) fn open_dir(path: &Path) -> SysResult<OwnedFd> {
    openat(AT_FDCWD, path, dir_flags(), Mode::empty()).called("open", path.display())
}

/// Removes an entry of a directory of podshim's own, with everything below it.
pub(super) fn remove_path(dir: &Path, name: &OsStr) -> SysResult<()> {
    remove_tree(open_dir(dir)?.as_fd(), name)
}
