//! Where a registry's API is: the registry itself, a mirror, a host of `hosts.toml`.

use super::hosts::Host;
use super::tls::{self, Peer, TlsFiles};
use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;
use reqwest::header::HeaderMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The Hub's API is not at its name.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// A registry or a mirror of one.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Host and port: what errors call it, and what its login is found by. A login of a registry is for that registry's own
    /// address only, never for a host that is asked in its place.
    pub(super) name: String,
    /// The root of the API, with a slash at the end.
    pub(super) api: Url,
    pub(super) plain: Plain,
    /// The registry that it is asked for images of, if it is another (`?ns=`, as containerd has it).
    pub(super) namespace: Option<String>,
    pub(super) pull: bool,
    pub(super) resolve: bool,
    pub(super) tls: TlsFiles,
    pub(super) headers: HeaderMap,
    pub(super) dial: Option<Duration>,
}

/// Whether HTTP may be plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    /// No.
    No,
    /// It was asked for.
    Yes,
    /// TLS is tried first.
    Fallback,
}

impl Endpoint {
    /// A registry as a reference names it. One on this host may be plain.
    pub(super) fn registry(registry: &str) -> Result<Endpoint> {
        let host = if registry == HUB.0 { HUB.1 } else { registry };
        let api = Url::parse(&format!("https://{host}/v2/")).with_context(|| format!("registry {registry}"))?;
        let plain = if is_loopback(&api) { Plain::Fallback } else { Plain::No };
        Ok(Endpoint::at(api, registry, plain))
    }

    /// A mirror of a registry by its base URL.
    pub(super) fn mirror(registry: &str, url: &str) -> Result<Endpoint> {
        let mut base = Url::parse(url).with_context(|| format!("mirror {url:?}"))?;
        ensure!(base.username().is_empty() && base.password().is_none(), "mirror {url:?}: no logins in URLs");
        ensure!(base.host_str().is_some(), "mirror {url:?} has no host");
        let plain = match base.scheme() {
            "https" => Plain::No,
            "http" if is_loopback(&base) => Plain::Yes,
            "http" => bail!("mirror {url:?}: plain http only for loopback addresses"),
            other => bail!("mirror {url:?}: scheme {other:?} is not supported"),
        };
        base.set_path(&format!("{}/v2/", base.path().trim_end_matches('/')));
        Ok(Endpoint::at(base, registry, plain))
    }

    /// The hosts of a registry, in order.
    pub(super) fn hosts(registry: &str, hosts: Vec<Host>) -> Result<Vec<Endpoint>> {
        hosts.into_iter().map(|host| Endpoint::host(registry, host)).collect()
    }

    fn host(registry: &str, host: Host) -> Result<Endpoint> {
        let Host { api, pull, resolve, tls, headers, dial } = host;
        let endpoint = match api {
            None => Endpoint::registry(registry)?,
            Some(mut api) => {
                // With certificates configured it is not meant to be plain, if it need not be (containerd's ConfigureHosts).
                let plain = match (api.scheme(), tls.is_given() && api.port_or_known_default() != Some(80)) {
                    ("https", _) => Plain::No,
                    (_, false) => Plain::Yes,
                    (_, true) => Plain::Fallback,
                };
                if plain == Plain::Fallback {
                    let _ = api.set_scheme("https");
                }
                Endpoint::at(api, registry, plain)
            }
        };
        // What is wrong with a certificate's file is told before anything is asked.
        tls::config(&tls, Peer::Host).with_context(|| format!("registry {}", endpoint.name))?;
        Ok(Endpoint { pull, resolve, tls, headers, dial, ..endpoint })
    }

    fn at(api: Url, registry: &str, plain: Plain) -> Endpoint {
        let host = api.host_str().unwrap_or("").to_owned();
        let address = api.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let is_own = address == registry || (registry, address.as_str()) == HUB;
        Endpoint {
            name: if is_own { registry.to_owned() } else { address },
            api,
            plain,
            namespace: (!is_own).then(|| registry.to_owned()),
            pull: true,
            resolve: true,
            tls: TlsFiles::default(),
            headers: HeaderMap::new(),
            dial: None,
        }
    }

