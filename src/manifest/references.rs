//! The names of the objects that a pod refers to.

use k8s_openapi::api::core::v1 as k8s;
use std::collections::BTreeSet;

fn containers(spec: &k8s::PodSpec) -> impl Iterator<Item = &k8s::Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn sources(spec: &k8s::PodSpec) -> impl Iterator<Item = &k8s::EnvVarSource> {
    containers(spec).flat_map(|c| c.env.iter().flatten()).filter_map(|v| v.value_from.as_ref())
}

fn projections(spec: &k8s::PodSpec) -> impl Iterator<Item = &k8s::VolumeProjection> {
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.projected.as_ref());
    volumes.flat_map(|projected| projected.sources.iter().flatten())
}

/// Its ConfigMaps.
pub(crate) fn config_maps(spec: &k8s::PodSpec) -> BTreeSet<&str> {
    let from = containers(spec).flat_map(|c| c.env_from.iter().flatten()).filter_map(|s| s.config_map_ref.as_ref());
    let keys = sources(spec).filter_map(|s| s.config_map_key_ref.as_ref());
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.config_map.as_ref());
    let projected = projections(spec).filter_map(|s| s.config_map.as_ref());
    let names = from.map(|r| &r.name).chain(keys.map(|r| &r.name)).chain(volumes.map(|r| &r.name));
    names.chain(projected.map(|r| &r.name)).map(String::as_str).collect()
}

/// Its Secrets, but for those that images are pulled with.
pub(crate) fn secrets(spec: &k8s::PodSpec) -> BTreeSet<&str> {
    let from = containers(spec).flat_map(|c| c.env_from.iter().flatten()).filter_map(|s| s.secret_ref.as_ref());
    let keys = sources(spec).filter_map(|s| s.secret_key_ref.as_ref());
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.secret.as_ref()?.secret_name.as_ref());
    let projected = projections(spec).filter_map(|s| s.secret.as_ref());
    let names = from.map(|r| &r.name).chain(keys.map(|r| &r.name)).chain(volumes);
    names.chain(projected.map(|r| &r.name)).map(String::as_str).collect()
}
