//! What changes about a pod that runs: ephemeral containers that join it, and what `podshim apply` changes in place.

use super::pod::{Supervisor, container_spec};
use super::remove;
use super::slot::Slot;
use crate::control::{Joining, Updating};
use crate::error::{Kind, failure};
use crate::lifecycle::{Event, Fixed};
use crate::plan::config::{
    ContainerConfig, ContainerKind, ImageSpec, LinuxContainerResources, Resize, ResizePolicy, VolumePlan, VolumeSource,
};
use crate::plan::spec;
use crate::store::{self, Record, Written};
use crate::volumes;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

impl Supervisor {
    /// A pod that ends, or has ended, is not changed any more.
    pub(super) fn require_going_on(&self) -> Result<()> {
        if self.life.goes_on() {
            return Ok(());
        }
        Err(failure(Kind::NotReady, format!("pod {} has ended, or is being stopped", self.pod.full_name())))
    }

    /// An ephemeral container becomes part of the pod; its index.
    pub(super) fn join(&mut self, joining: Joining) -> Result<usize> {
        self.require_going_on()?;
        let Joining { config, image, written } = joining;
        ensure!(config.kind == ContainerKind::Ephemeral, "only ephemeral containers join a pod that runs");
        let containers = &self.pod.record.plan.containers;
        if containers.iter().any(|c| c.name == config.name) {
            let message = format!("pod {} has a container named {} already", self.pod.full_name(), config.name);
            return Err(failure(Kind::Invalid, message));
        }
        if let Some(target) = &config.target {
            self.index_of(target)?;
        }
        let event = Event::Join(Box::new(container_spec(&config)));
        let mut record = self.record()?;
        record.plan.containers.push(config);
        record.images.push(image);
        record.ephemeral.push(written);
        store::write_json(&self.pod.dirs.record(), &record)?;
        record.plan.forget_contents();
        self.pod.record = record;
        self.slots.push(Slot::default());
        self.reserve.fit(self.slots.len());
        self.queue.push_back(event);
        Ok(self.slots.len() - 1)
    }

    /// A container's image is another one from now on, as its registry has it.
    pub(super) fn record_image(&mut self, index: usize, image: ImageSpec) -> Result<()> {
        self.pod.record.images[index] = image;
        let mut record = self.record()?;
        record.images.clone_from(&self.pod.record.images);
        store::write_json(&self.pod.dirs.record(), &record)
    }

    /// The record as it is on the disk, with the contents of files that are not kept in memory.
    fn record(&self) -> Result<Record> {
        if !self.pod.record.plan.has_contents() {
            return Ok(self.pod.record.clone());
        }
        let path = self.pod.dirs.record();
        store::load(&self.pod.dirs)?.with_context(|| format!("{} is missing", path.display()))
    }

    /// Takes over what can change in a pod that runs. Either all of it is so afterwards, or nothing.
    pub(super) fn update(&mut self, updating: Updating) -> Result<()> {
        self.require_going_on()?;
        // It would be what it was.
        self.drop_early();
        let Updating { plan, images, manifest, objects } = updating;
        let before = &self.pod.record.plan;
        let of_manifest = |c: &&ContainerConfig| c.kind != ContainerKind::Ephemeral;
        let is_same = before.sandbox.uid == plan.sandbox.uid
            && plan.containers.len() == images.len()
            && before
                .containers
                .iter()
                .filter(of_manifest)
                .map(|c| (&c.name, c.kind))
                .eq(plan.containers.iter().map(|c| (&c.name, c.kind)));
        ensure!(is_same, "the new plan is not of pod {} and its containers", self.pod.full_name());

        let old_record = self.record()?;
        let mut record = old_record.clone();
        record.generation += 1;
        record.plan.sandbox.labels = plan.sandbox.labels;
        record.plan.sandbox.annotations = plan.sandbox.annotations;
        record.plan.active_deadline_seconds = plan.active_deadline_seconds;
        record.plan.logins = plan.logins;
        record.plan.immutable = plan.immutable;
        let mut events = Vec::new();
        if record.plan.active_deadline_seconds != before.active_deadline_seconds {
            let deadline = record.plan.active_deadline_seconds.map(Duration::from_secs);
            events.push(Event::DeadlineChanged(deadline));
        }
        let mut resized = Vec::new();
        for (index, (wanted, image)) in plan.containers.into_iter().zip(images).enumerate() {
            let config = &mut record.plan.containers[index];
            if config.image != wanted.image {
                events.push(Event::Redefined { container: index, image: wanted.image.clone() });
                record.images[index] = image;
                (config.image, config.pull_policy) = (wanted.image, wanted.pull_policy);
            }
            // Of a container that runs the variables stay as they are; the next start has the new ones.
            config.envs = wanted.envs;
            if config.resources != wanted.resources {
                let [before, fixed] = [&config.resources, &wanted.resources].map(|r| fixed(config.resize, r));
                let resize = if before == fixed { Resize::NotRequired } else { Resize::RestartContainer };
                events.push(Event::Resized { container: index, resize, fixed });
                if resize == Resize::NotRequired && !self.is_to_restart(index) {
                    resized.push((index, wanted.resources.clone()));
                }
                config.resources = wanted.resources;
            }
        }
        let rewritten = rewritten(&mut record, plan.volumes);
        record.plan.requests = plan.requests;
        record.plan.sandbox.resources = plan.sandbox.resources;
        let restarts = events.iter().any(|e| matches!(e, Event::Resized { resize: Resize::RestartContainer, .. }))
            || self.has_to_restart();
        let last = if restarts { LastStep::AfterRestarts } else { LastStep::Now };
        let before = self.pod_limits.clone();
        self.resize_pod(&record.plan.sandbox.resources, &resized, last)?;
        let written = self
            .write_volumes(&rewritten)
            .and_then(|()| store::write_json(&self.pod.dirs.record(), &record))
            .and_then(|()| Written { manifest, objects }.keep(&self.pod.dirs));
        if let Err(error) = written {
            // The error to be told is the first one.
            let _ = store::write_json(&self.pod.dirs.record(), &old_record);
            let of_old = old_record.plan.volumes.into_iter().filter(|old| rewritten.iter().any(|v| v.name == old.name));
            let _ = self.write_volumes(&of_old.collect::<Vec<_>>());
            self.resize_back(&resized, &before);
            return Err(error);
        }
        record.plan.forget_contents();
        self.pod.record = record;
        self.queue.extend(events);
        // Of what the machine knows nothing of (labels, the number of the generation) the report and the network are to be told, too.
        self.queue.push_back(Event::Tick);
        Ok(())
    }

