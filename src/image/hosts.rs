//! `hosts.toml`: where images of a registry come from, in containerd's format (its docs/hosts.md and core/remotes/docker/config).
//!
//! In: a tree `<root>/<registry>/hosts.toml`. Out: the hosts to ask, in order, the registry's own server last. The directory of
//! `registry:5000` is `registry_5000_` or `registry:5000`; `_default` is for registries without one. A directory without a
//! `hosts.toml` has certificates as Docker's (`*.crt`; `*.cert` with `*.key`). Other than containerd, which then goes on without,
//! a file that cannot be read is an error, as is a key that is unknown: somebody relies on what it says.

use super::tls::{ClientFiles, TlsFiles};
use crate::error::{Kind, failure};
use crate::sys::Called;
use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;

/// The longest file in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// The most hosts of one registry.
const MAX_HOSTS: usize = 64;
/// The longest time that a connection may be waited for.
const MAX_DIAL: Duration = Duration::from_secs(300);
/// Headers that are the request's own.
const RESERVED: [&str; 7] =
    ["accept", "connection", "content-length", "content-type", "host", "range", "transfer-encoding"];

/// One host to ask.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// The root of its API, with a slash at the end: `https://mirror.example/v2/`. None: the registry as the reference names it.
    pub(super) api: Option<Url>,
    /// Whether it may be fetched from.
    pub(super) pull: bool,
    /// Whether it may be asked what a tag stands for.
    pub(super) resolve: bool,
    /// Certificates.
    pub(super) tls: TlsFiles,
    /// What it is sent besides, and nobody else.
    pub(super) headers: HeaderMap,
    /// How long to wait for a connection.
    pub(super) dial: Option<Duration>,
}

