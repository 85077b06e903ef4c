//! `sendto`, and what happens when the descriptor can be written.
//!
//! The first datagram of a turn is sent at once. Those that follow in the same turn are sent
//! together at its end: the first one puts the transport on the loop's list, and the loop calls
//! [`Sends::flush`]. Whatever could show the difference flushes first.

use std::io;

use rondel_engine::transport::datagram::{Admitted, Destination as _, Flushed, Route};

use super::destination::Destination;
use super::receiving::error_received;
use super::{Datagram, HAS_ADDRESS};
use crate::cpython::error::{
    Builtin, no_memory, os_error, raised_matches, restore, take_exception, type_error, value_error,
};
use crate::cpython::finalize::finalizing;
use crate::cpython::method::{Args, Method, method};
use crate::cpython::native::Native;
use crate::cpython::{Object, Owned, Raised, Res, names, none};
use crate::loop_core::written::Sends;
use crate::transport::base::{WATCHED_FOR_WRITING, unwatch, watch};
use crate::transport::chunk::{Chunk, with_buffer};
use crate::transport::ending::{call_connection_lost, fatal_error};
use crate::transport::flow::{maybe_pause, maybe_resume};
use crate::transport::loop_calls::{report_callback, take_unless_exit, warn_in_log};
use crate::transport::names::imports;

/// `transport.sendto(data, addr=None)`.
#[inline]
fn sendto(this: &Native<Datagram>, args: Args<'_>) -> Res<Owned> {
    let [data, addr] = match args.positional() {
        [data, addr] if !args.has_named() => [*data, *addr],
        _ => args
            .parse("sendto", ["data", "addr"], 2, 1)?
            .map(|argument| argument.unwrap_or(none())),
    };
    check_data(data)?;
    if !imports().sends_empty_datagrams && data.is_true().is_ok_and(|is| !is) {
        return Ok(Owned::none());
    }
    let addr = match this.has(HAS_ADDRESS) {
        false => addr.own(),
        true => {
            let peer = this.end.address.or_none();
            if !addr.is_none() && !addr.is(&peer) && !addr.equals(&peer)? {
                let text = peer.str()?.to_text()?;
                return value_error(&format!("Invalid address: must be None or {text}"));
            }
            peer
        }
    };
    let to = Destination::new(this, addr);
    if matches!(to.route(), Route::To(_)) && audit(this, to.object()).is_err() {
        failed_to_write(this)?;
        return Ok(Owned::none());
    }
    let admitted = this.end.datagrams.borrow_mut().admit(this.has(HAS_ADDRESS));
    match admitted {
        Admitted::Lost { warn: false } => {}
        Admitted::Lost { warn: true } => warn_in_log("socket.send() raised exception.")?,
        Admitted::Now => send_now(this, data, to)?,
        Admitted::Queue => queue(this, data, to)?,
    }
    Ok(Owned::none())
}

/// The audit event of `socket.sendto`, for datagrams that are sent without it.
#[inline]
fn audit(this: &Datagram, to: &Object) -> Res<()> {
    let socket = match this.end.datagrams.borrow().socket() {
        Some(socket) => socket.object().own(),
        None => return Ok(()),
    };
    crate::cpython::audit::audit(c"socket.sendto", &[&socket, to])
}

/// Others wait already.
#[inline]
fn queue(this: &Native<Datagram>, data: &Object, to: Destination) -> Res<()> {
    if this.end.datagrams.borrow().is_blocked() {
        return push(this, immutable(data)?, to);
    }
    if let Some(core) = this.core() {
        core.before_more(this.object());
    }
    let foreign = matches!(to.route(), Route::Foreign);
    if foreign {
        // It may fail in any way and end the transport, with which earlier datagrams must not be
        // lost. And a path may mean another file when the turn ends.
        flush_if_dirty(this)?;
    }
    // Is it still so?
    let admitted = this.end.datagrams.borrow_mut().admit(this.has(HAS_ADDRESS));
    match admitted {
        Admitted::Lost { .. } => Ok(()),
        Admitted::Queue if !foreign || !this.end.datagrams.borrow().is_empty() => {
            match Chunk::of_buffer(data) {
                Ok(chunk) => push(this, chunk, to),
                Err(Raised) => cannot_be_sent(this),
            }
        }
        Admitted::Now | Admitted::Queue => send_now(this, data, to),
    }
}

/// The buffer cannot be exported. asyncio would send at once and fail: this ends the transport,
/// after what waits was sent.
#[cold]
fn cannot_be_sent(this: &Native<Datagram>) -> Res<()> {
    let exception = take_unless_exit()?;
    flush_if_dirty(this)?;
    if this.is_lost() && this.has(HAS_ADDRESS) {
        return Ok(());
    }
    fatal_error(this, &exception, "Fatal write error on datagram transport")
}

