//! Credentials for registries: a pod's own, `$REGISTRY_AUTH_FILE`, podman's and Docker's files, credential helpers.

use crate::plan::config::Login;
use anyhow::{Context, Result, bail};
use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long a credential helper may take; some ask a key ring that waits for a person.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// A login. Never printed, never stored.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password.
    Password(String, String),
    /// An OAuth 2 refresh token, to be exchanged at the token server.
    RefreshToken(String),
    /// A token that the registry itself takes.
    BearerToken(String),
}

/// Where logins are looked for: `$REGISTRY_AUTH_FILE` alone if it is set (it must exist), else podman's file of this
/// login session, then `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
///
/// A pod's own logins come before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthFiles {
    logins: Vec<Login>,
    files: Vec<(PathBuf, Needed)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    Yes,
    No,
}

impl AuthFiles {
    /// As the environment says.
    pub fn from_environment() -> AuthFiles {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(file) = variable("REGISTRY_AUTH_FILE") {
            return AuthFiles::only(&file);
        }
        let podman = variable("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json"));
        let docker = variable("DOCKER_CONFIG").or_else(|| variable("HOME").map(|h| h.join(".docker")));
        let docker = docker.map(|d| d.join("config.json"));
        let files = podman.into_iter().chain(docker).map(|file| (file, Needed::No)).collect();
        AuthFiles { logins: Vec::new(), files }
    }

    /// This file only, which must exist.
    pub fn only(file: &Path) -> AuthFiles {
        AuthFiles { logins: Vec::new(), files: vec![(file.to_owned(), Needed::Yes)] }
    }

    /// No file.
    pub fn none() -> AuthFiles {
        AuthFiles { logins: Vec::new(), files: Vec::new() }
    }

    /// These logins of a pod, which are tried before those of the files.
    pub fn after(self, logins: Vec<Login>) -> AuthFiles {
        AuthFiles { logins, ..self }
    }

    /// The logins for a repository of a registry, in the order in which they are tried: a pod's own, the most specific one
    /// first, then that of the files.
    ///
    /// None at all means anonymous. Errors: a file that is named but missing or unreadable, a helper that fails.
    pub fn candidates(&self, registry: &str, repository: &str) -> Result<Vec<Credential>> {
        let mut own: Vec<(String, &Login)> =
            self.logins.iter().filter_map(|login| Some((scope(&login.server)?, login))).collect();
        own.retain(|(scope, _)| covers(scope, registry, repository));
        // Stable: of the same scope the pod's order counts.
        own.sort_by(|(a, _), (b, _)| b.cmp(a));
        let credential = |(_, login): (String, &Login)| match (&login.registry_token, &login.identity_token) {
            (Some(token), _) => Credential::BearerToken(token.clone()),
            (None, Some(token)) => Credential::RefreshToken(token.clone()),
            (None, None) => Credential::Password(login.username.clone(), login.password.clone()),
        };
        let mut list: Vec<Credential> = own.into_iter().map(credential).collect();
        list.extend(self.find(registry, repository)?);
        Ok(list)
    }

    /// The login that files have for a repository of a registry; of several the most specific (`host/a/b`, `host/a`, `host`).
    ///
    /// `None` means anonymous. Errors: a file that is named but missing or unreadable, a helper that fails.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>> {
        for (file, needed) in &self.files {
            for key in keys(registry, repository) {
                match lookup(file, &key) {
                    Ok(Some(credential)) => return Ok(Some(credential)),
                    Ok(None) => {}
                    Err(e) if *needed == Needed::No && is_not_found(&e) => break,
                    Err(e) => return Err(e).with_context(|| format!("login for {registry} in {}", file.display())),
                }
            }
        }
        Ok(None)
    }
}

/// What a server's name in a Secret stands for: host, port and path, without scheme, `/v1/` and `/v2/` (DockerKeyring.Add in
/// k8s.io/kubernetes/pkg/credentialprovider).
fn scope(server: &str) -> Option<String> {
    let bare = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.strip_prefix("v1/").or_else(|| path.strip_prefix("v2/")).unwrap_or(path);
    let path = if matches!(path, "v1" | "v2") { "" } else { path.trim_matches('/') };
    if host.is_empty() {
        return None;
    }
    Some(if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") })
}

/// Whether a scope covers a repository: its host may have `*` for parts of names (URLsMatch, there), its path is a whole
/// number of the repository's components.
fn covers(scope: &str, registry: &str, repository: &str) -> bool {
    let (host, path) = scope.split_once('/').unwrap_or((scope, ""));
    let hub = registry == "docker.io" && host == "index.docker.io";
    let rest = repository.strip_prefix(path);
    let is_above = path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (hub || host_matches(host, registry)) && is_above
}

fn host_matches(pattern: &str, registry: &str) -> bool {
    let split = |text: &'_ str| -> (String, Option<String>) {
        match text.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host.to_owned(), Some(port.to_owned())),
            _ => (text.to_owned(), None),
        }
    };
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(registry));
    let (parts, wanted): (Vec<&str>, Vec<&str>) = (host.split('.').collect(), pattern.split('.').collect());
    pattern_port == port && parts.len() == wanted.len() && wanted.iter().zip(&parts).all(|(w, p)| glob(w, p))
}

