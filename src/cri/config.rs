//! `cri.toml`, the configuration of `podshim cri`.
//!
//! Every key may be left out; an unknown one is an error, with its line. `podshim cri --print-config` prints what holds.
//!
//! ```toml
//! # How cgroups are made; systemd's driver is not there. A kubelet is told (RuntimeConfig).
//! cgroup_driver = "cgroupfs"
//! # Where seccompProfile.localhostProfile is looked up, if a name comes that is no absolute path.
//! seccomp_profile_root = "/var/lib/kubelet/seccomp"
//!
//! [registry]
//! # Mirrors, certificates and plain HTTP: a tree of `<registry>/hosts.toml`, in containerd's format. A tree of containerd's own
//! # can be given too: /etc/containerd/certs.d. Empty: none.
//! config_path = "/etc/podshim/certs.d"
//!
//! [network]
//! # CNI: the first configuration by name counts, and plugins are looked for in this order.
//! conf_dir = "/etc/cni/net.d"
//! bin_dirs = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"]
//! # What pods get while there is no CNI configuration: podshim's own "bridge"; or "wait", the node's network is not ready.
//! without_cni = "bridge"
//!
//! [streaming]
//! # Where exec, attach and port-forward are served: a loopback address, unless TLS is configured. Port 0: any that is free.
//! address = "127.0.0.1"
//! port = 0
//! # How long a URL can be used in seconds, and how long a session may be silent (0: for ever).
//! url_ttl_seconds = 60
//! idle_timeout_seconds = 14400
//! # TLS, both or neither: PEM files.
//! # tls_cert_file = "/etc/podshim/streaming.crt"
//! # tls_key_file = "/etc/podshim/streaming.key"
//!
//! [nri]
//! # The Node Resource Interface: plugins connect to the socket, and those in plugin_path are started with the daemon.
//! enabled = false
//! socket_path = "/var/run/nri/nri.sock"
//! plugin_path = "/opt/nri/plugins"
//! plugin_config_path = "/etc/nri/conf.d"
//! plugin_registration_timeout_seconds = 5
//! plugin_request_timeout_seconds = 2
//!
//! [checkpoint]
//! # The criu that makes checkpoints of containers. Empty: where PATH has it, if it has.
//! criu_path = ""
//!
//! # OCI runtimes that can run a sandbox's containers, by the handler that a RuntimeClass names. The own executor is "" and
//! # "podshim".
//! # [runtime_handlers.crun]
//! # path = "/usr/bin/crun"
//! # args = []                      # before the runtime's own verb, like ["--debug"]
//! ```

use super::{nri, streaming};
use crate::error::{Kind, failure};
use crate::plan::config::CniNetwork;
use crate::plan::security::SECCOMP_ROOT;
use anyhow::{Context, Result};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where it is looked for if it is not named.
const DEFAULT_PATH: &str = "/etc/podshim/cri.toml";
/// The longest file in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// The longest time in seconds that can be configured: a year.
const MAX_SECONDS: u64 = 366 * 24 * 3600;
/// The names of podshim's own executor.
const OWN: &str = "podshim";

/// `cri.toml`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How cgroups are made.
    pub cgroup_driver: CgroupDriver,
    /// Where `localhostProfile` is looked up.
    pub seccomp_profile_root: SeccompRoot,
    /// Registries.
    pub registry: Registry,
    /// The pods' network.
    pub network: Network,
    /// The streaming server.
    pub streaming: Streaming,
    /// The Node Resource Interface.
    pub nri: Nri,
    /// Checkpoints of containers.
    pub checkpoint: Checkpoint,
    /// OCI runtimes by handler.
    pub runtime_handlers: BTreeMap<String, RuntimeHandler>,
}

/// Checkpoints of containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// The criu that makes them; empty: where PATH has it.
    pub criu_path: PathBuf,
}

/// How cgroups are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// By mkdir(2).
    #[default]
    Cgroupfs,
}

/// A directory of seccomp profiles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SeccompRoot(pub PathBuf);

impl Default for SeccompRoot {
    fn default() -> Self {
        SeccompRoot(SECCOMP_ROOT.into())
    }
}

/// Registries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// The tree of `<registry>/hosts.toml`; empty: none.
    pub config_path: PathBuf,
}

impl Default for Registry {
    fn default() -> Self {
        Registry { config_path: "/etc/podshim/certs.d".into() }
    }
}

