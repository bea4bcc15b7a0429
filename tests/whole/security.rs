//! `securityContext` of pods and containers, as the kernel has it in the end.

use crate::harness::{Host, Live, facts, pod, with};
use serde_json::{Value, json};
use std::io::Write;

fn secured(container: Value, context: Value) -> Value {
    with(container, json!({ "securityContext": context }))
}

fn groups(seen: &Value) -> Vec<i64> {
    let mut list: Vec<i64> = seen["groups"].as_array().unwrap().iter().map(|g| g.as_i64().unwrap()).collect();
    list.sort_unstable();
    list
}

/// The option of the mount at `target`, as the process itself sees it.
fn has_option(seen: &Value, target: &str, option: &str) -> bool {
    let mounts = seen["mounts"].as_array().unwrap();
    let mount = mounts.iter().find(|m| m["target"] == target).unwrap_or_else(|| panic!("no {target} in {mounts:?}"));
    mount["options"].as_array().unwrap().contains(&json!(option))
}

#[test]
fn supplemental_groups_policy_and_fs_group_make_the_exact_set() {
    let Some(host) = Host::new(&[]) else { return };
    // root is a member of wheel, 10, in the image's /etc/group.
    for (policy, expected) in [("Merge", &[0, 10, 2000, 3000][..]), ("Strict", &[0, 2000, 3000])] {
        let context = json!({ "fsGroup": 2000, "supplementalGroups": [3000], "supplementalGroupsPolicy": policy });
        let container = json!({ "name": "b", "image": "busybox", "command": ["id", "-G"] });
        let spec = json!({ "restartPolicy": "Never", "containers": [container], "securityContext": context });
        let output = host.foreground(&pod(&policy.to_lowercase(), spec)).expect(0).out;
        let text = output.split_once("| ").map_or(output.as_str(), |(_, text)| text);
        let mut found: Vec<i64> = text.split_whitespace().map(|g| g.parse().unwrap()).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, expected, "{policy}");
    }
}

