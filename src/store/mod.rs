//! Pods on disk: reserve a name, write atomically, lock, find, list.
//!
//! A pod is its directory `<state>/pods/<uid>` with `record.json` in it; its name is reserved by a symlink. Everything that the
//! pod will have on the host is named after its uid, so that it can be removed even if nothing but the directory's name is
//! left. Removal itself is in `supervisor::remove`, which knows all those things.

mod claims;
mod find;
mod ids;

pub use claims::{Claim, claims, remove_claim};
pub use find::{Broken, find, list};

use crate::control::{ContainerRecord, RefusedKind};
use crate::error::{Kind, failure};
use crate::host;
use crate::lifecycle::commanded::ContainerReport;
use crate::lifecycle::status::Time;
use crate::lifecycle::{PodStatus, exit_code_without};
use crate::paths::{Dirs, PodDirs};
use crate::plan::capacity;
use crate::plan::config::{Amounts, ContainerKind, ImageSpec, NamespaceMode, Pace, PodPlan};
use crate::sys::flock::{Flock, How};
use crate::sys::{self, Called, SysError, SysResult};
use crate::volumes;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The format of `record.json`; a record of another version is refused by name, never guessed at.
pub const RECORD_VERSION: u32 = 1;

/// What the supervisor works from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`]
    pub version: u32,
    /// Where everything is.
    pub dirs: Dirs,
    /// The boot that the pod was made in.
    pub boot_id: String,
    /// When, in seconds since the epoch.
    pub created: Time,
    /// The plan.
    pub plan: PodPlan,
    /// Each container's image, in the order of the plan's containers.
    pub images: Vec<ImageSpec>,
    /// The images of volumes, by the volume's name.
    #[serde(default)]
    pub volume_images: BTreeMap<String, ImageSpec>,
    /// `spec.ephemeralContainers`, as they were asked for, with their defaults.
    #[serde(default)]
    pub ephemeral: Vec<Value>,
    /// If its making is to be written down (`run --explain`): whether its containers' inits stop before each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<Pace>,
    /// Of a pod whose life a kubelet decides (`podshim cri`): what it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commanded: Option<Asked>,
    /// `metadata.generation`: how often the spec was changed in place, from 1 on.
    #[serde(default = "first_generation")]
    pub generation: i64,
}

/// A sandbox as it was asked for through CRI. The pod's uid in the store is the sandbox's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// `<namespace>/<name>/<uid>/<attempt>`: no two sandboxes have the same.
    pub identity: String,
    /// `runtime_handler`
    pub handler: String,
    /// The OCI runtime that the handler stands for; `None` if podshim makes the containers itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<OciRuntime>,
    /// `PodSandboxConfig`, encoded.
    #[serde(with = "crate::plan::base64_bytes")]
    pub request: Vec<u8>,
    /// When, in nanoseconds since the epoch.
    pub created_at: i64,
}

/// An OCI runtime of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciRuntime {
    /// The binary.
    pub path: PathBuf,
    /// Arguments before the runtime's verb.
    pub args: Vec<String>,
}

impl Record {
    /// The symlink that reserves what the pod is called.
    pub fn name_link(&self) -> PathBuf {
        match &self.commanded {
            Some(asked) => self.dirs.identity_link(&asked.identity),
            None => self.dirs.name_link(&self.plan.sandbox.namespace, &self.plan.sandbox.name),
        }
    }
}

/// Of a pod that was never changed.
fn first_generation() -> i64 {
    1
}

/// What the supervisor last observed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The pod's status.
    pub status: PodStatus,
    /// When it must be over, since it was asked to end.
    pub deletion: Option<Time>,
    /// How many seconds it was given for that.
    #[serde(default)]
    pub deletion_grace_seconds: Option<i64>,
    /// The [`Record::generation`] that this is a report on.
    #[serde(default = "first_generation")]
    pub generation: i64,
    /// Whether the pod is over and its supervisor gone on purpose.
    pub over: bool,
    /// Whether its sandbox was taken away then, and nothing of it stayed: no process, cgroup, mount, or place on a network.
    #[serde(default)]
    pub cleared: bool,
    /// Why the first start of a container failed, if one did.
    pub failure: Option<FirstFailure>,
    /// The containers of a pod that is commanded through CRI.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commanded: Vec<ContainerReport>,
    /// Whether such a pod's sandbox takes no container any more: whoever commands it makes another one.
    #[serde(default)]
    pub sandbox_lost: bool,
}

