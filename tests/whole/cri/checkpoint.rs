//! CheckpointContainer and CheckpointPod, with the criu of the host.

use super::super::harness::{Host, until};
use super::client::{Cri, Kubelet, container, log, sandbox};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, stat};
use nix::unistd::{Pid, mkfifo};
use podshim::cri::api;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;
use tonic::{Code, Status};

fn checkpoint(kubelet: &Kubelet, id: &str, to: &Path, timeout: i64) -> Result<(), Status> {
    let location = to.to_str().unwrap().to_owned();
    let request = api::CheckpointContainerRequest { container_id: id.to_owned(), location, timeout };
    kubelet.call(|mut c| async move { c.checkpoint_container(request).await }).map(drop)
}

/// The entries of an archive, by name.
fn entries(bytes: impl Read) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(bytes);
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        })
        .collect()
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn e7_a_checkpoint_is_of_one_moment_and_the_container_goes_on() {
    let Some(host) = Host::new(&["criu"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let script = "rm /etc/passwd; i=0; while :; do i=$((i+1)); echo $i > /count; echo $i; sleep 0.02; done";
    let mut wanted = container("c", script);
    wanted.mounts = vec![api::Mount {
        container_path: "/data".to_owned(),
        host_path: host.folder("data"),
        ..api::Mount::default()
    }];
    let made = cri.running((&id, &config), "other", "sleep 1000");
    cri.remove(&made).unwrap();
    let made = cri.create((&id, &config), &wanted).unwrap();
    cri.start_container(&made).unwrap();
    until("output", || (log(&host, "p", "c").len() > 3).then_some(()));
    let before = cri.status(&made).unwrap();

    let target = host.path("checkpoint.tar");
    checkpoint(&cri, &made, &target, 60).unwrap();
    assert_eq!(stat(&target).unwrap().st_mode & 0o7777, 0o600);
    let found = entries(std::fs::File::open(&target).unwrap());
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    for name in ["checkpoint/inventory.img", "checkpoint/pages-1.img", "dump.log", "stats-dump", "spec.dump"] {
        assert!(names.contains(&name), "{name} of {names:?}");
    }
    let dumped = json(&found["config.dump"]);
    assert_eq!((dumped["id"].as_str(), dumped["name"].as_str()), (Some(&*made), Some("c")), "{dumped}");
    assert!(dumped["checkpointedTime"].as_str() > dumped["createdTime"].as_str(), "{dumped}");
    let spec = json(&found["spec.dump"]);
    assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-name"], "p", "{spec}");
    assert_eq!(json(&found["status.dump"])["StartedAt"], before.started_at);
    assert_eq!(json(&found["deleted.files"]), serde_json::json!(["/etc/passwd"]));
    let changes = entries(&*found["rootfs-diff.tar"]);
    let count = String::from_utf8_lossy(&changes["count"]);
    // It may have been stopped between the opening of the file and the writing.
    assert!(count.is_empty() || count.trim().parse::<u32>().is_ok_and(|count| count > 3), "{count:?}");

    // It is the same one, and it counts on without a gap.
    let lines = log(&host, "p", "c").len();
    until("more output", || (log(&host, "p", "c").len() > lines + 3).then_some(()));
    let counted: Vec<u32> = log(&host, "p", "c").iter().map(|line| line.parse().unwrap()).collect();
    assert!(counted.iter().copied().eq(1..=counted.len().try_into().unwrap()), "{counted:?}");
    assert_eq!(cri.status(&made).unwrap(), before);
    let left = host.path("root/pods").join(&id).join("checkpoints");
    assert!(!left.exists(), "{left:?}");
    let again = checkpoint(&cri, &made, &target, 60).unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again}");
    checkpoint(&cri, &made, &host.path("second.tar"), 0).unwrap();
}

#[test]
fn e7_without_criu_checkpoints_are_unimplemented() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "[checkpoint]\ncriu_path = \"/no/such/criu\"\n");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let made = cri.running((&id, &config), "c", "sleep 1000");
    let error = checkpoint(&cri, &made, &host.path("c.tar"), 0).unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error}");
    assert!(error.message().contains("take criu") && error.message().contains("/no/such/criu"), "{error}");
    let error = pod(&cri, &id, &[&made], &host.folder("pod")).unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error}");
}