/// The pods' network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Where CNI configurations are.
    pub conf_dir: PathBuf,
    /// Where CNI plugins are.
    pub bin_dirs: Vec<PathBuf>,
    /// What pods get while there is no CNI configuration.
    pub without_cni: WithoutCni,
}

/// What pods get while there is no CNI configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WithoutCni {
    /// Podshim's own bridge.
    #[default]
    Bridge,
    /// None: the network is not ready.
    Wait,
}

impl Default for Network {
    fn default() -> Self {
        Network {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"].map(PathBuf::from).to_vec(),
            without_cni: WithoutCni::default(),
        }
    }
}

impl Network {
    /// Where CNI's files are.
    pub fn cni(&self) -> CniNetwork {
        CniNetwork { conf_dir: self.conf_dir.clone(), bin_dirs: self.bin_dirs.clone() }
    }
}

/// The streaming server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streaming {
    /// Where it listens.
    pub address: IpAddr,
    /// 0: any port that is free.
    pub port: u16,
    /// How long a URL can be used.
    pub url_ttl_seconds: u64,
    /// How long a session may be silent; 0: for ever.
    pub idle_timeout_seconds: u64,
    /// The certificate and those above it, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
}

impl Default for Streaming {
    fn default() -> Self {
        Streaming {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            url_ttl_seconds: 60,
            idle_timeout_seconds: 4 * 3600,
            tls_cert_file: None,
            tls_key_file: None,
        }
    }
}

/// The Node Resource Interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nri {
    /// Whether there is one.
    pub enabled: bool,
    /// Where plugins connect.
    pub socket_path: PathBuf,
    /// Plugins that are started with the daemon.
    pub plugin_path: PathBuf,
    /// Their configurations.
    pub plugin_config_path: PathBuf,
    /// How long a plugin may take to register.
    pub plugin_registration_timeout_seconds: u64,
    /// How long a plugin may take to answer.
    pub plugin_request_timeout_seconds: u64,
}

impl Default for Nri {
    fn default() -> Self {
        Nri {
            enabled: false,
            socket_path: "/var/run/nri/nri.sock".into(),
            plugin_path: "/opt/nri/plugins".into(),
            plugin_config_path: "/etc/nri/conf.d".into(),
            plugin_registration_timeout_seconds: 5,
            plugin_request_timeout_seconds: 2,
        }
    }
}

/// An OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeHandler {
    /// The binary.
    pub path: PathBuf,
    /// Arguments before the runtime's verb.
    #[serde(default)]
    pub args: Vec<String>,
}

