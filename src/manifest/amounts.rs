//! Requests and limits of a pod, from those of its containers and its own: the API's arithmetic (pod-api.md §20; PodRequests and
//! PodLimits in component-helpers/resource of Kubernetes). Pure.

use super::quantity;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is requested, or is the limit; what is not set is not named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub cpu: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes.
    pub ephemeral_storage: Option<i64>,
    /// Bytes in huge pages, by the size of a page.
    pub hugepages: BTreeMap<u64, i64>,
}

/// The prefix of a resource that is huge pages of one size.
pub const HUGEPAGES: &str = "hugepages-";

/// Bytes of a page of `hugepages-<size>`; `None` for another resource, or a size that no page can have.
pub fn page_size(resource: &str) -> Option<u64> {
    let size = Quantity(resource.strip_prefix(HUGEPAGES)?.to_owned());
    quantity::bytes(&size).ok().and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| bytes.is_power_of_two())
}

/// The resource of pages of a size, as the API writes it: `hugepages-2Mi`.
pub fn hugepages_name(page_size: u64) -> String {
    let units = [("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let unit = units.iter().find(|(_, shift)| page_size.is_multiple_of(1 << shift));
    unit.map_or_else(
        || format!("{HUGEPAGES}{page_size}"),
        |(unit, shift)| format!("{HUGEPAGES}{}{unit}", page_size >> shift),
    )
}

/// A list of `requests` or `limits`; what is not known here (extended resources) is left out.
pub fn read(list: Option<&BTreeMap<String, Quantity>>) -> Result<Amounts> {
    let mut amounts = Amounts::default();
    for (name, quantity) in list.into_iter().flatten() {
        let context = || format!("resources: {name}");
        match name.as_str() {
            "cpu" => amounts.cpu = Some(quantity::milli(quantity).with_context(context)?),
            "memory" => amounts.memory = Some(quantity::bytes(quantity).with_context(context)?),
            "ephemeral-storage" => amounts.ephemeral_storage = Some(quantity::bytes(quantity).with_context(context)?),
            other => {
                if let Some(size) = page_size(other) {
                    amounts.hugepages.insert(size, quantity::bytes(quantity).with_context(context)?);
                }
            }
        }
    }
    Ok(amounts)
}

/// What `resources` requests: a limit without a request is the request too (API defaulting).
pub fn requests(resources: Option<&k8s::ResourceRequirements>) -> Result<Amounts> {
    let requests = read(resources.and_then(|r| r.requests.as_ref()))?;
    Ok(requests.or(&limits(resources)?))
}

/// What `resources` limits.
pub fn limits(resources: Option<&k8s::ResourceRequirements>) -> Result<Amounts> {
    read(resources.and_then(|r| r.limits.as_ref()))
}

/// Whether the pod has requests or limits of its own (KEP-2837).
pub fn has_pod_level(spec: &k8s::PodSpec) -> bool {
    let is_set = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().is_some_and(|list| !list.is_empty());
    spec.resources.as_ref().is_some_and(|r| is_set(&r.requests) || is_set(&r.limits))
}

/// What the containers of a pod come to together: app containers and sidecars side by side, or what was needed before, by an
/// init container beside the sidecars that had begun by then.
pub fn of_containers(
    spec: &k8s::PodSpec,
    of: impl Fn(Option<&k8s::ResourceRequirements>) -> Result<Amounts>,
) -> Result<Amounts> {
    let mut sidecars = Amounts::default();
    let mut before = Amounts::default();
    for init in spec.init_containers.iter().flatten() {
        let own = of(init.resources.as_ref()).with_context(|| format!("container {}", init.name))?;
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.plus(&own);
            before = before.max(&sidecars);
        } else {
            before = before.max(&sidecars.plus(&own));
        }
    }
    let mut together = sidecars;
    for app in &spec.containers {
        let own = of(app.resources.as_ref()).with_context(|| format!("container {}", app.name))?;
        together = together.plus(&own);
    }
    Ok(together.max(&before))
}

/// What the pod as a whole requests: what it says itself, else what its containers come to.
pub fn pod_requests(spec: &k8s::PodSpec) -> Result<Amounts> {
    let containers = of_containers(spec, requests)?;
    if !has_pod_level(spec) {
        return Ok(containers);
    }
    let own = read(spec.resources.as_ref().and_then(|r| r.requests.as_ref()))?;
    let limits = limits(spec.resources.as_ref())?;
    // Of huge pages the limit always is the request; of the rest, if nobody requests any (pod-api.md §20).
    let pages = Amounts { hugepages: limits.hugepages.clone(), ..Amounts::default() };
    Ok(own.or(&pages).or(&containers).or(&limits))
}

/// What the pod as a whole is limited to: its own limits, else the containers' together; of cpu and memory only if each
/// container has a limit.
pub fn pod_limits(spec: &k8s::PodSpec) -> Result<Amounts> {
    let own = limits(spec.resources.as_ref())?;
    let mut together = of_containers(spec, limits)?;
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let limits = limits(container.resources.as_ref())?;
        together.cpu = together.cpu.filter(|_| limits.cpu.is_some_and(|n| n > 0));
        together.memory = together.memory.filter(|_| limits.memory.is_some_and(|n| n > 0));
    }
    Ok(own.or(&together))
}

/// Bytes with the largest suffix that keeps them exact.
pub fn exact(bytes: i64) -> Quantity {
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let unit = units.iter().find(|(_, shift)| bytes != 0 && bytes % (1 << shift) == 0);
    Quantity(unit.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift)))
}

