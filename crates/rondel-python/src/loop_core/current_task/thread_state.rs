//! The current task from CPython 3.14 on: a field of the thread's state, swapped by
//! `_asyncio._swap_current_task`.
//!
//! asyncio swaps it before and after each step. Here a step only sets it, and it is reset before
//! something runs that is no task's step, and before the loop waits.

use std::cell::Cell;

use crate::cpython::error::quietly;
use crate::cpython::names::{Table, import};
use crate::cpython::{Object, Owned, Res, none};

/// asyncio's functions in C.
struct Register {
    swap: Owned,
    current: Owned,
}

static REGISTER: Table<Register> = Table::new();

/// Fetches them. Once, at import.
pub(crate) fn init() -> Res<()> {
    let asyncio = import("_asyncio")?;
    REGISTER.fill(Register {
        swap: asyncio.getattr(&*Owned::from_str("_swap_current_task")?)?,
        current: asyncio.getattr(&*Owned::from_str("current_task")?)?,
    });
    Ok(())
}

/// A loop's part in it.
#[derive(Default)]
pub(crate) struct CurrentTask {
    entered: Cell<bool>,
}

/// The task before, for when a step that runs within another one is over.
pub(crate) struct Entered(Option<Owned>);

impl CurrentTask {
    /// To be called once the loop object exists.
    pub(crate) fn init(&self, _event_loop: &Object) -> Res<()> {
        Ok(())
    }

    /// A task's step begins.
    #[inline]
    pub(crate) fn enter(&self, event_loop: &Object, task: &Object) -> Res<Entered> {
        // What was there is the task of a step that is over, which nobody is to keep alive.
        drop(self.enter_within(event_loop, task)?);
        Ok(Entered(None))
    }

    /// A task's step begins within another one.
    pub(crate) fn enter_within(&self, event_loop: &Object, task: &Object) -> Res<Entered> {
        self.entered.set(true);
        let before = REGISTER.get().swap.call(&[event_loop, task])?;
        Ok(Entered((!before.is_none()).then_some(before)))
    }

    /// It ends.
    #[inline]
    pub(crate) fn exit(&self, _event_loop: &Object, _entered: Entered) {}

    /// It ends, and the step that it ran in goes on. An exception that is set stays set.
    pub(crate) fn resume(&self, event_loop: &Object, entered: Entered) {
        quietly(|| {
            let before = entered.0.as_deref().unwrap_or(none());
            REGISTER.get().swap.call(&[event_loop, before]).map(drop)
        });
    }

    /// The task that runs now.
    pub(crate) fn get(&self, event_loop: &Object) -> Res<Option<Owned>> {
        let mut task = REGISTER.get().current.call(&[event_loop])?;
        if task.is_none() {
            // Tasks of asyncio's in pure Python are known to its function in pure Python, if that
            // stands there.
            task = import("asyncio.tasks")?
                .getattr(&*Owned::from_str("current_task")?)?
                .call(&[event_loop])?;
        }
        Ok((!task.is_none()).then_some(task))
    }

    /// Runs something in the middle of a step, or outside of any, that may be a task's step itself.
    pub(crate) fn aside<R>(&self, event_loop: &Object, run: impl FnOnce() -> R) -> R {
        let swap = |task: &Object| REGISTER.get().swap.call(&[event_loop, task]);
        let Ok(before) = swap(none()) else {
            drop(crate::cpython::error::take_exception());
            return run();
        };
        let result = run();
        self.entered.set(!before.is_none());
        quietly(|| swap(&before).map(drop));
        result
    }

    /// Runs the loop within a step of its own.
    pub(crate) fn nested<R>(&self, event_loop: &Object, run: impl FnOnce() -> R) -> R {
        let entered = self.entered.get();
        let result = self.aside(event_loop, run);
        // The program may have taken the step's task away before, and puts it back behind us.
        self.entered.set(entered);
        result
    }

    /// What is no task's step is about to run.
    #[inline]
    pub(crate) fn leave(&self, event_loop: &Object) {
        if self.entered.replace(false) {
            quietly(|| REGISTER.get().swap.call(&[event_loop, none()]).map(drop));
        }
    }

    /// The loop has stopped, or is gone.
    pub(crate) fn end(&self) {}
}
