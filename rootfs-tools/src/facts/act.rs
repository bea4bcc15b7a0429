//! What `facts` does on request: end, wait, take memory, fork, write.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use serde_json::json;

use super::journal::Journal;
use super::{print, sys};
use crate::sys::Signals;

/// A flag of a subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// Given.
    On,
    /// Not given.
    Off,
}

/// Where a text goes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In place of what is there.
    Whole,
    /// After what is there.
    End,
}

/// How long to look for something that another process does.
const LOOK: Duration = Duration::from_millis(20);

pub(super) fn sleep(time: Option<Duration>) -> Result<u8> {
    let signals = Signals::termination()?;
    match time {
        Some(time) => signals.wait_for(time).map(drop)?,
        None => signals.wait().map(drop)?,
    }
    Ok(0)
}

pub(super) fn ignore_term() -> Result<u8> {
    sys::ignore_term();
    print("ready\n")?;
    sys::pause()
}

pub(super) fn trap_term(code: u8) -> Result<u8> {
    let signals = Signals::termination()?;
    print("ready\n")?;
    let name = if signals.wait()? == libc::SIGTERM { "TERM" } else { "INT" };
    print(&format!("got {name}\n"))?;
    Ok(code)
}

/// What to do about a signal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trap<'a> {
    /// Its name without SIG, or its number.
    pub(super) signal: &'a str,
    /// How long to go on.
    pub(super) wait: Duration,
    /// The exit code.
    pub(super) code: u8,
}

const SIGNALS: [(&str, i32); 8] = [
    ("TERM", libc::SIGTERM),
    ("INT", libc::SIGINT),
    ("HUP", libc::SIGHUP),
    ("QUIT", libc::SIGQUIT),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("WINCH", libc::SIGWINCH),
    ("PWR", libc::SIGPWR),
];

/// All these signals are noted, but only the named one makes it end.
pub(super) fn trap(trap: &Trap<'_>, journal: &Journal) -> Result<u8> {
    let known = SIGNALS.iter().find(|(name, _)| *name == trap.signal).map(|(_, number)| *number);
    let wanted = match known {
        Some(number) => number,
        None => trap.signal.parse().ok().with_context(|| format!("--signal: {:?} is not known", trap.signal))?,
    };
    let all: Vec<i32> = SIGNALS.iter().map(|(_, number)| *number).chain([wanted]).collect();
    let signals = Signals::block(&all)?;
    journal.write(json!({ "what": "ready" }))?;
    loop {
        let signal = signals.wait()?;
        let name = SIGNALS.iter().find(|(_, number)| *number == signal).map(|(name, _)| (*name).to_owned());
        journal.write(json!({ "what": format!("got {}", name.unwrap_or_else(|| signal.to_string())) }))?;
        if signal == wanted {
            break;
        }
    }
    thread::sleep(trap.wait);
    journal.write(json!({ "what": "ends" }))?;
    Ok(trap.code)
}

/// The kernel kills a child that takes too much; where it kills the whole cgroup at once, that is this process's end too.
pub(super) fn alloc_child(mib: usize, code: u8) -> Result<u8> {
    let child = sys::spawn(|| {
        let held: Vec<Vec<u8>> = (0..mib).map(|_| black_box(vec![0xa5_u8; 1 << 20])).collect();
        black_box(&held);
        0
    });
    let status = sys::wait(child.context("fork")?).context("waiting for the child")?;
    print(&format!("the child ended: {status}\n"))?;
    Ok(code)
}

/// A segment of shared memory outlives whoever made it: it goes with its ipc namespace.
pub(super) fn shm(key: i32, mib: usize) -> Result<u8> {
    let size = mib.checked_mul(1 << 20).context("MIB: too large")?;
    sys::fill_segment(key, size).with_context(|| format!("a segment of {mib} MiB with key {key}"))?;
    print(&format!("{mib} MiB\n"))?;
    Ok(0)
}

pub(super) fn alloc(mib: usize) -> Result<u8> {
    let signals = Signals::termination()?;
    let mut held = Vec::with_capacity(mib);
    for _ in 0..mib {
        // Not zero: the kernel would not have to give a page for that.
        held.push(vec![0xa5_u8; 1 << 20]);
        black_box(held.last());
    }
    print(&format!("allocated {mib} MiB\n"))?;
    signals.wait()?;
    black_box(&held);
    Ok(0)
}

pub(super) fn fork(count: u32, hold: Switch) -> Result<u8> {
    let signals = Signals::termination()?;
    let mut children = Vec::new();
    let mut error = None;
    for _ in 0..count {
        match sys::spawn(|| sys::pause()) {
            Ok(pid) => children.push(pid),
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    let said = match &error {
        None => print(&format!("forked {count}\n")),
        Some(e) => print(&format!("forked {} of {count}: {e}\n", children.len())),
    };
    if hold == Switch::On && said.is_ok() {
        signals.wait()?;
    }
    for child in children {
        sys::kill(child);
        sys::wait(child)?;
    }
    said?;
    Ok(u8::from(error.is_some()))
}

pub(super) fn zombies(count: u32, orphans: Switch) -> Result<u8> {
    let signals = Signals::termination()?;
    for _ in 0..count {
        match orphans {
            Switch::Off => drop(sys::spawn(|| 0).context("fork")?),
            Switch::On => {
                // The grandchild outlives its parent a little, so that pid 1 inherits it before it ends.
                let parent = sys::spawn(|| {
                    let grandchild = sys::spawn(|| {
                        thread::sleep(Duration::from_millis(50));
                        0
                    });
                    i32::from(grandchild.is_err())
                });
                sys::wait(parent.context("fork")?).context("waiting for a child")?;
            }
        }
    }
    print(&format!("left {count}\n"))?;
    signals.wait()?;
    Ok(0)
}

pub(super) fn write(path: &str, text: &str, place: Place) -> Result<u8> {
    let mut file = match place {
        Place::Whole => File::create(path),
        Place::End => OpenOptions::new().append(true).create(true).open(path),
    }
    .with_context(|| format!("opening {path}"))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {path}"))?;
    Ok(0)
}

/// Sets an extended attribute.
pub(super) fn xattr(path: &str, name: &str, value: &str) -> Result<u8> {
    sys::set_xattr(path, name, value).with_context(|| format!("setxattr {path} {name}"))?;
    Ok(0)
}

/// Lines `00000001 xxxx…`, `len` bytes each without the newline.
pub(super) fn spam(lines: u64, len: usize) -> Result<u8> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    for number in 1..=lines {
        let mut line = format!("{number:08} ");
        line.extend(std::iter::repeat_n('x', len.saturating_sub(line.len())));
        line.truncate(len.max(8));
        writeln!(out, "{line}").context("writing stdout")?;
    }
    out.flush().context("writing stdout")?;
    Ok(0)
}

pub(super) fn wait_file(path: &str, patience: Option<Duration>) -> Result<u8> {
    let signals = Signals::termination()?;
    let start = Instant::now();
    while !Path::new(path).exists() {
        if patience.is_some_and(|p| start.elapsed() >= p) {
            print(&format!("{path} did not come\n"))?;
            return Ok(1);
        }
        if let Some(signal) = signals.wait_for(LOOK)? {
            return Ok(128 + u8::try_from(signal).unwrap_or(0));
        }
    }
    Ok(0)
}
