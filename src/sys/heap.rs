//! The allocator of the `podshim` program.
//!
//! What a command allocates it needs to its end, which is near: it is taken from one piece, and most of it is never given back.
//! musl's allocator maps and unmaps pages all the time instead, which was a third of what `podshim ps` took. A process that stays,
//! as a pod's supervisor, has the system's allocator with a [`Shelf`] before it: when it waits, it keeps no page that it does not
//! need.

use super::shelf::Shelf;
use nix::libc;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The allocator, for `#[global_allocator]`.
#[derive(Debug)]
pub struct Heap;

/// Bytes of the piece; pages that nobody writes cost nothing. What does not fit is the system's.
const SIZE: usize = 1 << 20;

/// Of each block, as of malloc(3): nix reads `struct cmsghdr` in vectors of bytes.
const ALIGNMENT: usize = 16;

/// Larger ones are the system's, which gives their pages back.
const LARGEST: usize = 32 << 10;

/// The kernel makes so many bytes of the piece present at once, in less than half of the time that it takes page by page.
const AHEAD: usize = 32 << 10;

#[repr(align(4096))]
struct Piece(UnsafeCell<[u8; SIZE]>);

// SAFETY: nothing here reads or writes its bytes but those of a block that was just taken, and `NEXT` gives none of them out
// twice at a time.
unsafe impl Sync for Piece {}

static PIECE: Piece = Piece(UnsafeCell::new([0; SIZE]));

/// Where the free part of the piece begins. As long as the process has not said that it ends soon, there is none.
static NEXT: AtomicUsize = AtomicUsize::new(SIZE);

/// Where the part of the piece ends that was made present.
static PRESENT: AtomicUsize = AtomicUsize::new(0);

/// From now on, what is allocated may stay until the process ends. To be called once.
pub fn ends_soon() {
    NEXT.store(0, Ordering::Relaxed);
}

static SHELF: Shelf = Shelf::new();

/// From now on, blocks of middling size stay present when they are given back, until [`release`].
pub fn stays() {
    SHELF.open();
}