/// `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    if !pattern.contains('*') {
        return rest.is_empty();
    }
    let pieces: Vec<&str> = pieces.collect();
    let (last, inner) = pieces.split_last().map_or(("", &[][..]), |(last, inner)| (*last, inner));
    for piece in inner {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::NotFound)
}

fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    loop {
        keys.push(format!("{registry}/{path}"));
        match path.rsplit_once('/') {
            Some((parent, _)) => path = parent,
            None => break,
        }
    }
    if registry == "docker.io" {
        // What `docker login` writes.
        keys.push("https://index.docker.io/v1/".to_owned());
    }
    keys.push(registry.to_owned());
    keys
}

fn lookup(file: &Path, key: &str) -> Result<Option<Credential>> {
    let reader = BufReader::new(File::open(file)?);
    let (sender, receiver) = mpsc::channel();
    let asked = key.to_owned();
    // A helper is a program that may hang; its thread is left behind then.
    std::thread::spawn(move || sender.send(get_credential_from_reader(reader, &asked)));
    match receiver.recv_timeout(HELPER_TIMEOUT).context("the credential helper does not answer")? {
        Ok(DockerCredential::UsernamePassword(user, _)) if user.is_empty() => Ok(None),
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(Some(Credential::Password(user, password))),
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::RefreshToken(token))),
        Err(CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound) => Ok(None),
        // How docker-credential-helpers say that they have none.
        Err(CredentialRetrievalError::HelperFailure { stdout, stderr, .. })
            if stdout.contains("credentials not found") || stderr.contains("credentials not found") =>
        {
            Ok(None)
        }
        // Its output is not repeated: it may hold a secret.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => bail!("{helper} failed"),
        Err(other) => bail!("{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_login_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        let auth = |user: &str| serde_json::json!({"username": user, "password": "p"});
        let content = serde_json::json!({"auths": {
            "quay.io": auth("host"), "quay.io/a": auth("space"), "https://index.docker.io/v1/": auth("hub"),
            "127.0.0.1:5000": {"auth": "bG9jYWw6YTpi"}, "other": {"identitytoken": "refresh"},
        }});
        std::fs::write(&file, content.to_string()).unwrap();
        let files = AuthFiles::only(&file);
        let password = |user: &str, password: &str| Some(Credential::Password(user.into(), password.into()));
        for (registry, repository, expected) in [
            ("quay.io", "b/c", password("host", "p")),
            ("quay.io", "a/c", password("space", "p")),
            ("docker.io", "library/busybox", password("hub", "p")),
            ("127.0.0.1:5000", "x", password("local", "a:b")),
            ("127.0.0.1:5001", "x", None),
            ("other", "x", Some(Credential::RefreshToken("refresh".into()))),
        ] {
            assert!(files.find(registry, repository).unwrap() == expected, "{registry}/{repository}");
        }
        assert!(AuthFiles::only(&dir.path().join("absent")).find("a.b", "c").is_err(), "a named file must exist");
        std::fs::write(&file, "{").unwrap();
        assert!(files.find("a.b", "c").is_err());
    }

    #[test]
    fn a_pods_own_logins_come_first_the_most_specific_one_at_the_beginning() {
        let login = |server: &str, name: &str| Login {
            server: server.into(),
            username: name.into(),
            password: "p".into(),
            identity_token: None,
            registry_token: None,
        };
        let logins = vec![
            login("registry.example", "host"),
            login("https://registry.example/v1/", "v1"),
            login("registry.example/team", "team"),
            login("*.example", "any"),
            login("other.example:5000", "port"),
            login("https://index.docker.io/v1/", "hub"),
        ];
        let files = AuthFiles::none().after(logins);
        for (registry, repository, expected) in [
            ("registry.example", "team/app", &["team", "host", "v1", "any"][..]),
            ("registry.example", "teams/app", &["host", "v1", "any"]),
            ("deep.registry.example", "team/app", &[]),
            ("other.example", "a", &["any"]),
            ("other.example:5000", "a", &["port"]),
            ("docker.io", "library/busybox", &["hub"]),
        ] {
            let found = files.candidates(registry, repository).unwrap();
            let names: Vec<&str> =
                found.iter().map(|c| if let Credential::Password(user, _) = c { user.as_str() } else { "" }).collect();
            assert_eq!(names, expected, "{registry}/{repository}");
        }
        for (pattern, text, expected) in [
            ("a*c", "abbc", true),
            ("*", "", true),
            ("a*b*c", "a-b-c", true),
            ("a*c", "ab", false),
            ("ab", "abc", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
