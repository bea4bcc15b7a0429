//! Images in archives: reading an OCI layout (folder or tar) or a docker-archive tar, and writing either as a tar.
//!
//! Everything that is read goes into a session first, hashed; what no image needs is dropped from it again.

use super::entry::{Entries, EntryKind};
use super::layer::decompress;
use super::manifest::{
    Compression, Descriptor, Document, Index, MAX_INDEX_DEPTH, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Platform,
    is_index_type, is_manifest_type, parse_config, parse_document, strict,
};
use super::reference::{Digest, Reference};
use super::session::Session;
use super::{Progress, parse_reference};
use crate::sys::Called;
use crate::sys::fs::{IN_ROOT, open_regular};
use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The annotation by which containerd and buildx give the whole name (the OCI one may hold only the tag).
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";
/// The most entries of a tar: an image of 500 layers has some 1500 in docker's old format, and each is a file for a while.
const MAX_ENTRIES: usize = 16_384;
/// The longest name of one that is kept, in bytes: PATH_MAX.
const MAX_NAME: usize = 4096;
/// The most bytes of a tar's files, together: a few packed ones may be very many.
const MAX_BYTES: u64 = 128 << 30;
/// How many links lead from a layer's name to its file in old docker-archives.
const MAX_LINKS: u32 = 10;

/// Where an archive comes from.
pub enum Source {
    /// An OCI layout as a folder.
    Folder(PathBuf),
    /// A tar, also packed by gzip or zstd, with what errors call it.
    Stream(Box<dyn Read>, String),
    /// The same from a descriptor that may be a pipe, which is waited for only as long as the user does.
    File(File, String),
}

impl Source {
    /// A folder, a file, or `-` for stdin.
    pub fn open(path: &str) -> Result<Source> {
        if path == "-" {
            let fd = io::stdin().as_fd().try_clone_to_owned().called("dup", "stdin")?;
            return Ok(Source::File(fd.into(), "stdin".into()));
        }
        let file = File::open(path).called("open", path)?;
        if file.metadata().called("fstat", path)?.is_dir() {
            return Ok(Source::Folder(path.into()));
        }
        Ok(Source::File(file, path.into()))
    }
}

/// How an archive is taken in.
pub struct Import<'a> {
    /// The name of its only image, instead of what the archive says.
    pub name: Option<Reference>,
    /// Told of each layer.
    pub progress: &'a mut dyn Progress,
}

/// What kind of archive is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A tar of an OCI image layout.
    Oci,
    /// What `docker save` wrote before version 25: layers unpacked to plain tars.
    Docker,
}

/// Where an archive goes.
pub struct Output<'a> {
    /// Its kind.
    pub format: Format,
    /// Where its bytes go.
    pub out: &'a mut dyn Write,
}

pub(super) struct Found {
    pub(super) manifest: Descriptor,
    pub(super) names: Vec<Reference>,
}

pub(super) struct Exported {
    pub(super) descriptor: Descriptor,
    pub(super) name: Option<Reference>,
    pub(super) manifest: Manifest,
}

/// Reads every image for this host.
pub(super) fn read(session: &Session, source: Source) -> Result<Vec<Found>> {
    let (content, name) = match source {
        Source::Folder(path) => {
            let folder = OwnedFd::from(File::open(&path).called("open", path.display())?);
            (Content { session, folder: Some(folder), files: BTreeMap::new() }, path.display().to_string())
        }
        Source::Stream(stream, name) => (Content::staged(session, stream, &name)?, name),
        Source::File(file, name) => (Content::staged(session, Box::new(Patient { file, session }), &name)?, name),
    };
    let found = content.images().with_context(|| format!("reading {name}"))?;
    content.drop_unneeded(&found)?;
    Ok(found)
}

/// The files of an archive.
struct Content<'a> {
    session: &'a Session<'a>,
    folder: Option<OwnedFd>,
    /// Of a tar: name → what was staged.
    files: BTreeMap<String, Descriptor>,
}

