//! A pod's life as a kubelet leads it that repeats what was not answered, while processes are killed under it; and what may be left
//! of it afterwards, which is nothing.

use super::super::harness::{Host, Numbers, until};
use super::super::leaks;
use super::client::{Cri, Kubelet, NOBODY, container, log_of, sandbox};
use super::kills::{Steady, host_pid_of};
use super::runtimes::processes_of;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podshim::cri::api;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// The calls of a life, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    RunPodSandbox,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    StopPodSandbox,
    RemovePodSandbox,
}

use Call::{
    CreateContainer, RemoveContainer, RemovePodSandbox, RunPodSandbox, StartContainer, StopContainer, StopPodSandbox,
};

pub(super) const CALLS: [Call; 7] =
    [RunPodSandbox, CreateContainer, StartContainer, StopContainer, RemoveContainer, StopPodSandbox, RemovePodSandbox];

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    Server,
    /// That of the pod whose life it is.
    Supervisor,
    /// A process that works for this supervisor: a child of its own, a CNI plugin, an OCI runtime.
    Helper,
}

/// How a container ends that is asked to.
const ENDED: i32 = 7;
/// How long what was killed, or is not needed any more, may take to be gone.
const GOES: Duration = Duration::from_secs(10);
/// How long it is looked for somebody to kill.
const COMES: Duration = Duration::from_millis(200);
/// How long a container may take to end, in seconds.
const GRACE: i64 = 30;

/// A pod that lives, and what a kubelet knows of it: what it was answered.
#[derive(Debug, Clone)]
pub(super) struct Life {
    config: api::PodSandboxConfig,
    container: api::ContainerConfig,
    sandbox_id: String,
    container_id: String,
    answered: Option<Call>,
    /// Whether a runtime may have been killed when it was to start the container.
    may_not_start: bool,
}

impl Life {
    pub(super) fn new(host: &Host, name: &str) -> Life {
        let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done";
        Life {
            config: sandbox(host, name),
            container: container("c", script),
            sandbox_id: String::new(),
            container_id: String::new(),
            answered: None,
            may_not_start: false,
        }
    }

    fn next(&self) -> Option<Call> {
        CALLS.into_iter().find(|call| self.answered.is_none_or(|answered| *call > answered))
    }

    fn has(&self, call: Call) -> bool {
        self.answered.is_some_and(|answered| answered >= call)
    }

    fn log(&self) -> Vec<String> {
        log_of(&Path::new(&self.config.log_directory).join(&self.container.log_path))
    }

    /// Makes the next call; it is noted if it is answered.
    fn call(&mut self, kubelet: &Kubelet, call: Call) -> Result<(), Status> {
        match call {
            RunPodSandbox => self.sandbox_id = kubelet.run_sandbox(&self.config)?,
            CreateContainer => {
                self.container_id = kubelet.create((&self.sandbox_id, &self.config), &self.container)?;
            }
            StartContainer => kubelet.start_container(&self.container_id)?,
            StopContainer => kubelet.stop(&self.container_id, GRACE)?,
            RemoveContainer => kubelet.remove(&self.container_id)?,
            StopPodSandbox => kubelet.stop_sandbox(&self.sandbox_id)?,
            RemovePodSandbox => kubelet.remove_sandbox(&self.sandbox_id)?,
        }
        self.answered = Some(call);
        Ok(())
    }

    /// Waits until its container has a handler for the signal that it is stopped by.
    fn until_up(&self) {
        if self.answered == Some(StartContainer) {
            until("the container", || (!self.log().is_empty()).then_some(()));
        }
    }

    /// Lives until a call is not answered, and says so when one begins: that call and the error, or how long each took.
    pub(super) fn until_interrupted(
        &mut self,
        kubelet: &Kubelet,
        begins: impl Fn(Call),
    ) -> Result<Vec<Duration>, (Call, Status)> {
        let mut took = Vec::new();
        while let Some(call) = self.next() {
            begins(call);
            let begin = Instant::now();
            self.call(kubelet, call).map_err(|status| (call, status))?;
            took.push(begin.elapsed());
            self.until_up();
        }
        Ok(took)
    }

