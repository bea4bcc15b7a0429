//! `podshim apply`: pods become as their manifests say. Everything is read, planned and pulled before anything is touched.

use super::bring_up::{
    BringUpArgs, Host, Room, Started, admit, choices_of, ensure_images, prepare, pull_policy, start, undo, written,
};
use super::capacity::Capacity;
use super::network_objects::{Semantics, put};
use super::output;
use super::recover;
use super::remove::{remove_pod, stop_pod};
use super::terminal::Interrupts;
use super::until::{self, Goal, Since, UntilArgs, WaitFor};
use crate::control::{self, Request, Updating};
use crate::error::{Kind, failure, kind_of, say};
use crate::host;
use crate::manifest::{AdmittedPod, Documents, Name};
use crate::paths::Dirs;
use crate::plan::change::{self, Change, Data};
use crate::plan::config::PodPlan;
use crate::plan::pod::{Choices, pod_plan};
use crate::store::{self, Pod, Record, Written};
use crate::supervisor;
use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::core::v1 as k8s;
use std::os::fd::AsFd;
use std::time::Instant;

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    bring_up: BringUpArgs,
    #[command(flatten)]
    until: UntilArgs,
}

/// What has to be done about one pod.
enum Todo {
    /// It is not there.
    Create(Box<Record>),
    /// It is as it is to be, running or ended.
    Nothing(Pod, Life),
    /// It can be changed while it runs.
    Change(Pod, Box<Updating>),
    /// It cannot, or there is only half of it.
    Replace(Pod, Box<Record>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Ended,
}

pub(super) fn run(args: ApplyArgs, dirs: &Dirs) -> Result<u8> {
    let documents = admit(&args.bring_up.planning)?;
    let admitted = &documents.pods;
    if let Some(pod) = admitted.iter().find(|pod| pod.name_comes_from() == Name::Generated) {
        let message = format!(
            "{}: apply needs a metadata.name: with a generateName it would make another pod each time",
            pod.source()
        );
        return Err(failure(Kind::Invalid, message));
    }
    let facts = host::probe()?;
    store::make_directories(dirs)?;
    supervisor::remove::sweep(dirs)?;
    let host = Host { dirs, facts: &facts };
    args.bring_up.note_cgroup(host);
    // As with kubectl, what is applied stays, whatever becomes of the rest. Pods learn of Services when they are planned.
    put(&documents.network, (&args.bring_up.planning.network, Semantics::Apply), dirs)?.keep()?;
    let mut capacity = args.bring_up.capacity(host)?;
    let mut todo_one = |pod| todo(pod, &args.bring_up, host, &mut capacity);
    let todos = admitted.iter().map(&mut todo_one).collect::<Result<Vec<_>>>()?;
    let interrupts = Interrupts::catch()?;
    let deadline = args.until.timeout.map(|timeout| Instant::now() + timeout);
    let mut code = 0;
    for (pod, todo) in admitted.iter().zip(todos) {
        let warnings = match todo {
            Todo::Create(_) | Todo::Replace(..) => Since::Beginning,
            Todo::Nothing(..) | Todo::Change(..) => Since::Now,
        };
        let done = perform((pod, &capacity), todo, |one| {
            let goal = args.until.wait.unwrap_or(WaitFor::Running);
            let of_pod = until::until(one, Goal { goal, deadline, warnings }, &interrupts)?;
            code = if code == 0 { of_pod } else { code };
            Ok(())
        })?;
        output::line(format_args!("pod/{} {done}", pod.name()))?;
    }
    for pod in surplus(&documents, dirs)? {
        recover::see_to(&pod);
        stop_pod(&pod, None)?;
        remove_pod(&pod)?;
        output::line(format_args!("pod/{} removed", pod.record.plan.sandbox.name))?;
    }
    Ok(code)
}

/// The pods that these documents made once and do not ask for any more.
fn surplus(documents: &Documents, dirs: &Dirs) -> Result<Vec<Pod>> {
    let (pods, _) = store::list(dirs)?;
    let is_owned = |pod: &Pod| pod.record.plan.owner.as_ref().is_some_and(|owner| documents.owners.contains(owner));
    let is_wanted = |pod: &Pod| {
        let sandbox = &pod.record.plan.sandbox;
        documents.pods.iter().any(|p| (p.namespace(), p.name()) == (&*sandbox.namespace, &*sandbox.name))
    };
    Ok(pods.into_iter().filter(|pod| is_owned(pod) && !is_wanted(pod)).collect())
}

fn todo(admitted: &AdmittedPod, args: &BringUpArgs, host: Host<'_>, capacity: &mut Capacity) -> Result<Todo> {
    let existing = match recover::find(host.dirs, &format!("{}/{}", admitted.namespace(), admitted.name())) {
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => None,
        other => Some(other?),
    };
    let uid = existing.as_ref().map(|pod| pod.record.plan.sandbox.uid.clone());
    let instead = uid.as_deref();
    let mut record = || prepare(admitted, args, host, Room { capacity, instead }).map(Box::new);
    let Some(pod) = existing else { return Ok(Todo::Create(record()?)) };
    let report = pod.report()?;
    let is_over = report.as_ref().is_some_and(|report| report.over);
    let ends = report.as_ref().is_some_and(|report| report.deletion.is_some()) && !is_over;
    // Half a pod: its supervisor is gone, or never was.
    if ends || (!is_over && recover::watch(&pod).is_err()) {
        return Ok(Todo::Replace(pod, record()?));
    }
    let before: k8s::Pod = store::read_json(&pod.dirs.manifest())?
        .with_context(|| format!("{} is missing", pod.dirs.manifest().display()))?;
    let change = change::between(&before, admitted.pod());
    match change {
        Change::Unchanged | Change::InPlace(_) => {
            let plan = plan_again(admitted, args, (&pod, host))?;
            let data = change::data(&pod.record.plan, &plan);
            refuse_immutable(&pod, &data)?;
            if change == Change::Unchanged && data.is_same() {
                return Ok(Todo::Nothing(pod, if is_over { Life::Ended } else { Life::Running }));
            }
            if is_over {
                return Ok(Todo::Replace(pod, record()?));
            }
            capacity.check(&plan, host, Some(&plan.sandbox.uid)).with_context(|| format!("pod {}", pod.full_name()))?;
            if !data.variables.is_empty() {
                let containers = data.variables.join(", ");
                say!(
                    "podshim: pod {}: new variables take effect when a container starts again: {containers}",
                    pod.full_name()
                );
            }
            let images = ensure_images(&plan, host.dirs)?.containers;
            let Written { manifest, objects } = written(admitted)?;
            Ok(Todo::Change(pod, Box::new(Updating { plan, images, manifest, objects })))
        }
        Change::Replace(fields) => {
            say!("podshim: pod {}: {} cannot change while it runs", pod.full_name(), fields.join(", "));
            Ok(Todo::Replace(pod, record()?))
        }
    }
}

/// The new plan of a pod that runs.
fn plan_again(admitted: &AdmittedPod, args: &BringUpArgs, (pod, host): (&Pod, Host<'_>)) -> Result<PodPlan> {
    let choices = Choices { pull: args.pull.map(pull_policy), ..choices_of(pod, host.dirs, &host.facts.machine())? };
    pod_plan(admitted, choices).with_context(|| format!("pod {}", pod.full_name()))
}

/// An immutable object is another one only under another name, as for an API server.
fn refuse_immutable(pod: &Pod, data: &Data) -> Result<()> {
    if data.immutable.is_empty() {
        return Ok(());
    }
    let message = format!(
        "pod {} was made with other data of {}, which is immutable: give it another name, or remove the pod",
        pod.full_name(),
        data.immutable.join(", ")
    );
    Err(failure(Kind::Invalid, message))
}

/// Does it, waits for the pod, and answers in kubectl's words. What was made is taken back if it does not come to what is
/// waited for; a pod that was changed in place stays.
fn perform(
    (admitted, capacity): (&AdmittedPod, &Capacity),
    todo: Todo,
    mut wait: impl FnMut(&Pod) -> Result<()>,
) -> Result<&'static str> {
    match todo {
        Todo::Nothing(pod, life) => {
            if life == Life::Running {
                wait(&pod)?;
            }
            Ok("unchanged")
        }
        Todo::Create(record) => bring_up((admitted, capacity), &record, wait).map(|()| "created"),
        Todo::Change(pod, updating) => {
            let document = control::document("podshim", &*updating)?;
            recover::ask(&pod, &Request::Update, &[document.as_fd()])?
                .reply()
                .with_context(|| format!("changing pod {}: nothing of it was changed", pod.full_name()))?;
            wait(&pod)?;
            Ok("configured")
        }
        Todo::Replace(old, record) => {
            stop_pod(&old, None)?;
            remove_pod(&old)?;
            bring_up((admitted, capacity), &record, wait)
                .with_context(|| format!("pod {} was removed to be replaced, and then", admitted.name()))?;
            Ok("replaced")
        }
    }
}

fn bring_up(
    (admitted, capacity): (&AdmittedPod, &Capacity),
    record: &Record,
    mut wait: impl FnMut(&Pod) -> Result<()>,
) -> Result<()> {
    let started: Started = start(admitted, record, capacity)?;
    match wait(&started.pod) {
        Ok(()) => Ok(()),
        Err(error) => {
            undo(vec![started]);
            Err(error)
        }
    }
}
