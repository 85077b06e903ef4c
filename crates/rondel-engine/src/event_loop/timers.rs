//! Timers: a four-way heap keyed by (deadline, sequence number).
//!
//! The sequence number makes equal deadlines fire in the order in which they were set. Cancelling
//! is constant time: the timer is only marked, and leaves the heap when it is due, or when more
//! than a hundred timers and more than half of the heap are cancelled (asyncio's rule). This bounds
//! the memory of programs that set and cancel far more timers than ever fire. The newest entry,
//! e.g. a timeout that was not needed, is removed at once.

/// An entry of the heap.
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
    fn key(&self) -> u128 {
        // One number: two comparisons with a branch between them would cost more than the rest of a
        // heap step.
        u128::from(self.deadline) << 64 | u128::from(self.sequence)
    }
}

/// The heap. Entries are returned by value and never dropped inside, so that destructors may use
/// the loop.
pub struct Timers<T> {
    heap: Vec<Entry<T>>,
    sequence: u64,
    cancelled: usize,
}

/// Children per entry. A four-way heap is half as deep as a binary one, and siblings are adjacent
/// in memory.
const ARITY: usize = 4;

/// Room for so many entries is never given back.
const KEPT_ROOM: usize = 1024;

/// Up to this many cancelled entries there is no clean-up (asyncio's number).
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

    /// The number of entries, including cancelled ones.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// All entries, in arbitrary order.
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

    /// As [`push`](Self::push), but fallible if memory runs out.
    ///
    /// # Errors
    /// The timer, if there is no memory for it.
    #[inline]
    pub fn try_push(&mut self, deadline: u64, timer: T) -> Result<(), T> {
        if self.heap.len() == self.heap.capacity() && self.heap.try_reserve(1).is_err() {
            return Err(timer);
        }
        self.push(deadline, timer);
        Ok(())
    }

    /// The entry that is due first, with its deadline.
    #[inline]
    pub fn first(&self) -> Option<(u64, &T)> {
        self.heap
            .first()
            .map(|entry| (entry.deadline, &entry.timer))
    }

    /// Removes the first entry.
    pub fn pop(&mut self) -> Option<T> {
        if self.heap.is_empty() {
            return None;
        }
        let entry = self.heap.swap_remove(0);
        // The entry moved from the end belongs near the bottom, so it sinks without comparisons.
        let bottom = self.sink();
        self.sift_up(bottom);
        if entry.timer.is_cancelled() {
            self.cancelled = self.cancelled.saturating_sub(1);
        }
        Some(entry.timer)
    }

    /// Removes the first entry if it is due at `now` nanoseconds.
    #[inline]
    pub fn pop_due(&mut self, now: u64) -> Option<T> {
        match self.heap.first() {
            Some(entry) if entry.deadline <= now => self.pop(),
            _ => None,
        }
    }

    /// Records that one entry, recognised by `is_it`, was marked as cancelled. Returns the removed
    /// entries: that entry alone, or those of a clean-up.
    #[inline]
    pub fn cancelled(&mut self, is_it: impl Fn(&T) -> bool) -> (Option<T>, Vec<T>) {
        if let Some(last) = self.heap.last()
            && is_it(&last.timer)
        {
            // The last element of a heap is a leaf: nothing moves.
            return (self.heap.pop().map(|entry| entry.timer), Vec::new());
        }
        self.cancelled += 1;
        if self.cancelled > MIN_CANCELLED && self.cancelled * 2 > self.heap.len() {
            return (None, self.compact());
        }
        (None, Vec::new())
    }

    /// Removes all entries.
    pub fn take(&mut self) -> Vec<T> {
        self.cancelled = 0;
        std::mem::take(&mut self.heap)
            .into_iter()
            .map(|entry| entry.timer)
            .collect()
    }

    /// Frees memory if the heap uses less than an eighth of it.
    #[inline]
    pub fn shrink(&mut self) {
        if self.heap.capacity() > KEPT_ROOM && self.heap.len() < self.heap.capacity() / 8 {
            self.give_back();
        }
    }

    #[cold]
    #[inline(never)]
    fn give_back(&mut self) {
        let room = KEPT_ROOM.max(self.heap.len() * 2);
        self.heap.shrink_to(room);
    }

    #[cold]
    fn compact(&mut self) -> Vec<T> {
        let (dead, alive): (Vec<_>, Vec<_>) = std::mem::take(&mut self.heap)
            .into_iter()
            .partition(|entry| entry.timer.is_cancelled());
        self.heap = alive;
        self.cancelled = 0;
        for index in (0..self.heap.len().div_ceil(ARITY)).rev() {
            self.sift_down(index);
        }
        dead.into_iter().map(|entry| entry.timer).collect()
    }

    fn sift_up(&mut self, mut index: usize) {
        while index > 0 {
            let parent = (index - 1) / ARITY;
            if self.heap[parent].key() <= self.heap[index].key() {
                break;
            }
            self.heap.swap(parent, index);
            index = parent;
        }
    }

    /// The child of an entry that is due first.
    #[inline]
    fn first_child(&self, index: usize) -> Option<usize> {
        let first = ARITY * index + 1;
        if let Some([a, b, c, d]) = self.heap.get(first..first + ARITY) {
            let (left, left_key) = if b.key() < a.key() {
                (1, b.key())
            } else {
                (0, a.key())
            };
            let (right, right_key) = if d.key() < c.key() {
                (3, d.key())
            } else {
                (2, c.key())
            };
            return Some(first + if right_key < left_key { right } else { left });
        }
        (first..self.heap.len()).min_by_key(|&child| self.heap[child].key())
    }

    /// Moves the first entry down to a leaf and the entries on its path up by one. Returns its new
    /// index.
    fn sink(&mut self) -> usize {
        let mut index = 0;
        while let Some(child) = self.first_child(index) {
            self.heap.swap(index, child);
            index = child;
        }
        index
    }

    fn sift_down(&mut self, mut index: usize) {
        while let Some(child) = self.first_child(index)
            && self.heap[child].key() < self.heap[index].key()
        {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    #[derive(Clone, Debug)]
    struct Marked {
        id: usize,
        cancelled: Rc<Cell<bool>>,
    }

    impl Timer for Marked {
        fn is_cancelled(&self) -> bool {
            self.cancelled.get()
        }
    }

    /// The heap next to a sorted map of the timers that should fire.
    #[derive(Default)]
    struct Modelled {
        timers: Timers<Marked>,
        model: BTreeMap<(u64, usize), Marked>,
        next: usize,
    }

    impl Modelled {
        fn push(&mut self, deadline: u64) {
            let timer = Marked {
                id: self.next,
                cancelled: Rc::default(),
            };
            self.model.insert((deadline, self.next), timer.clone());
            self.timers.push(deadline, timer);
            self.next += 1;
        }

        fn cancel(&mut self, which: usize) {
            let Some(&key) = self.model.keys().nth(which % self.model.len().max(1)) else {
                return;
            };
            if let Some(timer) = self.model.remove(&key) {
                timer.cancelled.set(true);
                let (newest, swept) = self.timers.cancelled(|other| other.id == timer.id);
                assert!(newest.iter().chain(&swept).all(Timer::is_cancelled));
                // Cancelled entries are bounded by asyncio's rule.
                let (there, alive) = (self.timers.len(), self.model.len());
                assert!(newest.is_some() || there <= (2 * alive).max(alive + MIN_CANCELLED) + 1);
            }
        }

        fn fire(&mut self, now: u64) -> Vec<usize> {
            let mut fired = Vec::new();
            while let Some(timer) = self.timers.pop_due(now) {
                if !timer.is_cancelled() {
                    fired.push(timer.id);
                }
            }
            fired
        }

        fn expected(&mut self, now: u64) -> Vec<usize> {
            let later = self.model.split_off(&(now + 1, 0));
            let due = std::mem::replace(&mut self.model, later);
            due.into_values().map(|timer| timer.id).collect()
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push(u64),
        PushMany(u64, usize),
        Cancel(usize),
        CancelMany(usize, usize),
        Fire(u64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            4 => (0_u64..50).prop_map(Op::Push),
            1 => (0_u64..50, 0_usize..150).prop_map(|(deadline, n)| Op::PushMany(deadline, n)),
            3 => any::<usize>().prop_map(Op::Cancel),
            1 => (any::<usize>(), 0_usize..150).prop_map(|(which, n)| Op::CancelMany(which, n)),
            2 => (0_u64..60).prop_map(Op::Fire),
        ];
        proptest::collection::vec(op, 0..80)
    }

    proptest! {
        #[test]
        fn timers_fire_as_a_sorted_map_without_the_cancelled_ones_says(ops in ops()) {
            let mut both = Modelled::default();
            for op in ops {
                match op {
                    Op::Push(deadline) => both.push(deadline),
                    Op::PushMany(deadline, n) => (0..n).for_each(|i| both.push(deadline + i as u64 % 7)),
                    Op::Cancel(which) => both.cancel(which),
                    Op::CancelMany(which, n) => (0..n).for_each(|i| both.cancel(which.wrapping_add(i))),
                    Op::Fire(now) => {
                        let expected = both.expected(now);
                        prop_assert_eq!(both.fire(now), expected);
                    }
                }
            }
            let expected = both.expected(u64::MAX - 1);
            prop_assert_eq!(both.fire(u64::MAX), expected);
            prop_assert!(both.timers.is_empty());
        }
    }

    #[test]
    fn the_newest_timer_leaves_at_once_when_it_is_cancelled() {
        let mut both = Modelled::default();
        both.push(5);
        both.push(9);
        both.cancel(1);
        assert_eq!(both.timers.len(), 1);
        both.cancel(0);
        assert!(both.timers.is_empty());
    }

    #[test]
    fn a_clean_up_hands_out_what_it_removes() {
        let mut both = Modelled::default();
        (0..300).for_each(|deadline| both.push(deadline));
        let marks: Vec<_> = both.model.values().take(200).cloned().collect();
        let mut removed = 0;
        for mark in marks {
            mark.cancelled.set(true);
            let (newest, swept) = both.timers.cancelled(|other| other.id == mark.id);
            removed += newest.iter().count() + swept.len();
        }
        assert!(removed > MIN_CANCELLED && both.timers.len() == 300 - removed);
        assert_eq!(both.fire(1000), (200..300).collect::<Vec<_>>());
    }
}
