//! What the API server fills in before it validates a Pod.

use super::amounts;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HTTPGetAction, ObjectFieldSelector, Pod, PodSecurityContext, PodSpec, Probe,
    Volume,
};

/// Fills in the defaults. What names podshim's own field `status` and what a cluster sets is dropped.
pub(super) fn apply(pod: &mut Pod) {
    pod.status = None;
    pod.metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        name: pod.metadata.name.take(),
        namespace: pod.metadata.namespace.take().filter(|n| !n.is_empty()).or_else(|| Some("default".to_owned())),
        labels: pod.metadata.labels.take(),
        annotations: pod.metadata.annotations.take(),
        ..Default::default()
    };
    let Some(spec) = pod.spec.as_mut() else { return };
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
    // A negative grace period counts as one second, as in the API server.
    let grace = spec.termination_grace_period_seconds.get_or_insert(30);
    if *grace < 0 {
        *grace = 1;
    }
    spec.volumes.iter_mut().flatten().for_each(volume);
    let host_network = spec.host_network == Some(true);
    for one in containers_mut(spec) {
        container(one);
        ports(one, host_network.then_some(HostNetwork));
    }
    pod_requests(spec);
}

/// Fills in a container's defaults, but for those of its ports.
pub(super) fn container(container: &mut Container) {
    text(&mut container.termination_message_path, "/dev/termination-log");
    text(&mut container.termination_message_policy, "File");
    let policy = policy_by_tag(container.image.as_deref().unwrap_or(""));
    text(&mut container.image_pull_policy, policy);
    handlers(container);
    let sources = container.env.iter_mut().flatten().filter_map(|v| v.value_from.as_mut());
    sources.filter_map(|source| source.field_ref.as_mut()).for_each(field_ref);
    if let Some(resources) = &mut container.resources
        && let Some(limits) = &resources.limits
    {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    for mount in container.volume_mounts.iter_mut().flatten() {
        if !mount.mount_path.starts_with('/') && !mount.mount_path.is_empty() {
            mount.mount_path.insert(0, '/');
        }
    }
}

/// A pod with amounts of its own requests at least what its containers do; of what nobody requests, its limit.
fn pod_requests(spec: &mut PodSpec) {
    // What cannot be read has a fault of its own.
    let (true, Ok(requests)) = (amounts::has_pod_level(spec), amounts::pod_requests(spec)) else { return };
    let Some(own) = &mut spec.resources else { return };
    let written = own.requests.get_or_insert_default();
    for (name, quantity) in [("cpu", requests.cpu.map(amounts::cpus)), ("memory", requests.memory.map(amounts::exact))]
    {
        if let Some(quantity) = quantity {
            written.entry(name.to_owned()).or_insert(quantity);
        }
    }
    for (name, limit) in own.limits.iter().flatten().filter(|(name, _)| amounts::page_size(name).is_some()) {
        written.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

fn text(field: &mut Option<String>, default: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(default.to_owned());
    }
}

/// Probes and hooks.
fn handlers(container: &mut Container) {
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    for one in probes.into_iter().flatten() {
        probe(one);
    }
    let Some(lifecycle) = &mut container.lifecycle else { return };
    for hook in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        hook.http_get.iter_mut().for_each(http_get);
    }
}

/// A number that is 0 is as good as none.
fn probe(probe: &mut Probe) {
    for (field, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        *field = field.filter(|n| *n != 0).or(Some(default));
    }
    probe.http_get.iter_mut().for_each(http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn http_get(action: &mut HTTPGetAction) {
    text(&mut action.path, "/");
    text(&mut action.scheme, "HTTP");
}

/// The pod uses the host's network.
struct HostNetwork;

fn ports(container: &mut Container, host_network: Option<HostNetwork>) {
    for port in container.ports.iter_mut().flatten() {
        port.protocol = port.protocol.take().filter(|p| !p.is_empty()).or_else(|| Some("TCP".to_owned()));
        port.host_port = port.host_port.filter(|p| *p != 0);
        if host_network.is_some() {
            port.host_port.get_or_insert(port.container_port);
        }
    }
}

fn volume(volume: &mut Volume) {
    const MODE: i32 = 0o644;
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(map) = &mut volume.config_map {
        map.default_mode.get_or_insert(MODE);
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(MODE);
        downward.items.iter_mut().flatten().filter_map(|item| item.field_ref.as_mut()).for_each(field_ref);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(MODE);
        let downward = projected.sources.iter_mut().flatten().filter_map(|source| source.downward_api.as_mut());
        let items = downward.flat_map(|downward| downward.items.iter_mut().flatten());
        items.filter_map(|item| item.field_ref.as_mut()).for_each(field_ref);
    }
    if let Some(image) = &mut volume.image {
        let policy = policy_by_tag(image.reference.as_deref().unwrap_or(""));
        text(&mut image.pull_policy, policy);
    }
    let has_source = volume.host_path.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some();
    if !has_source {
        // A volume without a source is an emptyDir; other sources were refused by the support table.
        volume.empty_dir.get_or_insert_with(EmptyDirVolumeSource::default);
    }
}

fn field_ref(field: &mut ObjectFieldSelector) {
    text(&mut field.api_version, "v1");
}

/// Init containers first, then app containers.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

pub(super) fn containers_mut(spec: &mut PodSpec) -> impl Iterator<Item = &mut Container> {
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers)
}

/// `Always` for the tag `latest` or neither tag nor digest, else `IfNotPresent`.
pub(crate) fn policy_by_tag(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_a_probe_are_its_defaults() {
        let mut zero = Probe {
            period_seconds: Some(0),
            failure_threshold: Some(5),
            http_get: Some(HTTPGetAction { path: Some(String::new()), ..Default::default() }),
            ..Default::default()
        };
        probe(&mut zero);
        let numbers = [zero.timeout_seconds, zero.period_seconds, zero.success_threshold, zero.failure_threshold]
            .map(Option::unwrap);
        assert_eq!((numbers, zero.initial_delay_seconds), ([1, 10, 1, 5], None));
        let http = zero.http_get.unwrap();
        assert_eq!((http.path.as_deref(), http.scheme.as_deref()), (Some("/"), Some("HTTP")));
    }

    #[test]
    fn the_pull_policy_follows_the_tag() {
        let cases = [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.28", "IfNotPresent"),
            ("localhost:5000/busybox", "Always"),
            ("localhost:5000/busybox:1", "IfNotPresent"),
            ("busybox@sha256:00", "IfNotPresent"),
            ("busybox:latest@sha256:00", "IfNotPresent"),
        ];
        for (image, policy) in cases {
            assert_eq!(policy_by_tag(image), policy, "{image}");
        }
    }
}
