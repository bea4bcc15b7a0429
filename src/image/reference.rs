//! Image references, normalised as Docker does; digests; image IDs.
//!
//! Grammar: `distribution/reference` (regexp.go, normalize.go). Own code because `oci_spec::distribution::Reference`
//! reads `UPPER/app` as a Docker Hub repository, refuses `[::1]:5000/app` and takes 64 hex digits for a name.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A sha256 content digest, `sha256:` and 64 lower-case hex digits: the only algorithm accepted, and safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        use sha2::Digest as _;
        Digest::from_hash(&sha2::Sha256::digest(bytes))
    }

    /// The digest whose 32 bytes are `hash`.
    pub(crate) fn from_hash(hash: &[u8]) -> Digest {
        let mut hex = String::with_capacity(64);
        for byte in hash {
            use fmt::Write;
            let _ = write!(hex, "{byte:02x}");
        }
        Digest(hex)
    }

    /// The 64 hex digits.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Digest> {
        let Some((algorithm, hex)) = text.split_once(':') else { bail!("digest {text:?} has no algorithm") };
        ensure!(algorithm == "sha256", "digest {text:?}: only sha256 is supported");
        ensure!(hex.len() == 64 && is_lower_hex(hex), "digest {text:?} is not sha256: and 64 lower-case hex digits");
        Ok(Digest(hex.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Digest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The hex digits of what looks like an image ID (`sha256:<64 hex>`, or 12 to 64 bare hex digits), told apart before a
/// name is parsed: Docker's grammar would take `sha256:<hex>` for the repository `sha256` with a tag.
pub fn image_id(text: &str) -> Option<&str> {
    match text.strip_prefix("sha256:") {
        Some(hex) => (hex.len() == 64 && is_lower_hex(hex)).then_some(hex),
        None => ((12..=64).contains(&text.len()) && is_lower_hex(text)).then_some(text),
    }
}

/// A normalised image reference: registry, repository, and either a tag or a digest.
///
/// `FromStr` normalises (`busybox` → `docker.io/library/busybox:latest`); `Display` is the canonical form. Of a reference
/// with both a tag and a digest the tag is dropped, as containerd's `ParseDockerRef` does: the digest alone decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

/// What a reference says after the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Version {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// The registry as named: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository below the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, unless the reference is pinned to a digest.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest, if the reference is pinned to one.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }

    /// Registry and repository: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name as people write it: `busybox`, `kodekloud/app`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        match (self.registry.as_str(), self.repository.strip_prefix("library/")) {
            ("docker.io", Some(rest)) if !rest.contains('/') => rest.to_owned(),
            ("docker.io", _) => self.repository.clone(),
            _ => self.name(),
        }
    }

    /// The reference as people write it: `busybox:latest`, `localhost:5000/app@sha256:…`.
    pub fn familiar(&self) -> String {
        match &self.version {
            Version::Tag(tag) => format!("{}:{tag}", self.familiar_name()),
            Version::Digest(digest) => format!("{}@{digest}", self.familiar_name()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.registry, self.repository),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.registry, self.repository),
        }
    }
}

impl FromStr for Reference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Reference> {
        parse(text).with_context(|| format!("invalid image reference {text:?}"))
    }
}

fn parse(text: &str) -> Result<Reference> {
    ensure!(!text.is_empty(), "it is empty");
    let is_id = image_id(text).is_some_and(|hex| hex.len() == 64);
    ensure!(!is_id, "64 hex digits are an image ID, not a name");
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
        None => (text, None),
    };
    // A colon before the last slash is a port's.
    let name_start = rest.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match rest[name_start..].split_once(':') {
        Some((last, tag)) => (&rest[..name_start + last.len()], Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, path) = split_registry(name);
    check_registry(registry)?;
    let repository = match (registry, path.contains('/')) {
        ("docker.io", false) => format!("library/{path}"),
        _ => path.to_owned(),
    };
    check_repository(&repository)?;
    let version = match digest {
        Some(digest) => Version::Digest(digest),
        None => Version::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok(Reference { registry: registry.to_owned(), repository, version })
}

/// The first component is a registry if it has a dot, a colon or an upper-case letter, or is `localhost`.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            // The Hub's old name.
            (if first == "index.docker.io" { "docker.io" } else { first }, rest)
        }
        _ => ("docker.io", name),
    }
}

