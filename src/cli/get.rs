//! `podshim get`: kubectl's, of pods and of what the network is made of. Namespaces are chosen as by `podshim ps`.

use super::columns::{self, Cells};
use super::kinds::{self, Resource, Wanted};
use super::output;
use super::ps::{self, PsArgs, now};
use super::recover;
use crate::error::{Kind, failure, say};
use crate::lifecycle::status::Time;
use crate::manifest::NetworkObject;
use crate::network::objects::{self, Kept, Meant, ObjectKind};
use crate::network::slices;
use crate::network::view::{self, Member};
use crate::paths::Dirs;
use crate::store::{self, Pod};
use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// TYPE [NAME...] or TYPE/NAME...; TYPE is pods, services, endpoints, endpointslices, networkpolicies or namespaces, or one
    /// of kubectl's short words for them, or several with commas between [default: pods]
    #[arg(value_name = "TYPE")]
    what: Vec<String>,
    #[command(flatten)]
    list: PsArgs,
}

/// One line of a table, and what it stands for.
struct Entry {
    namespace: String,
    name: String,
    metadata: ObjectMeta,
    cells: Cells,
    object: Value,
}

/// What was found of one type.
enum Found {
    Pods(Vec<Pod>),
    Others(Resource, Vec<Entry>),
}

pub(super) fn run(args: GetArgs, dirs: &Dirs) -> Result<()> {
    let untyped = |name: &str| format!("`podshim get pods {name}` shows the pod of this name");
    let mut wanted = kinds::wanted(&args.what, untyped)?;
    if wanted.is_empty() {
        wanted.push(Wanted { resource: Resource::Pods, names: vec![] });
    }
    let list = &args.list;
    let found: Vec<Found> = wanted.iter().map(|one| find(one, list, dirs)).collect::<Result<_>>()?;
    if let Some(how) = list.structured() {
        let mut items: Vec<Value> = Vec::new();
        for one in found {
            match one {
                Found::Pods(pods) => {
                    items.extend(ps::objects(&pods));
                    pods.iter().for_each(recover::see_to);
                }
                Found::Others(_, entries) => items.extend(entries.into_iter().map(|entry| entry.object)),
            }
        }
        let is_one = matches!(&wanted[..], [one] if one.names.len() == 1);
        let value = if is_one && items.len() == 1 { items.remove(0) } else { ps::list(items) };
        return output::structured(&value, how);
    }
    let several = found.len() > 1;
    for (index, one) in found.into_iter().enumerate() {
        if several && index > 0 && !list.only_names() {
            output::line("")?;
        }
        match one {
            Found::Pods(pods) => ps::show(list, &pods)?,
            Found::Others(resource, entries) if list.only_names() => names(resource, &entries)?,
            Found::Others(resource, entries) => table(resource, entries, list.is_wide())?,
        }
    }
    Ok(())
}

fn find(wanted: &Wanted, list: &PsArgs, dirs: &Dirs) -> Result<Found> {
    if wanted.resource == Resource::Pods {
        return ps::chosen(list, &wanted.names, dirs).map(Found::Pods);
    }
    let mut entries = entries(wanted.resource, dirs)?;
    if !wanted.names.is_empty() {
        entries = named(entries, wanted, list)?;
    }
    let none = Default::default();
    entries.retain(|entry| {
        let labels = entry.metadata.labels.as_ref().unwrap_or(&none);
        // A Namespace is in none.
        let namespace = if entry.namespace.is_empty() { list.namespace.as_deref() } else { None };
        list.asks_for(namespace.unwrap_or(&entry.namespace), labels)
    });
    Ok(Found::Others(wanted.resource, entries))
}

/// All there are of a type.
fn entries(resource: Resource, dirs: &Dirs) -> Result<Vec<Entry>> {
    let kept = Kept::read(&dirs.network())?;
    let now = now();
    if resource == Resource::Namespaces {
        return namespaces(&kept, (dirs, now));
    }
    let members: Vec<Member> = match resource {
        Resource::Endpoints | Resource::EndpointSlices => view::read_all(&dirs.network().members())?,
        _ => Vec::new(),
    };
    let mut entries = Vec::new();
    let kind = if resource == Resource::NetworkPolicies { ObjectKind::NetworkPolicy } else { ObjectKind::Service };
    for (_, object) in kept.of(kind) {
        match object {
            NetworkObject::Service(service) => of_service(resource, (service, &members), now, &mut entries)?,
            NetworkObject::Policy(policy) => {
                entries.push(entry(&policy.metadata, columns::policy(policy, now), policy)?);
            }
            NetworkObject::Namespace(_) => {}
        }
    }
    Ok(entries)
}

