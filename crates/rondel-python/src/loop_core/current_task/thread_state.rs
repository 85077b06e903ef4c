//! The current task from CPython 3.14 on: a field of the thread state, swapped by
//! `_asyncio._swap_current_task`.
//!
//! asyncio swaps it before and after each step. Here a step only sets it; it is reset before code
//! runs that is not a task's step, and before the loop waits. `functions.rs` has another way where
//! the function is gone.

use std::cell::Cell;

use super::functions;
use crate::cpython::error::quietly;
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Res, none};

/// Whether a loop has set the current task.
#[derive(Default)]
pub(crate) struct CurrentTask {
    entered: Cell<bool>,
}

/// The previous task, to be restored after a step within another one.
pub(crate) struct Entered(Option<Owned>);

impl CurrentTask {
    /// Must be called once the loop object exists.
    pub(crate) fn init(&self, _event_loop: &Object) -> Res<()> {
        Ok(())
    }

    /// Begins a task's step.
    #[inline]
    pub(crate) fn enter(&self, event_loop: &Object, task: &Object) -> Res<Entered> {
        // The previous value is the task of a finished step, which must not be kept alive.
        drop(self.enter_within(event_loop, task)?);
        Ok(Entered(None))
    }

    /// Begins a task's step within another one.
    pub(crate) fn enter_within(&self, event_loop: &Object, task: &Object) -> Res<Entered> {
        self.entered.set(true);
        let before = functions::swap(event_loop, task)?;
        Ok(Entered((!before.is_none()).then_some(before)))
    }

    /// Ends the step.
    #[inline]
    pub(crate) fn exit(&self, _event_loop: &Object, _entered: Entered) {}

    /// Ends a step within another one, which continues. A pending exception stays set.
    pub(crate) fn resume(&self, event_loop: &Object, entered: Entered) {
        quietly(|| {
            let before = entered.0.as_deref().unwrap_or(none());
            functions::swap(event_loop, before).map(drop)
        });
    }

    /// The current task.
    pub(crate) fn get(&self, event_loop: &Object) -> Res<Option<Owned>> {
        let mut task = functions::current(event_loop)?;
        if task.is_none() {
            // Tasks of asyncio's pure Python implementation are known only to its pure Python
            // function, which the program may have installed.
            task = import("asyncio.tasks")?
                .getattr(&*Owned::from_str("current_task")?)?
                .call(&[event_loop])?;
        }
        Ok((!task.is_none()).then_some(task))
    }

    /// Runs something that may itself be a task's step, within or outside of a step.
    pub(crate) fn aside<R>(&self, event_loop: &Object, run: impl FnOnce() -> R) -> R {
        let swap = |task: &Object| functions::swap(event_loop, task);
        let Ok(before) = swap(none()) else {
            drop(crate::cpython::error::take_exception());
            return run();
        };
        let result = run();
        self.entered.set(!before.is_none());
        quietly(|| swap(&before).map(drop));
        result
    }

    /// Runs the loop within one of its own steps.
    pub(crate) fn nested<R>(&self, event_loop: &Object, run: impl FnOnce() -> R) -> R {
        let entered = self.entered.get();
        let result = self.aside(event_loop, run);
        // The program may have reset the step's task before this call, and restores it after it.
        self.entered.set(entered);
        result
    }

    /// Must be called before code runs that is not a task's step.
    #[inline]
    pub(crate) fn leave(&self, event_loop: &Object) {
        if self.entered.replace(false) {
            quietly(|| functions::swap(event_loop, none()).map(drop));
        }
    }

    /// Called when the loop has stopped or is being deallocated.
    pub(crate) fn end(&self) {}
}
