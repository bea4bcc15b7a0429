//! Images: names, a content store by digest, unpacked layers, registries and archives.
//!
//! In: a reference and a pull policy, or an archive. Out: an [`Image`], which is the config and the directories of the
//! unpacked layers, lowest first, in overlayfs' form. Every byte of an image is hostile: it is verified by digest and size
//! before it is used, and nothing outside the layer's directory is ever written. This room mounts nothing and knows no pods;
//! which images are in use is told to it.
//!
//! - [`mod@reference`]: names and digests; [`manifest`]: manifests, indexes, configs
//! - [`store`], [`index`], `find`, [`known`]: the content store; [`session`]: work in progress, invisible until it is complete
//! - [`registry`], `endpoint`, `hosts`, `transport`, `tls`, [`auth`]: pulling, `ahead`: unpacking meanwhile; [`archive`]: import and export
//! - [`layer`], [`entry`], [`unpack`], `directories`, [`tree`]: from a blob to a directory
//! - [`progress`]: what a person sees meanwhile

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

mod ahead;
pub mod archive;
pub mod auth;
mod directories;
mod endpoint;
pub mod entry;
mod find;
mod hosts;
pub mod index;
pub mod known;
pub mod layer;
pub mod manifest;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod remove;
pub mod session;
pub mod store;
mod tls;
mod transport;
pub mod tree;
pub mod unpack;
mod write_back;

#[cfg(test)]
mod hostile;

pub use crate::plan::config::{ImageConfig, PullPolicy};
pub use known::Known;
pub use progress::{Event, Progress, Quiet};
pub use reference::{Digest, Reference, image_id};
pub use session::Stop;
pub use store::Store;

/// An image that is ready to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The canonical name it was asked for by; empty for one without a name that was asked for by its ID.
    pub reference: String,
    /// `sha256:…` of the config.
    pub id: String,
    /// `sha256:…` of this platform's manifest.
    pub digest: String,
    /// How it says it is to be run.
    pub config: ImageConfig,
    /// The unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Size of its blobs (packed layers and config) in bytes.
    pub size: u64,
}

/// Why an image could not be had, in the kubelet's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFailureKind {
    /// The reference cannot be parsed.
    InvalidName,
    /// It is not here and may not be pulled.
    NeverPull,
    /// It could not be pulled.
    Pull,
    /// The registry could not be reached or is out of order.
    RegistryUnavailable,
    /// It is here but cannot be read.
    Inspect,
}

/// An image that could not be had: found by [`ImageFailure::of`] in an error's chain.
#[derive(Debug)]
pub struct ImageFailure {
    /// What a caller may act on.
    pub kind: ImageFailureKind,
    message: String,
    cause: Option<anyhow::Error>,
}

impl ImageFailure {
    /// An error of this kind that was caused by another.
    pub fn caused(kind: ImageFailureKind, message: impl Into<String>, cause: anyhow::Error) -> anyhow::Error {
        anyhow::Error::new(ImageFailure { kind, message: message.into(), cause: Some(cause) })
    }

    /// An error of this kind.
    pub fn plain(kind: ImageFailureKind, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(ImageFailure { kind, message: message.into(), cause: None })
    }

    /// The first one in the chain of an error.
    pub fn of(error: &anyhow::Error) -> Option<&ImageFailure> {
        error.chain().find_map(|e| e.downcast_ref::<ImageFailure>())
    }

    /// The kubelet's reason for a container that waits (pkg/kubelet/images/types.go).
    pub fn reason(&self) -> &'static str {
        match self.kind {
            ImageFailureKind::InvalidName => "InvalidImageName",
            ImageFailureKind::NeverPull => "ErrImageNeverPull",
            ImageFailureKind::Pull => "ErrImagePull",
            ImageFailureKind::RegistryUnavailable => "RegistryUnavailable",
            ImageFailureKind::Inspect => "ImageInspectError",
        }
    }
}

impl fmt::Display for ImageFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ImageFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause.as_ref())
    }
}

/// Parses a reference as a manifest or a person writes it; the error has the reason `InvalidImageName`.
pub fn parse_reference(text: &str) -> anyhow::Result<Reference> {
    text.parse().map_err(|cause: anyhow::Error| {
        let cause = anyhow::Error::new(crate::error::Failure {
            kind: crate::error::Kind::Invalid,
            message: cause.root_cause().to_string(),
        });
        ImageFailure::caused(ImageFailureKind::InvalidName, format!("invalid image reference {text:?}"), cause)
    })
}
