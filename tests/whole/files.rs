//! pod-api.md §18: volumes of configMaps, secrets and the downward API; claims; images. What containers see of them.

use crate::harness::{Host, documents, facts, object, pod, shell, until, with};
use serde_json::{Value, json};

fn mounted(container: Value, mounts: Value) -> Value {
    with(container, json!({ "volumeMounts": mounts }))
}

fn read(host: &Host, pod: &str, path: &str) -> String {
    host.ok(&["exec", pod, "--", "/facts", "read", path])
}

/// `ls`-like facts of a directory.
fn list(host: &Host, pod: &str, path: &str) -> Value {
    host.report(pod, "c", &[&format!("--list={path}")])["lists"][path].clone()
}

/// The file system type that is mounted at a path of the container.
fn file_system(host: &Host, pod: &str, path: &str) -> String {
    let mounts = host.ok(&["exec", pod, "--", "/facts", "read", "/proc/self/mountinfo"]);
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(path)).unwrap_or_else(|| panic!("{mounts}"));
    line.split(" - ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn config_maps_and_secrets_are_files_with_their_modes() {
    let Some(host) = Host::new(&[]) else { return };
    let config = object(
        "ConfigMap",
        "settings",
        json!({ "data": { "a.conf": "alpha\n", "b.conf": "beta" }, "binaryData": { "raw": "AAH/" } }),
    );
    let secret = object("Secret", "keys", json!({ "data": { "key": "c2VjcmV0" }, "stringData": { "other": "plain" } }));
    let volumes = json!([
        { "name": "all", "configMap": { "name": "settings" } },
        { "name": "some", "configMap": { "name": "settings", "defaultMode": 0o400,
            "items": [{ "key": "a.conf", "path": "deep/in/x", "mode": 0o440 }, { "key": "b.conf", "path": "y" }] } },
        { "name": "keys", "secret": { "secretName": "keys", "defaultMode": 0o600 } },
        { "name": "none", "configMap": { "name": "missing", "optional": true } },
    ]);
    let mounts = json!([
        { "name": "all", "mountPath": "/all" }, { "name": "some", "mountPath": "/some" },
        { "name": "keys", "mountPath": "/keys" }, { "name": "none", "mountPath": "/none" },
        { "name": "all", "mountPath": "/etc/a.conf", "subPath": "a.conf" },
    ]);
    let spec = json!({ "volumes": volumes, "containers": [mounted(facts("c", &["sleep"]), mounts)] });
    // The order of documents does not matter.
    host.ok(&["run", "-d", &documents(&host, "all.json", &[pod("files", spec), secret, config])]);
    assert_eq!(read(&host, "files", "/all/a.conf"), "alpha\n");
    assert_eq!(read(&host, "files", "/etc/a.conf"), "alpha\n", "a single file");
    assert_eq!(read(&host, "files", "/some/deep/in/x"), "alpha\n");
    assert_eq!(read(&host, "files", "/keys/key"), "secret");
    assert_eq!(read(&host, "files", "/keys/other"), "plain");
    let all = list(&host, "files", "/all");
    for name in ["a.conf", "b.conf", "raw", "..data"] {
        assert_eq!(all[name]["type"], "symlink", "{all}");
    }
    assert_eq!(list(&host, "files", "/none").as_object().unwrap().len(), 2, "only the writer's own names");
    let modes = |path: &str, name: &str| list(&host, "files", path)[name]["mode"].clone();
    assert_eq!(modes("/all/..data", "a.conf"), "0644");
    assert_eq!(modes("/some/..data", "y"), "0400");
    assert_eq!(modes("/some/..data/deep/in", "x"), "0440");
    assert_eq!(modes("/keys/..data", "key"), "0600");
    assert_eq!(file_system(&host, "files", "/keys"), "tmpfs", "secrets never touch the disk");
    assert_ne!(file_system(&host, "files", "/all"), "tmpfs");
    for path in ["/all/new", "/keys/new", "/all/a.conf"] {
        let refused = host.run(&["exec", "files", "--", "/facts", "write", path, "x"]).expect(1);
        assert!(refused.err.contains("Read-only file system"), "{path}: {refused:?}");
    }
    // What is secret is in no place that people look at.
    for args in [&["inspect", "files", "-o", "yaml"][..], &["events", "files"], &["ps", "-o", "json"]] {
        let shown = host.ok(args);
        assert!(!shown.contains("c2VjcmV0") && !shown.contains("plain"), "{args:?}: {shown}");
    }
}

