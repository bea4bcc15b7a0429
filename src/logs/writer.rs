//! Writes one container instance's output to its log.

use super::dir::{self, Rotation};
use super::{MAX_RECORD, Stream};
use crate::sys::{Called, SysError, SysResult};
use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::sys::uio::pread;
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat, write};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A file that would grow above this many bytes is rotated first; None leaves rotation to someone else, who then
    /// calls [`Writer::reopen`]. A file is larger only if one record is.
    pub max_size: Option<u64>,
    /// Files per instance, with the one being written; at least 1. Older ones are removed.
    pub max_files: u32,
}

impl Default for Limits {
    /// A kubelet's `containerLogMaxSize` 10 MiB and `containerLogMaxFiles` 5.
    fn default() -> Self {
        Limits { max_size: Some(10 << 20), max_files: 5 }
    }
}

/// Which log.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The pod's log directory; made, with its parents, if it is not there (0755).
    pub pod_logs: &'a Path,
    /// The container's name.
    pub container: &'a str,
    /// The instance: the number of restarts before it.
    pub restart_count: u32,
}

/// What became of a piece of output. Nothing in it stops the container.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records of this piece that are not in the log, because it could not be written.
    pub lost: u64,
    /// The failure, the first time only of a series (of writing, or of rotating): worth one message.
    pub trouble: Option<SysError>,
    /// Writing works again; so many records were lost meanwhile, and the log says so.
    pub recovered: u64,
}

/// One instance's log, open for appending. Holds at most 16 KiB per stream, and those only within a line; and the memory that
/// records were put together in, at most 32 KiB where there was much output at once.
#[derive(Debug)]
pub struct Writer {
    dir: OwnedFd,
    /// The file's name in `dir`.
    name: String,
    /// The instance, whose rotated files are counted; `None` if somebody else names and rotates the files.
    instance: Option<u32>,
    limits: Limits,
    zone: TimeZone,
    live: Live,
    rotated: VecDeque<Rotation>,
    /// The bytes after the last newline, per stream.
    held: [Vec<u8>; 2],
    /// Room for a batch: to ask for it each time would cost more than what is done with it.
    room: Vec<u8>,
    /// Whether the stream's last record in the log was partial.
    within_line: [bool; 2],
    lost: Lost,
    /// Rotation failed: not tried again before.
    rotate_after: Option<Timestamp>,
    checked: Timestamp,
}

#[derive(Debug)]
struct Live {
    file: OwnedFd,
    size: u64,
    /// The file ends within a line that could not be taken back.
    torn: bool,
}

#[derive(Debug, Default)]
struct Lost {
    records: u64,
    bytes: u64,
    streams: [bool; 2],
    why: Option<SysError>,
}

/// Records of one stream, to be written by one write(2): each is a line. Copied together, as two parts a line (of writev(2)) cost
/// the kernel more than all else.
struct Batch {
    stream: Stream,
    now: Timestamp,
    outcome: Outcome,
    text: Vec<u8>,
}

/// The parts of one record.
struct Parts<'a> {
    head: &'a [u8],
    bytes: [&'a [u8]; 2],
}

/// Bytes in one write, at least those of one record.
const MAX_BATCH: usize = 2 * MAX_RECORD;

/// More than a record has besides its bytes.
const HEAD: usize = 64;

/// How long to wait before another attempt at rotating, in seconds: a kubelet looks as often.
const ROTATE_AGAIN: i64 = 10;

impl Writer {
    /// Opens (and makes, with its directories) the log. A log that is there already is continued.
    ///
    /// `zone` is the zone of the timestamps, `TimeZone::system()` for the kubelet's way.
    pub fn open(place: Place<'_>, limits: Limits, zone: TimeZone) -> Result<Self> {
        let Place { pod_logs, container, restart_count } = place;
        let dir = make_container_dir(pod_logs, container)
            .with_context(|| format!("making the log directory of container {container} in {}", pod_logs.display()))?;
        let name = dir::live_name(restart_count);
        Writer::open_in(dir, (name, Some(restart_count)), limits, zone)
            .with_context(|| format!("opening the log {}/{container}/{restart_count}.log", pod_logs.display()))
    }

