//! What containers and sandboxes use, from the kernel's own counters: ContainerStats, ListContainerStats, PodSandboxStats,
//! ListPodSandboxStats. Of those that have ended there is nothing to be told.

use super::metrics;
use crate::cgroups::{Cgroup, Pressure, Pressures, Stalled, Stats};
use crate::cri::sandboxes::{self, Container, Sandbox, has_labels};
use crate::cri::{Daemon, api};
use crate::error::{Kind, failure};
use crate::lifecycle::commanded::Stage;
use crate::network::link::Traffic;
use crate::volumes::usage::{self, Extent};
use anyhow::Result;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the writable layers of one call may take to be measured.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was seen last of each cgroup: CPU time in nanoseconds, and when that was. Without it a rate is not known.
#[derive(Default)]
pub(in crate::cri) struct Samples(Mutex<HashMap<String, (i64, u64)>>);

impl Samples {
    /// CPU time per second in nanoseconds, since the call before.
    fn rate(&self, cgroup: &str, now: i64, used: u64) -> Option<u64> {
        let mut samples = self.0.lock().expect("no panic while it is held");
        let (then, before) = samples.insert(cgroup.to_owned(), (now, used))?;
        let elapsed = u64::try_from(now.checked_sub(then)?).ok().filter(|elapsed| *elapsed > 0)?;
        let rate = u128::from(used.checked_sub(before)?) * 1_000_000_000 / u128::from(elapsed);
        u64::try_from(rate).ok()
    }

    /// Forgets what is not there any more: a cgroup has the name of its sandbox or container.
    fn retain(&self, ids: &HashSet<&str>) {
        let is_there = |cgroup: &str| cgroup.rsplit('/').next().is_some_and(|id| ids.contains(id));
        self.0.lock().expect("no panic while it is held").retain(|cgroup, _| is_there(cgroup));
    }
}

/// ContainerStats
pub(in crate::cri) fn container(
    daemon: &Daemon,
    request: &api::ContainerStatsRequest,
) -> Result<api::ContainerStatsResponse> {
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    match of_container(daemon, (&sandbox, &container), Instant::now() + PATIENCE)? {
        Some(stats) => Ok(api::ContainerStatsResponse { stats: Some(stats) }),
        None => Err(failure(Kind::NotReady, format!("container {} does not run", container.id()))),
    }
}

/// ListContainerStats: of those that run, as the API says.
pub(in crate::cri) fn list_containers(
    daemon: &Daemon,
    request: &api::ListContainerStatsRequest,
) -> Result<api::ListContainerStatsResponse> {
    let filter = request.filter.clone().unwrap_or_default();
    let all = sandboxes::list(&daemon.dirs)?;
    let deadline = Instant::now() + PATIENCE;
    let mut stats = Vec::new();
    for sandbox in &all {
        if sandbox.id().starts_with(&filter.pod_sandbox_id) {
            for container in sandbox.containers()? {
                let is_wanted = container.state() == api::ContainerState::ContainerRunning
                    && container.id().starts_with(&filter.id)
                    && has_labels(&container.config.labels, &filter.label_selector);
                if is_wanted {
                    stats.extend(of_container(daemon, (sandbox, &container), deadline)?);
                }
            }
        }
    }
    if filter == api::ContainerStatsFilter::default() {
        forget_gone(daemon, &all);
    }
    Ok(api::ListContainerStatsResponse { stats })
}

/// Keeps samples of these sandboxes and their containers only.
fn forget_gone(daemon: &Daemon, all: &[Sandbox]) {
    let ids = all.iter().flat_map(|sandbox| sandbox.container_ids().chain([sandbox.id()]));
    daemon.samples.retain(&ids.collect());
}

/// PodSandboxStats
pub(in crate::cri) fn sandbox(
    daemon: &Daemon,
    request: &api::PodSandboxStatsRequest,
) -> Result<api::PodSandboxStatsResponse> {
    let sandbox = sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id)?;
    match of_sandbox(daemon, &sandbox, Instant::now() + PATIENCE)? {
        Some(stats) => Ok(api::PodSandboxStatsResponse { stats: Some(stats) }),
        None => Err(sandbox.not_ready()),
    }
}

/// ListPodSandboxStats
pub(in crate::cri) fn list_sandboxes(
    daemon: &Daemon,
    request: &api::ListPodSandboxStatsRequest,
) -> Result<api::ListPodSandboxStatsResponse> {
    let filter = request.filter.clone().unwrap_or_default();
    let all = sandboxes::list(&daemon.dirs)?;
    let deadline = Instant::now() + PATIENCE;
    let mut stats = Vec::new();
    for sandbox in &all {
        let is_wanted =
            sandbox.id().starts_with(&filter.id) && has_labels(&sandbox.config.labels, &filter.label_selector);
        if is_wanted {
            stats.extend(of_sandbox(daemon, sandbox, deadline)?);
        }
    }
    if filter == api::PodSandboxStatsFilter::default() {
        forget_gone(daemon, &all);
    }
    Ok(api::ListPodSandboxStatsResponse { stats })
}

