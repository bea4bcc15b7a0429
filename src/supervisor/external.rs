//! Containers that an OCI runtime of the host makes (runc, crun, …), from the bundle that podshim would make them from itself: what
//! a runtime handler of CRI stands for.
//!
//! ```text
//!  supervisor            runtime create            container's init
//!     |-- spawn -------------->|--------- fork ---------->|  waits                    = OCI "created"
//!     |<- exit 0, pid file ----x                          |  our child: we are the subreaper
//!     |-- spawn: runtime start -------------------------->|  execve(2)                = OCI "running"
//! ```
//!
//! A supervisor that is killed leaves a maker behind, which goes on to its end: another supervisor waits for that before it looks
//! what has become of the container ([`until_done`]). What starts a container is such a process too.
//!
//! We are the subreaper only as long as there is a creation: what a container leaves behind later is nobody's child here.
//! Between us and the runtime is the maker, a process of ours that is subreaper too: a runtime that fails may leave processes,
//! and the first process of a pod's pid namespace does not end before somebody has waited for them.
//!
//! From there on it is a process like any other: signals, its end, commands in it and its removal take no runtime. What the
//! runtime keeps of it is in the container's run state, and goes with that.

use super::exec::Exec;
use super::hand_off::{ENDS, Stage, end};
use super::keep::Process;
use super::pod::Supervisor;
use super::poll::{Source, Token};
use super::slot::Instance;
use crate::cgroups::Cgroup;
use crate::lifecycle::Event;
use crate::runtime::{FailureKind, StepFailure};
use crate::store::{self, OciRuntime};
use crate::sys::process::{self, Child, Ended, Subreaper};
use crate::sys::socket::{self, Received};
use crate::sys::{Called, SysResult, fs, mount, pidfd, poll};
use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, wait, waitpid};
use nix::unistd::{Pid, setpgid};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A container's runtime, as far as it is needed after the creation.
pub(super) struct External {
    runtime: OciRuntime,
    state: PathBuf,
    /// Where its root file system is mounted.
    pub(super) rootfs: PathBuf,
    console: Option<(Token, Console)>,
    starting: Option<(Token, Child)>,
}

/// Where the runtime sends the terminal.
enum Console {
    Listening(UnixListener),
    Connected(UnixStream),
}

impl Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Console::Listening(listener) => listener.as_fd(),
            Console::Connected(stream) => stream.as_fd(),
        }
    }
}

/// What a runtime makes a container from.
pub(super) struct Making<'a> {
    pub(super) runtime: &'a OciRuntime,
    pub(super) state: &'a Path,
    /// Where the root file system is to be mounted: the spec's `root.path`.
    pub(super) at: PathBuf,
    pub(super) rootfs: OwnedFd,
    pub(super) stdio: [OwnedFd; 3],
    pub(super) with_terminal: bool,
}

impl External {
    /// That of a container that was made under another supervisor.
    pub(super) fn again(runtime: OciRuntime, state: PathBuf, rootfs: PathBuf) -> External {
        External { runtime, state, rootfs, console: None, starting: None }
    }

    /// Whether its init waits to be started: the FIFO that runc, crun and youki make for that goes when it is.
    pub(super) fn is_held(&self) -> Result<bool> {
        Ok(self.state.join("oci").join(self.id()?).join("exec.fifo").exists())
    }

    /// The runtime's command line up to its verb.
    fn command(runtime: &OciRuntime, state: &Path) -> Command {
        let mut command = Command::new(&runtime.path);
        // What it says of itself does not belong into the container's output.
        command.args(&runtime.args).arg("--root").arg(state.join("oci")).arg("--log").arg(state.join("oci.log"));
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).current_dir("/");
        command
    }

    fn id(&self) -> Result<&str> {
        self.state.file_name().and_then(|name| name.to_str()).context("the container's run state has no name")
    }

    /// What the runtime said last: why it failed.
    fn complaint(&self, ended: Ended) -> String {
        let log = std::fs::read_to_string(self.state.join("oci.log")).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing").to_owned();
        format!("{} ended with {}: {last}", self.runtime.path.display(), ended.code())
    }
}

impl Supervisor {
    /// Starts a runtime that creates a container; its end is seen as the container's, and told apart by the stage.
    pub(super) fn launch_external(&mut self, index: usize, making: Making<'_>) -> Result<(Child, External)> {
        let at = making.at.clone();
        let launched = self.make_external(index, making);
        if launched.is_err() {
            // The error that made us give up is the one to be told.
            let _ = mount::detach(&at);
        }
        launched
    }

