//! `podshim cri` as a process: its socket, and ImageService through the generated client. Registries are on loopback; root.

#[path = "support/available.rs"]
mod available;
#[path = "registry/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "registry/support.rs"]
#[allow(dead_code)]
mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podshim::cri::api::image_service_client::ImageServiceClient;
use podshim::cri::api::runtime_service_client::RuntimeServiceClient;
use podshim::cri::api::*;
use server::{Behaviour, Host};
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Sample, available};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A daemon with directories of its own, killed on drop.
struct Daemon {
    directory: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// With a configuration, after mirrors were written; returns once requests are taken.
    fn start(prepare: impl FnOnce(&Daemon)) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("certs.d")).unwrap();
        std::fs::create_dir_all(directory.path().join("net.d")).unwrap();
        let text = format!(
            "[registry]\nconfig_path = \"{0}/certs.d\"\n[network]\nconf_dir = \"{0}/net.d\"\n[nri]\nenabled = false\n\
             [runtime_handlers.other]\npath = \"/usr/bin/other\"\n",
            directory.path().display()
        );
        std::fs::write(directory.path().join("cri.toml"), text).unwrap();
        let child = Command::new("true").spawn().unwrap();
        let mut daemon = Daemon { directory, child };
        prepare(&daemon);
        daemon.child.wait().unwrap();
        daemon.child = daemon.command().spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(daemon.socket()).is_err() {
            assert!(Instant::now() < deadline && daemon.child.try_wait().unwrap().is_none(), "it does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn command(&self) -> Command {
        let at = |name: &str| self.directory.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_podshim"));
        command
            .arg("--root")
            .arg(at("lib"))
            .arg("--state")
            .arg(at("run"))
            .arg("--log-dir")
            .arg(at("log"))
            .args(["cri", "--config"])
            .arg(at("cri.toml"))
            .arg("--listen")
            .arg(format!("unix://{}", self.socket().display()))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("sockets/cri.sock")
    }

    fn mirror(&self, registry: &str, host: &Host) {
        let directory = self.directory.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), format!("server = \"{}\"\n", host.url("http"))).unwrap();
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket().display())).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel().await)
    }

    fn terminate(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() })
}

async fn pull(client: &mut ImageServiceClient<Channel>, image: &str) -> Result<String, Status> {
    let request = PullImageRequest { image: spec(image), ..PullImageRequest::default() };
    client.pull_image(request).await.map(|response| response.into_inner().image_ref)
}

async fn status(client: &mut ImageServiceClient<Channel>, image: &str) -> Option<Image> {
    let request = ImageStatusRequest { image: spec(image), verbose: false };
    client.image_status(request).await.unwrap().into_inner().image
}

async fn list(client: &mut ImageServiceClient<Channel>) -> Vec<Image> {
    client.list_images(ListImagesRequest::default()).await.unwrap().into_inner().images
}

async fn remove(client: &mut ImageServiceClient<Channel>, image: &str) -> Result<(), Status> {
    client.remove_image(RemoveImageRequest { image: spec(image) }).await.map(drop)
}

