//! `podshim ps`: kubectl's `get pods`.

use super::inspect;
use super::output::{self, Structured};
use crate::lifecycle::display::{self, PodView};
use crate::lifecycle::status::Time;
use crate::paths::Dirs;
use crate::plan::config::ContainerKind;
use crate::store::{self, Pod};
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// Only pods of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Pods of all namespaces (the default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Output format: wide, yaml, json or name
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// Only print the pods' names
    #[arg(short, long, conflicts_with = "output")]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Wide,
    Yaml,
    Json,
    Name,
}

/// `kubectl get pods` takes the word too.
pub(super) fn run(args: PsArgs, dirs: &Dirs) -> Result<()> {
    let (mut pods, broken) = store::list(dirs)?;
    for one in broken {
        warn(&one.explain());
    }
    if let Some(namespace) = &args.namespace {
        pods.retain(|pod| pod.record.plan.sandbox.namespace == *namespace);
    }
    let structured = match args.output {
        Some(Format::Yaml) => Some(Structured::Yaml),
        Some(Format::Json) => Some(Structured::Json),
        _ => None,
    };
    if let Some(how) = structured {
        let shown = |pod: &Pod| inspect::object(pod).inspect_err(warn).ok();
        let items: Vec<_> = pods.iter().filter_map(shown).collect();
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items });
        return output::structured(&list, how);
    }
    if args.quiet || args.output == Some(Format::Name) {
        for pod in &pods {
            println!("{}", pod.full_name());
        }
        return Ok(());
    }
    if pods.is_empty() {
        anstream::eprintln!("No pods found.");
        return Ok(());
    }
    let wide = args.output == Some(Format::Wide);
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

fn warn(error: &anyhow::Error) {
    anstream::eprintln!("podshim: warning: {}", output::escape(&format!("{error:#}")));
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
