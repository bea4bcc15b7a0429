//! Class A: what a process in a container can reach of podshim's own, and what it may do.

use crate::harness::{FACTS, facts, pod, shell, until, with};
use crate::rig::{BUSYBOX, Bench, Entry, assert_plain, entry, facts_program, of, once, rounds};
use nix::sys::stat::makedev;
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a container that looks at processes says at its end.
fn report(bench: &Bench, name: &str) -> Value {
    bench.host.ok(&["stop", name]);
    let out = bench.host.ok(&["logs", name, "-c", "spy"]);
    serde_json::from_str(out.lines().last().unwrap()).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// Runs a spy while commands enter its container: its report.
fn spied(bench: &Bench, (name, more): (&str, Value), words: &[&str]) -> Value {
    let spy = with(facts("spy", words), more);
    let other = facts("other", &["sleep"]);
    let spec = json!({ "terminationGracePeriodSeconds": 5, "containers": [spy, other] });
    bench.host.start(&pod(name, spec));
    bench.host.live(&["logs", "-f", name, "-c", "spy"]).until_has("ready");
    for _ in 0..rounds() {
        bench.host.ok(&["exec", "-c", "spy", name, "--", "/facts", "exit", "0"]);
    }
    report(bench, name)
}

fn may_trace() -> Value {
    json!({ "securityContext": { "capabilities": { "add": ["SYS_PTRACE"] } } })
}

#[test]
fn a7_podshims_program_cannot_be_written() {
    let Some(bench) = Bench::new() else { return };
    // As containers are by default, they do not even see it.
    let plain = spied(&bench, ("plain", json!({})), &["poll-exe"]);
    assert_eq!((plain["seen"].as_u64(), plain["writable"].as_u64()), (Some(0), Some(0)), "{plain}");
    // Who may trace does, and still cannot write it: not while it runs, and not later.
    let tracer = spied(&bench, ("tracer", may_trace()), &["poll-exe"]);
    assert!(tracer["seen"].as_u64().unwrap() > 0, "the spy saw nothing: {tracer}");
    assert_eq!(tracer["writable"], 0, "{tracer}");
    bench.assert_unharmed("poll-exe");
}

#[test]
fn a7_podshims_program_is_no_command_of_a_container() {
    let Some(bench) = Bench::bare() else { return };
    let script = Entry { mode: 0o755, data: b"#!/proc/self/exe\n", ..entry(b'0', "script") }.bytes();
    bench.image((FACTS, "localhost/self"), &json!({ "Entrypoint": ["/proc/self/exe"], "Cmd": ["version"] }), &[script]);
    let refused = bench.refused("self", of("localhost/self", &[]), &["/proc/self/exe", "permission denied"]);
    assert_eq!(refused.code, 126, "{refused:?}");
    let by_script = with(of("localhost/self", &[]), json!({ "command": ["/script"] }));
    let output = bench.host.foreground(&once("script", json!([by_script]), json!([])));
    // The kernel takes the interpreter from the process that executes: whatever it does in there, it does as the container.
    assert_plain("script", &output);
    bench.assert_unharmed("script");
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [of("localhost/self", &[])] });
    let spec = with(
        spec,
        json!({ "containers": [with(of("localhost/self", &[]), json!({ "command": ["/facts", "sleep"] }))] }),
    );
    bench.host.start(&pod("up", spec));
    bench.host.run(&["exec", "up", "--", "/proc/self/exe", "version"]).expect(126).says(&["/proc/self/exe"]);
    bench.host.ok(&["rm", "-f", "up"]);
}

#[test]
fn a8_a_process_that_enters_cannot_be_looked_into() {
    let Some(bench) = Bench::new() else { return };
    let seen = spied(&bench, ("peek", json!({})), &["peek", "podshim"]);
    assert_eq!(seen["found"], json!({}), "{seen}");
    // That it is met at all shows in what the tracer sees; it has nothing of the host then (tests/whole/walls.rs).
    let tracer = spied(&bench, ("tracer", may_trace()), &["peek", "podshim"]);
    assert!(tracer["tried"].as_u64().unwrap() > 0 && tracer["found"] != json!({}), "the spy met nobody: {tracer}");
}