    /// What was answered is so.
    fn check(&self, kubelet: &Kubelet, round: &str) {
        if self.has(RemovePodSandbox) {
            assert!(kubelet.sandbox_status(&self.sandbox_id).is_err(), "{round}: a removed sandbox is back");
            return;
        }
        if self.has(RunPodSandbox) && self.next() < Some(StopPodSandbox) {
            let ready = |status: &api::PodSandboxStatus| status.state == api::PodSandboxState::SandboxReady as i32;
            let seen = kubelet.sandbox_status(&self.sandbox_id);
            assert!(seen.as_ref().is_ok_and(ready), "{round}: the sandbox is lost: {seen:?}");
        }
        if self.has(RemoveContainer) {
            let is_there = kubelet.containers().iter().any(|container| container.id == self.container_id);
            assert!(!is_there, "{round}: a removed container is back");
        } else if self.has(CreateContainer) {
            use api::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
            let seen = match kubelet.status(&self.container_id) {
                Err(_) if self.next() == Some(RemoveContainer) => return,
                seen => seen.unwrap_or_else(|status| panic!("{round}: a container is lost: {status}")),
            };
            if self.could_not_start(&seen) {
                return;
            }
            let states = match self.answered {
                Some(CreateContainer) => &[ContainerCreated, ContainerRunning][..],
                Some(StartContainer) => &[ContainerRunning, ContainerExited],
                _ => &[ContainerExited],
            };
            assert!(states.contains(&seen.state()), "{round}: {seen:?}");
            let has_ended = seen.state() == ContainerExited;
            assert!(!has_ended || seen.exit_code == ENDED, "{round}: {seen:?}");
        }
    }

    fn could_not_start(&self, seen: &api::ContainerStatus) -> bool {
        let is_created = self.answered == Some(CreateContainer);
        self.may_not_start && is_created && seen.reason == "StartError" && seen.exit_code == 128
    }

    /// Goes on as a kubelet does with what was not answered, to its end.
    pub(super) fn resume(&mut self, cri: &Cri<'_>, (round, odd): (&str, bool)) {
        while let Some(call) = self.next() {
            self.check(cri, round);
            if !self.find(cri, call, odd) {
                match self.call(cri, call) {
                    // The supervisor goes on with what it was asked for by the server that was killed.
                    Err(status) if call == CreateContainer && status.code() == Code::AlreadyExists => {
                        let it = until("the container", || kubelet_sees(cri, &self.sandbox_id));
                        assert_eq!(it.state(), api::ContainerState::ContainerCreated, "{round}");
                    }
                    // Another supervisor has found by now what it was told before.
                    Err(_) if call == StartContainer && self.is_running(cri) => self.answered = Some(StartContainer),
                    done => done.unwrap_or_else(|status| panic!("{round}: {call:?} again: {status}")),
                }
            }
            self.check(cri, round);
            if self.answered == Some(RemoveContainer) {
                self.nothing_is_in_it(cri, round);
            }
            self.until_up();
        }
        let mut lines = self.log();
        // A runtime that loses its other half may complain into the container's output.
        lines.retain(|line| line == "up" || !self.may_not_start);
        assert!(lines.iter().all(|line| line == "up") && lines.len() <= 2, "{round}: {lines:?}");
    }

    /// A sandbox all of whose containers were removed is as empty as a new one.
    fn nothing_is_in_it(&self, cri: &Cri<'_>, round: &str) {
        for found in cri.containers().iter().filter(|found| found.pod_sandbox_id == self.sandbox_id) {
            // Of another attempt.
            cri.remove(&found.id).unwrap();
        }
        let left = processes_of(&self.sandbox_id);
        assert!(left.is_empty(), "{round}: {left:?}");
        for place in ["state/pods", "root/pods"] {
            let containers = cri.host.path(place).join(&self.sandbox_id).join("containers");
            let left: Vec<_> = std::fs::read_dir(containers).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{round}: {left:?}");
        }
    }

    /// Looks for what a call that was not answered may have made: whether it need not be made again. If it is half made, that is
    /// removed, and made with the next attempt.
    fn find(&mut self, kubelet: &Kubelet, call: Call, odd: bool) -> bool {
        match call {
            RunPodSandbox => {
                let uid = &self.config.metadata.as_ref().unwrap().uid;
                let mut all = kubelet.sandboxes();
                all.retain(|found| found.metadata.as_ref().is_some_and(|metadata| metadata.uid == *uid));
                for found in &all {
                    if found.state == api::PodSandboxState::SandboxReady as i32 && !odd {
                        self.sandbox_id.clone_from(&found.id);
                        self.answered = Some(RunPodSandbox);
                        return true;
                    }
                    kubelet.stop_sandbox(&found.id).unwrap();
                    self.config.metadata.as_mut().unwrap().attempt += 1;
                }
                // Like a kubelet: the old one is removed later.
                all.iter().for_each(|found| kubelet.remove_sandbox(&found.id).unwrap());
                false
            }
            CreateContainer => {
                let Some(found) = kubelet_sees(kubelet, &self.sandbox_id) else { return false };
                assert_eq!(found.state(), api::ContainerState::ContainerCreated);
                if odd {
                    self.container.metadata.as_mut().unwrap().attempt += 1;
                    return false;
                }
                self.container_id = found.id;
                self.answered = Some(CreateContainer);
                true
            }
            StartContainer => {
                if self.could_not_start(&kubelet.status(&self.container_id).unwrap()) {
                    self.container.metadata.as_mut().unwrap().attempt += 1;
                    self.call(kubelet, CreateContainer).unwrap();
                }
                let is_started = self.is_running(kubelet);
                self.answered = if is_started { Some(StartContainer) } else { self.answered };
                is_started
            }
            _ => false,
        }
    }

