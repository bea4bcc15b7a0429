//! What changes about a pod that runs: ephemeral containers that join it, and what `podshim apply` changes in place.

use super::pod::{Supervisor, container_spec};
use super::slot::Slot;
use crate::control::{Joining, Updating};
use crate::error::{Kind, failure};
use crate::lifecycle::Event;
use crate::plan::config::{ContainerConfig, ContainerKind, LinuxContainerResources};
use crate::plan::spec;
use crate::store;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

impl Supervisor {
    /// A pod that ends, or has ended, is not changed any more.
    pub(super) fn require_going_on(&self) -> Result<()> {
        if self.state.goes_on() {
            return Ok(());
        }
        Err(failure(Kind::NotReady, format!("pod {} has ended, or is being stopped", self.pod.full_name())))
    }

    /// An ephemeral container becomes part of the pod; its index.
    pub(super) fn join(&mut self, joining: Joining) -> Result<usize> {
        self.require_going_on()?;
        let Joining { config, image } = joining;
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
        let mut record = self.pod.record.clone();
        record.plan.containers.push(config);
        record.images.push(image);
        store::write_json(&self.pod.dirs.record(), &record)?;
        self.pod.record = record;
        self.slots.push(Slot::default());
        self.queue.push_back(event);
        Ok(self.slots.len() - 1)
    }

    /// Takes over what can change in a pod that runs. Either all of it is so afterwards, or nothing.
    pub(super) fn update(&mut self, updating: Updating) -> Result<()> {
        self.require_going_on()?;
        let Updating { plan, images, manifest } = updating;
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

        let mut record = self.pod.record.clone();
        record.generation += 1;
        record.plan.sandbox.labels = plan.sandbox.labels;
        record.plan.sandbox.annotations = plan.sandbox.annotations;
        record.plan.active_deadline_seconds = plan.active_deadline_seconds;
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
            if config.resources != wanted.resources {
                events.push(Event::Resized { container: index });
                resized.push((index, wanted.resources.clone()));
                config.resources = wanted.resources;
            }
        }
        self.resize_all(&resized)?;
        let written = store::write_json(&self.pod.dirs.record(), &record)
            .and_then(|()| store::write_atomically(&self.pod.dirs.manifest(), manifest.as_bytes()));
        if let Err(error) = written {
            // The kernel took these values before; the error to be told is the first one.
            let _ = store::write_json(&self.pod.dirs.record(), &self.pod.record);
            let old = |(index, _): &(usize, _)| (*index, self.pod.record.plan.containers[*index].resources.clone());
            let _ = self.resize_all(&resized.iter().map(old).collect::<Vec<_>>());
            return Err(error);
        }
        self.pod.record = record;
        self.queue.extend(events);
        Ok(())
    }

    /// Sets the limits of running containers; one that is not running gets them when it starts. If one cannot be set, those
    /// before it are taken back.
    fn resize_all(&self, wanted: &[(usize, LinuxContainerResources)]) -> Result<()> {
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

    fn resize(&self, index: usize, wanted: &LinuxContainerResources) -> Result<()> {
        let Some(instance) = &self.slots[index].instance else { return Ok(()) };
        let config = &self.pod.record.plan.containers[index];
        let before = spec::adjustable(&config.resources, &self.cgroups)?;
        let changed = instance.cgroup.update(&spec::adjustable(wanted, &self.cgroups)?, &before);
        changed.with_context(|| format!("container {}", config.name))
    }
}
