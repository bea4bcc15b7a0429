//! `plan -o sh`: the script that builds a pod by hand is run, and what it made is compared with the same pod under podshim,
//! as the kernel shows both: namespaces, mounts, credentials, limits, devices, files, network.

use crate::harness::{Host, Output, available, facts, object, pod, repository, shell, until, with};
use crate::leaks;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const NEEDS: &[&str] = &["setpriv", "nsenter", "perl", "ip", "nft"];

/// Where the two are not to be the same: a part of the path of what was seen, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("/status/Seccomp", "Debian's tools can load no seccomp filter: the script says so"),
    ("/status/Seccomp_filters", "likewise"),
    ("/mounts/ //super", "an overlay's options name its directories, which are elsewhere"),
    ("/mounts/ /two/super", "likewise"),
];

/// Signals 32 and 33 are glibc's own. Its posix_spawn(3), by which this test starts bash, leaves them ignored, and none of its
/// programs can change that: podshim's init can.
const OF_GLIBC: u64 = 0b11 << 31;

/// A file of a process.
fn of(pid: i32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn link(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_link(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).display().to_string()
}

/// What is the same in both worlds under another name.
struct Names {
    /// What to write in the place of what.
    replaced: Vec<(String, &'static str)>,
}

impl Names {
    fn apply(&self, text: &str) -> String {
        self.replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}

/// A container's process as the kernel shows it.
fn look(pid: i32, names: &Names) -> Value {
    let status = of(pid, "status");
    let wanted = [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "SigBlk",
        "SigIgn",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
    ];
    let field = |name: &str| -> Value {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("");
        let words: Vec<&str> = value.split_whitespace().collect();
        if name == "SigIgn" {
            return json!(u64::from_str_radix(words[0], 16).unwrap() & !OF_GLIBC);
        }
        json!(words)
    };
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut fds: Vec<String> = fds.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    fds.sort();
    let etc = ["hosts", "resolv.conf", "hostname"].map(|file| of(pid, &format!("root/etc/{file}")));
    let cgroups: Vec<String> = of(pid, "cgroup").lines().map(|line| names.apply(line)).collect();
    // In the innermost namespace. Which number it has where others live, too, is of no importance.
    let number = |name: &str| field(name).as_array().and_then(|n| n.last().cloned()).filter(|n| *n != "0");
    let (own, group, session) = (number("NSpid"), number("NSpgid"), number("NSsid"));
    json!({
        "process": {
            "is pid 1": own == Some(json!("1")), "leads its group": group == own, "leads its session": session == own,
            "pid namespaces": field("NSpid").as_array().map(Vec::len),
        },
        "status": wanted.iter().map(|name| ((*name).to_owned(), field(name))).collect::<Map<_, _>>(),
        "limits": of(pid, "limits").lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>(),
        "oom_score_adj": of(pid, "oom_score_adj"),
        "environ": of(pid, "environ").split('\0').map(str::to_owned).collect::<Vec<_>>(),
        "cmdline": of(pid, "cmdline").split('\0').map(str::to_owned).collect::<Vec<_>>(),
        "cwd": link(format!("/proc/{pid}/cwd")),
        "exe": link(format!("/proc/{pid}/exe")),
        "root": link(format!("/proc/{pid}/root")),
        "fds": fds,
        "stdin": names.apply(&link(format!("/proc/{pid}/fd/0"))).starts_with("/dev/null"),
        "cgroup": cgroups,
        "mounts": mounts(pid, names),
        "dev": tree(Path::new(&format!("/proc/{pid}/root/dev")), 0),
        "etc": etc,
        "hostname": inside(pid, &["hostname"]),
        "network": network(pid),
    })
}

/// proc_pid_mountinfo(5), without numbers.
fn mounts(pid: i32, names: &Names) -> Value {
    let mut all = Map::new();
    for line in of(pid, "mountinfo").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let separator = words.iter().position(|word| *word == "-").unwrap();
        let propagation: Vec<&str> = words[6..separator].iter().map(|w| w.split(':').next().unwrap()).collect();
        let seen = json!({
            "root": names.apply(words[3]),
            "options": words[5],
            "propagation": propagation,
            "type": words[separator + 1],
            "source": words[separator + 2],
            "super": words[separator + 3],
        });
        // The blank keeps "/" and what is below apart in paths of differences.
        let key = format!(" {}", words[4]);
        let seen_before = all.insert(key, seen);
        assert!(seen_before.is_none(), "two mounts at {}", words[4]);
    }
    Value::Object(all)
}

/// What is in a directory, so many levels deep.
fn tree(path: &Path, depth: u32) -> Value {
    let mut all = Map::new();
    for entry in std::fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).flatten() {
        let at = entry.path();
        let metadata = at.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let mut seen = json!({ "mode": format!("{:o}", metadata.mode()), "owner": [metadata.uid(), metadata.gid()] });
        if kind.is_char_device() || kind.is_block_device() {
            seen["device"] = json!(metadata.rdev());
        } else if kind.is_symlink() {
            seen["to"] = json!(link(&at));
        } else if kind.is_file() {
            seen["content"] = json!(String::from_utf8_lossy(&std::fs::read(&at).unwrap()));
        } else if kind.is_dir() && depth > 0 {
            seen["below"] = tree(&at, depth - 1);
        }
        let name = entry.file_name().into_string().unwrap();
        // The directory of a moment.
        let name = if name.starts_with("..2") { "..moment".to_owned() } else { name };
        if seen["to"].as_str().is_some_and(|to| to.starts_with("..2")) {
            seen["to"] = json!("..moment");
        }
        all.insert(name, seen);
    }
    all.sort_keys();
    Value::Object(all)
}

/// What a program of the host says in a process's namespaces of uts and net.
fn inside(pid: i32, words: &[&str]) -> String {
    let output = Command::new("nsenter").args(["-t", &pid.to_string(), "-u", "-n", "--"]).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn network(pid: i32) -> Value {
    let ask = |words: &[&str]| -> Value { serde_json::from_str(&inside(pid, words)).unwrap_or(Value::Null) };
    let mut links = ask(&["ip", "-j", "address"]);
    for link in links.as_array_mut().into_iter().flatten() {
        // Numbers that differ each time.
        for key in ["ifindex", "link_index", "link_netnsid"] {
            link.as_object_mut().unwrap().remove(key);
        }
    }
    let settings = ["ipv4/conf/all/accept_redirects", "ipv6/conf/all/accept_ra", "ipv4/ip_unprivileged_port_start"];
    let settings = settings.map(|name| inside(pid, &["cat", &format!("/proc/sys/net/{name}")]));
    json!({
        "links": links,
        "routes": ask(&["ip", "-j", "route"]),
        "routes6": ask(&["ip", "-j", "-6", "route"]),
        "settings": settings,
    })
}

/// Every limit of a cgroup that can be read and does not count something.
fn limits(below: &str) -> Value {
    let files = [
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.max",
        "memory.swap.max",
        "memory.oom.group",
        "cpu.shares",
        "cpu.cfs_quota_us",
        "cpu.cfs_period_us",
        "cpu.weight",
        "cpu.max",
        "cpuset.cpus",
        "cpuset.mems",
        "pids.max",
        "devices.list",
        "hugetlb.2MB.max",
        "hugetlb.2MB.limit_in_bytes",
    ];
    files.iter().map(|file| ((*file).to_owned(), json!(leaks::cgroup_file(below, file)))).collect::<Map<_, _>>().into()
}

/// For each kind of namespace, who shares one: the host is 0, and a namespace's number is that of the first who is in it.
fn sharing(pids: &[i32]) -> Value {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let of_kind = |kind: &&str| {
        let own: Vec<String> = std::iter::once("self".to_owned())
            .chain(pids.iter().map(i32::to_string))
            .map(|pid| link(format!("/proc/{pid}/ns/{kind}")))
            .collect();
        let number = |id: &String| own.iter().position(|other| other == id);
        ((*kind).to_owned(), json!(own[1..].iter().map(number).collect::<Vec<_>>()))
    };
    kinds.iter().map(of_kind).collect::<Map<_, _>>().into()
}

/// Where two values differ.
fn differences(path: &str, a: &Value, b: &Value, into: &mut Vec<(String, String)>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: BTreeMap<&String, ()> = x.keys().chain(y.keys()).map(|key| (key, ())).collect();
            for key in keys.into_keys() {
                let (a, b) = (x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null));
                differences(&format!("{path}/{key}"), a, b, into);
            }
        }
        (a, b) if a != b => into.push((path.to_owned(), format!("podshim {a}\n      by hand {b}"))),
        _ => {}
    }
}

