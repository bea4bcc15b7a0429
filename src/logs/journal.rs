//! What a container has said and its log does not have yet, kept where the successor of a killed supervisor finds it.
//!
//! What is read goes straight into a mapped file of the run state, whose page of numbers tells after each instruction what is
//! where. Each of the two system calls that move output is announced in there before, so that whoever comes next can tell whether
//! it has happened:
//!
//! - read(2) takes `reading` bytes out of the FIFO, all of which were there. Where they go lay [`UNREAD`] before: bytes that no
//!   UTF-8 text has. If they lie there still, they were not read. (Of output that begins with 16 of them, or is nothing else, it
//!   cannot be told: then it is lost, if the supervisor was killed in the read.)
//! - write(2) makes the log's file longer by `length`. By its size it was written, or not, or in part: that is taken back.

use super::file::{Append, Live};
use super::{MAX_RECORD, Stream};
use crate::sys::memory::MappedFile;
use crate::sys::{Called, SysError, SysResult, fs};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

/// The most bytes that are read at once: what the pipe of a container holds that writes much. Less at a time, and it is woken up for
/// each part.
pub(super) const READ_SIZE: usize = 256 << 10;

/// Bytes per stream: what is held of a line can be moved out of the way of a read without overlap.
const ROOM: usize = READ_SIZE + 2 * MAX_RECORD;

/// What lies where a read goes.
const UNREAD: [u8; 16] = [0xff; 16];

/// Written first: a layout of another version is not read.
const VERSION: u64 = 0x706f_6473_6869_6d03;

/// The numbers of the first page; `KEPT` is that of stdout, the next one that of stderr.
const LAYOUT: usize = 0;
const KEPT: usize = 1;
/// 0 while no write is under way; else 1 + the index of its stream.
const WRITING: usize = 3;
const LEFT: usize = 4;
const INODE: usize = 5;
const BEFORE: usize = 6;
const LENGTH: usize = 7;

/// The output of one container instance on its way to the log.
#[derive(Debug)]
pub(super) struct Journal {
    map: MappedFile,
    /// How many bytes of each stream's room have memory.
    backed: [usize; 2],
}

/// Where in its room the output of a stream is that is not in the log, and how many bytes behind it are being read. One number, so
/// that it changes at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Kept {
    start: usize,
    end: usize,
    reading: usize,
}

/// Bits of each part of the number.
const BITS: u32 = 21;

const _: () = assert!(ROOM < 1 << BITS);

impl Kept {
    fn number(self) -> u64 {
        self.start as u64 | (self.end as u64) << BITS | (self.reading as u64) << (2 * BITS)
    }

    fn of(number: u64) -> Option<Kept> {
        let part = |index: u32| usize::try_from(number >> (index * BITS) & ((1 << BITS) - 1)).ok();
        let kept = Kept { start: part(0)?, end: part(1)?, reading: part(2)? };
        let is_sound = kept.start <= kept.end && kept.end + kept.reading <= ROOM;
        (is_sound && number >> (3 * BITS) == 0).then_some(kept)
    }

    fn len(self) -> usize {
        self.end - self.start
    }
}

