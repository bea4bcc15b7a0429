//! From manifests to pods that have their supervisors, for `run` and `apply`: everything that can go wrong is found before anything
//! is made; what was made is undone if the rest fails.

use super::capacity::Capacity;
use super::ensure;
use super::narrate;
use super::network_args::NetworkArgs;
use super::output;
use super::remove::{remove_pod, stop_pod};
use crate::cgroups;
use crate::error::{Kind, failure, say};
use crate::host::lsm::Lsms;
use crate::host::{self, HostFacts, Machine};
use crate::manifest::{self, AdmittedPod, CronJobs, Diagnostics, Documents, sysctl};
use crate::network::{self, objects};
use crate::paths::Dirs;
use crate::plan::config::{
    BridgeNetwork, ContainerConfig, DnsBase, NetworkMode, PodPlan, PodSandboxConfig, PullPolicy, SECCOMP_ROOT,
    SecurityChoices, SwapBehavior, VolumePlan, VolumeSource,
};
use crate::plan::pod::{Choices, Node, pod_plan};
use crate::plan::spec;
use crate::runtime;
use crate::store::{self, Images, Pod, Record, Written};
use crate::supervisor::{Standby, Supervising};
use crate::volumes;
use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::core::v1::Service;
use std::path::PathBuf;

/// What `run` and `apply` have in common.
#[derive(Debug, Args)]
pub(super) struct BringUpArgs {
    #[command(flatten)]
    pub(super) planning: PlanningArgs,
    /// When to ask a registry for images [default: what each container's imagePullPolicy says]
    #[arg(long, value_name = "POLICY")]
    pub(super) pull: Option<Pull>,
    /// Start pods though they request more than this host has left
    #[arg(long)]
    no_capacity_check: bool,
}

/// What decides how pods are planned: of `run`, `apply` and `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanningArgs {
    /// Manifests: files, directories, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<String>,
    /// Run the Job of each CronJob once, now
    #[arg(long)]
    now: bool,
    /// Another image for a container of the manifests, CONTAINER=IMAGE; can be given several times
    #[arg(long, value_name = "CONTAINER=IMAGE", value_parser = set_image)]
    set_image: Vec<(String, String)>,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
    /// Parent of the pods' cgroups, in every hierarchy [default: the delegated cgroup of the caller's unit, else the root]
    #[arg(long, value_name = "CGROUP", env = "PODSHIM_CGROUP_PARENT")]
    cgroup_parent: Option<String>,
    /// Processes and threads that each container may have; -1 for no limit
    #[arg(long, value_name = "NUMBER", default_value_t = 2048, allow_negative_numbers = true)]
    pids_limit: i64,
    /// Whether containers may be swapped out: not at all, or those that request less memory than their limit (cgroup v2)
    #[arg(long, value_name = "BEHAVIOR", default_value = "NoSwap")]
    swap_behavior: Swap,
    /// The host's resolver configuration that pods start from
    #[arg(long, value_name = "FILE")]
    resolv_conf: Option<PathBuf>,
    /// Where the files of seccomp profiles of type Localhost are
    #[arg(long, value_name = "DIRECTORY", default_value = SECCOMP_ROOT, value_parser = absolute)]
    seccomp_profile_root: PathBuf,
    /// Sysctls that pods may set though they can harm other pods: names, or beginnings of names followed by `*`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = sysctl_pattern)]
    allowed_unsafe_sysctls: Vec<String>,
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') { Ok(text.into()) } else { Err("write an absolute path".into()) }
}

fn sysctl_pattern(text: &str) -> Result<String, String> {
    sysctl::check_pattern(text).map(|()| text.to_owned())
}

/// `--pull`, in podman's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Pull {
    /// Ask the registry each time
    Always,
    /// Only for images that are not here
    Missing,
    /// Not at all
    Never,
}

/// `--swap-behavior`, in a kubelet's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Swap {
    /// Not at all
    #[value(name = "NoSwap")]
    NoSwap,
    /// A Burstable pod's containers that request less memory than their limit: their share of the host's swap
    #[value(name = "LimitedSwap")]
    LimitedSwap,
}