#[inline]
fn check_data(data: &Object) -> Res<()> {
    if data.is_bytes_like() {
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
    // Of any memoryview, contiguous or not.
    let bytes = data.to_bytes()?;
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
    let send = |bytes: &[u8]| this.end.datagrams.borrow().send(bytes, to.route());
    match to.route() {
        Route::Foreign => attempt_by_socket(this, data, to.object()),
        _ => match Chunk::exact(data) {
            Some(chunk) => attempt_of(send(chunk.as_ref())),
            None => attempt_of(with_buffer(data, send)?),
        },
    }
}

/// Sends one datagram by `socket.sendto`.
#[cold]
fn attempt_by_socket(this: &Datagram, data: &Object, to: &Object) -> Res<Attempt> {
    let socket = match this.end.datagrams.borrow().socket() {
        Some(socket) => socket.object().own(),
        None => return Ok(Attempt::Sent),
    };
    let (os, blocked, interrupted) = (
        Builtin::Os.class(),
        Builtin::BlockingIo.class(),
        Builtin::Interrupted.class(),
    );
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

fn failed_to_write(this: &Native<Datagram>) -> Res<()> {
    let exception = take_unless_exit()?;
    fatal_error(this, &exception, "Fatal write error on datagram transport")
}

#[inline]
fn send_now(this: &Native<Datagram>, data: &Object, to: Destination) -> Res<()> {
    if let Some(core) = this.core() {
        core.flush_in_order();
    }
    match attempt(this, data, &to) {
        Ok(Attempt::Sent) => {
            let in_step = this.core().is_some_and(|core| core.note_written(this));
            if in_step {
                this.end.datagrams.borrow_mut().enter_step();
            }
            Ok(())
        }
        Ok(Attempt::Blocked) => {
            block(this)?;
            push(this, immutable(data)?, to)
        }
        Ok(Attempt::Failed(exception)) => error_received(this, &exception),
        Err(Raised) => failed_to_write(this),
    }
}

/// The kernel takes no more now.
fn block(this: &Native<Datagram>) -> Res<()> {
    let news = this.end.datagrams.borrow_mut().note_blocked();
    if news {
        watch(this, WATCHED_FOR_WRITING)?;
    }
    Ok(())
}

fn push(this: &Native<Datagram>, data: Chunk, to: Destination) -> Res<()> {
    let due = {
        let mut datagrams = this.end.datagrams.borrow_mut();
        if datagrams.reserve().is_err() {
            return no_memory();
        }
        datagrams.push(data, to)
    };
    if due {
        return flush(this);
    }
    if this.end.datagrams.borrow().is_blocked() {
        maybe_pause(this)?;
    }
    Ok(())
}

/// Sends what waits until nothing is left or the kernel takes no more, past errors. What
/// `error_received()` raises is reported: the datagram came from another call, and those behind it
/// have to be sent.
fn flush(this: &Native<Datagram>) -> Res<()> {
    let mut exit = None;
    loop {
        match send_waiting(this) {
            Ok(true) => {}
            Ok(false) => break,
            Err(Raised) => {
                if let Err(Raised) =
                    report_callback(this.object(), this.event_loop.cloned(), "sendto")
                {
                    exit = Some(take_exception());
                }
            }
        }
    }
    match exit {
        None => maybe_pause(this),
        Some(exit) => Err(restore(exit)),
    }
}

/// Sends what waits. Returns true after an error, of which the protocol was told: there may be more
/// to send.
fn send_waiting(this: &Native<Datagram>) -> Res<bool> {
    let flushed = this.end.datagrams.borrow_mut().flush();
    match flushed {
        Flushed::Drained => Ok(false),
        Flushed::Blocked => block(this).map(|()| false),
        Flushed::Failed(error) => {
            error_received(this, &*os_error(&error)?)?;
            Ok(true)
        }
        Flushed::Foreign => {
            let first = this.end.datagrams.borrow_mut().take_first();
            let Some((data, to)) = first else {
                return Ok(false);
            };
            match attempt_by_socket(this, data.object(), to.object()) {
                Ok(Attempt::Sent) => Ok(true),
                Ok(Attempt::Blocked) => {
                    this.end.datagrams.borrow_mut().put_back(data, to);
                    block(this).map(|()| false)
                }
                Ok(Attempt::Failed(exception)) => {
                    error_received(this, &exception)?;
                    Ok(true)
                }
                Err(Raised) => failed_to_write(this).map(|()| false),
            }
        }
    }
}

impl Sends for Datagram {
    fn flush(this: &Native<Self>) {
        finalizing(this.object(), || {
            this.end.datagrams.borrow_mut().leave_step();
            flush_if_dirty(this)
        });
    }

    fn flush_early(this: &Native<Self>) {
        if let Ok(mut datagrams) = this.end.datagrams.try_borrow_mut() {
            datagrams.flush_early();
        }
    }

    fn waiting_len(_: &Native<Self>) -> usize {
        0 // the engine holds back few
    }
}

/// Sends what was queued in the running turn, if anything.
#[inline]
pub(super) fn flush_if_dirty(this: &Native<Datagram>) -> Res<()> {
    let dirty = this.end.datagrams.borrow().is_dirty();
    match dirty {
        true => flush(this),
        false => Ok(()),
    }
}

/// The descriptor can be written.
pub(super) fn write_ready(this: &Native<Datagram>) -> Res<()> {
    if !this.has(WATCHED_FOR_WRITING) || this.is_lost() {
        return Ok(());
    }
    // As asyncio does, an error ends this attempt: the descriptor is still writable in the next
    // turn.
    if send_waiting(this)? && !this.end.datagrams.borrow().is_empty() {
        return Ok(());
    }
    maybe_resume(this)?;
    let (empty, closing) = {
        let datagrams = this.end.datagrams.borrow();
        (
            datagrams.is_empty() && !this.is_lost(),
            datagrams.is_closing(),
        )
    };
    if empty {
        unwatch(this, WATCHED_FOR_WRITING);
        this.end.datagrams.borrow_mut().note_drained();
        if closing {
            call_connection_lost(this, none())?;
        }
    }
    Ok(())
}

// ---- methods ----

fn sendto_ready_method(this: &Native<Datagram>) -> Res<Owned> {
    write_ready(this)?;
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(fast c"sendto(data, addr=None)" sendto, c"Sends a datagram, without waiting."),
        method!(noargs c"_sendto_ready" sendto_ready_method, c"The socket can be written."),
    ]
}
