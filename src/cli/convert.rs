//! `podshim convert`: a pod back to the manifest that runs the same, with the ConfigMaps and Secrets that it refers to.

use super::inspect;
use super::output::{self, Structured};
use crate::error::say;
use crate::manifest::NETWORK_ANNOTATION;
use crate::paths::Dirs;
use crate::plan::config::{ContainerKind, DnsBase, NetworkMode, SwapBehavior};
use crate::store::{self, Pod};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: Structured,
}

pub(super) fn run(args: ConvertArgs, dirs: &Dirs) -> Result<()> {
    let pods = args.pods.iter().map(|name| store::find(dirs, name)).collect::<Result<Vec<_>>>()?;
    let mut documents: Vec<Value> = Vec::new();
    for pod in &pods {
        for document in of_pod(pod)? {
            // Two pods may refer to the same one.
            if !documents.contains(&document) {
                documents.push(document);
            }
        }
    }
    for pod in &pods {
        for note in notes(pod) {
            say!("podshim: note: pod {}: {note}", pod.full_name());
        }
    }
    match args.output {
        Structured::Json => match &documents[..] {
            [one] => output::structured(one, args.output),
            several => {
                output::structured(&json!({ "apiVersion": "v1", "kind": "List", "items": several }), args.output)
            }
        },
        Structured::Yaml => documents.iter().enumerate().try_for_each(|(i, document)| {
            if i > 0 {
                output::line("---")?;
            }
            output::structured(document, args.output)
        }),
    }
}

/// The documents that make the same pod: the objects that it refers to, and itself at last.
pub(super) fn of_pod(pod: &Pod) -> Result<Vec<Value>> {
    let path = pod.dirs.objects();
    let mut documents: Vec<Value> =
        store::read_json(&path)?.with_context(|| format!("{} is missing", path.display()))?;
    documents.push(inspect::manifest(pod)?);
    Ok(documents)
}

/// What a manifest has no field for: options of the command that made the pod.
fn notes(pod: &Pod) -> Vec<String> {
    let plan = &pod.record.plan;
    let mut notes = Vec::new();
    match &plan.sandbox.namespaces.network {
        NetworkMode::Path(path) => notes.push(format!("it was run with --network ns:{}", path.display())),
        NetworkMode::None if !plan.sandbox.annotations.contains_key(NETWORK_ANNOTATION) => {
            notes.push("it was run with --network none".to_owned());
        }
        NetworkMode::Cni(_) if !plan.sandbox.annotations.contains_key(NETWORK_ANNOTATION) => {
            notes.push("it was run with --network cni".to_owned());
        }
        _ => {}
    }
    if let DnsBase::File(path) | DnsBase::Cluster { host_file: Some(path), .. } = &plan.sandbox.dns.base {
        notes.push(format!("it was run with --resolv-conf {}", path.display()));
    }
    if matches!(plan.swap, SwapBehavior::LimitedSwap { .. }) {
        notes.push("it was run with --swap-behavior LimitedSwap".to_owned());
    }
    for container in plan.containers.iter().filter(|c| c.kind == ContainerKind::Ephemeral) {
        notes.push(format!("the container {} was added by podshim debug and is left out", container.name));
    }
    notes
}
