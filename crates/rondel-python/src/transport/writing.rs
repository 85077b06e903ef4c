//! Writing: what the program hands over, and what happens when the descriptor can be written.
//!
//! What is written in one turn of the loop leaves by one system call when the turn is over: `write` notes the
//! transport with the loop, which calls [`flush_now`] (`loop_core/core.rs` says why, and what comes sooner). Whatever
//! could tell the difference to asyncio's sending at once flushes first ([`flush_if_dirty`]).

use std::io;

use pyo3::ffi;
use rondel_engine::transport::stream::{Drained, Sent, Stream, Written};

use super::chunk::{Chunk, with_buffer};
use super::closing::{call_connection_lost, fatal_error};
use super::flow;
use super::loop_calls::{call_exception_handler, create_future, take_unless_exit, warn_in_log};
use super::names::{imports, names};
use super::socket::{Descriptor, Socket, WATCHED_FOR_WRITING, fields, start_writing, stop_writing};
use super::unsent::{Unsent, View, release_views, small};
use crate::cpython::error::{
    no_memory, os_error, raise_os_error, restore, runtime_error, take_exception, type_error,
};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::{Object, Owned, Raised, Res, context, none};
use crate::loop_core::LoopCore;
use crate::streams::protocol;

/// `transport.write(data)`.
#[inline]
pub(crate) fn write(transport: &Object, data: &Object) -> Res<Owned> {
    let this = fields(transport);
    match Chunk::exact(data) {
        Some(chunk) => {
            check_writable(this)?;
            if !chunk.as_ref().is_empty() {
                queue(transport, this, chunk.into())?;
            }
        }
        None => {
            check_bytes_like(data)?;
            check_writable(this)?;
            if !data.is_true()? {
                return Ok(Owned::none());
            }
            match with_buffer(data, small) {
                Ok(Ok(Some(chunk))) if chunk.as_ref().is_empty() => {}
                Ok(Ok(Some(chunk))) => queue(transport, this, chunk.into())?,
                Ok(Ok(None)) => write_large(transport, this, data)?,
                Ok(Err(Raised)) => return Err(Raised),
                Err(Raised) => cannot_be_sent(transport, this)?,
            }
        }
    }
    Ok(Owned::none())
}

#[inline]
fn check_writable(this: &Socket) -> Res<()> {
    if this.stream.borrow().eof_written() {
        return runtime_error("Cannot call write() after write_eof()");
    }
    if !this.empty_waiter.is_empty() {
        return runtime_error("unable to write; sendfile is in progress");
    }
    Ok(())
}

/// Takes many bytes that may change later: they go to the kernel first, and the rest stays where it is.
#[cold]
fn write_large(transport: &Object, this: &Socket, data: &Object) -> Res<()> {
    let view = View::of(data)?;
    flush_in_order(this);
    let clear = this.stream.borrow().is_clear();
    let written = match clear {
        true => {
            let sent = send_or(transport, view.bytes(), |rest| {
                Unsent::of_view(view.clone(), view.bytes().len() - rest.len())
            })?;
            poll_next_turn(this);
            self::sent(transport, sent)
        }
        false => queue(transport, this, Unsent::of_view(view.clone(), 0)?),
    };
    drop(view);
    release_views();
    written
}

#[cold]
fn check_bytes_like(data: &Object) -> Res<()> {
    // SAFETY: a live object.
    let is_bytes_like = unsafe {
        ffi::PyBytes_Check(data.as_ptr()) != 0
            || ffi::PyByteArray_Check(data.as_ptr()) != 0
            || ffi::PyMemoryView_Check(data.as_ptr()) != 0
    };
    if !is_bytes_like {
        let class = data
            .class()
            .getattr(&*Owned::from_str("__name__")?)?
            .repr()?
            .to_text()?;
        let expected = imports().expected_data;
        return type_error(&format!("data argument must be a {expected}, not {class}"));
    }
    Ok(())
}

