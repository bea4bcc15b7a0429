//! A pod whose supervisor was killed, in the hands of this one. Its containers have gone on meanwhile; what was under way is undone
//! by its name and begun again, as the machine asks for it.
//!
//! | of the old supervisor | becomes |
//! |---|---|
//! | a container that runs | is supervised again: its end by its pidfd, its output by its FIFOs, its log where it ended |
//! | one that has ended meanwhile | has ended, with its exit code if the kernel has kept that |
//! | one that was being made | is taken away and made again |
//! | a terminal | is gone: the kernel hangs it up (SIGHUP to its session, unless that is a pid 1 which has no handler; end of file), which an event tells |
//! | commands of `podshim exec` | go on as if their clients had gone away, and end with their container |
//! | commands of probes and hooks | likewise, and the probe or the hook runs again |
//! | requests, pulls, measurements in processes of podshim's own | end by themselves; what asked for them asks again |
//! | work on the network, CNI plugins | goes on to its end, which the network's lock makes the next one wait for |
//! | clients | are disconnected |
//!
//! What a container has written stays in its FIFO as long as it runs: up to 64 KiB, or 256 if it writes much, then it waits. What the
//! old supervisor had read of it is in the log or in a file, by which the log is completed first.

use super::external::{self, External};
use super::hand_off::{Stage, Watched};
use super::keep::{Kept, Memory, Process, Traces, Word};
use super::life::Life;
use super::network;
use super::pipes::open_fifo;
use super::pod::{Parts, Supervisor, block_signals, launcher, machine_spec, now};
use super::poll::{Output, Source};
use super::remove;
use super::reserve::Reserve;
use super::sandbox::AfterReaper;
use super::slot::Instance;
use super::timeline::Timeline;
use crate::host::cgroup::CgroupSetup;
use crate::host::{self, HostFacts};
use crate::lifecycle::commanded::Commanded;
use crate::lifecycle::{Event, EventType, Found, PodEvent};
use crate::logs;
use crate::plan::adjust::Adjustment;
use crate::plan::config::{ContainerConfig, Log, PodPlan, Stdio};
use crate::runtime::UNTOLD;
use crate::runtime::sandbox::{self, Sandbox};
use crate::snapshot;
use crate::store::{self, Pod};
use crate::sys::process::{self, Child, Ended};
use crate::sys::{Called, fs, pidfd, socket};
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long processes of a container that is undone may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an init that was told to execute its command may take until it does.
const EXECUTES: Duration = Duration::from_secs(5);

/// What there is of a container's instance.
struct Find {
    found: Found,
    /// It has ended, and nothing is left that could tell how.
    vanished: bool,
}

