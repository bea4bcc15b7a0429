//! The server is killed before one of its system calls: of each kind at one of its turns, or at all of them (`rig::is_long`). They are
//! made while a pod lives and all else is asked, and while a server starts and takes over what another one left.
//!
//! What the server forks is killed likewise until it executes another program. Supervisors are not: `kills.rs` and `tests/faults` kill
//! those.

use super::super::harness::{Host, Live, Numbers, until};
use super::super::leaks;
use super::client::{Cri, sandbox};
use super::kills::{
    Seen, Steady, check, host_pid, host_pid_of, kill_early, kill_supervisor, nothing_is_lost, supervisors,
};
use super::kills_beside::seed;
use super::lives::{CALLS, Call, Life, Scene};
use super::rpcs::{self, Subject};
use crate::rig::{Case, called, calls, is_long};
use nix::sys::signal::Signal;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use tonic::Status;

/// Calls that wait, that look, or whose effect ends with the process: who is killed before one has done what he has who is killed before
/// the next.
const OTHERS: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "chdir",
    "clock_nanosleep",
    "close",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "exit",
    "fcntl",
    "fstat",
    "futex",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getrandom",
    "getsockname",
    "getsockopt",
    "gettid",
    "getuid",
    "getxattr",
    "inotify_add_watch",
    "inotify_init1",
    "ioctl",
    "lseek",
    "lstat",
    "madvise",
    "memfd_create",
    "mmap",
    "mprotect",
    "munmap",
    "nanosleep",
    "newfstatat",
    "pidfd_open",
    "pipe2",
    "poll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "recvfrom",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "setns",
    "setsid",
    "setsockopt",
    "sigaltstack",
    "socket",
    "socketpair",
    "statfs",
    "statx",
    "umask",
    "uname",
];

/// Who was killed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Killed {
    Server,
    /// Only what it had forked.
    Forked,
    /// The call is not made so often.
    Nobody,
}

impl Killed {
    /// To be asked when nobody is about to be killed any more.
    fn of(trace: &str, cri: &mut Cri<'_>) -> Killed {
        if !cri.serves() {
            Killed::Server
        } else if trace.contains("+++ killed by SIGKILL +++") {
            Killed::Forked
        } else {
            Killed::Nobody
        }
    }
}

/// After so many turns of a kind of call to which no thread came, its others are not tried: threads share the work differently each time.
const ENOUGH: u32 = 20;

/// How often each of them.
type Tally = BTreeMap<Killed, usize>;

/// Most of those who were to be killed were.
fn assert_killed(tally: &Tally) {
    let servers = tally.get(&Killed::Server).copied().unwrap_or_default();
    assert!(servers * 2 > tally.values().sum(), "{tally:?}");
}

/// Where the server is to be killed, of the calls of a trace. PODSHIM_TEST_CALLS may have names of those that are tried, apart by commas.
fn cases(trace: &str, own_seed: u64) -> Vec<Case> {
    let mut all = calls(trace);
    all.retain(|(call, _)| !OTHERS.contains(&call.as_str()));
    if let Ok(names) = std::env::var("PODSHIM_TEST_CALLS") {
        all.retain(|(call, _)| names.split(',').any(|name| name == call));
    }
    if !is_long() {
        // Of each kind the last one.
        let last: BTreeMap<String, u32> = all.into_iter().collect();
        let mut numbers = Numbers(seed(own_seed));
        all = last.into_iter().map(|(call, last)| (call, 1 + numbers.below(last.into()) as u32)).collect();
    }
    // Each is told of to the end of the test.
    all.into_iter().map(|(call, nth)| Case { call: call.leak(), error: "SIGKILL", nth }).collect()
}

/// The words of strace(1) that has a server's calls written down, and those of its threads and what it forks up to execve(2).
fn strace(trace: &Path, options: &[String]) -> Vec<String> {
    // What another one wrote is not to be taken for its own.
    let _ = std::fs::remove_file(trace);
    let words = ["strace", "-f", "-b", "execve", "-o", trace.to_str().unwrap()].map(str::to_owned);
    words.into_iter().chain(options.iter().cloned()).collect()
}

/// Does something while the server's calls are traced: the trace.
fn traced(cri: &Cri<'_>, options: &[String], act: impl FnOnce()) -> String {
    let path = cri.host.path("trace");
    let words = strace(&path, options);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["-p", &cri.server.pid().to_string()]);
    let mut tracer = Live::start(command);
    until("strace", || tracer.err().contains("attached").then_some(()));
    act();
    // At SIGTERM it would wait for ever for a process that is about to end of which it has not heard yet. It has written what it saw.
    tracer.signal(Signal::SIGKILL);
    tracer.wait();
    std::fs::read_to_string(path).unwrap()
}

