//! `podshim debug`: an ephemeral container joins a running pod, as kubectl's does.

use super::attach::{self, Passed, require_not_over};
use super::bring_up::{Pull, check_confinement, choices_of};
use super::convert;
use super::ensure;
use super::named::Scope;
use super::output;
use super::pump::Streams;
use super::recover;
use super::terminal;
use crate::control::{self, Joining, Request};
use crate::error::{Kind, failure, say};
use crate::host;
use crate::manifest::{self, AdmittedPod, Source};
use crate::paths::Dirs;
use crate::plan::pod::ephemeral;
use crate::store::Pod;
use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::core::v1 as k8s;
use serde_json::{Value, json};
use std::os::fd::{AsFd, BorrowedFd};

#[derive(Debug, Args)]
pub(super) struct DebugArgs {
    #[command(flatten)]
    scope: Scope,
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
    /// What the container may do
    #[arg(long, value_name = "PROFILE", default_value = "general")]
    profile: Profile,
    /// A YAML or JSON file with more of the container: workingDir, envFrom, securityContext, volumeMounts, …; - is standard input
    #[arg(long, value_name = "FILE")]
    custom: Option<String>,
    /// The command and its arguments, after `--` [default: the image's]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// `--profile`: what kubectl gives an ephemeral container (pkg/cmd/debug/profiles.go).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    /// Trace processes (SYS_PTRACE)
    General,
    /// No more than any container
    Baseline,
    /// As the restricted Pod Security Standard has it: no root, no capabilities
    Restricted,
    /// Change the network (NET_ADMIN, NET_RAW)
    Netadmin,
    /// Everything (privileged)
    Sysadmin,
    /// No more than any container; kubectl's profile of old
    Legacy,
}

impl Profile {
    fn security_context(self) -> Option<k8s::SecurityContext> {
        let words = |list: &[&str]| Some(list.iter().map(|word| (*word).to_owned()).collect());
        let adding = |list| {
            let capabilities = Some(k8s::Capabilities { add: words(list), drop: None });
            Some(k8s::SecurityContext { capabilities, ..k8s::SecurityContext::default() })
        };
        match self {
            Profile::General => adding(&["SYS_PTRACE"]),
            Profile::Netadmin => adding(&["NET_ADMIN", "NET_RAW"]),
            Profile::Baseline | Profile::Legacy => None,
            Profile::Restricted => Some(k8s::SecurityContext {
                allow_privilege_escalation: Some(false),
                capabilities: Some(k8s::Capabilities { add: None, drop: words(&["ALL"]) }),
                run_as_non_root: Some(true),
                seccomp_profile: Some(k8s::SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
                ..k8s::SecurityContext::default()
            }),
            Profile::Sysadmin => {
                Some(k8s::SecurityContext { privileged: Some(true), ..k8s::SecurityContext::default() })
            }
        }
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".into()),
    }
}

pub(super) fn run(args: DebugArgs, dirs: &Dirs) -> Result<u8> {
    let pod = recover::find(dirs, &args.scope.full(&args.pod)?)?;
    require_not_over(&pod)?;
    if args.stdin && args.custom.as_deref() == Some("-") {
        return Err(failure(Kind::Invalid, "standard input is either the container's (-i) or the file of --custom"));
    }
    let custom = args.custom.as_deref().map(read).transpose()?;
    let admitted = join(recorded(&pod)?, flags(&args), custom.as_ref())?;
    let container = admitted.ephemeral().cloned().unwrap_or_default();
    let is_terminal = container.tty == Some(true);
    if is_terminal && args.stdin {
        terminal::require_stdin()?;
    }
    note_ineffective(&admitted, &container);
    let machine = host::machine()?;
    let choices = choices_of(&pod, dirs, &machine)?;
    let plan = &pod.record.plan;
    let config = ephemeral(&admitted, plan, (args.target.clone(), &choices))?;
    check_confinement(&plan.sandbox, std::slice::from_ref(&config), machine.lsms)?;
    let image = ensure::ensure(dirs, &config.image, config.pull_policy, &plan.logins)?;
    let written = entry(&container, args.target.as_deref())?;
    let document = control::document("podshim", &Joining { config, image, written })?;
    let context = || format!("container {}", container.name);
    // Also without -i: whoever is attached hears whether it starts, and if not, why not.
    let streams = Streams::output()?;
    let descriptors: Vec<BorrowedFd<'_>> = [document.as_fd()].into_iter().chain(streams.lent()).collect();
    let connection = recover::ask(&pod, &Request::Join, &descriptors)?;
    if args.stdin || args.tty {
        let passed = Passed { stdin: args.stdin, tty: is_terminal };
        return attach::first(connection, streams, passed).with_context(context);
    }
    attach::until_started(&connection).with_context(context)?;
    output::line(&container.name)?;
    Ok(0)
}

/// The file of `--custom`.
fn read(path: &str) -> Result<Source> {
    let mut sources = manifest::read_sources(&[path.to_owned()])?;
    match (sources.pop(), sources.is_empty()) {
        (Some(source), true) => Ok(source),
        _ => Err(failure(Kind::Invalid, format!("--custom takes one file, and {path} is a directory of several"))),
    }
}

/// The pod as its manifest was when it was run, or changed.
fn recorded(pod: &Pod) -> Result<AdmittedPod> {
    let name = pod.dirs.manifest().display().to_string();
    let documents = convert::of_pod(pod)?;
    manifest::readmit(&documents, &name).with_context(|| format!("reading {name}"))
}

/// What the command line says of the container.
fn flags(args: &DebugArgs) -> k8s::Container {
    let name = args.container.clone().unwrap_or_else(|| {
        let name = manifest::generated("debugger-");
        say!("Defaulting debug container name to {name}.");
        name
    });
    let set = |is_set: bool| is_set.then_some(true);
    let variable = |(name, value): &(String, String)| k8s::EnvVar {
        name: name.clone(),
        value: Some(value.clone()),
        ..k8s::EnvVar::default()
    };
    k8s::Container {
        name,
        image: Some(args.image.clone()),
        image_pull_policy: args.pull.map(|pull| policy(pull).to_owned()),
        command: (!args.command.is_empty()).then(|| args.command.clone()),
        env: (!args.env.is_empty()).then(|| args.env.iter().map(variable).collect()),
        security_context: args.profile.security_context(),
        stdin: set(args.stdin),
        // It ends with the input of who made it.
        stdin_once: set(args.stdin),
        tty: set(args.tty),
        ..k8s::Container::default()
    }
}

/// `imagePullPolicy`, in the API's words.
fn policy(pull: Pull) -> &'static str {
    match pull {
        Pull::Always => "Always",
        Pull::Missing => "IfNotPresent",
        Pull::Never => "Never",
    }
}

