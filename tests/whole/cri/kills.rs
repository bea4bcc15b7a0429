//! The server is killed at any moment: containers go on, no line and no exit code is lost, and what it was doing can be taken up.

use super::super::harness::{Host, until};
use super::super::leaks;
use super::client::{Cri, Kubelet, container, log, sandbox};
use podshim::cri::api;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often. Each of the calls of a container's life is hit many times.
const KILLS: u32 = 200;

/// A sequence of numbers that is the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }
}

/// A pod's whole life, call after call; each may fail, as the server is killed meanwhile.
fn life(cri: &Kubelet, config: &api::PodSandboxConfig) {
    let Ok(id) = cri.run_sandbox(config) else { return };
    let Ok(made) = cri.create((&id, config), &container("c", "echo up; sleep 1000")) else { return };
    let _ = cri.start_container(&made);
    let _ = cri.exec(&made, &["true"], 5);
    let _ = cri.status(&made);
    let _ = cri.stop(&made, 0);
    let _ = cri.remove(&made);
    let _ = cri.stop_sandbox(&id);
    let _ = cri.remove_sandbox(&id);
}

#[test]
fn e7_the_server_can_be_killed_at_any_moment() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    let config = sandbox(&host, "steady");
    let steady = cri.sandbox(&config);
    let counts = cri.running((&steady, &config), "counts", "n=0; while :; do echo $n; n=$((n+1)); sleep 0.01; done");
    let ends = cri.running((&steady, &config), "ends", "while ! [ -e /end ]; do sleep 0.05; done; exit 42");
    let first_pid = host_pid(&cri, &counts);
    let mut numbers = Numbers(7);
    let mut longest = Duration::ZERO;
    for round in 0..KILLS {
        let pod = sandbox(&host, &format!("r{round}"));
        let after = Duration::from_millis(numbers.next(120));
        let socket = cri.socket.clone();
        let busy = std::thread::spawn(move || life(&Kubelet::new(socket), &pod));
        std::thread::sleep(after);
        cri.kill();
        busy.join().unwrap();
        if round == KILLS / 2 {
            // It ends while nobody is there to see it.
            std::fs::write(format!("/proc/{}/root/end", host_pid_of(&host, "ends")), "").unwrap();
        }
        let begin = Instant::now();
        cri.restart();
        longest = longest.max(begin.elapsed());
        check(&cri, &steady, [&counts, &ends]);
        for left in cri.sandboxes().into_iter().filter(|found| found.id != steady) {
            cri.stop_sandbox(&left.id).unwrap();
            cri.remove_sandbox(&left.id).unwrap();
        }
        assert_eq!(cri.sandboxes().len(), 1, "round {round}");
    }
    eprintln!("{KILLS} kills; the server was back after {longest:?} at most");
    assert_eq!(host_pid(&cri, &counts), first_pid, "it is the same process");
    let ended = cri.status(&ends).unwrap();
    assert_eq!((ended.state, ended.exit_code), (api::ContainerState::ContainerExited as i32, 42), "{ended:?}");
    let lines = log(&host, "steady", "counts");
    let numbers: Vec<u64> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 100 && numbers.iter().copied().eq(0..numbers.len() as u64), "lines are missing or twice");
    cri.stop_sandbox(&steady).unwrap();
    cri.remove_sandbox(&steady).unwrap();
    let state = host.path("state/pods");
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0, "run state of a pod is left");
    cri.server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(cri.server.wait(), 0);
}

/// The steady containers are there, once, and nobody else's state is wrong.
fn check(cri: &Cri<'_>, steady: &str, containers: [&String; 2]) {
    let status = cri.sandbox_status(steady).unwrap();
    assert_eq!(status.state, api::PodSandboxState::SandboxReady as i32);
    let all = cri.containers();
    let ids: BTreeSet<&String> = all.iter().map(|container| &container.id).collect();
    assert_eq!(ids.len(), all.len(), "a container is listed twice");
    assert!(containers.iter().all(|id| ids.contains(id)), "a container is lost");
    for container in &all {
        let seen = cri.status(&container.id).unwrap();
        let is_same = seen.state == container.state;
        assert!(is_same || seen.state == api::ContainerState::ContainerExited as i32, "{seen:?}");
    }
}

