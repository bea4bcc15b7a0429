//! The texts that manifests are read from.

use crate::sys::Called;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::path::{Path as FilePath, PathBuf};

/// Largest text that is read, in bytes; the largest sensible manifest has some tens of KiB.
pub(super) const MAX_BYTES: u64 = 8 << 20;
/// Largest sum of all texts, in bytes.
const MAX_TOTAL: u64 = 4 * MAX_BYTES;

/// A text and what to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The path as given, or `<stdin>`.
    pub name: String,
    /// The text, YAML or JSON, without a byte order mark.
    pub text: String,
}

/// Reads manifests: from a file, from the files `*.yaml`, `*.yml` and `*.json` of a directory (in the order of their names,
/// not from its subdirectories), or from standard input for `-`.
///
/// # Errors
/// A path cannot be read, is larger than 8 MiB, is not UTF-8, or a directory holds no manifest.
pub fn read_sources(paths: &[String]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut total = 0;
    // Each counts as soon as it is read: a directory may hold any number.
    let mut add = |source: Source| {
        total += source.text.len() as u64;
        if total > MAX_TOTAL {
            bail!("reading the manifests: together more than {} MiB", MAX_TOTAL >> 20);
        }
        sources.push(source);
        Ok(())
    };
    for path in paths {
        if path == "-" {
            add(read_text(std::io::stdin().lock(), "<stdin>")?)?;
            continue;
        }
        let files = if FilePath::new(path).is_dir() { manifests_in(path)? } else { vec![PathBuf::from(path)] };
        for file in files {
            let name = file.display().to_string();
            let open = std::fs::File::open(&file).called("open", &name).context("reading the manifest")?;
            add(read_text(open, &name)?)?;
        }
    }
    Ok(sources)
}

fn manifests_in(directory: &str) -> Result<Vec<PathBuf>> {
    const PURPOSE: &str = "reading the manifests in a directory";
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).called("open", directory).context(PURPOSE)? {
        let path = entry.called("getdents64", directory).context(PURPOSE)?.path();
        let is_manifest =
            path.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "yaml" | "yml" | "json"));
        if is_manifest && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{directory} holds no *.yaml, *.yml or *.json");
    }
    files.sort();
    Ok(files)
}

fn read_text(reader: impl Read, name: &str) -> Result<Source> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).called("read", name).context("reading the manifest")?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("the manifest {name} is larger than {} MiB", MAX_BYTES >> 20);
    }
    match String::from_utf8(bytes) {
        Ok(text) => {
            Ok(Source { name: name.to_owned(), text: text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned() })
        }
        Err(error) => {
            let (line, _) = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
            bail!("the manifest {name} is not UTF-8: line {line}")
        }
    }
}

fn line_of(bytes: &[u8], offset: usize) -> (usize, usize) {
    (bytes[..offset].iter().filter(|b| **b == b'\n').count() + 1, offset)
}
