//! The image configuration: what a container of the image runs, and as whom (image-spec 1.1, config.md).

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::layer::Layer;
use crate::clock::Civil;

/// Where a shell looks for programs, as Docker's images have it.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container of the image runs, in the specification's words. Empty fields are left out of the JSON.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: String,
    /// `80/tcp`, `53/udp`.
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`, in this order.
    pub env: Vec<String>,
    /// The words before the arguments.
    pub entrypoint: Vec<String>,
    /// The arguments, or the whole command without an entrypoint.
    pub cmd: Vec<String>,
    /// Paths that hold data.
    pub volumes: BTreeSet<String>,
    /// Where the command starts.
    pub working_dir: String,
    /// Free-form.
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM`, `SIGRTMIN+3`, `15`.
    pub stop_signal: String,
    /// In Go's words (`amd64`, `arm64`); that of this machine when empty.
    pub architecture: String,
}

impl Config {
    /// The architecture, in Go's words.
    pub fn architecture(&self) -> &str {
        match (self.architecture.as_str(), env::consts::ARCH) {
            ("", "x86_64") => "amd64",
            ("", "aarch64") => "arm64",
            ("", "x86") => "386",
            ("", other) => other,
            (given, _) => given,
        }
    }

    /// The configuration blob. `created` is in seconds since 1970.
    pub fn to_json(&self, created: u64, layers: &[Layer]) -> Value {
        let created = Civil::from_unix(Duration::from_secs(created)).rfc3339();
        let set = |names: &BTreeSet<String>| -> Value {
            Value::Object(names.iter().map(|name| (name.clone(), json!({}))).collect())
        };
        let fields = [
            ("User", json!(self.user)),
            ("ExposedPorts", set(&self.exposed_ports)),
            ("Env", json!(self.env)),
            ("Entrypoint", json!(self.entrypoint)),
            ("Cmd", json!(self.cmd)),
            ("Volumes", set(&self.volumes)),
            ("WorkingDir", json!(self.working_dir)),
            ("Labels", json!(self.labels)),
            ("StopSignal", json!(self.stop_signal)),
        ];
        let config: Map<_, _> = fields.into_iter().filter(|f| !is_empty(&f.1)).map(|(k, v)| (k.into(), v)).collect();
        let history = json!({ "created": created, "created_by": "rootfs-tools" });
        json!({
            "created": created,
            "architecture": self.architecture(),
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>() },
            "history": vec![history; layers.len()],
        })
    }

    /// Adds the usual `PATH` unless there is one.
    pub fn default_path(&mut self) {
        if !self.env.iter().any(|e| e.starts_with("PATH=")) {
            self.env.insert(0, DEFAULT_PATH.to_string());
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// The words of `--entrypoint` and `--cmd`: one JSON array (`["git", "--version"]`), or each value one word.
pub fn words(values: &[String]) -> Result<Vec<String>> {
    match values {
        [one] if one.starts_with('[') && one.ends_with(']') && one.len() > 2 => {
            serde_json::from_str(one).with_context(|| format!("{one} is not a JSON array of strings"))
        }
        words => Ok(words.to_vec()),
    }
}

/// An exposed port in full: `80` is `80/tcp`.
pub fn port(value: &str) -> Result<String> {
    let (number, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let number: u16 = number.parse().with_context(|| format!("{value}: not a port number"))?;
    if number == 0 || !matches!(protocol, "tcp" | "udp" | "sctp") {
        bail!("{value}: expected PORT, PORT/tcp, PORT/udp or PORT/sctp");
    }
    Ok(format!("{number}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_are_left_out() {
        let config = Config { cmd: vec!["sh".into()], architecture: "amd64".into(), ..Config::default() };
        let json = config.to_json(0, &[]);
        assert_eq!(json["config"], json!({ "Cmd": ["sh"] }));
        assert_eq!(json["created"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn words_and_ports() {
        let given = |values: &[&str]| words(&values.iter().map(ToString::to_string).collect::<Vec<_>>()).ok();
        assert_eq!(given(&[r#"["git", "-x"]"#]), Some(vec!["git".into(), "-x".into()]));
        assert_eq!(given(&["[", "-f"]), Some(vec!["[".into(), "-f".into()]));
        assert_eq!(given(&["[git]"]), None);
        for (value, expected) in
            [("80", Some("80/tcp")), ("53/udp", Some("53/udp")), ("0", None), ("1/x", None), ("a", None)]
        {
            assert_eq!(port(value).ok().as_deref(), expected, "{value}");
        }
    }
}
