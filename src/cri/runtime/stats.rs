//! What containers and sandboxes use, from the kernel's own counters: ContainerStats, ListContainerStats, PodSandboxStats,
//! ListPodSandboxStats. Of those that have ended there is nothing to be told.

use crate::cgroups::{Cgroup, Stats};
use crate::cri::sandboxes::{self, Container, Sandbox, has_labels};
use crate::cri::{Daemon, api};
use crate::error::{Kind, failure};
use crate::lifecycle::commanded::Stage;
use crate::volumes::usage;
use anyhow::Result;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

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

    /// Forgets what is not there any more.
    fn retain(&self, there: impl Fn(&str) -> bool) {
        self.0.lock().expect("no panic while it is held").retain(|cgroup, _| there(cgroup));
    }
}

/// ContainerStats
pub(in crate::cri) fn container(
    daemon: &Daemon,
    request: &api::ContainerStatsRequest,
) -> Result<api::ContainerStatsResponse> {
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    match of_container(daemon, &sandbox, &container)? {
        Some(stats) => Ok(api::ContainerStatsResponse { stats: Some(stats) }),
        None => Err(failure(Kind::NotReady, format!("container {} does not run", container.id()))),
    }
}

/// ListContainerStats
pub(in crate::cri) fn list_containers(
    daemon: &Daemon,
    request: &api::ListContainerStatsRequest,
) -> Result<api::ListContainerStatsResponse> {
    let filter = request.filter.clone().unwrap_or_default();
    let mut stats = Vec::new();
    for sandbox in sandboxes::list(&daemon.dirs)? {
        if sandbox.id().starts_with(&filter.pod_sandbox_id) {
            for container in sandbox.containers()? {
                let is_wanted = container.id().starts_with(&filter.id)
                    && has_labels(&container.config.labels, &filter.label_selector);
                if is_wanted {
                    stats.extend(of_container(daemon, &sandbox, &container)?);
                }
            }
        }
    }
    if filter == api::ContainerStatsFilter::default() {
        let there =
            |cgroup: &str| stats.iter().any(|s| s.attributes.as_ref().is_some_and(|of| cgroup.ends_with(&of.id)));
        daemon.samples.retain(there);
    }
    Ok(api::ListContainerStatsResponse { stats })
}

/// PodSandboxStats
pub(in crate::cri) fn sandbox(
    daemon: &Daemon,
    request: &api::PodSandboxStatsRequest,
) -> Result<api::PodSandboxStatsResponse> {
    let sandbox = sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id)?;
    match of_sandbox(daemon, &sandbox)? {
        Some(stats) => Ok(api::PodSandboxStatsResponse { stats: Some(stats) }),
        None => Err(failure(Kind::NotReady, format!("sandbox {} is not ready", sandbox.id()))),
    }
}

/// ListPodSandboxStats
pub(in crate::cri) fn list_sandboxes(
    daemon: &Daemon,
    request: &api::ListPodSandboxStatsRequest,
) -> Result<api::ListPodSandboxStatsResponse> {
    let filter = request.filter.clone().unwrap_or_default();
    let mut stats = Vec::new();
    for sandbox in sandboxes::list(&daemon.dirs)? {
        let is_wanted =
            sandbox.id().starts_with(&filter.id) && has_labels(&sandbox.config.labels, &filter.label_selector);
        if is_wanted {
            stats.extend(of_sandbox(daemon, &sandbox)?);
        }
    }
    Ok(api::ListPodSandboxStatsResponse { stats })
}

/// The counters of a cgroup of a sandbox, or with an empty name of the sandbox; `None` if it has ended meanwhile.
fn read(daemon: &Daemon, sandbox: &Sandbox, container: &str) -> Result<Option<(Cgroup, Stats)>> {
    let path = &sandbox.pod.record.plan.sandbox.cgroup;
    let name = if container.is_empty() { path.pod.clone() } else { format!("{}/{container}", path.pod) };
    let cgroup = Cgroup::at(&daemon.facts.cgroups, &path.parent, &name)?;
    let is_there = || cgroup.dirs().iter().all(|dir| dir.exists());
    match cgroup.stats() {
        Ok(stats) => Ok(Some((cgroup, stats))),
        Err(_) if !is_there() => Ok(None),
        Err(error) => Err(error),
    }
}

fn of_container(daemon: &Daemon, sandbox: &Sandbox, container: &Container) -> Result<Option<api::ContainerStats>> {
    if container.report.stage == Stage::Exited {
        return Ok(None);
    }
    let Some((cgroup, stats)) = read(daemon, sandbox, container.id())? else { return Ok(None) };
    let now = super::now()?;
    let limit = container.record.config.resources.memory_limit;
    Ok(Some(api::ContainerStats {
        attributes: Some(api::ContainerAttributes {
            id: container.id().to_owned(),
            metadata: Some(container.metadata()),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
        }),
        cpu: cpu(daemon, (&cgroup, &stats), now),
        memory: memory(&stats, limit, now),
        writable_layer: Some(writable_layer(daemon, sandbox, container, now)?),
        swap: None,
        io: None,
    }))
}

