//! Checkpoints of containers that run (KEP-2008), by criu: the memory, open files and connections of all processes, what the
//! container has changed of its image, and what it was made from, as one tar archive. The container goes on afterwards.
//!
//! In: a container, the place of the archive, how long it may take. Out: the archive, or nothing. It is the layout of CRI-O and
//! podman, which `checkpointctl` reads:
//!
//! | entry | content |
//! |---|---|
//! | `checkpoint/` | criu's images |
//! | `dump.log`, `stats-dump` | what criu said, how long it took |
//! | `config.dump`, `spec.dump`, `status.dump` | the container, its OCI spec, its status, as JSON |
//! | `rootfs-diff.tar`, `deleted.files` | what it has changed of its image, and removed |
//!
//! The processes are stopped from before their memory is read until their files are copied, so that both are of one moment. They
//! are held by criu, and by nothing else that would have to be undone: whatever ends this process lets them go on.

mod archive;
mod changes;
mod criu;
mod messages;
mod pod;
mod records;
mod target;

use super::sandboxes::{self, Container, Sandbox};
use super::{Daemon, api};
use crate::cgroups::Cgroup;
use crate::error::{Kind, failure, kind_of};
use crate::snapshot;
use crate::store::{self, Pod};
use crate::sys::Called;
use anyhow::{Context, Result, bail};
use archive::{Archive, Location};
use criu::{Criu, Dump, Job, Progress};
use jiff::Timestamp;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use std::collections::{BTreeSet, HashSet};
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use target::Target;

/// How long a checkpoint may take if the request does not say: what a kubelet waits for an answer (`runtimeRequestTimeout`).
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest time that can be asked for, in seconds.
const MAX_SECONDS: i64 = 24 * 3600;

/// The containers of which checkpoints are being made.
pub(in crate::cri) type Turns = Arc<Mutex<HashSet<String>>>;

pub(in crate::cri) use pod::pod;

/// CheckpointContainer; `client` is how long the client waits for the answer.
pub(in crate::cri) fn container(
    daemon: &Daemon,
    request: &api::CheckpointContainerRequest,
    client: Option<Duration>,
) -> Result<()> {
    let criu = Criu::find(&daemon.config.checkpoint.criu_path)?;
    let asked = patience(request.timeout)?;
    let deadline = Instant::now() + client.map_or(asked, |client| client.min(asked));
    let location = Location::check(&request.location)?;
    let (sandbox, container) = sandboxes::container(&daemon.dirs, &request.container_id)?;
    let making = || format!("checkpointing container {}", container.id());
    let in_time = |done: Result<()>| done.map_err(|error| late(error, deadline)).with_context(making);
    in_time((|| {
        let mut run = Run::begin(daemon, (&sandbox, &container), (&criu, deadline))?;
        if run.dump.advance()? == Progress::Paused {
            run.resume()?;
            run.dump.advance()?;
        }
        run.capture_files()?;
        run.finish()?;
        let mut archive = location.create(deadline)?;
        run.write(&mut archive)?;
        archive.publish().map(drop)
    })())
}

fn patience(seconds: i64) -> Result<Duration> {
    match (seconds, u64::try_from(seconds)) {
        (0, _) => Ok(PATIENCE),
        (1..=MAX_SECONDS, Ok(seconds)) => Ok(Duration::from_secs(seconds)),
        _ => Err(failure(Kind::Invalid, format!("timeout: {seconds} is not from 0 to {MAX_SECONDS} seconds"))),
    }
}

/// An error that came when there was no time left is that of the time, whatever was done then.
fn late(error: anyhow::Error, deadline: Instant) -> anyhow::Error {
    match Instant::now() >= deadline && kind_of(&error).is_none() {
        true => failure(Kind::TimedOut, format!("it was not done in the time that was given: {error:#}")),
        false => error,
    }
}

/// What takes no more once the time is over.
struct Bounded<W> {
    inner: W,
    deadline: Instant,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if Instant::now() >= self.deadline {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "it was not written in time"));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// A container's turn: there is one checkpoint of it at a time.
struct Turn {
    turns: Turns,
    id: String,
}

