//! Every call of the API, each against something that is there.

use super::client::{BUSYBOX, Kubelet, container};
use podshim::cri::api;
use tonic::Status;

/// What the calls are about.
pub(super) struct Subject {
    /// A pod that stays, and a container of it that runs.
    pub(super) steady: (String, String),
    /// Of a pod that comes and goes.
    pub(super) config: api::PodSandboxConfig,
    /// An image of a registry that never answers.
    pub(super) stalling: String,
}

/// A call and its name. What it answers is not looked at here: whether it was made.
type Call<'a> = (&'static str, Box<dyn FnOnce(&Kubelet) -> Result<(), Status> + 'a>);

macro_rules! calls {
    ($($service:ident $name:literal $method:ident($request:expr)),* $(,)?) => {
        vec![$(calls!(@$service $name, $method, $request)),*]
    };
    (@unary $name:literal, $method:ident, $request:expr) => {
        ($name, Box::new(move |kubelet: &Kubelet| {
            kubelet.call(|mut client| async move { client.$method($request).await }).map(drop)
        }) as Box<dyn FnOnce(&Kubelet) -> Result<(), Status>>)
    };
    (@stream $name:literal, $method:ident, $request:expr) => {
        ($name, Box::new(move |kubelet: &Kubelet| {
            kubelet.call(|mut client| async move {
                let mut stream = client.$method($request).await?.into_inner();
                while stream.message().await?.is_some() {}
                Ok(tonic::Response::new(()))
            })
        }) as Box<dyn FnOnce(&Kubelet) -> Result<(), Status>>)
    };
    (@image_stream $name:literal, $method:ident, $request:expr) => {
        ($name, Box::new(move |kubelet: &Kubelet| {
            kubelet.call_images(|mut client| async move {
                let mut stream = client.$method($request).await?.into_inner();
                while stream.message().await?.is_some() {}
                Ok(tonic::Response::new(()))
            })
        }) as Box<dyn FnOnce(&Kubelet) -> Result<(), Status>>)
    };
    (@image $name:literal, $method:ident, $request:expr) => {
        ($name, Box::new(move |kubelet: &Kubelet| {
            kubelet.call_images(|mut client| async move { client.$method($request).await }).map(drop)
        }) as Box<dyn FnOnce(&Kubelet) -> Result<(), Status>>)
    };
}

