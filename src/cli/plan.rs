//! `podshim plan`: what would be done for the pods of a manifest. Nothing is made or changed, and it needs no root: without,
//! what podshim keeps for root alone (images, the network) is not looked at, and a note says so.

use super::bring_up::{Around, Chosen, Host, PlanningArgs, admit};
use super::ensure;
use super::output::{self, Structured};
use crate::cgroups;
use crate::error::{Kind, failure, say};
use crate::explain::script::{Ground, script};
use crate::explain::{Given, Planned, bundles, planned, tree};
use crate::host::{self, HostFacts};
use crate::image::Store;
use crate::manifest::{AdmittedPod, Documents, NetworkObject};
use crate::network;
use crate::paths::{Dirs, PodDirs};
use crate::plan::config::{BridgeNetwork, ImageSpec, NetworkMode, PodPlan, VolumeSource};
use crate::sys::Called;
use anyhow::{Context, Result};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    planning: PlanningArgs,
    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "tree")]
    output: Format,
    /// Where -o oci writes: a directory that is empty, or does not exist
    #[arg(long, value_name = "DIRECTORY", required_if_eq("output", "oci"))]
    to: Option<PathBuf>,
}

/// `--output`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A tree, for people
    Tree,
    /// A JSON list, one entry for each pod
    Json,
    /// The same as YAML
    Yaml,
    /// A commented script that builds the pod by hand and takes it down again; of one pod, whose images are here
    Sh,
    /// OCI bundles, which other runtimes run, with a script that makes what they share: to the directory --to, as root
    Oci,
}

/// A uid for those whose pods are not made.
const NO_UID: &str = "00000000-0000-4000-8000-000000000000";

pub(super) fn run(args: PlanArgs, dirs: &Dirs) -> Result<()> {
    let documents = admit(&args.planning)?;
    let facts = host::probe()?;
    let planner = Planner::new(Host { dirs, facts: &facts })?;
    if let Some(to) = &args.to {
        if args.output != Format::Oci {
            return Err(failure(Kind::Invalid, "--to goes with -o oci"));
        }
        return write_bundles(&documents, &planner, (&args.planning, to));
    }
    let site = Site { uid: NO_UID.to_owned(), pod: dirs.pod(NO_UID) };
    let one = |admitted: &AdmittedPod| planner.plan(admitted, &args.planning, &site);
    let pods = documents.pods.iter().map(one).collect::<Result<Vec<_>>>()?;
    planner.notes(&documents, &pods);
    match args.output {
        Format::Tree => print_trees(&pods, &facts),
        Format::Json => output::structured(&pods, Structured::Json),
        Format::Yaml => output::structured(&pods, Structured::Yaml),
        Format::Sh => output::text(&planner.script(&pods)?),
        // It has --to, or clap has refused it.
        Format::Oci => Ok(()),
    }
}

/// `-o oci`
fn write_bundles(documents: &Documents, planner: &Planner<'_>, (args, to): (&PlanningArgs, &Path)) -> Result<()> {
    if !planner.is_root {
        return Err(failure(Kind::Forbidden, "-o oci takes root: bundles are made of images, which are root's"));
    }
    let [admitted] = &documents.pods[..] else {
        let message = format!("-o oci writes one pod, and the manifests have {}", documents.pods.len());
        return Err(failure(Kind::Invalid, message));
    };
    let to = std::path::absolute(to).called("getcwd", to.display())?;
    let site = Site { uid: host::uuid()?, pod: bundles::pod_dirs(&to) };
    let planned = planner.plan(admitted, args, &site)?;
    bundles::write(&planned, planner.host.dirs, &to)
        .with_context(|| format!("pod {}/{}", admitted.namespace(), admitted.name()))?;
    let containers: Vec<&str> = planned.containers.iter().map(|container| &*container.name).collect();
    output::line(format_args!("{}: sandbox.sh, and the bundles of {}", to.display(), containers.join(", ")))
}

/// Coloured on terminals.
fn print_trees(pods: &[Planned], facts: &HostFacts) -> Result<()> {
    for (index, pod) in pods.iter().enumerate() {
        let apart = if index > 0 { "\n" } else { "" };
        output::coloured(&format!("{apart}{}", tree::tree(pod, facts)?))?;
    }
    Ok(())
}

/// Which pod a plan is of, and where that would be.
struct Site {
    uid: String,
    pod: PodDirs,
}

/// What plans are made from, looked at once.
struct Planner<'a> {
    host: Host<'a>,
    /// Whether the caller is root, and so may look at what podshim keeps.
    is_root: bool,
    around: Around,
    host_addresses: Vec<IpAddr>,
}

