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
/// Media type of an image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The annotation by which the layout names an image; here it holds the full reference.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation by which containerd names an image.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The file that makes a folder a layout.
pub const LAYOUT_FILE: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

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
        let descriptors = image
            .layers
            .iter()
            .map(|l| json!({ "mediaType": l.compression.media_type(), "digest": l.digest, "size": l.size }));
        let manifest = self.add_json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": config.0, "size": config.1 },
            "layers": descriptors.collect::<Vec<_>>(),
        }))?;
        let mut entries = self.entries()?;
        entries.retain(|e| e.reference.as_ref().is_none_or(|r| !image.references.contains(r)));
        for reference in image.references {
            let descriptor = json!({
                "mediaType": MANIFEST,
                "digest": manifest.0,
                "size": manifest.1,
                "annotations": { REF_NAME: reference, CONTAINERD_NAME: reference },
                "platform": { "architecture": image.config.architecture(), "os": "linux" },
            });
            entries.push(Entry { reference: Some(reference.clone()), descriptor });
        }
        entries.sort_by(|a, b| a.reference.cmp(&b.reference));
        self.write_index(&entries)?;
        self.prune(&entries)?;
        Ok(manifest.0)
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
            if entry.descriptor["mediaType"] != MANIFEST {
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

    /// The digests of all that an image consists of: manifest, configuration, layers from the bottom up.
    pub fn blobs_of(&self, entry: &Entry) -> Result<Vec<String>> {
        let digest = entry.descriptor["digest"].as_str().context("an index entry without digest")?;
        let manifest = self.json(digest)?;
        let layers = manifest["layers"].as_array().with_context(|| format!("{digest}: no layers"))?;
        let mut found = vec![digest.to_string()];
        for descriptor in [&manifest["config"]].into_iter().chain(layers) {
            let part = descriptor["digest"].as_str().with_context(|| format!("{digest}: a part without digest"))?;
            found.push(part.to_string());
        }
        Ok(found)
    }
}