/// The calls that leave a steady pod as it is.
pub(super) fn about_steady(subject: &Subject) -> Vec<Call<'static>> {
    let (pod, id) = subject.steady.clone();
    let of = || id.clone();
    let (pods, ids) = (pod.clone(), [of(), of(), of(), of(), of(), of(), of()]);
    let [status, update, reopen, sync, exec, attach, stats] = ids;
    let (sandbox, resources, forward, of_pod) = (pods.clone(), pods.clone(), pods.clone(), pods);
    let image = || Some(api::ImageSpec { image: BUSYBOX.to_owned(), ..api::ImageSpec::default() });
    let linux = || Some(api::LinuxContainerResources { cpu_shares: 100, ..api::LinuxContainerResources::default() });
    calls![
        unary "Version" version(api::VersionRequest::default()),
        unary "Status" status(api::StatusRequest { verbose: true }),
        unary "RuntimeConfig" runtime_config(api::RuntimeConfigRequest {}),
        unary "UpdateRuntimeConfig" update_runtime_config(api::UpdateRuntimeConfigRequest {
            runtime_config: Some(api::RuntimeConfig {
                network_config: Some(api::NetworkConfig { pod_cidr: "10.86.0.0/16".to_owned() }),
            }),
        }),
        unary "PodSandboxStatus" pod_sandbox_status(api::PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: true }),
        unary "ListPodSandbox" list_pod_sandbox(api::ListPodSandboxRequest::default()),
        stream "StreamPodSandboxes" stream_pod_sandboxes(api::StreamPodSandboxesRequest::default()),
        unary "ListContainers" list_containers(api::ListContainersRequest::default()),
        stream "StreamContainers" stream_containers(api::StreamContainersRequest::default()),
        unary "ContainerStatus" container_status(api::ContainerStatusRequest { container_id: status, verbose: true }),
        unary "UpdateContainerResources" update_container_resources(api::UpdateContainerResourcesRequest {
            container_id: update,
            linux: linux(),
            ..api::UpdateContainerResourcesRequest::default()
        }),
        unary "UpdatePodSandboxResources" update_pod_sandbox_resources(api::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: resources,
            overhead: None,
            resources: linux(),
        }),
        unary "ReopenContainerLog" reopen_container_log(api::ReopenContainerLogRequest { container_id: reopen }),
        unary "ExecSync" exec_sync(api::ExecSyncRequest { container_id: sync, cmd: vec!["true".to_owned()], timeout: 10 }),
        unary "Exec" exec(api::ExecRequest {
            container_id: exec,
            cmd: vec!["true".to_owned()],
            stdout: true,
            ..api::ExecRequest::default()
        }),
        unary "Attach" attach(api::AttachRequest { container_id: attach, stdout: true, ..api::AttachRequest::default() }),
        unary "PortForward" port_forward(api::PortForwardRequest { pod_sandbox_id: forward, port: vec![80] }),
        unary "ContainerStats" container_stats(api::ContainerStatsRequest { container_id: stats }),
        unary "ListContainerStats" list_container_stats(api::ListContainerStatsRequest::default()),
        stream "StreamContainerStats" stream_container_stats(api::StreamContainerStatsRequest::default()),
        unary "PodSandboxStats" pod_sandbox_stats(api::PodSandboxStatsRequest { pod_sandbox_id: of_pod }),
        unary "ListPodSandboxStats" list_pod_sandbox_stats(api::ListPodSandboxStatsRequest::default()),
        stream "StreamPodSandboxStats" stream_pod_sandbox_stats(api::StreamPodSandboxStatsRequest::default()),
        unary "ListMetricDescriptors" list_metric_descriptors(api::ListMetricDescriptorsRequest {}),
        unary "ListPodSandboxMetrics" list_pod_sandbox_metrics(api::ListPodSandboxMetricsRequest {}),
        stream "StreamPodSandboxMetrics" stream_pod_sandbox_metrics(api::StreamPodSandboxMetricsRequest {}),
        unary "GetContainerEvents" get_container_events(api::GetEventsRequest {}),
        image "ListImages" list_images(api::ListImagesRequest::default()),
        image_stream "StreamImages" stream_images(api::StreamImagesRequest::default()),
        image "ImageStatus" image_status(api::ImageStatusRequest { image: image(), verbose: true }),
        image "ImageFsInfo" image_fs_info(api::ImageFsInfoRequest {}),
        image "RemoveImage" remove_image(api::RemoveImageRequest {
            image: Some(api::ImageSpec { image: "none:1".to_owned(), ..api::ImageSpec::default() }),
        }),
    ]
}

/// The pull of an image from a registry that never answers.
pub(super) const PULL: &str = "PullImage";

/// Every call, as long as `call` says so: a pod comes, all about a steady one, and it goes.
pub(super) fn all(
    kubelet: &Kubelet,
    subject: &Subject,
    mut call: impl FnMut(&'static str, &mut dyn FnMut() -> Result<(), Status>) -> bool,
) -> bool {
    let config = &subject.config;
    let (mut pod, mut made) = (String::new(), String::new());
    let mut steady = about_steady(subject);
    call("RunPodSandbox", &mut || kubelet.run_sandbox(config).map(|id| pod = id))
        && call("CreateContainer", &mut || {
            kubelet.create((&pod, config), &container("c", "echo up; sleep 1000")).map(|id| made = id)
        })
        && call("StartContainer", &mut || kubelet.start_container(&made))
        && steady.drain(..).all(|(name, about)| {
            let mut about = Some(about);
            call(name, &mut || about.take().map_or(Ok(()), |about| about(kubelet)))
        })
        && call("StopContainer", &mut || kubelet.stop(&made, 0))
        && call("RemoveContainer", &mut || kubelet.remove(&made))
        && call("StopPodSandbox", &mut || kubelet.stop_sandbox(&pod))
        && call("RemovePodSandbox", &mut || kubelet.remove_sandbox(&pod))
        && call(PULL, &mut || pull(kubelet, &subject.stalling))
}

/// Asks for an image.
pub(super) fn pull(kubelet: &Kubelet, image: &str) -> Result<(), Status> {
    let image = Some(api::ImageSpec { image: image.to_owned(), ..api::ImageSpec::default() });
    let request = api::PullImageRequest { image, ..api::PullImageRequest::default() };
    kubelet.call_images(|mut client| async move { client.pull_image(request).await }).map(drop)
}
