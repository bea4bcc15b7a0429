//! Images: pulls that nobody answers, damaged files, a disk that does not take what is written.

use crate::harness::{FACTS, Host, binary, facts, image_files, pod, until};
use crate::registry::{Blob, CONFIG, Debian, MANIFEST, Sample, damage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The image of facts, as a registry takes it.
fn facts_image() -> Sample {
    let layout = image_files().join("oci");
    let blob = |kind: &'static str, entry: &Value| {
        let digest = entry["digest"].as_str().unwrap().replace(':', "/");
        Blob::new(kind, std::fs::read(layout.join("blobs").join(digest)).unwrap())
    };
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let name = |entry: &&Value| {
        entry["annotations"]["org.opencontainers.image.ref.name"].as_str() == Some("localhost/facts:latest")
    };
    let entry = index["manifests"].as_array().unwrap().iter().find(name).expect("the image of facts");
    let manifest: Value = serde_json::from_slice(&blob(MANIFEST, entry).bytes).unwrap();
    let layer = |entry: &Value| blob(entry["mediaType"].as_str().unwrap().to_owned().leak(), entry);
    let layers = manifest["layers"].as_array().unwrap().iter().map(layer).collect();
    Sample::assemble(layers, Vec::new(), blob(CONFIG, &manifest["config"]))
}

/// The supervisor has not got them in its memory.
#[test]
fn a_record_keeps_the_contents_of_files_when_an_image_is_pulled_again() {
    let Some(host) = Host::new(&["docker-registry"]) else { return };
    let registry = Debian::plain(host.path("registry"));
    registry.push("team/facts", "v1", &facts_image());
    let mut container = facts("c", &["sleep"]);
    container["image"] = json!(format!("127.0.0.1:{}/team/facts:v1", registry.port));
    container["imagePullPolicy"] = json!("Always");
    container["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let map =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "file": "contents" } });
    let spec = json!({ "containers": [container], "volumes": [{ "name": "v", "configMap": { "name": "m" } }] });
    host.start(&json!({ "apiVersion": "v1", "kind": "List", "items": [map, pod("p", spec)] }));
    let path = host.state_of("p").join("record.json");
    let record = || -> Value { serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap() };
    let before = record();
    kill(Pid::from_raw(host.pid("p", "c")), Signal::SIGKILL).unwrap();
    until("the image to be pulled again", || host.ok(&["events", "p"]).contains("Successfully pulled").then_some(()));
    host.until_ps("p", "Running");
    assert_eq!(record(), before);
    host.ok(&["rm", "-f", "p"]);
    drop(registry);
    std::fs::remove_dir_all(host.path("registry")).unwrap();
    host.assert_clean();
}

/// Pods that run, and whose next pull waits for a registry that takes connections and says nothing: their container, and it.
fn before_a_silent_registry(host: &Host, names: &[&str]) -> (Value, TcpListener) {
    let registry = Debian::plain(host.path("registry"));
    let port = registry.port;
    registry.push("team/facts", "latest", &facts_image());
    let mut container = facts("c", &["sleep", "1000"]);
    container["image"] = json!(format!("127.0.0.1:{port}/team/facts:latest"));
    container["imagePullPolicy"] = json!("Always");
    for name in names {
        host.start(&pod(name, json!({ "containers": [container] })));
    }
    drop(registry);
    std::fs::remove_dir_all(host.path("registry")).unwrap();
    (container, TcpListener::bind(("127.0.0.1", port)).unwrap())
}

/// A pod's container ends, and its image is pulled for its next start.
fn begin_pull(host: &Host, name: &str) {
    kill(Pid::from_raw(host.pid(name, "c")), Signal::SIGKILL).unwrap();
    until("a pull", || host.ok(&["events", name]).contains("Pulling").then_some(()));
}

#[test]
fn a_pull_that_hangs_holds_up_no_pod_that_is_to_end_at_once() {
    let Some(host) = Host::new(&["docker-registry"]) else { return };
    let (_, silent) = before_a_silent_registry(&host, &["stopped", "removed"]);
    for (name, by) in [("stopped", &["stop", "-t", "0", "stopped"][..]), ("removed", &["rm", "-f", "removed"])] {
        begin_pull(&host, name);
        let began = Instant::now();
        let said = host.run(by).expect(0);
        assert!(began.elapsed() < Duration::from_secs(5) && !said.err.contains("did not end"), "{by:?}: {said:?}");
    }
    // Its supervisor had time to say how it ended.
    assert_eq!(host.ps("stopped")[0], "0/1");
    assert_eq!(host.events("stopped", "Failed"), Vec::<Value>::new(), "that its pull failed was wanted");
    host.ok(&["rm", "stopped"]);
    // Whoever opens the store next removes what the pulls had begun.
    host.ok(&["image", "prune"]);
    drop(silent);
    host.assert_clean();
}

#[test]
fn a_pull_that_hangs_holds_up_no_other_image_of_the_container() {
    let Some(host) = Host::new(&["docker-registry"]) else { return };
    let (mut container, silent) = before_a_silent_registry(&host, &["changed"]);
    begin_pull(&host, "changed");
    container["image"] = json!("busybox:1.28");
    container["imagePullPolicy"] = json!("IfNotPresent");
    let manifest = host.manifest(&pod("changed", json!({ "containers": [container] })));
    assert_eq!(host.ok(&["apply", &manifest]), "pod/changed configured\n");
    let is_running = |status: &Value| status["state"]["running"].is_object();
    let status = host.until_status(("changed", "c"), "running again", is_running);
    assert_eq!((&status["image"], &status["restartCount"]), (&json!("busybox:1.28"), &json!(1)));
    // Only busybox has this.
    host.ok(&["exec", "changed", "--", "true"]);
    for reason in ["Killing", "Failed"] {
        assert_eq!(host.events("changed", reason), Vec::<Value>::new(), "nothing of it ran, nor was to");
    }
    host.ok(&["rm", "-f", "changed"]);
    host.ok(&["image", "prune"]);
    drop(silent);
    host.assert_clean();
}

/// One bit of an image is another one: the others are what they were.
#[test]
fn a_damaged_image_is_in_no_other_ones_way() {
    let Some(host) = Host::bare(&[]) else { return };
    let import = |name: &str| host.import(FACTS, name, &json!({ "Labels": { "name": name } }));
    let of = |name: &str, image: &str| {
        let mut container = facts("c", &["sleep"]);
        container["image"] = json!(image);
        pod(name, json!({ "containers": [container] }))
    };
    import("localhost/damaged");
    import("localhost/whole");
    for part in ["Id", "ManifestDigest"] {
        let listed: Value = serde_json::from_str(&host.ok(&["image", "ls", "-o", "json"])).unwrap();
        let image = listed.as_array().unwrap().iter().find(|image| image["Repository"] == "localhost/damaged").unwrap();
        damage(&host.path("root/images"), image[part].as_str().unwrap());
        let warning = "podshim: warning: image localhost/damaged:latest cannot be used";
        let listed = host.run(&["image", "ls"]).expect(0).says(&[warning, "is damaged"]).out;
        assert!(listed.contains("localhost/whole") && !listed.contains("localhost/damaged"), "{part}: {listed}");
        host.start(&of("p", "localhost/whole"));
        let manifest = host.manifest(&of("q", "localhost/damaged"));
        host.run(&["run", "-d", &manifest]).expect(125).says(&["localhost/damaged:latest", "is damaged"]);
        import("localhost/damaged");
        host.ok(&["run", "-d", &manifest]);
        host.ok(&["rm", "-f", "--all"]);
    }
    host.assert_clean();
}

/// An image of which something cannot be written is not there, whenever the disk says so; what is only to be quicker may fail.
#[test]
fn an_image_that_does_not_reach_the_disk_is_not_there() {
    let Some(host) = Host::bare(&["strace"]) else { return };
    let (podshim, archive) = (binary(), image_files().join("busybox.oci.tar"));
    let import = |failing: &str| {
        let inject = format!("inject={failing}:error=EIO");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject, podshim.to_str().unwrap()];
        host.finish(host.command_by(&strace, &["image", "import", archive.to_str().unwrap()]))
    };
    import("syncfs").expect(125).says(&["syncfs", "I/O error"]);
    assert_eq!(host.ok(&["image", "ls", "-q"]), "");
    let left = |place: &str| std::fs::read_dir(host.path("root").join(place)).unwrap().count();
    assert_eq!(["tmp", "layers", "images/blobs/sha256"].map(left), [0; 3]);
    import("sync_file_range").expect(0);
    assert!(left("layers") > 0);
}

