//! One container: from its config to a child that performs its steps.

use super::early;
use super::external::{External, Making};
use super::hand_off::{Stage, Watched};
use super::pipes::Pipes;
use super::pod::{StartFailed, Supervisor};
use super::poll::Source;
use super::remove;
use super::slot::Instance;
use super::timeline::{Act, Told, born};
use crate::cgroups::Cgroup;
use crate::control::RefusedKind;
use crate::error::{Kind, failure};
use crate::lifecycle::{Event, EventType, PodEvent, StartFailure};
use crate::logs;
use crate::network;
use crate::plan::adjust::{self, Executor};
use crate::plan::config::{
    ContainerConfig, EnvValue, EnvVar, IdRange, KeyValue, Log, MountPropagation, NamespaceMode, PullPolicy, Stdio,
    VolumeMount, VolumePlan,
};
use crate::plan::env;
use crate::plan::mounts;
use crate::plan::spec::{self, Bind, Resolved, User};
use crate::runtime::{self, NamespaceKind, PidNamespace, Request, sandbox, user};
use crate::snapshot::{self, Owner};
use crate::store;
use crate::sys::mount::{self, Depth};
use crate::sys::{Called, SysResult, process};
use crate::volumes;
use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxNamespaceType, PosixRlimitBuilder, PosixRlimitType, Spec};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest file of variables, in bytes (KEP-3721).
const MAX_ENV_FILE: u64 = 64 << 10;

/// An instance whose process is there, and of which nothing is watched yet.
pub(super) struct Launched {
    pub(super) child: process::Child,
    pub(super) cgroup: Cgroup,
    /// If its output is kept, and it is its turn.
    log: Option<logs::Writer>,
    pub(super) restart_count: u32,
    pipes: Pipes,
    /// The hand-off with podshim's own init.
    pub(super) sync: Option<OwnedFd>,
    told: Option<Told>,
    external: Option<External>,
}

/// When a container is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// It is to run as soon as it can.
    InTurn,
    /// Another one's start is not complete yet.
    Early,
}

/// What a container is to be, as it is in its bundle.
struct Bundle {
    /// With the variables in its mounts' paths expanded.
    config: ContainerConfig,
    spec: Spec,
    binds: Vec<Bind>,
    rootfs: OwnedFd,
    /// Where it is mounted.
    rootfs_path: PathBuf,
    user: User,
    /// The pid namespace of another container, which an ephemeral one joins.
    target: Option<(PathBuf, OwnedFd)>,
}

/// A failure to create a container, with what the machine must know of it.
pub(super) struct CreateError {
    failure: StartFailure,
    error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for CreateError {
    fn from(error: E) -> Self {
        CreateError { failure: StartFailure::Create, error: error.into() }
    }
}

impl Supervisor {
    /// Starts a container, asking the registry first where the policy says so.
    pub(super) fn start(&mut self, index: usize, restart_count: u32) -> Result<()> {
        self.slots[index].start_cancelled = false;
        let config = &self.pod.record.plan.containers[index];
        // The CLI pulled for the first start, where the user sees it.
        if restart_count > 0 && config.pull_policy == PullPolicy::Always {
            return self.begin_pull(index, restart_count);
        }
        let message =
            format!("Container image {:?} already present on machine and can be accessed by the pod", config.image);
        self.tell(index, "Pulled", message);
        self.create(index, restart_count)
    }

    pub(super) fn tell(&mut self, index: usize, reason: &str, message: String) {
        self.emit(PodEvent { type_: EventType::Normal, reason: reason.into(), message, container: Some(index) });
    }

    pub(super) fn create(&mut self, index: usize, restart_count: u32) -> Result<()> {
        match self.try_create(index, restart_count) {
            Ok(instance) => {
                let created = Event::Created {
                    container: index,
                    container_id: format!("podshim://{}", instance.id),
                    image_id: self.pod.record.images[index].id.clone(),
                };
                self.slots[index].instance = Some(instance);
                self.queue.push_back(created);
            }
            Err(CreateError { failure, error }) => {
                self.undo_creation(index, restart_count);
                let kind = RefusedKind::of(&error);
                self.start_failed(index, restart_count, StartFailed { failure, kind, message: format!("{error:#}") });
            }
        }
        Ok(())
    }

