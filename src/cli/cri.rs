//! `podshim cri`: what a kubelet drives.

use super::notify;
use super::output;
use crate::cri::{self, Config, Options};
use crate::paths::Dirs;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct CriArgs {
    /// The unix socket to serve on, as a kubelet's --container-runtime-endpoint has it [default: cri.sock in the state
    /// directory, which is unix:///run/podshim/cri.sock]
    #[arg(long, value_name = "ENDPOINT", env = "PODSHIM_CRI_LISTEN", value_parser = cri::parse_endpoint)]
    listen: Option<PathBuf>,
    /// The configuration, a TOML file [default: /etc/podshim/cri.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "PODSHIM_CRI_CONFIG")]
    config: Option<PathBuf>,
    /// Print the configuration with its defaults, and leave
    #[arg(long)]
    print_config: bool,
}

pub(super) fn run(args: CriArgs, dirs: &Dirs) -> Result<()> {
    let config = Config::load(args.config.as_deref())?;
    if args.print_config {
        return output::text(&config.to_toml()?);
    }
    let socket = args.listen.unwrap_or_else(|| dirs.cri_socket());
    cri::serve(Options { dirs: dirs.clone(), config, socket }, notify::serving)?;
    Ok(())
}
