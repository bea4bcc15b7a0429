//! Init: performs the steps in the new process, which then becomes the container.
//!
//! It runs in a copy of the supervisor's memory after clone3(2): it may allocate, but nothing it does is seen outside but
//! through the kernel. Whatever fails ends it; nothing is best effort but what a step's text says.

use super::Start;
use super::attach::Sharing;
use super::handshake::{self, FailureKind, FromInit, GO_ON, Performed, START, StepFailure};
use super::label;
use super::mounts;
use super::seccomp::Filter;
use super::step::{NamespaceKind, Step};
use super::{NULL, is_device};
use crate::host::cgroup::CgroupSetup;
use crate::plan::config::Pace;
use crate::sys::memory::Shared;
use crate::sys::mount::{self, Depth, Propagation, SetAttr};
use crate::sys::record::{self, Call};
use crate::sys::{Called, SysError, SysResult, credentials, limit, pidfd, process, socket};
use nix::errno::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What steps use; opened by the supervisor, so that init walks no host path, and compiled by it.
pub struct Handles {
    /// The hand-off.
    pub sync: OwnedFd,
    /// The detached mount of the root file system.
    pub rootfs: Option<OwnedFd>,
    /// Detached mounts, in the order of the `Bind` steps.
    pub binds: Vec<OwnedFd>,
    /// Namespaces to join.
    pub namespaces: Vec<(NamespaceKind, OwnedFd)>,
    /// `tasks` of the container's cgroups of version 1; clone3 put init into the one of version 2.
    pub cgroups: Vec<OwnedFd>,
    /// What is to be seen of cgroups: detached mounts, in the order of the hierarchies of `cgroup_setup`.
    pub cgroup_view: Vec<OwnedFd>,
    /// stdin, stdout, stderr; unused with a terminal.
    pub stdio: [OwnedFd; 3],
    /// A detached mount of the host's /dev/null, verified; what masks of files show.
    pub null: Option<OwnedFd>,
    /// Detached mounts of the host's devices, in the order of the `BindDevice` steps.
    pub devices: Vec<OwnedFd>,
    /// The filter of the `Seccomp` step, or why there is none.
    pub filter: Option<anyhow::Result<Rc<Filter>>>,
    /// Which cgroup hierarchies there are.
    pub cgroup_setup: CgroupSetup,
    /// When the command is executed.
    pub start: Start,
}

/// An error of a step.
pub(super) struct StepError {
    pub(super) message: String,
    pub(super) kind: FailureKind,
}

impl From<SysError> for StepError {
    fn from(error: SysError) -> Self {
        StepError { message: error.to_string(), kind: FailureKind::Setup }
    }
}

impl StepError {
    /// What was asked for cannot be: it says what is in its way.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        StepError { message: message.into(), kind: FailureKind::Refused }
    }

    pub(super) fn new(message: impl Into<String>) -> Self {
        StepError { message: message.into(), kind: FailureKind::Setup }
    }
}

pub(super) type StepResult = Result<(), StepError>;

/// How init shows what it does.
#[derive(Debug, Clone)]
pub struct Showing {
    /// Where each step is written down when it is done, as a line of JSON ([`Performed`]).
    pub record: Rc<Shared>,
    /// Whether it waits before each step to be told to go on.
    pub pace: Pace,
}

/// Performs `steps`, the last of which is `Exec`. Never returns: the process becomes the container or ends.
pub(super) fn run(steps: &[Step], mut handles: Handles, showing: Option<Showing>) -> ! {
    let covers = handles.null.take().map(mounts::Covers::new);
    let mut init = Init {
        handles,
        binds: 0,
        sharing: Sharing::No,
        devices: 0,
        opened: Vec::new(),
        terminal: None,
        covers,
        showing,
        at: (0, 0),
        process: 0,
    };
    // Nothing of the supervisor's stays open in a process that a container may come to see, and modes are meant as written:
    // `User` sets the container's own mask.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let prepared = process::close_all_but(&init.kept()).and_then(|()| process::reset_signals());
    if let Err(error) = prepared {
        init.fail(String::from("Prepare"), error.into());
    }
    for (index, step) in steps.iter().enumerate() {
        init.begin(index);
        if let Err(error) = init.perform(step) {
            init.show();
            init.fail(step.name(), error);
        }
        init.show();
    }
    init.fail(String::from("Exec"), StepError::new("the list of steps does not end in execve"));
}