    /// Opens the log file of this path, which somebody else named, and rotates (CRI's `log_path`); made, with its directories,
    /// if it is not there.
    pub fn open_file(path: &Path, zone: TimeZone) -> Result<Self> {
        let context = || format!("opening the log {}", path.display());
        let name = path.file_name().and_then(|name| name.to_str()).context("it has no name").with_context(context)?;
        let parent = path.parent().context("it is in no directory").with_context(context)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).called("mkdir", parent.display())?;
        let limits = Limits { max_size: None, max_files: 1 };
        Writer::open_in(dir::open_dir(parent)?, (name.to_owned(), None), limits, zone).with_context(context)
    }

    fn open_in(dir: OwnedFd, (name, instance): (String, Option<u32>), limits: Limits, zone: TimeZone) -> Result<Self> {
        let live = Live::open(&dir, &name)?;
        let rotated = rotations(&dir, instance)?;
        Ok(Writer {
            dir,
            name,
            instance,
            limits,
            zone,
            live,
            rotated,
            held: [Vec::new(), Vec::new()],
            room: Vec::new(),
            within_line: [false; 2],
            lost: Lost::default(),
            rotate_after: None,
            checked: Timestamp::UNIX_EPOCH,
        })
    }

    /// Takes output of the container, read at `now`: whole lines go to the log, at most 16 KiB after the last newline are
    /// held. containerd's rule: a line of more than 16 KiB becomes partial records of 16 KiB each and a full one, and only
    /// when there are more bytes than that; one of exactly 16 KiB is a full record.
    pub fn feed(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> Outcome {
        if self.hold(stream, bytes) {
            return Outcome::default();
        }
        let heads = [false, true].map(|complete| self.head(stream, complete, now));
        let held = std::mem::take(&mut self.held[stream.index()]);
        let (mut before, mut rest): (&[u8], _) = (&held, bytes);
        let mut batch = self.batch(stream, before.len() + rest.len(), now);
        while !rest.is_empty() {
            let newline = memchr::memchr(b'\n', rest);
            let mut line = &rest[..newline.unwrap_or(rest.len())];
            while before.len() + line.len() > MAX_RECORD {
                let (full, more) = line.split_at(MAX_RECORD - before.len());
                self.add(&mut batch, Parts { head: heads[0].as_bytes(), bytes: [before, full] });
                (before, line) = (&[], more);
            }
            let Some(newline) = newline else {
                self.held[stream.index()] = [before, line].concat();
                break;
            };
            self.add(&mut batch, Parts { head: heads[1].as_bytes(), bytes: [before, line] });
            (before, rest) = (&[], &rest[newline + 1..]);
        }
        self.finish(batch)
    }

    /// Begins a batch of this many bytes of output. They are more with their heads, and at most [`MAX_BATCH`] at once.
    fn batch(&mut self, stream: Stream, bytes: usize, now: Timestamp) -> Batch {
        let mut text = std::mem::take(&mut self.room);
        text.reserve_exact((2 * bytes + HEAD).min(MAX_BATCH));
        Batch { stream, now, outcome: Outcome::default(), text }
    }

    fn finish(&mut self, mut batch: Batch) -> Outcome {
        self.flush(&mut batch);
        self.room = batch.text;
        batch.outcome
    }

    /// Holds `bytes` if they end no line and make no record; whether they were held.
    fn hold(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let held = &mut self.held[stream.index()];
        let len = held.len() + bytes.len();
        if len > MAX_RECORD || bytes.contains(&b'\n') {
            return false;
        }
        if len > held.capacity() {
            held.reserve_exact(len.next_power_of_two().min(MAX_RECORD) - held.len());
        }
        held.extend_from_slice(bytes);
        true
    }

    /// The stream has ended: what is held becomes a partial record, as containerd leaves it.
    pub fn end(&mut self, stream: Stream, now: Timestamp) -> Outcome {
        let held = std::mem::take(&mut self.held[stream.index()]);
        if held.is_empty() {
            return Outcome::default();
        }
        let head = self.head(stream, false, now);
        let mut batch = self.batch(stream, held.len(), now);
        self.add(&mut batch, Parts { head: head.as_bytes(), bytes: [&held, &[]] });
        self.finish(batch)
    }

    /// Goes on in the file that has the log's name now, made if there is none: after someone else renamed it (the CRI's
    /// ReopenContainerLog), or removed it. On failure the old file stays in use.
    pub fn reopen(&mut self) -> SysResult<()> {
        self.live = Live::open(&self.dir, &self.name)?;
        self.rotated = rotations(&self.dir, self.instance)?;
        Ok(())
    }

    fn local(&self, now: Timestamp) -> (DateTime, i32) {
        let offset = self.zone.to_offset(now);
        (offset.to_datetime(now), offset.seconds())
    }

    /// `<time> <stream> <tag> `. The time is Go's "2006-01-02T15:04:05.000000000Z07:00": always nine digits, `Z` for UTC.
    fn head(&self, stream: Stream, complete: bool, now: Timestamp) -> String {
        let (at, offset) = self.local(now);
        let mut head = String::with_capacity(48);
        let (date, time) = (at.date(), at.time());
        // Writing to a String cannot fail.
        let _ = write!(
            head,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}",
            date.year(),
            date.month(),
            date.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.subsec_nanosecond()
        );
        let minutes = offset.abs() / 60;
        let _ = match offset {
            0 => write!(head, "Z"),
            _ => write!(head, "{}{:02}:{:02}", if offset < 0 { '-' } else { '+' }, minutes / 60, minutes % 60),
        };
        let _ = write!(head, " {} {} ", stream.as_str(), if complete { 'F' } else { 'P' });
        head
    }

    fn add(&mut self, batch: &mut Batch, parts: Parts<'_>) {
        let len = parts.head.len() + parts.bytes[0].len() + parts.bytes[1].len() + 1;
        let is_full = batch.text.len() + len > batch.text.capacity();
        if is_full || self.must_rotate(batch.text.len() as u64, len as u64, batch.now) {
            self.flush(batch);
            if self.must_rotate(0, len as u64, batch.now) {
                self.rotate(batch.now, &mut batch.outcome);
            }
        }
        for part in [parts.head, parts.bytes[0], parts.bytes[1], b"\n"] {
            batch.text.extend_from_slice(part);
        }
    }

    /// Whether the file, with what is about to be written, is too full for `more` bytes. An empty one never is: rotating
    /// would not help.
    fn must_rotate(&self, about: u64, more: u64, now: Timestamp) -> bool {
        let size = self.live.size + about;
        size > 0
            && self.limits.max_size.is_some_and(|max| size + more > max)
            && self.rotate_after.is_none_or(|then| now >= then)
    }

    fn flush(&mut self, batch: &mut Batch) {
        let (stream, now, outcome) = (batch.stream, batch.now, &mut batch.outcome);
        if batch.text.is_empty() {
            return;
        }
        self.notice_removal(now, outcome);
        let (written, failure) = match self.tell_of_loss(now, outcome) {
            Ok(()) => self.live.write(&batch.text),
            Err(error) => (0, Some(error)),
        };
        let (written, lost) = batch.text.split_at(written);
        if !written.is_empty() {
            self.within_line[stream.index()] = is_partial(last_line(written));
        }
        if let Some(error) = failure {
            let records = memchr::memchr_iter(b'\n', lost).count() as u64;
            if self.lost.records == 0 {
                outcome.trouble = Some(error.clone());
            }
            outcome.lost += records;
            self.lost.records += records;
            self.lost.bytes += lost.len() as u64;
            self.lost.streams[stream.index()] = true;
            self.lost.why = Some(error);
        }
        batch.text.clear();
    }

    /// If records were lost and writing works again, says so in the log, on a line of its own.
    fn tell_of_loss(&mut self, now: Timestamp, outcome: &mut Outcome) -> SysResult<()> {
        if self.lost.records == 0 {
            return Ok(());
        }
        // The rest of a line whose beginning was written is lost or follows no more: end it, or what is written next would
        // be read as its continuation.
        for stream in Stream::BOTH {
            if self.lost.streams[stream.index()] && self.within_line[stream.index()] {
                self.write_line(stream, "", now)?;
            }
        }
        let free = |stream: &Stream| !self.within_line[stream.index()];
        let stream = [Stream::Stderr, Stream::Stdout].into_iter().find(free).unwrap_or(Stream::Stderr);
        let why = self.lost.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let (records, bytes) = (self.lost.records, self.lost.bytes);
        self.write_line(stream, &format!("podshim: {records} log records ({bytes} bytes) are missing here{why}"), now)?;
        outcome.recovered += records;
        self.lost = Lost::default();
        Ok(())
    }

    fn write_line(&mut self, stream: Stream, text: &str, now: Timestamp) -> SysResult<()> {
        let record = [&self.head(stream, true, now), text, "\n"].concat();
        match self.live.write(record.as_bytes()) {
            (_, Some(error)) => Err(error),
            (_, None) => {
                self.within_line[stream.index()] = false;
                Ok(())
            }
        }
    }

    /// Once a second at most: if someone removed the file, what is written to it is seen by no one.
    fn notice_removal(&mut self, now: Timestamp, outcome: &mut Outcome) {
        if now.as_second() == self.checked.as_second() {
            return;
        }
        self.checked = now;
        if fstat(&self.live.file).is_ok_and(|stat| stat.st_nlink == 0) {
            outcome.trouble = self.reopen().err().or(outcome.trouble.take());
        }
    }

    /// Renames the file and starts a new one. If that fails the old one goes on, above its limit, and is tried again later.
    ///
    /// Rotated files are not compressed, unlike a kubelet's: that would cost the supervisor of each pod more memory than all
    /// else it holds, and five of them are 50 MiB at most.
    fn rotate(&mut self, now: Timestamp, outcome: &mut Outcome) {
        match self.try_rotate(now) {
            Ok(()) => self.rotate_after = None,
            Err(error) => {
                if self.rotate_after.is_none() {
                    outcome.trouble = Some(error);
                }
                let again = now.as_second().saturating_add(ROTATE_AGAIN);
                self.rotate_after = Some(Timestamp::from_second(again).unwrap_or(Timestamp::MAX));
            }
        }
    }

    fn try_rotate(&mut self, now: Timestamp) -> SysResult<()> {
        let rotation = self.next_rotation(now);
        let (live, aside) = (&self.name, dir::rotated_name(&self.name, &rotation));
        match renameat(&self.dir, live.as_str(), &self.dir, aside.as_str()) {
            Ok(()) => self.rotated.push_back(rotation),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(SysError::new("renameat", live, errno)),
        }
        match Live::open(&self.dir, live) {
            Ok(new) => self.live = new,
            Err(error) => {
                // Readers must find what goes on being written under the name that they know.
                if renameat(&self.dir, aside.as_str(), &self.dir, live.as_str()).is_ok() {
                    self.rotated.pop_back();
                }
                return Err(error);
            }
        }
        let keep = self.limits.max_files.max(1) as usize - 1;
        while self.rotated.len() > keep {
            let name = dir::rotated_name(&self.name, &self.rotated[0]);
            match unlinkat(&self.dir, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => self.rotated.pop_front(),
                Err(errno) => return Err(SysError::new("unlinkat", name, errno)),
            };
        }
        Ok(())
    }

    /// Greater than all before, so that names are in the order of writing whatever the clock does.
    fn next_rotation(&self, now: Timestamp) -> Rotation {
        let (at, _) = self.local(now);
        let (date, time) = (at.date(), at.time());
        let second = format!(
            "{:04}{:02}{:02}-{:02}{:02}{:02}",
            date.year(),
            date.month(),
            date.day(),
            time.hour(),
            time.minute(),
            time.second()
        );
        match self.rotated.back() {
            Some(last) if last.second >= second => {
                Rotation { second: last.second.clone(), counter: last.counter.saturating_add(1) }
            }
            _ => Rotation { second, counter: 0 },
        }
    }
}

