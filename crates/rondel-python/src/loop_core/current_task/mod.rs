//! The current task: the result of `asyncio.current_task()`.
//!
//! | file | for |
//! |---|---|
//! | `dict.rs` | CPython up to 3.13, where asyncio keeps a dict from loop to task |
//! | `thread_state.rs` | CPython 3.14 and later, where it is a field of the thread state |
//! | `functions.rs` | asyncio's functions, and what is done where these are gone |
//! | here | loops of other implementations |

#[cfg(not(Py_3_14))]
mod dict;
mod functions;
#[cfg(Py_3_14)]
mod thread_state;

#[cfg(not(Py_3_14))]
pub(crate) use dict::CurrentTask;
#[cfg(Py_3_14)]
pub(crate) use thread_state::CurrentTask;

use super::core::LoopCore;
use crate::cpython::error::{quietly, restore, take_exception};
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Raised, Res};

/// Called once, at import.
pub(crate) fn init() -> Res<()> {
    functions::init()?;
    #[cfg(not(Py_3_14))]
    dict::init()?;
    Ok(())
}

/// Whether asyncio keeps the current task as this version is known to.
pub(crate) fn is_known() -> bool {
    #[cfg(not(Py_3_14))]
    return dict::is_known();
    #[cfg(Py_3_14)]
    functions::swaps()
}

/// The current task of `event_loop`, which may be any loop.
pub(crate) fn of_loop(event_loop: &Object) -> Res<Option<Owned>> {
    if let Some(core) = LoopCore::of(event_loop) {
        return core.current.get(event_loop);
    }
    let task = asyncio("current_task")?.call(&[event_loop])?;
    Ok((!task.is_none()).then_some(task))
}

/// Makes `task` the current task of any loop while `run` runs, e.g. for an eager start.
pub(crate) fn within<R>(event_loop: &Object, task: &Object, run: impl FnOnce() -> R) -> Res<R> {
    if let Some(core) = LoopCore::of(event_loop) {
        let entered = core.current.enter_within(event_loop, task)?;
        let result = run();
        core.current.resume(event_loop, entered);
        return Ok(result);
    }
    let swap = asyncio("_swap_current_task")?;
    let before = swap.call(&[event_loop, task])?;
    let result = run();
    quietly(|| swap.call(&[event_loop, &*before]).map(drop));
    Ok(result)
}

/// Begins a step on another implementation's loop.
pub(crate) fn enter_foreign(event_loop: &Object, task: &Object) -> Res<()> {
    asyncio("_enter_task")?.call(&[event_loop, task]).map(drop)
}

/// Ends a step on another implementation's loop; returns `result`.
pub(crate) fn leave_foreign(event_loop: &Object, task: &Object, result: Res<()>) -> Res<()> {
    let raised = result.err().map(|Raised| take_exception());
    asyncio("_leave_task")?.call(&[event_loop, task])?;
    match raised {
        None => Ok(()),
        Some(exception) => Err(restore(exception)),
    }
}

/// Looks up a function of `asyncio.tasks`, which the program may have replaced.
fn asyncio(name: &str) -> Res<Owned> {
    import("asyncio.tasks")?.getattr(&*Owned::from_str(name)?)
}