/// `hosts.toml`; the fields beside `server` and `host` are the server's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<String, HostFields>,
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    header: Option<BTreeMap<String, OneOrMany>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostFields {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    header: Option<BTreeMap<String, OneOrMany>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path, an array of paths, or an array of pairs of paths")]
enum Clients {
    One(String),
    Many(Vec<Client>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    Both(String),
    Pair([String; 2]),
}

/// The hosts of a registry; `None` if the tree says nothing of it.
pub(super) fn load(root: &Path, registry: &str) -> Result<Option<Vec<Host>>> {
    for name in names(registry) {
        let directory = root.join(name);
        match fs::metadata(&directory) {
            Ok(_) => return load_directory(&directory).map(Some),
            // A root that is no directory has nothing in it either, but that is a mistake to be told.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e).called("stat", directory.display()).context("registry configuration"),
        }
    }
    Ok(None)
}

/// The directories that a registry's may be, in the order of precedence.
fn names(registry: &str) -> Vec<String> {
    let port = registry.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let underscored = port.map(|(host, port)| format!("{host}_{port}_"));
    underscored.into_iter().chain([registry.to_owned(), "_default".to_owned()]).collect()
}

fn load_directory(directory: &Path) -> Result<Vec<Host>> {
    let path = directory.join("hosts.toml");
    let mut text = String::new();
    match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        opened => {
            let file = opened.called("open", path.display()).context("registry configuration")?;
            let read = file.take(MAX_SIZE + 1).read_to_string(&mut text);
            read.with_context(|| format!("registry configuration {}", path.display()))?;
        }
    }
    if text.is_empty() {
        let tls = certificates(directory)?;
        return Ok(vec![Host { tls, ..Host::registry() }]);
    }
    let parsed = match text.len() as u64 <= MAX_SIZE {
        true => parse(&text, directory),
        false => Err(failure(Kind::Invalid, format!("it has more than {MAX_SIZE} bytes"))),
    };
    parsed.with_context(|| format!("registry configuration {}", path.display()))
}

/// Docker's layout of certificates.
fn certificates(directory: &Path) -> Result<TlsFiles> {
    let mut tls = TlsFiles::default();
    let list = fs::read_dir(directory).called("opendir", directory.display())?;
    let paths = list.map(|entry| Ok(entry.called("readdir", directory.display())?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    paths.sort();
    for path in paths.into_iter().filter(|path| !path.is_dir()) {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                let key = key.exists().then_some(key);
                tls.clients.push(ClientFiles { certificate: path, key });
            }
            _ => {}
        }
    }
    Ok(tls)
}

/// The hosts of a file; paths in it start from its directory.
fn parse(text: &str, directory: &Path) -> Result<Vec<Host>> {
    let invalid = |error: toml::de::Error| failure(Kind::Invalid, error.to_string().trim_end().to_owned());
    let mut file: HostsFile = toml::from_str(text).map_err(invalid)?;
    let order = order(text).map_err(invalid)?;
    ensure!(order.len() <= MAX_HOSTS, "it has {} hosts, more than {MAX_HOSTS}", order.len());
    let mut hosts = Vec::new();
    for name in order {
        let fields = file.host.remove(&name).unwrap_or_default();
        hosts.push(host(Some(&name), fields, directory).with_context(|| format!("host.{name:?}"))?);
    }
    let fields = HostFields {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
    };
    hosts.push(host(file.server.as_deref().filter(|server| !server.is_empty()), fields, directory)?);
    Ok(hosts)
}

/// The hosts' names as they stand in the file.
fn order(text: &str) -> Result<Vec<String>, toml::de::Error> {
    let table = DeTable::parse(text)?;
    let hosts = table.get_ref().get("host").and_then(|hosts| hosts.get_ref().as_table());
    let keys = hosts.into_iter().flat_map(|hosts| hosts.keys());
    let mut found: Vec<(usize, String)> = keys.map(|key| (key.span().start, key.get_ref().to_string())).collect();
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

impl Host {
    /// The registry itself, with nothing configured.
    pub(super) fn registry() -> Host {
        Host { api: None, pull: true, resolve: true, tls: TlsFiles::default(), headers: HeaderMap::new(), dial: None }
    }
}

fn host(server: Option<&str>, fields: HostFields, directory: &Path) -> Result<Host> {
    let own_path = fields.override_path.unwrap_or(false);
    let api = server.map(|server| api(server, own_path)).transpose()?;
    let (pull, resolve) = match (fields.capabilities.filter(|list| !list.is_empty()), &api) {
        (Some(list), Some(_)) => capabilities(&list)?,
        // Of the registry itself they mean nothing, as in containerd; but they must be right.
        (Some(list), None) => capabilities(&list).map(|_| (true, true))?,
        (None, _) => (true, true),
    };
    let absolute = |path: String| directory.join(path);
    let ca = fields.ca.map(OneOrMany::list).unwrap_or_default().into_iter().map(absolute).collect();
    let clients = match fields.client {
        None => Vec::new(),
        Some(Clients::One(path)) => vec![Client::Both(path)],
        Some(Clients::Many(list)) => list,
    };
    let client = |client: Client| match client {
        Client::Both(path) => ClientFiles { certificate: directory.join(path), key: None },
        Client::Pair([path, key]) => ClientFiles {
            certificate: directory.join(path),
            key: Some(key).filter(|key| !key.is_empty()).map(|key| directory.join(key)),
        },
    };
    let clients = clients.into_iter().map(client).collect();
    Ok(Host {
        api,
        pull,
        resolve,
        tls: TlsFiles { ca, clients, skip_verify: fields.skip_verify },
        headers: headers(fields.header.unwrap_or_default())?,
        dial: fields.dial_timeout.as_deref().map(dial_timeout).transpose()?,
    })
}

impl OneOrMany {
    fn list(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(list) => list,
        }
    }
}

/// The root of a host's API: `/v2` below what is written, unless that is the root already.
fn api(server: &str, own_path: bool) -> Result<Url> {
    let written = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
    let mut url = Url::parse(&written).map_err(|e| failure(Kind::Invalid, format!("{server:?} is no URL: {e}")))?;
    ensure!(matches!(url.scheme(), "http" | "https"), "{server:?}: only http and https are known");
    ensure!(url.host_str().is_some(), "{server:?} has no host");
    ensure!(url.username().is_empty() && url.password().is_none(), "{server:?}: no logins in URLs");
    ensure!(url.query().is_none() && url.fragment().is_none(), "{server:?}: only a host and a path");
    let path = url.path().trim_end_matches('/');
    let path = match own_path || path.ends_with("/v2") {
        true => format!("{path}/"),
        false => format!("{path}/v2/"),
    };
    url.set_path(&path);
    Ok(url)
}

/// Whether images may be pulled, and tags resolved; pushing and referrers are nothing that podshim does.
fn capabilities(list: &[String]) -> Result<(bool, bool)> {
    let (mut pull, mut resolve) = (false, false);
    for name in list {
        match name.to_ascii_lowercase().as_str() {
            "pull" => pull = true,
            "resolve" => resolve = true,
            "push" | "referrers" => {}
            _ => bail!("unknown capability {name:?}: there are pull, resolve, push and referrers"),
        }
    }
    Ok((pull, resolve))
}

/// Headers may be secrets: their values are in no error.
fn headers(fields: BTreeMap<String, OneOrMany>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, values) in fields {
        let key = HeaderName::try_from(name.as_str()).ok().with_context(|| format!("{name:?} is no header"))?;
        ensure!(!RESERVED.contains(&key.as_str()), "header {name:?} is the request's own");
        for value in values.list() {
            let value = HeaderValue::try_from(value).ok();
            let mut value = value.with_context(|| format!("header {name:?}: its value cannot be sent"))?;
            value.set_sensitive(true);
            headers.append(key.clone(), value);
        }
    }
    Ok(headers)
}