    fn try_create(&mut self, index: usize, restart_count: u32) -> Result<Instance, CreateError> {
        let launched = match self.take_early(index, restart_count) {
            Some(early) => {
                let log = self.open_output_log(index, restart_count);
                self.with_log(index, early, log)?
            }
            None => self.launch(index, restart_count, When::InTurn)?,
        };
        Ok(self.watched(index, launched)?)
    }

    /// What was made before an error is found by its name.
    pub(super) fn undo_creation(&mut self, index: usize, restart_count: u32) {
        let name = self.pod.record.plan.containers[index].name.clone();
        let group = remove::cgroup(&self.facts.cgroups, &self.pod.record.plan.sandbox.cgroup, &name);
        let undone = group.and_then(|group| group.remove(Duration::from_secs(1)));
        let data = snapshot::remove_tree(&self.pod.dirs.container_data(&name, restart_count));
        for leftover in [undone, data.map_err(Into::into)].into_iter().filter_map(Result::err) {
            self.warn("KillContainerError", format!("container {name}: {leftover:#}"));
        }
    }

    /// Prepares the root file system and resolves what the image and the pod's state decide.
    fn bundle(&self, (index, restart_count): (usize, u32), executor: Executor) -> Result<Bundle, CreateError> {
        let plan = &self.pod.record.plan;
        let config = &plan.containers[index];
        let image = &self.pod.record.images[index];
        let state = self.pod.dirs.container_state(&config.name);
        let data = self.pod.dirs.container_data(&config.name, restart_count);
        // A runtime of the host finds it mounted, where the pod's mounts are looked for when it goes.
        let rootfs_path = if executor == Executor::Oci { data.join("rootfs") } else { state.join("rootfs") };
        if executor == Executor::Own {
            std::fs::create_dir_all(&rootfs_path).called("mkdir", rootfs_path.display())?;
        }
        let mount_points = (!self.mounts_directory_on_file(config)).then(|| self.pod.record.dirs.mount_points());
        let rootfs = self.timeline.act(
            || Act::RootFileSystem { container: config.name.clone() },
            |_| format!("the layers of {}", image.reference),
            || snapshot::prepare(&image.layers, mount_points.as_deref(), &data, self.owner()?),
        )?;
        let of_config = |error| CreateError { failure: StartFailure::Config, error };
        let user = user::resolve(rootfs.as_fd(), &image.config.user, &config.security)
            .and_then(|user| check_ids(&user, plan.sandbox.id_range).map(|()| user))
            .map(|user| if self.pod.record.commanded.is_some() { with_own_group(user) } else { user })
            .map_err(of_config)?;
        network::write_files(&plan.sandbox, &self.pod.dirs, &self.addresses)?;
        let variables = self.variables(config).map_err(of_config)?;
        let mounts = mounts::expanded(&config.mounts, &variables).map_err(of_config)?;
        let config = ContainerConfig { mounts, ..config.clone() };
        let binds = self.binds(&config, restart_count)?;
        let cgroup = remove::cgroup(&self.facts.cgroups, &plan.sandbox.cgroup, &config.name)?;
        // With one pid namespace for the pod, or the host's, the target is in it anyway.
        let target = match plan.sandbox.namespaces.pid {
            NamespaceMode::Container => self.target(&config)?,
            NamespaceMode::Pod | NamespaceMode::Node => None,
        };
        let profile = runtime::seccomp::of_host(&plan.sandbox, &config.security).map_err(of_config)?;
        let mut pins = sandbox::pins(&plan.sandbox, &self.pod.dirs);
        pins.extend(target.iter().map(|(path, _)| (LinuxNamespaceType::Pid, path.clone())));
        let resolved = Resolved {
            user: &user,
            variables: &variables,
            rootfs: rootfs_path.clone(),
            cgroup: cgroup.path(),
            binds: &binds,
            pins,
            thermal_throttle: self.facts.thermal_throttle.clone(),
            available_capabilities: self.facts.capabilities,
            cgroups: self.cgroups.clone(),
            localhost_seccomp: profile.as_ref(),
            kernel: &self.facts.kernel,
            lsms: self.facts.lsms,
        };
        let mut spec = spec::container(&plan.sandbox, &config, &image.config, resolved)
            .map_err(|error| CreateError { failure: start_failure(&error), error })?;
        if let Some(adjustment) = &self.slots[index].adjustment {
            adjust::apply(adjustment, &mut spec, executor).context("what NRI plugins want")?;
        }
        if executor == Executor::Oci {
            self.make_fit_for_runtimes(&mut spec)?;
        }
        Ok(Bundle { config, spec, binds, rootfs, rootfs_path, user, target })
    }

