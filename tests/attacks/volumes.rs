//! Classes D and E: volumes, logs and small files that containers write.

use crate::harness::{FACTS, facts, pod, shell, until, with};
use crate::rig::{BUSYBOX, Bench, Entry, SOON, assert_plain, entry, link, of, once};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Instant;

fn mounted(container: Value, mounts: Value) -> Value {
    with(container, json!({ "volumeMounts": mounts }))
}

/// What an init container plants in a volume, and the main container asks for below it.
#[test]
fn d1_sub_paths_do_not_follow_what_an_init_container_planted() {
    let Some(bench) = Bench::new() else { return };
    let (victim, up) = (bench.victim(), bench.up());
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    // The twin: a joined path leads there.
    let twin = bench.host.folder("twin");
    symlink(&victim, format!("{twin}/link")).unwrap();
    assert_eq!(std::fs::read_to_string(Path::new(&twin).join("link").join("file")).unwrap(), "the host's own");
    for (n, (plant, sub_path)) in [
        (format!("ln -s {victim} /v/link"), "link"),
        (format!("ln -s {victim}/file /v/link"), "link"),
        (format!("ln -s {up} /v/link"), "link"),
        (format!("mkdir /v/a && ln -s {victim} /v/a/b"), "a/b/sub"),
        (format!("ln -s {victim} /v/link"), "link/new/deep"),
        ("ln -s /proc/self/root /v/link".to_owned(), "link"),
        ("ln -s .. /v/link".to_owned(), "link"),
        ("ln -s link /v/link".to_owned(), "link"),
        (format!("mkfifo /v/fifo; ln -s {victim} /v/link"), "fifo/x"),
    ]
    .into_iter()
    .enumerate()
    {
        let init = mounted(shell("init", &plant), json!([{ "name": "v", "mountPath": "/v" }]));
        let main =
            mounted(shell("c", "ls -R /seen"), json!([{ "name": "v", "mountPath": "/seen", "subPath": sub_path }]));
        let spec =
            json!({ "restartPolicy": "Never", "initContainers": [init], "containers": [main], "volumes": volumes });
        let output = bench.host.foreground(&pod(&format!("s{n}"), spec));
        assert_eq!(output.code, 125, "{plant}: {output:?}");
        assert_plain(&plant, &output);
        assert!(
            output.out.is_empty() && output.err.contains(&format!("subPath \"{sub_path}\"")),
            "{plant}: {output:?}"
        );
        bench.assert_unharmed(&plant);
    }
}

#[test]
fn d2_a_sub_path_is_resolved_again_at_every_restart() {
    let Some(bench) = Bench::new() else { return };
    let victim = bench.victim();
    // It replaces what it was given, and ends; started again, it would see what it put there.
    let swap = format!("cat /seen/file; rm -rf /v/dir; ln -s {victim} /v/dir; exit 1");
    let mounts = json!([{ "name": "v", "mountPath": "/v" }, { "name": "v", "mountPath": "/seen", "subPath": "dir" }]);
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [mounted(shell("c", &swap), mounts)],
        "volumes": [{ "name": "v", "emptyDir": {} }] });
    let manifest = bench.host.manifest(&pod("again", spec));
    bench.host.run(&["run", "-d", &manifest]);
    let waiting = bench.host.until_status(("again", "c"), "refused", |status| {
        status["state"]["waiting"]["message"].as_str().is_some_and(|message| message.contains("subPath"))
    });
    assert!(waiting["state"]["waiting"]["message"].as_str().unwrap().contains("subPath \"dir\""), "{waiting}");
    let logs = bench.host.run(&["logs", "again"]).out + &bench.host.run(&["logs", "-p", "again"]).out;
    assert!(!logs.contains("the host's own"), "{logs}");
    bench.host.ok(&["rm", "-f", "again"]);
}

