//! The pod's sandbox while the pod lives: it is lost when its pid 1 ends (shareProcessNamespace), made again, taken away.
//!
//! Nothing else of it can be lost: the other namespaces are held open by this process, and live as long as it does.

use super::hand_off::end;
use super::pod::Supervisor;
use super::poll::Source;
use super::remove;
use crate::lifecycle::Event;
use crate::network;
use crate::paths::{Dirs, PodDirs};
use crate::runtime::{empty, sandbox};
use crate::store::{self, Wait};
use crate::sys::mount::{self, Depth, Propagation, SetAttr};
use crate::sys::{Called, SysResult, pidfd, process};
use crate::volumes;
use anyhow::{Context, Result};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

/// What follows when the pod's pid 1 has ended (shareProcessNamespace).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterReaper {
    /// Nobody asked for it: the machine is told.
    Tell,
    /// The machine knows that it ends, or that the sandbox is of no use, but has asked for nothing yet.
    Wait,
    /// The rest of the sandbox goes.
    Destroy,
    /// The rest of the sandbox goes, and another one comes.
    Replace,
}

impl Supervisor {
    /// Ends the pod's pid 1, if it has one. A pid 1 ends after everything in its namespace, and what is our child there after
    /// we have reaped it: not to be waited for here.
    pub(super) fn end_reaper(&mut self, then: AfterReaper) -> Result<()> {
        self.after_reaper = then;
        self.drop_early();
        for exec in self.execs.values() {
            exec.kill()?;
        }
        match &self.sandbox.reaper {
            Some(reaper) => Ok(process::send_signal(reaper.pidfd.as_fd(), libc::SIGKILL)?),
            None => self.without_reaper(),
        }
    }

    pub(super) fn reaper_ended(&mut self) -> Result<()> {
        let Some(reaper) = &self.sandbox.reaper else { return Ok(()) };
        if process::try_wait(reaper.pidfd.as_fd())?.is_none() {
            return Ok(());
        }
        self.sandbox.reaper = None;
        self.without_reaper()
    }

    fn without_reaper(&mut self) -> Result<()> {
        match self.after_reaper {
            AfterReaper::Tell => self.sandbox_lost(),
            AfterReaper::Wait => {}
            AfterReaper::Destroy => self.sandbox_gone(),
            AfterReaper::Replace => self.replace_sandbox(),
        }
        Ok(())
    }

    /// Before an exit is told: whether it comes of the end of the pod's pid 1, whose own end is seen only after all others.
    pub(super) fn look_at_reaper(&mut self) {
        let Some(reaper) = self.sandbox.reaper.as_ref().filter(|_| self.after_reaper == AfterReaper::Tell) else {
            return;
        };
        match pidfd::is_exiting(reaper.pidfd.as_fd()) {
            Ok(true) => self.sandbox_lost(),
            Ok(false) => {}
            Err(error) => self.warn("SupervisorError", format!("looking at the pod's pid 1: {error:#}")),
        }
    }

    fn sandbox_lost(&mut self) {
        self.after_reaper = AfterReaper::Wait;
        self.queue.push_back(Event::SandboxLost);
    }

    fn sandbox_gone(&mut self) {
        if network::is_used(&self.pod.record.plan.sandbox) {
            self.detach();
        } else {
            // The layers go meanwhile, once it is kept how the containers ended.
            self.save();
            self.discard_unused();
            self.remove_sandbox();
            self.queue.push_back(Event::SandboxGone);
        }
    }

    pub(super) fn remove_sandbox(&mut self) {
        self.sandbox.namespaces.clear();
        self.discard_cgroups();
        let config = self.pod.record.plan.sandbox.clone();
        let errors = remove::sandbox(&self.facts.cgroups, &config.cgroup, (&self.pod.record.dirs, &self.pod.dirs));
        self.is_cleared = errors.is_empty();
        for error in errors {
            self.warn("KillPodSandboxError", format!("{error:#}"));
        }
    }

    /// Another sandbox in the place of one that was lost, with the same volumes.
    fn replace_sandbox(&mut self) {
        self.sandbox.namespaces.clear();
        match self.make_another() {
            Ok(()) if network::is_used(&self.pod.record.plan.sandbox) => self.attach_again(),
            Ok(()) => self.queue.push_back(Event::SandboxReady { ips: self.ips() }),
            Err(error) => self.queue.push_back(Event::SandboxFailed { message: format!("{error:#}") }),
        }
    }

    fn make_another(&mut self) -> Result<()> {
        let config = &self.pod.record.plan.sandbox;
        self.is_cleared = false;
        remove::namespaces(&self.facts.cgroups, &config.cgroup, &self.pod.dirs)?;
        volumes::materialize_shm(&self.pod.dirs).context("setting up /dev/shm")?;
        let reaper = remove::cgroup(&self.facts.cgroups, &config.cgroup, remove::REAPER)?;
        let made = sandbox::create(config, &self.pod.dirs, &reaper)?;
        if let Some(reaper) = &made.reaper
            && let Err(error) = self.poll.watch(&reaper.pidfd, Source::Reaper)
        {
            // Whoever asks again would wait for its end, which nobody sees. The error to be told is the first one.
            let _ = end(reaper);
            return Err(error.into());
        }
        self.sandbox = made;
        network::write_files(config, &self.pod.dirs, &self.sandbox.addresses)?;
        self.addresses = self.sandbox.addresses.clone();
        self.after_reaper = AfterReaper::Tell;
        Ok(())
    }

    pub(super) fn ips(&self) -> Vec<String> {
        self.addresses.iter().map(IpAddr::to_string).collect()
    }
}

/// Mounts a pod's run state in its own place, for all that is mounted below it to be detached with it at once: for each call of
/// umount2(2) the kernel waits until no processor looks at what was detached (namespace_unlock in fs/namespace.c).
pub(super) fn hold_mounts(pod: &PodDirs) -> SysResult<()> {
    let place = std::fs::File::open(&pod.state).called("open", pod.state.display())?;
    let itself = mount::clone_tree(place.as_fd(), Depth::Top)?;
    // Else what is mounted on it would be mounted below it, too, where mounts propagate (mount_namespaces(7)).
    let private = SetAttr { set: 0, propagation: Some(Propagation::Private), depth: Depth::Top };
    mount::set_attributes(itself.as_fd(), private)?;
    mount::attach(itself.as_fd(), place.as_fd())
}

/// The mount namespace that those of containers begin as copies of, which all pods share: whoever is the first makes it.
pub(super) fn empty_namespace(dirs: &Dirs) -> Result<OwnedFd> {
    let directory = dirs.empty();
    if let Some(there) = empty::find(&directory)? {
        return Ok(there);
    }
    let _lock = store::lock(&dirs.store_lock(), Wait::Yes)?;
    match empty::find(&directory)? {
        Some(there) => Ok(there),
        None => empty::make(&directory),
    }
}
