//! `RemoveImage`

use super::named;
use crate::cri::api::{RemoveImageRequest, RemoveImageResponse};
use crate::cri::daemon::Daemon;
use crate::store;
use anyhow::Result;
use std::sync::Arc;

/// Removes the image with all its names. One that is not here is no error; one that a container uses is.
pub(in crate::cri) async fn run(daemon: &Arc<Daemon>, request: RemoveImageRequest) -> Result<RemoveImageResponse> {
    daemon.blocking(move |daemon| remove(daemon, request)).await
}

fn remove(daemon: &Daemon, request: RemoveImageRequest) -> Result<RemoveImageResponse> {
    let name = named(&daemon.config, request.image)?.image;
    daemon.local_images()?.remove_whole(&name, || store::images_in_use(&daemon.dirs))?;
    Ok(RemoveImageResponse {})
}
