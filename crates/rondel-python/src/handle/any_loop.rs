//! `call_soon` and `call_later` of any loop, and cancelling any handle. These are direct calls on a
//! Rondel loop that has its own methods, and method calls otherwise.

use super::{cancel, new_handle, new_timer};
use crate::cpython::error::runtime_error;
use crate::cpython::{Object, Owned, Res, imports, names};
use crate::loop_core::LoopCore;
use crate::loop_core::item::Kind;

/// `event_loop.call_soon(callback, *args, context=context)`.
pub(crate) fn call_soon(
    event_loop: &Object,
    callback: &Object,
    args: &[&Object],
    context: &Object,
) -> Res<()> {
    if let Some(core) = LoopCore::of(event_loop)
        && core.calls_directly()
        && !core.is_debug()
    {
        if core.is_closed() {
            return runtime_error("Event loop is closed");
        }
        let handle = new_handle(event_loop, callback, args, Some(context))?;
        return core.push(Kind::Handle, handle.into_owned());
    }
    let mut items = vec![callback];
    items.extend(args);
    items.push(context);
    event_loop.call_method_with(&names().call_soon, &items, Some(&imports().kw_context))?;
    Ok(())
}

/// `event_loop.call_later(delay, callback, *args)`, with at most three arguments. `is_plain`: the
/// callback runs no user code.
pub(crate) fn call_later(
    event_loop: &Object,
    delay: &Object,
    callback: &Object,
    args: &[&Object],
    is_plain: bool,
) -> Res<Owned> {
    match LoopCore::of(event_loop) {
        Some(core) if core.times_directly() && !core.is_debug() && !core.is_closed() => {
            let when = delay.after(core.time())?;
            let timer = new_timer(core, when, callback, args, None)?;
            if is_plain {
                timer.needs_no_context();
            }
            timer.set_scheduled(true);
            core.push_timer(when, timer.clone())?;
            Ok(timer.into_owned())
        }
        _ => {
            let mut all = vec![delay, callback];
            all.extend_from_slice(args);
            event_loop.call_method(&names().call_later, &all)
        }
    }
}

/// `handle.cancel()`, of any handle.
pub(crate) fn cancel_any(handle: &Object) -> Res<()> {
    match handle.instance() {
        Some(handle) => cancel(handle).map(drop),
        None => handle.call_method(&names().cancel, &[]).map(drop),
    }
}
