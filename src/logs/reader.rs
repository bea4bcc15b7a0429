//! Reads what is in a log now.

use super::chain::{Chain, Stopped};
use super::{Record, dir};
use crate::error::{Kind, failure};
use crate::sys::SysResult;
use anyhow::{Context, Result};
use jiff::Timestamp;
use nix::errno::Errno;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Whether times are printed before lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timestamps {
    /// Only what the container wrote.
    #[default]
    Hidden,
    /// The record's time, as in the log, and a space, at the start of each line.
    Shown,
}

/// Which of the records, as `kubectl logs` has it.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The last so many lines, counted before `since` is looked at (as a kubelet does); a line in several records is one.
    pub tail: Option<u64>,
    /// Lines that begin at that time or later.
    pub since: Option<Timestamp>,
    /// Whether times will be printed: they count for `limit_bytes`.
    pub timestamps: Timestamps,
    /// The text ends after so many bytes, within a line if need be.
    pub limit_bytes: Option<u64>,
}

/// Which instance of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instance {
    /// The one with the highest restart count.
    Newest,
    /// The one before the newest (`--previous`).
    Previous,
    /// The one with this restart count.
    Number(u32),
}

/// Which log.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The pod's log directory.
    pub pod_logs: &'a Path,
    /// The container's name.
    pub container: &'a str,
    /// Which of its instances.
    pub instance: Instance,
}

/// The restart counts of which the container has logs, ascending. Empty if it has none, or no directory.
pub fn instances(pod_logs: &Path, container: &str) -> SysResult<Vec<u32>> {
    match dir::open_dir(pod_logs).and_then(|pod| dir::open_container_dir(pod, container)) {
        Ok(dir) => Ok(dir::Listing::read(dir)?.instances),
        Err(error) if error.errno() == Errno::ENOENT => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The records of one instance's log, oldest first, as far as it went when it was opened: the rotated files, then the one
/// being written. (A kubelet reads only the last of these, so `kubectl logs` forgets what was rotated.)
///
/// Lines of the files that are no records are skipped.
pub struct Reader {
    chain: Chain,
    ready: VecDeque<Record>,
    at_end: bool,
    query: Query,
    /// Bytes of text that may still be given, if limited.
    left: Option<u64>,
}

impl Reader {
    /// Opens a log. [`Kind::NotFound`] if there is none of that container, or no such instance.
    pub fn open(source: Source<'_>, query: Query) -> Result<Self> {
        let Source { pod_logs, container, instance } = source;
        let counts = instances(pod_logs, container).with_context(|| format!("reading the logs of {container}"))?;
        let chosen = match instance {
            Instance::Newest => counts.last().copied(),
            Instance::Previous => counts.iter().rev().nth(1).copied(),
            Instance::Number(number) => counts.contains(&number).then_some(number),
        };
        let restart_count = chosen.ok_or_else(|| {
            let message = match instance {
                Instance::Newest => format!("container \"{container}\" has no log yet"),
                Instance::Previous => format!("previous terminated container \"{container}\" not found"),
                Instance::Number(number) => format!("container \"{container}\" has no log of restart {number}"),
            };
            failure(Kind::NotFound, message)
        })?;
        let open = || -> SysResult<Chain> {
            let dir = dir::open_container_dir(dir::open_dir(pod_logs)?, container)?;
            prepared(dir, restart_count, &query)
        };
        let chain = match open() {
            // It was listed a moment ago.
            Err(error) if error.errno() == Errno::ENOENT => {
                let message =
                    format!("the log {restart_count} of container \"{container}\" is gone: it was removed meanwhile");
                return Err(failure(Kind::NotFound, message));
            }
            other => other.with_context(|| format!("reading the log {restart_count} of {container}"))?,
        };
        let left = query.limit_bytes;
        Ok(Reader { chain, ready: VecDeque::new(), at_end: false, query, left })
    }

    fn limited(&mut self, mut record: Record) -> Option<Record> {
        let Some(left) = self.left else { return Some(record) };
        let text = record.text(self.query.timestamps).len() as u64;
        if left == 0 {
            return None;
        }
        self.left = Some(left.saturating_sub(text));
        if text > left {
            let stamp = text - record.bytes.len() as u64 - u64::from(record.complete);
            // At least the stamp is given: a piece of it would say something wrong.
            record.bytes.truncate(left.saturating_sub(stamp) as usize);
            record.complete = false;
        }
        Some(record)
    }
}

impl Iterator for Reader {
    type Item = SysResult<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.at_end {
            let mut records = Vec::new();
            match self.chain.read(&mut records, 1) {
                Ok(stopped) => self.at_end = stopped == Stopped::AtEnd,
                Err(error) => {
                    self.at_end = true;
                    return Some(Err(error));
                }
            }
            self.ready = records.into();
        }
        let record = self.ready.pop_front()?;
        self.limited(record).map(Ok)
    }
}

fn prepared(dir: OwnedFd, restart_count: u32, query: &Query) -> SysResult<Chain> {
    let mut chain = Chain::open(dir, restart_count)?;
    chain.stop_at_present_end()?;
    chain.since(query.since);
    if let Some(lines) = query.tail {
        chain.tail(lines)?;
    }
    Ok(chain)
}

/// The last lines of one instance's log, of both streams: at most `lines`, of them the last `bytes` bytes. For the
/// termination message of a container that left none (FallbackToLogsOnError: 80 lines, 2048 bytes).
///
/// `path` is `<pod logs>/<container>/<restart count>.log`; no log is no lines. Holds `bytes` and a block of 32 KiB.
pub fn last_lines(path: &Path, lines: u64, bytes: usize) -> Result<String> {
    let context = || format!("reading the last lines of {}", path.display());
    let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
    let restart_count = number.and_then(|n| n.parse().ok()).context("not a log's name").with_context(context)?;
    let open =
        |dir: &Path| prepared(dir::open_dir(dir)?, restart_count, &Query { tail: Some(lines), ..Query::default() });
    let mut chain = match open(path.parent().unwrap_or(Path::new("."))) {
        Ok(chain) => chain,
        Err(error) if error.errno() == Errno::ENOENT => return Ok(String::new()),
        Err(error) => return Err(error).with_context(context),
    };
    let mut text = Vec::new();
    loop {
        let mut records = Vec::new();
        let stopped = chain.read(&mut records, 1).with_context(context)?;
        for record in records {
            text.extend(record.text(Timestamps::Hidden));
            text.drain(..text.len().saturating_sub(bytes));
        }
        if stopped == Stopped::AtEnd {
            break;
        }
    }
    // The cut may be within a character: leave out its rest.
    let rest = text.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
    Ok(String::from_utf8_lossy(&text[rest..]).into_owned())
}
