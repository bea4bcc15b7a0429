//! `podshim inspect`: the pod as a Pod object, as `kubectl get pod -o yaml` shows it; with `--tree` or `--html` as a picture.

use super::named::Scope;
use super::output::{self, Structured};
use super::recover;
use crate::error::say;
use crate::network;
use crate::paths::Dirs;
use crate::picture;
use crate::plan::config::{Access, ContainerConfig, PullPolicy, Submounts, VolumeMount};
use crate::store::{self, Pod, Report};
use crate::supervisor;
use crate::sys::{Called, SysResult};
use anyhow::{Context, Result};
use clap::Args;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid; with --tree all pods if none is named
    #[arg(required_unless_present = "tree", value_name = "POD")]
    pods: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml", conflicts_with_all = ["tree", "html"])]
    output: Structured,
    /// Draw a tree: containers, processes, which namespaces each is in, and which are shared
    #[arg(long, conflicts_with = "html")]
    tree: bool,
    /// Write a page with a drawing of the pods; `-` is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) fn run(args: InspectArgs, dirs: &Dirs) -> Result<()> {
    let pods = match &args.pods[..] {
        [] => all(dirs)?.into_iter().filter(|pod| args.scope.has(&pod.record.plan.sandbox.namespace)).collect(),
        names => args.scope.all(names)?.iter().map(|name| store::find(dirs, name)).collect::<Result<Vec<_>>>()?,
    };
    if args.tree || args.html.is_some() {
        let survey = picture::survey::take(&pods)?;
        // The picture is of what was met.
        pods.iter().for_each(recover::see_to);
        return match &args.html {
            None => output::coloured(&picture::tree::draw(&survey)),
            Some(file) if file.as_os_str() == "-" => output::text(&picture::html::page(&survey)),
            Some(file) => write_page(file, picture::html::page(&survey).as_bytes()),
        };
    }
    for pod in &pods {
        if pod.is_unsupervised()? {
            let name = pod.full_name();
            say!("podshim: warning: the supervisor of pod {name} is gone: its status is the last one that was seen");
            recover::see_to(pod);
        }
    }
    let objects = pods.iter().map(object).collect::<Result<Vec<_>>>()?;
    match &objects[..] {
        [one] => output::structured(one, args.output),
        several => output::structured(&json!({ "apiVersion": "v1", "kind": "List", "items": several }), args.output),
    }
}

/// All pods; those whose records cannot be read are told of.
fn all(dirs: &Dirs) -> Result<Vec<Pod>> {
    let (pods, broken) = store::list(dirs)?;
    for broken in broken {
        let error = broken.explain();
        say!("podshim: warning: {}", output::escape(&format!("{error:#}")));
    }
    Ok(pods)
}

/// Writes a file so that whoever reads it sees the old page or the new one. What is no plain file, like a terminal or a symlink, is
/// written to as a shell does.
fn write_page(file: &Path, page: &[u8]) -> Result<()> {
    let purpose = || format!("writing the page {}", file.display());
    let there = match std::fs::symlink_metadata(file) {
        Ok(there) => Some(there),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).called("lstat", file.display()).with_context(purpose),
    };
    if there.as_ref().is_some_and(|there| !there.is_file()) {
        let in_place = || -> SysResult<()> {
            let mut file_there =
                OpenOptions::new().write(true).truncate(true).open(file).called("open", file.display())?;
            file_there.write_all(page).called("write", file.display())
        };
        return in_place().with_context(purpose);
    }
    let name = file.file_name().with_context(|| format!("{} names no file", file.display()))?;
    let temporary = file.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let replace = || -> SysResult<()> {
        // Never one that is there already: in a directory like /tmp somebody else may have put it there.
        let mut new =
            OpenOptions::new().write(true).create_new(true).open(&temporary).called("open", temporary.display())?;
        let written = new.write_all(page).called("write", temporary.display());
        let kept = written.and_then(|()| match &there {
            Some(there) => new.set_permissions(there.permissions()).called("fchmod", temporary.display()),
            None => Ok(()),
        });
        let renamed = kept.and_then(|()| std::fs::rename(&temporary, file).called("rename", file.display()));
        if renamed.is_err() {
            // The error that matters is the first one.
            let _ = std::fs::remove_file(&temporary);
        }
        renamed
    };
    replace().with_context(purpose)
}

/// The manifest with its defaults, as it can be run again.
pub(super) fn manifest(pod: &Pod) -> Result<Value> {
    let mut object: Value = store::read_json(&pod.dirs.manifest())?
        .with_context(|| format!("{} is missing", pod.dirs.manifest().display()))?;
    omit_pull_policies(&mut object, pod);
    Ok(object)
}