impl Supervisor {
    /// Takes a pod over. On an error it stays as it is.
    pub(super) fn take_over((mut pod, facts): (Pod, HostFacts), memory: Memory<Life>) -> Result<Supervisor> {
        if pod.record.boot_id != host::boot_id()? {
            bail!("the pod is from before the last boot: nothing of it runs");
        }
        let signals = block_signals()?;
        let timeline = Timeline::of(&pod)?;
        let own = match &memory.life {
            Life::Own(_) => Vec::new(),
            Life::Commanded(machine) => reload(&mut pod, machine)?,
        };
        let strangers = match &memory.life {
            Life::Own(_) => Vec::new(),
            Life::Commanded(machine) => forget_strangers(&pod, &facts.cgroups, machine)?,
        };
        pod.record.plan.forget_contents();
        let sandbox = reopen(&pod, &memory)?;
        let has_lost_reaper = memory.is_settled && memory.reaper.is_some() && sandbox.reaper.is_none();
        // Nobody listens there: we hold the pod's lock. On a full disk nothing else may take the room that it leaves.
        fs::remove_file(&pod.dirs.socket())?;
        let listener = socket::listen_at(&pod.dirs.socket())?;
        let (networking, without_ports) = network::rejoin(&pod);
        let Memory { life, addresses, .. } = memory;
        let reserve = Reserve::of(pod.dirs.reserve(), pod.record.plan.containers.len());
        let launcher = launcher(&pod, &facts)?;
        let parts = Parts { signals, timeline, reserve, sandbox, listener, networking, addresses, life, launcher };
        let mut supervisor = Supervisor::assemble((pod, facts), parts)?;
        supervisor.pod_limits = memory.pod_limits;
        supervisor.failure = memory.failure;
        supervisor.deletion_grace_seconds = memory.deletion_grace_seconds;
        supervisor.after_reaper = if memory.is_settled { AfterReaper::Tell } else { AfterReaper::Wait };
        for (slot, (identity, adjustment)) in supervisor.slots.iter_mut().zip(own) {
            (slot.identity, slot.adjustment) = (identity, adjustment);
        }
        let message = "The pod's supervisor was gone; another one has taken over".to_owned();
        supervisor.emit(PodEvent { type_: EventType::Normal, reason: "TakenOver".into(), message, container: None });
        if let Some(error) = without_ports {
            supervisor.warn("NetworkError", format!("host ports: {error:#}"));
        }
        for error in strangers {
            supervisor.warn("KillContainerError", format!("{error:#}"));
        }
        supervisor.go_on_with(has_lost_reaper);
        Ok(supervisor)
    }

    /// Has the machine go on with what is found.
    fn go_on_with(&mut self, has_lost_reaper: bool) {
        let finds: Vec<Find> = (0..self.slots.len()).map(|index| self.find(index)).collect();
        let found: Vec<Found> = finds.iter().map(|find| find.found).collect();
        let is_own = matches!(self.life, Life::Own(_));
        let actions = match &mut self.life {
            Life::Own(state) => {
                let (next, actions) = state.as_ref().clone().resume(machine_spec(&self.pod), &found, now());
                **state = next;
                actions
            }
            Life::Commanded(machine) => machine.resume(&found, now()),
        };
        self.perform_all(actions);
        // Events that say what the machine knows already change nothing.
        self.queue.push_back(Event::Begin);
        if has_lost_reaper {
            // Before the ends that come of it.
            self.after_reaper = AfterReaper::Wait;
            self.queue.push_back(Event::SandboxLost);
        }
        for (container, find) in finds.into_iter().enumerate() {
            if find.found == Found::Ended && self.pod.record.plan.containers[container].stdio != Stdio::Terminal {
                self.output_may_be_lost(container);
            }
            let restart_count = self.life.present_instance(container);
            if is_own && matches!(find.found, Found::Running | Found::Ended) {
                let container_id = format!("podshim://{}", self.instance_id(container, restart_count.unwrap_or(0)));
                let image_id = self.pod.record.images[container].id.clone();
                self.queue.push_back(Event::Created { container, container_id, image_id });
            }
            if find.found == Found::Running {
                self.queue.push_back(Event::Started { container });
            }
            // The end of one that is held by its pidfd is seen there.
            let is_lost = find.found == Found::Nothing && restart_count.is_some() && self.was_running(container);
            if find.vanished || is_lost {
                self.queue.push_back(Event::Vanished { container });
            }
        }
        self.queue.push_back(Event::Tick);
    }

    /// By what the machine knows.
    fn was_running(&self, index: usize) -> bool {
        let machine = self.life.commanded();
        match machine {
            Some(machine) => machine.stage(index) == Some(crate::lifecycle::commanded::Stage::Running),
            // What was starting is not any more: it was undone.
            None => true,
        }
    }