impl Turn {
    fn take(turns: &Turns, id: &str) -> Result<Turn> {
        let is_free = turns.lock().expect("no panic while it is held").insert(id.to_owned());
        match is_free {
            true => Ok(Turn { turns: turns.clone(), id: id.to_owned() }),
            false => Err(failure(Kind::NotReady, "another checkpoint of it is being made")),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.lock().expect("no panic while it is held").remove(&self.id);
    }
}

/// Where a checkpoint is put together; goes with it.
struct Work {
    path: PathBuf,
    _turn: Turn,
}

impl Work {
    fn begin(turns: &Turns, sandbox: &Sandbox, id: &str) -> Result<Work> {
        let turn = Turn::take(turns, id)?;
        let all = sandbox.pod.dirs.checkpoints();
        let path = all.join(id);
        snapshot::remove_tree(&path).context("what a daemon left that was killed")?;
        let work = Work { path, _turn: turn };
        for path in [&all, &work.path, &work.images()] {
            DirBuilder::new().recursive(path == &all).mode(0o700).create(path).called("mkdir", path.display())?;
        }
        Ok(work)
    }

    fn images(&self) -> PathBuf {
        self.path.join("images")
    }

    fn root_changes(&self) -> PathBuf {
        self.path.join(ROOT_CHANGES)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What stays after an error goes with the sandbox, or before the next one.
        let _ = snapshot::remove_tree(&self.path);
        let _ = self.path.parent().map(std::fs::remove_dir);
    }
}

const ROOT_CHANGES: &str = "rootfs-diff.tar";

/// The open files of a container that belong to others.
struct Files {
    cgroup: Cgroup,
    state: PathBuf,
    /// Those that criu knows of.
    told: BTreeSet<Vec<u8>>,
}

impl Files {
    /// Those that criu does not know of yet.
    fn untold(&mut self, target: &Target) -> Result<Vec<Vec<u8>>> {
        let pids: Vec<i32> = self.cgroup.pids()?.into_iter().map(Pid::as_raw).collect();
        let found = target.files((&self.state, &pids))?;
        let new: Vec<Vec<u8>> = found.difference(&self.told).cloned().collect();
        self.told.extend(found);
        Ok(new)
    }
}

/// A checkpoint that is being made of a container.
struct Run<'a> {
    sandbox: &'a Sandbox,
    container: &'a Container,
    spec: Spec,
    target: Target,
    files: Files,
    deadline: Instant,
    removed: Vec<PathBuf>,
    // Before the directory that it works in.
    dump: Dump,
    work: Work,
}

impl<'a> Run<'a> {
    fn begin(
        daemon: &Daemon,
        (sandbox, container): (&'a Sandbox, &'a Container),
        (criu, deadline): (&Criu, Instant),
    ) -> Result<Run<'a>> {
        let target = Target::of(container)?;
        let path = sandbox.pod.dirs.container_state(container.id()).join("config.json");
        let spec: Option<Spec> = store::read_json(&path)?;
        let spec = spec.ok_or_else(|| failure(Kind::NotReady, "the container is being removed"))?;
        let work = Work::begin(&daemon.checkpoints, sandbox, container.id())?;
        let mut external = target.external(&spec).context("what of it belongs to others")?;
        let path = &sandbox.pod.record.plan.sandbox.cgroup;
        let cgroup = Cgroup::at(&daemon.facts.cgroups, &path.parent, &format!("{}/{}", path.pod, container.id()))?;
        let state = sandbox.pod.dirs.container_state(container.id());
        let mut files = Files { cgroup, state, told: BTreeSet::new() };
        // Older ones do not ask for them again when all processes are stopped.
        external.extend(files.untold(&target)?);
        let job = Job {
            pid: target.pid,
            external,
            images: work.images(),
            work: work.path.clone(),
            has_terminal: container.config.tty,
        };
        let dump = criu.dump(&job, deadline)?;
        Ok(Run { sandbox, container, spec, target, files, deadline, removed: Vec::new(), dump, work })
    }

    /// Lets criu go on where all processes are stopped.
    fn resume(&mut self) -> Result<()> {
        let files = self.files.untold(&self.target).context("what of it belongs to others")?;
        self.dump.resume_with(files)
    }

    /// What it has changed of its image, as long as its processes are stopped.
    fn capture_files(&mut self) -> Result<()> {
        // Then criu had another process' memory, if the pid was reused.
        if !self.target.is_alive()? {
            return Err(failure(Kind::NotReady, "the container ended meanwhile"));
        }
        let data = self.sandbox.pod.dirs.container_data(self.container.id(), 0);
        let source = changes::Source {
            upper: &data.join("upper"),
            layers: &self.container.record.image.layers,
            ids: self.sandbox.pod.record.plan.sandbox.id_range,
        };
        let path = self.work.root_changes();
        let file = File::create_new(&path).called("open", path.display())?;
        let mut file = Bounded { inner: file, deadline: self.deadline };
        self.removed = changes::write(&source, &mut file).context("what it has changed of its image")?;
        Ok(())
    }

    /// Lets the processes go on.
    fn finish(&mut self) -> Result<()> {
        match self.dump.advance()? {
            Progress::Over => Ok(()),
            other => bail!("criu is {other:?} where it should have finished"),
        }
    }

    fn write(&self, archive: &mut Archive) -> Result<()> {
        archive.document("config.dump", &records::config(self.sandbox, self.container, Timestamp::now())?)?;
        archive.document("spec.dump", &records::spec(self.sandbox, self.container, &self.spec)?)?;
        archive.document("status.dump", &records::status(self.container)?)?;
        for name in [criu::LOG, "stats-dump"] {
            archive.file(name, &self.work.path.join(name))?;
        }
        if !self.removed.is_empty() {
            archive.document("deleted.files", &records::json(&texts(&self.removed)?)?)?;
        }
        archive.file(ROOT_CHANGES, &self.work.root_changes())?;
        archive.files("checkpoint", &self.work.images())
    }
}