#[test]
fn d12_logs_are_read_from_podshims_own_files() {
    let Some(bench) = Bench::new() else { return };
    let secret = format!("{}/file", bench.victim());
    let logs = bench.host.folder("log");
    let script = format!(
        "echo first; sleep 0.3; cd /logs/*/c && ls && rm -f 0.log && ln -s {secret} 0.log && ln -s {secret} 0.log.20200101-000000 \
         && ln -s {secret} 9.log && echo planted; sleep 1000"
    );
    let spec = json!({ "terminationGracePeriodSeconds": 1,
        "containers": [mounted(shell("c", &script), json!([{ "name": "l", "mountPath": "/logs" }]))],
        "volumes": [{ "name": "l", "hostPath": { "path": logs } }] });
    bench.host.start(&pod("planter", spec));
    let folder = until("the log's folder", || std::fs::read_dir(&logs).unwrap().flatten().next()).path().join("c");
    until("the link", || std::fs::read_link(folder.join("9.log")).ok());
    for args in [
        &["logs", "planter"][..],
        &["logs", "--tail", "5", "planter"],
        &["logs", "-p", "planter"],
        &["logs", "--prefix", "--all-containers", "planter"],
    ] {
        let output = bench.host.run(args);
        assert_plain("logs", &output);
        assert!(
            !output.out.contains("the host's own") && !output.err.contains("the host's own"),
            "{args:?}: {output:?}"
        );
    }
    bench.host.ok(&["rm", "-f", "planter"]);
}

#[test]
fn d13_the_user_is_the_same_at_every_start() {
    let Some(bench) = Bench::bare() else { return };
    bench.image((FACTS, "localhost/user"), &json!({ "User": "1000" }), &[]);
    bench.image((FACTS, "localhost/root"), &json!({}), &[]);
    let non_root = json!({ "securityContext": { "runAsNonRoot": true } });
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [with(of("localhost/user", &["sleep"]), non_root.clone())] });
    bench.host.start(&pod("same", spec));
    for restart in 0..2 {
        bench.host.until_status(("same", "c"), "running", |s| {
            s["restartCount"] == restart && s["state"]["running"].is_object()
        });
        let pid = bench.host.pid("same", "c");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("\nUid:\t1000\t1000\t1000\t1000\n"), "start {restart}: {status}");
        // The second restart would wait ten seconds, and tell nothing more.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    bench.host.ok(&["rm", "-f", "same"]);
    bench.refused("root", with(of("localhost/root", &["sleep"]), non_root), &["runAsNonRoot"]);
}

#[test]
fn d15_groups_are_exactly_those() {
    let Some(bench) = Bench::bare() else { return };
    let group = crate::rig::file("etc/group", b"root:x:0:\nlog:x:50:www-data,other\nevil:x:51:nobody\n");
    bench.image((FACTS, "localhost/groups"), &json!({ "User": "www-data" }), &[group]);
    let groups = |name: &str, container: Value, pod: Value| {
        let seen = bench.host.seen(
            name,
            with(of("localhost/groups", &[]), json!({ "securityContext": container })),
            json!({ "securityContext": pod }),
        );
        let mut list: Vec<i64> = seen["groups"].as_array().unwrap().iter().map(|g| g.as_i64().unwrap()).collect();
        list.sort_unstable();
        (seen["uid"].as_i64().unwrap(), seen["gid"].as_i64().unwrap(), list)
    };
    // The image's own membership goes with the image's user (supplementalGroupsPolicy Merge, pod-api.md §23).
    assert_eq!(groups("image", json!({}), json!({ "supplementalGroups": [4000] })), (33, 33, vec![50, 4000]));
    assert_eq!(
        groups("other", json!({ "runAsUser": 4242 }), json!({ "supplementalGroups": [4000] })),
        (4242, 0, vec![4000])
    );
    assert_eq!(groups("group", json!({ "runAsUser": 4242, "runAsGroup": 7 }), json!({})), (4242, 7, vec![]));
}