#[test]
fn a15_capabilities_are_inherited_by_nobody() {
    let Some(bench) = Bench::new() else { return };
    let none = json!("0000000000000000");
    for (name, context) in [
        ("root", json!({})),
        ("user", json!({ "runAsUser": 1000 })),
        ("added", json!({ "capabilities": { "add": ["NET_ADMIN", "SYS_TIME"] } })),
        ("both", json!({ "runAsUser": 1000, "capabilities": { "add": ["NET_ADMIN"] } })),
        (
            "dropped",
            json!({ "runAsUser": 1000, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } }),
        ),
    ] {
        let main = with(facts("c", &[]), json!({ "securityContext": context }));
        let main = bench.host.seen(&format!("{name}-main"), main, json!({}));
        let spec = json!({ "terminationGracePeriodSeconds": 1,
            "containers": [with(facts("c", &["sleep"]), json!({ "securityContext": context }))] });
        bench.host.start(&pod(name, spec));
        let command = bench.host.report(name, "c", &[]);
        for seen in [&main, &command] {
            assert_eq!((&seen["caps"]["inheritable"], &seen["caps"]["ambient"]), (&none, &none), "{name}: {seen}");
        }
        for fact in ["caps", "uid", "gid", "groups", "no_new_privs", "seccomp"] {
            assert_eq!(main[fact], command[fact], "{name}: exec has another {fact}");
        }
        bench.host.ok(&["rm", "-f", name]);
    }
}

#[test]
fn a17_calls_that_lead_out_are_denied() {
    let Some(bench) = Bench::new() else { return };
    bench.host.start(&pod("calls", json!({ "containers": [facts("c", &["sleep"])] })));
    let main = bench.host.seen("main", facts("c", &["syscalls"]), json!({}));
    let command: Value = serde_json::from_str(&bench.host.ok(&["exec", "calls", "--", "/facts", "syscalls"])).unwrap();
    let denied = [
        "unshare_newuser",
        "unshare_newns",
        "clone_newuser",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "fsopen",
        "fsmount",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "userfaultfd",
        "socket_alg",
        "socket_vsock",
        "open_by_handle_at",
        "kexec_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "acct",
        "quotactl",
        "settimeofday",
        "syslog",
        "sethostname",
        "setdomainname",
        "fanotify_init",
        "move_pages",
        "mbind",
    ];
    for (who, seen) in [("main", &main), ("exec", &command)] {
        for call in denied {
            assert_eq!(seen[call]["name"], "EPERM", "{who}: {call}");
        }
        assert_eq!(seen["clone3_newuser"]["name"], "ENOSYS", "{who}");
        assert_eq!((&seen["socket_inet"]["name"], &seen["getpid"]["name"]), (&json!("OK"), &json!("OK")), "{who}");
    }
    // The twin: without the filter the kernel says something else of some of them.
    let open = json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } });
    let open = bench.host.seen("open", with(facts("c", &["syscalls"]), open), json!({}));
    assert!(denied.iter().filter(|call| open[**call]["name"] != "EPERM").count() > 5, "{open}");
    // A device node can be made and not be used; a namespace of another process cannot be joined.
    let script = "mknod /d b 8 0 && echo made; for try in 'cat /d' 'nsenter -t 1 -m true' 'nsenter -t 1 -p true' \
            'unshare -U true' 'unshare -m true' 'unshare -p true' 'unshare -n true' 'mount -t tmpfs t /mnt' \
            'mount -t proc p /tmp' 'mount -o remount,rw /proc/sys' 'umount /proc/sys' 'umount /etc/hosts' 'swapoff /d'; do \
            said=$($try 2>&1) && echo \"done: $try\"; \
            case $said in *'not permitted'*|*'ermission denied'*|*'are you root'*) ;; *) echo \"odd: $try: $said\" ;; esac; \
        done; echo end";
    let output = bench.host.foreground(&once("sh", json!([shell("c", script)]), json!([]))).expect(0);
    assert_eq!(output.out, "c | made\nc | end\n", "{output:?}");
}

