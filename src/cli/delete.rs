//! `podshim delete`: kubectl's, of pods and of what the network is made of; or of everything that manifests name.

use super::bring_up::faults;
use super::kinds::{self, Resource, Wanted};
use super::labels::Selector;
use super::named::in_namespace;
use super::output;
use super::recover;
use super::remove::{all_errors, remove_pod, stop_pod};
use crate::error::{Kind, failure, kind_of, say};
use crate::manifest::{self, CronJobs, Documents, Name, Owner};
use crate::network;
use crate::network::objects::{self, Kept, Missing, ObjectKind, ObjectName};
use crate::paths::Dirs;
use crate::store::{self, Pod};
use anyhow::Result;
use clap::Args;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// TYPE NAME... or TYPE/NAME...; TYPE is pods, services, networkpolicies or namespaces, or one of kubectl's short words for
    /// them
    #[arg(value_name = "TYPE", required_unless_present = "files")]
    what: Vec<String>,
    /// Everything that these manifests name, and the pods of their Deployments and the like; what claims hold stays
    #[arg(short = 'f', long = "filename", value_name = "FILE", num_args = 1.., conflicts_with_all = ["what", "all", "selector", "namespace"])]
    files: Vec<String>,
    /// In this namespace [default: NAME is in the namespace default, or the only one of its name]
    #[arg(short, long)]
    namespace: Option<String>,
    /// All of the type; with -n those of the namespace
    #[arg(long, conflicts_with = "selector")]
    all: bool,
    /// Those of the type with such labels, like app=web,tier!=back
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<Selector>,
    /// What is not there is fine
    #[arg(long)]
    ignore_not_found: bool,
    /// Kill running containers at once instead of stopping them gracefully
    #[arg(long)]
    force: bool,
    /// Seconds between the stop signal and SIGKILL [default: the pod's terminationGracePeriodSeconds]
    #[arg(long, value_name = "SECONDS", conflicts_with = "force")]
    grace_period: Option<u64>,
}

/// What is to be removed.
enum Target {
    Pod(Box<Pod>),
    Object(ObjectName),
}

