//! What the server stands on gives way: disks are full, descriptors run out, the machine was started again.

use super::super::harness::{Host, until};
use super::client::{Cri, Kubelet, container, log_of, sandbox};
use super::kills::{host_pid, kill_supervisor};
use crate::disk::{COUNT, Disks};
use crate::leaks;
use nix::sys::signal::Signal;
use podshim::cri::api::{self, ContainerState, NamespaceMode, PodSandboxState};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// What is missing on a disk that takes nothing any more.
#[derive(Clone, Copy, Debug)]
enum Full {
    Blocks,
    Inodes,
}

impl Full {
    fn begin(self, disks: &Disks<'_>, directory: &str) {
        match self {
            Full::Blocks => disks.fill(directory),
            Full::Inodes => {
                let all = nix::sys::statvfs::statvfs(&disks.path(directory)).unwrap();
                disks.change(directory, &format!("nr_inodes={}", all.files() - all.files_free()));
            }
        }
    }

    fn end(self, disks: &Disks<'_>, directory: &str) {
        match self {
            Full::Blocks => disks.clear(directory),
            Full::Inodes => disks.change(directory, "nr_inodes=10000"),
        }
    }
}

/// What a call on a full disk comes to: either it needs nothing of that disk, or its error names the file and the errno.
#[track_caller]
fn is_done<T>(done: Result<T, Status>, is_refused: bool, (directory, when): (&str, &str)) -> Option<T> {
    match done {
        Ok(done) => {
            assert!(!is_refused, "{when}: there is no room for it");
            Some(done)
        }
        Err(error) => {
            assert!(is_refused, "{when}: {error}");
            assert!(error.message().contains("No space left on device"), "{when}: {error}");
            assert!(error.message().contains(directory), "{when}: which file? {error}");
            None
        }
    }
}

/// What a full disk keeps from being made.
#[derive(Clone, Copy)]
enum Refused {
    /// Sandboxes and containers.
    Records,
    /// Sandboxes, and containers' layers.
    Layers,
    /// Logs of new containers.
    Logs,
    Nothing,
}

fn full_disk((directory, network): (&str, NamespaceMode), full: Full, refused: Refused) {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let disks = Disks::new(&host);
    disks.mount(directory, "size=2m,nr_inodes=10000");
    std::fs::write(host.path("cri.toml"), "").unwrap();
    let mut cri = Cri::begin(&host, &disks.entry());
    assert!(cri.serves());
    let mut config = sandbox(&host, "p");
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().network = network.into();
    let id = cri.sandbox(&config);
    let counts = cri.running((&id, &config), "counts", COUNT);
    let waits = cri.create((&id, &config), &container("waits", "sleep 1000")).unwrap();
    let lines = || log_of(&disks.path("logs/p/counts/0.log")).len();
    until("lines", || (lines() > 3).then_some(()));
    let pid = host_pid(&cri, &counts);
    let disk = Disk { host: &host, disks: &disks, directory, full, refused };
    full.begin(&disks, directory);
    let when = |what: &str| format!("{directory} without {full:?}: {what}");
    disk.refuses(&cri, (&id, &config));
    // What was made before has its room.
    cri.start_container(&waits).unwrap();

    // What ran goes on, whoever serves and supervises. What began when its process could not be noted is not taken over.
    for round in 0..3 {
        if round != 0 {
            cri.kill();
        }
        if round == 2 {
            kill_supervisor(&host, &id);
        }
        if round != 0 {
            cri.restart();
        }
        let when = when(&format!("round {round}"));
        assert_eq!(cri.sandboxes()[0].state(), PodSandboxState::SandboxReady, "{when}");
        let running = [&waits, &counts].map(|id| cri.status(id).unwrap().state() == ContainerState::ContainerRunning);
        let is_noted = round < 2 || !matches!(refused, Refused::Records);
        assert!((running[0] || !is_noted) && running[1], "{when}: {running:?}");
        assert_eq!(cri.containers().len(), 2, "{when}");
        assert_eq!(host_pid(&cri, &counts), pid, "{when}: it is the same process");
        assert_eq!(cri.exec(&counts, &["sh", "-c", "exit 7"], 10).unwrap().exit_code, 7, "{when}");
    }
    if directory == "logs" {
        full.end(&disks, directory);
    }
    let before = lines();
    until("more lines", || (lines() > before + 3).then_some(()));
    if directory == "logs" {
        full.begin(&disks, directory);
    }

    // It can be ended in each way, and how it ended is known.
    cri.stop(&counts, 10).unwrap();
    let ended = cri.status(&counts).unwrap();
    assert_eq!((ended.state(), ended.exit_code), (ContainerState::ContainerExited, 3), "{ended:?}");
    cri.remove(&counts).unwrap();
    cri.stop_sandbox(&id).unwrap();
    assert_eq!(cri.sandboxes()[0].state(), PodSandboxState::SandboxNotready, "{}", when("it was stopped"));
    assert_eq!(cri.status(&waits).unwrap().exit_code, 137);
    cri.remove(&waits).unwrap();
    assert!(cri.containers().is_empty(), "{}", when("removed from a sandbox that has ended"));
    cri.remove_sandbox(&id).unwrap();
    assert!(cri.sandboxes().is_empty());
    full.end(&disks, directory);
    assert_eq!(disks.left(), [] as [String; 0], "{}", when("what is left"));

    disk.lets_a_sandbox_of_an_earlier_boot_end(&mut cri, &config);
    assert_clean_but_served(&host);
}

