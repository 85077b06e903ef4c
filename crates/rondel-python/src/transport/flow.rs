//! Flow control: limits of what waits to be sent, and telling the protocol.
//!
//! Limits may be any numbers. The engine compares them as integers; if the program gave anything
//! but plain integers, a slot of the transport keeps the originals, to return them.

use rondel_engine::transport::flow_control::FlowControl;

use super::base::{End, Transport};
use super::loop_calls::{call_exception_handler, take_unless_exit};
use super::receiver::Receiver;
use crate::cpython::error::{take_exception, value_error};
use crate::cpython::method::Args;
use crate::cpython::names::import;
use crate::cpython::native::Native;
use crate::cpython::object::tuple_item;
use crate::cpython::{Object, Owned, Raised, Res, none};

/// A kind of transport that writes.
pub(super) trait Writes: End {
    /// Calls `look` with the flow control and the number of bytes that wait.
    fn flow<R>(&self, look: impl FnOnce(&mut FlowControl, usize) -> R) -> R;
}

/// Tells the protocol to pause, if too much waits.
#[inline]
pub(super) fn maybe_pause<E: Writes>(this: &Native<Transport<E>>) -> Res<()> {
    match this.end.flow(FlowControl::pauses_at) {
        true => tell(this, Edge::Pause),
        false => Ok(()),
    }
}

/// Tells the protocol to go on, if little waits.
#[inline]
pub(super) fn maybe_resume<E: Writes>(this: &Native<Transport<E>>) -> Res<()> {
    match this.end.flow(FlowControl::resumes_at) {
        true => tell(this, Edge::Resume),
        false => Ok(()),
    }
}

#[cold]
fn tell<E: End>(this: &Native<Transport<E>>, edge: Edge) -> Res<()> {
    let protocol = this.protocol.or_none();
    let Some((exception, message)) = edge.tell(this.receiver.get(), &protocol)? else {
        return Ok(());
    };
    let Some(event_loop) = this.event_loop.cloned() else {
        return Ok(());
    };
    let rest = [
        (c"exception", &*exception),
        (c"transport", this.object()),
        (c"protocol", &*protocol),
    ];
    call_exception_handler(&event_loop, message, &rest)
}

/// Which edge a protocol is told of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    Pause,
    Resume,
}

impl Edge {
    /// `protocol.pause_writing()` or `resume_writing()`. Returns the exception that it raised, and
    /// the message to report it with.
    pub(crate) fn tell(
        self,
        receiver: &Receiver,
        protocol: &Object,
    ) -> Res<Option<(Owned, &'static str)>> {
        let (tell, message) = match self {
            Self::Pause => (receiver.pause, "protocol.pause_writing() failed"),
            Self::Resume => (receiver.resume, "protocol.resume_writing() failed"),
        };
        match tell(protocol) {
            Ok(()) => Ok(None),
            Err(Raised) => Ok(Some((take_unless_exit()?, message))),
        }
    }
}

// ---- limits ----

/// A tuple of the low and the high water mark.
fn limits<E: Writes>(this: &Transport<E>) -> Res<Owned> {
    if let Some(exact) = this.limits.cloned() {
        return Ok(exact);
    }
    let (low, high) = this.end.flow(|flow, _| flow.limits());
    Owned::tuple(&[
        &*Owned::from_u64(low as u64)?,
        &*Owned::from_u64(high as u64)?,
    ])
}

/// Sets the limits to what `set_write_buffer_limits` was given.
fn set_limits<E: Writes>(this: &Transport<E>, args: Args<'_>) -> Res<()> {
    let given = args.parse("set_write_buffer_limits", ["high", "low"], 2, 0)?;
    let [high, low] = given.map(|limit| limit.filter(|limit| !limit.is_none()));
    let set = |high, low| {
        let set = this.end.flow(|flow, _| flow.set_limits(high, low));
        set.or_else(|error| value_error(&error.to_string()))
    };
    if let (Some(high), Some(low)) = (plain(high), plain(low)) {
        set(high, low)?;
        this.limits.clear();
        return Ok(());
    }
    let [low, high] = limits_of_any_kind(high.unwrap_or(none()), low.unwrap_or(none()))?;
    set(Some(saturated(&high)), Some(saturated(&low)))?;
    this.limits.set(Owned::tuple(&[&low, &high])?);
    Ok(())
}