/// What was counted of a cgroup.
struct Counted {
    cgroup: String,
    stats: Stats,
    pressures: Pressures,
    /// Bytes in use, and at most.
    swap: Option<(u64, Option<u64>)>,
}

/// The counters of a cgroup of a sandbox, or with an empty name of the sandbox; `None` if it has ended meanwhile.
fn read(daemon: &Daemon, sandbox: &Sandbox, container: &str) -> Result<Option<Counted>> {
    let path = &sandbox.pod.record.plan.sandbox.cgroup;
    let name = if container.is_empty() { path.pod.clone() } else { format!("{}/{container}", path.pod) };
    let cgroup = Cgroup::at(&daemon.facts.cgroups, &path.parent, &name)?;
    let is_there = || cgroup.dirs().iter().all(|dir| dir.exists());
    let count = || -> Result<Counted> {
        let (stats, pressures, swap) = (cgroup.stats()?, cgroup.pressures()?, cgroup.swap()?);
        Ok(Counted { cgroup: cgroup.path(), stats, pressures, swap })
    };
    match count() {
        Ok(counted) => Ok(Some(counted)),
        Err(_) if !is_there() => Ok(None),
        Err(error) => Err(error),
    }
}

fn of_container(
    daemon: &Daemon,
    (sandbox, container): (&Sandbox, &Container),
    deadline: Instant,
) -> Result<Option<api::ContainerStats>> {
    if container.report.stage == Stage::Exited {
        return Ok(None);
    }
    let Some(counted) = read(daemon, sandbox, container.id())? else { return Ok(None) };
    let now = super::now()?;
    let limit = container.record.config.resources.memory_limit;
    let layer = sandbox.pod.dirs.container_layers(container.id());
    Ok(Some(api::ContainerStats {
        attributes: Some(api::ContainerAttributes {
            id: container.id().to_owned(),
            metadata: Some(container.metadata()),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
        }),
        cpu: cpu(daemon, &counted, now),
        memory: memory(&counted, limit, now),
        writable_layer: Some(writable_layer(daemon, layer, now, deadline)?),
        swap: counted.swap.map(|swap| swap_usage(swap, now)),
        io: io(&counted, now),
    }))
}

fn value(value: u64) -> Option<api::UInt64Value> {
    Some(api::UInt64Value { value })
}

fn cpu(daemon: &Daemon, counted: &Counted, now: i64) -> Option<api::CpuUsage> {
    let used = counted.stats.cpu_usage_usec?.saturating_mul(1000);
    let rate = daemon.samples.rate(&counted.cgroup, now, used);
    Some(api::CpuUsage {
        timestamp: now,
        usage_core_nano_seconds: value(used),
        usage_nano_cores: rate.and_then(value),
        psi: counted.pressures.cpu.map(psi),
    })
}

fn memory(counted: &Counted, limit: Option<i64>, now: i64) -> Option<api::MemoryUsage> {
    let stats = &counted.stats;
    let working_set = stats.memory_working_set?;
    let limit = limit.and_then(|limit| u64::try_from(limit).ok());
    Some(api::MemoryUsage {
        timestamp: now,
        working_set_bytes: value(working_set),
        available_bytes: limit.and_then(|limit| value(limit.saturating_sub(working_set))),
        usage_bytes: stats.memory_current.and_then(value),
        rss_bytes: stats.memory_anonymous.and_then(value),
        page_faults: stats.page_faults.and_then(|(all, _)| value(all)),
        major_page_faults: stats.page_faults.and_then(|(_, major)| value(major)),
        psi: counted.pressures.memory.map(psi),
    })
}

fn swap_usage((used, limit): (u64, Option<u64>), now: i64) -> api::SwapUsage {
    let available = limit.map(|limit| limit.saturating_sub(used));
    api::SwapUsage { timestamp: now, swap_available_bytes: available.and_then(value), swap_usage_bytes: value(used) }
}

fn io(counted: &Counted, now: i64) -> Option<api::IoUsage> {
    counted.pressures.io.map(|pressure| api::IoUsage { timestamp: now, psi: Some(psi(pressure)) })
}

/// In nanoseconds, as the API wants it.
fn psi(pressure: Pressure) -> api::PsiStats {
    let data = |stalled: Stalled| {
        let [avg10, avg60, avg300] = stalled.averages;
        Some(api::PsiData { total: stalled.total.saturating_mul(1000), avg10, avg60, avg300 })
    };
    api::PsiStats { full: data(pressure.full), some: data(pressure.some) }
}

/// Without numbers if it was not measured to its end in time.
fn writable_layer(daemon: &Daemon, layer: PathBuf, now: i64, deadline: Instant) -> Result<api::FilesystemUsage> {
    let patience = deadline.saturating_duration_since(Instant::now());
    let measured = usage::measure(&usage::Request { trees: vec![layer], patience })?;
    let used = measured.first().filter(|used| used.extent != Extent::OutOfTime);
    Ok(api::FilesystemUsage {
        timestamp: now,
        fs_id: Some(api::FilesystemIdentifier { mountpoint: daemon.dirs.root.display().to_string() }),
        used_bytes: used.and_then(|used| value(used.bytes)),
        inodes_used: used.and_then(|used| value(used.inodes)),
    })
}

