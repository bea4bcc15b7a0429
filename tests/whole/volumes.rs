//! Volumes of a pod: hostPath, emptyDir, subPath, and the message that a container leaves.

use crate::harness::{Host, facts, pod, with};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn mounted(container: Value, mounts: Value) -> Value {
    with(container, json!({ "volumeMounts": mounts }))
}

fn read(host: &Host, pod: &str, container: &str, path: &str) -> String {
    host.ok(&["exec", "-c", container, pod, "--", "/facts", "read", path])
}

#[test]
fn host_paths_of_every_type_are_seen_inside() {
    let Some(host) = Host::new(&[]) else { return };
    let base = host.folder("host");
    std::fs::create_dir(format!("{base}/dir")).unwrap();
    std::fs::write(format!("{base}/dir/file"), "of the host").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(format!("{base}/socket")).unwrap();
    let rows = [
        ("unset", "dir", ""),
        ("directory", "dir", "Directory"),
        ("made", "new/deep", "DirectoryOrCreate"),
        ("file", "dir/file", "File"),
        ("touched", "dir/touched", "FileOrCreate"),
        ("socket", "socket", "Socket"),
    ];
    let mut volumes: Vec<Value> = rows
        .iter()
        .map(|(name, path, kind)| {
            let source = json!({ "path": format!("{base}/{path}") });
            let source = if kind.is_empty() { source } else { with(source, json!({ "type": kind })) };
            json!({ "name": name, "hostPath": source })
        })
        .collect();
    volumes.push(json!({ "name": "device", "hostPath": { "path": "/dev/zero", "type": "CharDevice" } }));
    let mut mounts: Vec<Value> =
        rows.iter().map(|(name, ..)| json!({ "name": name, "mountPath": format!("/at/{name}") })).collect();
    mounts.push(json!({ "name": "device", "mountPath": "/at/device" }));
    mounts.push(json!({ "name": "directory", "mountPath": "/at/readonly", "readOnly": true }));
    let spec = json!({ "containers": [mounted(facts("c", &["sleep"]), json!(mounts))], "volumes": volumes });
    host.start(&pod("paths", spec));
    let seen = host.report("paths", "c", &["--list=/at"]);
    for (name, kind) in [
        ("unset", "directory"),
        ("directory", "directory"),
        ("made", "directory"),
        ("file", "file"),
        ("touched", "file"),
        ("socket", "socket"),
        ("device", "char"),
    ] {
        assert_eq!(seen["lists"]["/at"][name]["type"], kind, "{name}: {}", seen["lists"]["/at"]);
    }
    assert_eq!(seen["lists"]["/at"]["made"]["mode"], "0755");
    assert_eq!(read(&host, "paths", "c", "/at/unset/file"), "of the host");
    host.ok(&["exec", "paths", "--", "/facts", "write", "/at/directory/from-inside", "x"]);
    assert_eq!(std::fs::read_to_string(format!("{base}/dir/from-inside")).unwrap(), "x");
    let refused = host.run(&["exec", "paths", "--", "/facts", "write", "/at/readonly/y", "x"]).expect(1);
    assert!(refused.err.contains("Read-only file system"), "{refused:?}");
    host.ok(&["rm", "-f", "paths"]);
    assert!(std::path::Path::new(&format!("{base}/dir/from-inside")).exists(), "what is the host's stays");
}

#[test]
fn host_paths_of_the_wrong_type_are_refused_before_anything_is_made() {
    let Some(host) = Host::new(&[]) else { return };
    let base = host.folder("host");
    std::fs::write(format!("{base}/file"), "").unwrap();
    for (name, path, kind, words) in [
        ("missing", "none", "", "does not exist"),
        ("missing-dir", "none", "Directory", "does not exist"),
        ("not-a-dir", "file", "DirectoryOrCreate", "is not a directory"),
        ("not-a-socket", "file", "Socket", "is not a socket"),
        ("not-a-device", "file", "BlockDevice", "is not a block device"),
        ("no-parent", "none/file", "FileOrCreate", "does not exist"),
    ] {
        let volumes = json!([{ "name": "v", "hostPath": { "path": format!("{base}/{path}"), "type": kind } }]);
        let spec = json!({ "containers": [mounted(facts("c", &["sleep"]), json!([{ "name": "v", "mountPath": "/v" }]))], "volumes": volumes });
        let refused = host.run(&["run", "-d", &host.manifest(&pod(name, spec))]).expect(125);
        refused.says(&[words, &format!("{base}/{path}")]);
        assert_eq!(host.ok(&["ps", "-q"]), "", "{name}");
    }
    host.assert_clean();
}

