//! Gathers a [`Survey`]: from the store what was planned and reported, from the kernel what there is.
//!
//! Each thing is looked at on its own: what cannot be found out, for example because a process ended in this moment, is left out
//! or said in the pod's list `missing`, and the rest is shown.

mod mounts;
mod network;
mod processes;
mod timeline;

use super::model::*;
use super::text::plain;
use crate::cgroups;
use crate::host::cgroup::{self, CgroupSetup, Mode};
use crate::lifecycle::status::{ContainerState, PodStatus, Time};
use crate::plan::config::{ContainerConfig, ContainerKind, VolumePlan, VolumeSource};
use crate::store;
use crate::sys::{Called, SysResult};
use anyhow::Result;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the use of CPUs is measured.
const MEASURED: Duration = Duration::from_millis(250);
/// The longest name, path or reason, in characters.
const NAME: usize = 256;
/// The longest message of an event.
const MESSAGE: usize = 500;
/// How many events are kept, the latest.
const EVENTS: usize = 40;

/// Looks at pods.
///
/// # Errors
/// If the host's own facts cannot be read, or a pod's files are damaged.
pub fn take(pods: &[store::Pod]) -> Result<Survey> {
    let setup = cgroup::detect()?;
    let host = host(&setup)?;
    let before = Instant::now();
    let used_before: Vec<Vec<Option<u64>>> = pods.iter().map(|pod| cpu_used(pod, &setup)).collect::<Result<_>>()?;
    std::thread::sleep(MEASURED);
    let micros = before.elapsed().as_micros().max(1);
    let used_after: Vec<Vec<Option<u64>>> = pods.iter().map(|pod| cpu_used(pod, &setup)).collect::<Result<_>>()?;
    let mut found = Vec::new();
    for (pod, (before, after)) in pods.iter().zip(used_before.iter().zip(&used_after)) {
        let rate = |(before, after): (&Option<u64>, &Option<u64>)| {
            let used = (*after)?.checked_sub((*before)?)?;
            u64::try_from(u128::from(used) * 1000 / micros).ok()
        };
        let rates: Vec<Option<u64>> = before.iter().zip(after).map(rate).collect();
        found.push(Look { pod, setup: &setup, rates }.pod()?);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Survey { taken: Time::from(now), host, pods: found })
}

fn host(setup: &CgroupSetup) -> Result<Host> {
    let read = |path: &str| -> SysResult<String> {
        let text = std::fs::read_to_string(path).called("read", path)?;
        Ok(plain(text.trim(), NAME))
    };
    let cgroups = match setup.mode {
        Mode::V1 => "v1",
        Mode::V2 => "v2",
        Mode::Hybrid => "hybrid",
    };
    Ok(Host {
        name: read("/proc/sys/kernel/hostname")?,
        kernel: read("/proc/sys/kernel/osrelease")?,
        cgroups: cgroups.to_owned(),
        namespaces: processes::namespaces(Path::new("/proc/self/ns")),
    })
}

/// The CPU time that the pod's cgroup and those of its containers have used so far, in microseconds.
fn cpu_used(pod: &store::Pod, setup: &CgroupSetup) -> Result<Vec<Option<u64>>> {
    let names = std::iter::once("").chain(pod.record.plan.containers.iter().map(|c| c.name.as_str()));
    names
        .map(|name| {
            let cgroup = cgroup_of(pod, setup, name)?;
            Ok(if exists(&cgroup) { cgroup.stats().ok().and_then(|stats| stats.cpu_usage_usec) } else { None })
        })
        .collect()
}

/// The cgroup of a container, or with an empty name of the pod.
fn cgroup_of(pod: &store::Pod, setup: &CgroupSetup, container: &str) -> Result<cgroups::Cgroup> {
    let path = &pod.record.plan.sandbox.cgroup;
    let name = if container.is_empty() { path.pod.clone() } else { format!("{}/{container}", path.pod) };
    cgroups::Cgroup::at(setup, &path.parent, &name)
}