#[test]
fn e7_wrong_checkpoints_are_refused_and_leave_nothing() {
    let Some(host) = Host::new(&["criu"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let running = cri.running((&id, &config), "running", "sleep 1000");
    let created = cri.create((&id, &config), &container("created", "sleep 1000")).unwrap();
    let ended = cri.running((&id, &config), "ended", "true");
    cri.until_exited(&ended);
    let out = host.folder("out");
    let target = Path::new(&out).join("c.tar");
    for (id, to, timeout, code) in [
        ("none", target.clone(), 0, Code::NotFound),
        (&created, target.clone(), 0, Code::FailedPrecondition),
        (&ended, target.clone(), 0, Code::FailedPrecondition),
        (&running, target.clone(), -1, Code::InvalidArgument),
        (&running, "".into(), 0, Code::InvalidArgument),
        (&running, "c.tar".into(), 0, Code::InvalidArgument),
        (&running, format!("{out}/../c.tar").into(), 0, Code::InvalidArgument),
        (&running, format!("{out}/none/c.tar").into(), 0, Code::InvalidArgument),
        (&running, out.clone().into(), 0, Code::AlreadyExists),
    ] {
        let error = checkpoint(&cri, id, &to, timeout).unwrap_err();
        assert_eq!(error.code(), code, "{id} to {to:?} in {timeout} s: {error}");
    }
    let other = host.folder("other");
    std::fs::write(Path::new(&other).join("there"), "").unwrap();
    for (sandbox, containers, to, code) in [
        ("none", vec![&*running], &out, Code::NotFound),
        (&id, vec![], &out, Code::InvalidArgument),
        (&id, vec![&running, &running], &out, Code::InvalidArgument),
        (&id, vec![&running, "none"], &out, Code::InvalidArgument),
        (&id, vec![&running, &ended], &out, Code::FailedPrecondition),
        (&id, vec![&running], &other, Code::InvalidArgument),
        (&id, vec![&running], &format!("{out}/none"), Code::InvalidArgument),
    ] {
        let error = pod(&cri, sandbox, &containers, to).unwrap_err();
        assert_eq!(error.code(), code, "{containers:?} of {sandbox} to {to}: {error}");
    }
    let options = [("x".to_owned(), String::new())].into();
    let request = api::CheckpointPodRequest {
        pod_sandbox_id: id.clone(),
        output_path: out.clone(),
        container_ids: vec![running.clone()],
        options,
    };
    let error = cri.call(|mut c| async move { c.checkpoint_pod(request).await }).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);

    // What criu cannot dump it says, and the container goes on: a file without a name that is too large to go into the images.
    let script = "head -c 140000000 /dev/zero > /big; exec 3</big; rm /big; while :; do echo on; sleep 0.02; done";
    let odd = cri.running((&id, &config), "odd", script);
    until("output", || log(&host, "p", "odd").contains(&"on".to_owned()).then_some(()));
    for _ in 0..2 {
        let error = checkpoint(&cri, &odd, &target, 0).unwrap_err();
        assert_eq!(error.code(), Code::Internal, "{error}");
        let log_of_criu = "criu's log ends with";
        assert!(error.message().contains(log_of_criu) && error.message().contains("ghost file"), "{error}");
        let error = pod(&cri, &id, &[&running, &odd], &out).unwrap_err();
        assert!(error.message().contains("ghost file") && error.message().contains(&odd), "{error}");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
        let lines = log(&host, "p", "odd").len();
        until("more output", || (log(&host, "p", "odd").len() > lines + 3).then_some(()));
    }
    assert!(!host.path("root/pods").join(&id).join("checkpoints").exists());
    assert_eq!(cri.exec(&running, &["true"], 10).unwrap().exit_code, 0);
}

fn pod(kubelet: &Kubelet, sandbox: &str, containers: &[&str], to: &str) -> Result<(), Status> {
    let request = api::CheckpointPodRequest {
        pod_sandbox_id: sandbox.to_owned(),
        output_path: to.to_owned(),
        container_ids: containers.iter().map(|id| (*id).to_owned()).collect(),
        ..api::CheckpointPodRequest::default()
    };
    kubelet.call(|mut c| async move { c.checkpoint_pod(request).await }).map(drop)
}

#[test]
fn e7_the_containers_of_a_pod_are_captured_at_one_moment() {
    let Some(host) = Host::new(&["criu"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    // One counts, the other follows: what it has seen is never ahead, and hardly behind.
    let shared =
        api::Mount { container_path: "/shared".to_owned(), host_path: host.folder("shared"), ..api::Mount::default() };
    let start = |name: &str, script: &str| {
        let mut wanted = container(name, script);
        wanted.mounts = vec![shared.clone()];
        let made = cri.create((&id, &config), &wanted).unwrap();
        cri.start_container(&made).unwrap();
        made
    };
    let first = "mkfifo /shared/f; exec 3<>/shared/f; i=0; while :; do i=$((i+1)); echo $i >&3; echo $i > /seen; echo $i; sleep 0.01; done";
    let first = start("first", first);
    let second = "until [ -e /shared/f ]; do sleep 0.01; done; exec 3<>/shared/f; while read i <&3; do echo $i > /seen; echo $i; done";
    let second = start("second", second);
    until("output", || (log(&host, "p", "second").len() > 20).then_some(()));
    let out = host.folder("out");
    pod(&cri, &id, &[&first, &second], &out).unwrap();
    let record = json(&std::fs::read(Path::new(&out).join("pod.dump")).unwrap());
    assert_eq!((record["id"].as_str(), record["name"].as_str()), (Some(&*id), Some("p")), "{record}");
    let mut seen = Vec::new();
    for (at, (made, name)) in [(&first, "first"), (&second, "second")].into_iter().enumerate() {
        let archive = format!("{made}.tar");
        let listed = serde_json::json!({ "id": made, "name": name, "archive": archive });
        assert_eq!(record["containers"][at], listed);
        let found = entries(std::fs::File::open(Path::new(&out).join(archive)).unwrap());
        let changes = entries(&*found["rootfs-diff.tar"]);
        seen.push(String::from_utf8_lossy(&changes["seen"]).trim().parse::<i64>().ok());
    }
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3);
    if let [Some(first), Some(second)] = seen[..] {
        assert!((first - second).abs() <= 2, "{first} and {second}");
    }
    let lines = log(&host, "p", "second").len();
    until("more output", || (log(&host, "p", "second").len() > lines + 20).then_some(()));
}

#[test]
fn e7_checkpoints_of_all_kinds_of_containers() {
    let Some(host) = Host::new(&["criu"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let options = |config: &mut api::PodSandboxConfig, change: fn(&mut api::NamespaceOption)| {
        let linux = config.linux.as_mut().unwrap();
        let context = linux.security_context.get_or_insert_default();
        change(context.namespace_options.get_or_insert_default());
    };
    let server = "nc -l -p 7000 -e cat & sleep 0.2; (echo hello; while :; do sleep 1; done) | nc 127.0.0.1 7000 > /got & \
        until grep -q hello /got; do sleep 0.05; done; echo up; while :; do sleep 0.02; echo on; done";
    let plain = "echo up; while :; do sleep 0.02; echo on; done";
    type Change = fn(&mut api::NamespaceOption);
    let cases: [(&str, Change, &str); 5] = [
        ("plain", |_| {}, plain),
        ("tcp", |_| {}, server),
        ("node-network", |options| options.network = api::NamespaceMode::Node as i32, plain),
        ("own-pid-namespace", |options| options.pid = api::NamespaceMode::Container as i32, plain),
        (
            "node-pids-and-ipc",
            |options| (options.pid, options.ipc) = (api::NamespaceMode::Node as i32, api::NamespaceMode::Node as i32),
            plain,
        ),
    ];
    for (name, change, script) in cases {
        let mut config = sandbox(&host, name);
        options(&mut config, change);
        let id = cri.sandbox(&config);
        let mut wanted = container("c", script);
        let context = wanted.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.namespace_options = config.linux.clone().unwrap().security_context.unwrap().namespace_options;
        let made = cri.create((&id, &config), &wanted).unwrap();
        cri.start_container(&made).unwrap();
        until("output", || log(&host, name, "c").contains(&"up".to_owned()).then_some(()));
        checkpoint(&cri, &made, &host.path(&format!("{name}.tar")), 60)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines = log(&host, name, "c").len();
        until("more output", || (log(&host, name, "c").len() > lines + 3).then_some(()));
        cri.remove_sandbox(&id).unwrap();
    }
    // Ids of its own.
    let mut config = sandbox(&host, "ids");
    options(&mut config, |options| {
        let range = api::IdMapping { host_id: 1 << 20, container_id: 0, length: 65_536 };
        options.userns_options =
            Some(api::UserNamespace { mode: api::NamespaceMode::Pod as i32, uids: vec![range], gids: vec![range] });
    });
    let id = cri.sandbox(&config);
    let mut wanted = container("c", "echo up > /own; chown 7 /own; while :; do sleep 0.02; echo on; done");
    let context = wanted.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.namespace_options = config.linux.clone().unwrap().security_context.unwrap().namespace_options;
    let made = cri.create((&id, &config), &wanted).unwrap();
    cri.start_container(&made).unwrap();
    until("output", || (log(&host, "ids", "c").len() > 3).then_some(()));
    checkpoint(&cri, &made, &host.path("ids.tar"), 60).unwrap();
    let lines = log(&host, "ids", "c").len();
    until("more output", || (log(&host, "ids", "c").len() > lines + 3).then_some(()));
    let found = entries(std::fs::File::open(host.path("ids.tar")).unwrap());
    let mut changes = tar::Archive::new(&*found["rootfs-diff.tar"]);
    let own = changes.entries().unwrap().map(Result::unwrap).find(|entry| &*entry.path_bytes() == b"own").unwrap();
    assert_eq!((own.header().uid().unwrap(), own.header().gid().unwrap()), (7, 0));
    cri.remove_sandbox(&id).unwrap();
    // A terminal, and standard input that stays open.
    let config = sandbox(&host, "terminal");
    let id = cri.sandbox(&config);
    let mut wanted = container("c", "echo up; while :; do sleep 0.02; echo on; done");
    (wanted.tty, wanted.stdin) = (true, true);
    let made = cri.create((&id, &config), &wanted).unwrap();
    cri.start_container(&made).unwrap();
    until("output", || (log(&host, "terminal", "c").len() > 3).then_some(()));
    checkpoint(&cri, &made, &host.path("terminal.tar"), 60).unwrap();
    let lines = log(&host, "terminal", "c").len();
    until("more output", || (log(&host, "terminal", "c").len() > lines + 3).then_some(()));
    cri.remove_sandbox(&id).unwrap();
}

#[test]
fn e7_a_container_outlives_a_checkpoint_that_is_cut_off() {
    let Some(host) = Host::new(&["criu"]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    // Memory that takes a while.
    let script = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    let made = cri.running((&id, &config), "c", script);
    until("output", || (log(&host, "p", "c").len() > 3).then_some(()));
    let out = host.folder("out");
    let work = host.path("root/pods").join(&id).join("checkpoints");
    for round in 0..6 {
        let target = Path::new(&out).join(format!("{round}.tar"));
        let ask = || {
            let (socket, asked, target) = (cri.socket.clone(), made.clone(), target.clone());
            std::thread::spawn(move || checkpoint(&Kubelet::new(socket), &asked, &target, 60))
        };
        // At different moments: when it has begun, when criu writes its log, when there are images.
        let begun = match round % 3 {
            0 => work.clone(),
            1 => work.join(&made).join("dump.log"),
            _ => work.join(&made).join("images/pages-1.img"),
        };
        let asking = until("the checkpoint", || {
            let asking = ask();
            until("its beginning", || (begun.exists() || asking.is_finished()).then_some(()));
            if !asking.is_finished() {
                return Some(asking);
            }
            // It was over before anybody looked.
            asking.join().unwrap().unwrap();
            std::fs::remove_file(&target).unwrap();
            None
        });
        cri.kill();
        asking.join().unwrap().unwrap_err();
        cri.restart();
        let lines = log(&host, "p", "c").len();
        until("more output", || (log(&host, "p", "c").len() > lines + 3).then_some(()));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "round {round}");
    }
    // The client waits for a shorter time than it takes.
    let (socket, asked) = (cri.socket.clone(), made.clone());
    let location = format!("{out}/late.tar");
    let request = api::CheckpointContainerRequest { container_id: asked, location, timeout: 60 };
    let mut request = tonic::Request::new(request);
    request.set_timeout(std::time::Duration::from_millis(100));
    Kubelet::new(socket).call(|mut c| async move { c.checkpoint_container(request).await }).unwrap_err();
    until("the end of it", || (!work.exists()).then_some(()));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    let counted: Vec<u32> = log(&host, "p", "c").iter().map(|line| line.parse().unwrap()).collect();
    assert!(counted.iter().copied().eq(1..=counted.len().try_into().unwrap()), "{counted:?}");
    // Another one can be made, after all of that.
    until("a checkpoint", || checkpoint(&cri, &made, &Path::new(&out).join("last.tar"), 60).ok());
    // Nor does one hold up what is to end.
    let second = cri.running((&id, &config), "second", script);
    until("output", || (log(&host, "p", "second").len() > 3).then_some(()));
    for (end, made) in [("stop", &made), ("remove", &second)] {
        let (socket, asked, target) = (cri.socket.clone(), made.clone(), Path::new(&out).join(end));
        let asking = std::thread::spawn(move || checkpoint(&Kubelet::new(socket), &asked, &target, 60));
        until("the checkpoint", || work.join(made).join("dump.log").exists().then_some(()));
        match end {
            "stop" => {
                cri.stop(made, 0).unwrap();
                assert_eq!(cri.status(made).unwrap().exit_code, 137);
                asking.join().unwrap().unwrap_err();
            }
            _ => {
                until("removal", || cri.remove_sandbox(&id).ok());
                asking.join().unwrap().unwrap_err();
            }
        }
        assert!(!Path::new(&out).join(end).exists());
    }
}

/// Restores a container by criu alone: its image's layer, with what it has changed, and its sandbox's network, which is still there.
/// Its output goes to a FIFO. Returns its pid.
fn restore(host: &Host, sandbox: &str, archive: &BTreeMap<String, Vec<u8>>) -> i32 {
    let place = |name: &str| Path::new(&host.folder("restored")).join(name);
    for name in ["images", "upper", "work", "root", "shm"] {
        host.folder(&format!("restored/{name}"));
    }
    for (name, content) in archive {
        if let Some(name) = name.strip_prefix("checkpoint/").filter(|name| !name.is_empty()) {
            std::fs::write(place("images").join(name), content).unwrap();
        }
    }
    std::fs::write(place("changes.tar"), &archive["rootfs-diff.tar"]).unwrap();
    std::fs::write(place("file"), "").unwrap();
    mkfifo(&place("out"), Mode::from_bits_truncate(0o600)).unwrap();
    let layers = std::fs::read_dir(host.path("root/layers")).unwrap().flatten();
    let layer = layers.map(|layer| layer.path()).find(|layer| layer.join("bin/busybox").exists()).unwrap();

    let mut external: Vec<(String, String)> = Vec::new();
    // As OCI runtimes do first: an image need not have them.
    let mut points = String::new();
    let spec = json(&archive["spec.dump"]);
    for mount in spec["mounts"].as_array().unwrap() {
        let (to, kind) =
            (mount["destination"].as_str().unwrap().to_owned(), mount["type"].as_str().unwrap_or_default());
        let is_bind = mount["options"].as_array().is_some_and(|all| all.iter().any(|o| o == "rbind" || o == "bind"));
        if is_bind || kind == "bind" {
            let source = if to == "/dev/shm" { place("shm") } else { place("file") };
            if !to.starts_with("/dev/") {
                points +=
                    &format!("mkdir -p $(dirname {to}); touch {to}; ", to = place("root").join(&to[1..]).display());
            }
            external.push((to, source.display().to_string()));
        } else if matches!(&*to, "/proc" | "/dev" | "/sys") {
            points += &format!("mkdir -p {}; ", place("root").join(&to[1..]).display());
        } else if kind.starts_with("cgroup") {
            let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
            external.push((to.clone(), to));
            external.extend(hierarchies.map(|path| (path.display().to_string(), path.display().to_string())));
        }
    }
    let masked = spec["linux"]["maskedPaths"].as_array().unwrap().iter();
    external.extend(masked.map(|path| (path.as_str().unwrap().to_owned(), "/dev/null".to_owned())));
    let external: String = external.iter().map(|(name, path)| format!("--external 'mnt[{name}]:{path}' ")).collect();

    // The files by which its standard output is known: two FIFOs. Its standard input is its own /dev/null.
    let files = String::from_utf8_lossy(&archive["checkpoint/files.img"]).into_owned();
    let mut names: Vec<&str> =
        files.match_indices("file[").map(|(at, _)| files[at..].split_inclusive(']').next().unwrap()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 2, "{names:?}");
    let mut inherited =
        format!("--inherit-fd 'fd[60]:net' 60<{} ", host.path(&format!("state/pods/{sandbox}/ns/net")).display());
    for (number, name) in (61..).zip(names) {
        inherited += &format!("--inherit-fd 'fd[{number}]:{name}' {number}<>{} ", place("out").display());
    }
    let at = |name: &str| place(name).display().to_string();
    let script = format!(
        "set -e; mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} {root}; tar -C {root} -xf {}; rm -f {root}/etc/passwd
        {points}
        criu restore -D {} -W {} -o restore.log -v4 --root {root} --restore-detached --pidfile {} \\
            --tcp-established --file-locks --ext-unix-sk --manage-cgroups=ignore {external} {inherited}",
        layer.display(),
        at("upper"),
        at("work"),
        at("changes.tar"),
        at("images"),
        at(""),
        at("pid"),
        root = at("root"),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-c", &script]);
    let done = command.output().unwrap();
    let said = std::fs::read_to_string(place("restore.log")).unwrap_or_default();
    let errors: Vec<&str> = said.lines().filter(|line| line.contains("Error")).collect();
    assert!(done.status.success(), "{done:?}\n{}", errors.join("\n"));
    std::fs::read_to_string(place("pid")).unwrap().trim().parse().unwrap()
}

#[test]
fn e7_what_was_dumped_can_be_restored() {
    let Some(host) = Host::new(&["criu"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let mut config = sandbox(&host, "p");
    let own_pids =
        api::NamespaceOption { pid: api::NamespaceMode::Container as i32, ..api::NamespaceOption::default() };
    let context = config.linux.as_mut().unwrap().security_context.get_or_insert_default();
    context.namespace_options = Some(own_pids.clone());
    let id = cri.sandbox(&config);
    let script = "rm /etc/passwd; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";
    let mut wanted = container("c", script);
    let context = wanted.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.namespace_options = Some(own_pids);
    let made = cri.create((&id, &config), &wanted).unwrap();
    cri.start_container(&made).unwrap();
    until("output", || (log(&host, "p", "c").len() > 3).then_some(()));
    let target = host.path("checkpoint.tar");
    let before = log(&host, "p", "c").len();
    checkpoint(&cri, &made, &target, 60).unwrap();
    cri.stop(&made, 0).unwrap();
    let after = log(&host, "p", "c").len();

    let archive = entries(std::fs::File::open(&target).unwrap());
    let pid = restore(&host, &id, &archive);
    let end = Ended(pid);
    let out = std::fs::OpenOptions::new().read(true).write(true).open(host.path("restored/out")).unwrap();
    let lines = BufReader::new(out).lines().map(|line| line.unwrap().parse::<usize>().unwrap());
    let counted: Vec<usize> = lines.take(5).collect();
    assert!((before..=after + 1).contains(&counted[0]), "{counted:?} after {before} to {after}");
    assert!(counted.iter().copied().eq(counted[0]..counted[0] + 5), "{counted:?}");
    let (theirs, sandboxes) = (format!("/proc/{pid}/ns/net"), host.path(&format!("state/pods/{id}/ns/net")));
    assert_eq!(stat(theirs.as_str()).unwrap().st_ino, stat(&sandboxes).unwrap().st_ino, "the sandbox's network");
    drop(end);
}

/// A process that ends with the test.
struct Ended(i32);

impl Drop for Ended {
    fn drop(&mut self) {
        nix::sys::signal::kill(Pid::from_raw(self.0), Signal::SIGKILL).unwrap();
        let gone = || (!Path::new(&format!("/proc/{}/exe", self.0)).exists()).then_some(());
        until("end of the restored container", gone);
    }
}

#[test]
fn e7_a_handlers_container_is_dumped_like_any_other() {
    let Some(host) = Host::new(&["criu", "runc"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "[runtime_handlers.other]\npath = \"/usr/sbin/runc\"\n");
    let config = sandbox(&host, "p");
    let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: "other".to_owned() };
    let id = cri.call(|mut c| async move { c.run_pod_sandbox(request).await }).unwrap().pod_sandbox_id;
    let made = cri.running((&id, &config), "c", "echo up > /seen; while :; do sleep 0.02; echo on; done");
    until("output", || (log(&host, "p", "c").len() > 3).then_some(()));
    let target = host.path("checkpoint.tar");
    checkpoint(&cri, &made, &target, 60).unwrap();
    let found = entries(std::fs::File::open(&target).unwrap());
    assert_eq!(json(&found["config.dump"])["runtime"], "other");
    assert_eq!(entries(&*found["rootfs-diff.tar"])["seen"], b"up\n");
    let lines = log(&host, "p", "c").len();
    until("more output", || (log(&host, "p", "c").len() > lines + 3).then_some(()));
}