#[test]
fn an_empty_dir_lives_with_its_pod() {
    let Some(host) = Host::new(&[]) else { return };
    let mount = json!([{ "name": "v", "mountPath": "/v" }, { "name": "m", "mountPath": "/m" }]);
    let init = mounted(facts("init", &["write", "/v/note", "from init"]), mount.clone());
    let a = mounted(facts("a", &["sleep"]), mount.clone());
    let b = mounted(facts("b", &["sleep"]), json!([{ "name": "v", "mountPath": "/other", "readOnly": true }]));
    let volumes = json!([{ "name": "v", "emptyDir": {} }, { "name": "m", "emptyDir": { "medium": "Memory", "sizeLimit": "4Mi" } }]);
    host.start(&pod("empty", json!({ "initContainers": [init], "containers": [a, b], "volumes": volumes })));
    assert_eq!(read(&host, "empty", "a", "/v/note"), "from init");
    assert_eq!(read(&host, "empty", "b", "/other/note"), "from init");
    host.run(&["exec", "-c", "b", "empty", "--", "/facts", "write", "/other/x", "x"]).expect(1).says(&["Read-only"]);
    let seen = host.report("empty", "a", &["--stat=/v", "--stat=/m"]);
    assert_eq!(seen["stats"]["/v"]["mode"], "0777");
    let mount = seen["mounts"].as_array().unwrap().iter().find(|m| m["target"] == "/m").unwrap().clone();
    assert_eq!(mount["fstype"], "tmpfs");
    assert!(mount["super_options"].as_array().unwrap().contains(&json!("size=4096k")), "{mount}");
    // It outlives a container, and not the pod.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(host.pid("empty", "a")), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    crate::harness::until("the restart", || (host.status("empty", "a")["restartCount"] == 1).then_some(()));
    crate::harness::until("running", || host.status("empty", "a")["state"]["running"].is_object().then_some(()));
    assert_eq!(read(&host, "empty", "a", "/v/note"), "from init");
    host.ok(&["rm", "-f", "empty"]);
    host.assert_clean();
}

#[test]
fn what_is_mounted_at_dev_is_not_written_into() {
    let Some(host) = Host::new(&[]) else { return };
    let base = host.folder("dev");
    let at = |path: &str, words: &[&str]| {
        let volumes = json!([{ "name": "v", "hostPath": { "path": path } }]);
        let container = mounted(facts("c", words), json!([{ "name": "v", "mountPath": "/dev" }]));
        let container = with(container, json!({ "terminationMessagePath": "/tmp/message" }));
        json!({ "restartPolicy": "Never", "containers": [container], "volumes": volumes })
    };
    let before: Vec<_> = std::fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let seen = host.foreground(&pod("hosts", at("/dev", &["--stat=/dev/null", "--list=/dev"]))).expect(0).out;
    let seen: Value = serde_json::from_str(seen.split_once("| ").unwrap().1.trim()).unwrap();
    assert_eq!(seen["stats"]["/dev/null"]["type"], "char", "{seen}");
    let after: Vec<_> = std::fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(after, before);
    // A directory of no devices has none in a container either. (What is mounted in it needs its place.)
    host.foreground(&pod("own", at(&base, &["exit", "0"]))).expect(0);
    let left: Vec<_> = std::fs::read_dir(&base).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "shm"), "{left:?}");
    host.assert_clean();
}

