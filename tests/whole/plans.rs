//! `podshim plan`: what it shows, that it changes nothing, and bundles that another runtime runs.

use crate::harness::{Host, available, binary, documents, facts, image_files, object, pod, shell, with};
use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Two containers that share what a pod shares, and differ in their confinement.
fn two() -> Value {
    let volume = |name: &str, path: &str| json!({ "name": name, "mountPath": path });
    let a = with(
        facts("a", &[]),
        json!({
            "volumeMounts": [
                volume("v", "/v"), { "name": "v", "subPath": "below/it", "mountPath": "/s" }, volume("m", "/m"),
                volume("i", "/i")
            ],
            "resources": { "limits": { "memory": "64Mi", "cpu": "100m" } }
        }),
    );
    let b = with(
        facts("b", &["--file=/c/x", "--stat=/c", "--sysctl=net.ipv4.ip_unprivileged_port_start"]),
        json!({
            "volumeMounts": [volume("c", "/c")],
            "securityContext": {
                "allowPrivilegeEscalation": false, "runAsUser": 7, "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] }
            }
        }),
    );
    let spec = json!({
        "restartPolicy": "Never", "hostname": "in-the-pod",
        "securityContext": { "fsGroup": 1234, "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "77" }] },
        "containers": [a, b],
        "volumes": [
            { "name": "v", "emptyDir": {} }, { "name": "m", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "c", "configMap": { "name": "cm" } }, { "name": "i", "image": { "reference": "busybox:1.28" } }
        ]
    });
    pod("two", spec)
}

fn manifest_of_two(host: &Host) -> String {
    let map = object("ConfigMap", "cm", json!({ "data": { "x": "it's $HOME\n" } }));
    documents(host, "two.yaml", &[two(), map])
}

/// Every file below a directory, with what a change of it would change.
fn listing(directory: &Path) -> BTreeMap<PathBuf, (u64, u32, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(status) = path.symlink_metadata() else { continue };
        if status.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, (status.ino(), status.mode(), status.size(), status.mtime(), status.mtime_nsec()));
    }
    found
}

#[test]
fn nothing_is_changed() {
    // Not the store that all tests share, and some import into.
    let (Some(bare), Some(host)) = (Host::bare(&[]), Host::bare(&[])) else { return };
    for image in ["busybox.oci.tar", "facts.docker.tar"] {
        host.ok(&["image", "import", image_files().join(image).to_str().unwrap()]);
    }
    let manifest = bare.manifest(&pod("p", json!({ "containers": [shell("c", "true")] })));
    let before = listing(&bare.path(""));
    let planned = bare.run(&["plan", &manifest]).expect(0).says(&["busybox:1.28 is not here", "podshim image pull"]);
    assert!(planned.out.contains("container c"), "{}", planned.out);
    assert_eq!(before, listing(&bare.path("")), "without a store");
    let manifest = manifest_of_two(&host);
    let before = listing(&host.path(""));
    let planned = host.run(&["plan", &manifest]).expect(0);
    assert!(planned.out.contains("NET_ADMIN") && planned.out.contains("/facts"), "{}", planned.out);
    for format in ["json", "yaml"] {
        host.ok(&["plan", "-o", format, &manifest]);
    }
    assert_eq!(before, listing(&host.path("")), "with a store");
}

#[test]
fn json_and_yaml_are_the_same_and_complete() {
    let Some(host) = Host::new(&[]) else { return };
    let manifest = manifest_of_two(&host);
    let json: Value = serde_json::from_str(&host.ok(&["plan", "-o", "json", &manifest])).unwrap();
    let yaml: Value = serde_saphyr::from_str(&host.ok(&["plan", "-o", "yaml", &manifest])).unwrap();
    assert_eq!(sorted(json.clone()), sorted(yaml));
    let container = &json[0]["containers"][1];
    assert_eq!(container["spec"]["process"]["user"]["uid"], 7);
    assert_eq!(container["spec"]["process"]["args"][0], "/facts", "the image's command");
    assert_eq!(container["steps"].as_array().unwrap().last().unwrap()["Exec"]["arguments"][0], "/facts");
    assert_eq!(json[0]["namespaces"], json!(["Network", "Uts", "Ipc"]));
}