/// `socket.send()` has to be given a buffer, and asyncio gives the connection up for one that cannot be had, such as of what
/// is not contiguous.
#[cold]
fn cannot_be_sent(transport: &Object, this: &Socket) -> Res<()> {
    let exception = take_unless_exit()?;
    flush_if_dirty(transport)?;
    match this.is_lost() {
        true => Ok(()),
        false => fatal_error(
            transport,
            &exception,
            "Fatal write error on socket transport",
        ),
    }
}

/// What was written to others after the last write to this one is sent before the next.
#[inline]
fn before_more(transport: &Object, this: &Socket) {
    if this.is_dirty()
        && let Some(core) = this.event_loop.get().and_then(LoopCore::of)
    {
        core.before_more(transport);
    }
}

#[inline]
fn queue(transport: &Object, this: &Socket, chunk: Unsent) -> Res<()> {
    before_more(transport, this);
    if this.stream.borrow_mut().reserve().is_err() {
        return no_memory();
    }
    let core = this.event_loop.get().and_then(LoopCore::of);
    let written = this.stream.borrow_mut().write(chunk);
    match written {
        Written::Queued => Ok(()),
        Written::FlushLater => match core.is_some_and(|core| core.note_written(transport)) {
            true => Ok(()),
            false => flush_now(transport),
        },
        Written::FlushNow => flush_now(transport),
        Written::Waiting => maybe_pause(transport, this),
        Written::Lost { warn: false } => Ok(()),
        Written::Lost { warn: true } => warn_in_log("socket.send() raised exception."),
    }
}

/// Whether nothing waits, so that [`send`] may be used.
#[inline]
pub(crate) fn is_clear(transport: &Object) -> bool {
    let this = fields(transport);
    let stream = this.stream.borrow();
    stream.is_clear() && !stream.eof_written() && this.empty_waiter.is_empty()
}

/// Sends bytes that the caller itself holds, at once; only if [`is_clear`]. [`sent`] is to be told what came of it. Runs
/// no Python code.
#[inline]
pub(crate) fn send(transport: &Object, bytes: &[u8]) -> Res<Sent> {
    send_or(transport, bytes, |rest| {
        Chunk::copy(rest).map(Unsent::Bytes)
    })
}

/// As [`send`], where `keep` makes what waits of the rest.
#[inline]
fn send_or(transport: &Object, bytes: &[u8], keep: impl FnOnce(&[u8]) -> Res<Unsent>) -> Res<Sent> {
    let mut raised = Ok(());
    let sent = fields(transport).stream.borrow_mut().send(bytes, |rest| {
        keep(rest).unwrap_or_else(|Raised| {
            // The connection must not go on with these bytes missing: the caller ends it.
            raised = Err(Raised);
            Chunk::empty().into()
        })
    });
    raised.map(|()| sent)
}

/// Sends bytes that the caller itself holds, behind what waits, where nobody can be told what comes of it. The caller knows that
/// [`flush_if_dirty`] is due.
pub(crate) fn write_early(stream: &mut Stream<Descriptor, Unsent>, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    match Chunk::copy(bytes) {
        Ok(chunk) => stream.write_early(chunk.into()),
        Err(Raised) => {
            drop(take_exception());
            stream.fail_early(io::Error::from_raw_os_error(libc::ENOMEM));
        }
    }
}

/// Sends what waits, after whatever was written before it.
#[inline]
pub(crate) fn flush_now(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let was_dirty = this.is_dirty();
    if let Some(core) = this.event_loop.get().and_then(LoopCore::of) {
        core.flush_before(transport);
    }
    match was_dirty && !this.is_dirty() {
        true => Ok(()),
        false => flush_own(transport),
    }
}

/// Sends what waits.
#[inline]
pub(super) fn flush_own(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let sent = this.stream.borrow_mut().flush();
    poll_next_turn(this);
    self::sent(transport, sent)
}

/// Where the other end is on this loop, too, it is to see in the next turn what was sent, or that this end is closed.
pub(super) fn poll_next_turn(this: &Socket) {
    if let Some(core) = this.event_loop.get().and_then(LoopCore::of) {
        core.engine().poll_next_turn();
    }
}

