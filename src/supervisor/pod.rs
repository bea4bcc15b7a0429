//! The loop: what becomes ready turns into an event for the machine, and the machine's actions are performed.

use super::clients::{Client, Hearing};
use super::commanded::Waiter;
use super::discarding::Discarding;
use super::events;
use super::exec::Exec;
use super::life::Life;
use super::network::Networking;
use super::poll::{Poll, Source};
use super::remove;
use super::reserve::Reserve;
use super::sandbox::AfterReaper;
use super::slot::Slot;
use super::storage::Storage;
use super::tasks::Running;
use super::timeline::{Act, Timeline, numbers};
use crate::control::{RefusedKind, Reply};
use crate::error::Kind;
use crate::host::HostFacts;
use crate::lifecycle::status::Time;
use crate::lifecycle::{
    Action, ContainerSpec, Event, EventType, Hook, Now, PodEvent, PodSpec, Probes, StartFailure, Task,
};
use crate::network;
use crate::plan::config::{ContainerConfig, ContainerKind, Handler, LinuxContainerResources, NamespaceMode, Probe};
use crate::plan::spec;
use crate::runtime::Launcher;
use crate::runtime::sandbox::{self, Sandbox};
use crate::store::{FirstFailure, Pod, Report};
use crate::sys::{Called, SysResult, socket};
use crate::volumes;
use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// One pod's supervisor.
pub(super) struct Supervisor {
    pub(super) pod: Pod,
    pub(super) facts: HostFacts,
    /// What the numbers of this host's cgroups depend on.
    pub(super) cgroups: spec::Cgroups,
    pub(super) launcher: Launcher,
    pub(super) poll: Poll,
    pub(super) timeline: Timeline,
    pub(super) reserve: Reserve,
    /// The containers whose inits wait between two steps, who has waited longest first.
    pub(super) paused: VecDeque<usize>,
    pub(super) sandbox: Sandbox,
    pub(super) addresses: Vec<IpAddr>,
    /// One per container, in the plan's order.
    pub(super) slots: Vec<Slot>,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) execs: BTreeMap<u64, Exec>,
    /// Probes and hooks that are under way: of a container at most one of a kind.
    pub(super) tasks: BTreeMap<(usize, Task), Running>,
    pub(super) networking: Networking,
    /// If there are limits of disk space.
    pub(super) storage: Option<Storage>,
    pub(super) next_id: u64,
    /// Events to be given to the machine, in order.
    pub(super) queue: VecDeque<Event>,
    /// Clients whose wish is in the queue: they are told when it is kept, and so holds whoever supervises the pod.
    pub(super) promised: Vec<u64>,
    pub(super) life: Life,
    /// How many containers OCI runtimes of the host are creating.
    pub(super) creating_externally: usize,
    /// Clients who wait for a container of a commanded pod to come so far.
    pub(super) waiters: Vec<Waiter>,
    pub(super) listener: OwnedFd,
    pub(super) hearing: Hearing,
    signals: SignalFd,
    timer: TimerFd,
    said: BTreeSet<String>,
    pub(super) failure: Option<FirstFailure>,
    pub(super) deletion_grace_seconds: Option<i64>,
    pub(super) over: bool,
    /// Whether the sandbox was taken away, and nothing of it stayed.
    pub(super) is_cleared: bool,
    /// Whether what is on disk is what this supervisor knows.
    pub(super) is_saved: bool,
    /// The containers of which it could not be written down so far which process their instance is.
    pub(super) unkept: BTreeSet<usize>,
    /// What the pod's own cgroup has: more than the record says as long as containers are to be started again for less.
    pub(super) pod_limits: LinuxContainerResources,
    /// What follows when the pod's pid 1 has ended.
    pub(super) after_reaper: AfterReaper,
    pub(super) discarding: Discarding,
    /// Kept for the moment when there are no descriptors left.
    pub(super) spare: Option<OwnedFd>,
}

/// What a supervisor is assembled from.
pub(super) struct Parts {
    pub(super) signals: SignalFd,
    pub(super) timeline: Timeline,
    pub(super) reserve: Reserve,
    pub(super) sandbox: Sandbox,
    pub(super) listener: OwnedFd,
    pub(super) networking: Networking,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) life: Life,
    pub(super) launcher: Launcher,
}

