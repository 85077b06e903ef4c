//! The tasks of a loop that are not done, in a doubly linked list through the tasks themselves.
//!
//! Up to CPython 3.13 it is the source of `asyncio.all_tasks()` (`task/all_tasks.rs`).

use std::cell::Cell;
use std::ptr;

use crate::cpython::{Object, Owned};

/// A task's node in its loop's list. All zero: not in a list.
#[repr(C)]
pub(crate) struct Node {
    /// The task object; null before it is first linked.
    task: Cell<*const Object>,
    list: Cell<*const TaskList>,
    previous: Cell<*const Node>,
    next: Cell<*const Node>,
}

/// The tasks of one loop that are not done. It holds borrowed references: a task unlinks itself
/// when it is done or deallocated.
#[derive(Default)]
pub(crate) struct TaskList {
    first: Cell<*const Node>,
}

impl TaskList {
    #[cfg(not(Py_3_14))]
    pub(crate) fn link(&self, node: &Node, task: &Object) {
        if !node.list.get().is_null() {
            return;
        }
        let first = self.first.get();
        node.task.set(ptr::from_ref(task));
        node.list.set(self);
        node.previous.set(ptr::null());
        node.next.set(first);
        // SAFETY: linked nodes are part of live tasks.
        if let Some(first) = unsafe { first.as_ref() } {
            first.previous.set(node);
        }
        self.first.set(node);
    }

    /// Owned references to all tasks.
    pub(crate) fn snapshot(&self) -> Vec<Owned> {
        let mut tasks = Vec::new();
        let mut next = self.first.get();
        // SAFETY: linked nodes are part of live tasks, and incrementing reference counts runs no
        // foreign code.
        while let Some(node) = unsafe { next.as_ref() } {
            // SAFETY: as above.
            let task = unsafe { &*node.task.get() };
            if task.refcount() > 0 {
                tasks.push(task.own());
            }
            next = node.next.get();
        }
        tasks
    }

    /// Unlinks all tasks before the list is dropped.
    pub(crate) fn orphan(&self) {
        // SAFETY: linked nodes are part of live tasks.
        while let Some(node) = unsafe { self.first.get().as_ref() } {
            node.unlink();
        }
    }
}

impl Node {
    /// Removes the node from its list, if it is in one.
    #[inline]
    pub(crate) fn unlink(&self) {
        // SAFETY: the list unlinks all nodes before it is dropped (`orphan`), and neighbours are
        // part of live tasks.
        unsafe {
            let Some(list) = self.list.replace(ptr::null()).as_ref() else {
                return;
            };
            let (previous, next) = (self.previous.get(), self.next.get());
            match previous.as_ref() {
                Some(previous) => previous.next.set(next),
                None => list.first.set(next),
            }
            if let Some(next) = next.as_ref() {
                next.previous.set(previous);
            }
        }
    }
}
