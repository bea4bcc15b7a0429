//! A CRI server of the test's own, and a kubelet's side of it.

use super::super::harness::{Host, Live, binary, until};
use nix::sys::signal::Signal;
use podshim::cri::api;
use podshim::cri::api::image_service_client::ImageServiceClient;
use podshim::cri::api::runtime_service_client::RuntimeServiceClient;
use prost::Message as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// The image of all containers.
pub(super) const BUSYBOX: &str = "busybox:1.28";

/// What the error of a call begins with if no server was there to be called.
pub(super) const NOBODY: &str = "connecting";

/// The containers of a list, which are still encoded in it.
pub(super) fn listed(encoded: &[prost::bytes::Bytes]) -> Vec<api::Container> {
    encoded.iter().map(|bytes| api::Container::decode(&**bytes).unwrap()).collect()
}

/// A server and its kubelet.
pub(super) struct Cri<'a> {
    pub(super) host: &'a Host,
    pub(super) server: Live,
    /// The words before it.
    before: Vec<String>,
    kubelet: Kubelet,
}

/// A client.
pub(super) struct Kubelet {
    pub(super) socket: PathBuf,
    /// The runtime handler of the sandboxes it asks for.
    pub(super) handler: String,
    /// The connection of all calls, if it is one.
    kept: OnceLock<Channel>,
    tokio: tokio::runtime::Runtime,
}

type Runtime = RuntimeServiceClient<Channel>;

impl std::ops::Deref for Cri<'_> {
    type Target = Kubelet;

    fn deref(&self) -> &Kubelet {
        &self.kubelet
    }
}

impl Drop for Cri<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's errors\n{}", self.server.err());
        }
    }
}

impl<'a> Cri<'a> {
    /// Starts a server, with these lines of configuration.
    pub(super) fn start(host: &'a Host, config: &str) -> Cri<'a> {
        std::fs::write(host.path("cri.toml"), config).unwrap();
        let cri = Cri::begin(host, &[]);
        cri.until_ready();
        cri
    }

    /// Starts a server by another program, whose words these are; whether it comes to serve is seen by [`Cri::serves`].
    pub(super) fn begin(host: &'a Host, before: &[String]) -> Cri<'a> {
        let server = Cri::server(host, before);
        Cri { host, server, before: before.to_owned(), kubelet: Kubelet::new(host.path("cri.sock")) }
    }

    /// Whether it comes to serve: else it has ended.
    pub(super) fn serves(&mut self) -> bool {
        until("answer or end of the server", || match self.server.has_ended() {
            true => Some(false),
            false => self.version().is_ok().then_some(true),
        })
    }

    /// From now on this handler runs the containers.
    pub(super) fn by(mut self, handler: &str) -> Cri<'a> {
        self.kubelet.handler = handler.to_owned();
        self
    }

    fn server(host: &Host, before: &[String]) -> Live {
        let listen = format!("unix://{}", host.path("cri.sock").display());
        let config = host.path("cri.toml");
        let before: Vec<_> = before.iter().map(Into::into).chain([binary().into_os_string()]).collect();
        Live::start(host.command_by(&before, &["cri", "--listen", &listen, "--config", config.to_str().unwrap()]))
    }

    fn until_ready(&self) {
        until("answer of the server", || self.version().ok());
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.server.signal(Signal::SIGKILL);
        self.server.wait();
    }

    /// Another server in the place of one that was killed.
    pub(super) fn restart(&mut self) {
        let before = self.before.clone();
        self.restart_by(&before);
        self.until_ready();
    }

    /// The same by another program, as [`Cri::begin`] does.
    pub(super) fn restart_by(&mut self, before: &[String]) {
        assert!(self.server.has_ended(), "a second server would find the first and end");
        self.server = Cri::server(self.host, before);
    }
}

impl Kubelet {
    pub(super) fn new(socket: PathBuf) -> Kubelet {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Kubelet { socket, handler: String::new(), kept: OnceLock::new(), tokio }
    }

    /// From now on all calls are made on one connection, as a kubelet's are.
    pub(super) fn keep_connection(&self) {
        let channel = self.tokio.block_on(connect(self.socket.clone())).unwrap();
        self.kept.set(channel).unwrap();
    }

    async fn channel(&self) -> Result<Channel, Status> {
        match self.kept.get() {
            Some(channel) => Ok(channel.clone()),
            None => connect(self.socket.clone()).await,
        }
    }

    /// One call, on a connection of its own if none is kept.
    pub(super) fn call<F, T>(&self, call: impl FnOnce(Runtime) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.tokio.block_on(async {
            let channel = self.channel().await?;
            let client = RuntimeServiceClient::new(channel).max_decoding_message_size(16 << 20);
            call(client).await.map(Response::into_inner)
        })
    }

    /// One call of the other service.
    pub(super) fn call_images<F, T>(&self, call: impl FnOnce(ImageServiceClient<Channel>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.tokio.block_on(async {
            let channel = self.channel().await?;
            call(ImageServiceClient::new(channel)).await.map(Response::into_inner)
        })
    }

    pub(super) fn version(&self) -> Result<api::VersionResponse, Status> {
        self.call(|mut c| async move { c.version(api::VersionRequest::default()).await })
    }

    #[track_caller]
    pub(super) fn sandbox(&self, config: &api::PodSandboxConfig) -> String {
        self.run_sandbox(config).unwrap()
    }

    pub(super) fn run_sandbox(&self, config: &api::PodSandboxConfig) -> Result<String, Status> {
        let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: self.handler.clone() };
        self.call(|mut c| async move { c.run_pod_sandbox(request).await }).map(|answer| answer.pod_sandbox_id)
    }

