//! The pods of the owner's documents (`tests/pods`), end to end: what a user would look at.

use crate::harness::{Host, Live, facts, pod, repository, until, with};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn manifest(name: &str) -> String {
    std::fs::read_to_string(repository("pods").join(name)).unwrap()
}

/// How often each line occurs.
fn counted<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    lines.for_each(|line| *counted.entry(line.to_owned()).or_default() += 1);
    counted
}

/// The `message`s that the sidecar emitted.
fn shipped(output: &str) -> Vec<String> {
    let events = output.lines().filter_map(|line| line.strip_prefix("sidecar | "));
    let message = |line: &str| serde_json::from_str::<Value>(line).ok()?["message"].as_str().map(str::to_owned);
    // The last line of output that is being written may be half there.
    events.filter_map(message).collect()
}

/// The elastic-stack pod with its volume in the test's folder, and events fast and numbered.
fn elastic_stack(host: &Host, events: u32) -> (String, String) {
    let folder = host.path("webapp").to_str().unwrap().to_owned();
    let environment = format!(
        "\n    env:\n    - {{name: EVENT_INTERVAL_MS, value: '5'}}\n    - {{name: EVENT_COUNT, value: '{events}'}}\n    \
         - {{name: EVENT_THEN, value: wait}}"
    );
    let image = "image: kodekloud/event-simulator";
    let text = manifest("elastic-stack.yaml").replace("/var/log/webapp", &folder);
    let text = text.replace(image, &format!("{image}{environment}"));
    let path = host.path("elastic-stack.yaml");
    std::fs::write(&path, text).unwrap();
    (path.to_str().unwrap().to_owned(), folder)
}

#[test]
fn elastic_stack_ships_each_event_once_and_ends_with_ctrl_c() {
    let Some(host) = Host::new(&[]) else { return };
    host.ok(&["check", repository("pods/elastic-stack.yaml").to_str().unwrap()]);
    let (path, folder) = elastic_stack(&host, 100);
    let mut run = host.live(&["run", &path]);
    // Rotation as logrotate does it: another name for the file, and an application that opens a new one.
    run.until("40 shipped events", |out| shipped(out).len() >= 40);
    std::fs::rename(format!("{folder}/app.log"), format!("{folder}/app-1.log")).unwrap();
    host.run(&["exec", "-c", "app", "elastic-stack/app", "--", "/bin/true"]).expect(0);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(host.pid("app", "app")), Signal::SIGKILL).unwrap();
    let written = || -> Vec<String> {
        let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
        format!("{}{}", read("app-1.log"), read("app.log")).lines().map(str::to_owned).collect()
    };
    until("the new file's last event", || {
        let text = std::fs::read_to_string(format!("{folder}/app.log")).unwrap_or_default();
        text.contains("event=000100\n").then_some(())
    });
    let all = written();
    assert!(all.len() >= 140, "{}", all.len());
    run.until("all shipped events", |out| shipped(out).len() >= all.len());
    let status = host.inspect("elastic-stack/app");
    assert_eq!(status["status"]["phase"], "Running");
    assert_eq!(host.status("app", "sidecar")["restartCount"], 0);
    let before = Instant::now();
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(), 130, "{}", run.err());
    assert!(before.elapsed() < Duration::from_secs(15), "{:?}", before.elapsed());
    let output = run.out();
    assert_eq!(counted(shipped(&output).iter().map(String::as_str)), counted(all.iter().map(String::as_str)));
    // What the application printed is on the screen too, under its own name; nothing is without a name.
    let printed = output.lines().filter_map(|l| l.strip_prefix("app     | "));
    let (printed, all) = (counted(printed), counted(all.iter().map(String::as_str)));
    // The line that was being written when the application was killed may be in the file only.
    assert!(all.len() - printed.len() <= 1 && printed.keys().all(|l| all.contains_key(l)));
    assert!(output.lines().all(|l| l.starts_with("app     | ") || l.starts_with("sidecar | ")), "{output}");
    assert!(Path::new(&folder).is_dir(), "DirectoryOrCreate made it, and what it holds is the user's");
    host.assert_clean();
}

