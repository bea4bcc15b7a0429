//! Classes D and F: podshim's own directories, sockets and secrets.

use crate::harness::{Host, facts, pod, with};
use crate::rig::{Bench, SOON, assert_plain};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const NOBODY: u32 = 65534;

fn sleeper(name: &str) -> serde_json::Value {
    pod(name, json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] }))
}

fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), into);
        }
        into.push(entry.path());
    }
}

#[test]
fn d19_d20_nobody_else_reaches_state_data_and_sockets() {
    let Some(bench) = Bench::bare() else { return };
    let host = &bench.host;
    // Nothing above podshim's own directories protects them, and podshim makes them.
    std::fs::set_permissions(host.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_dir(host.path("root")).unwrap();
    host.import(crate::harness::FACTS, crate::harness::FACTS, &json!({}));
    host.start(&sleeper("own"));
    let socket = host.path("state/pods").join(host.uid("own")).join("control.sock");
    let mut inside = Vec::new();
    for directory in ["root", "state"] {
        walk(&host.path(directory), &mut inside);
        let mode = std::fs::metadata(host.path(directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077 & !0o011, 0, "{directory} has mode {mode:o}");
    }
    assert!(inside.len() > 20);
    let look = "for p; do if [ -r \"$p\" ] || [ -w \"$p\" ] || [ -x \"$p\" ]; then echo \"$p\"; fi; done; echo end";
    let mut test = Command::new("sh");
    let output = test.args(["-c", look, "sh"]).args(&inside).uid(NOBODY).gid(NOBODY).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "end\n", "reached by nobody");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut asks = host.command(&["exec", "own", "--", "/facts"]);
    asks.uid(NOBODY).gid(NOBODY);
    if let Ok(output) = asks.output() {
        assert!(!output.status.success(), "{output:?}");
    }
    // Log files are for root and its group.
    let mut logs = Vec::new();
    walk(&host.path("log"), &mut logs);
    for path in logs.iter().filter(|path| path.is_file()) {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{} has mode {mode:o}", path.display());
    }
    host.ok(&["rm", "-f", "own"]);
}

#[test]
fn d20_no_socket_is_in_a_network_namespace() {
    let Some(bench) = Bench::new() else { return };
    let spec =
        json!({ "hostNetwork": true, "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] });
    bench.host.start(&pod("net", spec));
    let seen = bench.host.report("net", "c", &["--file=/proc/net/unix"]);
    let table = seen["files"]["/proc/net/unix"].as_str().unwrap();
    let supervisor = bench.host.supervisor("net");
    assert!(table.contains("control.sock"), "the socket is there, by a path that the container does not have");
    let abstract_: Vec<&str> = table.lines().filter(|l| l.contains(" @")).filter(|l| l.contains("podshim")).collect();
    assert!(abstract_.is_empty(), "{abstract_:?}");
    let listed = seen["mounts"].to_string();
    assert!(!listed.contains("control.sock") && supervisor > 1, "{listed}");
    bench.host.ok(&["rm", "-f", "net"]);
}

#[test]
fn f5_a_registrys_password_is_nowhere() {
    let Some(bench) = Bench::bare() else { return };
    let host = &bench.host;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let secret = "correct-horse-battery";
    let encoded = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(format!("user:{secret}"))
    };
    std::fs::write(
        host.path("auth.json"),
        json!({ "auths": { address.to_string(): { "auth": encoded } } }).to_string(),
    )
    .unwrap();
    // A registry that says 401 to everything, until it is told to end.
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = std::sync::Arc::clone(&over);
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut asked = 0;
        for stream in listener.incoming() {
            let (Ok(mut stream), false) = (stream, told.load(std::sync::atomic::Ordering::Relaxed)) else { break };
            let mut buffer = [0; 8192];
            let n = stream.read(&mut buffer).unwrap_or(0);
            asked += u32::from(String::from_utf8_lossy(&buffer[..n]).to_lowercase().contains("authorization: basic"));
            let body = r#"{"errors":[{"code":"DENIED","message":"no"}]}"#;
            let head = "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\nConnection: close";
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
        asked
    });
    let mut command = host.command(&[
        "run",
        "-d",
        &host.manifest(&pod(
            "p",
            json!({ "containers": [
        { "name": "c", "image": format!("{address}/team/app:v1"), "imagePullPolicy": "Always" }] }),
        )),
    ]);
    command.env("REGISTRY_AUTH_FILE", host.path("auth.json"));
    let output = host.finish(command);
    assert_eq!(output.code, 125, "{output:?}");
    assert_plain("pull", &output);
    for text in [&output.out, &output.err] {
        assert!(!text.contains(secret) && !text.contains(&encoded), "{text}");
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let _ = std::net::TcpStream::connect(address);
    assert!(server.join().unwrap() > 0, "the password was never asked for: {output:?}");
    let mut files = Vec::new();
    for directory in ["root", "state", "log"] {
        walk(&host.path(directory), &mut files);
    }
    for path in files.iter().filter(|path| path.is_file()) {
        let bytes = std::fs::read(path).unwrap();
        let holds = |word: &str| bytes.windows(word.len()).any(|w| w == word.as_bytes());
        assert!(!holds(secret) && !holds(&encoded), "{}", path.display());
    }
}

#[test]
fn f6_state_that_is_torn_is_told_and_can_be_removed() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    // What is told of it: by every verb that names the pod, and by a list of all.
    for (file, text, words) in [
        ("record.json", "", "is damaged"),
        ("record.json", "{\"version\":", "is damaged"),
        ("record.json", "{\"version\": 4000000000}", "version 4000000000"),
        ("record.json", &deep, "is damaged"),
        ("record.json", "\u{0}\u{1b}[2J", "is damaged"),
        ("status.json", "{\"pha", ""),
        ("events.jsonl", "{\"torn\n\u{0}\u{1b}[2J\n{}\n", ""),
        ("pod.json", "[1, 2", ""),
    ] {
        host.start(&sleeper("torn"));
        host.start(&sleeper("whole"));
        let path = host.path("state/pods").join(host.uid("torn")).join(file);
        let container = host.pid("torn", "c");
        std::fs::write(&path, text).unwrap();
        let before = Instant::now();
        for args in [
            &["ps"][..],
            &["inspect", "torn"],
            &["events", "torn"],
            &["logs", "torn"],
            &["exec", "whole", "--", "/facts"],
        ] {
            let output = host.run(args);
            assert_plain(&format!("{file} {args:?}"), &output);
            if !words.is_empty() && args[0] != "exec" {
                assert!(
                    output.err.contains(words) && output.err.contains("podshim rm -f default/torn"),
                    "{args:?}: {output:?}"
                );
                assert_eq!(output.code, if args == ["ps"] { 0 } else { 125 }, "{args:?}: {output:?}");
            }
        }
        assert_eq!(host.ps("whole")[1], "Running", "{file}: another pod is not touched");
        host.run(&["rm", "-f", "torn"]).expect(0);
        assert!(before.elapsed() < SOON * 4, "{file}: {:?}", before.elapsed());
        assert!(
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(container), None).is_err(),
            "{file}: it is still there"
        );
        host.ok(&["rm", "-f", "whole"]);
        host.assert_clean();
    }
}

