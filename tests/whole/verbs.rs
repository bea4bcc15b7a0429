//! Each verb, as a user types it.

use crate::harness::{FACTS, Host, Live, binary, facts, pod, shell, until, with};
use crate::leaks;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn ps_and_inspect_show_a_pod_in_every_format() {
    let Some(host) = Host::new(&[]) else { return };
    assert_eq!(host.run(&["ps"]).expect(0).err, "No pods found.\n");
    host.start(&pod("shown", json!({ "containers": [facts("a", &["sleep"]), facts("b", &["sleep"])] })));
    let uid = host.uid("shown");
    let table = host.ok(&["ps"]);
    let words: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(words[1][..5], ["default", "shown", "2/2", "Running", "0"]);
    assert_eq!(words.len(), 2);
    let wide = host.ok(&["get", "-o", "wide"]);
    assert!(wide.lines().next().unwrap().ends_with("UID") && wide.lines().nth(1).unwrap().ends_with(&uid), "{wide}");
    assert_eq!(host.ok(&["ps", "-q"]), "default/shown\n");
    assert_eq!(host.ok(&["ps", "-o", "name"]), "default/shown\n");
    assert_eq!(host.ok(&["ps", "-n", "other", "-q"]), "");
    let json: Value = serde_json::from_str(&host.ok(&["ps", "-o", "json"])).unwrap();
    let yaml: Value = serde_saphyr::from_str(&host.ok(&["ps", "-o", "yaml"])).unwrap();
    assert_eq!(json, yaml);
    assert_eq!((json["kind"].as_str(), json["items"].as_array().map(Vec::len)), (Some("List"), Some(1)));
    let one: Value = serde_saphyr::from_str(&host.ok(&["inspect", "shown"])).unwrap();
    assert_eq!(one, json["items"][0]);
    assert_eq!((one["kind"].as_str(), one["apiVersion"].as_str()), (Some("Pod"), Some("v1")));
    assert_eq!(one["metadata"]["uid"], uid);
    assert_eq!(one["spec"]["restartPolicy"], "Always");
    assert_eq!(one["status"]["phase"], "Running");
    assert_eq!(one["status"]["containerStatuses"][1]["name"], "b");
    // What `inspect` prints of the manifest is a manifest.
    let again = with(one.clone(), json!({}));
    let mut copy = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "copy" }, "spec": again["spec"] });
    copy["spec"]["terminationGracePeriodSeconds"] = json!(1);
    // (Without the imagePullPolicy that nobody wrote: no registry is asked for an image that was imported.)
    host.ok(&["run", "-d", &host.manifest(&copy)]);
    let several: Value = serde_json::from_str(&host.ok(&["inspect", "-o", "json", "shown", "copy"])).unwrap();
    assert_eq!(several["items"][1]["metadata"]["name"], "copy");
}

#[test]
fn logs_select_what_is_asked_for() {
    let Some(host) = Host::new(&[]) else { return };
    let containers = json!([facts("ten", &["spam", "10", "20"]), shell("both", "echo out; echo err >&2")]);
    let spec = json!({ "restartPolicy": "Never", "containers": containers });
    host.run(&["run", "--keep", &host.manifest(&pod("l", spec))]).expect(0);
    let all = host.ok(&["logs", "l"]);
    assert_eq!(all.lines().count(), 10);
    assert_eq!(all.lines().next(), Some("00000001 xxxxxxxxxxx"));
    assert_eq!(host.ok(&["logs", "l", "--tail", "3"]), all.split_inclusive('\n').skip(7).collect::<String>());
    assert_eq!(host.ok(&["logs", "l", "--tail", "0"]), "");
    assert_eq!(host.ok(&["logs", "l", "--tail=-1"]), all);
    assert_eq!(host.ok(&["logs", "l", "--limit-bytes", "5"]), "00000");
    assert_eq!(host.ok(&["logs", "l", "--since", "1h"]), all);
    let stamped = host.ok(&["logs", "l", "--timestamps"]);
    let stamps: Vec<&str> = stamped.lines().map(|l| l.split_once(' ').unwrap().0).collect();
    assert!(stamps.windows(2).all(|w| w[0] <= w[1]) && stamps[0].contains('T'), "{stamped}");
    let since = host.ok(&["logs", "l", "--since-time", stamps[4]]);
    let from = stamps.iter().position(|s| *s >= stamps[4]).unwrap();
    assert_eq!(since, all.split_inclusive('\n').skip(from).collect::<String>());
    let mut both: Vec<String> = host.ok(&["logs", "l", "-c", "both"]).lines().map(str::to_owned).collect();
    both.sort();
    assert_eq!(both, ["err", "out"]);
    assert_eq!(host.ok(&["logs", "l", "both", "--prefix"]).lines().filter(|l| l.starts_with("both | ")).count(), 2);
    let every = host.ok(&["logs", "l", "--all-containers"]);
    assert_eq!((every.lines().count(), every.matches("ten  | ").count()), (12, 10), "{every}");
    // Following a pod that is over prints what there is, and ends.
    assert_eq!(host.ok(&["logs", "-f", "l"]), all);
    host.run(&["logs", "l", "-p"]).expect(125).says(&["previous", "ten"]);
    host.run(&["logs", "l", "-c", "x"]).expect(125).says(&["no container \"x\"", "ten, both"]);
}

