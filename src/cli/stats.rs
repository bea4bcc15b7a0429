//! `podshim stats` and `podshim top`: what pods and their containers use, from the kernel's own counters.
//!
//! The supervisors are not asked for it: cgroups are named after the pods' uids.

use super::output::{self, Structured};
use super::recover;
use super::wait::duration;
use crate::cgroups::{Cgroup, Stats};
use crate::error::say;
use crate::host::cgroup::{self, CgroupSetup};
use crate::paths::Dirs;
use crate::store::{self, Pod};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Which pods, and how often.
#[derive(Debug, Args)]
struct Which {
    /// Only pods of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Pods of all namespaces (the default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Time over which the use of CPUs is measured (1, 500ms, 5s)
    #[arg(short, long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    interval: Duration,
}

#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid [default: all pods]
    #[arg(value_name = "POD")]
    pods: Vec<String>,
    /// Print once, and not again and again
    #[arg(long)]
    no_stream: bool,
    #[command(flatten)]
    which: Which,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Structured>,
}

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid [default: all pods]; the word `pod` may stand before it
    #[arg(value_name = "POD")]
    pods: Vec<String>,
    /// A row for each container
    #[arg(long)]
    containers: bool,
    /// Largest first
    #[arg(long, value_name = "COLUMN")]
    sort_by: Option<SortBy>,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SortBy {
    Cpu,
    Memory,
}

/// The shortest interval that tells something.
const SHORTEST: Duration = Duration::from_millis(10);

fn interval(text: &str) -> Result<Duration, String> {
    let milliseconds = text.strip_suffix("ms").and_then(|number| number.parse().ok()).map(Duration::from_millis);
    let interval = milliseconds.map_or_else(|| duration(text), Ok)?;
    if interval < SHORTEST { Err(format!("less than {SHORTEST:?}")) } else { Ok(interval) }
}

/// What is measured: a container, or with an empty name the pod as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Of {
    namespace: String,
    pod: String,
    container: String,
}

/// The counters of one moment.
struct Sample {
    at: Instant,
    stats: BTreeMap<Of, (Stats, Option<u64>)>,
}

/// What somebody used between two moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Use {
    namespace: String,
    pod: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    container: String,
    /// Thousandths of a CPU; `None` without the controller.
    cpu_millicores: Option<u64>,
    /// The working set: without the part of the page cache that can be dropped at once.
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pids: Option<u64>,
}

pub(super) fn stats(args: StatsArgs, dirs: &Dirs) -> Result<()> {
    let setup = cgroup::detect()?;
    args.which.see_to(&args.pods, dirs)?;
    let look = || sample(&setup, &args.which.pods(&args.pods, dirs)?, Rows::Containers);
    let mut before = look()?;
    loop {
        std::thread::sleep(args.which.interval);
        let now = look()?;
        print(&uses(&before, &now), &args)?;
        if args.no_stream {
            return Ok(());
        }
        before = now;
    }
}

fn print(uses: &[Use], args: &StatsArgs) -> Result<()> {
    match args.output {
        Some(how) if args.no_stream => return output::structured(&uses, how),
        // One line each time, so that a reader knows when it has one.
        Some(Structured::Json) => return output::line(serde_json::to_string(&uses)?),
        Some(Structured::Yaml) => {
            output::line("---")?;
            return output::structured(&uses, Structured::Yaml);
        }
        None => {}
    }
    if !args.no_stream && std::io::stdout().is_terminal() {
        // To the upper left corner, and everything below it away.
        output::text("\x1b[H\x1b[2J")?;
    }
    let percent = |used: &Use| match (used.memory_bytes, used.memory_limit_bytes) {
        (Some(bytes), Some(limit)) if limit > 0 => format!("{:.1}%", bytes as f64 * 100.0 / limit as f64),
        _ => "-".to_owned(),
    };
    let rows: Vec<Vec<String>> = uses
        .iter()
        .map(|used| {
            let Use { namespace, pod, container, .. } = used.clone();
            let limit = mebibytes(used.memory_limit_bytes);
            let pids = used.pids.map_or_else(|| "-".to_owned(), |pids| pids.to_string());
            let (cpu, memory) = (millicores(used.cpu_millicores), mebibytes(used.memory_bytes));
            vec![namespace, pod, container, cpu, memory, limit, percent(used), pids]
        })
        .collect();
    output::table(&["NAMESPACE", "POD", "CONTAINER", "CPU(cores)", "MEMORY(bytes)", "LIMIT", "MEM%", "PIDS"], &rows)
}

pub(super) fn top(mut args: TopArgs, dirs: &Dirs) -> Result<()> {
    // kubectl's own words.
    if args.pods.first().is_some_and(|word| matches!(word.as_str(), "pod" | "pods" | "po")) {
        args.pods.remove(0);
    }
    let setup = cgroup::detect()?;
    let rows = if args.containers { Rows::Containers } else { Rows::Pods };
    args.which.see_to(&args.pods, dirs)?;
    let before = sample(&setup, &args.which.pods(&args.pods, dirs)?, rows)?;
    std::thread::sleep(args.which.interval);
    let now = sample(&setup, &args.which.pods(&args.pods, dirs)?, rows)?;
    let mut uses = uses(&before, &now);
    if uses.is_empty() {
        say!("No running pods found.");
        return Ok(());
    }
    match args.sort_by {
        Some(SortBy::Cpu) => uses.sort_by_key(|used| std::cmp::Reverse(used.cpu_millicores)),
        Some(SortBy::Memory) => uses.sort_by_key(|used| std::cmp::Reverse(used.memory_bytes)),
        None => {}
    }
    let row = |used: Use| {
        let (cpu, memory) = (millicores(used.cpu_millicores), mebibytes(used.memory_bytes));
        match rows {
            Rows::Containers => vec![used.namespace, used.pod, used.container, cpu, memory],
            Rows::Pods => vec![used.namespace, used.pod, cpu, memory],
        }
    };
    let head: &[&str] = match rows {
        Rows::Containers => &["NAMESPACE", "POD", "NAME", "CPU(cores)", "MEMORY(bytes)"],
        Rows::Pods => &["NAMESPACE", "NAME", "CPU(cores)", "MEMORY(bytes)"],
    };
    output::table(head, &uses.into_iter().map(row).collect::<Vec<_>>())
}

