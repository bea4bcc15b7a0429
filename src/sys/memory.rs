//! Memory that processes share, that outlives one, and that is given back: mmap(2), madvise(2).

use super::{Called, SysError, SysResult};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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
        Ok(Shared { start: map_shared(size, None)?, size })
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

/// mmap(2) of `size` bytes that are shared: a file's, or anonymous ones.
fn map_shared(size: usize, file: Option<BorrowedFd<'_>>) -> SysResult<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (flags, fd) = match &file {
        None => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
    };
    // SAFETY: a new mapping at an address of the kernel's choice; no memory that is in use changes.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, fd, 0) };
    let errno = if start == libc::MAP_FAILED { Errno::last() } else { Errno::EFAULT };
    let start = NonNull::new(start.cast()).filter(|_| start != libc::MAP_FAILED);
    start.ok_or_else(|| SysError::new("mmap", format_args!("{size} shared bytes"), errno))
}

/// A file that is mapped: what is stored in it is the file's at once, whatever becomes of this process at its next instruction.
/// It begins with a page of numbers; bytes follow. Children do not have it.
///
/// The file is podshim's own, nobody else writes to it while it is mapped, and nobody makes it shorter.
#[derive(Debug)]
pub struct MappedFile {
    start: NonNull<u8>,
    page: usize,
    size: usize,
}

impl MappedFile {
    /// Maps a file with `size` bytes behind its numbers; it is made as long as that if it is shorter. Its first page is backed
    /// afterwards: the other ones need [`back`](Self::back) first.
    pub fn new(file: BorrowedFd<'_>, size: usize) -> SysResult<MappedFile> {
        let page = page_size();
        let size = page + size.next_multiple_of(page);
        if nix::sys::stat::fstat(file).called("fstat", "a file to be mapped")?.st_size < size as i64 {
            nix::unistd::ftruncate(file, size as i64).called("ftruncate", "a file to be mapped")?;
        }
        let map = MappedFile { start: map_shared(size, Some(file))?, page, size };
        map.advise(0..size, libc::MADV_DONTFORK)?;
        if let Err(error) = map.advise(0..page, libc::MADV_POPULATE_WRITE) {
            // That says only that to touch them would end the process (EFAULT); this says why.
            fallocate(file, FallocateFlags::empty(), 0, page as i64).called("fallocate", "a file to be mapped")?;
            return Err(error);
        }
        Ok(map)
    }

    /// One of the numbers before the bytes; there are 512 of them at least.
    pub fn number(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.page / size_of::<AtomicU64>(), "number {index} of a mapped file");
        // SAFETY: within the first page, by the check above, and aligned, as a page is; everybody accesses it as this atomic.
        unsafe { self.start.cast::<AtomicU64>().add(index).as_ref() }
    }

    /// Sees to it that these bytes have memory (madvise(2), `MADV_POPULATE_WRITE`, Linux 5.14): to touch others ends the process where
    /// the file system is full.
    pub fn back(&self, bytes: Range<usize>) -> SysResult<()> {
        let start = (self.page + bytes.start) / self.page * self.page;
        self.advise(start..(self.page + bytes.end).next_multiple_of(self.page), libc::MADV_POPULATE_WRITE)
    }

    /// Takes the memory from all bytes, and from the file: they are zero, and must be [`back`](Self::back)ed again.
    pub fn clear(&mut self) -> SysResult<()> {
        self.advise(self.page..self.size, libc::MADV_REMOVE)
    }

    /// Takes the pages from this process, not from the file: the next access finds them again.
    pub fn release(&mut self) -> SysResult<()> {
        self.advise(0..self.size, libc::MADV_DONTNEED)
    }

    /// Some bytes, which have been backed.
    pub fn bytes(&self, bytes: Range<usize>) -> &[u8] {
        let (start, len) = self.checked(bytes);
        // SAFETY: within the mapping behind its numbers, by the check, and as long-lived as it; writing takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(start), len) }
    }

    /// Some bytes, which have been backed, to be written.
    pub fn bytes_mut(&mut self, bytes: Range<usize>) -> &mut [u8] {
        let (start, len) = self.checked(bytes);
        // SAFETY: as for `bytes`, and nobody else has a reference to them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(start), len) }
    }

    fn checked(&self, bytes: Range<usize>) -> (usize, usize) {
        assert!(bytes.start <= bytes.end && bytes.end <= self.size - self.page, "bytes {bytes:?} of a mapped file");
        (self.page + bytes.start, bytes.len())
    }

    fn advise(&self, range: Range<usize>, advice: libc::c_int) -> SysResult<()> {
        assert!(range.start <= range.end && range.end <= self.size, "advice on {range:?} of a mapped file");
        // SAFETY: pages of the mapping only; what MADV_REMOVE changes nobody refers to, as its caller has `&mut self`.
        let done = unsafe { libc::madvise(self.start.as_ptr().add(range.start).cast(), range.len(), advice) };
        Errno::result(done).map(drop).called("madvise", format_args!("{} bytes of a mapped file", range.len()))
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: the mapping is `self`'s own, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

pub(super) fn page_size() -> usize {
    // SAFETY: only an integer is passed.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(64 << 10)
}

/// Gives back the pages of the stack that deeper calls have used and left: madvise(2) with MADV_DONTNEED, of a MiB at most.
/// For who is about to wait for long. In another thread than the process's first, whose stack has a mapping of its own, nothing
/// is done.
#[inline(never)]
pub fn release_stack() {
    const REACH: usize = 1 << 20;
    let page = page_size();
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
    use std::os::fd::AsFd;

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

    #[test]
    fn what_is_stored_in_a_mapped_file_is_found_by_whoever_maps_it_next() {
        let file = tempfile::tempfile().unwrap();
        let mut map = MappedFile::new(file.as_fd(), 10_000).unwrap();
        map.number(3).store(7, Ordering::Release);
        map.back(5000..5003).unwrap();
        map.bytes_mut(5000..5003).copy_from_slice(b"abc");
        map.release().unwrap();
        assert_eq!(map.number(3).load(Ordering::Acquire), 7);
        std::mem::forget(map);
        let mut next = MappedFile::new(file.as_fd(), 10_000).unwrap();
        assert_eq!((next.number(3).load(Ordering::Acquire), next.bytes(5000..5003)), (7, &b"abc"[..]));
        next.clear().unwrap();
        next.back(5000..5003).unwrap();
        assert_eq!((next.number(3).load(Ordering::Acquire), next.bytes(5000..5003)), (7, &[0; 3][..]));
    }
}
