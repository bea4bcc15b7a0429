//! `podshim check`: are these manifests fit to run? Needs no root and touches nothing.

use crate::manifest::{Color, Diagnostics, admit, read_sources};
use anyhow::Result;
use std::io::Write;

/// Check manifests and print every fault with its place; nothing is run
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Manifests: files, directories, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

/// Checks the manifests; `Ok(false)` (exit code 1) if they have faults, which are on standard error then.
///
/// # Errors
/// A file cannot be read, or the result cannot be written.
pub(super) fn run(args: CheckArgs) -> Result<bool> {
    let sources = read_sources(&args.files)?;
    match admit(&sources) {
        Ok(pods) => {
            let mut out = std::io::stdout().lock();
            for pod in pods {
                writeln!(out, "{}: ok (pod {}/{})", pod.source(), pod.namespace(), pod.name())?;
                for note in pod.notes() {
                    writeln!(out, "{}: note: {note}", pod.source())?;
                }
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