    fn make_fit_for_runtimes(&self, spec: &mut Spec) -> Result<()> {
        // Nothing of what came after that is in it, and older runtimes refuse a version that they do not know.
        spec.set_version("1.0.2".to_owned());
        // podshim's own init does that by itself, and says so.
        clamp_limits(spec)?;
        if self.facts.cgroups.mode == crate::host::cgroup::Mode::Hybrid {
            // A runtime of the host sees version 1 only there; that controller is in version 2.
            without_hugepage_limits(spec);
        }
        Ok(())
    }

    /// Makes an instance: its child performs the steps, and then waits to be told to start.
    pub(super) fn launch(&mut self, index: usize, restart_count: u32, when: When) -> Result<Launched, CreateError> {
        let handler = self.pod.record.commanded.as_ref().and_then(|asked| asked.runtime.clone());
        let executor = if handler.is_some() { Executor::Oci } else { Executor::Own };
        let Bundle { config, spec, binds, rootfs, rootfs_path, user, target } =
            self.bundle((index, restart_count), executor)?;
        let (timeline, container) = (self.timeline.clone(), || config.name.clone());
        let sandbox = &self.pod.record.plan.sandbox;
        let state = self.pod.dirs.container_state(&config.name);
        let steps = runtime::container_steps(&spec)?;
        if when == When::Early {
            early::require_apart(rootfs.as_fd(), &steps)?;
        }
        let trees = timeline.act(
            || Act::Sources { container: container() },
            |trees: &Vec<OwnedFd>| format!("{} mounts, attached nowhere yet", trees.len()),
            || self.open_binds(&spec, &config, &binds),
        )?;
        let cgroup = remove::cgroup(&self.facts.cgroups, &sandbox.cgroup, &config.name)?;
        let mut pipes = Pipes::open(&state, config.stdio, &self.launcher)?;
        pipes.give_to(&user, sandbox.id_range)?;
        let act = || Act::Cgroup { container: container() };
        timeline.act(act, |()| cgroup.path(), || create_cgroup(&cgroup, &spec))?;
        self.finish_pod_resize();
        if let Some(runtime) = handler {
            let log = self.write_bundle((index, restart_count), &spec, when)?;
            let making = Making {
                runtime: &runtime,
                state: &state,
                at: rootfs_path,
                rootfs,
                stdio: pipes.take_theirs()?,
                with_terminal: config.stdio == Stdio::Terminal,
            };
            let (child, external) = self.launch_external(index, making)?;
            let external = Some(external);
            return Ok(Launched { child, sync: None, told: None, external, cgroup, log, pipes, restart_count });
        }
        let showing = timeline.showing()?;
        let record = showing.as_ref().map(|showing| showing.record.clone());
        let request = Request {
            steps: &steps,
            rootfs: Some(rootfs),
            binds: trees,
            namespaces: self.joined()?,
            pid_namespace: match &target {
                Some((_, namespace)) => PidNamespace::Join(namespace.as_fd()),
                None => self.pid_namespace(),
            },
            cgroup: &cgroup,
            stdio: pipes.take_theirs()?,
            filter: None,
            showing,
            start: runtime::Start::WhenTold,
        };
        let runtime::Starting { child, sync } = timeline.act(
            || Act::Init { container: container() },
            |starting: &runtime::Starting| born(starting.child.pid),
            || self.launcher.launch(request),
        )?;
        let told = record.map(|record| Told::new(record, steps, child.pid));
        let launched =
            Launched { child, sync: Some(sync), told, external: None, cgroup, log: None, pipes, restart_count };
        // Its init is at work meanwhile.
        let log = self.write_bundle((index, restart_count), &spec, when);
        Ok(self.with_log(index, launched, log)?)
    }

    /// An instance with its log, or nothing of it.
    fn with_log(&mut self, index: usize, launched: Launched, log: Result<Option<logs::Writer>>) -> Result<Launched> {
        if log.is_err() {
            self.end_launched(index, &launched);
        }
        Ok(Launched { log: log?, ..launched })
    }

    /// Writes down what the container is, and opens its log if it is its turn.
    fn write_bundle(
        &self,
        (index, restart_count): (usize, u32),
        spec: &Spec,
        when: When,
    ) -> Result<Option<logs::Writer>> {
        let name = &self.pod.record.plan.containers[index].name;
        // Whole or not at all: `inspect` may read it while the container starts again.
        store::write_json(&self.pod.dirs.container_state(name).join("config.json"), spec)?;
        match when {
            When::InTurn => self.open_output_log(index, restart_count),
            When::Early => Ok(None),
        }
    }

