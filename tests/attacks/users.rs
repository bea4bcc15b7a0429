//! `hostUsers: false`: what the root of a pod's own user namespace reaches with all the capabilities it can have there.

use crate::harness::{FACTS, facts, pod, shell, until, with};
use crate::leaks;
use crate::rig::{BUSYBOX, Bench, once};
use serde_json::{Value, json};
use std::path::Path;

fn mapped(mut value: Value) -> Value {
    value["spec"]["hostUsers"] = json!(false);
    value
}

/// A container that may do in its user namespace whatever can be done there.
fn admin(script: &str, mounts: Value) -> Value {
    let context = json!({ "capabilities": { "add": ["ALL"] }, "seccompProfile": { "type": "Unconfined" } });
    with(
        shell("c", script),
        json!({ "image": BUSYBOX, "imagePullPolicy": "Never", "securityContext": context, "volumeMounts": mounts }),
    )
}

/// A read-only mount belongs to the host as much as what is in it: an image's layers, which other pods have too, and
/// directories of the host.
#[test]
fn p1_a_pods_root_cannot_make_mounts_writable() {
    let Some(bench) = Bench::bare() else { return };
    bench.host.import(BUSYBOX, BUSYBOX, &json!({}));
    bench.host.import(FACTS, "localhost/shared", &json!({}));
    let base = bench.host.folder("base");
    std::fs::create_dir(format!("{base}/sub")).unwrap();
    std::fs::write(format!("{base}/file"), "the host's own").unwrap();
    let volumes = json!([
        { "name": "image", "image": { "reference": "localhost/shared", "pullPolicy": "Never" } },
        { "name": "host", "hostPath": { "path": base } },
        { "name": "file", "hostPath": { "path": format!("{base}/file"), "type": "File" } },
    ]);
    let mounts = json!([
        { "name": "image", "mountPath": "/image" },
        { "name": "image", "mountPath": "/passwd", "subPath": "etc/passwd" },
        { "name": "host", "mountPath": "/host", "readOnly": true },
        { "name": "host", "mountPath": "/sub", "subPath": "sub", "readOnly": true },
        { "name": "host", "mountPath": "/all", "readOnly": true, "recursiveReadOnly": "Enabled" },
        { "name": "host", "mountPath": "/slave", "readOnly": true, "mountPropagation": "HostToContainer" },
        { "name": "file", "mountPath": "/file", "readOnly": true },
        { "name": "host", "mountPath": "/plain" },
    ]);
    // A bind mount of it, and a mount namespace of its own, are tried as well; at last what shows that it may mount at all.
    let script = "exec 2>/dev/null; mkdir /again /own /t; for m in /image /passwd /host /sub /all /slave /file; do \
            mount -o remount,rw,bind $m && echo writable $m; \
            if [ -d $m ]; then mount --bind $m /again && mount -o remount,rw,bind /again && echo writable again $m; \
                touch $m/x /again/x; mkdir $m/d; umount /again; else echo x >> $m; fi; \
        done; \
        unshare -m sh -c 'mount -o remount,rw,bind /image && touch /image/x && echo unshared'; \
        mount -o remount,bind,suid,dev,exec,ro /image && echo executable; \
        mount -t tmpfs t /t && mount -o remount,bind,ro /t && mount -o remount,bind,rw /t && touch /t/x && echo may mount; \
        touch /plain/written && echo over";
    let whole = || (crate::rig::snapshot(Path::new(&base)), crate::rig::snapshot(&bench.host.path("root/layers")));
    let before = whole();
    let output =
        bench.host.foreground(&mapped(once("remount", json!([admin(script, mounts)]), volumes.clone()))).expect(0);
    assert_eq!(output.out, "c | may mount\nc | over\n", "{output:?}");
    std::fs::remove_file(format!("{base}/written")).unwrap();
    assert!(whole() == before, "something read-only was written");
}

/// What is mounted below a read-only directory of the host's cannot be taken away to see what it hides.
#[test]
fn p2_a_pods_root_cannot_uncover_what_the_host_mounted_over() {
    let Some(bench) = Bench::new() else { return };
    let base = bench.host.folder("base");
    std::fs::create_dir(format!("{base}/sub")).unwrap();
    std::fs::write(format!("{base}/sub/hidden"), "the host's own").unwrap();
    let below = Mounted::tmpfs(&format!("{base}/sub"));
    std::fs::write(format!("{base}/sub/seen"), "").unwrap();
    let volumes = json!([{ "name": "v", "hostPath": { "path": base } }]);
    let mounts = json!([{ "name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Enabled" }]);
    let script = "exec 2>/dev/null; umount /v/sub; umount -l /v/sub; mount -o remount,rw,bind /v/sub; touch /v/sub/x; \
        mkdir /n; mount --bind /v /n; ls /n/sub; mount --rbind /v /n && umount -l /n/sub; ls /n/sub; ls /v/sub; echo over";
    let output = bench.host.foreground(&mapped(once("uncover", json!([admin(script, mounts)]), volumes)));
    drop(below);
    assert_eq!(output.expect(0).out, "c | seen\nc | seen\nc | over\n");
}

