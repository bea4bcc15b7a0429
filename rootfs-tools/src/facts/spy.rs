//! What `facts` does as an attacker: exchanges names in a loop, and looks into processes that appear.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::{print, sys};
use crate::sys::Signals;

/// Exchanges two names (`renameat2(2)`, RENAME_EXCHANGE) until TERM; says how often it did.
pub(super) fn flip(a: &str, b: &str) -> Result<u8> {
    let signals = Signals::termination()?;
    sys::exchange(a, b).with_context(|| format!("exchanging {a} and {b}"))?;
    print("ready\n")?;
    let mut count = 1_u64;
    loop {
        for _ in 0..64 {
            sys::exchange(a, b).with_context(|| format!("exchanging {a} and {b}"))?;
            count += 1;
        }
        if signals.wait_for(Duration::ZERO)?.is_some() {
            print(&format!("exchanged {count} times\n"))?;
            return Ok(0);
        }
    }
}

/// Most descriptors of foreign programs that are kept.
const MAX_KEPT: usize = 64;

/// Opens the program of every process but those of this very image, for reading and, at once and later through its own
/// descriptor, for writing (CVE-2019-5736), until TERM. Writes nothing.
pub(super) fn poll_exe() -> Result<u8> {
    let signals = Signals::termination()?;
    let own = program("self").context("this program")?;
    let mut kept: BTreeMap<(u64, u64), File> = BTreeMap::new();
    let (mut rounds, mut seen, mut writable) = (0_u64, 0_u64, 0_u64);
    print("ready\n")?;
    while signals.wait_for(Duration::ZERO)?.is_none() {
        rounds += 1;
        for pid in processes() {
            let path = format!("/proc/{pid}/exe");
            let Ok(file) = File::open(&path) else { continue };
            let Ok(found) = file.metadata() else { continue };
            let key = (found.dev(), found.ino());
            if key == own {
                continue;
            }
            seen += 1;
            writable += u64::from(OpenOptions::new().write(true).open(&path).is_ok());
            if kept.len() < MAX_KEPT {
                kept.entry(key).or_insert(file);
            }
        }
        for file in kept.values() {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            writable += u64::from(OpenOptions::new().write(true).open(path).is_ok());
        }
    }
    let report = json!({ "rounds": rounds, "seen": seen, "programs": kept.len(), "writable": writable });
    print(&format!("{report}\n"))?;
    Ok(0)
}

fn program(pid: &str) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/exe")).ok().map(|m| (m.dev(), m.ino()))
}

fn processes() -> impl Iterator<Item = i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(move |pid| *pid > 1 && *pid != own)
}

/// Looks into every process with this name (`/proc/<pid>/comm`) in the ways that take what ptrace(2) takes, until TERM: it
/// has the name before and after, so it had not executed anything else meanwhile (CVE-2016-9962).
pub(super) fn peek(name: &str) -> Result<u8> {
    let signals = Signals::termination()?;
    let (mut tried, mut found) = (0_u64, BTreeMap::<&str, u64>::new());
    let has_name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    print("ready\n")?;
    while signals.wait_for(Duration::ZERO)?.is_none() {
        for pid in processes().filter(|pid| has_name(*pid)) {
            let at = |what: &str| format!("/proc/{pid}/{what}");
            let ways: [(&'static str, &dyn Fn() -> bool); 5] = [
                ("mem", &|| File::open(at("mem")).is_ok()),
                ("environ", &|| File::open(at("environ")).is_ok()),
                ("fd", &|| fs::read_link(at("fd/0")).is_ok()),
                ("root", &|| fs::read_link(at("root")).is_ok()),
                ("exe", &|| fs::read_link(at("exe")).is_ok()),
            ];
            for (way, succeeds) in ways {
                tried += 1;
                if succeeds() && has_name(pid) {
                    *found.entry(way).or_default() += 1;
                }
            }
        }
    }
    print(&format!("{}\n", json!({ "tried": tried, "found": found })))?;
    Ok(0)
}

/// Makes files and directories immutable.
pub(super) fn immutable(paths: &[&str]) -> Result<u8> {
    for path in paths {
        let file = File::open(path).with_context(|| format!("opening {path}"))?;
        sys::make_immutable(&file).with_context(|| format!("making {path} immutable"))?;
    }
    Ok(0)
}

/// Speaks to somebody's socket: prints `answer TEXT`, `closed`, or `error` with the errno's text.
pub(super) fn ask(socket: &str, text: &str) -> Result<u8> {
    let said = match sys::ask(socket, text.as_bytes()) {
        Ok(answer) if answer.is_empty() => "closed".to_owned(),
        Ok(answer) => format!("answer {}", String::from_utf8_lossy(&answer)),
        Err(error) => format!("error {error}"),
    };
    print(&format!("{said}\n"))?;
    Ok(0)
}

/// Takes a lease on a file (`fcntl(2)`, F_SETLEASE): whoever opens it for writing is kept waiting until the kernel takes it away.
pub(super) fn lease(path: &str) -> Result<u8> {
    let signals = Signals::termination()?;
    let file = File::open(path).with_context(|| format!("opening {path}"))?;
    sys::take_lease(&file).with_context(|| format!("a lease on {path}"))?;
    print("ready\n")?;
    signals.wait()?;
    Ok(0)
}

/// What a process does to be served before all others: the errno of each, 0 if it may.
pub(super) fn ahead() -> Result<u8> {
    let errno = |result: std::io::Result<()>| result.err().and_then(|e| e.raw_os_error()).unwrap_or(0);
    let raw = |call, args| errno(sys::raw(call, args).map(drop));
    let priority = 50_i32;
    let files: [u64; 2] = [1 << 21, 1 << 21];
    let at = |address: usize| libc::c_long::try_from(address).unwrap_or(0);
    let fifo = [0, libc::SCHED_FIFO.into(), at((&raw const priority).addr()), 0, 0];
    let more = [0, libc::c_long::from(libc::RLIMIT_NOFILE as i32), at(files.as_ptr().addr()), 0, 0];
    let report = json!({
        "nice": raw(libc::SYS_setpriority, [0, 0, -20, 0, 0]),
        "fifo": raw(libc::SYS_sched_setscheduler, fifo),
        "oom_score_adj": errno(fs::write("/proc/self/oom_score_adj", "-1000")),
        "nofile": raw(libc::SYS_prlimit64, more),
        "realtime_io": raw(libc::SYS_ioprio_set, [1, 0, 1 << 13, 0, 0]),
    });
    print(&format!("{report}\n"))?;
    Ok(0)
}

/// Executes a program in a new session (`session-keyring(7)`), as a login has one, with a key in it.
pub(super) fn in_session(key: &str, program: &str, args: &[OsString]) -> Result<u8> {
    sys::new_session_with_key(key).context("a new session keyring")?;
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("executing {program}"))
}

/// Looks for a key in the session that this process is in.
pub(super) fn keyring(key: &str) -> Result<u8> {
    let (number, found) = sys::session_key(key).context("the session keyring")?;
    print(&format!("{number} {}\n", if found.is_ok() { "found" } else { "none" }))?;
    Ok(0)
}