impl Journal {
    /// A new one, in the place of any other.
    pub(super) fn create(path: &Path) -> SysResult<Journal> {
        fs::remove_file(path)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR).called("open", path.display())?;
        let map = map(file.as_fd(), path)?;
        map.number(LAYOUT).store(VERSION, Ordering::Release);
        Ok(Journal { map, backed: [0; 2] })
    }

    /// The one that another supervisor has left; `None` if there is none, or one that cannot be understood.
    pub(super) fn open(path: &Path) -> SysResult<Option<Journal>> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match open(path, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other.called("open", path.display())?,
        };
        let mode = fstat(&file).called("fstat", path.display())?.st_mode;
        if mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Ok(None);
        }
        let map = map(file.as_fd(), path)?;
        if map.number(LAYOUT).load(Ordering::Acquire) != VERSION {
            return Ok(None);
        }
        let mut backed = [0; 2];
        for stream in Stream::BOTH {
            let number = map.number(KEPT + stream.index()).load(Ordering::Acquire);
            let Some(Kept { end, reading, .. }) = Kept::of(number) else { return Ok(None) };
            let used = end + reading;
            map.back(at(stream, 0)..at(stream, used))?;
            backed[stream.index()] = used;
        }
        Ok(Some(Journal { map, backed }))
    }

    /// Finds out what became of the calls that a killed supervisor had announced. Afterwards [`bytes`](Self::bytes) is what is in no
    /// log, and `log` has whole batches only.
    pub(super) fn settle(&self, log: &mut Live) -> SysResult<()> {
        let number = |index| self.map.number(index).load(Ordering::Acquire);
        let stream = match number(WRITING) {
            0 => None,
            1 => Some(Stream::Stdout),
            _ => Some(Stream::Stderr),
        };
        if let Some(stream) = stream {
            // One that has another name by now, or was made shorter by somebody, does not tell. Better twice than not at all.
            let append = Append { inode: number(INODE), before: number(BEFORE), length: number(LENGTH) };
            if log.has_grown(append)? {
                self.written(stream, usize::try_from(number(LEFT)).unwrap_or(usize::MAX));
            }
            self.map.number(WRITING).store(0, Ordering::Release);
        }
        for stream in Stream::BOTH {
            let Kept { start, end, reading } = self.kept(stream);
            let marked = reading.min(UNREAD.len());
            let place = at(stream, end);
            let was_read = self.map.bytes(place..place + marked) != &UNREAD[..marked];
            self.keep(stream, Kept { start, end: end + if was_read { reading } else { 0 }, reading: 0 });
        }
        Ok(())
    }

    /// Room for `count` bytes to be read into, announced; `None` if there is no memory.
    pub(super) fn begin(&mut self, stream: Stream, count: usize) -> Option<&mut [u8]> {
        let count = count.min(READ_SIZE);
        let mut kept = self.kept(stream);
        if kept.len() == 0 {
            (kept.start, kept.end) = (0, 0);
        } else if kept.end + count > ROOM {
            let (start, len) = (kept.start, kept.len());
            if len > start {
                return None;
            }
            let (from, to) = (at(stream, start), at(stream, 0));
            self.map.bytes_mut(to..from + len).copy_within(from - to.., 0);
            (kept.start, kept.end) = (0, kept.end - kept.start);
        }
        self.keep(stream, kept);
        let (start, end) = (kept.end, kept.end + count);
        let backed = &mut self.backed[stream.index()];
        if end > *backed {
            self.map.back(at(stream, *backed)..at(stream, end)).ok()?;
            *backed = end;
        }
        let marked = count.min(UNREAD.len());
        self.map.bytes_mut(at(stream, start)..at(stream, start) + marked).copy_from_slice(&UNREAD[..marked]);
        self.keep(stream, Kept { reading: count, ..kept });
        Some(self.map.bytes_mut(at(stream, start)..at(stream, end)))
    }

    /// What was announced has been read: so many bytes, which are returned.
    pub(super) fn took(&self, stream: Stream, count: usize) -> &[u8] {
        let mut kept = self.kept(stream);
        let (start, taken) = (kept.end, count.min(kept.reading));
        kept.end += taken;
        self.keep(stream, Kept { reading: 0, ..kept });
        self.map.bytes(at(stream, start)..at(stream, start) + taken)
    }

    /// A write to the log comes; of the stream's output `left` bytes are in no log after it.
    pub(super) fn writing(&self, stream: Stream, left: usize, append: Append) {
        let set = |index, number| self.map.number(index).store(number, Ordering::Release);
        set(LEFT, left as u64);
        set(INODE, append.inode);
        set(BEFORE, append.before);
        set(LENGTH, append.length);
        set(WRITING, 1 + stream.index() as u64);
    }

    /// The last `left` bytes of a stream's output are in no log, the others are (or are given up).
    pub(super) fn written(&self, stream: Stream, left: usize) {
        let kept = self.kept(stream);
        self.keep(stream, Kept { start: kept.end.saturating_sub(left).max(kept.start), ..kept });
        self.map.number(WRITING).store(0, Ordering::Release);
    }

    /// A stream's output that is in no log.
    pub(super) fn bytes(&self, stream: Stream) -> &[u8] {
        let kept = self.kept(stream);
        self.map.bytes(at(stream, kept.start)..at(stream, kept.end))
    }

    /// Nothing is kept any more: what is held of a line has not all been in here.
    pub(super) fn abandon(self) {
        for stream in Stream::BOTH {
            self.keep(stream, Kept::default());
        }
    }

    /// Gives memory back, for as long as nothing happens: what is in no log stays in the file.
    pub(super) fn release(&mut self) {
        let is_empty = Stream::BOTH.into_iter().all(|stream| self.bytes(stream).is_empty());
        if is_empty && self.backed != [0; 2] && self.map.clear().is_ok() {
            self.backed = [0; 2];
        }
        // It is only memory.
        let _ = self.map.release();
    }

    fn kept(&self, stream: Stream) -> Kept {
        Kept::of(self.map.number(KEPT + stream.index()).load(Ordering::Acquire)).unwrap_or_default()
    }

    fn keep(&self, stream: Stream, kept: Kept) {
        self.map.number(KEPT + stream.index()).store(kept.number(), Ordering::Release);
    }
}

fn map(file: BorrowedFd<'_>, path: &Path) -> SysResult<MappedFile> {
    MappedFile::new(file, 2 * ROOM).map_err(|error| SysError { target: path.display().to_string(), ..error })
}

/// Where in the file's bytes a place in a stream's room is.
fn at(stream: Stream, place: usize) -> usize {
    stream.index() * ROOM + place
}