/// Everything that the caller has open, whatever it is and whatever its number: not in a container's process, not in a
/// command's, not in the supervisor.
#[test]
fn a6_no_descriptor_of_the_callers_goes_along() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let victim = bench.victim();
    // Directories to climb out of, a file to write, a socket, a pipe; the numbers that podshim itself would use, and others.
    let open = format!(
        "ulimit -n 1024; for n in $(seq 3 40) 63 64 200 255 256 700 1023; do eval \"exec $n<{victim}\"; done; \
         for n in 41 257 1022; do eval \"exec $n<>{victim}/file\"; done; exec 42<>/dev/ptmx 43</proc 44</; exec \"$0\" \"$@\""
    );
    let podshim = host.command(&[] as &[&str]).get_program().to_str().unwrap().to_owned();
    let with_all = |args: &[&str]| host.command_by(&["bash", "-c", &open, &podshim], args);
    let count = std::process::Command::new("bash").args(["-c", &open, "ls", "/proc/self/fd"]).output().unwrap();
    assert!(String::from_utf8_lossy(&count.stdout).lines().count() > 45, "the twin has them: {count:?}");
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] });
    let manifest = host.manifest(&pod("fds", spec));
    host.finish(with_all(&["run", "-d", &manifest])).expect(0);
    let fine = |what: &str, seen: &Value| {
        let all = seen["fds"].as_array().unwrap();
        let numbers: Vec<i64> = all.iter().map(|fd| fd["fd"].as_i64().unwrap()).collect();
        assert_eq!(numbers, [0, 1, 2], "{what}: {all:?}");
    };
    let told = |args: &[&str]| -> Value {
        let output = host.finish(with_all(args)).expect(0);
        serde_json::from_str(output.out.trim()).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    };
    fine("exec", &told(&["exec", "fds", "--", "/facts"]));
    fine("exec -i", &told(&["exec", "-i", "fds", "--", "/facts"]));
    fine("exec -t", &told(&["exec", "-t", "fds", "--", "/facts"]));
    fine("exec -u", &told(&["exec", "-u", "5", "fds", "--", "/facts"]));
    fine("debug", &told(&["debug", "fds", "-i", "--image", FACTS, "--target", "c", "--", "/facts"]));
    let supervisor = host.supervisor("fds");
    for (what, pid) in [("the container", host.pid("fds", "c")), ("the supervisor", supervisor)] {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        // Its /dev/null is the root of a mount that is nowhere, and so a `/` as well.
        let is_null = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.rdev() == makedev(1, 3));
        let name =
            |path: PathBuf| if is_null(&path) { Some("/dev/null".into()) } else { std::fs::read_link(path).ok() };
        let targets: Vec<PathBuf> = links.filter_map(|link| name(link.path())).collect();
        let callers = |t: &PathBuf| t.starts_with(&victim) || [PathBuf::from("/"), PathBuf::from("/proc")].contains(t);
        assert!(!targets.iter().any(callers), "{what}: {targets:?}");
        assert!(what == "the supervisor" || targets.len() == 3, "{what}: {targets:?}");
    }
    host.ok(&["rm", "-f", "fds"]);
}

#[test]
fn a20_nothing_of_a_container_runs_outside() {
    let Some(bench) = Bench::bare() else { return };
    let marker = format!("/marker-{}", bench.host.cgroup_parent);
    // Whatever program a runtime could be made to run, it tells in which mount namespace it did.
    let text = format!("#!/bin/busybox sh\n/bin/busybox readlink /proc/self/ns/mnt >> {marker}\n");
    let names =
        ["ps", "nsenter", "tar", "mount", "umount", "ip", "modprobe", "newuidmap", "newgidmap", "getent", "id", "cp"];
    let places = ["bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin"];
    let paths: Vec<String> = places.iter().flat_map(|p| names.map(|n| format!("{p}/{n}"))).collect();
    let program = |path: &String| Entry { mode: 0o755, data: text.as_bytes(), ..entry(b'0', path) }.bytes();
    bench.image((BUSYBOX, "localhost/marks"), &json!({}), &paths.iter().map(program).collect::<Vec<_>>());
    let probe = json!({ "exec": { "command": ["ps"] }, "periodSeconds": 1 });
    let container = json!({ "name": "c", "image": "localhost/marks", "imagePullPolicy": "Never",
        "command": ["sh", "-c", "ps; echo up; sleep 1000"], "livenessProbe": probe,
        "lifecycle": { "preStop": { "exec": { "command": ["ps"] } } } });
    let host = &bench.host;
    host.start(&pod("marks", json!({ "terminationGracePeriodSeconds": 2, "containers": [container] })));
    host.live(&["logs", "-f", "marks"]).until_has("up");
    for verb in [&["ps"][..], &["inspect", "marks"], &["events", "marks"], &["logs", "marks"], &["image", "ls"]] {
        host.ok(verb);
    }
    host.ok(&["exec", "marks", "--", "ps"]);
    let inside = until("three marks", || {
        let text = host.ok(&["exec", "marks", "--", "cat", &marker]);
        (text.lines().count() >= 3).then_some(text)
    });
    host.ok(&["stop", "marks"]);
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    assert!(inside.lines().all(|line| line.starts_with("mnt:[") && line != own.to_str().unwrap()), "{inside}");
    assert!(!std::path::Path::new(&marker).exists(), "something of the image ran on the host");
}

