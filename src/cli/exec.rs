//! `podshim exec`.

use super::attach::{container_of, require_not_over};
use super::pump::{self, Input, Streams};
use super::terminal;
use crate::control::{Connection, Reply, Request};
use crate::error::{Kind, failure};
use crate::paths::Dirs;
use crate::store;
use anyhow::Result;
use clap::Args;
use std::io::IsTerminal;

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
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(value_name = "POD")]
    pod: String,
    /// The command and its arguments, after `--`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: ExecArgs, dirs: &Dirs) -> Result<u8> {
    let pod = store::find(dirs, &args.pod)?;
    require_not_over(&pod)?;
    let container = container_of(&pod, args.container)?;
    if args.tty && args.stdin && !std::io::stdin().is_terminal() {
        return Err(failure(Kind::Invalid, "-t with -i takes a terminal as standard input: leave -t away"));
    }
    let command = args.command;
    if args.tty {
        let request = Request::Exec { container, command, terminal: Some(terminal::size()) };
        let connection = Connection::open(&pod.dirs.socket(), &request, &[])?;
        let master = match connection.reply()? {
            Some((Reply::Started, descriptors)) => descriptors.into_iter().next(),
            _ => None,
        };
        let Some(master) = master else {
            return Err(failure(Kind::NotReady, "the supervisor gave no terminal"));
        };
        return pump::terminal(&connection, master);
    }
    let streams = Streams::all(if args.stdin { Input::PassedOn } else { Input::Empty })?;
    let request = Request::Exec { container, command, terminal: None };
    let connection = Connection::open(&pod.dirs.socket(), &request, &streams.lent())?;
    match connection.reply()? {
        Some((Reply::Started, _)) => pump::piped(&connection, streams),
        _ => Err(failure(Kind::NotReady, "the pod's supervisor is gone; whether the command runs is unknown")),
    }
}
