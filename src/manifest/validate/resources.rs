//! Rules for requests and limits, of containers and of the pod (pod-api.md §20, part C).

use super::super::amounts;
use super::super::diagnostics::Diagnostic;
use super::super::path::{Path, Seg};
use super::super::quantity::{self, QuantityError};
use super::{Checker, locate, locate_key, quote};
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Less memory than this cannot even hold the process that starts the container.
const LEAST_MEMORY: i64 = 512 * 1024;
/// More than any host has, and far from overflowing a quota in microseconds.
const MOST_CPU_MILLI: i64 = 1_000_000_000;

/// Requests and limits of a container, and what their change takes.
pub(super) fn container(c: &mut Checker<'_>, container: &Container, (spec, at): (&PodSpec, &Path)) {
    resize_policy(c, container, (spec, &at.field("resizePolicy")));
    let Some(resources) = &container.resources else { return };
    let at = at.field("resources");
    requirements(c, resources, &at);
    huge_pages(c, resources, (spec, &at));
    let of_pod = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    for (name, limit) in resources.limits.iter().flatten() {
        let Some(most) = of_pod.and_then(|limits| limits.get(name)) else { continue };
        if is_more(name, (limit, most)) {
            let most_at = locate(c.document, &Path::of("spec.resources.limits").field(name));
            let message = format!("{} is more than the pod's limit {}", quote(&limit.0), quote(&most.0));
            c.fault_with(&at.field("limits").field(name), message, |d| d.remark(most_at, "the pod's limit"));
        }
    }
}

/// The pod's own requests and limits.
pub(super) fn pod(c: &mut Checker<'_>, spec: &PodSpec) {
    let Some(resources) = &spec.resources else { return };
    let at = Path::of("spec.resources");
    for (kind, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for name in list.iter().flatten().map(|(name, _)| name) {
            if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with(amounts::HUGEPAGES) {
                let message = format!("{} cannot be given for the pod as a whole", quote(name));
                c.key_fault(&at.field(kind).field(name), message, |d| {
                    d.help(
                        "that is possible for cpu, memory and hugepages-<size>; the rest is given for each container",
                    )
                });
            }
        }
    }
    requirements(c, resources, &at);
    huge_pages(c, resources, (spec, &at));
    let (Ok(together), Ok(own)) = (amounts::of_containers(spec, amounts::requests), amounts::requests(Some(resources)))
    else {
        return;
    };
    let rows = [
        ("cpu", together.cpu, own.cpu, amounts::cpus as fn(i64) -> Quantity),
        ("memory", together.memory, own.memory, amounts::exact),
    ];
    for (name, together, own, shown) in rows {
        let (Some(together), Some(own)) = (together, own) else { continue };
        if together > own {
            let message =
                format!("{} is less than the {} that the containers request together", shown(own).0, shown(together).0);
            // Where it is the limit's, the limit is to blame.
            let kind = if is_written(c, &at, ("requests", name)) { "requests" } else { "limits" };
            c.fault(&at.field(kind).field(name), message);
        }
    }
}

fn requirements(c: &mut Checker<'_>, resources: &ResourceRequirements, at: &Path) {
    let limits = resources.limits.as_ref();
    for (kind, amounts) in [("limits", limits), ("requests", resources.requests.as_ref())] {
        for (name, amount) in amounts.into_iter().flatten() {
            // A request that was defaulted from its limit has no fault of its own.
            let defaulted = kind == "requests" && !is_written(c, at, (kind, name));
            if !defaulted {
                one_amount(c, (name, amount), &at.field(kind).field(name));
            }
        }
    }
    for (name, request) in resources.requests.iter().flatten() {
        let Some(limit) = limits.and_then(|l| l.get(name)) else { continue };
        if is_more(name, (request, limit)) {
            let message = format!("{} is more than the limit {}", quote(&request.0), quote(&limit.0));
            let limit_at = locate(c.document, &at.field("limits").field(name));
            c.fault_with(&at.field("requests").field(name), message, |d| d.remark(limit_at, "the limit"));
        }
    }
}

fn is_written(c: &Checker<'_>, resources: &Path, (kind, name): (&str, &str)) -> bool {
    locate_key(c.document, &resources.field(kind).field(name)).is_some()
}

fn amount_of(name: &str, amount: &Quantity) -> Result<i64, QuantityError> {
    if name == "cpu" { quantity::milli(amount) } else { quantity::bytes(amount) }
}

fn is_more(name: &str, (amount, than): (&Quantity, &Quantity)) -> bool {
    matches!((amount_of(name, amount), amount_of(name, than)), (Ok(amount), Ok(than)) if amount > than)
}