    /// Makes the files of volumes anew.
    fn write_volumes(&self, rewritten: &[VolumePlan]) -> Result<()> {
        rewritten.iter().try_for_each(|volume| volumes::materialize(volume, self.pod.volumes()))
    }

    /// Sets the limits of the pod's own cgroup, and of running containers in it. At no moment a container may have more than its
    /// pod (cgroup v1 refuses that of cpu time): the pod first gets the larger of old and new, and at last the new; that waits
    /// for the containers that have to be started again for it.
    fn resize_pod(&mut self, wanted: &LinuxContainerResources, containers: &[Resized], last: LastStep) -> Result<()> {
        let before = self.pod_limits.clone();
        let changed = self.set_pod_limits(widest(&before, wanted)).and_then(|()| self.resize_all(containers));
        let changed = changed.and_then(|()| match last {
            LastStep::AfterRestarts => Ok(()),
            LastStep::Now => self.set_pod_limits(wanted.clone()),
        });
        if changed.is_err() {
            self.resize_back(containers, &before);
        }
        changed
    }

    /// Puts back what the record says of containers, and the pod's own limits. The kernel took these values before; the error
    /// to be told is an earlier one.
    fn resize_back(&mut self, containers: &[Resized], of_pod: &LinuxContainerResources) {
        let old = |(index, _): &Resized| (*index, self.pod.record.plan.containers[*index].resources.clone());
        let old: Vec<Resized> = containers.iter().map(old).collect();
        let _ = self.set_pod_limits(widest(&self.pod_limits, of_pod));
        let _ = self.resize_all(&old);
        let _ = self.set_pod_limits(of_pod.clone());
    }

    fn set_pod_limits(&mut self, wanted: LinuxContainerResources) -> Result<()> {
        if wanted == self.pod_limits {
            return Ok(());
        }
        let group = remove::cgroup(&self.facts.cgroups, &self.pod.record.plan.sandbox.cgroup, "")?;
        let of = |resources| spec::pod_resources(resources, &self.cgroups);
        group.update(&of(&wanted)?, &of(&self.pod_limits)?).context("the pod as a whole")?;
        self.pod_limits = wanted;
        Ok(())
    }

    /// Whether a container runs that is to be started again, as the machine knows or is about to be told. Until then it keeps the
    /// limits that it has: the record may have lower ones already.
    fn is_to_restart(&self, index: usize) -> bool {
        let is_told = |event: &Event| match event {
            Event::Resized { container, resize: Resize::RestartContainer, .. } => *container == index,
            _ => false,
        };
        self.slots[index].instance.is_some() && (self.life.is_stale(index) || self.queue.iter().any(is_told))
    }

    fn has_to_restart(&self) -> bool {
        (0..self.slots.len()).any(|index| self.is_to_restart(index))
    }

    /// Limits of the pod that had to wait for the end of what ran with larger ones.
    pub(super) fn finish_pod_resize(&mut self) {
        let wanted = &self.pod.record.plan.sandbox.resources;
        if *wanted == self.pod_limits || self.has_to_restart() {
            return;
        }
        let (wanted, deadline) = (wanted.clone(), Instant::now() + LINGERS);
        loop {
            match self.set_pod_limits(wanted.clone()) {
                Ok(()) => return,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                // The containers have their own; it is tried again when the next one starts.
                Err(error) => return self.warn("ResizeDeferred", format!("{error:#}")),
            }
        }
    }

