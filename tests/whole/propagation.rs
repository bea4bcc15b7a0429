//! `mountPropagation`: who sees whose mounts.

use crate::harness::{Host, Live, Output, pod, shell, with};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

/// Runs a script in the mount namespace of a process.
fn in_mounts_of(pid: i32, script: &str) -> String {
    let output = Command::new("nsenter").args([&format!("--mount=/proc/{pid}/ns/mnt"), "sh", "-c", script]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A mount namespace of podshim's own: the machine's mounts stay as they are.
struct Namespace<'a> {
    host: &'a Host,
    holder: Live,
}

impl<'a> Namespace<'a> {
    /// One in which a script was run.
    fn new(host: &'a Host, script: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{script} && echo here; exec sleep 1000")]);
        let holder = Live::start(command);
        holder.until_has("here");
        Namespace { host, holder }
    }

    fn podshim(&self, args: &[&str]) -> Output {
        let program = self.host.command(&[] as &[&str]).get_program().to_str().unwrap().to_owned();
        let entry = format!("--mount=/proc/{}/ns/mnt", self.holder.pid());
        self.host.finish(self.host.command_by(&["nsenter", &entry, &program], args)).expect(0)
    }
}

#[test]
fn mounts_go_the_way_that_mount_propagation_says() {
    let Some(host) = Host::new(&["mount", "nsenter"]) else { return };
    let base = host.folder("volume");
    std::fs::create_dir_all(format!("{base}/from-host")).unwrap();
    std::fs::create_dir_all(format!("{base}/from-container")).unwrap();
    let mounted = |name: &str, propagation: Value| {
        let mount = with(json!({ "name": "v", "mountPath": "/v" }), propagation);
        let fields = json!({ "volumeMounts": [mount], "securityContext": { "privileged": true } });
        with(shell(name, "sleep 1000"), fields)
    };
    let kinds = ["None", "HostToContainer", "Bidirectional"];
    let of = |kind: &str| mounted(&kind.to_lowercase(), json!({ "mountPropagation": kind }));
    let mut containers: Vec<Value> = kinds.iter().map(|kind| of(kind)).collect();
    containers.push(mounted("unset", json!({})));
    let volumes = json!([{ "name": "v", "hostPath": { "path": base } }]);
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": containers, "volumes": volumes });
    let manifest = host.manifest(&pod("mounts", spec));
    // In a mount namespace of podshim's own, where the volume is shared: the machine's mounts stay as they are.
    let program = host.command(&[] as &[&str]).get_program().to_str().unwrap().to_owned();
    let script = format!("mount --bind {base} {base} && mount --make-shared {base} && exec \"$0\" \"$@\"");
    let before = ["unshare", "--mount", "sh", "-c", script.as_str(), program.as_str()];
    host.finish(host.command_by(&before, &["run", "-d", &manifest])).expect(0);
    let pid = host.supervisor("mounts");
    in_mounts_of(pid, &format!("mount -t tmpfs late {base}/from-host && touch {base}/from-host/mark"));
    let inside =
        |container: &str, script: &str| host.run(&["exec", "-c", container, "mounts", "--", "sh", "-c", script]);
    for (container, sees) in [("none", false), ("unset", false), ("hosttocontainer", true), ("bidirectional", true)] {
        assert_eq!(inside(container, "[ -e /v/from-host/mark ]").code == 0, sees, "{container}");
    }
    for (container, passes_on) in
        [("none", false), ("unset", false), ("hosttocontainer", false), ("bidirectional", true)]
    {
        let script = format!("mount -t tmpfs own /v/from-container && touch /v/from-container/{container}");
        inside(container, &script).expect(0);
        let seen = in_mounts_of(pid, &format!("ls {base}/from-container"));
        assert_eq!(seen.contains(container), passes_on, "{container}: {seen}");
    }
    in_mounts_of(pid, &format!("umount {base}/from-container {base}/from-host"));
}

/// What podshim itself mounts below such a volume is the container's alone: nobody would take it away from the host.
#[test]
fn what_is_mounted_below_a_bidirectional_volume_is_not_mounted_on_the_host() {
    let Some(host) = Host::new(&["mount", "unshare", "nsenter"]) else { return };
    let base = host.folder("volume");
    for directory in ["from-host", "from-container", "submount"] {
        std::fs::create_dir_all(format!("{base}/{directory}")).unwrap();
    }
    let mounts = json!([
        { "name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional" },
        { "name": "e", "mountPath": "/v/a b" },
        { "name": "e", "mountPath": "/v/a b/below" },
        { "name": "e", "mountPath": "/v/submount/there" },
        { "name": "c", "mountPath": "/v/file", "subPath": "key" },
    ]);
    let fields = json!({ "volumeMounts": mounts, "securityContext": { "privileged": true }, "tty": true });
    let volumes = json!([
        { "name": "v", "hostPath": { "path": base } },
        { "name": "e", "emptyDir": {} },
        { "name": "c", "configMap": { "name": "c" } },
    ]);
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [with(shell("c", "sleep 1000"), fields)], "volumes": volumes });
    let map =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c" }, "data": { "key": "text" } });
    let manifest = host.manifest(&json!({ "apiVersion": "v1", "kind": "List", "items": [map, pod("below", spec)] }));
    let namespace = Namespace::new(
        &host,
        &format!("mount --bind {base} {base} && mount --make-shared {base} && mount -t tmpfs sub {base}/submount"),
    );
    let podshim = |args: &[&str]| namespace.podshim(args);
    let of_the_host = || {
        let list = std::fs::read_to_string(format!("/proc/{}/mountinfo", namespace.holder.pid())).unwrap();
        list.lines().filter(|line| line.contains(&base)).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = of_the_host();
    assert_eq!(before.len(), 2, "{before:#?}");
    podshim(&["run", "-d", &manifest]);
    assert_eq!(of_the_host(), before);
    let inside = |script: &str| podshim(&["exec", "below", "--", "sh", "-c", script]);
    inside(
        "touch '/v/a b/mark' && [ -e '/v/a b/below/mark' ] && [ -e /v/submount/there/mark ] && [ $(cat /v/file) = text ]",
    );
    // Both ways, the volume is what it is meant to be.
    let pid = namespace.holder.pid();
    in_mounts_of(pid, &format!("mount -t tmpfs late {base}/from-host && touch {base}/from-host/mark"));
    inside(
        "[ -e /v/from-host/mark ] && mount -t tmpfs own /v/from-container && mkdir /v/submount/own && mount -t tmpfs own /v/submount/own",
    );
    assert_eq!(of_the_host().len(), before.len() + 3, "{:#?}", of_the_host());
    inside("umount /v/submount/own /v/from-container");
    in_mounts_of(pid, &format!("umount {base}/from-host"));
    podshim(&["rm", "-f", "below"]);
    assert_eq!(of_the_host(), before);
}