fn of_sandbox(daemon: &Daemon, sandbox: &Sandbox, deadline: Instant) -> Result<Option<api::PodSandboxStats>> {
    if !sandbox.is_ready() {
        return Ok(None);
    }
    let Some(counted) = read(daemon, sandbox, "")? else { return Ok(None) };
    let now = super::now()?;
    let containers = sandbox.containers()?;
    let mut of_containers = Vec::new();
    for container in &containers {
        of_containers.extend(of_container(daemon, (sandbox, container), deadline)?);
    }
    let linux = api::LinuxPodSandboxStats {
        cpu: cpu(daemon, &counted, now),
        memory: memory(&counted, None, now),
        network: metrics::traffic(daemon, sandbox)?.map(|links| network(links, now)),
        process: Some(api::ProcessUsage { timestamp: now, process_count: counted.stats.pids.and_then(value) }),
        containers: of_containers,
        io: io(&counted, now),
    };
    Ok(Some(api::PodSandboxStats {
        attributes: Some(api::PodSandboxAttributes {
            id: sandbox.id().to_owned(),
            metadata: Some(sandbox.metadata()),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    }))
}

/// By link; the default one is the one that a CRI runtime calls eth0.
fn network(links: Vec<Traffic>, now: i64) -> api::NetworkUsage {
    let link = |link: Traffic| api::NetworkInterfaceUsage {
        name: link.name,
        rx_bytes: value(link.received.bytes),
        rx_errors: value(link.received.errors),
        tx_bytes: value(link.sent.bytes),
        tx_errors: value(link.sent.errors),
    };
    let mut interfaces: Vec<_> = links.into_iter().map(link).collect();
    let default = interfaces.iter().position(|link| link.name == "eth0").map(|at| interfaces.remove(at));
    api::NetworkUsage { timestamp: now, default_interface: default, interfaces }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::link::Carried;

    #[test]
    fn a_rate_takes_two_samples() {
        let samples = Samples::default();
        assert_eq!(samples.rate("a", 1_000_000_000, 5_000), None);
        assert_eq!(samples.rate("a", 3_000_000_000, 1_000_005_000), Some(500_000_000), "half of a CPU");
        assert_eq!(samples.rate("a", 3_000_000_000, 1_000_005_000), None, "no time has passed");
        assert_eq!(samples.rate("a", 4_000_000_000, 7), None, "another cgroup of the same name");
        samples.retain(&HashSet::new());
        assert_eq!(samples.rate("a", 5_000_000_000, 8), None);
    }

    #[test]
    fn samples_are_kept_of_what_is_there() {
        let samples = Samples::default();
        let [pod, container, gone] = ["/k/podshim/p1", "/k/podshim/p1/c1", "/k/podshim/p1/c2"];
        for cgroup in [pod, container, gone] {
            assert_eq!(samples.rate(cgroup, 1_000_000_000, 1), None);
        }
        samples.retain(&["p1", "c1", "2"].into());
        let rates = [pod, container, gone].map(|cgroup| samples.rate(cgroup, 2_000_000_000, 2));
        assert_eq!(rates, [Some(1), Some(1), None]);
    }

    #[test]
    fn the_default_link_stands_apart() {
        let link = |name: &str| Traffic {
            name: name.to_owned(),
            received: Carried { bytes: 1, packets: 2, errors: 3, dropped: 4 },
            sent: Carried { bytes: 9, packets: 10, errors: 11, dropped: 12 },
        };
        let found = network(vec![link("net1"), link("eth0")], 7);
        let names: Vec<_> = found.interfaces.iter().map(|link| &*link.name).collect();
        let default = found.default_interface.unwrap();
        let numbers = [default.rx_bytes, default.rx_errors, default.tx_bytes, default.tx_errors];
        assert_eq!((names, &*default.name, numbers.map(|n| n.unwrap().value)), (vec!["net1"], "eth0", [1, 3, 9, 11]));
        assert_eq!(network(vec![link("net1")], 7).default_interface, None);
    }

    #[test]
    fn pressure_and_swap() {
        let some = Stalled { total: 5, averages: [1.0, 2.0, 3.0] };
        let found = psi(Pressure { some, full: Stalled::default() });
        let expected = api::PsiData { total: 5000, avg10: 1.0, avg60: 2.0, avg300: 3.0 };
        assert_eq!((found.some, found.full), (Some(expected), Some(api::PsiData::default())));
        for (name, swap, available) in
            [("a limit", (10, Some(30)), Some(20)), ("over it", (10, Some(5)), Some(0)), ("no limit", (10, None), None)]
        {
            let found = swap_usage(swap, 7);
            assert_eq!(found.swap_available_bytes.map(|bytes| bytes.value), available, "{name}");
            assert_eq!((found.timestamp, found.swap_usage_bytes), (7, value(10)), "{name}");
        }
    }
}