#[test]
fn d17_pods_of_one_image_see_nothing_of_each_other() {
    let Some(bench) = Bench::bare() else { return };
    bench.host.import(BUSYBOX, "localhost/one", &json!({}));
    let layers = bench.host.path("root/layers");
    let stamps = || {
        let list =
            ["-c", "cd \"$0\" && find . -printf '%p %m %U:%G %n %s %T@ %C@ %l\\n' | sort", layers.to_str().unwrap()];
        let output = std::process::Command::new("sh").args(list).output().unwrap();
        assert!(output.status.success() && output.stdout.len() > 1000, "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let before = stamps();
    let container = |script: &str| {
        json!({ "name": "c", "image": "localhost/one", "imagePullPolicy": "Never", "command": ["sh", "-c", script], "env": [{ "name": "SECRET", "value": "mine" }],
            "volumeMounts": [{ "name": "v", "mountPath": "/v" }] })
    };
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    let write = "echo evil::0:0::/: >> /etc/passwd; echo x > /bin/planted; echo x > /v/x; echo evil >> /etc/hosts; rm -f /bin/ls; mkdir /dev/shm/x";
    bench.host.foreground(&once("a", json!([container(write)]), volumes.clone())).expect(0);
    let look = "grep -c evil /etc/passwd; grep -c evil /etc/hosts; /bin/busybox ls /bin/planted /v/x /dev/shm/x 2>&1 | grep -vc 'No such'; test -e /bin/ls && echo whole";
    assert_eq!(
        bench.host.foreground(&once("b", json!([container(look)]), volumes)).expect(0).out,
        "c | 0\nc | 0\nc | 0\nc | whole\n"
    );
    assert!(stamps() == before, "the image changed");
}

/// What a container may fill of the host through files that podshim made for it.
#[test]
fn e9_podshims_own_files_have_an_end() {
    let Some(bench) = Bench::new() else { return };
    let fill = "for f in /etc/hosts /etc/resolv.conf /etc/hostname /dev/termination-log; do \
                dd if=/dev/zero of=$f bs=1M count=200 2>/dev/null && echo filled $f; done; echo done; sleep 1000";
    let spec =
        json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("c", fill), facts("other", &["sleep"])] });
    bench.host.start(&pod("filler", spec));
    bench.host.live(&["logs", "-f", "filler", "-c", "c"]).until_has("done\n");
    assert_eq!(bench.host.ok(&["logs", "filler", "-c", "c"]), "done\n", "something took 200 MiB");
    let state = bench.host.state_of("filler");
    let size = |name: &str| -> u64 {
        std::fs::read_dir(state.join(name)).unwrap().flatten().map(|f| f.metadata().unwrap().blocks() * 512).sum()
    };
    assert!(size("etc") <= 16 << 20 && size("termination/c") <= 1 << 20, "{} {}", size("etc"), size("termination/c"));
    for folder in ["etc", "termination/c", "termination/other"] {
        let device = |path: &Path| nix::sys::stat::stat(path).unwrap().st_dev;
        assert_ne!(device(&state.join(folder)), device(&state), "{folder} is the host's");
    }
    // Another container of the pod can still be started: podshim's files are written anew.
    let pid = nix::unistd::Pid::from_raw(bench.host.pid("filler", "other"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    bench
        .host
        .until_status(("filler", "other"), "again", |s| s["restartCount"] == 1 && s["state"]["running"].is_object());
    bench.host.ok(&["rm", "-f", "filler"]);
}

/// What one container of a pod does to podshim's own files keeps no other one from starting, and nobody waiting.
#[test]
fn p7_podshims_own_files_hold_up_no_other_container() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let files = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];
    let capable = json!({ "securityContext": { "capabilities": { "add": ["LINUX_IMMUTABLE"] } } });
    let immutable = with(facts("bad", &[&["immutable", "/dev/termination-log"], &files[..]].concat()), capable);
    // Who owns a file may have a lease on it: by default a container's root owns these.
    for (name, bad, ready) in [
        ("immutable", immutable, ""),
        ("hosts", facts("bad", &["lease", "/etc/hosts"]), "ready"),
        ("resolver", facts("bad", &["lease", "/etc/resolv.conf"]), "ready"),
    ] {
        let other = with(facts("other", &["sleep"]), json!({ "env": [{ "name": "A", "value": "b" }] }));
        // The files are others than what will be written: by a sibling that begins before.
        let spoil = shell("spoil", "for f in /etc/hosts /etc/resolv.conf; do echo evil > $f; done");
        let spec = json!({ "terminationGracePeriodSeconds": 1, "initContainers": [spoil], "containers": [bad, other] });
        // Already the second container may have to wait for what the first one does.
        let before = Instant::now();
        host.start(&pod(name, spec));
        assert!(before.elapsed() < SOON, "{name}: {:?}", before.elapsed());
        if ready.is_empty() {
            host.until_status((name, "bad"), "again", |s| s["restartCount"].as_u64() >= Some(1));
        } else {
            host.live(&["logs", "-f", name, "-c", "bad"]).until_has(ready);
            // It changes them again, now that it has them.
            let spoil = ["exec", "-c", "bad", name, "--", "/facts", "append", "/etc/hostname", "evil"];
            host.ok(&spoil);
        }
        let pid = nix::unistd::Pid::from_raw(host.pid(name, "other"));
        let before = Instant::now();
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        host.until_status((name, "other"), "again", |s| s["restartCount"] == 1 && s["state"]["running"].is_object());
        let seen = host.report(name, "other", &files.map(|f| format!("--file={f}")).each_ref().map(String::as_str));
        assert!(before.elapsed() < SOON, "{name}: {:?}", before.elapsed());
        let text = seen["files"].to_string();
        assert!(text.contains("Kubernetes-managed") && !text.contains("evil"), "{name}: {text}");
        let before = Instant::now();
        host.ok(&["rm", "-f", name]);
        assert!(before.elapsed() < SOON, "{name}: {:?}", before.elapsed());
        host.assert_clean();
    }
}