    /// Looks for a container's present instance; whatever else there is of the container goes.
    fn find(&mut self, index: usize) -> Find {
        let name = self.pod.record.plan.containers[index].name.clone();
        if name.is_empty() {
            // The index is vacant.
            return Find { found: Found::Nothing, vanished: false };
        }
        if let Err(error) = external::until_done(&self.pod.dirs.container_state(&name)) {
            self.warn("TakeOverError", format!("container {name}: {error:#}"));
        }
        let wanted = self.life.present_instance(index);
        let adopted = match wanted.map(|restart_count| self.adopt(index, restart_count)) {
            None => Ok(None),
            Some(adopted) => adopted,
        };
        let find = adopted.unwrap_or_else(|error| {
            self.warn("TakeOverError", format!("container {name}: {error:#}"));
            // It may run or not: it does not afterwards.
            Some(Find { found: Found::Ended, vanished: true })
        });
        let is_held = self.slots[index].instance.is_some();
        if !is_held {
            for error in undo(&self.pod, &self.facts.cgroups, &name) {
                self.warn("KillContainerError", format!("container {name}: {error:#}"));
            }
        }
        if let Err(error) = self.discard_layers_but(wanted.filter(|_| is_held), &name) {
            self.warn("KillContainerError", format!("container {name}: {error:#}"));
        }
        find.unwrap_or(Find { found: Found::Nothing, vanished: false })
    }

    /// Holds the process of an instance again; `None` if nothing of it has ever executed.
    fn adopt(&mut self, index: usize, restart_count: u32) -> Result<Option<Find>> {
        let config = self.pod.record.plan.containers[index].clone();
        let kept: Option<Kept> = store::read_json(&self.pod.dirs.instance(&config.name))?;
        let Some(kept) = kept.filter(|kept| kept.restart_count == restart_count) else { return Ok(None) };
        let Some(child) = kept.process.open(Some(&self.pod.dirs.process(&config.name)))? else {
            if kept.word == Word::Perhaps {
                return Ok(None);
            }
            if let Some(mut log) = self.resume_log(index, &config, restart_count) {
                log.end_all(jiff::Timestamp::now());
            }
            return Ok(Some(Find { found: Found::Ended, vanished: true }));
        };
        let external = self.external(&config)?;
        let found = match &external {
            Some(external) if pidfd::fate(child.pidfd.as_fd())?.is_none() && external.is_held()? => Found::Held,
            Some(_) if pidfd::fate(child.pidfd.as_fd())?.is_none() => Found::Running,
            Some(_) => Found::Ended,
            None => executed(&child)?,
        };
        if external.is_none() && found == Found::Ended && kept.word == Word::Perhaps && is_untold(&child)? {
            return Ok(None);
        }
        self.hold(index, &config, Held { child, restart_count, external, found })?;
        Ok(Some(Find { found, vanished: false }))
    }

    /// The log, with what the old supervisor had read and not written. One that cannot be opened is told of, and ends no container, as
    /// one that cannot be written does not.
    fn resume_log(&mut self, index: usize, config: &ContainerConfig, restart_count: u32) -> Option<logs::Writer> {
        let resumed = self.open_log(config, restart_count).and_then(|log| {
            let Some(mut log) = log else { return Ok(None) };
            let outcome = match config.stdio {
                Stdio::Terminal => logs::Outcome::default(),
                _ => log.resume(&self.pod.dirs.unlogged(&config.name), jiff::Timestamp::now())?,
            };
            Ok(Some((log, outcome)))
        });
        let (log, outcome) = match resumed {
            Ok(resumed) => resumed?,
            Err(error) => {
                self.note(index, format!("its output is not logged: {error:#}"));
                return None;
            }
        };
        if let Some(error) = outcome.trouble {
            self.note(index, format!("{} log records are lost: {error}", outcome.lost));
        }
        Some(log)
    }

    /// What an OCI runtime of the host has made of a container, if it is one's.
    fn external(&self, config: &ContainerConfig) -> Result<Option<External>> {
        let Some(asked) = &self.pod.record.commanded else { return Ok(None) };
        let Some(runtime) = &asked.runtime else { return Ok(None) };
        let state = self.pod.dirs.container_state(&config.name);
        let rootfs = self.pod.dirs.container_data(&config.name, 0).join("rootfs");
        ensure!(state.exists(), "{} is missing", state.display());
        Ok(Some(External::again(runtime.clone(), state, rootfs)))
    }

