//! A layer blob on its way to a directory: decompression, digest, limits.

use super::manifest::Compression;
use super::reference::Digest;
use super::tree::Below;
use super::unpack::{self, Limits};
use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;

/// Where a layer goes and what it must be.
pub struct Target<'a> {
    /// An empty directory.
    pub root: OwnedFd,
    /// The layers under it.
    pub below: &'a Below,
    /// The digest of the tar.
    pub diff_id: &'a Digest,
    /// When to give up.
    pub limits: Limits,
}

/// Unpacks a layer that is packed as `label` says; the magic bytes must agree, and nothing may follow the last member.
///
/// The content of the target is worthless after an error.
pub fn unpack(blob: impl Read, label: Compression, target: Target) -> Result<()> {
    let plain = decompress(BufReader::with_capacity(128 << 10, blob), label)?;
    let mut tar = Measured { inner: plain, hash: Sha256::new(), left: target.limits.bytes };
    let limits = target.limits;
    unpack::apply(BufReader::with_capacity(128 << 10, &mut tar), target.root, target.below, limits)?;
    // The reader above stopped at the end of the archive; a checksum after it has to be seen too.
    let rest = io::copy(&mut tar, &mut io::sink())?;
    ensure!(rest == 0, "{rest} bytes follow the end of the archive");
    let diff_id = Digest::from_hash(&tar.hash.finalize());
    ensure!(diff_id == *target.diff_id, "it unpacks to {diff_id}, the image's config says {}", target.diff_id);
    Ok(())
}

/// The plain bytes of a stream packed as `label` says.
pub fn decompress<'a>(mut packed: impl BufRead + 'a, label: Compression) -> Result<Box<dyn Read + 'a>> {
    let first = packed.fill_buf().context("reading its first bytes")?;
    let found = match first {
        // A skippable frame may come first (RFC 8878 §3.1.2).
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::of_magic(first),
    };
    ensure!(found == label, "it is labelled {label:?} but its first bytes are {found:?}'s");
    Ok(match label {
        Compression::Plain => Box::new(packed),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
    })
}

/// Hashes what passes, and stops a bomb.
struct Measured<R> {
    inner: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or_else(|| io::Error::other("the layer unpacks to more than the limit (PODSHIM_MAX_LAYER_BYTES)"))?;
        Ok(n)
    }
}
