//! What a kubelet asks of a sandbox, through CRI. The machine ([`Commanded`](crate::lifecycle::commanded::Commanded)) decides what
//! follows; who asked hears of it when it is so.
//!
//! Each container's [`ContainerRecord`] is in its run state, where the CRI server reads it: there is no other list.

use super::hand_off;
use super::pod::{FAR, Supervisor};
use super::remove;
use super::slot::Slot;
use crate::control::{ContainerRecord, RefusedKind, Reply};
use crate::error::{Kind, failure};
use crate::lifecycle::Event;
use crate::lifecycle::commanded::{Commanded, ContainerReport, Stage};
use crate::plan::config::{LinuxContainerResources, VolumePlan, VolumeSource};
use crate::store;
use crate::sys::{Called, mount};
use crate::volumes;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Duration;

/// A client who waits for a container.
pub(super) struct Waiter {
    client: u64,
    container: usize,
    until: Until,
    /// That it never will be: to be told when that is kept.
    refused: Option<Reply>,
}

/// What for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Its init waits to be started, or it could not be made.
    Made,
    /// Its command has been executed.
    Started,
    /// It has no process any more.
    Ended,
    /// Nothing of it is left.
    Removed,
}

impl Until {
    /// Whether it is so at this stage; `None` if it never will be.
    fn is_reached(self, stage: Option<Stage>) -> Option<bool> {
        match (self, stage) {
            (Until::Ended | Until::Removed, None) => Some(true),
            (Until::Made | Until::Started, None) => None,
            (Until::Made, Some(stage)) => Some(stage != Stage::Creating),
            (Until::Started, Some(stage)) => Some(matches!(stage, Stage::Running | Stage::Exited)),
            (Until::Ended, Some(stage)) => Some(stage == Stage::Exited),
            (Until::Removed, Some(_)) => Some(false),
        }
    }
}

/// The images that are a container's volumes.
fn images(record: &ContainerRecord) -> impl Iterator<Item = &VolumePlan> {
    record.volumes.iter().filter(|volume| matches!(volume.source, VolumeSource::Image { .. }))
}

impl Supervisor {
    fn machine(&self) -> Result<&Commanded> {
        let message = || format!("pod {} lives by its manifest, not by CRI", self.pod.full_name());
        self.life.commanded().ok_or_else(|| failure(Kind::Invalid, message()))
    }

    /// A container of a commanded pod and how far it has come.
    fn container(&self, id: &str) -> Result<(usize, Stage)> {
        let machine = self.machine()?;
        let found = machine.containers().find(|(_, report)| report.id == id);
        let (index, report) = found.ok_or_else(|| failure(Kind::NotFound, format!("there is no container {id}")))?;
        Ok((index, report.stage))
    }

    fn wait_until(&mut self, client: u64, container: usize, until: Until) {
        self.waiters.push(Waiter { client, container, until, refused: None });
    }

    /// CRI's CreateContainer: answered when the container is known, before it is made.
    pub(super) fn create_container(&mut self, client: u64, mut record: ContainerRecord) -> Result<()> {
        let machine = self.machine()?;
        if !machine.goes_on() {
            return Err(failure(Kind::NotReady, "the sandbox is not ready: it has ended, or is being stopped"));
        }
        let id = record.config.name.clone();
        if machine.containers().any(|(_, report)| report.id == id) {
            return Err(failure(Kind::AlreadyExists, format!("there is a container {id} already")));
        }
        let is_same = |slot: &Slot| !slot.identity.is_empty() && slot.identity == record.identity;
        if let Some((_, other)) = machine.containers().find(|(index, _)| self.slots.get(*index).is_some_and(is_same)) {
            let message = format!("the sandbox has a container {} already: {}", record.identity, other.id);
            return Err(failure(Kind::AlreadyExists, message));
        }
        let index = machine.vacancy();
        let state = self.pod.dirs.container_state(&id);
        std::fs::create_dir_all(&state).called("mkdir", state.display())?;
        store::write_json(&self.record_of(&id), &record)?;
        self.pod.record.volume_images.extend(std::mem::take(&mut record.volume_images));
        if let Err(error) = self.open_images(&record) {
            for volume in images(&record) {
                self.pod.record.volume_images.remove(&volume.name);
                mount::detach(&self.pod.dirs.volume(&volume.name))?;
            }
            remove::container(&self.pod.dirs, &id)?;
            return Err(error);
        }
        let plan = &mut self.pod.record.plan;
        plan.volumes.extend(record.volumes);
        if index == plan.containers.len() {
            plan.containers.push(record.config);
            self.pod.record.images.push(record.image);
            self.slots.push(Slot::default());
            self.reserve.fit(self.slots.len());
        } else {
            plan.containers[index] = record.config;
            self.pod.record.images[index] = record.image;
            self.slots[index] = Slot::default();
        }
        self.slots[index].adjustment = record.adjustment;
        self.slots[index].identity = record.identity;
        self.promised.push(client);
        self.queue.push_back(Event::Create { container: index, name: id });
        Ok(())
    }

