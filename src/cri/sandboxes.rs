//! The sandboxes and containers that there are, as their supervisors' files say: the server keeps no list of its own.
//!
//! A file that is read is as new as the last answer of its supervisor, which writes before it answers.

use super::api;
use super::files::{Files, Latest, Trees, names, read_names};
use super::framing;
use crate::control::{Connection, ContainerRecord, Reply, Request};
use crate::error::{Kind, failure, kind_of, say};
use crate::host;
use crate::lifecycle::commanded::{ContainerReport, Stage};
use crate::paths::{Dirs, PodDirs};
use crate::store::{self, Asked, Pod, Report};
use crate::supervisor::{self, Recovered, remove};
use crate::sys::SysError;
use anyhow::{Context, Result};
use bytes::Bytes;
use prost::Message as _;
use std::collections::HashMap;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a supervisor that is there may take until it listens.
const LISTENS: Duration = Duration::from_secs(10);
/// How long until it says that it ends.
const ANSWERS: Duration = Duration::from_secs(10);
/// How often it is asked.
const SOON: Duration = Duration::from_millis(5);

/// A sandbox: what it was made from, which does not change, and how it is.
pub(super) struct Sandbox {
    made: Arc<SandboxMade>,
    report: Option<Arc<Report>>,
    is_supervised: bool,
}

/// What a sandbox's record says.
pub(super) struct SandboxMade {
    /// Its pod in the store.
    pub(super) pod: Pod,
    /// As it was asked for.
    pub(super) config: api::PodSandboxConfig,
    /// When, and which handler runs its containers.
    pub(super) asked: Asked,
}

impl Deref for Sandbox {
    type Target = SandboxMade;

    fn deref(&self) -> &SandboxMade {
        &self.made
    }
}

/// A container, likewise.
pub(super) struct Container {
    made: Arc<ContainerMade>,
    /// How it is.
    pub(super) report: ContainerReport,
}

/// What a container's record says; nothing, if it is damaged.
#[derive(Default)]
pub(super) struct ContainerMade {
    /// What its supervisor made it from.
    pub(super) record: ContainerRecord,
    /// As it was asked for.
    pub(super) config: api::ContainerConfig,
    /// What is wrong with the record, if something is.
    damage: Option<String>,
}

impl Deref for Container {
    type Target = ContainerMade;

    fn deref(&self) -> &ContainerMade {
        &self.made
    }
}

/// A container as it is listed.
pub(super) struct Listed {
    pub(super) container: api::Container,
    /// The same, for the wire.
    pub(super) encoded: Bytes,
}

/// All containers, newest first.
pub(super) struct AllListed {
    pub(super) items: Vec<Arc<Listed>>,
    /// The answer to whom asks for all.
    pub(super) answer: api::ListContainersResponse,
    /// The body that it is, once somebody has asked again.
    body: OnceLock<Bytes>,
}

impl AllListed {
    pub(super) fn body(&self) -> &Bytes {
        self.body.get_or_init(|| framing::body_of(&self.answer))
    }
}

static SANDBOXES: Files<SandboxMade> = Files::new();
static REPORTS: Files<Report> = Files::new();
static CONTAINERS: Files<ContainerMade> = Files::new();
static LISTED: Trees<Vec<Arc<Listed>>> = Trees::new();
static ALL_LISTED: Latest<AllListed> = Latest::new();

impl Sandbox {
    /// `None` if it is not there, or no sandbox of CRI's.
    fn of(dirs: &PodDirs) -> Result<Option<Sandbox>> {
        made(dirs)?.map(Sandbox::now).transpose()
    }

    fn now(made: Arc<SandboxMade>) -> Result<Sandbox> {
        // In this order: a supervisor that ends in this moment has said so before.
        let is_supervised = made.pod.is_supervised();
        let report = report(&made)?;
        Ok(Sandbox { made, report, is_supervised })
    }

    /// `id`
    pub(super) fn id(&self) -> &str {
        &self.pod.record.plan.sandbox.uid
    }

