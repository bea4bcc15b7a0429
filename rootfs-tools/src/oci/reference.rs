//! Image references in full: `busybox` is `docker.io/library/busybox:latest`, as Docker reads it.

use anyhow::{Result, bail};

/// The full form of a reference with a tag (distribution's `reference.ParseNormalizedNamed` and `TagNameOnly`).
///
/// Fails on what that grammar refuses, and on digests: an image that is being written has no digest to be asked for.
pub fn normalise(reference: &str) -> Result<String> {
    if reference.contains('@') {
        bail!("{reference}: a name for a new image holds no digest");
    }
    let (domain, rest) = match reference.split_once('/') {
        Some((first, rest)) if is_domain(first) => (first, rest),
        _ => ("docker.io", reference),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    let (path, tag) = rest.rsplit_once(':').unwrap_or((rest, "latest"));
    if !path.split('/').all(is_path_component) {
        bail!("{reference}: {path:?} is not a repository name (lower case letters, digits, and . _ - between them)");
    }
    if !is_tag(tag) {
        bail!("{reference}: {tag:?} is not a tag (at most 128 letters, digits, and . _ - but not at the start)");
    }
    let library = if domain == "docker.io" && !path.contains('/') { "library/" } else { "" };
    Ok(format!("{domain}/{library}{path}:{tag}"))
}

fn is_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(part: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(|b| letter(*b)) || !bytes.last().is_some_and(|b| letter(*b)) {
        return false;
    }
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|s| !s.is_empty());
    separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        for (name, given, expected) in [
            ("short", "busybox", Some("docker.io/library/busybox:latest")),
            ("tag", "busybox:1.28", Some("docker.io/library/busybox:1.28")),
            ("user", "kodekloud/event-simulator", Some("docker.io/kodekloud/event-simulator:latest")),
            ("localhost", "localhost/facts", Some("localhost/facts:latest")),
            ("port", "127.0.0.1:5000/a/b:c", Some("127.0.0.1:5000/a/b:c")),
            ("port, no tag", "host:5000/a", Some("host:5000/a:latest")),
            ("old name of the hub", "index.docker.io/x", Some("docker.io/library/x:latest")),
            ("double separators", "a__b/c--d", Some("docker.io/a__b/c--d:latest")),
            ("upper case", "Busybox", None),
            ("triple underscore", "a___b", None),
            ("empty part", "a//b", None),
            ("empty tag", "a:", None),
            ("empty", "", None),
            ("digest", "a@sha256:00", None),
        ] {
            assert_eq!(normalise(given).ok().as_deref(), expected, "{name}: {given}");
        }
    }
}
