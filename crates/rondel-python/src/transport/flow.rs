//! Flow control as Python sees it, for transports that are no streams: limits, and telling the protocol.

use rondel::transport::flow_control::FlowControl;

use super::loop_calls::{call_exception_handler, take_unless_exit};
use super::names::names;
use crate::cpython::error::value_error;
use crate::cpython::method::Args;
use crate::cpython::{Object, Owned, Raised, Res, Slot};

/// What `get_write_buffer_limits` returns.
pub(super) fn limits(flow: &FlowControl) -> Res<Owned> {
    let (low, high) = flow.limits();
    Owned::tuple(&[
        &*Owned::from_u64(low as u64)?,
        &*Owned::from_u64(high as u64)?,
    ])
}

/// What `set_write_buffer_limits` was given; `set` sets it.
pub(super) fn set_limits(
    args: Args<'_>,
    set: impl FnOnce(Option<i64>, Option<i64>) -> Result<(), String>,
) -> Res<()> {
    let given = args.parse("set_write_buffer_limits", ["high", "low"], 2, 0)?;
    let number = |limit: Option<&Object>| match limit.filter(|limit| !limit.is_none()) {
        Some(limit) => Ok(Some(limit.to_isize()? as i64)),
        None => Ok(None),
    };
    let (high, low) = (number(given[0])?, number(given[1])?);
    set(high, low).or_else(|error| value_error(&error))
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
