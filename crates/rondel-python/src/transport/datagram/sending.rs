//! `sendto`: what the program hands over, and what happens when the descriptor can be written.
//!
//! The first datagram of a turn is sent at once. Those that follow it in the same turn leave together when the turn is over:
//! the loop, which was told of the first, calls [`flush_turn`]. Whatever could tell the difference flushes first.

use std::io;

use pyo3::ffi;
use rondel_engine::transport::datagram::{Admitted, Destination as _, Flushed, Route};

use super::closing::{call_connection_lost, fatal_error};
use super::destination::Destination;
use super::receiving::error_received;
use super::{Datagram, HAS_ADDRESS, WATCHED_FOR_WRITING, fields, unwatch, watch};
use crate::cpython::error::{
    os_error, raised_matches, restore, take_exception, type_error, value_error,
};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::{Object, Owned, Raised, Res, none};
use crate::loop_core::LoopCore;
use crate::transport::chunk::{Chunk, with_buffer};
use crate::transport::flow::{self, Edge};
use crate::transport::loop_calls::{report_callback, take_unless_exit, warn_in_log};
use crate::transport::names::{imports, names};

/// `transport.sendto(data, addr=None)`.
#[inline]
fn sendto(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let [data, addr] = match args.positional() {
        [data, addr] if !args.has_named() => [*data, *addr],
        _ => args
            .parse("sendto", ["data", "addr"], 2, 1)?
            .map(|argument| argument.unwrap_or(none())),
    };
    check_data(data)?;
    let this = fields(transport);
    if !imports().sends_empty_datagrams && data.is_true().is_ok_and(|is| !is) {
        return Ok(Owned::none());
    }
    let addr = match this.has(HAS_ADDRESS) {
        false => addr.own(),
        true => {
            let peer = this.address.or_none();
            if !addr.is_none() && !addr.is(&peer) && !addr.equals(&peer)? {
                let text = peer.str()?.to_text()?;
                return value_error(&format!("Invalid address: must be None or {text}"));
            }
            peer
        }
    };
    let to = Destination::new(this, addr);
    if matches!(to.route(), Route::To(_)) && audit(this, to.object()).is_err() {
        failed_to_write(transport)?;
        return Ok(Owned::none());
    }
    let admitted = this.datagrams.borrow_mut().admit(this.has(HAS_ADDRESS));
    match admitted {
        Admitted::Lost { warn: false } => {}
        Admitted::Lost { warn: true } => warn_in_log("socket.send() raised exception.")?,
        Admitted::Now => send_now(transport, this, data, to)?,
        Admitted::Queue => queue(transport, this, data, to)?,
    }
    Ok(Owned::none())
}

/// The event that `socket.sendto` raises, for what is not sent by it.
#[inline]
fn audit(this: &Datagram, to: &Object) -> Res<()> {
    let socket = match this.datagrams.borrow().socket() {
        Some(socket) => socket.object().own(),
        None => return Ok(()),
    };
    crate::cpython::audit::audit(c"socket.sendto", &[&socket, to])
}

/// Others wait already.
#[inline]
fn queue(transport: &Object, this: &Datagram, data: &Object, to: Destination) -> Res<()> {
    if this.datagrams.borrow().is_blocked() {
        return push(transport, this, immutable(data)?, to);
    }
    if let Some(core) = this.event_loop.get().and_then(LoopCore::of) {
        core.before_more(transport);
    }
    let foreign = matches!(to.route(), Route::Foreign);
    if foreign {
        // It may fail in any way, and may end the transport: what was sent before it is not to be lost with it. And what a path
        // leads to may be something else when the turn ends.
        flush_if_dirty(transport)?;
    }
    // Is it still so?
    let admitted = this.datagrams.borrow_mut().admit(this.has(HAS_ADDRESS));
    match admitted {
        Admitted::Lost { .. } => Ok(()),
        Admitted::Queue if !foreign || !this.datagrams.borrow().is_empty() => {
            match Chunk::of_buffer(data) {
                Ok(chunk) => push(transport, this, chunk, to),
                Err(Raised) => cannot_be_sent(transport, this),
            }
        }
        Admitted::Now | Admitted::Queue => send_now(transport, this, data, to),
    }
}

