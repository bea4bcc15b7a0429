//! `podshim cni`.

use crate::harness::{Host, facts, pod, repository};
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