    /// Whether it is there: it has been made, and nobody has asked for its end.
    pub(super) fn is_up(&self) -> bool {
        let is_up = |report: &Report| !report.over && report.deletion.is_none() && report.status.start_time.is_some();
        self.is_supervised && self.report.as_deref().is_some_and(is_up)
    }

    /// Whether containers can be made in it: CRI's SANDBOX_READY.
    pub(super) fn is_ready(&self) -> bool {
        self.is_up() && self.report.as_deref().is_some_and(|report| !report.sandbox_lost)
    }

    /// Whether its supervisor is there.
    pub(super) fn is_supervised(&self) -> bool {
        self.is_supervised
    }

    /// Whether its supervisor has ended without it.
    pub(super) fn is_abandoned(&self) -> bool {
        !self.is_supervised && self.report.as_ref().is_none_or(|report| !report.over)
    }

    /// Whether the server that was to make it was killed before NRI plugins had agreed to it, or before it was set up: nobody has
    /// heard of it.
    pub(super) fn is_half_made(&self) -> bool {
        // One that was not set up is none also when somebody has begun to take it away: it is over then.
        self.is_undecided() || !self.is_supervised && !self.pod.dirs.kept().exists()
    }

    /// Whether NRI plugins have not agreed to it yet.
    pub(super) fn is_undecided(&self) -> bool {
        self.pod.dirs.undecided().exists()
    }

    /// Its addresses, the main one first.
    pub(super) fn addresses(&self) -> Vec<String> {
        let ips = self.report.iter().flat_map(|report| &report.status.pod_ips);
        ips.map(|ip| ip.ip.clone()).collect()
    }

    /// `metadata`
    pub(super) fn metadata(&self) -> api::PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    /// `state`
    pub(super) fn state(&self) -> api::PodSandboxState {
        match self.is_ready() {
            true => api::PodSandboxState::SandboxReady,
            false => api::PodSandboxState::SandboxNotready,
        }
    }

    /// Its containers, but for those that are being created or removed, and for damaged ones.
    pub(super) fn containers(&self) -> Result<Vec<Container>> {
        let mut containers = self.all_containers()?;
        containers.retain(|container| container.damage.is_none());
        Ok(containers)
    }

    /// The same with damaged ones, of which nothing but the report is known: they end and are removed like others.
    pub(super) fn all_containers(&self) -> Result<Vec<Container>> {
        containers_of(&self.made, self.report.as_deref())
    }

    /// Asks its supervisor, and waits for it to answer that it is done. One that does not listen yet, as it takes the sandbox over,
    /// is waited for.
    pub(super) fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let connection = self.connect(request, descriptors)?;
        // That is answered before it is done. One that hangs would keep the sandbox for ever: another one ends it.
        if matches!(request, Request::Stop { .. }) && !connection.answers_within(ANSWERS)? {
            remove::kill_supervisor(&self.pod.dirs)?;
        }
        match connection.reply()? {
            Some((Reply::Accepted | Reply::Changed, _)) => Ok(()),
            Some((other, _)) => {
                Err(failure(Kind::Invalid, format!("the supervisor's answer {other:?} is not to the question")))
            }
            None => Err(failure(Kind::NotReady, "the sandbox ended meanwhile")),
        }
    }

    fn connect(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Connection> {
        let deadline = Instant::now() + LISTENS;
        loop {
            match Connection::open(&self.pod.dirs.socket(), request, descriptors) {
                // Nothing was asked yet.
                Err(error) if kind_of(&error) == Some(Kind::NotReady) && Instant::now() < deadline => {
                    if !recover(&self.pod) {
                        return Err(error);
                    }
                    std::thread::sleep(SOON);
                }
                other => return other,
            }
        }
    }

    /// The same as long as it has one, or gets another one in the place of one that was killed: one that does not listen, as it is
    /// being set up or has too many clients, is asked again for so long. Whether it did it; if not, the sandbox has ended.
    pub(super) fn ask_if_supervised(&self, request: &Request, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        while recover(&self.pod) {
            match self.ask(request, &[]) {
                Err(error) if kind_of(&error) == Some(Kind::NotReady) && Instant::now() < deadline => {
                    std::thread::sleep(SOON);
                }
                other => return other.map(|()| true),
            }
        }
        Ok(false)
    }

    /// That it is ready, or the error of a call that takes that.
    pub(super) fn require_ready(&self) -> Result<()> {
        match self.is_ready() {
            true => Ok(()),
            false => Err(self.not_ready()),
        }
    }

    /// The error of a call that takes one that is ready.
    pub(super) fn not_ready(&self) -> anyhow::Error {
        failure(Kind::NotReady, format!("sandbox {} is not ready", self.id()))
    }

    /// The ids of all of its containers.
    pub(super) fn container_ids(&self) -> impl Iterator<Item = &str> {
        self.report.iter().flat_map(|report| &report.commanded).map(|report| report.id.as_str())
    }
}

