//! Class A: what an image puts where a container is set up.

use crate::harness::{FACTS, Host, pod, shell, with};
use crate::rig::{BUSYBOX, Bench, Entry, SOON, entry, file, link, make_victim, of, once, snapshot};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

/// What a runtime would do that joins the paths of a root file system as strings, each on a canary of its own: the tests
/// below could not fail if this did no harm.
#[test]
fn joined_paths_would_have_changed_the_canary() {
    let dir = tempfile::tempdir().unwrap();
    type Harm = fn(&Path) -> std::io::Result<()>;
    let rows: [(&str, &str, &str, Harm); 7] = [
        ("A1 a node in /dev", "dev", "dev", |root| {
            std::fs::remove_file(root.join("dev/ptmx"))?;
            std::os::unix::fs::symlink("pts/ptmx", root.join("dev/ptmx"))
        }),
        ("A4 a write to /proc", "proc", "", |root| std::fs::write(root.join("proc/file"), "x")),
        ("A10 a mount point", "data", "", |root| std::fs::create_dir_all(root.join("data/newdir/deep"))),
        ("A11 one of podshim's files", "etc", "", |root| std::fs::write(root.join("etc/hosts"), "x")),
        ("A13 a termination message", "run", "", |root| std::fs::write(root.join("run/x"), "")),
        ("A14 a file of the runtime's own", "run", "", |root| std::fs::create_dir_all(root.join("run/podshim/x"))),
        ("C14 the content of a VOLUME", "data", "", |root| std::fs::write(root.join("data/file"), "copied up")),
    ];
    for (n, (name, at, below, harm)) in rows.iter().enumerate() {
        let (root, victim) = (dir.path().join(format!("root{n}")), dir.path().join(format!("victim{n}")));
        std::fs::create_dir(&root).unwrap();
        make_victim(&victim);
        std::os::unix::fs::symlink(victim.join(below), root.join(at)).unwrap();
        let before = snapshot(&victim);
        harm(&root).unwrap();
        assert_ne!(snapshot(&victim), before, "{name}");
    }
}

#[test]
fn a1_a4_the_kernels_own_directories_are_no_links() {
    let Some(bench) = Bench::bare() else { return };
    for at in ["dev", "proc", "sys"] {
        for (n, target) in [bench.victim() + "/dev", bench.up(), "usr".to_owned()].iter().enumerate() {
            let image = format!("localhost/link-{at}-{n}");
            bench.image((FACTS, &image), &json!({}), &[link(at, target)]);
            bench.refused(&format!("{at}-{n}"), of(&image, &["sleep"]), &[&format!("/{at}"), "symbolic link"]);
        }
        bench.image((FACTS, &format!("localhost/file-{at}")), &json!({}), &[file(at, b"x")]);
        let container = of(&format!("localhost/file-{at}"), &["sleep"]);
        bench.refused(&format!("{at}-file"), container, &[&format!("/{at}"), "not a directory"]);
    }
}

#[test]
fn a4_nothing_is_mounted_in_place_of_proc_and_sys() {
    let Some(bench) = Bench::bare() else { return };
    bench.image(
        (FACTS, "localhost/traps"),
        &json!({}),
        &[link("foo", "/proc"), link("bar", "proc/self"), link("baz", "/sys"), link("attr", "/proc/self/attr")],
    );
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    for (n, (path, words)) in [
        ("/proc", "/proc"),
        ("/proc/self", "/proc"),
        ("/proc/self/attr", "/proc"),
        ("/proc/sys/kernel", "/proc"),
        ("/x/../proc", "mountPath"),
        ("/foo", "procfs"),
        ("/foo/self/attr", "procfs"),
        ("/bar", "/bar"),
        ("/attr", "/attr"),
        ("/sys", "/sys"),
        ("/sys/kernel", "sysfs"),
        ("/baz", "sysfs"),
        ("/baz/firmware", "sysfs"),
    ]
    .iter()
    .enumerate()
    {
        let mounts = json!([{ "name": "v", "mountPath": path }]);
        let container = with(of("localhost/traps", &["sleep"]), json!({ "volumeMounts": mounts }));
        bench.refused_pod(&format!("m{n}"), json!({ "containers": [container], "volumes": volumes }), &[words]);
    }
    // A VOLUME of an image mounts nothing there either: the kernel's own is what is seen.
    let change = json!({ "Volumes": { "/proc": {}, "/sys": {}, "/dev": {} } });
    bench.image((FACTS, "localhost/volumes"), &change, &[]);
    let seen = bench.host.seen("vol", of("localhost/volumes", &["--file=/proc/version"]), json!({}));
    assert!(seen["files"]["/proc/version"].as_str().unwrap().starts_with("Linux"), "{seen}");
}