fn host_pid(cri: &Cri<'_>, id: &str) -> i64 {
    let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer = cri.call(|mut c| async move { c.container_status(request).await }).unwrap();
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    info["pid"].as_i64().unwrap()
}

/// The process of the steady container of this name, without asking the server.
fn host_pid_of(host: &Host, name: &str) -> i64 {
    let pods = std::fs::read_dir(host.path("state/pods")).unwrap().flatten();
    let found = pods.into_iter().find_map(|pod| {
        let status: serde_json::Value =
            serde_json::from_slice(&std::fs::read(pod.path().join("status.json")).ok()?).ok()?;
        status["commanded"].as_array()?.iter().find_map(|container| {
            let id = container["id"].as_str()?;
            let record = std::fs::read_to_string(pod.path().join("containers").join(id).join("container.json")).ok()?;
            record.contains(&format!("/logs/steady/{name}/0.log")).then(|| container["pid"].as_i64())?
        })
    });
    found.unwrap()
}

/// The supervisors of a sandbox: what they start is not the first of its session, or in the sandbox's cgroups.
fn supervisors(host: &Host, id: &str) -> Vec<i32> {
    let state = host.path("state/pods").join(id);
    let is_one = |p: &leaks::Process| {
        p.cmdline.contains("supervise-pod") && p.cmdline.contains(state.to_str().unwrap()) && !p.cgroup.contains(id)
    };
    leaks::processes(is_one).iter().map(|process| process.pid).filter(|pid| leaks::leads_session(*pid)).collect()
}

fn kill_supervisor(host: &Host, id: &str) {
    let found = supervisors(host, id);
    assert_eq!(found.len(), 1, "supervisors");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(found[0]), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn e7_a_supervisor_that_is_killed_has_another_one_in_its_place() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let count = "n=0; while ! [ -e /end ]; do echo $n; n=$((n+1)); sleep 0.01; done; exit 42";
    let counts = cri.running((&id, &config), "counts", count);
    let waits = cri.create((&id, &config), &container("waits", "echo at last; sleep 1000")).unwrap();
    let pid = host_pid(&cri, &counts);
    for round in 0..10 {
        let before = supervisors(&host, &id);
        if round % 3 == 2 {
            // Both are: whoever comes first sees to it.
            cri.kill();
            kill_supervisor(&host, &id);
            std::thread::sleep(Duration::from_millis(50));
            cri.restart();
        } else {
            kill_supervisor(&host, &id);
        }
        until("another supervisor", || {
            let found = supervisors(&host, &id);
            (found.len() == 1 && found != before).then_some(())
        });
        until("the sandbox", || {
            let is_ready = api::PodSandboxState::SandboxReady as i32;
            (cri.sandbox_status(&id).ok()?.state == is_ready).then_some(())
        });
        let events = host.run(&["events"]).out;
        assert_eq!(host_pid(&cri, &counts), pid, "round {round}: it is the same process: {events}");
        let status = cri.status(&waits).unwrap();
        assert_eq!(status.state, api::ContainerState::ContainerCreated as i32, "round {round}: {status:?}");
    }
    until("the start", || cri.start_container(&waits).ok());
    until("its word", || (log(&host, "p", "waits") == ["at last"]).then_some(()));
    std::fs::write(format!("/proc/{pid}/root/end"), "").unwrap();
    let status = cri.until_exited(&counts);
    assert_eq!((&*status.reason, status.exit_code), ("Error", 42));
    let lines = log(&host, "p", "counts");
    let numbers: Vec<usize> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 50 && numbers.iter().copied().eq(0..numbers.len()), "lines are missing or twice");
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
    cri.server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(cri.server.wait(), 0);
    // The killed supervisors' children are the host's pid 1's to reap.
    let is_process = |left: &String| left.starts_with("process");
    until("end of all processes", || (!host.leaks().iter().any(is_process)).then_some(()));
}
