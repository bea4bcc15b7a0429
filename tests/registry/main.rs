//! Pulling, importing and exporting images: against Debian's `docker-registry`, and against a registry that misbehaves
//! (attacks.md G). Everything is on loopback; the images are made here.
//!
//! Unpacking needs root; `docker-registry` and `openssl` must be installed. What is missing fails the test unless
//! `PODSHIM_MAY_SKIP` names it (`root,docker-registry,openssl`).

mod archives;
#[path = "../support/available.rs"]
mod available;
mod hostile;
mod hosts;
mod server;
mod support;

use podshim::image::auth::AuthFiles;
use podshim::image::registry::Settings;
use podshim::image::{PullPolicy, Quiet};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use support::{Debian, Sample, Setup, available, reference, store_in};

const USER: (&str, &str) = ("alice", "sesame");

#[test]
fn a_real_registry_gives_what_was_pushed() {
    if !available(&["root", "docker-registry"]) {
        return;
    }
    let setup = Setup::new();
    let registry = Debian::plain(setup.path("registry"));
    let sample = Sample::new("pulled");
    registry.push("team/app", "v1", &sample);
    let name = reference(&format!("127.0.0.1:{}/team/app:v1", registry.port));
    let store = setup.store();
    let image = store.ensure(&name, PullPolicy::IfNotPresent, &mut Quiet).unwrap();
    assert_eq!((image.reference.as_str(), &image.id), (name.to_string().as_str(), &sample.config.digest));
    assert_eq!(image.digest, sample.manifest.digest);
    assert_eq!(image.config.cmd, ["sh"]);
    assert_eq!(std::fs::read_to_string(image.layers[1].join("hello")).unwrap(), "pulled");
    assert!(setup.leftovers().is_empty(), "{:?}", setup.leftovers());

    let pinned = reference(&format!("127.0.0.1:{}/team/app@{}", registry.port, sample.manifest.digest));
    assert_eq!(store.ensure(&pinned, PullPolicy::Never, &mut Quiet).unwrap().id, image.id, "here under its digest");
    assert_eq!(store.pull(&pinned, &mut Quiet).unwrap().id, image.id);
    let by_index = reference(&format!("127.0.0.1:{}/team/app:index", registry.port));
    assert_eq!(store.pull(&by_index, &mut Quiet).unwrap().digest, image.digest, "of the index the entry for this host");

    // The tag moves: Always sees it, IfNotPresent does not.
    let moved = Sample::new("moved");
    registry.push("team/app", "v1", &moved);
    assert_eq!(store.ensure(&name, PullPolicy::IfNotPresent, &mut Quiet).unwrap().id, sample.config.digest);
    assert_eq!(store.ensure(&name, PullPolicy::Always, &mut Quiet).unwrap().id, moved.config.digest);

    let port = registry.port;
    drop(registry);
    let error = store.ensure(&name, PullPolicy::Always, &mut Quiet).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains(&format!("registry 127.0.0.1:{port} refused the connection")), "{text}");
    assert!(text.contains("team/app:v1"), "{text}");
    assert_eq!(podshim::image::ImageFailure::of(&error).unwrap().reason(), "RegistryUnavailable");
    assert_eq!(store.ensure(&name, PullPolicy::IfNotPresent, &mut Quiet).unwrap().id, moved.config.digest);
}

#[test]
fn what_the_registry_does_not_have_is_said_so() {
    if !available(&["docker-registry"]) {
        return;
    }
    let setup = Setup::new();
    let registry = Debian::plain(setup.path("registry"));
    let store = setup.store();
    let name = reference(&format!("localhost:{}/no/such:x", registry.port));
    let error = store.ensure(&name, PullPolicy::IfNotPresent, &mut Quiet).unwrap_err();
    assert_eq!(podshim::image::ImageFailure::of(&error).unwrap().reason(), "ErrImagePull");
    assert!(format!("{error:#}").contains("404"), "{error:#}");
    let error = store.ensure(&name, PullPolicy::Never, &mut Quiet).unwrap_err();
    assert_eq!(podshim::image::ImageFailure::of(&error).unwrap().reason(), "ErrImageNeverPull");
    let text =
        format!("Container image \"localhost:{}/no/such:x\" is not present with pull policy of Never", registry.port);
    assert_eq!(format!("{error:#}"), text);
}

