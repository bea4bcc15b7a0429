//! Files of a pod's state are not what they were: torn, of another version, somebody else's, from before the machine's last boot.

use crate::disk::Disks;
use crate::harness::{Host, Live, documents, facts, object, pod, until};
use crate::leaks;
use crate::rig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn sleeper(name: &str) -> Value {
    pod(name, json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] }))
}

/// A process that has nothing to do with podshim: it must never be signalled.
struct Bystander(Child);

impl Bystander {
    fn new() -> Bystander {
        Bystander(Command::new("sleep").arg("600").spawn().unwrap())
    }

    #[track_caller]
    fn assert_untouched(&mut self, when: &str) {
        assert!(self.0.try_wait().unwrap().is_none(), "{when}: a process that was never the pod's has ended");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is done to a file: how it is called, and what of it becomes what.
type Damage = (&'static str, fn(Vec<u8>, i32) -> Vec<u8>);

/// Every way to be damaged; the last ones are whole, and wrong.
const DAMAGES: [Damage; 8] = [
    ("empty", |_, _| Vec::new()),
    ("torn", |bytes, _| bytes[..bytes.len() / 2].to_vec()),
    ("twice", |bytes, _| [bytes.clone(), bytes].concat()),
    ("binary", |_, _| (0..=255).cycle().take(5000).collect()),
    ("another type", |_, _| b"[]".to_vec()),
    ("no fields", |_, _| b"{}".to_vec()),
    ("a later version", |bytes, _| {
        let mut value: Value = serde_json::from_slice(&bytes).unwrap();
        value["version"] = json!(2);
        value.to_string().into_bytes()
    }),
    ("somebody else's pid", |bytes, stranger| {
        let mut value: Value = serde_json::from_slice(&bytes).unwrap();
        if !value["process"].is_null() {
            value["process"]["pid"] = json!(stranger);
        }
        value.to_string().into_bytes()
    }),
];

/// Each file that a supervisor leaves for another one, in each way, with a supervisor that lives and with one that was killed.
#[test]
fn whatever_a_file_of_the_state_has_become_the_pod_can_be_told_of_and_removed() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&sleeper("other"));
    let mut stranger = Bystander::new();
    let mut tried = 0;
    let files = ["kept.json", "containers/c/instance.json", "status.json", "record.json", "events.jsonl", "lock"];
    for file in files {
        for (how, damage) in DAMAGES {
            if matches!(file, "lock" | "events.jsonl") && how.contains(['v', '\'']) {
                // They have no fields.
                continue;
            }
            // Each with one of the two, unless there is time for both.
            for lives in [true, false]
                .into_iter()
                .filter(|lives| rig::is_long() || (tried % 2 == 0) == *lives)
                .collect::<Vec<_>>()
            {
                let when = format!("{file} is {how}, its supervisor lives: {lives}");
                host.start(&sleeper("p"));
                let state = host.state_of("p");
                if !lives {
                    leaks::kill_supervisor(&state);
                }
                if how.starts_with("somebody") {
                    let _ = nix::mount::umount2(&state.join("containers/c/process"), nix::mount::MntFlags::MNT_DETACH);
                }
                let path = state.join(file);
                let bytes = damage(std::fs::read(&path).unwrap(), stranger.0.id() as i32);
                std::fs::write(&path, bytes).unwrap();
                let before = Instant::now();
                for args in [
                    &["ps"][..],
                    &["inspect", "p"],
                    &["logs", "p"],
                    &["exec", "p", "--", "/facts", "exit", "0"],
                    &["recover", "--all"],
                ] {
                    let output = host.run(args);
                    assert!(matches!(output.code, 0 | 125), "{when}: {args:?}: {output:?}");
                    assert!(!output.err.contains("panicked"), "{when}: {args:?}: {output:?}");
                    assert!(output.code == 0 || !output.err.is_empty(), "{when}: {args:?}");
                }
                stranger.assert_untouched(&when);
                assert_eq!(host.ps("other")[1], "Running", "{when}");
                host.run(&["rm", "-f", "p"]).expect(0);
                assert!(before.elapsed() < Duration::from_secs(20), "{when}: {:?}", before.elapsed());
                stranger.assert_untouched(&when);
                assert_eq!(host.ok(&["ps", "-q"]), "default/other\n", "{when}");
                let uid = state.file_name().unwrap().to_str().unwrap().to_owned();
                let left: Vec<String> = host.leaks().into_iter().filter(|line| line.contains(&uid)).collect();
                assert!(left.is_empty(), "{when}: {left:#?}");
                tried += 1;
            }
        }
    }
    eprintln!("{tried} damaged files tried");
}

/// Each file of the network, while one pod stays, one goes and one comes.
#[test]
fn whatever_a_file_of_the_network_has_become_other_pods_come_and_go() {
    let Some(host) = Host::new(&["ip", "nft"]) else { return };
    let network = host.own_network();
    let spec = json!({ "selector": { "app": "web" }, "ports": [{ "port": 80 }] });
    let service = object("Service", "web", json!({ "spec": spec }));
    let mut policy = object("NetworkPolicy", "deny", json!({ "spec": { "podSelector": {} } }));
    policy["apiVersion"] = json!("networking.k8s.io/v1");
    host.ok(&["apply", &documents(&host, "objects.json", &[service, policy])]);
    let directory = host.path("state/network");
    let end = |when: &str| {
        host.run(&["rm", "-f", "--all"]).expect(0);
        // A name server that is told of nowhere ends with its link.
        until(&format!("{when}: nothing to be left"), || {
            let is_left = host.leaks().iter().any(|line| !line.contains(&network));
            (!is_left && leaks::on_network(&network).is_empty()).then_some(())
        });
        assert!(!directory.join("network.json").exists(), "{when}");
    };
    let objects = ["services/default_web.json", "networkpolicies/default_deny.json"];
    let files = ["network.json", "name-server.json", "last-addresses.json", "members"].into_iter().chain(objects);
    for (index, file) in files.enumerate() {
        // The others are whole for some.
        for (number, (how, damage)) in DAMAGES.into_iter().take(5).enumerate() {
            if !rig::is_long() && (number + index) % 5 > 1 {
                continue;
            }
            let when = format!("{file} is {how}");
            for name in ["stays", "goes"] {
                host.start(&sleeper(name));
            }
            let path = match file {
                "members" => directory.join(format!("members/{}.json", host.uid("stays"))),
                _ => directory.join(file),
            };
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, damage(whole.clone(), 0)).unwrap();
            let gone = host.run(&["rm", "-f", "goes"]);
            assert_eq!(gone.code, 0, "{when}: {gone:?}");
            let new = host.run(&["run", "-d", &host.manifest(&sleeper("comes"))]);
            if objects.contains(&file) {
                // What a policy says that nobody can read, nobody knows.
                new.expect(125).says(&[path.to_str().unwrap(), "`podshim apply` its document again"]);
                assert_eq!(host.ok(&["ps", "-q"]), "default/stays\n", "{when}");
            } else {
                assert_eq!(new.code, 0, "{when}: {new:?}");
                let [old, new] = ["stays", "comes"].map(|name| host.inspect(name)["status"]["podIP"].clone());
                assert_ne!(old, new, "{when}");
                let again: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                assert!(file != "members" || again["addresses"] == json!([old]), "{when}: {again}");
            }
            end(&when);
            if objects.contains(&file) {
                std::fs::write(&path, whole).unwrap();
            }
        }
    }
    host.start(&sleeper("last"));
    for file in ["network.json", "name-server.json", "last-addresses.json"] {
        std::fs::write(directory.join(file), "").unwrap();
    }
    end("all of them are empty");
}