impl Live {
    fn open(dir: &OwnedFd, name: &str) -> SysResult<Self> {
        // Read, too: to see how it ends.
        let flags = OFlag::O_RDWR | OFlag::O_APPEND;
        let (file, stat) = match dir::open_file(dir, name, flags | OFlag::O_CREAT | OFlag::O_EXCL) {
            Ok(made) => {
                // Whatever the umask is.
                fchmod(&made.0, Mode::from_bits_truncate(0o640)).called("fchmod", name)?;
                made
            }
            Err(error) if error.errno() == Errno::EEXIST => dir::open_file(dir, name, flags)?,
            Err(error) => return Err(error),
        };
        let mut last = [b'\n'];
        if stat.st_size > 0 {
            pread(&file, &mut last, stat.st_size - 1).called("pread", name)?;
        }
        Ok(Live { file, size: stat.st_size as u64, torn: last != [b'\n'] })
    }

    /// Appends records, each of which is a line. How many bytes of them are in the file, as whole records, and what kept the others
    /// out of it.
    fn write(&mut self, records: &[u8]) -> (usize, Option<SysError>) {
        let failed = |errno| Some(SysError::new("write", "the log", errno));
        if self.torn {
            match write(&self.file, b"\n") {
                Ok(_) => (self.torn, self.size) = (false, self.size + 1),
                Err(errno) => return (0, failed(errno)),
            }
        }
        let mut done = 0;
        while done < records.len() {
            let rest = &records[done..];
            let written = match write(&self.file, rest) {
                Ok(written) => written,
                Err(Errno::EINTR) => continue,
                Err(errno) => return (done, failed(errno)),
            };
            let whole = memchr::memrchr(b'\n', &rest[..written]).map_or(0, |newline| newline + 1);
            self.size += whole as u64;
            done += whole;
            // Part of a record is there, as on a full disk: take it back, so that the file ends with a line.
            if whole < written && ftruncate(&self.file, self.size as i64).is_err() {
                self.torn = true;
                self.size += (written - whole) as u64;
                return (done, failed(Errno::EIO));
            }
            if whole == 0 {
                return (done, failed(Errno::ENOSPC));
            }
        }
        (done, None)
    }
}

