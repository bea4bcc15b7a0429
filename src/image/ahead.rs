//! Layers are unpacked while others of the image are still fetched, on another processor.
//!
//! Nothing depends on it: what was not unpacked when all is here, for whatever reason, [`Session::unpack`] unpacks.

use super::manifest::{ConfigFile, Manifest, parse_config};
use super::reference::Digest;
use super::session::{Session, Unpacked, Work};
use std::sync::mpsc::Receiver;

/// What has come of an image.
pub(super) enum Arrival {
    /// The manifest that is being fetched from now on.
    Manifest(Box<Manifest>),
    /// A blob, which is staged.
    Blob,
}

/// A layer that cannot be unpacked.
pub(super) struct Failed {
    /// The image: its config.
    pub(super) config: Digest,
    /// Why.
    pub(super) error: anyhow::Error,
}

/// Unpacks each layer as soon as those below it and its blob are here, until nothing comes any more.
pub(super) fn run(session: &Session, arrivals: Receiver<Arrival>, work: &Work) -> Result<(), Failed> {
    let (mut image, mut begun) = (None, None);
    for arrival in arrivals {
        if let Arrival::Manifest(manifest) = arrival {
            (image, begun) = (Some(manifest), None);
        }
        let Some(manifest) = &image else { continue };
        let begin = |config| (Unpacked::none(&config), config);
        begun = begun.or_else(|| read_config(session, manifest).map(begin));
        let Some((unpacked, config)) = &mut begun else { continue };
        while session.has_next(manifest, unpacked) {
            session.unpack_next((manifest, config), unpacked, work).map_err(|error| {
                let config = manifest.config.digest.clone();
                Failed { config, error }
            })?;
        }
    }
    Ok(())
}

/// `None` if it is not here, or is none: that is told when it is read for good.
fn read_config(session: &Session, manifest: &Manifest) -> Option<ConfigFile> {
    parse_config(&session.read(&manifest.config).ok()?, manifest.layers.len()).ok()
}