#[test]
fn a5_a_working_directory_is_inside() {
    let Some(bench) = Bench::bare() else { return };
    for n in (3..=11).chain([20, 40]) {
        let cwd = format!("/proc/self/fd/{n}");
        let container = with(of(FACTS, &["sleep"]), json!({ "workingDir": cwd }));
        if n == 3 {
            bench.host.import(FACTS, FACTS, &json!({}));
        }
        bench.refused(&format!("w{n}"), container, &[&cwd]);
    }
    for (n, cwd) in
        ["/proc/self/fd/7", "/proc/self/fd/7/../../..", "/proc/1/cwd", "/proc/self/root", "/cwd", "relative"]
            .iter()
            .enumerate()
    {
        let image = format!("localhost/cwd{n}");
        bench.image((FACTS, &image), &json!({ "WorkingDir": cwd }), &[link("cwd", "/proc/self/fd/8")]);
        bench.refused(&format!("i{n}"), of(&image, &["sleep"]), &[cwd]);
    }
    // One that goes up stops at the container's root.
    bench.image((FACTS, "localhost/up"), &json!({ "WorkingDir": "/x/../../../.." }), &[entry(b'5', "x").bytes()]);
    let seen = bench.host.seen("up", of("localhost/up", &["--list=."]), json!({}));
    assert_eq!(seen["cwd"], "/");
    assert!(!seen["lists"]["."]["facts"].is_null(), "{}", seen["lists"]);
}

#[test]
fn a10_mount_points_below_links_are_made_inside() {
    let Some(bench) = Bench::bare() else { return };
    let victim = bench.victim();
    bench.image(
        (FACTS, "localhost/links"),
        &json!({}),
        &[
            link("absolute", &victim),
            link("relative", &bench.up()),
            link("chain", "/absolute/link"),
            link("loop", "loop"),
        ],
    );
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    for (name, path) in
        [("absolute", "/absolute/newdir/deep"), ("relative", "/relative/newdir/deep"), ("chain", "/chain")]
    {
        let mounts = json!([{ "name": "v", "mountPath": path }]);
        let write =
            with(of("localhost/links", &["write", &format!("{path}/x"), "x"]), json!({ "volumeMounts": mounts }));
        bench.host.foreground(&once(name, json!([write]), volumes.clone())).expect(0);
        bench.assert_unharmed(name);
    }
    let mounts = json!([{ "name": "v", "mountPath": "/loop/x" }]);
    let container = with(of("localhost/links", &["sleep"]), json!({ "volumeMounts": mounts }));
    bench.refused_pod("loop", json!({ "containers": [container], "volumes": volumes }), &["/loop/x", "too many links"]);
}

/// Paths at which podshim mounts files of its own.
const OWN: [&str; 3] = ["hosts", "resolv.conf", "hostname"];

fn seen_hosts(bench: &Bench, name: &str, image: &str) {
    let seen = bench.host.seen(name, of(image, &["--file=/etc/hosts"]), json!({}));
    let hosts = seen["files"]["/etc/hosts"].as_str().unwrap_or_else(|| panic!("{name}: {}", seen["files"]));
    assert!(hosts.starts_with("# Kubernetes-managed hosts file."), "{name}: {hosts}");
    bench.assert_unharmed(name);
}

#[test]
fn a11_podshims_own_files_are_mounted_inside() {
    let Some(bench) = Bench::bare() else { return };
    let (victim, up) = (bench.victim(), bench.up());
    let names: Vec<String> = OWN.iter().map(|file| format!("etc/{file}")).collect();
    let links = |to: &dyn Fn(&str) -> String| -> Vec<Vec<u8>> {
        names.iter().zip(OWN).map(|(name, file)| link(name, &to(file))).collect()
    };
    let mtab = link("etc/mtab", "/proc/mounts");
    let rows = [
        ("absolute", links(&|file| format!("{victim}/{file}"))),
        ("relative", links(&|file| format!("../{up}/{file}"))),
        ("usual", links(&|file| format!("../run/systemd/resolve/{file}"))),
        ("whole", vec![link("etc", &victim)]),
        ("mtab", vec![mtab]),
    ];
    for (name, files) in rows {
        let image = format!("localhost/etc-{name}");
        bench.image((FACTS, &image), &json!({}), &files);
        seen_hosts(&bench, name, &image);
    }
}

