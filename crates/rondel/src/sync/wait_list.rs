//! Who waits for a primitive, in the order in which they came.
//!
//! Each waiting future has an entry until it is polled after its wake-up, or dropped. So an entry
//! that was woken stands in the list until its task has run, as asyncio's futures do: that is how
//! newcomers see that someone is before them. Entries are linked through a slab, so coming and
//! going take constant time wherever in the list it happens, and a list that is used again
//! allocates nothing.
//!
//! Waking runs no code of the program for tasks of this loop. Other wakers may do anything, so no
//! borrow is held.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use slab::Slab;

use crate::task::Waiter;

/// A list with more room than this for entries gives it back when it is empty.
const KEPT_ROOM: usize = 64;

/// The waiting futures of one primitive.
#[derive(Default)]
pub(crate) struct WaitList(RefCell<Entries>);

#[derive(Default)]
struct Entries {
    slab: Slab<Entry>,
    first: Option<usize>,
    last: Option<usize>,
    /// The first that was not woken. All before it were.
    first_asleep: Option<usize>,
}

struct Entry {
    /// `None` once it was woken.
    waiter: Option<Waiter>,
    previous: Option<usize>,
    next: Option<usize>,
}

impl Entries {
    fn push(&mut self, waiter: Waiter) -> usize {
        let key = self.slab.insert(Entry {
            waiter: Some(waiter),
            previous: self.last,
            next: None,
        });
        match self.last {
            Some(last) => self.slab[last].next = Some(key),
            None => self.first = Some(key),
        }
        self.last = Some(key);
        self.first_asleep.get_or_insert(key);
        key
    }

    fn remove(&mut self, key: usize) -> Entry {
        let entry = self.slab.remove(key);
        match entry.previous {
            Some(previous) => self.slab[previous].next = entry.next,
            None => self.first = entry.next,
        }
        match entry.next {
            Some(next) => self.slab[next].previous = entry.previous,
            None => self.last = entry.previous,
        }
        if self.first_asleep == Some(key) {
            self.first_asleep = self.asleep_from(entry.next);
        }
        if self.slab.is_empty() && self.slab.capacity() > KEPT_ROOM {
            self.slab = Slab::new();
        }
        entry
    }

    fn asleep_from(&self, mut key: Option<usize>) -> Option<usize> {
        while let Some(at) = key
            && self.slab[at].waiter.is_none()
        {
            key = self.slab[at].next;
        }
        key
    }

    fn wake(&mut self, key: usize) -> Option<Waiter> {
        let waiter = self.slab[key].waiter.take();
        if self.first_asleep == Some(key) {
            self.first_asleep = self.asleep_from(self.slab[key].next);
        }
        waiter
    }
}

impl WaitList {
    /// Waits at the end of the list, from the first poll on.
    pub(crate) fn wait(&self) -> Wait<'_> {
        Wait {
            list: self,
            key: None,
        }
    }

    /// Whether everybody who waits was cancelled, or nobody does.
    pub(crate) fn all_cancelled(&self) -> bool {
        let entries = self.0.borrow();
        let mut key = entries.first;
        while let Some(at) = key {
            let entry = &entries.slab[at];
            if !entry.waiter.as_ref().is_some_and(Waiter::is_cancelled) {
                return false;
            }
            key = entry.next;
        }
        true
    }

    /// How many wait, those included that were woken and have not run yet.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().slab.len()
    }

    /// Wakes the first in the list, unless it was woken before.
    pub(crate) fn wake_first(&self) {
        let mut entries = self.0.borrow_mut();
        let waiter = entries.first.and_then(|first| entries.wake(first));
        drop(entries);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Wakes the first that was neither woken before nor cancelled. `false`: there is none.
    pub(crate) fn wake_next(&self) -> bool {
        self.wake_next_if(|waiter| !waiter.is_cancelled())
    }

    /// Wakes the first that was not woken before, be it cancelled: when it goes it will pass the
    /// wake-up on.
    pub(crate) fn wake_next_or_cancelled(&self) -> bool {
        self.wake_next_if(|_| true)
    }

    fn wake_next_if(&self, wanted: impl Fn(&Waiter) -> bool) -> bool {
        let mut entries = self.0.borrow_mut();
        let mut key = entries.first_asleep;
        while let Some(at) = key {
            if entries.slab[at].waiter.as_ref().is_some_and(&wanted) {
                let waiter = entries.wake(at);
                drop(entries);
                if let Some(waiter) = waiter {
                    waiter.wake();
                }
                return true;
            }
            key = entries.slab[at].next;
        }
        false
    }

    /// Wakes everybody who waits now.
    pub(crate) fn wake_all(&self) {
        for _ in 0..self.len() {
            if !self.wake_next_or_cancelled() {
                return;
            }
        }
    }
}

