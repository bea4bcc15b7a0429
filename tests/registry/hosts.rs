//! `hosts.toml`: which hosts are asked, in which order, with what.

use crate::server::{Authority, Behaviour, Host};
use crate::support::{Sample, Setup, available, free_port, reference};
use podshim::image::auth::AuthFiles;
use podshim::image::registry::Settings;
use podshim::image::{Image, Quiet};
use podshim::plan::config::Login;
use std::path::Path;

/// A tree with the file of one registry.
fn tree(setup: &Setup, registry: &str, text: &str) {
    let directory = setup.path("certs.d").join(registry);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
}

fn pull(setup: &Setup, name: &str, logins: &[Login]) -> anyhow::Result<Image> {
    let auth = AuthFiles::none();
    let settings = Settings { hosts: Some(setup.path("certs.d")), auth, ..Settings::plain() };
    setup.store().with_registries(settings).with_logins(logins).pull(&reference(name), &mut Quiet)
}

fn login(server: &str) -> Login {
    Login {
        server: server.to_owned(),
        username: "alice".to_owned(),
        password: "sesame".to_owned(),
        identity_token: None,
        registry_token: None,
    }
}

/// alice:sesame
const BASIC: &str = "Basic YWxpY2U6c2VzYW1l";

#[test]
fn mirrors_are_asked_in_order_and_told_whose_image_it_is() {
    if !available(&["root"]) {
        return;
    }
    let setup = Setup::new();
    let sample = Sample::new("mirrored");
    let empty = Host::start(&sample, Behaviour { lacks_blobs: true, ..Behaviour::default() });
    let (first, last) = (Host::plain(&sample), Host::plain(&sample));
    let dead = free_port();
    let text = format!(
        "server = \"{}\"\n[host.\"http://127.0.0.1:{dead}\"]\ndial_timeout = \"1s\"\n[host.\"{}/z\"]\n\
         [host.\"{}/a\"]\nheader = {{ x-secret = \"one\" }}\n",
        last.url("http"),
        empty.url("http"),
        first.url("http")
    );
    tree(&setup, "_default", &text);
    let image = pull(&setup, "registry.example/team/app:1", &[]).unwrap();
    assert_eq!(image.id, sample.config.digest);
    // The one that resolved it had no blobs, so the next one gives what that digest is.
    assert_eq!(empty.paths("manifests/1"), ["/z/v2/team/app/manifests/1?ns=registry.example"]);
    assert!(!empty.paths("blobs/").is_empty());
    let asked = first.asked();
    assert!(asked.len() == 3, "what is here already is not asked for again: {asked:?}");
    for request in asked {
        assert!(
            request.path.starts_with("/a/v2/team/app/") && request.path.ends_with("?ns=registry.example"),
            "{request:?}"
        );
        assert_eq!(request.header("x-secret").as_deref(), Some("one"));
    }
    assert!(last.asked().is_empty(), "{:?}", last.asked());
}

#[test]
fn who_may_not_resolve_is_asked_by_digest_only() {
    if !available(&["root"]) {
        return;
    }
    let setup = Setup::new();
    let sample = Sample::new("resolved");
    let (public, upstream) = (Host::plain(&sample), Host::plain(&sample));
    let text = format!(
        "server = \"{}\"\n[host.\"{}\"]\ncapabilities = [\"pull\"]\n",
        upstream.url("http"),
        public.url("http")
    );
    tree(&setup, "docker.io", &text);
    assert_eq!(pull(&setup, "app", &[]).unwrap().id, sample.config.digest);
    assert_eq!(upstream.asked().len(), 1, "{:?}", upstream.asked());
    assert_eq!(upstream.paths("manifests/latest").len(), 1);
    assert!(public.asked().iter().all(|asked| asked.path.contains("sha256:")), "{:?}", public.asked());
    assert_eq!(public.paths("blobs/").len(), 3);

    tree(&setup, "docker.io", &format!("server = \"{}\"\ncapabilities = [\"resolve\"]\n", upstream.url("http")));
    let error = format!("{:#}", pull(&setup, "other", &[]).unwrap_err());
    assert!(error.contains("no host that may be asked"), "{error}");
}