/// A limit that is missing, or exactly an `int` that fits. A `bool` does not count: it has to be
/// returned as one.
fn plain(limit: Option<&Object>) -> Option<Option<i64>> {
    let Some(limit) = limit else {
        return Some(None);
    };
    if !limit.is_exact_int() {
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

/// Floats, huge integers, wrong types: asyncio's own code handles them. Returns the low and the
/// high one.
#[cold]
fn limits_of_any_kind(high: &Object, low: &Object) -> Res<[Owned; 2]> {
    let text = |text| Owned::from_str(text);
    let mixin = import("asyncio.transports")?.getattr(&*text("_FlowControlMixin")?)?;
    let holder = import("types")?.call_method(&*text("SimpleNamespace")?, &[])?;
    mixin.call_method(&*text("_set_write_buffer_limits")?, &[&holder, high, low])?;
    let limit = |name| holder.getattr(&*text(name)?);
    Ok([limit("_low_water")?, limit("_high_water")?])
}

/// The integer that compares with a number of bytes as the limit does.
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

// ---- methods and attributes ----

pub(super) fn get_write_buffer_limits<E: Writes>(this: &Native<Transport<E>>) -> Res<Owned> {
    limits(this)
}

pub(super) fn set_write_buffer_limits<E: Writes>(
    this: &Native<Transport<E>>,
    args: Args<'_>,
) -> Res<Owned> {
    E::settle(this)?;
    set_limits(this, args)?;
    maybe_pause(this)?;
    Ok(Owned::none())
}

pub(super) fn get_low_water<E: Writes>(this: &Native<Transport<E>>) -> Res<Owned> {
    Ok(tuple_item(&*limits(this)?, 0).own())
}

pub(super) fn get_high_water<E: Writes>(this: &Native<Transport<E>>) -> Res<Owned> {
    Ok(tuple_item(&*limits(this)?, 1).own())
}

pub(super) fn get_write_buffer_size<E: Writes>(this: &Native<Transport<E>>) -> Res<Owned> {
    E::settle(this)?;
    Owned::from_u64(this.end.flow(|_, waiting| waiting) as u64)
}

pub(super) fn get_protocol_paused<E: Writes>(this: &Native<Transport<E>>) -> Res<Owned> {
    E::settle(this)?;
    Ok(Owned::from_bool(this.end.flow(|flow, _| flow.is_paused())))
}

pub(super) fn maybe_pause_method<E: Writes>(this: &Native<Transport<E>>) -> Res<Owned> {
    E::settle(this)?;
    maybe_pause(this)?;
    Ok(Owned::none())
}

pub(super) fn maybe_resume_method<E: Writes>(this: &Native<Transport<E>>) -> Res<Owned> {
    maybe_resume(this)?;
    Ok(Owned::none())
}

/// The methods of a kind that writes.
macro_rules! writing_methods {
    ($end:ty) => {{
        use $crate::cpython::method::method;
        use $crate::transport::{ending, flow};
        vec![
            method!(noargs c"abort" ending::abort::<$end>, c"Closes at once, without sending queued data."),
            method!(noargs c"get_write_buffer_size" flow::get_write_buffer_size::<$end>, c"The number of bytes that wait to be sent."),
            method!(noargs c"get_write_buffer_limits" flow::get_write_buffer_limits::<$end>, c"Returns the low-water and the high-water mark, in bytes."),
            method!(fast c"set_write_buffer_limits(high=None, low=None)" flow::set_write_buffer_limits::<$end>, c"Sets the high-water and the low-water mark, in bytes."),
            method!(noargs c"_maybe_pause_protocol" flow::maybe_pause_method::<$end>, c"Pauses the protocol if the buffer is over its high-water mark."),
            method!(noargs c"_maybe_resume_protocol" flow::maybe_resume_method::<$end>, c"Resumes the protocol if the buffer is below its low-water mark."),
        ]
    }};
}
pub(super) use writing_methods;

/// The attributes of a kind that writes.
macro_rules! writing_attributes {
    ($end:ty) => {{
        use $crate::cpython::method::attribute;
        use $crate::transport::{ending, flow};
        [
            attribute!(c"_conn_lost" ending::get_conn_lost::<$end>),
            attribute!(c"_protocol_paused" flow::get_protocol_paused::<$end>),
            attribute!(c"_high_water" flow::get_high_water::<$end>),
            attribute!(c"_low_water" flow::get_low_water::<$end>),
        ]
    }};
}
pub(super) use writing_attributes;