/// A pod that answers the names of `records`, a file of the test's, in a network namespace.
fn name_server(host: &Host, network: &str) {
    let folder = host.folder("dns");
    std::fs::write(format!("{folder}/records"), "").unwrap();
    std::fs::write(host.path("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    let server = facts("server", &["dns", "--records", "/dns/records", "--bind", "127.0.0.1:53"]);
    let server = with(server, json!({ "volumeMounts": [{ "name": "dns", "mountPath": "/dns" }] }));
    let volumes = json!([{ "name": "dns", "hostPath": { "path": folder } }]);
    let path = host.manifest(&pod("dns", json!({ "containers": [server], "volumes": volumes })));
    host.ok(&["run", "-d", "--network", &format!("ns:/run/netns/{network}"), &path]);
    host.live(&["logs", "-f", "dns"]).until_has("listening");
}

fn name_is(host: &Host, records: &str) {
    // Renamed into place: the server reads it at each query.
    let new = host.path("dns/new");
    std::fs::write(&new, records).unwrap();
    std::fs::rename(new, host.path("dns/records")).unwrap();
}

fn git(folder: &str, args: &[&str]) {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn myapp_clones_a_repository_and_serves_it() {
    let Some(host) = Host::new(&["git", "ip"]) else { return };
    let network = host.network("git");
    let base = host.folder("git");
    let work = host.folder("work");
    git(&work, &["init", "-q", "-b", "main"]);
    std::fs::write(format!("{work}/index.html"), "<p>served from the clone</p>\n").unwrap();
    git(&work, &["add", "index.html"]);
    git(&work, &["-c", "user.name=t", "-c", "user.email=t@example.test", "commit", "-q", "-m", "page"]);
    git(&base, &["clone", "-q", "--bare", &work, "app.git"]);
    let programs = Command::new("git").arg("--exec-path").output().unwrap().stdout;
    let daemon = format!("{}/git-daemon", String::from_utf8(programs).unwrap().trim());
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &network, &daemon, "--verbose", "--export-all", "--listen=127.0.0.1"]);
    let server = Live::start({
        command.arg(format!("--base-path={base}"));
        command
    });
    until("git-daemon", || server.err().contains("Ready to rumble").then_some(()));
    name_server(&host, &network);
    name_is(&host, "git.example.test=127.0.0.1\n");
    let place = format!("ns:/run/netns/{network}");
    let resolver = host.path("resolv.conf");
    let path = repository("pods/myapp-git.yaml");
    let args = ["run", "-d", "--network", &place, "--resolv-conf", resolver.to_str().unwrap(), path.to_str().unwrap()];
    host.ok(&args);
    assert_eq!(host.ps("myapp-pod"), ["1/1", "Running", "0"].map(str::to_owned));
    let init = host.status("myapp-pod", "init-myservice");
    assert_eq!(init["state"]["terminated"]["reason"], "Completed", "{init}");
    // Somebody else in the same network reads what the app serves.
    let fetch = json!({ "name": "fetch", "image": "busybox:1.28",
        "command": ["sh", "-c", "until wget -qO- http://127.0.0.1:8080/index.html; do sleep 0.1; done"] });
    let reader = host.manifest(&pod("reader", json!({ "restartPolicy": "Never", "containers": [fetch] })));
    let page = host.run(&["run", "--network", &place, &reader]).expect(0).out;
    assert!(page.contains("fetch | <p>served from the clone</p>"), "{page}");
    // The app's mount of the volume is read-only.
    let write = host.run(&["exec", "myapp-pod", "--", "touch", "/www/x"]).expect(1);
    write.says(&["Read-only file system"]);
    drop(server);
    host.ok(&["rm", "-f", "myapp-pod", "dns"]);
}

#[test]
fn myapp_waits_for_its_services_one_after_the_other() {
    let Some(host) = Host::new(&["ip"]) else { return };
    let network = host.network("services");
    name_server(&host, &network);
    let place = format!("ns:/run/netns/{network}");
    let resolver = host.path("resolv.conf");
    let path = repository("pods/myapp-init-services.yaml");
    let args = ["run", "-d", "--network", &place, "--resolv-conf", resolver.to_str().unwrap(), path.to_str().unwrap()];
    let mut run = host.live(&args);
    until("the pod", || (host.run(&["ps", "-q"]).out.contains("myapp-pod")).then_some(()));
    let started = |container: &str| {
        let events = host.ok(&["events", "myapp-pod"]);
        events.lines().any(|l| l.contains("Started") && l.contains(&format!("container/{container}")))
    };
    until("init-myservice", || started("init-myservice").then_some(()));
    host.live(&["logs", "-f", "myapp-pod", "-c", "init-myservice"]).until_has("waiting for myservice");
    assert_eq!(host.ps("myapp-pod"), ["0/1", "Init:0/2", "0"].map(str::to_owned));
    assert!(!started("init-mydb") && !started("myapp-container"));
    let waits = &host.status("myapp-pod", "init-mydb")["state"]["waiting"];
    assert_eq!(waits["reason"], "PodInitializing");
    name_is(&host, "myservice=10.0.0.7\n");
    host.until_ps("myapp-pod", "Init:1/2");
    until("init-mydb", || started("init-mydb").then_some(()));
    host.live(&["logs", "-f", "myapp-pod", "-c", "init-mydb"]).until_has("waiting for mydb");
    assert!(!started("myapp-container"));
    let first = host.status("myapp-pod", "init-myservice")["state"]["terminated"].clone();
    let second = host.status("myapp-pod", "init-mydb")["state"]["running"].clone();
    assert_eq!(first["exitCode"], 0);
    // RFC 3339 in UTC: their order is that of the times.
    assert!(first["finishedAt"].as_str().unwrap() <= second["startedAt"].as_str().unwrap());
    assert!(run.out().is_empty(), "run -d returned before the pod ran");
    name_is(&host, "myservice=10.0.0.7\nmydb=10.0.0.8\n");
    assert_eq!(run.wait(), 0, "{}", run.err());
    assert_eq!(run.out(), "default/myapp-pod\n");
    assert_eq!(host.ps("myapp-pod"), ["1/1", "Running", "0"].map(str::to_owned));
    host.live(&["logs", "-f", "myapp-pod"]).until_has("The app is running!\n");
    host.ok(&["rm", "-f", "--all"]);
}

#[test]
fn containers_of_a_pod_share_localhost_and_others_do_not() {
    let Some(host) = Host::new(&[]) else { return };
    let app = facts("app", &["listen", "7001", "this is app", "--bind", "127.0.0.1"]);
    let sidecar = facts("sidecar", &["listen", "7002", "this is sidecar", "--bind", "127.0.0.1"]);
    host.start(&pod("pair", json!({ "containers": [app, sidecar] })));
    host.start(&pod("third", json!({ "containers": [facts("c", &["sleep"])] })));
    for (from, port, answer) in [("app", "7002", "this is sidecar\n"), ("sidecar", "7001", "this is app\n")] {
        let args = ["exec", "-c", from, "pair", "--", "/facts", "connect", "localhost", port, "--for", "20"];
        assert_eq!(host.ok(&args), answer, "from {from}");
    }
    for port in ["7001", "7002"] {
        let refused = host.run(&["exec", "third", "--", "/facts", "connect", "127.0.0.1", port]).expect(1);
        assert!(refused.out.contains("Connection refused"), "{refused:?}");
    }
    host.ok(&["stop", "pair", "third"]);
    host.ok(&["rm", "pair", "third"]);
}

#[test]
fn broken_manifests_are_explained_and_nothing_is_made() {
    let Some(host) = Host::new(&[]) else { return };
    let mut seen = 0;
    for entry in std::fs::read_dir(repository("manifests/broken")).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        seen += 1;
        let file = path.to_str().unwrap();
        for args in [&["run", file][..], &["run", "-d", file], &["check", file]] {
            let output = host.run(args);
            assert_eq!(output.code, if args[0] == "check" { 1 } else { 125 }, "{args:?}: {output:?}");
            assert!(output.out.is_empty() || args[0] == "check", "{output:?}");
            let text = format!("{}{}", output.out, output.err);
            let place = text.lines().find_map(|l| l.split_once(&format!("{file}:"))?.1.split(' ').next()).unwrap();
            let numbers: Vec<_> = place.split(':').filter_map(|n| n.trim().parse::<u32>().ok()).collect();
            assert_eq!(numbers.len(), 2, "{file}: no line and column in {place:?}:\n{text}");
            assert!(text.contains("help") || text.contains("did you"), "{file}: no help in\n{text}");
            assert!(args[0] == "check" || text.contains("nothing was started"), "{text}");
        }
    }
    assert!(seen >= 9, "{seen}");
    assert!(!host.path("state").exists() && !host.path("root/pods").exists(), "something was made");
}

#[test]
fn the_lifecycle_example_starts_and_ends_in_its_order() {
    let Some(host) = Host::new(&[]) else { return };
    let mut run = host.live(&["run", repository("pods/lifecycle.yaml").to_str().unwrap()]);
    until("the pod", || host.run(&["ps", "-q"]).out.contains("lifecycle").then_some(()));
    let waited = host.run(&["wait", "lifecycle", "--for=condition=Ready", "--timeout=60s"]);
    assert_eq!(waited.code, 0, "{waited:?}\n{}\n{}", run.out(), run.err());
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(), 130, "{}", run.err());
    let said = run.out();
    let lines: Vec<&str> = said.lines().map(|line| line.split_once(" | ").unwrap_or_default().1).collect();
    assert_eq!(lines, ["cache serves", "hello", "begun", "web drains", "web ends", "cache ends"]);
}
