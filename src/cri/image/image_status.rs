//! `ImageStatus`

use super::{message, named};
use crate::cri::api::{ImageStatusRequest, ImageStatusResponse};
use crate::cri::daemon::Daemon;
use anyhow::Result;
use std::collections::HashMap;
use std::sync::Arc;

/// The image of a name or an ID; none if it is not here, which is no error.
pub(in crate::cri) async fn run(daemon: &Arc<Daemon>, request: ImageStatusRequest) -> Result<ImageStatusResponse> {
    daemon.blocking(move |daemon| status(daemon, request)).await
}

fn status(daemon: &Daemon, request: ImageStatusRequest) -> Result<ImageStatusResponse> {
    let spec = named(&daemon.config, request.image)?;
    let store = daemon.local_images()?;
    let Some(image) = store.known_as(&spec.image)? else { return Ok(ImageStatusResponse::default()) };
    let mut info = HashMap::new();
    if request.verbose {
        info.insert("info".to_owned(), store.inspect(&image.id.to_string())?.to_string());
    }
    // What the caller said of the image goes back with it (annotations choose among platforms elsewhere; here there is one).
    let mut image = message(image);
    if let Some(answered) = &mut image.spec {
        answered.annotations = spec.annotations;
    }
    Ok(ImageStatusResponse { image: Some(image), info })
}
