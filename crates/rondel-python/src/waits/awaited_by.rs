//! The links that `asyncio.print_call_graph` shows: which task awaits which future. asyncio keeps
//! them from 3.14 on.
//!
//! Earlier versions have no such links, and these functions cost nothing there.

use super::names::waits_imports;
use crate::cpython::{Object, Owned, Res};
use crate::future::{Future, asyncio_part};

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

/// Records that `task` awaits `future`.
#[inline]
pub(super) fn link(future: &Object, task: Option<&Object>) -> Res<()> {
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
pub(super) fn unlink(future: &Object, task: Option<&Object>) -> Res<()> {
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
