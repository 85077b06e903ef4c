//! Who waits for several tasks at once is woken when enough of them have ended, and learns which.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Context;

use super::waiter::Waiter;

/// The tasks that one future waits for, by their number.
#[derive(Default)]
pub(crate) struct Completions {
    /// Those that have ended and were not taken yet.
    ended: RefCell<VecDeque<usize>>,
    /// How many of these it takes to wake the waiter.
    enough: Cell<usize>,
    waiter: Cell<Option<Waiter>>,
}

impl Completions {
    /// One that waits for `enough` tasks.
    pub(super) fn new(enough: usize) -> Rc<Self> {
        Rc::new(Self {
            enough: Cell::new(enough),
            ..Self::default()
        })
    }

    /// Who is to be told by the task of this number.
    pub(super) fn member(self: &Rc<Self>, index: usize) -> Waiter {
        Waiter::Member(Rc::new(Member {
            of: Rc::clone(self),
            index,
        }))
    }

    /// The next in the order in which they have ended.
    pub(super) fn take(&self) -> Option<usize> {
        self.ended.borrow_mut().pop_front()
    }

    /// One that had ended before.
    pub(super) fn add(&self, index: usize) {
        self.ended.borrow_mut().push_back(index);
    }

    pub(super) fn wait_for(&self, enough: usize) {
        self.enough.set(enough);
    }

    pub(super) fn wait(&self, context: &Context<'_>) {
        drop(self.waiter.replace(Some(Waiter::new(context))));
    }
}

/// One of the tasks.
pub(crate) struct Member {
    of: Rc<Completions>,
    index: usize,
}

impl Member {
    pub(super) fn ended(&self) {
        let mut ended = self.of.ended.borrow_mut();
        ended.push_back(self.index);
        let enough = ended.len() >= self.of.enough.get();
        drop(ended);
        if enough && let Some(waiter) = self.of.waiter.take() {
            waiter.wake();
        }
    }
}
