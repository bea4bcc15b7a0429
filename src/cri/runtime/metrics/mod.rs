//! ListMetricDescriptors, ListPodSandboxMetrics: what a kubelet serves as `/metrics/cadvisor`, with cAdvisor's names, units and
//! labels, from the kernel's own counters at the moment of the call. What the host does not count is not there.
//!
//! | file | content |
//! |---|---|
//! | `table` | each metric of a container: name, help, labels, and where its values come from |
//! | `disk` | the file system of writable layers; names of devices |
//! | `processes` | the descriptors and limits of a container's processes |

mod disk;
mod processes;
mod table;
#[cfg(test)]
mod tests;

use crate::cgroups::{Cgroup, Counters};
use crate::cri::sandboxes::{self, Container, Sandbox};
use crate::cri::{Daemon, api};
use crate::lifecycle::commanded::Stage;
use crate::network::link::{Socket, Traffic};
use crate::plan::config::NetworkMode;
use crate::runtime;
use anyhow::{Context, Result};
use disk::FileSystem;
use processes::Processes;
use std::time::{Duration, Instant};
use table::{Row, Value};

/// How long the writable layers of one call may take to be measured.
const PATIENCE_WITH_LAYERS: Duration = Duration::from_secs(2);
/// How long the descriptors of processes may take to be counted: a container may have millions of them.
const PATIENCE_WITH_DESCRIPTORS: Duration = Duration::from_secs(1);

/// The labels that all metrics have, as a kubelet's cAdvisor does: `id` is the cgroup, `name` the container's id.
const LABELS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];

/// What is known of a container at one moment.
struct Observed {
    counters: Counters,
    oom_kills: u64,
    processes: Option<Processes>,
    /// What its writable layer takes in bytes.
    written: Option<u64>,
    file_system: FileSystem,
    /// Seconds since the epoch.
    started_at: Option<u64>,
    /// Likewise.
    now: u64,
}

/// ListMetricDescriptors
pub(in crate::cri) fn descriptors(
    _: &Daemon,
    _: &api::ListMetricDescriptorsRequest,
) -> Result<api::ListMetricDescriptorsResponse> {
    let of_containers = table::OF_CONTAINERS.iter().map(|row| descriptor(row.name, row.help, row.labels));
    let of_sandboxes = table::OF_SANDBOXES.iter().map(|row| descriptor(row.name, row.help, row.labels));
    Ok(api::ListMetricDescriptorsResponse { descriptors: of_containers.chain(of_sandboxes).collect() })
}

fn descriptor(name: &str, help: &str, labels: &[&str]) -> api::MetricDescriptor {
    let label_keys = LABELS.iter().chain(labels).map(|label| (*label).to_owned()).collect();
    api::MetricDescriptor { name: name.to_owned(), help: help.to_owned(), label_keys }
}

/// ListPodSandboxMetrics
pub(in crate::cri) fn list(
    daemon: &Daemon,
    _: &api::ListPodSandboxMetricsRequest,
) -> Result<api::ListPodSandboxMetricsResponse> {
    Ok(api::ListPodSandboxMetricsResponse { pod_metrics: items(daemon)? })
}

/// Of the sandboxes that are ready, with their containers that run.
pub(in crate::cri) fn items(daemon: &Daemon) -> Result<Vec<api::PodSandboxMetrics>> {
    let mut sandboxes = sandboxes::list(&daemon.dirs)?;
    sandboxes.retain(|sandbox| sandbox.is_ready() && !daemon.plugins.hides(sandbox.id()));
    let mut running = Vec::new();
    for sandbox in &sandboxes {
        let mut containers = sandbox.containers()?;
        containers.retain(|container| container.report.stage == Stage::Running);
        running.push(containers);
    }
    let all = sandboxes.iter().zip(&running).flat_map(|(sandbox, of)| of.iter().map(move |c| (sandbox, c)));
    let layers = all.map(|(sandbox, container)| sandbox.pod.dirs.container_layers(container.id())).collect();
    let mut written = disk::written(layers, PATIENCE_WITH_LAYERS)?.into_iter();
    let file_system = FileSystem::of(&daemon.dirs.root)?;
    let deadline = Instant::now() + PATIENCE_WITH_DESCRIPTORS;
    let mut metrics = Vec::new();
    for (sandbox, containers) in sandboxes.iter().zip(&running) {
        let mut of_containers = Vec::new();
        for container in containers {
            let disk = (written.next().flatten(), file_system.clone());
            of_containers.extend(of_container(daemon, (sandbox, container), disk, deadline)?);
        }
        metrics.push(api::PodSandboxMetrics {
            pod_sandbox_id: sandbox.id().to_owned(),
            metrics: of_sandbox(daemon, sandbox)?,
            container_metrics: of_containers,
        });
    }
    Ok(metrics)
}

