//! Everything that a pod has on the host, taken away. It is found by names derived from the pod's uid, so it works with any
//! part missing, after a crash at any moment, and any number of times. Each thing is tried whatever the others did.

use super::life::Life;
use super::reserve::Reserve;
use crate::cgroups::Cgroup;
use crate::error::{Kind, failure, say};
use crate::host::cgroup::CgroupSetup;
use crate::network;
use crate::paths::{Dirs, PodDirs};
use crate::plan::config::CgroupPath;
use crate::runtime::{empty, sandbox};
use crate::store::{self, Broken, Pod, Report};
use crate::sys::{Called, SysResult, fs, mount, mountinfo, process, socket};
use anyhow::{Result, bail};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::DirEntry;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// The cgroup of the pod's pid 1. No container can have this name (DNS-1123).
pub(super) const REAPER: &str = "_pause";

/// The cgroup of a container, or with an empty name of the pod.
pub(super) fn cgroup(setup: &CgroupSetup, path: &CgroupPath, container: &str) -> Result<Cgroup> {
    let name = if container.is_empty() { path.pod.clone() } else { format!("{}/{container}", path.pod) };
    Cgroup::at(setup, &path.parent, &name)
}

/// Ends every process of a pod and takes its sandbox away: cgroups, its place on the network, and what is mounted for it, namespace
/// pins among that.
pub fn sandbox(setup: &CgroupSetup, cgroup_path: &CgroupPath, (dirs, pod): (&Dirs, &PodDirs)) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    let mut attempt = |result: Result<()>| errors.extend(result.err());
    attempt(cgroup(setup, cgroup_path, "").and_then(|group| group.end(PATIENCE)));
    // While its namespace is there, for CNI plugins.
    if let Some(uid) = pod.state.file_name().and_then(|name| name.to_str()) {
        let told = |left: network::Attached| left.notes.iter().for_each(|note| say!("podshim: warning: {note}"));
        attempt(network::detach(dirs, uid).map(told));
    }
    errors.extend(mounts(pod));
    errors
}

/// Detaches what podshim mounts in a pod's directories: what is below its run state goes with that ([`hold_mounts`]). Whatever else is
/// mounted there stops whoever removes them ([`own_tree`]): to look for it takes as long as there are mounts on the host.
///
/// [`hold_mounts`]: super::sandbox::hold_mounts
fn mounts(pod: &PodDirs) -> Vec<anyhow::Error> {
    let below = |directory: PathBuf| entries(directory).map(|entry| entry.path());
    let volumes = below(pod.volumes());
    let rootfs = below(pod.layers()).flat_map(below).map(|layer| rootfs_of(&layer));
    let all = std::iter::once(pod.state.clone()).chain(volumes).chain(rootfs);
    all.filter_map(|path| mount::detach(&path).err()).map(Into::into).collect()
}

/// Takes away what another sandbox of a pod that goes on must not find: every process, the namespaces' pins, the memory that
/// its containers shared. Volumes stay.
pub(super) fn namespaces(setup: &CgroupSetup, cgroup_path: &CgroupPath, pod: &PodDirs) -> Result<()> {
    let left = cgroup(setup, cgroup_path, "")?.kill(PATIENCE)?;
    if !left.is_empty() {
        bail!("processes {left:?} do not end");
    }
    cgroup(setup, cgroup_path, REAPER)?.remove(PATIENCE)?;
    sandbox::remove(pod)?;
    Ok(mount::detach(&pod.shm())?)
}

/// SIGKILL to a pod's supervisor that does not answer: the process that listens on the pod's socket.
pub fn kill_supervisor(pod: &PodDirs) -> Result<()> {
    let connection = socket::connect_to(&pod.socket())?;
    let pidfd = socket::peer_pidfd(connection.as_fd())?;
    Ok(process::send_signal(pidfd.as_fd(), libc::SIGKILL)?)
}