struct Init {
    handles: Handles,
    binds: usize,
    sharing: Sharing,
    devices: usize,
    /// File systems that wait for being mounted, by their kinds.
    opened: Vec<(String, OwnedFd)>,
    terminal: Option<OwnedFd>,
    covers: Option<mounts::Covers>,
    showing: Option<Showing>,
    /// The step's index, and when it began ([`record::now`]).
    at: (usize, u64),
    /// How many processes have performed steps before this one.
    process: usize,
}

/// What fits into one message of the hand-off with room to spare; names and paths of an image can be longer.
const MAX_TEXT: usize = 4096;

/// The exit code of an init that nobody tells to go on: its supervisor is gone, or gave it up.
pub const UNTOLD: i32 = 125;

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

impl Init {
    /// Every descriptor that a step may need.
    fn kept(&self) -> Vec<BorrowedFd<'_>> {
        let handles = &self.handles;
        let mut kept = vec![handles.sync.as_fd()];
        kept.extend(
            handles.rootfs.iter().chain(&handles.binds).chain(&handles.cgroups).chain(&handles.stdio).map(AsFd::as_fd),
        );
        kept.extend(handles.cgroup_view.iter().map(AsFd::as_fd));
        kept.extend(handles.devices.iter().map(AsFd::as_fd));
        kept.extend(handles.namespaces.iter().map(|(_, fd)| fd.as_fd()));
        kept.extend(self.covers.iter().map(mounts::Covers::as_fd));
        kept
    }

    fn fail(&self, step: String, error: StepError) -> ! {
        let StepError { message, kind } = error;
        let (step, message) = (cut(step), cut(message));
        let code = match kind {
            FailureKind::Setup | FailureKind::Refused => 125,
            FailureKind::CommandNotExecutable => 126,
            FailureKind::CommandNotFound => 127,
        };
        // If the supervisor is gone there is nobody left to tell.
        let _ = handshake::send(self.handles.sync.as_fd(), &FromInit::Failed(StepFailure { step, message, kind }), &[]);
        process::exit_now(code)
    }

    /// Before a step: if it is to be shown, its record begins.
    fn begin(&mut self, index: usize) {
        let Some(showing) = &self.showing else { return };
        if showing.pace == Pace::StepByStep {
            let sync = self.handles.sync.as_fd();
            let told = handshake::send(sync, &FromInit::Paused { step: index }, &[]).map_err(Into::into);
            if let Err(error) = told.and_then(|()| self.wait_to_go_on()) {
                self.fail(String::from("Pause"), error)
            }
        }
        self.at = (index, record::now());
        record::begin();
    }

    fn wait_to_go_on(&self) -> StepResult {
        match socket::receive(self.handles.sync.as_fd())? {
            socket::Received::Message(bytes, _) if bytes == GO_ON => Ok(()),
            // The supervisor is gone or gave up: nobody waits for an answer.
            _ => process::exit_now(UNTOLD),
        }
    }

    /// After a step, and before execve(2), which is the last thing that it can tell of.
    fn show(&self) {
        let Some(showing) = &self.showing else { return };
        let (step, at) = self.at;
        let performed =
            Performed { step, process: self.process, at, took: record::now().saturating_sub(at), calls: record::end() };
        if let Ok(mut line) = serde_json::to_vec(&performed) {
            line.push(b'\n');
            // Without room left the rest is missing, which the supervisor sees.
            let _ = showing.record.append(&line);
        }
    }

    fn note(&self, text: String) -> StepResult {
        Ok(handshake::send(self.handles.sync.as_fd(), &FromInit::Note { text: cut(text) }, &[])?)
    }

    fn perform(&mut self, step: &Step) -> StepResult {
        match step {
            Step::DieWithSupervisor => Ok(process::set_parent_death_signal(libc::SIGKILL)?),
            Step::JoinCgroup => self.join_cgroup(),
            Step::NewSessionKeyring => match process::new_session_keyring() {
                // The kernel has no keys, or somebody's filter, which is the container's too, lets nobody have any.
                Err(error) if matches!(error.errno(), Errno::ENOSYS | Errno::EPERM) => Ok(()),
                other => Ok(other?),
            },
            Step::OomScoreAdj { value } => self.oom_score_adj(*value),
            Step::AppArmor { profile } => label::apparmor(profile),
            Step::SeLinux { label } => label::selinux(label),
            Step::JoinNamespace { kind } => self.join_namespace(*kind),
            Step::NewCgroupNamespace => {
                process::unshare(NamespaceKind::Cgroup.flag(), "CLONE_NEWCGROUP")?;
                record::answer(|| own_namespace(NamespaceKind::Cgroup));
                Ok(())
            }
            Step::EnterPidNamespace => self.enter_pid_namespace(),
            Step::EmptyMountNamespace => self.empty_mount_namespace(),
            Step::NewMountNamespace => {
                process::unshare(NamespaceKind::Mount.flag(), "CLONE_NEWNS")?;
                record::answer(|| own_namespace(NamespaceKind::Mount));
                Ok(())
            }
            Step::NewPidNamespace => self.be_born(NamespaceKind::Pid.flag().bits() as u64),
            Step::OpenFileSystem { kind, attributes, options } => {
                let mounted = mounts::open_file_system(kind, *attributes, options).map_err(covered)?;
                self.opened.push((kind.clone(), mounted));
                Ok(())
            }
            Step::StopPropagation => stop_propagation(),
            Step::Pivot => self.pivot(),
            Step::MountFileSystem { kind, target, attributes, options } => {
                let opened = self.opened.iter().position(|(opened, _)| opened == kind);
                let mounted = match opened {
                    Some(at) => self.opened.remove(at).1,
                    None => mounts::open_file_system(kind, *attributes, options)?,
                };
                mounts::attach_file_system(mounted.as_fd(), target, self.sharing)
            }
            Step::MountCgroups { target, attributes } => {
                let Handles { cgroup_setup, cgroup_view, .. } = &self.handles;
                mounts::cgroups(cgroup_setup, cgroup_view, (target, *attributes), self.sharing)
            }
            Step::Bind { source, target, attributes, recursive, propagation } => {
                let Some(tree) = self.handles.binds.get(self.binds) else {
                    return Err(StepError::new(format!("no descriptor of {}", source.display())));
                };
                self.binds += 1;
                let (attributes, recursive, propagation) = (*attributes, *recursive, *propagation);
                let sharing = self.sharing;
                if propagation == Propagation::Shared {
                    self.sharing = Sharing::Possible;
                }
                let at = mounts::BindAt { source, target, attributes, recursive, propagation, sharing };
                mounts::bind(tree.as_fd(), at)
            }
            Step::Device { path, major, minor } => mounts::device(path, *major, *minor),
            Step::DeviceNode(device) => mounts::device_node(device),
            Step::BindDevice { path } => {
                let Some(device) = self.handles.devices.get(self.devices) else {
                    return Err(StepError::new(format!("no descriptor of {}", path.display())));
                };
                self.devices += 1;
                mounts::bind_device(device.as_fd(), path, self.sharing)
            }
            Step::Symlink { target, path } => mounts::symlink(target, path),
            Step::HostDevices => mounts::host_devices(),
            Step::Terminal => self.open_terminal(),
            Step::Console => match &self.terminal {
                Some(terminal) => mounts::console(terminal.as_fd(), self.sharing),
                None => Err(StepError::new("no terminal was opened")),
            },
            Step::Mask { path } => match &mut self.covers {
                Some(covers) => covers.mask(path, self.sharing),
                None => Err(StepError::new("no mount of /dev/null was prepared")),
            },
            Step::ReadonlyPath { path } => mounts::readonly_path(path, self.sharing),
            Step::ReadonlyRoot => mounts::readonly_root(),
            Step::Rlimit { kind, soft, hard } => self.rlimit(kind, *soft, *hard),
            Step::WorkingDirectory { path } => mounts::working_directory(path),
            Step::Stdio => self.stdio(),
            Step::WaitForStart => self.wait_for_start(),
            Step::BoundingSet { keep } => Ok(credentials::limit_bounding_capabilities(*keep)?),
            Step::NoNewPrivileges => Ok(credentials::set_no_new_privs()?),
            Step::Seccomp { .. } => match &self.handles.filter {
                Some(Ok(filter)) => Ok(crate::sys::seccomp::load(&filter.program, filter.flags)?),
                Some(Err(error)) => Err(StepError::new(format!("{error:#}"))),
                None => Err(StepError::new("no filter was compiled")),
            },
            Step::User { uid, gid, groups, umask } => {
                process::set_umask(*umask);
                credentials::set_keep_capabilities()?;
                Ok(credentials::become_user(*uid, *gid, groups)?)
            }
            Step::Capabilities { masks } => {
                credentials::set_capabilities(*masks)?;
                Ok(credentials::clear_ambient_capabilities()?)
            }
            Step::Exec { arguments, environment } => self.exec(arguments, environment),
        }
    }

    fn join_cgroup(&self) -> StepResult {
        for file in &self.handles.cgroups {
            let write = || nix::unistd::write(file, b"0").called("write", mount::fd_name(file.as_fd()));
            record::call("write", || format!("{}, \"0\", 1", record::shown(file.as_fd())), write)?;
        }
        Ok(())
    }

    fn oom_score_adj(&self, value: i32) -> StepResult {
        let path = "/proc/self/oom_score_adj";
        let file = std::fs::File::options().write(true).open(path).called("open", path)?;
        let write = || nix::unistd::write(&file, value.to_string().as_bytes()).called("write", path).map(drop);
        match record::call("write", || format!("<{path}>, \"{value}\""), write) {
            // Lowering takes CAP_SYS_RESOURCE; containerd goes on as well (restrict_oom_score_adj).
            Err(e) if e.errno() == Errno::EACCES => {
                self.note(format!("oom_score_adj stays as it is, {value} takes CAP_SYS_RESOURCE"))
            }
            other => Ok(other?),
        }
    }

    fn namespace(&self, kind: NamespaceKind) -> Result<BorrowedFd<'_>, StepError> {
        let given = self.handles.namespaces.iter().find(|(given, _)| *given == kind);
        let missing = || StepError::new(format!("no descriptor of the {} namespace", kind.file()));
        given.map(|(_, fd)| fd.as_fd()).ok_or_else(missing)
    }

    fn join_namespace(&self, kind: NamespaceKind) -> StepResult {
        process::set_namespace(self.namespace(kind)?, kind.flag(), kind.file())?;
        match kind {
            NamespaceKind::Mount => mounts::assert_own_root(),
            // Its root: the host's has no id in there, and what it makes would have no owner.
            NamespaceKind::User => Ok(credentials::become_user(0, 0, &[])?),
            _ => Ok(()),
        }
    }

    fn empty_mount_namespace(&self) -> StepResult {
        let kind = NamespaceKind::Mount;
        // There is no /proc in it.
        let numbers = if record::is_on() { std::fs::File::open("/proc/self/ns").ok() } else { None };
        process::set_namespace(self.namespace(kind)?, kind.flag(), kind.file())?;
        process::unshare(kind.flag(), "CLONE_NEWNS")?;
        record::answer(|| {
            let number = numbers.and_then(|numbers| nix::fcntl::readlinkat(&numbers, kind.file()).ok());
            number.map_or_else(|| kind.file().to_owned(), |number| number.to_string_lossy().into_owned())
        });
        Ok(())
    }

    fn enter_pid_namespace(&mut self) -> StepResult {
        self.join_namespace(NamespaceKind::Pid)?;
        self.be_born(0)
    }

    /// Another process, made with these flags, performs the rest of the steps. It tells the supervisor of itself before it leaves its
    /// maker's process group, where it is found if it could not ([`process::kill_siblings`]); its maker waits to be killed, or for its end.
    fn be_born(&mut self, flags: u64) -> StepResult {
        // Descriptors of namespaces of the host's /proc are a way back that the others must not find.
        self.handles.namespaces.clear();
        self.handles.cgroups.clear();
        let made = process::clone_sibling(flags).map_err(|error| match error.errno() {
            // The same number says so of a namespace that was joined, pid_namespaces(7).
            Errno::ENOMEM if flags == 0 => {
                StepError::new(format!("{error}, or the first process of the pid namespace has ended"))
            }
            _ => error.into(),
        });
        if let Some(child) = made? {
            // Whoever can see it may kill it before it says anything.
            pidfd::wait(child.pidfd.as_fd());
            process::exit_now(UNTOLD)
        }
        self.process += 1;
        let own = process::open_pid(std::process::id())?;
        Ok(handshake::send(self.handles.sync.as_fd(), &FromInit::Born, &[own.as_fd()])?)
    }

    fn pivot(&mut self) -> StepResult {
        let Some(rootfs) = self.handles.rootfs.take() else {
            return Err(StepError::new("no root file system was prepared"));
        };
        mount::attach(rootfs.as_fd(), mounts::root()?.as_fd())?;
        let enter = || nix::unistd::fchdir(&rootfs).called("fchdir", "the root file system");
        record::call("fchdir", || record::shown(rootfs.as_fd()), enter)?;
        Ok(mount::pivot_to_cwd()?)
    }

    fn open_terminal(&mut self) -> StepResult {
        let (master, peer) = mounts::open_terminal()?;
        handshake::send(self.handles.sync.as_fd(), &FromInit::Terminal, &[master.as_fd()])?;
        self.terminal = Some(peer);
        Ok(())
    }

    fn rlimit(&self, kind: &str, soft: u64, hard: u64) -> StepResult {
        use nix::sys::resource::Resource;
        let resource = match kind {
            "RLIMIT_NOFILE" => Resource::RLIMIT_NOFILE,
            "RLIMIT_CORE" => Resource::RLIMIT_CORE,
            "RLIMIT_NPROC" => Resource::RLIMIT_NPROC,
            "RLIMIT_MEMLOCK" => Resource::RLIMIT_MEMLOCK,
            "RLIMIT_STACK" => Resource::RLIMIT_STACK,
            other => return Err(StepError::new(format!("{other} is not supported"))),
        };
        let is = limit::set_at_most(resource, kind, (soft, hard))?;
        if is == (soft, hard) {
            return Ok(());
        }
        self.note(format!("{kind} is {}:{}, a hard limit of {hard} takes CAP_SYS_RESOURCE", is.0, is.1))
    }

    fn stdio(&mut self) -> StepResult {
        process::new_session()?;
        if let Some(terminal) = &self.terminal {
            process::set_controlling_terminal(terminal.as_fd())?;
            for number in 0..3 {
                process::set_standard(terminal.as_fd(), number)?;
            }
            return Ok(());
        }
        // The host's own /dev/null is only for who has none: its inode is reached by /proc/self/fd.
        let own_null = mounts::own_null()?;
        for (number, fd) in self.handles.stdio.iter().enumerate() {
            let fd = match &own_null {
                Some(own) if is_device(fd.as_fd(), NULL)? => own,
                _ => fd,
            };
            process::set_standard(fd.as_fd(), number as i32)?;
        }
        Ok(())
    }

    fn exec(&self, arguments: &[String], environment: &[String]) -> StepResult {
        let command = arguments.first().map(String::as_str).unwrap_or_default();
        let path = find_command(command, environment)?;
        let c_path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| StepError::new("NUL in command"))?;
        let (argv, envp) = (c_strings(arguments)?, c_strings(environment)?);
        // Everything here is close-on-exec already; this also covers what the supervisor's caller left open (CVE-2024-21626).
        process::close_on_exec_from(3)?;
        if record::is_on() {
            record::note(Call::new("execve", format!("{path:?}, {arguments:?}, {} variables", environment.len())));
            self.show();
        }
        let error = process::execve(&c_path, &argv, &envp);
        let (kind, what) = match error.errno() {
            Errno::ENOENT => {
                (FailureKind::CommandNotFound, "no such file or directory (is its interpreter there?)".to_owned())
            }
            Errno::ENOEXEC => {
                (FailureKind::CommandNotExecutable, "exec format error (not a program for this machine?)".to_owned())
            }
            Errno::EACCES => (FailureKind::CommandNotExecutable, "permission denied".to_owned()),
            _ => (FailureKind::CommandNotExecutable, error.to_string()),
        };
        Err(StepError { message: format!("exec: {command:?}: {what}"), kind })
    }

    fn wait_for_start(&self) -> StepResult {
        // From here on it is told by the end of file that its supervisor is gone, after all that it was told before: whoever takes
        // over knows of a container that was told to start that it has run.
        process::set_parent_death_signal(0)?;
        if self.handles.start == Start::AtOnce {
            return Ok(());
        }
        handshake::send(self.handles.sync.as_fd(), &FromInit::Ready, &[])?;
        match socket::receive(self.handles.sync.as_fd())? {
            socket::Received::Message(bytes, _) if bytes == START => Ok(()),
            // The supervisor is gone or gave up: nobody waits for an answer.
            _ => process::exit_now(UNTOLD),
        }
    }
}