#[test]
fn a12_podshims_own_files_are_mounted_over_files_only() {
    let Some(bench) = Bench::bare() else { return };
    let kinds = [("directory", b'5', (0, 0)), ("fifo", b'6', (0, 0)), ("zero", b'3', (1, 5))];
    for (name, kind, device) in kinds {
        let image = format!("localhost/{name}");
        let file = |n: &str| Entry { device, ..entry(kind, n) }.bytes();
        let files: Vec<Vec<u8>> = OWN.iter().map(|f| file(&format!("etc/{f}"))).collect();
        bench.image((FACTS, &image), &json!({}), &files);
        if kind == b'5' {
            bench.refused(name, of(&image, &["sleep"]), &["/etc/hosts", "directory"]);
            continue;
        }
        // Nothing is opened of what is covered, so there is nothing to wait for.
        let before = Instant::now();
        seen_hosts(&bench, name, &image);
        assert!(before.elapsed() < SOON, "{name}: {:?}", before.elapsed());
    }
}

#[test]
fn a13_a14_what_podshim_writes_for_a_container_stays_with_it() {
    let Some(bench) = Bench::bare() else { return };
    let victim = bench.victim();
    bench.image(
        (BUSYBOX, "localhost/runs"),
        &json!({}),
        &[
            link("run", &victim),
            link("var", &victim),
            link(".podshim", &format!("{victim}/file")),
            link(".krun_config.json", &format!("{victim}/file")),
        ],
    );
    for (n, path) in ["/run/x", "/var/deep/x", "/run/podshim/pods/x"].iter().enumerate() {
        let script = format!("echo -n words > {path}");
        let container = json!({ "name": "c", "image": "localhost/runs", "imagePullPolicy": "Never",
            "command": ["sh", "-c", script], "terminationMessagePath": path });
        let name = format!("t{n}");
        let run = once(&name, json!([container]), json!([]));
        bench.host.run(&["run", "--keep", &bench.host.manifest(&run)]).expect(0);
        assert_eq!(bench.host.status(&name, "c")["state"]["terminated"]["message"], "words", "{path}");
        bench.assert_unharmed(path);
    }
    // One that leads to itself leads nowhere.
    bench.host.ok(&["rm", "--all"]);
    bench.image((FACTS, "localhost/loops"), &json!({}), &[link("tmp", &bench.up())]);
    let loops = with(of("localhost/loops", &["sleep"]), json!({ "terminationMessagePath": "/tmp/file" }));
    bench.refused("loops", loops, &["/tmp/file", "too many links"]);
    // podshim makes nothing in a root file system: the mount points that this image lacks are in a layer below it.
    let host = Host::new(&[]).unwrap();
    host.start(&pod(
        "bare",
        json!({ "terminationGracePeriodSeconds": 1, "containers": [crate::harness::facts("c", &["sleep"])] }),
    ));
    let upper = host.path("root/pods").join(host.uid("bare")).join("containers/c/0/upper");
    let made: Vec<String> = std::fs::read_dir(&upper).unwrap().map(|entry| format!("{entry:?}")).collect();
    assert_eq!(made, Vec::<String>::new());
}

#[test]
fn a18_nothing_of_the_kernels_can_be_written() {
    let Some(bench) = Bench::new() else { return };
    // Opened for appending and closed: nothing is changed even where it is allowed.
    let script = "find /sys/fs/cgroup /proc/sys /proc/irq /proc/bus /proc/fs /sys/kernel /sys/module /proc/sysrq-trigger \
                  -type f 2>/dev/null | while read -r f; do (: >>\"$f\") 2>/dev/null && echo \"writable $f\"; \
                  n=$((n+1)); echo $n >/count; done; echo tried $(cat /count); echo proof; (: >>/etc/hosts) && echo writable";
    let output = bench.host.foreground(&once("w", json!([shell("c", script)]), json!([]))).expect(0);
    let writable: Vec<&str> = output.out.lines().filter(|l| l.contains("writable /")).collect();
    assert!(writable.is_empty(), "{writable:#?}");
    let tried = output.out.lines().find_map(|l| l.split_once("tried ")).unwrap().1.parse::<u32>().unwrap();
    assert!(tried > 300 && output.out.ends_with("c | writable\n"), "{tried}: {}", output.out);
    // Of the host's cgroups it sees none but its own.
    let script = "ls -R /sys/fs/cgroup | grep -c podshim; grep -v ':/$' /proc/self/cgroup; echo end";
    let output = bench.host.foreground(&once("g", json!([shell("c", script)]), json!([]))).expect(0);
    assert_eq!(output.out, "c | 0\nc | end\n");
}