    fn make_external(&mut self, index: usize, making: Making<'_>) -> Result<(Child, External)> {
        process::set_subreaper(Subreaper::Yes)?;
        let Making { runtime, state, at, rootfs, stdio, with_terminal } = making;
        std::fs::create_dir_all(&at).called("mkdir", at.display())?;
        let target =
            open(&at, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
                .called("open", at.display())?;
        mount::attach(rootfs.as_fd(), target.as_fd())?;
        let mut external =
            External { runtime: runtime.clone(), state: state.to_owned(), rootfs: at, console: None, starting: None };
        let mut command = External::command(runtime, state);
        command.arg("create").arg("--bundle").arg(state).arg("--pid-file").arg(state.join("oci.pid"));
        if with_terminal {
            let path = state.join("console.sock");
            fs::remove_file(&path)?;
            let listener = UnixListener::bind(&path).called("bind", path.display())?;
            listener.set_nonblocking(true).called("ioctl", path.display())?;
            command.arg("--console-socket").arg(&path);
            let token = self.poll.watch(&listener, Source::Console(index))?;
            external.console = Some((token, Console::Listening(listener)));
        }
        command.arg(external.id()?);
        let maker = fork(command, stdio, &external)?;
        self.creating_externally += 1;
        Ok((maker, external))
    }

    /// The runtime connects, or sends the terminal.
    pub(super) fn console_ready(&mut self, index: usize) -> Result<()> {
        let Some(instance) = &mut self.slots[index].instance else { return Ok(()) };
        let Some(external) = &mut instance.external else { return Ok(()) };
        let Some((token, console)) = external.console.take() else { return Ok(()) };
        self.poll.forget(token, console.as_fd());
        match console {
            Console::Listening(listener) => {
                let (stream, _) = listener.accept().called("accept", "console socket")?;
                stream.set_nonblocking(true).called("ioctl", "console socket")?;
                let token = self.poll.watch(&stream, Source::Console(index))?;
                external.console = Some((token, Console::Connected(stream)));
                Ok(())
            }
            Console::Connected(stream) => match socket::receive(stream.as_fd())? {
                Received::Message(_, descriptors) => match descriptors.into_iter().next() {
                    Some(master) => self.terminal_opened(index, master),
                    None => bail!("the runtime sent no terminal"),
                },
                Received::Closed | Received::Nothing => bail!("the runtime sent no terminal"),
            },
        }
    }

    /// The process that is being watched has ended: whether that was the runtime, and not the container.
    pub(super) fn external_created(&mut self, index: usize, ended: Ended) -> Result<bool> {
        let is_maker = |i: &Instance| i.external.is_some() && matches!(i.process.stage, Stage::Creating);
        if !self.slots[index].instance.as_ref().is_some_and(is_maker) {
            return Ok(false);
        }
        if let (Ended::Signaled(_), Some(instance)) = (ended, &self.slots[index].instance) {
            self.end_strangers(instance.process.child.pid);
        }
        self.creation_ended()?;
        let Some(instance) = &mut self.slots[index].instance else { return Ok(false) };
        let Some(external) = &instance.external else { return Ok(false) };
        let made = match ended.code() {
            0 => first_process(&external.state)
                .and_then(|child| Ok(instance.process.become_child(child, &mut self.poll, Source::Exit(index))?)),
            _ => Err(anyhow!(external.complaint(ended))),
        };
        if let Err(error) = made {
            // Its runtime may say that it is done, and have made something nobody knows of.
            end_children(&instance.cgroup);
            let message = format!("{error:#}");
            instance.process.stage =
                Stage::Failed(StepFailure { step: "create".into(), message, kind: FailureKind::Setup });
            return Ok(false);
        }
        instance.process.stage = Stage::Created;
        self.keep_instance(index);
        self.held(index)?;
        Ok(true)
    }

    fn creation_ended(&mut self) -> SysResult<()> {
        self.creating_externally -= 1;
        match self.creating_externally {
            0 => process::set_subreaper(Subreaper::No),
            _ => Ok(()),
        }
    }

    /// A maker could not be watched, and was killed.
    pub(super) fn undo_making(&mut self, maker: i32, external: External, cgroup: &Cgroup) {
        self.end_strangers(maker);
        end_children(cgroup);
        for error in [self.clear_external(external), self.creation_ended()].into_iter().filter_map(Result::err) {
            self.warn("KillContainerError", error.to_string());
        }
    }

    /// A maker that was killed has left to us what it would have ended itself: its runtime, and then what that leaves when its last
    /// thread has ended, in the namespaces of the pod or the container. As long as nobody waits for these, the pod's pid 1 does not end.
    fn end_strangers(&self, maker: i32) {
        let deadline = Instant::now() + ENDS;
        let runtimes = Pid::from_raw(-maker);
        while waitpid(runtimes, Some(WaitPidFlag::WNOHANG)) != Err(Errno::ECHILD) && Instant::now() < deadline {
            // A group that has a child of ours is no other one's.
            let _ = kill(runtimes, Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(1));
        }
        let instances = self.slots.iter().filter_map(|slot| Some(slot.instance.as_ref()?.process.child.pid));
        let known: Vec<i32> = instances
            .chain(self.execs.values().map(Exec::pid))
            .chain(self.sandbox.reaper.iter().map(|r| r.pid))
            .collect();
        let depth = pid_depth("thread-self");
        let strangers =
            children().into_iter().filter(|pid| !known.contains(pid) && pid_depth(&pid.to_string()) > depth);
        for pid in strangers.map(Pid::from_raw) {
            // A child that was not waited for keeps its pid; one that has ended takes no signal.
            let _ = kill(pid, Signal::SIGKILL);
            let deadline = Instant::now() + ENDS;
            while waitpid(pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Has the runtime start the container. If that cannot even be begun, the container is killed: its end answers who waits for it.
    pub(super) fn start_external(&mut self, index: usize) -> Result<()> {
        let Err(error) = self.launch_start(index) else { return Ok(()) };
        if let Some(instance) = &mut self.slots[index].instance {
            let (step, message) = ("start".into(), format!("{error:#}"));
            instance.process.stage = Stage::Failed(StepFailure { step, message, kind: FailureKind::Setup });
        }
        self.kill_container(index)
    }

    fn launch_start(&mut self, index: usize) -> Result<()> {
        let Some(instance) = &mut self.slots[index].instance else { return Ok(()) };
        let Some(external) = &mut instance.external else { return Ok(()) };
        let mut command = External::command(&external.runtime, &external.state);
        command.arg("start").arg(external.id()?);
        let null = File::options().read(true).write(true).open("/dev/null").called("open", "/dev/null")?;
        let again = || null.try_clone().map(OwnedFd::from).called("dup", "/dev/null");
        let child = fork(command, [again()?, again()?, again()?], external)?;
        let token = match self.poll.watch(&child.pidfd, Source::ExternalStart(index)) {
            Ok(token) => token,
            Err(error) => {
                // The error to be told is the first one.
                let _ = end(&child);
                return Err(error.into());
            }
        };
        external.starting = Some((token, child));
        instance.process.stage = Stage::Starting;
        Ok(())
    }

    /// The runtime has started the container, or could not.
    pub(super) fn external_started(&mut self, index: usize) -> Result<()> {
        let Some(instance) = &mut self.slots[index].instance else { return Ok(()) };
        let Some(external) = &mut instance.external else { return Ok(()) };
        let Some((token, child)) = external.starting.take() else { return Ok(()) };
        let Some(ended) = process::try_wait(child.pidfd.as_fd())? else {
            external.starting = Some((token, child));
            return Ok(());
        };
        self.poll.forget(token, child.pidfd.as_fd());
        self.start_ended(index, ended);
        let has_failed = |instance: &Instance| matches!(instance.process.stage, Stage::Failed(_));
        match self.slots[index].instance.as_ref().is_some_and(has_failed) {
            true => self.kill_container(index),
            false => Ok(()),
        }
    }

    /// What has become of a start by how the runtime ended that was to do it.
    fn start_ended(&mut self, index: usize, ended: Ended) {
        let Some(instance) = &mut self.slots[index].instance else { return };
        let Some(external) = &instance.external else { return };
        if ended.code() == 0 {
            instance.process.stage = Stage::Running;
            self.queue.push_back(Event::Started { container: index });
            return;
        }
        let message = external.complaint(ended);
        let kind = match message.contains("no such file") || message.contains("not found") {
            true => FailureKind::CommandNotFound,
            false => FailureKind::CommandNotExecutable,
        };
        instance.process.stage = Stage::Failed(StepFailure { step: "start".into(), message, kind });
    }

    /// A container may end before it is seen that its runtime has started it. Before its end is told that is waited for, as nobody does
    /// later; a runtime that goes on for long is killed.
    pub(super) fn finish_start(&mut self, index: usize) {
        let Some(instance) = &mut self.slots[index].instance else { return };
        let Some(external) = &mut instance.external else { return };
        let Some((token, child)) = external.starting.take() else { return };
        self.poll.forget(token, child.pidfd.as_fd());
        match end_in_time(&child) {
            Ok(Some(ended)) => self.start_ended(index, ended),
            // It has done what it was to do, and then hung.
            Ok(None) if matches!(external.is_held(), Ok(false)) => self.start_ended(index, Ended::Exited(0)),
            Ok(None) => {}
            Err(error) => self.warn("SupervisorError", format!("waiting for the start of a container: {error}")),
        }
    }

    /// Before a container of a runtime is cleared away: what it has beside its process.
    pub(super) fn clear_external(&mut self, external: External) -> SysResult<()> {
        if let Some((token, console)) = &external.console {
            self.poll.forget(*token, console.as_fd());
        }
        if let Some((token, child)) = &external.starting {
            self.poll.forget(*token, child.pidfd.as_fd());
        }
        mount::detach(&external.rootfs)
    }
}

/// Where it is noted which process of ours runs a runtime for a container.
const AT_WORK: &str = "oci.at-work";
/// How long one may take that an earlier supervisor has started.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one may go on that starts a container which has ended: nothing else is done meanwhile.
const LAGS: Duration = Duration::from_secs(2);

/// Waits until nobody runs a runtime for the container of this run state any more. It was an earlier supervisor's; one that takes
/// too long is killed, and the runtime with it.
pub(super) fn until_done(state: &Path) -> Result<()> {
    let path = state.join(AT_WORK);
    let Some(process) = store::read_json::<Process>(&path)? else { return Ok(()) };
    if let Some(child) = process.open(None)? {
        let deadline = Instant::now() + PATIENCE;
        let mut is_killed = false;
        while pidfd::fate(child.pidfd.as_fd())?.is_none() {
            if !is_killed && Instant::now() > deadline {
                process::send_signal(child.pidfd.as_fd(), libc::SIGKILL)?;
                is_killed = true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(fs::remove_file(&path)?)
}

/// Has a process run a runtime: the maker, or one that starts a container.
fn fork(command: Command, stdio: [OwnedFd; 3], external: &External) -> Result<Child> {
    let child = process::clone3(0, None).context("forking for the handler's OCI runtime")?;
    let Some(child) = child else { run(command, stdio, external) };
    Ok(child)
}

/// That process: runs the runtime, and ends as that does.
fn run(mut command: Command, stdio: [OwnedFd; 3], external: &External) -> ! {
    let run = || -> Result<i32> {
        process::close_all_but(&[stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()])?;
        process::reset_signals()?;
        process::set_subreaper(Subreaper::Yes)?;
        // A group of its own, by which its runtime is found when it is killed.
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).called("setpgid", "0")?;
        // Before there is anything that another supervisor had to wait for.
        let own = Child { pid: std::process::id() as i32, pidfd: process::open_pid(std::process::id())? };
        store::write_json(&external.state.join(AT_WORK), &Process::of(&own)?)?;
        process::ends_with_parent(&mut command);
        let [stdin, stdout, stderr] = stdio.map(Stdio::from);
        let status = command.stdin(stdin).stdout(stdout).stderr(stderr).status();
        let status = status.called("execve", external.runtime.path.display())?;
        Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
    };
    let code = run().unwrap_or_else(|error| {
        let told = std::fs::write(external.state.join("oci.log"), format!("{error:#}\n"));
        if told.is_err() { 126 } else { 127 }
    });
    if code != 0 {
        end_orphans();
    }
    process::exit_now(code)
}

/// The first process of the container that a runtime says it has made. It is our child by now: who made it has ended, and we have reaped
/// that.
fn first_process(state: &Path) -> Result<Child> {
    let path = state.join("oci.pid");
    let context = || format!("the runtime's pid file {}", path.display());
    let text = std::fs::read_to_string(&path).called("read", path.display()).with_context(context)?;
    let pid: u32 = text.trim().parse().with_context(context)?;
    process::open_child(pid).with_context(context)
}

/// Kills those of a container's processes that are our children, and waits for these: of the others others do.
fn end_children(cgroup: &Cgroup) {
    // Where these cannot be read, they end with the cgroup.
    for pid in cgroup.pids().unwrap_or_default() {
        let child = u32::try_from(pid.as_raw()).map(process::open_child);
        if let Ok(Ok(child)) = child {
            let _ = end(&child);
        }
    }
}

/// Waits for a process of ours that runs a runtime; one that takes too long is killed, and the runtime with it: then `None`.
fn end_in_time(child: &Child) -> SysResult<Option<Ended>> {
    match poll::has_more_within(child.pidfd.as_fd(), LAGS)? {
        true => process::try_wait(child.pidfd.as_fd()),
        false => end(child).map(|_| None),
    }
}

/// Kills what a runtime that failed has left, and waits for it: all of it is a child of this process.
fn end_orphans() {
    loop {
        for pid in children() {
            // A child that was not waited for keeps its pid; one that has ended takes no signal.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if wait().is_err_and(|errno| errno != Errno::EINTR) {
            return;
        }
    }
}

fn children() -> Vec<i32> {
    let list = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// In how many pid namespaces a process is, one below the other; 0 if it is gone.
fn pid_depth(process: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("NSpid:")).map_or(0, |pids| pids.split_whitespace().count())
}