/// The kernel would be given it at once, and there is no buffer to give: this ends the transport, after what waits.
#[cold]
fn cannot_be_sent(transport: &Object, this: &Datagram) -> Res<()> {
    let exception = take_unless_exit()?;
    flush_if_dirty(transport)?;
    if this.is_lost() && this.has(HAS_ADDRESS) {
        return Ok(());
    }
    fatal_error(
        transport,
        &exception,
        "Fatal write error on datagram transport",
    )
}

#[inline]
fn check_data(data: &Object) -> Res<()> {
    // SAFETY: a live object.
    let is_bytes_like = unsafe {
        ffi::PyBytes_Check(data.as_ptr()) != 0
            || ffi::PyByteArray_Check(data.as_ptr()) != 0
            || ffi::PyMemoryView_Check(data.as_ptr()) != 0
    };
    if is_bytes_like {
        return Ok(());
    }
    let class = data
        .class()
        .getattr(&*Owned::from_str("__name__")?)?
        .repr()?
        .to_text()?;
    type_error(&format!(
        "data argument must be a bytes-like object, not {class}"
    ))
}

/// `bytes(data)`.
#[inline]
fn immutable(data: &Object) -> Res<Chunk> {
    if let Some(chunk) = Chunk::exact(data) {
        return Ok(chunk);
    }
    // Of any memoryview, be it contiguous or not.
    // SAFETY: a live object.
    let bytes = unsafe { Owned::steal(ffi::PyBytes_FromObject(data.as_ptr()))? };
    Chunk::of_buffer(&bytes)
}

/// How an attempt to send one datagram ended.
enum Attempt {
    Sent,
    Blocked,
    /// An `OSError`, which the protocol is told.
    Failed(Owned),
}

fn attempt_of(result: io::Result<()>) -> Res<Attempt> {
    let error = match result {
        Ok(()) => return Ok(Attempt::Sent),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Attempt::Blocked),
        _ => Ok(Attempt::Failed(os_error(&error)?)),
    }
}

/// Sends one datagram, past the queue.
#[inline]
fn attempt(this: &Datagram, data: &Object, to: &Destination) -> Res<Attempt> {
    let send = |bytes: &[u8]| this.datagrams.borrow().send(bytes, to.route());
    match to.route() {
        Route::Foreign => attempt_by_socket(this, data, to.object()),
        _ => match Chunk::exact(data) {
            Some(chunk) => attempt_of(send(chunk.as_ref())),
            None => attempt_of(with_buffer(data, send)?),
        },
    }
}

/// Sends one datagram to what only Python's socket module understands.
#[cold]
fn attempt_by_socket(this: &Datagram, data: &Object, to: &Object) -> Res<Attempt> {
    let socket = match this.datagrams.borrow().socket() {
        Some(socket) => socket.object().own(),
        None => return Ok(Attempt::Sent),
    };
    // SAFETY: built-in classes live as long as the interpreter.
    let (os, blocked, interrupted) = unsafe {
        (
            Object::from_ptr(ffi::PyExc_OSError),
            Object::from_ptr(ffi::PyExc_BlockingIOError),
            Object::from_ptr(ffi::PyExc_InterruptedError),
        )
    };
    match socket.call_method(&names().sendto, &[data, to]) {
        Ok(_) => Ok(Attempt::Sent),
        Err(Raised) if raised_matches(blocked) || raised_matches(interrupted) => {
            drop(take_exception());
            Ok(Attempt::Blocked)
        }
        Err(Raised) if raised_matches(os) => Ok(Attempt::Failed(take_exception())),
        Err(Raised) => Err(Raised),
    }
}