#[test]
fn logs_follow_across_a_restart_and_know_the_instance_before() {
    let Some(host) = Host::new(&[]) else { return };
    let script = "echo instance $(cut -d. -f1 /proc/uptime) $(ls /n | wc -l); mktemp /n/XXXXXX >/dev/null; \
                  until [ -e /n/go$(ls /n | grep -vc go) ]; do sleep 0.1; done; echo last words; exit 1";
    let mount = json!({ "volumeMounts": [{ "name": "n", "mountPath": "/n" }] });
    let spec = json!({ "containers": [with(shell("c", script), mount)],
        "volumes": [{ "name": "n", "hostPath": { "path": host.folder("n") } }] });
    host.start(&pod("l", spec));
    let follow = host.live(&["logs", "-f", "l"]);
    follow.until_has("instance");
    std::fs::write(host.path("n/go1"), "").unwrap();
    let text = follow.until("the second instance", |out| out.matches("instance").count() == 2);
    assert!(text.contains("last words\ninstance"), "{text}");
    assert!(host.ok(&["logs", "-p", "l"]).ends_with("last words\n"));
    assert!(!host.ok(&["logs", "l"]).contains("last words"));
    let status = host.status("l", "c");
    assert_eq!(status["restartCount"], 1);
    host.ok(&["stop", "-t", "1", "l"]);
    let mut follow = follow;
    assert_eq!(follow.wait(), 0, "following ends with the pod");
}

#[test]
fn exec_passes_input_output_and_codes() {
    let Some(host) = Host::new(&[]) else { return };
    let containers = json!([facts("f", &["sleep"]), shell("s", "sleep 1000")]);
    host.start(&pod("e", json!({ "terminationGracePeriodSeconds": 1, "containers": containers })));
    host.run(&["exec", "e", "--", "/facts", "exit", "42"]).expect(42);
    let killed = host.run(&["exec", "-c", "s", "e", "--", "sh", "-c", "kill -9 $$"]).expect(137);
    assert_eq!(killed.err, "");
    let both = host.run(&["exec", "-c", "s", "e", "--", "sh", "-c", "echo out; echo err >&2"]).expect(0);
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out\n", "err\n"));
    // (name, container, command, exit code, words)
    let rows = [
        ("no such path", "f", "/nonexistent", 127, "exec: \"/nonexistent\": stat /nonexistent: no such file"),
        ("no such name", "f", "nonexistent", 127, "exec: \"nonexistent\": executable file not found in $PATH"),
        ("a file that is no program", "f", "/etc/passwd", 126, "exec: \"/etc/passwd\": permission denied"),
        ("a directory", "f", "/etc", 126, "exec: \"/etc\": permission denied"),
    ];
    for (name, container, command, code, words) in rows {
        let output = host.run(&["exec", "-c", container, "e", "--", command]);
        assert_eq!(output.code, code, "{name}: {output:?}");
        assert!(output.err.contains(words), "{name}: {output:?}");
    }
    let mut command = host.command(&["exec", "-i", "-c", "s", "e", "--", "sh", "-c", "wc -c; cat"]);
    command.stdin(Stdio::piped());
    let mut live = Live::start(command);
    let mut stdin = live.stdin();
    stdin.write_all(&vec![b'x'; 300_000]).unwrap();
    drop(stdin);
    assert_eq!(live.wait(), 0);
    assert_eq!(live.out(), "300000\n");
    // Without -i its input is empty.
    assert_eq!(host.ok(&["exec", "-c", "s", "e", "--", "wc", "-c"]), "0\n");
    // Large output arrives whole.
    assert_eq!(host.ok(&["exec", "e", "--", "/facts", "spam", "20000", "99"]).len(), 2_000_000);
    host.run(&["exec", "-c", "x", "e", "--", "/facts"]).expect(125).says(&["no container \"x\"", "f, s"]);
    host.run(&["exec", "e"]).expect(2);
    // What is executed is in the container: its cgroup, its pid namespace.
    let inside = host.report("e", "f", &[]);
    assert!(inside["pid"].as_i64().unwrap() > 1);
    assert_eq!(inside["fds"].as_array().unwrap().len(), 3, "{}", inside["fds"]);
}