/// The policy of the word.
pub(super) fn pull_policy(pull: Pull) -> PullPolicy {
    match pull {
        Pull::Always => PullPolicy::Always,
        Pull::Missing => PullPolicy::IfNotPresent,
        Pull::Never => PullPolicy::Never,
    }
}

fn set_image(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((container, image)) if !container.is_empty() && !image.is_empty() => {
            crate::image::parse_reference(image).map_err(|error| format!("{error:#}"))?;
            Ok((container.to_owned(), image.to_owned()))
        }
        _ => Err("it takes CONTAINER=IMAGE".into()),
    }
}

/// A pod that has its supervisor.
pub(super) struct Started {
    pub(super) pod: Pod,
    pub(super) supervising: Supervising,
}

/// Reads and checks manifests; says what has no effect.
pub(super) fn admit(args: &PlanningArgs) -> Result<Documents> {
    let sources = manifest::read_sources(&args.files)?;
    let files = args.files.join(", ");
    let mut documents = manifest::documents(&sources, cron_jobs(args.now))
        .map_err(|diagnostics| faults(&diagnostics, &args.files, "nothing was started"))?;
    for (container, image) in &args.set_image {
        let set: Vec<bool> = documents.pods.iter_mut().map(|pod| pod.set_image(container, image)).collect();
        if !set.contains(&true) {
            let message = format!("--set-image {container}={image}: no pod of {files} has a container {container}");
            return Err(failure(Kind::Invalid, message));
        }
    }
    let note = |source: &str, text: &str| say!("podshim: note: {source}: {}", output::escape(text));
    documents.notes.iter().for_each(|n| note(&n.source, &n.text));
    for pod in &documents.pods {
        pod.notes().iter().for_each(|text| note(pod.source(), text));
    }
    if documents.pods.is_empty() && documents.owners.is_empty() && documents.network.is_empty() {
        let message = format!("there is nothing to run in {files}: no document makes a pod, or is about the network");
        return Err(failure(Kind::Invalid, message));
    }
    Ok(documents)
}

/// Prints what is wrong with manifests; the error that sums it up.
pub(super) fn faults(diagnostics: &Diagnostics, files: &[String], outcome: &str) -> anyhow::Error {
    let count = diagnostics.count();
    if let Err(error) = super::check::print(diagnostics) {
        return error;
    }
    let s = if count == 1 { "" } else { "s" };
    failure(Kind::Invalid, format!("{count} error{s} in {}; {outcome}", files.join(", ")))
}

/// `--now`
pub(super) fn cron_jobs(now: bool) -> CronJobs {
    if now { CronJobs::Now } else { CronJobs::Refused }
}

/// Where a pod is to be made.
#[derive(Clone, Copy)]
pub(super) struct Host<'a> {
    pub(super) dirs: &'a Dirs,
    pub(super) facts: &'a HostFacts,
}

/// What a pod may learn of its host.
fn node(dirs: &Dirs, machine: &Machine) -> Result<Node> {
    // `plan` comes before there is such a directory.
    let there = dirs.root.ancestors().find(|directory| directory.exists()).unwrap_or(&dirs.root);
    Ok(Node { name: machine.name.clone(), cpus: machine.cpus, storage: host::storage(there)? })
}

/// What was chosen once for a pod that runs: that stays, whatever is planned for it.
pub(super) fn choices_of(pod: &Pod, dirs: &Dirs, machine: &Machine) -> Result<Choices> {
    let PodPlan { sandbox, containers, swap, .. } = &pod.record.plan;
    Ok(Choices {
        uid: sandbox.uid.clone(),
        network: sandbox.namespaces.network.clone(),
        bridge: sandbox.network.clone(),
        cgroup_parent: sandbox.cgroup.parent.clone(),
        resolv_conf: match &sandbox.dns.base {
            DnsBase::File(file) => Some(file.clone()),
            DnsBase::Cluster { host_file, .. } => host_file.clone(),
            DnsBase::HostFile | DnsBase::Empty => None,
        },
        log_directory: sandbox.log_directory.clone(),
        host_memory: machine.memory,
        pids_limit: containers.first().and_then(|c| c.resources.pids_limit),
        swap: *swap,
        pull: None,
        security: SecurityChoices {
            seccomp_root: sandbox.seccomp_root.clone(),
            // Those that it has were allowed once; others cannot come to a pod that runs.
            unsafe_sysctls: sandbox.sysctls.iter().map(|sysctl| sysctl.key.clone()).collect(),
        },
        services: objects::services(&dirs.network())?,
        node: node(dirs, machine)?,
    })
}

