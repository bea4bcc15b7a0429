//! The OCI image layout folder (image-spec 1.1, image-layout.md), with any number of images.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::config::Config;
use super::layer::{self, Compression, Layer};
use crate::tree::Tree;

/// Media type of an image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The annotation by which the layout names an image; here it holds the full reference.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation by which containerd names an image.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The file that makes a folder a layout.
pub const LAYOUT_FILE: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// In whose words an image tells what its parts are. The parts are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MediaTypes {
    /// OCI image specification 1.1, media-types.md.
    #[default]
    Oci,
    /// Docker's image manifest version 2, schema 2, which most images of public registries still use.
    Docker,
}

impl MediaTypes {
    /// The type of a list of images, one for each platform.
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => INDEX,
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// The type of an image manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// The type of an image configuration.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// The type of a layer.
    pub fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Docker, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }

    /// Whether `media_type` is that of an index, in either's words.
    fn is_index(media_type: &Value) -> bool {
        [Self::Oci, Self::Docker].iter().any(|types| media_type == types.index())
    }

    /// Whether `media_type` is that of a manifest, in either's words.
    fn is_manifest(media_type: &Value) -> bool {
        [Self::Oci, Self::Docker].iter().any(|types| media_type == types.manifest())
    }
}

/// A layout folder, locked for this process until dropped.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    /// `flock(2)` on the folder itself, so that no other file is needed in it.
    _lock: File,
}

/// An image to add: what it runs, its layers from the bottom up, and its names.
#[derive(Debug)]
pub struct NewImage<'a> {
    /// What a container of it runs.
    pub config: &'a Config,
    /// From the bottom up; already in the layout.
    pub layers: &'a [Layer],
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// Full references.
    pub references: &'a [String],
    /// In whose words.
    pub types: MediaTypes,
}

/// An image in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its full reference, if it has one.
    pub reference: Option<String>,
    /// The descriptor as it stands in the index.
    pub descriptor: Value,
}

impl Layout {
    /// Opens the layout at `root`, or makes one, waiting for others that write to it.
    ///
    /// Fails when the folder holds something else.
    pub fn open_or_create(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
        let lock = File::open(root).with_context(|| format!("opening {}", root.display()))?;
        lock.lock().with_context(|| format!("locking {}", root.display()))?;
        let marker = root.join("oci-layout");
        if !marker.exists() {
            let mut others = fs::read_dir(root).with_context(|| format!("listing {}", root.display()))?;
            ensure!(others.next().is_none(), "{}: neither empty nor an OCI layout", root.display());
            fs::write(&marker, LAYOUT_FILE).with_context(|| format!("writing {}", marker.display()))?;
        }
        let layout = Self { root: root.to_path_buf(), _lock: lock };
        let blobs = layout.blobs();
        fs::create_dir_all(&blobs).with_context(|| format!("creating {}", blobs.display()))?;
        if !root.join("index.json").exists() {
            layout.write_index(&[])?;
        }
        Ok(layout)
    }

    /// Opens the layout at `root`, which must be there.
    pub fn open(root: &Path) -> Result<Self> {
        let marker = root.join("oci-layout");
        ensure!(marker.exists(), "{}: not an OCI layout: it has no file oci-layout", root.display());
        Self::open_or_create(root)
    }

