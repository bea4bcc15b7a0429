//! ImageService: one file per RPC, each with `run(&daemon, request)`.
//!
//! An image is named by its ID (`sha256:` and the digest of its config), by a tag or by a digest of a repository. The ID is what
//! PullImage answers and every other message repeats.

mod image_fs_info;
mod image_status;
mod list_images;
mod pull_image;
mod remove_image;
mod stream_images;

use super::api::image_service_server::ImageService;
use super::api::{
    Image, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse, Int64Value,
    ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest,
    RemoveImageResponse, StreamImagesRequest, StreamImagesResponse,
};
use super::config::Config;
use super::daemon::{Answer, Daemon, Service, Stream, perform};
use crate::error::{Kind, failure};
use crate::image::registry::Settings;
use crate::image::{Known, Stop, Store};
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tonic::{Request, Response};

pub(in crate::cri) use image_fs_info::LayerSizes;
pub(in crate::cri) use pull_image::Pulls;

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        perform!(self, request, list_images)
    }

    async fn stream_images(&self, request: Request<StreamImagesRequest>) -> Answer<Stream<StreamImagesResponse>> {
        perform!(self, request, stream_images)
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        perform!(self, request, image_status)
    }

    /// Not `perform!`: a client that hangs up takes its pull back.
    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        pull_image::run(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        perform!(self, request, remove_image)
    }

    async fn image_fs_info(&self, request: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        perform!(self, request, image_fs_info)
    }
}

impl Daemon {
    /// The image store with the registries of the configuration. Signals are the server's: `stop` ends work early.
    pub(in crate::cri) fn images(&self, stop: Arc<AtomicBool>) -> Result<Store> {
        let tree = &self.config.registry.config_path;
        // No logins of this host's: a pod has its own or none, and the kubelet sends them.
        let settings = Settings { hosts: (!tree.as_os_str().is_empty()).then(|| tree.clone()), ..Settings::plain() };
        Ok(Store::open(&self.dirs)?.with_stop(Stop::Flag(stop)).with_registries(settings))
    }

    /// The same for what is not ended early.
    pub(in crate::cri) fn local_images(&self) -> Result<Store> {
        self.images(Arc::default())
    }
}

/// What a request says the image is. Every runtime handler has the same images, but it must be one.
fn named(config: &Config, spec: Option<ImageSpec>) -> Result<ImageSpec> {
    let invalid = |what: &str| failure(Kind::Invalid, format!("image.image {what}"));
    let spec = spec.filter(|spec| !spec.image.is_empty()).ok_or_else(|| invalid("is missing: a name or an ID"))?;
    if spec.image.len() > MAX_NAME {
        return Err(invalid("is longer than any name"));
    }
    config.runtime(&spec.runtime_handler).context("image.runtime_handler")?;
    Ok(spec)
}

/// No name with registry, repository, tag and digest is longer.
const MAX_NAME: usize = 1024;

/// The images that a filter leaves: that of a name or ID, or all.
fn filtered(daemon: &Daemon, wanted: Option<ImageSpec>) -> Result<Vec<Image>> {
    let store = daemon.local_images()?;
    let images = match wanted.filter(|spec| !spec.image.is_empty()) {
        Some(spec) => store.known_as(&named(&daemon.config, Some(spec))?.image)?.into_iter().collect(),
        None => store.known()?,
    };
    Ok(images.into_iter().map(message).collect())
}

/// An image as the API has it.
fn message(image: Known) -> Image {
    let (uid, username) = user(&image.user);
    Image {
        id: image.id.to_string(),
        repo_tags: image.tags.iter().map(ToString::to_string).collect(),
        repo_digests: image.digests.into_iter().collect(),
        // An image without a layer has a config.
        size: image.size.max(1),
        uid: uid.map(|value| Int64Value { value }),
        username,
        spec: Some(ImageSpec { image: image.id.to_string(), ..ImageSpec::default() }),
        // Podshim needs no image of its own.
        pinned: false,
    }
}

/// The user of an image's config, without its group: a number or a name. Neither if it says nothing.
fn user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or("");
    match user.parse() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_or_a_name() {
        for (text, uid, name) in [
            ("", None, ""),
            ("1002", Some(1002), ""),
            ("1003:2000", Some(1003), ""),
            ("www-data", None, "www-data"),
            ("www-data:100", None, "www-data"),
            ("0", Some(0), ""),
        ] {
            assert_eq!(user(text), (uid, name.to_owned()), "{text}");
        }
    }

    #[test]
    fn an_image_must_be_named() {
        let of_nobody = ImageSpec { image: "busybox".into(), runtime_handler: "nobody".into(), ..Default::default() };
        let long = ImageSpec { image: "x".repeat(5000), ..Default::default() };
        for spec in [None, Some(ImageSpec::default()), Some(long), Some(of_nobody)] {
            let error = named(&Config::default(), spec).unwrap_err();
            assert_eq!(crate::error::kind_of(&error), Some(Kind::Invalid), "{error}");
        }
    }
}