impl BringUpArgs {
    /// Says if a delegated cgroup is not used.
    pub(super) fn note_cgroup(&self, host: Host<'_>) {
        let shared = cgroups::shared(&host.facts.cgroups).filter(|_| self.planning.cgroup_parent.is_none());
        if let Some(unit) = shared {
            say!(
                "podshim: note: cgroup {unit} is delegated, but holds other processes, so that pods cannot be in it: they are \
                 below the root (DelegateSubgroup= of systemd, or --cgroup-parent, helps)"
            );
        }
    }

    /// What the host has, if that is to be looked at.
    pub(super) fn capacity(&self, host: Host<'_>) -> Result<Capacity> {
        if self.no_capacity_check { Ok(Capacity::default()) } else { Capacity::of(host) }
    }
}

/// What a new pod is held against.
pub(super) struct Room<'a> {
    pub(super) capacity: &'a mut Capacity,
    /// The uid of the pod whose place it takes.
    pub(super) instead: Option<&'a str>,
}

/// Plans a new pod, finds room for it, has its images here, and checks its host paths. Nothing of the pod is made yet.
pub(super) fn prepare(admitted: &AdmittedPod, args: &BringUpArgs, host: Host<'_>, room: Room<'_>) -> Result<Record> {
    let of_pod = || format!("pod {}/{}", admitted.namespace(), admitted.name());
    let plan = plan(admitted, args, host, host::uuid()?)?;
    room.capacity.check(&plan, host, room.instead).with_context(of_pod)?;
    for volume in &plan.volumes {
        volumes::check(volume, host.dirs, &plan.sandbox.namespace)?;
    }
    check_confinement(&plan.sandbox, &plan.containers, host.facts.lsms)?;
    let images = ensure_images(&plan, host.dirs)?;
    store::record(host.dirs, plan, images)
}

/// Plans a new pod, with variables of the Services that there are now.
pub(super) fn plan(admitted: &AdmittedPod, args: &BringUpArgs, host: Host<'_>, uid: String) -> Result<PodPlan> {
    let chosen = Chosen { uid, pull: args.pull.map(pull_policy), around: Around::of(host.dirs)? };
    args.planning.plan(admitted, host, chosen)
}

/// What there is on the network, which a new pod's plan depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Around {
    network: Option<BridgeNetwork>,
    services: Vec<Service>,
}

impl Around {
    /// As it is now.
    pub(super) fn of(dirs: &Dirs) -> Result<Around> {
        Ok(Around { network: network::there(dirs)?, services: objects::services(&dirs.network())? })
    }
}

/// What is chosen for one pod.
pub(super) struct Chosen {
    /// Its uid.
    pub(super) uid: String,
    /// `--pull`
    pub(super) pull: Option<PullPolicy>,
    /// What there is beside it.
    pub(super) around: Around,
}

impl PlanningArgs {
    /// Plans a new pod.
    pub(super) fn plan(&self, admitted: &AdmittedPod, host: Host<'_>, chosen: Chosen) -> Result<PodPlan> {
        let (name, namespace) = (admitted.name(), admitted.namespace());
        let network = self.network.mode_of(admitted)?;
        let Chosen { uid, pull, around } = chosen;
        let choices = Choices {
            bridge: (network == NetworkMode::Bridge).then(|| self.network.bridge(around.network)).transpose()?,
            network,
            cgroup_parent: cgroups::parent(&host.facts.cgroups, self.cgroup_parent.as_deref())?,
            resolv_conf: self.resolv_conf.clone(),
            log_directory: host.dirs.pod_logs(namespace, name, &uid),
            host_memory: host.facts.memory,
            pids_limit: (self.pids_limit > 0).then_some(self.pids_limit),
            swap: match self.swap_behavior {
                Swap::NoSwap => SwapBehavior::NoSwap,
                Swap::LimitedSwap => SwapBehavior::LimitedSwap { host_swap: host.facts.swap },
            },
            pull,
            node: node(host.dirs, &host.facts.machine())?,
            security: SecurityChoices {
                seccomp_root: self.seccomp_profile_root.clone(),
                unsafe_sysctls: self.allowed_unsafe_sysctls.clone(),
            },
            uid,
            services: around.services,
        };
        pod_plan(admitted, choices).with_context(|| format!("pod {namespace}/{name}"))
    }
}

