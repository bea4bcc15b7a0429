//! The server's configuration: a TOML file of which every key may be missing.

use super::streaming;
use crate::error::{Kind, failure};
use crate::plan::config::{BridgeNetwork, CniNetwork, NetworkMode};
use crate::plan::security::SECCOMP_ROOT;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where it is looked for unless another place is named.
pub const PATH: &str = "/etc/podshim/cri.toml";

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[network]`
    pub network: Network,
    /// `[streaming]`
    pub streaming: Streaming,
    /// `[registry]`
    pub registry: Registry,
    /// `[nri]`
    pub nri: Nri,
    /// `[seccomp]`
    pub seccomp: Seccomp,
    /// `[runtime_handlers.NAME]`
    pub runtime_handlers: BTreeMap<String, RuntimeHandler>,
}

/// The pods' network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// What pods are given that do not have the host's.
    pub mode: Mode,
    /// Where the network configurations of CNI are; the first by name counts.
    pub conf_dir: PathBuf,
    /// Where CNI plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
}

/// `network.mode`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// CNI if there is a configuration, else the bridge: looked at for each sandbox.
    #[default]
    Auto,
    /// CNI plugins.
    Cni,
    /// podshim's own network.
    Bridge,
    /// Loopback only.
    None,
}

impl Default for Network {
    fn default() -> Network {
        Network {
            mode: Mode::Auto,
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        }
    }
}

/// Where exec, attach and port-forward are served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streaming {
    /// Address and port; a free port of loopback if there is none. Another address takes TLS.
    pub address: Option<SocketAddr>,
    /// `[streaming.tls]`
    pub tls: Option<Tls>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate, and those that lead to one that clients trust.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// A directory with a folder for each registry that has a `hosts.toml`, as containerd has it.
    pub config_path: PathBuf,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry { config_path: "/etc/podshim/certs.d".into() }
    }
}

/// The Node Resource Interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nri {
    /// Where plugins connect; without one there is no NRI.
    pub socket: Option<PathBuf>,
}

/// Seccomp.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seccomp {
    /// Where the files of Localhost profiles are whose path is relative.
    pub profile_root: PathBuf,
}

impl Default for Seccomp {
    fn default() -> Seccomp {
        Seccomp { profile_root: SECCOMP_ROOT.into() }
    }
}

/// A handler that a `RuntimeClass` names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeHandler {
    /// An OCI runtime's binary, absolute.
    pub path: PathBuf,
}

impl Config {
    /// Reads a file; without one named, [`PATH`] if it is there, else the defaults.
    pub fn read(path: Option<&Path>) -> Result<Config> {
        let (path, must_exist) = path.map_or((Path::new(PATH), false), |path| (path, true));
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(Config::default()),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        Config::parse(&text).map_err(|error| failure(Kind::Invalid, format!("{}: {error:#}", path.display())))
    }

    fn parse(text: &str) -> Result<Config> {
        let config: Config = toml::from_str(text)?;
        for (name, handler) in &config.runtime_handlers {
            anyhow::ensure!(
                handler.path.is_absolute(),
                "runtime_handlers.{name}.path {} is not absolute",
                handler.path.display()
            );
        }
        Ok(config)
    }

    /// The OCI runtime of a handler; `None` if podshim itself is meant.
    pub(super) fn handler(&self, name: &str) -> Result<Option<PathBuf>> {
        if ["", "podshim"].contains(&name) {
            return Ok(None);
        }
        let known = || self.runtime_handlers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let found = self.runtime_handlers.get(name).ok_or_else(|| {
            let message = format!("runtime_handler {name:?} is not configured: known are podshim {}", known());
            failure(Kind::Invalid, message)
        })?;
        Ok(Some(found.path.clone()))
    }

    /// What a sandbox that does not have the host's network is given.
    pub(super) fn network_mode(&self) -> NetworkMode {
        let cni = || {
            NetworkMode::Cni(CniNetwork {
                conf_dir: self.network.conf_dir.clone(),
                bin_dirs: self.network.bin_dirs.clone(),
            })
        };
        match self.network.mode {
            Mode::Cni => cni(),
            Mode::Auto if crate::network::cni::is_configured(&self.network.conf_dir) => cni(),
            Mode::Auto | Mode::Bridge => NetworkMode::Bridge,
            Mode::None => NetworkMode::None,
        }
    }

    /// For the streaming server.
    pub(super) fn streaming(&self) -> streaming::Config {
        let default = streaming::Config::default();
        let tls = self.streaming.tls.clone();
        streaming::Config {
            address: self.streaming.address.unwrap_or(default.address),
            tls: tls.map(|Tls { certificate, key }| streaming::Tls { certificate, key }),
            ..default
        }
    }
}