/// What starts the containers of a pod.
pub(super) fn launcher(pod: &Pod, facts: &HostFacts) -> Result<Launcher> {
    Launcher::new(facts.cgroups.clone(), super::sandbox::empty_namespace(&pod.record.dirs)?)
}

/// From now on these signals are read from a descriptor.
pub(super) fn block_signals() -> Result<SignalFd> {
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        blocked.add(signal);
    }
    blocked.thread_block().called("sigprocmask", "TERM, INT, HUP")?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    Ok(SignalFd::with_flags(&blocked, flags).called("signalfd", "")?)
}

/// Why a container could not be started.
pub(super) struct StartFailed {
    pub(super) failure: StartFailure,
    pub(super) kind: RefusedKind,
    pub(super) message: String,
}

/// How long after it failed it is tried again to write down what is known.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// A hundred years.
pub(super) const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Both clocks.
pub(super) fn now() -> Now {
    let read = |clock| {
        let time = nix::time::clock_gettime(clock).unwrap_or(TimeSpec::new(0, 0));
        Duration::new(time.tv_sec().max(0) as u64, time.tv_nsec().clamp(0, 999_999_999) as u32)
    };
    Now { boot: read(nix::time::ClockId::CLOCK_BOOTTIME), wall: read(nix::time::ClockId::CLOCK_REALTIME) }
}

impl Supervisor {
    /// Sets the sandbox and the volumes up. On an error, what was made is undone.
    pub(super) fn new(pod: Pod, facts: HostFacts) -> Result<Supervisor> {
        let made = Self::set_up(pod.clone(), facts.clone());
        if made.is_err() {
            // The error that made us give up is the one to be told.
            drop(remove::sandbox(&facts.cgroups, &pod.record.plan.sandbox.cgroup, (&pod.record.dirs, &pod.dirs)));
        }
        made
    }

    fn set_up(mut pod: Pod, facts: HostFacts) -> Result<Supervisor> {
        let signals = block_signals()?;
        super::sandbox::hold_mounts(&pod.dirs)?;
        let timeline = Timeline::of(&pod)?;
        let reserve = Reserve::of(pod.dirs.reserve(), pod.record.plan.containers.len());
        let plan = &pod.record.plan;
        let prepare = || Self::prepare(&pod, &facts, &timeline);
        // Pid 1 of a pod is born in a cgroup below the pod's; and who has the pod's making told is told one thing after the other.
        let is_first = timeline.is_on() || plan.sandbox.namespaces.pid == NamespaceMode::Pod;
        let mut prepared = if is_first { Some(prepare()?) } else { None };
        let reaper = remove::cgroup(&facts.cgroups, &plan.sandbox.cgroup, remove::REAPER)?;
        let made_of = |made: &Sandbox| numbers(made.namespaces.iter().map(|(kind, fd)| (*kind, fd.as_fd())));
        let make = || sandbox::create(&plan.sandbox, &pod.dirs, &reaper);
        let sandbox = timeline.act(|| Act::Namespaces, made_of, make)?;
        let is_attached = crate::network::is_used(&plan.sandbox);
        let mut attach = || super::network::attach(&pod, || prepared.take().map_or_else(prepare, Ok));
        let (attached, networking, launcher) = match is_attached {
            true => timeline.act(|| Act::Network, |(attached, ..)| addresses_of(attached), attach)?,
            false => attach()?,
        };
        let addresses = if is_attached { attached.addresses } else { sandbox.addresses.clone() };
        network::write_files(&plan.sandbox, &pod.dirs, &addresses)?;
        // The record on the disk still has them.
        pod.record.plan.forget_contents();
        let life = Life::begin(&pod);
        let listener = socket::listen_at(&pod.dirs.socket())?;
        let parts = Parts { signals, timeline, reserve, sandbox, listener, networking, addresses, life, launcher };
        let mut supervisor = Self::assemble((pod, facts), parts)?;
        supervisor.network_notes(attached.notes);
        supervisor.queue.push_back(Event::Begin);
        // Whoever is told that the pod is set up relies on it.
        supervisor.report()?;
        supervisor.keep()?;
        supervisor.reserve.fill()?;
        Ok(supervisor)
    }