#[test]
fn an_output_that_nobody_reads_holds_neither_the_other_nor_the_end_up() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod("o", json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("s", "sleep 1000")] })));
    let says = "head -c 500000 /dev/zero & echo first >&2; wait; echo last >&2; exit 5";
    let mut command = host.command(&["exec", "o", "--", "sh", "-c", says]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap()).lines();
    assert_eq!(err.next().unwrap().unwrap(), "first");
    let mut out = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert_eq!((out.len(), err.next().unwrap().unwrap().as_str()), (500_000, "last"));
    assert_eq!(child.wait().unwrap().code(), Some(5));
    // Who stops to read tells the writer so, and hears of the end.
    let mut command = host.command(&["exec", "o", "--", "sh", "-c", "yes; echo it ended with $? >&2; exit 6"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.is_empty()), (Some(6), false), "{ended:?}");
}

#[test]
fn exec_gives_a_terminal() {
    let Some(host) = Host::new(&["script"]) else { return };
    host.start(&pod("t", json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("s", "sleep 1000")] })));
    let inside = r#"tty; stty size; read word; echo got $word; trap 'echo interrupted; exit 9' INT; echo waiting; \
                    while :; do sleep 0.1; done"#;
    let program = host.command(&[] as &[&str]).get_program().to_str().unwrap().to_owned();
    let words =
        ["script", "-qfec", "stty rows 33 cols 77; exec \"$PROGRAM\" exec -it t -- sh -c \"$INSIDE\"", "/dev/null"];
    let mut command = host.command_by(&words, &[] as &[&str]);
    command.env("PROGRAM", program).env("INSIDE", inside).stdin(Stdio::piped());
    let mut live = Live::start(command);
    let mut stdin = live.stdin();
    live.until_has("33 77\r\n");
    assert!(live.out().contains("/dev/pts/"), "{}", live.out());
    stdin.write_all(b"word\n").unwrap();
    live.until_has("got word\r\n");
    live.until_has("waiting\r\n");
    stdin.write_all(b"\x03").unwrap();
    live.until_has("interrupted\r\n");
    assert_eq!(live.wait(), 9, "{}", live.out());
    // Without a terminal on this side, -it is refused in words.
    host.run(&["exec", "-it", "t", "--", "sh"]).expect(125).says(&["terminal"]);
}

/// podshim with these arguments at a terminal of 33 lines and 77 columns, at which a shell does `before` first. What
/// is written to its standard input is typed.
fn at_a_terminal(host: &Host, before: &str, args: &[&str]) -> Live {
    let words: Vec<String> = args.iter().map(|word| format!("'{word}'")).collect();
    let line = format!("stty rows 33 cols 77; {before} exec \"$PROGRAM\" {}", words.join(" "));
    let mut command = host.command_by(&["script", "-qfec", line.as_str(), "/dev/null"], &[] as &[&str]);
    command.env("PROGRAM", binary()).stdin(Stdio::piped());
    Live::start(command)
}