    /// An instance that is being created: what it says, its end and its output are seen from now on.
    fn watched(&mut self, index: usize, launched: Launched) -> Result<Instance> {
        let Launched { child, sync, told, external, cgroup, log, pipes, restart_count } = launched;
        let (pid, hand_off) = (child.pid, sync.map(|sync| (sync, Source::HandOff(index))));
        let watched = Watched::new(&mut self.poll, Stage::Creating, (child, Source::Exit(index)), hand_off);
        let mut process = match watched {
            Ok(process) => process,
            Err(error) => {
                if let Some(external) = external {
                    self.undo_making(pid, external, &cgroup);
                }
                return Err(error);
            }
        };
        let mut outputs = Vec::new();
        for (output, fd) in pipes.ours {
            match self.poll.watch(&fd, Source::Output(index, output)) {
                Ok(token) => outputs.push((output, token, fd)),
                // Its end is an event by now, and the answer.
                Err(error) if external.is_none() => process.fail(error.to_string())?,
                Err(error) => {
                    self.warn("SupervisorError", error.to_string());
                    process.kill()?;
                }
            }
        }
        Ok(Instance {
            process,
            cgroup,
            restart_count,
            log,
            log_again: None,
            outputs,
            input: pipes.input,
            id: self.instance_id(index, restart_count),
            told,
            external,
            confinement: None,
        })
    }

    /// The manifest's variables, with what is known by now: addresses, and files that other containers wrote.
    fn variables(&self, config: &ContainerConfig) -> Result<Vec<KeyValue>> {
        let texts = |ips: &[IpAddr]| -> Vec<String> { ips.iter().map(IpAddr::to_string).collect() };
        let is_of_host = |v: &EnvVar| matches!(v.value, EnvValue::HostIp | EnvValue::HostIps);
        // This process is in the host's network namespace.
        let host_ips = if config.envs.iter().any(is_of_host) { texts(&network::addresses()?) } else { Vec::new() };
        // A pod with loopback only reaches itself there.
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let pod_ips = texts(if self.addresses.is_empty() { &loopback } else { &self.addresses });
        let mut files = BTreeMap::new();
        for (volume, path) in env::files(&config.envs) {
            let plan = self.volume(&volume)?;
            let root = volumes::open(plan, self.pod.volumes())?;
            let text = volumes::read_text(root.as_fd(), &path, MAX_ENV_FILE)
                .with_context(|| format!("volume {volume}: reading variables"))?;
            files.extend(text.map(|text| ((volume, path), text)));
        }
        let late = env::Late { pod_ips: &pod_ips, host_ips: &host_ips, files: env::Files::Read(&files) };
        env::resolve(&config.envs, late)
    }

    /// The log of an instance, as its output is read.
    pub(super) fn open_output_log(&self, index: usize, restart_count: u32) -> Result<Option<logs::Writer>> {
        let config = &self.pod.record.plan.containers[index];
        let mut log = self.open_log(config, restart_count)?;
        if let Some(log) = log.as_mut().filter(|_| config.stdio != Stdio::Terminal) {
            log.keep_in(&self.pod.dirs.unlogged(&config.name))?;
        }
        Ok(log)
    }

    /// Opens the log, and drops the logs of instances before the previous one, as a kubelet does.
    pub(super) fn open_log(&self, config: &ContainerConfig, restart_count: u32) -> Result<Option<logs::Writer>> {
        let zone = jiff::tz::TimeZone::system();
        match &config.log {
            Log::OfInstance => {}
            Log::File(path) => return logs::Writer::open_file(path, zone).map(Some),
            Log::Nowhere => return Ok(None),
        }
        let pod_logs = &self.pod.record.plan.sandbox.log_directory;
        let place = logs::Place { pod_logs, container: &config.name, restart_count };
        let log = logs::Writer::open(place, logs::Limits::default(), zone)?;
        if let Some(old) = restart_count.checked_sub(2) {
            logs::remove_instance(pod_logs, &config.name, old)?;
        }
        Ok(Some(log))
    }

