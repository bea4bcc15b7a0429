//! One instance's log as one sequence of records, from the oldest rotated file to the one being written.

use super::dir::{self, Identity, Listing};
use super::{Line, Record, parse};
use crate::sys::{Called, SysError, SysResult};
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::sys::uio::pread;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

/// Read at once; doubled for a longer line, up to [`MAX_LINE`].
const BLOCK: usize = 32 * 1024;
/// No record is longer; what is, is skipped.
const MAX_LINE: usize = 128 * 1024;
/// How far before the last lines to look for the beginning of one that is in parts.
const LOOK_BACK: u64 = 1 << 20;

/// The files of one instance, open, with how far they were read.
pub(super) struct Chain {
    dir: OwnedFd,
    pub(super) restart_count: u32,
    files: VecDeque<LogFile>,
    next_sequence: usize,
    buffer: Vec<u8>,
    /// Within a line that is too long to be a record.
    skipping: bool,
    filter: Filter,
}

struct LogFile {
    file: OwnedFd,
    id: Identity,
    sequence: usize,
    at: u64,
    /// Not read beyond this, if it is set.
    end: Option<u64>,
}

/// Where a record begins: the file's place in the sequence, the offset.
type Position = (usize, u64);

/// Which records are wanted.
#[derive(Default)]
struct Filter {
    since: Option<Timestamp>,
    /// Per stream, where the first wanted line begins.
    from: [Position; 2],
    /// Per stream, within a line, whether it is wanted: it is so as a whole.
    within: [Option<bool>; 2],
}

impl Filter {
    fn take(&mut self, line: Line<'_>, at: Position) -> Option<Record> {
        let stream = line.stream.index();
        let started = self.within[stream];
        let wanted =
            started.unwrap_or_else(|| at >= self.from[stream] && self.since.is_none_or(|since| line.time >= since));
        self.within[stream] = if line.complete { None } else { Some(wanted) };
        wanted.then(|| Record {
            container: 0,
            restart_count: 0,
            stream: line.stream,
            time: line.time,
            stamp: line.stamp.to_owned(),
            bytes: line.bytes.to_vec(),
            complete: line.complete,
            starts_line: started.is_none(),
        })
    }
}

/// Why [`Chain::read`] stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Enough was read; there may be more.
    Enough,
    /// Nothing more is there now.
    AtEnd,
}

impl Chain {
    /// Opens all files of an instance. `Err(ENOENT)` if it has none.
    pub(super) fn open(dir: OwnedFd, restart_count: u32) -> SysResult<Self> {
        let mut chain = Chain {
            dir,
            restart_count,
            files: VecDeque::new(),
            next_sequence: 0,
            buffer: Vec::new(),
            skipping: false,
            filter: Filter::default(),
        };
        chain.extend(None)?;
        match chain.files.is_empty() {
            true => Err(SysError::new("openat", dir::live_name(restart_count), Errno::ENOENT)),
            false => Ok(chain),
        }
    }

    /// Opens the files after the one that is `known`, or all. Whether `known` was found among them.
    fn extend(&mut self, known: Option<Identity>) -> SysResult<bool> {
        // A rotation between listing and opening would leave out a file: then what was opened does not join, and it is done
        // anew. The writer rotates after MiBs; hundreds of rotations in between are someone else's work.
        for _ in 0..100 {
            let listing = Listing::read(&self.dir)?;
            let names: Vec<_> = listing
                .rotated(self.restart_count)
                .map(|at| dir::rotated_name(&dir::live_name(self.restart_count), at))
                .collect();
            let newest = names.last().map_or(Ok(None), |name| dir::identity_of(&self.dir, name))?;
            let mut found = None;
            for (at, name) in names.iter().enumerate().rev() {
                if known.is_some() && dir::identity_of(&self.dir, name)? == known {
                    found = Some(at);
                    break;
                }
            }
            let mut files = Vec::new();
            for name in &names[found.map_or(0, |at| at + 1)..] {
                // None if it was removed meanwhile: it was the oldest.
                files.extend(self.open_file(name)?);
            }
            let live = self.open_file(&dir::live_name(self.restart_count))?;
            let last = Listing::read(&self.dir)?.rotated(self.restart_count).last().cloned();
            let last = last.map(|at| dir::rotated_name(&dir::live_name(self.restart_count), &at));
            if last.map_or(Ok(None), |name| dir::identity_of(&self.dir, &name))? != newest {
                continue;
            }
            files.extend(live);
            for mut file in files {
                file.sequence = self.next_sequence;
                self.next_sequence += 1;
                self.files.push_back(file);
            }
            return Ok(found.is_some());
        }
        Err(SysError::new("openat", dir::live_name(self.restart_count), Errno::EAGAIN))
    }