#[test]
fn exec_with_a_terminal_and_without_input_leaves_this_side_alone() {
    let Some(host) = Host::new(&["script"]) else { return };
    host.start(&pod("t", json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("s", "sleep 1000")] })));
    // What is there to be read is read by who comes next.
    let line = "echo mine | { \"$PROGRAM\" exec -t t -- sh -c 'stty size; sleep 0.2'; cat; }";
    let mut command = host.command_by(&["sh", "-c", line], &[] as &[&str]);
    command.env("PROGRAM", binary());
    assert_eq!(host.finish(command).expect(0).out, "24 80\r\nmine\n");
    // ^C is a signal on this side; there the terminal is hung up.
    let inside = "trap \"echo >/gone; exit\" HUP; stty size; while :; do sleep 0.1; done";
    let mut live = at_a_terminal(&host, "", &["exec", "-t", "t", "--", "sh", "-c", inside]);
    let mut stdin = live.stdin();
    live.until_has("33 77");
    stdin.write_all(b"\x03").unwrap();
    assert_eq!(live.wait(), 130, "{}", live.out());
    until("the hang-up", || (host.run(&["exec", "t", "--", "test", "-e", "/gone"]).code == 0).then_some(()));
}

#[test]
fn exec_with_a_terminal_ends_when_nobody_reads() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod("t", json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("s", "sleep 1000")] })));
    let mut command = host.command(&["exec", "-t", "t", "--", "yes"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), child.wait().unwrap().code()), ("y\r\n", Some(141)));
    until("the end of yes", || (host.run(&["exec", "t", "--", "pidof", "yes"]).code == 1).then_some(()));
}

#[test]
fn attach_passes_input_and_output() {
    let Some(host) = Host::new(&[]) else { return };
    let reader = with(shell("r", "echo up; while read x; do echo got $x; done; exit 6"), json!({ "stdin": true }));
    let screen = with(shell("screen", "sleep 1000"), json!({ "stdin": true, "tty": true }));
    let spec = json!({ "restartPolicy": "Never", "containers": [reader, shell("deaf", "sleep 1000"), screen],
        "terminationGracePeriodSeconds": 1 });
    host.start(&pod("a", spec));
    host.live(&["logs", "-f", "a"]).until_has("up");
    let attach = || {
        let mut command = host.command(&["attach", "-i", "a"]);
        command.stdin(Stdio::piped());
        Live::start(command)
    };
    let mut live = attach();
    let mut stdin = live.stdin();
    stdin.write_all(b"one\n").unwrap();
    live.until_has("got one\n");
    let second = host.live(&["attach", "a"]);
    // The second one hears as well once it is there: what it missed is in the log.
    until("both", || {
        stdin.write_all(b"two\n").unwrap();
        second.out().contains("got two\n").then_some(())
    });
    live.signal(Signal::SIGTERM);
    live.wait();
    // A client that goes away takes nothing with it.
    let mut third = attach();
    let mut stdin = third.stdin();
    stdin.write_all(b"three\n").unwrap();
    third.until_has("got three\n");
    host.run(&["attach", "-i", "-c", "deaf", "a"]).expect(125).says(&["stdin: true"]);
    host.run(&["attach", "-it", "-c", "screen", "a"]).expect(125).says(&["takes a terminal as standard input"]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(host.pid("a", "r")), Signal::SIGKILL).unwrap();
    assert_eq!(third.wait(), 137);
}

