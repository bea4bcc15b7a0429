//! Processes, from proc(5).

use super::super::model::{Kind, Namespaces, Process, Processes};
use super::super::text::plain;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How many processes of a container are looked at.
const MOST: usize = 64;
/// How much of a command line is read, and how many characters of it are kept.
const COMMAND: (u64, usize) = (4096, 240);
/// No file of `/proc/PID` that is read here is longer.
const SMALL: u64 = 64 << 10;

/// What there is to know of processes, oldest first.
pub(super) fn of(pids: &BTreeSet<Pid>) -> Processes {
    let mut shown: Vec<(u64, Process)> = pids.iter().take(MOST).filter_map(|pid| process(pid.as_raw())).collect();
    shown.sort_by_key(|(ticks, process)| (*ticks, process.pid));
    Processes { shown: shown.into_iter().map(|(_, process)| process).collect(), more: pids.len().saturating_sub(MOST) }
}

/// The inode numbers of a directory like `/proc/PID/ns`.
pub(super) fn namespaces(dir: &Path) -> Namespaces {
    let of = |kind: Kind| std::fs::metadata(dir.join(kind.file())).ok().map(|found| (kind, found.ino()));
    Kind::ALL.into_iter().filter_map(of).collect()
}

/// A process, with the clock ticks since boot when it was started; `None` if it is gone, or has ended and waits for its parent.
fn process(pid: i32) -> Option<(u64, Process)> {
    let dir = Path::new("/proc").join(pid.to_string());
    let before = start(&dir)?;
    let status = read(&dir.join("status"), SMALL)?;
    let namespaces = namespaces(&dir.join("ns"));
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let numbers = |name: &str| field(name).unwrap_or("").split_whitespace();
    let command = read(&dir.join("cmdline"), COMMAND.0)?;
    let command = match command.trim_end_matches('\0') {
        "" => format!("[{}]", field("Name").unwrap_or("").trim()),
        words => words.replace('\0', " "),
    };
    let process = Process {
        pid,
        inside: numbers("NSpid").next_back()?.parse().ok()?,
        parent: numbers("PPid").next()?.parse().ok()?,
        command: plain(&command, COMMAND.1),
        // Real, effective, saved, of the file system.
        uid: numbers("Uid").nth(1)?.parse().ok()?,
        resident: numbers("VmRSS").next().and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib << 10),
        started_ms: since_boot_to_epoch(before)?,
        namespaces,
    };
    // Another one of the same number would have been started later.
    (start(&dir)? == before && !process.namespaces.is_empty()).then_some((before, process))
}

/// Field 22 of proc_pid_stat(5): clock ticks since boot.
fn start(dir: &Path) -> Option<u64> {
    let stat = read(&dir.join("stat"), SMALL)?;
    // The name in parentheses may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Clock ticks since boot as milliseconds since 1970.
fn since_boot_to_epoch(ticks: u64) -> Option<i64> {
    use nix::time::{ClockId, clock_gettime};
    // sysconf(_SC_CLK_TCK) is 100 on every Linux that podshim runs on (USER_HZ, asm-generic/param.h).
    const MS_PER_TICK: i64 = 10;
    let ms = |clock: ClockId| {
        let now = clock_gettime(clock).ok()?;
        Some(now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000)
    };
    let boot = ms(ClockId::CLOCK_REALTIME)? - ms(ClockId::CLOCK_BOOTTIME)?;
    Some(boot + i64::try_from(ticks).ok()? * MS_PER_TICK)
}

/// The beginning of a file, if there is one.
fn read(path: &Path, most: u64) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process() {
        let pid = std::process::id() as i32;
        let (_, found) = process(pid).unwrap();
        assert_eq!((found.pid, found.uid), (pid, nix::unistd::geteuid().as_raw()));
        assert_eq!(found.parent, nix::unistd::getppid().as_raw());
        assert!(found.command.contains("podshim"), "{}", found.command);
        assert!(found.resident.unwrap() > 1 << 20);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        assert!((0..3_600_000).contains(&(now - found.started_ms)), "{} {now}", found.started_ms);
        let net = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
        assert_eq!(net, format!("net:[{}]", found.namespaces[&Kind::Net]));
        assert_eq!(process(i32::MAX), None);
    }
}
