//! All tasks of a loop that are not complete, oldest first: a list through their headers.
//!
//! The list holds one local reference to each. Only the loop's thread touches it.

use std::cell::Cell;
use std::ptr::NonNull;

use super::header::{Header, TaskRef};

/// The list's ends.
#[derive(Default)]
pub(crate) struct TaskList {
    first: Cell<Option<NonNull<Header>>>,
    last: Cell<Option<NonNull<Header>>>,
}

impl TaskList {
    /// Adds a task, which must be in no list, and its reference.
    #[inline]
    pub(super) fn push(&self, task: TaskRef) {
        let last = self.last.get();
        task.header().previous.set(last);
        let task = task.into_raw();
        match last {
            // SAFETY: members are kept alive by the list's reference.
            Some(last) => unsafe { last.as_ref() }.next.set(Some(task)),
            None => self.first.set(Some(task)),
        }
        self.last.set(Some(task));
    }

    /// Takes a member out; returns the list's reference.
    ///
    /// # Safety
    /// The task is in this list.
    #[inline]
    pub(super) unsafe fn remove(&self, task: NonNull<Header>) -> TaskRef {
        // SAFETY: a member is alive.
        let header = unsafe { task.as_ref() };
        let (previous, next) = (header.previous.take(), header.next.take());
        match previous {
            // SAFETY: a member's neighbours are members.
            Some(previous) => unsafe { previous.as_ref() }.next.set(next),
            None => self.first.set(next),
        }
        match next {
            // SAFETY: the same.
            Some(next) => unsafe { next.as_ref() }.previous.set(previous),
            None => self.last.set(previous),
        }
        // SAFETY: the reference that `push` took.
        unsafe { TaskRef::from_raw(task) }
    }

    /// The oldest member.
    pub(super) fn first(&self) -> Option<TaskRef> {
        // SAFETY: members are alive, and the list is touched by the loop's thread alone.
        self.first
            .get()
            .map(|task| unsafe { TaskRef::borrow_raw(task) })
    }

    /// All members, oldest first.
    pub(super) fn all(&self) -> Vec<TaskRef> {
        let mut all = Vec::new();
        let mut next = self.first.get();
        while let Some(task) = next {
            // SAFETY: members are alive, and no foreign code runs meanwhile.
            let task = unsafe { TaskRef::borrow_raw(task) };
            next = task.header().next.get();
            all.push(task);
        }
        all
    }
}
