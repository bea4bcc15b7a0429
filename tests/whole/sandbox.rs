//! Namespaces of a pod, its name, its files in /etc.

use crate::harness::{Host, facts, pod, shell, until, with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// The inode number of one of the host's namespaces.
pub(crate) fn host_namespace(kind: &str) -> Value {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    json!(link.split_once('[').unwrap().1.trim_end_matches(']').parse::<u64>().unwrap())
}

fn pair(name: &str, spec: Value) -> Value {
    let containers = json!([facts("a", &["sleep"]), facts("b", &["sleep"])]);
    pod(name, with(json!({ "terminationGracePeriodSeconds": 1, "containers": containers }), spec))
}

/// For each kind: whether a and b are in the same namespace, and whether a is in the host's.
fn relations(host: &Host, name: &str) -> Vec<(&'static str, bool, bool)> {
    let (a, b) = (host.report(name, "a", &[]), host.report(name, "b", &[]));
    ["net", "ipc", "uts", "mnt", "pid", "cgroup", "user"]
        .map(|kind| {
            let (a, b) = (&a["namespaces"][kind], &b["namespaces"][kind]);
            (kind, a == b, *a == host_namespace(kind))
        })
        .to_vec()
}

#[test]
fn containers_of_a_pod_share_net_ipc_and_uts() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pair("plain", json!({})));
    let expected = [
        ("net", true, false),
        ("ipc", true, false),
        ("uts", true, false),
        ("mnt", false, false),
        ("pid", false, false),
        ("cgroup", false, false),
        ("user", true, true),
    ];
    assert_eq!(relations(&host, "plain"), expected);
    // What is executed is where the container's own process is.
    let pid = host.pid("plain", "a");
    let inside = host.report("plain", "a", &[]);
    for (kind, ..) in expected {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
        assert!(link.contains(&format!("[{}]", inside["namespaces"][kind])), "{kind}: {link}");
    }
    assert_eq!(inside["net"]["lo"]["up"], true);
    assert_eq!(inside["net"].as_object().unwrap().len(), 1, "{}", inside["net"]);
    // /dev/shm is the pod's, its two containers' together.
    host.ok(&["exec", "-c", "a", "plain", "--", "/facts", "write", "/dev/shm/note", "from a"]);
    assert_eq!(host.ok(&["exec", "-c", "b", "plain", "--", "/facts", "read", "/dev/shm/note"]), "from a");
    // The root file systems are not.
    host.ok(&["exec", "-c", "a", "plain", "--", "/facts", "write", "/note", "x"]);
    host.run(&["exec", "-c", "b", "plain", "--", "/facts", "read", "/note"]).expect(1);
}

#[test]
fn the_hosts_namespaces_are_used_where_asked_for() {
    let Some(host) = Host::new(&[]) else { return };
    for (field, kind) in [("hostNetwork", "net"), ("hostPID", "pid"), ("hostIPC", "ipc")] {
        let name = field.to_lowercase();
        host.start(&pair(&name, json!({ field: true })));
        for (found, same, hosts) in relations(&host, &name) {
            // With the host's network the host's name goes along.
            let expected = found == kind || found == "user" || (field == "hostNetwork" && found == "uts");
            assert_eq!(hosts, expected, "{field}: {found}");
            assert_eq!(same, !["mnt", "cgroup", "pid"].contains(&found) || found == kind, "{field}: {found}");
        }
    }
    let inside = host.report("hostpid", "a", &["--file=/proc/self/stat"]);
    assert!(inside["pid"].as_i64().unwrap() > 100, "{}", inside["pid"]);
    let inside = host.report("hostnetwork", "a", &["--file=/etc/hosts"]);
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(inside["hostname"], name.trim());
    assert!(inside["files"]["/etc/hosts"].as_str().unwrap().contains("host network"));
    // A pod that is stopped takes the host's namespaces with it no more than others.
    host.ok(&["rm", "-f", "--all"]);
    host.assert_clean();
}