#[test]
fn fs_group_gives_volumes_to_the_group() {
    let Some(host) = Host::new(&[]) else { return };
    let mounts = json!([
        { "name": "disk", "mountPath": "/disk" }, { "name": "memory", "mountPath": "/memory" },
        { "name": "mode", "mountPath": "/mode" }, { "name": "host", "mountPath": "/host" },
    ]);
    let base = host.folder("host");
    let volumes = json!([
        { "name": "disk", "emptyDir": {} }, { "name": "memory", "emptyDir": { "medium": "Memory" } },
        { "name": "mode", "emptyDir": { "mode": 0o700 } }, { "name": "host", "hostPath": { "path": base } },
    ]);
    let asked = ["--stat=/disk", "--stat=/memory", "--stat=/mode", "--stat=/host"];
    let container = with(facts("c", &asked), json!({ "volumeMounts": mounts.clone() }));
    let context = json!({ "securityContext": { "fsGroup": 4242 }, "volumes": volumes.clone() });
    let seen = host.seen("grouped", container.clone(), context);
    for (path, mode, gid) in
        [("/disk", "2777", 4242), ("/memory", "2777", 4242), ("/mode", "2770", 4242), ("/host", "0755", 0)]
    {
        let stat = &seen["stats"][path];
        assert_eq!((stat["mode"].as_str(), stat["gid"].as_i64()), (Some(mode), Some(gid)), "{path}: {stat}");
    }
    assert!(groups(&seen).contains(&4242), "{}", seen["groups"]);
    let seen = host.seen("plain", container, json!({ "volumes": volumes }));
    assert_eq!((&seen["stats"]["/mode"]["mode"], &seen["stats"]["/disk"]["mode"]), (&json!("0700"), &json!("0777")));
    // A user of the group writes, another does not.
    let write = |name: &str, context: Value| {
        let container = with(facts("c", &["write", "/mode/x", "x"]), json!({ "volumeMounts": mounts }));
        let volumes = json!([
            { "name": "disk", "emptyDir": {} }, { "name": "memory", "emptyDir": { "medium": "Memory" } },
            { "name": "mode", "emptyDir": { "mode": 0o700 } }, { "name": "host", "hostPath": { "path": base } },
        ]);
        let spec = json!({
            "restartPolicy": "Never", "containers": [container], "volumes": volumes, "securityContext": context,
        });
        host.foreground(&pod(name, spec)).code
    };
    assert_eq!(write("member", json!({ "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 4242 })), 0);
    assert_ne!(write("stranger", json!({ "runAsUser": 1000, "runAsGroup": 1000 })), 0);
}

#[test]
fn sysctls_are_the_pods_own() {
    let Some(host) = Host::new(&[]) else { return };
    let own = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).unwrap().trim().to_owned()
    };
    let names = ["net.ipv4.ip_unprivileged_port_start", "kernel.shm_rmid_forced", "net.ipv4.tcp_fin_timeout"];
    let before = names.map(own);
    let sysctls = json!([
        { "name": names[0], "value": "444" }, { "name": names[1], "value": "1" },
        { "name": "net/ipv4/tcp_fin_timeout", "value": "33" },
    ]);
    let asked: Vec<String> = names.iter().map(|name| format!("--sysctl={name}")).collect();
    let words: Vec<&str> = asked.iter().map(String::as_str).collect();
    let spec = json!({ "securityContext": { "sysctls": sysctls } });
    let seen = host.seen("sysctls", facts("c", &words), spec);
    for (name, value) in names.iter().zip(["444", "1", "33"]) {
        assert_eq!(seen["sysctls"][name], value, "{name}");
    }
    assert_eq!(names.map(own), before, "the host's own are as they were");
}

#[test]
fn unsafe_sysctls_are_refused_or_allowed_by_name() {
    let Some(host) = Host::new(&[]) else { return };
    let with_sysctl = |pod_name: &str, name: &str, value: &str| {
        let context = json!({ "sysctls": [{ "name": name, "value": value }] });
        let asked = format!("--sysctl={name}");
        let container = facts("c", &[asked.as_str()]);
        let spec = json!({ "restartPolicy": "Never", "containers": [container], "securityContext": context });
        host.manifest(&pod(pod_name, spec))
    };
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let manifest = with_sysctl("unsafe", "kernel.msgmax", "4096");
    host.run(&["run", &manifest]).expect(125).says(&[
        "sysctls[0]",
        "kernel.msgmax is not on the safe list",
        "--allowed-unsafe-sysctls kernel.msgmax",
    ]);
    let allowed = host.run(&["run", "--allowed-unsafe-sysctls", "net.core.*,kernel.msg*", &manifest]).expect(0);
    assert!(allowed.out.contains(r#""kernel.msgmax":"4096""#), "{allowed:?}");
    host.run(&["run", "--allowed-unsafe-sysctls", "kernel.*", &manifest]).expect(2).says(&["kernel.*"]);
    let global = with_sysctl("global", "kernel.core_pattern", "|/tmp/x");
    host.run(&["run", &global]).expect(125).says(&["kernel.core_pattern", "whole host"]);
    // More than one setting in one value is one value, which the kernel refuses (CVE-2022-0811).
    let smuggled = with_sysctl("smuggled", "kernel.shm_rmid_forced", "1+kernel.core_pattern=|/tmp/x");
    host.run(&["run", &smuggled]).expect(125).says(&["/proc/sys/kernel/shm_rmid_forced", "EINVAL"]);
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    assert_eq!(host.ok(&["ps", "-q"]), "");
}

#[test]
fn a_seccomp_profile_of_the_host_is_enforced_and_nothing_takes_its_place() {
    let Some(host) = Host::new(&[]) else { return };
    let root = host.folder("profiles");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["uname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 },
                     { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "excludes": { "caps": ["CAP_SYS_TIME"] } }],
    });
    std::fs::create_dir(format!("{root}/sub")).unwrap();
    std::fs::write(format!("{root}/sub/strict.json"), profile.to_string()).unwrap();
    std::fs::write(format!("{root}/empty.json"), "").unwrap();
    std::fs::write(format!("{root}/bad.json"), "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscals\": []}").unwrap();
    let localhost = |file: &str| json!({ "type": "Localhost", "localhostProfile": file });
    let run = |name: &str, file: &str, context: Value| {
        let script = "uname; mkdir /new && echo made";
        let container = json!({ "name": "b", "image": "busybox", "command": ["sh", "-c", script] });
        let container = secured(container, with(json!({ "seccompProfile": localhost(file) }), context));
        let spec = json!({ "restartPolicy": "Never", "containers": [container] });
        host.run(&["run", "--seccomp-profile-root", &root, &host.manifest(&pod(name, spec))])
    };
    let strict = run("strict", "sub/strict.json", json!({}));
    assert!(!strict.out.contains("Linux") && !strict.out.contains("made"), "{strict:?}");
    let timed = run("timed", "sub/strict.json", json!({ "capabilities": { "add": ["SYS_TIME"] } })).expect(0);
    assert!(timed.out.contains("made") && !timed.out.contains("Linux"), "{timed:?}");
    for (name, file) in [("missing", "none.json"), ("empty", "empty.json"), ("bad", "bad.json"), ("dir", "sub")] {
        let refused = run(name, file, json!({})).expect(125);
        assert!(refused.out.is_empty(), "{refused:?}");
        refused.says(&["seccomp profile", file]);
    }
    run("up", "../profiles/sub/strict.json", json!({})).expect(125).says(&["localhostProfile", "`..`"]);
    // The file goes while the pod runs: the container does not come back without it.
    let container = secured(facts("c", &["exit", "3"]), json!({ "seccompProfile": localhost("sub/strict.json") }));
    let manifest = host.manifest(&pod("gone", json!({ "containers": [container] })));
    host.run(&["run", "-d", "--seccomp-profile-root", &root, &manifest]);
    std::fs::remove_file(format!("{root}/sub/strict.json")).unwrap();
    host.until_status(("gone", "c"), "an error about its profile", |status| {
        status["state"]["waiting"]["message"].to_string().contains("sub/strict.json")
            && status["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
}

#[test]
fn apparmor_and_selinux_are_as_the_host_has_them() {
    let Some(host) = Host::new(&[]) else { return };
    let has_apparmor =
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y'));
    let has_selinux = std::path::Path::new("/sys/fs/selinux/enforce").exists();
    if has_apparmor || has_selinux {
        // Here a container's label is what counts; no machine of ours has shown it yet.
        return;
    }
    let run = |name: &str, context: Value| {
        let spec = json!({ "restartPolicy": "Never", "containers": [secured(facts("c", &[]), context)] });
        host.foreground(&pod(name, spec))
    };
    for (name, profile) in [
        ("default", json!({ "type": "RuntimeDefault" })),
        ("localhost", json!({ "type": "Localhost", "localhostProfile": "mine" })),
    ] {
        let refused = run(name, json!({ "appArmorProfile": profile })).expect(125);
        assert!(refused.out.is_empty(), "{refused:?}");
        refused.says(&["AppArmor is not enabled on the host"]);
    }
    run("unconfined", json!({ "appArmorProfile": { "type": "Unconfined" } })).expect(0);
    let noted = pod("noted", json!({ "restartPolicy": "Never", "containers": [facts("c", &[])] }));
    let key = "container.apparmor.security.beta.kubernetes.io/c";
    let noted = with(noted, json!({ "metadata": { "name": "noted", "annotations": { key: "localhost/mine" } } }));
    host.foreground(&noted).expect(125).says(&["AppArmor is not enabled on the host"]);
    let selinux = run("selinux", json!({ "seLinuxOptions": { "level": "s0:c1,c2" } })).expect(0);
    selinux.says(&["seLinuxOptions has no effect: SELinux is not enabled on this host"]);
}

#[test]
fn names_of_a_pod() {
    let Some(host) = Host::new(&[]) else { return };
    let asked = ["--file=/etc/hosts", "--file=/etc/hostname"];
    let seen = |name: &str, spec: Value| host.seen(name, facts("c", &asked), spec);
    let sub = seen("sub", json!({ "hostname": "web-0", "subdomain": "web" }));
    assert_eq!(sub["hostname"], "web-0");
    let hosts = sub["files"]["/etc/hosts"].as_str().unwrap();
    assert!(hosts.contains("\tweb-0.web.default.svc.cluster.local\tweb-0\n"), "{hosts}");
    let full = seen("full", json!({ "subdomain": "web", "setHostnameAsFQDN": true }));
    assert_eq!(full["hostname"], "full.web.default.svc.cluster.local");
    assert_eq!(full["files"]["/etc/hostname"], "full.web.default.svc.cluster.local\n");
    let over = seen("over", json!({ "hostname": "h", "subdomain": "web", "hostnameOverride": "db.example" }));
    assert_eq!(over["hostname"], "db.example");
    let hosts = over["files"]["/etc/hosts"].as_str().unwrap();
    assert!(hosts.contains("\tdb.example\n") && !hosts.contains("web"), "{hosts}");
    let spec = json!({
        "subdomain": "a-subdomain-that-is-rather-long-for-a-name", "setHostnameAsFQDN": true,
        "containers": [facts("c", &[])],
    });
    host.foreground(&pod("long", spec)).expect(125).says(&["setHostnameAsFQDN", "64 are possible"]);
}

#[test]
fn mounts_are_as_read_only_and_as_restricted_as_they_say() {
    let Some(host) = Host::new(&["mount"]) else { return };
    let mounts = json!([
        { "name": "v", "mountPath": "/w" },
        { "name": "v", "mountPath": "/deep", "readOnly": true, "recursiveReadOnly": "Enabled" },
        { "name": "v", "mountPath": "/top", "readOnly": true },
        { "name": "v", "mountPath": "/noexec", "bindMountOptions": ["noexec", "nosuid", "nodev"] },
        { "name": "v", "mountPath": "/own", "subPathExpr": "logs/$(NAME)" },
    ]);
    // A mount in the volume: made by a privileged container of the pod, in its own view, and propagated to nobody.
    let base = host.folder("volume");
    std::fs::create_dir(format!("{base}/inner")).unwrap();
    let env = json!([{ "name": "NAME", "value": "c-7" }]);
    let container = with(facts("c", &["sleep"]), json!({ "volumeMounts": mounts, "env": env }));
    let spec = json!({ "containers": [container], "volumes": [{ "name": "v", "hostPath": { "path": base } }] });
    let manifest = host.manifest(&pod("mounts", spec));
    // In a mount namespace of podshim's own, with a tmpfs in the volume.
    let program = host.command(&[] as &[&str]).get_program().to_str().unwrap().to_owned();
    let script = format!("mount -t tmpfs inner {base}/inner && exec \"$0\" \"$@\"");
    let before = ["unshare", "--mount", "sh", "-c", script.as_str(), program.as_str()];
    host.finish(host.command_by(&before, &["run", "-d", &manifest])).expect(0);
    let write = |path: &str| host.run(&["exec", "mounts", "--", "/facts", "write", path, "x"]).code;
    assert_eq!((write("/w/x"), write("/w/inner/x")), (0, 0));
    assert_eq!((write("/top/x"), write("/top/inner/x")), (1, 0), "readOnly is of the topmost mount");
    assert_eq!((write("/deep/x"), write("/deep/inner/x")), (1, 1), "recursiveReadOnly is of all");
    assert_eq!(write("/own/x"), 0);
    assert_eq!(std::fs::read_to_string(format!("{base}/logs/c-7/x")).unwrap(), "x");
    let seen = host.report("mounts", "c", &[]);
    for option in ["noexec", "nosuid", "nodev"] {
        assert!(has_option(&seen, "/noexec", option), "{option}");
        assert!(!has_option(&seen, "/w", option), "{option}");
    }
    let missing = with(
        facts("c", &[]),
        json!({ "volumeMounts": [
        { "name": "v", "mountPath": "/own", "subPathExpr": "logs/$(NOBODY)" }] }),
    );
    let spec = json!({ "containers": [missing], "volumes": [{ "name": "v", "emptyDir": {} }] });
    host.foreground(&pod("missing", spec)).expect(125).says(&["missing value for NOBODY"]);
}

#[test]
fn stdin_once_ends_with_the_first_who_has_it() {
    let Some(host) = Host::new(&[]) else { return };
    let container = json!({ "name": "b", "image": "busybox", "command": ["cat"], "stdin": true, "stdinOnce": true });
    host.start(&pod("once", json!({ "restartPolicy": "Never", "containers": [container] })));
    let mut command = host.command(&["attach", "-i", "once"]);
    command.stdin(std::process::Stdio::piped());
    let mut live = Live::start(command);
    let mut stdin = live.stdin();
    stdin.write_all(b"hello\n").unwrap();
    live.until_has("hello\n");
    drop(stdin);
    assert_eq!(live.wait(), 0, "{}", live.err());
}
