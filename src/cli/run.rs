//! `podshim run`: everything that can go wrong is found before anything is made; what was made is undone if the rest fails.

use super::ensure;
use super::follow::{Waited, Watch};
use super::output;
use super::remove::{remove_pod, stop_pod};
use super::terminal::Interrupts;
use crate::cgroups;
use crate::error::{Kind, failure};
use crate::host::{self, HostFacts};
use crate::lifecycle::EventType;
use crate::lifecycle::status::Phase;
use crate::manifest::{self, AdmittedPod};
use crate::paths::Dirs;
use crate::plan::config::{NetworkMode, PodPlan, PullPolicy};
use crate::plan::pod::{Choices, pod_plan};
use crate::store::{self, Pod, Record, Report};
use crate::supervisor::{self, Supervising, events};
use crate::volumes;
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Manifests: files, directories, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Return when the pods run, and leave them running
    #[arg(short, long)]
    detach: bool,
    /// Keep the pods when they have ended (foreground)
    #[arg(long, conflicts_with = "detach")]
    keep: bool,
    /// When to ask a registry for images [default: what each container's imagePullPolicy says]
    #[arg(long, value_name = "POLICY")]
    pull: Option<Pull>,
    /// The pods' network: `none` (loopback only) or `ns:PATH`, an existing namespace
    #[arg(long, value_name = "MODE", default_value = "none", value_parser = network_mode)]
    network: NetworkMode,
    /// Parent of the pods' cgroups, in every hierarchy [default: the caller's delegated cgroup, else the root]
    #[arg(long, value_name = "CGROUP", env = "PODSHIM_CGROUP_PARENT")]
    cgroup_parent: Option<String>,
    /// Processes and threads that each container may have; -1 for no limit
    #[arg(long, value_name = "NUMBER", default_value_t = 2048, allow_negative_numbers = true)]
    pids_limit: i64,
    /// The host's resolver configuration that pods start from
    #[arg(long, value_name = "FILE")]
    resolv_conf: Option<PathBuf>,
    /// With -d: give up when the pods do not run after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "detach")]
    timeout: Option<u64>,
    /// Print times before log lines (foreground)
    #[arg(long)]
    timestamps: bool,
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

/// The policy of the word.
pub(super) fn pull_policy(pull: Pull) -> PullPolicy {
    match pull {
        Pull::Always => PullPolicy::Always,
        Pull::Missing => PullPolicy::IfNotPresent,
        Pull::Never => PullPolicy::Never,
    }
}

fn network_mode(text: &str) -> Result<NetworkMode, String> {
    match text.split_once(':') {
        None if text == "none" => Ok(NetworkMode::None),
        None if text == "host" => Ok(NetworkMode::Host),
        Some(("ns", path)) if path.starts_with('/') => Ok(NetworkMode::Path(path.into())),
        Some(("ns", _)) => Err("ns: takes an absolute path, like ns:/run/netns/NAME".into()),
        _ if text == "bridge" || text == "cni" => {
            Err(format!("{text} is not supported yet by podshim {}", env!("CARGO_PKG_VERSION")))
        }
        _ => Err("known are none, host and ns:PATH".into()),
    }
}

pub(super) fn run(args: RunArgs, dirs: &Dirs) -> Result<u8> {
    let admitted = admit(&args.files)?;
    let facts = host::probe()?;
    store::make_directories(dirs)?;
    supervisor::remove::sweep(dirs)?;
    let records =
        admitted.iter().map(|pod| prepare(pod, &args, Host { dirs, facts: &facts })).collect::<Result<Vec<_>>>()?;
    // From here on things are made: an interrupt must find us where we can undo them.
    let interrupts = Interrupts::catch()?;
    let mut started = Vec::new();
    for (pod, record) in admitted.iter().zip(&records) {
        match start(pod, record) {
            Ok(one) => started.push(one),
            Err(error) => {
                undo(started);
                return Err(error);
            }
        }
    }
    if args.detach {
        return detached(started, &args, &interrupts);
    }
    let timestamps = if args.timestamps { crate::logs::Timestamps::Shown } else { crate::logs::Timestamps::Hidden };
    let ended = super::attach::foreground(&started, &interrupts, timestamps);
    finish(started, ended, args.keep)
}

