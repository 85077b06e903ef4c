//! Timers: a binary heap keyed by (deadline, sequence number).
//!
//! The sequence number makes equal deadlines fire in the order in which they were set. Cancelling is constant
//! time: the timer is only marked, and leaves the heap when it comes up, or when cancelled ones are more than
//! half of a heap of over a hundred (asyncio's rule), which bounds the memory of programs that set and cancel
//! far more timers than ever fire. The newest entry, e.g. of a timeout that was not needed, goes at once.

/// What the heap asks of its entries.
pub trait Timer {
    /// Whether it was cancelled since it was queued.
    fn is_cancelled(&self) -> bool;
}

struct Entry<T> {
    deadline: u64,
    sequence: u64,
    timer: T,
}

impl<T> Entry<T> {
    #[inline]
    fn key(&self) -> (u64, u64) {
        (self.deadline, self.sequence)
    }
}

/// The heap. Entries leave it by value, never dropped inside, so that destructors may use the loop.
pub struct Timers<T> {
    heap: Vec<Entry<T>>,
    sequence: u64,
    cancelled: usize,
}

/// Below this many cancelled entries no clean-up is worth its time (asyncio: the same number).
const MIN_CANCELLED: usize = 100;

impl<T: Timer> Timers<T> {
    /// An empty heap.
    pub const fn new() -> Self {
        Self {
            heap: Vec::new(),
            sequence: 0,
            cancelled: 0,
        }
    }

    /// How many entries there are, cancelled ones included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|entry| &entry.timer)
    }

    /// Adds a timer that is due at `deadline` nanoseconds.
    #[inline]
    pub fn push(&mut self, deadline: u64, timer: T) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.heap.push(Entry {
            deadline,
            sequence,
            timer,
        });
        self.sift_up(self.heap.len() - 1);
    }

    /// The entry that is due first, with its deadline.
    #[inline]
    pub fn first(&self) -> Option<(u64, &T)> {
        self.heap
            .first()
            .map(|entry| (entry.deadline, &entry.timer))
    }

    /// Takes the first entry.
    pub fn pop(&mut self) -> Option<T> {
        if self.heap.is_empty() {
            return None;
        }
        let entry = self.heap.swap_remove(0);
        self.sift_down(0);
        if entry.timer.is_cancelled() {
            self.cancelled = self.cancelled.saturating_sub(1);
        }
        Some(entry.timer)
    }

    /// Takes the first entry if it is due at `now` nanoseconds.
    #[inline]
    pub fn pop_due(&mut self, now: u64) -> Option<T> {
        match self.heap.first() {
            Some(entry) if entry.deadline <= now => self.pop(),
            _ => None,
        }
    }

    /// Notes that one entry, recognised by `is_it`, was marked as cancelled. Returns what left the heap:
    /// that entry alone, or many by a clean-up.
    #[inline]
    pub fn cancelled(&mut self, is_it: impl Fn(&T) -> bool) -> (Option<T>, Vec<T>) {
        if let Some(last) = self.heap.last()
            && is_it(&last.timer)
        {
            // The last element of a binary heap is a leaf: nothing moves.
            return (self.heap.pop().map(|entry| entry.timer), Vec::new());
        }
        self.cancelled += 1;
        if self.cancelled > MIN_CANCELLED && self.cancelled * 2 > self.heap.len() {
            return (None, self.compact());
        }
        (None, Vec::new())
    }

    /// Takes all entries out.
    pub fn take(&mut self) -> Vec<T> {
        self.cancelled = 0;
        std::mem::take(&mut self.heap)
            .into_iter()
            .map(|entry| entry.timer)
            .collect()
    }

    #[cold]
    fn compact(&mut self) -> Vec<T> {
        let (dead, alive): (Vec<_>, Vec<_>) = std::mem::take(&mut self.heap)
            .into_iter()
            .partition(|entry| entry.timer.is_cancelled());
        self.heap = alive;
        self.cancelled = 0;
        for index in (0..self.heap.len() / 2).rev() {
            self.sift_down(index);
        }
        dead.into_iter().map(|entry| entry.timer).collect()
    }

    fn sift_up(&mut self, mut index: usize) {
        while index > 0 {
            let parent = (index - 1) / 2;
            if self.heap[parent].key() <= self.heap[index].key() {
                break;
            }
            self.heap.swap(parent, index);
            index = parent;
        }
    }

    fn sift_down(&mut self, mut index: usize) {
        loop {
            let (left, right) = (2 * index + 1, 2 * index + 2);
            let Some(left_entry) = self.heap.get(left) else {
                break;
            };
            let child = match self.heap.get(right) {
                Some(right_entry) if right_entry.key() < left_entry.key() => right,
                _ => left,
            };
            if self.heap[index].key() <= self.heap[child].key() {
                break;
            }
            self.heap.swap(index, child);
            index = child;
        }
    }
}

impl<T: Timer> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}