/// One container's message is not another's to suppress, nor an earlier instance's.
#[test]
fn p8_a_termination_message_of_any_size_is_only_its_containers() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let fill = "dd if=/dev/zero of=/dev/termination-log bs=1M count=100 2>/dev/null; exit 2";
    let sparse = "dd if=/dev/zero of=/dev/termination-log bs=1M seek=8000000 count=0 2>/dev/null; exit 4";
    let bytes = "sleep 2; printf 'begin\\033[2J\\377\\000end' > /dev/termination-log; exit 3";
    let again = "[ -e /v/was ] || { touch /v/was; dd if=/dev/zero of=/dev/termination-log bs=1M count=100 2>/dev/null; exit 5; }; \
        echo second > /dev/termination-log; exit 6";
    let again = mounted(shell("again", again), json!([{ "name": "v", "mountPath": "/v" }]));
    let containers = json!([shell("fill", fill), shell("sparse", sparse), shell("bytes", bytes)]);
    let spec = json!({ "restartPolicy": "Never", "containers": containers });
    let output = host.run(&["run", "--keep", &host.manifest(&pod("said", spec))]);
    assert_plain("run", &output);
    let message = |pod: &str, container: &str| {
        let ended = host.status(pod, container)["state"]["terminated"].clone();
        ended["message"].as_str().unwrap_or_else(|| panic!("{container}: {ended}")).to_owned()
    };
    for container in ["fill", "sparse"] {
        let text = message("said", container);
        assert!(text.len() <= 4096 && text.trim_end_matches('\0').is_empty(), "{container}: {} bytes", text.len());
    }
    assert!(message("said", "bytes").starts_with("begin") && message("said", "bytes").ends_with("end"));
    assert_plain("inspect", &host.run(&["inspect", "said"]));
    host.ok(&["rm", "-f", "said"]);
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [again], "volumes": [{ "name": "v", "emptyDir": {} }] });
    host.run(&["run", "-d", &host.manifest(&pod("again", spec))]);
    host.until_status(("again", "again"), "the second message", |s| {
        s["lastState"]["terminated"]["message"] == "second\n"
    });
    host.ok(&["rm", "-f", "again"]);
}