/// Sends what was written in the running turn, to whatever transport: something is about to reach the kernel at once.
#[inline]
fn flush_in_order(this: &Socket) {
    if let Some(core) = this.event_loop.get().and_then(LoopCore::of) {
        core.flush_in_order();
    }
}

/// Something was sent.
#[inline]
pub(crate) fn sent(transport: &Object, sent: Sent) -> Res<()> {
    let this = fields(transport);
    match sent {
        Sent::Nothing | Sent::All => Ok(()),
        Sent::Watch => {
            start_writing(transport)?;
            maybe_pause(transport, this)
        }
        Sent::Some => maybe_pause(transport, this),
        Sent::Failed(error) => fatal_error(
            transport,
            &*os_error(&error)?,
            "Fatal write error on socket transport",
        ),
    }
}

/// What was written in the running turn is sent before the connection ends.
pub(super) fn flush_before_end(transport: &Object) -> Res<()> {
    flush_in_order(fields(transport));
    flush_if_dirty(transport)
}

/// Sends what was written in the running turn, if anything.
#[inline]
pub(crate) fn flush_if_dirty(transport: &Object) -> Res<()> {
    match fields(transport).is_dirty() {
        true => flush_now(transport),
        false => Ok(()),
    }
}

/// The descriptor can be written.
pub(super) fn write_ready(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if !this.has(WATCHED_FOR_WRITING) || this.is_lost() {
        return Ok(());
    }
    match this.given_context() {
        None => send_waiting(transport, this),
        Some(own) => {
            context::enter(&own)?;
            let result = send_waiting(transport, this);
            context::exit(&own).and(result)
        }
    }
}

fn send_waiting(transport: &Object, this: &Socket) -> Res<()> {
    let sent = this.stream.borrow_mut().flush();
    release_views();
    if let Sent::Failed(error) = sent {
        stop_writing(this);
        let exception = os_error(&error)?;
        fatal_error(
            transport,
            &exception,
            "Fatal write error on socket transport",
        )?;
        if let Some(waiter) = this.empty_waiter.cloned() {
            waiter.call_method(&names().set_exception, &[&exception])?;
        }
        return Ok(());
    }
    maybe_resume(transport, this)?;
    flush_if_dirty(transport)?;
    let drained = match this.is_lost() {
        true => None,
        false => this.stream.borrow_mut().drained(),
    };
    let Some(drained) = drained else {
        return Ok(());
    };
    stop_writing(this);
    poll_next_turn(this);
    if let Some(waiter) = this.empty_waiter.cloned() {
        waiter.call_method(&names().set_result, &[none()])?;
    }
    match drained {
        Drained::Open | Drained::Eof(Ok(())) => Ok(()),
        Drained::Eof(Err(error)) => raise_os_error(&error),
        Drained::Close => call_connection_lost(transport, none()).map(drop),
    }
}

// ---- flow control ----

#[inline]
fn maybe_pause(transport: &Object, this: &Socket) -> Res<()> {
    let pauses = {
        let mut stream = this.stream.borrow_mut();
        let waiting = stream.queue().len();
        stream.flow.pauses_at(waiting)
    };
    if !pauses {
        return Ok(());
    }
    let owner = this.protocol.or_none();
    let result = match protocol::exact(&owner) {
        Some(_) => protocol::pause_writing(&owner),
        None => owner.call_method(&names().pause_writing, &[]),
    };
    report(
        transport,
        this,
        &owner,
        result,
        "protocol.pause_writing() failed",
    )
}

#[inline]
fn maybe_resume(transport: &Object, this: &Socket) -> Res<()> {
    let resumes = {
        let mut stream = this.stream.borrow_mut();
        let waiting = stream.queue().len();
        stream.flow.resumes_at(waiting)
    };
    if !resumes {
        return Ok(());
    }
    let owner = this.protocol.or_none();
    let result = match protocol::exact(&owner) {
        Some(_) => protocol::resume_writing(&owner),
        None => owner.call_method(&names().resume_writing, &[]),
    };
    report(
        transport,
        this,
        &owner,
        result,
        "protocol.resume_writing() failed",
    )
}

