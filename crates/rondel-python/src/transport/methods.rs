//! The methods and attributes that all transports have, and those of all that read.
//!
//! `ending.rs` has those that close, `flow.rs` those of flow control.

use rondel_engine::transport::intake::Intake;

use super::base::{CONTEXT_WAS_GIVEN, End, Reads, Transport, WATCHED_FOR_READING, unwatch};
use super::extra::ask_replaced;
use super::loop_calls::debug_in_log;
use crate::cpython::method::Args;
use crate::cpython::native::Native;
use crate::cpython::{Object, Owned, Res, context, names, none};
use crate::loop_core::is_debug;

/// Logs a line about the transport, in debug mode.
pub(super) fn log_in_debug<E: End>(this: &Native<Transport<E>>, format: &str) -> Res<()> {
    if let Some(event_loop) = this.event_loop.cloned()
        && is_debug(&event_loop)?
    {
        debug_in_log(format, &[this.object()])?;
    }
    Ok(())
}

pub(super) fn is_reading<E: Reads>(this: &Native<Transport<E>>) -> Res<Owned> {
    let is_reading = this.end.intake(|intake| intake.is_reading());
    Ok(Owned::from_bool(is_reading))
}

pub(super) fn get_paused<E: Reads>(this: &Native<Transport<E>>) -> Res<Owned> {
    Ok(Owned::from_bool(
        this.end.intake(|intake| intake.is_paused()),
    ))
}

pub(crate) fn pause_reading<E: Reads>(this: &Native<Transport<E>>) -> Res<Owned> {
    if this.end.intake(Intake::pause) {
        unwatch(this, WATCHED_FOR_READING);
        log_in_debug(this, "%r pauses reading")?;
    }
    Ok(Owned::none())
}

pub(crate) fn resume_reading<E: Reads>(this: &Native<Transport<E>>) -> Res<Owned> {
    if this.end.intake(Intake::resume) {
        // asyncio's `add_reader` copies the caller's context.
        if !this.context.is_empty() && !this.has(CONTEXT_WAS_GIVEN) {
            this.context.set(context::copy_current()?);
        }
        E::resumed(this)?;
        log_in_debug(this, "%r resumes reading")?;
    }
    Ok(Owned::none())
}

pub(super) fn get_protocol<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    Ok(this.protocol.or_none())
}

pub(super) fn set_protocol_method<E: End>(
    this: &Native<Transport<E>>,
    protocol: &Object,
) -> Res<Owned> {
    E::set_protocol(this, protocol)?;
    Ok(Owned::none())
}

pub(super) fn set_protocol_attribute<E: End>(
    this: &Native<Transport<E>>,
    value: Option<&Object>,
) -> Res<()> {
    E::set_protocol(this, value.unwrap_or(none()))
}

pub(super) fn get_extra_info<E: End>(this: &Native<Transport<E>>, args: Args<'_>) -> Res<Owned> {
    let [name, default] = args.parse("get_extra_info", ["name", "default"], 2, 1)?;
    if let Some(answer) = ask_replaced(this.object(), name, default)? {
        return Ok(answer);
    }
    this.extra.or_none().call_method(
        &names().get,
        &[name.unwrap_or(none()), default.unwrap_or(none())],
    )
}

pub(super) fn get_extra<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    Ok(this.extra.or_none())
}

pub(super) fn set_extra<E: End>(this: &Native<Transport<E>>, value: Option<&Object>) -> Res<()> {
    this.extra.set(value.unwrap_or(none()).own());
    Ok(())
}

pub(super) fn get_loop<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    Ok(this.event_loop.or_none())
}

pub(super) fn get_fd<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    Owned::from_i64(this.fd.get().into())
}

pub(super) fn get_true<E: End>(_: &Native<Transport<E>>) -> Res<Owned> {
    Ok(Owned::from_bool(true))
}

pub(super) fn get_none<E: End>(_: &Native<Transport<E>>) -> Res<Owned> {
    Ok(Owned::none())
}

/// The methods that all kinds have.
macro_rules! methods {
    ($end:ty, $fatal_error:literal) => {{
        use $crate::cpython::method::method;
        use $crate::transport::{ending, methods};
        vec![
            method!(noargs c"close" ending::close::<$end>, c"Closes once everything is sent."),
            method!(noargs c"is_closing" ending::is_closing::<$end>, c"Whether it is closed or about to be."),
            method!(noargs c"get_protocol" methods::get_protocol::<$end>, c"The protocol."),
            method!(named c"set_protocol" ("protocol") methods::set_protocol_method::<$end>, c"Replaces the protocol."),
            method!(fast $fatal_error ending::fatal_error_method::<$end>, c"Reports an exception and closes at once."),
            method!(onearg c"_call_connection_lost(exc, /)" ending::call_connection_lost::<$end>, c"Tells the protocol and closes the descriptor."),
        ]
    }};
}
pub(super) use methods;

/// The attributes that all kinds have.
macro_rules! attributes {
    ($end:ty) => {{
        use $crate::cpython::method::attribute;
        use $crate::transport::{ending, methods};
        vec![
            attribute!(c"_protocol" methods::get_protocol::<$end>, methods::set_protocol_attribute::<$end>),
            attribute!(c"_loop" methods::get_loop::<$end>),
            attribute!(c"_closing" ending::get_closing::<$end>),
        ]
    }};
}
pub(super) use attributes;

/// The methods of a kind that reads.
macro_rules! reading_methods {
    ($end:ty) => {{
        use $crate::cpython::method::method;
        use $crate::transport::methods;
        vec![
            method!(noargs c"is_reading" methods::is_reading::<$end>, c"Whether received data is passed to the protocol."),
            method!(noargs c"pause_reading" methods::pause_reading::<$end>, c"Stops passing data to the protocol until resume_reading()."),
            method!(noargs c"resume_reading" methods::resume_reading::<$end>, c"Passes received data to the protocol again."),
        ]
    }};
}
pub(super) use reading_methods;