impl<'a> Planner<'a> {
    fn new(host: Host<'a>) -> Result<Planner<'a>> {
        let is_root = nix::unistd::geteuid().is_root();
        let around = if is_root { Around::of(host.dirs)? } else { Around::default() };
        Ok(Planner { host, is_root, around, host_addresses: network::addresses()? })
    }

    fn plan(&self, admitted: &AdmittedPod, args: &PlanningArgs, site: &Site) -> Result<Planned> {
        let chosen = Chosen { uid: site.uid.clone(), pull: None, around: self.around.clone() };
        let plan = args.plan(admitted, self.host, chosen)?;
        let images = plan.containers.iter().map(|c| self.image(&c.image)).collect::<Result<Vec<_>>>()?;
        let volume_images = self.volume_images(&plan)?;
        let given = Given {
            dirs: self.host.dirs,
            pod: &site.pod,
            facts: self.host.facts,
            images: &images,
            volume_images: &volume_images,
            addresses: &addresses(&plan),
            host_addresses: &self.host_addresses,
        };
        planned(plan, given).with_context(|| format!("pod {}/{}", admitted.namespace(), admitted.name()))
    }

    /// The script that builds a pod by hand.
    fn script(&self, pods: &[Planned]) -> Result<String> {
        let [pod] = pods else {
            let message = format!("-o sh writes one pod, and the manifests have {}", pods.len());
            return Err(failure(Kind::Invalid, message));
        };
        if !self.is_root {
            return Err(failure(
                Kind::Invalid,
                "a script is made of unpacked images, which only root can read: use sudo",
            ));
        }
        let sandbox = &pod.plan.sandbox;
        let cgroups = cgroups::of_spec(self.host.facts, &sandbox.cgroup.parent)?;
        let etc = network::files(sandbox, &pod.addresses)?;
        let volume_images = self.volume_images(&pod.plan)?;
        let ground = Ground { facts: self.host.facts, cgroups: &cgroups, etc: &etc, volume_images: &volume_images };
        script(pod, ground).with_context(|| format!("pod {}/{}", sandbox.namespace, sandbox.name))
    }

    /// The image of this name, if it is here: none is pulled.
    fn image(&self, reference: &str) -> Result<Option<ImageSpec>> {
        if !self.is_root {
            return Ok(None);
        }
        Ok(Store::look(self.host.dirs, reference)?.map(ensure::spec))
    }

    fn volume_images(&self, plan: &PodPlan) -> Result<BTreeMap<String, ImageSpec>> {
        let mut found = BTreeMap::new();
        for (name, reference) in volume_images(plan) {
            if let Some(image) = self.image(reference)? {
                found.insert(name.to_owned(), image);
            }
        }
        Ok(found)
    }

    /// Says what the plans do not show.
    fn notes(&self, documents: &Documents, pods: &[Planned]) {
        let note = |text: &str| say!("podshim: note: {}", output::escape(text));
        if documents.pods.is_empty() {
            note("no document makes a pod: there is nothing to plan");
        }
        if !self.is_root && !documents.pods.is_empty() {
            note(
                "without root, podshim's images and network cannot be read: this is what the manifest alone says (of images, \
                 no command, user and variables)",
            );
        }
        let missing: BTreeSet<&str> =
            pods.iter().flat_map(|pod| &pod.containers).filter(|c| c.image.is_none()).map(|c| &*c.reference).collect();
        for image in missing.iter().filter(|_| self.is_root) {
            note(&format!(
                "image {image} is not here: what it says of command, user and variables is not shown (`podshim image pull {image}`)"
            ));
        }
        if documents.network.iter().any(|document| matches!(document.object, NetworkObject::Service(_))) {
            note("Services of the manifest get their addresses when they are made: variables with them are not shown");
        }
    }
}

fn volume_images(plan: &PodPlan) -> impl Iterator<Item = (&str, &str)> {
    plan.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Image { reference, .. } => Some((&*volume.name, &**reference)),
        _ => None,
    })
}

/// The first that the network has: when the pod is made, it gets one that nobody has.
fn addresses(plan: &PodPlan) -> Vec<IpAddr> {
    let first = |network: &BridgeNetwork| -> Vec<IpAddr> {
        network.pods.iter().filter_map(|subnet| subnet.nth(BridgeNetwork::FIRST_POD)).collect()
    };
    let network = plan.sandbox.network.as_ref().filter(|_| plan.sandbox.namespaces.network == NetworkMode::Bridge);
    network.map(first).unwrap_or_default()
}