#[test]
fn a_pod_whose_addresses_nobody_knows_keeps_them_until_it_is_removed() {
    let Some(host) = Host::new(&["ip", "nft"]) else { return };
    let network = host.own_network();
    for name in ["lost", "other"] {
        host.start(&sleeper(name));
    }
    let uid = host.uid("lost");
    for file in [format!("network/members/{uid}.json"), format!("pods/{uid}/record.json")] {
        std::fs::write(host.path("state").join(file), "").unwrap();
    }
    let new = host.manifest(&sleeper("new"));
    let words = [format!("members/{uid}.json is damaged"), format!("`podshim rm -f {uid}`")];
    host.run(&["run", "-d", &new]).expect(125).says(&words.each_ref().map(String::as_str));
    host.run(&["rm", "-f", "other"]).expect(0);
    host.run(&["rm", "-f", &uid]).expect(0);
    host.run(&["run", "-d", &new]).expect(0);
    host.run(&["rm", "-f", "--all"]).expect(0);
    assert_eq!(leaks::on_network(&network), Vec::<String>::new());
}

/// The pod's pid 1, and a container of it, were processes whose pids are somebody else's by now.
#[test]
fn a_pid_that_is_somebody_elses_by_now_is_not_signalled() {
    let Some(host) = Host::new(&[]) else { return };
    let mut stranger = Bystander::new();
    let mut value = sleeper("p");
    value["spec"]["shareProcessNamespace"] = json!(true);
    for verb in [&["recover", "p"][..], &["ps"], &["rm", "-f", "p"], &["exec", "p", "--", "/facts", "exit", "0"]] {
        host.start(&value);
        let state = host.state_of("p");
        leaks::kill_supervisor(&state);
        let pin = state.join("containers/c/process");
        let _ = nix::mount::umount2(&pin, nix::mount::MntFlags::MNT_DETACH);
        for (file, process) in [("kept.json", "reaper"), ("containers/c/instance.json", "process")] {
            let mut value: Value = serde_json::from_slice(&std::fs::read(state.join(file)).unwrap()).unwrap();
            assert!(value[process]["pid"].is_number(), "{file}: {value}");
            value[process]["pid"] = json!(stranger.0.id());
            std::fs::write(state.join(file), value.to_string()).unwrap();
        }
        let output = host.run(verb);
        assert!(matches!(output.code, 0 | 125), "{verb:?}: {output:?}");
        stranger.assert_untouched(&format!("{verb:?}"));
        host.run(&["rm", "-f", "p"]).expect(0);
        stranger.assert_untouched("rm -f");
        until("nothing to be left", || host.leaks().is_empty().then_some(()));
    }
}

