//! The answers of several plugins as one, as `pkg/adaptation/result.go` of github.com/containerd/nri merges them: each plugin
//! sees the container as those before it want it, and no two may set the same thing. Pure.
//!
//! Unlike there, what a plugin removes of the container's own (variables, devices) is removed, and what it removes of another
//! plugin's is not set again.

mod owners;
mod resources;

use crate::cri::api::nri::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerResponse, Field, Hooks,
    LinuxContainer, LinuxContainerAdjustment, LinuxContainerUpdate, LinuxDevice, LinuxRdt, LinuxResources, Mount,
    OwningPlugins,
};
use anyhow::{Result, ensure};
use owners::{Owners, REMOVED, Thing};
use std::collections::{HashMap, HashSet};

/// What the plugins want of other containers than the one an event is about.
#[derive(Debug, Default)]
pub(super) struct Updates {
    owners: OwningPlugins,
    updates: Vec<ContainerUpdate>,
    evictions: Vec<ContainerEviction>,
}

impl Updates {
    /// Takes one plugin's updates.
    ///
    /// # Errors
    /// If they conflict with another's and the plugin does not overlook that.
    pub(super) fn add(&mut self, given: Vec<ContainerUpdate>, plugin: &str) -> Result<()> {
        for update in given {
            let wanted = update.linux.and_then(|linux| linux.resources).unwrap_or_default();
            // Of an update that fails, nothing is taken.
            let mut claimed = self.owners.clone();
            match resources::claim(&mut Owners::of(&mut claimed, &update.container_id, plugin), &wanted) {
                Ok(()) => self.owners = claimed,
                Err(_) if update.ignore_failure => continue,
                Err(error) => return Err(error.context(format!("updating the container {}", update.container_id))),
            }
            let known = self.updates.iter().position(|known| known.container_id == update.container_id);
            let index = known.unwrap_or_else(|| {
                let ignore_failure = update.ignore_failure;
                self.updates.push(ContainerUpdate { container_id: update.container_id, linux: None, ignore_failure });
                self.updates.len() - 1
            });
            let merged = &mut self.updates[index];
            merged.ignore_failure &= update.ignore_failure;
            let linux = merged.linux.get_or_insert_default();
            resources::overlay(linux.resources.get_or_insert_default(), &wanted);
        }
        Ok(())
    }

    /// Takes one plugin's evictions.
    pub(super) fn evict(&mut self, given: Vec<ContainerEviction>) {
        for eviction in given {
            if self.evictions.iter().all(|known| known.container_id != eviction.container_id) {
                self.evictions.push(eviction);
            }
        }
    }

    /// The merged updates, and who is to be evicted.
    pub(super) fn done(self) -> (Vec<ContainerUpdate>, Vec<ContainerEviction>) {
        (self.updates, self.evictions)
    }
}

/// An update of a container, as a kubelet asks for it and as the plugins want it.
#[derive(Debug)]
pub(super) struct Update {
    container: String,
    /// For the next plugin, and in the end.
    pub(super) resources: LinuxResources,
    others: Updates,
}

impl Update {
    /// What is asked for.
    pub(super) fn new(container: &str, resources: LinuxResources) -> Update {
        Update { container: container.to_owned(), resources, others: Updates::default() }
    }

    /// Takes one plugin's answer.
    pub(super) fn add(
        &mut self,
        given: Vec<ContainerUpdate>,
        evict: Vec<ContainerEviction>,
        plugin: &str,
    ) -> Result<()> {
        self.others.add(given, plugin)?;
        self.others.evict(evict);
        if let Some(own) = self.others.updates.iter().find(|update| update.container_id == self.container)
            && let Some(LinuxContainerUpdate { resources: Some(wanted) }) = &own.linux
        {
            resources::overlay(&mut self.resources, wanted);
        }
        Ok(())
    }

    /// The container's resources, the updates of others, and who is to be evicted.
    pub(super) fn done(self) -> (LinuxResources, Vec<ContainerUpdate>, Vec<ContainerEviction>) {
        let (mut updates, evictions) = self.others.done();
        updates.retain(|update| update.container_id != self.container);
        (self.resources, updates, evictions)
    }
}

