//! `podshim ensure-image`, what a supervisor runs to have an image pulled: TLS and everything else that pulling takes stays out
//! of the supervisor's own memory. Hidden; the answer is JSON on standard output.

use super::bring_up::{Pull, pull_policy};
use crate::image::{self, ImageFailure, Store};
use crate::paths::Dirs;
use crate::plan::config::{ImageSpec, PullPolicy};
use crate::supervisor::Answer;
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct EnsureArgs {
    /// When to ask the registry
    #[arg(long)]
    pull: Pull,
    /// The image
    image: String,
}

pub(super) fn run(args: EnsureArgs, dirs: &Dirs) -> Result<()> {
    let answer = match ensure(dirs, &args.image, pull_policy(args.pull)) {
        Ok(image) => Answer::Image(Box::new(image)),
        Err(error) => Answer::Failed { reason: reason(&error), message: format!("{error:#}") },
    };
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

/// The kubelet's reason.
fn reason(error: &anyhow::Error) -> String {
    ImageFailure::of(error).map_or("ErrImagePull", ImageFailure::reason).to_owned()
}

/// The image of a reference, pulled if the policy says so, as the supervisor wants it.
pub(super) fn ensure(dirs: &Dirs, reference: &str, policy: PullPolicy) -> Result<ImageSpec> {
    let parsed = image::parse_reference(reference)?;
    let store = Store::open(dirs)?;
    let image = store.ensure(&parsed, policy, &mut *image::progress::for_stderr())?;
    Ok(ImageSpec {
        reference: image.reference,
        id: image.id,
        digest: image.digest,
        config: image.config,
        layers: image.layers,
    })
}