/// Those that have executed their command, and are none of podshim's own that make one.
fn executed(mut all: Vec<i32>) -> Vec<i32> {
    let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    all.retain(|pid| name(pid).trim() == "facts");
    all
}

/// The cgroups of a process, each by its hierarchy.
fn cgroups_of(pid: i32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().map(|line| line.splitn(3, ':').last().unwrap().to_owned()).collect()
}

/// containerd's CVE-2025-47291: with a user namespace the processes were not below the pod's cgroup, so no limit held.
#[test]
fn f4_a_user_namespace_changes_nothing_about_cgroups_and_limits() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let limits = json!({ "resources": { "limits": { "memory": "48Mi", "cpu": "250m" } } });
    let sleeper = |name: &str| with(facts(name, &["sleep"]), limits.clone());
    // What a process has inside and outside of a user namespace is compared, so nothing is left to this host's hierarchies.
    let spec = json!({ "terminationGracePeriodSeconds": 1, "initContainers": [facts("init", &[])],
        "containers": [sleeper("c"), sleeper("d")] });
    host.start(&pod("plain", spec.clone()));
    host.start(&mapped(pod("own", spec)));
    let mut exec = host.live(&["exec", "-i", "own", "--", "/facts", "sleep"]);
    let below = |pod: &str, container: &str| format!("{}/podshim/pod{}/{container}", host.cgroup_parent, host.uid(pod));
    let all = until("the command's process", || {
        Some(executed(leaks::processes_in(&below("own", "c")))).filter(|all| all.len() == 2)
    });
    let in_words = |pod: &str, pid: i32| {
        let all: Vec<String> = cgroups_of(pid).iter().map(|path| path.replace(&host.uid(pod), "UID")).collect();
        assert!(all.iter().any(|path| path.ends_with("/podUID/c")), "{all:?}");
        all
    };
    let plain = in_words("plain", host.pid("plain", "c"));
    for pid in all {
        assert_eq!(in_words("own", pid), plain, "{pid}");
    }
    exec.signal(nix::sys::signal::Signal::SIGKILL);
    exec.wait();
    for file in
        ["memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max", "pids.max", "cpu.shares", "cpu.weight"]
    {
        for container in ["c", "d", ""] {
            let value = |pod: &str| leaks::cgroup_file(&below(pod, container), file);
            assert_eq!(value("own"), value("plain"), "{file} of {container:?}");
        }
    }
    let memory = ["memory.limit_in_bytes", "memory.max"].iter().find_map(|f| leaks::cgroup_file(&below("own", "c"), f));
    assert_eq!(memory.as_deref(), Some("50331648"));
    host.ok(&["rm", "-f", "--all"]);
    // The limit holds.
    let hungry = with(facts("c", &["alloc", "200"]), limits);
    host.run(&["run", "--keep", &host.manifest(&mapped(once("hungry", json!([hungry]), json!([]))))]).expect(137);
    assert_eq!(host.status("hungry", "c")["state"]["terminated"]["reason"], "OOMKilled");
    host.ok(&["rm", "-f", "hungry"]);
}

/// Whoever is root in there can mount cgroup file systems; they are the host's to write all the same.
#[test]
fn f4_a_pods_root_cannot_change_its_cgroups() {
    let Some(bench) = Bench::new() else { return };
    let script = "exec 2>/dev/null; mkdir /g; echo ready; \
        for kind in 'cgroup2 none' 'cgroup memory' 'cgroup pids' 'cgroup cpu' 'cgroup devices' 'cgroup freezer'; do \
            set -- $kind; o=; [ $2 = none ] || o=\"-o $2\"; \
            mount -t $1 $o g /g && echo mounted || continue; \
            mkdir /g/new && echo made; rmdir /g/new; \
            for f in memory.max memory.limit_in_bytes pids.max cpu.max cpu.cfs_quota_us; do \
                [ -e /g/$f ] && { echo -1 > /g/$f || echo max > /g/$f; } && echo wrote $f; done; \
            for f in cgroup.procs tasks release_agent notify_on_release devices.allow freezer.state cgroup.kill cgroup.freeze; do \
                [ -e /g/$f ] && { echo 0 > /g/$f || echo a > /g/$f; } && echo wrote $f; done; \
            [ -e /g/podshim ] && echo sees the host; umount /g; \
        done; echo over";
    let container =
        with(admin(script, json!([])), json!({ "resources": { "limits": { "memory": "64Mi", "cpu": "500m" } } }));
    let output = bench.host.foreground(&mapped(once("cgroups", json!([container]), json!([])))).expect(0);
    let said: Vec<&str> = output.out.lines().filter(|line| *line != "c | mounted").collect();
    assert_eq!(said, ["c | ready", "c | over"], "{output:?}");
    assert!(output.out.contains("mounted"), "it could not even look: {output:?}");
}

/// A mount of a test's own, below its own directory.
struct Mounted(String);

impl Mounted {
    fn tmpfs(at: &str) -> Mounted {
        nix::mount::mount(Some("t"), at, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount(self.0.as_str()).unwrap();
    }
}
