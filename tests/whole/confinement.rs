//! What a container may do, as a process in it finds out, and as the kernel says of it.

use crate::harness::{Host, facts, pod, with};
use nix::libc::ENOENT;
use serde_json::{Value, json};
use std::path::Path;

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
/// AUDIT_WRITE, SETFCAP: containerd's default.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";
const NONE: &str = "0000000000000000";

fn secured(context: Value) -> Value {
    with(facts("c", &[]), json!({ "securityContext": context }))
}

#[test]
fn a_default_container_has_the_default_rights() {
    let Some(host) = Host::new(&[]) else { return };
    let seen = host.seen("p", facts("c", &[]), json!({}));
    let caps = &seen["caps"];
    for set in ["permitted", "effective", "bounding"] {
        assert_eq!(caps[set], DEFAULT_CAPABILITIES, "{set}");
    }
    for set in ["inheritable", "ambient"] {
        assert_eq!(caps[set], NONE, "{set}");
    }
    assert_eq!((seen["seccomp"].as_i64(), seen["no_new_privs"].as_i64()), (Some(2), Some(0)));
    assert_eq!((seen["uid"].as_i64(), seen["gid"].as_i64(), seen["umask"].as_str()), (Some(0), Some(0), Some("0022")));
    assert_eq!((seen["pid"].as_i64(), seen["sid"].as_i64(), seen["ppid"].as_i64()), (Some(1), Some(1), Some(0)));
    assert_eq!(seen["signals"]["blocked"], NONE);
    // SIGPIPE only, by the facts program itself.
    assert_eq!(seen["signals"]["ignored"], "0000000000001000");
    let fds: Vec<_> = seen["fds"].as_array().unwrap().iter().map(|f| f["fd"].as_i64().unwrap()).collect();
    assert_eq!(fds, [0, 1, 2]);
    assert_eq!(seen["fds"][0]["target"], "/dev/null");
    let mut names: Vec<_> = seen["dev"].as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = [
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "termination-log",
        "tty",
        "urandom",
        "zero",
    ];
    assert_eq!(names, expected);
    // The log of the container is written by root in directories that it does not see.
    let mounts = seen["mounts"].as_array().unwrap();
    let at = |target: &str| mounts.iter().find(|m| m["target"] == target).unwrap_or_else(|| panic!("no {target}"));
    for (target, fstype, options) in [
        ("/proc", "proc", &["rw", "nosuid", "nodev", "noexec"][..]),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
        ("/dev", "tmpfs", &["rw", "nosuid"]),
        ("/dev/pts", "devpts", &["rw", "nosuid", "noexec"]),
        ("/dev/shm", "tmpfs", &["rw", "nosuid", "nodev"]),
        ("/dev/mqueue", "mqueue", &["rw", "nosuid", "nodev", "noexec"]),
        ("/sys/fs/cgroup", "", &["ro", "nosuid", "nodev", "noexec"]),
        ("/", "overlay", &["rw"]),
    ] {
        let mount = at(target);
        assert!(fstype.is_empty() || mount["fstype"] == fstype, "{mount}");
        for option in options {
            assert!(mount["options"].as_array().unwrap().contains(&json!(option)), "{option} of {mount}");
        }
    }
    // Nothing mounted inside comes out again, and no mount is shared with the host.
    assert!(mounts.iter().all(|m| !m["propagation"].to_string().contains("shared:")), "{mounts:?}");
    let cgroup = seen["cgroup"].as_array().unwrap();
    assert!(cgroup.iter().all(|line| line.as_str().unwrap().ends_with(":/")), "{cgroup:?}");
}