/// Reads a pipe without being deaf to Ctrl-C, which a session blocks.
struct Patient<'a> {
    file: File,
    session: &'a Session<'a>,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.session.check_interrupt().map_err(io::Error::other)?;
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, 100u8) {
                // Ready, at its end or broken: read(2) tells which.
                Ok(1..) => return self.file.read(buffer),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Stages every file of a tar under its digest.
fn stage(session: &Session, stream: Box<dyn Read + '_>) -> Result<BTreeMap<String, Descriptor>> {
    let mut packed = BufReader::with_capacity(128 << 10, stream);
    let first = packed.fill_buf()?;
    ensure!(!first.is_empty(), "it is empty");
    let kind = Compression::of_magic(first);
    let mut entries = Entries::new(decompress(packed, kind)?);
    let (mut files, mut links) = (BTreeMap::new(), Vec::new());
    let (mut count, mut bytes) = (0, 0u64);
    while let Some(entry) = entries.advance()? {
        session.check_interrupt()?;
        count += 1;
        ensure!(count <= MAX_ENTRIES, "it has more than {MAX_ENTRIES} entries");
        for name in [&entry.name, &entry.link] {
            ensure!(name.len() <= MAX_NAME, "the name of entry {count} has {} bytes", name.len());
        }
        let name = clean(&entry.name.to_string_lossy());
        match entry.kind {
            EntryKind::File => {
                let mut body = entries.body().take(MAX_BYTES - bytes + 1);
                let staged = absorb(session, &mut body).with_context(|| format!("file {name:?}"))?;
                bytes += staged.size;
                ensure!(bytes <= MAX_BYTES, "its files have more than {MAX_BYTES} bytes");
                if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                    ensure!(staged.digest.hex() == hex, "blob {hex:?} has digest {}", staged.digest);
                }
                files.insert(name, staged);
            }
            EntryKind::HardLink => links.push((name, clean(&entry.link.to_string_lossy()))),
            EntryKind::Symlink => {
                let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                links.push((name.clone(), clean(&format!("{parent}/{}", entry.link.to_string_lossy()))));
            }
            _ => {}
        }
    }
    // A link may come before its target, and lead to another.
    for _ in 0..MAX_LINKS {
        for (name, target) in &links {
            if let Some(staged) = files.get(target).cloned() {
                files.insert(name.clone(), staged);
            }
        }
    }
    Ok(files)
}

/// Copies a file into the session and finds out its digest.
fn absorb(session: &Session, body: &mut dyn Read) -> Result<Descriptor> {
    use sha2::Digest as _;
    let part = session.dir().join("file.part");
    let mut file = File::create(&part).called("open", part.display())?;
    let (mut hash, mut size, mut buffer) = (sha2::Sha256::new(), 0, vec![0; 128 << 10]);
    loop {
        let n = body.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        session.check_interrupt()?;
        file.write_all(&buffer[..n]).called("write", part.display())?;
        hash.update(&buffer[..n]);
        size += n as u64;
    }
    let digest = Digest::from_hash(&hash.finalize());
    let done = session.staged_blobs().join(digest.hex());
    fs::rename(&part, &done).called("rename", done.display())?;
    Ok(Descriptor::new("", digest, size))
}

