//! `podshim events`: what happened to pods, in the kubelet's words.

use super::follow::Watch;
use super::output;
use super::ps::now;
use crate::error::kind_of;
use crate::lifecycle::display;
use crate::paths::Dirs;
use crate::store::{self, Pod};
use crate::supervisor::events::{self, Entry};
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid [default: all pods]
    #[arg(value_name = "POD", required_if_eq("watch", "true"))]
    pod: Option<String>,
    /// Go on with what happens, until the pod is over
    #[arg(short, long)]
    watch: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<output::Structured>,
}

pub(super) fn run(args: EventsArgs, dirs: &Dirs) -> Result<()> {
    let pods = match &args.pod {
        Some(name) => vec![store::find(dirs, name)?],
        None => store::list(dirs)?.0,
    };
    let mut all: Vec<(String, Entry)> = Vec::new();
    for pod in &pods {
        all.extend(events::read(&pod.dirs)?.into_iter().map(|entry| (pod.full_name(), entry)));
    }
    all.sort_by_key(|(_, entry)| entry.time);
    if let Some(how) = args.output {
        let entries: Vec<&Entry> = all.iter().map(|(_, entry)| entry).collect();
        return output::structured(&entries, how);
    }
    if let ([pod], true) = (&pods[..], args.watch) {
        return watch(pod);
    }
    let rows: Vec<Vec<String>> = all.into_iter().map(|(pod, entry)| row(pod, entry)).collect();
    output::table(&["AGE", "TYPE", "REASON", "POD", "OBJECT", "MESSAGE"], &rows)
}

fn row(pod: String, entry: Entry) -> Vec<String> {
    let type_ = format!("{:?}", entry.type_);
    vec![display::age(entry.time, now()), type_, entry.reason, pod, entry.object, entry.message]
}

fn watch(pod: &Pod) -> Result<()> {
    let watch = match Watch::open(pod) {
        Ok(watch) => Some(watch),
        Err(error) if kind_of(&error).is_some() => None,
        Err(error) => return Err(error),
    };
    let mut seen = 0;
    let mut print = || -> Result<()> {
        let entries = events::read(&pod.dirs)?;
        for entry in entries.iter().skip(seen) {
            let time = serde_json::to_value(entry.time)?;
            let time = time.as_str().unwrap_or_default();
            println!(
                "{time}   {:?}   {}   {}   {}",
                entry.type_,
                entry.reason,
                entry.object,
                output::escape(&entry.message)
            );
        }
        seen = entries.len();
        Ok(())
    };
    print()?;
    if let Some(watch) = watch {
        while watch.next()? {
            print()?;
        }
        print()?;
    }
    Ok(())
}
