//! Classes A and D: names that are exchanged while podshim looks at them.
//!
//! One pod exchanges two names in a directory of the host again and again; others, which have that directory as a volume,
//! are started meanwhile. Each start either succeeds inside, or is refused by name; nothing happens to the canary.

use crate::harness::{Live, facts, pod, with};
use crate::rig::{Bench, assert_plain, once, rounds};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;

/// Starts a pod that exchanges `a` and `b` of a shared directory: the directory, and the pod's end.
fn flipper(bench: &Bench, a: &str, b: &str) -> Live {
    let directory = bench.host.folder("shared");
    let volumes = json!([{ "name": "v", "hostPath": { "path": directory } }]);
    let container = with(
        facts("c", &["flip", &format!("/v/{a}"), &format!("/v/{b}")]),
        json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }),
    );
    let live = bench.host.live(&["run", &bench.host.manifest(&once("flipper", json!([container]), volumes))]);
    live.until_has("ready");
    live
}

/// Runs a pod with the shared directory many times: how often it worked. A refusal must say one of the words.
#[track_caller]
fn race(bench: &Bench, container: &Value, words: &[&str]) -> u32 {
    let directory = bench.host.folder("shared");
    let volumes = json!([{ "name": "v", "hostPath": { "path": directory } }, { "name": "e", "emptyDir": {} }]);
    let manifest = bench.host.manifest(&once("raced", json!([container]), volumes));
    let mut worked = 0;
    for round in 0..rounds() {
        let output = bench.host.run(&["run", &manifest]);
        assert_plain("a race", &output);
        if output.code == 0 {
            worked += 1;
        } else {
            assert!(words.iter().any(|w| output.err.contains(w)), "round {round}: {output:?}");
        }
    }
    bench.assert_unharmed("after the race");
    worked
}

fn end(bench: &Bench, mut flipper: Live) {
    bench.host.ok(&["stop", "flipper"]);
    assert_eq!(flipper.wait(), 0, "{}", flipper.err());
    let out = flipper.out();
    let count = out.split_once("exchanged ").unwrap().1.split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(count > 1000, "names were exchanged {count} times only");
}

#[test]
fn a9_a_mount_point_in_a_volume_that_is_exchanged_for_a_link() {
    let Some(bench) = Bench::new() else { return };
    let shared = bench.host.folder("shared");
    std::fs::create_dir_all(format!("{shared}/dir/sub")).unwrap();
    // Inside a container it leads nowhere; for whoever resolves it on the host, to the canary.
    symlink(bench.victim(), format!("{shared}/link")).unwrap();
    let flipping = flipper(&bench, "dir", "link");
    let mounts = json!([{ "name": "v", "mountPath": "/v" }, { "name": "e", "mountPath": "/v/dir/sub/deep" }]);
    let container = with(facts("c", &["exit", "0"]), json!({ "volumeMounts": mounts }));
    let worked = race(&bench, &container, &["/v/dir"]);
    assert!(worked > 0, "no start ever worked");
    end(&bench, flipping);
}

#[test]
fn d2_a_sub_path_that_is_exchanged_for_a_link() {
    let Some(bench) = Bench::new() else { return };
    let shared = bench.host.folder("shared");
    std::fs::create_dir_all(format!("{shared}/dir/sub")).unwrap();
    std::fs::write(format!("{shared}/dir/sub/keep"), "of the volume").unwrap();
    symlink(bench.victim(), format!("{shared}/link")).unwrap();
    let flipping = flipper(&bench, "dir", "link");
    let mounts = json!([{ "name": "v", "mountPath": "/seen", "subPath": "dir/sub" }]);
    let container = with(facts("c", &["read", "/seen/keep"]), json!({ "volumeMounts": mounts }));
    let directory = bench.host.folder("shared");
    let volumes = json!([{ "name": "v", "hostPath": { "path": directory } }]);
    let manifest = bench.host.manifest(&once("raced", json!([container]), volumes));
    let (mut seen, mut refused) = (0, 0);
    for round in 0..rounds() {
        let output = bench.host.run(&["run", &manifest]);
        assert!(!output.out.contains("the host's own"), "round {round}: {output:?}");
        match output.code {
            0 => seen += u32::from(output.out.contains("of the volume")),
            _ => {
                assert!(output.err.contains("subPath"), "round {round}: {output:?}");
                refused += 1;
            }
        }
    }
    assert_eq!(seen + refused, rounds());
    end(&bench, flipping);
}

