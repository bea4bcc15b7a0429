//! Memory that processes share, and memory that is given back: mmap(2), madvise(2).

use super::{SysError, SysResult};
use nix::errno::Errno;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A buffer that this process and those made by clone3(2) after it share; execve(2) takes it away. Writing and reading it
/// takes no system call, so that it works behind any seccomp filter.
///
/// What is in it is not trusted: whoever can trace one of the processes can write it.
#[derive(Debug)]
pub struct Shared {
    start: NonNull<u8>,
    size: usize,
}

/// The number of bytes written comes first.
const HEAD: usize = size_of::<AtomicUsize>();

impl Shared {
    /// mmap(2) of anonymous shared memory with room for `size` bytes; pages that nobody writes cost nothing.
    pub fn new(size: usize) -> SysResult<Shared> {
        let size = size + HEAD;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice; no memory that is in use changes.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(SysError::new("mmap", format_args!("{size} shared bytes"), Errno::last()));
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Shared { start, size }),
            None => Err(SysError::new("mmap", format_args!("{size} shared bytes"), Errno::EFAULT)),
        }
    }

    fn length(&self) -> &AtomicUsize {
        // SAFETY: the mapping begins at a page and has HEAD bytes at least; it lives as long as `self`, and everybody
        // accesses these bytes as this atomic. Zero bytes are a valid one.
        unsafe { self.start.cast::<AtomicUsize>().as_ref() }
    }

    /// Appends all of the bytes; whether there was room. One process writes at a time.
    pub fn append(&self, bytes: &[u8]) -> bool {
        let length = self.length().load(Ordering::Acquire);
        let Some(end) = length.checked_add(bytes.len()).filter(|end| *end <= self.size - HEAD) else { return false };
        // SAFETY: HEAD + end is within the mapping by the check above; `bytes` is no part of it, as nobody is given a
        // reference into it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(HEAD + length), bytes.len()) };
        self.length().store(end, Ordering::Release);
        true
    }

    /// What was appended behind the first `from` bytes.
    pub fn since(&self, from: usize) -> Vec<u8> {
        let end = self.length().load(Ordering::Acquire).min(self.size - HEAD);
        let mut bytes = vec![0; end.saturating_sub(from)];
        // SAFETY: from + bytes.len() <= size - HEAD where there is anything to copy, so that it is within the mapping; the
        // vector is memory of its own. What another process writes meanwhile changes bytes, never what is accessed.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.start.as_ptr().add(HEAD + from.min(end)),
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
        bytes
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is `self`'s own, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

/// Gives back the pages of the stack that deeper calls have used and left: madvise(2) with MADV_DONTNEED, of a MiB at most.
/// For who is about to wait for long. In another thread than the process's first, whose stack has a mapping of its own, nothing
/// is done.
#[inline(never)]
pub fn release_stack() {
    const REACH: usize = 1 << 20;
    // SAFETY: only an integer is passed.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(64 << 10);
    let here = 0_u8;
    // One page at least for this function and the one that it calls.
    let end = ((&raw const here).addr() / page - 1) * page;
    if nix::unistd::gettid() == nix::unistd::getpid() {
        // SAFETY: nothing is alive below the frames of the running functions. Beyond the stack's mapping there is nothing either,
        // as other mappings begin 128 MiB below its top (mmap_base()); the kernel says ENOMEM then, which is no harm.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(end - REACH), REACH, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read_and_no_more_than_fits() {
        let shared = Shared::new(8).unwrap();
        assert!(shared.append(b"abcde") && !shared.append(b"1234") && shared.append(b"fgh") && !shared.append(b"i"));
        assert_eq!(
            (shared.since(0), shared.since(5), shared.since(8), shared.since(99)),
            (b"abcdefgh".to_vec(), b"fgh".to_vec(), vec![], vec![])
        );
        // A length that somebody forged.
        shared.length().store(usize::MAX, Ordering::Release);
        assert_eq!(shared.since(0), b"abcdefgh");
        assert!(!shared.append(b"x"));
    }
}