impl Report {
    /// On a pod of which nothing more is known than its status.
    pub fn of(status: PodStatus) -> Report {
        Report {
            status,
            deletion: None,
            deletion_grace_seconds: None,
            generation: first_generation(),
            over: false,
            cleared: false,
            failure: None,
            commanded: Vec::new(),
            sandbox_lost: false,
        }
    }
}

/// A container that never ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstFailure {
    /// What kind.
    pub kind: RefusedKind,
    /// Which container and why.
    pub message: String,
}

/// A pod found in the store.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its directories.
    pub dirs: PodDirs,
    /// Its record.
    pub record: Record,
}

impl Pod {
    /// Where its volumes are.
    pub fn volumes(&self) -> volumes::Place<'_> {
        volumes::Place {
            dirs: &self.record.dirs,
            pod: &self.dirs,
            namespace: &self.record.plan.sandbox.namespace,
            images: &self.record.volume_images,
            group: self.record.plan.fs_group,
        }
    }

    /// `namespace/name`
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.record.plan.sandbox.namespace, self.record.plan.sandbox.name)
    }

    /// The names of its sidecars: init containers with `restartPolicy: Always`.
    pub fn sidecars(&self) -> Vec<&str> {
        let sidecars = self.record.plan.containers.iter().filter(|c| c.kind == ContainerKind::Sidecar);
        sidecars.map(|c| c.name.as_str()).collect()
    }

    /// The exit code of a command that ran it; the status is its own.
    pub fn exit_code(&self, status: &PodStatus) -> u8 {
        exit_code_without(&self.sidecars(), status)
    }

    /// The last report; `None` before the first one. A damaged one is as good as none: its supervisor writes it again, or the one
    /// that takes over does.
    pub fn report(&self) -> Result<Option<Report>> {
        read_sound(&self.dirs.status())
    }

    /// Whether a supervisor is alive: it holds the lock as long as it is.
    pub fn is_supervised(&self) -> bool {
        // Shared: several who look do not take each other for the supervisor.
        match std::fs::File::open(self.dirs.lock()) {
            Ok(file) => matches!(Flock::lock(file, How::SharedNow), Err((_, Errno::EWOULDBLOCK))),
            // Who cannot look does not take a pod for abandoned: a kubelet would put another one in its place.
            Err(error) => {
                let errno = error.raw_os_error().map(Errno::from_raw);
                matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM))
            }
        }
    }

    /// Whether it is there, asked by who holds its lock: its name goes before its files, whose lock may be made anew until they are gone.
    pub fn is_there(&self) -> bool {
        let target = std::fs::read_link(self.record.name_link());
        target.is_ok_and(|target| target.file_name().is_some_and(|uid| uid == &*self.record.plan.sandbox.uid))
    }

    /// Whether its supervisor is gone although the pod is not over: what its report says is not so any more.
    pub fn is_unsupervised(&self) -> Result<bool> {
        // In this order: a supervisor that ends in this moment has said that the pod is over before.
        Ok(!self.is_supervised() && self.report()?.is_some_and(|report| !report.over))
    }
}

/// Whether to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until it is free.
    Yes,
    /// Not at all.
    No,
}

/// flock(2), exclusive; `None` if it is held by somebody and is not to be waited for. Released when dropped.
pub fn lock(path: &Path, wait: Wait) -> Result<Option<Flock>> {
    let options = || std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = options().called("open", path.display())?;
    let how = if wait == Wait::Yes { How::Exclusive } else { How::ExclusiveNow };
    let (mut file, mut met) = (file, 0);
    loop {
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(Some(lock)),
            Err((again, Errno::EWOULDBLOCK)) => match Flock::lock(again, How::SharedNow) {
                // Held only by somebody who looks whether it is held, for a moment ([`Pod::is_supervised`]).
                Ok(shared) if met < MAX_MET => {
                    met += 1;
                    file = shared.unlock().called("dup", path.display())?;
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                _ => return Ok(None),
            },
            Err((_, errno)) => return Err(SysError::new("flock", path.display(), errno).into()),
        }
    }
}

