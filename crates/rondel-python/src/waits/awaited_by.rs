//! The links that `asyncio.print_call_graph` shows: which task awaits which future. asyncio keeps
//! them from 3.14 on.
//!
//! Earlier versions have no such links, and these functions cost nothing there.

use super::names::waits_imports;
use crate::cpython::{Object, Owned, Res};
use crate::future::{self, asyncio_part};

/// The current task of a loop, if links are kept.
#[inline]
pub(super) fn current_task(event_loop: &Object) -> Res<Option<Owned>> {
    if cfg!(not(Py_3_14)) {
        return Ok(None);
    }
    let imports = waits_imports();
    if imports.awaited_by.is_none() || event_loop.is_none() {
        return Ok(None);
    }
    let task = imports.current_task.call(&[event_loop])?;
    Ok((!task.is_none()).then_some(task))
}

/// Whether the link can be changed without asyncio's functions, which check both classes first.
#[inline]
fn are_native(future: &Object, task: &Object) -> bool {
    future::is_native(future) && future::is_native(task)
}

/// Records that `task` awaits `future`.
#[inline]
pub(super) fn link(future: &Object, task: Option<&Object>) -> Res<()> {
    match (task, &waits_imports().awaited_by) {
        (Some(task), Some(_)) if are_native(future, task) => {
            asyncio_part::add_awaiter(future, task)
        }
        (Some(task), Some((add, _))) => add.call(&[future, task]).map(drop),
        _ => Ok(()),
    }
}

/// Removes the record that `task` awaits `future`.
#[inline]
pub(super) fn unlink(future: &Object, task: Option<&Object>) -> Res<()> {
    match (task, &waits_imports().awaited_by) {
        (Some(task), Some(_)) if are_native(future, task) => {
            asyncio_part::discard_awaiter(future, task)
        }
        (Some(task), Some((_, discard))) => discard.call(&[future, task]).map(drop),
        _ => Ok(()),
    }
}