    fn is_running(&self, kubelet: &Kubelet) -> bool {
        kubelet.status(&self.container_id).unwrap().state() == api::ContainerState::ContainerRunning
    }
}

/// The only container of a sandbox, if it is there.
fn kubelet_sees(kubelet: &Kubelet, sandbox: &str) -> Option<api::Container> {
    let mut all = kubelet.containers();
    all.retain(|found| found.pod_sandbox_id == sandbox);
    assert!(all.len() <= 1, "{all:?}");
    all.pop()
}

/// A host, the pod on it that stays, and what there is because of that.
pub(super) struct Scene<'a> {
    pub(super) host: &'a Host,
    pub(super) steady: Steady,
    /// Looks for what is left beside the usual: one line for each thing.
    pub(super) look: &'a dyn Fn() -> Vec<String>,
}

impl Scene<'_> {
    /// Everything but the pod that stays and what is there anyway.
    pub(super) fn traces(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = (self.look)().into_iter().collect();
        all.extend(self.host.leaks().into_iter().filter(|line| !line.starts_with("process")));
        let token = &self.host.cgroup_parent;
        let own = leaks::processes(|p| {
            let is_here = p.cgroup.contains(token) || p.cmdline.contains(token) || p.environ().contains(token);
            let is_test =
                p.pid == std::process::id() as i32 || p.cmdline.contains("--listen") || p.cmdline.contains("nriplugin");
            is_here && !is_test && !leaks::is_ending(p.pid)
        });
        let of_steady =
            |p: &leaks::Process| [&p.cgroup, &p.cmdline, p.environ()].iter().any(|text| text.contains(&self.steady.id));
        all.extend(own.iter().filter(|p| !of_steady(p)).map(|p| format!("process {} {}", p.pid, p.cmdline)));
        all.retain(|line| !line.contains(&self.steady.id));
        all
    }

    /// Each sandbox and each container is listed once, and the steady one counts.
    pub(super) fn each_is_there_once(&self, cri: &Cri<'_>, round: &str) {
        let name = |metadata: Option<&api::ContainerMetadata>| metadata.map(|m| (m.name.clone(), m.attempt));
        let sandboxes = cri.sandboxes();
        let of = |found: &api::PodSandbox| found.metadata.as_ref().map(|m| (m.uid.clone(), m.attempt));
        let names: BTreeSet<_> = sandboxes.iter().map(of).collect();
        assert_eq!(names.len(), sandboxes.len(), "{round}: {sandboxes:?}");
        let containers = cri.containers();
        let names: BTreeSet<_> =
            containers.iter().map(|found| (found.pod_sandbox_id.clone(), name(found.metadata.as_ref()))).collect();
        assert_eq!(names.len(), containers.len(), "{round}: {containers:?}");
        let steady = containers.iter().find(|found| found.id == self.steady.counts);
        let runs = |found: &api::Container| found.state() == api::ContainerState::ContainerRunning;
        assert!(steady.is_some_and(runs), "{round}: {steady:?}");
    }

    /// Waits until there is nothing that was not there before.
    pub(super) fn nothing_is_left(&self, before: &BTreeSet<String>, round: &str) {
        let deadline = Instant::now() + GOES;
        loop {
            let left: Vec<String> = self.traces().difference(before).cloned().collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{round}: left behind:\n{}", left.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Kills while pods live: so many rounds, by numbers that look random.
pub(super) struct Rounds<'a> {
    pub(super) scene: Scene<'a>,
    pub(super) victims: &'a [Victim],
    pub(super) count: usize,
    pub(super) seed: u64,
}

/// What came of them.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The calls that were interrupted.
    pub(super) interrupted: BTreeSet<Call>,
    /// How many processes were killed.
    pub(super) kills: usize,
}