#[test]
fn tls_and_a_login_are_needed_where_the_registry_wants_them() {
    if !available(&["root", "docker-registry", "openssl"]) {
        return;
    }
    let setup = Setup::new();
    let sample = Sample::new("secret");
    Debian::plain(setup.path("registry")).push("app", "latest", &sample);
    let certificate = setup.certificate();
    let registry = Debian::with_tls_and_login(setup.path("registry"), &certificate);
    let name = format!("127.0.0.1:{}/app:latest", registry.port);

    let encode = |text: &str| {
        let out = Command::new("sh").arg("-c").arg(format!("printf %s '{text}' | base64 -w0")).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let login = |file: &str, password: &str| {
        let auth = encode(&format!("{}:{password}", USER.0));
        let text = format!(r#"{{"auths": {{"127.0.0.1:{}": {{"auth": "{auth}"}}}}}}"#, registry.port);
        std::fs::write(setup.path(file), text).unwrap();
        setup.path(file)
    };
    let helper = setup.path("docker-credential-test");
    std::fs::write(
        &helper,
        format!("#!/bin/sh\ncat >/dev/null\necho '{{\"Username\":\"{}\",\"Secret\":\"{}\"}}'\n", USER.0, USER.1),
    )
    .unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let by_helper = setup.path("helper.json");
    std::fs::write(&by_helper, format!(r#"{{"credHelpers": {{"127.0.0.1:{}": "test"}}}}"#, registry.port)).unwrap();
    let none = setup.path("none.json");
    std::fs::write(&none, "{}").unwrap();

    let (pem, nothing) = (certificate.0.clone(), setup.path("empty.pem"));
    std::fs::write(&nothing, "").unwrap();
    for (case, auth, roots, expected) in [
        ("password", login("good.json", USER.1), &pem, Ok(sample.config.digest.as_str())),
        ("helper", by_helper, &pem, Ok(sample.config.digest.as_str())),
        ("wrong password", login("bad.json", "wrong"), &pem, Err("the login has no access")),
        ("no login", none, &pem, Err("requires a login")),
        ("unknown certificate", login("good2.json", USER.1), &nothing, Err("certificate")),
    ] {
        // The roots are process-wide: a process of its own, this test program as `child_pull`.
        let path = format!("{}:{}", setup.path("").display(), std::env::var("PATH").unwrap());
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_pull", "--ignored", "--nocapture"])
            .env("SSL_CERT_FILE", roots)
            .env("REGISTRY_AUTH_FILE", auth)
            .env("PATH", path)
            .env("PODSHIM_TEST_IMAGE", &name)
            .env("PODSHIM_TEST_ROOT", setup.path(&format!("store {case}")))
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match expected {
            Ok(id) => assert!(text.contains(&format!("PULLED {id}")), "{case}: {text}"),
            Err(part) => assert!(text.contains("FAILED pulling") && text.contains(part), "{case}: {text}"),
        }
        assert!(!text.contains(USER.1) && !text.contains(&encode(USER.1)), "{case}: the password is shown: {text}");
    }
}

/// A Secret with one login.
fn pull_secret(name: &str, server: &str, password: &str) -> Value {
    let auths = json!({ "auths": { server: { "username": USER.0, "password": password } } });
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": auths.to_string() } })
}

#[test]
fn spec_image_pull_secrets_are_tried_in_their_order() {
    if !available(&["root", "docker-registry", "openssl"]) {
        return;
    }
    let setup = Setup::new();
    let sample = Sample::new("of a pod");
    Debian::plain(setup.path("registry")).push("team/app", "latest", &sample);
    let certificate = setup.certificate();
    let registry = Debian::with_tls_and_login(setup.path("registry"), &certificate);
    let server = format!("127.0.0.1:{}", registry.port);
    let image = format!("{server}/team/app:latest");
    let podshim = |case: &str, args: &[&str], stdin: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podshim"));
        let dirs = support::dirs_in(&setup.path(case));
        command
            .env("PODSHIM_NETWORK", "none")
            .env("PODSHIM_ROOT", dirs.root)
            .env("PODSHIM_STATE", dirs.state)
            .env("PODSHIM_LOG_DIR", dirs.log_dir);
        command.env("SSL_CERT_FILE", &certificate.0).env("REGISTRY_AUTH_FILE", setup.path("none.json"));
        let output = command.args(args).stdin(stdin).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains(USER.1), "{case}: the password is shown: {text}");
        text
    };
    std::fs::write(setup.path("none.json"), "{}").unwrap();
    let right = format!("{server}/team");
    let rows: [(&str, Vec<Value>, bool); 4] = [
        ("right", vec![pull_secret("a", &server, USER.1)], true),
        ("wrong, then right", vec![pull_secret("a", &server, "wrong"), pull_secret("b", &server, USER.1)], true),
        ("the more specific first", vec![pull_secret("a", &server, "wrong"), pull_secret("b", &right, USER.1)], true),
        ("of another server", vec![pull_secret("a", "127.0.0.1", USER.1)], false),
    ];
    for (case, secrets, is_pulled) in rows {
        // The second image is nowhere, so the pod fails when the first one is here and before anything is made.
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": {
            "imagePullSecrets": secrets.iter().map(|s| json!({ "name": s["metadata"]["name"] })).collect::<Vec<_>>(),
            "containers": [
                { "name": "a", "image": image },
                { "name": "b", "image": "localhost/nowhere", "imagePullPolicy": "Never" },
            ] } });
        let items: Vec<&Value> = secrets.iter().chain([&pod]).collect();
        let manifest = setup.path("pod.json");
        std::fs::write(&manifest, json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()).unwrap();
        let said = podshim(case, &["run", "-d", manifest.to_str().unwrap()], Stdio::null());
        let expected = if is_pulled { "not present with pull policy of Never" } else { "requires a login" };
        assert!(said.contains(expected), "{case}: {said}");
        let listed = podshim(case, &["image", "ls"], Stdio::null());
        assert_eq!(listed.contains("team/app"), is_pulled, "{case}: {listed}");
    }
    // What a supervisor runs when a container starts again: logins come by standard input.
    let logins = json!([{ "server": server, "username": USER.0, "password": USER.1, "identity_token": null }]);
    std::fs::write(setup.path("logins.json"), logins.to_string()).unwrap();
    let stdin = || Stdio::from(std::fs::File::open(setup.path("logins.json")).unwrap());
    let said = podshim("again", &["ensure-image", "--pull", "always", &image, "--logins"], stdin());
    assert!(said.contains("\"Image\"") && said.contains(&sample.config.digest), "{said}");
    let said = podshim("without", &["ensure-image", "--pull", "always", &image], Stdio::null());
    assert!(said.contains("ErrImagePull"), "{said}");
}

