//! CheckpointContainer, with the criu of the host.

use super::super::harness::{Host, until};
use super::client::{Cri, Kubelet, container, log, sandbox};
use nix::sys::stat::stat;
use podshim::cri::api;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
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
