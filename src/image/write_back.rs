//! A file that is on its way to the disk while it is written, so that the syncfs(2) that comes later waits for less.

use crate::sys::fs::write_back;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;

/// How many bytes are written before they are sent to the disk.
const AT_ONCE: u64 = 4 << 20;
/// How long what is left at the end is, in bytes, that is sent by itself. Less waits for syncfs(2).
const LARGE: u64 = 256 << 10;

/// Counts what is written to a new file, and sends it to the disk.
pub(super) struct WriteBack {
    file: File,
    written: u64,
    sent: u64,
}

impl WriteBack {
    pub(super) fn new(file: File) -> WriteBack {
        WriteBack { file, written: 0, sent: 0 }
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Starts again from nothing.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        (self.written, self.sent) = (0, 0);
        Ok(())
    }

    /// Nothing more is written. How many bytes it has.
    pub(super) fn finish(mut self) -> u64 {
        self.send_from(LARGE);
        self.written
    }

    /// Sends what has not been, if it is this many bytes.
    fn send_from(&mut self, least: u64) {
        if self.written - self.sent >= least {
            write_back(self.file.as_fd(), self.sent..self.written);
            self.sent = self.written;
        }
    }
}

impl Write for WriteBack {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        self.send_from(AT_ONCE);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