    /// Where the blob with this digest is. Fails on anything but a sha256 digest.
    pub fn blob(&self, digest: &str) -> Result<PathBuf> {
        match digest.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(self.blobs().join(hex)),
            _ => bail!("{digest}: not a sha256 digest"),
        }
    }

    /// The blob with this digest as JSON.
    pub fn json(&self, digest: &str) -> Result<Value> {
        let path = self.blob(digest)?;
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{}: not JSON", path.display()))
    }

    /// Writes `tree` as a layer. No time in it is later than `latest` (seconds since 1970).
    pub fn add_layer(&self, tree: &Tree, latest: u64, compression: Compression) -> Result<Layer> {
        self.with_temporary(|file| {
            let mut out = BufWriter::with_capacity(1 << 16, file);
            let layer = layer::write(tree, latest, compression, &mut out)?;
            out.flush().context("writing a layer")?;
            Ok((layer.digest.clone(), layer))
        })
    }

    /// Writes the configuration and the manifest of an image and enters it into the index under its references, in
    /// place of what had them. Gives the manifest's digest.
    pub fn add_image(&self, image: &NewImage<'_>) -> Result<String> {
        let config = self.add_json(&image.config.to_json(image.created, image.layers))?;
        let types = image.types;
        let descriptors = image
            .layers
            .iter()
            .map(|l| json!({ "mediaType": types.layer(l.compression), "digest": l.digest, "size": l.size }));
        let manifest = self.add_json(&json!({
            "schemaVersion": 2,
            "mediaType": types.manifest(),
            "config": { "mediaType": types.config(), "digest": config.0, "size": config.1 },
            "layers": descriptors.collect::<Vec<_>>(),
        }))?;
        let descriptor = json!({
            "mediaType": types.manifest(),
            "digest": manifest.0,
            "size": manifest.1,
            "platform": { "architecture": image.config.architecture(), "os": "linux" },
        });
        self.enter(image.references, &descriptor)?;
        Ok(manifest.0)
    }

    /// Writes an index of the images with the references `members`, one for each platform, and enters it under
    /// `references`, in place of what had them. Gives its digest.
    ///
    /// Fails when a member is missing, is an index itself, or is for the platform of another.
    pub fn add_index(&self, members: &[String], references: &[String], types: MediaTypes) -> Result<String> {
        let entries = self.entries()?;
        let mut platforms = BTreeSet::new();
        let mut descriptors = Vec::new();
        for member in members {
            let entry = entries.iter().find(|e| e.reference.as_ref() == Some(member));
            let mut descriptor =
                entry.with_context(|| format!("{member}: no such image in the layout"))?.descriptor.clone();
            ensure!(MediaTypes::is_manifest(&descriptor["mediaType"]), "{member}: an index, not an image");
            let platform = descriptor["platform"].to_string();
            ensure!(platforms.insert(platform.clone()), "{member}: a second image for {platform}");
            descriptor.as_object_mut().context("an index entry that is no object")?.remove("annotations");
            descriptors.push(descriptor);
        }
        let index = self.add_json(&json!({
            "schemaVersion": 2,
            "mediaType": types.index(),
            "manifests": descriptors,
        }))?;
        self.enter(references, &json!({ "mediaType": types.index(), "digest": index.0, "size": index.1 }))?;
        Ok(index.0)
    }

    /// Names what `descriptor` leads to, in place of what had the names, and removes what nothing leads to any more.
    fn enter(&self, references: &[String], descriptor: &Value) -> Result<()> {
        let mut entries = self.entries()?;
        entries.retain(|e| e.reference.as_ref().is_none_or(|r| !references.contains(r)));
        for reference in references {
            let mut descriptor = descriptor.clone();
            descriptor["annotations"] = json!({ REF_NAME: reference, CONTAINERD_NAME: reference });
            entries.push(Entry { reference: Some(reference.clone()), descriptor });
        }
        entries.sort_by(|a, b| a.reference.cmp(&b.reference));
        self.write_index(&entries)?;
        self.prune(&entries)
    }

    /// The images in the index.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let path = self.root.join("index.json");
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let index: Value = serde_json::from_slice(&bytes).with_context(|| format!("{}: not JSON", path.display()))?;
        let manifests = index["manifests"].as_array().with_context(|| format!("{}: no manifests", path.display()))?;
        let entry = |descriptor: &Value| Entry {
            reference: descriptor["annotations"][REF_NAME].as_str().map(str::to_string),
            descriptor: descriptor.clone(),
        };
        Ok(manifests.iter().map(entry).collect())
    }

    /// The index file that lists `entries`.
    pub fn index_json(entries: &[Entry]) -> Result<Vec<u8>> {
        let manifests: Vec<_> = entries.iter().map(|e| &e.descriptor).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        serde_json::to_vec(&index).context("encoding an index")
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn write_index(&self, entries: &[Entry]) -> Result<()> {
        let temporary = self.root.join(format!(".index.{}", process::id()));
        let index = self.root.join("index.json");
        fs::write(&temporary, Self::index_json(entries)?)
            .with_context(|| format!("writing {}", temporary.display()))?;
        fs::rename(&temporary, &index).with_context(|| format!("replacing {}", index.display()))
    }

    fn add_json(&self, value: &Value) -> Result<(String, usize)> {
        let bytes = serde_json::to_vec(value).context("encoding JSON")?;
        let digest = layer::digest(&bytes);
        self.with_temporary(|file| {
            file.write_all(&bytes).context("writing a blob")?;
            Ok((digest.clone(), ()))
        })?;
        Ok((digest, bytes.len()))
    }

    /// Fills a temporary file, which then takes the name of the digest that `fill` says; or goes away if it fails.
    fn with_temporary<T>(&self, fill: impl FnOnce(&mut File) -> Result<(String, T)>) -> Result<T> {
        let temporary = self.blobs().join(format!(".new.{}", process::id()));
        let written = (|| {
            let mut file = File::create(&temporary).with_context(|| format!("creating {}", temporary.display()))?;
            let (digest, value) = fill(&mut file)?;
            let blob = self.blob(&digest)?;
            fs::rename(&temporary, &blob).with_context(|| format!("naming {}", blob.display()))?;
            Ok(value)
        })();
        if written.is_err() {
            // The failure matters, not whether there was a file to remove.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes blobs that no image needs: a folder to which images are added again and again does not grow. Nothing is
    /// removed when the index lists something that is not an image of ours.
    fn prune(&self, entries: &[Entry]) -> Result<()> {
        let mut needed = BTreeSet::new();
        for entry in entries {
            let media_type = &entry.descriptor["mediaType"];
            if !MediaTypes::is_manifest(media_type) && !MediaTypes::is_index(media_type) {
                return Ok(());
            }
            needed.extend(self.blobs_of(entry)?);
        }
        let blobs = self.blobs();
        for file in fs::read_dir(&blobs).with_context(|| format!("listing {}", blobs.display()))? {
            let file = file.with_context(|| format!("listing {}", blobs.display()))?;
            if !needed.contains(&format!("sha256:{}", file.file_name().display())) {
                match fs::remove_file(file.path()) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(e).with_context(|| format!("removing {}", file.path().display()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The digests of all that an image consists of: manifest, configuration, layers from the bottom up. Of an index:
    /// itself, then the same of each image.
    pub fn blobs_of(&self, entry: &Entry) -> Result<Vec<String>> {
        let digest = entry.descriptor["digest"].as_str().context("an index entry without digest")?;
        let content = self.json(digest)?;
        let mut found = vec![digest.to_string()];
        if entry.is_index() {
            for member in content["manifests"].as_array().with_context(|| format!("{digest}: no manifests"))? {
                ensure!(MediaTypes::is_manifest(&member["mediaType"]), "{digest}: holds more than images");
                found.extend(self.blobs_of(&Entry { reference: None, descriptor: member.clone() })?);
            }
            return Ok(found);
        }
        let layers = content["layers"].as_array().with_context(|| format!("{digest}: no layers"))?;
        for descriptor in [&content["config"]].into_iter().chain(layers) {
            let part = descriptor["digest"].as_str().with_context(|| format!("{digest}: a part without digest"))?;
            found.push(part.to_string());
        }
        Ok(found)
    }
}

impl Entry {
    /// Whether it is an index of images rather than one image.
    pub fn is_index(&self) -> bool {
        MediaTypes::is_index(&self.descriptor["mediaType"])
    }
}