/// The last of some lines.
fn last_line(lines: &[u8]) -> &[u8] {
    let end = lines.len().saturating_sub(1);
    &lines[memchr::memrchr(b'\n', &lines[..end]).map_or(0, |newline| newline + 1)..]
}

/// Whether a record's line goes on in the next one: its third word.
fn is_partial(record: &[u8]) -> bool {
    record.split(|byte| *byte == b' ').nth(2) == Some(b"P")
}

/// The rotated files of an instance, oldest first.
fn rotations(dir: &OwnedFd, instance: Option<u32>) -> SysResult<VecDeque<Rotation>> {
    let Some(restart_count) = instance else { return Ok(VecDeque::new()) };
    Ok(dir::Listing::read(dir)?.rotated(restart_count).cloned().collect())
}

fn make_container_dir(pod_logs: &Path, container: &str) -> Result<OwnedFd> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(pod_logs).called("mkdir", pod_logs.display())?;
    let pod = dir::open_dir(pod_logs)?;
    let mode = Mode::from_bits_truncate(0o755);
    let made = match mkdirat(&pod, container, mode) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(SysError::new("mkdirat", container, errno).into()),
    };
    let dir = dir::open_container_dir(&pod, container)?;
    if made {
        fchmod(&dir, mode).called("fchmod", container)?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn writer(dir: &Path) -> Writer {
        let place = Place { pod_logs: dir, container: "c", restart_count: 0 };
        Writer::open(place, Limits::default(), TimeZone::UTC).unwrap()
    }

    /// A file that takes no more than `room` bytes: a sealed memfd, for a full disk.
    fn full_disk(room: i64) -> Live {
        let file = memfd_create("log", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&file, room).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
        Live { file, size: 0, torn: false }
    }

    #[test]
    fn what_a_full_disk_takes_ends_with_a_whole_record_and_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path());
        let good = std::mem::replace(&mut writer.live, full_disk(8192));
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let outcome = writer.feed(Stream::Stdout, &line.repeat(20), at(0));
        // 1029 bytes each: 7 fit into the two pages that could be written.
        assert_eq!((outcome.lost, outcome.recovered), (13, 0));
        assert!(outcome.trouble.is_some());
        let outcome = writer.feed(Stream::Stderr, b"more\n", at(0));
        assert_eq!((outcome.lost, outcome.trouble), (1, None), "only the first failure of a series is told");
        writer.live = good;
        let outcome = writer.feed(Stream::Stdout, b"again\n", at(2));
        assert_eq!(outcome, Outcome { recovered: 14, ..Outcome::default() });
        let text = std::fs::read_to_string(dir.path().join("c/0.log")).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("1970-01-01T00:00:02.000000000Z stderr F podshim: 14 log records (13"), "{text}");
        assert!(lines[1].ends_with("stdout F again"));
    }

    #[test]
    fn a_full_disk_is_left_with_whole_lines() {
        let mut live = full_disk(8192);
        let records = [&[b'y'; 1028][..], b"\n"].concat().repeat(20);
        let (written, error) = live.write(&records);
        assert!(error.is_some());
        assert_eq!(fstat(&live.file).unwrap().st_size as u64, live.size);
        assert_eq!((written as u64, written % 1029, live.torn), (live.size, 0, false));
        assert!(written > 0);
    }

    #[test]
    fn a_line_whose_rest_was_lost_is_ended_before_another_begins() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path());
        let head = vec![b'a'; MAX_RECORD + 1];
        assert_eq!(writer.feed(Stream::Stdout, &head, at(0)), Outcome::default());
        let good = std::mem::replace(&mut writer.live, full_disk(0));
        assert_eq!(writer.feed(Stream::Stdout, b"rest\n", at(0)).lost, 1);
        writer.live = good;
        assert_eq!(writer.feed(Stream::Stdout, b"next\n", at(0)).recovered, 1);
        let text = std::fs::read_to_string(dir.path().join("c/0.log")).unwrap();
        let tags: Vec<_> = text.lines().map(|line| &line[31..line.len().min(47)]).collect();
        assert_eq!(tags, ["stdout P aaaaaaa", "stdout F ", "stderr F podshim", "stdout F next"]);
    }

    #[test]
    fn what_cannot_be_taken_back_is_ended_by_a_newline() {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let mut live = Live { file: writer, size: 0, torn: false };
        let records = [&[b'z'; 39_999][..], b"\n"].concat().repeat(2);
        let (written, error) = live.write(&records);
        assert_eq!((written, error.is_some(), live.torn), (40_000, true, true));
        let mut sink = vec![0; 1 << 20];
        let taken = nix::unistd::read(&reader, &mut sink).unwrap();
        assert!(taken > 40_000 && taken < 80_000);
        assert_eq!(live.write(b"n\n"), (2, None));
        let taken = nix::unistd::read(&reader, &mut sink).unwrap();
        assert_eq!(&sink[..taken], b"\nn\n");
    }

    #[test]
    fn a_log_that_was_removed_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path());
        writer.feed(Stream::Stdout, b"one\n", at(1));
        std::fs::remove_file(dir.path().join("c/0.log")).unwrap();
        assert_eq!(writer.feed(Stream::Stdout, b"two\n", at(2)), Outcome::default());
        let text = std::fs::read_to_string(dir.path().join("c/0.log")).unwrap();
        assert_eq!(text, "1970-01-01T00:00:02.000000000Z stdout F two\n");
    }

    #[test]
    fn nothing_but_the_rest_of_a_line_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path());
        for _ in 0..1000 {
            writer.feed(Stream::Stdout, &[b'x'; 50_000], at(0));
            assert!(writer.held[0].capacity() <= MAX_RECORD && writer.held[1].capacity() == 0);
        }
        writer.feed(Stream::Stdout, b"\n", at(0));
        assert_eq!(writer.held[0].capacity(), 0);
    }
}
