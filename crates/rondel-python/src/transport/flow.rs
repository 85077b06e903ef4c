//! Flow control as Python sees it: limits, and telling the protocol of transports that are no streams.
//!
//! Limits may be any numbers. The engine knows how they compare with a number of bytes; what was given, if that is no plain
//! integer of that size, is kept in a slot of the transport and given back.

use rondel_engine::transport::flow_control::FlowControl;

use super::loop_calls::{call_exception_handler, take_unless_exit};
use super::names::names;
use crate::cpython::error::{take_exception, value_error};
use crate::cpython::method::Args;
use crate::cpython::names::import;
use crate::cpython::object::tuple_item;
use crate::cpython::{Object, Owned, Raised, Res, Slot, none};

/// What `get_write_buffer_limits` returns. `exact`: see [`set_limits`].
pub(super) fn limits(flow: &FlowControl, exact: &Slot) -> Res<Owned> {
    if let Some(exact) = exact.cloned() {
        return Ok(exact);
    }
    let (low, high) = flow.limits();
    Owned::tuple(&[
        &*Owned::from_u64(low as u64)?,
        &*Owned::from_u64(high as u64)?,
    ])
}

/// The low (0) or the high (1) water mark.
pub(super) fn limit(flow: &FlowControl, exact: &Slot, index: usize) -> Res<Owned> {
    Ok(tuple_item(&*limits(flow, exact)?, index).own())
}

/// What `set_write_buffer_limits` was given; `set` sets it. `exact` holds a tuple of the low and the high one, if they are no
/// plain integers.
pub(super) fn set_limits(
    args: Args<'_>,
    exact: &Slot,
    set: impl FnOnce(Option<i64>, Option<i64>) -> Result<(), String>,
) -> Res<()> {
    let given = args.parse("set_write_buffer_limits", ["high", "low"], 2, 0)?;
    let [high, low] = given.map(|limit| limit.filter(|limit| !limit.is_none()));
    let kept = match (plain(high), plain(low)) {
        (Some(high), Some(low)) => {
            set(high, low).or_else(|error| value_error(&error))?;
            None
        }
        _ => {
            let [low, high] = limits_of_any_kind(high.unwrap_or(none()), low.unwrap_or(none()))?;
            set(Some(saturated(&high)), Some(saturated(&low)))
                .or_else(|error| value_error(&error))?;
            Some(Owned::tuple(&[&low, &high])?)
        }
    };
    match kept {
        Some(kept) => exact.set(kept),
        None => exact.clear(),
    }
    Ok(())
}

/// A limit that is given as an exact `int` of that size, or not at all. A `bool` is given back as one.
fn plain(limit: Option<&Object>) -> Option<Option<i64>> {
    let Some(limit) = limit else {
        return Some(None);
    };
    // SAFETY: a live object.
    if unsafe { pyo3::ffi::PyLong_CheckExact(limit.as_ptr()) } == 0 {
        return None;
    }
    match limit.to_isize() {
        Ok(limit) => Some(Some(limit as i64)),
        Err(Raised) => {
            drop(take_exception());
            None
        }
    }
}

/// Floats, huge integers, mistakes: asyncio's own code looks at them. Gives the low and the high one.
#[cold]
fn limits_of_any_kind(high: &Object, low: &Object) -> Res<[Owned; 2]> {
    let text = |text| Owned::from_str(text);
    let mixin = import("asyncio.transports")?.getattr(&*text("_FlowControlMixin")?)?;
    let holder = import("types")?.call_method(&*text("SimpleNamespace")?, &[])?;
    mixin.call_method(&*text("_set_write_buffer_limits")?, &[&holder, high, low])?;
    let limit = |name| holder.getattr(&*text(name)?);
    Ok([limit("_low_water")?, limit("_high_water")?])
}

/// The limit as bytes compare with it.
fn saturated(limit: &Object) -> i64 {
    // A conversion to an integer saturates.
    match limit.to_f64() {
        Ok(limit) => limit as i64,
        Err(Raised) => {
            drop(take_exception()); // an integer beyond all floats
            i64::MAX
        }
    }
}

/// Which edge the protocol is told of.
#[derive(Clone, Copy)]
pub(super) enum Edge {
    Pause,
    Resume,
}

/// `protocol.pause_writing()` or `resume_writing()`; what it raises is reported.
#[cold]
pub(super) fn tell(transport: &Object, protocol: &Slot, event_loop: &Slot, edge: Edge) -> Res<()> {
    let (method, message) = match edge {
        Edge::Pause => (&names().pause_writing, "protocol.pause_writing() failed"),
        Edge::Resume => (&names().resume_writing, "protocol.resume_writing() failed"),
    };
    let owner = protocol.or_none();
    let Err(Raised) = owner.call_method(method, &[]) else {
        return Ok(());
    };
    let exception = take_unless_exit()?;
    let Some(event_loop) = event_loop.cloned() else {
        return Ok(());
    };
    let rest = [
        (c"exception", &*exception),
        (c"transport", transport),
        (c"protocol", &*owner),
    ];
    call_exception_handler(&event_loop, message, &rest)
}
