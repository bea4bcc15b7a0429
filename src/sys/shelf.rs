//! Blocks of middling size for a process that stays: taken and given back without a system call.
//!
//! musl's allocator has a page or more for one such block, which it maps when the block is taken and unmaps when it is given back:
//! some forty times for each container that a supervisor starts. Here all pages stay until [`Shelf::release`].
//!
//! For a process of one thread, as a supervisor is: a child that was forked while another thread takes a block would wait for ever.

use super::memory::page_size;
use nix::libc;
use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a unit: a block has whole ones.
const UNIT: usize = 256;

/// The units of a shelf.
const UNITS: usize = 1024;

/// What is smaller shares its page with others in musl's allocator, too; what is larger is rare.
const SIZES: Range<usize> = UNIT..(32 << 10) + 1;

/// A part of the program's zeroed memory, and which of its units are taken.
pub(super) struct Shelf {
    bytes: Bytes,
    taken: UnsafeCell<Units>,
    /// Whether somebody looks at `taken`.
    is_held: AtomicBool,
    /// Whether blocks are taken from it.
    is_open: AtomicBool,
}

#[repr(align(4096))]
struct Bytes(UnsafeCell<[u8; UNIT * UNITS]>);

// SAFETY: `taken` is used by whoever has set `is_held` alone, and gives no unit out twice at a time; `bytes` only by who has been
// given a unit.
unsafe impl Sync for Shelf {}

impl Shelf {
    pub(super) const fn new() -> Shelf {
        Shelf {
            bytes: Bytes(UnsafeCell::new([0; UNIT * UNITS])),
            taken: UnsafeCell::new(Units { words: [0; WORDS], used: 0 }),
            is_held: AtomicBool::new(false),
            is_open: AtomicBool::new(false),
        }
    }

    /// From now on there are blocks.
    pub(super) fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// A block; `None` if it is not one for this shelf, or there is no room.
    pub(super) fn take(&self, layout: Layout) -> Option<*mut u8> {
        let is_for_it =
            SIZES.contains(&layout.size()) && layout.align() <= UNIT && self.is_open.load(Ordering::Relaxed);
        let count = layout.size().div_ceil(UNIT);
        let first = is_for_it.then(|| self.with(|units| units.take(count))).flatten()?;
        // SAFETY: the units are within the shelf.
        Some(unsafe { self.start().add(first * UNIT) })
    }

    /// Gives a block back, or makes it a smaller or larger one in its place; whether it was one of these, and could be made so.
    pub(super) fn resize(&self, block: *mut u8, from: usize, to: usize) -> Option<bool> {
        let first = (block as usize).checked_sub(self.start() as usize).filter(|at| *at < UNIT * UNITS)? / UNIT;
        let is_for_it = to == 0 || to < SIZES.end;
        let (old, new) = (first + from.div_ceil(UNIT), first + to.div_ceil(UNIT));
        Some(is_for_it && self.with(|units| units.move_end(old, new)))
    }

    /// Gives the pages back in which no block is: madvise(2) with MADV_DONTNEED. For who is about to wait for long.
    pub(super) fn release(&self) {
        let per_page = page_size() / UNIT;
        self.with(|units| {
            let end = units.used.next_multiple_of(per_page).min(UNITS);
            for free in units.free_runs(end) {
                let pages = free.start.next_multiple_of(per_page)..free.end / per_page * per_page;
                if !pages.is_empty() {
                    // SAFETY: these pages are within the shelf, and no block is in them: what they hold is nobody's. Nobody takes
                    // one meanwhile.
                    unsafe {
                        let start = self.start().add(pages.start * UNIT);
                        libc::madvise(start.cast(), pages.len() * UNIT, libc::MADV_DONTNEED);
                    }
                }
            }
            units.used = units.last_taken();
        });
    }

    fn start(&self) -> *mut u8 {
        self.bytes.0.get().cast()
    }

    fn with<T>(&self, look: impl FnOnce(&mut Units) -> T) -> T {
        while self.is_held.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: nobody else has it until `is_held` is cleared.
        let result = look(unsafe { &mut *self.taken.get() });
        self.is_held.store(false, Ordering::Release);
        result
    }
}

const WORDS: usize = UNITS / 64;

/// A bit for each unit that is taken.
struct Units {
    words: [u64; WORDS],
    /// The end of those that were taken since the pages were given back.
    used: usize,
}

impl Units {
    /// Takes so many in a row, the first ones that are free: what stays long is together then.
    fn take(&mut self, count: usize) -> Option<usize> {
        let found = self.free_runs(UNITS).find(|free| free.len() >= count)?;
        self.set(found.start..found.start + count, true);
        Some(found.start)
    }

    /// Takes or gives back the units between a block's end and another one; whether they could be taken.
    fn move_end(&mut self, from: usize, to: usize) -> bool {
        let is_free = to <= UNITS && (to <= from || self.next(from, true) >= to);
        if is_free {
            self.set(to.min(from)..from, false);
            self.set(from..to.max(from), true);
        }
        is_free
    }