pub(super) fn run(args: DeleteArgs, dirs: &Dirs) -> Result<()> {
    let mut targets = if args.files.is_empty() { chosen(&args, dirs)? } else { of_files(&args, dirs)? };
    if args.ignore_not_found {
        targets.retain(|target| !matches!(target, Err(error) if kind_of(error) == Some(Kind::NotFound)));
    }
    let grace = if args.force { Some(0) } else { args.grace_period };
    let mut errors = Vec::new();
    // Pods before policies: as long as a pod runs it is confined as it was.
    targets.sort_by_key(|target| !matches!(target, Ok(Target::Pod(_))));
    for target in targets {
        // As with `rm`.
        if let (Ok(Target::Pod(pod)), false) = (&target, args.force) {
            recover::see_to(pod);
        }
        match target.and_then(|target| remove(target, grace, dirs)) {
            Ok(Some(said)) => output::line(said)?,
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    // What is in force follows from what is kept: here it is to be made anew, once for all that was removed.
    all_errors(errors)
}

/// Removes one; what is said of it. One that somebody else removed meanwhile is gone as wanted.
fn remove(target: Target, grace: Option<u64>, dirs: &Dirs) -> Result<Option<String>> {
    match target {
        Target::Pod(pod) => {
            stop_pod(&pod, grace)?;
            remove_pod(&pod)?;
            let sandbox = &pod.record.plan.sandbox;
            Ok(Some(format!("pod {:?} deleted from {} namespace", sandbox.name, sandbox.namespace)))
        }
        Target::Object(name) => {
            let removed = objects::delete(&dirs.network(), std::slice::from_ref(&name), Missing::Ignored)?;
            network::sync(dirs)?;
            let of =
                if name.namespace.is_empty() { String::new() } else { format!(" from {} namespace", name.namespace) };
            Ok((!removed.is_empty()).then(|| format!("{} {:?} deleted{of}", name.kind.resource(), name.name)))
        }
    }
}

/// What the command line names.
fn chosen(args: &DeleteArgs, dirs: &Dirs) -> Result<Vec<Result<Target>>> {
    let untyped = |name: &str| {
        format!("`podshim rm {name}` removes the pod of this name, and so does `podshim delete pod {name}`")
    };
    let wanted = kinds::wanted(&args.what, untyped)?;
    let mut targets = Vec::new();
    for one in wanted {
        let kind = kind(one.resource)?;
        let is_chosen = args.all || args.selector.is_some();
        match (one.names.is_empty(), is_chosen) {
            (true, false) => {
                let of = one.resource.plural();
                let message = format!("which {of}? `podshim delete {of}` takes names, --all or -l LABELS");
                return Err(failure(Kind::Invalid, message));
            }
            (false, true) => {
                return Err(failure(Kind::Invalid, "names go neither with --all nor with -l"));
            }
            _ => {}
        }
        match kind {
            None => targets.extend(pods(args, &one, dirs)?),
            Some(kind) => targets.extend(network_objects(args, (&one, kind), dirs)?),
        }
    }
    Ok(targets)
}

/// The kind of network object that a type is; none for pods.
fn kind(resource: Resource) -> Result<Option<ObjectKind>> {
    match resource {
        Resource::Pods => Ok(None),
        Resource::Services => Ok(Some(ObjectKind::Service)),
        Resource::NetworkPolicies => Ok(Some(ObjectKind::NetworkPolicy)),
        Resource::Namespaces => Ok(Some(ObjectKind::Namespace)),
        Resource::Endpoints | Resource::EndpointSlices => {
            let message = format!(
                "{} follow from Services and their pods: there is nothing to delete but those",
                resource.plural()
            );
            Err(failure(Kind::Invalid, message))
        }
    }
}

impl DeleteArgs {
    fn asks_for(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        let none = BTreeMap::new();
        let is_in = namespace.is_empty() || self.namespace.as_ref().is_none_or(|wanted| wanted == namespace);
        is_in && self.selector.as_ref().is_none_or(|selector| selector.matches(labels.unwrap_or(&none)))
    }
}

fn pods(args: &DeleteArgs, wanted: &Wanted, dirs: &Dirs) -> Result<Vec<Result<Target>>> {
    let target = |pod: Pod| Target::Pod(Box::new(pod));
    if !wanted.names.is_empty() {
        let found = |name: &String| store::find(dirs, &in_namespace(name, args.namespace.as_deref())?).map(target);
        return Ok(wanted.names.iter().map(found).collect());
    }
    let (pods, broken) = store::list(dirs)?;
    let is_meant = |pod: &Pod| {
        let sandbox = &pod.record.plan.sandbox;
        args.asks_for(&sandbox.namespace, Some(&sandbox.labels))
    };
    let fine = pods.into_iter().filter(is_meant).map(|pod| Ok(target(pod)));
    // Nobody knows what a damaged one's namespace and labels are.
    Ok(fine.chain(broken.into_iter().map(|broken| Err(broken.explain()))).collect())
}

fn network_objects(
    args: &DeleteArgs,
    (wanted, kind): (&Wanted, ObjectKind),
    dirs: &Dirs,
) -> Result<Vec<Result<Target>>> {
    let kept = Kept::read(&dirs.network())?;
    let found: Vec<Result<ObjectName>> = if wanted.names.is_empty() {
        let is_meant = |name: &ObjectName| {
            let labels = kept.get(name).and_then(|object| object.metadata().labels.as_ref());
            args.asks_for(&name.namespace, labels)
        };
        kept.of(kind).map(|(name, _)| name).filter(|name| is_meant(name)).cloned().map(Ok).collect()
    } else {
        let namespace = args.namespace.as_deref().filter(|_| kind != ObjectKind::Namespace);
        let found = |name: &String| kept.find(kind, &in_namespace(name, namespace)?).cloned();
        wanted.names.iter().map(found).collect()
    };
    for name in found.iter().flatten().filter(|name| name.kind == ObjectKind::Namespace) {
        say_what_stays(name, &kept, dirs)?;
    }
    Ok(found.into_iter().map(|name| name.map(Target::Object)).collect())
}

/// A Namespace here is a name and labels: what is in it is removed by its own name.
fn say_what_stays(namespace: &ObjectName, kept: &Kept, dirs: &Dirs) -> Result<()> {
    let own = &namespace.name;
    let pods = store::list(dirs)?.0.into_iter().filter(|pod| pod.record.plan.sandbox.namespace == *own).count();
    let of = |kind| kept.of(kind).filter(|(name, _)| name.namespace == *own).count();
    let counts =
        [("pods", pods), ("services", of(ObjectKind::Service)), ("networkpolicies", of(ObjectKind::NetworkPolicy))];
    let staying: Vec<&str> = counts.iter().filter(|(_, count)| *count > 0).map(|(what, _)| *what).collect();
    if !staying.is_empty() {
        say!(
            "podshim: note: the {} in namespace {own} stay: `podshim delete {} --all -n {own}` removes them",
            staying.join(" and "),
            staying.join(",")
        );
    }
    Ok(())
}

/// What manifests name.
fn of_files(args: &DeleteArgs, dirs: &Dirs) -> Result<Vec<Result<Target>>> {
    let sources = manifest::read_sources(&args.files)?;
    // Whatever made its pods: they are its pods.
    let documents = manifest::documents(&sources, CronJobs::Now)
        .map_err(|diagnostics| faults(&diagnostics, &args.files, "nothing was deleted"))?;
    let mut targets: Vec<Result<Target>> = Vec::new();
    for pod in documents.pods.iter().filter(|pod| pod.owner().is_none()) {
        if pod.name_comes_from() == Name::Generated {
            let message = format!("{}: a pod with a generateName is another one each time: name it", pod.source());
            return Err(failure(Kind::Invalid, message));
        }
        let found = store::find(dirs, &format!("{}/{}", pod.namespace(), pod.name()));
        targets.push(found.map(|pod| Target::Pod(Box::new(pod))));
    }
    for owner in &documents.owners {
        targets.extend(of_owner(owner, &documents, dirs)?);
    }
    let kept = Kept::read(&dirs.network())?;
    for document in &documents.network {
        let name = ObjectName::of(&document.object);
        if name.kind == ObjectKind::Namespace && kept.get(&name).is_some() {
            say_what_stays(&name, &kept, dirs)?;
        }
        targets.push(kept.find(name.kind, &name.full()).cloned().map(Target::Object));
    }
    say_what_claims_hold(&documents, dirs)?;
    Ok(targets)
}

/// The pods that a Deployment (or any other such document) made, as many as there are.
fn of_owner(owner: &Owner, documents: &Documents, dirs: &Dirs) -> Result<Vec<Result<Target>>> {
    let (pods, _) = store::list(dirs)?;
    let made = pods.into_iter().filter(|pod| pod.record.plan.owner.as_ref() == Some(owner));
    let made: Vec<Result<Target>> = made.map(|pod| Ok(Target::Pod(Box::new(pod)))).collect();
    let asks_for_pods = documents.pods.iter().any(|pod| pod.owner() == Some(owner));
    if made.is_empty() && asks_for_pods {
        let message = format!("{} {}/{}: there are no pods of it", owner.kind, owner.namespace, owner.name);
        return Ok(vec![Err(failure(Kind::NotFound, message))]);
    }
    Ok(made)
}

fn say_what_claims_hold(documents: &Documents, dirs: &Dirs) -> Result<()> {
    for claim in store::claims(dirs)? {
        if documents.objects.has_claim(&claim.namespace, &claim.name) {
            let full = format!("{}/{}", claim.namespace, claim.name);
            say!("podshim: note: what PersistentVolumeClaim {full} holds stays: `podshim volume rm {full}` removes it");
        }
    }
    Ok(())
}
