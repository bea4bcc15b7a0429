//! `podshim run`: pods in the foreground, or started and left running.

use super::bring_up::{BringUpArgs, Host, Room, Started, admit, end, plan, prepare, start, undo};
use super::narrate::{ExplainRunArgs, Narrator};
use super::network_objects::{Semantics, put};
use super::remove::stop_pod;
use super::terminal::Interrupts;
use super::until::{UntilArgs, detached};
use crate::error::{Kind, failure, say};
use crate::host;
use crate::paths::Dirs;
use crate::plan::config::Pace;
use crate::store::{self, Report};
use crate::supervisor;
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    bring_up: BringUpArgs,
    /// Return when the pods run, and leave them running
    #[arg(short, long)]
    detach: bool,
    /// Keep the pods when they have ended (foreground)
    #[arg(long, conflicts_with = "detach")]
    keep: bool,
    #[command(flatten)]
    until: UntilArgs,
    /// Print times before log lines (foreground)
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    explain: ExplainRunArgs,
}

pub(super) fn run(args: RunArgs, dirs: &Dirs) -> Result<u8> {
    if !args.detach && (args.until.wait.is_some() || args.until.timeout.is_some()) {
        return Err(failure(
            Kind::Invalid,
            "--wait and --timeout go with -d: in the foreground the pods' end is waited for",
        ));
    }
    let pace = args.explain.pace();
    if pace == Some(Pace::StepByStep) && args.bring_up.planning.files.iter().any(|file| file == "-") {
        return Err(failure(Kind::Invalid, "--step reads Enter from standard input: the manifest must be a file"));
    }
    let documents = admit(&args.bring_up.planning)?;
    let admitted = &documents.pods;
    if admitted.is_empty() && documents.network.is_empty() {
        return Ok(0);
    }
    let facts = host::probe()?;
    store::make_directories(dirs)?;
    supervisor::remove::sweep(dirs)?;
    for pod in admitted {
        if dirs.name_link(pod.namespace(), pod.name()).exists() {
            // Told now rather than after a pull; `store::reserve` decides.
            return Err(store::already_exists(pod.namespace(), pod.name()));
        }
    }
    let host = Host { dirs, facts: &facts };
    args.bring_up.note_cgroup(host);
    let mut capacity = args.bring_up.capacity(host)?;
    let mut prepare_one = |pod| prepare(pod, &args.bring_up, host, Room { capacity: &mut capacity, instead: None });
    let mut records = admitted.iter().map(&mut prepare_one).collect::<Result<Vec<_>>>()?;
    records.iter_mut().for_each(|record| record.explain = pace);
    // From here on things are made: an interrupt must find us where we can undo them.
    let interrupts = Interrupts::catch()?;
    let put = put(&documents.network, (&args.bring_up.planning.network, Semantics::Create), dirs)?;
    if !put.is_empty() {
        // With variables of the Services that have just come.
        for (pod, record) in admitted.iter().zip(&mut records) {
            record.plan = plan(pod, &args.bring_up, host, record.plan.sandbox.uid.clone())?;
        }
    }
    let mut started = Vec::new();
    for (pod, record) in admitted.iter().zip(&records) {
        match start(pod, record, &capacity) {
            Ok(one) => started.push(one),
            Err(error) => {
                undo(started);
                return Err(error);
            }
        }
    }
    let narrator = match args.explain.narrate(&started) {
        Ok(narrator) => narrator,
        Err(error) => {
            undo(started);
            return Err(error);
        }
    };
    let told = || narrator.map_or(Ok(()), Narrator::finish);
    if args.detach || started.is_empty() {
        let code = detached(started, &args.until, &interrupts);
        told()?;
        let code = code?;
        put.keep()?;
        return Ok(code);
    }
    let timestamps = if args.timestamps { crate::logs::Timestamps::Shown } else { crate::logs::Timestamps::Hidden };
    let ended = super::attach::foreground(&started, &interrupts, timestamps);
    let told = told();
    let finished = finish(started, ended, args.keep);
    if args.keep {
        put.keep()?;
    }
    told.and(finished)
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
            say!("podshim: {error:#}");
            code = code.max(125);
        }
    }
    match ended? {
        Ended::Interrupted(signal_code) => Ok(signal_code),
        Ended::Over => result.map(|()| code),
    }
}
