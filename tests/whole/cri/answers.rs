//! Lists and their streams, ids that nobody has, and requests that are wrong.

use super::super::harness::{Host, until};
use super::client::{Cri, container, listed, sandbox};
use podshim::cri::api;
use std::collections::HashMap;
use tonic::{Code, Response, Status};

/// What a list has, and what its stream has.
macro_rules! both {
    ($kubelet:expr, $list:ident($asked:expr).$items:ident, $stream:ident($request:expr).$parts:ident) => {{
        let (asked, request) = ($asked, $request);
        let listed = $kubelet.call(|mut client| async move { client.$list(asked).await }).unwrap().$items;
        let streamed = $kubelet.call(|mut client| async move {
            let mut stream = client.$stream(request).await?.into_inner();
            let mut all = Vec::new();
            while let Some(message) = stream.message().await? {
                all.extend(message.$parts);
            }
            Ok(Response::new(all))
        });
        (listed, streamed.unwrap())
    }};
}

/// What does not change by itself is the same in both, and there are so many.
#[track_caller]
fn assert_same<I, K: PartialEq + std::fmt::Debug>(
    (listed, streamed): (Vec<I>, Vec<I>),
    known: fn(&I) -> K,
    count: usize,
) {
    let [listed, streamed] = [listed, streamed].map(|all| all.iter().map(known).collect::<Vec<K>>());
    assert_eq!(listed, streamed);
    assert_eq!(listed.len(), count, "{listed:?}");
}

/// The label of the second of two sandboxes.
fn of_second() -> HashMap<String, String> {
    [("app".to_owned(), "b".to_owned())].into()
}

#[test]
fn e7_a_stream_has_what_its_list_has() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let (first, second) = (sandbox(&host, "a"), sandbox(&host, "b"));
    let (a, b) = (cri.sandbox(&first), cri.sandbox(&second));
    cri.running((&a, &first), "runs", "sleep 1000");
    cri.running((&b, &second), "other", "sleep 1000");
    cri.create((&a, &first), &container("waits", "true")).unwrap();

    let by_label = api::PodSandboxFilter { label_selector: of_second(), ..Default::default() };
    let by_id = api::PodSandboxFilter { id: a.clone(), ..Default::default() };
    for (filter, count) in [(None, 2), (Some(by_label), 1), (Some(by_id), 1)] {
        let asked = api::ListPodSandboxRequest { filter: filter.clone() };
        let request = api::StreamPodSandboxesRequest { filter };
        let both = both!(cri, list_pod_sandbox(asked).items, stream_pod_sandboxes(request).pod_sandboxes);
        assert_same(both, Clone::clone, count);
    }
    let running = Some(api::ContainerStateValue { state: api::ContainerState::ContainerRunning.into() });
    let by_state = api::ContainerFilter { state: running, ..Default::default() };
    let by_sandbox = api::ContainerFilter { pod_sandbox_id: b.clone(), ..Default::default() };
    for (filter, count) in [(None, 3), (Some(by_state), 2), (Some(by_sandbox), 1)] {
        let asked = api::ListContainersRequest { filter: filter.clone() };
        let request = api::StreamContainersRequest { filter };
        let (list, stream) = both!(cri, list_containers(asked).containers, stream_containers(request).containers);
        assert_same((listed(&list), stream), Clone::clone, count);
    }
    let by_sandbox = api::ContainerStatsFilter { pod_sandbox_id: a, ..Default::default() };
    // One that waits does not run.
    for (filter, count) in [(None, 2), (Some(by_sandbox), 1)] {
        let asked = api::ListContainerStatsRequest { filter: filter.clone() };
        let request = api::StreamContainerStatsRequest { filter };
        let both = both!(cri, list_container_stats(asked).stats, stream_container_stats(request).container_stats);
        assert_same(both, |stats| stats.attributes.clone().unwrap(), count);
    }
    let by_label = api::PodSandboxStatsFilter { label_selector: of_second(), ..Default::default() };
    for (filter, count) in [(None, 2), (Some(by_label), 1)] {
        let asked = api::ListPodSandboxStatsRequest { filter: filter.clone() };
        let request = api::StreamPodSandboxStatsRequest { filter };
        let both = both!(cri, list_pod_sandbox_stats(asked).stats, stream_pod_sandbox_stats(request).pod_sandbox_stats);
        assert_same(both, pod_attributes, count);
    }
    let (asked, request) = (api::ListPodSandboxMetricsRequest {}, api::StreamPodSandboxMetricsRequest {});
    let both = both!(
        cri,
        list_pod_sandbox_metrics(asked).pod_metrics,
        stream_pod_sandbox_metrics(request).pod_sandbox_metrics
    );
    assert_same(both, names_of_metrics, 2);
}