/// Nothing is mounted in a volume at /dev, and no terminal is opened in one that only looks like it.
#[test]
fn a3_a_terminal_that_a_volume_pretends_to_have() {
    let Some(bench) = Bench::new() else { return };
    let shared = bench.host.folder("shared");
    let pts = format!("{shared}/pts");
    let mounts = json!([{ "name": "v", "mountPath": "/dev" }]);
    let container = with(facts("c", &["exit", "0"]), json!({ "tty": true, "volumeMounts": mounts }));
    let volumes = json!([{ "name": "v", "hostPath": { "path": shared } }]);
    let refused = |name: &str| {
        bench.refused_pod(name, json!({ "containers": [container], "volumes": volumes }), &["dev/pts/ptmx"]);
    };
    refused("nothing");
    symlink("/proc/sys/kernel", &pts).unwrap();
    refused("link");
    std::fs::remove_file(&pts).unwrap();
    std::fs::create_dir(&pts).unwrap();
    let ptmx = format!("{pts}/ptmx");
    type Plant = fn(&str);
    let plants: [(&str, Plant); 4] = [
        ("file", |at| std::fs::write(at, "x").unwrap()),
        ("fifo", |at| nix::unistd::mkfifo(at, Mode::S_IRWXU).unwrap()),
        ("link", |at| symlink("/proc/sys/kernel/core_pattern", at).unwrap()),
        // The real one's number: it looks for a devpts beside itself.
        ("node", |at| mknod(at, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(5, 2)).unwrap()),
    ];
    for (name, plant) in plants {
        plant(&ptmx);
        refused(&format!("ptmx-{name}"));
        std::fs::remove_file(&ptmx).unwrap();
    }
}

#[test]
fn a3_the_console_is_a_terminal_of_the_containers_own() {
    let Some(bench) = Bench::new() else { return };
    let container = with(facts("c", &["--stat=/dev/console", "--list=/dev/pts"]), json!({ "tty": true }));
    let spec = json!({ "restartPolicy": "Never", "containers": [container] });
    let output = bench.host.foreground(&pod("console", spec)).expect(0);
    let seen: Value = serde_json::from_str(output.out.split_once("| ").unwrap().1.trim()).unwrap();
    assert_eq!(seen["stats"]["/dev/console"]["type"], "char", "{}", seen["stats"]);
    let mounts = seen["mounts"].as_array().unwrap();
    let console = mounts.iter().find(|m| m["target"] == "/dev/console").unwrap();
    assert_eq!((&console["fstype"], &console["root"]), (&json!("devpts"), &json!("/0")), "{console}");
    assert_eq!(seen["tty"], json!([true, true, true]));
}

#[test]
fn a2_a_mask_is_never_what_is_at_a_shared_dev() {
    let Some(bench) = Bench::new() else { return };
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    let mounts = json!([{ "name": "v", "mountPath": "/dev" }]);
    for (n, planted) in [
        "true",
        "ln -s /proc/sys/kernel/core_pattern /dev/null",
        "mknod /dev/null c 1 5",
        "mkdir /dev/null",
        "echo x > /dev/null",
        "ln -s /proc/sys/kernel/core_pattern /dev/urandom",
        "ln -s /proc/sys/kernel /dev/fd",
    ]
    .iter()
    .enumerate()
    {
        let init = with(crate::harness::shell("init", planted), json!({ "volumeMounts": mounts }));
        let masked = "cat /proc/timer_list /proc/keys; echo end";
        let main = with(crate::harness::shell("c", masked), json!({ "volumeMounts": mounts }));
        let spec =
            json!({ "restartPolicy": "Never", "initContainers": [init], "containers": [main], "volumes": volumes });
        let output = bench.host.foreground(&pod(&format!("dev{n}"), spec)).expect(0);
        assert_eq!(output.out, "c    | end\n", "{planted}: {output:?}");
        bench.assert_unharmed(planted);
    }
}
