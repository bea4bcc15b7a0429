//! How a supervisor comes to be: spawned by the CLI from a read-only view of podshim's own executable, in its own session.

use super::keep::Memory;
use super::pod::Supervisor;
use super::remove;
use crate::error::{Kind, exit_code, failure};
use crate::host::{self, HostFacts};
use crate::paths::PodDirs;
use crate::runtime::sandbox;
use crate::store::{self, Pod, Reserved, Wait};
use crate::sys::flock::Flock;
use crate::sys::limit;
use crate::sys::mount::{self, Depth};
use crate::sys::{Called, process};
use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The hidden verb that a supervisor is started with.
const VERB: &str = "supervise-pod";

/// A supervisor that was spawned.
#[derive(Debug)]
pub struct Supervising {
    child: Child,
}

/// A supervisor's process before there is its pod: what it takes to begin goes on beside the pod's reservation. If this is dropped, or
/// its process killed, nothing comes of it.
#[derive(Debug)]
pub struct Standby {
    /// `None` once it was told to go on.
    child: Option<Child>,
}

impl Standby {
    /// Starts the process.
    pub fn begin(pod: &PodDirs) -> Result<Standby> {
        let executable = readonly_executable()?;
        let arguments: [OsString; 2] = [VERB.into(), pod.state.clone().into()];
        let mut command = Command::new(format!("/proc/self/fd/{}", executable.as_raw_fd()));
        command.arg0("podshim").args(arguments);
        // The caller's environment may hold secrets; a supervisor needs nothing of it but what finds an image's registry.
        command.env_clear().envs(std::env::vars_os().filter(|(key, _)| is_passed_on(key)));
        // Until it has its log it says what it has to say where the caller does.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().called("execve", "supervisor").context("starting the pod's supervisor")?;
        Ok(Standby { child: Some(child) })
    }

    /// Has the supervisor set the pod up, and waits until the sandbox and the volumes are there, or could not be made.
    pub fn set_up(self, reserved: &Reserved) -> Result<Supervising> {
        match self.go_on(&reserved.pod)? {
            Begun::Ready(supervising) => Ok(supervising),
            Begun::Died(error) => Err(error),
        }
    }