fn failed_to_write(transport: &Object) -> Res<()> {
    let exception = take_unless_exit()?;
    fatal_error(
        transport,
        &exception,
        "Fatal write error on datagram transport",
    )
}

#[inline]
fn send_now(transport: &Object, this: &Datagram, data: &Object, to: Destination) -> Res<()> {
    if let Some(core) = this.event_loop.get().and_then(LoopCore::of) {
        core.flush_in_order();
    }
    match attempt(this, data, &to) {
        Ok(Attempt::Sent) => {
            let in_step = this
                .event_loop
                .get()
                .and_then(LoopCore::of)
                .is_some_and(|core| core.note_written(transport));
            if in_step {
                this.datagrams.borrow_mut().enter_step();
            }
            Ok(())
        }
        Ok(Attempt::Blocked) => {
            block(transport, this)?;
            push(transport, this, immutable(data)?, to)
        }
        Ok(Attempt::Failed(exception)) => error_received(this, &exception),
        Err(Raised) => failed_to_write(transport),
    }
}

/// The kernel takes no more now.
fn block(transport: &Object, this: &Datagram) -> Res<()> {
    let news = this.datagrams.borrow_mut().note_blocked();
    if news {
        watch(transport, WATCHED_FOR_WRITING)?;
    }
    Ok(())
}

fn push(transport: &Object, this: &Datagram, data: Chunk, to: Destination) -> Res<()> {
    let due = this.datagrams.borrow_mut().push(data, to);
    if due {
        return flush(transport);
    }
    if this.datagrams.borrow().is_blocked() {
        maybe_pause(transport, this)?;
    }
    Ok(())
}

/// Sends what waits, one error after the other, until nothing is left or the kernel takes no more. What `error_received()`
/// raises is reported: it was another call that sent this datagram, and those behind it have to go.
fn flush(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let mut exit = None;
    loop {
        match send_waiting(transport, this) {
            Ok(true) => {}
            Ok(false) => break,
            Err(Raised) => {
                if let Err(Raised) = report_callback(transport, this.event_loop(), "sendto") {
                    exit = Some(take_exception());
                }
            }
        }
    }
    match exit {
        None => maybe_pause(transport, this),
        Some(exit) => Err(restore(exit)),
    }
}

/// Sends what waits. True: the protocol was told of an error, and there may be more to send.
fn send_waiting(transport: &Object, this: &Datagram) -> Res<bool> {
    let flushed = this.datagrams.borrow_mut().flush();
    match flushed {
        Flushed::Drained => Ok(false),
        Flushed::Blocked => block(transport, this).map(|()| false),
        Flushed::Failed(error) => {
            error_received(this, &*os_error(&error)?)?;
            Ok(true)
        }
        Flushed::Foreign => {
            let first = this.datagrams.borrow_mut().take_first();
            let Some((data, to)) = first else {
                return Ok(false);
            };
            match attempt_by_socket(this, data.object(), to.object()) {
                Ok(Attempt::Sent) => Ok(true),
                Ok(Attempt::Blocked) => {
                    this.datagrams.borrow_mut().put_back(data, to);
                    block(transport, this).map(|()| false)
                }
                Ok(Attempt::Failed(exception)) => {
                    error_received(this, &exception)?;
                    Ok(true)
                }
                Err(Raised) => failed_to_write(transport).map(|()| false),
            }
        }
    }
}

/// The turn is over: sends what it left.
pub(in crate::transport) fn flush_turn(transport: &Object) -> Res<()> {
    let this = fields(transport);
    this.datagrams.borrow_mut().leave_step();
    flush_if_dirty(transport)
}

/// Sends what was queued in the running turn, as far as that goes without Python code.
pub(in crate::transport) fn flush_early(transport: &Object) {
    if let Ok(mut datagrams) = fields(transport).datagrams.try_borrow_mut() {
        datagrams.flush_early();
    }
}