fn of_service(
    resource: Resource,
    (service, members): (&Service, &[Member]),
    now: Time,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    match resource {
        Resource::Endpoints => {
            if let Some(object) = slices::object(service, members) {
                entries.push(entry(&object.metadata, columns::endpoints(service, members, now), &object)?);
            }
        }
        Resource::EndpointSlices => {
            for slice in slices::slices(service, members) {
                entries.push(entry(&slice.object.metadata, columns::slice(&slice, now), &slice.object)?);
            }
        }
        _ => entries.push(entry(&service.metadata, columns::service(service, now), service)?),
    }
    Ok(())
}

fn entry(metadata: &ObjectMeta, cells: Cells, object: &impl Serialize) -> Result<Entry> {
    Ok(Entry {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        metadata: metadata.clone(),
        cells,
        object: serde_json::to_value(object).context("writing an object")?,
    })
}

/// The Namespaces that have a document, and those that something is in: they need none.
fn namespaces(kept: &Kept, (dirs, now): (&Dirs, Time)) -> Result<Vec<Entry>> {
    let mut names: BTreeSet<String> = kept.of(ObjectKind::Namespace).map(|(name, _)| name.name.clone()).collect();
    for kind in [ObjectKind::Service, ObjectKind::NetworkPolicy] {
        names.extend(kept.of(kind).map(|(name, _)| name.namespace.clone()));
    }
    names.extend(store::list(dirs)?.0.into_iter().map(|pod| pod.record.plan.sandbox.namespace));
    let one = |name: String| {
        let document = kept.of(ObjectKind::Namespace).find(|(of, _)| of.name == name).map(|(_, object)| object);
        let mut metadata = document.map(NetworkObject::metadata).cloned().unwrap_or_default();
        metadata.labels.get_or_insert_default().insert("kubernetes.io/metadata.name".to_owned(), name.clone());
        metadata.name = Some(name);
        let cells = columns::namespace(&metadata, now);
        entry(&metadata.clone(), cells, &Namespace { metadata, ..Namespace::default() })
    };
    names.into_iter().map(one).collect()
}

/// Those of the names, as pods are found by theirs.
fn named(entries: Vec<Entry>, wanted: &Wanted, list: &PsArgs) -> Result<Vec<Entry>> {
    let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    let mut found = Vec::new();
    for name in &wanted.names {
        let name = match &list.namespace {
            Some(namespace) if wanted.resource != Resource::Namespaces && !name.contains('/') => {
                format!("{namespace}/{name}")
            }
            _ => name.clone(),
        };
        // One that is named twice is shown once.
        let left: Vec<usize> = (0..entries.len()).filter(|index| entries[*index].is_some()).collect();
        let all: Vec<(&str, &str)> =
            entries.iter().flatten().map(|entry| (entry.namespace.as_str(), entry.name.as_str())).collect();
        match objects::meant(&all, &name) {
            Meant::One(index) => found.extend(entries[left[index]].take()),
            Meant::Several(message) => return Err(failure(Kind::Invalid, message)),
            Meant::Nothing if found.iter().any(|entry| is_called(entry, &name)) => {}
            Meant::Nothing => {
                return Err(failure(Kind::NotFound, format!("{} {name:?} not found", wanted.resource.prefix())));
            }
        }
    }
    Ok(found)
}

fn is_called(entry: &Entry, name: &str) -> bool {
    entry.name == name || full_name(entry) == name
}

fn full_name(entry: &Entry) -> String {
    if entry.namespace.is_empty() { entry.name.clone() } else { format!("{}/{}", entry.namespace, entry.name) }
}

/// `service/web`, outside of the namespace default `service/shop/web`: what `podshim delete` takes.
fn names(resource: Resource, entries: &[Entry]) -> Result<()> {
    entries.iter().try_for_each(|entry| {
        let name = if entry.namespace == "default" { entry.name.clone() } else { full_name(entry) };
        output::line(format_args!("{}/{name}", resource.prefix()))
    })
}

fn table(resource: Resource, entries: Vec<Entry>, is_wide: bool) -> Result<()> {
    if entries.is_empty() {
        say!("No {} found.", resource.plural());
        return Ok(());
    }
    let (plain, wide) = match resource {
        // Listed elsewhere.
        Resource::Pods => return Ok(()),
        Resource::Services => columns::SERVICES,
        Resource::Endpoints => columns::ENDPOINTS,
        Resource::EndpointSlices => columns::SLICES,
        Resource::NetworkPolicies => columns::POLICIES,
        Resource::Namespaces => columns::NAMESPACES,
    };
    let has_namespace = resource != Resource::Namespaces;
    let mut head: Vec<&str> = if has_namespace { vec!["NAMESPACE", "NAME"] } else { vec!["NAME"] };
    head.extend(plain);
    if is_wide {
        head.extend(wide);
    }
    let row = |entry: Entry| {
        let mut row = if has_namespace { vec![entry.namespace, entry.name] } else { vec![entry.name] };
        row.extend(entry.cells.plain);
        if is_wide {
            row.extend(entry.cells.wide);
        }
        row
    };
    output::table(&head, &entries.into_iter().map(row).collect::<Vec<_>>())
}