#[test]
fn an_image_is_one_whatever_its_names() {
    if !available(&["root"]) {
        return;
    }
    let (sample, other) = (Sample::new("one"), Sample::new("other"));
    let (host, second) = (Host::plain(&sample), Host::plain(&other));
    let daemon = Daemon::start(|daemon| {
        daemon.mirror("one.example", &host);
        daemon.mirror("two.example", &host);
        daemon.mirror("other.example", &second);
    });
    run(async {
        let mut client = daemon.images().await;
        assert!(list(&mut client).await.is_empty());
        let id = pull(&mut client, "one.example/team/app:1").await.unwrap();
        assert_eq!(id, sample.config.digest);
        for name in ["one.example/team/app:2", "two.example/app", "one.example/team/app:1"] {
            assert_eq!(pull(&mut client, name).await.unwrap(), id, "{name}");
        }
        let other_id = pull(&mut client, "other.example/app").await.unwrap();
        let images = list(&mut client).await;
        assert_eq!(images.len(), 2, "{images:?}");
        let image = images.iter().find(|image| image.id == id).unwrap();
        assert_eq!(
            image.repo_tags,
            ["one.example/team/app:1", "one.example/team/app:2", "two.example/app:latest"],
            "each tag once"
        );
        let index = &sample.index.digest;
        assert_eq!(image.repo_digests, [format!("one.example/team/app@{index}"), format!("two.example/app@{index}")]);
        assert!(image.size > 300_000 && !image.pinned, "{image:?}");
        let mut names = image.repo_tags.clone();
        names.extend(image.repo_digests.clone());
        names.extend([id.clone(), id[7..].to_owned(), id[7..20].to_owned()]);
        names.push(format!("one.example/team/app@{}", sample.manifest.digest));
        for name in &names {
            assert_eq!(status(&mut client, name).await.as_ref(), Some(image), "{name}");
            let filter = Some(ImageFilter { image: spec(name) });
            let found = client.list_images(ListImagesRequest { filter }).await.unwrap().into_inner().images;
            assert_eq!(found.iter().collect::<Vec<_>>(), [image], "{name}");
        }
        let mut stream = client.stream_images(StreamImagesRequest::default()).await.unwrap().into_inner();
        let mut streamed = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            streamed.extend(response.images);
        }
        assert_eq!(streamed, images);

        remove(&mut client, "two.example/app").await.unwrap();
        for name in &names {
            assert_eq!(status(&mut client, name).await, None, "{name}");
        }
        assert_eq!(list(&mut client).await.into_iter().map(|image| image.id).collect::<String>(), other_id);
        // Again, by a name and by an ID that nobody ever had, and all at once.
        remove(&mut client, "two.example/app").await.unwrap();
        remove(&mut client, &id).await.unwrap();
        let removals = (0..5).map(|_| {
            let (mut client, id) = (client.clone(), other_id.clone());
            async move {
                remove(&mut client, &id).await.unwrap();
                assert_eq!(status(&mut client, &id).await, None);
            }
        });
        futures_util::future::join_all(removals).await;
        assert!(list(&mut client).await.is_empty());
    });
}

#[test]
fn a_damaged_image_is_not_here_and_can_be_pulled_again() {
    if !available(&["root"]) {
        return;
    }
    let (sample, other) = (Sample::new("damaged"), Sample::new("whole"));
    let (host, second) = (Host::plain(&sample), Host::plain(&other));
    let daemon = Daemon::start(|daemon| {
        daemon.mirror("damaged.example", &host);
        daemon.mirror("whole.example", &second);
    });
    run(async {
        let mut client = daemon.images().await;
        let whole = pull(&mut client, "whole.example/app").await.unwrap();
        for digest in [&sample.config.digest, &sample.manifest.digest] {
            let id = pull(&mut client, "damaged.example/app").await.unwrap();
            let damage = || support::damage(&daemon.directory.path().join("lib/images"), digest);
            damage();
            let ids: Vec<String> = list(&mut client).await.into_iter().map(|image| image.id).collect();
            assert_eq!(ids, [whole.as_str()], "{digest}");
            for name in ["damaged.example/app", &id, &id[7..20]] {
                assert_eq!(status(&mut client, name).await, None, "{digest}: {name}");
            }
            for name in ["whole.example/app", &whole, &whole[7..20]] {
                assert_eq!(status(&mut client, name).await.unwrap().id, whole, "{digest}: {name}");
            }
            assert_eq!(pull(&mut client, "damaged.example/app").await.unwrap(), id, "{digest}");
            assert_eq!(status(&mut client, &id).await.unwrap().repo_tags, ["damaged.example/app:latest"], "{digest}");
            damage();
            remove(&mut client, "damaged.example/app").await.unwrap();
            let left = daemon.directory.path().join("lib/images/blobs/sha256");
            assert_eq!(support::entries(&left).len(), other.blobs().len() + 1, "{digest}");
        }
    });
}