    /// What a pod needs beside its namespaces, while plugins that put it on its network are waited for.
    fn prepare(pod: &Pod, facts: &HostFacts, timeline: &Timeline) -> Result<Launcher> {
        let plan = &pod.record.plan;
        for volume in &plan.volumes {
            let act = || Act::Volume { name: volume.name.clone() };
            let place = |_: &()| pod.volumes().of(volume).display().to_string();
            timeline.act(act, place, || volumes::materialize(volume, pod.volumes()))?;
        }
        let own_files = || {
            volumes::materialize_shm(&pod.dirs).context("setting up /dev/shm")?;
            volumes::materialize_own_files(&pod.dirs).context("setting up files of the pod's containers")
        };
        timeline.act(|| Act::OwnFiles, |()| String::new(), own_files)?;
        let cgroups = crate::cgroups::of_spec(facts, &plan.sandbox.cgroup.parent)?;
        let cgroup = remove::cgroup(&facts.cgroups, &plan.sandbox.cgroup, "")?;
        let limits = spec::pod_resources(&plan.sandbox.resources, &cgroups)?;
        let make_cgroup = || {
            cgroup.create(&limits)?;
            Ok(cgroup.pass_down()?)
        };
        timeline.act(|| Act::PodCgroup, |()| cgroup.path(), make_cgroup)?;
        launcher(pod, facts)
    }

    /// A supervisor of a sandbox that is there.
    pub(super) fn assemble((pod, facts): (Pod, HostFacts), parts: Parts) -> Result<Supervisor> {
        let Parts { signals, timeline, reserve, sandbox, listener, networking, addresses, life, launcher } = parts;
        let plan = &pod.record.plan;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
            .called("timerfd_create", "CLOCK_BOOTTIME")?;
        let mut poll = Poll::new()?;
        let hearing = Hearing::Now(poll.watch(&listener, Source::Listener)?);
        poll.watch(&signals, Source::Signals)?;
        poll.watch(&timer, Source::Timer)?;
        let storage = Storage::of(&pod)?;
        if let Some(storage) = &storage {
            poll.watch(storage.timer(), Source::Storage)?;
        }
        if let Some(reaper) = &sandbox.reaper {
            poll.watch(&reaper.pidfd, Source::Reaper)?;
        }
        let mut supervisor = Supervisor {
            networking,
            timeline,
            reserve,
            is_saved: true,
            unkept: BTreeSet::new(),
            paused: VecDeque::new(),
            after_reaper: AfterReaper::Tell,
            discarding: Discarding::of(&pod.dirs),
            pod_limits: plan.sandbox.resources.clone(),
            spare: Some(launcher.null()?),
            launcher,
            life,
            creating_externally: 0,
            waiters: Vec::new(),
            slots: plan.containers.iter().map(|_| Slot::default()).collect(),
            sandbox,
            cgroups: crate::cgroups::of_spec(&facts, &plan.sandbox.cgroup.parent)?,
            facts,
            poll,
            addresses,
            clients: BTreeMap::new(),
            execs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            storage,
            next_id: 0,
            queue: VecDeque::new(),
            promised: Vec::new(),
            listener,
            hearing,
            signals,
            timer,
            said: BTreeSet::new(),
            failure: None,
            deletion_grace_seconds: None,
            over: false,
            is_cleared: false,
            pod,
        };
        supervisor.watch_name_server();
        Ok(supervisor)
    }

    /// Runs the pod to its end.
    pub(super) fn run(&mut self) -> Result<()> {
        loop {
            self.settle()?;
            if self.over {
                self.end_discarding();
                return Ok(());
            }
            self.make_next();
            let release = || self.slots.iter_mut().for_each(Slot::release);
            for source in self.poll.wait(self.discarding.patience(), release)? {
                if let Err(error) = self.ready(source) {
                    self.went_wrong(source, &error);
                }
            }
        }
    }

    /// An error about one thing ends that thing and not the supervisor: a client is disconnected, a process is killed. Nor does an
    /// error about that end: what has made the first, such as too few descriptors, makes a second, and what is ready still comes again.
    fn went_wrong(&mut self, source: Source, error: &anyhow::Error) {
        self.warn("SupervisorError", format!("{source:?}: {error:#}"));
        if let Err(error) = self.end_what_failed(source, error) {
            self.warn("SupervisorError", format!("{source:?}: {error:#}"));
        }
    }