/// Sets of capabilities have no order.
fn sorted(mut value: Value) -> Value {
    match &mut value {
        Value::Array(list) => {
            for item in list.iter_mut() {
                *item = sorted(item.take());
            }
            if list.iter().all(Value::is_string) {
                list.sort_by_key(|item| item.to_string());
            }
        }
        Value::Object(map) => map.values_mut().for_each(|item| *item = sorted(item.take())),
        _ => {}
    }
    value
}

#[test]
fn without_root_it_shows_what_the_manifest_says() {
    let Some(host) = Host::new(&["setpriv"]) else { return };
    let manifest = manifest_of_two(&host);
    host.start(&pod("there", json!({ "containers": [shell("c", "sleep 1000")] })));
    // Where nobody may look for them.
    let (program, open) = (host.path("podshim"), std::fs::Permissions::from_mode(0o755));
    std::fs::copy(binary(), &program).unwrap();
    std::fs::set_permissions(&program, open.clone()).unwrap();
    std::fs::set_permissions(host.path(""), open).unwrap();
    std::fs::set_permissions(&manifest, std::fs::Permissions::from_mode(0o644)).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program.to_str().unwrap()];
    let as_nobody = |args: &[&str]| host.finish(host.command_by(&nobody, args));
    let planned = as_nobody(&["plan", &manifest]).expect(0).says(&["without root"]);
    for words in [
        "NET_ADMIN",
        "image: localhost/facts (not looked at)",
        "uid 7",
        "<command of localhost/facts>",
        "JoinNamespace",
    ] {
        assert!(planned.out.contains(words), "no {words} in\n{}", planned.out);
    }
    assert!(!planned.out.contains('\x1b'), "no colours but on terminals");
    as_nobody(&["plan", &manifest, "--network", "bridge"]).expect(0).says(&["without root"]);
    as_nobody(&["plan", &manifest, "-o", "json"]).expect(0);
    as_nobody(&["plan", &manifest, "-o", "oci", "--to", "/tmp/x"]).expect(125).says(&["-o oci takes root"]);
    as_nobody(&["run", &manifest]).expect(125).says(&["takes root", "`plan`"]);
}

#[test]
fn what_others_write_is_escaped() {
    let Some(host) = Host::new(&[]) else { return };
    let evil = with(
        shell("c", "true"),
        json!({ "args": ["\u{1b}[31m\n├─ container forged"], "env": [{ "name": "A", "value": "secret" }] }),
    );
    host.import(
        "docker.io/library/busybox",
        "localhost/evil",
        &json!({ "Entrypoint": ["\u{1b}]0;title\u{7}"], "Env": ["X\u{9b}=1"] }),
    );
    let of_image = json!({ "name": "d", "image": "localhost/evil" });
    let manifest = host.manifest(&pod("p", json!({ "containers": [evil, of_image] })));
    let out = host.ok(&["plan", &manifest]);
    assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{out:?}");
    assert!(
        out.contains("forged")
            && !out.lines().any(|line| line.trim_start_matches(['│', ' ']).starts_with("├─ container forged"))
    );
    assert!(out.contains("HOSTNAME") && !out.contains("secret"), "names of variables, not their values:\n{out}");
}