/// Nor is podshim's own: network plugins have the host's /sys/fs, and the container's cgroups are below it.
#[test]
fn below_the_hosts_sys_the_containers_cgroups_are_its_own() {
    let Some(host) = Host::new(&["mount", "unshare", "nsenter"]) else { return };
    let namespace = Namespace::new(&host, "mount --make-rshared /sys");
    let of_the_host = || std::fs::read_to_string(format!("/proc/{}/mountinfo", namespace.holder.pid())).unwrap();
    let before = of_the_host();
    let mounts = json!([{ "name": "s", "mountPath": "/sys/fs", "mountPropagation": "Bidirectional" }]);
    let fields = json!({ "volumeMounts": mounts, "securityContext": { "privileged": true } });
    let volumes = json!([{ "name": "s", "hostPath": { "path": "/sys/fs" } }]);
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [with(shell("c", "sleep 1000"), fields)], "volumes": volumes });
    namespace.podshim(&["run", "-d", &host.manifest(&pod("sys", spec))]);
    let own = |mounts: &str| {
        mounts.lines().filter(|line| line.contains("/sys/fs/cgroup")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(own(&of_the_host()), own(&before));
    let inside = namespace.podshim(&["exec", "sys", "--", "cat", "/proc/self/mountinfo"]).out;
    assert!(own(&inside).len() > own(&before).len(), "{inside}");
    namespace.podshim(&["rm", "-f", "sys"]);
    assert_eq!(own(&of_the_host()), own(&before));
}

/// Names of files are bytes: who mounts something at one that is no text, and in a pod's volume, does not keep it from being removed.
#[test]
fn a_mount_point_that_is_not_utf_8_is_in_nobodys_way() {
    let Some(host) = Host::new(&["mount", "unshare", "nsenter"]) else { return };
    let namespace = Namespace::new(&host, "true");
    let container = with(shell("c", "sleep 1000"), json!({ "volumeMounts": [{ "name": "e", "mountPath": "/e" }] }));
    let volumes = json!([{ "name": "e", "emptyDir": {} }]);
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes });
    namespace.podshim(&["run", "-d", &host.manifest(&pod("odd", spec))]);
    let volume = host.path("root/pods").join(host.uid("odd")).join("volumes/e");
    let script = r#"d=$(printf 'a\377 \nb') && mkdir "$d" && mount -t tmpfs odd "$d""#;
    in_mounts_of(namespace.holder.pid(), &format!("cd {} && {script}", volume.display()));
    namespace.podshim(&["rm", "-f", "odd"]);
}