/// One that waits. Ready when it was woken; its entry is gone then, and when it is dropped.
pub(crate) struct Wait<'a> {
    list: &'a WaitList,
    /// `None` before the first poll, and when it is over.
    key: Option<usize>,
}

impl Wait<'_> {
    /// Polls; before it says that it has to wait it has `retry` wake whoever may go on, itself
    /// included: a task whose cancellation was taken back was passed over meanwhile.
    pub(crate) fn poll_with(&mut self, context: &Context<'_>, retry: impl FnOnce()) -> Poll<()> {
        let Some(key) = self.key else {
            let waiter = Waiter::new(context);
            self.key = Some(self.list.0.borrow_mut().push(waiter));
            return Poll::Pending;
        };
        if !self.was_woken() {
            retry();
        }
        let mut entries = self.list.0.borrow_mut();
        let before = match &mut entries.slab[key].waiter {
            None => {
                entries.remove(key);
                self.key = None;
                return Poll::Ready(());
            }
            Some(waiter) if waiter.is(context) => return Poll::Pending,
            Some(waiter) => std::mem::replace(waiter, Waiter::new(context)),
        };
        drop(entries);
        drop(before); // with the list free: a foreign waker may be anything
        Poll::Pending
    }

    /// Whether it was woken, and has not been polled since.
    pub(crate) fn was_woken(&self) -> bool {
        self.key
            .is_some_and(|key| self.list.0.borrow().slab[key].waiter.is_none())
    }

    /// Leaves the list; says whether a wake-up was left unused.
    pub(crate) fn leave(&mut self) -> bool {
        let Some(key) = self.key.take() else {
            return false;
        };
        let entry = self.list.0.borrow_mut().remove(key);
        entry.waiter.is_none()
    }
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.poll_with(context, || ())
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Wait,
        Drop(usize),
        Poll(usize),
        First,
        Next,
        All,
    }

    proptest! {
        #[test]
        fn the_list_is_as_a_plain_queue(ops in proptest::collection::vec(prop_oneof![
            4 => Just(Op::Wait),
            2 => any::<usize>().prop_map(Op::Drop),
            2 => any::<usize>().prop_map(Op::Poll),
            1 => Just(Op::First),
            3 => Just(Op::Next),
            1 => Just(Op::All),
        ], 0..120)) {
            let list = WaitList::default();
            // Each with its waker's count, and whether the model says that it was woken.
            let mut model: VecDeque<(Wait<'_>, Arc<Count>, bool)> = VecDeque::new();
            for op in ops {
                let length = model.len().max(1);
                match op {
                    Op::Wait => {
                        let count = Arc::new(Count::default());
                        let waker = Waker::from(Arc::clone(&count));
                        let mut wait = list.wait();
                        let context = Context::from_waker(&waker);
                        prop_assert!(wait.poll_with(&context, || ()).is_pending());
                        model.push_back((wait, count, false));
                    }
                    Op::Drop(index) => {
                        if let Some((mut wait, _, woken)) = model.remove(index % length) {
                            prop_assert_eq!(wait.leave(), woken);
                        }
                    }
                    Op::Poll(index) => {
                        if let Some((wait, count, woken)) = model.get_mut(index % length) {
                            let waker = Waker::from(Arc::clone(count));
                            let ready = wait.poll_with(&Context::from_waker(&waker), || ());
                            prop_assert_eq!(ready.is_ready(), *woken);
                            if *woken {
                                model.remove(index % length);
                            }
                        }
                    }
                    Op::First => {
                        list.wake_first();
                        if let Some((_, _, woken)) = model.front_mut() {
                            *woken = true;
                        }
                    }
                    Op::Next => {
                        let next = model.iter_mut().find(|(_, _, woken)| !woken);
                        prop_assert_eq!(list.wake_next(), next.is_some());
                        if let Some((_, _, woken)) = next {
                            *woken = true;
                        }
                    }
                    Op::All => {
                        list.wake_all();
                        model.iter_mut().for_each(|(_, _, woken)| *woken = true);
                    }
                }
                prop_assert_eq!(list.len(), model.len());
                for (wait, count, woken) in &model {
                    prop_assert_eq!(wait.was_woken(), *woken);
                    prop_assert_eq!(count.0.load(Ordering::Relaxed), usize::from(*woken));
                }
            }
        }
    }
}
