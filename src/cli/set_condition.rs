//! `podshim set-condition`: what opens and closes a readiness gate, as a controller does in a cluster by patching the status.

use super::named::Scope;
use super::output;
use super::recover;
use crate::control::Request;
use crate::error::{Kind, failure};
use crate::lifecycle::OWN_CONDITIONS;
use crate::paths::Dirs;
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct SetConditionArgs {
    #[command(flatten)]
    scope: Scope,
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(value_name = "POD")]
    pod: String,
    /// The condition, like example.com/load-balanced=True
    #[arg(value_name = "TYPE=STATUS", value_parser = condition)]
    condition: Condition,
    /// Why, in one word
    #[arg(long, default_value = "")]
    reason: String,
    /// Why, for people
    #[arg(long, default_value = "")]
    message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    type_: String,
    holds: bool,
}

fn condition(text: &str) -> Result<Condition, String> {
    let (type_, status) = text.split_once('=').ok_or("write TYPE=True or TYPE=False")?;
    if OWN_CONDITIONS.contains(&type_) {
        return Err(format!("{type_} is podshim's own to set"));
    }
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if type_.is_empty() || type_.len() > 316 || !type_.chars().all(is_fine) {
        return Err(format!("{type_:?} is no condition type: letters, digits and -_./ make one"));
    }
    let holds = match status.to_ascii_lowercase().as_str() {
        "true" => true,
        "false" => false,
        _ => return Err(format!("{status:?} is neither True nor False")),
    };
    Ok(Condition { type_: type_.to_owned(), holds })
}

pub(super) fn run(args: SetConditionArgs, dirs: &Dirs) -> Result<()> {
    let pod = recover::find(dirs, &args.scope.full(&args.pod)?)?;
    super::attach::require_not_over(&pod)?;
    let Condition { type_, holds } = args.condition;
    let known = &pod.record.plan.readiness_gates;
    if !known.contains(&type_) {
        let of_pod = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        let message = format!("pod {} has no readiness gate {type_:?}: {of_pod}", pod.full_name());
        return Err(failure(Kind::NotFound, message));
    }
    let request = Request::SetCondition { type_, holds, reason: args.reason, message: args.message };
    recover::ask(&pod, &request, &[])?.reply()?;
    output::line(pod.full_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read() {
        let of = |type_: &str, holds| Ok(Condition { type_: type_.into(), holds });
        assert_eq!(condition("example.com/up=True"), of("example.com/up", true));
        assert_eq!(condition("up=false"), of("up", false));
        for text in ["up", "=True", "up=Maybe", "up=", "Ready=True", "a b=True", "\u{1b}[2J=True"] {
            assert!(condition(text).is_err(), "{text}");
        }
    }
}
