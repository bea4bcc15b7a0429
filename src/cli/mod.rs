//! The command line: clap types, one file per verb, one place that prints errors and sets exit codes.
//!
//! Verbs and their words are kubectl's where kubectl has them, else podman's.

mod apply;
mod attach;
mod bring_up;
mod capacity;
mod check;
mod cni;
mod columns;
mod confine;
mod convert;
mod cri;
mod debug;
mod deferred;
mod delete;
mod disk_usage;
mod ensure;
mod events;
mod exec;
mod explain;
mod follow;
mod get;
mod image;
mod info;
mod inspect;
mod kinds;
mod lab;
mod labels;
mod logs;
mod name_server;
mod named;
mod narrate;
mod network_args;
mod network_objects;
mod notify;
mod output;
mod plan;
mod port_forward;
pub mod prefix;
mod probe;
mod ps;
mod pump;
mod recover;
mod remove;
mod run;
mod set_condition;
mod stats;
mod terminal;
mod until;
mod volume;
mod wait;

use crate::error::{self, Kind, failure, say};
use crate::paths::Dirs;
use crate::supervisor;
use crate::sys::heap;
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use deferred::Deferred;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs Kubernetes Pods on this host, with nothing between the manifest and the kernel.
#[derive(Debug, Parser)]
#[command(name = "podshim", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    verb: Verb,
}

/// Where podshim keeps things. These may follow the verb too, which [`Deferred`] sees to.
#[derive(Debug, Args)]
struct Places {
    /// Images, volumes and writable layers
    #[arg(long, env = "PODSHIM_ROOT", value_name = "DIR", default_value = "/var/lib/podshim")]
    root: PathBuf,
    /// Run state: sockets, namespaces (on a tmpfs)
    #[arg(long, env = "PODSHIM_STATE", value_name = "DIR", default_value = "/run/podshim")]
    state: PathBuf,
    /// Container logs
    #[arg(long, env = "PODSHIM_LOG_DIR", value_name = "DIR", default_value = "/var/log/podshim/pods")]
    log_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the pods of a manifest: in the foreground with their logs, or in the background with -d
    Run(Deferred<run::RunArgs>),
    /// Make pods be as their manifests say: create them, change them in place, or replace them
    Apply(Deferred<apply::ApplyArgs>),
    /// List pods
    Ps(Deferred<ps::AllArgs>),
    /// List pods, Services, endpoints, NetworkPolicies, Namespaces
    Get(Deferred<get::GetArgs>),
    /// Show what containers use: CPU, memory, processes; again and again, or once with --no-stream
    Stats(Deferred<stats::StatsArgs>),
    /// Show what pods use, once: CPU and memory
    Top(Deferred<stats::TopArgs>),
    /// Print the logs of a pod's containers
    Logs(Deferred<logs::LogsArgs>),
    /// Execute a command in a container
    Exec(Deferred<exec::ExecArgs>),
    /// Start a container of any image in a running pod, to look around
    Debug(Deferred<debug::DebugArgs>),
    /// Connect to a running container's output and input
    Attach(Deferred<attach::AttachArgs>),
    /// Forward local ports to ports of a pod
    PortForward(Deferred<port_forward::PortForwardArgs>),
    /// Show a pod: its manifest with defaults, and its status; or as a picture, with --tree or --html
    Inspect(Deferred<inspect::InspectArgs>),
    /// Print the manifest that runs a pod again, with the ConfigMaps and Secrets that it refers to
    Convert(Deferred<convert::ConvertArgs>),
    /// Wait for a condition of pods, or for their end
    Wait(Deferred<wait::WaitArgs>),
    /// Set a condition of a pod, which its readiness gates wait for
    SetCondition(Deferred<set_condition::SetConditionArgs>),
    /// Stop pods gracefully
    Stop(Deferred<remove::StopArgs>),
    /// Remove pods and everything they had on this host
    Rm(Deferred<remove::RmArgs>),
    /// Remove pods, Services, NetworkPolicies, Namespaces: by type and name, or what manifests name
    Delete(Deferred<delete::DeleteArgs>),
    /// Give pods whose supervisor was killed another one, which goes on with them; at boot, with --all, clear away old ones
    Recover(Deferred<recover::RecoverArgs>),
    /// Show what happened to pods
    Events(Deferred<events::EventsArgs>),
    /// Check manifests without running anything; needs no root
    Check(Deferred<check::CheckArgs>),
    /// Show what would be done for the pods of a manifest, down to each step; nothing is run, and it needs no root
    Plan(Deferred<plan::PlanArgs>),
    /// Tell what a field of a manifest means (needs no root), how a pod was made, or what two pods share
    Explain(Deferred<explain::ExplainArgs>),
    /// Learn what a pod is made of: lessons on namespaces, with checkers
    Lab(Deferred<lab::LabArgs>),
    /// Pull, import, list and remove images
    Image(Deferred<image::ImageArgs>),
    /// List and remove what persistentVolumeClaims hold
    Volume(Deferred<volume::VolumeArgs>),
    /// Ask the CNI plugins of --network cni how they and their pods are
    Cni(Deferred<cni::CniArgs>),
    /// Serve a kubelet: the Container Runtime Interface, v1, on a unix socket
    Cri(Deferred<cri::CriArgs>),
    /// Show what this host offers
    Info(Deferred<info::InfoArgs>),
    /// Show podshim's version
    Version(Deferred<info::VersionArgs>),
    #[command(hide = true)]
    EnsureImage(Deferred<ensure::EnsureArgs>),
    #[command(hide = true)]
    Probe(Deferred<probe::ProbeArgs>),
    #[command(hide = true)]
    NameServer(Deferred<name_server::NameServerArgs>),
    #[command(hide = true)]
    DiskUsage,
}

