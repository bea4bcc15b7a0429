//! RunPodSandbox: namespaces, cgroup, network and a supervisor. What fails is undone.

use crate::control::Request;
use crate::cri::config::RuntimeHandler;
use crate::cri::nri::Events;
use crate::cri::sandboxes::{self, Sandbox};
use crate::cri::{Daemon, api, convert, plugins};
use crate::error::{Kind, failure};
use crate::store::{self, Asked, Images, OciRuntime, Pod, Record, Reserved, Written};
use crate::supervisor::{Standby, remove};
use crate::sys::{Called, fs};
use anyhow::{Context, Result};
use nix::unistd::{AccessFlags, access};
use prost::Message as _;
use std::sync::Arc;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Arc<Daemon>,
    request: &api::RunPodSandboxRequest,
) -> Result<api::RunPodSandboxResponse> {
    let config = request.config.as_ref().ok_or_else(|| failure(Kind::Invalid, "config is missing"))?;
    let handler = Handler { name: &request.runtime_handler, runtime: daemon.config.runtime(&request.runtime_handler)? };
    handler.require()?;
    let id = sandboxes::new_id()?;
    let record = record(daemon, (&id, config), handler)?;
    let events = daemon.events();
    let hidden = daemon.plugins.hide(&id);
    let supervisor = Standby::begin(&record.dirs.pod(&id))?;
    let reserved = store::reserve(&record, &written(config, &id), None)?;
    let pod = reserved.pod.clone();
    match start(daemon, (reserved, supervisor), &events) {
        Ok(()) => {
            drop(hidden);
            daemon.observe(&id);
            Ok(api::RunPodSandboxResponse { pod_sandbox_id: id })
        }
        Err(error) => Err(match undo(daemon, &id, &pod) {
            Ok(()) => error,
            Err(left) => error.context(format!("and then it could not be removed: {left:#}")),
        }),
    }
}

struct Handler<'a> {
    name: &'a str,
    runtime: Option<&'a RuntimeHandler>,
}

impl Handler<'_> {
    /// That there is such a program: containers come later.
    fn require(&self) -> Result<()> {
        let Some(RuntimeHandler { path, .. }) = self.runtime else { return Ok(()) };
        let missing = |error| failure(Kind::NotReady, format!("runtime handler {}: {error}", self.name));
        access(path, AccessFlags::X_OK).called("access", path.display()).map_err(missing)
    }
}

fn record(daemon: &Daemon, (id, config): (&str, &api::PodSandboxConfig), handler: Handler<'_>) -> Result<Record> {
    let plan = convert::sandbox(config, &daemon.sandbox_context(id, config)?)?;
    if plan.sandbox.id_range.is_some() && handler.runtime.is_some() {
        // It would look for the container's files as a user who may not enter podshim's directories; and crun 1.8 and runc 1.1
        // cannot map mounts in a user namespace that they join.
        let message = format!(
            "config.linux.security_context.namespace_options.userns_options: handler {} is a runtime of the host's; only podshim's own makes containers in user namespaces",
            handler.name
        );
        return Err(failure(Kind::Unsupported, message));
    }
    let metadata = config.metadata.clone().unwrap_or_default();
    let mut record = store::record(&daemon.dirs, plan, Images::default())?;
    record.commanded = Some(Asked {
        identity: format!("{}/{}/{}/{}", metadata.namespace, metadata.name, metadata.uid, metadata.attempt),
        handler: handler.name.to_owned(),
        runtime: handler.runtime.map(|runtime| OciRuntime { path: runtime.path.clone(), args: runtime.args.clone() }),
        request: config.encode_to_vec(),
        created_at: super::now()?,
    });
    Ok(record)
}

/// What `podshim get pod` shows of it.
fn written(config: &api::PodSandboxConfig, id: &str) -> Written {
    let metadata = config.metadata.clone().unwrap_or_default();
    let manifest = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": id,
            "labels": config.labels,
            "annotations": config.annotations,
        },
        "spec": { "containers": [] },
    });
    Written { manifest: manifest.to_string(), objects: "[]".to_owned() }
}

fn start(daemon: &Arc<Daemon>, (reserved, supervisor): (Reserved, Standby), events: &Events) -> Result<()> {
    let pod = reserved.pod.clone();
    let undecided = pod.dirs.undecided();
    if daemon.plugins.nri.is_on() {
        std::fs::write(&undecided, "").called("write", undecided.display())?;
    }
    let spawned = supervisor.set_up(&reserved);
    // One that is killed from now on has another one in its place, which whoever asks for the sandbox waits for: so do we.
    drop(reserved);
    daemon.reap(spawned?, pod.clone());
    let sandbox = || sandboxes::sandbox(&daemon.dirs, &pod.record.plan.sandbox.uid);
    // Answered from its loop, after its first report.
    sandbox()?.ask(&Request::Watch, &[])?;
    let sandbox = sandbox()?;
    daemon.watch_containers(&sandbox);
    daemon.wait(events.run_pod_sandbox(&plugins::pod(&sandbox))).context("what NRI plugins say to the sandbox")?;
    Ok(fs::remove_file(&undecided)?)
}

/// Takes away a sandbox that nobody knows of.
pub(in crate::cri) fn undo(daemon: &Daemon, id: &str, pod: &Pod) -> Result<()> {
    let sandbox: Result<Sandbox> = sandboxes::sandbox(&daemon.dirs, id);
    if let Ok(sandbox) = sandbox {
        super::stop_pod_sandbox::end(daemon, &sandbox)?;
    }
    remove::pod(pod, || Ok(daemon.facts.cgroups.clone()))
}