impl Container {
    /// `id`
    pub(super) fn id(&self) -> &str {
        &self.report.id
    }

    /// That it is not damaged, or the error of a call that takes that.
    pub(super) fn require_whole(&self) -> Result<()> {
        let Some(damage) = &self.damage else { return Ok(()) };
        let message = format!("container {} can only be stopped and removed: {damage}", self.id());
        Err(failure(Kind::NotReady, message))
    }

    /// `state`
    pub(super) fn state(&self) -> api::ContainerState {
        match self.report.stage {
            Stage::Creating | Stage::Created | Stage::Starting => api::ContainerState::ContainerCreated,
            Stage::Running => api::ContainerState::ContainerRunning,
            Stage::Exited => api::ContainerState::ContainerExited,
        }
    }

    /// `metadata`
    pub(super) fn metadata(&self) -> api::ContainerMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    /// `image`: what the container runs, as it was named; if it was by its id, by another name.
    pub(super) fn image(&self) -> api::ImageSpec {
        let mut image = self.config.image.clone().unwrap_or_default();
        if let Some(names) = &self.record.image_names {
            image.image.clone_from(&names.name);
        }
        image
    }

    /// `image_ref`: its digest in a repository, or its id if it is in none.
    pub(super) fn image_ref(&self) -> String {
        self.record.image_names.as_ref().map_or_else(|| self.record.image.id.clone(), |names| names.digest.clone())
    }

    /// As a list shows it.
    fn item(&self, sandbox: &str) -> api::Container {
        api::Container {
            id: self.id().to_owned(),
            pod_sandbox_id: sandbox.to_owned(),
            metadata: Some(self.metadata()),
            image: Some(self.image()),
            image_ref: self.image_ref(),
            state: self.state() as i32,
            created_at: self.report.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            image_id: self.record.image.id.clone(),
        }
    }
}

fn made(dirs: &PodDirs) -> Result<Option<Arc<SandboxMade>>> {
    SANDBOXES.read(&dirs.record(), || {
        let Some(record) = store::load(dirs)? else { return Ok(None) };
        let Some(asked) = record.commanded.clone() else { return Ok(None) };
        let context = || format!("the request that made sandbox {}", record.plan.sandbox.uid);
        let config = api::PodSandboxConfig::decode(&*asked.request).with_context(context)?;
        Ok(Some(SandboxMade { pod: Pod { dirs: dirs.clone(), record }, config, asked }))
    })
}

/// What was read, without what is damaged. What cannot be read just now is an error: a kubelet makes again what is missing.
pub(super) fn if_whole<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(error) if is_damage(&error) => Ok(None),
        other => other,
    }
}

fn is_damage(error: &anyhow::Error) -> bool {
    !error.downcast_ref().is_some_and(SysError::is_without_means)
}

fn report(made: &SandboxMade) -> Result<Option<Arc<Report>>> {
    REPORTS.read(&made.pod.dirs.status(), || made.pod.report())
}

fn containers_of(made: &SandboxMade, report: Option<&Report>) -> Result<Vec<Container>> {
    let mut containers = Vec::new();
    for report in report.iter().flat_map(|report| &report.commanded) {
        let path = store::container_record(&made.pod.dirs, &report.id);
        let made = CONTAINERS.read(&path, || container_made(&path))?;
        containers.extend(made.map(|made| Container { made, report: report.clone() }));
    }
    Ok(containers)
}

