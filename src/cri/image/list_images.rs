//! `ListImages`

use super::filtered;
use crate::cri::api::{ListImagesRequest, ListImagesResponse};
use crate::cri::daemon::Daemon;
use anyhow::Result;
use std::sync::Arc;

/// All images, each once whatever its names; with a filter that one.
pub(in crate::cri) async fn run(daemon: &Arc<Daemon>, request: ListImagesRequest) -> Result<ListImagesResponse> {
    let wanted = request.filter.and_then(|filter| filter.image);
    let images = daemon.blocking(move |daemon| filtered(daemon, wanted)).await?;
    Ok(ListImagesResponse { images })
}