    /// Whether it is on this host.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.api)
    }
}

fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host).parse().ok()
}

pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str() == Some("localhost") || address(url).is_some_and(|a| a.to_canonical().is_loopback())
}

/// Addresses at which cloud metadata services listen, and this host's own.
pub(super) fn is_local(url: &Url) -> bool {
    is_loopback(url)
        || address(url).is_some_and(|a| match a.to_canonical() {
            IpAddr::V4(a) => a.is_link_local() || a == Ipv4Addr::UNSPECIFIED,
            IpAddr::V6(a) => a.is_unicast_link_local() || a == Ipv6Addr::UNSPECIFIED,
        })
}

pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_registries_may_be_plain() {
        for (registry, base, plain) in [
            ("docker.io", "https://registry-1.docker.io/v2/", false),
            ("localhost:5000", "https://localhost:5000/v2/", true),
            ("127.9.9.9:1", "https://127.9.9.9:1/v2/", true),
            ("[::1]:5000", "https://[::1]:5000/v2/", true),
            ("localhost.evil.example", "https://localhost.evil.example/v2/", false),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/v2/", false),
        ] {
            let endpoint = Endpoint::registry(registry).unwrap();
            assert_eq!((endpoint.api.as_str(), endpoint.plain == Plain::Fallback), (base, plain), "{registry}");
        }
        for (url, accepted) in [
            ("https://mirror.example/p", true),
            ("http://127.0.0.1:5000", true),
            ("http://mirror.example", false),
            ("file:///etc/passwd", false),
            ("https://u:p@mirror.example", false),
        ] {
            assert_eq!(Endpoint::mirror("docker.io", url).is_ok(), accepted, "{url}");
        }
    }

    #[test]
    fn local_addresses_are_known() {
        for (url, local) in [
            ("http://169.254.169.254/latest", true),
            ("http://[fe80::1]/", true),
            ("http://127.0.0.3/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://0.0.0.0/", true),
            ("https://example.org/", false),
            ("https://93.184.216.34/", false),
        ] {
            assert_eq!(is_local(&Url::parse(url).unwrap()), local, "{url}");
        }
    }

    #[test]
    fn hosts_of_a_file_are_endpoints() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("quay.io")).unwrap();
        let text = "[host.\"http://10.0.0.1:5000\"]\n[host.\"http://10.0.0.2:5000\"]\nskip_verify = true\n\
                    [host.\"http://10.0.0.3\"]\nskip_verify = true\n[host.\"https://quay.io\"]\n";
        std::fs::write(root.path().join("quay.io/hosts.toml"), text).unwrap();
        let hosts = super::super::hosts::load(root.path(), "quay.io").unwrap().unwrap();
        let endpoints = Endpoint::hosts("quay.io", hosts).unwrap();
        let found: Vec<_> =
            endpoints.iter().map(|e| (e.api.as_str(), e.plain, e.name.as_str(), e.namespace.as_deref())).collect();
        let expected = [
            ("http://10.0.0.1:5000/v2/", Plain::Yes, "10.0.0.1:5000", Some("quay.io")),
            ("https://10.0.0.2:5000/v2/", Plain::Fallback, "10.0.0.2:5000", Some("quay.io")),
            ("http://10.0.0.3/v2/", Plain::Yes, "10.0.0.3", Some("quay.io")),
            ("https://quay.io/v2/", Plain::No, "quay.io", None),
            ("https://quay.io/v2/", Plain::No, "quay.io", None),
        ];
        assert_eq!(found, expected);
        assert_eq!(Endpoint::registry("docker.io").unwrap().namespace, None);
        assert_eq!(Endpoint::mirror("docker.io", "https://m.example").unwrap().namespace.as_deref(), Some("docker.io"));
        std::fs::write(root.path().join("quay.io/hosts.toml"), "ca = \"none.crt\"").unwrap();
        let hosts = super::super::hosts::load(root.path(), "quay.io").unwrap().unwrap();
        let error = format!("{:#}", Endpoint::hosts("quay.io", hosts).unwrap_err());
        assert!(error.contains("quay.io/none.crt"), "{error}");
    }
}
