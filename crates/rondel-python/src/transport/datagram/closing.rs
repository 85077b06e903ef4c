//! The end of a datagram transport: closing, failing, and telling the protocol.
//!
//! However it comes to its end, `connection_lost` is called once, in a turn of its own, and the socket is closed after it.

use rondel_engine::transport::stream::Close;

use super::receiving::deliver_kept;
use super::sending::flush_if_dirty;
use super::{Datagram, STARTING, WATCHED_FOR_READING, WATCHED_FOR_WRITING, fields, start, unwatch};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::{Object, Owned, Raised, Res, none};
use crate::transport::closing::report_failure;
use crate::transport::descriptor::Owner;
use crate::transport::loop_calls::with_exception_kept;
use crate::transport::names::names;
use crate::transport::socket::call_soon;

/// What was deferred: the start of reading, or the delivery of what was kept.
pub(in crate::transport) fn take_deferred(transport: &Object) -> Res<()> {
    match fields(transport).has(STARTING) {
        true => start(transport),
        false => deliver_kept(transport),
    }
}

/// `transport.close()`.
fn close(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    let this = fields(transport);
    let closing = this.datagrams.borrow_mut().close();
    if closing != Close::Already {
        unwatch(this, WATCHED_FOR_READING);
    }
    if closing == Close::Now {
        unwatch(this, WATCHED_FOR_WRITING);
        schedule_connection_lost(transport, this, none())?;
    }
    Ok(Owned::none())
}

/// `call_soon(self._call_connection_lost, exception)`.
fn schedule_connection_lost(transport: &Object, this: &Datagram, exception: &Object) -> Res<()> {
    let Some(event_loop) = this.event_loop() else {
        return Ok(());
    };
    let callback = transport.getattr(&names().call_connection_lost)?;
    call_soon(&event_loop, &callback, exception, None)
}

/// Ends the transport at once; what the kernel would not take is not sent.
fn force_close(transport: &Object, exception: &Object) -> Res<()> {
    flush_if_dirty(transport)?;
    let this = fields(transport);
    let ended = this.datagrams.borrow_mut().force_close();
    if let Some(unsent) = ended {
        drop(unsent);
        unwatch(this, WATCHED_FOR_WRITING);
        unwatch(this, WATCHED_FOR_READING);
        schedule_connection_lost(transport, this, exception)?;
    }
    Ok(())
}

/// The socket, or a callback, has failed. Failures of the network are the protocol's business; all others are reported.
#[cold]
pub(super) fn fatal_error(transport: &Object, exception: &Object, message: &str) -> Res<()> {
    fatal_error_with(transport, exception, &*Owned::from_str(message)?)
}

fn fatal_error_with(transport: &Object, exception: &Object, message: &Object) -> Res<()> {
    let this = fields(transport);
    report_failure(
        transport,
        this.event_loop(),
        this.protocol.or_none(),
        exception,
        message,
    )?;
    force_close(transport, exception)
}

/// Tells the protocol, and lets go of everything.
pub(super) fn call_connection_lost(transport: &Object, exception: &Object) -> Res<Owned> {
    // Sent in this turn, after the end was certain.
    flush_if_dirty(transport)?;
    let this = fields(transport);
    let told = match this.protocol.cloned() {
        Some(owner) => owner.call_method(&names().connection_lost, &[exception]),
        None => Ok(Owned::none()),
    };
    let let_go = || {
        close_socket(this)?;
        this.protocol.clear();
        this.context.clear();
        this.event_loop.clear();
        let unsent = this.datagrams.borrow_mut().take_queue();
        let undelivered = this.undelivered.take();
        drop((unsent, undelivered));
        Ok(())
    };
    match told {
        Ok(_) => let_go()?,
        Err(Raised) => return Err(with_exception_kept(let_go)),
    }
    Ok(Owned::none())
}

/// Closes the socket.
pub(super) fn close_socket(this: &Datagram) -> Res<()> {
    let socket = this.datagrams.borrow_mut().take_socket();
    socket.map_or(Ok(()), Owner::close)
}

// ---- methods ----

fn abort(transport: &Object) -> Res<Owned> {
    force_close(transport, none())?;
    Ok(Owned::none())
}

fn is_closing(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).datagrams.borrow().is_closing(),
    ))
}

fn force_close_method(transport: &Object, exception: &Object) -> Res<Owned> {
    force_close(transport, exception)?;
    Ok(Owned::none())
}

fn fatal_error_method(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let [exception, message] = args.parse("_fatal_error", ["exc", "message"], 2, 1)?;
    let message = match message {
        Some(message) => message.own(),
        None => Owned::from_str("Fatal error on transport")?,
    };
    fatal_error_with(transport, exception.unwrap_or(none()), &message)?;
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"close" close, c"Closes once everything is sent."),
        method!(noargs c"abort" abort, c"Closes at once; what waits is not sent."),
        method!(noargs c"is_closing" is_closing, c"Whether it is closed or about to be."),
        method!(onearg c"_force_close" force_close_method, c"Closes at once, with an exception for the protocol."),
        method!(fast c"_fatal_error" fatal_error_method, c"Reports an exception and closes at once."),
        method!(onearg c"_call_connection_lost" call_connection_lost, c"Tells the protocol and closes the socket."),
    ]
}