/// Ends what is left of a pod whose supervisor has ended without it and cannot be replaced, and puts that into its report; whether it
/// was to be done: nothing is done about one that is supervised, or over.
pub fn abandoned(pod: &Pod, setup: &CgroupSetup) -> Result<bool> {
    // Nobody is held up by a lock that is not needed.
    if pod.report()?.is_some_and(|report| report.over) {
        return Ok(false);
    }
    let lock = match store::lock(&pod.dirs.lock(), store::Wait::No) {
        Err(_) if !pod.dirs.state.exists() => return Ok(false),
        other => other?,
    };
    let Some(_lock) = lock.filter(|_| pod.is_there()) else { return Ok(false) };
    let report = pod.report()?;
    if report.as_ref().is_some_and(|report| report.over) {
        return Ok(false);
    }
    let errors = sandbox(setup, &pod.record.plan.sandbox.cgroup, (&pod.record.dirs, &pod.dirs));
    if let Some(error) = errors.into_iter().next() {
        return Err(error.context(format!("ending what is left of pod {}", pod.full_name())));
    }
    let now = super::pod::now().wall;
    let mut report = report.unwrap_or_else(|| Report::of(Life::begin(pod).status()));
    for id in store::container_ids(pod)? {
        if !report.commanded.iter().any(|known| known.id == id) {
            // It was being created, which nobody heard of.
            self::container(&pod.dirs, &id)?;
        }
    }
    report.commanded.iter_mut().for_each(|container| container.lose(now));
    report.status.lose(now.into());
    report.over = true;
    report.cleared = true;
    replace_report(pod, &report)?;
    Ok(true)
}

/// Of a pod without a supervisor; on a full disk in the room that the supervisor set aside.
fn replace_report(pod: &Pod, report: &Report) -> Result<()> {
    Reserve::of(pod.dirs.reserve(), report.commanded.len()).replace(&pod.dirs.status(), report)
}

/// CRI's RemoveContainer, of a sandbox that is over: nobody else writes its report.
pub fn container_of_ended(pod: &Pod, id: &str) -> Result<()> {
    let Some(_lock) = store::lock(&pod.dirs.lock(), store::Wait::Yes)? else { return Ok(()) };
    if let Some(mut report) = pod.report()? {
        report.commanded.retain(|container| container.id != id);
        replace_report(pod, &report)?;
    }
    container(&pod.dirs, id)
}

/// Takes away what is on disk of a container without a process, of a pod that is commanded through CRI. Its log stays: that is
/// the kubelet's.
pub(super) fn container(pod: &PodDirs, id: &str) -> Result<()> {
    let layers = pod.container_layers(id);
    unmount_layers(&layers)?;
    tree(&layers)?;
    // Of images that were mounted for it.
    tree(&pod.volume(id))?;
    mount::detach(&pod.process(id))?;
    // Its record last: as long as it is there, the container is.
    Ok(tree(&pod.container_state(id))?)
}

/// The writable layers of a container's instances.
pub(super) fn layers_in(directory: &Path) -> SysResult<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| Ok(entry.called("readdir", directory.display())?.path())).collect()
}

/// Where in its layer the root file system of an instance is mounted that an OCI runtime of the host makes.
fn rootfs_of(layer: &Path) -> PathBuf {
    layer.join("rootfs")
}

pub(super) fn unmount_layer(layer: &Path) -> SysResult<()> {
    mount::detach(&rootfs_of(layer))
}

/// All layers of a container, in their directory.
pub(super) fn unmount_layers(directory: &Path) -> SysResult<()> {
    layers_in(directory)?.iter().try_for_each(|layer| unmount_layer(layer))
}

fn tree(path: &Path) -> SysResult<()> {
    crate::snapshot::remove_tree(path)
}

/// Removes a directory in which nobody but podshim mounts anything; what is mounted there all the same is detached.
fn own_tree(path: &Path) -> SysResult<()> {
    match tree(path) {
        Err(error) if matches!(error.errno(), Errno::EXDEV | Errno::EBUSY) => {
            mountinfo::points_below(path)?.iter().try_for_each(|mounted| mount::detach(mounted))?;
            tree(path)
        }
        other => other,
    }
}

/// Everything that there may be of a pod.
struct Remains {
    full_name: String,
    dirs: Dirs,
    pod: PodDirs,
    uid: String,
    cgroup: CgroupPath,
    /// The symlink that reserves its name.
    link: Option<PathBuf>,
    /// Its logs, unless they are somebody else's.
    logs: Option<PathBuf>,
}

/// Removes a pod's name, unless it is another pod's by now: one who removes at the same time was quicker. With the last name goes
/// what pods share.
fn name(remains: &Remains) -> Result<()> {
    let _lock = store::lock(&remains.dirs.store_lock(), store::Wait::Yes)?;
    if let Some(link) = &remains.link
        && std::fs::read_link(link).is_ok_and(|target| target.file_name().is_some_and(|n| n == &*remains.uid))
    {
        fs::remove_file(link)?;
    }
    without_pods(&remains.dirs)
}

