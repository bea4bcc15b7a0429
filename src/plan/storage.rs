//! Limits of disk space, which no kernel keeps: they are looked at every ten seconds, and a pod that exceeds one is evicted
//! (pod-api.md §18, §20; pkg/kubelet/eviction). Pure.

use super::config::{StorageLimit, StorageOf};
use super::resources::bytes;
use crate::manifest::amounts;
use anyhow::Result;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The limits of a pod, in the order in which a kubelet looks at them.
pub(super) fn limits(spec: &k8s::PodSpec) -> Result<Vec<StorageLimit>> {
    let mut limits = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        let on_disk = volume.empty_dir.as_ref().filter(|dir| dir.medium.as_deref().unwrap_or("").is_empty());
        if let Some(size) = on_disk.and_then(|dir| dir.size_limit.as_ref()) {
            limits.extend(limit(StorageOf::Volume(volume.name.clone()), size)?);
        }
    }
    // Those that have one together, as a kubelet counts it.
    if let Some(bytes) = amounts::pod_limits(spec)?.ephemeral_storage {
        limits.extend(limit(StorageOf::Pod, &amounts::exact(bytes))?);
    }
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let limits_of = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        if let Some(size) = limits_of.and_then(|list| list.get("ephemeral-storage")) {
            limits.extend(limit(StorageOf::Container(container.name.clone()), size)?);
        }
    }
    Ok(limits)
}

/// None of zero: as in a kubelet it is no limit.
fn limit(of: StorageOf, size: &Quantity) -> Result<Option<StorageLimit>> {
    let bytes = u64::try_from(bytes(size)?).unwrap_or(0);
    Ok((bytes > 0).then(|| StorageLimit { of, bytes, text: size.0.clone() }))
}

impl StorageLimit {
    /// Why a pod that exceeds it is evicted, in the kubelet's words.
    pub fn message(&self) -> String {
        let text = &self.text;
        match &self.of {
            StorageOf::Volume(name) => format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. "),
            StorageOf::Pod => {
                format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. ")
            }
            StorageOf::Container(name) => {
                format!("Container {name} exceeded its local ephemeral storage limit {text:?}. ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn s20_limits_of_disk_space_in_the_kubelets_order_and_words() {
        let limited =
            |name: &str, size: &str| json!({ "name": name, "resources": { "limits": { "ephemeral-storage": size } } });
        let spec: k8s::PodSpec = serde_json::from_value(json!({
            "initContainers": [limited("i", "1Gi")],
            "containers": [limited("a", "10Mi"), limited("b", "1.5Gi"), { "name": "free" }, limited("none", "0")],
            "volumes": [
                { "name": "disk", "emptyDir": { "sizeLimit": "5M" } },
                { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "5M" } },
                { "name": "zero", "emptyDir": { "sizeLimit": "0" } },
                { "name": "free", "emptyDir": {} }] }))
        .unwrap();
        let found: Vec<(u64, String)> = limits(&spec).unwrap().iter().map(|l| (l.bytes, l.message())).collect();
        let expected = [
            (5_000_000, "Usage of EmptyDir volume \"disk\" exceeds the limit \"5M\". "),
            ((1546 << 20), "Pod ephemeral local storage usage exceeds the total limit of containers 1546Mi. "),
            (1 << 30, "Container i exceeded its local ephemeral storage limit \"1Gi\". "),
            (10 << 20, "Container a exceeded its local ephemeral storage limit \"10Mi\". "),
            (1536 << 20, "Container b exceeded its local ephemeral storage limit \"1.5Gi\". "),
        ];
        assert_eq!(found, expected.map(|(bytes, text)| (bytes, text.to_owned())));
    }
}
