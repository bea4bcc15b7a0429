//! `podshim ensure-image`, what a supervisor runs to have an image pulled: TLS and everything else that pulling takes stays out
//! of the supervisor's own memory. Hidden; the answer is JSON on standard output.

use super::bring_up::{Pull, pull_policy};
use super::output;
use crate::control;
use crate::image::{self, Image, ImageFailure, Store};
use crate::paths::Dirs;
use crate::plan::config::{ImageSpec, Login, PullPolicy};
use crate::supervisor::Answer;
use anyhow::{Context, Result};
use clap::Args;
use std::os::fd::AsFd;

#[derive(Debug, Args)]
pub(super) struct EnsureArgs {
    /// When to ask the registry
    #[arg(long)]
    pull: Pull,
    /// Logins to registries come with standard input, as a document of the supervisor's
    #[arg(long)]
    logins: bool,
    /// The image
    image: String,
}

pub(super) fn run(args: EnsureArgs, dirs: &Dirs) -> Result<()> {
    let logins = if args.logins { read_logins() } else { Ok(Vec::new()) };
    let pull = |logins: Vec<Login>| ensure(dirs, &args.image, pull_policy(args.pull), &logins);
    let answer = match logins.and_then(pull) {
        Ok(image) => Answer::Image(Box::new(image)),
        Err(error) => Answer::Failed { reason: reason(&error), message: format!("{error:#}") },
    };
    output::line(serde_json::to_string(&answer)?)
}

fn read_logins() -> Result<Vec<Login>> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("duplicating standard input")?;
    control::read_document(stdin)
}

/// The kubelet's reason.
fn reason(error: &anyhow::Error) -> String {
    ImageFailure::of(error).map_or("ErrImagePull", ImageFailure::reason).to_owned()
}

/// The image of a reference, pulled if the policy says so, with a pod's own logins or the host's; as the supervisor wants it.
pub(super) fn ensure(dirs: &Dirs, reference: &str, policy: PullPolicy, logins: &[Login]) -> Result<ImageSpec> {
    let parsed = image::parse_reference(reference)?;
    let store = Store::open(dirs)?.with_logins(logins);
    let image = store.ensure(&parsed, policy, &mut *image::progress::for_stderr())?;
    Ok(spec(image))
}

/// An image as a pod's record has it.
pub(super) fn spec(image: Image) -> ImageSpec {
    ImageSpec {
        reference: image.reference,
        id: image.id,
        digest: image.digest,
        config: image.config,
        layers: image.layers,
    }
}