    pub(super) fn create(
        &self,
        sandbox: (&str, &api::PodSandboxConfig),
        config: &api::ContainerConfig,
    ) -> Result<String, Status> {
        let request = api::CreateContainerRequest {
            pod_sandbox_id: sandbox.0.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(sandbox.1.clone()),
        };
        self.call(|mut c| async move { c.create_container(request).await }).map(|answer| answer.container_id)
    }

    /// What is said of a container that cannot run, by whichever call refuses it. A kubelet removes what is left of it.
    #[track_caller]
    pub(super) fn refused(&self, sandbox: (&str, &api::PodSandboxConfig), config: &api::ContainerConfig) -> Status {
        let id = match self.create(sandbox, config) {
            Err(status) => return status,
            Ok(id) => id,
        };
        let status = self.start_container(&id).unwrap_err();
        let seen = self.status(&id).unwrap();
        assert_eq!((seen.exit_code, &*seen.reason), (128, "StartError"), "{seen:?}");
        let again = self.start_container(&id).unwrap_err();
        assert_eq!((again.code(), again.message()), (status.code(), status.message()));
        self.remove(&id).unwrap();
        status
    }

    pub(super) fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = api::StartContainerRequest { container_id: id.to_owned() };
        self.call(|mut c| async move { c.start_container(request).await }).map(drop)
    }

    pub(super) fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = api::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.call(|mut c| async move { c.stop_container(request).await }).map(drop)
    }

    pub(super) fn remove(&self, id: &str) -> Result<(), Status> {
        let request = api::RemoveContainerRequest { container_id: id.to_owned() };
        self.call(|mut c| async move { c.remove_container(request).await }).map(drop)
    }

    pub(super) fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = api::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call(|mut c| async move { c.stop_pod_sandbox(request).await }).map(drop)
    }

    pub(super) fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = api::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call(|mut c| async move { c.remove_pod_sandbox(request).await }).map(drop)
    }

    pub(super) fn exec(&self, id: &str, cmd: &[&str], timeout: i64) -> Result<api::ExecSyncResponse, Status> {
        let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        let request = api::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        self.call(|mut c| async move { c.exec_sync(request).await })
    }

    pub(super) fn status(&self, id: &str) -> Result<api::ContainerStatus, Status> {
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.call(|mut c| async move { c.container_status(request).await }).map(|answer| answer.status.unwrap())
    }

    pub(super) fn sandbox_status(&self, id: &str) -> Result<api::PodSandboxStatus, Status> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        self.call(|mut c| async move { c.pod_sandbox_status(request).await }).map(|answer| answer.status.unwrap())
    }

    pub(super) fn sandboxes(&self) -> Vec<api::PodSandbox> {
        self.call(|mut c| async move { c.list_pod_sandbox(api::ListPodSandboxRequest::default()).await }).unwrap().items
    }

    pub(super) fn containers(&self) -> Vec<api::Container> {
        let request = api::ListContainersRequest::default();
        listed(&self.call(|mut c| async move { c.list_containers(request).await }).unwrap().containers)
    }

    /// A container that runs a script.
    #[track_caller]
    pub(super) fn running(&self, sandbox: (&str, &api::PodSandboxConfig), name: &str, script: &str) -> String {
        let id = self.create(sandbox, &container(name, script)).unwrap();
        self.start_container(&id).unwrap();
        id
    }

    /// A container that does nothing, in a sandbox of its own.
    #[track_caller]
    pub(super) fn sleeper(&self, host: &Host) -> String {
        let config = sandbox(host, "p");
        self.running((&self.sandbox(&config), &config), "c", "sleep 1000")
    }

    /// Waits until a container has ended.
    #[track_caller]
    pub(super) fn until_exited(&self, id: &str) -> api::ContainerStatus {
        until("exit", || {
            self.status(id).ok().filter(|status| status.state == api::ContainerState::ContainerExited as i32)
        })
    }
}

async fn connect(socket: PathBuf) -> Result<Channel, Status> {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
    let channel = endpoint.connect_timeout(Duration::from_secs(5)).timeout(Duration::from_secs(60)).connect().await;
    channel.map_err(|error| Status::unavailable(format!("{NOBODY}: {error}")))
}

/// A sandbox of this name, in its own network namespace.
pub(super) fn sandbox(host: &Host, name: &str) -> api::PodSandboxConfig {
    api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "test".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: host.folder(&format!("logs/{name}")),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: [("note".to_owned(), "kept".to_owned())].into(),
        linux: Some(api::LinuxPodSandboxConfig {
            cgroup_parent: format!("/{}", host.cgroup_parent),
            ..api::LinuxPodSandboxConfig::default()
        }),
        ..api::PodSandboxConfig::default()
    }
}

/// A container of busybox that runs a script.
pub(super) fn container(name: &str, script: &str) -> api::ContainerConfig {
    api::ContainerConfig {
        metadata: Some(api::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(api::ImageSpec { image: BUSYBOX.to_owned(), ..api::ImageSpec::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}/0.log"),
        labels: [("container".to_owned(), name.to_owned())].into(),
        ..api::ContainerConfig::default()
    }
}

/// The lines of a container's log, without times and tags.
pub(super) fn log(host: &Host, sandbox: &str, name: &str) -> Vec<String> {
    log_of(&host.path(&format!("logs/{sandbox}/{name}/0.log")))
}

/// The same of a file.
pub(super) fn log_of(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(str::to_owned).collect()
}
