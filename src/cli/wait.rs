//! `podshim wait`: kubectl's, and podman's when no condition is given.

use super::follow::{Waited, Watch};
use super::named::Scope;
use super::output;
use super::recover;
use crate::error::{Kind, failure, kind_of};
use crate::lifecycle::status::ConditionStatus;
use crate::paths::Dirs;
use crate::store::{Pod, Report};
use anyhow::Result;
use clap::Args;
use std::fmt;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// condition=TYPE[=STATUS], phase=PHASE or delete [default: until the pod is over, printing its exit code]
    #[arg(long = "for", value_name = "WHAT", value_parser = goal)]
    goal: Option<Goal>,
    /// Give up after so many seconds (30, 30s, 5m, 1h)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    Condition { type_: String, status: String },
    Phase(String),
    Delete,
}

/// As it is written.
impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::Condition { type_, status } => write!(f, "condition={type_}={status}"),
            Goal::Phase(phase) => write!(f, "phase={phase}"),
            Goal::Delete => f.write_str("delete"),
        }
    }
}

fn goal(text: &str) -> Result<Goal, String> {
    const PHASES: [&str; 4] = ["Pending", "Running", "Succeeded", "Failed"];
    let known = |phase: &str| PHASES.iter().find(|p| p.eq_ignore_ascii_case(phase)).map(ToString::to_string);
    match text.split_once('=') {
        None if text == "delete" => Ok(Goal::Delete),
        Some(("condition", rest)) => {
            let (type_, status) = rest.split_once('=').unwrap_or((rest, "True"));
            Ok(Goal::Condition { type_: type_.to_owned(), status: status.to_owned() })
        }
        Some(("phase", phase)) => {
            known(phase).map(Goal::Phase).ok_or_else(|| format!("phase is one of {}", PHASES.join(", ")))
        }
        // kubectl's spelling of the same.
        Some(("jsonpath", rest)) if rest.trim_start_matches(['{', '\'']).starts_with(".status.phase") => {
            goal(&format!("phase={}", rest.rsplit('=').next().unwrap_or_default()))
        }
        _ => Err("known are condition=TYPE[=STATUS], phase=PHASE and delete".into()),
    }
}

/// `30`, `30s`, `5m`, `1h`, or several as `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is no time: write 30s, 5m or 1h");
    let mut seconds = 0u64;
    let mut digits = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(invalid()),
        };
        let number: u64 = std::mem::take(&mut digits).parse().map_err(|_| invalid())?;
        seconds = number.checked_mul(unit).and_then(|n| seconds.checked_add(n)).ok_or_else(invalid)?;
    }
    if !digits.is_empty() {
        seconds += digits.parse::<u64>().map_err(|_| invalid())?;
    } else if text.is_empty() {
        return Err(invalid());
    }
    Ok(Duration::from_secs(seconds))
}

pub(super) fn run(args: WaitArgs, dirs: &Dirs) -> Result<u8> {
    let deadline = args.timeout.map(|t| Instant::now() + t);
    let mut code = 0;
    for name in &args.scope.all(&args.pods)? {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let pod = match recover::find(dirs, name) {
            Err(error) if args.goal == Some(Goal::Delete) && kind_of(&error) == Some(Kind::NotFound) => {
                output::line(name)?;
                continue;
            }
            other => other?,
        };
        match &args.goal {
            None => {
                let of_pod = until_over(&pod, left)?;
                output::line(of_pod)?;
                code = if code == 0 { of_pod } else { code };
            }
            Some(goal) => {
                until(&pod, goal, left)?;
                output::line(pod.full_name())?;
            }
        }
    }
    // podman wait prints the codes and succeeds; a script that wants to branch has them.
    Ok(if args.goal.is_some() { code } else { 0 })
}

fn timed_out(pod: &Pod, goal: Option<&Goal>) -> anyhow::Error {
    let what = goal.map_or_else(|| "the end".to_owned(), Goal::to_string);
    failure(Kind::NotReady, format!("timed out waiting for {what} of pod {}", pod.full_name()))
}