/// How often somebody who only looks is met in a row: more often it is no accident.
const MAX_MET: u32 = 200;

/// Makes the state directories, 0700 as they hold control sockets and namespaces.
pub fn make_directories(dirs: &Dirs) -> Result<()> {
    for path in [&dirs.state, &dirs.pods(), &dirs.names(), &dirs.root] {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.called("mkdir", path.display())?;
    }
    // A kubelet's log directory is 0755: log shippers of other users read there.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&dirs.log_dir)
        .called("mkdir", dirs.log_dir.display())?;
    Ok(())
}

/// The error of a name that is taken.
pub fn already_exists(namespace: &str, name: &str) -> anyhow::Error {
    let message = format!("pod {namespace}/{name} already exists: `podshim rm {namespace}/{name}` removes it");
    failure(Kind::AlreadyExists, message)
}

/// What was written about a pod, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The admitted manifest, defaults filled in.
    pub manifest: String,
    /// The list of ConfigMaps and Secrets that it refers to.
    pub objects: String,
}

impl Written {
    /// Puts it where [`Pod`] has it.
    pub fn keep(&self, pod: &PodDirs) -> Result<()> {
        write_atomically(&pod.objects(), self.objects.as_bytes())?;
        write_atomically(&pod.manifest(), self.manifest.as_bytes())
    }
}

/// A pod whose name was reserved a moment ago. As long as this is held, nobody takes it for one whose maker was killed.
#[derive(Debug)]
pub struct Reserved {
    /// The pod.
    pub pod: Pod,
    _starting: Flock,
}

/// Reserves the pod's name, and its ids if it has a user namespace of its own, and puts its record and manifest on disk.
/// Exactly one of several callers wins. Its requests must fit into what the host has, beside those of the pods that were
/// reserved before; `None` if nobody is to look.
pub fn reserve(record: &Record, written: &Written, capacity: Option<&Amounts>) -> Result<Reserved> {
    let mut record = record.clone();
    let dirs = &record.dirs;
    make_directories(dirs)?;
    let _lock = lock(&dirs.store_lock(), Wait::Yes)?;
    // A kubelet that asks through CRI names the ids itself.
    if record.plan.sandbox.namespaces.user == NamespaceMode::Pod && record.plan.sandbox.id_range.is_none() {
        record.plan.sandbox.id_range = Some(ids::lease(dirs).context("reserving ids for the pod's user namespace")?);
    }
    let dirs = &record.dirs;
    let sandbox = &record.plan.sandbox;
    let pod = dirs.pod(&sandbox.uid);
    let link = record.name_link();
    match std::fs::read_link(&link) {
        Ok(target) if dirs.names().join(&target).exists() => {
            return Err(match &record.commanded {
                Some(asked) => failure(Kind::AlreadyExists, format!("there is a sandbox {} already", asked.identity)),
                None => already_exists(&sandbox.namespace, &sandbox.name),
            });
        }
        // Whoever reserved it died before the pod's directory was made, or after it was removed.
        Ok(_) => std::fs::remove_file(&link).called("unlink", link.display())?,
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => Err(e).called("readlink", link.display())?,
    }
    if let Some(capacity) = capacity {
        capacity::check(&record.plan.requests, || requested(dirs, None), capacity)?;
    }
    // To take away again what was made takes a descriptor too.
    let spare = File::open(dirs.pods()).called("open", dirs.pods().display())?;
    // The record comes before the name and before every resource: whatever is made later can be found from it.
    std::fs::DirBuilder::new().mode(0o700).create(&pod.state).called("mkdir", pod.state.display())?;
    let reserve = || -> Result<Flock> {
        // Whoever removes the pod needs the file, and a full disk may have no room for it then.
        lock(&pod.lock(), Wait::No)?;
        make_data(&pod)?;
        let starting = lock(&pod.starting_lock(), Wait::No)?.context("somebody else starts the pod's supervisor")?;
        write_json(&pod.record(), &record)?;
        written.keep(&pod)?;
        let target = Path::new("../pods").join(&sandbox.uid);
        std::os::unix::fs::symlink(target, &link).called("symlink", link.display())?;
        Ok(starting)
    };
    match reserve() {
        Ok(starting) => Ok(Reserved { pod: Pod { dirs: pod, record }, _starting: starting }),
        Err(error) => {
            drop(spare);
            // Best effort: the error that matters is the first one.
            let _ = std::fs::remove_dir_all(&pod.data);
            let _ = std::fs::remove_dir_all(&pod.state);
            Err(error.context("reserving the pod's name"))
        }
    }
}