/// If there is no pod, what pods share goes, which who reserves the next one's name has to wait for: the caller has the lock.
fn without_pods(dirs: &Dirs) -> Result<()> {
    match entries(dirs.names()).next() {
        Some(_) => Ok(()),
        None => Ok(empty::remove(&dirs.empty())?),
    }
}

/// How many directories are in another, if its links tell: the `..` of each is one (inode(7)).
fn directories_in(directory: &Path) -> Option<u64> {
    let links = std::fs::metadata(directory).ok()?.nlink();
    // Some file systems say 1, or 2, whatever is there.
    links.checked_sub(2).filter(|count| *count > 0)
}

fn entries(directory: PathBuf) -> impl Iterator<Item = DirEntry> {
    std::fs::read_dir(directory).into_iter().flatten().flatten()
}

/// Removes a pod's state directory. Another one who removes the pod may put a lock file into it just then.
fn state(path: &Path) -> Result<()> {
    for _ in 0..100 {
        match own_tree(path) {
            Err(e) if e.errno() == Errno::ENOTEMPTY => {}
            other => return Ok(other?),
        }
    }
    Ok(own_tree(path)?)
}

/// Removes a pod whose supervisor is gone, with its logs and its name. A pod that is still supervised is refused.
pub fn pod(pod: &Pod, setup: impl FnOnce() -> Result<CgroupSetup>) -> Result<()> {
    let sandbox = &pod.record.plan.sandbox;
    let remains = Remains {
        full_name: pod.full_name(),
        dirs: pod.record.dirs.clone(),
        pod: pod.dirs.clone(),
        uid: sandbox.uid.clone(),
        cgroup: sandbox.cgroup.clone(),
        link: Some(pod.record.name_link()),
        logs: match pod.record.commanded {
            Some(_) => None,
            None => Some(pod.record.dirs.pod_logs(&sandbox.namespace, &sandbox.name, &sandbox.uid)),
        },
    };
    all(&remains, setup)
}

/// As [`pod`], of a copy of another pod's directory ([`Broken::is_copy`]): nothing but the directory is its own.
pub fn copy(pod: &PodDirs) -> Result<()> {
    state(&pod.state)
}

/// As [`pod`], of one whose record is damaged: where its cgroups are is in its containers' bundles.
pub fn damaged(dirs: &Dirs, broken: &Broken, setup: &CgroupSetup) -> Result<()> {
    let pod = dirs.pod(&broken.uid);
    // Of a manifest's pod, and of a sandbox that was asked for through CRI.
    let groups = [format!("pod{}", broken.uid), broken.uid.clone()];
    let bundles = std::fs::read_dir(pod.containers()).into_iter().flatten().flatten();
    let found = bundles.filter_map(|bundle| {
        let spec: oci_spec::runtime::Spec = store::read_json(&bundle.path().join("config.json")).ok()??;
        let path = spec.linux().as_ref()?.cgroups_path().as_ref()?.to_str()?.to_owned();
        groups.iter().find_map(|group| {
            let (parent, _) = path.split_once(&format!("podshim/{group}"))?;
            Some(CgroupPath { parent: parent.trim_matches('/').to_owned(), pod: group.clone() })
        })
    });
    let [group, _] = &groups;
    let cgroup = match found.into_iter().next() {
        Some(cgroup) => cgroup,
        // It had no container yet, so it was made by the defaults or there is nothing to be found.
        None => CgroupPath { parent: crate::cgroups::parent(setup, None)?, pod: group.clone() },
    };
    let name = broken.full_name.as_deref().and_then(|full| full.split_once('/'));
    let remains = Remains {
        full_name: broken.name().to_owned(),
        dirs: dirs.clone(),
        pod,
        uid: broken.uid.clone(),
        cgroup,
        link: name.map(|(namespace, name)| dirs.name_link(namespace, name)),
        logs: name.map(|(namespace, name)| dirs.pod_logs(namespace, name, &broken.uid)),
    };
    all(&remains, || Ok(setup.clone()))
}