fn until_over(pod: &Pod, timeout: Option<Duration>) -> Result<u8> {
    let deadline = timeout.map(|t| Instant::now() + t);
    let code = |report: &Report| report.over.then(|| pod.exit_code(&report.status));
    let mut watch = match recover::watch(pod) {
        Ok(watch) => watch,
        Err(error) => {
            return match pod.report()?.as_ref().and_then(code) {
                Some(code) => Ok(code),
                None => Err(error.context(format!("pod {}", pod.full_name()))),
            };
        }
    };
    match watch.until(timeout, |report| Ok(code(report)))? {
        Waited::Found(code) => Ok(code),
        Waited::TimedOut => Err(timed_out(pod, None)),
        Waited::Gone if recover::is_recovered(pod)? => {
            until_over(pod, deadline.map(|d| d.saturating_duration_since(Instant::now())))
        }
        Waited::Gone => Err(failure(Kind::NotReady, format!("the supervisor of pod {} is gone", pod.full_name()))),
    }
}

fn is_met(report: &Report, goal: &Goal) -> bool {
    match goal {
        Goal::Condition { type_, status } => report.status.conditions.iter().any(|condition| {
            condition.type_.eq_ignore_ascii_case(type_) && name(condition.status).eq_ignore_ascii_case(status)
        }),
        Goal::Phase(phase) => report.status.phase.as_str() == phase,
        Goal::Delete => false,
    }
}

fn name(status: ConditionStatus) -> &'static str {
    match status {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
    }
}

fn until(pod: &Pod, goal: &Goal, timeout: Option<Duration>) -> Result<()> {
    if *goal == Goal::Delete {
        return until_deleted(pod, timeout);
    }
    let deadline = timeout.map(|t| Instant::now() + t);
    let met = |report: &Report| Ok(is_met(report, goal).then_some(()));
    let never = || match pod.report()? {
        Some(report) if report.over => {
            let phase = report.status.phase.as_str();
            Err(failure(Kind::NotReady, format!("pod {} is over ({phase}): no {goal} any more", pod.full_name())))
        }
        // What it said last is not so any more.
        _ => Err(failure(Kind::NotReady, format!("the supervisor of pod {} is gone", pod.full_name()))),
    };
    match recover::watch(pod) {
        Ok(mut watch) => match watch.until(timeout, met)? {
            Waited::Found(()) => Ok(()),
            Waited::TimedOut => Err(timed_out(pod, Some(goal))),
            Waited::Gone if recover::is_recovered(pod)? => {
                until(pod, goal, deadline.map(|d| d.saturating_duration_since(Instant::now())))
            }
            Waited::Gone => never(),
        },
        Err(_) if pod.report()?.is_some_and(|report| report.over && is_met(&report, goal)) => Ok(()),
        Err(_) => never(),
    }
}

/// The pod's directory goes last of all that it has.
fn until_deleted(pod: &Pod, timeout: Option<Duration>) -> Result<()> {
    let deadline = timeout.map(|t| Instant::now() + t);
    if let Ok(mut watch) = Watch::open(pod)
        && matches!(watch.until(timeout, |_| Ok(None::<()>))?, Waited::TimedOut)
    {
        return Err(timed_out(pod, Some(&Goal::Delete)));
    }
    while pod.dirs.state.exists() {
        if deadline.is_some_and(|d| d <= Instant::now()) {
            return Err(timed_out(pod, Some(&Goal::Delete)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_and_times() {
        let ready = Goal::Condition { type_: "Ready".into(), status: "True".into() };
        assert_eq!(goal("condition=Ready"), Ok(ready));
        assert_eq!(goal("phase=running"), Ok(Goal::Phase("Running".into())));
        assert_eq!(goal("jsonpath={.status.phase}=Running"), Ok(Goal::Phase("Running".into())));
        assert!(goal("phase=Done").is_err() && goal("ready").is_err());
        for (text, seconds) in [("30", 30), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "-1", "1d", "99999999999999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
