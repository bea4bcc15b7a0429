//! `podshim stop` and `podshim rm`.

use super::follow::Watch;
use super::named::Scope;
use super::output;
use super::recover;
use crate::control::{Connection, Request};
use crate::error::{Kind, failure, kind_of, say};
use crate::host::cgroup;
use crate::paths::Dirs;
use crate::store::{self, Broken, Pod};
use crate::supervisor;
use anyhow::Result;
use clap::Args;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(required_unless_present = "all", value_name = "POD")]
    pods: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Seconds between the stop signal and SIGKILL [default: the pod's terminationGracePeriodSeconds]
    #[arg(short = 't', long, alias = "time", value_name = "SECONDS")]
    grace_period: Option<u64>,
    /// Stop all pods
    #[arg(long, conflicts_with = "pods")]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(required_unless_present = "all", value_name = "POD")]
    pods: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Kill running containers at once instead of stopping them gracefully; a pod that is not there is fine
    #[arg(short, long)]
    force: bool,
    /// Seconds between the stop signal and SIGKILL [default: the pod's terminationGracePeriodSeconds]
    #[arg(short = 't', long, alias = "time", value_name = "SECONDS", conflicts_with = "force")]
    grace_period: Option<u64>,
    /// Remove all pods
    #[arg(long, conflicts_with = "pods")]
    all: bool,
}

fn chosen(dirs: &Dirs, names: &[String], all_of: Option<&Scope>) -> Vec<Result<Pod>> {
    let Some(scope) = all_of else { return names.iter().map(|name| store::find(dirs, name)).collect() };
    match store::list(dirs) {
        Ok((pods, _)) => pods.into_iter().filter(|pod| scope.has(&pod.record.plan.sandbox.namespace)).map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }
}

/// Does something with each pod, whatever became of the others, and tells which ones went well; the errors of the rest.
fn each<T>(pods: Vec<Result<T>>, name: fn(&T) -> String, mut act: impl FnMut(&T) -> Result<()>) -> Vec<anyhow::Error> {
    let mut errors: Vec<anyhow::Error> = Vec::new();
    for pod in pods {
        let done = pod.and_then(|pod| act(&pod).and_then(|()| output::line(name(&pod))));
        errors.extend(done.err());
    }
    errors
}

/// All errors as one, of the last one's kind; fine if there are none.
pub(super) fn all_errors(mut errors: Vec<anyhow::Error>) -> Result<()> {
    match (errors.pop(), errors.is_empty()) {
        (None, _) => Ok(()),
        (Some(only), true) => Err(only),
        (Some(last), false) => {
            let kind = kind_of(&last).unwrap_or(Kind::NotReady);
            let mut all: Vec<String> = errors.iter().map(|e| format!("{e:#}")).collect();
            all.push(format!("{last:#}"));
            Err(failure(kind, all.join("\n")))
        }
    }
}

pub(super) fn stop(args: StopArgs, dirs: &Dirs) -> Result<()> {
    let names = args.scope.all(&args.pods)?;
    all_errors(each(chosen(dirs, &names, args.all.then_some(&args.scope)), Pod::full_name, |pod| {
        recover::see_to(pod);
        stop_pod(pod, args.grace_period)
    }))
}

pub(super) fn rm(args: RmArgs, dirs: &Dirs) -> Result<()> {
    let names = args.scope.all(&args.pods)?;
    // Who names one that is damaged is told so when it is looked for: only what is to be removed unseen is looked for here, among all.
    let (whole, mut broken) = if args.force || args.all { store::list(dirs)? } else { Default::default() };
    broken.retain(|broken| {
        let namespace = broken.full_name.as_deref().and_then(|name| Some(name.split_once('/')?.0));
        args.all && args.scope.has(namespace.unwrap_or_default()) || names.iter().any(|name| broken.is(name, &whole))
    });
    let mut errors = Vec::new();
    if args.force {
        let damaged = broken.into_iter().map(Ok).collect();
        errors = each(damaged, |broken| broken.name().to_owned(), |broken| rm_damaged(dirs, broken));
    } else if let (true, Some(broken)) = (args.all, broken.into_iter().next()) {
        return Err(broken.explain());
    }
    let mut pods = chosen(dirs, &names, args.all.then_some(&args.scope));
    if args.force {
        pods.retain(|pod| !matches!(pod, Err(error) if kind_of(error) == Some(Kind::NotFound)));
    }
    let grace = if args.force { Some(0) } else { args.grace_period };
    errors.extend(each(pods, Pod::full_name, |pod| {
        // One that is to be gone needs nobody who goes on with it first.
        if !args.force {
            recover::see_to(pod);
        }
        for _ in 0..TRIES {
            stop_pod(pod, grace)?;
            match remove_pod(pod) {
                // Somebody has recovered it in this moment.
                Err(error) if kind_of(&error) == Some(Kind::NotReady) && pod.is_supervised() => {}
                other => return other,
            }
        }
        remove_pod(pod)
    }));
    all_errors(errors)
}