#[test]
fn a_shared_process_namespace_has_an_init_of_podshims_own() {
    let Some(host) = Host::new(&[]) else { return };
    let orphans = facts("orphans", &["zombies", "20", "--orphans"]);
    let spec = json!({ "shareProcessNamespace": true, "terminationGracePeriodSeconds": 1,
        "containers": [facts("a", &["sleep"]), orphans] });
    host.start(&pod("shared", spec));
    host.live(&["logs", "-f", "shared", "-c", "orphans"]).until_has("left 20");
    let seen = host.report("shared", "a", &["--file=/proc/1/comm", "--list=/proc"]);
    assert!(seen["files"]["/proc/1/comm"].as_str().unwrap().starts_with("podshim"), "{seen}");
    assert!(seen["pid"].as_i64().unwrap() > 3);
    // Both containers' processes are seen, and the orphans were reaped by pid 1.
    until("the orphans' end", || {
        let list = host.report("shared", "a", &["--list=/proc"]);
        let processes = list["lists"]["/proc"].as_object().unwrap().keys().filter(|n| n.parse::<u32>().is_ok()).count();
        // init, two containers, this one.
        (processes == 4).then_some(())
    });
    // Nobody inside gets at the program of pid 1, nor can end it.
    let exe = host.run(&["exec", "shared", "--", "/facts", "write", "/proc/1/exe", "x"]);
    assert_ne!(exe.code, 0, "{exe:?}");
    assert_eq!(host.ps("shared")[1], "Running");
    let other = host.report("shared", "orphans", &[]);
    assert_eq!(other["namespaces"]["pid"], seen["namespaces"]["pid"]);
}

#[test]
fn a_pod_has_its_name_and_its_files() {
    let Some(host) = Host::new(&[]) else { return };
    std::fs::write(host.path("resolv"), "nameserver 192.0.2.1\nsearch example.test\noptions ndots:2\n").unwrap();
    let spec = json!({ "hostname": "other", "hostAliases": [{ "ip": "192.0.2.9", "hostnames": ["x.test", "y.test"] }],
        "dnsConfig": { "nameservers": ["192.0.2.2"], "searches": ["more.test"], "options": [{ "name": "ndots", "value": "5" }] },
        "terminationGracePeriodSeconds": 1,
        "containers": [facts("a", &["sleep"]), { "name": "b", "image": "busybox", "command": ["sleep", "1000"] }] });
    let manifest = host.manifest(&pod("named", spec));
    host.ok(&["run", "-d", "--resolv-conf", host.path("resolv").to_str().unwrap(), &manifest]);
    let seen = host.report("named", "a", &["--file=/etc/hosts", "--file=/etc/resolv.conf", "--file=/etc/hostname"]);
    assert_eq!((&seen["hostname"], &seen["files"]["/etc/hostname"]), (&json!("other"), &json!("other\n")));
    assert!(seen["env"].as_array().unwrap().contains(&json!("HOSTNAME=other")), "{}", seen["env"]);
    let hosts = seen["files"]["/etc/hosts"].as_str().unwrap();
    assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{hosts}");
    assert!(hosts.contains("192.0.2.9\tx.test\ty.test\n"), "{hosts}");
    let resolv = seen["files"]["/etc/resolv.conf"].as_str().unwrap();
    for line in ["nameserver 192.0.2.1\n", "nameserver 192.0.2.2\n", "search example.test more.test\n", "ndots:5"] {
        assert!(resolv.contains(line), "{line:?} in {resolv}");
    }
    // It finds itself by its own name.
    assert!(host.ok(&["exec", "-c", "b", "named", "--", "ping", "-c1", "-w5", "other"]).contains("127.0.0.1"));
    // Without a hostname it is called as the pod is.
    let seen = host.seen("simple", facts("c", &["--file=/etc/hostname"]), json!({}));
    assert_eq!((&seen["hostname"], &seen["files"]["/etc/hostname"]), (&json!("simple"), &json!("simple\n")));
}

#[test]
fn an_existing_network_namespace_is_joined_and_survives() {
    let Some(host) = Host::new(&["ip"]) else { return };
    let network = host.network("join");
    let place = format!("ns:/run/netns/{network}");
    host.ok(&["run", "-d", "--network", &place, &host.manifest(&pair("joined", json!({})))]);
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(format!("/run/netns/{network}")).unwrap());
    assert_eq!(host.report("joined", "a", &[])["namespaces"]["net"], json!(inode));
    host.ok(&["rm", "-f", "joined"]);
    assert!(std::fs::metadata(format!("/run/netns/{network}")).is_ok(), "it is not podshim's to remove");
    let missing = host.manifest(&pair("nowhere", json!({})));
    host.run(&["run", "-d", "--network", "ns:/run/netns/not-there", &missing])
        .expect(125)
        .says(&["/run/netns/not-there"]);
    host.run(&["run", "-d", "--network", "ns:/etc/passwd", &missing]).expect(125).says(&["/etc/passwd"]);
    assert_eq!(host.ok(&["ps", "-q"]), "");
}

/// The host's process id of a pod's own pid 1.
fn reaper(host: &Host, pod: &str) -> i32 {
    host.pid(pod, "_pause")
}

