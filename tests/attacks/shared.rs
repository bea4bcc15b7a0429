//! Class E: what containers share with each other and with the host, and how much of it there is.

use crate::harness::{Host, Live, facts, pod, shell, until, with};
use crate::leaks;
use crate::rig::{Bench, SOON, once};
use serde_json::{Value, json};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// The System V segments that a process sees, as (key, resident bytes).
fn segments(table: &str) -> Vec<(i64, u64)> {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    let column = |name: &str| names.iter().position(|n| *n == name).unwrap();
    let (key, rss) = (column("key"), column("rss"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        (cells[key].parse().unwrap(), cells[rss].parse().unwrap())
    };
    lines.map(row).collect()
}

fn seen_segments(host: &Host, pod: &str, container: &str) -> Vec<(i64, u64)> {
    let seen = host.report(pod, container, &["--file=/proc/sysvipc/shm"]);
    segments(seen["files"]["/proc/sysvipc/shm"].as_str().unwrap())
}

fn of_host() -> Vec<(i64, u64)> {
    segments(&std::fs::read_to_string("/proc/sysvipc/shm").unwrap())
}

/// A key of this test's own: tests run beside each other.
fn key(number: u32) -> i64 {
    0x0b5d_0000 + i64::from(std::process::id() % 0x1000) * 16 + i64::from(number)
}

#[test]
fn e5_segments_are_the_pods_and_go_with_it() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let before = of_host();
    let spec =
        json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"]), facts("d", &["sleep"])] });
    host.start(&pod("sysv", spec.clone()));
    host.start(&pod("other", spec.clone()));
    let made = host.ok(&["exec", "-c", "c", "sysv", "--", "/facts", "shm", &key(1).to_string(), "8"]);
    assert_eq!(made, "8 MiB\n");
    // Its maker has ended; the pod's other container has it, and another pod and the host do not.
    let wanted = vec![(key(1), 8 << 20)];
    assert_eq!((seen_segments(host, "sysv", "c"), seen_segments(host, "sysv", "d")), (wanted.clone(), wanted.clone()));
    assert_eq!(seen_segments(host, "other", "c"), []);
    assert!(of_host().iter().all(|(key_, _)| *key_ != key(1)), "{:?}", of_host());
    // A container that starts again finds it: it is the pod's.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(host.pid("sysv", "d")), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    host.until_status(("sysv", "d"), "again", |s| s["restartCount"] == 1 && s["state"]["running"].is_object());
    assert_eq!(seen_segments(host, "sysv", "d"), wanted);
    // The namespace that holds it, held by nobody when the pod is gone: the kernel frees what is in it then. This test holds
    // it as long as it looks: the number of one that is gone may be another pod's at once.
    let held = std::fs::File::open(format!("/proc/{}/ns/ipc", host.pid("sysv", "c"))).unwrap();
    let namespace = std::fs::read_link(format!("/proc/{}/ns/ipc", host.pid("sysv", "c"))).unwrap();
    assert_ne!(namespace, std::fs::read_link("/proc/self/ns/ipc").unwrap());
    host.ok(&["rm", "-f", "sysv"]);
    let holders =
        leaks::processes(|p| std::fs::read_link(format!("/proc/{}/ns/ipc", p.pid)).is_ok_and(|ns| ns == namespace));
    assert!(holders.is_empty(), "{holders:?}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(namespace.to_str().unwrap()), "it is still mounted somewhere");
    drop(held);
    // A pod of the same name has another one.
    host.start(&pod("sysv", spec));
    assert_eq!(seen_segments(host, "sysv", "c"), []);
    host.ok(&["rm", "-f", "--all"]);
    let after = of_host();
    assert!(
        after.iter().all(|(key_, _)| before.iter().any(|(b, _)| b == key_) || !(key(0)..key(16)).contains(key_)),
        "{after:?}"
    );
}

/// CVE-2024-3056: segments outlive the container that made them, so that one that is started again and again would take all
/// the memory there is; they count for the pod.
#[test]
fn e5_segments_that_pile_up_count_for_the_pod() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    const NAMES: [&str; 3] = ["c", "d", "e"];
    let limits = json!({ "resources": { "limits": { "memory": "32Mi", "cpu": "250m" } } });
    let containers = NAMES.map(|name| with(facts(name, &["sleep"]), limits.clone()));
    host.start(&pod("piles", json!({ "terminationGracePeriodSeconds": 1, "containers": containers })));
    let namespace = std::fs::File::open(format!("/proc/{}/ns/ipc", host.pid("piles", "c"))).unwrap();
    let resident = || -> u64 {
        let ipc = format!("--ipc=/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        let output = std::process::Command::new("nsenter").args([&ipc, "cat", "/proc/sysvipc/shm"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        segments(&String::from_utf8(output.stdout).unwrap()).iter().map(|(_, rss)| rss).sum()
    };
    let is_running = |name: &str| host.status("piles", name)["state"]["running"].is_object();
    let (mut made, mut refused) = (0, 0);
    // Each container takes what it can, ends, and does it again with a cgroup that is new.
    for time in 0..2 {
        for name in NAMES {
            while is_running(name) {
                let args = ["exec", "-c", name, "piles", "--", "/facts", "shm", &key(made).to_string(), "12"];
                made += 1;
                if host.run(&args).code != 0 {
                    refused += 1;
                    break;
                }
            }
            // The next restart but one would wait longer than this test may.
            if time == 0 && is_running(name) && host.status("piles", name)["restartCount"] == 0 {
                let pid = nix::unistd::Pid::from_raw(host.pid("piles", name));
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            }
            if time == 0 {
                host.until_status(("piles", name), "again", |s| {
                    s["restartCount"] == 1 && s["state"]["running"].is_object()
                });
            }
        }
    }
    let bytes = resident();
    // Twice of what each may have was asked for, and once of it, all together, was to be had.
    assert!(made - refused >= 6 && refused >= 4, "{made} were asked for, {refused} refused");
    assert!((48 << 20..=96 << 20).contains(&bytes), "{bytes} bytes are resident, of a pod that may have 96 MiB");
    host.ok(&["rm", "-f", "piles"]);
}

/// A container whose output is a flood, and which notes how far it is.
fn flood() -> Value {
    let script = "i=0; while :; do i=$((i+1)); echo \"line $i of a flood that nobody reads ........................................\"; \
        [ $((i % 100)) = 0 ] && echo $i > /count; done";
    json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("c", script)] })
}

