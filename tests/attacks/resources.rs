//! Class E: processes that take what they can get.

use crate::harness::{Host, facts, pod, shell, until, with};
use crate::leaks;
use crate::rig::{Bench, once};
use serde_json::json;
use std::time::{Duration, Instant};

/// Peak memory of a process in KiB.
fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// What a supervisor may take, whatever its containers write, in KiB.
const SUPERVISOR: u64 = 32 << 10;

fn bystander(host: &Host) {
    host.start(&pod(
        "bystander",
        json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] }),
    ));
}

#[test]
fn e1_a_fork_bomb_has_an_end_and_others_go_on() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    bystander(host);
    let bomb = pod(
        "bomb",
        json!({ "terminationGracePeriodSeconds": 1,
        "containers": [shell("c", "b() { b | b & sleep 1; }; echo go; b; while :; do b; done")] }),
    );
    host.run(&["run", "-d", "--pids-limit", "64", &host.manifest(&bomb)]).expect(0);
    let below = format!("{}/podshim/pod{}/c", host.cgroup_parent, host.uid("bomb"));
    until("64 processes", || (leaks::processes_in(&below).len() >= 50).then_some(()));
    host.run(&["exec", "bystander", "--", "/facts", "exit", "7"]).expect(7);
    let before = Instant::now();
    host.ok(&["rm", "-f", "bomb"]);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert_eq!(leaks::processes_in(&below), [] as [i32; 0]);
}

#[test]
fn e4_memory_of_the_pods_own_is_bounded() {
    let Some(bench) = Bench::new() else { return };
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=200 2>&1 | tail -1; du -m /dev/shm/x | cut -f1; rm /dev/shm/x; \
                  dd if=/dev/zero of=/v/x bs=1M count=50 2>/dev/null; du -m /v/x | cut -f1; dd if=/dev/zero of=/dev/x bs=1M count=200 2>/dev/null; du -m /dev/x | cut -f1";
    let container = with(shell("c", script), json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }));
    let volumes = json!([{ "name": "v", "emptyDir": { "medium": "Memory", "sizeLimit": "4Mi" } }]);
    let output = bench.host.foreground(&once("tmpfs", json!([container]), volumes)).expect(0);
    let sizes: Vec<&str> = output
        .out
        .lines()
        .filter_map(|l| l.strip_prefix("c | "))
        .filter(|l| l.bytes().all(|b| b.is_ascii_digit()))
        .collect();
    assert_eq!(sizes, ["64", "4", "64"], "{output:?}");
}

#[test]
fn e6_e7_a_flood_of_output_is_bounded_and_delays_nobody() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let flood = shell(
        "flood",
        "timeout -t 2 yes 2>/dev/null || timeout 2 yes; head -c 67108864 /dev/zero | tr '\\0' x; echo; echo over; sleep 1000",
    );
    let other = shell("other", "while :; do date +%s; sleep 0.2; done");
    host.start(&pod("loud", json!({ "terminationGracePeriodSeconds": 1, "containers": [flood, other] })));
    let lines = || host.ok(&["logs", "loud", "-c", "other"]).lines().count();
    let mut last = 0;
    let mut stalls = 0;
    let supervisor = host.supervisor("loud");
    until("the end of the flood", || {
        let now = lines();
        stalls += u32::from(now == last);
        last = now;
        host.ok(&["logs", "--tail", "1", "loud", "-c", "flood"]).contains("over").then_some(())
    });
    assert!(last > 3, "the other container's lines came: {last}, stalls {stalls}");
    assert!(peak(supervisor) < SUPERVISOR, "{} KiB", peak(supervisor));
    let mut size = 0;
    for folder in std::fs::read_dir(host.path("log")).unwrap().flatten() {
        for file in std::fs::read_dir(folder.path().join("flood")).unwrap().flatten() {
            size += file.metadata().unwrap().len();
        }
    }
    assert!(size < 80 << 20, "{size} bytes of logs");
    let before = Instant::now();
    host.ok(&["rm", "-f", "loud"]);
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
}

#[test]
fn e7_bytes_of_every_kind_come_back_as_they_were() {
    let Some(bench) = Bench::new() else { return };
    // All byte values, no newline at the end, more than fits in a record.
    let script = "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done; head -c 100000 /dev/zero; printf '\\377\\376\\033[2J'";
    let manifest = bench.host.manifest(&once("bytes", json!([shell("c", script)]), json!([])));
    bench.host.run(&["run", "--keep", &manifest]).expect(0);
    let output = bench.host.command(&["logs", "bytes"]).output().unwrap();
    let expected: Vec<u8> = (0..=255).chain(std::iter::repeat_n(0, 100_000)).chain(*b"\xff\xfe\x1b[2J").collect();
    let mut got = output.stdout;
    if got.last() == Some(&b'\n') {
        got.pop();
    }
    assert_eq!(got.len(), expected.len());
    assert!(got == expected, "bytes differ");
}

#[test]
fn e8_a_container_goes_on_when_its_log_is_gone() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let count = shell("c", "i=0; while :; do i=$((i+1)); echo $i; echo $i > /count; sleep 0.05; done");
    host.start(&pod("counts", json!({ "terminationGracePeriodSeconds": 1, "containers": [count] })));
    let at = || host.ok(&["exec", "counts", "--", "cat", "/count"]).trim().parse::<u32>().unwrap_or(0);
    until("a count", || (at() > 2).then_some(()));
    let logs = host.path("log");
    std::fs::remove_dir_all(&logs).unwrap();
    let then = at();
    until("progress without a log", || (at() > then + 10).then_some(()));
    // Nor when nobody reads any more.
    host.kill_supervisor("counts");
    let pid = host.pid("counts", "c");
    let count = format!("/proc/{pid}/root/count");
    let at = || std::fs::read_to_string(&count).unwrap().trim().parse::<u32>().unwrap_or(0);
    let then = at();
    until("progress without a supervisor", || (at() > then + 10).then_some(()));
    host.ok(&["rm", "-f", "counts"]);
}