    fn open_file(&self, name: &str) -> SysResult<Option<LogFile>> {
        match dir::open_file(&self.dir, name, OFlag::O_RDONLY) {
            Ok((file, stat)) => Ok(Some(LogFile { file, id: dir::identity(&stat), sequence: 0, at: 0, end: None })),
            Err(error) if error.errno() == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads only what is there now.
    pub(super) fn stop_at_present_end(&mut self) -> SysResult<()> {
        for file in &mut self.files {
            file.end = Some(file.size()?);
        }
        Ok(())
    }

    /// Leaves out lines from before.
    pub(super) fn since(&mut self, since: Option<Timestamp>) {
        self.filter.since = since;
    }

    /// Leaves out all but the last `lines` of what is there now, found from the end.
    ///
    /// A line is what the container wrote up to a newline, or after the last one, however many records it takes; if other
    /// records come between, its beginning is looked for up to 1 MiB before the others'.
    pub(super) fn tail(&mut self, lines: u64) -> SysResult<()> {
        let sizes = self.files.iter().map(|file| file.end.map_or_else(|| file.size(), Ok));
        let sizes = sizes.collect::<SysResult<Vec<_>>>()?;
        let Some(end) = self.files.back().map(|file| file.sequence).zip(sizes.last().copied()) else { return Ok(()) };
        let mut search = TailSearch { wanted: lines, counted: 0, from: [None; 2], open: [false; 2], beyond: 0 };
        let mut flow = ControlFlow::Continue(());
        for (file, size) in self.files.iter().zip(sizes).rev() {
            if lines > 0 && flow.is_continue() {
                flow = file.lines_backwards(size, |at, line| search.visit((file.sequence, at), line))?;
            }
        }
        if flow.is_continue() && search.counted < lines {
            return Ok(());
        }
        self.filter.from = search.from.map(|from| from.unwrap_or(end));
        let first = self.filter.from.into_iter().min().unwrap_or(end);
        while self.files.front().is_some_and(|file| file.sequence < first.0) {
            self.files.pop_front();
        }
        if let Some(file) = self.files.front_mut() {
            file.at = first.1;
        }
        Ok(())
    }

    /// Appends the records that come next, of about `enough` bytes.
    pub(super) fn read(&mut self, out: &mut Vec<Record>, enough: usize) -> SysResult<Stopped> {
        let mut taken = 0;
        loop {
            let others = self.files.len() > 1;
            let Some(file) = self.files.front_mut() else { return Ok(Stopped::AtEnd) };
            if self.buffer.is_empty() {
                self.buffer.resize(BLOCK, 0);
            }
            let limit = file.end.map_or(u64::MAX, |end| end.saturating_sub(file.at));
            let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = file.read(&mut self.buffer[..limit])?;
            let Some(last) = self.buffer[..read].iter().rposition(|byte| *byte == b'\n') else {
                if read == self.buffer.len() && read < MAX_LINE {
                    self.buffer.resize(read * 2, 0);
                } else if read == self.buffer.len() {
                    self.skipping = true;
                    file.at += read as u64;
                } else if others {
                    // A fragment at the end of a file that is no longer written is not a record.
                    self.files.pop_front();
                    self.skipping = false;
                } else if !file.was_truncated(read)? {
                    self.buffer = Vec::new();
                    return Ok(Stopped::AtEnd);
                }
                continue;
            };
            let mut at = file.at;
            for line in self.buffer[..last].split(|byte| *byte == b'\n') {
                let skip = std::mem::take(&mut self.skipping);
                if let Some(line) = parse(line).filter(|_| !skip)
                    && let Some(record) = self.filter.take(line, (file.sequence, at))
                {
                    taken += record.bytes.len() + 128;
                    out.push(Record { restart_count: self.restart_count, ..record });
                }
                at += line.len() as u64 + 1;
            }
            file.at = at;
            if taken >= enough {
                return Ok(Stopped::Enough);
            }
        }
    }

    /// At the end of the last file: whether the log goes on in others by now, and if so whether it joins seamlessly.
    pub(super) fn follow_rotation(&mut self) -> SysResult<Joined> {
        let Some(last) = self.files.back() else { return Ok(Joined::NoNews) };
        let known = last.id;
        match dir::identity_of(&self.dir, &dir::live_name(self.restart_count))? {
            Some(live) if live != known => {}
            // Between the two steps of a rotation there is no file of that name.
            _ => return Ok(Joined::NoNews),
        }
        // The file that was read so far stays in front: what was written to it before it was renamed is still to be read.
        match self.extend(Some(known))? {
            true => Ok(Joined::Seamlessly),
            false => Ok(Joined::AfterGap),
        }
    }
}

/// What [`Chain::follow_rotation`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// The file being written is the one that was read.
    NoNews,
    /// The next files follow upon it.
    Seamlessly,
    /// The file that was read is gone, and perhaps others with it.
    AfterGap,
}

impl LogFile {
    fn size(&self) -> SysResult<u64> {
        Ok(fstat(&self.file).called("fstat", "a log")?.st_size as u64)
    }

