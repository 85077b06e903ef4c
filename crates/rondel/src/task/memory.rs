//! The memory of tasks, kept for the next ones.
//!
//! A program that spawns and joins all the time would spend a third of that in the allocator. So
//! each thread keeps some of the blocks that its tasks have left, by size: enough for a burst of
//! tasks, and no more than [`KEPT`] bytes of each size and [`KEPT_IN_ALL`] of all sizes. A block
//! may be freed by another thread than the one that has allocated it. It is then that one's.
//!
//! A kept block holds nothing but the link to the next one. Under Miri nothing is kept, so that it
//! sees each use of what was freed.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// Sizes are multiples of this, as allocators round them, too.
const STEP: usize = 16;
/// The number of sizes. Larger tasks come from the allocator.
const SIZES: usize = 64;
const ALIGN: usize = 16;
/// The most bytes that are kept of each size.
const KEPT: usize = 32 * 1024;
/// The most bytes that are kept of all sizes.
const KEPT_IN_ALL: usize = 256 * 1024;

struct Block {
    next: *mut Block,
}

struct Free {
    first: Cell<*mut Block>,
    length: Cell<usize>,
}

/// What a thread keeps: a list for each size.
struct Kept {
    lists: [Free; SIZES],
    /// The bytes of all lists.
    bytes: Cell<usize>,
}

thread_local! {
    static KEEP: Kept = const {
        Kept {
            lists: [const { Free { first: Cell::new(ptr::null_mut()), length: Cell::new(0) } }; SIZES],
            bytes: Cell::new(0),
        }
    };
}

/// Which of the lists a layout belongs to, and the layout of its blocks.
const fn class(layout: Layout) -> Option<(usize, Layout)> {
    if layout.size() == 0 || layout.size() > STEP * SIZES || layout.align() > ALIGN || cfg!(miri) {
        return None;
    }
    let steps = layout.size().div_ceil(STEP);
    match Layout::from_size_align(steps * STEP, ALIGN) {
        Ok(layout) => Some((steps - 1, layout)),
        Err(_) => None,
    }
}

/// Allocates memory for a `T`, to be given back by [`give_back`].
#[inline]
pub(super) fn take<T>() -> NonNull<T> {
    let (list, layout) = match const { class(Layout::new::<T>()) } {
        Some((list, layout)) => (Some(list), layout),
        None => (None, Layout::new::<T>()),
    };
    let kept = list.and_then(|list| KEEP.try_with(|kept| kept.take(list)).ok().flatten());
    if let Some(block) = kept {
        return block.cast();
    }
    // SAFETY: a task has a header, so its size is not zero.
    let memory = unsafe { alloc(layout) };
    match NonNull::new(memory.cast()) {
        Some(memory) => memory,
        None => handle_alloc_error(layout),
    }
}

/// # Safety
/// The memory is of [`take`], for the same type, and nobody uses it any more. What was in it was
/// dropped.
#[inline]
pub(super) unsafe fn give_back<T>(memory: NonNull<T>) {
    let Some((list, layout)) = (const { class(Layout::new::<T>()) }) else {
        // SAFETY: allocated with this layout by `take`.
        unsafe { dealloc(memory.as_ptr().cast(), Layout::new::<T>()) };
        return;
    };
    // SAFETY: the block is of this list's size, and nobody's.
    let is_kept = KEEP.try_with(|kept| unsafe { kept.keep(list, memory.cast()) });
    if is_kept != Ok(true) {
        // SAFETY: allocated with this layout by `take`.
        unsafe { dealloc(memory.as_ptr().cast(), layout) };
    }
}

impl Free {
    #[inline]
    fn pop(&self) -> Option<NonNull<Block>> {
        let first = NonNull::new(self.first.get())?;
        // SAFETY: what is in the list was put there by `push`, which has written the link.
        self.first.set(unsafe { first.as_ref() }.next);
        self.length.set(self.length.get() - 1);
        Some(first)
    }