/// Runs the command line. Errors are printed here and nowhere else.
pub fn main() -> ExitCode {
    // Before clap makes its tables: they would stay in its memory as long as the pod lives.
    let result = match supervisor::asked_for(std::env::args_os()) {
        Some(state) => {
            heap::stays();
            require_root().and_then(|()| supervisor::run(&state))
        }
        None => {
            heap::ends_soon();
            dispatch(Cli::parse())
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(141),
        Err(error) => {
            say!("podshim: {}", output::escape(&format!("{error:#}")));
            ExitCode::from(error::exit_code(&error))
        }
    }
}

/// Standard output was closed by whoever read it, like `head`: nothing to be said, as with any Unix tool.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

fn dispatch(cli: Cli) -> Result<u8> {
    let directory = |path: PathBuf| std::path::absolute(path);
    let dirs = Dirs {
        root: directory(cli.places.root)?,
        state: directory(cli.places.state)?,
        log_dir: directory(cli.places.log_dir)?,
    };
    if let Verb::Check(Deferred(args)) = cli.verb {
        // 0 or 1, whatever is wrong: a file that cannot be read is no manifest that can be run.
        return match check::run(args) {
            Ok(fine) => Ok(u8::from(!fine)),
            Err(error) => {
                say!("podshim: {}", output::escape(&format!("{error:#}")));
                Ok(1)
            }
        };
    }
    if let Verb::Version(Deferred(args)) = cli.verb {
        return info::version(args).map(|()| 0);
    }
    if let Verb::Explain(Deferred(args)) = cli.verb {
        return explain::run(args, &dirs).map(|()| 0);
    }
    if let Verb::Plan(Deferred(args)) = cli.verb {
        return plan::run(args, &dirs).map(|()| 0);
    }
    require_root()?;
    match cli.verb {
        Verb::Run(Deferred(args)) => run::run(args, &dirs),
        Verb::Apply(Deferred(args)) => apply::run(args, &dirs),
        Verb::Debug(Deferred(args)) => debug::run(args, &dirs),
        Verb::SetCondition(Deferred(args)) => set_condition::run(args, &dirs).map(|()| 0),
        Verb::Ps(Deferred(args)) => ps::run(args, &dirs).map(|()| 0),
        Verb::Get(Deferred(args)) => get::run(args, &dirs).map(|()| 0),
        Verb::Stats(Deferred(args)) => stats::stats(args, &dirs).map(|()| 0),
        Verb::Top(Deferred(args)) => stats::top(args, &dirs).map(|()| 0),
        Verb::Logs(Deferred(args)) => logs::run(args, &dirs).map(|()| 0),
        Verb::Exec(Deferred(args)) => exec::run(args, &dirs),
        Verb::Attach(Deferred(args)) => attach::run(args, &dirs),
        Verb::PortForward(Deferred(args)) => port_forward::run(args, &dirs).map(|()| 0),
        Verb::Inspect(Deferred(args)) => inspect::run(args, &dirs).map(|()| 0),
        Verb::Convert(Deferred(args)) => convert::run(args, &dirs).map(|()| 0),
        Verb::Wait(Deferred(args)) => wait::run(args, &dirs),
        Verb::Stop(Deferred(args)) => remove::stop(args, &dirs).map(|()| 0),
        Verb::Rm(Deferred(args)) => remove::rm(args, &dirs).map(|()| 0),
        Verb::Delete(Deferred(args)) => delete::run(args, &dirs).map(|()| 0),
        Verb::Recover(Deferred(args)) => recover::run(&args, &dirs).map(|()| 0),
        Verb::Events(Deferred(args)) => events::run(args, &dirs).map(|()| 0),
        Verb::Lab(Deferred(args)) => lab::run(args, &dirs),
        Verb::Image(Deferred(args)) => image::run(args, &dirs).map(|()| 0),
        Verb::Volume(Deferred(args)) => volume::run(args, &dirs).map(|()| 0),
        Verb::Cni(Deferred(args)) => cni::run(args, &dirs).map(|()| 0),
        Verb::Cri(Deferred(args)) => cri::run(args, &dirs).map(|()| 0),
        Verb::Info(Deferred(args)) => info::run(args, &dirs).map(|()| 0),
        Verb::EnsureImage(Deferred(args)) => ensure::run(args, &dirs).map(|()| 0),
        Verb::Probe(Deferred(args)) => probe::run(args).map(|()| 0),
        Verb::NameServer(Deferred(args)) => name_server::run(args),
        Verb::DiskUsage => disk_usage::run().map(|()| 0),
        // Handled above; the compiler wants them named.
        Verb::Check(_) | Verb::Explain(_) | Verb::Plan(_) | Verb::Version(_) => Ok(0),
    }
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(failure(
        Kind::Forbidden,
        "this takes root (namespaces, mounts and cgroups are made): try again with sudo. \
         Without root there are `podshim check`, `plan`, `explain` and `version`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_may_be_before_and_behind_the_verb() {
        let root = |line: &str| {
            let places = Cli::try_parse_from(line.split(' ')).unwrap().places;
            (places.root.display().to_string(), places.state.display().to_string())
        };
        let rows = [
            ("podshim ps", ("/var/lib/podshim", "/run/podshim")),
            ("podshim --root /r ps --state /s", ("/r", "/s")),
            ("podshim ps --root=/r --state=/s", ("/r", "/s")),
            ("podshim --state /s image --root /r ls", ("/r", "/s")),
            ("podshim image ls --root /r --state /s", ("/r", "/s")),
            ("podshim --root /no image ls --root /r", ("/r", "/run/podshim")),
            ("podshim exec --root /r p -- c --root /no", ("/r", "/run/podshim")),
        ];
        for (line, (of_root, of_state)) in rows {
            assert_eq!(root(line), (of_root.to_owned(), of_state.to_owned()), "{line}");
        }
        assert!(Cli::try_parse_from(["podshim", "ps", "--root"]).is_err());
    }
}