#[test]
fn certificates_of_a_host() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("certified");
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let open = Host::start(&sample, Behaviour { tls: Some(ours.tls(false)), ..Behaviour::default() });
    let closed = Host::start(&sample, Behaviour { tls: Some(ours.tls(true)), ..Behaviour::default() });
    for (host, text, expected) in [
        (&open, "ca = \"ca.crt\"", None),
        (&open, "skip_verify = true", None),
        (&open, "ca = \"others.crt\"", Some("certificate")),
        (&open, "", Some("certificate")),
        (&closed, "ca = \"ca.crt\"\nclient = [[\"client.cert\", \"client.key\"]]", None),
        (&closed, "ca = [\"others.crt\", \"ca.crt\"]\nclient = \"both.pem\"", None),
        // Of several the one that the server's authority issued.
        (&closed, "ca = \"ca.crt\"\nclient = [\"other.pem\", \"both.pem\"]", None),
        (&closed, "ca = \"ca.crt\"\nclient = \"other.pem\"", Some("")),
        (&closed, "ca = \"ca.crt\"", Some("")),
        (&closed, "ca = \"both.key\"", Some("both.key")),
        (&closed, "client = [[\"client.cert\", \"client.cert\"]]", Some("client.cert")),
    ] {
        let setup = Setup::new();
        tree(&setup, "registry.example", &format!("server = \"{}\"\n{text}\n", host.url("https")));
        let write = |name: &str, text: &str| {
            std::fs::write(setup.path("certs.d/registry.example").join(name), text).unwrap();
        };
        write("ca.crt", &ours.ca);
        write("others.crt", &others.ca);
        write("client.cert", &ours.client);
        write("client.key", &ours.client_key);
        write("both.pem", &format!("{}{}", ours.client, ours.client_key));
        write("other.pem", &format!("{}{}", others.client, others.client_key));
        let pulled = pull(&setup, "registry.example/app", &[]);
        match (pulled, expected) {
            (Ok(image), None) => assert_eq!(image.id, sample.config.digest),
            (Err(error), Some(part)) => assert!(format!("{error:#}").contains(part), "{text}: {error:#}"),
            (other, _) => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn http_with_certificates_is_tried_with_tls_first() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("either");
    let authority = Authority::new("ours");
    let with = Host::start(&sample, Behaviour { tls: Some(authority.tls(false)), ..Behaviour::default() });
    let without = Host::plain(&sample);
    for host in [&with, &without] {
        let setup = Setup::new();
        tree(&setup, "registry.example", &format!("server = \"{}\"\nskip_verify = true\n", host.url("http")));
        assert_eq!(pull(&setup, "registry.example/app", &[]).unwrap().id, sample.config.digest);
    }
}

#[test]
fn a_registrys_login_is_not_shown_to_its_mirror() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("closed");
    let behaviour = Behaviour { authorization: Some(BASIC.to_owned()), ..Behaviour::default() };
    let mirror = Host::start(&sample, behaviour.clone());
    let setup = Setup::new();
    tree(&setup, "registry.example", &format!("server = \"{}\"\n", mirror.url("http")));
    let error = format!("{:#}", pull(&setup, "registry.example/app", &[login("registry.example")]).unwrap_err());
    assert!(error.contains("requires a login, and there is none for it") && !error.contains("sesame"), "{error}");
    assert!(mirror.asked().iter().all(|asked| asked.header("authorization").is_none()));
    // One of its own it gets.
    let own = login(&format!("127.0.0.1:{}", mirror.port));
    assert_eq!(pull(&setup, "registry.example/app", &[own]).unwrap().id, sample.config.digest);

    let bearer = Behaviour { authorization: Some("Bearer t0ken".to_owned()), ..behaviour };
    let registry = Host::start(&sample, bearer);
    let name = format!("127.0.0.1:{}/app", registry.port);
    let token = Login { registry_token: Some("t0ken".to_owned()), ..login(&format!("127.0.0.1:{}", registry.port)) };
    assert_eq!(pull(&setup, &name, &[token]).unwrap().id, sample.config.digest, "a registry token as it is");
}

#[test]
fn a_file_that_is_wrong_is_told() {
    if !available(&["root"]) {
        return;
    }
    let setup = Setup::new();
    tree(&setup, "registry.example", "server = \"http://127.0.0.1:1\"\nmirrors = []\n");
    let error = format!("{:#}", pull(&setup, "registry.example/app", &[]).unwrap_err());
    let path = Path::new("registry.example/hosts.toml");
    assert!(error.contains(path.to_str().unwrap()) && error.contains("line 2") && error.contains("mirrors"), "{error}");
}
