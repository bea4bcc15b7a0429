//! The programs of the images, as processes: what they print, and that TERM ends them.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const FACTS: &str = env!("CARGO_BIN_EXE_facts");

fn start(program: &str, args: &[&str], env: &[(&str, &Path)]) -> Child {
    Command::new(program).args(args).envs(env.iter().copied()).stdout(Stdio::piped()).spawn().unwrap()
}

fn line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(status.success());
}

/// Waits for a condition, at most ten seconds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_the_simulator_writes_the_shipper_emits_once_across_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, shipped, said) = (dir.path().join("logs"), dir.path().join("shipped"), dir.path().join("said"));
    let log = logs.join("app.log");
    // The shipper first: it waits for the folder.
    let mut shipper = Command::new(env!("CARGO_BIN_EXE_filebeat"))
        .env("FILEBEAT_DIR", &logs)
        .env("FILEBEAT_SCAN_MS", "10")
        .stdout(fs::File::create(&shipped).unwrap())
        .spawn()
        .unwrap();
    let messages = || -> Vec<String> {
        let text = fs::read_to_string(&shipped).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let message = |l: &str| serde_json::from_str::<Value>(l).unwrap()["message"].as_str().unwrap().to_string();
        whole.lines().map(message).collect()
    };
    let mut simulator = Command::new(env!("CARGO_BIN_EXE_event-simulator"))
        .env("EVENT_LOG", &log)
        .env("EVENT_INTERVAL_MS", "1")
        .stdout(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    until("events are shipped", || messages().len() > 50);
    fs::rename(&log, logs.join("app.log.1")).unwrap();
    let at_rotation = messages().len();
    until("events after the rotation are shipped", || messages().len() > at_rotation + 50);
    signal(&simulator, "TERM");
    assert_eq!(simulator.wait().unwrap().code(), Some(0));
    let start = Instant::now();
    signal(&shipper, "TERM");
    assert_eq!(shipper.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5));
    let said = fs::read_to_string(&said).unwrap();
    assert_eq!(messages(), said.lines().collect::<Vec<_>>());
}

#[test]
fn facts_ends_as_it_is_told() {
    let code = |args: &[&str]| Command::new(FACTS).args(args).stdout(Stdio::null()).status().unwrap().code();
    for (name, args, expected) in [
        ("a code", vec!["exit", "7"], Some(7)),
        ("a sleep that ends", vec!["sleep", "0"], Some(0)),
        ("a file that does not come", vec!["wait-file", "/no/such", "--for", "0.05"], Some(1)),
        ("nobody listens", vec!["connect", "127.0.0.1", "1"], Some(1)),
        ("children", vec!["fork", "3"], Some(0)),
        ("a code that does not fit", vec!["exit", "256"], Some(1)),
    ] {
        assert_eq!(code(&args), expected, "{name}");
    }

    let mut trapped = start(FACTS, &["trap-term", "9"], &[]);
    assert_eq!(line(&mut trapped), "ready\n");
    signal(&trapped, "TERM");
    assert_eq!(trapped.wait().unwrap().code(), Some(9));

    let mut deaf = start(FACTS, &["ignore-term"], &[]);
    assert_eq!(line(&mut deaf), "ready\n");
    signal(&deaf, "TERM");
    thread::sleep(Duration::from_millis(50));
    assert!(deaf.try_wait().unwrap().is_none(), "TERM is ignored");
    deaf.kill().unwrap();
    deaf.wait().unwrap();
}

#[test]
fn facts_reports_arguments_and_environment_in_order() {
    let output = Command::new(FACTS)
        .args(["any", "--file=/proc/self/comm"])
        .env_clear()
        .envs([("B", "2"), ("A", "1")])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["args"][1], "any");
    assert_eq!(report["files"]["/proc/self/comm"], "facts\n");
    assert_eq!(report["env"].as_array().unwrap().len(), 2);
    assert!(report["fds"].as_array().unwrap().iter().any(|f| f["fd"] == 1));
}

#[test]
fn a_listener_answers_and_syscalls_are_told_apart() {
    let mut server = start(FACTS, &["listen", "0", "hello there", "--bind", "127.0.0.1"], &[]);
    let said = line(&mut server);
    let port = said.trim().rsplit(':').next().unwrap();
    let output = Command::new(FACTS).args(["connect", "127.0.0.1", port, "--for", "5"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello there\n");
    signal(&server, "TERM");
    assert_eq!(server.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    server.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("connection from 127.0.0.1:"), "{rest}");

    let output = Command::new(FACTS).arg("syscalls").output().unwrap();
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["getpid"]["name"], "OK");
    assert!(results.as_object().unwrap().len() > 40);
}

#[test]
fn facts_answers_http_as_a_file_says_and_notes_signals() {
    let dir = tempfile::tempdir().unwrap();
    let (log, answer) = (dir.path().join("log"), dir.path().join("answer"));
    let entries = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (log_path, answer_path) = (log.to_str().unwrap(), answer.to_str().unwrap());
    let mut server = start(FACTS, &["http", "0", "--log", log_path, "--answer", answer_path, "--after", "1"], &[]);
    let address = line(&mut server).trim().replace("listening on 0.0.0.0", "127.0.0.1");
    let ask = |target: &str| -> String {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        std::io::Write::write_all(&mut stream, format!("GET {target} HTTP/1.1\r\nX-A: b\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!([ask("/"), ask("/"), ask("/code/418")], ["503", "200", "418"]);
    fs::write(&answer, "500\n").unwrap();
    assert_eq!(ask("/x"), "500");
    assert_eq!(entries()[3]["headers"][0], serde_json::json!(["X-A", "b"]));
    signal(&server, "TERM");
    assert!(server.wait().unwrap().success());
    let mut trap = start(FACTS, &["trap", "9", "--signal", "USR1", "--log", log_path, "--as", "me"], &[]);
    assert!(line(&mut trap).contains("ready"));
    signal(&trap, "TERM");
    until("TERM is noted", || entries().iter().any(|e| e["what"] == "got TERM"));
    signal(&trap, "USR1");
    assert_eq!(trap.wait().unwrap().code(), Some(9));
    let said: Vec<_> = entries().iter().filter(|e| e["who"] == "me").map(|e| e["what"].clone()).collect();
    assert_eq!(said, ["ready", "got TERM", "got USR1", "ends"]);
}
