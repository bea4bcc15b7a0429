//! `podshim volume`: what persistentVolumeClaims hold. It outlives the pods, so it is listed and removed by itself; what
//! generic ephemeral volumes hold is listed too, and goes with its pod.

use super::output::{self, Structured};
use super::ps::now;
use crate::error::{Kind, failure, say};
use crate::lifecycle::display;
use crate::paths::Dirs;
use crate::store;
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct VolumeArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List claims
    Ls {
        /// Output format
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Structured>,
    },
    /// Remove claims with everything in them
    Rm {
        /// Claims: NAME (in the namespace default) or NAMESPACE/NAME
        #[arg(required = true, value_name = "CLAIM")]
        claims: Vec<String>,
    },
}

pub(super) fn run(args: VolumeArgs, dirs: &Dirs) -> Result<()> {
    match args.command {
        Command::Ls { output } => list(dirs, output),
        Command::Rm { claims } => claims.iter().try_for_each(|claim| {
            let (namespace, name) = claim.split_once('/').unwrap_or(("default", claim));
            if [namespace, name].iter().any(|part| part.is_empty() || part.contains(['/', '_'])) {
                return Err(failure(Kind::Invalid, format!("{claim:?} is no NAME or NAMESPACE/NAME")));
            }
            store::remove_claim(dirs, namespace, name)?;
            output::line(format_args!("persistentvolumeclaim/{name}"))
        }),
    }
}

fn list(dirs: &Dirs, output: Option<Structured>) -> Result<()> {
    let claims = store::claims(dirs)?;
    if let Some(how) = output {
        let item =
            |c: &store::Claim| json!({ "namespace": c.namespace, "name": c.name, "path": c.path, "usedBy": c.used_by });
        return output::structured(&claims.iter().map(item).collect::<Vec<_>>(), how);
    }
    if claims.is_empty() {
        say!("No claims found.");
        return Ok(());
    }
    let row = |c: &store::Claim| {
        let used_by = if c.used_by.is_empty() { "<none>".to_owned() } else { c.used_by.join(",") };
        vec![c.namespace.clone(), c.name.clone(), used_by, display::age(c.created, now())]
    };
    output::table(&["NAMESPACE", "NAME", "USED BY", "AGE"], &claims.iter().map(row).collect::<Vec<_>>())
}
