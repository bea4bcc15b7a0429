//! `podshim exec`.

use super::attach::{container_of, require_not_over};
use super::named::Scope;
use super::pump::{self, Input, Streams};
use super::recover;
use super::terminal;
use crate::control::{HangUp, OwnProcess, Reply, Request};
use crate::error::{Kind, failure};
use crate::paths::Dirs;
use crate::plan::spec::User;
use crate::runtime;
use crate::store::Pod;
use anyhow::{Context, Result};
use clap::Args;
use std::os::fd::AsFd;

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The container [default: the first one]
    #[arg(short, long)]
    container: Option<String>,
    /// Run it as this user of the container [default: the container's own]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Its working directory, absolute; made if it is missing [default: the container's own]
    #[arg(short, long, value_name = "DIR", value_parser = directory)]
    workdir: Option<String>,
    /// Set a variable, besides those of the container; may be given again
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(value_name = "POD")]
    pod: String,
    /// The command and its arguments, after `--`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: ExecArgs, dirs: &Dirs) -> Result<u8> {
    let pod = recover::find(dirs, &args.scope.full(&args.pod)?)?;
    require_not_over(&pod)?;
    let container = container_of(&pod, args.container)?;
    if args.tty && args.stdin {
        terminal::require_stdin()?;
    }
    let user = match &args.user {
        Some(user) => Some(resolve(&pod, &container, user)?),
        None => None,
    };
    let own = OwnProcess { user, working_dir: args.workdir, envs: args.env };
    let command = args.command;
    let input = if args.stdin { Input::PassedOn } else { Input::Empty };
    if args.tty {
        let request =
            Request::Exec { container, command, terminal: Some(terminal::size()), own, hang_up: HangUp::GoOn };
        let connection = recover::ask(&pod, &request, &[])?;
        let master = match connection.reply()? {
            Some((Reply::Started, descriptors)) => descriptors.into_iter().next(),
            _ => None,
        };
        let Some(master) = master else {
            return Err(failure(Kind::NotReady, "the supervisor gave no terminal"));
        };
        return pump::terminal(&connection, master, input);
    }
    let streams = Streams::all(input)?;
    let request = Request::Exec { container, command, terminal: None, own, hang_up: HangUp::GoOn };
    let connection = recover::ask(&pod, &request, &streams.lent())?;
    match connection.reply()? {
        Some((Reply::Started, _)) => pump::piped(&connection, streams),
        _ => Err(failure(Kind::NotReady, "the pod's supervisor is gone; whether the command runs is unknown")),
    }
}

fn directory(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("it takes an absolute path".into()) }
}

fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("it takes NAME=VALUE".into()),
    }
}

/// The user's numbers. They are looked up in files that the container may have made anything of, which this process reads
/// and the supervisor does not: it would be the pod that waits for a file system of the container's own.
fn resolve(pod: &Pod, container: &str, user: &str) -> Result<User> {
    let config = pod.record.plan.containers.iter().find(|c| c.name == container);
    let config = config.ok_or_else(|| failure(Kind::NotFound, format!("the pod has no container {container}")))?;
    let request = Request::Root { container: container.to_owned() };
    let root = match recover::ask(pod, &request, &[])?.reply()? {
        Some((Reply::Accepted, descriptors)) => descriptors.into_iter().next(),
        _ => None,
    };
    let root = root.context("the supervisor gave no root directory")?;
    runtime::user::resolve_other(root.as_fd(), user, &config.security)
}
