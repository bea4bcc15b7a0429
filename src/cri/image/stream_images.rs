//! `StreamImages`: what ListImages answers, in messages that no limit of size can break.

use super::filtered;
use crate::cri::api::{Image, StreamImagesRequest, StreamImagesResponse};
use crate::cri::daemon::{Daemon, Stream};
use anyhow::Result;
use futures_util::stream;
use std::sync::Arc;

/// How many images one message has.
const CHUNK: usize = 100;

/// The images as they were when they were asked for.
pub(in crate::cri) async fn run(
    daemon: &Arc<Daemon>,
    request: StreamImagesRequest,
) -> Result<Stream<StreamImagesResponse>> {
    let wanted = request.filter.and_then(|filter| filter.image);
    let images = daemon.blocking(move |daemon| filtered(daemon, wanted)).await?;
    let messages: Vec<_> = images.chunks(CHUNK).map(|chunk: &[Image]| Ok(response(chunk))).collect();
    Ok(Box::pin(stream::iter(messages)))
}

fn response(images: &[Image]) -> StreamImagesResponse {
    StreamImagesResponse { images: images.to_vec() }
}