fn report(
    transport: &Object,
    this: &Socket,
    owner: &Object,
    result: Res<Owned>,
    message: &str,
) -> Res<()> {
    let Err(Raised) = result else {
        return Ok(());
    };
    let exception = take_unless_exit()?;
    let Some(event_loop) = this.event_loop() else {
        return Ok(());
    };
    let rest = [
        (c"exception", &*exception),
        (c"transport", transport),
        (c"protocol", owner),
    ];
    call_exception_handler(&event_loop, message, &rest)
}

// ---- methods ----

/// Before 3.12 asyncio joins the lines and writes the result; from then on it queues each.
fn writelines(transport: &Object, lines: &Object) -> Res<Owned> {
    if cfg!(not(Py_3_12)) {
        let joined = imports().empty_bytes.call_method(&names().join, &[lines])?;
        return write(transport, &joined);
    }
    let this = fields(transport);
    if this.stream.borrow().eof_written() {
        return runtime_error("Cannot call writelines() after write_eof()");
    }
    if !this.empty_waiter.is_empty() {
        return runtime_error("unable to writelines; sendfile is in progress");
    }
    if !lines.is_true()? {
        return Ok(Owned::none());
    }
    // SAFETY: a live object; what is not iterable raises.
    let lines = unsafe { Owned::steal(ffi::PySequence_Tuple(lines.as_ptr()))? };
    let mut pieces = Vec::new();
    if pieces.try_reserve_exact(tuple_len(&lines)).is_err() {
        return no_memory();
    }
    let collected = collect(&lines, &mut pieces).map_err(|Raised| take_exception());
    // Up to 3.14 all are looked at before any is queued: one that is no buffer leaves nothing behind.
    if collected.is_ok() || cfg!(Py_3_15) {
        queue_all(transport, this, pieces)?;
    }
    match collected {
        Ok(()) => Ok(Owned::none()),
        Err(exception) => Err(restore(exception)),
    }
}

/// A line that `writelines` was given.
enum Piece {
    Chunk(Chunk),
    /// Bytes that may change later, and are many: a memoryview.
    Large(Owned),
    /// A memoryview of what cannot be sent, and why.
    Refused(Owned),
}

/// Queues pieces that leave together, unless one is large.
fn queue_all(transport: &Object, this: &Socket, pieces: Vec<Piece>) -> Res<()> {
    // asyncio's one call for all of them fails.
    if let Some(exception) = pieces.iter().find_map(|piece| match piece {
        Piece::Refused(exception) => Some(exception),
        Piece::Chunk(_) | Piece::Large(_) => None,
    }) {
        let Raised = restore(exception.clone());
        return cannot_be_sent(transport, this);
    }
    before_more(transport, this);
    if pieces.len() > 64 && this.stream.borrow_mut().reserve_many(pieces.len()).is_err() {
        return no_memory();
    }
    let mut last = None;
    for piece in pieces {
        let chunk = match piece {
            _ if this.is_lost() => return Ok(()),
            Piece::Refused(_) => continue, // not here any more
            Piece::Large(view) => {
                queue_last(transport, this, last.take())?;
                write_large(transport, this, &view)?;
                continue;
            }
            Piece::Chunk(chunk) if chunk.as_ref().is_empty() => continue,
            Piece::Chunk(chunk) => chunk,
        };
        if let Some(before) = last.replace(chunk) {
            push(this, before);
        }
    }
    queue_last(transport, this, last)
}

/// Queues a chunk behind which another follows at once.
fn push(this: &Socket, chunk: Chunk) {
    this.stream.borrow_mut().write_next(chunk.into());
}

fn queue_last(transport: &Object, this: &Socket, chunk: Option<Chunk>) -> Res<()> {
    match chunk {
        Some(chunk) => queue(transport, this, chunk.into()),
        None => Ok(()),
    }
}