#[test]
fn a19_what_tells_of_the_host_is_masked() {
    let Some(bench) = Bench::new() else { return };
    let files = ["/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"];
    let files: Vec<&str> = files.into_iter().chain(["/proc/timer_stats", "/proc/sched_debug"]).collect();
    let mut directories: Vec<String> =
        ["/proc/asound", "/proc/acpi", "/proc/scsi", "/sys/firmware"].map(str::to_owned).into();
    directories.push("/sys/devices/virtual/powercap".into());
    let cpus = std::fs::read_dir("/sys/devices/system/cpu").unwrap().flatten();
    directories.extend(cpus.map(|cpu| format!("{}/thermal_throttle", cpu.path().display())));
    let words: Vec<String> = files
        .iter()
        .flat_map(|f| [format!("--file={f}"), format!("--stat={f}")])
        .chain(directories.iter().map(|d| format!("--list={d}")))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let seen = bench.host.seen("m", crate::harness::facts("c", &words), json!({}));
    let mut masked = 0;
    for path in files.iter().filter(|path| Path::new(path).exists()) {
        assert_eq!(seen["files"][path], "", "{path}");
        assert_eq!(seen["stats"][path]["type"], "char", "{path}: {}", seen["stats"][path]);
        masked += 1;
    }
    for path in directories.iter().filter(|path| Path::new(path).exists()) {
        assert_eq!(seen["lists"][path], json!({}), "{path}");
        masked += 1;
    }
    assert!(masked >= 4, "{masked} of the paths are there to be masked");
    // The host has something to hide there, and what masks it is its own null device, not a file of the container's.
    assert!(!std::fs::read("/proc/interrupts").unwrap().is_empty());
    let mounts = seen["mounts"].as_array().unwrap();
    let mask = mounts.iter().find(|m: &&Value| m["target"] == "/proc/interrupts").unwrap();
    assert!(mask["root"].as_str().unwrap().ends_with("null"), "{mask}");
}

/// It is what a container has as its standard input, and what masks its files; its root is who owns the inode.
#[test]
fn the_hosts_null_is_not_changed_by_who_is_given_it() {
    let Some(bench) = Bench::new() else { return };
    let changed = || {
        let status = std::fs::metadata("/dev/null").unwrap();
        (status.ctime(), status.ctime_nsec(), status.mode(), status.uid())
    };
    let before = changed();
    // What it has already: were it the host's, only the time of its change would show.
    let tries = "for f in /dev/stdin /proc/self/fd/0 /proc/keys /proc/interrupts /proc/kcore; do chmod 666 $f; chown 0:0 $f; \
                 touch -d @0 $f; done 2>/errors; readlink /proc/self/fd/0; echo x >&0; echo tried";
    let hooked = "until [ -e /done ]; do sleep 0.02; done; cat /seen";
    let hook =
        json!({ "postStart": { "exec": { "command": ["sh", "-c", format!("({tries}) >/seen; touch /done")] } } });
    let at_dev = json!({ "volumeMounts": [{ "name": "d", "mountPath": "/dev" }] });
    let hook = json!({ "lifecycle": hook });
    for (name, script, more, null) in [
        ("own", tries, json!({}), "/dev/null"),
        ("hook", hooked, hook, "/dev/null"),
        // In a volume there is none, and it has the host's. One that was made there cannot be opened: no device can.
        ("none", tries, at_dev.clone(), "/"),
        ("made", tries, at_dev, "/"),
    ] {
        let volumes = json!([{ "name": "d", "emptyDir": {} }]);
        let container = with(shell("c", script), more);
        let mut pod = once(name, json!([container]), volumes);
        if name == "made" {
            let maker = json!({ "volumeMounts": [{ "name": "d", "mountPath": "/d" }] });
            pod["spec"]["initContainers"] = json!([with(shell("init", "mknod /d/null c 1 3"), maker)]);
        }
        let seen = bench.host.foreground(&pod).expect(0).out;
        let said: Vec<&str> = seen.lines().filter_map(|line| Some(line.split_once("| ")?.1)).collect();
        assert_eq!(said, [null, "tried"], "{name}");
        assert_eq!(changed(), before, "{name}");
    }
}
