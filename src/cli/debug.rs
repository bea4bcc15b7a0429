//! `podshim debug`: an ephemeral container joins a running pod, as kubectl's does.

use super::attach::{self, Passed, require_not_over};
use super::bring_up::{Pull, pull_policy};
use super::ensure;
use super::pump::Streams;
use crate::control::{self, Connection, Joining, Request};
use crate::error::{Kind, failure};
use crate::manifest;
use crate::network::objects;
use crate::paths::Dirs;
use crate::plan::config::{PullPolicy, Stdio};
use crate::plan::pod::{Ephemeral, ephemeral};
use crate::store;
use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::core::v1 as k8s;
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd};

#[derive(Debug, Args)]
pub(super) struct DebugArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(value_name = "POD")]
    pod: String,
    /// The image to look around with
    #[arg(long, default_value = "busybox")]
    image: String,
    /// The new container's name [default: debugger- and five letters]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// See the processes of this container of the pod
    #[arg(long, value_name = "CONTAINER")]
    target: Option<String>,
    /// Pass standard input on, and wait for the end
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    tty: bool,
    /// An environment variable
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// When to ask a registry for the image
    #[arg(long, value_name = "POLICY")]
    pull: Option<Pull>,
    /// The command and its arguments, after `--` [default: the image's]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".into()),
    }
}

pub(super) fn run(args: DebugArgs, dirs: &Dirs) -> Result<u8> {
    let pod = store::find(dirs, &args.pod)?;
    require_not_over(&pod)?;
    if args.tty && args.stdin && !std::io::stdin().is_terminal() {
        return Err(failure(Kind::Invalid, "-t with -i takes a terminal as standard input: leave -t away"));
    }
    let manifest: k8s::Pod = store::read_json(&pod.dirs.manifest())?
        .with_context(|| format!("{} is missing", pod.dirs.manifest().display()))?;
    let name = match args.container {
        Some(name) => name,
        None => {
            let name = manifest::generated("debugger-");
            anstream::eprintln!("Defaulting debug container name to {name}.");
            name
        }
    };
    let wanted = Ephemeral {
        name: name.clone(),
        image: args.image,
        pull: args.pull.map_or(PullPolicy::IfNotPresent, pull_policy),
        command: Some(args.command),
        args: None,
        working_dir: None,
        env: args.env,
        services: objects::services(&dirs.network())?,
        stdio: match (args.tty, args.stdin) {
            (true, _) => Stdio::Terminal,
            (false, true) => Stdio::StdinOnce,
            (false, false) => Stdio::Null,
        },
        target: args.target,
        security: k8s::SecurityContext::default(),
    };
    let config = ephemeral(&manifest, &pod.record.plan, wanted)?;
    let image = ensure::ensure(dirs, &config.image, config.pull_policy, &pod.record.plan.logins)?;
    let document = control::document("podshim", &Joining { config, image })?;
    let context = || format!("container {name}");
    // Also without -i: whoever is attached hears whether it starts, and if not, why not.
    let streams = Streams::output()?;
    let descriptors: Vec<BorrowedFd<'_>> = [document.as_fd()].into_iter().chain(streams.lent()).collect();
    let connection = Connection::open(&pod.dirs.socket(), &Request::Join, &descriptors)?;
    if args.stdin || args.tty {
        return attach::first(connection, streams, Passed { stdin: args.stdin, tty: args.tty }).with_context(context);
    }
    attach::until_started(&connection).with_context(context)?;
    println!("{name}");
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_names() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A="), Ok(("A".into(), String::new())));
        assert!(variable("A").is_err() && variable("=b").is_err());
        let (one, other) = (manifest::generated("debugger-"), manifest::generated("debugger-"));
        assert_eq!(one.len(), "debugger-".len() + 5);
        assert_ne!(one, other);
    }
}
