//! The file that a log is being written to.

use super::dir;
use crate::sys::{Called, SysError, SysResult};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::uio::pread;
use nix::unistd::{ftruncate, write};
use std::os::fd::OwnedFd;

/// It, open for appending.
#[derive(Debug)]
pub(super) struct Live {
    file: OwnedFd,
    inode: u64,
    pub(super) size: u64,
    /// The file ends within a line that could not be taken back.
    torn: bool,
}

/// A write to the end of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Append {
    pub(super) inode: u64,
    /// The file's size before it.
    pub(super) before: u64,
    pub(super) length: u64,
}

impl Live {
    pub(super) fn open(dir: &OwnedFd, name: &str) -> SysResult<Self> {
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
        Ok(Live { file, inode: stat.st_ino, size: stat.st_size as u64, torn: last != [b'\n'] })
    }

    /// Whether anybody finds it under a name.
    pub(super) fn is_removed(&self) -> bool {
        fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0)
    }

    /// A write of so many bytes, as it is to be.
    pub(super) fn append(&self, length: usize) -> Append {
        Append { inode: self.inode, before: self.size, length: length as u64 }
    }

    /// Whether a write that was to be was made: wholly. If it was in part, that is taken back.
    pub(super) fn has_grown(&mut self, by: Append) -> SysResult<bool> {
        let Append { inode, before, length } = by;
        if inode != self.inode {
            return Ok(false);
        }
        if self.size > before && self.size - before < length {
            ftruncate(&self.file, before as i64).called("ftruncate", "the log")?;
            (self.size, self.torn) = (before, false);
        }
        Ok(self.size.checked_sub(length).is_some_and(|least| least >= before))
    }

    /// Ends the line in which the file ends, if it does.
    pub(super) fn end_torn(&mut self) -> SysResult<()> {
        if self.torn {
            write(&self.file, b"\n").called("write", "the log")?;
            (self.torn, self.size) = (false, self.size + 1);
        }
        Ok(())
    }

    /// Appends records, each of which is a line. How many bytes of them are in the file, as whole records, and what kept the others
    /// out of it.
    pub(super) fn write(&mut self, records: &[u8]) -> (usize, Option<SysError>) {
        let failed = |errno| Some(SysError::new("write", "the log", errno));
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    /// A file that takes no more than `room` bytes: a sealed memfd, for a full disk.
    pub(in super::super) fn full_disk(room: i64) -> Live {
        let file = memfd_create("log", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&file, room).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
        Live { file, inode: 0, size: 0, torn: false }
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
    fn what_cannot_be_taken_back_is_ended_by_a_newline() {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let mut live = Live { file: writer, inode: 0, size: 0, torn: false };
        let records = [&[b'z'; 39_999][..], b"\n"].concat().repeat(2);
        let (written, error) = live.write(&records);
        assert_eq!((written, error.is_some(), live.torn), (40_000, true, true));
        let mut sink = vec![0; 1 << 20];
        let taken = nix::unistd::read(&reader, &mut sink).unwrap();
        assert!(taken > 40_000 && taken < 80_000);
        live.end_torn().unwrap();
        assert_eq!(live.write(b"n\n"), (2, None));
        let taken = nix::unistd::read(&reader, &mut sink).unwrap();
        assert_eq!(&sink[..taken], b"\nn\n");
    }
}
