//! What the `filebeat-configured` image runs: follows the `*.log` files of a folder and emits each line once, as JSON.
//!
//! A file is known by device and inode, and stays open for as long as it has a name or something unread, so that an
//! inode number is never taken for another file's: a rename (rotation) changes nothing, a new file under the old name
//! is another file. A file that became shorter, or whose bytes before the reading position are others than were read,
//! was truncated and is read from its start (copytruncate; what was not read before it is lost to any reader).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::clock::Civil;
use crate::sys::Signals;

/// The folder that is watched, unless `FILEBEAT_DIR` says otherwise.
pub const DEFAULT_DIR: &str = "/var/log/event-simulator";
/// From one look to the next, unless `FILEBEAT_SCAN_MS` says otherwise.
pub const DEFAULT_SCAN: Duration = Duration::from_millis(200);
/// How long a removed file is still read: its writer may not know yet.
const KEEP_REMOVED: Duration = Duration::from_secs(10);
/// The longest message, in bytes; the rest of a longer line is left out and the event says so.
const MAX_LINE: usize = 1 << 20;
/// How much is read at once, in bytes.
const CHUNK: usize = 1 << 16;
/// How many of the bytes read last are remembered, to notice that a file was truncated and has grown again.
const FINGERPRINT: usize = 256;

/// Follows the `*.log` files of one folder.
#[derive(Debug)]
pub struct Shipper {
    dir: PathBuf,
    keep_removed: Duration,
    /// In the order in which they appeared, so that a rotated file comes before its successor.
    tails: Vec<Tail>,
}

#[derive(Debug)]
struct Tail {
    /// Device and inode.
    id: (u64, u64),
    file: File,
    /// The latest `*.log` name.
    path: PathBuf,
    /// Where the first line that has not been emitted begins.
    offset: u64,
    /// The bytes just before `offset`.
    fingerprint: Vec<u8>,
    /// Whether what comes up to the next newline belongs to a line already emitted, cut at [`MAX_LINE`].
    cut: bool,
    /// Since when it has had no name and nothing new.
    removed: Option<Instant>,
}

impl Shipper {
    /// For the folder `dir`, which need not be there yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), keep_removed: KEEP_REMOVED, tails: Vec::new() }
    }

    /// Looks once: finds new files, emits all complete lines that have not been emitted, a JSON object per line. Gives
    /// the number of lines. Fails if `out` does, or a file cannot be read.
    pub fn scan(&mut self, out: &mut dyn Write) -> Result<usize> {
        self.discover()?;
        let mut lines = 0;
        let now = Instant::now();
        let mut kept = Vec::with_capacity(self.tails.len());
        for mut tail in self.tails.drain(..) {
            let new = tail.drain(out).with_context(|| format!("following {}", tail.path.display()))?;
            lines += new;
            let meta = tail.file.metadata().with_context(|| format!("following {}", tail.path.display()))?;
            if meta.nlink() > 0 || new > 0 {
                tail.removed = None;
            } else if now.duration_since(*tail.removed.get_or_insert(now)) >= self.keep_removed {
                lines += tail.last_words(out)?;
                continue;
            }
            kept.push(tail);
        }
        self.tails = kept;
        out.flush().context("writing events")?;
        Ok(lines)
    }

    /// Looks every `interval` until a signal comes, then once more for what is there, and ends.
    pub fn run(&mut self, interval: Duration, signals: &Signals, out: &mut dyn Write) -> Result<()> {
        loop {
            self.scan(out)?;
            if signals.wait_for(interval)?.is_some() {
                self.scan(out)?;
                return Ok(());
            }
        }
    }

    fn discover(&mut self) -> Result<()> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.with_context(|| format!("listing {}", self.dir.display()))?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("listing {}", self.dir.display()))?.path();
            if path.extension().is_some_and(|e| e == "log") {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            let Some((file, id)) = open(&path)? else { continue };
            match self.tails.iter_mut().find(|t| t.id == id) {
                Some(known) => known.path = path,
                None => self.tails.push(Tail {
                    id,
                    file,
                    path,
                    offset: 0,
                    fingerprint: Vec::new(),
                    cut: false,
                    removed: None,
                }),
            }
        }
        Ok(())
    }
}

/// Opens a regular file; `None` for what is none, or went away between listing and opening.
fn open(path: &Path) -> Result<Option<(File, (u64, u64))>> {
    // Non-blocking: a pipe of that name must not hold us up.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("opening {}", path.display()))?,
    };
    let meta = file.metadata().with_context(|| format!("reading {}", path.display()))?;
    Ok(meta.is_file().then_some((file, (meta.dev(), meta.ino()))))
}

