//! RuntimeService as tonic has it: each method is its RPC's file.

use super::*;
use crate::cri::api::runtime_service_server::RuntimeService;
use crate::cri::daemon::{Answer, Service, Stream, block, perform};
use crate::cri::{Daemon, api, container_events};
use std::sync::Arc;
use std::time::Duration;
use tonic::Request;
use tonic::metadata::MetadataMap;

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
        let client = patience(request.metadata());
        let run = move |daemon: &Arc<Daemon>, request| checkpoint_container::run(daemon, &request, client);
        self.perform(request, |daemon, request| {
            Box::pin(async move { daemon.blocking(move |daemon| run(daemon, request)).await })
        })
        .await
    }

    async fn checkpoint_pod(&self, request: Request<api::CheckpointPodRequest>) -> Answer<api::CheckpointPodResponse> {
        let client = patience(request.metadata());
        let run = move |daemon: &Arc<Daemon>, request| checkpoint_pod::run(daemon, &request, client);
        self.perform(request, |daemon, request| {
            Box::pin(async move { daemon.blocking(move |daemon| run(daemon, request)).await })
        })
        .await
    }

    async fn exec_sync(&self, request: Request<api::ExecSyncRequest>) -> Answer<api::ExecSyncResponse> {
        let (client, _heard) = exec_sync::Client::new().map_err(|error| crate::cri::status::of(&error))?;
        self.perform(request, |daemon, request| {
            Box::pin(async move { daemon.blocking(move |daemon| exec_sync::run(daemon, &request, &client)).await })
        })
        .await
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

    async fn list_metric_descriptors(
        &self,
        request: Request<api::ListMetricDescriptorsRequest>,
    ) -> Answer<api::ListMetricDescriptorsResponse> {
        block!(self, request, metrics::descriptors)
    }

    async fn get_container_events(
        &self,
        request: Request<api::GetEventsRequest>,
    ) -> Answer<Stream<api::ContainerEventResponse>> {
        perform!(self, request, container_events)
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<api::ListPodSandboxMetricsRequest>,
    ) -> Answer<api::ListPodSandboxMetricsResponse> {
        block!(self, request, metrics::list)
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<api::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Stream<api::StreamPodSandboxMetricsResponse>> {
        block!(self, request, streamed::pod_sandbox_metrics)
    }
}

/// How long the client waits for the answer (`grpc-timeout`: at most eight digits and a unit); `None` if it does not say.
fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = Some(number).filter(|digits| (1..=8).contains(&digits.len()))?.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_client_waits() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("1500m", Some(Duration::from_millis(1500))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("12", None),
            ("1 S", None),
            ("-1S", None),
            ("123456789S", None),
            ("1s", None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(patience(&metadata), expected, "{text}");
        }
        assert_eq!(patience(&MetadataMap::new()), None);
    }
}