#[test]
fn bundles_are_whole_or_not_there() {
    let Some(host) = Host::new(&[]) else { return };
    let one = |name: &str, container: Value, spec: Value| {
        host.manifest(&pod(name, with(json!({ "containers": [with(shell("c", "true"), container)] }), spec)))
    };
    let to = host.path("to");
    let to = to.to_str().unwrap();
    let variable = json!([{ "name": "N", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }]);
    let volume = json!([{ "name": "d", "persistentVolumeClaim": { "claimName": "data" } }]);
    let together = json!({
        "resources": { "limits": { "memory": "1Gi" } }, "containers": [shell("c", "true"), shell("d", "true")]
    });
    let missing = host.manifest(&pod("missing", json!({ "containers": [{ "name": "c", "image": "no/such:1" }] })));
    let refused = [
        (missing, "podshim image pull no/such:1"),
        (one("users", json!({}), json!({ "hostUsers": false })), "hostUsers: false"),
        (one("shared", json!({}), json!({ "shareProcessNamespace": true })), "shareProcessNamespace"),
        (one("claim", json!({}), json!({ "volumes": volume })), "persistentVolumeClaim"),
        (one("powers", json!({ "securityContext": { "privileged": true } }), json!({})), "securityContext.privileged"),
        (one("limits", json!({}), together), "spec.resources"),
        (one("named", json!({ "name": "etc" }), json!({})), "container etc"),
        (one("port", json!({ "ports": [{ "containerPort": 1, "hostPort": 8000 }] }), json!({})), "hostPort 8000"),
        (one("address", json!({ "env": variable }), json!({})), "env N"),
    ];
    for (manifest, words) in refused {
        host.run(&["plan", &manifest, "--network", "bridge", "-o", "oci", "--to", to]).expect(125).says(&[words]);
        assert!(!Path::new(to).exists(), "{words}");
    }
    let fine = one("fine", json!({}), json!({}));
    host.run(&["plan", &fine, "-o", "oci"]).expect(2).says(&["--to"]);
    host.run(&["plan", &fine, "--to", to]).expect(125).says(&["-o oci"]);
    std::fs::create_dir(to).unwrap();
    std::fs::write(host.path("to/mine"), "").unwrap();
    host.run(&["plan", &fine, "-o", "oci", "--to", to]).expect(125).says(&["to: the directory is not empty"]);
    host.run(&["plan", &fine, "-o", "oci", "--to", &format!("{to}/mine")]).expect(125).says(&["is no directory"]);
    std::fs::remove_file(host.path("to/mine")).unwrap();
    host.run(&["plan", &fine, "-o", "oci", "--to", to]).expect(0);
    assert!(host.path("to/c/config.json").exists() && host.path("to/sandbox.sh").exists());
    // For people to read.
    assert!(std::fs::read_to_string(host.path("to/c/config.json")).unwrap().lines().count() > 100);
    let left = std::fs::read_dir(host.path(""))
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(".to"));
    assert_eq!(left.count(), 0, "half a directory is left");
}

/// Of files, what is not of the file system that they happen to be on. runc gives a link to /proc/kcore besides.
fn shape(mut value: Value) -> Value {
    match &mut value {
        Value::Array(list) => {
            list.retain(|item| item["name"] != "core");
            list.iter_mut().for_each(|item| *item = shape(item.take()));
            list.sort_by_key(|item| item.to_string());
        }
        Value::Object(map) => {
            for own in ["size", "nlink", "dev", "ino", "mtime"] {
                map.remove(own);
            }
            map.remove("core");
            map.values_mut().for_each(|item| *item = shape(item.take()));
        }
        _ => {}
    }
    value
}

/// What a container sees, but for what is another's for each.
fn comparable(mut seen: Value) -> Value {
    let words = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let mut mounts = BTreeMap::new();
    for mount in seen["mounts"].as_array().unwrap() {
        let target = mount["target"].as_str().unwrap();
        // runc of Debian 12 knows no cgroup v2 beside v1, and mounts v1 writable.
        if target.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let mut options = words(&mount["options"]);
        // Whether times of reading are kept is of no meaning in memory.
        options.remove("relatime");
        let kind = mount["fstype"].as_str().unwrap();
        // What hides something: how an empty file or directory comes there is each runtime's own choice.
        let hides = target.starts_with("/proc/") && matches!(kind, "tmpfs" | "devtmpfs") || target.starts_with("/sys/");
        // podshim keeps these in a small tmpfs; in bundles they are on disk, where volumes are.
        let is_own = target.starts_with("/etc/") || target == "/dev/termination-log";
        let shown = match (hides, is_own) {
            (true, _) => json!("hidden"),
            (_, true) => json!(options),
            _ => json!([options, kind, mount["propagation"]]),
        };
        mounts.insert(target.to_owned(), shown);
    }
    // Numbers are looked at while they are held. Where the output goes to is another place.
    for own in ["cgroup", "mnt", "pid", "pid_for_children", "net", "ipc", "uts"] {
        seen["namespaces"].as_object_mut().unwrap().remove(own);
    }
    // runc passes on what its caller ignores.
    for own in ["fds", "cgroup", "signals"] {
        seen.as_object_mut().unwrap().remove(own);
    }
    for of_files in ["dev", "stats"] {
        seen[of_files] = shape(seen[of_files].take());
    }
    seen["mounts"] = json!(mounts);
    seen
}

/// What this machine's other runtime cannot do: it may not raise limits, and knows huge pages of cgroup v1 only.
fn adapt(config: &Path) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    let limit = &mut value["process"]["rlimits"][0];
    limit["hard"] = json!(limit["hard"].as_u64().unwrap().min(hard));
    value["linux"]["resources"].as_object_mut().unwrap().remove("hugepageLimits");
    std::fs::write(config, value.to_string()).unwrap();
}

#[track_caller]
fn script(host: &Host, words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(std::process::Stdio::null());
    host.finish(command).expect(0).out
}

