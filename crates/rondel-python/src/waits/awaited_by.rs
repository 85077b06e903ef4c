//! The links that `asyncio.print_call_graph` shows: which task awaits which future. asyncio keeps
//! them from 3.14 on.
//!
//! Earlier versions have no such links, and these functions cost nothing there.

use super::names::waits_imports;
use crate::cpython::{Object, Owned, Res};
use crate::future::{Future, asyncio_part};

/// Whether the running version keeps links.
#[inline]
pub(crate) fn are_kept() -> bool {
    cfg!(Py_3_14) && waits_imports().awaited_by.is_some()
}

/// The current task of a loop, if links are kept.
#[inline]
pub(super) fn current_task(event_loop: &Object) -> Res<Option<Owned>> {
    if !are_kept() || event_loop.is_none() {
        return Ok(None);
    }
    let task = waits_imports().current_task.call(&[event_loop])?;
    Ok((!task.is_none()).then_some(task))
}

/// Records that `task` awaits `future`.
#[inline]
pub(crate) fn link(future: &Object, task: Option<&Object>) -> Res<()> {
    let (Some(task), Some((add, _))) = (task, &waits_imports().awaited_by) else {
        return Ok(());
    };
    // asyncio's function checks both classes first.
    match (future.exact::<Future>(), task.exact::<Future>()) {
        (Some(future), Some(task)) => {
            asyncio_part::add_awaiter(future.asyncio_part(), task.asyncio_part())
        }
        _ => add.call(&[future, task]).map(drop),
    }
}

/// Removes the record that `task` awaits `future`.
#[inline]
pub(crate) fn unlink(future: &Object, task: Option<&Object>) -> Res<()> {
    let (Some(task), Some((_, discard))) = (task, &waits_imports().awaited_by) else {
        return Ok(());
    };
    match (future.exact::<Future>(), task.exact::<Future>()) {
        (Some(future), Some(task)) => {
            asyncio_part::discard_awaiter(future.asyncio_part(), task.asyncio_part())
        }
        _ => discard.call(&[future, task]).map(drop),
    }
}