#[test]
fn a_pod_whose_pid_1_is_gone_begins_anew_with_its_init_containers() {
    let Some(host) = Host::new(&[]) else { return };
    let mounted = |container: Value| with(container, json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }));
    let init = mounted(shell("init", "echo init >>/v/runs"));
    let side = with(shell("side", "echo side >>/v/runs; exec sleep 1000"), json!({ "restartPolicy": "Always" }));
    let spec = json!({ "shareProcessNamespace": true, "terminationGracePeriodSeconds": 1,
        "volumes": [{ "name": "v", "emptyDir": { "medium": "Memory" } }], "initContainers": [init, mounted(side)],
        "containers": [facts("a", &["sleep"]), mounted(shell("b", "echo b >>/v/runs; exec sleep 1000"))] });
    host.start(&pod("lost", spec));
    host.ok(&["exec", "-c", "a", "lost", "--", "/facts", "write", "/dev/shm/note", "of the first sandbox"]);
    let before = host.report("lost", "a", &[]);
    // As long as they are open, no new namespace can get their numbers.
    let old: Vec<std::fs::File> = ["pid", "net", "ipc", "uts"]
        .map(|kind| std::fs::File::open(format!("/proc/{}/ns/{kind}", host.pid("lost", "a"))).unwrap())
        .into();
    // Somebody executes something meanwhile, and somebody looks at its output.
    let script = "echo inside; exec sleep 1000";
    let mut inside = host.live(&["exec", "-c", "b", "lost", "--", "sh", "-c", script]);
    inside.until_has("inside");
    kill(Pid::from_raw(reaper(&host, "lost")), Signal::SIGKILL).unwrap();
    assert_eq!(inside.wait(), 137);
    let changed = host.until_event("lost", "SandboxChanged", "it will be killed and re-created");
    assert_eq!((&changed["count"], &changed["type"]), (&json!(1), &json!("Normal")));
    for container in ["init", "side", "a", "b"] {
        let status = host.until_status(("lost", container), "second", |c| {
            c["restartCount"] == 1 && (container == "init" || c["state"]["running"].is_object())
        });
        let code = if container == "init" { 0 } else { 137 };
        assert_eq!(status["lastState"]["terminated"]["exitCode"], code, "{status}");
    }
    host.until_condition("lost", "Ready", "True");
    assert_eq!(host.ps("lost")[..2], ["3/3", "Running"].map(str::to_owned));
    // The order is the first one's; nothing was started in the sandbox that was lost.
    let runs = until("the last one's word", || {
        let runs = host.ok(&["exec", "-c", "b", "lost", "--", "cat", "/v/runs"]);
        (runs.split_whitespace().count() >= 6).then_some(runs)
    });
    assert_eq!(runs.split_whitespace().collect::<Vec<_>>(), ["init", "side", "b", "init", "side", "b"]);
    assert_eq!(host.events("lost", "Failed"), Vec::<Value>::new());
    // Volumes stay, the sandbox's own memory and its namespaces do not.
    host.run(&["exec", "-c", "a", "lost", "--", "/facts", "read", "/dev/shm/note"]).expect(1);
    let after = host.report("lost", "a", &["--file=/proc/1/comm"]);
    for kind in ["pid", "net", "ipc", "uts"] {
        assert_ne!(after["namespaces"][kind], before["namespaces"][kind], "{kind}");
    }
    drop(old);
    assert_eq!(after["files"]["/proc/1/comm"], "podshim-pause\n");
    let namespace = |container| std::fs::read_link(format!("/proc/{}/ns/pid", host.pid("lost", container))).unwrap();
    assert_eq!(namespace("a"), namespace("b"), "it is shared again");
    // It can be lost again, and be stopped in time.
    kill(Pid::from_raw(reaper(&host, "lost")), Signal::SIGKILL).unwrap();
    host.until_status(("lost", "init"), "third", |c| c["restartCount"] == 2);
    host.ok(&["rm", "-f", "lost"]);
    host.assert_clean();
}

#[test]
fn a_pod_that_is_never_restarted_ends_with_its_pid_1() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "shareProcessNamespace": true, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [facts("a", &["sleep"])] });
    host.start(&pod("once", spec));
    kill(Pid::from_raw(reaper(&host, "once")), Signal::SIGKILL).unwrap();
    assert_eq!(host.ok(&["wait", "once"]).trim(), "137");
    assert_eq!(host.ps("once"), ["0/1", "Error", "0"].map(str::to_owned));
    host.until_event("once", "SandboxChanged", "Pod sandbox changed, it will be killed.");
}