/// Links that reserve names: torn off, twice, to nowhere, to somewhere else.
#[test]
fn a_name_that_is_not_what_it_was_is_put_right() {
    let Some(host) = Host::new(&[]) else { return };
    let names = host.path("state/names");
    for how in ["gone", "to nowhere", "to another pod", "a file", "a directory"] {
        host.start(&sleeper("p"));
        host.start(&sleeper("other"));
        let link = names.join("default_p");
        std::fs::remove_file(&link).unwrap();
        match how {
            "to nowhere" => std::os::unix::fs::symlink("../pods/nowhere", &link).unwrap(),
            "to another pod" => {
                std::os::unix::fs::symlink(std::fs::read_link(names.join("default_other")).unwrap(), &link).unwrap()
            }
            "a file" => std::fs::write(&link, "x").unwrap(),
            "a directory" => std::fs::create_dir(&link).unwrap(),
            _ => {}
        }
        assert!(host.ok(&["ps", "-q"]).contains("default/p\n"), "{how}");
        host.run(&["exec", "p", "--", "/facts", "exit", "7"]).expect(7);
        let removed = host.run(&["rm", "-f", "p"]);
        assert_eq!(removed.code, 0, "{how}: {removed:?}");
        assert_eq!(host.ok(&["ps", "-q"]), "default/other\n", "{how}");
        host.run(&["exec", "other", "--", "/facts", "exit", "7"]).expect(7);
        host.run(&["rm", "-f", "other"]).expect(0);
        // The name is to be had again.
        let again = host.run(&["run", "-d", &host.manifest(&sleeper("p"))]);
        assert_eq!(again.code, 0, "{how}: {again:?}");
        host.run(&["rm", "-f", "p"]).expect(0);
        host.assert_clean();
    }
}

