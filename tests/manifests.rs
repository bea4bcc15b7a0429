//! What a user is told about each broken manifest, word for word.
//!
//! `tests/manifests/**/<case>.yaml` with `<case>.stderr` beside it; `PODSHIM_BLESS=1` rewrites the latter, and the diff is
//! reviewed. `tests/pods/*.yaml` must be admitted.

use k8s_openapi::api::core::v1::Container;
use podshim::manifest::{Color, Diagnostics, Source, admit, join, read_sources};
use std::path::{Path, PathBuf};

fn manifests(directory: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", root.display());
    files
}

fn manifest(source: Source) -> Result<(), Diagnostics> {
    admit(&[source]).map(drop)
}

fn source(path: &Path) -> Source {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    Source { name, text: std::fs::read_to_string(path).unwrap() }
}

fn hold_against_golden(directory: &str, read: impl Fn(Source) -> Result<(), Diagnostics>) {
    let bless = std::env::var_os("PODSHIM_BLESS").is_some();
    let mut wrong = vec![];
    for path in manifests(directory) {
        let rendered = match read(source(&path)) {
            Ok(_) => panic!("{} was admitted", path.display()),
            Err(diagnostics) => diagnostics.render(Color::Plain),
        };
        for secret in ["hunter", "31337", "4711", "of the secret", "another line", "c2VjcmV0"] {
            assert!(!rendered.contains(secret), "{}: a secret value is shown:\n{rendered}", path.display());
        }
        assert!(!rendered.contains('\u{1b}'), "{}: an escape reached the terminal", path.display());
        let golden = path.with_extension("stderr");
        if bless {
            std::fs::write(&golden, &rendered).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != rendered {
            wrong.push(format!("{}:\n{rendered}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "not as in the golden files:\n{}", wrong.join("\n"));
}

#[test]
fn each_mistake_is_explained() {
    hold_against_golden("manifests", manifest);
}

#[test]
fn pods_as_people_paste_them_are_explained() {
    hold_against_golden("manifests/broken", manifest);
}

#[test]
fn mistakes_in_other_documents_are_explained() {
    hold_against_golden("manifests/documents", manifest);
}

/// The pod that ephemeral containers are to join.
const POD: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: b}
---
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  containers:
  - {name: web, image: busybox, envFrom: [{configMapRef: {name: settings}}]}
  volumes: [{name: data}]
";

#[test]
fn mistakes_in_files_for_debug_are_explained() {
    hold_against_golden("manifests/ephemeral", |custom| {
        let pod = admit(&[Source { name: "pod.yaml".into(), text: POD.into() }])?.remove(0);
        let flags = Container { name: "debugger".into(), image: Some("busybox".into()), ..Container::default() };
        join(pod, flags, Some(&custom)).map(drop)
    });
}

#[test]
fn the_owners_pods_are_admitted() {
    for path in manifests("pods") {
        let sources = read_sources(&[path.to_str().unwrap().to_owned()]).unwrap();
        match admit(&sources) {
            Ok(pods) => assert!(!pods.is_empty()),
            Err(diagnostics) => panic!("{diagnostics}"),
        }
    }
}
