//! `podshim plan`: what would be done for the pods of a manifest.

use super::bring_up::{self, BringUpArgs, Host, admit};
use super::ensure;
use super::output;
use crate::cgroups;
use crate::error::{Kind, failure, kind_of};
use crate::explain::script::{Ground, script};
use crate::explain::{Given, Planned, planned};
use crate::host;
use crate::image::Store;
use crate::manifest::AdmittedPod;
use crate::network;
use crate::paths::Dirs;
use crate::plan::config::{BridgeNetwork, ImageSpec, PodPlan, VolumeSource};
use anyhow::{Context, Result};
use clap::Args;
use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    bring_up: BringUpArgs,
    /// sh: a commented script that builds the pod by hand, and takes it down again; json
    #[arg(short = 'o', long, value_enum, default_value_t, value_name = "FORMAT")]
    output: PlanFormat,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum PlanFormat {
    #[default]
    Json,
    Sh,
}

/// A uid for those whose pods are not made.
const NO_UID: &str = "00000000-0000-4000-8000-000000000000";

pub(super) fn run(args: PlanArgs, dirs: &Dirs) -> Result<()> {
    let documents = admit(&args.bring_up)?;
    let facts = host::probe()?;
    let host = Host { dirs, facts: &facts };
    let one = |pod: &AdmittedPod| {
        plan(pod, &args.bring_up, host).with_context(|| format!("pod {}/{}", pod.namespace(), pod.name()))
    };
    let pods = documents.pods.iter().map(one).collect::<Result<Vec<_>>>()?;
    match args.output {
        PlanFormat::Json => output::structured(&pods, output::Structured::Json),
        PlanFormat::Sh => output::text(&by_hand(&pods, host)?),
    }
}

/// The script that builds a pod by hand.
fn by_hand(pods: &[Planned], host: Host<'_>) -> Result<String> {
    let [pod] = pods else {
        let message = format!("a script builds one pod, and there are {}: give a manifest with one", pods.len());
        return Err(failure(Kind::Invalid, message));
    };
    let sandbox = &pod.plan.sandbox;
    let what = || format!("pod {}/{}", sandbox.namespace, sandbox.name);
    let etc = network::files(sandbox, &pod.addresses)?;
    let volume_images = volume_images(&pod.plan, host.dirs)?;
    let cgroups = cgroups::of_spec(host.facts, &sandbox.cgroup.parent)?;
    let ground =
        Ground { facts: host.facts, dirs: host.dirs, cgroups: &cgroups, etc: &etc, volume_images: &volume_images };
    script(pod, ground).with_context(what)
}

fn plan(pod: &AdmittedPod, args: &BringUpArgs, host: Host<'_>) -> Result<Planned> {
    let plan = bring_up::plan(pod, args, host, NO_UID.to_owned())?;
    let images = plan.containers.iter().map(|c| image_here(&c.image, host.dirs)).collect::<Result<Vec<_>>>()?;
    let volume_images = volume_images(&plan, host.dirs)?;
    let addresses = addresses(&plan);
    let given = Given {
        dirs: host.dirs,
        facts: host.facts,
        images: &images,
        volume_images: &volume_images,
        addresses: &addresses,
    };
    planned(plan, given)
}

/// The image of this name, if it is here: none is pulled.
fn image_here(reference: &str, dirs: &Dirs) -> Result<Option<ImageSpec>> {
    if !dirs.images().exists() {
        return Ok(None);
    }
    match Store::open(dirs)?.resolve(reference) {
        Ok(image) => Ok(Some(ensure::spec(image))),
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn volume_images(plan: &PodPlan, dirs: &Dirs) -> Result<BTreeMap<String, ImageSpec>> {
    let mut found = BTreeMap::new();
    for volume in &plan.volumes {
        if let VolumeSource::Image { reference, .. } = &volume.source
            && let Some(image) = image_here(reference, dirs)?
        {
            found.insert(volume.name.clone(), image);
        }
    }
    Ok(found)
}

/// The first that the network has: when the pod is made, it gets one that nobody has.
fn addresses(plan: &PodPlan) -> Vec<IpAddr> {
    let first = |network: &BridgeNetwork| -> Vec<IpAddr> {
        network.pods.iter().filter_map(|subnet| subnet.nth(BridgeNetwork::FIRST_POD)).collect()
    };
    plan.sandbox.network.as_ref().map(first).unwrap_or_default()
}