/// Whoever makes the next pod sweeps what has no name: not a pod that runs.
#[test]
fn pods_whose_names_are_wiped_go_on() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&sleeper("p"));
    let first = host.pid("p", "c");
    std::fs::remove_dir_all(host.path("state/names")).unwrap();
    host.start(&sleeper("other"));
    assert_eq!(host.ok(&["ps", "-q"]).lines().count(), 2);
    assert_eq!(host.pid("p", "c"), first);
    host.run(&["exec", "p", "--", "/facts", "exit", "7"]).expect(7);
    host.run(&["run", "-d", &host.manifest(&sleeper("p"))]).expect(125).says(&["already exists"]);
    host.ok(&["rm", "-f", "--all"]);
    until("nothing to be left", || host.leaks().is_empty().then_some(()));
}

/// Nor one of which it cannot be known whether it runs: its lock cannot be opened.
#[test]
fn a_pod_without_a_name_whose_lock_cannot_be_opened_stays() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&sleeper("p"));
    let first = host.pid("p", "c");
    let state = host.state_of("p");
    let (lock, aside) = (state.join("lock"), state.join("aside"));
    std::fs::rename(&lock, &aside).unwrap();
    std::fs::create_dir(&lock).unwrap();
    std::fs::remove_file(host.path("state/names/default_p")).unwrap();
    host.start(&sleeper("other"));
    assert!(state.join("record.json").exists() && state.join("control.sock").exists(), "{}", state.display());
    std::fs::remove_dir(&lock).unwrap();
    std::fs::rename(&aside, &lock).unwrap();
    // The next one who looks sees that it runs.
    host.start(&sleeper("third"));
    assert_eq!(host.pid("p", "c"), first);
    host.run(&["exec", "p", "--", "/facts", "exit", "7"]).expect(7);
    host.ok(&["rm", "-f", "--all"]);
    until("nothing to be left", || host.leaks().is_empty().then_some(()));
}

/// A name leads to its pod, whatever has become of others'.
#[test]
fn a_damaged_record_is_in_the_way_of_its_own_pod_only() {
    let Some(host) = Host::new(&[]) else { return };
    let mut other = sleeper("p");
    other["metadata"]["namespace"] = json!("other");
    host.start(&other);
    let damaged = std::fs::read_link(host.path("state/names/other_p")).unwrap();
    let damaged = host.path("state/pods").join(damaged.file_name().unwrap()).join("record.json");
    host.start(&sleeper("p"));
    std::fs::write(&damaged, "{").unwrap();
    for name in ["p", "pod/p", "default/p"] {
        host.run(&["exec", name, "--", "/facts", "exit", "7"]).expect(7);
    }
    host.run(&["exec", "other/p", "--", "/facts", "exit", "7"])
        .expect(125)
        .says(&["pod other/p: `podshim rm -f other/p`"]);
    // What is no name leads nowhere.
    host.run(&["exec", "../names/default_p", "--", "/facts", "exit", "7"]).expect(125).says(&["not found"]);
    host.ok(&["rm", "-f", "p"]);
    host.ok(&["rm", "-f", "other/p"]);
    host.assert_clean();
}

