//! Network configurations: which one counts, and what it must say (CNI specification 1.1, section 1).

use crate::error::{Kind, failure};
use crate::plan::network::CniNetwork;
use crate::sys::{Called, SysResult};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// How the names of network configurations end.
const EXTENSIONS: &[&str] = &["conflist", "conf", "json"];

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// The most bytes that a configuration may have.
const MAX_CONFIG: u64 = 1 << 20;
/// The most plugins of one network.
const MAX_PLUGINS: usize = 64;

/// A version of the specification. In the order of their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Version {
    /// The first with chains of plugins.
    #[serde(rename = "0.3.0")]
    V0_3_0,
    #[serde(rename = "0.3.1")]
    V0_3_1,
    /// CHECK; the result of ADD is given to DEL too.
    #[serde(rename = "0.4.0")]
    V0_4_0,
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// GC and STATUS; configurations that name several versions.
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    pub(super) const ALL: [Version; 5] =
        [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.as_str() == text)
    }

    fn all() -> String {
        Version::ALL.map(Version::as_str).join(", ")
    }
}

/// One network: a chain of plugins. Cached with the pod as it was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkConfig {
    /// The file that it was read from.
    pub(super) file: PathBuf,
    /// `name`
    pub(super) name: String,
    /// The versions that it may be performed by, the lowest first; at least one.
    pub(super) versions: Vec<Version>,
    /// `disableCheck`
    pub(super) disable_check: bool,
    /// `disableGC`
    pub(super) disable_gc: bool,
    /// The plugins' own objects, as they were written; at least one.
    pub(super) plugins: Vec<Plugin>,
}

/// A plugin's part of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plugin {
    /// `type`, which is the name of its executable.
    pub(super) kind: String,
    /// Everything that was written, `type` too.
    pub(super) config: Object,
}

impl Plugin {
    fn new(config: Value) -> Result<Plugin> {
        let Value::Object(config) = config else { bail!("a plugin's part is {}, not an object", shape(&config)) };
        let kind = string(&config, "type")?.context("no \"type\": which plugin?")?;
        // It is looked for in directories of plugins, and must not lead out of them.
        if !is_file_name(&kind) {
            bail!("type {kind:?} is no plain file name");
        }
        Ok(Plugin { kind, config })
    }

    /// Whether `capabilities` says so of this one.
    pub(super) fn has_capability(&self, name: &str) -> bool {
        self.config.get("capabilities").and_then(|all| all.get(name)).and_then(Value::as_bool) == Some(true)
    }

    /// The plugin that this one has addresses assigned by.
    pub(super) fn ipam(&self) -> Option<&str> {
        self.config.get("ipam")?.get("type")?.as_str().filter(|kind| is_file_name(kind))
    }
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && ![".", ".."].contains(&text) && !text.contains(['/', '\\', '\0'])
}

/// What the specification allows as a network's name and as a container's id.
pub(super) fn is_identifier(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() <= 255 && text.bytes().all(is_fine) && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn string(object: &Object, key: &str) -> Result<Option<String>> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => bail!("{key:?} is {}, not a string", shape(other)),
    }
}

/// Version 0.4.0 of the specification calls `disableCheck` a string; all that wrote it wrote a boolean.
fn boolean(object: &Object, key: &str, default: bool) -> Result<bool> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(other) => bail!("{key:?} is {other}, not a boolean"),
    }
}

/// Whether there is a file that could be one.
pub(super) fn is_there(network: &CniNetwork) -> Result<bool> {
    Ok(!files(&network.conf_dir, EXTENSIONS)?.is_empty())
}

/// The configuration that counts: of the first file by name.
pub(super) fn find(network: &CniNetwork) -> Result<NetworkConfig> {
    let directory = &network.conf_dir;
    let files = files(directory, EXTENSIONS)?;
    let Some(file) = files.first() else {
        let message = format!(
            "there is no CNI network configuration: no file *.conflist, *.conf or *.json in {} (--cni-conf-dir, or network.conf_dir of podshim cri)",
            directory.display()
        );
        return Err(failure(Kind::NotFound, message));
    };
    read(file).with_context(|| format!("CNI network configuration {}", file.display()))
}