/// A container that is being created, as the plugins so far want it.
#[derive(Debug)]
pub(super) struct Creation {
    /// For the next plugin.
    pub(super) container: Container,
    adjustment: ContainerAdjustment,
    others: Updates,
}

impl Creation {
    /// As it is asked for.
    pub(super) fn new(container: Container) -> Creation {
        Creation { container, adjustment: ContainerAdjustment::default(), others: Updates::default() }
    }

    /// Takes one plugin's answer.
    ///
    /// # Errors
    /// If it sets what another has set, naming both and the thing.
    pub(super) fn add(&mut self, answer: CreateContainerResponse, plugin: &str) -> Result<()> {
        let id = self.container.id.clone();
        if let Some(adjustment) = answer.adjust {
            let mut place = Adjusting {
                owners: Owners::of(&mut self.others.owners, &id, plugin),
                container: &mut self.container,
                linux: self.adjustment.linux.take().unwrap_or_default(),
                merged: &mut self.adjustment,
            };
            place.adjust(adjustment)?;
            let linux = place.linux;
            self.adjustment.linux = Some(linux).filter(|linux| *linux != LinuxContainerAdjustment::default());
        }
        ensure!(
            answer.update.iter().all(|update| update.container_id != id),
            "the NRI plugin {plugin} updates the container {id} while it is created"
        );
        self.others.add(answer.update, plugin)?;
        self.others.evict(answer.evict);
        Ok(())
    }

    /// What the plugins want so far, and who wants it: for those that validate.
    pub(super) fn wanted(&self) -> (ContainerAdjustment, Vec<ContainerUpdate>, OwningPlugins) {
        (self.adjustment.clone(), self.others.updates.clone(), self.others.owners.clone())
    }

    /// The merged adjustment, the updates of other containers, and who is to be evicted.
    pub(super) fn done(self) -> (ContainerAdjustment, Vec<ContainerUpdate>, Vec<ContainerEviction>) {
        let (updates, evictions) = self.others.done();
        (self.adjustment, updates, evictions)
    }
}

/// One plugin's adjustment on its way into the container and into the merged one.
struct Adjusting<'a> {
    owners: Owners<'a>,
    container: &'a mut Container,
    merged: &'a mut ContainerAdjustment,
    linux: LinuxContainerAdjustment,
}

/// An element of a list whose key can be marked for removal.
trait Keyed: Clone {
    fn key(&self) -> &str;
}

impl Keyed for Mount {
    fn key(&self) -> &str {
        &self.destination
    }
}

impl Keyed for LinuxDevice {
    fn key(&self) -> &str {
        &self.path
    }
}

impl Keyed for crate::cri::api::nri::KeyValue {
    fn key(&self) -> &str {
        &self.key
    }
}