/// Somebody has copied a pod's directory: the pod's processes are that pod's, and the copy is nobody's.
#[test]
fn a_copy_of_a_pods_directory_is_no_pod() {
    let Some(host) = Host::new(&[]) else { return };
    for how in ["copied", "linked"] {
        host.start(&sleeper("p"));
        let (state, first) = (host.state_of("p"), host.pid("p", "c"));
        let uid = state.file_name().unwrap().to_str().unwrap().to_owned();
        let name = format!("{uid}.bak");
        let copy = state.with_file_name(&name);
        match how {
            // Not all that is mounted there can be read.
            "copied" => drop(Command::new("cp").arg("-a").args([&state, &copy]).output().unwrap()),
            _ => std::os::unix::fs::symlink(&state, &copy).unwrap(),
        }
        assert!(copy.join("record.json").exists() && copy.join("kept.json").exists(), "{how}");
        let goes_on = |when: &str| {
            assert_eq!(host.pid("p", "c"), first, "{how}, {when}");
            assert_eq!(leaks::supervisors(&host.path("state/pods")).len(), 1, "{how}, {when}");
            host.run(&["exec", &uid, "--", "/facts", "exit", "7"]).expect(7);
        };
        host.run(&["ps"]).expect(0).says(&[name.as_str(), "record.json is damaged: it is a copy"]);
        assert_eq!(host.ok(&["ps", "-q"]), "default/p\n", "{how}");
        host.run(&["exec", &name, "--", "/facts", "exit", "7"]).expect(125).says(&["it is a copy"]);
        host.run(&["stop", &name]).expect(125).says(&["it is a copy"]);
        goes_on("asked for the copy");
        for (directory, words) in [(&copy, "it is a copy"), (&state, "has a supervisor already")] {
            let mut command = host.command(&["supervise-pod", directory.to_str().unwrap()]);
            command.stdin(Stdio::piped());
            let mut second = Live::start(command);
            second.stdin().write_all(b"g").unwrap();
            assert_eq!(second.wait(), 125, "{how}: {}", second.err());
            assert!(second.out().contains(words), "{how}: {}", second.out());
        }
        goes_on("a second supervisor");
        host.run(&["rm", "-f", &name]).expect(0);
        assert!(copy.symlink_metadata().is_err(), "{how}");
        goes_on("the copy is removed");
        host.ok(&["rm", "-f", "p"]);
        host.assert_clean();
    }
}