#[test]
fn attach_gives_a_containers_terminal_the_size_of_the_window() {
    let Some(host) = Host::new(&["script"]) else { return };
    let script = "stty -echo; trap 'echo now $(stty size)' WINCH; echo up; \
                  while [ \"$word\" != end ]; do read word && echo \"got $word\"; done; exit 5";
    let own = with(shell("own", script), json!({ "stdin": true, "tty": true }));
    let none = with(shell("none", "echo up; while read x; do echo got $x; done"), json!({ "stdin": true }));
    let spec = json!({ "restartPolicy": "Never", "containers": [own, none], "terminationGracePeriodSeconds": 1 });
    host.start(&pod("a", spec));
    for name in ["own", "none"] {
        host.live(&["logs", "-f", "a", "-c", name]).until_has("up");
    }
    let wider = host.path("wider");
    let before =
        format!("(until [ -e '{}' ]; do sleep 0.1; done; stty rows 44 cols 88 </dev/tty) &", wider.to_str().unwrap());
    let mut live = at_a_terminal(&host, &before, &["attach", "-it", "-c", "own", "a"]);
    let mut stdin = live.stdin();
    live.until_has("now 33 77\r\n");
    std::fs::write(wider, "").unwrap();
    live.until_has("now 44 88\r\n");
    stdin.write_all(b"end\n").unwrap();
    assert_eq!(live.wait(), 5, "{}", live.out());
    // One without a terminal gets lines, and this side's terminal stays one for lines.
    let mut live = at_a_terminal(&host, "", &["attach", "-it", "-c", "none", "a"]);
    let mut stdin = live.stdin();
    live.until_has("container none has no `tty: true`");
    stdin.write_all(b"one\n").unwrap();
    live.until_has("got one\r\n");
    stdin.write_all(b"\x03").unwrap();
    assert_eq!(live.wait(), 130, "{}", live.out());
}

#[test]
fn debug_gives_its_terminal_the_size_of_the_window() {
    let Some(host) = Host::new(&["script"]) else { return };
    host.start(&pod("d", json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] })));
    let script = "until [ \"$(stty size)\" = \"33 77\" ]; do sleep 0.1; done; exit 7";
    let args = ["debug", "d", "-it", "--image", "busybox:1.28", "-c", "look", "--", "sh", "-c", script];
    let mut live = at_a_terminal(&host, "", &args);
    let _stdin = live.stdin();
    assert_eq!(live.wait(), 7, "{}", live.out());
}

#[test]
fn wait_knows_conditions_phases_and_the_end() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "restartPolicy": "Never", "containers": [facts("c", &["trap-term", "5"])] });
    host.start(&pod("w", spec));
    for goal in
        ["condition=Ready", "condition=ContainersReady=True", "phase=Running", "jsonpath={.status.phase}=Running"]
    {
        assert_eq!(host.ok(&["wait", "--for", goal, "w"]), "default/w\n", "{goal}");
    }
    let before = Instant::now();
    host.run(&["wait", "--for", "phase=Succeeded", "--timeout", "1s", "w"])
        .expect(125)
        .says(&["timed out waiting for phase=Succeeded of pod default/w"]);
    assert!(before.elapsed() >= Duration::from_secs(1));
    host.run(&["wait", "--for", "nonsense", "w"]).expect(2).says(&["condition=TYPE"]);
    let mut over = host.live(&["wait", "w"]);
    let mut deleted = host.live(&["wait", "--for", "delete", "w"]);
    host.ok(&["stop", "w"]);
    assert_eq!((over.wait(), over.out().as_str()), (0, "5\n"));
    assert_eq!(host.ok(&["wait", "--for", "phase=Failed", "w"]), "default/w\n");
    assert_eq!(host.ok(&["ps", "-aq"]), "default/w\n");
    host.run(&["wait", "--for", "phase=Running", "w"])
        .expect(125)
        .says(&["is over (Failed): no phase=Running any more"]);
    host.ok(&["rm", "w"]);
    assert_eq!(deleted.wait(), 0);
    host.run(&["wait", "w"]).expect(125).says(&["not found"]);
}