#[test]
fn an_image_by_digest_has_no_tag_and_says_who_runs_it() {
    if !available(&["root"]) {
        return;
    }
    let plain = Sample::new("user");
    let host = podshim::image::manifest::Platform::host();
    let config = |user: &str| {
        let diff_ids: Vec<String> = plain.tars.iter().map(|tar| podshim::image::Digest::of(tar).to_string()).collect();
        let config = serde_json::json!({
            "architecture": host.architecture, "os": "linux", "config": {"User": user},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = support::Blob::json(support::CONFIG, &config);
        Sample::assemble(plain.layers.clone(), plain.tars.clone(), config)
    };
    for (user, uid, username) in [("1003:2000", Some(1003), ""), ("www-data:100", None, "www-data"), ("", None, "")] {
        let sample = config(user);
        let registry = Host::plain(&sample);
        let daemon = Daemon::start(|daemon| daemon.mirror("r.example", &registry));
        run(async {
            let mut client = daemon.images().await;
            let name = format!("r.example/app@{}", sample.manifest.digest);
            let id = pull(&mut client, &name).await.unwrap();
            let image = status(&mut client, &name).await.unwrap();
            assert_eq!((&image.id, image.repo_tags.len(), image.repo_digests), (&id, 0, vec![name]));
            assert_eq!((image.uid.map(|uid| uid.value), image.username.as_str()), (uid, username), "{user}");
            let request = ImageStatusRequest { image: spec(&id), verbose: true };
            let info = client.image_status(request).await.unwrap().into_inner().info;
            assert!(info["info"].contains("RootFS"), "{info:?}");
        });
    }
}

#[test]
fn requests_that_are_wrong_get_their_code() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("wrong");
    let host = Host::start(&sample, Behaviour { authorization: Some("Basic eDp5".into()), ..Behaviour::default() });
    let forbidding = Host::start(&sample, Behaviour { refusal: Some("403 Forbidden"), ..Behaviour::default() });
    let open = Host::plain(&sample);
    let daemon = Daemon::start(|daemon| {
        daemon.mirror("closed.example", &host);
        daemon.mirror("forbidding.example", &forbidding);
        daemon.mirror("open.example", &open);
    });
    run(async {
        let mut client = daemon.images().await;
        for image in ["", "UPPER/Case:x", "a b", "../etc", "x@sha256:1", &"x".repeat(5000), &"a".repeat(64)] {
            let error = pull(&mut client, image).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{image}: {error}");
        }
        assert_eq!(remove(&mut client, "").await.unwrap_err().code(), Code::InvalidArgument);
        let nothing = client.image_status(ImageStatusRequest::default()).await.unwrap_err();
        assert_eq!(nothing.code(), Code::InvalidArgument);
        assert_eq!(status(&mut client, "nobody.example/has:it").await, None);
        let mut handler = spec("closed.example/app").unwrap();
        handler.runtime_handler = "nobody".into();
        let request = PullImageRequest { image: Some(handler.clone()), ..PullImageRequest::default() };
        let error = client.pull_image(request).await.unwrap_err();
        assert!(error.code() == Code::InvalidArgument && error.message().contains("other"), "{error}");
        let request = ImageStatusRequest { image: Some(handler.clone()), verbose: false };
        let error = client.image_status(request).await.unwrap_err();
        assert!(error.code() == Code::InvalidArgument && error.message().contains("other"), "{error}");
        handler.runtime_handler = "other".into();
        let request = |auth| PullImageRequest { image: Some(handler.clone()), auth, ..PullImageRequest::default() };
        let error = client.pull_image(request(None)).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        let auth = AuthConfig {
            username: "x".into(),
            password: "y".into(),
            server_address: format!("127.0.0.1:{}", host.port),
            ..AuthConfig::default()
        };
        assert_eq!(
            client.pull_image(request(Some(auth.clone()))).await.unwrap().into_inner().image_ref,
            sample.config.digest
        );
        let wrong = AuthConfig { password: "sEcReT".into(), ..auth };
        let error = client.pull_image(request(Some(wrong))).await.unwrap_err();
        assert!(!error.message().contains("sEcReT") && error.message().contains("no access"), "{error}");
        assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        let error = pull(&mut client, "forbidding.example/app").await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        let missing = format!("open.example/app@sha256:{}", "0".repeat(64));
        let error = pull(&mut client, &missing).await.unwrap_err();
        assert!(error.code() == Code::NotFound && error.message().contains("404"), "{error}");
        let dead = support::free_port();
        let error = pull(&mut client, &format!("127.0.0.1:{dead}/app")).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().starts_with("RegistryUnavailable: "), "{error}");
    });
}

