//! Class E: what podshim prints of what others wrote.

use crate::harness::{FACTS, pod, shell, with};
use crate::rig::{BUSYBOX, Bench, assert_plain, of};
use serde_json::json;

const ESCAPE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m";

#[test]
fn e16_what_containers_and_images_say_does_not_reach_the_terminal_as_commands() {
    let Some(bench) = Bench::bare() else { return };
    bench.host.import(BUSYBOX, BUSYBOX, &json!({}));
    bench.image((FACTS, "localhost/odd"), &json!({ "Labels": { "a": ESCAPE }, "Env": [format!("A={ESCAPE}")] }), &[]);
    // A termination message, a log line, and the output of a probe.
    let script = "printf '\\033]0;owned\\007\\033[2J' > /dev/termination-log; printf '\\033[2Jlog\\n'; sleep 1; exit 3";
    let local = json!({ "image": BUSYBOX, "imagePullPolicy": "Never" });
    let ended = with(shell("ended", script), local.clone());
    let probe = json!({ "exec": { "command": ["sh", "-c", "printf '\\033[2Jprobe'; exit 1"] }, "periodSeconds": 1, "failureThreshold": 100 });
    let probed = with(with(shell("probed", "sleep 1000"), local), json!({ "livenessProbe": probe }));
    let odd = with(of("localhost/odd", &["sleep"]), json!({ "name": "odd" }));
    let mut value = pod(
        "odd",
        json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [ended, probed, odd], "volumes": [] }),
    );
    // JSON may hold what YAML may not.
    value["metadata"]["annotations"] = json!({ "note": ESCAPE.replace('\u{9b}', "") });
    value["metadata"]["labels"] = json!({ "fine": "yes" });
    bench.host.start(&value);
    bench.host.until_status(("odd", "ended"), "ended", |s| s["state"]["terminated"]["exitCode"] == 3);
    bench.host.until_event("odd", "Unhealthy", "probe");
    for args in [
        &["ps"][..],
        &["ps", "-o", "yaml"],
        &["ps", "-o", "json"],
        &["inspect", "odd"],
        &["inspect", "-o", "json", "odd"],
        &["events", "odd"],
        &["events", "odd", "-o", "json"],
        &["image", "ls"],
        &["wait", "--for=condition=Nonsense\u{1b}[2J", "--timeout", "1s", "odd"],
        &["logs", "odd", "\u{1b}[2J"],
        &["inspect", "\u{1b}[2J"],
        &["convert", "odd"],
        &["stats", "--no-stream"],
        &["top"],
        &["explain", "pod.\u{1b}[2J"],
        &["volume", "rm", "\u{1b}[2J"],
        &["check", "\u{1b}[2J.yaml"],
        &["apply", "\u{1b}[2J.yaml"],
        &["debug", "odd", "--image", "\u{1b}[2J"],
        &["attach", "odd", "-c", "\u{1b}[2J"],
        &["set-condition", "odd", "\u{1b}[2J=True"],
        &["exec", "-u", "\u{1b}[2J", "odd", "-c", "probed", "--", "x"],
        &["exec", "-w", "/\u{1b}[2J/../etc/passwd/x", "odd", "-c", "probed", "--", "x"],
        &["exec", "-e", "\u{1b}[2J", "odd", "-c", "probed", "--", "x"],
        &["exec", "odd", "-c", "\u{1b}[2J", "--", "x"],
        &["exec", "odd", "-c", "probed", "--", "/\u{1b}[2J"],
        &["run", "\u{1b}[2J.yaml"],
        &["image", "rm", "\u{1b}[2J"],
        &["image", "import", "\u{1b}[2J"],
        &["--root", "/\u{1b}[2J/x", "ps"],
        &["\u{1b}[2J"],
        &["rm", "\u{1b}[2J"],
    ] {
        assert_plain(&format!("{args:?}"), &bench.host.run(args));
    }
    // What a container logs is its own: whoever asks for it gets it byte by byte, as from kubectl.
    assert_eq!(bench.host.ok(&["logs", "odd", "-c", "ended"]), "\u{1b}[2Jlog\n");
    bench.host.ok(&["rm", "-f", "odd"]);
}

#[test]
fn e16_errors_about_files_of_an_image_are_plain() {
    let Some(bench) = Bench::bare() else { return };
    let name = format!("a{ESCAPE}");
    let odd = [crate::rig::link(&name, &name), crate::rig::file(&format!("{name}/x"), b"")];
    let output = bench.import((FACTS, "localhost/names"), &json!({}), &[crate::rig::tar_of(&odd)]);
    assert_eq!(output.code, 125, "{output:?}");
    assert_plain("import", &output);
    bench.image(
        (FACTS, "localhost/command"),
        &json!({ "Entrypoint": [format!("/{name}")], "User": format!("u{ESCAPE}") }),
        &[],
    );
    bench.refused("command", of("localhost/command", &[]), &["USER"]);
}
