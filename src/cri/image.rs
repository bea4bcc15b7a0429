//! The ImageService.

use super::api::image_service_server::ImageService;
use super::daemon::Daemon;
use crate::image::Store;
use crate::paths::Dirs;
use crate::plan::config::ImageSpec;
use anyhow::Result;
use std::sync::Arc;

/// The service.
pub(super) struct Images(pub(super) Arc<Daemon>);

#[tonic::async_trait]
impl ImageService for Images {}

/// An image that is here.
pub(super) fn find(dirs: &Dirs, name: &str) -> Result<Option<ImageSpec>> {
    Ok(Store::look(dirs, name)?.map(|image| ImageSpec {
        reference: image.reference,
        id: image.id,
        digest: image.digest,
        config: image.config,
        layers: image.layers,
    }))
}
