//! `hostUsers: false`: pods whose root is not the host's.

use crate::harness::{Host, facts, pod, until, with};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;

const SIZE: i64 = 65536;

/// The host's id of the root of what this process saw.
fn root_of(seen: &Value) -> i64 {
    assert_eq!(seen["uid_map"], seen["gid_map"], "{seen}");
    let map = seen["uid_map"].as_array().unwrap();
    assert_eq!(map.len(), 1, "{map:?}");
    let number = |at: usize| map[0][at].as_i64().unwrap();
    assert_eq!((number(0), number(2)), (0, SIZE), "{map:?}");
    number(1)
}

/// `Uid:` of a process of the host.
fn uid_of(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn mapped(spec: Value) -> Value {
    with(json!({ "hostUsers": false, "terminationGracePeriodSeconds": 1 }), spec)
}

#[test]
fn a_pods_root_is_nobody_on_the_host() {
    let Some(host) = Host::new(&[]) else { return };
    let busybox = json!({ "name": "b", "image": "busybox", "command": ["sleep", "1000"] });
    let user = with(facts("u", &["sleep"]), json!({ "securityContext": { "runAsUser": 1000, "runAsGroup": 2000 } }));
    let spec = json!({ "containers": [facts("c", &["sleep"]), user, busybox] });
    host.start(&pod("a", mapped(spec.clone())));
    host.start(&pod("b", mapped(spec)));
    let seen = host.report("a", "c", &["--stat=/", "--stat=/etc", "--stat=/dev/null", "--stat=/etc/hosts"]);
    assert_eq!((seen["uid"].as_i64(), seen["gid"].as_i64()), (Some(0), Some(0)));
    let (first, other) = (root_of(&seen), root_of(&host.report("b", "c", &[])));
    assert!(first >= SIZE && (first - other).abs() >= SIZE, "{first} and {other}");
    assert_eq!(uid_of(host.pid("a", "c")), first);
    assert_eq!(uid_of(host.pid("a", "u")), first + 1000);
    // Files of the image and podshim's own belong to the pod's root; the devices are the host's.
    for path in ["/", "/etc", "/etc/hosts"] {
        assert_eq!((&seen["stats"][path]["uid"], &seen["stats"][path]["gid"]), (&json!(0), &json!(0)), "{path}");
    }
    assert_eq!(seen["stats"]["/dev/null"]["type"], "char");
    // Every namespace is the pod's own, and all containers of the pod have the same user namespace.
    let host_user = std::fs::read_link("/proc/self/ns/user").unwrap().display().to_string();
    let inode = |container: &str| host.report("a", container, &[])["namespaces"]["user"].to_string();
    assert!(!host_user.contains(&inode("c")) && inode("c") == inode("u"));
    // A container of the default kind: the same capabilities as ever, the same masks, no more mounts.
    assert_eq!(seen["caps"]["bounding"], "00000000a80425fb");
    assert_eq!(seen["seccomp"], 2);
    let sh = |script: &str| host.run(&["exec", "-c", "b", "a", "--", "sh", "-c", script]);
    assert_eq!(sh("cat /proc/keys /proc/timer_list /proc/interrupts").out, "");
    assert_eq!(sh("touch /new && mkdir /dir && chown 5:6 /new && stat -c %u:%g /new /dir").out, "5:6\n0:0\n");
    assert_eq!(sh("rm -r /etc/group && ls /etc/group").code, 1);
    assert_eq!(
        sh("echo x > /dev/null; head -c2 /dev/zero | wc -c; echo y > /dev/shm/y && cat /dev/shm/y").out,
        "2\ny\n"
    );
    for script in [
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sys/kernel/domainname",
        "echo b > /proc/sysrq-trigger",
        "mknod /disk b 7 0",
        "mkdir -p /m; mount -t tmpfs x /m",
        "chown 70000 /dir",
    ] {
        assert_ne!(sh(script).code, 0, "{script}");
    }
    // What the pod's root makes belongs to him on the host as well, and to nobody there.
    let uid = host.uid("a");
    let upper = host.path("root").join("pods").join(uid).join("containers/b/0/upper");
    let on_disk = |name: &str| i64::from(std::fs::metadata(upper.join(name)).unwrap().uid());
    assert_eq!((on_disk(""), on_disk("dir"), on_disk("new")), (first, first, first + 5));
    // Ids are free again when the pod is gone.
    host.ok(&["rm", "-f", "a"]);
    host.start(&pod("again", mapped(json!({ "containers": [facts("c", &["sleep"])] }))));
    assert_eq!(root_of(&host.report("again", "c", &[])), first);
}

#[test]
fn volumes_keep_the_ids_of_the_container() {
    let Some(host) = Host::new(&[]) else { return };
    let base = host.folder("volume");
    std::fs::write(format!("{base}/roots"), "").unwrap();
    std::fs::write(format!("{base}/users"), "").unwrap();
    std::os::unix::fs::chown(format!("{base}/users"), Some(1000), Some(1000)).unwrap();
    let mounts = json!([
        { "name": "host", "mountPath": "/host" }, { "name": "disk", "mountPath": "/disk" },
        { "name": "memory", "mountPath": "/memory" }, { "name": "disk", "mountPath": "/sub", "subPath": "a/b" },
    ]);
    let volumes = json!([
        { "name": "host", "hostPath": { "path": base } }, { "name": "disk", "emptyDir": {} },
        { "name": "memory", "emptyDir": { "medium": "Memory" } },
    ]);
    let c = with(facts("c", &["sleep"]), json!({ "volumeMounts": mounts }));
    let spec = json!({
        "containers": [c], "volumes": volumes,
        "securityContext": { "runAsUser": 1000, "fsGroup": 3000 },
    });
    host.start(&pod("v", mapped(spec)));
    let asked = ["--list=/host", "--stat=/disk", "--stat=/memory", "--stat=/sub"];
    let seen = host.report("v", "c", &asked);
    let owner = |name: &str| seen["lists"]["/host"][name]["uid"].as_i64();
    assert_eq!((owner("roots"), owner("users")), (Some(0), Some(1000)));
    for path in ["/disk", "/memory"] {
        let stat = &seen["stats"][path];
        assert_eq!((stat["uid"].as_i64(), stat["gid"].as_i64()), (Some(0), Some(3000)), "{path}: {stat}");
    }
    for path in ["/disk/x", "/memory/x"] {
        host.ok(&["exec", "v", "--", "/facts", "write", path, "x"]);
    }
    let uid = host.uid("v");
    let data = host.path("root").join("pods").join(uid).join("volumes");
    for path in ["disk/x", "memory/x"] {
        assert_eq!(std::fs::metadata(data.join(path)).unwrap().uid(), 1000, "{path}");
    }
    // A device is on a file system without id-mapped mounts.
    let device = with(facts("c", &[]), json!({ "volumeMounts": [{ "name": "d", "mountPath": "/d" }] }));
    let volumes = json!([{ "name": "d", "hostPath": { "path": "/dev/zero", "type": "CharDevice" } }]);
    let spec = json!({ "restartPolicy": "Never", "containers": [device], "volumes": volumes });
    host.foreground(&pod("device", mapped(spec))).expect(125).says(&["/dev/zero is on devtmpfs", "id-mapped"]);
}

#[test]
fn an_unmasked_proc_is_whole_and_still_no_danger() {
    let Some(host) = Host::new(&[]) else { return };
    let context = json!({ "procMount": "Unmasked", "capabilities": { "add": ["SYS_ADMIN"] } });
    let container =
        json!({ "name": "b", "image": "busybox", "command": ["sleep", "1000"], "securityContext": context });
    host.start(&pod("open", mapped(json!({ "containers": [container] }))));
    let sh = |script: &str| host.run(&["exec", "open", "--", "sh", "-c", script]);
    // Nothing is mounted in it, so the kernel lets the pod's root have another one: that is what it is for.
    assert_eq!(sh("grep -c ' /proc/' /proc/self/mountinfo").out, "0\n");
    assert_eq!(sh("mkdir /p && mount -t proc proc /p && ls /p/self/status").out, "/p/self/status\n");
    for script in
        ["echo x > /proc/sys/kernel/core_pattern", "echo 1 > /proc/sys/vm/drop_caches", "echo b > /proc/sysrq-trigger"]
    {
        assert_ne!(sh(script).code, 0, "{script}");
    }
    // What is a namespace's own is the pod's to change.
    assert_eq!(sh("hostname inside && hostname").out, "inside\n");
    assert_ne!(nix::unistd::gethostname().unwrap(), "inside");
}

#[test]
fn the_rest_of_a_pod_works_in_its_user_namespace() {
    let Some(host) = Host::new(&[]) else { return };
    let sysctls = json!([{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "7" },
                         { "name": "kernel.shm_rmid_forced", "value": "1" }]);
    let asked = ["--sysctl=net.ipv4.ip_unprivileged_port_start", "--sysctl=kernel.shm_rmid_forced"];
    let spec = mapped(json!({ "securityContext": { "sysctls": sysctls } }));
    let seen = host.seen("sysctls", facts("c", &asked), spec);
    assert_eq!(seen["sysctls"], json!({ "net.ipv4.ip_unprivileged_port_start": "7", "kernel.shm_rmid_forced": "1" }));
    // One pid namespace for the pod, probes by exec, a terminal, a restart, a debug container.
    let shell = |name: &str, script: &str| json!({ "name": name, "image": "busybox", "command": ["sh", "-c", script] });
    let probed = with(
        shell("probed", "touch /ready; exec sleep 1000"),
        json!({ "readinessProbe": { "exec": { "command": ["test", "-e", "/ready"] }, "periodSeconds": 1 }, "tty": true }),
    );
    let again = shell("again", "[ -e /v/was ] || { touch /v/was; exit 3; }; exec sleep 1000");
    let again = with(again, json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }));
    let spec = json!({
        "shareProcessNamespace": true, "containers": [probed, again], "volumes": [{ "name": "v", "emptyDir": {} }],
    });
    host.start(&pod("full", mapped(spec)));
    host.until_condition("full", "Ready", "True");
    host.until_status(("full", "again"), "a restart", |status| status["restartCount"] == 1);
    // The new instance's shell becomes the sleep a moment later.
    let ps = until("both processes", || {
        let ps = host.ok(&["exec", "-c", "probed", "full", "--", "ps", "-o", "args"]);
        (ps.lines().filter(|line| line.trim() == "sleep 1000").count() == 2).then_some(ps)
    });
    assert!(ps.contains("podshim-pause"), "{ps}");
    let debug = host.run(&["debug", "full", "--image", "busybox", "-i", "--target", "probed", "--", "id", "-u"]);
    assert_eq!(debug.clone().expect(0).out.trim(), "0", "{debug:?}");
    let terminal = host.ok(&["exec", "-c", "probed", "full", "--", "ls", "-l", "/dev/console"]);
    assert!(terminal.starts_with('c'), "{terminal}");
}