/// Leads a pod's life until a call is not answered, which is told. While its container runs all other calls are made, too.
fn live(cri: &Cri<'_>, life: &mut Life, steady: &Steady) -> Option<String> {
    let subject = Subject {
        steady: (steady.id.clone(), steady.counts.clone()),
        config: sandbox(cri.host, "none"),
        // Nobody listens there, which a pull sees at once.
        stalling: "127.0.0.1:1/none:1".to_owned(),
    };
    let unanswered = Cell::new(None);
    let call_others = |call| {
        if call == Call::StopContainer {
            let mut all = rpcs::about_steady(&subject);
            all.push((rpcs::PULL, Box::new(|kubelet| rpcs::pull(kubelet, &subject.stalling))));
            // A refusal is an answer too.
            let is_unanswered = |done: Result<(), Status>| done.is_err() && cri.version().is_err();
            unanswered.set(all.into_iter().find_map(|(name, make)| is_unanswered(make(cri)).then_some(name)));
        }
    };
    let (call, _) = life.until_interrupted(cri, call_others).err()?;
    Some(unanswered.get().map_or_else(|| format!("{call:?}"), str::to_owned))
}

/// Each pod that has state is listed, and none that nobody has heard of: it was set up, or is being set up.
fn all_are_listed(cri: &Cri<'_>, round: &str) {
    let state = cri.host.path("state/pods");
    let listed: BTreeSet<String> = cri.sandboxes().into_iter().map(|found| found.id).collect();
    let there = std::fs::read_dir(&state).unwrap().flatten();
    let there: BTreeSet<String> = there.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert_eq!(there, listed, "{round}: what there is (left), and what is listed");
    let is_known = |id: &&String| !supervisors(cri.host, id).is_empty() || state.join(id).join("kept.json").exists();
    let unknown: Vec<&String> = listed.iter().filter(|id| !is_known(id)).collect();
    assert!(unknown.is_empty(), "{round}: nobody has heard of {unknown:?}");
}

#[test]
fn e7_the_server_can_be_killed_before_each_system_call_of_a_pods_life() {
    let Some(host) = Host::new(&["strace", "ip", "nft"]) else { return };
    let network = host.own_network();
    let mut cri = Cri::start(&host, "");
    let look = || leaks::on_network(&network);
    let scene = Scene { host: &host, steady: Steady::new(&cri), look: &look };
    // As those that are killed: it has taken over.
    cri.kill();
    cri.restart();
    let mut rehearsal = Life::new(&host, "rehearsal");
    let trace = traced(&cri, &[], || assert_eq!(live(&cri, &mut rehearsal, &scene.steady), None));
    let (seen, before) = (Seen::of(&cri, &scene.steady), scene.traces());
    let pid = host_pid(&cri, &scene.steady.counts);
    let cases = cases(&trace, 4);
    let (mut tally, mut missed, mut interrupted) = (Tally::default(), BTreeMap::new(), BTreeSet::new());
    for (number, case) in cases.iter().enumerate() {
        let missed = missed.entry(case.call).or_insert(0);
        if *missed == ENOUGH {
            continue;
        }
        let mut life = Life::new(&host, &format!("r{number}"));
        let mut call = None;
        let trace = traced(&cri, &case.options(), || call = live(&cri, &mut life, &scene.steady));
        let killed = Killed::of(&trace, &mut cri);
        let round = format!("{case}: {killed:?} killed, {} not answered", call.as_deref().unwrap_or("nothing"));
        // What fails next is about this.
        eprintln!("{round}");
        if number == cases.len() / 2 {
            // It ends, often while nobody is there to see it.
            std::fs::write(format!("/proc/{}/root/end", host_pid_of(&host, "ends")), "").unwrap();
        }
        if killed == Killed::Server {
            cri.restart();
        }
        *missed += u32::from(killed == Killed::Nobody);
        *tally.entry(killed).or_default() += 1;
        interrupted.extend(call);
        all_are_listed(&cri, &round);
        check(&cri, &scene.steady, &seen);
        scene.each_is_there_once(&cri, &round);
        life.resume(&cri, (&round, number % 2 == 1));
        scene.nothing_is_left(&before, &round);
    }
    eprintln!("killed during a pod's life: {tally:?}; {interrupted:?} were not answered");
    assert_killed(&tally);
    let missed = CALLS.map(|call| format!("{call:?}")).into_iter().find(|call| !interrupted.contains(call));
    assert!(!is_long() || missed.is_none(), "{missed:?}");
    assert_eq!(host_pid(&cri, &scene.steady.counts), pid, "it is the same process");
    nothing_is_lost(&host, &cri, &scene.steady);
    cri.remove_sandbox(&scene.steady.id).unwrap();
    all_are_listed(&cri, "the end");
}