fn value(value: u64) -> Option<api::UInt64Value> {
    Some(api::UInt64Value { value })
}

fn cpu(daemon: &Daemon, (cgroup, stats): (&Cgroup, &Stats), now: i64) -> Option<api::CpuUsage> {
    let used = stats.cpu_usage_usec?.saturating_mul(1000);
    let rate = daemon.samples.rate(&cgroup.path(), now, used);
    Some(api::CpuUsage {
        timestamp: now,
        usage_core_nano_seconds: value(used),
        usage_nano_cores: rate.and_then(value),
        psi: None,
    })
}

fn memory(stats: &Stats, limit: Option<i64>, now: i64) -> Option<api::MemoryUsage> {
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
        psi: None,
    })
}

fn writable_layer(daemon: &Daemon, sandbox: &Sandbox, container: &Container, now: i64) -> Result<api::FilesystemUsage> {
    let layer = sandbox.pod.dirs.container_layers(container.id());
    let measured = usage::measure(&usage::Request { trees: vec![layer], patience: PATIENCE })?;
    let used = measured.first();
    Ok(api::FilesystemUsage {
        timestamp: now,
        fs_id: Some(api::FilesystemIdentifier { mountpoint: daemon.dirs.root.display().to_string() }),
        used_bytes: used.and_then(|used| value(used.bytes)),
        inodes_used: used.and_then(|used| value(used.inodes)),
    })
}

fn of_sandbox(daemon: &Daemon, sandbox: &Sandbox) -> Result<Option<api::PodSandboxStats>> {
    if !sandbox.is_ready() {
        return Ok(None);
    }
    let Some((cgroup, stats)) = read(daemon, sandbox, "")? else { return Ok(None) };
    let now = super::now()?;
    let containers = sandbox.containers()?;
    let mut of_containers = Vec::new();
    for container in &containers {
        of_containers.extend(of_container(daemon, sandbox, container)?);
    }
    let linux = api::LinuxPodSandboxStats {
        cpu: cpu(daemon, (&cgroup, &stats), now),
        memory: memory(&stats, None, now),
        network: containers.iter().find_map(|container| network(container, now)),
        process: Some(api::ProcessUsage { timestamp: now, process_count: stats.pids.and_then(value) }),
        containers: of_containers,
        io: None,
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

/// The counters of the network that a container is in, as its processes see them (proc_pid_net(5)).
fn network(container: &Container, now: i64) -> Option<api::NetworkUsage> {
    let text = std::fs::read_to_string(format!("/proc/{}/net/dev", container.report.pid?)).ok()?;
    let mut links: Vec<api::NetworkInterfaceUsage> = text.lines().filter_map(link).collect();
    let default = links.iter().position(|link| link.name == "eth0");
    Some(api::NetworkUsage { timestamp: now, default_interface: default.map(|at| links.remove(at)), interfaces: links })
}

/// A line of /proc/net/dev: name, eight numbers of what came, eight of what went. Loopback is nobody's traffic.
fn link(line: &str) -> Option<api::NetworkInterfaceUsage> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [rx_bytes, _, rx_errors, _, _, _, _, _, tx_bytes, _, tx_errors, ..] = numbers[..] else { return None };
    let name = name.trim().to_owned();
    (name != "lo").then(|| api::NetworkInterfaceUsage {
        name,
        rx_bytes: value(rx_bytes),
        rx_errors: value(rx_errors),
        tx_bytes: value(tx_bytes),
        tx_errors: value(tx_errors),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_takes_two_samples() {
        let samples = Samples::default();
        assert_eq!(samples.rate("a", 1_000_000_000, 5_000), None);
        assert_eq!(samples.rate("a", 3_000_000_000, 1_000_005_000), Some(500_000_000), "half of a CPU");
        assert_eq!(samples.rate("a", 3_000_000_000, 1_000_005_000), None, "no time has passed");
        assert_eq!(samples.rate("a", 4_000_000_000, 7), None, "another cgroup of the same name");
        samples.retain(|_| false);
        assert_eq!(samples.rate("a", 5_000_000_000, 8), None);
    }

    #[test]
    fn lines_of_proc_net_dev() {
        let found = link("  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16").unwrap();
        let numbers = [found.rx_bytes, found.rx_errors, found.tx_bytes, found.tx_errors].map(|n| n.unwrap().value);
        assert_eq!((&*found.name, numbers), ("eth0", [1, 3, 9, 11]));
        for line in ["    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "face |bytes", "eth0: 1 2", "eth0: x"] {
            assert_eq!(link(line), None, "{line}");
        }
    }
}