#[test]
fn e10_e11_clients_leave_nothing_in_the_supervisor() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    bystander(host);
    let supervisor = host.supervisor("bystander");
    host.ok(&["exec", "bystander", "--", "/facts", "exit", "0"]);
    let baseline = descriptors(supervisor);
    let mut clients: Vec<_> =
        (0..24).map(|_| host.live(&["exec", "-i", "bystander", "--", "/facts", "sleep"])).collect();
    let floods: Vec<_> =
        (0..2).map(|_| host.live(&["exec", "bystander", "--", "/facts", "spam", "200000", "200"])).collect();
    let below = format!("{}/podshim/pod{}/c", host.cgroup_parent, host.uid("bystander"));
    until("the commands", || (leaks::processes_in(&below).len() > 24).then_some(()));
    host.run(&["exec", "bystander", "--", "/facts", "exit", "7"]).expect(7);
    clients.drain(..).for_each(drop);
    for mut flood in floods {
        assert_eq!(flood.wait(), 0);
        assert_eq!(flood.out().len(), 200_000 * 201);
    }
    until("the descriptors of before", || {
        let rest = leaks::processes_in(&below);
        rest.iter().skip(1).for_each(|pid| {
            // A command whose client is gone goes on, as with kubectl; here it is not needed any more.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        });
        (descriptors(supervisor) <= baseline).then_some(())
    });
    assert!(peak(supervisor) < SUPERVISOR, "{} KiB", peak(supervisor));
}

#[test]
fn e12_stopped_and_frozen_containers_end_too() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    host.start(&pod(
        "stopped",
        json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("c", "sleep 1000 & kill -STOP $!; wait")] }),
    ));
    let pid = host.pid("stopped", "c");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    let before = Instant::now();
    host.ok(&["rm", "-f", "stopped"]);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    host.start(&pod("frozen", json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] })));
    let below = format!("{}/podshim/pod{}/c", host.cgroup_parent, host.uid("frozen"));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter(|l| l.contains(" - cgroup")).filter_map(|l| l.split(' ').nth(4));
    let files: Vec<_> = points
        .flat_map(|p| {
            [("cgroup.freeze", "1"), ("freezer.state", "FROZEN")].map(|(f, v)| (format!("{p}/{below}/{f}"), v))
        })
        .collect();
    let frozen = files.iter().filter(|(file, _)| std::path::Path::new(file).exists());
    let frozen = frozen.map(|(file, value)| std::fs::write(file, value).unwrap()).count();
    assert!(frozen > 0, "no freezer among {files:?}");
    let before = Instant::now();
    host.ok(&["rm", "-f", "frozen"]);
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    host.assert_clean();
}

#[test]
fn e13_e14_nobody_survives_a_container() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    // Out of its session, its parent gone, deaf to TERM and HUP.
    let script = "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & sleep 1000' >/dev/null 2>&1 &); \
                  i=0; while [ $i -lt 50 ]; do (true & true); i=$((i+1)); done; echo left; exit 0";
    for (name, more) in
        [("own", json!({})), ("shared", json!({ "shareProcessNamespace": true })), ("host", json!({ "hostPID": true }))]
    {
        let mut spec =
            json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [shell("c", script)] });
        more.as_object().unwrap().iter().for_each(|(k, v)| spec[k] = v.clone());
        let output = host.foreground(&pod(name, spec)).expect(0);
        assert!(output.out.contains("left"), "{output:?}");
        host.assert_clean();
    }
}

#[test]
fn e18_nobody_gets_before_the_others() {
    let Some(bench) = Bench::new() else { return };
    // With the capability the supervisor is the last to go; without, it is as the caller is.
    let host = &bench.host;
    bystander(host);
    let score = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().to_owned();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap().trim();
    let may = u64::from_str_radix(effective, 16).unwrap() & 1 << 24 != 0;
    let expected = if may { "-999".to_owned() } else { score("self") };
    assert_eq!(score(&host.supervisor("bystander").to_string()), expected, "may it: {may}");
    assert_eq!(score(&host.pid("bystander", "c").to_string()), "1000");
    host.ok(&["rm", "-f", "bystander"]);
    let ahead = bench.host.seen("first", facts("c", &["ahead"]), json!({}));
    let (eperm, eacces) = (json!(1), json!(13));
    for way in ["nice", "fifo", "nofile", "oom_score_adj", "realtime_io"] {
        assert!(ahead[way] == eperm || ahead[way] == eacces, "{way}: {ahead}");
    }
}

#[test]
fn e5_shared_memory_goes_with_the_pod() {
    let Some(bench) = Bench::new() else { return };
    for round in 0..3 {
        let spec = json!({ "restartPolicy": "Never", "containers": [facts("c", &["write", "/dev/shm/x", "x"])] });
        bench.host.foreground(&pod(&format!("shm{round}"), spec)).expect(0);
        let seen = bench.host.seen(&format!("look{round}"), facts("c", &["--list=/dev/shm"]), json!({}));
        assert_eq!(seen["lists"]["/dev/shm"], json!({}));
        bench.host.assert_clean();
    }
}