    fn set(&mut self, range: Range<usize>, is_taken: bool) {
        if is_taken {
            self.used = self.used.max(range.end);
        }
        for unit in range {
            let bit = 1 << (unit % 64);
            if is_taken { self.words[unit / 64] |= bit } else { self.words[unit / 64] &= !bit }
        }
    }

    /// The next one from `at` on that is taken, or that is free; their number if there is none.
    fn next(&self, at: usize, is_taken: bool) -> usize {
        let mut at = at;
        while at < UNITS {
            let word = if is_taken { self.words[at / 64] } else { !self.words[at / 64] } >> (at % 64);
            if word != 0 {
                return at + word.trailing_zeros() as usize;
            }
            at = (at / 64 + 1) * 64;
        }
        UNITS
    }

    /// The free ones before `end`, in rows.
    fn free_runs(&self, end: usize) -> impl Iterator<Item = Range<usize>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, false);
            at = self.next(start, true).min(end);
            (start < end).then_some(start..at)
        })
    }

    fn last_taken(&self) -> usize {
        let word = self.words.iter().rposition(|word| *word != 0);
        word.map_or(0, |word| word * 64 + 64 - self.words[word].leading_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 16).unwrap()
    }

    #[test]
    fn it_has_blocks_of_its_sizes_once_it_is_open() {
        static SHELF: Shelf = Shelf::new();
        assert_eq!(SHELF.take(layout(UNIT)), None);
        SHELF.open();
        assert_eq!(SHELF.take(layout(UNIT - 1)), None);
        assert_eq!(SHELF.take(layout(SIZES.end)), None);
        assert_eq!(SHELF.take(Layout::from_size_align(UNIT, 2 * UNIT).unwrap()), None);
        let mut blocks: Vec<*mut u8> = std::iter::from_fn(|| SHELF.take(layout(SIZES.end - 1))).collect();
        assert_eq!(blocks.len(), UNIT * UNITS / (SIZES.end - 1));
        assert_eq!(SHELF.resize(blocks[0], SIZES.end - 1, UNIT), Some(true));
        assert_eq!(SHELF.resize(blocks[0], UNIT, SIZES.end), Some(false), "another's sizes");
        assert_eq!(SHELF.resize(blocks[0], UNIT, SIZES.end - 1), Some(true));
        assert_eq!(SHELF.resize(blocks[0], UNIT, 3 * UNIT), Some(false), "the next one is in the way");
        assert_eq!(SHELF.resize(std::ptr::from_mut(&mut blocks).cast(), UNIT, 0), None, "none of its blocks");
    }

    #[test]
    fn pages_without_blocks_are_given_back() {
        static SHELF: Shelf = Shelf::new();
        SHELF.open();
        let page = page_size();
        let blocks: Vec<*mut u8> = (0..4).filter_map(|_| SHELF.take(layout(page))).collect();
        // SAFETY: each block has a page of bytes, and is ours; those of the shelf that are nobody's are still there.
        let (fill, first) =
            (|block: &*mut u8| unsafe { block.write_bytes(7, page) }, |block: *mut u8| unsafe { *block });
        blocks.iter().for_each(fill);
        assert_eq!(SHELF.resize(blocks[1], page, 0), Some(true));
        assert_eq!(SHELF.resize(blocks[3], page, 0), Some(true));
        SHELF.release();
        assert_eq!(blocks.iter().map(|block| first(*block)).collect::<Vec<_>>(), [7, 0, 7, 0]);
        let again = SHELF.take(layout(page)).unwrap();
        assert_eq!(again, blocks[1]);
        fill(&again);
        SHELF.release();
        assert_eq!(first(again), 7);
    }

    proptest! {
        #[test]
        fn no_unit_is_anothers(does in prop::collection::vec((0..5u8, 0..40_000usize), 1..300)) {
            let mut units = Units { words: [0; WORDS], used: 0 };
            let mut blocks: Vec<Range<usize>> = Vec::new();
            for (what, size) in does {
                let (one, count) = (size % blocks.len().max(1), (size % 8192).div_ceil(UNIT).max(1));
                match what {
                    0 if !blocks.is_empty() => {
                        let block = blocks.swap_remove(one);
                        assert!(units.move_end(block.end, block.start));
                    }
                    1 if !blocks.is_empty() => {
                        let end = blocks[one].start + count;
                        let is_free = end <= UNITS
                            && blocks.iter().enumerate().all(|(i, other)| i == one || other.end <= blocks[one].start || end <= other.start);
                        assert_eq!(units.move_end(blocks[one].end, end), is_free);
                        if is_free {
                            blocks[one].end = end;
                        }
                    }
                    _ => match units.take(count) {
                        Some(first) => blocks.push(first..first + count),
                        None => assert!(units.free_runs(UNITS).all(|free| free.len() < count)),
                    },
                }
                let mut words = [0; WORDS];
                for unit in blocks.iter().cloned().flatten() {
                    assert_eq!(words[unit / 64] >> (unit % 64) & 1, 0, "two blocks have {unit}");
                    words[unit / 64] |= 1 << (unit % 64);
                }
                assert_eq!(units.words, words);
                assert_eq!(units.last_taken(), blocks.iter().map(|block| block.end).max().unwrap_or(0));
                assert!(units.used >= units.last_taken());
            }
        }
    }
}
