//! The end of a transport: closing, failing, and telling the protocol.
//!
//! However a transport ends, `connection_lost` is called once, in a later turn, and the descriptor
//! is closed after that.

use rondel_engine::transport::stream::Close;

use super::base::{End, Transport, WATCHED_FOR_READING, WATCHED_FOR_WRITING, unwatch};
use super::loop_calls::{call_exception_handler_with, call_soon, with_exception_kept};
use super::names::imports;
use crate::cpython::error::Builtin;
use crate::cpython::method::Args;
use crate::cpython::native::Native;
use crate::cpython::{Object, Owned, Raised, Res, names, none};
use crate::loop_core::{LoopCore, is_debug};

/// `transport.close()`.
pub(crate) fn close<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    E::settle_end(this)?;
    match E::close(this) {
        Close::Already => {}
        Close::WhenDrained => unwatch(this, WATCHED_FOR_READING),
        Close::Now => {
            unwatch(this, WATCHED_FOR_READING);
            unwatch(this, WATCHED_FOR_WRITING);
            schedule_connection_lost(this, none())?;
        }
    }
    Ok(Owned::none())
}

/// `call_soon(self._call_connection_lost, exception)`, without Python code where the protocol is
/// native.
pub(super) fn schedule_connection_lost<E: End>(
    this: &Native<Transport<E>>,
    exception: &Object,
) -> Res<()> {
    let Some(event_loop) = this.event_loop.cloned() else {
        return Ok(());
    };
    if let Some(core) = LoopCore::of(&event_loop)
        && E::lose(this, core, exception)?
    {
        return Ok(());
    }
    let callback = this.object().getattr(&names().call_connection_lost)?;
    let context = this.given_context();
    call_soon(&event_loop, &callback, exception, context.as_deref())
}

/// Ends the transport at once; what waits is not sent.
pub(super) fn force_close<E: End>(this: &Native<Transport<E>>, exception: &Object) -> Res<()> {
    if E::force_close(this)? {
        unwatch(this, WATCHED_FOR_WRITING);
        unwatch(this, WATCHED_FOR_READING);
        schedule_connection_lost(this, exception)?;
    }
    Ok(())
}

/// The descriptor, or the protocol, has failed.
#[cold]
pub(crate) fn fatal_error<E: End>(
    this: &Native<Transport<E>>,
    exception: &Object,
    message: &str,
) -> Res<()> {
    fatal_error_with(this, exception, &*Owned::from_str(message)?)
}

/// As [`fatal_error`], with a message that may be any object.
fn fatal_error_with<E: End>(
    this: &Native<Transport<E>>,
    exception: &Object,
    message: &Object,
) -> Res<()> {
    if let Some(event_loop) = this.event_loop.cloned() {
        match E::is_expected(exception)? {
            true if is_debug(&event_loop)? => {
                log_with_traceback(this.object(), exception, message)?;
            }
            true => {}
            false => {
                let rest = [
                    (c"exception", exception),
                    (c"transport", this.object()),
                    (c"protocol", &*this.protocol.or_none()),
                ];
                call_exception_handler_with(&event_loop, message, &rest)?;
            }
        }
    }
    force_close(this, exception)
}

fn log_with_traceback(transport: &Object, exception: &Object, message: &Object) -> Res<()> {
    let format = Owned::from_str("%r: %s")?;
    imports()
        .logger
        .call_method_with(
            &names().debug,
            &[&format, transport, message, exception],
            Some(&imports().kw_exc_info),
        )
        .map(drop)
}

/// Whether an exception is an `OSError`.
pub(super) fn is_os_error(exception: &Object) -> Res<bool> {
    exception.is_instance(Builtin::Os.class())
}

/// Calls the protocol's `connection_lost`, and releases what the transport holds.
pub(super) fn call_connection_lost<E: End>(
    this: &Native<Transport<E>>,
    exception: &Object,
) -> Res<Owned> {
    // Something may have been written in this turn, after the end was scheduled.
    E::settle(this)?;
    let told = match this.protocol.cloned() {
        Some(protocol) => (this.receiver.get().lost)(&protocol, exception),
        None => Ok(()),
    };
    let let_go = || {
        E::close_descriptor(this)?;
        this.protocol.clear();
        this.context.clear();
        this.event_loop.clear();
        E::let_go(this)
    };
    match told {
        Ok(()) => let_go()?,
        Err(Raised) => return Err(with_exception_kept(let_go)),
    }
    E::ended(this)?;
    Ok(Owned::none())
}

// ---- methods and attributes ----

pub(super) fn is_closing<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    E::settle_failure(this)?;
    Ok(Owned::from_bool(this.end.is_closing()))
}

pub(super) fn get_closing<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    E::settle(this)?;
    Ok(Owned::from_bool(this.end.is_closing()))
}

pub(super) fn get_conn_lost<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    E::settle(this)?;
    Owned::from_u64(this.end.conn_lost().into())
}

/// `transport.abort()`.
pub(super) fn abort<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    E::settle_end(this)?;
    force_close(this, none())?;
    Ok(Owned::none())
}

/// `_force_close(exc)`, and what pipes call `_close`.
pub(super) fn force_close_method<E: End>(
    this: &Native<Transport<E>>,
    exception: &Object,
) -> Res<Owned> {
    E::settle(this)?;
    force_close(this, exception)?;
    Ok(Owned::none())
}

pub(super) fn fatal_error_method<E: End>(
    this: &Native<Transport<E>>,
    args: Args<'_>,
) -> Res<Owned> {
    let [exception, message] = args.parse("_fatal_error", ["exc", "message"], 2, 1)?;
    let message = match message {
        Some(message) => message.own(),
        None => Owned::from_str(E::FATAL_ERROR)?,
    };
    fatal_error_with(this, exception.unwrap_or(none()), &message)?;
    Ok(Owned::none())
}