/// Thousandths as whole ones, if they are: `2`, `1500m`.
pub fn cpus(milli: i64) -> Quantity {
    Quantity(if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") })
}

impl Amounts {
    /// With what is not set taken from `other`.
    #[must_use]
    pub fn or(&self, other: &Amounts) -> Amounts {
        self.with(other, |own, other| own.or(other))
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Amounts) -> Amounts {
        self.with(other, |own, other| match (own, other) {
            (Some(own), Some(other)) => Some(own.saturating_add(other)),
            (own, other) => own.or(other),
        })
    }

    /// Of each the larger one.
    #[must_use]
    pub fn max(&self, other: &Amounts) -> Amounts {
        // `None` is less than any number.
        self.with(other, Option::max)
    }

    fn with(&self, other: &Amounts, of: impl Fn(Option<i64>, Option<i64>) -> Option<i64>) -> Amounts {
        let sizes: BTreeSet<u64> = self.hugepages.keys().chain(other.hugepages.keys()).copied().collect();
        let at = |of: &Amounts, size: u64| of.hugepages.get(&size).copied();
        Amounts {
            cpu: of(self.cpu, other.cpu),
            memory: of(self.memory, other.memory),
            ephemeral_storage: of(self.ephemeral_storage, other.ephemeral_storage),
            hugepages: sizes
                .into_iter()
                .filter_map(|size| Some((size, of(at(self, size), at(other, size))?)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> k8s::PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } })
    }

    #[test]
    fn s20_a_pod_requests_what_its_containers_need_at_the_same_time() {
        let with_policy = |cpu: &str| {
            let mut sidecar = container(cpu);
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        };
        let rows = [
            ("app containers", vec![], vec!["1", "500m"], 1500),
            ("a large init container", vec![container("4")], vec!["1"], 4000),
            ("a small init container", vec![container("500m")], vec!["1"], 1000),
            ("a sidecar goes on", vec![with_policy("2")], vec!["1"], 3000),
            ("an init container beside an earlier sidecar", vec![with_policy("2"), container("3")], vec!["1"], 5000),
            ("an init container before a later sidecar", vec![container("3"), with_policy("2")], vec!["500m"], 3000),
        ];
        for (name, inits, apps, expected) in rows {
            let apps: Vec<_> = apps.into_iter().map(container).collect();
            let spec = spec(json!({ "initContainers": inits, "containers": apps }));
            assert_eq!(pod_requests(&spec).unwrap().cpu, Some(expected), "{name}");
        }
    }

    #[test]
    fn s20_the_pods_own_amounts_come_first() {
        let rows = [
            ("its own", json!({ "requests": { "cpu": "3" } }), Some(3000), None),
            ("the containers' before its limit", json!({ "limits": { "cpu": "4" } }), Some(1000), Some(4000)),
            ("its limit", json!({ "limits": { "memory": "1Gi", "hugepages-2Mi": "4Mi" } }), Some(1000), None),
        ];
        for (name, resources, requested, limited) in rows {
            let spec = spec(json!({ "resources": resources, "containers": [container("1")] }));
            assert_eq!(
                (pod_requests(&spec).unwrap().cpu, pod_limits(&spec).unwrap().cpu),
                (requested, limited),
                "{name}"
            );
        }
        let only = spec(json!({ "containers": [{ "name": "c" }],
            "resources": { "limits": { "memory": "1Gi", "hugepages-2Mi": "4Mi" } } }));
        let requests = pod_requests(&only).unwrap();
        assert_eq!((requests.memory, requests.hugepages), (Some(1 << 30), [(2 << 20, 4 << 20)].into()));
    }

    #[test]
    fn s20_a_pod_is_limited_if_all_its_containers_are() {
        let limited = |limits: serde_json::Value| json!({ "name": "c", "resources": { "limits": limits } });
        let both = || limited(json!({ "cpu": "1", "memory": "64Mi", "ephemeral-storage": "1Gi" }));
        let rows = [
            ("all", vec![], vec![both(), both()], (Some(2000), Some(128 << 20), Some(2 << 30))),
            ("one has none", vec![], vec![both(), limited(json!({}))], (None, None, Some(1 << 30))),
            (
                "one has only cpu",
                vec![],
                vec![both(), limited(json!({ "cpu": "1" }))],
                (Some(2000), None, Some(1 << 30)),
            ),
            ("an init container has none", vec![limited(json!({}))], vec![both()], (None, None, Some(1 << 30))),
            (
                "a large init container",
                vec![limited(json!({ "cpu": "5", "memory": "1Gi" }))],
                vec![both()],
                (Some(5000), Some(1 << 30), Some(1 << 30)),
            ),
        ];
        for (name, inits, apps, expected) in rows {
            let limits = pod_limits(&spec(json!({ "initContainers": inits, "containers": apps }))).unwrap();
            assert_eq!((limits.cpu, limits.memory, limits.ephemeral_storage), expected, "{name}");
        }
    }

    #[test]
    fn pages_have_names() {
        for (name, size) in [("hugepages-2Mi", 2 << 20), ("hugepages-1Gi", 1 << 30), ("hugepages-64Ki", 64 << 10)] {
            assert_eq!((page_size(name), hugepages_name(size)), (Some(size), name.to_owned()));
        }
        for name in ["hugepages-", "hugepages-3Mi", "hugepages-0", "hugepages-x", "hugepages--2Mi", "memory"] {
            assert_eq!(page_size(name), None, "{name}");
        }
    }
}