#[test]
fn stop_is_graceful_and_then_it_is_not() {
    let Some(host) = Host::new(&[]) else { return };
    let containers = json!([facts("traps", &["trap-term", "0"]), facts("ignores", &["ignore-term"])]);
    let spec = json!({ "restartPolicy": "Never", "containers": containers, "terminationGracePeriodSeconds": 600 });
    host.start(&pod("s", spec));
    for name in ["traps", "ignores"] {
        host.live(&["logs", "-f", "s", "-c", name]).until_has("ready");
    }
    let before = Instant::now();
    let mut stop = host.live(&["stop", "-t", "3", "s"]);
    host.live(&["logs", "-f", "s", "-c", "traps"]).until_has("got TERM");
    // A second stop while the first one lasts is no error, and both end with the pod.
    host.ok(&["stop", "s"]);
    assert_eq!(stop.wait(), 0);
    let took = before.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(12)).contains(&took), "{took:?}");
    let ended = |name: &str| host.status("s", name)["state"]["terminated"].clone();
    assert_eq!((ended("traps")["exitCode"].as_i64(), ended("traps")["reason"].as_str()), (Some(0), Some("Completed")));
    assert_eq!(
        (ended("ignores")["exitCode"].as_i64(), ended("ignores")["reason"].as_str()),
        (Some(137), Some("Error"))
    );
    assert_eq!(host.ps("s")[1], "Error");
    host.ok(&["stop", "s"]);
    host.run(&["exec", "s", "--", "/facts"]).expect(125).says(&["not running"]);
    host.ok(&["rm", "s"]);
    assert_eq!(host.ok(&["ps", "-q"]), "");
    host.assert_clean();
}

#[test]
fn rm_stops_gracefully_and_with_force_at_once() {
    let Some(host) = Host::new(&[]) else { return };
    let folder = host.folder("mark");
    let script = "trap 'echo ended >/mark/ended; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let mount = json!({ "volumeMounts": [{ "name": "mark", "mountPath": "/mark" }] });
    let spec = json!({ "containers": [with(shell("c", script), mount)],
        "volumes": [{ "name": "mark", "hostPath": { "path": folder } }] });
    host.start(&pod("gentle", spec));
    host.live(&["logs", "-f", "gentle"]).until_has("up");
    assert_eq!(host.ok(&["rm", "gentle"]), "default/gentle\n");
    assert_eq!(std::fs::read_to_string(host.path("mark/ended")).unwrap(), "ended\n");
    host.assert_clean();
    host.start(&pod("hard", json!({ "containers": [facts("c", &["ignore-term"])] })));
    let before = Instant::now();
    host.ok(&["rm", "-f", "hard", "not-there"]);
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    host.run(&["rm", "hard"]).expect(125).says(&["not found"]);
    host.assert_clean();
}

#[test]
fn events_tell_what_happened() {
    let Some(host) = Host::new(&[]) else { return };
    let spec = json!({ "restartPolicy": "Never", "containers": [facts("c", &["trap-term", "0"])] });
    host.start(&pod("ev", spec));
    let mut watch = host.live(&["events", "-w", "ev"]);
    watch.until_has("Started");
    host.ok(&["stop", "ev"]);
    assert_eq!(watch.wait(), 0, "watching ends with the pod");
    assert!(watch.out().contains("Killing") && watch.out().contains("Stopping container c"), "{}", watch.out());
    let table = host.ok(&["events", "ev"]);
    assert!(table.starts_with("AGE") && table.contains("default/ev   container/c"), "{table}");
    let all: Value = serde_json::from_str(&host.ok(&["events", "-o", "json"])).unwrap();
    let reasons: Vec<&str> = all.as_array().unwrap().iter().filter_map(|e| e["reason"].as_str()).collect();
    let at = |reason: &str| reasons.iter().position(|r| *r == reason).unwrap_or_else(|| panic!("{reason}: {all}"));
    assert!(
        at("Pulled") < at("Created") && at("Created") < at("Started") && at("Started") < at("Killing"),
        "{reasons:?}"
    );
}

/// Each verb that meets a pod, quick forms of it; what it prints is the business of others.
const MEETING: &[&[&str]] = &[
    &["ps"],
    &["ps", "-q"],
    &["get"],
    &["get", "pods,services", "-o", "name"],
    &["get", "pod", "p", "-o", "json"],
    &["stats", "--no-stream", "-i", "10ms"],
    &["top", "pod", "p", "-i", "10ms"],
    &["logs", "p"],
    &["exec", "p", "--", "true"],
    &["debug", "p", "-i", "--image", "busybox", "--", "true"],
    &["attach", "p"],
    &["port-forward", "p", ":80"],
    &["inspect", "p"],
    &["inspect", "--tree"],
    &["inspect", "p", "--html", "-"],
    &["wait", "p", "--for", "phase=Running"],
    &["set-condition", "p", "example.com/gate=True"],
    &["events"],
    &["events", "p"],
    &["events", "-w"],
    &["explain", "default/p"],
    &["explain", "p", "p"],
    &["cni", "check", "p"],
    &["recover", "p"],
];

