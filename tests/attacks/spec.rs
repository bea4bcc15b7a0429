//! Class D: what a manifest asks for and cannot have.

use crate::harness::{FACTS, facts, pod, with};
use crate::rig::Bench;
use serde_json::{Value, json};

/// A text that must be refused soon, and by these words.
#[track_caller]
fn refused(bench: &Bench, name: &str, text: &str, words: &[&str]) {
    let path = bench.host.path("refused.yaml");
    std::fs::write(&path, text).unwrap();
    let output = bench.run(&["run", "-d", path.to_str().unwrap()]);
    assert_eq!(output.code, 125, "{name}: {output:?}");
    assert!(output.err.len() < 1 << 20, "{name}: an error of {} bytes", output.err.len());
    output.says(words);
    assert_eq!(bench.host.ok(&["ps", "-q"]), "", "{name}");
}

/// A pod with these changes, each a JSON pointer.
fn changed(changes: &[(&str, Value)]) -> String {
    let mut container = facts("c", &["sleep"]);
    container["env"] = json!([{ "name": "A", "value": "b" }]);
    container["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let mut value = pod("p", json!({ "containers": [container], "volumes": [{ "name": "v", "emptyDir": {} }] }));
    for (at, new) in changes {
        let (parent, key) = at.rsplit_once('/').unwrap();
        let parent = value.pointer_mut(parent).unwrap_or_else(|| panic!("{at}"));
        match parent {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = new.clone(),
            _ => parent[key] = new.clone(),
        }
    }
    value.to_string()
}

const C: &str = "/spec/containers/0";

#[test]
fn d3_d6_paths_of_mounts() {
    let Some(bench) = Bench::new() else { return };
    let mount = format!("{C}/volumeMounts/0");
    for (field, value) in [
        ("subPath", ".."),
        ("subPath", "/etc"),
        ("subPath", "a/../../b"),
        ("subPathExpr", "$(A)/../.."),
        ("mountPath", "/m:ro,exec"),
        ("mountPath", "/"),
        ("mountPath", "//"),
        ("mountPath", "/x/.."),
        ("mountPath", ""),
        ("mountPath", "/x\u{0}y"),
    ] {
        refused(
            &bench,
            &format!("{field} {value}"),
            &changed(&[(&format!("{mount}/{field}"), json!(value))]),
            &[field],
        );
    }
    let twice = json!([{ "name": "v", "mountPath": "/v" }, { "name": "v", "mountPath": "/v/" }]);
    refused(&bench, "twice", &changed(&[(&format!("{C}/volumeMounts"), twice)]), &["mountPath", "/v"]);
    let up = bench.up();
    for path in ["/a/../../../x", "..", "../x", "/..", &format!("/{up}"), &up] {
        refused(&bench, path, &changed(&[(&format!("{mount}/mountPath"), json!(path))]), &["mountPath", "`..`"]);
    }
    assert!(!std::path::Path::new("/x").exists());
    // A relative one is below the container's root, and blanks and commas are part of a name.
    for path in ["m", "a b,ro", "/a\\b"] {
        let spec = json!({ "restartPolicy": "Never", "volumes": [{ "name": "v", "emptyDir": {} }],
            "containers": [with(facts("c", &[]), json!({ "volumeMounts": [{ "name": "v", "mountPath": path }] }))] });
        let out = bench.host.foreground(&pod("fine", spec)).expect(0).out;
        let seen: Value = serde_json::from_str(out.split_once("| ").unwrap().1).unwrap();
        let target = format!("/{}", path.trim_start_matches('/'));
        let mount = seen["mounts"].as_array().unwrap().iter().find(|m| m["target"] == target);
        assert!(mount.is_some_and(|m| m["options"][0] == "rw"), "{path}: {mount:?} of {}", seen["mounts"]);
    }
}

/// Every type against every kind of file, links among them, as whole pods: what it is, or nothing of the pod.
#[test]
fn d7_a_host_path_is_of_its_type_or_no_volume() {
    let Some(bench) = Bench::new() else { return };
    let base = bench.host.folder("typed");
    let at = |name: &str| format!("{base}/{name}");
    std::fs::create_dir(at("directory")).unwrap();
    std::fs::write(at("file"), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    nix::unistd::mkfifo(at("fifo").as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (name, target) in
        [("to-file", "file"), ("to-directory", "directory"), ("dangling", "nowhere"), ("loop", "loop")]
    {
        std::os::unix::fs::symlink(target, at(name)).unwrap();
    }
    std::os::unix::fs::symlink("/dev/null", at("to-device")).unwrap();
    let names =
        ["directory", "file", "socket", "fifo", "to-file", "to-directory", "to-device", "dangling", "loop", "missing"];
    for (kind, fine) in [
        ("", &["directory", "file", "socket", "fifo", "to-file", "to-directory", "to-device"][..]),
        ("Directory", &["directory", "to-directory"]),
        ("DirectoryOrCreate", &["directory", "to-directory", "missing"]),
        ("File", &["file", "to-file"]),
        ("FileOrCreate", &["file", "to-file", "missing"]),
        ("Socket", &["socket"]),
        ("CharDevice", &["to-device"]),
        ("BlockDevice", &[]),
    ] {
        for name in names {
            let volumes = json!([{ "name": "v", "hostPath": { "path": at(name), "type": kind } }]);
            let container =
                with(facts("c", &["exit", "0"]), json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }));
            let spec = json!({ "restartPolicy": "Never", "containers": [container], "volumes": volumes });
            let output = bench.run(&["run", &bench.host.manifest(&pod("typed", spec))]);
            let what = format!("{kind:?} of {name}");
            assert_eq!(output.code, if fine.contains(&name) { 0 } else { 125 }, "{what}: {output:?}");
            assert!(output.code == 0 || output.err.contains(&at(name)), "{what}: {output:?}");
            let made = std::path::Path::new(&at("missing")).exists();
            assert_eq!(made, name == "missing" && kind.ends_with("OrCreate"), "{what}");
            if made {
                let _ = std::fs::remove_dir(at("missing")).or_else(|_| std::fs::remove_file(at("missing")));
            }
            assert!(!std::path::Path::new(&at("nowhere")).exists(), "{what}: a dangling link was followed");
        }
    }
}

#[test]
fn d8_sysctls_are_a_pods_own_or_refused() {
    let Some(bench) = Bench::new() else { return };
    let sysctls =
        |name: &str, value: &str| ("/spec/securityContext", json!({ "sysctls": [{ "name": name, "value": value }] }));
    for (name, value) in [
        ("kernel.core_pattern", "|/tmp/x"),
        ("net.ipv4/../../kernel/core_pattern", "|/tmp/x"),
        ("net.ipv4.../../kernel.core_pattern", "|/tmp/x"),
        ("net/ipv4/../../kernel/core_pattern", "|/tmp/x"),
        ("vm.overcommit_memory", "1"),
        ("kernel.domainname", "x"),
    ] {
        refused(&bench, name, &changed(&[sysctls(name, value)]), &["sysctls"]);
    }
    // One write to one file: the kernel refuses what is no number.
    let two_in_one = changed(&[sysctls("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/tmp/x")]);
    refused(&bench, "two in one", &two_in_one, &["/proc/sys/kernel/shm_rmid_forced", "Invalid argument"]);
    let host_ipc = [sysctls("kernel.shm_rmid_forced", "1"), ("/spec/hostIPC", json!(true))];
    refused(&bench, "with hostIPC", &changed(&host_ipc), &["sysctls"]);
    let host_network = [sysctls("net.ipv4.ip_unprivileged_port_start", "0"), ("/spec/hostNetwork", json!(true))];
    refused(&bench, "with hostNetwork", &changed(&host_network), &["sysctls"]);
}

#[test]
fn d9_names_are_labels() {
    let Some(bench) = Bench::new() else { return };
    let long = "a".repeat(300);
    let up = bench.up();
    for name in ["../../x", "..", ".", "a/b", "\u{1b}[31mred", "UPPER", "a_b", "", &long, &up, "-a", "a\nb", "a\u{0}b"]
    {
        for at in ["/metadata/name", "/metadata/namespace", "/spec/containers/0/name", "/spec/volumes/0/name"] {
            if at == "/metadata/namespace" && name.is_empty() {
                continue;
            }
            let last = at.rsplit('/').next().unwrap();
            refused(&bench, &format!("{at} {name:?}"), &changed(&[(at, json!(name))]), &[last]);
        }
    }
}

#[test]
fn d10_files_of_lines_have_no_lines_of_others() {
    let Some(bench) = Bench::new() else { return };
    for (name, change, words) in [
        (
            "alias",
            ("/spec/hostAliases", json!([{ "ip": "192.0.2.1", "hostnames": ["a\n127.0.0.1 evil"] }])),
            "hostnames",
        ),
        (
            "alias address",
            ("/spec/hostAliases", json!([{ "ip": "192.0.2.1 evil\n192.0.2.2", "hostnames": ["a"] }])),
            "ip",
        ),
        ("hostname", ("/spec/hostname", json!("a\nb")), "hostname"),
        ("search", ("/spec/dnsConfig", json!({ "searches": ["a\nnameserver 192.0.2.1"] })), "searches"),
        ("server", ("/spec/dnsConfig", json!({ "nameservers": ["192.0.2.1\nsearch evil"] })), "nameservers"),
        ("option", ("/spec/dnsConfig", json!({ "options": [{ "name": "a\nnameserver 192.0.2.1" }] })), "options"),
        (
            "option value",
            ("/spec/dnsConfig", json!({ "options": [{ "name": "a", "value": "1\nsearch evil" }] })),
            "options",
        ),
        ("variable", ("/spec/containers/0/env/0/name", json!("A\nB")), "name"),
        ("nul", ("/spec/containers/0/env/0/value", json!("a\u{0}b")), "value"),
    ] {
        refused(&bench, name, &changed(&[change]), &[words]);
    }
    // A variable's value is no line of a file: it arrives as it is.
    let container = with(facts("c", &[]), json!({ "env": [{ "name": "A", "value": "b\nC=d" }] }));
    let seen = bench.host.seen("env", container, json!({}));
    assert!(seen["env"].as_array().unwrap().contains(&json!("A=b\nC=d")), "{}", seen["env"]);
}

#[test]
fn d14_d16_privileges_are_what_they_are_called() {
    let Some(bench) = Bench::new() else { return };
    let context = format!("{C}/securityContext");
    let profile = |name: &str| json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": name } });
    for (name, value, words) in [
        ("unknown", json!({ "capabilities": { "add": ["BOGUS"] } }), "BOGUS"),
        ("dropped", json!({ "capabilities": { "drop": ["BOGUS"] } }), "BOGUS"),
        ("negative", json!({ "runAsUser": -1 }), "runAsUser"),
        ("large", json!({ "runAsUser": 4_294_967_296_u64 }), "runAsUser"),
        ("large group", json!({ "runAsGroup": 4_294_967_296_u64 }), "runAsGroup"),
        ("text", json!({ "runAsUser": "root" }), "runAsUser"),
        ("profile without a name", json!({ "seccompProfile": { "type": "Localhost" } }), "seccompProfile"),
        ("empty profile", profile(""), "seccomp"),
        ("profile elsewhere", profile("../../etc/passwd"), "seccomp"),
        ("absolute profile", profile("/etc/passwd"), "seccomp"),
        ("missing profile", profile("no-such-profile.json"), "seccomp"),
        ("other profile", json!({ "seccompProfile": { "type": "unconfined" } }), "seccompProfile"),
        ("contradiction", json!({ "privileged": true, "allowPrivilegeEscalation": false }), "allowPrivilegeEscalation"),
    ] {
        refused(&bench, name, &changed(&[(&context, value)]), &[words]);
    }
    let groups = json!({ "supplementalGroups": [4_294_967_296_u64] });
    refused(&bench, "groups", &changed(&[("/spec/securityContext", groups)]), &["supplementalGroups"]);
}

#[test]
fn d21_texts_that_grow_are_refused_soon() {
    let Some(bench) = Bench::new() else { return };
    let good = changed(&[]);
    let laughs = (1..12).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        let list = [format!("*a{}", n - 1).as_str(); 9].join(",");
        format!("{text}a{n}: &a{n} [{list}]\n")
    });
    for (name, text) in [
        ("laughs", laughs),
        ("nested", format!("{}{}", "[".repeat(200_000), "]".repeat(200_000))),
        ("nested maps", "a: ".repeat(100_000)),
        ("large", format!("apiVersion: v1\nkind: Pod\nx: \"{}\"\n", "x".repeat(100 << 20))),
        ("twice", "apiVersion: v1\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n".to_owned()),
        ("merge bomb", format!("a: &a {{b: c}}\nd: {{<<: [{}]}}\n", ["*a"; 20_000].join(","))),
        ("nul", good.replace("sleep", "sl\u{0}eep")),
        ("python", format!("a: !!python/object/apply:os.system [id]\n{good}")),
        ("undefined", "apiVersion: *nothing\n".to_owned()),
        ("tabs", "apiVersion: v1\n\tkind: Pod\n".to_owned()),
        ("recursive", "a: &a [*a]\n".to_owned()),
    ] {
        refused(&bench, name, &text, &[]);
    }
    // A byte order mark is no fault.
    let path = bench.host.path("bom.yaml");
    std::fs::write(&path, format!("\u{feff}{good}")).unwrap();
    bench.host.run(&["check", path.to_str().unwrap()]).expect(0);
}