/// A pod that has its supervisor.
pub(super) struct Started {
    pub(super) pod: Pod,
    supervising: Supervising,
}

fn admit(files: &[String]) -> Result<Vec<AdmittedPod>> {
    let sources = manifest::read_sources(files)?;
    match manifest::admit(&sources) {
        Ok(pods) => {
            for pod in &pods {
                for note in pod.notes() {
                    anstream::eprintln!("podshim: note: {}: {}", pod.source(), output::escape(note));
                }
            }
            Ok(pods)
        }
        Err(diagnostics) => {
            let count = diagnostics.count();
            super::check::print(&diagnostics)?;
            let s = if count == 1 { "" } else { "s" };
            Err(failure(Kind::Invalid, format!("{count} error{s} in {}; nothing was started", files.join(", "))))
        }
    }
}

struct Host<'a> {
    dirs: &'a Dirs,
    facts: &'a HostFacts,
}

/// Plans a pod, has its images here, and checks its host paths. Nothing of the pod is made yet.
fn prepare(admitted: &AdmittedPod, args: &RunArgs, host: Host<'_>) -> Result<Record> {
    let uid = uuid()?;
    let metadata = &admitted.pod().metadata;
    let (name, namespace) =
        (metadata.name.as_deref().unwrap_or_default(), metadata.namespace.as_deref().unwrap_or("default"));
    let choices = Choices {
        network: args.network.clone(),
        cgroup_parent: cgroups::parent(&host.facts.cgroups, args.cgroup_parent.as_deref())?,
        resolv_conf: args.resolv_conf.clone(),
        log_directory: host.dirs.pod_logs(namespace, name, &uid),
        host_memory: host.facts.memory,
        pids_limit: (args.pids_limit > 0).then_some(args.pids_limit),
        pull: args.pull.map(pull_policy),
        uid,
    };
    let plan = pod_plan(admitted, choices).with_context(|| format!("pod {namespace}/{name}"))?;
    if host.dirs.name_link(namespace, name).exists() {
        // Told now rather than after a pull; `store::reserve` decides.
        return Err(store::already_exists(namespace, name));
    }
    for volume in &plan.volumes {
        volumes::check(volume)?;
    }
    let images = ensure_images(&plan, host.dirs)?;
    store::record(host.dirs, plan, images)
}

fn ensure_images(plan: &PodPlan, dirs: &Dirs) -> Result<Vec<crate::plan::config::ImageSpec>> {
    plan.containers
        .iter()
        .map(|container| {
            ensure::ensure(dirs, &container.image, container.pull_policy)
                .with_context(|| format!("container {}", container.name))
        })
        .collect()
}

/// A random (version 4) UUID, RFC 9562.
fn uuid() -> Result<String> {
    let text =
        std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("reading /proc/sys/kernel/random/uuid")?;
    Ok(text.trim().to_owned())
}

fn start(admitted: &AdmittedPod, record: &Record) -> Result<Started> {
    let manifest = serde_json::to_string(admitted.pod()).context("writing the manifest")?;
    let pod = store::reserve(record, &manifest)?;
    match supervisor::spawn(&pod) {
        Ok(supervising) => Ok(Started { pod, supervising }),
        Err(error) => {
            let error = error.context(format!("pod {}", pod.full_name()));
            Err(match remove_pod(&pod) {
                Ok(()) => error,
                Err(left) => error.context(format!("and then it could not be removed: {left:#}")),
            })
        }
    }
}

/// Stops and removes pods of this command because another one failed.
fn undo(started: Vec<Started>) {
    for one in started {
        if let Err(error) = end(one, Some(0)) {
            anstream::eprintln!("podshim: warning: {error:#}");
        }
    }
}

/// Ends and removes a pod.
fn end(started: Started, grace_seconds: Option<u64>) -> Result<()> {
    stop_pod(&started.pod, grace_seconds)?;
    started.supervising.wait()?;
    remove_pod(&started.pod)
}

/// How a pod in the foreground came to its end.
pub(super) enum Ended {
    /// By itself or by a stop.
    Over,
    /// By a signal to this command: its exit code.
    Interrupted(u8),
}