/// Lays the file over what the command line says; says what of it has no effect.
fn join(pod: AdmittedPod, flags: k8s::Container, custom: Option<&Source>) -> Result<AdmittedPod> {
    let name = custom.map_or("the command line", |source| &source.name);
    let joined = manifest::join(pod, flags, custom).or_else(|diagnostics| {
        let count = diagnostics.count();
        super::check::print(&diagnostics)?;
        let s = if count == 1 { "" } else { "s" };
        Err(failure(Kind::Invalid, format!("{count} error{s} in {name}; nothing was started")))
    })?;
    joined.notes().iter().for_each(|note| say!("podshim: note: {name}: {}", output::escape(note)));
    Ok(joined)
}

/// As kubectl does: the kernel takes the capabilities of a process away when it becomes another user than root.
fn note_ineffective(pod: &AdmittedPod, container: &k8s::Container) {
    let Some(own) = &container.security_context else { return };
    let of_pod = pod.pod().spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let user = own.run_as_user.or_else(|| of_pod.and_then(|context| context.run_as_user));
    let adds = own.capabilities.as_ref().is_some_and(|c| c.add.as_ref().is_some_and(|add| !add.is_empty()));
    if let Some(user) = user.filter(|user| *user != 0 && (adds || own.privileged == Some(true))) {
        say!(
            "podshim: note: container {} runs as user {user}, who has no use of its capabilities: a file for --custom with securityContext.runAsUser: 0 changes that",
            container.name
        );
    }
}

/// The container as an entry of `spec.ephemeralContainers`.
fn entry(container: &k8s::Container, target: Option<&str>) -> Result<Value> {
    let mut entry = serde_json::to_value(container).context("writing the container")?;
    if let Some(target) = target {
        entry["targetContainerName"] = json!(target);
    }
    Ok(entry)
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

    #[test]
    fn profiles_give_what_kubectl_gives() {
        let rows = [
            (Profile::General, json!({ "capabilities": { "add": ["SYS_PTRACE"] } })),
            (Profile::Baseline, Value::Null),
            (
                Profile::Restricted,
                json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "runAsNonRoot": true,
                    "seccompProfile": { "type": "RuntimeDefault" } }),
            ),
            (Profile::Netadmin, json!({ "capabilities": { "add": ["NET_ADMIN", "NET_RAW"] } })),
            (Profile::Sysadmin, json!({ "privileged": true })),
            (Profile::Legacy, Value::Null),
        ];
        for (profile, expected) in rows {
            assert_eq!(serde_json::to_value(profile.security_context()).unwrap(), expected, "{profile:?}");
        }
    }
}
