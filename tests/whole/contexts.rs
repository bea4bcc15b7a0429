//! What a pod says for all its containers: users, groups, filters, names of others, and a terminal of one's own.

use crate::harness::{Host, documents, facts, object, pod, shell, until, with};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn the_pods_context_holds_where_a_container_says_nothing() {
    let Some(host) = Host::new(&[]) else { return };
    let own = json!({ "runAsUser": 3000, "seccompProfile": { "type": "RuntimeDefault" } });
    let containers =
        json!([facts("plain", &["sleep"]), with(facts("own", &["sleep"]), json!({ "securityContext": own })),]);
    let context = json!({
        "runAsUser": 1000, "runAsGroup": 2000, "runAsNonRoot": true, "supplementalGroups": [7, 8],
        "seccompProfile": { "type": "Unconfined" }, "appArmorProfile": { "type": "Unconfined" },
    });
    host.start(&pod("all", json!({ "securityContext": context, "containers": containers })));
    for (name, uid, filter) in [("plain", 1000, 0), ("own", 3000, 2)] {
        let seen = host.report("all", name, &[]);
        assert_eq!(
            (&seen["uid"], &seen["gid"], &seen["seccomp"]),
            (&json!(uid), &json!(2000), &json!(filter)),
            "{name}"
        );
        for group in [7, 8] {
            assert!(seen["groups"].as_array().unwrap().contains(&json!(group)), "{}", seen["groups"]);
        }
    }
    // Root, by the image's word, is refused by the pod's.
    let refuse = |name: &str, container: Value| {
        let spec =
            json!({ "restartPolicy": "Never", "securityContext": { "runAsNonRoot": true }, "containers": [container] });
        host.foreground(&pod(name, spec))
    };
    let refused = refuse("root", facts("c", &["exit", "0"])).expect(125);
    assert!(refused.out.is_empty() && refused.err.contains("runAsNonRoot"), "{refused:?}");
    let allowed = with(facts("c", &["exit", "0"]), json!({ "securityContext": { "runAsNonRoot": false } }));
    refuse("allowed", allowed).expect(0);
    // A profile of the host's, for all but those that have one of their own.
    let root = host.folder("profiles");
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["uname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 }] });
    std::fs::write(format!("{root}/no-uname.json"), profile.to_string()).unwrap();
    let own =
        with(shell("own", "uname"), json!({ "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } } }));
    let localhost = json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": "no-uname.json" } });
    let spec = json!({ "restartPolicy": "Never", "securityContext": localhost,
        "containers": [shell("plain", "echo \"<$(uname)>\""), own] });
    let output = host.run(&["run", "--seccomp-profile-root", &root, &host.manifest(&pod("local", spec))]).expect(0);
    assert!(output.out.contains("plain | <>") && output.out.contains("own   | Linux"), "{output:?}");
    // A profile that the host cannot have is not left away.
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let mine = json!({ "appArmorProfile": { "type": "Localhost", "localhostProfile": "mine" } });
        let spec = json!({ "restartPolicy": "Never", "securityContext": mine, "containers": [facts("c", &[])] });
        host.foreground(&pod("armored", spec)).expect(125).says(&["AppArmor is not enabled on the host"]);
    }
}

#[test]
fn the_dns_policy_decides_where_names_are_looked_up() {
    let Some(host) = Host::new(&[]) else { return };
    let file = host.path("resolv");
    std::fs::write(&file, "nameserver 192.0.2.1\nsearch example.test\noptions ndots:2\n").unwrap();
    let config = json!({ "nameservers": ["192.0.2.2"], "options": [{ "name": "edns0" }] });
    for (policy, expected) in [
        ("Default", "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.test\noptions ndots:2 edns0\n"),
        // There is no name service of a cluster.
        ("ClusterFirst", "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.test\noptions ndots:2 edns0\n"),
        ("None", "nameserver 192.0.2.2\noptions edns0\n"),
    ] {
        let spec = json!({ "restartPolicy": "Never", "dnsPolicy": policy, "dnsConfig": config,
            "containers": [facts("c", &["read", "/etc/resolv.conf"])] });
        let manifest = host.manifest(&pod(&policy.to_lowercase(), spec));
        let output = host.run(&["run", "--resolv-conf", file.to_str().unwrap(), &manifest]).expect(0);
        assert_eq!(output.out.replace("c | ", ""), expected, "{policy}");
    }
}

#[test]
fn the_fs_group_of_a_claim_is_changed_always_or_on_root_mismatch() {
    let Some(host) = Host::new(&[]) else { return };
    let claim = object(
        "PersistentVolumeClaim",
        "data",
        json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }),
    );
    let run = |name: &str, policy: &str, script: &str| {
        let context = json!({ "fsGroup": 4242, "fsGroupChangePolicy": policy });
        let container = with(shell("c", script), json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }));
        let volumes = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }]);
        let spec = json!({ "restartPolicy": "Never", "securityContext": context, "volumes": volumes, "containers": [container] });
        host.run(&["run", &documents(&host, "claim.json", &[claim.clone(), pod(name, spec)])]).expect(0).out
    };
    let stat = "stat -c '%g %a' /v/file";
    // A file that another pod leaves with a group and a mode of its own.
    run("makes", "Always", "touch /v/file && chown 0:5 /v/file && chmod 600 /v/file");
    assert_eq!(run("keeps", "OnRootMismatch", stat), "c | 5 600\n", "the root is as it should be");
    assert_eq!(run("changes", "Always", stat), "c | 4242 660\n");
    run("spoils", "Always", "chown 0:5 /v /v/file && chmod 600 /v/file");
    assert_eq!(run("mends", "OnRootMismatch", stat), "c | 4242 660\n", "the root is not");
    let root = std::fs::metadata(host.path("root/claims/default_data")).unwrap();
    assert_eq!((root.gid(), root.permissions().mode() & 0o2070), (4242, 0o2070));
    host.ok(&["volume", "rm", "data"]);
}

#[test]
fn a_container_has_a_terminal_of_its_own() {
    let Some(host) = Host::new(&[]) else { return };
    let script = "tty; echo $TERM; echo to-err >&2; [ -t 0 ] && [ -t 2 ] && echo all; sleep 1000";
    let terminal = with(shell("t", script), json!({ "tty": true, "stdin": true }));
    let without = shell("n", "tty; echo \"<$TERM>\"; sleep 1000");
    host.start(&pod("terminal", json!({ "terminationGracePeriodSeconds": 1, "containers": [terminal, without] })));
    let log = |name: &str, last: &str| {
        until("the log", || Some(host.ok(&["logs", "terminal", "-c", name])).filter(|text| text.contains(last)))
    };
    let text = log("t", "all");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(lines[1..], ["xterm", "to-err", "all"], "{text}");
    assert!(lines[0].starts_with("/dev/"), "{text}");
    assert!(log("n", "<").contains("not a tty") && !log("n", "<").contains("xterm"));
}
