//! Writes one container instance's output to its log.

use super::batch::{Batch, Head, Record};
use super::dir::{self, Rotation};
use super::file::Live;
use super::journal::{Journal, READ_SIZE};
use super::{MAX_RECORD, Stream};
use crate::error::{Kind, failure};
use crate::sys::{Called, SysError, SysResult, fs};
use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, read, unlinkat};
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
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
/// records were put together in, at most 288 KiB where there was much output at once, until it is [released](Writer::release).
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
    /// What of the output is not in the log, for a successor; `None` if nobody is to have it, or there is no memory.
    journal: Option<Journal>,
    rotated: VecDeque<Rotation>,
    /// The bytes after the last newline, per stream.
    held: [Vec<u8>; 2],
    /// Room for a batch: to ask for it each time would cost more than what is done with it.
    room: Vec<u8>,
    /// Whether the stream's last record in the log was partial.
    within_line: [bool; 2],
    /// Whether the stream's pipe was made larger.
    widened: [bool; 2],
    lost: Lost,
    /// Rotation failed: not tried again before.
    rotate_after: Option<Timestamp>,
    checked: Timestamp,
}

#[derive(Debug, Default)]
struct Lost {
    records: u64,
    bytes: u64,
    streams: [bool; 2],
    why: Option<SysError>,
}

/// What a piece of output is.
#[derive(Clone, Copy)]
struct Piece<'a> {
    stream: Stream,
    /// When it was read.
    now: Timestamp,
    /// What has it, as long as it is in no log.
    journal: Option<&'a Journal>,
}

/// A piece of output on its way to the log.
struct Taking<'a> {
    piece: Piece<'a>,
    batch: Batch,
    outcome: Outcome,
}