#[test]
fn the_downward_api_and_projected_volumes() {
    let Some(host) = Host::new(&[]) else { return };
    let config = object("ConfigMap", "base", json!({ "data": { "name": "of the map", "only": "here" } }));
    let field = |path: &str, field: &str| json!({ "path": path, "fieldRef": { "fieldPath": field } });
    let limit = |path: &str, resource: &str, divisor: &str| json!({ "path": path, "resourceFieldRef": { "containerName": "c", "resource": resource, "divisor": divisor } });
    let items = json!([
        field("name", "metadata.name"),
        field("labels", "metadata.labels"),
        field("one", "metadata.labels['tier']"),
        limit("cpu", "limits.cpu", "1m"),
        limit("memory", "limits.memory", "1Mi"),
    ]);
    let volumes = json!([
        { "name": "down", "downwardAPI": { "items": items } },
        { "name": "both", "projected": { "defaultMode": 0o444, "sources": [
            { "configMap": { "name": "base" } },
            { "downwardAPI": { "items": [field("info/name", "metadata.name")] } },
        ] } },
    ]);
    let container = mounted(
        with(facts("c", &["sleep"]), json!({ "resources": { "limits": { "cpu": "250m", "memory": "64Mi" } } })),
        json!([{ "name": "down", "mountPath": "/down" }, { "name": "both", "mountPath": "/both" }]),
    );
    let mut manifest = pod("down", json!({ "volumes": volumes, "containers": [container] }));
    manifest["metadata"]["labels"] = json!({ "tier": "back", "app": "x\"y" });
    let path = documents(&host, "down.json", &[config.clone(), manifest.clone()]);
    host.run(&["run", "-d", &path]).expect(125).says(&["metadata.labels"]);
    manifest["metadata"]["labels"] = json!({ "tier": "back", "app": "x" });
    let path = documents(&host, "down.json", &[config.clone(), manifest.clone()]);
    host.ok(&["run", "-d", &path]);
    for (file, text) in [
        ("/down/name", "down"),
        ("/down/labels", "app=\"x\"\ntier=\"back\""),
        ("/down/one", "back"),
        ("/down/cpu", "250"),
        ("/down/memory", "64"),
        ("/both/name", "of the map"),
        ("/both/only", "here"),
        ("/both/info/name", "down"),
    ] {
        assert_eq!(read(&host, "down", file), text, "{file}");
    }
    assert_eq!(list(&host, "down", "/both/..data/info")["name"]["mode"], "0444");
    // Other labels, and another map: the files change while the pod runs, and the process is still the same.
    let before = host.pid("down", "c");
    manifest["metadata"]["labels"]["tier"] = json!("front");
    let config = with(config, json!({ "data": { "name": "new", "more": "1" } }));
    let applied = host.ok(&["apply", &documents(&host, "down.json", &[config, manifest])]);
    assert!(applied.contains("pod/down configured"), "{applied}");
    assert_eq!(read(&host, "down", "/down/one"), "front");
    assert_eq!(read(&host, "down", "/both/name"), "new");
    assert_eq!(read(&host, "down", "/both/more"), "1");
    host.run(&["exec", "down", "--", "/facts", "read", "/both/only"]).expect(1);
    assert_eq!(host.pid("down", "c"), before);
}

