//! flock(2): who has a file open, and nobody else, does something.

use super::{Called, SysError, SysResult};
use nix::errno::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// How a file is to be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// For one; waits until it can be had.
    Exclusive,
    /// For several; waits until it can be had.
    Shared,
    /// For one; `EWOULDBLOCK` if it cannot be had now.
    ExclusiveNow,
    /// For several; `EWOULDBLOCK` if it cannot be had now.
    SharedNow,
}

/// A lock, released when dropped: also in the name of children that have inherited the descriptor.
#[derive(Debug)]
pub struct Flock(File);

impl Flock {
    /// Takes a lock.
    ///
    /// # Errors
    /// Those of flock(2) but EINTR, with the file.
    pub fn lock(file: File, how: How) -> Result<Flock, (File, Errno)> {
        let operation = match how {
            How::Exclusive => libc::LOCK_EX,
            How::Shared => libc::LOCK_SH,
            How::ExclusiveNow => libc::LOCK_EX | libc::LOCK_NB,
            How::SharedNow => libc::LOCK_SH | libc::LOCK_NB,
        };
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Flock(file)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err((file, errno)),
            }
        }
    }

    /// Opens a file or directory that is there, and takes its lock.
    ///
    /// # Errors
    /// Those of open(2) and of [`Flock::lock`].
    pub fn open(path: &Path, how: How) -> SysResult<Flock> {
        let file = File::open(path).called("open", path.display())?;
        Flock::lock(file, how).map_err(|(_, errno)| SysError::new("flock", path.display(), errno))
    }

    /// Lets go of it; the file stays open.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn unlock(self) -> std::io::Result<File> {
        self.0.try_clone()
    }
}

impl Drop for Flock {
    /// A file system that cannot unlock (NFS, with its server gone) is no reason to end: the file is closed next.
    fn drop(&mut self) {
        while flock(&self.0, libc::LOCK_UN) == Err(Errno::EINTR) {}
    }
}

fn flock(file: &File, operation: libc::c_int) -> nix::Result<()> {
    // SAFETY: the descriptor is open as long as the file is borrowed; no memory is passed.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_one_persons_or_several_and_ends_with_it() {
        let path = std::env::temp_dir().join(format!("podshim-flock-{}", std::process::id()));
        let open = || File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        let alone = Flock::lock(open(), How::Exclusive).unwrap();
        assert_eq!(Flock::lock(open(), How::SharedNow).unwrap_err().1, Errno::EWOULDBLOCK);
        // A copy of the descriptor does not keep it.
        let _copy = alone.0.try_clone().unwrap();
        drop(alone);
        let shared = [Flock::lock(open(), How::Shared).unwrap(), Flock::lock(open(), How::SharedNow).unwrap()];
        assert_eq!(Flock::lock(open(), How::ExclusiveNow).unwrap_err().1, Errno::EWOULDBLOCK);
        drop(shared);
        Flock::lock(open(), How::ExclusiveNow).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