/// Kills the server, which leaves the steady pod without a supervisor, a sandbox that was not set up, one that no plugin has agreed to,
/// and the state of one that was not even reserved.
fn leave(cri: &mut Cri<'_>, steady: &Steady) {
    let [early, undecided] = ["early", "undecided"].map(|name| cri.sandbox(&sandbox(cri.host, name)));
    cri.kill();
    kill_supervisor(cri.host, &steady.id);
    kill_early(cri.host, &early);
    std::fs::write(cri.host.path("state/pods").join(undecided).join("undecided"), "").unwrap();
    cri.host.folder("state/pods/unnamed");
}

fn only_the_steady_one_is_there(cri: &Cri<'_>, round: &str) {
    all_are_listed(cri, round);
    assert_eq!(cri.sandboxes().len(), 1, "{round}: there is more than the steady one");
}

/// A trace of a server's start without the calls of what it has forked, whose last is execve(2): a pod ends if one supervisor after the
/// other is killed before it is one.
fn without_forked(trace: &str) -> String {
    let has_executed = |(process, call)| (call == "execve").then_some(process);
    // So has the server, at first.
    let after = || trace.lines().skip(1);
    let forked: BTreeSet<&str> = after().filter_map(called).filter_map(has_executed).collect();
    let is_own = |line: &&str| called(line).is_some_and(|(process, _)| !forked.contains(process));
    after().filter(is_own).flat_map(|line| [line, "\n"]).collect()
}

/// Starts a server whose calls are traced, and kills it if it comes to serve.
fn start_traced(cri: &mut Cri<'_>, options: &[String]) -> (String, Killed) {
    let path = cri.host.path("trace");
    let mut words = strace(&path, options);
    // The server is the test's own child, and strace a child of that.
    words.insert(1, "-D".to_owned());
    cri.restart_by(&words);
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    cri.serves();
    let killed = Killed::of(&read(), cri);
    if killed != Killed::Server {
        cri.server.signal(Signal::SIGKILL);
    }
    // Also for strace, who has its output.
    cri.server.wait();
    (read(), killed)
}

#[test]
fn e7_a_server_can_be_killed_before_each_system_call_of_its_start() {
    let Some(host) = Host::new(&["strace", "ip", "nft"]) else { return };
    let network = host.own_network();
    let mut cri = Cri::start(&host, "");
    let look = || leaks::on_network(&network);
    let scene = Scene { host: &host, steady: Steady::new(&cri), look: &look };
    let (seen, before) = (Seen::of(&cri, &scene.steady), scene.traces());
    let pid = host_pid(&cri, &scene.steady.counts);
    leave(&mut cri, &scene.steady);
    let (trace, _) = start_traced(&mut cri, &[]);
    cri.restart();
    only_the_steady_one_is_there(&cri, "the rehearsal");
    let mut tally = Tally::default();
    for case in cases(&without_forked(&trace), 5) {
        leave(&mut cri, &scene.steady);
        let (_, killed) = start_traced(&mut cri, &case.options());
        let round = format!("{case}: {killed:?} killed while it starts");
        // What fails next is about this.
        eprintln!("{round}");
        *tally.entry(killed).or_default() += 1;
        cri.restart();
        only_the_steady_one_is_there(&cri, &round);
        check(&cri, &scene.steady, &seen);
        scene.each_is_there_once(&cri, &round);
        scene.nothing_is_left(&before, &round);
    }
    eprintln!("killed while it starts: {tally:?}");
    assert_killed(&tally);
    assert_eq!(host_pid(&cri, &scene.steady.counts), pid, "it is the same process");
    std::fs::write(format!("/proc/{}/root/end", host_pid_of(&host, "ends")), "").unwrap();
    cri.until_exited(&scene.steady.ends);
    nothing_is_lost(&host, &cri, &scene.steady);
    cri.remove_sandbox(&scene.steady.id).unwrap();
    all_are_listed(&cri, "the end");
}