/// What `writelines` was given, as far as it is bytes.
fn collect(lines: &Object, pieces: &mut Vec<Piece>) -> Res<()> {
    for index in 0..tuple_len(lines) {
        let line = tuple_item(lines, index);
        if imports().writelines_skips_empty && !line.is_true()? {
            continue;
        }
        pieces.push(match Chunk::exact(line) {
            Some(chunk) => Piece::Chunk(chunk),
            None => {
                // As asyncio does it, for the text of its TypeError.
                // SAFETY: a live object.
                let view = unsafe { Owned::steal(ffi::PyMemoryView_FromObject(line.as_ptr()))? };
                match with_buffer(&view, small) {
                    Ok(Ok(Some(chunk))) => Piece::Chunk(chunk),
                    Ok(Ok(None)) => Piece::Large(view),
                    Ok(Err(raised)) => return Err(raised),
                    Err(Raised) => Piece::Refused(take_exception()),
                }
            }
        });
    }
    Ok(())
}

fn write_eof(transport: &Object) -> Res<Owned> {
    flush_before_end(transport)?;
    let this = fields(transport);
    let ended = this.stream.borrow_mut().write_eof();
    poll_next_turn(this);
    match ended {
        Ok(()) => Ok(Owned::none()),
        Err(error) => raise_os_error(&error),
    }
}

fn can_write_eof(_: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(true))
}

fn get_write_buffer_size(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    Owned::from_u64(fields(transport).stream.borrow().queue().len() as u64)
}

fn get_write_buffer_limits(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    flow::limits(&this.stream.borrow().flow, &this.limits)
}

fn set_write_buffer_limits(transport: &Object, args: Args<'_>) -> Res<Owned> {
    flush_if_dirty(transport)?;
    let this = fields(transport);
    flow::set_limits(args, &this.limits, |high, low| {
        let set = this.stream.borrow_mut().flow.set_limits(high, low);
        set.map_err(|error| error.to_string())
    })?;
    maybe_pause(transport, this)?;
    Ok(Owned::none())
}

fn make_empty_waiter(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    if !this.empty_waiter.is_empty() {
        return runtime_error("Empty waiter is already set");
    }
    flush_if_dirty(transport)?;
    let waiter = create_future(&this.event_loop.or_none())?;
    this.empty_waiter.set(waiter.clone());
    let is_empty = this.stream.borrow().queue().is_empty();
    if is_empty {
        waiter.call_method(&names().set_result, &[none()])?;
    }
    Ok(waiter)
}

fn reset_empty_waiter(transport: &Object) -> Res<Owned> {
    fields(transport).empty_waiter.clear();
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

fn write_ready_method(transport: &Object) -> Res<Owned> {
    write_ready(transport)?;
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(named c"write" ("data") write, c"Writes bytes, without waiting."),
        method!(named c"writelines" ("list_of_data") writelines, c"Writes several bytes objects, without waiting."),
        method!(noargs c"write_eof" write_eof, c"Ends the writing half once everything is sent."),
        method!(noargs c"can_write_eof" can_write_eof, c"True."),
        method!(noargs c"get_write_buffer_size" get_write_buffer_size, c"How many bytes wait to be sent."),
        method!(noargs c"get_write_buffer_limits" get_write_buffer_limits, c"The low and the high water mark, in bytes."),
        method!(fast c"set_write_buffer_limits(high=None, low=None)" set_write_buffer_limits, c"Sets the high and the low water mark, in bytes."),
        method!(noargs c"_make_empty_waiter" make_empty_waiter, c"A future that is done when everything is sent."),
        method!(noargs c"_reset_empty_waiter" reset_empty_waiter, c"Allows writing again."),
        method!(noargs c"_maybe_pause_protocol" maybe_pause_method, c"Pauses writing if too much waits."),
        method!(noargs c"_maybe_resume_protocol" maybe_resume_method, c"Resumes writing if little waits."),
        method!(noargs c"_write_ready" write_ready_method, c"The socket can be written."),
    ]
}