/// One pod, made by podshim and by hand.
struct Both<'a> {
    host: &'a Host,
    /// `namespace/name` as podshim's verbs take it.
    pod: String,
    manifest: String,
    /// The containers that run for as long as the pod does.
    containers: Vec<&'a str>,
    script: PathBuf,
    /// Options of `run` and `plan`.
    options: Vec<String>,
    /// Directories to be compared with what is in them, as `container/path`.
    trees: Vec<&'a str>,
}

impl<'a> Both<'a> {
    fn new(host: &'a Host, pod: &str, manifest: &str, containers: &[&'a str]) -> Both<'a> {
        Both::with(host, (pod, manifest), containers, &[])
    }

    fn with(host: &'a Host, (pod, manifest): (&str, &str), containers: &[&'a str], options: &[&str]) -> Both<'a> {
        let script = host.path("pod.sh");
        let words: Vec<&str> = ["plan", manifest, "-o", "sh"].iter().chain(options).copied().collect();
        std::fs::write(&script, host.ok(&words)).unwrap();
        shellcheck(&script);
        let (pod, manifest) = (pod.to_owned(), manifest.to_owned());
        let options = options.iter().map(|&word| word.to_owned()).collect();
        Both { host, pod, manifest, containers: containers.to_vec(), script, options, trees: Vec::new() }
    }

    fn of(host: &'a Host, value: &Value, containers: &[&'a str]) -> Both<'a> {
        Both::new(host, value["metadata"]["name"].as_str().unwrap(), &host.manifest(value), containers)
    }

    fn directory(&self) -> PathBuf {
        self.host.path("hand")
    }

    fn group(&self) -> String {
        format!("{}/podshim-by-hand-pod", self.host.cgroup_parent)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = self.host.beside(&["bash", self.script.to_str().unwrap(), verb]);
        command.env("POD", self.directory()).env("CGROUP", self.group());
        command
    }

    fn bash(&self, verb: &str) -> Output {
        self.host.finish(self.command(verb))
    }

    fn pid(&self, container: &str) -> i32 {
        let path = self.directory().join("containers").join(container).join("pid");
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// Everything that is seen of the pod.
    fn seen(&self, pids: &[i32], group: &str, names: &Names) -> Value {
        let mut all = json!({ "namespaces": sharing(pids), "limits": limits(group) });
        for (container, pid) in self.containers.iter().zip(pids) {
            // The program is there, and waits: what its runtime changes as it begins is changed (Rust's ignores SIGPIPE).
            until("the program", || {
                let waits = of(*pid, "status").contains("\nState:\tS");
                (!of(*pid, "cmdline").contains("gate: ") && waits).then_some(())
            });
            all[*container] = look(*pid, names);
            for path in self.trees.iter().filter_map(|path| path.strip_prefix(&format!("{container}/"))) {
                all[*container][path] = tree(Path::new(&format!("/proc/{pid}/root/{path}")), 4);
            }
            all[*container]["cgroup limits"] = limits(&format!("{group}/{container}"));
        }
        all
    }

    fn by_podshim(&self) -> Value {
        let host = self.host;
        let words: Vec<&str> =
            ["run", "-d", &self.manifest].into_iter().chain(self.options.iter().map(String::as_str)).collect();
        host.run(&words).expect(0);
        let pids: Vec<i32> = self.containers.iter().map(|name| host.pid(&self.pod, name)).collect();
        let uid = host.uid(&self.pod);
        let data = host.path("root").join("pods").join(&uid);
        let group = format!("{}/podshim/pod{uid}", host.cgroup_parent);
        let names = Names { replaced: vec![(data.display().to_string(), "POD"), (format!("/{group}"), "GROUP")] };
        let seen = self.seen(&pids, &group, &names);
        host.ok(&["rm", "-f", &self.pod]);
        seen
    }

    fn by_hand(&self) -> Value {
        self.bash("up").expect(0);
        let pids: Vec<i32> = self.containers.iter().map(|name| self.pid(name)).collect();
        let names = Names {
            replaced: vec![(self.directory().display().to_string(), "POD"), (format!("/{}", self.group()), "GROUP")],
        };
        self.seen(&pids, &self.group(), &names)
    }

    /// Nothing of the script is left.
    #[track_caller]
    fn assert_gone(&self) {
        assert!(!self.directory().exists());
        let mut left = self.host.leaks();
        // The host's own network is the test's, and goes with it.
        left.retain(|line| !line.contains("/run/netns/"));
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    /// Makes both, compares them, and takes them down.
    #[track_caller]
    fn compare(&self) {
        let podshim = self.by_podshim();
        let by_hand = self.by_hand();
        let again = self.bash("up");
        self.bash("down").expect(0);
        let mut found = Vec::new();
        differences("", &podshim, &by_hand, &mut found);
        let is_known =
            |path: &str| DIFFERENT.iter().any(|(part, _)| path.ends_with(part) || path.contains(&format!("{part}/")));
        let unknown: Vec<String> = found
            .iter()
            .filter(|(path, _)| !is_known(path))
            .map(|(path, what)| format!("{path}:\n      {what}"))
            .collect();
        assert!(unknown.is_empty(), "{}", unknown.join("\n"));
        // That they differ in what they must shows that the two were looked at.
        assert!(found.iter().any(|(path, _)| path.ends_with("/mounts/ //super")), "{found:?}");
        again.expect(1).says(&["there already"]);
        self.assert_gone();
    }
}

#[track_caller]
fn shellcheck(script: &Path) {
    if !available(&["shellcheck"]) {
        return;
    }
    let output = Command::new("shellcheck").arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn two_containers_that_share_a_network() {
    let Some(host) = Host::new(NEEDS) else { return };
    let spec = json!({ "terminationGracePeriodSeconds": 0, "containers": [
        facts("web", &["sleep"]),
        with(shell("box", "while :; do sleep 1; done"), json!({ "stdin": true })),
        facts("sandbox", &["sleep"])] });
    Both::of(&host, &pod("plain", spec), &["web", "box", "sandbox"]).compare();
}

#[test]
fn the_elastic_stack_pod() {
    let Some(host) = Host::new(NEEDS) else { return };
    let text = std::fs::read_to_string(repository("pods/elastic-stack.yaml")).unwrap();
    let path = host.path("elastic-stack.yaml");
    std::fs::write(&path, text.replace("/var/log/webapp", &host.folder("webapp"))).unwrap();
    Both::new(&host, "elastic-stack/app", path.to_str().unwrap(), &["app", "sidecar"]).compare();
}

#[test]
fn a_hardened_container_with_limits_and_volumes() {
    let Some(host) = Host::new(NEEDS) else { return };
    let folder = host.folder("shared");
    let secured = json!({
        "runAsUser": 1000, "runAsGroup": 1234, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CHOWN"] },
    });
    let web = with(
        facts("web", &["sleep"]),
        json!({
            "securityContext": secured, "workingDir": "/work/deep",
            "env": [{ "name": "a.b", "value": "it's $HOME `id` \n\u{1b}é" }, { "name": "PWD", "value": "/nowhere" }],
            "resources": { "limits": { "memory": "64Mi", "cpu": "500m" } },
            "volumeMounts": [
                { "name": "scratch", "mountPath": "/work", "subPath": "a/b" },
                { "name": "memory", "mountPath": "/memory" },
                { "name": "downward", "mountPath": "/downward" },
                { "name": "host", "mountPath": "/host", "readOnly": true, "recursiveReadOnly": "Enabled" },
                { "name": "host", "mountPath": "/slave", "mountPropagation": "HostToContainer" }],
        }),
    );
    // Root, with some of what root may do.
    let root = with(
        shell("root", "while :; do sleep 1; done"),
        json!({ "securityContext": { "capabilities": { "drop": ["CHOWN"], "add": ["SYS_PTRACE"] } },
            "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }] }),
    );
    let spec = json!({
        "terminationGracePeriodSeconds": 0, "hostname": "hard", "containers": [web, root],
        "initContainers": [with(shell("first", "echo made > /scratch/file"),
            json!({ "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }] }))],
        "securityContext": { "supplementalGroups": [7], "fsGroup": 4321,
            "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "99" }] },
        "volumes": [
            { "name": "scratch", "emptyDir": {} },
            { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "host", "hostPath": { "path": folder, "type": "Directory" } },
            { "name": "downward", "downwardAPI": { "defaultMode": 0o440, "items": [
                { "path": "d/name", "fieldRef": { "fieldPath": "metadata.name" } },
                { "path": "labels", "mode": 0o400, "fieldRef": { "fieldPath": "metadata.labels" } }] } }],
    });
    let mut pod = pod("hard", spec);
    pod["metadata"]["labels"] = json!({ "app": "hard" });
    let mut both = Both::of(&host, &pod, &["web", "root"]);
    both.trees = vec!["web/downward", "root/scratch", "web/work"];
    both.compare();
}

#[test]
fn a_pod_on_the_bridge() {
    let Some(host) = Host::new(NEEDS) else { return };
    let network = host.own_network();
    let spec = json!({ "terminationGracePeriodSeconds": 0, "containers": [facts("web", &["listen", "80", "hello"])] });
    let manifest = host.manifest(&pod("bridged", spec));
    let families = ["--pod-cidr", "10.86.0.0/16,fd86::/64", "--service-cidr", "10.87.0.0/16,fd87::/112"];
    let both = Both::with(&host, ("bridged", &manifest), &["web"], &families);
    let forwarding = || {
        let text = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv6/conf/*/accept_ra";
        host.finish(host.beside(&["bash", "-c", text])).out
    };
    both.compare();
    let before = forwarding();
    assert_eq!(leaks::on_network(&network), Vec::<String>::new());
    // The host reaches it.
    both.bash("up").expect(0);
    let fetch = || {
        let text = "exec 3<>/dev/tcp/10.86.0.3/80 && cat <&3";
        Some(host.finish(host.beside(&["bash", "-c", text]))).filter(|o| o.code == 0).map(|o| o.out)
    };
    assert_eq!(until("an answer", fetch).trim(), "hello");
    both.bash("down").expect(0);
    assert_eq!(leaks::on_network(&network), Vec::<String>::new());
    assert_eq!(forwarding(), before);
}

#[test]
fn a_pod_in_a_network_namespace_that_is_there() {
    let Some(host) = Host::new(NEEDS) else { return };
    let path = format!("ns:/run/netns/{}", host.network("joined"));
    let manifest = host.manifest(&pod(
        "joined",
        json!({ "terminationGracePeriodSeconds": 0, "containers": [facts("web", &["sleep"])] }),
    ));
    Both::with(&host, ("joined", &manifest), &["web"], &["--network", &path]).compare();
}

#[test]
fn volumes_of_every_kind_and_an_image_of_two_layers() {
    let Some(host) = Host::new(NEEDS) else { return };
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o640);
    tar.append_data(&mut header, "opt/file", &b"hello"[..]).unwrap();
    let layout = host.changed_image(("localhost/facts", "localhost/two"), &json!({}), &[tar.into_inner().unwrap()]);
    host.ok(&["image", "import", &layout]);
    let mount = |name: &str| json!({ "name": name, "mountPath": format!("/{name}") });
    let mounts = ["config", "secret", "all", "one", "two", "claim", "made"].map(mount);
    let web = with(
        json!({ "name": "web", "image": "localhost/two", "args": ["sleep"], "imagePullPolicy": "Never" }),
        json!({ "volumeMounts": mounts, "securityContext": { "runAsUser": 33 } }),
    );
    let image = |name: &str, of: &str| json!({ "name": name, "image": { "reference": of, "pullPolicy": "Never" } });
    let spec = json!({
        "terminationGracePeriodSeconds": 0, "containers": [web], "securityContext": { "fsGroup": 55 },
        "volumes": [
            { "name": "config", "configMap": { "name": "config" } },
            { "name": "secret", "secret": { "secretName": "secret", "defaultMode": 0o400,
                "items": [{ "key": "word", "path": "deep/er/word" }] } },
            { "name": "all", "projected": { "sources": [{ "configMap": { "name": "config" } }] } },
            image("one", "localhost/facts"), image("two", "localhost/two"),
            { "name": "claim", "persistentVolumeClaim": { "claimName": "data" } },
            { "name": "made", "hostPath": { "path": host.path("made"), "type": "FileOrCreate" } }],
    });
    let text = "it's\t$(id)\n`x` \\ \"";
    let manifest = crate::harness::documents(
        &host,
        "all.json",
        &[
            object(
                "ConfigMap",
                "config",
                json!({ "data": { "text": text }, "binaryData": { "bytes": "AAECAwD//w==" } }),
            ),
            object("Secret", "secret", json!({ "stringData": { "word": "open sesame" } })),
            pod("volumes", spec),
        ],
    );
    let mut both = Both::new(&host, "volumes", &manifest, &["web"]);
    both.trees = vec!["web/config", "web/secret", "web/all", "web/one", "web/two", "web/opt"];
    both.compare();
}

#[test]
fn containers_that_share_their_processes() {
    let Some(host) = Host::new(NEEDS) else { return };
    let spec = json!({ "terminationGracePeriodSeconds": 0, "shareProcessNamespace": true, "containers": [
        facts("web", &["sleep"]), shell("box", "while :; do sleep 1; done")] });
    Both::of(&host, &pod("shared", spec), &["web", "box"]).compare();
}

#[test]
fn a_pod_with_the_hosts_namespaces() {
    let Some(host) = Host::new(NEEDS) else { return };
    let spec = json!({ "terminationGracePeriodSeconds": 0, "hostNetwork": true, "hostPID": true, "hostIPC": true,
        "containers": [facts("web", &["sleep"])] });
    Both::of(&host, &pod("hosts", spec), &["web"]).compare();
}

#[test]
fn a_privileged_container() {
    let Some(host) = Host::new(NEEDS) else { return };
    let container = with(facts("web", &["sleep"]), json!({ "securityContext": { "privileged": true } }));
    let spec = json!({ "terminationGracePeriodSeconds": 0, "containers": [container] });
    Both::of(&host, &pod("privileged", spec), &["web"]).compare();
}

#[test]
fn after_an_up_that_was_killed_down_leaves_nothing() {
    let Some(host) = Host::new(NEEDS) else { return };
    let spec = json!({ "terminationGracePeriodSeconds": 0,
        "initContainers": [facts("first", &["sleep"])], "containers": [facts("web", &["sleep"])] });
    let both = Both::of(&host, &pod("killed", spec), &["web"]);
    // In the middle of it: the init container does not end.
    let mut up = crate::harness::Live::start(both.command("up"));
    until("the init container", || {
        let text = std::fs::read_to_string(both.directory().join("containers/first/pid")).ok()?;
        std::fs::read_link(format!("/proc/{}/exe", text.trim())).ok()?.ends_with("facts").then_some(())
    });
    up.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(both.bash("down").expect(0).out, "");
    up.wait();
    both.assert_gone();
}

#[test]
fn an_up_may_be_killed_at_any_moment() {
    let Some(host) = Host::new(NEEDS) else { return };
    host.own_network();
    let spec = json!({ "terminationGracePeriodSeconds": 0, "shareProcessNamespace": true,
        "initContainers": [facts("first", &["sleep", "0"])], "containers": [facts("web", &["sleep"])],
        "volumes": [{ "name": "memory", "emptyDir": { "medium": "Memory" } }] });
    let both = Both::of(&host, &pod("killed", spec), &["web"]);
    // It is killed after so many of its commands, more each time, until it comes to its end.
    for count in (1..).map(|n| 1 + n * 131) {
        assert!(count < 4000, "an up that was not killed does not succeed");
        let text =
            format!("trap '(( ++count < {count} )) || kill -KILL $$' DEBUG; set -o functrace; set -- up; . \"$0\"");
        let mut command = host.beside(&["bash", "-c", &text, both.script.to_str().unwrap()]);
        command.env("POD", both.directory()).env("CGROUP", both.group());
        let killed = host.finish(command);
        both.bash("down").expect(0);
        both.assert_gone();
        if killed.code == 0 {
            assert!(count > 500, "only {count} commands");
            return;
        }
        assert_eq!(killed.code, 137, "{killed:?}");
    }
}

#[test]
fn an_up_that_fails_says_so_and_down_leaves_nothing() {
    let Some(host) = Host::new(NEEDS) else { return };
    let init = |code: &str| {
        let spec = json!({ "restartPolicy": "Never", "initContainers": [facts("first", &["exit", code])],
            "containers": [facts("web", &["sleep"])] });
        Both::of(&host, &pod("fails", spec), &["web"])
    };
    let both = init("7");
    both.bash("up").expect(1).says(&["first ended with 7", "up failed", "down"]);
    both.bash("down").expect(0);
    both.assert_gone();
    // Down again, of what is not there.
    both.bash("down").expect(0);
    let missing = json!({ "containers": [with(facts("web", &[]), json!({ "command": ["/nothing"] }))] });
    let both = Both::of(&host, &pod("missing", missing), &[]);
    both.bash("up").expect(0);
    let log = both.directory().join("log/web.log");
    until("the message", || std::fs::read_to_string(&log).ok().filter(|text| text.contains("/nothing: No such file")));
    both.bash("down").expect(0);
    both.assert_gone();
    assert_eq!(host.finish(both.command("sideways")).expect(2).err.lines().count(), 1);
}

#[test]
fn what_cannot_be_built_by_hand_is_refused_by_its_field() {
    let Some(host) = Host::new(NEEDS) else { return };
    let plan = |value: &Value, options: &[&str]| {
        let manifest = host.manifest(value);
        let words: Vec<&str> = ["plan", &manifest, "-o", "sh"].iter().chain(options).copied().collect();
        host.run(&words)
    };
    let of = |spec: Value| pod("refused", with(json!({ "containers": [facts("web", &["sleep"])] }), spec));
    plan(&of(json!({ "hostUsers": false })), &[]).expect(125).says(&["hostUsers: false", "2.39"]);
    let tty = json!({ "containers": [with(facts("web", &["sleep"]), json!({ "tty": true }))] });
    plan(&of(tty), &[]).expect(125).says(&["web: tty: true"]);
    plan(&of(json!({})), &["--network", "cni"]).expect(125).says(&["--network cni"]);
    let missing = json!({ "containers": [{ "name": "web", "image": "nobody/has-this", "command": ["x"] }] });
    plan(&of(missing), &[]).expect(125).says(&["podshim image pull nobody/has-this"]);
}

#[test]
fn an_images_links_do_not_lead_to_the_host() {
    let Some(host) = Host::new(NEEDS) else { return };
    let victim = host.folder("victim");
    let tar = {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "etc", &victim).unwrap();
        tar.append_link(&mut header, "dev", &victim).unwrap();
        tar.into_inner().unwrap()
    };
    let layout = host.changed_image(("localhost/facts", "localhost/links"), &json!({}), &[tar]);
    host.ok(&["image", "import", &layout]);
    let spec = json!({ "containers": [{ "name": "web", "image": "localhost/links", "args": ["sleep"] }] });
    let both = Both::of(&host, &pod("links", spec), &["web"]);
    both.bash("up").expect(1);
    let log = std::fs::read_to_string(both.directory().join("log/web.log")).unwrap();
    assert!(log.contains("symbolic link in the image"), "{log}");
    both.bash("down").expect(0);
    both.assert_gone();
    assert_eq!(std::fs::read_dir(victim).unwrap().count(), 0, "nothing was written to the host");
}