impl Tail {
    /// Emits the complete lines up to the end of the file as it is now.
    fn drain(&mut self, out: &mut dyn Write) -> Result<usize> {
        let end = self.file.metadata()?.len();
        if end < self.offset || !self.fingerprint_matches()? {
            (self.offset, self.cut) = (0, false);
            self.fingerprint.clear();
        }
        let mut lines = 0;
        let mut pending = Vec::new();
        // An end that is fixed at the start: a busy writer cannot hold up the other files, nor the last look.
        while self.offset + (pending.len() as u64) < end {
            let at = self.offset + pending.len() as u64;
            let mut chunk = vec![0; CHUNK.min(usize::try_from(end - at).unwrap_or(CHUNK))];
            let got = self.file.read_at(&mut chunk, at)?;
            if got == 0 {
                break;
            }
            pending.extend_from_slice(&chunk[..got]);
            lines += self.emit_lines(&mut pending, out)?;
        }
        Ok(lines)
    }

    /// Emits the lines that are complete in `pending`, and leaves the rest there.
    fn emit_lines(&mut self, pending: &mut Vec<u8>, out: &mut dyn Write) -> Result<usize> {
        let (mut lines, mut start) = (0, 0);
        while let Some(len) = pending[start..].iter().position(|b| *b == b'\n') {
            let line = &pending[start..start + len];
            if !self.cut {
                self.emit(line, out)?;
                lines += 1;
            }
            self.cut = false;
            self.advance(&pending[start..=start + len]);
            start += len + 1;
        }
        pending.drain(..start);
        if pending.len() >= MAX_LINE {
            if !self.cut {
                self.emit(pending, out)?;
                lines += 1;
            }
            self.cut = true;
            self.advance(pending);
            pending.clear();
        }
        Ok(lines)
    }

    /// What a removed file ends with, without a newline that can come no more.
    fn last_words(&mut self, out: &mut dyn Write) -> Result<usize> {
        let rest = self.file.metadata()?.len().saturating_sub(self.offset);
        if rest == 0 || self.cut {
            return Ok(0);
        }
        let mut line = vec![0; usize::try_from(rest).unwrap_or(MAX_LINE).min(MAX_LINE)];
        self.file.read_exact_at(&mut line, self.offset)?;
        self.emit(&line, out)?;
        Ok(1)
    }

    fn emit(&self, line: &[u8], out: &mut dyn Write) -> Result<()> {
        let mut event = self.event(line).to_string();
        event.push('\n');
        out.write_all(event.as_bytes()).context("writing events")
    }

    /// The event of one line, with filebeat's field names (nested, as its console output has them).
    fn event(&self, line: &[u8]) -> Value {
        let text = &line[..line.len().min(MAX_LINE)];
        // After a copytruncate a writer without O_APPEND leaves a hole of zeros before its next line.
        let zeros = text.iter().take_while(|b| **b == 0).count();
        let text = text[zeros..].strip_suffix(b"\r").unwrap_or(&text[zeros..]);
        let mut log = json!({ "offset": self.offset, "file": { "path": self.path.display().to_string() } });
        if line.len() >= MAX_LINE {
            log["flags"] = json!(["truncated"]);
        }
        json!({
            "@timestamp": Civil::now().rfc3339_millis(),
            "message": String::from_utf8_lossy(text),
            "log": log,
            "input": { "type": "filestream" },
            "agent": { "type": "filebeat" },
        })
    }

    fn advance(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.fingerprint.extend_from_slice(&bytes[bytes.len().saturating_sub(FINGERPRINT)..]);
        let excess = self.fingerprint.len().saturating_sub(FINGERPRINT);
        self.fingerprint.drain(..excess);
    }