/// Half of what a pipe holds that is as it was made (pipe(7)), in bytes.
const MUCH: usize = 32 << 10;

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
        // For who asked for it; that nothing else is opened is seen to below.
        if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(failure(Kind::NotReady, "it is there, and is no regular file")).with_context(context);
        }
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
            journal: None,
            rotated,
            held: [Vec::new(), Vec::new()],
            room: Vec::new(),
            within_line: [false; 2],
            widened: [false; 2],
            lost: Lost::default(),
            rotate_after: None,
            checked: Timestamp::UNIX_EPOCH,
        })
    }

    /// Keeps what is read from now on in a new file of this path, as long as it is not in the log: the successor of this process
    /// [resumes](Self::resume) from there if it is killed.
    pub fn keep_in(&mut self, path: &Path) -> SysResult<()> {
        self.journal = Some(Journal::create(path)?);
        Ok(())
    }

    /// Takes over from a writer that was killed, which [kept](Self::keep_in) there what it had read: that goes to the log, unless it
    /// is there. Without such a file, or with one that cannot be understood, there is nothing to take over.
    pub fn resume(&mut self, path: &Path, now: Timestamp) -> SysResult<Outcome> {
        let Some(journal) = Journal::open(path)? else { return self.keep_in(path).map(|()| Outcome::default()) };
        journal.settle(&mut self.live)?;
        let piece = |stream| Piece { stream, now, journal: Some(&journal) };
        let [stdout, stderr] = Stream::BOTH.map(|stream| self.take(piece(stream), journal.bytes(stream)));
        self.journal = Some(journal);
        Ok(Outcome {
            lost: stdout.lost + stderr.lost,
            trouble: stdout.trouble.or(stderr.trouble),
            recovered: stdout.recovered + stderr.recovered,
        })
    }

    /// Reads once from a container's output, at most 256 KiB, to the log and to `also`. How many bytes; 0 at the end.
    ///
    /// A pipe in which much is found is made larger, once: the container is woken up less often.
    pub fn copy(
        &mut self,
        stream: Stream,
        from: BorrowedFd<'_>,
        also: impl FnOnce(&[u8]),
    ) -> nix::Result<(usize, Outcome)> {
        let Some(mut journal) = self.journal.take() else { return self.copy_unkept(stream, from, also) };
        // One at least: what comes after it was asked is announced, too. If it cannot be asked, read(2) says why.
        let Some(room) = journal.begin(stream, fs::available(from).unwrap_or(0).max(1)) else {
            journal.abandon();
            return self.copy_unkept(stream, from, also);
        };
        let taken = read(from, room);
        let is_much = taken.is_ok_and(|count| count >= MUCH);
        if is_much && !std::mem::replace(&mut self.widened[stream.index()], true) {
            // Without memory for that it stays as it is.
            let _ = fcntl(from, FcntlArg::F_SETPIPE_SZ(READ_SIZE as i32));
        }
        let bytes = journal.took(stream, taken.unwrap_or(0));
        let piece = Piece { stream, now: Timestamp::now(), journal: Some(&journal) };
        let outcome = self.take(piece, bytes);
        also(bytes);
        self.journal = Some(journal);
        taken.map(|count| (count, outcome))
    }

    /// Not inlined: its buffer is on the stack.
    #[inline(never)]
    fn copy_unkept(
        &mut self,
        stream: Stream,
        from: BorrowedFd<'_>,
        also: impl FnOnce(&[u8]),
    ) -> nix::Result<(usize, Outcome)> {
        let mut room = [0; MAX_RECORD];
        let count = read(from, &mut room)?;
        let outcome = self.feed(stream, &room[..count], Timestamp::now());
        also(&room[..count]);
        Ok((count, outcome))
    }

    /// Gives memory back that is of use only while there is output.
    pub fn release(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.release();
        }
        self.room = Vec::new();
    }

    /// Takes output of the container, read at `now`: whole lines go to the log, at most 16 KiB after the last newline are
    /// held. containerd's rule: a line of more than 16 KiB becomes partial records of 16 KiB each and a full one, and only
    /// when there are more bytes than that; one of exactly 16 KiB is a full record.
    pub fn feed(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> Outcome {
        self.take(Piece { stream, now, journal: None }, bytes)
    }

    fn take(&mut self, piece: Piece<'_>, bytes: &[u8]) -> Outcome {
        let Piece { stream, now, .. } = piece;
        if self.hold(stream, bytes) {
            return Outcome::default();
        }
        let heads = [false, true].map(|complete| self.head(stream, complete, now));
        let held = std::mem::take(&mut self.held[stream.index()]);
        let (mut before, mut rest): (&[u8], _) = (&held, bytes);
        let mut taking = self.begin(piece, before.len() + rest.len());
        while !rest.is_empty() {
            let newline = memchr::memchr(b'\n', rest);
            let mut len = newline.unwrap_or(rest.len());
            while before.len() + len > MAX_RECORD {
                let full = MAX_RECORD - before.len();
                let record = Record { head: &heads[0], held: before, output: rest, len: full, complete: false };
                self.add(&mut taking, &record);
                (before, rest, len) = (&[], &rest[full..], len - full);
            }
            if newline.is_none() {
                self.held[stream.index()] = [before, rest].concat();
                break;
            }
            self.add(&mut taking, &Record { head: &heads[1], held: before, output: rest, len, complete: true });
            (before, rest) = (&[], &rest[len + 1..]);
        }
        self.finish(taking)
    }

    fn begin<'a>(&mut self, piece: Piece<'a>, bytes: usize) -> Taking<'a> {
        let batch = Batch::begin(std::mem::take(&mut self.room), bytes);
        Taking { piece, batch, outcome: Outcome::default() }
    }

    fn finish(&mut self, mut taking: Taking<'_>) -> Outcome {
        self.flush(&mut taking);
        self.room = taking.batch.into_room();
        taking.outcome
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
        let journal = self.journal.take();
        let mut taking = self.begin(Piece { stream, now, journal: journal.as_ref() }, held.len());
        self.add(&mut taking, &Record { head: &head, held: &held, output: &[], len: 0, complete: false });
        let outcome = self.finish(taking);
        self.journal = journal;
        outcome
    }

    /// Both streams have [ended](Self::end), as the container has.
    pub fn end_all(&mut self, now: Timestamp) {
        for stream in Stream::BOTH {
            self.end(stream, now);
        }
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

    fn head(&self, stream: Stream, complete: bool, now: Timestamp) -> Head {
        Head::new(self.local(now), stream, complete)
    }

    fn add(&mut self, taking: &mut Taking<'_>, record: &Record<'_>) {
        let (now, more) = (taking.piece.now, record.len() as u64);
        let about = taking.batch.records().len() as u64;
        if !taking.batch.has_room(record) || self.must_rotate(about, more, now) {
            self.flush(taking);
            if self.must_rotate(0, more, now) {
                self.rotate(now, &mut taking.outcome);
            }
        }
        taking.batch.add(record);
    }

    /// Whether the file, with what is about to be written, is too full for `more` bytes. An empty one never is: rotating
    /// would not help.
    fn must_rotate(&self, about: u64, more: u64, now: Timestamp) -> bool {
        let size = self.live.size + about;
        size > 0
            && self.limits.max_size.is_some_and(|max| size + more > max)
            && self.rotate_after.is_none_or(|then| now >= then)
    }

    fn flush(&mut self, taking: &mut Taking<'_>) {
        let Taking { piece: Piece { stream, now, journal }, batch, outcome } = taking;
        let (stream, now, records) = (*stream, *now, batch.records());
        if records.is_empty() {
            return;
        }
        self.notice_removal(now, outcome);
        let (written, failure) = match self.tell_of_loss(now, outcome).and_then(|()| self.live.end_torn()) {
            Ok(()) => {
                if let Some(journal) = journal {
                    journal.writing(stream, batch.left(), self.live.append(records.len()));
                }
                self.live.write(records)
            }
            Err(error) => (0, Some(error)),
        };
        if let Some(journal) = journal {
            journal.written(stream, batch.left());
        }
        let (written, lost) = records.split_at(written);
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
        batch.clear();
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
        self.live.end_torn()?;
        let record = [self.head(stream, true, now).as_bytes(), text.as_bytes(), b"\n"].concat();
        match self.live.write(&record) {
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
        if self.live.is_removed() {
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
    use super::super::file::tests::full_disk;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn writer(dir: &Path) -> Writer {
        let place = Place { pod_logs: dir, container: "c", restart_count: 0 };
        Writer::open(place, Limits::default(), TimeZone::UTC).unwrap()
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
