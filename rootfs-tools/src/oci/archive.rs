//! Images of a layout as one tar file: the layout itself (`oci-archive`), or what `docker load` reads
//! (`docker-archive`: `manifest.json`, a configuration per image, plain layer tars).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, ensure};
use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};

use super::layer::write_tar;
use super::layout::{Entry, LAYOUT_FILE, Layout};
use crate::tree::{Content, Kind, Node, Tree};

/// The form of a file that holds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An OCI layout as a tar.
    Oci,
    /// What `docker save` writes, in its older and simpler form.
    Docker,
}

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes a folder beside `out`, on the same file system.
    pub fn beside(out: &Path) -> Result<Self> {
        let name = out.file_name().map_or_else(|| "image".into(), |n| n.display().to_string());
        for attempt in 0_u32.. {
            let path = out.with_file_name(format!(".{name}.{}.{attempt}", process::id()));
            match fs::create_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).with_context(|| format!("creating {}", path.display())),
                Ok(()) => return Ok(Self(path)),
            }
        }
        unreachable!("an open range does not end")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing better can be done about a scratch folder than to leave it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes the images of `layout` that have one of `references` (all when there are none) to the file `out`, or to
/// stdout for `-`. The file appears whole or not at all.
pub fn pack(layout: &Layout, references: &[String], form: Form, out: &Path) -> Result<()> {
    let mut entries = layout.entries()?;
    if !references.is_empty() {
        for reference in references {
            let known = entries.iter().any(|e| e.reference.as_ref() == Some(reference));
            ensure!(known, "{reference}: no such image in the layout");
        }
        entries.retain(|e| e.reference.as_ref().is_some_and(|r| references.contains(r)));
    }
    let to_stdout = out == Path::new("-");
    let scratch =
        Scratch::beside(&if to_stdout { std::env::temp_dir().join("rootfs-tools") } else { out.to_path_buf() })?;
    let tree = match form {
        Form::Oci => oci_tree(layout, &entries)?,
        Form::Docker => docker_tree(layout, &entries, scratch.path())?,
    };
    if to_stdout {
        return write_tar(&tree, 0, BufWriter::new(io::stdout().lock()));
    }
    let temporary = scratch.path().join("out");
    let file = File::create(&temporary).with_context(|| format!("creating {}", temporary.display()))?;
    write_tar(&tree, 0, BufWriter::with_capacity(1 << 16, file))?;
    fs::rename(&temporary, out).with_context(|| format!("naming {}", out.display()))
}

fn oci_tree(layout: &Layout, entries: &[Entry]) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.insert("oci-layout", Node::file(LAYOUT_FILE, 0o644))?;
    tree.insert("index.json", Node::file(Layout::index_json(entries)?, 0o644))?;
    for entry in entries {
        for digest in layout.blobs_of(entry)? {
            let blob = layout.blob(&digest)?;
            let path = Path::new("blobs").join(digest.replacen(':', "/", 1));
            tree.insert(path, Node::new(Kind::File(Content::File(blob)), 0o644))?;
        }
    }
    Ok(tree)
}

fn docker_tree(layout: &Layout, entries: &[Entry], scratch: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut images: BTreeMap<String, (Vec<String>, Value)> = BTreeMap::new();
    for entry in entries {
        let name = entry.reference.as_deref().unwrap_or_default();
        ensure!(!entry.is_index(), "{name}: a docker-archive has no place for an index of several images");
        let digests = layout.blobs_of(entry)?;
        let [manifest, config, layers @ ..] = digests.as_slice() else { unreachable!("blobs_of gives both") };
        let image = match images.entry(manifest.clone()) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let config_name = format!("{}.json", hex_of(config));
                let config_file = Content::File(layout.blob(config)?);
                tree.insert(&config_name, Node::new(Kind::File(config_file), 0o644))?;
                let diff_ids = layout.json(config)?["rootfs"]["diff_ids"].clone();
                let mut names = Vec::new();
                for (index, layer) in layers.iter().enumerate() {
                    let diff_id = diff_ids[index].as_str().with_context(|| format!("{config}: no diff_id {index}"))?;
                    let name = format!("{}.tar", hex_of(diff_id));
                    if tree.get(&name).is_none() {
                        let plain = plain_layer(&layout.blob(layer)?, &scratch.join(&name))?;
                        tree.insert(&name, Node::new(Kind::File(Content::File(plain)), 0o644))?;
                    }
                    names.push(name);
                }
                new.insert((Vec::new(), json!({ "Config": config_name, "RepoTags": [], "Layers": names })))
            }
        };
        image.0.extend(entry.reference.clone());
    }
    let manifests = images.into_values().map(|(references, mut manifest)| {
        manifest["RepoTags"] = json!(references);
        manifest
    });
    let bytes = serde_json::to_vec(&manifests.collect::<Vec<_>>()).context("encoding manifest.json")?;
    tree.insert("manifest.json", Node::file(bytes, 0o644))?;
    Ok(tree)
}

fn hex_of(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}

/// The layer's tar without gzip: the blob itself if it has none, else `unpacked`.
fn plain_layer(blob: &Path, unpacked: &Path) -> Result<PathBuf> {
    let mut file = BufReader::new(File::open(blob).with_context(|| format!("opening {}", blob.display()))?);
    let magic = io::BufRead::fill_buf(&mut file).with_context(|| format!("reading {}", blob.display()))?;
    if !magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(blob.to_path_buf());
    }
    let out = File::create(unpacked).with_context(|| format!("creating {}", unpacked.display()))?;
    let mut out = BufWriter::new(out);
    io::copy(&mut MultiGzDecoder::new(file), &mut out).with_context(|| format!("unpacking {}", blob.display()))?;
    out.flush().with_context(|| format!("writing {}", unpacked.display()))?;
    Ok(unpacked.to_path_buf())
}
