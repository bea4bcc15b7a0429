//! `podshim cni`.

use crate::harness::{Host, facts, pod, repository, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[test]
fn cni_status_tells_of_the_configuration_and_its_plugins() {
    let Some(host) = Host::new(&[]) else { return };
    let (conf, bin) = (host.folder("net.d"), host.folder("bin"));
    let status = || host.run(&["cni", "status", "--cni-conf-dir", &conf, "--cni-bin-dir", &bin]);
    status().expect(125).says(&["there is no CNI network configuration", &conf]);
    let config = json!({ "cniVersion": "1.1.0", "name": "net", "plugins": [{ "type": "one" }] });
    std::fs::write(host.path("net.d/1.conflist"), config.to_string()).unwrap();
    status().expect(125).says(&["network net (", "CNI plugin \"one\" not found", &bin]);
    host.folder("bin/log");
    std::os::unix::fs::symlink(repository("data/cni-plugin.sh"), host.path("bin/one")).unwrap();
    assert_eq!(status().expect(0).out, "network net: ready\n");
    std::fs::write(host.path("bin/one.STATUS"), "echo '{\"code\":50,\"msg\":\"no daemon\"}'; exit 1").unwrap();
    status().expect(125).says(&["CNI plugin one (", "STATUS: no daemon (code 50: the plugin is not available)"]);
    // Pods without: nothing to check, nothing to collect.
    host.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        &host.manifest(&pod("none", json!({ "containers": [facts("c", &["sleep"])] }))),
    ]);
    assert_eq!(host.ok(&["cni", "check"]), "");
    assert_eq!(host.ok(&["cni", "check", "none"]), "default/none: on no network of CNI plugins\n");
    assert_eq!(host.ok(&["cni", "gc"]), "");
}

/// A network of one plugin, which gives the address 10.0.0.2: the folders of the network and of the plugin.
pub(crate) fn one_plugin(host: &Host) -> (String, String) {
    let (conf, bin) = (host.folder("net.d"), host.folder("bin"));
    host.folder("bin/log");
    let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "one" }] });
    std::fs::write(host.path("net.d/1.conflist"), list.to_string()).unwrap();
    std::os::unix::fs::symlink(repository("data/cni-plugin.sh"), host.path("bin/one")).unwrap();
    let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.2/24" }] });
    std::fs::write(host.path("bin/one.result"), result.to_string()).unwrap();
    (conf, bin)
}

#[test]
fn a_sandbox_that_is_not_put_on_its_network_again_is_not_used() {
    let Some(host) = Host::new(&[]) else { return };
    let network = host.own_network();
    let (conf, bin) = one_plugin(&host);
    let broken = host.path("bin/broken");
    let add = "[ ! -e \"$here/broken\" ] || { echo '{\"code\":11,\"msg\":\"none is left\"}'; exit 1; }\n";
    std::fs::write(host.path("bin/one.ADD"), add).unwrap();
    let spec = json!({ "shareProcessNamespace": true, "terminationGracePeriodSeconds": 1,
        "containers": [facts("c", &["sleep"])] });
    let manifest = host.manifest(&pod("lost", spec));
    host.ok(&["run", "-d", "--network", "cni", "--cni-conf-dir", &conf, "--cni-bin-dir", &bin, &manifest]);
    let asked = || {
        let calls = std::fs::read_dir(host.path("bin/log")).unwrap().flatten();
        calls.filter(|call| std::fs::read_to_string(call.path()).is_ok_and(|text| text == "ADD one\n")).count()
    };
    let lose = || kill(Pid::from_raw(host.pid("lost", "_pause")), Signal::SIGKILL).unwrap();
    host.until_condition("lost", "Ready", "True");
    assert_eq!(asked(), 1);
    std::fs::write(&broken, "").unwrap();
    lose();
    // The second time after 10 s: the one that is there already is not taken for one that is on its network.
    until("another try", || (asked() >= 3).then_some(()));
    host.until_event("lost", "FailedCreatePodSandBox", "none is left");
    assert_eq!(host.condition("lost", "Ready")["status"], "False");
    std::fs::remove_file(&broken).unwrap();
    host.until_condition("lost", "Ready", "True");
    assert_eq!(host.inspect("lost")["status"]["podIP"], "10.0.0.2");
    // Nothing of one that failed stays when the pod goes.
    std::fs::write(&broken, "").unwrap();
    let before = asked();
    lose();
    until("a try that fails", || (asked() > before).then_some(()));
    host.ok(&["rm", "-f", "lost"]);
    let left: Vec<String> = host.leaks().into_iter().filter(|line| !line.contains(&network)).collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// Its plugins cannot be told of a pod of which nobody knows what they did.
#[test]
fn what_was_noted_of_a_pods_plugins_is_damaged_and_no_pod_is_held_up() {
    let Some(host) = Host::new(&[]) else { return };
    let network = host.own_network();
    let (conf, bin) = one_plugin(&host);
    let run = |name: &str| {
        let manifest = host.manifest(&pod(name, json!({ "containers": [facts("c", &["sleep"])] })));
        host.ok(&["run", "-d", "--network", "cni", "--cni-conf-dir", &conf, "--cni-bin-dir", &bin, &manifest]);
    };
    run("torn");
    let noted = host.path("state/network/cni").join(format!("{}.json", host.uid("torn")));
    std::fs::write(&noted, "{").unwrap();
    run("other");
    host.run(&["cni", "check", "torn"]).expect(125);
    // Plugins would let go of what it has.
    host.run(&["cni", "gc"]).expect(125).says(&[noted.to_str().unwrap()]);
    host.ok(&["stop", "-t", "0", "torn"]);
    host.until_event("torn", "Network", "no CNI plugin could be asked");
    assert!(!noted.exists());
    host.ok(&["rm", "torn"]);
    host.ok(&["rm", "-f", "other"]);
    let left: Vec<String> = host.leaks().into_iter().filter(|line| !line.contains(&network)).collect();
    assert!(left.is_empty(), "{left:#?}");
}