/// Gives the pages back that hold nothing. For who is about to wait for long.
pub fn release() {
    SHELF.release();
    // Unlike musl's, glibc's allocator keeps what is free between blocks.
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches no block that is in use.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Where in the piece a block is, if it is there.
fn place(block: *mut u8) -> Option<usize> {
    (block as usize).checked_sub(PIECE.0.get() as usize).filter(|at| *at < SIZE)
}

fn take(layout: Layout) -> Option<*mut u8> {
    take_of_piece(layout).or_else(|| SHELF.take(layout))
}

fn take_of_piece(layout: Layout) -> Option<*mut u8> {
    if layout.size() > LARGEST {
        return None;
    }
    let mut next = NEXT.load(Ordering::Relaxed);
    loop {
        // The piece itself begins at a page.
        let start = next.next_multiple_of(layout.align().max(ALIGNMENT));
        let end = start + layout.size();
        if end > SIZE || layout.align() > 4096 {
            return None;
        }
        match NEXT.compare_exchange_weak(next, end, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => {
                let present = PRESENT.load(Ordering::Relaxed);
                if end > present {
                    make_present(present, end.next_multiple_of(AHEAD));
                }
                // SAFETY: start <= SIZE, so that it is in the piece or one past its end.
                return Some(unsafe { PIECE.0.get().cast::<u8>().add(start) });
            }
            Err(other) => next = other,
        }
    }
}

/// madvise(2) with MADV_POPULATE_WRITE, since Linux 5.14. If it fails, each page comes when it is written.
#[cold]
fn make_present(from: usize, to: usize) {
    PRESENT.store(to, Ordering::Relaxed);
    // SAFETY: the range is of whole pages within the piece, whose bytes stay as they are.
    unsafe { libc::madvise(PIECE.0.get().cast::<u8>().add(from).cast(), to - from, libc::MADV_POPULATE_WRITE) };
}

/// The end of the last block is moved; whether it was the last one.
fn move_end(from: usize, to: usize) -> bool {
    NEXT.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

// SAFETY: a block is of the piece or the shelf, where `take` gives each byte to one block at a time, or the system's; which, is told
// by its address alone. (Inlined, they would be in the binary some thousand times.)
unsafe impl GlobalAlloc for Heap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match take(layout) {
            Some(block) => block,
            // SAFETY: as our own caller promises.
            None => unsafe { System.alloc(layout) },
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match place(block) {
            // Of no use again if it is not the last one.
            Some(at) => drop(move_end(at + layout.size(), at)),
            None if SHELF.resize(block, layout.size(), 0).is_some() => {}
            // SAFETY: as our own caller promises; it is of neither.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match take(layout) {
            Some(block) => {
                // SAFETY: the block has this size, and is nobody else's. A block before it may have left something there.
                unsafe { block.write_bytes(0, layout.size()) };
                block
            }
            // SAFETY: as our own caller promises.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // None if it is of neither.
        let has_room = match place(block) {
            Some(at) => {
                let fits = size <= LARGEST && at + size <= SIZE;
                Some(fits && move_end(at + layout.size(), at + size) || size <= layout.size())
            }
            None => SHELF.resize(block, layout.size(), size),
        };
        if has_room == Some(true) {
            return block;
        }
        // SAFETY: our caller promises that the size, rounded up to the alignment, is no more than isize::MAX.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let new = match take(wanted) {
            Some(new) => new,
            // SAFETY: as our own caller promises; it is of neither.
            None if has_room.is_none() => return unsafe { System.realloc(block, layout, size) },
            // SAFETY: as our own caller promises.
            None => unsafe { System.alloc(wanted) },
        };
        // SAFETY: the new block is not null after the check, has `size` bytes, and overlaps no other.
        unsafe {
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A block that holds one byte all over.
    struct Block {
        at: *mut u8,
        layout: Layout,
        byte: u8,
    }

    impl Block {
        fn new(size: usize, align: usize, byte: u8) -> Block {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the size is not zero.
            let at = unsafe { if byte == 0 { Heap.alloc_zeroed(layout) } else { Heap.alloc(layout) } };
            assert!(!at.is_null() && (at as usize).is_multiple_of(align.max(ALIGNMENT)));
            let block = Block { at, layout, byte };
            if byte != 0 {
                block.fill();
            }
            block
        }

        fn fill(&self) {
            // SAFETY: the block has this size, and is ours.
            unsafe { self.at.write_bytes(self.byte, self.layout.size()) };
        }

        fn check(&self, size: usize) {
            // SAFETY: as much was written, or given out as zeros, by `new` and `fill`.
            let bytes = unsafe { std::slice::from_raw_parts(self.at, size) };
            assert!(bytes.iter().all(|byte| *byte == self.byte));
        }

        fn resize(&mut self, size: usize) {
            let kept = self.layout.size().min(size);
            // SAFETY: it is a block of this allocator with this layout; the size is not zero.
            self.at = unsafe { Heap.realloc(self.at, self.layout, size) };
            assert!(!self.at.is_null());
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            self.check(kept);
            self.fill();
        }
    }

    impl Drop for Block {
        fn drop(&mut self) {
            self.check(self.layout.size());
            // SAFETY: it is a block of this allocator with this layout, and nobody uses it after this.
            unsafe { Heap.dealloc(self.at, self.layout) };
        }
    }

    proptest! {
        #[test]
        fn no_block_is_anothers(does in prop::collection::vec((0..4u8, 1..70_000usize, 0..14u32, any::<u8>()), 1..200)) {
            ends_soon();
            // What the piece has no room for.
            stays();
            let mut blocks: Vec<Block> = Vec::new();
            for (what, size, align, byte) in does {
                let one = size % blocks.len().max(1);
                match what {
                    0 if !blocks.is_empty() => drop(blocks.remove(one)),
                    1 if !blocks.is_empty() => blocks[one].resize(size),
                    // Most are small.
                    2 => blocks.push(Block::new(size, 1 << align, byte)),
                    _ => blocks.push(Block::new(size % 200 + 1, 1 << (align % 5), byte)),
                }
            }
        }
    }
}