/// Who asks again has an answer that is ready.
#[test]
fn a_list_that_is_asked_for_again_is_the_same_until_something_changes() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    for _ in 0..3 {
        assert_eq!(cri.containers(), []);
    }
    let config = sandbox(&host, "a");
    let a = cri.sandbox(&config);
    let first = cri.running((&a, &config), "first", "sleep 1000");
    let second = cri.running((&a, &config), "second", "sleep 1000");
    let made = cri.containers();
    assert_eq!(made.iter().map(|one| &one.id).collect::<Vec<_>>(), [&second, &first]);
    for filter in [None, Some(api::ContainerFilter::default()), None] {
        let asked = api::ListContainersRequest { filter };
        let again = cri.call(|mut client| async move { client.list_containers(asked).await }).unwrap();
        assert_eq!(listed(&again.containers), made);
    }
    cri.stop(&first, 0).unwrap();
    for _ in 0..3 {
        let states: Vec<_> = cri.containers().iter().map(api::Container::state).collect();
        assert_eq!(states, [api::ContainerState::ContainerRunning, api::ContainerState::ContainerExited]);
    }
    cri.remove(&first).unwrap();
    for _ in 0..3 {
        assert_eq!(cri.containers().iter().map(|one| &one.id).collect::<Vec<_>>(), [&second]);
    }
}

type Attributes = (api::PodSandboxAttributes, Vec<api::ContainerAttributes>);

fn pod_attributes(stats: &api::PodSandboxStats) -> Attributes {
    let containers = stats.linux.iter().flat_map(|linux| &linux.containers);
    (stats.attributes.clone().unwrap(), containers.filter_map(|container| container.attributes.clone()).collect())
}

/// Each with what it is of.
fn names_of_metrics(of: &api::PodSandboxMetrics) -> (String, Vec<(String, String)>) {
    let of_containers = of.container_metrics.iter();
    let all = of_containers.flat_map(|one| one.metrics.iter().map(|metric| (&one.container_id, &metric.name)));
    (of.pod_sandbox_id.clone(), all.map(|(id, name)| (id.clone(), name.clone())).collect())
}