#[test]
fn c15_two_pods_cannot_have_one_anothers_state() {
    let Some(host) = Host::new(&[]) else { return };
    // A uid of the manifest's own choosing is not the pod's.
    let mut value = sleeper("uid");
    value["metadata"]["uid"] = json!("../../../../tmp/x");
    host.start(&value);
    let uid = host.uid("uid");
    assert!(uid.len() == 36 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'), "{uid}");
    host.start(&sleeper("labels"));
    assert_ne!(host.uid("labels"), uid);
}

/// podshim's own state and data are no volume, by whatever name; and where a directory above them is one, whoever is not the
/// host's root is not listened to.
#[test]
fn d23_p9_a_pod_has_no_part_in_podshims_own_state() {
    let Some(bench) = Bench::bare() else { return };
    let host = &bench.host;
    host.import(crate::harness::FACTS, crate::harness::FACTS, &json!({}));
    host.start(&sleeper("ruled"));
    let at = |name: &str| host.path(name).to_str().unwrap().to_owned();
    std::os::unix::fs::symlink(at("state"), at("alias")).unwrap();
    let of = |path: &str, kind: &str| {
        let volumes = json!([{ "name": "v", "hostPath": { "path": path, "type": kind } }]);
        let container = with(facts("c", &["sleep"]), json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }));
        json!({ "terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes })
    };
    let socket = format!("{}/pods/{}/control.sock", at("state"), host.uid("ruled"));
    for (path, kind) in [
        (at("state"), ""),
        (format!("{}/", at("state")), "Directory"),
        (at("alias"), "Directory"),
        (format!("{}/pods", at("alias")), ""),
        (socket.clone(), "Socket"),
        (at("root"), ""),
        (format!("{}/layers", at("root")), "Directory"),
        (format!("{}/new/deep", at("root")), "DirectoryOrCreate"),
        (format!("{}/new", at("alias")), "FileOrCreate"),
        (at("root/claims"), "DirectoryOrCreate"),
    ] {
        let output = bench.run(&["run", "-d", &host.manifest(&pod("in", of(&path, kind)))]);
        assert_eq!(output.code, 125, "{path}: {output:?}");
        output.says(&["volume v", "podshim's own"]);
    }
    assert!(!host.path("root/new").exists() && !host.path("state/new").exists());
    // With a user namespace of its own a pod's root owns these files, and is somebody else all the same.
    let mut above = of(&at(""), "Directory");
    above["hostUsers"] = json!(false);
    host.start(&pod("above", above));
    let inside = socket.replace(&at(""), "/v/");
    let ask = |text: &str| host.ok(&["exec", "above", "--", "/facts", "ask", &inside, text]);
    for request in [
        "{\"Stop\":{\"grace_seconds\":0}}",
        "{\"Exec\":{\"container\":\"c\",\"command\":[\"/facts\"],\"terminal\":{\"rows\":1,\"columns\":1}}}",
        "\"Watch\"",
        "{\"Root\":{\"container\":\"c\"}}",
    ] {
        let said = ask(request);
        assert!(said.starts_with("closed") || said.starts_with("error"), "{request}: {said}");
    }
    assert_eq!(host.ps("ruled")[1], "Running");
    host.ok(&["rm", "-f", "above"]);
    // The twin: the host's root is listened to, by the very same words.
    let mut above = of(&at(""), "Directory");
    above["hostUsers"] = json!(true);
    host.start(&pod("above", above));
    assert!(ask("\"Watch\"").starts_with("answer "), "{}", ask("\"Watch\""));
    host.ok(&["rm", "-f", "--all"]);
}