fn all(remains: &Remains, setup: impl FnOnce() -> Result<CgroupSetup>) -> Result<()> {
    let pod = &remains.pod;
    let lock = match store::lock(&pod.lock(), store::Wait::No) {
        // Somebody else removed it in this moment: gone is what was wanted.
        Err(_) if !pod.state.exists() => return Ok(()),
        other => other?,
    };
    let Some(_lock) = lock else {
        return Err(failure(
            Kind::NotReady,
            format!("pod {} is running: `podshim stop` it first, or `rm -f`", remains.full_name),
        ));
    };
    let report: Option<Report> = store::read_json(&pod.status()).unwrap_or_default();
    let mut errors = match report.is_some_and(|report| report.cleared) {
        true => mounts(pod),
        false => sandbox(&setup()?, &remains.cgroup, (&remains.dirs, pod)),
    };
    if errors.is_empty() {
        let mut attempt = |result: SysResult<()>| errors.extend(result.err().map(Into::into));
        attempt(own_tree(&pod.data));
        if let Some(logs) = &remains.logs {
            attempt(tree(logs));
        }
    }
    if let [first, rest @ ..] = &errors[..] {
        let more: String = rest.iter().map(|e| format!("; {e:#}")).collect();
        bail!("removing pod {}: {first:#}{more} (it stays listed: try again)", remains.full_name);
    }
    // The name goes when nothing is left that would be in the way of a new pod of that name.
    name(remains)?;
    state(&pod.state)
}

/// Removes what pods of earlier boots left on disk, names whose pod is gone, and what was being reserved or removed by
/// somebody who was killed. Done by whoever makes a new pod. Several state directories may share one root: each pod's data
/// says whose it is.
pub fn sweep(dirs: &Dirs) -> Result<()> {
    let _lock = store::lock(&dirs.store_lock(), store::Wait::Yes)?;
    // Each pod has a name and two directories. With as many of each as of the others, which are few system calls, there is nothing to
    // be found.
    let names = entries(dirs.names()).count() as u64;
    if [dirs.pods(), dirs.pods_data()].iter().all(|directory| directories_in(directory) == Some(names)) {
        return Ok(());
    }
    // None is added meanwhile, as we hold the lock.
    let pods: BTreeSet<OsString> = entries(dirs.pods()).map(|entry| entry.file_name()).collect();
    for entry in entries(dirs.pods_data()).filter(|entry| !pods.contains(&entry.file_name())) {
        let data = entry.path();
        let pod = PodDirs { state: PathBuf::new(), data: data.clone() };
        // Without the link it is being made at this moment.
        let is_left = std::fs::read_link(pod.owner()).is_ok_and(|state| !state.exists());
        if is_left {
            own_tree(&data)?;
        }
    }
    let links: Vec<PathBuf> = entries(dirs.names()).map(|entry| entry.path()).collect();
    // Who is killed while he reserves or removes a pod leaves one without a name, and never a name without its pod: with as many of
    // these as of those there is nothing to be found, and they need not be read.
    if links.len() == pods.len() {
        return without_pods(dirs);
    }
    let mut named = BTreeSet::new();
    for link in links {
        match std::fs::read_link(&link) {
            Ok(target) => match target.file_name().filter(|uid| pods.contains(*uid)) {
                Some(uid) => drop(named.insert(uid.to_owned())),
                None => fs::remove_file(&link)?,
            },
            // It is no link, and nobody's name.
            Err(_) => tree(&link)?,
        }
    }
    // A name comes after the directory and goes before it, so one without a name is of somebody who was killed while he
    // reserved or removed a pod: of that pod there is nothing but its data.
    for uid in pods.difference(&named) {
        let pod = dirs.pod(&uid.to_string_lossy());
        let lock = store::lock(&pod.lock(), store::Wait::No);
        let is_nobodys = match &lock {
            Ok(lock) => lock.is_some(),
            // What is no directory was never a pod's. Else nobody knows whether it has a supervisor, as when no descriptors are left:
            // it stays for who sweeps next.
            Err(_) => std::fs::symlink_metadata(&pod.state).is_ok_and(|found| !found.is_dir()),
        };
        if is_nobodys {
            tree(&pod.data)?;
            state(&dirs.pods().join(uid))?;
        } else if matches!(lock, Ok(None)) && socket::connect_to(&pod.socket()).is_ok() {
            // It has a supervisor: it is its name that was lost. Without one that answers it is being removed, or taken over.
            store::restore_name(&pod)?;
        }
    }
    without_pods(dirs)
}