fn stop_propagation() -> StepResult {
    let root = std::fs::File::open("/").called("open", "/")?;
    let change = SetAttr { set: 0, propagation: Some(Propagation::Slave), depth: Depth::Recursive };
    Ok(mount::set_attributes(root.as_fd(), change)?)
}

/// The caller's namespace, as its link in /proc names it.
fn own_namespace(kind: NamespaceKind) -> String {
    let link = std::fs::read_link(Path::new("/proc/self/ns").join(kind.file()));
    link.map_or_else(|_| kind.file().to_owned(), |link| link.display().to_string())
}

/// In a user namespace the kernel gives no procfs or sysfs to who does not see a whole one.
fn covered(error: StepError) -> StepError {
    if !error.message.contains("EPERM") {
        return error;
    }
    let hint = "is the host's own /proc or /sys partly covered by other mounts? Then no user namespace can have one";
    StepError::new(format!("{}: {hint}", error.message))
}

fn c_strings(list: &[String]) -> Result<Vec<CString>, StepError> {
    list.iter()
        .map(|text| CString::new(text.as_str()).map_err(|_| StepError::new(format!("{text:?} contains a NUL byte"))))
        .collect()
}

/// Go's exec.LookPath, whose words runc and so Kubernetes report.
fn find_command(command: &str, environment: &[String]) -> Result<PathBuf, StepError> {
    // What /proc/self/exe is here is podshim's own program, which is not the container's to execute (CVE-2019-5736).
    let own = std::fs::metadata("/proc/self/exe").ok().map(|m| (m.dev(), m.ino()));
    let executable = |path: &Path| -> SysResult<bool> {
        let found = std::fs::metadata(path).called("stat", path.display())?;
        let is_own = own == Some((found.dev(), found.ino()));
        Ok(found.is_file() && found.permissions().mode() & 0o111 != 0 && !is_own)
    };
    if command.contains('/') {
        return match executable(Path::new(command)) {
            Ok(true) => Ok(PathBuf::from(command)),
            Ok(false) => Err(StepError {
                message: format!("exec: {command:?}: permission denied"),
                kind: FailureKind::CommandNotExecutable,
            }),
            Err(e) => Err(StepError {
                message: format!("exec: {command:?}: stat {command}: {}", e.errno().desc().to_lowercase()),
                kind: FailureKind::CommandNotFound,
            }),
        };
    }
    let search = environment.iter().find_map(|v| v.strip_prefix("PATH=")).unwrap_or_default();
    // An empty element is the working directory in a shell; Go, and so runc, refuses it, and so is it here.
    search
        .split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| Path::new(dir).join(command))
        .find(|path| executable(path).unwrap_or(false))
        .ok_or_else(|| StepError {
            message: format!("exec: {command:?}: executable file not found in $PATH"),
            kind: FailureKind::CommandNotFound,
        })
}

/// Duplicates a descriptor (`F_DUPFD_CLOEXEC`).
pub fn duplicate(fd: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    fd.try_clone_to_owned().called("fcntl F_DUPFD_CLOEXEC", mount::fd_name(fd))
}