/// The files of a directory with one of these extensions, by name; none if there is no such directory.
fn files(directory: &Path, extensions: &[&str]) -> SysResult<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.called("opendir", directory.display())?,
    };
    let paths: SysResult<Vec<PathBuf>> =
        entries.map(|entry| Ok(entry.called("readdir", directory.display())?.path())).collect();
    let has_one = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| extensions.contains(&extension)) && path.is_file()
    };
    let mut paths: Vec<PathBuf> = paths?.into_iter().filter(has_one).collect();
    paths.sort();
    Ok(paths)
}

fn read_object(path: &Path) -> Result<Object> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).called("open", path.display())?;
    file.take(MAX_CONFIG + 1).read_to_end(&mut text).called("read", path.display())?;
    if text.len() as u64 > MAX_CONFIG {
        bail!("it has more than {MAX_CONFIG} bytes");
    }
    match serde_json::from_slice(&text)? {
        Value::Object(object) => Ok(object),
        other => bail!("it is {}, not an object", shape(&other)),
    }
}

fn read(file: &Path) -> Result<NetworkConfig> {
    let mut object = read_object(file)?;
    let name = string(&object, "name")?.context("it has no \"name\"")?;
    if !is_identifier(&name) {
        bail!("name {name:?}: it takes letters, digits and ._- after a letter or a digit");
    }
    let versions = versions(&object)?;
    let disable_check = boolean(&object, "disableCheck", false)?;
    let disable_gc = boolean(&object, "disableGC", false)?;
    let is_list = file.extension().is_some_and(|extension| extension == "conflist");
    let plugins = match object.remove("plugins") {
        _ if !is_list && object.contains_key("type") => vec![Plugin::new(Value::Object(object))?],
        None | Some(Value::Null) if !is_list => bail!("no \"type\": a list of plugins is a file *.conflist"),
        found => plugins_of(file, &name, (&object, found))?,
    };
    Ok(NetworkConfig { file: file.to_owned(), name, versions, disable_check, disable_gc, plugins })
}

/// The plugins of a list; after those written in it, those in files of their own in a folder named as the network is, if it
/// does not say otherwise (`loadOnlyInlinedPlugins`).
fn plugins_of(file: &Path, name: &str, (list, inlined): (&Object, Option<Value>)) -> Result<Vec<Plugin>> {
    let mut plugins = Vec::new();
    match inlined {
        None | Some(Value::Null) => {}
        Some(Value::Array(all)) => {
            for (index, plugin) in all.into_iter().enumerate() {
                plugins.push(Plugin::new(plugin).with_context(|| format!("plugins[{index}]"))?);
            }
        }
        Some(other) => bail!("\"plugins\" is {}, not a list", shape(&other)),
    }
    if !boolean(list, "loadOnlyInlinedPlugins", false)? {
        for file in files(&file.with_file_name(name), &["conf"])? {
            let plugin = read_object(&file).and_then(|object| Plugin::new(Value::Object(object)));
            plugins.push(plugin.with_context(|| file.display().to_string())?);
        }
    }
    match plugins.len() {
        0 => bail!("it has no plugins"),
        count if count > MAX_PLUGINS => bail!("it has {count} plugins, more than {MAX_PLUGINS}"),
        _ => Ok(plugins),
    }
}

