//! What a user gets wrong: an error that names the cause, a code, and nothing left.

use crate::harness::{Host, Live, facts, image_files, pod, until, with};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

#[test]
fn images_that_cannot_be_had_are_named() {
    let Some(host) = Host::new(&[]) else { return };
    // Bound and never listened on: nobody else can, so connections are refused.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let unreachable = format!("127.0.0.1:{port}/team/app:v1");
    let rows = [
        ("never", "localhost/none", "Never", "localhost/none"),
        ("refused", unreachable.as_str(), "Always", unreachable.as_str()),
        ("refused-missing", unreachable.as_str(), "IfNotPresent", "refused"),
        ("no-reference", "UPPER/case", "Never", "UPPER/case"),
    ];
    for (name, image, policy, words) in rows {
        let container = json!({ "name": "c", "image": image, "imagePullPolicy": policy });
        let manifest = host.manifest(&pod(name, json!({ "containers": [container] })));
        for args in [&["run", &manifest][..], &["run", "-d", &manifest]] {
            host.run(args).expect(125).says(&[words]);
        }
    }
    // One container's image is here, the other's is not: nothing of the pod is made.
    let containers =
        json!([facts("here", &["sleep"]), { "name": "not", "image": "localhost/none", "imagePullPolicy": "Never" }]);
    host.run(&["run", "-d", &host.manifest(&pod("half", json!({ "containers": containers })))])
        .expect(125)
        .says(&["container not"]);
    assert_eq!(host.ok(&["ps", "-q"]), "");
    host.assert_clean();
}

#[test]
fn commands_that_cannot_be_executed_are_told_as_kubernetes_does() {
    let Some(host) = Host::new(&[]) else { return };
    let rows = [
        (
            "no-path",
            json!(["/nonexistent"]),
            127,
            "exec: \"/nonexistent\": stat /nonexistent: no such file or directory",
        ),
        ("no-name", json!(["nonexistent"]), 127, "exec: \"nonexistent\": executable file not found in $PATH"),
        ("no-program", json!(["/etc/passwd"]), 126, "exec: \"/etc/passwd\": permission denied"),
        ("directory", json!(["/etc"]), 126, "exec: \"/etc\": permission denied"),
    ];
    for (name, command, code, words) in rows {
        for policy in ["Always", "Never"] {
            let container = json!({ "name": "c", "image": "localhost/facts", "command": command });
            let spec = json!({ "restartPolicy": policy, "containers": [container] });
            let manifest = host.manifest(&pod(name, spec));
            for args in [&["run", &manifest][..], &["run", "-d", &manifest]] {
                let output = host.run(args);
                assert_eq!(output.code, code, "{name} {policy}: {output:?}");
                assert!(output.err.contains(words) && output.err.contains("container c"), "{name}: {output:?}");
                assert!(output.out.is_empty(), "{output:?}");
            }
        }
    }
    // In an init container as well.
    let init = json!({ "name": "i", "image": "localhost/facts", "command": ["/nonexistent"] });
    let spec = json!({ "initContainers": [init], "containers": [facts("c", &["sleep"])] });
    host.run(&["run", "-d", &host.manifest(&pod("init", spec))]).expect(127).says(&["container i"]);
    assert_eq!(host.ok(&["ps", "-q"]), "");
    host.assert_clean();
}

#[test]
fn what_a_container_asks_for_and_cannot_have_is_named() {
    let Some(host) = Host::new(&[]) else { return };
    let rows: [(&str, Value, &str); 3] = [
        ("cwd", json!({ "workingDir": "/etc/passwd" }), "/etc/passwd"),
        ("cwd-below", json!({ "workingDir": "/etc/passwd/x" }), "/etc/passwd"),
        ("nonroot", json!({ "securityContext": { "runAsNonRoot": true } }), "runAsNonRoot"),
    ];
    for (name, change, words) in rows {
        let spec = json!({ "containers": [with(facts("c", &["sleep"]), change)] });
        let output = host.run(&["run", "-d", &host.manifest(&pod(name, spec))]);
        assert_eq!(output.code, 125, "{name}: {output:?}");
        assert!(output.err.contains(words), "{name}: {output:?}");
    }
    // A user that the image does not know.
    let bare = Host::bare(&[]).unwrap();
    bare.import("localhost/facts", "localhost/who", &json!({ "User": "nosuchuser" }));
    let spec = json!({ "containers": [{ "name": "c", "image": "localhost/who" }] });
    bare.run(&["run", "-d", &bare.manifest(&pod("who", spec))]).expect(125).says(&["nosuchuser"]);
    host.assert_clean();
    bare.assert_clean();
}