/// Checks that every container can be confined as its manifest says, and says what has no effect on this host.
pub(super) fn check_confinement(sandbox: &PodSandboxConfig, containers: &[ContainerConfig], lsms: Lsms) -> Result<()> {
    let mut needs_default = false;
    for container in containers {
        let context = || format!("container {}", container.name);
        runtime::seccomp::of_host(sandbox, &container.security).with_context(context)?;
        let profile = spec::apparmor(&container.security, lsms).with_context(context)?;
        needs_default |= profile.as_deref() == Some(spec::APPARMOR_DEFAULT);
    }
    if needs_default {
        runtime::apparmor::ensure_default()?;
    }
    if !lsms.selinux && containers.iter().any(|c| c.security.selinux.is_some()) {
        // As every CRI runtime does.
        say!("podshim: note: seLinuxOptions has no effect: SELinux is not enabled on this host");
    }
    Ok(())
}

/// The images of containers and volumes, pulled where their policies say so.
pub(super) fn ensure_images(plan: &PodPlan, dirs: &Dirs) -> Result<Images> {
    let container = |c: &ContainerConfig| {
        ensure::ensure(dirs, &c.image, c.pull_policy, &plan.logins).with_context(|| format!("container {}", c.name))
    };
    let volume = |volume: &VolumePlan| match &volume.source {
        VolumeSource::Image { reference, pull_policy, .. } => {
            let image = ensure::ensure(dirs, reference, *pull_policy, &plan.logins);
            Some(image.map(|i| (volume.name.clone(), i)).with_context(|| format!("volume {}", volume.name)))
        }
        _ => None,
    };
    Ok(Images {
        containers: plan.containers.iter().map(container).collect::<Result<_>>()?,
        volumes: plan.volumes.iter().filter_map(volume).collect::<Result<_>>()?,
    })
}

/// What is kept of a pod's documents.
pub(super) fn written(admitted: &AdmittedPod) -> Result<Written> {
    let pod = admitted.pod();
    Ok(Written {
        manifest: serde_json::to_string(pod).context("writing the manifest")?,
        objects: serde_json::to_string(&admitted.objects().used_by(pod)).context("writing its objects")?,
    })
}

/// Reserves the pod's name and starts its supervisor.
pub(super) fn start(admitted: &AdmittedPod, record: &Record, capacity: &Capacity) -> Result<Started> {
    let parent = &record.plan.sandbox.cgroup.parent;
    if !parent.is_empty() {
        cgroups::make_room(&host::cgroup::detect()?, parent)?;
    }
    let written = written(admitted)?;
    let supervisor = Standby::begin(&record.dirs.pod(&record.plan.sandbox.uid))?;
    let reserved = store::reserve(record, &written, capacity.has())?;
    match supervisor.set_up(&reserved) {
        Ok(supervising) => Ok(Started { pod: reserved.pod, supervising }),
        Err(error) => {
            let pod = reserved.pod;
            let error = error.context(format!("pod {}", pod.full_name()));
            // That it cannot be told is no reason to leave it.
            let _ = narrate::tell_failed(&pod);
            Err(match remove_pod(&pod) {
                Ok(()) => error,
                Err(left) => error.context(format!("and then it could not be removed: {left:#}")),
            })
        }
    }
}

/// Stops and removes pods of this command because another one failed.
pub(super) fn undo(started: Vec<Started>) {
    for one in started {
        if let Err(error) = end(one, Some(0)) {
            say!("podshim: warning: {error:#}");
        }
    }
}

/// Ends and removes a pod.
pub(super) fn end(started: Started, grace_seconds: Option<u64>) -> Result<()> {
    stop_pod(&started.pod, grace_seconds)?;
    started.supervising.wait()?;
    remove_pod(&started.pod)
}
