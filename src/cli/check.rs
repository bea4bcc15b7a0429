//! `podshim check`: are these manifests fit to run? Needs no root and touches nothing.

use super::bring_up::cron_jobs;
use super::output::{self, Out};
use crate::manifest::{Color, Diagnostics, documents, read_sources};
use anyhow::Result;
use std::io::Write;

/// Check manifests and print every fault with its place; nothing is run
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Manifests: files, directories, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Check the Job of each CronJob as `run --now` would run it
    #[arg(long)]
    now: bool,
}

/// Checks the manifests; `Ok(false)` (exit code 1) if they have faults, which are on standard error then.
///
/// # Errors
/// A file cannot be read, or the result cannot be written.
pub(super) fn run(args: CheckArgs) -> Result<bool> {
    let sources = read_sources(&args.files)?;
    match documents(&sources, cron_jobs(args.now)) {
        Ok(documents) => {
            let mut out = Out;
            for found in &documents.found {
                writeln!(out, "{}: ok ({})", found.source, found.what)?;
            }
            let of_pods = documents.pods.iter().flat_map(|pod| pod.notes().iter().map(|note| (pod.source(), note)));
            let notes = documents.notes.iter().map(|note| (note.source.as_str(), &note.text));
            for (source, note) in notes.chain(of_pods) {
                writeln!(out, "{source}: note: {}", output::escape(note))?;
            }
            Ok(true)
        }
        Err(diagnostics) => {
            print(&diagnostics)?;
            Ok(false)
        }
    }
}

/// Prints diagnostics on standard error, coloured on a terminal.
pub(super) fn print(diagnostics: &Diagnostics) -> Result<()> {
    let color = match anstream::AutoStream::choice(&std::io::stderr()) {
        anstream::ColorChoice::Never => Color::Plain,
        _ => Color::Styled,
    };
    Ok(write!(std::io::stderr().lock(), "{}", diagnostics.render(color))?)
}