#[test]
fn what_a_user_namespace_cannot_be_is_refused() {
    let Some(host) = Host::new(&["ip"]) else { return };
    let network = host.network("net");
    let manifest = host.manifest(&pod("net", mapped(json!({ "containers": [facts("c", &[])] }))));
    host.run(&["run", "--network", &format!("ns:/run/netns/{network}"), &manifest])
        .expect(125)
        .says(&["hostUsers", "--network"]);
    host.import("localhost/facts", "localhost/large", &json!({ "User": "70000" }));
    let large = with(facts("c", &[]), json!({ "image": "localhost/large" }));
    let spec = json!({ "restartPolicy": "Never", "containers": [large] });
    host.foreground(&pod("large", mapped(spec))).expect(125).says(&["id 70000", "ids below 65536"]);
    // Privileged, it is so in its own namespace only.
    let privileged = json!({
        "name": "b", "image": "busybox", "securityContext": { "privileged": true },
        "command": ["sh", "-c", "ls /dev | grep -c . ; cat /dev/kmsg; echo x > /proc/sys/kernel/core_pattern; mkdir /m && mount -t tmpfs t /m && echo mounted"],
    });
    let spec = json!({ "restartPolicy": "Never", "containers": [privileged] });
    let output = host.foreground(&pod("privileged", mapped(spec))).expect(0);
    assert!(output.out.contains("mounted") && output.out.contains("core_pattern"), "{output:?}");
    assert!(!std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap().starts_with('x'));
}

#[test]
fn a_containers_user_can_open_its_own_output_again() {
    let Some(host) = Host::new(&[]) else { return };
    for (name, host_users, uid) in [("own", true, 1000), ("mapped", false, 1000), ("root", false, 0)] {
        let script = "echo to-out > /dev/stdout && echo to-err > /proc/self/fd/2";
        let container = json!({
            "name": "b", "image": "busybox", "command": ["sh", "-c", script], "securityContext": { "runAsUser": uid },
        });
        let spec = json!({ "restartPolicy": "Never", "hostUsers": host_users, "containers": [container] });
        let output = host.foreground(&pod(name, spec)).expect(0);
        assert!(output.out.contains("to-out") && output.out.contains("to-err"), "{name}: {output:?}");
    }
}