#[test]
fn the_supervisor_forgets_what_is_in_the_files_and_still_knows_them() {
    let Some(host) = Host::new(&[]) else { return };
    let long = "x".repeat(900_000);
    let config = |text: &str| object("ConfigMap", "big", json!({ "data": { "text": text } }));
    let volumes = json!([{ "name": "v", "configMap": { "name": "big" } }]);
    let spec = json!({ "volumes": volumes, "containers": [mounted(facts("c", &["sleep"]), json!([{ "name": "v", "mountPath": "/v" }]))] });
    host.ok(&["run", "-d", &documents(&host, "big.json", &[config(&long), pod("big", spec.clone())])]);
    host.start(&pod("small", json!({ "containers": [facts("c", &["sleep"])] })));
    let dirty = |pod: &str, of: &str| -> u64 {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", host.supervisor(pod))).unwrap();
        let dirty = smaps.split_once(of).unwrap().1.lines().filter_map(|line| line.strip_prefix("Private_Dirty:"));
        dirty.map(|words| words.trim().split_once(' ').unwrap().0.parse::<u64>().unwrap()).sum()
    };
    // In the heap, too, if the allocator (glibc's) keeps what is free for a while.
    until("the text is forgotten", || (dirty("big", "") < dirty("small", "") + 800).then_some(()));
    // The stack comes last, but for what the kernel maps. Of 72 KiB there are left arguments, environment and who waits.
    until("the stack is given back", || (dirty("big", "[stack]") <= 48).then_some(()));
    // Another container joins, which rewrites the record; then the same is applied again.
    host.ok(&["debug", "big", "--image", "localhost/facts", "--", "/facts", "exit", "0"]);
    let unchanged = host.ok(&["apply", &documents(&host, "big.json", &[config(&long), pod("big", spec.clone())])]);
    assert!(unchanged.contains("unchanged"), "{unchanged}");
    host.ok(&["apply", &documents(&host, "big.json", &[config("short"), pod("big", spec)])]);
    assert_eq!(read(&host, "big", "/v/text"), "short");
}

#[test]
fn a_claim_stays_when_its_pods_go() {
    let Some(host) = Host::new(&[]) else { return };
    let claim = object(
        "PersistentVolumeClaim",
        "data",
        json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }),
    );
    let of = |name: &str, read_only: bool, script: &str| {
        let volumes = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "data", "readOnly": read_only } }]);
        let container = mounted(shell("c", script), json!([{ "name": "v", "mountPath": "/v" }]));
        pod(name, json!({ "restartPolicy": "Never", "volumes": volumes, "containers": [container] }))
    };
    let run = |pod: Value| host.run(&["run", &documents(&host, "claim.json", &[claim.clone(), pod])]);
    run(of("writer", false, "id -u >/v/who; echo kept >/v/file")).expect(0);
    let read = run(of("reader", true, "cat /v/file; echo x >/v/file")).expect(1);
    assert!(read.out.contains("kept") && read.out.contains("Read-only file system"), "{read:?}");
    assert!(host.ok(&["volume", "ls"]).contains("data"));
    host.ok(&["run", "-d", &documents(&host, "user.json", &[claim.clone(), of("user", false, "sleep 1000")])]);
    host.run(&["volume", "rm", "data"]).expect(125).says(&["used by pod default/user"]);
    host.ok(&["rm", "-f", "user"]);
    host.ok(&["volume", "rm", "data"]);
    host.run(&["volume", "rm", "data"]).expect(125).says(&["default/data not found"]);
    assert!(!host.path("root/claims/default_data").exists());
}

