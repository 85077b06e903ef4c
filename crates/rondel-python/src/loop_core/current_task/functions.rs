//! The current task by asyncio's functions alone.
//!
//! `_swap_current_task` is what 3.14 and later have for it. `_enter_task` and `_leave_task` do the
//! same where it is gone, or is not there yet: `dict.rs` uses them if it does not find the dict.

use crate::cpython::names::{Table, import_from, import_optional};
use crate::cpython::{Object, Owned, Res};

struct Functions {
    swap: Option<Owned>,
    enter: Owned,
    leave: Owned,
    current: Owned,
}

static FUNCTIONS: Table<Functions> = Table::new();

/// Fetches the functions. Called once, at import.
pub(super) fn init() -> Res<()> {
    // `asyncio.tasks` keeps its C functions by these names too, as a program may have replaced
    // those of the usual names. Without them it uses its functions in Python.
    let first_of = |names: [&str; 2]| match import_optional("asyncio.tasks", names[0])? {
        Some(function) => Ok(Some(function)),
        None => import_optional("asyncio.tasks", names[1]),
    };
    let current = first_of(["_c_current_task", "current_task"])?;
    FUNCTIONS.fill(Functions {
        swap: first_of(["_c_swap_current_task", "_swap_current_task"])?,
        enter: import_from("asyncio.tasks", "_enter_task")?,
        leave: import_from("asyncio.tasks", "_leave_task")?,
        current: match current {
            Some(current) => current,
            None => import_from("asyncio.tasks", "current_task")?,
        },
    });
    Ok(())
}

/// Whether asyncio has a function that swaps the task.
#[cfg(Py_3_14)]
pub(super) fn swaps() -> bool {
    FUNCTIONS.get().swap.is_some()
}

/// Makes `task`, or none, the current one, and returns the one before, or `None`.
#[inline]
pub(super) fn swap(event_loop: &Object, task: &Object) -> Res<Owned> {
    let functions = FUNCTIONS.get();
    match &functions.swap {
        Some(swap) => swap.call(&[event_loop, task]),
        None => functions.enter_and_leave(event_loop, task),
    }
}

/// The current task, or `None`.
#[inline]
pub(super) fn current(event_loop: &Object) -> Res<Owned> {
    FUNCTIONS.get().current.call(&[event_loop])
}

impl Functions {
    #[cold]
    fn enter_and_leave(&self, event_loop: &Object, task: &Object) -> Res<Owned> {
        let before = self.current.call(&[event_loop])?;
        if !before.is_none() {
            self.leave.call(&[event_loop, &before])?;
        }
        if !task.is_none() {
            self.enter.call(&[event_loop, task])?;
        }
        Ok(before)
    }
}

/// Enters a task and leaves it again. `look` is called in between.
#[cfg(not(Py_3_14))]
pub(super) fn try_out<R>(event_loop: &Object, task: &Object, look: impl FnOnce() -> R) -> Res<R> {
    let functions = FUNCTIONS.get();
    functions.enter.call(&[event_loop, task])?;
    let seen = look();
    functions.leave.call(&[event_loop, task])?;
    Ok(seen)
}