impl Rounds<'_> {
    /// Each round a pod's life, in which one process is killed during one of the calls; `after` is called when the server is
    /// there again and nothing was asked of it.
    pub(super) fn run(&self, cri: &mut Cri<'_>, mut after: impl FnMut(&Cri<'_>, &str)) -> Outcome {
        let mut numbers = Numbers(self.seed);
        let mut outcome = Outcome::default();
        let mut rehearsal = Life::new(self.scene.host, "rehearsal");
        let typical = rehearsal.until_interrupted(cri, |_| {}).unwrap();
        let before = self.scene.traces();
        for number in 0..self.count {
            let call = CALLS[number % CALLS.len()];
            let victim = self.victims[(number / CALLS.len()) % self.victims.len()];
            let after_begin = typical[number % CALLS.len()].mul_f64(numbers.below(1000) as f64 / 1000.0);
            let round = format!("round {number} of seed {}: {victim:?} during {call:?}", self.seed);
            let mut life = Life::new(self.scene.host, &format!("r{number}"));
            let (interrupted, killed) = self.kill_during(cri, &mut life, (call, victim, after_begin, &mut numbers));
            outcome.kills += usize::from(killed);
            if let Some((call, status)) = interrupted {
                assert!(killed || status.message().starts_with(NOBODY), "{round}: {call:?}: {status}");
                outcome.interrupted.insert(call);
            }
            if number == self.count / 2 {
                // It ends, often while nobody is there to see it.
                std::fs::write(format!("/proc/{}/root/end", host_pid_of(self.scene.host, "ends")), "").unwrap();
            }
            if victim == Victim::Server {
                cri.restart();
            }
            life.may_not_start = victim == Victim::Helper;
            self.scene.each_is_there_once(cri, &round);
            after(cri, &round);
            life.resume(cri, (&round, numbers.below(2) == 1));
            self.scene.nothing_is_left(&before, &round);
        }
        outcome
    }

    /// Which call was not answered, and whether somebody was killed.
    fn kill_during(
        &self,
        cri: &mut Cri<'_>,
        life: &mut Life,
        (target, victim, after, numbers): (Call, Victim, Duration, &mut Numbers),
    ) -> (Option<(Call, Status)>, bool) {
        let (begins, reached) = channel();
        let mut kubelet = Kubelet::new(cri.socket.clone());
        kubelet.handler.clone_from(&cri.handler);
        std::thread::scope(|scope| {
            let living = scope.spawn(move || {
                let begins: Sender<()> = begins;
                let tell = |call| {
                    if call == target {
                        // Nobody listens any more if he has given up.
                        let _ = begins.send(());
                    }
                };
                life.until_interrupted(&kubelet, tell).err()
            });
            reached.recv_timeout(Duration::from_secs(60)).unwrap();
            // To look for them takes time.
            let supervisors = if target == RunPodSandbox { Vec::new() } else { self.supervisors() };
            std::thread::sleep(after);
            let supervisors = if target == RunPodSandbox { self.supervisors() } else { supervisors };
            let killed = self.kill(cri, (victim, supervisors), numbers);
            (living.join().unwrap(), killed)
        })
    }

    fn kill(&self, cri: &mut Cri<'_>, (victim, supervisors): (Victim, Vec<i32>), numbers: &mut Numbers) -> bool {
        let pids = match victim {
            Victim::Server => {
                cri.kill();
                return true;
            }
            Victim::Supervisor => supervisors,
            Victim::Helper => self.until_helpers(&supervisors),
        };
        let Some(last) = (pids.len() as u64).checked_sub(1) else { return false };
        let pid = pids[numbers.below(last + 1) as usize];
        // It may have ended meanwhile.
        let is_killed = kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
        // As long as it dies it has its sockets: what is asked of it then is not answered.
        until("its end", || leaks::has_ended(pid).then_some(()));
        is_killed
    }

    /// The supervisors of all pods but the steady one.
    fn supervisors(&self) -> Vec<i32> {
        let state = self.scene.host.path("state/pods");
        let mut found = leaks::processes(|p| {
            let is_supervisor = p.cmdline.contains("supervise-pod") && p.cmdline.contains(state.to_str().unwrap());
            is_supervisor
                && !p.cmdline.contains(&self.scene.steady.id)
                && !p.cgroup.contains(&self.scene.host.cgroup_parent)
        });
        found.retain(|process| leaks::leads_session(process.pid));
        found.iter().map(|process| process.pid).collect()
    }

    /// Who works for these supervisors; it may come a moment later.
    fn until_helpers(&self, supervisors: &[i32]) -> Vec<i32> {
        let deadline = Instant::now() + COMES;
        loop {
            let found: Vec<i32> = supervisors.iter().flat_map(|pid| self.helpers(*pid)).collect();
            if !found.is_empty() || Instant::now() > deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What a process has started that is in no cgroup of a pod, and what that has started.
    fn helpers(&self, pid: i32) -> Vec<i32> {
        let of_pod = |pid: &i32| {
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            cgroup.contains(&self.scene.host.cgroup_parent)
        };
        let children = leaks::children(pid).into_iter().filter(|pid| !of_pod(pid));
        children.flat_map(|child| [vec![child], self.helpers(child)].concat()).collect()
    }
}
