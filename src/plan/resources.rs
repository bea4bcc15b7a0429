//! Requests and limits → cgroup numbers, QoS class and oom_score_adj, by the kubelet's arithmetic (pod-api.md §20;
//! pkg/kubelet/cm/helpers_linux.go, pkg/kubelet/qos/policy.go).

use super::config::{Amounts, LinuxContainerResources, SwapBehavior};
use crate::manifest::{amounts, quantity};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Pod quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Limits equal requests for cpu and memory in every container.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// The name in `status.qosClass`.
    pub fn name(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// A quantity of memory in bytes, rounded up.
pub fn bytes(quantity: &Quantity) -> Result<i64> {
    quantity::bytes(quantity).with_context(|| format!("quantity {:?}", quantity.0))
}

/// The pod's QoS class: by cpu and memory of the pod itself if it has amounts of its own, else of its app and init containers.
pub fn qos_class(spec: &k8s::PodSpec) -> Result<QosClass> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let counted = match amounts::has_pod_level(spec) {
        true => vec![(amounts::pod_requests(spec)?, amounts::limits(spec.resources.as_ref())?)],
        false => containers
            .map(|c| Ok((amounts::requests(c.resources.as_ref())?, amounts::limits(c.resources.as_ref())?)))
            .collect::<Result<_>>()?,
    };
    let both = |(requested, limit): &(Amounts, Amounts)| {
        [(requested.cpu, limit.cpu), (requested.memory, limit.memory)].map(|(a, b)| (set(a), set(b)))
    };
    let all: Vec<_> = counted.iter().flat_map(both).collect();
    let any = all.iter().any(|(requested, limit)| requested.is_some() || limit.is_some());
    let guaranteed = all.iter().all(|(requested, limit)| limit.is_some() && requested == limit);
    Ok(match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    })
}

/// Zero is none.
fn set(amount: Option<i64>) -> Option<i64> {
    amount.filter(|amount| *amount > 0)
}

/// Milli-CPUs as CPU shares: 1024 per CPU, 2 to 262144.
pub fn cpu_shares(milli: i64) -> u64 {
    (milli.max(0) as u64 * 1024 / 1000).clamp(2, 262_144)
}

/// `oom_score_adj` of a container: a Burstable one is the more likely to be killed the less it requested.
pub fn oom_score_adj(qos: QosClass, requested_memory: i64, host_memory: u64) -> i32 {
    match qos {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let share = 1000 * i128::from(requested_memory) / i128::from(host_memory.max(1));
            (1000 - share).clamp(3, 999) as i32
        }
    }
}

const CPU_PERIOD_MICROSECONDS: i64 = 100_000;
const MINIMUM_QUOTA_MICROSECONDS: i64 = 1_000;

/// The pod that a container is planned for.
#[derive(Debug, Clone, Copy)]
pub struct OfPod<'a> {
    /// `spec`
    pub spec: &'a k8s::PodSpec,
    /// Its class.
    pub qos: QosClass,
    /// The host's memory in bytes.
    pub host_memory: u64,
    /// Whether it may be swapped out.
    pub swap: SwapBehavior,
}

/// A container's cgroup numbers. What it has no limit of, the pod's own limit is its limit of.
pub fn container(container: &k8s::Container, pod: OfPod<'_>) -> Result<LinuxContainerResources> {
    let own = container.resources.as_ref();
    let mut limits = amounts::limits(own)?;
    // The kubelet's getCPULimit and getMemoryLimit: a limit of zero gives way to the pod's, too.
    (limits.cpu, limits.memory) = (set(limits.cpu), set(limits.memory));
    let limits = limits.or(&amounts::limits(pod.spec.resources.as_ref())?);
    let requests = amounts::requests(own)?;
    let (quota, period) = cpu_quota(limits.cpu);
    let memory_limit = set(limits.memory);
    Ok(LinuxContainerResources {
        cpu_shares: Some(cpu_shares(requests.cpu.or(limits.cpu).unwrap_or(0))),
        cpu_quota: quota,
        cpu_period: period,
        memory_limit,
        memory_request: requests.memory,
        swap: swap(&requests, memory_limit, pod),
        hugepages: limits.hugepages,
        oom_score_adj: container_oom_score_adj(container, &requests, pod)?,
        ..LinuxContainerResources::default()
    })
}