#[test]
fn below_sys_the_kernels_own_can_be_mounted() {
    let Some(host) = Host::new(&[]) else { return };
    for (n, path) in ["/sys/fs/cgroup", "/sys/class/net", "/sys/devices/system"].iter().enumerate() {
        let volumes = json!([{ "name": "v", "hostPath": { "path": path } }]);
        let container = mounted(
            facts("c", &[&format!("--list={path}")]),
            json!([{ "name": "v", "mountPath": path, "readOnly": true }]),
        );
        let spec = json!({ "restartPolicy": "Never", "containers": [container], "volumes": volumes });
        let output = host.foreground(&pod(&format!("p{n}"), spec)).expect(0).out;
        let seen: Value = serde_json::from_str(output.split_once("| ").unwrap().1.trim()).unwrap();
        // Cgroups of tests beside this one come and go.
        let counts = |name: &String| !name.starts_with("podshim-whole-") || *name == host.cgroup_parent;
        let here = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let here: BTreeSet<String> = here.filter(counts).collect();
        let there = seen["lists"][path].as_object().unwrap().keys().map(ToOwned::to_owned);
        let there: BTreeSet<String> = there.filter(counts).collect();
        assert_eq!(there, here, "{path}");
    }
    host.assert_clean();
}

#[test]
fn sub_paths_stay_in_their_volume() {
    let Some(host) = Host::new(&[]) else { return };
    let base = host.folder("volume");
    std::fs::create_dir_all(format!("{base}/deep/er")).unwrap();
    std::fs::write(format!("{base}/deep/er/note"), "deep").unwrap();
    std::fs::write(host.path("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("deep/er", format!("{base}/inside")).unwrap();
    let volumes = json!([{ "name": "v", "hostPath": { "path": base } }]);
    let at = |sub_path: &str| json!({ "name": "v", "mountPath": "/v", "subPath": sub_path });
    let spec = |mount: Value| json!({ "restartPolicy": "Never", "containers": [mounted(facts("c", &["read", "/v/note"]), json!([mount]))], "volumes": volumes });
    for (name, sub_path) in [("deep", "deep/er"), ("link", "inside")] {
        let output = host.foreground(&pod(name, spec(at(sub_path)))).expect(0);
        assert_eq!(output.out, "c | deep\n", "{name}");
    }
    // What is missing is made.
    let made = mounted(facts("c", &["write", "/v/new", "x"]), json!([at("made/here")]));
    host.foreground(&pod("made", json!({ "restartPolicy": "Never", "containers": [made], "volumes": volumes })))
        .expect(0);
    assert_eq!(std::fs::read_to_string(format!("{base}/made/here/new")).unwrap(), "x");
    // With the container's own variables.
    let by_variable = json!([{ "name": "v", "mountPath": "/v", "subPathExpr": "$(WHERE)" }]);
    let variable = with(
        mounted(facts("c", &["read", "/v/note"]), by_variable),
        json!({ "env": [{ "name": "WHERE", "value": "deep/er" }] }),
    );
    let output = host
        .foreground(&pod("expr", json!({ "restartPolicy": "Never", "containers": [variable], "volumes": volumes })));
    assert!(output.out == "c | deep\n" || output.err.contains("not supported yet"), "{output:?}");
    // What leads out is refused, whoever made it.
    for (name, target) in
        [("absolute", "/etc"), ("dots", ".."), ("dangling", "nowhere/at/all"), ("proc", "/proc/self/root")]
    {
        std::os::unix::fs::symlink(target, format!("{base}/{name}")).unwrap();
        let output = host.foreground(&pod(name, spec(at(name))));
        assert_eq!(output.code, 125, "{name}: {output:?}");
        assert!(output.out.is_empty() && output.err.contains("subPath"), "{name}: {output:?}");
    }
    for sub_path in ["../secret", "/etc", "deep/../../secret"] {
        let output = host.foreground(&pod("words", spec(at(sub_path)))).expect(125);
        assert!(output.err.contains("nothing was started"), "{sub_path}: {output:?}");
    }
    host.assert_clean();
}

#[test]
fn mount_points_are_made_in_the_container_and_never_outside() {
    let Some(host) = Host::new(&[]) else { return };
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    // /etc/passwd is a file of the image; below it nothing can be mounted.
    let below = mounted(facts("c", &["sleep"]), json!([{ "name": "v", "mountPath": "/etc/passwd/x" }]));
    let output =
        host.run(&["run", "-d", &host.manifest(&pod("below", json!({ "containers": [below], "volumes": volumes })))]);
    assert_eq!(output.code, 125, "{output:?}");
    assert!(output.err.contains("/etc/passwd/x"), "{output:?}");
    let deep = mounted(facts("c", &["write", "/a/b/c/d", "x"]), json!([{ "name": "v", "mountPath": "/a/b/c" }]));
    let sealed = with(deep, json!({ "securityContext": { "readOnlyRootFilesystem": true } }));
    host.foreground(&pod("deep", json!({ "restartPolicy": "Never", "containers": [sealed], "volumes": volumes })))
        .expect(0);
    host.assert_clean();
}

/// They may be what the image has not, and podshim's layer of mount points has as a file.
#[test]
fn directories_and_files_take_the_place_of_podshims_own_files() {
    let Some(host) = Host::new(&[]) else { return };
    let base = host.folder("host");
    std::fs::create_dir_all(format!("{base}/dir/deep")).unwrap();
    for file in ["dir/deep/file", "dir/file"] {
        std::fs::write(format!("{base}/{file}"), "of the host").unwrap();
    }
    let mounts = json!([
        { "name": "v", "mountPath": "/etc/hosts" }, { "name": "v", "mountPath": "/etc/hostname/", "subPath": "deep" },
        { "name": "v", "mountPath": "/etc/resolv.conf", "subPath": "file" },
    ]);
    let volumes = json!([{ "name": "v", "hostPath": { "path": format!("{base}/dir") } }]);
    let containers =
        [mounted(facts("all", &["sleep"]), mounts.clone()), mounted(facts("last", &["sleep"]), json!([mounts[2]]))];
    host.start(&pod("p", json!({ "containers": containers, "volumes": volumes })));
    for (container, path) in [
        ("all", "/etc/hosts/file"),
        ("all", "/etc/hostname/file"),
        ("all", "/etc/resolv.conf"),
        ("last", "/etc/resolv.conf"),
    ] {
        assert_eq!(read(&host, "p", container, path), "of the host", "{container}: {path}");
    }
    // Only where it must be, a container's own directory gets them.
    let upper =
        |container: &str| host.path("root/pods").join(host.uid("p")).join("containers").join(container).join("0/upper");
    assert!(upper("all").join("etc/hosts").is_dir() && !upper("last").join("etc").exists());
}

#[test]
fn the_last_words_of_a_container_are_kept() {
    let Some(host) = Host::new(&[]) else { return };
    let file = json!({ "name": "file", "image": "busybox", "command": ["sh", "-c", "echo -n it was the file >/dev/termination-log; exit 3"] });
    let own = with(
        file.clone(),
        json!({ "name": "own", "terminationMessagePath": "/my/words",
        "command": ["sh", "-c", "echo -n elsewhere >/my/words; exit 3"] }),
    );
    let log = json!({ "name": "log", "image": "busybox", "command": ["sh", "-c", "echo first; echo it was the log; exit 3"],
        "terminationMessagePolicy": "FallbackToLogsOnError" });
    let quiet = json!({ "name": "quiet", "image": "busybox", "command": ["sh", "-c", "echo something; exit 3"] });
    let long = json!({ "name": "long", "image": "busybox", "command": ["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x >/dev/termination-log"] });
    let spec = json!({ "restartPolicy": "Never", "containers": [file, own, log, quiet, long] });
    host.run(&["run", "--keep", &host.manifest(&pod("words", spec))]).expect(3);
    let message = |name: &str| {
        host.status("words", name)["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!((message("file").as_str(), message("own").as_str()), ("it was the file", "elsewhere"));
    assert!(
        message("log").ends_with("it was the log\n") || message("log").ends_with("it was the log"),
        "{}",
        message("log")
    );
    assert_eq!(message("quiet"), "");
    // A pod's status has room for 12288 bytes of them, shared by its containers.
    assert_eq!(message("long").len(), 12288 / 5);
    let script = "(echo -n 0; head -c 4095 /dev/zero | tr '\\0' x; echo -n 1) >/dev/termination-log";
    let alone = json!({ "name": "alone", "image": "busybox", "command": ["sh", "-c", script] });
    let spec = json!({ "restartPolicy": "Never", "containers": [alone] });
    host.run(&["run", "--keep", &host.manifest(&pod("alone", spec))]).expect(0);
    let ended = &host.status("alone", "alone")["state"]["terminated"];
    assert_eq!(ended["message"], format!("{}1", "x".repeat(4095)), "the last 4096 bytes of the file");
}