/// What an image has at the place where its containers are to leave their last words, and at a sub-path of a volume of it.
#[test]
fn p11_links_fifos_and_devices_of_an_image_lead_nowhere() {
    let Some(bench) = Bench::bare() else { return };
    let device = Entry { device: (1, 5), mode: 0o666, ..entry(b'3', "device") }.bytes();
    let fifo = Entry { mode: 0o666, ..entry(b'6', "fifo") }.bytes();
    let files = [
        fifo,
        device,
        link("out", &format!("{}/file", bench.victim())),
        link("up", &format!("{}/file", bench.up())),
        link("magic", "/proc/1/root/etc/passwd"),
        link("folder", &bench.victim()),
        link("loop", "loop"),
        link("inside", "bin/busybox"),
        entry(b'5', "directory").bytes(),
    ];
    bench.image((BUSYBOX, "localhost/hostile"), &json!({}), &files);
    let host = &bench.host;
    for (path, words) in [
        ("/fifo", ""),
        ("/device", ""),
        ("/out", ""),
        ("/up", ""),
        ("/folder/x", ""),
        ("/dev/null", ""),
        ("/magic", "/magic"),
        ("/loop", "/loop"),
        ("/folder", ""),
        ("/directory", "is a directory"),
        ("/fifo/x", "ENOTDIR"),
        ("/proc/self/x", "/proc/self/x"),
        ("/sys/x", "/sys"),
    ] {
        let script = format!("echo -n words > {path}; exit 3");
        let container = with(
            shell("c", &script),
            json!({ "image": "localhost/hostile", "imagePullPolicy": "Never", "terminationMessagePath": path }),
        );
        let before = Instant::now();
        let output = host.run(&["run", "--keep", &host.manifest(&once("ends", json!([container]), json!([])))]);
        assert!(before.elapsed() < SOON, "{path}: {:?}", before.elapsed());
        assert_plain(path, &output);
        match words {
            "" => {
                let ended = host.status("ends", "c")["state"]["terminated"].clone();
                assert_eq!((&ended["message"], &ended["exitCode"]), (&json!("words"), &json!(3)), "{path}: {output:?}");
            }
            words => assert!(output.code == 125 && output.err.contains(words), "{path}: {output:?}"),
        }
        host.run(&["rm", "-f", "ends"]);
        bench.assert_unharmed(path);
    }
    host.import(BUSYBOX, BUSYBOX, &json!({}));
    let volumes = json!([{ "name": "i", "image": { "reference": "localhost/hostile", "pullPolicy": "Never" } }]);
    for (path, words) in [
        ("out", "leads out"),
        ("up", "leads out"),
        ("magic", "leads out"),
        ("folder", "leads out"),
        ("folder/file", "leads out"),
        ("loop", "too many links"),
        ("none/deep", "EROFS"),
        ("inside", ""),
        ("directory", ""),
        ("device", "no device"),
    ] {
        let script = "[ -d /seen ] && exit 0; head -c 4 /seen || { echo no device; exit 125; }";
        let mounts = json!([{ "name": "i", "mountPath": "/seen", "subPath": path }]);
        let container =
            with(mounted(shell("c", script), mounts), json!({ "image": BUSYBOX, "imagePullPolicy": "Never" }));
        let output = host.foreground(&once("looks", json!([container]), volumes.clone()));
        let said = format!("{}{}", output.out, output.err);
        assert_eq!(output.code, if words.is_empty() { 0 } else { 125 }, "{path}: {output:?}");
        assert!(said.contains(words) && !said.contains("the host's own"), "{path}: {output:?}");
        bench.assert_unharmed(path);
    }
}

