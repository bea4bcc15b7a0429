//! What is done about the pod's network. Netlink, packet filter rules and CNI plugins take time and memory, so a child that is
//! forked for it does the work, one at a time, and answers in one message.

use super::forked::Forked;
use super::pod::{Supervisor, now};
use super::poll::{Source, Token};
use super::sandbox::AfterReaper;
use crate::lifecycle::Event;
use crate::lifecycle::status::PodStatus;
use crate::network::{self, Attached, Standing};
use crate::store::Pod;
use anyhow::Result;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long after it failed something is tried again; each time that it fails again, twice as long, up to 64 times.
const AGAIN: Duration = Duration::from_secs(1);

/// What a child is forked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Job {
    /// Another sandbox is put on the network.
    Attach,
    /// The network is told how the pod stands.
    Tell(Standing),
    /// The name server has ended, and is started again.
    Revive,
    /// The pod leaves the network.
    Detach,
}

/// The network's part of a supervisor.
#[derive(Default)]
pub(super) struct Networking {
    /// The job that is under way, and where its answer comes.
    working: Option<(Job, Forked<Attached>, Token)>,
    waiting: VecDeque<Job>,
    /// What the network was told last, or is being told.
    told: Option<Standing>,
    trouble: Trouble,
    name_server: Option<(OwnedFd, Token)>,
    /// The host's ports that lead to the pod: no other process can have them as long as these sockets are there.
    host_ports: Vec<OwnedFd>,
}

/// What failed, and is to be tried again: it may be all that ever changes about the pod.
#[derive(Default)]
struct Trouble {
    /// When, on the boot clock; nothing is told before.
    again: Option<Duration>,
    /// Since it succeeded last.
    failures: u32,
    /// Whether the name server is to come back then.
    revives: bool,
}

impl Networking {
    /// When something is tried again, on the boot clock.
    pub(super) fn again(&self) -> Option<Duration> {
        self.trouble.again
    }

    /// Whether another sandbox is still to be put on the network.
    pub(super) fn is_attaching(&self) -> bool {
        let working = self.working.as_ref().map(|(job, ..)| job);
        working.into_iter().chain(&self.waiting).any(|job| *job == Job::Attach)
    }

    pub(super) fn release_host_ports(&mut self) {
        self.host_ports.clear();
    }
}

/// Puts a new pod on its network, and waits until it is. What is to be done in the meantime is done in any case.
pub(super) fn attach<T>(pod: &Pod, meanwhile: impl FnOnce() -> Result<T>) -> Result<(Attached, Networking, T)> {
    if !network::is_used(&pod.record.plan.sandbox) {
        return Ok((Attached::default(), Networking::default(), meanwhile()?));
    }
    let host_ports = network::hold_host_ports(&pod.record.dirs, &pod.record.plan.sandbox)?;
    let attaching = fork(pod, &Job::Attach)?;
    let done = meanwhile();
    // Before anything is undone.
    let attached = attaching.wait()?;
    Ok((attached, Networking { host_ports, ..Networking::default() }, done?))
}

/// The network's part of a pod that is on its network, for another supervisor; and why it does not have the host's ports.
pub(super) fn rejoin(pod: &Pod) -> (Networking, Option<anyhow::Error>) {
    let sandbox = &pod.record.plan.sandbox;
    if !network::is_used(sandbox) {
        return (Networking::default(), None);
    }
    match network::hold_host_ports(&pod.record.dirs, sandbox) {
        Ok(host_ports) => (Networking { host_ports, ..Networking::default() }, None),
        Err(error) => (Networking::default(), Some(error)),
    }
}

fn fork(pod: &Pod, job: &Job) -> Result<Forked<Attached>> {
    Forked::begin("for the network", || perform(pod, job))
}

/// What a job other than [`Job::Attach`] has to say is in the notes.
fn perform(pod: &Pod, job: &Job) -> Result<Attached> {
    let (dirs, sandbox) = (&pod.record.dirs, &pod.record.plan.sandbox);
    match job {
        Job::Attach => network::attach(dirs, sandbox, &pod.dirs),
        Job::Tell(standing) => network::tell(dirs, sandbox, standing),
        Job::Revive => network::revive(dirs),
        Job::Detach => network::detach(dirs, &sandbox.uid),
    }
}

impl Supervisor {
    /// Another sandbox is to be put on the network: [`Event::SandboxReady`] or [`Event::SandboxFailed`] follows.
    pub(super) fn attach_again(&mut self) {
        self.network_job(Job::Attach);
    }

    /// The pod leaves the network, and then its sandbox goes: [`Event::SandboxGone`] follows.
    pub(super) fn detach(&mut self) {
        // What the network was still to be told is of no interest any more.
        self.networking.waiting.clear();
        self.networking.trouble = Trouble::default();
        self.network_job(Job::Detach);
    }

    /// Tells the network how the pod stands, if that has changed; what failed is tried again when it is time.
    pub(super) fn tell_network(&mut self, status: &PodStatus) {
        let sandbox = &self.pod.record.plan.sandbox;
        if sandbox.network.is_none() || !network::is_used(sandbox) {
            return;
        }
        let standing = Standing {
            ready: status.is_ready(),
            terminating: self.life.deletion_timestamp().is_some(),
            labels: sandbox.labels.clone(),
        };
        if self.networking.trouble.again.is_some_and(|at| at > now().boot) {
            return;
        }
        self.networking.trouble.again = None;
        if std::mem::take(&mut self.networking.trouble.revives) && self.life.goes_on() {
            self.network_job(Job::Revive);
        }
        if self.networking.told.as_ref() != Some(&standing) {
            self.networking.told = Some(standing.clone());
            self.networking.waiting.retain(|job| !matches!(job, Job::Tell(_)));
            self.network_job(Job::Tell(standing));
        }
    }

