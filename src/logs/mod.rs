//! Container logs on disk: written, rotated, read and followed, in the CRI's format and a kubelet's layout.
//!
//! ```text
//! <pod logs>/<container>/<restart count>.log                     what is being written
//! <pod logs>/<container>/<restart count>.log.20261122-175806     rotated, the older the smaller
//!
//! 2026-11-22T17:58:06.123456789+01:00 stdout F a line
//! 2026-11-22T17:58:06.123456789+01:00 stderr P the first 16 KiB of a longer line, or of one without an end
//! ```
//!
//! In: bytes of a container's stdout and stderr ([`Writer`]). Out: the same bytes ([`Reader`] for what is there, [`Follow`]
//! for what comes). A directory below the log directory may be a container's hostPath volume, so nothing in it is trusted:
//! files are opened through their directory's descriptor, never through a symlink, and only regular files.
//!
//! This room knows no pods and no processes, prints nothing, and does not decide which instance's logs are kept.

mod batch;
mod chain;
mod dir;
mod file;
mod follow;
mod journal;
mod reader;
mod writer;

#[cfg(test)]
mod killed;
#[cfg(test)]
mod tests;

pub use dir::remove_instance;
pub use follow::{Follow, Start};
pub use reader::{Instance, Query, Reader, Source, Timestamps, instances, last_lines};
pub use writer::{Limits, Outcome, Place, Writer};

use jiff::Timestamp;

/// The most bytes of a container's output in one record: 16 KiB, as containerd's `max_container_log_line_size`.
pub const MAX_RECORD: usize = 16 * 1024;

/// Which of a container's outputs. With a tty everything is stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`, as in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }

    fn index(self) -> usize {
        self as usize
    }

    const BOTH: [Stream; 2] = [Stream::Stdout, Stream::Stderr];
}

/// A record of a log, or a part of one, as read.
///
/// The texts of a stream's records, one after the other, are the bytes the container wrote to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Index of the container among those asked for; 0 from a [`Reader`].
    pub container: usize,
    /// The container's instance: the number of restarts before it.
    pub restart_count: u32,
    /// Where the container wrote it.
    pub stream: Stream,
    /// When podshim read it.
    pub time: Timestamp,
    /// `time` as the log has it, in the zone of the writer.
    pub stamp: String,
    /// What the container wrote, without the newline that ended the line.
    pub bytes: Vec<u8>,
    /// Whether a newline followed.
    pub complete: bool,
    /// Whether the record before it on the same stream was complete.
    pub starts_line: bool,
}

impl Record {
    /// What is to be printed: the time if asked for and at the start of a line, the bytes, the newline.
    pub fn text(&self, timestamps: Timestamps) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.bytes.len() + self.stamp.len() + 2);
        if timestamps == Timestamps::Shown && self.starts_line {
            text.extend_from_slice(self.stamp.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&self.bytes);
        if self.complete {
            text.push(b'\n');
        }
        text
    }
}

/// A line of a log file, taken apart.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    stamp: &'a str,
    time: Timestamp,
    stream: Stream,
    complete: bool,
    bytes: &'a [u8],
}

/// Reads `<time> <stream> <tags> <bytes>`; the first of the tags, which colons separate, says partial or full.
///
/// None if it is not such a line: one that a crash or someone else left there.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let mut next = || fields.next();
    let (stamp, stream, tags, bytes) = (next()?, next()?, next()?, next()?);
    let stamp = std::str::from_utf8(stamp).ok()?;
    Some(Line {
        stamp,
        time: stamp.parse().ok()?,
        stream: Stream::BOTH.into_iter().find(|s| s.as_str().as_bytes() == stream)?,
        complete: match tags.split(|byte| *byte == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        },
        bytes,
    })
}