/// A set-user-ID program, a program with capabilities, and device nodes, in an image and in volumes.
#[test]
fn a22_set_user_id_programs_and_devices_mean_nothing() {
    let Some(bench) = Bench::bare() else { return };
    let program = facts_program(&bench);
    // VFS_CAP_REVISION_2 with the effective bit; CAP_SYS_ADMIN permitted (linux/capability.h).
    let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
    capability.extend([1_u32 << 21, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    let pax: &[(&str, &[u8])] = &[("SCHILY.xattr.security.capability", &capability)];
    let node = |name, kind, device| Entry { device, mode: 0o666, ..entry(kind, name) }.bytes();
    let user = json!({ "User": "1000" });
    bench.image(
        (FACTS, "localhost/special"),
        &user,
        &[
            Entry { mode: 0o6755, data: &program, ..entry(b'0', "suid") }.bytes(),
            Entry { mode: 0o755, data: &program, pax, ..entry(b'0', "capable") }.bytes(),
            node("disk", b'4', (254, 0)),
            node("mem", b'3', (1, 1)),
            node("kmsg", b'3', (1, 11)),
        ],
    );
    let run = |name: &str, program: &str, context: Value| {
        let container = with(of("localhost/special", &[]), json!({ "command": [program], "securityContext": context }));
        bench.host.seen(name, container, json!({}))
    };
    // As in every runtime it works where privileges may be gained; that is what the field is for.
    assert_eq!(run("may", "/suid", json!({}))["euid"], 0);
    let held = run("held", "/suid", json!({ "allowPrivilegeEscalation": false }));
    assert_eq!((&held["euid"], &held["egid"], &held["no_new_privs"]), (&json!(1000), &json!(0), &json!(1)), "{held}");
    let refused = with(of("localhost/special", &[]), json!({ "command": ["/capable"] }));
    let output = bench.host.foreground(&once("capable", json!([refused]), json!([])));
    assert_eq!(output.code, 126, "a capability that the container may not have: {output:?}");
    let words = ["--file=/disk", "--file=/mem", "--file=/kmsg"];
    let devices = bench.host.seen(
        "nodes",
        with(of("localhost/special", &words), json!({ "securityContext": { "runAsUser": 0 } })),
        json!({}),
    );
    for path in ["/disk", "/mem", "/kmsg"] {
        let errno = devices["files"][path]["errno"].as_i64();
        assert!([Some(1), Some(13)].contains(&errno), "{path}: {}", devices["files"][path]);
    }
    // In a volume of the pod's own it means nothing at all.
    let base = bench.host.folder("volume");
    std::fs::write(format!("{base}/suid"), &program).unwrap();
    std::fs::set_permissions(format!("{base}/suid"), std::fs::Permissions::from_mode(0o6755)).unwrap();
    let volumes = json!([{ "name": "disk", "emptyDir": {} }, { "name": "memory", "emptyDir": { "medium": "Memory" } },
        { "name": "host", "hostPath": { "path": base } }]);
    let mounts = json!([{ "name": "disk", "mountPath": "/disk-volume" }, { "name": "memory", "mountPath": "/memory-volume" },
        { "name": "host", "mountPath": "/host" }]);
    bench.host.import(BUSYBOX, BUSYBOX, &json!({}));
    let fill = "for v in /disk-volume /memory-volume; do cp /host/suid $v/suid && chmod 6755 $v/suid && mknod $v/null c 1 3; done";
    let init = json!({ "name": "init", "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", fill], "volumeMounts": mounts });
    let containers: Vec<Value> = ["disk", "memory"]
        .iter()
        .map(|volume| {
            let words = [format!("--file=/{volume}-volume/null")];
            json!({ "name": volume, "image": "localhost/special", "imagePullPolicy": "Never", "volumeMounts": mounts,
                "command": [format!("/{volume}-volume/suid")], "args": words })
        })
        .collect();
    let spec =
        json!({ "restartPolicy": "Never", "initContainers": [init], "containers": containers, "volumes": volumes });
    let output = bench.host.foreground(&pod("volumes", spec)).expect(0);
    for volume in ["disk", "memory"] {
        let line = output.out.lines().find_map(|l| l.strip_prefix(volume)?.trim_start().strip_prefix("| ")).unwrap();
        let seen: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&seen["euid"], &seen["egid"]), (&json!(1000), &json!(0)), "{volume}");
        assert_eq!(seen["files"][format!("/{volume}-volume/null")]["errno"], 13, "{volume}: {}", seen["files"]);
        let mount =
            seen["mounts"].as_array().unwrap().iter().find(|m| m["target"] == format!("/{volume}-volume")).unwrap();
        let options = mount["options"].to_string();
        assert!(options.contains("\"nosuid\"") && options.contains("\"nodev\""), "{mount}");
    }
}