/// A path in an archive without `.`, `..` and doubled slashes.
fn clean(name: &str) -> String {
    let mut path: Vec<&str> = Vec::new();
    for component in name.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(path.pop()),
            _ => path.push(component),
        }
    }
    path.join("/")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl<'a> Content<'a> {
    fn staged(session: &'a Session<'a>, stream: Box<dyn Read + 'a>, name: &str) -> Result<Content<'a>> {
        let result = stage(session, stream);
        // An interrupt in the middle of a read came here as an I/O error.
        session.check_interrupt()?;
        let files = result.with_context(|| format!("reading {name}"))?;
        Ok(Content { session, folder: None, files })
    }

    fn images(&self) -> Result<Vec<Found>> {
        if let Some(index) = self.small("index.json")? {
            return self.oci(&index);
        }
        match self.small("manifest.json")? {
            Some(manifest) if self.folder.is_none() => self.docker(&manifest),
            _ => bail!("it is neither an OCI image layout (no index.json) nor a docker-archive tar (no manifest.json)"),
        }
    }

    /// A small file's bytes.
    fn small(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match &self.folder {
            Some(folder) => {
                let Some(file) = open_file(folder, name)? else { return Ok(None) };
                let mut bytes = Vec::new();
                file.take(super::manifest::MAX_DOCUMENT + 1).read_to_end(&mut bytes).called("read", name)?;
                Ok(Some(bytes))
            }
            None => self.files.get(name).map(|d| self.session.read(d).with_context(|| name.to_owned())).transpose(),
        }
    }

    fn oci(&self, index: &[u8]) -> Result<Vec<Found>> {
        let index: Index = serde_json::from_value(strict(index).context("index.json")?).context("index.json")?;
        let images = || {
            let of_image = |d: &&Descriptor| is_manifest_type(&d.media_type) || is_index_type(&d.media_type);
            index.manifests.iter().filter(of_image).filter(|d| d.annotation("vnd.docker.reference.type").is_none())
        };
        let here = |d: &&Descriptor| d.platform.as_ref().is_none_or(Platform::runs_here);
        if images().next().is_some() && images().all(|d| !here(&d)) {
            // For its error, which says what there is.
            index.choose()?;
        }
        let mut found: Vec<Found> = Vec::new();
        for entry in images().filter(here) {
            let names: Vec<Reference> = [CONTAINERD_NAME, OCI_NAME]
                .iter()
                .find_map(|k| entry.annotation(k))
                .map(parse_reference)
                .transpose()?
                .into_iter()
                .collect();
            let manifest = self.manifest(entry)?;
            match found.iter_mut().find(|f| f.manifest.digest == manifest.digest) {
                Some(same) => same.names.extend(names),
                None => found.push(Found { manifest, names }),
            }
        }
        Ok(found)
    }

    /// The manifest that an entry leads to, with all its blobs.
    fn manifest(&self, entry: &Descriptor) -> Result<Descriptor> {
        let mut at = Descriptor { annotations: None, platform: None, ..entry.clone() };
        for _ in 0..=MAX_INDEX_DEPTH {
            self.need(&at)?;
            let what = || format!("manifest {}", at.digest);
            match parse_document(&self.session.read(&at)?, Some(&at.media_type)).with_context(what)? {
                Document::Manifest(manifest) => {
                    for blob in manifest.layers.iter().chain([&manifest.config]) {
                        self.need(blob)?;
                    }
                    return Ok(at);
                }
                Document::Index(index) => {
                    let next = index.choose()?;
                    at = Descriptor { annotations: None, platform: None, ..next.clone() };
                }
            }
        }
        bail!("indexes are nested more than {MAX_INDEX_DEPTH} deep")
    }

    /// Sees to it that a blob is staged, unless it is stored already.
    fn need(&self, blob: &Descriptor) -> Result<()> {
        if self.session.has(blob) {
            return Ok(());
        }
        let absent = || format!("the archive has no blob {} of {} bytes", blob.digest, blob.size);
        let Some(folder) = &self.folder else { bail!(absent()) };
        let mut file = open_file(folder, &format!("blobs/sha256/{}", blob.digest.hex()))?.with_context(absent)?;
        let mut writer = self.session.blob(blob)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            self.session.check_interrupt()?;
            match file.read(&mut buffer).called("read", &blob.digest)? {
                0 => return writer.finish(),
                n => writer.write(&buffer[..n])?,
            }
        }
    }

    fn docker(&self, manifest: &[u8]) -> Result<Vec<Found>> {
        let list: Vec<DockerImage> =
            serde_json::from_value(strict(manifest).context("manifest.json")?).context("manifest.json")?;
        list.iter().map(|image| self.docker_image(image)).collect()
    }

    fn docker_image(&self, image: &DockerImage) -> Result<Found> {
        let file = |name: &str| {
            let found = self.files.get(&clean(name));
            found.cloned().with_context(|| format!("the archive has no file {name:?}, which manifest.json names"))
        };
        let config = file(&image.config)?;
        let layers = image.layers.iter().map(|name| self.docker_layer(file(name)?)).collect::<Result<Vec<_>>>()?;
        parse_config(&self.session.read(&config)?, layers.len())
            .with_context(|| format!("image config {:?}", image.config))?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config: Descriptor { media_type: OCI_CONFIG.to_owned(), ..config },
            layers,
        };
        let descriptor = self.session.put(OCI_MANIFEST, &serde_json::to_vec(&manifest)?)?;
        let names = image.repo_tags.iter().flatten().map(|t| parse_reference(t)).collect::<Result<_>>()?;
        Ok(Found { manifest: descriptor, names })
    }

    /// A docker-archive does not say how its layers are packed.
    fn docker_layer(&self, staged: Descriptor) -> Result<Descriptor> {
        let path = self.session.blob_path(&staged).context("a layer is not staged")?;
        let mut first = Vec::new();
        File::open(&path)
            .called("open", path.display())?
            .take(4)
            .read_to_end(&mut first)
            .called("read", path.display())?;
        Ok(Descriptor { media_type: Compression::of_magic(&first).oci_media_type().to_owned(), ..staged })
    }

    /// Removes staged files which belong to no image: other platforms, bookkeeping.
    fn drop_unneeded(&self, found: &[Found]) -> Result<()> {
        let mut needed = BTreeSet::new();
        for image in found {
            needed.insert(image.manifest.digest.hex().to_owned());
            let bytes = self.session.read(&image.manifest)?;
            if let Document::Manifest(manifest) = parse_document(&bytes, None)? {
                needed.extend(manifest.layers.iter().chain([&manifest.config]).map(|d| d.digest.hex().to_owned()));
            }
        }
        let dir = self.session.staged_blobs();
        for entry in fs::read_dir(&dir).called("opendir", dir.display())? {
            let entry = entry.called("readdir", dir.display())?;
            if !entry.file_name().to_str().is_some_and(|n| needed.contains(n)) {
                fs::remove_file(entry.path()).called("unlink", entry.path().display())?;
            }
        }
        Ok(())
    }
}