/// The numbers of the pod's own cgroup, as a kubelet sets them (`ResourceConfigForPod`, pkg/kubelet/cm/helpers_linux.go).
pub fn pod(pod: OfPod<'_>) -> Result<LinuxContainerResources> {
    let requests = amounts::pod_requests(pod.spec)?;
    let limits = amounts::pod_limits(pod.spec)?;
    let (quota, period) = cpu_quota(limits.cpu);
    Ok(LinuxContainerResources {
        cpu_shares: Some(cpu_shares(requests.cpu.unwrap_or(0))),
        cpu_quota: quota,
        cpu_period: period,
        memory_limit: set(limits.memory),
        memory_request: requests.memory,
        hugepages: requests.hugepages,
        ..LinuxContainerResources::default()
    })
}

fn cpu_quota(limit: Option<i64>) -> (Option<i64>, Option<u64>) {
    let Some(milli) = set(limit) else { return (None, None) };
    let quota = milli.saturating_mul(CPU_PERIOD_MICROSECONDS / 1000).max(MINIMUM_QUOTA_MICROSECONDS);
    (Some(quota), Some(CPU_PERIOD_MICROSECONDS as u64))
}

/// A sidecar's is no higher than that of the app container with the smallest request, so that it is not killed in the place of
/// those that it serves.
fn container_oom_score_adj(container: &k8s::Container, requests: &Amounts, pod: OfPod<'_>) -> Result<i32> {
    let rest = rest_of_pod_request(pod.spec)?;
    let score = |requested: i64| oom_score_adj(pod.qos, requested.saturating_add(rest), pod.host_memory);
    let own = score(requests.memory.unwrap_or(0));
    if container.restart_policy.as_deref() != Some("Always") || !is_init(container, pod.spec) {
        return Ok(own);
    }
    let mut least = i64::MAX;
    for app in &pod.spec.containers {
        least = least.min(amounts::requests(app.resources.as_ref())?.memory.unwrap_or(0));
    }
    Ok(own.min(score(least)))
}

fn is_init(container: &k8s::Container, spec: &k8s::PodSpec) -> bool {
    spec.init_containers.iter().flatten().any(|init| init.name == container.name)
}

/// What the pod requests of memory beyond its containers, for each of them.
fn rest_of_pod_request(spec: &k8s::PodSpec) -> Result<i64> {
    if !amounts::has_pod_level(spec) {
        return Ok(0);
    }
    let of_pod = amounts::pod_requests(spec)?.memory.unwrap_or(0);
    let of_containers = amounts::of_containers(spec, amounts::requests)?.memory.unwrap_or(0);
    let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    Ok((of_pod - of_containers).max(0) / (count.max(1) as i64))
}