    /// Sets the limits of running containers; one that is not running gets them when it starts. If one cannot be set, those
    /// before it are taken back.
    fn resize_all(&self, wanted: &[Resized]) -> Result<()> {
        for (done, (index, resources)) in wanted.iter().enumerate() {
            if let Err(error) = self.resize(*index, resources) {
                for (earlier, _) in &wanted[..done] {
                    // The kernel took these values before; the error to be told is the first one.
                    let _ = self.resize(*earlier, &self.pod.record.plan.containers[*earlier].resources);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn resize(&self, index: usize, wanted: &LinuxContainerResources) -> Result<()> {
        let Some(instance) = &self.slots[index].instance else { return Ok(()) };
        let config = &self.pod.record.plan.containers[index];
        let before = spec::adjustable(&config.resources, &self.cgroups)?;
        let changed = instance.cgroup.update(&spec::adjustable(wanted, &self.cgroups)?, &before);
        changed.with_context(|| format!("container {}", config.name))
    }
}

/// The volumes whose files are to be others, which become part of the record.
fn rewritten(record: &mut Record, wanted: Vec<VolumePlan>) -> Vec<VolumePlan> {
    let mut rewritten = Vec::new();
    for wanted in wanted {
        let of_that_name = record.plan.volumes.iter_mut().find(|v| v.name == wanted.name);
        if let Some(volume) = of_that_name.filter(|v| **v != wanted)
            && matches!((&volume.source, &wanted.source), (VolumeSource::Files(_), VolumeSource::Files(_)))
        {
            *volume = wanted.clone();
            rewritten.push(wanted);
        }
    }
    rewritten
}

/// How long a cgroup that is removed may count for the kernel: until then, version 1 refuses its parent less cpu time than it had.
const LINGERS: Duration = Duration::from_millis(200);

/// A container, by its index, and the resources that it is to have.
type Resized = (usize, LinuxContainerResources);

/// When the pod's own cgroup gets its new limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastStep {
    /// When its containers have theirs.
    Now,
    /// When those have ended that are started again.
    AfterRestarts,
}

/// What of its resources a container has until it is started again, as the policy says of each.
pub(super) fn fixed(policy: ResizePolicy, resources: &LinuxContainerResources) -> Fixed {
    let LinuxContainerResources { cpu_shares, cpu_quota, cpu_period, memory_limit, memory_request, .. } = *resources;
    let is_fixed = |resize| resize == Resize::RestartContainer;
    Fixed {
        cpu: is_fixed(policy.cpu).then_some((cpu_shares, cpu_quota, cpu_period)),
        memory: is_fixed(policy.memory).then_some((memory_limit, memory_request)),
    }
}

/// Of each limit the larger one. Without a limit on one side there is nothing to be said: a limit cannot be taken away.
fn widest(before: &LinuxContainerResources, after: &LinuxContainerResources) -> LinuxContainerResources {
    let larger = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
    let cpu_quota = larger(before.cpu_quota, after.cpu_quota);
    LinuxContainerResources {
        cpu_quota,
        cpu_period: after.cpu_period.filter(|_| cpu_quota.is_some()),
        memory_limit: larger(before.memory_limit, after.memory_limit),
        ..after.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s20_a_container_is_started_again_for_what_its_policy_says() {
        let of = |cpu_quota, memory_limit| LinuxContainerResources {
            cpu_quota: Some(cpu_quota),
            memory_limit: Some(memory_limit),
            ..LinuxContainerResources::default()
        };
        let (free, restart) = (Resize::NotRequired, Resize::RestartContainer);
        let rows = [
            ("neither", [free, free], of(2, 6), false),
            ("cpu of cpu", [restart, free], of(2, 5), true),
            ("memory of cpu", [restart, free], of(1, 6), false),
            ("memory of memory", [free, restart], of(1, 6), true),
            ("nothing", [restart, restart], of(1, 5), false),
        ];
        for (name, [cpu, memory], wanted, expected) in rows {
            let policy = ResizePolicy { cpu, memory };
            assert_eq!(fixed(policy, &of(1, 5)) != fixed(policy, &wanted), expected, "{name}");
        }
    }

    #[test]
    fn a_pod_is_never_smaller_than_what_is_in_it() {
        let of = |cpu_quota, memory_limit| LinuxContainerResources {
            cpu_quota,
            cpu_period: cpu_quota.map(|_| 100_000),
            memory_limit,
            ..LinuxContainerResources::default()
        };
        let rows = [
            ("more", of(Some(1), Some(5)), of(Some(2), Some(6)), of(Some(2), Some(6))),
            ("less", of(Some(2), Some(6)), of(Some(1), Some(5)), of(Some(2), Some(6))),
            ("more of one", of(Some(2), Some(5)), of(Some(1), Some(6)), of(Some(2), Some(6))),
            ("limited from now on", of(None, None), of(Some(1), Some(5)), of(None, None)),
        ];
        for (name, before, after, expected) in rows {
            assert_eq!(widest(&before, &after), expected, "{name}");
        }
    }
}