/// One that is damaged is told of here, once: what was read is remembered until the file is another one.
fn container_made(path: &Path) -> Result<Option<ContainerMade>> {
    let read = || -> Result<Option<ContainerMade>> {
        let Some(record) = store::read_json::<ContainerRecord>(path)? else { return Ok(None) };
        let context = || format!("{} is damaged: the request", path.display());
        let config = api::ContainerConfig::decode(&*record.request).with_context(context)?;
        Ok(Some(ContainerMade { record, config, damage: None }))
    };
    match read() {
        Err(error) if is_damage(&error) => {
            let damage = format!("{error:#}");
            say!("podshim cri: a container is in no list, and can only be stopped and removed: {damage}");
            Ok(Some(ContainerMade { damage: Some(damage), ..ContainerMade::default() }))
        }
        other => other,
    }
}

/// All sandboxes, newest first as containerd lists them. One whose files are damaged is left out: `podshim ps` shows it.
pub(super) fn list(dirs: &Dirs) -> Result<Vec<Sandbox>> {
    let mut sandboxes = all_made(dirs)?.into_iter().map(Sandbox::now).collect::<Result<Vec<_>>>()?;
    CONTAINERS.forget_gone(sandboxes.iter().flat_map(Sandbox::container_ids).count());
    sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.asked.created_at));
    Ok(sandboxes)
}

/// All containers. How they are is what supervisors have said; it is not looked whether those are there.
pub(super) fn list_containers(dirs: &Dirs) -> Result<Arc<AllListed>> {
    ALL_LISTED.of(&dirs.pods(), || {
        let uids = names(&dirs.pods())?;
        let of_sandboxes = LISTED.of(&dirs.pods(), &uids, |uid| listed(&dirs.pod(uid)))?;
        let mut items: Vec<_> = of_sandboxes.iter().flat_map(|listed| listed.iter().cloned()).collect();
        forget_gone(uids.len());
        CONTAINERS.forget_gone(items.len());
        items.sort_by_key(|item| std::cmp::Reverse(item.container.created_at));
        Ok(AllListed { answer: answer(&items), items, body: OnceLock::new() })
    })
}

/// The same if nothing has changed since it was asked for last: nobody has to be waited for.
pub(super) fn containers_at_once(dirs: &Dirs) -> Option<Arc<AllListed>> {
    ALL_LISTED.at_once(&dirs.pods())
}

/// The answer that these are all.
pub(super) fn answer(items: &[Arc<Listed>]) -> api::ListContainersResponse {
    api::ListContainersResponse { containers: items.iter().map(|item| item.encoded.clone()).collect() }
}

fn listed(dirs: &PodDirs) -> Result<Vec<Arc<Listed>>> {
    let Some(made) = if_whole(made(dirs))? else { return Ok(Vec::new()) };
    let containers = containers_of(&made, report(&made)?.as_deref())?;
    let item = |container: &Container| {
        let container = container.item(&made.pod.record.plan.sandbox.uid);
        Arc::new(Listed { encoded: container.encode_to_vec().into(), container })
    };
    Ok(containers.iter().filter(|container| container.damage.is_none()).map(item).collect())
}

fn all_made(dirs: &Dirs) -> Result<Vec<Arc<SandboxMade>>> {
    let ids = names(&dirs.pods())?;
    forget_gone(ids.len());
    ids.iter().filter_map(|id| if_whole(made(&dirs.pod(id))).transpose()).collect()
}

fn forget_gone(sandboxes: usize) {
    SANDBOXES.forget_gone(sandboxes);
    REPORTS.forget_gone(sandboxes);
}

