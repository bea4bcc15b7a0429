//! The documents that a pod refers to, as documents again: with them its manifest runs elsewhere.

use super::objects::Objects;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

impl Objects {
    /// The ConfigMaps and Secrets that a pod refers to, as far as there are any. (A claim's directory needs no document.)
    pub fn used_by(&self, pod: &Pod) -> Vec<Value> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let names = names(pod);
        let metadata = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        };
        let bytes = |map: &BTreeMap<String, Vec<u8>>| -> Option<BTreeMap<String, ByteString>> {
            (!map.is_empty()).then(|| map.iter().map(|(key, value)| (key.clone(), ByteString(value.clone()))).collect())
        };
        let config_maps = names.config_maps.iter().filter_map(|name| {
            let data = self.config_map(namespace, name)?;
            serde_json::to_value(ConfigMap {
                metadata: metadata(name),
                data: (!data.text.is_empty()).then(|| data.text.clone()),
                binary_data: bytes(&data.binary),
                immutable: data.immutable.then_some(true),
            })
            .ok()
        });
        let secrets = names.secrets.iter().filter_map(|name| {
            let data = self.secret(namespace, name)?;
            serde_json::to_value(Secret {
                metadata: metadata(name),
                data: bytes(&data.values),
                type_: Some(data.type_.clone()).filter(|type_| !type_.is_empty()),
                immutable: data.immutable.then_some(true),
                ..Secret::default()
            })
            .ok()
        });
        config_maps.chain(secrets).collect()
    }
}

#[derive(Default)]
struct Names {
    config_maps: BTreeSet<String>,
    secrets: BTreeSet<String>,
}

fn names(pod: &Pod) -> Names {
    let mut names = Names::default();
    let Some(spec) = &pod.spec else { return names };
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for source in container.env_from.iter().flatten() {
            names.config_maps.extend(source.config_map_ref.as_ref().map(|map| map.name.clone()));
            names.secrets.extend(source.secret_ref.as_ref().map(|secret| secret.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            names.config_maps.extend(source.config_map_key_ref.as_ref().map(|key| key.name.clone()));
            names.secrets.extend(source.secret_key_ref.as_ref().map(|key| key.name.clone()));
        }
    }
    spec.volumes.iter().flatten().for_each(|volume| of_volume(volume, &mut names));
    names.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    names
}

fn of_volume(volume: &Volume, names: &mut Names) {
    names.config_maps.extend(volume.config_map.as_ref().map(|map| map.name.clone()));
    names.secrets.extend(volume.secret.as_ref().and_then(|secret| secret.secret_name.clone()));
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        names.config_maps.extend(source.config_map.as_ref().map(|map| map.name.clone()));
        names.secrets.extend(source.secret.as_ref().map(|secret| secret.name.clone()));
    }
}