/// Opens a regular file below a folder, wherever its links would lead; never a FIFO that blocks or a device.
fn open_file(folder: &OwnedFd, name: &str) -> Result<Option<File>> {
    match open_regular(folder.as_fd(), Path::new(name), IN_ROOT) {
        Ok(Some(file)) => Ok(Some(file)),
        Ok(None) => bail!("{name} is not a regular file"),
        Err(e) if e.errno() == nix::errno::Errno::ENOENT => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Writes images as one archive; the same images give the same bytes.
pub(super) fn write(session: &Session, images: &[Exported], output: Output) -> Result<()> {
    let mut tar = Writer { tar: tar::Builder::new(output.out), seen: BTreeSet::new(), session };
    match output.format {
        Format::Oci => tar.oci(images)?,
        Format::Docker => tar.docker(images)?,
    }
    tar.tar.into_inner().and_then(|out| out.flush()).context("writing the archive")
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

struct Writer<'a, 'o> {
    tar: tar::Builder<&'o mut dyn Write>,
    seen: BTreeSet<String>,
    session: &'a Session<'a>,
}

impl Writer<'_, '_> {
    fn oci(&mut self, images: &[Exported]) -> Result<()> {
        let mut manifests = Vec::new();
        for image in images {
            let mut descriptor = image.descriptor.clone();
            descriptor.annotations = image.name.as_ref().map(|name| {
                BTreeMap::from([
                    (OCI_NAME.to_owned(), name.to_string()),
                    (CONTAINERD_NAME.to_owned(), name.to_string()),
                ])
            });
            descriptor.platform = Some(Platform::host());
            manifests.push(descriptor);
        }
        let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests };
        self.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.bytes("index.json", &serde_json::to_vec(&index)?)?;
        for image in images {
            for blob in [&image.descriptor, &image.manifest.config].into_iter().chain(&image.manifest.layers) {
                let path = self.path(blob)?;
                self.file(&format!("blobs/sha256/{}", blob.digest.hex()), &path)?;
            }
        }
        Ok(())
    }

    fn docker(&mut self, images: &[Exported]) -> Result<()> {
        let mut list = Vec::new();
        for image in images {
            let config = format!("{}.json", image.manifest.config.digest.hex());
            let path = self.path(&image.manifest.config)?;
            self.file(&config, &path)?;
            let mut layers = Vec::new();
            for layer in &image.manifest.layers {
                let plain = self.session.dir().join(format!("{}.tar", layer.digest.hex()));
                self.plain(layer, &plain)?;
                let name = format!("{}/layer.tar", layer.digest.hex());
                self.file(&name, &plain)?;
                layers.push(name);
            }
            let repo_tags = image.name.iter().filter(|n| n.tag().is_some()).map(Reference::familiar).collect();
            list.push(DockerEntry { config, repo_tags, layers });
        }
        self.bytes("manifest.json", &serde_json::to_vec(&list)?)
    }

    fn path(&self, blob: &Descriptor) -> Result<PathBuf> {
        self.session.blob_path(blob).with_context(|| format!("blob {} is missing from the store", blob.digest))
    }

    fn plain(&self, layer: &Descriptor, to: &Path) -> Result<()> {
        let path = self.path(layer)?;
        let packed = BufReader::new(File::open(&path).called("open", path.display())?);
        let mut reader = decompress(packed, Compression::of_media_type(&layer.media_type)?)?;
        let mut out = File::create(to).called("open", to.display())?;
        io::copy(&mut reader, &mut out).with_context(|| format!("unpacking {}", layer.digest))?;
        Ok(())
    }

    fn header(size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        header
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.session.check_interrupt()?;
        self.tar.append_data(&mut Self::header(bytes.len() as u64), name, bytes).context("writing the archive")
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        self.session.check_interrupt()?;
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let file = File::open(path).called("open", path.display())?;
        let size = file.metadata().called("fstat", path.display())?.len();
        self.tar.append_data(&mut Self::header(size), name, file).context("writing the archive")
    }
}