/// After the foreground: what the result is, and nothing left behind.
fn finish(started: Vec<Started>, ended: Result<Ended>, keep: bool) -> Result<u8> {
    let mut code = 0;
    let mut result = Ok(());
    for one in started {
        let report = one.pod.report();
        if let Ok(Some(report)) = &report
            && code == 0
        {
            code = one.pod.exit_code(&report.status);
        }
        if let Ok(Some(Report { failure: Some(first), .. })) = report {
            result = Err(failure(first.kind.into(), format!("pod {}: {}", one.pod.full_name(), first.message)));
        }
        if let Ok(report) = one.pod.report()
            && !report.is_some_and(|r| r.over)
            && matches!(ended, Ok(Ended::Over))
        {
            let log = std::fs::read_to_string(one.pod.dirs.supervisor_log()).unwrap_or_default();
            let message = format!("the supervisor of pod {} ended unexpectedly {}", one.pod.full_name(), log.trim());
            result = Err(failure(Kind::NotReady, message.trim().to_owned()));
        }
        // A pod whose first start failed is not kept: it never was.
        let kept = keep && result.is_ok();
        let put_away = if kept { stop_pod(&one.pod, None) } else { end(one, Some(0)) };
        if let Err(error) = put_away {
            anstream::eprintln!("podshim: {error:#}");
            code = code.max(125);
        }
    }
    match ended? {
        Ended::Interrupted(signal_code) => Ok(signal_code),
        Ended::Over => result.map(|()| code),
    }
}

/// `-d`: waits until each pod runs (or has ended well), tells its name, and leaves it.
fn detached(started: Vec<Started>, args: &RunArgs, interrupts: &Interrupts) -> Result<u8> {
    let timeout = args.timeout.map(Duration::from_secs);
    let mut waiting = started.into_iter();
    let mut running = Vec::new();
    while let Some(one) = waiting.next() {
        match until_running(&one.pod, timeout, interrupts) {
            Ok(()) => running.push(one),
            Err(error) => {
                running.push(one);
                running.extend(waiting);
                undo(running);
                return Err(error);
            }
        }
    }
    for one in running {
        println!("{}", one.pod.full_name());
    }
    Ok(0)
}

fn until_running(pod: &Pod, timeout: Option<Duration>, interrupts: &Interrupts) -> Result<()> {
    let watch = Watch::open(pod)?;
    let mut told = Warnings::of(pod);
    let waited = watch.until_or_interrupted(timeout, interrupts, |report| {
        told.print()?;
        if let Some(first) = &report.failure {
            return Err(failure(first.kind.into(), format!("pod {}: {}", pod.full_name(), first.message)));
        }
        Ok((report.status.phase != Phase::Pending).then_some(report.status.phase))
    })?;
    match waited {
        Waited::Found(Phase::Failed) => {
            let code = pod.report()?.map_or(1, |r| pod.exit_code(&r.status));
            Err(failure(Kind::NotReady, format!("pod {} failed, exit code {code}", pod.full_name())))
        }
        Waited::Found(_) => Ok(()),
        Waited::Gone => Err(failure(Kind::NotReady, format!("the supervisor of pod {} is gone", pod.full_name()))),
        Waited::TimedOut => Err(failure(
            Kind::NotReady,
            format!("pod {} does not run after the time given by --timeout", pod.full_name()),
        )),
    }
}

/// Tells of a pod's warnings as they come.
pub(super) struct Warnings<'a> {
    pod: &'a Pod,
    tail: events::Tail,
}

impl<'a> Warnings<'a> {
    /// From the pod's beginning on.
    pub(super) fn of(pod: &'a Pod) -> Warnings<'a> {
        Warnings { pod, tail: events::Tail::new(&pod.dirs) }
    }

    /// Prints the warnings that are new, on standard error.
    pub(super) fn print(&mut self) -> Result<()> {
        for entry in self.tail.read()?.iter().filter(|e| e.type_ == EventType::Warning) {
            anstream::eprintln!(
                "podshim: {} {}: {}: {}",
                self.pod.full_name(),
                entry.object,
                entry.reason,
                output::escape(&entry.message)
            );
        }
        Ok(())
    }
}
