//! `podshim ps`: kubectl's `get pods`.

use super::inspect;
use super::labels::Selector;
use super::output::{self, Structured};
use super::recover;
use crate::error::say;
use crate::lifecycle::display::{self, PodView};
use crate::lifecycle::status::Time;
use crate::paths::Dirs;
use crate::plan::config::ContainerKind;
use crate::store::{self, Pod};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Those of the verb `ps`.
#[derive(Debug, Args)]
pub(super) struct AllArgs {
    #[command(flatten)]
    list: PsArgs,
    /// Those that have ended as well (they are always shown)
    #[arg(short, long)]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// Only of this namespace
    #[arg(short, long)]
    pub(super) namespace: Option<String>,
    /// Of all namespaces (the default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(super) all_namespaces: bool,
    /// Only those with such labels, like app=web,tier!=back
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(super) selector: Option<Selector>,
    /// Output format: wide, yaml, json or name
    #[arg(short, long, value_name = "FORMAT")]
    pub(super) output: Option<Format>,
    /// Only print the names
    #[arg(short, long, conflicts_with = "output")]
    pub(super) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Wide,
    Yaml,
    Json,
    Name,
}

impl PsArgs {
    pub(super) fn structured(&self) -> Option<Structured> {
        match self.output {
            Some(Format::Yaml) => Some(Structured::Yaml),
            Some(Format::Json) => Some(Structured::Json),
            _ => None,
        }
    }

    pub(super) fn only_names(&self) -> bool {
        self.quiet || self.output == Some(Format::Name)
    }

    pub(super) fn is_wide(&self) -> bool {
        self.output == Some(Format::Wide)
    }

    /// Whether something of this namespace with these labels is asked for.
    pub(super) fn asks_for(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
            && self.selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }
}

pub(super) fn run(AllArgs { list, all: _ }: AllArgs, dirs: &Dirs) -> Result<()> {
    show(&list, &chosen(&list, &[], dirs)?)
}

/// Shows pods, and then sees to them: what was seen comes first, that a supervisor is gone, too.
pub(super) fn show(args: &PsArgs, pods: &[Pod]) -> Result<()> {
    let shown = print(args, pods);
    pods.iter().for_each(recover::see_to);
    shown
}

fn print(args: &PsArgs, pods: &[Pod]) -> Result<()> {
    if let Some(how) = args.structured() {
        return output::structured(&list(objects(pods)), how);
    }
    if args.only_names() {
        return names(pods);
    }
    table(pods, args.is_wide())
}

/// The pods of these names, or all, as far as they are asked for.
pub(super) fn chosen(args: &PsArgs, names: &[String], dirs: &Dirs) -> Result<Vec<Pod>> {
    let mut pods = if names.is_empty() {
        let (pods, broken) = store::list(dirs)?;
        for one in broken {
            warn(&one.explain());
        }
        pods
    } else {
        let full = |name: &String| match &args.namespace {
            Some(namespace) if !name.contains('/') => format!("{namespace}/{name}"),
            _ => name.clone(),
        };
        names.iter().map(|name| store::find(dirs, &full(name))).collect::<Result<Vec<_>>>()?
    };
    pods.retain(|pod| args.asks_for(&pod.record.plan.sandbox.namespace, &pod.record.plan.sandbox.labels));
    Ok(pods)
}

/// The pods as objects; one that is damaged is warned of.
pub(super) fn objects(pods: &[Pod]) -> Vec<Value> {
    pods.iter().filter_map(|pod| inspect::object(pod).inspect_err(warn).ok()).collect()
}

/// Objects in a List.
pub(super) fn list(items: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

fn names(pods: &[Pod]) -> Result<()> {
    pods.iter().try_for_each(|pod| output::line(pod.full_name()))
}

fn table(pods: &[Pod], wide: bool) -> Result<()> {
    if pods.is_empty() {
        say!("No pods found.");
        return Ok(());
    }
    let mut head = vec!["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    if wide {
        head.extend(["IP", "UID"]);
    }
    let rows = pods.iter().map(|pod| row(pod, wide)).collect::<Result<Vec<_>>>()?;
    output::table(&head, &rows)
}

/// Seconds since the epoch.
pub(super) fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time(since.as_secs() as i64)
}

pub(super) fn warn(error: &anyhow::Error) {
    say!("podshim: warning: {}", output::escape(&format!("{error:#}")));
}

fn row(pod: &Pod, wide: bool) -> Result<Vec<String>> {
    let sandbox = &pod.record.plan.sandbox;
    let mut row = vec![sandbox.namespace.clone(), sandbox.name.clone()];
    // One pod's damaged report says nothing of the others.
    let report = pod.report().unwrap_or_else(|error| {
        warn(&error.context(format!("pod {}", pod.full_name())));
        None
    });
    let sidecars = pod.sidecars();
    match &report {
        Some(report) => {
            let view = PodView { status: &report.status, sidecars: &sidecars, deletion: report.deletion, now: now() };
            let columns = display::columns(view);
            let lost = pod.is_unsupervised()?;
            // What the last report says is not so any more when nobody watches.
            row.extend([columns.ready, if lost { "SupervisorGone".into() } else { columns.status }, columns.restarts]);
        }
        None => {
            let counts = |kind| matches!(kind, ContainerKind::App | ContainerKind::Sidecar);
            let total = pod.record.plan.containers.iter().filter(|c| counts(c.kind)).count();
            row.extend([format!("0/{total}"), "Pending".into(), "0".into()]);
        }
    }
    row.push(display::age(pod.record.created, now()));
    if wide {
        let ip = report.and_then(|r| r.status.pod_ip).unwrap_or_else(|| "<none>".into());
        row.extend([ip, sandbox.uid.clone()]);
    }
    Ok(row)
}
