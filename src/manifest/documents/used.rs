//! The documents that a pod refers to, as documents again: with them its manifest runs elsewhere.

use super::super::references;
use super::objects::Objects;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

impl Objects {
    /// The ConfigMaps and Secrets that a pod refers to, as far as there are any. (A claim's directory needs no document.)
    pub fn used_by(&self, pod: &Pod) -> Vec<Value> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let Some(spec) = &pod.spec else { return vec![] };
        let pull = spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str());
        let secrets: BTreeSet<&str> = references::secrets(spec).into_iter().chain(pull).collect();
        let metadata = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        };
        let bytes = |map: &BTreeMap<String, Vec<u8>>| -> Option<BTreeMap<String, ByteString>> {
            (!map.is_empty()).then(|| map.iter().map(|(key, value)| (key.clone(), ByteString(value.clone()))).collect())
        };
        let config_maps = references::config_maps(spec).into_iter().filter_map(|name| {
            let data = self.config_map(namespace, name)?;
            serde_json::to_value(ConfigMap {
                metadata: metadata(name),
                data: (!data.text.is_empty()).then(|| data.text.clone()),
                binary_data: bytes(&data.binary),
                immutable: data.immutable.then_some(true),
            })
            .ok()
        });
        let secrets = secrets.into_iter().filter_map(|name| {
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