    /// An error is what the supervisor itself says.
    fn go_on(mut self, pod: &Pod) -> Result<Begun> {
        let pipes = |mut child: Child| Some((child.stdin.take()?, child.stdout.take()?, child));
        let Some((mut tell, mut hear, mut child)) = self.child.take().and_then(pipes) else {
            bail!("the supervisor has no standard descriptors");
        };
        // One that has died meanwhile does not hear it, which shows in its answer.
        let _ = tell.write_all(GO_ON);
        drop(tell);
        let mut answer = String::new();
        hear.read_to_string(&mut answer).called("read", "supervisor")?;
        if answer == READY {
            return Ok(Begun::Ready(Supervising { child }));
        }
        let status = child.wait().called("waitpid", "supervisor")?;
        if answer.is_empty() {
            let log = std::fs::read_to_string(pod.dirs.supervisor_log()).unwrap_or_default();
            let message = format!("the pod's supervisor ended ({status}) before the pod was set up: {}", log.trim());
            return Ok(Begun::Died(anyhow::anyhow!(message)));
        }
        Err(failure(Kind::NotReady, answer))
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        // Waiting closes its standard input first, at whose end it ends.
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

/// How a supervisor began.
enum Begun {
    Ready(Supervising),
    /// It was killed, or crashed, before it could say anything.
    Died(anyhow::Error),
}

/// What became of a pod without a supervisor.
#[derive(Debug)]
pub enum Recovered {
    /// It has one, or is over.
    Unneeded,
    /// It is being made or removed at this moment.
    Unsettled,
    /// There was nothing to go on with: it has ended. Why, for a user.
    Ended(&'static str),
    /// It has another one, which this is.
    TakenOver(Supervising),
}

/// If a pod's supervisor was killed, starts another one, which goes on with the pod. Of several who do so at once, one does, and
/// the others wait for that.
pub fn recover(pod: &Pod) -> Result<Recovered> {
    let is_needed = || -> Result<bool> {
        // In this order: a supervisor that ends in this moment has said that the pod is over before.
        Ok(!pod.is_supervised() && !pod.report()?.is_some_and(|report| report.over))
    };
    if !is_needed()? || !pod.dirs.state.exists() {
        return Ok(Recovered::Unneeded);
    }
    let context = || format!("recovering pod {}", pod.full_name());
    let was_set_up = || pod.dirs.kept().exists();
    let wait = if was_set_up() { Wait::Yes } else { Wait::No };
    let lock = match store::lock(&pod.dirs.starting_lock(), wait) {
        // It was removed in this moment.
        Err(_) if !pod.dirs.state.exists() => return Ok(Recovered::Unneeded),
        other => other.with_context(context)?,
    };
    let Some(_lock) = lock else { return Ok(Recovered::Unsettled) };
    if !is_needed()? {
        return Ok(Recovered::Unneeded);
    }
    let is_of_this_boot = pod.record.boot_id == host::boot_id()?;
    if !is_of_this_boot || !was_set_up() {
        remove::abandoned(pod, &host::cgroup::detect()?).with_context(context)?;
        let why =
            if is_of_this_boot { "was never set up: what made it was killed" } else { "is from before the last boot" };
        return Ok(Recovered::Ended(why));
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match Standby::begin(&pod.dirs).and_then(|standby| standby.go_on(pod)) {
            Ok(Begun::Ready(supervising)) => return Ok(Recovered::TakenOver(supervising)),
            // One that is killed as well leaves the pod as it found it.
            Ok(Begun::Died(_)) if tries < TRIES && pod.is_there() => {}
            // Somebody else was quicker, or has ended or removed it.
            _ if !pod.is_there() || !is_needed()? => return Ok(Recovered::Unneeded),
            Ok(Begun::Died(error)) | Err(error) => return Err(error).with_context(context),
        }
    }
}

/// How many supervisors are started for a pod, one after the other was killed.
const TRIES: usize = 5;

/// What a supervisor is told on its standard input when there is its pod.
const GO_ON: &[u8] = b"g";

/// What it answers on its standard output when the pod is set up.
const READY: &str = "ready";

fn is_passed_on(key: &std::ffi::OsStr) -> bool {
    const NAMES: [&str; 9] = [
        "PATH",
        "HOME",
        "REGISTRY_AUTH_FILE",
        "DOCKER_CONFIG",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "TZ",
        "PODSHIM_REGISTRIES",
        "PODSHIM_REGISTRY_HOSTS",
    ];
    NAMES.iter().any(|name| key == *name)
}

impl Supervising {
    /// Whether it has ended meanwhile.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Its pid: its own as long as this is, and it was not waited for.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<()> {
        self.child.wait().called("waitpid", "supervisor")?;
        Ok(())
    }
}

/// podshim's executable on a mount of its own, which is read-only: no container, whatever it can reach through
/// `/proc/<pid>/exe`, can overwrite the host's file (CVE-2019-5736). The mount lives as long as a process runs from it.
fn readonly_executable() -> Result<OwnedFd> {
    let file =
        open("/proc/self/exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).called("open", "/proc/self/exe")?;
    Ok(mount::clone_read_only(file.as_fd(), Depth::Top)?)
}

/// The state directory of the pod that a command line wants to have supervised, which is how [`spawn`] starts a supervisor.
pub fn asked_for(mut arguments: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    match (arguments.nth(1)?.to_str(), arguments.next(), arguments.next()) {
        (Some(VERB), Some(state), None) => Some(state.into()),
        _ => None,
    }
}

/// The supervisor's `main`: does not return before the pod is over. The answer on standard output tells who started it whether the
/// pod was set up; so does the exit code, which this is.
pub fn run(state: &Path) -> Result<u8> {
    let answer = |text: &str| -> Result<()> {
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).called("write", "stdout")?;
        // End of file is what is waited for.
        Ok(process::set_standard(null()?.as_fd(), 1)?)
    };
    let made = begin().and_then(|facts| facts.map(|facts| set_up(state, facts)).transpose());
    let (mut supervisor, lock) = match made {
        Ok(Some(both)) => both,
        Ok(None) => return Ok(0),
        Err(error) => return answer(&format!("{error:#}")).map(|()| exit_code(&error)),
    };
    // A command line that was killed meanwhile does not end the pod.
    let _ = answer(READY);
    let ended = supervisor.run();
    // Who waits for the end goes on now. Or, if it is an error, when that is written: the kernel closes the rest.
    match ended.is_ok() {
        true => supervisor.let_go(lock),
        false => std::mem::forget(lock),
    }
    std::mem::forget(supervisor);
    ended.map(|()| 0)
}

fn null() -> Result<OwnedFd> {
    Ok(open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).called("open", "/dev/null")?)
}

/// What takes no pod, until it is told that there is one: what the host is like; `None` if nobody needs a supervisor after all.
fn begin() -> Result<Option<HostFacts>> {
    nix::unistd::setsid().called("setsid", "")?;
    // Nothing of the caller's stays open, and nobody looks into this process.
    process::close_inherited(3)?;
    process::set_not_dumpable()?;
    process::set_name("podshim")?;
    nix::unistd::chdir("/").called("chdir", "/")?;
    // Nobody else starts a container again. What a kubelet gives itself; a container's init has its own.
    sandbox::last_to_be_killed(-999)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    raise_limits()?;
    let facts = host::probe()?;
    let told = nix::unistd::read(process::standard(0), &mut [0]).called("read", "stdin")?;
    process::set_standard(null()?.as_fd(), 0)?;
    Ok((told > 0).then_some(facts))
}

/// How long a supervisor's children may hold what they have of it, after it was killed: each closes that as the first thing.
const LETS_GO: Duration = Duration::from_secs(5);

/// The pod's lock; `None` if its supervisor has it.
fn lock(pod: &PodDirs) -> Result<Option<Flock>> {
    let deadline = Instant::now() + LETS_GO;
    loop {
        let lock = store::lock(&pod.lock(), Wait::No)?;
        if lock.is_some() || !pod.kept().exists() || Instant::now() > deadline {
            return Ok(lock);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The fewest descriptors that a supervisor can be of use with: its own are about twenty, and a container and a client have some
/// each.
const DESCRIPTORS: u64 = 64;

/// How many descriptors there may be is the supervisor's own affair, not that of the shell which it was started from.
fn raise_limits() -> Result<()> {
    let highest = limit::raise_descriptors()?;
    if highest < DESCRIPTORS {
        bail!("a pod's supervisor takes {DESCRIPTORS} descriptors: RLIMIT_NOFILE is {highest}");
    }
    Ok(())
}

fn set_up(state: &Path, facts: HostFacts) -> Result<(Supervisor, Flock)> {
    let Some(uid) = state.file_name().and_then(|name| name.to_str()) else {
        bail!("{} is no pod's state directory", state.display());
    };
    let unknown_data = PodDirs { state: state.to_owned(), data: state.to_owned() };
    let path = unknown_data.supervisor_log();
    // What the old supervisor said, or one that lives after all, stays.
    let open = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    process::set_standard(open.called("open", path.display())?.as_fd(), 2)?;
    let record = store::load(&unknown_data)?.with_context(|| format!("{} has no record", state.display()))?;
    let pod = Pod { dirs: record.dirs.pod(uid), record };
    let Some(lock) = lock(&pod.dirs)? else {
        bail!("the pod has a supervisor already");
    };
    // Nor is one that is being removed begun anew.
    if !pod.is_there() {
        bail!("the pod was removed");
    }
    // Who started us was killed, and somebody has put an end to the pod before we came.
    if pod.report()?.is_some_and(|report| report.over) {
        bail!("the pod is over");
    }
    // Its supervisor was killed: what it has set up goes on.
    let supervisor = match Memory::read(&pod.dirs)? {
        Some(memory) => Supervisor::take_over((pod, facts), memory)?,
        None => Supervisor::new(pod, facts)?,
    };
    Ok((supervisor, lock))
}