    fn end_what_failed(&mut self, source: Source, error: &anyhow::Error) -> Result<()> {
        match source {
            Source::Client(id) => {
                self.disconnect(id);
                Ok(())
            }
            Source::HandOff(index) | Source::Exit(index) | Source::Output(index, _) => self.kill_container(index),
            Source::Console(index) | Source::ExternalStart(index) => self.kill_container(index),
            Source::ExecHandOff(id) | Source::ExecExit(id) => self.execs.get(&id).map_or(Ok(()), Exec::kill),
            Source::Pull(index) => self.cancel_start(index),
            Source::Task(container, task) => {
                self.task_went_wrong(container, task, error);
                Ok(())
            }
            Source::Signals | Source::Timer | Source::Listener | Source::Reaper => Ok(()),
            Source::Network | Source::NameServer => Ok(()),
            Source::Discarding | Source::Storage | Source::StorageAnswer => Ok(()),
        }
    }

    /// Gives the machine what has happened, performs what it asks, then tells the world.
    pub(super) fn settle(&mut self) -> Result<()> {
        let mut changed = false;
        while let Some(event) = self.queue.pop_front() {
            changed = true;
            let (now, deletion) = (now(), self.life.deletion_timestamp());
            let is_exit = matches!(event, Event::Exited { .. });
            let is_eviction = matches!(event, Event::Evicted { .. });
            let actions = self.life.step(event, now);
            if let Some(at) = self.life.deletion_timestamp().filter(|at| Some(*at) != deletion) {
                self.deletion_grace_seconds = Some(at.0 - Time::from(now.wall).0);
                // Before any process is told to end: who takes over would start it again.
                self.save();
            }
            let is_start = |action: &Action| matches!(action, Action::Start { .. });
            if is_eviction || is_exit && actions.iter().any(is_start) && !self.kernel_keeps_exits() {
                // Nobody else knows that the pod fails whatever its containers exit with, or how one has ended; and a start takes a while.
                self.save();
            }
            self.perform_all(actions);
        }
        if changed {
            self.save();
            self.arm_timer()?;
            self.answer_waiters();
        }
        self.keep_promises();
        self.discard_unused();
        Ok(())
    }

    /// What others have asked for is known to the machine, and kept.
    fn keep_promises(&mut self) {
        for id in std::mem::take(&mut self.promised) {
            self.say(id, &Reply::Accepted, &[]);
        }
    }

    /// Performs actions in their order.
    pub(super) fn perform_all(&mut self, actions: Vec<Action>) {
        for action in actions {
            if let Err(error) = self.perform(action.clone()) {
                self.not_performed(action, &error);
            }
        }
    }

    /// An action that failed is answered as such where the machine waits for an answer.
    fn not_performed(&mut self, action: Action, error: &anyhow::Error) {
        let message = format!("{error:#}");
        match action {
            Action::Start { container, restart_count } => {
                let failed = StartFailed { failure: StartFailure::Create, kind: RefusedKind::Failed, message };
                self.start_failed(container, restart_count, failed);
            }
            Action::DestroySandbox => {
                self.warn("KillPodSandboxError", message);
                self.queue.push_back(Event::SandboxGone);
            }
            other => self.warn("SupervisorError", format!("{other:?}: {message}")),
        }
    }

    fn ready(&mut self, source: Source) -> Result<()> {
        match source {
            Source::Signals => self.signalled(),
            Source::Timer => {
                // Its count is of no interest; reading it makes it unready.
                let _ = self.timer.wait();
                self.hear_again();
                self.queue.push_back(Event::Tick);
                Ok(())
            }
            Source::Listener => self.accept(),
            Source::Client(id) => self.client_ready(id),
            Source::HandOff(index) => self.hand_off(index),
            Source::Exit(index) => self.exited(index),
            Source::Console(index) => self.console_ready(index),
            Source::ExternalStart(index) => self.external_started(index),
            Source::Output(index, output) => self.output_ready(index, output),
            Source::Pull(index) => self.pulled(index),
            Source::ExecHandOff(id) => self.exec_hand_off(id),
            Source::ExecExit(id) => self.exec_exited(id),
            Source::Task(container, task) => self.task_ready(container, task),
            Source::Reaper => self.reaper_ended(),
            Source::Network => self.network_ready(),
            Source::NameServer => self.name_server_ended(),
            Source::Discarding => {
                self.discarding_ready();
                Ok(())
            }
            Source::Storage => self.storage_due(),
            Source::StorageAnswer => self.storage_answer(),
        }
    }