#[test]
fn every_verb_that_meets_a_pod_without_a_supervisor_recovers_it() {
    let Some(host) = Host::new(&[]) else { return };
    let folder = host.folder("mark");
    let script = "trap 'echo ended >/mark/ended; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let mount = json!({ "volumeMounts": [{ "name": "mark", "mountPath": "/mark" }] });
    let spec = json!({ "containers": [with(shell("c", script), mount)],
        "readinessGates": [{ "conditionType": "example.com/gate" }],
        "volumes": [{ "name": "mark", "hostPath": { "path": folder } }] });
    host.run(&["run", "-d", "--explain", &host.manifest(&pod("p", spec))]).expect(0);
    host.live(&["logs", "-f", "p"]).until_has("up");
    let state = host.state_of("p");
    let pid = host.pid("p", "c");
    const NOTE: &str = "note: the supervisor of pod default/p was gone: another one has taken over";
    for words in MEETING {
        host.kill_supervisor("p");
        let verb = words.join(" ");
        let mut met = host.live(words);
        match words[0] {
            "recover" => assert_eq!((met.wait(), met.out().as_str()), (0, "default/p\n")),
            // These go on for ever.
            "attach" | "port-forward" => until(&verb, || met.err().contains(NOTE).then_some(())),
            "events" if words[1..] == ["-w"] => {
                met.until_has("TakenOver");
                until(&verb, || met.err().contains(NOTE).then_some(()));
            }
            _ => assert_eq!(met.wait(), 0, "{verb}: {}", met.err()),
        }
        let notes = met.err().matches(NOTE).count();
        assert_eq!(notes, usize::from(words[0] != "recover"), "{verb}: {}", met.err());
        assert_eq!(leaks::supervisors(&state).len(), 1, "{verb}");
    }
    assert_eq!(host.pid("p", "c"), pid, "nothing happened to it");
    // These meet none: they read what is written.
    host.kill_supervisor("p");
    for words in [&["convert", "p"][..], &["info"], &["get", "services"], &["image", "ls"], &["volume", "ls"]] {
        let read = host.run(words).expect(0);
        assert!(!read.err.contains(NOTE) && leaks::supervisors(&state).is_empty(), "{words:?}: {}", read.err);
    }
    // Ended gracefully, by the supervisor that it got for that.
    host.run(&["delete", "pod", "p"]).expect(0).says(&[NOTE]);
    assert_eq!(std::fs::read_to_string(host.path("mark/ended")).unwrap(), "ended\n");
    host.assert_clean();
}

/// What several commands say on one standard error (a unit's journal, a terminal) is not mixed within a line.
#[test]
fn a_line_on_standard_error_is_one_write() {
    let Some(host) = Host::new(&[]) else { return };
    let said = |args: &[&str]| {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        host.command(args).stderr(std::os::fd::OwnedFd::from(theirs)).status().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        let writes = std::iter::from_fn(|| {
            ours.recv(&mut bytes).ok().map(|n| String::from_utf8_lossy(&bytes[..n]).into_owned())
        });
        writes.collect::<Vec<String>>()
    };
    for args in [&["logs", "none"][..], &["delete", "pod", "none"], &["image", "pull", "127.0.0.1:1/none"]] {
        let writes = said(args);
        assert!(!writes.is_empty() && writes.iter().all(|w| w.ends_with('\n')), "{args:?}: {writes:?}");
    }
}