/// Keys belong to no namespace: whoever called podshim has a session keyring, which every process inherits.
#[test]
fn p6_the_callers_keys_stay_with_the_caller() {
    let Some(bench) = Bench::bare() else { return };
    let host = &bench.host;
    host.import(FACTS, FACTS, &json!({}));
    // The caller's own, with a key in it that is found by its name; what is not allowed at all by default is so here.
    let key = format!("podshim-test-{}", host.cgroup_parent);
    let program = facts_program(&bench);
    let helper = host.path("facts");
    std::fs::write(&helper, program).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let helper = helper.to_str().unwrap();
    let podshim = PathBuf::from(host.command(&[] as &[&str]).get_program());
    let with_key =
        |args: &[&str]| host.finish(host.command_by(&[helper, "in-session", &key, podshim.to_str().unwrap()], args));
    // The twin: a process that inherits the session finds it.
    let twin = host.finish(host.command_by(&[helper, "in-session", &key, helper], &["keyring", &key])).expect(0);
    assert!(twin.out.trim().ends_with(" found"), "{twin:?}");
    let container = |name: &str, context: Value| with(facts(name, &["sleep"]), json!({ "securityContext": context }));
    let open = json!({ "seccompProfile": { "type": "Unconfined" } });
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [
        container("plain", json!({})), container("open", open.clone()), container("all", json!({ "privileged": true })),
        container("user", with(open, json!({ "runAsUser": 1000 }))) ] });
    for (name, users) in [("own", true), ("mapped", false)] {
        let value = pod(name, with(spec.clone(), json!({ "hostUsers": users })));
        with_key(&["run", "-d", &host.manifest(&value)]).expect(0);
        let mut seen = std::collections::BTreeSet::new();
        for container in ["open", "all", "user"] {
            let asked = with_key(&["exec", "-c", container, name, "--", "/facts", "keyring", &key]);
            let (number, found) = asked.out.trim().split_once(' ').unwrap_or_else(|| panic!("{asked:?}"));
            assert_eq!(found, "none", "{name}/{container}: the caller's key is found: {asked:?}");
            assert!(seen.insert(number.to_owned()), "{name}/{container}: the keyring is another's: {asked:?}");
        }
        // The default profile lets nobody ask.
        with_key(&["exec", "-c", "plain", name, "--", "/facts", "keyring", &key]).expect(1).says(&["os error 1"]);
        host.ok(&["rm", "-f", name]);
        // Nor does a container's first process.
        let first = with(facts("c", &["keyring", &key]), json!({ "securityContext": { "privileged": true } }));
        let value = pod(name, json!({ "restartPolicy": "Never", "hostUsers": users, "containers": [first] }));
        let first = with_key(&["run", &host.manifest(&value)]).expect(0);
        assert!(first.out.trim().ends_with(" none"), "{name}: {first:?}");
    }
}