/// `cniVersion` and `cniVersions`: those of them that podshim knows.
fn versions(object: &Object) -> Result<Vec<Version>> {
    let mut written: Vec<String> = string(object, "cniVersion")?.into_iter().collect();
    match object.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(all)) => {
            for version in all {
                written.push(version.as_str().with_context(|| format!("cniVersions: {version}"))?.to_owned());
            }
        }
        Some(other) => bail!("\"cniVersions\" is {}, not a list", shape(other)),
    }
    if written.is_empty() {
        bail!("it has no \"cniVersion\"; known are {}", Version::all());
    }
    let mut known: Vec<Version> = written.iter().filter_map(|text| Version::parse(text)).collect();
    known.sort();
    known.dedup();
    if known.is_empty() {
        bail!("it is of version {}; known are {}", written.join(", "), Version::all());
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files.
    fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, CniNetwork) {
        let temporary = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = temporary.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let network = CniNetwork { conf_dir: temporary.path().to_owned(), bin_dirs: Vec::new() };
        (temporary, network)
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let (_keep, network) = directory(&[
            ("20-b.conflist", r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"b"}]}"#),
            ("10-a.conf", r#"{"cniVersion":"0.3.1","name":"a","type":"one","bridge":"x"}"#),
            ("00-readme.txt", "nothing"),
            ("05-directory.conf/x", ""),
        ]);
        let config = find(&network).unwrap();
        assert_eq!((&*config.name, &config.versions[..]), ("a", &[Version::V0_3_1][..]));
        assert_eq!((config.plugins.len(), &*config.plugins[0].kind), (1, "one"));
        assert_eq!(config.plugins[0].config["bridge"], "x");
        std::fs::remove_file(network.conf_dir.join("10-a.conf")).unwrap();
        assert_eq!(find(&network).unwrap().name, "b");
        std::fs::remove_file(network.conf_dir.join("20-b.conflist")).unwrap();
        let error = find(&network).unwrap_err().to_string();
        assert!(error.contains("no file *.conflist, *.conf or *.json in /"), "{error}");
        let nowhere = CniNetwork { conf_dir: "/nonexistent/net.d".into(), bin_dirs: Vec::new() };
        assert!(find(&nowhere).unwrap_err().to_string().contains("/nonexistent/net.d"));
    }

    #[test]
    fn a_list_has_plugins_in_a_folder_too() {
        let list = r#"{"cniVersion":"1.1.0","cniVersions":["1.0.0","9.0.0","0.4.0"],"name":"n","disableCheck":"true",
            "disableGC":true,"plugins":[{"type":"first"}]LOAD}"#;
        for (load, kinds) in
            [("", vec!["first", "second", "third"]), (",\"loadOnlyInlinedPlugins\":true", vec!["first"])]
        {
            let (_keep, network) = directory(&[
                ("a.conflist", &list.replace("LOAD", load)),
                ("n/2.conf", r#"{"type":"third"}"#),
                ("n/1.conf", r#"{"type":"second"}"#),
                ("n/0.json", "not read"),
            ]);
            let config = find(&network).unwrap();
            assert_eq!(config.plugins.iter().map(|p| p.kind.as_str()).collect::<Vec<_>>(), kinds);
            assert_eq!(config.versions, [Version::V0_4_0, Version::V1_0_0, Version::V1_1_0]);
            assert!(config.disable_check && config.disable_gc);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (file, text, said) in [
            ("a.conflist", r#"{"name":"n","plugins":[{"type":"x"}]}"#, "no \"cniVersion\""),
            (
                "a.conflist",
                r#"{"cniVersion":"0.2.0","name":"n","plugins":[{"type":"x"}]}"#,
                "of version 0.2.0; known are",
            ),
            ("a.conflist", r#"{"cniVersion":1,"name":"n"}"#, "\"cniVersion\" is a number"),
            ("a.conflist", r#"{"cniVersion":"1.0.0","plugins":[]}"#, "no \"name\""),
            ("a.conflist", r#"{"cniVersion":"1.0.0","name":"../n","plugins":[]}"#, "name \"../n\""),
            ("a.conflist", r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, "no plugins"),
            ("a.conflist", r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#, "\"plugins\" is an object"),
            (
                "a.conflist",
                r#"{"cniVersion":"1.0.0","name":"n","plugins":["x"]}"#,
                "plugins[0]: a plugin's part is a string",
            ),
            ("a.conflist", r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#, "plugins[0]: no \"type\""),
            (
                "a.conflist",
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../x"}]}"#,
                "\"../x\" is no plain file name",
            ),
            (
                "a.conflist",
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":".."}]}"#,
                "\"..\" is no plain file name",
            ),
            ("a.conflist", r#"{"cniVersion":"1.0.0","name":"n","disableGC":1,"plugins":[]}"#, "\"disableGC\" is 1"),
            ("a.conf", r#"{"cniVersion":"1.0.0","name":"n"}"#, "no \"type\""),
            ("a.conf", r#"[1]"#, "it is a list"),
            ("a.conf", r#"{"#, "EOF"),
        ] {
            let (_keep, network) = directory(&[(file, text)]);
            let error = format!("{:#}", find(&network).unwrap_err());
            assert!(error.contains(said) && error.contains(&format!("/{file}: ")), "{text}: {error}");
        }
        let (_keep, network) = directory(&[("a.conf", &" ".repeat(MAX_CONFIG as usize + 1))]);
        assert!(format!("{:#}", find(&network).unwrap_err()).contains("more than 1048576 bytes"));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let (_keep, network) = directory(&[("a.conf", &deep)]);
        assert!(format!("{:#}", find(&network).unwrap_err()).contains("recursion limit"));
    }
}