#[test]
fn e7_the_rate_of_a_pod_is_known_whatever_was_listed_meanwhile() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    cri.running((&id, &config), "c", "while :; do :; done");
    let rates = || {
        let request = api::PodSandboxStatsRequest { pod_sandbox_id: id.clone() };
        let stats = cri.call(|mut c| async move { c.pod_sandbox_stats(request).await }).unwrap().stats.unwrap();
        let linux = stats.linux.unwrap();
        let containers = linux.containers.into_iter().map(|container| container.cpu);
        let all = std::iter::once(linux.cpu).chain(containers);
        all.map(|cpu| cpu.unwrap().usage_nano_cores.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(rates(), [false, false], "it takes two samples");
    let request = api::ListContainerStatsRequest::default();
    cri.call(|mut c| async move { c.list_container_stats(request).await }).unwrap();
    assert_eq!(rates(), [true, true]);
    let request = api::ListPodSandboxStatsRequest::default();
    cri.call(|mut c| async move { c.list_pod_sandbox_stats(request).await }).unwrap();
    assert_eq!(rates(), [true, true]);
}

macro_rules! code {
    ($kubelet:expr, $method:ident($request:expr)) => {{
        let request = $request;
        let answer: Result<_, Status> = $kubelet.call(|mut client| async move { client.$method(request).await });
        (stringify!($method), answer.map(drop).unwrap_err().code())
    }};
}

#[test]
fn e7_nobody_has_such_an_id() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    cri.running((&id, &config), "c", "sleep 1000");
    let linux = || Some(api::LinuxContainerResources { cpu_shares: 100, ..Default::default() });
    for (id, wanted) in [("f".repeat(64), Code::NotFound), (String::new(), Code::InvalidArgument)] {
        let (cmd, of) = (vec!["true".to_owned()], || id.clone());
        let update = api::UpdateContainerResourcesRequest { container_id: of(), linux: linux(), ..Default::default() };
        let of_pod = api::UpdatePodSandboxResourcesRequest { pod_sandbox_id: of(), overhead: None, resources: linux() };
        let codes = [
            code!(cri, exec(api::ExecRequest { container_id: of(), cmd, stdout: true, ..Default::default() })),
            code!(cri, attach(api::AttachRequest { container_id: of(), stdout: true, ..Default::default() })),
            code!(cri, port_forward(api::PortForwardRequest { pod_sandbox_id: of(), port: vec![80] })),
            code!(cri, reopen_container_log(api::ReopenContainerLogRequest { container_id: of() })),
            code!(cri, update_container_resources(update)),
            code!(cri, update_pod_sandbox_resources(of_pod)),
            code!(cri, container_stats(api::ContainerStatsRequest { container_id: of() })),
            code!(cri, pod_sandbox_stats(api::PodSandboxStatsRequest { pod_sandbox_id: of() })),
        ];
        assert_eq!(codes.map(|(name, _)| (name, wanted)), codes, "{id:?}");
    }
    for port in [-1, 0, 70_000] {
        let request = api::PortForwardRequest { pod_sandbox_id: id.clone(), port: vec![80, port] };
        assert_eq!(code!(cri, port_forward(request)), ("port_forward", Code::InvalidArgument), "{port}");
    }
}

fn resources(config: &mut api::ContainerConfig) -> &mut api::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}

fn security(config: &mut api::ContainerConfig) -> &mut api::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// It is the caller's fault, and the field is told.
#[track_caller]
fn assert_wrong<T>(answer: Result<T, Status>, field: &str) {
    let Err(status) = answer else { panic!("{field} is taken") };
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
    assert!(status.message().contains(field), "{field}: {status}");
}

