//! `podshim cni`: what CNI plugins can be asked for beside attaching pods.

use super::output;
use super::recover;
use crate::error::{Kind, failure};
use crate::network::cni::{self, Checked};
use crate::paths::Dirs;
use crate::plan::network::CniNetwork;
use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct CniArgs {
    #[command(subcommand)]
    verb: CniVerb,
}

#[derive(Debug, Subcommand)]
enum CniVerb {
    /// Whether pods can be attached: the network configuration, its plugins, and what they say of themselves (STATUS)
    Status(CniPlaces),
    /// Whether pods' networks are still as the plugins made them (CHECK)
    Check {
        /// NAME, NAMESPACE/NAME or the beginning of a uid [default: all pods on networks of CNI plugins]
        #[arg(value_name = "POD")]
        pods: Vec<String>,
    },
    /// Have plugins let go of what belongs to no pod (GC). Not where another container runtime attaches to the same network:
    /// what is its own would go, too
    Gc,
}

/// Where CNI's files are.
#[derive(Debug, Clone, Args)]
pub(super) struct CniPlaces {
    /// Where CNI network configurations are; the first by name counts
    #[arg(long, value_name = "DIRECTORY", env = "PODSHIM_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Where CNI plugins are; can be given several times
    #[arg(long, value_name = "DIRECTORY", env = "PODSHIM_CNI_BIN_DIR", value_delimiter = ',',
          default_values = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"])]
    cni_bin_dir: Vec<PathBuf>,
}

impl CniPlaces {
    /// The network that they make. Whoever attaches to it has another working directory.
    pub(super) fn network(&self) -> Result<CniNetwork> {
        let bin_dirs = self.cni_bin_dir.iter().map(std::path::absolute).collect::<std::io::Result<_>>()?;
        Ok(CniNetwork { conf_dir: std::path::absolute(&self.cni_conf_dir)?, bin_dirs })
    }
}

pub(super) fn run(args: CniArgs, dirs: &Dirs) -> Result<()> {
    match args.verb {
        CniVerb::Status(places) => output::line(format_args!("network {}: ready", cni::status(&places.network()?)?)),
        CniVerb::Check { pods } => check(&pods, dirs),
        CniVerb::Gc => {
            for network in cni::gc(&dirs.network(), &dirs.pods())? {
                output::line(format_args!("network {network}: done"))?;
            }
            Ok(())
        }
    }
}

/// All of them, whatever is found of one.
fn check(named: &[String], dirs: &Dirs) -> Result<()> {
    let all = named.is_empty();
    let pods = recover::find_all(dirs, named)?;
    let mut wrong = 0;
    for pod in &pods {
        let what = match cni::check(&dirs.network(), &pod.record.plan.sandbox.uid) {
            Ok(Checked::NotAttached) if all => continue,
            Ok(Checked::Fine) => "as it was made".to_owned(),
            Ok(Checked::Disabled) => "not checked: disableCheck".to_owned(),
            Ok(Checked::TooOld) => "not checked: CNI has CHECK since version 0.4.0".to_owned(),
            Ok(Checked::NotAttached) => "on no network of CNI plugins".to_owned(),
            Err(error) => {
                wrong += 1;
                output::one_line(&format!("{error:#}"))
            }
        };
        output::line(format_args!("{}: {what}", pod.full_name()))?;
    }
    match wrong {
        0 => Ok(()),
        _ => {
            Err(failure(Kind::NotReady, format!("the network of {wrong} of {} pods is not as it was made", pods.len())))
        }
    }
}