impl Config {
    /// The configuration of a file, which must be there if it is named; else that of the default one if it is there.
    pub fn load(named: Option<&Path>) -> Result<Config> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        let invalid = || format!("configuration {}", path.display());
        let file = match File::open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound && named.is_none() => return Ok(Config::default()),
            other => other.with_context(invalid)?,
        };
        // It names programs that run as whoever serves.
        let found = file.metadata().with_context(invalid)?;
        if ![0, geteuid().as_raw()].contains(&found.uid()) || found.mode() & 0o022 != 0 {
            let whose = format!("it is of user {}, mode {:04o}", found.uid(), found.mode() & 0o7777);
            let text = format!("{whose}: another one could change it (chown root, chmod go-w)");
            return Err(failure(Kind::Forbidden, text)).with_context(invalid);
        }
        let mut text = String::new();
        file.take(MAX_SIZE + 1).read_to_string(&mut text).with_context(invalid)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(failure(Kind::Invalid, format!("it has more than {MAX_SIZE} bytes"))).with_context(invalid);
        }
        Config::parse(&text).with_context(invalid)
    }

    /// The configuration that a text is.
    pub fn parse(text: &str) -> Result<Config> {
        let config: Config =
            toml::from_str(text).map_err(|e| failure(Kind::Invalid, e.to_string().trim_end().to_owned()))?;
        let faults = config.faults();
        match faults.is_empty() {
            true => Ok(config),
            false => Err(failure(Kind::Invalid, faults.join("; "))),
        }
    }

    /// It as a file with all keys.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("writing the configuration")
    }

    /// The OCI runtime of a handler; `None` is podshim's own executor.
    pub fn runtime(&self, handler: &str) -> Result<Option<&RuntimeHandler>> {
        if handler.is_empty() || handler == OWN {
            return Ok(None);
        }
        let known = || {
            let names: Vec<&str> = [OWN].into_iter().chain(self.runtime_handlers.keys().map(String::as_str)).collect();
            failure(Kind::Invalid, format!("unknown runtime handler {handler:?}: there are {}", names.join(", ")))
        };
        self.runtime_handlers.get(handler).map(Some).ok_or_else(known)
    }

    /// The names of all handlers, the default one first.
    pub fn handlers(&self) -> impl Iterator<Item = &str> {
        ["", OWN].into_iter().chain(self.runtime_handlers.keys().map(String::as_str))
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut paths = vec![
            ("seccomp_profile_root", &self.seccomp_profile_root.0),
            ("network.conf_dir", &self.network.conf_dir),
            ("nri.socket_path", &self.nri.socket_path),
            ("nri.plugin_path", &self.nri.plugin_path),
            ("nri.plugin_config_path", &self.nri.plugin_config_path),
        ];
        paths.extend(self.network.bin_dirs.iter().map(|path| ("network.bin_dirs", path)));
        if !self.registry.config_path.as_os_str().is_empty() {
            paths.push(("registry.config_path", &self.registry.config_path));
        }
        if !self.checkpoint.criu_path.as_os_str().is_empty() {
            paths.push(("checkpoint.criu_path", &self.checkpoint.criu_path));
        }
        let tls = [("tls_cert_file", &self.streaming.tls_cert_file), ("tls_key_file", &self.streaming.tls_key_file)];
        paths.extend(tls.iter().filter_map(|(key, path)| Some((*key, path.as_ref()?))));
        for (key, path) in paths {
            if !path.is_absolute() {
                faults.push(format!("{key}: {path:?} is no absolute path"));
            }
        }
        for (key, seconds, least) in [
            ("streaming.url_ttl_seconds", self.streaming.url_ttl_seconds, 1),
            ("streaming.idle_timeout_seconds", self.streaming.idle_timeout_seconds, 0),
            ("nri.plugin_registration_timeout_seconds", self.nri.plugin_registration_timeout_seconds, 1),
            ("nri.plugin_request_timeout_seconds", self.nri.plugin_request_timeout_seconds, 1),
        ] {
            if !(least..=MAX_SECONDS).contains(&seconds) {
                faults.push(format!("{key}: {seconds} is not from {least} to {MAX_SECONDS}"));
            }
        }
        faults.extend(self.streaming.faults());
        faults.extend(self.runtime_handlers.iter().flat_map(|(name, handler)| handler.faults(name)));
        faults
    }
}

impl Nri {
    /// As `nri` takes them.
    pub(super) fn settings(&self) -> nri::Settings {
        let plugins = Some(self.plugin_path.clone()).filter(|directory| directory.is_dir());
        nri::Settings {
            socket: self.enabled.then(|| self.socket_path.clone()),
            plugins: plugins.filter(|_| self.enabled),
            plugin_configs: self.plugin_config_path.clone(),
            timeouts: nri::Timeouts {
                registration: Duration::from_secs(self.plugin_registration_timeout_seconds),
                request: Duration::from_secs(self.plugin_request_timeout_seconds),
            },
        }
    }
}