/// LimitedSwap: the request's share of the host's memory, of its swap.
fn swap(requests: &Amounts, limit: Option<i64>, pod: OfPod<'_>) -> i64 {
    let SwapBehavior::LimitedSwap { host_swap } = pod.swap else { return 0 };
    match requests.memory.filter(|requested| *requested > 0 && Some(*requested) != limit) {
        Some(requested) if pod.qos == QosClass::Burstable => {
            let share = i128::from(requested) * i128::from(host_swap) / i128::from(pod.host_memory.max(1));
            i64::try_from(share).unwrap_or(i64::MAX)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(spec: &k8s::PodSpec) -> OfPod<'_> {
        OfPod { spec, qos: qos_class(spec).unwrap(), host_memory: 8 << 30, swap: SwapBehavior::NoSwap }
    }

    fn spec(value: serde_json::Value) -> k8s::PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn s20_the_pods_own_amounts_decide_the_class_and_are_the_limits_of_containers_without() {
        let with = |resources: serde_json::Value| {
            let limited = json!({ "name": "l", "resources": { "limits": { "cpu": "250m", "memory": "64Mi" } } });
            spec(json!({ "resources": resources, "containers": [limited, { "name": "f" }] }))
        };
        let both = json!({ "cpu": "1", "memory": "1Gi" });
        let guaranteed = with(json!({ "limits": both, "requests": both }));
        assert_eq!(qos_class(&guaranteed).unwrap(), QosClass::Guaranteed);
        assert_eq!(qos_class(&with(json!({ "limits": both }))).unwrap(), QosClass::Burstable, "requests 250m");
        assert_eq!(qos_class(&with(json!({ "requests": { "memory": "1Gi" } }))).unwrap(), QosClass::Burstable);
        let [limited, free] = [0, 1].map(|n| container(&guaranteed.containers[n], of(&guaranteed)).unwrap());
        assert_eq!((limited.cpu_quota, limited.memory_limit), (Some(25_000), Some(64 << 20)));
        assert_eq!((free.cpu_quota, free.memory_limit), (Some(100_000), Some(1 << 30)));
        assert_eq!((limited.cpu_shares, free.cpu_shares), (Some(256), Some(1024)));
        let whole = pod(of(&guaranteed)).unwrap();
        assert_eq!((whole.cpu_shares, whole.cpu_quota, whole.memory_limit), (Some(1024), Some(100_000), Some(1 << 30)));
    }

    #[test]
    fn s20_zero_is_none() {
        let (zero, one) = (json!({ "cpu": "0", "memory": "0" }), json!({ "cpu": "1", "memory": "1Gi" }));
        let (quota, memory) = (Some(100_000), Some(1 << 30));
        let rows = [
            ("limits", json!({}), json!({ "limits": zero }), QosClass::BestEffort, (None, None)),
            ("requests", json!({}), json!({ "requests": zero }), QosClass::BestEffort, (None, None)),
            (
                "requests below limits",
                json!({}),
                json!({ "limits": one, "requests": zero }),
                QosClass::Burstable,
                (quota, memory),
            ),
            (
                "one of two limits",
                json!({}),
                json!({ "limits": { "cpu": "0", "memory": "1Gi" } }),
                QosClass::Burstable,
                (None, memory),
            ),
            (
                "limits in a pod with some",
                json!({ "limits": one, "requests": one }),
                json!({ "limits": zero }),
                QosClass::Guaranteed,
                (quota, memory),
            ),
            ("limits of the pod", json!({ "limits": zero }), json!({}), QosClass::BestEffort, (None, None)),
        ];
        for (name, of_pod, resources, class, expected) in rows {
            let spec = spec(json!({ "resources": of_pod, "containers": [{ "name": "c", "resources": resources }] }));
            assert_eq!(qos_class(&spec).unwrap(), class, "{name}");
            let [own, whole] = [container(&spec.containers[0], of(&spec)), pod(of(&spec))].map(Result::unwrap);
            assert_eq!((own.cpu_quota, own.memory_limit, own.cpu_shares), (expected.0, expected.1, Some(2)), "{name}");
            assert_eq!((whole.cpu_quota, whole.memory_limit), expected, "{name}");
        }
    }

    #[test]
    fn s20_what_the_pod_requests_beyond_its_containers_counts_for_each() {
        let pod = spec(json!({ "resources": { "requests": { "memory": "3Gi" }, "limits": { "memory": "4Gi" } },
            "containers": [{ "name": "a", "resources": { "requests": { "memory": "1Gi" } } }, { "name": "b" }] }));
        let score = |n: usize| container(&pod.containers[n], of(&pod)).unwrap().oom_score_adj;
        assert_eq!((score(0), score(1)), (750, 875), "1 GiB and 0, and 1 GiB more each, of 8");
    }

    #[test]
    fn s20_the_pods_own_cgroup_has_the_sums() {
        let limits = json!({ "cpu": "500m", "memory": "64Mi", "hugepages-2Mi": "2Mi" });
        let one = json!({ "name": "c", "resources": { "limits": limits, "requests": { "cpu": "100m" } } });
        let all = spec(json!({ "containers": [one, one] }));
        let whole = pod(of(&all)).unwrap();
        assert_eq!(
            (whole.cpu_shares, whole.cpu_quota, whole.memory_limit),
            (Some(204), Some(100_000), Some(128 << 20))
        );
        assert_eq!(whole.hugepages, [(2 << 20, 4 << 20)].into());
        let whole = pod(of(&spec(json!({ "containers": [one, { "name": "d" }] })))).unwrap();
        assert_eq!((whole.cpu_shares, whole.cpu_quota, whole.memory_limit), (Some(102), None, None));
        let whole = pod(of(&spec(json!({ "containers": [{ "name": "d" }] })))).unwrap();
        assert_eq!((whole.cpu_shares, whole.cpu_quota, whole.memory_limit), (Some(2), None, None));
    }

    #[test]
    fn s20_limited_swap_is_the_requests_share() {
        let swap = SwapBehavior::LimitedSwap { host_swap: 4 << 30 };
        let rows = [
            ("burstable", json!({ "requests": { "memory": "1Gi" }, "limits": { "memory": "2Gi" } }), 512 << 20),
            ("without a limit", json!({ "requests": { "memory": "1Gi" } }), 512 << 20),
            ("the request is the limit", json!({ "limits": { "memory": "1Gi" } }), 0),
            ("no memory is requested", json!({ "requests": { "cpu": "1" } }), 0),
            ("guaranteed", json!({ "limits": { "memory": "1Gi", "cpu": "1" } }), 0),
            ("best effort", json!({}), 0),
        ];
        for (name, resources, expected) in rows {
            let pod = spec(json!({ "containers": [{ "name": "c", "resources": resources }] }));
            let planned = |swap| container(&pod.containers[0], OfPod { swap, ..of(&pod) }).unwrap().swap;
            assert_eq!((planned(swap), planned(SwapBehavior::NoSwap)), (expected, 0), "{name}");
        }
    }

    #[test]
    fn s20_shares_and_oom_score() {
        for (name, milli, shares) in
            [("none", 0, 2), ("1m", 1, 2), ("100m", 100, 102), ("2 cpu", 2000, 2048), ("huge", 1 << 40, 262_144)]
        {
            assert_eq!(cpu_shares(milli), shares, "{name}");
        }
        const GIB: i64 = 1 << 30;
        let rows = [
            ("guaranteed", QosClass::Guaranteed, GIB, -997),
            ("best effort", QosClass::BestEffort, 0, 1000),
            ("an eighth of memory", QosClass::Burstable, GIB, 875),
            ("cpu only", QosClass::Burstable, 0, 999),
            ("nearly all", QosClass::Burstable, 8 * GIB, 3),
        ];
        for (name, qos, requested, expected) in rows {
            assert_eq!(oom_score_adj(qos, requested, 8 << 30), expected, "{name}");
        }
    }

    #[test]
    fn s20_a_sidecar_is_killed_no_sooner_than_the_app_containers() {
        let requesting = |memory: &str| k8s::Container {
            resources: Some(k8s::ResourceRequirements {
                requests: Some([("memory".to_owned(), Quantity(memory.to_owned()))].into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let rows = [
            ("less than each app container", QosClass::Burstable, "64Mi", &["1Gi", "2Gi"][..], 875),
            ("more than an app container", QosClass::Burstable, "2Gi", &["1Gi", "4Gi"], 750),
            ("an app container requests nothing", QosClass::Burstable, "1Gi", &["0", "2Gi"], 875),
            ("guaranteed", QosClass::Guaranteed, "1Gi", &["1Gi"], -997),
            ("best effort", QosClass::BestEffort, "0", &["0"], 1000),
        ];
        for (name, qos, own, apps, expected) in rows {
            let sidecar = k8s::Container { name: "s".into(), restart_policy: Some("Always".into()), ..requesting(own) };
            let spec = k8s::PodSpec {
                init_containers: Some(vec![sidecar.clone()]),
                containers: apps.iter().copied().map(requesting).collect(),
                ..Default::default()
            };
            let planned = container(&sidecar, OfPod { qos, ..of(&spec) }).unwrap();
            assert_eq!(planned.oom_score_adj, expected, "{name}");
        }
    }

    #[test]
    fn s20_init_containers_count_for_the_qos_class() {
        let limited = |limit: Option<&str>| k8s::Container {
            resources: limit.map(|limit| k8s::ResourceRequirements {
                limits: Some(["cpu", "memory"].map(|name| (name.to_owned(), Quantity(limit.to_owned()))).into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let rows = [
            ("all", Some("1Gi"), Some("1Gi"), QosClass::Guaranteed),
            ("only the app container", None, Some("1Gi"), QosClass::Burstable),
            ("only the init container", Some("1Gi"), None, QosClass::Burstable),
            ("none", None, None, QosClass::BestEffort),
        ];
        for (name, init, app, expected) in rows {
            let spec = k8s::PodSpec {
                init_containers: Some(vec![limited(init)]),
                containers: vec![limited(app)],
                ..Default::default()
            };
            assert_eq!(qos_class(&spec).unwrap(), expected, "{name}");
        }
    }
}