/// The power may go at any moment: what an image consists of is on the disk before it has its name, and names are before the index
/// that leads to them.
#[test]
fn an_image_is_on_the_disk_before_it_is_there() {
    let Some(host) = Host::bare(&["strace"]) else { return };
    let (trace, podshim, archive) = (host.path("trace"), binary(), image_files().join("busybox.oci.tar"));
    let calls = "trace=fsync,syncfs,rename,renameat2,linkat";
    let strace = ["strace", "-f", "-y", "-o", trace.to_str().unwrap(), "-e", calls, podshim.to_str().unwrap()];
    host.finish(host.command_by(&strace, &["image", "import", archive.to_str().unwrap()])).expect(0);
    let text = std::fs::read_to_string(&trace).unwrap();
    std::fs::remove_file(&trace).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.ends_with("= 0")).collect();
    let places = ["images", "layers"].map(|place| host.path("root").join(place));
    let published = |line: &str| {
        let target = PathBuf::from(line.contains("rename").then(|| line.rsplit('"').nth(1))??);
        places.iter().any(|place| target.starts_with(place)).then_some(target)
    };
    let is_index = |path: &Path| path.ends_with("index.json");
    let mut published_all = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(target) = published(line) else { continue };
        let (before, after) = lines.split_at(at);
        let is_fsync_of = |line: &str, path: &str| line.contains("fsync(") && line.contains(path);
        let name = target.file_name().unwrap().to_str().unwrap();
        let synced =
            before.iter().rposition(|line| line.contains("syncfs(") || is_fsync_of(line, &format!("/{name}>")));
        let synced = synced.unwrap_or_else(|| panic!("{line} of what?\n{text}"));
        assert!(!before[synced..].iter().any(|line| line.contains("linkat(")), "{line}: written since\n{text}");
        let named = format!("<{}>", target.parent().unwrap().display());
        let named = after.iter().position(|line| is_fsync_of(line, &named));
        let index = after[1..].iter().position(|line| published(line).is_some_and(|path| is_index(&path)));
        assert!(named.is_some_and(|at| index.is_none_or(|index| at <= index)), "{line}: its name is not there\n{text}");
        published_all.push(target);
    }
    assert!(published_all.len() > 4 && published_all.last().is_some_and(|last| is_index(last)), "{published_all:?}");
}