#[test]
fn files_and_flags_that_are_wrong_are_named() {
    let Some(host) = Host::new(&[]) else { return };
    host.run(&["run", "/not/there.yaml"]).expect(125).says(&["/not/there.yaml"]);
    let empty = host.folder("empty");
    let output = host.run(&["run", &empty]);
    assert!(output.code == 125 && output.err.contains("empty"), "{output:?}");
    host.run(&["run"]).expect(2);
    host.run(&["run", "--network", "bridged", "x"]).expect(2).says(&["bridge, none, host, cni and ns:PATH"]);
    host.run(&["run", "--keep", "-d", "x"]).expect(2);
    host.run(&["frobnicate"]).expect(2);
    host.run(&["image", "import", "/not/there"]).expect(125).says(&["/not/there"]);
    // By standard input.
    let mut command = host.command(&["run", "-"]);
    command.stdin(Stdio::piped());
    let mut live = Live::start(command);
    let manifest = pod("piped", json!({ "restartPolicy": "Never", "containers": [facts("c", &["exit", "3"])] }));
    live.stdin().write_all(manifest.to_string().as_bytes()).unwrap();
    assert_eq!(live.wait(), 3, "{}", live.err());
    // A field this version does not do is refused by name.
    let port = with(facts("c", &["sleep"]), json!({ "ports": [{ "containerPort": 80, "hostPort": 80 }] }));
    let manifest = host.manifest(&pod("port", json!({ "containers": [port] })));
    host.run(&["run", "-d", &manifest]).expect(125).says(&["containers[0].ports[0].hostPort: not supported yet"]);
}

#[test]
fn archives_that_are_broken_leave_nothing() {
    let Some(host) = Host::bare(&[]) else { return };
    let whole = std::fs::read(image_files().join("busybox.oci.tar")).unwrap();
    let path = host.path("broken.tar");
    let file = path.to_str().unwrap();
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 0x55;
    for (name, bytes) in [
        ("empty", &[][..]),
        ("cut", &whole[..whole.len() / 2]),
        ("cut at the end", &whole[..whole.len() - 20_000]),
        ("one bit wrong", &changed),
        ("no archive", b"this is a text"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let output = host.run(&["image", "import", file]);
        assert_eq!(output.code, 125, "{name}: {output:?}");
        assert!(!output.err.trim().is_empty(), "{name}");
        assert_eq!(host.ok(&["image", "ls"]).lines().count(), 1, "{name}");
        let left = std::fs::read_dir(host.path("root/tmp")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{name}");
    }
    std::fs::write(&path, &whole).unwrap();
    host.ok(&["image", "import", file]);
    let spec = json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": "busybox", "command": ["echo", "fine"] }] });
    assert_eq!(host.foreground(&pod("after", spec)).expect(0).out, "c | fine\n");
}

/// A small file system of the test's own, taken away when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn resize(&self, flags: nix::mount::MsFlags, size: &str) {
        let options = format!("size={size},mode=700");
        nix::mount::mount(Some("small"), &self.0, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let Some(host) = Host::bare(&[]) else { return };
    let disk = SmallDisk(host.path("root"));
    disk.resize(nix::mount::MsFlags::empty(), "1m");
    let archive = image_files().join("busybox.oci.tar");
    let import = ["image", "import", archive.to_str().unwrap()];
    host.run(&import).expect(125).says(&["No space left on device"]);
    let files = |dir: &str| std::fs::read_dir(host.path(dir)).map_or(0, Iterator::count);
    assert_eq!((files("root/tmp"), files("root/layers"), files("root/images/blobs/sha256")), (0, 0, 0));
    assert_eq!(host.ok(&["image", "ls"]).lines().count(), 1);
    disk.resize(nix::mount::MsFlags::MS_REMOUNT, "16m");
    host.ok(&import);
    let shell = |script: &str| json!({ "name": "c", "image": "busybox", "command": ["sh", "-c", script] });
    let spec = |script: &str| json!({ "restartPolicy": "Never", "containers": [shell(script)] });
    assert_eq!(host.foreground(&pod("after", spec("echo fine"))).expect(0).out, "c | fine\n");
    // A container fills it: that is its own failure, and it can be removed.
    let filled = host.run(&["run", "--keep", &host.manifest(&pod("filler", spec("cat /dev/zero >/x")))]);
    assert_eq!(filled.code, 1, "{filled:?}");
    assert!(filled.out.contains("No space left on device"), "{filled:?}");
    // The kernel counts a tmpfs's pages per CPU, so that another one may just fit.
    let late = host.run(&["run", "-d", &host.manifest(&pod("late", spec("sleep 1000")))]);
    let told = late.code == 125 && late.err.contains("No space left on device");
    assert!(late.code == 0 || told, "{late:?}");
    host.ok(&["rm", "-f", "late"]);
    assert_eq!(host.ok(&["ps", "-q"]), "default/filler\n");
    host.ok(&["rm", "filler"]);
    assert_eq!(host.foreground(&pod("again", spec("echo fine"))).expect(0).out, "c | fine\n");
    drop(disk);
    until("the mount's end", || host.leaks().is_empty().then_some(()));
}