/// The list's format has no other names.
fn texts(paths: &[PathBuf]) -> Result<Vec<&str>> {
    let text = |path: &'_ PathBuf| path.display().to_string();
    paths
        .iter()
        .map(|path| path.to_str().with_context(|| format!("{} was removed: it is not UTF-8", text(path))))
        .collect()
}

/// Removes what was left of checkpoints by a daemon that was killed. Its criu may go on writing there until it notices: an error
/// says that it is to be tried again.
pub(in crate::cri) fn sweep(pod: &Pod, turns: &Turns) -> Result<()> {
    let all = pod.dirs.checkpoints();
    let entries = match std::fs::read_dir(&all) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.called("opendir", all.display())?,
    };
    for entry in entries {
        let name = entry.called("getdents64", all.display())?.file_name();
        // One that is being made now is not that.
        let Ok(_turn) = Turn::take(turns, &name.to_string_lossy()) else { continue };
        snapshot::remove_tree(&all.join(name))?;
    }
    match std::fs::remove_dir(&all) {
        // One is being made.
        Err(error) if [ErrorKind::NotFound, ErrorKind::DirectoryNotEmpty].contains(&error.kind()) => Ok(()),
        other => Ok(other.called("rmdir", all.display())?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_it_may_take() {
        assert_eq!(patience(0).unwrap(), PATIENCE);
        assert_eq!(patience(7).unwrap(), Duration::from_secs(7));
        for wrong in [-1, MAX_SECONDS + 1, i64::MAX, i64::MIN] {
            assert_eq!(kind_of(&patience(wrong).unwrap_err()), Some(Kind::Invalid), "{wrong}");
        }
    }

    #[test]
    fn there_is_one_checkpoint_of_a_container_at_a_time() {
        let turns = Turns::default();
        let turn = Turn::take(&turns, "a").unwrap();
        Turn::take(&turns, "b").unwrap();
        assert_eq!(Turn::take(&turns, "a").err().and_then(|error| kind_of(&error)), Some(Kind::NotReady));
        drop(turn);
        Turn::take(&turns, "a").unwrap();
    }

    #[test]
    fn an_error_after_the_deadline_is_one_of_time() {
        let over = Instant::now();
        let error = late(anyhow::anyhow!("EFBIG"), over);
        assert_eq!(kind_of(&error), Some(Kind::TimedOut));
        assert!(format!("{error:#}").contains("EFBIG"));
        assert_eq!(kind_of(&late(failure(Kind::NotReady, "x"), over)), Some(Kind::NotReady));
        let left = Instant::now() + Duration::from_secs(60);
        assert_eq!(kind_of(&late(anyhow::anyhow!("EFBIG"), left)), None);
    }
}