/// A cgroup of a sandbox, or of a container of it.
fn cgroup(daemon: &Daemon, sandbox: &Sandbox, container: Option<&Container>) -> Result<Cgroup> {
    let path = &sandbox.pod.record.plan.sandbox.cgroup;
    let name = match container {
        Some(container) => format!("{}/{}", path.pod, container.id()),
        None => path.pod.clone(),
    };
    Cgroup::at(&daemon.facts.cgroups, &path.parent, &name)
}

/// `None` if it has ended meanwhile.
fn of_container(
    daemon: &Daemon,
    (sandbox, container): (&Sandbox, &Container),
    (written, file_system): (Option<u64>, FileSystem),
    deadline: Instant,
) -> Result<Option<api::ContainerMetrics>> {
    let cgroup = cgroup(daemon, sandbox, Some(container))?;
    let observe = || -> Result<Observed> {
        let seconds = |nanoseconds: i64| u64::try_from(nanoseconds / 1_000_000_000).ok();
        Ok(Observed {
            counters: cgroup.counters()?,
            oom_kills: cgroup.oom_kills()?,
            processes: Processes::of(&cgroup, container.report.pid, deadline)?,
            written,
            file_system,
            started_at: seconds(container.report.started_at).filter(|at| *at > 0),
            now: seconds(super::now()?).context("the clock is before 1970")?,
        })
    };
    let observed = match observe() {
        Err(_) if !cgroup.dirs().iter().all(|dir| dir.exists()) => return Ok(None),
        other => other?,
    };
    let metadata = sandbox.metadata();
    let image = &container.record.image.reference;
    let container_name = container.metadata().name;
    let labels = [&cgroup.path(), container.id(), image, &container_name, &metadata.name, &metadata.namespace];
    let metrics = metrics(table::OF_CONTAINERS, labels, &observed);
    Ok(Some(api::ContainerMetrics { container_id: container.id().to_owned(), metrics }))
}

/// The sandbox's network; one with the host's has none of its own.
fn of_sandbox(daemon: &Daemon, sandbox: &Sandbox) -> Result<Vec<api::Metric>> {
    let Some(traffic) = traffic(daemon, sandbox)? else { return Ok(Vec::new()) };
    let metadata = sandbox.metadata();
    let path = cgroup(daemon, sandbox, None)?.path();
    let labels = [&path, sandbox.id(), "", "", &metadata.name, &metadata.namespace];
    Ok(metrics(table::OF_SANDBOXES, labels, &traffic))
}

/// What went over the links of a sandbox; `None` with the host's network, or if it has ended meanwhile.
pub(super) fn traffic(daemon: &Daemon, sandbox: &Sandbox) -> Result<Option<Vec<Traffic>>> {
    if sandbox.pod.record.plan.sandbox.namespaces.network == NetworkMode::Host {
        return Ok(None);
    }
    let pin = sandbox.pod.dirs.namespace("net");
    let count = || -> Result<Vec<Traffic>> {
        let namespace = runtime::open_namespace(&pin)?;
        Ok(Socket::in_namespace(std::os::fd::AsFd::as_fd(&namespace))?.traffic()?)
    };
    match count() {
        Err(_) if !sandboxes::sandbox(&daemon.dirs, sandbox.id()).is_ok_and(|now| now.is_ready()) => Ok(None),
        other => other.map(Some).with_context(|| format!("the network of sandbox {}", sandbox.id())),
    }
}

/// All values of a table. They are of this moment, which a time of 0 says.
fn metrics<T>(rows: &[Row<T>], labels: [&str; LABELS.len()], of: &T) -> Vec<api::Metric> {
    let metric = |row: &Row<T>, value: Value| api::Metric {
        name: row.name.to_owned(),
        timestamp: 0,
        metric_type: row.kind as i32,
        label_values: labels.iter().map(|label| (*label).to_owned()).chain(value.labels).collect(),
        value: Some(api::UInt64Value { value: value.value }),
    };
    rows.iter().flat_map(|row| (row.values)(of).into_iter().map(move |value| metric(row, value))).collect()
}