/// A duration as Go writes it: `1s`, `1m30s`, `1.5s`, `500ms`.
fn dial_timeout(text: &str) -> Result<Duration> {
    let invalid = || format!("dial_timeout {text:?} is no duration up to 300 s, like \"1s\" or \"500ms\"");
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').with_context(invalid)?;
        let (number, after) = rest.split_at(digits);
        let number: f64 = number.parse().ok().with_context(invalid)?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => bail!(invalid()),
        };
        seconds += number * unit;
        rest = after;
    }
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero() && *d <= MAX_DIAL);
    duration.with_context(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<Host> {
        parse(text, Path::new("/certs/docker.io")).unwrap()
    }

    #[test]
    fn directories_of_a_registry() {
        for (registry, expected) in [
            ("docker.io", &["docker.io", "_default"][..]),
            ("registry:5000", &["registry_5000_", "registry:5000", "_default"]),
            ("[::1]:5000", &["[::1]_5000_", "[::1]:5000", "_default"]),
        ] {
            assert_eq!(names(registry), expected, "{registry}");
        }
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let mirror = |registry: &str| {
            let hosts = load(root.path(), registry).unwrap();
            hosts.map(|hosts| hosts[0].api.as_ref().map(Url::to_string).unwrap_or_default())
        };
        assert_eq!(mirror("a:1"), None);
        for name in ["_default", "a:1", "a_1_"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("hosts.toml"), format!("server = \"https://{name}.example\"")).unwrap_or_default();
            let url = name.replace(':', "-");
            fs::write(at(name).join("hosts.toml"), format!("[host.\"https://{url}.example\"]")).unwrap();
            assert_eq!(mirror("a:1"), Some(format!("https://{url}.example/v2/")), "{name} counts");
        }
        assert_eq!(mirror("b"), Some("https://_default.example/v2/".to_owned()));
        assert!(load(&at("_default/hosts.toml"), "a").is_err(), "a root that is a file");
    }

    #[test]
    fn the_root_of_the_api() {
        for (server, own_path, expected) in [
            ("https://mirror.example", false, "https://mirror.example/v2/"),
            ("mirror.example:5000", false, "https://mirror.example:5000/v2/"),
            ("http://10.0.0.1:5000/", false, "http://10.0.0.1:5000/v2/"),
            ("https://mirror.example/v2", false, "https://mirror.example/v2/"),
            ("https://mirror.example/us", false, "https://mirror.example/us/v2/"),
            ("https://mirror.example/v2/proxy/", true, "https://mirror.example/v2/proxy/"),
            ("https://mirror.example/../x/./y//", false, "https://mirror.example/x/y/v2/"),
            ("https://mirror.example", true, "https://mirror.example/"),
        ] {
            assert_eq!(api(server, own_path).unwrap().as_str(), expected, "{server}");
        }
        for (server, part) in [
            ("httpx://a", "only http"),
            ("ftp://a", "only http"),
            ("https://u:p@a", "logins"),
            ("https://a?x=1", "only a host"),
            ("https://", "no URL"),
        ] {
            let error = format!("{:#}", api(server, false).unwrap_err());
            assert!(error.contains(part), "{server}: {error}");
        }
    }

    #[test]
    fn hosts_are_asked_as_they_stand_there_the_server_last() {
        let hosts = parsed(
            "server = \"https://registry-1.docker.io\"\nca = \"up.crt\"\n\
             [host.\"https://z.example\"]\ncapabilities = [\"pull\"]\nca = [\"a.crt\", \"/b.crt\"]\n\
             [host.\"https://z.example\".header]\nx-a = \"1\"\nx-b = [\"2\", \"3\"]\n\
             [host.\"http://a.example:5000\"]\ncapabilities = [\"Pull\", \"resolve\", \"push\"]\nskip_verify = true\n\
             client = [[\"c.cert\", \"c.key\"], [\"d.pem\", \"\"]]\ndial_timeout = \"1m1.5s\"\n\
             [host.\"https://m.example\"]\nclient = \"e.pem\"\noverride_path = true\n",
        );
        let apis: Vec<&str> = hosts.iter().filter_map(|host| host.api.as_ref()).map(Url::as_str).collect();
        let expected = [
            "https://z.example/v2/",
            "http://a.example:5000/v2/",
            "https://m.example/",
            "https://registry-1.docker.io/v2/",
        ];
        assert_eq!(apis, expected);
        let [z, a, m, server] = hosts.as_slice() else { panic!() };
        assert_eq!((z.pull, z.resolve, a.pull, a.resolve, server.resolve), (true, false, true, true, true));
        assert_eq!(z.tls.ca, [Path::new("/certs/docker.io/a.crt"), Path::new("/b.crt")]);
        assert_eq!((z.headers["x-a"].as_bytes(), z.headers.get_all("x-b").iter().count()), (&b"1"[..], 2));
        assert_eq!((a.tls.skip_verify, a.dial), (Some(true), Some(Duration::from_millis(61_500))));
        let pair = |certificate: &str, key: Option<&str>| ClientFiles {
            certificate: certificate.into(),
            key: key.map(PathBuf::from),
        };
        let clients =
            [pair("/certs/docker.io/c.cert", Some("/certs/docker.io/c.key")), pair("/certs/docker.io/d.pem", None)];
        assert_eq!(a.tls.clients, clients);
        assert_eq!(m.tls.clients, [pair("/certs/docker.io/e.pem", None)]);
        assert_eq!(server.tls.ca, [Path::new("/certs/docker.io/up.crt")]);
    }

    #[test]
    fn without_a_server_the_registry_itself_is_last() {
        let hosts =
            parsed("capabilities = [\"push\"]\nskip_verify = true\n[host.\"https://a.example\".header]\nx = \"1\"\n");
        assert_eq!((hosts.len(), hosts[0].headers.len()), (2, 1));
        assert!(hosts[1].api.is_none() && hosts[1].pull && hosts[1].resolve && hosts[1].tls.skip_verify == Some(true));
        let only = parsed("server = \"mirror.example\"\ncapabilities = [\"resolve\"]\n");
        assert_eq!((only.len(), only[0].pull, only[0].resolve), (1, false, true));
    }

    #[test]
    fn faults_are_named_with_their_line() {
        for (text, parts) in [
            ("x = 1", &["line 1", "unknown field `x`"][..]),
            ("[host.\"https://a\"]\n\nserver = \"b\"", &["line 3", "unknown field `server`"]),
            ("[host.\"https://a\"]\ncapabilities = [\"run\"]", &["https://a", "unknown capability \"run\""]),
            ("capabilities = \"pull\"", &["line 1"]),
            ("ca = 1", &["line 1", "a string or an array"]),
            ("\nclient = [[\"a\"]]", &["line 2", "pairs of paths"]),
            ("dial_timeout = \"5\"", &["dial_timeout \"5\""]),
            ("dial_timeout = \"1d\"", &["dial_timeout"]),
            ("dial_timeout = \"1h\"", &["up to 300 s"]),
            ("dial_timeout = \"\"", &["dial_timeout"]),
            ("[header]\nHost = \"a\"", &["the request's own"]),
            ("[header]\n\"a b\" = \"a\"", &["is no header"]),
            ("[header]\nAuthorization = \"sEcReT\\n\"", &["Authorization", "cannot be sent"]),
            ("server = 1", &["line 1"]),
            ("server = \"a\"\nserver = \"b\"", &["line 2", "duplicate"]),
            ("[host]\n[host.\"https://a\"", &["line 2"]),
        ] {
            let error = format!("{:#}", parse(text, Path::new("/")).map(drop).unwrap_err());
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
            assert!(!error.contains("sEcReT"), "{error}");
        }
    }

    #[test]
    fn certificates_are_found_as_docker_has_them() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("registry.example");
        fs::create_dir(&directory).unwrap();
        for name in ["ca.crt", "me.cert", "me.key", "both.cert", "notes.txt"] {
            fs::write(directory.join(name), "").unwrap();
        }
        let hosts = load(root.path(), "registry.example").unwrap().unwrap();
        assert_eq!(hosts.len(), 1);
        let tls = &hosts[0].tls;
        assert_eq!(tls.ca, [directory.join("ca.crt")]);
        let keys: Vec<Option<PathBuf>> = tls.clients.iter().map(|client| client.key.clone()).collect();
        assert_eq!(keys, [None, Some(directory.join("me.key"))]);
    }
}