#[test]
fn an_image_that_many_want_is_pulled_once_and_a_client_can_give_up() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("wanted");
    let slow = Behaviour { delay: Duration::from_millis(400), ..Behaviour::default() };
    let host = Host::start(&sample, slow);
    let daemon = Daemon::start(|daemon| daemon.mirror("slow.example", &host));
    run(async {
        let client = daemon.images().await;
        let pulls = (0..4).map(|_| {
            let mut client = client.clone();
            async move { pull(&mut client, "slow.example/app").await.unwrap() }
        });
        let ids = futures_util::future::join_all(pulls).await;
        assert!(ids.iter().all(|id| *id == sample.config.digest), "{ids:?}");
        assert_eq!(host.paths("manifests/latest").len(), 1, "{:?}", host.asked());

        let mut client = daemon.images().await;
        remove(&mut client, "slow.example/app").await.unwrap();
        let mut request =
            tonic::Request::new(PullImageRequest { image: spec("slow.example/app:2"), ..Default::default() });
        request.set_timeout(Duration::from_millis(100));
        let error = client.pull_image(request).await.unwrap_err();
        assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled), "{error}");
        // What was under work goes, and the image does not come later.
        let work = daemon.directory.path().join("lib/tmp");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !support::entries(&work).is_empty() {
            assert!(Instant::now() < deadline, "{:?}", support::entries(&work));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(status(&mut client, "slow.example/app:2").await, None);
    });
}

#[test]
fn what_images_take_is_told() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("space");
    let host = Host::plain(&sample);
    let daemon = Daemon::start(|daemon| daemon.mirror("r.example", &host));
    run(async {
        let mut client = daemon.images().await;
        let mut used = Vec::new();
        for step in 0..4 {
            match step {
                1 => drop(pull(&mut client, "r.example/app").await.unwrap()),
                3 => remove(&mut client, "r.example/app").await.unwrap(),
                _ => {}
            }
            let info = client.image_fs_info(ImageFsInfoRequest {}).await.unwrap().into_inner();
            let [images] = info.image_filesystems.as_slice() else { panic!("{info:?}") };
            let [containers] = info.container_filesystems.as_slice() else { panic!("{info:?}") };
            assert_eq!(containers.used_bytes.unwrap().value, 0, "no container has written");
            assert_eq!(
                images.fs_id.as_ref().unwrap().mountpoint,
                daemon.directory.path().join("lib").display().to_string()
            );
            assert!(images.timestamp > 1_700_000_000_000_000_000);
            used.push((images.used_bytes.unwrap().value, images.inodes_used.unwrap().value));
        }
        // A layer of 300 kB, packed and unpacked.
        assert!(used[1].0 > used[0].0 + 500_000 && used[1].1 > used[0].1 + 5, "{used:?}");
        assert_eq!(used[1], used[2], "from what was measured before");
        assert!(used[3].0 < used[0].0 + 50_000, "{used:?}");
    });
}