#[test]
fn d22_d23_quantities_and_fields_that_cannot_be_kept() {
    let Some(bench) = Bench::new() else { return };
    let resources = format!("{C}/resources");
    for quantity in ["1e400", "-1", "9E9999", "1.2.3", "1 Gi", "NaN", "inf", "0x10", "", "1Ki1"] {
        let value = json!({ "limits": { "memory": quantity } });
        refused(&bench, quantity, &changed(&[(&resources, value)]), &["memory"]);
    }
    let less = json!({ "limits": { "memory": "1Mi", "cpu": "1" }, "requests": { "memory": "2Mi", "cpu": "2" } });
    refused(&bench, "limit below request", &changed(&[(&resources, less)]), &["requests"]);
    // What is too little to live on is said, and not shown by a container that cannot start for no reason.
    let little = json!({ "limits": { "memory": "1" } });
    let path = bench.host.path("little.yaml");
    std::fs::write(&path, changed(&[(&resources, little)])).unwrap();
    let output = bench.host.run(&["run", "-d", path.to_str().unwrap()]);
    assert!([125, 137].contains(&output.code), "{output:?}");
    assert!(output.err.contains("memory"), "{output:?}");
    bench.host.ok(&["rm", "-f", "--all"]);
    for (name, at, value) in [
        ("gitRepo", "/spec/volumes/0", json!({ "name": "v", "gitRepo": { "repository": "x" } })),
        ("flexVolume", "/spec/volumes/0", json!({ "name": "v", "flexVolume": { "driver": "x" } })),
        ("csi", "/spec/volumes/0", json!({ "name": "v", "csi": { "driver": "x" } })),
        ("nosuchfield", "/spec/nosuchfield", json!(1)),
        ("claims", "/spec/containers/0/resources", json!({ "claims": [{ "name": "x" }] })),
        ("ephemeralContainers", "/spec/ephemeralContainers", json!([{ "name": "x", "image": FACTS }])),
    ] {
        refused(&bench, name, &changed(&[(at, value)]), &[name]);
    }
}

#[test]
fn c16_annotations_are_no_commands() {
    let Some(bench) = Bench::new() else { return };
    let annotations = json!({ "org.systemd.property.ExecStart": "/bin/touch /x", "run.oci.handler": "krun",
        "cpu-load-balancing.crio.io": "disable", "io.katacontainers.config.hypervisor.path": "/bin/sh",
        "io.kubernetes.cri-o.UnifiedCgroup.c": "memory.max=1", "podshim.io/privileged": "true" });
    let ask = |name: &str, annotations: Value| {
        let mut value = pod(name, json!({ "restartPolicy": "Never", "containers": [facts("c", &[])] }));
        value["metadata"]["annotations"] = annotations;
        let out = bench.host.foreground(&value).expect(0).out;
        let seen: Value = serde_json::from_str(out.split_once("| ").unwrap().1).unwrap();
        json!([seen["caps"], seen["seccomp"], seen["cgroup"], seen["rlimits"], seen["dev"].as_object().unwrap().len()])
    };
    assert_eq!(ask("a", annotations), ask("b", json!({})));
}