fn count(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/root/count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn until_further(pid: i32, by: u64) {
    let then = count(pid);
    until("progress", || (count(pid) > then + by).then_some(()));
}

#[test]
fn e8_a_full_log_disk_and_readers_that_do_not_read_hold_up_nobody() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let logs = host.folder("log");
    nix::mount::mount(Some("t"), logs.as_str(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=128k"))
        .unwrap();
    let unmounted = Unmount(logs);
    host.start(&pod("flood", flood()));
    let pid = host.pid("flood", "c");
    // 128 KiB are full long before that.
    until_further(pid, 5_000);
    let free = nix::sys::statvfs::statvfs(unmounted.0.as_str()).unwrap().blocks_available();
    assert_eq!(free, 0, "the disk is not full");
    // Readers that stop reading: their pipes are full soon.
    let stopped: Vec<Live> =
        [&["logs", "-f", "flood"][..], &["attach", "flood"]].iter().map(|args| host.live(args)).collect();
    for reader in &stopped {
        reader.until("a line", |out| out.contains("line "));
        reader.signal(nix::sys::signal::Signal::SIGSTOP);
    }
    until_further(pid, 5_000);
    let before = Instant::now();
    host.ok(&["exec", "flood", "--", "true"]);
    assert!(before.elapsed() < SOON, "{:?}", before.elapsed());
    drop(stopped);
    host.ok(&["rm", "-f", "flood"]);
    drop(unmounted);
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.as_str(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// What is written when nobody is there to read it waits, and is no reason to die.
#[test]
fn e8_without_a_supervisor_a_writer_waits_and_can_be_removed() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    host.start(&pod("flood", flood()));
    let pid = host.pid("flood", "c");
    until_further(pid, 1_000);
    host.kill_supervisor("flood");
    // It goes on until its pipe is full, then it sleeps in write(2): no SIGPIPE, no EPIPE, and nothing is lost of what it says.
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        (stat.rsplit(") ").next().unwrap()[..1].to_owned(), call.split(' ').next().unwrap_or_default().to_owned())
    };
    until("the wait", || (state() == ("S".to_owned(), libc::SYS_write.to_string())).then_some(()));
    let then = count(pid);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((count(pid), state().0.as_str()), (then, "S"), "it waits");
    // What was said before is in the log, in whole lines and in order.
    let logs = host.ok(&["logs", "flood"]);
    let numbers: Vec<u64> = logs.lines().map(|l| l.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers.len() > 1_000, "{} lines", numbers.len());
    // Whoever reads the pipe in the place of the supervisor has the next line, and the container goes on.
    let pipe = host.path("state/pods").join(host.uid("flood")).join("containers/c/stdout");
    let mut reader = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    let mut bytes = Vec::new();
    let deadline = Instant::now() + SOON;
    while bytes.len() < 1 << 20 && Instant::now() < deadline {
        let mut buffer = [0; 1 << 16];
        match reader.read(&mut buffer) {
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(bytes.len() >= 1 << 20, "{} bytes", bytes.len());
    until("progress", || (count(pid) > then).then_some(()));
    let before = Instant::now();
    host.ok(&["rm", "-f", "flood"]);
    assert!(before.elapsed() < SOON, "{:?}", before.elapsed());
}

/// Many pods at once: each has what it needs, and all of it is gone again.
#[test]
fn e19_many_pods_at_once_are_whole_and_leave_nothing() {
    const PODS: usize = 40;
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let name = |n: usize| format!("many{n}");
    let manifests: Vec<String> = (0..PODS)
        .map(|n| {
            let container = with(facts("c", &["sleep"]), json!({ "env": [{ "name": "WHO", "value": name(n) }] }));
            host.manifest(&pod(&name(n), json!({ "terminationGracePeriodSeconds": 1, "containers": [container] })))
        })
        .collect();
    for some in manifests.chunks(8) {
        let mut live: Vec<Live> = some.iter().map(|manifest| host.live(&["run", "-d", manifest])).collect();
        for one in &mut live {
            assert_eq!(one.wait(), 0, "{}", one.err());
        }
    }
    let mut namespaces = std::collections::BTreeSet::new();
    for n in 0..PODS {
        let pid = host.pid(&name(n), "c");
        let of = |kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let ids = ["net", "ipc", "uts", "mnt", "pid"].map(of);
        assert!(ids.into_iter().all(|id| namespaces.insert(id)), "{}: a namespace is another pod's", name(n));
    }
    let table = host.ok(&["ps"]);
    assert_eq!(table.matches("Running").count(), PODS, "{table}");
    let last = host.report(&name(PODS - 1), "c", &[]);
    assert!(last["env"].as_array().unwrap().contains(&json!(format!("WHO={}", name(PODS - 1)))), "{last}");
    let before = Instant::now();
    host.ok(&["rm", "-f", "--all"]);
    assert!(before.elapsed() < Duration::from_secs(60), "{:?}", before.elapsed());
    host.assert_clean();
}

/// Where the host gives no more cgroups or processes, that is said, and what was made before is taken back.
#[test]
fn e19_a_host_that_gives_no_more_is_told_and_nothing_stays() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let container = facts("c", &["sleep"]);
    let manifest = host.manifest(&pod("more", json!({ "restartPolicy": "Never", "containers": [container] })));
    let mut limited = 0;
    for (file, value) in [("cgroup.max.descendants", "1"), ("cgroup.max.depth", "1")] {
        let Some(parent) = leaks::make_cgroup(&host.cgroup_parent, file) else { continue };
        let old = std::fs::read_to_string(parent.join(file)).unwrap();
        std::fs::write(parent.join(file), value).unwrap();
        let output = bench.run(&["run", "-d", &manifest]);
        std::fs::write(parent.join(file), old.trim()).unwrap();
        assert_eq!(output.code, 125, "{file}: {output:?}");
        assert!(
            output.err.contains("Resource temporarily unavailable") || output.err.contains("EAGAIN"),
            "{file}: {output:?}"
        );
        assert_eq!(host.ok(&["ps", "-q"]), "", "{file}");
        limited += 1;
    }
    assert!(limited > 0, "no limit could be set here");
    host.run(&["run", "-d", &manifest]).expect(0);
    host.ok(&["rm", "-f", "more"]);
    // A pod's own limit of processes is as clear, while others go on.
    let spec = once("few", json!([shell("c", "true | true | true | true; echo over")]), json!([]));
    let output = host.run(&["run", "--pids-limit", "1", &host.manifest(&spec)]);
    assert!(output.out.contains("fork") || output.out.contains("over"), "{output:?}");
}