#[test]
fn an_image_can_be_a_volume() {
    let Some(host) = Host::new(&[]) else { return };
    // One of its own, as it is to be removed.
    host.import("docker.io/library/busybox", "localhost/tools", &json!({ "Labels": { "of": host.cgroup_parent } }));
    let volumes = json!([{ "name": "tools", "image": { "reference": "localhost/tools", "pullPolicy": "Never" } }]);
    let mounts = json!([
        { "name": "tools", "mountPath": "/tools" },
        { "name": "tools", "mountPath": "/passwd", "subPath": "etc/passwd" },
    ]);
    host.start(&pod("tools", json!({ "volumes": volumes, "containers": [mounted(facts("c", &["sleep"]), mounts)] })));
    assert_eq!(list(&host, "tools", "/tools")["bin"]["type"], "directory");
    assert!(read(&host, "tools", "/passwd").contains("root"));
    host.run(&["exec", "tools", "--", "/facts", "write", "/tools/x", "x"]).expect(1).says(&["Read-only file system"]);
    host.run(&["exec", "tools", "--", "/tools/bin/busybox", "true"]).expect(126).says(&["permission denied"]);
    // It is in use, as a container's image is.
    host.run(&["image", "rm", "localhost/tools"]).expect(125);
    let volumes = json!([{ "name": "v", "image": { "reference": "localhost/nowhere:1", "pullPolicy": "Never" } }]);
    let spec = json!({ "volumes": volumes, "containers": [facts("c", &["sleep"])] });
    host.run(&["run", "-d", &host.manifest(&pod("missing", spec))])
        .expect(125)
        .says(&["volume v", "localhost/nowhere:1"]);
}

#[test]
fn what_is_missing_is_said_before_anything_is_made() {
    let Some(host) = Host::new(&[]) else { return };
    let config = object("ConfigMap", "there", json!({ "data": { "key": "value" } }));
    for (volume, words) in [
        (json!({ "configMap": { "name": "nowhere" } }), ["volumes[0]", "nowhere"]),
        (json!({ "secret": { "secretName": "there" } }), ["volumes[0]", "there"]),
        (json!({ "configMap": { "name": "there", "items": [{ "key": "no", "path": "x" }] } }), ["volumes[0]", "no"]),
        (json!({ "configMap": { "name": "there", "items": [{ "key": "key", "path": "../x" }] } }), ["path", ".."]),
        (json!({ "configMap": { "name": "there", "defaultMode": 0o1777 } }), ["defaultMode", "0777"]),
    ] {
        let volumes = json!([with(json!({ "name": "v" }), volume)]);
        let spec = json!({ "volumes": volumes, "containers": [facts("c", &["sleep"])] });
        let path = documents(&host, "missing.json", &[config.clone(), pod("missing", spec)]);
        host.run(&["run", "-d", &path]).expect(125).says(&words);
    }
    until("nothing", || host.ok(&["ps", "-q"]).is_empty().then_some(()));
}

#[test]
fn convert_gives_what_runs_the_same() {
    let Some(host) = Host::new(&[]) else { return };
    let config = object("ConfigMap", "settings", json!({ "data": { "a": "1" }, "binaryData": { "raw": "AAH/" } }));
    let other = object("ConfigMap", "unused", json!({ "data": { "b": "2" } }));
    let secret = object("Secret", "keys", json!({ "type": "example.com/any", "stringData": { "key": "hidden" } }));
    let env = json!([{ "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "keys", "key": "key" } } }]);
    let container = with(
        mounted(facts("c", &["sleep"]), json!([{ "name": "v", "mountPath": "/v" }])),
        json!({ "env": env, "resources": { "limits": { "memory": "64Mi" } } }),
    );
    let volumes = json!([{ "name": "v", "configMap": { "name": "settings" } }]);
    let spec = json!({ "volumes": volumes, "containers": [container], "activeDeadlineSeconds": 1000 });
    host.ok(&["run", "-d", &documents(&host, "first.json", &[other, config, secret, pod("same", spec)])]);
    host.ok(&["debug", "same", "--image", "localhost/facts", "--", "/facts", "exit", "0"]);
    let converted = host.run(&["convert", "same"]).expect(0).says(&["was added by podshim debug and is left out"]);
    assert!(!converted.out.contains("unused"), "{}", converted.out);
    let path = host.path("again.yaml");
    std::fs::write(&path, &converted.out).unwrap();
    let path = path.to_str().unwrap();
    assert!(host.ok(&["apply", path]).contains("pod/same unchanged"), "applied to itself it is no change");
    let plan = |host: &Host| -> Value {
        let text = std::fs::read_to_string(host.path("state/pods").join(host.uid("same")).join("record.json")).unwrap();
        let uid = host.uid("same");
        let mut plan: Value = serde_json::from_str::<Value>(&text.replace(&uid, "UID")).unwrap()["plan"].take();
        plan["containers"].as_array_mut().unwrap().retain(|c| c["kind"] != "Ephemeral");
        plan
    };
    let before = plan(&host);
    host.ok(&["rm", "-f", "same"]);
    host.ok(&["run", "-d", path]);
    assert_eq!(plan(&host), before);
    assert_eq!(host.run(&["convert", "same"]).out, converted.out);
}

#[test]
fn another_image_can_be_set_on_the_command_line() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "restartPolicy": "Never", "containers": [with(shell("c", "echo of busybox"), json!({ "image": "localhost/nowhere:1" }))] });
    let manifest = host.manifest(&pod("set", spec));
    let output = host.run(&["run", "--set-image", "c=busybox:1.28", &manifest]).expect(0);
    assert!(output.out.contains("of busybox"), "{output:?}");
    host.run(&["run", "--set-image", "d=busybox:1.28", &manifest]).expect(125).says(&["has a container d"]);
    host.run(&["run", "--set-image", "c=", &manifest]).expect(2).says(&["CONTAINER=IMAGE"]);
    host.run(&["run", "--set-image", "c=UPPER:1", &manifest]).expect(2).says(&["UPPER:1"]);
}

