//! NRI plugins that refuse what they are told (tests/cri/nriplugin, which takes `go`): whether something ends or is removed is not
//! theirs to say.

use super::super::harness::{Host, Live, until};
use super::client::{Cri, Kubelet, container, sandbox};
use super::faults::leave_files;
use super::kills::{host_pid, kill_supervisor};
use podshim::cri::api;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

/// The plugin's program, built once.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nriplugin-whole");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cri/nriplugin");
    let built = Command::new("go").arg("build").arg("-o").arg(&program).arg(".").current_dir(source).status().unwrap();
    assert!(built.success(), "go build");
    program
});

/// The server's configuration.
pub(super) fn with_nri(socket: &Path) -> String {
    format!("[nri]\nenabled = true\nsocket_path = {:?}\n", socket.display().to_string())
}

/// The plugin, which has been told what there is.
pub(super) fn plugin(script: &Value) -> Live {
    let mut command = Command::new(&*PROGRAM);
    command.arg(script.to_string());
    let plugin = Live::start(command);
    until("the plugin to be there", || plugin.out().contains("Synchronize").then_some(()));
    plugin
}

/// What it was told: the event, and the state of the container.
fn told(plugin: &Live) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = plugin.out();
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.map(|said| (text(&said["event"]), text(&said["state"]))).collect()
}

#[test]
fn e7_a_plugin_that_refuses_keeps_nothing_alive() {
    let Some(host) = Host::new(&["go"]) else { return };
    host.own_network();
    let socket = host.path("nri.sock");
    let cri = Cri::start(&host, &with_nri(&socket));
    let refused = [
        "PostCreateContainer",
        "PostStartContainer",
        "PostUpdateContainer",
        "StopContainer",
        "RemoveContainer",
        "StopPodSandbox",
        "RemovePodSandbox",
    ];
    let fail: serde_json::Map<String, Value> =
        refused.map(|event| (event.to_owned(), json!("never"))).into_iter().collect();
    let plugin = plugin(&json!({ "socket": socket, "index": "10", "name": "stubborn", "fail": fail }));
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let mut ids = Vec::new();
    for name in ["stopped", "removed", "stays"] {
        let made = cri.create((&id, &config), &container(name, "sleep 1000")).unwrap();
        cri.start_container(&made).unwrap();
        ids.push(made);
    }
    let linux = Some(api::LinuxContainerResources { cpu_shares: 100, ..api::LinuxContainerResources::default() });
    let request = api::UpdateContainerResourcesRequest { container_id: ids[0].clone(), linux, ..Default::default() };
    cri.call(|mut c| async move { c.update_container_resources(request).await }).unwrap();
    cri.stop(&ids[0], 0).unwrap();
    cri.remove(&ids[1]).unwrap();
    assert!(cri.status(&ids[1]).is_err());
    cri.stop_sandbox(&id).unwrap();
    assert_eq!(cri.sandbox_status(&id).unwrap().state, api::PodSandboxState::SandboxNotready as i32);
    cri.remove_sandbox(&id).unwrap();
    assert!(cri.sandboxes().is_empty() && cri.containers().is_empty());
    let last = |line: &str| line.contains("RemovePodSandbox") && line.contains("never");
    until("its last event, and the note of it", || {
        let is_told = told(&plugin).iter().any(|(event, _)| event == "RemovePodSandbox");
        (is_told && cri.server.err().lines().any(last)).then_some(())
    });
    let told = told(&plugin);
    let ends: Vec<&str> =
        told.iter().filter(|(event, _)| event == "StopContainer").map(|(_, state)| state.as_str()).collect();
    assert_eq!(ends, ["CONTAINER_STOPPED"; 3], "as they have ended: {told:?}");
    let notes = cri.server.err();
    for event in refused {
        assert!(told.iter().any(|(of, _)| of == event), "{event}: {told:?}");
        assert!(notes.lines().any(|line| line.contains(event) && line.contains("never")), "{event}: {notes}");
    }
}