/// The mount namespace that containers' own begin as copies of (`runtime::empty`).
#[test]
fn what_mount_namespaces_begin_with_goes_with_the_last_pod() {
    let Some(host) = Host::new(&["unshare", "nsenter", "taskset"]) else { return };
    let holder = |by: &[&str]| {
        let mut command = Command::new(by[0]);
        command.args(&by[1..]).args(["sh", "-c", "echo here; exec sleep 1000"]);
        let holder = Live::start(command);
        holder.until_has("here");
        holder
    };
    // As under systemd: mounts spread to services that have a mount namespace of their own.
    let shared = holder(&["taskset", "1", "unshare", "--mount", "--propagation", "shared"]);
    let entry = format!("--mount=/proc/{}/ns/mnt", shared.pid());
    let service = holder(&["nsenter", &entry, "unshare", "--mount", "--propagation", "slave"]);
    let program = host.command(&[] as &[&str]).get_program().to_str().unwrap().to_owned();
    // On the same CPU: with others' numbers the kernel may take a younger namespace for an older one.
    let before = ["taskset", "1", "nsenter", &*entry, &*program];
    let podshim = |args: &[&str]| host.finish(host.command_by(&before, args)).expect(0);
    let own = host.path("").to_str().unwrap().to_owned();
    let mounts = |of: &Live| -> Vec<String> {
        let list = std::fs::read_to_string(format!("/proc/{}/mountinfo", of.pid())).unwrap();
        list.lines().filter(|line| line.contains(&own)).map(str::to_owned).collect()
    };
    let pins = || mounts(&shared).iter().filter(|line| line.contains(" mnt:[") && line.contains("/empty/mnt ")).count();
    // What a container is given of a directory above does not have it.
    let container = with(shell("c", "sleep 1000"), json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }));
    let spec = json!({ "containers": [container], "volumes": [{ "name": "v", "hostPath": { "path": own } }] });
    for name in ["one", "two"] {
        podshim(&["run", "-d", &host.manifest(&pod(name, spec.clone()))]);
        assert_eq!(pins(), 1, "{name}: {:#?}", mounts(&shared));
    }
    // Each is there once: not below the run state's own mount as well.
    let all = mounts(&shared);
    let places: BTreeSet<&str> = all.iter().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(places.len(), all.len(), "{all:#?}");
    podshim(&["exec", "two", "--", "sh", "-c", "[ -d /v/state/empty ] && [ ! -e /v/state/empty/mnt ]"]);
    podshim(&["rm", "-f", "one"]);
    assert_eq!(pins(), 1);
    podshim(&["rm", "-f", "two"]);
    for namespace in [&shared, &service] {
        assert!(mounts(namespace).is_empty(), "{:#?}", mounts(namespace));
    }
}