    fn signalled(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().called("read", "signalfd")? {
            // A terminal that goes away is not the pod's end.
            if info.ssi_signo != Signal::SIGHUP as u32 {
                self.queue.push_back(Event::Stop { grace: None });
            }
        }
        Ok(())
    }

    fn perform(&mut self, action: Action) -> Result<()> {
        match action {
            // It was made before the CLI was told that the pod is set up.
            Action::CreateSandbox if self.after_reaper == AfterReaper::Tell => {
                self.queue.push_back(Event::SandboxReady { ips: self.ips() });
                Ok(())
            }
            Action::CreateSandbox => self.end_reaper(AfterReaper::Replace),
            Action::Start { container, restart_count } => {
                // It takes a while, and CRI's CreateContainer, which is all that asks for it, does not wait.
                if self.life.commanded().is_some() && !self.promised.is_empty() {
                    self.save();
                    self.keep_promises();
                    // Who was woken by the answer may wait for this processor.
                    std::thread::yield_now();
                }
                self.start(container, restart_count)
            }
            Action::CancelStart { container } => self.cancel_start(container),
            Action::Perform { container, task } => self.perform_task(container, task),
            Action::TimeOut { container, task } => self.time_out_task(container, task),
            Action::Signal { container } => self.signal_container(container),
            Action::Kill { container } => self.kill_container(container),
            Action::Run { container } => self.release(container),
            Action::Discard { container } => self.discard(container),
            Action::DestroySandbox => self.end_reaper(AfterReaper::Destroy),
            Action::Emit(event) => {
                self.emit(event);
                Ok(())
            }
            Action::Finished => {
                // It could not be replaced, or not be used, and the machine knows of none.
                self.end_networking();
                if matches!(self.after_reaper, AfterReaper::Replace | AfterReaper::Wait) {
                    self.remove_sandbox();
                }
                self.over = true;
                Ok(())
            }
        }
    }

    /// Puts an event on the pod's list.
    pub(super) fn emit(&mut self, event: PodEvent) {
        let object = match event.container.and_then(|index| self.pod.record.plan.containers.get(index)) {
            Some(container) => format!("container/{}", container.name),
            None => format!("pod/{}", self.pod.record.plan.sandbox.name),
        };
        // A full disk must not end the supervisor: the event is lost, the pod is not.
        let _ = events::append(&self.pod.dirs, event, object, Time::from(now().wall));
    }

    /// A warning about the pod.
    pub(super) fn warn(&mut self, reason: &str, message: String) {
        self.emit(PodEvent { type_: EventType::Warning, reason: reason.into(), message, container: None });
    }

    /// A warning about a container, once in a pod's life.
    pub(super) fn note(&mut self, container: usize, message: String) {
        if self.said.insert(message.clone()) {
            let reason = "Restricted".into();
            self.emit(PodEvent { type_: EventType::Warning, reason, message, container: Some(container) });
        }
    }

    /// Tells the machine that a start failed. The first failure of a first start is remembered: `podshim run` gives up for
    /// it, as nothing that ran before can be lost.
    pub(super) fn start_failed(&mut self, container: usize, restart_count: u32, failed: StartFailed) {
        let StartFailed { failure, kind, message } = failed;
        self.look_at_reaper();
        let config = &self.pod.record.plan.containers[container];
        let is_own = config.kind != ContainerKind::Ephemeral
            && !self.slots[container].start_cancelled
            && self.after_reaper == AfterReaper::Tell;
        if restart_count == 0 && is_own {
            let message = format!("container {}: {message}", config.name);
            self.failure.get_or_insert(FirstFailure { kind, message });
        }
        for early in std::mem::take(&mut self.slots[container].attached) {
            self.say(early.client, &Reply::Refused { kind, message: message.clone() }, &[]);
        }
        self.refuse_waiters(container, kind, &message);
        self.queue.push_back(Event::StartFailed { container, failure, message });
    }