/// A sandbox that is there; taken away also if the test fails.
struct Up<'a>(&'a str);

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let ended = Command::new("bash").args([self.0, "down"]).status();
        assert!(std::thread::panicking() || ended.unwrap().success());
    }
}

#[test]
fn another_runtime_runs_the_bundles_and_its_containers_see_the_same() {
    if !available(&["runc"]) {
        return;
    }
    let Some(host) = Host::new(&["unshare", "nsenter", "findmnt"]) else { return };
    let manifest = manifest_of_two(&host);
    let output = host.run(&["run", &manifest]).expect(0).out;
    let under_podshim = |name: &str| -> Value {
        let lines = output.lines().filter_map(|line| line.split_once('|'));
        let own: Vec<&str> = lines.filter(|(who, _)| who.trim() == name).map(|(_, text)| text.trim()).collect();
        serde_json::from_str(&own.concat()).unwrap_or_else(|e| panic!("{e}: {output}"))
    };
    let to = host.path("bundles");
    let shown = to.to_str().unwrap();
    host.ok(&["plan", &manifest, "-o", "oci", "--to", shown]);
    let before = listing(&to);
    let sandbox = to.join("sandbox.sh");
    let sandbox = sandbox.to_str().unwrap();
    script(&host, &["bash", sandbox, "up"]);
    let up = Up(sandbox);
    for name in ["a", "b"] {
        let (bundle, root) = (to.join(name), host.path("runc"));
        let untouched = std::fs::read(bundle.join("config.json")).unwrap();
        adapt(&bundle.join("config.json"));
        let id = format!("{}-{name}", host.cgroup_parent);
        let words = ["runc", "--root", root.to_str().unwrap(), "run", "--bundle", bundle.to_str().unwrap(), &id];
        let seen: Value = serde_json::from_str(&script(&host, &words)).unwrap();
        std::fs::write(bundle.join("config.json"), untouched).unwrap();
        for kind in ["net", "uts", "ipc"] {
            let pin = to.join("ns").join(kind).metadata().unwrap().ino();
            assert_eq!(seen["namespaces"][kind], pin, "{name}: {kind} is the pod's");
            let hosts = Path::new("/proc/self/ns").join(kind).metadata().unwrap().ino();
            assert_ne!(pin, hosts, "{kind} is not the host's");
        }
        for kind in ["mnt", "pid"] {
            let hosts = Path::new("/proc/self/ns").join(kind).metadata().unwrap().ino();
            assert_ne!(seen["namespaces"][kind], hosts, "{name}: {kind} is its own");
        }
        let (ours, theirs) = (comparable(under_podshim(name)), comparable(seen));
        for (key, value) in ours.as_object().unwrap() {
            assert_eq!(value, &theirs[key], "{name}: {key} (podshim's, runc's)");
        }
    }
    drop(up);
    // Only the times of the directories are others.
    let names = |listing: &BTreeMap<PathBuf, _>| listing.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&listing(&to)), "what `up` made is gone");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(shown), "{mounts}");
}

#[test]
fn a_sandbox_that_cannot_be_made_is_taken_back() {
    let Some(host) = Host::new(&["unshare", "findmnt"]) else { return };
    let gone = host.path("gone");
    let volumes = json!([
        { "name": "m", "emptyDir": { "medium": "Memory" } },
        { "name": "h", "hostPath": { "path": gone, "type": "Directory" } }
    ]);
    let mounts = json!([{ "name": "h", "mountPath": "/h" }]);
    let container = with(shell("c", "true"), json!({ "volumeMounts": mounts }));
    let manifest = host.manifest(&pod("p", json!({ "containers": [container], "volumes": volumes })));
    let to = host.path("it's here");
    host.ok(&["plan", &manifest, "-o", "oci", "--to", to.to_str().unwrap()]);
    let sandbox = to.join("sandbox.sh");
    let bash = |word: &str| {
        let mut command = Command::new("bash");
        command.arg(&sandbox).arg(word);
        host.finish(command)
    };
    bash("up").expect(1).says(&["is no directory"]);
    assert!(!to.join("ns").exists() && !to.join("up").exists());
    std::fs::create_dir(&gone).unwrap();
    bash("up").expect(0);
    bash("up").expect(1).says(&["up already"]);
    assert!(to.join("c/rootfs/bin").exists());
    bash("down").expect(0);
    bash("down").expect(0);
}