impl Streaming {
    /// As the server takes them.
    pub(super) fn settings(&self) -> streaming::Config {
        let forever = Duration::from_secs(MAX_SECONDS);
        let idle = Some(self.idle_timeout_seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let files = self.tls_cert_file.clone().zip(self.tls_key_file.clone());
        streaming::Config {
            address: SocketAddr::new(self.address, self.port),
            tls: files.map(|(certificate, key)| streaming::Tls { certificate, key }),
            timeouts: streaming::Timeouts {
                idle: idle.unwrap_or(forever),
                token: Duration::from_secs(self.url_ttl_seconds),
                ..streaming::Timeouts::default()
            },
        }
    }

    fn faults(&self) -> Option<String> {
        match (&self.tls_cert_file, &self.tls_key_file) {
            (None, None) if !self.address.is_loopback() => Some(format!(
                "streaming.address: {} can be reached from elsewhere: that takes tls_cert_file and tls_key_file",
                self.address
            )),
            (None, None) | (Some(_), Some(_)) => None,
            _ => Some("streaming: tls_cert_file and tls_key_file come together".to_owned()),
        }
    }
}

impl RuntimeHandler {
    fn faults(&self, name: &str) -> Vec<String> {
        let mut faults = Vec::new();
        // RuntimeClass.handler is a DNS label (validation of node.k8s.io/v1).
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_label = (1..=63).contains(&name.len()) && name.bytes().all(inner);
        if !is_label || name.starts_with('-') || name.ends_with('-') {
            faults.push(format!("runtime_handlers: {name:?} is not 1 to 63 of a-z, 0-9 and -"));
        }
        if name == OWN {
            faults.push(format!("runtime_handlers: {OWN} is podshim's own executor"));
        }
        if !self.path.is_absolute() {
            faults.push(format!("runtime_handlers.{name}.path: no absolute path"));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_is_the_default() {
        let source = include_str!("config.rs");
        let documented: Vec<&str> = source
            .lines()
            .skip_while(|line| *line != "//! ```toml")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| line.trim_start_matches("//!").trim_start())
            .collect();
        let text = documented.join("\n");
        assert!(text.contains("[nri]"), "{text}");
        assert_eq!(Config::parse(&text).unwrap(), Config::default());
        let all = text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
        let all: Vec<&str> = all.filter(|line| line.contains(" = ") || line.starts_with('[')).collect();
        let all = Config::parse(&all.join("\n")).unwrap();
        assert_eq!(all.runtime("crun").unwrap().unwrap().path, Path::new("/usr/bin/crun"));
        assert!(all.streaming.tls_key_file.is_some());
    }

    #[test]
    fn what_is_printed_is_read_again() {
        let text = "[runtime_handlers.crun]\npath = \"/usr/bin/crun\"\n[streaming]\nport = 10010\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(Config::parse(&config.to_toml().unwrap()).unwrap(), config);
        assert_eq!(config.handlers().collect::<Vec<_>>(), ["", "podshim", "crun"]);
    }

    #[test]
    fn faults_are_named() {
        for (text, parts) in [
            ("x = 1", &["line 1", "unknown field `x`"][..]),
            ("[registry]\n\nmirrors = []", &["line 3", "mirrors"]),
            ("[nri]\nenabled = 1", &["line 2", "expected a boolean"]),
            ("cgroup_driver = \"systemd\"", &["line 1", "cgroupfs"]),
            ("[network]\nwithout_cni = \"host\"", &["line 2", "`bridge`"]),
            ("[registry]\nconfig_path = \"certs.d\"", &["registry.config_path", "absolute"]),
            ("[checkpoint]\ncriu_path = \"criu\"", &["checkpoint.criu_path", "absolute"]),
            ("[streaming]\naddress = \"0.0.0.0\"", &["streaming.address: 0.0.0.0", "tls_cert_file"]),
            ("[streaming]\naddress = \"host\"", &["line 2", "IP address"]),
            ("[streaming]\ntls_cert_file = \"/x\"", &["come together"]),
            ("[streaming]\nurl_ttl_seconds = 0", &["url_ttl_seconds: 0 is not from 1"]),
            ("[streaming]\nport = 65536", &["line 2", "65536"]),
            ("[runtime_handlers.podshim]\npath = \"/x\"", &["own executor"]),
            ("[runtime_handlers.Crun]\npath = \"/x\"", &["\"Crun\" is not"]),
            ("[runtime_handlers.a]\npath = \"x\"", &["runtime_handlers.a.path"]),
            ("[runtime_handlers.a]\n", &["missing field `path`"]),
            ("[runtime_handlers.a]\npath = \"/x\"\nruntime_type = \"v2\"", &["line 3", "runtime_type"]),
        ] {
            let error = format!("{:#}", Config::parse(text).unwrap_err());
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
        assert!(Config::default().runtime("kata").is_err());
        assert!(Config::default().runtime("").unwrap().is_none());
    }

    #[test]
    fn a_named_file_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cri.toml");
        assert!(Config::load(Some(&path)).is_err());
        std::fs::write(&path, "[nri]\nenabled = false").unwrap();
        assert!(!Config::load(Some(&path)).unwrap().nri.enabled);
        std::fs::write(&path, "nri = 1").unwrap();
        let error = format!("{:#}", Config::load(Some(&path)).unwrap_err());
        assert!(error.contains("cri.toml") && error.contains("line 1"), "{error}");
    }

    #[test]
    fn a_file_that_others_could_change_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cri.toml");
        std::fs::write(&path, "").unwrap();
        for (mode, is_taken) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let loaded = Config::load(Some(&path)).map_err(|error| format!("{error:#}"));
            assert_eq!(loaded.is_ok(), is_taken, "{mode:o}");
            assert!(loaded.err().is_none_or(|error| error.contains("another one could change it")));
        }
    }
}
