//! RuntimeService: one file per RPC, each with `run(&daemon, request)`; a method that is not here answers `Unimplemented`.

mod runtime_config;
mod status;
mod update_runtime_config;
mod version;

use super::api::runtime_service_server::RuntimeService;
use super::api::{
    RuntimeConfigRequest, RuntimeConfigResponse, StatusRequest, StatusResponse, UpdateRuntimeConfigRequest,
    UpdateRuntimeConfigResponse, VersionRequest, VersionResponse,
};
use super::daemon::{Answer, Service, perform};
use tonic::Request;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, request: Request<VersionRequest>) -> Answer<VersionResponse> {
        perform!(self, request, version)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        perform!(self, request, status)
    }

    async fn runtime_config(&self, request: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        perform!(self, request, runtime_config)
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        perform!(self, request, update_runtime_config)
    }
}