    /// Fills `buffer` as far as there are bytes.
    fn read(&self, buffer: &mut [u8]) -> SysResult<usize> {
        self.read_at(buffer, self.at)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> SysResult<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match pread(&self.file, &mut buffer[filled..], (at + filled as u64) as i64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(SysError::new("pread", "a log", errno)),
            }
        }
        Ok(filled)
    }

    /// Starts anew if someone emptied the file, as `logrotate` with copytruncate does.
    fn was_truncated(&mut self, read: usize) -> SysResult<bool> {
        let emptied = read == 0 && self.end.is_none() && self.size()? < self.at;
        if emptied {
            self.at = 0;
        }
        Ok(emptied)
    }

    /// Visits the whole lines before `end`, last first, with their offsets.
    fn lines_backwards(
        &self,
        end: u64,
        mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> SysResult<ControlFlow<()>> {
        let (mut start, mut carry, mut whole) = (end, Vec::new(), false);
        while start > 0 {
            let length = (BLOCK as u64).min(start) as usize;
            start -= length as u64;
            let mut block = vec![0; length];
            if self.read_at(&mut block, start)? < length {
                // Truncated under our eyes.
                return Ok(ControlFlow::Break(()));
            }
            block.append(&mut carry);
            let mut until = block.len();
            while let Some(newline) = block[..until].iter().rposition(|byte| *byte == b'\n') {
                if whole && visit(start + newline as u64 + 1, &block[newline + 1..until]).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                (whole, until) = (true, newline);
            }
            block.truncate(until);
            carry = block;
            if carry.len() > MAX_LINE {
                // Not a record; its beginning alone cannot be parsed as one by mistake.
                carry = b"\0".to_vec();
            }
        }
        if whole && end > 0 {
            return Ok(visit(0, &carry));
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Counts lines from the end, records being in parts and of two streams.
struct TailSearch {
    wanted: u64,
    counted: u64,
    from: [Option<Position>; 2],
    /// Per stream, whether the line counted last may have more parts before.
    open: [bool; 2],
    /// Bytes looked at since all lines were counted.
    beyond: u64,
}

impl TailSearch {
    fn visit(&mut self, at: Position, line: &[u8]) -> ControlFlow<()> {
        if self.counted >= self.wanted {
            self.beyond += line.len() as u64 + 1;
            if self.open == [false; 2] || self.beyond > LOOK_BACK {
                return ControlFlow::Break(());
            }
        }
        let Some(line) = parse(line) else { return ControlFlow::Continue(()) };
        let stream = line.stream.index();
        let ends_line = line.complete || self.from[stream].is_none();
        if ends_line && self.counted < self.wanted {
            self.counted += 1;
            self.from[stream] = Some(at);
            self.open[stream] = true;
        } else if line.complete || !self.open[stream] {
            self.open[stream] = false;
        } else {
            self.from[stream] = Some(at);
        }
        ControlFlow::Continue(())
    }
}