/// Reserves the name of a pod again that has lost it, unless it is another one's by now.
pub fn restore_name(pod: &PodDirs) -> Result<()> {
    // What cannot be read is no reason to make no other pod: `podshim ps` tells of it.
    let Ok(Some(record)) = load(pod) else { return Ok(()) };
    let link = record.name_link();
    match std::os::unix::fs::symlink(Path::new("../pods").join(&record.plan.sandbox.uid), &link) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => Ok(other.called("symlink", link.display())?),
    }
}

fn make_data(pod: &PodDirs) -> Result<()> {
    // Volumes below it are for anybody in the pod, and for nobody else on the host (CVE-2024-25621).
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&pod.data).called("mkdir", pod.data.display())?;
    Ok(std::os::unix::fs::symlink(&pod.state, pod.owner()).called("symlink", pod.owner().display())?)
}

/// What the pods request together that have not ended, but for the one of the uid `instead`.
pub fn requested(dirs: &Dirs, instead: Option<&str>) -> Result<Amounts> {
    let (pods, _) = list(dirs)?;
    let mut sum = Amounts::default();
    for pod in pods.iter().filter(|pod| Some(&*pod.record.plan.sandbox.uid) != instead) {
        let has_ended = pod.report()?.is_some_and(|report| report.status.phase.is_terminal());
        if !has_ended {
            sum = sum.plus(&pod.record.plan.requests);
        }
    }
    Ok(sum)
}

/// Reads a pod's record; `None` if there is none. That of another pod, in a copy of its directory, is an error of kind
/// `AlreadyExists`: its processes have a supervisor, and are nobody else's.
pub fn load(pod: &PodDirs) -> Result<Option<Record>> {
    #[derive(Deserialize)]
    struct Versioned {
        version: Option<u32>,
    }
    let path = pod.record();
    let Some(text) = read(&path)? else { return Ok(None) };
    let record: Result<Record> = parse(&path, &text);
    if let Ok(found) = &record
        && found.version == RECORD_VERSION
    {
        let uid = &found.plan.sandbox.uid;
        if pod.state.file_name().is_none_or(|name| name != uid.as_str()) {
            let message = format!("{} is damaged: it is a copy of pod {uid}'s, which stays", path.display());
            return Err(failure(Kind::AlreadyExists, message));
        }
        return record.map(Some);
    }
    match parse::<Versioned>(&path, &text)?.version {
        Some(RECORD_VERSION) => record.map(Some),
        Some(other) => bail!("{} is of version {other}, this podshim reads version {RECORD_VERSION}", path.display()),
        None => bail!("{} is damaged: it has no version", path.display()),
    }
}

/// The ids of the images that pods use, which must not be removed, and the digests of their manifests: one that is damaged has no other
/// name. An error if they are not known of a pod, as it is damaged.
pub fn images_in_use(dirs: &Dirs) -> Result<std::collections::BTreeSet<String>> {
    let unknown = |broken: Broken| broken.explain().context("which images are used is not known");
    let (pods, broken) = list(dirs)?;
    if let Some(broken) = broken.into_iter().next() {
        return Err(unknown(broken));
    }
    let mut used = std::collections::BTreeSet::new();
    let names = |image: ImageSpec| [image.id, image.digest];
    for pod in pods {
        let containers = containers(&pod).map_err(|error| {
            let uid = pod.record.plan.sandbox.uid.clone();
            unknown(Broken { uid, full_name: None, error })
        })?;
        for container in containers {
            used.extend(container.volume_images.into_values().chain([container.image]).flat_map(names));
        }
        let Record { images, volume_images, .. } = pod.record;
        used.extend(images.into_iter().chain(volume_images.into_values()).flat_map(names));
    }
    Ok(used)
}