fn check_registry(registry: &str) -> Result<()> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else { bail!("registry {registry:?} lacks a ]") };
            ensure!(address.parse::<std::net::Ipv6Addr>().is_ok(), "registry {registry:?} is not an IPv6 address");
            (None, if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or("")) })
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(port) = port {
        let valid = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
        ensure!(valid, "registry {registry:?}: port {port:?} is not a number up to 65535");
    }
    if let Some(host) = host {
        let label = |l: &str| {
            !l.is_empty()
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        ensure!(host.len() <= 253 && host.split('.').all(label), "registry {registry:?} is not a host name");
    }
    Ok(())
}

fn check_repository(repository: &str) -> Result<()> {
    ensure!(repository.len() <= 255, "repository name is longer than 255 characters");
    ensure!(!repository.bytes().any(|b| b.is_ascii_uppercase()), "repository name {repository:?} must be lower case");
    for component in repository.split('/') {
        ensure!(is_path_component(component), "repository name {repository:?}: component {component:?} is not valid");
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|&b| alphanumeric(b)) || !bytes.last().is_some_and(|&b| alphanumeric(b)) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<()> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
    ensure!(valid, "tag {tag:?} is not 1 to 128 of [A-Za-z0-9_.-], the first not . or -");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_normalised_as_docker_does() {
        let digest = format!("sha256:{HEX}");
        for (text, canonical, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.28", "docker.io/library/busybox:1.28", "busybox:1.28"),
            (
                "kodekloud/event-simulator",
                "docker.io/kodekloud/event-simulator:latest",
                "kodekloud/event-simulator:latest",
            ),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("docker.io/library/busybox:x", "docker.io/library/busybox:x", "busybox:x"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b:1", "localhost:5000/a/b:1"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest", "127.0.0.1:5000/app:latest"),
            ("UPPER/app", "UPPER/app:latest", "UPPER/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("[::1]/app:2", "[::1]/app:2", "[::1]/app:2"),
            ("gcr.io/a_b/c__d/e--f.g:V_1.0-x", "gcr.io/a_b/c__d/e--f.g:V_1.0-x", "gcr.io/a_b/c__d/e--f.g:V_1.0-x"),
            ("deadbeef", "docker.io/library/deadbeef:latest", "deadbeef:latest"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), canonical, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference, "{text}: canonical is stable");
        }
        for text in [format!("busybox@{digest}"), format!("busybox:1.28@{digest}")] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), format!("docker.io/library/busybox@{digest}"), "{text}");
            assert_eq!((reference.tag(), reference.digest().unwrap().hex()), (None, HEX), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_reference_is_refused() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "b".repeat(129));
        for (text, part) in [
            ("", "empty"),
            (HEX, "image ID"),
            ("Busybox", "lower case"),
            ("a/B", "lower case"),
            ("busybox:", "tag"),
            ("busybox:-x", "tag"),
            (&tag, "tag"),
            (&long, "longer than 255"),
            ("a//b", "component"),
            ("-a", "component"),
            ("a-", "component"),
            ("a..b", "component"),
            ("a___b", "component"),
            ("a b", "component"),
            ("a\nb", "component"),
            ("../x", "not a host name"),
            ("host:99999/a", "port"),
            ("host:/a", "port"),
            ("[::1/a", "lacks"),
            ("[zz]:1/a", "IPv6"),
            ("[::1]x/a", "port"),
            ("a@sha256:abc", "64 lower-case"),
            ("a@md5:abc", "only sha256"),
            ("a@sha256:../../../etc/passwd", "64 lower-case"),
            ("http://host/a", "port"),
        ] {
            let error = text.parse::<Reference>().map(|r| panic!("{text}: {r}")).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{text}: {error:#}");
        }
        assert!(format!("sha256:{HEX}").parse::<Reference>().is_err());
    }

    #[test]
    fn image_ids_are_told_apart() {
        let full = format!("sha256:{HEX}");
        for (text, id) in [
            (full.as_str(), Some(HEX)),
            (HEX, Some(HEX)),
            (&HEX[..12], Some(&HEX[..12])),
            (&HEX[..11], None),
            ("sha256:abcdefabcdef", None),
            ("busybox", None),
            ("E3B0C44298FC", None),
        ] {
            assert_eq!(image_id(text), id, "{text}");
        }
    }
}
