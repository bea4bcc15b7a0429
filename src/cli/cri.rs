//! `podshim cri`: the CRI server that a kubelet drives.

use super::notify;
use crate::cri::{self, Config};
use crate::paths::Dirs;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct CriArgs {
    /// Where to listen: unix://PATH
    #[arg(long, value_name = "ADDRESS", default_value = concat!("unix://", "/run/podshim/cri.sock"), value_parser = socket)]
    listen: PathBuf,
    /// The configuration [default: /etc/podshim/cri.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn socket(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://").unwrap_or(text) {
        path if path.starts_with('/') => Ok(path.into()),
        _ => Err("it takes unix:// and an absolute path".into()),
    }
}

pub(super) fn run(args: CriArgs, dirs: &Dirs) -> Result<()> {
    let config = Config::read(args.config.as_deref())?;
    cri::serve(dirs, &args.listen, config, || notify::ready(None))
}