/// The containers of a pod that is commanded through CRI, whose supervisor keeps each in its run state.
pub fn containers(pod: &Pod) -> Result<Vec<ContainerRecord>> {
    let read = |id: String| read_json(&container_record(&pod.dirs, &id)).transpose();
    container_ids(pod)?.into_iter().filter_map(read).collect()
}

/// The ids of [`containers`]. Without its record a container is being made or removed at this moment.
pub fn container_ids(pod: &Pod) -> Result<Vec<String>> {
    if pod.record.commanded.is_none() {
        return Ok(Vec::new());
    }
    let bundles = match std::fs::read_dir(pod.dirs.containers()) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.called("opendir", pod.dirs.containers().display())?,
    };
    Ok(bundles.flatten().filter_map(|bundle| bundle.file_name().into_string().ok()).collect())
}

/// The file in a container's run state with its [`ContainerRecord`].
pub fn container_record(pod: &PodDirs, id: &str) -> PathBuf {
    pod.container_state(id).join("container.json")
}

/// What a plan's images are.
#[derive(Debug, Clone, Default)]
pub struct Images {
    /// Of its containers, in their order.
    pub containers: Vec<ImageSpec>,
    /// Of its volumes, by their name.
    pub volumes: BTreeMap<String, ImageSpec>,
}

/// A new record of this boot.
pub fn record(dirs: &Dirs, plan: PodPlan, images: Images) -> Result<Record> {
    let created =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(Record {
        version: RECORD_VERSION,
        dirs: dirs.clone(),
        boot_id: host::boot_id()?,
        created: Time(created.as_secs() as i64),
        plan,
        images: images.containers,
        volume_images: images.volumes,
        ephemeral: Vec::new(),
        explain: None,
        commanded: None,
        generation: first_generation(),
    })
}

/// Reads JSON; `None` if the file is missing.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    read(path)?.map(|text| parse(path, &text)).transpose()
}

/// The same of a file that is as good as none if it is damaged.
pub fn read_sound<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match read_json(path) {
        Err(error) if is_damaged(&error) => Ok(None),
        other => other,
    }
}

/// Whether an error is that of a file which can be read, and does not say what it is to say.
pub fn is_damaged(error: &anyhow::Error) -> bool {
    error.downcast_ref::<serde_json::Error>().is_some()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => Err(e).called("open", path.display())?,
        Ok(mut file) => file.read_to_end(&mut text).called("read", path.display())?,
    };
    Ok(Some(text))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).with_context(|| format!("{} is damaged", path.display()))
}

/// Writes JSON atomically.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    // Most of it fits, so that the text is not moved each time that it grows.
    let mut text = Vec::with_capacity(16 << 10);
    serde_json::to_writer(&mut text, value).with_context(|| format!("serializing {}", path.display()))?;
    write_atomically(path, &text)
}

/// Writes a file so that readers see the old text or the new one. State is on a tmpfs: nothing is gained by fsync(2).
pub fn write_atomically(path: &Path, text: &[u8]) -> Result<()> {
    write_as(path, text, 0o600)
}

/// The same for a file that every process may read which can reach its directory, whatever this process's umask is.
pub fn write_readable(path: &Path, text: &[u8]) -> Result<()> {
    write_as(path, text, 0o644)
}

/// Removes a file that is written so, with what is left of one who was killed while he wrote it; gone already is gone.
pub fn remove_written(path: &Path) -> SysResult<()> {
    sys::fs::remove_file(&temporary(path))?;
    sys::fs::remove_file(path)
}

/// Whether such a file is there, or somebody has begun to write it.
pub fn is_begun(path: &Path) -> bool {
    path.exists() || temporary(path).exists()
}

fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    temporary.into()
}

fn write_as(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    let temporary = temporary(path);
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .called("open", temporary.display())?;
    file.write_all(text).called("write", temporary.display())?;
    file.set_permissions(std::fs::Permissions::from_mode(mode)).called("fchmod", temporary.display())?;
    Ok(std::fs::rename(&temporary, path).called("rename", path.display())?)
}
