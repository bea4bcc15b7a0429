//! RuntimeService as tonic has it: each method is its RPC's file.

use super::*;
use crate::cri::api;
use crate::cri::api::runtime_service_server::RuntimeService;
use crate::cri::daemon::{Answer, Service, Stream, block, perform};
use tonic::Request;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, request: Request<api::VersionRequest>) -> Answer<api::VersionResponse> {
        perform!(self, request, version)
    }

    async fn status(&self, request: Request<api::StatusRequest>) -> Answer<api::StatusResponse> {
        perform!(self, request, status)
    }

    async fn runtime_config(&self, request: Request<api::RuntimeConfigRequest>) -> Answer<api::RuntimeConfigResponse> {
        perform!(self, request, runtime_config)
    }

    async fn update_runtime_config(
        &self,
        request: Request<api::UpdateRuntimeConfigRequest>,
    ) -> Answer<api::UpdateRuntimeConfigResponse> {
        perform!(self, request, update_runtime_config)
    }

    async fn run_pod_sandbox(&self, request: Request<api::RunPodSandboxRequest>) -> Answer<api::RunPodSandboxResponse> {
        block!(self, request, run_pod_sandbox::run)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<api::StopPodSandboxRequest>,
    ) -> Answer<api::StopPodSandboxResponse> {
        block!(self, request, stop_pod_sandbox::run)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<api::RemovePodSandboxRequest>,
    ) -> Answer<api::RemovePodSandboxResponse> {
        block!(self, request, remove_pod_sandbox::run)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<api::PodSandboxStatusRequest>,
    ) -> Answer<api::PodSandboxStatusResponse> {
        block!(self, request, pod_sandbox_status::run)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<api::ListPodSandboxRequest>,
    ) -> Answer<api::ListPodSandboxResponse> {
        block!(self, request, list_pod_sandbox::run)
    }

    async fn create_container(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Answer<api::CreateContainerResponse> {
        block!(self, request, create_container::run)
    }

    async fn start_container(
        &self,
        request: Request<api::StartContainerRequest>,
    ) -> Answer<api::StartContainerResponse> {
        block!(self, request, start_container::run)
    }

    async fn stop_container(&self, request: Request<api::StopContainerRequest>) -> Answer<api::StopContainerResponse> {
        block!(self, request, stop_container::run)
    }

    async fn remove_container(
        &self,
        request: Request<api::RemoveContainerRequest>,
    ) -> Answer<api::RemoveContainerResponse> {
        block!(self, request, remove_container::run)
    }

    async fn list_containers(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Answer<api::ListContainersResponse> {
        block!(self, request, list_containers::run)
    }

    async fn container_status(
        &self,
        request: Request<api::ContainerStatusRequest>,
    ) -> Answer<api::ContainerStatusResponse> {
        block!(self, request, container_status::run)
    }

    async fn update_container_resources(
        &self,
        request: Request<api::UpdateContainerResourcesRequest>,
    ) -> Answer<api::UpdateContainerResourcesResponse> {
        block!(self, request, update_container_resources::run)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<api::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<api::UpdatePodSandboxResourcesResponse> {
        block!(self, request, update_pod_sandbox_resources::run)
    }

    async fn reopen_container_log(
        &self,
        request: Request<api::ReopenContainerLogRequest>,
    ) -> Answer<api::ReopenContainerLogResponse> {
        block!(self, request, reopen_container_log::run)
    }

    async fn checkpoint_container(
        &self,
        request: Request<api::CheckpointContainerRequest>,
    ) -> Answer<api::CheckpointContainerResponse> {
        block!(self, request, checkpoint_container::run)
    }

    async fn exec_sync(&self, request: Request<api::ExecSyncRequest>) -> Answer<api::ExecSyncResponse> {
        block!(self, request, exec_sync::run)
    }

    async fn exec(&self, request: Request<api::ExecRequest>) -> Answer<api::ExecResponse> {
        block!(self, request, exec::exec)
    }

    async fn attach(&self, request: Request<api::AttachRequest>) -> Answer<api::AttachResponse> {
        block!(self, request, exec::attach)
    }

    async fn port_forward(&self, request: Request<api::PortForwardRequest>) -> Answer<api::PortForwardResponse> {
        block!(self, request, exec::port_forward)
    }

    async fn container_stats(
        &self,
        request: Request<api::ContainerStatsRequest>,
    ) -> Answer<api::ContainerStatsResponse> {
        block!(self, request, stats::container)
    }

    async fn list_container_stats(
        &self,
        request: Request<api::ListContainerStatsRequest>,
    ) -> Answer<api::ListContainerStatsResponse> {
        block!(self, request, stats::list_containers)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<api::PodSandboxStatsRequest>,
    ) -> Answer<api::PodSandboxStatsResponse> {
        block!(self, request, stats::sandbox)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<api::ListPodSandboxStatsRequest>,
    ) -> Answer<api::ListPodSandboxStatsResponse> {
        block!(self, request, stats::list_sandboxes)
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<api::StreamPodSandboxesRequest>,
    ) -> Answer<Stream<api::StreamPodSandboxesResponse>> {
        block!(self, request, streamed::pod_sandboxes)
    }

    async fn stream_containers(
        &self,
        request: Request<api::StreamContainersRequest>,
    ) -> Answer<Stream<api::StreamContainersResponse>> {
        block!(self, request, streamed::containers)
    }

    async fn stream_container_stats(
        &self,
        request: Request<api::StreamContainerStatsRequest>,
    ) -> Answer<Stream<api::StreamContainerStatsResponse>> {
        block!(self, request, streamed::container_stats)
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<api::StreamPodSandboxStatsRequest>,
    ) -> Answer<Stream<api::StreamPodSandboxStatsResponse>> {
        block!(self, request, streamed::pod_sandbox_stats)
    }
}