    /// A FIFO is empty when nobody has it open any more.
    fn output_may_be_lost(&mut self, container: usize) {
        let message =
            "it ended while the pod had no supervisor: what it wrote last, up to 256 KiB, may be missing in its log";
        let (reason, message) = ("OutputMayBeLost".into(), message.to_owned());
        self.emit(PodEvent { type_: EventType::Warning, reason, message, container: Some(container) });
    }

    /// Sees the end and the output of a process from now on.
    fn hold(&mut self, index: usize, config: &ContainerConfig, held: Held) -> Result<()> {
        let Held { child, restart_count, external, found } = held;
        let state = self.pod.dirs.container_state(&config.name);
        let log = self.resume_log(index, config, restart_count);
        let log_again = (log.is_none() && config.log != Log::Nowhere).then(Instant::now);
        let cgroup = remove::cgroup(&self.facts.cgroups, &self.pod.record.plan.sandbox.cgroup, &config.name)?;
        let mut outputs = Vec::new();
        let mut input = None;
        if config.stdio == Stdio::Terminal {
            let message = "its terminal went with the pod's old supervisor: it was hung up".to_owned();
            let reason = "TerminalLost".into();
            self.emit(PodEvent { type_: EventType::Warning, reason, message, container: Some(index) });
        } else {
            for (output, file) in [(Output::Stdout, "stdout"), (Output::Stderr, "stderr")] {
                let fd = reopen_fifo(&state.join(file), OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
                let token = self.poll.watch(&fd, Source::Output(index, output))?;
                outputs.push((output, token, fd));
            }
            if config.stdio == Stdio::Stdin {
                // That of a `stdinOnce` container has ended with its only writer.
                input = Some(reopen_fifo(&state.join("stdin"), OFlag::O_RDWR | OFlag::O_NONBLOCK)?);
            }
        }
        let stage = if found == Found::Held { Stage::Created } else { Stage::Running };
        let process = Watched::new(&mut self.poll, stage, (child, Source::Exit(index)), None)?;
        self.slots[index].instance = Some(Instance {
            process,
            cgroup,
            restart_count,
            log,
            log_again,
            outputs,
            input,
            id: self.instance_id(index, restart_count),
            told: None,
            external,
            confinement: None,
        });
        Ok(())
    }
}

/// A process that is found.
struct Held {
    child: Child,
    restart_count: u32,
    external: Option<External>,
    found: Found,
}

/// Ends what there is of a container, and takes it away.
fn undo(pod: &Pod, setup: &CgroupSetup, name: &str) -> Vec<anyhow::Error> {
    let cgroup = remove::cgroup(setup, &pod.record.plan.sandbox.cgroup, name);
    let ended = cgroup.and_then(|cgroup| cgroup.end(PATIENCE));
    let traces = Traces::of(&pod.dirs, name).remove();
    let state = pod.dirs.container_state(name);
    let console = fs::remove_file(&state.join("console.sock"));
    // What an OCI runtime of the host knows of it, which makes none of a name that it knows.
    let known = snapshot::remove_tree(&state.join("oci"));
    let rest = [traces, console, known].into_iter().filter_map(Result::err).map(Into::into);
    ended.err().into_iter().chain(rest).collect()
}

/// The sandbox as it was made. One that is being made again, or taken away, may be there in part: that goes on anyway.
fn reopen(pod: &Pod, memory: &Memory<Life>) -> Result<Sandbox> {
    let namespaces = match sandbox::reopen(&pod.record.plan.sandbox, &pod.dirs) {
        Err(_) if !memory.is_settled => Vec::new(),
        other => other.context("opening the pod's namespaces again")?,
    };
    let open = |process: Process| -> Result<Option<Child>> {
        let child = process.open(None)?;
        let runs = child.as_ref().map(|child| pidfd::fate(child.pidfd.as_fd())).transpose()?;
        Ok(child.filter(|_| runs == Some(None)))
    };
    let reaper = memory.reaper.map(open).transpose()?.flatten();
    Ok(Sandbox { namespaces, reaper, addresses: memory.addresses.clone() })
}

/// What podshim's own init has come to, once it was told to go on: it executes its command, or ends.
fn executed(child: &Child) -> Result<Found> {
    let deadline = Instant::now() + EXECUTES;
    loop {
        match pidfd::has_executed(child.pidfd.as_fd())? {
            None => return Ok(Found::Ended),
            Some(true) => return Ok(Found::Running),
            Some(false) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Some(false) => {
                process::send_signal(child.pidfd.as_fd(), libc::SIGKILL)?;
                return Ok(Found::Ended);
            }
        }
    }
}

/// Whether an init that has ended, and may have been told nothing, ended as one does that is told nothing: it saw its supervisor go.
/// Nobody knows more of one that nobody has waited for.
fn is_untold(child: &Child) -> Result<bool> {
    let ended = pidfd::fate(child.pidfd.as_fd())?;
    Ok(matches!(ended, Some(Ended::Exited(UNTOLD) | Ended::Unknown)))
}

/// A FIFO in a container's run state, and nothing else.
fn reopen_fifo(path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let fd = open_fifo(path, flags)?;
    let mode = fstat(&fd).called("fstat", path.display())?.st_mode;
    ensure!(mode & SFlag::S_IFMT.bits() == SFlag::S_IFIFO.bits(), "{} is no FIFO", path.display());
    Ok(fd)
}

/// The containers of a sandbox that is commanded, from their records, at the machine's indices; the identity of each, and what NRI
/// plugins want of it.
fn reload(pod: &mut Pod, machine: &Commanded) -> Result<Vec<(String, Option<Adjustment>)>> {
    let mut own = Vec::new();
    let mut records: std::collections::BTreeMap<String, _> =
        store::containers(pod)?.into_iter().map(|record| (record.config.name.clone(), record)).collect();
    let known: Vec<(usize, String)> = machine.containers().map(|(index, report)| (index, report.id)).collect();
    for (index, id) in known {
        let record = records.remove(&id).with_context(|| format!("the record of container {id} is missing"))?;
        let PodPlan { containers, volumes, .. } = &mut pod.record.plan;
        while containers.len() <= index {
            // An index between two containers, of one that was removed, has no name until it is used again.
            containers.push(ContainerConfig { name: String::new(), mounts: Vec::new(), ..record.config.clone() });
            pod.record.images.push(record.image.clone());
            own.push((String::new(), None));
        }
        volumes.extend(record.volumes);
        pod.record.volume_images.extend(record.volume_images);
        containers[index] = record.config;
        pod.record.images[index] = record.image;
        own[index] = (record.identity, record.adjustment);
    }
    Ok(own)
}

/// Takes away the containers of such a sandbox that the machine does not know, with or without their records: they were being
/// created, which nobody heard of, or removed. What cannot be taken away goes with the sandbox.
fn forget_strangers(pod: &Pod, setup: &CgroupSetup, machine: &Commanded) -> Result<Vec<anyhow::Error>> {
    let known: Vec<String> = machine.containers().map(|(_, report)| report.id).collect();
    let mut errors = Vec::new();
    for id in store::container_ids(pod)? {
        if known.contains(&id) {
            continue;
        }
        let done = external::until_done(&pod.dirs.container_state(&id));
        let undone = undo(pod, setup, &id).into_iter().chain(done.err()).collect::<Vec<_>>();
        let removed = if undone.is_empty() { remove::container(&pod.dirs, &id) } else { Ok(()) };
        errors.extend(undone.into_iter().chain(removed.err()).map(|e| e.context(format!("container {id}"))));
    }
    Ok(errors)
}
