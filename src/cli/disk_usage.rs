//! `podshim disk-usage`, what a supervisor runs to have a pod's disk space measured: a large tree, or a disk that hangs, does not
//! hold it up. Hidden; the request is JSON on standard input, the answer JSON on standard output.

use super::output;
use crate::sys::process;
use crate::volumes::usage::{self, Request};
use anyhow::{Context, Result};

pub(super) fn run() -> Result<()> {
    // Without the supervisor nobody waits for the answer.
    process::set_parent_death_signal(libc::SIGKILL)?;
    process::be_nice()?;
    let request: Request = serde_json::from_reader(std::io::stdin()).context("reading a request")?;
    let measured = usage::measure(&request)?;
    output::line(serde_json::to_string(&measured)?)
}