    /// Whether the bytes before the reading position are still those that were read.
    fn fingerprint_matches(&self) -> Result<bool> {
        let mut bytes = vec![0; self.fingerprint.len()];
        let start = self.offset - bytes.len() as u64;
        match self.file.read_exact_at(&mut bytes, start) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            other => Ok(other.map(|()| bytes == self.fingerprint)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        shipper: Shipper,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut shipper = Shipper::new(dir.path().join("logs"));
            shipper.keep_removed = Duration::ZERO;
            Self { dir, shipper }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("logs").join(name)
        }

        fn append(&self, name: &str, text: &str) {
            fs::create_dir_all(self.path("")).unwrap();
            let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn scan(&mut self) -> Vec<String> {
            self.events().iter().map(|e| e["message"].as_str().unwrap().to_string()).collect()
        }

        fn events(&mut self) -> Vec<Value> {
            let mut out = Vec::new();
            let lines = self.shipper.scan(&mut out).unwrap();
            let events: Vec<Value> =
                String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            assert_eq!(events.len(), lines);
            events
        }
    }

    #[test]
    fn folder_and_file_may_come_late_and_lines_wait_for_their_newline() {
        let mut bench = Bench::new();
        assert!(bench.scan().is_empty());
        bench.append("app.log", "one\ntw");
        bench.append("other.txt", "not a log\n");
        assert_eq!(bench.scan(), ["one"]);
        assert!(bench.scan().is_empty());
        bench.append("app.log", "o\r\n\n");
        let events = bench.events();
        assert_eq!(events[0]["message"], "two");
        assert_eq!(events[0]["log"]["offset"], 4);
        assert_eq!(events[0]["log"]["file"]["path"], bench.path("app.log").display().to_string());
        assert_eq!(events[1]["message"], "", "an empty line is a line");
        assert!(events[0]["@timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn rotation_by_rename_loses_and_repeats_nothing() {
        for (name, rotated) in [("to a name that is not followed", "app.log.1"), ("to one that is", "app-1.log")] {
            let mut bench = Bench::new();
            bench.append("app.log", "a\n");
            assert_eq!(bench.scan(), ["a"], "{name}");
            bench.append("app.log", "b\n");
            fs::rename(bench.path("app.log"), bench.path(rotated)).unwrap();
            bench.append("app.log", "d\n");
            bench.append(rotated, "c\n");
            assert_eq!(bench.scan(), ["b", "c", "d"], "{name}");
            bench.append(rotated, "a late one\n");
            assert_eq!(bench.scan(), ["a late one"], "{name}");
            fs::remove_file(bench.path(rotated)).unwrap();
            assert!(bench.scan().is_empty(), "{name}");
            bench.append("app.log", "e\n");
            assert_eq!(bench.scan(), ["e"], "{name}");
            assert_eq!(bench.shipper.tails.len(), 1, "{name}");
        }
    }

    #[test]
    fn a_removed_file_gives_its_last_line() {
        let mut bench = Bench::new();
        bench.append("app.log", "a\n");
        assert_eq!(bench.scan(), ["a"]);
        bench.append("app.log", "b\nno newline");
        fs::remove_file(bench.path("app.log")).unwrap();
        bench.append("app.log", "new\n");
        assert_eq!(bench.scan(), ["b", "new"], "something new keeps it");
        assert_eq!(bench.scan(), ["no newline"]);
        assert!(bench.scan().is_empty());
    }

    #[test]
    fn a_truncated_file_is_read_from_its_start() {
        for (name, after) in [("shorter", "x\n"), ("as long", "22\n"), ("longer", "another\nfile\n")] {
            let mut bench = Bench::new();
            bench.append("app.log", "11\n");
            assert_eq!(bench.scan(), ["11"], "{name}");
            File::create(bench.path("app.log")).unwrap();
            bench.append("app.log", after);
            assert_eq!(bench.scan(), after.lines().collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn zeros_that_a_truncation_left_are_dropped() {
        let mut bench = Bench::new();
        bench.append("app.log", "first\n");
        assert_eq!(bench.scan(), ["first"]);
        File::create(bench.path("app.log")).unwrap();
        bench.append("app.log", "\0\0\0\0\0\0second\n");
        assert_eq!(bench.scan(), ["second"]);
    }

    #[test]
    fn a_line_too_long_is_cut_once() {
        let mut bench = Bench::new();
        bench.append("app.log", &"x".repeat(3 * MAX_LINE));
        assert_eq!(bench.events()[0]["log"]["flags"], json!(["truncated"]));
        bench.append("app.log", "end\nnext\n");
        assert_eq!(bench.scan(), ["next"]);
    }

    #[test]
    fn hundreds_of_rotations_under_a_writer_give_each_line_once() {
        let mut bench = Bench::new();
        let (mut seen, mut written) = (Vec::new(), 0);
        for round in 0..300 {
            for _ in 0..round % 7 {
                written += 1;
                bench.append("app.log", &format!("{written}\n"));
            }
            if round % 3 == 0 && bench.path("app.log").exists() {
                // A reader that is late by two rotations must have seen a file once to follow it; so it looks first.
                seen.extend(bench.scan());
                if bench.path("app.log.1").exists() {
                    fs::rename(bench.path("app.log.1"), bench.path("app.log.2")).unwrap();
                }
                fs::rename(bench.path("app.log"), bench.path("app.log.1")).unwrap();
            }
        }
        seen.extend(bench.scan());
        assert_eq!(seen, (1..=written).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}