/// Not a test: what `tls_and_a_login_…` runs in a process of its own.
#[test]
#[ignore = "run by another test"]
fn child_pull() {
    let name = reference(&std::env::var("PODSHIM_TEST_IMAGE").unwrap());
    let root = std::path::PathBuf::from(std::env::var_os("PODSHIM_TEST_ROOT").unwrap());
    let store = store_in(&root);
    let settings = Settings { auth: AuthFiles::from_environment(), ..Settings::plain() };
    match store.with_registries(settings).pull(&name, &mut Quiet) {
        Ok(image) => println!("PULLED {}", image.id),
        Err(error) => println!("FAILED {error:#}; left: {:?}", support::content_in(&root)),
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    if !available(&["root", "docker-registry"]) {
        return;
    }
    let setup = Setup::new();
    let registry = Debian::plain(setup.path("registry"));
    registry.push("app", "latest", &Sample::new("large"));
    std::fs::create_dir(setup.path("small")).unwrap();
    // 300 kB of noise do not fit; the mount is in a namespace that ends with the process.
    let script = "mount -t tmpfs -o size=200k none \"$PODSHIM_TEST_ROOT\" && exec \"$0\" --exact child_pull --ignored --nocapture";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("PODSHIM_TEST_IMAGE", format!("127.0.0.1:{}/app", registry.port))
        .env("PODSHIM_TEST_ROOT", setup.path("small"))
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("FAILED pulling") && text.contains("No space left on device (ENOSPC); left: []"), "{text}");
}

#[test]
fn mirrors_come_first_and_the_registry_last() {
    if !available(&["root", "docker-registry"]) {
        return;
    }
    let setup = Setup::new();
    let sample = Sample::new("mirrored");
    let registry = Debian::plain(setup.path("registry"));
    registry.push("library/thing", "latest", &sample);
    let mut settings = Settings::plain();
    let dead = format!("http://127.0.0.1:{}", support::free_port());
    settings.mirrors.insert("docker.io".into(), vec![dead, format!("http://127.0.0.1:{}", registry.port)]);
    let store = setup.store().with_registries(settings);
    let image = store.pull(&reference("thing"), &mut Quiet).unwrap();
    assert_eq!((image.reference.as_str(), &image.id), ("docker.io/library/thing:latest", &sample.config.digest));
}
