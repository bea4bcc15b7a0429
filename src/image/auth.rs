//! Credentials for registries: `$REGISTRY_AUTH_FILE`, podman's and Docker's files, credential helpers.

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
}

/// Where logins are looked for: `$REGISTRY_AUTH_FILE` alone if it is set (it must exist), else podman's file of this
/// login session, then `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthFiles(Vec<(PathBuf, Needed)>);

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
            return AuthFiles(vec![(file, Needed::Yes)]);
        }
        let podman = variable("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json"));
        let docker = variable("DOCKER_CONFIG").or_else(|| variable("HOME").map(|h| h.join(".docker")));
        let docker = docker.map(|d| d.join("config.json"));
        AuthFiles(podman.into_iter().chain(docker).map(|file| (file, Needed::No)).collect())
    }

    /// This file only, which must exist.
    pub fn only(file: &Path) -> AuthFiles {
        AuthFiles(vec![(file.to_owned(), Needed::Yes)])
    }

    /// No file.
    pub fn none() -> AuthFiles {
        AuthFiles(Vec::new())
    }

    /// The login for a repository of a registry; of several the most specific (`host/a/b`, `host/a`, `host`).
    ///
    /// `None` means anonymous. Errors: a file that is named but missing or unreadable, a helper that fails.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>> {
        for (file, needed) in &self.0 {
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
}
