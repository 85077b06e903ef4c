//! The ready ring: items that run next, first in, first out.
//!
//! A ring buffer in a `RefCell`. Each borrow lasts for one push or pop, so a running item may queue
//! others. Memory that a burst of items has left is freed when the loop polls.

use std::cell::RefCell;
use std::collections::VecDeque;

/// Room for so many items is never given back.
const KEPT_ROOM: usize = 4096;

/// A queue of items that can be pushed to while one of them runs.
pub struct Ready<T> {
    ring: RefCell<VecDeque<T>>,
}

impl<T> Ready<T> {
    /// An empty ring.
    pub fn new() -> Self {
        Self {
            ring: RefCell::new(VecDeque::with_capacity(64)),
        }
    }

    /// Adds an item at the end.
    #[inline]
    pub fn push(&self, item: T) {
        self.ring.borrow_mut().push_back(item);
    }

    /// As [`push`](Self::push), but fallible if memory runs out.
    ///
    /// # Errors
    /// The item, if there is no memory for it.
    #[inline(always)]
    pub fn try_push(&self, item: T) -> Result<(), T> {
        if !self.has_room() {
            return Err(item);
        }
        self.ring.borrow_mut().push_back(item);
        Ok(())
    }

    /// Whether there is room for one more item, growing the ring if necessary.
    #[inline(always)]
    fn has_room(&self) -> bool {
        let ring = self.ring.borrow();
        let is_full = ring.len() == ring.capacity();
        drop(ring);
        !is_full || self.grow()
    }

    #[cold]
    #[inline(never)]
    fn grow(&self) -> bool {
        self.ring.borrow_mut().try_reserve(1).is_ok()
    }

    /// Adds an item at the front.
    pub fn push_front(&self, item: T) {
        self.ring.borrow_mut().push_front(item);
    }

    /// Removes the first item.
    #[inline]
    pub fn pop(&self) -> Option<T> {
        self.ring.borrow_mut().pop_front()
    }

    /// The number of items.
    #[inline]
    pub fn len(&self) -> usize {
        self.ring.borrow().len()
    }

    /// Whether there are no items.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ring.borrow().is_empty()
    }

    /// Frees memory if the ring uses less than an eighth of it. A program whose turns differ that
    /// much pays little for it: a ring that grows again copies each item once or twice.
    #[inline]
    pub fn shrink(&self) {
        let ring = self.ring.borrow();
        let is_too_large = ring.capacity() > KEPT_ROOM && ring.len() < ring.capacity() / 8;
        drop(ring);
        if is_too_large {
            self.give_back();
        }
    }

    #[cold]
    #[inline(never)]
    fn give_back(&self) {
        let mut ring = self.ring.borrow_mut();
        let room = KEPT_ROOM.max(ring.len() * 2);
        ring.shrink_to(room);
    }

    /// Calls `f` for each item, first to last.
    pub fn for_each(&self, f: impl FnMut(&T)) {
        self.ring.borrow().iter().for_each(f);
    }

    /// Removes all items.
    pub fn take(&self) -> Vec<T> {
        self.ring.take().into()
    }
}

impl<T> Default for Ready<T> {
    fn default() -> Self {
        Self::new()
    }
}