#[test]
fn e7_what_is_wrong_with_a_container_is_the_callers_fault() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    type Row = (&'static str, fn(&mut api::ContainerConfig));
    let rows: [Row; 5] = [
        ("config.linux.resources.cpuset_cpus: 65535", |c| resources(c).cpuset_cpus = "65535".into()),
        ("config.linux.resources.cpuset_mems: 65535", |c| resources(c).cpuset_mems = "65535".into()),
        ("config.linux.resources", |c| {
            let limit = api::HugepageLimit { page_size: "512MB".into(), limit: 512 << 20 };
            resources(c).hugepage_limits = vec![limit];
        }),
        ("config.linux.security_context.namespace_options.target_id", |c| {
            let pid = api::NamespaceMode::Target.into();
            let target_id = "f".repeat(64);
            security(c).namespace_options = Some(api::NamespaceOption { pid, target_id, ..Default::default() });
        }),
        ("config.image.runtime_handler", |c| c.image.as_mut().unwrap().runtime_handler = "nobody".into()),
    ];
    for (field, change) in rows {
        let mut wanted = container("c", "sleep 1000");
        change(&mut wanted);
        assert_wrong(cri.create((&id, &config), &wanted), field);
        assert!(cri.containers().is_empty(), "{field}");
    }
    // What its image says of it is known when it is made.
    let mut of_nobody = container("c", "sleep 1000");
    security(&mut of_nobody).run_as_username = "nobody-has-it".into();
    let error = cri.refused((&id, &config), &of_nobody);
    assert_wrong::<()>(Err(error), "unable to find user nobody-has-it");
    assert!(cri.containers().is_empty());
    let mut below = container("c", "sleep 1000");
    let image = below.image.clone();
    let at = ("/v".to_owned(), "no/such/path".to_owned());
    below.mounts =
        vec![api::Mount { container_path: at.0, image_sub_path: at.1, image, readonly: true, ..Default::default() }];
    assert_wrong(cri.create((&id, &config), &below), "it is not in the volume, which is read-only");
    assert!(cri.containers().is_empty());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let volumes = host.path("root/pods").join(&id).join("volumes");
    assert!(!mounts.contains(&*volumes.to_string_lossy()), "the image is not mounted any more");
    let state = std::fs::read_dir(host.path("state/pods").join(&id).join("containers")).unwrap();
    assert_eq!(state.count(), 0, "nothing is left of it");
    // Whose processes another is to see must have some.
    let mut apart = sandbox(&host, "apart");
    let options = |pid: api::NamespaceMode, target_id: String| {
        Some(api::NamespaceOption { pid: pid.into(), target_id, ..Default::default() })
    };
    apart.linux.as_mut().unwrap().security_context.get_or_insert_default().namespace_options =
        options(api::NamespaceMode::Container, String::new());
    let other = cri.sandbox(&apart);
    let ended = cri.running((&other, &apart), "ended", "exit 0");
    until("its end", || (cri.status(&ended).unwrap().state() == api::ContainerState::ContainerExited).then_some(()));
    let mut beside = container("beside", "sleep 1000");
    security(&mut beside).namespace_options = options(api::NamespaceMode::Target, ended);
    let error = cri.refused((&other, &apart), &beside);
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    let made = cri.running((&id, &config), "c", "sleep 1000");
    assert_wrong(cri.stop(&made, -1), "timeout");
    let update = |linux: api::LinuxContainerResources, cpu_shares| {
        let request = api::UpdateContainerResourcesRequest {
            container_id: made.clone(),
            linux: Some(linux),
            windows: Some(api::WindowsContainerResources { cpu_shares, ..Default::default() }),
            ..Default::default()
        };
        cri.call(|mut c| async move { c.update_container_resources(request).await })
    };
    let linux = || api::LinuxContainerResources { cpu_shares: 100, ..Default::default() };
    let cpus = api::LinuxContainerResources { cpuset_cpus: "65535".into(), ..linux() };
    let mems = api::LinuxContainerResources { cpuset_mems: "65535".into(), ..linux() };
    assert_wrong(update(cpus, 0), "linux.cpuset_cpus: 65535");
    assert_wrong(update(mems, 0), "linux.cpuset_mems: 65535");
    assert_wrong(update(linux(), 1), "windows");
    update(linux(), 0).unwrap();
    assert_eq!(cri.status(&made).unwrap().state, api::ContainerState::ContainerRunning as i32);
}

#[test]
fn e7_a_pod_is_restored_by_others() {
    let Some(host) = Host::new(&[]) else { return };
    let cri = Cri::start(&host, "");
    let error = cri.call(|mut c| async move { c.restore_pod(api::RestorePodRequest::default()).await }).unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error}");
}

#[test]
fn e7_what_a_pod_may_have_is_checked_when_it_changes() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let update = |overhead: Option<api::LinuxContainerResources>, resources: Option<api::LinuxContainerResources>| {
        let request = api::UpdatePodSandboxResourcesRequest { pod_sandbox_id: id.clone(), overhead, resources };
        cri.call(|mut c| async move { c.update_pod_sandbox_resources(request).await })
    };
    let linux = |cpu_shares, cpus: &str| {
        Some(api::LinuxContainerResources { cpu_shares, cpuset_cpus: cpus.to_owned(), ..Default::default() })
    };
    assert_wrong(update(None, linux(-5, "")), "resources.cpu_shares: -5");
    assert_wrong(update(linux(0, "garbage"), linux(100, "")), "overhead.cpuset_cpus: \"garbage\"");
    update(linux(0, "0"), linux(100, "")).unwrap();
    cri.stop_sandbox(&id).unwrap();
    assert_eq!(update(None, linux(-5, "")).unwrap_err().code(), Code::FailedPrecondition);
}
