//! CheckpointPod: checkpoints of several containers of a sandbox, all of one moment, in a directory of the caller's.
//!
//! | file | content |
//! |---|---|
//! | `<container id>.tar` | the container's archive, as that of CheckpointContainer |
//! | `pod.dump` | the sandbox, and which archive is whose, as JSON |

use super::archive::{Directory, Location, Published};
use super::criu::{Criu, Progress};
use super::{MAX_SECONDS, PATIENCE, Run, late, records};
use crate::cri::sandboxes::{self, Container, Sandbox};
use crate::cri::{Daemon, api};
use crate::error::{Kind, failure};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How many containers are stopped at a time: each takes a criu of its own.
const MAX_CONTAINERS: usize = 128;

/// CheckpointPod; `client` is how long the client waits for the answer.
pub(in crate::cri) fn pod(
    daemon: &Daemon,
    request: &api::CheckpointPodRequest,
    client: Option<Duration>,
) -> Result<()> {
    let criu = Criu::find(&daemon.config.checkpoint.criu_path)?;
    let deadline = Instant::now() + client.unwrap_or(PATIENCE).min(Duration::from_secs(MAX_SECONDS.unsigned_abs()));
    if let Some(key) = request.options.keys().min() {
        return Err(failure(Kind::Invalid, format!("options: there is no {key:?}")));
    }
    let directory = Directory::check(&request.output_path)?;
    let sandbox = sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id)?;
    let containers = selected(&sandbox, &request.container_ids)?;
    criu.must_pause(deadline)?;
    let done = perform(daemon, (&sandbox, &containers), (&criu, deadline), &directory);
    done.map_err(|error| late(error, deadline)).with_context(|| format!("checkpointing sandbox {}", sandbox.id()))
}

/// The containers that are named, which must run.
fn selected(sandbox: &Sandbox, ids: &[String]) -> Result<Vec<Container>> {
    sandbox.require_ready()?;
    let distinct: HashSet<&String> = ids.iter().collect();
    if ids.is_empty() || ids.len() > MAX_CONTAINERS || distinct.len() != ids.len() {
        let text = format!("container_ids: it takes 1 to {MAX_CONTAINERS}, each once");
        return Err(failure(Kind::Invalid, text));
    }
    let mut all = sandbox.containers()?;
    let take = |id: &String| {
        let found = all.iter().position(|container| container.id() == id);
        let missing =
            || failure(Kind::Invalid, format!("container_ids: there is no {id:?} in sandbox {}", sandbox.id()));
        let container = all.swap_remove(found.ok_or_else(missing)?);
        match container.state() {
            api::ContainerState::ContainerRunning => Ok(container),
            _ => Err(failure(Kind::NotReady, format!("container {id} does not run"))),
        }
    };
    ids.iter().map(take).collect()
}

fn perform(
    daemon: &Daemon,
    (sandbox, containers): (&Sandbox, &[Container]),
    (criu, deadline): (&Criu, Instant),
    directory: &Directory,
) -> Result<()> {
    let of = |run: &Run<'_>| format!("container {}", run.container.id());
    let mut runs = Vec::new();
    // Each is stopped before the memory of any is read, and none goes on before all is read. Dropped, they all go on.
    for container in containers {
        let begun = Run::begin(daemon, (sandbox, container), (criu, deadline));
        let mut run = begun.with_context(|| format!("container {}", container.id()))?;
        if run.dump.advance().with_context(|| of(&run))? != Progress::Paused {
            bail!("criu did not wait for the other containers");
        }
        runs.push(run);
    }
    runs.iter_mut().try_for_each(Run::resume)?;
    for run in &mut runs {
        let name = of(run);
        if run.dump.advance().with_context(|| name.clone())? != Progress::Captured {
            bail!("criu did not wait for the other containers");
        }
        run.capture_files().context(name)?;
    }
    runs.iter_mut().try_for_each(|run| run.dump.resume())?;
    for run in &mut runs {
        let name = of(run);
        run.finish().context(name)?;
    }
    publish(sandbox, &runs, directory)
}

/// All archives, or none of them.
fn publish(sandbox: &Sandbox, runs: &[Run<'_>], directory: &Directory) -> Result<()> {
    let mut archives = Vec::new();
    let mut listed = Vec::new();
    for run in runs {
        let name = format!("{}.tar", run.container.id());
        let mut archive = Location::within(directory, &name)?.create(run.deadline)?;
        run.write(&mut archive).with_context(|| name.clone())?;
        listed.push(serde_json::json!({
            "id": run.container.id(),
            "name": run.container.metadata().name,
            "archive": name,
        }));
        archives.push(archive);
    }
    let of = sandbox.metadata();
    let record = serde_json::json!({
        "id": sandbox.id(),
        "name": of.name,
        "namespace": of.namespace,
        "uid": of.uid,
        "hostname": sandbox.config.hostname,
        "labels": sandbox.config.labels,
        "annotations": sandbox.config.annotations,
        "runtimeHandler": sandbox.asked.handler,
        "checkpointedTime": Timestamp::now().to_string(),
        "containers": listed,
    });
    let deadline = runs.first().map_or_else(Instant::now, |run| run.deadline);
    let mut published: Vec<Published> = Vec::new();
    let done = (|| {
        for archive in archives {
            published.push(archive.publish()?);
        }
        published.push(Location::within(directory, "pod.dump")?.put(&records::json(&record)?, deadline)?);
        Ok(())
    })();
    if done.is_err() {
        // The error that made us give up is the one to be told.
        published.iter().for_each(|published| drop(published.withdraw()));
    }
    done
}