#[test]
fn inherited_descriptors_do_not_reach_containers() {
    let Some(host) = Host::new(&["bash"]) else { return };
    let manifest = host.manifest(&pod("fds", json!({ "containers": [facts("c", &["sleep"])] })));
    let open = "for n in $(seq 10 29); do eval \"exec $n</etc/passwd\"; done; exec \"$0\" \"$@\"";
    let program = host.command(&[] as &[&str]).get_program().to_str().unwrap().to_owned();
    let command = host.command_by(&["bash", "-c", open, &program], &["run", "-d", &manifest]);
    host.finish(command).expect(0);
    let inside = host.report("fds", "c", &[]);
    assert_eq!(inside["fds"].as_array().unwrap().len(), 3, "{}", inside["fds"]);
    // The container's own process, from outside.
    for (what, pid) in [("container", host.pid("fds", "c")), ("supervisor", host.supervisor("fds"))] {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let targets: Vec<_> = links.filter_map(|l| std::fs::read_link(l.path()).ok()).collect();
        assert!(what == "supervisor" || targets.len() == 3, "{what}: {targets:?}");
        assert!(!targets.iter().any(|t| t == Path::new("/etc/passwd")), "{what}: {targets:?}");
    }
}

#[test]
fn security_contexts_are_performed() {
    let Some(host) = Host::new(&[]) else { return };
    let seen = host.seen("nnp", secured(json!({ "allowPrivilegeEscalation": false })), json!({}));
    assert_eq!(seen["no_new_privs"], 1);
    let seen = host.seen("drop", secured(json!({ "capabilities": { "drop": ["ALL"] } })), json!({}));
    for set in ["permitted", "effective", "bounding", "inheritable", "ambient"] {
        assert_eq!(seen["caps"][set], NONE, "{set}");
    }
    let one = json!({ "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] } });
    assert_eq!(host.seen("one", secured(one), json!({}))["caps"]["effective"], "0000000000000400");
    let added = json!({ "capabilities": { "add": ["SYS_TIME"] } });
    assert_eq!(host.seen("add", secured(added), json!({}))["caps"]["bounding"], "00000000aa0425fb");
    // Another user has no capabilities that it could use, but may get them by a set-user-ID program.
    let user = json!({ "runAsUser": 1000, "runAsGroup": 3000 });
    let seen = host.seen("user", secured(user), json!({ "securityContext": { "supplementalGroups": [4000, 5000] } }));
    for (id, value) in [("uid", 1000), ("euid", 1000), ("suid", 1000), ("gid", 3000), ("egid", 3000), ("sgid", 3000)] {
        assert_eq!(seen[id], value, "{id}");
    }
    let mut groups: Vec<_> = seen["groups"].as_array().unwrap().iter().map(|g| g.as_i64().unwrap()).collect();
    groups.sort_unstable();
    groups.retain(|g| *g != 3000);
    assert_eq!(groups, [4000, 5000]);
    assert_eq!((&seen["caps"]["effective"], &seen["caps"]["permitted"]), (&json!(NONE), &json!(NONE)));
    assert_eq!(seen["caps"]["bounding"], DEFAULT_CAPABILITIES);
    // The pod's context holds where the container's says nothing.
    let seen = host.seen(
        "merged",
        secured(json!({ "runAsUser": 7 })),
        json!({ "securityContext": { "runAsUser": 8, "runAsGroup": 9 } }),
    );
    assert_eq!((seen["uid"].as_i64(), seen["gid"].as_i64()), (Some(7), Some(9)));
    let seen = host.seen("bare", secured(json!({ "seccompProfile": { "type": "Unconfined" } })), json!({}));
    assert_eq!(seen["seccomp"], 0);
    // runAsNonRoot refuses root before anything of it runs.
    let spec = json!({ "restartPolicy": "Never", "containers": [secured(json!({ "runAsNonRoot": true }))] });
    let refused = host.foreground(&pod("nonroot", spec));
    assert_ne!(refused.code, 0);
    assert!(refused.out.is_empty() && refused.err.contains("runAsNonRoot"), "{refused:?}");
}

#[test]
fn what_must_not_be_written_is_not() {
    let Some(host) = Host::new(&[]) else { return };
    let sealed = with(facts("sealed", &["sleep"]), json!({ "securityContext": { "readOnlyRootFilesystem": true } }));
    let busybox = json!({ "name": "b", "image": "busybox", "command": ["sleep", "1000"] });
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"]), sealed, busybox] });
    host.start(&pod("w", spec));
    let write =
        |container: &str, path: &str| host.run(&["exec", "-c", container, "w", "--", "/facts", "write", path, "x"]);
    assert_eq!(write("c", "/written").code, 0);
    assert!(write("sealed", "/written").expect(1).err.contains("Read-only file system"));
    assert_eq!(write("sealed", "/dev/shm/written").code, 0, "what is mounted stays writable");
    for path in [
        "/proc/sys/kernel/domainname",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/x",
        "/proc/irq/default_smp_affinity",
    ] {
        if Path::new(path).parent().unwrap().exists() {
            write("c", path).expect(1);
        }
    }
    // Masked: empty where the host shows something.
    let masked = ["/proc/keys", "/proc/timer_list", "/proc/kcore", "/proc/interrupts", "/proc/latency_stats"];
    let asked: Vec<String> = masked.iter().map(|p| format!("--file={p}")).collect();
    let mut words: Vec<&str> = asked.iter().map(String::as_str).collect();
    words.extend(["--list=/sys/firmware", "--list=/proc/acpi", "--list=/proc/scsi", "--stat=/proc/1/mem"]);
    let seen = host.report("w", "c", &words);
    for path in masked {
        let fine = seen["files"][path] == "" || (seen["files"][path]["errno"] == ENOENT && !Path::new(path).exists());
        assert!(fine, "{path}: {}", seen["files"][path]);
    }
    for path in ["/sys/firmware", "/proc/acpi", "/proc/scsi"] {
        let list = &seen["lists"][path];
        assert!(list == &json!({}) || list["errno"] == ENOENT, "{path}: {list}");
    }
    // Devices: one may make a node, and not use it.
    let disk = "mknod /disk b 7 0 && dd if=/disk of=/dev/null count=1 2>&1; mknod /kmsg c 1 11 && cat /kmsg 2>&1";
    let output = host.run(&["exec", "-c", "b", "w", "--", "sh", "-c", disk]);
    assert_eq!(output.out.matches("Operation not permitted").count(), 2, "{output:?}");
    let fine = "cat /dev/null && echo x >/dev/full; head -c1 /dev/zero | wc -c; head -c1 /dev/urandom | wc -c";
    let output = host.run(&["exec", "-c", "b", "w", "--", "sh", "-c", fine]);
    assert_eq!(output.out, "1\n1\n", "{output:?}");
    assert!(output.err.contains("No space left on device"), "{output:?}");
}

#[test]
fn the_seccomp_profile_denies_what_dockers_denies() {
    let Some(host) = Host::new(&[]) else { return };
    let seen = host.seen("calls", facts("c", &["syscalls"]), json!({}));
    for call in [
        "mount",
        "umount2",
        "pivot_root",
        "setns",
        "unshare_newns",
        "unshare_newuser",
        "clone_newuser",
        "keyctl",
        "add_key",
        "bpf",
        "perf_event_open",
        "io_uring_setup",
        "userfaultfd",
        "reboot",
        "kexec_load",
        "init_module",
        "open_by_handle_at",
        "swapon",
        "settimeofday",
        "iopl",
        "fsopen",
        "open_tree",
        "move_mount",
        "mount_setattr",
    ] {
        if !seen[call].is_null() {
            assert_eq!(seen[call]["name"], "EPERM", "{call} of {seen}");
        }
    }
    assert_eq!(seen["clone3_newuser"]["name"], "ENOSYS", "so that a C library falls back to clone");
    assert_eq!((&seen["getpid"]["errno"], &seen["socket_inet"]["errno"]), (&json!(0), &json!(0)));
}

#[test]
fn privileged_means_what_the_host_allows() {
    let Some(host) = Host::new(&[]) else { return };
    let seen = host.seen(
        "priv",
        with(secured(json!({ "privileged": true })), json!({ "args": ["--file=/proc/timer_list"] })),
        json!({}),
    );
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap().trim();
    assert_eq!(seen["caps"]["effective"], bounding);
    assert_eq!((seen["seccomp"].as_i64(), seen["no_new_privs"].as_i64()), (Some(0), Some(0)));
    assert!(seen["dev"].as_object().unwrap().len() > 20, "the host's devices");
    let sys = seen["mounts"].as_array().unwrap().iter().find(|m| m["target"] == "/sys").unwrap().clone();
    assert!(sys["options"].to_string().contains("\"rw\""), "{sys}");
    assert_eq!(seen["namespaces"]["cgroup"], crate::sandbox::host_namespace("cgroup"));
}
