//! Writable layers of instances that have ended. They are moved aside, and a child removes what lies there: a million files take as
//! long as the disk likes, and meanwhile logs are read, probes run, and clients are answered. At a pod's end a child removes all layers
//! where they are.

use super::forked::Forked;
use super::hand_off::Stage;
use super::keep::Remnant;
use super::pod::Supervisor;
use super::poll::{Source, Token};
use super::remove;
use crate::cgroups::Cgroup;
use crate::paths::PodDirs;
use crate::snapshot;
use crate::sys::{Called, SysResult, fs};
use anyhow::Result;
use nix::errno::Errno;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long it waits for what is asked next: who has ended a container is about to ask for its removal.
const DELAY: Duration = Duration::from_millis(50);

/// After how long it is tried again when no child could be made.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the end of a pod takes for it.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is done about layers that are no longer used.
#[derive(Default)]
pub(super) struct Discarding {
    /// What is on disk of ended instances: it is all that tells how they ended until that is kept.
    ended: Vec<Remnant>,
    /// Without a process, in a pod that ends.
    cgroups: Vec<Cgroup>,
    working: Option<(Forked<()>, Token)>,
    /// There is something to be removed that the child may not have seen; when one is to be made.
    due: Option<Instant>,
    /// Numbers for names: none is used twice.
    count: u64,
}

impl Discarding {
    /// An earlier supervisor may have left something.
    pub(super) fn of(pod: &PodDirs) -> Discarding {
        Discarding { due: pod.discarded().exists().then(Instant::now), ..Discarding::default() }
    }

    /// How long nothing may happen until there is something to be done here.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.due.filter(|_| self.working.is_none()).map(|due| due.saturating_duration_since(Instant::now()))
    }
}

/// Removes what is in a directory, if that is there. What cannot be removed is in nobody's way.
fn remove_below(directory: &Path) -> SysResult<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.called("opendir", directory.display())?,
    };
    let mut first = Ok(());
    for entry in entries {
        first = first.and(snapshot::remove_tree(&entry.called("readdir", directory.display())?.path()));
    }
    first
}

impl Supervisor {
    /// To be discarded when it is kept how the instance ended.
    pub(super) fn discard_later(&mut self, remnant: Remnant) {
        self.discarding.ended.push(remnant);
    }

    /// To be removed with the cgroup of a pod that ends: its layers go meanwhile.
    pub(super) fn discard_with_pod(&mut self, cgroup: Cgroup) {
        self.discarding.cgroups.push(cgroup);
    }

    pub(super) fn discard_cgroups(&mut self) {
        for cgroup in std::mem::take(&mut self.discarding.cgroups) {
            // What stays is found when the pod's is removed.
            let _ = cgroup.remove(Duration::ZERO);
        }
    }

    /// Whether the pod ends, by itself or because it is to.
    pub(super) fn ends(&self) -> bool {
        self.over || self.life.deletion_timestamp().is_some()
    }

    /// Whether the pod ends, has no instance any more, and it is kept how they ended: it needs none of their layers.
    fn is_past(&self) -> bool {
        self.ends() && self.is_saved && self.slots.iter().all(|slot| slot.instance.is_none())
    }

    /// Discards what is on disk of ended instances: it is kept how they ended. Of a pod that ends, their layers go with all others when
    /// the last one has ended, and their pinned processes with what is mounted for the pod: to unmount each takes the kernel a while.
    fn discard_ended(&mut self) {
        if self.ends() {
            let is_due = self.is_past() && !self.discarding.ended.is_empty();
            self.discarding.due = self.discarding.due.or(is_due.then(Instant::now));
            return;
        }
        for gone in std::mem::take(&mut self.discarding.ended) {
            // If it took a while to keep how that ended, the next one has left its own there by now.
            let next = self.slots[gone.container].instance.as_ref();
            let is_replaced = next.is_some_and(|next| !matches!(next.process.stage, Stage::Creating));
            let traces = if is_replaced { Ok(()) } else { gone.traces.remove() };
            let layer = self.discard_layer(&gone.layer);
            for error in [traces.err().map(Into::into), layer.err()].into_iter().flatten() {
                self.warn("KillContainerError", format!("{error:#}"));
            }
        }
    }