impl Adjusting<'_> {
    fn adjust(&mut self, given: ContainerAdjustment) -> Result<()> {
        let places = Places { container: |c| &mut c.annotations, merged: |a, _| &mut a.annotations };
        self.map(Field::Annotations, given.annotations, places)?;
        self.mounts(given.mounts)?;
        self.env(given.env)?;
        self.args(given.args)?;
        self.hooks(given.hooks);
        self.linux(given.linux.unwrap_or_default())?;
        for limit in given.rlimits {
            self.owners.claim(Thing::entry(Field::Rlimits, &limit.r#type))?;
            self.container.rlimits.retain(|old| old.r#type != limit.r#type);
            self.container.rlimits.push(limit.clone());
            self.merged.rlimits.push(limit);
        }
        for device in given.cdi_devices {
            self.owners.claim(Thing::entry(Field::CdiDevices, &device.name))?;
            self.merged.cdi_devices.push(device);
        }
        Ok(())
    }

    /// A map whose keys can be marked for removal.
    fn map<V: Clone + Default>(&mut self, field: Field, given: HashMap<String, V>, places: Places<V>) -> Result<()> {
        let container = (places.container)(self.container);
        let merged = (places.merged)(self.merged, &mut self.linux);
        let (removals, additions): (Vec<_>, Vec<_>) = given.into_iter().partition(|(key, _)| key.starts_with(REMOVED));
        for (marked, _) in removals {
            let key = &marked[REMOVED.len()..];
            self.owners.clear(Thing::entry(field, key));
            container.remove(key);
            merged.remove(key);
            merged.insert(marked, V::default());
        }
        for (key, value) in additions {
            self.owners.claim(Thing::entry(field, &key))?;
            merged.remove(&format!("{REMOVED}{key}"));
            container.insert(key.clone(), value.clone());
            merged.insert(key, value);
        }
        Ok(())
    }

    /// A list of what can be marked for removal, into the merged list. Answers with the keys that the container loses, and with
    /// what it gets.
    fn list<T: Keyed>(owners: &mut Owners<'_>, field: Field, given: Vec<T>, merged: &mut Vec<T>) -> Result<Change<T>> {
        let (removals, additions): (Vec<_>, Vec<_>) =
            given.into_iter().partition(|item| item.key().starts_with(REMOVED));
        let mut gone: HashSet<String> = HashSet::new();
        for item in removals {
            let key = item.key()[REMOVED.len()..].to_owned();
            owners.clear(Thing::entry(field, &key));
            merged.retain(|old| old.key() != key && old.key() != item.key());
            merged.push(item);
            gone.insert(key);
        }
        for item in &additions {
            owners.claim(Thing::entry(field, item.key()))?;
            // What is set replaces what there was anyway.
            merged.retain(|old| old.key() != format!("{REMOVED}{}", item.key()));
            merged.push(item.clone());
            gone.insert(item.key().to_owned());
        }
        Ok(Change { gone, new: additions })
    }

    fn mounts(&mut self, given: Vec<Mount>) -> Result<()> {
        let change = Self::list(&mut self.owners, Field::Mounts, given, &mut self.merged.mounts)?;
        self.container.mounts.retain(|mount| !change.gone.contains(&mount.destination));
        self.container.mounts.extend(change.new);
        Ok(())
    }

    fn env(&mut self, given: Vec<crate::cri::api::nri::KeyValue>) -> Result<()> {
        let change = Self::list(&mut self.owners, Field::Env, given, &mut self.merged.env)?;
        let name = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
        self.container.env.retain(|variable| !change.gone.contains(&name(variable)));
        self.container.env.extend(change.new.iter().map(|new| format!("{}={}", new.key, new.value)));
        Ok(())
    }

    /// Arguments that begin with an empty one replace another plugin's.
    fn args(&mut self, mut given: Vec<String>) -> Result<()> {
        if given.is_empty() {
            return Ok(());
        }
        if given[0].is_empty() {
            self.owners.clear(Field::Args);
            given.remove(0);
        }
        self.owners.claim(Field::Args)?;
        self.container.args.clone_from(&given);
        self.merged.args = given;
        Ok(())
    }

    fn hooks(&mut self, given: Option<Hooks>) {
        let Some(given) = given.filter(|hooks| *hooks != Hooks::default()) else { return };
        self.owners.join(Field::OciHooks);
        for target in [&mut self.container.hooks, &mut self.merged.hooks] {
            let target = target.get_or_insert_default();
            target.prestart.extend(given.prestart.iter().cloned());
            target.create_runtime.extend(given.create_runtime.iter().cloned());
            target.create_container.extend(given.create_container.iter().cloned());
            target.start_container.extend(given.start_container.iter().cloned());
            target.poststart.extend(given.poststart.iter().cloned());
            target.poststop.extend(given.poststop.iter().cloned());
        }
    }

    fn of_container(&mut self) -> &mut LinuxContainer {
        self.container.linux.get_or_insert_default()
    }

    fn linux(&mut self, given: LinuxContainerAdjustment) -> Result<()> {
        let change = Self::list(&mut self.owners, Field::Devices, given.devices, &mut self.linux.devices)?;
        let container = self.of_container();
        container.devices.retain(|device| !change.gone.contains(&device.path));
        container.devices.extend(change.new);
        if let Some(wanted) = &given.resources {
            resources::claim(&mut self.owners, wanted)?;
            resources::overlay(self.linux.resources.get_or_insert_default(), wanted);
            resources::overlay(self.of_container().resources.get_or_insert_default(), wanted);
        }
        if !given.cgroups_path.is_empty() {
            self.owners.claim(Field::CgroupsPath)?;
            self.of_container().cgroups_path.clone_from(&given.cgroups_path);
            self.linux.cgroups_path = given.cgroups_path;
        }
        self.single(
            Field::OomScoreAdj,
            given.oom_score_adj,
            (|l| &mut l.oom_score_adj, |c| Some(&mut c.oom_score_adj)),
        )?;
        self.single(Field::IoPriority, given.io_priority, (|l| &mut l.io_priority, |c| Some(&mut c.io_priority)))?;
        let policy = given.seccomp_policy;
        self.single(Field::SeccompPolicy, policy, (|l| &mut l.seccomp_policy, |c| Some(&mut c.seccomp_policy)))?;
        self.single(Field::LinuxSched, given.scheduler, (|l| &mut l.scheduler, |c| Some(&mut c.scheduler)))?;
        self.single(Field::MemoryPolicy, given.memory_policy, (|l| &mut l.memory_policy, |_| None))?;
        self.namespaces(given.namespaces)?;
        let container: fn(&mut Container) -> &mut HashMap<_, _> = |c| &mut c.linux.get_or_insert_default().sysctl;
        self.map(Field::Sysctl, given.sysctl, Places { container, merged: |_, linux| &mut linux.sysctl })?;
        let container: fn(&mut Container) -> &mut HashMap<_, _> = |c| &mut c.linux.get_or_insert_default().net_devices;
        let places = Places { container, merged: |_, linux| &mut linux.net_devices };
        self.map(Field::LinuxNetDevices, given.net_devices, places)?;
        self.rdt(given.rdt)
    }

    /// A field that one plugin can set.
    fn single<T: Clone>(&mut self, field: Field, given: Option<T>, (of_merged, of_container): Place<T>) -> Result<()> {
        if given.is_some() {
            self.owners.claim(field)?;
            of_merged(&mut self.linux).clone_from(&given);
            if let Some(place) = of_container(self.of_container()) {
                *place = given;
            }
        }
        Ok(())
    }

    fn namespaces(&mut self, given: Vec<crate::cri::api::nri::LinuxNamespace>) -> Result<()> {
        for namespace in given {
            let (kind, is_removed) = match namespace.r#type.strip_prefix(REMOVED) {
                Some(kind) => (kind.to_owned(), true),
                None => (namespace.r#type.clone(), false),
            };
            self.owners.claim(Thing::entry(Field::Namespace, &kind))?;
            let known = &mut self.of_container().namespaces;
            known.retain(|old| old.r#type != kind);
            if !is_removed {
                known.push(namespace.clone());
            }
            self.linux.namespaces.push(namespace);
        }
        Ok(())
    }

    fn rdt(&mut self, given: Option<LinuxRdt>) -> Result<()> {
        let Some(given) = given else { return Ok(()) };
        if given.remove {
            for field in [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring] {
                self.owners.clear(field);
            }
            self.linux.rdt = Some(LinuxRdt { remove: true, ..LinuxRdt::default() });
        }
        let set = [
            (given.clos_id.is_some(), Field::RdtClosId),
            (given.schemata.is_some(), Field::RdtSchemata),
            (given.enable_monitoring.is_some(), Field::RdtEnableMonitoring),
        ];
        for (_, field) in set.into_iter().filter(|(is_set, _)| *is_set) {
            self.owners.claim(field)?;
            self.linux.rdt.get_or_insert_default().remove = false;
        }
        let merged = self.linux.rdt.get_or_insert_default();
        merged.clos_id = given.clos_id.or(merged.clos_id.take());
        merged.schemata = given.schemata.or(merged.schemata.take());
        merged.enable_monitoring = given.enable_monitoring.or(merged.enable_monitoring.take());
        self.container.linux.get_or_insert_default().rdt = Some(merged.clone());
        Ok(())
    }
}

/// Where a map is, in the container and in the merged adjustment.
struct Places<V> {
    container: fn(&mut Container) -> &mut HashMap<String, V>,
    merged: for<'m> fn(&'m mut ContainerAdjustment, &'m mut LinuxContainerAdjustment) -> &'m mut HashMap<String, V>,
}

/// Where a field is in the merged adjustment, and where in the container, if that tells it.
type Place<T> =
    (fn(&mut LinuxContainerAdjustment) -> &mut Option<T>, fn(&mut LinuxContainer) -> Option<&mut Option<T>>);

/// What a list of the container loses and gets.
struct Change<T> {
    gone: HashSet<String>,
    new: Vec<T>,
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