/// The manifest with what a cluster would fill in: uid, times, the node, the status.
pub(super) fn object(pod: &Pod) -> Result<Value> {
    let mut object = manifest(pod)?;
    let plan = &pod.record.plan;
    if !pod.record.ephemeral.is_empty() {
        object["spec"]["ephemeralContainers"] = json!(pod.record.ephemeral);
        omit_pull_policies(&mut object, pod);
    }
    let report = pod.report()?;
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(plan.sandbox.uid);
    metadata["creationTimestamp"] = json!(pod.record.created);
    metadata["generation"] = json!(pod.record.generation);
    if let Some(deletion) = report.as_ref().and_then(|report| report.deletion) {
        metadata["deletionTimestamp"] = json!(deletion);
    }
    if let Some(seconds) = report.as_ref().and_then(|report| report.deletion_grace_seconds) {
        metadata["deletionGracePeriodSeconds"] = json!(seconds);
    }
    if let Some(report) = report {
        let status = status(&object["spec"], pod, &report)?;
        object["status"] = status;
    }
    Ok(object)
}

/// `Always` that nobody wrote is not shown: written, it would mean that a registry is asked (README, "Decisions"), and what
/// is shown is to run the same again.
fn omit_pull_policies(object: &mut Value, pod: &Pod) {
    let by_default = |c: &&ContainerConfig| c.pull_policy == PullPolicy::AlwaysByDefault;
    let names: Vec<&str> = pod.record.plan.containers.iter().filter(by_default).map(|c| c.name.as_str()).collect();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let all = object["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in all.filter(|c| c["name"].as_str().is_some_and(|name| names.contains(&name))) {
            if let Some(fields) = container.as_object_mut() {
                fields.shift_remove("imagePullPolicy");
            }
        }
    }
}

/// The status as observed, with what only the manifest, the plan and the containers' bundles know: resources, which are all
/// allocated on one host, mounts of volumes, stop signals and users.
fn status(spec: &Value, pod: &Pod, report: &Report) -> Result<Value> {
    let mut status = serde_json::to_value(&report.status).context("writing the status")?;
    status["observedGeneration"] = json!(report.generation);
    let addresses = network::addresses()?;
    if let Some(first) = addresses.first() {
        status["hostIP"] = json!(first);
        status["hostIPs"] = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        condition["lastProbeTime"] = Value::Null;
        condition["observedGeneration"] = json!(report.generation);
    }
    let own = &spec["resources"];
    if own.as_object().is_some_and(|own| !own.is_empty()) {
        status["resources"] = own.clone();
        status["allocatedResources"] = own["requests"].clone();
    }
    for (list, statuses) in [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")] {
        // Not by an index: that would make a list that is not there a null.
        for shown in status.get_mut(statuses).and_then(Value::as_array_mut).into_iter().flatten() {
            let container = spec[list].as_array().into_iter().flatten().find(|c| c["name"] == shown["name"]);
            let resources = container.map(|c| &c["resources"]).filter(|r| r.as_object().is_some_and(|r| !r.is_empty()));
            if let Some(resources) = resources {
                shown["resources"] = resources.clone();
                if resources["requests"].is_object() {
                    shown["allocatedResources"] = resources["requests"].clone();
                }
            }
        }
    }
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        for shown in status.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let is_it = |c: &ContainerConfig| shown["name"] == c.name.as_str();
            let Some(index) = pod.record.plan.containers.iter().position(is_it) else { continue };
            let container = &pod.record.plan.containers[index];
            // What depends on an instance is there with the first one.
            let instance = if shown["containerID"].is_string() { Instance::Made } else { Instance::Awaited };
            let mounts: Vec<Value> = container.mounts.iter().map(|mount| volume_mount(mount, pod, instance)).collect();
            if !mounts.is_empty() {
                shown["volumeMounts"] = json!(mounts);
            }
            if instance == Instance::Made {
                shown["stopSignal"] = json!(supervisor::stop_signal(container, &pod.record.images[index]));
            }
            if let Some(user) = user(pod, &container.name)? {
                shown["user"] = json!({ "linux": user });
            }
        }
    }
    Ok(status)
}

/// Whether a container has had an instance yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instance {
    Made,
    Awaited,
}

/// `VolumeMountStatus`, as convertToAPIContainerStatuses in pkg/kubelet/kubelet_pods.go has it: what the manifest says, but with
/// what `recursiveReadOnly` came to, which is told of read-only mounts alone, and with the id of a volume's image.
fn volume_mount(mount: &VolumeMount, pod: &Pod, instance: Instance) -> Value {
    let mut shown = json!({ "name": mount.volume, "mountPath": mount.container_path });
    if mount.access == Access::ReadOnly {
        shown["readOnly"] = json!(true);
        shown["recursiveReadOnly"] = json!(match mount.submounts {
            Submounts::ReadOnly => "Enabled",
            Submounts::Unchanged => "Disabled",
        });
    }
    let image = pod.record.volume_images.get(&mount.volume).filter(|_| instance == Instance::Made);
    if let Some(image) = image {
        shown["volumeStatus"] = json!({ "image": { "imageRef": image.id } });
    }
    shown
}

/// The ids that the first process of a container's latest instance begins with; none before it is made.
fn user(pod: &Pod, container: &str) -> Result<Option<Value>> {
    let bundle = pod.dirs.container_state(container).join("config.json");
    let Some(spec): Option<Spec> = store::read_json(&bundle)? else { return Ok(None) };
    Ok(spec.process().as_ref().map(|process| {
        let user = process.user();
        let groups = user.additional_gids().clone().unwrap_or_default();
        json!({ "uid": user.uid(), "gid": user.gid(), "supplementalGroups": groups })
    }))
}