fn exists(cgroup: &cgroups::Cgroup) -> bool {
    cgroup.dirs().iter().any(|dir| dir.exists())
}

/// One pod that is looked at.
struct Look<'a> {
    pod: &'a store::Pod,
    setup: &'a CgroupSetup,
    /// Thousandths of a CPU, of the pod and of its containers.
    rates: Vec<Option<u64>>,
}

impl Look<'_> {
    fn pod(&self) -> Result<Pod> {
        let (plan, report) = (&self.pod.record.plan, self.pod.report()?);
        let sandbox = &plan.sandbox;
        let status = report.as_ref().map(|report| &report.status);
        let mut missing = Vec::new();
        let mut containers = Vec::new();
        for (index, config) in plan.containers.iter().enumerate() {
            containers.push(self.container((index, config), status, &mut missing)?);
        }
        let supervisor = match (self.pod.is_supervised(), self.pod.is_unsupervised()?) {
            (true, _) => Supervisor::Alive,
            (false, true) => Supervisor::Gone,
            (false, false) => Supervisor::Over,
        };
        let own = cgroup_of(self.pod, self.setup, "")?;
        // What is of a container is shown there.
        let mut of_containers = BTreeSet::new();
        for config in &plan.containers {
            of_containers.extend(cgroup_of(self.pod, self.setup, &config.name)?.pids()?);
        }
        let processes = processes::of(&own.pids()?.difference(&of_containers).copied().collect());
        let timeline = timeline::spans(self.pod, status, &containers);
        Ok(Pod {
            namespace: plain(&sandbox.namespace, NAME),
            name: plain(&sandbox.name, NAME),
            uid: plain(&sandbox.uid, NAME),
            phase: status.map_or(String::new(), |status| status.phase.as_str().to_owned()),
            supervisor,
            qos: plain(&plan.qos_class, NAME),
            hostname: plain(&sandbox.hostname, NAME),
            pins: self.pins(),
            ids: sandbox.id_range.map(|range| (range.first, range.size)),
            processes,
            containers,
            network: network::of(self.pod, &mut missing),
            volumes: plan.volumes.iter().map(|volume| self.volume(volume)).collect(),
            cgroup: self.cgroup(&own, 0)?,
            timeline,
            events: timeline::events(self.pod, EVENTS, MESSAGE)?,
            missing,
        })
    }

    /// What is pinned, which a plain file in the place of a pin is not.
    fn pins(&self) -> Namespaces {
        let kernels_own = std::fs::metadata("/proc/self/ns/net").map(|own| own.dev());
        let pinned = |kind: Kind| {
            let found = std::fs::metadata(self.pod.dirs.namespace(kind.file())).ok()?;
            kernels_own.as_ref().is_ok_and(|device| *device == found.dev()).then(|| (kind, found.ino()))
        };
        Kind::ALL.into_iter().filter_map(pinned).collect()
    }

    fn container(
        &self,
        (index, config): (usize, &ContainerConfig),
        status: Option<&PodStatus>,
        missing: &mut Vec<String>,
    ) -> Result<Container> {
        let status = status.and_then(|status| {
            let all =
                [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
            all.into_iter().flatten().find(|of| of.name == config.name)
        });
        let cgroup = cgroup_of(self.pod, self.setup, &config.name)?;
        let processes = processes::of(&cgroup.pids()?);
        let namespaces = processes.shown.first().map(|first| first.namespaces.clone()).unwrap_or_default();
        let mounts = match processes.shown.first() {
            // With the host's pid namespace too, the file is of the process's own mount namespace.
            Some(first) => mounts::of(first.pid, config).unwrap_or_else(|error| {
                missing.push(plain(&format!("mounts of container {}: {error}", config.name), MESSAGE));
                Mounts::default()
            }),
            None => Mounts::default(),
        };
        let image = self.pod.record.images.get(index);
        let layer = |path: &std::path::PathBuf| Layer {
            id: plain(&path.file_name().unwrap_or_default().to_string_lossy(), NAME),
            path: plain(&path.display().to_string(), NAME),
        };
        let restart_count = status.map_or(0, |status| status.restart_count);
        Ok(Container {
            name: plain(&config.name, NAME),
            kind: kind(config.kind).to_owned(),
            state: state(status.map(|status| &status.state)),
            ready: status.is_some_and(|status| status.ready),
            restart_count,
            image: plain(&config.image, NAME),
            layers: image.map(|image| image.layers.iter().map(layer).collect()).unwrap_or_default(),
            writable: plain(&self.pod.dirs.container_data(&config.name, restart_count).display().to_string(), NAME),
            processes,
            namespaces,
            mounts,
            cgroup: self.cgroup(&cgroup, index + 1)?,
        })
    }

    fn cgroup(&self, cgroup: &cgroups::Cgroup, rate: usize) -> Result<Cgroup> {
        if !exists(cgroup) {
            return Ok(Cgroup::default());
        }
        let stats = match cgroup.stats() {
            Ok(stats) => stats,
            // Removed in this moment.
            Err(_) if !cgroup.dirs().iter().all(|dir| dir.exists()) => return Ok(Cgroup::default()),
            Err(error) => return Err(error),
        };
        let limits = cgroup.limits()?;
        let usage = |used: Option<u64>, limit: cgroups::Limit| Usage {
            used,
            limit: limit.value,
            files: limit
                .files
                .into_iter()
                .map(|(path, text)| (path.display().to_string(), plain(&text, NAME)))
                .collect(),
        };
        Ok(Cgroup {
            path: cgroup.path(),
            cpu: usage(self.rates.get(rate).copied().flatten(), limits.cpu),
            memory: usage(stats.memory_current, limits.memory),
            pids: usage(stats.pids, limits.pids),
        })
    }

    fn volume(&self, volume: &VolumePlan) -> Volume {
        let with_pod = || self.pod.dirs.volume(&volume.name).display().to_string();
        let claim = |name: &str| {
            let sandbox = &self.pod.record.plan.sandbox;
            self.pod.record.dirs.claim(&sandbox.namespace, name).display().to_string()
        };
        let (kind, source) = match &volume.source {
            VolumeSource::HostPath { path, .. } => ("hostPath", path.display().to_string()),
            VolumeSource::EmptyDir { .. } => ("emptyDir", with_pod()),
            VolumeSource::Memory { .. } => ("emptyDir in memory", with_pod()),
            VolumeSource::HugePages { .. } => ("emptyDir of huge pages", with_pod()),
            VolumeSource::Files(_) => ("files of podshim", with_pod()),
            VolumeSource::Claim { name, .. } => ("persistentVolumeClaim", claim(name)),
            VolumeSource::Ephemeral { .. } => ("ephemeral", with_pod()),
            VolumeSource::Image { reference, .. } => ("image", reference.clone()),
        };
        Volume { name: plain(&volume.name, NAME), kind: kind.to_owned(), source: plain(&source, NAME) }
    }
}

fn kind(kind: ContainerKind) -> &'static str {
    match kind {
        ContainerKind::Init => "init",
        ContainerKind::Sidecar => "sidecar",
        ContainerKind::App => "app",
        ContainerKind::Ephemeral => "ephemeral",
    }
}

fn state(state: Option<&ContainerState>) -> State {
    match state {
        Some(ContainerState { running: Some(_), .. }) => State::Running,
        Some(ContainerState { terminated: Some(ended), .. }) => {
            State::Terminated { exit_code: ended.exit_code, reason: plain(&ended.reason, NAME) }
        }
        Some(ContainerState { waiting: Some(waiting), .. }) => State::Waiting { reason: plain(&waiting.reason, NAME) },
        _ => State::Waiting { reason: String::new() },
    }
}
