//! How tasks end that don't end by themselves.
//!
//! [`cancel`](super::Task::cancel) leaves it to the task's next step to drop the future. Who
//! *drops* what waits for a task (a handle that was awaited, a gathering, a task group) is promised
//! more: when the drop is over the task's future is gone, as in asyncio the one who awaits a
//! cancelled task goes on only when that has ended. So a `timeout` that is over, or a task that was
//! cancelled, leaves nothing running behind it.
//!
//! Dropping one task's future may drop handles of others, and so on. That is a recursion as far as
//! [`MAX_DEPTH`]; what lies deeper waits in a queue for the outermost of these drops.
//!
//! An eager task's first step runs within the step of another task. That one runs all the while, so
//! it is not to be dropped either.
//!
//! At the end of the loop all tasks go, and those that destructors create meanwhile, sweep by
//! sweep. A program whose destructors create tasks for ever is stopped by [`MAX_SWEEPS`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::ptr::NonNull;

use super::header::{CANCEL, HANDLE, Header, ODD, TaskRef};
use super::{cell, complete};
use crate::exceptions::call_exception_handler;
use crate::runtime::{self, Runtime};
use crate::spans;

/// How deep futures are dropped within the dropping of others: little stack, whatever they are.
const MAX_DEPTH: u32 = 32;

/// How many generations of tasks may be created by the destructors of the one before, at the end of
/// a loop.
const MAX_SWEEPS: u32 = 100;

/// A loop's state of dropping futures.
#[derive(Default)]
pub(crate) struct Ending {
    /// The tasks in whose step or destructors another one's future is being dropped. The innermost
    /// is not here, but the current task.
    interrupted: RefCell<Vec<NonNull<Header>>>,
    /// How many first steps are going on within each other.
    nested: Cell<u32>,
    /// How many drops are going on within each other.
    depth: Cell<u32>,
    /// Tasks to end when the outermost drop has come back.
    deferred: RefCell<VecDeque<TaskRef>>,
    /// The number of the sweep at the end of the loop.
    sweep: Cell<u32>,
    /// Somebody has been told that there is no end to it.
    told: Cell<bool>,
}

impl Ending {
    fn is_running(&self, runtime: &Runtime, task: &TaskRef) -> bool {
        let task = task.as_ptr();
        runtime.current_task.get() == Some(task) || self.interrupted.borrow().contains(&task)
    }

    /// Lets a task's first step run within another's, which is running all the while. `None`: there
    /// are too many of these.
    pub(super) fn begin_nested<'a>(
        &'a self,
        runtime: &'a Runtime,
        most: u32,
    ) -> Option<Nested<'a>> {
        if self.nested.get() >= most {
            return None;
        }
        self.nested.set(self.nested.get() + 1);
        let outer = runtime.current_task.get();
        self.interrupted.borrow_mut().extend(outer);
        Some(Nested {
            ending: self,
            has_outer: outer.is_some(),
        })
    }

    /// The mark of what is created now.
    fn mark(&self) -> u8 {
        if self.sweep.get() % 2 == 1 { ODD } else { 0 }
    }
}

/// Whether a step of the task is going on, or its future is being dropped, further out on the
/// stack.
pub(super) fn is_running(task: &TaskRef) -> bool {
    runtime::try_current(|runtime| runtime.ending.is_running(runtime, task)).unwrap_or(false)
}

/// A task's first step within another's.
pub(super) struct Nested<'a> {
    ending: &'a Ending,
    has_outer: bool,
}

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        if self.has_outer {
            self.ending.interrupted.borrow_mut().pop();
        }
        self.ending.nested.set(self.ending.nested.get() - 1);
    }
}

/// Drops a task's future now; the task is complete then. It must not be running.
pub(super) fn cancel_now(runtime: &Runtime, task: &TaskRef) {
    let outer = runtime.current_task.replace(Some(task.as_ptr()));
    if let Some(outer) = outer {
        runtime.ending.interrupted.borrow_mut().push(outer);
    }
    // SAFETY: the table is the cell's, this is its thread, and `task` is a reference. Nobody else
    // is at the future: the task was taken from the ring, or is not running, as the caller knows.
    spans::within(task, || unsafe {
        (task.header().vtable.cancel)(task.as_ptr())
    });
    if outer.is_some() {
        runtime.ending.interrupted.borrow_mut().pop();
    }
    runtime.current_task.set(outer);
    complete(runtime, task);
}

/// Cancels a task whose waiter is being dropped: its future is gone when this returns.
///
/// There are two exceptions. A task that is running, further out on the stack, can only be
/// cancelled as by [`cancel`](super::Task::cancel). And from [`MAX_DEPTH`] on it is the outermost
/// call of this that keeps the promise.
pub(super) fn cancel_at_once(task: &TaskRef) {
    struct Deeper<'a>(&'a Cell<u32>);
    impl Drop for Deeper<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }
    if task.header().is_complete() {
        return;
    }
    if !task.header().is_local() {
        // Its loop does not run, but it may again: then this is the first that it does.
        task.header().set(CANCEL);
        task.header().wake();
        return;
    }
    runtime::try_current(|runtime| {
        let ending = &runtime.ending;
        if ending.is_running(runtime, task) {
            task.header().set(CANCEL);
            task.header().schedule();
            return;
        }
        let depth = ending.depth.get();
        if depth == MAX_DEPTH {
            // At the end of the loop a sweep will come to it.
            if !runtime.is_closing() {
                ending.deferred.borrow_mut().push_back(task.clone());
            }
            return;
        }
        ending.depth.set(depth + 1);
        let deeper = Deeper(&ending.depth);
        cancel_now(runtime, task);
        if depth == 0 {
            loop {
                let next = ending.deferred.borrow_mut().pop_front();
                let Some(next) = next else { break };
                if !next.header().is_complete() {
                    cancel_now(runtime, &next);
                }
            }
        }
        drop(deeper);
    });
}

/// A task that is created at the end of the loop: it is cancelled before it starts.
#[cold]
pub(super) fn create_late<F: Future>(runtime: &Runtime, future: F) -> TaskRef {
    let ending = &runtime.ending;
    if ending.sweep.get() > MAX_SWEEPS {
        if !ending.told.replace(true) {
            call_exception_handler(
                "The event loop is closed",
                &"destructors of tasks create tasks without end; the futures are leaked",
            );
        }
        return cell::allocate_leaking(future, runtime.inbox_ptr());
    }
    let task = cell::allocate(future, runtime.inbox_ptr(), HANDLE | ending.mark());
    runtime.tasks.push(task.clone());
    cancel_at_once(&task);
    task
}

/// Drops the futures of all tasks, oldest first, as the end of [`run`](crate::run).
pub(crate) fn cancel_all(runtime: &Runtime) {
    let ending = &runtime.ending;
    while runtime.tasks.first().is_some() {
        ending.sweep.set(ending.sweep.get() + 1);
        // Those of this sweep stand behind all others.
        while let Some(task) = runtime.tasks.first()
            && task.header().state.get() & ODD != ending.mark()
        {
            cancel_now(runtime, &task);
        }
    }
}