/// A disk that is full.
struct Disk<'a> {
    host: &'a Host,
    disks: &'a Disks<'a>,
    directory: &'a str,
    full: Full,
    refused: Refused,
}

impl Disk<'_> {
    /// What is new is refused, and nothing of it is there; or it works.
    fn refuses(&self, cri: &Cri<'_>, (id, config): (&str, &api::PodSandboxConfig)) {
        let when = |what: &str| format!("{} without {:?}: {what}", self.directory, self.full);
        let is_made = !matches!(self.refused, Refused::Records | Refused::Layers);
        if let Some(id) =
            is_done(cri.run_sandbox(&sandbox(self.host, "q")), !is_made, (self.directory, &when("another sandbox")))
        {
            cri.remove_sandbox(&id).unwrap();
        }
        let is_own = |entry: &std::fs::DirEntry| entry.file_name() != "filler";
        let count = |name: &str| std::fs::read_dir(self.disks.path(name)).unwrap().flatten().filter(is_own).count();
        for folder in ["state/pods", "state/names", "root/pods"] {
            assert_eq!(count(folder), 1, "{}", when(folder));
        }
        let is_made = !matches!(self.refused, Refused::Records);
        let more = cri.create((id, config), &container("more", "sleep 1000"));
        if let Some(more) = is_done(more, !is_made, (self.directory, &when("another container"))) {
            let is_started = matches!(self.refused, Refused::Nothing);
            let started = is_done(cri.start_container(&more), !is_started, (self.directory, &when("its start")));
            let status = cri.status(&more).unwrap();
            match started {
                Some(()) => assert_eq!(status.state(), ContainerState::ContainerRunning, "{status:?}"),
                None => assert_eq!((status.exit_code, &*status.reason), (128, "StartError"), "{status:?}"),
            }
            cri.remove(&more).unwrap();
        }
        assert_eq!(cri.containers().len(), 2, "{}", when("containers"));
    }

    /// The machine is started again, and its disk is full then.
    fn lets_a_sandbox_of_an_earlier_boot_end(&self, cri: &mut Cri<'_>, config: &api::PodSandboxConfig) {
        let when = |what: &str| format!("{} without {:?}: {what}", self.directory, self.full);
        let id = cri.sandbox(config);
        let counts = cri.running((&id, config), "counts", COUNT);
        assert_eq!(cri.exec(&counts, &["sh", "-c", "exit 7"], 10).unwrap().exit_code, 7);
        cri.kill();
        end_of_machine(self.host, &[&id]);
        self.disks.ok(&["sh", "-c", &end_of_mounts(self.host)]);
        let state = self.disks.path("state/pods").join(&id);
        of_earlier_boot(&state);
        self.full.begin(self.disks, self.directory);
        cri.restart();
        assert_eq!(cri.sandboxes()[0].state(), PodSandboxState::SandboxNotready);
        cri.stop_sandbox(&id).unwrap();
        assert_eq!(cri.status(&counts).unwrap().state(), ContainerState::ContainerExited);
        cri.remove(&counts).unwrap();
        cri.remove_sandbox(&id).unwrap();
        self.full.end(self.disks, self.directory);
        assert_eq!(self.disks.left(), [] as [String; 0], "{}", when("what is left"));
    }
}

#[test]
fn a_full_disk_of_the_state_keeps_nobody_from_ending() {
    for network in [NamespaceMode::Pod, NamespaceMode::Node] {
        full_disk(("state", network), Full::Blocks, Refused::Records);
        full_disk(("state", network), Full::Inodes, Refused::Records);
    }
}

