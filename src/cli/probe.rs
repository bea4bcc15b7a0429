//! `podshim probe`, what a supervisor runs to have a request performed that takes TLS, HTTP/2 or a name lookup: they stay out of
//! the supervisor's own memory. Hidden; the request is JSON on standard input, the answer one JSON line each on standard output.

use crate::probes::{self, Request, Said};
use crate::runtime;
use crate::sys::{Called, process};
use anyhow::{Context, Result};
use clap::Args;
use nix::sched::{CloneFlags, setns};
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// The network namespace that the request goes out from
    #[arg(long, value_name = "FILE")]
    namespace: Option<PathBuf>,
}

pub(super) fn run(args: ProbeArgs) -> Result<()> {
    // Before there are threads, which would each keep their own.
    if let Some(path) = args.namespace {
        setns(runtime::open_namespace(&path)?, CloneFlags::CLONE_NEWNET).called("setns", path.display())?;
    }
    // Without the supervisor nobody waits for the answer, and nobody ends what takes too long.
    process::set_parent_death_signal(libc::SIGKILL)?;
    let request: Request = serde_json::from_reader(std::io::stdin()).context("reading a request")?;
    let mut say = |said: Said| {
        let line = serde_json::to_string(&said).unwrap_or_default();
        // Who does not listen any more has given the request up.
        let _ = writeln!(std::io::stdout(), "{line}");
    };
    let outcome = probes::perform(&request, &mut say)?;
    say(Said::Done(outcome));
    Ok(())
}
