//! ImageService: one file per RPC, each with `run(&daemon, request)`.

use super::api::image_service_server::ImageService;
use super::daemon::Service;

#[tonic::async_trait]
impl ImageService for Service {}