    /// # Safety
    /// The block has this list's size and is nobody's.
    #[inline]
    unsafe fn push(&self, block: NonNull<Block>) {
        let next = self.first.get();
        // SAFETY: the caller's promise; the smallest size holds a link.
        unsafe { block.write(Block { next }) };
        self.first.set(block.as_ptr());
        self.length.set(self.length.get() + 1);
    }
}

/// The bytes of a list's blocks.
const fn size_of_list(list: usize) -> usize {
    (list + 1) * STEP
}

impl Kept {
    #[inline]
    fn take(&self, list: usize) -> Option<NonNull<Block>> {
        let block = self.lists[list].pop()?;
        self.bytes.set(self.bytes.get() - size_of_list(list));
        Some(block)
    }

    /// `false`: there are enough.
    ///
    /// # Safety
    /// The block has this list's size and is nobody's.
    #[inline]
    unsafe fn keep(&self, list: usize, block: NonNull<Block>) -> bool {
        let size = size_of_list(list);
        let bytes = self.bytes.get() + size;
        if self.lists[list].length.get() * size >= KEPT || bytes > KEPT_IN_ALL {
            return false;
        }
        self.bytes.set(bytes);
        // SAFETY: the caller's promise.
        unsafe { self.lists[list].push(block) };
        true
    }
}

impl Drop for Kept {
    /// At the end of the thread.
    fn drop(&mut self) {
        for (list, free) in self.lists.iter().enumerate() {
            while let Some(block) = free.pop() {
                if let Ok(layout) = Layout::from_size_align(size_of_list(list), ALIGN) {
                    // SAFETY: allocated with the layout of its list by `take`.
                    unsafe { dealloc(block.as_ptr().cast(), layout) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn kept(list: usize) -> usize {
        KEEP.with(|kept| kept.lists[list].length.get())
    }

    /// Takes so many blocks at a time, and gives all of them back.
    fn burst<T>(count: usize) {
        let blocks: Vec<NonNull<T>> = (0..count).map(|_| take()).collect();
        for block in blocks {
            // SAFETY: taken for this type; there is nothing in it to drop.
            unsafe { give_back(block) };
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "nothing is kept")]
    fn blocks_come_back_for_tasks_of_their_size() {
        let first = take::<[u64; 11]>();
        // SAFETY: taken just now, for this type; there is nothing in it to drop.
        unsafe { give_back(first) };
        assert_eq!(kept(5), 1);
        // It rounds up to the same size.
        let second = take::<[u64; 12]>();
        assert_eq!((second.as_ptr().cast(), kept(5)), (first.as_ptr(), 0));
        // SAFETY: as above.
        unsafe { give_back(second) };
        burst::<[u64; 1000]>(1);
        assert_eq!(KEEP.with(|kept| kept.bytes.get()), 96);
    }

    #[test]
    #[cfg_attr(miri, ignore = "nothing is kept")]
    fn no_more_is_kept_than_is_said() {
        burst::<[u64; 32]>(10_000);
        assert_eq!(kept(15), KEPT / 256);
        burst::<[u64; 30]>(10_000);
        burst::<[u64; 34]>(10_000);
        burst::<[u64; 36]>(10_000);
        burst::<[u64; 38]>(10_000);
        burst::<[u64; 40]>(10_000);
        burst::<[u64; 42]>(10_000);
        burst::<[u64; 44]>(10_000);
        burst::<[u64; 46]>(10_000);
        burst::<[u64; 48]>(10_000);
        let bytes = KEEP.with(|kept| kept.bytes.get());
        assert!(
            (KEPT_IN_ALL - 1024..=KEPT_IN_ALL).contains(&bytes),
            "{bytes}"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "nothing is kept")]
    fn a_block_that_another_thread_frees_is_kept_there() {
        let block = take::<[u64; 30]>().as_ptr() as usize;
        let other = thread::spawn(move || {
            let block = ptr::with_exposed_provenance_mut::<[u64; 30]>(block);
            // SAFETY: taken for this type, and given to this thread.
            unsafe { give_back(NonNull::new(block).unwrap()) };
            kept(14)
        });
        assert_eq!((other.join().unwrap(), kept(14)), (1, 0));
    }
}
