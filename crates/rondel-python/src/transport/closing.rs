//! The end of a transport: closing, failing, and telling the protocol.
//!
//! However it comes to its end, `connection_lost` is called once, in a turn of its own, and the socket is closed
//! after it: until then the descriptor is the transport's.

use rondel_engine::transport::address::Address;
use rondel_engine::transport::stream::Close;

use super::loop_calls::{call_exception_handler_with, with_exception_kept};
use super::names::{imports, names};
use super::socket::{
    Descriptor, PROTOCOL_CONNECTED, Socket, call_soon, fields, stop_reading, stop_writing,
};
use super::unsent::release_views;
use super::writing::{flush_before_end, flush_if_dirty, flush_now, poll_next_turn};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::{Object, Owned, Raised, Res, none};
use crate::loop_core::check_closed;
use crate::loop_core::item::Kind;
use crate::loop_core::{LoopCore, is_debug};
use crate::streams::protocol;

/// `transport.close()`.
pub(crate) fn close(transport: &Object) -> Res<Owned> {
    flush_before_end(transport)?;
    let this = fields(transport);
    let closing = this.stream.borrow_mut().close();
    match closing {
        Close::Already => {}
        Close::WhenDrained => stop_reading(this),
        Close::Now => {
            stop_reading(this);
            stop_writing(this);
            schedule_connection_lost(transport, this, none())?;
        }
    }
    Ok(Owned::none())
}

/// `call_soon(self._call_connection_lost, exception)`. Natively where no code of the program's is called.
fn schedule_connection_lost(transport: &Object, this: &Socket, exception: &Object) -> Res<()> {
    let Some(event_loop) = this.event_loop() else {
        return Ok(());
    };
    if let Some(core) = LoopCore::of(&event_loop)
        && core.calls_directly()
        && !core.is_debug()
        && this
            .protocol
            .get()
            .is_some_and(|owner| protocol::exact(owner).is_some())
    {
        check_closed(core)?;
        this.lost_with.set(exception.own());
        return core.push(Kind::Deferred, transport.own());
    }
    let callback = transport.getattr(&names().call_connection_lost)?;
    let context = this.given_context();
    call_soon(&event_loop, &callback, exception, context.as_deref())
}

/// Ends the connection at once; what waits is not sent.
pub(super) fn force_close(transport: &Object, exception: &Object) -> Res<()> {
    let this = fields(transport);
    let ended = this.stream.borrow_mut().force_close();
    if let Some(unsent) = ended {
        drop(unsent);
        release_views();
        stop_writing(this);
        stop_reading(this);
        schedule_connection_lost(transport, this, exception)?;
    }
    Ok(())
}

/// The connection, or the protocol, has failed. Failures of the network are the protocol's business; all others
/// are reported.
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

/// Says that a transport has failed: to nobody if the network is at fault, but in debug mode to the log.
pub(super) fn report_failure(
    transport: &Object,
    event_loop: Option<Owned>,
    protocol: Owned,
    exception: &Object,
    message: &Object,
) -> Res<()> {
    // SAFETY: a built-in class lives as long as the interpreter.
    let os_error = unsafe { Object::from_ptr(pyo3::ffi::PyExc_OSError) };
    let is_expected = exception.is_instance(os_error)?;
    report(
        transport,
        event_loop,
        protocol,
        exception,
        message,
        is_expected,
    )
}

/// Tells the exception handler of a failure; of one that is to be expected, only the log, in debug mode.
pub(super) fn report(
    transport: &Object,
    event_loop: Option<Owned>,
    protocol: Owned,
    exception: &Object,
    message: &Object,
    is_expected: bool,
) -> Res<()> {
    let Some(event_loop) = event_loop else {
        return Ok(());
    };
    if !is_expected {
        let rest = [
            (c"exception", exception),
            (c"transport", transport),
            (c"protocol", &*protocol),
        ];
        return call_exception_handler_with(&event_loop, message, &rest);
    }
    if is_debug(&event_loop)? {
        log_with_traceback(transport, exception, message)?;
    }
    Ok(())
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

/// Tells the protocol, and lets go of everything.
pub(super) fn call_connection_lost(transport: &Object, exception: &Object) -> Res<Owned> {
    let this = fields(transport);
    let told = match this.protocol.cloned() {
        Some(owner) if this.has(PROTOCOL_CONNECTED) => match protocol::exact(&owner) {
            Some(_) => protocol::connection_lost(&owner, exception),
            None => owner.call_method(&names().connection_lost, &[exception]),
        },
        _ => Ok(Owned::none()),
    };
    let let_go = || {
        close_socket(this)?;
        this.protocol.clear();
        this.context.clear();
        this.event_loop.clear();
        if let Some(server) = this.server.take() {
            match imports().server_knows_transports {
                true => server.call_method(&names().detach, &[transport])?,
                false => server.call_method(&names().detach, &[])?,
            };
        }
        Ok(())
    };
    match told {
        Ok(_) => let_go()?,
        Err(Raised) => return Err(with_exception_kept(let_go)),
    }
    if let Some(waiter) = this.empty_waiter.cloned() {
        // SAFETY: a built-in class lives as long as the interpreter.
        let class = unsafe { Object::from_ptr(pyo3::ffi::PyExc_ConnectionError) };
        let error = class.call(&[&*Owned::from_str("Connection is closed by peer")?])?;
        waiter.call_method(&names().set_exception, &[&error])?;
    }
    Ok(Owned::none())
}

/// Closes the socket, whoever owns it. Its name stays known.
pub(super) fn close_socket(this: &Socket) -> Res<()> {
    let socket = this.stream.borrow_mut().take_socket();
    poll_next_turn(this);
    if let Some(socket) = &socket
        && this.local.borrow().is_none()
    {
        use std::os::fd::AsRawFd;
        *this.local.borrow_mut() = Address::of_socket(socket.as_raw_fd()).ok();
    }
    match socket {
        Some(Descriptor::Python(_, socket)) => socket.call_method(&names().close, &[]).map(drop),
        // Closed by being dropped.
        Some(Descriptor::Ours(_)) | None => Ok(()),
    }
}

/// The deferred end.
pub(super) fn deferred_end(transport: &Object) -> Res<()> {
    match fields(transport).lost_with.take() {
        Some(exception) => call_connection_lost(transport, &exception).map(drop),
        None => Ok(()),
    }
}

// ---- methods ----

fn abort(transport: &Object) -> Res<Owned> {
    flush_before_end(transport)?;
    force_close(transport, none())?;
    Ok(Owned::none())
}

fn is_closing(transport: &Object) -> Res<Owned> {
    // Sending would find out that the connection is lost. But programs ask this between the writes of one message, which are to
    // leave together, so the kernel is only asked whether it would.
    let this = fields(transport);
    if this.is_dirty() && this.has_failed() {
        flush_now(transport)?;
    }
    Ok(Owned::from_bool(this.is_closing()))
}

fn force_close_method(transport: &Object, exception: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
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
        method!(onearg c"_force_close(exc, /)" force_close_method, c"Closes at once, with an exception for the protocol."),
        method!(fast c"_fatal_error(exc, message='Fatal error on transport')" fatal_error_method, c"Reports an exception and closes at once."),
        method!(onearg c"_call_connection_lost(exc, /)" call_connection_lost, c"Tells the protocol and closes the socket."),
    ]
}