    /// Discards the writable layer of an instance, or all of a container; gone already counts as done.
    pub(super) fn discard_layer(&mut self, layer: &Path) -> Result<()> {
        if !layer.exists() {
            return Ok(());
        }
        match self.move_aside(layer) {
            Ok(()) => drop(self.discarding.due.get_or_insert(Instant::now() + DELAY)),
            // On a disk that is full there may be no room for a name.
            Err(_) => snapshot::remove_tree(layer)?,
        }
        Ok(())
    }

    fn move_aside(&mut self, layer: &Path) -> SysResult<()> {
        let aside = self.pod.dirs.discarded();
        loop {
            let name = aside.join(self.discarding.count.to_string());
            self.discarding.count += 1;
            match fs::rename_new(layer, &name) {
                // Of an earlier supervisor's.
                Err(error) if error.errno() == Errno::EEXIST => {}
                Err(error) if error.errno() == Errno::ENOENT => {
                    std::fs::DirBuilder::new().mode(0o700).create(&aside).called("mkdir", aside.display())?;
                }
                other => return other,
            }
        }
    }

    /// Discards the writable layers of all instances of a container but one.
    pub(super) fn discard_layers_but(&mut self, kept: Option<u32>, container: &str) -> Result<()> {
        let kept = kept.map(|restart_count| self.pod.dirs.container_data(container, restart_count));
        let mut layers = remove::layers_in(&self.pod.dirs.container_layers(container))?;
        layers.retain(|layer| Some(layer) != kept.as_ref());
        layers.iter().try_for_each(|layer| {
            remove::unmount_layer(layer)?;
            self.discard_layer(layer)
        })
    }

    /// Discards all that a container, which is no more, has on disk.
    pub(super) fn discard_container(&mut self, container: &str) -> Result<()> {
        let directory = self.pod.dirs.container_layers(container);
        remove::unmount_layers(&directory)?;
        self.discard_layer(&directory)?;
        remove::container(&self.pod.dirs, container)
    }

    /// Has removed what lies aside and what is on disk of ended instances, if it is kept how they ended: in a while, and of a pod
    /// that ends as soon as all of them have.
    pub(super) fn discard_unused(&mut self) {
        if self.is_saved {
            self.discard_ended();
        }
        if self.is_past() || self.discarding.patience().is_some_and(|left| left.is_zero()) {
            self.discard_now();
        }
    }

    fn discard_now(&mut self) {
        if self.discarding.due.is_none() || self.discarding.working.is_some() {
            return;
        }
        self.discarding.due = None;
        let (dirs, is_past) = (&self.pod.dirs, self.is_past());
        let discard = || {
            let aside = remove_below(&dirs.discarded());
            if !is_past {
                return Ok(aside?);
            }
            let layers = remove_below(&dirs.layers());
            let directories = [dirs.layers(), dirs.discarded()].map(|empty| snapshot::remove_tree(&empty));
            Ok([aside, layers].into_iter().chain(directories).collect::<SysResult<()>>()?)
        };
        let begun = Forked::begin("for what is discarded", discard).and_then(|working| {
            match self.poll.watch(&working, Source::Discarding) {
                Ok(token) => Ok((working, token)),
                Err(error) => {
                    working.end();
                    Err(error.into())
                }
            }
        });
        match begun {
            Ok(working) => {
                self.discarding.working = Some(working);
                if is_past {
                    self.discarding.ended.clear();
                }
            }
            Err(error) => {
                self.discarding.due = Some(Instant::now() + AGAIN);
                self.warn("KillContainerError", format!("{error:#}"));
            }
        }
    }

    /// The child has removed what it saw, or ended.
    pub(super) fn discarding_ready(&mut self) {
        let Some((working, token)) = self.discarding.working.take() else { return };
        self.poll.forget(token, working.as_fd());
        if let Err(error) = working.wait() {
            self.warn("KillContainerError", format!("{error:#}"));
        }
    }

    /// Before the supervisor ends. Nobody waits long for that: a child goes on without it.
    pub(super) fn end_discarding(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        if self.is_past() && self.pod.dirs.layers().exists() {
            self.discarding.due.get_or_insert_with(Instant::now);
        }
        self.discard_now();
        while let Some((working, _)) = &self.discarding.working {
            if !working.answers_within(deadline.saturating_duration_since(Instant::now())) {
                return;
            }
            self.discarding_ready();
            self.discard_now();
        }
    }
}