    /// Writes down what is known. Without space on the state's disk the pod goes on unseen, and nobody can take it over: it is
    /// tried again until it succeeds.
    pub(super) fn save(&mut self) {
        // Nobody takes over what is over.
        let (reported, kept) = (self.report(), if self.over { Ok(()) } else { self.keep() });
        let saved = reported.and(kept).and(self.keep_unkept());
        let was_saved = std::mem::replace(&mut self.is_saved, saved.is_ok());
        if let (Err(error), true) = (saved, was_saved) {
            // The supervisor's log may be on the same disk.
            let _ = writeln!(std::io::stderr(), "podshim: {error:#}");
            self.warn("SupervisorError", format!("{error:#}"));
        }
        self.tell_watchers();
    }

    fn report(&mut self) -> Result<()> {
        let mut status = self.life.status();
        status.qos_class = Some(self.pod.record.plan.qos_class.clone());
        self.tell_network(&status);
        let report = Report {
            status,
            deletion: self.life.deletion_timestamp(),
            deletion_grace_seconds: self.deletion_grace_seconds,
            generation: self.pod.record.generation,
            over: self.over,
            cleared: self.over && self.is_cleared,
            failure: self.failure.clone(),
            commanded: self.commanded_report(),
            sandbox_lost: self.life.commanded().is_some_and(|machine| machine.has_lost_its_sandbox()),
        };
        self.reserve.replace(&self.pod.dirs.status(), &report)
    }

    /// For what is due next: of the machine, and of what failed here.
    pub(super) fn arm_timer(&self) -> SysResult<()> {
        let again = (!self.is_saved).then(|| now().boot + SAVE_AGAIN);
        let all = [self.life.next_deadline(), again, self.networking.again(), self.hearing.again()];
        let Some(deadline) = all.into_iter().flatten().min() else {
            return self.timer.unset().called("timerfd_settime", "off");
        };
        // A zero time would disarm it; one in the past makes it fire at once; one beyond the kernel's reach is far enough.
        let at = TimeSpec::from_duration(deadline.clamp(Duration::from_nanos(1), FAR));
        self.timer
            .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .called("timerfd_settime", format_args!("{deadline:?}"))
    }

    /// The container of a name, if it is the pod's.
    pub(super) fn index_of(&self, container: &str) -> Result<usize> {
        let containers = &self.pod.record.plan.containers;
        containers.iter().position(|c| c.name == container).ok_or_else(|| {
            let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
            crate::error::failure(
                Kind::NotFound,
                format!("pod {} has no container {container:?}: it has {}", self.pod.full_name(), names.join(", ")),
            )
        })
    }
}

fn addresses_of(attached: &network::Attached) -> String {
    attached.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
}

pub(super) fn machine_spec(pod: &Pod) -> PodSpec {
    let plan = &pod.record.plan;
    PodSpec {
        name: plan.sandbox.name.clone(),
        namespace: plan.sandbox.namespace.clone(),
        uid: plan.sandbox.uid.clone(),
        restart_policy: plan.restart_policy,
        grace: Duration::from_secs(plan.grace_seconds).min(FAR),
        active_deadline: plan.active_deadline_seconds.map(Duration::from_secs),
        readiness_gates: plan.readiness_gates.clone(),
        containers: plan.containers.iter().map(container_spec).collect(),
    }
}

/// What the machine must know of a container.
pub(super) fn container_spec(config: &ContainerConfig) -> ContainerSpec {
    let hook = |handler: &Option<Handler>| {
        handler.as_ref().map(|handler| match handler {
            Handler::Sleep { seconds } => Hook::Sleep(Duration::from_secs(*seconds).min(FAR)),
            _ => Hook::Perform,
        })
    };
    let timing = |probe: &Option<Probe>| probe.as_ref().map(|probe| probe.timing.clone());
    ContainerSpec {
        name: config.name.clone(),
        kind: config.kind,
        image: config.image.clone(),
        fixed: Some(super::update::fixed(config.resize, &config.resources)),
        restart: config.restart.clone(),
        probes: Probes {
            startup: timing(&config.lifecycle.startup),
            liveness: timing(&config.lifecycle.liveness),
            readiness: timing(&config.lifecycle.readiness),
        },
        post_start: hook(&config.lifecycle.post_start),
        pre_stop: hook(&config.lifecycle.pre_stop),
    }
}
