//! Requests and limits → cgroup numbers, QoS class and oom_score_adj, by the kubelet's arithmetic (pod-api.md §20;
//! pkg/kubelet/cm/helpers_linux.go, pkg/kubelet/qos/policy.go).

use super::config::LinuxContainerResources;
use crate::manifest::quantity;
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

struct Amounts {
    requested: Option<i64>,
    limit: Option<i64>,
}

fn amounts(container: &k8s::Container, resource: &str) -> Result<Amounts> {
    let convert = if resource == "cpu" { quantity::milli } else { quantity::bytes };
    let read = |list: Option<&std::collections::BTreeMap<String, Quantity>>| {
        list.and_then(|l| l.get(resource)).map(convert).transpose().with_context(|| format!("resources: {resource}"))
    };
    let resources = container.resources.as_ref();
    let limit = read(resources.and_then(|r| r.limits.as_ref()))?;
    // A limit without a request is the request too (API defaulting).
    let requested = read(resources.and_then(|r| r.requests.as_ref()))?.or(limit);
    Ok(Amounts { requested, limit })
}

/// The pod's QoS class, over app and init containers.
pub fn qos_class(spec: &k8s::PodSpec) -> Result<QosClass> {
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for resource in ["cpu", "memory"] {
            let amounts = amounts(container, resource)?;
            let set = |n: Option<i64>| n.filter(|n| *n > 0);
            any |= set(amounts.requested).is_some() || set(amounts.limit).is_some();
            guaranteed &= set(amounts.limit).is_some() && amounts.limit == amounts.requested;
        }
    }
    Ok(match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    })
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

/// A sidecar's `oom_score_adj`, given its `own`: no higher than that of the app container with the smallest request, so that
/// it is not killed in the place of those that it serves.
pub fn sidecar_oom_score_adj(own: i32, spec: &k8s::PodSpec, (qos, host_memory): (QosClass, u64)) -> Result<i32> {
    let mut least = i64::MAX;
    for container in &spec.containers {
        least = least.min(amounts(container, "memory")?.requested.unwrap_or(0));
    }
    Ok(own.min(oom_score_adj(qos, least, host_memory)))
}

const CPU_PERIOD_MICROSECONDS: i64 = 100_000;
const MINIMUM_QUOTA_MICROSECONDS: i64 = 1_000;

/// A container's cgroup numbers.
pub fn container(container: &k8s::Container, qos: QosClass, host_memory: u64) -> Result<LinuxContainerResources> {
    let cpu = amounts(container, "cpu")?;
    let memory = amounts(container, "memory")?;
    let quota = |milli: i64| (milli * CPU_PERIOD_MICROSECONDS / 1000).max(MINIMUM_QUOTA_MICROSECONDS);
    let limited = cpu.limit.filter(|milli| *milli > 0);
    Ok(LinuxContainerResources {
        cpu_shares: Some(cpu_shares(cpu.requested.unwrap_or(0))),
        cpu_quota: limited.map(quota),
        cpu_period: limited.map(|_| CPU_PERIOD_MICROSECONDS as u64),
        memory_limit: memory.limit.filter(|bytes| *bytes > 0),
        pids_limit: None,
        oom_score_adj: oom_score_adj(qos, memory.requested.unwrap_or(0), host_memory),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let spec =
                k8s::PodSpec { containers: apps.iter().copied().map(requesting).collect(), ..Default::default() };
            let own = container(&requesting(own), qos, 8 << 30).unwrap().oom_score_adj;
            assert_eq!(sidecar_oom_score_adj(own, &spec, (qos, 8 << 30)).unwrap(), expected, "{name}");
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