    fn joined(&self) -> SysResult<Vec<(NamespaceKind, OwnedFd)>> {
        let by_init = self.sandbox.namespaces.iter().filter(|(kind, _)| *kind != NamespaceKind::Pid);
        by_init.map(|(kind, fd)| Ok((*kind, runtime::duplicate(fd.as_fd())?))).collect()
    }

    /// The pid namespace that an ephemeral container joins: that of the running container which it was made to look at.
    fn target(&self, config: &ContainerConfig) -> Result<Option<(PathBuf, OwnedFd)>> {
        let Some(name) = &config.target else { return Ok(None) };
        let target = &self.slots[self.index_of(name)?].instance;
        let running = target.as_ref().filter(|instance| matches!(instance.process.stage, Stage::Running));
        let missing = || failure(Kind::NotReady, format!("the target container {name} is not running"));
        let child = &running.ok_or_else(missing)?.process.child;
        let path = PathBuf::from(format!("/proc/{}/ns/pid", child.pid));
        let namespace = runtime::open_namespace(&path)?;
        // It had this pid all the time: it was not waited for.
        process::require_unreaped(child.pidfd.as_fd())?;
        Ok(Some((path, namespace)))
    }

    fn pid_namespace(&self) -> PidNamespace<'_> {
        let shared = self.sandbox.namespaces.iter().find(|(kind, _)| *kind == NamespaceKind::Pid);
        match (self.pod.record.plan.sandbox.namespaces.pid, shared) {
            (NamespaceMode::Node, _) => PidNamespace::Inherit,
            (NamespaceMode::Pod, Some((_, fd))) => PidNamespace::Join(fd.as_fd()),
            _ => PidNamespace::New,
        }
    }

    /// Everything that is mounted into a container beside its file systems; the file of its termination message is made.
    fn binds(&self, config: &ContainerConfig, restart_count: u32) -> Result<Vec<Bind>> {
        let pod = &self.pod.dirs;
        // Without a path (CRI) it is somebody else's: a kubelet has a mount for it.
        if !config.termination_message_path.is_empty() {
            volumes::materialize_termination_messages(pod, &config.name)?;
            if let Some(last) = restart_count.checked_sub(1) {
                // It was read when its container ended, and may take all the room there is.
                snapshot::remove_tree(&pod.termination_message(&config.name, last))?;
            }
            make_termination_file(&pod.termination_message(&config.name, restart_count))?;
        }
        volumes::binds(&self.pod.record.plan, config, self.pod.volumes(), restart_count)
    }

    fn volume(&self, name: &str) -> Result<&VolumePlan> {
        let volumes = &self.pod.record.plan.volumes;
        volumes.iter().find(|v| v.name == name).with_context(|| format!("the pod has no volume {name}"))
    }

    /// Whether a volume's directory is mounted where the layer of mount points has a file for one of podshim's own.
    fn mounts_directory_on_file(&self, config: &ContainerConfig) -> bool {
        let is_directory = |mount: &VolumeMount| {
            let root = self.volume(&mount.volume).map(|volume| self.pod.volumes().of(volume));
            root.is_ok_and(|root| root.join(&mount.sub_path).is_dir())
        };
        config.mounts.iter().any(|mount| snapshot::has_file_at(&mount.container_path) && is_directory(mount))
    }

    /// A detached mount for each bind of the spec, in the spec's order.
    fn open_binds(&self, spec: &Spec, config: &ContainerConfig, binds: &[Bind]) -> Result<Vec<OwnedFd>> {
        let owner = self.owner()?;
        let wanted = spec.mounts().iter().flatten().filter(|m| m.typ().as_deref() == Some("bind"));
        let trees = wanted
            .map(|mount| {
                let source_path = mount.source().as_ref().context("a bind mount of the spec has no source")?;
                let is_wanted =
                    |bind: &&Bind| Path::new(&bind.destination) == mount.destination() && bind.source == *source_path;
                let (source, depth) = match binds.iter().find(is_wanted) {
                    Some(bind) if bind.propagation == MountPropagation::None && !is_volume(config, bind) => {
                        (self.open_source(config, bind)?, Depth::Top)
                    }
                    Some(bind) => (self.open_source(config, bind)?, Depth::Recursive),
                    // What an NRI plugin wants: a path of the host, whatever is there.
                    None => {
                        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
                        let found = open(source_path, flags, Mode::empty());
                        (found.called("open", source_path.display())?, Depth::Recursive)
                    }
                };
                let context = || format!("mounting {}", mount.destination().display());
                let tree = mount::clone_tree(source.as_fd(), depth).with_context(context)?;
                if let Some(owner) = owner {
                    snapshot::id_map(tree.as_fd(), owner, source_path).with_context(context)?;
                }
                Ok(tree)
            })
            .collect::<Result<_>>()?;
        match owner {
            Some(owner) => runtime::lock(spec, trees, owner.users),
            None => Ok(trees),
        }
    }