/// Ends and removes a pod whose record is damaged. Its supervisor, if it has one, knows the pod by heart. Of a copy nothing but the
/// directory goes: what listens there, or has the lock, may be its pod's own.
fn rm_damaged(dirs: &Dirs, broken: &Broken) -> Result<()> {
    let pod = dirs.pod(&broken.uid);
    if broken.is_copy() {
        return supervisor::remove::copy(&pod);
    }
    if let Ok(connection) = Connection::open(&pod.socket(), &Request::Stop { grace_seconds: Some(0) }, &[]) {
        // Whatever it says, its end shows in its lock.
        let _ = connection.answers_within(FORCED_PATIENCE);
    }
    let setup = cgroup::detect()?;
    let gone = || once_let_go(FORCED_PATIENCE, || supervisor::remove::damaged(dirs, broken, &setup));
    match gone() {
        Err(error) if kind_of(&error) == Some(Kind::NotReady) => {
            supervisor::remove::kill_supervisor(&pod)?;
            gone()
        }
        other => other,
    }
}

/// Stops a pod and waits until its supervisor is gone. One whose supervisor was killed gets another one for that; by force, and where
/// nobody can go on with it, what is left of it is ended.
pub(super) fn stop_pod(pod: &Pod, grace_seconds: Option<u64>) -> Result<()> {
    let is_forced = grace_seconds == Some(0);
    let stop = Request::Stop { grace_seconds };
    let ask = || if is_forced { Watch::asking(pod, &stop) } else { recover::watch_asking(pod, &stop) };
    loop {
        let watch = match ask() {
            Err(error) if kind_of(&error) == Some(Kind::NotReady) => return end_orphans(pod),
            other => other?,
        };
        // A supervisor that does not do what it was told to do at once is not waited for.
        let ended =
            is_heard(pod, &watch.connection, is_forced)? && watch.until_gone(is_forced.then_some(FORCED_PATIENCE))?;
        if !ended {
            supervisor::remove::kill_supervisor(&pod.dirs)?;
        }
        // A damaged report is as good as none: what is left is ended below.
        let is_over = || pod.report().ok().flatten().is_some_and(|report| report.over);
        if ended && is_over() {
            return Ok(());
        }
        // It was killed meanwhile; another one ends the pod as it should be, unless that is done by now.
        if !ended || is_forced {
            break;
        }
        if !recover::is_recovered(pod)? {
            if is_over() {
                return Ok(());
            }
            break;
        }
    }
    say!("podshim: warning: the supervisor of pod {} did not end it; doing that now", pod.full_name());
    end_orphans(pod)
}

/// Waits for what a supervisor says to a request, by force not for long; whether it has said anything.
fn is_heard(pod: &Pod, connection: &Connection, is_forced: bool) -> Result<bool> {
    if !connection.answers_within(FORCED_PATIENCE)? {
        if is_forced {
            return Ok(false);
        }
        let name = pod.full_name();
        say!("podshim: note: the supervisor of pod {name} does not answer; `podshim rm -f {name}` does without it");
    }
    connection.reply()?;
    Ok(true)
}

/// How often a pod is stopped that is recovered by others again and again.
const TRIES: usize = 5;

/// How long `rm -f` waits for a supervisor; who does not force it is told then.
const FORCED_PATIENCE: Duration = Duration::from_secs(10);

/// How long what a killed supervisor has forked may hold its lock.
const LETS_GO: Duration = Duration::from_secs(1);

/// Between two looks at a lock.
const TICK: Duration = Duration::from_millis(2);

/// Ends the containers of a pod that nobody supervises (any more), and writes that down where it can.
fn end_orphans(pod: &Pod) -> Result<()> {
    if pod.report().ok().flatten().is_some_and(|report| report.cleared) {
        return Ok(());
    }
    let setup = cgroup::detect()?;
    let deadline = Instant::now() + LETS_GO;
    loop {
        match supervisor::remove::abandoned(pod, &setup) {
            Ok(true) => return Ok(()),
            // Its supervisor was killed a moment ago.
            Ok(false) if pod.is_supervised() && Instant::now() < deadline => std::thread::sleep(TICK),
            _ => break,
        }
    }
    let errors = supervisor::remove::sandbox(&setup, &pod.record.plan.sandbox.cgroup, (&pod.record.dirs, &pod.dirs));
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Removes a pod that has been stopped. Its supervisor's last act is to let go of the lock.
pub(super) fn remove_pod(pod: &Pod) -> Result<()> {
    once_let_go(Duration::from_secs(5), || supervisor::remove::pod(pod, cgroup::detect))
}

/// Removes a pod when nobody holds its lock any more; one that is held for longer is not ready for it.
fn once_let_go(patience: Duration, remove: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match remove() {
            Err(error) if kind_of(&error) == Some(Kind::NotReady) && Instant::now() < deadline => {
                std::thread::sleep(TICK);
            }
            other => return other,
        }
    }
}