#[test]
fn info_and_version() {
    let Some(host) = Host::new(&[]) else { return };
    let info: Value = serde_json::from_str(&host.ok(&["info", "-o", "json"])).unwrap();
    assert_eq!(info["root"], host.path("root").to_str().unwrap());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(info["host"]["kernel"], kernel.trim());
    assert_eq!(host.ok(&["version"]), concat!("podshim ", env!("CARGO_PKG_VERSION"), "\n"));
    let version: Value = serde_saphyr::from_str(&host.ok(&["version", "-o", "yaml"])).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn without_root_it_says_so_and_check_works() {
    let Some(host) = Host::new(&["setpriv"]) else { return };
    // Where the program lies, others than root need not get.
    let program = host.path("podshim");
    std::fs::copy(host.command(&[] as &[&str]).get_program(), &program).unwrap();
    let manifest = host.manifest(&pod("p", json!({ "containers": [{ "name": "c", "image": FACTS }] })));
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(host.path(""), open(0o755)).unwrap();
    std::fs::set_permissions(&program, open(0o755)).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(args);
        host.finish(command)
    };
    as_nobody(&["run", &manifest]).expect(125).says(&["root", "sudo"]);
    as_nobody(&["check", &manifest]).expect(0);
    as_nobody(&["version"]).expect(0);
}

#[test]
fn several_pods_of_one_file_run_and_fail_together() {
    let Some(host) = Host::new(&[]) else { return };
    let path = host.path("two.yaml");
    let document = |name: &str, args: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  restartPolicy: Never\n  containers:\n  \
             - name: c\n    image: {FACTS}\n    args: [{args}]\n"
        )
    };
    let file = path.to_str().unwrap();
    std::fs::write(&path, format!("{}---\n{}", document("one", "spam, '1', '8'"), document("two", "exit, '3'")))
        .unwrap();
    let output = host.run(&["run", file]).expect(3);
    assert!(output.out.contains("one/c | 00000001"), "{output:?}");
    // The second one cannot be started: the first one does not stay.
    let broken = document("two", "sleep").replace("args:", "command: [/nonexistent]\n    args:");
    std::fs::write(&path, format!("{}---\n{broken}", document("one", "sleep"))).unwrap();
    host.run(&["run", "-d", file]).expect(127).says(&["default/two", "/nonexistent"]);
    assert_eq!(host.ok(&["ps", "-q"]), "");
    host.assert_clean();
}

#[test]
fn the_foreground_shows_lines_as_they_come() {
    let Some(host) = Host::new(&[]) else { return };
    let containers =
        json!([shell("short", "echo out; echo err >&2; printf unfinished"), facts("long-name", &["spam", "3", "8"])]);
    let manifest = host.manifest(&pod("f", json!({ "restartPolicy": "Never", "containers": containers })));
    let output = host.run(&["run", "--timestamps", &manifest]).expect(0);
    let mut lines: Vec<(&str, &str)> = Vec::new();
    for line in output.out.lines() {
        let (name, rest) = line.split_once(" | ").unwrap_or_else(|| panic!("{line}"));
        let (stamp, text) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(stamp.len() > 20 && stamp.contains('T'), "{line}");
        lines.push((name, text));
    }
    lines.sort_unstable();
    let expected = [
        ("long-name", "00000001"),
        ("long-name", "00000002"),
        ("long-name", "00000003"),
        ("short    ", "err"),
        ("short    ", "out"),
        ("short    ", "unfinished"),
    ];
    assert_eq!(lines, expected);
    // Whoever reads the output may go away: the pod ends, gracefully.
    let endless = pod("endless", json!({ "containers": [shell("c", "trap 'exit 0' TERM; while :; do echo x; done")] }));
    let command = format!(
        "'{}' run '{}' | head -n 3",
        host.command(&[] as &[&str]).get_program().display(),
        host.manifest(&endless)
    );
    let output = host.finish(host.command_by(&["sh", "-c", &command], &[] as &[&str]));
    assert_eq!(output.out, "c | x\nc | x\nc | x\n");
    host.assert_clean();
    // Ctrl-C is seen however much there is to be shown.
    let mut run = host.live(&["run", &host.manifest(&endless)]);
    run.until("much", |out| out.len() > 1 << 20);
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(), 130);
    host.assert_clean();
}