    /// Mounts the images that are volumes. What is not in them is told before anything else is made.
    fn open_images(&self, record: &ContainerRecord) -> Result<()> {
        for volume in images(record) {
            volumes::materialize(volume, self.pod.volumes())?;
            let mut mounts = record.config.mounts.iter().filter(|mount| mount.volume == volume.name);
            mounts.try_for_each(|mount| self.open_volume(volume, mount).map(drop))?;
        }
        Ok(())
    }

    fn record_of(&self, id: &str) -> PathBuf {
        store::container_record(&self.pod.dirs, id)
    }

    /// What plugins are to be told of it is there.
    pub(super) fn await_made(&mut self, client: u64, id: &str) -> Result<()> {
        let (index, _) = self.container(id)?;
        self.wait_until(client, index, Until::Made);
        self.answer_waiters();
        Ok(())
    }

    /// CRI's StartContainer. One that starts already, for a server that has died since, is waited for as well.
    pub(super) fn start_container(&mut self, client: u64, id: &str) -> Result<()> {
        let (index, stage) = self.container(id)?;
        if let Some(message) = self.machine()?.start_error(index) {
            let kind = self.slots[index].refused.unwrap_or(RefusedKind::Failed);
            self.say(client, &Reply::Refused { kind, message: message.to_owned() }, &[]);
            return Ok(());
        }
        if !matches!(stage, Stage::Creating | Stage::Created | Stage::Starting) {
            let message = format!("container {id} cannot be started: it is {stage:?}, not Created");
            return Err(failure(Kind::NotReady, message));
        }
        if !self.life.goes_on() {
            return Err(failure(Kind::NotReady, "the sandbox is not ready: it has ended, or is being stopped"));
        }
        self.wait_until(client, index, Until::Started);
        self.queue.push_back(Event::Run { container: index });
        Ok(())
    }

    /// CRI's StopContainer; one that does not run is as it should be.
    pub(super) fn end_container(&mut self, client: u64, id: &str, grace_seconds: u64) -> Result<()> {
        let (index, stage) = self.container(id)?;
        if !matches!(stage, Stage::Starting | Stage::Running) {
            self.say(client, &Reply::Accepted, &[]);
            return Ok(());
        }
        self.wait_until(client, index, Until::Ended);
        self.queue.push_back(Event::End { container: index, grace: Duration::from_secs(grace_seconds).min(FAR) });
        Ok(())
    }

    /// CRI's RemoveContainer.
    pub(super) fn remove_container(&mut self, client: u64, id: &str) -> Result<()> {
        let (index, _) = self.container(id)?;
        self.wait_until(client, index, Until::Removed);
        self.queue.push_back(Event::Remove { container: index });
        Ok(())
    }

    /// CRI's ReopenContainerLog.
    pub(super) fn reopen_log(&mut self, id: &str) -> Result<()> {
        let (index, _) = self.container(id)?;
        let instance = self.slots[index].instance.as_mut();
        let instance = instance.ok_or_else(|| failure(Kind::NotReady, format!("container {id} is not running")))?;
        match &mut instance.log {
            Some(log) => Ok(log.reopen()?),
            None => Ok(()),
        }
    }