    /// Whose root file system and volumes a container gets, if the pod has a user namespace of its own.
    fn owner(&self) -> Result<Option<Owner<'_>>> {
        let Some(range) = self.pod.record.plan.sandbox.id_range else { return Ok(None) };
        let users = self.sandbox.namespaces.iter().find(|(kind, _)| *kind == NamespaceKind::User);
        let (_, users) = users.context("the pod's user namespace is gone")?;
        Ok(Some(Owner { users: users.as_fd(), root: range.first }))
    }

    fn open_source(&self, config: &ContainerConfig, bind: &Bind) -> Result<OwnedFd> {
        let Some(mount) = config.mounts.iter().find(|m| m.container_path == bind.destination) else {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            return Ok(open(&bind.source, flags, Mode::empty()).called("open", bind.source.display())?);
        };
        self.open_volume(self.volume(&mount.volume)?, mount)
    }

    /// What of a volume is to be mounted.
    pub(super) fn open_volume(&self, volume: &VolumePlan, mount: &VolumeMount) -> Result<OwnedFd> {
        let root = volumes::open(volume, self.pod.volumes())?;
        if mount.sub_path.is_empty() {
            return Ok(root);
        }
        volumes::open_sub_path(root.as_fd(), &mount.sub_path)
            .with_context(|| format!("volume {} at {}", mount.volume, mount.container_path))
    }
}

/// The ids of a pod's own user namespace are few: a user of the image may have a larger one.
pub(super) fn check_ids(user: &User, range: Option<IdRange>) -> Result<()> {
    let Some(range) = range else { return Ok(()) };
    let ids = [user.uid, user.gid].into_iter().chain(user.groups.iter().copied());
    match ids.into_iter().find(|id| range.on_host(*id).is_none()) {
        Some(id) => {
            let message = format!("id {id} is not in the pod's user namespace, which has the ids below {}", range.size);
            Err(failure(Kind::Invalid, message))
        }
        None => Ok(()),
    }
}

/// As every CRI runtime does: who has a group as his own may not be kept out where that group is (CVE-2022-2995).
fn with_own_group(mut user: User) -> User {
    if !user.groups.contains(&user.gid) {
        user.groups.insert(0, user.gid);
    }
    user
}

fn is_volume(config: &ContainerConfig, bind: &Bind) -> bool {
    config.mounts.iter().any(|m| m.container_path == bind.destination)
}

/// An image or manifest without any command is what `podshim run` gives up for, like a command that does not exist.
fn start_failure(error: &anyhow::Error) -> StartFailure {
    match crate::error::kind_of(error) {
        Some(_) => StartFailure::Config,
        None => StartFailure::Create,
    }
}

/// A limit cannot be higher than that of this process, unless it may raise limits (getrlimit(2)).
fn clamp_limits(spec: &mut Spec) -> Result<()> {
    let (_, highest) = getrlimit(Resource::RLIMIT_NOFILE).called("getrlimit", "NOFILE")?;
    let Some(process) = spec.process_mut() else { return Ok(()) };
    let mut limits = process.rlimits().clone().unwrap_or_default();
    for limit in limits.iter_mut().filter(|limit| limit.typ() == PosixRlimitType::RlimitNofile) {
        let (soft, hard) = (limit.soft().min(highest), limit.hard().min(highest));
        *limit = PosixRlimitBuilder::default().typ(limit.typ()).soft(soft).hard(hard).build()?;
    }
    process.set_rlimits(Some(limits));
    Ok(())
}

fn without_hugepage_limits(spec: &mut Spec) {
    if let Some(resources) = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut()) {
        resources.set_hugepage_limits(None);
    }
}

fn create_cgroup(cgroup: &Cgroup, spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref().context("the spec has no linux section")?;
    cgroup.create(&linux.resources().clone().unwrap_or_default())
}

/// Mode 0666: the container's user, whoever that is, writes it (pod-api.md §11).
fn make_termination_file(path: &Path) -> SysResult<()> {
    std::fs::write(path, "").called("write", path.display())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).called("chmod", path.display())
}