#[test]
fn the_socket_is_the_daemons_own_and_goes_with_it() {
    if !available(&["root"]) {
        return;
    }
    let mut daemon = Daemon::start(|daemon| {
        // One that nobody listens on any more is replaced.
        std::fs::create_dir_all(daemon.socket().parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(daemon.socket()).unwrap());
    });
    assert_eq!(std::fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o7777, 0o660);
    let second = daemon.command().stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && text.contains("another process serves there"), "{text}");
    run(async {
        let mut client = RuntimeServiceClient::new(daemon.channel().await);
        let version = client.version(VersionRequest::default()).await.unwrap().into_inner();
        assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("podshim", "v1"));
        let mut unknown = tonic::client::Grpc::new(daemon.channel().await);
        unknown.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<VersionRequest, VersionResponse>::default();
        let path = http::uri::PathAndQuery::from_static("/runtime.v2.RuntimeService/Version");
        let error = unknown.unary(tonic::Request::new(VersionRequest::default()), path, codec).await.unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented, "{error}");
        // A connection that is open does not keep it.
        daemon.terminate();
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let ended = loop {
        if let Some(status) = daemon.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success() && !daemon.socket().exists(), "{ended}");
}

#[test]
fn a_kubelet_learns_what_the_node_can_do() {
    if !available(&["root"]) {
        return;
    }
    let daemon = Daemon::start(|_| {});
    run(async {
        let mut client = RuntimeServiceClient::new(daemon.channel().await);
        let status = |verbose| StatusRequest { verbose };
        let answer = client.status(status(true)).await.unwrap().into_inner();
        let conditions = answer.status.unwrap().conditions;
        let met: Vec<(&str, bool)> = conditions.iter().map(|c| (c.r#type.as_str(), c.status)).collect();
        assert_eq!(met, [("RuntimeReady", true), ("NetworkReady", true)], "{conditions:?}");
        let handlers: Vec<&str> = answer.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
        assert_eq!(handlers, ["", "podshim", "other"]);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
        let is_new = (numbers.next(), numbers.next()) >= (Some(5), Some(12));
        let expected = RuntimeHandlerFeatures { recursive_read_only_mounts: is_new, user_namespaces: is_new };
        let features: Vec<_> = answer.runtime_handlers[..2].iter().map(|handler| handler.features).collect();
        assert_eq!(features, [Some(expected); 2], "podshim's own, by Linux {kernel}");
        assert!(answer.features.unwrap().supplemental_groups_policy);
        assert!(answer.info["config"].contains("certs.d"), "{:?}", answer.info);
        // A configuration whose plugin is missing is none that pods could be attached by.
        let conflist = r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "no-such-plugin"}]}"#;
        std::fs::write(daemon.directory.path().join("net.d/10-x.conflist"), conflist).unwrap();
        let answer = client.status(status(false)).await.unwrap().into_inner();
        let network = answer.status.unwrap().conditions.remove(1);
        assert!(!network.status && network.reason == "NetworkPluginNotReady", "{network:?}");
        assert!(network.message.contains("no-such-plugin") && answer.info.is_empty(), "{network:?}");

        let driver = client.runtime_config(RuntimeConfigRequest {}).await.unwrap().into_inner().linux.unwrap();
        assert_eq!(driver.cgroup_driver(), CgroupDriver::Cgroupfs);
        let told = |cidr: &str| UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig { network_config: Some(NetworkConfig { pod_cidr: cidr.into() }) }),
        };
        for cidr in ["10.9.0.0/24", "10.9.0.0/24", "10.9.0.0/24,fd09::/64", ""] {
            client.update_runtime_config(told(cidr)).await.unwrap();
        }
        let error = client.update_runtime_config(told("10.9.0.0")).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        let info = client.status(status(true)).await.unwrap().into_inner().info;
        assert!(info["runtimeConfig"].contains(r#"["10.9.0.0/24","fd09::/64"]"#), "{}", info["runtimeConfig"]);
        let error = client.run_pod_sandbox(RunPodSandboxRequest::default()).await.unwrap_err();
        assert!(matches!(error.code(), Code::Unimplemented | Code::InvalidArgument), "{error}");
    });
}
