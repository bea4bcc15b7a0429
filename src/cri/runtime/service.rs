//! The RuntimeService as tonic has it: each call is done by its file, off the event loop.

use super::*;
use crate::cri::api::runtime_service_server::RuntimeService;
use crate::cri::status as grpc;
use crate::cri::{Daemon, api};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
pub(in crate::cri) struct Runtime(pub(in crate::cri) Arc<Daemon>);

type Answer<T> = Result<Response<T>, Status>;

impl Runtime {
    /// Does a call on a thread that may block.
    async fn done<Q, R>(&self, call: fn(&Daemon, &Q) -> anyhow::Result<R>, request: Request<Q>) -> Answer<R>
    where
        Q: Send + 'static,
        R: Send + 'static,
    {
        let (daemon, request) = (Arc::clone(&self.0), request.into_inner());
        let done = tokio::task::spawn_blocking(move || call(&daemon, &request)).await;
        let done = done.map_err(|error| Status::internal(format!("a call's thread ended: {error}")))?;
        done.map(Response::new).map_err(|error| grpc::of(&error))
    }
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, request: Request<api::VersionRequest>) -> Answer<api::VersionResponse> {
        self.done(version::run, request).await
    }

    async fn status(&self, request: Request<api::StatusRequest>) -> Answer<api::StatusResponse> {
        self.done(super::status::run, request).await
    }

    async fn runtime_config(&self, request: Request<api::RuntimeConfigRequest>) -> Answer<api::RuntimeConfigResponse> {
        self.done(runtime_config::run, request).await
    }

    async fn update_runtime_config(
        &self,
        request: Request<api::UpdateRuntimeConfigRequest>,
    ) -> Answer<api::UpdateRuntimeConfigResponse> {
        self.done(update_runtime_config::run, request).await
    }

    async fn run_pod_sandbox(&self, request: Request<api::RunPodSandboxRequest>) -> Answer<api::RunPodSandboxResponse> {
        self.done(run_pod_sandbox::run, request).await
    }

    async fn stop_pod_sandbox(&self, request: Request<api::StopPodSandboxRequest>) -> Answer<api::StopPodSandboxResponse> {
        self.done(stop_pod_sandbox::run, request).await
    }

    async fn remove_pod_sandbox(&self, request: Request<api::RemovePodSandboxRequest>) -> Answer<api::RemovePodSandboxResponse> {
        self.done(remove_pod_sandbox::run, request).await
    }

    async fn pod_sandbox_status(&self, request: Request<api::PodSandboxStatusRequest>) -> Answer<api::PodSandboxStatusResponse> {
        self.done(pod_sandbox_status::run, request).await
    }

    async fn list_pod_sandbox(&self, request: Request<api::ListPodSandboxRequest>) -> Answer<api::ListPodSandboxResponse> {
        self.done(list_pod_sandbox::run, request).await
    }

    async fn create_container(&self, request: Request<api::CreateContainerRequest>) -> Answer<api::CreateContainerResponse> {
        self.done(create_container::run, request).await
    }

    async fn start_container(&self, request: Request<api::StartContainerRequest>) -> Answer<api::StartContainerResponse> {
        self.done(start_container::run, request).await
    }

    async fn stop_container(&self, request: Request<api::StopContainerRequest>) -> Answer<api::StopContainerResponse> {
        self.done(stop_container::run, request).await
    }

    async fn remove_container(&self, request: Request<api::RemoveContainerRequest>) -> Answer<api::RemoveContainerResponse> {
        self.done(remove_container::run, request).await
    }

    async fn list_containers(&self, request: Request<api::ListContainersRequest>) -> Answer<api::ListContainersResponse> {
        self.done(list_containers::run, request).await
    }

    async fn container_status(&self, request: Request<api::ContainerStatusRequest>) -> Answer<api::ContainerStatusResponse> {
        self.done(container_status::run, request).await
    }

    async fn update_container_resources(&self, request: Request<api::UpdateContainerResourcesRequest>) -> Answer<api::UpdateContainerResourcesResponse> {
        self.done(update_container_resources::run, request).await
    }

    async fn update_pod_sandbox_resources(&self, request: Request<api::UpdatePodSandboxResourcesRequest>) -> Answer<api::UpdatePodSandboxResourcesResponse> {
        self.done(update_pod_sandbox_resources::run, request).await
    }

    async fn reopen_container_log(&self, request: Request<api::ReopenContainerLogRequest>) -> Answer<api::ReopenContainerLogResponse> {
        self.done(reopen_container_log::run, request).await
    }

    async fn exec_sync(&self, request: Request<api::ExecSyncRequest>) -> Answer<api::ExecSyncResponse> {
        self.done(exec_sync::run, request).await
    }

    async fn exec(&self, request: Request<api::ExecRequest>) -> Answer<api::ExecResponse> {
        self.done(exec::exec, request).await
    }

    async fn attach(&self, request: Request<api::AttachRequest>) -> Answer<api::AttachResponse> {
        self.done(exec::attach, request).await
    }

    async fn port_forward(&self, request: Request<api::PortForwardRequest>) -> Answer<api::PortForwardResponse> {
        self.done(exec::port_forward, request).await
    }
}