    fn network_job(&mut self, job: Job) {
        self.networking.waiting.push_back(job);
        if self.networking.working.is_none() {
            self.next_network_job();
        }
    }

    fn next_network_job(&mut self) {
        while let Some(job) = self.networking.waiting.pop_front() {
            let answer = match fork(&self.pod, &job) {
                Ok(working) => match self.poll.watch(&working, Source::Network) {
                    Ok(token) => {
                        self.networking.working = Some((job, working, token));
                        return;
                    }
                    // It is not left alone: all else waits for it.
                    Err(_) => working.wait(),
                },
                Err(error) => Err(error),
            };
            self.network_done(job, answer);
        }
    }

    /// The child has answered, or ended.
    pub(super) fn network_ready(&mut self) -> Result<()> {
        let Some((job, working, token)) = self.networking.working.take() else { return Ok(()) };
        self.poll.forget(token, working.as_fd());
        let answer = working.wait();
        self.network_done(job, answer);
        self.next_network_job();
        Ok(self.arm_timer()?)
    }

    fn network_done(&mut self, job: Job, answer: Result<Attached>) {
        match (job, answer) {
            (Job::Attach, answer) => {
                let event = self.attached_again(answer);
                self.queue.push_back(event);
            }
            (Job::Detach, answer) => {
                match answer {
                    Ok(left) => self.network_notes(left.notes),
                    Err(error) => self.warn("KillPodSandboxError", format!("{error:#}")),
                }
                self.remove_sandbox();
                self.queue.push_back(Event::SandboxGone);
            }
            (Job::Tell(_) | Job::Revive, Ok(attached)) => {
                self.networking.trouble.failures = 0;
                self.network_notes(attached.notes);
            }
            (job @ (Job::Tell(_) | Job::Revive), Err(error)) => self.network_failed(&job, &error),
        }
        self.watch_name_server();
    }

    /// It is tried again after a while, and told of once: without that, Services would lead to a pod that is not ready, or not lead
    /// to one that is, until it changes again.
    fn network_failed(&mut self, job: &Job, error: &anyhow::Error) {
        let networking = &mut self.networking;
        match job {
            Job::Revive => networking.trouble.revives = true,
            Job::Tell(standing) if networking.told.as_ref() == Some(standing) => networking.told = None,
            // What has followed is told anyway.
            _ => {}
        }
        networking.trouble.again = Some(now().boot + AGAIN * (1_u32 << networking.trouble.failures.min(6)));
        networking.trouble.failures += 1;
        if networking.trouble.failures == 1 {
            self.warn("NetworkError", format!("{error:#}"));
        }
    }

    /// What came of putting another sandbox on the network. One that is not on it is there, but of no use: when the machine asks
    /// again, yet another one comes.
    fn attached_again(&mut self, answer: Result<Attached>) -> Event {
        match answer.and_then(|attached| self.attached(attached)) {
            Ok(()) if self.after_reaper == AfterReaper::Wait => {
                Event::SandboxFailed { message: "the pod's pid 1 has ended meanwhile".into() }
            }
            Ok(()) => Event::SandboxReady { ips: self.ips() },
            Err(error) => {
                if self.after_reaper == AfterReaper::Tell {
                    self.after_reaper = AfterReaper::Wait;
                }
                Event::SandboxFailed { message: format!("{error:#}") }
            }
        }
    }

    /// What an attachment brought.
    pub(super) fn attached(&mut self, attached: Attached) -> Result<()> {
        if network::is_used(&self.pod.record.plan.sandbox) {
            self.addresses = attached.addresses;
            network::write_files(&self.pod.record.plan.sandbox, &self.pod.dirs, &self.addresses)?;
        }
        self.network_notes(attached.notes);
        Ok(())
    }

    pub(super) fn network_notes(&mut self, notes: Vec<String>) {
        for note in notes {
            self.warn("Network", note);
        }
    }

    /// Watches the name server, if there is one: every pod's supervisor does, so it comes back as long as there are pods.
    pub(super) fn watch_name_server(&mut self) {
        if self.networking.name_server.is_some() || self.pod.record.plan.sandbox.network.is_none() {
            return;
        }
        let watched = network::name_server(&self.pod.record.dirs).and_then(|found| {
            let Some(pidfd) = found else { return Ok(None) };
            let token = self.poll.watch(&pidfd, Source::NameServer)?;
            Ok(Some((pidfd, token)))
        });
        match watched {
            Ok(watched) => self.networking.name_server = watched,
            Err(error) => self.warn("NetworkError", format!("looking for the name server: {error:#}")),
        }
    }

    /// The name server has ended: it is started again ([`network::sync`] does not do so more than once a second).
    pub(super) fn name_server_ended(&mut self) -> Result<()> {
        if let Some((pidfd, token)) = self.networking.name_server.take() {
            self.poll.forget(token, pidfd.as_fd());
        }
        if self.life.goes_on() {
            self.network_job(Job::Revive);
        }
        Ok(self.arm_timer()?)
    }

    /// Before the supervisor ends, whatever is still under way is waited for: it may hold what is to be removed.
    pub(super) fn end_networking(&mut self) {
        self.networking.waiting.clear();
        if let Some((_, working, token)) = self.networking.working.take() {
            self.poll.forget(token, working.as_fd());
            let _ = working.wait();
        }
    }
}