    /// CRI's UpdateContainerResources.
    pub(super) fn resize_container(&mut self, id: &str, resources: LinuxContainerResources) -> Result<()> {
        let (index, stage) = self.container(id)?;
        if stage == Stage::Exited {
            return Err(failure(Kind::NotReady, format!("container {id} has ended")));
        }
        let path = self.record_of(id);
        let mut record: ContainerRecord =
            store::read_json(&path)?.with_context(|| format!("{} is missing", path.display()))?;
        record.config.resources = resources.clone();
        self.resize(index, &resources)?;
        self.pod.record.plan.containers[index].resources = resources;
        store::write_json(&path, &record)
    }

    /// The container's init waits to be told to start. Somebody may have asked for that already.
    pub(super) fn held(&mut self, index: usize) -> Result<()> {
        self.queue.push_back(Event::Held { container: index });
        let is_to_start = self.life.commanded().and_then(|machine| machine.stage(index)) == Some(Stage::Starting);
        if is_to_start { self.release(index) } else { Ok(()) }
    }

    /// The init that waits executes its command; one that is still being made does so when it has come so far.
    pub(super) fn release(&mut self, index: usize) -> Result<()> {
        let Some(instance) = &self.slots[index].instance else { return Ok(()) };
        match instance.process.stage {
            hand_off::Stage::Created if instance.external.is_some() => self.start_external(index),
            hand_off::Stage::Created => self.set_off(index),
            _ => Ok(()),
        }
    }

    /// Takes away what is left of a container without a process: its index is free.
    pub(super) fn discard(&mut self, index: usize) -> Result<()> {
        let name = std::mem::take(&mut self.pod.record.plan.containers[index].name);
        self.slots[index] = Slot::default();
        let of_it: Vec<String> =
            self.pod.record.plan.containers[index].mounts.drain(..).map(|mount| mount.volume).collect();
        let mut images = of_it.iter().filter(|volume| self.pod.record.volume_images.contains_key(*volume));
        images.try_for_each(|volume| mount::detach(&self.pod.dirs.volume(volume)))?;
        self.pod.record.plan.volumes.retain(|volume| !of_it.contains(&volume.name));
        self.pod.record.volume_images.retain(|volume, _| !of_it.contains(volume));
        self.discard_container(&name)
    }

    /// Tells those who wait for what is so by now.
    pub(super) fn answer_waiters(&mut self) {
        let Some(machine) = self.life.commanded() else { return };
        let mut answers = Vec::new();
        self.waiters.retain_mut(|waiter| {
            let answer = match (waiter.refused.take(), waiter.until.is_reached(machine.stage(waiter.container))) {
                (Some(refused), _) => refused,
                (None, Some(false)) => return true,
                (None, Some(true)) => Reply::Accepted,
                (None, None) => {
                    let message = "it was removed meanwhile".to_owned();
                    Reply::Refused { kind: RefusedKind::NotFound, message }
                }
            };
            answers.push((waiter.client, answer));
            false
        });
        for (client, answer) in answers {
            self.say(client, &answer, &[]);
        }
    }

    /// Those who wait for a container's start are to be told that it failed, once whoever asks next is told so too.
    pub(super) fn refuse_waiters(&mut self, container: usize, kind: RefusedKind, message: &str) {
        self.slots[container].refused = Some(kind);
        let fails = |w: &&mut Waiter| w.container == container && w.until == Until::Started;
        for waiter in self.waiters.iter_mut().filter(fails) {
            waiter.refused = Some(Reply::Refused { kind, message: message.to_owned() });
        }
    }

    /// What a kubelet is told of the containers.
    pub(super) fn commanded_report(&self) -> Vec<ContainerReport> {
        let Some(machine) = self.life.commanded() else { return Vec::new() };
        let with_pid = |(index, report): (usize, ContainerReport)| {
            let instance = self.slots[index].instance.as_ref();
            ContainerReport { pid: instance.map(|instance| instance.process.child.pid), ..report }
        };
        machine.containers().map(with_pid).collect()
    }
}
