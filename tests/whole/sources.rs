//! pod-api.md §18: what the sources of files have in common, each shown by each.

use crate::harness::{Host, documents, facts, object, pod, with};
use serde_json::{Value, json};

/// The files of a pod's volumes: the text, and mode and owner as the container sees them.
fn file(host: &Host, path: &str) -> (String, String, i64) {
    let text = host.ok(&["exec", "files", "--", "/facts", "read", path]);
    let (folder, name) = path.rsplit_once('/').unwrap();
    // The entries are links into the folder that is exchanged as a whole.
    let real = match folder[1..].split_once('/') {
        Some((volume, below)) => format!("/{volume}/..data/{below}"),
        None => format!("{folder}/..data"),
    };
    let seen = host.report("files", "c", &[&format!("--list={real}")]);
    let entry = &seen["lists"][&real][name];
    (
        text,
        entry["mode"].as_str().unwrap_or_else(|| panic!("{path}: {seen}")).to_owned(),
        entry["uid"].as_i64().unwrap(),
    )
}

fn names(host: &Host, folder: &str) -> Vec<String> {
    let seen = host.report("files", "c", &[&format!("--list={folder}")]);
    let all = seen["lists"][folder].as_object().unwrap().keys().cloned();
    let mut own: Vec<String> = all.filter(|name| !name.starts_with("..")).collect();
    own.sort();
    own
}

fn field(path: &str, field_path: &str) -> Value {
    json!({ "path": path, "fieldRef": { "fieldPath": field_path } })
}

fn amount(path: &str, resource: &str, divisor: &str) -> Value {
    json!({ "path": path,
        "resourceFieldRef": { "containerName": "c", "resource": resource, "divisor": divisor } })
}

#[test]
fn every_source_has_its_items_modes_and_absence() {
    let Some(host) = Host::new(&[]) else { return };
    let config = object("ConfigMap", "settings", json!({ "data": { "a": "alpha", "b": "beta", "c": "gamma" } }));
    let secret = object("Secret", "keys", json!({ "stringData": { "a": "first", "b": "second", "c": "third" } }));
    let items = json!([{ "key": "a", "path": "deep/x", "mode": 0o400 }, { "key": "b", "path": "y", "user": 11 }]);
    let volumes = json!([
        { "name": "map", "configMap": { "name": "settings", "items": items, "defaultMode": 0o440, "defaultUser": 7 } },
        { "name": "secret", "secret": { "secretName": "keys", "items": items, "defaultMode": 0o440, "defaultUser": 7 } },
        { "name": "no-secret", "secret": { "secretName": "none", "optional": true } },
        { "name": "down", "downwardAPI": { "defaultMode": 0o440, "defaultUser": 7, "items": [
            with(field("deep/labels", "metadata.labels"), json!({ "mode": 0o400 })),
            field("annotations", "metadata.annotations"),
            field("note", "metadata.annotations['note']"),
            with(amount("cpu", "limits.cpu", "1m"), json!({ "user": 11 })),
            amount("memory", "requests.memory", "1Ki"),
        ] } },
        { "name": "all", "projected": { "defaultMode": 0o440, "defaultUser": 7, "sources": [
            { "configMap": { "name": "settings", "items": items } },
            { "configMap": { "name": "none", "optional": true } },
            { "secret": { "name": "keys", "items": [{ "key": "c", "path": "deep/c", "mode": 0o404 }] } },
            { "secret": { "name": "none", "optional": true } },
            { "downwardAPI": { "items": [
                with(field("deep/name", "metadata.name"), json!({ "mode": 0o444 })), amount("cpu", "limits.cpu", "1"),
            ] } },
        ] } },
    ]);
    let volume_names = ["map", "secret", "no-secret", "down", "all"];
    let mounts: Vec<Value> =
        volume_names.iter().map(|name| json!({ "name": name, "mountPath": format!("/{name}") })).collect();
    let resources = json!({ "limits": { "cpu": "1500m", "memory": "64Mi" } });
    let container = with(facts("c", &["sleep"]), json!({ "volumeMounts": mounts, "resources": resources }));
    let mut manifest = pod("files", json!({ "volumes": volumes, "containers": [container] }));
    manifest["metadata"]["labels"] = json!({ "tier": "back" });
    manifest["metadata"]["annotations"] = json!({ "note": "two\nlines", "other": "x" });
    host.ok(&["run", "-d", &documents(&host, "files.json", &[manifest, secret, config])]);
    for (path, text, mode, uid) in [
        ("/map/deep/x", "alpha", "0400", 7),
        ("/map/y", "beta", "0440", 11),
        ("/secret/deep/x", "first", "0400", 7),
        ("/secret/y", "second", "0440", 11),
        ("/down/deep/labels", "tier=\"back\"", "0400", 7),
        ("/down/annotations", "note=\"two\\nlines\"\nother=\"x\"", "0440", 7),
        ("/down/note", "two\nlines", "0440", 7),
        ("/down/cpu", "1500", "0440", 11),
        ("/down/memory", "65536", "0440", 7),
        ("/all/deep/x", "alpha", "0400", 7),
        ("/all/y", "beta", "0440", 11),
        ("/all/deep/c", "third", "0404", 7),
        ("/all/deep/name", "files", "0444", 7),
        ("/all/cpu", "2", "0440", 7),
    ] {
        assert_eq!(file(&host, path), (text.to_owned(), mode.to_owned(), uid), "{path}");
    }
    // Only what is listed, and nothing of what is not there.
    for (folder, expected) in [
        ("/map", &["deep", "y"][..]),
        ("/secret", &["deep", "y"]),
        ("/no-secret", &[]),
        ("/all", &["cpu", "deep", "y"]),
    ] {
        assert_eq!(names(&host, folder), expected, "{folder}");
    }
}
