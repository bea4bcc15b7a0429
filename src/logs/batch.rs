//! Records of one stream, put together to be written by one write(2). Copied, as two parts a line (of writev(2)) cost the kernel more
//! than all else.

use super::journal::READ_SIZE;
use super::{MAX_RECORD, Stream};
use jiff::civil::DateTime;
use std::fmt::Write as _;

/// Bytes in one write: all that is read at once, if its lines are long.
const MAX_BATCH: usize = READ_SIZE + 2 * MAX_RECORD;

/// More than a record has besides its bytes.
const HEAD: usize = 64;

/// Bytes that are copied by a few instructions.
const BLOCK: usize = 64;

/// The most bytes that are copied by blocks.
const SHORT: usize = 4 * BLOCK;

/// Some records, each of which is a line.
pub(super) struct Batch {
    room: Vec<u8>,
    /// How many bytes of the room are records.
    filled: usize,
    /// Bytes of the output that are in none of the records so far.
    left: usize,
}

/// One record.
pub(super) struct Record<'a> {
    pub(super) head: &'a Head,
    /// What was held of the line.
    pub(super) held: &'a [u8],
    /// The first `len` bytes go on with it.
    pub(super) output: &'a [u8],
    pub(super) len: usize,
    /// Whether the newline that ends it follows.
    pub(super) complete: bool,
}

/// What a record begins with: `<time> <stream> <tag> `.
pub(super) struct Head {
    text: [u8; HEAD],
    len: usize,
}

impl Batch {
    /// An empty one, in the room of an earlier one, of this many bytes of output. They are more with their heads, and are not
    /// all in one batch if they are many.
    pub(super) fn begin(mut room: Vec<u8>, bytes: usize) -> Batch {
        let len = (2 * bytes + HEAD).min(MAX_BATCH);
        if len > room.len() {
            room.reserve_exact(len - room.len());
            room.resize(len, 0);
        }
        Batch { room, filled: 0, left: bytes }
    }

    /// Whether there is room for a record. An empty batch has room for any.
    pub(super) fn has_room(&self, record: &Record<'_>) -> bool {
        self.filled + record.len() <= self.room.len()
    }

    /// Adds a record, for which there [is room](Self::has_room).
    pub(super) fn add(&mut self, record: &Record<'_>) {
        let Record { head, held, output, len, complete } = *record;
        self.put(&head.text, head.len);
        if !held.is_empty() {
            self.put(held, held.len());
        }
        self.put(output, len + usize::from(complete));
        if !complete {
            self.put(b"\n", 1);
        }
        self.left -= held.len() + len + usize::from(complete);
    }

    /// Adds the first `len` bytes of `bytes`. What follows them may be copied, too, and is overwritten by what is added next: few
    /// bytes are faster copied by blocks than by memcpy(3), which musl makes for many.
    fn put(&mut self, bytes: &[u8], len: usize) {
        let room = &mut self.room[self.filled..];
        let mut done = 0;
        if len <= SHORT {
            // Without an index: where code is to be small, each is a call.
            let blocks = room.as_chunks_mut::<BLOCK>().0.iter_mut().zip(bytes.as_chunks::<BLOCK>().0);
            for (to, from) in blocks.take(len.div_ceil(BLOCK)) {
                *to = *from;
                done += BLOCK;
            }
        }
        if done < len {
            room[done..len].copy_from_slice(&bytes[done..len]);
        }
        self.filled += len;
    }

    pub(super) fn records(&self) -> &[u8] {
        &self.room[..self.filled]
    }

    /// Bytes of the output that are in none of the records so far.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// What is in it was written, or given up.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Its room, for another one.
    pub(super) fn into_room(self) -> Vec<u8> {
        self.room
    }
}

impl Record<'_> {
    /// Bytes in the log.
    pub(super) fn len(&self) -> usize {
        self.head.len + self.held.len() + self.len + 1
    }
}

impl Head {
    /// The time, with its offset from UTC in seconds, is Go's "2006-01-02T15:04:05.000000000Z07:00": always nine digits, `Z` for UTC.
    pub(super) fn new((at, offset): (DateTime, i32), stream: Stream, complete: bool) -> Head {
        let mut head = String::with_capacity(HEAD);
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
        let mut text = [0; HEAD];
        text[..head.len()].copy_from_slice(head.as_bytes());
        Head { text, len: head.len() }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}
