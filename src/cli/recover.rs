//! `podshim recover`, and what other verbs do about a pod whose supervisor was killed: it gets another one.

use super::follow::{LISTENS, Watch};
use super::output;
use super::remove::all_errors;
use crate::control::{Connection, Request};
use crate::error::{Kind, kind_of, say};
use crate::paths::Dirs;
use crate::store::{self, Pod};
use crate::supervisor::{self, Recovered, remove};
use anyhow::Result;
use clap::Args;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(required_unless_present = "all", value_name = "POD")]
    pods: Vec<String>,
    /// Recover all pods, and clear away what pods of earlier boots have left on disk
    #[arg(long, conflicts_with = "pods")]
    all: bool,
}

/// Prints the pods that were taken over, or ended.
pub(super) fn run(args: &RecoverArgs, dirs: &Dirs) -> Result<()> {
    let mut errors = Vec::new();
    let pods = if args.all {
        store::make_directories(dirs)?;
        errors.extend(remove::sweep(dirs).err());
        let (pods, broken) = store::list(dirs)?;
        // One that is damaged does not keep the others from being recovered.
        errors.extend(broken.into_iter().map(store::Broken::explain));
        pods
    } else {
        args.pods.iter().map(|name| store::find(dirs, name)).collect::<Result<Vec<_>>>()?
    };
    for pod in &pods {
        match supervisor::recover(pod) {
            Ok(Recovered::TakenOver(_) | Recovered::Ended(_)) => output::line(pod.full_name())?,
            Ok(Recovered::Unneeded | Recovered::Unsettled) => {}
            Err(error) => errors.push(error),
        }
    }
    all_errors(errors)
}

/// Finds the pod that a user means; if its supervisor was killed, it has another one by now.
pub(super) fn find(dirs: &Dirs, wanted: &str) -> Result<Pod> {
    let pod = store::find(dirs, wanted)?;
    see_to(&pod);
    Ok(pod)
}

/// The pods of these names, or all whose records can be read; each as [`find`] finds one.
pub(super) fn find_all(dirs: &Dirs, wanted: &[String]) -> Result<Vec<Pod>> {
    if !wanted.is_empty() {
        return wanted.iter().map(|name| find(dirs, name)).collect();
    }
    let pods = store::list(dirs)?.0;
    pods.iter().for_each(see_to);
    Ok(pods)
}

/// If the pod's supervisor was killed, sees that it gets another one. What comes of it is told, and is no error: whoever asks the
/// supervisor for something has an error of his own.
pub(super) fn see_to(pod: &Pod) {
    match supervisor::recover(pod) {
        Ok(Recovered::Unneeded | Recovered::Unsettled) => {}
        Ok(Recovered::TakenOver(_)) => {
            let name = pod.full_name();
            say!("podshim: note: the supervisor of pod {name} was gone: another one has taken over");
        }
        Ok(Recovered::Ended(why)) => {
            say!("podshim: note: pod {} {why}; it has ended", pod.full_name());
        }
        Err(error) => say!("podshim: warning: {}", output::escape(&format!("{error:#}"))),
    }
}

/// Whether a pod whose supervisor has hung up has another one that listens, by this or by somebody else.
pub(super) fn is_recovered(pod: &Pod) -> Result<bool> {
    let begin = Instant::now();
    loop {
        match supervisor::recover(pod)? {
            Recovered::TakenOver(_) => return Ok(true),
            Recovered::Ended(_) => return Ok(false),
            Recovered::Unsettled if !pod.is_supervised() => return Ok(false),
            Recovered::Unneeded | Recovered::Unsettled => {}
        }
        match Connection::open(&pod.dirs.socket(), &Request::Watch, &[]) {
            Err(error) if kind_of(&error) == Some(Kind::NotReady) => {
                if !pod.dirs.state.exists() || pod.report()?.is_some_and(|report| report.over) {
                    return Ok(false);
                }
                // What was killed hangs up before it lets go of its lock, and what it has started may hold that a moment longer: that
                // nobody holds it any more does not tell that there is nobody to come.
                if begin.elapsed() > LISTENS {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other.map(|_| true),
        }
    }
}

/// Asks the supervisor of a pod that was found, which may have been killed a moment ago.
pub(super) fn ask(pod: &Pod, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Connection> {
    once_recovered(pod, || Connection::open(&pod.dirs.socket(), request, descriptors))
}

/// Watches a pod that was found, whose supervisor may have been killed a moment ago.
pub(super) fn watch(pod: &Pod) -> Result<Watch<'_>> {
    watch_asking(pod, &Request::Watch)
}

/// The same, of one who asks for something else ([`Watch::asking`]).
pub(super) fn watch_asking<'a>(pod: &'a Pod, request: &Request) -> Result<Watch<'a>> {
    once_recovered(pod, || Watch::asking(pod, request))
}

fn once_recovered<T>(pod: &Pod, open: impl Fn() -> Result<T>) -> Result<T> {
    match open() {
        Err(error) if kind_of(&error) == Some(Kind::NotReady) && is_recovered(pod)? => open(),
        other => other,
    }
}