#[test]
fn a_full_disk_of_layers_keeps_nobody_from_ending() {
    full_disk(("root/pods", NamespaceMode::Pod), Full::Blocks, Refused::Nothing);
    full_disk(("root/pods", NamespaceMode::Pod), Full::Inodes, Refused::Layers);
}

#[test]
fn a_full_disk_of_logs_keeps_nobody_from_ending() {
    full_disk(("logs", NamespaceMode::Pod), Full::Blocks, Refused::Nothing);
    full_disk(("logs", NamespaceMode::Pod), Full::Inodes, Refused::Logs);
}

/// The words by which prlimit(1) starts a server with these numbers of descriptors, soft and hard.
fn with_files(soft: u64, hard: u64) -> [String; 2] {
    ["prlimit".to_owned(), format!("--nofile={soft}:{hard}")]
}

#[test]
fn a_server_with_too_few_descriptors_does_not_begin() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    std::fs::write(host.path("cri.toml"), "").unwrap();
    for hard in [6, 7, 14, 18, 64, 127] {
        let mut cri = Cri::begin(&host, &with_files(hard, hard));
        assert!(!cri.serves(), "{hard}");
        assert_eq!(cri.server.wait(), 125, "{hard}: {}", cri.server.err());
        let told = format!("RLIMIT_NOFILE: the server may have {hard} descriptors, and takes at least 128");
        assert!(cri.server.err().contains(&told), "{}", cri.server.err());
        assert!(!host.path("cri.sock").exists());
    }
    // What it may have it takes.
    let mut cri = Cri::begin(&host, &with_files(8, 128));
    assert!(cri.serves());
    let id = cri.sandbox(&sandbox(&host, "p"));
    cri.remove_sandbox(&id).unwrap();
}

/// Whether the other side has closed a connection.
fn is_closed(mut stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn connections_that_do_nothing_take_no_descriptors_from_calls() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    std::fs::write(host.path("cri.toml"), "").unwrap();
    for files in [128, 256] {
        let mut cri = Cri::begin(&host, &with_files(files, files));
        assert!(cri.serves());
        cri.keep_connection();
        let config = sandbox(&host, "p");
        let id = cri.sandbox(&config);
        let idle: Vec<_> = (0..files).map(|_| UnixStream::connect(&cri.socket).unwrap()).collect();
        let refused = until("refusals", || {
            let closed = idle.iter().filter(|stream| is_closed(stream)).count();
            (closed as u64 >= files / 2).then_some(closed)
        });
        assert!(idle.len() - refused > files as usize / 4, "{files}: {refused} are refused");
        let begin = Instant::now();
        Kubelet::new(cri.socket.clone()).version().unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(10), "{files}: {:?}", begin.elapsed());
        // Who is there is served.
        let made = cri.running((&id, &config), "c", "sleep 1000");
        assert_eq!(cri.exec(&made, &["sh", "-c", "exit 7"], 10).unwrap().exit_code, 7);
        let another = cri.sandbox(&sandbox(&host, "q"));
        cri.remove_sandbox(&another).unwrap();
        drop(idle);
        let kubelet = Kubelet::new(cri.socket.clone());
        until("a place", || kubelet.version().ok());
        cri.remove_sandbox(&id).unwrap();
        cri.kill();
    }
}