impl Which {
    /// The pods that are named, or all.
    fn pods(&self, names: &[String], dirs: &Dirs) -> Result<Vec<Pod>> {
        let mut pods = match names {
            [] => store::list(dirs)?.0,
            names => names.iter().map(|name| store::find(dirs, name)).collect::<Result<_>>()?,
        };
        pods.retain(|pod| self.namespace.as_ref().is_none_or(|wanted| *wanted == pod.record.plan.sandbox.namespace));
        Ok(pods)
    }

    /// Once, before the first look: what cannot be recovered is not tried again at each.
    fn see_to(&self, names: &[String], dirs: &Dirs) -> Result<()> {
        self.pods(names, dirs)?.iter().for_each(recover::see_to);
        Ok(())
    }
}

/// What there is a row for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    Pods,
    Containers,
}

fn sample(setup: &CgroupSetup, pods: &[Pod], rows: Rows) -> Result<Sample> {
    let mut stats = BTreeMap::new();
    for pod in pods {
        let plan = &pod.record.plan;
        let of = |container: &str| Of {
            namespace: plan.sandbox.namespace.clone(),
            pod: plan.sandbox.name.clone(),
            container: container.to_owned(),
        };
        let limit = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let of_pod = limit(plan.sandbox.resources.memory_limit);
        let wanted: Vec<(Of, Option<u64>)> = match rows {
            Rows::Pods => vec![(of(""), of_pod)],
            Rows::Containers => {
                let limited = |own| limit(own).or(of_pod);
                plan.containers.iter().map(|c| (of(&c.name), limited(c.resources.memory_limit))).collect()
            }
        };
        for (of, limit) in wanted {
            let path = &plan.sandbox.cgroup;
            let name =
                if of.container.is_empty() { path.pod.clone() } else { format!("{}/{}", path.pod, of.container) };
            let cgroup = Cgroup::at(setup, &path.parent, &name)?;
            if let Some(found) = read(&cgroup)? {
                stats.insert(of, (found, limit));
            }
        }
    }
    Ok(Sample { at: Instant::now(), stats })
}

/// `None` for what does not run, also if it ended while it was being read.
fn read(cgroup: &Cgroup) -> Result<Option<Stats>> {
    let exists = || cgroup.dirs().iter().all(|dir| dir.exists());
    if !exists() {
        return Ok(None);
    }
    match cgroup.stats() {
        Err(_) if !exists() => Ok(None),
        stats => stats.map(Some),
    }
}

/// What was used between two moments by what runs at the second.
fn uses(before: &Sample, now: &Sample) -> Vec<Use> {
    let micros = now.at.duration_since(before.at).as_micros().max(1);
    let cpu = |of: &Of, stats: &Stats| {
        let used = stats.cpu_usage_usec?;
        let earlier = before.stats.get(of).and_then(|(stats, _)| stats.cpu_usage_usec);
        // Less than before is another instance, all of whose use is of this time.
        let since = earlier.and_then(|earlier| used.checked_sub(earlier)).unwrap_or(used);
        u64::try_from(u128::from(since) * 1000 / micros).ok()
    };
    let one = |(of, (stats, limit)): (&Of, &(Stats, Option<u64>))| Use {
        namespace: of.namespace.clone(),
        pod: of.pod.clone(),
        container: of.container.clone(),
        cpu_millicores: cpu(of, stats),
        memory_bytes: stats.memory_working_set,
        memory_limit_bytes: *limit,
        pids: stats.pids,
    };
    now.stats.iter().map(one).collect()
}

/// As kubectl shows them.
fn millicores(cpu: Option<u64>) -> String {
    cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu}m"))
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{}Mi", bytes >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_what_was_added_in_the_time() {
        let of = |container: &str| Of { namespace: "n".into(), pod: "p".into(), container: container.into() };
        let of_cpu = |usec| (Stats { cpu_usage_usec: Some(usec), ..Stats::default() }, None);
        let at = Instant::now();
        let before = Sample { at, stats: [(of("a"), of_cpu(1_000_000)), (of("gone"), of_cpu(5))].into() };
        let now = Sample {
            at: at + Duration::from_secs(2),
            stats: [
                (of("a"), of_cpu(2_000_000)),
                (of("new"), of_cpu(200_000)),
                (of("none"), (Stats::default(), Some(7))),
            ]
            .into(),
        };
        let found: Vec<_> =
            uses(&before, &now).into_iter().map(|u| (u.container, u.cpu_millicores, u.memory_limit_bytes)).collect();
        let expected = [("a", Some(500), None), ("new", Some(100), None), ("none", None, Some(7))];
        assert_eq!(found, expected.map(|(name, cpu, limit)| (name.to_owned(), cpu, limit)));
        let again = Sample { at: at + Duration::from_secs(3), stats: [(of("a"), of_cpu(500_000))].into() };
        assert_eq!(uses(&now, &again)[0].cpu_millicores, Some(500), "another instance of the same name");
    }

    #[test]
    fn intervals() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("2"), Ok(Duration::from_secs(2)));
        assert!(interval("0").is_err() && interval("1ms").is_err() && interval("x").is_err());
    }
}
