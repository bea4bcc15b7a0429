//! `podshim inspect`: the pod as a Pod object, as `kubectl get pod -o yaml` shows it.

use super::output::{self, Structured};
use crate::lifecycle::PodStatus;
use crate::paths::Dirs;
use crate::plan::config::PullPolicy;
use crate::store::{self, Pod};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: Structured,
}

pub(super) fn run(args: InspectArgs, dirs: &Dirs) -> Result<()> {
    let objects = args.pods.iter().map(|name| object(&store::find(dirs, name)?)).collect::<Result<Vec<_>>>()?;
    match &objects[..] {
        [one] => output::structured(one, args.output),
        several => output::structured(&json!({ "apiVersion": "v1", "kind": "List", "items": several }), args.output),
    }
}

/// The defaulted manifest with uid, creation time and status filled in.
pub(super) fn object(pod: &Pod) -> Result<Value> {
    let mut object: Value = store::read_json(&pod.dirs.manifest())?
        .with_context(|| format!("{} is missing", pod.dirs.manifest().display()))?;
    for container in &pod.record.plan.containers {
        if container.pull_policy == PullPolicy::AlwaysByDefault {
            omit_pull_policy(&mut object, &container.name);
        }
    }
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(pod.record.plan.sandbox.uid);
    metadata["creationTimestamp"] = json!(pod.record.created);
    if let Some(report) = pod.report()? {
        if let Some(deletion) = report.deletion {
            metadata["deletionTimestamp"] = json!(deletion);
        }
        object["status"] = status(&report.status)?;
    }
    Ok(object)
}

/// `Always` that nobody wrote is not shown: written, it would mean that a registry is asked (README, "Decisions"), and what
/// is shown is to run the same again.
fn omit_pull_policy(object: &mut Value, container: &str) {
    for list in ["initContainers", "containers"] {
        for found in object["spec"][list].as_array_mut().into_iter().flatten().filter(|c| c["name"] == container) {
            if let Some(fields) = found.as_object_mut() {
                fields.shift_remove("imagePullPolicy");
            }
        }
    }
}

fn status(status: &PodStatus) -> Result<Value> {
    serde_json::to_value(status).context("writing the status")
}