fn one_amount(c: &mut Checker<'_>, (name, amount): (&str, &Quantity), path: &Path) {
    let shown = quote(&amount.0);
    match name {
        "cpu" | "memory" => {}
        "ephemeral-storage" => {
            match amount_of(name, amount) {
                Err(error) => c.fault(path, format!("{shown} is {error}")),
                Ok(_) if quantity::is_negative(amount) => c.fault(path, format!("{shown} is negative")),
                Ok(_) => {}
            }
            return;
        }
        _ if name.starts_with(amounts::HUGEPAGES) => return pages(c, (name, amount), path),
        // Known others are judged by the support table.
        _ if name.contains('/') => return,
        _ => {
            let near = super::hints::nearest(name, ["cpu", "memory", "ephemeral-storage"]);
            let label = near.map(|n| format!("did you mean `{n}`?"));
            c.key_fault(path, format!("{} is not a resource", quote(name)), |d| {
                label.into_iter().fold(d, Diagnostic::label)
            });
            return;
        }
    }
    match amount_of(name, amount) {
        Err(error) => c.fault(path, format!("{shown} is {error}")),
        Ok(_) if quantity::is_negative(amount) => c.fault(path, format!("{shown} is negative")),
        Ok(value) if name == "cpu" && value > MOST_CPU_MILLI => {
            c.fault(path, format!("{shown} is more cpus than any host has"))
        }
        Ok(value)
            // Zero is no limit, as in a kubelet.
            if name == "memory"
                && (1..LEAST_MEMORY).contains(&value)
                && path.0.iter().any(|s| matches!(s, Seg::Field(f) if f == "limits")) =>
        {
            let help = if amount.0.ends_with('m') {
                "the suffix m means thousandths; for mebibytes write Mi"
            } else {
                "a number without suffix counts bytes; for mebibytes write Mi, for gibibytes Gi"
            };
            c.fault_with(path, format!("{shown} is too low: no container runs in less than 512Ki"), |d| {
                d.label(if value == 1 { "this is one byte".to_owned() } else { format!("this is {value} bytes") })
                    .help(help)
            });
        }
        Ok(_) => {}
    }
}

/// An amount of huge pages of one size.
fn pages(c: &mut Checker<'_>, (name, amount): (&str, &Quantity), path: &Path) {
    let shown = quote(&amount.0);
    let Some(size) = amounts::page_size(name) else {
        c.key_fault(path, format!("{} names no size that pages can have", quote(name)), |d| {
            d.help("write, for example, hugepages-2Mi or hugepages-1Gi")
        });
        return;
    };
    match amount_of(name, amount) {
        Err(error) => c.fault(path, format!("{shown} is {error}")),
        Ok(_) if quantity::is_negative(amount) => c.fault(path, format!("{shown} is negative")),
        Ok(value) if !u64::try_from(value).unwrap_or(0).is_multiple_of(size) => {
            c.fault(path, format!("{shown} is no multiple of the size of a page, {}", amounts::exact(size as i64).0));
        }
        Ok(_) => {}
    }
}

/// Huge pages are never promised to more than one: what is requested is the limit. They come beside cpu or memory.
fn huge_pages(c: &mut Checker<'_>, resources: &ResourceRequirements, (spec, at): (&PodSpec, &Path)) {
    let is_pages = |name: &&String| name.starts_with(amounts::HUGEPAGES);
    let list = |list: &Option<BTreeMap<String, Quantity>>| list.clone().unwrap_or_default();
    let (limits, requests) = (list(&resources.limits), list(&resources.requests));
    for name in requests.keys().filter(is_pages) {
        let bytes = |list: &BTreeMap<String, Quantity>| list.get(name).and_then(|amount| quantity::bytes(amount).ok());
        if !limits.contains_key(name) {
            c.fault(&at.field("requests").field(name), "of huge pages the limit is required too, and must be the same");
        } else if bytes(&requests) < bytes(&limits) {
            let message = format!("{} is not the limit {}", quote(&requests[name].0), quote(&limits[name].0));
            c.fault_with(&at.field("requests").field(name), message, |d| {
                d.help("huge pages that are requested are the limit too")
            });
        }
    }
    let of_pod = spec.resources.as_ref();
    let names = |r: &ResourceRequirements| -> Vec<String> {
        [&r.limits, &r.requests].into_iter().flatten().flat_map(|list| list.keys().cloned()).collect()
    };
    let known: Vec<String> = names(resources).into_iter().chain(of_pod.map(names).unwrap_or_default()).collect();
    if let Some(name) = limits.keys().find(is_pages)
        && !known.iter().any(|name| name == "cpu" || name == "memory")
    {
        c.fault(&at.field("limits").field(name), "huge pages need a request or limit of cpu or memory beside them");
    }
}

/// `resizePolicy`
fn resize_policy(c: &mut Checker<'_>, container: &Container, (spec, at): (&PodSpec, &Path)) {
    let mut seen: BTreeMap<&str, Path> = BTreeMap::new();
    let is_init = spec.init_containers.iter().flatten().any(|init| init.name == container.name);
    let policy = container.restart_policy.as_deref().or(spec.restart_policy.as_deref());
    for (i, one) in container.resize_policy.iter().flatten().enumerate() {
        let at = at.index(i);
        let path = at.field("resourceName");
        c.one_of(&path, (Some(&one.resource_name), &["cpu", "memory"]));
        match seen.get(one.resource_name.as_str()) {
            Some(first) => {
                let message = format!("{} has a policy already", quote(&one.resource_name));
                c.twice(&path, (&first.clone(), message));
            }
            None => drop(seen.insert(&one.resource_name, path)),
        }
        let path = at.field("restartPolicy");
        c.one_of(&path, (Some(&one.restart_policy), &["NotRequired", "RestartContainer"]));
        if one.restart_policy == "RestartContainer" {
            if is_init && container.restart_policy.as_deref() != Some("Always") {
                c.fault(&path, "an init container is not resized; only one with restartPolicy: Always is");
            } else if policy == Some("Never") {
                c.fault(&path, "RestartContainer cannot be where restartPolicy: Never forbids restarts");
            }
        }
    }
}
