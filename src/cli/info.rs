//! `podshim info` and `podshim version`.

use super::output::{self, Structured};
use crate::paths::Dirs;
use crate::{host, store};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Structured>,
}

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: Structured,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    /// The Kubernetes version whose Pod API is read.
    pod_api: &'static str,
    oci_runtime_spec: &'static str,
}

const VERSION: Version =
    Version { version: env!("CARGO_PKG_VERSION"), pod_api: "v1 (Kubernetes 1.37)", oci_runtime_spec: "1.2.0" };

pub(super) fn version(args: VersionArgs) -> Result<()> {
    match args.output {
        Some(how) => output::structured(&VERSION, how),
        None => output::line(format_args!("podshim {}", VERSION.version)),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(flatten)]
    version: Version,
    root: String,
    state: String,
    log_dir: String,
    pods: usize,
    host: host::HostFacts,
}

pub(super) fn run(args: InfoArgs, dirs: &Dirs) -> Result<()> {
    let (pods, broken) = store::list(dirs)?;
    let info = Info {
        version: VERSION,
        root: dirs.root.display().to_string(),
        state: dirs.state.display().to_string(),
        log_dir: dirs.log_dir.display().to_string(),
        pods: pods.len() + broken.len(),
        host: host::probe()?,
    };
    output::structured(&info, args.output)
}