/// The server has no descriptor left to look with when a container ends by itself.
#[test]
fn an_end_that_could_not_be_looked_at_is_told_later() {
    let Some(host) = Host::new(&["go"]) else { return };
    host.own_network();
    let socket = host.path("nri.sock");
    let cri = Cri::start(&host, &with_nri(&socket));
    // Others that are closed would leave descriptors.
    cri.keep_connection();
    let plugin = plugin(&json!({ "socket": socket, "index": "10", "name": "waits" }));
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let ends = cri.running((&id, &config), "ends", "while ! [ -e /end ]; do sleep 0.02; done");
    let pid = host_pid(&cri, &ends);
    leave_files(&cri, Some(0));
    std::fs::write(format!("/proc/{pid}/root/end"), "").unwrap();
    until("the end", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    // Time to look in vain, more than once.
    std::thread::sleep(Duration::from_secs(2));
    let is_told = || told(&plugin).iter().any(|(event, _)| event == "StopContainer");
    assert!(!is_told(), "without a descriptor: {:?}", told(&plugin));
    leave_files(&cri, None);
    until("the end to be told", || is_told().then_some(()));
    cri.remove_sandbox(&id).unwrap();
}

#[test]
fn a_plugin_is_not_asked_about_the_start_of_what_could_not_be_made() {
    let Some(host) = Host::new(&["go"]) else { return };
    host.own_network();
    let socket = host.path("nri.sock");
    let cri = Cri::start(&host, &with_nri(&socket));
    let plugin = plugin(&json!({ "socket": socket, "index": "10", "name": "asked" }));
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let mut wrong = container("c", "true");
    wrong.linux.get_or_insert_default().security_context.get_or_insert_default().run_as_username =
        "nobody-has-it".into();
    let error = cri.refused((&id, &config), &wrong);
    assert!(error.message().contains("unable to find user nobody-has-it"), "{error}");
    let made = cri.running((&id, &config), "d", "sleep 1000");
    until("the start of the other", || {
        told(&plugin).iter().any(|(event, _)| event == "PostStartContainer").then_some(())
    });
    let starts: Vec<_> = told(&plugin).into_iter().filter(|(event, _)| event == "StartContainer").collect();
    assert_eq!(starts.len(), 1, "{starts:?}");
    cri.remove(&made).unwrap();
}

#[test]
fn a_sandbox_that_no_plugin_has_agreed_to_does_not_outlive_the_server() {
    let Some(host) = Host::new(&["go"]) else { return };
    host.own_network();
    let socket = host.path("nri.sock");
    let mut cri = Cri::start(&host, &with_nri(&socket));
    let slow = plugin(&json!({ "socket": socket, "index": "10", "name": "slow", "delay": { "RunPodSandbox": 1500 } }));
    let kubelet = Kubelet::new(cri.socket.clone());
    let wanted = sandbox(&host, "p");
    let asking = std::thread::spawn(move || kubelet.run_sandbox(&wanted));
    until("the question", || slow.out().contains("RunPodSandbox").then_some(()));
    cri.kill();
    asking.join().unwrap().unwrap_err();
    cri.restart();
    assert!(cri.sandboxes().is_empty());
    let id = cri.sandbox(&sandbox(&host, "p"));
    assert_eq!(cri.sandboxes().len(), 1);
    cri.remove_sandbox(&id).unwrap();
}

#[test]
fn a_sandbox_that_is_refused_goes_also_if_its_supervisor_was_killed_meanwhile() {
    let Some(host) = Host::new(&["go"]) else { return };
    host.own_network();
    let socket = host.path("nri.sock");
    let cri = Cri::start(&host, &with_nri(&socket));
    let event = |what: Value| json!({ "RunPodSandbox": what });
    let (delay, fail) = (event(json!(1000)), event(json!("never")));
    let slow = plugin(&json!({ "socket": socket, "index": "10", "name": "slow", "delay": delay, "fail": fail }));
    let (kubelet, wanted) = (Kubelet::new(cri.socket.clone()), sandbox(&host, "p"));
    let asking = std::thread::spawn(move || kubelet.run_sandbox(&wanted));
    until("the question", || slow.out().contains("RunPodSandbox").then_some(()));
    let id = std::fs::read_dir(host.path("state/pods")).unwrap().flatten().next().unwrap().file_name();
    kill_supervisor(&host, id.to_str().unwrap());
    let error = asking.join().unwrap().unwrap_err();
    assert!(error.message().contains("never"), "{error}");
    assert!(cri.sandboxes().is_empty());
    assert_eq!(std::fs::read_dir(host.path("state/pods")).unwrap().count(), 0);
}

#[test]
fn a_plugin_is_not_told_of_a_sandbox_that_goes_with_the_server_that_asked() {
    let Some(host) = Host::new(&["go"]) else { return };
    host.own_network();
    let (socket, log) = (host.path("nri.sock"), host.path("said"));
    // It is started with the server, and is there before anybody else.
    let launched = std::path::PathBuf::from(host.folder("plugins")).join("10-launched");
    let script = format!("#!/bin/sh\nexec {} '{{}}' >>{}\n", PROGRAM.display(), log.display());
    std::fs::write(&launched, script).unwrap();
    std::fs::set_permissions(&launched, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!("{}plugin_path = {:?}\n", with_nri(&socket), host.folder("plugins"));
    let mut cri = Cri::start(&host, &config);
    let slow = plugin(&json!({ "socket": socket, "index": "20", "name": "slow", "delay": { "RunPodSandbox": 1500 } }));
    let (kubelet, wanted) = (Kubelet::new(cri.socket.clone()), sandbox(&host, "p"));
    let asking = std::thread::spawn(move || kubelet.run_sandbox(&wanted));
    until("the question", || slow.out().contains("RunPodSandbox").then_some(()));
    cri.kill();
    asking.join().unwrap().unwrap_err();
    std::fs::write(&log, "").unwrap();
    cri.restart();
    let said = until("it to be there", || {
        let said = std::fs::read_to_string(&log).unwrap();
        said.lines().find(|line| line.contains("Synchronize")).map(str::to_owned)
    });
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["ids"], json!([]), "nobody has agreed to it");
}