#[test]
fn an_ephemeral_claim_goes_with_its_pod() {
    let Some(host) = Host::new(&[]) else { return };
    let template = json!({ "metadata": { "labels": { "of": "app" } }, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } } });
    let spec = json!({ "terminationGracePeriodSeconds": 0,
        "volumes": [{ "name": "v", "ephemeral": { "volumeClaimTemplate": template } }],
        "initContainers": [mounted(shell("before", "chmod 0750 /v && echo from-init >/v/file"), json!([{ "name": "v", "mountPath": "/v" }]))],
        "containers": [mounted(facts("c", &["sleep"]), json!([{ "name": "v", "mountPath": "/v" }]))] });
    host.start(&pod("app", spec.clone()));
    assert_eq!(read(&host, "app", "/v/file"), "from-init\n");
    let seen = host.report("app", "c", &["--stat=/v"]);
    assert_eq!(seen["stats"]["/v"]["mode"], "0750", "what its users make of it stays");
    let mount = seen["mounts"].as_array().unwrap().iter().find(|m| m["target"] == "/v").unwrap().clone();
    for option in ["nosuid", "nodev"] {
        assert!(mount["options"].as_array().unwrap().contains(&json!(option)), "{option}: {mount}");
    }
    // It is a claim as long as the pod is there, and nobody else's.
    let listed: Value = serde_json::from_str(&host.ok(&["volume", "ls", "-o", "json"])).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["usedBy"]), (&json!("app-v"), &json!(["default/app"])));
    let path = std::path::PathBuf::from(listed[0]["path"].as_str().unwrap());
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "from-init\n");
    host.run(&["volume", "rm", "app-v"]).expect(125).says(&["used by pod default/app"]);
    let inspected = host.inspect("app");
    assert_eq!(inspected["spec"]["volumes"][0]["ephemeral"]["volumeClaimTemplate"], template);
    host.ok(&["rm", "-f", "app"]);
    assert!(!path.exists() && host.ok(&["volume", "ls", "-o", "json"]).trim() == "[]");
    // One of that name which is kept was not made for the pod.
    std::fs::create_dir_all(host.path("root/claims/default_app-v")).unwrap();
    let refused = host.run(&["run", "-d", &host.manifest(&pod("app", spec))]).expect(125);
    refused.says(&["volume v", "default/app-v exists and was not made for this pod"]);
    assert_eq!(host.ok(&["ps", "-q"]), "");
    host.ok(&["volume", "rm", "app-v"]);
}