/// What a machine's end makes of a pod: nothing of it runs, and its state is of another boot.
fn reboot(host: &Host, name: &str) {
    let state = host.state_of(name);
    leaks::kill_supervisor(&state);
    let uid = state.file_name().unwrap().to_str().unwrap().to_owned();
    let below = format!("{}/podshim/pod{uid}/c", host.cgroup_parent);
    for pid in leaks::processes_in(&below) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    until("the container's end", || leaks::processes_in(&below).is_empty().then_some(()));
    let mut record: Value = serde_json::from_slice(&std::fs::read(state.join("record.json")).unwrap()).unwrap();
    record["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
    std::fs::write(state.join("record.json"), record.to_string()).unwrap();
}

#[test]
fn a_pod_of_an_earlier_boot_has_ended() {
    let Some(host) = Host::new(&[]) else { return };
    for verb in
        [&["recover", "--all"][..], &["ps"], &["inspect", "p"], &["rm", "p"], &["rm", "-f", "p"], &["stop", "p"]]
    {
        host.start(&sleeper("p"));
        reboot(&host, "p");
        host.run(verb).expect(0);
        if verb[0] != "rm" {
            assert!(
                matches!(&*host.ps("p")[1], "Failed" | "Error" | "ContainerStatusUnknown"),
                "{verb:?}: {:?}",
                host.ps("p")
            );
            let ended = host.status("p", "c")["state"]["terminated"].clone();
            assert_eq!(ended["exitCode"], 137, "{verb:?}: {ended}");
            host.run(&["exec", "p", "--", "/facts", "exit", "0"]).expect(125);
            host.run(&["run", "-d", &host.manifest(&sleeper("p"))]).expect(125).says(&["already exists"]);
            host.run(&["rm", "p"]).expect(0);
        }
        host.assert_clean();
        host.start(&sleeper("p"));
        host.run(&["rm", "-f", "p"]).expect(0);
    }
}

/// /run is a tmpfs, and empty after a boot; what is on the disk is swept by whoever makes the next pod. Or somebody has wiped a
/// part of it.
#[test]
fn state_that_is_wiped_leaves_a_name_that_can_be_used() {
    let Some(host) = Host::new(&[]) else { return };
    let all =
        ["", "names", "pods", "record.json", "containers", "ns", "lock", "control.sock", "kept.json", "status.json"];
    for what in all {
        host.start(&sleeper("p"));
        let state = host.state_of("p");
        reboot(&host, "p");
        for mounted in [&state, &host.path("state/empty")] {
            let _ = nix::mount::umount2(mounted, nix::mount::MntFlags::MNT_DETACH);
        }
        let wiped = match what {
            "" | "names" | "pods" => host.path("state").join(what),
            file => state.join(file),
        };
        std::fs::remove_dir_all(&wiped)
            .or_else(|_| std::fs::remove_file(&wiped))
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let shown = host.run(&["ps"]);
        assert_eq!(shown.code, 0, "{what}: {shown:?}");
        let recovered = host.run(&["recover", "--all"]);
        assert!(matches!(recovered.code, 0 | 125), "{what}: {recovered:?}");
        host.run(&["rm", "-f", "p"]).expect(0);
        let again = host.run(&["run", "-d", &host.manifest(&sleeper("p"))]);
        assert_eq!(again.code, 0, "{what}: {again:?}");
        host.run(&["exec", "p", "--", "/facts", "exit", "7"]).expect(7);
        host.run(&["rm", "-f", "p"]).expect(0);
        let left = host.leaks();
        // Logs are kept as they are by whom nobody tells whose they are; so are empty cgroups.
        let left: Vec<&String> =
            left.iter().filter(|line| !line.contains("/log/") && !line.starts_with("cgroup")).collect();
        assert!(left.is_empty(), "{what}: {left:#?}");
        let _ = std::fs::remove_dir_all(host.path("log"));
        for line in host.leaks().iter().filter_map(|line| line.strip_prefix("cgroup ")) {
            let _ = std::fs::remove_dir(line);
        }
        host.assert_clean();
    }
}

#[test]
fn one_that_cannot_be_removed_keeps_no_other_from_it() {
    let Some(host) = Host::new(&[]) else { return };
    let [held, other] = ["held", "other"].map(|name| {
        host.start(&sleeper(name));
        let state = host.state_of(name);
        leaks::kill_supervisor(&state);
        std::fs::write(state.join("record.json"), "").unwrap();
        state
    });
    let lock = std::fs::File::open(held.join("lock")).unwrap();
    lock.lock().unwrap();
    host.run(&["rm", "-f", "held", "other"]).expect(125);
    assert!(held.exists() && !other.exists());
    drop(lock);
    host.run(&["rm", "-f", "held"]).expect(0);
    host.assert_clean();
}

/// Somebody has mounted something of his own in a pod's directories: it is not removed with the pod, nor in its way.
#[test]
fn what_is_mounted_in_a_pods_directories_outlives_it() {
    let Some(host) = Host::new(&[]) else { return };
    let disks = Disks::new(&host);
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    let manifest = host.manifest(&pod("p", json!({ "volumes": volumes, "containers": [facts("c", &["sleep"])] })));
    disks.run(&["run", "-d", &manifest]).expect(0);
    let precious = PathBuf::from(host.folder("his")).join("precious");
    std::fs::write(&precious, "precious").unwrap();
    let uid = disks.path("state/names/default_p").read_link().unwrap();
    let uid = uid.file_name().unwrap().to_str().unwrap();
    let data = format!("root/pods/{uid}");
    let folders = ["volumes/v/deep", "containers/c/0/upper/deep", "deep"].map(|below| format!("{data}/{below}"));
    for folder in folders.into_iter().chain([format!("state/pods/{uid}/containers/c/deep")]) {
        std::fs::create_dir(disks.path(&folder)).unwrap();
        disks.ok(&["mount", "--bind", host.path("his").to_str().unwrap(), disks.at(&folder).to_str().unwrap()]);
    }
    let file = format!("{data}/volumes/v/file");
    std::fs::write(disks.path(&file), "").unwrap();
    disks.ok(&["mount", "--bind", precious.to_str().unwrap(), disks.at(&file).to_str().unwrap()]);
    disks.run(&["rm", "-f", "p"]).expect(0);
    assert_eq!(disks.left(), Vec::<String>::new());
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "precious");
}