/// How many descriptors a running server may have: so many more than it has, or all that it began with.
pub(super) fn leave_files(cri: &Cri<'_>, more: Option<u64>) {
    let all = || std::fs::read_dir(format!("/proc/{}/fd", cri.server.pid())).unwrap().flatten();
    let free = || {
        let open: Vec<u64> = all().map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
        (0..).find(|number| !open.contains(number)).unwrap()
    };
    let soft = more.map_or(FILES, |more| free() + more);
    let (pid, limit) = (format!("--pid={}", cri.server.pid()), format!("--nofile={soft}:"));
    let done = std::process::Command::new("prlimit").args([pid, limit]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

const FILES: u64 = 128;

#[test]
fn a_server_without_descriptors_refuses_calls_and_recovers() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    std::fs::write(host.path("cri.toml"), "").unwrap();
    let mut cri = Cri::begin(&host, &with_files(FILES, FILES));
    assert!(cri.serves());
    cri.keep_connection();
    let (config, other) = (sandbox(&host, "p"), sandbox(&host, "q"));
    let id = cri.sandbox(&config);
    let made = cri.running((&id, &config), "c", "sleep 1000");
    let pid = host_pid(&cri, &made);
    let mut refused = [0; 7];
    let most = 16;
    for more in 0..=most {
        leave_files(&cri, Some(more));
        let begin = Instant::now();
        let mut tried = |call: usize, done: Result<(), Status>| {
            let Err(error) = done else { return };
            assert!(error.message().contains("Too many open files"), "{more}: {error}");
            refused[call] += 1;
        };
        tried(0, cri.exec(&made, &["true"], 10).map(drop));
        let another = cri.create((&id, &config), &container("d", "sleep 1000"));
        tried(1, another.as_ref().map(drop).map_err(Status::clone));
        if let Ok(another) = &another {
            tried(2, cri.start_container(another));
            tried(3, cri.remove(another));
        }
        let sandbox = cri.run_sandbox(&other);
        tried(4, sandbox.as_ref().map(drop).map_err(Status::clone));
        assert!(begin.elapsed() < Duration::from_secs(10), "{more}: {:?}", begin.elapsed());
        cri.version().unwrap();
        // What there is is told, or that it could not be looked: also of what has to be read again.
        for file in ["record.json", "status.json"] {
            let file = host.path("state/pods").join(&id).join(file);
            std::fs::copy(&file, file.with_extension("again")).unwrap();
            std::fs::rename(file.with_extension("again"), &file).unwrap();
        }
        tried(6, cri.status(&made).map(drop));
        let request = api::ListPodSandboxRequest::default();
        let listed = cri.call(|mut c| async move { c.list_pod_sandbox(request).await });
        if let Ok(listed) = &listed {
            let it = listed.items.iter().find(|found| found.id == id).expect("it is left out");
            assert_eq!(it.state(), PodSandboxState::SandboxReady, "{more}");
        }
        tried(5, listed.map(drop));
        leave_files(&cri, None);
        assert!(!cri.server.has_ended(), "{more}");
        assert_eq!(host_pid(&cri, &made), pid, "{more}");
        // What could not be taken away again is told of, and can be ended.
        for found in cri.containers().iter().filter(|found| found.id != made) {
            cri.remove(&found.id).unwrap();
        }
        for found in cri.sandboxes().iter().filter(|found| found.id != id) {
            cri.remove_sandbox(&found.id).unwrap();
        }
    }
    // With none nothing is done, and the most are enough.
    eprintln!("refused are exec, create, start, remove, run, list and status {refused:?} times of {}", most + 1);
    assert!([0, 1, 4, 5, 6].iter().all(|&call| (1..most).contains(&refused[call])), "{refused:?}");
    let another = cri.sandbox(&other);
    cri.running((&another, &other), "c", "sleep 1000");
    for id in [&id, &another] {
        cri.remove_sandbox(id).unwrap();
    }
    assert_clean_but_served(&host);
}

/// What a machine's end makes of sandboxes: no process, no cgroup, nothing on the network.
fn end_of_machine(host: &Host, ids: &[&str]) {
    for id in ids {
        kill_supervisor(host, id);
        let of_it = |process: &leaks::Process| process.cgroup.contains(id) && !leaks::is_ending(process.pid);
        for process in leaks::processes(of_it) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        until("the end of all processes", || leaks::processes(of_it).is_empty().then_some(()));
    }
    for group in host.leaks().iter().filter_map(|line| line.strip_prefix("cgroup ")) {
        until("the end of a cgroup", || {
            (std::fs::remove_dir(group).is_ok() || !Path::new(group).exists()).then_some(())
        });
    }
    beside(
        host,
        "[ \"$(readlink /proc/self/ns/net)\" != \"$(readlink /proc/1/ns/net)\" ] || exit 1; ip -o link show | awk -F'[:@ ]+' '$2 != \"lo\" { print $2 }' | while read -r link; do ip link delete $link; done; nft flush ruleset",
    );
}

#[track_caller]
fn beside(host: &Host, script: &str) {
    let output = host.beside(&["sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Nothing is there but the server and its network.
#[track_caller]
fn assert_clean_but_served(host: &Host) {
    let is_its = |left: &String| left.contains("/podshim cri --listen") || left.contains("/run/netns/");
    let left: Vec<String> = host.leaks().into_iter().filter(|left| !is_its(left)).collect();
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}

/// A script that does the same to mounts, those of sandboxes and what they share.
fn end_of_mounts(host: &Host) -> String {
    let state = host.path("state");
    let below = "awk -v below=STATE/ 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo"
        .replace("STATE", state.to_str().unwrap());
    format!("{below} | tac | while read -r point; do umount -l $point; done; test -z \"$({below})\"")
}

/// A sandbox's record becomes that of an earlier boot.
fn of_earlier_boot(state: &Path) {
    let path = state.join("record.json");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(record["boot_id"].is_string());
    record["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
    std::fs::write(path, record.to_string()).unwrap();
}

#[test]
fn sandboxes_of_an_earlier_boot_have_ended_and_can_be_replaced() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    for how in ["stop", "remove", "containers first", "another attempt"] {
        let config = sandbox(&host, "p");
        let (id, stopped) = (cri.sandbox(&config), cri.sandbox(&sandbox(&host, "s")));
        let runs = cri.running((&id, &config), "runs", "sleep 1000");
        let waits = cri.create((&id, &config), &container("waits", "sleep 1000")).unwrap();
        let ended = cri.running((&id, &config), "ended", "exit 4");
        cri.until_exited(&ended);
        let before = cri.sandbox_status(&id).unwrap();
        assert_eq!(before.state(), PodSandboxState::SandboxReady);
        cri.stop_sandbox(&stopped).unwrap();
        cri.kill();
        end_of_machine(&host, &[&id]);
        beside(&host, &end_of_mounts(&host));
        for id in [&id, &stopped] {
            of_earlier_boot(&host.path("state/pods").join(id));
        }
        cri.restart();

        let states: Vec<_> = cri.sandboxes().iter().map(|sandbox| (sandbox.id.clone(), sandbox.state())).collect();
        assert_eq!(states.len(), 2, "{how}");
        assert!(states.iter().all(|(_, state)| *state == PodSandboxState::SandboxNotready), "{how}: {states:?}");
        let after = cri.sandbox_status(&id).unwrap();
        assert_eq!((&after.metadata, after.created_at), (&before.metadata, before.created_at));
        let all = cri.containers();
        assert_eq!(all.len(), 3, "{how}");
        assert!(all.iter().all(|found| found.state() == ContainerState::ContainerExited), "{how}: {all:?}");
        let codes = [&runs, &ended].map(|id| cri.status(id).unwrap().exit_code);
        assert_eq!(codes, [137, 4], "{how}");
        for id in [&waits, &runs] {
            let error = cri.start_container(id).unwrap_err();
            assert_eq!(error.code(), Code::FailedPrecondition, "{how}: {error}");
        }
        let error = cri.create((&id, &config), &container("new", "true")).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{how}: {error}");
        let error = cri.exec(&runs, &["true"], 10).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{how}: {error}");
        assert_eq!(cri.run_sandbox(&config).unwrap_err().code(), Code::AlreadyExists, "{how}");

        let mut next = config.clone();
        let mut another = None;
        match how {
            "stop" => cri.stop_sandbox(&id).unwrap(),
            "containers first" => {
                cri.stop(&runs, 1).unwrap();
                for id in [&runs, &waits, &ended] {
                    cri.remove(id).unwrap();
                }
                assert!(cri.containers().is_empty());
            }
            "another attempt" => {
                next.metadata.as_mut().unwrap().attempt = 1;
                another = Some(cri.sandbox(&next));
            }
            _ => {}
        }
        for id in [&id, &stopped] {
            cri.remove_sandbox(id).unwrap();
        }
        assert_eq!(cri.sandboxes().len(), usize::from(another.is_some()), "{how}");
        if another.is_none() {
            assert_clean_but_served(&host);
        }
        let another = another.unwrap_or_else(|| cri.sandbox(&next));
        let made = cri.running((&another, &next), "runs", "sleep 1000");
        let address = cri.sandbox_status(&another).unwrap().network.unwrap().ip;
        let shown = cri.exec(&made, &["ip", "address", "show", "eth0"], 10).unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(!address.is_empty() && shown.contains(&address), "{how}: {address:?} in {shown}");
        cri.remove_sandbox(&another).unwrap();
        assert_clean_but_served(&host);
    }
}

/// Where run state is on a tmpfs there is nothing of it after a boot, and what is on the disk goes.
#[test]
fn sandboxes_whose_state_went_with_the_machine_leave_nothing() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let made = cri.running((&id, &config), "c", "echo x > /x; sleep 1000");
    cri.kill();
    end_of_machine(&host, &[&id]);
    beside(&host, &end_of_mounts(&host));
    std::fs::remove_dir_all(host.path("state")).unwrap();
    assert_eq!(std::fs::read_dir(host.path("root/pods")).unwrap().count(), 1);
    cri.restart();
    assert_eq!((cri.sandboxes().len(), cri.containers().len()), (0, 0));
    assert_clean_but_served(&host);
    assert_eq!(cri.start_container(&made).unwrap_err().code(), Code::NotFound);
    cri.remove(&made).unwrap();
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
    let id = cri.sandbox(&config);
    cri.running((&id, &config), "c", "sleep 1000");
    cri.remove_sandbox(&id).unwrap();
    assert_clean_but_served(&host);
}