#[test]
fn e15_what_a_container_made_immutable_or_many_is_deleted() {
    let Some(bench) = Bench::new() else { return };
    let mounts = json!([{ "name": "v", "mountPath": "/v" }]);
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    let script = "i=0; while [ $i -lt 3000 ]; do : > /v/f$i; i=$((i+1)); done; ln -s / /v/root; mkdir /v/kept; echo x > /v/kept/file; \
                  ln -s ../../../../.. /v/kept/up; echo planted";
    let init = mounted(shell("init", script), mounts.clone());
    let immutable = |words: &[&str]| {
        let container = mounted(facts("c", &[&["immutable"], words].concat()), mounts.clone());
        with(container, json!({ "securityContext": { "capabilities": { "add": ["LINUX_IMMUTABLE"] } } }))
    };
    let main = immutable(&["/v/kept/file", "/v/kept", "/etc/passwd", "/v"]);
    let spec = json!({ "restartPolicy": "Never", "initContainers": [init], "containers": [main], "volumes": volumes });
    bench.host.run(&["run", "--keep", &bench.host.manifest(&pod("kept", spec))]).expect(0);
    // The twin: it cannot be removed as it is.
    let kept = bench.host.path("root/pods").join(bench.host.uid("kept")).join("volumes/v/kept");
    assert!(std::fs::remove_file(kept.join("file")).is_err() && std::fs::remove_dir_all(&kept).is_err());
    bench.host.run(&["rm", "kept"]).expect(0);
    bench.host.assert_clean();
}

#[test]
fn e17_mounts_made_inside_stay_inside() {
    let Some(bench) = Bench::new() else { return };
    let base = bench.host.folder("base");
    std::fs::create_dir(format!("{base}/sub")).unwrap();
    let script = "mount -t tmpfs none /v/sub && mount --make-rshared / && mount --bind /v /mnt;\
                  umount -l /etc/hosts; touch /v/sub/inside; ls /v/sub";
    let volumes = json!([{ "name": "v", "hostPath": { "path": base } }, { "name": "e", "emptyDir": {} }]);
    for propagation in ["None", "HostToContainer"] {
        let mounts = json!([{ "name": "v", "mountPath": "/v", "mountPropagation": propagation }, { "name": "e", "mountPath": "/mnt" }]);
        let container = with(mounted(shell("c", script), mounts), json!({ "securityContext": { "privileged": true } }));
        let output = bench.host.foreground(&once("mounts", json!([container]), volumes.clone())).expect(0);
        assert_eq!(output.out, "c | inside\n", "{output:?}");
        assert_eq!(std::fs::read_dir(format!("{base}/sub")).unwrap().count(), 0, "{propagation}");
        bench.host.assert_clean();
    }
    // One that asks for the other direction gives the host its mounts, of a volume that goes with the pod: they go, too.
    let own = bench.host.path("").display().to_string();
    let count =
        || std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(&own)).count();
    let before = count();
    let mounts = json!([{ "name": "e", "mountPath": "/e", "mountPropagation": "Bidirectional" }]);
    let script = "mkdir -p /e/a /e/b && mount -t tmpfs none /e/a && mkdir /e/a/c && mount -t tmpfs none /e/a/c && mount --bind / /e/b && echo mounted; exec sleep 1000";
    let both = with(mounted(shell("c", script), mounts), json!({ "securityContext": { "privileged": true } }));
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [both], "volumes": [{ "name": "e", "emptyDir": {} }] });
    for _ in 0..3 {
        bench.host.start(&pod("both", spec.clone()));
        bench.host.live(&["logs", "-f", "both"]).until_has("mounted");
        assert!(count() >= before + 3, "the host has its mounts: {} and {before}", count());
        bench.host.ok(&["rm", "-f", "both"]);
        assert_eq!(count(), before);
        bench.host.assert_clean();
    }
    // Nor is anything left of many pods with every kind of mount.
    for _ in 0..crate::rig::rounds() {
        let mounts = json!([{ "name": "v", "mountPath": "/v" }, { "name": "e", "mountPath": "/mnt" }]);
        bench.host.foreground(&once("many", json!([mounted(shell("c", "true"), mounts)]), volumes.clone())).expect(0);
    }
    assert_eq!(count(), before);
    // Who is not privileged cannot ask for the other direction.
    let mounts = json!([{ "name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional" }]);
    let spec = json!({ "containers": [mounted(facts("c", &["sleep"]), mounts)], "volumes": volumes });
    bench.refused_pod("up", spec, &["mountPropagation"]);
}