/// Sends what was queued in the running turn, if anything.
#[inline]
pub(super) fn flush_if_dirty(transport: &Object) -> Res<()> {
    let dirty = fields(transport).datagrams.borrow().is_dirty();
    match dirty {
        true => flush(transport),
        false => Ok(()),
    }
}

/// The descriptor can be written.
pub(in crate::transport) fn write_ready(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if !this.has(WATCHED_FOR_WRITING) || this.is_lost() {
        return Ok(());
    }
    // As asyncio does, an error ends this attempt: the descriptor is still writable in the next turn.
    if send_waiting(transport, this)? && !this.datagrams.borrow().is_empty() {
        return Ok(());
    }
    maybe_resume(transport, this)?;
    let (empty, closing) = {
        let datagrams = this.datagrams.borrow();
        (
            datagrams.is_empty() && !this.is_lost(),
            datagrams.is_closing(),
        )
    };
    if empty {
        unwatch(this, WATCHED_FOR_WRITING);
        this.datagrams.borrow_mut().note_drained();
        if closing {
            call_connection_lost(transport, none())?;
        }
    }
    Ok(())
}

// ---- flow control ----

#[inline]
fn maybe_pause(transport: &Object, this: &Datagram) -> Res<()> {
    let pauses = {
        let mut datagrams = this.datagrams.borrow_mut();
        let waiting = datagrams.size();
        datagrams.flow.pauses_at(waiting)
    };
    match pauses {
        true => flow::tell(transport, &this.protocol, &this.event_loop, Edge::Pause),
        false => Ok(()),
    }
}

#[inline]
fn maybe_resume(transport: &Object, this: &Datagram) -> Res<()> {
    let resumes = {
        let mut datagrams = this.datagrams.borrow_mut();
        let waiting = datagrams.size();
        datagrams.flow.resumes_at(waiting)
    };
    match resumes {
        true => flow::tell(transport, &this.protocol, &this.event_loop, Edge::Resume),
        false => Ok(()),
    }
}

// ---- methods ----

fn get_write_buffer_size(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    Owned::from_u64(fields(transport).datagrams.borrow().size() as u64)
}

fn get_write_buffer_limits(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    flow::limits(&this.datagrams.borrow().flow, &this.limits)
}

fn set_write_buffer_limits(transport: &Object, args: Args<'_>) -> Res<Owned> {
    flush_if_dirty(transport)?;
    let this = fields(transport);
    flow::set_limits(args, &this.limits, |high, low| {
        let set = this.datagrams.borrow_mut().flow.set_limits(high, low);
        set.map_err(|error| error.to_string())
    })?;
    maybe_pause(transport, this)?;
    Ok(Owned::none())
}

fn maybe_pause_method(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    maybe_pause(transport, fields(transport))?;
    Ok(Owned::none())
}

fn maybe_resume_method(transport: &Object) -> Res<Owned> {
    maybe_resume(transport, fields(transport))?;
    Ok(Owned::none())
}

fn sendto_ready_method(transport: &Object) -> Res<Owned> {
    write_ready(transport)?;
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(fast c"sendto(data, addr=None)" sendto, c"Sends a datagram, without waiting."),
        method!(noargs c"get_write_buffer_size" get_write_buffer_size, c"How many bytes wait to be sent."),
        method!(noargs c"get_write_buffer_limits" get_write_buffer_limits, c"The low and the high water mark, in bytes."),
        method!(fast c"set_write_buffer_limits(high=None, low=None)" set_write_buffer_limits, c"Sets the high and the low water mark, in bytes."),
        method!(noargs c"_maybe_pause_protocol" maybe_pause_method, c"Pauses writing if too much waits."),
        method!(noargs c"_maybe_resume_protocol" maybe_resume_method, c"Resumes writing if little waits."),
        method!(noargs c"_sendto_ready" sendto_ready_method, c"The socket can be written."),
    ]
}