/// The sandbox of an id, or of the beginning of one that no other has.
pub(super) fn sandbox(dirs: &Dirs, id: &str) -> Result<Sandbox> {
    let missing = || failure(Kind::NotFound, format!("there is no sandbox {id:?}"));
    let full = complete(id, &*names(&dirs.pods())?)?.ok_or_else(missing)?;
    let sandbox = Sandbox::of(&dirs.pod(&full))?.ok_or_else(missing)?;
    if !sandbox.is_abandoned() {
        return Ok(sandbox);
    }
    // Its supervisor was killed: before anything is asked of it, it has another one. What cannot be taken over stays as it is, for
    // whoever ends it.
    recover(&sandbox.pod);
    Sandbox::of(&dirs.pod(&full))?.ok_or_else(missing)
}

/// Gives a sandbox another supervisor if its own was killed. Whether it has one.
fn recover(pod: &Pod) -> bool {
    if pod.is_supervised() {
        return true;
    }
    if let Ok(Recovered::TakenOver(supervising)) = supervisor::recover(pod) {
        // Waited for by a thread: who watches the sandboxes has not started it.
        std::thread::spawn(move || supervising.wait());
    }
    pod.is_supervised()
}

/// The container of an id, or of the beginning of one that no other has, and its sandbox. A damaged one is an error.
pub(super) fn container(dirs: &Dirs, id: &str) -> Result<(Sandbox, Container)> {
    let found = any_container(dirs, id)?;
    found.1.require_whole()?;
    Ok(found)
}

/// The same also of a damaged one.
pub(super) fn any_container(dirs: &Dirs, id: &str) -> Result<(Sandbox, Container)> {
    let missing = || failure(Kind::NotFound, format!("there is no container {id:?}"));
    // A kubelet asks by whole ids: no directory is read for those.
    let known = is_whole(id).then(|| owner(dirs, id)).transpose()?.flatten();
    let (owner, full) = match known {
        Some(uid) => (uid, id.to_owned()),
        None => {
            let (uids, mut owners) = (names(&dirs.pods())?, HashMap::new());
            for uid in &*uids {
                owners.extend(read_names(&dirs.pod(uid).containers())?.into_iter().map(|container| (container, uid)));
            }
            let full = complete(id, owners.keys())?.ok_or_else(missing)?;
            (owners.remove(&full).ok_or_else(missing)?.clone(), full)
        }
    };
    let sandbox = sandbox(dirs, &owner).map_err(|error| match kind_of(&error) {
        Some(Kind::NotFound) => missing(),
        _ => error,
    })?;
    let container = sandbox.all_containers()?.into_iter().find(|container| container.id() == full);
    Ok((sandbox, container.ok_or_else(missing)?))
}

/// The sandbox of a container.
fn owner(dirs: &Dirs, id: &str) -> Result<Option<String>> {
    if let Ok(all) = list_containers(dirs)
        && let Some(listed) = all.items.iter().find(|listed| listed.container.id == id)
    {
        return Ok(Some(listed.container.pod_sandbox_id.clone()));
    }
    // It may be being made, or something is damaged.
    Ok(names(&dirs.pods())?.iter().find(|uid| dirs.pod(uid).container_state(id).exists()).cloned())
}

/// The one id that is meant. To stop or remove what is not there is no error; not to know which is meant is one.
fn complete<'a>(id: &str, all: impl IntoIterator<Item = &'a String>) -> Result<Option<String>> {
    if id.is_empty() {
        return Err(failure(Kind::Invalid, "the id is missing"));
    }
    let found: Vec<&String> = all.into_iter().filter(|full| full.starts_with(id)).collect();
    match (found.iter().find(|full| **full == id), &found[..]) {
        (Some(full), _) | (None, [full]) => Ok(Some((*full).clone())),
        (None, []) => Ok(None),
        (None, several) => {
            Err(failure(Kind::Invalid, format!("{} ids begin with {id:?}: more of it is needed", several.len())))
        }
    }
}

/// Whether all of a filter's labels are there, with these values.
pub(super) fn has_labels(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether it can be an id of [`new_id`], and not the beginning of one.
fn is_whole(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A new id: 64 hexadecimal digits, as containerd's.
pub(super) fn new_id() -> Result<String> {
    Ok(format!("{}{}", host::uuid()?, host::uuid()?).replace('-', ""))
}
